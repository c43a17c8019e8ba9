//! Snapshots as files: what is read is what was written, and nothing else is read.
#![cfg(feature = "checkpoint")]

use std::collections::{BTreeMap, HashMap};

use gradstep::checkpoint::{from_bytes, load, save, to_bytes};
use gradstep::optim::{AdamW, Came};
use gradstep::snapshot::{GroupState, SlotState, TensorState, Values};
use gradstep::{Cpu, Error, Group, Select, Setup, Snapshot};
use proptest::prelude::*;

fn snapshot(tensors: Vec<TensorState>) -> Snapshot {
    let mut snapshot = Snapshot::default();
    snapshot.step = 17;
    snapshot.groups = vec![GroupState {
        name: "all".into(),
        optimizer: "came".into(),
        hypers: BTreeMap::from([("lr".into(), 1e-3), ("clip".into(), f64::INFINITY)]),
    }];
    snapshot.tensors = tensors;
    snapshot.numbers = BTreeMap::from([("loss_scale".into(), 65536.0)]);
    snapshot
}

fn tensor(name: &str) -> TensorState {
    let slot = |name: &str, shape: Vec<usize>, values: Values| SlotState {
        name: name.into(),
        shape,
        values,
    };
    TensorState {
        name: name.into(),
        group: 0,
        shape: vec![2, 3],
        param: Some(vec![1.0f32, -0.0, f32::NAN, f32::INFINITY, 1e-45, 6.0].into()),
        slots: vec![
            slot("exp_avg", vec![2, 3], vec![0.1f64; 6].into()),
            slot("exp_avg_sq_row", vec![1, 2], vec![0.5f32, 0.25].into()),
            slot("count", vec![], vec![3.0f32].into()),
        ],
    }
}

/// Equal to the last bit, what is not a number included.
fn same(a: &Snapshot, b: &Snapshot) -> bool {
    let bits = |v: &Values| -> (bool, Vec<u64>) {
        match v {
            Values::F32(x) => (false, x.iter().map(|x| x.to_bits().into()).collect()),
            Values::F64(x) => (true, x.iter().map(|x| x.to_bits()).collect()),
        }
    };
    let slot = |s: &SlotState| (s.name.clone(), s.shape.clone(), bits(&s.values));
    let tensor = |t: &TensorState| {
        let slots: Vec<_> = t.slots.iter().map(slot).collect();
        (t.name.clone(), t.group, t.shape.clone(), t.param.as_ref().map(bits), slots)
    };
    let numbers = |n: &BTreeMap<String, f64>| -> Vec<(String, u64)> {
        n.iter().map(|(name, x)| (name.clone(), x.to_bits())).collect()
    };
    let group = |g: &GroupState| (g.name.clone(), g.optimizer.clone(), numbers(&g.hypers));
    let all = |s: &Snapshot| {
        let groups: Vec<_> = s.groups.iter().map(group).collect();
        let tensors: Vec<_> = s.tensors.iter().map(tensor).collect();
        (s.step, groups, tensors, numbers(&s.numbers))
    };
    all(a) == all(b)
}

fn any_values(n: usize) -> impl Strategy<Value = Values> {
    prop_oneof![
        prop::collection::vec(any::<u32>(), n)
            .prop_map(|x| Values::F32(x.into_iter().map(f32::from_bits).collect())),
        prop::collection::vec(any::<u64>(), n)
            .prop_map(|x| Values::F64(x.into_iter().map(f64::from_bits).collect())),
    ]
}

fn any_filled() -> impl Strategy<Value = (Vec<usize>, Values)> {
    prop::collection::vec(0usize..4, 0..4).prop_flat_map(|shape| {
        let n = shape.iter().product();
        (Just(shape), any_values(n))
    })
}

fn any_name() -> impl Strategy<Value = String> {
    let weird =
        ["", "/", "a//b/", "param/w", "__metadata__", "\"q\" \\", "\0\n\u{202e}", "重み 🦀"];
    prop_oneof![prop::sample::select(weird.to_vec()).prop_map(String::from), ".{0,8}"]
}

