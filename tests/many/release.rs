//! Steps in which each gradient is dropped as soon as it is used.

use gradstep::{Average, Cpu, Error, Gradients, LossScale, Setup};

use crate::side::{OnCpu, Side, bits, grads, make, model, starts, two_groups};

fn setups() -> Vec<Setup> {
    let plain = two_groups(model());
    vec![
        plain.clone(),
        plain.clone().average(Average::Ema { decay: 0.9 }),
        plain.gradients(Gradients::new().clip_value(0.3).loss_scale(LossScale::Fixed(8.0))),
    ]
}

#[test]
fn a_released_step_is_the_whole_step_bit_for_bit() {
    for setup in setups() {
        let tensors = model();
        let mut params = starts(&tensors);
        let mut whole = make!(OnCpu, setup, params);
        let mut optimizer = setup.cpu::<f32>(&Cpu::default()).expect("valid");
        for t in 1..=4 {
            let mut step = optimizer.begin_release().expect("nothing needs all gradients");
            // Backward passes make the last gradient first, and each can be dropped at once.
            for (i, (name, _)) in tensors.iter().enumerate().rev() {
                let grad = grads(&tensors, t).swap_remove(i);
                step.tensor(name, &mut params[i], &grad).expect("a tensor");
            }
            step.finish().expect("all tensors were given");
            whole.step(&grads(&tensors, t)).expect("a step");
            assert_eq!(bits(&params), bits(&whole.params), "step {t}");
        }
        let state = |s: gradstep::Snapshot| format!("{s:?}");
        assert_eq!(
            state(optimizer.snapshot().expect("state")),
            state(whole.optimizer.snapshot().expect("state"))
        );
    }
}

#[test]
fn what_needs_all_gradients_is_refused() {
    let plain = || two_groups(model());
    for setup in [
        plain().gradients(Gradients::new().clip_norm(1.0)),
        plain().gradients(Gradients::new().check_finite()),
        plain().gradients(Gradients::new().loss_scale(LossScale::dynamic())),
        plain().accumulate(gradstep::Accumulation::Mean),
    ] {
        let mut optimizer = setup.cpu::<f32>(&Cpu::default()).expect("valid");
        let error = optimizer.begin_release().map(|_| ()).expect_err("it needs all gradients");
        assert!(matches!(error, Error::Setup { .. }), "{error}");
        assert!(error.to_string().contains("need all gradients"), "{error}");
        assert_eq!(optimizer.steps(), 0, "the step was counted");
    }
}

#[test]
fn a_tensor_twice_or_never_is_an_error() {
    let tensors = model();
    let mut params = starts(&tensors);
    let g = grads(&tensors, 1);
    let mut optimizer = two_groups(model()).cpu::<f32>(&Cpu::default()).expect("valid");
    let mut step = optimizer.begin_release().expect("a step");
    step.tensor("scale", &mut params[1], &g[1]).expect("a tensor");
    let once = bits(&params);
    let error = step.tensor("scale", &mut params[1], &g[1]).expect_err("twice").to_string();
    assert!(error.contains("`scale` was given twice"), "{error}");
    assert_eq!(bits(&params), once);
    let error = step.finish().expect_err("tensors are missing").to_string();
    assert!(error.contains("`embed.weight` has no gradient"), "{error}");
}

#[cfg(feature = "gpu")]
mod on_the_device {
    use gradstep::Missing;
    use gradstep::gpu::wgpu;
    use pollster::block_on as wait;

    use super::*;
    use crate::common::gate;
    use crate::side::{Lists, OnForeign, read, spot};

    fn encoder(side: &OnForeign) -> wgpu::CommandEncoder {
        side.gpu.device().create_command_encoder(&Default::default())
    }

    /// Parameters, averages and state, and the step number.
    fn everything(side: &mut OnForeign) -> gradstep::Snapshot {
        side.snapshot().expect("state")
    }

    #[test]
    fn one_buffer_serves_for_all_gradients_of_a_released_step() {
        for setup in setups() {
            let tensors = model();
            let start = starts(&tensors);
            let mut whole = make!(OnForeign, setup, start);
            let mut side = make!(OnForeign, setup, start);
            let largest = start.iter().map(Vec::len).max().expect("tensors");
            let shared = spot(&side.gpu, largest);
            for t in 1..=4 {
                let mut step = side.set.begin_release().expect("nothing needs all gradients");
                for (i, g) in grads(&tensors, t).iter().enumerate().rev() {
                    let grad = shared.first(g.len());
                    grad.write(&side.gpu, g);
                    let mut encoder = side.gpu.device().create_command_encoder(&Default::default());
                    let (name, param) = (&side.names[i], &side.pairs[i][0]);
                    step.tensor(&mut encoder, name, param.slice(), grad.slice()).expect("recorded");
                    side.gpu.queue().submit([encoder.finish()]);
                }
                step.finish().expect("all tensors were given");
                whole.step(&grads(&tensors, t)).expect("a step");
                assert_eq!(bits(&side.params()), bits(&whole.params()), "step {t}");
            }
            assert_eq!(everything(&mut side), everything(&mut whole));
            assert_eq!(side.set.steps(), 4);
        }
    }

