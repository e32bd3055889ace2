//! Float matrix products of two computed operands, by the rules of numpy's `matmul`.

use octofold_kernels::conv::LinearShape;
use octofold_kernels::float::linear::{MatMulData, matmul, matmul_scratch_len};
use octofold_ops::Op;
use octofold_tensor::DType;

use super::split;
use super::{Arguments, Work};
use crate::StepError;
use crate::values::numbers_mut;

/// The work of a `MatMul`: of vectors, matrices, and stacks of matrices that broadcast.
pub(super) fn bind(arguments: &Arguments<'_>, threads: usize) -> Result<Work, StepError> {
    let Op::MatMul(_) = &arguments.step.op else {
        return Err(arguments.wrong_operator());
    };
    let (a, b) = (arguments.operand(0)?, arguments.operand(1)?);
    for operand in [a, b, arguments.result()] {
        operand.expect(DType::F32)?;
    }
    // A vector is a row on the left and a column on the right, whose axis the result lacks.
    let (outer_a, rows, k) = match *a.shape {
        [k] => (&[][..], 1, k),
        [ref outer @ .., rows, k] => (outer, rows, k),
        [] => return Err(arguments.wrong_operator()),
    };
    let (outer_b, k_b, n) = match *b.shape {
        [k] => (&[][..], k, 1),
        [ref outer @ .., k, n] => (outer, k, n),
        [] => return Err(arguments.wrong_operator()),
    };
    if k != k_b || rows == 0 || k == 0 || n == 0 {
        return Err(arguments.wrong_operator());
    }
    let outer = broadcast(outer_a, outer_b).ok_or_else(|| arguments.wrong_operator())?;
    let mut result = outer.clone();
    result.extend((a.shape.len() > 1).then_some(rows));
    result.extend((b.shape.len() > 1).then_some(n));
    arguments.expect_result(&result)?;
    let (first, second) = (indices(&outer, outer_a), indices(&outer, outer_b));
    let mut products: Vec<[usize; 2]> = first.into_iter().zip(second).map(Into::into).collect();
    let mut shape = LinearShape { rows, k, n };
    // Rows that follow each other and meet the same matrix are those of one product.
    let in_order = products
        .iter()
        .enumerate()
        .all(|(i, &[a, b])| (a, b) == (i, 0));
    if in_order && !products.is_empty() {
        shape.rows *= products.len();
        products.truncate(1);
    }
    let rows = shape.rows * products.len();
    let macs = rows.saturating_mul(k).saturating_mul(n);
    let parts = split::rows(rows, macs, threads);
    let unit = parts.unit.saturating_mul(n);
    let scratch = matmul_scratch_len(&shape)?.saturating_mul(4);
    let rows = shape.rows;
    Ok(Work::new(move |call, output| {
        let (a, b) = (call.numbers::<f32>(0)?, call.numbers::<f32>(1)?);
        let each = |first: usize, output: &mut [f32], scratch: &mut [u8]| {
            let scratch = numbers_mut::<f32>(scratch)?;
            let (mut row, mut rest) = (first / n, output);
            while !rest.is_empty() {
                let (product, from) = (row / rows, row % rows);
                let count = (rows - from).min(rest.len() / n);
                let (part, behind) = std::mem::take(&mut rest).split_at_mut(count * n);
                let [of_a, of_b] = products[product];
                let data = MatMulData {
                    a: &a[of_a * rows * k..][..rows * k],
                    b: &b[of_b * k * n..][..k * n],
                };
                matmul(call.isa, &shape, data, from..from + count, scratch, part)?;
                (row, rest) = (row + count, behind);
            }
            Ok(())
        };
        (call.pool).run_units(output, unit, parts.count, scratch, each)
    }))
}

/// The shape to which two shapes broadcast.
fn broadcast(a: &[usize], b: &[usize]) -> Option<Vec<usize>> {
    let rank = a.len().max(b.len());
    let size = |shape: &[usize], axis: usize| match (axis + shape.len()).checked_sub(rank) {
        Some(axis) => shape[axis],
        None => 1,
    };
    let sizes = (0..rank).map(|axis| match (size(a, axis), size(b, axis)) {
        (1, size) | (size, 1) => Some(size),
        (a, b) => (a == b).then_some(a),
    });
    sizes.collect()
}

/// Which matrix of a stack of shape `from` is at each place of a stack of shape `to`, to which it broadcasts.
fn indices(to: &[usize], from: &[usize]) -> Vec<usize> {
    let mut indices = vec![0];
    let missing = to.len() - from.len();
    for (axis, &size) in to.iter().enumerate() {
        let own = axis.checked_sub(missing).map_or(1, |axis| from[axis]);
        let step = usize::from(own > 1);
        indices = indices
            .into_iter()
            .flat_map(|outer| (0..size).map(move |i| outer * own + i * step))
            .collect();
    }
    indices
}
