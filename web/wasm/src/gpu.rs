//! The plan that the driver carries out on a page's own device.

use gradstep::checkpoint;
use gradstep::export::{Export, Limits};
use js_sys::{Array, Float32Array};
use wasm_bindgen::prelude::*;

use crate::config::Config;
use crate::{Result, error, to_file};

/// An optimizer on the page's own GPU device.
#[wasm_bindgen]
#[derive(Debug)]
pub struct Plan {
    export: Export,
    batches: Option<u32>,
}

#[wasm_bindgen]
impl Plan {
    /// From the settings, and the limits of the device in the order in which `Limits` has them.
    #[wasm_bindgen(constructor)]
    pub fn new(
        settings: &str,
        binding: f64,
        buffers: u32,
        groups: u32,
        align: u32,
    ) -> Result<Self> {
        let config = Config::parse(settings).map_err(error)?;
        let limits = Limits {
            max_storage_buffer_binding_size: binding as u64,
            max_storage_buffers_per_shader_stage: buffers,
            max_compute_workgroups_per_dimension: groups,
            min_storage_buffer_offset_alignment: align,
        };
        let export = config.setup.export(limits).map_err(error)?;
        Ok(Self { export, batches: config.batches })
    }

    /// The plan as JSON, without the expressions of its constants: see `begin`.
    pub fn json(&self) -> String {
        self.export.text()
    }

    /// Whether a step follows the next micro-batch; always, where none are accumulated.
    pub fn is_last(&self) -> bool {
        self.batches.is_none_or(|n| self.export.pending() + 1 >= n)
    }

    /// Counts a step, or a micro-batch and after the `last` one a step, and returns their constants.
    pub fn begin(&mut self, last: bool) -> Result<Vec<f32>> {
        let words = match self.batches {
            Some(_) => self.export.begin_micro(last),
            None => self.export.begin_step(),
        };
        Ok(words.map_err(error)?.to_vec())
    }

    /// Whether averages follow the step that was begun last.
    pub fn follows(&self) -> bool {
        self.export.follows()
    }

    /// Counts an exchange of parameters and averages, and returns its constants.
    pub fn begin_swap(&mut self) -> Result<Vec<f32>> {
        Ok(self.export.begin_swap().map_err(error)?.to_vec())
    }

    /// Micro-batches since the last step.
    pub fn pending(&self) -> u32 {
        self.export.pending()
    }

    pub fn discard(&mut self) {
        self.export.discard_micro();
    }

    pub fn steps(&self) -> f64 {
        self.export.steps() as f64
    }

    pub fn hyper(&self, group: &str, name: &str) -> Result<f64> {
        self.export.groups().hyper(group, name).map_err(error)
    }

    pub fn set_hyper(&mut self, group: &str, name: &str, value: f64) -> Result<()> {
        self.export.groups_mut().set_hyper(group, name, value).map_err(error)
    }

    pub fn state_bytes(&self) -> f64 {
        self.export.state_bytes() as f64
    }

    /// Which tensor is in which group, and why.
    pub fn describe(&self) -> String {
        self.export.groups().to_string()
    }

    /// The buffers that `save` wants to see.
    pub fn state_buffers(&self) -> Vec<u32> {
        self.export.state_buffers().map(|b| b as u32).collect()
    }

    /// The file of the state. `buffers` has a `Float32Array` for each of `state_buffers`, by number.
    pub fn save(&self, buffers: &Array) -> Result<Vec<u8>> {
        let snapshot = self.export.snapshot(|buffer, range| {
            let all: Float32Array = buffers.get(buffer as u32).unchecked_into();
            all.subarray(range.start as u32, range.end as u32).to_vec()
        });
        to_file(&snapshot.map_err(error)?)
    }

    /// Goes back to a file's state. Returns what is to be written: buffer, first element, values, and
    /// again.
    pub fn load(&mut self, file: &[u8]) -> Result<Array> {
        let snapshot = checkpoint::from_bytes(file).map_err(error)?;
        let writes = Array::new();
        let push = |buffer: usize, at: usize, values: &[f32]| {
            writes.push(&JsValue::from(buffer as u32));
            writes.push(&JsValue::from(at as f64));
            writes.push(&Float32Array::from(values));
        };
        self.export.restore(&snapshot, push).map_err(error)?;
        self.export.groups_mut().apply_hypers(&snapshot).map_err(error)?;
        Ok(writes)
    }
}
