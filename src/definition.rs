//! What an optimizer is: hyper-parameters ([`Optimizer`]) and one step ([`Definition`]).

use std::fmt;
use std::marker::PhantomData;

use crate::cpu::{Element, Kernels};
use crate::error::Result;
use crate::trace::{Graph, Kind, Watch};
use crate::value::{Interpreter, Step};

/// How many levels a definition has: one more than the number of full-size reductions on the
/// longest path through it. One fused loop is compiled for each, so a definition states the number
/// and the tracer checks it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Levels {
    vector: u8,
    matrix: u8,
    row: u8,
    column: u8,
}

impl Levels {
    /// The greatest number of levels.
    pub const MAX: u8 = 8;

    /// A definition that does not tell rows from columns: every tensor is one long vector to it.
    #[must_use]
    pub const fn flat(levels: u8) -> Self {
        Self::factored(levels, 0)
    }

    /// A definition that treats matrices apart ([`Step::is_matrix`]).
    #[must_use]
    pub const fn factored(vector: u8, matrix: u8) -> Self {
        Self { vector, matrix, row: 0, column: 0 }
    }

    /// The same with loops of their own for matrices of a single row and of a single column, on the
    /// CPU. There the values of the columns, or of the rows, are as many as elements: these loops take
    /// them for such, which is several times as fast as going over them between sweeps. Without, the
    /// loops of all matrices do for these too.
    #[must_use]
    pub const fn with_lines(self, row: u8, column: u8) -> Self {
        Self { row, column, ..self }
    }

    pub(crate) const fn of(self, kind: Kind) -> u8 {
        match kind {
            Kind::Vector => self.vector,
            Kind::Matrix => self.matrix,
            Kind::Row => self.row,
            Kind::Column => self.column,
        }
    }
}

/// The mathematics of one step, written once and run by every backend.
///
/// The function must do the same operations in the same order whenever it is called: everything
/// that decides *which* operations follow is a constant of the type, everything that is a number
/// is a hyper-parameter. (A definition that breaks this gets wrong numbers, nothing worse.)
///
/// Mark `step` with `#[inline(always)]`, as every definition here is: it is what turns the text
/// into one fused loop, and without it a step is some fifty times slower, silently.
pub trait Definition: 'static {
    /// The name that errors, plans, shaders and saved state carry.
    const NAME: &'static str;
    /// True for a definition that sets slots only and leaves the parameter alone.
    const MEASURES: bool = false;
    /// The number of levels. Begin with `Levels::flat(1)`; a wrong number is an error that tells
    /// the right one.
    const LEVELS: Levels;

    /// One step of one tensor.
    fn step<I: Interpreter>(s: Step<'_, I>);
}

/// Hyper-parameters and the choice of a [`Definition`].
pub trait Optimizer: fmt::Debug {
    /// The value of a hyper-parameter that the definition asks for, or `None` for an unknown name.
    fn hyper(&self, name: &str) -> Option<f64>;

    /// Sets a hyper-parameter that is a number, by the name under which [`hyper`](Self::hyper) gives
    /// it: what schedules and groups do. False for a name that is unknown or cannot be set, which
    /// is all of them unless an optimizer says otherwise. A number alone may be set so; what selects
    /// the structure of a step (an option that is `None`, a momentum of 0) stays.
    fn set_hyper(&mut self, name: &str, value: f64) -> bool {
        let _ = (name, value);
        false
    }

    /// What a slot holds before the first step, where that is a setting. `None`: what the definition
    /// declares.
    fn initial(&self, slot: &str) -> Option<f64> {
        let _ = slot;
        None
    }

    /// The definition that these settings select: `Recipe::of::<Self>()` where there is only one.
    fn recipe(&self) -> Recipe;

    /// Checks every hyper-parameter. Called when a step is prepared and before each step.
    ///
    /// # Errors
    /// [`Error::Hyper`](crate::Error::Hyper) for the first value that is out of range.
    fn check(&self) -> Result<()> {
        Ok(())
    }
}

