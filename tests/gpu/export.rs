//! An exported plan, run by somebody who has wgpu and JSON and knows nothing of this library.

use std::collections::BTreeMap;

use gradstep::export::{Export, Limits};
use gradstep::gpu::wgpu;
use gradstep::optim::{AdamW, Came, Sgd};
use gradstep::{Cpu, Error, Gradients, Group, Layout, LossScale, Schedule, Select, Setup};
use serde_json::Value as Json;

use crate::common::gate;
use crate::common::run::{Number as _, narrow, widen};
use crate::common::table::{Tensor, Values, gradient, optimizers, params, seed_of, small_shapes};
use crate::common::tolerance::{self, F32, What};
use crate::run::{bits, finish, tensor, wait};
use crate::table::gpu_shapes;

fn index(json: &Json) -> usize {
    usize::try_from(json.as_u64().unwrap_or_else(|| panic!("{json} is no index"))).expect("small")
}

fn number(json: &Json) -> f64 {
    match json.as_str() {
        Some("inf") => f64::INFINITY,
        Some("-inf") => f64::NEG_INFINITY,
        Some("nan") => f64::NAN,
        _ => json.as_f64().unwrap_or_else(|| panic!("{json} is no number")),
    }
}

fn single(x: f64) -> f32 {
    f32::of(x)
}

fn list(json: &Json) -> &[Json] {
    json.as_array().unwrap_or_else(|| panic!("{json} is no list"))
}

fn text(json: &Json) -> &str {
    json.as_str().unwrap_or_else(|| panic!("{json} is no text"))
}

/// The constants of step `t`, from the expressions of a plan. `set` replaces hyper-parameters.
fn constants(plan: &Json, t: u64, set: &BTreeMap<String, f64>) -> Vec<f32> {
    let mut out = vec![0.0f32; index(&plan["buffers"][0]["bytes"]) / 4];
    for class in list(&plan["constants"]) {
        let mut values: Vec<f64> = Vec::new();
        for node in list(&class["program"]) {
            let arg = |i: usize| values[index(&node["args"][i])];
            let value = match text(&node["op"]) {
                "literal" => number(&node["value"]),
                "hyper" => {
                    let name = text(&node["name"]);
                    let own = || number(&class["hypers"][name]);
                    set.get(name).copied().unwrap_or_else(own)
                }
                "step" => t as f64,
                "neg" => -arg(0),
                "sqrt" => arg(0).sqrt(),
                "rsqrt" => 1.0 / arg(0).sqrt(),
                "abs" => arg(0).abs(),
                "add" => arg(0) + arg(1),
                "sub" => arg(0) - arg(1),
                "mul" => arg(0) * arg(1),
                "div" => arg(0) / arg(1),
                "pow" => arg(0).powf(arg(1)),
                "min" => arg(0).min(arg(1)),
                "max" => arg(0).max(arg(1)),
                "select" if arg(0) < arg(1) => arg(2),
                "select" => arg(3),
                op => panic!("{op} is not among the constants of any optimizer"),
            };
            values.push(value);
        }
        let first = index(&class["at"]) / 4;
        for (to, word) in out[first..].iter_mut().zip(list(&class["words"])) {
            *to = single(values[index(word)]).clamp(f32::MIN, f32::MAX);
        }
    }
    out
}

fn usage(buffer: &Json) -> wgpu::BufferUsages {
    list(&buffer["usage"]).iter().fold(wgpu::BufferUsages::empty(), |all, name| {
        all | match text(name) {
            "UNIFORM" => wgpu::BufferUsages::UNIFORM,
            "STORAGE" => wgpu::BufferUsages::STORAGE,
            "COPY_SRC" => wgpu::BufferUsages::COPY_SRC,
            "COPY_DST" => wgpu::BufferUsages::COPY_DST,
            other => panic!("{other} is no usage"),
        }
    })
}

/// A plan on a device.
struct Runner<'a> {
    device: &'a wgpu::Device,
    queue: &'a wgpu::Queue,
    plan: Json,
    buffers: Vec<wgpu::Buffer>,
    pipelines: Vec<BTreeMap<String, wgpu::ComputePipeline>>,
    binds: Vec<wgpu::BindGroup>,
    t: u64,
}

