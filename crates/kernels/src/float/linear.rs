//! Float matrix products: by packed weights, with bias and clamp, and of two computed operands.
//!
//! `y[r][n] = clamp(Σ_k x[r][k] · w[k][n] + bias[n])` for packed weights is a 1x1 convolution, with the same kernels and
//! the same order of sums. A product of two computed operands packs the second one first, unless there are few rows; the sums are the same.

use std::ops::Range;

use super::micro::PANEL;
use super::{Block, conv};
use crate::conv::{ConvShape, LinearShape};
use crate::error::{check_len, check_scratch};
use crate::shared::dispatch::isa_versions;
use crate::shared::{check_range, product as size};
use crate::{Bounds, Isa, KernelError};

/// The data of a product by weights.
#[derive(Clone, Copy, Debug)]
pub struct LinearData<'a> {
    /// All of `[rows, k]`.
    pub input: &'a [f32],
    /// What [`pack`] gives.
    pub weights: &'a [f32],
    /// `[n]`.
    pub bias: Option<&'a [f32]>,
    /// The bounds of a fused activation, applied last.
    pub clamp: Bounds,
}

/// The number of floats of packed weights: `k` by `n` rounded up to a multiple of 16.
///
/// # Errors
/// When they are too many to address.
pub fn packed_len(k: usize, n: usize) -> Result<usize, KernelError> {
    size("the weights", &[n.div_ceil(PANEL), k, PANEL])
}

/// Packs weights `[k, n]` into the form that the kernels read: `[n/16][k][16]`, as those of a 1x1 [convolution](conv::pack()).
///
/// # Errors
/// For weights of another length.
pub fn pack(k: usize, n: usize, weights: &[f32]) -> Result<Vec<f32>, KernelError> {
    check_len("the weights", size("the weights", &[k, n])?, weights.len())?;
    let mut packed = vec![0.0; packed_len(k, n)?];
    pack_into(k, n, 0..n, weights, &mut packed);
    Ok(packed)
}

/// Rows that are packed between two panels, so that what is read stays in the nearest caches and what is written is contiguous.
const PACKED_ROWS: usize = 64;

/// Packs some columns of weights `[k, n]` into memory of [`packed_len`] floats with any content.
fn pack_into(k: usize, n: usize, columns: Range<usize>, weights: &[f32], packed: &mut [f32]) {
    for first in (0..k).step_by(PACKED_ROWS) {
        let last = k.min(first + PACKED_ROWS);
        for (panel, packed) in packed.chunks_exact_mut(k * PANEL).enumerate() {
            let column = columns.start + panel * PANEL;
            let width = PANEL.min(columns.end - column);
            let steps = packed[first * PANEL..last * PANEL].chunks_exact_mut(PANEL);
            for (row, step) in (first..last).zip(steps) {
                let columns = &weights[row * n + column..];
                match columns.first_chunk::<PANEL>() {
                    Some(whole) if width == PANEL => step.copy_from_slice(whole),
                    _ => {
                        step.fill(0.0);
                        step[..width].copy_from_slice(&columns[..width]);
                    }
                }
            }
        }
    }
}

/// Floats of scratch memory that [`linear`] needs for each thread, whatever the ranges.
///
/// # Errors
/// When the sizes are too large to address.
pub fn scratch_len(shape: &LinearShape) -> Result<usize, KernelError> {
    match as_conv(shape) {
        Some(conv) => conv::scratch_len(&conv),
        None => Ok(0),
    }
}

