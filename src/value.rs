//! The vocabulary in which an optimizer is written: [`Shape`], [`Value`], [`Step`].
//!
//! A definition (see [`Definition`](crate::Definition)) is a function over a [`Step`]. It asks the
//! step for the gradient, the parameter, hyper-parameters and named state, and computes with
//! [`Value`]s: `Copy`, ordinary operators, a dozen functions, reductions. There is no branching on
//! data, no fallible arithmetic, no memory. What a value *is* depends on the [`Interpreter`]: a
//! node of a graph while the definition is traced, a vector of lanes while it runs on the CPU, a
//! whole array in the oracle of the tests.

use std::fmt;
use std::ops::{Add, Div, Mul, Neg, Sub};

/// How far a value varies over a tensor of batch × rows × cols.
///
/// Shapes form a lattice, `Host < Scalar < Matrix < Rows, Cols < Full`; values of two shapes meet
/// in their join, so broadcasting is never spelled out. Only `Full` values cost memory traffic.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[repr(u8)]
pub enum Shape {
    /// One value for all tensors of a group: hyper-parameters, the step number, and what follows
    /// from them. Symbolic, evaluated once a step in `f64`.
    Host = 0b0000,
    /// One value per tensor.
    Scalar = 0b0001,
    /// One value per batch entry.
    Matrix = 0b0011,
    /// One value per row of each batch entry.
    Rows = 0b0111,
    /// One value per column of each batch entry.
    Cols = 0b1011,
    /// One value per element.
    Full = 0b1111,
}

impl Shape {
    /// The smallest shape that both fit into. `Rows` and `Cols` meet in `Full`.
    #[inline(always)]
    #[must_use]
    pub const fn join(self, other: Self) -> Self {
        Self::from_bits(self as u8 | other as u8)
    }

    /// The shape that is left after a reduction over `axis`.
    #[inline(always)]
    #[must_use]
    pub const fn reduced(self, axis: Axis) -> Self {
        Self::from_bits(self as u8 & axis as u8)
    }

    /// True if a value of this shape can be stored where `other` is expected.
    #[inline(always)]
    #[must_use]
    pub const fn fits(self, other: Self) -> bool {
        self as u8 | other as u8 == other as u8
    }

    #[inline(always)]
    const fn from_bits(bits: u8) -> Self {
        match bits {
            0b0000 => Self::Host,
            0b0001 => Self::Scalar,
            0b0011 => Self::Matrix,
            0b0111 => Self::Rows,
            0b1011 => Self::Cols,
            _ => Self::Full,
        }
    }

    /// The shape's name as it stands in error messages and printed plans.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Host => "Host",
            Self::Scalar => "Scalar",
            Self::Matrix => "Matrix",
            Self::Rows => "Rows",
            Self::Cols => "Cols",
            Self::Full => "Full",
        }
    }
}

impl fmt::Debug for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// What a reduction runs over. The bits are those that stay of a [`Shape`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Axis {
    /// Along each row: one value per row is left.
    Row = 0b0111,
    /// Along each column: one value per column is left.
    Col = 0b1011,
    /// Over each matrix: one value per batch entry is left.
    Matrix = 0b0011,
    /// Over the whole tensor: one value is left.
    Tensor = 0b0001,
}

/// The kind of a reduction. Sums are means times [`Step::count`], so they need no third kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Reduction {
    /// Arithmetic mean.
    Mean,
    /// Greatest value.
    Max,
}

/// Operations of one operand.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Unary {
    /// `-x`
    Neg,
    /// `√x`
    Sqrt,
    /// `1/√x`
    Rsqrt,
    /// `|x|`
    Abs,
    /// `-1`, `0` or `1`
    Sign,
    /// `1` for a finite number, `0` for an infinite one and for what is not a number
    Finite,
}

/// Operations of two operands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Binary {
    /// `a + b`
    Add,
    /// `a - b`
    Sub,
    /// `a · b`
    Mul,
    /// `a / b`
    Div,
    /// `b` where `b < a`, else `a`
    Min,
    /// `b` where `a < b`, else `a`
    Max,
    /// `a` to the power `b`, for Host values only
    Pow,
    /// `1` where `a` and `b` are different numbers, `0` where they are the same
    Differ,
}

