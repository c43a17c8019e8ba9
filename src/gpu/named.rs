//! Many named tensors in the caller's own buffers.

use std::sync::Arc;

use super::device::{Gpu, lost};
use super::engine::{Core, Group, Ready, Ring, Ticket, begin, floats};
use super::flat::{Flat, Guard, whole};
use super::measure::{Measure, Place};
use super::ranges::{Lent, Pair, Who, Window};
use super::set::Set;
use crate::Outcome;
use crate::blueprint::{Call, Owner, Placed};
use crate::cpu::many::{AVERAGED, cannot_release, missing, no_average, not_begun, swapped, twice};
use crate::cut::{Chunk, Piece};
use crate::error::{Error, Result};
use crate::gradients::{Average, Between, Controls, FOLLOWED};
use crate::layout::Layout;
use crate::plan::Plan;
use crate::report::{Memory, Stats};
use crate::setup::{Groups, Key, Missing, Setup};
use crate::snapshot::{Snapshot, Values};
use crate::value::GRAD_NEUTRAL;

/// The optimizer of all tensors of a [`Setup`] whose parameters and gradients lie in the caller's
/// own buffers on the GPU; only state is kept here.
///
/// A step is put together from ranges of buffers, one call for each tensor, and recorded when all
/// are there:
/// ```no_run
/// # use gradstep::{Gradients, Group, Setup, gpu::{Gpu, wgpu}, optim::AdamW};
/// # async fn train(gpu: &Gpu, w: &wgpu::Buffer, dw: &wgpu::Buffer) -> gradstep::Result<()> {
/// let setup = Setup::new().tensor("w", [64, 32]).group(Group::new("all", AdamW::new(1e-3)));
/// let mut set = setup.gradients(Gradients::new().clip_norm(1.0)).gpu_foreign(gpu).await?;
///
/// let mut encoder = gpu.device().create_command_encoder(&Default::default());
/// let mut step = set.begin();
/// step.tensor("w", w.slice(..), dw.slice(..))?;
/// step.finish(&mut encoder)?;
/// gpu.queue().submit([encoder.finish()]);
/// # Ok(())
/// # }
/// ```
/// Ranges may begin at any multiple of four bytes, and are read faster where they begin at multiples of
/// 16; parameter and gradient of a tensor may lie in one buffer. A range that was seen lately is bound
/// already, and then nothing is allocated on the device.
///
/// # Clipping, the test for finite gradients, the dynamic loss scale
///
/// They run and stay on the device, as in a [`GpuOptimizer`](super::GpuOptimizer): nothing is read
/// back. A shader binds a few buffers only, six beside its own by WebGPU's default limits, and so many
/// tensors in buffers of their own cannot be measured in one dispatch: each six take one, which leaves
/// partial sums, and one for all adds them up and decides. That is three dispatches up to twelve
/// tensors, and nothing is copied. (A tensor larger than a binding counts as several, and a device that
/// binds more than eight storage buffers takes fewer dispatches.)
///
/// Beyond twelve there are three at most whatever the number of tensors: each step first copies the
/// gradients of the smaller ones into pages of the set's own, as large as a binding, and measures
/// those. That holds while larger ones and pages fill twelve bindings (400 million parameters by the
/// default limits); above it there is one more for each six bindings. It costs a copy for each of these
/// tensors, 4 bytes a parameter, and `COPY_SRC` of the buffers of their gradients. The step itself reads
/// gradients where they lie. With [`Setup::measure_in_place`] nothing is copied, and each six tensors
/// more take a dispatch more.
///
/// Dispatches grow with the number of tensors in any case, since each is stepped on its own: for many
/// small ones a `GpuOptimizer` takes far fewer.
#[derive(Debug)]
pub struct GpuForeign {
    set: Set,
    missing: Missing,
    ring: Ring,
    /// By number; none for frozen ones.
    tensors: Vec<Option<Member>>,
    measure: Option<Measure>,
    average: Option<Averages>,
    /// For each tensor the bindings in the step at hand, where it was given.
    chosen: Vec<Option<usize>>,
}

/// A tensor that is not frozen.
#[derive(Debug)]
struct Member {
    unit: usize,
    lent: Lent,
    /// None without averages or elements.
    followed: Option<Followed>,
}

