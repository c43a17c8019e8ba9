//! Schedules: the official schedulers' values, and what must hold for any settings.

use std::collections::BTreeMap;

use gradstep::{Curve, Error, OneCycle, Result, Schedule};
use proptest::prelude::*;
use proptest::test_runner::RngSeed;
use serde_json::Value as Json;

/// The rate that those set on the optimizer: `LR` of `tests/golden/schedules.py`.
const LR: f64 = 0.3;

/// Each golden case with the schedule that is the same.
fn cases() -> Result<Vec<(&'static str, Schedule)>> {
    let wsd = |end, curve| Schedule::wsd(LR, end, 80, 500, 200, curve);
    let low = 0.1 * LR;
    Ok(vec![
        ("torch_linear", Schedule::linear(0.25 * LR, 0.75 * LR, 300)?),
        ("torch_polynomial", Schedule::polynomial(LR, 0.0, 500, 2.5)?),
        ("torch_cosine", Schedule::cosine(LR, 0.02, 999)?),
        ("torch_restarts", Schedule::cosine_restarts(LR, 0.01, 70, 2)?),
        ("torch_restarts_even", Schedule::cosine_restarts(LR, 0.0, 333, 1)?),
        ("torch_one_cycle", Schedule::one_cycle(OneCycle::new(2.0, 1000))?),
        (
            "torch_one_cycle_linear",
            Schedule::one_cycle(OneCycle {
                pct_start: 0.2503,
                curve: Curve::Linear,
                ..OneCycle::new(2.0, 1000)
            })?,
        ),
        (
            "torch_one_cycle_three",
            Schedule::one_cycle(OneCycle {
                pct_start: 0.4,
                div_factor: 10.0,
                final_div_factor: 100.0,
                three_phase: true,
                ..OneCycle::new(2.0, 1000)
            })?,
        ),
        (
            "torch_one_cycle_momentum",
            Schedule::one_cycle(OneCycle {
                pct_start: 0.15,
                div_factor: 0.85 / 0.95,
                final_div_factor: 1.0,
                curve: Curve::Linear,
                three_phase: true,
                ..OneCycle::new(0.85, 1000)
            })?,
        ),
        ("torch_step", Schedule::step(LR, 0.7, 30)?),
        ("torch_multi_step", Schedule::multi_step(LR, 0.1, [600, 150, 100, 150])?),
        ("torch_exponential", Schedule::exponential(LR, 0.99, 1)?),
        ("torch_warmup", Schedule::polynomial(LR, 0.0, 300, 2.0)?.with_warmup_from(60, 0.1)?),
        (
            "torch_sequence",
            Schedule::constant(0.5 * LR)?
                .then(100, Schedule::step(LR, 0.5, 250)?)?
                .then(900, Schedule::exponential(LR, 0.95, 1)?)?,
        ),
        ("optax_linear", Schedule::linear(0.5, 0.05, 200)?.delayed(123)),
        ("optax_polynomial", Schedule::polynomial(0.5, 0.05, 200, 3.0)?.delayed(40)),
        ("optax_cosine", Schedule::cosine(LR, low, 400)?),
        ("optax_exponential", Schedule::exponential(LR, 0.5, 100)?.delayed(20).clamp(low, LR)?),
        ("optax_staircase", Schedule::step(LR, 0.5, 100)?),
        ("optax_warmup_cosine", Schedule::cosine(LR, 0.003, 450)?.with_warmup_from(50, 0.1)?),
        (
            "optax_join",
            Schedule::linear(0.0, LR, 64)?
                .then(64, Schedule::constant(LR)?)?
                .then(700, Schedule::polynomial(LR, 0.0, 150, 2.0)?)?,
        ),
        ("hf_constant", Schedule::constant(LR)?.with_warmup(70)),
        ("hf_linear", Schedule::linear(LR, 0.0, 400)?.with_warmup(50)),
        ("hf_cosine", Schedule::cosine(LR, 0.0, 939)?.with_warmup(60)),
        (
            "hf_restarts",
            Schedule::cosine_restarts(LR, 0.0, 100, 1)?
                .then(400, Schedule::constant(0.0)?)?
                .with_warmup(50),
        ),
        ("hf_polynomial", Schedule::polynomial(LR, 0.01, 400, 2.0)?.with_warmup(50)),
        ("hf_inverse_sqrt", Schedule::inverse_sqrt(LR, 200)?.with_warmup(50)),
        ("hf_wsd_linear", wsd(0.0, Curve::Linear)?),
        ("hf_wsd_cosine", wsd(0.0, Curve::Cosine)?),
        ("hf_wsd_sqrt", wsd(0.0, Curve::OneMinusSqrt)?),
        (
            "hf_wsd_floor",
            Schedule::ramp(LR, low, 200, Curve::OneMinusSqrt)?
                .delayed(500)
                .with_warmup_from(80, 0.1)?,
        ),
        (
            "hf_wsd_warmup",
            Schedule::ramp(low, LR, 80, Curve::Polynomial(0.5))?
                .then(80, Schedule::linear(LR, low, 200)?.delayed(500))?,
        ),
        ("hf_cosine_from_one", Schedule::cosine(LR, low, 950)?.with_warmup_from(49, 1.0 / 50.0)?),
    ])
}

