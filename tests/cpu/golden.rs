//! The official codes' trajectories, step by step. See `tests/golden/README.md`.

use std::collections::BTreeMap;
use std::path::Path;

use gradstep::reference::Reference;
use gradstep::{Cpu, Optimizer as _};
use safetensors::{Dtype, SafeTensors};
use serde_json::Value as Json;

use crate::common::oracle::Oracle;
use crate::common::run::{Number, narrow, widen};
use crate::common::tolerance::{
    self, F32, F64, OFFICIAL_F32, OFFICIAL_F64, ONE_PLACE, ONE_PLACE_FOR, Tolerance, What,
};

/// One file: tensors as `f64` by name, shapes, metadata.
struct File {
    tensors: BTreeMap<String, (Vec<usize>, Vec<f64>)>,
    settings: Json,
    optimizer: String,
}

fn read(case: &str) -> File {
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

const CASES: [&str; 19] = [
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
fn settings(file: &File, epsilon: f64) -> Reference {
    let settings = file.settings.as_object().expect("an object of settings");
    Reference::with_epsilon(&file.optimizer, settings, epsilon).expect("known settings")
}

/// SM3 keeps one accumulator per axis in its paper. Beyond two axes this library keeps those of
/// rows and columns: a documented deviation.
fn deviates(case: &str, tensor: &str) -> bool {
    case.starts_with("po_sm3") && ["conv_2x3x3x2", "batch_3x5x4"].contains(&tensor)
}

/// Our slots under the official names, where those differ.
fn slot_name<'a>(case: &str, official: &'a str) -> &'a str {
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

fn tensors(inputs: &File) -> impl Iterator<Item = (&str, &[usize], &[f64])> {
    inputs.tensors.iter().filter_map(|(key, (shape, data))| {
        Some((key.strip_prefix("p0/")?, shape.as_slice(), data.as_slice()))
    })
}

/// Steps `T` on the CPU and compares with every stored step of `precision`; returns how many.
fn cpu_follows<T: Number>(case: &str, precision: &str, test: &str) -> usize {
    let (inputs, file) = (read("inputs"), read(case));
    let (tolerance, epsilon) = if T::UNIT == F64 {
        (OFFICIAL_F64, f64::EPSILON)
    } else {
        (OFFICIAL_F32, f32::EPSILON.into())
    };
    let mut compared = 0;
    for (name, shape, start) in tensors(&inputs) {
        if deviates(case, name) {
            continue;
        }
        let reference = settings(&file, epsilon);
        let layout = reference.layout();
        let mut opt =
            Cpu::default().prepare_with::<T, _>(reference, shape, layout).expect("valid settings");
        let mut oracle = Oracle::new(opt.dims());
        let (mut p, mut exact) = (narrow::<T>(start), start.to_vec());
        let (mut moved, mut exact_moved) = (0.0, 0.0);
        let label = format!("{case} {name}");
        let one_place = ONE_PLACE_FOR == [case, name];
        let roundings = if one_place { ONE_PLACE } else { tolerance.roundings };
        let tolerance = Tolerance { roundings, ..tolerance };
        for t in 0..24 {
            let g = &inputs.tensors[&format!("grad/{t}/{name}")].1;
            opt.step(&mut p, &narrow::<T>(g)).expect("a step");
            let what = What { case: &label, shape, seed: 0, step: t + 1, test };
            let stored = file.tensors.get(&format!("{precision}/trajectory/{t}/{name}"));
            if let Some((_, wanted)) = stored {
                tolerance::check(tolerance, T::UNIT, &what, &mut moved, start, &widen(&p), wanted);
                compared += 1;
            }
            if T::UNIT == F64 {
                let (graph, hyper) = (&opt.plan().graph, opt.optimizer());
                oracle.step_graph(
                    graph,
                    &|name| hyper.hyper(name).unwrap_or(f64::NAN),
                    &mut exact,
                    g,
                );
                if let Some((_, wanted)) = stored {
                    tolerance::check(
                        tolerance,
                        F64,
                        &what,
                        &mut exact_moved,
                        start,
                        &exact,
                        wanted,
                    );
                }
            }
        }
        // The final state, which is stored in f32.
        let prefix = format!("f32/state/{name}/");
        for (key, (_, wanted)) in file.tensors.range(prefix.clone()..) {
            let Some(official) = key.strip_prefix(&prefix) else { break };
            // The step number and a root mean square that nothing reads.
            if ["step", "RMS"].contains(&official) || T::UNIT != F32 {
                continue;
            }
            // SM3's official code keeps a momentum of zero as a buffer.
            if case == "po_sm3" && official == "momentum_buffer" {
                continue;
            }
            let slot = slot_name(case, official);
            let found = widen(&opt.slot(slot).unwrap_or_else(|e| panic!("{label}: {e}")));
            let what = What { case: &label, shape, seed: 0, step: 24, test };
            // Gradients of up to 1e2 have passed through it.
            let mut size = 0.0;
            if ["exp_avg", "momentum_buffer"].contains(&slot) {
                size = wanted.iter().fold(0.0f64, |a, b| a.max(b.abs()))
                    * (wanted.len() as f64).sqrt();
            }
            tolerance::check_slot(OFFICIAL_F32, F32, &what, slot, &mut size, &found, wanted);
        }
    }
    compared
}

#[test]
fn every_golden_file_is_a_case() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    for entry in std::fs::read_dir(folder).expect("the folder") {
        let name = entry.expect("an entry").file_name().into_string().expect("UTF-8");
        if let Some(case) = name.strip_suffix(".safetensors") {
            assert!(case == "inputs" || CASES.contains(&case), "{case} is not tested");
        }
    }
}

