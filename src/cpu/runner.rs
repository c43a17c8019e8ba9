//! Runs a plan over tensors: what tensors of one size have in common, and the loops' driver.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

#[cfg(feature = "parallel")]
use super::Threads;
use super::lane::{self, LevelKernel, MAX_ROWS, Reduced, Span, Tables, Uniform};
use super::memory::{Aligned, PAGE, has_large_pages};
use super::settle::{Places, Run, STRETCH, Settle, Settling, Table, count, identity, join};
use super::simd::{SHORT, Simd, Spread, join_each, repeat_each};
use super::{
    AHEAD, APART, BLOCK, COLD, COLD_APART, Cpu, DISTANT, Element, FAR, FEWEST, FOLD, Isa, Lanes,
    MAX_CALLS, MAX_FULL_SLOTS, MAX_REDUCTIONS, MAX_SEGMENTS, NARROW_PIECE, NARROW_ROWS,
    NARROW_TILE, SEGMENT, SHALLOW_PIECE, SHALLOWEST_PIECE, TILE,
};
use crate::definition::Recipe;
use crate::error::{Error, Result};
use crate::layout::Dims;
use crate::plan::{Buffer, Plan};
use crate::trace::{Kind, NodeId, Op, SlotId};
use crate::value::{Axis, CONDITION, GRAD, GRAD_NEUTRAL, Reduction, Shape};

/// A piece of the tensor for one worker.
#[derive(Clone, Copy, Debug)]
struct Segment {
    b: (usize, usize),
    rows: (usize, usize),
    cols: (usize, usize),
    /// Which piece of a matrix, by rows and by columns.
    row_piece: usize,
    col_piece: usize,
}

/// How the sums of one reduction are kept: one array of `f64` per piece.
#[derive(Clone, Copy, Debug)]
struct Sums {
    /// The reduction's number among the calls.
    r: usize,
    node: NodeId,
    /// The place of its result.
    to: usize,
    axis: Axis,
    kind: Reduction,
    level: usize,
    /// Whether it is finished with each row, which no other piece or tile has part of.
    by_row: bool,
    /// Where its `f64` arrays begin, their number, and the length of each.
    at: usize,
    pieces: usize,
    len: usize,
}

impl Sums {
    /// Where the array of a segment's piece begins. Row sums are cut by column pieces only, column
    /// sums by row pieces only.
    fn piece(&self, s: &Segment) -> usize {
        let piece = match self.axis {
            Axis::Row => s.col_piece,
            Axis::Col => s.row_piece,
            // A tensor is cut one way or the other, so one of them is 0.
            Axis::Matrix | Axis::Tensor => s.row_piece + s.col_piece,
        };
        self.at + piece * self.len
    }
}

/// Room to see what a tile changes.
struct Watching<T> {
    /// Sums over the elements: the squares of the gradient and of the update, and the updates that
    /// are zero.
    sums: [f64; 3],
    /// The parameter of a tile before it changes.
    before: Vec<T>,
}

impl<T: Element> Watching<T> {
    /// Looks at elements that have changed.
    fn look(&mut self, after: &[T], gradient: &[T]) {
        let [mut g_sum, mut u_sum, mut zeros] = self.sums;
        for ((&after, &before), &g) in after.iter().zip(&self.before).zip(gradient) {
            let g = g.widen();
            let u = (after - before).widen();
            g_sum += g * g;
            u_sum += u * u;
            zeros += f64::from(u8::from(u == 0.0));
        }
        self.sums = [g_sum, u_sum, zeros];
    }
}

/// A row value that a loop reads.
#[derive(Clone, Copy, Debug)]
struct RowRead {
    call: usize,
    /// Where the values are settled.
    from: usize,
    /// Its place among a context's row values.
    place: usize,
}

/// What a level does in the tables' terms.
#[derive(Clone, Debug, Default)]
struct LevelRun {
    /// What is read and written, by its place in staged memory.
    loads: Vec<usize>,
    stores: Vec<usize>,
    /// What of it is so large that it comes from far away, page after page.
    ahead: Vec<usize>,
    /// Indices into `Runner::sums`.
    sums: Vec<usize>,
    /// The row values that the level reads.
    rows: Vec<RowRead>,
    /// Row values that are settled for each block of rows before the level.
    local: Option<Run>,
    /// Whether it sets the parameter.
    updates: bool,
}

struct Context<T: Element> {
    uniform: Uniform<T>,
    /// What the loops reduced along the rows at hand.
    reduced: Reduced<T>,
    /// For the last elements of a vector, which do not fill one of the processor's: the tables of
    /// `staged` memory, where they are copied to make one.
    tail: Tables<T>,
    staged: Vec<T>,
    /// Column accumulators in the element's precision: a spare row, then one for each column
    /// reduction, `step` elements apart.
    acc: Aligned<T>,
    step: usize,
    /// Row values as the loops read them, `room` elements for each call, the first of them spare.
    _row_values: Aligned<T>,
    /// Where rows are narrow: column values repeated row after row, for each call, and the operands
    /// of row reductions, for each of them. Again `room` elements each, the first of them spare.
    col_values: Aligned<T>,
    _operands: Aligned<T>,
    room: usize,
    _spreads: Vec<Spread>,
    watching: Option<Watching<T>>,
    /// Where gradients are clipped or scaled: a tile of them.
    conditioned: Vec<T>,
    /// The tables of the step, but for what is the context's own.
    tables: Tables<T>,
    /// For row values on the way.
    scratch: Aligned<T>,
    /// The step whose Host values are in `uniform`.
    hosts: u64,
}

/// The gradient as definitions see it: what the text of [`grad`](crate::value::Step::grad) says.
fn condition<T: Element>(values: [T; 3], from: &[T], to: &mut [T]) {
    let [(a, first), (b, second), (c, third)] =
        [(values[0], CONDITION[0]), (values[1], CONDITION[1]), (values[2], CONDITION[2])];
    for (to, &g) in to.iter_mut().zip(from) {
        *to = third.apply(second.apply(first.apply(g, a), b), c);
    }
}

/// Cuts a tensor into segments. The shape alone decides, so that the order of every sum does.
fn segments(dims: Dims, by_rows: bool, lanes: usize) -> (Vec<Segment>, usize, usize) {
    if dims.is_empty() {
        return (Vec::new(), 1, 1);
    }
    let matrix = dims.rows * dims.cols;
    let wanted = (matrix / SEGMENT).clamp(1, (MAX_SEGMENTS / dims.batch.max(1)).max(1));
    let (row_step, col_step) = if by_rows {
        // Each has sums of all columns to itself: many, where rows are long. They should serve many rows.
        let wanted = wanted.min((dims.rows / (2 * FOLD)).max(MAX_SEGMENTS / 2));
        (dims.rows.div_ceil(wanted).max(1), dims.cols.max(1))
    } else {
        (dims.rows.max(1), dims.cols.max(1).div_ceil(wanted).next_multiple_of(lanes))
    };
    let (row_pieces, col_pieces) = (dims.rows.div_ceil(row_step), dims.cols.div_ceil(col_step));
    let mut list = Vec::new();
    let batch_step = if wanted == 1 {
        dims.batch.div_ceil(MAX_SEGMENTS).max((SEGMENT / matrix).max(1))
    } else {
        1
    };
    for b in (0..dims.batch).step_by(batch_step) {
        for row_piece in 0..row_pieces {
            for col_piece in 0..col_pieces {
                let (r, c) = (row_piece * row_step, col_piece * col_step);
                list.push(Segment {
                    b: (b, (b + batch_step).min(dims.batch)),
                    rows: (r, (r + row_step).min(dims.rows)),
                    cols: (c, (c + col_step).min(dims.cols)),
                    row_piece,
                    col_piece,
                });
            }
        }
    }
    (list, row_pieces, col_pieces)
}

/// The Host values of a step, for all tensors of one optimizer and kind.
#[derive(Debug)]
pub(super) struct Hosts<T> {
    /// A number that no other step of any optimizer has.
    step: u64,
    /// What gradients are clipped to and multiplied by ([`GRAD`]), where that changes them.
    conditions: Option<[T; 3]>,
    /// By node, as tensors see them and as they were computed.
    values: Vec<T>,
    exact: Vec<f64>,
}

static STEPS: AtomicU64 = AtomicU64::new(1);

impl<T: Element> Hosts<T> {
    pub(super) fn new(plan: &Plan) -> Self {
        let n = plan.graph.nodes.len();
        Self { step: 0, conditions: None, values: vec![T::zero(); n], exact: vec![0.0; n] }
    }

