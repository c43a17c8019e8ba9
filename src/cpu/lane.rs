//! Interpreter 2: runs a definition on SIMD lanes, one compiled loop per level.
//!
//! `Lane<V, LEVEL, …>` *is* a definition's step at one group of elements. A value carries its
//! vector, its shape, its level and the number of the call that made it. All but the vector are
//! constants once everything is inlined, so the compiler drops whatever this level does not need:
//! what is left is the fused loop that one would write by hand.
//!
//! * Full values are computed, whatever their level; those that nothing at `LEVEL` uses vanish.
//! * Small values are not computed here. Where one meets a Full value it is read from a table by
//!   its call number: what is constant along a row from [`Uniform`], column values from memory.
//! * A reduction accumulates if its operand has this level, a store stores if its value has.
//! * A stored Full value is read back at later levels instead of being computed again.
//!
//! Whatever a definition does, every index is masked or checked against a table whose entries all
//! point to memory of the right extent, so a definition that calls other operations than those it
//! was traced with computes nonsense but touches nothing that is not its own.

use std::cell::Cell;

use num_traits::{One, Zero};

use super::simd::Simd;
use super::{Element, Lanes, MAX_CALLS, MAX_FULL_SLOTS, MAX_LEVELS, MAX_REDUCTIONS};
use crate::definition::Definition;
use crate::value::{Axis, Binary, Interpreter, Reduction, Shape, SlotDecl, Step, Unary};

/// What is the same for all segments of a step. Pointers of entries that are not used point to
/// memory of the same extent (full-size: the parameter; columns: a spare row).
#[derive(Clone)]
pub(crate) struct Tables<T> {
    pub(crate) grad: *const T,
    pub(crate) param: *mut T,
    pub(crate) slots: [*mut T; MAX_FULL_SLOTS],
    /// Column values by call number.
    pub(crate) cols: [*const T; MAX_CALLS],
    /// What each reduction starts from.
    pub(crate) identity: [T; MAX_REDUCTIONS],
}

impl<T> Tables<T> {
    /// Tables without memory of their own yet, but for the spare row of column values.
    pub(crate) fn new(spare: *const T, identity: [T; MAX_REDUCTIONS]) -> Self {
        Self {
            grad: std::ptr::null(),
            param: std::ptr::null_mut(),
            slots: [std::ptr::null_mut(); MAX_FULL_SLOTS],
            cols: [spare; MAX_CALLS],
            identity,
        }
    }

    /// Gradient, parameter or slot, by number.
    pub(crate) fn buffer(&self, index: usize) -> *const T {
        match index {
            0 => self.grad,
            1 => self.param,
            _ => self.slots[index - 2],
        }
    }
}

// SAFETY: the pointers are to the tensors of one step, which the caller has lent exclusively for
// its duration, and workers write to disjoint ranges.
unsafe impl<T: Send> Send for Tables<T> {}
// SAFETY: as above.
unsafe impl<T: Sync> Sync for Tables<T> {}

/// What is constant along a row, by call number, and a worker's own column accumulators.
pub(crate) struct Uniform<T> {
    pub(crate) values: [T; MAX_CALLS],
    pub(crate) col_acc: [*mut T; MAX_REDUCTIONS],
}

// SAFETY: a `Uniform` belongs to one worker and so does the memory behind its pointers.
unsafe impl<T: Send> Send for Uniform<T> {}
// SAFETY: nothing is reached through a shared reference outside a step.
unsafe impl<T: Sync> Sync for Uniform<T> {}

/// A piece of one row.
#[derive(Clone, Copy)]
pub(crate) struct Span {
    /// Its first element in the tensor.
    pub(crate) at: usize,
    /// Its first column, in the (padded) column arrays.
    pub(crate) col: usize,
    /// Its vectors, one at least.
    pub(crate) n: usize,
}

/// What a level reduced along a span: for each reduction, the lanes of its accumulator.
pub(crate) type Accumulators<T> = [<T as Lanes>::Padded; MAX_REDUCTIONS];

/// One level over one span. Leaves the accumulators of what it reduces along the row in `out`.
///
/// # Safety
/// The instruction set is present; all pointers of the tables are valid for the span, which is not
/// empty.
pub(crate) type Kernel<T> = unsafe fn(&Tables<T>, &Uniform<T>, Span, &mut Accumulators<T>);

