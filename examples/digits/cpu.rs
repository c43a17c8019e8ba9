//! Optimizer steps on the CPU, in the memory of the model.

use std::time::{Duration, Instant};

use gradstep::{Cpu, CpuStep, Optimizer, Result};

use crate::Backend;
use crate::model::Mlp;

/// An optimizer with its state, once for each tensor.
pub(crate) struct OnCpu<O> {
    steps: Vec<CpuStep<f32, O>>,
}

impl<O: Optimizer + Clone> OnCpu<O> {
    pub(crate) fn new(optimizer: &O, model: &Mlp) -> Result<Self> {
        let cpu = Cpu::default();
        let prepare = |shape| cpu.prepare(optimizer.clone(), shape);
        Ok(Self { steps: model.shapes().into_iter().map(prepare).collect::<Result<_>>()? })
    }
}

impl<O: Optimizer> Backend for OnCpu<O> {
    fn step(&mut self, model: &mut Mlp, grads: &Mlp) -> Result<Duration> {
        let start = Instant::now();
        for ((step, param), grad) in
            self.steps.iter_mut().zip(model.tensors_mut()).zip(grads.tensors())
        {
            step.step(param, grad)?;
        }
        Ok(start.elapsed())
    }

    fn state_bytes(&self) -> usize {
        self.steps.iter().map(CpuStep::state_bytes).sum()
    }
}
