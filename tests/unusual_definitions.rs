//! Definitions and shapes at the edge of what is allowed: each either works as its text says, or
//! is refused with an error that names the reason. Nothing panics.

use std::cell::Cell;

use gradstep::value::{Axis, Interpreter, Shape, Step};
use gradstep::{Cpu, CpuStep, Definition, Error, Layout, Levels, Optimizer, Recipe};

/// Makes an optimizer without hyper-parameters from the body of a step.
macro_rules! definition {
    ($name:ident, $levels:expr, |$s:ident| $body:block) => {
        #[derive(Debug)]
        struct $name;

        impl Definition for $name {
            const NAME: &'static str = stringify!($name);
            const LEVELS: Levels = $levels;

            #[inline(always)]
            fn step<I: Interpreter>($s: Step<'_, I>) {
                $body
            }
        }

        impl Optimizer for $name {
            fn hyper(&self, _: &str) -> Option<f64> {
                None
            }

            fn recipe(&self) -> Recipe {
                Recipe::of::<Self>()
            }
        }
    };
}

fn prepare<O: Optimizer>(optimizer: O, shape: &[usize]) -> CpuStep<f64, O> {
    Cpu::single_threaded().prepare(optimizer, shape).expect("a valid definition")
}

fn refused<O: Optimizer + 'static>(optimizer: O, shape: &[usize]) -> String {
    match Cpu::single_threaded().prepare::<f64, O>(optimizer, shape) {
        Err(error @ Error::Definition { .. }) => error.to_string(),
        other => panic!("not refused as a definition: {other:?}"),
    }
}

definition!(MeanAsParameter, Levels::flat(2), |s| {
    s.set_param(s.grad().tensor_mean());
});

#[test]
fn a_small_value_may_become_the_parameter() {
    let mut w = vec![7.0; 21];
    let g: Vec<f64> = (0..21).map(f64::from).collect();
    prepare(MeanAsParameter, &[21]).step(&mut w, &g).expect("a step");
    assert_eq!(w, vec![10.0; 21], "the mean, everywhere");
}

definition!(RowMeanAsParameter, Levels::factored(2, 2), |s| {
    s.set_param(s.grad().row_mean());
});

#[test]
fn a_row_value_may_become_the_parameter() {
    let mut w = vec![7.0; 3 * 20];
    let g: Vec<f64> = (0..60).map(|i| f64::from(i / 20)).collect();
    prepare(RowMeanAsParameter, &[3, 20]).step(&mut w, &g).expect("a step");
    assert_eq!(w, g, "each row its own mean");
}

definition!(Constant, Levels::flat(1), |s| {
    s.set_param(s.t() * 0.5);
});

#[test]
fn a_host_value_may_become_the_parameter() {
    let mut w = vec![7.0; 19];
    let mut step = prepare(Constant, &[19]);
    step.step(&mut w, &[1.0; 19]).expect("a step");
    step.step(&mut w, &[1.0; 19]).expect("a step");
    assert_eq!(w, vec![1.0; 19], "t/2");
}

definition!(OldAfterSet, Levels::flat(1), |s| {
    let m = s.full("m");
    m.set(s.grad());
    s.set_param(m.old());
});

definition!(ParamAfterSet, Levels::flat(1), |s| {
    s.set_param(s.grad());
    s.full("last").set(s.param());
});

#[test]
fn reading_an_old_value_after_the_new_one_is_set_is_refused() {
    let message = refused(OldAfterSet, &[5]);
    assert!(message.contains("`m`") && message.contains("old"), "{message}");
    let message = refused(ParamAfterSet, &[5]);
    assert!(message.contains("parameter"), "{message}");
}

definition!(OldAsParameter, Levels::flat(1), |s| {
    let k = s.slot("k", Shape::Scalar, 0.0);
    let old = k.old();
    k.set(old + 1.0);
    s.set_param(old);
});

#[test]
fn a_small_slot_that_is_stored_before_its_old_value_is_read_is_refused() {
    let message = refused(OldAsParameter, &[5]);
    assert!(message.contains("`k`") && message.contains("old"), "{message}");
}

definition!(SwapFull, Levels::flat(1), |s| {
    let (a, b) = (s.full("a"), s.slot("b", Shape::Full, 1.0));
    let (x, y) = (a.old(), b.old());
    a.set(y);
    b.set(x);
    s.set_param(x + s.grad() * 0.0);
});

