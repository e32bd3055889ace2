//! Types of object detection.

use octofold_ops::bail;
use octofold_ops::families::NonMaxSuppression;
use octofold_tensor::{DType, Dim};

use super::helpers::{dims, expect, one};
use super::{Context, Types, sizes};

pub(super) fn non_max_suppression(_op: &NonMaxSuppression, cx: &mut Context<'_>) -> Types {
    let (boxes, scores) = (cx.required(0)?, cx.required(1)?);
    for (index, dtype) in [DType::F32, DType::F32, DType::I64, DType::F32, DType::F32]
        .into_iter()
        .enumerate()
    {
        expect(cx, index, dtype)?;
    }
    for known in [boxes, scores] {
        if known.ty.rank().is_some_and(|rank| rank != 3) {
            bail!("expected rank 3, found {}", known.ty);
        }
    }
    if let (Some([batches, count, numbers]), Some([score_batches, _, score_count])) =
        (dims(boxes), dims(scores))
    {
        sizes::same(batches, score_batches)?;
        sizes::same(count, score_count)?;
        sizes::same(numbers, &Dim::Known(4))?;
    }
    let count = cx.fresh();
    Ok(one(DType::I64, Some(vec![count, Dim::Known(3)])))
}