    /// Evaluates those of step `t` in `f64`.
    pub(super) fn prepare(&mut self, plan: &Plan, t: u64, hyper: impl Fn(&str) -> f64) {
        self.step = STEPS.fetch_add(1, Ordering::Relaxed);
        let grad = GRAD.map(&hyper);
        self.conditions = (grad != GRAD_NEUTRAL).then(|| grad.map(T::narrow));
        crate::host::eval_all(plan, &mut self.exact, t, hyper);
        for &n in &plan.hosts {
            self.values[n] = T::narrow(self.exact[n]);
        }
    }
}

/// What tensors of one definition and size have in common.
pub(super) struct Program<T: Element> {
    cpu: Cpu,
    pub(super) plan: Plan,
    /// As the layout has it.
    seen_as: Dims,
    /// As the loops go over it.
    dims: Dims,
    kernels: Vec<LevelKernel<T>>,
    #[cfg(gradstep_compact)]
    code: Arc<super::compact::Code>,
    /// Whether rows are so short that one loop goes over many of them.
    narrow: bool,
    /// Whether rows are so few that a column's sum is complete after one walk down.
    shallow: bool,
    /// Whether its arrays are not in the nearer caches when a step begins.
    cold: bool,
    watch: bool,
    places: Places,
    /// What happens to small values before each sweep, and after the last one.
    settles: Vec<Settle>,
    /// For each sweep, what is settled after each piece of columns that are complete.
    early: Vec<Option<Run>>,
    segments: Vec<Segment>,
    sums: Vec<Sums>,
    /// For each sweep, which of them are made in it, and which are finished after it.
    made: Vec<Vec<usize>>,
    finished: Vec<Vec<usize>>,
    /// Elements of all partial sums.
    partials: usize,
    /// Numbers of the column reductions.
    col_reductions: Vec<usize>,
    levels: Vec<LevelRun>,
    /// (call, node) of Host values.
    hosts: Vec<(usize, NodeId)>,
    /// (call, place) of the values constant over the tensor, and over a matrix.
    fixed: Vec<(usize, usize)>,
    per_matrix: Vec<(usize, usize)>,
    /// (call, place) of column values.
    cols: Vec<(usize, usize)>,
    /// What each reduction starts from.
    identity: [T; MAX_REDUCTIONS],
    /// Sizes of a worker's memory.
    scratch: usize,
    row_places: usize,
    room: usize,
    step: usize,
    /// Memory that no tensor uses now.
    idle: Mutex<Vec<Box<Workspace<T>>>>,
}

/// What a tensor needs during a step and no longer. Tensors of one size use it one after the other,
/// so that it stays in the cache.
struct Workspace<T: Element> {
    tables: Tables<T>,
    /// One for each segment: uniforms and column accumulators.
    contexts: Vec<Context<T>>,
    partials: Vec<f64>,
    scratch: Aligned<T>,
    /// What unused entries of `tables.cols` point to.
    _spare: Vec<T>,
}

type Taken<T> = (Arc<Program<T>>, Box<Workspace<T>>);

/// The workspace that was used last, for the next tensor of the same program: to take one and to give it
/// back costs as much as the loop over a short bias.
pub(super) struct Held<T: Element> {
    taken: Option<Taken<T>>,
}

impl<T: Element> Default for Held<T> {
    fn default() -> Self {
        Self { taken: None }
    }
}

impl<T: Element> Held<T> {
    fn of(&mut self, program: &Arc<Program<T>>) -> &mut Workspace<T> {
        let fits = self.taken.as_ref().is_some_and(|(of, _)| Arc::ptr_eq(of, program));
        if !fits {
            self.give_back();
        }
        let take = || {
            let idle = program.idle().pop();
            (program.clone(), idle.unwrap_or_else(|| Box::new(program.workspace())))
        };
        &mut self.taken.get_or_insert_with(take).1
    }

    fn give_back(&mut self) {
        if let Some((program, workspace)) = self.taken.take() {
            program.idle().push(workspace);
        }
    }
}

impl<T: Element> Drop for Held<T> {
    fn drop(&mut self) {
        self.give_back();
    }
}

/// The state of one tensor, and how it is stepped.
pub(super) struct Runner<T: Element> {
    pub(super) program: Arc<Program<T>>,
    small: Aligned<T>,
    full: Vec<Aligned<T>>,
    /// Sums of what was watched in the last step.
    seen: [f64; 3],
}

impl<T: Element> fmt::Debug for Program<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Program")
            .field("definition", &self.plan.graph.name)
            .field("dims", &self.dims)
            .field("segments", &self.segments.len())
            .finish_non_exhaustive()
    }
}

impl<T: Element> fmt::Debug for Runner<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Runner").field("program", &self.program).finish_non_exhaustive()
    }
}

impl<T: Element> Program<T> {
    /// `watch`: whether it is seen what steps do to elements.
    pub(super) fn new(cpu: Cpu, recipe: Recipe, plan: Plan, dims: Dims, watch: bool) -> Self {
        let (seen_as, dims) = (dims, dims.walked(plan.graph.kind));
        let compiled = recipe.kernels::<T>();
        let compiled = match dims.kind {
            Kind::Vector => &compiled.vector,
            Kind::Matrix => &compiled.matrix,
            Kind::Row => &compiled.row,
            Kind::Column => &compiled.column,
        };
        // The tracer has compared the number of levels with what is compiled.
        let kernels: Vec<_> = compiled.iter().flatten().map(|k| cpu.isa.kernel(k)).collect();
        let shallow = dims.kind == Kind::Matrix && !plan.fused && dims.rows <= FOLD;
        let Settling { places, settles, local, early, scratch } =
            Settling::new(&plan, dims, T::LANES, shallow);
        let by_rows = dims.kind == Kind::Matrix && plan.fused;
        let (segments, row_pieces, col_pieces) = segments(dims, by_rows, T::LANES);

        let place = |buffer: Buffer| match buffer {
            Buffer::Grad => 0,
            Buffer::Param => 1,
            Buffer::Slot(s) => 2 + plan.graph.full_slots().take_while(|&f| f != s).count(),
        };
        let far = dims.len() * size_of::<T>() >= FAR;
        // The state's pages are few where they are large.
        let own_pages = if has_large_pages::<T>(dims.len()) { 2 } else { usize::MAX };
        let in_pages = |&buffer: &usize| far && buffer < own_pages;
        let level_run = |level: &crate::plan::Level| LevelRun {
            ahead: level.loads.iter().map(|&b| place(b)).filter(in_pages).collect(),
            loads: level.loads.iter().map(|&b| place(b)).collect(),
            stores: level.stores.iter().map(|&(b, _)| place(b)).collect(),
            updates: level.stores.iter().any(|s| s.0 == Buffer::Param),
            ..LevelRun::default()
        };
        let mut levels: Vec<_> = plan.levels.iter().map(level_run).collect();
        for (level, local) in levels.iter_mut().zip(local) {
            level.local = local;
        }

        let (mut sums, mut partials) = (Vec::new(), 0);
        let mut identity = [T::zero(); MAX_REDUCTIONS];
        let mut seen = Vec::new();
        let mut col_reductions = Vec::new();
        let used = plan.graph.reachable();
        for (r, &(a, node)) in plan.graph.reductions.iter().enumerate() {
            let Op::Reduce(kind, axis, _) = plan.graph.nodes[node].op else {
                continue;
            };
            if axis == Axis::Col {
                col_reductions.push(r);
            }
            if kind == Reduction::Max {
                identity[r] = T::neg_infinity();
            }
            if !used[node] || seen.contains(&node) {
                continue;
            }
            seen.push(node);
            let level = usize::from(plan.graph.nodes[a].level);
            let extent = match axis {
                Axis::Row => dims.batch * dims.rows,
                Axis::Col => dims.batch * places.stride,
                Axis::Matrix | Axis::Tensor => dims.batch,
            };
            let pieces = match axis {
                Axis::Row => col_pieces,
                Axis::Col => row_pieces,
                Axis::Matrix | Axis::Tensor => row_pieces.max(col_pieces),
            };
            levels[level].sums.push(sums.len());
            let to = places.node(node);
            let by_row = axis == Axis::Row && pieces == 1 && !shallow;
            sums.push(Sums {
                r,
                node,
                to,
                axis,
                kind,
                level,
                by_row,
                at: partials,
                pieces,
                len: extent,
            });
            partials += extent * pieces;
        }
        let of_sweep = |sweep: &crate::plan::Sweep| {
            let open = |s: &Sums| {
                // The others are finished row by row, or with their columns.
                sweep.levels.contains(&s.level) && !(s.by_row || s.axis == Axis::Col && shallow)
            };
            (0..sums.len()).filter(|&i| open(&sums[i])).collect()
        };
        let finished = plan.sweeps.iter().map(of_sweep).collect();
        let made_in = |sweep: &crate::plan::Sweep| {
            (0..sums.len()).filter(|&i| sweep.levels.contains(&sums[i].level)).collect()
        };
        let made = plan.sweeps.iter().map(made_in).collect();

        // Which calls the loops read from tables, by shape.
        let (mut hosts, mut fixed) = (Vec::new(), Vec::new());
        let (mut per_matrix, mut cols) = (Vec::new(), Vec::new());
        let mut row_places = 1;
        for (call, &n) in plan.graph.calls.iter().enumerate() {
            let read = |l: &crate::plan::Level| l.reads.contains(&n);
            let any = plan.hosts.contains(&n) || plan.levels.iter().any(read);
            match plan.graph.nodes[n].shape {
                Shape::Host if any => hosts.push((call, n)),
                Shape::Scalar if any => fixed.push((call, places.node(n))),
                Shape::Matrix if any => per_matrix.push((call, places.node(n))),
                Shape::Cols if any => cols.push((call, places.node(n))),
                Shape::Rows if any => {
                    let read_row = RowRead { call, from: places.node(n), place: row_places };
                    for (run, level) in levels.iter_mut().zip(&plan.levels) {
                        if read(level) {
                            run.rows.push(read_row);
                        }
                    }
                    row_places += 1;
                }
                _ => {}
            }
        }

        let narrow = by_rows && dims.cols < 2 * T::LANES && !dims.cols.is_multiple_of(T::LANES);
        let widest = segments.iter().map(|s| s.cols.1 - s.cols.0).max().unwrap_or(0);
        let room = if narrow {
            let rows = segments.iter().map(|s| s.rows.1 - s.rows.0).max().unwrap_or(0);
            // A vector more, because values are written as whole vectors.
            (tile_rows::<T>(dims).min(rows) * dims.cols).next_multiple_of(T::LANES) + T::LANES
        } else {
            MAX_ROWS * T::LANES
        };
        // A distance that is no multiple of 4096 bytes: accumulators of one column must not
        // compete for the same place in the cache.
        let step = widest.next_multiple_of(T::LANES).max(room) + 2 * T::LANES;
        let this = Self {
            cpu,
            #[cfg(gradstep_compact)]
            code: super::compact::Code::new(&plan).into(),
            plan,
            seen_as,
            dims,
            kernels,
            narrow,
            shallow,
            cold: dims.len() * size_of::<T>() >= COLD,
            watch,
            places,
            settles,
            early,
            segments,
            sums,
            made,
            finished,
            partials,
            col_reductions,
            levels,
            hosts,
            fixed,
            per_matrix,
            cols,
            identity,
            scratch,
            row_places,
            room,
            step,
            idle: Mutex::default(),
        };
        let first = Box::new(this.workspace());
        this.idle().push(first);
        this
    }