fn any_tensor() -> impl Strategy<Value = TensorState> {
    let slot = ("[^/]{0,6}", any_filled()).prop_map(|(name, (shape, values))| SlotState {
        name,
        shape,
        values,
    });
    let slots = prop::collection::vec(slot, 0..4).prop_map(|mut slots| {
        let mut seen = std::collections::HashSet::new();
        slots.retain(|s| seen.insert(s.name.clone()));
        slots
    });
    (any_name(), 0usize..3, any_filled(), any::<bool>(), slots).prop_map(
        |(name, group, (shape, values), has, slots)| TensorState {
            name,
            group,
            shape,
            param: has.then_some(values),
            slots,
        },
    )
}

fn any_numbers() -> impl Strategy<Value = BTreeMap<String, f64>> {
    let number = prop_oneof![
        any::<u64>().prop_map(f64::from_bits),
        prop::sample::select(vec![
            -0.0,
            f64::INFINITY,
            f64::NEG_INFINITY,
            f64::NAN,
            f64::from_bits(0xfff0_0000_0000_0001), // signalling
            f64::from_bits(1),                     // subnormal
            f64::MAX,
            0.1,
        ]),
    ];
    prop::collection::btree_map(".{0,5}", number, 0..4)
}

fn any_snapshot() -> impl Strategy<Value = Snapshot> {
    let group = (".{0,5}", ".{0,5}", any_numbers())
        .prop_map(|(name, optimizer, hypers)| GroupState { name, optimizer, hypers });
    let groups = prop::collection::vec(group, 3..5);
    let tensors = prop::collection::vec(any_tensor(), 0..5);
    (any::<u64>(), groups, tensors, any_numbers()).prop_map(
        |(step, groups, mut tensors, numbers)| {
            let mut seen = std::collections::HashSet::new();
            tensors.retain(|t| seen.insert(t.name.clone()));
            let mut snapshot = Snapshot::default();
            (snapshot.step, snapshot.groups) = (step, groups);
            (snapshot.tensors, snapshot.numbers) = (tensors, numbers);
            snapshot
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 300,
        rng_seed: prop::test_runner::RngSeed::Fixed(7),
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn what_is_read_is_what_was_written(snapshot in any_snapshot()) {
        let bytes = to_bytes(&snapshot).expect("it is valid");
        let back = from_bytes(&bytes).expect("it was written");
        prop_assert!(same(&snapshot, &back), "{snapshot:?}\n{back:?}");
        prop_assert_eq!(bytes, to_bytes(&back).expect("it is valid"), "equal bytes");
    }
}

/// A safetensors file from the text of its header and some bytes.
fn file(header: &str, data: &[u8]) -> Vec<u8> {
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend_from_slice(header.as_bytes());
    bytes.extend_from_slice(data);
    bytes
}

/// The same with the metadata of a snapshot.
fn told(metadata: &str, tensors: &str, data: &[u8]) -> Vec<u8> {
    let metadata = serde_json::to_string(metadata).expect("a text");
    let comma = if tensors.is_empty() { "" } else { "," };
    file(&format!("{{\"__metadata__\":{{\"gradstep\":{metadata}}}{comma}{tensors}}}"), data)
}

fn message(bytes: &[u8]) -> String {
    match from_bytes(bytes) {
        Err(error @ Error::Checkpoint { .. }) => error.to_string(),
        other => panic!("{other:?}"),
    }
}

const ONE: &str = r#"{"version":1,"step":3,"groups":[{"name":"g","optimizer":"o","hypers":{}}],
    "tensors":[{"name":"w","group":0,"shape":[2],"param":true,"slots":["m"]}],"numbers":{}}"#;
const PARAM: &str = r#""param/w":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}"#;
const SLOT: &str = r#""state/w/m":{"dtype":"F32","shape":[2],"data_offsets":[8,16]}"#;

/// Ranges one after the other up to the last address, so that their end plus anything overflows.
fn to_the_last_address() -> String {
    let size = (1u64 << 61) - 8;
    let eight = (0..8).map(|i| (size / 4, i * size, (i + 1) * size));
    let all = eight.chain([(15, 8 * size, 8 * size + 60)]).enumerate();
    let info = |(i, (n, from, to))| {
        format!("\"{i}\":{{\"dtype\":\"F32\",\"shape\":[{n}],\"data_offsets\":[{from},{to}]}}")
    };
    all.map(info).collect::<Vec<_>>().join(",")
}

#[test]
fn hostile_files_are_errors_that_say_what_is_wrong() {
    let both = format!("{PARAM},{SLOT}");
    let data = [0u8; 16];
    let good = told(ONE, &both, &data);
    assert_eq!(from_bytes(&good).expect("a small file").step, 3, "the table's starting point");
    let ones = |from: &str, to: &str| {
        assert!(ONE.contains(from), "{from}");
        told(&ONE.replace(from, to), &both, &data)
    };
    let pairs = |from: &str, to: &str| {
        assert!(both.contains(from), "{from}");
        told(ONE, &both.replace(from, to), &data)
    };
    let huge = |n: u64| {
        let mut bytes = n.to_le_bytes().to_vec();
        bytes.extend_from_slice(b"{}");
        bytes
    };
    let deep = "[".repeat(100_000);
    for (bytes, has) in [
        (Vec::new(), "header"),
        (vec![1, 2, 3], "header"),
        (huge(u64::MAX), "header"),
        (huge(1 << 60), "header"),
        (huge(99_000_000), "header"),
        (file("{}", &[]), "no entry `gradstep`"),
        (file("[1, 2]", &[]), "valid safetensors"),
        (file(&deep, &[]), "valid safetensors"),
        (file("{\"__metadata__\":{\"format\":\"pt\"}}", &[]), "no entry `gradstep`"),
        (told("{", "", &[]), "metadata cannot be read"),
        (told(&deep, "", &[]), "metadata cannot be read"),
        (told("{\"version\":2,\"of\":\"tomorrow\"}", "", &[]), "version 2, and this library"),
        (told("{\"version\":1}", "", &[]), "missing field"),
        (ones("\"step\":3", "\"step\":-3"), "metadata cannot be read"),
        (ones("\"step\":3", "\"step\":1e99"), "metadata cannot be read"),
        (ones("\"step\":3", "\"steps\":3"), "unknown field"),
        (ones("\"group\":0", "\"group\":1"), "group 1 of 1"),
        (ones("\"slots\":[\"m\"]", "\"slots\":[]"), "2 tensors, and its metadata tells of 1"),
        (ones("\"slots\":[\"m\"]", "\"slots\":[\"m\",\"v\"]"), "`state/w/v` is missing"),
        (ones("\"slots\":[\"m\"]", "\"slots\":[\"m\",\"m\"]"), "`m` of `w` occurs twice"),
        (ones("\"slots\":[\"m\"]", "\"slots\":[\"m/n\"]"), "has a slash"),
        (ones("\"param\":true", "\"param\":false"), "2 tensors, and its metadata tells of 1"),
        (ones("\"shape\":[2]", "\"shape\":[3]"), "`param/w` has shape [2], and its tensor [3]"),
        (ones("\"name\":\"w\"", "\"name\":\"v\""), "`param/v` is missing"),
        (ones("\"hypers\":{}", "\"hypers\":{\"lr\":\"much\"}"), "metadata cannot be read"),
        (pairs("[8,16]", "[4,12]"), "valid safetensors"),
        (pairs("[8,16]", "[0,8]"), "valid safetensors"),
        (pairs("[8,16]", "[16,8]"), "valid safetensors"),
        (pairs("[8,16]", "[8,18446744073709551615]"), "valid safetensors"),
        (pairs("\"shape\":[2]", "\"shape\":[4611686018427387904,4]"), "valid safetensors"),
        (pairs("\"shape\":[2]", "\"shape\":[1152921504606846976]"), "valid safetensors"),
        (pairs("\"shape\":[2]", "\"shape\":[-2]"), "valid safetensors"),
        (pairs("F32", "I32"), "is of I32, and F32 or F64"),
        (pairs("F32", "F128"), "valid safetensors"),
        (told(ONE, PARAM, &data[..8]), "`state/w/m` is missing"),
        (told(ONE, &both, &data[..12]), "valid safetensors"),
        (told(ONE, &both, &[0; 20]), "valid safetensors"),
        (file("{} {}", &[]), "trailing characters"),
        (file("{\"__metadata__\":{},\"__metadata__\":{}}", &[]), "duplicate field `__metadata__`"),
        (file("{\"__metadata__\":{\"a\":\"\",\"a\":\"\"}}", &[]), "`a` occurs twice"),
        (told(ONE, &format!("{both},{SLOT}"), &data), "`state/w/m` occurs twice"),
        (ones("\"hypers\":{}", "\"hypers\":{\"lr\":1,\"lr\":2}"), "`lr` occurs twice"),
        (ones("\"hypers\":{}", "\"hypers\":{\"lr\":\"NaN(0x1)\"}"), "\"NaN(0x1)\" is no number"),
        (told(ONE, &both.replace("[8,16]", "[12,20]"), &[0; 20]), "valid safetensors"),
        (pairs("F32", "F16"), "valid safetensors"),
        (pairs("[8,16]", "[8,18446744073709551616]"), "valid safetensors"),
        (told(ONE, &to_the_last_address(), &data), "and 16 follow"),
        (
            told(&ONE.replace("\"shape\":[2]", "\"shape\":[9223372036854775808,4]"), &both, &data),
            "[9223372036854775808, 4], with more elements than can be counted",
        ),
    ] {
        let message = message(&bytes);
        assert!(message.to_lowercase().contains(&has.to_lowercase()), "{message}\nlacks {has}");
    }
}

#[test]
fn a_file_that_is_cut_anywhere_is_an_error() {
    let bytes = to_bytes(&snapshot(vec![tensor("w"), tensor("a/b")])).expect("valid");
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("cut");
    for n in 0..bytes.len() {
        let message = message(&bytes[..n]);
        std::fs::write(&path, &bytes[..n]).expect("written");
        let of_file = load(&path).expect_err("it is cut").to_string();
        let named = format!("{}: it is no valid", path.display());
        assert_eq!(of_file, message.replacen("it is no valid", &named, 1), "named");
    }
}

#[test]
fn flipped_bits_are_noticed_or_make_another_snapshot() {
    let bytes = to_bytes(&snapshot(vec![tensor("w"), tensor("x")])).expect("valid");
    let (mut rng, mut noticed) = (fastrand::Rng::with_seed(11), 0);
    for _ in 0..20_000 {
        let mut bytes = bytes.clone();
        for _ in 0..rng.usize(1..4) {
            let at = rng.usize(..bytes.len());
            bytes[at] ^= 1 << rng.u32(..8);
        }
        match from_bytes(&bytes) {
            // What can be read can be written and read again.
            Ok(read) => {
                let again = from_bytes(&to_bytes(&read).expect("valid")).expect("valid");
                assert!(same(&read, &again), "{read:?}");
            }
            Err(Error::Checkpoint { .. }) => noticed += 1,
            Err(other) => panic!("{other:?}"),
        }
    }
    assert!(noticed > 5_000, "{noticed} of 20000 were noticed");
}

#[test]
fn snapshots_that_contradict_themselves_are_not_written() {
    let with = |change: fn(&mut TensorState)| {
        let mut one = tensor("w");
        change(&mut one);
        to_bytes(&snapshot(vec![one])).map(|_| ()).expect_err("it is not valid").to_string()
    };
    assert!(with(|t| t.group = 1).contains("group 1 of 1"), "no such group");
    assert!(with(|t| t.slots[0].name = "a/b".into()).contains("slash"), "a slash");
    assert!(with(|t| t.slots[1].name = "exp_avg".into()).contains("twice"), "two slots");
    assert!(with(|t| t.shape = vec![2, 2]).contains("6 values"), "too many values");
    assert!(with(|t| t.slots[0].shape = vec![usize::MAX, 4]).contains("6 values"), "overflow");
    let error = to_bytes(&snapshot(vec![tensor("w"), tensor("w")])).expect_err("two of one name");
    assert!(error.to_string().contains("`param/w` occurs twice"), "{error}");
}

#[test]
fn a_place_that_cannot_be_written_is_named_and_left_as_it_was() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("run.safetensors");
    let (first, second) = (snapshot(vec![tensor("first")]), snapshot(vec![tensor("second")]));
    save(&first, &path).expect("written");
    save(&second, &path).expect("written over");
    assert!(same(&load(&path).expect("read"), &second), "the second is there");
    let files = || std::fs::read_dir(folder.path()).expect("a folder").count();
    assert_eq!(files(), 1, "nothing else is left");

    let nowhere = folder.path().join("nowhere/run.safetensors");
    let error = save(&first, &nowhere).expect_err("no such folder").to_string();
    assert!(error.contains(&nowhere.display().to_string()), "{error}");
    let taken = folder.path().join("taken");
    std::fs::create_dir(&taken).expect("a folder");
    std::fs::write(taken.join("inhabitant"), b"x").expect("written");
    let error = save(&first, &taken).expect_err("a folder is there").to_string();
    assert!(error.contains("taken"), "{error}");
    assert_eq!(files(), 2, "the temporary file was removed");
    for path in [nowhere, taken] {
        let error = load(&path).expect_err("nothing to read").to_string();
        assert!(error.contains(&path.display().to_string()), "{error}");
    }
    std::fs::write(&path, b"nonsense").expect("written");
    let error = load(&path).expect_err("nonsense").to_string();
    assert!(error.contains("run.safetensors") && error.contains("header"), "{error}");
}

