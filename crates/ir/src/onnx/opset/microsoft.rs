//! The float operators of `com.microsoft` that say what ONNX says in other words; `qoperator` has the quantized ones.

use octofold_ops::{Attribute, bail_attribute};

use super::{Lowering, OldNode, coverage, encoder, qoperator};
use crate::ValueId;
use crate::onnx::error::NodeError;

/// Adds a node of `com.microsoft`, as ONNX operators.
pub(super) fn lower(cx: &mut Lowering<'_>, mut old: OldNode) -> Result<(), NodeError> {
    if !coverage::is_contributed(&old.op) {
        return Err(NodeError::Operator);
    }
    match old.op.as_str() {
        "Gelu" => cx.finish(old),
        "BiasGelu" => gelu(cx, old, "none"),
        "FastGelu" => gelu(cx, old, "tanh"),
        "QuickGelu" => {
            let alpha = old.attributes.read::<f32>("alpha")?.unwrap_or(1.702);
            old.attributes.insert("alpha", Attribute::Float(alpha));
            old.op = "Swish".to_owned();
            cx.finish(old)
        }
        "FusedMatMul" => fused_mat_mul(cx, old),
        "FusedConv" => fused_conv(cx, old),
        "SkipLayerNormalization" | "EmbedLayerNormalization" | "MatMulNBits" => {
            encoder::lower(cx, old)
        }
        _ => qoperator::lower(cx, old),
    }
}

/// `Gelu(x + bias)`; the bias may be absent.
fn gelu(cx: &mut Lowering<'_>, old: OldNode, approximate: &str) -> Result<(), NodeError> {
    let x = match (old.required(0)?, old.input(1)) {
        (x, None) => x,
        (x, Some(bias)) => cx.helper("Add", &[x, bias], &[])?,
    };
    old.refuse_attributes()?;
    cx.finish_as(
        "Gelu",
        &[x],
        &[("approximate", Attribute::String(approximate.to_owned()))],
        &old.outputs,
    )
}

/// `alpha·A'·B'`, where the last two axes may be exchanged.
fn fused_mat_mul(cx: &mut Lowering<'_>, mut old: OldNode) -> Result<(), NodeError> {
    let (mut a, mut b) = (old.required(0)?, old.required(1)?);
    let alpha = old.attributes.read::<f32>("alpha")?.unwrap_or(1.0);
    for name in ["transBatchA", "transBatchB"] {
        old.drop_attribute(name, &[0])?;
    }
    if old.attributes.read::<bool>("transA")?.unwrap_or(false) {
        a = transpose(cx, a)?;
    }
    if old.attributes.read::<bool>("transB")?.unwrap_or(false) {
        b = transpose(cx, b)?;
    }
    old.refuse_attributes()?;
    if alpha == 1.0 {
        return cx.finish_as("MatMul", &[a, b], &[], &old.outputs);
    }
    let product = cx.helper("MatMul", &[a, b], &[])?;
    let alpha = cx.number_like("alpha", alpha, product)?;
    cx.finish_as("Mul", &[product, alpha], &[], &old.outputs)
}

/// `activation(Conv(X, W, B) + Z)`, where bias and sum may be absent.
fn fused_conv(cx: &mut Lowering<'_>, mut old: OldNode) -> Result<(), NodeError> {
    old.expect_inputs(4)?;
    let activation = old.attributes.read::<String>("activation")?;
    let parameters = old.attributes.read::<Vec<f32>>("activation_params")?;
    let parameters = parameters.unwrap_or_default();
    let operands = [Some(old.required(0)?), Some(old.required(1)?), old.input(2)];
    let operands: Vec<ValueId> = operands.into_iter().flatten().collect();
    let attributes = std::mem::take(&mut old.attributes);
    let mut value = cx.helper_of("Conv", &operands, attributes)?;
    if let Some(sum) = old.input(3) {
        value = cx.helper("Add", &[value, sum], &[])?;
    }
    let op = activation.unwrap_or_default();
    let number = |value: f32| Attribute::Float(value);
    let attributes = match (op.as_str(), parameters.as_slice()) {
        ("", []) => return cx.finish_as("Identity", &[value], &[], &old.outputs),
        ("Relu" | "Tanh" | "Sigmoid", []) => vec![],
        ("LeakyRelu", &[alpha]) => vec![("alpha", number(alpha))],
        ("HardSigmoid", &[alpha, beta]) => vec![("alpha", number(alpha)), ("beta", number(beta))],
        ("Clip", &[min, max]) => {
            let (min, max) = (
                cx.number_like("min", min, value)?,
                cx.number_like("max", max, value)?,
            );
            return cx.finish_as("Clip", &[value, min, max], &[], &old.outputs);
        }
        (_, parameters) => {
            bail_attribute!(
                "activation",
                "`{op}` with {} parameters is not supported",
                parameters.len()
            );
        }
    };
    cx.finish_as(&op, &[value], &attributes, &old.outputs)
}

/// Exchanges the last two axes; a vector stays as it is.
fn transpose(cx: &mut Lowering<'_>, value: ValueId) -> Result<ValueId, NodeError> {
    let rank = cx.known_rank(value)?;
    if rank < 2 {
        return Ok(value);
    }
    let mut perm: Vec<i64> = (0..rank)
        .map(|axis| i64::try_from(axis).unwrap_or(i64::MAX))
        .collect();
    perm.swap(rank - 2, rank - 1);
    cx.helper("Transpose", &[value], &[("perm", Attribute::Ints(perm))])
}
