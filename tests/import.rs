//! State of PyTorch's optimizers goes on here as it does there: `tests/golden/state.py`.
#![cfg(feature = "import")]
#![allow(clippy::cast_possible_truncation, reason = "numbers are rounded to f32 on purpose")]

mod common;

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use gradstep::import::{Torch, torch};
use gradstep::snapshot::{Snapshot, Values};
use gradstep::{Cpu, Optimizer};
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};

use common::run::{Number, narrow, widen};
use common::tolerance::{self, OFFICIAL_F32, What};

const CASES: [&str; 7] =
    ["adafactor_hf", "adafactor_torch", "adam", "adamw_groups", "came", "sgd", "sm3"];
/// Steps before the state was saved and after it.
const BEFORE: u64 = 7;
const AFTER: u64 = 6;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/state")
}

fn bytes(case: &str) -> Vec<u8> {
    let path = folder().join(format!("{case}.safetensors"));
    std::fs::read(&path).unwrap_or_else(|e| panic!("{path:?}: {e}"))
}

fn values(bytes: &[u8], key: &str) -> Vec<f64> {
    let file = SafeTensors::deserialize(bytes).expect("a file");
    let tensor = file.tensor(key).unwrap_or_else(|e| panic!("{key}: {e}"));
    assert_eq!(tensor.dtype(), Dtype::F32, "{key}");
    tensor.data().as_chunks().0.iter().map(|&b| f32::from_le_bytes(b).into()).collect()
}

/// A file that can be changed.
struct File {
    tensors: Vec<(String, Dtype, Vec<usize>, Vec<u8>)>,
    metadata: HashMap<String, String>,
}

impl File {
    fn of(case: &str) -> Self {
        let bytes = bytes(case);
        let (_, header) = SafeTensors::read_metadata(&bytes).expect("a header");
        let file = SafeTensors::deserialize(&bytes).expect("a file");
        let own = |(name, t): (String, TensorView<'_>)| {
            (name, t.dtype(), t.shape().to_vec(), t.data().to_vec())
        };
        let metadata = header.metadata().clone().expect("metadata");
        Self { tensors: file.tensors().into_iter().map(own).collect(), metadata }
    }

    fn bytes(&self) -> Vec<u8> {
        let views = self.tensors.iter().map(|(name, dtype, shape, data)| {
            (name, TensorView::new(*dtype, shape.clone(), data).expect("a tensor"))
        });
        safetensors::serialize(views, Some(self.metadata.clone())).expect("a file")
    }

    fn get(&mut self, name: &str) -> &mut (String, Dtype, Vec<usize>, Vec<u8>) {
        let found = self.tensors.iter_mut().find(|t| t.0 == name);
        found.unwrap_or_else(|| panic!("no tensor {name}"))
    }

    fn without(mut self, prefix: &str) -> Self {
        let before = self.tensors.len();
        self.tensors.retain(|t| !t.0.starts_with(prefix));
        assert!(self.tensors.len() < before, "nothing begins with {prefix}");
        self
    }

    fn settings(&mut self, from: &str, to: &str) {
        let settings = self.metadata.get_mut("settings").expect("settings");
        assert!(settings.contains(from), "{from} in {settings}");
        *settings = settings.replace(from, to);
    }
}

/// Parameters of a snapshot, by tensor.
fn params<T: Number>(snapshot: &Snapshot) -> Vec<Vec<T>> {
    let param = |t: &gradstep::snapshot::TensorState| t.param.as_ref().expect("a value").to::<T>();
    snapshot.tensors.iter().map(param).collect()
}

