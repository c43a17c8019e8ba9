//! Named tensors in the caller's own buffers: what the tests of all backends do not ask.

use gradstep::gpu::wgpu::{self, Limits};
use gradstep::gpu::{Gpu, GpuForeign, GpuStepping};
use gradstep::optim::{AdamW, Sgd};
use gradstep::{Accumulation, Average, Error, Gradients, Group, LossScale, Missing, Select, Setup};
use pollster::block_on as wait;

use crate::common::gate;
use crate::common::run::widen;
use crate::common::tolerance::{self, F32, What};
use crate::side::{
    Lists, OnForeign, OnGpu, OnInPlace, OnRanges, SEED, Side, bits, grads, make, model, plain,
    read, spot, starts, three_hundred, two_groups,
};

/// Sets over the caller's buffers, whose steps may leave tensors out.
trait Partial: Side {
    fn step_of(&mut self, given: impl Fn(&str) -> bool) -> gradstep::Result<gradstep::Outcome>;
}

impl<const GATHERED: bool> Partial for OnRanges<GATHERED> {
    fn step_of(&mut self, given: impl Fn(&str) -> bool) -> gradstep::Result<gradstep::Outcome> {
        self.step_of(given)
    }
}

fn norm<'g>(grads: impl IntoIterator<Item = &'g Vec<f32>>) -> f64 {
    grads.into_iter().flatten().map(|&g| f64::from(g).powi(2)).sum::<f64>().sqrt()
}

#[test]
fn the_callers_buffers_give_the_bits_of_an_arena() {
    let mut tensors = model();
    // Columns that four do not divide: where they do, these tensors are taken another way than those of
    // an arena, whose matrices go one way all together.
    tensors.iter_mut().filter(|t| t.1.len() == 2).for_each(|t| t.1[1] += 1);
    let start = starts(&tensors);
    for setup in [
        two_groups(tensors.clone()),
        two_groups(tensors.clone()).gradients(Gradients::new().clip_value(0.4).check_finite()),
    ] {
        let mut arena = make!(OnGpu, setup, start);
        let mut foreign = make!(OnForeign, setup, start);
        for t in 1..=4 {
            arena.step(&grads(&tensors, t)).expect("a step");
            foreign.step(&grads(&tensors, t)).expect("a step");
        }
        assert_eq!(bits(&arena.params()), bits(&foreign.params()));
        assert_eq!(arena.snapshot().expect("state"), foreign.snapshot().expect("state"));
        assert_eq!(arena.optimizer.state_bytes(), foreign.set.state_bytes());
        let plan = |p: gradstep::Result<&gradstep::Plan>| p.expect("known").to_string();
        for name in ["layers.0.weight", "scale", "empty"] {
            assert_eq!(plan(arena.optimizer.plan(name)), plan(foreign.set.plan(name)));
        }
    }
}

