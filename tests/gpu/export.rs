//! An exported plan, run by somebody who has wgpu and JSON and knows nothing of this library.

use std::collections::BTreeMap;

use gradstep::export::{Export, Limits};
use gradstep::gpu::wgpu;
use gradstep::optim::{AdamW, Came, Sgd};
use gradstep::{
    Accumulation, Average, Cpu, Error, Gradients, Group, Layout, LossScale, Schedule, Select, Setup,
};
use serde_json::Value as Json;

use crate::common::gate;
#[cfg(feature = "reference")]
use crate::common::golden::{Start, Stepper, follow_all};
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

/// The constants of step `t` after `n` micro-batches, and of the last of these, from the expressions of a
/// plan. `set` replaces hyper-parameters.
fn constants(plan: &Json, t: u64, set: &BTreeMap<String, f64>, n: u32) -> Vec<f32> {
    let mean = plan["accumulate"]["kind"] == "mean";
    let divisor = if mean { f64::from(n) } else { 1.0 };
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
                    match name {
                        "first" => f64::from(n == 1),
                        "micro" => divisor,
                        "grad_min" | "grad_max" => own() * divisor,
                        "grad_scale" => own() / divisor,
                        _ => set.get(name).copied().unwrap_or_else(own),
                    }
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
            let lists = [
                &plan["step"],
                &plan["accumulate"]["micro"],
                &plan["average"]["follow"],
                &plan["average"]["swap"],
            ];
            let commands = lists.into_iter().filter(|l| !l.is_null()).flat_map(list);
            for command in commands {
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
        self.batch(set, 1, true);
    }

    /// The `n`-th micro-batch since the last step, and after the `last` one a step.
    fn batch(&mut self, set: &BTreeMap<String, f64>, n: u32, last: bool) {
        let t = self.t + 1;
        let mut lists = Vec::new();
        if !self.plan["accumulate"].is_null() {
            lists.push(&self.plan["accumulate"]["micro"]);
        }
        if last {
            self.t = t;
            lists.push(&self.plan["step"]);
            let average = &self.plan["average"];
            if average["from"].as_u64().is_some_and(|from| t >= from) {
                lists.push(&average["follow"]);
            }
        }
        self.run(&constants(&self.plan, t, set, n), &lists);
    }

    /// Does what lists of the plan say, with these constants.
    fn run(&self, words: &[f32], lists: &[&Json]) {
        self.queue.write_buffer(&self.buffers[0], 0, &crate::run::bytes(words));
        let mut encoder = self.device.create_command_encoder(&Default::default());
        for command in lists.iter().copied().flat_map(list) {
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

    /// A slot of a tensor.
    fn named(&self, tensor: usize, name: &str) -> Vec<f32> {
        let slots = list(&self.plan["tensors"][tensor]["slots"]);
        let slot = slots.iter().find(|s| text(&s["name"]) == name);
        self.slot(slot.unwrap_or_else(|| panic!("tensor {tensor} has no {name}")))
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

/// Steps a setup by its exported plan and on the CPU, and compares parameters, averages and state. `set`
/// are hyper-parameters that schedules set at a step; `spoil` changes gradients. Where gradients are
/// accumulated, steps take one, two and three micro-batches in turn.
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
    let accumulates = !plan["accumulate"].is_null();
    for t in 1..=steps {
        let set = set(t);
        let batches = if accumulates { 1 + u32::try_from(t % 3).expect("small") } else { 1 };
        let mut grads = Vec::new();
        for n in 1..=batches {
            grads.clear();
            for (i, tensor) in tensors.iter().enumerate() {
                let seed = seed + i as u64 + 1000 * u64::from(n - 1);
                let mut g = narrow::<f32>(&gradient(values, seed, t, &tensor.shape));
                spoil(t, i, &mut g);
                runner.write(&plan["tensors"][i]["grad"], &g);
                if accumulates {
                    cpu.accumulate(i.to_string().as_str(), &g).expect("added up");
                }
                grads.push(g);
            }
            let last = n == batches;
            let own = constants(&plan, t, &set, n);
            let close = |(a, b): (&f32, &f32)| (a - b).abs() <= b.abs() * 1e-6;
            let words = match accumulates {
                true => export.begin_micro(last),
                false => export.begin_step(),
            };
            let words = words.expect("a valid step");
            // Those of what swaps averages are not there yet.
            let fill = list(&plan["constants"]).last().filter(|_| !plan["average"].is_null());
            let upto = fill.map_or(own.len(), |class| index(&class["at"]) / 4);
            let equal = own.iter().zip(words).take(upto).all(close);
            assert!(equal || !last, "{name}: the constants of step {t} differ");
            runner.batch(&set, n, last);
            let pending = if last || !accumulates { 0 } else { n };
            assert_eq!(export.pending(), pending, "{name}: micro-batches");
        }
        let mut step = cpu.begin();
        for (i, (w, g)) in wanted.iter_mut().zip(&grads).enumerate() {
            let tensor = i.to_string();
            match accumulates {
                true => step.param(tensor.as_str(), w),
                false => step.tensor(tensor.as_str(), w, g),
            }
            .expect("lent");
        }
        step.finish().expect("a valid step");
        let kept = cpu.snapshot().expect("a state");
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
                let wanted = kept.tensors[i].slot(slot_name).expect("a slot").values.to::<f32>();
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
fn an_exported_plan_accumulates_and_averages_as_the_cpu_does() {
    let test = "an_exported_plan_accumulates_and_averages_as_the_cpu_does";
    let tensors = rich_tensors();
    let lr = Schedule::cosine(2e-3, 1e-4, 10).expect("valid");
    let set = |t: u64| BTreeMap::from([("lr".to_string(), lr.at(t - 1))]);
    let spoil = |t: u64, i: usize, g: &mut Vec<f32>| {
        if t % 4 == 1 && i == 2 {
            g[1000] = f32::INFINITY;
        }
    };
    let (mean, sum) = (Some(Accumulation::Mean), Some(Accumulation::Sum));
    let (ema, polyak) = (Average::Ema { decay: 0.8 }, Average::Polyak { from: 3 });
    for (name, average, accumulation) in
        [("mean, ema", Some(ema), mean), ("sum, polyak", Some(polyak), sum), ("mean", None, mean)]
    {
        let mut setup = rich(&tensors, LossScale::Fixed(8.0));
        // Without the guard the divisor is among the constants of each group.
        let mut free = named(Setup::new(), &tensors)
            .group(Group::new("all", AdamW::new(1e-3)))
            .gradients(Gradients::new().clip_value(0.5));
        for setup in [&mut setup, &mut free] {
            *setup = average.map_or(setup.clone(), |kind| setup.clone().average(kind));
            *setup = accumulation.map_or(setup.clone(), |kind| setup.clone().accumulate(kind));
        }
        let name = format!("export {name}");
        let free_name = format!("{name}, no guard");
        follows(&name, &setup, &tensors, whole, 9, (test, Values::Normal), set, spoil);
        let values = (test, Values::Normal);
        follows(&free_name, &free, &tensors, whole, 9, values, nothing, unspoiled);
    }
}

#[test]
fn averages_of_an_exported_plan_are_swapped_in_and_out() {
    let Some(gpu) = gate::gpu() else { return };
    let tensors = rich_tensors();
    let setup = rich(&tensors, LossScale::None).average(Average::Ema { decay: 0.5 });
    let mut export = whole(&setup);
    let mut runner = Runner::new(gpu.device(), gpu.queue(), export.json());
    let plan = runner.plan.clone();
    let all = |runner: &Runner<'_>| -> (Vec<_>, Vec<_>) {
        let of = |(i, t): (usize, &Tensor)| {
            let n = t.shape.iter().product();
            let param = runner.read(index(&plan["tensors"][i]["param"]), 0, n);
            (bits(&param), bits(&runner.named(i, "param_average")))
        };
        tensors.iter().enumerate().map(of).unzip()
    };
    let swap = |export: &mut Export, runner: &Runner<'_>| {
        let words = export.begin_swap().expect("begun").to_vec();
        runner.run(&words, &[&plan["average"]["swap"]]);
    };
    for (i, t) in tensors.iter().enumerate() {
        let start = narrow::<f32>(&params(i as u64, t.shape.iter().product()));
        runner.write(&plan["tensors"][i]["param"], &start);
    }
    let error = export.begin_swap().expect_err("no step has counted").to_string();
    assert!(error.contains("no step has counted"), "{error}");
    for t in 1..=3 {
        for (i, tensor) in tensors.iter().enumerate() {
            let mut g = narrow::<f32>(&gradient(Values::Normal, i as u64, t, &tensor.shape));
            if t == 1 && i == 0 {
                g[0] = f32::NAN;
            }
            runner.write(&plan["tensors"][i]["grad"], &g);
        }
        export.begin_step().expect("a step");
        runner.step(&nothing(0));
        let (params, averages) = all(&runner);
        swap(&mut export, &runner);
        let (swapped, kept) = all(&runner);
        if t == 1 {
            // The device has skipped it: the average is the parameter.
            assert_eq!((&swapped, &kept), (&params, &params), "after a skipped step");
        } else {
            assert_eq!((&swapped, &kept), (&averages, &params), "after step {t}");
            // The first step that counts begins an average.
            assert_eq!(params[0] == averages[0], t == 2, "after step {t}");
        }
        let error = export.begin_step().expect_err("swapped").to_string();
        assert!(error.contains("swap them back"), "{error}");
        let error = export.snapshot(|_, range| vec![0.0; range.len()]).expect_err("swapped");
        assert!(error.to_string().contains("swap them back"), "{error}");
        swap(&mut export, &runner);
        assert_eq!(all(&runner).0, params, "swapped back after step {t}");
    }
}

#[test]
fn an_export_says_what_cannot_follow_what() {
    let setup = || Setup::new().tensor("w", [4]).group(Group::new("all", Sgd::new(0.1)));
    let mut plain = setup().export(Limits::default()).expect("valid");
    let error = plain.begin_micro(true).expect_err("no sums").to_string();
    assert!(error.contains("keeps no sums"), "{error}");
    let error = plain.begin_swap().expect_err("no average").to_string();
    assert!(error.contains("keeps none"), "{error}");
    let summing = setup().accumulate(Accumulation::Sum);
    let mut summing = summing.export(Limits::default()).expect("valid");
    let error = summing.begin_step().expect_err("not so").to_string();
    assert!(error.contains("begin_micro"), "{error}");
    summing.begin_micro(false).expect("counted");
    assert_eq!((summing.pending(), summing.steps()), (1, 0), "a micro-batch is no step");
    let read = |_: usize, range: std::ops::Range<usize>| vec![0.0; range.len()];
    let error = summing.snapshot(read).expect_err("open").to_string();
    assert!(error.contains("1 micro-batches"), "{error}");
    summing.discard_micro();
    let snapshot = summing.snapshot(read).expect("nothing is open");
    summing.restore(&snapshot, |_, _, _| {}).expect("its own");
    // A step that is refused leaves its micro-batch out.
    summing.groups_mut().set_hyper("all", "lr", f64::NAN).expect("set");
    summing.begin_micro(true).expect_err("not a number");
    assert_eq!((summing.pending(), summing.steps()), (0, 0), "nothing is counted");
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
            .gradients(Gradients::new().clip_norm(5.0))
            .average(Average::Ema { decay: 0.9 })
            .accumulate(Accumulation::Mean);
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
    let setup = rich(&tensors, LossScale::dynamic()).average(Average::Polyak { from: 2 });
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
    let snapshot = snapshot.expect("nothing is swapped or open");
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
        let param = runner.read(index(&plan["tensors"][i]["param"]), 0, n);
        [bits(&param), bits(&runner.named(i, "param_average"))]
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

#[cfg(feature = "reference")]
struct OnPlan(Runner<'static>);

#[cfg(feature = "reference")]
impl Stepper for OnPlan {
    fn step(&mut self, grads: &[Vec<f32>]) -> Vec<Vec<f32>> {
        let tensors = self.0.plan["tensors"].clone();
        for (i, grad) in grads.iter().enumerate() {
            self.0.write(&tensors[i]["grad"], grad);
        }
        self.0.step(&nothing(0));
        let read =
            |(i, g): (usize, &Vec<f32>)| self.0.read(index(&tensors[i]["param"]), 0, g.len());
        grads.iter().enumerate().map(read).collect()
    }

    fn slot(&self, tensor: usize, name: &str) -> Vec<f32> {
        self.0.named(tensor, name)
    }
}

#[cfg(feature = "reference")]
#[test]
fn an_exported_plan_follows_the_official_f32() {
    let Some(gpu) = gate::gpu() else { return };
    follow_all("an_exported_plan_follows_the_official_f32", |reference, tensors| {
        let layout = reference.layout();
        let with = |s: Setup, (name, shape, _): &Start| s.tensor_with(name, shape, layout);
        let setup = tensors.iter().fold(Setup::new(), with).group(Group::new("all", reference));
        let runner = Runner::new(gpu.device(), gpu.queue(), whole(&setup).json());
        for (i, (.., start)) in tensors.iter().enumerate() {
            runner.write(&runner.plan["tensors"][i]["param"], start);
        }
        OnPlan(runner)
    });
}
