//! Adam and AdamW: one definition, two ways of weight decay.

use super::{Check, builders, hyper};
use crate::blocks::{bias_correction, descend};
use crate::definition::{Definition, Levels, Optimizer, Recipe};
use crate::error::Result;
use crate::value::{Interpreter, Step};

/// Adam: a momentum divided by the root of a moving mean square, both corrected for their start.
///
/// For a parameter W with gradient G, at step t, element by element:
/// ```text
/// G = G + λ W
/// M ← β₁ M + (1−β₁) G
/// V ← β₂ V + (1−β₂) G²
/// X ← max(X, V)                               (with amsgrad; else X = V)
/// W ← W − η/(1−β₁ᵗ) · M / (√X / √(1−β₂ᵗ) + ε)
/// ```
/// with η = `lr`, λ = `weight_decay` (an L2 penalty; [`AdamW`] decouples it).
///
/// * State: M `exp_avg`, V `exp_avg_sq`: 8 bytes a parameter in `f32`; with `amsgrad` X
///   `max_exp_avg_sq`, 12 bytes.
/// * Sweeps: 1, moving 28 bytes a parameter, 36 with `amsgrad`.
/// * Units: `lr`: change of W per step. `weight_decay`: gradient per unit of W. `eps`: that of G.
/// * Vectors and scalars: the same.
/// * Errors: [`Error::Hyper`](crate::Error::Hyper) for a number out of its range;
///   [`Error::Structure`](crate::Error::Structure) if `amsgrad` changes after preparation. A
///   non-finite gradient makes the state of its element non-finite for good.
/// * Source: Kingma and Ba 2015, arXiv:1412.6980, Algorithm 1; Reddi et al. 2018 (`amsgrad`); code
///   `torch.optim.Adam`, torch 2.12.
/// * Differs from the source: nothing.
///
/// # Example
/// ```
/// use gradstep::{Cpu, optim::Adam};
///
/// let mut adam = Cpu::default().prepare::<f32, _>(Adam::new(1e-3), [2])?;
/// let mut w = [1.0, -2.0];
/// adam.step(&mut w, &[0.5, -3.0])?; // the first step is lr · sign(G)
/// assert!((w[0] - 0.999f32).abs() < 1e-6 && (w[1] + 1.999f32).abs() < 1e-6);
/// # Ok::<(), gradstep::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(default))]
#[non_exhaustive]
pub struct Adam {
    /// Learning rate η.
    pub lr: f64,
    /// Decay of the first moment, β₁.
    pub beta1: f64,
    /// Decay of the second moment, β₂.
    pub beta2: f64,
    /// Added to the root of the second moment, ε.
    pub eps: f64,
    /// L2 penalty λ: `weight_decay · W` is added to the gradient.
    pub weight_decay: f64,
    /// Whether the greatest second moment so far is used in place of the newest.
    pub amsgrad: bool,
}

/// AdamW: [`Adam`] with decoupled weight decay, which the second moment does not rescale.
///
/// For a parameter W with gradient G, at step t, element by element:
/// ```text
/// M ← β₁ M + (1−β₁) G
/// V ← β₂ V + (1−β₂) G²
/// X ← max(X, V)                               (with amsgrad; else X = V)
/// W ← (1 − ηλ) W − η/(1−β₁ᵗ) · M / (√X / √(1−β₂ᵗ) + ε)
/// ```
/// with η = `lr`, λ = `weight_decay`.
///
/// * State: M `exp_avg`, V `exp_avg_sq`: 8 bytes a parameter in `f32`; with `amsgrad` X
///   `max_exp_avg_sq`, 12 bytes.
/// * Sweeps: 1, moving 28 bytes a parameter, 36 with `amsgrad`.
/// * Units: `lr`: change of W per step. `weight_decay`: per unit of `lr`. `eps`: that of G.
/// * Vectors and scalars: the same.
/// * Errors: as for [`Adam`].
/// * Source: Loshchilov and Hutter 2019, arXiv:1711.05101, Algorithm 2; code `torch.optim.AdamW`,
///   torch 2.12.
/// * Differs from the source: in the paper the decay is multiplied by a schedule alone, not by
///   `lr`; this is torch's form, the usual one.
///
/// # Example
/// ```
/// use gradstep::{Cpu, optim::AdamW};
///
/// let mut adamw = Cpu::default().prepare::<f32, _>(AdamW::new(1e-3), [2])?;
/// let mut w = [1.0, -2.0];
/// adamw.step(&mut w, &[0.5, -3.0])?; // W (1 − 1e-5) − 1e-3 sign(G)
/// assert!((w[0] - 0.99899f32).abs() < 1e-6 && (w[1] + 1.99898f32).abs() < 1e-6);
/// # Ok::<(), gradstep::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(default))]
#[non_exhaustive]
pub struct AdamW {
    /// Learning rate η.
    pub lr: f64,
    /// Decay of the first moment, β₁.
    pub beta1: f64,
    /// Decay of the second moment, β₂.
    pub beta2: f64,
    /// Added to the root of the second moment, ε.
    pub eps: f64,
    /// Decoupled weight decay λ: a step shrinks W by the fraction `lr · weight_decay`.
    pub weight_decay: f64,
    /// Whether the greatest second moment so far is used in place of the newest.
    pub amsgrad: bool,
}

