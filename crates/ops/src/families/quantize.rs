//! Conversion between real numbers and quantized integers.
//!
//! The arithmetic is that of [`octofold_quant::affine`]. [`ScaleGrid`] says which scale each element has.

use octofold_quant::choose::dynamic_params;
use octofold_quant::{QParams, QuantParams, QuantType, affine};
use octofold_tensor::{DType, Dim, Tensor, TensorData};

use super::real::{dtype_of, quant_type_of, quantized, quantized_tensor, real_tensor, reals};
use super::support::{expect_type, normalize_axis, wrong_type};
use crate::{Inputs, OpError, Operator, attributes, bail};

attributes! {
    /// ONNX `QuantizeLinear` (opset 23): `saturate(round_half_even(x / scale) + zero_point)`.
    ///
    /// Inputs: `x` (float), `scale`, optional `zero_point` of the shape of `scale`. The scale is one number, or has one for each index of `axis`, or
    /// (with `block_size`) the shape of `x` with `axis` divided by the block size, rounded up. Output: the shape of `x`, the type of `zero_point`: 4, 8 or 16 bits; u8 without.
    "" "QuantizeLinear" inputs(2..=3)
    pub struct QuantizeLinear {
        /// The axis of scales along one axis; negative counts from the end.
        axis: i64 = 1,
        /// The number of elements along `axis` that share a scale; 0 without blocks.
        block_size: i64 = 0,
        /// The type of the result as a number of `TensorProto.DataType`; 0 takes that of `zero_point`.
        output_dtype: i32 = 0,
        /// The type of the division as a number of `TensorProto.DataType`; only 0 and f32 are known.
        precision: i32 = 0,
        /// How 8-bit floats overflow; of no effect on integers.
        saturate: bool = true,
    }

    /// ONNX `DequantizeLinear` (opset 23): `(x - zero_point)·scale`.
    ///
    /// Inputs: `x` (integer of 4, 8, 16 or 32 bits), `scale`, optional `zero_point` (type of `x`, shape of `scale`); scales as in [`QuantizeLinear`].
    /// Output: the shape of `x`, the type of `scale`.
    "" "DequantizeLinear" inputs(2..=3)
    pub struct DequantizeLinear {
        /// The axis of scales along one axis; negative counts from the end.
        axis: i64 = 1,
        /// The number of elements along `axis` that share a scale; 0 without blocks.
        block_size: i64 = 0,
        /// The type of the result as a number of `TensorProto.DataType`; 0 takes that of `scale`.
        output_dtype: i32 = 0,
    }

    /// ONNX `DynamicQuantizeLinear` (opset 11): quantization to u8 with parameters from the range of the input.
    ///
    /// Input: `x` (f32). Outputs: `y` (u8, the shape of `x`), `y_scale` (f32 scalar), `y_zero_point` (u8 scalar).
    "" "DynamicQuantizeLinear" inputs(1..=1) outputs(1..=3)
    pub struct DynamicQuantizeLinear {}
}

/// Which elements of a tensor share a scale.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ScaleGrid {
    /// All.
    Tensor,
    /// Those with the same index along an axis.
    Channels {
        /// The axis, from 0.
        axis: usize,
    },
    /// Those in the same block of an axis that have the same indices along all other axes.
    Blocks {
        /// The axis, from 0.
        axis: usize,
        /// The number of elements of a block.
        size: usize,
    },
}

impl ScaleGrid {
    /// How scales of shape `scale` apply to elements of shape `x`, as `QuantizeLinear` and `DequantizeLinear` define it.
    ///
    /// # Errors
    /// When the shapes, the axis and the block size do not fit each other.
    pub fn new(x: &[Dim], scale: &[Dim], axis: i64, block_size: i64) -> Result<Self, OpError> {
        let shapes = || {
            let list = |dims: &[Dim]| {
                dims.iter()
                    .map(Dim::to_string)
                    .collect::<Vec<_>>()
                    .join(", ")
            };
            format!(
                "scales of shape [{}] do not fit elements of shape [{}]",
                list(scale),
                list(x)
            )
        };
        let differ =
            |a: &Dim, b: &Dim| matches!((a.known(), b.known()), (Some(a), Some(b)) if a != b);
        let size = usize::try_from(block_size)
            .map_err(|_| OpError::attribute("block_size", format!("{block_size} is negative")))?;
        let one = |dims: &[Dim]| dims.iter().all(|dim| dim.known() == Some(1));
        if size > 0 {
            let axis = normalize_axis(axis, x.len())?;
            let blocks = x[axis].clone().ceil_div(size);
            let fits = x.len() == scale.len()
                && x.iter().zip(scale).enumerate().all(|(i, (dim, scales))| {
                    !differ(if i == axis { &blocks } else { dim }, scales)
                });
            return if fits {
                Ok(Self::Blocks { axis, size })
            } else {
                Err(OpError::invalid(shapes()))
            };
        }
        match scale {
            _ if scale.len() <= 1 && one(scale) => Ok(Self::Tensor),
            // Where the number of scales is not known yet and there is no axis for them, there can be only one scale.
            [count] if normalize_axis(axis, x.len()).is_err() && count.known().is_none() => {
                Ok(Self::Tensor)
            }
            [count] => {
                let axis = normalize_axis(axis, x.len())?;
                if differ(count, &x[axis]) {
                    return Err(OpError::invalid(shapes()));
                }
                Ok(Self::Channels { axis })
            }
            _ => Err(OpError::invalid(shapes())),
        }
    }

