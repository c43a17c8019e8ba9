//! Hyper-parameters as functions of the step.

use crate::decimal::plain;
use crate::error::{Error, Result};

/// How a schedule goes from one value to another. With the part p of the way that is done, from 0
/// to 1, its value is `to + (from - to)·r(p)`.
#[derive(Clone, Copy, Debug, PartialEq)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Serialize, serde::Deserialize),
    serde(rename_all = "snake_case")
)]
#[non_exhaustive]
pub enum Curve {
    /// r = 1 - p.
    Linear,
    /// r = (1 - p)ᵏ with this k > 0. With k = ½ it is the `1-sqrt` of a warm-up in transformers.
    Polynomial(f64),
    /// r = ½ (1 + cos πp).
    Cosine,
    /// r = 1 - √p, for the decay of [`Schedule::wsd`]
    /// ([2405.18392](https://arxiv.org/abs/2405.18392)).
    OneMinusSqrt,
}

impl Curve {
    /// r and 1 - r for p = `done` and 1 - p = `left`. Each is computed by itself, so that none loses
    /// its digits where it is small.
    fn parts(self, done: f64, left: f64) -> (f64, f64) {
        let half_turn = |x: f64| {
            // Never more than that: so what libm has for large angles is left out.
            let quarter = std::f64::consts::FRAC_PI_2;
            let angle = f64::from_bits((x * quarter).to_bits().min(quarter.to_bits()));
            let sine = libm::sin(angle);
            sine * sine
        };
        match self {
            Self::Linear => (left, done),
            Self::Polynomial(power) => {
                let r = libm::pow(left, power);
                (r, 1.0 - r)
            }
            Self::Cosine => (half_turn(left), half_turn(done)),
            Self::OneMinusSqrt => (left / (1.0 + done.sqrt()), done.sqrt()),
        }
    }

    /// The value at `x` on the way from `from`, where x is `begin` or less, to `to`, where it is
    /// `end` or more.
    fn at(self, from: f64, to: f64, begin: f64, end: f64, x: f64) -> f64 {
        if x >= end {
            to
        } else if x <= begin {
            from
        } else {
            let (r, rest) = self.parts((x - begin) / (end - begin), (end - x) / (end - begin));
            // Rounding may lead out of the range by a unit in the last place.
            (from * r + to * rest).clamp(from.min(to), from.max(to))
        }
    }
}

/// The settings of [`Schedule::one_cycle`]. Names and defaults are those of torch's `OneCycleLR`.
///
/// The value goes from `peak / div_factor` up to `peak` and down to
/// `peak / (div_factor·final_div_factor)`. With `n = total_steps`, the peak is at step
/// `pct_start·n - 1` (which need not be whole) and the end at step `n - 1`. With `three_phase` the
/// value comes back to the initial one at step `2·pct_start·n - 2` first.
///
/// torch's `cycle_momentum` is a second schedule, of the momentum or `beta1`: with `peak: 0.85,
/// div_factor: 0.85 / 0.95, final_div_factor: 1.0` it goes from 0.95 down to 0.85 and back.
#[derive(Clone, Copy, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct OneCycle {
    /// The value between the phases (torch's `max_lr`).
    pub peak: f64,
    /// Steps of the whole cycle. After them the value stays where it is; torch fails.
    pub total_steps: u64,
    /// Part of the cycle that the first phase takes, from 0 to 1, with three phases to ½.
    pub pct_start: f64,
    /// `peak` divided by the initial value.
    pub div_factor: f64,
    /// The initial value divided by the final one.
    pub final_div_factor: f64,
    /// The curve of each phase (torch's `anneal_strategy`).
    pub curve: Curve,
    /// Whether the value first comes back as it went up, and then goes on down.
    pub three_phase: bool,
}

