//! SM3: memory-efficient adaptive optimization by maxima.

use super::{Check, builders, hyper};
use crate::definition::{Definition, Levels, Optimizer, Recipe};
use crate::error::Result;
use crate::value::{Interpreter, Step, Value};

/// SM3-II: AdaGrad whose sums of squares are bounded from above by one number per row and one per
/// column.
///
/// For a parameter W (n×m) with gradient G, at every step:
/// ```text
/// N_ij = min(r_i, c_j) + G_ij²                    n×m
/// r ← max over columns of N                       n
/// c ← max over rows of N                          m
/// U = G / √(N + ε)                                n×m
/// U = M ← μ M + (1−μ) U                           n×m (with momentum)
/// W ← W − η U                                     n×m
/// ```
/// with η = `lr`, μ = `momentum`, ε = `eps`.
///
/// * State: r, c `accumulator_0`, `accumulator_1`: 4(n+m) bytes in `f32`; with momentum M
///   `momentum_buffer`, 4nm bytes more.
/// * Sweeps: 1, moving 12 bytes a parameter, 20 with momentum.
/// * Units: `lr`: change of W at the first step; later steps shrink, since nothing is forgotten.
///   `eps`: that of G².
/// * Vectors and scalars: the whole sum of squares `accumulator_0`, AdaGrad; 20 bytes moved, 28 with
///   momentum.
/// * Errors: [`Error::Hyper`](crate::Error::Hyper) for a number out of its range;
///   [`Error::Structure`](crate::Error::Structure) if `momentum` changes from or to 0 after
///   preparation. Squares of a gradient of about 1e19 overflow `f32`; then the steps of that
///   element are zero for good.
/// * Source: Anil et al. 2019, arXiv:1901.11150, Algorithm SM3-II; code `pytorch_optimizer` 4.1.0 with
///   `beta` = 0.
/// * Differs from the source: a tensor of more than two dimensions has one accumulator per
///   dimension there and is batch × rows × cols here, with an accumulator per row and per column
///   of each matrix. The bound is tighter and the state larger. Where N is zero the step is zero in
///   the paper, and here because of ε.
///
/// # Example
/// ```
/// use gradstep::{Cpu, optim::Sm3};
///
/// let mut sm3 = Cpu::default().prepare::<f32, _>(Sm3::new(0.1), [2, 2])?;
/// let mut w = [1.0; 4];
/// sm3.step(&mut w, &[3.0, 0.0, 4.0, -1.0])?; // the first step is lr · sign(G)
/// for (x, expected) in w.into_iter().zip([0.9f32, 1.0, 0.9, 1.1]) {
///     assert!((x - expected).abs() < 1e-6);
/// }
/// assert_eq!(sm3.slot("accumulator_0")?, [9.0, 16.0]);
/// assert_eq!(sm3.slot("accumulator_1")?, [16.0, 1.0]);
/// # Ok::<(), gradstep::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(default))]
#[non_exhaustive]
pub struct Sm3 {
    /// Learning rate η.
    pub lr: f64,
    /// Decay of the momentum, μ. 0: no momentum and no state of the parameter's size.
    pub momentum: f64,
    /// Added to the accumulated squares before the root, ε.
    pub eps: f64,
}

impl Default for Sm3 {
    fn default() -> Self {
        Self { lr: 0.1, momentum: 0.0, eps: 1e-30 }
    }
}

impl Sm3 {
    /// Without momentum, with this learning rate.
    #[must_use]
    pub fn new(lr: f64) -> Self {
        Self { lr, ..Self::default() }
    }
}

builders!(Sm3 {
    with_lr => lr: f64,
    with_momentum => momentum: f64,
    with_eps => eps: f64,
});

/// The step of [`Sm3`].
#[derive(Clone, Copy, Debug)]
pub struct Sm3Step<const MOMENTUM: bool>;

impl<const MOMENTUM: bool> Definition for Sm3Step<MOMENTUM> {
    const NAME: &'static str = if MOMENTUM { "sm3_momentum" } else { "sm3" };
    const LEVELS: Levels = Levels::factored(1, 1).with_lines(1, 1);

    #[inline(always)]
    fn step<I: Interpreter>(s: Step<'_, I>) {
        let (g, w) = (s.grad(), s.param());
        let [lr, eps] = s.hyper(["lr", "eps"]);

        let mut u = g * (accumulate(s, g.square()) + eps).rsqrt();
        if MOMENTUM {
            let [momentum] = s.hyper(["momentum"]);
            u = s.full("momentum_buffer").ema(u, momentum);
        }
        s.set_param(w - u * lr);
    }
}

/// The bound N of the accumulated squares, `x` included.
#[cfg_attr(not(gradstep_compact), inline(always))]
fn accumulate<'a, I: Interpreter>(s: Step<'a, I>, x: Value<'a, I>) -> Value<'a, I> {
    if s.is_matrix() {
        let (r, c) = (s.rows("accumulator_0"), s.cols("accumulator_1"));
        let n = r.old().at_most(c.old()) + x;
        r.set(n.row_max());
        c.set(n.col_max());
        n
    } else {
        let n = s.full("accumulator_0");
        n.set(n.old() + x)
    }
}

impl Optimizer for Sm3 {
    hyper!(lr, momentum, eps);

    // Never inlined into another crate: that would compile the loops there once more.
    #[inline(never)]
    fn recipe(&self) -> Recipe {
        if self.momentum > 0.0 {
            Recipe::of::<Sm3Step<true>>()
        } else {
            Recipe::of::<Sm3Step<false>>()
        }
    }

    fn check(&self) -> Result<()> {
        let mut check = Check::new("sm3");
        check.not_negative("lr", self.lr);
        check.decay("momentum", self.momentum);
        check.not_negative("eps", self.eps);
        check.result()
    }
}
