//! The replay example on recordings of official codes: `tests/golden/record.py`.
#![cfg(feature = "reference")]

use std::collections::HashMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use safetensors::tensor::{TensorView, serialize_to_file};
use safetensors::{Dtype, SafeTensors};
use serde_json::{Map, Value as Json, json};

#[cfg(feature = "gpu")]
#[path = "common/gate.rs"]
#[allow(dead_code, unreachable_pub, reason = "the tests of the GPU use the rest")]
mod gate;

#[path = "../examples/replay/mod.rs"]
mod replay;

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/golden/replay/{name}.safetensors"))
}

fn out(name: &str) -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("replay_out_{name}.safetensors"))
}

/// The exit status and what was printed to standard output and error.
fn run(file: &Path, out: &Path, options: &[&str]) -> (u8, String, String) {
    let files = [file.display().to_string(), "--out".into(), out.display().to_string()];
    let args = files.into_iter().chain(options.iter().map(ToString::to_string));
    let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
    let status = replay::command(args, &mut stdout, &mut stderr);
    let text = |x| String::from_utf8(x).expect("UTF-8");
    (status, text(stdout), text(stderr))
}

fn report(name: &str, label: &str, options: &[&str]) -> (u8, Json) {
    let options = [options, &["--json"]].concat();
    let (status, text, error) = run(&golden(name), &out(&format!("{name}_{label}")), &options);
    assert_eq!(error, "", "{name} {label}");
    (status, serde_json::from_str(&text).expect("JSON"))
}

/// A file that can be changed.
struct File {
    tensors: Vec<(String, Dtype, Vec<usize>, Vec<u8>)>,
    metadata: HashMap<String, String>,
}

impl File {
    fn read(path: &Path) -> Self {
        let bytes = std::fs::read(path).unwrap_or_else(|e| panic!("{path:?}: {e}"));
        let (_, header) = SafeTensors::read_metadata(&bytes).expect("a header");
        let file = SafeTensors::deserialize(&bytes).expect("a file");
        let own = |(name, t): (String, TensorView<'_>)| {
            (name, t.dtype(), t.shape().to_vec(), t.data().to_vec())
        };
        Self {
            tensors: file.tensors().into_iter().map(own).collect(),
            metadata: header.metadata().clone().unwrap_or_default(),
        }
    }

    fn write(&self, label: &str) -> PathBuf {
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{label}.safetensors"));
        let views = self.tensors.iter().map(|(name, dtype, shape, data)| {
            (name, TensorView::new(*dtype, shape.clone(), data).expect("a tensor"))
        });
        serialize_to_file(views, Some(self.metadata.clone()), &path).expect("written");
        path
    }

    fn get(&mut self, name: &str) -> &mut (String, Dtype, Vec<usize>, Vec<u8>) {
        let found = self.tensors.iter_mut().find(|t| t.0 == name);
        found.unwrap_or_else(|| panic!("no tensor {name}"))
    }

    fn f32(&mut self, name: &str) -> Vec<f32> {
        let (_, dtype, _, data) = self.get(name);
        assert_eq!(*dtype, Dtype::F32, "{name}");
        data.as_chunks().0.iter().map(|&b| f32::from_le_bytes(b)).collect()
    }

    fn change(&mut self, name: &str, change: impl FnOnce(&mut [f32])) {
        let mut values = self.f32(name);
        change(&mut values);
        self.get(name).3 = values.iter().flat_map(|x| x.to_le_bytes()).collect();
    }

    fn round_to_bf16(&mut self, name: &str) {
        let values = self.f32(name);
        let tensor = self.get(name);
        tensor.1 = Dtype::BF16;
        tensor.3 = values.iter().flat_map(|&x| half::bf16::from_f32(x).to_le_bytes()).collect();
    }

    /// The recorded settings of each step.
    fn settings(&self) -> Vec<Map<String, Json>> {
        serde_json::from_str(&self.metadata["settings"]).expect("a list of objects")
    }

    /// Changes the settings of all steps.
    fn set(&mut self, changes: Json) {
        let mut settings = self.settings();
        for step in &mut settings {
            step.extend(changes.as_object().expect("an object").clone());
        }
        self.metadata.insert("settings".into(), json!(settings).to_string());
    }
}

/// Recordings with their number of tensors.
const RECORDINGS: [(&str, usize); 8] = [
    ("adafactor_hf", 4),
    ("adafactor_torch", 4),
    ("adam", 4),
    ("adamw", 4),
    ("adamw_onecycle", 4),
    ("came", 4),
    ("sgd", 4),
    ("sm3", 4),
];

