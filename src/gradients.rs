//! What is done to gradients before a step, and to parameters after it: definitions like those of
//! the optimizers, so that both backends run one text.

use std::ops::RangeInclusive;

use crate::definition::{Definition, Levels, Optimizer, Recipe};
use crate::error::{Error, Result};
use crate::value::{Axis, Interpreter, Shape, Step, Value};

/// How the loss was multiplied before gradients were taken of it, so that small ones do not vanish
/// in a format of few exponents. Gradients are divided by it again inside the step.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub enum LossScale {
    /// By nothing.
    #[default]
    None,
    /// Always by this number.
    Fixed(f64),
    /// By a number that adapts itself, as `torch.amp.GradScaler` does: a step whose gradients are
    /// not finite is skipped and multiplies the scale by `backoff`; after `interval` steps without
    /// one it is multiplied by `growth`.
    Dynamic {
        /// The first scale. None grows beyond the greatest number of single precision, or falls
        /// below the smallest normal one.
        initial: f64,
        /// Greater than 1.
        growth: f64,
        /// Between 0 and 1.
        backoff: f64,
        /// Steps.
        interval: u32,
    },
}

/// The smallest and the greatest normal number of single precision.
const SMALLEST: f64 = f32::MIN_POSITIVE as f64;
const GREATEST: f64 = f32::MAX as f64;

/// What a loss may be multiplied by: a device keeps it in single precision.
const SCALES: RangeInclusive<f64> = SMALLEST..=GREATEST;
const SCALE: &str = "a normal number of single precision greater than 0";

impl LossScale {
    /// torch's settings: 2¹⁶, doubled after 2000 good steps, halved by a bad one.
    #[must_use]
    pub const fn dynamic() -> Self {
        Self::Dynamic { initial: 65536.0, growth: 2.0, backoff: 0.5, interval: 2000 }
    }

    pub(crate) const fn initial(self) -> f64 {
        match self {
            Self::None => 1.0,
            Self::Fixed(scale) | Self::Dynamic { initial: scale, .. } => scale,
        }
    }
}

/// What is done to gradients before a step, in this order: they are divided by the loss scale (and
/// by the number of micro-batches), tested, clipped by value, clipped by norm.
#[derive(Clone, Debug, Default, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(default))]
#[non_exhaustive]
pub struct Gradients {
    /// Greatest norm of all gradients together, N: where `‖G‖ = √ΣG²` is greater, they are multiplied
    /// by `N / (‖G‖ + 1e-6)`, as `torch.nn.utils.clip_grad_norm_` does.
    pub max_norm: Option<f64>,
    /// Greatest magnitude of an element.
    pub max_value: Option<f64>,
    /// Whether a gradient that is not finite skips the whole step. A skipped step counts in the step
    /// number and leaves parameters and state as they are, bit for bit.
    pub check_finite: bool,
    /// How the loss was scaled.
    pub loss_scale: LossScale,
}

impl Gradients {
    /// Nothing is done to gradients.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// With clipping by the norm of all gradients together.
    #[must_use]
    pub fn clip_norm(mut self, max_norm: f64) -> Self {
        self.max_norm = Some(max_norm);
        self
    }

    /// With clipping of each element to `±max_value`.
    #[must_use]
    pub fn clip_value(mut self, max_value: f64) -> Self {
        self.max_value = Some(max_value);
        self
    }

    /// With the test for finite gradients.
    #[must_use]
    pub fn check_finite(mut self) -> Self {
        self.check_finite = true;
        self
    }

    /// With a scaled loss.
    #[must_use]
    pub fn loss_scale(mut self, loss_scale: LossScale) -> Self {
        self.loss_scale = loss_scale;
        self
    }

    /// Whether something must be known of all gradients before the first is used.
    pub(crate) fn needs_all(&self) -> bool {
        self.max_norm.is_some() || self.tests()
    }

    fn is_dynamic(&self) -> bool {
        matches!(self.loss_scale, LossScale::Dynamic { .. })
    }

    fn tests(&self) -> bool {
        self.check_finite || self.is_dynamic()
    }

    /// What stands between a gradient and a definition where `needs_all` is false.
    pub(crate) fn fixed(&self, micro: f64) -> [f64; 3] {
        let scale = self.loss_scale.initial() * micro;
        let most = self.max_value.unwrap_or(f64::INFINITY) * scale;
        [-most, most, 1.0 / scale]
    }

