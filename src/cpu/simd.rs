//! The vectors of the CPU's lanes: one small trait, one type per instruction set.
//!
//! The trait holds only what [`Lane`](super::lane) calls. Methods are `#[inline(always)]`; the
//! `#[target_feature]` stands on the outermost function, the kernel, into which everything is
//! inlined. Whatever the width of the registers, a vector has the same number of *virtual lanes*
//! (16 of `f32`, 8 of `f64`), every operation is correctly rounded and none is fused, so all
//! instruction sets give the same bits.

use super::{Element, Lanes};
use crate::value::Reduction;

/// A vector of [`Element::LANES`] numbers.
///
/// # Safety
/// All methods may be called only where the type's instruction set is present. `load` and `store`
/// need that many elements behind the pointer, at any alignment.
pub trait Simd: Copy + 'static {
    type T: Element;

    unsafe fn load(from: *const Self::T) -> Self;
    unsafe fn store(self, to: *mut Self::T);
    unsafe fn splat(x: Self::T) -> Self;
    unsafe fn add(self, other: Self) -> Self;
    unsafe fn sub(self, other: Self) -> Self;
    unsafe fn mul(self, other: Self) -> Self;
    unsafe fn div(self, other: Self) -> Self;
    /// `other` where `other < self`, else `self`.
    unsafe fn min(self, other: Self) -> Self;
    /// `other` where `self < other`, else `self`.
    unsafe fn max(self, other: Self) -> Self;
    unsafe fn sqrt(self) -> Self;
    unsafe fn neg(self) -> Self;
    unsafe fn abs(self) -> Self;
    /// `x` where `a < b`, else `y`.
    unsafe fn select_less(a: Self, b: Self, x: Self, y: Self) -> Self;
    /// Combines the lanes: each with the one half the lanes further on, until one is left.
    unsafe fn fold(self, kind: Reduction) -> Self::T;

    /// The first `n` lanes, and `rest` in the others.
    #[inline(always)]
    unsafe fn first(self, n: usize, rest: Self::T) -> Self {
        let mut lanes = Self::T::padded();
        let lanes = lanes.as_mut();
        // SAFETY: the trait's contract; the array has as many elements as the vector.
        unsafe { self.store(lanes.as_mut_ptr()) };
        lanes[n..].fill(rest);
        // SAFETY: as above.
        unsafe { Self::load(lanes.as_ptr()) }
    }
}

/// Plain arrays: for instruction sets without a type of their own, and for miri.
#[cfg(any(miri, not(target_arch = "x86_64")))]
#[derive(Clone, Copy, Debug)]
pub struct Portable<T, const N: usize>([T; N]);

#[cfg(any(miri, not(target_arch = "x86_64")))]
impl<T: Element, const N: usize> Portable<T, N> {
    #[inline(always)]
    fn zip(self, other: Self, f: impl Fn(T, T) -> T) -> Self {
        Self(std::array::from_fn(|i| f(self.0[i], other.0[i])))
    }
}

#[cfg(any(miri, not(target_arch = "x86_64")))]
impl<T: Element, const N: usize> Simd for Portable<T, N> {
    type T = T;

    #[inline(always)]
    unsafe fn load(from: *const T) -> Self {
        // SAFETY: the caller vouches for N elements.
        Self(unsafe { from.cast::<[T; N]>().read_unaligned() })
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut T) {
        // SAFETY: the caller vouches for N elements.
        unsafe { to.cast::<[T; N]>().write_unaligned(self.0) }
    }

    #[inline(always)]
    unsafe fn splat(x: T) -> Self {
        Self([x; N])
    }

    #[inline(always)]
    unsafe fn add(self, other: Self) -> Self {
        self.zip(other, |a, b| a + b)
    }

    #[inline(always)]
    unsafe fn sub(self, other: Self) -> Self {
        self.zip(other, |a, b| a - b)
    }

    #[inline(always)]
    unsafe fn mul(self, other: Self) -> Self {
        self.zip(other, |a, b| a * b)
    }

    #[inline(always)]
    unsafe fn div(self, other: Self) -> Self {
        self.zip(other, |a, b| a / b)
    }

    #[inline(always)]
    unsafe fn min(self, other: Self) -> Self {
        self.zip(other, |a, b| if b < a { b } else { a })
    }

