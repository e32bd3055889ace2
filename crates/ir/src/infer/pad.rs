//! Types of `Pad`.

use octofold_ops::families::Pad;
use octofold_ops::{bail, normalize_axes};
use octofold_tensor::Dim;

use super::contents::List;
use super::helpers::{dims, expect};
use super::shape::moved;
use super::{Context, Types, contents};

pub(super) fn pad(_op: &Pad, cx: &mut Context<'_>) -> Types {
    let x = cx.required(0)?;
    let pads = contents::numbers(cx.required(1)?, 1)?;
    expect(cx, 2, x.ty.dtype)?;
    let axes = contents::list(cx, 3)?;
    let Some(dims) = dims(x) else {
        return Ok(vec![moved(x, None).into()]);
    };
    let axes = match axes {
        List::Absent => Some((0..dims.len()).collect()),
        List::Known(axes) => Some(normalize_axes(&axes, dims.len())?),
        List::Unknown(_) => None,
    };
    let (Some(pads), Some(axes)) = (pads, axes) else {
        let shape = dims.iter().map(|_| cx.fresh()).collect();
        return Ok(vec![moved(x, Some(shape)).into()]);
    };
    if pads.len() != 2 * axes.len() {
        bail!("{} pads for {} axes", pads.len(), axes.len());
    }
    let mut shape = dims.to_vec();
    for (i, &axis) in axes.iter().enumerate() {
        let (before, after) = (&pads[i], &pads[axes.len() + i]);
        let padded: Dim = dims[axis].clone().plus(before.clone()).plus(after.clone());
        // What is cut must be there.
        let cut = |pad: &Dim| pad.known().unwrap_or(0).min(0);
        if dims[axis]
            .known()
            .is_some_and(|size| size.saturating_add(cut(before)).saturating_add(cut(after)) < 0)
        {
            bail!("pads {before} and {after} do not fit size {}", dims[axis]);
        }
        shape[axis] = padded;
    }
    Ok(vec![moved(x, Some(shape)).into()])
}
