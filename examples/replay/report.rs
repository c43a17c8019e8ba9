//! The comparison, and what is printed and written.

use std::collections::HashMap;
use std::fmt::Write as _;

use gradstep::Optimizer;
use gradstep::reference::Reference;
use safetensors::Dtype;
use safetensors::tensor::{TensorView, serialize_to_file};
use serde_json::{Value as Json, json};

use super::recording::{Recording, Tensor};
use super::run::Replayed;
use super::{Backend, Options, Result};

/// A tensor against what is expected of it.
#[derive(Debug)]
pub(crate) struct Compared {
    name: String,
    shape: Vec<usize>,
    updates: u64,
    /// How many steps were compared.
    compared: usize,
    /// See the formula in the documentation of the example; 0 where nothing is compared.
    error: f64,
    /// The step of the greatest error.
    step: Option<usize>,
    /// The error if two roundings a step are allowed for: what `--tolerance` is held against.
    beyond_two: f64,
    /// The greatest relative error when nothing is allowed for the rounding of the parameter.
    plain: f64,
    /// Whether the expected displacement is at some step more than rounding explains, or there is none.
    checked: bool,
    /// What is rounded to.
    unit: f64,
    /// Where the error is not finite, for want of finite parameters: on which side.
    hint: Option<&'static str>,
}

fn norm(x: impl Iterator<Item = f64>) -> f64 {
    x.map(|x| x * x).sum::<f64>().sqrt()
}

const ALIKE: &str = "both are not finite, in the same places";

fn not_finite(found: &[f64], wanted: &[f64]) -> Option<&'static str> {
    let all = |x: &[f64]| x.iter().all(|x| x.is_finite());
    let mut pairs = found.iter().zip(wanted);
    match (all(found), all(wanted)) {
        (true, true) => None,
        (true, false) => Some("expected is not finite"),
        (false, true) => Some("ours is not finite"),
        _ if pairs.all(|(a, b)| a.is_finite() == b.is_finite()) => Some(ALIKE),
        _ => Some("both are not finite"),
    }
}

impl Compared {
    pub(crate) fn new(tensor: &Tensor, replayed: &Replayed, unit: f64) -> Self {
        let mut this = Self {
            name: tensor.name.clone(),
            shape: tensor.shape.clone(),
            updates: replayed.updates,
            compared: 0,
            error: 0.0,
            step: None,
            beyond_two: 0.0,
            plain: 0.0,
            checked: true,
            unit,
            hint: None,
        };
        let (mut seen, mut hidden) = (false, false);
        let mut farthest = 0.0f64;
        for (t, (found, wanted)) in replayed.trajectory.iter().zip(&tensor.expected).enumerate() {
            let Some(wanted) = wanted else { continue };
            this.compared += 1;
            // The difference of the displacements is that of the parameters.
            let difference = norm(found.iter().zip(wanted).map(|(a, b)| a - b));
            let moved = norm(wanted.iter().zip(&tensor.param).map(|(a, b)| a - b));
            farthest = farthest.max(moved);
            #[allow(clippy::cast_precision_loss, reason = "a number of steps")]
            let rounding = unit * (t + 1) as f64 * norm(wanted.iter().copied());
            // What is infinite or not a number equals nothing, itself neither.
            let relative = |beyond: f64| match difference.is_finite() {
                true if difference <= beyond => 0.0,
                true => (difference - beyond) / farthest,
                false => f64::INFINITY,
            };
            this.plain = this.plain.max(relative(0.0));
            this.beyond_two = this.beyond_two.max(relative(2.0 * rounding));
            if relative(rounding) > this.error {
                (this.error, this.step) = (relative(rounding), Some(t));
                this.hint = not_finite(found, wanted);
            }
            seen |= rounding < moved;
            hidden |= moved > 0.0;
        }
        this.checked = seen || !hidden;
        this
    }
}

impl Compared {
    /// The type whose rounding is allowed for.
    fn rounded_to(&self) -> &'static str {
        match 2.0 * self.unit {
            x if x == f64::EPSILON => "f64",
            x if x == f64::from(f32::EPSILON) => "f32",
            x if x == half::f16::EPSILON.to_f64() => "f16",
            _ => "bf16",
        }
    }

    pub(crate) fn passes(&self, tolerance: f64) -> bool {
        self.beyond_two.is_finite() && self.beyond_two <= tolerance
    }
}

pub(crate) struct Run<'a> {
    pub(crate) options: &'a Options,
    pub(crate) recording: &'a Recording,
    pub(crate) reference: &'a Reference,
    /// What whoever reads the report should know.
    pub(crate) notes: &'a [String],
}

