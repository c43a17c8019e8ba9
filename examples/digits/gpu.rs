//! Optimizer steps on the GPU.
//!
//! The model stays on the CPU here, so gradients go up and parameters come back at every step. A
//! program that computes its gradients on the GPU does without either.

use std::time::{Duration, Instant};

use gradstep::gpu::{Arena, wgpu};
use gradstep::{Error, Optimizer, Result};
use pollster::block_on;

use crate::Backend;
use crate::model::Mlp;

pub(crate) use gradstep::gpu::Gpu;

/// The GPU, if there is one. Says which, or how to get one.
pub(crate) fn open() -> Result<Option<Gpu>> {
    match block_on(Gpu::open()) {
        Ok(gpu) => {
            println!("GPU: {}", gpu.name());
            Ok(Some(gpu))
        }
        Err(error @ Error::NoAdapter { .. }) => {
            println!("CPU only: {error}");
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

/// An optimizer with parameters, gradients and state of all tensors.
pub(crate) struct OnGpu<O> {
    gpu: Gpu,
    arena: Arena<O>,
}

impl<O: Optimizer + Clone> OnGpu<O> {
    pub(crate) fn new(gpu: &Gpu, optimizer: &O, model: &Mlp) -> Result<Self> {
        let arena = block_on(gpu.arena(optimizer.clone(), &model.shapes()))?;
        for (i, param) in model.tensors().enumerate() {
            arena.write_param(i, param.as_slice().expect("weights lie row by row"))?;
        }
        Ok(Self { gpu: gpu.clone(), arena })
    }

    /// Waits until the GPU has done all that was submitted.
    fn wait(&self) -> Result<()> {
        let lost = |error: wgpu::PollError| Error::DeviceLost { reason: error.to_string() };
        self.gpu.device().poll(wgpu::PollType::wait_indefinitely()).map_err(lost)?;
        Ok(())
    }
}

impl<O: Optimizer + Clone> Backend for OnGpu<O> {
    fn step(&mut self, model: &mut Mlp, grads: &Mlp) -> Result<Duration> {
        for (i, grad) in grads.tensors().enumerate() {
            self.arena.write_grad(i, grad.as_slice().expect("gradients lie row by row"))?;
        }
        // The writes are done with an (empty) submission of their own, so that the time is the step's.
        self.gpu.queue().submit([]);
        self.wait()?;

        let start = Instant::now();
        let mut encoder = self.gpu.device().create_command_encoder(&Default::default());
        self.arena.encode(&mut encoder)?;
        self.gpu.queue().submit([encoder.finish()]);
        self.wait()?;
        let time = start.elapsed();

        for (i, mut param) in model.tensors_mut().enumerate() {
            let values = block_on(self.arena.read_param(i))?;
            param.as_slice_mut().expect("weights lie row by row").copy_from_slice(&values);
        }
        Ok(time)
    }

    fn state_bytes(&self) -> usize {
        self.arena.state_bytes()
    }
}
