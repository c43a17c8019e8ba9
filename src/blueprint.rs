//! What a device is to hold and to run, before there is one: the kinds of tensors, what is in their
//! buffers, what is bound and what is dispatched. The GPU backend is made from it, and so is an
//! exported plan: the two cannot disagree.

use std::ops::{Deref, Range};
use std::sync::Arc;

use crate::cpu::many::AVERAGED;
use crate::cut::{GATHER_WORDS, Layouts, whole_rows};
use crate::definition::{Optimizer, Recipe};
use crate::error::{Error, Result};
use crate::gradients::{FOLLOWED, REMEMBERED};
use crate::layout::{Dims, Layout};
use crate::plan::Plan;
use crate::setup::Groups;
use crate::snapshot::{SlotState, Snapshot, Values, slot_shape};
use crate::text::joined;
use crate::trace::{Graph, Kind, Watch};
use crate::value::{GRAD, Shape};
use crate::wgsl::{self, Dispatch, FIRST_GRAD, FIRST_SLOT, Form, Given, PARAM, Places, Program};

/// Alignment of a class's constants: what WebGPU promises for uniforms.
pub(crate) const UNIFORM_ALIGN: u64 = 256;

/// Words of the uniform `window`: those of a chunk, and of each gradient where several are bound.
pub(crate) const WINDOW_WORDS: usize = 8;
const GRAD_WORDS: usize = 4;

/// Tensors of one definition that run by one plan, with what a backend has compiled of it.
#[derive(Debug)]
pub(crate) struct Class<X> {
    kind: Kind,
    /// Whether its tensors can be taken four columns at once.
    pub(crate) vectors: bool,
    pub(crate) plan: Plan,
    pub(crate) program: Arc<Program>,
    #[cfg_attr(not(feature = "gpu"), allow(dead_code, reason = "an export compiles nothing"))]
    pub(crate) compiled: X,
    /// Where its constants lie among those of its definition.
    offset: u64,
    values: Vec<f64>,
}

/// The classes of one definition, and where their constants lie.
#[derive(Debug)]
pub(crate) struct Classes<X> {
    pub(crate) recipe: Recipe,
    pub(crate) watch: Watch,
    pub(crate) owner: Owner,
    list: Vec<Class<X>>,
    /// Whether four do not divide the columns of some matrix: of those whose tiles have no whole rows, and
    /// of those whose tiles have.
    uneven: [bool; 2],
    /// Where its constants begin in a set of them, and how many words they are.
    base: u64,
    words: usize,
}

/// The class of a tensor: there already, or the plan of the one to add and whether its tensors can be
/// taken four columns at once.
#[derive(Debug)]
pub(crate) enum Found {
    Known(usize),
    New(Box<Plan>, bool),
}

/// Whose memory parameters and gradients lie in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Owner {
    /// The library's own: all tensors of a class are dispatched together, and each has some elements to
    /// itself behind its last one.
    #[cfg_attr(not(feature = "gpu"), allow(dead_code, reason = "an export has no memory"))]
    Library,
    /// Somebody else's: each tensor is dispatched alone.
    Other,
}

/// Columns that a thread takes at once, where it takes more than one.
pub(crate) const FOUR: usize = 4;

impl<X> Deref for Classes<X> {
    type Target = [Class<X>];

    fn deref(&self) -> &[Class<X>] {
        &self.list
    }
}

impl<X> Classes<X> {
    pub(crate) fn new(recipe: Recipe, watch: Watch, owner: Owner) -> Self {
        Self { recipe, watch, owner, list: Vec::new(), uneven: [false; 2], base: 0, words: 0 }
    }

    fn resolve(
        &self,
        shape: &[usize],
        layout: Layout,
        capacity: usize,
    ) -> Result<(Dims, Graph, bool)> {
        let (dims, graph) = layout.resolve_watched(self.recipe, shape, self.watch)?;
        let fused = whole_rows(&dims, capacity);
        Ok((dims, graph, fused))
    }

