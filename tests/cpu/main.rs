//! The CPU backend against the oracle, the official codes, and itself.
//!
//! `GRADSTEP_SEED` sets the seed, `GRADSTEP_CASES` the number of random cases.

#![allow(clippy::cast_possible_truncation, reason = "numbers are rounded to f32 on purpose")]

#[path = "../common/mod.rs"]
mod common;

mod accuracy;
mod bits;
mod definitions;
mod errors;
mod extremes;
#[cfg(feature = "reference")]
mod golden;
mod oracle;
mod plans;
mod properties;
mod table;
mod views;