/// Computes a block of the product.
///
/// - `block`: its columns start at a multiple of 16;
/// - `output`: the values of the block, `[rows.len(), columns.len()]`. With all columns, or one row, this is a contiguous part of the
///   whole output;
/// - `scratch`: at least [`scratch_len`] floats with any content, not shared with a concurrent call.
///
/// # Errors
/// For lengths that do not fit the shape, rows and columns that do not exist, unordered bounds, and a missing instruction
/// set. Nothing was written then.
pub fn linear(
    isa: Isa,
    shape: &LinearShape,
    data: &LinearData<'_>,
    block: Block,
    scratch: &mut [f32],
    output: &mut [f32],
) -> Result<(), KernelError> {
    let Block { rows, columns } = &block;
    check_range("rows", rows, shape.rows)?;
    check_range("columns", columns, shape.n)?;
    if !columns.start.is_multiple_of(PANEL) {
        let (what, len) = ("columns", shape.n);
        return Err(KernelError::Range {
            what,
            range: columns.clone(),
            len,
        });
    }
    if let Some(conv) = as_conv(shape) {
        let data = conv::ConvData {
            input: data.input,
            weights: data.weights,
            bias: data.bias,
            residual: None,
            clamp: data.clamp,
        };
        return conv::run(isa, &conv, &data, block, scratch, output);
    }
    // There is nothing to add up.
    let len = size("the output", &[rows.len(), columns.len()])?;
    check_len("the output", len, output.len())?;
    check_len(
        "the input",
        size("the input", &[shape.rows, shape.k])?,
        data.input.len(),
    )?;
    check_len(
        "the weights",
        packed_len(shape.k, shape.n)?,
        data.weights.len(),
    )?;
    if let Some(bias) = data.bias {
        check_len("the bias", shape.n, bias.len())?;
    }
    data.clamp.check()?;
    if !isa.is_supported() {
        return Err(KernelError::Unsupported(isa));
    }
    for row in output.chunks_mut(columns.len().max(1)) {
        for (y, column) in row.iter_mut().zip(columns.clone()) {
            *y = (data.clamp).clamp(data.bias.map_or(0.0, |bias| bias[column]));
        }
    }
    Ok(())
}

/// Floats of scratch memory that [`linear_unpacked`] needs for blocks of at most `columns` columns.
///
/// # Errors
/// When the sizes are too large to address.
pub fn unpacked_scratch_len(shape: &LinearShape, columns: usize) -> Result<usize, KernelError> {
    let block = LinearShape {
        n: columns,
        ..*shape
    };
    let (packed, conv) = (packed_len(shape.k, columns)?, scratch_len(&block)?);
    size("the scratch buffer", &[packed.saturating_add(conv)])
}

/// Computes some columns of the product by weights that are not packed, `[k, n]` in `data`: the same values as [`linear`].
///
/// - `output`: `[rows, columns.len()]`;
/// - `scratch`: at least [`unpacked_scratch_len`] floats with any content, not shared with a concurrent call.
///
/// # Errors
/// As [`linear`].
pub fn linear_unpacked(
    isa: Isa,
    shape: &LinearShape,
    data: &LinearData<'_>,
    columns: Range<usize>,
    scratch: &mut [f32],
    output: &mut [f32],
) -> Result<(), KernelError> {
    let LinearShape { rows, k, n } = *shape;
    check_range("columns", &columns, n)?;
    let weights = size("the weights", &[k, n])?;
    check_len("the weights", weights, data.weights.len())?;
    if let Some(bias) = data.bias {
        check_len("the bias", n, bias.len())?;
    }
    let len = columns.len();
    check_scratch(unpacked_scratch_len(shape, len)?, scratch.len())?;
    let (packed, scratch) = scratch.split_at_mut(packed_len(k, len)?);
    pack_into(k, n, columns.clone(), data.weights, packed);
    let data = LinearData {
        weights: packed,
        bias: data.bias.map(|bias| &bias[columns]),
        ..*data
    };
    let block = Block {
        rows: 0..rows,
        columns: 0..len,
    };
    let shape = LinearShape { n: len, ..*shape };
    linear(isa, &shape, &data, block, scratch, output)
}

/// The product as a convolution, unless a size is zero.
fn as_conv(shape: &LinearShape) -> Option<ConvShape> {
    let some = shape.rows > 0 && shape.k > 0 && shape.n > 0;
    some.then(|| shape.as_conv())
}

/// A product of at most this number of rows reads its second operand in place, because packing would take longer.
const FEW_ROWS: usize = 3;

/// The operands of a product.
#[derive(Clone, Copy, Debug)]
pub struct MatMulData<'a> {
    /// All of `[rows, k]`.
    pub a: &'a [f32],
    /// All of `[k, n]`.
    pub b: &'a [f32],
}

/// Floats of scratch memory that [`matmul`] needs for each thread, whatever the rows.
///
/// # Errors
/// When the sizes are too large to address.
pub fn matmul_scratch_len(shape: &LinearShape) -> Result<usize, KernelError> {
    if shape.rows <= FEW_ROWS {
        return Ok(0);
    }
    let (packed, conv) = (packed_len(shape.k, shape.n)?, scratch_len(shape)?);
    size("the scratch buffer", &[packed.saturating_add(conv)])
}

