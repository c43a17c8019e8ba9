//! An optimizer of your own: written once, run on the CPU and on the GPU.
//!
//! ```text
//! cargo run --release --example custom_optimizer
//! ```
//!
//! The library has no Lion with a factored second moment. Here is one: `step` below is all its
//! mathematics. What follows are its settings (`FactoredLion`), a problem to train on, and the two
//! backends. Copy the file and change the mathematics.

use gradstep::value::{Interpreter, Step};
use gradstep::{Cpu, Definition, Error, Levels, Optimizer, Recipe, Result};

/// The mathematics of one step.
///
/// For a parameter W (n×m) with gradient G:
/// ```text
/// R ← β₂ R + (1−β₂) mean of the rows of G² + ε            n
/// C ← β₂ C + (1−β₂) mean of the columns of G² + ε         m
/// U = G / √(R Cᵀ / mean R) · √(1−β₂ᵗ)      Adafactor's normalised gradient
/// M ← β₁ M + (1−β₁) U
/// K = mean |M|                              one number for the tensor
/// W ← W − η (min(max(M, −K), K) + λ W)
/// ```
/// Lion steps along sign(M): all elements equally far, for ever. Here only those above the mean
/// size of the momentum do, and the step shrinks with it, so that no schedule is needed to come to
/// rest.
struct FactoredLionStep;

impl Definition for FactoredLionStep {
    const NAME: &'static str = "factored_lion";
    // One loop over the elements for each level: reductions that wait for each other. Begin with
    // any number; a wrong one is an error that tells the right one.
    const LEVELS: Levels = Levels::factored(2, 3);

    #[inline(always)] // Without it the step is some fifty times slower.
    fn step<I: Interpreter>(s: Step<'_, I>) {
        let (g, w) = (s.grad(), s.param());
        let [lr, beta1, beta2, eps, decay] = s.hyper(["lr", "beta1", "beta2", "eps", "decay"]);
        let sq = g.square() + eps;
        let u = if s.is_matrix() {
            // State with one number per row and per column; shapes broadcast by themselves.
            let r = s.rows("r").ema(sq.row_mean(), beta2);
            let c = s.cols("c").ema(sq.col_mean(), beta2);
            g * ((r / r.mean()).rsqrt() * c.rsqrt())
        } else {
            // A vector has no rows: it keeps the whole second moment.
            g * s.full("v").ema(sq, beta2).rsqrt()
        };
        // Averages begin at zero; 1 − βᵗ makes up for it. Settings are computed with in f64, once
        // a step.
        let m = s.full("m").ema(u * (1.0 - beta2.pow(s.t())).sqrt(), beta1);
        let k = m.abs().tensor_mean();
        s.set_param(w - (m.at_most(k).at_least(-k) + w * decay) * lr);
    }
}

/// The settings.
#[derive(Clone, Debug)]
struct FactoredLion {
    lr: f64,
    beta1: f64,
    beta2: f64,
    eps: f64,
    decay: f64,
}

impl FactoredLion {
    fn new(lr: f64) -> Self {
        Self { lr, beta1: 0.9, beta2: 0.99, eps: 1e-30, decay: 0.0 }
    }
}

impl Optimizer for FactoredLion {
    /// What `step` asks for by name. Values may change between steps; nothing is compiled again.
    fn hyper(&self, name: &str) -> Option<f64> {
        Some(match name {
            "lr" => self.lr,
            "beta1" => self.beta1,
            "beta2" => self.beta2,
            "eps" => self.eps,
            "decay" => self.decay,
            _ => return None,
        })
    }

    fn recipe(&self) -> Recipe {
        Recipe::of::<FactoredLionStep>()
    }

    fn check(&self) -> Result<()> {
        if self.lr >= 0.0 && self.lr.is_finite() {
            return Ok(());
        }
        Err(Error::Hyper {
            optimizer: "FactoredLion",
            name: "lr",
            value: self.lr,
            expected: "finite and not negative",
        })
    }
}

