//! Types of activation functions: that of the input.

use octofold_ops::OpError;
use octofold_ops::families::{
    Celu, Clip, Elu, Erf, Gelu, HardSigmoid, HardSwish, LeakyRelu, Mish, PRelu, Relu, Selu,
    Sigmoid, Softplus, Softsign, Swish, Tanh, ThresholdedRelu,
};
use octofold_tensor::{DType, Dim};

use super::helpers::{broadcast, differ, dims, expect, float, input, one, optional_dims, typed};
use super::{Context, Inferred, Known};

fn is_number(dtype: DType) -> bool {
    dtype.is_float() || dtype.is_integer()
}

fn same(x: Known<'_>) -> Vec<Inferred> {
    one(x.ty.dtype, x.ty.shape.clone())
}

/// Defines the inference of functions of one float input.
macro_rules! functions {
    ($($name:ident $type:ident,)*) => {$(
        pub(super) fn $name(_op: &$type, cx: &mut Context<'_>) -> Result<Vec<Inferred>, OpError> {
            Ok(same(float(cx, 0)?))
        }
    )*};
}

functions! {
    leaky_relu LeakyRelu,
    sigmoid Sigmoid,
    hard_sigmoid HardSigmoid,
    hard_swish HardSwish,
    tanh Tanh,
    erf Erf,
    gelu Gelu,
    elu Elu,
    selu Selu,
    celu Celu,
    softplus Softplus,
    softsign Softsign,
    mish Mish,
    swish Swish,
    thresholded_relu ThresholdedRelu,
}

pub(super) fn relu(_op: &Relu, cx: &mut Context<'_>) -> Result<Vec<Inferred>, OpError> {
    Ok(same(input(cx, 0, is_number, "float or signed integer")?))
}

pub(super) fn prelu(_op: &PRelu, cx: &mut Context<'_>) -> Result<Vec<Inferred>, OpError> {
    let x = input(cx, 0, is_number, "float or integer")?;
    cx.required(1)?;
    expect(cx, 1, x.ty.dtype)?;
    if let (Some(x), Some(slope)) = (dims(x), optional_dims(cx, 1)) {
        let out = broadcast(x, slope)?;
        if out.len() > x.len() || out.iter().zip(x).any(|(a, b)| differ(a, b)) {
            return Err(OpError::invalid(
                "the slope does not broadcast to the input",
            ));
        }
    }
    Ok(same(x))
}

pub(super) fn clip(_op: &Clip, cx: &mut Context<'_>) -> Result<Vec<Inferred>, OpError> {
    let x = input(cx, 0, is_number, "a number type")?;
    for index in 1..3 {
        expect(cx, index, x.ty.dtype)?;
        let one = |dims: &[Dim]| dims.iter().all(|dim| !differ(dim, &Dim::Known(1)));
        if !optional_dims(cx, index).is_none_or(one) {
            return Err(OpError::invalid(format!("input {index} is no scalar")));
        }
    }
    // Bounds move no scale. Contents of integers are clipped where the bounds are known.
    let bound = |index: usize| match cx.optional(index) {
        None => Some(None),
        Some(known) => match known.contents {
            Some([bound]) => Some(Some(bound.clone())),
            _ => None,
        },
    };
    let contents = match (x.contents, bound(1), bound(2)) {
        (Some(contents), Some(min), Some(max)) => {
            let clip = |dim: &Dim| {
                let dim = min
                    .iter()
                    .fold(dim.clone(), |dim, min| dim.max(min.clone()));
                max.iter().fold(dim, |dim, max| dim.min(max.clone()))
            };
            Some(contents.iter().map(clip).collect())
        }
        _ => None,
    };
    let ty = typed(x.ty.dtype, x.ty.shape.clone()).with_quantization(x.ty.quantization.clone());
    Ok(vec![Inferred { ty, contents }])
}
