//! Float matrix products: by packed weights, with bias and clamp, and of two computed operands.
//!
//! `y[r][n] = clamp(Σ_k x[r][k] · w[k][n] + bias[n])` for packed weights is a 1x1 convolution, with the same kernels and
//! the same order of sums. Products of two computed operands call the `gemm` crate.

use std::ops::Range;

use super::gemm::{Matrix, product};
use super::micro::PANEL;
use super::{Block, conv};
use crate::conv::{ConvShape, LinearShape};
use crate::error::check_len;
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
    for (i, row) in weights.chunks_exact(n.max(1)).enumerate() {
        for (panel, columns) in row.chunks(PANEL).enumerate() {
            packed[(panel * k + i) * PANEL..][..columns.len()].copy_from_slice(columns);
        }
    }
    Ok(packed)
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

/// The product as a convolution, unless a size is zero.
fn as_conv(shape: &LinearShape) -> Option<ConvShape> {
    let some = shape.rows > 0 && shape.k > 0 && shape.n > 0;
    some.then(|| shape.as_conv())
}

/// The sizes of a batch of products of two computed operands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct MatMulShape {
    /// Products.
    pub batch: usize,
    /// Rows of the first operand and of the output.
    pub rows: usize,
    /// Columns of the first operand and rows of the second.
    pub k: usize,
    /// Columns of the second operand and of the output.
    pub columns: usize,
    /// Whether the first operand is stored as `[k, rows]`.
    pub transposed_a: bool,
    /// Whether the second operand is stored as `[columns, k]`.
    pub transposed_b: bool,
    /// Whether all products use the same second operand, a single matrix.
    pub shared_b: bool,
}

/// Computes the products `batches` of `batch`: `output[i] = a[i] · b[i]`.
///
/// `a` is all of `[batch, rows, k]`, `b` of `[batch, k, columns]` or a single matrix; `output` is
/// `[batches.len(), rows, columns]`.
///
/// # Errors
/// For lengths that do not fit the shape and products that do not exist.
pub fn matmul(
    isa: Isa,
    shape: &MatMulShape,
    a: &[f32],
    b: &[f32],
    batches: Range<usize>,
    output: &mut [f32],
) -> Result<(), KernelError> {
    let MatMulShape {
        batch,
        rows,
        k,
        columns,
        ..
    } = *shape;
    check_range("products", &batches, batch)?;
    check_len(
        "the first operand",
        size("the first operand", &[batch, rows, k])?,
        a.len(),
    )?;
    let matrices = if shape.shared_b { 1 } else { batch };
    check_len(
        "the second operand",
        size("the second operand", &[matrices, k, columns])?,
        b.len(),
    )?;
    let len = size("the output", &[rows, columns])?;
    check_len(
        "the output",
        size("the output", &[batches.len(), len])?,
        output.len(),
    )?;
    if !isa.is_supported() {
        return Err(KernelError::Unsupported(isa));
    }
    if len == 0 {
        return Ok(());
    }
    for (i, output) in batches.zip(output.chunks_exact_mut(len)) {
        let a = Matrix {
            data: a,
            offset: i * rows * k,
            row_stride: if shape.transposed_a { 1 } else { k },
            col_stride: if shape.transposed_a { rows } else { 1 },
        };
        let b = Matrix {
            data: b,
            offset: if shape.shared_b { 0 } else { i * k * columns },
            row_stride: if shape.transposed_b { 1 } else { columns },
            col_stride: if shape.transposed_b { k } else { 1 },
        };
        product(a, b, k, columns, output)?;
    }
    Ok(())
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
                }
            }
        }
    }

    #[test]
    fn batched_products_match_sums_in_f64() {
        let mut random = Random::new(32);
        let (batch, rows, k, columns) = (3, 5, 9, 7);
        for flags in 0..8 {
            let shape = MatMulShape {
                batch,
                rows,
                k,
                columns,
                transposed_a: flags & 1 != 0,
                transposed_b: flags & 2 != 0,
                shared_b: flags & 4 != 0,
            };
            let a = random.floats(batch * rows * k);
            let b = random.floats(k * columns * if shape.shared_b { 1 } else { batch });
            let mut output = vec![777.0; 2 * rows * columns];
            matmul(Isa::detect(), &shape, &a, &b, 1..3, &mut output).unwrap();
            for (i, &got) in output.iter().enumerate() {
                let (n, r, c) = (i / (rows * columns) + 1, i / columns % rows, i % columns);
                let term = |j: usize| {
                    let at = if shape.transposed_a {
                        j * rows + r
                    } else {
                        r * k + j
                    };
                    let bt = if shape.transposed_b {
                        c * k + j
                    } else {
                        j * columns + c
                    };
                    let b_start = if shape.shared_b { 0 } else { n * k * columns };
                    f64::from(a[n * rows * k + at]) * f64::from(b[b_start + bt])
                };
                let sum: f64 = (0..k).map(term).sum();
                assert!((f64::from(got) - sum).abs() < 1e-5, "{shape:?} {i}");
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
