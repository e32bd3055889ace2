//! Types of activation functions: that of the input.

use octofold_ops::bail;
use octofold_ops::families::{Clip, PRelu};
use octofold_tensor::{DType, Dim};

use super::helpers::{broadcast, differ, dims, expect, input, optional_dims, same, typed};
use super::{Context, Inferred, Types};

fn is_number(dtype: DType) -> bool {
    dtype.is_float() || dtype.is_integer()
}

pub(super) fn relu(cx: &mut Context<'_>) -> Types {
    Ok(same(input(cx, 0, is_number, "float or signed integer")?))
}

pub(super) fn prelu(_op: &PRelu, cx: &mut Context<'_>) -> Types {
    let x = input(cx, 0, is_number, "float or integer")?;
    cx.required(1)?;
    expect(cx, 1, x.ty.dtype)?;
    if let (Some(x), Some(slope)) = (dims(x), optional_dims(cx, 1)) {
        let out = broadcast(x, slope)?;
        if out.len() > x.len() || out.iter().zip(x).any(|(a, b)| differ(a, b)) {
            bail!("the slope does not broadcast to the input");
        }
    }
    Ok(same(x))
}

pub(super) fn clip(_op: &Clip, cx: &mut Context<'_>) -> Types {
    let x = input(cx, 0, is_number, "a number type")?;
    for index in 1..3 {
        expect(cx, index, x.ty.dtype)?;
        let one = |dims: &[Dim]| dims.iter().all(|dim| !differ(dim, &Dim::Known(1)));
        if !optional_dims(cx, index).is_none_or(one) {
            bail!("input {index} is no scalar");
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
