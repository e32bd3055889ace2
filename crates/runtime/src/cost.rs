//! How much work a step is.

use octofold_ops::Op;

/// The multiply-accumulates of an operator: of convolutions, matrix products and LSTMs; 0 for everything else.
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
        // Each row of a time step is multiplied by the weights and by the recurrent weights of each direction.
        Op::Lstm(_) => {
            let steps = operand(0).and_then(|x| x.get(..2)).map_or(0, elements);
            let weights = operand(1).map_or(0, elements);
            let recurrent = operand(2).map_or(0, elements);
            return steps.saturating_mul(weights.saturating_add(recurrent));
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

#[cfg(test)]
mod tests {
    use octofold_ops::AttributeMap;

    use super::*;

    #[test]
    fn an_lstm_multiplies_inputs_and_states_in_each_step_and_direction() {
        let lstm = Op::from_attributes("", "LSTM", AttributeMap::default()).expect("an LSTM");
        let operands: [Option<&[usize]>; 3] =
            [Some(&[7, 2, 3]), Some(&[2, 4 * 5, 3]), Some(&[2, 4 * 5, 5])];
        assert_eq!(
            macs(&lstm, &operands, &[7, 2, 2, 5]),
            7 * 2 * 2 * 4 * 5 * (3 + 5)
        );
    }
}