    /// The same for tensors that are stepped with others, `elements` altogether. No bit depends on it.
    pub(super) fn beside(self, elements: usize) -> Self {
        Self { cold: self.cold || elements.saturating_mul(size_of::<T>()) >= DISTANT, ..self }
    }

    fn idle(&self) -> MutexGuard<'_, Vec<Box<Workspace<T>>>> {
        // What a panic of another thread left there is whole: it is only pushed and popped.
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tables without memory of their own yet, but for the spare row of column values.
    fn tables(&self, spare: *const T) -> Tables<T> {
        let tables = Tables::new(spare, self.identity);
        #[cfg(gradstep_compact)]
        let tables = Tables { code: Some(self.code.clone()), ..tables };
        tables
    }

    /// Column accumulators, of which each is what its reduction begins with.
    fn accumulators(&self) -> Aligned<T> {
        let mut acc = Aligned::filled((self.col_reductions.len() + 1) * self.step, T::zero());
        for (&r, place) in self.col_reductions.iter().zip(1..) {
            acc[place * self.step..][..self.step].fill(self.identity[r]);
        }
        acc
    }

    fn workspace(&self) -> Workspace<T> {
        let (dims, room, narrow) = (self.dims, self.room, self.narrow);
        let spare = vec![T::zero(); dims.batch * self.places.stride];
        let context = |_: &Segment| {
            let mut row_memory = Aligned::filled(self.row_places * room, T::zero());
            let row_values = row_memory.as_mut_ptr();
            let if_narrow =
                |places| Aligned::filled(if narrow { places * room } else { 0 }, T::zero());
            let mut operand_memory = if_narrow(1 + MAX_REDUCTIONS);
            let operands = operand_memory.as_mut_ptr();
            let col_values = if_narrow(1 + self.cols.len());
            let vectors = if narrow { room / T::LANES } else { 0 };
            let spreads: Vec<_> =
                (0..vectors).map(|i| Spread::of(i * T::LANES, dims.cols.max(1))).collect();
            let unused_cols = if narrow { col_values.as_ptr() } else { spare.as_ptr() };
            let watching = self
                .watch
                .then(|| Watching { sums: [0.0; 3], before: vec![T::zero(); TILE.max(T::LANES)] });
            Context {
                uniform: Uniform {
                    values: [T::zero(); MAX_CALLS],
                    together: [[T::zero(); MAX_ROWS]; MAX_CALLS],
                    reads: Vec::with_capacity(self.row_places),
                    rows: [row_values; MAX_CALLS],
                    col_acc: [std::ptr::null_mut(); MAX_REDUCTIONS],
                    row_acc: [operands; MAX_REDUCTIONS],
                    row_values,
                    operands,
                    spreads: spreads.as_ptr(),
                },
                reduced: [[T::zero(); FOLD]; MAX_REDUCTIONS],
                tail: self.tables(unused_cols),
                staged: vec![T::zero(); (2 + MAX_FULL_SLOTS) * T::LANES],
                acc: self.accumulators(),
                step: self.step,
                _row_values: row_memory,
                col_values,
                _operands: operand_memory,
                _spreads: spreads,
                room,
                watching,
                conditioned: Vec::new(),
                tables: self.tables(unused_cols),
                scratch: Aligned::filled(self.scratch, T::zero()),
                hosts: 0,
            }
        };
        Workspace {
            contexts: self.segments.iter().map(context).collect(),
            tables: self.tables(spare.as_ptr()),
            partials: vec![0.0; self.partials],
            scratch: Aligned::filled(self.scratch, T::zero()),
            _spare: spare,
        }
    }

    /// Makes room for gradients that are clipped or scaled, where there is none yet.
    pub(super) fn make_room(&self) {
        self.idle().iter_mut().for_each(|w| self.make_room_in(w));
    }

    fn make_room_in(&self, workspace: &mut Workspace<T>) {
        for (context, segment) in workspace.contexts.iter_mut().zip(&self.segments) {
            let tile = TILE.max(T::LANES);
            let room = if self.narrow {
                context.room
            } else {
                tile.min(segment.cols.1 - segment.cols.0) * MAX_ROWS
            };
            context.conditioned.resize(room, T::zero());
        }
    }

    fn slot_index(&self, slot: SlotId) -> Option<usize> {
        self.plan.graph.full_slots().position(|s| s == slot)
    }
}

impl<T: Element> Runner<T> {
    pub(super) fn new(program: Arc<Program<T>>) -> Self {
        let plan = &program.plan;
        let init = |s: SlotId| T::narrow(plan.graph.slots[s].init);
        let full = plan.graph.full_slots().enumerate();
        let full = full.map(|(i, s)| Aligned::apart(i, program.dims.len(), init(s)));
        Self { full: full.collect(), small: program.places.memory(plan), seen: [0.0; 3], program }
    }

    pub(super) fn plan(&self) -> &Plan {
        &self.program.plan
    }

    pub(super) fn seen_as(&self) -> Dims {
        self.program.seen_as
    }

    /// The means over the elements of what was watched in the last step.
    pub(super) fn watched(&self) -> [f64; 3] {
        #[allow(clippy::cast_precision_loss, reason = "a count of elements")]
        let n = self.program.dims.len().max(1) as f64;
        self.seen.map(|sum| sum / n)
    }

    fn find(&self, name: &str) -> Result<SlotId> {
        let graph = &self.program.plan.graph;
        graph.slots.iter().position(|s| s.name == name).ok_or_else(|| Error::NoSlot {
            definition: graph.name,
            name: name.into(),
            known: crate::text::joined(graph.slots.iter().map(|s| s.name), ", "),
        })
    }

    pub(super) fn slot(&self, name: &str) -> Result<Vec<T>> {
        let s = self.find(name)?;
        let program = &self.program;
        let shape = program.plan.graph.slots[s].shape;
        Ok(match program.slot_index(s) {
            Some(i) => self.full[i].to_vec(),
            None => program.places.slot(&self.small, s, shape),
        })
    }