    /// Passes the flat index of each element of shape `x`, row-major, and that of its scale to `visit`.
    fn for_each(self, x: &[usize], mut visit: impl FnMut(usize, usize)) {
        if x.contains(&0) {
            return;
        }
        let (axis, block) = match self {
            Self::Tensor => {
                (0..x.iter().product()).for_each(|element| visit(element, 0));
                return;
            }
            Self::Channels { axis } => (axis, None),
            Self::Blocks { axis, size } => (axis, Some(size)),
        };
        let inner: usize = x[axis + 1..].iter().product();
        let outer: usize = x[..axis].iter().product();
        let mut element = 0;
        for o in 0..outer {
            for a in 0..x[axis] {
                for i in 0..inner {
                    let scale = match block {
                        None => a,
                        Some(size) => (o * x[axis].div_ceil(size) + a / size) * inner + i,
                    };
                    visit(element, scale);
                    element += 1;
                }
            }
        }
    }
}

/// The checked parameters of scales (f32) and zero points (of `dtype`; zeros when absent), one pair a scale.
///
/// # Errors
/// When the types or lengths do not fit, a scale is no positive normal number, or a zero point is out of range.
pub(crate) fn checked_params(
    scales: &[f64],
    zero_points: Option<&[i32]>,
    dtype: QuantType,
) -> Result<Vec<QParams>, OpError> {
    let scales: Vec<_> = scales.iter().map(|&scale| scale as f32).collect();
    let zeros = vec![0; scales.len()];
    if scales.is_empty() {
        return Ok(Vec::new());
    }
    if let [scale] = scales[..] {
        let [zero_point] = *zero_points.unwrap_or(&zeros) else {
            bail!("one scale has not one zero point");
        };
        return Ok(vec![QParams::new(scale, zero_point, dtype)?]);
    }
    match QuantParams::per_channel(0, &scales, zero_points.unwrap_or(&zeros), dtype)? {
        QuantParams::PerTensor(params) => Ok(vec![params]),
        QuantParams::PerChannel { channels, .. } => Ok(channels),
    }
}

/// The checked parameters of a tensor of scales (float) and one of zero points (of `dtype`), one pair a scale.
///
/// # Errors
/// When the types or lengths do not fit, a scale is no positive normal number, or a zero point is out of range.
pub fn constant_params(
    scale: &Tensor,
    zero_point: Option<&Tensor>,
    dtype: QuantType,
) -> Result<Vec<QParams>, OpError> {
    let zero_points = match zero_point {
        None => None,
        Some(tensor) => {
            expect_type(tensor, 2, dtype_of(dtype))?;
            if tensor.len() != scale.len() {
                let (scales, zero_points) = (scale.len(), tensor.len());
                bail!("{scales} scales and {zero_points} zero points");
            }
            Some(quantized(tensor, 2)?.0)
        }
    };
    checked_params(&reals(scale, 1)?, zero_points.as_deref(), dtype)
}

/// The parameters at inputs 1 and 2, and how they apply to input 0.
fn params_of(
    inputs: Inputs<'_>,
    axis: i64,
    block_size: i64,
    dtype: QuantType,
) -> Result<(Vec<QParams>, ScaleGrid), OpError> {
    let (x, scale) = (inputs.required(0)?, inputs.required(1)?);
    let dims = |tensor: &Tensor| {
        tensor
            .shape()
            .iter()
            .map(|&d| d.into())
            .collect::<Vec<Dim>>()
    };
    let grid = ScaleGrid::new(&dims(x), &dims(scale), axis, block_size)?;
    Ok((constant_params(scale, inputs.optional(2), dtype)?, grid))
}

/// The element type that an attribute names by its number; `None` for 0.
fn type_attribute(name: &str, code: i32) -> Result<Option<DType>, OpError> {
    if code == 0 {
        return Ok(None);
    }
    let dtype = DType::from_onnx(code);
    dtype
        .map(Some)
        .ok_or_else(|| OpError::attribute(name, format!("{code} is no supported element type")))
}