definition!(SwapSmall, Levels::flat(2), |s| {
    let (a, b) = (s.slot("a", Shape::Scalar, 0.0), s.slot("b", Shape::Scalar, 1.0));
    let (x, y) = (a.old(), b.old());
    a.set(y);
    b.set(x);
    s.set_param(s.grad() * 0.0 + s.grad().tensor_mean());
});

definition!(DelaySmall, Levels::factored(1, 1), |s| {
    let (a, b) = (s.slot("now", Shape::Cols, 0.0), s.slot("before", Shape::Cols, 0.0));
    let x = a.old();
    a.set(x + 1.0);
    b.set(x);
    s.set_param(s.grad());
});

#[test]
fn slots_may_be_swapped_and_shifted() {
    let (mut w, g) = (vec![0.0; 6], vec![1.0; 6]);
    let mut full = prepare(SwapFull, &[6]);
    full.step(&mut w, &g).expect("a step");
    assert_eq!(full.slot("a").expect("a slot"), vec![1.0; 6], "full, first");
    assert_eq!(full.slot("b").expect("a slot"), vec![0.0; 6], "full, second");
    let mut small = prepare(SwapSmall, &[6]);
    for (a, b) in [(1.0, 0.0), (0.0, 1.0)] {
        small.step(&mut w, &g).expect("a step");
        assert_eq!(small.slot("a").expect("a slot"), vec![a], "small, first");
        assert_eq!(small.slot("b").expect("a slot"), vec![b], "small, second");
    }
    let mut delay = prepare(DelaySmall, &[2, 3]);
    for t in 1..4 {
        delay.step(&mut w, &g).expect("a step");
        assert_eq!(delay.slot("now").expect("a slot"), vec![f64::from(t); 3], "the counter");
        assert_eq!(delay.slot("before").expect("a slot"), vec![f64::from(t - 1); 3], "delayed");
    }
}

definition!(TooDeep, Levels::flat(9), |s| {
    let mut x = s.grad();
    for _ in 0..8 {
        x = s.grad() + x.tensor_mean();
    }
    s.set_param(x);
});

definition!(FarTooDeep, Levels::flat(8), |s| {
    let mut x = s.grad();
    for _ in 0..600 {
        x = s.grad() + x.tensor_mean();
    }
    s.set_param(x);
});

definition!(AsDeepAsAllowed, Levels::flat(8), |s| {
    let mut x = s.grad();
    for _ in 0..7 {
        x = s.grad() + x.tensor_mean();
    }
    s.set_param(x);
});

#[test]
fn depth_is_limited_and_the_limit_is_named() {
    let message = refused(TooDeep, &[4]);
    assert!(message.contains('8') && message.contains("level"), "{message}");
    refused(FarTooDeep, &[4]);
    let mut w = vec![0.0; 4];
    prepare(AsDeepAsAllowed, &[4]).step(&mut w, &[1.0; 4]).expect("a step");
    assert_eq!(w, vec![8.0; 4], "seven means of ones");
}

definition!(Factors, Levels::factored(1, 2), |s| {
    if s.is_matrix() {
        let r = s.rows("r").set(s.grad().row_mean());
        let c = s.cols("c").set(s.grad().col_mean());
        let n = s.slot("n", Shape::Matrix, 0.0);
        n.set(n.old() + 1.0 / s.count(Axis::Matrix));
        s.set_param(s.param() + r * c);
    } else {
        s.set_param(s.param() + s.grad());
    }
});

#[test]
fn empty_tensors_of_any_size_are_stepped() {
    let large = 1 << 58;
    let shapes: [&[usize]; 12] = [
        &[0],
        &[0, 0],
        &[0, 5],
        &[5, 0],
        &[0, large],
        &[large, 0],
        &[2, 0, 3],
        &[0, 2, 3],
        &[2, 3, 0],
        &[0, 1 << 29, 1 << 29],
        &[1, 1, 1, 0, 1, 1],
        &[large, 0, 1, 1],
    ];
    for shape in shapes {
        for layout in [Layout::Auto, Layout::Vector, Layout::LastTwo, Layout::Flatten] {
            let cpu = Cpu::single_threaded();
            let mut step = cpu
                .prepare_with::<f64, _>(Factors, shape, layout)
                .unwrap_or_else(|e| panic!("{shape:?} {layout:?}: {e}"));
            step.step(&mut [0.0; 0], &[0.0; 0]).expect("a step of nothing");
            assert_eq!(step.steps(), 1, "it counts");
            for name in step.slots().map(|s| s.0).collect::<Vec<_>>() {
                let values = step.slot(name).expect("a slot");
                step.set_slot(name, &values).expect("the same length");
            }
        }
    }
}

