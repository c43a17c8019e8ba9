//! Clipping, the test for finite gradients, loss scales, micro-batches.

use gradstep::optim::Sgd;
use gradstep::snapshot::Values;
use gradstep::{
    Accumulation, Average, Error, Gradients, Group, LossScale, Missing, Setup, Snapshot, TensorId,
};

use crate::common::tolerance::F32;
use crate::side::{
    Lists, Side, bits, grads, make, model, on_all, plain, starts, three_hundred, two_groups,
};

on_all! {
    a_gradient_that_is_not_finite_leaves_everything_untouched,
    without_the_test_a_step_goes_ahead,
    the_norm_of_all_gradients_is_clipped,
    a_small_norm_is_left_alone,
    elements_are_clipped_before_the_norm,
    a_fixed_loss_scale_of_a_power_of_two_changes_no_bit,
    the_dynamic_loss_scale_backs_off_and_grows,
    the_dynamic_loss_scale_stays_a_normal_number,
    nothing_is_skipped_before_the_first_step,
    the_step_number_stays_at_its_greatest,
    a_set_without_elements_is_never_skipped;
    not in the callers buffers:
    sums_and_means_of_micro_batches_are_steps,
    discarded_micro_batches_leave_nothing,
    a_step_without_micro_batches_is_an_error,
    a_skipped_step_of_micro_batches_begins_anew,
}

/// The bits of everything but the step number and the count of skipped steps.
fn still(snapshot: &Snapshot) -> (Vec<Vec<u64>>, u64) {
    let of = |t: &gradstep::snapshot::TensorState| {
        let all = t.slots.iter().map(|s| &s.values).chain(&t.param);
        all.flat_map(Values::to::<f64>).map(f64::to_bits).collect()
    };
    (snapshot.tensors.iter().map(of).collect(), snapshot.numbers["loss_scale"].to_bits())
}

fn a_gradient_that_is_not_finite_leaves_everything_untouched<S: Side>() {
    let tensors = three_hundred();
    let setup = two_groups(tensors.clone()).gradients(Gradients::new().check_finite());
    let start = starts(&tensors);
    let mut side = make!(S, setup, start);
    let mut straight = make!(S, setup, start);
    for t in 1..=3 {
        assert!(!side.step(&grads(&tensors, t)).expect("a step").skipped, "step {t}");
        straight.step(&grads(&tensors, t)).expect("a step");
    }
    let before = side.snapshot().expect("a snapshot");
    let mut named = Vec::new();
    let odd = [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, f32::from_bits(0xffc0_1234)];
    for (k, odd) in odd.into_iter().enumerate() {
        let mut bad = grads(&tensors, 4);
        let victim = [157, 0, 299, 2][k];
        let last = bad[victim].len() - 1;
        bad[victim][last] = odd;
        let outcome = side.step(&bad).expect("a step that is skipped");
        assert!(outcome.skipped, "{odd} in tensor {victim} on the {}", S::NAME);
        named.extend(outcome.not_finite.map(TensorId::index));
        assert_eq!(side.skipped(), k as u64 + 1, "on the {}", S::NAME);
        let after = side.snapshot().expect("a snapshot");
        assert_eq!(after.step, 4 + k as u64, "a skipped step counts in the step number");
        assert!(still(&before) == still(&after), "{odd} changed something on the {}", S::NAME);
    }
    if S::NAME == "CPU" {
        assert_eq!(named, [157, 0, 299, 2], "the CPU knows whose gradient it was");
    }
    // The next clean step goes on, as step 8.
    straight.set_steps(7);
    let outcome = side.step(&grads(&tensors, 5)).expect("a step");
    assert!(!outcome.skipped, "a clean step was skipped");
    straight.step(&grads(&tensors, 5)).expect("a step");
    assert_eq!(bits(&side.params()), bits(&straight.params()), "on the {}", S::NAME);
    assert_ne!(bits(&side.params()), bits(&start), "on the {}", S::NAME);
}

fn without_the_test_a_step_goes_ahead<S: Side>() {
    let tensors = model();
    let mut side = make!(S, plain(tensors.clone(), Gradients::new()), starts(&tensors));
    let outcome = side.step(&grads(&tensors, 1)).expect("a step");
    assert_eq!(
        (outcome.skipped, outcome.grad_norm, outcome.clip_factor),
        (false, None, 1.0),
        "on the {}",
        S::NAME
    );
    let moved = expected(&starts(&tensors), &grads(&tensors, 1), 1.0, f32::INFINITY);
    close(&side.params(), &moved, 1.0);
}

