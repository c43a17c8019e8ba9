//! One step on one thread against the memory and against loops written by hand.
//!
//! `cargo bench --bench step [-- [--quick] [NAME]]`. For each optimizer three loops take turns in one
//! process, and the least time of all rounds counts, so that a busy machine disturbs little:
//!
//! * *floor*: reads and writes what the optimizer must, and computes next to nothing;
//! * *hand*: the optimizer alone, fused by hand with explicit vectors and fused multiply-adds,
//!   several rows at a time. A rival, not a reference: its results must agree to 1e-5;
//! * *gradstep*: the definition.
//!
//! The last optimizer, Lion, is defined here as a user of the library would define it.

#![allow(clippy::too_many_arguments, reason = "loops by hand take their operands one by one")]

use std::time::Instant;

use gradstep::blocks::descend;
use gradstep::optim::{AdamW, Came};
use gradstep::value::{Interpreter, Step};
use gradstep::{Cpu, CpuStep, Definition, Levels, Optimizer, Recipe};

// ---- An optimizer of one's own -------------------------------------------------------------

#[derive(Clone, Debug)]
struct Lion {
    lr: f64,
    beta1: f64,
    beta2: f64,
    weight_decay: f64,
}

struct LionStep;

impl Definition for LionStep {
    const NAME: &'static str = "lion";
    const LEVELS: Levels = Levels::flat(1);

    #[inline(always)]
    fn step<I: Interpreter>(s: Step<'_, I>) {
        let [lr, beta1, beta2, weight_decay] = s.hyper(["lr", "beta1", "beta2", "weight_decay"]);
        let (g, w) = (s.grad(), s.param());
        let m = s.full("m");
        let u = m.old().lerp(g, 1.0 - beta1).sign();
        m.ema(g, beta2);
        s.set_param(descend(w, u * lr, lr * weight_decay));
    }
}

impl Optimizer for Lion {
    fn hyper(&self, name: &str) -> Option<f64> {
        Some(match name {
            "lr" => self.lr,
            "beta1" => self.beta1,
            "beta2" => self.beta2,
            "weight_decay" => self.weight_decay,
            _ => return None,
        })
    }

    fn recipe(&self) -> Recipe {
        Recipe::of::<LionStep>()
    }
}

// ---- Vectors for the loops by hand ---------------------------------------------------------

/// Eight numbers.
///
/// # Safety
/// The instruction set is present; eight elements lie behind the pointers.
trait Eight: Copy {
    unsafe fn load(from: *const f32) -> Self;
    unsafe fn store(self, to: *mut f32);
    unsafe fn splat(x: f32) -> Self;
    unsafe fn sub(self, b: Self) -> Self;
    unsafe fn mul(self, b: Self) -> Self;
    unsafe fn div(self, b: Self) -> Self;
    unsafe fn max(self, b: Self) -> Self;
    unsafe fn sqrt(self) -> Self;
    /// `self · b + c`
    unsafe fn mul_add(self, b: Self, c: Self) -> Self;
    /// `c − self · b`
    unsafe fn neg_mul_add(self, b: Self, c: Self) -> Self;
    /// `-1`, `0` or `1`
    unsafe fn sign(self) -> Self;

    #[inline(always)]
    unsafe fn sum(self) -> f32 {
        let mut lanes = [0.0; 8];
        // SAFETY: the trait's contract; the array has eight elements.
        unsafe { self.store(lanes.as_mut_ptr()) };
        lanes.iter().sum()
    }
}

/// Where there is no AVX2.
#[derive(Clone, Copy)]
struct Plain([f32; 8]);

impl Plain {
    #[inline(always)]
    fn zip(self, b: Self, f: impl Fn(f32, f32) -> f32) -> Self {
        Self(std::array::from_fn(|i| f(self.0[i], b.0[i])))
    }
}

