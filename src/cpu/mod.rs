//! The CPU backend: fused SIMD loops over the caller's own memory.
//!
//! [`Cpu`] says how to run, [`Cpu::prepare`] makes a [`CpuStep`] for one tensor, and
//! [`CpuStep::step`] updates a parameter in place. A step allocates nothing, and its result has
//! the same bits on every instruction set and for every number of threads: element *j* of a row
//! goes to virtual lane *j* mod 16 of an accumulator (8 for `f64`), rows are summed in blocks, and
//! everything above a block is summed in `f64` in an order that the shape alone decides.
//!
//! Where sums go down the columns, two or four rows are taken together, so that one load and store of
//! a column's accumulator serves all of them. Rows of few columns are gone over as one, a tile at a
//! time: row and column values are written out for each element, and what rows reduce is left per
//! element and summed afterwards.

#[cfg(gradstep_compact)]
mod compact;
#[cfg_attr(gradstep_compact, allow(dead_code, reason = "no loops of definitions are compiled"))]
mod lane;
pub(crate) mod many;
mod memory;
mod settle;
#[allow(unnameable_types, reason = "reachable through `Lanes`, which seals `Element`")]
mod simd;
mod tensor;

use std::fmt;

use num_traits::Float;

pub use self::lane::Kernels;
use self::lane::{LevelKernel, LevelKernels, MAX_ROWS, Reduced, Span, Tables, Uniform};
pub use self::many::{CpuOptimizer, CpuRelease, CpuStepping, Outcome};
use self::memory::Aligned;
use self::settle::{Acc, Small, Table, identity, join};
pub use self::tensor::{Lent, LentMut, TensorMut, TensorRef};
use crate::definition::{Erased, Optimizer, Recipe};
use crate::error::{Error, Result};
use crate::layout::{Dims, Layout};
use crate::plan::{Buffer, Plan};
use crate::report::Stats;
use crate::snapshot::Values;
use crate::trace::{Kind, NodeId, Op, Watch};
use crate::value::{Axis, CONDITION, GRAD, GRAD_NEUTRAL, Reduction, Shape, SlotDecl};

pub(crate) const MAX_CALLS: usize = 256;
pub(crate) const MAX_FULL_SLOTS: usize = 8;
pub(crate) const MAX_REDUCTIONS: usize = 8;
pub(crate) const MAX_LEVELS: usize = crate::definition::Levels::MAX as usize;

// Under miri these four are small, so that small tensors have all the seams of large ones.

/// Elements that one call of a kernel covers at most. Within it a lane sums in the element's own
/// precision (at most 256 terms), beyond it sums are `f64`.
const TILE: usize = if cfg!(miri) { 32 } else { 4096 };
/// Rows whose column sums are kept in the element's own precision before they join an `f64`.
const FOLD: usize = if cfg!(miri) { 4 } else { 64 };
/// Elements of a block of rows that a fused sweep goes over once for each level.
const BLOCK: usize = if cfg!(miri) { 64 } else { 8 * 1024 };
/// Elements that make a segment, the unit of work of a thread.
const SEGMENT: usize = if cfg!(miri) { 64 } else { 256 * 1024 };
/// Segments of a tensor at most.
const MAX_SEGMENTS: usize = 64;
/// Columns from which on rows are taken one by one where nothing is reduced.
const APART: usize = 1024;
/// Matrices of fewer columns are gone over many rows at a time.
const NARROW: usize = if cfg!(miri) { 24 } else { 128 };

/// A number that tensors are made of: `f32` or `f64`.
///
/// Another type joins with one line, here in the crate: the trait is sealed because the bits of a
/// result are part of its contract.
pub trait Element: Float + fmt::Debug + Default + Send + Sync + Lanes + 'static {}

/// What the loops need to know of a number.
#[allow(unnameable_types, reason = "it seals `Element`")]
pub trait Lanes: Copy {
    /// Virtual lanes of a vector.
    const LANES: usize;
    /// Memory for one vector.
    type Padded: AsMut<[Self]> + Copy + fmt::Debug + Send + Sync;
    /// Vectors of the instructions that every processor of this kind has.
    type Baseline: simd::Simd<T = Self>;
    /// Vectors of AVX2.
    #[cfg(all(target_arch = "x86_64", not(miri)))]
    type Avx2: simd::Simd<T = Self>;
    /// Vectors of AVX-512, where `WIDE` says that they are worth their compilation.
    #[cfg(all(target_arch = "x86_64", not(miri)))]
    type Avx512: simd::Simd<T = Self>;
    /// Whether there are loops for AVX-512; else those for AVX2 stand in.
    #[cfg(all(target_arch = "x86_64", not(miri)))]
    const WIDE: bool;
    /// Zeros for one vector.
    fn padded() -> Self::Padded;
    /// The nearest number.
    fn narrow(x: f64) -> Self;
    /// The same value as `f64`.
    fn widen(self) -> f64;
    /// As part of a snapshot.
    fn values(x: Vec<Self>) -> Values;
    /// The loops of a definition for this number.
    fn kernels(definition: &'static dyn Erased) -> &'static Kernels<Self>;
}

macro_rules! element {
    ($t:ident, $lanes:literal, $sse2:ident, $avx2:ident, $avx512:ident $wide:literal, $kernels:ident) => {
        impl Element for $t {}

        impl Lanes for $t {
            const LANES: usize = $lanes;
            type Padded = [Self; $lanes];
            #[cfg(all(target_arch = "x86_64", not(miri)))]
            type Baseline = simd::x86::$sse2;
            #[cfg(any(miri, not(target_arch = "x86_64")))]
            type Baseline = simd::Portable<Self, $lanes>;
            #[cfg(all(target_arch = "x86_64", not(miri)))]
            type Avx2 = simd::x86::$avx2;
            #[cfg(all(target_arch = "x86_64", not(miri)))]
            type Avx512 = simd::x86::$avx512;
            #[cfg(all(target_arch = "x86_64", not(miri)))]
            const WIDE: bool = $wide;

            #[inline(always)]
            fn padded() -> Self::Padded {
                [0.0; $lanes]
            }

            #[inline(always)]
            #[allow(clippy::cast_possible_truncation, reason = "rounding is what it is for")]
            fn narrow(x: f64) -> Self {
                x as Self
            }

            #[inline(always)]
            fn widen(self) -> f64 {
                f64::from(self)
            }

            fn values(x: Vec<Self>) -> Values {
                x.into()
            }

            fn kernels(definition: &'static dyn Erased) -> &'static Kernels<Self> {
                definition.$kernels()
            }
        }
    };
}

element!(f32, 16, Sse2F32, Avx2F32, Avx512F32 true, kernels_f32);
element!(f64, 8, Sse2F64, Avx2F64, Avx2F64 false, kernels_f64);

/// An instruction set that the library has loops for, each a superset of those before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Isa {
    /// What every processor of this kind has: SSE2 on x86-64, plain code elsewhere.
    Baseline,
    /// AVX2, on x86-64.
    Avx2,
    /// AVX-512 (F and DQ), on x86-64; for `f64` the loops are those of AVX2.
    Avx512,
}

impl Isa {
    /// The best one that this processor has.
    #[must_use]
    pub fn detect() -> Self {
        #[cfg(all(target_arch = "x86_64", not(miri)))]
        {
            use std::arch::is_x86_feature_detected as has;
            if has!("avx2") {
                let wide = has!("avx512f") && has!("avx512dq");
                return if wide { Self::Avx512 } else { Self::Avx2 };
            }
        }
        Self::Baseline
    }

