//! Functions of one float.

use octofold_kernels::float::function::{Function, function};
use octofold_ops::Op;
use octofold_tensor::DType;

use super::{Argument, Arguments, BYTES, Call, Work, only, part_len};
use crate::StepError;
use crate::values::{numbers, numbers_mut};

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

#[derive(Debug)]
struct Elementwise {
    function: Function,
    part: usize,
}

/// The work of a float function.
pub(super) fn bind(arguments: &Arguments<'_>) -> Result<Box<dyn Work>, StepError> {
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
    Ok(Box::new(Elementwise { function, part }))
}

impl Work for Elementwise {
    fn run(&self, call: Call<'_>, outputs: &mut [&mut [u8]]) -> Result<(), StepError> {
        let input = numbers::<f32>(call.operand(0))?;
        let each = |first: usize, output: &mut [f32], _: &mut [u8]| {
            let input = input.get(first..first + output.len()).unwrap_or(&[]);
            Ok(function(call.isa, self.function, input, output)?)
        };
        call.pool
            .run_parts(numbers_mut(only(outputs)?)?, self.part, 0, each)
    }
}