impl Eight for Plain {
    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        // SAFETY: the trait's contract.
        Self(unsafe { from.cast::<[f32; 8]>().read_unaligned() })
    }
    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        // SAFETY: the trait's contract.
        unsafe { to.cast::<[f32; 8]>().write_unaligned(self.0) }
    }
    #[inline(always)]
    unsafe fn splat(x: f32) -> Self {
        Self([x; 8])
    }
    #[inline(always)]
    unsafe fn sub(self, b: Self) -> Self {
        self.zip(b, |a, b| a - b)
    }
    #[inline(always)]
    unsafe fn mul(self, b: Self) -> Self {
        self.zip(b, |a, b| a * b)
    }
    #[inline(always)]
    unsafe fn div(self, b: Self) -> Self {
        self.zip(b, |a, b| a / b)
    }
    #[inline(always)]
    unsafe fn max(self, b: Self) -> Self {
        self.zip(b, |a, b| if a < b { b } else { a })
    }
    #[inline(always)]
    unsafe fn sqrt(self) -> Self {
        Self(self.0.map(f32::sqrt))
    }
    #[inline(always)]
    unsafe fn mul_add(self, b: Self, c: Self) -> Self {
        self.zip(b, |a, b| a * b).zip(c, |a, c| a + c)
    }
    #[inline(always)]
    unsafe fn neg_mul_add(self, b: Self, c: Self) -> Self {
        self.zip(b, |a, b| a * b).zip(c, |a, c| c - a)
    }
    #[inline(always)]
    unsafe fn sign(self) -> Self {
        Self(self.0.map(|x| f32::from(i8::from(0.0 < x) - i8::from(x < 0.0))))
    }
}

#[cfg(target_arch = "x86_64")]
mod avx2 {
    use super::Eight;
    use std::arch::x86_64::*;

    #[derive(Clone, Copy)]
    pub(super) struct Avx2(__m256);

    // In every method: SAFETY: the trait's contract.
    #[allow(clippy::undocumented_unsafe_blocks, reason = "one reason for all, stated above")]
    impl Eight for Avx2 {
        #[inline(always)]
        unsafe fn load(from: *const f32) -> Self {
            Self(unsafe { _mm256_loadu_ps(from) })
        }
        #[inline(always)]
        unsafe fn store(self, to: *mut f32) {
            unsafe { _mm256_storeu_ps(to, self.0) }
        }
        #[inline(always)]
        unsafe fn splat(x: f32) -> Self {
            Self(unsafe { _mm256_set1_ps(x) })
        }
        #[inline(always)]
        unsafe fn sub(self, b: Self) -> Self {
            Self(unsafe { _mm256_sub_ps(self.0, b.0) })
        }
        #[inline(always)]
        unsafe fn mul(self, b: Self) -> Self {
            Self(unsafe { _mm256_mul_ps(self.0, b.0) })
        }
        #[inline(always)]
        unsafe fn div(self, b: Self) -> Self {
            Self(unsafe { _mm256_div_ps(self.0, b.0) })
        }
        #[inline(always)]
        unsafe fn max(self, b: Self) -> Self {
            Self(unsafe { _mm256_max_ps(self.0, b.0) })
        }
        #[inline(always)]
        unsafe fn sqrt(self) -> Self {
            Self(unsafe { _mm256_sqrt_ps(self.0) })
        }
        #[inline(always)]
        unsafe fn mul_add(self, b: Self, c: Self) -> Self {
            Self(unsafe { _mm256_fmadd_ps(self.0, b.0, c.0) })
        }
        #[inline(always)]
        unsafe fn neg_mul_add(self, b: Self, c: Self) -> Self {
            Self(unsafe { _mm256_fnmadd_ps(self.0, b.0, c.0) })
        }
        #[inline(always)]
        unsafe fn sign(self) -> Self {
            Self(unsafe {
                let (zero, one) = (_mm256_setzero_ps(), _mm256_set1_ps(1.0));
                let signed = _mm256_or_ps(_mm256_and_ps(self.0, _mm256_set1_ps(-0.0)), one);
                _mm256_and_ps(signed, _mm256_cmp_ps::<_CMP_NEQ_OQ>(self.0, zero))
            })
        }
    }
}

fn has_avx2() -> bool {
    #[cfg(target_arch = "x86_64")]
    let found = is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma");
    #[cfg(not(target_arch = "x86_64"))]
    let found = false;
    found
}

