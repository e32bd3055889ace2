//! Sums, products and functions of quantized values.

use octofold_kernels::KernelError;
use octofold_kernels::shared::add::{Operand, add};
use octofold_kernels::shared::mul::mul;
use octofold_kernels::shared::table_lookup::table_lookup;
use octofold_kernels::shared::{Quant8, Target8};
use octofold_ops::Op;
use octofold_ops::families::BinaryKind;

use super::{Arguments, BYTES, Call, Work, part_len};
use crate::StepError;
use crate::broadcast::repetition;
use crate::pool::Pool;

/// How the output of two operands, one of which may repeat, is cut.
#[derive(Debug)]
pub(super) struct Blocks {
    /// Blocks of the result with elements of the small operand of their own.
    outer: usize,
    /// The result's elements in such a block.
    block: usize,
    /// The small operand's elements in such a block.
    inner: usize,
    /// Elements of a part: whole blocks, or whole repetitions of the one block.
    part: usize,
}

/// How `small` repeats over the result; `None` when kernels cannot do it. `size` are the bytes of an element.
pub(super) fn blocks(result: &[usize], small: &[usize], size: usize) -> Option<Blocks> {
    let (repeats, behind) = repetition(result, small, |&size| size == 1)?;
    let product = |axes: std::ops::Range<usize>| result[axes].iter().product::<usize>();
    let outer = product(0..repeats);
    let (block, inner) = (
        product(repeats..result.len()),
        product(behind..result.len()),
    );
    let (unit, items) = match (outer, inner == block) {
        // Operands of the same size may be cut anywhere.
        (1, true) => (64, block.div_ceil(64)),
        (1, false) => (inner.max(1), block / inner.max(1)),
        _ => (block.max(1), outer),
    };
    let part = part_len(items, 3 * size * unit, BYTES, 1).saturating_mul(unit);
    Some(Blocks {
        outer,
        block,
        inner,
        part,
    })
}

impl Blocks {
    /// Calls `kernel(large, small, output)` for parts of a block, on all threads.
    pub(super) fn run<T: Send + Sync>(
        &self,
        pool: &Pool,
        large: &[T],
        small: &[T],
        output: &mut [T],
        kernel: impl Fn(&[T], &[T], &mut [T]) -> Result<(), KernelError> + Sync,
    ) -> Result<(), StepError> {
        let out_of_range = || StepError::invalid("an operand is shorter than the result");
        pool.run_parts(output, self.part, 0, |first, output, _| {
            let block = if self.outer == 1 {
                output.len()
            } else {
                self.block
            };
            for (index, output) in output.chunks_mut(block).enumerate() {
                let at = first + index * block;
                let whole = at..at + output.len();
                let a = large.get(whole.clone()).ok_or_else(out_of_range)?;
                let start = if self.outer == 1 {
                    0
                } else {
                    at / self.block * self.inner
                };
                // An operand of the result's own size is cut along with it.
                let range = if self.outer == 1 && self.inner == self.block {
                    whole
                } else {
                    start..start + self.inner
                };
                kernel(a, small.get(range).ok_or_else(out_of_range)?, output)?;
            }
            Ok(())
        })
    }
}

#[derive(Debug)]
struct Binary {
    kind: BinaryKind,
    /// The slot of the operand that has the size of the result; the other one may repeat.
    large: usize,
    quants: [Quant8; 2],
    target: Target8,
    blocks: Blocks,
}

/// The work of a quantized `FusedBinary`.
pub(super) fn bind_binary(arguments: &Arguments<'_>) -> Result<Box<dyn Work>, StepError> {
    let Op::FusedBinary(op) = &arguments.step.op else {
        return Err(arguments.wrong_operator());
    };
    let (Some(a), Some(b), Some(y)) = (op.a, op.b, &op.y) else {
        return Err(arguments.wrong_operator());
    };
    let operands = [arguments.operand(0)?, arguments.operand(1)?];
    let quants = [operands[0].quant(a)?, operands[1].quant(b)?];
    let target = arguments.target(y)?;
    let result = arguments.result.shape;
    let large = usize::from(operands[0].shape != result);
    if operands[large].shape != result {
        return Err(arguments.wrong_operator());
    }
    let blocks =
        blocks(result, operands[1 - large].shape, 1).ok_or_else(|| arguments.wrong_operator())?;
    let kind = op.kind;
    Ok(Box::new(Binary {
        kind,
        large,
        quants,
        target,
        blocks,
    }))
}

impl Work for Binary {
    fn run(&self, call: Call<'_>) -> Result<(), StepError> {
        let (large, small) = (call.operand(self.large), call.operand(1 - self.large));
        let [a, b] = [self.quants[self.large], self.quants[1 - self.large]];
        let isa = call.isa;
        // Sum and product are commutative to the bit.
        self.blocks.run(
            call.pool,
            large,
            small,
            call.output,
            |large, small, output| {
                let a = Operand {
                    data: large,
                    quant: a,
                };
                let b = Operand {
                    data: small,
                    quant: b,
                };
                match self.kind {
                    BinaryKind::Add => add(isa, a, b, self.target, output),
                    BinaryKind::Mul => mul(isa, a, b, self.target, output),
                }
            },
        )
    }
}

#[derive(Debug)]
struct Table {
    part: usize,
}

/// The work of a `TableLookup` in a constant table.
pub(super) fn bind_table(arguments: &Arguments<'_>) -> Result<Box<dyn Work>, StepError> {
    let Op::TableLookup(_) = &arguments.step.op else {
        return Err(arguments.wrong_operator());
    };
    let (operand, table) = (arguments.operand(0)?, arguments.operand(1)?);
    operand.signed()?;
    table.signed()?;
    arguments.result.expect(table.dtype)?;
    arguments.expect_result(operand.shape)?;
    if table.constant.is_none_or(|bytes| bytes.len() != 256) {
        return Err(StepError::invalid(
            "the table is not a constant of 256 bytes",
        ));
    }
    let part = part_len(operand.len(), 2, BYTES, 64);
    Ok(Box::new(Table { part }))
}

impl Work for Table {
    fn run(&self, call: Call<'_>) -> Result<(), StepError> {
        let (input, table) = (call.operand(0), call.operand(1));
        let table: &[u8; 256] = table
            .try_into()
            .map_err(|_| StepError::invalid("a table of another size"))?;
        call.pool
            .run_parts(call.output, self.part, 0, |first, output, _| {
                let input = input.get(first..first + output.len()).unwrap_or(&[]);
                Ok(table_lookup(call.isa, table, input, output)?)
            })
    }
}