    /// The number in a slot of shape Scalar, by its place in the definition.
    pub(super) fn scalar(&self, slot: SlotId) -> T {
        self.small[self.program.places.scalar(slot)]
    }

    pub(super) fn set_slot(&mut self, name: &str, values: &[T]) -> Result<()> {
        let s = self.find(name)?;
        let program = &self.program;
        let shape = program.plan.graph.slots[s].shape;
        let expected = program.dims.count(shape);
        if values.len() != expected {
            return Err(Error::Shape {
                what: format!("slot `{name}`"),
                expected: vec![expected],
                found: vec![values.len()],
            });
        }
        match program.slot_index(s) {
            Some(i) => self.full[i].copy_from_slice(values),
            None => program.places.set_slot(&mut self.small, s, shape, values),
        }
        Ok(())
    }

    /// One step over contiguous memory of the right length.
    pub(super) fn run(
        &mut self,
        hosts: &Hosts<T>,
        param: &mut [T],
        grad: &[T],
        held: &mut Held<T>,
    ) {
        // Whoever calls has checked it, and the memory's safety rests on it.
        let n = self.program.dims.len();
        assert!(param.len() == n && grad.len() == n, "memory of {n} elements");
        if n > 0 {
            self.run_over(hosts, param.as_mut_ptr(), grad.as_ptr(), held);
        }
    }

    /// Runs a definition that only measures: it has no place for a parameter.
    pub(super) fn measure(&mut self, hosts: &Hosts<T>, grad: &[T]) {
        let dims = self.program.dims;
        let stores = |l: &crate::plan::Level| !l.stores.is_empty();
        let writes = self.program.plan.levels.iter().any(stores);
        debug_assert!(!writes, "a definition that measures stores nothing of full size");
        assert!(grad.len() == dims.len(), "memory of {} elements", dims.len());
        if !dims.is_empty() && !writes {
            // Nothing is written through this pointer: the plan has no full-size store.
            let held = &mut Held::default();
            self.run_over(hosts, grad.as_ptr().cast_mut(), grad.as_ptr(), held);
        }
    }

    fn run_over(&mut self, hosts: &Hosts<T>, param: *mut T, grad: *const T, held: &mut Held<T>) {
        let workspace = held.of(&self.program);
        let program = &*self.program;
        let conditions = hosts.conditions;
        if conditions.is_some() {
            program.make_room_in(workspace);
        }
        let Workspace { tables, contexts, partials, scratch, .. } = workspace;
        let scratch = scratch.as_mut_ptr();
        tables.grad = grad;
        tables.param = param;
        tables.slots = [tables.param; MAX_FULL_SLOTS];
        for (to, slot) in tables.slots.iter_mut().zip(&mut self.full) {
            *to = slot.as_mut_ptr();
        }
        let table = Table {
            places: &program.places,
            isa: program.cpu.isa,
            memory: self.small.as_mut_ptr(),
            hosts: &hosts.values,
        };
        for &(call, place) in &program.cols {
            tables.cols[call] = table.at(place);
        }
        for watching in contexts.iter_mut().filter_map(|c| c.watching.as_mut()) {
            watching.sums = [0.0; 3];
        }
        let partials = Partials(partials.as_mut_ptr());
        for (i, sweep) in program.plan.sweeps.iter().enumerate() {
            let backwards = i % 2 == 1;
            let sums = &program.made[i];
            let early = program.early[i].as_ref();
            let job = Job {
                program,
                sweep,
                early,
                sums,
                backwards,
                hosts,
                tables,
                table,
                partials,
                conditions,
            };
            // SAFETY: no sweep is running; then segments are disjoint, each has its own context, and
            // all of them lie within the tensor.
            unsafe {
                table.settle(&program.settles[i], scratch);
                job.run(contexts);
                job.finish(i);
            }
        }
        if let Some(last) = program.settles.last() {
            // SAFETY: no sweep is running.
            unsafe { table.settle(last, scratch) };
        }
        if program.watch {
            self.seen = [0.0; 3];
            for watching in contexts.iter().filter_map(|c| c.watching.as_ref()) {
                self.seen.iter_mut().zip(watching.sums).for_each(|(sum, x)| *sum += x);
            }
        }
    }
}

/// The `f64` partial sums, open to several workers.
#[derive(Clone, Copy)]
struct Partials(*mut f64);

// SAFETY: each segment writes only its own piece.
unsafe impl Send for Partials {}
// SAFETY: as above.
unsafe impl Sync for Partials {}

/// One sweep, as all workers see it.
struct Job<'a, T: Element> {
    program: &'a Program<T>,
    sweep: &'a crate::plan::Sweep,
    early: Option<&'a Run>,
    sums: &'a [usize],
    /// Whether it begins with the last segment: every second sweep does, since the cache still has
    /// what the one before ended with. The order within segments, and of their sums, stays.
    backwards: bool,
    hosts: &'a Hosts<T>,
    tables: &'a Tables<T>,
    table: Table<'a, T>,
    partials: Partials,
    /// What gradients are clipped to and multiplied by, where that changes them.
    conditions: Option<[T; 3]>,
}

