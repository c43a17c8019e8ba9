//! Steps of a whole model on a GPU against a copy of the same bytes on the same device.
//!
//! `cargo bench --bench gpu [-- [--million N] [NAME]]`. All tensors lie in the arena of a set. For each
//! optimizer steps and copies take turns, and the least time of all rounds counts. A copy of as many
//! bytes as a step reads and writes is the floor: *ratio* is its time over that of the step.
//!
//! Where the device has timestamps they are taken around the work; else the host's clock is, from
//! submission to completion, on both sides. The same program runs on a software adapter, where it
//! shows that it works and nothing about GPUs.

use std::error::Error;
use std::time::Instant;

use gradstep::gpu::{Gpu, GpuOptimizer, wgpu};
use gradstep::optim::{Adafactor, AdamW, Came, Sgd, Sm3};
use gradstep::{Gradients, Group, Setup};
use pollster::block_on;

const ROUNDS: usize = 10;

/// The shapes of a transformer of about `million` parameters: blocks of 768, four to one.
fn shapes(million: usize) -> Vec<Vec<usize>> {
    let block = [
        vec![768],
        vec![2304, 768],
        vec![2304],
        vec![768, 768],
        vec![768],
        vec![768],
        vec![3072, 768],
        vec![3072],
        vec![768, 3072],
        vec![768],
    ];
    let size: usize = block.iter().map(|s| s.iter().product::<usize>()).sum();
    let blocks = (million * 1_000_000).div_ceil(size);
    (0..blocks).flat_map(|_| block.clone()).collect()
}

/// A clock around what is recorded in an encoder.
enum Clock {
    Device { queries: wgpu::QuerySet, resolved: wgpu::Buffer, read: wgpu::Buffer, period: f64 },
    Host,
}

impl Clock {
    fn new(gpu: &Gpu) -> Self {
        let needed =
            wgpu::Features::TIMESTAMP_QUERY | wgpu::Features::TIMESTAMP_QUERY_INSIDE_ENCODERS;
        if !gpu.device().features().contains(needed) {
            return Self::Host;
        }
        let buffer = |usage| {
            gpu.device().create_buffer(&wgpu::BufferDescriptor {
                label: None,
                size: 16,
                usage,
                mapped_at_creation: false,
            })
        };
        Self::Device {
            queries: gpu.device().create_query_set(&wgpu::QuerySetDescriptor {
                label: None,
                ty: wgpu::QueryType::Timestamp,
                count: 2,
            }),
            resolved: buffer(wgpu::BufferUsages::QUERY_RESOLVE | wgpu::BufferUsages::COPY_SRC),
            read: buffer(wgpu::BufferUsages::COPY_DST | wgpu::BufferUsages::MAP_READ),
            period: f64::from(gpu.queue().get_timestamp_period()),
        }
    }

    /// Seconds that what `record` records takes.
    fn time(
        &self,
        gpu: &Gpu,
        record: impl FnOnce(&mut wgpu::CommandEncoder),
    ) -> Result<f64, Box<dyn Error>> {
        let mut encoder = gpu.device().create_command_encoder(&Default::default());
        if let Self::Device { queries, .. } = self {
            encoder.write_timestamp(queries, 0);
        }
        record(&mut encoder);
        if let Self::Device { queries, resolved, read, .. } = self {
            encoder.write_timestamp(queries, 1);
            encoder.resolve_query_set(queries, 0..2, resolved, 0);
            encoder.copy_buffer_to_buffer(resolved, 0, read, 0, 16);
        }
        let commands = encoder.finish();
        let start = Instant::now();
        gpu.queue().submit([commands]);
        gpu.device().poll(wgpu::PollType::wait_indefinitely())?;
        let host = start.elapsed().as_secs_f64();
        let Self::Device { read, period, .. } = self else { return Ok(host) };
        read.map_async(wgpu::MapMode::Read, .., |_| {});
        gpu.device().poll(wgpu::PollType::wait_indefinitely())?;
        let times: Vec<u64> = {
            let view = read.get_mapped_range(..)?;
            view.chunks_exact(8)
                .map(|b| u64::from_le_bytes(b.try_into().unwrap_or_default()))
                .collect()
        };
        read.unmap();
        #[allow(clippy::cast_precision_loss, reason = "a time")]
        Ok((times[1] - times[0]) as f64 * period * 1e-9)
    }
}

/// Two buffers to copy between, as often as it takes.
struct Copies {
    from: wgpu::Buffer,
    to: wgpu::Buffer,
}

impl Copies {
    fn new(gpu: &Gpu) -> Self {
        let buffer = || {
            gpu.device().create_buffer(&wgpu::BufferDescriptor {
                label: None,
                size: gpu.device().limits().max_buffer_size.min(256 << 20),
                usage: wgpu::BufferUsages::COPY_SRC | wgpu::BufferUsages::COPY_DST,
                mapped_at_creation: false,
            })
        };
        Self { from: buffer(), to: buffer() }
    }

