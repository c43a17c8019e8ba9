//! Steps over a page's typed arrays.

use gradstep::json::Writer;
use gradstep::{Cpu, CpuOptimizer, checkpoint};
use js_sys::{Array, Float32Array};
use wasm_bindgen::prelude::*;

use crate::config::Config;
use crate::{Result, error, to_file};

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
        let tensors = || optimizer.groups().tensors();
        let memory = || tensors().map(|t| vec![0.0; t.len()]).collect();
        let (params, grads) = (memory(), memory());
        let names = tensors().map(|t| t.name.clone()).collect();
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
            param
                .map_or(JsValue::UNDEFINED, |p| Float32Array::from(p.to::<f32>().as_slice()).into())
        });
        Ok(params.collect())
    }
}
