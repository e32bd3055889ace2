//! The memory of a run: the arena, the tensors, and the budget of both; and the ways to execute a step on them.

use std::ops::Range;

use octofold_kernels::Isa;
use octofold_ops::{Inputs, OpError, cost, within_elements};
use octofold_tensor::{DType, Tensor};
use smallvec::SmallVec;

use super::Show;
use super::bodies::Calls;
use crate::blob::AlignedBytes;
use crate::exec::{Call, Work};
use crate::place::Place;
use crate::plan::{ConstantIndex, Operand, Plan, Step, ValueIndex};
use crate::pool::Pool;
use crate::specialize::Specialization;
use crate::values::{fill, tensor_bytes, tensor_bytes_mut, tensor_of};
use crate::{StepError, TensorView};

/// What the steps of a run share.
#[derive(Clone, Copy)]
pub(super) struct Context<'a> {
    pub(super) plan: &'a Plan,
    /// See [`super::Session`].
    pub(super) constants: &'a [Option<Tensor>],
    pub(super) specialization: &'a Specialization,
    pub(super) isa: Isa,
    pub(super) pool: &'a Pool,
}

impl<'a> Context<'a> {
    fn dtype(self, value: ValueIndex) -> DType {
        self.plan.value(value).dtype
    }

    /// The sizes of a value; none where they depend on data.
    fn shape(self, value: ValueIndex) -> &'a [usize] {
        self.specialization.shape(value).unwrap_or(&[])
    }

    fn place(self, value: ValueIndex) -> &'a Place {
        &self.specialization.places[value.index()]
    }
}

/// The memory of a run.
#[derive(Default)]
pub(super) struct Memory {
    pub(super) arena: AlignedBytes,
    pub(super) tensors: Vec<Option<Tensor>>,
    /// The outputs of the last run that kernels wrote, by value. The next run overwrites those that the caller has dropped.
    pub(super) spare: Vec<Option<Tensor>>,
    /// The bytes of the tensors.
    pub(super) live: u64,
    /// The bytes of the inputs, which the caller allocated before the run.
    pub(super) given: u64,
    /// The bytes of the constants' tensors and of the states.
    pub(super) held: u64,
    /// The budget in bytes.
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

    /// Drops the tensor of a value.
    pub(super) fn release(&mut self, value: ValueIndex) {
        let bytes = self.tensors[value.index()]
            .take()
            .map_or(0, |tensor| bytes_of(&tensor));
        self.live = self.live.saturating_sub(bytes);
    }

    /// The bytes that are left of the budget.
    pub(super) fn left(&self) -> u64 {
        let taken = self.retained().saturating_add(self.live);
        self.budget.saturating_add(self.given).saturating_sub(taken)
    }

    /// The bytes that are held between runs. Outputs of the last run that the caller holds as well are counted where they are used.
    pub(super) fn retained(&self) -> u64 {
        let arena = self.arena.bytes().len() as u64;
        let spare = self.spare.iter().flatten();
        let spare = spare.filter(|tensor| !tensor.is_shared()).map(bytes_of);
        arena
            .saturating_add(spare.fold(0, u64::saturating_add))
            .saturating_add(self.held)
    }

    /// The tensor of an operand; values in the arena are copied.
    fn tensor(&self, run: Context<'_>, operand: Operand) -> Result<Option<Tensor>, StepError> {
        let lost = || StepError::invalid("an operand was not computed");
        match operand {
            Operand::Absent => Ok(None),
            Operand::Constant(ConstantIndex(index)) => {
                let tensor = run.constants[index as usize].clone();
                tensor.ok_or_else(lost).map(Some)
            }
            Operand::Value(value) => match run.place(value) {
                Place::Tensor => {
                    let tensor = self.tensors[value.index()].clone();
                    tensor.ok_or_else(lost).map(Some)
                }
                Place::Arena(range) => {
                    let bytes = &self.arena.bytes()[range.clone()];
                    tensor_of(run.dtype(value), run.shape(value), bytes).map(Some)
                }
                // Only the value that it is a part of reads it.
                Place::Rows(..) => Err(lost()),
            },
        }
    }