impl<T: Element> Job<'_, T> {
    /// # Safety
    /// There is a context for each segment, and nobody else uses what this step was lent.
    unsafe fn run(&self, contexts: &mut [Context<T>]) {
        let segments = &self.program.segments;
        let work = |(segment, context): (&Segment, &mut Context<T>)| {
            // SAFETY: segments are disjoint, each has its own context, and all of them lie within
            // the tensor.
            unsafe { self.segment(segment, context) };
        };
        #[cfg(feature = "parallel")]
        let on_threads = |contexts| {
            use rayon::prelude::*;
            let pairs = segments.par_iter().zip(contexts);
            if self.backwards { pairs.rev().for_each(work) } else { pairs.for_each(work) }
        };
        match &self.program.cpu.threads {
            #[cfg(feature = "parallel")]
            Threads::Current if segments.len() > 1 => on_threads(contexts),
            #[cfg(feature = "parallel")]
            Threads::Own(pool) if segments.len() > 1 => pool.install(|| on_threads(contexts)),
            _ if self.backwards => segments.iter().zip(contexts).rev().for_each(work),
            _ => segments.iter().zip(contexts).for_each(work),
        }
    }

    /// Turns the sums of sweep `index` into the values of their nodes.
    ///
    /// # Safety
    /// The sweep is over.
    unsafe fn finish(&self, index: usize) {
        for &i in &self.program.finished[index] {
            let sums = &self.program.sums[i];
            let out = self.table.at(sums.to);
            // SAFETY: the partial sums have room for all pieces of all reductions.
            let partials = unsafe {
                std::slice::from_raw_parts_mut(self.partials.0.add(sums.at), sums.len * sums.pieces)
            };
            #[allow(clippy::cast_precision_loss, reason = "a count of elements")]
            let n = count(self.program.dims, sums.axis) as f64;
            // Piece after piece, each from end to end: their columns lie far apart.
            let (totals, mut rest) = partials.split_at_mut(sums.len);
            while let Some((piece, behind)) = rest.split_at_mut_checked(sums.len)
                && !piece.is_empty()
            {
                for (total, &x) in totals.iter_mut().zip(&*piece) {
                    *total = join(sums.kind, *total, x);
                }
                rest = behind;
            }
            let value = |total: f64| {
                T::narrow(if sums.kind == Reduction::Mean { total / n } else { total })
            };
            let write = |i: usize, x: T| {
                // SAFETY: the node's array has the extent of its shape.
                unsafe { out.add(i).write(x) };
            };
            if sums.axis == Axis::Tensor {
                let all = totals.iter().fold(identity(sums.kind), |a, &b| join(sums.kind, a, b));
                write(0, value(all));
            } else {
                for (i, &total) in totals.iter().enumerate() {
                    write(i, value(total));
                }
            }
        }
    }

    /// # Safety
    /// The segment lies within the tensor and no other worker has it.
    unsafe fn segment(&self, s: &Segment, context: &mut Context<T>) {
        let program = self.program;
        if context.hosts != self.hosts.step {
            context.hosts = self.hosts.step;
            for &(call, n) in &program.hosts {
                context.uniform.values[call] = self.hosts.values[n];
            }
        }
        for &(call, place) in &program.fixed {
            // SAFETY: the value was settled before the sweep.
            context.uniform.values[call] = unsafe { *self.table.at(place) };
        }
        let Context { tail, staged, tables, .. } = context;
        // Else no loop ends within a vector of the processor's.
        if !program.dims.cols.is_multiple_of(T::LANES) {
            let staged = staged.as_mut_ptr();
            // SAFETY: staged memory has a vector for the gradient, the parameter and each slot.
            unsafe {
                (tail.grad, tail.param) = (staged, staged.add(T::LANES));
                for (k, slot) in tail.slots.iter_mut().enumerate() {
                    *slot = staged.add((2 + k) * T::LANES);
                }
            }
        }
        (tables.grad, tables.param) = (self.tables.grad, self.tables.param);
        tables.slots = self.tables.slots;
        if !self.program.narrow {
            for &(call, _) in &self.program.cols {
                tail.cols[call] = self.tables.cols[call];
                tables.cols[call] = self.tables.cols[call];
            }
        }
        for b in s.b.0..s.b.1 {
            // Where columns are complete after one walk, their sums stay in the nearest cache.
            let width = match program.shallow {
                true if distant::<T>(program.dims) && program.dims.rows <= FEWEST => {
                    SHALLOWEST_PIECE
                }
                true if distant::<T>(program.dims) => SHALLOW_PIECE,
                true => STRETCH.min(TILE).max(T::LANES),
                false => s.cols.1 - s.cols.0,
            };
            // No `step_by`, which divides: that takes as long as a short vector's loop.
            let mut c = s.cols.0;
            while c < s.cols.1 {
                let part = Segment { cols: (c, (c + width).min(s.cols.1)), ..*s };
                // SAFETY: the caller's contract; `b` is one of the segment's batch entries.
                unsafe { self.matrix(&part, b, context, c == s.cols.0) };
                c = part.cols.1;
            }
        }
    }

    /// The sums of the sweep's levels.
    fn sums(&self) -> impl Iterator<Item = &Sums> {
        self.sums.iter().map(|&i| &self.program.sums[i])
    }

    /// One batch entry of a segment, or of some of its columns: the `first` ones or others.
    ///
    /// # Safety
    /// As for [`segment`](Self::segment); `b` is one of its batch entries.
    unsafe fn matrix(&self, s: &Segment, b: usize, context: &mut Context<T>, first: bool) {
        let (c0, cols) = (s.cols.0, s.cols.1 - s.cols.0);
        let step = context.step;
        // Accumulators are addressed by the column that the loops count, which starts elsewhere.
        let first_col = b * self.program.places.stride + c0;
        let counted_from = if self.program.narrow { 0 } else { first_col };
        let acc = context.acc.as_mut_ptr();
        let uniform = &mut context.uniform;
        let acc_of = |place: usize| acc.wrapping_add(place * step);
        uniform.col_acc = [acc_of(0).wrapping_sub(counted_from); MAX_REDUCTIONS];
        for (&r, place) in self.program.col_reductions.iter().zip(1..) {
            uniform.col_acc[r] = acc_of(place).wrapping_sub(counted_from);
        }
        for &(call, place) in &self.program.per_matrix {
            // SAFETY: settled before the sweep; one value per batch entry.
            uniform.values[call] = unsafe { *self.table.at(place).add(b) };
        }
        for sums in self.sums() {
            let identity = identity(sums.kind);
            match sums.axis {
                Axis::Row if !sums.by_row && first => {
                    let rows = b * self.program.dims.rows + s.rows.0;
                    // SAFETY: this segment's own piece.
                    unsafe {
                        let to = self.partials.0.add(sums.piece(s) + rows);
                        std::slice::from_raw_parts_mut(to, s.rows.1 - s.rows.0).fill(identity);
                    }
                }
                Axis::Row => {}
                Axis::Matrix | Axis::Tensor if !first => {}
                // SAFETY: this segment's own piece.
                Axis::Matrix | Axis::Tensor => unsafe {
                    *self.partials.0.add(sums.piece(s) + b) = identity;
                },
                // Their accumulators are as they were made: whoever takes what is in them leaves them so.
                Axis::Col => {}
            }
        }

        if self.program.narrow {
            let Context { col_values, room, tables, tail, .. } = &mut *context;
            for (&(call, _), to) in
                self.program.cols.iter().zip(col_values.chunks_exact_mut(*room).skip(1))
            {
                // SAFETY: settled before the sweep; the segment has all columns.
                let from = unsafe {
                    std::slice::from_raw_parts(self.tables.cols[call].add(first_col), cols)
                };
                to[..cols].copy_from_slice(from);
                let mut there = cols;
                while there < to.len() {
                    let more = there.min(to.len() - there);
                    to.copy_within(..more, there);
                    there += more;
                }
                (tables.cols[call], tail.cols[call]) = (to.as_ptr(), to.as_ptr());
            }
        }

        let levels = self.sweep.levels.clone();
        let block = match () {
            () if self.program.narrow => tile_rows::<T>(self.program.dims),
            () if levels.len() > 1 => (BLOCK / cols).clamp(MAX_ROWS, FOLD),
            () => FOLD,
        };
        // Rows that an accumulator of a column has summed in the element's precision, and whether some were
        // before.
        let (mut unfolded, mut folded) = (0, false);
        let mut row = s.rows.0;
        while row < s.rows.1 {
            let end = (row + block).min(s.rows.1);
            for k in levels.clone() {
                if let Some(local) = &self.program.levels[k].local {
                    let first = b * self.program.dims.rows;
                    // SAFETY: these rows are this worker's own, operands come first.
                    unsafe {
                        let scratch = context.scratch.as_mut_ptr();
                        self.table.run(local, b, first + row..first + end, scratch);
                    }
                }
                // SAFETY: the rows' pieces lie within the segment.
                unsafe {
                    if self.program.narrow {
                        self.tile(s, b, row..end, k, context);
                    } else {
                        self.block(s, b, row..end, k, context);
                    }
                }
            }
            let summed = if self.program.narrow { 1 } else { block };
            unfolded += summed;
            row = end;
            if unfolded + summed > FOLD || row == s.rows.1 {
                unfolded = 0;
                for sums in self.sums().filter(|sums| sums.axis == Axis::Col) {
                    let from = acc_of(1 + self.place(sums.r));
                    // Of narrow rows as many as a tile has.
                    let len = if self.program.narrow {
                        context.room / cols * cols
                    } else if self.program.shallow {
                        cols.next_multiple_of(T::LANES)
                    } else {
                        cols
                    };
                    let isa = self.program.cpu.isa;
                    // SAFETY: this segment's own columns, piece and accumulators.
                    unsafe {
                        let from = std::slice::from_raw_parts_mut(from, len);
                        if self.program.shallow {
                            let given = self.early.and_then(|run| run.given(sums.node));
                            let to = match given {
                                Some(at) => context.scratch.as_mut_ptr().add(at),
                                None => self.table.at(sums.to).add(first_col),
                            };
                            let to = std::slice::from_raw_parts_mut(to, cols);
                            complete(isa, sums.kind, from, self.program.dims.rows, to);
                        } else {
                            let to = self.partials.0.add(sums.piece(s) + first_col);
                            let to = std::slice::from_raw_parts_mut(to, cols);
                            fold(isa, sums.kind, from, to, folded);
                        }
                    }
                }
                folded = true;
            }
        }
        if let Some(early) = self.early {
            let scratch = context.scratch.as_mut_ptr();
            // SAFETY: these columns are this worker's own and complete; what they are given is in the scratch
            // memory of the context, which has room for a piece.
            unsafe { self.table.run(early, b, first_col..first_col + cols, scratch) };
        }
    }

    /// The place of a column reduction among the accumulators.
    fn place(&self, r: usize) -> usize {
        self.program.col_reductions.iter().position(|&c| c == r).unwrap_or(0)
    }

    /// One level over a block of rows of a segment.
    ///
    /// # Safety
    /// As for [`matrix`](Self::matrix); the rows are the segment's.
    unsafe fn block(
        &self,
        s: &Segment,
        b: usize,
        rows: std::ops::Range<usize>,
        k: usize,
        context: &mut Context<T>,
    ) {
        // Statistics are summed row after row, whatever the instruction set.
        let watched = self.program.levels[k].updates && context.watching.is_some();
        let (width, run) = (s.cols.1 - s.cols.0, &self.program.levels[k]);
        // Where nothing is reduced, rows have nothing in common but the memory's attention.
        let apart = run.sums.is_empty() && APART.contains(&width)
            || self.program.cold && COLD_APART.contains(&width);
        let together = if watched || apart { 1 } else { self.program.kernels[k].rows };
        // Most rows are no more than a tile or are not summed, and go as they lie.
        let conditioned = self.conditions.is_some() && run.loads.contains(&0);
        let matrix = self.program.dims.kind == Kind::Matrix;
        let whole = width <= TILE || run.sums.is_empty();
        let plain = (matrix || width.is_multiple_of(T::LANES)) && whole && !conditioned && !watched;
        // As many at a time as the memory's attention is called to at once.
        let reach = if matrix { (AHEAD / (width * together)).max(1) } else { 1 };
        let mut i = rows.start;
        while i < rows.end {
            let left = rows.end - i;
            // Two that are left of four have loops, too.
            let n = match self.program.kernels[k].pair {
                _ if together <= left => together,
                Some(_) if together > 2 && left > 1 => 2,
                _ => 1,
            };
            // SAFETY: the caller's contract.
            unsafe {
                if plain {
                    let groups = if matrix { (left / n).min(reach) } else { 1 };
                    let rows = Rows { first: i, n, groups };
                    self.plain_rows(s, b, rows, k, context);
                    i += groups * n;
                } else {
                    self.rows(s, b, i, n, k, context);
                    i += n;
                }
            }
        }
    }

    /// [`rows`](Self::rows) for rows of no more than a tile, or of any length where nothing is reduced, whose
    /// gradient is neither clipped nor scaled, without statistics. Those of vectors are whole ones of the
    /// processor's.
    ///
    /// # Safety
    /// As for [`rows`](Self::rows).
    #[inline(always)]
    unsafe fn plain_rows(
        &self,
        s: &Segment,
        b: usize,
        rows: Rows,
        k: usize,
        context: &mut Context<T>,
    ) {
        let Rows { first, n, groups } = rows;
        let run = &self.program.levels[k];
        let cols = self.program.dims.cols;
        let first = b * self.program.dims.rows + first;
        let (at, col) = (first * cols + s.cols.0, b * self.program.places.stride + s.cols.0);
        let (vectors, lanes, whole) = in_vectors::<T>(s.cols.1 - s.cols.0);
        let narrow = false;
        let span = Span {
            at,
            pitch: cols,
            grad_pitch: cols,
            col,
            n: vectors,
            lanes,
            whole,
            groups,
            narrow,
        };
        let kernel = self.program.kernels[k].of(n);
        // SAFETY: the caller's contract; the instruction set was checked.
        unsafe {
            self.give_rows(run, first, context);
            let Context { tables, uniform, reduced, .. } = &mut *context;
            tables.grad = self.tables.grad;
            let len = n * groups * cols;
            self.ahead(run, at + len, len);
            kernel(tables, uniform, span, reduced);
            for sums in run.sums.iter().map(|&x| &self.program.sums[x]) {
                let reduced = &mut reduced[sums.r][..n * groups];
                if sums.by_row {
                    let to = self.table.at(sums.to).add(first);
                    let to = std::slice::from_raw_parts_mut(to, n * groups);
                    complete(self.program.cpu.isa, sums.kind, reduced, cols, to);
                } else {
                    self.leave_rows(s, sums, b, first, n * groups, |q| reduced[q].widen());
                }
            }
        }
    }

    /// One level over one row of a segment, or over as many as its loop takes together.
    ///
    /// # Safety
    /// As for [`matrix`](Self::matrix); the `n` rows from `i` on are the segment's.
    unsafe fn rows(
        &self,
        s: &Segment,
        b: usize,
        i: usize,
        n: usize,
        k: usize,
        context: &mut Context<T>,
    ) {
        let run = &self.program.levels[k];
        let first = b * self.program.dims.rows + i;
        // SAFETY: the caller's contract.
        unsafe { self.give_rows(run, first, context) };
        let mut out = [[0.0; MAX_ROWS]; MAX_REDUCTIONS];
        for &x in &run.sums {
            out[self.program.sums[x].r] = [identity(self.program.sums[x].kind); MAX_ROWS];
        }
        let cols = self.program.dims.cols;
        let (c0, c1) = s.cols;
        let (mut at, mut col) = (first * cols + c0, b * self.program.places.stride + c0);
        let mut left = c1 - c0;
        while left > 0 {
            let len = left.min(TILE.max(T::LANES));
            let len = match self.program.dims.kind {
                Kind::Matrix => len,
                _ if len < T::LANES => len,
                _ => len / T::LANES * T::LANES,
            };
            let piece = Piece { at, col, len, rows: n, narrow: false };
            // SAFETY: the elements lie within the rows.
            unsafe { self.piece(k, piece, context, &mut out) };
            (at, col, left) = (at + len, col + len, left - len);
        }
        // SAFETY: the caller's contract.
        unsafe {
            for sums in run.sums.iter().map(|&x| &self.program.sums[x]) {
                self.leave_rows(s, sums, b, first, n, |q| out[sums.r][q]);
            }
        }
    }

    /// Says where the loops find the values of rows, from `first` on.
    ///
    /// # Safety
    /// There is such a row.
    #[inline(always)]
    unsafe fn give_rows(&self, run: &LevelRun, first: usize, context: &mut Context<T>) {
        let Context { uniform, room, .. } = context;
        uniform.reads.clear();
        for read in &run.rows {
            // SAFETY: the caller's contract; one value per row.
            uniform.reads.push((read.call, unsafe { self.table.at(read.from).add(first) }));
            // Each place has `room` elements, a vector at least.
            uniform.rows[read.call] = uniform.row_values.wrapping_add(read.place * *room);
        }
    }

    /// Keeps what `n` rows from `first` on were reduced to: `value` of a row.
    ///
    /// # Safety
    /// The rows are this segment's.
    #[inline(always)]
    unsafe fn leave_rows(
        &self,
        s: &Segment,
        sums: &Sums,
        b: usize,
        first: usize,
        n: usize,
        value: impl Fn(usize) -> f64,
    ) {
        if sums.axis == Axis::Col {
            return;
        }
        for q in 0..n {
            let value = value(q);
            // SAFETY: this row's and this segment's own places.
            unsafe {
                match sums.axis {
                    Axis::Row if sums.by_row => self.finish_row(sums, first + q, value),
                    Axis::Row => {
                        let sum = self.partials.0.add(sums.piece(s) + first + q);
                        *sum = join(sums.kind, *sum, value);
                    }
                    _ => {
                        let sum = self.partials.0.add(sums.piece(s) + b);
                        *sum = join(sums.kind, *sum, value);
                    }
                }
            }
        }
    }

    /// One level over rows so short that one loop goes over all of them.
    ///
    /// # Safety
    /// As for [`matrix`](Self::matrix); the rows are the segment's and no more than a tile holds.
    unsafe fn tile(
        &self,
        s: &Segment,
        b: usize,
        rows: std::ops::Range<usize>,
        k: usize,
        context: &mut Context<T>,
    ) {
        let run = &self.program.levels[k];
        let cols = self.program.dims.cols;
        let first = b * self.program.dims.rows + rows.start;
        // Vectors look beyond the rows of the tile, but not into what other workers settle.
        let where_settled = looks_up::<T>(self.program.cpu.isa) && s.rows.1 - rows.end >= T::LANES;
        let own = context.uniform.row_values;
        for read in &run.rows {
            let from = self.table.at(read.from).wrapping_add(first);
            if where_settled {
                context.uniform.rows[read.call] = from;
                continue;
            }
            let values = own.wrapping_add(read.place * context.room);
            context.uniform.rows[read.call] = values;
            // SAFETY: settled before, one value per row; each place has `room` elements, a vector more than a
            // tile.
            unsafe {
                let from = std::slice::from_raw_parts(from, rows.len());
                let values = std::slice::from_raw_parts_mut(values, context.room);
                expand(self.program.cpu.isa, from, cols, values);
            }
        }
        for &x in &run.sums {
            let (r, base) = (self.program.sums[x].r, context.uniform.operands);
            context.uniform.row_acc[r] = base.wrapping_add((1 + r) * context.room);
        }
        let (at, len) = (first * cols, rows.len() * cols);
        if self.conditions.is_some() || context.watching.is_some() {
            let piece = Piece { at, col: 0, len, rows: 1, narrow: true };
            // What it joins there is in the context, too.
            let mut out = [[0.0; MAX_ROWS]; MAX_REDUCTIONS];
            // SAFETY: the elements lie within the rows.
            unsafe { self.piece(k, piece, context, &mut out) };
        } else {
            let (n, lanes, whole) = in_vectors::<T>(len);
            let span = Span { at, n, lanes, whole, narrow: true, ..Span::once() };
            let Context { tables, uniform, reduced, .. } = &mut *context;
            tables.grad = self.tables.grad;
            // SAFETY: the elements lie within the rows; the instruction set was checked.
            unsafe { (self.program.kernels[k].narrow)(tables, uniform, span, reduced) };
        }
        // Between tiles nothing points to memory that is not the context's own, whatever a definition reads.
        run.rows.iter().for_each(|read| context.uniform.rows[read.call] = own);
        for &x in &run.sums {
            let sums = &self.program.sums[x];
            // SAFETY: these rows' and this segment's own places.
            unsafe {
                match sums.axis {
                    Axis::Col => {}
                    Axis::Row => {
                        let operands = context.uniform.row_acc[sums.r].cast_const();
                        let to = self.table.at(sums.to).add(first);
                        let to = std::slice::from_raw_parts_mut(to, rows.len());
                        reduce_rows(self.program.cpu.isa, sums.kind, operands, cols, to);
                    }
                    Axis::Matrix | Axis::Tensor => {
                        let sum = self.partials.0.add(sums.piece(s) + b);
                        *sum = join(sums.kind, *sum, context.reduced[sums.r][0].widen());
                    }
                }
            }
        }
    }

    /// Writes what a whole row was reduced to.
    ///
    /// # Safety
    /// The row is this worker's own.
    unsafe fn finish_row(&self, sums: &Sums, row: usize, value: f64) {
        #[allow(clippy::cast_precision_loss, reason = "a count of elements")]
        let row_len = self.program.dims.cols as f64;
        let value = match sums.kind {
            Reduction::Mean => value / row_len,
            Reduction::Max => value,
        };
        // SAFETY: the caller's contract; one value per row.
        unsafe { *self.table.at(sums.to).add(row) = T::narrow(value) };
    }

    /// One level over a piece of one row or more; of a vector it is whole ones of the processor's, or less
    /// than one. Joins what it reduces along each row to `out`.
    ///
    /// # Safety
    /// As for [`matrix`](Self::matrix); the elements lie within the segment's rows.
    unsafe fn piece(
        &self,
        k: usize,
        piece: Piece,
        context: &mut Context<T>,
        out: &mut [[f64; MAX_ROWS]; MAX_REDUCTIONS],
    ) {
        let Piece { at, col, len, rows, narrow } = piece;
        let Context { uniform, reduced, tail, watching, conditioned, tables, .. } = context;
        let run = &self.program.levels[k];
        let mut watching = watching.as_mut().filter(|_| run.updates);
        let pitch = self.program.dims.cols;
        // SAFETY: the elements lie within the rows.
        let given = |q: usize| unsafe {
            std::slice::from_raw_parts(self.tables.grad.add(at + q * pitch), len)
        };
        let mut grad_pitch = pitch;
        tables.grad = self.tables.grad;
        if let Some(values) = self.conditions
            && (run.loads.contains(&0) || watching.is_some())
        {
            grad_pitch = len;
            for (q, to) in conditioned.chunks_exact_mut(len).take(rows).enumerate() {
                condition(values, given(q), to);
            }
            tables.grad = conditioned.as_ptr().wrapping_sub(at);
        }
        if let Some(watching) = &mut watching {
            // SAFETY: the elements lie within the row, and a tile fits.
            unsafe { self.tables.param.add(at).copy_to(watching.before.as_mut_ptr(), len) };
        }
        if len >= T::LANES || self.program.dims.kind == Kind::Matrix {
            let kernels = &self.program.kernels[k];
            let kernel = if narrow { kernels.narrow } else { kernels.of(rows) };
            let (n, lanes, whole) = in_vectors::<T>(len);
            let span = Span { at, pitch, grad_pitch, col, n, lanes, whole, narrow, ..Span::once() };
            // SAFETY: the span lies within the rows; the instruction set was checked.
            unsafe { kernel(tables, uniform, span, reduced) };
        } else {
            let span = Span { col, lanes: len, ..Span::once() };
            // SAFETY: the elements lie within the row, and staged memory has a vector for each
            // buffer; the tail's tables point there.
            unsafe {
                for &x in &run.loads {
                    let from = match x {
                        0 => tables.grad.wrapping_add(at),
                        _ => self.tables.buffer(x).add(at),
                    };
                    from.copy_to(tail.buffer(x).cast_mut(), len);
                }
                (self.program.kernels[k].one)(tail, uniform, span, reduced);
                for &x in &run.stores {
                    tail.buffer(x).copy_to(self.tables.buffer(x).cast_mut().add(at), len);
                }
            }
        }
        self.join(run, reduced, rows, out);
        if let Some(watching) = &mut watching {
            // SAFETY: the elements lie within the row, and the loops are done with them.
            let (after, grad) = unsafe {
                (
                    std::slice::from_raw_parts(self.tables.param.cast_const().add(at), len),
                    std::slice::from_raw_parts(tables.grad.wrapping_add(at), len),
                )
            };
            watching.look(after, grad);
        }
    }

    /// Calls the memory's attention to the pages where the next `len` elements lie, from `at` on. Hardware
    /// foresees no further than a page, and finds out where the next one lies when it is there: loops
    /// over several arrays wait for that.
    #[inline]
    fn ahead(&self, run: &LevelRun, at: usize, len: usize) {
        let end = (at + len).min(self.program.dims.len());
        for &x in &run.ahead {
            let first = self.tables.buffer(x);
            for i in (at..end).step_by(PAGE / size_of::<T>()) {
                prefetch(first.wrapping_add(i));
            }
        }
    }

    /// Joins what `rows` rows were reduced to to their sums.
    fn join(
        &self,
        run: &LevelRun,
        reduced: &Reduced<T>,
        rows: usize,
        out: &mut [[f64; MAX_ROWS]; MAX_REDUCTIONS],
    ) {
        for sums in run.sums.iter().map(|&x| &self.program.sums[x]).filter(|s| s.axis != Axis::Col)
        {
            for (x, out) in reduced[sums.r][..rows].iter().zip(&mut out[sums.r]) {
                *out = join(sums.kind, *out, x.widen());
            }
        }
    }
}

