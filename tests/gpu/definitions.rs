//! Definitions that no optimizer is like: the GPU runs their text as the CPU does.

use gradstep::value::{Axis, Interpreter, Shape, Step};
use gradstep::{Definition, Layout, Levels, Recipe};

use crate::common::gate;
use crate::common::plain::Plain;
use crate::common::table::{Values, seed_of};
use crate::run::{Run, tensor};
use crate::shaders::{programs, validate};

fn everywhere<D: Definition>(hyper: &'static [(&'static str, f64)]) {
    for (name, program) in programs(Recipe::of::<D>()) {
        validate(&name, &program.source);
    }
    let Some(gpu) = gate::gpu() else { return };
    let tensors = [
        (&[][..], Layout::Auto),
        (&[19], Layout::Auto),
        (&[5000], Layout::Auto),
        (&[5, 18], Layout::Auto),
        (&[16, 70], Layout::Auto),
        (&[700, 9], Layout::Auto),
        (&[3, 4, 5], Layout::LastTwo),
        (&[3, 4, 5], Layout::Flatten),
        (&[5, 300, 3], Layout::LastTwo),
        (&[260, 2, 3], Layout::LastTwo),
        (&[2, 17_000], Layout::Auto),
        (&[3, 2, 16_500], Layout::LastTwo),
    ];
    let run = Run {
        name: D::NAME.into(),
        tensors: tensors.map(|(shape, layout)| tensor(shape, layout)).to_vec(),
        values: Values::Normal,
        seed: seed_of(D::NAME),
        steps: 7,
        test: "definitions",
    };
    run.check(gpu, || Plain::<D>::new(hyper), |_, _| {});
}

