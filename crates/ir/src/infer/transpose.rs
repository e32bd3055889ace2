//! Types of operators that reorder axes.

use std::sync::Arc;

use octofold_ops::OpError;
use octofold_ops::families::{DepthToSpace, NhwcDepthToSpace, SpaceToDepth, Transpose};
use octofold_quant::QuantParams;
use octofold_tensor::Dim;

use super::helpers::{dims, typed};
use super::shape::moved;
use super::{Context, Inferred, Known, contents};

pub(super) fn transpose(op: &Transpose, cx: &mut Context<'_>) -> Result<Vec<Inferred>, OpError> {
    let x = cx.required(0)?;
    let Some(dims) = dims(x) else {
        // The permutation gives the rank.
        let shape = (!op.perm.is_empty()).then(|| op.perm.iter().map(|_| cx.fresh()).collect());
        return Ok(vec![moved(x, shape).into()]);
    };
    let perm = op.axes(dims.len())?;
    let shape: Vec<Dim> = perm.iter().map(|&axis| dims[axis].clone()).collect();
    let params = x.ty.quantization.as_ref().map(|params| match &**params {
        QuantParams::PerTensor(_) => Arc::clone(params),
        QuantParams::PerChannel { axis, channels } => Arc::new(QuantParams::PerChannel {
            axis: perm.iter().position(|from| from == axis).unwrap_or(*axis),
            channels: channels.clone(),
        }),
    });
    let contents = contents::moved(op, cx, &[0], &shape);
    let ty = typed(x.ty.dtype, Some(shape)).with_quantization(params);
    Ok(vec![Inferred { ty, contents }])
}

/// The sizes of a batch of images, when the rank is known.
fn images<'a>(x: Known<'a>, blocksize: i64) -> Result<Option<&'a [Dim; 4]>, OpError> {
    if blocksize < 1 || blocksize > i64::from(i32::MAX) {
        return Err(OpError::attribute(
            "blocksize",
            format!("{blocksize} is out of range"),
        ));
    }
    let Some(dims) = dims(x) else {
        return Ok(None);
    };
    let images = <&[Dim; 4]>::try_from(dims);
    images
        .map(Some)
        .map_err(|_| OpError::invalid(format!("expected rank 4, found {}", x.ty)))
}

/// A size divided by a number that must divide it.
fn divided(dim: &Dim, by: i64) -> Result<Dim, OpError> {
    match dim.known() {
        Some(size) if size % by != 0 => Err(OpError::invalid(format!(
            "the size {size} is no multiple of {by}"
        ))),
        _ => Ok(dim.clone().floor_div(by)),
    }
}

pub(super) fn depth_to_space(
    op: &DepthToSpace,
    cx: &mut Context<'_>,
) -> Result<Vec<Inferred>, OpError> {
    let x = cx.required(0)?;
    let b = op.blocksize;
    let shape = match images(x, b)? {
        None => (0..4).map(|_| cx.fresh()).collect(),
        Some([n, c, h, w]) => vec![
            n.clone(),
            divided(c, b * b)?,
            h.clone().times(b),
            w.clone().times(b),
        ],
    };
    Ok(vec![moved(x, Some(shape)).into()])
}

pub(super) fn nhwc_depth_to_space(
    op: &NhwcDepthToSpace,
    cx: &mut Context<'_>,
) -> Result<Vec<Inferred>, OpError> {
    let x = cx.required(0)?;
    let b = op.blocksize;
    let shape = match images(x, b)? {
        None => (0..4).map(|_| cx.fresh()).collect(),
        Some([n, h, w, c]) => vec![
            n.clone(),
            h.clone().times(b),
            w.clone().times(b),
            divided(c, b * b)?,
        ],
    };
    Ok(vec![moved(x, Some(shape)).into()])
}

pub(super) fn space_to_depth(
    op: &SpaceToDepth,
    cx: &mut Context<'_>,
) -> Result<Vec<Inferred>, OpError> {
    let x = cx.required(0)?;
    let b = op.blocksize;
    let shape = match images(x, b)? {
        None => (0..4).map(|_| cx.fresh()).collect(),
        Some([n, c, h, w]) => vec![
            n.clone(),
            c.clone().times(b * b),
            divided(h, b)?,
            divided(w, b)?,
        ],
    };
    Ok(vec![moved(x, Some(shape)).into()])
}