/// A loop over [`Eight`], compiled with AVX2 and without, and a function that picks one.
macro_rules! by_hand {
    (fn $name:ident<$v:ident>($($arg:ident: $t:ty),*) $body:block) => {
        fn $name($($arg: $t),*) {
            #[inline(always)]
            unsafe fn body<$v: Eight>($($arg: $t),*) $body
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2,fma")]
            fn fast($($arg: $t),*) {
                // SAFETY: AVX2 and FMA are present.
                unsafe { body::<avx2::Avx2>($($arg),*) }
            }
            #[cfg(target_arch = "x86_64")]
            if has_avx2() {
                // SAFETY: AVX2 and FMA are present.
                return unsafe { fast($($arg),*) };
            }
            // SAFETY: plain code.
            unsafe { body::<Plain>($($arg),*) }
        }
    };
}

// Lengths are whole multiples of 32 (checked in `main`); all slices of a call are equally long.

// ---- AdamW ---------------------------------------------------------------------------------

by_hand! {
    fn adamw_floor<V>(g: &[f32], w: &mut [f32], m: &mut [f32], v: &mut [f32]) {
        for i in (0..g.len()).step_by(8) {
            // SAFETY: whole vectors of equally long slices.
            unsafe {
                let g = V::load(g.as_ptr().add(i));
                for x in [&mut *w, &mut *m, &mut *v] {
                    let x = x.as_mut_ptr().add(i);
                    V::load(x).max(g).store(x);
                }
            }
        }
    }
}

/// The constants of one step: `1−β₁`, `1−β₂`, `1/√(1−β₂ᵗ)`, `ε`, `η/(1−β₁ᵗ)`, `1−ηλ`.
type AdamConstants = [f32; 6];

by_hand! {
    fn adamw_hand<V>(
        constants: AdamConstants, g: &[f32], w: &mut [f32], m: &mut [f32], v: &mut [f32]
    ) {
        // SAFETY: whole vectors of equally long slices.
        unsafe {
            let [b1, b2, c, eps, lr, keep] = constants;
            let (b1, b2, c) = (V::splat(b1), V::splat(b2), V::splat(c));
            let (eps, lr, keep) = (V::splat(eps), V::splat(lr), V::splat(keep));
            for i in (0..g.len()).step_by(8) {
                let g = V::load(g.as_ptr().add(i));
                let (w, m, v) =
                    (w.as_mut_ptr().add(i), m.as_mut_ptr().add(i), v.as_mut_ptr().add(i));
                let (m0, v0) = (V::load(m), V::load(v));
                let m1 = g.sub(m0).mul_add(b1, m0);
                let v1 = g.mul_add(g, V::splat(0.0)).sub(v0).mul_add(b2, v0);
                let d = v1.sqrt().mul_add(c, eps);
                m1.store(m);
                v1.store(v);
                m1.div(d).neg_mul_add(lr, V::load(w).mul(keep)).store(w);
            }
        }
    }
}

// ---- CAME ----------------------------------------------------------------------------------

by_hand! {
    fn came_floor<V>(g: &[f32], w: &mut [f32], m: &mut [f32], out: &mut f32) {
        // SAFETY: whole vectors of equally long slices.
        unsafe {
            let mut max = [V::splat(0.0); 4];
            for i in (0..g.len()).step_by(32) {
                for (k, max) in max.iter_mut().enumerate() {
                    *max = max.max(V::load(g.as_ptr().add(i + 8 * k)));
                }
            }
            *out = max[0].max(max[1]).max(max[2].max(max[3])).sum();
            for i in (0..g.len()).step_by(8) {
                let m = m.as_mut_ptr().add(i);
                V::load(m).max(V::load(g.as_ptr().add(i))).store(m);
            }
            for i in (0..g.len()).step_by(8) {
                let w = w.as_mut_ptr().add(i);
                V::load(w).max(V::load(m.as_ptr().add(i))).store(w);
            }
        }
    }
}

/// Rows that the sums of CAME's sweeps go over together: one load and store of a column's sum
/// serves all of them, and their chains of additions run side by side.
const TOGETHER: usize = 4;

