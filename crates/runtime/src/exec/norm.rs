//! Normalizations of floats.

use octofold_kernels::float::norm::{Normalization, Parameters, normalize};
use octofold_ops::{Op, normalize_axis};
use octofold_tensor::DType;

use super::{Arguments, BYTES, Call, Work, only, part_len};
use crate::StepError;
use crate::values::{numbers, numbers_mut};

#[derive(Debug)]
struct Rows {
    width: usize,
    epsilon: f32,
    /// Whether each row has one scale and bias, or each element of a row.
    of_rows: bool,
    /// The number of elements of a part, whole rows.
    part: usize,
}

/// The work of a float `LayerNormalization` with one result, or of an `InstanceNormalization`.
pub(super) fn bind_rows(arguments: &Arguments<'_>) -> Result<Box<dyn Work>, StepError> {
    let operand = arguments.operand(0)?;
    let (shape, rank) = (operand.shape, operand.shape.len());
    let (axis, epsilon, of_rows) = match &arguments.step.op {
        Op::LayerNormalization(op) => (normalize_axis(op.axis, rank)?, op.epsilon, false),
        Op::InstanceNormalization(op) if rank >= 2 => (2, op.epsilon, true),
        _ => return Err(arguments.wrong_operator()),
    };
    let width = shape[axis..].iter().product::<usize>();
    let parameters = if of_rows { shape[1] } else { width };
    for (slot, operand) in arguments.operands.iter().enumerate() {
        let Some(operand) = operand else { continue };
        operand.expect(DType::F32)?;
        if slot > 0 && operand.len() != parameters {
            return Err(arguments.wrong_operator());
        }
    }
    arguments.result().expect(DType::F32)?;
    arguments.expect_result(shape)?;
    let rows = operand.len() / width.max(1);
    Ok(Box::new(Rows {
        width,
        epsilon,
        of_rows,
        part: part_len(rows, 16 * width, BYTES, 1).saturating_mul(width.max(1)),
    }))
}

impl Work for Rows {
    fn run(&self, call: Call<'_>, outputs: &mut [&mut [u8]]) -> Result<(), StepError> {
        let input = numbers::<f32>(call.operand(0))?;
        let (scale, bias) = (numbers(call.operand(1))?, numbers(call.operand(2))?);
        let each = |first: usize, output: &mut [f32], _: &mut [u8]| {
            let parameters = match self.of_rows {
                true => Parameters::Rows {
                    scale,
                    bias,
                    first: first / self.width % scale.len().max(1),
                },
                false => Parameters::Elements {
                    scale,
                    bias: (!bias.is_empty()).then_some(bias),
                },
            };
            let normalization = Normalization {
                width: self.width,
                epsilon: self.epsilon,
                parameters,
            };
            let input = input.get(first..first + output.len()).unwrap_or(&[]);
            Ok(normalize(call.isa, normalization, input, output)?)
        };
        call.pool
            .run_parts(numbers_mut(only(outputs)?)?, self.part, 0, each)
    }
}
