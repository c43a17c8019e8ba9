//! The one error type. Each message says what was wrong, with both values, and what to do.

use crate::decimal::plain;
use crate::text::{extents, joined};
use crate::value::Shape;

/// Everything that can go wrong. Nothing in the library panics on a caller's input, and an error
/// leaves parameters, state and the step number as they were, but for two: of a step that changes
/// tensor after tensor ([`CpuRelease`](crate::cpu::CpuRelease), on the GPU `GpuRelease`) those before
/// it have changed, and what [`DeviceLost`](Self::DeviceLost) or [`Gpu`](Self::Gpu) interrupts may be
/// done in part.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A hyper-parameter is out of its range.
    #[error("hyper-parameter `{name}` of {optimizer} is {}; it must be {expected}", plain(*value))]
    Hyper {
        /// The optimizer's name.
        optimizer: &'static str,
        /// The hyper-parameter's name.
        name: &'static str,
        /// Its value.
        value: f64,
        /// What it may be.
        expected: &'static str,
    },
    /// A definition breaks a rule of the vocabulary. Found when it is traced.
    #[error("the definition of {definition} is not valid: {problem}; {remedy}")]
    Definition {
        /// The definition's name.
        definition: &'static str,
        /// What it does, with the slot's or operation's name and place.
        problem: String,
        /// What to do instead.
        remedy: String,
    },
    /// Settings were changed after preparation in a way that changes the structure of the step.
    #[error(
        "{optimizer} was prepared for other settings: {what}; prepare it anew, only \
         hyper-parameters that are numbers may change between steps"
    )]
    Structure {
        /// The optimizer's name.
        optimizer: &'static str,
        /// What changed.
        what: String,
    },
    /// A tensor has another shape than the one that was registered.
    #[error(
        "the {what} has shape {}, but {} was registered; pass a tensor of the registered shape",
        extents(found),
        extents(expected)
    )]
    Shape {
        /// Which tensor: parameter, gradient or slot.
        what: String,
        /// The registered shape.
        expected: Vec<usize>,
        /// The shape that was given (a slice has one dimension).
        found: Vec<usize>,
    },
    /// A shape has more elements than can be addressed.
    #[error("shape {} has {problem}; split the tensor", extents(shape))]
    TooLarge {
        /// The shape.
        shape: Vec<usize>,
        /// What is too large, with the limit.
        problem: String,
    },
    /// A slot that does not exist, or has another size.
    #[error("{definition} has no slot `{name}`; its slots are {known}")]
    NoSlot {
        /// The definition's name.
        definition: &'static str,
        /// The name asked for.
        name: String,
        /// The names that exist.
        known: String,
    },
    /// The number of tensors differs from the number registered.
    #[error("{found} {what} were given, but {expected} are registered; pass one for each")]
    Count {
        /// What is counted.
        what: &'static str,
        /// The number registered.
        expected: usize,
        /// The number given.
        found: usize,
    },
    /// Something in the description of tensors, groups and gradients does not fit together.
    #[error("{what}: {problem}; {remedy}")]
    Setup {
        /// Which part.
        what: String,
        /// What is wrong with it, with both values.
        problem: String,
        /// What to do.
        remedy: String,
    },
    /// A hyper-parameter, a definition or a shape of one part of a set is not valid:
    /// [`Hyper`](Self::Hyper), [`Definition`](Self::Definition) or [`TooLarge`](Self::TooLarge).
    #[error("{part}: {error}")]
    In {
        /// The group or the tensor.
        part: String,
        /// What is wrong with it.
        error: Box<Self>,
    },
    /// A tensor was named that does not fit the step.
    #[error("tensor `{tensor}` {problem}; {remedy}")]
    Tensor {
        /// Its name.
        tensor: String,
        /// What is wrong.
        problem: String,
        /// What to do.
        remedy: &'static str,
    },
    /// Saved state does not fit the optimizer that is to take it.
    #[error(
        "the saved state does not fit this optimizer: {}; restore it into an optimizer of the same \
         tensors and groups",
        joined(problems.iter().map(String::as_str), "; ")
    )]
    Snapshot {
        /// Everything that is missing, unexpected or different.
        problems: Vec<String>,
    },
    /// An optimizer was asked for by a name that none has.
    #[error("no optimizer is called `{name}`; there are {known}")]
    NoOptimizer {
        /// The name.
        name: String,
        /// The names that there are.
        known: String,
    },
    /// A setting of a reference implementation that is unknown, of another type, or without a
    /// counterpart.
    #[error("the setting `{setting}` of {optimizer} {problem}; the settings are {known}")]
    Setting {
        /// The optimizer's name.
        optimizer: &'static str,
        /// The setting's name.
        setting: String,
        /// What is wrong with it.
        problem: String,
        /// The settings that there are, with their defaults.
        known: String,
    },
    /// A file of another library's state is not as it should be.
    #[error("{what} {problem}; {remedy}")]
    Import {
        /// Which part of the file.
        what: String,
        /// What is wrong with it.
        problem: String,
        /// What to do.
        remedy: &'static str,
    },
    /// A checkpoint cannot be written or read.
    #[error("the checkpoint: {problem}; {remedy}")]
    Checkpoint {
        /// What is wrong, with both values.
        problem: String,
        /// What to do.
        remedy: &'static str,
    },
    /// The instruction set that was asked for is not on this processor.
    #[error(
        "this processor has no {wanted}; use `Isa::detect()` or one of [\"{}\"]",
        joined(available.iter().copied(), "\", \"")
    )]
    Isa {
        /// The instruction set asked for.
        wanted: &'static str,
        /// What the processor has.
        available: Vec<&'static str>,
    },
    /// The thread pool could not be made.
    #[error("a pool of {threads} threads could not be made ({reason}); ask for fewer threads")]
    Threads {
        /// The number asked for.
        threads: usize,
        /// The reason given by the system.
        reason: String,
    },
    /// No graphics adapter can be used.
    #[error(
        "no usable graphics adapter: install a driver (on Debian and Ubuntu the package \
         mesa-vulkan-drivers has a software one) or use the CPU backend ({reason})"
    )]
    NoAdapter {
        /// The reason given by wgpu.
        reason: String,
    },
    /// The graphics device is gone.
    #[error(
        "the graphics device is lost ({reason}): its buffers are gone with it; make a new device \
         and restore parameters and state from the last copy on the host"
    )]
    DeviceLost {
        /// The reason, as far as it is known.
        reason: String,
    },
    /// Something does not fit the limits of the device.
    #[error("{what} needs {needed}, but the device's `{limit}` is {available}; {remedy}")]
    GpuLimit {
        /// What does not fit.
        what: String,
        /// What it needs.
        needed: u64,
        /// The limit's name in WebGPU.
        limit: &'static str,
        /// The limit's value.
        available: u64,
        /// What to do.
        remedy: &'static str,
    },
    /// A buffer of the caller cannot be used as it is.
    #[error("the {what} buffer of tensor {tensor} cannot be used: {problem}; {remedy}")]
    Buffer {
        /// Parameter or gradient.
        what: &'static str,
        /// The index of the tensor.
        tensor: usize,
        /// What is wrong with it, with both values.
        problem: String,
        /// What to do.
        remedy: &'static str,
    },
    /// More steps were encoded than the device has finished.
    #[error(
        "{in_flight} encoded steps are not finished and the ring holds {capacity}; submit them \
         and poll the device, or ask for a larger ring"
    )]
    RingFull {
        /// Encoded steps that are not finished.
        in_flight: usize,
        /// Slots of the ring.
        capacity: usize,
    },
    /// The GPU backend refused something that should have been right.
    #[error(
        "the graphics device refused {what}: {reason}; please report this with the adapter's name"
    )]
    Gpu {
        /// What was being done.
        what: String,
        /// The message of wgpu.
        reason: String,
    },
}

/// The library's result.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// With the name of the group or the tensor, where it has none.
    pub(crate) fn of(self, what: &str, name: &str) -> Self {
        match self {
            Self::Hyper { .. } | Self::Definition { .. } | Self::TooLarge { .. } => {
                Self::In { part: format!("{what} `{name}`"), error: Box::new(self) }
            }
            other => other,
        }
    }

    pub(crate) fn shape_clash(
        definition: &'static str,
        slot: &str,
        expected: Shape,
        found: Shape,
        place: &str,
    ) -> Self {
        Self::Definition {
            definition,
            problem: format!(
                "slot `{slot}` has shape {expected} but is given a value of shape {found} at {place}"
            ),
            remedy: format!(
                "reduce the value to {expected} first, or declare the slot with shape {}",
                expected.join(found)
            ),
        }
    }
}
