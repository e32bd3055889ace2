//! Sums, products and functions of quantized values.

use octofold_kernels::KernelError;
use octofold_kernels::shared::binary::{Operand, add, mul};
use octofold_kernels::shared::table_lookup::table_lookup;
use octofold_kernels::shared::{Quant8, Target8};
use octofold_ops::Op;
use octofold_ops::families::{BinaryForm, BinaryKind, FusedBinary};

use super::{Arguments, BYTES, Call, Work, only, part_len};
use crate::StepError;
use crate::broadcast::repetition;
use crate::pool::Pool;

/// How the output of two operands that broadcast is split into blocks. In a block one operand, the large one, has all elements, and the small one repeats.
#[derive(Debug)]
pub(super) struct Blocks {
    /// The slot of the large operand.
    pub(super) large: usize,
    /// The number of blocks. Each has its own elements of the small operand.
    outer: usize,
    /// The number of the result's elements in a block.
    block: usize,
    /// The number of the small operand's elements in a block.
    inner: usize,
    /// The number of elements of a part: whole blocks, or whole repetitions of the only block.
    part: usize,
    /// The axes that number the blocks, if the operands do not have the order of the result: the size, and the distance between neighbours in the large and in
    /// the small operand.
    axes: Option<Vec<(usize, [usize; 2])>>,
}

/// How two operands broadcast to the result; `None` if they do not. `size` is the number of bytes of an element.
pub(super) fn blocks(result: &[usize], operands: [&[usize]; 2], size: usize) -> Option<Blocks> {
    let as_result = |large: usize| {
        let same = operands[large] == result;
        same.then(|| repeating(result, large, operands[1 - large], size))?
    };
    as_result(0)
        .or_else(|| as_result(1))
        .or_else(|| crossing(result, operands, size))
}

/// The blocks if both operands repeat, or if one repeats over axes that are not neighbours.
fn crossing(result: &[usize], operands: [&[usize]; 2], size: usize) -> Option<Blocks> {
    let rank = result.len();
    // Missing leading axes count as 1.
    let dims = |shape: &[usize]| -> Option<Vec<usize>> {
        let missing = rank.checked_sub(shape.len())?;
        Some([&vec![1; missing][..], shape].concat())
    };
    let dims = [dims(operands[0])?, dims(operands[1])?];
    // The operands that have all elements of an axis.
    let whole = |axis: usize| [0, 1].map(|slot| dims[slot][axis] == result[axis]);
    let fits = |axis: usize| {
        let or_one = |slot: usize| whole(axis)[slot] || dims[slot][axis] == 1;
        or_one(0) && or_one(1) && whole(axis).contains(&true)
    };
    let last = (0..rank).rev().find(|&axis| result[axis] != 1)?;
    if !(0..rank).all(fits) {
        return None;
    }
    let large = usize::from(!whole(last)[0]);
    // A block consists of the last axes along which the same operands repeat.
    let start = (0..=last)
        .rev()
        .find(|&axis| result[axis] != 1 && whole(axis) != whole(last))
        .map_or(0, |axis| axis + 1);
    let block: usize = result[start..].iter().product();
    let inner = if whole(last)[1 - large] { block } else { 1 };
    let step = |slot: usize, axis: usize| {
        let repeats = dims[slot][axis] == 1;
        if repeats {
            0
        } else {
            dims[slot][axis + 1..].iter().product()
        }
    };
    let axes = (0..start).map(|axis| (result[axis], [step(large, axis), step(1 - large, axis)]));
    let outer = result[..start].iter().product();
    Some(Blocks {
        large,
        outer,
        block,
        inner,
        part: part_len(outer, 3 * size * block, BYTES, 1).saturating_mul(block.max(1)),
        axes: Some(axes.collect()),
    })
}

/// The blocks if one operand is as large as the result, and the other repeats over neighbouring axes.
fn repeating(result: &[usize], large: usize, small: &[usize], size: usize) -> Option<Blocks> {
    let (repeats, behind) = repetition(result, small)?;
    let product = |axes: std::ops::Range<usize>| result[axes].iter().product::<usize>();
    let outer = product(0..repeats);
    let (block, inner) = (
        product(repeats..result.len()),
        product(behind..result.len()),
    );
    let (unit, items) = match (outer, inner == block) {
        // Operands of the same size can be split anywhere.
        (1, true) => (64, block.div_ceil(64)),
        (1, false) => (inner.max(1), block / inner.max(1)),
        _ => (block.max(1), outer),
    };
    let part = part_len(items, 3 * size * unit, BYTES, 1).saturating_mul(unit);
    Some(Blocks {
        large,
        outer,
        block,
        inner,
        part,
        axes: None,
    })
}

impl Blocks {
    /// The start of block `number` in the large and in the small operand.
    fn starts(&self, number: usize) -> [usize; 2] {
        let Some(axes) = &self.axes else {
            return [number * self.block, number * self.inner];
        };
        let (mut rest, mut starts) = (number, [0, 0]);
        for (size, steps) in axes.iter().rev() {
            let index = rest % size;
            rest /= size;
            starts[0] += index * steps[0];
            starts[1] += index * steps[1];
        }
        starts
    }

