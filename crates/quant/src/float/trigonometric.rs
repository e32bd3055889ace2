//! Trigonometric functions and their inverses.
//!
//! Sines and cosines reduce their argument in f64 to `r = x - n·π/2` within ±π/4 (π/2 in two parts), and take the polynomials of musl's `sinf` and `cosf`. From
//! 2^28 on, `n` has too many bits: `libm` reduces these arguments by the digits of 2/π (Payne and Hanek). The inverse functions are those of Cephes, with
//! polynomials of lower error.

use super::{horner, wide_horner};

/// Whether an argument is too large for the reduction here.
#[inline(always)]
pub(super) fn is_far_angle(x: f32) -> bool {
    x.abs() >= (1 << 28) as f32 && x.abs() < f32::INFINITY
}

/// The sine and the cosine of r, and the last bits of n. NaN of infinities.
#[inline(always)]
fn reduced(x: f32) -> (f64, f64, u64) {
    /// The first 25 bits of π/2, and the rest.
    const HALF_PI: (f64, f64) = (1.570_796_310_901_641_8, 1.589_325_477_352_819_7e-8);
    const ROUNDER: f64 = 6_755_399_441_055_744.0;
    let x = f64::from(x);
    let sum = x.mul_add(std::f64::consts::FRAC_2_PI, ROUNDER);
    let n = sum - ROUNDER;
    let r = n.mul_add(-HALF_PI.1, n.mul_add(-HALF_PI.0, x));
    let square = r * r;
    let sine = [
        2.718_311_493_989_822e-6,
        -1.983_933_483_609_663e-4,
        8.333_329_385_889_463e-3,
        -0.166_666_666_416_265_24,
        1.0,
    ];
    let cosine = [
        2.439_044_879_627_741_5e-5,
        -1.388_676_377_460_993e-3,
        4.166_662_332_373_906e-2,
        -0.499_999_997_251_031,
        1.0,
    ];
    (
        r * wide_horner(square, sine),
        wide_horner(square, cosine),
        sum.to_bits(),
    )
}

/// The sine of an angle that lies `quadrant` right angles further.
#[inline(always)]
fn turned((sine, cosine, quadrant): (f64, f64, u64)) -> f32 {
    let y = if quadrant & 1 == 0 { sine } else { cosine };
    f64::from_bits(y.to_bits() ^ ((quadrant & 2) << 62)) as f32
}

#[inline(always)]
pub(super) fn sin(x: f32) -> f32 {
    turned(reduced(x))
}

#[inline(always)]
pub(super) fn cos(x: f32) -> f32 {
    let (sine, cosine, quadrant) = reduced(x);
    turned((sine, cosine, quadrant.wrapping_add(1)))
}

#[inline(always)]
pub(super) fn tan(x: f32) -> f32 {
    let (sine, cosine, quadrant) = reduced(x);
    let even = quadrant & 1 == 0;
    let (over, under) = if even {
        (sine, cosine)
    } else {
        (-cosine, sine)
    };
    (over / under) as f32
}

/// The arc sine of a number within ±1/2, whose square is given.
#[inline(always)]
fn near_asin(x: f32, square: f32) -> f32 {
    let series = [
        3.765_955_6e-2,
        2.679_792_8e-2,
        4.495_489_2e-2,
        7.499_183e-2,
        1.666_666_6e-1,
    ];
    x.mul_add(square * horner(square, series), x)
}

/// For `|x|` above 1/2, the arc sine of `√((1 - |x|)/2)`, and the arc sine of x otherwise.
#[inline(always)]
fn folded_asin(x: f32) -> (bool, f32) {
    let a = x.abs();
    let outer = a > 0.5;
    let square = if outer { 0.5 * (1.0 - a) } else { a * a };
    let root = if outer { square.sqrt() } else { x };
    (outer, near_asin(root, square))
}

#[inline(always)]
pub(super) fn asin(x: f32) -> f32 {
    let (outer, y) = folded_asin(x);
    if outer {
        (std::f32::consts::FRAC_PI_2 - 2.0 * y).copysign(x)
    } else {
        y
    }
}

#[inline(always)]
pub(super) fn acos(x: f32) -> f32 {
    let (outer, y) = folded_asin(x);
    if !outer {
        std::f32::consts::FRAC_PI_2 - y
    } else if x < 0.0 {
        std::f32::consts::PI - 2.0 * y
    } else {
        2.0 * y
    }
}

#[inline(always)]
pub(super) fn atan(x: f32) -> f32 {
    /// The tangents of π/8 and 3π/8.
    const LIMITS: (f32, f32) = (0.414_213_57, 2.414_213_7);
    let a = x.abs();
    let (middle, upper) = (a > LIMITS.0, a > LIMITS.1);
    let over = if upper {
        -1.0
    } else if middle {
        a - 1.0
    } else {
        a
    };
    let under = if upper {
        a
    } else if middle {
        a + 1.0
    } else {
        1.0
    };
    let start = if upper {
        std::f32::consts::FRAC_PI_2
    } else if middle {
        std::f32::consts::FRAC_PI_4
    } else {
        0.0
    };
    let t = over / under;
    let square = t * t;
    let series = [
        -6.454_534e-2,
        1.074_473_3e-1,
        -1.426_407_5e-1,
        1.999_954_6e-1,
        -3.333_333e-1,
    ];
    (start + t.mul_add(square * horner(square, series), t)).copysign(x)
}