impl OneCycle {
    /// Two phases along cosines, up for 0.3 of the steps, from `peak / 25` to `peak / 250000`.
    #[must_use]
    pub const fn new(peak: f64, total_steps: u64) -> Self {
        Self {
            peak,
            total_steps,
            pct_start: 0.3,
            div_factor: 25.0,
            final_div_factor: 1e4,
            curve: Curve::Cosine,
            three_phase: false,
        }
    }

    fn at(&self, step: f64) -> f64 {
        let initial = self.peak / self.div_factor;
        let end = initial / self.final_div_factor;
        let total = self.total_steps as f64;
        let top = self.pct_start * total - 1.0;
        let back = 2.0 * self.pct_start * total - 2.0;
        if step <= top {
            self.curve.at(initial, self.peak, 0.0, top, step)
        } else if !self.three_phase {
            self.curve.at(self.peak, end, top, total - 1.0, step)
        } else if step <= back {
            self.curve.at(self.peak, initial, top, back, step)
        } else {
            self.curve.at(initial, end, back, total - 1.0, step)
        }
    }
}

/// A learning rate, or any other hyper-parameter, as a pure function of the number of steps before:
/// [`at(0)`](Self::at) is for the first step.
///
/// Every schedule is in closed form. Nothing is carried from step to step, so training may be
/// resumed anywhere, and no rounding accumulates. [`at`](Self::at) is finite for every step, and has
/// the same bits on every platform.
///
/// ```
/// use gradstep::{Cpu, Group, Schedule, Setup, optim::AdamW};
///
/// // 100 steps up from 0 to 3e-4, 900 down to 3e-5, which stays.
/// let lr = Schedule::cosine(3e-4, 3e-5, 900)?.with_warmup(100);
/// assert_eq!((lr.at(0), lr.at(50), lr.at(100)), (0.0, 1.5e-4, 3e-4));
/// assert_eq!((lr.at(1000), lr.at(u64::MAX)), (3e-5, 3e-5));
///
/// let group = Group::new("all", AdamW::new(3e-4))
///     .schedule("lr", lr)
///     .schedule("weight_decay", Schedule::linear(0.1, 0.0, 1000)?);
/// let mut optimizer = Setup::new().tensor("w", [2]).group(group).cpu::<f32>(&Cpu::default())?;
///
/// let mut w = [0.5, -0.5];
/// for step in 0..2 {
///     let before = w;
///     let mut next = optimizer.begin();
///     next.tensor("w", &mut w, &[0.1, 0.2])?;
///     next.finish()?;
///     assert_eq!(w == before, step == 0, "the warm-up begins with a rate of 0");
/// }
/// # Ok::<(), gradstep::Error>(())
/// ```
///
/// # Other libraries' names
///
/// `lr` is the rate that those set on the optimizer, W the steps of a warm-up, T all of them.
///
/// | there | here |
/// |---|---|
/// | torch `LinearLR(start_factor=a, end_factor=b, total_iters=n)` | `linear(a·lr, b·lr, n)` |
/// | torch `PolynomialLR(total_iters=n, power=k)` | `polynomial(lr, 0, n, k)` |
/// | torch `CosineAnnealingLR(T_max=n, eta_min=e)` | `cosine(lr, e, n)`; it stays at e, torch's rises again |
/// | torch `CosineAnnealingWarmRestarts(T_0=n, T_mult=m, eta_min=e)` | `cosine_restarts(lr, e, n, m)` |
/// | torch `OneCycleLR` | `one_cycle` |
/// | torch `StepLR(step_size=n, gamma=f)` | `step(lr, f, n)` |
/// | torch `MultiStepLR(milestones, gamma=f)` | `multi_step(lr, f, milestones)` |
/// | torch `ExponentialLR(gamma=f)` | `exponential(lr, f, 1)` |
/// | torch `SequentialLR([a, b], milestones=[n])`, optax `join_schedules` | `a.then(n, b)` |
/// | torch `SequentialLR([LinearLR(start_factor=f, total_iters=W), a], [W])` | `a.with_warmup_from(W, f)` |
/// | optax `linear_schedule`, `polynomial_schedule(.., transition_begin=b)` | `linear(..)`, `polynomial(..)`, `.delayed(b)` |
/// | optax `cosine_decay_schedule(lr, n, alpha=a)` | `cosine(lr, a·lr, n)` |
/// | optax `exponential_decay(lr, n, f, staircase, end_value=e)` | `exponential(lr, f, n)` or `step(lr, f, n)`, `.clamp(e, lr)` for f < 1 |
/// | optax `warmup_cosine_decay_schedule(0, lr, W, T, end_value=e)` | `cosine(lr, e, T - W).with_warmup(W)` |
/// | transformers `get_constant_schedule_with_warmup` | `constant(lr).with_warmup(W)` |
/// | transformers `get_linear_schedule_with_warmup` | `linear(lr, 0, T - W).with_warmup(W)` |
/// | transformers `get_cosine_schedule_with_warmup` | `cosine(lr, 0, T - W).with_warmup(W)` |
/// | transformers `get_cosine_with_hard_restarts_schedule_with_warmup`, c cycles | `cosine_restarts(lr, 0, (T - W)/c, 1).then(T - W, constant(0)).with_warmup(W)` |
/// | transformers `get_cosine_with_min_lr_schedule_with_warmup_lr_rate` | `cosine(lr, e, T - W).with_warmup_from(W - 1, 1/W)` |
/// | transformers `get_polynomial_decay_schedule_with_warmup(lr_end=e, power=k)` | `polynomial(lr, e, T - W, k).with_warmup(W)` |
/// | transformers `get_inverse_sqrt_schedule(timescale=s)` | `inverse_sqrt(lr, s).with_warmup(W)`; s is W there unless given |
/// | transformers `get_wsd_schedule`, `min_lr_ratio=0` | `wsd` |
/// | the same, `min_lr_ratio=r` | `ramp(lr, r·lr, decay, curve).delayed(stable).with_warmup_from(W, r)` |
///
/// # Errors
/// Every constructor returns [`Error::Setup`] for a number that is not finite or out of its range.
#[derive(Clone, Debug, PartialEq)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Serialize, serde::Deserialize),
    serde(try_from = "Kind", into = "Kind")
)]
pub struct Schedule(Kind);

