//! State is taken, moved and put back.

#[cfg(feature = "gpu")]
use gradstep::Outcome;
use gradstep::optim::{Adafactor, AdamW, Sgd, Sm3};
use gradstep::{Average, Error, Gradients, Group, LossScale, Select, Setup, Snapshot};

#[cfg(feature = "gpu")]
use crate::side::Lists;
use crate::side::{Side, bits, grads, make, model, on_all, starts, two_groups};

on_all! {
    a_restored_set_goes_on_bit_for_bit,
    a_snapshot_that_does_not_fit_lists_everything,
    numbers_that_would_stop_training_are_refused,
    hyper_parameters_that_were_set_are_resumed_on_demand,
}

fn setups() -> Vec<Setup> {
    let many = Setup::new()
        .tensors(model())
        .group(Group::frozen("frozen").of(Select::names(["nothing"])))
        .group(Group::new("adafactor", Adafactor::torch()).of(Select::size(..100)))
        .group(Group::new("sm3", Sm3::new(0.1).with_momentum(0.9)).of(Select::rank(4..)))
        .group(Group::new("sgd", Sgd::new(0.1).with_momentum(0.9)));
    let scale = LossScale::Dynamic { initial: 4.0, growth: 2.0, backoff: 0.5, interval: 2 };
    vec![
        two_groups(model()),
        many,
        two_groups(model())
            .gradients(Gradients::new().clip_norm(1.0).loss_scale(scale))
            .average(Average::Polyak { from: 2 }),
    ]
}

fn a_restored_set_goes_on_bit_for_bit<S: Side>() {
    let tensors = model();
    for setup in setups() {
        let start = starts(&tensors);
        let mut straight = make!(S, setup, start);
        for t in 1..=5 {
            straight.step(&grads(&tensors, t)).expect("a step");
        }
        let saved = straight.snapshot().expect("a snapshot");
        assert_eq!(saved.step, 5, "on the {}", S::NAME);
        let mut resumed = make!(S, setup, start);
        resumed.step(&grads(&tensors, 77)).expect("a step that is forgotten");
        resumed.restore(&saved).expect("it fits");
        assert_eq!(resumed.snapshot().expect("a snapshot"), saved, "on the {}", S::NAME);
        for t in 6..=9 {
            straight.step(&grads(&tensors, t)).expect("a step");
            resumed.step(&grads(&tensors, t)).expect("a step");
        }
        assert_eq!(bits(&straight.params()), bits(&resumed.params()), "on the {}", S::NAME);
        let (a, b) = (straight.snapshot().expect("state"), resumed.snapshot().expect("state"));
        assert_eq!(a, b, "on the {}", S::NAME);
    }
}

fn a_snapshot_that_does_not_fit_lists_everything<S: Side>() {
    let tensors = model();
    let start = starts(&tensors);
    let mut side = make!(S, two_groups(tensors.clone()), start);
    side.step(&grads(&tensors, 1)).expect("a step");
    let good = side.snapshot().expect("a snapshot");
    let before = bits(&side.params());
    let mut spoil: Snapshot = good.clone();
    spoil.tensors.retain(|t| t.name != "scale");
    spoil.tensors[0].slots.remove(1);
    spoil.tensors[2].shape = vec![5];
    spoil.tensors[3].name = "stranger".into();
    spoil.tensors[4].slots[0].shape = vec![1, 2, 3];
    spoil.numbers.insert("mood".into(), 1.0);
    let again = spoil.tensors[5].slots[0].clone();
    spoil.tensors[5].slots.push(again);
    spoil.tensors[6].param = Some(vec![0.0f32; 3].into());
    let twice = format!("`{}` is there twice", spoil.tensors[5].name);
    let twice = format!("of {twice}");
    let short = format!("`{}` has 3 values", spoil.tensors[6].name);
    let Err(Error::Snapshot { problems }) = side.restore(&spoil) else {
        panic!("it was taken, or failed in another way");
    };
    let text = problems.join("\n");
    for has in [
        "`scale` is missing",
        "shape [5]",
        "`stranger` is unexpected",
        "[1, 2, 3]",
        "`mood`",
        &twice,
        &short,
    ] {
        assert!(text.contains(has), "{text}\nlacks {has}");
    }
    assert!(problems.len() >= 6, "{text}");
    assert_eq!(bits(&side.params()), before, "on the {}", S::NAME);
    assert_eq!(side.snapshot().expect("a snapshot"), good, "on the {}", S::NAME);
    // Another optimizer's state has other slots and says so.
    let other = Setup::new().tensors(tensors).group(Group::new("all", AdamW::new(0.1)));
    let mut other = make!(S, other, start);
    let error = other.restore(&good).expect_err("CAME's state").to_string();
    assert!(error.contains("came") && error.contains("adamw"), "{error}");
}