impl Unary {
    /// The operation on one number: what every interpreter computes for each element.
    #[inline(always)]
    pub fn apply<T: num_traits::Float>(self, x: T) -> T {
        match self {
            Self::Neg => -x,
            Self::Sqrt => x.sqrt(),
            Self::Rsqrt => T::one() / x.sqrt(),
            Self::Abs => x.abs(),
            Self::Sign if T::zero() < x => T::one(),
            Self::Sign if x < T::zero() => -T::one(),
            Self::Sign => T::zero(),
            Self::Finite if x.is_finite() => T::one(),
            Self::Finite => T::zero(),
        }
    }
}

impl Binary {
    /// The operation on two numbers. A comparison with something that is not a number is false.
    #[inline(always)]
    pub fn apply<T: num_traits::Float>(self, a: T, b: T) -> T {
        match self {
            Self::Add => a + b,
            Self::Sub => a - b,
            Self::Mul => a * b,
            Self::Div => a / b,
            Self::Min if b < a => b,
            Self::Max if a < b => b,
            Self::Min | Self::Max => a,
            // Host values only, of which `host` computes the powers.
            Self::Pow if cfg!(gradstep_compact) => T::nan(),
            Self::Pow => a.powf(b),
            Self::Differ if a == b => T::zero(),
            Self::Differ => T::one(),
        }
    }
}

/// The declaration of a slot: a named piece of state with a shape and an initial value.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SlotDecl {
    /// The name under which the state is saved, reported and printed in shaders.
    pub name: &'static str,
    /// How far it varies over the tensor.
    pub shape: Shape,
    /// What every element of it is before the first step.
    pub init: f64,
}

/// What gives the vocabulary its meaning.
///
/// [`Value`] and [`Step`] forward every operation to one of these methods, in the order in which
/// the definition calls them. The library has two interpreters (a tracer that records the graph,
/// and SIMD lanes); its tests have a third, which evaluates whole arrays in `f64`.
pub trait Interpreter: Sized {
    /// What a value is.
    type Repr: Copy;
    /// What a declared slot is.
    type Slot: Copy;
    /// Whether what [`grad`](Self::grad) gives is clipped and scaled already.
    const CONDITIONS: bool = false;

    /// True while the tensor is treated as batch × rows × cols, false where it is one long vector.
    fn is_matrix(&self) -> bool;
    /// A number written in the definition. Host.
    fn literal(&self, x: f64) -> Self::Repr;
    /// A hyper-parameter. Host.
    fn hyper(&self, name: &'static str) -> Self::Repr;
    /// The step number, from 1. Host.
    fn step_number(&self) -> Self::Repr;
    /// The number of elements that a reduction over `axis` runs over. Scalar.
    fn count(&self, axis: Axis) -> Self::Repr;
    /// The gradient. Full.
    fn grad(&self) -> Self::Repr;
    /// The parameter before the step. Full.
    fn param(&self) -> Self::Repr;
    /// An operation of one operand.
    fn unary(&self, op: Unary, a: Self::Repr) -> Self::Repr;
    /// An operation of two operands.
    #[track_caller]
    fn binary(&self, op: Binary, a: Self::Repr, b: Self::Repr) -> Self::Repr;
    /// `x` where `a < b`, else `y`.
    fn select_less(&self, a: Self::Repr, b: Self::Repr, x: Self::Repr, y: Self::Repr)
    -> Self::Repr;
    /// A reduction.
    fn reduce(&self, kind: Reduction, axis: Axis, a: Self::Repr) -> Self::Repr;
    /// Declares a slot.
    #[track_caller]
    fn slot(&self, decl: SlotDecl) -> Self::Slot;
    /// The value that a slot had before the step.
    fn old(&self, slot: Self::Slot) -> Self::Repr;
    /// Gives a slot its new value, and returns it.
    #[track_caller]
    fn store(&self, slot: Self::Slot, value: Self::Repr) -> Self::Repr;
    /// Gives the parameter its new value.
    #[track_caller]
    fn store_param(&self, value: Self::Repr);
    /// Names a value that statistics show. Nothing else depends on it.
    #[inline(always)]
    #[track_caller]
    fn report(&self, name: &'static str, value: Self::Repr) {
        let _ = (name, value);
    }
}

/// A value of a definition. `Copy`, with the operators of arithmetic; `f64` numbers join freely.
pub struct Value<'a, I: Interpreter> {
    interpreter: &'a I,
    repr: I::Repr,
}

