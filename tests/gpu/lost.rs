//! A device that is gone: an error that says so, at every call, without a hang or a panic.

use std::sync::mpsc;
use std::time::Duration;

use gradstep::gpu::Gpu;
use gradstep::gpu::wgpu::{self, Limits};
use gradstep::optim::Came;
use gradstep::{Error, Layout};

use crate::common::gate;
use crate::common::table::Values;
use crate::run::{Run, tensor, wait};

/// Runs `test` with a device of its own, in a time that is long enough.
fn with_a_device(test: impl FnOnce(&Gpu) + Send + 'static) {
    let Some(gpu) = gate::own(Limits::defaults()) else { return };
    let (done, is_done) = mpsc::channel();
    let thread = std::thread::spawn(move || {
        test(&gpu);
        let _ = done.send(());
    });
    if is_done.recv_timeout(Duration::from_secs(60)) == Err(mpsc::RecvTimeoutError::Timeout) {
        panic!("a call on a lost device hangs");
    }
    thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
}

fn is_lost<T: std::fmt::Debug>(what: &str, result: Result<T, Error>) {
    let error = result.expect_err(what);
    assert!(matches!(error, Error::DeviceLost { .. }), "{what}: {error}");
    for word in ["lost", "new device"] {
        assert!(error.to_string().contains(word), "{what}: {error}");
    }
}

fn run() -> Run {
    Run {
        name: "lost".into(),
        tensors: vec![tensor(&[67], Layout::Auto), tensor(&[5, 18], Layout::Auto)],
        values: Values::Normal,
        seed: 3,
        steps: 2,
        test: "lost",
    }
}

#[test]
fn a_device_lost_before_anything_was_made() {
    with_a_device(|gpu| {
        gpu.device().destroy();
        is_lost("a Gpu", Gpu::new(gpu.device(), gpu.queue()));
        is_lost("an arena", wait(gpu.arena(Came::new(1e-3), &[[3, 4]])));
        is_lost("an arena of nothing", wait(gpu.arena(Came::new(1e-3), &[[0]])));
        is_lost("foreign", wait(gpu.foreign(Came::new(1e-3), &[[3, 4]])));
        assert!(!gpu.name().is_empty(), "its name is known");
    });
}

#[test]
fn a_device_lost_between_steps() {
    with_a_device(|gpu| {
        let run = run();
        let mut arena = run.arena(gpu, Came::new(1e-3));
        run.step(gpu, &mut arena, 1);
        gpu.device().destroy();
        for _ in 0..3 {
            let mut encoder = gpu.device().create_command_encoder(&Default::default());
            is_lost("a step", arena.encode(&mut encoder));
            is_lost("a parameter", arena.write_param(0, &run.start(0)));
            is_lost("a gradient", arena.write_grad(1, &run.start(1)));
            is_lost("a slot", arena.write_slot(1, "exp_avg_sq_row", &[0.0; 5]));
            is_lost("a full slot", arena.write_slot(1, "exp_avg", &[0.0; 90]));
            is_lost("reading a parameter", wait(arena.read_param(0)));
            is_lost("reading a slot", wait(arena.read_slot(1, "exp_avg_sq_row")));
            is_lost("reading a full slot", wait(arena.read_slot(1, "exp_avg")));
            is_lost("another arena", wait(gpu.arena(Came::new(1e-3), &[[3, 4]])));
            gpu.queue().submit([encoder.finish()]);
            let _ = gpu.device().poll(wgpu::PollType::wait_indefinitely());
        }
        assert_eq!(arena.steps(), 1, "failed steps do not count");
    });
}

#[test]
fn a_device_lost_with_steps_in_flight() {
    with_a_device(|gpu| {
        let run = run();
        let mut arena = run.arena(gpu, Came::new(1e-3));
        let mut encoder = gpu.device().create_command_encoder(&Default::default());
        arena.encode(&mut encoder).expect("recorded");
        for t in 1..=20 {
            run.step(gpu, &mut arena, t);
        }
        gpu.device().destroy();
        gpu.queue().submit([encoder.finish()]);
        is_lost("reading", wait(arena.read_param(1)));
        let mut encoder = gpu.device().create_command_encoder(&Default::default());
        is_lost("a step", arena.encode(&mut encoder));
    });
}

#[test]
fn a_device_lost_between_steps_on_the_callers_buffers() {
    with_a_device(|gpu| {
        let buffer = || {
            gpu.device().create_buffer(&wgpu::BufferDescriptor {
                label: None,
                size: 48,
                usage: wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_DST,
                mapped_at_creation: false,
            })
        };
        let [p, g, other] = [buffer(), buffer(), buffer()];
        let mut foreign = wait(gpu.foreign(Came::new(1e-3), &[[3, 4]])).expect("valid");
        let mut encoder = gpu.device().create_command_encoder(&Default::default());
        foreign.encode(&mut encoder, &[(p.slice(..), g.slice(..))]).expect("recorded");
        gpu.queue().submit([encoder.finish()]);
        gpu.device().destroy();
        let late = buffer();
        for grad in [&g, &other, &late] {
            let mut encoder = gpu.device().create_command_encoder(&Default::default());
            is_lost("a step", foreign.encode(&mut encoder, &[(p.slice(..), grad.slice(..))]));
        }
        is_lost("a slot", foreign.write_slot(0, "exp_avg_sq_row", &[0.0; 3]));
        is_lost("reading a slot", wait(foreign.read_slot(0, "exp_avg")));
        assert_eq!(foreign.steps(), 1, "failed steps do not count");
    });
}

#[test]
fn state_survives_a_lost_device_on_the_host() {
    let Some(gpu) = gate::gpu() else { return };
    let run = run();
    let mut wanted = run.arena(gpu, Came::new(1e-3));
    (1..=4).for_each(|t| run.step(gpu, &mut wanted, t));
    let wanted = run.everything(&wanted);
    with_a_device(move |first| {
        let mut arena = run.arena(first, Came::new(1e-3));
        (1..=2).for_each(|t| run.step(first, &mut arena, t));
        let slots: Vec<Vec<&str>> = vec![
            vec!["exp_avg", "exp_avg_sq"],
            vec![
                "exp_avg",
                "exp_avg_sq_row",
                "exp_avg_sq_col",
                "exp_avg_res_row",
                "exp_avg_res_col",
            ],
        ];
        let saved: Vec<_> = (0..2)
            .map(|i| {
                let slot =
                    |name: &&'static str| (*name, wait(arena.read_slot(i, name)).expect("read"));
                (
                    wait(arena.read_param(i)).expect("read"),
                    slots[i].iter().map(slot).collect::<Vec<_>>(),
                )
            })
            .collect();
        first.device().destroy();
        let Some(second) = gate::own(Limits::defaults()) else { return };
        let mut arena = run.arena(&second, Came::new(1e-3));
        for (i, (param, slots)) in saved.iter().enumerate() {
            arena.write_param(i, param).expect("written");
            for (name, values) in slots {
                arena.write_slot(i, name, values).expect("written");
            }
        }
        arena.set_steps(2);
        (3..=4).for_each(|t| run.step(&second, &mut arena, t));
        assert_eq!(run.everything(&arena), wanted, "as if nothing had happened");
    });
}