    /// Takes note of a tensor, before any class is made: all tensors that are dispatched together are
    /// taken four columns at once, or none.
    #[cfg(feature = "gpu")]
    pub(crate) fn expect(
        &mut self,
        shape: &[usize],
        layout: Layout,
        capacity: usize,
    ) -> Result<()> {
        if self.owner == Owner::Other {
            return Ok(());
        }
        let (dims, _, fused) = self.resolve(shape, layout, capacity)?;
        self.uneven[usize::from(fused)] |=
            dims.kind == Kind::Matrix && !dims.cols.is_multiple_of(FOUR);
        Ok(())
    }

    /// Finds the class of a tensor. `capacity` is the number of elements that one binding holds.
    pub(crate) fn find(
        &self,
        optimizer: &dyn Optimizer,
        shape: &[usize],
        layout: Layout,
        capacity: usize,
    ) -> Result<(Dims, Found)> {
        let (dims, mut graph, fused) = self.resolve(shape, layout, capacity)?;
        if u32::try_from(dims.len()).is_err() {
            return Err(Error::TooLarge {
                shape: shape.to_vec(),
                problem: format!("{} elements, and the GPU counts to {}", dims.len(), u32::MAX),
            });
        }
        let vectors = match (self.owner, dims.kind) {
            (Owner::Other, _) => dims.cols.is_multiple_of(FOUR),
            (Owner::Library, Kind::Matrix) => !self.uneven[usize::from(fused)],
            (Owner::Library, _) => true,
        };
        let is =
            |c: &Class<X>| c.kind == dims.kind && c.plan.fused == fused && c.vectors == vectors;
        if let Some(class) = self.list.iter().position(is) {
            return Ok((dims, Found::Known(class)));
        }
        crate::host::adopt(&mut graph, optimizer)?;
        let plan = match dims.kind {
            Kind::Matrix if !fused => Plan::cut(&graph)?,
            _ => Plan::new(graph, fused)?,
        };
        Ok((dims, Found::New(Box::new(plan), vectors)))
    }

    /// Adds a class with its printed plan.
    pub(crate) fn add(
        &mut self,
        plan: Plan,
        vectors: bool,
        program: Arc<Program>,
        compiled: X,
    ) -> usize {
        let offset = (self.words * 4) as u64;
        let bytes = program.hosts_bytes().next_multiple_of(UNIFORM_ALIGN);
        self.words += usize::try_from(bytes / 4).unwrap_or(64);
        let values = vec![0.0; plan.graph.nodes.len()];
        let kind = plan.graph.kind;
        self.list.push(Class { kind, vectors, plan, program, compiled, offset, values });
        self.list.len() - 1
    }

    /// Computes the constants of step `t`.
    pub(crate) fn constants(
        &mut self,
        optimizer: &dyn Optimizer,
        t: u64,
        grad: [f64; 3],
        constants: &mut [f32],
    ) {
        for class in &mut self.list {
            let hyper = |name: &str| crate::host::hyper(optimizer, grad, name);
            crate::host::eval_all(&class.plan, &mut class.values, t, hyper);
            let first = usize::try_from((self.base + class.offset) / 4).unwrap_or(0);
            // The step goes ahead, unless it is decided otherwise on the device.
            constants[first] = 1.0;
            for (to, &n) in constants[first + 1..].iter_mut().zip(&class.program.hosts) {
                #[allow(clippy::cast_possible_truncation, reason = "rounded once, here")]
                let value = class.values[n] as f32;
                // A shader may assume that there is no infinity.
                *to = value.clamp(f32::MIN, f32::MAX);
            }
        }
    }

    /// Where the constants of a class begin in a set of them, in bytes.
    pub(crate) fn offset(&self, class: usize) -> u64 {
        self.base + self.list[class].offset
    }