impl Run<'_> {
    fn backend(&self) -> &'static str {
        match self.options.backend {
            Backend::Cpu => "cpu",
            Backend::Gpu => "gpu",
        }
    }

    fn precision(&self) -> &'static str {
        if self.options.f64 { "f64" } else { "f32" }
    }

    pub(crate) fn text(&self, compared: &[Compared], passed: bool) -> String {
        let entry = self.reference.entry();
        let mut text = format!(
            "{} as {}: {} steps on the {} in {}\n",
            self.reference.recipe().name(),
            entry.reference,
            self.recording.steps,
            self.backend().to_uppercase(),
            self.precision()
        );
        let tolerance = self.options.tolerance;
        let width = compared.iter().map(|c| c.name.chars().count()).max().unwrap_or(0).max(6);
        // Writing to a text cannot fail.
        let _ = writeln!(
            text,
            "{:width$}  {:16} updates  compared    plain  error beyond rounding",
            "tensor", "shape"
        );
        for c in compared {
            let shape = format!("{:?}", c.shape);
            let (updates, compared) = (c.updates, c.compared);
            let _ = write!(text, "{:width$}  {shape:16} {updates:7}  {compared:8}  ", c.name);
            let _ = match c.step {
                None if compared == 0 => writeln!(text, "       –  nothing expected"),
                None if !c.checked => writeln!(
                    text,
                    "{:8.1e}  not checked: rounding of {} covers the whole displacement",
                    c.plain,
                    c.rounded_to()
                ),
                None => writeln!(text, "{:8.1e}  none", c.plain),
                Some(t) => {
                    let rounded = c.error > tolerance && c.passes(tolerance);
                    let hint = match c.hint {
                        Some(hint) => format!(": {hint}"),
                        None if rounded => ", by rounding twice a step".into(),
                        None => String::new(),
                    };
                    writeln!(text, "{:8.1e}  {:.1e} at step {t}{hint}", c.plain, c.error)
                }
            };
        }
        let unchecked = compared.iter().filter(|c| c.step.is_none() && !c.checked).count();
        text += &match (passed, compared.iter().any(|c| c.compared > 0)) {
            (true, true) if unchecked > 0 => {
                format!("{unchecked} not checked, all others within {tolerance:e}")
            }
            (true, true) => format!("all within {tolerance:e}"),
            (true, false) => "nothing to compare with: the file has no expected/<t>/<name>".into(),
            (false, _) if compared.iter().all(|c| c.hint == Some(ALIKE) || c.passes(tolerance)) => {
                "FAILED: parameters are not finite, on both sides".into()
            }
            (false, _) => format!("FAILED: an error is above {tolerance:e}"),
        };
        text
    }

    /// An error that is not finite is null.
    pub(crate) fn json(&self, compared: &[Compared], passed: bool) -> Json {
        let tensors = compared.iter().map(|c| {
            json!({
                "name": c.name,
                "shape": c.shape,
                "updates": c.updates,
                "compared": c.compared,
                "error": c.error,
                "step": c.step,
                "error_beyond_two_roundings": c.beyond_two,
                "plain_error": c.plain,
                "checked": c.checked && c.compared > 0,
                "hint": c.hint,
                "passed": c.passes(self.options.tolerance),
            })
        });
        json!({
            "file": self.options.file.display().to_string(),
            "out": self.options.out.display().to_string(),
            "optimizer": self.reference.entry().name,
            "variant": self.reference.entry().variant,
            "reference": self.reference.entry().reference,
            "definition": self.reference.recipe().name(),
            "backend": self.backend(),
            "precision": self.precision(),
            "steps": self.recording.steps,
            "tolerance": self.options.tolerance,
            "compared": compared.iter().map(|c| c.compared).sum::<usize>(),
            "error": compared.iter().map(|c| c.error).fold(0.0, f64::max),
            "plain_error": compared.iter().map(|c| c.plain).fold(0.0, f64::max),
            "passed": passed,
            "notes": self.notes,
            "tensors": tensors.collect::<Vec<_>>(),
        })
    }
}

/// Writes trajectories and state.
pub(crate) fn write(run: &Run<'_>, replayed: &[Replayed]) -> Result<()> {
    let mut tensors: Vec<(String, &[usize], &[f64])> = Vec::new();
    for (tensor, replayed) in run.recording.tensors.iter().zip(replayed) {
        let name = &tensor.name;
        for (t, param) in replayed.trajectory.iter().enumerate() {
            tensors.push((format!("trajectory/{t}/{name}"), &tensor.shape, param));
        }
        for slot in &replayed.state {
            let key = format!("state/{name}/{}", slot.name);
            tensors.push((key, &slot.shape, &slot.values));
        }
    }
    #[allow(clippy::cast_possible_truncation, reason = "computed in f32, so nothing is lost")]
    let bytes = |x: &f64| match run.options.f64 {
        true => x.to_le_bytes().to_vec(),
        false => (*x as f32).to_le_bytes().to_vec(),
    };
    let dtype = if run.options.f64 { Dtype::F64 } else { Dtype::F32 };
    let data: Vec<Vec<u8>> =
        tensors.iter().map(|(.., values)| values.iter().flat_map(bytes).collect()).collect();
    let views = tensors.iter().zip(&data).map(|((name, shape, _), data)| {
        Ok((name.as_str(), TensorView::new(dtype, shape.to_vec(), data)?))
    });
    let views = views.collect::<Result<Vec<_>>>()?;
    let entry = run.reference.entry();
    let metadata = || {
        HashMap::from([
            ("definition".to_string(), run.reference.recipe().name().to_string()),
            ("optimizer".to_string(), entry.reference.to_string()),
            ("steps".to_string(), run.recording.steps.to_string()),
        ])
    };
    // A map is written in its order, which differs from map to map: the same run, the same bytes.
    let metadata = std::iter::repeat_with(metadata).find(|map| map.keys().is_sorted());
    let path = &run.options.out;
    serialize_to_file(views, metadata, path)
        .map_err(|e| format!("{} could not be written: {e}", path.display()).into())
}
