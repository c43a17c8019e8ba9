//! Optimizers fused by hand, as rivals: explicit vectors of AVX2, fused multiply-adds, several rows at
//! a time. They need not give the same bits for any number of threads or on any processor, clip no
//! gradients and take lengths of whole vectors only.

#![allow(clippy::too_many_arguments, reason = "loops by hand take their operands one by one")]
#![allow(
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss,
    reason = "constants rounded once, counts"
)]

use super::memory::Laid;

// ---- Vectors for the loops by hand ---------------------------------------------------------

/// Eight numbers.
///
/// # Safety
/// The instruction set is present; eight elements lie behind the pointers.
pub(crate) trait Eight: Copy {
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

pub(crate) fn has_avx2() -> bool {
    #[cfg(target_arch = "x86_64")]
    let found = is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma");
    #[cfg(not(target_arch = "x86_64"))]
    let found = false;
    found
}

/// A loop over [`Eight`], compiled with AVX2 and without, and a function that picks one.
macro_rules! by_hand {
    (fn $name:ident<$v:ident $(, const $c:ident: usize)*>($($arg:ident: $t:ty),* $(,)?) $body:block) => {
        pub(crate) fn $name<$(const $c: usize),*>($($arg: $t),*) {
            #[inline(always)]
            unsafe fn body<$v: Eight $(, const $c: usize)*>($($arg: $t),*) $body
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2,fma")]
            fn fast<$(const $c: usize),*>($($arg: $t),*) {
                // SAFETY: AVX2 and FMA are present.
                unsafe { body::<avx2::Avx2 $(, $c)*>($($arg),*) }
            }
            #[cfg(target_arch = "x86_64")]
            if has_avx2() {
                // SAFETY: AVX2 and FMA are present.
                return unsafe { fast::<$($c),*>($($arg),*) };
            }
            // SAFETY: plain code.
            unsafe { body::<Plain $(, $c)*>($($arg),*) }
        }
    };
}

// Lengths are whole multiples of 32, and rows of 4 (`fits` in `main.rs`); all slices of a call are equally
// long.

// ---- The floor -----------------------------------------------------------------------------

by_hand! {
    // Reads `LOADS` arrays and writes `STORES`, and computes next to nothing.
    fn traffic<V, const LOADS: usize, const STORES: usize>(
        loads: [*const f32; LOADS], stores: [*mut f32; STORES], n: usize
    ) {
        // SAFETY: the caller has `n` elements behind each pointer.
        unsafe {
            let mut last = V::splat(0.0);
            for i in (0..n / 8 * 8).step_by(8) {
                let mut x = V::load(loads[0].add(i));
                for load in &loads[1..] {
                    x = x.max(V::load(load.add(i)));
                }
                for store in stores {
                    x.store(store.add(i));
                }
                if STORES == 0 {
                    last = last.max(x);
                }
            }
            std::hint::black_box(last.sum());
        }
    }
}

// ---- AdamW ---------------------------------------------------------------------------------

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

pub(crate) struct CameByHand {
    lr: f32,
    cols: usize,
    m: Laid<f32>,
    r: Vec<f32>,
    c: Vec<f32>,
    res_r: Vec<f32>,
    res_c: Vec<f32>,
    /// Three rows of scratch.
    scratch: [Vec<f32>; 3],
    by_row: Vec<f32>,
}

impl CameByHand {
    pub(crate) fn new(lr: f32, rows: usize, cols: usize) -> Self {
        let row = || vec![0.0; cols];
        Self {
            lr,
            cols,
            m: Laid::state(0, rows * cols),
            r: vec![0.0; rows],
            c: row(),
            res_r: vec![0.0; rows],
            res_c: row(),
            scratch: [row(), row(), row()],
            by_row: vec![0.0; rows],
        }
    }

