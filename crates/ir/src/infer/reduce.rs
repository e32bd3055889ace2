//! Types of reductions.

use octofold_ops::families::{
    ArgMax, ArgMin, ReduceL1, ReduceL2, ReduceLogSum, ReduceLogSumExp, ReduceMax, ReduceMean,
    ReduceMin, ReduceProd, ReduceSum, ReduceSumSquare,
};
use octofold_ops::{normalize_axes, normalize_axis};
use octofold_tensor::{DType, Dim};

use super::contents::List;
use super::elementwise::is_number;
use super::helpers::{dims, input, one, typed};
use super::{Context, Inferred, Types, contents};

/// The shape without some axes, or with size 1 there.
fn without(dims: &[Dim], axes: &[usize], keepdims: bool) -> Vec<Dim> {
    let sizes = dims
        .iter()
        .enumerate()
        .filter_map(|(axis, dim)| match axes.contains(&axis) {
            false => Some(dim.clone()),
            true => keepdims.then_some(Dim::Known(1)),
        });
    sizes.collect()
}

fn reduced(
    cx: &mut Context<'_>,
    keepdims: bool,
    noop: bool,
    flags: bool,
    fold: Option<fn(Dim, Dim) -> Dim>,
) -> Types {
    let accept = |dtype: DType| is_number(dtype) || (flags && dtype == DType::Bool);
    let x = input(cx, 0, accept, "a numeric type")?;
    let list = contents::list(cx, 1)?;
    let Some(dims) = dims(x) else {
        return Ok(one(x.ty.dtype, None));
    };
    let rank = dims.len();
    let axes = match list {
        List::Absent | List::Unknown(Some(0)) => Vec::new(),
        List::Known(axes) => axes,
        List::Unknown(count) => {
            // Which axes go is not known: each may be reduced or not.
            let left = if keepdims {
                Some(rank)
            } else {
                count.map(|count| rank.saturating_sub(count))
            };
            let shape = left.map(|left| (0..left).map(|_| cx.fresh()).collect());
            return Ok(one(x.ty.dtype, shape));
        }
    };
    let axes = if axes.is_empty() && !noop {
        (0..rank).collect()
    } else {
        normalize_axes(&axes, rank)?
    };
    let shape = without(dims, &axes, keepdims);
    let contents = match (fold, x.contents) {
        (Some(fold), Some(contents)) if axes.len() == rank => contents
            .iter()
            .cloned()
            .reduce(fold)
            .map(|result| vec![result]),
        _ => None,
    };
    let ty = typed(x.ty.dtype, Some(shape));
    Ok(vec![Inferred { ty, contents }])
}

macro_rules! reductions {
    ($($name:ident $type:ident $flags:literal $fold:expr;)*) => {$(
        pub(super) fn $name(op: &$type, cx: &mut Context<'_>) -> Types {
            reduced(cx, op.keepdims, op.noop_with_empty_axes, $flags, $fold)
        }
    )*};
}

reductions! {
    reduce_sum ReduceSum false Some(|a, b| a.plus(b));
    reduce_mean ReduceMean false None;
    reduce_max ReduceMax true Some(|a, b| a.max(b));
    reduce_min ReduceMin true Some(|a, b| a.min(b));
    reduce_prod ReduceProd false Some(|a, b| a.times(b));
    reduce_l1 ReduceL1 false None;
    reduce_l2 ReduceL2 false None;
    reduce_log_sum ReduceLogSum false None;
    reduce_log_sum_exp ReduceLogSumExp false None;
    reduce_sum_square ReduceSumSquare false None;
}

/// The position of an extreme element along an axis.
fn position(cx: &Context<'_>, axis: i64, keepdims: bool) -> Types {
    let x = input(cx, 0, is_number, "a numeric type")?;
    let Some(dims) = dims(x) else {
        return Ok(one(DType::I64, None));
    };
    let axis = normalize_axis(axis, dims.len())?;
    Ok(one(DType::I64, Some(without(dims, &[axis], keepdims))))
}

pub(super) fn arg_max(op: &ArgMax, cx: &mut Context<'_>) -> Types {
    position(cx, op.axis, op.keepdims)
}

pub(super) fn arg_min(op: &ArgMin, cx: &mut Context<'_>) -> Types {
    position(cx, op.axis, op.keepdims)
}