/// Computes some rows of a product of two computed operands, `output = a · b`: the sums are those of [`linear`], whatever the rows.
///
/// `output` holds exactly these rows, `[rows.len(), n]`; calls for disjoint ranges may run at the same time. `scratch` may
/// hold anything; its length is at least [`matmul_scratch_len`].
///
/// # Errors
/// For lengths that do not fit the shape, rows that do not exist, and a missing instruction set. Nothing was written then.
pub fn matmul(
    isa: Isa,
    shape: &LinearShape,
    data: MatMulData<'_>,
    rows: Range<usize>,
    scratch: &mut [f32],
    output: &mut [f32],
) -> Result<(), KernelError> {
    let LinearShape { k, n, .. } = *shape;
    check_range("rows", &rows, shape.rows)?;
    let first = size("the first operand", &[shape.rows, k])?;
    check_len("the first operand", first, data.a.len())?;
    let second = size("the second operand", &[k, n])?;
    check_len("the second operand", second, data.b.len())?;
    let len = size("the output", &[rows.len(), n])?;
    check_len("the output", len, output.len())?;
    check_scratch(matmul_scratch_len(shape)?, scratch.len())?;
    if !isa.is_supported() {
        return Err(KernelError::Unsupported(isa));
    }
    if shape.rows <= FEW_ROWS || k == 0 || n == 0 {
        let a = &data.a[rows.start * k..rows.end * k];
        return few_rows(isa, a, data.b, k, output);
    }
    let (packed, scratch) = scratch.split_at_mut(packed_len(k, n)?);
    pack_into(k, n, 0..n, data.b, packed);
    let data = LinearData {
        input: data.a,
        weights: packed,
        bias: None,
        clamp: Bounds::NONE,
    };
    let block = Block {
        rows,
        columns: 0..n,
    };
    linear(isa, shape, &data, block, scratch, output)
}

isa_versions!(fn few_rows(a: &[f32], b: &[f32], k: usize, output: &mut [f32]) = few_rows_loop);

