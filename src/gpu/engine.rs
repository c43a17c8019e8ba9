//! What arenas and foreign tensors share: constants of a step, groups of tensors, dispatches.

use std::fmt;
use std::num::NonZeroU64;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::device::{Gpu, Pipelines, lost};
use super::ranges::Window;
use crate::blueprint::{self, Bind, Call, Classes, Found, Image, Owner, WINDOW_WORDS};
use crate::cut::{Layouts, Piece};
use crate::definition::{Optimizer, Recipe};
use crate::error::{Error, Result};
use crate::layout::{Dims, Layout};
use crate::plan::Plan;
use crate::trace::Watch;
use crate::value::GRAD_NEUTRAL;
use crate::wgsl::{Form, Given};

/// Steps that may be encoded and not finished.
const RING: usize = 64;

/// A class's programs, compiled: all forms that its tensors may need, those of four columns at once
/// first.
#[derive(Debug)]
pub(crate) struct Compiled(Vec<Arc<Pipelines>>);

impl Compiled {
    /// The program for parameter and gradient in one buffer or not; `by_four`: everything that is bound
    /// begins and ends where vectors do.
    fn form(&self, pooled: bool, by_four: bool) -> Option<&Arc<Pipelines>> {
        let fits =
            |form: Form| (form.given == Given::Pooled) == pooled && (by_four || !form.vectors);
        self.0.iter().find(|p| fits(p.form))
    }
}

pub(crate) type Class = blueprint::Class<Compiled>;

/// One definition on a device.
pub(crate) struct Core {
    pub(crate) gpu: Gpu,
    pub(crate) classes: Classes<Compiled>,
}

/// An optimizer on a device of its own: one definition and a ring.
pub(crate) struct Engine<O> {
    pub(crate) core: Core,
    pub(crate) optimizer: O,
    pub(crate) t: u64,
    ring: Option<Ring>,
}

impl fmt::Debug for Core {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Core").field("recipe", &self.classes.recipe).finish_non_exhaustive()
    }
}

impl<O: fmt::Debug> fmt::Debug for Engine<O> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Engine")
            .field("gpu", &self.core.gpu)
            .field("optimizer", &self.optimizer)
            .field("steps", &self.t)
            .finish_non_exhaustive()
    }
}

/// Constants of steps that are encoded and not finished.
#[derive(Debug)]
pub(crate) struct Ring {
    pub(crate) buffer: wgpu::Buffer,
    taken: Arc<[AtomicBool]>,
    stride: u64,
    next: usize,
    /// One set, as it is uploaded.
    pub(crate) constants: Vec<f32>,
}

/// The set behind those that steps take, for constants that are always the same.
const KEPT: usize = RING;

/// A set of the ring; it is free again when this is dropped.
#[derive(Debug)]
pub(crate) struct Ticket {
    taken: Arc<[AtomicBool]>,
    index: usize,
    pub(crate) offset: u64,
}

impl Ticket {
    /// Frees the set when the submission is over, or never happens.
    pub(crate) fn release_after(self, encoder: &wgpu::CommandEncoder) {
        encoder.on_submitted_work_done(move || drop(self));
    }

    /// As [`release_after`](Self::release_after) for a set that several encoders use: each of them
    /// holds it, and the last one frees it.
    pub(crate) fn hold(self: &Arc<Self>, encoder: &wgpu::CommandEncoder) {
        let held = self.clone();
        encoder.on_submitted_work_done(move || drop(held));
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.taken[self.index].store(false, Ordering::Release);
    }
}

impl Core {
    pub(crate) fn new(gpu: &Gpu, recipe: Recipe, watch: Watch, owner: Owner) -> Self {
        Self { gpu: gpu.clone(), classes: Classes::new(recipe, watch, owner) }
    }