    #[inline(always)]
    unsafe fn max(self, other: Self) -> Self {
        self.zip(other, |a, b| if a < b { b } else { a })
    }

    #[inline(always)]
    unsafe fn sqrt(self) -> Self {
        Self(self.0.map(T::sqrt))
    }

    #[inline(always)]
    unsafe fn neg(self) -> Self {
        Self(self.0.map(|x| -x))
    }

    #[inline(always)]
    unsafe fn abs(self) -> Self {
        Self(self.0.map(T::abs))
    }

    #[inline(always)]
    unsafe fn select_less(a: Self, b: Self, x: Self, y: Self) -> Self {
        Self(std::array::from_fn(|i| if a.0[i] < b.0[i] { x.0[i] } else { y.0[i] }))
    }

    #[inline(always)]
    unsafe fn fold(mut self, kind: Reduction) -> T {
        let mut half = N / 2;
        while half > 0 {
            for i in 0..half {
                let (a, b) = (self.0[i], self.0[i + half]);
                self.0[i] = match kind {
                    Reduction::Mean => a + b,
                    Reduction::Max if a < b => b,
                    Reduction::Max => a,
                };
            }
            half /= 2;
        }
        self.0[0]
    }
}

#[cfg(all(target_arch = "x86_64", not(miri)))]
pub(super) mod x86 {
    use super::Simd;
    use crate::value::Reduction;
    use std::arch::x86_64::*;

    /// A vector made of `$count` registers of `$width` numbers.
    macro_rules! vector {
        (
            $(#[$doc:meta])* $name:ident = [$register:ty; $count:literal] ($($i:literal)*) of $width:literal $t:ty,
            $load:ident $store:ident $splat:ident $add:ident $sub:ident $mul:ident $div:ident
            $min:ident $max:ident $sqrt:ident $xor:ident $andnot:ident, $select:ident $fold:ident
        ) => {
            $(#[$doc])*
            #[derive(Clone, Copy, Debug)]
            pub struct $name([$register; $count]);

            // In every method: SAFETY: the trait's contract, the instruction set is present and
            // the memory is there; offsets stay below the number of virtual lanes.
            #[allow(
                clippy::undocumented_unsafe_blocks,
                reason = "one reason for all of them, stated above"
            )]
            impl Simd for $name {
                type T = $t;

                #[inline(always)]
                unsafe fn load(from: *const $t) -> Self {
                    Self(unsafe { [$($load(from.wrapping_add($width * $i))),*] })
                }
                #[inline(always)]
                unsafe fn store(self, to: *mut $t) {
                    unsafe { $($store(to.wrapping_add($width * $i), self.0[$i]);)* }
                }
                #[inline(always)]
                unsafe fn splat(x: $t) -> Self {
                    Self([unsafe { $splat(x) }; $count])
                }
                #[inline(always)]
                unsafe fn add(self, other: Self) -> Self {
                    Self(unsafe { [$($add(self.0[$i], other.0[$i])),*] })
                }
                #[inline(always)]
                unsafe fn sub(self, other: Self) -> Self {
                    Self(unsafe { [$($sub(self.0[$i], other.0[$i])),*] })
                }
                #[inline(always)]
                unsafe fn mul(self, other: Self) -> Self {
                    Self(unsafe { [$($mul(self.0[$i], other.0[$i])),*] })
                }
                #[inline(always)]
                unsafe fn div(self, other: Self) -> Self {
                    Self(unsafe { [$($div(self.0[$i], other.0[$i])),*] })
                }
                #[inline(always)]
                unsafe fn min(self, other: Self) -> Self {
                    // The instruction returns its second operand unless the first is less.
                    Self(unsafe { [$($min(other.0[$i], self.0[$i])),*] })
                }
                #[inline(always)]
                unsafe fn max(self, other: Self) -> Self {
                    // The instruction returns its second operand unless the first is greater.
                    Self(unsafe { [$($max(other.0[$i], self.0[$i])),*] })
                }
                #[inline(always)]
                unsafe fn sqrt(self) -> Self {
                    Self(unsafe { [$($sqrt(self.0[$i])),*] })
                }
                #[inline(always)]
                unsafe fn neg(self) -> Self {
                    Self(unsafe { [$($xor($splat(-0.0), self.0[$i])),*] })
                }
                #[inline(always)]
                unsafe fn abs(self) -> Self {
                    Self(unsafe { [$($andnot($splat(-0.0), self.0[$i])),*] })
                }
                #[inline(always)]
                unsafe fn select_less(a: Self, b: Self, x: Self, y: Self) -> Self {
                    Self(unsafe { [$($select(a.0[$i], b.0[$i], x.0[$i], y.0[$i])),*] })
                }
                #[inline(always)]
                unsafe fn fold(self, kind: Reduction) -> $t {
                    unsafe { $fold(self.0, kind) }
                }
            }
        };
    }