    /// Gradients are copied into one buffer between the steps of tensors, all in one encoder.
    #[test]
    fn one_encoder_may_hold_many_released_steps() {
        let tensors = model();
        let start = starts(&tensors);
        let setup = two_groups(tensors.clone());
        let mut whole = make!(OnForeign, setup, start);
        let mut side = make!(OnForeign, setup, start);
        let largest = start.iter().map(Vec::len).max().expect("tensors");
        let shared = spot(&side.gpu, largest);
        let g = grads(&tensors, 1);
        side.write(&g);
        let mut encoder = encoder(&side);
        for _ in 1..=3 {
            let mut step = side.set.begin_release().expect("a step");
            for (name, [param, grad]) in side.names.iter().zip(&side.pairs) {
                let (from, to) = (grad.slice(), shared.first(grad.len()));
                if !to.is_empty() {
                    let (buffer, at) = (from.buffer(), from.offset());
                    let to = to.slice();
                    encoder.copy_buffer_to_buffer(buffer, at, to.buffer(), 0, to.size());
                }
                step.tensor(&mut encoder, name, param.slice(), to.slice()).expect("recorded");
            }
            step.finish().expect("all tensors were given");
            whole.step(&g).expect("a step");
        }
        side.gpu.queue().submit([encoder.finish()]);
        assert_eq!(bits(&side.params()), bits(&whole.params()));
    }

    #[test]
    fn constants_of_a_released_step_stay_until_its_last_encoder_is_submitted() {
        let tensors = model();
        let start = starts(&tensors);
        let setup = two_groups(tensors.clone());
        let mut whole = make!(OnForeign, setup, start);
        let mut side = make!(OnForeign, setup, start);
        let g = grads(&tensors, 1);
        side.write(&g);
        // Eight steps of other constants, an encoder for each tensor of each step, and none is
        // submitted before all are recorded.
        let mut encoders = Vec::new();
        for t in 1..=8u32 {
            for set in [&mut side, &mut whole] {
                set.groups_mut()
                    .set_hyper("matrices", "lr", 0.01 / f64::from(t))
                    .expect("a number");
            }
            let mut step = side.set.begin_release().expect("a step");
            for (name, [param, grad]) in side.names.iter().zip(&side.pairs) {
                let mut encoder = side.gpu.device().create_command_encoder(&Default::default());
                step.tensor(&mut encoder, name, param.slice(), grad.slice()).expect("recorded");
                encoders.push(encoder.finish());
            }
            step.finish().expect("all tensors were given");
            whole.step(&g).expect("a step");
        }
        for buffer in encoders {
            side.gpu.queue().submit([buffer]);
        }
        assert_eq!(bits(&side.params()), bits(&whole.params()));
    }

    #[test]
    fn an_encoder_that_waits_for_many_steps_has_its_own_constants() {
        let tensors = model();
        let start = starts(&tensors);
        let setup = two_groups(tensors.clone()).missing(Missing::Skip);
        let mut alone = make!(OnForeign, setup, start);
        let mut side = make!(OnForeign, setup, start);
        let g = grads(&tensors, 1);
        alone.write(&g);
        side.write(&g);
        alone.step_of(|name| name == "embed.weight").expect("a step");
        // Step 1 of one tensor waits, while another one takes more steps than the ring holds.
        let mut waiting = encoder(&side);
        let [param, grad] = &side.pairs[0];
        let mut step = side.set.begin_release().expect("a step");
        step.tensor(&mut waiting, "embed.weight", param.slice(), grad.slice()).expect("recorded");
        step.finish().expect("the others are skipped");
        side.groups_mut().set_hyper("matrices", "lr", 7.0).expect("a number");
        let [param, grad] = &side.pairs[2];
        for _ in 0..200 {
            let mut encoder = encoder(&side);
            let mut step = side.set.begin_release().expect("a step");
            let name = &tensors[2].0;
            step.tensor(&mut encoder, name, param.slice(), grad.slice()).expect("recorded");
            step.finish().expect("the others are skipped");
            side.gpu.queue().submit([encoder.finish()]);
            side.gpu.device().poll(wgpu::PollType::wait_indefinitely()).expect("it answers");
        }
        side.gpu.queue().submit([waiting.finish()]);
        assert_eq!(
            bits(&vec![side.params().swap_remove(0)]),
            bits(&vec![alone.params().swap_remove(0)])
        );
    }