    /// Finds or makes the class of a tensor. Where parameter and gradient may lie in one buffer, they
    /// may lie apart as well. In somebody else's buffers they may begin anywhere.
    pub(crate) async fn class<O: Optimizer>(
        &mut self,
        optimizer: &O,
        shape: &[usize],
        layout: Layout,
        given: Given,
        capacity: usize,
    ) -> Result<(usize, Dims)> {
        let (dims, found) = self.classes.find(optimizer, shape, layout, capacity)?;
        let (plan, vectors) = match found {
            Found::Known(class) => return Ok((class, dims)),
            Found::New(plan, vectors) => (*plan, vectors),
        };
        let givens = match given {
            Given::Pooled => &[Given::Apart, Given::Pooled][..],
            Given::Apart | Given::Several(_) => &[given],
        };
        let widths = match (vectors, self.classes.owner) {
            (false, _) => &[false][..],
            (true, Owner::Library) => &[true],
            (true, Owner::Other) => &[true, false],
        };
        let mut forms = Vec::new();
        for &vectors in widths {
            for &given in givens {
                forms.push(self.pipelines(&plan, Form { given, vectors }).await?);
            }
        }
        let program = forms[0].program.clone();
        Ok((self.classes.add(plan, vectors, program, Compiled(forms)), dims))
    }

    async fn pipelines(&self, plan: &Plan, form: Form) -> Result<Arc<Pipelines>> {
        self.gpu.pipelines(self.classes.recipe, plan, form, self.classes.watch).await
    }

    /// The offset of a class's constants in the set of a ticket.
    pub(crate) fn offset(&self, class: usize, ticket: &Ticket) -> u64 {
        ticket.offset + self.classes.offset(class)
    }

    /// Records dispatches of a group.
    pub(crate) fn dispatch(
        &self,
        pass: &mut wgpu::ComputePass<'_>,
        group: &Group,
        calls: &[Call],
        binds: &[Ready],
        ticket: &Ticket,
    ) {
        let offset = u32::try_from(self.offset(group.class, ticket)).unwrap_or(0);
        for call in calls {
            let Ready { program, group } = &binds[call.chunk];
            pass.set_pipeline(&program.pipelines[call.pipeline]);
            pass.set_bind_group(0, group, &[offset]);
            pass.dispatch_workgroups(call.groups.0, call.groups.1, 1);
        }
    }
}

impl Ring {
    /// Makes a ring for the constants of `cores`, when all their classes are known.
    pub(crate) async fn new(gpu: &Gpu, cores: &mut [&mut Core]) -> Result<Self> {
        let words = blueprint::place_constants(cores.iter_mut().map(|c| &mut c.classes));
        let stride = (words * 4) as u64;
        let buffer = gpu
            .checked("the ring of constants", |device| {
                device.create_buffer(&wgpu::BufferDescriptor {
                    label: Some("gradstep constants"),
                    size: stride * (RING as u64 + 1),
                    usage: wgpu::BufferUsages::UNIFORM | wgpu::BufferUsages::COPY_DST,
                    mapped_at_creation: false,
                })
            })
            .await?;
        let taken = (0..=RING).map(|_| AtomicBool::new(false)).collect();
        Ok(Self { buffer, taken, stride, next: 0, constants: vec![0.0; words] })
    }

    /// Uploads the constants into a set that no step takes. There is one.
    pub(crate) fn keep(&self, gpu: &Gpu) -> Result<Ticket> {
        let offset = self.stride * KEPT as u64;
        gpu.write(&self.buffer, offset, &self.constants)?;
        Ok(Ticket { taken: self.taken.clone(), index: KEPT, offset })
    }

    /// Finds a free set for the constants and uploads them.
    pub(crate) fn take(&mut self, gpu: &Gpu) -> Result<Ticket> {
        let free = (0..RING).map(|i| (self.next + i) % RING).find(|&i| {
            self.taken[i].compare_exchange(false, true, Ordering::AcqRel, Ordering::Relaxed).is_ok()
        });
        let Some(index) = free else {
            return Err(Error::RingFull { in_flight: RING, capacity: RING });
        };
        self.next = (index + 1) % RING;
        let ticket =
            Ticket { taken: self.taken.clone(), index, offset: self.stride * index as u64 };
        gpu.write(&self.buffer, ticket.offset, &self.constants)?;
        Ok(ticket)
    }
}