    /// Its name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Baseline if cfg!(all(target_arch = "x86_64", not(miri))) => "SSE2",
            Self::Baseline => "portable",
            Self::Avx2 => "AVX2",
            Self::Avx512 => "AVX-512",
        }
    }

    fn kernel<T: Lanes>(self, kernels: &LevelKernels<T>) -> LevelKernel<T> {
        match self {
            #[cfg(all(target_arch = "x86_64", not(miri)))]
            Self::Avx2 => kernels.avx2,
            #[cfg(all(target_arch = "x86_64", not(miri)))]
            Self::Avx512 => kernels.avx512,
            _ => kernels.baseline,
        }
    }
}

/// Where threads come from.
#[derive(Clone, Debug)]
enum Threads {
    One,
    /// rayon's pool of the thread that steps.
    #[cfg(feature = "parallel")]
    Current,
    #[cfg(feature = "parallel")]
    Own(std::sync::Arc<rayon::ThreadPool>),
}

/// How to run on the CPU: the instruction set and the threads. Neither changes a bit of a result.
#[derive(Clone)]
pub struct Cpu {
    isa: Isa,
    threads: Threads,
}

impl fmt::Debug for Cpu {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let threads = match &self.threads {
            Threads::One => "1".to_string(),
            #[cfg(feature = "parallel")]
            Threads::Current => "rayon's".to_string(),
            #[cfg(feature = "parallel")]
            Threads::Own(pool) => pool.current_num_threads().to_string(),
        };
        f.debug_struct("Cpu").field("isa", &self.isa).field("threads", &threads).finish()
    }
}

impl Default for Cpu {
    /// The best instruction set; with feature `parallel` the threads of rayon's current pool.
    fn default() -> Self {
        #[cfg(feature = "parallel")]
        let threads = Threads::Current;
        #[cfg(not(feature = "parallel"))]
        let threads = Threads::One;
        Self { isa: Isa::detect(), threads }
    }
}

impl Cpu {
    /// The best instruction set, on the calling thread alone.
    #[must_use]
    pub fn single_threaded() -> Self {
        Self { isa: Isa::detect(), threads: Threads::One }
    }

    /// Runs on a pool of `threads` threads of its own.
    ///
    /// # Errors
    /// [`Error::Threads`] if the system does not give them.
    #[cfg(feature = "parallel")]
    pub fn with_threads(self, threads: usize) -> Result<Self> {
        if threads == 1 {
            return Ok(Self { threads: Threads::One, ..self });
        }
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .build()
            .map_err(|e| Error::Threads { threads, reason: e.to_string() })?;
        Ok(Self { threads: Threads::Own(pool.into()), ..self })
    }

    /// Runs with another instruction set than the best one.
    ///
    /// # Errors
    /// [`Error::Isa`] if this processor does not have it.
    pub fn with_isa(self, isa: Isa) -> Result<Self> {
        let mut available = vec![Isa::Baseline, Isa::Avx2, Isa::Avx512];
        available.retain(|&isa| isa <= Isa::detect());
        if !available.contains(&isa) {
            let available = available.into_iter().map(Isa::name).collect();
            return Err(Error::Isa { wanted: isa.name(), available });
        }
        Ok(Self { isa, ..self })
    }

    /// Prepares an optimizer for one tensor, with [`Layout::Auto`].
    ///
    /// # Errors
    /// [`Error::Hyper`], [`Error::Definition`] or [`Error::TooLarge`].
    pub fn prepare<T: Element, O: Optimizer>(
        &self,
        optimizer: O,
        shape: impl AsRef<[usize]>,
    ) -> Result<CpuStep<T, O>> {
        self.prepare_with(optimizer, shape, Layout::Auto)
    }

    /// Prepares an optimizer for one tensor with the given layout.
    ///
    /// # Errors
    /// [`Error::Hyper`], [`Error::Definition`] or [`Error::TooLarge`].
    pub fn prepare_with<T: Element, O: Optimizer>(
        &self,
        optimizer: O,
        shape: impl AsRef<[usize]>,
        layout: Layout,
    ) -> Result<CpuStep<T, O>> {
        optimizer.check()?;
        let recipe = optimizer.recipe();
        let tensor = CpuTensor::new(self, &optimizer, shape.as_ref(), layout)?;
        Ok(CpuStep { optimizer, recipe, tensor, t: 0 })
    }
}

/// An optimizer prepared for one tensor on the CPU: state, plan, step number.
#[derive(Debug)]
pub struct CpuStep<T: Element, O> {
    optimizer: O,
    recipe: Recipe,
    tensor: CpuTensor<T>,
    t: u64,
}

impl<T: Element, O: Optimizer> CpuStep<T, O> {
    /// Updates `param` in place from `grad`.
    ///
    /// Both are slices, arrays or views of the registered shape (see [`TensorMut`]). Contiguous
    /// memory in row-major order is used where it lies; anything else is copied into scratch
    /// memory and back.
    ///
    /// # Errors
    /// [`Error::Shape`], [`Error::Hyper`] or [`Error::Structure`]; nothing has changed then.
    pub fn step<'p, 'g>(
        &mut self,
        param: impl TensorMut<'p, T>,
        grad: impl TensorRef<'g, T>,
    ) -> Result<()> {
        self.optimizer.check()?;
        if self.optimizer.recipe() != self.recipe {
            return Err(Error::Structure {
                optimizer: self.recipe.name(),
                what: format!("its settings now select {}", self.optimizer.recipe().name()),
            });
        }
        let (param, grad) = (param.lend(), grad.lend());
        param.check("parameter", &self.tensor.shape)?;
        grad.check("gradient", &self.tensor.shape)?;
        let t = self.t.saturating_add(1);
        let optimizer = &self.optimizer;
        let hyper = |name: &str| crate::host::hyper(optimizer, GRAD_NEUTRAL, name);
        self.tensor.runner.prepare_step(t, hyper);
        self.tensor.update(param, &grad);
        self.t = t;
        Ok(())
    }

    /// The optimizer. Numbers may be read here.
    pub fn optimizer(&self) -> &O {
        &self.optimizer
    }

    /// The optimizer, to change hyper-parameters between steps (a schedule sets `lr` here).
    pub fn optimizer_mut(&mut self) -> &mut O {
        &mut self.optimizer
    }