#[derive(Debug)]
struct Averages {
    kind: Average,
    core: Core,
    /// A copy on the way of a swap.
    spare: wgpu::Buffer,
    /// The constants of a pass that begins an average which no step has begun.
    fill: Ticket,
}

/// The average of a parameter.
#[derive(Debug)]
struct Followed {
    group: Group,
    calls: Vec<Call>,
    /// One for each chunk.
    pages: Vec<wgpu::Buffer>,
    /// Whether a step that counts was recorded. The device may have skipped it.
    begun: bool,
    swapped: bool,
}

impl Setup {
    /// Prepares all tensors on the GPU, for parameters and gradients in the caller's own buffers.
    /// Compiles what is not compiled yet, and allocates state.
    ///
    /// # Errors
    /// [`Error::Setup`] for what does not fit together or with [`Setup::accumulate`], and those of
    /// [`Gpu::foreign`].
    pub async fn gpu_foreign(&self, gpu: &Gpu) -> Result<GpuForeign> {
        GpuForeign::new(self, gpu).await
    }
}

impl Followed {
    async fn new(core: &Core, len: usize, capacity: usize) -> Result<Self> {
        let (dims, _) = Layout::Vector.resolve(core.classes.recipe, &[len])?;
        let group = Group::new(core, 0, &[dims], capacity).await?;
        let made = core
            .gpu
            .checked("the averages", |device| {
                let page = |c: &Chunk| floats(device, "gradstep average", c.len, 0.0);
                group.layouts.chunks.iter().map(page).collect::<Option<Vec<_>>>()
            })
            .await?;
        let pages = made.ok_or_else(|| lost("it made buffers that cannot be mapped"))?;
        let calls = group.calls(core);
        Ok(Self { group, calls, pages, begun: false, swapped: false })
    }

    fn bind(
        &self,
        who: Who<'_>,
        core: &Core,
        ring: &wgpu::Buffer,
        param: wgpu::BufferSlice<'_>,
    ) -> Result<Vec<Ready>> {
        let bind = |piece: &Piece| {
            let input = Window::new(&core.gpu, param, &piece.elements);
            let page = whole(&self.pages[piece.chunk]);
            who.bound(&core.gpu, |device| {
                let (page, input) = ((&page, 0), (Some(&input.bound), input.base));
                self.group.bind(device, core, ring, piece.chunk, page, input)
            })
        };
        self.group.layouts.pieces[0].iter().map(bind).collect()
    }

    async fn read(&self, gpu: &Gpu, len: usize) -> Result<Vec<f32>> {
        let mut out = vec![0.0; len];
        for piece in &self.group.layouts.pieces[0] {
            gpu.read(&self.pages[piece.chunk], 0, &mut out[piece.elements.clone()]).await?;
        }
        Ok(out)
    }

    fn write(&self, gpu: &Gpu, values: &[f32]) -> Result<()> {
        let mut pieces = self.group.layouts.pieces[0].iter();
        pieces.try_for_each(|p| gpu.write(&self.pages[p.chunk], 0, &values[p.elements.clone()]))
    }
}

/// Where the gradient of a tensor lies in the step at hand. None: it is skipped, or frozen.
fn grad_of<'m>(
    tensors: &'m [Option<Member>],
    chosen: &[Option<usize>],
    tensor: usize,
) -> Option<Place<'m>> {
    let member = tensors[tensor].as_ref()?;
    Some(member.lent.bindings.get(chosen[tensor]?)?.grad())
}

