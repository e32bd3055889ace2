//! Bodies: plans that steps of a plan run, each in a session of its own.
//!
//! What bodies take counts against the limits of the session around them: their memory is part of its budget, and their steps are part of
//! [`SessionOptions::operations`]. A body of fixed sizes whose steps have kernels takes no memory after its first trips: its results are written into
//! the tensors of the trip but one before.

use std::sync::Arc;

use octofold_ops::{Bodies, BodyId, OpError};
use octofold_tensor::{DType, Dim, Shape, Tensor};

use super::{Session, SessionOptions};
use crate::plan::{Operand, Plan};
use crate::pool::Pool;
use crate::specialize::Specialization;
use crate::{PlanError, RunError};

/// The bodies of a session while one of its steps runs.
pub(super) struct Calls<'a> {
    pub(super) sessions: &'a mut [Session],
    /// The bytes that are left of the session's budget.
    pub(super) memory: u64,
    /// The operations that are left.
    pub(super) operations: &'a mut u64,
    pub(super) limits: Limits,
    /// Whether the step that runs counts itself: it is in a body.
    pub(super) counts: bool,
    /// The error of the body that failed.
    pub(super) failed: Option<Box<RunError>>,
}

/// What a session's bodies may take at most.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Limits {
    pub(super) memory: u64,
    pub(super) operations: u64,
}

impl Calls<'_> {
    /// Counts operations.
    pub(super) fn count(&mut self, operations: u64) -> Result<(), OpError> {
        let left = self.operations.checked_sub(operations);
        *self.operations = left.ok_or(OpError::Operations(self.limits.operations))?;
        Ok(())
    }
}

impl Bodies for Calls<'_> {
    fn call(
        &mut self,
        body: BodyId,
        inputs: &[Tensor],
        outputs: &mut Vec<Tensor>,
    ) -> Result<(), OpError> {
        let missing = || OpError::invalid("its body does not exist");
        let session = self.sessions.get_mut(body.index()).ok_or_else(missing)?;
        let retained = session.retained();
        session.memory.budget = self.memory.saturating_add(retained);
        session.operations = *self.operations;
        let result = session.run_body(inputs, outputs);
        *self.operations = session.operations;
        let grown = session.retained().saturating_sub(retained);
        self.memory = self.memory.saturating_sub(grown);
        result.map_err(|error| {
            self.failed = Some(Box::new(error));
            OpError::invalid("its body failed")
        })
    }

    fn output(&self, body: BodyId, slot: usize) -> Option<(DType, Shape)> {
        let plan = &self.sessions.get(body.index())?.plan;
        let size = |dim: &Dim| dim.known().and_then(|size| usize::try_from(size).ok());
        Some(match plan.outputs().get(slot)?.value {
            Operand::Value(index) => {
                let value = plan.value(index);
                let sizes = value.shape.iter().flatten();
                let shape = sizes.map(|dim| size(dim).unwrap_or(0)).collect();
                (value.dtype, shape)
            }
            Operand::Constant(index) => {
                let constant = plan.constant(index);
                (constant.dtype, constant.shape.iter().copied().collect())
            }
            Operand::Absent => return None,
        })
    }

    fn keep(&mut self, bytes: u64) -> Result<(), OpError> {
        let left = self.memory.checked_sub(bytes);
        self.memory = left.ok_or(OpError::Bytes(self.limits.memory))?;
        Ok(())
    }
}

impl Session {
    /// Sessions for the bodies of a plan, which share the budget that is left.
    pub(super) fn of_bodies(
        plan: &Plan,
        options: SessionOptions,
        pool: &Arc<Pool>,
        mut memory: u64,
    ) -> Result<Vec<Self>, RunError> {
        let mut sessions = Vec::with_capacity(plan.bodies().len());
        for body in plan.bodies() {
            let options = SessionOptions { memory, ..options };
            let mut session = Self::with_pool(Arc::clone(body), options, Arc::clone(pool))?;
            session.in_body = true;
            memory = memory.saturating_sub(session.retained());
            sessions.push(session);
        }
        Ok(sessions)
    }

    /// The bytes that the session holds between runs.
    pub(super) fn retained(&self) -> u64 {
        let bodies = self.bodies.iter().map(Self::retained);
        bodies.fold(self.memory.retained(), u64::saturating_add)
    }

    /// Runs the plan as a body on inputs by position. `outputs` gets the outputs; the tensors in it before are written again.
    fn run_body(&mut self, inputs: &[Tensor], outputs: &mut Vec<Tensor>) -> Result<(), RunError> {
        let plan = Arc::clone(&self.plan);
        let fits = inputs.len() == plan.inputs().len()
            && inputs
                .iter()
                .zip(plan.inputs())
                .all(|(tensor, input)| tensor.dtype() == input.dtype);
        if !fits {
            let reason = "a body is given other inputs than it takes".to_owned();
            return Err(PlanError::Inconsistent(reason).into());
        }
        let latest = self.specializations.first().filter(|latest| {
            let known = latest.inputs.iter().zip(inputs);
            known
                .into_iter()
                .all(|(known, tensor)| **known == *tensor.shape())
        });
        let specialization = match latest {
            Some(latest) => Arc::clone(latest),
            None => {
                let shapes: Vec<Shape> = inputs
                    .iter()
                    .map(|tensor| Shape::from_slice(tensor.shape()))
                    .collect();
                self.specialize(&shapes)?
            }
        };
        let operations = self.operations.checked_sub(specialization.operations());
        self.operations = operations.ok_or(RunError::Operations(self.limits.operations))?;
        self.begin();
        for (&input, tensor) in plan.parts().inputs.iter().zip(inputs) {
            self.memory.keep(input, tensor.clone());
        }
        for (output, tensor) in plan.outputs().iter().zip(outputs.drain(..)) {
            if let Operand::Value(value) = output.value {
                self.memory.spare[value.index()] = Some(tensor);
            }
        }
        self.run_steps(&specialization, None)?;
        for output in plan.outputs() {
            outputs.push(self.output(output)?.clone());
        }
        self.memory.tensors.clear();
        Ok(())
    }
}

impl Specialization {
    /// The operations of a run as a part of another: those of all steps, at least [`crate::cost::STEP`] for each.
    pub(super) fn operations(&self) -> u64 {
        let costs = self.costs.iter();
        let each = costs.map(|cost| cost.macs.saturating_add(cost.bytes()));
        each.map(|operations| operations.max(crate::cost::STEP))
            .fold(0, u64::saturating_add)
    }
}
