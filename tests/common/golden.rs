//! The official codes' trajectories. See `tests/golden/README.md`.

use std::collections::BTreeMap;
use std::path::Path;

use gradstep::reference::Reference;
use safetensors::{Dtype, SafeTensors};
use serde_json::Value as Json;

use super::run::{narrow, widen};
use super::tolerance::{self, F32, OFFICIAL_F32, ONE_PLACE, ONE_PLACE_FOR, Tolerance, What};

/// Steps in each of them.
pub const STEPS: u64 = 24;

/// One file: tensors as `f64` by name, shapes, metadata.
pub struct File {
    pub tensors: BTreeMap<String, (Vec<usize>, Vec<f64>)>,
    pub settings: Json,
    pub optimizer: String,
}

pub fn read(case: &str) -> File {
    let path =
        Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/golden/{case}.safetensors"));
    let bytes = std::fs::read(&path).unwrap_or_else(|e| panic!("{path:?}: {e}"));
    let (_, header) = SafeTensors::read_metadata(&bytes).expect("a header");
    let metadata = header.metadata().clone().expect("metadata");
    let file = SafeTensors::deserialize(&bytes).expect("a safetensors file");
    let tensors = file.tensors().into_iter().map(|(name, t)| {
        let data = match t.dtype() {
            Dtype::F32 => t
                .data()
                .chunks(4)
                .map(|b| f64::from(f32::from_le_bytes(b.try_into().expect("4 bytes"))))
                .collect(),
            Dtype::F64 => t
                .data()
                .chunks(8)
                .map(|b| f64::from_le_bytes(b.try_into().expect("8 bytes")))
                .collect(),
            other => panic!("{name} is {other:?}"),
        };
        (name, (t.shape().to_vec(), data))
    });
    File {
        tensors: tensors.collect(),
        settings: metadata
            .get("settings_with_defaults")
            .map_or(Json::Null, |s| serde_json::from_str(s).expect("JSON")),
        optimizer: metadata.get("optimizer").cloned().unwrap_or_default(),
    }
}

pub const CASES: [&str; 19] = [
    "came_default",
    "came_wd",
    "came_betas",
    "torch_sgd_plain",
    "torch_sgd_momentum",
    "torch_sgd_nesterov",
    "torch_adam",
    "torch_adam_l2",
    "torch_adam_amsgrad",
    "torch_adamw",
    "torch_adamw_amsgrad",
    "torch_adafactor_default",
    "torch_adafactor_wd",
    "hf_adafactor_default",
    "hf_adafactor_lr",
    "hf_adafactor_momentum",
    "hf_adafactor_warmup",
    "po_sm3",
    "po_sm3_momentum",
];

/// This library's settings for the official ones. `epsilon` is that of the official run's type.
pub fn settings(file: &File, epsilon: f64) -> Reference {
    let settings = file.settings.as_object().expect("an object of settings");
    Reference::with_epsilon(&file.optimizer, settings, epsilon).expect("known settings")
}

/// SM3 keeps one accumulator per axis in its paper. Beyond two axes this library keeps those of
/// rows and columns: a documented deviation.
pub fn deviates(case: &str, tensor: &str) -> bool {
    case.starts_with("po_sm3") && ["conv_2x3x3x2", "batch_3x5x4"].contains(&tensor)
}

/// Our slots under the official names, where those differ.
pub fn slot_name<'a>(case: &str, official: &'a str) -> &'a str {
    if !case.starts_with("torch_adafactor") {
        return official;
    }
    match official {
        "row_var" => "exp_avg_sq_row",
        "col_var" => "exp_avg_sq_col",
        "variance" => "exp_avg_sq",
        other => other,
    }
}

pub fn tensors(inputs: &File) -> impl Iterator<Item = (&str, &[usize], &[f64])> {
    inputs.tensors.iter().filter_map(|(key, (shape, data))| {
        Some((key.strip_prefix("p0/")?, shape.as_slice(), data.as_slice()))
    })
}

