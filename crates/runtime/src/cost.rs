//! How much work a step is.

use octofold_ops::Op;

/// The multiply-accumulates of an operator: of convolutions and matrix products; 0 for everything else.
///
/// `operands` are the sizes of the operands by slot, with the sizes of the weights before packing; `result` those of the first result.
pub fn macs(op: &Op, operands: &[Option<&[usize]>], result: &[usize]) -> u64 {
    let elements = |shape: &[usize]| {
        shape
            .iter()
            .fold(1_u64, |product, &size| product.saturating_mul(size as u64))
    };
    let operand = |slot: usize| operands.get(slot).copied().flatten();
    // Products an output of a convolution: the weights of one output channel.
    let conv = |slot| {
        operand(slot)
            .and_then(|weights| weights.get(1..))
            .map_or(0, elements)
    };
    let depth = |slot, from_back: usize| {
        let sizes = operand(slot).unwrap_or(&[]);
        let axis = sizes.len().checked_sub(from_back);
        axis.and_then(|axis| sizes.get(axis))
            .map_or(0, |&size| size as u64)
    };
    let products = match op {
        Op::Conv(_) | Op::FusedConv(_) | Op::ConvInteger(_) => conv(1),
        Op::QLinearConv(_) => conv(3),
        Op::ConvTranspose(_) => {
            return operand(0).map_or(0, elements).saturating_mul(conv(1));
        }
        Op::FusedLinear(_) | Op::MatMul(_) | Op::MatMulInteger(_) | Op::QLinearMatMul(_) => {
            depth(0, 1)
        }
        Op::Gemm(gemm) => depth(0, if gemm.transA { 2 } else { 1 }),
        _ => 0,
    };
    products.saturating_mul(elements(result))
}

/// Whether the products of [`macs`] are of integers.
pub fn is_integer(op: &Op) -> bool {
    match op {
        Op::FusedConv(op) => op.x.is_some(),
        Op::FusedLinear(op) => op.x.is_some(),
        Op::ConvInteger(_) | Op::QLinearConv(_) | Op::MatMulInteger(_) | Op::QLinearMatMul(_) => {
            true
        }
        _ => false,
    }
}