#[test]
fn a_step_that_does_not_fit_names_the_tensor_and_records_nothing() {
    let Some(gpu) = gate::gpu() else { return };
    let setup = Setup::new()
        .tensors([("w", vec![2, 3]), ("b", vec![3]), ("f", vec![2])])
        .group(Group::frozen("still").of(Select::names(["f"])))
        .group(Group::new("all", AdamW::new(0.1)));
    let mut set = wait(setup.gpu_foreign(gpu)).expect("valid");
    let [w, dw] = [(); 2].map(|()| spot(gpu, 6));
    w.write(gpu, &[1.0; 6]);
    dw.write(gpu, &[1.0; 6]);
    let stranger = gpu.device().create_buffer(&wgpu::BufferDescriptor {
        label: None,
        size: 24,
        usage: wgpu::BufferUsages::COPY_DST,
        mapped_at_creation: false,
    });
    let gone = spot(gpu, 6);
    gone.slice().buffer().destroy();
    let mut encoder = gpu.device().create_command_encoder(&Default::default());
    let mut step = set.begin();
    for (name, param, grad, has) in [
        ("v", w.slice(), dw.slice(), ["`v`", "none of the 3"]),
        ("f", w.slice(), dw.slice(), ["`f` is frozen", "`still`"]),
        ("b", w.slice(), dw.first(3).slice(), ["`b` has a parameter", "24 bytes"]),
        ("w", w.slice(), dw.first(3).slice(), ["`w` has a gradient", "12 bytes"]),
        ("w", w.slice(), stranger.slice(..), ["`w` has a gradient", "STORAGE"]),
        ("w", w.slice(), w.slice(), ["`w` has a gradient", "apart"]),
        ("w", w.slice(), gone.slice(), ["`w` has a parameter or gradient", "destroyed"]),
    ] {
        let error = step.tensor(name, param, grad).expect_err("it does not fit").to_string();
        assert!(has.iter().all(|h| error.contains(h)), "{error}\nlacks {has:?}");
    }
    step.tensor("w", w.slice(), dw.slice()).expect("it fits");
    let error = step.tensor("w", w.slice(), dw.slice()).expect_err("twice").to_string();
    assert!(error.contains("`w` was given twice"), "{error}");
    let error = step.finish(&mut encoder).expect_err("b is missing").to_string();
    assert!(error.contains("`b` has no gradient"), "{error}");
    // Nor does a step that is not finished leave something behind.
    set.begin().tensor("w", w.slice(), dw.slice()).expect("it fits");
    let [b, db] = [(); 2].map(|()| spot(gpu, 3));
    let mut step = set.begin();
    step.tensor("b", b.slice(), db.slice()).expect("it fits");
    let error = step.finish(&mut encoder).expect_err("w is missing").to_string();
    assert!(error.contains("`w` has no gradient"), "{error}");
    gpu.queue().submit([encoder.finish()]);
    assert_eq!(set.steps(), 0, "no step counts");
    assert_eq!(read(gpu, &[w]), [[1.0; 6]], "a parameter has changed");

    let error = wait(setup.accumulate(Accumulation::Mean).gpu_foreign(gpu)).expect_err("no sums");
    assert!(error.to_string().contains("Setup::gpu"), "{error}");
}

#[test]
fn a_skipped_tensor_is_neither_measured_nor_changed() {
    skipped::<OnInPlace>();
}

#[test]
fn a_skipped_tensor_is_zeros_among_gathered_ones_and_is_not_changed() {
    skipped::<OnForeign>();
}

fn skipped<S: Partial>() {
    let tensors = model();
    let start = starts(&tensors);
    let setup = plain(tensors.clone(), Gradients::new().clip_norm(1e6).check_finite())
        .average(Average::Ema { decay: 0.5 })
        .missing(Missing::Skip);
    let mut side = make!(S, setup, start);
    let mut bad = grads(&tensors, 1);
    bad[2][3] = f32::NAN;
    bad[6][1] = f32::INFINITY;
    assert!(side.step(&bad).expect("a step").skipped, "NaN was taken");
    // What is bad is left out: in its place there is only what was measured in the step before.
    let good = |name: &str| name != tensors[2].0 && name != tensors[6].0;
    let outcome = side.step_of(good).expect("a step");
    let n = norm(bad.iter().enumerate().filter(|(i, _)| *i != 2 && *i != 6).map(|(_, g)| g));
    let found = outcome.grad_norm.expect("a norm");
    assert!(!outcome.skipped && (found - n).abs() <= 16.0 * F32 * n, "{outcome:?} and not {n}");
    let now = side.params();
    for (i, (name, _)) in tensors.iter().enumerate() {
        let still = bits(&vec![now[i].clone()]) == bits(&vec![start[i].clone()]);
        assert_eq!(still, !good(name) || now[i].is_empty(), "{name}");
    }
    let counted = side.snapshot().expect("state");
    let steps = |i: usize| counted.tensors[i].slot("averaged_steps").expect("a slot").values.to();
    assert_eq!((steps(0), steps(2)), (vec![1.0f32], vec![0.0f32]), "steps in averages");
    // None at all is a step as well.
    let outcome = side.step_of(|_| false).expect("a step");
    assert_eq!((outcome.skipped, outcome.grad_norm), (false, Some(0.0)), "{}", S::NAME);
    assert_eq!(side.snapshot().expect("state").step, 3, "steps on the {}", S::NAME);
}