#[cfg(unix)]
#[test]
fn a_file_is_as_readable_as_any_other() {
    use std::os::unix::fs::PermissionsExt;

    let folder = tempfile::tempdir().expect("a folder");
    let (path, other) = (folder.path().join("a"), folder.path().join("b"));
    save(&snapshot(vec![tensor("w")]), &path).expect("written");
    std::fs::write(&other, b"").expect("written");
    let mode = |path| std::fs::metadata(path).expect("a file").permissions().mode();
    assert_eq!(mode(&path), mode(&other), "permissions");
}

#[test]
fn a_run_that_is_resumed_from_a_file_ends_with_the_same_bits() {
    fn check<T: gradstep::Element + From<f32> + Into<f64>>()
    where
        Vec<T>: Into<Values>,
    {
        let setup = Setup::new()
            .tensors([("w", vec![12, 7]), ("b", vec![7])])
            .group(Group::new("matrix", Came::new(1e-2)).of(Select::rank(2..)))
            .group(Group::new("vector", AdamW::new(1e-2)));
        let grad = |n: usize, t: u64| -> Vec<T> {
            let mut rng = fastrand::Rng::with_seed(t * 100 + n as u64);
            (0..n).map(|_| <T as From<f32>>::from(rng.f32() - 0.5)).collect()
        };
        let run = |optimizer: &mut gradstep::CpuOptimizer<T>, params: &mut [Vec<T>; 2], steps| {
            for t in steps {
                let ([w, b], grads) = (&mut *params, [grad(84, t), grad(7, t)]);
                let mut step = optimizer.begin();
                step.tensor("w", w, &grads[0]).expect("lent");
                step.tensor("b", b, &grads[1]).expect("lent");
                step.finish().expect("a step");
            }
        };
        let start =
            || [vec![<T as From<f32>>::from(0.5); 84], vec![<T as From<f32>>::from(0.25); 7]];
        let make = || setup.cpu::<T>(&Cpu::default()).expect("valid");
        let (mut straight, mut params) = (make(), start());
        run(&mut straight, &mut params, 0..9);

        let (mut first, mut half) = (make(), start());
        run(&mut first, &mut half, 0..4);
        let mut taken = first.snapshot().expect("a snapshot");
        taken.set_param("w", half[0].clone()).expect("known");
        taken.set_param("b", half[1].clone()).expect("known");
        let read = from_bytes(&to_bytes(&taken).expect("valid")).expect("valid");
        let mut resumed = make();
        resumed.restore(&read).expect("it fits");
        let param = |name| -> Vec<T> {
            read.tensor(name).and_then(|t| t.param.as_ref()).expect("a parameter").to()
        };
        let mut again = [param("w"), param("b")];
        run(&mut resumed, &mut again, 4..9);
        let bits = |p: &[Vec<T>; 2]| -> Vec<u64> {
            p.iter().flatten().map(|&x| Into::<f64>::into(x).to_bits()).collect()
        };
        assert_eq!(bits(&params), bits(&again), "parameters");
        assert_eq!(
            straight.snapshot().expect("a snapshot"),
            resumed.snapshot().expect("a snapshot"),
            "state"
        );
    }
    check::<f32>();
    check::<f64>();
}

