//! Stepping through a recording, on the CPU or the GPU.

use gradstep::reference::Reference;
use gradstep::snapshot::slot_shape;
use gradstep::{Cpu, Element, Optimizer};

use super::recording::{Recording, Tensor};
use super::{Choice, Result};

pub(crate) struct Job<'a> {
    pub(crate) recording: &'a Recording,
    pub(crate) choice: &'a Choice,
}

/// What became of a tensor.
#[derive(Debug)]
pub(crate) struct Replayed {
    /// After each step.
    pub(crate) trajectory: Vec<Vec<f64>>,
    /// At the end.
    pub(crate) state: Vec<Slot>,
    /// Steps with a gradient.
    pub(crate) updates: u64,
}

#[derive(Debug)]
pub(crate) struct Slot {
    pub(crate) name: &'static str,
    pub(crate) shape: Vec<usize>,
    pub(crate) values: Vec<f64>,
}

impl Job<'_> {
    /// Gives an optimizer the settings of step t.
    fn schedule(&self, optimizer: &mut Reference, t: usize) -> Result<()> {
        if self.recording.is_scheduled() {
            let made = self.choice.reference(self.recording, t);
            *optimizer = made.map_err(|e| format!("step {t}: {e}"))?;
        }
        Ok(())
    }

    /// The gradient of step t as the optimizer is to have it.
    fn grad<T: Precision>(&self, grad: &[f64], t: usize) -> Vec<T> {
        let sign = if self.choice.maximizes(self.recording, t) { -1.0 } else { 1.0 };
        grad.iter().map(|&x| T::of(sign * x)).collect()
    }
}

/// Names and shapes of a tensor's slots, with the values that `read` gives.
fn state(
    reference: &Reference,
    tensor: &Tensor,
    read: impl Fn(&str) -> gradstep::Result<Vec<f64>>,
) -> Result<Vec<Slot>> {
    let (dims, graph) = reference.layout().resolve(reference.recipe(), &tensor.shape)?;
    let slots = graph.slots.iter().map(|slot| {
        let shape = slot_shape(slot.shape, &tensor.shape, dims);
        Ok(Slot { name: slot.name, shape, values: read(slot.name)? })
    });
    slots.collect()
}

/// A type that the CPU computes in.
pub(crate) trait Precision: Element {
    fn of(x: f64) -> Self;
    fn wide(self) -> f64;
}

impl Precision for f32 {
    #[allow(clippy::cast_possible_truncation, reason = "rounded on purpose")]
    fn of(x: f64) -> Self {
        x as Self
    }
    fn wide(self) -> f64 {
        self.into()
    }
}

impl Precision for f64 {
    fn of(x: f64) -> Self {
        x
    }
    fn wide(self) -> f64 {
        self
    }
}

fn narrow<T: Precision>(x: &[f64]) -> Vec<T> {
    x.iter().map(|&x| T::of(x)).collect()
}

fn widen<T: Precision>(x: &[T]) -> Vec<f64> {
    x.iter().map(|&x| x.wide()).collect()
}

/// Each tensor by itself, with a step number of its own.
pub(crate) fn on_cpu<T: Precision>(job: &Job<'_>, cpu: &Cpu) -> Result<Vec<Replayed>> {
    let replay = |tensor: &Tensor| {
        let reference = job.choice.reference(job.recording, 0)?;
        let layout = reference.layout();
        let mut optimizer = cpu.prepare_with::<T, _>(reference, &tensor.shape, layout)?;
        let mut param = narrow::<T>(&tensor.param);
        let mut trajectory = Vec::with_capacity(job.recording.steps);
        for (t, grad) in tensor.grads.iter().enumerate() {
            if let Some(grad) = grad {
                job.schedule(optimizer.optimizer_mut(), t)?;
                optimizer
                    .step(&mut param, &job.grad::<T>(grad, t))
                    .map_err(|e| format!("step {t}: {e}"))?;
            }
            trajectory.push(widen(&param));
        }
        let read = |slot: &str| Ok(widen(&optimizer.slot(slot)?));
        let state = state(optimizer.optimizer(), tensor, read)?;
        Ok(Replayed { trajectory, state, updates: optimizer.steps() })
    };
    job.recording.tensors.iter().map(replay).collect()
}

/// Tensors together that have gradients in the same steps: an arena has one step number.
#[cfg(feature = "gpu")]
pub(crate) fn on_gpu(job: &Job<'_>) -> Result<Vec<Replayed>> {
    use gradstep::gpu::Gpu;
    use pollster::block_on as wait;
    use std::collections::BTreeMap;

    let gpu = wait(Gpu::open())?;
    let tensors = &job.recording.tensors;
    let mut alike: BTreeMap<Vec<bool>, Vec<usize>> = BTreeMap::new();
    for (i, tensor) in tensors.iter().enumerate() {
        let steps = tensor.grads.iter().map(Option::is_some).collect();
        alike.entry(steps).or_default().push(i);
    }
    let mut replayed: Vec<Option<Replayed>> = Vec::new();
    replayed.resize_with(tensors.len(), || None);
    for (steps, members) in alike {
        let reference = job.choice.reference(job.recording, 0)?;
        let layout = reference.layout();
        let shapes: Vec<_> = members.iter().map(|&i| (&tensors[i].shape, layout)).collect();
        let mut arena = wait(gpu.arena_with(reference, &shapes))?;
        for (k, &i) in members.iter().enumerate() {
            arena.write_param(k, &narrow::<f32>(&tensors[i].param))?;
        }
        let mut trajectories = vec![Vec::new(); members.len()];
        for (t, &has_grads) in steps.iter().enumerate() {
            if has_grads {
                job.schedule(arena.optimizer_mut(), t)?;
                for (k, &i) in members.iter().enumerate() {
                    if let Some(grad) = &tensors[i].grads[t] {
                        arena.write_grad(k, &job.grad::<f32>(grad, t))?;
                    }
                }
                let mut encoder = gpu.device().create_command_encoder(&Default::default());
                arena.encode(&mut encoder).map_err(|e| format!("step {t}: {e}"))?;
                gpu.queue().submit([encoder.finish()]);
            }
            for (k, trajectory) in trajectories.iter_mut().enumerate() {
                trajectory.push(widen(&wait(arena.read_param(k))?));
            }
        }
        for ((k, &i), trajectory) in members.iter().enumerate().zip(trajectories) {
            let read = |slot: &str| Ok(widen(&wait(arena.read_slot(k, slot))?));
            let state = state(arena.optimizer(), &tensors[i], read)?;
            replayed[i] = Some(Replayed { trajectory, state, updates: arena.steps() });
        }
    }
    // Every tensor is in one of the arenas.
    Ok(replayed.into_iter().flatten().collect())
}

#[cfg(not(feature = "gpu"))]
pub(crate) fn on_gpu(_: &Job<'_>) -> Result<Vec<Replayed>> {
    Err("--backend gpu needs the feature gpu".into())
}
