//! Definitions that no optimizer is like, run as text by the CPU and by the oracle.

use gradstep::value::{Interpreter, Shape, Step};
use gradstep::{Cpu, Definition, Layout, Levels};

use crate::common::oracle::Oracle;
use crate::common::plain::Plain;
use crate::common::run::{Number, narrow, widen};
use crate::common::table::{Values, gradient, params, seed_of};
use crate::common::tolerance::{self, STATE, STEP, What};
use crate::oracle::Everything;

/// The CPU runs the text of `D` as the oracle does.
fn equals_its_text<D: Definition, T: Number>(shape: &[usize], layout: Layout) {
    let hyper = [("lr", 0.01), ("beta", 0.9)];
    let cpu = Cpu::single_threaded();
    let mut opt = cpu
        .prepare_with::<T, _>(Plain::<D>::new(&hyper), shape, layout)
        .unwrap_or_else(|e| panic!("{e}"));
    let mut oracle = Oracle::new(opt.dims());
    let seed = seed_of(D::NAME);
    let start = params(seed, opt.dims().len());
    let (mut wanted, mut found) = (start.clone(), narrow::<T>(&start));
    let mut moved = 0.0;
    let mut sizes = std::collections::BTreeMap::new();
    for t in 1..=5 {
        let what = What { case: D::NAME, shape, seed, step: t, test: "definitions" };
        let g = gradient(Values::Normal, seed, t, shape);
        let value = |name: &str| hyper.iter().find(|h| h.0 == name).map_or(f64::NAN, |h| h.1);
        oracle.step::<D>(&value, &mut wanted, &g);
        opt.step(&mut found, &narrow::<T>(&g)).expect("a valid step");
        for (name, wanted) in &oracle.slots {
            let found = widen(&opt.slot(name).expect("a slot"));
            let size = sizes.entry(*name).or_insert(0.0);
            tolerance::check_slot(STATE, T::UNIT, &what, name, size, &found, wanted);
        }
        tolerance::check(STEP, T::UNIT, &what, &mut moved, &start, &widen(&found), &wanted);
    }
}

fn everywhere<D: Definition>() {
    for (shape, layout) in [
        (&[][..], Layout::Auto),
        (&[19], Layout::Auto),
        (&[5, 18], Layout::Auto),
        (&[70, 9], Layout::Auto),
        (&[3, 4, 5], Layout::LastTwo),
        (&[3, 4, 5], Layout::Flatten),
        (&[600, 300], Layout::Auto),
        (&[2, 33_000], Layout::Auto),
        (&[90_000], Layout::Auto),
        (&[1, 19], Layout::Auto),
        (&[19, 1], Layout::Auto),
        (&[1, 1], Layout::Auto),
        (&[5, 1, 19], Layout::LastTwo),
        (&[5, 19, 1], Layout::LastTwo),
        (&[1, 9_000], Layout::Auto),
        (&[9_000, 1], Layout::Auto),
    ] {
        equals_its_text::<D, f32>(shape, layout);
        equals_its_text::<D, f64>(shape, layout);
    }
}

#[test]
fn every_operation_and_shape_runs_as_written() {
    everywhere::<Everything>();
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
    /// Slots of every shape that exchange their values at each step.
    Swap,
    Levels::factored(1, 1).with_lines(1, 1),
    |s| {
        let g = s.grad();
        let (a, b) = (s.slot("a", Shape::Rows, 1.0), s.slot("b", Shape::Rows, 2.0));
        let (old_a, old_b) = (a.old(), b.old());
        a.set(old_b);
        b.set(old_a);
        let (c, d) = (s.slot("c", Shape::Full, 3.0), s.slot("d", Shape::Full, 4.0));
        let (old_c, old_d) = (c.old(), d.old());
        c.set(old_d);
        d.set(old_c);
        // A chain: `f` follows `e`, declared in the order that is wrong for copying in place.
        let (e, f) = (s.slot("e", Shape::Cols, 0.0), s.slot("f", Shape::Cols, 0.0));
        let old_e = e.old();
        e.set(old_e * 1.0 + 1.0);
        f.set(old_e);
        s.set_param(s.param() - g * 0.1);
    }
);

