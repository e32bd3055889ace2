//! Sums and products of two quantized tensors.
//!
//! The definitions are `octofold_quant::requantize::add`, two products and a sum, each rounded to f32, and
//! `octofold_quant::requantize::mul`, whose factors are integers of at most 9 bits, so that their product is exact in f32. A fused
//! activation is the bounds of the target.

use octofold_quant::requantize::multiplier;

use super::dispatch::isa_versions;
use super::expand::{check_repeats, each_pair};
use super::{Quant8, Reader, Target8, Writer};
use crate::{Isa, KernelError};

/// A quantized operand of an elementwise kernel.
#[derive(Clone, Copy, Debug)]
pub struct Operand<'a> {
    /// The bytes.
    pub data: &'a [u8],
    /// What they mean.
    pub quant: Quant8,
}

/// `output[i] = a[i] + b[i]`, on the scale of `to`. Each operand is as long as `output`, or is one element. A part of the output is a call of its own with the
/// parts of the operands.
///
/// # Errors
/// For lengths that do not fit, parameters that [`Quant8::check`] refuses, and a missing instruction set.
pub fn add(
    isa: Isa,
    a: Operand<'_>,
    b: Operand<'_>,
    to: Target8,
    output: &mut [u8],
) -> Result<(), KernelError> {
    check_operands(a, b, to, output)?;
    let scale = to.quant.params.scale;
    let constants = Sum {
        a: a.quant.reader(),
        b: b.quant.reader(),
        ratio_a: a.quant.params.scale / scale,
        ratio_b: b.quant.params.scale / scale,
        to: to.writer(),
    };
    add_slices(isa, a.data, b.data, constants, output)
}

#[derive(Clone, Copy)]
struct Sum {
    a: Reader,
    b: Reader,
    ratio_a: f32,
    ratio_b: f32,
    to: Writer,
}

isa_versions!(fn add_slices(a: &[u8], b: &[u8], c: Sum, output: &mut [u8]) = add_loop);

#[inline(always)]
fn add_loop(a: &[u8], b: &[u8], c: Sum, output: &mut [u8]) {
    each_pair(a, b, output, |a, b| {
        c.to.byte(c.a.steps(a) * c.ratio_a + c.b.steps(b) * c.ratio_b)
    });
}

/// `output[i] = a[i] · b[i]`, on the scale of `to`. The lengths are those of [`add`].
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
    let constants = Product {
        a: a.quant.reader(),
        b: b.quant.reader(),
        ratio: multiplier(
            a.quant.params.scale,
            b.quant.params.scale,
            to.quant.params.scale,
        ),
        to: to.writer(),
    };
    mul_slices(isa, a.data, b.data, constants, output)
}

#[derive(Clone, Copy)]
struct Product {
    a: Reader,
    b: Reader,
    ratio: f32,
    to: Writer,
}

isa_versions!(fn mul_slices(a: &[u8], b: &[u8], c: Product, output: &mut [u8]) = mul_loop);

#[inline(always)]
fn mul_loop(a: &[u8], b: &[u8], c: Product, output: &mut [u8]) {
    each_pair(a, b, output, |a, b| {
        c.to.byte(c.a.steps(a) * c.b.steps(b) * c.ratio)
    });
}

/// The checks of [`add`] and of [`mul`].
fn check_operands(
    a: Operand<'_>,
    b: Operand<'_>,
    to: Target8,
    output: &[u8],
) -> Result<(), KernelError> {
    a.quant.check()?;
    b.quant.check()?;
    to.check()?;
    check_repeats("the first operand", a.data.len(), output.len())?;
    check_repeats("the second operand", b.data.len(), output.len())
}

#[cfg(test)]
mod tests {
    use octofold_quant::requantize;

    use super::super::testing::{LENGTHS, Random, params, quants, targets};
    use super::*;

    type Kernel = fn(Isa, Operand<'_>, Operand<'_>, Target8, &mut [u8]) -> Result<(), KernelError>;
    type Definition = fn(requantize::Operand, requantize::Operand, requantize::Target) -> i32;

    const ADD: (Kernel, Definition) = (add, requantize::add);
    const MUL: (Kernel, Definition) = (mul, requantize::mul);

