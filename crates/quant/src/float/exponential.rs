//! The exponential, and what is made of it.
//!
//! `e^x = 2^n · e^r` with `n = round(x / ln 2)`, `r = x - n·ln 2` (ln 2 in two parts, Cody and Waite), and the polynomial of Cephes' `expf` for `e^r`.

use std::hint::select_unpredictable;

use super::{horner, logarithm, wide_horner};

/// The first bits of ln 2, so that products with small integers are exact, and the rest of it.
const LN2: (f32, f32) = (0.693_359_4, -2.121_944_4e-4);

/// Adding it rounds to the nearest integer, which is in the last bits of the sum.
const ROUNDER: f32 = 12_582_912.0;

/// `n`, in the last bits of a float, and `e^r - 1` with its relative precision.
#[inline(always)]
fn reduced(x: f32) -> (u32, f32) {
    let sum = x.mul_add(std::f32::consts::LOG2_E, ROUNDER);
    let n = sum - ROUNDER;
    let r = n.mul_add(-LN2.1, n.mul_add(-LN2.0, x));
    let tail = [
        1.987_569_1e-4,
        1.398_199_9e-3,
        8.333_452e-3,
        4.166_579_6e-2,
        1.666_666_5e-1,
        0.5,
    ];
    (sum.to_bits(), horner(r, tail).mul_add(r * r, r))
}

/// What makes a normal number of `2^n` where an exponential is the smallest number or larger, and the factor that makes up for it.
const SMALL: (i32, f32) = (24, 1.0 / (1 << 24) as f32);

/// `2^(n + offset)`, where `n` is in the last bits of a float.
#[inline(always)]
fn power_of_two(bits: u32, offset: i32) -> f32 {
    f32::from_bits((bits << 23).wrapping_add(((127 + offset) as u32) << 23))
}

/// `e^x` within 2 units in the last place; 0 far below, infinite far above.
#[inline(always)]
pub fn exp(x: f32) -> f32 {
    // Beyond these, the result is 0 or infinite. NaN stays NaN.
    let x = if x < -104.0 { -104.0 } else { x };
    let x = if x > 89.0 { 89.0 } else { x };
    let (bits, y) = reduced(x);
    // 2^n may be below or above the normal numbers while the result is not.
    let (offset, rest) = if x < 0.0 { SMALL } else { (-1, 2.0) };
    (y + 1.0) * power_of_two(bits, offset) * rest
}

/// Whether [`near_exp`] does not hold: `e^x` may be no normal number, or x is NaN.
#[inline(always)]
pub(super) fn is_far_from_normal(x: f32) -> bool {
    // NaN is not near.
    let near = x.abs() <= 87.0;
    !near
}

/// The bits of [`exp`] in fewer steps, where `e^x` is a normal number.
#[inline(always)]
pub(super) fn near_exp(x: f32) -> f32 {
    let (bits, y) = reduced(x);
    f32::from_bits((y + 1.0).to_bits().wrapping_add(bits << 23))
}

/// `e^x` of a number that is not positive: the bits of [`exp`] in fewer steps.
#[inline(always)]
pub fn exp_to_one(x: f32) -> f32 {
    let x = if x < -104.0 { -104.0 } else { x };
    let (bits, y) = reduced(x);
    (y + 1.0) * power_of_two(bits, SMALL.0) * SMALL.1
}

/// `e^x - 1` of a number that is not positive.
#[inline(always)]
fn exp_minus_one(x: f32) -> f32 {
    // Below, the result is -1.
    let x = if x < -40.0 { -40.0 } else { x };
    let (bits, y) = reduced(x);
    let power = power_of_two(bits, 0);
    y.mul_add(power, power - 1.0)
}

/// `1 / (1 + e^-x)` within 2.5 units.
#[inline(always)]
pub fn sigmoid(x: f32) -> f32 {
    // The exponential of a negative number keeps the relative precision of both tails.
    let e = exp_to_one(-x.abs());
    (if x < 0.0 { e } else { 1.0 }) / (1.0 + e)
}

/// The hyperbolic tangent within 3 units.
#[inline(always)]
pub fn tanh(x: f32) -> f32 {
    let e = exp_minus_one(-2.0 * x.abs());
    (-e / (e + 2.0)).copysign(x)
}

/// With `w = e^x·(e^x + 2)`, `tanh(ln(1 + e^x))` is `w / (w + 2)`.
#[inline(always)]
pub(super) fn mish(x: f32) -> f32 {
    // Above, the quotient is 1.
    let e = exp(if x > 20.0 { 20.0 } else { x });
    let w = e * (e + 2.0);
    x * (w / (w + 2.0))
}

#[inline(always)]
pub(super) fn elu(x: f32, alpha: f32) -> f32 {
    if x < 0.0 { alpha * exp_minus_one(x) } else { x }
}

#[inline(always)]
pub(super) fn celu(x: f32, alpha: f32) -> f32 {
    let t = x / alpha;
    // A negative alpha has positive arguments.
    let e = if t > 0.0 {
        exp(t) - 1.0
    } else {
        exp_minus_one(t)
    };
    if x < 0.0 { alpha * e } else { x }
}

/// `2^x` in f64 with 32 correct bits, for `x` of at most ±1000.
#[inline(always)]
pub(super) fn wide_exp2(x: f64) -> f64 {
    const ROUNDER: f64 = 6_755_399_441_055_744.0;
    let sum = x + ROUNDER;
    let r = (x - (sum - ROUNDER)) * std::f64::consts::LN_2;
    // The series of e^r; |r| is at most ln 2 / 2.
    let series = [
        1.0 / 40_320.0,
        1.0 / 5_040.0,
        1.0 / 720.0,
        1.0 / 120.0,
        1.0 / 24.0,
        1.0 / 6.0,
        0.5,
        1.0,
        1.0,
    ];
    wide_horner(r, series) * f64::from_bits((sum.to_bits() << 52).wrapping_add(1023 << 52))
}

/// `e^|x|` in f64, cut where f32 is infinite, and its reciprocal 0.
#[inline(always)]
fn wide_exp(x: f32) -> f64 {
    let x = f64::from(x.abs());
    wide_exp2(if x > 128.0 { 128.0 } else { x } * std::f64::consts::LOG2_E)
}

#[inline(always)]
pub(super) fn sinh(x: f32) -> f32 {
    let e = wide_exp(x);
    let wide = f64::from(x);
    let square = wide * wide;
    // The difference cancels near zero.
    let series = [1.0 / 362_880.0, 1.0 / 5_040.0, 1.0 / 120.0, 1.0 / 6.0, 1.0];
    let near = wide * wide_horner(square, series);
    let far = (0.5 * (e - 1.0 / e)).copysign(wide);
    (if square < 0.25 { near } else { far }) as f32
}

#[inline(always)]
pub(super) fn cosh(x: f32) -> f32 {
    let e = wide_exp(x);
    (0.5 * (e + 1.0 / e)) as f32
}

#[inline(always)]
pub(super) fn softplus(x: f32) -> f32 {
    let e = 1.0 / wide_exp(x);
    // 1 + e loses the last bits of a small e.
    let log = select_unpredictable(e < 1e-5, e - 0.5 * e * e, logarithm::wide_log(1.0 + e));
    let relu = if x < 0.0 { 0.0 } else { x };
    (log + f64::from(relu)) as f32
}