impl GpuForeign {
    async fn new(setup: &Setup, gpu: &Gpu) -> Result<Self> {
        if setup.accumulation.is_some() {
            return Err(Error::Setup {
                what: "accumulation".into(),
                problem:
                    "sums of gradients take buffers beside the caller's, and this set has none"
                        .into(),
                remedy: "use `Setup::gpu`, which has them, or add gradients up in your own buffers"
                    .into(),
            });
        }
        let capacity = gpu.range_capacity();
        let mut set = Set::new(setup, gpu, Owner::Other, capacity).await?;
        if setup.gradients.needs_all() {
            let what = "clipping by the norm and tests of gradients";
            set.check_total(what, "leave them out, or make several sets of the tensors")?;
        }

        // The guard sees the gradients as one vector.
        let of = |t: &Placed| t.class.map_or(0, |_| t.dims.len());
        let lens: Vec<_> = set.tensors.iter().map(of).collect();
        let all = Measure::plan(gpu, &lens, setup.in_place);
        let gradients = &setup.gradients;
        let controls = gradients.needs_all().then(|| Controls::new(gradients.clone()));
        let mut guard = match &controls {
            Some(controls) => Some(Guard::core(gpu, controls, &all, Owner::Other, capacity).await?),
            None => None,
        };
        let mut average = match setup.average {
            Some(kind) => Some(Flat::core(gpu, &kind, Owner::Other, capacity).await?),
            None => None,
        };
        let flats = [&mut guard, &mut average].into_iter().filter_map(Option::as_mut);
        let mut cores: Vec<&mut Core> = set.cores.iter_mut().chain(flats).collect();
        let mut ring = Ring::new(gpu, &mut cores).await?;

        let mut measure = None;
        if let (Some(core), Some(controls)) = (guard, controls) {
            let guard = Guard::new(core, controls, &all).await?;
            measure = Some(Measure::new(gpu, all, &guard).await?);
            set.guard = Some(guard);
        }
        let mut tensors = Vec::new();
        for t in &set.tensors {
            let Some((unit, class)) = t.class else {
                tensors.push(None);
                continue;
            };
            let lent = Lent::new(&set.cores[unit], class, t.dims, capacity).await?;
            let followed = match &average {
                Some(core) if !t.dims.is_empty() => {
                    Some(Followed::new(core, t.dims.len(), capacity).await?)
                }
                _ => None,
            };
            tensors.push(Some(Member { unit, lent, followed }));
        }
        let average = match setup.average.zip(average) {
            Some((kind, mut core)) => {
                let most =
                    set.tensors.iter().map(|t| t.dims.len()).max().unwrap_or(0).min(capacity);
                let spare = gpu.checked("the averages", |d| floats(d, "gradstep spare", most, 0.0));
                let spare = spare.await?.ok_or_else(|| lost("it made no buffer"))?;
                core.classes.constants(&Between(kind), 1, GRAD_NEUTRAL, &mut ring.constants);
                let fill = ring.keep(gpu)?;
                Some(Averages { kind, core, spare, fill })
            }
            None => None,
        };
        let chosen = vec![None; tensors.len()];
        Ok(Self { set, missing: setup.missing, ring, tensors, measure, average, chosen })
    }

