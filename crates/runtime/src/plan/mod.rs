//! The plan: a compiled program with symbolic shapes.
//!
//! A plan is a straight list of [`Step`]s over [`PlanValue`]s. Four kinds of storage hold data:
//! - constants are in one [`Blob`], usually mapped from the plan's file;
//! - inputs belong to the caller;
//! - values are in the arena of a session, at offsets that [`crate::Specialization`] computes from the shapes of the inputs;
//! - values whose size depends on data, and values that only portable steps use, are on the heap.
//!
//! Every `Plan` is checked: indices are in range, each value is written once and before it is read, and constants are
//! inside the blob. Another check is whether each step's kernel supports its operator, operands, constants and sizes. It happens at the same time if the plan
//! has no symbols, and otherwise when the plan is specialized. The kernels, which are safe functions, check the lengths again.

mod check;
mod kernel;
mod text;

use std::sync::Arc;

pub use octofold_kernels::Engine;
use octofold_kernels::Isa;
use octofold_ops::Op;
use octofold_tensor::{DType, Dim};

pub use kernel::{Axes, Core, InputForm, Kernel, UnknownKernel};

use crate::{Blob, PlanError, Specialization};

/// The position of a value in [`Plan::values`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ValueIndex(pub u32);

/// The position of a constant in [`Plan::constants`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ConstantIndex(pub u32);

impl ValueIndex {
    /// The position.
    pub const fn index(self) -> usize {
        self.0 as usize
    }
}

impl ConstantIndex {
    /// The position.
    pub const fn index(self) -> usize {
        self.0 as usize
    }
}

/// What a step reads, or an output is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Operand {
    /// An optional operand that is not there, or weights that the step has in packed form.
    Absent,
    /// An input, or the result of an earlier step.
    Value(ValueIndex),
    /// A constant.
    Constant(ConstantIndex),
}

/// A value: an input, or a result of a step.
#[derive(Clone, Debug, PartialEq)]
pub struct PlanValue {
    /// The name that the value has in the model.
    pub name: String,
    /// The element type.
    pub dtype: DType,
    /// The sizes, over the symbols of the inputs; `None` when they depend on data.
    pub shape: Option<Vec<Dim>>,
    /// Whether images are channels-last in memory although the model says channels-first. This matters only to observers of
    /// channels.
    pub channels_last: bool,
}

/// A constant: the elements of a tensor, or packed data of a kernel as bytes of rank 1.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Constant {
    /// The element type.
    pub dtype: DType,
    /// The sizes.
    pub shape: Vec<usize>,
    /// The offset of the elements in the blob, a multiple of [`crate::ALIGN`].
    pub offset: usize,
    /// The number of bytes. Strings are stored as a 64-bit length and the characters, one after the other.
    pub len: usize,
}

/// One step of a plan: an operator, and the kernel that computes it.
#[derive(Clone, Debug, PartialEq)]
pub struct Step {
    /// The name of the node that the step was made from.
    pub name: String,
    /// The names of the model's nodes that the step computes.
    pub sources: Vec<String>,
    /// The operator, with all attributes.
    pub op: Op,
    /// The kernel that computes it.
    pub kernel: Kernel,
    /// The operands, by the operator's slots.
    pub inputs: Vec<Operand>,
    /// The results, by the operator's slots.
    pub outputs: Vec<ValueIndex>,
    /// The sizes of the weights before they were packed, as the operator has them; empty where nothing is packed.
    pub weights: Vec<usize>,
    /// The constants of the kernel, in the order that [`Core`] says: packed weights, constants of the output stage.
    pub packed: Vec<ConstantIndex>,
    /// Why no faster kernel was chosen; empty when there is nothing to explain.
    pub note: String,
}

/// An output: a value or constant, with the name that the caller uses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlanOutput {
    /// The name.
    pub name: String,
    /// The value or constant.
    pub value: Operand,
}

/// A value that a session keeps between runs: what the output gives in one run is what the input reads in the next one. Type and sizes of both
/// are the same, and the sizes are known numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StateSlot {
    /// The position of the input in [`Plan::inputs`]. Its name is that of the state.
    pub input: usize,
    /// The position of the output in [`Plan::outputs`].
    pub output: usize,
    /// What the first run reads: a constant, or zeros if `None`.
    pub initial: Option<ConstantIndex>,
}

/// The parts of a plan, not yet checked; [`Plan::new`] checks them.
#[derive(Clone, Debug, PartialEq)]
pub struct PlanParts {
    /// The name of the model.
    pub name: String,
    /// The engine.
    pub engine: Engine,
    /// The version of Octofold that made the plan.
    pub version: String,
    /// The least instruction set that the plan is made for. If a session allows it, other processors run the plan more slowly.
    pub requires: Isa,
    /// The metadata of the model's file, by key.
    pub metadata: Vec<(String, String)>,
    /// The inputs.
    pub inputs: Vec<ValueIndex>,
    /// The outputs.
    pub outputs: Vec<PlanOutput>,
    /// All values.
    pub values: Vec<PlanValue>,
    /// All constants.
    pub constants: Vec<Constant>,
    /// The steps in the order of execution.
    pub steps: Vec<Step>,
    /// The values that a session keeps between runs.
    pub states: Vec<StateSlot>,
    /// The plans that operators with bodies run. Their constants are in the same blob.
    pub bodies: Vec<Arc<Plan>>,
    /// The bytes of the constants.
    pub blob: Blob,
}

