//! What the importer asks of quantization parameters.
//!
//! A scale that is zero, negative, infinite or not a number passes any shape check and turns every result into nonsense; it
//! is refused when the file is read, where the tensor still has a name.

use octofold_tensor::{Tensor, TensorData};

use super::{Lowering, OldNode};
use crate::ValueId;
use crate::onnx::error::NodeError;

/// Checks the constant scales of a quantized operator, and that zero points suit them.
pub(super) fn check(cx: &Lowering<'_>, old: &OldNode) -> Result<(), NodeError> {
    // Scale and zero point, by slot.
    let pairs: &[(usize, usize)] = match old.op.as_str() {
        "QuantizeLinear" | "DequantizeLinear" => &[(1, 2)],
        "QLinearConv" | "QLinearMatMul" => &[(1, 2), (4, 5), (6, 7)],
        _ => &[],
    };
    for &(scale, zero_point) in pairs {
        check_pair(cx, old.input(scale), old.input(zero_point))?;
    }
    Ok(())
}

/// Checks a scale, where it is constant, and that a zero point suits it; either may be left out.
pub(super) fn check_pair(
    cx: &Lowering<'_>,
    scale: Option<ValueId>,
    zero_point: Option<ValueId>,
) -> Result<(), NodeError> {
    let Some(scale) = scale else {
        return Ok(());
    };
    let name = cx.graph.value(scale).name();
    if let Some(bad) = cx.constant_of(scale).and_then(bad_scale) {
        return Err(NodeError::Quantization(format!(
            "the scale `{name}` holds {bad}; a scale is finite and positive"
        )));
    }
    let Some(zero_point) = zero_point else {
        return Ok(());
    };
    if let (Some(scales), Some(zero_points)) =
        (cx.ty(scale).known_shape(), cx.ty(zero_point).known_shape())
        && scales != zero_points
        && (
            scales.iter().product::<usize>(),
            zero_points.iter().product::<usize>(),
        ) != (1, 1)
    {
        let other = cx.graph.value(zero_point).name();
        return Err(NodeError::Quantization(format!(
            "the scale `{name}` has the dimensions {scales:?}, the zero point `{other}` {zero_points:?}; their length has to be the same"
        )));
    }
    Ok(())
}

/// The first scale that is none.
fn bad_scale(scale: &Tensor) -> Option<f64> {
    let bad = |value: &f64| !(value.is_finite() && *value > 0.0);
    match scale.data() {
        TensorData::F32(values) => values.iter().copied().map(f64::from).find(bad),
        TensorData::F64(values) => values.iter().copied().find(bad),
        TensorData::F16(values) => values.iter().copied().map(f64::from).find(bad),
        TensorData::BF16(values) => values.iter().copied().map(f64::from).find(bad),
        _ => None,
    }
}