macro_rules! forward {
    ($($pointer:ty $(: $set:ident)?),*) => {$(
        impl<O: Optimizer + ?Sized> Optimizer for $pointer {
            fn hyper(&self, name: &str) -> Option<f64> {
                (**self).hyper(name)
            }

            $(fn $set(&mut self, name: &str, value: f64) -> bool {
                (**self).$set(name, value)
            })?

            fn initial(&self, slot: &str) -> Option<f64> {
                (**self).initial(slot)
            }

            fn recipe(&self) -> Recipe {
                (**self).recipe()
            }

            fn check(&self) -> Result<()> {
                (**self).check()
            }
        }
    )*};
}

// Tables of optimizers, and settings that several tensors share.
forward!(&O, Box<O>: set_hyper, std::sync::Arc<O>);

/// A definition with its type erased: a name, a graph and compiled loops.
#[derive(Clone, Copy)]
pub struct Recipe(&'static dyn Erased);

impl Recipe {
    /// The recipe of a definition. Its loops are compiled where this is called.
    #[must_use]
    pub fn of<D: Definition>() -> Self {
        // A zero-sized value: the reference is to a promoted constant.
        Self(&Typed::<D>(PhantomData))
    }

    /// The definition's name.
    #[must_use]
    pub fn name(self) -> &'static str {
        self.0.name()
    }

    /// Records the definition as a graph.
    ///
    /// # Errors
    /// [`Error::Definition`](crate::Error::Definition) if the definition breaks a rule.
    pub fn trace(self, kind: Kind) -> Result<Graph> {
        self.0.trace(kind, Watch::Nothing)
    }

    /// The same, with statistics.
    pub(crate) fn trace_watched(self, kind: Kind, watch: Watch) -> Result<Graph> {
        self.0.trace(kind, watch)
    }

    /// True if the definition treats matrices apart.
    #[must_use]
    pub fn is_factored(self) -> bool {
        self.has(Kind::Matrix)
    }

    /// Whether it has loops for such tensors.
    pub(crate) fn has(self, kind: Kind) -> bool {
        self.0.levels().of(kind) > 0
    }

    pub(crate) fn kernels<T: Element>(self) -> &'static Kernels<T> {
        T::kernels(self.0)
    }
}

impl PartialEq for Recipe {
    fn eq(&self, other: &Self) -> bool {
        self.0.type_id() == other.0.type_id()
    }
}

impl Eq for Recipe {}

impl std::hash::Hash for Recipe {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.0.type_id().hash(state);
    }
}

impl fmt::Debug for Recipe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Recipe").field(&self.name()).finish()
    }
}

/// The object-safe form of a definition.
#[allow(unnameable_types, reason = "an inner part of `Recipe`")]
pub trait Erased: Send + Sync {
    fn name(&self) -> &'static str;
    fn levels(&self) -> Levels;
    fn type_id(&self) -> std::any::TypeId;
    fn trace(&self, kind: Kind, watch: Watch) -> Result<Graph>;
    #[cfg(not(gradstep_compact))]
    fn kernels_f32(&self) -> &'static Kernels<f32>;
    #[cfg(all(feature = "f64", not(gradstep_compact)))]
    fn kernels_f64(&self) -> &'static Kernels<f64>;
}

struct Typed<D>(PhantomData<fn() -> D>);

impl<D: Definition> Erased for Typed<D> {
    fn name(&self) -> &'static str {
        D::NAME
    }

    fn levels(&self) -> Levels {
        D::LEVELS
    }

    fn type_id(&self) -> std::any::TypeId {
        std::any::TypeId::of::<D>()
    }

    fn trace(&self, kind: Kind, watch: Watch) -> Result<Graph> {
        Graph::trace_watched::<D>(kind, watch)
    }

    #[cfg(not(gradstep_compact))]
    fn kernels_f32(&self) -> &'static Kernels<f32> {
        const { &Kernels::of::<D>() }
    }

    #[cfg(all(feature = "f64", not(gradstep_compact)))]
    fn kernels_f64(&self) -> &'static Kernels<f64> {
        const { &Kernels::of::<D>() }
    }
}
