//! The error function and GELU, which are integrals of the normal distribution.

use super::exponential::{exp_to_one, sigmoid};
use super::horner;

/// `∫ e^(-t²/2)/√(2π) dt` from `a` to infinity, for `a` not negative: the exponential of `exponent`, which is `-a²/2`, times a quotient of polynomials with positive
/// coefficients, which errs by 6e-9.
#[inline(always)]
fn upper_tail(a: f32, exponent: f32) -> f32 {
    let over = [
        4.116_203e-3,
        4.063_257_6e-2,
        1.832_332_9e-1,
        4.382_926e-1,
        0.5,
    ];
    let under = [
        1.031_767_2e-2,
        1.018_572_1e-1,
        4.694_657_3e-1,
        1.202_495_7,
        1.674_470_2,
        1.0,
    ];
    exp_to_one(exponent) * (horner(a, over) / horner(a, under))
}

/// `x` times a quotient of polynomials in `x²` with positive coefficients, which errs by 2e-8.
#[inline(always)]
pub(super) fn erf(x: f32) -> f32 {
    let over = [
        2.046_041_3e-6,
        2.848_422e-4,
        3.772_486e-3,
        5.276_910_6e-2,
        1.905_922_4e-1,
        std::f32::consts::FRAC_2_SQRT_PI,
    ];
    let under = [
        3.804_785e-5,
        1.163_842_4e-3,
        1.498_307_1e-2,
        1.141_821e-1,
        5.022_407e-1,
        1.0,
    ];
    // Beyond, the result is 1.
    let a = x.abs();
    let a = if a > 3.925 { 3.925 } else { a };
    let square = a * a;
    let y = a * horner(square, over) / horner(square, under);
    (if y > 1.0 { 1.0 } else { y }).copysign(x)
}

#[inline(always)]
pub(super) fn gelu(x: f32) -> f32 {
    // Beyond, the tail is 0.
    let a = x.abs();
    let a = if a > 15.0 { 15.0 } else { a };
    let tail = upper_tail(a, -0.5 * (a * a));
    x * (if x < 0.0 { tail } else { 1.0 - tail })
}

#[inline(always)]
pub(super) fn gelu_tanh(x: f32) -> f32 {
    /// 2·√(2/π), and this times 0.044715.
    const FACTORS: (f32, f32) = (1.595_769_2, 7.135_481_6e-2);
    // (1 + tanh(t)) / 2 is sigmoid(2t), without its cancellation.
    x * sigmoid(x * (x * x).mul_add(FACTORS.1, FACTORS.0))
}