/// A value at one group of elements.
#[derive(Clone, Copy)]
pub(crate) struct Repr<V> {
    v: V,
    call: usize,
    shape: Shape,
    level: u8,
}

#[derive(Clone, Copy)]
pub(crate) struct LaneSlot {
    /// Its number among the full-size slots.
    full: usize,
    shape: Shape,
}

/// How far a run of the definition has come, and what it has found out.
#[derive(Default)]
struct Progress {
    at: Cell<usize>,
    col: Cell<usize>,
    calls: Cell<usize>,
    slots: Cell<usize>,
    reductions: Cell<usize>,
    /// The accumulators that this level uses, as bits.
    used: Cell<u8>,
}

/// Counters and accumulators lie apart: the compiler first finds out that the counters are
/// constants, and then that accumulators, addressed by one, fit into registers. The counters lie
/// here and not behind a reference: to a type with cells `&self` promises nothing about aliases, and
/// copying that promise at every inlining took the compiler a quarter of its time.
struct Lane<'t, V: Simd, const LEVEL: u8, const MATRIX: bool> {
    tables: &'t Tables<V::T>,
    uniform: &'t Uniform<V::T>,
    progress: Progress,
    acc: &'t [Cell<V>; MAX_REDUCTIONS],
}

impl<V: Simd, const LEVEL: u8, const MATRIX: bool> Lane<'_, V, LEVEL, MATRIX> {
    #[inline(always)]
    fn count_call(&self) -> usize {
        let call = self.progress.calls.get();
        self.progress.calls.set(call + 1);
        call % MAX_CALLS
    }

    /// A value that is not Full: known by its call, read where it meets a Full one.
    #[inline(always)]
    fn small(&self, shape: Shape, level: u8) -> Repr<V> {
        // SAFETY: lanes exist only inside kernels, whose contract covers the instruction set.
        let v = unsafe { V::splat(V::T::zero()) };
        Repr { v, call: self.count_call(), shape, level }
    }

    /// The value as a vector.
    #[inline(always)]
    fn wide(&self, a: Repr<V>) -> V {
        // SAFETY: the kernel's contract. Column arrays are padded to whole vectors.
        unsafe {
            match a.shape {
                Shape::Full => a.v,
                Shape::Cols => V::load(self.tables.cols[a.call].add(self.progress.col.get())),
                _ => V::splat(self.uniform.values[a.call]),
            }
        }
    }

    /// A value that is Full.
    #[inline(always)]
    fn computed(&self, v: V, level: u8) -> Repr<V> {
        Repr { v, call: self.count_call(), shape: Shape::Full, level }
    }

    #[inline(always)]
    fn load(&self, from: *const V::T) -> V {
        // SAFETY: the kernel's contract: the span lies within the tensor.
        unsafe { V::load(from.add(self.progress.at.get())) }
    }

    #[inline(always)]
    fn store_to(&self, to: *mut V::T, v: V) {
        // SAFETY: the kernel's contract: the span lies within the tensor.
        unsafe { v.store(to.add(self.progress.at.get())) }
    }

    #[inline(always)]
    fn full(&self, from: *const V::T) -> Repr<V> {
        Repr { v: self.load(from), call: 0, shape: Shape::Full, level: 0 }
    }

    #[inline(always)]
    fn accumulate(&self, kind: Reduction, axis: Axis, v: V) {
        let r = self.progress.reductions.get() % MAX_REDUCTIONS;
        if matches!(axis, Axis::Col) {
            // SAFETY: column accumulators are padded to whole vectors and the worker's own.
            unsafe {
                let acc = self.uniform.col_acc[r].wrapping_add(self.progress.col.get());
                join(kind, V::load(acc), v).store(acc);
            }
        } else {
            // SAFETY: the kernel's contract.
            self.acc[r].set(unsafe { join(kind, self.acc[r].get(), v) });
            self.progress.used.set(self.progress.used.get() | 1 << r);
        }
    }

    #[inline(always)]
    fn run<D: Definition>(&self) {
        self.progress.calls.set(0);
        self.progress.slots.set(0);
        self.progress.reductions.set(0);
        // Begun anew for each vector, so that they are constants after the loop.
        self.progress.used.set(0);
        D::step(Step::new(self));
    }
}