/// Brings the cache line of an address, which need not be that of anything.
#[inline(always)]
fn prefetch<T>(at: *const T) {
    #[cfg(all(target_arch = "x86_64", not(miri)))]
    // SAFETY: SSE is part of the architecture, and the instruction accesses no memory as far as the program
    // can see: it never faults.
    unsafe {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        _mm_prefetch::<_MM_HINT_T0>(at.cast());
    }
    #[cfg(not(all(target_arch = "x86_64", not(miri))))]
    let _ = at;
}

/// Rows that a loop goes over: `n` together, `groups` times.
#[derive(Clone, Copy, Debug)]
struct Rows {
    first: usize,
    n: usize,
    groups: usize,
}

/// Elements that a loop goes over: `len` of each of `rows` rows.
#[derive(Clone, Copy, Debug)]
struct Piece {
    at: usize,
    col: usize,
    len: usize,
    rows: usize,
    narrow: bool,
}

/// How many vectors elements make, one at least, how many the last of them has, and [`Span::whole`].
fn in_vectors<T: Element>(len: usize) -> (usize, usize, usize) {
    let n = len.div_ceil(T::LANES).max(1);
    let lanes = len - (n - 1) * T::LANES;
    (n, lanes, lanes / T::LANES)
}

/// Whether an array comes from beyond all caches.
fn distant<T>(dims: Dims) -> bool {
    dims.len() * size_of::<T>() >= DISTANT
}