impl<I: Interpreter> Clone for Value<'_, I> {
    #[inline(always)]
    fn clone(&self) -> Self {
        *self
    }
}

impl<I: Interpreter> Copy for Value<'_, I> {}

impl<I: Interpreter> fmt::Debug for Value<'_, I>
where
    I::Repr: fmt::Debug,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.repr.fmt(f)
    }
}

impl<'a, I: Interpreter> Value<'a, I> {
    #[inline(always)]
    fn of(interpreter: &'a I, repr: I::Repr) -> Self {
        Self { interpreter, repr }
    }

    /// A value that an interpreter has made itself.
    pub(crate) fn of_node(interpreter: &'a I, repr: I::Repr) -> Self {
        Self::of(interpreter, repr)
    }

    #[inline(always)]
    fn unary(self, op: Unary) -> Self {
        Self::of(self.interpreter, self.interpreter.unary(op, self.repr))
    }

    #[inline(always)]
    #[track_caller]
    fn binary(self, op: Binary, other: impl Operand<'a, I>) -> Self {
        let other = other.value(self.interpreter);
        Self::of(self.interpreter, self.interpreter.binary(op, self.repr, other.repr))
    }

    #[inline(always)]
    fn reduce(self, kind: Reduction, axis: Axis) -> Self {
        Self::of(self.interpreter, self.interpreter.reduce(kind, axis, self.repr))
    }

    /// Shows this value, which must be Host or Scalar, under a name in the statistics of a step
    /// ([`Stats`](crate::report::Stats)). Where nobody asks for them it costs nothing.
    #[inline(always)]
    #[track_caller]
    pub fn report(self, name: &'static str) -> Self {
        self.interpreter.report(name, self.repr);
        self
    }

    /// `x²`, as `x · x`.
    #[inline(always)]
    #[must_use]
    pub fn square(self) -> Self {
        self.binary(Binary::Mul, self)
    }

    /// `√x`
    #[inline(always)]
    #[must_use]
    pub fn sqrt(self) -> Self {
        self.unary(Unary::Sqrt)
    }

    /// `1/√x`, as `1/sqrt(x)` on every CPU.
    #[inline(always)]
    #[must_use]
    pub fn rsqrt(self) -> Self {
        self.unary(Unary::Rsqrt)
    }

    /// `|x|`
    #[inline(always)]
    #[must_use]
    pub fn abs(self) -> Self {
        self.unary(Unary::Abs)
    }

    /// `-1` for negative values, `1` for positive ones, else `0`.
    #[inline(always)]
    #[must_use]
    pub fn sign(self) -> Self {
        self.unary(Unary::Sign)
    }

    /// `1` where the value is finite, else `0`. On a GPU the bits are tested: shaders may assume that
    /// every number is finite, and then comparisons tell nothing.
    #[inline(always)]
    #[must_use]
    pub fn finite(self) -> Self {
        self.unary(Unary::Finite)
    }

    /// The lesser of two values: `other` where it is less than `self`, else `self`.
    #[inline(always)]
    #[must_use]
    pub fn at_most(self, other: impl Operand<'a, I>) -> Self {
        self.binary(Binary::Min, other)
    }

    /// The greater of two values: `other` where `self` is less than it, else `self`.
    #[inline(always)]
    #[must_use]
    pub fn at_least(self, other: impl Operand<'a, I>) -> Self {
        self.binary(Binary::Max, other)
    }

    /// `1` where the two are different, `0` where they are equal. On a GPU the bits are compared:
    /// shaders may take `w - u` and `w` for different wherever `u` is not 0, rounded or not.
    #[inline(always)]
    #[must_use]
    pub fn differs_from(self, other: impl Operand<'a, I>) -> Self {
        self.binary(Binary::Differ, other)
    }

    /// `self` to the power `exponent`. Host values only: `beta2.pow(t)`.
    #[inline(always)]
    #[track_caller]
    #[must_use]
    pub fn pow(self, exponent: impl Operand<'a, I>) -> Self {
        self.binary(Binary::Pow, exponent)
    }

