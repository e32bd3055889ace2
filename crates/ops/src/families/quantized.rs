//! The integer operators of ONNX.
//!
//! Sums are exact. A quantized result is requantized as [`octofold_quant::requantize`] defines it (ONNX Runtime's float multiplier); its sums must
//! fit 32 bits, the bias included. The results of `ConvInteger` and `MatMulInteger` are the sums themselves, which wrap.

use octofold_quant::{QParams, QuantType, requantize};
use octofold_tensor::{DType, Tensor};

use super::conv::conv_shape;
use super::matmul::MatMulShape;
use super::quantize::checked_params;
use super::real::{accumulator, quantized_bytes, quantized_tensor, reals};
use super::support::expect_type;
use super::window::WindowAttributes;
use super::{AutoPad, ConvShape};
use crate::{Inputs, OpError, Operator, attributes, bail};

attributes! {
    /// ONNX `QLinearConv` (opset 10): a convolution of bytes with a quantized result.
    ///
    /// Inputs: `x` [N, C, D1, …] (u8 or s8), `x_scale`, `x_zero_point` (scalars), `w` [M, C/group, K1, …] (u8 or s8), `w_scale`, `w_zero_point` (one, or one an output channel),
    /// `y_scale`, `y_zero_point` (scalars), optional bias `[M]` (i32, on the scale `x_scale·w_scale`). Output: [N, M, O1, …], the type of `y_zero_point`.
    "" "QLinearConv" inputs(8..=9)
    pub struct QLinearConv {
        /// How the borders follow from the input's size.
        auto_pad: AutoPad = AutoPad::NotSet,
        /// The distances of the kernel's taps; empty for ones.
        dilations: Vec<i64> = vec![],
        /// The number of groups.
        group: i64 = 1,
        /// The sizes of the kernel; empty, or those of `w`.
        kernel_shape: Vec<i64> = vec![],
        /// The borders: all begins, then all ends; empty for zeros.
        pads: Vec<i64> = vec![],
        /// The steps between output positions; empty for ones.
        strides: Vec<i64> = vec![],
    }

    /// ONNX `QLinearMatMul` (opset 21): a matrix product of bytes with a quantized result.
    ///
    /// Inputs: `a`, `a_scale`, `a_zero_point`, `b`, `b_scale`, `b_zero_point`, `y_scale`, `y_zero_point`; `a` and `b` as in [`MatMul`](super::MatMul), u8 or s8. The parameters are scalars,
    /// or one a row of `a`, one a column of `b`. Output: the type of `y_zero_point`.
    "" "QLinearMatMul" inputs(8..=8)
    pub struct QLinearMatMul {}

    /// ONNX `ConvInteger` (opset 10): a convolution of bytes with its 32-bit sums as the result (they wrap).
    ///
    /// Inputs: `x` [N, C, D1, …] (u8 or s8), `w` [M, C/group, K1, …] (u8 or s8), optional `x_zero_point` (scalar), optional `w_zero_point` (scalar, or one an
    /// output channel). Output: [N, M, O1, …], i32.
    "" "ConvInteger" inputs(2..=4)
    pub struct ConvInteger {
        /// How the borders follow from the input's size.
        auto_pad: AutoPad = AutoPad::NotSet,
        /// The distances of the kernel's taps; empty for ones.
        dilations: Vec<i64> = vec![],
        /// The number of groups.
        group: i64 = 1,
        /// The sizes of the kernel; empty, or those of `w`.
        kernel_shape: Vec<i64> = vec![],
        /// The borders: all begins, then all ends; empty for zeros.
        pads: Vec<i64> = vec![],
        /// The steps between output positions; empty for ones.
        strides: Vec<i64> = vec![],
    }

    /// ONNX `MatMulInteger` (opset 10): a matrix product of bytes with its 32-bit sums as the result (they wrap).
    ///
    /// Inputs: `a`, `b` as in [`MatMul`](super::MatMul), u8 or s8; optional `a_zero_point` (scalar, or one a row), optional `b_zero_point` (scalar, or one a column). Output: i32.
    "" "MatMulInteger" inputs(2..=4)
    pub struct MatMulInteger {}
}