#[test]
fn slots_may_exchange_their_values() {
    everywhere::<Swap>();
}

definition!(
    /// The parameter is one number for all elements, known only after a reduction.
    Uniform,
    Levels::flat(2),
    |s| {
        s.set_param(s.grad().tensor_mean());
    }
);

definition!(
    /// The parameter is the state before the step, broadcast.
    Delayed,
    Levels::factored(2, 2).with_lines(2, 2),
    |s| {
        let slot = s.slot("mean", Shape::Scalar, 7.0);
        let old = slot.old();
        slot.set(s.grad().tensor_mean());
        s.set_param(old);
        s.rows("rows").set(s.grad().row_max() * 1.0);
        s.full("later").set(s.grad() * s.grad().tensor_mean());
    }
);

definition!(
    /// The parameter is the row's value.
    RowParam,
    Levels::factored(2, 2).with_lines(2, 2),
    |s| {
        s.set_param(s.grad().row_mean() + s.grad().mean());
    }
);

#[test]
fn the_parameter_may_be_set_to_a_small_value() {
    everywhere::<Uniform>();
    everywhere::<Delayed>();
    everywhere::<RowParam>();
}

definition!(
    /// The old value of a slot that is set for each block of rows, where nothing is in a hurry.
    LateReader,
    Levels::factored(2, 2),
    |s| {
        let slot = s.rows("rows");
        let (old, mean) = (slot.old(), s.grad().abs().row_mean());
        s.rows("product").set(old * mean);
        s.slot("reduced", Shape::Matrix, 0.0).set((old - mean).square().mean());
        let new = slot.set(old * 0.5 + mean);
        s.set_param(s.param() - s.grad() * new);
    }
);

#[test]
fn old_row_values_may_be_read_after_rows_at_hand_are_settled() {
    everywhere::<LateReader>();
}

definition!(
    /// State that only remembers, without a loop of its own.
    SmallLast,
    Levels::factored(1, 1).with_lines(2, 2),
    |s| {
        let g = s.grad();
        s.slot("mean", Shape::Scalar, 0.0).set(g.tensor_mean());
        s.rows("row").set(g.row_mean().abs().sqrt() + g.col_mean().mean());
        s.cols("col").set(g.col_max() - g.mean());
        s.set_param(s.param() - g * 0.01);
    }
);

#[test]
fn state_that_nothing_reads_needs_no_level() {
    everywhere::<SmallLast>();
}

definition!(
    /// Reductions of equal operands, of reduced values, of unused values.
    Repeats,
    Levels::factored(4, 4).with_lines(3, 3),
    |s| {
        let g = s.grad();
        let _ = (g * 3.0).row_mean();
        let a = g.abs().row_mean();
        let _ = (g * 4.0).col_max();
        let b = g.abs().row_mean();
        let c = (g / (a + b)).square().col_mean();
        let d = (g / (a + b)).square().col_mean().tensor_mean().tensor_mean();
        let _unused = (g * d).tensor_mean();
        let m = s.full("m").ema(g * c.rsqrt(), s.hyper(["beta"])[0]);
        s.set_param(s.param() - m * d * (m - g).abs().mean());
    }
);

#[test]
fn repeated_and_unused_reductions_change_nothing() {
    everywhere::<Repeats>();
}

definition!(
    /// As many levels as there may be.
    Deep,
    Levels::flat(8),
    |s| {
        let g = s.grad();
        let mut x = g;
        for _ in 0..7 {
            x = g / (x.rms() + 0.5);
        }
        s.set_param(s.param() - x);
    }
);

#[test]
fn eight_levels_run() {
    everywhere::<Deep>();
}