#[test]
fn the_guard_in_place_takes_a_dispatch_for_six_tensors_and_one_for_all() {
    let gradients =
        Gradients::new().clip_norm(1.0).clip_value(3.0).loss_scale(LossScale::dynamic());
    // As many as three dispatches take, and one more. Some have no elements.
    for (n, dispatches) in [(1, 2), (6, 2), (7, 3), (12, 3), (13, 4), (100, 18)] {
        let mut tensors: Vec<_> = three_hundred().into_iter().take(n).collect();
        tensors.insert(n / 2, ("empty".into(), vec![3, 0]));
        let start = starts(&tensors);
        let free = make!(OnInPlace, two_groups(tensors.clone()), start);
        let side =
            make!(OnInPlace, two_groups(tensors.clone()).gradients(gradients.clone()), start);
        assert_eq!(side.set.guard_dispatches(), dispatches, "for {n} tensors");
        assert_eq!(side.set.dispatches(), free.set.dispatches() + dispatches, "for {n} tensors");
        assert!(free.set.dispatches() <= 8 * n, "{}", free.set.dispatches());
        assert_eq!(side.set.memory(), free.set.memory(), "nothing is copied of {n} tensors");
    }
}

#[test]
fn the_guard_takes_three_dispatches_at_most_whatever_the_number_of_tensors() {
    let gradients =
        Gradients::new().clip_norm(1.0).clip_value(3.0).loss_scale(LossScale::dynamic());
    for n in [3, 12, 13, 30, 300] {
        let tensors: Vec<_> = three_hundred().into_iter().take(n).collect();
        let start = starts(&tensors);
        let free = make!(OnForeign, two_groups(tensors.clone()), start);
        let setup = two_groups(tensors.clone()).gradients(gradients.clone());
        let apart = make!(OnInPlace, setup, start);
        let side = make!(OnForeign, setup, start);
        let dispatches = if n <= 6 { 2 } else { 3 };
        assert_eq!(side.set.guard_dispatches(), dispatches, "for {n} tensors");
        assert_eq!(side.set.dispatches(), free.set.dispatches() + dispatches, "for {n} tensors");
        assert_eq!(apart.set.guard_dispatches(), 1 + n.div_ceil(6), "in place");
        // What is bought with it, where it is needed: copies of all but the eleven largest. And
        // nothing where nothing is measured.
        let mut sizes: Vec<_> = start.iter().map(Vec::len).collect();
        sizes.sort_unstable();
        let copied = if n <= 12 { 0 } else { n - 11 };
        let bytes = 4 * sizes[..copied].iter().sum::<usize>();
        let memory = [&free, &side].map(|s| s.set.memory());
        assert_eq!(memory.each_ref().map(|m| m.gathered), [0, bytes], "copies of {n} tensors");
        assert_eq!(memory[1].state(), memory[0].state() + bytes);
        assert_eq!(memory[1].to_string().contains("(gathered)"), copied > 0, "{}", memory[1]);
        assert_eq!(apart.set.memory(), memory[0], "in place");
    }
}

#[test]
fn gathered_gradients_give_the_steps_of_those_in_place() {
    let tensors = model();
    let start = starts(&tensors);
    let scale = LossScale::Dynamic { initial: 2.0, growth: 2.0, backoff: 0.5, interval: 2 };
    for (case, gradients) in [
        ("tested", Gradients::new().clip_value(0.4).check_finite()),
        ("clipped", Gradients::new().clip_norm(0.5).loss_scale(scale)),
    ] {
        let setup = two_groups(tensors.clone()).gradients(gradients);
        let setup = setup.average(Average::Ema { decay: 0.9 });
        let mut apart = make!(OnInPlace, setup, start);
        let mut side = make!(OnForeign, setup, start);
        let mut moved = vec![0.0; tensors.len()];
        for step in 1..=6 {
            let g = grads(&tensors, step);
            let [a, b] = [apart.step(&g), side.step(&g)].map(|o| o.expect("a step"));
            assert_eq!((a.skipped, a.loss_scale), (b.skipped, b.loss_scale), "{case}, step {step}");
            let [a, b] = [a, b].map(|o| o.grad_norm.expect("a norm"));
            assert!((a - b).abs() <= 16.0 * F32 * a, "{case}, step {step}: {a} and {b}");
            // Where the norm decides nothing, sums in another order change nothing.
            if case == "tested" {
                assert_eq!(bits(&apart.params()), bits(&side.params()), "step {step}");
                assert_eq!(apart.snapshot().expect("state"), side.snapshot().expect("state"));
            }
            let (wanted, found) = (apart.params(), side.params());
            for (i, (_, shape)) in tensors.iter().enumerate() {
                let test = "gathered_gradients_give_the_steps_of_those_in_place";
                let what = What { case, shape, seed: SEED + i as u64, step, test };
                let [start, found, wanted] =
                    [&start, &found, &wanted].map(|x: &Lists| widen(&x[i]));
                let moved = &mut moved[i];
                tolerance::check(tolerance::GPU, F32, &what, moved, &start, &found, &wanted);
            }
        }
    }
}

