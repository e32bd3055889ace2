//! Types of `Slice`.

use octofold_ops::families::Slice;
use octofold_ops::{OpError, bail, normalize_axes};
use octofold_tensor::Dim;

use super::contents::List;
use super::helpers::dims;
use super::shape::{moved, rearranged};
use super::sizes::is_size;
use super::{Context, Types, contents};

/// An end of a range: an index that may be cut to an axis.
fn end(index: &Dim, size: &Dim) -> Option<Dim> {
    let (zero, far) = (Dim::Known(0), i64::from(i32::MAX));
    Some(match index.known() {
        Some(0) => zero,
        Some(index) if index >= far => size.clone(),
        Some(index) if index <= -far => zero,
        Some(index) if index > 0 => size.clone().min(index),
        Some(index) => size.clone().plus(index).max(0),
        None if index == size => size.clone(),
        None if is_size(index) => size.clone().min(index.clone()),
        None => return None,
    })
}

/// The number of indices that a range selects, when it is known.
fn count(size: &Dim, start: &Dim, stop: &Dim, step: i64) -> Result<Option<Dim>, OpError> {
    if let (Some(size), Some(start), Some(stop)) = (size.known(), start.known(), stop.known()) {
        return Slice::range(start, stop, step, size).map(|(_, count)| Some(Dim::Known(count)));
    }
    let far = i64::from(i32::MAX);
    match step {
        0 => bail!("a slice with step 0"),
        1.. => {
            let (Some(from), Some(to)) = (end(start, size), end(stop, size)) else {
                return Ok(None);
            };
            // A start behind the axis selects nothing anyway, so it need not be cut.
            let inside = start
                .known()
                .map_or(from != *size, |start| (1..far).contains(&start));
            let from = if inside { start.clone() } else { from };
            let distance = if from == Dim::Known(0) {
                to
            } else {
                to.minus(from).max(0)
            };
            Ok(Some(distance.ceil_div(step)))
        }
        // Backwards over the whole axis; other ranges hardly occur.
        _ => {
            let whole = matches!(start.known(), Some(start) if start == -1 || start >= far)
                && stop.known().is_some_and(|stop| stop <= -far);
            Ok(step
                .checked_neg()
                .filter(|_| whole)
                .map(|step| size.clone().ceil_div(step)))
        }
    }
}

pub(super) fn slice(op: &Slice, cx: &mut Context<'_>) -> Types {
    let x = cx.required(0)?;
    let starts = contents::numbers(cx.required(1)?, 1)?;
    let ends = contents::numbers(cx.required(2)?, 2)?;
    let (axes, steps) = (contents::list(cx, 3)?, contents::list(cx, 4)?);
    let Some(dims) = dims(x) else {
        return Ok(vec![moved(x, None).into()]);
    };
    let lengths = [starts.as_ref().map(Vec::len), ends.as_ref().map(Vec::len)];
    let axes = match axes {
        List::Known(axes) => Some(normalize_axes(&axes, dims.len())?),
        List::Absent => match lengths {
            [Some(count), _] | [_, Some(count)] if count > dims.len() => {
                bail!("{count} ranges for {}", x.ty);
            }
            [Some(count), _] | [_, Some(count)] => Some((0..count).collect()),
            _ => None,
        },
        List::Unknown(_) => None,
    };
    let Some(axes) = axes else {
        // Any axis may be cut.
        let shape = dims.iter().map(|_| cx.fresh()).collect();
        return Ok(vec![moved(x, Some(shape)).into()]);
    };
    let steps = steps.or(|| vec![1; axes.len()]);
    let wrong = |count: Option<usize>| count.is_some_and(|count| count != axes.len());
    if lengths.into_iter().any(wrong) || wrong(steps.as_ref().map(Vec::len)) {
        bail!("starts, ends, axes and steps differ in length");
    }
    let mut shape = dims.to_vec();
    for (i, &axis) in axes.iter().enumerate() {
        let size = match (&starts, &ends, &steps) {
            (Some(starts), Some(ends), Some(steps)) => {
                count(&dims[axis], &starts[i], &ends[i], steps[i])?
            }
            _ => None,
        };
        shape[axis] = size.unwrap_or_else(|| cx.fresh());
    }
    rearranged(op, cx, &[0], Some(shape))
}
