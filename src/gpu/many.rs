//! Many tensors on the GPU.

use super::Region;
use super::device::{Gpu, lost};
use super::engine::{Bound, Core, Group, Ready, Ring, Ticket, begin, floats};
use super::flat::{Flat, Guard};
use super::set::Set;
use crate::Outcome;
use crate::blueprint::{AsOne, Call, Owner};
use crate::cpu::many::{AVERAGED, no_average, not_begun};
use crate::cut::Piece;
use crate::error::{Error, Result};
use crate::gradients::{Accumulation, Average, Between, Controls, FOLLOWED, First};
use crate::layout::Dims;
use crate::plan::Plan;
use crate::report::{Memory, Stats};
use crate::setup::{Groups, Key, Missing, Setup};
use crate::snapshot::{Snapshot, TensorState, Values};
use crate::value::GRAD_NEUTRAL;

/// The optimizer of all tensors of a [`Setup`] on the GPU.
///
/// Parameters and gradients lie in a few large buffers of its own, as in an
/// [`Arena`](super::Arena). Write gradients with your own shaders into the regions that
/// [`grad`](Self::grad) names, or from the host, and [`encode`](Self::encode) the step.
///
/// Clipping, the test for finite gradients and the dynamic loss scale run and stay on the device:
/// nothing is read back, and a step that is skipped is skipped there. They take one dispatch for each
/// six bindings that the gradients fill, and one that decides: two up to about 200 million parameters
/// by WebGPU's default limits and three up to 400 million, whatever the number of tensors. (A device with
/// larger bindings, or more than eight of them, takes fewer: see [`Gpu::open_with`].)
/// [`outcome`](Self::outcome) reads what became of a step, when it is asked.
///
/// Every tensor takes part in every step. A gradient that nobody wrote since the last step is still
/// that one: write all of them, or begin with [`encode_clear_grads`](Self::encode_clear_grads).
#[derive(Debug)]
pub struct GpuOptimizer {
    set: Set,
    ring: Ring,
    parts: Vec<Part>,
    params: Vec<wgpu::Buffer>,
    grads: Vec<wgpu::Buffer>,
    /// Part and index there. None: frozen, or without elements.
    tensors: Vec<Option<(usize, usize)>>,
    sums: Option<Sums>,
    average: Option<Averages>,
}

/// Tensors of one class.
#[derive(Debug)]
struct Part {
    unit: usize,
    group: Group,
    /// Page and first element there of each chunk.
    chunks: Vec<(usize, usize)>,
    calls: Vec<Call>,
    binds: Vec<Ready>,
}

/// Sums of gradients of micro-batches.
#[derive(Debug)]
struct Sums {
    kind: Accumulation,
    flat: Flat,
    pages: Vec<wgpu::Buffer>,
    /// How many gradients are in them.
    count: u32,
}

/// Averages of the parameters.
#[derive(Debug)]
struct Averages {
    kind: Average,
    flat: Flat,
    pages: Vec<wgpu::Buffer>,
    /// A copy on the way of a swap.
    spare: wgpu::Buffer,
    /// The constants of a pass that begins averages which no step has begun.
    fill: Ticket,
    /// Whether a step that counts was recorded. The device may have skipped it.
    begun: bool,
    swapped: bool,
}

impl Setup {
    /// Prepares all tensors on the GPU. Compiles what is not compiled yet, and allocates.
    ///
    /// # Errors
    /// [`Error::Setup`] for what does not fit together, and those of [`Gpu::arena`].
    pub async fn gpu(&self, gpu: &Gpu) -> Result<GpuOptimizer> {
        GpuOptimizer::new(self, gpu).await
    }
}

/// Finds room for chunks in pages of `capacity` elements.
#[derive(Debug, Default)]
struct Pages(Vec<usize>);

impl Pages {
    fn place(&mut self, len: usize, capacity: usize) -> (usize, usize) {
        // Ranges that can be bound alone begin at multiples of 256 bytes.
        let at = |n: usize| n.next_multiple_of(64);
        let page = match self.0.iter().position(|&n| at(n) + len <= capacity) {
            Some(page) => page,
            None => {
                self.0.push(0);
                self.0.len() - 1
            }
        };
        let first = at(self.0[page]);
        self.0[page] = first + len;
        (page, first)
    }
}