fn norm(grads: &Lists) -> f64 {
    grads.iter().flatten().map(|&g| f64::from(g).powi(2)).sum::<f64>().sqrt()
}

/// Plain descent with lr 1 along gradients that are clipped by value and multiplied.
fn expected(start: &Lists, grads: &Lists, factor: f64, most: f32) -> Vec<Vec<f64>> {
    let of = |(p, g): (&f32, &f32)| f64::from(*p) - f64::from(g.clamp(-most, most)) * factor;
    start.iter().zip(grads).map(|(p, g)| p.iter().zip(g).map(of).collect()).collect()
}

/// Equal but for some roundings of numbers of this size.
fn close(found: &Lists, wanted: &[Vec<f64>], size: f64) {
    for (i, (a, b)) in found.iter().zip(wanted).enumerate() {
        for (a, b) in a.iter().zip(b) {
            let error = (f64::from(*a) - b).abs();
            // One rounding for each operation between gradient and parameter, and the norm's.
            let allowed = 8.0 * F32 * (size + b.abs());
            assert!(error <= allowed, "tensor {i}: {a} and not {b}, {error} > {allowed}");
        }
    }
}

fn the_norm_of_all_gradients_is_clipped<S: Side>() {
    let tensors = model();
    let (start, g) = (starts(&tensors), grads(&tensors, 1));
    let mut side = make!(S, plain(tensors.clone(), Gradients::new().clip_norm(0.5)), start);
    let outcome = side.step(&g).expect("a step");
    let n = norm(&g);
    let found = outcome.grad_norm.expect("a norm");
    assert!((found - n).abs() <= 16.0 * F32 * n, "the norm is {found} and not {n}");
    let factor = 0.5 / (n + 1e-6);
    assert!((outcome.clip_factor - factor).abs() <= 32.0 * F32 * factor, "{outcome:?}, {factor}");
    let wanted = expected(&start, &g, factor, f32::INFINITY);
    close(&side.params(), &wanted, factor * 16.0);
}

fn a_small_norm_is_left_alone<S: Side>() {
    let tensors = model();
    let (start, g) = (starts(&tensors), grads(&tensors, 1));
    let mut clipped = make!(S, plain(tensors.clone(), Gradients::new().clip_norm(1e6)), start);
    let mut free = make!(S, plain(tensors.clone(), Gradients::new()), start);
    let outcome = clipped.step(&g).expect("a step");
    assert_eq!(outcome.clip_factor, 1.0, "on the {}", S::NAME);
    free.step(&g).expect("a step");
    assert_eq!(bits(&clipped.params()), bits(&free.params()), "on the {}", S::NAME);
}

fn elements_are_clipped_before_the_norm<S: Side>() {
    let tensors = model();
    let (start, g) = (starts(&tensors), grads(&tensors, 1));
    let most = 0.25;
    let clamped: Lists =
        g.iter().map(|g| g.iter().map(|g| g.clamp(-most, most)).collect()).collect();
    let by_value = Gradients::new().clip_value(f64::from(most));
    let mut side = make!(S, plain(tensors.clone(), by_value.clone()), start);
    let mut free = make!(S, plain(tensors.clone(), Gradients::new()), start);
    side.step(&g).expect("a step");
    free.step(&clamped).expect("a step");
    assert_eq!(bits(&side.params()), bits(&free.params()), "clipping by value rounds nothing");

    let mut both = make!(S, plain(tensors.clone(), by_value.clip_norm(1.0)), start);
    let outcome = both.step(&g).expect("a step");
    let n = norm(&clamped);
    assert!(n > 1.0 && norm(&g) > 1.5 * n, "the gradients are too small for this test");
    assert!((outcome.grad_norm.expect("a norm") - n).abs() <= 16.0 * F32 * n, "{outcome:?}, {n}");
    close(&both.params(), &expected(&start, &g, 1.0 / (n + 1e-6), most), 1.0);
}

fn scaled(g: &Lists, by: f32) -> Lists {
    g.iter().map(|g| g.iter().map(|g| g * by).collect()).collect()
}

