//! What a step computes once it is bound to sizes.

use std::fmt;

use bytemuck::{AnyBitPattern, Pod};
use octofold_kernels::{Isa, KernelError};

use crate::StepError;
use crate::pool::Pool;
use crate::values::{numbers, numbers_mut};

/// What one execution of a step reads.
#[derive(Clone, Copy)]
pub(crate) struct Call<'a> {
    pub(crate) isa: Isa,
    pub(crate) pool: &'a Pool,
    /// The operands by slot; absent ones are empty.
    pub(crate) operands: &'a [&'a [u8]],
    pub(crate) packed: &'a [&'a [u8]],
}

impl<'a> Call<'a> {
    /// An operand; absent ones are empty.
    pub(crate) fn operand(&self, slot: usize) -> &'a [u8] {
        self.operands.get(slot).copied().unwrap_or(&[])
    }

    /// The numbers of an operand.
    pub(super) fn numbers<T: AnyBitPattern>(&self, slot: usize) -> Result<&'a [T], StepError> {
        numbers(self.operand(slot))
    }

    /// A packed constant.
    pub(crate) fn packed(&self, position: usize) -> &'a [u8] {
        self.packed.get(position).copied().unwrap_or(&[])
    }
}

type Run = dyn Fn(Call<'_>, &mut [&mut [u8]]) -> Result<(), StepError> + Send + Sync;

/// A step bound to sizes: a function that holds what was checked and chosen before.
pub(crate) struct Work {
    run: Box<Run>,
    table_bytes: usize,
}

impl Work {
    /// Work that computes all results of the operator, by its slots.
    pub(super) fn of_results(
        run: impl Fn(Call<'_>, &mut [&mut [u8]]) -> Result<(), StepError> + Send + Sync + 'static,
    ) -> Self {
        Self {
            run: Box::new(run),
            table_bytes: 0,
        }
    }

    /// Work that computes one result, the numbers of a type.
    pub(super) fn new<T: Pod>(
        run: impl Fn(Call<'_>, &mut [T]) -> Result<(), StepError> + Send + Sync + 'static,
    ) -> Self {
        Self::of_results(move |call, outputs| match outputs {
            [output] => run(call, numbers_mut(output)?),
            _ => Err(StepError::invalid("the kernel gives one result")),
        })
    }

    /// Work whose result has the elements of the operand in their order, `part` of them at a time on each thread: `run(isa, elements, results)`.
    pub(super) fn of_elements<A: AnyBitPattern + Sync, T: Pod + Send>(
        part: usize,
        run: impl Fn(Isa, &[A], &mut [T]) -> Result<(), KernelError> + Send + Sync + 'static,
    ) -> Self {
        Self::new(move |call, output| {
            let input = call.numbers(0)?;
            call.pool.run_parts(output, part, 0, |first, output, _| {
                let input = input.get(first..first + output.len()).unwrap_or(&[]);
                Ok(run(call.isa, input, output)?)
            })
        })
    }

    /// The same work, with tables of a size in bytes.
    pub(super) fn with_tables(self, table_bytes: usize) -> Self {
        Self {
            table_bytes,
            ..self
        }
    }

    /// Computes the results into `outputs`, by the operator's slots.
    pub(crate) fn run(&self, call: Call<'_>, outputs: &mut [&mut [u8]]) -> Result<(), StepError> {
        (self.run)(call, outputs)
    }

    /// The size of its tables in bytes.
    pub(crate) fn table_bytes(&self) -> usize {
        self.table_bytes
    }
}

impl fmt::Debug for Work {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Work").finish_non_exhaustive()
    }
}