impl<'a> Runner<'a> {
    fn new(device: &'a wgpu::Device, queue: &'a wgpu::Queue, plan: Json) -> Self {
        let format = (text(&plan["format"]), index(&plan["version"]));
        assert_eq!(format, ("gradstep plan", 1), "another format");
        let mut buffers = Vec::new();
        for buffer in list(&plan["buffers"]) {
            let given = ["param", "grad"].contains(&text(&buffer["role"]));
            let usage = match given {
                // These are the reader's own.
                true => wgpu::BufferUsages::COPY_SRC | wgpu::BufferUsages::COPY_DST | usage(buffer),
                false => usage(buffer),
            };
            let size = buffer["bytes"].as_u64().expect("a size").max(4);
            let label = Some(text(&buffer["label"]));
            let made = device.create_buffer(&wgpu::BufferDescriptor {
                label,
                size,
                usage,
                mapped_at_creation: false,
            });
            let init = &buffer["init"];
            let mut bytes = vec![0u8; usize::try_from(size).expect("small")];
            let mut put = |at: usize, x: [u8; 4]| bytes[4 * at..4 * at + 4].copy_from_slice(&x);
            if let Some(words) = init["u32"].as_array() {
                for (i, word) in words.iter().enumerate() {
                    put(i, u32::try_from(index(word)).expect("a word").to_le_bytes());
                }
            } else if !init["f32"].is_null() {
                let x = single(number(&init["f32"])).to_le_bytes();
                (0..usize::try_from(size / 4).expect("small")).for_each(|i| put(i, x));
            } else if let Some(runs) = init["runs"].as_array() {
                for run in runs {
                    let x = single(number(&run[2])).to_le_bytes();
                    (0..index(&run[1])).for_each(|i| put(index(&run[0]) + i, x));
                }
            }
            if !init.is_null() {
                queue.write_buffer(&made, 0, &bytes);
            }
            buffers.push(made);
        }
        let (mut pipelines, mut layouts) = (Vec::new(), Vec::new());
        for module in list(&plan["modules"]) {
            let entries: Vec<_> = list(&module["bindings"])
                .iter()
                .map(|b| wgpu::BindGroupLayoutEntry {
                    binding: u32::try_from(index(&b["binding"])).expect("small"),
                    visibility: wgpu::ShaderStages::COMPUTE,
                    ty: wgpu::BindingType::Buffer {
                        ty: match text(&b["type"]) {
                            "uniform" => wgpu::BufferBindingType::Uniform,
                            "storage" => wgpu::BufferBindingType::Storage { read_only: false },
                            "read-only-storage" => {
                                wgpu::BufferBindingType::Storage { read_only: true }
                            }
                            other => panic!("{other} is no type of binding"),
                        },
                        has_dynamic_offset: false,
                        min_binding_size: None,
                    },
                    count: None,
                })
                .collect();
            let layout = device.create_bind_group_layout(&wgpu::BindGroupLayoutDescriptor {
                label: None,
                entries: &entries,
            });
            let of_pipelines = device.create_pipeline_layout(&wgpu::PipelineLayoutDescriptor {
                label: None,
                bind_group_layouts: &[Some(&layout)],
                immediate_size: 0,
            });
            let source = wgpu::ShaderSource::Wgsl(text(&module["code"]).into());
            let shader =
                device.create_shader_module(wgpu::ShaderModuleDescriptor { label: None, source });
            let m = pipelines.len() as u64;
            let mut of_module = BTreeMap::new();
            for command in list(&plan["step"]) {
                let dispatch = &command["dispatch"];
                if dispatch["module"].as_u64() == Some(m) {
                    let entry = text(&dispatch["entry"]);
                    of_module.entry(entry.to_string()).or_insert_with(|| {
                        device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
                            label: Some(entry),
                            layout: Some(&of_pipelines),
                            module: &shader,
                            entry_point: Some(entry),
                            compilation_options: Default::default(),
                            cache: None,
                        })
                    });
                }
            }
            pipelines.push(of_module);
            layouts.push(layout);
        }
        let binds = list(&plan["binds"]).iter().map(|bind| {
            let entries: Vec<_> = list(&bind["entries"])
                .iter()
                .map(|e| wgpu::BindGroupEntry {
                    binding: u32::try_from(index(&e["binding"])).expect("small"),
                    resource: wgpu::BindingResource::Buffer(wgpu::BufferBinding {
                        buffer: &buffers[index(&e["buffer"])],
                        offset: e["offset"].as_u64().expect("an offset"),
                        size: std::num::NonZeroU64::new(e["size"].as_u64().expect("a size")),
                    }),
                })
                .collect();
            device.create_bind_group(&wgpu::BindGroupDescriptor {
                label: None,
                layout: &layouts[index(&bind["module"])],
                entries: &entries,
            })
        });
        let binds = binds.collect();
        Self { device, queue, plan, buffers, pipelines, binds, t: 0 }
    }

    fn step(&mut self, set: &BTreeMap<String, f64>) {
        self.t += 1;
        let words = constants(&self.plan, self.t, set);
        self.queue.write_buffer(&self.buffers[0], 0, &crate::run::bytes(&words));
        let mut encoder = self.device.create_command_encoder(&Default::default());
        for command in list(&self.plan["step"]) {
            let (dispatch, copy) = (&command["dispatch"], &command["copy"]);
            if copy.is_null() {
                let mut pass = encoder.begin_compute_pass(&Default::default());
                let pipelines = &self.pipelines[index(&dispatch["module"])];
                pass.set_pipeline(&pipelines[text(&dispatch["entry"])]);
                pass.set_bind_group(0, &self.binds[index(&dispatch["bind"])], &[]);
                let groups = |i: usize| u32::try_from(index(&dispatch["groups"][i])).expect("u32");
                pass.dispatch_workgroups(groups(0), groups(1), 1);
            } else {
                let at = |name: &str| copy[name].as_u64().expect("bytes");
                encoder.copy_buffer_to_buffer(
                    &self.buffers[index(&copy["from"])],
                    at("from_offset"),
                    &self.buffers[index(&copy["to"])],
                    at("to_offset"),
                    at("size"),
                );
            }
        }
        self.queue.submit([encoder.finish()]);
    }

    fn write(&self, buffer: &Json, values: &[f32]) {
        self.queue.write_buffer(&self.buffers[index(buffer)], 0, &crate::run::bytes(values));
    }

    /// Elements of a buffer.
    fn read(&self, buffer: usize, at: usize, n: usize) -> Vec<f32> {
        if n == 0 {
            return Vec::new();
        }
        let size = n as u64 * 4;
        let staging = self.device.create_buffer(&wgpu::BufferDescriptor {
            label: None,
            size,
            usage: wgpu::BufferUsages::COPY_DST | wgpu::BufferUsages::MAP_READ,
            mapped_at_creation: false,
        });
        let mut encoder = self.device.create_command_encoder(&Default::default());
        encoder.copy_buffer_to_buffer(&self.buffers[buffer], at as u64 * 4, &staging, 0, size);
        self.queue.submit([encoder.finish()]);
        staging.map_async(wgpu::MapMode::Read, .., |mapped| mapped.expect("mapped"));
        self.device.poll(wgpu::PollType::wait_indefinitely()).expect("the device answers");
        let view = staging.get_mapped_range(..).expect("mapped");
        view.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect()
    }

    fn slot(&self, slot: &Json) -> Vec<f32> {
        let n = list(&slot["shape"]).iter().map(index).product();
        let mut out = vec![0.0; n];
        for place in list(&slot["places"]) {
            let (from, upto) = (index(&place["elements"][0]), index(&place["elements"][1]));
            let (buffer, at) = (index(&place["buffer"]), index(&place["offset"]) / 4);
            out[from..upto].copy_from_slice(&self.read(buffer, at, upto - from));
        }
        out
    }
}

