//! Optimizer mathematics for other people's tensors: CAME, Adafactor, SM3, AdamW and kin, each
//! written once, running as fused SIMD loops on the CPU and as fused WGSL shaders on any GPU.
//!
//! # One definition, two interpreters
//!
//! An optimizer is a function over the vocabulary of [`value`]: values that are `Copy`, operators,
//! reductions, named slots of state. See [`Definition`] for how one is written and [`optim`] for
//! those that are here. Nothing in it says where or how it runs.
//!
//! * **The tracer** ([`Graph`]) records the function as a graph. Every value has a
//!   [shape](value::Shape), from one number for all tensors (Host) to one per element (Full), and a
//!   *level*, the number of full-size reductions on the longest path to it.
//! * **The plan** ([`Plan`]) follows from the levels: which passes go over the elements, which of
//!   them share a trip through memory (a *sweep*), which *small* values are settled between them.
//!   It can be printed, and its bytes per parameter are asserted by tests.
//! * **The CPU** ([`cpu`]) runs the very same function on SIMD lanes. After inlining, everything but
//!   the arithmetic of one level is constant and vanishes; what is left is one fused loop.
//! * **The GPU** ([`gpu`]) runs WGSL that [`wgsl`] prints from the plan into one skeleton; the
//!   results are under `shaders/expanded/`.
//!
//! So no formula stands anywhere twice, and a new optimizer is some fifteen lines.
//!
//! # Decisions
//!
//! **No trait of array operations.** Operations on whole arrays cannot be fused; a step must cost
//! what its bytes cost. **No kernels per optimizer and backend.** Twins drift apart. **No virtual
//! machine and no macro language.** A tile interpreter over the same graph was two to five times
//! slower than lanes; a language of its own would hide the formula. **No fallible arithmetic.**
//! Errors belong to preparation ([`Error`]), never to `+`. **Recompute, do not spill.** A full-size
//! value that is needed at two levels is computed twice rather than stored. **Sums in a fixed
//! order.** Results on the CPU have the same bits on every instruction set and for every number of
//! threads; on one GPU, from run to run.
//!
//! # Where to begin
//!
//! The optimizers in [`optim`], in order of size; then [`value`], the rule in [`Plan`], one file of
//! `shaders/expanded/`; then the interpreters.
//!
//! ```
//! use gradstep::{Cpu, optim::Came};
//!
//! let mut came = Cpu::default().prepare::<f32, _>(Came::new(2e-4), [2, 3])?;
//! let mut w = [0.5, -0.2, 0.1, 0.3, 0.0, -0.4];
//! let g = [0.1, 0.2, -0.1, 0.3, -0.2, 0.1];
//! came.step(&mut w, &g)?;
//! println!("{}", came.plan());
//! # Ok::<(), gradstep::Error>(())
//! ```
//!
//! # Features
//!
//! `optimizers` (default): the built-in [optimizers](optim), of which each is a feature too. `gpu`
//! (default): the GPU backend on wgpu. `f64` (default): tensors of `f64` on the CPU, whose loops are two
//! fifths of what is compiled. `parallel` (default): large tensors on rayon's
//! threads. `patterns` (default): groups of tensors by globs and regular expressions. `reference`
//! (default): optimizers by the names and settings of their [reference
//! implementations](mod@reference). `checkpoint` (default): [state as files](mod@checkpoint).
//! `import`: the [state of PyTorch's optimizers](mod@import). `export`: a whole step [as WGSL and
//! JSON](mod@export), for programs that run it without this library. `serde`: hyper-parameters, shapes and
//! layouts. `log`: what is prepared, compiled, skipped, saved and loaded, to the `log` crate.
//! Without any of them the library is the definitions, the CPU on one thread and sets of tensors.
//!
//! # Small programs
//!
//! With `--cfg gradstep_compact` among the flags of the compiler (`RUSTFLAGS`), the CPU backend has one
//! loop for all definitions, which reads their plans, instead of compiled loops for each. It gives the
//! same bits in a few times the time, and takes kilobytes instead of megabytes: for WASM. Shaders are
//! printed without the comments of their skeleton.
//!
//! # In debug builds
//!
//! Lanes are hundreds of small functions inlined into each other, and without optimisation a step
//! is some hundred times slower. A program whose own code is not optimised wants
//! ```toml
//! [profile.dev.package.gradstep]
//! opt-level = 3
//! ```
//! and definitions of its own in a crate that is optimised likewise.

pub mod blocks;
#[cfg(any(feature = "gpu", feature = "export"))]
mod blueprint;
#[cfg(feature = "checkpoint")]
pub mod checkpoint;
pub mod cpu;
#[cfg(any(feature = "gpu", feature = "export"))]
mod cut;
#[cfg_attr(
    not(any(feature = "checkpoint", feature = "export", feature = "reference")),
    allow(dead_code, reason = "only texts are read")
)]
mod decimal;
mod definition;
mod error;
#[cfg(feature = "export")]
pub mod export;
#[cfg(feature = "gpu")]
pub mod gpu;
mod gradients;
mod host;
#[cfg(feature = "import")]
pub mod import;
#[cfg(any(feature = "checkpoint", feature = "export", feature = "reference"))]
#[doc(hidden)]
pub mod json;
mod layout;
mod logging;
pub mod optim;
mod plan;
#[cfg(feature = "reference")]
pub mod reference;
pub mod report;
mod schedule;
pub mod setup;
pub mod snapshot;
mod text;
mod trace;
pub mod value;
#[cfg_attr(
    not(any(feature = "gpu", feature = "export")),
    allow(dead_code, reason = "those who run the text read the places")
)]
pub mod wgsl;

/// The version of ndarray whose views stand in this interface; its version is part of ours.
pub use ndarray;

pub use crate::cpu::{Cpu, CpuOptimizer, CpuStep, Element, Isa, Outcome};
pub use crate::definition::{Definition, Levels, Optimizer, Recipe};
pub use crate::error::{Error, Result};
pub use crate::gradients::{Accumulation, Average, Gradients, LossScale};
pub use crate::layout::{Dims, Layout};
pub use crate::plan::{Buffer, Level, Plan, Sweep};
pub use crate::schedule::{Curve, OneCycle, Schedule};
pub use crate::setup::{Group, Groups, Key, Missing, Select, Setup, TensorId, TensorInfo};
pub use crate::snapshot::Snapshot;
pub use crate::trace::{Graph, Kind, Node, NodeId, Op, SlotId};

#[cfg(all(
    doctest,
    feature = "gpu",
    feature = "checkpoint",
    feature = "patterns",
    feature = "f64"
))]
#[doc = include_str!("../README.md")]
mod readme {}