by_hand! {
    // Row sums of squares, column sums of squares.
    fn came_squares<V>(g: &[f32], cols: usize, rows_out: &mut [f32; TOGETHER], c: &mut [f32]) {
        // SAFETY: `g` has TOGETHER rows of whole vectors, `c` one.
        unsafe {
            let mut sums = [V::splat(0.0); TOGETHER];
            for j in (0..cols).step_by(8) {
                let c = c.as_mut_ptr().add(j);
                let mut col = V::load(c);
                for (k, sum) in sums.iter_mut().enumerate() {
                    let g = V::load(g.as_ptr().add(k * cols + j));
                    *sum = g.mul_add(g, *sum);
                    col = g.mul_add(g, col);
                }
                col.store(c);
            }
            for (out, sum) in rows_out.iter_mut().zip(sums) {
                *out = sum.sum();
            }
        }
    }
}

by_hand! {
    // Column sums of squares over the rows' second moments.
    fn came_weighted<V>(g: &[f32], cols: usize, by: &[f32; TOGETHER], c: &mut [f32]) {
        // SAFETY: `g` has TOGETHER rows of whole vectors, `c` one.
        unsafe {
            let by = [V::splat(by[0]), V::splat(by[1]), V::splat(by[2]), V::splat(by[3])];
            for j in (0..cols).step_by(8) {
                let c = c.as_mut_ptr().add(j);
                let mut col = V::load(c);
                for (k, &by) in by.iter().enumerate() {
                    let g = V::load(g.as_ptr().add(k * cols + j));
                    col = g.mul(g).mul_add(by, col);
                }
                col.store(c);
            }
        }
    }
}

by_hand! {
    // Momentum, row and column sums of the residuals.
    fn came_momentum<V>(
        g: &[f32], m: &mut [f32], cols: usize, beta: f32, by_row: &[f32; TOGETHER],
        by_col: &[f32], rows_out: &mut [f32; TOGETHER], c: &mut [f32]
    ) {
        // SAFETY: `g` and `m` have TOGETHER rows of whole vectors, `by_col` and `c` one.
        unsafe {
            let [r0, r1, r2, r3] = *by_row;
            let by_row = [V::splat(r0), V::splat(r1), V::splat(r2), V::splat(r3)];
            let beta = V::splat(beta);
            let mut sums = [V::splat(0.0); TOGETHER];
            for j in (0..cols).step_by(8) {
                let c = c.as_mut_ptr().add(j);
                let mut col = V::load(c);
                let by_col = V::load(by_col.as_ptr().add(j));
                for (k, sum) in sums.iter_mut().enumerate() {
                    let u = V::load(g.as_ptr().add(k * cols + j)).mul(by_row[k].mul(by_col));
                    let m = m.as_mut_ptr().add(k * cols + j);
                    let m0 = V::load(m);
                    let m1 = u.sub(m0).mul_add(beta, m0);
                    m1.store(m);
                    let e = u.sub(m1);
                    *sum = e.mul_add(e, *sum);
                    col = e.mul_add(e, col);
                }
                col.store(c);
            }
            for (out, sum) in rows_out.iter_mut().zip(sums) {
                *out = sum.sum();
            }
        }
    }
}

by_hand! {
    fn came_update<V>(
        m: &[f32], w: &mut [f32], keep: f32, by_row: f32, by_col: &[f32]
    ) {
        // SAFETY: one row of whole vectors each.
        unsafe {
            let (keep, by_row) = (V::splat(keep), V::splat(by_row));
            for j in (0..m.len()).step_by(8) {
                let w = w.as_mut_ptr().add(j);
                let by = by_row.mul(V::load(by_col.as_ptr().add(j)));
                V::load(m.as_ptr().add(j)).neg_mul_add(by, V::load(w).mul(keep)).store(w);
            }
        }
    }
}

struct CameByHand {
    lr: f32,
    cols: usize,
    m: Vec<f32>,
    r: Vec<f32>,
    c: Vec<f32>,
    res_r: Vec<f32>,
    res_c: Vec<f32>,
    /// Three rows of scratch.
    scratch: [Vec<f32>; 3],
    by_row: Vec<f32>,
}

#[allow(clippy::cast_precision_loss, clippy::cast_possible_truncation, reason = "counts, means")]
impl CameByHand {
    fn new(lr: f32, rows: usize, cols: usize) -> Self {
        let row = || vec![0.0; cols];
        Self {
            lr,
            cols,
            m: vec![0.0; rows * cols],
            r: vec![0.0; rows],
            c: row(),
            res_r: vec![0.0; rows],
            res_c: row(),
            scratch: [row(), row(), row()],
            by_row: vec![0.0; rows],
        }
    }