    /// The number of steps taken.
    pub fn steps(&self) -> u64 {
        self.t
    }

    /// Sets the number of steps taken, after state was restored.
    pub fn set_steps(&mut self, t: u64) {
        self.t = t;
    }

    /// The plan by which it runs. Printable.
    pub fn plan(&self) -> &Plan {
        &self.tensor.runner.plan
    }

    /// The tensor as the definition sees it.
    pub fn dims(&self) -> Dims {
        self.tensor.runner.dims
    }

    /// Bytes of optimizer state.
    pub fn state_bytes(&self) -> usize {
        self.tensor.state_bytes()
    }

    /// Names and shapes of the slots, in the order of the definition.
    pub fn slots(&self) -> impl Iterator<Item = (&'static str, Shape)> {
        self.tensor.slots()
    }

    /// A copy of the values of a slot, in row-major order of its shape.
    ///
    /// # Errors
    /// [`Error::NoSlot`].
    pub fn slot(&self, name: &str) -> Result<Vec<T>> {
        self.tensor.slot(name)
    }

    /// Overwrites the values of a slot.
    ///
    /// # Errors
    /// [`Error::NoSlot`], or [`Error::Shape`] if the number of values differs.
    pub fn set_slot(&mut self, name: &str, values: &[T]) -> Result<()> {
        self.tensor.set_slot(name, values)
    }
}

/// One tensor with its state, whoever holds its hyper-parameters.
#[derive(Debug)]
struct CpuTensor<T: Element> {
    shape: Vec<usize>,
    runner: Runner<T>,
    /// For tensors that are not contiguous: parameter and gradient in order.
    scratch: Vec<T>,
}

impl<T: Element> CpuTensor<T> {
    fn new<O: Optimizer>(
        cpu: &Cpu,
        optimizer: &O,
        shape: &[usize],
        layout: Layout,
    ) -> Result<Self> {
        Self::watched(cpu, optimizer, shape, layout, Watch::Nothing)
    }

    fn watched<O: Optimizer + ?Sized>(
        cpu: &Cpu,
        optimizer: &O,
        shape: &[usize],
        layout: Layout,
        watch: Watch,
    ) -> Result<Self> {
        let recipe = optimizer.recipe();
        // What elements do is seen by the loops' driver, so that loops are compiled once.
        let (dims, mut graph) = match watch {
            Watch::Nothing => layout.resolve(recipe, shape)?,
            _ => layout.resolve_watched(recipe, shape, Watch::Reports)?,
        };
        crate::host::adopt(&mut graph, optimizer)?;
        let plan = Plan::new(graph, dims.is_fused())?;
        let mut runner = Runner::new(cpu.clone(), recipe, plan, dims);
        if watch == Watch::Updates {
            runner.watch();
        }
        Ok(Self { shape: shape.to_vec(), runner, scratch: Vec::new() })
    }

    /// One step over memory whose shape was checked, with the Host values that are prepared.
    fn update(&mut self, mut param: LentMut<'_, T>, grad: &Lent<'_, T>) {
        let n = self.runner.dims.len();
        let strided = |contiguous: bool| if contiguous { 0 } else { n };
        let (p_len, g_len) = (strided(param.slice().is_some()), strided(grad.slice().is_some()));
        self.scratch.resize((p_len + g_len).max(self.scratch.len()), T::zero());
        let (p_copy, rest) = self.scratch.split_at_mut(p_len);
        let g_copy = &mut rest[..g_len];
        let g = match grad.slice() {
            Some(g) => g,
            None => {
                grad.copy_to(g_copy);
                g_copy
            }
        };
        if let Some(p) = param.slice() {
            self.runner.run(p, g);
        } else {
            param.copy_to(p_copy);
            self.runner.run(p_copy, g);
            param.copy_from(p_copy);
        }
    }

    /// Runs a definition that only measures.
    fn measure(&mut self, grad: &Lent<'_, T>) {
        let g = match grad.slice() {
            Some(g) => g,
            None => {
                self.scratch.resize(self.runner.dims.len(), T::zero());
                grad.copy_to(&mut self.scratch);
                &self.scratch
            }
        };
        self.runner.measure(g);
    }

    fn state_bytes(&self) -> usize {
        self.runner.dims.state_len(&self.runner.plan.graph) * size_of::<T>()
    }

    fn slots(&self) -> impl Iterator<Item = (&'static str, Shape)> {
        self.runner.plan.graph.own_slots().iter().map(|s| (s.name, s.shape))
    }

    /// Statistics of the last step.
    fn stats(&self) -> Stats {
        let graph = &self.runner.plan.graph;
        let report = |(i, s): (usize, &SlotDecl)| (s.name, self.scalar(i).widen());
        let reports = graph.slots.iter().enumerate().skip(graph.own_slots).map(report);
        Stats::new(self.runner.watched(), reports)
    }

    fn slot(&self, name: &str) -> Result<Vec<T>> {
        let s = self.runner.find(name)?;
        let shape = self.runner.plan.graph.slots[s].shape;
        Ok(match self.runner.full_index(s) {
            Some(i) => self.runner.full[i].to_vec(),
            None => self.runner.small.slot(s, shape),
        })
    }

    /// The number in a slot of shape Scalar, by its place in the definition.
    fn scalar(&self, slot: usize) -> T {
        self.runner.small.scalar(slot)
    }

    fn set_slot(&mut self, name: &str, values: &[T]) -> Result<()> {
        let s = self.runner.find(name)?;
        let shape = self.runner.plan.graph.slots[s].shape;
        let expected = self.runner.dims.count(shape);
        if values.len() != expected {
            return Err(Error::Shape {
                what: format!("slot `{name}`"),
                expected: vec![expected],
                found: vec![values.len()],
            });
        }
        match self.runner.full_index(s) {
            Some(i) => self.runner.full[i].copy_from_slice(values),
            None => self.runner.small.set_slot(s, shape, values),
        }
        Ok(())
    }
}

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
    /// The node of its result.
    node: NodeId,
    axis: Axis,
    kind: Reduction,
    level: usize,
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

/// What is watched of the steps of one tensor.
#[derive(Clone, Copy, Debug, Default)]
struct Watched {
    /// Sums over the elements: the squares of the gradient and of the update, and the updates that
    /// are zero.
    sums: [f64; 3],
}

/// Room to see what a tile changes.
struct Watching<T> {
    seen: Watched,
    /// The parameter of a tile before it changes.
    before: Vec<T>,
}

impl<T: Element> Watching<T> {
    /// Looks at elements that have changed.
    fn look(&mut self, after: &[T], gradient: &[T]) {
        let [mut g_sum, mut u_sum, mut zeros] = self.seen.sums;
        for ((&after, &before), &g) in after.iter().zip(&self.before).zip(gradient) {
            let g = g.widen();
            let u = (after - before).widen();
            g_sum += g * g;
            u_sum += u * u;
            zeros += f64::from(u8::from(u == 0.0));
        }
        self.seen.sums = [g_sum, u_sum, zeros];
    }
}