#[test]
fn a_gradient_that_cannot_be_gathered_is_refused_and_nothing_is_recorded() {
    let Some(gpu) = gate::gpu() else { return };
    // Twelve that are larger, so that the others are gathered, with one of these.
    let large: Vec<_> =
        (0..12).map(|i| (format!("large.{i}"), [spot(gpu, 8), spot(gpu, 8)])).collect();
    let setup = Setup::new()
        .tensors([("b", vec![3]), ("w", vec![2, 3])])
        .tensors(large.iter().map(|(name, _)| (name.as_str(), vec![8])))
        .group(Group::new("all", AdamW::new(0.1)));
    let give = |step: &mut GpuStepping<'_>| {
        for (name, [param, grad]) in &large {
            step.tensor(name.as_str(), param.slice(), grad.slice()).expect("it fits");
        }
    };
    let clipped = setup.clone().gradients(Gradients::new().clip_norm(1.0));
    let [b, db] = [(); 2].map(|()| spot(gpu, 3));
    let [w, dw] = [(); 2].map(|()| spot(gpu, 6));
    for (spot, len) in [(&b, 3), (&db, 3), (&w, 6), (&dw, 6)] {
        spot.write(gpu, &vec![1.0; len]);
    }
    let no_copies = gpu.device().create_buffer(&wgpu::BufferDescriptor {
        label: None,
        size: 24,
        usage: wgpu::BufferUsages::STORAGE,
        mapped_at_creation: false,
    });
    let mut set = wait(clipped.gpu_foreign(gpu)).expect("valid");
    let before = wait(set.snapshot()).expect("state");
    let mut encoder = gpu.device().create_command_encoder(&Default::default());
    let mut step = set.begin();
    give(&mut step);
    step.tensor("b", b.slice(), db.slice()).expect("it fits");
    let error = step.tensor("w", w.slice(), no_copies.slice(..)).expect_err("no copies of it");
    assert!(matches!(error, Error::Tensor { .. }), "{error}");
    let error = error.to_string();
    for has in
        ["`w` has a gradient buffer", "BufferUsages(STORAGE)", "COPY_SRC", "measure_in_place"]
    {
        assert!(error.contains(has), "{error}\nlacks {has}");
    }
    // Nor is the step recorded without it.
    let error = step.finish(&mut encoder).expect_err("w is missing").to_string();
    assert!(error.contains("`w` has no gradient"), "{error}");
    gpu.queue().submit([encoder.finish()]);
    assert_eq!(wait(set.snapshot()).expect("state"), before, "state has changed");
    let all = [b.clone(), db.clone(), w.clone(), dw.clone()];
    assert!(read(gpu, &all).iter().flatten().all(|&x| x == 1.0), "a buffer has changed");

    // With the usage it goes on. Nothing is asked of parameters, nor where nothing is measured.
    let mut unmeasured = wait(setup.gpu_foreign(gpu)).expect("valid");
    for (set, w, dw) in [
        (&mut set, no_copies.slice(..), dw.slice()),
        (&mut unmeasured, w.slice(), no_copies.slice(..)),
    ] {
        let mut encoder = gpu.device().create_command_encoder(&Default::default());
        let mut step = set.begin();
        give(&mut step);
        step.tensor("b", b.slice(), db.slice()).expect("it fits");
        step.tensor("w", w, dw).expect("it fits");
        step.finish(&mut encoder).expect("recorded");
        gpu.queue().submit([encoder.finish()]);
        assert!(!wait(set.outcome()).expect("a live device").skipped && set.steps() == 1);
    }
}

/// An instance with a device of its own, whose objects nobody else counts among.
fn alone() -> (wgpu::Instance, Gpu) {
    let instance = wgpu::Instance::new(wgpu::InstanceDescriptor::new_without_display_handle());
    let adapter = wait(instance.request_adapter(&Default::default())).expect("an adapter");
    let (device, queue) = wait(adapter.request_device(&Default::default())).expect("a device");
    let gpu = Gpu::new(&device, &queue).expect("a device with the default limits");
    (instance, gpu)
}

#[test]
fn ranges_that_were_seen_cost_nothing_until_they_are_forgotten() {
    seen_once::<false>(3);
}

#[test]
fn gathered_ranges_that_were_seen_cost_nothing_until_they_are_forgotten() {
    // Eleven where they lie, and a page.
    seen_once::<true>(2);
}