impl<O: Optimizer> Engine<O> {
    pub(crate) fn new(gpu: &Gpu, optimizer: O, owner: Owner) -> Result<Self> {
        gpu.check_alive()?;
        optimizer.check()?;
        let core = Core::new(gpu, optimizer.recipe(), Watch::Nothing, owner);
        Ok(Self { core, optimizer, t: 0, ring: None })
    }

    /// Finds or makes the class of a tensor.
    pub(crate) async fn class(
        &mut self,
        shape: &[usize],
        layout: Layout,
        given: Given,
        capacity: usize,
    ) -> Result<(usize, Dims)> {
        self.core.class(&self.optimizer, shape, layout, given, capacity).await
    }

    /// Makes the ring, when all classes are known.
    pub(crate) async fn make_ring(&mut self) -> Result<()> {
        let gpu = self.core.gpu.clone();
        self.ring = Some(Ring::new(&gpu, &mut [&mut self.core]).await?);
        Ok(())
    }

    pub(crate) fn ring_buffer(&self) -> Option<&wgpu::Buffer> {
        self.ring.as_ref().map(|r| &r.buffer)
    }

    /// Checks everything, computes the constants of the next step and puts them into the ring.
    pub(crate) fn begin(&mut self) -> Result<Ticket> {
        self.optimizer.check()?;
        if self.optimizer.recipe() != self.core.classes.recipe {
            return Err(Error::Structure {
                optimizer: self.core.classes.recipe.name(),
                what: format!("its settings now select {}", self.optimizer.recipe().name()),
            });
        }
        let Some(ring) = &mut self.ring else {
            return Err(lost("it has no ring of constants"));
        };
        let t = self.t.saturating_add(1);
        self.core.classes.constants(&self.optimizer, t, GRAD_NEUTRAL, &mut ring.constants);
        ring.take(&self.core.gpu)
    }

    /// Counts the step; its constants stay until the submission is over, or never happens.
    pub(crate) fn end(&mut self, encoder: &wgpu::CommandEncoder, ticket: Ticket) {
        ticket.release_after(encoder);
        self.t = self.t.saturating_add(1);
    }
}

/// Tensors of one class that are dispatched together.
#[derive(Debug)]
pub(crate) struct Group {
    pub(crate) class: usize,
    pub(crate) layouts: Layouts,
    /// Whether its tiles begin and end where vectors of four do.
    by_four: bool,
    windows: Vec<[u32; WINDOW_WORDS]>,
    pub(crate) small: wgpu::Buffer,
    pub(crate) chunks: Vec<ChunkBuffers>,
}

#[derive(Debug)]
pub(crate) struct ChunkBuffers {
    table: wgpu::Buffer,
    pub(crate) slots: Vec<wgpu::Buffer>,
}

/// A range of a buffer to bind.
pub(crate) struct Bound<'a> {
    pub(crate) buffer: &'a wgpu::Buffer,
    pub(crate) offset: u64,
    pub(crate) size: u64,
}

impl<'a> Bound<'a> {
    /// Whether a vector of four begins at this word of it, and the last one is whole.
    fn by_four(&self, base: u32) -> bool {
        let even = |bytes: u64| bytes.is_multiple_of(16);
        even(self.offset) && even(base as u64 * 4) && even(self.size)
    }

    fn entry(&self, binding: u32) -> wgpu::BindGroupEntry<'a> {
        wgpu::BindGroupEntry {
            binding,
            resource: wgpu::BindingResource::Buffer(wgpu::BufferBinding {
                buffer: self.buffer,
                offset: self.offset,
                size: NonZeroU64::new(self.size),
            }),
        }
    }
}

