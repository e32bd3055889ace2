//! Concatenation of quantized tensors along one axis, each moved to the parameters of the result.
//!
//! The axis splits every shape into `outer` (the sizes before it) and `inner` (its own size times those
//! after it): channels of channels-last pixels have `outer = batch · height · width` and `inner = channels`. A row
//! of the result is one row of each input after the other, rescaled by
//! `rescale`, which copies where the parameters are equal.

use std::ops::Range;

use super::rescale::{Columns, Rescaler};
use super::{Quant8, Target8, check_range, product};
use crate::error::check_len;
use crate::{Isa, KernelError};

/// One input of [`concat()`].
#[derive(Clone, Copy, Debug)]
pub struct ConcatInput<'a> {
    /// All `outer · inner` bytes; `None` where the rows of the result have them already.
    pub data: Option<&'a [u8]>,
    /// What they mean.
    pub quant: Quant8,
    /// Bytes a row.
    pub inner: usize,
}

/// Writes the rows `rows` (of `outer`) of the concatenation.
///
/// `output` holds these rows only: `rows.len() · Σ inner` bytes.
///
/// # Errors
/// For lengths that do not fit, rows outside of `outer`, refused parameters, and a missing instruction set.
pub fn concat(
    isa: Isa,
    inputs: &[ConcatInput<'_>],
    to: Target8,
    outer: usize,
    rows: Range<usize>,
    output: &mut [u8],
) -> Result<(), KernelError> {
    check_range("rows", &rows, outer)?;
    to.check()?;
    let mut width = 0_usize;
    for input in inputs {
        input.quant.check()?;
        let len = product("an input", &[outer, input.inner])?;
        check_len("an input", len, input.data.map_or(len, <[u8]>::len))?;
        let sum = width.checked_add(input.inner);
        width = sum.ok_or(KernelError::TooLarge {
            what: "a row of the output",
        })?;
    }
    check_len(
        "the output",
        product("the output", &[rows.len(), width])?,
        output.len(),
    )?;
    if !isa.is_supported() {
        return Err(KernelError::Unsupported(isa));
    }
    let mut start = 0;
    for input in inputs.iter().filter(|input| input.inner > 0) {
        if let Some(data) = input.data {
            let rescaler = Rescaler::new(input.quant, to)?;
            let from = &data[rows.start * input.inner..rows.end * input.inner];
            let columns = Columns {
                first: start,
                count: input.inner,
                width,
            };
            rescaler.run(isa, from, columns, output)?;
        }
        start += input.inner;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use octofold_quant::requantize;

    use super::super::testing::{Random, quants, targets};
    use super::*;

    #[test]
    fn rows_are_joined_and_rescaled() {
        let mut random = Random::new(4);
        let outer = 5;
        for to in targets() {
            let widths = [1, 64, 17, 0, 130];
            let datas: Vec<_> = widths
                .iter()
                .map(|inner| random.bytes(outer * inner))
                .collect();
            let quants = [to.quant, quants()[3], quants()[0], quants()[1], quants()[4]];
            let input = |i: usize| ConcatInput {
                data: Some(&datas[i]),
                quant: quants[i],
                inner: widths[i],
            };
            let inputs: Vec<_> = (0..5).map(input).collect();
            let mut expected = Vec::new();
            for row in 0..outer {
                for (i, input) in inputs.iter().enumerate() {
                    for &x in &datas[i][row * input.inner..][..input.inner] {
                        let (p, q) = (input.quant.params, to.quant.params);
                        let y = requantize::rescale(input.quant.value(x), p, q, to.lo, to.hi);
                        expected.push(y as u8);
                    }
                }
            }
            let width = expected.len() / outer;
            for isa in Isa::supported() {
                for rows in [0..outer, 1..3, 4..5, 2..2] {
                    let mut output = vec![0xA5; rows.len() * width];
                    concat(isa, &inputs, to, outer, rows.clone(), &mut output).unwrap();
                    let part = &expected[rows.start * width..rows.end * width];
                    assert_eq!(output, part, "{isa} {rows:?}");
                    // Without the third, whose place keeps what it has.
                    let mut rest = inputs.clone();
                    rest[2].data = None;
                    let mut output = vec![0xA5; rows.len() * width];
                    concat(isa, &rest, to, outer, rows.clone(), &mut output).unwrap();
                    for (at, (&found, &all)) in output.iter().zip(part).enumerate() {
                        let kept = (65..82).contains(&(at % width));
                        assert_eq!(found, if kept { 0xA5 } else { all }, "{isa} {rows:?}");
                    }
                }
            }
        }
    }

    #[test]
    fn wrong_sizes_are_refused() {
        let (quant, to) = (quants()[0], targets()[1]);
        let data = [0; 6];
        let input = ConcatInput {
            data: Some(&data),
            quant,
            inner: 3,
        };
        let call = |inputs: &[ConcatInput<'_>], outer, rows, len| {
            concat(Isa::Scalar, inputs, to, outer, rows, &mut vec![0; len])
        };
        assert_eq!(call(&[input], 2, 0..2, 6), Ok(()));
        assert_eq!(call(&[], 2, 0..2, 0), Ok(()));
        assert!(call(&[input], 2, 0..2, 5).is_err());
        assert!(call(&[input], 3, 0..2, 6).is_err());
        assert!(call(&[input], 2, 1..3, 6).is_err());
        assert!(
            call(
                &[ConcatInput {
                    inner: usize::MAX,
                    ..input
                }; 2],
                2,
                0..2,
                6
            )
            .is_err()
        );
    }
}
