//! Normalizations of floats.

use octofold_kernels::float::norm::{Normalization, Parameters, normalize};
use octofold_ops::{Op, normalize_axis};
use octofold_tensor::DType;

use super::{Arguments, BYTES, Work, part_len};
use crate::StepError;

/// The work of a float `LayerNormalization` with one result, or of an `InstanceNormalization`.
pub(super) fn bind_rows(arguments: &Arguments<'_>) -> Result<Work, StepError> {
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
    let part = part_len(rows, 16 * width, BYTES, 1).saturating_mul(width.max(1));
    Ok(Work::new(move |call, output| {
        let input = call.numbers(0)?;
        let (scale, bias) = (call.numbers(1)?, call.numbers(2)?);
        call.pool.run_parts(output, part, 0, |first, output, _| {
            let parameters = match of_rows {
                true => Parameters::Rows {
                    scale,
                    bias,
                    first: first / width % scale.len().max(1),
                },
                false => Parameters::Elements {
                    scale,
                    bias: (!bias.is_empty()).then_some(bias),
                },
            };
            let normalization = Normalization {
                width,
                epsilon,
                parameters,
            };
            let input = input.get(first..first + output.len()).unwrap_or(&[]);
            Ok(normalize(call.isa, normalization, input, output)?)
        })
    }))
}
