//! Adafactor: adaptive learning rates with sublinear memory cost.

use super::{Check, builders, hyper};
use crate::blocks::{Factored, SecondMoment, descend, rms_clip};
use crate::definition::{Definition, Levels, Optimizer, Recipe};
use crate::error::Result;
use crate::value::{Interpreter, Step, Value};

/// Adafactor: Adam's second moment kept as one number per row and one per column, no momentum, and
/// steps in proportion to the size of the parameter.
///
/// For a parameter W (n×m) with gradient G, at step t, [as in the paper and in Hugging Face's
/// code](AdafactorVariant::HuggingFace):
/// ```text
/// ρ = min(η, 1/√t, 10⁻⁶ t)                    (1/√t: relative_step, 10⁻⁶ t: warmup_init)
/// α = ρ max(ε₂, RMS(W))                       (with scale_parameter; else α = ρ)
/// β₂ = 1 − t^γ
/// r ← β₂ r + (1−β₂) mean_cols(G² + ε₁)        n
/// c ← β₂ c + (1−β₂) mean_rows(G² + ε₁)        m
/// U = G / √(r cᵀ / mean r)                    n×m
/// U = α U / max(1, RMS(U)/d)                  n×m
/// U = M ← β₁ M + (1−β₁) U                     n×m (with beta1)
/// W ← (1 − αλ) W − U                          n×m
/// ```
/// and [as in torch](AdafactorVariant::Torch), where the floor ε₁ is under V and not in the averages:
/// ```text
/// ρ = min(η, 1/√t),  α = ρ max(ε₂, RMS(W)),  β₂ = 1 − t^γ
/// r ← β₂ r + (1−β₂) mean_cols(G²)             n
/// c ← β₂ c + (1−β₂) mean_rows(G²)             m
/// V = max(r cᵀ / max(mean r, ε₁), ε₁²)        n×m
/// U = G / √V                                  n×m
/// W ← (1 − ηλ) W − α U / max(1, RMS(U)/d)     n×m
/// ```
/// with η = `lr`, γ = `decay_rate`, λ = `weight_decay`, d = `clip_threshold`. RMS is over the whole
/// tensor, `mean r` per matrix.
///
/// * State: r, c `exp_avg_sq_row`, `exp_avg_sq_col`: 4(n+m) bytes in `f32`; with `beta1` M
///   `exp_avg`, 4nm bytes more. (torch calls them `row_var`, `col_var`, and for vectors
///   `variance`; here all variants have the same names.)
/// * Sweeps: 2, moving 16 bytes a parameter in `f32`, 4 more with `scale_parameter`, 8 more with
///   `beta1`. The RMS of U rides on the first sweep. torch's floor is per element, so there it
///   takes a sweep of its own: 3, 24 bytes.
/// * Units: `lr`: with `scale_parameter` change of W per step as a fraction of W, else change of W per
///   step. `weight_decay`: per unit of α, in torch of η. `clip_threshold`: RMS of an update, no
///   unit. `eps1`: that of G², in torch of G² as floor of the mean and of G as floor of √V.
///   `eps2`: that of W.
/// * Vectors and scalars: r, c are replaced by the whole second moment `exp_avg_sq`; 2 sweeps of 28
///   bytes, 4 more with `scale_parameter` and in torch, 8 more with `beta1`.
/// * Errors: [`Error::Hyper`](crate::Error::Hyper) for a number out of its range, and for an
///   option that the variant does not have; [`Error::Structure`](crate::Error::Structure) if
///   `scale_parameter` changes, `beta1` from or to `None`, or `variant` from or to `Torch`, after
///   preparation. A non-finite gradient makes the tensor's state non-finite for good.
/// * Source: Shazeer and Stern 2018, arXiv:1804.04235, Algorithms 4 to 6; code
///   `transformers.optimization.Adafactor` 5.23 and `torch.optim.Adafactor`, torch 2.12.
/// * Differs from the source: `lr` bounds the relative step, where Hugging Face's code has the fixed
///   number 1e-2 (the default here) and refuses `lr`. torch forms r·c before it divides, which
///   underflows `f32` for gradients of about 1e-10; here r is divided first. torch's default ε₁ is
///   the machine epsilon of the parameter's type; here it is a number, 2⁻²³, which is that of `f32`:
///   an optimizer must not change its mathematics with the type.
///
/// # Example
/// ```
/// use gradstep::{Cpu, optim::Adafactor};
///
/// let mut adafactor = Cpu::default().prepare::<f32, _>(Adafactor::hugging_face(), [2, 2])?;
/// let mut w = [2.0; 4];
/// adafactor.step(&mut w, &[1.0, 2.0, 2.0, 4.0])?;
/// // G is of rank one, so U is 1 everywhere: W moves by 1e-2 of its RMS.
/// for x in w {
///     assert!((x - 1.98f32).abs() < 1e-6);
/// }
/// assert_eq!(adafactor.state_bytes(), 4 * (2 + 2));
/// assert_eq!((adafactor.plan().sweeps.len(), adafactor.plan().bytes_per_parameter(4)), (2, 20));
/// # Ok::<(), gradstep::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(default))]
#[non_exhaustive]
pub struct Adafactor {
    /// Learning rate η: the greatest step, and every step without `relative_step` and
    /// `warmup_init`.
    pub lr: f64,
    /// Decay of the momentum, β₁. `None`: no momentum and no state of the parameter's size.
    pub beta1: Option<f64>,
    /// Exponent γ of `β₂ = 1 − t^γ`, negative.
    pub decay_rate: f64,
    /// Added to the squared gradient, ε₁; in torch's variant the floors of the second moment.
    pub eps1: f64,
    /// Floor of the parameter's RMS in `scale_parameter`, ε₂.
    pub eps2: f64,
    /// Greatest RMS of the normalised gradient, d. Infinity: no clipping.
    pub clip_threshold: f64,
    /// Decoupled weight decay λ: a step shrinks W by the fraction `α · weight_decay`, in torch's
    /// variant `lr · weight_decay`.
    pub weight_decay: f64,
    /// Whether steps are in proportion to the parameter's RMS.
    pub scale_parameter: bool,
    /// Whether `1/√t` bounds the step.
    pub relative_step: bool,
    /// Whether `10⁻⁶ t` bounds the step.
    pub warmup_init: bool,
    /// Whose formulas.
    pub variant: AdafactorVariant,
}