fn a_fixed_loss_scale_of_a_power_of_two_changes_no_bit<S: Side>() {
    let tensors = model();
    let start = starts(&tensors);
    // With and without a decision on the device.
    for gradients in [Gradients::new().clip_value(0.5), Gradients::new().clip_norm(3.0)] {
        let setup = two_groups(tensors.clone());
        let mut free = make!(S, setup.clone().gradients(gradients.clone()), start);
        let scale = LossScale::Fixed(1024.0);
        let mut side = make!(S, setup.gradients(gradients.loss_scale(scale)), start);
        for t in 1..=3 {
            let g = grads(&tensors, t);
            let a = free.step(&g).expect("a step");
            let b = side.step(&scaled(&g, 1024.0)).expect("a step");
            assert_eq!((a.grad_norm, a.clip_factor), (b.grad_norm, b.clip_factor), "step {t}");
            assert_eq!((a.loss_scale, b.loss_scale), (1.0, 1024.0), "on the {}", S::NAME);
        }
        assert_eq!(bits(&free.params()), bits(&side.params()), "on the {}", S::NAME);
    }
}

fn the_dynamic_loss_scale_backs_off_and_grows<S: Side>() {
    let tensors = model();
    let (start, g) = (starts(&tensors), grads(&tensors, 1));
    let scale = LossScale::Dynamic { initial: 64.0, growth: 2.0, backoff: 0.25, interval: 3 };
    let gradients = Gradients::new().loss_scale(scale);
    let mut side = make!(S, two_groups(tensors.clone()).gradients(gradients), start);
    let mut free = make!(S, two_groups(tensors.clone()), start);
    let mut at = 64.0f32;
    // Good steps and bad ones, and the scale after each: as torch's GradScaler has it.
    let script = [(true, 64.0f32), (true, 64.0), (true, 128.0), (true, 128.0), (false, 32.0)];
    let script = script.into_iter().chain([(true, 32.0), (true, 32.0), (false, 8.0), (true, 8.0)]);
    let mut bad = 0;
    for (k, (good, after)) in script.enumerate() {
        let mut given = scaled(&g, at);
        if !good {
            given[2][7] = f32::INFINITY;
            bad += 1;
        }
        let outcome = side.step(&given).expect("a step");
        assert_eq!(outcome.skipped, !good, "step {k}");
        assert_eq!(outcome.loss_scale, f64::from(after), "step {k}");
        at = after;
        if good {
            free.set_steps(k as u64);
            free.step(&g).expect("a step");
        }
        assert_eq!(bits(&side.params()), bits(&free.params()), "step {k}");
    }
    assert_eq!(side.skipped(), bad, "on the {}", S::NAME);
}

fn the_dynamic_loss_scale_stays_a_normal_number<S: Side>() {
    let tensors = model();
    let (start, good) = (starts(&tensors), grads(&tensors, 1));
    let mut bad = good.clone();
    bad[0][0] = f32::INFINITY;
    let smallest = f64::from(f32::MIN_POSITIVE);
    for (initial, given, scales) in [
        // Twice 2¹²⁷ is more than f32 holds: torch keeps the scale then.
        (2f64.powi(126), &good, [2f64.powi(127); 3]),
        (4.0 * smallest, &bad, [2.0 * smallest, smallest, smallest]),
    ] {
        let scale = LossScale::Dynamic { initial, growth: 2.0, backoff: 0.5, interval: 1 };
        let setup = plain(tensors.clone(), Gradients::new().loss_scale(scale));
        let mut side = make!(S, setup, start);
        for (t, wanted) in scales.into_iter().enumerate() {
            let outcome = side.step(given).expect("a step");
            assert_eq!(outcome.loss_scale, wanted, "step {t} on the {}", S::NAME);
        }
        let saved = side.snapshot().expect("a snapshot");
        side.restore(&saved).expect("what it saves it takes");
    }
}

fn nothing_is_skipped_before_the_first_step<S: Side>() {
    let tensors = model();
    let scale = LossScale::Dynamic { initial: 4.0, growth: 2.0, backoff: 0.5, interval: 2 };
    let setup = plain(tensors.clone(), Gradients::new().loss_scale(scale));
    let mut side = make!(S, setup, starts(&tensors));
    // Also where steps are counted that were never submitted.
    side.set_steps(3);
    let Some(outcome) = side.outcome() else { return };
    assert_eq!(
        (outcome.skipped, outcome.clip_factor, outcome.loss_scale),
        (false, 1.0, 4.0),
        "on the {}",
        S::NAME
    );
}

