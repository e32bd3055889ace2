//! Old forms of `Resize`.

use octofold_ops::{Attribute, bail};
use octofold_tensor::Tensor;

use super::{Lowering, OldNode};
use crate::onnx::error::NodeError;

/// `Upsample`: the scales are an attribute before opset 9, then the second input.
pub(super) fn upsample(cx: &mut Lowering<'_>, old: &mut OldNode) -> Result<(), NodeError> {
    old.required(0)?;
    if old.version < 9 {
        let scales: Vec<f32> = old
            .attributes
            .read("scales")?
            .ok_or_else(|| NodeError::attribute("scales", "is missing"))?;
        old.inputs.truncate(1);
        let scales = cx.constant("scales", Tensor::vector(scales))?;
        old.set_input(1, scales);
    }
    old.op = "Resize".to_owned();
    resize_10(old)
}

/// `Resize` of opset 10: the scales are the second input, positions are cut off.
pub(super) fn resize_10(old: &mut OldNode) -> Result<(), NodeError> {
    let scales = old.required(1)?;
    if old.inputs.len() > 2 {
        bail!("has {} inputs, expected 2 in this opset", old.inputs.len());
    }
    if let Some(slot) = old.inputs.get_mut(1) {
        *slot = None;
    }
    old.set_input(2, scales);
    // Opset 1 knew `bilinear`.
    let mode: Option<String> = old.attributes.read("mode")?;
    if let Some(mode) = mode {
        let mode = if mode == "bilinear" {
            "linear".to_owned()
        } else {
            mode
        };
        old.attributes.insert("mode", Attribute::String(mode));
    }
    for (name, word) in [
        ("coordinate_transformation_mode", "asymmetric"),
        ("nearest_mode", "floor"),
    ] {
        old.set_default(name, Attribute::String(word.to_owned()));
    }
    Ok(())
}