fn hyper_parameters_that_were_set_are_resumed_on_demand<S: Side>() {
    let tensors = model();
    let start = starts(&tensors);
    let setup = two_groups(tensors.clone());
    let mut straight = make!(S, setup, start);
    let set = |side: &mut S, lr: f64| {
        side.groups_mut().set_hyper("others", "lr", lr).expect("a number");
    };
    set(&mut straight, 3e-3);
    straight.groups_mut().set_hyper("matrices", "weight_decay", 0.2).expect("a number");
    straight.step(&grads(&tensors, 1)).expect("a step");
    let saved = straight.snapshot().expect("a snapshot");
    let mut resumed = make!(S, setup, start);
    resumed.restore(&saved).expect("it fits");
    resumed.groups_mut().apply_hypers(&saved).expect("they fit");
    straight.step(&grads(&tensors, 2)).expect("a step");
    resumed.step(&grads(&tensors, 2)).expect("a step");
    assert_eq!(bits(&straight.params()), bits(&resumed.params()), "on the {}", S::NAME);

    let mut strange = saved.clone();
    strange.groups[0].name = "nobody".into();
    let hypers = &mut strange.groups[1].hypers;
    hypers.extend([("lr".into(), -1.0), ("eps".into(), 0.5), ("mood".into(), 1.0)]);
    let error = resumed.groups_mut().apply_hypers(&strange).expect_err("strange").to_string();
    for has in ["`nobody` is unexpected", "no number `mood`", "`others`: hyper-parameter `lr`"] {
        assert!(error.contains(has), "{error}\nlacks {has}");
    }
    let groups = resumed.groups_mut();
    assert_eq!(groups.hyper("others", "lr").expect("a number"), 3e-3, "nothing has changed");
    assert_ne!(groups.hyper("others", "eps").expect("a number"), 0.5, "nothing has changed");
}

/// An average that is there a second time, with another number of values.
#[test]
fn no_average_of_another_length_is_taken() {
    let setup = Setup::new().tensor("w", [3]).group(Group::new("all", Sgd::new(0.1)));
    let setup = setup.average(Average::Ema { decay: 0.5 });
    let mut optimizer = setup.cpu::<f32>(&gradstep::Cpu::default()).expect("valid");
    let mut saved = optimizer.snapshot().expect("a snapshot");
    let mut again = saved.tensors[0].slot("param_average").expect("a slot").clone();
    again.values = vec![0.0f32; 1].into();
    saved.tensors[0].slots.push(again);
    let error = optimizer.restore(&saved).expect_err("two averages").to_string();
    assert!(error.contains("`param_average` of `w` is there twice"), "{error}");
    assert_eq!(optimizer.average("w").expect("an average").len(), 3);
}

fn numbers_that_would_stop_training_are_refused<S: Side>() {
    let tensors = model();
    let setup =
        two_groups(tensors.clone()).gradients(Gradients::new().loss_scale(LossScale::dynamic()));
    let mut side = make!(S, setup, starts(&tensors));
    side.step(&grads(&tensors, 1)).expect("a step");
    let good = side.snapshot().expect("a snapshot");
    for (name, x) in [
        ("loss_scale", f64::NAN),
        ("loss_scale", f64::INFINITY),
        ("loss_scale", 0.0),
        ("loss_scale", -1.0),
        ("loss_scale", 1e-60),
        ("good_steps", -1.0),
        ("skipped", f64::NAN),
    ] {
        let mut spoil = good.clone();
        spoil.step = 77;
        spoil.numbers.insert(name.into(), x);
        let error = side.restore(&spoil).expect_err("it would stop training");
        assert!(matches!(error, Error::Snapshot { .. }), "{error}");
        let text = error.to_string();
        assert!(text.contains(name) && text.contains(&x.to_string()), "{text}");
        assert_eq!(side.snapshot().expect("a snapshot"), good, "on the {}", S::NAME);
    }
}