fn follows(label: &str, options: &[&str]) {
    for (name, tensors) in RECORDINGS {
        let (status, report) = report(name, label, options);
        println!("{name} {label}: {}", report["error"]);
        assert_eq!(status, 0, "{name} {label}: {report:#}");
        assert_eq!(report["compared"], 20 * tensors, "{name}: every step of every tensor");
        assert_eq!(report["steps"], 20, "{name}");
        assert!(report["error"].as_f64().expect("a number") <= 1e-5, "{name}: {report:#}");
        let plain = report["plain_error"].as_f64().expect("a number");
        assert!(plain >= report["error"].as_f64().expect("a number"), "{name}: {report:#}");
    }
}

/// The recorder is written twice, for readers and for Python.
#[test]
fn the_documented_recorder_made_the_recordings() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let read = |path: &str| std::fs::read_to_string(root.join(path)).expect(path);
    let (docs, script) = (read("examples/replay.rs"), read("tests/golden/record.py"));
    let documented: String = docs
        .lines()
        .skip_while(|l| *l != "//! class Recorder:")
        .take_while(|l| *l != "//! ```")
        .map(|l| {
            l.trim_start_matches("//!").strip_prefix(' ').unwrap_or_default().to_string() + "\n"
        })
        .collect();
    assert!(documented.lines().count() > 20 && script.contains(&documented), "{documented}");
}

#[test]
fn every_recording_is_tested() {
    let folder = golden("").parent().expect("a folder").to_path_buf();
    let entries = std::fs::read_dir(folder).expect("the folder");
    let names = entries.map(|e| e.expect("an entry").file_name().into_string().expect("UTF-8"));
    let mut names: Vec<_> = names.collect();
    names.sort();
    assert_eq!(names, RECORDINGS.map(|(name, _)| format!("{name}.safetensors")));
}

#[test]
fn the_cpu_follows_the_recordings_in_f32() {
    follows("cpu_f32", &[]);
}

#[test]
fn the_cpu_follows_the_recordings_in_f64() {
    follows("cpu_f64", &["--f64", "--backend", "cpu", "--threads", "1"]);
}

#[cfg(feature = "gpu")]
#[test]
fn the_gpu_follows_the_recordings() {
    if gate::gpu().is_some() {
        follows("gpu", &["--backend", "gpu"]);
    }
}

#[test]
fn trajectories_and_state_are_written() {
    let path = out("written");
    let (status, ..) = run(&golden("came"), &path, &[]);
    assert_eq!(status, 0);
    let mut file = File::read(&path);
    for t in 0..20 {
        for (name, shape) in [("conv.weight", vec![3, 2, 3, 3]), ("scale", vec![])] {
            let (_, dtype, found, _) = file.get(&format!("trajectory/{t}/{name}"));
            assert_eq!((*dtype, &*found), (Dtype::F32, &shape), "{name} at {t}");
        }
    }
    // As documented by `slot_shape`: 3·2 matrices of 3 rows.
    for (key, shape) in [
        ("state/conv.weight/exp_avg", vec![3, 2, 3, 3]),
        ("state/conv.weight/exp_avg_sq_row", vec![6, 3]),
        ("state/conv.weight/exp_avg_res_col", vec![6, 3]),
        ("state/linear.weight/exp_avg_sq_col", vec![1, 12]),
        ("state/linear.bias/exp_avg_sq", vec![5]),
    ] {
        assert_eq!(file.get(key).2, shape, "{key}");
    }
    assert_eq!(file.tensors.len(), 20 * 4 + 2 * (1 + 4) + 2 * 2);
    // The parameters of the end are those of the recording, nearly.
    let wanted = File::read(&golden("came")).f32("expected/19/linear.weight");
    for (a, b) in file.f32("trajectory/19/linear.weight").iter().zip(wanted) {
        assert!((a - b).abs() < 1e-5, "{a} is not {b}");
    }
    // In double precision numbers are written as they are.
    let (status, ..) = run(&golden("came"), &path, &["--f64"]);
    assert_eq!((status, File::read(&path).get("trajectory/0/scale").1), (0, Dtype::F64));
}

#[test]
fn a_tensor_without_a_gradient_stays_and_its_step_number_too() {
    let (status, report) = report("adamw", "missing", &[]);
    assert_eq!(status, 0, "{report:#}");
    let tensor = |name: &str| {
        let tensors = report["tensors"].as_array().expect("tensors").iter();
        tensors.clone().find(|t| t["name"] == name).expect("the tensor")["updates"].clone()
    };
    // It is used at odd steps alone.
    assert_eq!((tensor("scale"), tensor("conv.weight")), (10.into(), 20.into()));
    let mut file = File::read(&out("adamw_missing"));
    let (before, after) = (file.f32("trajectory/3/scale"), file.f32("trajectory/4/scale"));
    assert_eq!(before, after);
    assert_ne!(file.f32("trajectory/5/scale"), after);
}

