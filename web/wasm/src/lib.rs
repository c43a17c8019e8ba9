//! What the npm package runs in WASM: the planner for a page's own GPU device, saved state, and the
//! CPU path. The driver around it is `../index.js`; no formula stands there.
//!
//! What goes in and out is JSON and typed arrays, so that the interface is small: see `config` for
//! what an optimizer is made from.

mod config;

use std::fmt;

use gradstep::export::{Export, Limits};
use gradstep::json::Writer;
use gradstep::snapshot::{Snapshot, Values};
use gradstep::{Cpu, CpuOptimizer, checkpoint};
use js_sys::{Array, Float32Array};
use wasm_bindgen::prelude::*;

use config::Config;

/// The library's message as a JavaScript `Error`.
fn error(e: impl fmt::Display) -> JsError {
    JsError::new(&e.to_string())
}

type Result<T> = std::result::Result<T, JsError>;

fn to_file(snapshot: &Snapshot) -> Result<Vec<u8>> {
    checkpoint::to_bytes(snapshot).map_err(error)
}

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

/// An optimizer on the CPU, for typed arrays.
#[wasm_bindgen]
#[derive(Debug)]
pub struct Host {
    optimizer: CpuOptimizer<f32>,
    names: Vec<String>,
    /// A parameter and a gradient for each tensor, kept from step to step.
    params: Vec<Vec<f32>>,
    grads: Vec<Vec<f32>>,
    batches: Option<u32>,
    /// Micro-batches since the last step.
    pending: u32,
    /// Whether averages are where parameters were.
    swapped: bool,
}

#[wasm_bindgen]
impl Host {
    #[wasm_bindgen(constructor)]
    pub fn new(settings: &str) -> Result<Self> {
        let config = Config::parse(settings).map_err(error)?;
        let optimizer = config.setup.cpu::<f32>(&Cpu::default()).map_err(error)?;
        let lens = || config.tensors.iter().map(|t| t.1.iter().product::<usize>());
        let memory = || lens().map(|n| vec![0.0; n]).collect();
        let (params, grads) = (memory(), memory());
        let names = config.tensors.into_iter().map(|t| t.0).collect();
        Ok(Self {
            optimizer,
            names,
            params,
            grads,
            batches: config.batches,
            pending: 0,
            swapped: false,
        })
    }

    /// Whether a step follows the next micro-batch; always, where none are accumulated.
    pub fn is_last(&self) -> bool {
        self.batches.is_none_or(|n| self.pending + 1 >= n)
    }

    /// Adds a micro-batch to its sums: gradients as for `step`.
    fn micro(&mut self, grads: &Array) -> Result<()> {
        let given = grads.iter().enumerate().filter(|(_, g)| !g.is_undefined());
        let given = given.map(|(i, g)| (i, g.unchecked_into::<Float32Array>()));
        let (right, wrong): (Vec<_>, Vec<_>) =
            given.partition(|(i, g)| g.length() as usize == self.params[*i].len());
        // What is refused comes first, so that a micro-batch counts for all or none.
        for (i, grad) in wrong.into_iter().chain(right) {
            let added = self.optimizer.accumulate(&self.names[i], grad.to_vec().as_slice());
            added.map_err(error)?;
        }
        self.pending += 1;
        Ok(())
    }

    /// Micro-batches since the last step.
    pub fn pending(&self) -> u32 {
        self.pending
    }

    pub fn discard(&mut self) {
        self.optimizer.discard_micro();
        self.pending = 0;
    }

    /// Exchanges parameters and averages. `params` as for `step`.
    pub fn swap(&mut self, params: &Array) -> Result<()> {
        for (name, array) in self.names.iter().zip(params.iter()) {
            if array.is_undefined() {
                continue;
            }
            let array = array.unchecked_into::<Float32Array>();
            let mut values = array.to_vec();
            self.optimizer.swap_average(name, values.as_mut_slice()).map_err(error)?;
            array.copy_from(&values);
        }
        self.swapped = !self.swapped;
        Ok(())
    }

