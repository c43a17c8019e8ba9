//! One set of tensors with its parameters, on each backend: the CPU, an arena on the GPU, and buffers
//! of the caller there, whose gradients are measured in place or gathered.

use gradstep::optim::{AdamW, Came, Sgd};
use gradstep::report::{Memory, Stats};
use gradstep::{
    Cpu, CpuOptimizer, Gradients, Group, Outcome, Result, Select, Setup, Snapshot, TensorInfo,
};

use crate::common::run::narrow;
use crate::common::table::{Values, gradient, params};

pub(crate) const SEED: u64 = 20_307;

/// Names and shapes of a small model, with a scalar and an empty tensor: more tensors than two
/// dispatches of the guard bind gradients.
pub(crate) fn model() -> Vec<(String, Vec<usize>)> {
    let mut tensors = vec![("embed.weight".into(), vec![40, 12]), ("scale".into(), vec![])];
    for layer in 0..5 {
        tensors.push((format!("layers.{layer}.weight"), vec![12, 20]));
        tensors.push((format!("layers.{layer}.bias"), vec![20]));
        tensors.push((format!("layers.{layer}.conv"), vec![4, 3, 3, 3]));
    }
    tensors.push(("empty".into(), vec![0, 7]));
    tensors
}

/// Three hundred tensors of two optimizers.
pub(crate) fn three_hundred() -> Vec<(String, Vec<usize>)> {
    let shape = |i: usize| match i % 4 {
        0 => vec![16, 20],
        1 => vec![33],
        2 => vec![3, 2, 2, 2],
        _ => vec![1 + i % 7, 40],
    };
    (0..300).map(|i| (format!("tensor.{i}"), shape(i))).collect()
}

/// CAME for matrices, AdamW for the others, with decay.
pub(crate) fn two_groups(tensors: Vec<(String, Vec<usize>)>) -> Setup {
    let matrices = Select::rank(2..).and(Select::size(100..));
    Setup::new()
        .tensors(tensors)
        .group(Group::new("matrices", Came::new(1e-2).with_weight_decay(0.01)).of(matrices))
        .group(Group::new("others", AdamW::new(1e-2)))
}

/// Plain gradient descent, so that what is done to gradients shows as it is.
pub(crate) fn plain(tensors: Vec<(String, Vec<usize>)>, gradients: Gradients) -> Setup {
    Setup::new().tensors(tensors).group(Group::new("all", Sgd::new(1.0))).gradients(gradients)
}

pub(crate) type Lists = Vec<Vec<f32>>;

pub(crate) fn starts(tensors: &[(String, Vec<usize>)]) -> Lists {
    let start = |(i, t): (usize, &(String, Vec<usize>))| {
        narrow(&params(SEED + i as u64, t.1.iter().product()))
    };
    tensors.iter().enumerate().map(start).collect()
}

pub(crate) fn grads(tensors: &[(String, Vec<usize>)], t: u64) -> Lists {
    let grad = |(i, tensor): (usize, &(String, Vec<usize>))| {
        narrow(&gradient(Values::Normal, SEED + i as u64, t, &tensor.1))
    };
    tensors.iter().enumerate().map(grad).collect()
}

pub(crate) fn bits(lists: &Lists) -> Vec<Vec<u32>> {
    lists.iter().map(|x| x.iter().map(|x| x.to_bits()).collect()).collect()
}

/// What the backends can do.
pub(crate) trait Side: Sized {
    const NAME: &'static str;
    /// None where the backend is not to be tested.
    fn make(setup: &Setup, params: &Lists) -> Option<Result<Self>>;
    fn step(&mut self, grads: &Lists) -> Result<Outcome>;
    /// Adds gradients to their sums.
    fn micro(&mut self, grads: &Lists) -> Result<()>;
    /// A step with the sums.
    fn step_sums(&mut self) -> Result<Outcome>;
    /// Forgets the sums.
    fn discard(&mut self);
    /// What became of the last step, asked by itself. On the CPU a step tells, and nothing else.
    fn outcome(&self) -> Option<Outcome>;
    fn params(&mut self) -> Lists;
    fn averages(&mut self) -> Result<Lists>;
    fn swap(&mut self) -> Result<()>;
    fn snapshot(&mut self) -> Result<Snapshot>;
    fn restore(&mut self, snapshot: &Snapshot) -> Result<()>;
    fn stats(&mut self) -> Result<Vec<Stats>>;
    fn memory(&mut self) -> Memory;
    fn set_steps(&mut self, t: u64);
    fn skipped(&self) -> u64;
    fn groups_mut(&mut self) -> &mut gradstep::Groups;
}

