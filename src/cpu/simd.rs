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
    /// Which lanes: the first ones.
    type Mask: Copy;
    /// Whether the values of narrow rows lie there for each of their elements, or once for each row.
    const WRITTEN_OUT: bool = true;

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
    /// The first `n` lanes.
    unsafe fn mask(n: usize) -> Self::Mask;
    /// Reads the lanes of the mask and nothing else; zeros are in the others.
    unsafe fn load_lanes(from: *const Self::T, mask: Self::Mask) -> Self;
    /// Writes the lanes of the mask and nothing else.
    unsafe fn store_lanes(self, to: *mut Self::T, mask: Self::Mask);
    /// The lanes of the mask, and those of `other` elsewhere.
    unsafe fn or(self, mask: Self::Mask, other: Self) -> Self;
    /// Combines the lanes: each with the one half the lanes further on, until one is left.
    unsafe fn fold(self, kind: Reduction) -> Self::T;
    /// [`fold`](Self::fold) of four vectors, whose values go side by side.
    unsafe fn fold_four(of: [Self; 4], kind: Reduction, to: *mut Self::T);
    /// Combines each of as many rows as a vector has lanes, from its first element to its last. They are
    /// 2 to [`SHORT`] elements each and lie one after the other, with room for a vector behind them.
    unsafe fn join_rows(kind: Reduction, from: *const Self::T, cols: usize) -> Self;

    /// The row values of the vector that begins `at` elements behind the first of narrow rows. `spreads` says
    /// where they are, if they are not written out.
    #[inline(always)]
    unsafe fn row_values(from: *const Self::T, at: usize, spreads: *const Spread) -> Self {
        let _ = spreads;
        // SAFETY: the trait's contract.
        unsafe { Self::load(from.wrapping_add(at)) }
    }

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

/// Which row values the lanes of a vector of narrow rows take: for each half of them, some of eight that lie side
/// by side.
#[derive(Clone, Copy, Debug)]
pub struct Spread {
    lanes: [i32; 16],
    first: [usize; 2],
}

impl Spread {
    /// For the vector that begins `at` elements behind the first of rows of `cols` elements, 2 at least.
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_possible_wrap,
        reason = "numbers of lanes"
    )]
    pub(super) fn of(at: usize, cols: usize) -> Self {
        let first = [at / cols, (at + 8) / cols];
        let lanes = std::array::from_fn(|i| ((at + i) / cols - first[i / 8]) as i32);
        Self { lanes, first }
    }
}

/// [`Simd::load_lanes`] where no instruction does it.
///
/// # Safety
/// As for [`Simd`].
#[inline(always)]
unsafe fn load_some<V: Simd<Mask = usize>>(from: *const V::T, n: usize) -> V {
    // SAFETY: the caller's contract; `n` lanes of a vector are there.
    unsafe {
        if n == V::T::LANES {
            return V::load(from);
        }
        let mut lanes = V::T::padded();
        from.copy_to_nonoverlapping(lanes.as_mut().as_mut_ptr(), n);
        V::load(lanes.as_mut().as_ptr())
    }
}

/// [`Simd::store_lanes`] where no instruction does it.
///
/// # Safety
/// As for [`Simd`].
#[inline(always)]
unsafe fn store_some<V: Simd<Mask = usize>>(v: V, to: *mut V::T, n: usize) {
    // SAFETY: the caller's contract; `n` lanes of a vector are there.
    unsafe {
        if n == V::T::LANES {
            return v.store(to);
        }
        let mut lanes = V::T::padded();
        v.store(lanes.as_mut().as_mut_ptr());
        lanes.as_mut().as_ptr().copy_to_nonoverlapping(to, n);
    }
}

