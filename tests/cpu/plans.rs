//! Fusion and memory are promises: levels, sweeps, bytes a parameter, state.

use gradstep::optim::*;
use gradstep::{Layout, Optimizer, Plan};

use crate::common::table::optimizers;

fn plan(optimizer: &dyn Optimizer, layout: Layout, shape: &[usize]) -> (gradstep::Dims, Plan) {
    layout.plan(optimizer.recipe(), shape).expect("valid")
}

/// (levels, sweeps, bytes a parameter, state elements) of a 300 × 200 matrix and of a vector of
/// 60 000 elements.
const N: usize = 60_000;
const FACTORED: usize = 300 + 200;

#[test]
fn sweeps_bytes_and_state_are_as_promised() {
    let unscaled = Adafactor::hugging_face().with_scale_parameter(false);
    let momentum = unscaled.clone().with_beta1(Some(0.9));
    type Promise = (usize, usize, usize, usize);
    let table: Vec<(Box<dyn Optimizer>, Promise, Promise)> = vec![
        (Box::new(Sgd::new(0.1)), (1, 1, 12, 0), (1, 1, 12, 0)),
        (Box::new(Sgd::new(0.1).with_momentum(0.9)), (1, 1, 20, N), (1, 1, 20, N)),
        (
            Box::new(Sgd::new(0.1).with_momentum(0.9).with_nesterov(true)),
            (1, 1, 20, N),
            (1, 1, 20, N),
        ),
        (Box::new(Adam::new(0.1)), (1, 1, 28, 2 * N), (1, 1, 28, 2 * N)),
        (Box::new(AdamW::new(0.1)), (1, 1, 28, 2 * N), (1, 1, 28, 2 * N)),
        (Box::new(AdamW::new(0.1).with_amsgrad(true)), (1, 1, 36, 3 * N), (1, 1, 36, 3 * N)),
        (Box::new(unscaled), (3, 2, 16, FACTORED), (2, 2, 28, N)),
        (Box::new(momentum), (3, 2, 24, N + FACTORED), (2, 2, 36, 2 * N)),
        (Box::new(Adafactor::hugging_face()), (3, 2, 20, FACTORED), (2, 2, 32, N)),
        (Box::new(Adafactor::paper()), (3, 2, 20, FACTORED), (2, 2, 32, N)),
        (Box::new(Adafactor::torch()), (3, 3, 24, FACTORED), (2, 2, 32, N)),
        (Box::new(Sm3::new(0.1)), (1, 1, 12, FACTORED), (1, 1, 20, N)),
        (Box::new(Sm3::new(0.1).with_momentum(0.9)), (1, 1, 20, N + FACTORED), (1, 1, 28, 2 * N)),
        (Box::new(Came::new(0.1)), (4, 3, 28, N + 2 * FACTORED), (2, 2, 36, 2 * N)),
        (
            Box::new(Came::new(0.1).with_variant(CameVariant::InitOne)),
            (4, 3, 28, N + 2 * FACTORED),
            (2, 2, 36, 2 * N),
        ),
        (
            Box::new(Came::new(0.1).with_variant(CameVariant::BiasCorrected)),
            (4, 3, 28, N + 2 * FACTORED),
            (2, 2, 36, 2 * N),
        ),
    ];
    for (optimizer, matrix, vector) in table {
        for (shape, promise) in [(&[300, 200][..], matrix), (&[N], vector)] {
            let (dims, plan) = plan(&*optimizer, Layout::Auto, shape);
            let found = (
                plan.levels.len(),
                plan.sweeps.len(),
                plan.bytes_per_parameter(4),
                dims.state_len(&plan.graph),
            );
            assert_eq!(found, promise, "{optimizer:?} on {shape:?}\n{plan}");
        }
    }
}

#[test]
fn a_clip_of_came_s_final_update_takes_no_sweep_of_its_own() {
    let (_, plan) = plan(&Came::new(0.1).with_clip_update(Some(1.0)), Layout::Auto, &[300, 200]);
    assert_eq!(
        (plan.levels.len(), plan.sweeps.len(), plan.bytes_per_parameter(4)),
        (5, 3, 28),
        "{plan}"
    );
}

