//! Types of softmax: that of the input.

use octofold_ops::OpError;
use octofold_ops::families::{LogSoftmax, Softmax};

use super::helpers::{float, one};
use super::{Context, Inferred};

fn along(axis: i64, cx: &Context<'_>) -> Result<Vec<Inferred>, OpError> {
    let x = float(cx, 0)?;
    if let Some(rank) = x.ty.rank() {
        let rank = rank as i64;
        if !(-rank..rank).contains(&axis) {
            return Err(OpError::attribute(
                "axis",
                format!("{axis} is out of range for rank {rank}"),
            ));
        }
    }
    Ok(one(x.ty.dtype, x.ty.shape.clone()))
}

pub(super) fn softmax(op: &Softmax, cx: &mut Context<'_>) -> Result<Vec<Inferred>, OpError> {
    along(op.axis, cx)
}

pub(super) fn log_softmax(op: &LogSoftmax, cx: &mut Context<'_>) -> Result<Vec<Inferred>, OpError> {
    along(op.axis, cx)
}
