//! What a run reads and writes: the arena, the tensors, and the budget of both; and each way of executing a step on them.

use octofold_kernels::Isa;
use octofold_ops::{Inputs, OpError, within_elements};
use octofold_tensor::Tensor;
use smallvec::SmallVec;

use super::Show;
use crate::blob::AlignedBytes;
use crate::exec::{Call, Work};
use crate::place::Place;
use crate::plan::{ConstantIndex, Operand, Plan, Step, ValueIndex};
use crate::pool::Pool;
use crate::specialize::Specialization;
use crate::values::{tensor_bytes, tensor_bytes_mut, tensor_of};
use crate::{StepError, TensorView};

/// What a run reads and writes.
#[derive(Default)]
pub(super) struct Memory {
    pub(super) arena: AlignedBytes,
    pub(super) tensors: Vec<Option<Tensor>>,
    /// The outputs of the last run that kernels wrote, by value. One that its receiver has dropped is written again.
    pub(super) spare: Vec<Option<Tensor>>,
    /// The bytes of the tensors.
    pub(super) live: u64,
    /// The bytes of the inputs, which the caller had before the run.
    pub(super) given: u64,
    /// The bytes of the constants' tensors.
    pub(super) constants: u64,
    /// The bytes that everything may take.
    pub(super) budget: u64,
}

impl std::fmt::Debug for Memory {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Memory({} bytes)", self.arena.bytes().len())
    }
}

impl Memory {
    /// Keeps the tensor of a value that a step computed.
    pub(super) fn keep(&mut self, value: ValueIndex, tensor: Tensor) {
        self.live = self.live.saturating_add(bytes_of(&tensor));
        self.tensors[value.index()] = Some(tensor);
    }

    /// Lets the tensor of a value go.
    pub(super) fn release(&mut self, value: ValueIndex) {
        let bytes = self.tensors[value.index()]
            .take()
            .map_or(0, |tensor| bytes_of(&tensor));
        self.live = self.live.saturating_sub(bytes);
    }

    /// The bytes that the budget has left.
    fn left(&self) -> u64 {
        let arena = self.arena.bytes().len() as u64;
        // Outputs of the last run that nobody else holds; the others are counted where they are used.
        let spare = self.spare.iter().flatten();
        let spare = spare.filter(|tensor| !tensor.is_shared()).map(bytes_of);
        let taken = arena
            .saturating_add(spare.fold(0, u64::saturating_add))
            .saturating_add(self.live)
            .saturating_add(self.constants);
        self.budget.saturating_add(self.given).saturating_sub(taken)
    }

    /// The tensor of an operand; values in the arena are copied.
    fn tensor(
        &self,
        plan: &Plan,
        constants: &[Option<Tensor>],
        specialization: &Specialization,
        operand: Operand,
    ) -> Result<Option<Tensor>, StepError> {
        let lost = || StepError::invalid("an operand was not computed");
        match operand {
            Operand::Absent => Ok(None),
            Operand::Constant(ConstantIndex(index)) => {
                constants[index as usize].clone().ok_or_else(lost).map(Some)
            }
            Operand::Value(value) => match &specialization.places[value.index()] {
                Place::Tensor => self.tensors[value.index()]
                    .clone()
                    .ok_or_else(lost)
                    .map(Some),
                Place::Arena(range) => {
                    let shape = specialization.shape(value).unwrap_or(&[]);
                    let bytes = &self.arena.bytes()[range.clone()];
                    tensor_of(plan.value(value).dtype, shape, bytes).map(Some)
                }
                // Only the value that it is a part of reads it.
                Place::Rows(..) => Err(lost()),
            },
        }
    }

