//! Floats of 16 bits, `float16` of IEEE 754 and `bfloat16`, to f32 and back, rounded half to even.

use super::dispatch::isa_versions;
use crate::error::check_len;
use crate::{Isa, KernelError};

/// A float type of 16 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Half {
    /// 5 bits of exponent, 10 of the fraction.
    Float16,
    /// 8 bits of exponent, 7 of the fraction.
    BFloat16,
}

/// `output[i] = f32(input[i])`, exactly.
///
/// # Errors
/// For lengths that differ, and a missing instruction set.
pub fn widen(isa: Isa, from: Half, input: &[u16], output: &mut [f32]) -> Result<(), KernelError> {
    check_len("the input", output.len(), input.len())?;
    widen_slices(isa, from, input, output)
}

/// `output[i]` is `input[i]` rounded to 16 bits.
///
/// # Errors
/// For lengths that differ, and a missing instruction set.
pub fn narrow(isa: Isa, to: Half, input: &[f32], output: &mut [u16]) -> Result<(), KernelError> {
    check_len("the input", output.len(), input.len())?;
    narrow_slices(isa, to, input, output)
}

isa_versions!(fn widen_slices(from: Half, input: &[u16], output: &mut [f32]) = widen_loop);
isa_versions!(fn narrow_slices(to: Half, input: &[f32], output: &mut [u16]) = narrow_loop);

#[inline(always)]
fn widen_loop(from: Half, input: &[u16], output: &mut [f32]) {
    let pairs = input.iter().zip(output);
    match from {
        Half::Float16 => pairs.for_each(|(x, y)| *y = from_float16(*x)),
        Half::BFloat16 => pairs.for_each(|(x, y)| *y = f32::from_bits(u32::from(*x) << 16)),
    }
}

#[inline(always)]
fn narrow_loop(to: Half, input: &[f32], output: &mut [u16]) {
    let pairs = input.iter().zip(output);
    match to {
        Half::Float16 => pairs.for_each(|(x, y)| *y = to_float16(*x)),
        Half::BFloat16 => pairs.for_each(|(x, y)| *y = to_bfloat16(*x)),
    }
}

#[inline(always)]
fn from_float16(x: u16) -> f32 {
    /// The exponents of zero differ by this power of two.
    const REBIAS: f32 = f32::from_bits((127 + 112) << 23);
    let bits = u32::from(x & 0x7FFF) << 13;
    // A denormal number becomes a denormal one first, and the product is exact.
    let finite = (f32::from_bits(bits) * REBIAS).to_bits();
    let magnitude = if x & 0x7C00 == 0x7C00 {
        bits | 0x7F80_0000
    } else {
        finite
    };
    f32::from_bits(magnitude | u32::from(x & 0x8000) << 16)
}

#[inline(always)]
fn to_float16(x: f32) -> u16 {
    const INFINITY: u32 = f32::INFINITY.to_bits();
    let bits = x.to_bits();
    let a = bits & 0x7FFF_FFFF;
    // Adding 1/2 rounds to the last bit of a denormal number, which is 2^-24.
    let denormal = (f32::from_bits(a) + 0.5)
        .to_bits()
        .wrapping_sub(0.5_f32.to_bits());
    let even = (a >> 13) & 1;
    let normal = a.wrapping_sub(112 << 23).wrapping_add(0xFFF + even) >> 13;
    let finite = if a < (127 - 14) << 23 {
        denormal
    } else {
        normal
    };
    // From 2^16 on, infinite.
    let y = if a >= (127 + 16) << 23 {
        0x7C00
    } else {
        finite
    };
    let y = if a > INFINITY { 0x7E00 } else { y };
    (y | (bits >> 16) & 0x8000) as u16
}

#[inline(always)]
fn to_bfloat16(x: f32) -> u16 {
    let bits = x.to_bits();
    let rounded = bits.wrapping_add(0x7FFF + ((bits >> 16) & 1)) >> 16;
    let quiet = (bits >> 16) | 0x40;
    (if x.is_nan() { quiet } else { rounded }) as u16
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The value of a float of 16 bits, by its definition.
    fn value(bits: u16, fraction: i32) -> f64 {
        let exponent_bits = 15 - fraction;
        let bias = (1 << (exponent_bits - 1)) - 1;
        let exponent = i32::from(bits & 0x7FFF) >> fraction;
        let rest = f64::from(i32::from(bits) & ((1 << fraction) - 1)) / f64::from(1 << fraction);
        let magnitude = if exponent == (1 << exponent_bits) - 1 {
            if rest == 0.0 { f64::INFINITY } else { f64::NAN }
        } else if exponent == 0 {
            rest * 2_f64.powi(1 - bias)
        } else {
            (1.0 + rest) * 2_f64.powi(exponent - bias)
        };
        if bits & 0x8000 == 0 {
            magnitude
        } else {
            -magnitude
        }
    }

    #[test]
    fn all_numbers_of_16_bits_are_widened_and_come_back() {
        let all: Vec<u16> = (0..=u16::MAX).collect();
        for (half, fraction) in [(Half::Float16, 10), (Half::BFloat16, 7)] {
            for isa in Isa::supported() {
                let mut wide = vec![7.0; all.len()];
                widen(isa, half, &all, &mut wide).unwrap();
                let mut back = vec![7; all.len()];
                narrow(isa, half, &wide, &mut back).unwrap();
                for ((&bits, &found), &back) in all.iter().zip(&wide).zip(&back) {
                    let exact = value(bits, fraction);
                    if exact.is_nan() {
                        assert!(found.is_nan() && value(back, fraction).is_nan());
                        continue;
                    }
                    assert_eq!(
                        f64::from(found).to_bits(),
                        exact.to_bits(),
                        "{isa} {bits:x}"
                    );
                    assert_eq!(back, bits, "{isa} {half:?}");
                }
            }
            assert!(widen(Isa::Scalar, half, &all, &mut [0.0]).is_err());
        }
    }

    /// Numbers in the middle of two neighbours go to the even one, and those next to the middle to the nearer one.
    #[test]
    fn floats_round_half_to_even() {
        for (half, fraction) in [(Half::Float16, 10), (Half::BFloat16, 7)] {
            let last = if fraction == 10 { 0x7BFF } else { 0x7F7F };
            for bits in 0..last {
                let (low, high) = (value(bits, fraction), value(bits + 1, fraction));
                let middle = ((low + high) / 2.0) as f32;
                let even = if bits & 1 == 0 { bits } else { bits + 1 };
                let input = [middle, -middle, middle.next_down(), middle.next_up()];
                let mut output = [7; 4];
                narrow(Isa::Scalar, half, &input, &mut output).unwrap();
                assert_eq!(output[..2], [even, even | 0x8000], "{half:?} {bits:x}");
                assert_eq!(output[2..], [bits, bits + 1], "{half:?} {bits:x}");
            }
        }
    }
}