#[test]
fn cpu_and_oracle_in_f64_follow_the_official_f64() {
    for case in CASES {
        let n = cpu_follows::<f64>(case, "f64", "cpu_and_oracle_in_f64_follow_the_official_f64");
        assert_eq!(n, 6 * if case.starts_with("po_sm3") { 10 } else { 12 }, "{case}");
    }
}

#[test]
fn cpu_in_f32_follows_the_official_f32() {
    for case in CASES {
        let n = cpu_follows::<f32>(case, "f32", "cpu_in_f32_follows_the_official_f32");
        assert_eq!(n, 24 * if case.starts_with("po_sm3") { 10 } else { 12 }, "{case}");
    }
}

/// FNV-1a over the bits of all parameters after each step, for every case and tensor.
fn bits_of(case: &str) -> serde_json::Map<String, Json> {
    let (inputs, file) = (read("inputs"), read(case));
    let mut hashes = serde_json::Map::new();
    for (name, shape, start) in tensors(&inputs).filter(|(name, ..)| !deviates(case, name)) {
        let reference = settings(&file, f32::EPSILON.into());
        let layout = reference.layout();
        let mut opt =
            Cpu::default().prepare_with::<f32, _>(reference, shape, layout).expect("valid");
        let mut p = narrow::<f32>(start);
        let mut hash = 0x811c_9dc5_u32;
        for t in 0..24 {
            let g = narrow::<f32>(&inputs.tensors[&format!("grad/{t}/{name}")].1);
            opt.step(&mut p, &g).expect("a step");
            for byte in p.iter().flat_map(|x| x.to_le_bytes()) {
                hash = (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193);
            }
        }
        hashes.insert(name.into(), hash.into());
    }
    hashes
}

/// Equal bits are a promise, on every instruction set: those on record are what the tests of the
/// package for browsers compare with. `GRADSTEP_UPDATE=1` writes them.
#[test]
fn the_bits_of_f32_are_those_on_record() {
    let found: serde_json::Map<_, _> =
        CASES.iter().map(|case| (case.to_string(), bits_of(case).into())).collect();
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/bits.json");
    let text = serde_json::to_string_pretty(&Json::Object(found)).expect("JSON") + "\n";
    if std::env::var_os("GRADSTEP_UPDATE").is_some() {
        std::fs::write(&path, &text).expect("written");
    }
    let wanted = std::fs::read_to_string(&path).expect("the file");
    assert!(text == wanted, "other bits than those of {path:?}; GRADSTEP_UPDATE=1 writes them");
}