/// One average of all tensors knows one number of steps.
#[cfg(feature = "gpu")]
#[test]
fn averages_of_different_ages_do_not_fit_an_arena() {
    use crate::side::OnGpu;
    use gradstep::Missing;

    let tensors: Vec<_> =
        [("a", 3), ("b", 2), ("none", 0)].map(|(name, n)| (name.to_string(), vec![n])).into();
    let setup = two_groups(tensors.clone()).average(Average::Ema { decay: 0.5 });
    let start = starts(&tensors);
    let mut gpu = make!(OnGpu, setup, start);
    let setup = setup.missing(Missing::Skip);
    let mut cpu = setup.cpu::<f32>(&gradstep::Cpu::default()).expect("valid");
    let [mut a, mut b] = [start[0].clone(), start[1].clone()];
    for both in [true, false] {
        let mut step = cpu.begin();
        step.tensor("a", &mut a, &[0.1; 3]).expect("lent");
        if both {
            step.tensor("b", &mut b, &[0.1; 2]).expect("lent");
        }
        step.finish().expect("a step");
        let restored = gpu.restore(&cpu.snapshot().expect("a snapshot"));
        if both {
            restored.expect("one step in each");
            continue;
        }
        let error = restored.expect_err("two steps and one");
        assert!(matches!(error, Error::Snapshot { .. }), "{error}");
        let text = error.to_string();
        assert!(text.contains("`a`") && text.contains("`b`"), "{text}");
        assert_eq!(gpu.optimizer.steps(), 1, "nothing has changed");
    }
}

#[cfg(feature = "gpu")]
#[test]
fn state_moves_between_backends() {
    move_to::<crate::side::OnGpu>();
    move_to::<crate::side::OnForeign>();
}

#[cfg(feature = "gpu")]
fn move_to<S: Side>() {
    use crate::side::OnCpu;

    let tensors = model();
    for setup in setups() {
        let start = starts(&tensors);
        let mut cpu = make!(OnCpu, setup, start);
        let mut gpu = make!(S, setup, start);
        for t in 1..=3 {
            cpu.step(&grads(&tensors, t)).expect("a step");
        }
        let saved = cpu.snapshot().expect("a snapshot");
        gpu.restore(&saved).expect("it fits");
        let taken = gpu.snapshot().expect("a snapshot");
        for (taken, saved) in taken.tensors.iter().zip(&saved.tensors) {
            assert_eq!(taken, saved, "nothing is rounded on the way");
        }
        assert_eq!(taken, saved, "numbers and groups as well");
        for t in 4..=6 {
            gpu.step(&grads(&tensors, t)).expect("a step");
        }
        let back = gpu.snapshot().expect("a snapshot");
        let mut straight = make!(OnCpu, setup, start);
        for t in 1..=6 {
            straight.step(&grads(&tensors, t)).expect("a step");
        }
        let moved = |p: &[f32], q: &[f32]| -> f64 {
            let square = |(a, b): (&f32, &f32)| f64::from(a - b).powi(2);
            p.iter().zip(q).map(square).sum::<f64>().sqrt()
        };
        cpu.restore(&back).expect("it fits");
        for (i, p) in cpu.params.iter().enumerate() {
            let way = moved(&straight.params[i], &start[i]);
            let apart = moved(p, &straight.params[i]);
            assert!(apart <= 1e-5 * way, "tensor {i} is {apart} apart after {way}");
        }
        cpu.step(&grads(&tensors, 7)).expect("it goes on");
    }
}