fn the_step_number_stays_at_its_greatest<S: Side>() {
    let tensors = model();
    let mut bad = grads(&tensors, 1);
    bad[0][0] = f32::NAN;
    let setup = two_groups(tensors.clone())
        .gradients(Gradients::new().check_finite())
        .average(Average::Polyak { from: 2 });
    let mut side = make!(S, setup, starts(&tensors));
    side.set_steps(u64::MAX - 1);
    for given in [&grads(&tensors, 1), &bad, &grads(&tensors, 2)] {
        side.step(given).expect("a step");
        assert_eq!(side.snapshot().expect("a snapshot").step, u64::MAX, "on the {}", S::NAME);
    }
}

fn a_set_without_elements_is_never_skipped<S: Side>() {
    let setup = plain(vec![("empty".into(), vec![0, 3])], Gradients::new().clip_norm(1.0));
    let mut side = make!(S, setup, vec![vec![]]);
    let outcome = side.step(&vec![vec![]]).expect("a step");
    assert_eq!((outcome.skipped, outcome.grad_norm), (false, Some(0.0)), "on the {}", S::NAME);
}

fn sums_and_means_of_micro_batches_are_steps<S: Side>() {
    let tensors = model();
    let start = starts(&tensors);
    for kind in [Accumulation::Mean, Accumulation::Sum] {
        for gradients in [Gradients::new(), Gradients::new().clip_norm(2.0).check_finite()] {
            let setup = two_groups(tensors.clone()).gradients(gradients);
            let mut whole = make!(S, setup, start);
            let mut side = make!(S, setup.accumulate(kind), start);
            for t in 1..=3 {
                let parts: Vec<_> = (0..4).map(|k| grads(&tensors, 10 * t + k)).collect();
                for part in &parts {
                    side.micro(part).expect("a micro-batch");
                }
                side.step_sums().expect("a step");
                let divisor = if kind == Accumulation::Mean { 4.0 } else { 1.0 };
                let mut sum = parts[0].clone();
                for part in &parts[1..] {
                    for (sum, part) in sum.iter_mut().flatten().zip(part.iter().flatten()) {
                        *sum += part;
                    }
                }
                whole.step(&scaled(&sum, 1.0 / divisor)).expect("a step");
            }
            assert_eq!(bits(&side.params()), bits(&whole.params()), "{kind:?}");
        }
    }
}

fn a_step_without_micro_batches_is_an_error<S: Side>() {
    let tensors = model();
    let start = starts(&tensors);
    let setup = two_groups(tensors.clone());
    let mut side = make!(S, setup.clone().accumulate(Accumulation::Mean), start);
    let error = side.step_sums().expect_err("no gradients");
    assert!(matches!(error, Error::Setup { .. } | Error::Tensor { .. }), "{error}");
    assert_eq!(bits(&side.params()), bits(&start), "on the {}", S::NAME);
    let mut without = make!(S, setup, start);
    let error = without.micro(&grads(&tensors, 1)).expect_err("no sums").to_string();
    assert!(error.contains("Setup::accumulate"), "{error}");
}

fn a_skipped_step_of_micro_batches_begins_anew<S: Side>() {
    let tensors = model();
    let start = starts(&tensors);
    let setup =
        plain(tensors.clone(), Gradients::new().check_finite()).accumulate(Accumulation::Sum);
    let mut side = make!(S, setup, start);
    let mut bad = grads(&tensors, 1);
    bad[0][0] = f32::NAN;
    side.micro(&bad).expect("a micro-batch");
    side.micro(&grads(&tensors, 2)).expect("a micro-batch");
    assert!(side.step_sums().expect("a step").skipped, "NaN in a sum");
    assert_eq!(bits(&side.params()), bits(&start), "on the {}", S::NAME);
    side.micro(&grads(&tensors, 3)).expect("a micro-batch");
    assert!(!side.step_sums().expect("a step").skipped, "the sum was not begun anew");
    close(&side.params(), &expected(&start, &grads(&tensors, 3), 1.0, f32::INFINITY), 1.0);
}

