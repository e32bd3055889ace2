//! Powers.

use std::hint::select_unpredictable as select;

use super::each;
use super::exponential::wide_exp2;
use super::logarithm::split_log;

/// `x^y` within 0.52 units in the last place, and `x^3`, which is two products, within 1.5, with the special cases of IEEE 754.
#[inline(always)]
pub fn pow(x: f32, y: f64) -> f32 {
    let a = x.abs();
    let (exponent, log) = split_log(f64::from(a));
    let log2 = log.mul_add(std::f64::consts::LOG2_E, exponent);
    let log2 = select(a == 0.0, f64::NEG_INFINITY, log2);
    let log2 = select(a < f32::INFINITY, log2, f64::INFINITY);
    let product = y * log2;
    // Beyond these, the result is 0 or infinite.
    let product = if product < -200.0 { -200.0 } else { product };
    let product = if product > 200.0 { 200.0 } else { product };
    let power = select(x.is_nan(), f64::NAN, wide_exp2(product)) as f32;
    // Also of NaN.
    let is_one = (y == 0.0) | (x == 1.0) | ((x == -1.0) & !y.is_nan());
    let power = select(is_one, 1.0, power);
    // What is as large is an even integer.
    let cut = select(y.abs() < 1e12, y, 0.0);
    let whole = is_whole(cut);
    let signed = select(whole & !is_whole(0.5 * cut), power.copysign(x), power);
    let undefined = (x < 0.0) & (x > f32::NEG_INFINITY) & !whole;
    let power = select(undefined, f32::NAN, signed);
    // What exporters' networks compute most, by products.
    let power = select(y == 2.0, x * x, power);
    select(y == 3.0, x * x * x, power)
}

/// Whether a number below 2^51 is an integer.
#[inline(always)]
fn is_whole(x: f64) -> bool {
    const ROUNDER: f64 = 6_755_399_441_055_744.0;
    x + ROUNDER - ROUNDER == x
}

/// Powers with one exponent: the results of [`pow`] in fewer steps.
#[derive(Clone, Copy)]
pub(super) enum Power {
    Square,
    Cube,
    Any(f64),
}

impl Power {
    pub(super) fn new(exponent: f64) -> Self {
        match exponent {
            2.0 => Self::Square,
            3.0 => Self::Cube,
            _ => Self::Any(exponent),
        }
    }

    #[inline(always)]
    pub(super) fn map(self, x: &[f32], y: &mut [f32]) {
        match self {
            Self::Square => each(x, y, |x| x * x),
            Self::Cube => each(x, y, |x| x * x * x),
            Self::Any(exponent) => each(x, y, |x| pow(x, exponent)),
        }
    }
}
