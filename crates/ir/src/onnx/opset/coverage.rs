//! The operators that files may hold, as data: what the documentation's table is made of.

use std::ops::RangeInclusive;

use octofold_ops::Op;

use super::super::functions::{NEWEST, OLDEST};
use super::since;

/// An operator that a file may hold, and what it is read as.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReadableOperator {
    /// The domain; empty for ONNX's own.
    pub domain: &'static str,
    /// The name in the file.
    pub name: &'static str,
    /// The versions of the domain's opset in which it is read; only ONNX's own has several.
    pub opsets: RangeInclusive<i64>,
    /// The operators of ONNX that it becomes, in words; empty when it is itself.
    pub becomes: &'static str,
}

/// The operators of ONNX that are none of the newest opset, or become constants.
const RENAMED: [(&str, &str); 3] = [
    ("Constant", "a constant of the graph"),
    ("Scatter", "ScatterElements"),
    ("Upsample", "Resize"),
];

/// The operators of `com.microsoft` that are read.
const CONTRIBUTED: [(&str, &str); 25] = [
    ("BiasGelu", "Add, Gelu"),
    ("DequantizeLinear", "DequantizeLinear"),
    (
        "DynamicQuantizeLSTM",
        "DynamicQuantizeLinear, DequantizeLinear, LSTM",
    ),
    (
        "DynamicQuantizeMatMul",
        "DynamicQuantizeLinear, MatMulInteger, Mul, Add",
    ),
    (
        "EmbedLayerNormalization",
        "Gather, Add, LayerNormalization, ReduceSum",
    ),
    ("FastGelu", "Add, Gelu"),
    ("FusedConv", "Conv, Add, the activation"),
    ("FusedMatMul", "Transpose, MatMul, Mul"),
    ("Gelu", "Gelu"),
    ("MatMulIntegerToFloat", "MatMulInteger, Mul, Add"),
    ("MatMulNBits", "DequantizeLinear by blocks, MatMul, Add"),
    ("QGemm", "DequantizeLinear, Gemm, QuantizeLinear"),
    ("QLinearAdd", "DequantizeLinear, Add, QuantizeLinear"),
    (
        "QLinearAveragePool",
        "DequantizeLinear, AveragePool, QuantizeLinear",
    ),
    ("QLinearConcat", "DequantizeLinear, Concat, QuantizeLinear"),
    ("QLinearConv", "QLinearConv"),
    (
        "QLinearGlobalAveragePool",
        "DequantizeLinear, GlobalAveragePool, QuantizeLinear",
    ),
    (
        "QLinearLeakyRelu",
        "DequantizeLinear, LeakyRelu, QuantizeLinear",
    ),
    ("QLinearMul", "DequantizeLinear, Mul, QuantizeLinear"),
    (
        "QLinearSigmoid",
        "DequantizeLinear, Sigmoid, QuantizeLinear",
    ),
    (
        "QLinearSoftmax",
        "DequantizeLinear, Softmax, QuantizeLinear",
    ),
    ("QLinearWhere", "DequantizeLinear, Where, QuantizeLinear"),
    ("QuantizeLinear", "QuantizeLinear"),
    ("QuickGelu", "Swish"),
    ("SkipLayerNormalization", "Add, LayerNormalization"),
];

/// Whether an operator of `com.microsoft` is read.
pub(super) fn is_contributed(name: &str) -> bool {
    CONTRIBUTED.iter().any(|(known, _)| *known == name)
}

/// Every operator that a file may hold: those of ONNX, then those of `com.microsoft`, each by name.
pub fn readable_operators() -> Vec<ReadableOperator> {
    let own = Op::NAMES.iter().filter(|(domain, _)| domain.is_empty());
    let own = own.map(|&(_, name)| (name, ""));
    let mut all: Vec<ReadableOperator> = own
        .chain(RENAMED)
        .map(|(name, becomes)| ReadableOperator {
            domain: "",
            name,
            opsets: since(name).max(OLDEST)..=NEWEST,
            becomes,
        })
        .collect();
    all.extend(CONTRIBUTED.map(|(name, becomes)| ReadableOperator {
        domain: "com.microsoft",
        name,
        opsets: 1..=1,
        becomes,
    }));
    all.sort_by_key(|operator| (operator.domain, operator.name));
    all
}
