//! The quantized operators of `com.microsoft`, which ONNX Runtime's quantizer writes in its QOperator form.
//!
//! Each is defined as an operator on reals between conversions: `y = quantize(op(dequantize(x), …))`. So it becomes `DequantizeLinear`, the operator of ONNX,
//! and `QuantizeLinear`, which lowering reads as it reads every other QDQ group. A zero point that is left out is 0 of the type of the operand.
//! Channels-last forms stand between transpositions.

use octofold_ops::{Attribute, bail, bail_attribute};
use octofold_tensor::{DType, Tensor};

use super::{Lowering, OldNode, arithmetic, dynamic, quantized};
use crate::ValueId;
use crate::onnx::error::NodeError;

/// Adds a quantized node of `com.microsoft`, as ONNX operators.
pub(super) fn lower(cx: &mut Lowering<'_>, mut old: OldNode) -> Result<(), NodeError> {
    match old.op.as_str() {
        "QuantizeLinear" | "DequantizeLinear" => {
            quantized::check(cx, &old)?;
            cx.finish(old)
        }
        "QLinearConv" => {
            old.drop_attribute("channels_last", &[0])?;
            quantized::check(cx, &old)?;
            cx.finish(old)
        }
        "QLinearWhere" => choice(cx, old),
        "QLinearAdd" => binary(cx, old, "Add"),
        "QLinearMul" => binary(cx, old, "Mul"),
        "QLinearSigmoid" => unary(cx, old, "Sigmoid"),
        "QLinearLeakyRelu" => unary(cx, old, "LeakyRelu"),
        "QLinearSoftmax" => softmax(cx, old),
        "QLinearGlobalAveragePool" => pool(cx, old, "GlobalAveragePool"),
        "QLinearAveragePool" => pool(cx, old, "AveragePool"),
        "QLinearConcat" => concat(cx, old),
        "QGemm" => gemm(cx, old),
        _ => dynamic::lower(cx, old),
    }
}

/// A real value from the operand at `slot`, whose scale and zero point are the next two.
fn real(cx: &mut Lowering<'_>, old: &OldNode, slot: usize) -> Result<ValueId, NodeError> {
    let x = bytes(cx, old, slot)?;
    single(cx, old, slot + 1)?;
    quantized::check_pair(cx, old.input(slot + 1), old.input(slot + 2))?;
    let scale = old.required(slot + 1)?;
    dequantize(cx, &[Some(x), Some(scale), old.input(slot + 2)], None)
}

/// A `DequantizeLinear` of operands that were checked; the zero point may be absent.
fn dequantize(
    cx: &mut Lowering<'_>,
    operands: &[Option<ValueId>],
    axis: Option<i64>,
) -> Result<ValueId, NodeError> {
    let operands: Vec<ValueId> = operands.iter().copied().flatten().collect();
    let axis = axis.map(|axis| ("axis", Attribute::Int(axis)));
    cx.helper("DequantizeLinear", &operands, axis.as_slice())
}

/// The operand at `slot`, which holds bytes.
fn bytes(cx: &Lowering<'_>, old: &OldNode, slot: usize) -> Result<ValueId, NodeError> {
    let x = old.required(slot)?;
    match cx.ty(x).dtype {
        DType::U8 | DType::I8 => Ok(x),
        other => bail!("input {slot} has elements of type {other}, expected u8 or i8"),
    }
}

/// Refuses a scale, or another parameter, of more than one element.
fn single(cx: &Lowering<'_>, old: &OldNode, slot: usize) -> Result<(), NodeError> {
    let value = old.required(slot)?;
    match cx.ty(value).known_shape() {
        Some(shape) if shape.iter().product::<usize>() != 1 => {
            Err(NodeError::Quantization(format!(
                "the scale `{}` has the dimensions {shape:?}, expected one element",
                cx.graph.value(value).name()
            )))
        }
        _ => Ok(()),
    }
}

/// The results of the file from a real value, by the scale at the slot `scale` and the zero point at the next; without a zero point it is 0 of the type of `like`.
fn quantize(
    cx: &mut Lowering<'_>,
    old: &OldNode,
    value: ValueId,
    scale: usize,
    like: ValueId,
) -> Result<(), NodeError> {
    single(cx, old, scale)?;
    let zero_point = old.input(scale + 1);
    quantized::check_pair(cx, old.input(scale), zero_point)?;
    let zero_point = match zero_point {
        Some(zero_point) => zero_point,
        None => {
            let zero = match cx.ty(like).dtype {
                DType::I8 => Tensor::scalar(0_i8),
                _ => Tensor::scalar(0_u8),
            };
            cx.constant("zero_point", zero)?
        }
    };
    let operands = [value, old.required(scale)?, zero_point];
    cx.finish_as("QuantizeLinear", &operands, &[], &old.outputs)
}