#[test]
fn a_wrong_expectation_fails() {
    let mut file = File::read(&golden("sgd"));
    let (.., data) = file.get("expected/7/linear.bias");
    let x = f32::from_le_bytes(data[..4].try_into().expect("4 bytes"));
    data[..4].copy_from_slice(&(x + 1e-3).to_le_bytes());
    let path = file.write("replay_corrupted");
    let (status, text, error) = run(&path, &out("corrupted"), &[]);
    assert_eq!((status, error.as_str()), (1, ""), "{text}");
    assert!(text.contains("at step 7") && text.contains("FAILED"), "{text}");
    // More is allowed on demand.
    let (status, text, _) = run(&path, &out("corrupted"), &["--tolerance", "0.1"]);
    assert_eq!(status, 0, "{text}");
    // What is not a number equals nothing.
    let (.., data) = file.get("expected/7/linear.bias");
    data[..4].copy_from_slice(&f32::NAN.to_le_bytes());
    let (status, text, _) =
        run(&file.write("replay_nan"), &out("nan"), &["--tolerance", "inf", "--json"]);
    let report: Json = serde_json::from_str(&text).expect("JSON");
    assert_eq!((status, &report["error"]), (1, &Json::Null), "{text}");
    let (.., data) = file.get("expected/7/linear.bias");
    data[..4].copy_from_slice(&f32::INFINITY.to_le_bytes());
    let options = ["--tolerance", "1e30", "--json"];
    let (status, text, _) = run(&file.write("replay_infinite"), &out("infinite"), &options);
    let report: Json = serde_json::from_str(&text).expect("JSON");
    assert_eq!((status, &report["error"]), (1, &Json::Null), "{text}");
}

#[test]
fn flags_come_before_metadata() {
    // A setting that is off is seen, so the comparison is not blind.
    for set in ["weight_decay=0.5", "lr=3e-3", "betas=[0.5,0.99,0.999]"] {
        let (status, report) = report("came", "set", &["--set", set]);
        assert_eq!(status, 1, "{set}: {report:#}");
    }
    // The same settings said again, several after one flag.
    let again = ["--set", "lr=2e-3", "weight_decay=1e-2", "--optimizer", "came"];
    let (status, report_again) = report("came", "again", &again);
    assert_eq!(status, 0, "{report_again:#}");
    // A recorded schedule is replaced by a fixed rate.
    assert_eq!(report("adamw", "fixed", &["--set", "lr=1e-2"]).0, 1);
    // Another optimizer has its own settings; adam's of the file would be another code's.
    let options = ["--optimizer", "sgd", "--set", "lr=0.5"];
    let (status, sgd) = report("adam", "sgd", &options);
    assert_eq!((status, &sgd["definition"]), (1, &"sgd".into()), "{sgd:#}");
    let mut file = File::read(&out("adam_sgd"));
    let mut recorded = File::read(&golden("adam"));
    let (p, g) = (recorded.f32("param/linear.bias"), recorded.f32("grad/0/linear.bias"));
    for (i, found) in file.f32("trajectory/0/linear.bias").iter().enumerate() {
        assert!((found - (p[i] - 0.5 * g[i])).abs() < 1e-6, "{i}");
    }
}

#[test]
fn a_file_without_metadata_needs_the_flags() {
    let mut file = File::read(&golden("sgd"));
    file.metadata.clear();
    let path = file.write("replay_bare");
    let (status, _, error) = run(&path, &out("bare"), &[]);
    assert!(status == 2 && error.contains("--optimizer"), "{error}");
    let options =
        ["--optimizer", "sgd", "--set", "lr=0.1", "--set", "momentum=0.9", "nesterov=true"];
    let (status, text, error) = run(&path, &out("bare"), &options);
    assert_eq!((status, error.as_str()), (0, ""), "{text}");
    // Nothing expected is nothing to fail.
    file.tensors.retain(|t| !t.0.starts_with("expected/"));
    let (status, text, _) = run(&file.write("replay_unexpected"), &out("unexpected"), &options);
    assert!(status == 0 && text.contains("nothing to compare with"), "{text}");
}

#[test]
fn unknown_settings_and_options_list_the_known_ones() {
    for (options, parts) in [
        (["--set", "clip=1"], ["`clip`", "clip_threshold = 1.0"]),
        (["--set", "lr"], ["KEY=VALUE", "lr"]),
        (["--optimizer", "adamx"], ["adamx", "adafactor, adam, adamw, came, sgd, sm3"]),
        (["--backend", "tpu"], ["tpu", "gpu"]),
        (["--tolerance", "-1"], ["--tolerance", "negative"]),
        (["--threads", "0"], ["--threads", "1"]),
        (["--precision", "f16"], ["--precision", "--f64"]),
    ] {
        let (status, text, error) = run(&golden("came"), &out("unknown"), &options);
        assert_eq!((status, text.as_str()), (2, ""), "{options:?}");
        assert!(parts.iter().all(|p| error.contains(p)), "{options:?}: {error}");
    }
    let (status, help, _) = run(&golden("came"), &out("help"), &["--help"]);
    assert_eq!(status, 0);
    for entry in gradstep::reference::entries() {
        assert!(help.contains(&entry.to_string()), "{entry}");
    }
}

