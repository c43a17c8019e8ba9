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

use super::simd::{Simd, Spread};
use super::{Element, FOLD, Lanes, MAX_CALLS, MAX_FULL_SLOTS, MAX_LEVELS, MAX_REDUCTIONS};
use crate::definition::Definition;
use crate::trace::Kind;
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
    #[cfg(gradstep_compact)]
    pub(crate) code: Option<std::sync::Arc<super::compact::Code>>,
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
            #[cfg(gradstep_compact)]
            code: None,
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

/// What a worker has of its own: values by call number, and where it accumulates. Values lie here
/// and not behind pointers, so that the compiler knows that no store changes them.
pub(crate) struct Uniform<T> {
    /// What is constant over a matrix.
    pub(crate) values: [T; MAX_CALLS],
    /// Row values of the rows that a kernel takes together, which it finds there.
    pub(crate) together: [[T; MAX_ROWS]; MAX_CALLS],
    /// The calls of the level's row values, and where those of the first row are.
    pub(crate) reads: Vec<(usize, *const T)>,
    /// Row values for a kernel that takes narrow rows: room for a vector, which it fills; with
    /// [`Span::narrow`] those that [`Simd::row_values`] finds. Entries that are not used point to
    /// memory of the same extent.
    pub(crate) rows: [*mut T; MAX_CALLS],
    pub(crate) col_acc: [*mut T; MAX_REDUCTIONS],
    /// With [`Span::narrow`]: where the operands of row reductions go.
    pub(crate) row_acc: [*mut T; MAX_REDUCTIONS],
    /// Where the memory behind `rows` and `row_acc` begins. It is reached from here alone, so that
    /// pointers to several of its places live side by side.
    pub(crate) row_values: *mut T,
    pub(crate) operands: *mut T,
    /// With [`Span::narrow`]: one for each vector.
    pub(crate) spreads: *const Spread,
}

// SAFETY: a `Uniform` belongs to one worker and so does the memory behind its pointers.
unsafe impl<T: Send> Send for Uniform<T> {}
// SAFETY: nothing is reached through a shared reference outside a step.
unsafe impl<T: Sync> Sync for Uniform<T> {}

/// The same piece of as many rows as the kernel takes together, one below the other, or of several
/// times as many.
#[derive(Clone, Copy)]
pub(crate) struct Span {
    /// Its first element in the tensor.
    pub(crate) at: usize,
    /// Elements from one row to the next.
    pub(crate) pitch: usize,
    /// The same for the gradient, which may lie in a tile of its own.
    pub(crate) grad_pitch: usize,
    /// Its first column, in the (padded) column arrays.
    pub(crate) col: usize,
    /// Its vectors, one at least.
    pub(crate) n: usize,
    /// How many lanes of the last one are elements. Of a matrix no others are read or written, of a
    /// vector the padding is never added.
    pub(crate) lanes: usize,
    /// 1 if all of them are, else 0: the compiler takes a zero for seldom, and a comparison of lanes for
    /// as likely as not.
    pub(crate) whole: usize,
    /// How often as many rows as the kernel takes together.
    pub(crate) groups: usize,
    /// Whether it is many short rows, one after the other, for a kernel that takes one row. Then row
    /// values and column values are there for each element, and row reductions reduce nothing: they
    /// leave their operands.
    pub(crate) narrow: bool,
}

impl Span {
    /// The rows that a kernel takes together, once: at the beginning of everything, with one vector that is not
    /// whole.
    pub(crate) fn once() -> Self {
        Self {
            at: 0,
            pitch: 0,
            grad_pitch: 0,
            col: 0,
            n: 1,
            lanes: 0,
            whole: 0,
            groups: 1,
            narrow: false,
        }
    }
}

/// Rows that a kernel takes together at most. One load and store of a column's accumulator serves all
/// of them, and their chains of additions run side by side.
pub(crate) const MAX_ROWS: usize = 4;

/// What a level reduced along a span, for each reduction and row.
pub(crate) type Reduced<T> = [[T; FOLD]; MAX_REDUCTIONS];

/// One level over one span. Leaves what it reduces along the rows in `out`.
///
/// # Safety
/// The instruction set is present; all pointers of the tables are valid for the span, which is not
/// empty.
pub(crate) type Kernel<T> = unsafe fn(&Tables<T>, &mut Uniform<T>, Span, &mut Reduced<T>);

/// A value at one group of elements: a vector of each row.
#[derive(Clone, Copy)]
pub(crate) struct Repr<W> {
    v: W,
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
    /// Whether it is at the last vector of each row.
    last: Cell<bool>,
    col: Cell<usize>,
    /// How far it is into narrow rows.
    row: Cell<usize>,
    calls: Cell<usize>,
    slots: Cell<usize>,
    reductions: Cell<usize>,
    /// The accumulators that this level uses, as bits, those of them that are along rows, and those
    /// that are not sums.
    used: Cell<u8>,
    along_rows: Cell<u8>,
    maxima: Cell<u8>,
}

