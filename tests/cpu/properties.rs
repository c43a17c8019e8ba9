//! Random tensors, values and hyper-parameters. `GRADSTEP_CASES` sets how many.

use gradstep::{Cpu, Layout};
use proptest::prelude::*;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};

use crate::common::run::{Number, Problem, bits, narrow, widen};
use crate::common::table::*;
use crate::common::tolerance::{self, STATE, STEP};

fn runner(cases: u32) -> TestRunner {
    let parse = |s: String| s.parse().expect("GRADSTEP_CASES is a whole number");
    let cases = std::env::var("GRADSTEP_CASES").map_or(cases, parse);
    let config = Config { cases, failure_persistence: None, ..Config::default() };
    let mut seed = [0; 32];
    seed[..8].copy_from_slice(&base_seed().to_le_bytes());
    TestRunner::new_with_rng(config, TestRng::from_seed(RngAlgorithm::ChaCha, &seed))
}

fn layouts() -> impl Strategy<Value = Layout> {
    prop_oneof![
        Just(Layout::Auto),
        Just(Layout::LastTwo),
        Just(Layout::Flatten),
        Just(Layout::Vector)
    ]
}

/// Shapes of rank 0 to 4 with at most some thousand elements, now and then an empty one.
fn shapes() -> impl Strategy<Value = Vec<usize>> {
    prop_oneof![
        1 => Just(vec![]),
        4 => proptest::collection::vec(0..300usize, 1),
        8 => (1..140usize, 1..70usize).prop_map(|(n, m)| vec![n, m]),
        2 => proptest::collection::vec(0..12usize, 3),
        2 => proptest::collection::vec(1..7usize, 4),
        1 => (1..5usize, 4000..4200usize).prop_map(|(n, m)| vec![n, m]),
        1 => (4000..4200usize, 1..5usize).prop_map(|(n, m)| vec![n, m]),
    ]
}

fn problems(test: &'static str) -> impl Strategy<Value = Problem> {
    let pick = (0..optimizers().len(), 0..VALUES.len(), shapes(), layouts(), any::<u64>());
    pick.prop_map(move |(optimizer, values, shape, layout, seed)| {
        let Case { name, mut optimizer } = optimizers().swap_remove(optimizer);
        let (_, plan) =
            layout.plan(gradstep::Optimizer::recipe(&optimizer), &shape).expect("valid");
        vary(&mut optimizer, &plan.graph.hypers, &mut Rng(seed));
        Problem {
            name: format!("{name} {layout:?} {:?}", VALUES[values]),
            optimizer,
            tensor: Tensor { shape, layout },
            values: VALUES[values],
            seed,
            steps: 1 + seed % 12,
            test,
        }
    })
}

/// Panics of a check become proptest failures, which it shrinks and reports with their input.
fn run(cases: u32, test: &'static str, check: impl Fn(&Problem)) {
    runner(cases)
        .run(&problems(test), |problem| {
            check(&problem);
            Ok(())
        })
        .unwrap_or_else(|e| {
            panic!("{e}\nRepeat: GRADSTEP_SEED={} cargo test --test cpu {test}", base_seed())
        });
}

#[test]
fn random_problems_equal_the_oracle_in_f32() {
    let cpu = Cpu::single_threaded();
    run(250, "random_problems_equal_the_oracle_in_f32", |p| p.check::<f32>(&cpu, STEP, STATE));
}

#[test]
fn random_problems_equal_the_oracle_in_f64() {
    let cpu = Cpu::single_threaded();
    run(250, "random_problems_equal_the_oracle_in_f64", |p| p.check::<f64>(&cpu, STEP, STATE));
}

/// Steps and returns the parameter; `change` may alter each gradient.
fn steps<T: Number>(p: &Problem, start: &[f64], change: impl Fn(Vec<f64>) -> Vec<f64>) -> Vec<f64> {
    let mut opt = p.prepare::<T>(&Cpu::single_threaded());
    let mut x: Vec<T> = narrow(start);
    for t in 1..=p.steps {
        opt.step(&mut x, &narrow::<T>(&change(p.gradient(t)))).expect("valid");
    }
    widen(&x)
}

#[test]
fn a_learning_rate_of_zero_changes_no_bit() {
    run(200, "a_learning_rate_of_zero_changes_no_bit", |p| {
        let mut p = p.clone();
        if gradstep::Optimizer::hyper(&p.optimizer, "lr").is_none() {
            return; // relative steps
        }
        p.optimizer.set("lr", 0.0);
        let start = p.start();
        let end = steps::<f32>(&p, &start, |g| g);
        if uses(&p, "lr") {
            assert_eq!(bits(&start), bits(&end), "{p:?}");
        }
    });
}