impl<V: Simd, const LEVEL: u8, const MATRIX: bool> Interpreter for Lane<'_, V, LEVEL, MATRIX> {
    type Repr = Repr<V>;
    type Slot = LaneSlot;
    // Most steps clip and scale nothing: then the loops are to cost nothing for it.
    const CONDITIONS: bool = true;

    #[inline(always)]
    fn is_matrix(&self) -> bool {
        MATRIX
    }

    #[inline(always)]
    fn literal(&self, _: f64) -> Repr<V> {
        self.small(Shape::Host, 0)
    }

    #[inline(always)]
    fn hyper(&self, _: &'static str) -> Repr<V> {
        self.small(Shape::Host, 0)
    }

    #[inline(always)]
    fn step_number(&self) -> Repr<V> {
        self.small(Shape::Host, 0)
    }

    #[inline(always)]
    fn count(&self, _: Axis) -> Repr<V> {
        self.small(Shape::Scalar, 0)
    }

    #[inline(always)]
    fn grad(&self) -> Repr<V> {
        // A tile that the driver has clipped and scaled lies elsewhere: its table begins far before.
        let from = self.tables.grad.wrapping_add(self.progress.at.get());
        // SAFETY: the kernel's contract.
        let v = unsafe { V::load(from) };
        Repr { v, call: 0, shape: Shape::Full, level: 0 }
    }

    #[inline(always)]
    fn param(&self) -> Repr<V> {
        self.full(self.tables.param)
    }

    #[inline(always)]
    fn unary(&self, op: Unary, a: Repr<V>) -> Repr<V> {
        if !matches!(a.shape, Shape::Full) {
            return self.small(a.shape, a.level);
        }
        let v = a.v;
        // SAFETY: the kernel's contract.
        let v = unsafe {
            let (zero, one) = (V::splat(V::T::zero()), V::splat(V::T::one()));
            match op {
                Unary::Neg => v.neg(),
                Unary::Sqrt => v.sqrt(),
                Unary::Rsqrt => one.div(v.sqrt()),
                Unary::Abs => v.abs(),
                // A difference of a finite number with itself is 0, any other is not a number, and
                // no comparison with that holds.
                Unary::Finite => V::select_less(v.sub(v), one, one, zero),
                Unary::Sign => {
                    let not_positive = V::select_less(v, zero, one.neg(), zero);
                    V::select_less(zero, v, one, not_positive)
                }
            }
        };
        self.computed(v, a.level)
    }

    #[inline(always)]
    fn binary(&self, op: Binary, a: Repr<V>, b: Repr<V>) -> Repr<V> {
        let (shape, level) = (a.shape.join(b.shape), a.level.max(b.level));
        if !matches!(shape, Shape::Full) {
            return self.small(shape, level);
        }
        let (x, y) = (self.wide(a), self.wide(b));
        // SAFETY: the kernel's contract.
        let v = unsafe {
            match op {
                Binary::Add => x.add(y),
                Binary::Sub => x.sub(y),
                Binary::Mul => x.mul(y),
                Binary::Div => x.div(y),
                Binary::Min => x.min(y),
                Binary::Max => x.max(y),
                Binary::Differ => {
                    let (zero, one) = (V::splat(V::T::zero()), V::splat(V::T::one()));
                    let infinity = V::splat(V::T::narrow(f64::INFINITY));
                    // What is not a number differs from everything, and no comparison with it holds.
                    let number = |v: V| {
                        let below = V::select_less(v, infinity, one, zero);
                        V::select_less(infinity.neg(), v, one, below)
                    };
                    let differ = V::select_less(y, x, one, V::select_less(x, y, one, zero));
                    V::select_less(zero, number(x).mul(number(y)), differ, one)
                }
                // The tracer has refused it.
                Binary::Pow => x,
            }
        };
        self.computed(v, level)
    }

    #[inline(always)]
    fn select_less(&self, a: Repr<V>, b: Repr<V>, x: Repr<V>, y: Repr<V>) -> Repr<V> {
        let shape = a.shape.join(b.shape).join(x.shape.join(y.shape));
        let level = a.level.max(b.level).max(x.level.max(y.level));
        if !matches!(shape, Shape::Full) {
            return self.small(shape, level);
        }
        // SAFETY: the kernel's contract.
        let v = unsafe { V::select_less(self.wide(a), self.wide(b), self.wide(x), self.wide(y)) };
        self.computed(v, level)
    }

    #[inline(always)]
    fn reduce(&self, kind: Reduction, axis: Axis, a: Repr<V>) -> Repr<V> {
        let full = matches!(a.shape, Shape::Full);
        if full {
            if a.level == LEVEL {
                self.accumulate(kind, axis, a.v);
            }
            self.progress.reductions.set(self.progress.reductions.get() + 1);
        }
        self.small(a.shape.reduced(axis), a.level.wrapping_add(full as u8))
    }

    #[inline(always)]
    fn slot(&self, decl: SlotDecl) -> LaneSlot {
        let full = self.progress.slots.get();
        if matches!(decl.shape, Shape::Full) {
            self.progress.slots.set(full + 1);
        }
        LaneSlot { full: full % MAX_FULL_SLOTS, shape: decl.shape }
    }

    #[inline(always)]
    fn old(&self, slot: LaneSlot) -> Repr<V> {
        if matches!(slot.shape, Shape::Full) {
            self.computed(self.load(self.tables.slots[slot.full]), 0)
        } else {
            self.small(slot.shape, 0)
        }
    }

    #[inline(always)]
    fn store(&self, slot: LaneSlot, value: Repr<V>) -> Repr<V> {
        let at = self.tables.slots[slot.full];
        if !matches!(slot.shape, Shape::Full) {
            return self.small(value.shape, value.level);
        }
        if value.level < LEVEL {
            return self.computed(self.load(at), value.level);
        }
        let v = self.wide(value);
        if value.level == LEVEL {
            self.store_to(at, v);
        }
        self.computed(v, value.level)
    }

    #[inline(always)]
    fn store_param(&self, value: Repr<V>) {
        if value.level == LEVEL {
            let v = self.wide(value);
            self.store_to(self.tables.param, v);
        }
    }
}

