//! Numbers as decimals, and back: rounded to the nearest, ties to even, as `str::parse` does, and
//! written with the fewest digits that lead back to them, as `Display` and `Debug` do.
//!
//! Those have tables and several algorithms, for speed: some fifteen kilobytes that do not compress. This
//! is for the few numbers of a file's header, of a plan, and of messages.

use std::cmp::Ordering;

/// Digits after which only whether any is not zero matters: no tie has as many.
const DIGITS: usize = 800;

/// The value of a number in the notation of JSON; infinite where it is too large.
pub(crate) fn parse(text: &str) -> f64 {
    let (negative, text) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text),
    };
    let place = text.bytes().position(|b| matches!(b, b'e' | b'E'));
    let (digits, exponent) = place.map_or((text, "0"), |e| (&text[..e], &text[e + 1..]));
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
    let (divisor, power) = (Big(vec![1]), exponent.unsigned_abs());
    if exponent < 0 {
        number.over(divisor.scaled(power))
    } else {
        number.scaled(power).over(divisor)
    }
}

/// A number as `{}` writes it.
pub(crate) fn plain(x: f64) -> String {
    written(x, x.abs(), DOUBLE, false)
}

/// A number as `{:?}` writes it: it shows that it is none of the whole ones, and is short.
pub(crate) fn precise(x: f64) -> String {
    written(x, x.abs(), DOUBLE, true)
}

/// The same of single precision.
pub(crate) fn precise_single(x: f32) -> String {
    written(x.into(), x.abs().into(), SINGLE, true)
}

/// Digits of a binary format, and the exponent of its least number.
type Format = (i64, i64);
const DOUBLE: Format = (53, -1074);
const SINGLE: Format = (24, -149);

fn written(x: f64, size: f64, format: Format, precise: bool) -> String {
    let mut out = String::new();
    if x.is_nan() {
        return "NaN".into();
    }
    if x.is_sign_negative() {
        out.push('-');
    }
    if x.is_infinite() {
        out.push_str("inf");
        return out;
    }
    let (digits, point) = if size == 0.0 { ("0".into(), 1) } else { shortest(size, format) };
    let count = digits.len();
    let exponential = precise && !(-3..=16).contains(&point);
    // Digits before the point, where there are as many.
    let before = if exponential { 1 } else { usize::try_from(point).unwrap_or(0) };
    let zeros = |out: &mut String, n: i64| (0..n).for_each(|_| out.push('0'));
    let (whole, fraction) = digits.split_at(before.min(count));
    out.push_str(if before == 0 { "0" } else { whole });
    zeros(&mut out, before as i64 - count as i64);
    if !fraction.is_empty() {
        out.push('.');
        zeros(&mut out, if exponential { 0 } else { -point });
        out.push_str(fraction);
    } else if precise && !exponential {
        out.push_str(".0");
    }
    if exponential {
        out.push('e');
        out.push_str(&(point - 1).to_string());
    }
    out
}

/// The fewest digits that lead back to a number greater than 0, of those the nearest to it: as
/// `0.digits · 10^point`. (Steele and White's algorithm, in whole numbers.)
fn shortest(x: f64, (width, least): Format) -> (String, i64) {
    let bits = x.to_bits();
    let exponent = (bits >> 52) as i64;
    let implicit = u64::from(exponent > 0) << 52;
    let fraction = (bits & ((1 << 52) - 1)) | implicit;
    // In units of the last place.
    let top = exponent.max(1) - 1075 + 64 - i64::from(fraction.leading_zeros());
    let unit = (top - width).max(least);
    let mantissa = fraction >> (unit - (exponent.max(1) - 1075));
    // The number as `rest / scale`, and half of the gaps to its neighbours.
    let narrow = i64::from(mantissa == 1 << (width - 1) && unit > least);
    let big = |x: u64, bits: i64| {
        let mut big = Big(vec![low(x), low(x >> 32)]);
        big.trim();
        big.shift(bits);
        big
    };
    let (large, small) = (unit.max(0), (-unit).max(0));
    let mut rest = big(mantissa, 1 + narrow + large);
    let mut scale = big(1, 1 + narrow + small);
    let (mut above, mut below) = (big(1, narrow + large), big(1, large));
    // Halves of gaps belong to even numbers.
    let inside = |order: Ordering| order.is_lt() || order.is_eq() && mantissa.is_multiple_of(2);
    let up = |rest: &Big, scale: &Big, above: &Big| {
        let mut left = Big(scale.0.clone());
        if rest.compare(scale).is_lt() {
            left.subtract(rest);
            inside(left.compare(above))
        } else {
            true
        }
    };
    let mut point = 0;
    while up(&rest, &scale, &above) {
        scale.times(10, 0);
        point += 1;
    }
    let mut digits = String::new();
    loop {
        for big in [&mut rest, &mut above, &mut below] {
            big.times(10, 0);
        }
        let mut digit = b'0';
        while rest.compare(&scale).is_ge() {
            rest.subtract(&scale);
            digit += 1;
        }
        // Zeros in front only move the point.
        if digits.is_empty() && digit == b'0' && !up(&rest, &scale, &above) {
            point -= 1;
            continue;
        }
        let (down, up) = (inside(rest.compare(&below)), up(&rest, &scale, &above));
        if !down && !up {
            digits.push(char::from(digit));
            continue;
        }
        rest.times(2, 0);
        let nearer = rest.compare(&scale).is_ge();
        digits.push(char::from(digit + u8::from(up && (!down || nearer))));
        return (digits, point);
    }
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

    /// `self · 10^power`
    fn scaled(mut self, power: u64) -> Self {
        (0..power).for_each(|_| self.times(10, 0));
        self
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
        self.trim();
    }

    fn trim(&mut self) {
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
