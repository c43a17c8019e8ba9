//! State goes from one backend to the other and back.

use gradstep::{Cpu, CpuStep, Layout};

use crate::common::gate;
use crate::common::run::widen;
use crate::common::table::{Any, Values, optimizers, seed_of};
use crate::common::tolerance::{self, F32};
use crate::run::{Run, bits, tensor, wait};

/// Where the state changes sides.
const HALF: u64 = 6;

#[test]
fn state_saved_on_one_side_continues_on_the_other() {
    let Some(gpu) = gate::gpu() else { return };
    for case in optimizers() {
        let run = Run {
            name: case.name.into(),
            tensors: vec![
                tensor(&[67], Layout::Auto),
                tensor(&[5, 18], Layout::Auto),
                tensor(&[300, 7], Layout::Auto),
                tensor(&[3, 5, 4], Layout::LastTwo),
                tensor(&[0, 3], Layout::Auto),
                tensor(&[], Layout::Auto),
                tensor(&[2, 16_385], Layout::Auto),
            ],
            values: Values::Normal,
            seed: seed_of(case.name),
            steps: 2 * HALF,
            test: "state_saved_on_one_side_continues_on_the_other",
        };
        let make = || case.optimizer.clone();
        let n = run.tensors.len();
        // Three that take all steps or half of them: a CPU, a GPU, and one of each to continue.
        let (mut cpu, mut continued) = (run.cpu(make), run.cpu(make));
        let (mut gpu_first, mut gpu_second) = (run.arena(gpu, make()), run.arena(gpu, make()));
        let start: Vec<_> = (0..n).map(|i| run.start(i)).collect();
        let mut on_cpu = start.clone();
        for t in 1..=HALF {
            run.step(gpu, &mut gpu_first, t);
            steps(&mut cpu, &run, &mut on_cpu, t);
        }
        let mut from_gpu = Vec::new();
        for i in 0..n {
            from_gpu.push(wait(gpu_first.read_param(i)).expect("read"));
            gpu_second.write_param(i, &on_cpu[i]).expect("written");
            let names: Vec<_> = cpu[i].slots().map(|s| s.0).collect();
            for name in names {
                let saved = cpu[i].slot(name).expect("a slot");
                gpu_second.write_slot(i, name, &saved).expect("written");
                let back = wait(gpu_second.read_slot(i, name)).expect("read");
                assert_eq!(bits(&back), bits(&saved), "{}: {name} of tensor {i}", case.name);
                let saved = wait(gpu_first.read_slot(i, name)).expect("read");
                continued[i].set_slot(name, &saved).expect("written");
            }
            continued[i].set_steps(HALF);
        }
        gpu_second.set_steps(HALF);
        for t in HALF + 1..=run.steps {
            run.step(gpu, &mut gpu_second, t);
            steps(&mut cpu, &run, &mut on_cpu, t);
            steps(&mut continued, &run, &mut from_gpu, t);
        }
        assert_eq!(gpu_second.steps(), run.steps, "{}", case.name);
        for i in 0..n {
            let from_cpu = wait(gpu_second.read_param(i)).expect("read");
            for found in [&from_cpu, &from_gpu[i]] {
                let [start, found, wanted] =
                    [&start[i], found, &on_cpu[i]].map(|x| widen(x.as_slice()));
                let what = run.what(i, run.steps);
                let moved = &mut 0.0;
                tolerance::check(tolerance::GPU, F32, &what, moved, &start, &found, &wanted);
            }
        }
    }
}

fn steps(cpu: &mut [CpuStep<f32, Any>], run: &Run, params: &mut [Vec<f32>], t: u64) {
    for (i, (cpu, w)) in cpu.iter_mut().zip(params).enumerate() {
        cpu.step(w, &run.gradient(i, t)).expect("a valid step");
    }
}

#[test]
fn slots_begin_as_they_are_declared() {
    let Some(gpu) = gate::gpu() else { return };
    for case in optimizers() {
        for shape in [&[5][..], &[3, 4]] {
            let arena = wait(gpu.arena(case.optimizer.clone(), &[shape])).expect("valid");
            let cpu = Cpu::single_threaded().prepare::<f32, _>(case.optimizer.clone(), shape);
            let cpu = cpu.expect("valid");
            for (name, _) in cpu.slots() {
                let found = wait(arena.read_slot(0, name)).expect("read");
                assert_eq!(found, cpu.slot(name).expect("a slot"), "{}: {name}", case.name);
            }
        }
    }
}