/// Goes on from a file and compares with the official code. Returns the number of comparisons.
fn goes_on<T: Number>(case: &str, test: &str) -> usize {
    let bytes = bytes(case);
    let imported = Torch::read(&bytes).expect(case);
    let snapshot = imported.snapshot().expect(case);
    assert_eq!(snapshot.step, BEFORE, "{case}");
    let mut optimizer = imported.setup().cpu::<T>(&Cpu::default()).expect(case);
    optimizer.restore(&snapshot).expect(case);
    let mut params = params::<T>(&snapshot);
    let start: Vec<Vec<f64>> = params.iter().map(|p| widen(p)).collect();
    let mut moved = vec![0.0; params.len()];
    let mut compared = 0;
    for t in 0..AFTER {
        let grad = |name: &str| narrow::<T>(&values(&bytes, &format!("grad/{t}/{name}")));
        let grads: Vec<_> = snapshot.tensors.iter().map(|s| grad(&s.name)).collect();
        let mut step = optimizer.begin();
        for ((s, p), g) in snapshot.tensors.iter().zip(&mut params).zip(&grads) {
            step.tensor(&s.name, p.as_mut_slice(), g.as_slice())
                .unwrap_or_else(|e| panic!("{case}: {e}"));
        }
        step.finish().expect(case);
        for (i, s) in snapshot.tensors.iter().enumerate() {
            let wanted = values(&bytes, &format!("expected/{t}/{}", s.name));
            let label = format!("{case} {}", s.name);
            let what = What { case: &label, shape: &s.shape, seed: 0, step: t + 1, test };
            // The official code computed in f32, whatever we do.
            let unit = tolerance::F32;
            let found = widen(&params[i]);
            tolerance::check(OFFICIAL_F32, unit, &what, &mut moved[i], &start[i], &found, &wanted);
            compared += 1;
        }
    }
    assert_eq!(optimizer.steps(), BEFORE + AFTER, "{case}");
    compared
}

/// The function is written twice, for readers and for Python.
#[test]
fn the_documented_function_made_the_files() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let read = |path: &str| std::fs::read_to_string(root.join(path)).expect(path);
    let (docs, script) = (read("src/import.rs"), read("tests/golden/state.py"));
    let documented: String = docs
        .lines()
        .skip_while(|l| !l.starts_with("//! def save_state"))
        .take_while(|l| *l != "//! ```")
        .map(|l| {
            l.trim_start_matches("//!").strip_prefix(' ').unwrap_or_default().to_string() + "\n"
        })
        .collect();
    assert!(documented.lines().count() > 10 && script.contains(&documented), "{documented}");
}

#[test]
fn every_file_is_a_case() {
    let entries = std::fs::read_dir(folder()).expect("the folder");
    let names = entries.map(|e| e.expect("an entry").file_name().into_string().expect("UTF-8"));
    let mut names: Vec<_> = names.collect();
    names.sort();
    assert_eq!(names, CASES.map(|case| format!("{case}.safetensors")));
}

#[test]
fn the_cpu_goes_on_in_f32_as_the_official_codes_do() {
    for case in CASES {
        let n = goes_on::<f32>(case, "the_cpu_goes_on_in_f32_as_the_official_codes_do");
        assert_eq!(n as u64, AFTER * 4, "{case}");
    }
}

#[test]
fn the_cpu_goes_on_in_f64_as_the_official_codes_do() {
    for case in CASES {
        goes_on::<f64>(case, "the_cpu_goes_on_in_f64_as_the_official_codes_do");
    }
}

