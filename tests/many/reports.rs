//! Statistics of steps, and what state takes.

use gradstep::optim::{Adafactor, Came, Sgd};
use gradstep::{Accumulation, Average, Gradients, Group, LossScale, Select, Setup};

use crate::common::tolerance::F32;
use crate::side::{Lists, Side, bits, grads, make, model, on_all, starts, two_groups};

on_all! {
    statistics_are_those_of_what_happened,
    updates_that_are_lost_are_counted,
    statistics_of_large_tensors_are_added_up,
    watching_changes_no_bit,
    reports_are_what_the_definition_says,
    a_step_that_is_skipped_leaves_the_statistics_of_the_last,
    no_statistics_without_asking,
    memory_is_counted_slot_by_slot;
    not in the callers buffers:
    statistics_of_sums_of_micro_batches,
    sums_of_gradients_are_counted,
}

fn rms(x: impl Iterator<Item = f64>) -> f64 {
    let (n, sum) = x.fold((0.0, 0.0), |(n, sum), x| (n + 1.0, sum + x * x));
    if n > 0.0 { (sum / n).sqrt() } else { 0.0 }
}

fn near(found: f64, wanted: f64, what: &str) {
    near_of(found, wanted, 0.0, what);
}

fn near_of(found: f64, wanted: f64, size: f64, what: &str) {
    // Sums of squares in single precision on a GPU, which may also leave out the rounding of
    // numbers of this size.
    let error = (found - wanted).abs();
    let allowed = F32 * (64.0 * wanted.abs() + size);
    assert!(error <= allowed, "{what}: {found} and not {wanted}");
}

/// Updates that are lost in rounding are updates of zero, whatever a shader may think of them.
fn updates_that_are_lost_are_counted<S: Side>() {
    let tensors = vec![("w".to_string(), vec![100])];
    let setup = Setup::new().tensors(tensors).group(Group::new("all", Sgd::new(1.0))).watch();
    let mut side = make!(S, setup, vec![vec![1.0f32; 100]]);
    // A quarter of the updates is below half a last place of 1.
    let g = (0..100).map(|i| if i % 4 == 0 { 1e-9 } else { 1e-3 }).collect();
    side.step(&vec![g]).expect("a step");
    let stats = side.stats().expect("they are watched");
    assert!((stats[0].zero_updates - 0.25).abs() < 1e-6, "{:?}", stats[0]);
}

/// Tensors that are cut into several pieces, and rows so long that levels take sweeps of their own.
fn statistics_of_large_tensors_are_added_up<S: Side>() {
    let tensors: Vec<(String, Vec<usize>)> = vec![
        ("long".into(), vec![3, 20_000]),
        ("tall".into(), vec![700, 300]),
        ("v".into(), vec![70_001]),
    ];
    let start = starts(&tensors);
    let mut side = make!(S, two_groups(tensors.clone()).watch(), start);
    let names: Vec<_> = tensors.iter().map(|t| t.0.clone()).collect();
    for t in 1..=2 {
        let (before, g) = (side.params(), grads(&tensors, t));
        side.step(&g).expect("a step");
        compare(&mut side, &before, &g, &names);
    }
    let stats = side.stats().expect("they are watched");
    assert!(stats[0].get("mean_confidence").is_some_and(|x| x > 0.0), "{}", stats[0]);
}

/// Compares with the parameters before and after a step along `seen`.
fn compare<S: Side>(side: &mut S, before: &Lists, seen: &Lists, names: &[String]) {
    let after = side.params();
    let stats = side.stats().expect("they are watched");
    assert_eq!(stats.len(), names.len(), "one for each tensor");
    for (i, stats) in stats.iter().enumerate() {
        let pairs = || before[i].iter().zip(&after[i]);
        let name = &names[i];
        near(stats.grad_rms, rms(seen[i].iter().map(|&g| g.into())), name);
        let moved = rms(pairs().map(|(a, b)| f64::from(b - a)));
        near_of(stats.update_rms, moved, rms(after[i].iter().map(|&p| p.into())), name);
        let zeros = pairs().filter(|(a, b)| a == b).count() as f64 / pairs().len().max(1) as f64;
        near(stats.zero_updates, zeros, name);
    }
}