/// The vectors of the rows that a kernel takes together: one, two or four. Fields and no array:
/// the compiler takes them apart into registers, arrays it copies through memory at times.
///
/// # Safety
/// As for [`Simd`]; `load` and `store` need whole vectors `pitch` elements apart.
trait Rows: Copy {
    type V: Simd;
    /// Whether it may be many short rows.
    const NARROW: bool;
    /// How many there are.
    const ROWS: usize;

    unsafe fn load(from: *const Elem<Self>, pitch: usize) -> Self;
    /// The lanes of the mask, and zeros in the others.
    unsafe fn load_lanes(from: *const Elem<Self>, pitch: usize, mask: Mask<Self>) -> Self;
    /// Takes the values of a call for the rows from `row` on.
    unsafe fn take_rows(uniform: &mut Uniform<Elem<Self>>, call: usize, row: *const Elem<Self>);
    /// The row value of a call; of narrow rows that of the vector `at` elements behind the first.
    unsafe fn of_rows(uniform: &Uniform<Elem<Self>>, call: usize, at: Option<usize>) -> Self;
    unsafe fn store(self, to: *mut Elem<Self>, pitch: usize);
    unsafe fn store_lanes(self, to: *mut Elem<Self>, pitch: usize, mask: Mask<Self>);
    /// The same for all rows.
    unsafe fn splat(v: Self::V) -> Self;
    unsafe fn unary(self, op: Unary) -> Self;
    unsafe fn binary(self, op: Binary, other: Self) -> Self;
    /// `x` where `a < b`, else `y`.
    unsafe fn select_less(a: Self, b: Self, x: Self, y: Self) -> Self;
    /// One accumulator for each row.
    unsafe fn join(self, kind: Reduction, other: Self) -> Self;
    /// The lanes of the mask, and those of `other` elsewhere.
    unsafe fn or(self, mask: Mask<Self>, other: Self) -> Self;
    /// One accumulator for all rows, which join it from the first to the last.
    unsafe fn join_all(self, kind: Reduction, acc: Self::V) -> Self::V;
    /// The first `n` lanes, and `rest` in the others.
    unsafe fn first(self, n: usize, rest: Elem<Self>) -> Self;
    /// Combines the lanes of each row.
    unsafe fn fold(self, kind: Reduction, to: *mut Elem<Self>);
}

type Elem<W> = <<W as Rows>::V as Simd>::T;
type Mask<W> = <<W as Rows>::V as Simd>::Mask;

/// One row whose row values are read anew for each vector, from a place of its own: for narrow rows.
#[derive(Clone, Copy)]
struct Narrow<V>(V);

#[derive(Clone, Copy)]
struct Single<V>(V);

#[cfg(all(target_arch = "x86_64", not(miri)))]
#[derive(Clone, Copy)]
struct Pair<V>(V, V);

#[cfg(all(target_arch = "x86_64", not(miri)))]
#[derive(Clone, Copy)]
struct Quad<V>(V, V, V, V);

macro_rules! rows {
    ($name:ident of $rows:literal, narrow $narrow:literal, $of_rows:ident $fold:ident: $($i:tt)*) => {
        // In every method: SAFETY: the trait's contract.
        #[allow(
            clippy::undocumented_unsafe_blocks,
            reason = "one reason for all of them, stated above"
        )]
        impl<V: Simd> Rows for $name<V> {
            type V = V;
            const NARROW: bool = $narrow;
            const ROWS: usize = $rows;

            #[inline(always)]
            unsafe fn load_lanes(from: *const V::T, pitch: usize, mask: V::Mask) -> Self {
                Self($(unsafe {
                    V::load_lanes(from.wrapping_add(pitch.wrapping_mul($i)), mask)
                }),*)
            }
            #[inline(always)]
            unsafe fn take_rows(
                uniform: &mut Uniform<V::T>,
                call: usize,
                row: *const V::T,
            ) {
                if $narrow {
                    unsafe { V::splat(*row).store(uniform.rows[call % MAX_CALLS]) };
                } else {
                    $(
                        let value = unsafe { *row.wrapping_add($i) };
                        uniform.together[call % MAX_CALLS][$i] = value;
                    )*
                }
            }
            #[inline(always)]
            unsafe fn store_lanes(self, to: *mut V::T, pitch: usize, mask: V::Mask) {
                $(unsafe {
                    self.$i.store_lanes(to.wrapping_add(pitch.wrapping_mul($i)), mask);
                })*
            }
            #[inline(always)]
            unsafe fn or(self, mask: V::Mask, other: Self) -> Self {
                Self($(unsafe { self.$i.or(mask, other.$i) }),*)
            }
            #[inline(always)]
            unsafe fn load(from: *const V::T, pitch: usize) -> Self {
                Self($(unsafe { V::load(from.wrapping_add(pitch.wrapping_mul($i))) }),*)
            }
            #[inline(always)]
            unsafe fn of_rows(uniform: &Uniform<V::T>, call: usize, at: Option<usize>) -> Self {
                // A function: closures are not inlined into kernels.
                unsafe { $of_rows(uniform, call, at) }
            }
            #[inline(always)]
            unsafe fn store(self, to: *mut V::T, pitch: usize) {
                $(unsafe { self.$i.store(to.wrapping_add(pitch.wrapping_mul($i))) };)*
            }
            #[inline(always)]
            unsafe fn splat(v: V) -> Self {
                Self($({ let _ = $i; v }),*)
            }
            #[inline(always)]
            unsafe fn unary(self, op: Unary) -> Self {
                Self($(unsafe { unary(op, self.$i) }),*)
            }
            #[inline(always)]
            unsafe fn binary(self, op: Binary, other: Self) -> Self {
                Self($(unsafe { binary(op, self.$i, other.$i) }),*)
            }
            #[inline(always)]
            unsafe fn select_less(a: Self, b: Self, x: Self, y: Self) -> Self {
                Self($(unsafe { V::select_less(a.$i, b.$i, x.$i, y.$i) }),*)
            }
            #[inline(always)]
            unsafe fn join(self, kind: Reduction, other: Self) -> Self {
                Self($(unsafe { join(kind, self.$i, other.$i) }),*)
            }
            #[inline(always)]
            unsafe fn join_all(self, kind: Reduction, acc: V) -> V {
                $(let acc = unsafe { join(kind, acc, self.$i) };)*
                acc
            }
            #[inline(always)]
            unsafe fn first(self, n: usize, rest: V::T) -> Self {
                Self($(unsafe { self.$i.first(n, rest) }),*)
            }
            #[inline(always)]
            unsafe fn fold(self, kind: Reduction, to: *mut V::T) {
                unsafe { $fold([$(self.$i),*], kind, to) }
            }
        }
    };
}