/// The tolerance for a tensor of a case.
pub fn allowed(tolerance: Tolerance, case: &str, tensor: &str) -> Tolerance {
    let one_place = ONE_PLACE_FOR == [case, tensor];
    Tolerance { roundings: if one_place { ONE_PLACE } else { tolerance.roundings }, ..tolerance }
}

/// The state after the last step, of which `slot` gives each, equals the official one, which is stored
/// in `f32`.
pub fn check_state(
    case: &str,
    tensor: &str,
    shape: &[usize],
    file: &File,
    test: &str,
    found: impl Fn(&str) -> Vec<f64>,
) {
    let label = format!("{case} {tensor}");
    let prefix = format!("f32/state/{tensor}/");
    for (key, (_, wanted)) in file.tensors.range(prefix.clone()..) {
        let Some(official) = key.strip_prefix(&prefix) else { break };
        // The step number and a root mean square that nothing reads.
        if ["step", "RMS"].contains(&official) {
            continue;
        }
        // SM3's official code keeps a momentum of zero as a buffer.
        if case == "po_sm3" && official == "momentum_buffer" {
            continue;
        }
        let slot = slot_name(case, official);
        let what = What { case: &label, shape, seed: 0, step: STEPS, test };
        // Gradients of up to 1e2 have passed through it.
        let mut size = 0.0;
        if ["exp_avg", "momentum_buffer"].contains(&slot) {
            size = wanted.iter().fold(0.0f64, |a, b| a.max(b.abs())) * (wanted.len() as f64).sqrt();
        }
        tolerance::check_slot(OFFICIAL_F32, F32, &what, slot, &mut size, &found(slot), wanted);
    }
}

/// What a device does with a case: its parameters in order after each step, and their slots at the end.
pub trait Stepper {
    fn step(&mut self, grads: &[Vec<f32>]) -> Vec<Vec<f32>>;
    fn slot(&self, tensor: usize, name: &str) -> Vec<f32>;
}

/// A tensor of a case: its name, shape and first values.
pub type Start = (String, Vec<usize>, Vec<f32>);

/// Steps all cases in `f32`, each by what `make` makes of it, and compares with every stored step.
pub fn follow_all<S: Stepper>(test: &str, make: impl Fn(Reference, &[Start]) -> S) {
    let inputs = read("inputs");
    for case in CASES {
        let file = read(case);
        let all: Vec<Start> = tensors(&inputs)
            .filter(|(name, ..)| !deviates(case, name))
            .map(|(name, shape, start)| (name.into(), shape.to_vec(), narrow(start)))
            .collect();
        let mut stepper = make(settings(&file, f32::EPSILON.into()), &all);
        let mut moved = vec![0.0; all.len()];
        let mut compared = 0;
        for t in 0..STEPS {
            let grad = |(name, ..): &Start| narrow(&inputs.tensors[&format!("grad/{t}/{name}")].1);
            let found = stepper.step(&all.iter().map(grad).collect::<Vec<_>>());
            for (i, (name, shape, start)) in all.iter().enumerate() {
                let stored = file.tensors.get(&format!("f32/trajectory/{t}/{name}"));
                let Some((_, wanted)) = stored else { continue };
                let label = format!("{case} {name}");
                let what = What { case: &label, shape, seed: 0, step: t + 1, test };
                let tolerance = allowed(OFFICIAL_F32, case, name);
                let (start, found) = (widen(start), widen(&found[i]));
                tolerance::check(tolerance, F32, &what, &mut moved[i], &start, &found, wanted);
                compared += 1;
            }
        }
        assert_eq!(compared, 24 * if case.starts_with("po_sm3") { 10 } else { 12 }, "{case}");
        for (i, (name, shape, _)) in all.iter().enumerate() {
            check_state(case, name, shape, &file, test, |slot| widen(&stepper.slot(i, slot)));
        }
    }
}