/// The values of every golden case, step by step.
fn golden() -> BTreeMap<String, Vec<f64>> {
    let file: Json = serde_json::from_str(include_str!("golden/schedules.json")).expect("JSON");
    let number = |v: &Json| v.as_f64().expect("a number");
    let steps = usize::try_from(file["steps"].as_u64().expect("a number")).expect("it is small");
    let expand = |(case, runs): (&String, &Json)| {
        let mut values = Vec::new();
        for run in runs.as_array().expect("a list") {
            match run {
                Json::Array(run) => {
                    let length = run[1].as_u64().expect("a length");
                    values.extend((0..length).map(|_| number(&run[0])));
                }
                value => values.push(number(value)),
            }
        }
        assert_eq!(values.len(), steps, "{case}");
        (case.clone(), values)
    };
    file["cases"].as_object().expect("cases").iter().map(expand).collect()
}

/// Relative to the value, and for values below a thousandth of the greatest absolute: there the
/// official codes compute 1 + cos, which cancels. torch's rates are products of up to 999 factors.
const TOLERANCE: f64 = 1e-12;

#[test]
fn schedules_are_those_of_torch_optax_and_transformers() {
    let golden = golden();
    let cases = cases().expect("valid settings");
    let mut names: Vec<_> = cases.iter().map(|case| case.0).collect();
    names.sort_unstable();
    assert_eq!(names, golden.keys().map(String::as_str).collect::<Vec<_>>(), "one for each");
    for (name, schedule) in cases {
        let wanted = &golden[name];
        let greatest = wanted.iter().fold(0.0, |a: f64, v| a.max(v.abs()));
        for (step, &want) in (0..).zip(wanted) {
            let got = schedule.at(step);
            let allowed = TOLERANCE * want.abs().max(1e-3 * greatest);
            assert!(
                (got - want).abs() <= allowed,
                "{name}, step {step}: {got:e} instead of {want:e}"
            );
        }
    }
}