fn discarded_micro_batches_leave_nothing<S: Side>() {
    let tensors = model();
    let start = starts(&tensors);
    let setup = two_groups(tensors.clone()).accumulate(Accumulation::Mean);
    let mut side = make!(S, setup, start);
    let mut straight = make!(S, setup, start);
    side.micro(&grads(&tensors, 8)).expect("a micro-batch");
    side.micro(&grads(&tensors, 9)).expect("a micro-batch");
    assert!(side.snapshot().is_err(), "sums are not in a snapshot");
    side.discard();
    side.snapshot().expect("there are no sums");
    for side in [&mut side, &mut straight] {
        side.micro(&grads(&tensors, 1)).expect("a micro-batch");
        side.step_sums().expect("a step");
    }
    assert_eq!(bits(&side.params()), bits(&straight.params()), "on the {}", S::NAME);
}

#[test]
fn a_sum_whose_parameter_is_not_lent_is_an_error_of_its_own() {
    for missing in [Missing::Error, Missing::Skip] {
        let setup = plain(vec![("a".into(), vec![2]), ("b".into(), vec![1])], Gradients::new())
            .accumulate(Accumulation::Sum)
            .missing(missing);
        let mut optimizer = setup.cpu::<f32>(&gradstep::Cpu::default()).expect("valid");
        let (mut a, mut b) = ([1.0f32; 2], [1.0f32]);
        optimizer.accumulate("a", &[0.5, 0.5]).expect("a gradient");
        optimizer.accumulate("b", &[0.5]).expect("a gradient");
        let mut step = optimizer.begin();
        step.param("a", &mut a).expect("lent");
        let error = step.finish().expect_err("b was not lent").to_string();
        assert!(error.contains("`b`") && error.contains("not lent"), "{error}");
        assert_eq!((a, optimizer.steps()), ([1.0; 2], 0), "{missing:?}");
        // The sums are there still.
        let mut step = optimizer.begin();
        step.param("a", &mut a).expect("lent");
        step.param("b", &mut b).expect("lent");
        step.finish().expect("a step");
        assert_eq!((a, b), ([0.5; 2], [0.5]), "{missing:?}");
    }
}

#[test]
fn settings_out_of_range_are_errors() {
    let with = |gradients| {
        let setup = Setup::new().tensor("w", [2]).group(Group::new("all", Sgd::new(0.1)));
        let made = setup.gradients(gradients).cpu::<f32>(&gradstep::Cpu::default());
        made.map(|_| ()).expect_err("out of range").to_string()
    };
    let dynamic = |growth, backoff, interval| {
        let scale = LossScale::Dynamic { initial: 8.0, growth, backoff, interval };
        with(Gradients::new().loss_scale(scale))
    };
    for (message, has) in [
        (with(Gradients::new().clip_norm(0.0)), ["max_norm", "it is 0"]),
        (with(Gradients::new().clip_norm(f64::NAN)), ["max_norm", "NaN"]),
        (with(Gradients::new().clip_value(-1.0)), ["max_value", "-1"]),
        (with(Gradients::new().loss_scale(LossScale::Fixed(0.0))), ["loss_scale", "it is 0"]),
        (with(Gradients::new().loss_scale(LossScale::Fixed(1e39))), ["loss_scale", "it is 1000"]),
        (dynamic(1.0, 0.5, 10), ["growth", "it is 1"]),
        (dynamic(2.0, 1.0, 10), ["backoff", "it is 1"]),
        (dynamic(2.0, 0.5, 0), ["interval", "it is 0"]),
    ] {
        assert!(has.iter().all(|h| message.contains(h)), "{message} lacks {has:?}");
    }
}

/// Clipping by the norm and the test for finite gradients in single precision must not overflow
/// or vanish where the gradients themselves do not.
#[test]
fn norms_of_large_and_small_gradients_in_double_precision() {
    let mut w = [0.0f64; 4];
    let setup = Setup::new().tensor("w", [4]).group(Group::new("all", Sgd::new(1.0)));
    let mut optimizer = setup
        .gradients(Gradients::new().clip_norm(1.0).check_finite())
        .cpu::<f64>(&gradstep::Cpu::default())
        .expect("valid");
    for size in [1e-100, 1e-3, 1e100] {
        let mut step = optimizer.begin();
        let g = [3.0 * size, 4.0 * size, 0.0, 0.0];
        step.tensor("w", &mut w, &g).expect("lent");
        let outcome = step.finish().expect("a step");
        let norm = outcome.grad_norm.expect("a norm");
        assert!(!outcome.skipped && (norm / size - 5.0).abs() < 1e-12, "{norm}");
    }
}

