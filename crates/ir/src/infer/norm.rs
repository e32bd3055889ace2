//! Types of normalizations and softmax: that of the input.

use octofold_ops::families::{
    BatchNormalization, Hardmax, InstanceNormalization, LayerNormalization, LogSoftmax,
    LpNormalization, Lrn, Softmax,
};
use octofold_ops::{OpError, bail, bail_attribute, normalize_axis};
use octofold_tensor::{DType, Dim};

use super::helpers::{broadcast, differ, dims, float, optional_dims, same, typed};
use super::{Context, Known, Types};

/// The float input 0, of at least `rank` axes when these are known.
fn ranked<'a>(cx: &Context<'a>, rank: usize) -> Result<Known<'a>, OpError> {
    let x = float(cx, 0)?;
    match dims(x) {
        Some(dims) if dims.len() < rank => {
            bail!("an input of rank {}, not at least {rank}", dims.len())
        }
        _ => Ok(x),
    }
}

/// Checks that inputs are vectors with one number a channel of input 0.
fn check_channels(cx: &Context<'_>, inputs: impl Iterator<Item = usize>) -> Result<(), OpError> {
    let channels = match optional_dims(cx, 0) {
        None => None,
        Some([_, channels, ..]) => Some(channels.clone()),
        Some(_) => Some(Dim::Known(1)),
    };
    for index in inputs {
        float(cx, index)?;
        let fits = match (optional_dims(cx, index), &channels) {
            (None, _) => true,
            (Some([size]), Some(channels)) => !differ(size, channels),
            (Some(dims), _) => dims.len() == 1,
        };
        if !fits {
            bail!("input {index} has not one number a channel");
        }
    }
    Ok(())
}

/// The axis, counted from the front, when the rank is known.
fn check_axis(axis: i64, x: Known<'_>) -> Result<Option<usize>, OpError> {
    let rank = x.ty.rank();
    rank.map(|rank| normalize_axis(axis, rank)).transpose()
}

/// A float input that keeps its type and has an axis.
fn along(axis: i64, cx: &Context<'_>) -> Types {
    let x = float(cx, 0)?;
    check_axis(axis, x)?;
    Ok(same(x))
}

pub(super) fn softmax(op: &Softmax, cx: &mut Context<'_>) -> Types {
    along(op.axis, cx)
}

pub(super) fn log_softmax(op: &LogSoftmax, cx: &mut Context<'_>) -> Types {
    along(op.axis, cx)
}

pub(super) fn hardmax(op: &Hardmax, cx: &mut Context<'_>) -> Types {
    along(op.axis, cx)
}

pub(super) fn batch_normalization(op: &BatchNormalization, cx: &mut Context<'_>) -> Types {
    if op.training_mode {
        return Err(OpError::Unsupported(
            "BatchNormalization in training mode".to_owned(),
        ));
    }
    let x = ranked(cx, 1)?;
    check_channels(cx, 1..5)?;
    Ok(same(x))
}

pub(super) fn instance_normalization(_op: &InstanceNormalization, cx: &mut Context<'_>) -> Types {
    let x = ranked(cx, 2)?;
    check_channels(cx, 1..3)?;
    Ok(same(x))
}

pub(super) fn layer_normalization(op: &LayerNormalization, cx: &mut Context<'_>) -> Types {
    let x = ranked(cx, 1)?;
    let axis = check_axis(op.axis, x)?;
    float(cx, 1)?;
    let statistics = match (dims(x), axis) {
        (Some(shape), Some(axis)) => {
            for index in 1..3 {
                let Some(own) = optional_dims(cx, index) else {
                    continue;
                };
                float(cx, index)?;
                // Leading axes of size 1 aside, the parameters repeat for every row.
                let normalized = &shape[axis..];
                let (extra, own) = own.split_at(own.len().saturating_sub(normalized.len()));
                let out = broadcast(own, normalized)?;
                let one = Dim::Known(1);
                if extra.iter().any(|size| differ(size, &one))
                    || out.iter().zip(normalized).any(|(a, b)| differ(a, b))
                {
                    bail!("input {index} does not broadcast to the input");
                }
            }
            let sizes = shape.iter().enumerate();
            Some(
                sizes
                    .map(|(i, size)| {
                        if i < axis {
                            size.clone()
                        } else {
                            Dim::Known(1)
                        }
                    })
                    .collect(),
            )
        }
        _ => None,
    };
    let statistics = typed(DType::F32, statistics);
    let mut out = same(x);
    out.push(statistics.clone().into());
    out.push(statistics.into());
    Ok(out)
}

pub(super) fn lp_normalization(op: &LpNormalization, cx: &mut Context<'_>) -> Types {
    if !(1..=2).contains(&op.p) {
        bail_attribute!("p", "{} is neither 1 nor 2", op.p);
    }
    let x = ranked(cx, 1)?;
    check_axis(op.axis, x)?;
    Ok(same(x))
}

pub(super) fn lrn(op: &Lrn, cx: &mut Context<'_>) -> Types {
    op.channels()?;
    Ok(same(ranked(cx, 2)?))
}