rows!(Narrow of 1, narrow true, narrow_rows fold_each: 0);
rows!(Single of 1, narrow false, one_row fold_each: 0);
#[cfg(all(target_arch = "x86_64", not(miri)))]
rows!(Pair of 2, narrow false, two_rows fold_each: 0 1);
#[cfg(all(target_arch = "x86_64", not(miri)))]
rows!(Quad of 4, narrow false, four_rows fold_four: 0 1 2 3);

/// Whether a kernel's tensors have values of rows and of columns.
#[inline(always)]
const fn is_matrix(kind: u8) -> bool {
    matches!(Kind::of(kind), Kind::Matrix)
}

/// Bit `r`. (Sums here wrap and indices are masked: what a check costs is not the time that it takes, but
/// that of the compiler, at each operation of each loop.)
#[inline(always)]
const fn bit(r: usize) -> u8 {
    [1, 2, 4, 8, 16, 32, 64, 128][r % MAX_REDUCTIONS]
}

/// # Safety
/// As for [`Rows`].
#[inline(always)]
unsafe fn narrow_rows<V: Simd>(
    uniform: &Uniform<V::T>,
    call: usize,
    at: Option<usize>,
) -> Narrow<V> {
    let from = uniform.rows[call];
    // SAFETY: the caller's contract: there is a vector for the row, or what a vector of elements takes.
    unsafe {
        match at {
            Some(at) => Narrow(V::row_values(from, at, uniform.spreads)),
            None => Narrow(V::load(from)),
        }
    }
}

/// # Safety
/// As for [`Rows`].
#[inline(always)]
unsafe fn one_row<V: Simd>(uniform: &Uniform<V::T>, call: usize, _: Option<usize>) -> Single<V> {
    // SAFETY: the caller's contract.
    unsafe { Single(V::splat(uniform.together[call][0])) }
}

/// # Safety
/// As for [`Rows`].
#[cfg(all(target_arch = "x86_64", not(miri)))]
#[inline(always)]
unsafe fn two_rows<V: Simd>(uniform: &Uniform<V::T>, call: usize, _: Option<usize>) -> Pair<V> {
    let [a, b, ..] = uniform.together[call];
    // SAFETY: the caller's contract.
    unsafe { Pair(V::splat(a), V::splat(b)) }
}

/// # Safety
/// As for [`Rows`].
#[cfg(all(target_arch = "x86_64", not(miri)))]
#[inline(always)]
unsafe fn four_rows<V: Simd>(uniform: &Uniform<V::T>, call: usize, _: Option<usize>) -> Quad<V> {
    let [a, b, c, d] = uniform.together[call];
    // SAFETY: the caller's contract.
    unsafe { Quad(V::splat(a), V::splat(b), V::splat(c), V::splat(d)) }
}

/// # Safety
/// As for [`Rows`].
#[inline(always)]
unsafe fn fold_each<V: Simd, const N: usize>(of: [V; N], kind: Reduction, to: *mut V::T) {
    let mut i = 0;
    while i < N {
        // SAFETY: the caller's contract.
        unsafe { to.wrapping_add(i).write(of[i].fold(kind)) };
        i += 1;
    }
}

/// # Safety
/// As for [`Rows`].
#[cfg(all(target_arch = "x86_64", not(miri)))]
#[inline(always)]
unsafe fn fold_four<V: Simd>(of: [V; 4], kind: Reduction, to: *mut V::T) {
    // SAFETY: the caller's contract.
    unsafe { V::fold_four(of, kind, to) }
}

