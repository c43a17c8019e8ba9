//! Decimal numbers to `f64`, rounded to the nearest, ties to even, as `str::parse` does.
//!
//! That has a table of ten kilobytes that do not compress, for speed. This is for the few numbers of a
//! file's header.

use std::cmp::Ordering;

/// Digits after which only whether any is not zero matters: no tie has as many.
const DIGITS: usize = 800;

/// The value of a number in the notation of JSON; infinite where it is too large.
pub(crate) fn parse(text: &str) -> f64 {
    let (negative, text) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text),
    };
    let (digits, exponent) = text.split_once(['e', 'E']).unwrap_or((text, "0"));
    let x = positive(digits, power(exponent));
    if negative { -x } else { x }
}

/// An exponent, cut to a range beyond that of all numbers of less than 2^60 digits.
fn power(text: &str) -> i64 {
    let (negative, text) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    let digit = |n: i64, b: u8| (n * 10 + i64::from(b & 15)).min(1 << 58);
    let n = text.bytes().fold(0, digit);
    if negative { -n } else { n }
}

fn positive(text: &str, mut exponent: i64) -> f64 {
    // All digits as one whole number, of which the exponent tells the size.
    let mut number = Big(Vec::new());
    let (mut count, mut more, mut fraction) = (0, false, false);
    for byte in text.bytes() {
        if byte == b'.' {
            fraction = true;
            continue;
        }
        exponent -= i64::from(fraction);
        if count == DIGITS {
            more |= byte != b'0';
            exponent += 1;
            continue;
        }
        number.times(10, u32::from(byte & 15));
        count += usize::from(!number.0.is_empty());
    }
    if more {
        number.times(10, 1);
        exponent -= 1;
    }
    let size = i64::try_from(count).unwrap_or(i64::MAX / 2).saturating_add(exponent);
    if number.0.is_empty() || size < -400 {
        return 0.0;
    }
    if size > 400 {
        return f64::INFINITY;
    }
    let mut divisor = Big(vec![1]);
    let to = if exponent < 0 { &mut divisor } else { &mut number };
    for _ in 0..exponent.unsigned_abs() {
        to.times(10, 0);
    }
    number.over(divisor)
}

/// A whole number, its lowest part first, without zeros at its end.
struct Big(Vec<u32>);

impl Big {
    /// `self · factor + summand`
    fn times(&mut self, factor: u32, summand: u32) {
        let mut carry = u64::from(summand);
        for part in &mut self.0 {
            carry += u64::from(*part) * u64::from(factor);
            *part = low(carry);
            carry >>= 32;
        }
        if carry > 0 {
            self.0.push(low(carry));
        }
    }

    fn bits(&self) -> i64 {
        let last = self.0.last().map_or(0, |part| part.leading_zeros());
        self.0.len() as i64 * 32 - i64::from(last)
    }

    fn shift(&mut self, bits: i64) {
        for _ in 0..bits / 32 {
            self.0.insert(0, 0);
        }
        self.times(1 << (bits % 32), 0);
    }

    fn compare(&self, other: &Self) -> Ordering {
        let parts = || self.0.iter().rev().cmp(other.0.iter().rev());
        self.0.len().cmp(&other.0.len()).then_with(parts)
    }

    fn subtract(&mut self, other: &Self) {
        let mut borrow = 0;
        for (i, part) in self.0.iter_mut().enumerate() {
            let less = u64::from(other.0.get(i).copied().unwrap_or(0)) + borrow;
            let difference = u64::from(*part).wrapping_sub(less);
            *part = low(difference);
            borrow = difference >> 63;
        }
        while self.0.last() == Some(&0) {
            self.0.pop();
        }
    }

    /// The quotient, rounded. Neither is zero.
    fn over(mut self, mut divisor: Self) -> f64 {
        // `self / divisor` lies in (1/2, 2) · 2^top.
        let mut top = self.bits() - divisor.bits();
        if top > 0 {
            divisor.shift(top);
        } else {
            self.shift(-top);
        }
        if self.compare(&divisor) == Ordering::Less {
            self.times(2, 0);
            top -= 1;
        }
        // Now in [1, 2) · 2^top. Numbers below 2^-1022 have fewer bits.
        let lowest = (top - 52).max(-1074);
        let mut quotient = 0u64;
        for place in (lowest - 1..=top).rev() {
            quotient *= 2;
            if self.compare(&divisor) != Ordering::Less {
                self.subtract(&divisor);
                quotient += 1;
            }
            if place >= lowest {
                self.times(2, 0);
            }
        }
        // The lowest bit is the first behind the number's own.
        let up = quotient & 1 == 1 && (!self.0.is_empty() || quotient & 2 == 2);
        let bits = (quotient >> 1) + u64::from(up);
        // 2^52 and the exponent, which a carry goes into; without 2^52 the exponent is the least.
        let exponent = u64::try_from(lowest + 1074).unwrap_or(0);
        let bits = (exponent << 52) + bits;
        if bits >= f64::INFINITY.to_bits() { f64::INFINITY } else { f64::from_bits(bits) }
    }
}

#[allow(clippy::cast_possible_truncation, reason = "the lower half")]
fn low(x: u64) -> u32 {
    x as u32
}