    /// Moves `bytes` in all: half are read and half are written.
    fn record(&self, encoder: &mut wgpu::CommandEncoder, bytes: u64) {
        let mut left = bytes / 8 * 4;
        while left > 0 {
            let now = left.min(self.from.size());
            encoder.copy_buffer_to_buffer(&self.from, 0, &self.to, 0, now);
            left -= now;
        }
    }
}

fn open() -> Result<Gpu, Box<dyn Error>> {
    let instance = wgpu::Instance::new(wgpu::InstanceDescriptor::new_without_display_handle());
    let adapter = block_on(instance.request_adapter(&wgpu::RequestAdapterOptions {
        power_preference: wgpu::PowerPreference::HighPerformance,
        ..Default::default()
    }))?;
    let timestamps =
        wgpu::Features::TIMESTAMP_QUERY | wgpu::Features::TIMESTAMP_QUERY_INSIDE_ENCODERS;
    let (device, queue) = block_on(adapter.request_device(&wgpu::DeviceDescriptor {
        label: Some("bench"),
        required_features: adapter.features() & timestamps,
        // Bindings as large as there are: a few buffers for everything.
        required_limits: adapter.limits(),
        ..Default::default()
    }))?;
    Ok(Gpu::new(&device, &queue)?)
}

/// Bytes that a step reads and writes, small values not counted.
fn traffic(set: &GpuOptimizer, shapes: &[Vec<usize>]) -> Result<u64, Box<dyn Error>> {
    let mut bytes = 0;
    for (i, shape) in shapes.iter().enumerate() {
        let per = set.plan(&names(i))?.bytes_per_parameter(4);
        bytes += (per * shape.iter().product::<usize>()) as u64;
    }
    Ok(bytes)
}

fn names(i: usize) -> String {
    format!("tensor.{i}")
}

fn main() -> Result<(), Box<dyn Error>> {
    let mut args = std::env::args().skip(1).filter(|a| a != "--bench");
    let (mut million, mut only) = (None, String::new());
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "--million" => million = Some(args.next().ok_or("--million N")?.parse()?),
            name => only = name.to_string(),
        }
    }
    let gpu = open()?;
    let software = gpu.name().contains("software");
    let million = million.unwrap_or(if software { 1 } else { 100 });
    let clock = Clock::new(&gpu);
    let shapes = shapes(million);
    let elements: usize = shapes.iter().map(|s| s.iter().product::<usize>()).sum();
    println!(
        "{}: {} tensors, {:.1} million parameters, {} clock, least of {ROUNDS} rounds",
        gpu.name(),
        shapes.len(),
        elements as f64 / 1e6,
        if matches!(clock, Clock::Host) { "the host's" } else { "the device's" }
    );
    println!(
        "{:24} {:>10} {:>9} {:>9} {:>9} {:>9} {:>6}",
        "", "dispatches", "bytes/par", "step ms", "GB/s", "copy GB/s", "ratio"
    );

    let copies = Copies::new(&gpu);
    let tensors: Vec<_> = shapes.iter().enumerate().map(|(i, s)| (names(i), s.clone())).collect();
    let clip = Gradients::new().clip_norm(1.0).check_finite();
    let cases: [(&str, Group, Gradients); 7] = [
        ("sgd", Group::new("all", Sgd::new(1e-3)), Gradients::new()),
        ("adamw", Group::new("all", AdamW::new(1e-3)), Gradients::new()),
        ("adamw, clipped, tested", Group::new("all", AdamW::new(1e-3)), clip.clone()),
        ("adafactor", Group::new("all", Adafactor::hugging_face()), Gradients::new()),
        ("sm3", Group::new("all", Sm3::new(1e-3)), Gradients::new()),
        ("came", Group::new("all", Came::new(1e-3)), Gradients::new()),
        ("came, clipped, tested", Group::new("all", Came::new(1e-3)), clip),
    ];
    for (name, group, gradients) in cases {
        if !name.contains(&only) {
            continue;
        }
        let guard = if gradients.max_norm.is_some() { 4 * elements as u64 } else { 0 };
        let setup = Setup::new().tensors(tensors.clone()).group(group).gradients(gradients);
        let mut set = block_on(setup.gpu(&gpu))?;
        for (i, shape) in shapes.iter().enumerate() {
            let n = shape.iter().product();
            set.write_param(&names(i), &vec![0.5; n])?;
            set.write_grad(&names(i), &vec![0.01; n])?;
        }
        gpu.queue().submit([]);
        let bytes = traffic(&set, &shapes)? + guard;
        let (mut step, mut copy) = (f64::MAX, f64::MAX);
        for _ in 0..ROUNDS {
            let mut failed = Ok(());
            step = step.min(clock.time(&gpu, |encoder| failed = set.encode(encoder))?);
            failed?;
            copy = copy.min(clock.time(&gpu, |encoder| copies.record(encoder, bytes))?);
        }
        let speed = |time: f64| bytes as f64 / time / 1e9;
        println!(
            "{name:24} {:10} {:9.1} {:9.3} {:9.1} {:9.1} {:6.2}",
            set.dispatches(),
            bytes as f64 / elements as f64,
            step * 1e3,
            speed(step),
            speed(copy),
            copy / step
        );
    }
    Ok(())
}
