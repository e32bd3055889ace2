//! The checks that every plan passes before it exists.
//!
//! In a checked plan, all indices are in range; every value has one producer (an input or a step) and is produced before it is read; all constants
//! are aligned, inside the blob, and have the length that their sizes require; the input, output and initial values of a state have one type and shape; and each operator has a valid number of
//! operands. Binding to sizes checks whether a kernel can compute its step, see [`crate::exec`].

use std::collections::HashSet;

use octofold_tensor::{DType, Dim};

use super::{Constant, ConstantIndex, Operand, PlanParts, Step};
use crate::{ALIGN, PlanError, StepError};

/// Finds the first fault of a plan.
pub(super) fn check(parts: &PlanParts) -> Result<(), PlanError> {
    let faulty = |reason: String| Err(PlanError::Inconsistent(reason));
    let blob_len = parts.blob.len();
    for (index, constant) in parts.constants.iter().enumerate() {
        if let Err(reason) = check_constant(constant, blob_len) {
            return faulty(format!("constant {index} {reason}"));
        }
    }
    if parts
        .bodies
        .iter()
        .any(|body| !body.parts().blob.is(&parts.blob))
    {
        return faulty("a body has constants of its own".to_owned());
    }
    let mut given = vec![false; parts.values.len()];
    let mut names = HashSet::new();
    for &input in &parts.inputs {
        match given.get_mut(input.index()) {
            Some(given @ false) => *given = true,
            Some(true) => return faulty(format!("value {} is an input twice", input.0)),
            None => return faulty(format!("input {} does not exist", input.0)),
        }
        let value = &parts.values[input.index()];
        if !names.insert(&value.name) {
            return faulty(format!("two inputs have the name `{}`", value.name));
        }
    }
    for (index, step) in parts.steps.iter().enumerate() {
        check_step(parts, step, &mut given).map_err(|reason| PlanError::Step {
            index,
            name: step.name.clone(),
            source: Box::new(StepError::Invalid(reason)),
        })?;
    }
    if let Some(index) = given.iter().position(|&given| !given) {
        return faulty(format!("value {index} is never given"));
    }
    for output in &parts.outputs {
        if output.value == Operand::Absent {
            return faulty(format!("output `{}` is absent", output.name));
        }
        if let Err(reason) = check_operand(parts, output.value, &given) {
            return faulty(format!("output `{}`: {reason}", output.name));
        }
    }
    check_states(parts).or_else(faulty)
}

/// Checks that each state has an input and an output of its own and initial values, all of one type and shape.
fn check_states(parts: &PlanParts) -> Result<(), String> {
    let mut taken = HashSet::new();
    for state in &parts.states {
        let input = parts.inputs.get(state.input);
        let input =
            input.ok_or_else(|| format!("state of input {}, which does not exist", state.input))?;
        let value = &parts.values[input.index()];
        let fail = |reason: String| Err(format!("state `{}` {reason}", value.name));
        if !taken.insert(state.input) {
            return fail("is declared twice".to_owned());
        }
        let sizes = value.shape.as_deref().and_then(known_sizes);
        let Some(sizes) = sizes else {
            return fail("has sizes that are not known; give its symbols numbers".to_owned());
        };
        let of_constant = |index: ConstantIndex| {
            let constant = parts.constants.get(index.index());
            constant.map(|constant| (constant.dtype, Some(constant.shape.clone())))
        };
        let Some(output) = parts.outputs.get(state.output) else {
            return fail(format!(
                "takes output {}, which does not exist",
                state.output
            ));
        };
        let given = match output.value {
            Operand::Value(index) => {
                let value = &parts.values[index.index()];
                Some((value.dtype, value.shape.as_deref().and_then(known_sizes)))
            }
            Operand::Constant(index) => of_constant(index),
            Operand::Absent => None,
        };
        let expected = Some((value.dtype, Some(sizes)));
        if given != expected {
            return fail(format!(
                "takes output `{}` of another type or shape",
                output.name
            ));
        }
        if state
            .initial
            .is_some_and(|index| of_constant(index) != expected)
        {
            return fail("has no initial values of its type and shape".to_owned());
        }
    }
    Ok(())
}

/// The sizes of a shape without symbols.
fn known_sizes(shape: &[Dim]) -> Option<Vec<usize>> {
    let sizes = shape.iter().map(|dim| usize::try_from(dim.known()?).ok());
    sizes.collect()
}

fn check_constant(constant: &Constant, blob_len: usize) -> Result<(), String> {
    let Constant {
        dtype,
        shape,
        offset,
        len,
    } = constant;
    if offset % ALIGN != 0 || offset.checked_add(*len).is_none_or(|end| end > blob_len) {
        return Err(format!(
            "at {offset} of {len} bytes is not aligned inside of {blob_len} bytes"
        ));
    }
    let elements = shape
        .iter()
        .try_fold(1_usize, |product, &size| product.checked_mul(size));
    let fits = match (elements, dtype.size()) {
        (Some(elements), Some(size)) => elements.checked_mul(size) == Some(*len),
        // The length of each string takes 8 bytes.
        (Some(elements), None) => elements.checked_mul(8).is_some_and(|least| least <= *len),
        (None, _) => false,
    };
    if fits {
        Ok(())
    } else {
        Err(format!("of {dtype}{shape:?} has {len} bytes"))
    }
}

fn check_operand(parts: &PlanParts, operand: Operand, given: &[bool]) -> Result<(), String> {
    match operand {
        Operand::Absent => Ok(()),
        Operand::Constant(index) if index.index() < parts.constants.len() => Ok(()),
        Operand::Constant(index) => Err(format!("constant {} does not exist", index.0)),
        Operand::Value(index) => match given.get(index.index()) {
            Some(true) => Ok(()),
            Some(false) => Err(format!("value {} is read before it is given", index.0)),
            None => Err(format!("value {} does not exist", index.0)),
        },
    }
}

fn check_step(parts: &PlanParts, step: &Step, given: &mut [bool]) -> Result<(), String> {
    let arity = step.op.arity();
    if !arity.inputs.contains(&step.inputs.len()) || !arity.outputs.contains(&step.outputs.len()) {
        let (inputs, outputs) = (step.inputs.len(), step.outputs.len());
        return Err(format!(
            "{} does not take {inputs} operands and give {outputs} results",
            step.op.name()
        ));
    }
    for body in step.op.bodies() {
        if body.index() >= parts.bodies.len() {
            return Err(format!("body {} does not exist", body.0));
        }
    }
    for &operand in &step.inputs {
        check_operand(parts, operand, given)?;
    }
    for &constant in &step.packed {
        check_operand(parts, Operand::Constant(constant), given)?;
        if parts.constants[constant.index()].dtype == DType::String {
            return Err("a packed constant holds strings".to_owned());
        }
    }
    for &result in &step.outputs {
        match given.get_mut(result.index()) {
            Some(given @ false) => *given = true,
            Some(true) => return Err(format!("value {} is given twice", result.0)),
            None => return Err(format!("value {} does not exist", result.0)),
        }
    }
    Ok(())
}
