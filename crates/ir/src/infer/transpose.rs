//! Types of operators that reorder axes.

use std::sync::Arc;

use octofold_ops::families::{DepthToSpace, NhwcDepthToSpace, SpaceToDepth, Transpose};
use octofold_ops::{OpError, bail, bail_attribute};
use octofold_quant::QuantParams;
use octofold_tensor::Dim;

use super::helpers::{dims, typed};
use super::shape::moved;
use super::{Context, Inferred, Known, Types, contents};

pub(super) fn transpose(op: &Transpose, cx: &mut Context<'_>) -> Types {
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
        bail_attribute!("blocksize", "{blocksize} is out of range");
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
        Some(size) if size % by != 0 => bail!("the size {size} is no multiple of {by}"),
        _ => Ok(dim.clone().floor_div(by)),
    }
}

/// The result of an operator that moves blocks between the channels and the plane of images; `shape` gives its sizes by those of the operand.
fn reblocked(
    cx: &mut Context<'_>,
    blocksize: i64,
    shape: impl Fn(&[Dim; 4]) -> Result<Vec<Dim>, OpError>,
) -> Types {
    let x = cx.required(0)?;
    let shape = match images(x, blocksize)? {
        None => (0..4).map(|_| cx.fresh()).collect(),
        Some(sizes) => shape(sizes)?,
    };
    Ok(vec![moved(x, Some(shape)).into()])
}

pub(super) fn depth_to_space(op: &DepthToSpace, cx: &mut Context<'_>) -> Types {
    let times = |size: &Dim| size.clone().times(op.blocksize);
    reblocked(cx, op.blocksize, |[n, c, h, w]| {
        let channels = divided(c, op.blocksize * op.blocksize)?;
        Ok(vec![n.clone(), channels, times(h), times(w)])
    })
}

pub(super) fn nhwc_depth_to_space(op: &NhwcDepthToSpace, cx: &mut Context<'_>) -> Types {
    let times = |size: &Dim| size.clone().times(op.blocksize);
    reblocked(cx, op.blocksize, |[n, h, w, c]| {
        let channels = divided(c, op.blocksize * op.blocksize)?;
        Ok(vec![n.clone(), times(h), times(w), channels])
    })
}

pub(super) fn space_to_depth(op: &SpaceToDepth, cx: &mut Context<'_>) -> Types {
    let b = op.blocksize;
    reblocked(cx, b, |[n, c, h, w]| {
        let channels = c.clone().times(b * b);
        Ok(vec![n.clone(), channels, divided(h, b)?, divided(w, b)?])
    })
}