    pub(crate) fn check(&self) -> Result<()> {
        let fail = |name, value: f64, expected: &str| {
            Err(Error::Setup {
                what: format!("the setting `{name}` of gradients"),
                problem: format!("it is {}", crate::decimal::plain(value)),
                remedy: format!("it must be {expected}"),
            })
        };
        let positive = |x: f64| x > 0.0 && x.is_finite();
        for (name, value) in [("max_norm", self.max_norm), ("max_value", self.max_value)] {
            if let Some(value) = value.filter(|&x| !positive(x)) {
                return fail(name, value, "finite and greater than 0; leave it out for none");
            }
        }
        if !SCALES.contains(&self.loss_scale.initial()) {
            return fail("loss_scale", self.loss_scale.initial(), SCALE);
        }
        if let LossScale::Dynamic { growth, backoff, interval, .. } = self.loss_scale {
            if !(growth > 1.0 && growth.is_finite()) {
                return fail("growth", growth, "finite and greater than 1");
            }
            if !(backoff > 0.0 && backoff < 1.0) {
                return fail("backoff", backoff, "between 0 and 1");
            }
            if interval == 0 {
                return fail("interval", 0.0, "1 at least");
            }
        }
        Ok(())
    }
}

/// The hyper-parameters of [`Control`] for these settings and `micro` micro-batches. `sum_sq` and
/// `bad` are what was measured, where the definition does not measure itself.
#[derive(Clone, Debug)]
pub(crate) struct Controls {
    pub(crate) gradients: Gradients,
    pub(crate) micro: f64,
    pub(crate) sum_sq: f64,
    pub(crate) bad: f64,
}

impl Controls {
    pub(crate) fn new(gradients: Gradients) -> Self {
        Self { gradients, micro: 1.0, sum_sq: 0.0, bad: 0.0 }
    }
}

impl Optimizer for Controls {
    fn hyper(&self, name: &str) -> Option<f64> {
        let g = &self.gradients;
        let (growth, backoff, interval) = match g.loss_scale {
            LossScale::Dynamic { growth, backoff, interval, .. } => {
                (growth, backoff, f64::from(interval))
            }
            _ => (1.0, 1.0, f64::INFINITY),
        };
        Some(match name {
            "max_norm" => g.max_norm.unwrap_or(f64::INFINITY),
            "max_value" => g.max_value.unwrap_or(f64::INFINITY),
            "tests" => f64::from(g.tests()),
            "growth" => growth,
            "backoff" => backoff,
            "interval" => interval,
            "micro" => self.micro,
            "sum_sq" => self.sum_sq,
            "bad" => self.bad,
            _ => return None,
        })
    }

    fn initial(&self, slot: &str) -> Option<f64> {
        (slot == "loss_scale").then(|| self.gradients.loss_scale.initial())
    }

    /// With its own measurement: over all gradients as one vector.
    fn recipe(&self) -> Recipe {
        Recipe::of::<Control<true>>()
    }
}

/// The gradient, divided by the loss scale, and clipped by value: what the norm is taken of.
#[cfg_attr(not(gradstep_compact), inline(always))]
fn unscaled<'a, I: Interpreter>(
    s: Step<'a, I>,
    most: Value<'a, I>,
    unscale: Value<'a, I>,
) -> Value<'a, I> {
    s.raw_grad().at_least(-most).at_most(most) * unscale
}

/// The sum of the squares of `x`, and 1 if an element of the gradient is not finite, else 0.
#[cfg_attr(not(gradstep_compact), inline(always))]
fn measured<'a, I: Interpreter>(s: Step<'a, I>, x: Value<'a, I>) -> [Value<'a, I>; 2] {
    let sum_sq = x.square().tensor_mean() * s.count(Axis::Tensor);
    [sum_sq, (1.0 - s.raw_grad().finite()).tensor_max()]
}

/// Measures the gradient of one tensor.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Measure;

impl Definition for Measure {
    const NAME: &'static str = "measure";
    const MEASURES: bool = true;
    const LEVELS: Levels = Levels::flat(1);

    #[inline(always)]
    fn step<I: Interpreter>(s: Step<'_, I>) {
        let [most, unscale] = s.hyper(["most", "unscale"]);
        let [sum_sq, bad] = measured(s, unscaled(s, most, unscale));
        s.slot("sum_sq", Shape::Scalar, 0.0).set(sum_sq);
        s.slot("bad", Shape::Scalar, 0.0).set(bad);
    }
}

/// Decides on the step: whether it is skipped, and what gradients are clipped to and multiplied by.
/// Where it does not `MEASURE` all gradients itself, it is told their measure.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Control<const MEASURE: bool>;