/// What a schedule is, as it is written to a file.
#[derive(Clone, Debug, PartialEq)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Serialize, serde::Deserialize),
    serde(rename_all = "snake_case")
)]
enum Kind {
    Constant(f64),
    Ramp {
        from: f64,
        to: f64,
        steps: u64,
        curve: Curve,
    },
    CosineRestarts {
        from: f64,
        to: f64,
        first: u64,
        factor: u64,
    },
    InverseSqrt {
        from: f64,
        timescale: u64,
    },
    OneCycle(OneCycle),
    Exponential {
        from: f64,
        factor: f64,
        steps: u64,
    },
    Step {
        from: f64,
        factor: f64,
        steps: u64,
    },
    MultiStep {
        from: f64,
        factor: f64,
        milestones: Vec<u64>,
    },
    /// `first` until the first of those in `then`, each with the step at which it begins.
    Joined {
        first: Box<Schedule>,
        then: Vec<(u64, Schedule)>,
    },
    Times {
        schedule: Box<Schedule>,
        factor: f64,
    },
    Clamp {
        schedule: Box<Schedule>,
        low: f64,
        high: f64,
    },
}

impl Schedule {
    /// The value for the step that has `step` others before it.
    #[must_use]
    pub fn at(&self, step: u64) -> f64 {
        let t = step as f64;
        match &self.0 {
            Kind::Constant(value) => *value,
            Kind::Ramp { from, to, steps, curve } => curve.at(*from, *to, 0.0, *steps as f64, t),
            Kind::CosineRestarts { from, to, first, factor } => {
                let (done, length) = cycle(step, *first, *factor);
                Curve::Cosine.at(*from, *to, 0.0, length as f64, done as f64)
            }
            Kind::InverseSqrt { from, timescale } => {
                let scale = *timescale as f64;
                from * (scale / (scale + t)).sqrt()
            }
            Kind::OneCycle(cycle) => cycle.at(t),
            Kind::Exponential { from, factor, steps } => grown(*from, *factor, t / *steps as f64),
            Kind::Step { from, factor, steps } => grown(*from, *factor, (step / steps) as f64),
            Kind::MultiStep { from, factor, milestones } => {
                let passed = milestones.partition_point(|&m| m <= step);
                grown(*from, *factor, passed as f64)
            }
            Kind::Joined { first, then } => match then.iter().rev().find(|(at, _)| *at <= step) {
                Some((at, schedule)) => schedule.at(step - at),
                None => first.at(step),
            },
            Kind::Times { schedule, factor } => representable(schedule.at(step) * factor),
            Kind::Clamp { schedule, low, high } => schedule.at(step).clamp(*low, *high),
        }
    }

