//! Running a plan on memory that the caller lends.

use std::sync::Arc;
use std::time::Instant;

use octofold_tensor::{Shape, Tensor};
use smallvec::SmallVec;

use super::Session;
use crate::plan::PlanValue;
use crate::values::{fill, tensor_bytes};
use crate::{RunError, TensorView, TensorViewMut};

impl Session {
    /// Runs the plan on borrowed inputs and writes into borrowed outputs, both in the plan's order: the same bits as [`Session::run`].
    ///
    /// Inputs that read a [state](crate::StateSlot) and outputs that give one are left out: the session has them.
    ///
    /// Inputs and outputs are copied. From the second run with the same shapes on, nothing is allocated for them or for kernels; portable steps still allocate
    /// their results.
    ///
    /// # Errors
    /// When the number of inputs or outputs, a type, a shape or a layout is not the plan's, or a step fails. The contents of `outputs` are
    /// unspecified then.
    pub fn run_into(
        &mut self,
        inputs: &[TensorView<'_>],
        outputs: &mut [TensorViewMut<'_>],
    ) -> Result<(), RunError> {
        let started = Instant::now();
        let count = |what, given, expected| match given == expected {
            true => Ok(()),
            false => Err(RunError::Count {
                what,
                given,
                expected,
            }),
        };
        let plan = Arc::clone(&self.plan);
        count("inputs", inputs.len(), plan.free_inputs().count())?;
        count("outputs", outputs.len(), plan.free_outputs().count())?;
        let mut shapes: SmallVec<[Shape; 4]> =
            SmallVec::from_elem(Shape::new(), plan.inputs().len());
        for (view, (position, input)) in inputs.iter().zip(plan.free_inputs()) {
            check_input(view, input)?;
            shapes[position] = Shape::from_slice(view.shape);
        }
        for (slot, state) in plan.states().iter().zip(self.states.tensors()) {
            shapes[slot.input] = Shape::from_slice(state.shape());
        }
        let specialization = self.specialize(&shapes)?;
        self.begin();
        for (view, (position, _)) in inputs.iter().zip(plan.free_inputs()) {
            self.lend(position, view)?;
        }
        for (slot, state) in plan.states().iter().zip(self.states.tensors()) {
            let input = plan.parts().inputs[slot.input];
            self.memory.keep(input, state.clone());
        }
        self.run_steps(&specialization, None)?;
        for (view, output) in outputs.iter_mut().zip(plan.free_outputs()) {
            take_output(view, &output.name, self.output(output)?)?;
        }
        self.end(started)?;
        Ok(())
    }

    /// Keeps a copy of an input, in the tensor of the run before where it fits.
    fn lend(&mut self, position: usize, view: &TensorView<'_>) -> Result<(), RunError> {
        let index = self.plan.parts().inputs[position];
        let spare = self.memory.spare[index.index()].take().filter(|spare| {
            !spare.is_shared() && spare.dtype() == view.dtype && spare.shape() == view.shape
        });
        let fail = |name: &str, reason: String| RunError::Input {
            name: name.to_owned(),
            reason,
        };
        let name = &self.plan.value(index).name;
        let mut tensor = match spare {
            Some(spare) => spare,
            None => Tensor::zeros(view.dtype, view.shape.iter().copied())
                .map_err(|error| fail(name, error.to_string()))?,
        };
        fill(&mut tensor, view.bytes).map_err(|error| fail(name, error.to_string()))?;
        self.memory.spare[index.index()] = Some(tensor.clone());
        self.memory.keep(index, tensor);
        Ok(())
    }
}

fn check_input(view: &TensorView<'_>, input: &PlanValue) -> Result<(), RunError> {
    let fail = |reason: String| RunError::Input {
        name: input.name.clone(),
        reason,
    };
    if view.dtype != input.dtype {
        let (found, expected) = (view.dtype, input.dtype);
        return Err(fail(format!(
            "has elements of type {found}, expected {expected}"
        )));
    }
    match view.channels_last {
        true => Err(fail("is channels-last, expected channels-first".to_owned())),
        false => Ok(()),
    }
}

/// Copies a result into the caller's memory.
fn take_output(view: &mut TensorViewMut<'_>, name: &str, tensor: &Tensor) -> Result<(), RunError> {
    let fail = |reason: String| RunError::Output {
        name: name.to_owned(),
        reason,
    };
    if (view.dtype, view.shape) != (tensor.dtype(), tensor.shape()) {
        return Err(fail(format!(
            "is {}{:?}, the place for it is {}{:?}",
            tensor.dtype(),
            tensor.shape(),
            view.dtype,
            view.shape
        )));
    }
    let bytes = tensor_bytes(tensor).ok_or_else(|| fail("holds strings".to_owned()))?;
    // Type and shape are equal, so the lengths are.
    view.bytes.copy_from_slice(bytes);
    Ok(())
}