    /// Runs a step by the portable operator.
    pub(super) fn portable(
        &mut self,
        run: Context<'_>,
        step: &Step,
        calls: &mut Calls<'_>,
    ) -> Result<(), StepError> {
        let operands = step.inputs.iter().map(|&operand| self.tensor(run, operand));
        let operands: SmallVec<[Option<Tensor>; 4]> = operands.collect::<Result<_, _>>()?;
        let references: SmallVec<[Option<&Tensor>; 4]> =
            operands.iter().map(Option::as_ref).collect();
        let sizes = step.outputs.iter().map(|&value| {
            let size = run.dtype(value).size();
            size.unwrap_or(size_of::<String>()) as u64
        });
        let room = self.left() / sizes.max().unwrap_or(1).max(1);
        let results = within_elements(usize::try_from(room).unwrap_or(usize::MAX), || {
            let outputs = step.outputs.len();
            step.op.evaluate_with(Inputs(&references), outputs, calls)
        });
        if let Some(error) = calls.failed.take() {
            return Err(StepError::Body(error));
        }
        let results = results.map_err(|error| match error {
            OpError::TooLarge(elements) => StepError::Budget {
                elements,
                limit: self.budget,
            },
            other => other.into(),
        })?;
        if calls.counts {
            let shapes: SmallVec<[Option<&[usize]>; 4]> = references
                .iter()
                .map(|operand| operand.map(Tensor::shape))
                .collect();
            let made: SmallVec<[&[usize]; 4]> = results.iter().map(Tensor::shape).collect();
            calls.count(cost::operations(&step.op, &shapes, &made))?;
        }
        if results.len() < step.outputs.len() {
            return Err(StepError::invalid(format!(
                "{} results instead of {}",
                results.len(),
                step.outputs.len()
            )));
        }
        for (&value, tensor) in step.outputs.iter().zip(results) {
            self.store(run, value, tensor)?;
        }
        Ok(())
    }

