//! The states of a session: values that one run gives and the next one reads.
//!
//! A state is a tensor that the run's input and output share with the session, so that no bytes are copied from run to run. There are two buffers:
//! while a run reads one, its kernels write the other, which the run before has read.

use octofold_tensor::Tensor;
use smallvec::SmallVec;

use super::Session;
use super::memory::bytes_of;
use crate::plan::{Operand, Plan, PlanValue, StateSlot};
use crate::values::tensor_of;
use crate::{PlanError, RunError, StateFault};

/// The current value of each state, in the order of [`Plan::states`].
#[derive(Debug)]
pub(super) struct States(Vec<Tensor>);

impl States {
    /// The initial values, if they take no more than `limit` bytes.
    pub(super) fn new(plan: &Plan, limit: u64) -> Result<Self, RunError> {
        let slots = plan.states().iter();
        let bytes = slots.map(|slot| state_bytes(plan.state_value(slot)));
        let needed = bytes.fold(0, u64::saturating_add);
        if needed > limit {
            return Err(RunError::Budget { needed, limit });
        }
        let slots = plan.states().iter();
        let tensors = slots.map(|slot| initial(plan, slot));
        Ok(Self(tensors.collect::<Result<_, _>>()?))
    }

    pub(super) fn tensors(&self) -> &[Tensor] {
        &self.0
    }

    pub(super) fn bytes(&self) -> u64 {
        self.0.iter().map(bytes_of).fold(0, u64::saturating_add)
    }

    /// Takes the states over that a run gave. What they were is free to be written in the next run, where a kernel writes the output.
    pub(super) fn advance(
        &mut self,
        plan: &Plan,
        given: SmallVec<[Tensor; 2]>,
        spare: &mut [Option<Tensor>],
    ) {
        let states = self.0.iter_mut().zip(given);
        for (slot, (state, given)) in plan.states().iter().zip(states) {
            let before = std::mem::replace(state, given);
            if let Operand::Value(value) = plan.outputs()[slot.output].value {
                let spare = &mut spare[value.index()];
                *spare = spare.take().map(|_| before);
            }
        }
    }
}

/// The sizes of a state. Plans are checked: they are numbers.
fn state_shape(value: &PlanValue) -> Vec<usize> {
    let dims = value.shape.iter().flatten();
    let sizes = dims.map(|dim| dim.known().and_then(|size| usize::try_from(size).ok()));
    sizes.map(|size| size.unwrap_or(usize::MAX)).collect()
}

fn state_bytes(value: &PlanValue) -> u64 {
    let size = value.dtype.size().unwrap_or(size_of::<String>()) as u64;
    let sizes = state_shape(value).into_iter().map(|size| size as u64);
    sizes.fold(size, u64::saturating_mul)
}

/// What the first run reads.
fn initial(plan: &Plan, slot: &StateSlot) -> Result<Tensor, PlanError> {
    let value = plan.state_value(slot);
    let tensor = match slot.initial {
        None => Tensor::zeros(value.dtype, state_shape(value)).map_err(|error| error.to_string()),
        Some(index) => tensor_of(
            value.dtype,
            &plan.constant(index).shape,
            plan.constant_bytes(index),
        )
        .map_err(|error| error.to_string()),
    };
    tensor.map_err(|error| PlanError::Inconsistent(format!("state `{}`: {error}", value.name)))
}

impl Session {
    /// The states by name, in the plan's order: what the next run reads. Tensors share their elements, so nothing is copied.
    pub fn state(&self) -> Vec<(String, Tensor)> {
        let slots = self.plan.states().iter().zip(self.states.tensors());
        slots
            .map(|(slot, state)| (self.plan.state_value(slot).name.clone(), state.clone()))
            .collect()
    }

    /// Makes the states what they were before the first run.
    ///
    /// # Errors
    /// When there is no memory for them.
    pub fn reset_state(&mut self) -> Result<(), RunError> {
        self.states = States::new(&self.plan, u64::MAX)?;
        Ok(())
    }

    /// Goes on from states that [`Session::state`] gave, in this session or another one of the same plan. They may be in any order.
    ///
    /// # Errors
    /// [`RunError::State`] when a state is missing, unknown or given twice, or has another type or shape. The session's states are what they were then.
    pub fn restore_state(&mut self, states: &[(&str, Tensor)]) -> Result<(), RunError> {
        let names = || {
            self.plan
                .states()
                .iter()
                .map(|slot| &self.plan.state_value(slot).name)
        };
        let mut found: Vec<Option<Tensor>> = vec![None; self.plan.states().len()];
        for (name, tensor) in states {
            let fail = |fault| RunError::State {
                name: (*name).to_owned(),
                fault,
            };
            let Some(position) = names().position(|known| known == name) else {
                let known: Vec<_> = names().map(|name| format!("`{name}`")).collect();
                let known = known.join(", ");
                return Err(fail(StateFault::Unknown { known }));
            };
            let value = self.plan.state_value(&self.plan.states()[position]);
            fits(value, tensor).map_err(fail)?;
            if found[position].replace(tensor.clone()).is_some() {
                return Err(fail(StateFault::Twice));
            }
        }
        let states = found.into_iter().zip(names()).map(|(state, name)| {
            state.ok_or_else(|| RunError::State {
                name: name.clone(),
                fault: StateFault::Missing,
            })
        });
        self.states = States(states.collect::<Result<_, _>>()?);
        Ok(())
    }
}

/// Whether a tensor has the type and sizes of a state.
fn fits(value: &PlanValue, tensor: &Tensor) -> Result<(), StateFault> {
    let (found, expected) = (tensor.dtype(), value.dtype);
    if found != expected {
        return Err(StateFault::Type { found, expected });
    }
    let (found, expected) = (tensor.shape(), state_shape(value));
    if found != expected {
        let found = found.to_vec();
        return Err(StateFault::Shape { found, expected });
    }
    Ok(())
}
