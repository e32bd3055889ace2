//! The operators of `com.microsoft` that ONNX Runtime's dynamic quantizer writes.
//!
//! Activations are quantized as they come, by one scale for the whole tensor, so that products are `MatMulInteger` between conversions and give the results of
//! ONNX Runtime to the bit. A layer of `DynamicQuantizeLSTM` quantizes its input so, too; its states stay real between the steps, where ONNX Runtime
//! quantizes them at each: standard ONNX has no such layer, and the difference is a part of the error of their quantization.

use octofold_ops::Attribute;
use octofold_tensor::DType;

use super::{Lowering, OldNode, quantized};
use crate::ValueId;
use crate::onnx::error::NodeError;

/// Adds a dynamically quantized node.
pub(super) fn lower(cx: &mut Lowering<'_>, old: OldNode) -> Result<(), NodeError> {
    match old.op.as_str() {
        "MatMulIntegerToFloat" => integer_to_float(cx, old),
        "DynamicQuantizeMatMul" => mat_mul(cx, old),
        "DynamicQuantizeLSTM" => lstm(cx, old),
        _ => Err(NodeError::Operator),
    }
}

/// `A`, `B`, their scales, their zero points, a bias in float.
fn integer_to_float(cx: &mut Lowering<'_>, old: OldNode) -> Result<(), NodeError> {
    old.expect_inputs(7)?;
    old.refuse_attributes()?;
    for (scale, zero_point) in [(2, 4), (3, 5)] {
        quantized::check_pair(cx, old.input(scale), old.input(zero_point))?;
    }
    let a = (old.required(0)?, old.required(2)?, old.input(4));
    let b = (old.required(1)?, old.required(3)?, old.input(5));
    product(cx, a, b, old.input(6), &old.outputs)
}

/// `A` in float, `B` with its scale and zero point, a bias in float.
fn mat_mul(cx: &mut Lowering<'_>, old: OldNode) -> Result<(), NodeError> {
    old.expect_inputs(5)?;
    old.refuse_attributes()?;
    quantized::check_pair(cx, old.input(2), old.input(3))?;
    let a = dynamically_quantized(cx, old.required(0)?)?;
    let b = (old.required(1)?, old.required(2)?, old.input(3));
    product(cx, (a[0], a[1], Some(a[2])), b, old.input(4), &old.outputs)
}

/// Integers, scale and zero point of a tensor by its own range.
fn dynamically_quantized(cx: &mut Lowering<'_>, x: ValueId) -> Result<[ValueId; 3], NodeError> {
    let results = cx.helper_results("DynamicQuantizeLinear", &[Some(x)], &[], 3)?;
    <[ValueId; 3]>::try_from(results).map_err(|_| NodeError::Operator)
}

/// An integer matrix, its scale and its zero point.
type Factor = (ValueId, ValueId, Option<ValueId>);

/// `f32(A·B)·(scale_a·scale_b) + bias`.
fn product(
    cx: &mut Lowering<'_>,
    a: Factor,
    b: Factor,
    bias: Option<ValueId>,
    outputs: &[String],
) -> Result<(), NodeError> {
    let operands = [Some(a.0), Some(b.0), a.2, b.2];
    let sums = cx.helper_results("MatMulInteger", &operands, &[], 1)?;
    let float = ("to", Attribute::Int(DType::F32.onnx().into()));
    let sums = cx.helper("Cast", &sums, &[float])?;
    let scale = cx.helper("Mul", &[a.1, b.1], &[])?;
    let Some(bias) = bias else {
        return cx.finish_as("Mul", &[sums, scale], &[], outputs);
    };
    let product = cx.helper("Mul", &[sums, scale], &[])?;
    cx.finish_as("Add", &[product, bias], &[], outputs)
}

/// As `LSTM`, with weights [directions, input, 4·hidden] and [directions, hidden, 4·hidden]; behind the peepholes scale and zero point of both, for each
/// direction or for each of its columns.
fn lstm(cx: &mut Lowering<'_>, mut old: OldNode) -> Result<(), NodeError> {
    old.expect_inputs(12)?;
    let [integers, scale, zero_point] = dynamically_quantized(cx, old.required(0)?)?;
    let x = cx.helper("DequantizeLinear", &[integers, scale, zero_point], &[])?;
    let w = recurrent_weights(cx, &old, 1, 8)?;
    let r = recurrent_weights(cx, &old, 2, 10)?;
    old.inputs.truncate(8);
    for (slot, value) in [x, w, r].into_iter().enumerate() {
        old.set_input(slot, value);
    }
    while old.inputs.last() == Some(&None) {
        old.inputs.pop();
    }
    old.op = "LSTM".to_owned();
    cx.finish(old)
}

/// The real weights at a slot, by the scale and zero point at another, in the order of axes of ONNX.
fn recurrent_weights(
    cx: &mut Lowering<'_>,
    old: &OldNode,
    slot: usize,
    scale_slot: usize,
) -> Result<ValueId, NodeError> {
    let integers = old.required(slot)?;
    let (scale, zero_point) = (old.required(scale_slot)?, old.required(scale_slot + 1)?);
    quantized::check_pair(cx, Some(scale), Some(zero_point))?;
    let real = if cx.known_rank(scale)? < 2 {
        let axis = ("axis", Attribute::Int(0));
        cx.helper("DequantizeLinear", &[integers, scale, zero_point], &[axis])?
    } else {
        // A scale for each column of each direction has two axes, which no DequantizeLinear has.
        let float = [("to", Attribute::Int(DType::F32.onnx().into()))];
        let rows = cx.ints("rows", vec![1])?;
        let q = cx.helper("Cast", &[integers], &float)?;
        let zero_point = cx.helper("Cast", &[zero_point], &float)?;
        let zero_point = cx.helper("Unsqueeze", &[zero_point, rows], &[])?;
        let scale = cx.helper("Unsqueeze", &[scale, rows], &[])?;
        let difference = cx.helper("Sub", &[q, zero_point], &[])?;
        cx.helper("Mul", &[difference, scale], &[])?
    };
    let perm = ("perm", Attribute::Ints(vec![0, 2, 1]));
    cx.helper("Transpose", &[real], &[perm])
}
