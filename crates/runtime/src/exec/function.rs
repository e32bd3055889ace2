//! Functions of one float.

use octofold_kernels::float::function::{Function, function};
use octofold_ops::Op;
use octofold_tensor::DType;

use super::{Arguments, BYTES, Call, Work, only, part_len};
use crate::StepError;
use crate::values::{numbers, numbers_mut};

/// The function that an operator computes, if there is a kernel for it.
pub(crate) fn function_of(op: &Op) -> Option<Function> {
    match op {
        Op::Exp(_) => Some(Function::Exp),
        Op::Sigmoid(_) => Some(Function::Sigmoid),
        Op::HardSigmoid(op) => Some(Function::HardSigmoid {
            slope: op.alpha,
            offset: op.beta,
        }),
        Op::HardSwish(_) => Some(Function::HardSwish),
        _ => None,
    }
}

#[derive(Debug)]
struct Elementwise {
    function: Function,
    part: usize,
}

/// The work of a float function.
pub(super) fn bind(arguments: &Arguments<'_>) -> Result<Box<dyn Work>, StepError> {
    let function = function_of(&arguments.step.op).ok_or_else(|| arguments.wrong_operator())?;
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