/// The multiplier of a requantization, checked.
///
/// # Errors
/// When it is zero, infinite or not a number, as extreme scales make it.
pub(crate) fn checked_multiplier(input: f32, weight: f32, output: f32) -> Result<f32, OpError> {
    let multiplier = requantize::multiplier(input, weight, output);
    if multiplier.is_finite() && multiplier > 0.0 {
        Ok(multiplier)
    } else {
        bail!("the scales {input:?}, {weight:?} and {output:?} give the multiplier {multiplier:?}")
    }
}

/// An exact integer sum in the 32 bits that it wraps to.
fn wrapped(sum: f64) -> i32 {
    sum as i64 as i32
}

/// An operand of bytes with its parameters.
struct Operand {
    values: Vec<i32>,
    params: Vec<QParams>,
}

impl Operand {
    /// The operand at `index` with its scale and zero point at the two inputs that follow.
    fn read(inputs: Inputs<'_>, index: usize) -> Result<Self, OpError> {
        let (values, dtype) = quantized_bytes(inputs.required(index)?, index)?;
        let params = read_params(inputs, index + 1, Some(dtype))?.0;
        Ok(Self { values, params })
    }
}

/// The scale and zero point at inputs `index` and `index + 1`, and the type of the zero point, which must be `dtype` when that is given.
fn read_params(
    inputs: Inputs<'_>,
    index: usize,
    dtype: Option<QuantType>,
) -> Result<(Vec<QParams>, QuantType), OpError> {
    let scales = reals(inputs.required(index)?, index)?;
    let zero_point = inputs.required(index + 1)?;
    let (zero_points, found) = quantized_bytes(zero_point, index + 1)?;
    if let Some(dtype) = dtype {
        expect_type(zero_point, index + 1, super::real::dtype_of(dtype))?;
    }
    // One zero point may apply to all channels.
    let zero_points = match zero_points[..] {
        [zero_point] => vec![zero_point; scales.len()],
        _ => zero_points,
    };
    Ok((checked_params(&scales, Some(&zero_points), found)?, found))
}

/// The parameters of a quantized result at inputs 6 and 7.
fn result_params(inputs: Inputs<'_>) -> Result<(QParams, QuantType), OpError> {
    match read_params(inputs, 6, None)? {
        (params, dtype) if params.len() == 1 => Ok((params[0], dtype)),
        _ => bail!("a result has one scale and zero point"),
    }
}

/// A number for each of `count` rows, columns or channels; a single one applies to all.
fn spread<T: Copy>(values: &[T], count: usize, what: &str) -> Result<Vec<T>, OpError> {
    match values {
        [one] => Ok(vec![*one; count]),
        _ if values.len() == count => Ok(values.to_vec()),
        _ => bail!("{} {what} for {count}", values.len()),
    }
}

/// `values` minus a zero point for each block of `block` elements, the zero points repeating.
fn centered(values: &[i32], zero_points: &[i32], block: usize) -> Vec<f64> {
    let blocks = values.chunks(block.max(1)).zip(zero_points.iter().cycle());
    blocks
        .flat_map(|(block, zero)| block.iter().map(move |value| f64::from(value - zero)))
        .collect()
}

conv_shape!(QLinearConv);

