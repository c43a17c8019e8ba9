//! x
use crate::{
    Definition, Levels, Optimizer, Recipe,
    blocks::*,
    value::{Interpreter, Step},
};
/// x
#[derive(Clone, Debug)]
pub struct Came {
    /// x
    pub lr: f64,
}
struct Step1;
impl Definition for Step1 {
    const NAME: &'static str = "came";
    const LEVELS: Levels = Levels::factored(2, 4);
    #[inline(always)]
    fn step<I: Interpreter>(s: Step<'_, I>) {
        let [lr, beta1, beta2, beta3, eps1, eps2, clip, weight_decay] = s.hyper([
            "lr",
            "beta1",
            "beta2",
            "beta3",
            "eps1",
            "eps2",
            "clip_threshold",
            "weight_decay",
        ]);
        let (g, w) = (s.grad(), s.param());
        let sq = g.square() + eps1;
        if s.is_matrix() {
            let v = Factored::ema(s, ["exp_avg_sq_row", "exp_avg_sq_col"], 0.0, sq, beta2);
            let u = clip_rms(v.normalize(g), v.normalized_rms(g), clip);
            let m = s.full("exp_avg").ema(u, beta1);
            let res = (u - m).square() + eps2;
            let c = Factored::ema(s, ["exp_avg_res_row", "exp_avg_res_col"], 0.0, res, beta3);
            s.set_param(descend(w, c.normalize(m), lr, weight_decay));
        } else {
            let v = s.full("exp_avg_sq").ema(sq, beta2);
            let u = g * v.rsqrt();
            let u = clip_rms(u, u.rms(), clip);
            let m = s.full("exp_avg").ema(u, beta1);
            s.set_param(descend(w, m, lr, weight_decay));
        }
    }
}
impl Optimizer for Came {
    fn hyper(&self, name: &str) -> Option<f64> {
        Some(match name {
            "lr" => self.lr,
            "beta1" => 0.9,
            "beta2" => 0.999,
            "beta3" => 0.9999,
            "eps1" => 1e-30,
            "eps2" => 1e-16,
            "clip_threshold" => 1.0,
            "weight_decay" => 0.0,
            _ => return None,
        })
    }
    fn recipe(&self) -> Recipe {
        Recipe::of::<Step1>()
    }
}
