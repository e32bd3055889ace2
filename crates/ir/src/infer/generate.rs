//! Types of tensors made out of sizes and single values.

use octofold_ops::families::{ConstantOfShape, EyeLike, OneHot, Range};
use octofold_ops::{bail, bail_attribute, normalize_axis};
use octofold_tensor::{DType, Dim, TensorData};

use super::contents::List;
use super::elementwise::is_number;
use super::helpers::{dims, expect, input, one, typed};
use super::sizes::is_size;
use super::{Context, Inferred, Known, Types, contents};
use crate::TensorType;

/// The one float of a constant.
fn float(known: Known<'_>) -> Option<f64> {
    match known.constant?.data() {
        TensorData::F32(values) => values.first().map(|&value| value.into()),
        TensorData::F64(values) => values.first().copied(),
        TensorData::F16(values) => values.first().map(|value| value.to_f64()),
        TensorData::BF16(values) => values.first().map(|value| value.to_f64()),
        _ => None,
    }
}

pub(super) fn range(_op: &Range, cx: &mut Context<'_>) -> Types {
    let inputs = [cx.required(0)?, cx.required(1)?, cx.required(2)?];
    let dtype = input(cx, 0, is_number, "a numeric type")?.ty.dtype;
    expect(cx, 1, dtype)?;
    expect(cx, 2, dtype)?;
    if dtype.is_float() {
        let count = match inputs.map(float) {
            [Some(start), Some(limit), Some(delta)] => {
                let count = ((limit - start) / delta).ceil().max(0.0);
                let finite = delta != 0.0 && !(limit - start).is_nan() && count < 1e15;
                finite.then_some(Dim::Known(count as i64))
            }
            _ => None,
        };
        let count = count.unwrap_or_else(|| cx.fresh());
        return Ok(one(dtype, Some(vec![count])));
    }
    let number = |index: usize| match inputs[index].ty.dtype {
        DType::I64 | DType::I32 => contents::scalar(inputs[index], index),
        _ => Ok(None),
    };
    let (Some(start), Some(limit), Some(delta)) = (number(0)?, number(1)?, number(2)?) else {
        let count = cx.fresh();
        return Ok(one(dtype, Some(vec![count])));
    };
    let count = match delta.known() {
        Some(0) => bail!("a range with delta 0"),
        Some(step) if step != i64::MIN => {
            let distance = if step > 0 {
                limit.minus(start.clone())
            } else {
                start.clone().minus(limit)
            };
            let count = distance.ceil_div(step.abs());
            if count.known().is_none() && matches!(count, Dim::Symbol(_)) && is_size(&count) {
                count
            } else {
                count.max(0)
            }
        }
        _ => cx.fresh(),
    };
    let elements = count.known().filter(|&count| count <= contents::MAX as i64);
    let contents = elements.map(|count| {
        (0..count)
            .map(|i| start.clone().plus(delta.clone().times(i)))
            .collect()
    });
    Ok(vec![Inferred {
        ty: typed(dtype, Some(vec![count])),
        contents,
    }])
}

pub(super) fn constant_of_shape(op: &ConstantOfShape, cx: &mut Context<'_>) -> Types {
    let target = cx.required(0)?;
    let dtype = op
        .value
        .as_ref()
        .map_or(DType::F32, octofold_tensor::Tensor::dtype);
    if let Some(value) = op.value.as_ref().filter(|value| value.len() != 1) {
        bail_attribute!("value", "holds {} elements, not one", value.len());
    }
    let shape = match contents::numbers(target, 0)? {
        Some(shape) => Some(shape),
        None => match contents::list(cx, 0)? {
            List::Unknown(Some(count)) if count <= contents::MAX => {
                Some((0..count).map(|_| cx.fresh()).collect())
            }
            _ => None,
        },
    };
    // The central check refuses negative sizes; small known results are made by running the operator.
    Ok(one(dtype, shape))
}

pub(super) fn one_hot(op: &OneHot, cx: &mut Context<'_>) -> Types {
    let indices = input(cx, 0, is_number, "a numeric type")?;
    let depth = input(cx, 1, is_number, "a numeric type")?;
    let values = cx.required(2)?;
    if values.ty.known_shape().is_some_and(|shape| shape != [2]) {
        bail!("values {} are not two", values.ty);
    }
    let size = match depth.ty.dtype {
        DType::I64 | DType::I32 => contents::scalar(depth, 1)?,
        _ => float(depth)
            .filter(|depth| depth.abs() < 1e15)
            .map(|depth| Dim::Known(depth as i64)),
    };
    let size = size.unwrap_or_else(|| cx.fresh());
    let Some(dims) = dims(indices) else {
        return Ok(one(values.ty.dtype, None));
    };
    let mut shape = dims.to_vec();
    shape.insert(normalize_axis(op.axis, dims.len() + 1)?, size);
    Ok(one(values.ty.dtype, Some(shape)))
}

pub(super) fn eye_like(op: &EyeLike, cx: &mut Context<'_>) -> Types {
    let x = cx.required(0)?;
    let dtype = op.dtype.unwrap_or(x.ty.dtype);
    if !is_number(dtype) && dtype != DType::Bool {
        bail_attribute!("dtype", "{dtype} is neither numeric nor bool");
    }
    let shape = match dims(x) {
        None => vec![cx.fresh(), cx.fresh()],
        Some(dims) if dims.len() == 2 => dims.to_vec(),
        Some(_) => {
            bail!("expected a matrix, found {}", x.ty);
        }
    };
    Ok(vec![TensorType::new(dtype, shape).into()])
}
