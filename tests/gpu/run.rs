//! Runs the same steps on an arena and on the CPU, and compares.

use std::collections::BTreeMap;

use gradstep::gpu::{Arena, Gpu, wgpu};
use gradstep::{Cpu, CpuStep, Layout, Optimizer};

use crate::common::run::{narrow, widen};
use crate::common::table::{Tensor, Values, gradient, params};
use crate::common::tolerance::{self, F32, What};

pub(crate) use pollster::block_on as wait;

/// Records with `f` and submits.
pub(crate) fn submit<R>(gpu: &Gpu, f: impl FnOnce(&mut wgpu::CommandEncoder) -> R) -> R {
    let mut encoder = gpu.device().create_command_encoder(&Default::default());
    let result = f(&mut encoder);
    gpu.queue().submit([encoder.finish()]);
    result
}

/// Submits one step of an arena.
pub(crate) fn step<O: Optimizer>(gpu: &Gpu, arena: &mut Arena<O>) {
    submit(gpu, |encoder| arena.encode(encoder)).expect("a valid step");
}

/// Waits until the device has nothing left to do.
pub(crate) fn finish(gpu: &Gpu) {
    gpu.device().poll(wgpu::PollType::wait_indefinitely()).expect("the device answers");
}

/// Copies a buffer to the host.
pub(crate) fn read(gpu: &Gpu, buffer: &wgpu::Buffer) -> Vec<f32> {
    let staging = gpu.device().create_buffer(&wgpu::BufferDescriptor {
        label: None,
        size: buffer.size(),
        usage: wgpu::BufferUsages::COPY_DST | wgpu::BufferUsages::MAP_READ,
        mapped_at_creation: false,
    });
    submit(gpu, |e| e.copy_buffer_to_buffer(buffer, 0, &staging, 0, buffer.size()));
    staging.map_async(wgpu::MapMode::Read, .., |mapped| mapped.expect("mapped"));
    finish(gpu);
    let view = staging.get_mapped_range(..).expect("mapped");
    view.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect()
}

pub(crate) fn bytes(x: &[f32]) -> Vec<u8> {
    x.iter().flat_map(|x| x.to_le_bytes()).collect()
}

pub(crate) fn bits(x: &[f32]) -> Vec<u32> {
    x.iter().map(|x| x.to_bits()).collect()
}

pub(crate) fn tensor(shape: &[usize], layout: Layout) -> Tensor {
    Tensor { shape: shape.to_vec(), layout }
}

pub(crate) fn list(tensors: &[Tensor]) -> Vec<(Vec<usize>, Layout)> {
    tensors.iter().map(|t| (t.shape.clone(), t.layout)).collect()
}

/// Tensors, their values and the number of steps.
#[derive(Clone, Debug)]
pub(crate) struct Run {
    pub(crate) name: String,
    pub(crate) tensors: Vec<Tensor>,
    pub(crate) values: Values,
    pub(crate) seed: u64,
    pub(crate) steps: u64,
    pub(crate) test: &'static str,
}

impl Run {
    pub(crate) fn start(&self, i: usize) -> Vec<f32> {
        narrow(&params(self.seed + i as u64, self.tensors[i].shape.iter().product()))
    }

    pub(crate) fn gradient(&self, i: usize, t: u64) -> Vec<f32> {
        narrow(&gradient(self.values, self.seed + i as u64, t, &self.tensors[i].shape))
    }

    pub(crate) fn what(&self, i: usize, t: u64) -> What<'_> {
        What {
            case: &self.name,
            shape: &self.tensors[i].shape,
            seed: self.seed + i as u64,
            step: t,
            test: self.test,
        }
    }

    /// An arena with the initial parameters.
    pub(crate) fn arena<O: Optimizer>(&self, gpu: &Gpu, optimizer: O) -> Arena<O> {
        let arena = wait(gpu.arena_with(optimizer, &list(&self.tensors)));
        let arena = arena.unwrap_or_else(|e| panic!("{}: {e}", self.name));
        for i in 0..self.tensors.len() {
            arena.write_param(i, &self.start(i)).expect("written");
        }
        arena
    }

    /// The CPU's steps of all tensors.
    pub(crate) fn cpu<O: Optimizer>(&self, optimizer: impl Fn() -> O) -> Vec<CpuStep<f32, O>> {
        let cpu = Cpu::single_threaded();
        let prepare = |t: &Tensor| {
            let step = cpu.prepare_with(optimizer(), &t.shape, t.layout);
            step.unwrap_or_else(|e| panic!("{}: {e}", self.name))
        };
        self.tensors.iter().map(prepare).collect()
    }

    /// One step of the arena, submitted.
    pub(crate) fn step<O: Optimizer>(&self, gpu: &Gpu, arena: &mut Arena<O>, t: u64) {
        for i in 0..self.tensors.len() {
            arena.write_grad(i, &self.gradient(i, t)).expect("written");
        }
        step(gpu, arena);
    }

    /// Parameters and state of the arena equal those of the CPU.
    ///
    /// `set` changes hyper-parameters before a step, on both sides.
    pub(crate) fn check<O: Optimizer>(
        &self,
        gpu: &Gpu,
        optimizer: impl Fn() -> O,
        set: impl Fn(&mut O, u64),
    ) {
        let mut arena = self.arena(gpu, optimizer());
        let mut cpu = self.cpu(optimizer);
        let start: Vec<_> = (0..self.tensors.len()).map(|i| self.start(i)).collect();
        let mut wanted = start.clone();
        let mut moved = vec![0.0; self.tensors.len()];
        let mut sizes = vec![BTreeMap::new(); self.tensors.len()];
        for t in 1..=self.steps {
            set(arena.optimizer_mut(), t);
            self.step(gpu, &mut arena, t);
            let look = [1, 2, 7, self.steps].contains(&t);
            for (i, cpu) in cpu.iter_mut().enumerate() {
                set(cpu.optimizer_mut(), t);
                cpu.step(&mut wanted[i], &self.gradient(i, t)).expect("a valid step");
                let what = self.what(i, t);
                // Where nothing is read, equal values keep count of the greatest displacement.
                let found =
                    if look { wait(arena.read_param(i)).expect("read") } else { wanted[i].clone() };
                let [start, found, wanted] = [&start[i], &found, &wanted[i]].map(|x| widen(x));
                let moved = &mut moved[i];
                tolerance::check(tolerance::GPU, F32, &what, moved, &start, &found, &wanted);
                for name in cpu.slots().map(|s| s.0).collect::<Vec<_>>() {
                    let wanted = widen(&cpu.slot(name).expect("a slot"));
                    let found = if look {
                        widen(&wait(arena.read_slot(i, name)).expect("read"))
                    } else {
                        wanted.clone()
                    };
                    let size = sizes[i].entry(name).or_insert(0.0);
                    tolerance::check_slot(tolerance::GPU, F32, &what, name, size, &found, &wanted);
                }
            }
        }
        assert_eq!(arena.steps(), self.steps, "{}", self.name);
    }

    /// Parameters and all slots of an arena, as bits.
    pub(crate) fn everything<O: Optimizer>(&self, arena: &Arena<O>) -> Vec<Vec<u32>> {
        let mut all = Vec::new();
        for i in 0..self.tensors.len() {
            all.push(bits(&wait(arena.read_param(i)).expect("read")));
            for plan in arena.plans() {
                for slot in &plan.graph.slots {
                    if let Ok(values) = wait(arena.read_slot(i, slot.name)) {
                        all.push(bits(&values));
                    }
                }
            }
        }
        all
    }
}
