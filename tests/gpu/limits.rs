//! Tensors and numbers of tensors beyond what one binding or one dispatch holds.

use gradstep::gpu::wgpu::{self, Limits};
use gradstep::gpu::{Arena, Gpu};
use gradstep::optim::{Adafactor, AdamW, Came, Sgd};
use gradstep::value::{Interpreter, Step};
use gradstep::{Definition, Error, Layout, Levels, Optimizer};

use crate::common::gate;
use crate::common::plain::Plain;
use crate::common::table::{Any, Tensor, Values, seed_of};
use crate::run::{Run, bits, bytes, read, step, submit, tensor, wait};

fn run(name: &str, tensors: Vec<Tensor>, steps: u64, test: &'static str) -> Run {
    let name = name.to_string();
    Run { seed: seed_of(&name), name, tensors, values: Values::Normal, steps, test }
}

/// A device whose buffers and bindings hold so many bytes.
fn small(bytes: u64) -> Option<Gpu> {
    gate::own(Limits {
        max_storage_buffer_binding_size: bytes,
        max_buffer_size: bytes,
        ..Limits::defaults()
    })
}

#[test]
fn seventy_thousand_matrices_in_one_tensor_equal_the_cpu() {
    let Some(gpu) = gate::gpu() else { return };
    let test = "seventy_thousand_matrices_in_one_tensor_equal_the_cpu";
    for optimizer in [Any::new(Came::new(1e-3)), Any::new(Adafactor::torch())] {
        let run = run("a batch", vec![tensor(&[70_000, 2, 3], Layout::LastTwo)], 2, test);
        run.check(gpu, || optimizer.clone(), |_, _| {});
    }
}

/// Writes one of seven vectors of three elements to each tensor of an arena, all at once.
fn fill(gpu: &Gpu, arena: &Arena<Came>, seven: &[Vec<f32>], grad: bool) {
    let regions = |i| if grad { arena.grad(i) } else { arena.param(i) }.expect("a tensor");
    let mut values: Vec<f32> = Vec::new();
    for i in 0..arena.len() {
        values.resize(usize::try_from(regions(i)[0].offset / 4).expect("small"), 0.0);
        values.extend(&seven[i % 7]);
    }
    gpu.queue().write_buffer(regions(0)[0].buffer, 0, &bytes(&values));
}

#[test]
fn seventy_thousand_tensors_step_as_one_does() {
    let Some(gpu) = gate::gpu() else { return };
    let test = "seventy_thousand_tensors_step_as_one_does";
    let seven = run("one of seven", vec![tensor(&[3], Layout::Auto); 7], 2, test);
    let mut few = seven.arena(gpu, Came::new(1e-3));
    let mut arena = wait(gpu.arena(Came::new(1e-3), &vec![[3]; 70_000])).expect("valid");
    let all = |of: &dyn Fn(usize) -> Vec<f32>| (0..7).map(of).collect::<Vec<_>>();
    fill(gpu, &arena, &all(&|i| seven.start(i)), false);
    for t in 1..=seven.steps {
        seven.step(gpu, &mut few, t);
        fill(gpu, &arena, &all(&|i| seven.gradient(i, t)), true);
        step(gpu, &mut arena);
    }
    assert_eq!(arena.dispatches(), few.dispatches(), "dispatches");
    let wanted = all(&|i| wait(few.read_param(i)).expect("read"));
    let found = read(gpu, arena.param(0).expect("a tensor")[0].buffer);
    for i in 0..arena.len() {
        let at = arena.param(i).expect("a tensor")[0].offset / 4;
        let at = usize::try_from(at).expect("small");
        assert_eq!(bits(&found[at..at + 3]), bits(&wanted[i % 7]), "tensor {i}");
    }
}

#[test]
fn dispatches_are_folded_where_a_dimension_is_full() {
    let limits = Limits { max_compute_workgroups_per_dimension: 100, ..Limits::defaults() };
    let Some(gpu) = gate::own(limits) else { return };
    let test = "dispatches_are_folded_where_a_dimension_is_full";
    for optimizer in [Any::new(Came::new(1e-3)), Any::new(Adafactor::torch())] {
        // Prime numbers of tiles and tensors, so that the last row of workgroups is not full; sums
        // of column sums as well.
        let mut tensors = vec![tensor(&[3], Layout::Auto); 211];
        tensors.extend(vec![tensor(&[2, 3], Layout::Auto); 307]);
        tensors.push(tensor(&[1009, 2, 3], Layout::LastTwo));
        tensors.push(tensor(&[16_001, 2], Layout::Auto));
        tensors.push(tensor(&[20, 300, 300], Layout::LastTwo));
        run("folded", tensors, 3, test).check(&gpu, || optimizer.clone(), |_, _| {});
    }
}