fn names() -> Vec<String> {
    model().into_iter().map(|t| t.0).collect()
}

fn statistics_are_those_of_what_happened<S: Side>() {
    let tensors = model();
    let start = starts(&tensors);
    let setup = two_groups(tensors.clone()).watch();
    let mut side = make!(S, setup, start);
    for t in 1..=3 {
        let (before, mut g) = (side.params(), grads(&tensors, t));
        if t == 2 {
            // Nothing but the moments moves these.
            g[2].fill(0.0);
        }
        side.step(&g).expect("a step");
        compare(&mut side, &before, &g, &names());
    }

    // Plain descent, where an update is zero exactly where the gradient is.
    let sgd = Setup::new().tensors(tensors.clone()).group(Group::new("all", Sgd::new(0.5)));
    let scaled = Gradients::new().clip_value(0.5).loss_scale(LossScale::Fixed(4.0));
    for gradients in [Gradients::new(), scaled.clone(), scaled.check_finite()] {
        let factor = if gradients.max_value.is_some() { 4.0 } else { 1.0 };
        let most = gradients.max_value.map_or(f32::INFINITY, |_| 0.5);
        let mut side = make!(S, sgd.clone().gradients(gradients).watch(), start);
        let mut g = grads(&tensors, 1);
        g.iter_mut().flatten().step_by(3).for_each(|g| *g = 0.0);
        let seen: Lists =
            g.iter().map(|g| g.iter().map(|g| g.clamp(-most, most)).collect()).collect();
        let given: Lists = g.iter().map(|g| g.iter().map(|g| g * factor).collect()).collect();
        side.step(&given).expect("a step");
        compare(&mut side, &start, &seen, &names());
    }
}

fn statistics_of_sums_of_micro_batches<S: Side>() {
    let tensors = model();
    let start = starts(&tensors);
    let sgd = Setup::new().tensors(tensors.clone()).group(Group::new("all", Sgd::new(0.5)));
    // Sums of micro-batches are what the optimizer sees.
    let mut side = make!(S, sgd.accumulate(Accumulation::Mean).watch(), start);
    let g = grads(&tensors, 1);
    side.micro(&g).expect("a micro-batch");
    side.micro(&g).expect("a micro-batch");
    side.step_sums().expect("a step");
    compare(&mut side, &start, &g, &names());
}

fn watching_changes_no_bit<S: Side>() {
    let tensors = model();
    let start = starts(&tensors);
    let mut free = make!(S, two_groups(tensors.clone()), start);
    let mut watched = make!(S, two_groups(tensors.clone()).watch(), start);
    for t in 1..=4 {
        free.step(&grads(&tensors, t)).expect("a step");
        watched.step(&grads(&tensors, t)).expect("a step");
    }
    assert_eq!(bits(&free.params()), bits(&watched.params()), "on the {}", S::NAME);
    let (a, b) = (free.snapshot().expect("state"), watched.snapshot().expect("state"));
    assert_eq!(a, b, "statistics are no state");
    assert_eq!(free.memory(), watched.memory(), "on the {}", S::NAME);
}

fn reports_are_what_the_definition_says<S: Side>() {
    let tensors = vec![("w".to_string(), vec![48, 40]), ("b".to_string(), vec![40])];
    let setup = Setup::new()
        .tensors(tensors.clone())
        .group(
            Group::new("matrix", Came::new(1e-3).with_clip_threshold(0.25)).of(Select::rank(2..)),
        )
        .group(Group::new("vector", Adafactor::torch()))
        .watch();
    let mut side = make!(S, setup, starts(&tensors));
    for t in 1..=3 {
        side.step(&grads(&tensors, t)).expect("a step");
        let snapshot = side.snapshot().expect("state");
        let slot = |name: &str| -> Vec<f64> {
            snapshot.tensors[0].slot(name).expect("a slot").values.to()
        };
        let [r, c] = ["exp_avg_res_row", "exp_avg_res_col"].map(slot);
        let mean = |x: &[f64]| x.iter().sum::<f64>() / x.len() as f64;
        let of_rows: Vec<_> = r.iter().map(|x| (mean(&r) / x).sqrt()).collect();
        let of_cols: Vec<_> = c.iter().map(|x| 1.0 / x.sqrt()).collect();
        let stats = side.stats().expect("they are watched");
        let confidence = stats[0].get("mean_confidence").expect("CAME reports it");
        near(confidence, mean(&of_rows) * mean(&of_cols), "mean_confidence");
        let clip = stats[0].get("clip_factor").expect("CAME reports it");
        assert!(clip > 0.0 && clip < 1.0, "an RMS above a quarter is clipped: {clip}");
        assert!(stats[1].get("clip_factor").is_some(), "Adafactor reports it");
        assert_eq!(stats[1].get("mean_confidence"), None, "that is CAME's");
        assert!(stats[0].to_string().contains("mean_confidence"), "{}", stats[0]);
    }
}

