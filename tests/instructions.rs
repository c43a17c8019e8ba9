//! Steps take no more instructions than they did.
//!
//! Time is noise on a shared machine, instructions are not: callgrind counts those of a few steps, and
//! more than 30 % above `tests/instructions.json` fail. `UPDATE=1 cargo test --test instructions` writes
//! the file anew. `GRADSTEP_VALGRIND=require` fails without valgrind, `auto` (the default) says that
//! nothing was counted, `off` counts nothing.

use std::collections::BTreeMap;
use std::process::{Command, ExitCode};

use gradstep::optim::{Adafactor, AdamW, Came, Sm3};
use gradstep::{Cpu, Group, Isa, Setup};

const TOLERANCE: f64 = 1.3;
/// The loops of a processor without AVX-512, which callgrind does not know.
const ISAS: [(&str, Isa); 2] = [("SSE2", Isa::Baseline), ("AVX2", Isa::Avx2)];

/// Name, group, tensors.
fn cases() -> Vec<(&'static str, Group, Vec<Vec<usize>>)> {
    vec![
        ("adamw 256x256", Group::new("all", AdamW::default()), vec![vec![256, 256]]),
        ("came 256x256", Group::new("all", Came::default()), vec![vec![256, 256]]),
        ("came 1000x8", Group::new("all", Came::default()), vec![vec![1000, 8]]),
        ("came 20*768", Group::new("all", Came::default()), vec![vec![768]; 20]),
        ("adamw 20*768", Group::new("all", AdamW::default()), vec![vec![768]; 20]),
        ("adafactor 100x257", Group::new("all", Adafactor::default()), vec![vec![100, 257]]),
        ("sm3 1000x3", Group::new("all", Sm3::default()), vec![vec![1000, 3]]),
        ("came 500x17", Group::new("all", Came::default()), vec![vec![500, 17]]),
        ("came 4x5000", Group::new("all", Came::default()), vec![vec![4, 5000]]),
        // From beyond all caches.
        ("adamw 1600x1000", Group::new("all", AdamW::default()), vec![vec![1600, 1000]]),
        ("came 200000x8", Group::new("all", Came::default()), vec![vec![200_000, 8]]),
    ]
}

/// Takes steps: what is counted.
fn run(case: usize, isa: usize, steps: usize) {
    let (_, group, shapes) = cases().swap_remove(case);
    let cpu = Cpu::single_threaded().with_isa(ISAS[isa].1).expect("it was asked for before");
    let tensors = shapes.iter().enumerate().map(|(i, s)| (format!("t{i}"), s.clone()));
    let setup = Setup::new().tensors(tensors).group(group);
    let mut set = setup.cpu::<f32>(&cpu).expect("a valid setup");
    let ids: Vec<_> = (0..shapes.len()).filter_map(|i| set.groups().id(&format!("t{i}"))).collect();
    let n = shapes[0].iter().product::<usize>();
    let mut params = vec![vec![0.5f32; n]; shapes.len()];
    #[allow(clippy::cast_precision_loss, reason = "small numbers")]
    let grad: Vec<f32> = (0..n).map(|i| (i % 17) as f32 * 0.1 - 0.8).collect();
    for _ in 0..steps {
        let mut step = set.begin();
        for (&id, p) in ids.iter().zip(&mut params) {
            step.tensor(id, p, &grad).expect("a tensor");
        }
        step.finish().expect("a step");
    }
}

/// Instructions of this program taking so many steps. None: there is no valgrind.
fn count(case: usize, isa: usize, steps: usize) -> Option<f64> {
    let program = std::env::current_exe().expect("the path of this program");
    let out = Command::new("valgrind")
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
        .arg(program)
        .env("GRADSTEP_COUNT", format!("{case} {isa} {steps}"))
        .output()
        .ok()?;
    let text = String::from_utf8_lossy(&out.stderr);
    let count = text.split("Collected :").nth(1).and_then(|t| t.split_whitespace().next());
    match count.and_then(|n| n.parse().ok()) {
        Some(n) if out.status.success() => Some(n),
        _ => panic!("valgrind counted nothing:\n{text}"),
    }
}

fn main() -> ExitCode {
    if let Ok(what) = std::env::var("GRADSTEP_COUNT") {
        let what: Vec<usize> = what.split(' ').map(|n| n.parse().expect("a number")).collect();
        run(what[0], what[1], what[2]);
        return ExitCode::SUCCESS;
    }
    let gate = std::env::var("GRADSTEP_VALGRIND").unwrap_or_else(|_| "auto".into());
    let there =
        Command::new("valgrind").arg("--version").output().is_ok_and(|o| o.status.success());
    match (gate.as_str(), there) {
        ("require" | "auto", true) => {}
        ("require", false) => {
            eprintln!(
                "there is no valgrind to count with: install it, or set GRADSTEP_VALGRIND=off"
            );
            return ExitCode::FAILURE;
        }
        ("auto" | "off", _) => {
            eprintln!(
                "NOT COUNTED: instructions (GRADSTEP_VALGRIND={gate}, valgrind there: {there})"
            );
            return ExitCode::SUCCESS;
        }
        _ => panic!("GRADSTEP_VALGRIND is `{gate}`; it must be require, auto or off"),
    }

    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/instructions.json");
    let known: BTreeMap<String, f64> = std::fs::read(&path)
        .map(|text| serde_json::from_slice(&text).expect("numbers by name"))
        .unwrap_or_default();
    let update = std::env::var_os("UPDATE").is_some();
    let (mut found, mut failed) = (BTreeMap::new(), false);
    for (case, (name, ..)) in cases().into_iter().enumerate() {
        for (isa, (isa_name, isa_needed)) in ISAS.into_iter().enumerate() {
            if Cpu::single_threaded().with_isa(isa_needed).is_err() {
                eprintln!("NOT COUNTED: {name} with {isa_name}, which this processor has not");
                continue;
            }
            let steps = |n| count(case, isa, n).expect("valgrind was there");
            let each = (steps(12) - steps(2)) / 10.0;
            let key = format!("{name} {isa_name}");
            let before = known.get(&key).copied();
            let worse = before.is_none_or(|before| each > before * TOLERANCE);
            println!(
                "{key:28} {each:10.0} instructions a step, {} before{}",
                before.map_or("none".into(), |n| format!("{n:.0}")),
                if worse && !update { "  MORE THAN ALLOWED" } else { "" }
            );
            failed |= worse;
            found.insert(key, each.round());
        }
    }
    if update {
        let text = serde_json::to_string_pretty(&found).expect("numbers") + "\n";
        std::fs::write(&path, text).expect("a writable file");
        return ExitCode::SUCCESS;
    }
    if failed {
        eprintln!("if this is meant: UPDATE=1 cargo test --test instructions");
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}
