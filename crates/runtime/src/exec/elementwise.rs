//! Sums, products and functions of quantized values.

use octofold_kernels::shared::binary::{Operand, add, mul};
use octofold_kernels::shared::table_lookup::table_lookup;
use octofold_kernels::shared::{Quant8, Target8};
use octofold_ops::Op;
use octofold_ops::families::{BinaryForm, BinaryKind, FusedBinary};

use super::broadcast::Broadcast;
use super::{Arguments, BYTES, Call, Work, only, part_len};
use crate::StepError;

#[derive(Debug)]
struct Binary {
    kind: BinaryKind,
    quants: [Quant8; 2],
    target: Target8,
    broadcast: Broadcast<2>,
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
    let broadcast =
        Broadcast::new(arguments.result(), operands).ok_or_else(|| arguments.wrong_operator())?;
    Ok(Box::new(Binary {
        kind,
        quants,
        target,
        broadcast,
    }))
}

impl Work for Binary {
    fn run(&self, call: Call<'_>, outputs: &mut [&mut [u8]]) -> Result<(), StepError> {
        let kernel = match self.kind {
            BinaryKind::Add => add,
            BinaryKind::Mul => mul,
        };
        self.broadcast.run(
            (call.isa, call.pool),
            [call.operand(0), call.operand(1)],
            only(outputs)?,
            |data, output| {
                let [a, b] = [0, 1].map(|slot| Operand {
                    data: data[slot],
                    quant: self.quants[slot],
                });
                Ok(kernel(call.isa, a, b, self.target, output)?)
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
