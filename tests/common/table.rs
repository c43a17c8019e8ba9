//! One table of optimizers × one table of shapes × one table of values: every test goes through it.
//!
//! A new optimizer is one line in [`optimizers`] and is then tested everywhere.

use std::sync::Arc;

use gradstep::optim::*;
use gradstep::{Layout, Optimizer, Recipe};

/// An optimizer without its type, and hyper-parameters that replace its own.
#[derive(Clone, Debug)]
pub struct Any {
    inner: Arc<dyn Optimizer + Send + Sync>,
    set: Vec<(&'static str, f64)>,
}

impl Any {
    pub fn new(optimizer: impl Optimizer + Send + Sync + 'static) -> Self {
        Self { inner: Arc::new(optimizer), set: Vec::with_capacity(32) }
    }

    /// Replaces a hyper-parameter.
    pub fn set(&mut self, name: &'static str, value: f64) {
        match self.set.iter_mut().find(|(n, _)| *n == name) {
            Some(entry) => entry.1 = value,
            None => self.set.push((name, value)),
        }
    }

    pub fn get(&self, name: &str) -> f64 {
        self.hyper(name).unwrap_or(f64::NAN)
    }
}

impl Optimizer for Any {
    fn hyper(&self, name: &str) -> Option<f64> {
        let set = self.set.iter().find(|(n, _)| *n == name).map(|(_, x)| *x);
        set.or_else(|| self.inner.hyper(name))
    }
    fn recipe(&self) -> Recipe {
        self.inner.recipe()
    }
    fn check(&self) -> gradstep::Result<()> {
        self.inner.check()
    }
}

/// A line of the table.
#[derive(Clone, Debug)]
pub struct Case {
    pub name: &'static str,
    pub optimizer: Any,
}

macro_rules! cases {
    ($($name:literal => $optimizer:expr,)*) => {
        vec![$(Case { name: $name, optimizer: Any::new($optimizer) }),*]
    };
}

/// Every optimizer with every option that changes the structure of its step.
pub fn optimizers() -> Vec<Case> {
    cases! {
        "sgd" => Sgd::new(0.05),
        "sgd decay" => Sgd::new(0.05).with_weight_decay(0.01),
        "sgd momentum" => Sgd::new(0.05).with_momentum(0.9).with_dampening(0.1).with_decoupled_weight_decay(0.01),
        "sgd nesterov" => Sgd::new(0.05).with_momentum(0.9).with_nesterov(true),
        "adam" => Adam::new(0.01).with_weight_decay(0.01),
        "adam amsgrad" => Adam::new(0.01).with_amsgrad(true),
        "adamw" => AdamW::default(),
        "adamw amsgrad" => AdamW::new(0.01).with_amsgrad(true),
        "adafactor hf" => Adafactor::hugging_face(),
        "adafactor hf unscaled" => Adafactor::hugging_face().with_lr(1e-3).with_scale_parameter(false).with_relative_step(false),
        "adafactor hf momentum" => Adafactor::hugging_face().with_lr(1e-3).with_scale_parameter(false).with_relative_step(false).with_beta1(Some(0.9)),
        "adafactor hf scaled momentum" => Adafactor::hugging_face().with_beta1(Some(0.9)).with_weight_decay(0.01).with_warmup_init(true),
        "adafactor torch" => Adafactor::torch().with_weight_decay(0.01),
        "adafactor paper" => Adafactor::paper(),
        "sm3" => Sm3::new(0.1),
        "sm3 momentum" => Sm3::new(0.01).with_momentum(0.9),
        "came" => Came::new(1e-3),
        "came decay" => Came::new(1e-3).with_weight_decay(0.01),
        "came clipped" => Came::new(1e-3).with_clip_update(Some(1.0)),
        "came init one" => Came::new(1e-3).with_variant(CameVariant::InitOne),
        "came init one clipped" => Came::new(1e-3).with_variant(CameVariant::InitOne).with_clip_update(Some(0.5)),
        "came bias corrected" => Came::new(1e-3).with_variant(CameVariant::BiasCorrected),
    }
}

/// A tensor's shape and how it is seen.
#[derive(Clone, Debug)]
pub struct Tensor {
    pub shape: Vec<usize>,
    pub layout: Layout,
}

fn tensors(list: &[(&[usize], Layout)]) -> Vec<Tensor> {
    list.iter().map(|&(shape, layout)| Tensor { shape: shape.to_vec(), layout }).collect()
}

/// Small tensors: every rank, every layout, empty ones, and lengths around a vector of lanes.
pub fn small_shapes() -> Vec<Tensor> {
    use Layout::{Auto, Flatten, LastTwo, Vector};
    tensors(&[
        (&[], Auto),
        (&[1], Auto),
        (&[5], Auto),
        (&[15], Auto),
        (&[16], Auto),
        (&[17], Auto),
        (&[251], Auto),
        (&[1, 1], Auto),
        (&[3, 4], Auto),
        (&[3, 4], Vector),
        (&[7, 15], Auto),
        (&[7, 16], Auto),
        (&[7, 17], Auto),
        (&[1, 37], Auto),
        (&[37, 1], Auto),
        (&[63, 5], Auto),
        (&[64, 5], Auto),
        (&[65, 5], Auto),
        (&[131, 3], Auto),
        (&[3, 131], Auto),
        (&[3, 5, 4], LastTwo),
        (&[3, 5, 4], Flatten),
        (&[3, 5, 4], Vector),
        (&[3, 5, 4], Auto),
        (&[2, 3, 3, 2], LastTwo),
        (&[2, 3, 3, 2], Flatten),
        (&[2, 3, 3, 2], Auto),
        (&[2, 1, 7, 19], LastTwo),
        (&[0], Auto),
        (&[0, 4], Auto),
        (&[4, 0], Auto),
        (&[2, 0, 3], LastTwo),
        (&[0, 3, 4], LastTwo),
    ])
}

/// Lengths around a tile, a block of rows and a segment: a few thousand elements up.
pub fn medium_shapes() -> Vec<Tensor> {
    use Layout::{Auto, Flatten, LastTwo};
    tensors(&[
        (&[4095], Auto),
        (&[4096], Auto),
        (&[4097], Auto),
        (&[3, 4095], Auto),
        (&[3, 4096], Auto),
        (&[3, 4097], Auto),
        (&[4099, 3], Auto),
        (&[257, 129], Auto),
        (&[200, 7, 11], LastTwo),
        (&[67, 40, 5], LastTwo),
        (&[64, 32, 3, 3], Flatten),
        (&[64, 8, 3, 3], LastTwo),
    ])
}

/// Large enough for several segments (and so threads), and the class of few, very long rows.
pub fn large_shapes() -> Vec<Tensor> {
    use Layout::{Auto, LastTwo};
    tensors(&[
        (&[200_003], Auto),
        (&[701, 257], Auto),
        (&[300, 1031], Auto),
        (&[3, 700, 211], LastTwo),
        (&[3, 40_009], Auto),
        (&[2, 3, 40_000], LastTwo),
        (&[1, 150_001], Auto),
        (&[150_001, 1], Auto),
        (&[60_000, 3], Auto),
    ])
}

pub fn all_shapes() -> Vec<Tensor> {
    [small_shapes(), medium_shapes(), large_shapes()].concat()
}

/// A family of gradients.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Values {
    /// Normal numbers.
    Normal,
    /// Scales from 1e-9 to 1e2, another one at each step.
    Mixed,
    /// Nothing but zeros.
    Zeros,
    /// Up to 1e15: squares stay finite in `f32`.
    Huge,
    /// 1e-20: squares are below the normal numbers of `f32`.
    Tiny,
    /// A third of the rows never moves, another third begins at step 6.
    IdleRows,
}