    /// Always `value`.
    ///
    /// # Errors
    /// As said [above](Self#errors).
    pub fn constant(value: f64) -> Result<Self> {
        Kind::Constant(value).checked()
    }

    /// From `from` at step 0 to `to` at step `steps` (at least 1) along a curve, and `to` from then on.
    ///
    /// # Errors
    /// As said [above](Self#errors).
    pub fn ramp(from: f64, to: f64, steps: u64, curve: Curve) -> Result<Self> {
        Kind::Ramp { from, to, steps, curve }.checked()
    }

    /// A [`ramp`](Self::ramp) along a line: `from + (to - from)·t/n` for t ≤ n = `steps`.
    ///
    /// # Errors
    /// As said [above](Self#errors).
    pub fn linear(from: f64, to: f64, steps: u64) -> Result<Self> {
        Self::ramp(from, to, steps, Curve::Linear)
    }

    /// A [`ramp`](Self::ramp) along a polynomial: `to + (from - to)·(1 - t/n)ᵏ` for t ≤ n = `steps`
    /// and k = `power` > 0.
    ///
    /// # Errors
    /// As said [above](Self#errors).
    pub fn polynomial(from: f64, to: f64, steps: u64, power: f64) -> Result<Self> {
        Self::ramp(from, to, steps, Curve::Polynomial(power))
    }

    /// A [`ramp`](Self::ramp) along half a cosine: `to + (from - to)·½(1 + cos πt/n)` for
    /// t ≤ n = `steps` ([1608.03983](https://arxiv.org/abs/1608.03983) without restarts).
    ///
    /// Differs from torch: after `steps` the value stays at `to`, as in optax; that of
    /// `CosineAnnealingLR` goes up again.
    ///
    /// # Errors
    /// As said [above](Self#errors).
    pub fn cosine(from: f64, to: f64, steps: u64) -> Result<Self> {
        Self::ramp(from, to, steps, Curve::Cosine)
    }

    /// Cosines one after another ([1608.03983](https://arxiv.org/abs/1608.03983)). Each begins at
    /// `from` and goes towards `to`, which would be reached at the step where the next one begins.
    /// The first takes `first` steps (at least 1), each other `factor` (at least 1) times those of
    /// the one before.
    ///
    /// # Errors
    /// As said [above](Self#errors).
    pub fn cosine_restarts(from: f64, to: f64, first: u64, factor: u64) -> Result<Self> {
        Kind::CosineRestarts { from, to, first, factor }.checked()
    }

    /// `from·√(s / (s + t))` with s = `timescale` (at least 1). With [`with_warmup`](Self::with_warmup)
    /// of as many steps as the timescale, it is `from·√(s/t)` after the warm-up
    /// ([1706.03762](https://arxiv.org/abs/1706.03762)).
    ///
    /// # Errors
    /// As said [above](Self#errors).
    pub fn inverse_sqrt(from: f64, timescale: u64) -> Result<Self> {
        Kind::InverseSqrt { from, timescale }.checked()
    }