/// Rows and columns of the parameter.
const SHAPE: [usize; 2] = [24, 40];
const STEPS: usize = 300;

/// Least squares: the parameter is to become `target`, seen through weights of 1/4 to 4.
struct Problem {
    target: Vec<f32>,
    weight: Vec<f32>,
}

impl Problem {
    fn new() -> Self {
        let mut rng = fastrand::Rng::with_seed(7);
        let n = SHAPE.iter().product();
        Self {
            target: (0..n).map(|_| rng.f32() * 2.0 - 1.0).collect(),
            weight: (0..n).map(|_| (rng.f32() * 4.0 - 2.0).exp2()).collect(),
        }
    }

    fn loss(&self, w: &[f32]) -> f64 {
        let terms = w.iter().zip(&self.target).zip(&self.weight);
        terms.map(|((w, t), k)| 0.5 * f64::from(k * (w - t) * (w - t))).sum()
    }

    fn gradient(&self, w: &[f32]) -> Vec<f32> {
        let terms = w.iter().zip(&self.target).zip(&self.weight);
        terms.map(|((w, t), k)| k * (w - t)).collect()
    }
}

fn main() -> Result<()> {
    let problem = Problem::new();
    let settings = FactoredLion::new(0.05);

    // On the CPU, over memory that is yours.
    let mut w = vec![0.0f32; SHAPE.iter().product()];
    let mut step = Cpu::default().prepare::<f32, _>(settings.clone(), SHAPE)?;
    println!("{}", step.plan());
    println!("{} bytes of state; AdamW would keep {}\n", step.state_bytes(), 8 * w.len());
    let first = problem.loss(&w);
    let mut gradients = Vec::new();
    for t in 0..STEPS {
        if t % 50 == 0 {
            println!("step {t:3}  loss {:.6}", problem.loss(&w));
        }
        let g = problem.gradient(&w);
        step.step(&mut w, &g)?;
        gradients.push(g);
    }
    let last = problem.loss(&w);
    println!("step {STEPS:3}  loss {last:.6}");
    assert!(last < first / 1000.0, "the loss fell from {first} to {last} only");

    // The same definition on the GPU, with the gradients that the CPU saw.
    match on_gpu(settings, &gradients)? {
        None => println!("GPU: no adapter, or built without the feature `gpu`; nothing compared"),
        Some((adapter, found)) => {
            let difference = found.iter().zip(&w).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            println!("GPU: {adapter}; the parameter differs from the CPU's by {difference:.1e}");
            assert!(difference < 1e-5, "the backends differ by {difference}");
        }
    }
    Ok(())
}

/// The adapter's name and the parameter after all steps, if there is an adapter.
#[cfg(feature = "gpu")]
fn on_gpu(settings: FactoredLion, gradients: &[Vec<f32>]) -> Result<Option<(String, Vec<f32>)>> {
    use gradstep::gpu::Gpu;
    use pollster::block_on;

    let gpu = match block_on(Gpu::open()) {
        Ok(gpu) => gpu,
        Err(Error::NoAdapter { .. }) => return Ok(None),
        Err(error) => return Err(error),
    };
    // An arena keeps parameters, gradients and state of all tensors on the device.
    let mut arena = block_on(gpu.arena(settings, &[SHAPE]))?;
    arena.write_param(0, &vec![0.0; SHAPE.iter().product()])?;
    for g in gradients {
        // A program that trains on the GPU writes gradients from its own shaders (`arena.grad`),
        // and encodes the step behind them into the same encoder.
        arena.write_grad(0, g)?;
        let mut encoder = gpu.device().create_command_encoder(&Default::default());
        arena.encode(&mut encoder)?;
        gpu.queue().submit([encoder.finish()]);
    }
    Ok(Some((gpu.name(), block_on(arena.read_param(0))?)))
}

#[cfg(not(feature = "gpu"))]
fn on_gpu(_: FactoredLion, _: &[Vec<f32>]) -> Result<Option<(String, Vec<f32>)>> {
    Ok(None)
}