/// A checked plan: a straight list of steps over values, with constants in a [`Blob`]. [`Plan::new`] checks it.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    parts: PlanParts,
    taps: Vec<Tap>,
}

/// A step that shows a value to an observer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tap {
    /// The name of the observed value.
    pub id: String,
    /// The step that shows it.
    pub step: usize,
}

impl Plan {
    /// Checks the parts and makes a plan.
    ///
    /// # Errors
    /// [`PlanError::Inconsistent`] or [`PlanError::Step`], for the first fault found.
    pub fn new(parts: PlanParts) -> Result<Self, PlanError> {
        check::check(&parts)?;
        let steps = parts.steps.iter().enumerate();
        let taps = steps.filter_map(|(step, Step { op, .. })| match op {
            Op::Observe(observe) => Some(Tap {
                id: observe.id.clone(),
                step,
            }),
            _ => None,
        });
        let taps = taps.collect();
        let plan = Self { parts, taps };
        // Kernels can be bound to their steps as soon as all sizes are known.
        if let Some(shapes) = plan.fixed_input_shapes() {
            Specialization::new(&plan, &shapes, 1)?;
        }
        Ok(plan)
    }

    /// The parts.
    pub fn parts(&self) -> &PlanParts {
        &self.parts
    }

    /// The name of the model.
    pub fn name(&self) -> &str {
        &self.parts.name
    }

    /// The engine.
    pub fn engine(&self) -> Engine {
        self.parts.engine
    }

    /// The least instruction set that the plan is made for.
    pub fn requires(&self) -> Isa {
        self.parts.requires
    }

    /// The metadata of the model's file.
    pub fn metadata(&self) -> &[(String, String)] {
        &self.parts.metadata
    }

    /// The inputs: name, element type and sizes.
    pub fn inputs(&self) -> impl ExactSizeIterator<Item = &PlanValue> {
        self.parts.inputs.iter().map(|&index| self.value(index))
    }

    /// What the caller gets.
    pub fn outputs(&self) -> &[PlanOutput] {
        &self.parts.outputs
    }

    /// All values.
    pub fn values(&self) -> &[PlanValue] {
        &self.parts.values
    }

    /// All constants.
    pub fn constants(&self) -> &[Constant] {
        &self.parts.constants
    }

    /// The bodies, as [`octofold_ops::BodyId`] numbers them.
    pub fn bodies(&self) -> &[Arc<Self>] {
        &self.parts.bodies
    }

    /// The steps in the order of execution.
    pub fn steps(&self) -> &[Step] {
        &self.parts.steps
    }

    /// The values that a session keeps between runs.
    pub fn states(&self) -> &[StateSlot] {
        &self.parts.states
    }

    /// The inputs that a caller gives, with their positions among all inputs: those that read no state.
    pub fn free_inputs(&self) -> impl Iterator<Item = (usize, &PlanValue)> {
        let reads = |&(position, _): &(usize, &PlanValue)| {
            self.states().iter().all(|slot| slot.input != position)
        };
        self.inputs().enumerate().filter(reads)
    }

    /// The outputs that give no state.
    pub fn free_outputs(&self) -> impl Iterator<Item = &PlanOutput> {
        let outputs = self.outputs().iter().enumerate();
        let free = outputs
            .filter(|&(position, _)| self.states().iter().all(|slot| slot.output != position));
        free.map(|(_, output)| output)
    }

    /// The value that reads a state.
    pub fn state_value(&self, slot: &StateSlot) -> &PlanValue {
        self.value(self.parts.inputs[slot.input])
    }

    /// The observed values, in the order in which a run shows them.
    pub fn taps(&self) -> &[Tap] {
        &self.taps
    }

    /// The bytes of all constants.
    pub fn weight_bytes(&self) -> usize {
        self.parts.blob.len()
    }

    /// A value of the plan.
    pub(crate) fn value(&self, index: ValueIndex) -> &PlanValue {
        // A plan is checked, so every index is in range.
        &self.parts.values[index.index()]
    }

    /// A constant of the plan.
    pub(crate) fn constant(&self, index: ConstantIndex) -> &Constant {
        &self.parts.constants[index.index()]
    }

    /// The bytes of a constant.
    pub fn constant_bytes(&self, index: ConstantIndex) -> &[u8] {
        let Constant { offset, len, .. } = *self.constant(index);
        self.parts.blob.constant(offset..offset + len)
    }
}
