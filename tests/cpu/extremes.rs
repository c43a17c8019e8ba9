//! Settings at the end of their range, and gradients at the end of that of `f32`.

use gradstep::optim::{Adafactor, Adam, Came};
use gradstep::{Cpu, Element, Optimizer};

/// The parameters after each step of a problem whose rows all have `cols` columns.
fn trajectory<T: Element>(
    optimizer: impl Optimizer,
    cols: usize,
    start: &[f64],
    grads: &[Vec<f64>],
) -> Vec<Vec<f64>> {
    let shape = [start.len() / cols, cols];
    let narrow = |x: &[f64]| x.iter().map(|&x| T::from(x).expect("a number")).collect::<Vec<T>>();
    let mut opt = Cpu::single_threaded().prepare::<T, _>(optimizer, shape).expect("valid");
    let mut w = narrow(start);
    let step = |g: &Vec<f64>| {
        opt.step(&mut w, &narrow(g)).expect("a step");
        w.iter().map(|x| x.to_f64().expect("a number")).collect()
    };
    grads.iter().map(step).collect()
}

#[test]
fn an_average_that_remembers_nothing_is_its_newest_value() {
    let grads = [vec![100.0], vec![1e-6], vec![0.0]];
    let adam = || Adam::new(0.01).with_beta1(0.0).with_beta2(0.0);
    // Each step is lr · g / (|g| + ε).
    let second = -0.01 - 0.01 * 1e-6 / (1e-6 + 1e-8);
    for found in
        [trajectory::<f32>(adam(), 1, &[0.0], &grads), trajectory::<f64>(adam(), 1, &[0.0], &grads)]
    {
        for (found, wanted) in found.iter().zip([-0.01, second, second]) {
            assert!((found[0] - wanted).abs() < 1e-8, "{} is not {wanted}", found[0]);
        }
    }
}

/// Two rows and two columns, of which some are zero.
fn zeros_beside(scale: f64) -> Vec<Vec<Vec<f64>>> {
    let matrices = [[3.0, 0.0, -4.0, 0.0], [3.0, -4.0, 0.0, 0.0], [3.0, 0.0, 0.0, 0.0]];
    let steps =
        |m: [f64; 4]| (0..3).map(|t| m.map(|x| x * scale / f64::from(1 + t)).to_vec()).collect();
    matrices.into_iter().map(steps).collect()
}

#[test]
fn rows_and_columns_of_zeros_stand_beside_huge_gradients() {
    for scale in [1.0, 1e4, 1e6, 1e9, 1e15] {
        for grads in zeros_beside(scale) {
            let start = [0.1, 0.2, 0.3, 0.4];
            let came = || Came::new(1e-3);
            let small = || Came::new(1e-3).with_eps1(1e-36).with_eps2(1e-20);
            let adafactor = || Adafactor::hugging_face().with_lr(1e-3).with_relative_step(false);
            for (name, found, wanted) in [
                (
                    "came",
                    trajectory::<f32>(came(), 2, &start, &grads),
                    trajectory::<f64>(came(), 2, &start, &grads),
                ),
                (
                    "came with a small ε",
                    trajectory::<f32>(small(), 2, &start, &grads),
                    trajectory::<f64>(small(), 2, &start, &grads),
                ),
                (
                    "adafactor",
                    trajectory::<f32>(adafactor(), 2, &start, &grads),
                    trajectory::<f64>(adafactor(), 2, &start, &grads),
                ),
            ] {
                for (found, wanted) in found.iter().flatten().zip(wanted.iter().flatten()) {
                    assert!(
                        (found - wanted).abs() < 1e-6,
                        "{name}, gradients of {scale:e}: {found} is not {wanted}\n{grads:?}"
                    );
                }
            }
        }
    }
}