    fn step(&mut self, w: &mut [f32], g: &[f32]) {
        let (b1, b2, b3) =
            ((1.0 - 0.9f64) as f32, (1.0 - 0.999f64) as f32, (1.0 - 0.9999f64) as f32);
        let (eps1, eps2) = (1e-30f32, 1e-16f32);
        let (cols, rows) = (self.cols, self.r.len());
        let [sums, weighted, by_col] = &mut self.scratch;
        let group = TOGETHER * cols;
        sums.fill(0.0);
        weighted.fill(0.0);
        for (g, r) in g.chunks_exact(group).zip(self.r.chunks_exact_mut(TOGETHER)) {
            let mut row_sums = [0.0; TOGETHER];
            came_squares(g, cols, &mut row_sums, sums);
            for (r, sum) in r.iter_mut().zip(&mut row_sums) {
                *r += (*sum / cols as f32 + eps1 - *r) * b2;
                *sum = 1.0 / *r;
            }
            came_weighted(g, cols, &row_sums, weighted);
        }
        let mean = |x: &[f32]| x.iter().map(|&x| f64::from(x)).sum::<f64>() / x.len() as f64;
        let r_mean = mean(&self.r) as f32;
        let mut square = 0.0;
        for (((c, by), sum), x) in self.c.iter_mut().zip(&mut *by_col).zip(&*sums).zip(&*weighted) {
            *c += (sum / rows as f32 + eps1 - *c) * b2;
            square += f64::from(x / rows as f32 * (r_mean / *c));
            *by = 1.0 / c.sqrt();
        }
        let rms = (square / cols as f64).sqrt() as f32;
        let scale = 1.0 / rms.max(1.0);
        for (by, r) in self.by_row.iter_mut().zip(&self.r) {
            *by = scale / (r / r_mean).sqrt();
        }

        sums.fill(0.0);
        let grouped = g.chunks_exact(group).zip(self.m.chunks_exact_mut(group));
        let by_rows = self.by_row.as_chunks::<TOGETHER>().0;
        for (((g, m), by), r) in grouped.zip(by_rows).zip(self.res_r.chunks_exact_mut(TOGETHER)) {
            let mut row_sums = [0.0; TOGETHER];
            came_momentum(g, m, cols, b1, by, by_col, &mut row_sums, sums);
            for (r, sum) in r.iter_mut().zip(row_sums) {
                *r += (sum / cols as f32 + eps2 - *r) * b3;
            }
        }
        let r_mean = mean(&self.res_r) as f32;
        for ((c, by), sum) in self.res_c.iter_mut().zip(&mut *by_col).zip(&*sums) {
            *c += (sum / rows as f32 + eps2 - *c) * b3;
            *by = 1.0 / c.sqrt();
        }
        for ((m, w), r) in self.m.chunks_exact(cols).zip(w.chunks_exact_mut(cols)).zip(&self.res_r)
        {
            came_update(m, w, 1.0, self.lr / (r / r_mean).sqrt(), by_col);
        }
    }
}

// ---- Lion ----------------------------------------------------------------------------------

by_hand! {
    fn lion_floor<V>(g: &[f32], w: &mut [f32], m: &mut [f32]) {
        for i in (0..g.len()).step_by(8) {
            // SAFETY: whole vectors of equally long slices.
            unsafe {
                let g = V::load(g.as_ptr().add(i));
                for x in [&mut *w, &mut *m] {
                    let x = x.as_mut_ptr().add(i);
                    V::load(x).max(g).store(x);
                }
            }
        }
    }
}

by_hand! {
    fn lion_hand<V>(constants: [f32; 4], g: &[f32], w: &mut [f32], m: &mut [f32]) {
        // SAFETY: whole vectors of equally long slices.
        unsafe {
            let [b1, b2, lr, keep] = constants;
            let (b1, b2, lr, keep) = (V::splat(b1), V::splat(b2), V::splat(lr), V::splat(keep));
            for i in (0..g.len()).step_by(8) {
                let g = V::load(g.as_ptr().add(i));
                let (w, m) = (w.as_mut_ptr().add(i), m.as_mut_ptr().add(i));
                let m0 = V::load(m);
                let u = g.sub(m0).mul_add(b1, m0).sign();
                g.sub(m0).mul_add(b2, m0).store(m);
                u.neg_mul_add(lr, V::load(w).mul(keep)).store(w);
            }
        }
    }
}