/// [`Simd::or`] where no instruction does it.
///
/// # Safety
/// As for [`Simd`].
#[inline(always)]
unsafe fn or_some<V: Simd<Mask = usize>>(v: V, n: usize, other: V) -> V {
    // SAFETY: the caller's contract; the array has as many elements as the vector.
    unsafe {
        if n == V::T::LANES {
            return v;
        }
        let mut lanes = V::T::padded();
        other.store(lanes.as_mut().as_mut_ptr());
        store_some(v, lanes.as_mut().as_mut_ptr(), n);
        V::load(lanes.as_mut().as_ptr())
    }
}

/// [`Simd::fold_four`] where it helps nothing that they are four.
///
/// # Safety
/// As for [`Simd`].
#[inline(always)]
unsafe fn fold_apart<V: Simd>([a, b, c, d]: [V; 4], kind: Reduction, to: *mut V::T) {
    // SAFETY: the caller's contract.
    unsafe {
        to.cast::<[V::T; 4]>().write([a.fold(kind), b.fold(kind), c.fold(kind), d.fold(kind)]);
    }
}

/// Elements of the longest rows for which there is code of each length.
pub(super) const SHORT: usize = 8;

/// Calls a function of a row's length, which the compiler then knows.
macro_rules! of_length {
    ($cols:expr, $name:ident<$t:ty>($($arg:expr),*)) => {
        match $cols {
            2 => $name::<$t, 2>($($arg),*),
            3 => $name::<$t, 3>($($arg),*),
            4 => $name::<$t, 4>($($arg),*),
            5 => $name::<$t, 5>($($arg),*),
            6 => $name::<$t, 6>($($arg),*),
            7 => $name::<$t, 7>($($arg),*),
            8 => $name::<$t, 8>($($arg),*),
            _ => {}
        }
    };
}

/// Writes each number `cols` times, 2 to [`SHORT`], one after the other.
#[inline(always)]
pub(super) fn repeat_each<T: Element>(from: &[T], cols: usize, to: &mut [T]) {
    #[inline(always)]
    fn of<T: Element, const COLS: usize>(from: &[T], to: &mut [T]) {
        let (rows, _) = to.as_chunks_mut::<COLS>();
        for (row, &value) in rows.iter_mut().zip(from) {
            *row = [value; COLS];
        }
    }
    if cfg!(gradstep_compact) {
        for (row, &value) in to.chunks_exact_mut(cols).zip(from) {
            row.fill(value);
        }
        return;
    }
    of_length!(cols, of<T>(from, to));
}

/// [`Simd::join_rows`] for fewer or more rows.
#[inline(always)]
pub(super) fn join_each<T: Element>(kind: Reduction, from: &[T], cols: usize, to: &mut [T]) {
    #[inline(always)]
    fn joined<T: Element>(kind: Reduction, row: &[T]) -> T {
        row[1..].iter().fold(row[0], |acc, &x| match kind {
            Reduction::Mean => acc + x,
            Reduction::Max if acc < x => x,
            Reduction::Max => acc,
        })
    }
    #[inline(always)]
    fn of<T: Element, const COLS: usize>(kind: Reduction, from: &[T], to: &mut [T]) {
        let (rows, _) = from.as_chunks::<COLS>();
        for (to, row) in to.iter_mut().zip(rows) {
            *to = joined(kind, row);
        }
    }
    if cfg!(gradstep_compact) {
        for (to, row) in to.iter_mut().zip(from.chunks_exact(cols)) {
            *to = joined(kind, row);
        }
        return;
    }
    match kind {
        // One loop for each kind.
        Reduction::Mean => of_length!(cols, of<T>(Reduction::Mean, from, to)),
        Reduction::Max => of_length!(cols, of<T>(Reduction::Max, from, to)),
    }
}