#[test]
fn invalid_settings_are_errors_that_name_them() {
    let (nan, infinite) = (f64::NAN, f64::INFINITY);
    let some = || Schedule::constant(1.0).expect("valid");
    let cycle = OneCycle::new(0.1, 10);
    let one_cycle = |settings| Schedule::one_cycle(settings);
    let zero = "is 0; it must be at least 1";
    let table: [(Result<Schedule>, &str, &str); 37] = [
        (Schedule::constant(nan), "value is NaN", "finite"),
        (Schedule::linear(infinite, 0.0, 1), "first value is inf", "finite"),
        (Schedule::linear(0.0, nan, 1), "last value is NaN", "finite"),
        (Schedule::linear(0.0, 1.0, 0), "number of steps", zero),
        (Schedule::cosine(nan, 1.0, 1), "first value is NaN", "finite"),
        (Schedule::cosine(0.0, 1.0, 0), "number of steps", zero),
        (Schedule::polynomial(0.0, 1.0, 0, 1.0), "number of steps", zero),
        (Schedule::polynomial(0.0, 1.0, 1, 0.0), "power is 0", "greater than 0"),
        (Schedule::polynomial(0.0, 1.0, 1, -1.0), "power is -1", "greater than 0"),
        (Schedule::polynomial(0.0, 1.0, 1, nan), "power is NaN", "greater than 0"),
        (Schedule::cosine_restarts(nan, 0.0, 1, 1), "first value is NaN", "finite"),
        (Schedule::cosine_restarts(0.0, nan, 1, 1), "last value is NaN", "finite"),
        (Schedule::cosine_restarts(0.0, 1.0, 0, 1), "steps to the first restart", zero),
        (Schedule::cosine_restarts(0.0, 1.0, 1, 0), "factor from cycle to cycle", zero),
        (Schedule::inverse_sqrt(nan, 1), "first value is NaN", "finite"),
        (Schedule::inverse_sqrt(1.0, 0), "timescale", zero),
        (Schedule::exponential(1.0, 0.0, 1), "factor is 0", "greater than 0"),
        (Schedule::exponential(1.0, 0.5, 0), "number of steps", zero),
        (Schedule::step(1.0, infinite, 1), "factor is inf", "finite"),
        (Schedule::step(1.0, 0.5, 0), "number of steps", zero),
        (Schedule::multi_step(nan, 0.5, [1]), "first value is NaN", "finite"),
        (Schedule::multi_step(1.0, -0.5, [1]), "factor is -0.5", "greater than 0"),
        (Schedule::wsd(nan, 0.0, 1, 1, 1, Curve::Linear), "first value is NaN", "finite"),
        (Schedule::wsd(1.0, 0.0, 1, 1, 0, Curve::Linear), "number of steps", zero),
        (one_cycle(OneCycle { peak: nan, ..cycle }), "peak is NaN", "finite"),
        (one_cycle(OneCycle { total_steps: 0, ..cycle }), "number of steps", zero),
        (one_cycle(OneCycle { div_factor: 0.0, ..cycle }), "div_factor is 0", "greater than 0"),
        (
            one_cycle(OneCycle { final_div_factor: -1.0, ..cycle }),
            "final_div_factor is -1",
            "than 0",
        ),
        (one_cycle(OneCycle { div_factor: 1e-320, ..cycle }), "initial value is inf", "finite"),
        (one_cycle(OneCycle { pct_start: 1.1, ..cycle }), "pct_start is 1.1", "from 0 to 1"),
        (
            one_cycle(OneCycle { pct_start: 0.6, three_phase: true, ..cycle }),
            "pct_start is 0.6",
            "from 0 to 0.5",
        ),
        (some().with_warmup_from(10, nan), "start factor is NaN", "finite"),
        (some().times(infinite), "factor is inf", "finite"),
        (some().clamp(nan, 1.0), "lower bound is NaN", "finite"),
        (some().clamp(2.0, 1.0), "lower bound 2 is above its upper bound 1", "lower one first"),
        (some().then(0, some()), "begin at step 0, the one before it at 0", "later steps"),
        (
            some().then(30, some()).and_then(|s| s.then(10, some())),
            "begin at step 10, the one before it at 30",
            "from the beginning of the whole",
        ),
    ];
    for (i, (schedule, problem, remedy)) in table.into_iter().enumerate() {
        let error = schedule.expect_err(problem);
        assert!(matches!(error, Error::Setup { .. }), "{i}: {error:?}");
        let message = error.to_string();
        assert!(message.contains(problem) && message.contains(remedy), "{i}: {message}");
    }
}