/// `A`, its parameters, `B`, its parameters, those of the result.
fn binary(cx: &mut Lowering<'_>, old: OldNode, op: &str) -> Result<(), NodeError> {
    old.expect_inputs(8)?;
    old.refuse_attributes()?;
    let like = bytes(cx, &old, 0)?;
    let operands = [real(cx, &old, 0)?, real(cx, &old, 3)?];
    let value = cx.helper(op, &operands, &[])?;
    quantize(cx, &old, value, 6, like)
}

/// The condition, `X`, its parameters, `Y`, its parameters, those of the result.
fn choice(cx: &mut Lowering<'_>, old: OldNode) -> Result<(), NodeError> {
    old.expect_inputs(9)?;
    old.refuse_attributes()?;
    let like = bytes(cx, &old, 1)?;
    let operands = [old.required(0)?, real(cx, &old, 1)?, real(cx, &old, 4)?];
    let value = cx.helper("Where", &operands, &[])?;
    quantize(cx, &old, value, 7, like)
}

/// `X`, its parameters, those of the result. The attributes are those of the operator on reals.
fn unary(cx: &mut Lowering<'_>, mut old: OldNode, op: &str) -> Result<(), NodeError> {
    old.expect_inputs(5)?;
    let like = bytes(cx, &old, 0)?;
    let x = real(cx, &old, 0)?;
    let attributes = std::mem::take(&mut old.attributes);
    let value = cx.helper_of(op, &[x], attributes)?;
    quantize(cx, &old, value, 3, like)
}

/// As [`unary`]; with `channels_last` the channels are the last axis of operand and result.
fn pool(cx: &mut Lowering<'_>, mut old: OldNode, op: &str) -> Result<(), NodeError> {
    if !old
        .attributes
        .read::<bool>("channels_last")?
        .unwrap_or(false)
    {
        return unary(cx, old, op);
    }
    old.expect_inputs(5)?;
    let like = bytes(cx, &old, 0)?;
    let rank = i64::try_from(cx.known_rank(like)?).unwrap_or(i64::MAX);
    if rank < 3 {
        bail!("input 0 has rank {rank}, expected 3 or more");
    }
    let first = [0, rank - 1].into_iter().chain(1..rank - 1).collect();
    let last = [0].into_iter().chain(2..rank).chain([1]).collect();
    let x = real(cx, &old, 0)?;
    let x = cx.helper("Transpose", &[x], &[("perm", Attribute::Ints(first))])?;
    let attributes = std::mem::take(&mut old.attributes);
    let value = cx.helper_of(op, &[x], attributes)?;
    let value = cx.helper("Transpose", &[value], &[("perm", Attribute::Ints(last))])?;
    quantize(cx, &old, value, 3, like)
}

/// `opset` says which form of `Softmax` is meant: before 13 the axes from `axis` on are one.
fn softmax(cx: &mut Lowering<'_>, mut old: OldNode) -> Result<(), NodeError> {
    let Some(opset) = old.attributes.read::<i64>("opset")? else {
        bail_attribute!("opset", "is missing");
    };
    let axis = old.attributes.read::<i64>("axis")?.unwrap_or(-1);
    if opset < 13 {
        let rank = cx.known_rank(old.required(0)?)?;
        if arithmetic::normalize(axis, rank)? + 1 != rank {
            bail_attribute!(
                "axis",
                "only the last axis is supported with opset {opset}, found {axis}"
            );
        }
    }
    old.attributes.insert("axis", Attribute::Int(axis));
    unary(cx, old, "Softmax")
}

