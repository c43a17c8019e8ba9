//! Every optimizer on every shape with every family of values equals the oracle.

use gradstep::Cpu;

use crate::common::run::{Number, Problem};
use crate::common::table::*;
use crate::common::tolerance::{LONG_F64, STATE, STEP, Tolerance};

fn run<T: Number>(shapes: &[Tensor], values: &[Values], steps: u64, test: &'static str) {
    run_within::<T>(shapes, values, steps, [STEP, STATE], test);
}

fn run_within<T: Number>(
    shapes: &[Tensor],
    values: &[Values],
    steps: u64,
    [step, state]: [Tolerance; 2],
    test: &'static str,
) {
    let cpu = Cpu::single_threaded();
    for case in optimizers() {
        for tensor in shapes {
            for &values in values {
                let name = format!("{} {values:?} {:?}", case.name, tensor.layout);
                let problem = Problem {
                    seed: seed_of(&name),
                    name,
                    optimizer: case.optimizer.clone(),
                    tensor: tensor.clone(),
                    values,
                    steps,
                    test,
                };
                problem.check::<T>(&cpu, step, state);
            }
        }
    }
}

#[test]
fn small_tensors_equal_the_oracle_in_f32() {
    run::<f32>(&small_shapes(), &VALUES, 24, "small_tensors_equal_the_oracle_in_f32");
}

#[test]
fn small_tensors_equal_the_oracle_in_f64() {
    run::<f64>(&small_shapes(), &VALUES, 24, "small_tensors_equal_the_oracle_in_f64");
}

#[test]
fn medium_tensors_equal_the_oracle_in_f32() {
    let values = [Values::Mixed, Values::IdleRows];
    run::<f32>(&medium_shapes(), &values, 7, "medium_tensors_equal_the_oracle_in_f32");
}

#[test]
fn medium_tensors_equal_the_oracle_in_f64() {
    run::<f64>(&medium_shapes(), &[Values::Mixed], 3, "medium_tensors_equal_the_oracle_in_f64");
}

#[test]
fn large_tensors_equal_the_oracle_in_f32() {
    run::<f32>(&large_shapes(), &[Values::Mixed], 2, "large_tensors_equal_the_oracle_in_f32");
}

#[test]
fn large_tensors_equal_the_oracle_in_f64() {
    let test = "large_tensors_equal_the_oracle_in_f64";
    // Not the last ones, of one row or one column: there CAME and Adafactor sum 150 000 terms that
    // are all 1 (each element is its own second moment). Equal terms round the same way, and in
    // sequence that costs some 500 units of f64. In f32 they are tested above.
    run_within::<f64>(&large_shapes()[..6], &[Values::Normal], 1, [LONG_F64; 2], test);
}
