//! Averages of the parameters.

use gradstep::{Average, Error, Gradients};

use crate::common::tolerance::F32;
#[cfg(feature = "gpu")]
use crate::side::OnGpu;
use crate::side::{Lists, Side, bits, grads, make, model, on_all, starts, two_groups};

on_all! {
    averages_are_what_their_definitions_say,
    swapping_in_and_out_changes_no_bit,
    skipped_steps_do_not_count_in_an_average,
    a_swap_after_skipped_steps_alone_changes_nothing,
    no_average_without_asking,
}

fn close(found: &Lists, wanted: &[Vec<f64>]) {
    for (a, b) in found.iter().flatten().zip(wanted.iter().flatten()) {
        // Eight steps, a few roundings each.
        let error = (f64::from(*a) - b).abs();
        assert!(error <= 24.0 * F32 * (b.abs() + 1.0), "{a} and not {b}");
    }
}

fn averages_are_what_their_definitions_say<S: Side>() {
    let tensors = model();
    let start = starts(&tensors);
    for kind in
        [Average::Ema { decay: 0.9 }, Average::Polyak { from: 1 }, Average::Polyak { from: 4 }]
    {
        let setup = two_groups(tensors.clone()).average(kind);
        let mut side = make!(S, setup, start);
        let mut free = make!(S, two_groups(tensors.clone()), start);
        let mut wanted: Vec<Vec<f64>> = start.iter().map(|p| vec![0.0; p.len()]).collect();
        let mut n = 0;
        for t in 1..=8 {
            side.step(&grads(&tensors, t)).expect("a step");
            free.step(&grads(&tensors, t)).expect("a step");
            let now = free.params();
            assert_eq!(bits(&side.params()), bits(&now), "an average changes no parameter");
            if matches!(kind, Average::Polyak { from } if t < from) {
                continue;
            }
            n += 1;
            for (average, &p) in wanted.iter_mut().flatten().zip(now.iter().flatten()) {
                let p = f64::from(p);
                *average = match kind {
                    _ if n == 1 => p,
                    Average::Ema { decay } => decay * *average + (1.0 - decay) * p,
                    _ => *average + (p - *average) / f64::from(n),
                };
            }
            close(&side.averages().expect("averages"), &wanted);
        }
    }
}

fn swapping_in_and_out_changes_no_bit<S: Side>() {
    let tensors = model();
    let start = starts(&tensors);
    let setup = two_groups(tensors.clone()).average(Average::Ema { decay: 0.5 });
    let mut side = make!(S, setup, start);
    let mut straight = make!(S, setup, start);
    let error = side.swap().expect_err("no step has counted").to_string();
    assert!(error.contains("no step has counted"), "{error}");
    for t in 1..=3 {
        side.step(&grads(&tensors, t)).expect("a step");
        straight.step(&grads(&tensors, t)).expect("a step");
    }
    let (params, averages) = (side.params(), side.averages().expect("averages"));
    assert_ne!(bits(&params), bits(&averages), "on the {}", S::NAME);
    side.swap().expect("swapped");
    assert_eq!(bits(&side.params()), bits(&averages), "on the {}", S::NAME);
    assert_eq!(
        bits(&side.averages().expect("the parameters")),
        bits(&params),
        "on the {}",
        S::NAME
    );
    let error = side.step(&grads(&tensors, 4)).expect_err("swapped");
    assert!(matches!(error, Error::Setup { .. } | Error::Tensor { .. }), "{error}");
    assert!(side.snapshot().is_err(), "a snapshot while averages are swapped in");
    side.swap().expect("swapped back");
    assert_eq!(bits(&side.params()), bits(&params), "on the {}", S::NAME);
    side.step(&grads(&tensors, 4)).expect("a step");
    straight.step(&grads(&tensors, 4)).expect("a step");
    assert_eq!(bits(&side.params()), bits(&straight.params()), "on the {}", S::NAME);
    assert_eq!(
        bits(&side.averages().expect("averages")),
        bits(&straight.averages().expect("averages")),
        "on the {}",
        S::NAME
    );
}

