//! The amount of work in a step.

use crate::Op;
use crate::families::Product;

/// The operations that each step in a body counts as at least: about what starting it takes.
pub const STEP: u64 = 1 << 10;

/// The operations that the steps of all bodies of a run may take, unless the caller says otherwise: minutes.
pub const BODY_OPERATIONS: u64 = 1 << 40;

/// The number of multiply-accumulates of a convolution, matrix product or recurrent layer; 0 for every other operator.
///
/// `operands` are the sizes of the operands by slot, with the sizes of the weights before packing; `result` those of the first result.
pub fn macs(op: &Op, operands: &[Option<&[usize]>], result: &[usize]) -> u64 {
    let elements = |shape: &[usize]| {
        shape
            .iter()
            .fold(1_u64, |product, &size| product.saturating_mul(size as u64))
    };
    let operand = |slot: usize| operands.get(slot).copied().flatten();
    // The products for one output of a convolution: the weights of one output channel.
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
        Op::Lstm(_) | Op::Gru(_) | Op::Rnn(_) => {
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

/// The approximate number of elementary operations of the portable operator: at least one for each element of an operand or result, plus
/// [`macs`], the elements of all windows, and the pairs of boxes.
pub fn operations(op: &Op, operands: &[Option<&[usize]>], results: &[&[usize]]) -> u64 {
    let count = |shape: &[usize]| {
        let sizes = shape.iter().map(|&size| size as u64);
        sizes.fold(1_u64, u64::saturating_mul)
    };
    let moved = operands.iter().flatten().chain(results);
    let moved = moved.fold(0_u64, |sum, shape| sum.saturating_add(count(shape)));
    let result = results.first().copied().unwrap_or(&[]);
    let window = |sizes: &[i64]| {
        let sizes = sizes.iter().map(|&size| size.unsigned_abs());
        sizes.fold(count(result), u64::saturating_mul)
    };
    let repeated = match op {
        Op::MaxPool(op) => window(&op.kernel_shape),
        Op::AveragePool(op) => window(&op.kernel_shape),
        // Every box may be compared with every other one of its class.
        Op::NonMaxSuppression(_) => {
            let scores = operands.get(1).copied().flatten().unwrap_or(&[]);
            count(scores).saturating_mul(scores.last().map_or(0, |&boxes| boxes as u64))
        }
        _ => macs(op, operands, result),
    };
    moved.saturating_add(repeated)
}

/// The number of bytes that an operator reads from the operand in `slot`, which has `bytes`, to compute `results` bytes of results. That is all of
/// them, unless the operator picks elements of its first operand or needs only its sizes.
pub fn bytes_read(op: &Op, slot: usize, bytes: u64, results: u64) -> u64 {
    match op {
        Op::Shape(_) | Op::Size(_) => 0,
        Op::Slice(_) | Op::Gather(_) | Op::GatherElements(_) | Op::GatherND(_) if slot == 0 => {
            bytes.min(results)
        }
        _ => bytes,
    }
}

/// Whether the products that [`macs`] counts are products of integers.
pub fn is_integer(op: &Op) -> bool {
    match op {
        Op::ConvInteger(_) | Op::QLinearConv(_) | Op::MatMulInteger(_) | Op::QLinearMatMul(_) => {
            true
        }
        op => matches!(op.product(), Some(Product::Integer(_))),
    }
}

#[cfg(test)]
mod tests {
    use crate::AttributeMap;

    use super::*;

    #[test]
    fn what_picks_elements_reads_no_more_of_them_than_it_gives() {
        let op =
            |name| Op::from_attributes("", name, AttributeMap::default()).expect("an operator");
        assert_eq!(bytes_read(&op("Gather"), 0, 1 << 30, 64), 64);
        assert_eq!(bytes_read(&op("Gather"), 1, 128, 64), 128);
        assert_eq!(bytes_read(&op("Shape"), 0, 1 << 30, 32), 0);
        assert_eq!(bytes_read(&op("Relu"), 0, 128, 64), 128);
    }

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