    pub(super) fn portable(
        &mut self,
        plan: &Plan,
        constants: &[Option<Tensor>],
        specialization: &Specialization,
        step: &Step,
    ) -> Result<(), StepError> {
        let operands: SmallVec<[Option<Tensor>; 4]> = step
            .inputs
            .iter()
            .map(|&operand| self.tensor(plan, constants, specialization, operand))
            .collect::<Result<_, _>>()?;
        let references: SmallVec<[Option<&Tensor>; 4]> =
            operands.iter().map(Option::as_ref).collect();
        let sizes = step.outputs.iter().map(|&value| {
            let size = plan.value(value).dtype.size();
            size.unwrap_or(size_of::<String>()) as u64
        });
        let room = self.left() / sizes.max().unwrap_or(1).max(1);
        let results = within_elements(usize::try_from(room).unwrap_or(usize::MAX), || {
            step.op.evaluate(Inputs(&references), step.outputs.len())
        });
        let results = results.map_err(|error| match error {
            OpError::TooLarge(elements) => StepError::Budget {
                elements,
                limit: self.budget,
            },
            other => other.into(),
        })?;
        if results.len() < step.outputs.len() {
            return Err(StepError::invalid(format!(
                "{} results instead of {}",
                results.len(),
                step.outputs.len()
            )));
        }
        for (&value, tensor) in step.outputs.iter().zip(results) {
            let dtype = plan.value(value).dtype;
            let shape = specialization.shape(value);
            if tensor.dtype() != dtype || shape.is_some_and(|shape| shape != tensor.shape()) {
                return Err(StepError::Result {
                    found_type: tensor.dtype(),
                    found: tensor.shape().to_vec(),
                    expected_type: dtype,
                    expected: shape.unwrap_or(&[]).to_vec(),
                });
            }
            match &specialization.places[value.index()] {
                Place::Tensor => self.keep(value, tensor),
                Place::Arena(range) => {
                    // Type and shape are those of the plan, so the lengths are equal.
                    let bytes = tensor_bytes(&tensor).unwrap_or(&[]);
                    self.arena.bytes_mut()[range.clone()].copy_from_slice(bytes);
                }
                Place::Rows(..) => {
                    return Err(StepError::invalid("a portable step writes whole values"));
                }
            }
        }
        Ok(())
    }

    pub(super) fn view(
        &mut self,
        plan: &Plan,
        constants: &[Option<Tensor>],
        specialization: &Specialization,
        step: &Step,
    ) -> Result<(), StepError> {
        let (Some(&operand), &[result]) = (step.inputs.first(), &*step.outputs) else {
            return Err(StepError::invalid("a view has one operand and one result"));
        };
        if specialization.places[result.index()] == Place::Tensor {
            let tensor = self.tensor(plan, constants, specialization, operand)?;
            let shape = specialization.shape(result).unwrap_or(&[]);
            let tensor = tensor
                .map(|tensor| tensor.reshaped(shape.iter().copied()))
                .transpose()?;
            if let Some(tensor) = tensor {
                self.keep(result, tensor);
            }
        }
        Ok(())
    }

    pub(super) fn show(
        &self,
        plan: &Plan,
        specialization: &Specialization,
        step: &Step,
        index: usize,
        show: &mut Show<'_>,
    ) -> Result<(), StepError> {
        let (&[result], Some(tap)) = (&*step.outputs, plan.taps().get(index)) else {
            return Err(StepError::invalid("a tap without a value"));
        };
        let value = plan.value(result);
        let unseen = || StepError::invalid(format!("a tap does not show {}", value.dtype));
        let view = TensorView {
            dtype: value.dtype,
            shape: specialization.shape(result).unwrap_or(&[]),
            bytes: match &specialization.places[result.index()] {
                Place::Arena(range) => &self.arena.bytes()[range.clone()],
                Place::Tensor => self.tensors[result.index()]
                    .as_ref()
                    .and_then(tensor_bytes)
                    .ok_or_else(unseen)?,
                Place::Rows(..) => return Err(unseen()),
            },
            channels_last: value.channels_last,
        };
        show(index, tap, view).map_err(|source| StepError::Tap {
            id: tap.id.clone(),
            source,
        })
    }