fn config() -> ProptestConfig {
    ProptestConfig {
        cases: 512,
        failure_persistence: None,
        rng_seed: RngSeed::Fixed(0x5c4ed),
        ..ProptestConfig::default()
    }
}

fn values() -> impl Strategy<Value = f64> {
    prop_oneof![
        4 => -1.0..1.0,
        1 => prop::num::f64::NORMAL | prop::num::f64::SUBNORMAL | prop::num::f64::ZERO,
        1 => prop::sample::select(vec![f64::MAX, f64::MIN, 1.0, 0.0]),
    ]
}

fn factors() -> impl Strategy<Value = f64> {
    prop_oneof![4 => 0.01..2.0, 1 => prop::sample::select(vec![f64::MAX, 5e-324, 1.0])]
}

/// Any, zero among them, and often the last ones that there are.
fn steps() -> impl Strategy<Value = u64> {
    prop_oneof![4 => 0..3000u64, 1 => any::<u64>(), 1 => u64::MAX - 3..=u64::MAX]
}

fn lengths() -> impl Strategy<Value = u64> {
    steps().prop_map(|n| n.max(1))
}

fn curves() -> impl Strategy<Value = Curve> {
    prop_oneof![
        Just(Curve::Linear),
        Just(Curve::Cosine),
        Just(Curve::OneMinusSqrt),
        (0.1..8.0).prop_map(Curve::Polynomial),
    ]
}

fn one_cycles() -> impl Strategy<Value = OneCycle> {
    let factor = 0.5..1e5;
    (-1.0..1.0, lengths(), 0.0..=1.0, factor.clone(), factor, curves(), any::<bool>()).prop_map(
        |(peak, total_steps, part, div_factor, final_div_factor, curve, three_phase)| OneCycle {
            peak,
            total_steps,
            pct_start: if three_phase { part / 2.0 } else { part },
            div_factor,
            final_div_factor,
            curve,
            three_phase,
        },
    )
}

