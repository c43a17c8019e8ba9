//! The optimizers: one struct of hyper-parameters each, with the definition of its step.
//!
//! | optimizer | paper | state of an n×m matrix | sweeps | bytes moved | of a vector |
//! |---|---|---|---|---|---|
//! | [`Sgd`] | Robbins and Monro 1951 | none | 1 | 12 | 1 sweep, 12 |
//! | [`Sgd`] with momentum | Polyak 1964, Nesterov 1983 | nm | 1 | 20 | 1 sweep, 20 |
//! | [`Adam`], [`AdamW`] | 1412.6980, 1711.05101 | 2nm | 1 | 28 | 1 sweep, 28 |
//! | … with `amsgrad` | Reddi et al. 2018 | 3nm | 1 | 36 | 1 sweep, 36 |
//! | [`Adafactor`], fixed steps | 1804.04235 | n+m | 2 | 16 | 2 sweeps, 28 |
//! | … parameter scaling | 1804.04235 | n+m | 2 | 20 | 2 sweeps, 32 |
//! | … and `beta1` | 1804.04235 | nm+n+m | 2 | 28 | 2 sweeps, 40 |
//! | … as in torch | 1804.04235 | n+m | 3 | 24 | 2 sweeps, 32 |
//! | [`Sm3`] | 1901.11150 | n+m | 1 | 12 | 1 sweep, 20 |
//! | [`Sm3`] with momentum | 1901.11150 | nm+n+m | 1 | 20 | 1 sweep, 28 |
//! | [`Came`] | 2307.02047 | nm+2(n+m) | 3 | 28 | 2 sweeps, 36 |
//! | [`Came`] with `clip_update` | 2307.02047 | nm+2(n+m) | 3 | 28 | 3 sweeps, 40 |
//!
//! State is counted in numbers, for one matrix; a batch of matrices has n+m for each. Bytes are those
//! that a step moves to and from memory per parameter in `f32`, gradient and parameter included;
//! values per row and per column are not counted. A matrix of a few very long rows takes up to two sweeps
//! more, see [`Plan`](crate::Plan).
//!
//! The fields of a struct are public and carry the names of the field's literature; each has a
//! builder `with_…`. Numbers may change between steps
//! ([`CpuStep::optimizer_mut`](crate::CpuStep::optimizer_mut)). Options that change which
//! operations follow are fixed when a step is prepared; the docs of each struct say which.
//!
//! Each is a Cargo feature of its name (`adam` for both kinds of Adam), all of them are `optimizers`, which is
//! a default: what is left out is not compiled.
//!
//! To write your own, see [`Definition`](crate::Definition), and [`blocks`](crate::blocks) for the
//! pieces that those here share.

#![cfg_attr(
    not(feature = "optimizers"),
    allow(
        dead_code,
        unused_imports,
        unused_macros,
        reason = "what optimizers share, of which some are left out"
    )
)]

#[cfg(feature = "adafactor")]
mod adafactor;
#[cfg(feature = "adam")]
mod adam;
#[cfg(feature = "came")]
mod came;
#[cfg(feature = "sgd")]
mod sgd;
#[cfg(feature = "sm3")]
mod sm3;

#[cfg(feature = "adafactor")]
pub use self::adafactor::{Adafactor, AdafactorStep, AdafactorVariant, TorchAdafactorStep};
#[cfg(feature = "adam")]
pub use self::adam::{Adam, AdamStep, AdamW};
#[cfg(feature = "came")]
pub use self::came::{Came, CameStep, CameVariant};
#[cfg(feature = "sgd")]
pub use self::sgd::{Sgd, SgdStep};
#[cfg(feature = "sm3")]
pub use self::sm3::{Sm3, Sm3Step};
use crate::error::{Error, Result};

/// Builders by value: `with_field => field: Type`.
macro_rules! builders {
    ($optimizer:ident { $($with:ident => $field:ident: $type:ty),* $(,)? }) => {
        impl $optimizer {
            $(
                #[doc = concat!("With another [`", stringify!($field), "`](Self::", stringify!($field), ").")]
                #[must_use]
                pub fn $with(mut self, $field: $type) -> Self {
                    self.$field = $field;
                    self
                }
            )*
        }
    };
}
use builders;

/// Reading and setting hyper-parameters: fields by their own names; after `;` those that are an
/// `Option`, which can be set only where they are `Some`; then what is a number to the definition
/// alone and cannot be set.
macro_rules! hyper {
    ($($field:ident),* $(; $($option:ident),* $(; $($text:literal => $read:expr),*)?)?) => {
        fn hyper(&self, name: &str) -> Option<f64> {
            match name {
                $(stringify!($field) => Some(self.$field),)*
                $($(stringify!($option) => self.$option,)*
                $($($text => Some(f64::from($read(self))),)*)?)?
                _ => None,
            }
        }

        fn set_hyper(&mut self, name: &str, value: f64) -> bool {
            let field = match name {
                $(stringify!($field) => Some(&mut self.$field),)*
                $($(stringify!($option) => self.$option.as_mut(),)*)?
                _ => None,
            };
            field.map(|field| *field = value).is_some()
        }
    };
}
use hyper;

/// Checks of hyper-parameters, of which the first that fails is the error.
struct Check {
    optimizer: &'static str,
    error: Option<Error>,
}

impl Check {
    /// For the optimizer of this name.
    fn new(optimizer: &'static str) -> Self {
        Self { optimizer, error: None }
    }

    fn result(self) -> Result<()> {
        self.error.map_or(Ok(()), Err)
    }

    /// [`Error::Hyper`] unless `valid`.
    fn that(&mut self, valid: bool, name: &'static str, value: f64, expected: &'static str) {
        if !valid && self.error.is_none() {
            self.error = Some(Error::Hyper { optimizer: self.optimizer, name, value, expected });
        }
    }

    /// A learning rate, an epsilon, a weight decay.
    fn not_negative(&mut self, name: &'static str, value: f64) {
        let valid = value >= 0.0 && value.is_finite();
        self.that(valid, name, value, "finite and not negative");
    }

    /// The share of itself that an average keeps.
    fn decay(&mut self, name: &'static str, value: f64) {
        self.that((0.0..1.0).contains(&value), name, value, "at least 0 and less than 1");
    }

    /// What an RMS is clipped to.
    fn threshold(&mut self, name: &'static str, value: f64) {
        self.that(value > 0.0, name, value, "greater than 0 (infinity for no clipping)");
    }
}
