//! Quantization with parameters from the range of the values themselves.

use octofold_kernels::shared::quantize::{quantize, range};
use octofold_kernels::shared::{Quant8, Target8};
use octofold_ops::Op;
use octofold_ops::OpError;
use octofold_quant::choose::dynamic_params;
use octofold_tensor::DType;

use super::{Arguments, BYTES, Work, part_len};
use crate::StepError;

/// Most parts of which the ranges are found at a time: what [`part_len`] gives.
const PARTS: usize = 8;

/// The work of a `DynamicQuantizeLinear`.
pub(super) fn bind(arguments: &Arguments<'_>) -> Result<Work, StepError> {
    let Op::DynamicQuantizeLinear(_) = &arguments.step.op else {
        return Err(arguments.wrong_operator());
    };
    let operand = arguments.operand(0)?;
    operand.expect(DType::F32)?;
    arguments.expect_result(operand.shape)?;
    let types = [DType::U8, DType::F32, DType::U8];
    for (result, dtype) in arguments.results.iter().zip(types) {
        result.expect(dtype)?;
    }
    if arguments.results[1..]
        .iter()
        .any(|result| result.len() != 1)
    {
        return Err(StepError::invalid(
            "the scale and zero point are not one number each",
        ));
    }
    let part = part_len(operand.len(), 5, BYTES, 64);
    Ok(Work::of_results(move |call, outputs| {
        let input = call.numbers::<f32>(0)?;
        let [bytes, scale, zero_point] = outputs else {
            return Err(StepError::invalid("the kernel gives three results"));
        };
        let mut ranges = [Some((0.0_f32, 0.0_f32)); PARTS];
        let count = input.len().div_ceil(part).min(PARTS);
        let each = |first: usize, found: &mut [Option<(f32, f32)>], _: &mut [u8]| {
            for (index, found) in found.iter_mut().enumerate() {
                let start = (first + index) * part;
                *found = range(call.isa, &input[start..input.len().min(start + part)])?;
            }
            Ok(())
        };
        call.pool.run_parts(&mut ranges[..count], 1, 0, each)?;
        let mut all = (0.0_f32, 0.0_f32);
        for found in ranges {
            let (min, max) = found.ok_or_else(|| {
                StepError::invalid("a value to quantize is infinite or not a number")
            })?;
            all = (all.0.min(min), all.1.max(max));
        }
        let params = dynamic_params(all.0, all.1).map_err(OpError::from)?;
        let target = Target8::full(Quant8::unsigned(params));
        scale.copy_from_slice(&params.scale.to_le_bytes());
        zero_point.copy_from_slice(&[params.zero_point as u8]);
        call.pool.run_parts(bytes, part, 0, |first, output, _| {
            let input = &input[first..first + output.len()];
            Ok(quantize(call.isa, input, target, output)?)
        })
    }))
}