// ---- The table -----------------------------------------------------------------------------

/// Numbers in −scale … scale.
fn noise(n: usize, seed: u64, scale: f32) -> Vec<f32> {
    let mut random = fastrand::Rng::with_seed(seed);
    (0..n).map(|_| (random.f32() * 2.0 - 1.0) * scale).collect()
}

/// One optimizer at one size: its three loops.
struct Contest<'a> {
    name: &'a str,
    /// Bytes that each parameter moves.
    bytes: f64,
    floor: Box<dyn FnMut() + 'a>,
    hand: Box<dyn FnMut() + 'a>,
    gradstep: Box<dyn FnMut() + 'a>,
}

const STEPS_COMPARED: usize = 5;
const PARAM_SCALE: f32 = 1e-2;

fn agree(name: &str, hand: &[f32], gradstep: &[f32]) {
    let worst = hand.iter().zip(gradstep).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    let greatest = hand.iter().map(|a| a.abs()).fold(0.0, f32::max);
    assert!(
        worst <= 1e-5 * greatest,
        "{name}: the loop by hand differs from the definition by {worst:e} of {greatest:e}"
    );
}

#[allow(clippy::cast_precision_loss, reason = "times and counts")]
fn measure(contests: &mut [Contest<'_>], shape: &[usize], rounds: usize) {
    let n = shape.iter().product::<usize>();
    // Small tensors are stepped several times for one reading of the clock.
    let repeat = (1_000_000 / n).clamp(1, 2000);
    println!("{shape:?} ({n} parameters)");
    println!("               ns/param    GB/s   × floor   × hand     µs/step");
    let wanted = std::env::args().skip(1).find(|a| !a.starts_with("--")).unwrap_or_default();
    for contest in contests.iter_mut().filter(|c| c.name.contains(&wanted)) {
        let mut best = [f64::INFINITY; 3];
        for _ in 0..rounds {
            let loops = [&mut contest.floor, &mut contest.hand, &mut contest.gradstep];
            for (best, run) in best.iter_mut().zip(loops) {
                let start = Instant::now();
                (0..repeat).for_each(|_| run());
                *best = best.min(start.elapsed().as_secs_f64() / repeat as f64);
            }
        }
        for (label, time) in ["floor", "hand", "gradstep"].into_iter().zip(best) {
            let per = time * 1e9 / n as f64;
            println!(
                "{:6}{label:9}{per:8.3}{:8.1}{:10.2}{:9.2}{:12.2}",
                contest.name,
                contest.bytes / per,
                time / best[0],
                time / best[1],
                time * 1e6
            );
        }
    }
}

fn prepared<O: Optimizer>(optimizer: O, shape: &[usize]) -> CpuStep<f32, O> {
    let cpu = Cpu::single_threaded();
    let cpu =
        if std::env::var("ISA").is_ok() { cpu.with_isa(gradstep::Isa::Avx2).unwrap() } else { cpu };
    cpu.prepare(optimizer, shape).expect("a valid optimizer")
}

#[allow(clippy::cast_possible_truncation, reason = "constants rounded once")]
fn adamw<'a>(shape: &[usize], g: &'a [f32]) -> Contest<'a> {
    let n = g.len();
    let optimizer = AdamW::default();
    let AdamW { lr, beta1, beta2, eps, weight_decay, .. } = optimizer;
    let mut t = 0;
    let mut step = prepared(optimizer, shape);
    let (mut w, mut m, mut v) = (noise(n, 1, PARAM_SCALE), vec![0.0; n], vec![0.0; n]);
    let mut hand = move |w: &mut [f32]| {
        t += 1;
        let constants = [
            1.0 - beta1,
            1.0 - beta2,
            1.0 / (1.0 - beta2.powi(t)).sqrt(),
            eps,
            lr / (1.0 - beta1.powi(t)),
            1.0 - lr * weight_decay,
        ];
        adamw_hand(constants.map(|x| x as f32), g, w, &mut m, &mut v);
    };
    let mut w_ours = w.clone();
    for _ in 0..STEPS_COMPARED {
        hand(&mut w);
        step.step(&mut w_ours, g).expect("a step");
    }
    agree("AdamW", &w, &w_ours);
    let mut f = [vec![0.0; n], vec![0.0; n], vec![0.0; n]];
    Contest {
        name: "AdamW",
        bytes: 28.0,
        floor: Box::new(move || {
            let [w, m, v] = &mut f;
            adamw_floor(g, w, m, v);
        }),
        hand: Box::new(move || hand(&mut w)),
        gradstep: Box::new(move || step.step(&mut w_ours, g).expect("a step")),
    }
}