fn limits(device: &wgpu::Device) -> Limits {
    let limits = device.limits();
    Limits {
        max_storage_buffer_binding_size: limits
            .max_storage_buffer_binding_size
            .min(limits.max_buffer_size),
        max_storage_buffers_per_shader_stage: limits.max_storage_buffers_per_shader_stage,
        max_compute_workgroups_per_dimension: limits.max_compute_workgroups_per_dimension,
        min_storage_buffer_offset_alignment: limits.min_storage_buffer_offset_alignment,
    }
}

fn named(setup: Setup, tensors: &[Tensor]) -> Setup {
    let with =
        |s: Setup, (i, t): (usize, &Tensor)| s.tensor_with(i.to_string(), &t.shape, t.layout);
    tensors.iter().enumerate().fold(setup, with)
}

/// Steps a setup by its exported plan and on the CPU, and compares parameters and state. `set` are
/// hyper-parameters that schedules set at a step; `spoil` changes gradients.
#[allow(clippy::too_many_arguments, reason = "each is one thing that callers vary")]
fn follows(
    name: &str,
    setup: &Setup,
    tensors: &[Tensor],
    export: impl Fn(&Setup) -> Export,
    steps: u64,
    (test, values): (&str, Values),
    set: impl Fn(u64) -> BTreeMap<String, f64>,
    spoil: impl Fn(u64, usize, &mut Vec<f32>),
) {
    let Some(gpu) = gate::gpu() else { return };
    let mut export = export(setup);
    let mut runner = Runner::new(gpu.device(), gpu.queue(), export.json());
    let mut cpu = setup.cpu::<f32>(&Cpu::single_threaded()).expect("a valid setup");
    let seed = seed_of(name);
    let start: Vec<_> = tensors
        .iter()
        .enumerate()
        .map(|(i, t)| narrow::<f32>(&params(seed + i as u64, t.shape.iter().product())))
        .collect();
    let plan = runner.plan.clone();
    for (i, start) in start.iter().enumerate() {
        runner.write(&plan["tensors"][i]["param"], start);
    }
    let mut wanted = start.clone();
    let mut moved = vec![0.0; tensors.len()];
    let mut sizes = BTreeMap::new();
    for t in 1..=steps {
        let mut grads = Vec::new();
        for (i, tensor) in tensors.iter().enumerate() {
            let mut g = narrow::<f32>(&gradient(values, seed + i as u64, t, &tensor.shape));
            spoil(t, i, &mut g);
            runner.write(&plan["tensors"][i]["grad"], &g);
            grads.push(g);
        }
        let set = set(t);
        let own = constants(&plan, t, &set);
        let close = |(a, b): (&f32, &f32)| (a - b).abs() <= b.abs() * 1e-6;
        let words = export.begin_step().expect("a valid step");
        assert!(own.iter().zip(words).all(close), "{name}: the constants of step {t} differ");
        runner.step(&set);
        let mut step = cpu.begin();
        for (i, (w, g)) in wanted.iter_mut().zip(&grads).enumerate() {
            step.tensor(i.to_string().as_str(), w, g).expect("lent");
        }
        step.finish().expect("a valid step");
        let look = [1, 2, 7, steps].contains(&t);
        for (i, tensor) in tensors.iter().enumerate() {
            let what = What { case: name, shape: &tensor.shape, seed, step: t, test };
            let json = &plan["tensors"][i];
            let n = wanted[i].len();
            // Where nothing is read, equal values keep count of the greatest displacement.
            let found =
                if look { runner.read(index(&json["param"]), 0, n) } else { wanted[i].clone() };
            let [start, found, wanted] = [&start[i], &found, &wanted[i]].map(|x| widen(x));
            tolerance::check(tolerance::GPU, F32, &what, &mut moved[i], &start, &found, &wanted);
            for slot in list(&json["slots"]) {
                let slot_name = text(&slot["name"]);
                let wanted = cpu.slot(i.to_string().as_str(), slot_name).expect("a slot");
                let found = if look && n > 0 { runner.slot(slot) } else { wanted.clone() };
                let [found, wanted] = [&found, &wanted].map(|x| widen(x));
                let size = sizes.entry((i, slot_name)).or_insert(0.0);
                tolerance::check_slot(tolerance::GPU, F32, &what, slot_name, size, &found, &wanted);
            }
        }
    }
    finish(gpu);
}