impl QuantizeLinear {
    /// The type of the result, given that of the zero point.
    ///
    /// # Errors
    /// When `output_dtype` contradicts the zero point, or the type is none of 4, 8 or 16 bits; or another `precision` than f32 is asked for.
    pub fn result_type(&self, zero_point: Option<DType>) -> Result<QuantType, OpError> {
        let asked = type_attribute("output_dtype", self.output_dtype)?;
        if !matches!(
            type_attribute("precision", self.precision)?,
            None | Some(DType::F32)
        ) {
            return Err(OpError::Unsupported(
                "quantization with another precision than float".to_owned(),
            ));
        }
        let dtype = match (asked, zero_point) {
            (Some(asked), Some(found)) if asked != found => {
                let reason = format!("{asked} is not the type {found} of the zero point");
                return Err(OpError::attribute("output_dtype", reason));
            }
            (asked, found) => found.or(asked).unwrap_or(DType::U8),
        };
        match quant_type_of(dtype) {
            Some(quant) if quant != QuantType::Int32 => Ok(quant),
            _ => bail!("{dtype} is no type of quantized results"),
        }
    }
}

impl Operator for QuantizeLinear {
    fn evaluate(&self, inputs: Inputs<'_>, _outputs: usize) -> Result<Vec<Tensor>, OpError> {
        let x = inputs.required(0)?;
        let dtype = self.result_type(inputs.optional(2).map(Tensor::dtype))?;
        let (params, grid) = params_of(inputs, self.axis, self.block_size, dtype)?;
        let values: Vec<f32> = match x.data() {
            TensorData::F32(values) => values.to_vec(),
            TensorData::I32(values) => values.iter().map(|&v| v as f32).collect(),
            _ => reals(x, 0)?.into_iter().map(|v| v as f32).collect(),
        };
        let mut y = vec![0; values.len()];
        grid.for_each(x.shape(), |i, scale| {
            y[i] = affine::quantize_to(values[i], params[scale], dtype);
        });
        Ok(vec![quantized_tensor(dtype, x.shape(), y)?])
    }
}

impl DequantizeLinear {
    /// The type of the result, given that of the scale.
    ///
    /// # Errors
    /// When it is no float type.
    pub fn result_type(&self, scale: DType) -> Result<DType, OpError> {
        match type_attribute("output_dtype", self.output_dtype)?.unwrap_or(scale) {
            dtype if dtype.is_float() => Ok(dtype),
            dtype => bail!("{dtype} is no float type"),
        }
    }
}

impl Operator for DequantizeLinear {
    fn evaluate(&self, inputs: Inputs<'_>, _outputs: usize) -> Result<Vec<Tensor>, OpError> {
        let (x, scale) = (inputs.required(0)?, inputs.required(1)?);
        let (values, dtype) = quantized(x, 0)?;
        let result = self.result_type(scale.dtype())?;
        let (params, grid) = params_of(inputs, self.axis, self.block_size, dtype)?;
        let mut y = vec![0.0; values.len()];
        grid.for_each(x.shape(), |i, scale| {
            y[i] = affine::dequantize(values[i], params[scale]).into();
        });
        Ok(vec![real_tensor(result, x.shape(), y)?])
    }
}