fn uses(p: &Problem, hyper: &str) -> bool {
    p.prepare::<f32>(&Cpu::single_threaded()).plan().graph.hypers.contains(&hyper)
}

/// The rows of each matrix in reverse order.
fn flip(x: &[f64], dims: gradstep::Dims) -> Vec<f64> {
    let matrices = x.chunks(dims.rows * dims.cols);
    matrices.flat_map(|m| m.chunks(dims.cols).rev().flatten().copied()).collect()
}

#[test]
fn the_order_of_rows_does_not_matter() {
    let test = "the_order_of_rows_does_not_matter";
    run(150, test, |p| {
        let dims = p.prepare::<f64>(&Cpu::single_threaded()).dims();
        if dims.is_empty() {
            return;
        }
        let start = p.start();
        let wanted = flip(&steps::<f64>(p, &start, |g| g), dims);
        let start = flip(&start, dims);
        let found = steps::<f64>(p, &start, |g| flip(&g, dims));
        tolerance::check(STEP, f64::UNIT, &p.what(p.steps), &mut 0.0, &start, &found, &wanted);
    });
}

#[test]
fn transposing_a_matrix_transposes_the_result() {
    let test = "transposing_a_matrix_transposes_the_result";
    run(150, test, |p| {
        let &[n, m] = &p.tensor.shape[..] else { return };
        let turn = |x: Vec<f64>, n: usize, m: usize| -> Vec<f64> {
            (0..n * m).map(|k| x[k % n * m + k / n]).collect()
        };
        let mut turned = p.clone();
        turned.tensor.shape = vec![m, n];
        // Flatten of a matrix is the matrix.
        let start = p.start();
        let wanted = turn(steps::<f64>(p, &start, |g| g), n, m);
        let start = turn(start, n, m);
        let mut opt = turned.prepare::<f64>(&Cpu::single_threaded());
        let mut found = start.clone();
        for t in 1..=p.steps {
            opt.step(&mut found, &turn(p.gradient(t), n, m)).expect("valid");
        }
        tolerance::check(STEP, f64::UNIT, &p.what(p.steps), &mut 0.0, &start, &found, &wanted);
    });
}

#[test]
fn optimizers_that_normalise_do_not_see_the_scale_of_gradients() {
    let test = "optimizers_that_normalise_do_not_see_the_scale_of_gradients";
    for Case { name, mut optimizer } in optimizers() {
        if name.starts_with("sgd") {
            continue; // linear in the gradient, tested below
        }
        // Decay in the gradient (Adam's L2) has a scale of its own; ε must be far below the
        // gradients: Adam's 1e-8 is not, and torch's Adafactor clamps at ε² per element.
        optimizer.set("weight_decay", 0.0);
        if name.starts_with("adam") {
            optimizer.set("eps", 1e-30);
        }
        if name == "adafactor torch" {
            optimizer.set("eps1", 1e-60);
        }
        for shape in [&[40][..], &[9, 17], &[2, 5, 6]] {
            let p = Problem {
                name: name.into(),
                optimizer: optimizer.clone(),
                tensor: Tensor { shape: shape.to_vec(), layout: Layout::LastTwo },
                values: Values::Normal,
                seed: seed_of(name),
                steps: 10,
                test,
            };
            let start = p.start();
            let wanted = steps::<f64>(&p, &start, |g| g);
            for scale in [1000.0, 1e-3] {
                let found =
                    steps::<f64>(&p, &start, |g| g.into_iter().map(|x| x * scale).collect());
                tolerance::check(STEP, f64::UNIT, &p.what(10), &mut 0.0, &start, &found, &wanted);
            }
        }
    }
}

#[test]
fn sgd_moves_in_proportion_to_the_gradient() {
    for Case { name, mut optimizer } in optimizers() {
        if !name.starts_with("sgd") {
            continue;
        }
        optimizer.set("weight_decay", 0.0);
        optimizer.set("decoupled_weight_decay", 0.0);
        let p = Problem {
            name: name.into(),
            optimizer,
            tensor: Tensor { shape: vec![9, 17], layout: Layout::Auto },
            values: Values::Normal,
            seed: seed_of(name),
            steps: 10,
            test: "sgd_moves_in_proportion_to_the_gradient",
        };
        let start = p.start();
        let once = steps::<f64>(&p, &start, |g| g);
        let found = steps::<f64>(&p, &start, |g| g.into_iter().map(|x| 3.0 * x).collect());
        let wanted: Vec<f64> = start.iter().zip(&once).map(|(a, b)| a + 3.0 * (b - a)).collect();
        tolerance::check(STEP, f64::UNIT, &p.what(10), &mut 0.0, &start, &found, &wanted);
    }
}