pub(crate) struct OnCpu {
    pub(crate) optimizer: CpuOptimizer<f32>,
    pub(crate) params: Lists,
    names: Vec<String>,
}

impl Side for OnCpu {
    const NAME: &'static str = "CPU";

    fn make(setup: &Setup, params: &Lists) -> Option<Result<Self>> {
        Some(setup.cpu(&Cpu::default()).map(|optimizer| {
            let names = optimizer.groups().tensors().map(|t: &TensorInfo| t.name.clone()).collect();
            Self { optimizer, params: params.clone(), names }
        }))
    }

    fn step(&mut self, grads: &Lists) -> Result<Outcome> {
        let mut step = self.optimizer.begin();
        for ((name, p), g) in self.names.iter().zip(&mut self.params).zip(grads) {
            step.tensor(name, p, g)?;
        }
        step.finish()
    }

    fn micro(&mut self, grads: &Lists) -> Result<()> {
        self.names.iter().zip(grads).try_for_each(|(name, g)| self.optimizer.accumulate(name, g))
    }

    fn step_sums(&mut self) -> Result<Outcome> {
        let mut step = self.optimizer.begin();
        for (name, p) in self.names.iter().zip(&mut self.params) {
            step.param(name, p)?;
        }
        step.finish()
    }

    fn discard(&mut self) {
        self.optimizer.discard_micro();
    }

    fn outcome(&self) -> Option<Outcome> {
        None
    }

    fn params(&mut self) -> Lists {
        self.params.clone()
    }

    fn averages(&mut self) -> Result<Lists> {
        let average = |name: &String| self.optimizer.average(name).map(<[f32]>::to_vec);
        self.names.iter().map(average).collect()
    }

    fn swap(&mut self) -> Result<()> {
        let mut pairs = self.names.iter().zip(&mut self.params);
        pairs.try_for_each(|(name, p)| self.optimizer.swap_average(name, p))
    }

    fn snapshot(&mut self) -> Result<Snapshot> {
        let mut snapshot = self.optimizer.snapshot()?;
        for (name, p) in self.names.iter().zip(&self.params) {
            snapshot.set_param(name, p.clone())?;
        }
        Ok(snapshot)
    }

    fn restore(&mut self, snapshot: &Snapshot) -> Result<()> {
        self.optimizer.restore(snapshot)?;
        for (name, p) in self.names.iter().zip(&mut self.params) {
            let saved = snapshot.tensor(name).and_then(|t| t.param.as_ref());
            *p = saved.expect("a parameter").to();
        }
        Ok(())
    }

    fn stats(&mut self) -> Result<Vec<Stats>> {
        self.names.iter().map(|name| self.optimizer.stats(name)).collect()
    }

    fn memory(&mut self) -> Memory {
        self.optimizer.memory()
    }

    fn set_steps(&mut self, t: u64) {
        self.optimizer.set_steps(t);
    }

    fn skipped(&self) -> u64 {
        self.optimizer.skipped()
    }

    fn groups_mut(&mut self) -> &mut gradstep::Groups {
        self.optimizer.groups_mut()
    }
}

#[cfg(feature = "gpu")]
pub(crate) use on_foreign::{OnForeign, OnInPlace, OnRanges, read, spot};
#[cfg(feature = "gpu")]
pub(crate) use on_gpu::OnGpu;

#[cfg(feature = "gpu")]
mod on_gpu {
    use gradstep::gpu::{Gpu, GpuOptimizer, wgpu};
    use pollster::block_on as wait;

    use super::*;
    use crate::common::gate;

    pub(crate) struct OnGpu {
        pub(crate) optimizer: GpuOptimizer,
        pub(crate) gpu: Gpu,
        names: Vec<String>,
    }

    impl OnGpu {
        pub(crate) fn on(gpu: &Gpu, setup: &Setup, params: &Lists) -> Result<Self> {
            let optimizer = wait(setup.gpu(gpu))?;
            let names: Vec<_> = optimizer.groups().tensors().map(|t| t.name.clone()).collect();
            for (name, p) in names.iter().zip(params) {
                optimizer.write_param(name, p)?;
            }
            Ok(Self { optimizer, gpu: gpu.clone(), names })
        }

