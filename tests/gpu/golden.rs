//! The official codes' trajectories, step by step. See `tests/golden/README.md`.
//!
//! `scripts/test` runs these on two adapters.

use gradstep::gpu::{Arena, Gpu};
use gradstep::reference::Reference;

use crate::common::gate;
use crate::common::golden::{Start, Stepper, follow_all};
use crate::run::{step, wait};

struct OnArena {
    gpu: &'static Gpu,
    arena: Arena<Reference>,
}

impl Stepper for OnArena {
    fn step(&mut self, grads: &[Vec<f32>]) -> Vec<Vec<f32>> {
        for (i, grad) in grads.iter().enumerate() {
            self.arena.write_grad(i, grad).expect("written");
        }
        step(self.gpu, &mut self.arena);
        (0..grads.len()).map(|i| wait(self.arena.read_param(i)).expect("read")).collect()
    }

    fn slot(&self, tensor: usize, name: &str) -> Vec<f32> {
        wait(self.arena.read_slot(tensor, name)).expect("a slot")
    }
}

#[test]
fn the_gpu_follows_the_official_f32() {
    let Some(gpu) = gate::gpu() else { return };
    follow_all("the_gpu_follows_the_official_f32", |reference, tensors| {
        let layout = reference.layout();
        let list: Vec<_> = tensors.iter().map(|(_, shape, _): &Start| (shape, layout)).collect();
        let arena = wait(gpu.arena_with(reference, &list)).expect("valid settings");
        for (i, (.., start)) in tensors.iter().enumerate() {
            arena.write_param(i, start).expect("written");
        }
        OnArena { gpu, arena }
    });
}
