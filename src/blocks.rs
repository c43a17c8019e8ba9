//! Pieces of mathematics that several optimizers share, each written once.
//!
//! A definition of your own may use them too. The simplest shared piece, the exponential moving
//! average, is a method of the slot that holds it: [`Slot::ema`](crate::value::Slot::ema).

use std::fmt;

use crate::value::{Interpreter, Operand, Step, Value};

/// A second moment kept as the means of its rows and of its columns (Adafactor): the approximation
/// is `V_ij = r_i · c_j / mean(r)`, per matrix.
///
/// With sums in place of means, as papers write it, the approximation is the same.
pub struct Factored<'a, I: Interpreter> {
    /// Means of the rows.
    pub r: Value<'a, I>,
    /// Means of the columns.
    pub c: Value<'a, I>,
    /// The mean of `r`.
    pub mean: Value<'a, I>,
}

impl<I: Interpreter> Clone for Factored<'_, I> {
    #[inline(always)]
    fn clone(&self) -> Self {
        *self
    }
}

impl<I: Interpreter> Copy for Factored<'_, I> {}

impl<I: Interpreter> fmt::Debug for Factored<'_, I> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Factored")
    }
}

impl<'a, I: Interpreter> Factored<'a, I> {
    /// Moving averages of the row and column means of `x + eps`, in the slots `rows` and `cols`.
    ///
    /// `eps` is added to the means, which are few, and not to the elements: the mean of `x + ε` is
    /// the mean of `x`, plus ε.
    #[cfg_attr(not(gradstep_compact), inline(always))]
    #[track_caller]
    pub fn ema(
        s: Step<'a, I>,
        [rows, cols]: [&'static str; 2],
        x: Value<'a, I>,
        eps: impl Operand<'a, I> + Copy,
        beta: Value<'a, I>,
    ) -> Self {
        let (r, c) = (x.row_mean() + eps, x.col_mean() + eps);
        let r = s.rows(rows).ema(r, beta);
        Self { r, c: s.cols(cols).ema(c, beta), mean: r.mean() }
    }

    /// `k · V`
    #[cfg_attr(not(gradstep_compact), inline(always))]
    #[must_use]
    pub fn scaled(self, k: Value<'a, I>) -> Self {
        Self { r: self.r * k, c: self.c * k, mean: self.mean * k }
    }

    /// The factors of `1/√V`: `√(mean(r)/r_i)` for the rows, `1/√c_j` for the columns.
    ///
    /// Neither leaves the range of `f32`, not for rows of gradients of 1e9 above rows of zeros. Their
    /// product may: whoever multiplies by them does so one after the other.
    #[cfg_attr(not(gradstep_compact), inline(always))]
    #[must_use]
    pub fn rsqrt(self) -> [Value<'a, I>; 2] {
        [self.mean.sqrt() * self.r.rsqrt(), self.c.rsqrt()]
    }

    /// The mean of `1/√V` over the tensor, without a trip through memory.
    #[cfg_attr(not(gradstep_compact), inline(always))]
    #[must_use]
    pub fn mean_rsqrt(self) -> Value<'a, I> {
        let [rows, cols] = self.rsqrt();
        (rows.mean() * cols.mean()).tensor_mean()
    }
}

/// What an update is normalised by: `x / √V`, with `V` kept in one of three forms: factored, whole, or
/// not at all, which is `V = 1`.
///
/// Which form it is must be decided by the definition's type and by
/// [`Step::is_matrix`], so that it is a constant of every kernel. (Not an enumeration: one place for
/// values of several forms keeps the compiler from holding them in registers.)
pub struct SecondMoment<'a, I: Interpreter> {
    /// One value per row and per column.
    pub factored: Option<Factored<'a, I>>,
    /// One value per element.
    pub whole: Option<Value<'a, I>>,
}

impl<I: Interpreter> Clone for SecondMoment<'_, I> {
    #[inline(always)]
    fn clone(&self) -> Self {
        *self
    }
}

impl<I: Interpreter> Copy for SecondMoment<'_, I> {}

impl<I: Interpreter> fmt::Debug for SecondMoment<'_, I> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match (self.factored, self.whole) {
            (Some(_), _) => "Factored",
            (None, Some(_)) => "Whole",
            (None, None) => "One",
        })
    }
}

impl<'a, I: Interpreter> SecondMoment<'a, I> {
    /// `V = r · c / mean(r)`
    #[cfg_attr(not(gradstep_compact), inline(always))]
    #[must_use]
    pub fn factored(v: Factored<'a, I>) -> Self {
        Self { factored: Some(v), whole: None }
    }

    /// `V = v`
    #[cfg_attr(not(gradstep_compact), inline(always))]
    #[must_use]
    pub fn whole(v: Value<'a, I>) -> Self {
        Self { factored: None, whole: Some(v) }
    }