/// Whose formulas [`Adafactor`] follows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub enum AdafactorVariant {
    /// Those of Hugging Face's `transformers`: the paper's, with options for all else.
    #[default]
    HuggingFace,
    /// Those of `torch.optim`: ε₁ is a floor, the decay is by `lr`. Parameter scaling and relative
    /// steps are always on; there is no momentum and no warm-up.
    Torch,
    /// Those of the paper, and nothing else: as `HuggingFace`, with parameter scaling and relative
    /// steps on, without momentum, warm-up and weight decay.
    Paper,
}

impl Default for Adafactor {
    fn default() -> Self {
        Self {
            lr: 1e-2,
            beta1: None,
            decay_rate: -0.8,
            eps1: 1e-30,
            eps2: 1e-3,
            clip_threshold: 1.0,
            weight_decay: 0.0,
            scale_parameter: true,
            relative_step: true,
            warmup_init: false,
            variant: AdafactorVariant::HuggingFace,
        }
    }
}

impl Adafactor {
    /// The defaults of Hugging Face's `transformers`: steps of min(1e-2, 1/√t) of the parameter's
    /// RMS. For steps of a given size, add `.with_relative_step(false)`,
    /// `.with_scale_parameter(false)` and `.with_lr(…)`.
    #[must_use]
    pub fn hugging_face() -> Self {
        Self::default()
    }

    /// The defaults of `torch.optim.Adafactor` for `f32`.
    #[must_use]
    pub fn torch() -> Self {
        let eps1 = f64::from(f32::EPSILON);
        Self { eps1, variant: AdafactorVariant::Torch, ..Self::default() }
    }

    /// The paper's proposal (its Algorithm 6).
    #[must_use]
    pub fn paper() -> Self {
        Self { variant: AdafactorVariant::Paper, ..Self::default() }
    }
}

builders!(Adafactor {
    with_lr => lr: f64,
    with_beta1 => beta1: Option<f64>,
    with_decay_rate => decay_rate: f64,
    with_eps1 => eps1: f64,
    with_eps2 => eps2: f64,
    with_clip_threshold => clip_threshold: f64,
    with_weight_decay => weight_decay: f64,
    with_scale_parameter => scale_parameter: bool,
    with_relative_step => relative_step: bool,
    with_warmup_init => warmup_init: bool,
    with_variant => variant: AdafactorVariant,
});

/// The step of [`Adafactor`] as in the paper and in Hugging Face's code.
#[derive(Clone, Copy, Debug)]
pub struct AdafactorStep<const SCALE: bool, const MOMENTUM: bool>;

impl<const SCALE: bool, const MOMENTUM: bool> Definition for AdafactorStep<SCALE, MOMENTUM> {
    const NAME: &'static str = match (SCALE, MOMENTUM) {
        (false, false) => "adafactor",
        (false, true) => "adafactor_momentum",
        (true, false) => "adafactor_scaled",
        (true, true) => "adafactor_scaled_momentum",
    };
    const LEVELS: Levels = Levels::factored(2, 3).with_lines(3, 2);

    #[inline(always)]
    fn step<I: Interpreter>(s: Step<'_, I>) {
        let (g, w) = (s.grad(), s.param());
        let [eps1, d, weight_decay] = s.hyper(["eps1", "clip_threshold", "weight_decay"]);

        let alpha = if SCALE { scaled_step(s) } else { relative_step(s) };
        let v = SecondMoment::ema(s, g.square(), eps1, beta2(s));
        let clip = rms_clip(v.normalized_rms(g), d).report("clip_factor");
        let mut u = v.normalize(g, alpha * clip);
        if MOMENTUM {
            let [beta1] = s.hyper(["beta1"]);
            u = s.full("exp_avg").ema(u, beta1);
        }
        s.set_param(descend(w, u, alpha * weight_decay));
    }
}

