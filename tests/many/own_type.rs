//! A framework's own tensor takes part.

use gradstep::{Cpu, Group, Setup, optim::AdamW};

/// A tensor as a framework might have it: memory that is shared, and a view of it.
struct Mine {
    memory: Vec<f32>,
    shape: [usize; 2],
    grad: Option<Vec<f32>>,
}

// own type: begin
use gradstep::cpu::{Lent, LentMut, TensorMut, TensorRef};

struct Grad<'a>(&'a [f32]);

impl<'a> TensorMut<'a, f32> for &'a mut Mine {
    fn lend(self) -> LentMut<'a, f32> {
        LentMut::Slice(&mut self.memory)
    }
}

impl<'a> TensorRef<'a, f32> for Grad<'a> {
    fn lend(self) -> Lent<'a, f32> {
        Lent::Slice(self.0)
    }
}
// own type: end

#[test]
fn a_tensor_of_another_crate_takes_part_in_at_most_twenty_lines() {
    let text = include_str!("own_type.rs");
    let (_, from) = text.split_once("// own type: begin\n").expect("a marker");
    let (lines, _) = from.split_once("// own type: end").expect("a marker");
    assert!(lines.lines().count() <= 20, "{} lines", lines.lines().count());

    let mut tensors = [("a", [2, 3]), ("b", [4, 1])].map(|(name, shape)| {
        let n = shape[0] * shape[1];
        (name, Mine { memory: vec![1.0; n], shape, grad: Some(vec![0.5; n]) })
    });
    let setup = Setup::new()
        .tensors(tensors.iter().map(|(name, t)| (*name, t.shape)))
        .group(Group::new("all", AdamW::new(0.1)));
    let mut optimizer = setup.cpu::<f32>(&Cpu::default()).expect("valid");
    let mut step = optimizer.begin();
    for (name, tensor) in &mut tensors {
        let grad = tensor.grad.take().expect("a gradient");
        let grad: &[f32] = grad.leak();
        step.tensor(*name, tensor, Grad(grad)).expect("lent");
    }
    step.finish().expect("a step");
    for (name, tensor) in &tensors {
        // AdamW's first step goes by lr, after a decay of lr · 0.01.
        let moved = tensor.memory.iter().all(|x| (x - 0.899).abs() < 1e-5);
        assert!(moved, "{name}: {:?}", tensor.memory);
    }
}
