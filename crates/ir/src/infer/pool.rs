//! Types of pooling.

use octofold_ops::families::window::Window;
use octofold_ops::families::{
    AveragePool, GlobalAveragePool, GlobalMaxPool, MaxPool, pooled_shape,
};
use octofold_ops::{OpError, bail};
use octofold_tensor::{DType, Dim};

use super::helpers::{channel_quantization, dims, float, input, one, typed};
use super::{Context, Known, Types};

/// The shape of a pooled input; of fresh sizes when even its rank is not known.
fn pooled(window: &Window, x: Known<'_>, cx: &mut Context<'_>) -> Result<Vec<Dim>, OpError> {
    match dims(x) {
        Some(dims) => pooled_shape(window, dims),
        None => Ok((0..window.axes.len() + 2).map(|_| cx.fresh()).collect()),
    }
}

pub(super) fn max_pool(op: &MaxPool, cx: &mut Context<'_>) -> Types {
    let window = op.window()?;
    let x = input(
        cx,
        0,
        |dtype| dtype.is_float() || dtype.is_integer(),
        "float, uint8 or int8",
    )?;
    let shape = pooled(&window, x, cx)?;
    let y = typed(x.ty.dtype, Some(shape.clone())).with_quantization(channel_quantization(x.ty));
    Ok(vec![y.into(), typed(DType::I64, Some(shape)).into()])
}

pub(super) fn average_pool(op: &AveragePool, cx: &mut Context<'_>) -> Types {
    let window = op.window()?;
    let x = float(cx, 0)?;
    Ok(one(x.ty.dtype, Some(pooled(&window, x, cx)?)))
}

fn global(x: Known<'_>) -> Result<Option<Vec<Dim>>, OpError> {
    let Some(dims) = dims(x) else {
        return Ok(None);
    };
    if dims.len() < 2 {
        bail!("global pooling of an input of rank {}", dims.len());
    }
    let mut shape = vec![Dim::Known(1); dims.len()];
    shape[..2].clone_from_slice(&dims[..2]);
    Ok(Some(shape))
}

pub(super) fn global_max_pool(_op: &GlobalMaxPool, cx: &mut Context<'_>) -> Types {
    let x = input(
        cx,
        0,
        |dtype| dtype.is_float() || dtype.is_integer(),
        "float",
    )?;
    let y = typed(x.ty.dtype, global(x)?).with_quantization(channel_quantization(x.ty));
    Ok(vec![y.into()])
}

pub(super) fn global_average_pool(_op: &GlobalAveragePool, cx: &mut Context<'_>) -> Types {
    let x = float(cx, 0)?;
    Ok(one(x.ty.dtype, global(x)?))
}