    /// The sum, or the greater: the second where the first is less, else the first.
    macro_rules! join {
        ($kind:ident, $add:ident, $max:ident, $a:expr, $b:expr) => {
            match $kind {
                Reduction::Mean => $add($a, $b),
                Reduction::Max => $max($b, $a),
            }
        };
    }

    #[inline(always)]
    unsafe fn fold_ps(v: __m128, kind: Reduction) -> f32 {
        // SAFETY: SSE2 is part of x86-64.
        unsafe {
            let v = join!(kind, _mm_add_ps, _mm_max_ps, v, _mm_movehl_ps(v, v));
            _mm_cvtss_f32(join!(kind, _mm_add_ps, _mm_max_ps, v, _mm_shuffle_ps::<1>(v, v)))
        }
    }

    #[inline(always)]
    unsafe fn fold_pd(v: __m128d, kind: Reduction) -> f64 {
        // SAFETY: SSE2 is part of x86-64.
        unsafe {
            let v = join!(kind, _mm_add_pd, _mm_max_pd, v, _mm_unpackhi_pd(v, v));
            _mm_cvtsd_f64(v)
        }
    }

    #[inline(always)]
    unsafe fn fold_ps128([a, b, c, d]: [__m128; 4], kind: Reduction) -> f32 {
        // SAFETY: SSE2 is part of x86-64.
        unsafe {
            let (a, b) = (
                join!(kind, _mm_add_ps, _mm_max_ps, a, c),
                join!(kind, _mm_add_ps, _mm_max_ps, b, d),
            );
            fold_ps(join!(kind, _mm_add_ps, _mm_max_ps, a, b), kind)
        }
    }

    #[inline(always)]
    unsafe fn fold_pd128([a, b, c, d]: [__m128d; 4], kind: Reduction) -> f64 {
        // SAFETY: SSE2 is part of x86-64.
        unsafe {
            let (a, b) = (
                join!(kind, _mm_add_pd, _mm_max_pd, a, c),
                join!(kind, _mm_add_pd, _mm_max_pd, b, d),
            );
            fold_pd(join!(kind, _mm_add_pd, _mm_max_pd, a, b), kind)
        }
    }

    #[inline(always)]
    unsafe fn fold_ps256([a, b]: [__m256; 2], kind: Reduction) -> f32 {
        // SAFETY: the caller vouches for AVX2.
        unsafe {
            let v = join!(kind, _mm256_add_ps, _mm256_max_ps, a, b);
            let (a, b) = (_mm256_castps256_ps128(v), _mm256_extractf128_ps::<1>(v));
            fold_ps(join!(kind, _mm_add_ps, _mm_max_ps, a, b), kind)
        }
    }

    #[inline(always)]
    unsafe fn fold_pd256([a, b]: [__m256d; 2], kind: Reduction) -> f64 {
        // SAFETY: the caller vouches for AVX2.
        unsafe {
            let v = join!(kind, _mm256_add_pd, _mm256_max_pd, a, b);
            let (a, b) = (_mm256_castpd256_pd128(v), _mm256_extractf128_pd::<1>(v));
            fold_pd(join!(kind, _mm_add_pd, _mm_max_pd, a, b), kind)
        }
    }

    #[inline(always)]
    unsafe fn fold_ps512([v]: [__m512; 1], kind: Reduction) -> f32 {
        // SAFETY: the caller vouches for AVX-512.
        unsafe { fold_ps256([_mm512_castps512_ps256(v), _mm512_extractf32x8_ps::<1>(v)], kind) }
    }