    /// Where what is decided on the device replaces constants: offset and bytes for each class.
    pub(crate) fn decided(&self) -> impl Iterator<Item = (u64, u64)> {
        self.list.iter().map(|class| {
            let words = 1 + class.program.grad_words(&class.plan) as u64;
            (self.base + class.offset, words * 4)
        })
    }

    /// A slot of a class by name. Vectors and matrices of one definition may declare other slots.
    #[cfg(feature = "gpu")]
    pub(crate) fn slot(&self, class: usize, name: &str) -> Result<(usize, Shape)> {
        let slots = &self.list[class].plan.graph.slots;
        let found = slots.iter().position(|s| s.name == name);
        found.map(|slot| (slot, slots[slot].shape)).ok_or_else(|| Error::NoSlot {
            definition: self.recipe.name(),
            name: name.into(),
            known: joined(slots.iter().map(|s| s.name), ", "),
        })
    }
}

/// Gives all classes their places in a set of constants, when all are known. Returns its words.
pub(crate) fn place_constants<'c, X: 'c>(all: impl Iterator<Item = &'c mut Classes<X>>) -> usize {
    let mut words = 0;
    for classes in all {
        classes.base = (words * 4) as u64;
        words += classes.words;
    }
    words.max(64)
}

/// What is bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Bind {
    /// The constants of a step.
    Hosts,
    Window,
    Table,
    Small,
    /// A gradient, by its place among those that are bound at once.
    Grad(usize),
    Param,
    /// A full-size slot, by its place among them.
    Slot(usize),
}

impl Bind {
    pub(crate) fn is_uniform(self) -> bool {
        matches!(self, Self::Hosts | Self::Window)
    }

    pub(crate) fn is_read_only(self) -> bool {
        matches!(self, Self::Table | Self::Grad(_))
    }
}

/// What a program binds where, and how many bytes at least.
pub(crate) fn bindings(plan: &Plan, program: &Program, form: Form) -> Vec<(u32, Bind, u64)> {
    let (given, element) = (form.given, form.element());
    let several = matches!(given, Given::Several(_));
    let window = WINDOW_WORDS + if several { GRAD_WORDS * given.grads() } else { 0 };
    let mut list = vec![
        (0, Bind::Hosts, program.hosts_bytes()),
        (1, Bind::Window, window as u64 * 4),
        (2, Bind::Table, 4),
        (3, Bind::Small, 4),
    ];
    list.extend((FIRST_GRAD..).zip(0..given.grads()).map(|(at, k)| (at, Bind::Grad(k), element)));
    if !several {
        list.push((PARAM, Bind::Param, element));
    }
    let slots = 0..plan.graph.full_slots().count();
    list.extend((FIRST_SLOT..).zip(slots).map(|(binding, k)| (binding, Bind::Slot(k), element)));
    list
}

/// The uniform `window` of a chunk in which several gradients are bound: for each the element at which it
/// begins in what is bound of it. None: it is left out.
pub(crate) fn several(
    chunk: [u32; WINDOW_WORDS],
    grads: impl Iterator<Item = Option<u32>>,
) -> Vec<u32> {
    let mut words = chunk.to_vec();
    words.extend(grads.flat_map(|g| [g.unwrap_or(0), u32::from(g.is_some()), 0, 0]));
    words
}

/// Refuses a plan that binds more storage buffers than a shader may.
pub(crate) fn check_storage_buffers(plan: &Plan, given: Given, available: u32) -> Result<()> {
    let needed = wgsl::storage_buffers(plan, given);
    if needed <= available {
        return Ok(());
    }
    let slots: Vec<_> = plan.graph.full_slots().map(|s| plan.graph.slots[s].name).collect();
    Err(Error::GpuLimit {
        what: format!("{} with its full-size slots {}", plan.graph.name, joined(slots, ", ")),
        needed: needed.into(),
        limit: "maxStorageBuffersPerShaderStage",
        available: available.into(),
        remedy: "use fewer full-size slots, or request a device with a higher limit",
    })
}