/// Counters and accumulators lie apart: the compiler first finds out that the counters are
/// constants, and then that accumulators, addressed by one, fit into registers. The counters lie
/// here and not behind a reference: to a type with cells `&self` promises nothing about aliases, and
/// copying that promise at every inlining took the compiler a quarter of its time.
struct Lane<'t, W: Rows, const LEVEL: u8, const KIND: u8> {
    tables: &'t Tables<Elem<W>>,
    uniform: &'t Uniform<Elem<W>>,
    pitch: usize,
    grad_pitch: usize,
    /// [`Span::whole`], and which lanes of the last vector are elements.
    whole: usize,
    tail: Mask<W>,
    narrow: bool,
    progress: Progress,
    acc: &'t [Cell<W>; MAX_REDUCTIONS],
}

impl<W: Rows, const LEVEL: u8, const KIND: u8> Lane<'_, W, LEVEL, KIND> {
    #[inline(always)]
    fn count_call(&self) -> usize {
        let call = self.progress.calls.get();
        self.progress.calls.set(call.wrapping_add(1));
        call % MAX_CALLS
    }

    /// A value that is not Full: known by its call, read where it meets a Full one.
    #[inline(always)]
    fn small(&self, shape: Shape, level: u8) -> Repr<W> {
        // SAFETY: lanes exist only inside kernels, whose contract covers the instruction set.
        let v = unsafe { W::splat(W::V::splat(Elem::<W>::zero())) };
        Repr { v, call: self.count_call(), shape, level }
    }

    /// The value as vectors.
    #[inline(always)]
    fn wide(&self, a: Repr<W>) -> W {
        // SAFETY: the kernel's contract. Column arrays are padded to whole vectors.
        unsafe {
            match a.shape {
                Shape::Full => a.v,
                Shape::Cols => W::splat(W::V::load(
                    self.tables.cols[a.call].wrapping_add(self.progress.col.get()),
                )),
                Shape::Rows => {
                    W::of_rows(self.uniform, a.call, self.narrow.then_some(self.progress.row.get()))
                }
                _ => W::splat(W::V::splat(self.uniform.values[a.call])),
            }
        }
    }

    /// A value that is Full.
    #[inline(always)]
    fn computed(&self, v: W, level: u8) -> Repr<W> {
        Repr { v, call: self.count_call(), shape: Shape::Full, level }
    }

    #[inline(always)]
    fn load(&self, from: *const Elem<W>) -> W {
        self.load_apart(from, self.pitch)
    }

    /// Whether vectors go by their masks: in whole rows masked loads would cost up to half of a short loop's
    /// time, and a condition that holds for all of it costs nothing.
    #[inline(always)]
    fn masked(&self) -> bool {
        is_matrix(KIND) && self.whole == 0
    }

    /// The lanes of this vector that are elements.
    #[inline(always)]
    fn mask(&self) -> Mask<W> {
        // SAFETY: the kernel's contract.
        let whole = unsafe { W::V::mask(Elem::<W>::LANES) };
        if self.progress.last.get() { self.tail } else { whole }
    }

    #[inline(always)]
    fn load_apart(&self, from: *const Elem<W>, pitch: usize) -> W {
        let from = from.wrapping_add(self.progress.at.get());
        // SAFETY: the kernel's contract: the span lies within the tensor.
        unsafe {
            if self.masked() {
                W::load_lanes(from, pitch, self.mask())
            } else {
                W::load(from, pitch)
            }
        }
    }

    #[inline(always)]
    fn store_to(&self, to: *mut Elem<W>, v: W) {
        let to = to.wrapping_add(self.progress.at.get());
        // SAFETY: the kernel's contract: the span lies within the tensor.
        unsafe {
            if self.masked() {
                v.store_lanes(to, self.pitch, self.mask());
            } else {
                v.store(to, self.pitch);
            }
        }
    }

    #[inline(always)]
    fn accumulate(&self, kind: Reduction, axis: Axis, v: W) {
        let r = self.progress.reductions.get() % MAX_REDUCTIONS;
        if matches!(axis, Axis::Col) {
            // SAFETY: column accumulators are padded to whole vectors and the worker's own.
            unsafe {
                let acc = self.uniform.col_acc[r].wrapping_add(self.progress.col.get());
                let joined = v.join_all(kind, W::V::load(acc));
                if W::NARROW && self.masked() {
                    // What follows in the accumulators of narrow rows belongs to other elements.
                    joined.store_lanes(acc, self.mask());
                } else {
                    joined.store(acc);
                }
            }
        } else {
            let acc = self.acc[r].get();
            // SAFETY: the kernel's contract.
            unsafe {
                let joined = acc.join(kind, v);
                self.acc[r].set(if self.masked() { joined.or(self.mask(), acc) } else { joined });
            }
            self.progress.used.set(self.progress.used.get() | bit(r));
            if matches!(kind, Reduction::Max) {
                self.progress.maxima.set(self.progress.maxima.get() | bit(r));
            }
            if matches!(axis, Axis::Row) {
                self.progress.along_rows.set(self.progress.along_rows.get() | bit(r));
            }
        }
    }

    #[inline(always)]
    fn run<D: Definition>(&self) {
        self.progress.calls.set(0);
        self.progress.slots.set(0);
        self.progress.reductions.set(0);
        // Begun anew for each vector, so that they are constants after the loop.
        self.progress.used.set(0);
        self.progress.along_rows.set(0);
        self.progress.maxima.set(0);
        D::step(Step::new(self));
    }
}