    /// Begins a step: nothing happens before [`GpuStepping::finish`].
    pub fn begin(&mut self) -> GpuStepping<'_> {
        self.chosen.fill(None);
        GpuStepping { of: self }
    }

    /// Begins a step in which each tensor is recorded as soon as its gradient is, so that the buffer
    /// of the gradient can be used again: see [`GpuRelease`].
    ///
    /// # Errors
    /// [`Error::Setup`] if gradients are clipped by their norm, tested, or scaled dynamically, which
    /// takes all of them first; [`Error::Tensor`] while an average is swapped in; [`Error::In`],
    /// [`Error::Structure`], [`Error::RingFull`] or [`Error::DeviceLost`]. No step is counted then.
    pub fn begin_release(&mut self) -> Result<GpuRelease<'_>> {
        if self.set.guard.is_some() {
            return Err(cannot_release());
        }
        let ticket = Arc::new(self.prepare()?);
        self.set.t = self.set.t.saturating_add(1);
        self.chosen.fill(None);
        Ok(GpuRelease { of: self, ticket })
    }

    /// Checks what is given of a tensor, and binds it.
    fn choose(
        &mut self,
        key: Key<'_>,
        param: wgpu::BufferSlice<'_>,
        grad: wgpu::BufferSlice<'_>,
    ) -> Result<usize> {
        let (index, unit) = self.set.groups.active(key)?;
        let Some(member) = &mut self.tensors[index] else {
            // Only frozen tensors have none, and those are not active.
            return Err(missing(&self.set.groups, index));
        };
        let who = Who::Name(&self.set.groups.tensors[index].info.name);
        let len = member.lent.dims.len();
        let pair = Pair::new(who, len, param, grad)?;
        if let Some(measure) = &self.measure {
            measure.check(who, index, &grad, len)?;
        }
        if self.chosen[index].is_some() {
            return Err(twice(&self.set.groups, index));
        }
        let ring = &self.ring.buffer;
        let follows = || match (&self.average, &member.followed) {
            (Some(average), Some(to)) => to.bind(who, &average.core, ring, param),
            _ => Ok(Vec::new()),
        };
        let chosen = member.lent.find(who, &self.set.cores[unit], ring, &pair, follows)?;
        self.chosen[index] = Some(chosen);
        Ok(index)
    }

    /// The tensor that a step needs and was not given.
    fn check_given(&self) -> Result<()> {
        let open = |i: &usize| self.tensors[*i].is_some() && self.chosen[*i].is_none();
        match (0..self.tensors.len()).find(open) {
            Some(i) if self.missing == Missing::Error => Err(missing(&self.set.groups, i)),
            _ => Ok(()),
        }
    }

    /// Checks everything else and uploads the constants of the next step.
    fn prepare(&mut self) -> Result<Ticket> {
        self.check_swapped()?;
        let t = self.set.t.saturating_add(1);
        let constants = &mut self.ring.constants;
        self.set.constants(1.0, constants)?;
        if let Some(average) = self.average.as_mut().filter(|a| a.kind.counts(t)) {
            average.core.classes.constants(&average.kind, t, GRAD_NEUTRAL, constants);
        }
        self.ring.take(&self.set.gpu)
    }

    fn record(&mut self, encoder: &mut wgpu::CommandEncoder) -> Result<()> {
        self.check_given()?;
        if let (Some(measure), Some(guard)) = (&mut self.measure, &self.set.guard) {
            let given = |tensor| grad_of(&self.tensors, &self.chosen, tensor);
            measure.bind(&guard.flat, &self.ring.buffer, given)?;
        }
        let ticket = self.prepare()?;
        self.set.t = self.set.t.saturating_add(1);
        if let (Some(measure), Some(guard)) = (&self.measure, &self.set.guard) {
            let given = |tensor| grad_of(&self.tensors, &self.chosen, tensor);
            measure.record(&guard.flat, encoder, &ticket, given);
            let averages = self.average.iter().map(|a| &a.core);
            let followers = self.set.cores.iter().chain(averages);
            guard.encode_decision(encoder, &self.ring, &ticket, followers);
        }
        {
            let mut pass = begin(encoder);
            (0..self.tensors.len()).for_each(|i| self.dispatch(&mut pass, i, &ticket));
        }
        ticket.release_after(encoder);
        Ok(())
    }

    /// Records the step of a tensor that was given, and of its average: step `t` is counted already.
    fn dispatch(&mut self, pass: &mut wgpu::ComputePass<'_>, index: usize, ticket: &Ticket) {
        let (Some(member), Some(chosen)) = (&mut self.tensors[index], self.chosen[index]) else {
            return;
        };
        member.lent.dispatch(pass, &self.set.cores[member.unit], chosen, ticket);
        let average = self.average.as_ref().filter(|a| a.kind.counts(self.set.t));
        let bindings = member.lent.bindings.get(chosen);
        if let (Some(average), Some(to), Some(b)) = (average, &mut member.followed, bindings) {
            average.core.dispatch(pass, &to.group, &to.calls, &b.follows, ticket);
            to.begun = true;
        }
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

    /// What the last step that was submitted did to each tensor that is not frozen, in order: to one
    /// that was left out, the one before. Submits copies and waits for them.
    ///
    /// # Errors
    /// [`Error::Setup`] without [`Setup::watch`], [`Error::DeviceLost`].
    pub async fn stats(&self) -> Result<Vec<(&str, Stats)>> {
        self.set.check_watched()?;
        let mut out = Vec::new();
        for (i, member) in self.tensors.iter().enumerate() {
            let Some(member) = member else { continue };
            let taken = match &member.lent.group {
                Some(group) => Some((group, group.read_small(&self.set.cores[member.unit]).await?)),
                None => None,
            };
            let place = taken.as_ref().map(|(group, state)| (*group, 0, state));
            out.extend(self.set.stats_of(i, place)?);
        }
        Ok(out)
    }

    /// What the state takes.
    pub fn memory(&self) -> Memory {
        let gathered = self.measure.as_ref().map_or(0, Measure::copied_bytes);
        Memory { gathered, ..self.set.memory(self.average.as_ref().map(|a| &a.spare), false) }
    }

    /// Where the loss scale of the next step lies on the device, as an `f32`: the buffer and the
    /// offset in bytes. A shader that makes gradients multiplies by it there. None where nothing is
    /// measured (no clipping by the norm, no test, no dynamic scale): it is that of the setup then.
    pub fn loss_scale(&self) -> Option<(&wgpu::Buffer, u64)> {
        Some(self.set.guard.as_ref()?.place("loss_scale"))
    }

    /// The number of dispatches of a step with all tensors, averages included.
    pub fn dispatches(&self) -> usize {
        let of = |m: &Member| {
            m.lent.calls.len() + m.followed.as_ref().map_or(0, |followed| followed.calls.len())
        };
        self.tensors.iter().flatten().map(of).sum::<usize>() + self.guard_dispatches()
    }

    /// Those of them that clip, test and scale gradients, by WebGPU's default limits: three at most up to
    /// 400 million parameters; with [`Setup::measure_in_place`] one for all, and one for each six tensors
    /// (or pieces of one that is larger than a binding).
    pub fn guard_dispatches(&self) -> usize {
        self.set.guard_dispatches()
    }

    /// Forgets the caller's buffers. Those that the last steps used are kept alive by their
    /// bindings, a few for each tensor, until others take their place.
    pub fn forget_buffers(&mut self) {
        self.tensors.iter_mut().flatten().for_each(|m| m.lent.bindings.clear());
        self.measure.iter_mut().for_each(Measure::forget);
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

    /// Bytes of the optimizer's state, averages not counted.
    pub fn state_bytes(&self) -> usize {
        self.set.state_bytes()
    }

    fn member(&self, key: Key<'_>) -> Result<&Member> {
        let (index, _) = self.set.groups.active(key)?;
        self.tensors[index].as_ref().ok_or_else(|| missing(&self.set.groups, index))
    }

    /// Copies a slot of a tensor to the host. Submits a copy and waits for it.
    ///
    /// # Errors
    /// [`Error::Tensor`], [`Error::NoSlot`] or [`Error::DeviceLost`].
    pub async fn read_slot<'k>(&self, tensor: impl Into<Key<'k>>, name: &str) -> Result<Vec<f32>> {
        let member = self.member(tensor.into())?;
        match &member.lent.group {
            Some(group) => group.read_slot(&self.set.cores[member.unit], 0, name).await,
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
        let member = self.member(tensor.into())?;
        match &member.lent.group {
            Some(group) => group.write_slot(&self.set.cores[member.unit], 0, name, values),
            None => Ok(()),
        }
    }

    /// Copies the average of a parameter to the host; that is the parameter while they are swapped.
    ///
    /// # Errors
    /// [`Error::Tensor`], [`Error::DeviceLost`], or [`Error::Setup`] without [`Setup::average`].
    pub async fn read_average<'k>(&self, tensor: impl Into<Key<'k>>) -> Result<Vec<f32>> {
        let member = self.member(tensor.into())?;
        self.average.as_ref().ok_or_else(no_average)?;
        match &member.followed {
            Some(followed) => followed.read(&self.set.gpu, member.lent.dims.len()).await,
            None => Ok(Vec::new()),
        }
    }

    /// Records the exchange of a parameter with its average, to evaluate with it; a second call swaps
    /// them back. No step is taken while one is swapped. As long as the device has skipped every step
    /// of it, an average is the parameter.
    ///
    /// # Errors
    /// [`Error::Tensor`] for a tensor that is not registered or frozen, and for a range of another
    /// size or of a buffer without the usages `STORAGE`, `COPY_SRC` and `COPY_DST`; [`Error::Setup`]
    /// without [`Setup::average`] or before the first step that counts; [`Error::DeviceLost`].
    pub fn encode_swap<'k>(
        &mut self,
        encoder: &mut wgpu::CommandEncoder,
        tensor: impl Into<Key<'k>>,
        param: wgpu::BufferSlice<'_>,
    ) -> Result<()> {
        const COPY: wgpu::BufferUsages = wgpu::BufferUsages::STORAGE
            .union(wgpu::BufferUsages::COPY_SRC)
            .union(wgpu::BufferUsages::COPY_DST);
        let (index, _) = self.set.groups.active(tensor.into())?;
        let average = self.average.as_ref().ok_or_else(no_average)?;
        let Some(member) = &mut self.tensors[index] else {
            return Err(missing(&self.set.groups, index));
        };
        let who = Who::Name(&self.set.groups.tensors[index].info.name);
        let usages = (COPY, "create it with BufferUsages::STORAGE, COPY_SRC and COPY_DST");
        who.check("parameter", &param, member.lent.dims.len(), usages)?;
        let Some(followed) = &mut member.followed else { return Ok(()) };
        if !followed.begun {
            return Err(not_begun());
        }
        let (core, spare) = (&average.core, &average.spare);
        let binds = followed.bind(who, core, &self.ring.buffer, param)?;
        let (group, calls) = (&followed.group, &followed.calls);
        core.dispatch(&mut begin(encoder), group, calls, &binds, &average.fill);
        for piece in &followed.group.layouts.pieces[0] {
            let at = param.offset() + piece.elements.start as u64 * 4;
            let (size, page) = (piece.elements.len() as u64 * 4, &followed.pages[piece.chunk]);
            encoder.copy_buffer_to_buffer(param.buffer(), at, spare, 0, size);
            encoder.copy_buffer_to_buffer(page, 0, param.buffer(), at, size);
            encoder.copy_buffer_to_buffer(spare, 0, page, 0, size);
        }
        followed.swapped = !followed.swapped;
        Ok(())
    }

    fn check_swapped(&self) -> Result<()> {
        let is = |m: &Option<Member>| {
            m.as_ref().and_then(|m| m.followed.as_ref()).is_some_and(|f| f.swapped)
        };
        match self.tensors.iter().position(is) {
            Some(i) => Err(swapped(&self.set.groups, i)),
            None => Ok(()),
        }
    }

    /// Everything that is needed to go on from here, but for the parameters, which belong to the
    /// caller: see [`Snapshot::set_param`]. Submits copies and waits for them.
    ///
    /// # Errors
    /// [`Error::Tensor`] while an average is swapped in, [`Error::DeviceLost`].
    pub async fn snapshot(&self) -> Result<Snapshot> {
        self.check_swapped()?;
        let mut snapshot = self.set.outline(self.average.is_some());
        for (member, state) in self.tensors.iter().zip(&mut snapshot.tensors) {
            let Some(member) = member else { continue };
            let core = &self.set.cores[member.unit];
            let taken = match &member.lent.group {
                Some(group) => Some((group, group.read_state(core).await?)),
                None => None,
            };
            for slot in &mut state.slots {
                let values = match (slot.name.as_str(), &self.average, &member.followed, &taken) {
                    (AVERAGED, Some(_), Some(followed), _) => {
                        followed.read(&self.set.gpu, member.lent.dims.len()).await?
                    }
                    (FOLLOWED, Some(average), Some(followed), _) => {
                        followed.group.read_slot(&average.core, 0, FOLLOWED).await?
                    }
                    (name, .., Some((group, state))) => group.slot_of(core, 0, name, state)?,
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
    /// next submit on. Parameters are the caller's, and hyper-parameters stay as they are: see
    /// [`Groups::apply_hypers`].
    ///
    /// # Errors
    /// [`Error::Snapshot`] that lists all differences; nothing has changed then. [`Error::Tensor`]
    /// while an average is swapped in, [`Error::DeviceLost`].
    pub fn restore(&mut self, snapshot: &Snapshot) -> Result<()> {
        self.check_swapped()?;
        snapshot.check(&self.set.outline(self.average.is_some()))?;
        for state in &snapshot.tensors {
            let Some(id) = self.set.groups.id(&state.name) else { continue };
            let Some(member) = &mut self.tensors[id.index()] else { continue };
            for slot in &state.slots {
                let values = slot.values.to::<f32>();
                match (slot.name.as_str(), &self.average, &mut member.followed) {
                    (AVERAGED, Some(_), Some(followed)) => {
                        followed.write(&self.set.gpu, &values)?;
                    }
                    (FOLLOWED, Some(average), Some(followed)) => {
                        followed.group.write_slot(&average.core, 0, FOLLOWED, &values)?;
                        followed.begun = values.iter().any(|&n| n > 0.0);
                    }
                    (name, ..) => {
                        if let Some(group) = &member.lent.group {
                            group.write_slot(&self.set.cores[member.unit], 0, name, &values)?;
                        }
                    }
                }
            }
        }
        self.set.write_numbers(snapshot)?;
        self.set.t = snapshot.step;
        Ok(())
    }
}

/// A step of a [`GpuForeign`] that is being put together. Dropped, it has done nothing.
#[derive(Debug)]
pub struct GpuStepping<'s> {
    of: &'s mut GpuForeign,
}

impl GpuStepping<'_> {
    /// Names the ranges of the parameter and the gradient of a tensor, each of exactly its size.
    ///
    /// # Errors
    /// [`Error::Tensor`] for a tensor that is not registered, frozen or given twice, and for a range
    /// that cannot be used: of another size, not at a multiple of 4 bytes, or of a buffer without the
    /// usage `STORAGE` (and `COPY_SRC`, for gradients that are copied to be measured); [`Error::GpuLimit`] where
    /// parameter and gradient lie in one buffer farther apart than a binding; [`Error::DeviceLost`].
    pub fn tensor<'k>(
        &mut self,
        tensor: impl Into<Key<'k>>,
        param: wgpu::BufferSlice<'_>,
        grad: wgpu::BufferSlice<'_>,
    ) -> Result<()> {
        self.of.choose(tensor.into(), param, grad).map(|_| ())
    }

    /// Records the step.
    ///
    /// Steps recorded before one submission are steps one after another. A step that is recorded
    /// and never submitted counts in the step number, and nowhere else.
    ///
    /// # Errors
    /// [`Error::Tensor`] for a tensor without a gradient, or while an average is swapped in;
    /// [`Error::In`], [`Error::Structure`], [`Error::RingFull`] or [`Error::DeviceLost`]; nothing
    /// is recorded then.
    pub fn finish(self, encoder: &mut wgpu::CommandEncoder) -> Result<()> {
        self.of.record(encoder)
    }
}

