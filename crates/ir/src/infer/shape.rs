//! Types of operators that change shapes or give them.

use octofold_ops::families::{
    Dropout, Expand, Flatten, Reshape, Shape, Size, Squeeze, Tile, Unsqueeze,
};
use octofold_ops::{OpError, Operator, bail, normalize_axes, normalize_axis};
use octofold_quant::QuantParams;
use octofold_tensor::{DType, Dim};

use super::contents::List;
use super::helpers::{broadcast, dims, expect, one, typed};
use super::{Context, Inferred, Known, Types, contents, sizes};
use crate::TensorType;

/// The type of what an operator makes of the elements of `x` by moving them: parameters of single channels are lost with their axis.
pub(super) fn moved(x: Known<'_>, shape: Option<Vec<Dim>>) -> TensorType {
    let params =
        x.ty.quantization
            .clone()
            .filter(|params| matches!(**params, QuantParams::PerTensor(_)));
    typed(x.ty.dtype, shape).with_quantization(params)
}

/// The result of an operator that only moves elements of the inputs `data`; its type is that of the first of them, and its contents are known where
/// theirs are.
///
/// # Errors
/// When the first of them is absent.
pub(super) fn rearranged<O: Operator>(
    op: &O,
    cx: &Context<'_>,
    data: &[usize],
    shape: Option<Vec<Dim>>,
) -> Types {
    let contents = shape
        .as_ref()
        .and_then(|shape| contents::moved(op, cx, data, shape));
    let ty = moved(cx.required(data[0])?, shape);
    Ok(vec![Inferred { ty, contents }])
}

/// The result of an operator that keeps the elements in their order.
fn kept(x: Known<'_>, shape: Option<Vec<Dim>>) -> Vec<Inferred> {
    vec![Inferred {
        ty: moved(x, shape),
        contents: contents::of(x).map(|(_, contents)| contents),
    }]
}

pub(super) fn reshape(op: &Reshape, cx: &mut Context<'_>) -> Types {
    let (x, target) = (cx.required(0)?, cx.required(1)?);
    let Some(target) = contents::numbers(target, 1)? else {
        let rank = match contents::list(cx, 1)? {
            List::Unknown(count) => count,
            List::Absent | List::Known(_) => None,
        };
        // A rank that no model has is not worth its symbols.
        let shape = rank
            .filter(|&rank| rank <= contents::MAX)
            .map(|rank| (0..rank).map(|_| cx.fresh()).collect());
        return Ok(kept(x, shape));
    };
    let from = dims(x);
    let mut shape = Vec::with_capacity(target.len());
    let mut open = None;
    for (axis, size) in target.iter().enumerate() {
        shape.push(match size.known() {
            Some(-1) if open.is_some() => {
                bail!("a shape with two open sizes");
            }
            Some(-1) => {
                open = Some(axis);
                Dim::Known(1)
            }
            Some(0) if !op.allowzero => match from {
                Some(from) => from.get(axis).cloned().ok_or_else(|| {
                    OpError::invalid(format!("size {axis} is to be copied from {}", x.ty))
                })?,
                None => cx.fresh(),
            },
            Some(size) if size < 0 => {
                bail!("the size {size} is negative");
            }
            _ => size.clone(),
        });
    }
    if let Some(axis) = open {
        if op.allowzero && target.contains(&Dim::Known(0)) {
            bail!("a shape with allowzero may not hold both 0 and -1");
        }
        let quotient = from
            .map(|from| sizes::quotient(from, &shape))
            .transpose()?
            .flatten();
        shape[axis] = quotient.unwrap_or_else(|| cx.fresh());
    } else if let Some(from) = from {
        let (before, after) = (sizes::product(from), sizes::product(&shape));
        if let (Some(before), Some(after)) = (before.known(), after.known())
            && before != after
        {
            bail!("{} does not reshape to {target:?}", x.ty);
        }
    }
    Ok(kept(x, Some(shape)))
}

pub(super) fn flatten(op: &Flatten, cx: &mut Context<'_>) -> Types {
    let x = cx.required(0)?;
    let Some(dims) = dims(x) else {
        let shape = vec![cx.fresh(), cx.fresh()];
        return Ok(kept(x, Some(shape)));
    };
    let rank = dims.len();
    let axis = if op.axis == rank as i64 {
        rank
    } else {
        normalize_axis(op.axis, rank)?
    };
    let (outer, inner) = dims.split_at(axis);
    Ok(kept(
        x,
        Some(vec![sizes::product(outer), sizes::product(inner)]),
    ))
}