#[test]
fn a_few_very_long_rows_are_not_fused() {
    let (_, plan) = plan(&Came::new(0.1), Layout::Auto, &[64, 1 << 15]);
    assert_eq!((plan.levels.len(), plan.sweeps.len()), (4, 4), "{plan}");
    let (_, plan) = self::plan(&Came::new(0.1), Layout::Auto, &[65, 1 << 15]);
    assert_eq!((plan.levels.len(), plan.sweeps.len()), (4, 3), "{plan}");
}

#[test]
fn the_default_layout_has_the_smaller_state() {
    let came = Came::new(0.1);
    let state = |layout, shape: &[usize]| {
        let (dims, plan) = plan(&came, layout, shape);
        dims.state_len(&plan.graph)
    };
    // A convolution: LastTwo keeps more than AdamW's two moments, Flatten little more than one.
    let conv = [64, 32, 3, 3];
    let n: usize = conv.iter().product();
    assert_eq!(state(Layout::LastTwo, &conv), n + 2 * 64 * 32 * 6);
    assert!(state(Layout::LastTwo, &conv) > 2 * n, "more than AdamW");
    assert_eq!(state(Layout::Flatten, &conv), n + 2 * (64 + 288));
    assert_eq!(state(Layout::Auto, &conv), state(Layout::Flatten, &conv));
    // Experts.
    let experts = [8, 256, 128];
    let n: usize = experts.iter().product();
    assert_eq!(state(Layout::LastTwo, &experts), n + 2 * 8 * 384);
    assert_eq!(state(Layout::Flatten, &experts), n + 2 * (8 + 256 * 128));
    assert_eq!(state(Layout::Auto, &experts), state(Layout::LastTwo, &experts));
    // Everything as a vector keeps two full moments.
    assert_eq!(state(Layout::Vector, &experts), 2 * n);
    for layout in [Layout::Auto, Layout::LastTwo, Layout::Flatten] {
        assert_eq!(state(layout, &[]), 2, "a scalar is a vector of one element");
        assert_eq!(state(layout, &[7]), 14);
        assert_eq!(state(layout, &[3, 4]), 12 + 14);
    }
}

#[test]
fn every_plan_prints_every_slot() {
    for case in optimizers() {
        for shape in [&[9][..], &[9, 9]] {
            let (_, plan) = plan(&case.optimizer, Layout::Auto, shape);
            let text = plan.to_string();
            for slot in &plan.graph.slots {
                let store = format!("{} <- ", slot.name);
                assert!(text.contains(&store), "{}: {store} in\n{text}", case.name);
            }
            assert!(text.contains("param <- "), "{}:\n{text}", case.name);
        }
    }
}

#[test]
fn a_plan_prints_as_expected() {
    let (_, plan) = plan(&Sm3::new(0.1), Layout::Auto, &[9, 9]);
    assert_eq!(plan.to_string().trim_end(), EXPECTED.trim(), "\n{plan}");
}

// The gradient is clamped and scaled by Host values that are −∞, ∞ and 1 unless a set of tensors
// clips or unscales its gradients.
const EXPECTED: &str = "
sm3 of a matrix: 1 levels in 1 sweeps, 12 bytes a parameter in f32
settle
    %11  Rows    old accumulator_0
    %12  Cols    old accumulator_1
sweep 1: read grad param | write param
  level 0
    %3   Full    grad
    %4   Full    max(%3, %0)
    %5   Full    min(%4, %1)
    %6   Full    %5 * %2
    %7   Full    param
    %10  Full    %6 * %6
    %13  Full    min(%11, %12)
    %14  Full    %13 + %10
    %17  Full    %14 + %9
    %18  Full    rsqrt(%17)
    %19  Full    %6 * %18
    %20  Full    %19 * %8
    %21  Full    %7 - %20
    param <- %21
settle
    %15  Rows    row max(%14)
    %16  Cols    col max(%14)
    accumulator_0 <- %15
    accumulator_1 <- %16
";