impl Operator for DynamicQuantizeLinear {
    fn evaluate(&self, inputs: Inputs<'_>, _outputs: usize) -> Result<Vec<Tensor>, OpError> {
        let x = inputs.required(0)?;
        let TensorData::F32(values) = x.data() else {
            return Err(wrong_type(x, 0, "float"));
        };
        if values.iter().any(|value| !value.is_finite()) {
            bail!("a value to quantize is infinite or not a number");
        }
        let (min, max) = values
            .iter()
            .fold((0.0_f32, 0.0_f32), |(lo, hi), &v| (lo.min(v), hi.max(v)));
        let params = dynamic_params(min, max)?;
        let y = values
            .iter()
            .map(|&value| affine::quantize_to(value, params, QuantType::Uint8));
        Ok(vec![
            quantized_tensor(QuantType::Uint8, x.shape(), y)?,
            Tensor::scalar(params.scale),
            Tensor::scalar(params.zero_point as u8),
        ])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(op: &impl Operator, inputs: &[&Tensor], outputs: usize) -> Result<Vec<Tensor>, OpError> {
        let inputs: Vec<_> = inputs.iter().copied().map(Some).collect();
        op.evaluate(Inputs(&inputs), outputs)
    }

    fn quantize(axis: i64, block_size: i64) -> QuantizeLinear {
        QuantizeLinear {
            axis,
            block_size,
            output_dtype: 0,
            precision: 0,
            saturate: true,
        }
    }

    fn dequantize(axis: i64, block_size: i64) -> DequantizeLinear {
        DequantizeLinear {
            axis,
            block_size,
            output_dtype: 0,
        }
    }

    #[test]
    fn scales_apply_to_all_to_channels_or_to_blocks() {
        let x = Tensor::new([2, 3], vec![-1.0_f32, 0.5, 7.0, 2.5, 1000.0, -1000.0]).unwrap();
        let one = Tensor::scalar(0.5_f32);
        let y = &run(&quantize(1, 0), &[&x, &one], 1).unwrap()[0];
        assert_eq!(y.values::<u8>().unwrap(), [0, 1, 14, 5, 255, 0]);
        let (scales, zeros) = (
            Tensor::vector(vec![1.0_f32, 2.0]),
            Tensor::vector(vec![0_i8, 3]),
        );
        let y = &run(&quantize(-2, 0), &[&x, &scales, &zeros], 1).unwrap()[0];
        assert_eq!(y.values::<i8>().unwrap(), [-1, 0, 7, 4, 127, -128]);
        let back = &run(&dequantize(0, 0), &[y, &scales, &zeros], 1).unwrap()[0];
        assert_eq!(
            back.values::<f32>().unwrap(),
            [-1.0, 0.0, 7.0, 2.0, 248.0, -262.0]
        );
        let blocks = Tensor::new([2, 2], vec![1.0_f32, 2.0, 10.0, 100.0]).unwrap();
        let zeros = Tensor::new([2, 2], vec![0_i16; 4]).unwrap();
        let y = &run(&quantize(1, 2), &[&x, &blocks, &zeros], 1).unwrap()[0];
        assert_eq!(y.values::<i16>().unwrap(), [-1, 0, 4, 0, 100, -10]);
        let back = &run(&dequantize(1, 2), &[y, &blocks], 1).unwrap()[0];
        assert_eq!(
            back.values::<f32>().unwrap(),
            [-1.0, 0.0, 8.0, 0.0, 1000.0, -1000.0]
        );
    }

    #[test]
    fn parameters_that_mean_nothing_are_refused() {
        let x = Tensor::new([2, 3], vec![0.0_f32; 6]).unwrap();
        for scale in [0.0, -1.0, f32::NAN, f32::INFINITY, 1e-40] {
            assert!(run(&quantize(1, 0), &[&x, &Tensor::scalar(scale)], 1).is_err());
            let scales = Tensor::vector(vec![1.0, scale, 1.0]);
            assert!(run(&quantize(1, 0), &[&x, &scales], 1).is_err());
        }
        let three = Tensor::vector(vec![1.0_f32; 3]);
        assert!(run(&quantize(1, 0), &[&x, &three], 1).is_ok());
        for (axis, block) in [(0, 0), (2, 0), (-3, 0), (1, -1), (1, 2), (i64::MIN, 1)] {
            assert!(
                run(&quantize(axis, block), &[&x, &three], 1).is_err(),
                "{axis} {block}"
            );
        }
        let two = Tensor::vector(vec![0_u8; 2]);
        assert!(run(&quantize(1, 0), &[&x, &three, &two], 1).is_err());
        let float = Tensor::vector(vec![0.0_f32; 3]);
        assert!(run(&quantize(1, 0), &[&x, &three, &float], 1).is_err());
        assert!(run(&dequantize(1, 0), &[&x, &three], 1).is_err());
        let op = QuantizeLinear {
            output_dtype: DType::I8.onnx(),
            ..quantize(1, 0)
        };
        let zeros = Tensor::vector(vec![0_u8; 3]);
        assert!(run(&op, &[&x, &three, &zeros], 1).is_err());
        assert_eq!(run(&op, &[&x, &three], 1).unwrap()[0].dtype(), DType::I8);
    }

    #[test]
    fn dynamic_parameters_cover_the_range_and_zero() {
        let x = Tensor::vector(vec![1.0_f32, 2.0, 5.1]);
        let out = run(&DynamicQuantizeLinear {}, &[&x], 3).unwrap();
        assert_eq!(out[0].values::<u8>().unwrap(), [50, 100, 255]);
        assert_eq!(out[1].values::<f32>().unwrap(), [5.1_f32 / 255.0]);
        assert_eq!(out[2].values::<u8>().unwrap(), [0]);
        let zeros = run(
            &DynamicQuantizeLinear {},
            &[&Tensor::vector(vec![0.0_f32; 2])],
            3,
        )
        .unwrap();
        assert_eq!(zeros[1].values::<f32>().unwrap(), [1.0]);
        for bad in [f32::NAN, f32::INFINITY] {
            assert!(run(&DynamicQuantizeLinear {}, &[&Tensor::vector(vec![bad])], 3).is_err());
        }
        let wide = Tensor::vector(vec![f32::MAX, f32::MIN]);
        assert!(run(&DynamicQuantizeLinear {}, &[&wide], 3).is_err());
        assert!(dynamic_params(-1.0, 2.0).is_ok_and(|p| p.zero_point == 85));
    }
}
