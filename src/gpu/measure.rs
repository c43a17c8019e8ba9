//! How gradients in the caller's own buffers are measured: each where it lies, or all of them copied
//! into a few pages first.

use std::ops::Range;

use super::device::{Gpu, lost};
use super::engine::{Core, Ticket, begin, floats};
use super::flat::{Flat, whole};
use super::ranges::{Bindings, Who, Window};
use crate::blueprint::{AsOne, Call};
use crate::error::Result;
use crate::wgsl::Dispatch;

/// The gradients of a set as one vector, and how it is cut. What depends on memory follows in
/// [`measure`](Self::measure).
#[derive(Debug)]
pub(crate) struct Cuts {
    way: Way,
    /// The number of elements of each chunk.
    lens: Vec<usize>,
    /// For each tensor its chunks where gradients stay in place, its elements of the vector where
    /// they are gathered. Nothing for one that is frozen.
    stretches: Vec<Range<usize>>,
}

#[derive(Debug)]
enum Way {
    /// The tensor of each chunk, and which of its pieces that is.
    InPlace(Vec<(usize, usize)>),
    /// The number of elements of a page.
    Gathered(usize),
}

/// How the guard reaches gradients that lie anywhere.
#[derive(Debug)]
pub(crate) struct Measure {
    way: Way,
    stretches: Vec<Range<usize>>,
    /// The pages into which gradients are gathered. In place there is one that is bound where
    /// definitions that change something have the parameter.
    buffers: Vec<wgpu::Buffer>,
}

/// The usages of gradients that are gathered.
const COPIED: (wgpu::BufferUsages, &str) = (
    wgpu::BufferUsages::STORAGE.union(wgpu::BufferUsages::COPY_SRC),
    "create it with BufferUsages::STORAGE and COPY_SRC, or leave `Setup::gather_gradients` out",
);

impl Cuts {
    /// Of tensors of these lengths, each bound where it lies.
    pub(crate) fn in_place(gpu: &Gpu, tensors: impl Iterator<Item = usize>) -> Self {
        let AsOne { lens, owners, chunks } = AsOne::new(tensors.map(Some), gpu.range_capacity());
        Self { way: Way::InPlace(owners), lens, stretches: chunks }
    }

    /// Of tensors of these lengths, copied one behind the other into pages.
    pub(crate) fn gathered(gpu: &Gpu, tensors: impl Iterator<Item = usize>) -> Self {
        let capacity = gpu.capacity();
        let mut total = 0;
        let mut stretch = |len| {
            let first = total;
            total += len;
            first..total
        };
        let stretches = tensors.map(&mut stretch).collect();
        let lens = (0..total).step_by(capacity).map(|at| capacity.min(total - at)).collect();
        Self { way: Way::Gathered(capacity), lens, stretches }.with_a_chunk()
    }

    /// What decides on a step is bound along with a chunk, also where there are no elements.
    fn with_a_chunk(mut self) -> Self {
        if self.lens.is_empty() {
            self.lens.push(0);
        }
        self
    }

    /// The number of elements.
    pub(crate) fn total(&self) -> usize {
        self.lens.iter().sum()
    }

    /// Makes the buffers, and the definition `core` that measures.
    pub(crate) async fn measure(self, core: Core, ring: &wgpu::Buffer) -> Result<(Measure, Flat)> {
        let Self { way, lens, stretches } = self;
        let made = core.gpu.checked("the guard", |device| match way {
            Way::InPlace(_) => Some(vec![floats(device, "gradstep none", 4, 0.0)?]),
            Way::Gathered(_) => {
                lens.iter().map(|&len| floats(device, "gradstep gathered", len, 0.0)).collect()
            }
        });
        let buffers = made.await?.ok_or_else(|| lost("it made buffers that cannot be mapped"))?;
        let flat = match way {
            Way::InPlace(_) => Flat::anywhere(core, ring, &buffers[0], &lens).await?,
            Way::Gathered(_) => Flat::new(core, ring, None, &buffers, &lens).await?,
        };
        Ok((Measure { way, stretches, buffers }, flat))
    }
}

impl Measure {
    /// Bytes of the copies of gradients.
    pub(crate) fn copied_bytes(&self) -> usize {
        match self.way {
            Way::InPlace(_) => 0,
            Way::Gathered(_) => 4 * self.stretches.last().map_or(0, |s| s.end),
        }
    }

