//! The GPU backend: the same definitions as compute shaders, on the caller's own `wgpu` device.
//!
//! [`Gpu::new`] takes a device and a queue ([`Gpu::open`] finds one). [`Gpu::arena`] keeps
//! parameters, gradients and state of many tensors in a few large buffers of its own;
//! [`Gpu::foreign`] steps ranges of the caller's buffers. For named tensors in groups they are
//! [`Setup::gpu`](crate::Setup::gpu) and [`Setup::gpu_foreign`](crate::Setup::gpu_foreign). All of
//! them *encode* a step into the caller's `wgpu::CommandEncoder`: nothing is submitted, polled or
//! read back, so steps can be recorded ahead, and the caller's own passes can stand before and after
//! in the same submission.
//!
//! A shader takes four neighbouring columns at once, as vectors of 16 bytes, where they lie so: in memory
//! of the library always, but for matrices of an optimizer of which one has columns that four do not
//! divide; in the caller's buffers each tensor whose columns (of a vector: elements) four divide and whose
//! ranges begin at multiples of 16 bytes. Nothing depends on it but speed and the order of sums.
//!
//! Everything runs within WebGPU's default limits. Sums are made in a fixed order, without atomics,
//! so two runs on one device give equal bits. What a non-finite gradient does to its tensor is
//! unspecified.

mod arena;
mod device;
mod engine;
mod flat;
mod foreign;
mod many;
mod measure;
mod named;
mod ranges;
mod set;

pub use self::arena::{Arena, Region};
pub use self::device::Gpu;
pub use self::foreign::Foreign;
pub use self::many::GpuOptimizer;
pub use self::named::{GpuForeign, GpuRelease, GpuStepping};
/// The version of wgpu whose types stand in this interface; its major version is part of ours.
pub use wgpu;
