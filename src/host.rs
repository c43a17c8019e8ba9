//! Host values: hyper-parameters, the step number and what follows from them, in `f64`.

use crate::plan::Plan;
use crate::trace::{NodeId, Op};
use crate::value::Binary;

/// The value of Host node `n`, given those before it.
pub(crate) fn eval(
    plan: &Plan,
    n: NodeId,
    values: &[f64],
    t: u64,
    hyper: &impl Fn(&str) -> f64,
) -> f64 {
    match plan.graph.nodes[n].op {
        Op::Literal(bits) => f64::from_bits(bits),
        Op::Hyper(h) => hyper(plan.graph.hypers[h]),
        #[allow(clippy::cast_precision_loss, reason = "exact up to 2^53 steps")]
        Op::StepNumber => t as f64,
        Op::Unary(op, a) => op.apply(values[a]),
        // The system's power differs from platform to platform, this one does not.
        Op::Binary(Binary::Pow, a, b) => libm::pow(values[a], values[b]),
        Op::Binary(op, a, b) => op.apply(values[a], values[b]),
        Op::Select([a, b, x, y]) => if values[a] < values[b] { values[x] } else { values[y] },
        // Nothing else has shape Host.
        _ => f64::NAN,
    }
}
