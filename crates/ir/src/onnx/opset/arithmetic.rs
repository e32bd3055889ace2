//! Old forms of operators that compute.

use octofold_ops::{Attribute, bail};
use octofold_tensor::{DType, Dim};

use super::{Lowering, OldNode};
use crate::ValueId;
use crate::onnx::error::NodeError;

/// `Add` and the like before opset 7: with `broadcast`, the axes of the second operand start at `axis` of the first. Without the attribute they are the last ones, as today.
pub(super) fn broadcast(cx: &mut Lowering<'_>, old: &mut OldNode) -> Result<(), NodeError> {
    let (a, b) = (old.required(0)?, old.required(1)?);
    let axis = old.attributes.read::<i64>("axis")?;
    let broadcast = old.attributes.read::<bool>("broadcast")?.unwrap_or(false);
    let Some(axis) = axis.filter(|_| broadcast) else {
        return Ok(());
    };
    let (rank, other) = (cx.known_rank(a)?, cx.known_rank(b)?);
    let start = normalize(axis, rank)?;
    let trailing = rank.checked_sub(start + other).ok_or_else(|| {
        NodeError::attribute(
            "axis",
            format!("{axis} leaves no room for {other} axes in {rank}"),
        )
    })?;
    let b = trailing_axes(cx, b, other, trailing)?;
    old.set_input(1, b);
    Ok(())
}

/// Appends axes of size 1.
fn trailing_axes(
    cx: &mut Lowering<'_>,
    value: ValueId,
    rank: usize,
    count: usize,
) -> Result<ValueId, NodeError> {
    if count == 0 {
        return Ok(value);
    }
    let axes = (rank..rank + count)
        .map(|axis| i64::try_from(axis).unwrap_or(i64::MAX))
        .collect();
    let axes = cx.ints("axes", axes)?;
    cx.helper("Unsqueeze", &[value, axes], &[])
}

/// An axis counted from the front; it may be the one behind the last.
pub(super) fn normalize(axis: i64, rank: usize) -> Result<usize, NodeError> {
    let size = i64::try_from(rank).unwrap_or(i64::MAX);
    let from_front = if axis < 0 {
        axis.saturating_add(size)
    } else {
        axis
    };
    let within = (0..=size).contains(&from_front);
    usize::try_from(from_front)
        .ok()
        .filter(|_| within)
        .ok_or_else(|| {
            NodeError::attribute("axis", format!("{axis} is out of the range of rank {rank}"))
        })
}

/// `PRelu` before opset 7: the slope is one number, or one a channel.
pub(super) fn prelu(cx: &mut Lowering<'_>, old: &mut OldNode) -> Result<(), NodeError> {
    let (x, slope) = (old.required(0)?, old.required(1)?);
    let single = cx
        .ty(slope)
        .known_shape()
        .is_some_and(|shape| shape.iter().product::<usize>() == 1);
    if single || cx.known_rank(slope)? != 1 {
        return Ok(());
    }
    let rank = cx.known_rank(x)?;
    let slope = trailing_axes(cx, slope, 1, rank.saturating_sub(2))?;
    old.set_input(1, slope);
    Ok(())
}

/// `Softmax`, `LogSoftmax` and `Hardmax` before opset 13: the axes from `axis` on are one.
pub(super) fn softmax(cx: &mut Lowering<'_>, mut old: OldNode) -> Result<(), NodeError> {
    let x = old.required(0)?;
    let axis = old.attributes.read::<i64>("axis")?.unwrap_or(1);
    let start = match cx.rank(x) {
        Some(rank) => {
            let start = normalize(axis, rank)?;
            // When all axes behind it have size 1, the first one says it all.
            let dims = cx.ty(x).shape.as_deref().unwrap_or_default();
            let rest = dims.get(start + 1..);
            if rest.is_some_and(|rest| rest.iter().all(|dim| *dim == Dim::Known(1))) && start < rank
            {
                let start = i64::try_from(start).unwrap_or(i64::MAX);
                let last = start + 1 == i64::try_from(rank).unwrap_or(i64::MAX);
                old.attributes
                    .insert("axis", Attribute::Int(if last { -1 } else { start }));
                return cx.finish(old);
            }
            i64::try_from(start).unwrap_or(i64::MAX)
        }
        None => axis,
    };
    let shape = cx.helper("Shape", &[x], &[])?;
    let flat = cx.helper("Flatten", &[x], &[("axis", Attribute::Int(start))])?;
    let softmax = cx.helper(&old.op, &[flat], &[("axis", Attribute::Int(-1))])?;
    cx.finish_as("Reshape", &[softmax, shape], &[], &old.outputs)
}