    /// `(1 − weight) · self + weight · target`: the way from `self` to `target`.
    ///
    /// It is computed from the nearer end, as `torch.lerp` does: `self + weight · (target − self)` below
    /// the middle, `target − (1 − weight) · (target − self)` above it. From one end alone, a weight of 1
    /// would not arrive where `target` is much smaller than `self`.
    #[cfg_attr(not(gradstep_compact), inline(always))]
    #[must_use]
    pub fn lerp(self, target: Self, weight: impl Operand<'a, I>) -> Self {
        let weight = weight.value(self.interpreter);
        let near = weight.less_than(0.5);
        near.select(self, target) + (target - self) * near.select(weight, weight - 1.0)
    }

    /// The comparison `self < other`, for [`Less::select`].
    #[inline(always)]
    pub fn less_than(self, other: impl Operand<'a, I>) -> Less<'a, I> {
        Less { a: self, b: other.value(self.interpreter) }
    }

    /// The mean of each row. Rows.
    #[inline(always)]
    #[must_use]
    pub fn row_mean(self) -> Self {
        self.reduce(Reduction::Mean, Axis::Row)
    }

    /// The mean of each column. Cols.
    #[inline(always)]
    #[must_use]
    pub fn col_mean(self) -> Self {
        self.reduce(Reduction::Mean, Axis::Col)
    }

    /// The mean of each matrix (of each row value or column value of it, where those are given).
    #[inline(always)]
    #[must_use]
    pub fn mean(self) -> Self {
        self.reduce(Reduction::Mean, Axis::Matrix)
    }

    /// The mean over the whole tensor, all batch entries included.
    #[inline(always)]
    #[must_use]
    pub fn tensor_mean(self) -> Self {
        self.reduce(Reduction::Mean, Axis::Tensor)
    }

    /// The greatest value of each row. Rows.
    #[inline(always)]
    #[must_use]
    pub fn row_max(self) -> Self {
        self.reduce(Reduction::Max, Axis::Row)
    }

    /// The greatest value of each column. Cols.
    #[inline(always)]
    #[must_use]
    pub fn col_max(self) -> Self {
        self.reduce(Reduction::Max, Axis::Col)
    }

    /// The greatest value of each matrix.
    #[inline(always)]
    #[must_use]
    pub fn max(self) -> Self {
        self.reduce(Reduction::Max, Axis::Matrix)
    }

    /// The greatest value of the whole tensor.
    #[inline(always)]
    #[must_use]
    pub fn tensor_max(self) -> Self {
        self.reduce(Reduction::Max, Axis::Tensor)
    }

    /// The root mean square over the whole tensor.
    #[cfg_attr(not(gradstep_compact), inline(always))]
    #[must_use]
    pub fn rms(self) -> Self {
        self.square().tensor_mean().sqrt()
    }
}

/// A comparison `a < b`, made by [`Value::less_than`].
pub struct Less<'a, I: Interpreter> {
    a: Value<'a, I>,
    b: Value<'a, I>,
}

impl<I: Interpreter> Clone for Less<'_, I> {
    #[inline(always)]
    fn clone(&self) -> Self {
        *self
    }
}

impl<I: Interpreter> Copy for Less<'_, I> {}

impl<I: Interpreter> fmt::Debug for Less<'_, I> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Less")
    }
}

impl<'a, I: Interpreter> Less<'a, I> {
    /// `x` where the comparison holds, else `y` (also where an operand is not a number).
    #[inline(always)]
    pub fn select(self, x: impl Operand<'a, I>, y: impl Operand<'a, I>) -> Value<'a, I> {
        let i = self.a.interpreter;
        let (x, y) = (x.value(i), y.value(i));
        Value::of(i, i.select_less(self.a.repr, self.b.repr, x.repr, y.repr))
    }
}

/// What can stand beside a [`Value`] in an operation: another value, or a number.
pub trait Operand<'a, I: Interpreter> {
    /// The operand as a value.
    fn value(self, interpreter: &'a I) -> Value<'a, I>;
}

