//! The product of two quantized tensors: `rne(f32((a - z_a)(b - z_b))·f32(f32(s_a·s_b)/s_y)) + z_y`.
//!
//! The definition is `octofold_quant::requantize::mul`. Both factors are integers of at most 9 bits, so their
//! product is exact in f32 too.

use octofold_quant::requantize::multiplier;

use super::add::{Operand, check_operands, repeat};
use super::dispatch::isa_versions;
use super::{Reader, Target8, Writer};
use crate::{Isa, KernelError};

/// `output[i] = a[i] · b[i % b.len()]`, on the scale of `to`.
///
/// Lengths, repetition and splitting are those of [`add`](super::add::add). Squeeze-and-excite, `[N, H, W, C]` by
/// `[N, 1, 1, C]`, is one call an image with the `C` factors of that image as `b`.
///
/// # Errors
/// For lengths that do not fit, refused parameters, and a missing instruction set.
pub fn mul(
    isa: Isa,
    a: Operand<'_>,
    b: Operand<'_>,
    to: Target8,
    output: &mut [u8],
) -> Result<(), KernelError> {
    check_operands(a, b, to, output)?;
    let constants = Constants {
        a: a.quant.reader(),
        b: b.quant.reader(),
        ratio: multiplier(
            a.quant.params.scale,
            b.quant.params.scale,
            to.quant.params.scale,
        ),
        to: to.writer(),
    };
    repeat(a.data, b.data, output, |a, b, output| {
        mul_slices(isa, a, b, constants, output)
    })
}

#[derive(Clone, Copy)]
struct Constants {
    a: Reader,
    b: Reader,
    ratio: f32,
    to: Writer,
}

isa_versions!(fn mul_slices(a: &[u8], b: &[u8], c: Constants, output: &mut [u8]) = mul_loop);

#[inline(always)]
fn mul_loop(a: &[u8], b: &[u8], c: Constants, output: &mut [u8]) {
    for ((&a, &b), y) in a.iter().zip(b).zip(output) {
        *y = c.to.byte(c.a.steps(a) * c.b.steps(b) * c.ratio);
    }
}

#[cfg(test)]
mod tests {
    use octofold_quant::requantize;

    use super::super::Quant8;
    use super::super::testing::{LENGTHS, Random, params, quants, targets};
    use super::*;

    fn check(a: &[u8], qa: Quant8, b: &[u8], qb: Quant8, to: Target8) {
        let expected: Vec<u8> = (0..a.len())
            .map(|i| {
                let (x, y) = (qa.value(a[i]), qb.value(b[i % b.len()]));
                requantize::mul(x, qa.params, y, qb.params, to.quant.params, to.lo, to.hi) as u8
            })
            .collect();
        for isa in Isa::supported() {
            let mut output = vec![0xA5; a.len()];
            let (a, b) = (
                Operand { data: a, quant: qa },
                Operand { data: b, quant: qb },
            );
            mul(isa, a, b, to, &mut output).unwrap();
            assert_eq!(output, expected, "{isa} {qa:?} {qb:?} {to:?}");
        }
    }

    #[test]
    fn every_pair_of_bytes_gives_the_product_of_quant() {
        let a: Vec<u8> = (0..=255).flat_map(|a| [a; 256]).collect();
        let b: Vec<u8> = (0..256).flat_map(|_| 0..=255).collect();
        for (i, qa) in quants().into_iter().enumerate() {
            for (j, to) in targets().into_iter().enumerate() {
                check(&a, qa, &b, quants()[(i + j) % 6], to);
            }
        }
    }

    #[test]
    fn a_ratio_that_is_zero_infinite_or_nan_agrees() {
        let a: Vec<u8> = (0..=255).collect();
        for (small, large) in [(1e-30, 1e30), (1e30, 1e-30), (1e30, 1e30)] {
            let q = Quant8::unsigned(params(small, 7));
            check(
                &a,
                q,
                &a,
                q,
                Target8::full(Quant8::unsigned(params(large, 3))),
            );
        }
    }

    #[test]
    fn all_lengths_and_repeated_operands_agree() {
        let mut random = Random::new(2);
        let (qa, qb, to) = (quants()[1], quants()[3], targets()[6]);
        for len in LENGTHS.into_iter().filter(|&len| len > 0) {
            let a = random.bytes(len * 7);
            for b_len in [1, len, len * 7] {
                check(&a, qa, &random.bytes(b_len), qb, to);
            }
        }
    }
}
