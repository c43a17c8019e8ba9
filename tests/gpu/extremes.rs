//! Gradients at the end of the range of `f32`, and settings at the end of theirs.

use gradstep::optim::{Adafactor, Adam, Came};
use gradstep::{Cpu, Optimizer};

use crate::common::gate;
use crate::run::wait;

fn like_the_cpu(
    name: &str,
    optimizer: impl Optimizer + Clone + 'static,
    shape: [usize; 2],
    grads: &[Vec<f32>],
) {
    let Some(gpu) = gate::gpu() else { return };
    let mut cpu = Cpu::single_threaded().prepare(optimizer.clone(), shape).expect("valid");
    let mut arena = wait(gpu.arena(optimizer, &[shape.to_vec()])).expect("valid");
    let mut w: Vec<f32> = (0..shape[0] * shape[1]).map(|i| 0.1 + i as f32 * 0.1).collect();
    arena.write_param(0, &w).expect("a parameter");
    for g in grads {
        cpu.step(&mut w, g).expect("a step");
        arena.write_grad(0, g).expect("a gradient");
        let mut encoder = gpu.device().create_command_encoder(&Default::default());
        arena.encode(&mut encoder).expect("a step");
        gpu.queue().submit([encoder.finish()]);
        let found = wait(arena.read_param(0)).expect("a parameter");
        for (found, wanted) in found.iter().zip(&w) {
            assert!((found - wanted).abs() < 1e-6, "{name}: {found} is not {wanted}, {g:?}");
        }
    }
}

#[test]
fn an_average_that_remembers_nothing_is_its_newest_value() {
    let adam = Adam::new(0.01).with_beta1(0.0).with_beta2(0.0);
    like_the_cpu("adam", adam, [1, 1], &[vec![100.0], vec![1e-6], vec![0.0]]);
}

#[test]
fn rows_and_columns_of_zeros_stand_beside_huge_gradients() {
    for scale in [1.0, 1e4, 1e9, 1e15] {
        for m in [[3.0f32, 0.0, -4.0, 0.0], [3.0, -4.0, 0.0, 0.0], [3.0, 0.0, 0.0, 0.0]] {
            let grads = [1.0, 2.0].map(|t| m.map(|x| x * scale / t).to_vec());
            like_the_cpu("came", Came::new(1e-3), [2, 2], &grads);
            let adafactor = Adafactor::hugging_face().with_lr(1e-3).with_relative_step(false);
            like_the_cpu("adafactor", adafactor, [2, 2], &grads);
        }
    }
}