/// Each tensor with elements has a binding for the step and one for its average; and so many are there
/// to measure all gradients, six to each.
fn seen_once<const GATHERED: bool>(measures: usize) {
    if gate::gpu().is_none() {
        return;
    }
    let (instance, gpu) = &alone();
    let tensors = model();
    let setup = two_groups(tensors.clone())
        .gradients(Gradients::new().clip_norm(1.0))
        .average(Average::Ema { decay: 0.9 });
    let mut side = OnRanges::<GATHERED>::on(gpu, &setup, &starts(&tensors)).expect("valid");
    side.write(&grads(&tensors, 1));
    let step = |side: &mut OnRanges<GATHERED>| {
        let mut encoder = gpu.device().create_command_encoder(&Default::default());
        side.record(&mut encoder, |_| true).expect("recorded");
        gpu.queue().submit([encoder.finish()]);
        gpu.device().poll(wgpu::PollType::wait_indefinitely()).expect("the device answers");
    };
    let alive = || {
        let hub = instance.generate_report().expect("a native instance").hub;
        (hub.bind_groups.num_allocated, hub.buffers.num_allocated)
    };
    let before = alive();
    step(&mut side);
    let seen = alive();
    let bindings = 2 * (tensors.len() - 1) + measures;
    assert_eq!(seen.0 - before.0, bindings, "bindings of all tensors");
    for _ in 0..20 {
        step(&mut side);
    }
    assert_eq!(alive(), seen, "something was allocated");
    side.set.forget_buffers();
    gpu.device().poll(wgpu::PollType::wait_indefinitely()).expect("the device answers");
    assert_eq!(alive().0, before.0, "bindings were kept");
    step(&mut side);
    assert_eq!(alive().0, seen.0, "they are made anew");
}

#[test]
fn tensors_larger_than_a_binding_are_measured_and_followed_in_pieces() {
    // Each has pieces of its own, three to a dispatch.
    in_pieces::<false>((7usize + 1 + 2).div_ceil(3));
}

#[test]
fn tensors_larger_than_a_binding_are_gathered_in_pages() {
    // The largest lies where it is; the others fill a page and a part of another.
    in_pieces::<true>((7usize + 2).div_ceil(3));
}

/// So many dispatches go over the gradients.
fn in_pieces<const GATHERED: bool>(sweeps: usize) {
    let limits = Limits {
        max_storage_buffer_binding_size: 1 << 16,
        max_storage_buffers_per_shader_stage: 5,
        ..Limits::defaults()
    };
    let Some(gpu) = &gate::own(limits) else { return };
    let tensors =
        vec![("a".into(), vec![100_001]), ("b".into(), vec![3]), ("c".into(), vec![20_000])];
    let (start, g) = (starts(&tensors), grads(&tensors, 1));
    let setup = plain(tensors, Gradients::new().clip_norm(0.5).check_finite())
        .average(Average::Ema { decay: 0.5 })
        .missing(Missing::Skip);
    let mut side = OnRanges::<GATHERED>::on(gpu, &setup, &start).expect("valid");
    assert_eq!(side.set.guard_dispatches(), sweeps + 1, "and one for all");
    // Parameter and gradient of the first one lie in one buffer, farther apart than a binding.
    let error = side.step(&g).expect_err("too far apart");
    assert!(matches!(error, Error::GpuLimit { .. }), "{error}");
    assert!(error.to_string().contains("tensor `a`"), "{error}");
    side.pairs[0][1] = spot(gpu, 100_001);
    let outcome = side.step(&g).expect("a step");
    let n = norm(&g);
    let found = outcome.grad_norm.expect("a norm");
    assert!((found - n).abs() <= 64.0 * F32 * n, "the norm is {found} and not {n}");
    let factor = 0.5 / (n + 1e-6);
    let close = |found: &Lists| {
        for (i, p) in found.iter().enumerate() {
            for (k, &x) in p.iter().enumerate() {
                let wanted = f64::from(start[i][k]) - f64::from(g[i][k]) * factor;
                let error = (f64::from(x) - wanted).abs();
                assert!(error <= 8.0 * F32 * (1.0 + wanted.abs()), "{k} of {i}: {x}, not {wanted}");
            }
        }
    };
    let params = side.params();
    close(&params);
    assert_eq!(bits(&side.averages().expect("averages")), bits(&params), "after the first step");
    side.step(&g).expect("a step");
    let (params, averages) = (side.params(), side.averages().expect("averages"));
    side.swap().expect("swapped");
    assert_eq!(bits(&side.params()), bits(&averages), "the averages are not swapped in");
    let kept = side.averages().expect("the parameters");
    assert_eq!(bits(&kept), bits(&params), "the parameters are not kept");
    assert_ne!(bits(&params), bits(&averages), "there is nothing to swap");
    side.swap().expect("swapped back");
    // What is skipped counts for nothing, wherever it is cut; what is given counts to its ends.
    let outcome = side.step_of(|name| name != "a").expect("a step");
    let (n, found) = (norm(&g[1..]), outcome.grad_norm.expect("a norm"));
    assert!((found - n).abs() <= 64.0 * F32 * n, "the norm is {found} and not {n}");
    let ends_of_a = [0, 16_319, 16_320, 16_383, 16_384, 48_959, 48_960, 100_000].map(|e| (0, e));
    let ends_of_c = [0, 16_319, 16_320, 16_380, 16_381, 19_999].map(|e| (2, e));
    for (tensor, element) in ends_of_a.into_iter().chain([(1, 0), (1, 2)]).chain(ends_of_c) {
        let mut bad = g.clone();
        bad[tensor][element] = f32::NAN;
        assert!(side.step(&bad).expect("a step").skipped, "{element} of {tensor}");
    }
    assert!(!side.step(&g).expect("a step").skipped, "something is left of a bad gradient");
}