/// The slots of [`Control`] that a step is given, in order: whether it goes ahead, and the three
/// values between a gradient and a definition.
pub(crate) const DECISION: [&str; 4] = ["go", "grad_min", "grad_max", "grad_scale"];

/// Those that a snapshot keeps.
pub(crate) const REMEMBERED: [&str; 3] = ["loss_scale", "good_steps", "skipped"];

/// What one of [`REMEMBERED`] must be for training to go on, where `x` is not.
pub(crate) fn not_usable(name: &str, x: f64) -> Option<&'static str> {
    match name {
        "loss_scale" if !SCALES.contains(&x) => Some(SCALE),
        "good_steps" | "skipped" if !(x >= 0.0 && x.is_finite()) => Some("a count"),
        _ => None,
    }
}

impl<const MEASURE: bool> Definition for Control<MEASURE> {
    const NAME: &'static str = "control";
    const MEASURES: bool = true;
    const LEVELS: Levels = Levels::flat(1);

    #[inline(always)]
    fn step<I: Interpreter>(s: Step<'_, I>) {
        let [max_norm, max_value, tests, micro] =
            s.hyper(["max_norm", "max_value", "tests", "micro"]);
        let [growth, backoff, interval] = s.hyper(["growth", "backoff", "interval"]);
        let slot = |name| s.slot(name, Shape::Scalar, 0.0);
        // One, so that nothing is skipped before the first step.
        let go = s.slot(DECISION[0], Shape::Scalar, 1.0);
        let [min, max, grad_scale] = [DECISION[1], DECISION[2], DECISION[3]].map(slot);
        let loss_scale = s.slot("loss_scale", Shape::Scalar, 1.0);
        let clip_factor = s.slot("clip_factor", Shape::Scalar, 1.0);
        let [good_steps, skipped, grad_norm] = ["good_steps", "skipped", "grad_norm"].map(slot);

        let scale = loss_scale.old();
        let whole = scale * micro;
        // A device has no infinity: what stands for one there must not overflow.
        let most = match MEASURE {
            true => max_value.at_most(0.5 * GREATEST / whole.at_least(1.0)) * whole,
            false => max_value * whole,
        };
        let unscale = 1.0 / whole;
        let [sum_sq, bad] = if MEASURE {
            measured(s, unscaled(s, most, unscale))
        } else {
            s.hyper(["sum_sq", "bad"])
        };

        let norm = grad_norm.set(sum_sq.sqrt());
        let finite = bad.less_than(0.5).select(norm.finite(), 0.0);
        let goes = go.set(tests.less_than(0.5).select(1.0, finite));
        let size = norm + 1e-6;
        let clip = clip_factor.set(size.less_than(max_norm).select(1.0, max_norm / size));
        min.set(-most);
        max.set(most);
        grad_scale.set(unscale * clip);

        let streak = good_steps.old() + 1.0;
        // It stays where it would overflow, as torch has it.
        let greater = scale.less_than(GREATEST / growth).select(scale * growth, scale);
        let grown = streak.less_than(interval).select(scale, greater);
        let less = (scale * backoff).at_least(SMALLEST);
        let kept = streak.less_than(interval).select(streak, 0.0);
        loss_scale.set(goes.less_than(0.5).select(less, grown));
        good_steps.set(goes.less_than(0.5).select(0.0, kept));
        skipped.set(skipped.old() + (1.0 - goes));
    }
}

/// Adds up gradients of micro-batches: `param` is the sum.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Accumulate;

impl Definition for Accumulate {
    const NAME: &'static str = "accumulate";
    const LEVELS: Levels = Levels::flat(1);

    #[inline(always)]
    fn step<I: Interpreter>(s: Step<'_, I>) {
        let [first] = s.hyper(["first"]);
        let (sum, g) = (s.param(), s.raw_grad());
        s.set_param(first.less_than(0.5).select(sum + g, g));
    }
}

/// Follows parameters with an average: `param` is the average, `grad` the parameter. It counts the
/// steps itself, so that one that is skipped does not count, wherever that is decided. Where the step
/// does not `count`, an average that no step has begun becomes the parameter, and others stay.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Follow;

/// The slot of [`Follow`] with the number of steps that counted.
pub(crate) const FOLLOWED: &str = "averaged_steps";

impl Definition for Follow {
    const NAME: &'static str = "average";
    const LEVELS: Levels = Levels::flat(1);

