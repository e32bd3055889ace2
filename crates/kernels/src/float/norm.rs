//! Normalizations of floats: rows by their own mean and variance, and lines along an axis by their length.
//!
//! With the mean `m = Σ x / n` and the variance `v = Σ (x - m)² / n` of a row, `r = 1 / √(v + ε)`, and a scale `g` and bias `b`:
//! - with one `g` and `b` for each element of a row (layer norm), `y = ((x - m) · r) · g + b`;
//! - with one for each row (instance norm), `y = (x - m) · (r · g) + b`.
//!
//! Sums have the order of `octofold_quant::fold`, and each operation is rounded.

use octofold_quant::fold::Fold;

use super::AxisShape;
use super::reduce::{BLOCK, columns, mapped_row, row};
use crate::error::check_len;
use crate::shared::dispatch::isa_versions;
use crate::{Isa, KernelError};

/// A normalization of rows by their mean and variance.
#[derive(Clone, Copy, Debug)]
pub struct Normalization<'a> {
    /// The number of elements of a row.
    pub width: usize,
    /// What is added to the variance.
    pub epsilon: f32,
    /// The scales and biases.
    pub parameters: Parameters<'a>,
}

/// The scales and biases of normalized rows.
#[derive(Clone, Copy, Debug)]
pub enum Parameters<'a> {
    /// One for each element of a row, and the same for all rows.
    Elements {
        /// The factors.
        scale: &'a [f32],
        /// The summands, if there are any.
        bias: Option<&'a [f32]>,
    },
    /// One for each row. After the last one they begin again.
    Rows {
        /// The factors.
        scale: &'a [f32],
        /// The summands, as many.
        bias: &'a [f32],
        /// The parameter of the first row.
        first: usize,
    },
}

impl Normalization<'_> {
    fn check(&self, elements: usize) -> Result<(), KernelError> {
        // A multiple of 0 is only 0.
        if !elements.is_multiple_of(self.width) {
            return Err(KernelError::Shape("the rows are not whole"));
        }
        match self.parameters {
            Parameters::Elements { scale, bias } => {
                check_len("the scales", self.width, scale.len())?;
                check_len(
                    "the biases",
                    self.width,
                    bias.map_or(self.width, <[f32]>::len),
                )
            }
            Parameters::Rows { scale, bias, first } => {
                check_len("the biases", scale.len(), bias.len())?;
                if first < scale.len() || elements == 0 {
                    return Ok(());
                }
                Err(KernelError::Shape(
                    "there is no parameter for the first row",
                ))
            }
        }
    }
}

/// Normalizes rows. Parts of a tensor are calls of their own, with whole rows.
///
/// # Errors
/// For lengths that do not fit, and a missing instruction set.
pub fn normalize(
    isa: Isa,
    call: Normalization<'_>,
    input: &[f32],
    output: &mut [f32],
) -> Result<(), KernelError> {
    check_len("the input", output.len(), input.len())?;
    call.check(input.len())?;
    if input.is_empty() {
        return Ok(());
    }
    normalize_rows(isa, call, input, output)
}