/// [`Simd::join_rows`] where no instruction helps.
///
/// # Safety
/// As for [`Simd`].
#[inline(always)]
unsafe fn join_lanes<V: Simd>(kind: Reduction, from: *const V::T, cols: usize) -> V {
    let mut lanes = V::T::padded();
    let lanes = lanes.as_mut();
    // SAFETY: the caller's contract: a vector for each column.
    let from = unsafe { std::slice::from_raw_parts(from, V::T::LANES * cols) };
    join_each(kind, from, cols, lanes);
    // SAFETY: the array has as many elements as the vector.
    unsafe { V::load(lanes.as_ptr()) }
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
    type Mask = usize;

    #[inline(always)]
    unsafe fn mask(n: usize) -> usize {
        n
    }

    #[inline(always)]
    unsafe fn load_lanes(from: *const T, n: usize) -> Self {
        // SAFETY: the trait's contract.
        unsafe { load_some(from, n) }
    }

    #[inline(always)]
    unsafe fn store_lanes(self, to: *mut T, n: usize) {
        // SAFETY: the trait's contract.
        unsafe { store_some(self, to, n) }
    }

    #[inline(always)]
    unsafe fn or(self, n: usize, other: Self) -> Self {
        // SAFETY: the trait's contract.
        unsafe { or_some(self, n, other) }
    }

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
    unsafe fn join_rows(kind: Reduction, from: *const T, cols: usize) -> Self {
        // SAFETY: the trait's contract.
        unsafe { join_lanes(kind, from, cols) }
    }

    #[inline(always)]
    unsafe fn fold_four(of: [Self; 4], kind: Reduction, to: *mut T) {
        // SAFETY: the trait's contract.
        unsafe { fold_apart(of, kind, to) }
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
#[cfg_attr(not(feature = "f64"), allow(dead_code, reason = "functions of its vectors"))]
pub(super) mod x86 {
    use super::{Simd, Spread, fold_apart, join_lanes, load_some, or_some, store_some};
    use crate::value::Reduction;
    use std::arch::x86_64::*;

    /// A vector made of `$count` registers of `$width` numbers.
    macro_rules! vector {
        (
            $(#[$doc:meta])* $name:ident = [$register:ty; $count:literal] ($($i:literal)*) of $width:literal $t:ty,
            $load:ident $store:ident $splat:ident $add:ident $sub:ident $mul:ident $div:ident
            $min:ident $max:ident $sqrt:ident $xor:ident $andnot:ident,
            $select:ident $fold:ident $fold_four:ident,
            $mask:ident $to_mask:ident $load_lanes:ident $store_lanes:ident $or:ident,
            $join_rows:ident $(, $row_values:ident)?
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
                type Mask = $mask;

                #[inline(always)]
                unsafe fn mask(n: usize) -> $mask {
                    $to_mask(n)
                }
                #[inline(always)]
                unsafe fn load_lanes(from: *const $t, mask: $mask) -> Self {
                    unsafe { $load_lanes(from, mask) }
                }
                #[inline(always)]
                unsafe fn store_lanes(self, to: *mut $t, mask: $mask) {
                    unsafe { $store_lanes(self, to, mask) }
                }
                #[inline(always)]
                unsafe fn or(self, mask: $mask, other: Self) -> Self {
                    unsafe { $or(self, mask, other) }
                }
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
                #[inline(always)]
                unsafe fn fold_four(of: [Self; 4], kind: Reduction, to: *mut $t) {
                    unsafe { $fold_four(of, kind, to) }
                }
                $(
                    const WRITTEN_OUT: bool = false;
                    #[inline(always)]
                    unsafe fn row_values(
                        from: *const $t,
                        at: usize,
                        spreads: *const Spread,
                    ) -> Self {
                        unsafe { $row_values(from, at, spreads) }
                    }
                )?
                #[inline(always)]
                unsafe fn join_rows(kind: Reduction, from: *const $t, cols: usize) -> Self {
                    unsafe { $join_rows(kind, from, cols) }
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

    /// Four times the halves of one register's lanes, then of two, and so on: what is left of each goes
    /// together.
    #[inline(always)]
    unsafe fn fold_four_ps512([a, b, c, d]: [Avx512F32; 4], kind: Reduction, to: *mut f32) {
        // SAFETY: the caller vouches for AVX-512 and the memory.
        unsafe {
            // A function: closures are not inlined into kernels.
            #[inline(always)]
            unsafe fn halves<const LOW: i32, const HIGH: i32>(
                kind: Reduction,
                a: __m512,
                b: __m512,
            ) -> __m512 {
                // SAFETY: the caller's contract.
                unsafe {
                    let low = _mm512_shuffle_f32x4::<LOW>(a, b);
                    let high = _mm512_shuffle_f32x4::<HIGH>(a, b);
                    join!(kind, _mm512_add_ps, _mm512_max_ps, low, high)
                }
            }
            let ab = halves::<0x44, 0xee>(kind, a.0[0], b.0[0]);
            let cd = halves::<0x44, 0xee>(kind, c.0[0], d.0[0]);
            let v = halves::<0x88, 0xdd>(kind, ab, cd);
            let v = join!(kind, _mm512_add_ps, _mm512_max_ps, v, _mm512_permute_ps::<0x4e>(v));
            let v = join!(kind, _mm512_add_ps, _mm512_max_ps, v, _mm512_permute_ps::<0xb1>(v));
            let first = _mm512_setr_epi32(0, 4, 8, 12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0);
            _mm_storeu_ps(to, _mm512_castps512_ps128(_mm512_permutexvar_ps(first, v)));
        }
    }

    #[inline(always)]
    unsafe fn fold_four_ps256([a, b, c, d]: [Avx2F32; 4], kind: Reduction, to: *mut f32) {
        // SAFETY: the caller vouches for AVX2 and the memory.
        unsafe {
            #[inline(always)]
            unsafe fn halves<const LOW: i32, const HIGH: i32>(
                kind: Reduction,
                a: __m256,
                b: __m256,
            ) -> __m256 {
                // SAFETY: the caller's contract.
                unsafe {
                    let low = _mm256_permute2f128_ps::<LOW>(a, b);
                    let high = _mm256_permute2f128_ps::<HIGH>(a, b);
                    join!(kind, _mm256_add_ps, _mm256_max_ps, low, high)
                }
            }
            let a = join!(kind, _mm256_add_ps, _mm256_max_ps, a.0[0], a.0[1]);
            let b = join!(kind, _mm256_add_ps, _mm256_max_ps, b.0[0], b.0[1]);
            let c = join!(kind, _mm256_add_ps, _mm256_max_ps, c.0[0], c.0[1]);
            let d = join!(kind, _mm256_add_ps, _mm256_max_ps, d.0[0], d.0[1]);
            let (ab, cd) = (halves::<0x20, 0x31>(kind, a, b), halves::<0x20, 0x31>(kind, c, d));
            let low = _mm256_shuffle_ps::<0x44>(ab, cd);
            let high = _mm256_shuffle_ps::<0xee>(ab, cd);
            let v = join!(kind, _mm256_add_ps, _mm256_max_ps, low, high);
            let v = join!(kind, _mm256_add_ps, _mm256_max_ps, v, _mm256_permute_ps::<0xb1>(v));
            let first = _mm256_setr_epi32(0, 4, 2, 6, 0, 0, 0, 0);
            _mm_storeu_ps(to, _mm256_castps256_ps128(_mm256_permutevar8x32_ps(v, first)));
        }
    }

    #[inline(always)]
    fn count(n: usize) -> usize {
        n
    }

    #[inline(always)]
    fn first_lanes(n: usize) -> __mmask16 {
        #[allow(clippy::cast_possible_truncation, reason = "at most 16")]
        let n = n as u32;
        !(u16::MAX.checked_shl(n).unwrap_or(0))
    }

    #[inline(always)]
    unsafe fn load_ps512(from: *const f32, mask: __mmask16) -> Avx512F32 {
        // SAFETY: the caller vouches for AVX-512 and the memory.
        unsafe { Avx512F32([_mm512_maskz_loadu_ps(mask, from)]) }
    }

    #[inline(always)]
    unsafe fn store_ps512(v: Avx512F32, to: *mut f32, mask: __mmask16) {
        // SAFETY: the caller vouches for AVX-512 and the memory.
        unsafe { _mm512_mask_storeu_ps(to, mask, v.0[0]) }
    }

    #[inline(always)]
    unsafe fn or_ps512(v: Avx512F32, mask: __mmask16, other: Avx512F32) -> Avx512F32 {
        // SAFETY: the caller vouches for AVX-512.
        unsafe { Avx512F32([_mm512_mask_blend_ps(mask, other.0[0], v.0[0])]) }
    }

    /// The lanes below `n` of a register whose first one is `first`.
    #[inline(always)]
    #[allow(clippy::cast_possible_truncation, reason = "numbers of lanes")]
    unsafe fn lanes_ps256(n: usize, first: usize) -> __m256i {
        // SAFETY: the caller vouches for AVX2.
        unsafe {
            let n = _mm256_set1_epi32(n as i32 - first as i32);
            _mm256_cmpgt_epi32(n, _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7))
        }
    }

    #[inline(always)]
    unsafe fn lanes_pd256(n: usize, first: usize) -> __m256i {
        // SAFETY: the caller vouches for AVX2.
        unsafe {
            let n = _mm256_set1_epi64x(n as i64 - first as i64);
            _mm256_cmpgt_epi64(n, _mm256_setr_epi64x(0, 1, 2, 3))
        }
    }

    /// Less than both registers, in pieces: a masked store takes some twelve cycles.
    #[inline(always)]
    unsafe fn store_some_ps256([first, second]: [__m256; 2], to: *mut f32, n: usize) {
        // SAFETY: the caller vouches for AVX2 and the memory.
        unsafe {
            let (mut rest, mut to) = (first, to);
            if n & 8 != 0 {
                _mm256_storeu_ps(to, first);
                (rest, to) = (second, to.wrapping_add(8));
            }
            let mut four = _mm256_castps256_ps128(rest);
            if n & 4 != 0 {
                _mm_storeu_ps(to, four);
                (four, to) = (_mm256_extractf128_ps::<1>(rest), to.wrapping_add(4));
            }
            if n & 2 != 0 {
                _mm_storel_epi64(to.cast(), _mm_castps_si128(four));
                (four, to) = (_mm_movehl_ps(four, four), to.wrapping_add(2));
            }
            if n & 1 != 0 {
                _mm_store_ss(to, four);
            }
        }
    }

    #[inline(always)]
    unsafe fn store_some_pd256([first, second]: [__m256d; 2], to: *mut f64, n: usize) {
        // SAFETY: the caller vouches for AVX2 and the memory.
        unsafe {
            let (mut rest, mut to) = (first, to);
            if n & 4 != 0 {
                _mm256_storeu_pd(to, first);
                (rest, to) = (second, to.wrapping_add(4));
            }
            let mut two = _mm256_castpd256_pd128(rest);
            if n & 2 != 0 {
                _mm_storeu_pd(to, two);
                (two, to) = (_mm256_extractf128_pd::<1>(rest), to.wrapping_add(2));
            }
            if n & 1 != 0 {
                _mm_store_sd(to, two);
            }
        }
    }

    /// The lanes of AVX2. Whole vectors are most: they go by the instructions for those.
    macro_rules! lanes256 {
        (
            $name:ident of $width:literal $t:ty, $lanes:ident $load:ident $store:ident $or:ident,
            $mask_load:ident $store_some:ident $blend:ident $cast:ident
        ) => {
            #[inline(always)]
            unsafe fn $load(from: *const $t, n: usize) -> $name {
                // SAFETY: the caller vouches for AVX2 and the memory.
                unsafe {
                    if n == 2 * $width {
                        return $name::load(from);
                    }
                    $name([
                        $mask_load(from, $lanes(n, 0)),
                        $mask_load(from.wrapping_add($width), $lanes(n, $width)),
                    ])
                }
            }

            #[inline(always)]
            unsafe fn $store(v: $name, to: *mut $t, n: usize) {
                // SAFETY: the caller vouches for AVX2 and the memory.
                unsafe {
                    if n == 2 * $width {
                        return v.store(to);
                    }
                    $store_some(v.0, to, n);
                }
            }

            #[inline(always)]
            unsafe fn $or(v: $name, n: usize, other: $name) -> $name {
                // SAFETY: the caller vouches for AVX2.
                unsafe {
                    if n == 2 * $width {
                        return v;
                    }
                    $name([
                        $blend(other.0[0], v.0[0], $cast($lanes(n, 0))),
                        $blend(other.0[1], v.0[1], $cast($lanes(n, $width))),
                    ])
                }
            }
        };
    }
    lanes256!(
        Avx2F32 of 8 f32, lanes_ps256 load_ps256 store_ps256 or_ps256,
        _mm256_maskload_ps store_some_ps256 _mm256_blendv_ps _mm256_castsi256_ps
    );
    #[cfg(feature = "f64")]
    lanes256!(
        Avx2F64 of 4 f64, lanes_pd256 load_pd256 store_pd256 or_pd256,
        _mm256_maskload_pd store_some_pd256 _mm256_blendv_pd _mm256_castsi256_pd
    );

    #[inline(always)]
    unsafe fn row_values_ps256(from: *const f32, at: usize, spreads: *const Spread) -> Avx2F32 {
        // SAFETY: the caller vouches for AVX2 and the memory.
        unsafe {
            let Spread { lanes, first } = &*spreads.wrapping_add(at / 16);
            let low = _mm256_loadu_ps(from.wrapping_add(first[0]));
            let high = _mm256_loadu_ps(from.wrapping_add(first[1]));
            let lanes = lanes.as_ptr();
            Avx2F32([
                _mm256_permutevar8x32_ps(low, _mm256_loadu_si256(lanes.cast())),
                _mm256_permutevar8x32_ps(high, _mm256_loadu_si256(lanes.wrapping_add(8).cast())),
            ])
        }
    }

    /// Four elements of a row, and those of the row four further on.
    #[inline(always)]
    unsafe fn two_rows_ps256(from: *const f32, cols: usize) -> __m256 {
        // SAFETY: the caller vouches for AVX2 and the memory.
        unsafe {
            let first = _mm256_castps128_ps256(_mm_loadu_ps(from));
            _mm256_insertf128_ps::<1>(first, _mm_loadu_ps(from.wrapping_add(4 * cols)))
        }
    }

    /// Four columns of eight rows, which begin `cols` elements apart.
    #[inline(always)]
    unsafe fn columns_ps256(from: *const f32, cols: usize) -> [__m256; 4] {
        // SAFETY: the caller vouches for AVX2 and the memory.
        unsafe {
            let a = two_rows_ps256(from, cols);
            let b = two_rows_ps256(from.wrapping_add(cols), cols);
            let c = two_rows_ps256(from.wrapping_add(2 * cols), cols);
            let d = two_rows_ps256(from.wrapping_add(3 * cols), cols);
            let (ab, cd) = (_mm256_unpacklo_ps(a, b), _mm256_unpacklo_ps(c, d));
            let (ab_high, cd_high) = (_mm256_unpackhi_ps(a, b), _mm256_unpackhi_ps(c, d));
            [
                _mm256_shuffle_ps::<0x44>(ab, cd),
                _mm256_shuffle_ps::<0xee>(ab, cd),
                _mm256_shuffle_ps::<0x44>(ab_high, cd_high),
                _mm256_shuffle_ps::<0xee>(ab_high, cd_high),
            ]
        }
    }

    #[inline(always)]
    unsafe fn join_eight_ps256(kind: Reduction, from: *const f32, cols: usize) -> __m256 {
        macro_rules! with {
            ($acc:ident, $column:expr) => {
                $acc = join!(kind, _mm256_add_ps, _mm256_max_ps, $acc, $column)
            };
        }
        // SAFETY: the caller vouches for AVX2 and the memory: of rows of two or three elements what is read
        // beyond them, too.
        unsafe {
            let [mut acc, b, c, d] = columns_ps256(from, cols);
            with!(acc, b);
            if cols > 2 {
                with!(acc, c);
            }
            if cols > 3 {
                with!(acc, d);
            }
            if cols > 4 {
                // The last four, of which some are in the sum already.
                let [a, b, c, d] = columns_ps256(from.wrapping_add(cols - 4), cols);
                if cols > 7 {
                    with!(acc, a);
                }
                if cols > 6 {
                    with!(acc, b);
                }
                if cols > 5 {
                    with!(acc, c);
                }
                with!(acc, d);
            }
            acc
        }
    }

    #[inline(always)]
    unsafe fn join_rows_ps256(kind: Reduction, from: *const f32, cols: usize) -> Avx2F32 {
        // SAFETY: the caller vouches for AVX2 and the memory.
        unsafe {
            let second = from.wrapping_add(8 * cols);
            Avx2F32([join_eight_ps256(kind, from, cols), join_eight_ps256(kind, second, cols)])
        }
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
        _mm_min_ps _mm_max_ps _mm_sqrt_ps _mm_xor_ps _mm_andnot_ps,
        select_ps fold_ps128 fold_apart,
        usize count load_some store_some or_some, join_lanes
    );
    #[cfg(feature = "f64")]
    vector!(
        /// 8 × `f64` in four SSE2 registers.
        Sse2F64 = [__m128d; 4] (0 1 2 3) of 2 f64,
        _mm_loadu_pd _mm_storeu_pd _mm_set1_pd _mm_add_pd _mm_sub_pd _mm_mul_pd _mm_div_pd
        _mm_min_pd _mm_max_pd _mm_sqrt_pd _mm_xor_pd _mm_andnot_pd,
        select_pd fold_pd128 fold_apart,
        usize count load_some store_some or_some, join_lanes
    );
    vector!(
        /// 16 × `f32` in two AVX registers.
        Avx2F32 = [__m256; 2] (0 1) of 8 f32,
        _mm256_loadu_ps _mm256_storeu_ps _mm256_set1_ps _mm256_add_ps _mm256_sub_ps _mm256_mul_ps
        _mm256_div_ps _mm256_min_ps _mm256_max_ps _mm256_sqrt_ps _mm256_xor_ps _mm256_andnot_ps,
        select_ps256 fold_ps256 fold_four_ps256,
        usize count load_ps256 store_ps256 or_ps256, join_rows_ps256, row_values_ps256
    );
    #[cfg(feature = "f64")]
    vector!(
        /// 8 × `f64` in two AVX registers.
        Avx2F64 = [__m256d; 2] (0 1) of 4 f64,
        _mm256_loadu_pd _mm256_storeu_pd _mm256_set1_pd _mm256_add_pd _mm256_sub_pd _mm256_mul_pd
        _mm256_div_pd _mm256_min_pd _mm256_max_pd _mm256_sqrt_pd _mm256_xor_pd _mm256_andnot_pd,
        select_pd256 fold_pd256 fold_apart,
        usize count load_pd256 store_pd256 or_pd256, join_lanes
    );
    vector!(
        /// 16 × `f32` in one AVX-512 register.
        Avx512F32 = [__m512; 1] (0) of 16 f32,
        _mm512_loadu_ps _mm512_storeu_ps _mm512_set1_ps _mm512_add_ps _mm512_sub_ps _mm512_mul_ps
        _mm512_div_ps _mm512_min_ps _mm512_max_ps _mm512_sqrt_ps _mm512_xor_ps _mm512_andnot_ps,
        select_ps512 fold_ps512 fold_four_ps512,
        __mmask16 first_lanes load_ps512 store_ps512 or_ps512, join_lanes
    );
}