fn skipped_steps_do_not_count_in_an_average<S: Side>() {
    let tensors = model();
    let start = starts(&tensors);
    let setup = two_groups(tensors.clone())
        .average(Average::Polyak { from: 1 })
        .gradients(Gradients::new().check_finite());
    let mut side = make!(S, setup, start);
    let mut straight = make!(S, setup, start);
    let mut bad = grads(&tensors, 9);
    bad[3][0] = f32::NAN;
    for t in 1..=4 {
        assert!(side.step(&bad).expect("a step").skipped, "step {t}");
        side.set_steps(t - 1);
        side.step(&grads(&tensors, t)).expect("a step");
        straight.step(&grads(&tensors, t)).expect("a step");
    }
    assert_eq!(
        bits(&side.averages().expect("averages")),
        bits(&straight.averages().expect("averages")),
        "on the {}",
        S::NAME
    );
}

fn a_swap_after_skipped_steps_alone_changes_nothing<S: Side>() {
    let tensors = model();
    let start = starts(&tensors);
    let mut bad = grads(&tensors, 9);
    bad[3][0] = f32::NAN;
    for kind in [Average::Ema { decay: 0.9 }, Average::Polyak { from: 1 }] {
        let setup =
            two_groups(tensors.clone()).average(kind).gradients(Gradients::new().check_finite());
        let mut side = make!(S, setup, start);
        assert!(side.step(&bad).expect("a step").skipped, "on the {}", S::NAME);
        // The CPU knows that no step has counted.
        let swapped = side.swap();
        assert_eq!(swapped.is_ok(), S::NAME != "CPU", "{swapped:?}");
        assert_eq!(bits(&side.params()), bits(&start), "on the {}", S::NAME);
        if swapped.is_ok() {
            let averages = side.averages().expect("the parameters");
            assert_eq!(bits(&averages), bits(&start), "on the {}", S::NAME);
            side.swap().expect("swapped back");
            assert_eq!(bits(&side.params()), bits(&start), "on the {}", S::NAME);
        }
        side.step(&grads(&tensors, 2)).expect("a step");
        let first = side.params();
        assert_eq!(bits(&side.averages().expect("averages")), bits(&first), "on the {}", S::NAME);
    }
}

#[cfg(feature = "gpu")]
#[test]
fn a_swap_after_a_step_that_was_never_submitted_changes_nothing() {
    let tensors = model();
    let start = starts(&tensors);
    let setup = two_groups(tensors.clone()).average(Average::Ema { decay: 0.9 });
    let mut side = make!(OnGpu, setup, start);
    let mut dropped = side.gpu.device().create_command_encoder(&Default::default());
    side.optimizer.encode(&mut dropped).expect("recorded");
    drop(dropped);
    side.swap().expect("swapped");
    assert_eq!(bits(&side.params()), bits(&start));
}

fn no_average_without_asking<S: Side>() {
    let tensors = model();
    let mut side = make!(S, two_groups(tensors.clone()), starts(&tensors));
    let error = side.averages().expect_err("none is kept").to_string();
    assert!(error.contains("Setup::average"), "{error}");
    assert!(side.swap().is_err(), "nothing to swap");
}

#[test]
fn a_mean_from_step_zero_is_an_error() {
    let setup = two_groups(model()).average(Average::Polyak { from: 0 });
    let error = setup.cpu::<f32>(&gradstep::Cpu::default()).map(|_| ());
    let error = error.expect_err("there is no step 0").to_string();
    assert!(error.contains("step 0") && error.contains("number 1"), "{error}");
}

#[test]
fn a_decay_out_of_range_is_an_error() {
    for decay in [-0.1, 1.0, f64::NAN] {
        let setup = two_groups(model()).average(Average::Ema { decay });
        let error = setup.cpu::<f32>(&gradstep::Cpu::default()).map(|_| ());
        let error = error.expect_err("out of range").to_string();
        assert!(error.contains(&format!("decay is {decay}")), "{error}");
    }
}
