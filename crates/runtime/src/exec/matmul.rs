//! Float matrix products of two computed operands.

use octofold_kernels::float::linear::{MatMulShape, matmul};
use octofold_ops::Op;
use octofold_tensor::DType;

use super::{Arguments, Call, Work, only};
use crate::StepError;
use crate::values::{numbers, numbers_mut};

/// From this number of products on, a second thread saves time.
const MACS: usize = 1 << 18;

#[derive(Debug)]
struct MatMul {
    shape: MatMulShape,
    /// Matrices of a part.
    part: usize,
}

/// The work of a `MatMul` of stacks of matrices; the second operand may be a single one.
pub(super) fn bind(arguments: &Arguments<'_>) -> Result<Box<dyn Work>, StepError> {
    let Op::MatMul(_) = &arguments.step.op else {
        return Err(arguments.wrong_operator());
    };
    let (a, b) = (arguments.operand(0)?, arguments.operand(1)?);
    for operand in [a, b, arguments.result()] {
        operand.expect(DType::F32)?;
    }
    let ([outer @ .., rows, k], [outer_b @ .., k_b, columns]) = (a.shape, b.shape) else {
        return Err(arguments.wrong_operator());
    };
    let (rows, k, columns) = (*rows, *k, *columns);
    let shared_b = outer_b.is_empty();
    if k != *k_b || !(shared_b || outer_b == outer) {
        return Err(arguments.wrong_operator());
    }
    arguments.expect_result(&[outer, &[rows, columns]].concat())?;
    let batch: usize = outer.iter().product();
    if batch == 0 || rows == 0 || k == 0 || columns == 0 {
        return Err(arguments.wrong_operator());
    }
    let macs = rows.saturating_mul(k).saturating_mul(columns);
    Ok(Box::new(MatMul {
        shape: MatMulShape {
            batch,
            rows,
            k,
            columns,
            transposed_a: false,
            transposed_b: false,
            shared_b,
        },
        part: (MACS / macs.max(1)).max(1),
    }))
}

impl Work for MatMul {
    fn run(&self, call: Call<'_>, outputs: &mut [&mut [u8]]) -> Result<(), StepError> {
        let (a, b) = (
            numbers::<f32>(call.operand(0))?,
            numbers::<f32>(call.operand(1))?,
        );
        let len = self.shape.rows * self.shape.columns;
        let part = self.part.saturating_mul(len);
        call.pool
            .run_parts(numbers_mut(only(outputs)?)?, part, 0, |first, output, _| {
                let batches = first / len..(first + output.len()) / len;
                Ok(matmul(call.isa, &self.shape, a, b, batches, output)?)
            })
    }
}