/// Without state the official codes would not be followed: the comparison is not blind.
#[test]
fn state_and_step_number_matter() {
    for case in CASES {
        let bytes = bytes(case);
        let imported = Torch::read(&bytes).expect(case);
        let snapshot = imported.snapshot().expect(case);
        let step = |snapshot: &Snapshot| {
            let mut optimizer = imported.setup().cpu::<f64>(&Cpu::default()).expect(case);
            optimizer.restore(snapshot).expect(case);
            let mut params = params::<f64>(snapshot);
            let mut step = optimizer.begin();
            let grads: Vec<_> = snapshot
                .tensors
                .iter()
                .map(|s| values(&bytes, &format!("grad/0/{}", s.name)))
                .collect();
            for ((s, p), g) in snapshot.tensors.iter().zip(&mut params).zip(&grads) {
                step.tensor(&s.name, p.as_mut_slice(), g.as_slice()).expect(case);
            }
            step.finish().expect(case);
            params
        };
        let found = step(&snapshot);
        for i in 0..snapshot.tensors.len() {
            // A single number above the clipping threshold is clipped, whatever its size.
            if snapshot.tensors[i].shape.is_empty() {
                continue;
            }
            for k in 0..snapshot.tensors[i].slots.len() {
                let mut other = snapshot.clone();
                let slot = &mut other.tensors[i].slots[k];
                let doubled = slot.values.to::<f64>().iter().map(|x| 2.0 * x + 1e-3).collect();
                slot.values = Values::F64(doubled);
                let (tensor, slot) = (&snapshot.tensors[i].name, slot.name.clone());
                assert!(step(&other) != found, "{case}: {slot} of {tensor} does not matter");
            }
        }
        if !["came", "sgd", "sm3"].contains(&case) {
            let mut other = snapshot.clone();
            other.step += 1;
            assert!(step(&other) != found, "{case}: the step number does not matter");
        }
    }
}

#[test]
fn slots_have_our_names_and_shapes() {
    let snapshot = torch(&bytes("adafactor_torch")).expect("a snapshot");
    let shapes = |s: &Snapshot, name: &str| -> Vec<(String, Vec<usize>)> {
        let tensor = s.tensor(name).expect("a tensor");
        tensor.slots.iter().map(|s| (s.name.clone(), s.shape.clone())).collect()
    };
    let conv = shapes(&snapshot, "conv.weight");
    let expected = [("exp_avg_sq_row", vec![6, 3]), ("exp_avg_sq_col", vec![6, 3])];
    assert_eq!(conv, expected.map(|(n, s)| (n.to_string(), s)));
    assert_eq!(shapes(&snapshot, "linear.bias"), [("exp_avg_sq".to_string(), vec![5])]);
    assert_eq!(shapes(&snapshot, "scale"), [("exp_avg_sq".to_string(), vec![])]);
    let group = &snapshot.groups[0];
    assert_eq!((group.name.as_str(), group.optimizer.as_str()), ("all", "adafactor_torch"));
    assert_eq!(group.hypers.get("lr"), Some(&5e-2));
    // The values are those of the file.
    let bytes = bytes("adafactor_torch");
    let row = snapshot.tensor("linear.weight").and_then(|t| t.slot("exp_avg_sq_row"));
    let row = row.expect("a slot").values.to::<f64>();
    assert_eq!(row, values(&bytes, "state/linear.weight/row_var"));
}

#[test]
fn groups_have_their_settings() {
    let bytes = bytes("adamw_groups");
    let imported = Torch::read(&bytes).expect("a file");
    let decays: Vec<_> = imported.optimizers().map(|o| o.hyper("weight_decay")).collect();
    assert_eq!(decays, [Some(0.1), Some(0.0)]);
    let snapshot = imported.snapshot().expect("a snapshot");
    let group = |name: &str| snapshot.tensor(name).expect("a tensor").group;
    assert_eq!((group("conv.weight"), group("linear.bias")), (0, 1));
    assert_eq!(snapshot.groups[1].hypers.get("weight_decay"), Some(&0.0));
}

#[test]
fn shapes_of_parameters_that_are_not_in_the_file_follow_from_state() {
    for case in CASES {
        let whole = torch(&bytes(case)).expect(case);
        let bare = torch(&File::of(case).without("param/").bytes()).expect(case);
        for (a, b) in whole.tensors.iter().zip(&bare.tensors) {
            assert_eq!((&a.name, &a.shape, &a.slots), (&b.name, &b.shape, &b.slots), "{case}");
            assert!(b.param.is_none(), "{case}");
        }
    }
}