        pub(crate) fn submit<R>(
            &mut self,
            f: impl FnOnce(&mut GpuOptimizer, &mut wgpu::CommandEncoder) -> R,
        ) -> R {
            let mut encoder = self.gpu.device().create_command_encoder(&Default::default());
            let result = f(&mut self.optimizer, &mut encoder);
            self.gpu.queue().submit([encoder.finish()]);
            result
        }

        pub(crate) fn write(&self, grads: &Lists) -> Result<()> {
            let mut pairs = self.names.iter().zip(grads);
            pairs.try_for_each(|(name, g)| self.optimizer.write_grad(name, g))
        }
    }

    impl Side for OnGpu {
        const NAME: &'static str = "GPU";

        fn make(setup: &Setup, params: &Lists) -> Option<Result<Self>> {
            Some(Self::on(gate::gpu()?, setup, params))
        }

        fn step(&mut self, grads: &Lists) -> Result<Outcome> {
            self.write(grads)?;
            self.submit(|o, encoder| o.encode(encoder))?;
            wait(self.optimizer.outcome())
        }

        fn micro(&mut self, grads: &Lists) -> Result<()> {
            self.write(grads)?;
            self.submit(|o, encoder| o.encode_micro(encoder))
        }

        fn step_sums(&mut self) -> Result<Outcome> {
            self.submit(|o, encoder| o.encode(encoder))?;
            wait(self.optimizer.outcome())
        }

        fn discard(&mut self) {
            self.optimizer.discard_micro();
        }

        fn outcome(&self) -> Option<Outcome> {
            Some(wait(self.optimizer.outcome()).expect("a live device"))
        }

        fn params(&mut self) -> Lists {
            let params = wait(self.optimizer.read_params()).expect("a live device");
            params.into_iter().map(|(_, p)| p).collect()
        }

        fn averages(&mut self) -> Result<Lists> {
            self.names.iter().map(|name| wait(self.optimizer.read_average(name))).collect()
        }

        fn swap(&mut self) -> Result<()> {
            self.submit(|o, encoder| o.encode_swap(encoder))
        }

        fn snapshot(&mut self) -> Result<Snapshot> {
            wait(self.optimizer.snapshot())
        }

        fn restore(&mut self, snapshot: &Snapshot) -> Result<()> {
            self.optimizer.restore(snapshot)
        }

        fn stats(&mut self) -> Result<Vec<Stats>> {
            Ok(wait(self.optimizer.stats())?.into_iter().map(|(_, stats)| stats).collect())
        }

        fn memory(&mut self) -> Memory {
            self.optimizer.memory()
        }

        fn set_steps(&mut self, t: u64) {
            self.optimizer.set_steps(t);
        }

        fn skipped(&self) -> u64 {
            wait(self.optimizer.skipped()).expect("a live device")
        }

        fn groups_mut(&mut self) -> &mut gradstep::Groups {
            self.optimizer.groups_mut()
        }
    }
}

#[cfg(feature = "gpu")]
mod on_foreign {
    use gradstep::gpu::{Gpu, GpuForeign, wgpu};
    use pollster::block_on as wait;

    use super::*;
    use crate::common::gate;

    /// A range of a buffer.
    #[derive(Clone)]
    pub(crate) struct Spot {
        buffer: wgpu::Buffer,
        at: u64,
        bytes: u64,
    }

    impl Spot {
        pub(crate) fn slice(&self) -> wgpu::BufferSlice<'_> {
            self.buffer.slice(self.at..self.at + self.bytes)
        }

        pub(crate) fn len(&self) -> usize {
            usize::try_from(self.bytes / 4).expect("small")
        }

        pub(crate) fn is_empty(&self) -> bool {
            self.bytes == 0
        }

        /// Its first `len` elements.
        pub(crate) fn first(&self, len: usize) -> Self {
            Self { bytes: len as u64 * 4, ..self.clone() }
        }