#[cfg(feature = "gpu")]
fn step_of_sums<S: Side>(side: &mut S, parts: &[Lists]) -> Outcome {
    parts.iter().try_for_each(|g| side.micro(g)).expect("micro-batches");
    side.step_sums().expect("a step")
}

/// Several pages, and tensors that no binding holds: everything that a set does is what the CPU does.
#[cfg(feature = "gpu")]
#[test]
fn sets_larger_than_a_binding_do_what_the_cpu_does() {
    use crate::common::gate;
    use crate::side::{OnCpu, OnGpu};
    use gradstep::Accumulation;
    use gradstep::gpu::wgpu::Limits;
    use gradstep::optim::Came;

    // 65536 elements in a binding.
    let limits = Limits { max_storage_buffer_binding_size: 1 << 18, ..Limits::defaults() };
    let Some(device) = gate::own(limits) else { return };
    let shapes = [
        ("long", vec![150_000]),
        ("tall", vec![1200, 70]),
        ("wide", vec![2, 70_000]),
        ("b", vec![70]),
    ];
    let tensors: Vec<_> = shapes.map(|(name, shape)| (name.to_string(), shape)).into();
    let start = starts(&tensors);
    let scale = LossScale::Dynamic { initial: 4.0, growth: 2.0, backoff: 0.5, interval: 2 };
    let setup = Setup::new()
        .tensors(tensors.clone())
        .group(Group::new("came", Came::new(1e-2)).of(Select::names(["tall"])))
        .group(Group::new("others", AdamW::new(1e-2)))
        .gradients(Gradients::new().clip_norm(1.0).loss_scale(scale))
        .average(Average::Ema { decay: 0.5 })
        .accumulate(Accumulation::Mean);
    let mut cpu = make!(OnCpu, setup, start);
    let mut gpu = OnGpu::on(&device, &setup, &start).expect("valid");
    let pages = gpu.optimizer.grad("long").expect("known").len();
    assert!(pages > 2, "a gradient in {pages} regions");
    // The elements fill six pages, which are measured at once.
    assert_eq!(gpu.optimizer.guard_dispatches(), 2, "dispatches of the guard");

    let near = |found: &Lists, wanted: &Lists, from: &Lists| {
        for (i, (found, wanted)) in found.iter().zip(wanted).enumerate() {
            let norm = |a: &[f32], b: &[f32]| {
                let squares = a.iter().zip(b).map(|(a, b)| f64::from(a - b).powi(2));
                squares.sum::<f64>().sqrt()
            };
            let (apart, way) = (norm(found, wanted), norm(wanted, &from[i]));
            // A rounding of the parameter a step beside the tolerance of the GPU.
            let rounding = 6.0 * norm(wanted, &vec![0.0; wanted.len()]) / f64::from(1 << 24);
            assert!(apart <= 1e-5 * way + rounding, "tensor {i} is {apart} apart after {way}");
        }
    };
    for t in 1..=4 {
        let mut parts = [grads(&tensors, 2 * t), grads(&tensors, 2 * t + 1)];
        if t == 2 {
            parts[1][0][149_999] = f32::NAN;
        }
        let outcomes = [step_of_sums(&mut cpu, &parts), step_of_sums(&mut gpu, &parts)];
        assert_eq!(outcomes.map(|o| o.skipped), [t == 2; 2], "step {t}");
    }
    near(&gpu.params(), &cpu.params(), &start);
    near(&gpu.averages().expect("averages"), &cpu.averages().expect("averages"), &start);

    // Swapped in and out.
    let (params, averages) = (gpu.params(), gpu.averages().expect("averages"));
    gpu.swap().expect("swapped");
    assert_eq!(bits(&gpu.params()), bits(&averages));
    gpu.swap().expect("swapped back");
    assert_eq!(bits(&gpu.params()), bits(&params));

    // State there and back again.
    let saved = gpu.snapshot().expect("a snapshot");
    let mut other = OnGpu::on(&device, &setup, &start).expect("valid");
    other.restore(&saved).expect("it fits");
    assert_eq!(other.snapshot().expect("a snapshot"), saved);
    cpu.restore(&saved).expect("it fits");
    assert_eq!(cpu.snapshot().expect("a snapshot"), saved);
}