impl Operator for QLinearConv {
    fn evaluate(&self, inputs: Inputs<'_>, _outputs: usize) -> Result<Vec<Tensor>, OpError> {
        let (x, w) = (Operand::read(inputs, 0)?, Operand::read(inputs, 3)?);
        let (y_params, y_dtype) = result_params(inputs)?;
        let [x_params] = x.params[..] else {
            bail!("the input of a convolution has one scale and zero point");
        };
        let (x_shape, w_shape) = (inputs.required(0)?.shape(), inputs.required(3)?.shape());
        let loops = self
            .shape()
            .loops(x_shape, w_shape, inputs.optional(8).map(Tensor::shape))?;
        if loops.shape.contains(&0) {
            return Ok(vec![quantized_tensor(y_dtype, &loops.shape, [])?]);
        }
        let w_params = spread(&w.params, w_shape[0], "weight scales")?;
        let multipliers: Vec<_> = w_params
            .iter()
            .map(|w| checked_multiplier(x_params.scale, w.scale, y_params.scale))
            .collect::<Result<_, _>>()?;
        let bias = match inputs.optional(8) {
            None => vec![0; w_shape[0]],
            Some(_) => inputs.values::<i32>(8)?.to_vec(),
        };
        let x = centered(&x.values, &[x_params.zero_point], x.values.len());
        let zero_points: Vec<_> = w_params.iter().map(|params| params.zero_point).collect();
        let w = centered(&w.values, &zero_points, w_shape[1..].iter().product());
        let (lo, hi) = (y_dtype.min(), y_dtype.max());
        let mut y = Vec::with_capacity(loops.shape.iter().product());
        loops.run(&x, &w, |_, channel, sums| {
            for sum in sums {
                let acc = accumulator(sum + f64::from(bias[channel]))?;
                let zero = y_params.zero_point;
                y.push(requantize::requantize(
                    acc,
                    multipliers[channel],
                    zero,
                    lo,
                    hi,
                ));
            }
            Ok(())
        })?;
        Ok(vec![quantized_tensor(y_dtype, &loops.shape, y)?])
    }
}

/// `values` minus `zero_points`, which repeat along the columns.
fn centered_columns(values: &[i32], zero_points: &[i32]) -> Vec<f64> {
    let pairs = values.iter().zip(zero_points.iter().cycle());
    pairs.map(|(value, zero)| f64::from(value - zero)).collect()
}

impl Operator for QLinearMatMul {
    fn evaluate(&self, inputs: Inputs<'_>, _outputs: usize) -> Result<Vec<Tensor>, OpError> {
        let (a, b) = (Operand::read(inputs, 0)?, Operand::read(inputs, 3)?);
        let (y_params, y_dtype) = result_params(inputs)?;
        let product = MatMulShape::new(inputs.required(0)?.shape(), inputs.required(3)?.shape())?;
        if product.shape.contains(&0) {
            return Ok(vec![quantized_tensor(y_dtype, &product.shape, [])?]);
        }
        let a_params = spread(&a.params, product.m, "row scales")?;
        let b_params = spread(&b.params, product.n, "column scales")?;
        let zero_points =
            |params: &[QParams]| params.iter().map(|p| p.zero_point).collect::<Vec<_>>();
        let a_values = centered(&a.values, &zero_points(&a_params), product.k);
        let b_values = centered_columns(&b.values, &zero_points(&b_params));
        let (lo, hi) = (y_dtype.min(), y_dtype.max());
        let mut y = Vec::with_capacity(product.shape.iter().product());
        for (i, &sum) in product.run(&a_values, &b_values).iter().enumerate() {
            let (row, column) = (i / product.n % product.m, i % product.n);
            let multiplier =
                checked_multiplier(a_params[row].scale, b_params[column].scale, y_params.scale)?;
            let acc = accumulator(sum)?;
            y.push(requantize::requantize(
                acc,
                multiplier,
                y_params.zero_point,
                lo,
                hi,
            ));
        }
        Ok(vec![quantized_tensor(y_dtype, &product.shape, y)?])
    }
}

conv_shape!(ConvInteger);

/// The zero points at an optional input, which has the type of `of`; `[0]` when absent.
fn zero_points(inputs: Inputs<'_>, index: usize, of: &Tensor) -> Result<Vec<i32>, OpError> {
    match inputs.optional(index) {
        None => Ok(vec![0]),
        Some(tensor) => {
            expect_type(tensor, index, of.dtype())?;
            Ok(quantized_bytes(tensor, index)?.0)
        }
    }
}

