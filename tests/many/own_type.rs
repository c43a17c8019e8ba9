//! A framework's own tensor takes part.

use gradstep::{Cpu, Group, Setup, optim::AdamW};

/// A tensor as a framework might have it: memory, and how it is read.
struct Mine {
    memory: Vec<f32>,
    shape: [usize; 2],
}

/// A parameter with its gradient, likewise.
struct Weight {
    name: &'static str,
    value: Mine,
    grad: Option<Mine>,
}

// own type: begin
use gradstep::cpu::{Lent, LentMut, TensorMut, TensorRef};

impl<'a> TensorMut<'a, f32> for &'a mut Mine {
    fn lend(self) -> LentMut<'a, f32> {
        LentMut::Slice(&mut self.memory)
    }
}

impl<'a> TensorRef<'a, f32> for &'a Mine {
    fn lend(self) -> Lent<'a, f32> {
        Lent::Slice(&self.memory)
    }
}
// own type: end

#[test]
fn a_tensor_of_another_crate_takes_part_in_at_most_twenty_lines() {
    let text = include_str!("own_type.rs");
    let (_, from) = text.split_once("// own type: begin\n").expect("a marker");
    let (lines, _) = from.split_once("// own type: end").expect("a marker");
    assert!(lines.lines().count() <= 20, "{} lines", lines.lines().count());

    let mut weights = [("a", [2, 3]), ("b", [4, 1])].map(|(name, shape)| {
        let filled = |x| Mine { memory: vec![x; shape[0] * shape[1]], shape };
        Weight { name, value: filled(1.0), grad: Some(filled(0.5)) }
    });
    let setup = Setup::new()
        .tensors(weights.iter().map(|w| (w.name, w.value.shape)))
        .group(Group::new("all", AdamW::new(0.1)));
    let mut optimizer = setup.cpu::<f32>(&Cpu::default()).expect("valid");
    let mut step = optimizer.begin();
    for weight in &mut weights {
        let grad = weight.grad.as_ref().expect("a gradient");
        step.tensor(weight.name, &mut weight.value, grad).expect("lent");
    }
    step.finish().expect("a step");
    for Weight { name, value, grad } in &weights {
        // AdamW's first step goes by lr, after a decay of lr · 0.01.
        let moved = value.memory.iter().all(|x| (x - 0.899).abs() < 1e-5);
        assert!(moved, "{name}: {:?}", value.memory);
        assert!(grad.is_some(), "gradients were lent, not taken");
    }
}