/// A file that does not say how many steps it has, with one of another number.
fn late(file: &mut File, kind: &str, t: usize) {
    file.metadata.remove("steps");
    file.get(&format!("{kind}/3/scale")).0 = format!("{kind}/{t}/scale");
}

#[test]
fn errors_of_a_malformed_file_name_the_tensor() {
    type Change = fn(&mut File);
    let changes: [(Change, &str); 12] = [
        (|f| f.get("grad/3/scale").0 = "grad/x/scale".into(), "`grad/x/scale`"),
        (|f| f.get("grad/3/scale").0 = "grad/3/scales".into(), "`grad/3/scales`"),
        (|f| f.get("grad/3/scale").0 = "gradient/3".into(), "`gradient/3`"),
        (|f| f.get("grad/3/scale").2 = vec![1], "`grad/3/scale` has shape [1]"),
        (|f| f.get("param/scale").1 = Dtype::I32, "`param/scale` is I32"),
        (|f| f.get("expected/3/scale").0 = "expected/99/scale".into(), "`expected/99/scale`"),
        (|f| late(f, "grad", usize::MAX), "it tells of"),
        (|f| late(f, "grad", 1_000_000_000), "1000000001 steps"),
        (|f| late(f, "expected", 1_000_000_000), "1000000001 steps"),
        (|f| drop(f.metadata.insert("steps".into(), "many".into())), "many"),
        (|f| drop(f.metadata.insert("steps".into(), "21".into())), "21"),
        (|f| drop(f.metadata.insert("settings".into(), "[1]".into())), "settings"),
    ];
    for (i, (change, part)) in changes.into_iter().enumerate() {
        let mut file = File::read(&golden("came"));
        change(&mut file);
        let path = file.write(&format!("replay_malformed_{i}"));
        let (status, text, error) = run(&path, &out("malformed"), &[]);
        assert_eq!((status, text.as_str()), (2, ""), "{part}");
        assert!(error.contains(part) && error.contains("malformed_"), "{part}: {error}");
    }
    let (status, _, error) = run(Path::new("none.safetensors"), &out("none"), &[]);
    assert!(status == 2 && error.contains("none.safetensors"), "{error}");
}

#[test]
fn short_types_are_widened() {
    // Gradients rounded to bfloat16 on both sides: the recording of a mixed precision run.
    let mut file = File::read(&golden("sgd"));
    file.tensors.retain(|t| !t.0.starts_with("expected/"));
    let mut wide = File { tensors: file.tensors.clone(), metadata: file.metadata.clone() };
    for (short, long) in file.tensors.iter_mut().zip(&mut wide.tensors) {
        if short.1 != Dtype::F32 {
            continue;
        }
        let values: Vec<_> = short.3.as_chunks().0.iter().map(|&b| f32::from_le_bytes(b)).collect();
        let is_grad = short.0.starts_with("grad/");
        let (mut bytes, mut rounded) = (Vec::new(), Vec::new());
        for x in values {
            let (narrow, back) = if is_grad {
                let x = half::bf16::from_f32(x);
                (x.to_le_bytes(), x.to_f32())
            } else {
                let x = half::f16::from_f32(x);
                (x.to_le_bytes(), x.to_f32())
            };
            bytes.extend(narrow);
            rounded.extend(back.to_le_bytes());
        }
        short.1 = if is_grad { Dtype::BF16 } else { Dtype::F16 };
        (short.3, long.3) = (bytes, rounded);
    }
    let (a, b) = (out("short"), out("long"));
    assert_eq!(run(&file.write("replay_short"), &a, &[]).0, 0);
    assert_eq!(run(&wide.write("replay_long"), &b, &[]).0, 0);
    let (mut a, mut b) = (File::read(&a), File::read(&b));
    for name in ["conv.weight", "linear.weight", "linear.bias", "scale"] {
        let key = format!("trajectory/19/{name}");
        assert_eq!(a.f32(&key), b.f32(&key), "{name}");
    }
}