/// Adds the rows of `b` to each row of the output, one after the other.
#[inline(always)]
fn few_rows_loop(a: &[f32], b: &[f32], k: usize, output: &mut [f32]) {
    output.fill(0.0);
    let n = b.len().checked_div(k).unwrap_or(0).max(1);
    for (a, output) in a.chunks_exact(k.max(1)).zip(output.chunks_exact_mut(n)) {
        for (&a, b) in a.iter().zip(b.chunks_exact(n)) {
            for (y, &b) in output.iter_mut().zip(b) {
                *y = a.mul_add(b, *y);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shared::testing::Random;

    #[test]
    fn linear_matches_sums_in_f64_and_does_not_depend_on_the_split() {
        let mut random = Random::new(31);
        for rows in [1, 2, 7, 65, 200] {
            for (k, n) in [(1, 1), (5, 300), (64, 17), (257, 40), (0, 3)] {
                let shape = LinearShape { rows, k, n };
                let (input, weights) = (random.floats(rows * k), random.floats(k * n));
                let bias = random.floats(n);
                let data = LinearData {
                    input: &input,
                    weights: &pack(k, n, &weights).unwrap(),
                    bias: Some(&bias),
                    clamp: Bounds::new(-0.5, 4.0),
                };
                let mut scratch = vec![f32::NAN; scratch_len(&shape).unwrap()];
                let mut bits: Option<Vec<u32>> = None;
                for isa in Isa::supported() {
                    let mut whole = vec![777.0; rows * n];
                    let all = Block {
                        rows: 0..rows,
                        columns: 0..n,
                    };
                    linear(isa, &shape, &data, all, &mut scratch, &mut whole).unwrap();
                    for (i, &got) in whole.iter().enumerate() {
                        let (r, c) = (i / n, i % n);
                        let term = |j| f64::from(input[r * k + j]) * f64::from(weights[j * n + c]);
                        let sum = (0..k).map(term).sum::<f64>() + f64::from(bias[c]);
                        let error = f64::from(got) - sum.clamp(-0.5, 4.0);
                        assert!(
                            error.abs() <= 1e-5 * (k as f64 + 1.0),
                            "{isa} {shape:?} {i}"
                        );
                    }
                    let now: Vec<u32> = whole.iter().map(|y| y.to_bits()).collect();
                    assert_eq!(*bits.get_or_insert_with(|| now.clone()), now, "{isa}");
                    for row in 0..rows.min(5) {
                        for first in (0..n).step_by(48) {
                            let columns = first..n.min(first + 48);
                            let mut part = vec![777.0; columns.len()];
                            let block = Block {
                                rows: row..row + 1,
                                columns: columns.clone(),
                            };
                            linear(isa, &shape, &data, block, &mut scratch, &mut part).unwrap();
                            assert_eq!(part, whole[row * n..][columns], "{shape:?} {row}");
                        }
                    }
                    let data = LinearData {
                        weights: &weights,
                        ..data
                    };
                    for columns in [0..n, 1.min(n)..n.min(20), n..n] {
                        let len = unpacked_scratch_len(&shape, columns.len()).unwrap();
                        let mut scratch = vec![f32::NAN; len];
                        let mut part = vec![777.0; rows * columns.len()];
                        let (from, part_of) = (columns.start, columns.len());
                        linear_unpacked(isa, &shape, &data, columns, &mut scratch, &mut part)
                            .unwrap();
                        for (i, y) in part.iter().enumerate() {
                            let expected = whole[i / part_of * n + from + i % part_of];
                            assert_eq!(y.to_bits(), expected.to_bits(), "{isa} {shape:?} {i}");
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn computed_products_match_packed_weights_to_the_bit() {
        let mut random = Random::new(32);
        for rows in [1, 2, 3, 4, 9, 70] {
            for (k, n) in [
                (1, 1),
                (5, 300),
                (64, 17),
                (257, 40),
                (130, 16),
                (0, 3),
                (3, 0),
            ] {
                let shape = LinearShape { rows, k, n };
                let (a, b) = (random.floats(rows * k), random.floats(k * n));
                let data = LinearData {
                    input: &a,
                    weights: &pack(k, n, &b).unwrap(),
                    bias: None,
                    clamp: Bounds::NONE,
                };
                for isa in Isa::supported() {
                    let mut scratch =
                        vec![f32::NAN; matmul_scratch_len(&shape).unwrap().max(1 << 17)];
                    let block = Block {
                        rows: 0..rows,
                        columns: 0..n,
                    };
                    let mut expected = vec![777.0; rows * n];
                    linear(isa, &shape, &data, block, &mut scratch, &mut expected).unwrap();
                    let data = MatMulData { a: &a, b: &b };
                    for rows in [0..rows, 0..1, 1..rows] {
                        let mut output = vec![777.0; rows.len() * n];
                        matmul(isa, &shape, data, rows.clone(), &mut scratch, &mut output).unwrap();
                        let part = &expected[rows.start * n..rows.end * n];
                        let bits =
                            |values: &[f32]| values.iter().map(|y| y.to_bits()).collect::<Vec<_>>();
                        assert_eq!(bits(&output), bits(part), "{isa} {shape:?} {rows:?}");
                    }
                }
            }
        }
    }

    #[test]
    fn wrong_sizes_are_refused() {
        let shape = LinearShape {
            rows: 2,
            k: 3,
            n: 4,
        };
        let call =
            |shape: LinearShape, input: usize, weights: usize, (rows, columns), output: usize| {
                let block = Block { rows, columns };
                let (input, weights) = (vec![0.0; input], vec![0.0; weights]);
                let data = LinearData {
                    input: &input,
                    weights: &weights,
                    bias: None,
                    clamp: Bounds::new(0.0, 1.0),
                };
                let (mut scratch, mut output) = ([0.0; 64], vec![0.0; output]);
                linear(Isa::Scalar, &shape, &data, block, &mut scratch, &mut output)
            };
        assert_eq!(call(shape, 6, 48, (0..2, 0..4), 8), Ok(()));
        assert!(call(shape, 5, 48, (0..2, 0..4), 8).is_err());
        assert!(call(shape, 6, 49, (0..2, 0..4), 8).is_err());
        assert!(call(shape, 6, 48, (0..3, 0..4), 8).is_err());
        assert!(call(shape, 6, 48, (0..2, 0..5), 8).is_err());
        assert!(call(shape, 6, 48, (0..2, 1..4), 6).is_err());
        assert!(call(shape, 6, 48, (0..2, 0..4), 7).is_err());
        for huge in [
            LinearShape {
                rows: usize::MAX,
                ..shape
            },
            LinearShape {
                n: usize::MAX,
                ..shape
            },
        ] {
            assert!(call(huge, 6, 48, (0..2, 0..4), 8).is_err());
        }
        for (empty, weights) in [
            (LinearShape { rows: 0, ..shape }, 48),
            (LinearShape { n: 0, ..shape }, 0),
        ] {
            let input = empty.rows * empty.k;
            let block = (0..empty.rows, 0..empty.n);
            assert_eq!(call(empty, input, weights, block, 0), Ok(()));
        }
        let no_depth = LinearShape { k: 0, ..shape };
        assert_eq!(call(no_depth, 0, 0, (0..2, 0..4), 8), Ok(()));
        assert!(call(no_depth, 0, 0, (0..2, 0..4), 7).is_err());
    }
}
