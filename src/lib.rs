//! gradstep
pub mod blocks;
pub mod cpu;
mod definition;
mod error;
#[cfg(feature = "gpu")]
pub mod gpu;
mod host;
mod layout;
pub mod optim;
mod plan;
mod trace;
pub mod value;
pub mod wgsl;

pub use crate::cpu::{Cpu, CpuStep, Element, Isa};
pub use crate::definition::{Definition, Levels, Optimizer, Recipe};
pub use crate::error::{Error, Result};
pub use crate::layout::{Dims, Layout};
pub use crate::plan::{Buffer, Level, Plan, Sweep};
pub use crate::trace::{Graph, Kind, Node, NodeId, Op, SlotId};