    pub(crate) fn step(&mut self, w: &mut [f32], g: &[f32]) {
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

by_hand! {
    // A vector's second moment, and the sum of its normalised squares.
    fn came_vector_squares<V>(b2: f32, eps: f32, g: &[f32], v: &mut [f32], out: &mut f32) {
        // SAFETY: whole vectors of equally long slices.
        unsafe {
            let (b2, eps) = (V::splat(b2), V::splat(eps));
            let mut sums = [V::splat(0.0); 4];
            for i in (0..g.len()).step_by(32) {
                for (k, sum) in sums.iter_mut().enumerate() {
                    let g = V::load(g.as_ptr().add(i + 8 * k));
                    let v = v.as_mut_ptr().add(i + 8 * k);
                    let (square, v0) = (g.mul(g), V::load(v));
                    let v1 = g.mul_add(g, eps).sub(v0).mul_add(b2, v0);
                    v1.store(v);
                    *sum = square.div(v1).mul_add(V::splat(1.0), *sum);
                }
            }
            *out = sums.into_iter().map(|s| s.sum()).sum();
        }
    }
}

by_hand! {
    fn came_vector_update<V>(
        constants: [f32; 3], g: &[f32], v: &[f32], m: &mut [f32], w: &mut [f32]
    ) {
        // SAFETY: whole vectors of equally long slices.
        unsafe {
            let [b1, clip, lr] = constants.map(|x| V::splat(x));
            for i in (0..g.len()).step_by(8) {
                let u = V::load(g.as_ptr().add(i)).mul(clip).div(V::load(v.as_ptr().add(i)).sqrt());
                let (m, w) = (m.as_mut_ptr().add(i), w.as_mut_ptr().add(i));
                let m0 = V::load(m);
                let m1 = u.sub(m0).mul_add(b1, m0);
                m1.store(m);
                m1.neg_mul_add(lr, V::load(w)).store(w);
            }
        }
    }
}

// ---- Lion ----------------------------------------------------------------------------------

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

// ---- As optimizers -------------------------------------------------------------------------

/// An optimizer by hand, for one tensor.
pub(crate) enum Rival {
    AdamW { m: Laid<f32>, v: Laid<f32>, t: i32 },
    Came(CameByHand),
    CameVector { m: Laid<f32>, v: Laid<f32> },
    Lion { m: Laid<f32> },
}

pub(crate) const LR: f64 = 1e-3;

impl Rival {
    /// The rival of an optimizer with the settings of `main.rs`, if there is one for this shape.
    pub(crate) fn new(optimizer: &str, shape: &[usize]) -> Option<Self> {
        let n = shape.iter().product();
        let zeros = |index| Laid::state(index, n);
        let matrix =
            shape.len() == 2 && shape[0].is_multiple_of(TOGETHER) && shape[1].is_multiple_of(32);
        match optimizer {
            _ if !usize::is_multiple_of(n, 32) => None,
            "adamw" => Some(Self::AdamW { m: zeros(0), v: zeros(1), t: 0 }),
            "came" if matrix => Some(Self::Came(CameByHand::new(LR as f32, shape[0], shape[1]))),
            "came" if shape.len() < 2 => Some(Self::CameVector { m: zeros(0), v: zeros(1) }),
            "lion" => Some(Self::Lion { m: zeros(0) }),
            _ => None,
        }
    }

    pub(crate) fn step(&mut self, w: &mut [f32], g: &[f32]) {
        match self {
            Self::AdamW { m, v, t } => {
                *t += 1;
                let (b1, b2, decay) = (0.9, 0.999, 1e-2);
                let constants = [
                    1.0 - b1,
                    1.0 - b2,
                    1.0 / (1.0 - f64::powi(b2, *t)).sqrt(),
                    1e-8,
                    LR / (1.0 - f64::powi(b1, *t)),
                    1.0 - LR * decay,
                ];
                adamw_hand(constants.map(|x| x as f32), g, w, m, v);
            }
            Self::Came(came) => came.step(w, g),
            Self::CameVector { m, v } => {
                let mut sum = 0.0;
                came_vector_squares((1.0 - 0.999f64) as f32, 1e-30, g, v, &mut sum);
                let clip = 1.0 / (sum / g.len() as f32).sqrt().max(1.0);
                came_vector_update([(1.0 - 0.9f64) as f32, clip, LR as f32], g, v, m, w);
            }
            Self::Lion { m } => {
                let (b1, b2, decay) = (0.9, 0.99, 0.1);
                let constants = [1.0 - b1, 1.0 - b2, LR, 1.0 - LR * decay];
                lion_hand(constants.map(|x| x as f32), g, w, m);
            }
        }
    }
}