    #[test]
    fn encoders_that_are_dropped_change_nothing_and_hold_nothing() {
        let tensors = model();
        let start = starts(&tensors);
        let setup = two_groups(tensors.clone());
        let mut side = make!(OnForeign, setup, start);
        let g = grads(&tensors, 1);
        side.write(&g);
        let record = |side: &mut OnForeign, kept: &mut Vec<wgpu::CommandEncoder>| {
            let mut step = side.set.begin_release()?;
            for (name, [param, grad]) in side.names.iter().zip(&side.pairs) {
                let mut encoder = side.gpu.device().create_command_encoder(&Default::default());
                step.tensor(&mut encoder, name, param.slice(), grad.slice())?;
                kept.push(encoder);
            }
            step.finish()
        };
        // More than the ring holds, each of many encoders that are dropped.
        for _ in 0..200 {
            record(&mut side, &mut Vec::new()).expect("recorded");
        }
        // Begun and left.
        for _ in 0..200 {
            let _ = side.set.begin_release().expect("begun");
        }
        assert_eq!((side.set.steps(), bits(&side.params())), (400, bits(&start)));

        // One encoder of each is enough to keep its constants.
        let mut held = Vec::new();
        let full = loop {
            let mut encoders = Vec::new();
            match record(&mut side, &mut encoders) {
                Ok(()) => held.extend(encoders.pop()),
                Err(error) => break error,
            }
            assert!(held.len() < 1000, "the ring has no end");
        };
        assert!(matches!(full, Error::RingFull { .. }), "{full}");
        let steps = side.set.steps();
        assert_eq!(steps, 400 + held.len() as u64, "a step that fails counts");
        drop(held.pop());
        let mut last = Vec::new();
        record(&mut side, &mut last).expect("one set is free");
        assert!(record(&mut side, &mut Vec::new()).is_err(), "and only one");
        drop(held);

        // Half of a step is submitted: those tensors have changed, and are those of a whole step.
        let mut whole = make!(OnForeign, setup, start);
        whole.set_steps(side.set.steps() - 1);
        whole.step(&g).expect("a step");
        let half = last.len() / 2;
        for encoder in last.drain(..half) {
            side.gpu.queue().submit([encoder.finish()]);
        }
        drop(last);
        let wanted: Lists = [&whole.params()[..half], &start[half..]].concat();
        assert_eq!(bits(&side.params()), bits(&wanted));
    }

    #[test]
    fn what_does_not_fit_a_released_step_is_refused() {
        let plain = || two_groups(model());
        let tensors = model();
        for setup in [
            plain().gradients(Gradients::new().clip_norm(1.0)),
            plain().gradients(Gradients::new().check_finite()),
            plain().gradients(Gradients::new().loss_scale(LossScale::dynamic())),
        ] {
            let mut side = make!(OnForeign, setup, starts(&tensors));
            let error = side.set.begin_release().map(|_| ()).expect_err("it needs all gradients");
            assert!(error.to_string().contains("need all gradients"), "{error}");
            assert_eq!(side.set.steps(), 0, "the step was counted");
        }

        let mut side = make!(OnForeign, plain(), starts(&tensors));
        side.groups_mut().set_hyper("others", "lr", f64::NAN).expect("a number");
        let error = side.set.begin_release().map(|_| ()).expect_err("NaN");
        assert!(matches!(error, Error::In { .. }), "{error}");
        assert_eq!(side.set.steps(), 0, "the step was counted");
        side.groups_mut().set_hyper("others", "lr", 0.01).expect("a number");

        let g = grads(&tensors, 1);
        side.write(&g);
        let mut encoder = encoder(&side);
        let [param, grad] = &side.pairs[1];
        let mut step = side.set.begin_release().expect("a step");
        for (name, has) in [("nobody", "`nobody`"), ("embed.weight", "`embed.weight` has a param")]
        {
            let error = step.tensor(&mut encoder, name, param.slice(), grad.slice());
            let error = error.expect_err("it does not fit").to_string();
            assert!(error.contains(has), "{error}");
        }
        step.tensor(&mut encoder, "scale", param.slice(), grad.slice()).expect("a tensor");
        let error = step.tensor(&mut encoder, "scale", param.slice(), grad.slice());
        let error = error.expect_err("twice").to_string();
        assert!(error.contains("`scale` was given twice"), "{error}");
        let error = step.finish().expect_err("tensors are missing").to_string();
        assert!(error.contains("`embed.weight` has no gradient"), "{error}");
        side.gpu.queue().submit([encoder.finish()]);
        // Once, and nothing else.
        let mut whole = make!(OnForeign, plain().missing(Missing::Skip), starts(&tensors));
        whole.write(&g);
        whole.step_of(|name| name == "scale").expect("a step");
        assert_eq!(bits(&side.params()), bits(&whole.params()));
    }

    #[test]
    fn a_released_step_may_leave_tensors_out_where_the_setup_skips_them() {
        let Some(gpu) = gate::gpu() else { return };
        let tensors = model();
        let setup = two_groups(tensors.clone()).missing(Missing::Skip);
        let mut side = OnForeign::on(gpu, &setup, &starts(&tensors)).expect("valid");
        let before = read(gpu, &[side.pairs[0][0].clone()]);
        side.write(&grads(&tensors, 1));
        let mut encoder = encoder(&side);
        let mut step = side.set.begin_release().expect("a step");
        let [param, grad] = &side.pairs[0];
        step.tensor(&mut encoder, "embed.weight", param.slice(), grad.slice()).expect("recorded");
        step.finish().expect("the others are skipped");
        gpu.queue().submit([encoder.finish()]);
        assert_ne!(read(gpu, &[side.pairs[0][0].clone()]), before);
        assert_eq!(wait(side.set.read_slot("scale", "exp_avg")).expect("a slot"), [0.0]);
    }
}
