//! Types of reading and writing by index.

use octofold_ops::families::{
    Gather, GatherElements, GatherND, ScatterElements, ScatterND, ScatterReduction,
};
use octofold_ops::{OpError, Operator, bail, normalize_axis};
use octofold_tensor::Dim;

use super::contents::expect_integers;
use super::elementwise::is_number;
use super::helpers::{dims, expect, input};
use super::shape::{moved, rearranged};
use super::{Context, Known, Types, contents, sizes};

/// Data and indices.
fn operands<'a>(cx: &Context<'a>) -> Result<(Known<'a>, Known<'a>), OpError> {
    let (x, indices) = (cx.required(0)?, cx.required(1)?);
    expect_integers(indices, 1)?;
    Ok((x, indices))
}

/// Checks that indices that are known are within their axes: each tuple of them has one for each of `sizes`.
fn check_indices(indices: Known<'_>, sizes: &[Dim]) -> Result<(), OpError> {
    let known = contents::known_numbers(indices).unwrap_or_default();
    for (index, size) in known.into_iter().zip(sizes.iter().cycle()) {
        match size.known() {
            Some(size) if !(-size..size).contains(&index) => {
                bail!("index {index} is out of range for size {size}")
            }
            _ => {}
        }
    }
    Ok(())
}

pub(super) fn gather(op: &Gather, cx: &mut Context<'_>) -> Types {
    let (x, indices) = operands(cx)?;
    let Some(from) = dims(x) else {
        return Ok(vec![moved(x, None).into()]);
    };
    let axis = normalize_axis(op.axis, from.len())?;
    check_indices(indices, &from[axis..=axis])?;
    let Some(at) = dims(indices) else {
        return Ok(vec![moved(x, None).into()]);
    };
    let shape: Vec<Dim> = from[..axis]
        .iter()
        .chain(at)
        .chain(&from[axis + 1..])
        .cloned()
        .collect();
    rearranged(op, cx, &[0], Some(shape))
}

/// Checks what `GatherElements` and `ScatterElements` ask of data and indices.
fn check_elements(x: Known<'_>, indices: Known<'_>, axis: i64) -> Result<(), OpError> {
    let (Some(from), Some(at)) = (dims(x), dims(indices)) else {
        return Ok(());
    };
    let axis = normalize_axis(axis, from.len())?;
    check_indices(indices, &from[axis..=axis])?;
    let larger = |(other, (a, b)): (usize, (&Dim, &Dim))| {
        other != axis && matches!((a.known(), b.known()), (Some(a), Some(b)) if b > a)
    };
    if from.len() != at.len() || from.iter().zip(at).enumerate().any(larger) {
        bail!(
            "indices {} do not fit {} along axis {axis}",
            indices.ty,
            x.ty
        );
    }
    Ok(())
}

pub(super) fn gather_elements(op: &GatherElements, cx: &mut Context<'_>) -> Types {
    let (x, indices) = operands(cx)?;
    check_elements(x, indices, op.axis)?;
    rearranged(op, cx, &[0], indices.ty.shape.clone())
}

/// The shape of the tuples of indices, and that of the slices that they name.
type Tuples<'a> = (&'a [Dim], &'a [Dim]);

/// What indices and data say of the tuples; `None` when that is not known.
fn tuples<'a>(x: Known<'a>, indices: Known<'a>, batch: i64) -> Result<Option<Tuples<'a>>, OpError> {
    let fail = || OpError::invalid(format!("indices {} do not fit {}", indices.ty, x.ty));
    let batch =
        usize::try_from(batch).map_err(|_| OpError::attribute("batch_dims", "is negative"))?;
    let (Some(from), Some(at)) = (dims(x), dims(indices)) else {
        return Ok(None);
    };
    let (length, tuples) = at.split_last().ok_or_else(fail)?;
    if batch > tuples.len() || batch > from.len() {
        return Err(fail());
    }
    for (a, b) in from[..batch].iter().zip(tuples) {
        sizes::same(a, b)?;
    }
    let Some(length) = length.known() else {
        return Ok(None);
    };
    let (named, slice) = usize::try_from(length)
        .ok()
        .filter(|&length| length > 0)
        .and_then(|length| from[batch..].split_at_checked(length))
        .ok_or_else(fail)?;
    check_indices(indices, named)?;
    Ok(Some((tuples, slice)))
}

pub(super) fn gather_nd(op: &GatherND, cx: &mut Context<'_>) -> Types {
    let (x, indices) = operands(cx)?;
    let shape: Option<Vec<Dim>> = tuples(x, indices, op.batch_dims)?
        .map(|(tuples, slice)| tuples.iter().chain(slice).cloned().collect());
    rearranged(op, cx, &[0], shape)
}

/// Checks that a reduction finds numbers.
fn check_reduction(cx: &Context<'_>, reduction: ScatterReduction) -> Result<(), OpError> {
    if reduction != ScatterReduction::None {
        input(cx, 0, is_number, "a numeric type")?;
    }
    Ok(())
}

/// The data with some elements replaced by updates; contents are known where nothing is reduced.
fn scattered<O: Operator>(op: &O, cx: &Context<'_>, reduction: ScatterReduction) -> Types {
    let shape = cx.required(0)?.ty.shape.clone();
    let mut results = rearranged(op, cx, &[0, 2], shape)?;
    if reduction != ScatterReduction::None {
        results.iter_mut().for_each(|result| result.contents = None);
    }
    Ok(results)
}

pub(super) fn scatter_nd(op: &ScatterND, cx: &mut Context<'_>) -> Types {
    let (x, indices) = operands(cx)?;
    let updates = cx.required(2)?;
    expect(cx, 2, x.ty.dtype)?;
    check_reduction(cx, op.reduction)?;
    if let (Some((tuples, slice)), Some(updates)) = (tuples(x, indices, 0)?, dims(updates)) {
        if updates.len() != tuples.len() + slice.len() {
            bail!("the updates have another rank than indices and data ask for");
        }
        for (a, b) in tuples.iter().chain(slice).zip(updates) {
            sizes::same(a, b)?;
        }
    }
    scattered(op, cx, op.reduction)
}

pub(super) fn scatter_elements(op: &ScatterElements, cx: &mut Context<'_>) -> Types {
    let (x, indices) = operands(cx)?;
    let updates = cx.required(2)?;
    expect(cx, 2, x.ty.dtype)?;
    check_reduction(cx, op.reduction)?;
    check_elements(x, indices, op.axis)?;
    if let (Some(indices), Some(updates)) = (dims(indices), dims(updates)) {
        if indices.len() != updates.len() {
            bail!("indices and updates differ in rank");
        }
        for (a, b) in indices.iter().zip(updates) {
            sizes::same(a, b)?;
        }
    }
    scattered(op, cx, op.reduction)
}