fn came<'a>(shape: [usize; 2], g: &'a [f32]) -> Contest<'a> {
    let n = g.len();
    let mut step = prepared(Came::new(1e-3), &shape);
    let mut hand = CameByHand::new(1e-3, shape[0], shape[1]);
    let mut w = noise(n, 1, PARAM_SCALE);
    let mut w_ours = w.clone();
    for _ in 0..STEPS_COMPARED {
        hand.step(&mut w, g);
        step.step(&mut w_ours, g).expect("a step");
    }
    agree("CAME", &w, &w_ours);
    let mut f = [vec![0.0; n], vec![0.0; n]];
    let mut out = 0.0;
    Contest {
        name: "CAME",
        bytes: 28.0,
        floor: Box::new(move || {
            let [w, m] = &mut f;
            came_floor(g, w, m, &mut out);
            std::hint::black_box(out);
        }),
        hand: Box::new(move || hand.step(&mut w, g)),
        gradstep: Box::new(move || step.step(&mut w_ours, g).expect("a step")),
    }
}

#[allow(clippy::cast_possible_truncation, reason = "constants rounded once")]
fn lion<'a>(shape: &[usize], g: &'a [f32]) -> Contest<'a> {
    let n = g.len();
    let optimizer = Lion { lr: 1e-4, beta1: 0.9, beta2: 0.99, weight_decay: 0.1 };
    let Lion { lr, beta1, beta2, weight_decay } = optimizer;
    let constants = [1.0 - beta1, 1.0 - beta2, lr, 1.0 - lr * weight_decay].map(|x| x as f32);
    let mut step = prepared(optimizer, shape);
    let (mut w, mut m) = (noise(n, 1, PARAM_SCALE), vec![0.0; n]);
    let mut w_ours = w.clone();
    for _ in 0..STEPS_COMPARED {
        lion_hand(constants, g, &mut w, &mut m);
        step.step(&mut w_ours, g).expect("a step");
    }
    agree("Lion", &w, &w_ours);
    let mut f = [vec![0.0; n], vec![0.0; n]];
    Contest {
        name: "Lion",
        bytes: 20.0,
        floor: Box::new(move || {
            let [w, m] = &mut f;
            lion_floor(g, w, m);
        }),
        hand: Box::new(move || lion_hand(constants, g, &mut w, &mut m)),
        gradstep: Box::new(move || step.step(&mut w_ours, g).expect("a step")),
    }
}

fn main() {
    let quick = std::env::args().any(|a| a == "--quick");
    let rounds = if quick { 30 } else { 100 };
    println!("one thread, f32; gradstep with {}", gradstep::Isa::detect().name());
    if has_avx2() {
        println!("loops by hand: AVX2 with FMA");
    } else {
        println!("loops by hand: plain code, because this processor has no AVX2 with FMA");
    }
    for shape in [[4096, 4096], [4096, 1024], [256, 256]] {
        if std::env::var("COLS").is_ok_and(|c| c != shape[1].to_string()) {
            continue;
        }
        let g = noise(shape[0] * shape[1], 0, 1.0);
        let mut contests = [adamw(&shape, &g), came(shape, &g), lion(&shape, &g)];
        measure(&mut contests, &shape, rounds);
    }
    let g = noise(768, 0, 1.0);
    measure(&mut [adamw(&[768], &g), lion(&[768], &g)], &[768], rounds);
}
