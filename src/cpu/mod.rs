//! The CPU backend: fused SIMD loops over the caller's own memory.
//!
//! [`Cpu`] says how to run, [`Cpu::prepare`] makes a [`CpuStep`] for one tensor, and
//! [`CpuStep::step`] updates a parameter in place. A step allocates nothing, and its result has
//! the same bits on every instruction set and for every number of threads: element *j* of a row
//! goes to virtual lane *j* mod 16 of an accumulator (8 for `f64`), rows are summed in blocks, and
//! everything above a block is summed in `f64` in an order that the shape alone decides.
//!
//! In the nearer caches two or four rows are taken together, so that one load and store of a column's
//! accumulator serves all of them; what comes from further away is taken row by row, which hardware foresees.
//! One call of a loop goes over many rows or groups of rows. The last vector of a row may be less than whole:
//! then no more is read, written or added. Rows of less than two vectors are gone over as one, a tile at a time:
//! row values are spread over their elements, column values written out for them, and what rows reduce is left
//! per element and summed afterwards.
//!
//! What tensors of one size have in common, the plan and the memory that a step needs and no longer, is
//! kept once for all of them: in a list of many small tensors it stays in the cache.

#[cfg(gradstep_compact)]
mod compact;
#[cfg_attr(gradstep_compact, allow(dead_code, reason = "no loops of definitions are compiled"))]
mod lane;
pub(crate) mod many;
mod memory;
mod runner;
mod settle;
#[allow(unnameable_types, reason = "reachable through `Lanes`, which seals `Element`")]
mod simd;
mod tensor;

use std::fmt;
use std::sync::Arc;

use num_traits::Float;

pub use self::lane::Kernels;
use self::lane::{LevelKernel, LevelKernels};
pub use self::many::{CpuOptimizer, CpuRelease, CpuStepping, Outcome};
use self::runner::{Held, Hosts, Program, Runner};
pub use self::tensor::{Lent, LentMut, TensorMut, TensorRef};
use crate::definition::{Erased, Optimizer, Recipe};
use crate::error::{Error, Result};
use crate::layout::{Dims, Layout};
use crate::plan::Plan;
use crate::report::Stats;
use crate::snapshot::Values;
use crate::trace::Watch;
use crate::value::{GRAD_NEUTRAL, Shape, SlotDecl};

pub(crate) const MAX_CALLS: usize = 256;
pub(crate) const MAX_FULL_SLOTS: usize = 8;
pub(crate) const MAX_REDUCTIONS: usize = 8;
pub(crate) const MAX_LEVELS: usize = crate::definition::Levels::MAX as usize;

// Under miri these four are small, so that small tensors have all the seams of large ones.

/// Elements of a row that one call of a kernel covers at most where it sums. Within it a lane sums in the
/// element's own precision (at most 256 terms), beyond it sums are `f64`.
const TILE: usize = if cfg!(miri) { 32 } else { 4096 };
/// Rows whose column sums are kept in the element's own precision before they join an `f64`, and rows that
/// one call of a kernel covers at most.
const FOLD: usize = if cfg!(miri) { 4 } else { 64 };
/// Elements of a block of rows that a fused sweep goes over once for each level.
const BLOCK: usize = if cfg!(miri) { 64 } else { 8 * 1024 };
/// Elements that make a segment, the unit of work of a thread.
const SEGMENT: usize = if cfg!(miri) { 64 } else { 256 * 1024 };
/// Segments of a tensor at most.
const MAX_SEGMENTS: usize = 64;
/// Bytes of an array from which on loops look ahead, and elements which they look ahead.
const FAR: usize = 1 << 20;
const AHEAD: usize = 64 * 1024;
/// Columns with which rows are taken one by one where nothing is reduced, and those with which they always are
/// where they come from beyond the nearer caches: as measured. Several rows side by side are several streams,
/// which hardware loses at the end of each row.
const APART: std::ops::Range<usize> = 256..3200;
const COLD_APART: std::ops::Range<usize> = 64..2049;
/// Bytes of an array from which on it comes from there. So does the smallest where those of all tensors of an
/// optimizer together are [`DISTANT`].
const COLD: usize = 2 << 20;
/// Elements of narrow rows that are gone over together: what the loops read and write for them stays
/// in the nearest cache.
const NARROW_TILE: usize = if cfg!(miri) { 32 } else { 1024 };
/// Bytes of an array from which on it comes from beyond all caches. Then pieces are shorter, of narrow rows and
/// of few long ones: hardware fetches the next one while small values are settled.
const DISTANT: usize = 6 << 20;
/// Elements of narrow rows from there that are gone over together, and their rows at most.
const NARROW_PIECE: usize = 416;
const NARROW_ROWS: usize = 128;
/// Columns of a piece of few rows, and of up to [`FEWEST`].
const SHALLOW_PIECE: usize = 512;
const SHALLOWEST_PIECE: usize = 128;
const FEWEST: usize = 8;

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

            #[cfg(not(gradstep_compact))]
            fn kernels(definition: &'static dyn Erased) -> &'static Kernels<Self> {
                definition.$kernels()
            }

            // One loop for all.
            #[cfg(gradstep_compact)]
            fn kernels(_: &'static dyn Erased) -> &'static Kernels<Self> {
                const { &Kernels::compact() }
            }
        }
    };
}