pub const VALUES: [Values; 6] =
    [Values::Normal, Values::Mixed, Values::Zeros, Values::Huge, Values::Tiny, Values::IdleRows];

/// Seeded numbers (SplitMix64), the same on every platform.
#[derive(Clone, Debug)]
pub struct Rng(pub u64);

impl Rng {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// In [0, 1).
    pub fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }

    pub fn between(&mut self, from: f64, to: f64) -> f64 {
        from + (to - from) * self.unit()
    }

    pub fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }

    /// Nearly normal: the sum of four uniform numbers, with variance 1.
    pub fn normal(&mut self) -> f64 {
        ((0..4).map(|_| self.unit()).sum::<f64>() - 2.0) * 3f64.sqrt()
    }
}

/// The seed of all tests: `GRADSTEP_SEED`, or a fixed one.
pub fn base_seed() -> u64 {
    let parse = |s: String| s.parse().expect("GRADSTEP_SEED is a whole number");
    std::env::var("GRADSTEP_SEED").map_or(230_702_047, parse)
}

/// A seed for one case of the table: the base seed and the case's name.
pub fn seed_of(name: &str) -> u64 {
    name.bytes().fold(base_seed(), |h, b| (h ^ u64::from(b)).wrapping_mul(0x100_0000_01b3))
}

/// Initial parameters. All numbers here are exact in `f32`.
pub fn params(seed: u64, n: usize) -> Vec<f64> {
    let mut rng = Rng(seed);
    (0..n).map(|_| f64::from((0.5 * rng.normal()) as f32)).collect()
}

/// The gradient of step `t` (from 1). Exact in `f32`.
pub fn gradient(values: Values, seed: u64, t: u64, shape: &[usize]) -> Vec<f64> {
    let n: usize = shape.iter().product();
    let cols = if shape.len() < 2 { 1 } else { shape[shape.len() - 1] };
    let mut rng = Rng(seed ^ (t << 32) ^ 0x6772_6164);
    let scale = match values {
        Values::Zeros => 0.0,
        Values::Huge => 1e14,
        Values::Tiny => 1e-20,
        Values::Mixed => [1.0, 1e-3, 1e2, 1e-9, 10.0, 1e-6, 0.1, 1e-2][(t + seed % 8) as usize % 8],
        Values::Normal | Values::IdleRows => 1.0,
    };
    (0..n)
        .map(|i| {
            let row = i / cols.max(1);
            let idle = values == Values::IdleRows && (row % 3 == 1 || row % 3 == 2 && t < 6);
            let x = rng.normal();
            if idle { 0.0 } else { f64::from((scale * x) as f32) }
        })
        .collect()
}

/// Other hyper-parameters than the usual ones, by what their names say. Names that are not known
/// here keep their values.
pub fn vary(optimizer: &mut Any, names: &[&'static str], rng: &mut Rng) {
    for &name in names {
        let value = match name {
            "lr" => 10f64.powf(rng.between(-4.0, -1.0)),
            // Not small: CAME squares u - m, which cancels then, and error means nothing.
            "beta1" | "momentum" if optimizer.get(name) > 0.0 => rng.between(0.8, 0.99),
            "beta2" if optimizer.get(name) < 1.0 => rng.between(0.8, 0.9999),
            "beta3" => rng.between(0.8, 0.99999),
            "weight_decay" => rng.between(0.0, 0.1),
            "clip_threshold" => rng.between(0.3, 2.0),
            "dampening" => rng.between(0.0, 0.9),
            _ => continue,
        };
        optimizer.set(name, value);
    }
}