/// # Safety
/// As for [`Kernel`].
#[inline(always)]
unsafe fn join<V: Simd>(kind: Reduction, acc: V, v: V) -> V {
    // SAFETY: the caller's contract.
    unsafe {
        match kind {
            Reduction::Mean => acc.add(v),
            Reduction::Max => acc.max(v),
        }
    }
}

/// The body of every kernel.
///
/// # Safety
/// As for [`Kernel`].
#[inline(always)]
unsafe fn body<D: Definition, V: Simd, const LEVEL: u8, const MATRIX: bool>(
    tables: &Tables<V::T>,
    uniform: &Uniform<V::T>,
    span: Span,
    out: &mut Accumulators<V::T>,
) {
    // SAFETY: the kernel's contract.
    let acc: [Cell<V>; MAX_REDUCTIONS] = unsafe { accumulators(&tables.identity) };
    let lane =
        Lane::<'_, V, LEVEL, MATRIX> { tables, uniform, progress: Progress::default(), acc: &acc };
    // One vector at least, so that what the last one leaves in the cells is known after the loop.
    let mut i = 0;
    loop {
        lane.progress.at.set(span.at + i * V::T::LANES);
        lane.progress.col.set(span.col + i * V::T::LANES);
        lane.run::<D>();
        i += 1;
        if i >= span.n {
            break;
        }
    }
    // Spelled out: with an index that the compiler knows, accumulators stay in registers.
    macro_rules! finish {
        ($($r:literal)*) => {$(
            if lane.progress.used.get() >> $r & 1 == 1 {
                // SAFETY: the kernel's contract; the array has as many elements as the vector.
                unsafe { acc[$r].get().store(out[$r].as_mut().as_mut_ptr()) };
            }
        )*};
    }
    finish!(0 1 2 3 4 5 6 7);
}

/// Spelled out: a closure given to `map` would not be inlined into the kernel.
///
/// # Safety
/// As for [`Kernel`].
#[inline(always)]
unsafe fn accumulators<V: Simd>(identity: &[V::T; MAX_REDUCTIONS]) -> [Cell<V>; MAX_REDUCTIONS] {
    macro_rules! splat {
        ($($r:literal)*) => {
            // SAFETY: the caller's contract.
            [$(Cell::new(unsafe { V::splat(identity[$r]) })),*]
        };
    }
    splat!(0 1 2 3 4 5 6 7)
}

/// Combines the lanes in a fixed tree. Inlined, so that their number is known and nothing loops.
#[inline(always)]
pub(crate) fn fold<T: Element>(lanes: &mut [T], join: impl Fn(T, T) -> T) -> T {
    let mut half = lanes.len() / 2;
    while half > 0 {
        for i in 0..half {
            lanes[i] = join(lanes[i], lanes[i + half]);
        }
        half /= 2;
    }
    lanes[0]
}