/// `Clip` before opset 11: the bounds become inputs; those that bound nothing are left out.
pub(super) fn clip(cx: &mut Lowering<'_>, old: &mut OldNode) -> Result<(), NodeError> {
    let x = old.required(0)?;
    if old.inputs.len() > 1 {
        bail!("has bounds as inputs, expected attributes in this opset");
    }
    for (slot, name, unbounded) in [(1, "min", f32::MIN), (2, "max", f32::MAX)] {
        let bound = old.attributes.read::<f32>(name)?;
        if let Some(bound) = bound.filter(|&bound| bound != unbounded) {
            let bound = cx.number_like(name, bound, x)?;
            old.set_input(slot, bound);
        }
    }
    Ok(())
}

/// `BatchNormalization` before opset 14: inference is told by the number of outputs, and `spatial` may be 0.
pub(super) fn batch_normalization(
    cx: &mut Lowering<'_>,
    old: &mut OldNode,
) -> Result<(), NodeError> {
    let x = old.required(0)?;
    // Models are imported for inference, whatever they say they were saved for.
    if old.version < 7 {
        old.drop_attribute("is_test", &[0, 1])?;
    }
    if old.version < 9 {
        // Statistics for each element instead of each channel are the same where there is nothing but channels.
        let allowed: &[i64] = if cx.rank(x) == Some(2) { &[0, 1] } else { &[1] };
        old.drop_attribute("spatial", allowed)?;
    }
    if old.outputs.len() > 1 {
        bail!("statistics as outputs (training) are not supported");
    }
    Ok(())
}

/// `Dropout` is the identity of a model that is not trained. Its ratio is of no effect then, so that only the data stay.
pub(super) fn dropout(cx: &mut Lowering<'_>, mut old: OldNode) -> Result<(), NodeError> {
    let x = old.required(0)?;
    if old.version < 12 {
        if old.inputs.len() > 1 {
            bail!("has several inputs, expected 1 in this opset");
        }
        // Both values of `is_test` are read as inference, as in batch normalization.
        if old.version < 7 {
            old.drop_attribute("is_test", &[0, 1])?;
        }
        // The mask was of the type of the data; without training it keeps every element.
        if old.version < 10 && old.outputs.len() > 1 {
            let shape = cx.helper("Shape", &[x], &[])?;
            let one = cx.number_like("mask", 1.0, x)?;
            let mask = cx.helper("Expand", &[one, shape], &[])?;
            cx.results
                .extend(old.outputs.drain(1..).map(|name| (name, mask)));
        }
        old.attributes.read::<f32>("ratio")?;
    }
    let training = old.input(2);
    let inference = match training.map(|id| cx.constant_of(id)) {
        None => true,
        Some(Some(constant)) => constant
            .values::<bool>()
            .is_ok_and(|flags| flags == [false]),
        // The operator itself says that training is not supported.
        Some(None) => false,
    };
    if inference {
        old.attributes.read::<i64>("seed")?;
        old.inputs = vec![Some(x)];
    }
    cx.finish(old)
}

/// `Cast`: very old files name the type.
pub(super) fn cast(old: &mut OldNode) -> Result<(), NodeError> {
    match old.attributes.take("to") {
        Some(Attribute::String(name)) => {
            let dtype = DType::from_name(&name.to_ascii_lowercase());
            let dtype = dtype.ok_or_else(|| {
                NodeError::attribute("to", format!("`{name}` is no element type"))
            })?;
            old.attributes
                .insert("to", Attribute::Int(dtype.onnx().into()));
        }
        Some(other) => old.attributes.insert("to", other),
        None => {}
    }
    Ok(())
}