impl<'a, I: Interpreter> Operand<'a, I> for Value<'a, I> {
    #[inline(always)]
    fn value(self, _: &'a I) -> Self {
        self
    }
}

impl<'a, I: Interpreter> Operand<'a, I> for f64 {
    #[inline(always)]
    fn value(self, interpreter: &'a I) -> Value<'a, I> {
        Value::of(interpreter, interpreter.literal(self))
    }
}

macro_rules! operators {
    ($($name:ident :: $method:ident),*) => {$(
        impl<'a, I: Interpreter, R: Operand<'a, I>> $name<R> for Value<'a, I> {
            type Output = Self;
            #[inline(always)]
            fn $method(self, other: R) -> Self {
                self.binary(Binary::$name, other)
            }
        }

        impl<'a, I: Interpreter> $name<Value<'a, I>> for f64 {
            type Output = Value<'a, I>;
            #[inline(always)]
            fn $method(self, other: Value<'a, I>) -> Value<'a, I> {
                Operand::<'a, I>::value(self, other.interpreter).binary(Binary::$name, other)
            }
        }
    )*};
}

operators!(Add::add, Sub::sub, Mul::mul, Div::div);

impl<I: Interpreter> Neg for Value<'_, I> {
    type Output = Self;
    #[inline(always)]
    fn neg(self) -> Self {
        self.unary(Unary::Neg)
    }
}

/// The Host values that stand between the gradient as it is given and as a definition sees it.
pub(crate) const GRAD: [&str; 3] = ["grad_min", "grad_max", "grad_scale"];

/// What is done to the gradient with each of them, in order: a clamp, and a product.
pub(crate) const CONDITION: [Binary; 3] = [Binary::Max, Binary::Min, Binary::Mul];

/// What they are where nothing is done to gradients.
pub(crate) const GRAD_NEUTRAL: [f64; 3] = [f64::NEG_INFINITY, f64::INFINITY, 1.0];

/// One step of one tensor, as a definition sees it: where values come from and where they go.
pub struct Step<'a, I: Interpreter> {
    interpreter: &'a I,
}

impl<I: Interpreter> Clone for Step<'_, I> {
    #[inline(always)]
    fn clone(&self) -> Self {
        *self
    }
}

impl<I: Interpreter> Copy for Step<'_, I> {}

impl<I: Interpreter> fmt::Debug for Step<'_, I> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Step")
    }
}

impl<'a, I: Interpreter> Step<'a, I> {
    /// The step as `interpreter` understands it. Only somebody who writes an interpreter needs it.
    #[inline(always)]
    pub fn new(interpreter: &'a I) -> Self {
        Self { interpreter }
    }

    /// True where the tensor has rows and columns, false where it is one long vector. Constant
    /// within a kernel, so `if s.is_matrix()` costs nothing.
    #[inline(always)]
    #[must_use]
    pub fn is_matrix(self) -> bool {
        self.interpreter.is_matrix()
    }