    #[inline(always)]
    fn step<I: Interpreter>(s: Step<'_, I>) {
        let [decay, is_mean, counts] = s.hyper(["decay", "is_mean", "counts"]);
        let steps = s.slot(FOLLOWED, Shape::Scalar, 0.0);
        let n = steps.set(steps.old() + counts);
        let weight = is_mean.less_than(0.5).select(1.0 - decay, 1.0 / n.at_least(1.0));
        let (average, param) = (s.param(), s.raw_grad());
        let next = counts.less_than(0.5).select(average, average.lerp(param, weight));
        s.set_param(n.less_than(counts + 0.5).select(param, next));
    }
}

/// How gradients of several micro-batches become one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub enum Accumulation {
    /// Their mean.
    Mean,
    /// Their sum.
    Sum,
}

impl Accumulation {
    /// What a sum of `n` is divided by.
    pub(crate) fn divisor(self, n: u32) -> f64 {
        match self {
            Self::Mean => f64::from(n.max(1)),
            Self::Sum => 1.0,
        }
    }
}

/// An average of the parameters over the steps, kept beside them.
#[derive(Clone, Copy, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub enum Average {
    /// Exponential: `A ← d A + (1−d) W`, begun with the parameters after the first step.
    Ema {
        /// d, at least 0 and less than 1.
        decay: f64,
    },
    /// The mean of the parameters after each step from step `from` on (Polyak and Ruppert).
    Polyak {
        /// The first step that counts, from 1.
        from: u64,
    },
}

impl Average {
    pub(crate) fn check(self) -> Result<()> {
        match self {
            Self::Ema { decay } if !(0.0..1.0).contains(&decay) => Err(Error::Setup {
                what: "the average of the parameters".into(),
                problem: format!("its decay is {}", crate::decimal::plain(decay)),
                remedy: "it must be at least 0 and less than 1".into(),
            }),
            Self::Polyak { from: 0 } => Err(Error::Setup {
                what: "the average of the parameters".into(),
                problem: "it begins with step 0".into(),
                remedy: "the first step is number 1".into(),
            }),
            _ => Ok(()),
        }
    }

    /// The first step that counts.
    pub(crate) fn first(self) -> u64 {
        match self {
            Self::Ema { .. } => 1,
            Self::Polyak { from } => from,
        }
    }

    /// Whether the parameters after step `t` count.
    pub(crate) fn counts(self, t: u64) -> bool {
        t >= self.first()
    }
}

impl Optimizer for Average {
    fn hyper(&self, name: &str) -> Option<f64> {
        let (decay, is_mean) = match *self {
            Self::Ema { decay } => (decay, 0.0),
            Self::Polyak { .. } => (0.0, 1.0),
        };
        match name {
            "decay" => Some(decay),
            "is_mean" => Some(is_mean),
            "counts" => Some(1.0),
            _ => None,
        }
    }

    fn recipe(&self) -> Recipe {
        Recipe::of::<Follow>()
    }
}

/// The settings of [`Follow`] between steps.
#[cfg(any(feature = "gpu", feature = "export"))]
#[derive(Clone, Copy, Debug)]
pub(crate) struct Between(pub(crate) Average);

#[cfg(any(feature = "gpu", feature = "export"))]
impl Optimizer for Between {
    fn hyper(&self, name: &str) -> Option<f64> {
        if name == "counts" { Some(0.0) } else { self.0.hyper(name) }
    }

    fn recipe(&self) -> Recipe {
        self.0.recipe()
    }
}

/// The settings of [`Accumulate`]: whether a gradient is the first of its sum.
#[derive(Clone, Copy, Debug)]
pub(crate) struct First(pub(crate) bool);

impl Optimizer for First {
    fn hyper(&self, name: &str) -> Option<f64> {
        (name == "first").then_some(f64::from(self.0))
    }

    fn recipe(&self) -> Recipe {
        Recipe::of::<Accumulate>()
    }
}

/// The settings of [`Measure`].
#[derive(Clone, Copy, Debug)]
pub(crate) struct Measuring {
    /// What elements of the gradient as it was given are clipped to.
    pub(crate) most: f64,
    /// What they are multiplied by then.
    pub(crate) unscale: f64,
}

impl Optimizer for Measuring {
    fn hyper(&self, name: &str) -> Option<f64> {
        match name {
            "most" => Some(self.most),
            "unscale" => Some(self.unscale),
            _ => None,
        }
    }

    fn recipe(&self) -> Recipe {
        Recipe::of::<Measure>()
    }
}