impl GpuOptimizer {
    async fn new(setup: &Setup, gpu: &Gpu) -> Result<Self> {
        if setup.missing == Missing::Skip {
            return Err(Error::Setup {
                what: "tensors without a gradient".into(),
                problem: "the setup skips them, and on the GPU every tensor takes part in a step"
                    .into(),
                remedy: "leave `missing` out; a gradient of zeros or a frozen group may serve"
                    .into(),
            });
        }
        let capacity = gpu.capacity();
        let mut set = Set::new(setup, gpu, Owner::Library, capacity).await?;
        let sees_all = setup.accumulation.is_some() || setup.average.is_some();
        if setup.gradients.needs_all() || sees_all {
            let what = "clipping by the norm, tests of gradients, sums and averages";
            set.check_total(what, "leave them out, or make several sets of the tensors")?;
        }

        // Which tensors are of which class.
        let mut members: Vec<((usize, usize), Vec<Dims>)> = Vec::new();
        let mut tensors = Vec::new();
        for t in &set.tensors {
            let Some(class) = t.class else {
                tensors.push(None);
                continue;
            };
            let part = match members.iter().position(|m| m.0 == class) {
                Some(part) => part,
                None => {
                    members.push((class, Vec::new()));
                    members.len() - 1
                }
            };
            tensors.push((!t.dims.is_empty()).then(|| {
                members[part].1.push(t.dims);
                (part, members[part].1.len() - 1)
            }));
        }
        let mut parts = Vec::new();
        let mut pages = Pages::default();
        for ((unit, class), dims) in &members {
            let group = Group::new(&set.cores[*unit], *class, dims, capacity).await?;
            let chunks =
                group.layouts.chunks.iter().map(|c| pages.place(c.len, capacity)).collect();
            let calls = group.calls(&set.cores[*unit]);
            parts.push(Part { unit: *unit, group, chunks, calls, binds: Vec::new() });
        }
        let mut lens = pages.0;
        if lens.is_empty() {
            lens.push(0);
        }

        // What goes over whole pages.
        let owner = Owner::Library;
        let gradients = &setup.gradients;
        let controls = gradients.needs_all().then(|| Controls::new(gradients.clone()));
        let all = AsOne::pages(&lens);
        let mut guard = match &controls {
            Some(controls) => Some(Guard::core(gpu, controls, &all, owner, capacity).await?),
            None => None,
        };
        let mut sums = match setup.accumulation {
            Some(_) => Some(Flat::core(gpu, &First(true), owner, capacity).await?),
            None => None,
        };
        let mut average = match setup.average {
            Some(kind) => Some(Flat::core(gpu, &kind, owner, capacity).await?),
            None => None,
        };
        let flats = [&mut guard, &mut sums, &mut average];
        let flats = flats.into_iter().filter_map(Option::as_mut);
        let mut cores: Vec<&mut Core> = set.cores.iter_mut().chain(flats).collect();
        let mut ring = Ring::new(gpu, &mut cores).await?;

        let buffers = async |label| {
            let made = gpu
                .checked("the arena", |device| {
                    let make = |&len: &usize| floats(device, label, len, 0.0);
                    lens.iter().map(make).collect::<Option<Vec<_>>>()
                })
                .await?;
            made.ok_or_else(|| lost("it made buffers that cannot be mapped"))
        };
        let params = buffers("gradstep params").await?;
        let grads = buffers("gradstep grads").await?;
        let sums = match (sums, setup.accumulation) {
            (Some(core), Some(kind)) => {
                let pages = buffers("gradstep sums").await?;
                let flat = Flat::new(core, &ring.buffer, &pages, &grads, &lens).await?;
                Some(Sums { kind, flat, pages, count: 0 })
            }
            _ => None,
        };
        let average = match (average, setup.average) {
            (Some(core), Some(kind)) => {
                let pages = buffers("gradstep averages").await?;
                let mut flat = Flat::new(core, &ring.buffer, &pages, &params, &lens).await?;
                let most = lens.iter().copied().max().unwrap_or(0);
                let spare = gpu.checked("the averages", |d| floats(d, "gradstep spare", most, 0.0));
                let spare = spare.await?.ok_or_else(|| lost("it made no buffer"))?;
                flat.core.classes.constants(&Between(kind), 1, GRAD_NEUTRAL, &mut ring.constants);
                let fill = ring.keep(gpu)?;
                Some(Averages { kind, flat, pages, spare, fill, begun: false, swapped: false })
            }
            _ => None,
        };
        let used = sums.as_ref().map_or(&grads, |s| &s.pages);
        set.guard = match (guard, controls) {
            (Some(core), Some(controls)) => {
                let mut guard = Guard::new(core, controls, &all).await?;
                guard.bind(&ring.buffer, used).await?;
                Some(guard)
            }
            _ => None,
        };
        for part in &mut parts {
            let made = gpu
                .checked("the tensors of a group", |device| {
                    let bind = |(c, &(page, at)): (usize, &(usize, usize))| {
                        let size = (part.group.layouts.chunks[c].len as u64 * 4).max(4);
                        let bound = |buffers: &'_ [wgpu::Buffer]| {
                            let buffer = buffers[page].clone();
                            (buffer, at as u64 * 4, size)
                        };
                        let (p, g) = (bound(&params), bound(used));
                        let p = Bound { buffer: &p.0, offset: p.1, size: p.2 };
                        let g = Bound { buffer: &g.0, offset: g.1, size: g.2 };
                        let core = &set.cores[part.unit];
                        part.group.bind(device, core, &ring.buffer, c, (&p, 0), (Some(&g), 0))
                    };
                    part.chunks.iter().enumerate().map(bind).collect::<Option<Vec<_>>>()
                })
                .await?;
            part.binds = made.ok_or_else(|| lost("it made buffers that cannot be mapped"))?;
        }
        Ok(Self { set, ring, parts, params, grads, tensors, sums, average })
    }

    /// Records the addition of the gradients to their sums: one micro-batch.
    ///
    /// It counts from now on, so one that is recorded and never submitted leaves sums that are not
    /// those of its step: begin them anew with [`discard_micro`](Self::discard_micro).
    ///
    /// # Errors
    /// [`Error::Setup`] without [`Setup::accumulate`], [`Error::RingFull`], [`Error::DeviceLost`].
    pub fn encode_micro(&mut self, encoder: &mut wgpu::CommandEncoder) -> Result<()> {
        let Some(sums) = &mut self.sums else {
            return Err(Error::Setup {
                what: "accumulation".into(),
                problem: "this setup keeps no sums".into(),
                remedy: "ask for them with `Setup::accumulate`".into(),
            });
        };
        let first = First(sums.count == 0);
        sums.flat.core.classes.constants(&first, 1, GRAD_NEUTRAL, &mut self.ring.constants);
        let ticket = self.ring.take(&self.set.gpu)?;
        sums.flat.dispatch(&mut begin(encoder), &ticket);
        ticket.release_after(encoder);
        sums.count = sums.count.saturating_add(1);
        Ok(())
    }

    /// Forgets the micro-batches recorded since the last step: the next one is the first again.
    pub fn discard_micro(&mut self) {
        if let Some(sums) = &mut self.sums {
            sums.count = 0;
        }
    }

    /// Records that all gradients become zero. A gradient that nobody writes before a step is else
    /// that of the step before.
    pub fn encode_clear_grads(&self, encoder: &mut wgpu::CommandEncoder) {
        self.grads.iter().for_each(|page| encoder.clear_buffer(page, 0, None));
    }

    /// Records one step of all tensors.
    ///
    /// Steps recorded before one submission are steps one after another. A step that is recorded
    /// and never submitted counts in the step number, and nowhere else.
    ///
    /// # Errors
    /// [`Error::In`], [`Error::Structure`], [`Error::Setup`] while averages are swapped in or
    /// before the first micro-batch, [`Error::RingFull`] or [`Error::DeviceLost`]; nothing is
    /// recorded then.
    pub fn encode(&mut self, encoder: &mut wgpu::CommandEncoder) -> Result<()> {
        self.check_swapped()?;
        let micro = match &self.sums {
            Some(sums) if sums.count == 0 => {
                return Err(Error::Setup {
                    what: "this step".into(),
                    problem: "no gradient was added up for it".into(),
                    remedy: "call `encode_micro` for each micro-batch first".into(),
                });
            }
            Some(sums) => sums.kind.divisor(sums.count),
            None => 1.0,
        };
        let t = self.set.t.saturating_add(1);
        let constants = &mut self.ring.constants;
        self.set.constants(micro, constants)?;
        if let Some(average) = self.average.as_mut().filter(|a| a.kind.counts(t)) {
            average.flat.core.classes.constants(&average.kind, t, GRAD_NEUTRAL, constants);
        }
        let ticket = self.ring.take(&self.set.gpu)?;
        if let Some(guard) = &self.set.guard {
            guard.flat.dispatch(&mut begin(encoder), &ticket);
            let averages = self.average.iter().map(|a| &a.flat.core);
            let followers = self.set.cores.iter().chain(averages);
            guard.encode_decision(encoder, &self.ring, &ticket, followers);
        }
        {
            let mut pass = begin(encoder);
            for part in &self.parts {
                let core = &self.set.cores[part.unit];
                core.dispatch(&mut pass, &part.group, &part.calls, &part.binds, &ticket);
            }
            if let Some(average) = self.average.as_mut().filter(|a| a.kind.counts(t)) {
                average.flat.dispatch(&mut pass, &ticket);
                average.begun = true;
            }
        }
        ticket.release_after(encoder);
        if let Some(sums) = &mut self.sums {
            sums.count = 0;
        }
        self.set.t = t;
        Ok(())
    }

    /// What became of the last step that was submitted. Submits copies and waits for them.
    ///
    /// # Errors
    /// [`Error::DeviceLost`].
    pub async fn outcome(&self) -> Result<Outcome> {
        self.set.outcome().await
    }

    /// How many steps were skipped because gradients were not finite. Reads it from the device.
    ///
    /// # Errors
    /// [`Error::DeviceLost`].
    pub async fn skipped(&self) -> Result<u64> {
        self.set.skipped().await
    }

    /// Where the loss scale of the next step lies on the device, as an `f32`: the buffer and the
    /// offset in bytes. A shader that makes gradients multiplies by it there. None where nothing is
    /// measured (no clipping by the norm, no test, no dynamic scale): it is that of the setup then.
    pub fn loss_scale(&self) -> Option<(&wgpu::Buffer, u64)> {
        Some(self.set.guard.as_ref()?.place("loss_scale"))
    }

    /// The number of dispatches of a step, micro-batches not counted.
    pub fn dispatches(&self) -> usize {
        let average = self.average.as_ref().map_or(0, |a| a.flat.calls.len());
        self.parts.iter().map(|p| p.calls.len()).sum::<usize>() + self.guard_dispatches() + average
    }

    /// Those of them that clip, test and scale gradients.
    pub fn guard_dispatches(&self) -> usize {
        self.set.guard_dispatches()
    }

    /// What the last step that was submitted did to each tensor that is not frozen, in order. Submits
    /// copies and waits for them.
    ///
    /// # Errors
    /// [`Error::Setup`] without [`Setup::watch`], [`Error::DeviceLost`].
    pub async fn stats(&self) -> Result<Vec<(&str, Stats)>> {
        self.set.check_watched()?;
        let mut parts = Vec::new();
        for part in &self.parts {
            parts.push(part.group.read_small(&self.set.cores[part.unit]).await?);
        }
        let of = |(i, place): (usize, &Option<(usize, usize)>)| {
            let place = place.map(|(part, k)| (&self.parts[part].group, k, &parts[part]));
            self.set.stats_of(i, place).transpose()
        };
        self.tensors.iter().enumerate().filter_map(of).collect()
    }

    /// What the state takes.
    pub fn memory(&self) -> Memory {
        self.set.memory(self.average.as_ref().map(|a| &a.spare), self.sums.is_some())
    }

    /// The groups, and which tensor is in which. Printable.
    pub fn groups(&self) -> &Groups {
        &self.set.groups
    }

    /// The groups, to change their hyper-parameters. Nothing is compiled anew.
    pub fn groups_mut(&mut self) -> &mut Groups {
        &mut self.set.groups
    }

    /// The number of steps recorded, those included that the device skips.
    pub fn steps(&self) -> u64 {
        self.set.t
    }

    /// Sets the number of steps taken, after state was restored.
    pub fn set_steps(&mut self, t: u64) {
        self.set.t = t;
    }

    /// The plan by which a tensor runs. Printable.
    ///
    /// # Errors
    /// [`Error::Tensor`].
    pub fn plan<'k>(&self, tensor: impl Into<Key<'k>>) -> Result<&Plan> {
        self.set.plan(tensor.into())
    }

    /// Bytes of the optimizer's state, averages and sums of gradients not counted.
    pub fn state_bytes(&self) -> usize {
        self.set.state_bytes()
    }

    /// Where the parameter of a tensor lies.
    ///
    /// # Errors
    /// [`Error::Tensor`] for a tensor that is not registered or frozen.
    pub fn param<'k>(&self, tensor: impl Into<Key<'k>>) -> Result<Vec<Region<'_>>> {
        self.regions(tensor.into(), &self.params)
    }

    /// Where the gradient of a tensor is expected.
    ///
    /// # Errors
    /// [`Error::Tensor`] for a tensor that is not registered or frozen.
    pub fn grad<'k>(&self, tensor: impl Into<Key<'k>>) -> Result<Vec<Region<'_>>> {
        self.regions(tensor.into(), &self.grads)
    }

    /// Overwrites a parameter from the host, in effect from the next submit on.
    ///
    /// # Errors
    /// [`Error::Tensor`], [`Error::Shape`] or [`Error::DeviceLost`].
    pub fn write_param<'k>(&self, tensor: impl Into<Key<'k>>, values: &[f32]) -> Result<()> {
        self.write(tensor.into(), "parameter", &self.params, values)
    }

    /// Writes a gradient from the host, in effect from the next submit on.
    ///
    /// # Errors
    /// [`Error::Tensor`], [`Error::Shape`] or [`Error::DeviceLost`].
    pub fn write_grad<'k>(&self, tensor: impl Into<Key<'k>>, values: &[f32]) -> Result<()> {
        self.write(tensor.into(), "gradient", &self.grads, values)
    }

    /// Copies a parameter to the host. Submits a copy and waits for it.
    ///
    /// # Errors
    /// [`Error::Tensor`] or [`Error::DeviceLost`].
    pub async fn read_param<'k>(&self, tensor: impl Into<Key<'k>>) -> Result<Vec<f32>> {
        let (index, _) = self.set.groups.active(tensor.into())?;
        self.read(index, &self.params).await
    }

    /// Copies the parameters of all tensors that are not frozen to the host, in order, in one wait
    /// for each buffer.
    ///
    /// # Errors
    /// [`Error::DeviceLost`].
    pub async fn read_params(&self) -> Result<Vec<(&str, Vec<f32>)>> {
        let pages = self.read_pages(&self.params).await?;
        let tensors = self.set.groups.tensors.iter().enumerate().filter(|(_, t)| t.unit.is_some());
        Ok(tensors.map(|(i, t)| (t.info.name.as_str(), self.gather(i, &pages))).collect())
    }

    /// Copies a slot of a tensor to the host.
    ///
    /// # Errors
    /// [`Error::Tensor`], [`Error::NoSlot`] or [`Error::DeviceLost`].
    pub async fn read_slot<'k>(&self, tensor: impl Into<Key<'k>>, name: &str) -> Result<Vec<f32>> {
        let (index, _) = self.set.groups.active(tensor.into())?;
        match self.tensors[index] {
            Some((part, i)) => {
                let part = &self.parts[part];
                part.group.read_slot(&self.set.cores[part.unit], i, name).await
            }
            None => Ok(Vec::new()),
        }
    }

    /// Overwrites a slot of a tensor, in effect from the next submit on.
    ///
    /// # Errors
    /// [`Error::Tensor`], [`Error::NoSlot`], [`Error::Shape`] or [`Error::DeviceLost`].
    pub fn write_slot<'k>(
        &self,
        tensor: impl Into<Key<'k>>,
        name: &str,
        values: &[f32],
    ) -> Result<()> {
        let (index, _) = self.set.groups.active(tensor.into())?;
        match self.tensors[index] {
            Some((part, i)) => {
                let part = &self.parts[part];
                part.group.write_slot(&self.set.cores[part.unit], i, name, values)
            }
            None => Ok(()),
        }
    }

    /// Copies the average of a parameter to the host; that is the parameter while they are swapped.
    ///
    /// # Errors
    /// [`Error::Tensor`], [`Error::DeviceLost`], or [`Error::Setup`] without [`Setup::average`].
    pub async fn read_average<'k>(&self, tensor: impl Into<Key<'k>>) -> Result<Vec<f32>> {
        let (index, _) = self.set.groups.active(tensor.into())?;
        let average = self.average.as_ref().ok_or_else(no_average)?;
        self.read(index, &average.pages).await
    }

    /// Records the exchange of all parameters with their averages, to evaluate with them; a second
    /// call swaps them back. No step is taken while they are swapped. As long as the device has
    /// skipped every step, an average is the parameter.
    ///
    /// # Errors
    /// [`Error::Setup`] without [`Setup::average`] or before the first step that counts.
    pub fn encode_swap(&mut self, encoder: &mut wgpu::CommandEncoder) -> Result<()> {
        let average = self.average.as_mut().ok_or_else(no_average)?;
        if !average.begun {
            return Err(not_begun());
        }
        average.flat.dispatch(&mut begin(encoder), &average.fill);
        for (param, page) in self.params.iter().zip(&average.pages) {
            let (size, spare) = (param.size(), &average.spare);
            encoder.copy_buffer_to_buffer(param, 0, spare, 0, size);
            encoder.copy_buffer_to_buffer(page, 0, param, 0, size);
            encoder.copy_buffer_to_buffer(spare, 0, page, 0, size);
        }
        average.swapped = !average.swapped;
        Ok(())
    }

    fn check_swapped(&self) -> Result<()> {
        if self.average.as_ref().is_some_and(|a| a.swapped) {
            return Err(Error::Setup {
                what: "this step".into(),
                problem: "averages are swapped in for the parameters".into(),
                remedy: "swap them back before a step".into(),
            });
        }
        Ok(())
    }

    fn regions<'s>(&'s self, key: Key<'_>, pages: &'s [wgpu::Buffer]) -> Result<Vec<Region<'s>>> {
        let (index, _) = self.set.groups.active(key)?;
        let region = |(page, at, piece): (usize, usize, &Piece)| Region {
            buffer: &pages[page],
            offset: at as u64 * 4,
            elements: piece.elements.clone(),
        };
        Ok(self.pieces(index).map(region).collect())
    }

    /// The pieces of a tensor, each with its page and its first element there.
    fn pieces(&self, index: usize) -> impl Iterator<Item = (usize, usize, &Piece)> {
        let place = self.tensors[index];
        let part = place.map(|(part, i)| (&self.parts[part], i));
        part.into_iter().flat_map(|(part, i)| {
            part.group.layouts.pieces[i].iter().map(|piece| {
                let (page, first) = part.chunks[piece.chunk];
                (page, first + piece.at, piece)
            })
        })
    }

    fn write(
        &self,
        key: Key<'_>,
        what: &str,
        pages: &[wgpu::Buffer],
        values: &[f32],
    ) -> Result<()> {
        let (index, _) = self.set.groups.active(key)?;
        if values.len() != self.set.tensors[index].dims.len() {
            let info = &self.set.groups.tensors[index].info;
            return Err(Error::Shape {
                what: format!("{what} of `{}`", info.name),
                expected: info.shape.clone(),
                found: vec![values.len()],
            });
        }
        for (page, at, piece) in self.pieces(index) {
            self.set.gpu.write(&pages[page], at as u64 * 4, &values[piece.elements.clone()])?;
        }
        Ok(())
    }

    async fn read(&self, index: usize, pages: &[wgpu::Buffer]) -> Result<Vec<f32>> {
        let mut out = vec![0.0; self.set.tensors[index].dims.len()];
        for (page, at, piece) in self.pieces(index) {
            let to = &mut out[piece.elements.clone()];
            self.set.gpu.read(&pages[page], at as u64 * 4, to).await?;
        }
        Ok(out)
    }

    async fn read_pages(&self, pages: &[wgpu::Buffer]) -> Result<Vec<Vec<f32>>> {
        let mut out = Vec::new();
        for page in pages {
            let mut values = vec![0.0; usize::try_from(page.size() / 4).unwrap_or(0)];
            self.set.gpu.read(page, 0, &mut values).await?;
            out.push(values);
        }
        Ok(out)
    }

    fn gather(&self, index: usize, pages: &[Vec<f32>]) -> Vec<f32> {
        let pieces = self.pieces(index);
        pieces.flat_map(|(page, at, p)| &pages[page][at..at + p.elements.len()]).copied().collect()
    }

    /// Everything that is needed to go on from here, parameters included. Submits copies and waits
    /// for them.
    ///
    /// # Errors
    /// [`Error::Setup`] while averages are swapped in, or gradients are accumulated and no step has
    /// followed; [`Error::DeviceLost`].
    pub async fn snapshot(&self) -> Result<Snapshot> {
        self.check_settled()?;
        let mut snapshot = self.set.outline(self.average.is_some());
        let params = self.read_pages(&self.params).await?;
        let averages = match &self.average {
            Some(average) => Some((
                self.read_pages(&average.pages).await?,
                average.flat.group.read_slot(&average.flat.core, 0, FOLLOWED).await?,
            )),
            None => None,
        };
        let mut parts = Vec::new();
        for part in &self.parts {
            parts.push(part.group.read_state(&self.set.cores[part.unit]).await?);
        }
        for (i, state) in snapshot.tensors.iter_mut().enumerate() {
            if self.set.groups.tensors[i].unit.is_none() {
                continue;
            }
            state.param = Some(Values::F32(self.gather(i, &params)));
            for slot in &mut state.slots {
                let values = match (slot.name.as_str(), &averages, self.tensors[i]) {
                    (FOLLOWED, Some((_, steps)), Some(_)) => steps.clone(),
                    (AVERAGED, Some((pages, _)), _) => self.gather(i, pages),
                    (name, _, Some((part, k))) => {
                        let of = &self.parts[part];
                        of.group.slot_of(&self.set.cores[of.unit], k, name, &parts[part])?
                    }
                    // No elements: whatever a slot holds was never used.
                    (.., None) => vec![0.0; slot.shape.iter().product()],
                };
                slot.values = Values::F32(values);
            }
        }
        self.set.read_numbers(&mut snapshot).await?;
        Ok(snapshot)
    }

    /// Goes back to a snapshot, taken here or on another backend or precision, in effect from the
    /// next submit on. Parameters are restored where the snapshot has them. Hyper-parameters stay as
    /// they are: see [`Groups::apply_hypers`].
    ///
    /// # Errors
    /// [`Error::Snapshot`] that lists all differences; nothing has changed then. [`Error::Setup`]
    /// as for [`snapshot`](Self::snapshot); [`Error::DeviceLost`].
    pub fn restore(&mut self, snapshot: &Snapshot) -> Result<()> {
        self.check_settled()?;
        snapshot.check(&self.set.outline(self.average.is_some()))?;
        let averaged = self.averaged_steps(snapshot)?;
        for state in &snapshot.tensors {
            let name = state.name.as_str();
            let Some(id) = self.set.groups.id(name) else { continue };
            if self.set.groups.tensors[id.index()].unit.is_none() {
                continue;
            }
            if let Some(param) = &state.param {
                self.write_param(name, &param.to::<f32>())?;
            }
            for slot in &state.slots {
                let values = slot.values.to::<f32>();
                match (slot.name.as_str(), &self.average) {
                    // One number for all: see below.
                    (FOLLOWED, Some(_)) => {}
                    (AVERAGED, Some(average)) => {
                        self.write(name.into(), "average", &average.pages, &values)?;
                    }
                    (slot, _) => self.write_slot(name, slot, &values)?,
                }
            }
        }
        if let Some(average) = &mut self.average {
            let flat = &average.flat;
            flat.group.write_slot(&flat.core, 0, FOLLOWED, &[averaged])?;
            average.begun = averaged > 0.0;
        }
        self.set.write_numbers(snapshot)?;
        self.set.t = snapshot.step;
        Ok(())
    }

    /// How many steps are in the averages of a snapshot: one number for all tensors here.
    fn averaged_steps(&self, snapshot: &Snapshot) -> Result<f32> {
        let counted = snapshot.tensors.iter().filter(|t| {
            let id = self.set.groups.id(&t.name);
            id.is_some_and(|id| self.tensors[id.index()].is_some())
        });
        let steps = |t: &TensorState| t.slot(FOLLOWED)?.values.to::<f32>().first().copied();
        let mut counted = counted.filter_map(|t| Some((t, steps(t)?))).peekable();
        let Some((one, first)) = counted.peek().map(|(t, n)| (t.name.clone(), *n)) else {
            return Ok(0.0);
        };
        let problem = |(t, n): (&TensorState, f32)| {
            let name = &t.name;
            format!("{n} steps are in the average of `{name}` and {first} in that of `{one}`")
        };
        let problems: Vec<_> = counted.filter(|(_, n)| *n != first).map(problem).collect();
        if problems.is_empty() { Ok(first) } else { Err(Error::Snapshot { problems }) }
    }

    fn check_settled(&self) -> Result<()> {
        self.check_swapped()?;
        match &self.sums {
            Some(sums) if sums.count > 0 => Err(Error::Setup {
                what: "the sums of gradients".into(),
                problem: format!("they hold {} micro-batches that no step has used", sums.count),
                remedy: "finish the step first".into(),
            }),
            _ => Ok(()),
        }
    }
}
