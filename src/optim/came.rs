//! CAME: confidence-guided adaptive memory-efficient optimization.

use super::{Check, builders, hyper};
use crate::blocks::{Factored, SecondMoment, bias_correction, descend, rms_clip};
use crate::definition::{Definition, Levels, Optimizer, Recipe};
use crate::error::Result;
use crate::value::{Interpreter, Step, Value};

/// CAME: Adafactor's factored second moment, with a momentum whose step is damped where it
/// disagrees with the newest update; Adam-like behaviour with little more than half of its state.
///
/// For a parameter W (n×m) with gradient G, at step t:
/// ```text
/// r ← β₂ r + (1−β₂) mean_cols(G² + ε₁)                          n
/// c ← β₂ c + (1−β₂) mean_rows(G² + ε₁)                          m
/// U = G / √(r cᵀ / mean r)                                      n×m
/// U = U / max(1, RMS(U)/d)                                      n×m
/// M ← β₁ M + (1−β₁) U                                           n×m
/// R ← β₃ R + (1−β₃) mean_cols((U − M)² + ε₂)                    n
/// C ← β₃ C + (1−β₃) mean_rows((U − M)² + ε₂)                    m
/// W ← (1 − ηλ) W − η M / √(R Cᵀ / mean R)                       n×m
/// ```
/// with η = `lr`, λ = `weight_decay`, d = `clip_threshold`. RMS is over the whole tensor, `mean r`
/// per matrix. [`CameVariant::BiasCorrected`] divides r, c by 1−β₂ᵗ, R, C by 1−β₃ᵗ and, in the
/// last line only, M by 1−β₁ᵗ. With `clip_update` = d₂ the update `M / √(…)` of the last line is
/// also divided by max(1, its RMS / d₂).
///
/// * State: M `exp_avg` (n×m), r, c `exp_avg_sq_row`, `exp_avg_sq_col` and R, C `exp_avg_res_row`,
///   `exp_avg_res_col`: 4nm + 8(n+m) bytes in `f32`.
/// * Sweeps: 3, moving 28 bytes a parameter in `f32`, with and without `clip_update`: both root mean
///   squares ride on sweeps that are made anyway.
/// * Units: `lr`: change of W per step. `weight_decay`: per unit of `lr`. `clip_threshold`,
///   `clip_update`: RMS of an update, no unit. `eps1`: that of G². `eps2`: none.
/// * Vectors and scalars: r, c are replaced by the whole second moment `exp_avg_sq`, and there is
///   no confidence step, as in the authors' code: `W ← (1 − ηλ) W − η M`. State 8 bytes, 2 sweeps
///   of 36 bytes a parameter (3 sweeps of 40 with `clip_update`).
/// * Errors: [`Error::Hyper`](crate::Error::Hyper) for a number out of its range;
///   [`Error::Structure`](crate::Error::Structure) if `clip_update` changes from or to `None` after
///   preparation. A change from or to `InitOne` comes too late then: slots have begun. A non-finite
///   gradient makes the tensor's state non-finite for good.
/// * Source: Luo et al. 2023, arXiv:2307.02047, Algorithm 2; code `came-pytorch` 0.1.3.
/// * Differs from the source: nothing with the default settings. The paper has no weight decay,
///   the authors' code has it as above. They require `lr`; the default here, 2e-4, is the one of
///   `pytorch_optimizer`. `InitOne`, `BiasCorrected` and `clip_update` are additions, for the
///   reasons given there.
///
/// # Example
/// ```
/// use gradstep::{Cpu, optim::Came};
///
/// let mut came = Cpu::default().prepare::<f32, _>(Came::new(1e-3), [2, 2])?;
/// let mut w = [1.0, 1.0, 1.0, 1.0];
/// came.step(&mut w, &[1.0, 2.0, 2.0, 4.0])?;
/// // G is of rank one, so U is 1 everywhere, M 0.1 and √(R Cᵀ / mean R) is 0.01 · 0.9.
/// for x in w {
///     assert!((x - (1.0 - 1e-3 * 0.1 / 0.009)).abs() < 1e-6);
/// }
/// assert_eq!(came.state_bytes(), 4 * (4 + 2 * (2 + 2)));
/// assert_eq!((came.plan().sweeps.len(), came.plan().bytes_per_parameter(4)), (3, 28));
/// # Ok::<(), gradstep::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(default))]
#[non_exhaustive]
pub struct Came {
    /// Learning rate η.
    pub lr: f64,
    /// Decay of the momentum, β₁.
    pub beta1: f64,
    /// Decay of the second moment, β₂.
    pub beta2: f64,
    /// Decay of the instability, β₃; greater than `beta2` as a rule.
    pub beta3: f64,
    /// Added to the squared gradient, ε₁.
    pub eps1: f64,
    /// Added to the squared deviation of the update from its momentum, ε₂.
    pub eps2: f64,
    /// Greatest RMS of the normalised gradient, d. Infinity: no clipping.
    pub clip_threshold: f64,
    /// Greatest RMS of the final update, before `lr`. CAME itself has no bound there, and the
    /// update grows without one while gradients stay the same; 1 is a sound value.
    pub clip_update: Option<f64>,
    /// Decoupled weight decay λ: a step shrinks W by the fraction `lr · weight_decay`.
    pub weight_decay: f64,
    /// How the averages begin.
    pub variant: CameVariant,
}