fn a_step_that_is_skipped_leaves_the_statistics_of_the_last<S: Side>() {
    let tensors = model();
    let setup = two_groups(tensors.clone()).gradients(Gradients::new().check_finite()).watch();
    let mut side = make!(S, setup, starts(&tensors));
    side.step(&grads(&tensors, 1)).expect("a step");
    let before = side.stats().expect("they are watched");
    let mut bad = grads(&tensors, 2);
    bad[0][0] = f32::NAN;
    assert!(side.step(&bad).expect("a step").skipped, "on the {}", S::NAME);
    assert_eq!(side.stats().expect("they are watched"), before, "on the {}", S::NAME);
}

fn no_statistics_without_asking<S: Side>() {
    let tensors = model();
    let mut side = make!(S, two_groups(tensors.clone()), starts(&tensors));
    let error = side.stats().expect_err("nothing is watched").to_string();
    assert!(error.contains("Setup::watch"), "{error}");
}

fn memory_is_counted_slot_by_slot<S: Side>() {
    let tensors = model();
    let mut side = make!(S, two_groups(tensors.clone()), starts(&tensors));
    let memory = side.memory();
    let of = |name: &str| memory.tensors.iter().find(|t| t.name == name).expect("known");
    let embed = of("embed.weight");
    assert_eq!((embed.group.as_str(), embed.param, embed.adamw), ("matrices", 1920, 3840), "CAME");
    let slots = ["exp_avg 1920", "exp_avg_sq_row 160", "exp_avg_sq_col 48"];
    let found: Vec<_> = embed.slots.iter().map(|(name, n)| format!("{name} {n}")).collect();
    assert_eq!(found[..3].len(), 3, "{found:?}");
    assert!(slots.iter().all(|s| found.iter().any(|f| f == s)), "{found:?}");
    assert_eq!(embed.state(), 1920 + 2 * (160 + 48), "CAME");
    assert_eq!(of("scale").state(), 8, "AdamW");
    assert_eq!(of("empty").state(), 0, "nothing");
    let text = memory.to_string();
    let sum: usize = memory.tensors.iter().map(|t| t.adamw).sum();
    assert!(text.contains(&sum.to_string()) && text.contains("exp_avg_res_col"), "{text}");
    assert!(memory.state() < memory.adamw(), "{text}");

    let averaged = two_groups(tensors.clone()).average(Average::Ema { decay: 0.9 });
    let more = make!(S, averaged, starts(&tensors)).memory();
    let of = |name: &str| more.tensors.iter().find(|t| t.name == name).expect("known");
    assert_eq!(of("embed.weight").state(), embed.state() + 1920 + 4, "the average and its number");
    assert_eq!(more.spare > 0, S::NAME != "CPU", "on the {}", S::NAME);
    let slots: usize = more.tensors.iter().map(gradstep::report::TensorMemory::state).sum();
    assert_eq!(more.state(), slots + more.spare, "on the {}", S::NAME);
}

fn sums_of_gradients_are_counted<S: Side>() {
    let tensors = model();
    let setup = two_groups(tensors.clone());
    let without = make!(S, setup, starts(&tensors)).memory();
    let with = make!(S, setup.accumulate(Accumulation::Sum), starts(&tensors)).memory();
    let elements: usize = tensors.iter().map(|t| t.1.iter().product::<usize>()).sum();
    assert_eq!(with.state(), without.state() + 4 * elements, "on the {}", S::NAME);
    assert!(with.to_string().contains("sum of gradients 1920"), "{with}");
}
