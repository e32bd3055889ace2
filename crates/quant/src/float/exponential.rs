//! The exponential, and what is made of it.
//!
//! `e^x = 2^n · e^r` with `n = round(x / ln 2)`, `r = x - n·ln 2` (ln 2 in two parts, Cody and Waite), and the polynomial of Cephes' `expf` for `e^r`.

use super::horner;

/// The first bits of ln 2, so that products with small integers are exact, and the rest of it.
const LN2: (f32, f32) = (0.693_359_4, -2.121_944_4e-4);

/// Adding it rounds to the nearest integer, which is in the last bits of the sum.
const ROUNDER: f32 = 12_582_912.0;

/// `n`, in the last bits of a float, and `e^r - 1` with its relative precision.
#[inline(always)]
fn reduced(x: f32) -> (u32, f32) {
    let sum = x * std::f32::consts::LOG2_E + ROUNDER;
    let n = sum - ROUNDER;
    let r = x - n * LN2.0 - n * LN2.1;
    let tail = [
        1.987_569_1e-4,
        1.398_199_9e-3,
        8.333_452e-3,
        4.166_579_6e-2,
        1.666_666_5e-1,
        0.5,
    ];
    (sum.to_bits(), horner(r, tail) * (r * r) + r)
}

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
    // Two factors, since 2^n may be below or above the normal numbers while the result does not.
    let n = bits.wrapping_sub(ROUNDER.to_bits()) as i32;
    let half = n >> 1;
    (y + 1.0) * power_of_two(half as u32, 0) * power_of_two((n - half) as u32, 0)
}

/// `e^x` of a number that is not positive: the bits of [`exp`] in fewer steps.
#[inline(always)]
pub fn exp_to_one(x: f32) -> f32 {
    let x = if x < -104.0 { -104.0 } else { x };
    let (bits, y) = reduced(x);
    // 2^n may be below the normal numbers.
    (y + 1.0) * power_of_two(bits, 24) * (1.0 / (1 << 24) as f32)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every 2^12th float, in units in the last place against f64.
    #[test]
    fn the_exponential_is_exact_to_two_units() {
        let mut worst = 0.0_f64;
        for bits in (0..=u32::MAX).step_by(1 << 12) {
            let x = f32::from_bits(bits);
            let (found, exact) = (exp(x), f64::from(x).exp());
            if x.is_nan() {
                assert!(found.is_nan() && exp_to_one(x).is_nan());
                continue;
            }
            if x <= 0.0 {
                assert_eq!(found.to_bits(), exp_to_one(x).to_bits(), "{x}");
            }
            let rounded = exact as f32;
            if rounded == 0.0 || rounded.is_infinite() {
                // Next to the ends, one unit is allowed, too.
                assert!(found == rounded || (found - rounded).abs() <= 1e-45 || found > 3.4e38);
                continue;
            }
            let unit = f64::from(rounded.next_up() - rounded);
            worst = worst.max((f64::from(found) - exact).abs() / unit);
        }
        assert!(worst < 2.0, "{worst}");
    }
}