/// How the averages of [`Came`] begin.
///
/// The first step of a matrix, for a gradient of rank one or for independent noise, as RMS of the
/// change of W in units of `lr`, is given with each.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub enum CameVariant {
    /// As the authors' code: everything begins at zero and is used as it is. The confidence step
    /// then multiplies early updates by 1/√(1−β₃ᵗ): the first step is 11.1, a step after a
    /// thousand steps is still 3.2 times too long. Warm up `lr`.
    #[default]
    Official,
    /// R and C begin at one, which makes the first steps short: the first is 0.1.
    InitOne,
    /// Every average is divided by the weight it has so far, as Adam does: the first step is 1.11.
    /// The deviation of U from M uses the uncorrected M; with the corrected one it would be zero
    /// at the first step.
    BiasCorrected,
}

impl Default for Came {
    fn default() -> Self {
        Self {
            lr: 2e-4,
            beta1: 0.9,
            beta2: 0.999,
            beta3: 0.9999,
            eps1: 1e-30,
            eps2: 1e-16,
            clip_threshold: 1.0,
            clip_update: None,
            weight_decay: 0.0,
            variant: CameVariant::Official,
        }
    }
}

impl Came {
    /// The authors' settings with this learning rate; 0.5 to 0.9 times that of AdamW is advised.
    #[must_use]
    pub fn new(lr: f64) -> Self {
        Self { lr, ..Self::default() }
    }
}

builders!(Came {
    with_lr => lr: f64,
    with_beta1 => beta1: f64,
    with_beta2 => beta2: f64,
    with_beta3 => beta3: f64,
    with_eps1 => eps1: f64,
    with_eps2 => eps2: f64,
    with_clip_threshold => clip_threshold: f64,
    with_clip_update => clip_update: Option<f64>,
    with_weight_decay => weight_decay: f64,
    with_variant => variant: CameVariant,
});

/// The slots of the instability's rows and columns.
const CONFIDENCE: [&str; 2] = ["exp_avg_res_row", "exp_avg_res_col"];

/// The step of [`Came`].
#[derive(Clone, Copy, Debug)]
pub struct CameStep<const CLIP_UPDATE: bool>;

impl<const CLIP_UPDATE: bool> Definition for CameStep<CLIP_UPDATE> {
    const NAME: &'static str = if CLIP_UPDATE { "came_clipped" } else { "came" };
    const LEVELS: Levels = if CLIP_UPDATE {
        Levels::factored(3, 5).with_lines(5, 3)
    } else {
        Levels::factored(2, 4).with_lines(4, 3)
    };

    #[inline(always)]
    fn step<I: Interpreter>(s: Step<'_, I>) {
        let (g, w) = (s.grad(), s.param());
        let [lr, beta1, beta2, beta3] = s.hyper(["lr", "beta1", "beta2", "beta3"]);
        let [eps1, eps2, d, weight_decay] =
            s.hyper(["eps1", "eps2", "clip_threshold", "weight_decay"]);

        let v = SecondMoment::ema(s, g.square(), eps1, beta2).scaled(unbias(s, beta2));
        let u = v.normalize(g, rms_clip(v.normalized_rms(g), d).report("clip_factor"));
        let m = s.full("exp_avg").ema(u, beta1);

        let instability = if s.is_matrix() {
            let res = (u - m).square();
            let rc = Factored::ema(s, CONFIDENCE, res, eps2, beta3).scaled(unbias(s, beta3));
            rc.mean_rsqrt().report("mean_confidence");
            SecondMoment::factored(rc)
        } else {
            SecondMoment::one()
        };
        let mut step = lr * unbias(s, beta1);
        if CLIP_UPDATE {
            let [d2] = s.hyper(["clip_update"]);
            let rms = instability.normalized_rms(m) * unbias(s, beta1);
            step = step * rms_clip(rms, d2).report("update_clip_factor");
        }
        s.set_param(descend(w, instability.normalize(m, step), lr * weight_decay));
    }
}

/// What an average is multiplied by: `1/(1 − βᵗ)` if the variant corrects biases, else 1.
#[cfg_attr(not(gradstep_compact), inline(always))]
fn unbias<'a, I: Interpreter>(s: Step<'a, I>, beta: Value<'a, I>) -> Value<'a, I> {
    let [corrects] = s.hyper(["bias_correction"]);
    corrects.less_than(0.5).select(1.0, 1.0 / bias_correction(beta, s.t()))
}

impl Optimizer for Came {
    hyper!(
        lr, beta1, beta2, beta3, eps1, eps2, clip_threshold, weight_decay;
        clip_update;
        "bias_correction" => |came: &Self| came.variant == CameVariant::BiasCorrected
    );

    fn initial(&self, slot: &str) -> Option<f64> {
        let one = self.variant == CameVariant::InitOne && CONFIDENCE.contains(&slot);
        one.then_some(1.0)
    }

    // Never inlined into another crate: that would compile the loops there once more.
    #[inline(never)]
    fn recipe(&self) -> Recipe {
        match self.clip_update {
            None => Recipe::of::<CameStep<false>>(),
            Some(_) => Recipe::of::<CameStep<true>>(),
        }
    }

    fn check(&self) -> Result<()> {
        let mut check = Check::new("came");
        check.not_negative("lr", self.lr);
        check.decay("beta1", self.beta1);
        check.decay("beta2", self.beta2);
        check.decay("beta3", self.beta3);
        check.not_negative("eps1", self.eps1);
        check.not_negative("eps2", self.eps2);
        check.threshold("clip_threshold", self.clip_threshold);
        check.threshold("clip_update", self.clip_update.unwrap_or(f64::INFINITY));
        check.not_negative("weight_decay", self.weight_decay);
        check.result()
    }
}