    /// Refuses a gradient that cannot be measured, beyond what every one is refused for.
    pub(crate) fn check(
        &self,
        who: Who<'_>,
        grad: &wgpu::BufferSlice<'_>,
        len: usize,
    ) -> Result<()> {
        match self.way {
            Way::InPlace(_) => Ok(()),
            Way::Gathered(_) => who.check("gradient", grad, len, COPIED),
        }
    }

    /// Binds the gradient of a tensor in place.
    pub(crate) fn bind(
        &self,
        who: Who<'_>,
        flat: &Flat,
        ring: &wgpu::Buffer,
        tensor: usize,
        grad: wgpu::BufferSlice<'_>,
    ) -> Result<Vec<wgpu::BindGroup>> {
        let (Way::InPlace(_), Some(none)) = (&self.way, self.buffers.first()) else {
            return Ok(Vec::new());
        };
        let (gpu, none) = (&flat.core.gpu, whole(none));
        let pieces = &flat.group.layouts.pieces[0][self.stretches[tensor].clone()];
        let first = pieces.first().map_or(0, |p| p.elements.start);
        let bind = |piece: &crate::cut::Piece| {
            let elements = piece.elements.start - first..piece.elements.end - first;
            let input = Window::new(gpu, grad, &elements);
            who.bound(gpu, |device| {
                let input = (Some(&input.bound), input.base);
                flat.group.bind(device, &flat.core, ring, piece.chunk, (&none, 0), input)
            })
        };
        pieces.iter().map(bind).collect()
    }

    /// Records the measurement of all gradients, and the decision. `chosen` has what is bound of a
    /// tensor: nothing if it is skipped.
    pub(crate) fn record<'b>(
        &self,
        flat: &Flat,
        encoder: &mut wgpu::CommandEncoder,
        ticket: &Ticket,
        chosen: impl Fn(usize) -> Option<&'b Bindings>,
    ) {
        match &self.way {
            Way::InPlace(owners) => in_place(owners, flat, encoder, ticket, chosen),
            Way::Gathered(capacity) => {
                self.gather(*capacity, encoder, chosen);
                flat.dispatch(&mut begin(encoder), ticket);
            }
        }
    }

    /// Copies each gradient into the pages; one that is skipped is zeros there.
    fn gather<'b>(
        &self,
        capacity: usize,
        encoder: &mut wgpu::CommandEncoder,
        chosen: impl Fn(usize) -> Option<&'b Bindings>,
    ) {
        for (tensor, elements) in self.stretches.iter().enumerate() {
            let grad = chosen(tensor).map(Bindings::grad);
            let mut at = elements.start;
            while at < elements.end {
                let (page, first) = (&self.buffers[at / capacity], at % capacity);
                let len = (capacity - first).min(elements.end - at);
                let (first, size) = (first as u64 * 4, len as u64 * 4);
                if let Some((buffer, offset)) = grad {
                    let from = offset + (at - elements.start) as u64 * 4;
                    encoder.copy_buffer_to_buffer(buffer, from, page, first, size);
                } else {
                    encoder.clear_buffer(page, first, Some(size));
                }
                at += len;
            }
        }
    }
}

/// Records the measurement of gradients where they lie: a dispatch for each chunk.
fn in_place<'b>(
    owners: &[(usize, usize)],
    flat: &Flat,
    encoder: &mut wgpu::CommandEncoder,
    ticket: &Ticket,
    chosen: impl Fn(usize) -> Option<&'b Bindings>,
) {
    // What an earlier step left of a tensor that is skipped.
    for (chunk, _) in owners.iter().enumerate().filter(|(_, o)| chosen(o.0).is_none()) {
        for range in flat.partials(chunk) {
            let size = range.end - range.start;
            encoder.clear_buffer(&flat.group.small, range.start, Some(size));
        }
    }
    let program = &flat.core.classes[0].program;
    let mut pass = begin(encoder);
    for call in &flat.calls {
        let bind = match program.dispatches[call.pipeline] {
            Dispatch::Sweep(_) => {
                let (tensor, piece) = owners[call.chunk];
                chosen(tensor).and_then(|b| b.more.measures.get(piece))
            }
            Dispatch::Gather(_) | Dispatch::Settle(_) => flat.binds.first(),
        };
        if let Some(bind) = bind {
            let (call, bind) = (Call { chunk: 0, ..*call }, std::slice::from_ref(bind));
            flat.core.dispatch(&mut pass, &flat.group, &[call], bind, false, ticket);
        }
    }
}
