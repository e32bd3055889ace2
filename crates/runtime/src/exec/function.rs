//! Functions of one float.

use octofold_kernels::float::function::{self, Function};
use octofold_ops::Op;
use octofold_tensor::DType;

use super::{Argument, Arguments, BYTES, Work, part_len};
use crate::StepError;

/// The only element of a constant.
fn exponent(operand: Argument<'_>) -> Option<f64> {
    let bytes = operand.constant?;
    Some(match operand.dtype {
        DType::F32 => f32::from_le_bytes(bytes.try_into().ok()?).into(),
        DType::F64 => f64::from_le_bytes(bytes.try_into().ok()?),
        DType::I32 => i32::from_le_bytes(bytes.try_into().ok()?).into(),
        DType::I64 => i64::from_le_bytes(bytes.try_into().ok()?) as f64,
        _ => return None,
    })
}

/// The work of a float function.
pub(super) fn bind(arguments: &Arguments<'_>) -> Result<Work, StepError> {
    let function = match &arguments.step.op {
        Op::Pow(_) => exponent(arguments.operand(1)?).map(|exponent| Function::Power { exponent }),
        op => op.float_function(),
    };
    let function = function.ok_or_else(|| arguments.wrong_operator())?;
    let operand = arguments.operand(0)?;
    operand.expect(DType::F32)?;
    arguments.result().expect(DType::F32)?;
    arguments.expect_result(operand.shape)?;
    let part = part_len(operand.len(), 16, BYTES, 64);
    Ok(Work::of_elements(part, move |isa, input, output| {
        function::function(isa, function, input, output)
    }))
}
