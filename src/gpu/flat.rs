//! Definitions that go over all elements of a set as one long vector, wherever they lie, and the
//! guard, which is one.

use std::ops::Range;

use super::device::{Gpu, lost};
use super::engine::{Bound, Core, Group, Ring, Ticket, floats};
use crate::blueprint::Call;
use crate::cut::Layouts;
use crate::definition::Optimizer;
use crate::error::Result;
use crate::gradients::{Controls, DECISION};
use crate::layout::Layout;

/// A definition that goes over whole pages.
#[derive(Debug)]
pub(crate) struct Flat {
    pub(crate) core: Core,
    pub(crate) group: Group,
    pub(crate) calls: Vec<Call>,
    pub(crate) binds: Vec<wgpu::BindGroup>,
}

/// What decides on a step before any parameter changes.
#[derive(Debug)]
pub(crate) struct Guard {
    pub(crate) flat: Flat,
    pub(crate) controls: Controls,
}

pub(crate) fn whole(buffer: &wgpu::Buffer) -> Bound<'_> {
    Bound { buffer, offset: 0, size: buffer.size() }
}

impl Flat {
    /// Compiles; what depends on memory follows in [`new`](Self::new) or [`over`](Self::over).
    pub(crate) async fn core(
        gpu: &Gpu,
        optimizer: &impl Optimizer,
        total: usize,
        capacity: usize,
    ) -> Result<Core> {
        let mut core = Core::new(gpu, optimizer.recipe());
        core.class(optimizer, &[total], Layout::Vector, false, capacity).await?;
        Ok(core)
    }

    /// With its parameters and gradients in pages. A definition that only measures has no
    /// parameters.
    pub(crate) async fn new(
        core: Core,
        ring: &wgpu::Buffer,
        params: Option<&[wgpu::Buffer]>,
        grads: &[wgpu::Buffer],
        lens: &[usize],
    ) -> Result<Self> {
        let mut this = Self::unbound(core, lens).await?;
        let made = this
            .core
            .gpu
            .checked("the work on whole pages", |device| {
                let none = floats(device, "gradstep none", 4, 0.0)?;
                let bind = |c: usize| {
                    let param = whole(params.map_or(&none, |p| &p[c]));
                    let grad = whole(&grads[c]);
                    this.group.bind(device, &this.core, ring, c, (&param, 0), (Some(&grad), 0))
                };
                (0..grads.len()).map(bind).collect::<Option<Vec<_>>>()
            })
            .await?;
        this.binds = made.ok_or_else(|| lost("it made buffers that cannot be mapped"))?;
        Ok(this)
    }

    /// For a definition that only measures, over gradients that are bound when they are known: there
    /// is one binding, for what needs none of them.
    pub(crate) async fn anywhere(
        core: Core,
        ring: &wgpu::Buffer,
        none: &wgpu::Buffer,
        lens: &[usize],
    ) -> Result<Self> {
        let mut this = Self::unbound(core, lens).await?;
        let made = this
            .core
            .gpu
            .checked("the guard", |device| {
                // What is written and what is read are two buffers, also where they are not used.
                let read = floats(device, "gradstep none", 4, 0.0)?;
                let (param, grad) = (whole(none), whole(&read));
                this.group.bind(device, &this.core, ring, 0, (&param, 0), (Some(&grad), 0))
            })
            .await?;
        this.binds = vec![made.ok_or_else(|| lost("it made buffers that cannot be mapped"))?];
        Ok(this)
    }

    async fn unbound(core: Core, lens: &[usize]) -> Result<Self> {
        let layouts = Layouts::flat(&core.classes[0].program.places, lens);
        let group = Group::of(&core, 0, layouts).await?;
        let calls = group.calls(&core);
        Ok(Self { core, group, calls, binds: Vec::new() })
    }

    /// Where in the small values the partial sums of a chunk lie, in bytes: one stretch for each
    /// reduction.
    pub(crate) fn partials(&self, chunk: usize) -> impl Iterator<Item = Range<u64>> {
        let layouts = &self.group.layouts;
        let (places, cut) = (&self.core.classes[0].program.places, &layouts.cuts[0]);
        let tiles = &layouts.chunks[chunk].tiles;
        // The word at 9 is the number of a tile among all of them.
        let first = layouts.tensors[0][4] as usize + tiles.first().map_or(0, |t| t[9] as usize);
        let (all, n) = (places.partials_len(cut), tiles.len());
        (0..all).step_by(cut.tiles().max(1)).map(move |array| {
            let at = (first + array) as u64 * 4;
            at..at + n as u64 * 4
        })
    }

    pub(crate) fn dispatch(&self, pass: &mut wgpu::ComputePass<'_>, ticket: &Ticket) {
        self.core.dispatch(pass, &self.group, &self.calls, &self.binds, false, ticket);
    }

    pub(crate) async fn number(&self, slot: &str) -> Result<f64> {
        let values = self.group.read_slot(&self.core, 0, slot).await?;
        Ok(values.first().map_or(f64::NAN, |&x| f64::from(x)))
    }

    pub(crate) fn set_number(&self, slot: &str, value: f64) -> Result<()> {
        #[allow(clippy::cast_possible_truncation, reason = "the device has f32")]
        self.group.write_slot(&self.core, 0, slot, &[value as f32])
    }
}

impl Guard {
    /// Copies what was decided to the constants of everything that follows.
    pub(crate) fn encode_decision<'c>(
        &self,
        encoder: &mut wgpu::CommandEncoder,
        ring: &Ring,
        ticket: &Ticket,
        followers: impl Iterator<Item = &'c Core>,
    ) {
        let (small, from) = self.place(DECISION[0]);
        for core in followers {
            for (to, bytes) in core.classes.decided() {
                let to = ticket.offset + to;
                encoder.copy_buffer_to_buffer(small, from, &ring.buffer, to, bytes);
            }
        }
    }

    /// Where one of its numbers lies on the device.
    pub(crate) fn place(&self, slot: &str) -> (&wgpu::Buffer, u64) {
        let at = self.flat.group.small_place(&self.flat.core, 0, slot);
        (&self.flat.group.small, at)
    }
}