fn whole(setup: &Setup) -> Export {
    let Some(gpu) = gate::gpu() else { unreachable!("asked before") };
    setup.export(limits(gpu.device())).expect("a valid setup")
}

fn nothing(_: u64) -> BTreeMap<String, f64> {
    BTreeMap::new()
}

fn unspoiled(_: u64, _: usize, _: &mut Vec<f32>) {}

fn every_optimizer(tensors: &[Tensor], steps: u64, values: Values, test: &str) {
    for case in optimizers() {
        let name = format!("export {} {values:?}", case.name);
        let setup = named(Setup::new(), tensors).group(Group::new("all", case.optimizer));
        follows(&name, &setup, tensors, whole, steps, (test, values), nothing, unspoiled);
    }
}

#[test]
fn an_exported_plan_of_every_optimizer_equals_the_cpu_on_small_tensors() {
    let test = "an_exported_plan_of_every_optimizer_equals_the_cpu_on_small_tensors";
    every_optimizer(&small_shapes(), 12, Values::Mixed, test);
}

#[test]
fn an_exported_plan_of_every_optimizer_equals_the_cpu_on_every_way_of_cutting() {
    let test = "an_exported_plan_of_every_optimizer_equals_the_cpu_on_every_way_of_cutting";
    every_optimizer(&gpu_shapes(), 6, Values::IdleRows, test);
}

