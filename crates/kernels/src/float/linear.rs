//! Float matrix products: by packed weights, with bias and clamp, and of two computed operands.
//!
//! `y[r][n] = clamp(Σ_k x[r][k] · w[k][n] + bias[n])`. The output is cut into chunks by the shape alone, of whole
//! rows, or of columns when there is one row, so that bits do not depend on the number of threads.

use std::ops::Range;

use super::conv::finish;
use super::gemm::{View, product};
use super::{NO_CLAMP, check_clamp};
use crate::conv::LinearShape;
use crate::error::check_len;
use crate::shared::{check_range, product as size};
use crate::{Isa, KernelError};

/// The data of a product by weights.
#[derive(Clone, Copy, Debug)]
pub struct LinearData<'a> {
    /// All of `[rows, k]`.
    pub input: &'a [f32],
    /// `[k, n]`.
    pub weights: &'a [f32],
    /// `[n]`.
    pub bias: Option<&'a [f32]>,
    /// The bounds of a fused activation, applied last.
    pub clamp: (f32, f32),
}

/// Output elements of a chunk; the last chunk may have fewer. Chunk `i` starts at `i · chunk_len` of the output.
pub fn chunk_len(shape: &LinearShape) -> usize {
    const ROWS: usize = 64;
    const COLUMNS: usize = 256;
    match shape.rows {
        0 | 1 => COLUMNS,
        rows => rows
            .div_ceil(4)
            .next_multiple_of(8)
            .min(ROWS)
            .saturating_mul(shape.n)
            .max(1),
    }
}

/// The number of chunks: `rows · n` divided by [`chunk_len`], rounded up.
///
/// # Errors
/// When `rows · n` overflows.
pub fn chunks(shape: &LinearShape) -> Result<usize, KernelError> {
    Ok(size("the output", &[shape.rows, shape.n])?.div_ceil(chunk_len(shape)))
}

/// Computes the chunks `chunks` of the output.
///
/// `output` holds exactly these chunks of `[rows, n]`, from `chunks.start · chunk_len` on.
///
/// # Errors
/// For lengths that do not fit the shape, chunks that do not exist, unordered bounds, and a missing instruction
/// set.
pub fn linear(
    isa: Isa,
    shape: &LinearShape,
    data: &LinearData<'_>,
    chunks: Range<usize>,
    output: &mut [f32],
) -> Result<(), KernelError> {
    let LinearShape { rows, k, n } = *shape;
    check_range("chunks", &chunks, self::chunks(shape)?)?;
    let len = chunk_len(shape);
    let start = chunks.start * len;
    let end = (chunks.end * len).min(rows * n).max(start);
    check_len("the output", end - start, output.len())?;
    check_len(
        "the input",
        size("the input", &[rows, k])?,
        data.input.len(),
    )?;
    check_len(
        "the weights",
        size("the weights", &[k, n])?,
        data.weights.len(),
    )?;
    if let Some(bias) = data.bias {
        check_len("the bias", n, bias.len())?;
    }
    check_clamp(data.clamp)?;
    for (first, output) in (start..end).step_by(len).zip(output.chunks_mut(len)) {
        let (row, column) = (first / n, first % n);
        let columns = if rows == 1 { output.len() } else { n };
        let count = output.len() / columns;
        product(
            (count, k, columns),
            (data.input, View::rows(row * k, k)),
            (data.weights, View::rows(column, n)),
            (&mut *output, View::rows(0, columns)),
        )?;
        let bias = data.bias.map(|bias| &bias[column..column + columns]);
        finish(isa, bias, None, data.clamp, columns, output)?;
    }
    Ok(())
}

/// Weights `[n, k]`, one row an output as ONNX `Gemm` with `transB` has them, as `[k, n]`.
///
/// # Errors
/// For weights of another length.
pub fn pack(k: usize, n: usize, weights: &[f32]) -> Result<Vec<f32>, KernelError> {
    check_len("the weights", size("the weights", &[k, n])?, weights.len())?;
    let mut packed = vec![0.0; weights.len()];
    for (column, row) in weights.chunks_exact(k.max(1)).enumerate() {
        for (i, &weight) in row.iter().enumerate() {
            packed[i * n + column] = weight;
        }
    }
    Ok(packed)
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
    if len == 0 {
        return Ok(());
    }
    for (i, output) in batches.zip(output.chunks_exact_mut(len)) {
        let view = |transposed, offset, rows, cols| View {
            offset,
            row_stride: if transposed { 1 } else { cols },
            col_stride: if transposed { rows } else { 1 },
        };
        let b_offset = if shape.shared_b { 0 } else { i * k * columns };
        product(
            (rows, k, columns),
            (a, view(shape.transposed_a, i * rows * k, rows, k)),
            (b, view(shape.transposed_b, b_offset, k, columns)),
            (&mut *output, View::rows(0, columns)),
        )?;
    }
    finish(isa, None, None, NO_CLAMP, columns, output)
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
                let packed = pack(k, n, &weights).unwrap();
                let clamp = (-0.5, 4.0);
                let data = LinearData {
                    input: &input,
                    weights: &packed,
                    bias: Some(&bias),
                    clamp,
                };
                for isa in Isa::supported() {
                    let mut whole = vec![777.0; rows * n];
                    let count = chunks(&shape).unwrap();
                    linear(isa, &shape, &data, 0..count, &mut whole).unwrap();
                    for (i, &got) in whole.iter().enumerate() {
                        let (r, c) = (i / n, i % n);
                        let term = |j| f64::from(input[r * k + j]) * f64::from(weights[c * k + j]);
                        let sum = (0..k).map(term).sum::<f64>() + f64::from(bias[c]);
                        let error = f64::from(got) - sum.clamp(-0.5, 4.0);
                        assert!(
                            error.abs() <= 1e-5 * (k as f64 + 1.0),
                            "{isa} {shape:?} {i}"
                        );
                    }
                    for (i, part) in whole.chunks(chunk_len(&shape)).enumerate() {
                        let mut output = vec![777.0; part.len()];
                        linear(isa, &shape, &data, i..i + 1, &mut output).unwrap();
                        assert_eq!(output, part, "{shape:?} {i}");
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
        let call = |shape: LinearShape, input: usize, weights: usize, chunks, output: usize| {
            let (input, weights) = (vec![0.0; input], vec![0.0; weights]);
            let data = LinearData {
                input: &input,
                weights: &weights,
                bias: None,
                clamp: NO_CLAMP,
            };
            linear(Isa::Scalar, &shape, &data, chunks, &mut vec![0.0; output])
        };
        assert_eq!(call(shape, 6, 12, 0..1, 8), Ok(()));
        assert!(call(shape, 5, 12, 0..1, 8).is_err());
        assert!(call(shape, 6, 13, 0..1, 8).is_err());
        assert!(call(shape, 6, 12, 0..2, 8).is_err());
        assert!(call(shape, 6, 12, 0..1, 7).is_err());
        assert!(
            call(
                LinearShape {
                    rows: usize::MAX,
                    ..shape
                },
                6,
                12,
                0..1,
                8
            )
            .is_err()
        );
        assert!(
            call(
                LinearShape {
                    n: usize::MAX,
                    ..shape
                },
                6,
                12,
                0..1,
                8
            )
            .is_err()
        );
        assert_eq!(
            call(LinearShape { rows: 0, ..shape }, 0, 12, 0..0, 0),
            Ok(())
        );
        assert_eq!(call(LinearShape { n: 0, ..shape }, 6, 0, 0..0, 0), Ok(()));
    }
}