/// A row value that a loop reads.
#[derive(Clone, Copy, Debug)]
struct RowRead {
    call: usize,
    node: NodeId,
    /// Its place among a context's row values.
    place: usize,
}

/// What a level does in the tables' terms.
#[derive(Clone, Debug, Default)]
struct LevelRun {
    /// What is read and written, by its place in staged memory.
    loads: Vec<usize>,
    stores: Vec<usize>,
    /// Indices into `Runner::sums`.
    sums: Vec<usize>,
    /// The row values that the level reads.
    rows: Vec<RowRead>,
    /// Row values that are settled for each block of rows before the level, operands first.
    local: Vec<NodeId>,
    /// Whether it sets the parameter.
    updates: bool,
}

/// Runs a plan over one tensor.
struct Runner<T: Element> {
    cpu: Cpu,
    plan: Plan,
    dims: Dims,
    kernels: Vec<LevelKernel<T>>,
    /// Whether rows are so short that one loop goes over many of them.
    narrow: bool,
    small: Small<T>,
    full: Vec<Aligned<T>>,
    tables: Tables<T>,
    segments: Vec<Segment>,
    /// One per segment: uniforms and column accumulators.
    contexts: Vec<Context<T>>,
    sums: Vec<Sums>,
    partials: Vec<f64>,
    /// Numbers of the column reductions.
    col_reductions: Vec<usize>,
    levels: Vec<LevelRun>,
    /// (call, node) of the values constant over the tensor, and over a matrix.
    fixed: Vec<(usize, NodeId)>,
    per_matrix: Vec<(usize, NodeId)>,
    /// (call, node) of column values.
    cols: Vec<(usize, NodeId)>,
    /// What unused entries of `tables.cols` point to.
    _spare: Vec<T>,
    /// The values of [`GRAD`] of the step at hand.
    grad: [f64; 3],
}

impl<T: Element> fmt::Debug for Runner<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Runner")
            .field("definition", &self.plan.graph.name)
            .field("dims", &self.dims)
            .field("segments", &self.segments.len())
            .finish_non_exhaustive()
    }
}

struct Context<T: Element> {
    uniform: Uniform<T>,
    /// What the loops reduced along the rows at hand.
    reduced: Reduced<T>,
    /// For the last elements of a row, which do not fill a vector: the tables of `staged` memory,
    /// where they are copied to make one.
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
    watching: Option<Watching<T>>,
    /// Where gradients are clipped or scaled: a tile of them.
    conditioned: Vec<T>,
    /// The tables of the step, but for what is the context's own.
    tables: Tables<T>,
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
struct Prepared<T> {
    unit: usize,
    kind: Kind,
    grad: [f64; 3],
    hosts: Vec<T>,
}

impl<T: Element> Prepared<T> {
    fn new(unit: usize, runner: &Runner<T>) -> Self {
        let hosts = runner.small.hosts.clone();
        Self { unit, kind: runner.dims.kind, grad: GRAD_NEUTRAL, hosts }
    }

    fn is_of(&self, unit: usize, runner: &Runner<T>) -> bool {
        self.unit == unit && self.kind == runner.dims.kind
    }
}

impl<T: Element> Runner<T> {
    fn new(cpu: Cpu, recipe: Recipe, plan: Plan, dims: Dims) -> Self {
        let compiled = recipe.kernels::<T>();
        let compiled = match dims.kind {
            Kind::Vector => &compiled.vector,
            Kind::Matrix => &compiled.matrix,
        };
        // The tracer has compared the number of levels with what is compiled.
        let kernels: Vec<_> = compiled.iter().flatten().map(|k| cpu.isa.kernel(k)).collect();
        let small = Small::new(&plan, dims, cpu.isa);
        let by_rows = dims.kind == Kind::Matrix && plan.fused;
        let (segments, row_pieces, col_pieces) = segments(dims, by_rows, T::LANES);

        let place = |buffer: Buffer| match buffer {
            Buffer::Grad => 0,
            Buffer::Param => 1,
            Buffer::Slot(s) => 2 + plan.graph.full_slots().take_while(|&f| f != s).count(),
        };
        let level_run = |level: &crate::plan::Level| LevelRun {
            loads: level.loads.iter().map(|&b| place(b)).collect(),
            stores: level.stores.iter().map(|&(b, _)| place(b)).collect(),
            updates: level.stores.iter().any(|s| s.0 == Buffer::Param),
            ..LevelRun::default()
        };
        let mut levels: Vec<_> = plan.levels.iter().map(level_run).collect();
        for sweep in &plan.sweeps {
            for &n in &sweep.local {
                levels[usize::from(plan.graph.nodes[n].level)].local.push(n);
            }
        }
        let (mut sums, mut len) = (Vec::new(), 0);
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
                Axis::Col => dims.batch * small.stride,
                Axis::Matrix | Axis::Tensor => dims.batch,
            };
            let pieces = match axis {
                Axis::Row => col_pieces,
                Axis::Col => row_pieces,
                Axis::Matrix | Axis::Tensor => row_pieces.max(col_pieces),
            };
            levels[level].sums.push(sums.len());
            sums.push(Sums { r, node, axis, kind, level, at: len, pieces, len: extent });
            len += extent * pieces;
        }

        // Which calls the loops read from tables, by shape.
        let (mut fixed, mut per_matrix, mut cols) = (Vec::new(), Vec::new(), Vec::new());
        let mut row_places = 1;
        for (call, &n) in plan.graph.calls.iter().enumerate() {
            let read = |l: &crate::plan::Level| l.reads.contains(&n);
            let any = plan.hosts.contains(&n) || plan.levels.iter().any(read);
            match plan.graph.nodes[n].shape {
                Shape::Host | Shape::Scalar if any => fixed.push((call, n)),
                Shape::Matrix if any => per_matrix.push((call, n)),
                Shape::Cols if any => cols.push((call, n)),
                Shape::Rows if any => {
                    for (run, level) in levels.iter_mut().zip(&plan.levels) {
                        if read(level) {
                            run.rows.push(RowRead { call, node: n, place: row_places });
                        }
                    }
                    row_places += 1;
                }
                _ => {}
            }
        }