        pub(crate) fn write(&self, gpu: &Gpu, values: &[f32]) {
            assert_eq!(values.len() as u64 * 4, self.bytes, "the size of a range");
            let bytes: Vec<u8> = values.iter().flat_map(|x| x.to_le_bytes()).collect();
            gpu.queue().write_buffer(&self.buffer, self.at, &bytes);
        }
    }

    fn buffer(gpu: &Gpu, words: usize) -> wgpu::Buffer {
        gpu.device().create_buffer(&wgpu::BufferDescriptor {
            label: Some("the caller's"),
            size: (words * 4) as u64,
            usage: wgpu::BufferUsages::STORAGE
                | wgpu::BufferUsages::COPY_DST
                | wgpu::BufferUsages::COPY_SRC,
            mapped_at_creation: false,
        })
    }

    /// Room for so many elements in a buffer of its own.
    pub(crate) fn spot(gpu: &Gpu, len: usize) -> Spot {
        Spot { buffer: buffer(gpu, len.max(1)), at: 0, bytes: len as u64 * 4 }
    }

    /// Parameter and gradient of tensor `i`, at odd places; of every third one in one buffer.
    fn pair(gpu: &Gpu, i: usize, len: usize) -> [Spot; 2] {
        let (gap, bytes) = (1 + i % 5, len as u64 * 4);
        let one = i.is_multiple_of(3);
        let size = gap + len * if one { 2 } else { 1 };
        let param = Spot { buffer: buffer(gpu, size), at: gap as u64 * 4, bytes };
        let grad = match one {
            true => Spot { at: param.at + bytes, ..param.clone() },
            false => Spot { buffer: buffer(gpu, size), ..param.clone() },
        };
        [param, grad]
    }

    /// What lies in these ranges, in one wait.
    pub(crate) fn read(gpu: &Gpu, spots: &[Spot]) -> Lists {
        let size = spots.iter().map(|s| s.bytes).sum::<u64>();
        if size == 0 {
            return vec![Vec::new(); spots.len()];
        }
        let staging = gpu.device().create_buffer(&wgpu::BufferDescriptor {
            label: None,
            size,
            usage: wgpu::BufferUsages::COPY_DST | wgpu::BufferUsages::MAP_READ,
            mapped_at_creation: false,
        });
        let mut encoder = gpu.device().create_command_encoder(&Default::default());
        let mut at = 0;
        for spot in spots.iter().filter(|s| s.bytes > 0) {
            encoder.copy_buffer_to_buffer(&spot.buffer, spot.at, &staging, at, spot.bytes);
            at += spot.bytes;
        }
        gpu.queue().submit([encoder.finish()]);
        staging.map_async(wgpu::MapMode::Read, .., |m| m.expect("mapped"));
        gpu.device().poll(wgpu::PollType::wait_indefinitely()).expect("the device answers");
        let view = staging.get_mapped_range(..).expect("mapped");
        let mut words = view.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]));
        let lens = spots.iter().map(|s| usize::try_from(s.bytes / 4).expect("small"));
        lens.map(|n| words.by_ref().take(n).collect()).collect()
    }

    /// Whether gradients are gathered before they are measured.
    pub(crate) struct OnRanges<const GATHERED: bool> {
        pub(crate) set: GpuForeign,
        pub(crate) gpu: Gpu,
        pub(crate) names: Vec<String>,
        /// Parameter and gradient of each tensor.
        pub(crate) pairs: Vec<[Spot; 2]>,
    }

    pub(crate) type OnInPlace = OnRanges<false>;
    pub(crate) type OnForeign = OnRanges<true>;

    impl<const GATHERED: bool> OnRanges<GATHERED> {
        pub(crate) fn on(gpu: &Gpu, setup: &Setup, params: &Lists) -> Result<Self> {
            let setup = setup.clone();
            let setup = if GATHERED { setup } else { setup.measure_in_place() };
            let set = wait(setup.gpu_foreign(gpu))?;
            let names = set.groups().tensors().map(|t| t.name.clone()).collect();
            let place = |(i, p): (usize, &Vec<f32>)| {
                let pair = pair(gpu, i, p.len());
                pair[0].write(gpu, p);
                pair
            };
            let pairs = params.iter().enumerate().map(place).collect();
            Ok(Self { set, gpu: gpu.clone(), names, pairs })
        }

        pub(crate) fn write(&self, grads: &Lists) {
            self.pairs.iter().zip(grads).for_each(|([_, to], g)| to.write(&self.gpu, g));
        }

        /// Records a step with those tensors that `given` is true for.
        pub(crate) fn record(
            &mut self,
            encoder: &mut wgpu::CommandEncoder,
            given: impl Fn(&str) -> bool,
        ) -> Result<()> {
            let mut step = self.set.begin();
            for (name, [param, grad]) in self.names.iter().zip(&self.pairs) {
                if given(name) {
                    step.tensor(name, param.slice(), grad.slice())?;
                }
            }
            step.finish(encoder)
        }

        /// A step with those tensors that `given` is true for.
        pub(crate) fn step_of(&mut self, given: impl Fn(&str) -> bool) -> Result<Outcome> {
            let mut encoder = self.gpu.device().create_command_encoder(&Default::default());
            self.record(&mut encoder, given)?;
            self.gpu.queue().submit([encoder.finish()]);
            wait(self.set.outcome())
        }
    }

    impl<const GATHERED: bool> Side for OnRanges<GATHERED> {
        const NAME: &'static str = match GATHERED {
            true => "GPU, in the caller's buffers",
            false => "GPU, in the caller's buffers, measured in place",
        };

        fn make(setup: &Setup, params: &Lists) -> Option<Result<Self>> {
            Some(Self::on(gate::gpu()?, setup, params))
        }

        fn step(&mut self, grads: &Lists) -> Result<Outcome> {
            self.write(grads);
            self.step_of(|_| true)
        }

        fn micro(&mut self, _: &Lists) -> Result<()> {
            unreachable!("tests of sums do not run here")
        }

        fn step_sums(&mut self) -> Result<Outcome> {
            unreachable!("tests of sums do not run here")
        }

        fn discard(&mut self) {
            unreachable!("tests of sums do not run here")
        }

        fn outcome(&self) -> Option<Outcome> {
            Some(wait(self.set.outcome()).expect("a live device"))
        }

        fn params(&mut self) -> Lists {
            let params: Vec<_> = self.pairs.iter().map(|[p, _]| p.clone()).collect();
            read(&self.gpu, &params)
        }

        fn averages(&mut self) -> Result<Lists> {
            self.names.iter().map(|name| wait(self.set.read_average(name))).collect()
        }

        fn swap(&mut self) -> Result<()> {
            let mut encoder = self.gpu.device().create_command_encoder(&Default::default());
            for (name, [param, _]) in self.names.iter().zip(&self.pairs) {
                self.set.encode_swap(&mut encoder, name, param.slice())?;
            }
            self.gpu.queue().submit([encoder.finish()]);
            Ok(())
        }

        fn snapshot(&mut self) -> Result<Snapshot> {
            let mut snapshot = wait(self.set.snapshot())?;
            for (name, p) in self.names.clone().iter().zip(self.params()) {
                snapshot.set_param(name, p)?;
            }
            Ok(snapshot)
        }

        fn restore(&mut self, snapshot: &Snapshot) -> Result<()> {
            self.set.restore(snapshot)?;
            for (name, [param, _]) in self.names.iter().zip(&self.pairs) {
                let saved = snapshot.tensor(name).and_then(|t| t.param.as_ref());
                param.write(&self.gpu, &saved.expect("a parameter").to::<f32>());
            }
            Ok(())
        }

        fn stats(&mut self) -> Result<Vec<Stats>> {
            Ok(wait(self.set.stats())?.into_iter().map(|(_, stats)| stats).collect())
        }

        fn memory(&mut self) -> Memory {
            self.set.memory()
        }

        fn set_steps(&mut self, t: u64) {
            self.set.set_steps(t);
        }

        fn skipped(&self) -> u64 {
            wait(self.set.skipped()).expect("a live device")
        }

        fn groups_mut(&mut self) -> &mut gradstep::Groups {
            self.set.groups_mut()
        }
    }
}