    /// Up to a peak and far down ([1708.07120](https://arxiv.org/abs/1708.07120)).
    ///
    /// ```
    /// use gradstep::{Curve, OneCycle, Schedule};
    /// let settings = OneCycle { curve: Curve::Linear, ..OneCycle::new(0.1, 1000) };
    /// let lr = Schedule::one_cycle(settings)?;
    /// assert_eq!((lr.at(0), lr.at(299)), (0.1 / 25.0, 0.1));
    /// # Ok::<(), gradstep::Error>(())
    /// ```
    ///
    /// # Errors
    /// As said [above](Self#errors).
    pub fn one_cycle(settings: OneCycle) -> Result<Self> {
        Kind::OneCycle(settings).checked()
    }

    /// `from·f^(t/n)` with f = `factor` > 0 and n = `steps`, at least 1: multiplied by f over every n
    /// steps, little by little.
    ///
    /// # Errors
    /// As said [above](Self#errors).
    pub fn exponential(from: f64, factor: f64, steps: u64) -> Result<Self> {
        Kind::Exponential { from, factor, steps }.checked()
    }

    /// `from·f^⌊t/n⌋` with f = `factor` > 0 and n = `steps`, at least 1: multiplied by f after every n
    /// steps, at once.
    ///
    /// # Errors
    /// As said [above](Self#errors).
    pub fn step(from: f64, factor: f64, steps: u64) -> Result<Self> {
        Kind::Step { from, factor, steps }.checked()
    }

    /// `from·fᵏ` with f = `factor` > 0, k being the number of milestones that are t or less. One that
    /// is given twice counts twice; their order does not matter.
    ///
    /// # Errors
    /// As said [above](Self#errors).
    pub fn multi_step(
        from: f64,
        factor: f64,
        milestones: impl IntoIterator<Item = u64>,
    ) -> Result<Self> {
        let milestones = milestones.into_iter().collect();
        Kind::MultiStep { from, factor, milestones }.checked()
    }

    /// Warm-up, stable, decay ([2404.06395](https://arxiv.org/abs/2404.06395)): `warmup` steps up
    /// from 0 along a line, `stable` steps at `peak`, `decay` steps (at least 1) to `end` along
    /// `curve`, and `end` from then on.
    ///
    /// Short for `ramp(peak, end, decay, curve)?.delayed(stable).with_warmup(warmup)`.
    ///
    /// # Errors
    /// As said [above](Self#errors).
    pub fn wsd(
        peak: f64,
        end: f64,
        warmup: u64,
        stable: u64,
        decay: u64,
        curve: Curve,
    ) -> Result<Self> {
        Ok(Self::ramp(peak, end, decay, curve)?.delayed(stable).with_warmup(warmup))
    }

    /// Linear warm-up from 0: `v·t/W` for t < W = `steps`, where v = `at(0)` of this schedule, which
    /// follows from *its own* step 0 at step W on. So the first step has the value 0, step W is the
    /// first with v, and everything in this schedule happens W steps later. 0 steps change nothing.
    #[must_use]
    pub fn with_warmup(self, steps: u64) -> Self {
        self.after_line(steps, 0.0)
    }

    /// Linear warm-up from a part of the value: `v·(f + (1 - f)·t/W)` for t < W = `steps` and
    /// f = `start_factor`, and then as in [`with_warmup`](Self::with_warmup).
    ///
    /// A warm-up of the form `v·(t + 1)/W`, whose first step has a value above 0, is
    /// `with_warmup_from(W - 1, 1/W)`.
    ///
    /// # Errors
    /// [`Error::Setup`] for a factor that is not finite.
    pub fn with_warmup_from(self, steps: u64, start_factor: f64) -> Result<Self> {
        finite("a warm-up", "start factor", start_factor).map_err(|e| *e)?;
        Ok(self.after_line(steps, start_factor))
    }

    /// Held at its first value for `steps` steps; its own step 0 is at step `steps`.
    #[must_use]
    pub fn delayed(self, steps: u64) -> Self {
        let first = self.at(0);
        self.after(steps, Kind::Constant(first))
    }