#[cfg(feature = "gpu")]
mod on_the_device {
    use gradstep::gpu::{Gpu, wgpu};
    use pollster::block_on as wait;

    use super::*;
    use crate::common::gate;
    use crate::side::{OnCpu, OnForeign, OnGpu, OnInPlace, OnRanges};

    /// A set whose steps are recorded and submitted apart.
    trait Recorded: Side {
        fn on(gpu: &Gpu, setup: &Setup, params: &Lists) -> gradstep::Result<Self>;
        fn give(&self, grads: &Lists);
        fn record(&mut self, encoder: &mut wgpu::CommandEncoder) -> gradstep::Result<()>;
    }

    impl Recorded for OnGpu {
        fn on(gpu: &Gpu, setup: &Setup, params: &Lists) -> gradstep::Result<Self> {
            Self::on(gpu, setup, params)
        }

        fn give(&self, grads: &Lists) {
            self.write(grads).expect("written");
        }

        fn record(&mut self, encoder: &mut wgpu::CommandEncoder) -> gradstep::Result<()> {
            self.optimizer.encode(encoder)
        }
    }

    impl<const GATHERED: bool> Recorded for OnRanges<GATHERED> {
        fn on(gpu: &Gpu, setup: &Setup, params: &Lists) -> gradstep::Result<Self> {
            Self::on(gpu, setup, params)
        }

        fn give(&self, grads: &Lists) {
            self.write(grads);
        }

        fn record(&mut self, encoder: &mut wgpu::CommandEncoder) -> gradstep::Result<()> {
            self.record(encoder, |_| true)
        }
    }

    /// How many submissions the queue of a device has taken, this one included. Whatever is read
    /// back is copied by one.
    fn submissions(gpu: &Gpu) -> u64 {
        let index = format!("{:?}", gpu.queue().submit([]));
        let digits: String = index.chars().filter(char::is_ascii_digit).collect();
        digits.parse().expect("an index that counts")
    }

    #[test]
    fn decisions_are_made_without_a_look_from_the_host() {
        decided_without_a_look::<OnGpu>();
    }

    #[test]
    fn decisions_in_the_callers_buffers_are_made_without_a_look_from_the_host() {
        decided_without_a_look::<OnForeign>();
    }

    #[test]
    fn decisions_on_gradients_in_place_are_made_without_a_look_from_the_host() {
        decided_without_a_look::<OnInPlace>();
    }

    /// Nothing can be read back of what was not submitted: steps, some of them skipped, and the
    /// changes of the loss scale are recorded before the first is submitted. Nor is anything else
    /// submitted meanwhile.
    fn decided_without_a_look<S: Recorded>() {
        // Nobody else submits to it.
        let Some(gpu) = &gate::own(wgpu::Limits::defaults()) else { return };
        let tensors = model();
        let start = starts(&tensors);
        let scale = LossScale::Dynamic { initial: 16.0, growth: 2.0, backoff: 0.5, interval: 2 };
        let gradients = Gradients::new().clip_norm(1.0).loss_scale(scale);
        let setup = two_groups(tensors.clone()).gradients(gradients);
        let [mut watched, mut ahead] =
            [(); 2].map(|()| <S as Recorded>::on(gpu, &setup, &start).expect("a valid setup"));
        // Gradients stay the same while steps are recorded; the second time they are bad.
        let g = scaled(&grads(&tensors, 1), 16.0);
        let mut bad = g.clone();
        bad[4][1] = f32::NAN;
        for (given, steps) in [(&g, 3), (&bad, 2), (&g, 4)] {
            for _ in 0..steps {
                watched.step(given).expect("a step");
            }
            let mut encoder = gpu.device().create_command_encoder(&Default::default());
            ahead.give(given);
            let before = submissions(gpu);
            for _ in 0..steps {
                Recorded::record(&mut ahead, &mut encoder).expect("recorded");
            }
            assert_eq!(submissions(gpu), before + 1, "steps submit on the {}", S::NAME);
            gpu.queue().submit([encoder.finish()]);
            assert_eq!(bits(&watched.params()), bits(&ahead.params()), "on the {}", S::NAME);
            let [watched, ahead] = [&mut watched, &mut ahead].map(Side::snapshot);
            assert_eq!(watched.expect("state"), ahead.expect("state"), "on the {}", S::NAME);
        }
        let before = submissions(gpu);
        assert_eq!(ahead.skipped(), 2, "on the {}", S::NAME);
        assert!(submissions(gpu) > before + 1, "a read-back would not show");
    }

