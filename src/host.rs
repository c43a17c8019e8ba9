//! Host values: hyper-parameters, the step number and what follows from them, in `f64`.

use crate::definition::Optimizer;
use crate::error::Result;
use crate::plan::Plan;
use crate::trace::{Graph, NodeId, Op};
use crate::value::{Binary, GRAD};

/// A hyper-parameter of `optimizer`, or one of those between the gradient and a definition.
pub(crate) fn hyper(optimizer: &(impl Optimizer + ?Sized), grad: [f64; 3], name: &str) -> f64 {
    match GRAD.iter().position(|&g| g == name) {
        Some(i) => grad[i],
        None => optimizer.hyper(name).unwrap_or(f64::NAN),
    }
}

/// Evaluates all Host values of a plan, by node.
pub(crate) fn eval_all(plan: &Plan, values: &mut [f64], t: u64, hyper: impl Fn(&str) -> f64) {
    for &n in &plan.host_program {
        values[n] = eval(plan, n, values, t, &hyper);
    }
}

/// Brings an optimizer's settings into its traced definition: takes the initial values of slots
/// from it, and checks that it knows every hyper-parameter that the definition asks for.
pub(crate) fn adopt<O: Optimizer + ?Sized>(graph: &mut Graph, optimizer: &O) -> Result<()> {
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
fn eval(plan: &Plan, n: NodeId, values: &[f64], t: u64, hyper: &impl Fn(&str) -> f64) -> f64 {
    match plan.graph.nodes[n].op {
        Op::Literal(bits) => f64::from_bits(bits),
        Op::Hyper(h) => hyper(plan.graph.hypers[h]),
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