#[test]
fn tensors_larger_than_a_binding_equal_the_cpu() {
    let Some(gpu) = small(1 << 21) else { return };
    let test = "tensors_larger_than_a_binding_equal_the_cpu";
    // In groups whose statistics fit one binding.
    let (auto, last_two) = (Layout::Auto, Layout::LastTwo);
    let groups = [
        vec![tensor(&[600_000], auto), tensor(&[1100, 500], auto), tensor(&[30, 10], auto)],
        vec![tensor(&[31, 17_000], auto)],
        vec![tensor(&[3, 400, 450], last_two), tensor(&[100], auto), tensor(&[5, 7], auto)],
        vec![tensor(&[33, 16_300], auto)],
        vec![tensor(&[6600, 80], auto)],
    ];
    for optimizer in
        [Any::new(AdamW::new(1e-3)), Any::new(Came::new(1e-3)), Any::new(Adafactor::torch())]
    {
        for tensors in &groups {
            let run = run("in chunks", tensors.clone(), 3, test);
            let several = |i| run.arena(&gpu, optimizer.clone()).param(i).expect("known").len() > 1;
            assert!((0..tensors.len()).any(several), "{tensors:?} need several bindings");
            run.check(&gpu, || optimizer.clone(), |_, _| {});
        }
    }
}

#[test]
fn tensors_of_the_caller_larger_than_a_binding_equal_those_of_an_arena() {
    // Buffers may be large here; what is bound of them may not.
    let limits = Limits { max_storage_buffer_binding_size: 1 << 18, ..Limits::defaults() };
    let Some(gpu) = &gate::own(limits) else { return };
    let test = "tensors_of_the_caller_larger_than_a_binding_equal_those_of_an_arena";
    let run = run("in chunks", vec![tensor(&[700, 300], Layout::Auto)], 3, test);
    let n = 700 * 300;
    let buffer = |elements: usize| {
        gpu.device().create_buffer(&wgpu::BufferDescriptor {
            label: Some("the caller's"),
            size: (elements * 4) as u64,
            usage: wgpu::BufferUsages::STORAGE
                | wgpu::BufferUsages::COPY_DST
                | wgpu::BufferUsages::COPY_SRC,
            mapped_at_creation: false,
        })
    };
    let mut arena = run.arena(gpu, Came::new(1e-3));
    assert!(arena.param(0).expect("a tensor").len() > 3, "several regions");
    let mut foreign = wait(gpu.foreign(Came::new(1e-3), &[[700, 300]])).expect("valid");
    let (p, g) = (buffer(n + 7), buffer(n + 8));
    gpu.queue().write_buffer(&p, 16, &bytes(&run.start(0)));
    let slices = || (p.slice(16..16 + 4 * n as u64), g.slice(32..32 + 4 * n as u64));
    for t in 1..=run.steps {
        run.step(gpu, &mut arena, t);
        gpu.queue().write_buffer(&g, 32, &bytes(&run.gradient(0, t)));
        submit(gpu, |e| foreign.encode(e, &[slices()])).expect("a valid step");
    }
    let found = read(gpu, &p);
    let wanted = wait(arena.read_param(0)).expect("read");
    // Chunks end elsewhere, since a range may begin between two places that can be bound.
    assert_eq!(bits(&found[4..4 + n]), bits(&wanted), "parameters");
    assert_eq!((&found[..4], &found[4 + n..]), (&[0.0; 4][..], &[0.0; 3][..]), "neighbours");

    // In one buffer, a binding must hold the way from one to the other.
    let both = buffer(2 * n);
    let halves = (both.slice(..4 * n as u64), both.slice(4 * n as u64..));
    let error = submit(gpu, |e| foreign.encode(e, &[halves])).expect_err("too far apart");
    assert!(matches!(error, Error::GpuLimit { .. }), "{error}");
    for word in ["tensor 0", "maxStorageBufferBindingSize", "closer"] {
        assert!(error.to_string().contains(word), "{error}");
    }
    assert_eq!(foreign.steps(), run.steps, "it does not count");
}

/// Statistics of rows only, so that a row may be longer than a binding.
struct RowNorm;

impl Definition for RowNorm {
    const NAME: &'static str = "row_norm";
    const LEVELS: Levels = Levels::factored(2, 2);
    #[inline(always)]
    fn step<I: Interpreter>(s: Step<'_, I>) {
        let (g, w) = (s.grad(), s.param());
        let r = s.rows("r").set(g.square().row_mean());
        s.set_param(w - g * (r + 1e-12).rsqrt() * 0.01);
    }
}

#[test]
fn rows_longer_than_a_binding_equal_the_cpu() {
    let Some(gpu) = small(1 << 16) else { return };
    let test = "rows_longer_than_a_binding_equal_the_cpu";
    let tensors = vec![
        tensor(&[3, 20_000], Layout::Auto),
        tensor(&[2, 5], Layout::Auto),
        tensor(&[2, 2, 40_001], Layout::LastTwo),
        tensor(&[200, 100], Layout::Auto),
        // Few of these rows fit a binding.
        tensor(&[40, 3000], Layout::Auto),
    ];
    run("long rows", tensors, 3, test).check(&gpu, || Plain::<RowNorm>::new(&[]), |_, _| {});
}

