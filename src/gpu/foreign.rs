//! Tensors in the caller's own buffers.

use super::device::{Gpu, lost};
use super::engine::{Engine, Group, begin};
use super::ranges::{Lent, Pair, Who};
use crate::blueprint::Owner;
use crate::definition::Optimizer;
use crate::error::{Error, Result};
use crate::layout::Layout;
use crate::wgsl::Given;

/// State of tensors whose parameters and gradients lie in the caller's own buffers.
///
/// Each step names a range for every parameter and gradient. Ranges may begin at any multiple of
/// four bytes, and are read faster where they begin at multiples of 16; parameter and gradient of a tensor
/// may lie in one buffer.
#[derive(Debug)]
pub struct Foreign<O> {
    engine: Engine<O>,
    tensors: Vec<Lent>,
    /// For each tensor the bindings of the step at hand, kept to allocate once.
    chosen: Vec<usize>,
}

impl Gpu {
    /// Prepares an optimizer for tensors of the given shapes in the caller's buffers, with
    /// [`Layout::Auto`].
    ///
    /// # Errors
    /// Any of [`Error`] but those of a step.
    pub async fn foreign<O: Optimizer>(
        &self,
        optimizer: O,
        shapes: &[impl AsRef<[usize]>],
    ) -> Result<Foreign<O>> {
        let shapes: Vec<_> = shapes.iter().map(|s| (s.as_ref(), Layout::Auto)).collect();
        self.foreign_with(optimizer, &shapes).await
    }

    /// Prepares an optimizer for tensors of the given shapes and layouts in the caller's buffers.
    ///
    /// # Errors
    /// As for [`foreign`](Self::foreign).
    pub async fn foreign_with<O: Optimizer>(
        &self,
        optimizer: O,
        shapes: &[(impl AsRef<[usize]>, Layout)],
    ) -> Result<Foreign<O>> {
        let capacity = self.range_capacity();
        let mut engine = Engine::new(self, optimizer, Owner::Other)?;
        let mut classes = Vec::new();
        for (shape, layout) in shapes {
            classes.push(engine.class(shape.as_ref(), *layout, Given::Pooled, capacity).await?);
        }
        engine.make_ring().await?;
        let mut tensors = Vec::new();
        for (class, dims) in classes {
            tensors.push(Lent::new(&engine.core, class, dims, capacity).await?);
        }
        let chosen = Vec::with_capacity(tensors.len());
        Ok(Foreign { engine, tensors, chosen })
    }
}

impl<O: Optimizer> Foreign<O> {
    /// Records one step of all tensors: `(parameter, gradient)` for each, in the order of their
    /// registration.
    ///
    /// Ranges that were seen lately are bound already; a new one costs a bind group.
    ///
    /// # Errors
    /// [`Error::Count`], [`Error::Buffer`] for a range that cannot be used, and those of
    /// [`Arena::encode`](super::Arena::encode); nothing is recorded then.
    pub fn encode(
        &mut self,
        encoder: &mut wgpu::CommandEncoder,
        tensors: &[(wgpu::BufferSlice<'_>, wgpu::BufferSlice<'_>)],
    ) -> Result<()> {
        if tensors.len() != self.tensors.len() {
            return Err(Error::Count {
                what: "pairs of parameter and gradient",
                expected: self.tensors.len(),
                found: tensors.len(),
            });
        }
        self.chosen.clear();
        for (i, &(param, grad)) in tensors.iter().enumerate() {
            let (tensor, core) = (&mut self.tensors[i], &self.engine.core);
            let Some(ring) = self.engine.ring_buffer() else {
                return Err(lost("it has no ring of constants"));
            };
            let pair = Pair::new(Who::Number(i), tensor.dims.len(), param, grad)?;
            let chosen = tensor.find(Who::Number(i), core, ring, &pair, || Ok(Vec::new()))?;
            self.chosen.push(chosen);
        }
        let ticket = self.engine.begin()?;
        {
            let mut pass = begin(encoder);
            for (tensor, &chosen) in self.tensors.iter().zip(&self.chosen) {
                tensor.dispatch(&mut pass, &self.engine.core, chosen, &ticket);
            }
        }
        self.engine.end(encoder, ticket);
        Ok(())
    }

    /// The number of dispatches of a step.
    pub fn dispatches(&self) -> usize {
        self.tensors.iter().map(|t| t.calls.len()).sum()
    }

    /// The optimizer.
    pub fn optimizer(&self) -> &O {
        &self.engine.optimizer
    }

    /// The optimizer, to change hyper-parameters between steps. Nothing is compiled anew.
    pub fn optimizer_mut(&mut self) -> &mut O {
        &mut self.engine.optimizer
    }

    /// The number of steps recorded.
    pub fn steps(&self) -> u64 {
        self.engine.t
    }

    /// Sets the number of steps taken, after state was restored.
    pub fn set_steps(&mut self, t: u64) {
        self.engine.t = t;
    }

    /// Copies a slot of a tensor to the host. Submits a copy and waits for it.
    ///
    /// # Errors
    /// [`Error::Count`], [`Error::NoSlot`] or [`Error::DeviceLost`].
    pub async fn read_slot(&self, tensor: usize, name: &str) -> Result<Vec<f32>> {
        match self.group(tensor)? {
            Some(group) => group.read_slot(&self.engine.core, 0, name).await,
            None => Ok(Vec::new()),
        }
    }

    /// Overwrites a slot of a tensor, in effect from the next submit on.
    ///
    /// # Errors
    /// [`Error::Count`], [`Error::NoSlot`], [`Error::Shape`] or [`Error::DeviceLost`].
    pub fn write_slot(&self, tensor: usize, name: &str, values: &[f32]) -> Result<()> {
        match self.group(tensor)? {
            Some(group) => group.write_slot(&self.engine.core, 0, name, values),
            None => Ok(()),
        }
    }

    fn group(&self, tensor: usize) -> Result<Option<&Group>> {
        let expected = self.tensors.len();
        let none = Error::Count { what: "tensors", expected, found: tensor.saturating_add(1) };
        Ok(self.tensors.get(tensor).ok_or(none)?.group.as_ref())
    }
}
