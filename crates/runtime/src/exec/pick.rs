//! Elements that computed indices pick along an axis.

use bytemuck::Pod;
use octofold_kernels::shared::pick::{Index, Pick};
use octofold_ops::{Op, normalize_axis};
use octofold_tensor::DType;

use super::{Arguments, BYTES, Work, part_len};
use crate::StepError;

/// The work of a `GatherElements`.
pub(super) fn bind(arguments: &Arguments<'_>) -> Result<Work, StepError> {
    let Op::GatherElements(op) = &arguments.step.op else {
        return Err(arguments.wrong_operator());
    };
    let (data, indices) = (arguments.operand(0)?, arguments.operand(1)?);
    arguments.result().expect(data.dtype)?;
    arguments.expect_result(indices.shape)?;
    let axis = normalize_axis(op.axis, data.shape.len())?;
    let pick = Pick::new(data.shape, indices.shape, axis)?;
    match (data.dtype.size(), indices.dtype) {
        (Some(1), DType::I64) => Ok(work::<u8, i64>(pick)),
        (Some(2), DType::I64) => Ok(work::<u16, i64>(pick)),
        (Some(4), DType::I64) => Ok(work::<u32, i64>(pick)),
        (Some(8), DType::I64) => Ok(work::<u64, i64>(pick)),
        (Some(1), DType::I32) => Ok(work::<u8, i32>(pick)),
        (Some(2), DType::I32) => Ok(work::<u16, i32>(pick)),
        (Some(4), DType::I32) => Ok(work::<u32, i32>(pick)),
        (Some(8), DType::I32) => Ok(work::<u64, i32>(pick)),
        _ => Err(arguments.wrong_operator()),
    }
}

fn work<T: Pod + Send + Sync, I: Index + Pod + Sync>(pick: Pick) -> Work {
    let width = pick.width();
    let part = part_len(pick.rows(), 16 * width, BYTES, 1) * width;
    Work::new(move |call, output: &mut [T]| {
        let (data, indices) = (call.numbers::<T>(0)?, call.numbers::<I>(1)?);
        call.pool.run_parts(output, part, 0, |first, output, _| {
            let indices = indices.get(first..first + output.len()).unwrap_or(&[]);
            let rows = first / width..(first + output.len()) / width;
            Ok(pick.run(data, indices, rows, output)?)
        })
    })
}