#[test]
fn statistics_that_do_not_fit_a_binding_are_refused() {
    let Some(gpu) = small(1 << 16) else { return };
    for error in [
        wait(gpu.arena(Came::new(1e-3), &[[3, 20_000]])).map(drop).expect_err("long rows"),
        wait(gpu.foreign(Came::new(1e-3), &[[20_000, 3]])).map(drop).expect_err("many rows"),
        wait(gpu.arena(Came::new(1e-3), &vec![[300, 300]; 99])).map(drop).expect_err("many"),
    ] {
        assert!(matches!(error, Error::GpuLimit { available: 65_536, .. }), "{error}");
        for word in ["came", "statistics", "maxStorageBufferBindingSize", "split"] {
            assert!(error.to_string().contains(word), "{error}");
        }
    }
    let error = wait(gpu.arena(Sgd::new(0.1), &vec![[1]; 3000])).expect_err("a long list");
    assert!(matches!(error, Error::GpuLimit { .. }), "{error}");
    assert!(error.to_string().contains("work list"), "{error}");
}

/// More state of the parameter's size than can be bound.
struct FiveSlots;

impl Definition for FiveSlots {
    const NAME: &'static str = "five_slots";
    const LEVELS: Levels = Levels::flat(1);
    #[inline(always)]
    fn step<I: Interpreter>(s: Step<'_, I>) {
        let mut x = s.grad();
        for name in ["first", "second", "third", "fourth", "fifth"] {
            let slot = s.full(name);
            x = slot.set(slot.old() * 0.5 + x);
        }
        s.set_param(s.param() - x * 0.01);
    }
}

#[test]
fn more_full_size_slots_than_bindings_are_refused_by_name() {
    let Some(gpu) = gate::gpu() else { return };
    let five = || Plain::<FiveSlots>::new(&[]);
    let error = wait(gpu.arena(five(), &[[7]])).expect_err("nine buffers");
    assert!(matches!(error, Error::GpuLimit { needed: 9, available: 8, .. }), "{error}");
    for word in ["five_slots", "first, second, third, fourth, fifth", "PerShaderStage"] {
        assert!(error.to_string().contains(word), "{error}");
    }
    assert!(wait(gpu.foreign(five(), &[[7]])).is_err(), "foreign");
    // A device that has more takes it.
    let more = Limits { max_storage_buffers_per_shader_stage: 9, ..Limits::defaults() };
    let Ok(gpu) = wait(Gpu::open_with(more)) else { return };
    let test = "more_full_size_slots_than_bindings_are_refused_by_name";
    run("five slots", vec![tensor(&[67], Layout::Auto)], 5, test).check(&gpu, five, |_, _| {});
}

#[test]
fn a_device_with_too_little_is_refused_when_it_is_given() {
    let limits = [
        Limits { max_compute_invocations_per_workgroup: 128, ..Limits::defaults() },
        Limits { max_compute_workgroup_size_x: 128, ..Limits::defaults() },
        Limits { max_compute_workgroup_storage_size: 8192, ..Limits::defaults() },
        Limits { max_storage_buffers_per_shader_stage: 4, ..Limits::defaults() },
    ];
    if gate::gpu().is_none() {
        return;
    }
    for limits in limits {
        let error = wait(Gpu::open_with(limits)).expect_err("too little");
        assert!(matches!(error, Error::GpuLimit { .. }), "{error}");
        assert!(error.to_string().contains("default limits"), "{error}");
    }
}

#[test]
fn an_adapter_that_cannot_is_named_in_the_error() {
    if gate::gpu().is_none() {
        return;
    }
    let limits = Limits { max_compute_workgroup_size_x: u32::MAX, ..Limits::defaults() };
    let error = wait(Gpu::open_with(limits)).expect_err("nothing has that");
    assert!(matches!(error, Error::NoAdapter { .. }), "{error}");
    assert!(error.to_string().contains("max_compute_workgroup_size_x"), "{error}");
}

#[test]
fn what_runs_on_the_callers_device_is_the_same() {
    let Some(shared) = gate::gpu() else { return };
    let gpu = Gpu::new(shared.device(), shared.queue()).expect("alive");
    assert!(gpu.device() == shared.device(), "the device it was given");
    let optimizer = || Came::new(1e-3);
    assert!(optimizer().check().is_ok(), "valid");
    let run = run("given", vec![tensor(&[5, 18], Layout::Auto)], 3, "what_runs");
    let once = |gpu: &Gpu| {
        let mut arena = run.arena(gpu, optimizer());
        (1..=run.steps).for_each(|t| run.step(gpu, &mut arena, t));
        run.everything(&arena)
    };
    assert_eq!(once(&gpu), once(shared), "bits");
}