/// Any reader of safetensors reads these files.
#[test]
fn a_checkpoint_is_a_plain_safetensors_file() {
    let bytes = to_bytes(&snapshot(vec![tensor("layer/w")])).expect("valid");
    let file = safetensors::SafeTensors::deserialize(&bytes).expect("a safetensors file");
    let mut names: Vec<_> = file.names().into_iter().map(ToString::to_string).collect();
    names.sort();
    let slots = ["count", "exp_avg", "exp_avg_sq_row"].map(|s| format!("state/layer/w/{s}"));
    assert_eq!(names[1..], slots, "state");
    assert_eq!(names[0], "param/layer/w", "the parameter");
    let (_, header) = safetensors::SafeTensors::read_metadata(&bytes).expect("a header");
    let metadata: &HashMap<String, String> = header.metadata().as_ref().expect("metadata");
    assert_eq!(metadata.len(), 1, "one entry, so that bytes have an order");
}

/// To the last bit, and whatever else a tool puts into the metadata.
#[test]
fn a_checkpoint_is_what_safetensors_itself_would_write() {
    let snapshot = snapshot(vec![tensor("layer/w"), tensor("b"), tensor("a")]);
    let bytes = to_bytes(&snapshot).expect("valid");
    let (_, header) = safetensors::SafeTensors::read_metadata(&bytes).expect("a header");
    let file = safetensors::SafeTensors::deserialize(&bytes).expect("a safetensors file");
    let metadata = header.metadata().clone().expect("metadata");
    let again = safetensors::serialize(file.iter(), Some(metadata.clone())).expect("valid");
    assert!(again == bytes, "{:?}", String::from_utf8_lossy(&again));
    let more = HashMap::from([("format".to_string(), "pt".to_string())]);
    let more = metadata.into_iter().chain(more).collect();
    let again = safetensors::serialize(file.iter(), Some(more)).expect("valid");
    assert!(same(&from_bytes(&again).expect("it is read"), &snapshot), "the same");
}