    #[test]
    fn the_guard_takes_at_most_three_dispatches_whatever_the_number_of_tensors() {
        let gradients =
            Gradients::new().clip_norm(1.0).clip_value(3.0).loss_scale(LossScale::dynamic());
        let mut counts = Vec::new();
        for n in [1, 3, 300] {
            let tensors: Vec<_> = three_hundred().into_iter().take(n).collect();
            let free = make!(OnGpu, two_groups(tensors.clone()), starts(&tensors));
            let setup = two_groups(tensors.clone()).gradients(gradients.clone());
            let side = make!(OnGpu, setup, starts(&tensors));
            let more = side.optimizer.dispatches() - free.optimizer.dispatches();
            assert_eq!(more, side.optimizer.guard_dispatches());
            assert_eq!(more, 2, "one for all gradients of {n} tensors, and one that decides");
            counts.push(side.optimizer.dispatches());
        }
        assert_eq!(counts[1], counts[2], "dispatches depend on the number of tensors");
    }

    /// Tensors whose gradients fill so many buffers on a device whose bindings hold 8192 elements.
    fn paged(pages: usize) -> Vec<(String, Vec<usize>)> {
        // In each there is no room for another tensor. Two tiles, and one in the last.
        let len = |i: usize| if i + 1 < pages { 8190 - i } else { 100 };
        (0..pages).map(|i| (format!("tensor.{i}"), vec![len(i)])).collect()
    }

    fn with_storage_buffers(n: u32) -> Option<Gpu> {
        gate::own(wgpu::Limits {
            max_storage_buffer_binding_size: 1 << 15,
            max_storage_buffers_per_shader_stage: n,
            ..wgpu::Limits::defaults()
        })
    }

    #[test]
    fn gradients_in_several_buffers_are_measured_six_at_once() {
        let Some(gpu) = with_storage_buffers(8) else { return };
        for pages in 1..=14 {
            // Three up to twelve buffers.
            measured_in(&gpu, pages, 1 + pages.div_ceil(6));
        }
    }

    #[test]
    fn gradients_are_measured_as_many_at_once_as_a_shader_may_bind() {
        for n in [5, 7, 10] {
            let Some(gpu) = with_storage_buffers(n) else { return };
            let at_once = n as usize - 2;
            for pages in [at_once, 2 * at_once, 2 * at_once + 1] {
                measured_in(&gpu, pages, 1 + pages.div_ceil(at_once));
            }
        }
    }

