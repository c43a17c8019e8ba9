//! Pieces of mathematics that several optimizers share, each written once.

use crate::value::{Interpreter, Step, Value};

/// A second moment kept as the means of its rows and of its columns (Adafactor): the approximation
/// is `V_ij = r_i · c_j / mean(r)`, per matrix.
pub struct Factored<'a, I: Interpreter> {
    /// Means of the rows.
    pub r: Value<'a, I>,
    /// Means of the columns.
    pub c: Value<'a, I>,
}

impl<I: Interpreter> Clone for Factored<'_, I> {
    #[inline(always)]
    fn clone(&self) -> Self {
        *self
    }
}

impl<I: Interpreter> Copy for Factored<'_, I> {}

impl<I: Interpreter> std::fmt::Debug for Factored<'_, I> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Factored")
    }
}

impl<'a, I: Interpreter> Factored<'a, I> {
    /// Moving averages of the row and column means of `x`, in the slots `rows` and `cols` that
    /// begin with `init`.
    #[inline(always)]
    #[track_caller]
    pub fn ema(
        s: Step<'a, I>,
        [rows, cols]: [&'static str; 2],
        init: f64,
        x: Value<'a, I>,
        beta: Value<'a, I>,
    ) -> Self {
        use crate::value::Shape;
        Self {
            r: s.slot(rows, Shape::Rows, init).ema(x.row_mean(), beta),
            c: s.slot(cols, Shape::Cols, init).ema(x.col_mean(), beta),
        }
    }

    /// The same moments times `factor` (a bias correction).
    #[inline(always)]
    #[must_use]
    pub fn scaled(self, factor: Value<'a, I>) -> Self {
        Self {
            r: self.r * factor,
            c: self.c * factor,
        }
    }

    /// `x / √V`
    #[inline(always)]
    #[must_use]
    pub fn normalize(self, x: Value<'a, I>) -> Value<'a, I> {
        x * ((self.r / self.r.mean()).rsqrt() * self.c.rsqrt())
    }

    /// The root mean square of `x / √V` over the tensor, without a trip through memory of its own.
    ///
    /// `mean(x²/V) = mean_j( mean_i(x_ij²/r_i) · (mean(r)/c_j) )`: the inner mean is a column mean
    /// of a value that needs nothing but its own row's `r`, so it joins the sweep that made `r`.
    /// In this association neither factor leaves the range of `f32` when gradients are tiny.
    #[inline(always)]
    #[must_use]
    pub fn normalized_rms(self, x: Value<'a, I>) -> Value<'a, I> {
        ((x.square() * (1.0 / self.r)).col_mean() * (self.r.mean() / self.c))
            .tensor_mean()
            .sqrt()
    }
}

/// `x / max(1, rms/d)`: scales `x`, whose root mean square is `rms`, down to at most `d`.
#[inline(always)]
#[must_use]
pub fn clip_rms<'a, I: Interpreter>(
    x: Value<'a, I>,
    rms: Value<'a, I>,
    d: Value<'a, I>,
) -> Value<'a, I> {
    x * (1.0 / (rms / d).at_least(1.0))
}

/// `w − η·(u + λ·w)`: a step of size `lr` along `u` with decoupled weight decay.
#[inline(always)]
#[must_use]
pub fn descend<'a, I: Interpreter>(
    w: Value<'a, I>,
    u: Value<'a, I>,
    lr: Value<'a, I>,
    weight_decay: Value<'a, I>,
) -> Value<'a, I> {
    w * (1.0 - lr * weight_decay) - u * lr
}
