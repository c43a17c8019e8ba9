//! Gradient descent, plain and with momentum.

use super::{Check, builders, hyper};
use crate::blocks::descend;
use crate::definition::{Definition, Levels, Optimizer, Recipe};
use crate::error::Result;
use crate::value::{Interpreter, Step};

/// SGD: a step against the gradient, or against a running sum of gradients.
///
/// For a parameter W with gradient G, at step t, element by element:
/// ```text
/// G = G + λ W
/// B ← μ B + (1−τ) G              (with momentum; B ← G at step 1)
/// U = G + μ B  |  B  |  G        (Nesterov | momentum | neither)
/// W ← (1 − η λ') W − η U
/// ```
/// with η = `lr`, μ = `momentum`, τ = `dampening`, λ = `weight_decay`, λ' =
/// `decoupled_weight_decay`.
///
/// * State: B `momentum_buffer`, 4 bytes a parameter in `f32`; none without momentum.
/// * Sweeps: 1, moving 12 bytes a parameter, 20 with momentum.
/// * Units: `lr`: change of W per unit of gradient. `weight_decay`: gradient per unit of W.
///   `decoupled_weight_decay`: per unit of `lr`. `momentum`, `dampening`: none.
/// * Vectors and scalars: the same.
/// * Errors: [`Error::Hyper`](crate::Error::Hyper) for a number out of its range, and for
///   `nesterov` without momentum or with dampening; [`Error::Structure`](crate::Error::Structure)
///   if `nesterov` changes, or `momentum` from or to 0, after preparation. A non-finite gradient
///   stays in the momentum for good.
/// * Source: Polyak 1964, Nesterov 1983, Sutskever et al. 2013; code `torch.optim.SGD`, torch 2.12.
/// * Differs from the source: `decoupled_weight_decay` is an addition, the form that AdamW has. Any
///   `momentum` of 1 or more and `dampening` outside 0 to 1 are refused. torch has no default `lr` in
///   older versions; 1e-3 is that of the newer ones.
///
/// # Example
/// ```
/// use gradstep::{Cpu, optim::Sgd};
///
/// let mut sgd = Cpu::default().prepare::<f64, _>(Sgd::new(0.1).with_momentum(0.9), [2])?;
/// let mut w = [1.0, 2.0];
/// sgd.step(&mut w, &[1.0, -1.0])?; // B = ±1
/// sgd.step(&mut w, &[1.0, -1.0])?; // B = ±1.9
/// assert!((w[0] - 0.71).abs() < 1e-12 && (w[1] - 2.29).abs() < 1e-12);
/// # Ok::<(), gradstep::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(default))]
#[non_exhaustive]
pub struct Sgd {
    /// Learning rate η.
    pub lr: f64,
    /// What the momentum keeps of itself, μ. 0: no momentum and no state.
    pub momentum: f64,
    /// The share of the gradient that does not enter the momentum, τ, from step 2 on.
    pub dampening: f64,
    /// Whether the step looks ahead along the momentum.
    pub nesterov: bool,
    /// L2 penalty λ: `weight_decay · W` is added to the gradient.
    pub weight_decay: f64,
    /// Decoupled weight decay λ': a step shrinks W by the fraction `lr · decoupled_weight_decay`.
    pub decoupled_weight_decay: f64,
}

impl Default for Sgd {
    fn default() -> Self {
        Self {
            lr: 1e-3,
            momentum: 0.0,
            dampening: 0.0,
            nesterov: false,
            weight_decay: 0.0,
            decoupled_weight_decay: 0.0,
        }
    }
}

impl Sgd {
    /// Plain gradient descent with this learning rate.
    #[must_use]
    pub fn new(lr: f64) -> Self {
        Self { lr, ..Self::default() }
    }
}

builders!(Sgd {
    with_lr => lr: f64,
    with_momentum => momentum: f64,
    with_dampening => dampening: f64,
    with_nesterov => nesterov: bool,
    with_weight_decay => weight_decay: f64,
    with_decoupled_weight_decay => decoupled_weight_decay: f64,
});

/// The step of [`Sgd`]. `NESTEROV` needs `MOMENTUM`.
#[derive(Clone, Copy, Debug)]
pub struct SgdStep<const MOMENTUM: bool, const NESTEROV: bool>;

impl<const MOMENTUM: bool, const NESTEROV: bool> Definition for SgdStep<MOMENTUM, NESTEROV> {
    const NAME: &'static str = match (MOMENTUM, NESTEROV) {
        (false, _) => "sgd",
        (true, false) => "sgd_momentum",
        (true, true) => "sgd_nesterov",
    };
    const LEVELS: Levels = Levels::flat(1);

    #[inline(always)]
    fn step<I: Interpreter>(s: Step<'_, I>) {
        let (w, t) = (s.param(), s.t());
        let [lr, weight_decay, decoupled] =
            s.hyper(["lr", "weight_decay", "decoupled_weight_decay"]);

        let mut u = s.grad() + w * weight_decay;
        if MOMENTUM {
            let [momentum, dampening] = s.hyper(["momentum", "dampening"]);
            let share = t.less_than(2.0).select(1.0, 1.0 - dampening);
            let b = s.full("momentum_buffer");
            let b = b.set(b.old() * momentum + u * share);
            u = if NESTEROV { u + b * momentum } else { b };
        }
        s.set_param(descend(w, u * lr, lr * decoupled));
    }
}

impl Optimizer for Sgd {
    hyper!(lr, momentum, dampening, weight_decay, decoupled_weight_decay);

    // Never inlined into another crate: that would compile the loops there once more.
    #[inline(never)]
    fn recipe(&self) -> Recipe {
        match (self.momentum > 0.0, self.nesterov) {
            (false, _) => Recipe::of::<SgdStep<false, false>>(),
            (true, false) => Recipe::of::<SgdStep<true, false>>(),
            (true, true) => Recipe::of::<SgdStep<true, true>>(),
        }
    }

    fn check(&self) -> Result<()> {
        let mut check = Check::new("sgd");
        check.not_negative("lr", self.lr);
        check.decay("momentum", self.momentum);
        let share = (0.0..=1.0).contains(&self.dampening);
        check.that(share, "dampening", self.dampening, "from 0 to 1");
        check.not_negative("weight_decay", self.weight_decay);
        check.not_negative("decoupled_weight_decay", self.decoupled_weight_decay);
        check.that(
            !self.nesterov || (self.momentum > 0.0 && self.dampening == 0.0),
            "nesterov",
            f64::from(self.nesterov),
            "off, or used with momentum and without dampening",
        );
        check.result()
    }
}