impl<W: Rows, const LEVEL: u8, const KIND: u8> Interpreter for Lane<'_, W, LEVEL, KIND> {
    type Repr = Repr<W>;
    type Slot = LaneSlot;
    // Most steps clip and scale nothing: then the loops are to cost nothing for it.
    const CONDITIONS: bool = true;

    #[inline(always)]
    fn is_matrix(&self) -> bool {
        !matches!(Kind::of(KIND), Kind::Vector)
    }

    #[inline(always)]
    fn literal(&self, _: f64) -> Repr<W> {
        self.small(Shape::Host, 0)
    }

    #[inline(always)]
    fn hyper(&self, _: &'static str) -> Repr<W> {
        self.small(Shape::Host, 0)
    }

    #[inline(always)]
    fn step_number(&self) -> Repr<W> {
        self.small(Shape::Host, 0)
    }

    #[inline(always)]
    fn count(&self, _: Axis) -> Repr<W> {
        self.small(Shape::Scalar, 0)
    }

    #[inline(always)]
    fn grad(&self) -> Repr<W> {
        // A tile that the driver has clipped and scaled lies elsewhere: its table begins far before.
        let v = self.load_apart(self.tables.grad, self.grad_pitch);
        Repr { v, call: 0, shape: Shape::Full, level: 0 }
    }

    #[inline(always)]
    fn param(&self) -> Repr<W> {
        Repr { v: self.load(self.tables.param), call: 0, shape: Shape::Full, level: 0 }
    }

    #[inline(always)]
    fn unary(&self, op: Unary, a: Repr<W>) -> Repr<W> {
        if !matches!(a.shape, Shape::Full) {
            return self.small(a.shape, a.level);
        }
        // SAFETY: the kernel's contract.
        self.computed(unsafe { a.v.unary(op) }, a.level)
    }

    #[inline(always)]
    fn binary(&self, op: Binary, a: Repr<W>, b: Repr<W>) -> Repr<W> {
        let (shape, level) = (a.shape.join(b.shape), a.level.max(b.level));
        if !matches!(shape, Shape::Full) {
            return self.small(shape, level);
        }
        let (x, y) = (self.wide(a), self.wide(b));
        // SAFETY: the kernel's contract.
        self.computed(unsafe { x.binary(op, y) }, level)
    }

    #[inline(always)]
    fn select_less(&self, a: Repr<W>, b: Repr<W>, x: Repr<W>, y: Repr<W>) -> Repr<W> {
        let shape = a.shape.join(b.shape).join(x.shape.join(y.shape));
        let level = a.level.max(b.level).max(x.level.max(y.level));
        if !matches!(shape, Shape::Full) {
            return self.small(shape, level);
        }
        let (a, b, x, y) = (self.wide(a), self.wide(b), self.wide(x), self.wide(y));
        // SAFETY: the kernel's contract.
        self.computed(unsafe { W::select_less(a, b, x, y) }, level)
    }

    #[inline(always)]
    fn reduce(&self, kind: Reduction, axis: Axis, a: Repr<W>) -> Repr<W> {
        let Some(axis) = Kind::of(KIND).axis(axis) else {
            return Repr { call: self.count_call(), ..a };
        };
        let full = matches!(a.shape, Shape::Full);
        if full {
            if a.level == LEVEL {
                self.accumulate(kind, axis, a.v);
            }
            self.progress.reductions.set(self.progress.reductions.get().wrapping_add(1));
        }
        self.small(a.shape.reduced(axis), a.level.wrapping_add(full as u8))
    }

    #[inline(always)]
    fn slot(&self, decl: SlotDecl) -> LaneSlot {
        let full = self.progress.slots.get();
        let shape = Kind::of(KIND).shape(decl.shape);
        if matches!(shape, Shape::Full) {
            self.progress.slots.set(full.wrapping_add(1));
        }
        LaneSlot { full: full % MAX_FULL_SLOTS, shape }
    }

    #[inline(always)]
    fn old(&self, slot: LaneSlot) -> Repr<W> {
        if matches!(slot.shape, Shape::Full) {
            self.computed(self.load(self.tables.slots[slot.full]), 0)
        } else {
            self.small(slot.shape, 0)
        }
    }

    #[inline(always)]
    fn store(&self, slot: LaneSlot, value: Repr<W>) -> Repr<W> {
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
    fn store_param(&self, value: Repr<W>) {
        if value.level == LEVEL {
            let v = self.wide(value);
            self.store_to(self.tables.param, v);
        }
    }
}

/// # Safety
/// As for [`Kernel`].
#[inline(always)]
pub(super) unsafe fn unary<V: Simd>(op: Unary, v: V) -> V {
    // SAFETY: the caller's contract.
    unsafe {
        let (zero, one) = (V::splat(V::T::zero()), V::splat(V::T::one()));
        match op {
            Unary::Neg => v.neg(),
            Unary::Sqrt => v.sqrt(),
            Unary::Rsqrt => one.div(v.sqrt()),
            Unary::Abs => v.abs(),
            // A difference of a finite number with itself is 0, any other is not a number, and no
            // comparison with that holds.
            Unary::Finite => V::select_less(v.sub(v), one, one, zero),
            Unary::Sign => {
                let not_positive = V::select_less(v, zero, one.neg(), zero);
                V::select_less(zero, v, one, not_positive)
            }
        }
    }
}

