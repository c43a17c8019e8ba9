//! Steps are recorded: ahead of time, in vain, and once too often.

use gradstep::gpu::{Arena, Gpu};
use gradstep::optim::{AdamW, Came, Sgd};
use gradstep::{Error, Layout, Optimizer};

use crate::common::gate;
use crate::common::table::{Any, Values, optimizers, seed_of, small_shapes};
use crate::run::{Run, bits, finish, step, submit, tensor, wait};
use crate::table::{even_shapes, gpu_shapes, tall_shapes};

/// The steps that the library's ring holds.
const RING: usize = 64;

fn run(name: &str) -> Run {
    Run {
        name: name.into(),
        tensors: vec![
            tensor(&[67], Layout::Auto),
            tensor(&[5, 18], Layout::Auto),
            tensor(&[300, 7], Layout::Auto),
            tensor(&[3, 5, 4], Layout::LastTwo),
        ],
        values: Values::Normal,
        seed: seed_of(name),
        steps: 3,
        test: "encoding",
    }
}

/// An arena that took one step, with gradients of the next.
fn started(run: &Run, gpu: &Gpu, optimizer: Any) -> Arena<Any> {
    let mut arena = run.arena(gpu, optimizer);
    run.step(gpu, &mut arena, 1);
    for i in 0..run.tensors.len() {
        arena.write_grad(i, &run.gradient(i, 2)).expect("written");
    }
    arena
}

const RATES: [f64; 3] = [1e-2, 1e-4, 3e-3];

#[test]
fn three_steps_recorded_before_one_submission_are_three_steps() {
    let Some(gpu) = gate::gpu() else { return };
    for case in optimizers() {
        let run = run(case.name);
        let [mut single, mut ahead, mut three] =
            [(); 3].map(|()| started(&run, gpu, case.optimizer.clone()));
        for lr in RATES {
            single.optimizer_mut().set("lr", lr);
            step(gpu, &mut single);
            finish(gpu);
        }
        submit(gpu, |encoder| {
            for lr in RATES {
                ahead.optimizer_mut().set("lr", lr);
                ahead.encode(encoder).expect("recorded");
            }
        });
        let encoders = RATES.map(|lr| {
            let mut encoder = gpu.device().create_command_encoder(&Default::default());
            three.optimizer_mut().set("lr", lr);
            three.encode(&mut encoder).expect("recorded");
            encoder.finish()
        });
        gpu.queue().submit(encoders);
        let wanted = run.everything(&single);
        assert_eq!(run.everything(&ahead), wanted, "{}: one encoder", case.name);
        assert_eq!(run.everything(&three), wanted, "{}: three encoders", case.name);
        // Where steps grow from nothing, the rate is not what bounds them.
        if case.optimizer.hyper("warmup_init") != Some(1.0) {
            let mut equal = started(&run, gpu, case.optimizer.clone());
            RATES.iter().for_each(|_| step(gpu, &mut equal));
            assert!(run.everything(&equal) != wanted, "{}: the rates matter", case.name);
        }
    }
}

#[test]
fn a_step_that_is_never_submitted_changes_nothing_and_gives_its_place_back() {
    let Some(gpu) = gate::gpu() else { return };
    let run = run("dropped");
    let mut arena = run.arena(gpu, Came::new(1e-3));
    run.step(gpu, &mut arena, 1);
    let before = run.everything(&arena);
    // More than the ring holds.
    for i in 0..3 * RING {
        let mut encoder = gpu.device().create_command_encoder(&Default::default());
        arena.encode(&mut encoder).expect("the places of dropped steps are free");
        if i % 2 == 0 {
            drop(encoder.finish());
        }
    }
    finish(gpu);
    assert_eq!(run.everything(&arena), before, "parameters and state");
    assert_eq!(arena.steps(), 1 + 3 * RING as u64, "they count in the step number");
    arena.set_steps(1);
    assert_eq!(arena.steps(), 1, "which can be set");
}

#[test]
fn a_full_ring_is_an_error_until_the_steps_are_over() {
    let Some(gpu) = gate::gpu() else { return };
    let run = run("full");
    let mut arena = run.arena(gpu, AdamW::default());
    let mut one_by_one = run.arena(gpu, AdamW::default());
    for i in 0..run.tensors.len() {
        arena.write_grad(i, &run.gradient(i, 1)).expect("written");
        one_by_one.write_grad(i, &run.gradient(i, 1)).expect("written");
    }
    let mut encoder = gpu.device().create_command_encoder(&Default::default());
    for _ in 0..RING {
        arena.encode(&mut encoder).expect("room for it");
    }
    for _ in 0..2 {
        let error = arena.encode(&mut encoder).expect_err("no room");
        assert_eq!(error, Error::RingFull { in_flight: RING, capacity: RING });
        assert!(error.to_string().contains("submit"), "{error}");
        assert_eq!(arena.steps(), RING as u64, "it does not count");
    }
    gpu.queue().submit([encoder.finish()]);
    finish(gpu);
    for _ in 0..RING {
        step(gpu, &mut arena);
    }
    for _ in 0..2 * RING {
        step(gpu, &mut one_by_one);
        finish(gpu);
    }
    assert_eq!(run.everything(&arena), run.everything(&one_by_one), "no step was lost");
}

#[test]
fn the_ring_turns_while_the_device_is_polled() {
    let Some(gpu) = gate::gpu() else { return };
    let mut run = run("turning");
    run.tensors.truncate(2);
    let (mut a, mut b) = (run.arena(gpu, AdamW::default()), run.arena(gpu, AdamW::default()));
    for t in 1..=200 {
        // Three in flight on one side, none on the other.
        run.step(gpu, &mut a, t);
        if t % 3 == 0 {
            finish(gpu);
        }
        run.step(gpu, &mut b, t);
        finish(gpu);
    }
    assert_eq!(run.everything(&a), run.everything(&b), "200 steps");
}