#[test]
fn a_parameter_of_no_group_is_frozen() {
    let mut file = File::of("came").without("state/scale/");
    file.settings("\"scale\", ", "");
    let bytes = file.bytes();
    let imported = Torch::read(&bytes).expect("a file");
    let snapshot = imported.snapshot().expect("a snapshot");
    let mut optimizer = imported.setup().cpu::<f32>(&Cpu::default()).expect("a setup");
    assert_eq!(optimizer.groups().of("scale").expect("a tensor").0, "frozen");
    optimizer.restore(&snapshot).expect("the same tensors");
}

#[test]
fn one_group_needs_no_names_and_settings_have_defaults() {
    let mut file = File::of("adafactor_torch");
    file.metadata.insert("settings".into(), r#"{"lr": 0.05}"#.into());
    assert_eq!(torch(&file.bytes()), torch(&bytes("adafactor_torch")));
    // Names as this library's registry has them.
    file.metadata.insert("optimizer".into(), "adafactor".into());
    assert_eq!(torch(&file.bytes()), torch(&bytes("adafactor_torch")));
}

#[test]
fn a_momentum_that_has_not_begun_is_zero_unless_it_is_dampened() {
    let mut file = File::of("sgd").without("state/scale/");
    let error = torch(&file.bytes()).expect_err("dampening").to_string();
    assert!(error.contains("`state/scale/momentum_buffer` is missing"), "{error}");
    file.settings("\"dampening\": 0.1", "\"dampening\": 0");
    let snapshot = torch(&file.bytes()).expect("no dampening");
    let slot = snapshot.tensor("scale").and_then(|t| t.slot("momentum_buffer"));
    assert_eq!(slot.expect("a slot").values.to::<f64>(), [0.0]);
}

#[test]
fn state_in_other_precisions_is_widened() {
    let mut file = File::of("adam");
    let exact = torch(&file.bytes()).expect("a snapshot");
    for (name, dtype, _, data) in &mut file.tensors {
        if !name.ends_with("exp_avg") {
            continue;
        }
        let wide = data.as_chunks().0.iter().map(|&b| f32::from_le_bytes(b));
        *data = wide.flat_map(|x| half::bf16::from_f32(x).to_le_bytes()).collect();
        *dtype = Dtype::BF16;
    }
    let rounded = torch(&file.bytes()).expect("a snapshot");
    for (a, b) in exact.tensors.iter().zip(&rounded.tensors) {
        let [a, b] = [a, b].map(|t| t.slot("exp_avg").expect("a slot").values.to::<f64>());
        assert_ne!(a, b);
        for (a, b) in a.iter().zip(&b) {
            assert!((a - b).abs() <= a.abs() / 256.0, "{b} is not {a} in bfloat16");
        }
    }
}

#[test]
fn what_does_not_fit_is_an_error_that_names_it() {
    type Change = fn(File) -> File;
    let changes: [(&str, Change, &[&str]); 14] = [
        (
            "came",
            |mut f| {
                f.get("state/scale/step").3 = 5i64.to_le_bytes().to_vec();
                f
            },
            &["`state/scale/step`", "is 5", "is 7", "one step number"],
        ),
        (
            "adam",
            |mut f| {
                f.get("state/scale/step").3 = 6.5f32.to_le_bytes().to_vec();
                f
            },
            &["`state/scale/step`", "whole number"],
        ),
        (
            "came",
            |f| f.without("state/conv.weight/exp_avg_res_col"),
            &["`state/conv.weight/exp_avg_res_col` is missing", "exp_avg_res_row"],
        ),
        (
            "adamw_groups",
            |f| f.without("state/scale/"),
            &["`state/scale/exp_avg` is missing after 7 steps"],
        ),
        (
            "came",
            |mut f| {
                f.get("state/scale/RMS").0 = "state/scale/exp_avg_diff".into();
                f
            },
            &["`state/scale/exp_avg_diff` is unknown to came", "exp_avg_sq"],
        ),
        (
            "adafactor_torch",
            |mut f| {
                f.get("state/linear.weight/col_var").2 = vec![12, 1];
                f.get("state/linear.weight/row_var").2 = vec![1, 5];
                f.get("state/linear.weight/row_var").0 = "state/linear.weight/x".into();
                f.get("state/linear.weight/col_var").0 = "state/linear.weight/row_var".into();
                f.get("state/linear.weight/x").0 = "state/linear.weight/col_var".into();
                f
            },
            &["`state/linear.weight/row_var` has shape [12, 1]", "[5, 12]", "[5]"],
        ),
        (
            "adam",
            |mut f| {
                f.get("state/scale/exp_avg").1 = Dtype::I32;
                f
            },
            &["`state/scale/exp_avg` is I32"],
        ),
        (
            "adam",
            |mut f| {
                f.get("state/scale/exp_avg").0 = "state/scale".into();
                f
            },
            &["`state/scale`", "no slot"],
        ),
        (
            "sgd",
            |mut f| {
                f.metadata.remove("step");
                f
            },
            &["the metadata", "`step`"],
        ),
        (
            "came",
            |mut f| {
                f.metadata.remove("optimizer");
                f
            },
            &["the metadata", "`optimizer`"],
        ),
        (
            "came",
            |mut f| {
                f.settings("clip_threshold", "clip");
                f
            },
            &["`clip`", "clip_threshold = 1.0"],
        ),
        (
            "adamw_groups",
            |mut f| {
                f.settings("\"scale\"", "\"linear.weight\"");
                f
            },
            &["`linear.weight`", "two groups"],
        ),
        (
            "came",
            |mut f| {
                f.settings("\"scale\", ", "");
                f
            },
            &["`state/scale/", "no group"],
        ),
        (
            "came",
            |mut f| {
                f.settings("\"scale\"", "\"scales\"");
                f.without("state/scale/")
            },
            &["`scales`", "neither"],
        ),
    ];
    for (case, change, parts) in changes {
        let bytes = change(File::of(case)).bytes();
        let error = torch(&bytes).expect_err(parts[0]).to_string();
        for part in parts {
            assert!(error.contains(part), "{part} in: {error}");
        }
    }
    let error = torch(b"nothing").expect_err("no file").to_string();
    assert!(error.contains("no safetensors file"), "{error}");
}

/// Ranges one after the other up to the last address: their end plus anything overflows.
#[test]
fn a_small_file_does_not_ask_for_much_memory() {
    // Rows and columns of a matrix of 10¹⁰ elements, before the first step.
    let part =
        |slot: &str| (format!("state/w/{slot}"), Dtype::F32, vec![100_000], vec![0; 400_000]);
    let parts = ["exp_avg_sq_row", "exp_avg_sq_col", "exp_avg_res_row", "exp_avg_res_col"];
    let metadata = [("optimizer", "came"), ("settings", r#"{"lr": 1e-3}"#), ("step", "0")];
    let file = File {
        tensors: parts.map(part).into(),
        metadata: metadata.map(|(k, v)| (k.into(), v.into())).into(),
    };
    let error = torch(&file.bytes()).expect_err("a slot of 80 GB").to_string();
    assert!(error.contains("`state/w/exp_avg`") && error.contains("10000000000 values"), "{error}");
}

#[test]
fn ranges_to_the_last_address_are_an_error() {
    let size = (1u64 << 61) - 8;
    let eight = (0..8).map(|i| (size / 4, i * size, (i + 1) * size));
    let all = eight.chain([(15, 8 * size, 8 * size + 60)]).enumerate();
    let info = |(i, (n, from, to))| {
        format!("\"{i}\":{{\"dtype\":\"F32\",\"shape\":[{n}],\"data_offsets\":[{from},{to}]}}")
    };
    let header = format!("{{{}}}", all.map(info).collect::<Vec<_>>().join(","));
    let bytes = [&(header.len() as u64).to_le_bytes(), header.as_bytes()].concat();
    let error = torch(&bytes).expect_err("nothing follows").to_string();
    assert!(error.contains("tells of 18446744073709551612 bytes and has"), "{error}");
}