/// Tests that run on each backend: functions that are generic over [`Side`]. Those after
/// `not in the callers buffers` run on the CPU and on an arena.
macro_rules! on_all {
    ($($test:ident),* $(,)? $(; not in the callers buffers: $($arena:ident),* $(,)?)?) => {
        mod cpu {
            $(#[test]
            fn $test() {
                super::$test::<crate::side::OnCpu>();
            })*
            $($(#[test]
            fn $arena() {
                super::$arena::<crate::side::OnCpu>();
            })*)?
        }

        #[cfg(feature = "gpu")]
        mod gpu {
            $(#[test]
            fn $test() {
                super::$test::<crate::side::OnGpu>();
            })*
            $($(#[test]
            fn $arena() {
                super::$arena::<crate::side::OnGpu>();
            })*)?
        }

        #[cfg(feature = "gpu")]
        mod in_place {
            $(#[test]
            fn $test() {
                super::$test::<crate::side::OnInPlace>();
            })*
        }

        #[cfg(feature = "gpu")]
        mod foreign {
            $(#[test]
            fn $test() {
                super::$test::<crate::side::OnForeign>();
            })*
        }
    };
}
pub(crate) use on_all;

/// The set, or a return where its backend is not to be tested.
macro_rules! make {
    ($side:ident, $setup:expr, $params:expr) => {
        match <$side as crate::side::Side>::make(&$setup, &$params) {
            Some(made) => made.expect("a valid setup"),
            None => return,
        }
    };
}
pub(crate) use make;