#[test]
fn changed_numbers_compile_nothing_and_equal_the_cpu() {
    let Some(shared) = gate::gpu() else { return };
    // Programs are counted for each `Gpu`.
    let gpu = &Gpu::new(shared.device(), shared.queue()).expect("alive");
    assert_eq!(gpu.compiled_programs(), 0, "nothing yet");
    for name in ["adamw", "came", "sm3 momentum", "adafactor hf momentum"] {
        let case = optimizers().into_iter().find(|c| c.name == name).expect("in the table");
        let mut run = run(name);
        (run.steps, run.test) = (9, "changed_numbers_compile_nothing_and_equal_the_cpu");
        let arena = run.arena(gpu, case.optimizer.clone());
        let compiled = gpu.compiled_programs();
        drop(arena);
        run.check(
            gpu,
            || case.optimizer.clone(),
            |optimizer, t| {
                optimizer.set("lr", 1e-3 * t as f64);
                if t > 3 {
                    optimizer.set("beta1", 0.5);
                    optimizer.set("weight_decay", 0.1);
                    optimizer.set("clip_threshold", 0.25);
                    optimizer.set("momentum", 0.7);
                }
            },
        );
        assert_eq!(gpu.compiled_programs(), compiled, "{name}: a second arena, nine steps");
    }
    let clone = gpu.clone();
    assert_eq!(clone.compiled_programs(), gpu.compiled_programs(), "clones share them");
}

#[test]
fn a_change_of_structure_is_an_error_and_changes_nothing() {
    let Some(gpu) = gate::gpu() else { return };
    let run = run("structure");
    let mut arena = run.arena(gpu, Came::new(1e-3));
    run.step(gpu, &mut arena, 1);
    let before = run.everything(&arena);
    let programs = gpu.compiled_programs();
    *arena.optimizer_mut() = Came::new(1e-3).with_clip_update(Some(1.0));
    let error = submit(gpu, |e| arena.encode(e)).expect_err("another definition");
    assert!(matches!(error, Error::Structure { .. }), "{error}");
    assert!(error.to_string().contains("came"), "{error}");
    for (lr, word) in [(-1.0, "-1"), (f64::NAN, "NaN"), (f64::INFINITY, "inf")] {
        *arena.optimizer_mut() = Came::new(lr);
        let error = submit(gpu, |e| arena.encode(e)).expect_err("no learning rate");
        assert!(matches!(error, Error::Hyper { name: "lr", .. }), "{error}");
        assert!(error.to_string().contains(word), "{error}");
    }
    finish(gpu);
    assert_eq!(run.everything(&arena), before, "parameters and state");
    assert_eq!(arena.steps(), 1, "the step number");
    assert!(gpu.compiled_programs() >= programs, "programs stay");
    *arena.optimizer_mut() = Came::new(2e-3);
    step(gpu, &mut arena);
    assert_eq!(arena.steps(), 2, "it goes on");
    let refused = wait(gpu.arena(Sgd::new(-1.0), &[[3]])).expect_err("no learning rate");
    assert!(matches!(refused, Error::Hyper { name: "lr", .. }), "{refused}");
}

#[test]
fn two_runs_give_equal_bits() {
    let Some(gpu) = gate::gpu() else { return };
    for name in ["came", "came clipped", "adafactor torch", "adafactor hf", "sm3"] {
        let case = optimizers().into_iter().find(|c| c.name == name).expect("in the table");
        let tensors = [gpu_shapes(), tall_shapes(), small_shapes()].concat();
        let run = Run { tensors, values: Values::Mixed, ..run(name) };
        let once = || {
            let mut arena = run.arena(gpu, case.optimizer.clone());
            (1..=run.steps).for_each(|t| run.step(gpu, &mut arena, t));
            run.everything(&arena)
        };
        assert_eq!(once(), once(), "{name}");
    }
}

#[test]
fn neighbours_in_an_arena_do_not_matter() {
    let Some(gpu) = gate::gpu() else { return };
    for name in ["came", "adafactor torch"] {
        let case = optimizers().into_iter().find(|c| c.name == name).expect("in the table");
        // One matrix whose columns four do not divide, and all are taken one column at once.
        let uneven = [tensor(&[7, 15], Layout::Auto), tensor(&[2, 16_385], Layout::Auto)];
        for (tensors, beside) in
            [([small_shapes(), gpu_shapes()].concat(), &uneven[..]), (even_shapes(), &[])]
        {
            let all = Run { tensors, ..run(name) };
            let mut together = all.arena(gpu, case.optimizer.clone());
            (1..=all.steps).for_each(|t| all.step(gpu, &mut together, t));
            for i in (0..all.tensors.len()).step_by(3) {
                let seed = all.seed + i as u64;
                let tensors = [&all.tensors[i..=i], beside].concat();
                let alone = Run { tensors, seed, ..all.clone() };
                let mut arena = alone.arena(gpu, case.optimizer.clone());
                (1..=all.steps).for_each(|t| alone.step(gpu, &mut arena, t));
                let [a, b] = [(&together, i), (&arena, 0)]
                    .map(|(arena, i)| bits(&wait(arena.read_param(i)).expect("read")));
                assert_eq!(a, b, "{name} {:?}", all.tensors[i]);
            }
        }
    }
}
