//! Types of `Resize`.

use octofold_ops::families::{CoordinateTransformation, Resize, ResizeMode};
use octofold_ops::{OpError, bail, bail_attribute};
use octofold_quant::QuantParams;
use octofold_tensor::{DType, Dim};

use super::helpers::{dims, expect, filled, input, typed};
use super::{Context, Known, Types};

/// An optional input; absent, too, when it is known to have no elements.
fn given<'a>(cx: &Context<'a>, index: usize) -> Option<Known<'a>> {
    cx.optional(index).filter(|known| {
        known
            .ty
            .known_shape()
            .is_none_or(|shape| !shape.contains(&0))
    })
}

pub(super) fn resize(op: &Resize, cx: &mut Context<'_>) -> Types {
    let x = input(cx, 0, |dtype| dtype != DType::String, "a number type")?;
    let crops = op.coordinate_transformation_mode == CoordinateTransformation::TfCropAndResize;
    if crops {
        cx.required(1)?;
    }
    if op.antialias && op.mode == ResizeMode::Nearest {
        bail_attribute!("antialias", "does not go with the mode `nearest`");
    }
    let (scales, sizes) = (given(cx, 2), given(cx, 3));
    if scales.is_some() {
        expect(cx, 2, DType::F32)?;
    }
    if sizes.is_some() {
        input(
            cx,
            3,
            |dtype| matches!(dtype, DType::I64 | DType::I32),
            "int64 or int32",
        )?;
    }
    let Some(x_dims) = dims(x) else {
        return Ok(vec![typed(x.ty.dtype, None).into()]);
    };
    let shape = match (scales, sizes) {
        (Some(scales), None) => match scales.constant {
            Some(scales) => {
                op.resized(x_dims, Some(scales.values::<f32>()?), None)?
                    .sizes
            }
            None => unknown(op, x_dims.len())?,
        },
        (None, Some(sizes)) => match sizes.contents {
            Some(sizes) => op.resized(x_dims, None, Some(sizes))?.sizes,
            None => unknown(op, x_dims.len())?,
        },
        _ => bail!("a Resize has either scales or sizes"),
    };
    let shape = filled(cx, shape);
    // Picking the nearest elements keeps what they mean, unless the quantized axis itself changes.
    let keeps = op.mode == ResizeMode::Nearest && !crops;
    let quantization = x.ty.quantization.clone().filter(|params| match **params {
        QuantParams::PerTensor(_) => keeps,
        QuantParams::PerChannel { axis, .. } => keeps && x_dims.get(axis) == shape.get(axis),
    });
    Ok(vec![
        typed(x.ty.dtype, Some(shape))
            .with_quantization(quantization)
            .into(),
    ])
}

/// Sizes of which nothing is known but their number.
fn unknown(op: &Resize, rank: usize) -> Result<Vec<Option<Dim>>, OpError> {
    // Checks the axes.
    let names: Vec<_> = (0..rank).map(|_| Dim::Known(1)).collect();
    let count = if op.axes.is_empty() {
        rank
    } else {
        op.axes.len()
    };
    op.resized(&names, None, Some(&vec![Dim::Known(1); count]))?;
    Ok(vec![None; rank])
}
