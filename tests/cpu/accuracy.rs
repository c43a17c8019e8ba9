//! Sums over a million elements are as good as sums over a thousand.

use gradstep::value::{Interpreter, Step};
use gradstep::{Cpu, Definition, Levels};

use crate::common::plain::Plain;
use crate::common::table::Rng;
use crate::common::tolerance::{self, EQUAL_TERMS, LONG_SUM, Tolerance, What};

/// Keeps the means of g² over everything that there is a mean over.
struct Means;

impl Definition for Means {
    const NAME: &'static str = "means";
    const LEVELS: Levels = Levels::factored(1, 1);
    #[inline(always)]
    fn step<I: Interpreter>(s: Step<'_, I>) {
        use gradstep::value::Shape::{Matrix, Scalar};
        let sq = s.grad().square();
        let r = s.rows("r").set(sq.row_mean());
        let c = s.cols("c").set(sq.col_mean());
        s.slot("m", Matrix, 0.0).set(sq.mean());
        s.slot("t", Scalar, 0.0).set(sq.tensor_mean());
        s.slot("rm", Scalar, 0.0).set(r.tensor_mean());
        s.slot("cm", Scalar, 0.0).set(c.tensor_mean());
        s.set_param(s.param());
    }
}

fn means_are_exact(shape: &[usize], g: &[f32], tolerance: Tolerance) {
    let mut opt = Cpu::default().prepare::<f32, _>(Plain::<Means>::new(&[]), shape).expect("valid");
    let dims = opt.dims();
    let mut p = vec![1.0f32; g.len()];
    opt.step(&mut p, g).expect("valid");
    assert!(p.iter().all(|&x| x == 1.0), "the parameter is set to itself");
    // Squares of f32 are exact in f64; the lanes round each, which is half a unit.
    let (mut r, mut c) = (vec![0.0; dims.rows], vec![0.0; dims.cols]);
    for (i, &g) in g.iter().enumerate() {
        let sq = f64::from(g) * f64::from(g);
        r[i / dims.cols] += sq / dims.cols as f64;
        c[i % dims.cols] += sq / dims.rows as f64;
    }
    let total = r.iter().sum::<f64>() / dims.rows as f64;
    let what = What {
        case: "means",
        shape,
        seed: 0,
        step: 1,
        test: "sums_over_millions_keep_their_accuracy",
    };
    let wanted = [
        ("r", r),
        ("c", c),
        ("m", vec![total]),
        ("t", vec![total]),
        ("rm", vec![total]),
        ("cm", vec![total]),
    ];
    for (slot, wanted) in wanted {
        let found: Vec<f64> = opt.slot(slot).expect("a slot").into_iter().map(f64::from).collect();
        tolerance::check_slot(tolerance, tolerance::F32, &what, slot, &mut 0.0, &found, &wanted);
    }
}

#[test]
fn sums_over_millions_keep_their_accuracy() {
    let mut rng = Rng(7);
    let normal: Vec<f32> = (0..1 << 22).map(|_| rng.normal() as f32).collect();
    let equal = vec![0.1f32; 1 << 22];
    for shape in
        [&[1 << 20, 4][..], &[4, 1 << 20], &[1 << 22], &[2048, 2048], &[1, 1 << 22], &[1 << 22, 1]]
    {
        means_are_exact(shape, &normal, LONG_SUM);
        means_are_exact(shape, &equal, EQUAL_TERMS);
    }
}