#[test]
fn settings_of_each_step_are_replayed() {
    // That the rate and the first beta change is what the recording is for.
    let mut file = File::read(&golden("adamw_onecycle"));
    let settings = file.settings();
    assert!(settings.len() == 20 && settings[0]["betas"] != settings[9]["betas"]);
    for key in ["betas", "lr"] {
        let fixed = format!("{key}={}", settings[9][key]);
        assert_eq!(report("adamw_onecycle", "fixed", &["--set", &fixed]).0, 1, "{key}");
    }
    // A rate may be a tensor, too.
    file.set(json!({"lr": 1.0}));
    for (t, settings) in settings.iter().enumerate() {
        let lr = settings["lr"].as_f64().expect("a rate").to_le_bytes();
        file.tensors.push((format!("lr/{t}"), Dtype::F64, vec![], lr.to_vec()));
    }
    let (status, text, _) = run(&file.write("replay_rates"), &out("rates"), &[]);
    assert_eq!(status, 0, "{text}");
    // Errors name the step, and the setting as the reference does.
    file.tensors.retain(|t| !t.0.starts_with("lr/"));
    let mut wrong = settings.clone();
    wrong[7]["betas"] = json!([0.9, 1.5]);
    file.metadata.insert("settings".into(), json!(wrong).to_string());
    let (status, _, error) = run(&file.write("replay_beta"), &out("beta"), &[]);
    assert!(status == 2 && error.contains("step 7") && error.contains("`betas[1]`"), "{error}");
    // What is no number cannot change.
    wrong[7] = settings[7].clone();
    wrong[7]["amsgrad"] = json!(true);
    file.metadata.insert("settings".into(), json!(wrong).to_string());
    let (status, _, error) = run(&file.write("replay_amsgrad"), &out("amsgrad"), &[]);
    assert!(status == 2 && error.contains("step 7: adamw was prepared"), "{error}");
    file.metadata.insert("settings".into(), json!(wrong[..5]).to_string());
    let (status, _, error) = run(&file.write("replay_short_list"), &out("short_list"), &[]);
    assert!(status == 2 && error.contains("5 objects") && error.contains("20 steps"), "{error}");
}

#[test]
fn what_schedulers_note_in_a_group_is_ignored_and_python_writes_json() {
    let mut file = File::read(&golden("sgd"));
    file.set(json!({
        "param_names": ["conv.weight", "scale"], "initial_lr": 1.0, "max_lr": 1.0, "min_lr": 0.0,
        "base_lr": 1.0, "max_momentum": 0.95, "base_momentum": 0.85, "swa_lr": 0.05,
        // As Python, to which 1 is true.
        "nesterov": 1, "maximize": 0,
    }));
    let (status, text, error) = run(&file.write("replay_notes"), &out("notes"), &[]);
    assert_eq!((status, error.as_str()), (0, ""), "{text}");

    let mut file = File::read(&golden("came"));
    let numbers = |x: &str, y: &str| {
        format!(
            r#"{{"lr": 2e-3, "weight_decay": 0.01, "clip_threshold": {x}, "eps": [1e-30, {y}],
            "param_names": ["NaN \"Infinity"]}}"#
        )
    };
    file.metadata.insert("settings".into(), numbers("Infinity", "1e-16"));
    let (status, text, error) = run(&file.write("replay_infinity"), &out("infinity"), &[]);
    assert_eq!(error, "", "not refused");
    assert_eq!(status, 1, "clipping mattered: {text}");
    for (x, y, setting) in
        [("-Infinity", "0", "`clip_threshold`"), ("1", "NaN", "`eps[1]`"), ("NaN", "0", "`clip_")]
    {
        file.metadata.insert("settings".into(), numbers(x, y));
        let (status, _, error) = run(&file.write("replay_no_number"), &out("no_number"), &[]);
        assert!(status == 2 && error.contains(setting), "{x} {y}: {error}");
    }
}

#[test]
fn learning_rates_are_ignored_where_the_reference_ignores_them() {
    let mut file = File::read(&golden("adafactor_hf"));
    let written = |file: &File, label: &str, options: &[&str]| {
        let out = out(label);
        let (status, text, error) =
            run(&file.write(&format!("replay_{label}")), &out, &[options, &["--json"]].concat());
        assert!(status < 2 && !text.is_empty(), "{error}");
        std::fs::read(out).expect("the output")
    };
    file.set(json!({"relative_step": true, "lr": null}));
    let without = written(&file, "relative", &[]);
    // transformers' AdafactorSchedule writes the step that was taken there.
    file.set(json!({"relative_step": true, "lr": 0.5}));
    file.tensors.push(("lr/3".into(), Dtype::F64, vec![], 0.25f64.to_le_bytes().to_vec()));
    assert!(written(&file, "relative_lr", &[]) == without);
    // The file's rates count where steps are not relative.
    let fixed = written(&file, "relative_off", &["--set", "relative_step=false"]);
    assert!(fixed != without);
    let (status, _, error) =
        run(&file.write("replay_relative_set"), &out("relative_set"), &["--set", "lr=0.1"]);
    assert!(status == 2 && error.contains("relative_step"), "{error}");
}