/// Rows that make a tile where rows are narrow: whole vectors of row values, if it can be.
fn tile_rows<T: Element>(dims: Dims) -> usize {
    let cols = dims.cols.max(1);
    let rows = match distant::<T>(dims) {
        true => (NARROW_PIECE / cols + T::LANES / 2).min(NARROW_ROWS),
        false => NARROW_TILE / cols,
    };
    if rows > T::LANES { rows / T::LANES * T::LANES } else { rows.max(1) }
}

/// Calls a function that is inlined, in AVX2 where that is there. No bit depends on it: nothing is
/// fused or reordered.
///
/// Whoever does so is not inlined itself: compilers move what the loop without AVX2 needs before the choice.
macro_rules! in_wide_registers {
    ($isa:expr, $name:ident<$t:ident>($($arg:ident: $type:ty),*)) => {{
        #[cfg(all(target_arch = "x86_64", not(miri)))]
        #[target_feature(enable = "avx2")]
        fn avx2<$t: Element>($($arg: $type),*) {
            $name($($arg),*);
        }
        #[cfg(all(target_arch = "x86_64", not(miri)))]
        if $isa >= Isa::Avx2 {
            // SAFETY: the instruction set was checked.
            return unsafe { avx2($($arg),*) };
        }
        let _ = $isa;
        $name($($arg),*);
    }};
}

