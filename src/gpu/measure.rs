//! How gradients in the caller's own buffers are measured: where they lie, several at once, or copied
//! into a few pages first.

use super::device::{Gpu, lost};
use super::engine::{Ready, Ticket, begin, floats};
use super::flat::{Flat, Guard, whole};
use super::ranges::{KEPT, Who, Window};
use crate::blueprint::{AsOne, FOUR, Stretch};
use crate::error::{Error, Result};

/// How the guard reaches gradients that lie anywhere.
#[derive(Debug)]
pub(crate) struct Measure {
    all: AsOne,
    /// Into which gradients are copied.
    pages: Vec<wgpu::Buffer>,
    /// What is bound for a gradient that is left out.
    none: wgpu::Buffer,
    /// For each chunk what was bound lately.
    known: Vec<Vec<Known>>,
    /// What is bound in the step at hand, for each chunk.
    chosen: Vec<Ready>,
}

/// Where the gradients of a chunk lie, and the bindings of that.
#[derive(Debug)]
struct Known {
    places: Vec<Option<(wgpu::Buffer, u64)>>,
    bind: Ready,
}

/// The buffer of a gradient, and the byte at which it begins there.
pub(crate) type Place<'a> = (&'a wgpu::Buffer, u64);

/// The usages of gradients that are gathered.
const COPIED: (wgpu::BufferUsages, &str) = (
    wgpu::BufferUsages::STORAGE.union(wgpu::BufferUsages::COPY_SRC),
    "create it with BufferUsages::STORAGE and COPY_SRC, or ask for `Setup::measure_in_place`",
);

impl Measure {
    /// How gradients with so many elements are measured.
    pub(crate) fn plan(gpu: &Gpu, lens: &[usize], in_place: bool) -> AsOne {
        let capacity = gpu.range_capacity();
        if in_place {
            return AsOne::in_place(lens, capacity);
        }
        AsOne::gathered(lens, (capacity, gpu.capacity()), gpu.storage_buffers())
    }

    pub(crate) async fn new(gpu: &Gpu, all: AsOne, guard: &Guard) -> Result<Self> {
        let made = gpu.checked("the guard", |device| {
            let page = |s: &Stretch| match *s {
                Stretch::InPlace(..) => None,
                // The last vector of four is whole.
                Stretch::Page(len) => {
                    Some(floats(device, "gradstep gathered", len.next_multiple_of(FOUR), 0.0))
                }
            };
            let pages: Option<_> = all.stretches.iter().filter_map(page).collect();
            Some((pages?, floats(device, "gradstep none", 4, 0.0)?))
        });
        let (pages, none) =
            made.await?.ok_or_else(|| lost("it made buffers that cannot be mapped"))?;
        let known = guard.flat.group.layouts.chunks.iter().map(|_| Vec::new()).collect();
        Ok(Self { all, pages, none, known, chosen: Vec::new() })
    }

    /// Bytes of the copies of gradients.
    pub(crate) fn copied_bytes(&self) -> usize {
        4 * self.all.copies.last().map_or(0, |c| c.end)
    }

    /// Refuses a gradient that cannot be measured, beyond what every one is refused for.
    pub(crate) fn check(
        &self,
        who: Who<'_>,
        tensor: usize,
        grad: &wgpu::BufferSlice<'_>,
        len: usize,
    ) -> Result<()> {
        if self.all.copies[tensor].is_empty() {
            return Ok(());
        }
        who.check("gradient", grad, len, COPIED)
    }

    /// Forgets the caller's buffers.
    pub(crate) fn forget(&mut self) {
        self.known.iter_mut().for_each(Vec::clear);
        self.chosen.clear();
    }

    /// Binds all gradients where they are now. `given` has the place of the gradient of a tensor:
    /// nothing if it is skipped.
    pub(crate) fn bind<'g>(
        &mut self,
        flat: &Flat,
        ring: &wgpu::Buffer,
        given: impl Fn(usize) -> Option<Place<'g>>,
    ) -> Result<()> {
        self.chosen.clear();
        let at_once = self.all.given(flat.core.gpu.storage_buffers()).grads();
        let first_page = self.all.stretches.len() - self.pages.len();
        let (gpu, none) = (&flat.core.gpu, whole(&self.none));
        for (c, known) in self.known.iter_mut().enumerate() {
            let from = c * at_once;
            let upto = (from + at_once).min(self.all.stretches.len());
            let place = |s: usize| match &self.all.stretches[s] {
                Stretch::InPlace(tensor, _) => given(*tensor),
                Stretch::Page(_) => Some((&self.pages[s - first_page], 0)),
            };
            let same = |k: &Known| {
                let mut pairs = k.places.iter().zip(from..upto);
                pairs.all(|(was, s)| was.as_ref().map(|(b, at)| (b, *at)) == place(s))
            };
            if let Some(k) = known.iter().find(|k| same(k)) {
                self.chosen.push(k.bind.clone());
                continue;
            }
            let window = |s: usize| {
                let (buffer, offset) = place(s)?;
                Some(match &self.all.stretches[s] {
                    Stretch::InPlace(_, elements) => {
                        Window::new(gpu, buffer.slice(offset..), elements)
                    }
                    Stretch::Page(_) => Window { bound: whole(buffer), base: 0 },
                })
            };
            let grads: Vec<_> = (from..upto).map(window).collect();
            let made = gpu.checked_now(|device| {
                flat.group.bind_several(device, &flat.core, ring, c, &grads, &none)
            });
            let bind = match made {
                Ok(made) => made.ok_or_else(|| lost("it made a buffer that cannot be mapped"))?,
                Err(reason) => {
                    return Err(Error::Gpu { what: "the measure of the gradients".into(), reason });
                }
            };
            if known.len() >= KEPT {
                known.remove(0);
            }
            let owned = |s: usize| place(s).map(|(b, at)| (b.clone(), at));
            known.push(Known { places: (from..upto).map(owned).collect(), bind: bind.clone() });
            self.chosen.push(bind);
        }
        Ok(())
    }

    /// Records the measurement of all gradients, which are bound, and the decision.
    pub(crate) fn record<'g>(
        &self,
        flat: &Flat,
        encoder: &mut wgpu::CommandEncoder,
        ticket: &Ticket,
        given: impl Fn(usize) -> Option<Place<'g>>,
    ) {
        for (tensor, elements) in self.all.copies.iter().enumerate() {
            let grad = given(tensor);
            let mut at = elements.start;
            while at < elements.end {
                let (page, first) = (&self.pages[at / self.all.page], at % self.all.page);
                let len = (self.all.page - first).min(elements.end - at);
                let (first, size) = (first as u64 * 4, len as u64 * 4);
                if let Some((buffer, offset)) = grad {
                    let from = offset + (at - elements.start) as u64 * 4;
                    encoder.copy_buffer_to_buffer(buffer, from, page, first, size);
                } else {
                    // What an earlier step left of a tensor that is skipped.
                    encoder.clear_buffer(page, first, Some(size));
                }
                at += len;
            }
        }
        let mut pass = begin(encoder);
        flat.core.dispatch(&mut pass, &flat.group, &flat.calls, &self.chosen, ticket);
    }
}