    /// Stores what a portable operator gave for a value, if it has the value's type and sizes.
    fn store(
        &mut self,
        run: Context<'_>,
        value: ValueIndex,
        tensor: Tensor,
    ) -> Result<(), StepError> {
        let dtype = run.dtype(value);
        let shape = run.specialization.shape(value);
        if tensor.dtype() != dtype || shape.is_some_and(|shape| shape != tensor.shape()) {
            return Err(StepError::Result {
                found_type: tensor.dtype(),
                found: tensor.shape().to_vec(),
                expected_type: dtype,
                expected: run.shape(value).to_vec(),
            });
        }
        match run.place(value) {
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
        Ok(())
    }

    /// Gives the tensor of a view, if it has one.
    pub(super) fn view(&mut self, run: Context<'_>, step: &Step) -> Result<(), StepError> {
        let (Some(&operand), &[result]) = (step.inputs.first(), &*step.outputs) else {
            return Err(StepError::invalid("a view has one operand and one result"));
        };
        if *run.place(result) == Place::Tensor
            && let Some(tensor) = self.tensor(run, operand)?
        {
            self.keep(result, tensor.reshaped(run.shape(result).iter().copied())?);
        }
        Ok(())
    }

    /// Shows a tapped value to an observer.
    pub(super) fn show(
        &self,
        run: Context<'_>,
        step: &Step,
        index: usize,
        show: &mut Show<'_>,
    ) -> Result<(), StepError> {
        let (&[result], Some(tap)) = (&*step.outputs, run.plan.taps().get(index)) else {
            return Err(StepError::invalid("a tap without a value"));
        };
        let value = run.plan.value(result);
        let unseen = || StepError::invalid(format!("a tap does not show {}", value.dtype));
        let view = TensorView {
            dtype: value.dtype,
            shape: run.shape(result),
            bytes: match run.place(result) {
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

    /// Runs a step by its kernel.
    pub(super) fn kernel(
        &mut self,
        run: Context<'_>,
        index: usize,
        work: &Work,
    ) -> Result<(), StepError> {
        let step = &run.plan.steps()[index];
        let places = step.outputs.iter().map(|&value| run.place(value));
        let mut tensors: SmallVec<[Option<Tensor>; 1]> = SmallVec::new();
        for (&value, place) in step.outputs.iter().zip(places.clone()) {
            let tensor = match place {
                Place::Tensor => Some(self.output(run, value)?),
                Place::Arena(_) | Place::Rows(..) => None,
            };
            tensors.push(tensor);
        }
        let ranges = places.map(|place| match place {
            Place::Arena(range) | Place::Rows(range, _) => range.clone(),
            Place::Tensor => 0..0,
        });
        // Booleans are copied from bytes.
        let mut copies: SmallVec<[Vec<u8>; 1]> = tensors
            .iter()
            .map(|tensor| match tensor {
                Some(tensor) if tensor.dtype() == DType::Bool => vec![0; tensor.len()],
                _ => Vec::new(),
            })
            .collect();
        {
            let (mut outputs, parts) = cut(self.arena.bytes_mut(), ranges.collect())?;
            for ((output, tensor), copy) in outputs.iter_mut().zip(&mut tensors).zip(&mut copies) {
                match tensor {
                    Some(tensor) if tensor.dtype() == DType::Bool => *output = copy,
                    Some(tensor) => *output = tensor_bytes_mut(tensor)?,
                    None => {}
                }
            }
            let operands = operands(run, index, &parts, &self.tensors)?;
            let packed = step.packed.iter();
            let packed: SmallVec<[&[u8]; 4]> = packed
                .map(|&index| run.plan.constant_bytes(index))
                .collect();
            let call = Call {
                isa: run.isa,
                pool: run.pool,
                operands: &operands,
                packed: &packed,
            };
            work.run(call, &mut outputs)?;
        }
        for ((&value, tensor), copy) in step.outputs.iter().zip(tensors).zip(copies) {
            let Some(mut tensor) = tensor else { continue };
            if tensor.dtype() == DType::Bool {
                fill(&mut tensor, &copy)?;
            }
            let mut outputs = run.plan.outputs().iter().map(|output| output.value);
            if outputs.any(|output| output == Operand::Value(value)) {
                self.spare[value.index()] = Some(tensor.clone());
            }
            self.keep(value, tensor);
        }
        Ok(())
    }

    /// A tensor for a result: that of the last run, if only the session holds it, or a new one.
    fn output(&mut self, run: Context<'_>, value: ValueIndex) -> Result<Tensor, StepError> {
        let (shape, dtype) = (run.shape(value), run.dtype(value));
        let spare = self.spare[value.index()]
            .take()
            .filter(|spare| !spare.is_shared() && spare.dtype() == dtype && spare.shape() == shape);
        match spare {
            Some(spare) => Ok(spare),
            None => Ok(Tensor::zeros(dtype, shape.iter().copied())?),
        }
    }
}

/// The bytes of a step's results, by slot.
type Outputs<'a> = SmallVec<[&'a mut [u8]; 1]>;

/// Parts of the arena with their offsets.
type Parts<'a> = SmallVec<[(usize, &'a [u8]); 2]>;

/// Cuts the ranges of a step's results out of the arena, empty ones for results that are elsewhere; gives them and the parts between them.
fn cut(
    arena: &mut [u8],
    ranges: SmallVec<[Range<usize>; 1]>,
) -> Result<(Outputs<'_>, Parts<'_>), StepError> {
    let mut order: SmallVec<[usize; 1]> = (0..ranges.len()).collect();
    order.sort_by_key(|&slot| (ranges[slot].start, ranges[slot].end));
    let mut outputs: Outputs<'_> = ranges.iter().map(|_| &mut [][..]).collect();
    let (mut parts, mut rest, mut offset) = (Parts::new(), arena, 0);
    for slot in order {
        let Range { start, end } = ranges[slot];
        if start == end {
            continue;
        }
        let overlap = || StepError::invalid("results overlap");
        let (before, at) = rest.split_at_mut(start.checked_sub(offset).ok_or_else(overlap)?);
        let (output, behind) = at.split_at_mut(end - start);
        parts.push((offset, before));
        (outputs[slot], rest, offset) = (output, behind, end);
    }
    parts.push((offset, rest));
    Ok((outputs, parts))
}

/// The bytes of a tensor's elements; for strings, the bytes of the string objects.
pub(super) fn bytes_of(tensor: &Tensor) -> u64 {
    let size = tensor.dtype().size().unwrap_or(size_of::<String>());
    (tensor.len() as u64).saturating_mul(size as u64)
}

/// The bytes of a step's operands, none for those that share the memory of the result; `arena` are the parts of the arena that are not being
/// written, with their offsets.
fn operands<'a>(
    run: Context<'a>,
    index: usize,
    arena: &[(usize, &'a [u8])],
    tensors: &'a [Option<Tensor>],
) -> Result<SmallVec<[&'a [u8]; 4]>, StepError> {
    let value = |value: ValueIndex| match run.place(value) {
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
    let in_place = &run.specialization.in_place_operands[index];
    let bytes = |(slot, operand): (usize, &Operand)| match *operand {
        Operand::Absent => Ok(&[][..]),
        _ if in_place.contains(&slot) => Ok(&[][..]),
        Operand::Constant(index) => Ok(run.plan.constant_bytes(index)),
        Operand::Value(index) => value(index).ok_or_else(|| {
            StepError::invalid("an operand overlaps the result or was not computed")
        }),
    };
    let inputs = run.plan.steps()[index].inputs.iter().enumerate();
    inputs.map(bytes).collect()
}