/// Moves column sums from the element's precision to `f64`, where they join what is there, if something is.
/// Those of narrow rows, of which many lie one after the other, first become one row, each half joining the
/// other.
#[inline(never)]
fn fold<T: Element>(isa: Isa, kind: Reduction, from: &mut [T], to: &mut [f64], more: bool) {
    #[inline(always)]
    fn anywhere<T: Element>(kind: Reduction, from: &mut [T], to: &mut [f64], more: bool) {
        let cols = to.len().max(1);
        let mut rows = from.len() / cols;
        while rows > 1 {
            let kept = rows.div_ceil(2);
            let (first, second) = from[..rows * cols].split_at_mut(kept * cols);
            for (a, &b) in first.iter_mut().zip(&*second) {
                *a = match kind {
                    Reduction::Mean => *a + b,
                    Reduction::Max if *a < b => b,
                    Reduction::Max => *a,
                };
            }
            second.fill(T::narrow(identity(kind)));
            rows = kept;
        }
        let none = identity(kind);
        for (to, from) in to.iter_mut().zip(from) {
            *to = join(kind, if more { *to } else { none }, from.widen());
            *from = T::narrow(none);
        }
    }
    in_wide_registers!(isa, anywhere<T>(kind: Reduction, from: &mut [T], to: &mut [f64], more: bool));
}

/// Turns sums of `rows` elements in the element's precision, down columns or along rows, into what they
/// are reduced to, and sets them to what a reduction begins with.
#[inline(never)]
fn complete<T: Element>(isa: Isa, kind: Reduction, from: &mut [T], rows: usize, to: &mut [T]) {
    #[inline(always)]
    fn anywhere<T: Element>(kind: Reduction, from: &mut [T], rows: usize, to: &mut [T]) {
        let none = T::narrow(identity(kind));
        let (from, padding) = from.split_at_mut(to.len());
        padding.fill(none);
        #[allow(clippy::cast_precision_loss, reason = "a count of elements")]
        let n = rows as f64;
        let short = T::narrow(n);
        match kind {
            // The same bits, without the divider.
            Reduction::Mean if rows.is_power_of_two() => {
                let share = T::narrow(1.0 / n);
                for (to, sum) in to.iter_mut().zip(from) {
                    *to = *sum * share;
                    *sum = none;
                }
            }
            // Of two `f32`, a quotient in `f64` rounded to `f32` is that in `f32`, which takes half the time.
            Reduction::Mean if short.widen() == n => {
                for (to, sum) in to.iter_mut().zip(from) {
                    *to = *sum / short;
                    *sum = none;
                }
            }
            Reduction::Mean => {
                for (to, sum) in to.iter_mut().zip(from) {
                    *to = T::narrow(sum.widen() / n);
                    *sum = none;
                }
            }
            _ => {
                to.copy_from_slice(from);
                from.fill(none);
            }
        }
    }
    in_wide_registers!(isa, anywhere<T>(kind: Reduction, from: &mut [T], rows: usize, to: &mut [T]));
}

/// Calls a function over vectors, those of AVX2 where it is there. No bit depends on it.
macro_rules! over_vectors {
    ($isa:expr, $name:ident<$t:ident>($($arg:ident: $type:ty),*)) => {{
        #[cfg(all(target_arch = "x86_64", not(miri)))]
        #[target_feature(enable = "avx2")]
        unsafe fn avx2<$t: Element>($($arg: $type),*) {
            // SAFETY: the caller's contract, and the instruction set is present.
            unsafe { $name::<$t, $t::Avx2>($($arg),*) }
        }
        #[cfg(all(target_arch = "x86_64", not(miri)))]
        if $isa >= Isa::Avx2 {
            // SAFETY: the instruction set was checked; the caller's contract.
            return unsafe { avx2::<$t>($($arg),*) };
        }
        let _ = $isa;
        // SAFETY: the caller's contract.
        unsafe { $name::<$t, $t::Baseline>($($arg),*) }
    }};
}

/// Whether loops over narrow rows find row values where they are settled: not, where they must be written out.
fn looks_up<T: Element>(isa: Isa) -> bool {
    #[cfg(all(target_arch = "x86_64", not(miri)))]
    if isa >= Isa::Avx2 {
        return !T::Avx2::WRITTEN_OUT && !cfg!(gradstep_compact);
    }
    let _ = isa;
    !T::Baseline::WRITTEN_OUT && !cfg!(gradstep_compact)
}

/// Leaves the values of rows of `cols` elements as [`Simd::row_values`] finds them: written for all columns of
/// the row, row after row, or once.
///
/// # Safety
/// There is room for a vector behind the rows.
#[inline(never)]
unsafe fn expand<T: Element>(isa: Isa, from: &[T], cols: usize, to: &mut [T]) {
    #[inline(always)]
    unsafe fn over<T: Element, V: Simd<T = T>>(from: &[T], cols: usize, to: &mut [T]) {
        if cols == 1 || !V::WRITTEN_OUT && !cfg!(gradstep_compact) {
            return to[..from.len()].copy_from_slice(from);
        }
        if cols <= SHORT {
            return repeat_each(from, cols, to);
        }
        // What goes beyond a row is written again.
        let second = cols.saturating_sub(T::LANES);
        for (row, &value) in from.iter().enumerate() {
            let to = to.as_mut_ptr().wrapping_add(row * cols);
            // SAFETY: the instruction set is present; there is room for a vector behind the rows.
            unsafe {
                V::splat(value).store(to);
                V::splat(value).store(to.wrapping_add(second));
            }
        }
    }
    over_vectors!(isa, over<T>(from: &[T], cols: usize, to: &mut [T]));
}

/// A row of more than [`SHORT`] elements, two vectors at most, as one.
///
/// # Safety
/// As for [`Simd`]; there is room for a vector behind the row.
#[inline(always)]
unsafe fn row_in_vector<V: Simd>(kind: Reduction, from: *const V::T, cols: usize) -> V {
    // SAFETY: the caller's contract.
    unsafe {
        let first = V::load(from);
        let last = if cols < V::T::LANES { first } else { V::load(from.wrapping_add(V::T::LANES)) };
        let none = V::splat(V::T::narrow(identity(kind)));
        let last = last.or(V::mask(cols % V::T::LANES), none);
        if cols < V::T::LANES { last } else { lane::join(kind, first, last) }
    }
}

/// Reduces rows of `cols` elements that lie one after the other.
///
/// # Safety
/// There are `cols` elements for each of `to`, and room for a vector behind them.
#[inline(never)]
unsafe fn reduce_rows<T: Element>(
    isa: Isa,
    kind: Reduction,
    from: *const T,
    cols: usize,
    to: &mut [T],
) {
    #[inline(always)]
    unsafe fn over<T: Element, V: Simd<T = T>>(
        kind: Reduction,
        from: *const T,
        cols: usize,
        to: &mut [T],
    ) {
        #[allow(clippy::cast_precision_loss, reason = "a count of elements")]
        let n = T::narrow(if kind == Reduction::Mean { cols as f64 } else { 1.0 });
        let mut at = from;
        if cols > SHORT {
            let mut fours = to.chunks_exact_mut(4);
            for to in &mut fours {
                // SAFETY: the caller's contract.
                unsafe {
                    let rows = [
                        row_in_vector::<V>(kind, at, cols),
                        row_in_vector::<V>(kind, at.wrapping_add(cols), cols),
                        row_in_vector::<V>(kind, at.wrapping_add(2 * cols), cols),
                        row_in_vector::<V>(kind, at.wrapping_add(3 * cols), cols),
                    ];
                    V::fold_four(rows, kind, to.as_mut_ptr());
                }
                at = at.wrapping_add(4 * cols);
            }
            for to in fours.into_remainder() {
                // SAFETY: the caller's contract.
                *to = unsafe { row_in_vector::<V>(kind, at, cols).fold(kind) };
                at = at.wrapping_add(cols);
            }
            to.iter_mut().for_each(|sum| *sum = *sum / n);
            return;
        }
        let mut vectors = to.chunks_exact_mut(T::LANES);
        for to in &mut vectors {
            // SAFETY: the caller's contract.
            unsafe { V::join_rows(kind, at, cols).div(V::splat(n)).store(to.as_mut_ptr()) };
            at = at.wrapping_add(T::LANES * cols);
        }
        let rest = vectors.into_remainder();
        // SAFETY: the caller's contract.
        let from = unsafe { std::slice::from_raw_parts(at, rest.len() * cols) };
        join_each(kind, from, cols, rest);
        rest.iter_mut().for_each(|sum| *sum = *sum / n);
    }
    if cols == 1 {
        // SAFETY: the caller's contract.
        return to.copy_from_slice(unsafe { std::slice::from_raw_parts(from, to.len()) });
    }
    over_vectors!(isa, over<T>(kind: Reduction, from: *const T, cols: usize, to: &mut [T]));
}
