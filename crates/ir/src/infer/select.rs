//! Types of choosing elements.

use octofold_ops::families::{Compress, CumSum, NonZero, ReverseSequence, TopK, Trilu};
use octofold_ops::{bail, bail_attribute, normalize_axis};
use octofold_tensor::{DType, Dim};

use super::elementwise::is_number;
use super::helpers::{dims, expect, input, one, typed};
use super::shape::moved;
use super::{Context, Types, contents};

pub(super) fn top_k(op: &TopK, cx: &mut Context<'_>) -> Types {
    let x = input(cx, 0, is_number, "a numeric type")?;
    let k = contents::scalar(cx.required(1)?, 1)?;
    let shape = match dims(x) {
        None => None,
        Some(dims) => {
            let axis = normalize_axis(op.axis, dims.len())?;
            if let (Some(size), Some(k)) = (dims[axis].known(), k.as_ref().and_then(Dim::known))
                && !(0..=size).contains(&k)
            {
                bail!("{k} of {size} elements are wanted");
            }
            let mut shape = dims.to_vec();
            shape[axis] = k.unwrap_or_else(|| cx.fresh());
            Some(shape)
        }
    };
    Ok(vec![
        moved(x, shape.clone()).into(),
        typed(DType::I64, shape).into(),
    ])
}

pub(super) fn non_zero(_op: &NonZero, cx: &mut Context<'_>) -> Types {
    let x = input(
        cx,
        0,
        |dtype| dtype != DType::String,
        "a numeric type or bool",
    )?;
    let rank = x.ty.rank().map_or_else(|| cx.fresh(), Dim::from);
    let count = cx.fresh();
    Ok(one(DType::I64, Some(vec![rank, count])))
}

pub(super) fn cum_sum(_op: &CumSum, cx: &mut Context<'_>) -> Types {
    let x = input(cx, 0, is_number, "a numeric type")?;
    let axis = contents::scalar(cx.required(1)?, 1)?.and_then(|axis| axis.known());
    if let (Some(axis), Some(rank)) = (axis, x.ty.rank()) {
        normalize_axis(axis, rank)?;
    }
    Ok(one(x.ty.dtype, x.ty.shape.clone()))
}

pub(super) fn trilu(_op: &Trilu, cx: &mut Context<'_>) -> Types {
    let x = cx.required(0)?;
    if let Some(k) = cx.optional(1) {
        contents::scalar(k, 1)?;
    }
    if x.ty.rank().is_some_and(|rank| rank < 2) {
        bail!("expected matrices, found {}", x.ty);
    }
    // Zeros outside of the triangle mean something else in quantized matrices.
    Ok(one(x.ty.dtype, x.ty.shape.clone()))
}

pub(super) fn compress(op: &Compress, cx: &mut Context<'_>) -> Types {
    let x = cx.required(0)?;
    cx.required(1)?;
    expect(cx, 1, DType::Bool)?;
    let count = cx.fresh();
    let shape = match (op.axis, dims(x)) {
        (None, _) => Some(vec![count]),
        (Some(_), None) => None,
        (Some(axis), Some(dims)) => {
            let mut shape = dims.to_vec();
            shape[normalize_axis(axis, dims.len())?] = count;
            Some(shape)
        }
    };
    Ok(vec![moved(x, shape).into()])
}

pub(super) fn reverse_sequence(op: &ReverseSequence, cx: &mut Context<'_>) -> Types {
    let x = cx.required(0)?;
    contents::expect_integers(cx.required(1)?, 1)?;
    if !matches!((op.batch_axis, op.time_axis), (0, 1) | (1, 0)) {
        bail_attribute!(
            "time_axis",
            "batch_axis and time_axis must be 0 and 1, or 1 and 0"
        );
    }
    if x.ty.rank().is_some_and(|rank| rank < 2) {
        bail!("expected rank 2 or more, found {}", x.ty);
    }
    Ok(vec![moved(x, x.ty.shape.clone()).into()])
}