/// # Safety
/// As for [`Kernel`].
#[inline(always)]
pub(super) unsafe fn binary<V: Simd>(op: Binary, x: V, y: V) -> V {
    // SAFETY: the caller's contract.
    unsafe {
        match op {
            Binary::Add => x.add(y),
            Binary::Sub => x.sub(y),
            Binary::Mul => x.mul(y),
            Binary::Div => x.div(y),
            Binary::Min => x.min(y),
            Binary::Max => x.max(y),
            Binary::Differ => {
                let (zero, one) = (V::splat(V::T::zero()), V::splat(V::T::one()));
                let (xn, yn) = (number(x), number(y));
                let differ = V::select_less(y, x, one, V::select_less(x, y, one, zero));
                V::select_less(zero, xn.mul(yn), differ, one)
            }
            // The tracer has refused it.
            Binary::Pow => x,
        }
    }
}

/// `0` for what is not a number, which differs from everything: no comparison with it holds. Else `1`.
///
/// # Safety
/// As for [`Kernel`].
#[inline(always)]
unsafe fn number<V: Simd>(v: V) -> V {
    // SAFETY: the caller's contract.
    unsafe {
        let (zero, one) = (V::splat(V::T::zero()), V::splat(V::T::one()));
        let infinity = V::splat(V::T::narrow(f64::INFINITY));
        let below = V::select_less(v, infinity, one, zero);
        V::select_less(infinity.neg(), v, one, below)
    }
}

/// # Safety
/// As for [`Kernel`].
#[inline(always)]
pub(super) unsafe fn join<V: Simd>(kind: Reduction, acc: V, v: V) -> V {
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
unsafe fn body<D: Definition, W: Rows, const LEVEL: u8, const KIND: u8>(
    tables: &Tables<Elem<W>>,
    uniform: &mut Uniform<Elem<W>>,
    span: Span,
    out: &mut Reduced<Elem<W>>,
) {
    let groups = if is_matrix(KIND) { span.groups } else { 1 };
    let mut group = 0usize;
    loop {
        // SAFETY: the kernel's contract.
        unsafe {
            if !(is_matrix(KIND) && W::NARROW && span.narrow) {
                for i in 0..uniform.reads.len() {
                    let (call, rows) = uniform.reads[i];
                    let rows = rows.wrapping_add(group.wrapping_mul(W::ROWS));
                    W::take_rows(uniform, call, rows);
                }
            }
            rows_of_a_group::<D, W, LEVEL, KIND>(tables, uniform, span, group, out);
        }
        group += 1;
        if group >= groups {
            break;
        }
    }
}

/// The rows that a kernel takes together.
///
/// # Safety
/// As for [`Kernel`].
#[inline(always)]
unsafe fn rows_of_a_group<D: Definition, W: Rows, const LEVEL: u8, const KIND: u8>(
    tables: &Tables<Elem<W>>,
    uniform: &Uniform<Elem<W>>,
    span: Span,
    group: usize,
    out: &mut Reduced<Elem<W>>,
) {
    // SAFETY: the kernel's contract.
    let acc: [Cell<W>; MAX_REDUCTIONS] = unsafe { accumulators(&tables.identity) };
    let Span { at, pitch, grad_pitch, col, n, lanes, narrow, .. } = span;
    let first = group.wrapping_mul(W::ROWS);
    let at = at.wrapping_add(first.wrapping_mul(pitch));
    // SAFETY: the kernel's contract.
    let tail = unsafe { W::V::mask(lanes) };
    let lane = Lane::<'_, W, LEVEL, KIND> {
        tables,
        uniform,
        pitch,
        grad_pitch,
        whole: span.whole,
        tail,
        narrow,
        progress: Progress::default(),
        acc: &acc,
    };
    // Spelled out: with an index that the compiler knows, accumulators stay in registers.
    macro_rules! each {
        ($used:ident, $do:ident, $($r:literal)*) => {$(
            if lane.progress.$used.get() >> $r & 1 == 1 {
                $do!($r);
            }
        )*};
    }
    macro_rules! leave_operands {
        ($r:literal) => {{
            let to = uniform.row_acc[$r].wrapping_add(lane.progress.row.get());
            // SAFETY: as many vectors as the span has lie there, this worker's own.
            unsafe {
                acc[$r].get().store(to, 0);
                acc[$r].set(W::splat(W::V::splat(tables.identity[$r])));
            }
        }};
    }
    macro_rules! finish {
        ($r:literal) => {{
            let maximum = lane.progress.maxima.get() >> $r & 1 == 1;
            let kind = if maximum { Reduction::Max } else { Reduction::Mean };
            let mut acc = acc[$r].get();
            // SAFETY: the kernel's contract.
            unsafe {
                if !is_matrix(KIND) && lanes < Elem::<W>::LANES {
                    acc = acc.first(lanes, tables.identity[$r]);
                }
                acc.fold(kind, out[$r].as_mut_ptr().wrapping_add(first));
            }
        }};
    }
    // One vector at least, so that what the last one leaves in the cells is known after the loop.
    let mut i = 0usize;
    loop {
        let done = i.wrapping_mul(Elem::<W>::LANES);
        lane.progress.at.set(at.wrapping_add(done));
        lane.progress.col.set(col.wrapping_add(done));
        if is_matrix(KIND) && W::NARROW {
            lane.progress.row.set(done);
        }
        if is_matrix(KIND) {
            lane.progress.last.set(i.wrapping_add(1) >= n);
        }
        lane.run::<D>();
        if is_matrix(KIND) && W::NARROW && narrow {
            each!(along_rows, leave_operands, 0 1 2 3 4 5 6 7);
        }
        i += 1;
        if i >= n {
            break;
        }
    }
    each!(used, finish, 0 1 2 3 4 5 6 7);
}