    /// This schedule before step `at`, and `next` from there on, which begins with *its own* step 0.
    ///
    /// `at` counts from the beginning of the whole, in each of several joints:
    /// `a.then(100, b)?.then(300, c)?` has a for 100 steps, b for 200, and then c. It must be after
    /// the joints that are there (that of a warm-up is one) and after 0.
    ///
    /// # Errors
    /// [`Error::Setup`] if it is not.
    pub fn then(self, at: u64, next: Self) -> Result<Self> {
        let (first, mut then) = match self.0 {
            Kind::Joined { first, then } => (first, then),
            _ => (Box::new(self), Vec::new()),
        };
        then.push((at, next));
        Kind::Joined { first, then }.checked()
    }

    /// All values times `factor`.
    ///
    /// # Errors
    /// [`Error::Setup`] for a factor that is not finite.
    pub fn times(self, factor: f64) -> Result<Self> {
        Kind::Times { schedule: Box::new(self), factor }.checked()
    }

    /// Values below `low` become `low`, those above `high` become `high`.
    ///
    /// # Errors
    /// [`Error::Setup`] unless both are finite and `low` is not above `high`.
    pub fn clamp(self, low: f64, high: f64) -> Result<Self> {
        Kind::Clamp { schedule: Box::new(self), low, high }.checked()
    }

    fn after_line(self, steps: u64, start_factor: f64) -> Self {
        let to = self.at(0);
        let from = representable(start_factor * to);
        self.after(steps, Kind::Ramp { from, to, steps, curve: Curve::Linear })
    }

    /// After `steps` steps of another kind, if there are any.
    fn after(self, steps: u64, first: Kind) -> Self {
        if steps == 0 {
            return self;
        }
        Self(Kind::Joined { first: Box::new(Self(first)), then: vec![(steps, self)] })
    }
}

/// What fails seldom and is passed on often: an error takes much room.
type Checked = std::result::Result<(), Box<Error>>;

impl Kind {
    fn checked(mut self) -> Result<Schedule> {
        self.check().map_err(|e| *e)?;
        Ok(Schedule(self))
    }

    fn check(&mut self) -> Checked {
        match self {
            Self::Constant(value) => finite("a constant schedule", "value", *value)?,
            Self::Ramp { from, to, steps, curve } => {
                let what = "a schedule from one value to another";
                finite(what, "first value", *from)?;
                finite(what, "last value", *to)?;
                whole(what, "number of steps", *steps)?;
                curve.check(what)?;
            }
            Self::CosineRestarts { from, to, first, factor } => {
                let what = "a schedule of cosines with restarts";
                finite(what, "first value", *from)?;
                finite(what, "last value", *to)?;
                whole(what, "number of steps to the first restart", *first)?;
                whole(what, "factor from cycle to cycle", *factor)?;
            }
            Self::InverseSqrt { from, timescale } => {
                finite("an inverse square root schedule", "first value", *from)?;
                whole("an inverse square root schedule", "timescale", *timescale)?;
            }
            Self::OneCycle(settings) => settings.check()?,
            Self::Exponential { from, factor, steps } => {
                finite("an exponential schedule", "first value", *from)?;
                positive("an exponential schedule", "factor", *factor)?;
                whole("an exponential schedule", "number of steps", *steps)?;
            }
            Self::Step { from, factor, steps } => {
                finite("a step schedule", "first value", *from)?;
                positive("a step schedule", "factor", *factor)?;
                whole("a step schedule", "number of steps", *steps)?;
            }
            Self::MultiStep { from, factor, milestones } => {
                finite("a multi-step schedule", "first value", *from)?;
                positive("a multi-step schedule", "factor", *factor)?;
                milestones.sort_unstable();
            }
            Self::Joined { then, .. } => {
                let mut last = 0;
                for (at, _) in then {
                    if *at <= last {
                        return refuse(
                            "a schedule of several",
                            format!("one is to begin at step {at}, the one before it at {last}"),
                            "give later steps, counted from the beginning of the whole",
                        );
                    }
                    last = *at;
                }
            }
            Self::Times { factor, .. } => finite("a schedule times a number", "factor", *factor)?,
            Self::Clamp { low, high, .. } => {
                finite("a clamped schedule", "lower bound", *low)?;
                finite("a clamped schedule", "upper bound", *high)?;
                if low > high {
                    return refuse(
                        "a clamped schedule",
                        format!(
                            "its lower bound {} is above its upper bound {}",
                            plain(*low),
                            plain(*high)
                        ),
                        "give the lower one first",
                    );
                }
            }
        }
        Ok(())
    }
}