/// The step of [`Adam`] and, `DECOUPLED`, of [`AdamW`].
#[derive(Clone, Copy, Debug)]
pub struct AdamStep<const DECOUPLED: bool, const AMSGRAD: bool>;

impl<const DECOUPLED: bool, const AMSGRAD: bool> Definition for AdamStep<DECOUPLED, AMSGRAD> {
    const NAME: &'static str = match (DECOUPLED, AMSGRAD) {
        (false, false) => "adam",
        (false, true) => "adam_amsgrad",
        (true, false) => "adamw",
        (true, true) => "adamw_amsgrad",
    };
    const LEVELS: Levels = Levels::flat(1);

    #[inline(always)]
    fn step<I: Interpreter>(s: Step<'_, I>) {
        let (g, w, t) = (s.grad(), s.param(), s.t());
        let [lr, beta1, beta2, eps, weight_decay] =
            s.hyper(["lr", "beta1", "beta2", "eps", "weight_decay"]);

        let g = if DECOUPLED { g } else { g + w * weight_decay };
        let m = s.full("exp_avg").ema(g, beta1);
        let mut v = s.full("exp_avg_sq").ema(g.square(), beta2);
        if AMSGRAD {
            let greatest = s.full("max_exp_avg_sq");
            v = greatest.set(v.at_least(greatest.old()));
        }
        let u = m / (v.sqrt() * bias_correction(beta2, t).rsqrt() + eps);
        let update = u * (lr / bias_correction(beta1, t));
        s.set_param(if DECOUPLED { descend(w, update, lr * weight_decay) } else { w - update });
    }
}

/// What the two structs have in common, which is everything but the definition.
macro_rules! adam {
    ($optimizer:ident, $name:literal, $weight_decay:literal, $decoupled:literal) => {
        impl Default for $optimizer {
            fn default() -> Self {
                Self {
                    lr: 1e-3,
                    beta1: 0.9,
                    beta2: 0.999,
                    eps: 1e-8,
                    weight_decay: $weight_decay,
                    amsgrad: false,
                }
            }
        }

        impl $optimizer {
            /// torch's settings with this learning rate.
            #[must_use]
            pub fn new(lr: f64) -> Self {
                Self { lr, ..Self::default() }
            }
        }

        builders!($optimizer {
            with_lr => lr: f64,
            with_beta1 => beta1: f64,
            with_beta2 => beta2: f64,
            with_eps => eps: f64,
            with_weight_decay => weight_decay: f64,
            with_amsgrad => amsgrad: bool,
        });

        impl Optimizer for $optimizer {
            hyper!(lr, beta1, beta2, eps, weight_decay);

            // Never inlined into another crate: that would compile the loops there once more.
            #[inline(never)]
            fn recipe(&self) -> Recipe {
                if self.amsgrad {
                    Recipe::of::<AdamStep<$decoupled, true>>()
                } else {
                    Recipe::of::<AdamStep<$decoupled, false>>()
                }
            }

            fn check(&self) -> Result<()> {
                let mut check = Check::new($name);
                check.not_negative("lr", self.lr);
                check.decay("beta1", self.beta1);
                check.decay("beta2", self.beta2);
                check.not_negative("eps", self.eps);
                check.not_negative("weight_decay", self.weight_decay);
                check.result()
            }
        }
    };
}

adam!(Adam, "adam", 0.0, false);
adam!(AdamW, "adamw", 1e-2, true);