/// The number of elements that fit one binding of this many bytes.
pub(crate) fn capacity(bytes: u64) -> usize {
    usize::try_from(bytes / UNIFORM_ALIGN * (UNIFORM_ALIGN / 4)).unwrap_or(usize::MAX / 4)
}

/// The same for a range that begins anywhere in a buffer: it takes a little more where it begins
/// between two places that can be bound.
pub(crate) fn range_capacity(bytes: u64, alignment: u64) -> usize {
    capacity(bytes).saturating_sub(usize::try_from(alignment / 4).unwrap_or(0))
}

/// How bytes `from..upto` of a buffer are bound: offset, size, and the word at which they begin there.
pub(crate) fn bound(from: u64, upto: u64, alignment: u64) -> (u64, u64, u32) {
    let offset = from / alignment * alignment;
    (offset, upto - offset, u32::try_from((from - offset) / 4).unwrap_or(0))
}

/// What the buffers of a group of tensors hold at the beginning, parameters and gradients aside.
#[derive(Debug)]
pub(crate) struct Image {
    pub(crate) layouts: Layouts,
    pub(crate) small: Vec<f32>,
    pub(crate) tables: Vec<Vec<u32>>,
    /// The uniform `window` of each chunk, but for its first two words.
    pub(crate) windows: Vec<[u32; WINDOW_WORDS]>,
}

/// Words of the window that count the work of a chunk.
const N_TILES: usize = 3;
const N_GATHERS: usize = 5;
const N_TENSORS: usize = 6;

impl Image {
    /// Of tensors that are cut. `binding` is the number of bytes that a binding holds.
    pub(crate) fn new(
        graph: &Graph,
        places: &Places,
        layouts: Layouts,
        binding: u64,
    ) -> Result<Self> {
        let too_much = |what: &str, needed: usize| Error::GpuLimit {
            what: format!("{what} of {}", graph.name),
            needed: needed as u64,
            limit: "maxStorageBufferBindingSize",
            available: binding,
            remedy: "split the tensors over several arenas, or choose a layout with less state",
        };
        if layouts.small_len as u64 * 4 > binding || u32::try_from(layouts.small_len).is_err() {
            return Err(too_much("the row and column statistics", layouts.small_len * 4));
        }
        let mut small = vec![0.0f32; layouts.small_len];
        for (tensor, cut) in layouts.tensors.iter().zip(&layouts.cuts) {
            for (s, decl) in graph.slots.iter().enumerate() {
                if decl.shape != Shape::Full {
                    let at = tensor[3] as usize + places.slot(s, &cut.dims);
                    #[allow(clippy::cast_possible_truncation, reason = "rounded once")]
                    small[at..at + cut.dims.count(decl.shape)].fill(decl.init as f32);
                }
            }
        }
        let word = |x: usize| u32::try_from(x).unwrap_or(u32::MAX);
        let (mut tables, mut windows) = (Vec::new(), Vec::new());
        for (c, chunk) in layouts.chunks.iter().enumerate() {
            let (table, tiles, gathers) = layouts.table(c);
            if table.len() as u64 * 4 > binding {
                return Err(too_much("the work list", table.len() * 4));
            }
            let mut window = [0; WINDOW_WORDS];
            window[2] = word(tiles);
            window[N_TILES] = word(chunk.tiles.len());
            window[4] = word(gathers);
            window[N_GATHERS] = word((table.len() - gathers) / GATHER_WORDS);
            window[N_TENSORS] = word(layouts.tensors.len());
            tables.push(table);
            windows.push(window);
        }
        Ok(Self { layouts, small, tables, windows })
    }
}

/// One dispatch of a step.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Call {
    pub(crate) pipeline: usize,
    pub(crate) chunk: usize,
    pub(crate) groups: (u32, u32),
}