#[test]
fn rounding_is_that_of_each_tensor() {
    let mut file = File::read(&golden("adamw"));
    for name in ["param/scale", "param/conv.weight"] {
        file.round_to_bf16(name);
    }
    // What a short neighbour would hide.
    let wrong = "expected/19/linear.weight";
    let displacement: Vec<_> =
        file.f32("param/linear.weight").iter().zip(file.f32(wrong)).map(|(a, b)| b - a).collect();
    file.change(wrong, |x| x.iter_mut().zip(displacement).for_each(|(x, d)| *x += 1e-3 * d));
    let (status, text, _) = run(&file.write("replay_mixed"), &out("mixed"), &["--json"]);
    let report: Json = serde_json::from_str(&text).expect("JSON");
    let tensors = report["tensors"].as_array().expect("tensors");
    let failed: Vec<_> = tensors.iter().filter(|t| t["passed"] == false).collect();
    assert_eq!((status, failed.len()), (1, 1), "{text}");
    assert_eq!(failed[0]["name"], "linear.weight");

    // A recording may keep short copies of long parameters, and round away all that happened.
    let mut file = File::read(&golden("sgd"));
    for t in 0..20 {
        file.round_to_bf16(&format!("expected/{t}/linear.weight"));
    }
    let path = file.write("replay_short_expected");
    let (status, text, _) = run(&path, &out("short_expected"), &[]);
    assert!(status == 0 && !text.contains("not checked"), "{text}");
    let mut file = File::read(&golden("sgd"));
    file.tensors.retain(|t| !t.0.contains('/') || t.0.ends_with("linear.weight"));
    for t in 0..20 {
        let start = file.f32("param/linear.weight");
        let expected = format!("expected/{t}/linear.weight");
        file.change(&expected, |x| {
            x.iter_mut().zip(start).for_each(|(x, p)| *x = p + 1e-4 * (*x - p));
        });
        file.round_to_bf16(&expected);
    }
    let options = ["--set", "lr=1e-5"];
    let (status, text, _) = run(&file.write("replay_hidden"), &out("hidden"), &options);
    assert_eq!(status, 0, "{text}");
    assert!(text.contains("not checked: rounding of bf16 covers the whole displacement"), "{text}");
    assert!(text.contains("1 not checked"), "{text}");
}

#[test]
fn null_takes_a_setting_back() {
    let mut file = File::read(&golden("came"));
    file.set(json!({"clip": 3}));
    let path = file.write("replay_unknown_setting");
    assert_eq!(run(&path, &out("null"), &[]).0, 2);
    let (status, text, error) = run(&path, &out("null"), &["--set", "clip=null"]);
    assert_eq!((status, error.as_str()), (0, ""), "{text}");
    // The default is another weight decay than the recorded one.
    assert_eq!(run(&path, &out("null"), &["--set", "clip=null", "weight_decay=None"]).0, 1);
    // Rates that are recorded as tensors are taken back too; the default of this one is 1e-3.
    let file = File::read(&golden("adam"));
    let path = file.write("replay_null_lr");
    assert_eq!(run(&path, &out("null_lr"), &["--set", "lr=null"]).0, 1);
    let null = File::read(&out("null_lr")).f32("trajectory/0/linear.bias");
    assert_eq!(run(&path, &out("null_lr"), &["--set", "lr=1e-3"]).0, 1);
    assert_eq!(File::read(&out("null_lr")).f32("trajectory/0/linear.bias"), null);
}

#[test]
fn adafactor_is_switched_between_its_references() {
    let hf = "transformers.optimization.Adafactor";
    let torch = "torch.optim.Adafactor";
    for (name, reference, options) in [
        ("adafactor_torch", hf, &["--optimizer", "adafactor", "--set", "variant=hf"][..]),
        ("adafactor_torch", hf, &["--optimizer", hf]),
        ("adafactor_torch", hf, &["--set", "variant=hf"]),
        ("adafactor_hf", torch, &["--optimizer", "adafactor", "--set", "variant=torch"]),
        ("adafactor_hf", torch, &["--optimizer", torch]),
        ("adafactor_hf", torch, &["--set", "variant=torch"]),
    ] {
        let (status, report) = report(name, "switched", options);
        assert_eq!((status, &report["reference"]), (1, &reference.into()), "{options:?}");
    }
    // The recorded one, however it is said: its settings are kept.
    for (name, options) in [
        ("adafactor_torch", &["--optimizer", "adafactor"][..]),
        ("adafactor_torch", &["--set", "variant=torch"]),
        ("adafactor_hf", &["--optimizer", "adafactor"]),
        ("adafactor_hf", &["--optimizer", "adafactor", "--set", "variant=hf"]),
        ("adafactor_hf", &["--optimizer", hf]),
    ] {
        let (status, report) = report(name, "not_switched", options);
        assert_eq!(status, 0, "{options:?}: {report:#}");
    }
}