fn schedules() -> impl Strategy<Value = Schedule> {
    let number = values;
    let leaf = prop_oneof![
        number().prop_map(Schedule::constant),
        (number(), number(), lengths(), curves())
            .prop_map(|(a, b, n, c)| Schedule::ramp(a, b, n, c)),
        (number(), number(), lengths(), prop_oneof![1..4u64, lengths()])
            .prop_map(|(a, b, n, m)| Schedule::cosine_restarts(a, b, n, m)),
        (number(), lengths()).prop_map(|(a, n)| Schedule::inverse_sqrt(a, n)),
        one_cycles().prop_map(Schedule::one_cycle),
        (number(), factors(), lengths()).prop_map(|(a, f, n)| Schedule::exponential(a, f, n)),
        (number(), factors(), lengths()).prop_map(|(a, f, n)| Schedule::step(a, f, n)),
        (number(), factors(), prop::collection::vec(steps(), 0..4))
            .prop_map(|(a, f, m)| Schedule::multi_step(a, f, m)),
        (number(), number(), steps(), steps(), lengths(), curves())
            .prop_map(|(a, b, w, s, d, c)| Schedule::wsd(a, b, w, s, d, c)),
    ]
    .prop_map(|made| made.expect("valid settings"));
    leaf.prop_recursive(4, 12, 2, |inner| {
        let of = inner.clone();
        prop_oneof![
            (of.clone(), steps()).prop_map(|(s, n)| Ok(s.with_warmup(n))),
            (of.clone(), steps(), values()).prop_map(|(s, n, f)| s.with_warmup_from(n, f)),
            (of.clone(), steps()).prop_map(|(s, n)| Ok(s.delayed(n))),
            (of.clone(), values()).prop_map(|(s, f)| s.times(f)),
            (of.clone(), values(), values()).prop_map(|(s, a, b)| s.clamp(a.min(b), a.max(b))),
            // Not above the joint of a warm-up of `of`, which is an error: then `of` alone.
            (of, steps(), inner).prop_map(|(s, n, next)| Ok(s.clone().then(n, next).unwrap_or(s))),
        ]
        .prop_map(|made| made.expect("valid settings"))
    })
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn every_schedule_is_finite_at_every_step(schedule in schedules(), t in steps()) {
        for step in [t, 0, 1, u64::MAX] {
            let value = schedule.at(step);
            prop_assert!(value.is_finite(), "{value} at {step}");
        }
    }

    #[test]
    fn a_ramp_goes_from_one_value_to_the_other_and_stays(
        from in values(), to in values(), n in lengths(), t in steps(), curve in curves(),
    ) {
        let ramp = Schedule::ramp(from, to, n, curve).expect("valid");
        prop_assert_eq!((ramp.at(0), ramp.at(n), ramp.at(n.max(t))), (from, to, to));
        let value = ramp.at(t);
        prop_assert!(from.min(to) <= value && value <= from.max(to), "{}", value);
        // Monotonic, but for rounding.
        let slack = 4.0 * f64::EPSILON * from.abs().max(to.abs());
        let change = ramp.at(t.saturating_add(1)) - value;
        prop_assert!(if from < to { change >= -slack } else { change <= slack }, "{}", change);
    }

    #[test]
    fn curves_are_those_of_their_equations(n in 1..3000u64, t in 0..3000u64, k in 0.1..8.0f64) {
        let p = t.min(n) as f64 / n as f64;
        let (from, to) = (0.7, 0.2);
        for (curve, r) in [
            (Curve::Linear, 1.0 - p),
            (Curve::Polynomial(k), (1.0 - p).powf(k)),
            (Curve::Cosine, 0.5 * (1.0 + (std::f64::consts::PI * p).cos())),
            (Curve::OneMinusSqrt, 1.0 - p.sqrt()),
        ] {
            let value = Schedule::ramp(from, to, n, curve).expect("valid").at(t);
            prop_assert!((value - (to + (from - to) * r)).abs() < 1e-13, "{:?}: {}", curve, value);
        }
    }

    #[test]
    fn a_warm_up_is_a_line_to_the_first_value(
        schedule in schedules(), w in 1..3000u64, t in 0..6000u64, f in -2.0..2.0f64,
    ) {
        let first = schedule.at(0);
        prop_assume!(first.abs() < 1e300);
        let warm = schedule.clone().with_warmup_from(w, f).expect("valid");
        let expected = if t < w {
            first * (f + (1.0 - f) * t as f64 / w as f64)
        } else {
            schedule.at(t - w)
        };
        prop_assert!((warm.at(t) - expected).abs() <= 1e-14 * first.abs(), "{}", warm.at(t));
        // No jump at the joint.
        prop_assert_eq!(warm.at(w), first);
        let last = first - warm.at(w - 1);
        prop_assert!((last - first * (1.0 - f) / w as f64).abs() <= 1e-14 * first.abs(), "{}", last);
        prop_assert_eq!(
            schedule.clone().with_warmup(w),
            schedule.clone().with_warmup_from(w, 0.0).expect("valid")
        );
        prop_assert_eq!(schedule.clone().with_warmup(0), schedule);
    }

    #[test]
    fn parts_that_are_joined_begin_with_their_own_step_0(
        parts in prop::collection::vec((1..1000u64, schedules()), 2..5), t in steps(),
    ) {
        let begins: Vec<u64> = parts
            .iter()
            .scan(0, |sum, (length, _)| Some(std::mem::replace(sum, *sum + length)))
            .collect();
        // Times 1, since a schedule that begins with a warm-up has a joint already.
        let first = parts[0].1.clone().times(1.0).expect("valid");
        let joined = (1..parts.len()).fold(first, |before, i| {
            before.then(begins[i], parts[i].1.clone()).expect("joints go up")
        });
        for (i, (_, part)) in parts.iter().enumerate() {
            let end = begins.get(i + 1).copied().unwrap_or(u64::MAX);
            for own in [0, t % (end - begins[i]), end - begins[i] - 1] {
                prop_assert_eq!(joined.at(begins[i] + own), part.at(own), "part {}", i);
            }
        }
    }

    #[test]
    fn a_delayed_schedule_is_held_at_its_first_value(
        schedule in schedules(), n in steps(), t in steps(),
    ) {
        prop_assert_eq!(schedule.clone().delayed(n).at(t), schedule.at(t.saturating_sub(n)));
    }

    #[test]
    fn times_and_clamp_change_values_only(
        schedule in schedules(), t in steps(), f in values(), low in values(), high in values(),
    ) {
        let value = schedule.at(t);
        let times = schedule.clone().times(f).expect("valid");
        prop_assert_eq!(times.at(t), (value * f).clamp(f64::MIN, f64::MAX));
        let (low, high) = (low.min(high), low.max(high));
        let clamped = schedule.clamp(low, high).expect("valid");
        prop_assert_eq!(clamped.at(t), value.max(low).min(high));
    }

    #[test]
    fn restarts_are_found_without_counting(first in 1..200u64, factor in 1..5u64, t in 0..5000u64) {
        let (mut begin, mut length) = (0, first);
        while t - begin >= length {
            begin += length;
            length *= factor;
        }
        let restarts = Schedule::cosine_restarts(0.5, 0.1, first, factor).expect("valid");
        let cosine = Schedule::cosine(0.5, 0.1, length).expect("valid");
        prop_assert_eq!(restarts.at(t), cosine.at(t - begin));
        prop_assert_eq!(restarts.at(begin), 0.5);
    }

    #[test]
    fn restarts_are_exact_for_huge_steps(first in lengths(), factor in lengths(), t in steps()) {
        let (t, first, factor) = (u128::from(t), u128::from(first), u128::from(factor));
        let (mut begin, mut length) = (0, first);
        if factor == 1 {
            begin = t / first * first;
        }
        while t - begin >= length {
            begin += length;
            length *= factor;
        }
        let small = |n: u128| u64::try_from(n).expect("a u64");
        let restarts = Schedule::cosine_restarts(1.0, 0.0, small(first), small(factor));
        let done = (t - begin) as f64 / length as f64;
        let expected = 0.5 * (1.0 + (std::f64::consts::PI * done).cos());
        let value = restarts.expect("valid").at(small(t));
        prop_assert!((value - expected).abs() < 1e-14, "{} {}", value, expected);
    }

    #[test]
    fn decays_multiply(f in 0.5..1.5f64, n in 1..100u64, t in 0..2000u64) {
        let smooth = Schedule::exponential(2.0, f, n).expect("valid");
        let steps = Schedule::step(2.0, f, n).expect("valid");
        let listed = Schedule::multi_step(2.0, f, (1..=2000).map(|k| k * n)).expect("valid");
        let close = |a: f64, b: f64| (a - b).abs() <= 1e-12 * b.abs();
        prop_assert!(close(smooth.at(t + n), f * smooth.at(t)), "{:?}", smooth);
        prop_assert!(close(steps.at(t), smooth.at(t / n * n)), "{:?}", steps);
        prop_assert_eq!(steps.at(t), listed.at(t));
        let ratio = smooth.at(t + 1) / smooth.at(t);
        prop_assert!(close(ratio, f.powf(1.0 / n as f64)), "{}", ratio);
    }

    #[test]
    fn the_inverse_square_root_is_that_of_the_step_after_as_long_a_warm_up(
        w in 1..3000u64, t in 0..1_000_000u64,
    ) {
        let lr = Schedule::inverse_sqrt(0.5, w).expect("valid").with_warmup(w);
        let value = lr.at(t);
        let (w, t) = (w as f64, t as f64);
        let expected = if t < w { 0.5 * t / w } else { 0.5 * (w / t).sqrt() };
        prop_assert!((value - expected).abs() < 1e-14, "{:?}", lr);
    }

    #[test]
    fn warm_up_stable_decay_has_three_phases_without_a_jump(
        end in 0.0..1.0f64, w in 0..300u64, s in 0..300u64, d in 1..300u64, curve in curves(),
    ) {
        let wsd = Schedule::wsd(1.0, end, w, s, d, curve).expect("valid");
        prop_assert_eq!(wsd.at(0), if w == 0 { 1.0 } else { 0.0 });
        prop_assert_eq!((wsd.at(w), wsd.at(w + s), wsd.at(w + s + d)), (1.0, 1.0, end));
        prop_assert_eq!(wsd.at(u64::MAX), end);
        let largest = steepest(curve, d as f64).max(1.0 / w.max(1) as f64);
        for t in 0..w + s + d {
            let change = wsd.at(t + 1) - wsd.at(t);
            prop_assert!(change.abs() <= largest + 1e-12, "{} at {}", change, t);
            let right = if t < w { change > 0.0 } else if t < w + s { change == 0.0 } else { change <= 1e-15 };
            prop_assert!(right, "{} at {}", change, t);
        }
    }

    #[test]
    fn one_cycle_is_within_its_values_and_without_a_jump(cycle in one_cycles(), n in 2..400u64) {
        let cycle = OneCycle { total_steps: n, ..cycle };
        let schedule = Schedule::one_cycle(cycle).expect("valid");
        let initial = cycle.peak / cycle.div_factor;
        let last = initial / cycle.final_div_factor;
        let (low, high) = [cycle.peak, last]
            .iter()
            .fold((initial, initial), |(low, high), &v| (low.min(v), high.max(v)));
        let top = cycle.pct_start * n as f64 - 1.0;
        let rest = n as f64 - 1.0 - if cycle.three_phase { 2.0 * top } else { top };
        let phases = [top, rest];
        // A phase that takes less than a step is a jump.
        let jumps = phases.iter().any(|&length| length < 1.0);
        let largest = phases.iter().fold(0.0f64, |a, &l| a.max(steepest(cycle.curve, l)));
        for t in 0..n + 5 {
            let value = schedule.at(t);
            prop_assert!(low <= value && value <= high, "{} at {}", value, t);
            let change = (schedule.at(t + 1) - value).abs();
            // Two phases may meet within a step.
            prop_assert!(jumps || change <= 2.0 * largest * (high - low) + 1e-12, "{} at {}", change, t);
        }
        prop_assert_eq!(schedule.at(n), last);
        prop_assert_eq!(schedule.at(u64::MAX), last);
    }
}