/// The parameters of the result, then each operand with its own.
fn concat(cx: &mut Lowering<'_>, mut old: OldNode) -> Result<(), NodeError> {
    let count = old.inputs.len().saturating_sub(2).div_ceil(3);
    if count == 0 {
        return Err(NodeError::MissingInput(2));
    }
    let Some(axis) = old.attributes.read::<i64>("axis")? else {
        bail_attribute!("axis", "is missing");
    };
    old.refuse_attributes()?;
    let like = bytes(cx, &old, 2)?;
    let mut operands = Vec::with_capacity(count);
    for index in 0..count {
        operands.push(real(cx, &old, 2 + 3 * index)?);
    }
    let value = cx.helper("Concat", &operands, &[("axis", Attribute::Int(axis))])?;
    quantize(cx, &old, value, 0, like)
}

/// `alpha·A'·B' + C`, where `C` is i32 on the scale `alpha·a_scale·b_scale`; a quantized result has a scale and a zero point, a float one neither.
fn gemm(cx: &mut Lowering<'_>, mut old: OldNode) -> Result<(), NodeError> {
    old.expect_inputs(9)?;
    let alpha = old.attributes.read::<f32>("alpha")?.unwrap_or(1.0);
    let trans_a = old.attributes.read::<bool>("transA")?.unwrap_or(false);
    let trans_b = old.attributes.read::<bool>("transB")?.unwrap_or(false);
    old.refuse_attributes()?;
    if !alpha.is_finite() {
        bail_attribute!("alpha", "{alpha} is no factor");
    }
    if old.input(7).is_some() != old.input(8).is_some() {
        bail!("has one of y_scale and y_zero_point, expected both or none");
    }
    let like = bytes(cx, &old, 0)?;
    let a = real(cx, &old, 0)?;
    quantized::check_pair(cx, old.input(4), old.input(5))?;
    let (a_scale, b_scale) = (old.required(1)?, old.required(4)?);
    // A positive factor belongs to the scale of the weights, where it costs nothing.
    let scaled = scale_by(cx, b_scale, alpha)?;
    let b = [
        Some(bytes(cx, &old, 3)?),
        Some(scaled.unwrap_or(b_scale)),
        old.input(5),
    ];
    let b = dequantize(cx, &b, Some(i64::from(!trans_b)))?;
    let mut operands = vec![a, b];
    if let Some(c) = old.input(6) {
        if cx.ty(c).dtype != DType::I32 {
            bail!(
                "input 6 has elements of type {}, expected i32",
                cx.ty(c).dtype
            );
        }
        let scale = bias_scale(cx, a_scale, scaled.unwrap_or(b_scale))?;
        // There is one scale a column, along the last axis.
        let scale = dequantize(cx, &[Some(c), Some(scale)], Some(-1))?;
        operands.push(scale);
    }
    let factor = if scaled.is_some() { 1.0 } else { alpha };
    let attributes = [
        ("alpha", Attribute::Float(factor)),
        ("beta", Attribute::Float(factor)),
        ("transA", Attribute::Int(trans_a.into())),
        ("transB", Attribute::Int(trans_b.into())),
    ];
    if old.input(7).is_none() {
        return cx.finish_as("Gemm", &operands, &attributes, &old.outputs);
    }
    let value = cx.helper("Gemm", &operands, &attributes)?;
    quantize(cx, &old, value, 7, like)
}

/// Constant scales times a factor, when that gives scales.
fn scale_by(
    cx: &mut Lowering<'_>,
    scale: ValueId,
    factor: f32,
) -> Result<Option<ValueId>, NodeError> {
    let scaled = cx.constant_of(scale).and_then(|tensor| {
        let values = tensor.values::<f32>().ok()?;
        let scaled: Vec<f32> = values.iter().map(|value| value * factor).collect();
        let sound = scaled.iter().all(|value| value.is_normal() && *value > 0.0);
        let shape = tensor.shape().iter().copied();
        sound.then(|| Tensor::new(shape, scaled).ok()).flatten()
    });
    match scaled {
        Some(_) if factor == 1.0 => Ok(Some(scale)),
        Some(tensor) => cx.constant("scale", tensor).map(Some),
        None => Ok(None),
    }
}

/// The scale of a bias: the product of those of the operands, computed where they are constant.
fn bias_scale(cx: &mut Lowering<'_>, a: ValueId, b: ValueId) -> Result<ValueId, NodeError> {
    let factor = cx.constant_of(a).and_then(|tensor| {
        let values = tensor.values::<f32>().ok()?;
        values.first().copied()
    });
    if let Some(factor) = factor
        && let Some(scale) = scale_by(cx, b, factor)?
    {
        return Ok(scale);
    }
    cx.helper("Mul", &[a, b], &[])
}