#[test]
fn a_swap_of_a_range_that_cannot_be_copied_is_refused() {
    let Some(gpu) = gate::gpu() else { return };
    let setup = Setup::new().tensor("w", [3]).group(Group::new("all", Sgd::new(0.1)));
    let mut set: GpuForeign =
        wait(setup.average(Average::Ema { decay: 0.5 }).gpu_foreign(gpu)).expect("valid");
    let storage = gpu.device().create_buffer(&wgpu::BufferDescriptor {
        label: None,
        size: 12,
        usage: wgpu::BufferUsages::STORAGE,
        mapped_at_creation: false,
    });
    let grad = spot(gpu, 3);
    let mut encoder = gpu.device().create_command_encoder(&Default::default());
    let mut step = set.begin();
    step.tensor("w", storage.slice(..), grad.slice()).expect("a step needs no copies");
    step.finish(&mut encoder).expect("recorded");
    let error = set.encode_swap(&mut encoder, "w", storage.slice(..)).expect_err("no copies");
    assert!(error.to_string().contains("`w`") && error.to_string().contains("COPY_SRC"), "{error}");
    gpu.queue().submit([encoder.finish()]);
}

#[test]
fn a_device_that_is_lost_is_an_error_of_every_call() {
    let Some(gpu) = &gate::own(Limits::defaults()) else { return };
    let setup = Setup::new().tensor("w", [3]).group(Group::new("all", AdamW::new(0.1)));
    let mut set = wait(setup.gpu_foreign(gpu)).expect("valid");
    let [param, grad] = [(); 2].map(|()| spot(gpu, 3));
    let mut encoder = gpu.device().create_command_encoder(&Default::default());
    let mut step = set.begin();
    step.tensor("w", param.slice(), grad.slice()).expect("it fits");
    step.finish(&mut encoder).expect("recorded");
    gpu.queue().submit([encoder.finish()]);
    let snapshot = wait(set.snapshot()).expect("state");
    gpu.device().destroy();
    let is_lost = |what: &str, error: Option<Error>| {
        let error = error.expect(what);
        assert!(matches!(error, Error::DeviceLost { .. }), "{what}: {error}");
    };
    let mut encoder = gpu.device().create_command_encoder(&Default::default());
    let mut step = set.begin();
    // Bound before: nothing of the device is asked until the step is there.
    step.tensor("w", param.slice(), grad.slice()).expect("it fits");
    is_lost("a step", step.finish(&mut encoder).err());
    is_lost("a release", set.begin_release().err());
    set.forget_buffers();
    is_lost("a binding", set.begin().tensor("w", param.slice(), grad.slice()).err());
    is_lost("a slot", wait(set.read_slot("w", "exp_avg")).err());
    is_lost("a snapshot", wait(set.snapshot()).err());
    is_lost("a restore", set.restore(&snapshot).err());
    is_lost("another set", wait(setup.gpu_foreign(gpu)).err());
    assert_eq!(set.steps(), 1, "failed steps do not count");
}