/// Two optimizers, a schedule, a factor, a mask, clipping, the test for finite gradients.
fn rich(tensors: &[Tensor], loss_scale: LossScale) -> Setup {
    let lr = Schedule::cosine(2e-3, 1e-4, 10).expect("valid");
    let came = Came::new(1e-3).with_weight_decay(0.1);
    let masked = Select::test("it is `0`", |t| t.name == "0");
    let matrices = Group::new("matrices", came).of(Select::rank(2..)).without_decay(masked);
    let adamw = AdamW::new(1e-3).with_weight_decay(0.01);
    let mut gradients = Gradients::new().clip_norm(3.0).clip_value(2.0).check_finite();
    gradients.loss_scale = loss_scale;
    named(Setup::new(), tensors)
        .group(matrices.schedule("lr", lr.clone()))
        .group(Group::new("others", adamw).schedule("lr", lr))
        .gradients(gradients)
}

fn rich_tensors() -> Vec<Tensor> {
    [&[6, 5][..], &[70], &[300, 9], &[0, 3], &[2, 16_385], &[]]
        .map(|shape| tensor(shape, Layout::Auto))
        .to_vec()
}

#[test]
fn an_exported_plan_clips_skips_and_follows_schedules_as_the_cpu_does() {
    let test = "an_exported_plan_clips_skips_and_follows_schedules_as_the_cpu_does";
    let tensors = rich_tensors();
    let lr = Schedule::cosine(2e-3, 1e-4, 10).expect("valid");
    let set = |t: u64| BTreeMap::from([("lr".to_string(), lr.at(t - 1))]);
    let spoil = |t: u64, i: usize, g: &mut Vec<f32>| {
        if t % 4 == 3 && i == 2 {
            g[1000] = f32::INFINITY;
        }
    };
    for (name, scale) in [
        ("export plain", LossScale::None),
        ("export fixed", LossScale::Fixed(8.0)),
        (
            "export dynamic",
            LossScale::Dynamic { initial: 16.0, growth: 2.0, backoff: 0.5, interval: 2 },
        ),
    ] {
        let setup = rich(&tensors, scale);
        follows(name, &setup, &tensors, whole, 12, (test, Values::Normal), set, spoil);
    }
}

#[test]
fn an_exported_plan_of_tensors_larger_than_a_binding_equals_the_cpu() {
    let test = "an_exported_plan_of_tensors_larger_than_a_binding_equals_the_cpu";
    let Some(gpu) = gate::gpu() else { return };
    let small = |setup: &Setup| {
        let mut limits = limits(gpu.device());
        limits.max_storage_buffer_binding_size = 256 << 10;
        limits.max_compute_workgroups_per_dimension = 3;
        setup.export(limits).expect("a valid setup")
    };
    let tensors: Vec<_> =
        [&[140_001][..], &[700, 101], &[33]].map(|shape| tensor(shape, Layout::Auto)).to_vec();
    for case in optimizers() {
        let name = format!("export cut {}", case.name);
        let setup = named(Setup::new(), &tensors)
            .group(Group::new("all", case.optimizer))
            .gradients(Gradients::new().clip_norm(5.0));
        follows(&name, &setup, &tensors, small, 4, (test, Values::Normal), nothing, unspoiled);
    }
}

#[test]
fn the_guard_of_an_exported_plan_takes_a_dispatch_for_six_gradients_and_one_for_all() {
    for n in 1..=20usize {
        let tensors = vec![tensor(&[3, 5], Layout::Auto); n];
        let setup = named(Setup::new(), &tensors).group(Group::new("all", AdamW::new(1e-3)));
        let steps = |setup: &Setup| {
            let export = setup.export(Limits::default()).expect("a valid setup");
            list(&export.json()["step"]).to_vec()
        };
        let free = steps(&setup).len();
        let guarded = steps(&setup.gradients(Gradients::new().clip_norm(1.0)));
        let dispatches = guarded.iter().filter(|c| !c["dispatch"].is_null()).count();
        assert_eq!(dispatches - free, 1 + n.div_ceil(6), "{n} tensors");
    }
}

