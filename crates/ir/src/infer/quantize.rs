//! Types of quantization and dequantization, and the parameters that constant scales and zero points give.

use std::sync::Arc;

use octofold_ops::families::real::{dtype_of, quant_type_of};
use octofold_ops::families::{
    DequantizeLinear, DynamicQuantizeLinear, QuantizeLinear, ScaleGrid, constant_params,
};
use octofold_ops::{OpError, bail, bail_attribute};
use octofold_quant::{QuantParams, QuantType};
use octofold_tensor::DType;

use super::helpers::{dims, expect, float, input, one, optional_dims, typed};
use super::{Context, Types};

/// The parameters at inputs `scale` and `scale + 1` of elements of type `dtype`, when they are constant.
/// Without a grid, which takes known ranks, only a single pair is known to apply.
///
/// # Errors
/// When they are constant and no quantized value can have them.
pub(super) fn known_params(
    cx: &Context<'_>,
    scale: usize,
    dtype: QuantType,
    grid: Option<ScaleGrid>,
) -> Result<Option<Arc<QuantParams>>, OpError> {
    expect(cx, scale + 1, dtype_of(dtype))?;
    let Some(scales) = cx.required(scale)?.constant else {
        return Ok(None);
    };
    let zero_points = match cx.optional(scale + 1) {
        None => None,
        Some(known) => match known.constant {
            None => return Ok(None),
            some => some,
        },
    };
    let params = constant_params(scales, zero_points, dtype)?;
    Ok(match (grid, &params[..]) {
        (None | Some(ScaleGrid::Tensor), [params]) => {
            Some(Arc::new(QuantParams::PerTensor(*params)))
        }
        (Some(ScaleGrid::Channels { axis }), _) => Some(Arc::new(QuantParams::PerChannel {
            axis,
            channels: params,
        })),
        _ => None,
    })
}

/// How the scales at input 1 apply to input 0, when both ranks are known.
fn grid(cx: &Context<'_>, axis: i64, block_size: i64) -> Result<Option<ScaleGrid>, OpError> {
    if block_size < 0 {
        bail_attribute!("block_size", "{block_size} is negative");
    }
    match (optional_dims(cx, 0), optional_dims(cx, 1)) {
        (Some(x), Some(scale)) => ScaleGrid::new(x, scale, axis, block_size).map(Some),
        _ => Ok(None),
    }
}

/// Checks that scales and zero points have the same number of axes and sizes.
fn check_lengths(cx: &Context<'_>) -> Result<(), OpError> {
    let count = |index| {
        let sizes = cx.optional(index)?.ty.known_shape()?;
        sizes
            .iter()
            .try_fold(1_usize, |product, &size| product.checked_mul(size))
    };
    match (count(1), count(2)) {
        (Some(scales), Some(zero_points)) if scales != zero_points => {
            bail!("{scales} scales and {zero_points} zero points")
        }
        _ => Ok(()),
    }
}

pub(super) fn quantize_linear(op: &QuantizeLinear, cx: &mut Context<'_>) -> Types {
    let accepts = |dtype: DType| dtype.is_float() || dtype == DType::I32;
    let x = input(cx, 0, accepts, "float or int32")?;
    float(cx, 1)?;
    let dtype = op.result_type(cx.optional(2).map(|zero_point| zero_point.ty.dtype))?;
    check_lengths(cx)?;
    let grid = grid(cx, op.axis, op.block_size)?;
    let params = known_params(cx, 1, dtype, grid)?;
    let y = typed(dtype_of(dtype), x.ty.shape.clone()).with_quantization(params);
    Ok(vec![y.into()])
}

pub(super) fn dequantize_linear(op: &DequantizeLinear, cx: &mut Context<'_>) -> Types {
    let x = input(
        cx,
        0,
        |dtype| quant_type_of(dtype).is_some(),
        "an integer of at most 32 bits",
    )?;
    let result = op.result_type(float(cx, 1)?.ty.dtype)?;
    check_lengths(cx)?;
    let grid = grid(cx, op.axis, op.block_size)?;
    if let Some(dtype) = quant_type_of(x.ty.dtype) {
        known_params(cx, 1, dtype, grid)?;
    }
    Ok(one(result, x.ty.shape.clone()))
}

pub(super) fn dynamic_quantize_linear(_op: &DynamicQuantizeLinear, cx: &mut Context<'_>) -> Types {
    let x = input(cx, 0, |dtype| dtype == DType::F32, "float")?;
    let shape = dims(x).map(<[_]>::to_vec);
    Ok(vec![
        typed(DType::U8, shape).into(),
        typed(DType::F32, Some(vec![])).into(),
        typed(DType::U8, Some(vec![])).into(),
    ])
}

#[cfg(test)]
mod tests {
    use octofold_ops::Op;
    use octofold_quant::QParams;
    use octofold_tensor::{Dim, Tensor};

    use super::*;
    use crate::TensorType;
    use crate::infer::{Known, infer};

    fn quantize(axis: i64, scale: &Tensor, zero_point: &Tensor) -> Result<TensorType, OpError> {
        let op = QuantizeLinear {
            axis,
            block_size: 0,
            output_dtype: 0,
            precision: 0,
            saturate: true,
        };
        let x = TensorType::new(DType::F32, [Dim::symbol("N"), Dim::Known(3)]);
        let (s, z) = (TensorType::of(scale), TensorType::of(zero_point));
        let known = |ty, constant| {
            Some(Known {
                ty,
                constant,
                contents: None,
            })
        };
        let inputs = [
            known(&x, None),
            known(&s, Some(scale)),
            known(&z, Some(zero_point)),
        ];
        infer(&Op::from(op), &mut Context::new(&inputs, "q"))
            .map(|mut outputs| outputs.remove(0).ty)
    }

    #[test]
    fn constant_parameters_become_part_of_the_type() {
        let y = quantize(1, &Tensor::scalar(0.5_f32), &Tensor::scalar(7_u8)).unwrap();
        assert_eq!((y.dtype, y.rank()), (DType::U8, Some(2)));
        let params = QParams {
            scale: 0.5,
            zero_point: 7,
        };
        assert_eq!(
            y.quantization.as_deref(),
            Some(&QuantParams::PerTensor(params))
        );
        let three = Tensor::vector(vec![0.5_f32, 1.0, 2.0]);
        let y = quantize(-1, &three, &Tensor::vector(vec![0_i8, 1, -1])).unwrap();
        let expected = QuantParams::per_channel(1, &[0.5, 1.0, 2.0], &[0, 1, -1], QuantType::Int8);
        assert_eq!(y.quantization.as_deref(), expected.ok().as_ref());
    }

    #[test]
    fn parameters_that_mean_nothing_are_refused() {
        let zero = Tensor::scalar(0_u8);
        for scale in [0.0_f32, -1.0, f32::NAN, f32::INFINITY] {
            assert!(quantize(1, &Tensor::scalar(scale), &zero).is_err());
        }
        let three = Tensor::vector(vec![0.5_f32; 3]);
        assert!(quantize(2, &three, &Tensor::vector(vec![0_u8; 3])).is_err());
        assert!(quantize(1, &three, &zero).is_err());
        assert!(
            quantize(
                1,
                &Tensor::vector(vec![0.5_f32; 4]),
                &Tensor::vector(vec![0_u8; 4])
            )
            .is_err()
        );
        assert!(quantize(1, &Tensor::scalar(0.5_f32), &Tensor::scalar(0_i32)).is_err());
        assert!(quantize(1, &Tensor::scalar(1_i64), &zero).is_err());
    }
}
