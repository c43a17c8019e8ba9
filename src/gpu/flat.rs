//! Definitions that go over all elements of a set as one long vector, wherever they lie, and the
//! guard, which is one.

use super::device::{Gpu, lost};
use super::engine::{Bound, Core, Group, Ready, Ring, Ticket, floats};
use super::ranges::Window;
use crate::blueprint::{AsOne, Call, FOUR, Owner};
use crate::cut::Layouts;
use crate::definition::Optimizer;
use crate::error::Result;
use crate::gradients::{Controls, DECISION};
use crate::layout::Layout;
use crate::trace::Watch;
use crate::wgsl::Given;

/// A definition that goes over whole pages.
#[derive(Debug)]
pub(crate) struct Flat {
    pub(crate) core: Core,
    pub(crate) group: Group,
    pub(crate) calls: Vec<Call>,
    pub(crate) binds: Vec<Ready>,
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
    /// Compiles; what depends on memory follows in [`new`](Self::new).
    pub(crate) async fn core(
        gpu: &Gpu,
        optimizer: &impl Optimizer,
        owner: Owner,
        capacity: usize,
    ) -> Result<Core> {
        Self::given(gpu, optimizer, owner, capacity, Given::Apart).await
    }

    async fn given(
        gpu: &Gpu,
        optimizer: &impl Optimizer,
        owner: Owner,
        capacity: usize,
        given: Given,
    ) -> Result<Core> {
        let mut core = Core::new(gpu, optimizer.recipe(), Watch::Nothing, owner);
        // Nothing depends on the length of a vector, but that it may be one that four divide.
        core.class(optimizer, &[FOUR], Layout::Vector, given, capacity).await?;
        Ok(core)
    }

    /// With its parameters and gradients in pages.
    pub(crate) async fn new(
        core: Core,
        ring: &wgpu::Buffer,
        params: &[wgpu::Buffer],
        grads: &[wgpu::Buffer],
        lens: &[usize],
    ) -> Result<Self> {
        let layouts = Layouts::flat(&core.classes[0].program.places, lens.chunks(1));
        let mut this = Self::unbound(core, layouts).await?;
        let made = this
            .core
            .gpu
            .checked("the work on whole pages", |device| {
                let bind = |c: usize| {
                    let (param, grad) = (whole(&params[c]), whole(&grads[c]));
                    this.group.bind(device, &this.core, ring, c, (&param, 0), (Some(&grad), 0))
                };
                (0..grads.len()).map(bind).collect::<Option<Vec<_>>>()
            })
            .await?;
        this.binds = made.ok_or_else(|| lost("it made buffers that cannot be mapped"))?;
        Ok(this)
    }

    async fn unbound(core: Core, layouts: Layouts) -> Result<Self> {
        let group = Group::of(&core, 0, layouts).await?;
        let calls = group.calls(&core);
        Ok(Self { core, group, calls, binds: Vec::new() })
    }

    pub(crate) fn dispatch(&self, pass: &mut wgpu::ComputePass<'_>, ticket: &Ticket) {
        self.core.dispatch(pass, &self.group, &self.calls, &self.binds, ticket);
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
    /// Compiles what measures gradients that lie like that; what depends on memory follows in
    /// [`new`](Self::new).
    pub(crate) async fn core(
        gpu: &Gpu,
        controls: &Controls,
        all: &AsOne,
        owner: Owner,
        capacity: usize,
    ) -> Result<Core> {
        let given = all.given(gpu.storage_buffers());
        Flat::given(gpu, controls, owner, capacity, given).await
    }

    /// Over gradients that are bound later.
    pub(crate) async fn new(core: Core, controls: Controls, all: &AsOne) -> Result<Self> {
        let given = all.given(core.gpu.storage_buffers());
        let layouts = all.layouts(&core.classes[0].program.places, given);
        Ok(Self { flat: Flat::unbound(core, layouts).await?, controls })
    }

    /// Binds pages of gradients, which stay where they are.
    pub(crate) async fn bind(&mut self, ring: &wgpu::Buffer, pages: &[wgpu::Buffer]) -> Result<()> {
        let Flat { core, group, .. } = &self.flat;
        let at_once = Given::several(pages.len(), core.gpu.storage_buffers()).grads();
        let made = core.gpu.checked("the guard", |device| {
            let none = floats(device, "gradstep none", 4, 0.0)?;
            let none = whole(&none);
            let bind = |(c, pages): (usize, &[wgpu::Buffer])| {
                let page = |page| Some(Window { bound: whole(page), base: 0 });
                let pages: Vec<_> = pages.iter().map(page).collect();
                group.bind_several(device, core, ring, c, &pages, &none)
            };
            pages.chunks(at_once).enumerate().map(bind).collect::<Option<Vec<_>>>()
        });
        let made = made.await?;
        self.flat.binds = made.ok_or_else(|| lost("it made buffers that cannot be mapped"))?;
        Ok(())
    }

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