    pub(super) fn kernel(
        &mut self,
        plan: &Plan,
        specialization: &Specialization,
        index: usize,
        work: &dyn Work,
        (isa, pool): (Isa, &Pool),
    ) -> Result<(), StepError> {
        let step = &plan.steps()[index];
        let &[result] = &*step.outputs else {
            return Err(StepError::invalid("a kernel gives one result"));
        };
        let packed = step.packed.iter();
        let packed: SmallVec<[&[u8]; 4]> =
            packed.map(|&index| plan.constant_bytes(index)).collect();
        match &specialization.places[result.index()] {
            Place::Arena(range) | Place::Rows(range, _) => {
                // The result is cut out of the arena; operands lie before or behind it.
                let (before, rest) = self.arena.bytes_mut().split_at_mut(range.start);
                let (output, behind) = rest.split_at_mut(range.len());
                let parts = [(0, &*before), (range.end, &*behind)];
                let operands = operands(plan, specialization, index, &parts, &self.tensors)?;
                let (operands, packed) = (&*operands, &*packed);
                work.run(Call {
                    isa,
                    pool,
                    operands,
                    packed,
                    output,
                })
            }
            Place::Tensor => {
                let shape = specialization.shape(result).unwrap_or(&[]);
                let dtype = plan.value(result).dtype;
                let spare = self.spare[result.index()].take().filter(|spare| {
                    !spare.is_shared() && spare.dtype() == dtype && spare.shape() == shape
                });
                let mut tensor = match spare {
                    Some(spare) => spare,
                    None => Tensor::zeros(dtype, shape.iter().copied())?,
                };
                {
                    let parts = [(0, self.arena.bytes())];
                    let operands = operands(plan, specialization, index, &parts, &self.tensors)?;
                    let (operands, packed) = (&*operands, &*packed);
                    let output = tensor_bytes_mut(&mut tensor)?;
                    work.run(Call {
                        isa,
                        pool,
                        operands,
                        packed,
                        output,
                    })?;
                }
                let mut outputs = plan.outputs().iter().map(|output| output.value);
                if outputs.any(|output| output == Operand::Value(result)) {
                    self.spare[result.index()] = Some(tensor.clone());
                }
                self.keep(result, tensor);
                Ok(())
            }
        }
    }
}

/// The bytes of a tensor's elements; of strings, what holds them.
fn bytes_of(tensor: &Tensor) -> u64 {
    let size = tensor.dtype().size().unwrap_or(size_of::<String>());
    (tensor.len() as u64).saturating_mul(size as u64)
}

/// The bytes of a step's operands, none for those that share the memory of the result; `arena` are the parts of the arena that are not being
/// written, with their offsets.
fn operands<'a>(
    plan: &'a Plan,
    specialization: &Specialization,
    index: usize,
    arena: &[(usize, &'a [u8])],
    tensors: &'a [Option<Tensor>],
) -> Result<SmallVec<[&'a [u8]; 4]>, StepError> {
    let value = |value: ValueIndex| match &specialization.places[value.index()] {
        Place::Tensor => tensors[value.index()].as_ref().and_then(tensor_bytes),
        Place::Arena(range) => {
            let inside = |&(offset, bytes): &(usize, &'a [u8])| {
                bytes.get(range.start.checked_sub(offset)?..range.end.checked_sub(offset)?)
            };
            arena.iter().find_map(inside)
        }
        // Only the value that it is a part of reads it.
        Place::Rows(..) => None,
    };
    let in_place = &specialization.in_place_operands[index];
    let bytes = |(slot, operand): (usize, &Operand)| match *operand {
        Operand::Absent => Ok(&[][..]),
        _ if in_place.contains(&slot) => Ok(&[][..]),
        Operand::Constant(index) => Ok(plan.constant_bytes(index)),
        Operand::Value(index) => value(index).ok_or_else(|| {
            StepError::invalid("an operand overlaps the result or was not computed")
        }),
    };
    let inputs = plan.steps()[index].inputs.iter().enumerate();
    inputs.map(bytes).collect()
}