/// A step of a [`GpuForeign`] in which each tensor is recorded at once, so that gradients need not
/// all be there together.
///
/// One buffer may serve for all gradients: what is recorded before a tensor's step writes its
/// gradient, what comes after it may overwrite that. Encoders may be submitted in between, one for
/// each tensor if that suits the backward pass:
/// ```no_run
/// # use gradstep::gpu::{Gpu, GpuForeign, wgpu};
/// # fn train(gpu: &Gpu, set: &mut GpuForeign, params: &[(&str, wgpu::Buffer)],
/// #          grad: &wgpu::Buffer) -> gradstep::Result<()> {
/// let mut step = set.begin_release()?;
/// for (name, param) in params.iter().rev() {
///     let mut encoder = gpu.device().create_command_encoder(&Default::default());
///     // … the backward pass writes the gradient of this parameter …
///     step.tensor(&mut encoder, *name, param.slice(..), grad.slice(..param.size()))?;
///     gpu.queue().submit([encoder.finish()]);
/// }
/// step.finish()?;
/// # Ok(())
/// # }
/// ```
/// Parameters are those of a whole step, bit for bit. The step is counted when it begins; a tensor
/// that fails is unchanged, and so is one whose encoder is never submitted. The constants of the
/// step are kept until the last of its encoders is finished or dropped.
#[derive(Debug)]
pub struct GpuRelease<'s> {
    of: &'s mut GpuForeign,
    ticket: Arc<Ticket>,
}

impl GpuRelease<'_> {
    /// Records the step of one tensor.
    ///
    /// # Errors
    /// As for [`GpuStepping::tensor`]; nothing is recorded then.
    pub fn tensor<'k>(
        &mut self,
        encoder: &mut wgpu::CommandEncoder,
        tensor: impl Into<Key<'k>>,
        param: wgpu::BufferSlice<'_>,
        grad: wgpu::BufferSlice<'_>,
    ) -> Result<()> {
        let index = self.of.choose(tensor.into(), param, grad)?;
        self.of.dispatch(&mut begin(encoder), index, &self.ticket);
        self.ticket.hold(encoder);
        Ok(())
    }

    /// Ends the step.
    ///
    /// # Errors
    /// [`Error::Tensor`] for a tensor that was not given; the others are recorded.
    pub fn finish(self) -> Result<()> {
        self.of.check_given()
    }
}