element!(f32, 16, Sse2F32, Avx2F32, Avx512F32 true, kernels_f32);
#[cfg(feature = "f64")]
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
    Own(Arc<rayon::ThreadPool>),
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
        self.tensor.prepare(t, hyper);
        self.tensor.update(None, param, &grad, &mut Held::default());
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
        self.tensor.runner.plan()
    }

    /// The tensor as the definition sees it.
    pub fn dims(&self) -> Dims {
        self.tensor.runner.seen_as()
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
    /// Where it has Host values of its own.
    hosts: Hosts<T>,
    /// For tensors that are not contiguous: parameter and gradient in order.
    scratch: Vec<T>,
}

impl<T: Element> CpuTensor<T> {
    fn new(cpu: &Cpu, optimizer: &dyn Optimizer, shape: &[usize], layout: Layout) -> Result<Self> {
        let program = Self::program(cpu, optimizer, shape, layout, Watch::Nothing)?;
        Ok(Self::of(program.into(), shape))
    }

    /// What tensors of this shape have in common.
    fn program(
        cpu: &Cpu,
        optimizer: &dyn Optimizer,
        shape: &[usize],
        layout: Layout,
        watch: Watch,
    ) -> Result<Program<T>> {
        let recipe = optimizer.recipe();
        // What elements do is seen by the loops' driver, so that loops are compiled once.
        let reports = if watch == Watch::Nothing { watch } else { Watch::Reports };
        let (dims, mut graph) = layout.resolve_for_loops(recipe, shape, reports)?;
        crate::host::adopt(&mut graph, optimizer)?;
        let plan = Plan::new(graph, dims.is_fused())?;
        Ok(Program::new(cpu.clone(), recipe, plan, dims, watch == Watch::Updates))
    }

    fn of(program: Arc<Program<T>>, shape: &[usize]) -> Self {
        let hosts = Hosts::new(&program.plan);
        Self { shape: shape.to_vec(), runner: Runner::new(program), hosts, scratch: Vec::new() }
    }

    /// Evaluates the Host values of step `t`.
    fn prepare(&mut self, t: u64, hyper: impl Fn(&str) -> f64) {
        self.hosts.prepare(&self.runner.program.plan, t, hyper);
    }

    /// One step over memory whose shape was checked, with these Host values or its own.
    fn update(
        &mut self,
        hosts: Option<&Hosts<T>>,
        mut param: LentMut<'_, T>,
        grad: &Lent<'_, T>,
        held: &mut Held<T>,
    ) {
        let hosts = hosts.unwrap_or(&self.hosts);
        let n = self.runner.seen_as().len();
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
            self.runner.run(hosts, p, g, held);
        } else {
            param.copy_to(p_copy);
            self.runner.run(hosts, p_copy, g, held);
            param.copy_from(p_copy);
        }
    }

    /// Runs a definition that only measures.
    fn measure(&mut self, grad: &Lent<'_, T>) {
        let g = match grad.slice() {
            Some(g) => g,
            None => {
                self.scratch.resize(self.runner.seen_as().len(), T::zero());
                grad.copy_to(&mut self.scratch);
                &self.scratch
            }
        };
        self.runner.measure(&self.hosts, g);
    }

    fn state_bytes(&self) -> usize {
        self.runner.seen_as().state_len(&self.runner.plan().graph) * size_of::<T>()
    }

    fn slots(&self) -> impl Iterator<Item = (&'static str, Shape)> {
        self.runner.plan().graph.declared_slots()
    }

    /// Statistics of the last step.
    fn stats(&self) -> Stats {
        let graph = &self.runner.plan().graph;
        let report = |(i, s): (usize, &SlotDecl)| (s.name, self.scalar(i).widen());
        let reports = graph.slots.iter().enumerate().skip(graph.own_slots).map(report);
        Stats::new(self.runner.watched(), reports)
    }

    fn slot(&self, name: &str) -> Result<Vec<T>> {
        self.runner.slot(name)
    }

    /// The number in a slot of shape Scalar, by its place in the definition.
    fn scalar(&self, slot: usize) -> T {
        self.runner.scalar(slot)
    }

    fn set_slot(&mut self, name: &str, values: &[T]) -> Result<()> {
        self.runner.set_slot(name, values)
    }
}