/// The dispatches of a step, in order, over chunks with these windows. `limit` is the greatest number
/// of workgroups in one dimension.
pub(crate) fn calls(
    dispatches: &[Dispatch],
    windows: &[[u32; WINDOW_WORDS]],
    limit: u32,
) -> Vec<Call> {
    let mut calls = Vec::new();
    for (pipeline, dispatch) in dispatches.iter().enumerate() {
        let mut call = |chunk: usize, n: u32| {
            if n > 0 {
                calls.push(Call { pipeline, chunk, groups: folded(n, limit) });
            }
        };
        let first = |word: usize| windows.first().map_or(0, |w| w[word]);
        match dispatch {
            Dispatch::Sweep(_) => {
                windows.iter().enumerate().for_each(|(c, w)| call(c, w[N_TILES]));
            }
            Dispatch::Gather(_) => call(0, first(N_GATHERS)),
            Dispatch::Settle(_) => call(0, first(N_TENSORS)),
        }
    }
    calls
}

/// A number of workgroups, in two dimensions where one does not hold it.
fn folded(n: u32, limit: u32) -> (u32, u32) {
    let y = n.div_ceil(limit.max(1)).max(1);
    (n.div_ceil(y), y)
}

/// Where a small slot of a tensor lies among the small values of its group.
pub(crate) fn small_slot(places: &Places, layouts: &Layouts, tensor: usize, slot: usize) -> usize {
    layouts.tensors[tensor][3] as usize + places.slot(slot, &layouts.cuts[tensor].dims)
}

/// A stretch of gradients that one binding holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Stretch {
    /// Elements of the gradient of a tensor, where it lies.
    InPlace(usize, Range<usize>),
    /// A page of so many elements.
    Page(usize),
}

impl Stretch {
    fn len(&self) -> usize {
        match self {
            Self::InPlace(_, elements) => elements.len(),
            Self::Page(len) => *len,
        }
    }
}

/// The gradients of a set as one vector, to measure them: how it lies in buffers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct AsOne {
    pub(crate) stretches: Vec<Stretch>,
    /// For each tensor its elements of the pages. Nothing for one that is not copied there.
    pub(crate) copies: Vec<Range<usize>>,
    /// The number of elements of a page at most.
    pub(crate) page: usize,
}

/// The dispatches that go over all gradients, as long as these fit so many.
#[cfg(feature = "gpu")]
const SWEEPS: usize = 2;

impl AsOne {
    /// Pages with so many elements.
    #[cfg(feature = "gpu")]
    pub(crate) fn pages(lens: &[usize]) -> Self {
        let stretches = lens.iter().map(|&len| Stretch::Page(len)).collect();
        Self { stretches, ..Self::default() }
    }

    /// Gradients with so many elements where they lie, of which a binding holds `capacity`. Those
    /// without elements take no part.
    pub(crate) fn in_place(lens: &[usize], capacity: usize) -> Self {
        Self::new(lens, |_| true, capacity, capacity)
    }

    /// The same, but that the smallest are copied, one behind the other, into pages of `page` elements:
    /// as many of them as it takes for [`SWEEPS`] dispatches to bind everything, or for as few more as
    /// can be.
    #[cfg(feature = "gpu")]
    pub(crate) fn gathered(
        lens: &[usize],
        (capacity, page): (usize, usize),
        storage_buffers: u32,
    ) -> Self {
        let (capacity, page) = (capacity.max(1), page.max(1));
        let at_once = Given::several(usize::MAX, storage_buffers).grads();
        let mut rest = lens.iter().sum::<usize>();
        let most = at_once * rest.div_ceil(page).div_ceil(at_once).max(SWEEPS);
        let mut order: Vec<_> = (0..lens.len()).collect();
        order.sort_unstable_by_key(|&i| (std::cmp::Reverse(lens[i]), i));
        let (mut in_place, mut bound) = (0, 0);
        for (n, &i) in order.iter().enumerate() {
            bound += lens[i].div_ceil(capacity);
            rest -= lens[i];
            if bound + rest.div_ceil(page) <= most {
                in_place = n + 1;
            }
        }
        let mut stays = vec![false; lens.len()];
        order[..in_place].iter().for_each(|&i| stays[i] = true);
        Self::new(lens, |i| stays[i], capacity, page)
    }