/// The kernels of each instruction set, in a module of its own: the compiler makes a unit of each
/// and works on them side by side.
macro_rules! kernels {
    ($(#[$attribute:meta])* $isa:ident $(: $features:literal)?) => {
        $(#[$attribute])*
        mod $isa {
            use super::{Accumulators, Definition, Simd, Span, Tables, Uniform, body};

            /// # Safety
            /// As for [`Kernel`](super::Kernel); the instruction set is present.
            $(#[target_feature(enable = $features)])?
            pub(super) unsafe fn kernel<D, V, const LEVEL: u8, const MATRIX: bool>(
                tables: &Tables<V::T>,
                uniform: &Uniform<V::T>,
                span: Span,
                out: &mut Accumulators<V::T>,
            ) where
                D: Definition,
                V: Simd,
            {
                // SAFETY: the caller's contract.
                unsafe { body::<D, V, LEVEL, MATRIX>(tables, uniform, span, out) }
            }
        }
    };
}

kernels!(baseline);
kernels!(#[cfg(all(target_arch = "x86_64", not(miri)))] avx2: "avx2");
kernels!(#[cfg(all(target_arch = "x86_64", not(miri)))] avx512: "avx512f,avx512dq");

/// The compiled loops of one level.
pub(crate) struct LevelKernels<T: Lanes> {
    /// Whole vectors, with the instructions that every processor of this kind has.
    pub(crate) baseline: Kernel<T>,
    /// Whole vectors, with AVX2.
    #[cfg(all(target_arch = "x86_64", not(miri)))]
    pub(crate) avx2: Kernel<T>,
    /// Whole vectors, with AVX-512.
    #[cfg(all(target_arch = "x86_64", not(miri)))]
    pub(crate) avx512: Kernel<T>,
}

/// The compiled loops of a definition: `[level]`, none beyond its last level.
#[allow(unnameable_types, missing_debug_implementations, reason = "an inner part of `Recipe`")]
pub struct Kernels<T: Lanes> {
    pub(crate) vector: [Option<LevelKernels<T>>; MAX_LEVELS],
    pub(crate) matrix: [Option<LevelKernels<T>>; MAX_LEVELS],
}

/// A level of a definition. The constant is evaluated when it is used, so that loops beyond the
/// last level are never compiled.
struct At<D, T, const LEVEL: u8, const MATRIX: bool>(std::marker::PhantomData<(D, T)>);

impl<D: Definition, T: Element, const LEVEL: u8, const MATRIX: bool> At<D, T, LEVEL, MATRIX> {
    const KERNELS: Option<LevelKernels<T>> = {
        let levels = if MATRIX { D::LEVELS.matrix } else { D::LEVELS.vector };
        if LEVEL < levels {
            Some(LevelKernels {
                baseline: baseline::kernel::<D, T::Baseline, LEVEL, MATRIX>,
                #[cfg(all(target_arch = "x86_64", not(miri)))]
                avx2: avx2::kernel::<D, T::Avx2, LEVEL, MATRIX>,
                #[cfg(all(target_arch = "x86_64", not(miri)))]
                avx512: if T::WIDE {
                    avx512::kernel::<D, T::Avx512, LEVEL, MATRIX>
                } else {
                    avx2::kernel::<D, T::Avx2, LEVEL, MATRIX>
                },
            })
        } else {
            None
        }
    };
}

impl<T: Element> Kernels<T> {
    pub(crate) const fn of<D: Definition>() -> Self {
        macro_rules! levels {
            ($matrix:literal) => {
                [
                    At::<D, T, 0, $matrix>::KERNELS,
                    At::<D, T, 1, $matrix>::KERNELS,
                    At::<D, T, 2, $matrix>::KERNELS,
                    At::<D, T, 3, $matrix>::KERNELS,
                    At::<D, T, 4, $matrix>::KERNELS,
                    At::<D, T, 5, $matrix>::KERNELS,
                    At::<D, T, 6, $matrix>::KERNELS,
                    At::<D, T, 7, $matrix>::KERNELS,
                ]
            };
        }
        Self { vector: levels!(false), matrix: levels!(true) }
    }
}
