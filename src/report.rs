//! What steps do and what state takes: [`Stats`], [`Memory`].

use std::fmt;

use crate::snapshot::Snapshot;
use crate::trace::UPDATES;

/// What a step did to one tensor.
///
/// Made within the sweeps of the step, where the setup asks for it
/// ([`Setup::watch`](crate::Setup::watch)).
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Stats {
    /// Root mean square of the gradient as the optimizer saw it: unscaled and clipped.
    pub grad_rms: f64,
    /// Root mean square of the change of the parameter. (On a GPU it may be that of the change before
    /// the parameter was rounded: shaders may simplify `(w - u) - w`.)
    pub update_rms: f64,
    /// The share of elements that did not change, from 0 to 1.
    pub zero_updates: f64,
    /// What the optimizer reports of itself, by name: `clip_factor` (what the update was multiplied
    /// by to clip its RMS: [`Came`](crate::optim::Came), [`Adafactor`](crate::optim::Adafactor)),
    /// `mean_confidence` (the mean of what CAME multiplies the momentum of a matrix by, 1/√S).
    pub reports: Vec<(&'static str, f64)>,
}

impl Stats {
    /// From the means of [`UPDATES`].
    pub(crate) fn new(
        [grad, update, zero]: [f64; 3],
        reports: impl Iterator<Item = (&'static str, f64)>,
    ) -> Self {
        let reports = reports.filter(|r| !UPDATES.contains(&r.0)).collect();
        Self { grad_rms: grad.sqrt(), update_rms: update.sqrt(), zero_updates: zero, reports }
    }

    /// A report of the optimizer by name.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<f64> {
        self.reports.iter().find(|r| r.0 == name).map(|r| r.1)
    }
}

impl fmt::Display for Stats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { grad_rms, update_rms, zero_updates, reports } = self;
        write!(f, "gradient {grad_rms:.3e}, update {update_rms:.3e}, {zero_updates:.3} unchanged")?;
        reports.iter().try_for_each(|(name, x)| write!(f, ", {name} {x:.4}"))
    }
}

/// What the state of an optimizer takes, tensor by tensor. Printable.
///
/// Parameters and gradients are not state. What a step needs on its way is left out: partial sums,
/// work lists, rows at hand, and the space between tensors in large buffers.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Memory {
    /// The tensors, in order.
    pub tensors: Vec<TensorMemory>,
    /// Bytes of the copy on a GPU by way of which averages are swapped with parameters.
    pub spare: usize,
    /// Bytes of the copies of gradients that are measured on a GPU, where there are many in the caller's
    /// own buffers: see [`Setup::measure_in_place`](crate::Setup#method.measure_in_place).
    pub gathered: usize,
}

/// What the state of a tensor takes.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct TensorMemory {
    /// Its name.
    pub name: String,
    /// The name of its group.
    pub group: String,
    /// Bytes of the parameter, and of the gradient.
    pub param: usize,
    /// Bytes of each slot, by name; averages are among them.
    pub slots: Vec<(String, usize)>,
    /// Bytes of the sum of its gradients, where they are accumulated.
    pub sum: usize,
    /// What AdamW would take: two numbers for each element. 0 for a frozen tensor.
    pub adamw: usize,
}

impl TensorMemory {
    /// Bytes of all slots and of the sum of gradients.
    #[must_use]
    pub fn state(&self) -> usize {
        self.slots.iter().map(|s| s.1).sum::<usize>() + self.sum
    }
}

impl Memory {
    /// From the outline of a snapshot, whose tensors are active or frozen.
    pub(crate) fn new(
        outline: &Snapshot,
        bytes: usize,
        active: impl Fn(usize) -> bool,
        sums: bool,
        spare: usize,
    ) -> Self {
        let size = |shape: &[usize]| bytes * shape.iter().product::<usize>();
        let tensors = outline.tensors.iter().enumerate().map(|(i, t)| TensorMemory {
            name: t.name.clone(),
            group: outline.groups.get(t.group).map(|g| g.name.clone()).unwrap_or_default(),
            param: size(&t.shape),
            slots: t.slots.iter().map(|s| (s.name.clone(), size(&s.shape))).collect(),
            sum: if sums && active(i) { size(&t.shape) } else { 0 },
            adamw: if active(i) { 2 * size(&t.shape) } else { 0 },
        });
        Self { tensors: tensors.collect(), spare, gathered: 0 }
    }

    /// Bytes of all slots and sums of all tensors, and of the copies for swaps and of gradients.
    #[must_use]
    pub fn state(&self) -> usize {
        let tensors: usize = self.tensors.iter().map(TensorMemory::state).sum();
        tensors + self.spare + self.gathered
    }

    /// Bytes that AdamW would take for the same tensors.
    #[must_use]
    pub fn adamw(&self) -> usize {
        self.tensors.iter().map(|t| t.adamw).sum()
    }
}

impl fmt::Display for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let width = self.tensors.iter().map(|t| t.name.chars().count()).max().unwrap_or(0).max(6);
        writeln!(f, "{:width$} {:>12} {:>12} {:>12}  slots", "tensor", "bytes", "state", "AdamW")?;
        for t in &self.tensors {
            let mut slots: Vec<_> = t.slots.iter().map(|(name, n)| format!("{name} {n}")).collect();
            if t.sum > 0 {
                slots.push(format!("sum of gradients {}", t.sum));
            }
            let (name, param, state, adamw) = (&t.name, t.param, t.state(), t.adamw);
            let slots = slots.join(", ");
            writeln!(f, "{name:width$} {param:12} {state:12} {adamw:12}  {slots}")?;
        }
        for (name, bytes) in [("(swaps)", self.spare), ("(gathered)", self.gathered)] {
            if bytes > 0 {
                writeln!(f, "{name:width$} {:>12} {bytes:12}", "")?;
            }
        }
        let param: usize = self.tensors.iter().map(|t| t.param).sum();
        write!(f, "{:width$} {param:12} {:12} {:12}", "all", self.state(), self.adamw())
    }
}