    fn new(lens: &[usize], stays: impl Fn(usize) -> bool, capacity: usize, page: usize) -> Self {
        let (capacity, page) = (capacity.max(1), page.max(1));
        let mut this = Self { page, ..Self::default() };
        let mut copied = 0;
        for (i, &len) in lens.iter().enumerate() {
            let first = copied;
            if stays(i) {
                let pieces = (0..len).step_by(capacity);
                this.stretches
                    .extend(pieces.map(|at| Stretch::InPlace(i, at..capacity.min(len - at) + at)));
            } else {
                copied += len;
            }
            this.copies.push(first..copied);
        }
        let pages = (0..copied).step_by(page).map(|at| Stretch::Page(page.min(copied - at)));
        this.stretches.extend(pages);
        this
    }

    /// How they are bound: as few at once as it takes, and as many as a shader may bind.
    pub(crate) fn given(&self, storage_buffers: u32) -> Given {
        Given::several(self.stretches.len(), storage_buffers)
    }

    fn lens(&self) -> impl Iterator<Item = usize> {
        self.stretches.iter().map(Stretch::len)
    }

    /// Cut for a program that binds gradients like that: each chunk holds what it binds at once.
    pub(crate) fn layouts(&self, places: &Places, given: Given) -> Layouts {
        let lens: Vec<_> = self.lens().collect();
        Layouts::flat(places, lens.chunks(given.grads().max(1)))
    }
}

/// Refuses more elements than what sees all of them as one vector can count.
pub(crate) fn check_total(
    lens: impl Iterator<Item = usize>,
    what: &str,
    remedy: &str,
) -> Result<()> {
    // Each begins at a multiple of 256 bytes.
    let total = lens.fold(0, |n: usize, len| n.saturating_add(len).next_multiple_of(64));
    if u32::try_from(total).is_ok() {
        return Ok(());
    }
    Err(Error::Setup {
        what: what.into(),
        problem: format!("all tensors have {total} elements, and the GPU counts to {}", u32::MAX),
        remedy: remedy.into(),
    })
}

/// A tensor of a set as its definition sees it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Placed {
    pub(crate) dims: Dims,
    /// Its unit and the class there. None: frozen.
    pub(crate) class: Option<(usize, usize)>,
}

impl Placed {
    /// Looked at by name only.
    pub(crate) const FROZEN: Self =
        Self { dims: Dims { kind: Kind::Vector, batch: 1, rows: 1, cols: 0 }, class: None };
}

/// What a snapshot of a set has, without values. `classes` are those of a unit.
pub(crate) fn outline<'c, X: 'c>(
    groups: &Groups,
    t: u64,
    classes: impl Fn(usize) -> &'c Classes<X>,
    tensors: &[Placed],
    averaged: bool,
    guarded: bool,
) -> Snapshot {
    let hypers = |u: usize| {
        let hypers = classes(u).iter().flat_map(|c| &c.plan.graph.hypers);
        hypers.copied().filter(|h| !GRAD.contains(h)).collect()
    };
    let mut outline = groups.snapshot(t, hypers);
    for (state, tensor) in outline.tensors.iter_mut().zip(tensors) {
        let Some((unit, class)) = tensor.class else { continue };
        let slots = classes(unit)[class].plan.graph.own_slots().iter().map(|s| (s.name, s.shape));
        let more = [(AVERAGED, Shape::Full), (FOLLOWED, Shape::Scalar)];
        let more = more.into_iter().filter(|_| averaged);
        state.slots.extend(slots.chain(more).map(|(name, shape)| SlotState {
            name: name.into(),
            shape: slot_shape(shape, &state.shape, tensor.dims),
            values: Values::F32(Vec::new()),
        }));
    }
    if guarded {
        for name in REMEMBERED {
            outline.numbers.insert(name.into(), 0.0);
        }
    }
    outline
}