#[test]
fn state_of_an_exported_plan_moves_to_the_backend_and_back() {
    let Some(gpu) = gate::gpu() else { return };
    let tensors = rich_tensors();
    let setup = rich(&tensors, LossScale::dynamic());
    let mut export = whole(&setup);
    let mut runner = Runner::new(gpu.device(), gpu.queue(), export.json());
    let plan = runner.plan.clone();
    let grads = |t: u64, i: usize| {
        let g = gradient(Values::Normal, 5 + i as u64, t, &tensors[i].shape);
        narrow::<f32>(&g).iter().map(|x| x * 1e3).collect::<Vec<_>>()
    };
    let lr = Schedule::cosine(2e-3, 1e-4, 10).expect("valid");
    let step = |export: &mut Export, runner: &mut Runner<'_>, t: u64| {
        for i in 0..tensors.len() {
            runner.write(&plan["tensors"][i]["grad"], &grads(t, i));
        }
        export.begin_step().expect("a step");
        runner.step(&BTreeMap::from([("lr".to_string(), lr.at(t - 1))]));
    };
    for t in 1..=3 {
        step(&mut export, &mut runner, t);
    }
    let buffers: Vec<_> = export.state_buffers().collect();
    let snapshot = export.snapshot(|buffer, range| {
        assert!(buffers.contains(&buffer), "{buffer} is not among those to read");
        runner.read(buffer, range.start, range.len())
    });
    assert_eq!(snapshot.step, 3, "the steps are counted");
    assert!(snapshot.numbers["loss_scale"] > 0.0, "{:?}", snapshot.numbers);
    // What comes out is what the backend and the CPU take …
    let mut backend = wait(setup.gpu(gpu)).expect("a valid setup");
    backend.restore(&snapshot).expect("the same state");
    let again = wait(backend.snapshot()).expect("read");
    // (Not the learning rate, which a schedule sets in each step.)
    assert_eq!((again.step, &again.numbers), (snapshot.step, &snapshot.numbers), "state of all");
    assert!(again.tensors == snapshot.tensors, "something was lost");
    let mut cpu = setup.cpu::<f32>(&Cpu::default()).expect("a valid setup");
    cpu.restore(&snapshot).expect("the same state");
    // … and what goes in is what came out, bit for bit.
    step(&mut export, &mut runner, 4);
    let after = |runner: &Runner<'_>, i: usize| {
        let n = tensors[i].shape.iter().product();
        bits(&runner.read(index(&plan["tensors"][i]["param"]), 0, n))
    };
    let wanted: Vec<_> = (0..tensors.len()).map(|i| after(&runner, i)).collect();
    export
        .restore(&snapshot, |buffer, at, values| {
            let to = &runner.buffers[buffer];
            gpu.queue().write_buffer(to, at as u64 * 4, &crate::run::bytes(values));
        })
        .expect("the same state");
    runner.t = export.steps();
    step(&mut export, &mut runner, 4);
    for (i, wanted) in wanted.iter().enumerate() {
        assert_eq!(after(&runner, i), *wanted, "tensor {i}");
    }
}

#[test]
fn what_a_plan_does_not_have_is_refused() {
    let setup = || Setup::new().tensor("w", [4]).group(Group::new("all", Sgd::new(0.1)));
    for (setup, what) in [
        (setup().average(gradstep::Average::Ema { decay: 0.9 }), "averages"),
        (setup().accumulate(gradstep::Accumulation::Mean), "sums of gradients"),
        (setup().watch(), "statistics"),
        (setup().missing(gradstep::Missing::Skip), "steps without some of the tensors"),
    ] {
        let error = setup.export(Limits::default()).expect_err("refused");
        assert!(error.to_string().starts_with(what), "{error}");
    }
    let few = Limits { max_storage_buffers_per_shader_stage: 4, ..Limits::default() };
    let setup = Setup::new().tensor("w", [4]).group(Group::new("all", AdamW::new(0.1)));
    assert!(matches!(setup.export(few), Err(Error::GpuLimit { .. })), "too few buffers");
    // A frozen tensor has a name and nothing else.
    let frozen = Setup::new().tensor("w", [4]).group(Group::frozen("all"));
    let plan = frozen.export(Limits::default()).expect("valid").json();
    assert_eq!(plan["tensors"][0], serde_json::json!({"name": "w", "shape": [4], "group": "all"}));
    assert_eq!(plan["step"], serde_json::json!([]), "nothing to do");
}