    // SSE2 has no blend: the mask picks the bits.
    #[inline(always)]
    unsafe fn select_ps(a: __m128, b: __m128, x: __m128, y: __m128) -> __m128 {
        // SAFETY: SSE2 is part of x86-64.
        unsafe {
            let mask = _mm_cmplt_ps(a, b);
            _mm_or_ps(_mm_and_ps(mask, x), _mm_andnot_ps(mask, y))
        }
    }

    #[inline(always)]
    unsafe fn select_pd(a: __m128d, b: __m128d, x: __m128d, y: __m128d) -> __m128d {
        // SAFETY: SSE2 is part of x86-64.
        unsafe {
            let mask = _mm_cmplt_pd(a, b);
            _mm_or_pd(_mm_and_pd(mask, x), _mm_andnot_pd(mask, y))
        }
    }

    #[inline(always)]
    unsafe fn select_ps256(a: __m256, b: __m256, x: __m256, y: __m256) -> __m256 {
        // SAFETY: the caller vouches for AVX2.
        unsafe { _mm256_blendv_ps(y, x, _mm256_cmp_ps::<_CMP_LT_OQ>(a, b)) }
    }

    #[inline(always)]
    unsafe fn select_pd256(a: __m256d, b: __m256d, x: __m256d, y: __m256d) -> __m256d {
        // SAFETY: the caller vouches for AVX2.
        unsafe { _mm256_blendv_pd(y, x, _mm256_cmp_pd::<_CMP_LT_OQ>(a, b)) }
    }

    #[inline(always)]
    unsafe fn select_ps512(a: __m512, b: __m512, x: __m512, y: __m512) -> __m512 {
        // SAFETY: the caller vouches for AVX-512.
        unsafe { _mm512_mask_blend_ps(_mm512_cmp_ps_mask::<_CMP_LT_OQ>(a, b), y, x) }
    }

    vector!(
        /// 16 × `f32` in four SSE2 registers.
        Sse2F32 = [__m128; 4] (0 1 2 3) of 4 f32,
        _mm_loadu_ps _mm_storeu_ps _mm_set1_ps _mm_add_ps _mm_sub_ps _mm_mul_ps _mm_div_ps
        _mm_min_ps _mm_max_ps _mm_sqrt_ps _mm_xor_ps _mm_andnot_ps, select_ps fold_ps128
    );
    vector!(
        /// 8 × `f64` in four SSE2 registers.
        Sse2F64 = [__m128d; 4] (0 1 2 3) of 2 f64,
        _mm_loadu_pd _mm_storeu_pd _mm_set1_pd _mm_add_pd _mm_sub_pd _mm_mul_pd _mm_div_pd
        _mm_min_pd _mm_max_pd _mm_sqrt_pd _mm_xor_pd _mm_andnot_pd, select_pd fold_pd128
    );
    vector!(
        /// 16 × `f32` in two AVX registers.
        Avx2F32 = [__m256; 2] (0 1) of 8 f32,
        _mm256_loadu_ps _mm256_storeu_ps _mm256_set1_ps _mm256_add_ps _mm256_sub_ps _mm256_mul_ps
        _mm256_div_ps _mm256_min_ps _mm256_max_ps _mm256_sqrt_ps _mm256_xor_ps _mm256_andnot_ps,
        select_ps256 fold_ps256
    );
    vector!(
        /// 8 × `f64` in two AVX registers.
        Avx2F64 = [__m256d; 2] (0 1) of 4 f64,
        _mm256_loadu_pd _mm256_storeu_pd _mm256_set1_pd _mm256_add_pd _mm256_sub_pd _mm256_mul_pd
        _mm256_div_pd _mm256_min_pd _mm256_max_pd _mm256_sqrt_pd _mm256_xor_pd _mm256_andnot_pd,
        select_pd256 fold_pd256
    );
    vector!(
        /// 16 × `f32` in one AVX-512 register.
        Avx512F32 = [__m512; 1] (0) of 16 f32,
        _mm512_loadu_ps _mm512_storeu_ps _mm512_set1_ps _mm512_add_ps _mm512_sub_ps _mm512_mul_ps
        _mm512_div_ps _mm512_min_ps _mm512_max_ps _mm512_sqrt_ps _mm512_xor_ps _mm512_andnot_ps,
        select_ps512 fold_ps512
    );
}
