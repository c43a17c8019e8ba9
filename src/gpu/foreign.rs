//! Tensors in the caller's own buffers.

use super::device::{Gpu, lost};
use super::engine::{Bound, Call, Engine, Group};
use crate::definition::Optimizer;
use crate::error::{Error, Result};
use crate::layout::{Dims, Layout};

/// Sets of bindings kept per tensor: callers that take turns between a few buffers make none anew.
const KEPT: usize = 4;

/// State of tensors whose parameters and gradients lie in the caller's own buffers.
///
/// Each step names a range for every parameter and gradient. Ranges may begin at any multiple of
/// four bytes; parameter and gradient of a tensor may lie in one buffer.
#[derive(Debug)]
pub struct Foreign<O> {
    engine: Engine<O>,
    tensors: Vec<Tensor>,
    /// For each tensor the bindings of the step at hand, kept to allocate once.
    chosen: Vec<usize>,
}

#[derive(Debug)]
struct Tensor {
    dims: Dims,
    class: usize,
    group: Option<Group>,
    calls: Vec<Call>,
    bindings: Vec<Bindings>,
}

#[derive(Debug)]
struct Bindings {
    key: Key,
    chunks: Vec<wgpu::BindGroup>,
    pooled: bool,
}

#[derive(Clone, Debug, PartialEq)]
struct Key {
    param: (wgpu::Buffer, u64),
    grad: (wgpu::Buffer, u64),
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
        // A range that begins between two places that can be bound takes a little more.
        let capacity = self.capacity() - self.alignment() / 4;
        let mut engine = Engine::new(self, optimizer)?;
        let mut tensors = Vec::new();
        for (shape, layout) in shapes {
            let (class, dims) = engine.class(shape.as_ref(), *layout, true, capacity).await?;
            tensors.push(Tensor { dims, class, group: None, calls: vec![], bindings: vec![] });
        }
        engine.make_ring().await?;
        for tensor in &mut tensors {
            if !tensor.dims.is_empty() {
                let group = Group::new(&engine, tensor.class, &[tensor.dims], capacity).await?;
                tensor.calls = group.calls(&engine);
                tensor.group = Some(group);
            }
        }
        let chosen = Vec::with_capacity(tensors.len());
        Ok(Foreign { engine, tensors, chosen })
    }

    fn alignment(&self) -> usize {
        self.device().limits().min_storage_buffer_offset_alignment as usize
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
            let chosen = self.bindings(i, param, grad)?;
            self.chosen.push(chosen);
        }
        let ticket = self.engine.begin()?;
        {
            let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor {
                label: Some("gradstep"),
                timestamp_writes: None,
            });
            for (tensor, &chosen) in self.tensors.iter().zip(&self.chosen) {
                let Some(bindings) = tensor.bindings.get(chosen) else {
                    continue;
                };
                let class = &self.engine.classes[tensor.class];
                let pipelines = match &class.pooled {
                    Some(pooled) if bindings.pooled => pooled,
                    _ => &class.separate,
                };
                let offset = self.engine.dynamic_offset(tensor.class, &ticket);
                for call in &tensor.calls {
                    pass.set_pipeline(&pipelines.pipelines[call.pipeline]);
                    pass.set_bind_group(0, &bindings.chunks[call.chunk], &[offset]);
                    pass.dispatch_workgroups(call.groups.0, call.groups.1, 1);
                }
            }
        }
        self.engine.end(encoder, ticket);
        Ok(())
    }

    /// Checks two ranges and finds or makes their bindings.
    fn bindings(
        &mut self,
        index: usize,
        param: wgpu::BufferSlice<'_>,
        grad: wgpu::BufferSlice<'_>,
    ) -> Result<usize> {
        let len = self.tensors[index].dims.len();
        for (what, slice) in [("parameter", &param), ("gradient", &grad)] {
            let fail = |problem: String, remedy| {
                Err(Error::Buffer { what, tensor: index, problem, remedy })
            };
            let needed = len as u64 * 4;
            if slice.size() != needed {
                return fail(
                    format!("the range has {} bytes and the tensor {needed}", slice.size()),
                    "pass the range of exactly this tensor",
                );
            }
            if !slice.offset().is_multiple_of(4) {
                return fail(
                    format!("the range begins at byte {}", slice.offset()),
                    "begin at a multiple of 4",
                );
            }
            if !slice.buffer().usage().contains(wgpu::BufferUsages::STORAGE) {
                return fail(
                    format!("its usage is {:?}", slice.buffer().usage()),
                    "create it with BufferUsages::STORAGE",
                );
            }
        }
        let one = param.buffer() == grad.buffer();
        let (p, g, bytes) = (param.offset(), grad.offset(), len as u64 * 4);
        if one && p < g + bytes && g < p + bytes && len > 0 {
            return Err(Error::Buffer {
                what: "gradient",
                tensor: index,
                problem: format!(
                    "it begins at byte {g} of the buffer whose bytes {p} to {} are the parameter",
                    p + bytes
                ),
                remedy: "keep parameter and gradient apart",
            });
        }
        let key = Key { param: (param.buffer().clone(), p), grad: (grad.buffer().clone(), g) };
        if let Some(known) = self.tensors[index].bindings.iter().position(|b| b.key == key) {
            return Ok(known);
        }
        let chunks = self.bind(index, param, grad, one)?;
        let bindings = &mut self.tensors[index].bindings;
        if bindings.len() >= KEPT {
            bindings.remove(0);
        }
        bindings.push(Bindings { key, chunks, pooled: one });
        Ok(bindings.len() - 1)
    }

    fn bind(
        &self,
        index: usize,
        param: wgpu::BufferSlice<'_>,
        grad: wgpu::BufferSlice<'_>,
        one: bool,
    ) -> Result<Vec<wgpu::BindGroup>> {
        let Some(group) = &self.tensors[index].group else {
            return Ok(Vec::new());
        };
        let gpu = &self.engine.gpu;
        let limit = gpu.device().limits().max_storage_buffer_binding_size;
        let align = gpu.alignment() as u64;
        let mut binds = Vec::new();
        // A group of one tensor: each chunk holds one piece of it.
        for piece in &group.layouts.pieces[0] {
            let (first, bytes) = (piece.elements.start as u64 * 4, piece.elements.len() as u64 * 4);
            let window = |from: u64, upto: u64| {
                let offset = from / align * align;
                (offset, upto - offset)
            };
            let (p, g) = (param.offset() + first, grad.offset() + first);
            let word = |from: u64, offset: u64| u32::try_from((from - offset) / 4).unwrap_or(0);
            let made = if one {
                let (offset, size) = window(p.min(g), p.max(g) + bytes);
                if size > limit {
                    return Err(Error::GpuLimit {
                        what: format!(
                            "tensor {index}, whose parameter and gradient lie in one buffer that far apart,"
                        ),
                        needed: size,
                        limit: "maxStorageBufferBindingSize",
                        available: limit,
                        remedy: "bring them closer together or keep them in two buffers",
                    });
                }
                let both = Bound { buffer: param.buffer(), offset, size };
                gpu.checked_now(|device| {
                    let bases = (word(p, offset), word(g, offset));
                    group.bind(device, &self.engine, piece.chunk, (&both, bases.0), (None, bases.1))
                })
            } else {
                let (po, ps) = window(p, p + bytes);
                let (go, gs) = window(g, g + bytes);
                let a = Bound { buffer: param.buffer(), offset: po, size: ps };
                let b = Bound { buffer: grad.buffer(), offset: go, size: gs };
                gpu.checked_now(|device| {
                    let (param, grad) = ((&a, word(p, po)), (Some(&b), word(g, go)));
                    group.bind(device, &self.engine, piece.chunk, param, grad)
                })
            };
            match made {
                Ok(Some(bind)) => binds.push(bind),
                Ok(None) => return Err(lost("it made a buffer that cannot be mapped")),
                Err(problem) => {
                    return Err(Error::Buffer {
                        what: "parameter or gradient",
                        tensor: index,
                        problem,
                        remedy: "pass live buffers of the device that the library was given",
                    });
                }
            }
        }
        Ok(binds)
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
            Some(group) => group.read_slot(&self.engine, 0, name).await,
            None => Ok(Vec::new()),
        }
    }

    /// Overwrites a slot of a tensor, in effect from the next submit on.
    ///
    /// # Errors
    /// [`Error::Count`], [`Error::NoSlot`], [`Error::Shape`] or [`Error::DeviceLost`].
    pub fn write_slot(&self, tensor: usize, name: &str, values: &[f32]) -> Result<()> {
        match self.group(tensor)? {
            Some(group) => group.write_slot(&self.engine, 0, name, values),
            None => Ok(()),
        }
    }

    fn group(&self, tensor: usize) -> Result<Option<&Group>> {
        let expected = self.tensors.len();
        let none = Error::Count { what: "tensors", expected, found: tensor.saturating_add(1) };
        Ok(self.tensors.get(tensor).ok_or(none)?.group.as_ref())
    }
}