    fn measured_in(gpu: &Gpu, pages: usize, dispatches: usize) {
        let tensors = paged(pages);
        let start = starts(&tensors);
        let gradients = Gradients::new().clip_norm(0.5).clip_value(2.0).check_finite();
        let setup = plain(tensors.clone(), gradients);
        let mut cpu = OnCpu::make(&setup, &start).expect("there is a CPU").expect("valid");
        let mut side = OnGpu::on(gpu, &setup, &start).expect("valid");
        let mut buffers = Vec::new();
        for (name, _) in &tensors {
            let regions = side.optimizer.grad(name.as_str()).expect("known");
            buffers.extend(regions.iter().map(|r| r.buffer.clone()));
        }
        buffers.dedup();
        assert_eq!(buffers.len(), pages, "buffers of gradients");
        assert_eq!(side.optimizer.guard_dispatches(), dispatches, "for {pages} buffers");

        let g = grads(&tensors, 1);
        let [a, b] = [cpu.step(&g), side.step(&g)].map(|o| o.expect("a step"));
        let [wanted, found] = [&a, &b].map(|o| o.grad_norm.expect("a norm"));
        assert!((found - wanted).abs() <= 64.0 * F32 * wanted, "{found} and not {wanted}");
        let wanted: Vec<Vec<f64>> =
            cpu.params().iter().map(|p| p.iter().map(|&x| x.into()).collect()).collect();
        close(&side.params(), &wanted, 1.0);

        // The first and the last element of each buffer count, and the end of a tile.
        let before = side.params();
        for (i, (_, shape)) in tensors.iter().enumerate() {
            for element in [0, 4095, 4096, shape[0] - 1] {
                if element < shape[0] {
                    let mut bad = g.clone();
                    bad[i][element] = f32::NAN;
                    let skipped = side.step(&bad).expect("a step").skipped;
                    assert!(skipped, "NaN at {element} of buffer {i} of {pages}");
                }
            }
        }
        assert_eq!(bits(&side.params()), bits(&before), "a skipped step changed something");
        assert!(!side.step(&g).expect("a step").skipped, "something is left of a bad gradient");

        // One element alone makes the norm, in whichever buffer it lies.
        for i in 0..pages {
            let mut one: Lists = g.iter().map(|g| vec![0.0; g.len()]).collect();
            *one[i].last_mut().expect("an element") = 1.5;
            let norm = side.step(&one).expect("a step").grad_norm;
            assert_eq!(norm, Some(1.5), "the last element of buffer {i} of {pages}");
        }
    }

    #[test]
    fn gradients_that_were_cleared_are_zero() {
        let tensors = model();
        let start = starts(&tensors);
        let mut side = make!(OnGpu, plain(tensors.clone(), Gradients::new()), start);
        side.write(&grads(&tensors, 1)).expect("written");
        side.submit(|o, encoder| {
            o.encode_clear_grads(encoder);
            o.encode(encoder).expect("recorded");
        });
        assert_eq!(bits(&side.params()), bits(&start));
    }

    /// What sees all gradients as one vector counts their elements.
    #[test]
    fn too_many_elements_for_one_vector_are_an_error_of_their_own() {
        let Some(gpu) = gate::gpu() else { return };
        let setup = Setup::new()
            .tensors([("a", [1 << 31]), ("b", [1 << 31])])
            .group(Group::new("all", Sgd::new(1.0)));
        let clipped = setup.clone().gradients(Gradients::new().clip_norm(1.0));
        for error in [
            wait(clipped.gpu(gpu)).map(|_| ()),
            wait(clipped.gpu_foreign(gpu)).map(|_| ()),
            wait(setup.average(Average::Ema { decay: 0.5 }).gpu(gpu)).map(|_| ()),
        ] {
            let error = error.expect_err("too many").to_string();
            for has in ["clipping", "4294967296 elements", "4294967295", "several sets"] {
                assert!(error.contains(has), "{error}\nlacks {has}");
            }
        }
    }

    #[test]
    fn the_loss_scale_lies_where_it_says() {
        let tensors = model();
        let scale = LossScale::Dynamic { initial: 16.0, growth: 2.0, backoff: 0.5, interval: 2 };
        let setup = two_groups(tensors.clone()).gradients(Gradients::new().loss_scale(scale));
        let mut side = make!(OnGpu, setup, starts(&tensors));
        for after in [16.0, 32.0, 32.0, 64.0] {
            side.step(&grads(&tensors, 1)).expect("a step");
            let (buffer, at) = side.optimizer.loss_scale().expect("it changes");
            let staging = side.gpu.device().create_buffer(&wgpu::BufferDescriptor {
                label: None,
                size: 4,
                usage: wgpu::BufferUsages::COPY_DST | wgpu::BufferUsages::MAP_READ,
                mapped_at_creation: false,
            });
            let mut encoder = side.gpu.device().create_command_encoder(&Default::default());
            encoder.copy_buffer_to_buffer(buffer, at, &staging, 0, 4);
            side.gpu.queue().submit([encoder.finish()]);
            staging.map_async(wgpu::MapMode::Read, .., |m| m.expect("mapped"));
            side.gpu
                .device()
                .poll(wgpu::PollType::wait_indefinitely())
                .expect("the device answers");
            let view = staging.get_mapped_range(..).expect("mapped");
            assert_eq!(f32::from_le_bytes([view[0], view[1], view[2], view[3]]), after);
        }
    }
}
