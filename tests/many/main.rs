//! Sets of named tensors: groups, gradients, averages, snapshots. What holds on each backend is
//! written once and runs on each.

#[path = "../common/mod.rs"]
mod common;

mod averages;
#[cfg(feature = "gpu")]
mod foreign;
mod gradients;
mod groups;
mod own_type;
mod release;
mod reports;
mod side;
mod snapshots;
