//! Old forms of operators that move elements: their attributes became inputs, so that they may be computed.

use octofold_ops::{Attribute, bail, bail_attribute};
use octofold_tensor::Tensor;

use super::{Lowering, OldNode};
use crate::onnx::error::NodeError;

/// Refuses an old form with the inputs of a newer one.
fn expect_inputs(old: &OldNode, count: usize) -> Result<(), NodeError> {
    if old.inputs.len() > count {
        bail!(
            "has {} inputs, expected at most {count} in this opset",
            old.inputs.len()
        );
    }
    Ok(())
}

/// `Squeeze`, `Unsqueeze`, `Reduce…`: the attribute `axes` becomes the second input.
pub(super) fn axes_to_input(cx: &mut Lowering<'_>, old: &mut OldNode) -> Result<(), NodeError> {
    expect_inputs(old, 1)?;
    old.required(0)?;
    match old.attributes.read::<Vec<i64>>("axes")? {
        Some(axes) => {
            let axes = cx.ints("axes", axes)?;
            old.set_input(1, axes);
        }
        None if old.op == "Unsqueeze" => bail_attribute!("axes", "is missing"),
        None => {}
    }
    Ok(())
}

/// `Split`: before opset 13 the sizes were an attribute, before 18 the number of parts was that of the outputs.
pub(super) fn split(cx: &mut Lowering<'_>, old: &mut OldNode) -> Result<(), NodeError> {
    if old.version < 13 {
        expect_inputs(old, 1)?;
        old.required(0)?;
        if let Some(sizes) = old.attributes.read::<Vec<i64>>("split")? {
            let sizes = cx.ints("split", sizes)?;
            old.set_input(1, sizes);
        }
    }
    if old.input(1).is_none() {
        let parts = i64::try_from(old.outputs.len()).unwrap_or(i64::MAX);
        old.attributes.insert("num_outputs", Attribute::Int(parts));
    }
    Ok(())
}

/// `Slice` before opset 10: `starts`, `ends` and `axes` become inputs.
pub(super) fn slice(cx: &mut Lowering<'_>, old: &mut OldNode) -> Result<(), NodeError> {
    expect_inputs(old, 1)?;
    old.required(0)?;
    for (slot, name) in [(1, "starts"), (2, "ends"), (3, "axes")] {
        match old.attributes.read::<Vec<i64>>(name)? {
            Some(values) => {
                let values = cx.ints(name, values)?;
                old.set_input(slot, values);
            }
            None if name == "axes" => {}
            None => bail_attribute!(name, "is missing"),
        }
    }
    Ok(())
}

/// `Pad` before opset 11: `pads` and `value` become inputs.
pub(super) fn pad(cx: &mut Lowering<'_>, old: &mut OldNode) -> Result<(), NodeError> {
    expect_inputs(old, 1)?;
    let data = old.required(0)?;
    // Opset 1 called them `paddings`; some files of opset 6 still do.
    let pads = match old.attributes.read::<Vec<i64>>("pads")? {
        Some(pads) => pads,
        None => old
            .attributes
            .read("paddings")?
            .ok_or_else(|| NodeError::attribute("pads", "is missing"))?,
    };
    let pads = cx.ints("pads", pads)?;
    old.set_input(1, pads);
    let value = old.attributes.read::<f32>("value")?;
    if let Some(value) = value.filter(|&value| value != 0.0) {
        let value = cx.number_like("value", value, data)?;
        old.set_input(2, value);
    }
    Ok(())
}

/// `TopK` before opset 10: `k` becomes an input.
pub(super) fn top_k(cx: &mut Lowering<'_>, old: &mut OldNode) -> Result<(), NodeError> {
    expect_inputs(old, 1)?;
    old.required(0)?;
    let k: i64 = old
        .attributes
        .read("k")?
        .ok_or_else(|| NodeError::attribute("k", "is missing"))?;
    let k = cx.constant("k", Tensor::vector(vec![k]))?;
    old.set_input(1, k);
    Ok(())
}
