//! Every optimizer of the table over small tensors that have all the seams there are (tails, blocks
//! of rows, several batch entries, segments, no elements), on one thread and on two. Its purpose is
//! to run under miri, which sees what the loops do to memory:
//!
//! ```text
//! MIRIFLAGS=-Zmiri-disable-isolation cargo +nightly miri test --test miri --no-default-features --features parallel,optimizers
//! ```

#![allow(missing_docs, reason = "a test")]
#![allow(clippy::cast_possible_truncation, reason = "numbers are rounded to f32 on purpose")]

#[path = "common/table.rs"]
#[allow(dead_code, unreachable_pub, reason = "shared with other tests")]
mod table;

use gradstep::optim::{AdamW, Came};
use gradstep::{Average, Cpu, Gradients, Group, Layout, Select, Setup};

const TENSORS: [(&[usize], Layout); 8] = [
    (&[], Layout::Auto),
    (&[0, 3], Layout::Auto),
    (&[19], Layout::Auto),
    (&[2, 17], Layout::Auto),
    (&[3, 26], Layout::Auto),
    // Several blocks of rows, and some that no loop takes together.
    (&[19, 7], Layout::Auto),
    (&[2, 3, 5], Layout::LastTwo),
    (&[16, 1], Layout::Flatten),
];

fn run(cpu: &Cpu, shape: &[usize], layout: Layout) {
    let n = shape.iter().product();
    for case in table::optimizers() {
        let mut step = cpu
            .prepare_with::<f32, _>(case.optimizer, shape, layout)
            .unwrap_or_else(|e| panic!("{} {shape:?}: {e}", case.name));
        let mut param = vec![1.0f32; n];
        for grad in [1.0f32, f32::NAN] {
            step.step(&mut param, &vec![grad; n]).expect("a step");
            let moved = param.iter().all(|&x| x != 1.0);
            assert!(moved, "{} {shape:?}: every element moves", case.name);
        }
        for name in step.slots().map(|s| s.0).collect::<Vec<_>>() {
            let values = step.slot(name).expect("a slot");
            step.set_slot(name, &values).expect("its own values");
        }
    }
}

#[test]
fn every_optimizer_keeps_to_its_memory() {
    for (shape, layout) in TENSORS {
        run(&Cpu::single_threaded(), shape, layout);
    }
}

/// Everything around a step, statistics among it, which look at what the loops write.
#[test]
fn a_set_keeps_to_its_memory() {
    let gradients = Gradients::new().clip_norm(1.0).check_finite();
    let setup = Setup::new()
        .tensors([("w", vec![2, 17]), ("b", vec![19]), ("s", vec![]), ("e", vec![0])])
        .group(Group::new("matrix", Came::new(0.1)).of(Select::rank(2..)))
        .group(Group::new("others", AdamW::new(0.1)))
        .gradients(gradients)
        .average(Average::Ema { decay: 0.5 })
        .watch();
    let mut set = setup.cpu::<f32>(&Cpu::single_threaded()).expect("valid");
    let (mut w, mut b, mut s, mut e) = ([1.0f32; 34], [1.0f32; 19], [1.0f32], [0.0f32; 0]);
    for _ in 0..2 {
        let mut step = set.begin();
        step.tensor("w", &mut w, &[0.5; 34]).expect("lent");
        step.tensor("b", &mut b, &[0.5; 19]).expect("lent");
        step.tensor("s", &mut s, &[0.5]).expect("lent");
        step.tensor("e", &mut e, &[]).expect("lent");
        step.finish().expect("a step");
    }
    assert!(set.stats("w").expect("watched").update_rms > 0.0, "it moves");
    let snapshot = set.snapshot().expect("a snapshot");
    set.restore(&snapshot).expect("its own");
}

#[cfg(feature = "parallel")]
#[test]
fn two_threads_keep_out_of_each_others_memory() {
    use ndarray::Array2;

    let cpu = Cpu::single_threaded().with_threads(2).expect("two threads");
    for case in table::optimizers() {
        if !["adamw", "came", "adafactor hf", "sm3"].contains(&case.name) {
            continue;
        }
        // Under miri each of these is cut into several segments.
        for (shape, n) in
            [(vec![7, 19], 133), (vec![5, 26], 130), (vec![201], 201), (vec![3, 5, 18], 270)]
        {
            let mut step = cpu
                .prepare_with::<f32, _>(case.optimizer.clone(), shape, Layout::LastTwo)
                .expect("a valid optimizer");
            let mut param = vec![1.0f32; n];
            step.step(&mut param, &vec![1.0; n]).expect("a step");
            assert!(param.iter().all(|&x| x < 1.0), "every element moves");
        }
        // Memory that is not contiguous.
        let mut step = cpu.prepare::<f32, _>(case.optimizer, [4, 18]).expect("valid");
        let (mut param, grad) = (Array2::<f32>::ones((18, 4)), Array2::<f32>::ones((18, 4)));
        step.step(param.view_mut().reversed_axes(), grad.view().reversed_axes()).expect("a step");
        assert!(param.iter().all(|&x| x < 1.0), "every element moves");
    }
}