    fn check(
        (kernel, definition): (Kernel, Definition),
        a: Operand<'_>,
        b: Operand<'_>,
        to: Target8,
    ) {
        let value = |operand: Operand<'_>, i: usize| {
            let value = operand.quant.value(operand.data[i % operand.data.len()]);
            requantize::Operand::new(value, operand.quant.params)
        };
        let target = requantize::Target {
            params: to.quant.params,
            lo: to.lo,
            hi: to.hi,
        };
        let expected: Vec<u8> = (0..a.data.len().max(b.data.len()))
            .map(|i| definition(value(a, i), value(b, i), target) as u8)
            .collect();
        for isa in Isa::supported() {
            let mut output = vec![0xA5; expected.len()];
            kernel(isa, a, b, to, &mut output).unwrap();
            assert_eq!(output, expected, "{isa} {:?} {:?} {to:?}", a.quant, b.quant);
        }
    }

    fn operand(data: &[u8], quant: Quant8) -> Operand<'_> {
        Operand { data, quant }
    }

    #[test]
    fn every_pair_of_bytes_gives_the_value_of_quant() {
        let a: Vec<u8> = (0..=255).flat_map(|a| [a; 256]).collect();
        let b: Vec<u8> = (0..256).flat_map(|_| 0..=255).collect();
        for operation in [ADD, MUL] {
            for (i, qa) in quants().into_iter().enumerate() {
                for (j, to) in targets().into_iter().enumerate() {
                    let qb = quants()[(i + j) % 6];
                    check(operation, operand(&a, qa), operand(&b, qb), to);
                }
            }
        }
    }

    #[test]
    fn ties_and_adverse_scales_agree() {
        let a: Vec<u8> = (0..=255).collect();
        let unit = operand(&a, Quant8::unsigned(params(1.0, 0)));
        let half = Target8::full(Quant8::signed(params(2.0, -7)));
        check(ADD, unit, unit, half);
        for (small, large) in [(1e-30, 1e30), (1e30, 1e-30), (f32::MIN_POSITIVE, f32::MAX)] {
            let to = Target8::full(Quant8::unsigned(params(large, 3)));
            let small = operand(&a, Quant8::unsigned(params(small, 255)));
            check(ADD, small, unit, to);
        }
        // Ratios that are zero, infinite or NaN.
        for (small, large) in [(1e-30, 1e30), (1e30, 1e-30), (1e30, 1e30)] {
            let factor = operand(&a, Quant8::unsigned(params(small, 7)));
            let to = Target8::full(Quant8::unsigned(params(large, 3)));
            check(MUL, factor, factor, to);
        }
    }

    #[test]
    fn all_lengths_agree() {
        let mut random = Random::new(1);
        let (qa, qb, to) = (quants()[1], quants()[3], targets()[6]);
        for operation in [ADD, MUL] {
            let mut check = |a_len, b_len| {
                let (a, b) = (random.bytes(a_len), random.bytes(b_len));
                check(operation, operand(&a, qa), operand(&b, qb), to);
            };
            for len in LENGTHS.into_iter().filter(|&len| len > 0) {
                check(len, len);
                check(len, 1);
                check(1, len);
            }
        }
    }

    #[test]
    fn wrong_lengths_and_parameters_are_refused() {
        let (q, to) = (quants()[0], targets()[0]);
        let call = |a: usize, qa, b: usize, to, y: usize| {
            let (a, b) = (vec![0; a], vec![0; b]);
            let (a, b) = (operand(&a, qa), operand(&b, q));
            add(Isa::Scalar, a, b, to, &mut vec![0; y])
        };
        assert_eq!(call(6, q, 1, to, 6), Ok(()));
        assert_eq!(call(0, q, 0, to, 0), Ok(()));
        assert!(call(0, q, 5, to, 0).is_err());
        assert!(call(5, q, 5, to, 6).is_err());
        assert!(call(6, q, 0, to, 6).is_err());
        assert!(call(6, q, 4, to, 6).is_err());
        assert!(call(6, q, 12, to, 6).is_err());
        assert!(call(6, Quant8::unsigned(params(1.0, 256)), 6, to, 6).is_err());
        assert!(call(6, Quant8::signed(params(f32::NAN, 0)), 6, to, 6).is_err());
        assert!(call(6, q, 6, Target8 { lo: 3, hi: 2, ..to }, 6).is_err());
        assert!(call(6, q, 6, Target8 { hi: i32::MAX, ..to }, 6).is_err());
    }
}
