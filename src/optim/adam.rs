//! x
use crate::{
    Definition, Levels, Optimizer, Recipe,
    blocks::*,
    value::{Interpreter, Step},
};
/// x
#[derive(Clone, Debug)]
pub struct AdamW {
    /// x
    pub lr: f64,
    /// x
    pub beta1: f64,
    /// x
    pub beta2: f64,
    /// x
    pub eps: f64,
    /// x
    pub weight_decay: f64,
}
impl Default for AdamW {
    fn default() -> Self {
        Self {
            lr: 1e-3,
            beta1: 0.9,
            beta2: 0.999,
            eps: 1e-8,
            weight_decay: 1e-2,
        }
    }
}
struct Step1;
impl Definition for Step1 {
    const NAME: &'static str = "adamw";
    const LEVELS: Levels = Levels::flat(1);
    #[inline(always)]
    fn step<I: Interpreter>(s: Step<'_, I>) {
        let [lr, beta1, beta2, eps, weight_decay] =
            s.hyper(["lr", "beta1", "beta2", "eps", "weight_decay"]);
        let (g, w, t) = (s.grad(), s.param(), s.t());
        let m = s.full("exp_avg").ema(g, beta1);
        let v = s.full("exp_avg_sq").ema(g.square(), beta2);
        let c = (1.0 - beta2.pow(t)).sqrt();
        let d = v.sqrt() * (1.0 / c) + eps;
        s.set_param(descend(w, m / d, lr / (1.0 - beta1.pow(t)), weight_decay));
    }
}
impl Optimizer for AdamW {
    fn hyper(&self, name: &str) -> Option<f64> {
        Some(match name {
            "lr" => self.lr,
            "beta1" => self.beta1,
            "beta2" => self.beta2,
            "eps" => self.eps,
            "weight_decay" => self.weight_decay,
            _ => return None,
        })
    }
    fn recipe(&self) -> Recipe {
        Recipe::of::<Step1>()
    }
}
