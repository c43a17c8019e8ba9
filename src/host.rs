//! Host values: hyper-parameters, the step number and what follows from them, in `f64`.

use crate::definition::Optimizer;
use crate::error::Result;
use crate::plan::Plan;
use crate::trace::{Graph, NodeId, Op};
use crate::value::Binary;

/// Evaluates all Host values of a plan, by node.
pub(crate) fn eval_all(plan: &Plan, values: &mut [f64], t: u64, hyper: impl Fn(&str) -> f64) {
    for &n in &plan.host_program {
        values[n] = eval(plan, n, values, t, &hyper);
    }
}

/// Checks that the optimizer knows every hyper-parameter that its definition asks for.
pub(crate) fn check_names<O: Optimizer>(graph: &Graph, optimizer: &O) -> Result<()> {
    match graph.hypers.iter().find(|name| optimizer.hyper(name).is_none()) {
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