    /// One step over all tensors that are not frozen: `Float32Array`s by number, `undefined` for those
    /// that are. Parameters are overwritten. Returns what became of it, as JSON. Where micro-batches are
    /// accumulated it is one of them, with a step after the `last` one; nothing is returned without.
    pub fn step(&mut self, params: &Array, grads: &Array, last: bool) -> Result<Option<String>> {
        if self.swapped {
            return Err(error(
                "the averages are swapped in for the parameters; swap them back first",
            ));
        }
        let accumulates = self.batches.is_some();
        if accumulates {
            self.micro(grads)?;
            if !last {
                return Ok(None);
            }
        }
        let given = |list: &Array, i: usize| {
            let value = list.get(i as u32);
            (!value.is_undefined()).then(|| value.unchecked_into::<Float32Array>())
        };
        for (i, (w, g)) in self.params.iter_mut().zip(&mut self.grads).enumerate() {
            for (array, to) in [(given(params, i), &mut *w), (given(grads, i), &mut *g)] {
                let Some(array) = array else { continue };
                // The library says what is wrong with another length.
                to.resize(array.length() as usize, 0.0);
                array.copy_to(to);
            }
        }
        let mut step = self.optimizer.begin();
        for (i, (w, g)) in self.params.iter_mut().zip(&self.grads).enumerate() {
            if given(grads, i).is_some() {
                let name = &self.names[i];
                let lent = if accumulates { step.param(name, w) } else { step.tensor(name, w, g) };
                lent.map_err(error)?;
            }
        }
        let outcome = step.finish().map_err(error)?;
        self.pending = 0;
        for (i, w) in self.params.iter().enumerate() {
            if let Some(array) = given(params, i).filter(|_| given(grads, i).is_some()) {
                array.copy_from(w);
            }
        }
        let mut out = Writer::default();
        out.object();
        out.key("skipped").flag(outcome.skipped);
        out.key("gradNorm").number(outcome.grad_norm.unwrap_or(f64::NAN));
        out.key("clipFactor").number(outcome.clip_factor);
        out.key("lossScale").number(outcome.loss_scale);
        match outcome.not_finite {
            Some(id) => out.key("notFinite").text(&self.names[id.index()]),
            None => out.key("notFinite").null(),
        }
        out.end_object();
        Ok(Some(out.finish()))
    }

    pub fn steps(&self) -> f64 {
        self.optimizer.steps() as f64
    }

    pub fn hyper(&self, group: &str, name: &str) -> Result<f64> {
        self.optimizer.groups().hyper(group, name).map_err(error)
    }

    pub fn set_hyper(&mut self, group: &str, name: &str, value: f64) -> Result<()> {
        self.optimizer.groups_mut().set_hyper(group, name, value).map_err(error)
    }

    pub fn state_bytes(&self) -> f64 {
        self.optimizer.state_bytes() as f64
    }

    pub fn describe(&self) -> String {
        self.optimizer.groups().to_string()
    }

    /// The file of the state, with these parameters.
    pub fn save(&self, params: &Array) -> Result<Vec<u8>> {
        let mut snapshot = self.optimizer.snapshot().map_err(error)?;
        for (i, name) in self.names.iter().enumerate() {
            let value = params.get(i as u32);
            if !value.is_undefined() {
                let values = value.unchecked_into::<Float32Array>().to_vec();
                snapshot.set_param(name, values).map_err(error)?;
            }
        }
        to_file(&snapshot)
    }

    /// Goes back to a file's state. Returns the parameters by number, `undefined` where it has none.
    pub fn load(&mut self, file: &[u8]) -> Result<Array> {
        let snapshot = checkpoint::from_bytes(file).map_err(error)?;
        self.optimizer.restore(&snapshot).map_err(error)?;
        self.optimizer.groups_mut().apply_hypers(&snapshot).map_err(error)?;
        let params = self.names.iter().map(|name| {
            let param = snapshot.tensor(name).and_then(|t| t.param.as_ref());
            param.map_or(JsValue::UNDEFINED, |p| Float32Array::from(single(p).as_slice()).into())
        });
        Ok(params.collect())
    }
}

fn single(values: &Values) -> Vec<f32> {
    values.to::<f32>()
}

/// The optimizers that are known by name, with their settings and defaults, as JSON.
#[wasm_bindgen]
pub fn optimizers() -> String {
    let mut out = Writer::default();
    out.list();
    for entry in gradstep::reference::entries() {
        out.object();
        out.key("name").text(entry.name);
        match entry.variant {
            Some(variant) => out.key("variant").text(variant),
            None => out.key("variant").null(),
        }
        out.end_object();
    }
    out.end_list();
    out.finish()
}