#[test]
fn shapes_that_memory_cannot_hold_are_refused() {
    let shapes: [&[usize]; 5] = [
        &[usize::MAX],
        &[usize::MAX, 2],
        &[1 << 32, 1 << 32],
        &[0, usize::MAX, usize::MAX],
        &[1 << 31, 1 << 31],
    ];
    for shape in shapes {
        let error = Cpu::single_threaded().prepare::<f32, _>(Factors, shape).err();
        assert!(matches!(error, Some(Error::TooLarge { .. })), "{shape:?}: {error:?}");
    }
}

#[test]
fn tensors_of_rank_six_and_of_one_element_are_stepped() {
    let shapes: [&[usize]; 6] =
        [&[], &[1], &[1, 1], &[1, 1, 1, 1, 1, 1], &[2, 1, 3, 1, 2, 5], &[1, 7, 1, 1, 1, 1]];
    for shape in shapes {
        for layout in [Layout::Auto, Layout::Vector, Layout::LastTwo, Layout::Flatten] {
            let cpu = Cpu::single_threaded();
            let mut step = cpu.prepare_with::<f64, _>(Factors, shape, layout).expect("valid");
            let n = shape.iter().product();
            let mut w = vec![0.0; n];
            step.step(&mut w, &vec![1.0; n]).expect("a step");
            assert_eq!(w, vec![1.0; n], "{shape:?} {layout:?}");
        }
    }
}

#[test]
fn the_last_step_number_does_not_overflow() {
    let mut step = prepare(Constant, &[1]);
    step.set_steps(u64::MAX);
    step.step(&mut [0.0], &[0.0]).expect("a step");
}

#[test]
fn memory_of_the_wrong_length_is_refused_and_left_alone() {
    let mut step = prepare(Factors, &[2, 3]);
    for (p, g) in [(5, 6), (6, 5), (0, 6), (7, 7)] {
        let mut w = vec![3.0; p];
        let error = step.step(&mut w, &vec![1.0; g]).expect_err("a wrong length");
        assert!(matches!(error, Error::Shape { .. }), "{error}");
        assert_eq!(w, vec![3.0; p], "untouched");
        assert_eq!(step.steps(), 0, "not counted");
    }
    assert!(step.set_slot("r", &[0.0; 3]).is_err(), "r has two values");
    assert!(step.set_slot("q", &[0.0; 2]).is_err(), "there is no q");
}

thread_local! {
    static FACE: Cell<u8> = const { Cell::new(0) };
}

// What `step` does is decided anew each time it is called.
definition!(TwoFaced, Levels::factored(2, 2).with_lines(2, 2), |s| {
    let (g, w) = (s.grad(), s.param());
    match FACE.get() {
        0 => {
            let m = s.full("m").set(g + g.tensor_mean());
            s.set_param(w - m);
        }
        1 => s.set_param(w - g),
        2 => {
            // More slots, reductions and operations than there are tables for.
            let mut x = g;
            for _ in 0..40 {
                let slot = s.full("x");
                x = slot.set(slot.old() + x.col_mean() * x.row_mean() + x.tensor_max());
                let slot = s.cols("c");
                x = x + slot.set(slot.old() + 1.0);
            }
            s.set_param(x);
            s.set_param(x);
        }
        3 => {
            let small = s.cols("c").old() * s.slot("k", Shape::Scalar, 0.0).old();
            s.set_param(s.rows("r").set(small));
        }
        4 => {}
        _ => panic!("two-faced"),
    }
});

