//! Every error names the thing, shows both values and the remedy, and changes nothing.

use std::cell::Cell;

use gradstep::value::{Interpreter, Shape, Step};
use gradstep::{Cpu, Definition, Error, Layout, Levels};

use crate::common::plain::Plain;
use crate::common::run::bits;
use crate::common::table::{Any, Values, gradient, params};

/// The message, after a check that it holds all of `parts`.
#[track_caller]
fn says(error: &Error, parts: &[&str]) {
    let message = error.to_string();
    for part in parts {
        assert!(message.contains(part), "`{part}` is missing in: {message}");
    }
}

#[track_caller]
fn refused<D: Definition>(shape: &[usize], parts: &[&str]) {
    let error = Cpu::default()
        .prepare::<f32, _>(Plain::<D>::new(&[("lr", 0.1)]), shape)
        .expect_err("the definition breaks a rule");
    assert!(matches!(error, Error::Definition { .. }), "{error:?}");
    says(&error, &[D::NAME]);
    says(&error, parts);
}

macro_rules! broken {
    ($test:ident, $levels:expr, $shape:expr, |$s:ident| $body:block, $($part:literal),*) => {
        #[test]
        fn $test() {
            struct Broken;
            impl Definition for Broken {
                const NAME: &'static str = stringify!($test);
                const LEVELS: Levels = $levels;
                fn step<I: Interpreter>($s: Step<'_, I>) $body
            }
            refused::<Broken>(&$shape, &[$($part),*]);
        }
    };
}

broken!(
    a_slot_takes_no_value_of_a_larger_shape,
    Levels::factored(1, 1),
    [3, 4],
    |s| {
        s.rows("row_state").set(s.grad());
        s.set_param(s.param());
    },
    "slot `row_state`",
    "shape Rows",
    "shape Full",
    "errors.rs:",
    "reduce the value to Rows"
);

broken!(
    a_slot_of_rows_takes_no_columns,
    Levels::factored(1, 1),
    [3, 4],
    |s| {
        s.rows("row_state").set(s.grad().col_mean());
        s.set_param(s.param());
    },
    "`row_state`",
    "Rows",
    "Cols",
    "declare the slot with shape Full"
);

broken!(
    an_old_value_is_not_read_after_its_level,
    Levels::flat(2),
    [9],
    |s| {
        let m = s.full("momentum");
        let old = m.old();
        m.set(s.grad());
        s.set_param(s.param() - old * s.grad().rms());
    },
    "`momentum`",
    "level 1",
    "level 0",
    "use the new value"
);

broken!(
    an_old_small_value_is_not_read_after_its_level,
    Levels::factored(1, 1),
    [3, 9],
    |s| {
        let m = s.slot("scale", Shape::Scalar, 1.0);
        let old = m.old();
        m.set(old * 0.5);
        s.set_param(s.param() - s.grad() * old);
    },
    "`scale`",
    "level 0",
    "use the new value"
);

broken!(
    an_old_value_is_not_read_after_it_was_set,
    Levels::flat(1),
    [9],
    |s| {
        let m = s.full("momentum");
        m.set(s.grad());
        s.set_param(s.param() - m.old());
    },
    "`momentum`",
    "after the new one is set",
    "call `old` before `set`"
);

broken!(
    the_parameter_is_not_read_after_it_was_set,
    Levels::flat(1),
    [9],
    |s| {
        s.set_param(s.grad());
        s.full("before").set(s.param());
    },
    "parameter",
    "after the new one was set",
    "`set_param`"
);

broken!(
    too_small_levels_are_refused,
    Levels::flat(1),
    [9],
    |s| {
        s.set_param(s.param() - s.grad() * s.grad().rms());
    },
    "LEVELS says 1",
    "has 2",
    "`Levels::flat(2)`"
);

broken!(
    too_great_levels_are_refused,
    Levels::factored(3, 5),
    [9, 9],
    |s| {
        s.set_param(s.param() - s.grad() * s.grad().rms());
    },
    "LEVELS says 5",
    "has 2",
    "`Levels::factored(…, 2)`"
);

broken!(
    wrong_levels_of_rows_are_refused,
    Levels::factored(2, 2).with_lines(3, 2),
    [1, 9],
    |s| {
        s.set_param(s.param() - s.grad() * s.grad().rms());
    },
    "LEVELS says 3 for a row",
    "has 2",
    "`.with_lines(2, …)`"
);

broken!(
    wrong_levels_of_columns_are_refused,
    Levels::factored(2, 2).with_lines(2, 1),
    [9, 1],
    |s| {
        s.set_param(s.param() - s.grad() * s.grad().rms());
    },
    "LEVELS says 1 for a column",
    "has 2",
    "`.with_lines(…, 2)`"
);

broken!(
    too_many_levels_are_refused,
    Levels::flat(9),
    [9],
    |s| {
        let mut x = s.grad();
        for _ in 0..8 {
            x = s.grad() / (x.rms() + 0.5);
        }
        s.set_param(x);
    },
    "9 levels",
    "limit is 8"
);

broken!(
    a_slot_is_set_once,
    Levels::flat(1),
    [9],
    |s| {
        let m = s.full("momentum");
        m.set(s.grad());
        m.set(s.grad());
        s.set_param(s.param());
    },
    "slot `momentum` is set twice",
    "errors.rs:",
    "value that `set` returns"
);

broken!(
    a_slot_is_declared_once,
    Levels::flat(1),
    [9],
    |s| {
        s.full("momentum").set(s.grad());
        s.full("momentum").set(s.grad());
        s.set_param(s.param());
    },
    "slot `momentum` is declared twice",
    "errors.rs:",
    "keep the `Slot`"
);

broken!(
    a_declared_slot_is_set,
    Levels::flat(1),
    [9],
    |s| {
        let m = s.full("momentum").old();
        s.set_param(s.param() - m);
    },
    "slot `momentum` is declared but never set",
    "set it once"
);

broken!(
    a_slot_is_not_a_host_value,
    Levels::flat(1),
    [9],
    |s| {
        s.slot("counter", Shape::Host, 0.0).set(s.t());
        s.set_param(s.param());
    },
    "slot `counter`",
    "shape Host",
    "shape Scalar"
);

broken!(
    the_parameter_is_set,
    Levels::flat(1),
    [9],
    |s| {
        let _ = s.grad();
    },
    "never sets the parameter",
    "`set_param`"
);

broken!(
    the_parameter_is_set_once,
    Levels::flat(1),
    [9],
    |s| {
        s.set_param(s.param());
        s.set_param(s.grad());
    },
    "parameter is set twice",
    "errors.rs:",
    "call `set_param` once"
);

broken!(
    powers_are_for_host_values,
    Levels::flat(1),
    [9],
    |s| {
        s.set_param(s.param() - s.grad().pow(2.0));
    },
    "power",
    "errors.rs:",
    "shape Full",
    "`square`"
);

broken!(
    operations_are_limited,
    Levels::flat(1),
    [9],
    |s| {
        let mut x = s.grad();
        for _ in 0..300 {
            x = -x;
        }
        s.set_param(x);
    },
    // Six are the gradient's: three Host values and what is done with them.
    "306 operations",
    "limit is 256",
    "compute less"
);

broken!(
    reductions_are_limited,
    Levels::flat(2),
    [9],
    |s| {
        let mut sum = s.grad().rms();
        for i in 0..9 {
            sum = sum + (s.grad() * f64::from(i)).tensor_mean();
        }
        s.set_param(s.param() * sum);
    },
    "10 full-size reductions",
    "limit is 8"
);

broken!(
    full_slots_are_limited,
    Levels::flat(1),
    [9],
    |s| {
        for name in ["a", "b", "c", "d", "e", "f", "g", "h", "i"] {
            s.full(name).set(s.grad());
        }
        s.set_param(s.param());
    },
    "9 full-size slots",
    "limit is 8"
);

broken!(
    hyper_parameters_are_known,
    Levels::flat(1),
    [9],
    |s| {
        let [lr, rate] = s.hyper(["lr", "rate"]);
        s.set_param(s.param() - s.grad() * (lr * rate));
    },
    "`rate`",
    "`Optimizer::hyper`"
);

/// A definition that does other things when it runs than when it was traced.
struct Fickle;

thread_local! {
    static MISBEHAVE: Cell<bool> = const { Cell::new(false) };
}

impl Definition for Fickle {
    const NAME: &'static str = "fickle";
    const LEVELS: Levels = Levels::factored(2, 2);
    fn step<I: Interpreter>(s: Step<'_, I>) {
        let (g, w) = (s.grad(), s.param());
        if MISBEHAVE.get() {
            let mut x = w / g.rms() * g.col_max() + g.row_mean();
            for i in 0..500 {
                x = x + g.col_mean() * f64::from(i) + (x * g).row_max();
            }
            for name in ["a", "b", "c", "d", "e", "f", "g", "h", "i", "j", "k"] {
                let slot = s.full(name);
                slot.set(slot.old() + x.mean());
                let slot = s.cols(name);
                slot.set(slot.old() * x.col_mean());
                let slot = s.rows(name);
                slot.set(slot.old() * x);
            }
            s.set_param(x.pow(x));
            s.set_param(x.col_mean() * x.mean());
            return;
        }
        let m = s.full("m").ema(g, 0.0 * s.t() + 0.9);
        s.set_param(w - m * g.square().mean().rsqrt());
    }
}

#[test]
fn a_definition_that_changes_its_mind_touches_nothing_that_is_not_its_own() {
    for shape in [&[0][..], &[], &[7], &[16], &[3, 5], &[2, 17], &[70, 33], &[2, 3, 4], &[300, 301]]
    {
        if cfg!(miri) && shape.iter().product::<usize>() > 3000 {
            continue;
        }
        let n: usize = shape.iter().product();
        let mut opt = Cpu::single_threaded()
            .prepare_with::<f32, _>(Plain::<Fickle>::new(&[]), shape, Layout::LastTwo)
            .expect("well behaved so far");
        // Neighbours in memory that nobody may touch.
        let mut memory = vec![1.5f32; n + 128];
        let gradient = vec![0.5f32; n + 128];
        for misbehave in [false, true, true, false] {
            MISBEHAVE.set(misbehave);
            opt.step(&mut memory[64..][..n], &gradient[64..][..n]).expect("a step");
            MISBEHAVE.set(false);
        }
        let (before, rest) = memory.split_at(64);
        let after = &rest[n..];
        assert!(before.iter().chain(after).all(|&x| x == 1.5), "neighbours of {shape:?}");
        assert_eq!(opt.steps(), 4);
        // A third trace sees the other definition, and refuses it.
        MISBEHAVE.set(true);
        let refused = Cpu::default().prepare::<f32, _>(Plain::<Fickle>::new(&[]), shape).is_err();
        MISBEHAVE.set(false);
        assert!(refused, "11 slots, 500 reductions, a power of Full values");
    }
}

/// A prepared step with state, and everything that an error may not change.
struct Running {
    opt: gradstep::CpuStep<f32, Any>,
    p: Vec<f32>,
}

impl Running {
    fn new(optimizer: Any, shape: &[usize]) -> Self {
        let mut opt = Cpu::default().prepare::<f32, _>(optimizer, shape).expect("valid");
        let n = shape.iter().product();
        let mut p: Vec<f32> = params(1, n).iter().map(|&x| x as f32).collect();
        for t in 1..=3 {
            let g: Vec<f32> =
                gradient(Values::Normal, 1, t, shape).iter().map(|&x| x as f32).collect();
            opt.step(&mut p, &g).expect("valid");
        }
        Self { opt, p }
    }

    fn all(&self) -> (Vec<u64>, Vec<Vec<u64>>, u64) {
        let slot = |name| bits(&self.opt.slot(name).expect("a slot"));
        let slots = self.opt.slots().map(|(name, _)| slot(name)).collect();
        (bits(&self.p), slots, self.opt.steps())
    }

    /// `f` fails, and nothing has changed.
    #[track_caller]
    fn untouched(
        &mut self,
        f: impl FnOnce(&mut gradstep::CpuStep<f32, Any>, &mut Vec<f32>) -> gradstep::Result<()>,
        parts: &[&str],
    ) {
        let before = self.all();
        let error = f(&mut self.opt, &mut self.p).expect_err("it must fail");
        says(&error, parts);
        assert!(self.all() == before, "something changed: {error}");
    }
}

#[test]
fn errors_of_a_step_change_nothing() {
    for case in crate::common::table::optimizers() {
        let mut run = Running::new(case.optimizer, &[3, 4]);
        let g = vec![1.0f32; 12];
        let parts = ["the parameter", "[11]", "[3, 4]", "registered"];
        run.untouched(|opt, p| opt.step(&mut p[..11], &g), &parts);
        let parts = ["the gradient", "[13]", "[3, 4]", "registered"];
        run.untouched(|opt, p| opt.step(p, &[1.0; 13]), &parts);
        let turned = ndarray::Array2::<f32>::ones((4, 3));
        let parts = ["the gradient", "[4, 3]", "[3, 4]", "registered"];
        run.untouched(|opt, p| opt.step(p, &turned), &parts);
        let mut other = turned.clone();
        let parts = ["the parameter", "[4, 3]", "[3, 4]"];
        run.untouched(|opt, _| opt.step(&mut other, &g), &parts);
        run.untouched(|opt, _| opt.slot("nonsense").map(drop), &["`nonsense`", "slots"]);
        run.untouched(|opt, _| opt.set_slot("nonsense", &[]), &["`nonsense`", "slots"]);
        let first = run.opt.slots().next().map(|s| s.0);
        if let Some(name) = first {
            let parts = ["slot `", name, "[1000]"];
            run.untouched(|opt, _| opt.set_slot(name, &[0.0; 1000]), &parts);
            let values = run.opt.slot(name).expect("a slot");
            run.opt.set_slot(name, &values).expect("the right size");
        }
        run.opt.step(&mut run.p, &g).expect("it still runs");
        assert_eq!(run.opt.steps(), 4);
    }
}

#[test]
fn shapes_that_no_memory_holds_are_refused() {
    for shape in [&[usize::MAX, 2][..], &[1 << 40, 1 << 40], &[usize::MAX, 0, usize::MAX]] {
        let optimizer = crate::common::table::optimizers().remove(0).optimizer;
        let error = Cpu::default().prepare::<f32, _>(optimizer, shape).expect_err("too large");
        says(&error, &[&format!("{shape:?}"), "more than", "elements", "split the tensor"]);
    }
}

#[test]
fn an_instruction_set_that_is_missing_is_named() {
    match Cpu::default().with_isa(gradstep::Isa::Avx2) {
        Ok(cpu) => {
            assert_ne!(gradstep::Isa::detect(), gradstep::Isa::Baseline);
            assert!(format!("{cpu:?}").contains("Avx2"), "{cpu:?}");
        }
        Err(error) => says(&error, &["AVX2", "Isa::detect()"]),
    }
    assert!(Cpu::default().with_isa(gradstep::Isa::Baseline).is_ok());
}
