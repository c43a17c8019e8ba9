//! The GPU backend against the CPU, and against itself.
//!
//! `GRADSTEP_GPU=require|auto|off` says what happens where no adapter is found, see
//! `common/gate.rs`, and `GRADSTEP_ADAPTER` which one it must be. `GRADSTEP_SEED` sets the seed.
#![cfg(feature = "gpu")]

#[path = "../common/mod.rs"]
mod common;

mod definitions;
mod encoding;
mod errors;
#[cfg(feature = "export")]
mod export;
mod extremes;
mod foreign;
#[cfg(feature = "reference")]
mod golden;
mod limits;
mod lost;
mod run;
mod shaders;
mod state;
mod sums;
mod table;
mod vectors;