    /// The gradient `g`, as the step is to see it: clipped and scaled where the surroundings ask
    /// for it, the gradient as it was given otherwise. Full.
    ///
    /// It is `clamp(raw, grad_min, grad_max) · grad_scale` of the gradient as it was given, with three
    /// Host values that no optimizer knows of: they are −∞, ∞ (on a GPU the greatest finite numbers)
    /// and 1 unless gradients are clipped or unscaled.
    #[cfg_attr(not(gradstep_compact), inline(always))]
    #[must_use]
    pub fn grad(self) -> Value<'a, I> {
        let [a, b, c] = self.hyper(GRAD);
        let [first, second, third] = CONDITION;
        let raw = self.raw_grad();
        let conditioned = raw.binary(first, a).binary(second, b).binary(third, c);
        if I::CONDITIONS { raw } else { conditioned }
    }

    /// The gradient as it was given, for what is done to it before an optimizer sees it. Full. (To a
    /// definition that also asks for [`grad`](Self::grad) it is no other than that on the CPU.)
    #[inline(always)]
    #[must_use]
    pub(crate) fn raw_grad(self) -> Value<'a, I> {
        Value::of(self.interpreter, self.interpreter.grad())
    }

    /// The parameter `w` before the step. Full.
    #[inline(always)]
    #[must_use]
    pub fn param(self) -> Value<'a, I> {
        Value::of(self.interpreter, self.interpreter.param())
    }

    /// Hyper-parameters by name, as [`Optimizer::hyper`](crate::Optimizer::hyper) gives them. Host.
    #[inline(always)]
    #[must_use]
    pub fn hyper<const N: usize>(self, names: [&'static str; N]) -> [Value<'a, I>; N] {
        const { assert!(N > 0, "at least one name") };
        // A loop and no closure: closures are inlined only if the compiler thinks well of it.
        let mut values = [Value::of(self.interpreter, self.interpreter.hyper(names[0])); N];
        let mut i = 1;
        while i < N {
            values[i] = Value::of(self.interpreter, self.interpreter.hyper(names[i]));
            i += 1;
        }
        values
    }

    /// The step number, 1 at the first step. Host.
    #[inline(always)]
    #[must_use]
    pub fn t(self) -> Value<'a, I> {
        Value::of(self.interpreter, self.interpreter.step_number())
    }

    /// The number of elements that a reduction over `axis` runs over: columns for [`Axis::Row`],
    /// rows for [`Axis::Col`], both multiplied for [`Axis::Matrix`], everything for
    /// [`Axis::Tensor`]. A sum is a mean times this. Scalar.
    #[inline(always)]
    #[must_use]
    pub fn count(self, axis: Axis) -> Value<'a, I> {
        Value::of(self.interpreter, self.interpreter.count(axis))
    }

    /// State with one value per element, zero before the first step.
    #[inline(always)]
    #[track_caller]
    pub fn full(self, name: &'static str) -> Slot<'a, I> {
        self.slot(name, Shape::Full, 0.0)
    }

    /// State with one value per row, zero before the first step.
    #[inline(always)]
    #[track_caller]
    pub fn rows(self, name: &'static str) -> Slot<'a, I> {
        self.slot(name, Shape::Rows, 0.0)
    }

    /// State with one value per column, zero before the first step.
    #[inline(always)]
    #[track_caller]
    pub fn cols(self, name: &'static str) -> Slot<'a, I> {
        self.slot(name, Shape::Cols, 0.0)
    }

    /// State of any shape above Host, with `init` in every element before the first step.
    #[inline(always)]
    #[track_caller]
    pub fn slot(self, name: &'static str, shape: Shape, init: f64) -> Slot<'a, I> {
        let slot = self.interpreter.slot(SlotDecl { name, shape, init });
        Slot { interpreter: self.interpreter, slot }
    }

    /// Gives the parameter its new value. Every definition does this once.
    #[inline(always)]
    #[track_caller]
    pub fn set_param(self, value: Value<'a, I>) {
        self.interpreter.store_param(value.repr);
    }
}

/// A named piece of state: read it with [`old`](Self::old), write it once with [`set`](Self::set).
pub struct Slot<'a, I: Interpreter> {
    interpreter: &'a I,
    slot: I::Slot,
}

impl<I: Interpreter> Clone for Slot<'_, I> {
    #[inline(always)]
    fn clone(&self) -> Self {
        *self
    }
}

impl<I: Interpreter> Copy for Slot<'_, I> {}

impl<I: Interpreter> fmt::Debug for Slot<'_, I> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Slot")
    }
}

impl<'a, I: Interpreter> Slot<'a, I> {
    /// The value before the step.
    #[inline(always)]
    #[must_use]
    pub fn old(self) -> Value<'a, I> {
        Value::of(self.interpreter, self.interpreter.old(self.slot))
    }

    /// Stores the new value and returns it.
    #[inline(always)]
    #[track_caller]
    pub fn set(self, value: Value<'a, I>) -> Value<'a, I> {
        Value::of(self.interpreter, self.interpreter.store(self.slot, value.repr))
    }

    /// Exponential moving average: stores and returns `β·old + (1−β)·x`, with `1−β` rounded once:
    /// see [`Value::lerp`].
    #[cfg_attr(not(gradstep_compact), inline(always))]
    #[track_caller]
    pub fn ema(self, x: Value<'a, I>, beta: Value<'a, I>) -> Value<'a, I> {
        self.set(self.old().lerp(x, 1.0 - beta))
    }
}