#[test]
fn a_note_names_the_tensors_for_which_sm3_is_another() {
    let options = ["--optimizer", "sm3", "--set", "lr=0.1"];
    let (_, text, error) = run(&golden("came"), &out("sm3_note"), &options);
    assert!(error.contains("note:") && error.contains("`conv.weight`"), "{error}");
    assert!(!error.contains("linear.weight") && !text.contains("note:"), "{error}");
    let options = [&options[..], &["--json"]].concat();
    let (_, text, _) = run(&golden("came"), &out("sm3_note"), &options);
    let report: Json = serde_json::from_str(&text).expect("JSON");
    assert!(report["notes"][0].as_str().expect("a note").contains("`conv.weight`"), "{report}");
    // An axis of one element makes no difference.
    let mut file = File::read(&golden("sm3"));
    for tensor in &mut file.tensors {
        if tensor.2.len() == 2 {
            tensor.2.insert(0, 1);
        }
    }
    let (status, text, error) = run(&file.write("replay_sm3"), &out("sm3"), &[]);
    assert_eq!((status, error.as_str()), (0, ""), "{text}");
}

#[test]
fn a_note_says_which_default_of_eps_is_taken_where_types_are_mixed() {
    let mut file = File::read(&golden("adafactor_torch"));
    file.round_to_bf16("param/scale");
    let path = file.write("replay_eps");
    let (_, _, error) = run(&path, &out("eps"), &[]);
    assert!(error.contains("note:") && error.contains("7.8125e-3"), "{error}");
    // Said, it is that; all but the rounded tensor follow.
    let eps = format!("eps=[{:e},1e-3]", f32::EPSILON);
    let (_, text, error) = run(&path, &out("eps"), &["--set", &eps, "--json"]);
    let report: Json = serde_json::from_str(&text).expect("JSON");
    let tensors = report["tensors"].as_array().expect("tensors");
    let passed = tensors.iter().filter(|t| t["passed"] == true).count();
    assert!(error.is_empty() && passed >= 3, "{error} {text}");
}

#[test]
fn to_maximize_is_to_negate_gradients() {
    for name in ["sgd", "adam", "adamw", "adafactor_torch"] {
        let mut file = File::read(&golden(name));
        for (key, _, _, data) in &mut file.tensors {
            if key.starts_with("grad/") {
                data.chunks_exact_mut(4).for_each(|x| x[3] ^= 0x80);
            }
        }
        file.set(json!({"maximize": true}));
        let path = file.write(&format!("replay_maximize_{name}"));
        let (status, text, error) = run(&path, &out("maximize"), &[]);
        assert!(status == 0 && error.contains("negated"), "{name}: {text} {error}");
        let (status, _, _) = run(&path, &out("maximize"), &["--set", "maximize=false"]);
        assert_eq!(status, 1, "{name}");
    }
    let set = ["--set", "maximize=true"];
    let (status, _, error) = run(&golden("came"), &out("maximize_came"), &set);
    assert!(status == 2 && error.contains("`maximize` of came is unknown"), "{error}");
}

#[test]
fn what_is_not_a_number_is_found_where_it_begins() {
    let mut file = File::read(&golden("sgd"));
    file.change("grad/3/linear.bias", |x| x[1] = f32::NAN);
    let (status, text, _) = run(&file.write("replay_nan_grad"), &out("nan_grad"), &[]);
    assert!(status == 1 && text.contains("at step 3"), "{text}");
    assert!(text.contains("at step 3: ours is not finite"), "{text}");
    for t in 3..20 {
        file.change(&format!("expected/{t}/linear.bias"), |x| x[1] = f32::NAN);
    }
    let (status, text, _) = run(&file.write("replay_nan_both"), &out("nan_both"), &[]);
    let hint = "at step 3: both are not finite, in the same places";
    assert!(status == 1 && text.contains(hint) && text.contains("on both sides"), "{text}");
}

#[test]
fn errors_speak_of_the_settings_of_the_reference() {
    for (name, set, parts) in [
        ("adafactor_torch", "beta2_decay=1", ["`beta2_decay` of adafactor is 1", "less than 0"]),
        ("adafactor_torch", "d=0", ["`d` of adafactor is 0", "d = 1.0"]),
        ("adafactor_torch", "eps=[-1,1]", ["`eps[0]` of adafactor is -1", "beta2_decay = -0.8"]),
        ("adafactor_torch", "lr=[1]", ["must be a number", "lr = 0.01"]),
        ("adafactor_hf", "decay_rate=1", ["`decay_rate` of adafactor is 1", "clip_threshold = 1"]),
        ("came", "lr=-1", ["`lr` of came is -1", "lr (required)"]),
        ("came", "lr=nan", ["`lr` of came is \"NaN\"", "finite"]),
    ] {
        let (status, _, error) = run(&golden(name), &out("words"), &["--set", set]);
        assert_eq!(status, 2, "{set}");
        assert!(parts.iter().all(|p| error.contains(p)), "{set}: {error}");
    }
    let mut file = File::read(&golden("adafactor_torch"));
    file.set(json!({"lr": null}));
    let (_, _, error) = run(&file.write("replay_lr_null"), &out("lr_null"), &[]);
    assert!(error.contains("variant = hf"), "{error}");
    let mut file = File::read(&golden("came"));
    file.metadata.insert("steps".into(), "21".into());
    let (_, _, error) = run(&file.write("replay_steps"), &out("steps"), &[]);
    assert!(error.contains("21") && error.contains("is 19, the first being 0"), "{error}");
}

