//! From a step to its work, with a file for each family of kernels.
//!
//! When a plan is specialized, [`bind`] checks a step against the sizes and types of its operands and returns its [`Work`]: a function that holds the checked
//! sizes, the parameters from the operator's attributes, and the way in which the output is split. A run then needs only
//! the bytes. Outputs are split into contiguous parts by shape alone, so that results do not depend on the number of threads.

mod affine;
mod arguments;
mod broadcast;
mod concat;
mod conv;
mod dynamic;
mod elements;
mod elementwise;
mod fconv;
mod float;
mod function;
mod layout;
mod matmul;
mod movement;
mod norm;
mod pick;
mod planes;
mod pool;
mod quantize;
mod recurrent;
mod reduce;
mod resize;
mod split;
mod window;
mod work;

pub(crate) use arguments::{Argument, Arguments, ResultLayout};
pub(crate) use concat::places as concat_places;
pub(crate) use conv::writes_strided_rows;
pub use elements::{compares, converts};
pub(crate) use movement::slice_start;
pub use recurrent::recurrent_products;
pub use window::conv_shape;
pub(crate) use work::{Call, Work};

use octofold_ops::Op;

use crate::StepError;
use crate::plan::Core;

/// The work of a step, if its kernel supports it.
pub(crate) fn bind(arguments: &Arguments<'_>, threads: usize) -> Result<Work, StepError> {
    let kernel = arguments.step.kernel;
    let (results, given) = (arguments.results.len(), kernel.core().results());
    if !given.contains(&results) {
        return Err(StepError::invalid(format!(
            "{results} results where the kernel {kernel} gives {given:?}"
        )));
    }
    match kernel.core() {
        // The session runs these itself.
        Core::Portable | Core::View => {
            Err(StepError::invalid("a portable step or view is no kernel"))
        }
        Core::QConv | Core::QConvDepthwise | Core::QLinear if kernel.is_of_engine() => {
            conv::bind(arguments, threads)
        }
        Core::QConv | Core::QConvDepthwise | Core::QLinear => planes::bind(arguments),
        Core::QAdd | Core::QMul => elementwise::bind_binary(arguments),
        Core::QTable => elementwise::bind_table(arguments),
        Core::QConcat => concat::bind(arguments),
        Core::Concat => concat::bind_plain(arguments),
        Core::QMaxPool | Core::QAveragePool => pool::bind(arguments),
        Core::QGlobalAveragePool => pool::bind_global(arguments),
        Core::Quantize => quantize::bind_quantize(arguments),
        Core::Dequantize => quantize::bind_dequantize(arguments),
        Core::DynamicQuantize => dynamic::bind(arguments),
        Core::Transpose => layout::bind(arguments),
        Core::Move => movement::bind(arguments),
        Core::Pick => pick::bind(arguments),
        Core::FConv | Core::FConvDepthwise | Core::FLinear => fconv::bind(arguments, threads),
        Core::FAffine => affine::bind(arguments),
        Core::FMaxPool | Core::FAveragePool => float::bind_pool(arguments),
        Core::FGlobalAveragePool => float::bind_global(arguments),
        Core::FClip => float::bind_clip(arguments),
        Core::FFunction => function::bind(arguments),
        Core::FSoftmax => reduce::bind_lines(arguments),
        Core::FReduce => reduce::bind(arguments),
        Core::FResize => resize::bind(arguments),
        Core::FArg => reduce::bind_arg(arguments),
        Core::FNormalize => norm::bind_rows(arguments),
        Core::FDivideByNorm => reduce::bind_lines(arguments),
        Core::FRecurrent => recurrent::bind(arguments),
        Core::FMatMul => matmul::bind(arguments, threads),
        Core::FBinary => float::bind_binary(arguments),
        Core::Choose => elements::bind_choose(arguments),
        Core::Compare => elements::bind_compare(arguments),
        Core::Cast => elements::bind_cast(arguments),
    }
}

/// Checks that the operand and the result of a view have the same size in memory.
pub(crate) fn check_view(arguments: &Arguments<'_>) -> Result<(), StepError> {
    let step = arguments.step;
    let operand = arguments.operand(0)?;
    let allowed = match &step.op {
        Op::Reshape(_) | Op::Flatten(_) | Op::Squeeze(_) | Op::Unsqueeze(_) => true,
        Op::Identity(_) | Op::Dropout(_) | Op::Observe(_) => {
            operand.shape == arguments.result().shape
        }
        Op::Transpose(op) => keeps_order(&op.perm, operand.shape),
        _ => false,
    };
    if !allowed {
        return Err(StepError::invalid(format!(
            "{} is no view of {:?}",
            step.op.name(),
            operand.shape
        )));
    }
    if operand.dtype != arguments.result().dtype || operand.len() != arguments.result().len() {
        return Err(StepError::invalid("a view has the elements of its operand"));
    }
    Ok(())
}

/// Whether a transposition does not move any element, because axes longer than 1 keep their order.
fn keeps_order(perm: &[i64], shape: &[usize]) -> bool {
    let rank = shape.len();
    let reversed: Vec<i64>;
    let perm = if perm.is_empty() {
        reversed = (0..rank as i64).rev().collect();
        &reversed
    } else {
        perm
    };
    let axes = perm
        .iter()
        .map(|&axis| usize::try_from(axis).ok().filter(|&axis| axis < rank));
    let Some(axes) = axes.collect::<Option<Vec<usize>>>() else {
        return false;
    };
    axes.len() == rank && axes.iter().filter(|&&axis| shape[axis] != 1).is_sorted()
}

/// The number of items of a part, when `items` items of the given `cost` are split. A part has enough work for a thread, and all parts except for the last are a
/// multiple of `unit`. There are at most eight parts: several for each thread, so that a slow thread can take fewer of them.
pub(crate) fn part_len(items: usize, cost: usize, threshold: usize, unit: usize) -> usize {
    const PARTS: usize = 8;
    let least = threshold.div_ceil(cost.max(1));
    items
        .div_ceil(PARTS)
        .max(least)
        .next_multiple_of(unit.max(1))
        .max(1)
}

/// From this number of bytes on, a second thread saves time in an elementwise kernel.
pub(crate) const BYTES: usize = 64 << 10;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn transposing_axes_of_size_one_moves_nothing() {
        assert!(keeps_order(&[0, 2, 3, 1], &[8, 64, 1, 1]));
        assert!(keeps_order(&[0, 3, 1, 2], &[1, 5, 7, 1]));
        assert!(!keeps_order(&[0, 2, 3, 1], &[1, 64, 2, 1]));
        assert!(!keeps_order(&[0, 4], &[1, 1]));
        assert!(keeps_order(&[], &[1, 9, 1]));
    }

    #[test]
    fn parts_are_whole_units() {
        assert_eq!(part_len(100, 1, 1000, 6), 1002);
        assert_eq!(part_len(1000, 1000, 1000, 6), 126);
        assert_eq!(part_len(0, 0, 0, 0), 1);
    }
}
