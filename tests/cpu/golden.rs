//! The official codes' trajectories, step by step. See `tests/golden/README.md`.

use std::path::Path;

use gradstep::{Cpu, Optimizer as _};
use serde_json::Value as Json;

use crate::common::golden::*;
use crate::common::oracle::Oracle;
use crate::common::run::{Number, narrow, widen};
use crate::common::tolerance::{self, F32, F64, OFFICIAL_F32, OFFICIAL_F64, What};

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
        let tolerance = allowed(tolerance, case, name);
        for t in 0..STEPS {
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
        if T::UNIT == F32 {
            let slot =
                |slot: &str| widen(&opt.slot(slot).unwrap_or_else(|e| panic!("{label}: {e}")));
            check_state(case, name, shape, &file, test, slot);
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
        for t in 0..STEPS {
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
