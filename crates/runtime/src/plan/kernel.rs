//! The kernels that steps name: what computes a step, and what it wants of it.

/// How a step is computed. The comments name the operator, and the packed constants in their order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Kernel {
    /// Any operator, by its portable implementation on tensors.
    Portable,
    /// The result is the operand's memory under another shape: `Reshape`, `Flatten`, `Squeeze`, `Unsqueeze`, `Identity`, `Dropout`, `Observe`, and a
    /// `Transpose` that moves axes of size 1 only.
    View,
    /// Integer `FusedConv`, channels-last. Packed: weights; folded bias (i32); multiplier (f32). With float results: weights; correction (i32);
    /// scale (f32); bias (f32).
    QConv,
    /// [`Kernel::QConv`] with one group a channel.
    QConvDepthwise,
    /// [`Kernel::QConv`] with float results, and the `Transpose` behind it to channels-first.
    QConvToNchw,
    /// [`Kernel::QConvToNchw`] with one group a channel.
    QConvDepthwiseToNchw,
    /// [`Kernel::QConvDepthwiseToNchw`] with the `Transpose` before it too: images lie channels-first on both sides. Its weights are packed in a
    /// form of their own. Of floats, it has the `QuantizeLinear` before the `Transpose` too, whose scale and zero point are operands 1 and 2.
    QConvDepthwisePlanes,
    /// Integer `FusedLinear`; packed as [`Kernel::QConv`].
    QLinear,
    /// Float `FusedConv`, channels-last. Packed: weights; bias (f32).
    FConv,
    /// [`Kernel::FConv`] with one group a channel.
    FConvDepthwise,
    /// Float `FusedLinear`. Packed: weights; bias (f32).
    FLinear,
    /// Quantized `FusedBinary` sum.
    QAdd,
    /// Quantized `FusedBinary` product.
    QMul,
    /// `FusedConcat`.
    QConcat,
    /// Maximum `FusedPool` or `FusedGlobalPool` of bytes, channels-last.
    QMaxPool,
    /// Average `FusedPool` of bytes, channels-last.
    QAveragePool,
    /// Average `FusedGlobalPool` of bytes, channels-last.
    QGlobalAveragePool,
    /// `Concat` of elements of one or four bytes.
    Concat,
    /// `TableLookup` in a constant table.
    QTable,
    /// `QuantizeLinear` to bytes with one constant scale.
    Quantize,
    /// [`Kernel::Quantize`] of channels-first floats to channels-last bytes.
    QuantizeToNhwc,
    /// `DequantizeLinear` of bytes with one constant scale.
    Dequantize,
    /// [`Kernel::Dequantize`] of channels-last bytes to channels-first floats.
    DequantizeToNchw,
    /// `Transpose` from channels-first to channels-last.
    ToNhwc,
    /// `Transpose` from channels-last to channels-first.
    ToNchw,
    /// Operators that move elements of one or four bytes along their axes, by constant lists: `Slice`, nearest `Resize`, `Transpose`, constant `Pad`,
    /// `DepthToSpace`, `Expand`, `Tile`, `Gather` with a list of indices.
    Move,
    /// Maximum `FusedPool` or `FusedGlobalPool` of floats, channels-last.
    FMaxPool,
    /// Average `FusedPool` of floats, channels-last.
    FAveragePool,
    /// Average `FusedGlobalPool` of floats, channels-last.
    FGlobalAveragePool,
    /// Float `Relu`, and `Clip` with constant bounds.
    FClip,
    /// Float `Exp`, `Sigmoid`, `HardSigmoid` and `HardSwish`.
    FFunction,
    /// Float `Softmax` along the last axis.
    FSoftmax,
    /// Float `MatMul` of two stacks of matrices, or of a stack and one matrix.
    FMatMul,
    /// Float `Add`, `Sub`, `Mul`, `Div` and `FusedBinary`, of operands that broadcast.
    FBinary,
}

impl Kernel {
    /// Every kernel.
    pub const ALL: [Self; 34] = [
        Self::Portable,
        Self::View,
        Self::QConv,
        Self::QConvDepthwise,
        Self::QConvToNchw,
        Self::QConvDepthwiseToNchw,
        Self::QConvDepthwisePlanes,
        Self::QLinear,
        Self::FConv,
        Self::FConvDepthwise,
        Self::FLinear,
        Self::QAdd,
        Self::QMul,
        Self::QConcat,
        Self::Concat,
        Self::QMaxPool,
        Self::QAveragePool,
        Self::QGlobalAveragePool,
        Self::QTable,
        Self::Quantize,
        Self::QuantizeToNhwc,
        Self::Dequantize,
        Self::DequantizeToNchw,
        Self::ToNhwc,
        Self::ToNchw,
        Self::Move,
        Self::FMaxPool,
        Self::FAveragePool,
        Self::FGlobalAveragePool,
        Self::FClip,
        Self::FFunction,
        Self::FSoftmax,
        Self::FMatMul,
        Self::FBinary,
    ];

    /// The name in files and reports.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Portable => "portable",
            Self::View => "view",
            Self::QConv => "qconv",
            Self::QConvDepthwise => "qconv_depthwise",
            Self::QConvToNchw => "qconv_to_nchw",
            Self::QConvDepthwiseToNchw => "qconv_depthwise_to_nchw",
            Self::QConvDepthwisePlanes => "qconv_depthwise_planes",
            Self::QLinear => "qlinear",
            Self::FConv => "fconv",
            Self::FConvDepthwise => "fconv_depthwise",
            Self::FLinear => "flinear",
            Self::QAdd => "qadd",
            Self::QMul => "qmul",
            Self::QConcat => "qconcat",
            Self::Concat => "concat",
            Self::QMaxPool => "qmax_pool",
            Self::QAveragePool => "qaverage_pool",
            Self::QGlobalAveragePool => "qglobal_average_pool",
            Self::QTable => "qtable",
            Self::Quantize => "quantize",
            Self::QuantizeToNhwc => "quantize_to_nhwc",
            Self::Dequantize => "dequantize",
            Self::DequantizeToNchw => "dequantize_to_nchw",
            Self::ToNhwc => "to_nhwc",
            Self::ToNchw => "to_nchw",
            Self::Move => "move",
            Self::FMaxPool => "fmax_pool",
            Self::FAveragePool => "faverage_pool",
            Self::FGlobalAveragePool => "fglobal_average_pool",
            Self::FClip => "fclip",
            Self::FFunction => "ffunction",
            Self::FSoftmax => "fsoftmax",
            Self::FMatMul => "fmatmul",
            Self::FBinary => "fbinary",
        }
    }

    /// The kernel of a name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kernel| kernel.name() == name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_find_their_kernels() {
        for kernel in Kernel::ALL {
            assert_eq!(Kernel::from_name(kernel.name()), Some(kernel));
        }
    }
}
