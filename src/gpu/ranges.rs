//! Ranges of the caller's buffers: what is checked of them, and how they are bound.

use std::fmt;

use super::device::{Gpu, lost};
use super::engine::{Bound, Core, Group, Ready};
use crate::blueprint::{self, Call};
use crate::error::{Error, Result};
use crate::layout::Dims;

/// Sets of bindings kept of what is bound together: callers that take turns between a few buffers make none anew.
pub(crate) const KEPT: usize = 4;

impl Gpu {
    fn alignment(&self) -> u64 {
        self.device().limits().min_storage_buffer_offset_alignment.into()
    }

    /// The number of elements of a range anywhere in a buffer that fit one binding.
    pub(crate) fn range_capacity(&self) -> usize {
        blueprint::range_capacity(self.binding(), self.alignment())
    }
}

/// How an error names a tensor.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Who<'a> {
    Number(usize),
    Name(&'a str),
}

impl fmt::Display for Who<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Number(tensor) => write!(f, "tensor {tensor}"),
            Self::Name(name) => write!(f, "tensor `{name}`"),
        }
    }
}

impl Who<'_> {
    fn unusable(self, what: &'static str, problem: String, remedy: &'static str) -> Error {
        match self {
            Self::Number(tensor) => Error::Buffer { what, tensor, problem, remedy },
            Self::Name(name) => Error::Tensor {
                tensor: name.into(),
                problem: format!("has a {what} buffer that cannot be used: {problem}"),
                remedy,
            },
        }
    }

    /// Refuses a range that does not hold `len` elements of a buffer with these usages.
    pub(crate) fn check(
        self,
        what: &'static str,
        slice: &wgpu::BufferSlice<'_>,
        len: usize,
        (usages, remedy): (wgpu::BufferUsages, &'static str),
    ) -> Result<()> {
        let needed = len as u64 * 4;
        if slice.size() != needed {
            return Err(self.unusable(
                what,
                format!("the range has {} bytes and the tensor {needed}", slice.size()),
                "pass the range of exactly this tensor",
            ));
        }
        if !slice.offset().is_multiple_of(4) {
            return Err(self.unusable(
                what,
                format!("the range begins at byte {}", slice.offset()),
                "begin at a multiple of 4",
            ));
        }
        if !slice.buffer().usage().contains(usages) {
            let problem =
                format!("its usage is {:?}, and {usages:?} is needed", slice.buffer().usage());
            return Err(self.unusable(what, problem, remedy));
        }
        Ok(())
    }

    /// Binds ranges of the caller.
    pub(crate) fn bound(
        self,
        gpu: &Gpu,
        make: impl FnOnce(&wgpu::Device) -> Option<Ready>,
    ) -> Result<Ready> {
        match gpu.checked_now(make) {
            Ok(made) => made.ok_or_else(|| lost("it made a buffer that cannot be mapped")),
            Err(problem) => Err(self.unusable(
                "parameter or gradient",
                problem,
                "pass live buffers of the device that the library was given",
            )),
        }
    }
}

/// The usages of parameters and gradients.
const STORAGE: (wgpu::BufferUsages, &str) =
    (wgpu::BufferUsages::STORAGE, "create it with BufferUsages::STORAGE");

/// The parameter and the gradient of a tensor, checked.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pair<'a> {
    pub(crate) param: wgpu::BufferSlice<'a>,
    pub(crate) grad: wgpu::BufferSlice<'a>,
}

impl<'a> Pair<'a> {
    pub(crate) fn new(
        who: Who<'_>,
        len: usize,
        param: wgpu::BufferSlice<'a>,
        grad: wgpu::BufferSlice<'a>,
    ) -> Result<Self> {
        for (what, slice) in [("parameter", &param), ("gradient", &grad)] {
            who.check(what, slice, len, STORAGE)?;
        }
        let pair = Self { param, grad };
        let (p, g, bytes) = (param.offset(), grad.offset(), len as u64 * 4);
        if pair.in_one_buffer() && p < g + bytes && g < p + bytes && len > 0 {
            let problem = format!(
                "it begins at byte {g} of the buffer whose bytes {p} to {} are the parameter",
                p + bytes
            );
            return Err(who.unusable("gradient", problem, "keep parameter and gradient apart"));
        }
        Ok(pair)
    }

    fn in_one_buffer(&self) -> bool {
        self.param.buffer() == self.grad.buffer()
    }

    fn key(&self) -> Key {
        let of = |s: &wgpu::BufferSlice<'_>| (s.buffer().clone(), s.offset());
        Key { param: of(&self.param), grad: of(&self.grad) }
    }
}

/// What is bound of a buffer to reach a range of it, and the word at which the range begins there.
pub(crate) struct Window<'a> {
    pub(crate) bound: Bound<'a>,
    pub(crate) base: u32,
}

impl<'a> Window<'a> {
    /// Of some elements of a tensor.
    pub(crate) fn new(
        gpu: &Gpu,
        slice: wgpu::BufferSlice<'a>,
        elements: &std::ops::Range<usize>,
    ) -> Self {
        let from = slice.offset() + elements.start as u64 * 4;
        let upto = from + elements.len() as u64 * 4;
        let (offset, size, base) = blueprint::bound(from, upto, gpu.alignment());
        Self { bound: Bound { buffer: slice.buffer(), offset, size }, base }
    }
}