/// Spelled out: a closure given to `map` would not be inlined into the kernel.
///
/// # Safety
/// As for [`Kernel`].
#[inline(always)]
unsafe fn accumulators<W: Rows>(identity: &[Elem<W>; MAX_REDUCTIONS]) -> [Cell<W>; MAX_REDUCTIONS] {
    macro_rules! splat {
        ($($r:literal)*) => {
            // SAFETY: the caller's contract.
            [$(Cell::new(unsafe { W::splat(W::V::splat(identity[$r])) })),*]
        };
    }
    splat!(0 1 2 3 4 5 6 7)
}

/// The kernels of each instruction set, in a module of its own: the compiler makes a unit of each
/// and works on them side by side.
macro_rules! kernels {
    ($(#[$attribute:meta])* $isa:ident $(: $features:literal)?) => {
        $(#[$attribute])*
        mod $isa {
            use super::{Definition, Elem, Reduced, Rows, Span, Tables, Uniform, body};

            /// # Safety
            /// As for [`Kernel`](super::Kernel); the instruction set is present.
            $(#[target_feature(enable = $features)])?
            pub(super) unsafe fn kernel<D, W, const LEVEL: u8, const KIND: u8>(
                tables: &Tables<Elem<W>>,
                uniform: &mut Uniform<Elem<W>>,
                span: Span,
                out: &mut Reduced<Elem<W>>,
            ) where
                D: Definition,
                W: Rows,
            {
                // SAFETY: the caller's contract.
                unsafe { body::<D, W, LEVEL, KIND>(tables, uniform, span, out) }
            }
        }
    };
}

kernels!(baseline);
kernels!(#[cfg(all(target_arch = "x86_64", not(miri)))] avx2: "avx2");
kernels!(#[cfg(all(target_arch = "x86_64", not(miri)))] avx2_pair: "avx2");
kernels!(#[cfg(all(target_arch = "x86_64", not(miri)))] avx512: "avx512f,avx512dq");
// Four rows are four times the work: the first levels and the others are two units.
kernels!(#[cfg(all(target_arch = "x86_64", not(miri)))] avx512_quad: "avx512f,avx512dq");
kernels!(#[cfg(all(target_arch = "x86_64", not(miri)))] avx512_quad_later: "avx512f,avx512dq");

/// The compiled loops of one level for one instruction set.
#[derive(Clone, Copy)]
pub(crate) struct LevelKernel<T: Lanes> {
    /// Over one row, and over what does not fill a vector.
    pub(crate) one: Kernel<T>,
    /// Over many narrow rows, and as well over one.
    pub(crate) narrow: Kernel<T>,
    /// Over two rows together, where there are such loops.
    pub(crate) pair: Option<Kernel<T>>,
    /// Over this many rows together.
    pub(crate) together: Kernel<T>,
    pub(crate) rows: usize,
}

impl<T: Lanes> LevelKernel<T> {
    const fn single(one: Kernel<T>) -> Self {
        Self { one, narrow: one, pair: None, together: one, rows: 1 }
    }

    /// The loop over `rows` rows.
    pub(crate) fn of(&self, rows: usize) -> Kernel<T> {
        match (rows, self.pair) {
            (1, _) => self.one,
            (2, Some(pair)) => pair,
            _ => self.together,
        }
    }
}

/// The compiled loops of one level.
pub(crate) struct LevelKernels<T: Lanes> {
    /// With the instructions that every processor of this kind has.
    pub(crate) baseline: LevelKernel<T>,
    #[cfg(all(target_arch = "x86_64", not(miri)))]
    pub(crate) avx2: LevelKernel<T>,
    #[cfg(all(target_arch = "x86_64", not(miri)))]
    pub(crate) avx512: LevelKernel<T>,
}

#[cfg(gradstep_compact)]
impl<T: Element> LevelKernels<T> {
    /// The loop of all definitions.
    const fn compact(level: u8) -> Self {
        use super::compact::kernel;
        let one = LevelKernel::single(match level {
            0 => kernel::<T, 0>,
            1 => kernel::<T, 1>,
            2 => kernel::<T, 2>,
            3 => kernel::<T, 3>,
            4 => kernel::<T, 4>,
            5 => kernel::<T, 5>,
            6 => kernel::<T, 6>,
            _ => kernel::<T, 7>,
        });
        Self {
            baseline: one,
            #[cfg(all(target_arch = "x86_64", not(miri)))]
            avx2: one,
            #[cfg(all(target_arch = "x86_64", not(miri)))]
            avx512: one,
        }
    }
}

/// The compiled loops of a definition: `[level]`, none beyond its last level.
#[allow(unnameable_types, missing_debug_implementations, reason = "an inner part of `Recipe`")]
pub struct Kernels<T: Lanes> {
    pub(crate) vector: [Option<LevelKernels<T>>; MAX_LEVELS],
    pub(crate) matrix: [Option<LevelKernels<T>>; MAX_LEVELS],
    pub(crate) row: [Option<LevelKernels<T>>; MAX_LEVELS],
    pub(crate) column: [Option<LevelKernels<T>>; MAX_LEVELS],
}

/// A level of a definition. The constant is evaluated when it is used, so that loops beyond the
/// last level are never compiled.
struct At<D, T, const LEVEL: u8, const KIND: u8>(std::marker::PhantomData<(D, T)>);

impl<D: Definition, T: Element, const LEVEL: u8, const KIND: u8> At<D, T, LEVEL, KIND> {
    // Loops are compiled where a constant names them, so few are named: but for AVX-512, one row of a matrix
    // and many narrow ones take the same loop.
    const BASELINE: LevelKernel<T> = LevelKernel::single(if is_matrix(KIND) {
        baseline::kernel::<D, Narrow<T::Baseline>, LEVEL, KIND>
    } else {
        baseline::kernel::<D, Single<T::Baseline>, LEVEL, KIND>
    });
    #[cfg(all(target_arch = "x86_64", not(miri)))]
    const AVX2: LevelKernel<T> = {
        if is_matrix(KIND) {
            let one = LevelKernel::single(avx2::kernel::<D, Narrow<T::Avx2>, LEVEL, KIND>);
            if T::WIDE {
                let together = avx2_pair::kernel::<D, Pair<T::Avx2>, LEVEL, KIND>;
                LevelKernel { pair: Some(together), together, rows: 2, ..one }
            } else {
                one
            }
        } else {
            LevelKernel::single(avx2::kernel::<D, Single<T::Avx2>, LEVEL, KIND>)
        }
    };
    #[cfg(all(target_arch = "x86_64", not(miri)))]
    const AVX512: LevelKernel<T> = {
        if is_matrix(KIND) {
            let together = if LEVEL < 2 {
                avx512_quad::kernel::<D, Quad<T::Avx512>, LEVEL, KIND>
            } else {
                avx512_quad_later::kernel::<D, Quad<T::Avx512>, LEVEL, KIND>
            };
            let one = avx512::kernel::<D, Single<T::Avx512>, LEVEL, KIND>;
            LevelKernel { one, together, rows: 4, ..Self::AVX2 }
        } else if matches!(Kind::of(KIND), Kind::Vector) {
            LevelKernel::single(avx512::kernel::<D, Single<T::Avx512>, LEVEL, KIND>)
        } else {
            Self::AVX2
        }
    };

    const KERNELS: Option<LevelKernels<T>> = {
        if LEVEL < D::LEVELS.of(Kind::of(KIND)) {
            Some(LevelKernels {
                baseline: Self::BASELINE,
                #[cfg(all(target_arch = "x86_64", not(miri)))]
                avx2: Self::AVX2,
                #[cfg(all(target_arch = "x86_64", not(miri)))]
                avx512: if T::WIDE { Self::AVX512 } else { Self::AVX2 },
            })
        } else {
            None
        }
    };
}

#[cfg(gradstep_compact)]
impl<T: Element> Kernels<T> {
    /// The loop of all definitions, at every level.
    pub(crate) const fn compact() -> Self {
        macro_rules! levels {
            () => {
                [
                    Some(LevelKernels::compact(0)),
                    Some(LevelKernels::compact(1)),
                    Some(LevelKernels::compact(2)),
                    Some(LevelKernels::compact(3)),
                    Some(LevelKernels::compact(4)),
                    Some(LevelKernels::compact(5)),
                    Some(LevelKernels::compact(6)),
                    Some(LevelKernels::compact(7)),
                ]
            };
        }
        Self { vector: levels!(), matrix: levels!(), row: levels!(), column: levels!() }
    }
}

#[cfg(not(gradstep_compact))]
impl<T: Element> Kernels<T> {
    pub(crate) const fn of<D: Definition>() -> Self {
        macro_rules! levels {
            ($kind:ident) => {
                [
                    At::<D, T, 0, { Kind::$kind as u8 }>::KERNELS,
                    At::<D, T, 1, { Kind::$kind as u8 }>::KERNELS,
                    At::<D, T, 2, { Kind::$kind as u8 }>::KERNELS,
                    At::<D, T, 3, { Kind::$kind as u8 }>::KERNELS,
                    At::<D, T, 4, { Kind::$kind as u8 }>::KERNELS,
                    At::<D, T, 5, { Kind::$kind as u8 }>::KERNELS,
                    At::<D, T, 6, { Kind::$kind as u8 }>::KERNELS,
                    At::<D, T, 7, { Kind::$kind as u8 }>::KERNELS,
                ]
            };
        }
        Self {
            vector: levels!(Vector),
            matrix: levels!(Matrix),
            row: levels!(Row),
            column: levels!(Column),
        }
    }
}