#[test]
fn a_name_without_a_folder_is_saved_here() {
    let name = format!("checkpoint-{}.tmp", std::process::id());
    let one = snapshot(vec![tensor("w")]);
    save(&one, &name).expect("written");
    let loaded = load(&name);
    std::fs::remove_file(&name).expect("it is there");
    assert!(same(&loaded.expect("read"), &one), "the same");
}

/// A pipe would be waited for, and a device has no end.
#[cfg(unix)]
#[test]
fn what_is_not_a_file_is_not_read() {
    let folder = tempfile::tempdir().expect("a folder");
    let pipe = folder.path().join("pipe");
    let made = std::process::Command::new("mkfifo").arg(&pipe).status().expect("mkfifo");
    assert!(made.success(), "{made}");
    for path in [pipe.as_path(), std::path::Path::new("/dev/zero")] {
        let error = load(path).expect_err("not a file").to_string();
        let says = format!("{} cannot be read (it is not a regular file)", path.display());
        assert!(error.contains(&says), "{error}");
    }
}

#[test]
fn a_loaded_snapshot_lists_every_difference() {
    let saved = snapshot(vec![tensor("w"), tensor("b")]);
    let loaded = from_bytes(&to_bytes(&saved).expect("valid")).expect("read");
    assert_eq!(loaded.differences(&saved), [""; 0]);
    // Values, their precision, the step, hyper-parameters and the order are none.
    let mut other = saved.clone();
    other.step = 99;
    other.groups[0].hypers.insert("lr".into(), 9.0);
    other.tensors[0].slots[0].values = vec![2.0f32; 6].into();
    other.tensors.reverse();
    assert_eq!(loaded.differences(&other), [""; 0]);

    let mut other = saved;
    other.groups.push(GroupState { optimizer: "adamw".into(), ..GroupState::default() });
    other.tensors[0].shape = vec![3, 2];
    other.tensors[0].slots[0].shape = vec![3, 2];
    other.tensors[0].slots[1].name = "momentum".into();
    other.tensors[1].group = 1;
    other.tensors.push(TensorState { name: "c".into(), ..TensorState::default() });
    other.numbers = BTreeMap::from([("skipped".into(), 0.0)]);
    assert_eq!(
        loaded.differences(&other),
        [
            "tensor `w` has shape [2, 3] and not [3, 2]",
            "slot `exp_avg` of `w` has shape [2, 3] and not [3, 2]",
            "slot `momentum` of `w` is missing",
            "slot `exp_avg_sq_row` of `w` is unexpected",
            "tensor `b` has state of \"came\" and not of \"adamw\"",
            "tensor `c` is missing",
            "number `skipped` is missing",
            "number `loss_scale` is unexpected",
        ]
    );
    other.tensors.remove(0);
    let list = loaded.differences(&other);
    assert!(list.contains(&"tensor `w` is unexpected".into()), "{list:?}");
}