/// A program, and all that it works on, bound.
#[derive(Clone, Debug)]
pub(crate) struct Ready {
    program: Arc<Pipelines>,
    group: wgpu::BindGroup,
}

/// A copy of the state of a group on the host.
#[derive(Debug)]
pub(crate) struct State {
    small: Vec<f32>,
    /// Per chunk and slot.
    full: Vec<Vec<Vec<f32>>>,
}

pub(crate) fn storage() -> wgpu::BufferUsages {
    wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_DST | wgpu::BufferUsages::COPY_SRC
}

/// A buffer of `len` floats that begin as `init`.
pub(crate) fn floats(
    device: &wgpu::Device,
    label: &str,
    len: usize,
    init: f64,
) -> Option<wgpu::Buffer> {
    if init != 0.0 {
        #[allow(clippy::cast_possible_truncation, reason = "an initial value, rounded once")]
        return Gpu::buffer_of(device, label, &vec![init as f32; len], storage());
    }
    // Buffers begin as zeros.
    Some(device.create_buffer(&wgpu::BufferDescriptor {
        label: Some(label),
        size: (len as u64 * 4).max(16),
        usage: storage(),
        mapped_at_creation: false,
    }))
}

impl Group {
    /// Cuts tensors and makes the buffers of their state.
    pub(crate) async fn new(
        core: &Core,
        class: usize,
        tensors: &[Dims],
        capacity: usize,
    ) -> Result<Self> {
        let Class { plan, program, .. } = &core.classes[class];
        let places = &program.places;
        let mut layouts = Layouts::default();
        for &dims in tensors {
            layouts.push(plan, places, dims, capacity);
        }
        Self::of(core, class, layouts).await
    }

    /// The buffers of the state of tensors that are cut already.
    pub(crate) async fn of(core: &Core, class: usize, layouts: Layouts) -> Result<Self> {
        let Class { plan, program, .. } = &core.classes[class];
        let binding = core.gpu.binding();
        let image = Image::new(&plan.graph, &program.places, layouts, binding)?;
        let made = core
            .gpu
            .checked("the state of the tensors", |device| {
                let small = Gpu::buffer_of(device, "gradstep small", &image.small, storage())?;
                let chunks = image.layouts.chunks.iter().zip(&image.tables);
                let chunks = chunks.map(|(chunk, table)| {
                    let slots = plan.graph.full_slots().map(|s| {
                        let decl = &plan.graph.slots[s];
                        floats(device, decl.name, chunk.len, decl.init)
                    });
                    Some(ChunkBuffers {
                        table: Gpu::buffer_of(device, "gradstep table", table, storage())?,
                        slots: slots.collect::<Option<_>>()?,
                    })
                });
                let chunks: Option<Vec<_>> = chunks.collect();
                Some((small, chunks?))
            })
            .await?;
        let Some((small, chunks)) = made else {
            return Err(lost("it made buffers that cannot be mapped"));
        };
        let Image { layouts, windows, .. } = image;
        Ok(Self { class, by_four: layouts.by_four(), layouts, windows, small, chunks })
    }

    /// The dispatches of a step, in order.
    pub(crate) fn calls(&self, core: &Core) -> Vec<Call> {
        let limit = core.gpu.device().limits().max_compute_workgroups_per_dimension;
        blueprint::calls(&core.classes[self.class].program.dispatches, &self.windows, limit)
    }

