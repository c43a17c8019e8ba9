//! Sums over a million rows and a million columns keep their accuracy.

use gradstep::optim::{Adafactor, Came};
use gradstep::{Cpu, Layout};

use crate::common::gate;
use crate::common::run::widen;
use crate::common::table::{Any, Tensor, Values};
use crate::common::tolerance::{self, F32};
use crate::run::{Run, step, tensor, wait};

const MILLION: usize = 1_000_003;

fn long() -> Vec<Tensor> {
    vec![
        tensor(&[MILLION], Layout::Auto),
        tensor(&[MILLION, 4], Layout::Auto),
        tensor(&[3, MILLION], Layout::Auto),
    ]
}

/// The GPU's `f32` against the CPU's `f64`, parameters and state.
fn accurate(optimizer: Any, values: impl Fn(&Run, usize, u64) -> Vec<f32>, test: &'static str) {
    let Some(gpu) = gate::gpu() else { return };
    for long in long() {
        let run = Run {
            name: "a million".into(),
            tensors: vec![long.clone()],
            values: Values::Normal,
            seed: 5,
            steps: 2,
            test,
        };
        let mut arena = run.arena(gpu, optimizer.clone());
        let cpu = Cpu::default();
        let mut cpu =
            cpu.prepare_with::<f64, _>(optimizer.clone(), &long.shape, long.layout).expect("valid");
        let start = widen(&run.start(0));
        let mut wanted = start.clone();
        for t in 1..=run.steps {
            let g = values(&run, 0, t);
            arena.write_grad(0, &g).expect("written");
            step(gpu, &mut arena);
            cpu.step(&mut wanted, &widen(&g)).expect("a valid step");
        }
        let what = run.what(0, run.steps);
        let found = widen(&wait(arena.read_param(0)).expect("read"));
        tolerance::check(tolerance::GPU, F32, &what, &mut 0.0, &start, &found, &wanted);
        for (name, _) in cpu.slots() {
            let found = widen(&wait(arena.read_slot(0, name)).expect("read"));
            let wanted = cpu.slot(name).expect("a slot");
            let (gpu, size) = (tolerance::GPU, &mut 0.0);
            tolerance::check_slot(gpu, F32, &what, name, size, &found, &wanted);
        }
    }
}

#[test]
fn random_terms_by_came() {
    let values = |run: &Run, i, t| run.gradient(i, t);
    accurate(Any::new(Came::new(1e-3)), values, "random_terms_by_came");
}

#[test]
fn random_terms_by_adafactor() {
    let values = |run: &Run, i, t| run.gradient(i, t);
    accurate(Any::new(Adafactor::torch()), values, "random_terms_by_adafactor");
}

#[test]
fn equal_terms() {
    // They all round the same way.
    let values = |run: &Run, i: usize, _| vec![0.1; run.tensors[i].shape.iter().product()];
    accurate(Any::new(Adafactor::hugging_face()), values, "equal_terms");
}