impl Curve {
    fn check(self, what: &str) -> Checked {
        match self {
            Self::Polynomial(power) => positive(what, "power", power),
            Self::Linear | Self::Cosine | Self::OneMinusSqrt => Ok(()),
        }
    }
}

impl OneCycle {
    fn check(&self) -> Checked {
        let what = "a one-cycle schedule";
        finite(what, "peak", self.peak)?;
        whole(what, "number of steps", self.total_steps)?;
        positive(what, "div_factor", self.div_factor)?;
        positive(what, "final_div_factor", self.final_div_factor)?;
        let initial = self.peak / self.div_factor;
        finite(what, "initial value", initial)?;
        finite(what, "final value", initial / self.final_div_factor)?;
        let most = if self.three_phase { 0.5 } else { 1.0 };
        if !(0.0..=most).contains(&self.pct_start) {
            let remedy = format!("with this number of phases it must be from 0 to {}", plain(most));
            return refuse(what, format!("its pct_start is {}", plain(self.pct_start)), &remedy);
        }
        self.curve.check(what)
    }
}

/// How much of its cycle is done at `step`, and the length of that cycle, where the first has
/// length `first` and each other `factor` times the one before.
fn cycle(step: u64, first: u64, factor: u64) -> (u64, u128) {
    if factor == 1 {
        return (step % first, first.into());
    }
    // Cycles grow so that there are few before any step.
    let (mut done, mut length) = (step, u128::from(first));
    while let Some(rest) = u64::try_from(length).ok().and_then(|length| done.checked_sub(length)) {
        done = rest;
        length *= u128::from(factor);
    }
    (done, length)
}

/// `from·factorⁿ`.
fn grown(from: f64, factor: f64, n: f64) -> f64 {
    // The system's power differs from platform to platform, this one does not.
    representable(from * representable(libm::pow(factor, n)))
}

/// What has overflowed becomes the largest number.
fn representable(x: f64) -> f64 {
    x.clamp(f64::MIN, f64::MAX)
}

fn refuse(what: &str, problem: String, remedy: &str) -> Checked {
    Err(Box::new(Error::Setup { what: what.into(), problem, remedy: remedy.into() }))
}

fn finite(what: &str, name: &str, value: f64) -> Checked {
    if value.is_finite() {
        return Ok(());
    }
    refuse(what, format!("its {name} is {}", plain(value)), "it must be finite")
}

fn positive(what: &str, name: &str, value: f64) -> Checked {
    if value > 0.0 && value.is_finite() {
        return Ok(());
    }
    refuse(what, format!("its {name} is {}", plain(value)), "it must be finite and greater than 0")
}

fn whole(what: &str, name: &str, value: u64) -> Checked {
    if value > 0 {
        return Ok(());
    }
    refuse(what, format!("its {name} is 0"), "it must be at least 1")
}

#[cfg(feature = "serde")]
impl TryFrom<Kind> for Schedule {
    type Error = Error;

    fn try_from(kind: Kind) -> Result<Self> {
        kind.checked()
    }
}

#[cfg(feature = "serde")]
impl From<Schedule> for Kind {
    fn from(schedule: Schedule) -> Self {
        schedule.0
    }
}
