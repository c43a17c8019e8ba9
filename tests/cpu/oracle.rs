//! The oracle that reads a graph is the oracle that runs the text.

use gradstep::value::{Interpreter, Shape, Step};
use gradstep::{Definition, Graph, Kind, Layout, Levels, Recipe};

use crate::common::oracle::Oracle;
use crate::common::table::{Values, gradient, params, seed_of};

/// Every operation, every reduction and every shape of slot at least once.
pub(crate) struct Everything;

impl Definition for Everything {
    const NAME: &'static str = "everything";
    const LEVELS: Levels = Levels::factored(4, 4).with_lines(4, 4);
    #[inline(always)]
    fn step<I: Interpreter>(s: Step<'_, I>) {
        use gradstep::value::Axis;
        let [lr, beta] = s.hyper(["lr", "beta"]);
        let (g, w, t) = (s.grad(), s.param(), s.t());
        let sq = g.square() + 1e-6;
        let r = s.rows("r").ema(sq.row_mean(), beta);
        let c = s.slot("c", Shape::Cols, 0.25).ema(sq.col_max(), beta);
        let per_matrix = s.slot("m", Shape::Matrix, 1.0).ema(sq.mean() + sq.max(), beta);
        let scalar = s.slot("s", Shape::Scalar, 0.5).ema(sq.tensor_max(), beta);
        let u = g * (r / r.mean()).rsqrt() * c.rsqrt() / (per_matrix + scalar);
        let m = s.full("full").ema(u, beta);
        let spread = (m - u).abs().row_max() + u.abs().tensor_mean();
        let bounded = m.at_most(spread).at_least(-spread);
        let chosen = m.less_than(u * 0.5).select(bounded.sign(), bounded / (1.0 + c.col_max()));
        let decay = (1.0 - beta.pow(t)).at_most(0.999).at_least(0.001);
        let spare = s.count(Axis::Row) + s.count(Axis::Col) * s.count(Axis::Matrix).sqrt()
            - s.count(Axis::Tensor)
            + r.row_max()
            + r.tensor_max().tensor_mean();
        let spare = spare + chosen.abs().rms() + c.row_mean().col_mean();
        let spare = if s.is_matrix() { spare } else { -spare };
        s.set_param(w - lr * (chosen * decay + spare.sign() * 1e-3) - m * (lr * lr));
    }
}

#[test]
fn the_graph_says_what_the_text_says() {
    let hyper = |name: &str| match name {
        "lr" => 0.1,
        "beta" => 0.9,
        _ => f64::NAN,
    };
    for (shape, layout) in [
        (&[7][..], Layout::Auto),
        (&[5, 7], Layout::Auto),
        (&[3, 2, 4], Layout::LastTwo),
        (&[1, 1], Layout::Auto),
    ] {
        let (dims, plan) = layout.plan(Recipe::of::<Everything>(), shape).expect("valid");
        let seed = seed_of("the graph");
        let mut text = params(seed, dims.len());
        let mut graph = text.clone();
        let (mut a, mut b) = (Oracle::new(dims), Oracle::new(dims));
        for t in 1..=10 {
            let g = gradient(Values::Normal, seed, t, shape);
            a.step::<Everything>(&hyper, &mut text, &g);
            b.step_graph(&plan.graph, &hyper, &mut graph, &g);
            assert_eq!(text, graph, "parameters on {shape:?} at step {t}");
            assert_eq!(a.slots, b.slots, "state on {shape:?} at step {t}");
        }
        assert!(text.iter().all(|x| x.is_finite()), "{text:?}");
    }
}

#[test]
fn the_oracle_knows_rows_from_columns() {
    struct Rows;
    impl Definition for Rows {
        const NAME: &'static str = "rows";
        const LEVELS: Levels = Levels::factored(2, 2);
        fn step<I: Interpreter>(s: Step<'_, I>) {
            let (g, w) = (s.grad(), s.param());
            let r = s.rows("r").set(g.row_mean());
            let c = s.cols("c").set(g.col_max());
            s.slot("m", Shape::Matrix, 0.0).set(g.mean());
            s.slot("s", Shape::Scalar, 0.0).set(g.tensor_mean());
            s.set_param(w + r * 10.0 + c);
        }
    }
    let (dims, plan) = Layout::LastTwo.plan(Recipe::of::<Rows>(), &[2, 2, 3]).expect("valid");
    assert_eq!(plan.graph.kind, Kind::Matrix);
    assert!(Graph::trace::<Rows>(Kind::Matrix).is_ok());
    let mut o = Oracle::new(dims);
    let g: Vec<f64> = (0..12).map(f64::from).collect();
    let mut p = vec![0.0; 12];
    o.step::<Rows>(&|_| f64::NAN, &mut p, &g);
    // By hand: rows 0..3, 3..6 | 6..9, 9..12.
    assert_eq!(o.slots["r"], [1.0, 4.0, 7.0, 10.0]);
    assert_eq!(o.slots["c"], [3.0, 4.0, 5.0, 9.0, 10.0, 11.0]);
    assert_eq!(o.slots["m"], [2.5, 8.5]);
    assert_eq!(o.slots["s"], [5.5]);
    let by_hand = [13.0, 14.0, 15.0, 43.0, 44.0, 45.0, 79.0, 80.0, 81.0, 109.0, 110.0, 111.0];
    assert_eq!(p, by_hand);
}
