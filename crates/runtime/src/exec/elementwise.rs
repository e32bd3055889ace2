//! Sums, products and functions of quantized values.

use octofold_kernels::shared::binary::{Operand, add, mul};
use octofold_kernels::shared::table_lookup::table_lookup;
use octofold_ops::Op;
use octofold_ops::families::{BinaryForm, BinaryKind, FusedBinary};

use super::broadcast::Broadcast;
use super::{Arguments, BYTES, Work, part_len};
use crate::StepError;

/// The work of a quantized `FusedBinary`.
pub(super) fn bind_binary(arguments: &Arguments<'_>) -> Result<Work, StepError> {
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
    let kernel = match kind {
        BinaryKind::Add => add,
        BinaryKind::Mul => mul,
    };
    Ok(broadcast.work(move |isa, data, output| {
        let [a, b] = [0, 1].map(|slot| Operand {
            data: data[slot],
            quant: quants[slot],
        });
        Ok(kernel(isa, a, b, target, output)?)
    }))
}

/// The work of a `TableLookup` in a constant table.
pub(super) fn bind_table(arguments: &Arguments<'_>) -> Result<Work, StepError> {
    let Op::TableLookup(_) = &arguments.step.op else {
        return Err(arguments.wrong_operator());
    };
    let (operand, table) = (arguments.operand(0)?, arguments.operand(1)?);
    operand.signed()?;
    table.signed()?;
    arguments.result().expect(table.dtype)?;
    arguments.expect_result(operand.shape)?;
    let table: Option<[u8; 256]> = table.constant.and_then(|bytes| bytes.try_into().ok());
    let table =
        table.ok_or_else(|| StepError::invalid("the table is not a constant of 256 bytes"))?;
    let part = part_len(operand.len(), 2, BYTES, 64);
    Ok(Work::of_elements(part, move |isa, input, output| {
        table_lookup(isa, &table, input, output)
    }))
}