impl Operator for ConvInteger {
    fn evaluate(&self, inputs: Inputs<'_>, _outputs: usize) -> Result<Vec<Tensor>, OpError> {
        let (x, w) = (inputs.required(0)?, inputs.required(1)?);
        let (x_bytes, w_bytes) = (quantized_bytes(x, 0)?.0, quantized_bytes(w, 1)?.0);
        let loops = self.shape().loops(x.shape(), w.shape(), None)?;
        if loops.shape.contains(&0) {
            return Ok(vec![Tensor::zeros(DType::I32, loops.shape)?]);
        }
        let x_zero = spread(&zero_points(inputs, 2, x)?, 1, "zero points of the input")?;
        let w_zero = spread(
            &zero_points(inputs, 3, w)?,
            w.shape()[0],
            "zero points of the weights",
        )?;
        let x = centered(&x_bytes, &x_zero, x.len());
        let w = centered(&w_bytes, &w_zero, w.shape()[1..].iter().product());
        let mut y = Vec::with_capacity(loops.shape.iter().product());
        loops.run(&x, &w, |_, _, sums| {
            y.extend(sums.iter().copied().map(wrapped));
            Ok(())
        })?;
        Ok(vec![Tensor::new(loops.shape, y)?])
    }
}

impl Operator for MatMulInteger {
    fn evaluate(&self, inputs: Inputs<'_>, _outputs: usize) -> Result<Vec<Tensor>, OpError> {
        let (a, b) = (inputs.required(0)?, inputs.required(1)?);
        let (a_bytes, b_bytes) = (quantized_bytes(a, 0)?.0, quantized_bytes(b, 1)?.0);
        let product = MatMulShape::new(a.shape(), b.shape())?;
        if product.shape.contains(&0) {
            return Ok(vec![Tensor::zeros(DType::I32, product.shape)?]);
        }
        let a_zero = spread(
            &zero_points(inputs, 2, a)?,
            product.m,
            "zero points of rows",
        )?;
        let b_zero = spread(
            &zero_points(inputs, 3, b)?,
            product.n,
            "zero points of columns",
        )?;
        let a = centered(&a_bytes, &a_zero, product.k);
        let b = centered_columns(&b_bytes, &b_zero);
        let y = product.run(&a, &b).into_iter().map(wrapped).collect();
        Ok(vec![Tensor::new(product.shape.iter().copied(), y)?])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(op: &impl Operator, inputs: &[&Tensor]) -> Result<Tensor, OpError> {
        let inputs: Vec<_> = inputs.iter().copied().map(Some).collect();
        Ok(op.evaluate(Inputs(&inputs), 1)?.remove(0))
    }

    #[test]
    fn products_have_zero_points_for_rows_and_columns() {
        let a = Tensor::new([2, 2], vec![10_u8, 20, 30, 40]).unwrap();
        let b = Tensor::new([2, 2], vec![1_i8, 2, 3, 4]).unwrap();
        let (rows, columns) = (
            Tensor::vector(vec![10_u8, 30]),
            Tensor::vector(vec![1_i8, 0]),
        );
        let y = run(&MatMulInteger {}, &[&a, &b, &rows, &columns]).unwrap();
        assert_eq!(y.values::<i32>().unwrap(), [20, 40, 20, 40]);
        assert!(run(&MatMulInteger {}, &[&a, &b, &columns]).is_err());
        assert!(run(&MatMulInteger {}, &[&a, &b, &Tensor::vector(vec![1_u8; 3])]).is_err());

        let scale = |scale: f32| Tensor::scalar(scale);
        let b_scales = Tensor::vector(vec![0.5_f32, 0.25]);
        let y_zero = Tensor::scalar(100_u8);
        let inputs = [
            &a,
            &scale(0.5),
            &rows,
            &b,
            &b_scales,
            &columns,
            &scale(2.0),
            &y_zero,
        ];
        // One scale of `a` for two zero points: both rows have it.
        let y = run(&QLinearMatMul {}, &inputs);
        assert!(y.is_err());
        let a_scales = Tensor::vector(vec![0.5_f32, 1.0]);
        let inputs = [
            &a,
            &a_scales,
            &rows,
            &b,
            &b_scales,
            &columns,
            &scale(2.0),
            &y_zero,
        ];
        let y = run(&QLinearMatMul {}, &inputs).unwrap();
        assert_eq!(y.values::<u8>().unwrap(), [102, 102, 105, 105]);
        let tiny = scale(1e-38);
        let inputs = [
            &a,
            &tiny,
            &y_zero,
            &b,
            &tiny,
            &Tensor::scalar(0_i8),
            &scale(1.0),
            &y_zero,
        ];
        assert!(run(&QLinearMatMul {}, &inputs).is_err());
    }
}