/// The greatest change of r in a step of a curve over `length` steps.
fn steepest(curve: Curve, length: f64) -> f64 {
    match curve {
        Curve::Cosine => std::f64::consts::FRAC_PI_2 / length,
        Curve::OneMinusSqrt => length.powf(-0.5),
        Curve::Polynomial(k) if k < 1.0 => length.powf(-k),
        Curve::Polynomial(k) => k / length,
        _ => 1.0 / length,
    }
}

#[cfg(feature = "serde")]
#[test]
fn schedules_are_read_as_they_were_written_and_checked() {
    for (name, schedule) in cases().expect("valid settings") {
        let written = serde_json::to_value(&schedule).expect("no map with other keys");
        let read: Schedule = serde_json::from_value(written).expect(name);
        assert_eq!(read, schedule, "{name}");
    }
    let text = r#"{"ramp": {"from": 0.25, "to": 0.0, "steps": 100, "curve": {"polynomial": 2.0}}}"#;
    let read: Schedule = serde_json::from_str(text).expect("valid");
    assert_eq!(read, Schedule::polynomial(0.25, 0.0, 100, 2.0).expect("valid"));
    let error = serde_json::from_str::<Schedule>(&text.replace("100", "0")).expect_err("no steps");
    assert!(error.to_string().contains("its number of steps is 0"), "{error}");
}