#[test]
fn numbers_are_read_as_python_reads_them() {
    for lr in ["lr=.002", "lr=+0.002", "lr=2e-3", "lr=0.002"] {
        assert_eq!(report("came", "number", &["--set", lr]).0, 0, "{lr}");
    }
    assert_eq!(report("came", "number", &["--set", "lr=1."]).0, 1);
    assert_eq!(report("sgd", "number", &["--set", "nesterov=True", "foreach=None"]).0, 0);
}

#[test]
fn words_after_set_are_settings_unless_a_file_is_called_so() {
    let path = File::read(&golden("came")).write("run=3");
    let written = out("set_file");
    let run = |args: &[&str]| {
        let mut error = Vec::new();
        let args = args
            .iter()
            .map(|a| a.to_string())
            .chain(["--out".into(), written.display().to_string()]);
        let status = replay::command(args, &mut Vec::new(), &mut error);
        (status, String::from_utf8(error).expect("UTF-8"))
    };
    let file = path.display().to_string();
    assert_eq!(run(&["--set", "lr=2e-3", &file]), (0, String::new()));
    assert_eq!(run(&["--set", "lr=1", "lr=2e-3", "weight_decay=0.01", &file]), (0, String::new()));
    let (status, error) = run(&["--set", "lr=2e-3", "none=3.safetensors"]);
    assert!(status == 2 && error.contains("no file to replay"), "{error}");
}

#[test]
fn the_output_is_not_the_recording_and_not_an_option() {
    let path = File::read(&golden("came")).write("replay_self");
    let before = std::fs::read(&path).expect("the recording");
    // The same file by another name.
    let again = path.parent().expect("a folder").join(".").join("replay_self.safetensors");
    for out in [&path, &again] {
        let (status, text, error) = run(&path, out, &[]);
        assert_eq!((status, text.as_str()), (2, ""), "{error}");
        assert!(error.contains("--out") && error.contains("the recording itself"), "{error}");
    }
    assert!(std::fs::read(&path).expect("the recording") == before);
    let (status, _, error) = run(&path, Path::new("--json"), &[]);
    assert!(status == 2 && error.contains("--out needs a value"), "{error}");
    assert!(!Path::new("--json").exists());
}

#[test]
fn threads_are_limited_and_nothing_to_the_gpu() {
    let (status, _, error) = run(&golden("came"), &out("threads"), &["--threads", "100000"]);
    assert!(status == 2 && error.contains("at most 1024"), "{error}");
    #[cfg(feature = "gpu")]
    if gate::gpu().is_some() {
        let options = ["--threads", "2", "--backend", "gpu"];
        let (status, _, error) = run(&golden("came"), &out("threads"), &options);
        assert!(status == 0 && error.contains("--threads has no effect"), "{error}");
    }
}

#[cfg(unix)]
#[test]
fn a_path_need_not_be_utf8() {
    use std::os::unix::ffi::OsStringExt;
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let path = folder.join(OsString::from_vec(b"replay_\xff.safetensors".to_vec()));
    if std::fs::copy(golden("came"), &path).is_err() {
        return; // Some file systems have no such names.
    }
    let mut error = Vec::new();
    let args = [path.into(), "--out".into(), out("utf8").into_os_string()];
    let status = replay::command(args, &mut Vec::new(), &mut error);
    assert_eq!((status, error), (0, Vec::new()));
    let args: [OsString; 2] = ["--set".into(), OsString::from_vec(b"lr=\xff".to_vec())];
    assert_eq!(replay::command(args, &mut Vec::new(), &mut Vec::new()), 2);
}

#[test]
fn the_same_command_writes_the_same_bytes() {
    let (a, b) = (out("same_a"), out("same_b"));
    for _ in 0..4 {
        assert_eq!((run(&golden("came"), &a, &[]).0, run(&golden("came"), &b, &[]).0), (0, 0));
        assert!(std::fs::read(&a).expect("one") == std::fs::read(&b).expect("the other"));
    }
}