fn between<'a>(gpu: &Gpu, slice: wgpu::BufferSlice<'a>, from: u64, upto: u64) -> Bound<'a> {
    let (offset, size, _) = blueprint::bound(from, upto, gpu.alignment());
    Bound { buffer: slice.buffer(), offset, size }
}

fn word(at: u64, bound: &Bound<'_>) -> u32 {
    u32::try_from((at - bound.offset) / 4).unwrap_or(0)
}

/// A tensor whose parameter and gradient are the caller's: its state, and what is bound lately.
#[derive(Debug)]
pub(crate) struct Lent {
    pub(crate) dims: Dims,
    /// None without elements.
    pub(crate) group: Option<Group>,
    pub(crate) calls: Vec<Call>,
    pub(crate) bindings: Vec<Bindings>,
}

#[derive(Debug)]
pub(crate) struct Bindings {
    key: Key,
    chunks: Vec<Ready>,
    /// What a set of tensors binds besides: each piece of the parameter to follow it.
    pub(crate) follows: Vec<Ready>,
}

impl Bindings {
    /// The buffer of the gradient, and the byte at which it begins there.
    pub(crate) fn grad(&self) -> (&wgpu::Buffer, u64) {
        (&self.key.grad.0, self.key.grad.1)
    }
}

#[derive(Clone, Debug, PartialEq)]
struct Key {
    param: (wgpu::Buffer, u64),
    grad: (wgpu::Buffer, u64),
}

impl Lent {
    pub(crate) async fn new(
        core: &Core,
        class: usize,
        dims: Dims,
        capacity: usize,
    ) -> Result<Self> {
        let mut this = Self { dims, group: None, calls: Vec::new(), bindings: Vec::new() };
        if !dims.is_empty() {
            let group = Group::new(core, class, &[dims], capacity).await?;
            this.calls = group.calls(core);
            this.group = Some(group);
        }
        Ok(this)
    }

    /// Finds or makes the bindings of a pair.
    pub(crate) fn find(
        &mut self,
        who: Who<'_>,
        core: &Core,
        ring: &wgpu::Buffer,
        pair: &Pair<'_>,
        follows: impl FnOnce() -> Result<Vec<Ready>>,
    ) -> Result<usize> {
        let key = pair.key();
        if let Some(known) = self.bindings.iter().position(|b| b.key == key) {
            return Ok(known);
        }
        let chunks = self.bind(who, core, ring, pair)?;
        let follows = follows()?;
        if self.bindings.len() >= KEPT {
            self.bindings.remove(0);
        }
        self.bindings.push(Bindings { key, chunks, follows });
        Ok(self.bindings.len() - 1)
    }

    fn bind(
        &self,
        who: Who<'_>,
        core: &Core,
        ring: &wgpu::Buffer,
        pair: &Pair<'_>,
    ) -> Result<Vec<Ready>> {
        let Some(group) = &self.group else {
            return Ok(Vec::new());
        };
        let gpu = &core.gpu;
        let limit = gpu.device().limits().max_storage_buffer_binding_size;
        let mut binds = Vec::new();
        // A group of one tensor: each chunk holds one piece of it.
        for piece in &group.layouts.pieces[0] {
            let (first, bytes) = (piece.elements.start as u64 * 4, piece.elements.len() as u64 * 4);
            if !pair.in_one_buffer() {
                let param = Window::new(gpu, pair.param, &piece.elements);
                let grad = Window::new(gpu, pair.grad, &piece.elements);
                binds.push(who.bound(gpu, |device| {
                    let (p, g) = ((&param.bound, param.base), (Some(&grad.bound), grad.base));
                    group.bind(device, core, ring, piece.chunk, p, g)
                })?);
                continue;
            }
            let (p, g) = (pair.param.offset() + first, pair.grad.offset() + first);
            let both = between(gpu, pair.param, p.min(g), p.max(g) + bytes);
            if both.size > limit {
                return Err(Error::GpuLimit {
                    what: format!(
                        "{who}, whose parameter and gradient lie in one buffer that far apart,"
                    ),
                    needed: both.size,
                    limit: "maxStorageBufferBindingSize",
                    available: limit,
                    remedy: "bring them closer together or keep them in two buffers",
                });
            }
            binds.push(who.bound(gpu, |device| {
                let (p, g) = ((&both, word(p, &both)), (None, word(g, &both)));
                group.bind(device, core, ring, piece.chunk, p, g)
            })?);
        }
        Ok(binds)
    }

    /// Records the step with these bindings.
    pub(crate) fn dispatch(
        &self,
        pass: &mut wgpu::ComputePass<'_>,
        core: &Core,
        chosen: usize,
        ticket: &super::engine::Ticket,
    ) {
        if let (Some(group), Some(bindings)) = (&self.group, self.bindings.get(chosen)) {
            core.dispatch(pass, group, &self.calls, &bindings.chunks, ticket);
        }
    }
}