isa_versions!(
    fn normalize_rows(call: Normalization<'_>, input: &[f32], output: &mut [f32]) = normalize_loop
);

#[inline(always)]
fn normalize_loop(call: Normalization<'_>, input: &[f32], output: &mut [f32]) {
    let count = call.width as f32;
    let rows = input.chunks_exact(call.width);
    for (index, (x, y)) in rows.zip(output.chunks_exact_mut(call.width)).enumerate() {
        let mean = row(Fold::Sum, x) / count;
        let variance = mapped_row(Fold::Squares, x, mean, |x| x - mean) / count;
        let factor = 1.0 / (variance + call.epsilon).sqrt();
        match call.parameters {
            Parameters::Elements { scale, bias: None } => {
                for ((y, x), scale) in y.iter_mut().zip(x).zip(scale) {
                    *y = (x - mean) * factor * scale;
                }
            }
            Parameters::Elements {
                scale,
                bias: Some(bias),
            } => {
                for (((y, x), scale), bias) in y.iter_mut().zip(x).zip(scale).zip(bias) {
                    *y = (x - mean) * factor * scale + bias;
                }
            }
            Parameters::Rows { scale, bias, first } => {
                let channel = (first + index) % scale.len();
                let (factor, bias) = (factor * scale[channel], bias[channel]);
                (y.iter_mut().zip(x)).for_each(|(y, x)| *y = (x - mean) * factor + bias);
            }
        }
    }
}

/// Divides each line along an axis by the sum of its absolute values, or by the square root of its sum of squares; a line whose norm is 0 gives zeros. Parts of a
/// tensor are calls of their own, with whole planes `[len, inner]`.
///
/// # Errors
/// For lengths that do not fit, and a missing instruction set.
pub fn divide_by_norm(
    isa: Isa,
    shape: AxisShape,
    squares: bool,
    input: &[f32],
    output: &mut [f32],
) -> Result<(), KernelError> {
    check_len("the input", shape.elements()?, input.len())?;
    check_len("the output", input.len(), output.len())?;
    match (input.is_empty(), squares) {
        (true, _) => Ok(()),
        (_, true) => by_squares(isa, shape, input, output),
        (_, false) => by_magnitudes(isa, shape, input, output),
    }
}

isa_versions!(fn by_squares(shape: AxisShape, input: &[f32], output: &mut [f32]) = squares_loop);
isa_versions!(
    fn by_magnitudes(shape: AxisShape, input: &[f32], output: &mut [f32]) = magnitudes_loop
);

#[inline(always)]
fn squares_loop(shape: AxisShape, input: &[f32], output: &mut [f32]) {
    divide_lines(shape, Fold::Squares, f32::sqrt, input, output);
}

#[inline(always)]
fn magnitudes_loop(shape: AxisShape, input: &[f32], output: &mut [f32]) {
    divide_lines(shape, Fold::Magnitudes, |sum| sum, input, output);
}

#[inline(always)]
fn divide_lines(
    shape: AxisShape,
    fold: Fold,
    norm: impl Fn(f32) -> f32,
    input: &[f32],
    output: &mut [f32],
) {
    let AxisShape { len, inner, .. } = shape;
    let quotient = |x: f32, norm: f32| if norm == 0.0 { 0.0 } else { x / norm };
    let planes = input.chunks_exact(len * inner);
    let mut norms = [0.0; BLOCK];
    for (x, y) in planes.zip(output.chunks_exact_mut(len * inner)) {
        if inner == 1 {
            let norm = norm(row(fold, x));
            y.iter_mut()
                .zip(x)
                .for_each(|(y, &x)| *y = quotient(x, norm));
            continue;
        }
        for start in (0..inner).step_by(BLOCK) {
            let width = BLOCK.min(inner - start);
            let norms = &mut norms[..width];
            columns(fold, &x[start..], (len, inner), norms);
            norms.iter_mut().for_each(|sum| *sum = norm(*sum));
            for (x, y) in x.chunks_exact(inner).zip(y.chunks_exact_mut(inner)) {
                let (x, y) = (&x[start..start + width], &mut y[start..start + width]);
                for i in 0..width {
                    y[i] = quotient(x[i], norms[i]);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shared::testing::Random;

    /// Mean and variance in f64.
    fn moments(row: &[f32]) -> (f64, f64) {
        let count = row.len() as f64;
        let mean = row.iter().map(|&x| f64::from(x)).sum::<f64>() / count;
        let squares = row.iter().map(|&x| (f64::from(x) - mean).powi(2));
        (mean, squares.sum::<f64>() / count)
    }

    #[test]
    fn rows_are_normalized_by_their_own_moments() {
        let mut random = Random::new(5);
        for width in [1, 3, 16, 21, 384, 2000] {
            let (rows, channels) = (7, 3);
            let input = random.floats(rows * width);
            let (scale, bias) = (
                random.floats(width.max(channels)),
                random.floats(width.max(channels)),
            );
            let elements = |bias| Parameters::Elements {
                scale: &scale[..width],
                bias,
            };
            let cases = [
                elements(None),
                elements(Some(&bias[..width])),
                Parameters::Rows {
                    scale: &scale[..channels],
                    bias: &bias[..channels],
                    first: 2,
                },
            ];
            for parameters in cases {
                let call = Normalization {
                    width,
                    epsilon: 1e-3,
                    parameters,
                };
                let mut first = None;
                for isa in Isa::supported() {
                    let mut output = vec![777.0; input.len()];
                    normalize(isa, call, &input, &mut output).unwrap();
                    for (i, &y) in output.iter().enumerate() {
                        let (r, j) = (i / width, i % width);
                        let (mean, variance) = moments(&input[r * width..][..width]);
                        let (scale, bias) = match parameters {
                            Parameters::Elements { scale, bias } => {
                                (scale[j], bias.map_or(0.0, |bias| bias[j]))
                            }
                            Parameters::Rows { scale, bias, first } => {
                                let channel = (first + r) % channels;
                                (scale[channel], bias[channel])
                            }
                        };
                        let exact = (f64::from(input[i]) - mean)
                            / (variance + f64::from(1e-3_f32)).sqrt()
                            * f64::from(scale)
                            + f64::from(bias);
                        assert!(
                            (f64::from(y) - exact).abs() < 2e-5,
                            "{isa} {width} {i}: {y} {exact}"
                        );
                    }
                    assert_eq!(*first.get_or_insert(output.clone()), output);
                }
            }
        }
    }

    #[test]
    fn lines_are_divided_by_their_norms() {
        let mut random = Random::new(6);
        for (outer, len, inner) in [(3, 5, 1), (3, 40, 1), (2, 7, 3), (1, 5, 1100)] {
            let shape = AxisShape { outer, len, inner };
            let mut input = random.floats(outer * len * inner);
            // One line of zeros.
            (0..len).for_each(|i| input[i * inner] = 0.0);
            for squares in [false, true] {
                let mut first = None;
                for isa in Isa::supported() {
                    let mut output = vec![777.0; input.len()];
                    divide_by_norm(isa, shape, squares, &input, &mut output).unwrap();
                    for i in 0..input.len() {
                        let start = i / (len * inner) * len * inner + i % inner;
                        let line = (0..len).map(|k| f64::from(input[start + k * inner]));
                        let norm = match squares {
                            true => line.map(|x| x * x).sum::<f64>().sqrt(),
                            false => line.map(f64::abs).sum(),
                        };
                        let exact = if norm == 0.0 {
                            0.0
                        } else {
                            f64::from(input[i]) / norm
                        };
                        assert!(
                            (f64::from(output[i]) - exact).abs() < 1e-6,
                            "{isa} {shape:?}"
                        );
                    }
                    assert_eq!(*first.get_or_insert(output.clone()), output);
                }
            }
        }
    }

    #[test]
    fn wrong_lengths_are_refused() {
        let call = |width: usize, scales: usize, x: usize| {
            let scale = vec![1.0; scales];
            let parameters = Parameters::Elements {
                scale: &scale,
                bias: None,
            };
            let call = Normalization {
                width,
                epsilon: 0.0,
                parameters,
            };
            normalize(Isa::Scalar, call, &vec![0.0; x], &mut vec![0.0; x])
        };
        assert_eq!(call(3, 3, 6), Ok(()));
        assert_eq!(call(0, 0, 0), Ok(()));
        assert!(call(3, 2, 6).is_err());
        assert!(call(4, 4, 6).is_err());
        assert!(call(0, 0, 6).is_err());
        let parameters = Parameters::Rows {
            scale: &[1.0],
            bias: &[1.0],
            first: 1,
        };
        let call = Normalization {
            width: 1,
            epsilon: 0.0,
            parameters,
        };
        assert!(normalize(Isa::Scalar, call, &[0.0], &mut [0.0]).is_err());
        let shape = AxisShape {
            outer: 1,
            len: 2,
            inner: 2,
        };
        assert!(divide_by_norm(Isa::Scalar, shape, true, &[0.0; 3], &mut [0.0; 3]).is_err());
    }
}
