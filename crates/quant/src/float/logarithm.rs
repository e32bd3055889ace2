//! The logarithm, and the inverse hyperbolic functions, which are logarithms.
//!
//! `ln x = e·ln 2 + ln m` with m between √½ and √2, and `ln m = 2·artanh s`, `s = (m - 1)/(m + 1)`, by its series, all in f64.

use super::wide_horner;

/// The logarithm of a positive, finite, normal number, with 33 correct bits.
#[inline(always)]
pub(super) fn wide_log(x: f64) -> f64 {
    let (exponent, log) = split_log(x);
    exponent.mul_add(std::f64::consts::LN_2, log)
}

/// `e` and `ln m` of a positive, finite, normal number.
#[inline(always)]
pub(super) fn split_log(x: f64) -> (f64, f64) {
    const ONE: u64 = 1.0_f64.to_bits();
    const SQRT_HALF: u64 = std::f64::consts::FRAC_1_SQRT_2.to_bits();
    const MANTISSA: u64 = (1 << 52) - 1;
    /// Its last bits count ones.
    const COUNTER: f64 = 4_503_599_627_370_496.0;
    let bits = x.to_bits().wrapping_add(ONE - SQRT_HALF);
    let biased = f64::from_bits((bits >> 52) | COUNTER.to_bits());
    let m = f64::from_bits((bits & MANTISSA) + SQRT_HALF);
    let s = (m - 1.0) / (m + 1.0);
    let series = [
        2.0 / 13.0,
        2.0 / 11.0,
        2.0 / 9.0,
        2.0 / 7.0,
        2.0 / 5.0,
        2.0 / 3.0,
        2.0,
    ];
    (biased - (COUNTER + 1023.0), s * wide_horner(s * s, series))
}

#[inline(always)]
pub(super) fn log(x: f32) -> f32 {
    // Denormal numbers of f32 are normal in f64.
    let y = wide_log(x.into()) as f32;
    let y = if x == 0.0 { f32::NEG_INFINITY } else { y };
    // An infinity, and NaN.
    let y = if x < f32::INFINITY { y } else { x };
    if x < 0.0 { f32::NAN } else { y }
}

#[inline(always)]
pub(super) fn asinh(x: f32) -> f32 {
    let wide = f64::from(x.abs());
    let square = wide * wide;
    let log = wide_log(wide + (square + 1.0).sqrt());
    // The argument of the logarithm loses the last bits of a small x.
    let y = if square < 1e-5 {
        wide - wide * square / 6.0
    } else {
        log
    };
    let y = if wide < f64::INFINITY { y } else { wide };
    (y as f32).copysign(x)
}

#[inline(always)]
pub(super) fn acosh(x: f32) -> f32 {
    let wide = f64::from(x);
    let y = wide_log(wide + (wide * wide - 1.0).sqrt());
    let y = if wide < f64::INFINITY { y } else { wide };
    if x < 1.0 { f32::NAN } else { y as f32 }
}

#[inline(always)]
pub(super) fn atanh(x: f32) -> f32 {
    let wide = f64::from(x.abs());
    let square = wide * wide;
    let log = 0.5 * wide_log((1.0 + wide) / (1.0 - wide));
    let y = if square < 1e-5 {
        wide + wide * square / 3.0
    } else {
        log
    };
    let y = if wide == 1.0 { f64::INFINITY } else { y };
    (if wide <= 1.0 { y as f32 } else { f32::NAN }).copysign(x)
}