    /// Calls `kernel(large, small, output)` for parts of a block, on all threads. The operands come by slot.
    pub(super) fn run<T: Send + Sync>(
        &self,
        pool: &Pool,
        operands: [&[T]; 2],
        output: &mut [T],
        kernel: impl Fn(&[T], &[T], &mut [T]) -> Result<(), KernelError> + Sync,
    ) -> Result<(), StepError> {
        let out_of_range = || StepError::invalid("an operand is shorter than the result");
        let (large, small) = (operands[self.large], operands[1 - self.large]);
        pool.run_parts(output, self.part, 0, |first, output, _| {
            if self.outer == 1 && self.axes.is_none() {
                let whole = first..first + output.len();
                let a = large.get(whole.clone()).ok_or_else(out_of_range)?;
                // An operand of the result's size is split like the result.
                let range = if self.inner == self.block {
                    whole
                } else {
                    0..self.inner
                };
                kernel(a, small.get(range).ok_or_else(out_of_range)?, output)?;
                return Ok(());
            }
            for (index, output) in output.chunks_mut(self.block).enumerate() {
                let [a, b] = self.starts(first / self.block + index);
                let large = large.get(a..a + self.block).ok_or_else(out_of_range)?;
                let small = small.get(b..b + self.inner).ok_or_else(out_of_range)?;
                kernel(large, small, output)?;
            }
            Ok(())
        })
    }
}

#[derive(Debug)]
struct Binary {
    kind: BinaryKind,
    quants: [Quant8; 2],
    target: Target8,
    blocks: Blocks,
}

/// The work of a quantized `FusedBinary`.
pub(super) fn bind_binary(arguments: &Arguments<'_>) -> Result<Box<dyn Work>, StepError> {
    let Op::FusedBinary(FusedBinary {
        kind,
        form: BinaryForm::Bytes { a, b, y },
    }) = arguments.step.op
    else {
        return Err(arguments.wrong_operator());
    };
    let operands = [arguments.operand(0)?, arguments.operand(1)?];
    let quants = [operands[0].quant(a)?, operands[1].quant(b)?];
    let target = arguments.target(&y)?;
    let blocks = blocks(
        arguments.result().shape,
        operands.map(|operand| operand.shape),
        1,
    )
    .ok_or_else(|| arguments.wrong_operator())?;
    Ok(Box::new(Binary {
        kind,
        quants,
        target,
        blocks,
    }))
}

impl Work for Binary {
    fn run(&self, call: Call<'_>, outputs: &mut [&mut [u8]]) -> Result<(), StepError> {
        let large = self.blocks.large;
        let [a, b] = [self.quants[large], self.quants[1 - large]];
        let isa = call.isa;
        // Sum and product are commutative to the bit.
        self.blocks.run(
            call.pool,
            [call.operand(0), call.operand(1)],
            only(outputs)?,
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
    arguments.result().expect(table.dtype)?;
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
    fn run(&self, call: Call<'_>, outputs: &mut [&mut [u8]]) -> Result<(), StepError> {
        let (input, table) = (call.operand(0), call.operand(1));
        let table: &[u8; 256] = table
            .try_into()
            .map_err(|_| StepError::invalid("a table of another size"))?;
        call.pool
            .run_parts(only(outputs)?, self.part, 0, |first, output, _| {
                let input = input.get(first..first + output.len()).unwrap_or(&[]);
                Ok(table_lookup(call.isa, table, input, output)?)
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The index in an operand from which element `index` of the result comes, by the definition of broadcasting.
    fn source(index: usize, result: &[usize], shape: &[usize]) -> usize {
        let (mut rest, mut offset, mut stride) = (index, 0, 1);
        for (back, &size) in result.iter().rev().enumerate() {
            let position = rest % size;
            rest /= size;
            let own = shape
                .len()
                .checked_sub(back + 1)
                .map_or(1, |axis| shape[axis]);
            offset += if own == 1 { 0 } else { position * stride };
            stride *= own;
        }
        offset
    }

    #[test]
    fn operands_broadcast_along_any_axes() {
        let pool = Pool::new(2).unwrap();
        let shapes: [(&[usize], &[usize], &[usize]); 9] = [
            (&[2, 3, 4, 5], &[2, 3, 4, 5], &[2, 3, 4, 5]),
            (&[2, 3, 4, 5], &[2, 3, 4, 5], &[5]),
            (&[2, 3, 4, 5], &[2, 1, 1, 5], &[2, 3, 4, 5]),
            (&[2, 3, 4, 5], &[2, 3, 4, 5], &[1, 3, 1, 1]),
            (&[2, 3, 4, 5], &[2, 1, 4, 1], &[3, 1, 5]),
            (&[2, 3, 4, 5], &[2, 3, 1, 1], &[4, 5]),
            (&[2, 3, 4, 1], &[1, 3, 1, 1], &[2, 1, 4, 1]),
            (&[4, 5], &[4, 1], &[1, 5]),
            (&[1, 1], &[1], &[1, 1]),
        ];
        for (result, a, b) in shapes {
            let count = |shape: &[usize]| shape.iter().product::<usize>();
            let blocks = blocks(result, [a, b], 8).unwrap();
            let values = [a, b].map(|shape| (0..count(shape) as u64).collect::<Vec<_>>());
            let mut output = vec![u64::MAX; count(result)];
            let large = blocks.large;
            let run = blocks.run(
                &pool,
                [&values[0], &values[1]],
                &mut output,
                |a, b, output| {
                    assert_eq!(a.len(), output.len());
                    for (i, output) in output.iter_mut().enumerate() {
                        let pair = [a[i], b[i % b.len()]];
                        *output = pair[large] * 1000 + pair[1 - large];
                    }
                    Ok(())
                },
            );
            run.unwrap();
            let expected = (0..count(result))
                .map(|i| (source(i, result, a) * 1000 + source(i, result, b)) as u64);
            assert_eq!(output, expected.collect::<Vec<_>>(), "{a:?} and {b:?}");
        }
        assert!(blocks(&[2, 3], [&[2, 3], &[2]], 1).is_none());
        assert!(blocks(&[2, 3], [&[1, 3], &[1, 3]], 1).is_none());
    }
}