        let narrow = by_rows && dims.cols < NARROW;
        let widest = segments.iter().map(|s| s.cols.1 - s.cols.0).max().unwrap_or(0);
        let room = if narrow {
            let rows = segments.iter().map(|s| s.rows.1 - s.rows.0).max().unwrap_or(0);
            // A vector more, because values are written as whole vectors.
            (tile_rows(dims).min(rows) * dims.cols).next_multiple_of(T::LANES) + T::LANES
        } else {
            MAX_ROWS * T::LANES
        };
        // A distance that is no multiple of 4096 bytes: accumulators of one column must not
        // compete for the same place in the cache.
        let step = widest.next_multiple_of(T::LANES).max(room) + 2 * T::LANES;
        let spare = vec![T::zero(); dims.batch * small.stride];
        let contexts = segments.iter().map(|_| {
            let mut row_memory = Aligned::filled(row_places * room, T::zero());
            let row_values = row_memory.as_mut_ptr();
            let if_narrow =
                |places| Aligned::filled(if narrow { places * room } else { 0 }, T::zero());
            let mut operand_memory = if_narrow(1 + MAX_REDUCTIONS);
            let operands = operand_memory.as_mut_ptr();
            let col_values = if_narrow(1 + cols.len());
            let unused_cols = if narrow { col_values.as_ptr() } else { spare.as_ptr() };
            Context {
                uniform: Uniform {
                    values: [T::zero(); MAX_CALLS],
                    together: [[T::zero(); MAX_ROWS]; MAX_CALLS],
                    rows: [row_values; MAX_CALLS],
                    col_acc: [std::ptr::null_mut(); MAX_REDUCTIONS],
                    row_acc: [operands; MAX_REDUCTIONS],
                    row_values,
                    operands,
                },
                reduced: [[T::zero(); MAX_ROWS]; MAX_REDUCTIONS],
                tail: Tables::new(unused_cols, identity),
                staged: vec![T::zero(); (2 + MAX_FULL_SLOTS) * T::LANES],
                acc: Aligned::filled((col_reductions.len() + 1) * step, T::zero()),
                step,
                _row_values: row_memory,
                col_values,
                _operands: operand_memory,
                room,
                watching: None,
                conditioned: Vec::new(),
                tables: Tables::new(unused_cols, identity),
            }
        });
        let contexts = contexts.collect();
        #[cfg(gradstep_compact)]
        let (contexts, code) = {
            let code = std::sync::Arc::new(compact::Code::new(&plan));
            let mut contexts: Vec<Context<T>> = contexts;
            for context in &mut contexts {
                context.tables.code = Some(code.clone());
                context.tail.code = Some(code.clone());
            }
            (contexts, Some(code))
        };
        let full = plan
            .graph
            .full_slots()
            .map(|s| Aligned::filled(dims.len(), T::narrow(plan.graph.slots[s].init)));
        Self {
            full: full.collect(),
            partials: vec![0.0; len],
            tables: Tables {
                #[cfg(gradstep_compact)]
                code,
                ..Tables::new(spare.as_ptr(), identity)
            },
            cpu,
            plan,
            dims,
            kernels,
            narrow,
            small,
            segments,
            contexts,
            sums,
            col_reductions,
            levels,
            fixed,
            per_matrix,
            cols,
            _spare: spare,
            grad: GRAD_NEUTRAL,
        }
    }

    /// Makes room for gradients that are clipped or scaled, where there is none yet.
    fn make_room(&mut self) {
        for (context, segment) in self.contexts.iter_mut().zip(&self.segments) {
            let tile = TILE.max(T::LANES);
            let room = if self.narrow {
                context.room
            } else {
                tile.min(segment.cols.1 - segment.cols.0) * MAX_ROWS
            };
            context.conditioned.resize(room, T::zero());
        }
    }

    /// Watches what steps do to elements, from now on.
    fn watch(&mut self) {
        for context in &mut self.contexts {
            let before = vec![T::zero(); TILE.max(T::LANES)];
            context.watching = Some(Watching { seen: Watched::default(), before });
        }
    }

    /// The means over the elements of what was watched in the last step.
    fn watched(&self) -> [f64; 3] {
        let mut sums = [0.0; 3];
        for watching in self.contexts.iter().filter_map(|c| c.watching.as_ref()) {
            sums.iter_mut().zip(watching.seen.sums).for_each(|(sum, x)| *sum += x);
        }
        #[allow(clippy::cast_precision_loss, reason = "a count of elements")]
        let n = self.dims.len().max(1) as f64;
        sums.map(|sum| sum / n)
    }

    fn find(&self, name: &str) -> Result<usize> {
        let slots = &self.plan.graph.slots;
        slots.iter().position(|s| s.name == name).ok_or_else(|| Error::NoSlot {
            definition: self.plan.graph.name,
            name: name.into(),
            known: slots.iter().map(|s| s.name).collect::<Vec<_>>().join(", "),
        })
    }

    fn full_index(&self, slot: usize) -> Option<usize> {
        self.plan.graph.full_slots().position(|s| s == slot)
    }

    /// Evaluates the Host values of step `t`.
    fn prepare_step(&mut self, t: u64, hyper: impl Fn(&str) -> f64) {
        self.grad = GRAD.map(&hyper);
        if self.grad != GRAD_NEUTRAL {
            self.make_room();
        }
        self.small.eval_hosts(&self.plan, t, hyper);
    }

    /// Keeps the Host values that are prepared, for others.
    fn keep(&self, prepared: &mut Prepared<T>) {
        prepared.grad = self.grad;
        prepared.hosts.copy_from_slice(&self.small.hosts);
    }

    /// The same for a tensor of the same optimizer and kind as one whose step is prepared.
    fn prepare_like(&mut self, prepared: &Prepared<T>) {
        self.grad = prepared.grad;
        if self.grad != GRAD_NEUTRAL {
            self.make_room();
        }
        self.small.hosts.copy_from_slice(&prepared.hosts);
    }

    /// One step over contiguous memory of the right length.
    fn run(&mut self, param: &mut [T], grad: &[T]) {
        // Whoever calls has checked it, and the memory's safety rests on it.
        let n = self.dims.len();
        assert!(param.len() == n && grad.len() == n, "memory of {n} elements");
        if n > 0 {
            self.run_over(param.as_mut_ptr(), grad.as_ptr());
        }
    }

    /// Runs a definition that only measures: it has no place for a parameter.
    fn measure(&mut self, grad: &[T]) {
        let stores = |l: &crate::plan::Level| !l.stores.is_empty();
        let writes = self.plan.levels.iter().any(stores);
        debug_assert!(!writes, "a definition that measures stores nothing of full size");
        assert!(grad.len() == self.dims.len(), "memory of {} elements", self.dims.len());
        if !self.dims.is_empty() && !writes {
            // Nothing is written through this pointer: the plan has no full-size store.
            self.run_over(grad.as_ptr().cast_mut(), grad.as_ptr());
        }
    }

    fn run_over(&mut self, param: *mut T, grad: *const T) {
        let tables = &mut self.tables;
        tables.grad = grad;
        tables.param = param;
        tables.slots = [tables.param; MAX_FULL_SLOTS];
        for (to, slot) in tables.slots.iter_mut().zip(&mut self.full) {
            *to = slot.as_mut_ptr();
        }
        for &(call, n) in &self.cols {
            tables.cols[call] = self.small.node_ptr(n);
        }
        for watching in self.contexts.iter_mut().filter_map(|c| c.watching.as_mut()) {
            watching.seen = Watched::default();
        }
        let mut settled = 0;
        for i in 0..self.plan.sweeps.len() {
            let first = self.plan.sweeps[i].levels.start;
            self.settle(settled..first + 1);
            settled = first + 1;
            self.sweep(i);
            self.finish(i);
        }
        self.settle(settled..self.plan.settles.len());
    }

    fn settle(&mut self, levels: std::ops::Range<usize>) {
        let table = self.small.table();
        for k in levels {
            for &n in &self.plan.settles[k] {
                // SAFETY: no sweep is running, operands come before their users.
                unsafe { table.settle(&self.plan, n, 0..self.dims.batch, 0..self.dims.rows) };
            }
            for (slot, n) in self.plan.commits(k) {
                // SAFETY: no sweep is running.
                unsafe { table.commit(&self.plan, slot, n) };
            }
        }
    }

    fn sweep(&mut self, index: usize) {
        let table = self.small.table();
        let job = Job {
            sweep: &self.plan.sweeps[index],
            plan: &self.plan,
            dims: self.dims,
            stride: self.dims.cols.next_multiple_of(T::LANES),
            isa: self.cpu.isa,
            kernels: &self.kernels,
            narrow: self.narrow,
            tables: &self.tables,
            table,
            sums: &self.sums,
            levels: &self.levels,
            fixed: &self.fixed,
            per_matrix: &self.per_matrix,
            cols: &self.cols,
            col_reductions: &self.col_reductions,
            #[allow(clippy::cast_precision_loss, reason = "a count of elements")]
            row_len: self.dims.cols as f64,
            partials: Partials(self.partials.as_mut_ptr()),
            conditions: (self.grad != GRAD_NEUTRAL).then(|| self.grad.map(T::narrow)),
        };
        let work = |(segment, context): (&Segment, &mut Context<T>)| {
            // SAFETY: segments are disjoint, each has its own context, and all of them lie within
            // the tensor.
            unsafe { job.segment(segment, context) };
        };
        match &self.cpu.threads {
            #[cfg(feature = "parallel")]
            Threads::Current if self.segments.len() > 1 => {
                use rayon::prelude::*;
                self.segments.par_iter().zip(&mut self.contexts).for_each(work);
            }
            #[cfg(feature = "parallel")]
            Threads::Own(pool) if self.segments.len() > 1 => {
                use rayon::prelude::*;
                let (segments, contexts) = (&self.segments, &mut self.contexts);
                pool.install(|| segments.par_iter().zip(contexts).for_each(work));
            }
            _ => self.segments.iter().zip(&mut self.contexts).for_each(work),
        }
    }

    /// Turns the sums of a sweep into the values of their nodes.
    fn finish(&mut self, index: usize) {
        for sums in &self.sums {
            if !self.plan.sweeps[index].levels.contains(&sums.level) {
                continue;
            }
            if sums.axis == Axis::Row && sums.pieces == 1 {
                continue; // finished row by row
            }
            let out = self.small.node_ptr(sums.node);
            let partials = &mut self.partials[sums.at..][..sums.len * sums.pieces];
            #[allow(clippy::cast_precision_loss, reason = "a count of elements")]
            let n = settle::count(self.dims, sums.axis) as f64;
            // Piece after piece, each from end to end: their columns lie far apart.
            let (totals, pieces) = partials.split_at_mut(sums.len);
            for piece in pieces.chunks_exact(sums.len) {
                for (total, &x) in totals.iter_mut().zip(piece) {
                    *total = join(sums.kind, *total, x);
                }
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
}

/// The `f64` partial sums, open to several workers.
#[derive(Clone, Copy)]
struct Partials(*mut f64);

// SAFETY: each segment writes only its own piece.
unsafe impl Send for Partials {}
// SAFETY: as above.
unsafe impl Sync for Partials {}

/// One sweep, as all workers see it.
struct Job<'a, T: Lanes> {
    sweep: &'a crate::plan::Sweep,
    plan: &'a Plan,
    dims: Dims,
    stride: usize,
    isa: Isa,
    kernels: &'a [LevelKernel<T>],
    narrow: bool,
    tables: &'a Tables<T>,
    table: Table<'a, T>,
    sums: &'a [Sums],
    levels: &'a [LevelRun],
    fixed: &'a [(usize, NodeId)],
    per_matrix: &'a [(usize, NodeId)],
    col_reductions: &'a [usize],
    cols: &'a [(usize, NodeId)],
    /// The number of columns.
    row_len: f64,
    partials: Partials,
    /// What gradients are clipped to and multiplied by, where that changes them.
    conditions: Option<[T; 3]>,
}

impl<T: Element> Job<'_, T> {
    /// # Safety
    /// The segment lies within the tensor and no other worker has it.
    unsafe fn segment(&self, s: &Segment, context: &mut Context<T>) {
        for &(call, n) in self.fixed {
            let host = self.plan.graph.nodes[n].shape == Shape::Host;
            // SAFETY: the value was settled before the sweep.
            let value = if host { self.table.host(n) } else { unsafe { *self.table.ptr(n) } };
            context.uniform.values[call] = value;
        }
        let Context { tail, staged, tables, .. } = context;
        let staged = staged.as_mut_ptr();
        // SAFETY: staged memory has a vector for the gradient, the parameter and each slot.
        unsafe {
            (tail.grad, tail.param) = (staged, staged.add(T::LANES));
            for (k, slot) in tail.slots.iter_mut().enumerate() {
                *slot = staged.add((2 + k) * T::LANES);
            }
        }
        (tables.grad, tables.param) = (self.tables.grad, self.tables.param);
        tables.slots = self.tables.slots;
        if !self.narrow {
            for &(call, _) in self.cols {
                tail.cols[call] = self.tables.cols[call];
                tables.cols[call] = self.tables.cols[call];
            }
        }
        for b in s.b.0..s.b.1 {
            // SAFETY: the caller's contract; `b` is one of the segment's batch entries.
            unsafe { self.matrix(s, b, context) };
        }
    }

    /// The sums of the sweep's levels.
    fn sums(&self) -> impl Iterator<Item = &Sums> {
        self.sweep.levels.clone().flat_map(|k| &self.levels[k].sums).map(|&i| &self.sums[i])
    }

    /// One batch entry of a segment.
    ///
    /// # Safety
    /// As for [`segment`](Self::segment); `b` is one of its batch entries.
    unsafe fn matrix(&self, s: &Segment, b: usize, context: &mut Context<T>) {
        let (c0, cols) = (s.cols.0, s.cols.1 - s.cols.0);
        let step = context.step;
        // Accumulators are addressed by the column that the loops count, which starts elsewhere.
        let first_col = b * self.stride + c0;
        let counted_from = if self.narrow { 0 } else { first_col };
        let acc = context.acc.as_mut_ptr();
        let uniform = &mut context.uniform;
        let acc_of = |place: usize| acc.wrapping_add(place * step);
        uniform.col_acc = [acc_of(0).wrapping_sub(counted_from); MAX_REDUCTIONS];
        for (&r, place) in self.col_reductions.iter().zip(1..) {
            uniform.col_acc[r] = acc_of(place).wrapping_sub(counted_from);
        }
        for &(call, n) in self.per_matrix {
            // SAFETY: settled before the sweep; one value per batch entry.
            uniform.values[call] = unsafe { *self.table.ptr(n).add(b) };
        }
        for sums in self.sums() {
            let identity = identity(sums.kind);
            match sums.axis {
                Axis::Row => {}
                // SAFETY: this segment's own piece.
                Axis::Matrix | Axis::Tensor => unsafe {
                    *self.partials.0.add(sums.piece(s) + b) = identity;
                },
                Axis::Col => {
                    // SAFETY: this segment's own piece and its own accumulators.
                    unsafe {
                        let to = self.partials.0.add(sums.piece(s) + first_col);
                        std::slice::from_raw_parts_mut(to, cols).fill(identity);
                        let acc = acc_of(1 + self.place(sums.r));
                        let len = if self.narrow { context.room } else { cols };
                        std::slice::from_raw_parts_mut(acc, len).fill(T::narrow(identity));
                    }
                }
            }
        }

        if self.narrow {
            let Context { col_values, room, tables, tail, .. } = &mut *context;
            for (&(call, _), to) in self.cols.iter().zip(col_values.chunks_exact_mut(*room).skip(1))
            {
                // SAFETY: settled before the sweep; the segment has all columns.
                let from = unsafe {
                    std::slice::from_raw_parts(self.tables.cols[call].add(first_col), cols)
                };
                to.chunks_mut(cols).for_each(|row| row.copy_from_slice(&from[..row.len()]));
                (tables.cols[call], tail.cols[call]) = (to.as_ptr(), to.as_ptr());
            }
        }

        let levels = self.sweep.levels.clone();
        let block = match () {
            () if self.narrow => tile_rows(self.dims),
            () if levels.len() > 1 => (BLOCK / cols).clamp(MAX_ROWS, FOLD),
            () => FOLD,
        };
        // Rows that an accumulator of a column has summed in the element's precision.
        let mut unfolded = 0;
        let mut row = s.rows.0;
        while row < s.rows.1 {
            let end = (row + block).min(s.rows.1);
            for k in levels.clone() {
                for &n in &self.levels[k].local {
                    // SAFETY: these rows are this worker's own, operands come first.
                    unsafe { self.table.settle(self.plan, n, b..b + 1, row..end) };
                }
                // SAFETY: the rows' pieces lie within the segment.
                unsafe {
                    if self.narrow {
                        self.tile(s, b, row..end, k, context);
                    } else {
                        self.block(s, b, row..end, k, context);
                    }
                }
            }
            let summed = if self.narrow { 1 } else { block };
            unfolded += summed;
            row = end;
            if unfolded + summed > FOLD || row == s.rows.1 {
                unfolded = 0;
                for sums in self.sums().filter(|sums| sums.axis == Axis::Col) {
                    let from = acc_of(1 + self.place(sums.r));
                    // Of narrow rows as many as a tile has.
                    let len = if self.narrow { context.room / cols * cols } else { cols };
                    // SAFETY: this segment's own piece and its own accumulators.
                    unsafe {
                        let to = self.partials.0.add(sums.piece(s) + first_col);
                        let from = std::slice::from_raw_parts_mut(from, len);
                        fold(self.isa, sums.kind, from, std::slice::from_raw_parts_mut(to, cols));
                    }
                }
            }
        }
    }

    /// The place of a column reduction among the accumulators.
    fn place(&self, r: usize) -> usize {
        self.col_reductions.iter().position(|&c| c == r).unwrap_or(0)
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
        let watched = self.levels[k].updates && context.watching.is_some();
        // Where nothing is reduced, long rows have nothing in common but the memory's attention.
        let apart = self.levels[k].sums.is_empty() && s.cols.1 - s.cols.0 >= APART;
        let together = if watched || apart { 1 } else { self.kernels[k].rows };
        let mut i = rows.start;
        while i < rows.end {
            let n = if i + together <= rows.end { together } else { 1 };
            // SAFETY: the caller's contract.
            unsafe { self.rows(s, b, i, n, k, context) };
            i += n;
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
        let run = &self.levels[k];
        let first = b * self.dims.rows + i;
        // The loop over narrow rows is also for what does not fill a vector, and for all rows where
        // there is no other.
        let narrow = !(s.cols.1 - s.cols.0).is_multiple_of(T::LANES) || self.isa == Isa::Baseline;
        for read in &run.rows {
            // SAFETY: each place has `room` elements, a vector for each row at least.
            let values = unsafe { context.uniform.row_values.add(read.place * context.room) };
            for q in 0..n {
                // SAFETY: settled before; one value per row.
                let value = unsafe { *self.table.ptr(read.node).add(first + q) };
                context.uniform.together[read.call][q] = value;
                if narrow {
                    // SAFETY: as above.
                    unsafe {
                        std::slice::from_raw_parts_mut(values.add(q * T::LANES), T::LANES)
                            .fill(value);
                    }
                }
            }
            context.uniform.rows[read.call] = values;
        }
        let mut out = [[0.0; MAX_ROWS]; MAX_REDUCTIONS];
        for &x in &run.sums {
            out[self.sums[x].r] = [identity(self.sums[x].kind); MAX_ROWS];
        }
        let cols = self.dims.cols;
        let (c0, c1) = s.cols;
        let (mut at, mut col) = (first * cols + c0, b * self.stride + c0);
        let mut left = c1 - c0;
        while left > 0 {
            let len = left.min(TILE.max(T::LANES));
            let len = if len < T::LANES { len } else { len / T::LANES * T::LANES };
            let piece = Piece { at, col, len, rows: n, narrow: false };
            // SAFETY: the elements lie within the rows.
            unsafe { self.piece(k, piece, context, &mut out) };
            (at, col, left) = (at + len, col + len, left - len);
        }
        for &x in &run.sums {
            let sums = &self.sums[x];
            for (row, &value) in (first..).zip(&out[sums.r][..n]) {
                // SAFETY: this row's and this segment's own places.
                unsafe {
                    match sums.axis {
                        Axis::Col => {}
                        Axis::Row if sums.pieces == 1 => self.finish_row(sums, row, value),
                        Axis::Row => *self.partials.0.add(sums.piece(s) + row) = value,
                        Axis::Matrix | Axis::Tensor => {
                            let sum = self.partials.0.add(sums.piece(s) + b);
                            *sum = join(sums.kind, *sum, value);
                        }
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
        let run = &self.levels[k];
        let cols = self.dims.cols;
        let first = b * self.dims.rows + rows.start;
        for read in &run.rows {
            let values = context.uniform.row_values.wrapping_add(read.place * context.room);
            // SAFETY: each place has `room` elements.
            let values = unsafe { std::slice::from_raw_parts_mut(values, context.room) };
            for q in 0..rows.len() {
                // SAFETY: settled before; one value per row.
                let value = unsafe { *self.table.ptr(read.node).add(first + q) };
                // Whole vectors: the next row overwrites what is too much.
                for j in (0..cols).step_by(T::LANES) {
                    values[q * cols + j..][..T::LANES].fill(value);
                }
            }
            context.uniform.rows[read.call] = values.as_ptr();
        }
        for &x in &run.sums {
            let (r, base) = (self.sums[x].r, context.uniform.operands);
            context.uniform.row_acc[r] = base.wrapping_add((1 + r) * context.room);
        }
        let mut out = [[0.0; MAX_ROWS]; MAX_REDUCTIONS];
        for &x in &run.sums {
            out[self.sums[x].r] = [identity(self.sums[x].kind); MAX_ROWS];
        }
        let all = rows.len() * cols;
        let whole = all / T::LANES * T::LANES;
        for (from, to) in [(0, whole), (whole, all)] {
            if from < to {
                let at = first * cols + from;
                let piece = Piece { at, col: from, len: to - from, rows: 1, narrow: true };
                // SAFETY: the elements lie within the rows.
                unsafe { self.piece(k, piece, context, &mut out) };
            }
        }
        for &x in &run.sums {
            let sums = &self.sums[x];
            // SAFETY: these rows' and this segment's own places.
            unsafe {
                match sums.axis {
                    Axis::Col => {}
                    Axis::Row => {
                        let operands = context.uniform.row_acc[sums.r].cast_const();
                        let operands = std::slice::from_raw_parts(operands, all);
                        for (row, operands) in (first..).zip(operands.chunks_exact(cols)) {
                            let value = if cols <= T::LANES {
                                let first = identity(sums.kind);
                                operands.iter().fold(first, |a, b| join(sums.kind, a, b.widen()))
                            } else {
                                let mut acc = Acc::new(sums.kind);
                                acc.add(operands);
                                acc.total()
                            };
                            self.finish_row(sums, row, value);
                        }
                    }
                    Axis::Matrix | Axis::Tensor => {
                        let sum = self.partials.0.add(sums.piece(s) + b);
                        *sum = join(sums.kind, *sum, out[sums.r][0]);
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
        let value = match sums.kind {
            Reduction::Mean => value / self.row_len,
            Reduction::Max => value,
        };
        // SAFETY: the caller's contract; one value per row.
        unsafe { *self.table.ptr(sums.node).add(row) = T::narrow(value) };
    }

    /// One level over whole vectors, or over less than one, of one row or more. Joins what it reduces
    /// along each of them to `out`.
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
        let run = &self.levels[k];
        let mut watching = watching.as_mut().filter(|_| run.updates);
        let pitch = self.dims.cols;
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
        let whole = len >= T::LANES;
        if whole {
            let kernel = self.kernels[k];
            let kernel = match rows {
                _ if narrow => kernel.narrow,
                1 => kernel.one,
                _ => kernel.together,
            };
            let row = if narrow { col } else { 0 };
            let (n, lanes) = (len / T::LANES, T::LANES);
            let span = Span { at, pitch, grad_pitch, col, row, n, lanes, narrow };
            // SAFETY: the span lies within the rows; the instruction set was checked.
            unsafe { kernel(tables, uniform, span, reduced) };
            self.join(run, reduced, rows, 0, out);
        } else {
            for q in 0..rows {
                let row = if narrow { col } else { q * T::LANES };
                let span =
                    Span { at: 0, pitch: 0, grad_pitch: 0, col, row, n: 1, lanes: len, narrow };
                let grad = tables.grad.wrapping_add(at + q * grad_pitch);
                // SAFETY: the elements lie within the row, and staged memory has a vector for each
                // buffer; the tail's tables point there.
                unsafe {
                    for &x in &run.loads {
                        let from = match x {
                            0 => grad,
                            _ => self.tables.buffer(x).add(at + q * pitch),
                        };
                        from.copy_to(tail.buffer(x).cast_mut(), len);
                    }
                    // What follows in the accumulators of narrow rows belongs to other elements.
                    let mut kept = [T::padded(); MAX_REDUCTIONS];
                    for (kept, &r) in kept.iter_mut().zip(self.col_reductions) {
                        let from = uniform.col_acc[r].wrapping_add(col + len);
                        from.copy_to(kept.as_mut().as_mut_ptr(), T::LANES - len);
                    }
                    (self.kernels[k].narrow)(tail, uniform, span, reduced);
                    for (kept, &r) in kept.iter_mut().zip(self.col_reductions) {
                        let to = uniform.col_acc[r].wrapping_add(col + len);
                        kept.as_mut().as_ptr().copy_to(to, T::LANES - len);
                    }
                    for &x in &run.stores {
                        let to = self.tables.buffer(x).cast_mut().add(at + q * pitch);
                        tail.buffer(x).copy_to(to, len);
                    }
                }
                self.join(run, reduced, 1, q, out);
            }
        }
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

    /// Joins what `rows` rows were reduced to to the sums from row `first` on.
    fn join(
        &self,
        run: &LevelRun,
        reduced: &Reduced<T>,
        rows: usize,
        first: usize,
        out: &mut [[f64; MAX_ROWS]; MAX_REDUCTIONS],
    ) {
        for sums in run.sums.iter().map(|&x| &self.sums[x]).filter(|s| s.axis != Axis::Col) {
            for (x, out) in reduced[sums.r][..rows].iter().zip(&mut out[sums.r][first..]) {
                *out = join(sums.kind, *out, x.widen());
            }
        }
    }
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

/// Rows that make a tile where rows are narrow.
fn tile_rows(dims: Dims) -> usize {
    (TILE / dims.cols.max(1)).max(1)
}

/// Moves column sums from the element's precision to `f64`. Those of narrow rows, of which many lie
/// one after the other, first become one row, each half joining the other.
fn fold<T: Element>(isa: Isa, kind: Reduction, from: &mut [T], to: &mut [f64]) {
    #[inline(always)]
    fn anywhere<T: Element>(kind: Reduction, from: &mut [T], to: &mut [f64]) {
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
        for (to, from) in to.iter_mut().zip(from) {
            *to = join(kind, *to, from.widen());
            *from = T::narrow(identity(kind));
        }
    }
    #[cfg(all(target_arch = "x86_64", not(miri)))]
    #[target_feature(enable = "avx2")]
    fn avx2<T: Element>(kind: Reduction, from: &mut [T], to: &mut [f64]) {
        anywhere(kind, from, to);
    }
    #[cfg(all(target_arch = "x86_64", not(miri)))]
    if isa >= Isa::Avx2 {
        // SAFETY: the instruction set was checked.
        return unsafe { avx2(kind, from, to) };
    }
    let _ = isa;
    anywhere(kind, from, to);
}