    /// `V = 1`
    #[cfg_attr(not(gradstep_compact), inline(always))]
    #[must_use]
    pub fn one() -> Self {
        Self { factored: None, whole: None }
    }

    /// The moving average of `x + eps`: factored for matrices, in the slots `exp_avg_sq_row` and
    /// `exp_avg_sq_col`, and whole for vectors, in the slot `exp_avg_sq`.
    #[cfg_attr(not(gradstep_compact), inline(always))]
    #[track_caller]
    pub fn ema(
        s: Step<'a, I>,
        x: Value<'a, I>,
        eps: impl Operand<'a, I> + Copy,
        beta: Value<'a, I>,
    ) -> Self {
        if s.is_matrix() {
            Self::factored(Factored::ema(s, ["exp_avg_sq_row", "exp_avg_sq_col"], x, eps, beta))
        } else {
            Self::whole(s.full("exp_avg_sq").ema(x + eps, beta))
        }
    }

    /// `k · V`. `V = 1` stays as it is.
    #[cfg_attr(not(gradstep_compact), inline(always))]
    #[must_use]
    pub fn scaled(self, k: Value<'a, I>) -> Self {
        match (self.factored, self.whole) {
            (Some(v), _) => Self::factored(v.scaled(k)),
            (None, Some(v)) => Self::whole(v * k),
            (None, None) => self,
        }
    }

    /// `x / √V · k`, for a `k` of one value for the tensor or for all.
    ///
    /// Where `V` is factored, `k` joins the values of the rows and costs nothing per element.
    #[cfg_attr(not(gradstep_compact), inline(always))]
    #[must_use]
    pub fn normalize(self, x: Value<'a, I>, k: Value<'a, I>) -> Value<'a, I> {
        match (self.factored, self.whole) {
            (Some(v), _) => {
                let [rows, cols] = v.rsqrt();
                x * (rows * k) * cols
            }
            (None, Some(v)) => x * v.rsqrt() * k,
            (None, None) => x * k,
        }
    }

    /// The root mean square of `x / √V` over the tensor.
    ///
    /// Where `V` is factored it takes no trip through memory of its own:
    /// `mean(x²/V) = mean_j( mean_i((x_ij/√r_i)²) · mean(r)/c_j )`. The inner mean is a column mean of
    /// a value that needs nothing but its own row's `r`, so it joins the sweep that made `r`. The rest is
    /// multiplied by in two equal halves: `mean(r)/c_j` alone leaves the range of `f32` where a column
    /// of zeros stands among large gradients.
    #[cfg_attr(not(gradstep_compact), inline(always))]
    #[must_use]
    pub fn normalized_rms(self, x: Value<'a, I>) -> Value<'a, I> {
        match (self.factored, self.whole) {
            (Some(Factored { r, c, mean }), _) => {
                let w = (x * r.rsqrt()).square().col_mean();
                let half = mean.sqrt() * c.rsqrt();
                (w * half * half).tensor_mean().sqrt()
            }
            (None, Some(v)) => (x.square() / v).tensor_mean().sqrt(),
            (None, None) => x.rms(),
        }
    }
}

/// `1 / max(1, rms/d)`: the factor that scales a value of root mean square `rms` down to at most
/// `d`. An infinite `d` never clips; as a Host value it never reaches the arithmetic of a tensor.
#[cfg_attr(not(gradstep_compact), inline(always))]
#[must_use]
pub fn rms_clip<'a, I: Interpreter>(rms: Value<'a, I>, d: Value<'a, I>) -> Value<'a, I> {
    1.0 / (rms * (1.0 / d)).at_least(1.0)
}

/// `1 − βᵗ`: the share of its final weight that a moving average, begun at zero, has after `t`
/// steps. Dividing by it removes the bias towards zero.
#[cfg_attr(not(gradstep_compact), inline(always))]
#[must_use]
pub fn bias_correction<'a, I: Interpreter>(beta: Value<'a, I>, t: Value<'a, I>) -> Value<'a, I> {
    1.0 - beta.pow(t)
}

/// `w − (update + decay·w)`: a step with decoupled weight decay of the old parameter.
///
/// In this order only the last operation rounds at the size of `w`. In `w·(1 − decay) − update`
/// the factor alone is wrong by 3e-8 in `f32`, which is 0.3 % of a decay of 1e-5.
#[cfg_attr(not(gradstep_compact), inline(always))]
#[must_use]
pub fn descend<'a, I: Interpreter>(
    w: Value<'a, I>,
    update: Value<'a, I>,
    decay: Value<'a, I>,
) -> Value<'a, I> {
    w - (update + w * decay)
}
