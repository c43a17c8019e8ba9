//! Host values: hyper-parameters, the step number and what follows from them, in `f64`.

use crate::definition::Optimizer;
use crate::error::Result;
use crate::plan::Plan;
use crate::trace::{Graph, Kind, NodeId, Op};
use crate::value::{Binary, GRAD};

/// A hyper-parameter of `optimizer`, or one of those between the gradient and a definition.
pub(crate) fn hyper(optimizer: &dyn Optimizer, grad: [f64; 3], name: &str) -> f64 {
    match GRAD.iter().position(|&g| g == name) {
        Some(i) => grad[i],
        None => optimizer.hyper(name).unwrap_or(f64::NAN),
    }
}

/// Evaluates all Host values of a plan, by node.
pub(crate) fn eval_all(plan: &Plan, values: &mut [f64], t: u64, hyper: impl Fn(&str) -> f64) {
    for &n in &plan.host_program {
        values[n] = eval(&plan.graph, n, values, t, &hyper);
    }
}

/// Brings an optimizer's settings into its traced definition: takes the initial values of slots
/// from it, and checks that it knows every hyper-parameter that the definition asks for.
pub(crate) fn adopt(graph: &mut Graph, optimizer: &dyn Optimizer) -> Result<()> {
    for slot in &mut graph.slots {
        slot.init = optimizer.initial(slot.name).unwrap_or(slot.init);
    }
    let unknown = |name: &&&str| !GRAD.contains(name) && optimizer.hyper(name).is_none();
    match graph.hypers.iter().find(unknown) {
        None => Ok(()),
        Some(name) => Err(graph.error(
            format!("it asks for the hyper-parameter `{name}`, which its optimizer does not know"),
            "return its value from `Optimizer::hyper`",
        )),
    }
}

/// The value of Host node `n`, given those before it.
fn eval(graph: &Graph, n: NodeId, values: &[f64], t: u64, hyper: &impl Fn(&str) -> f64) -> f64 {
    match graph.nodes[n].op {
        Op::Literal(bits) => f64::from_bits(bits),
        Op::Hyper(h) => hyper(graph.hypers[h]),
        #[allow(clippy::cast_precision_loss, reason = "exact up to 2^53 steps")]
        Op::StepNumber => t as f64,
        Op::Unary(op, a) => op.apply(values[a]),
        // The system's power differs from platform to platform, this one does not.
        Op::Binary(Binary::Pow, a, b) => libm::pow(values[a], values[b]),
        Op::Binary(op, a, b) => op.apply(values[a], values[b]),
        Op::Select([a, b, x, y]) => {
            if values[a] < values[b] {
                values[x]
            } else {
                values[y]
            }
        }
        // Nothing else has shape Host.
        _ => f64::NAN,
    }
}

/// A definition that needs no tensor: all its values are Host or Scalar. With its state.
#[derive(Debug)]
pub(crate) struct Scalars {
    graph: Graph,
    /// By node, and by slot.
    values: Vec<f64>,
    slots: Vec<f64>,
}

impl Scalars {
    pub(crate) fn new(optimizer: &dyn Optimizer) -> Result<Self> {
        let mut graph = optimizer.recipe().trace(Kind::Vector)?;
        adopt(&mut graph, optimizer)?;
        let slots = graph.slots.iter().map(|s| s.init).collect();
        Ok(Self { values: vec![0.0; graph.nodes.len()], slots, graph })
    }

    /// Step `t`.
    pub(crate) fn step(&mut self, t: u64, hyper: impl Fn(&str) -> f64) {
        for n in 0..self.values.len() {
            self.values[n] = match self.graph.nodes[n].op {
                Op::Old(s) => self.slots[s],
                _ => eval(&self.graph, n, &self.values, t, &hyper),
            };
        }
        for (slot, &n) in self.slots.iter_mut().zip(&self.graph.stores) {
            *slot = self.values[n];
        }
    }

    fn place(&self, slot: &str) -> Option<usize> {
        self.graph.slots.iter().position(|s| s.name == slot)
    }

    /// The number in a slot.
    pub(crate) fn number(&self, slot: &str) -> f64 {
        self.place(slot).map_or(f64::NAN, |s| self.slots[s])
    }

    pub(crate) fn set(&mut self, slot: &str, value: f64) {
        if let Some(s) = self.place(slot) {
            self.slots[s] = value;
        }
    }
}