/// The step of [`Adafactor`] as in torch.
#[derive(Clone, Copy, Debug)]
pub struct TorchAdafactorStep;

impl Definition for TorchAdafactorStep {
    const NAME: &'static str = "adafactor_torch";
    const LEVELS: Levels = Levels::factored(2, 3).with_lines(3, 3);

    #[inline(always)]
    fn step<I: Interpreter>(s: Step<'_, I>) {
        let (g, w) = (s.grad(), s.param());
        let [lr, eps1, d, weight_decay] = s.hyper(["lr", "eps1", "clip_threshold", "weight_decay"]);

        let v = SecondMoment::ema(s, g.square(), 0.0, beta2(s));
        let v = match (v.factored, v.whole) {
            (Some(Factored { r, c, mean }), _) => r / mean.at_least(eps1) * c,
            (None, Some(v)) => v,
            (None, None) => unreachable!("an average is there"),
        };
        let v = SecondMoment::whole(v.at_least(eps1.square()));
        let step = scaled_step(s) * rms_clip(v.normalized_rms(g), d).report("clip_factor");
        s.set_param(descend(w, v.normalize(g, step), lr * weight_decay));
    }
}

/// `β₂ = 1 − t^γ`
#[cfg_attr(not(gradstep_compact), inline(always))]
fn beta2<'a, I: Interpreter>(s: Step<'a, I>) -> Value<'a, I> {
    let [decay_rate] = s.hyper(["decay_rate"]);
    1.0 - s.t().pow(decay_rate)
}

/// `ρ = min(η, 1/√t, 10⁻⁶ t)`, with the bounds that are on.
#[cfg_attr(not(gradstep_compact), inline(always))]
fn relative_step<'a, I: Interpreter>(s: Step<'a, I>) -> Value<'a, I> {
    let [lr, relative, warmup] = s.hyper(["lr", "relative_step", "warmup_init"]);
    let rho = relative.less_than(0.5).select(lr, lr.at_most(s.t().rsqrt()));
    warmup.less_than(0.5).select(rho, rho.at_most(s.t() * 1e-6))
}

/// `α = ρ max(ε₂, RMS(W))`
#[cfg_attr(not(gradstep_compact), inline(always))]
fn scaled_step<'a, I: Interpreter>(s: Step<'a, I>) -> Value<'a, I> {
    let [eps2] = s.hyper(["eps2"]);
    relative_step(s) * s.param().rms().at_least(eps2)
}

impl Optimizer for Adafactor {
    hyper!(
        lr, decay_rate, eps1, eps2, clip_threshold, weight_decay;
        beta1;
        "relative_step" => |a: &Self| a.relative_step,
        "warmup_init" => |a: &Self| a.warmup_init
    );

    // Never inlined into another crate: that would compile the loops there once more.
    #[inline(never)]
    fn recipe(&self) -> Recipe {
        if self.variant == AdafactorVariant::Torch {
            return Recipe::of::<TorchAdafactorStep>();
        }
        match (self.scale_parameter, self.beta1.is_some()) {
            (false, false) => Recipe::of::<AdafactorStep<false, false>>(),
            (false, true) => Recipe::of::<AdafactorStep<false, true>>(),
            (true, false) => Recipe::of::<AdafactorStep<true, false>>(),
            (true, true) => Recipe::of::<AdafactorStep<true, true>>(),
        }
    }

    fn check(&self) -> Result<()> {
        let mut check = Check::new("adafactor");
        check.not_negative("lr", self.lr);
        check.decay("beta1", self.beta1.unwrap_or(0.0));
        let negative = self.decay_rate < 0.0 && self.decay_rate.is_finite();
        check.that(negative, "decay_rate", self.decay_rate, "finite and less than 0");
        check.not_negative("eps1", self.eps1);
        check.not_negative("eps2", self.eps2);
        check.threshold("clip_threshold", self.clip_threshold);
        check.not_negative("weight_decay", self.weight_decay);
        if self.variant == AdafactorVariant::HuggingFace {
            return check.result();
        }
        let off = "off, except in the variant HuggingFace";
        let on = "on, except in the variant HuggingFace";
        check.that(self.beta1.is_none(), "beta1", self.beta1.unwrap_or(0.0), off);
        check.that(!self.warmup_init, "warmup_init", 1.0, off);
        check.that(self.scale_parameter, "scale_parameter", 0.0, on);
        check.that(self.relative_step, "relative_step", 0.0, on);
        check.that(
            self.variant == AdafactorVariant::Torch || self.weight_decay == 0.0,
            "weight_decay",
            self.weight_decay,
            "0 in the variant Paper",
        );
        check.result()
    }
}