    /// Binds one chunk, with its parameters and gradients. In a pooled program both lie in `param`.
    pub(crate) fn bind<'b>(
        &self,
        device: &wgpu::Device,
        core: &Core,
        ring: &wgpu::Buffer,
        chunk: usize,
        (param, param_base): (&'b Bound<'b>, u32),
        (grad, grad_base): (Option<&'b Bound<'b>>, u32),
    ) -> Option<Ready> {
        let by_four = param.by_four(param_base) && grad.unwrap_or(param).by_four(grad_base);
        let compiled = &core.classes[self.class].compiled;
        let program = compiled.form(grad.is_none(), self.by_four && by_four)?;
        let mut words = self.windows[chunk];
        (words[0], words[1]) = (program.form.at(param_base), program.form.at(grad_base));
        let lent = |what| if what == Bind::Param { Some(param) } else { grad };
        self.ready(device, core, program, ring, chunk, &words, lent)
    }

    /// Binds one chunk of a definition that only measures, with its gradients and the word at which
    /// each begins in what is bound of it. One that is left out is none, and `none` is bound for it.
    pub(crate) fn bind_several<'b>(
        &self,
        device: &wgpu::Device,
        core: &Core,
        ring: &wgpu::Buffer,
        chunk: usize,
        grads: &[Option<Window<'b>>],
        none: &'b Bound<'b>,
    ) -> Option<Ready> {
        let by_four = grads.iter().flatten().all(|g| g.bound.by_four(g.base));
        let compiled = &core.classes[self.class].compiled;
        let program = compiled.form(false, self.by_four && by_four)?;
        let grad = |k: usize| grads.get(k)?.as_ref();
        let Form { given, .. } = program.form;
        let bases = (0..given.grads()).map(|k| Some(program.form.at(grad(k)?.base)));
        let words = blueprint::several(self.windows[chunk], bases);
        let lent = |what| match what {
            Bind::Grad(k) => Some(grad(k).map_or(none, |g| &g.bound)),
            _ => None,
        };
        self.ready(device, core, program, ring, chunk, &words, lent)
    }

    /// `lent` has what is bound and is not the group's own.
    #[allow(clippy::too_many_arguments, reason = "everything that is bound")]
    fn ready<'b>(
        &self,
        device: &wgpu::Device,
        core: &Core,
        program: &Arc<Pipelines>,
        ring: &wgpu::Buffer,
        chunk: usize,
        window: &[u32],
        lent: impl Fn(Bind) -> Option<&'b Bound<'b>>,
    ) -> Option<Ready> {
        let buffers = &self.chunks[chunk];
        let window =
            Gpu::buffer_of(device, "gradstep window", window, wgpu::BufferUsages::UNIFORM)?;
        let plan = &core.classes[self.class].plan;
        let mut entries = Vec::new();
        for (binding, what, bytes) in blueprint::bindings(plan, &program.program, program.form) {
            let whole = |buffer| wgpu::BindGroupEntry {
                binding,
                resource: wgpu::Buffer::as_entire_binding(buffer),
            };
            entries.push(match what {
                Bind::Hosts => Bound { buffer: ring, offset: 0, size: bytes }.entry(binding),
                Bind::Window => whole(&window),
                Bind::Table => whole(&buffers.table),
                Bind::Small => whole(&self.small),
                Bind::Grad(_) | Bind::Param => lent(what)?.entry(binding),
                Bind::Slot(k) => whole(&buffers.slots[k]),
            });
        }
        let group = device.create_bind_group(&wgpu::BindGroupDescriptor {
            label: Some("gradstep"),
            layout: &program.layout,
            entries: &entries,
        });
        Some(Ready { program: program.clone(), group })
    }

    /// Reads a slot of the tensor at `index` of this group.
    pub(crate) async fn read_slot(
        &self,
        core: &Core,
        index: usize,
        name: &str,
    ) -> Result<Vec<f32>> {
        let (slot, shape) = core.classes.slot(self.class, name)?;
        let class = &core.classes[self.class];
        let cut = &self.layouts.cuts[index];
        let mut out = vec![0.0; cut.dims.count(shape)];
        if let Some(k) = class.plan.graph.full_slots().position(|s| s == slot) {
            for piece in &self.layouts.pieces[index] {
                let to = &mut out[piece.elements.clone()];
                let buffer = &self.chunks[piece.chunk].slots[k];
                core.gpu.read(buffer, piece.at as u64 * 4, to).await?;
            }
        } else {
            let at = self.small_slot(core, index, slot);
            core.gpu.read(&self.small, at as u64 * 4, &mut out).await?;
        }
        Ok(out)
    }

    /// Overwrites a slot, in effect from the next submit on.
    pub(crate) fn write_slot(
        &self,
        core: &Core,
        index: usize,
        name: &str,
        values: &[f32],
    ) -> Result<()> {
        let (slot, shape) = core.classes.slot(self.class, name)?;
        let expected = self.layouts.cuts[index].dims.count(shape);
        if values.len() != expected {
            return Err(Error::Shape {
                what: format!("slot `{name}`"),
                expected: vec![expected],
                found: vec![values.len()],
            });
        }
        let class = &core.classes[self.class];
        if let Some(k) = class.plan.graph.full_slots().position(|s| s == slot) {
            for piece in &self.layouts.pieces[index] {
                let buffer = &self.chunks[piece.chunk].slots[k];
                core.gpu.write(buffer, piece.at as u64 * 4, &values[piece.elements.clone()])?;
            }
            return Ok(());
        }
        let at = self.small_slot(core, index, slot);
        core.gpu.write(&self.small, at as u64 * 4, values)
    }

    /// Where a slot of shape Scalar or alike of a tensor lies among the small values, in bytes.
    pub(crate) fn small_place(&self, core: &Core, index: usize, name: &str) -> u64 {
        let slots = &core.classes[self.class].plan.graph.slots;
        let slot = slots.iter().position(|s| s.name == name).unwrap_or(0);
        self.small_slot(core, index, slot) as u64 * 4
    }

    /// Copies the small values to the host.
    pub(crate) async fn read_small(&self, core: &Core) -> Result<State> {
        let words = usize::try_from(self.small.size() / 4).unwrap_or(0);
        let mut state = State { small: vec![0.0; words], full: Vec::new() };
        core.gpu.read(&self.small, 0, &mut state.small).await?;
        Ok(state)
    }

    /// Copies all state to the host, in one wait for each buffer.
    pub(crate) async fn read_state(&self, core: &Core) -> Result<State> {
        let words = |b: &wgpu::Buffer| usize::try_from(b.size() / 4).unwrap_or(0);
        let mut state = self.read_small(core).await?;
        for chunk in &self.chunks {
            let mut slots = Vec::new();
            for slot in &chunk.slots {
                let mut values = vec![0.0; words(slot)];
                core.gpu.read(slot, 0, &mut values).await?;
                slots.push(values);
            }
            state.full.push(slots);
        }
        Ok(state)
    }

    /// A slot of the tensor at `index` of this group, of a copy of its state.
    pub(crate) fn slot_of(
        &self,
        core: &Core,
        index: usize,
        name: &str,
        state: &State,
    ) -> Result<Vec<f32>> {
        let (slot, shape) = core.classes.slot(self.class, name)?;
        let class = &core.classes[self.class];
        if let Some(k) = class.plan.graph.full_slots().position(|s| s == slot) {
            let pieces = self.layouts.pieces[index].iter();
            let of = |p: &Piece| &state.full[p.chunk][k][p.at..p.at + p.elements.len()];
            return Ok(pieces.flat_map(of).copied().collect());
        }
        let at = self.small_slot(core, index, slot);
        Ok(state.small[at..at + self.layouts.cuts[index].dims.count(shape)].to_vec())
    }

    fn small_slot(&self, core: &Core, index: usize, slot: usize) -> usize {
        let places = &core.classes[self.class].program.places;
        blueprint::small_slot(places, &self.layouts, index, slot)
    }
}

pub(crate) fn begin(encoder: &mut wgpu::CommandEncoder) -> wgpu::ComputePass<'_> {
    encoder.begin_compute_pass(&wgpu::ComputePassDescriptor {
        label: Some("gradstep"),
        timestamp_writes: None,
    })
}