pub(super) fn squeeze(_op: &Squeeze, cx: &mut Context<'_>) -> Types {
    let x = cx.required(0)?;
    let list = contents::list(cx, 1)?;
    let Some(dims) = dims(x) else {
        return Ok(kept(x, None));
    };
    let axes = match list {
        List::Known(axes) => normalize_axes(&axes, dims.len())?,
        // A symbol may turn out to be 1.
        List::Absent if dims.iter().any(|dim| dim.known().is_none()) => return Ok(kept(x, None)),
        List::Absent => (0..dims.len())
            .filter(|&axis| dims[axis] == Dim::Known(1))
            .collect(),
        List::Unknown(Some(count)) if count <= dims.len() => {
            let shape = (0..dims.len() - count).map(|_| cx.fresh()).collect();
            return Ok(kept(x, Some(shape)));
        }
        List::Unknown(_) => return Ok(kept(x, None)),
    };
    if let Some(&axis) = axes
        .iter()
        .find(|&&axis| dims[axis].known().is_some_and(|size| size != 1))
    {
        bail!("axis {axis} of {} is not of size 1", x.ty);
    }
    let shape = (0..dims.len())
        .filter(|axis| !axes.contains(axis))
        .map(|axis| dims[axis].clone());
    Ok(kept(x, Some(shape.collect())))
}

pub(super) fn unsqueeze(_op: &Unsqueeze, cx: &mut Context<'_>) -> Types {
    let x = cx.required(0)?;
    cx.required(1)?;
    let list = contents::list(cx, 1)?;
    let Some(dims) = dims(x) else {
        return Ok(kept(x, None));
    };
    let axes = match list {
        List::Known(axes) => axes,
        List::Unknown(Some(count)) if count <= contents::MAX => {
            let shape = (0..dims.len() + count).map(|_| cx.fresh()).collect();
            return Ok(kept(x, Some(shape)));
        }
        List::Absent | List::Unknown(_) => return Ok(kept(x, None)),
    };
    let rank = dims.len() + axes.len();
    let axes = normalize_axes(&axes, rank)?;
    let mut sizes = dims.iter().cloned();
    let shape = (0..rank).map(|axis| {
        if axes.contains(&axis) {
            Dim::Known(1)
        } else {
            sizes.next().unwrap_or(Dim::Known(1))
        }
    });
    let shape = shape.collect();
    Ok(kept(x, Some(shape)))
}

pub(super) fn identity(cx: &Context<'_>) -> Types {
    let x = cx.required(0)?;
    Ok(vec![Inferred {
        ty: x.ty.clone(),
        contents: contents::of(x).map(|(_, contents)| contents),
    }])
}

pub(super) fn dropout(_op: &Dropout, cx: &mut Context<'_>) -> Types {
    let x = cx.required(0)?;
    expect(cx, 2, DType::Bool)?;
    Ok(vec![
        x.ty.clone().into(),
        typed(DType::Bool, x.ty.shape.clone()).into(),
    ])
}

pub(super) fn shape(op: &Shape, cx: &mut Context<'_>) -> Types {
    let x = cx.required(0)?;
    let Some(dims) = dims(x) else {
        let count = cx.fresh();
        return Ok(one(DType::I64, Some(vec![count])));
    };
    let contents = dims[op.axes(dims.len())].to_vec();
    let ty = TensorType::new(DType::I64, [contents.len()]);
    Ok(vec![Inferred {
        ty,
        contents: Some(contents),
    }])
}

pub(super) fn size(_op: &Size, cx: &mut Context<'_>) -> Types {
    let x = cx.required(0)?;
    Ok(vec![Inferred {
        ty: typed(DType::I64, Some(Vec::new())),
        contents: dims(x).map(|dims| vec![sizes::product(dims)]),
    }])
}

pub(super) fn expand(op: &Expand, cx: &mut Context<'_>) -> Types {
    let (x, target) = (cx.required(0)?, cx.required(1)?);
    let target = match contents::numbers(target, 1)? {
        Some(target) => Some(target),
        None => match contents::list(cx, 1)? {
            List::Unknown(Some(count)) if count <= contents::MAX => {
                Some((0..count).map(|_| cx.fresh()).collect())
            }
            _ => None,
        },
    };
    let (Some(dims), Some(target)) = (dims(x), target) else {
        return Ok(vec![moved(x, None).into()]);
    };
    if let Some(size) = target.iter().filter_map(Dim::known).find(|&size| size < 0) {
        bail!("the size {size} is negative");
    }
    let shape = broadcast(dims, &target)?;
    rearranged(op, cx, &[0], Some(shape))
}

pub(super) fn tile(op: &Tile, cx: &mut Context<'_>) -> Types {
    let (x, repeats) = (cx.required(0)?, cx.required(1)?);
    let repeats = contents::numbers(repeats, 1)?;
    let shape = match (dims(x), repeats) {
        (None, _) => None,
        (Some(dims), None) => Some(dims.iter().map(|_| cx.fresh()).collect::<Vec<_>>()),
        (Some(dims), Some(repeats)) => {
            if repeats.len() != dims.len() {
                bail!("{} repeats for {}", repeats.len(), x.ty);
            }
            if let Some(count) = repeats
                .iter()
                .filter_map(Dim::known)
                .find(|&count| count < 0)
            {
                bail!("the repeat {count} is negative");
            }
            Some(
                dims.iter()
                    .zip(repeats)
                    .map(|(dim, repeat)| dim.clone().times(repeat))
                    .collect(),
            )
        }
    };
    rearranged(op, cx, &[0], shape)
}