#[test]
fn a_definition_that_changes_its_mind_touches_nothing_but_its_own() {
    let sizes: &[[usize; 2]] = if cfg!(miri) {
        &[[3, 19], [1, 16], [17, 1], [3, 40]]
    } else {
        &[[3, 19], [1, 16], [17, 1], [70, 33], [1, 1], [3, 300]]
    };
    for &[n, m] in sizes {
        for layout in [Layout::LastTwo, Layout::Vector] {
            FACE.set(0);
            let cpu = Cpu::single_threaded();
            let mut step = cpu.prepare_with::<f32, _>(TwoFaced, [n, m], layout).expect("valid");
            let mut w = vec![1.0f32; n * m + 2];
            for face in [0, 1, 2, 3, 4, 0] {
                FACE.set(face);
                step.step(&mut w[1..=n * m], &vec![1.0; n * m]).expect("a step");
                assert_eq!((w[0], w[n * m + 1]), (1.0, 1.0), "the neighbours");
            }
        }
    }
}

#[test]
fn a_panic_in_a_definition_leaves_the_step_usable() {
    FACE.set(0);
    let mut step = prepare(TwoFaced, &[3, 5]);
    let mut w = vec![0.0; 15];
    FACE.set(9);
    let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        let _ = step.step(&mut w, &[1.0; 15]);
    }));
    assert!(panicked.is_err(), "it panics");
    assert_eq!(step.steps(), 0, "not counted");
    FACE.set(0);
    step.step(&mut w, &[1.0; 15]).expect("a step");
    assert_eq!(w, vec![-2.0; 15], "as the text says");
}

// The new values of columns wait for nothing but their sums; what waits for all sums reads the old ones.
definition!(OldColumnsLast, Levels::factored(2, 2), |s| {
    let g = s.grad();
    let c = s.cols("c");
    let late = c.old() * g.tensor_mean();
    let new = c.set(c.old() + g.col_mean());
    s.set_param(s.param() - (late + new));
});

#[test]
fn old_values_of_columns_are_read_before_they_are_gone() {
    // Of few long rows, and of many, which are gone over otherwise.
    for rows in [1, 2, 3, 64, 65] {
        let cols = 5000;
        let g: Vec<f64> =
            (0..rows * cols).map(|i| f64::from(u8::try_from(i % 7).expect("small"))).collect();
        let mean = g.iter().sum::<f64>() / (rows * cols) as f64;
        let mut step = prepare(OldColumnsLast, &[rows, cols]);
        let (mut w, mut expected) = (vec![0.0; rows * cols], vec![0.0; rows * cols]);
        let mut old = vec![0.0; cols];
        for _ in 0..3 {
            step.step(&mut w, &g).expect("a step");
            for (j, old) in old.iter_mut().enumerate() {
                let sum: f64 = (0..rows).map(|i| g[i * cols + j]).sum();
                let new = *old + sum / rows as f64;
                (0..rows).for_each(|i| expected[i * cols + j] -= *old * mean + new);
                *old = new;
            }
        }
        for (i, (w, expected)) in w.iter().zip(&expected).enumerate() {
            assert!(
                (w - expected).abs() < 1e-12 * expected.abs().max(1.0),
                "{rows} rows, {i}: {w} {expected}"
            );
        }
    }
}

// Operations that read twice what the one before made.
definition!(OwnSquares, Levels::factored(2, 2), |s| {
    let (r, c) = (s.grad().square().row_mean(), s.grad().square().col_mean());
    let [r_norm, c_norm] = [r.rsqrt(), c.rsqrt()];
    let [r_square, c_square] = [r * r, c * c];
    let of_r = r_norm * r_norm + r_square * r_square;
    s.set_param(s.param() - of_r - (c_norm * c_norm + c_square * c_square));
});

#[test]
fn small_values_may_be_multiplied_by_themselves() {
    for [rows, cols] in [[1, 300], [3, 300], [70, 40], [300, 3], [300, 1]] {
        let g: Vec<f64> = (0..rows * cols)
            .map(|i| f64::from(u8::try_from(i % 5).expect("small")) / 4.0 + 0.5)
            .collect();
        let mut w = vec![0.0; rows * cols];
        prepare(OwnSquares, &[rows, cols]).step(&mut w, &g).expect("a step");
        let of = |squares: f64, n: usize| {
            let x = squares / n as f64;
            1.0 / x + x.powi(4)
        };
        for (i, w) in w.iter().enumerate() {
            let (row, col) = (i / cols, i % cols);
            let r = of((0..cols).map(|j| g[row * cols + j].powi(2)).sum(), cols);
            let c = of((0..rows).map(|k| g[k * cols + col].powi(2)).sum(), rows);
            assert!((w + r + c).abs() < 1e-12 * (r + c), "{rows}x{cols}, {i}: {w} {r} {c}");
        }
    }
}