macro_rules! definition {
    ($(#[$doc:meta])* $name:ident, $levels:expr, |$s:ident| $body:block) => {
        $(#[$doc])*
        struct $name;
        impl Definition for $name {
            const NAME: &'static str = stringify!($name);
            const LEVELS: Levels = $levels;
            #[inline(always)]
            fn step<I: Interpreter>($s: Step<'_, I>) $body
        }
    };
}

definition!(
    /// Every operation, every reduction, slots of every shape, values of every shape combined.
    Everything,
    Levels::factored(3, 3),
    |s| {
        let [lr, beta] = s.hyper(["lr", "beta"]);
        let (g, w) = (s.grad(), s.param());
        let sq = g.square() + 1e-3;
        let r = s.rows("r").ema(sq.row_mean(), beta);
        let c = s.slot("c", Shape::Cols, 0.25).ema(sq.col_max(), beta);
        let per_matrix = s.slot("per_matrix", Shape::Matrix, 1.0);
        let per_matrix = per_matrix.ema(sq.mean() + sq.max() * 0.1, beta);
        let scalar = s.slot("scalar", Shape::Scalar, 0.5).ema(sq.tensor_max(), beta);
        let u = g * (r / r.mean()).rsqrt() * c.rsqrt() / (per_matrix + scalar);
        let m = s.full("m").ema(u, beta);
        let spread = (m - u).abs().row_max() + u.abs().tensor_mean();
        let bounded = m.at_most(spread).at_least(-spread);
        // Parts of a sum that differ by the sign of a value: chosen, not multiplied.
        let chosen = g.less_than(0.0).select(bounded.sign() * 0.01, bounded / (1.0 + c.col_max()));
        let decay = (1.0 - beta.pow(s.t())).at_most(0.999).at_least(0.001);
        let counts = (s.count(Axis::Row) + s.count(Axis::Col)) / s.count(Axis::Matrix)
            + (s.count(Axis::Tensor) + 1.0).rsqrt();
        // Matrix values of small values, whatever the batch.
        let spare = r.max() / (r.mean() + c.mean()) + c.max() * per_matrix.sqrt() * 1e-3;
        let spare = spare + per_matrix.tensor_max() / (per_matrix.tensor_mean() + scalar);
        let spare = spare + c.tensor_mean() * r.tensor_max() * 1e-3;
        let spare = if s.is_matrix() { spare * counts } else { spare - counts };
        s.set_param(w - lr * (chosen * decay + m * spare) - w * (lr * lr));
    }
);

#[test]
fn every_operation_and_shape() {
    everywhere::<Everything>(&[("lr", 0.1), ("beta", 0.9)]);
}

definition!(
    /// Slots of every shape that exchange their values at each step, and chains of them.
    Exchange,
    Levels::factored(1, 1),
    |s| {
        for (a, b, shape) in [
            ("row_a", "row_b", Shape::Rows),
            ("col_a", "col_b", Shape::Cols),
            ("matrix_a", "matrix_b", Shape::Matrix),
            ("scalar_a", "scalar_b", Shape::Scalar),
            ("full_a", "full_b", Shape::Full),
        ] {
            let (a, b) = (s.slot(a, shape, 1.0), s.slot(b, shape, 2.0));
            let (old_a, old_b) = (a.old(), b.old());
            a.set(old_b * 1.0 + s.t());
            b.set(old_a);
        }
        // `later` follows `now`, declared in the order that is wrong for copying in place, and a
        // slot of rows takes a Scalar and a Matrix value.
        let (now, later) = (s.cols("now"), s.cols("later"));
        let old = now.old();
        now.set(old * 1.0 + 1.0);
        later.set(old);
        let copied = s.slot("copied", Shape::Scalar, 3.0);
        let old = copied.old();
        copied.set(s.grad().tensor_max());
        s.rows("spread").set(old);
        s.rows("spread_matrix").set(s.grad().mean());
        s.set_param(s.param() - s.grad() * 0.1);
    }
);

#[test]
fn slots_may_exchange_their_values() {
    everywhere::<Exchange>(&[]);
}

definition!(
    /// Four levels in one sweep over the rows at hand, then row values that need a number which no
    /// element needs, and a last settle that commits.
    RowByRow,
    Levels::factored(6, 6),
    |s| {
        let (g, w) = (s.grad(), s.param());
        let r = g.square().row_mean() + 1e-3;
        let x = g * r.rsqrt();
        let most = s.rows("most").ema(x.abs().row_max(), s.hyper(["beta"])[0]);
        let y = s.full("y").set(x / (most + r));
        let z = y - y.row_mean();
        // Matrix, Scalar and Cols, for the row values of the next sweep only.
        let (per_matrix, scalar) = (z.square().mean(), z.abs().tensor_max());
        let v = z + w * scalar.at_most(1e-3);
        let sum = s.rows("sum");
        let k = v.row_max() * per_matrix / (scalar + s.count(Axis::Row)) + sum.old();
        sum.set(k * 0.5);
        let v = v * k.at_most(2.0);
        let p = w - v * 0.01;
        s.cols("last_col").set(p.col_max());
        s.rows("last_row").set(scalar);
        s.slot("last", Shape::Scalar, 0.0).set(p.abs().tensor_mean().sqrt());
        s.set_param(p);
    }
);

#[test]
fn levels_share_a_sweep_and_the_last_settle_commits() {
    everywhere::<RowByRow>(&[("beta", 0.9)]);
}

definition!(
    /// Row values at hand that read what nothing else reads.
    OnlyAtHand,
    Levels::factored(3, 3),
    |s| {
        let (g, w) = (s.grad(), s.param());
        let (mean, most) = (g.abs().mean(), g.abs().tensor_max());
        let (held, spare) = (s.slot("held", Shape::Matrix, 0.5), s.slot("spare", Shape::Rows, 2.0));
        let y = g / (mean + 1.0);
        let k = (y.row_mean() * most + spare.old()) * (g.max() + held.old()) * 0.1;
        held.set(mean);
        s.set_param(w - y * k * 0.01);
        spare.set(k);
    }
);

#[test]
fn row_values_at_hand_may_read_what_nothing_else_reads() {
    everywhere::<OnlyAtHand>(&[]);
}

definition!(
    /// The parameter is set to small values: its own state, before the step, and a row's mean.
    Small,
    Levels::factored(2, 2),
    |s| {
        let held = s.slot("held", Shape::Scalar, 7.0);
        let old = held.old();
        held.set(s.grad().tensor_mean().abs() + 1.0);
        s.full("all").set(old);
        s.full("same").set(s.t() * 0.5);
        s.set_param(s.grad().row_max() + s.grad().col_max().mean());
    }
);

#[test]
fn the_parameter_and_full_slots_may_be_set_to_small_values() {
    everywhere::<Small>(&[]);
}

definition!(
    /// Names that mean something else in WGSL, or in the printed module, or differ in what cannot
    /// be printed.
    Names,
    Levels::factored(2, 2),
    |s| {
        let [a, b, c, d] = s.hyper(["max", "step_number", "fn", "learning rate"]);
        let [e, f, g, h] = s.hyper(["learning_rate", "host_3", "none", "Größe"]);
        let mut x = s.grad();
        let spare = a + b * s.t() + c * s.t().sqrt() + d + e + f + g + h;
        x = x * spare;
        // Small ones…
        let lows = ["max", "abs", "v3", "a b", "a_b", "", "ß", "1", "tile", "__x", "self", "at_v3"];
        let mut low = x.row_mean();
        for name in lows {
            let slot = s.slot(name, Shape::Rows, 0.25);
            low = slot.set(slot.old() * 0.5 + low);
        }
        // … and those of the parameter's size.
        for name in ["select", "inverseSqrt", "row_0", "v12"] {
            let slot = s.full(name);
            x = slot.set(slot.old() * 0.5 + x.abs().at_least(0.25).rsqrt() * x);
        }
        s.set_param(s.param() - x * low * 0.01);
    }
);

definition!(
    /// As `Names`.
    MoreNames,
    Levels::flat(1),
    |s| {
        let mut x = s.grad();
        for name in ["loop", "sum_1", "a b", "a_b"] {
            let slot = s.full(name);
            x = slot.set(slot.old() * 0.5 + x);
        }
        s.set_param(s.param() - x * 0.01);
    }
);

#[test]
fn any_name_will_do() {
    let hyper = &[
        ("max", 0.1),
        ("step_number", 0.2),
        ("fn", 0.3),
        ("learning rate", 0.4),
        ("learning_rate", 0.5),
        ("host_3", 0.6),
        ("none", 0.7),
        ("Größe", 0.8),
    ];
    everywhere::<Names>(hyper);
    everywhere::<MoreNames>(hyper);
}
