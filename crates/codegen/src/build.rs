//! Writing the plan: values, constants and steps in the order of execution.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use indexmap::IndexMap;
use octofold_ir::{Graph, NodeId, Role, ValueId};
use octofold_kernels::Isa;
use octofold_ops::BodyId;
use octofold_runtime::{
    BlobBuilder, Constant, ConstantIndex, Core, Engine, Operand, Plan, PlanError, PlanOutput,
    PlanParts, PlanValue, StateSlot, Step, ValueIndex, constant_bytes,
};
use octofold_tensor::{DType, Tensor};

use crate::bodies::Bodies;
use crate::choose::Choice;
use crate::facts::Types;
use crate::layout::channels_last;
use crate::pack::{Packed, PackedConstant};
use crate::{CodegenError, CodegenOptions, State};

/// Builds the plan of a graph whose nodes come in `order`, as steps in the order of execution.
pub(crate) fn build(
    graph: &Graph,
    order: &[NodeId],
    choices: Vec<Choice<'_>>,
    options: &CodegenOptions,
) -> Result<Plan, CodegenError> {
    let types = &Types::new(graph);
    let mut blob = BlobBuilder::default();
    let mut bodies = Bodies::compile(graph, options, &mut blob)?;
    let mut builder = Builder {
        graph,
        types,
        values: IndexMap::new(),
        constants: Vec::new(),
        constant_of: BTreeMap::new(),
        packed_of: HashMap::new(),
        blob,
        in_place: options.in_place,
        bodies: &bodies.ids,
        channels_last: channels_last(graph, order, types),
    };
    let inputs = graph
        .inputs()
        .iter()
        .map(|&input| builder.value(input))
        .collect::<Result<_, _>>()?;
    let steps = choices.into_iter().map(|choice| builder.step(choice));
    let steps: Vec<Step> = steps.collect::<Result<_, _>>()?;
    let outputs = graph.outputs().iter().map(|output| {
        let value = builder.operand(Some(output.value))?;
        Ok(PlanOutput {
            name: output.name.clone(),
            value,
        })
    });
    let outputs = outputs.collect::<Result<_, CodegenError>>()?;
    let states = options.states.iter().map(|state| builder.state(state));
    let states = states.collect::<Result<_, _>>()?;
    let Builder {
        values,
        constants,
        blob,
        ..
    } = builder;
    let blob = blob.finish().ok_or(PlanError::Memory(0))?;
    let least = bodies.requires().max(required(options.engine, &steps));
    let plan = Plan::new(PlanParts {
        name: graph.name().to_owned(),
        engine: options.engine,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        requires: options.requires.unwrap_or(least),
        metadata: graph
            .metadata()
            .iter()
            .map(|(key, value)| (key.clone(), value.clone()))
            .collect(),
        inputs,
        outputs,
        values: values.into_values().collect(),
        constants,
        steps,
        states,
        bodies: bodies.plans(&blob)?,
        blob,
    })?;
    Ok(plan)
}

/// The least instruction set for which an engine has its own kernels, if steps use them. All of them read one format of packed weights.
fn required(engine: Engine, steps: &[Step]) -> Isa {
    match engine {
        Engine::Fbgemm if steps.iter().any(|step| step.kernel.is_of_engine()) => Isa::Avx2,
        _ => Isa::Scalar,
    }
}

struct Builder<'a> {
    graph: &'a Graph,
    types: &'a Types<'a>,
    /// In the order of their positions.
    values: IndexMap<ValueId, PlanValue>,
    constants: Vec<Constant>,
    constant_of: BTreeMap<ValueId, ConstantIndex>,
    /// By the address of their bytes, which the blob keeps.
    packed_of: HashMap<*const u8, ConstantIndex>,
    blob: BlobBuilder,
    in_place: bool,
    /// The positions of the bodies in the plan.
    bodies: &'a BTreeMap<BodyId, BodyId>,
    channels_last: BTreeSet<ValueId>,
}

impl Builder<'_> {
    /// Numbers an input or a result of a step.
    fn value(&mut self, id: ValueId) -> Result<ValueIndex, CodegenError> {
        let (value, ty) = (self.graph.value(id), self.types.ty(id));
        let (position, _) = self.values.insert_full(
            id,
            PlanValue {
                name: value.name().to_owned(),
                dtype: ty.dtype,
                shape: self.types.shape(id).map(<[_]>::to_vec).or_else(|| {
                    // An input of known rank keeps its dimensions whatever they are.
                    let is_input = self.graph.inputs().contains(&id);
                    ty.shape.clone().filter(|_| is_input)
                }),
                channels_last: self.channels_last.contains(&id),
            },
        );
        u32::try_from(position)
            .map(ValueIndex)
            .map_err(|_| CodegenError::TooLarge)
    }

    fn operand(&mut self, value: Option<ValueId>) -> Result<Operand, CodegenError> {
        let Some(id) = value else {
            return Ok(Operand::Absent);
        };
        if let Some(tensor) = self.graph.value(id).constant() {
            if let Some(&index) = self.constant_of.get(&id) {
                return Ok(Operand::Constant(index));
            }
            let index = self.tensor(tensor)?;
            self.constant_of.insert(id, index);
            return Ok(Operand::Constant(index));
        }
        // In this order every operand is computed before it is read.
        let position = self
            .values
            .get_index_of(&id)
            .ok_or(CodegenError::TooLarge)?;
        u32::try_from(position)
            .map(|position| Operand::Value(ValueIndex(position)))
            .map_err(|_| CodegenError::TooLarge)
    }

    /// A constant with the elements of a tensor.
    fn tensor(&mut self, tensor: &Tensor) -> Result<ConstantIndex, CodegenError> {
        let (dtype, shape) = (tensor.dtype(), tensor.shape().to_vec());
        if let Some(bytes) = tensor.foreign_bytes().filter(|_| self.in_place) {
            let offset = self.blob.push_foreign(bytes.clone());
            return self.constant(dtype, shape, (offset, bytes.len()));
        }
        let bytes = constant_bytes(tensor);
        let len = bytes.len();
        let offset = self.blob.push(bytes.into());
        self.constant(dtype, shape, (offset, len))
    }

    fn constant(
        &mut self,
        dtype: DType,
        shape: Vec<usize>,
        (offset, len): (usize, usize),
    ) -> Result<ConstantIndex, CodegenError> {
        let index = u32::try_from(self.constants.len()).map_err(|_| CodegenError::TooLarge)?;
        self.constants.push(Constant {
            dtype,
            shape,
            offset,
            len,
        });
        Ok(ConstantIndex(index))
    }

    /// A packed constant. Layers whose constants are in the same memory share one.
    fn packed(&mut self, constant: &PackedConstant) -> Result<ConstantIndex, CodegenError> {
        let PackedConstant { dtype, len, bytes } = constant;
        let address = bytes.as_ptr();
        if let Some(&index) = self.packed_of.get(&address) {
            return Ok(index);
        }
        let offset = self.blob.push(bytes.clone());
        let index = self.constant(*dtype, vec![*len], (offset, bytes.len()))?;
        self.packed_of.insert(address, index);
        Ok(index)
    }

    fn state(&mut self, state: &State) -> Result<StateSlot, CodegenError> {
        let graph = self.graph;
        let inputs = graph
            .inputs()
            .iter()
            .map(|&input| graph.value(input).name());
        let outputs = graph.outputs().iter().map(|output| &*output.name);
        let find = |what: &str, names: Vec<&str>, wanted: &str| {
            let unknown = || CodegenError::State {
                state: format!("{}={}", state.output, state.input),
                reason: format!(
                    "the graph has no {what} `{wanted}`; it has {}",
                    names.join(", ")
                ),
            };
            let position = names.iter().position(|&name| name == wanted);
            position.ok_or_else(unknown)
        };
        let initial = state.initial.as_ref().map(|tensor| self.tensor(tensor));
        Ok(StateSlot {
            input: find("input", inputs.collect(), &state.input)?,
            output: find("output", outputs.collect(), &state.output)?,
            initial: initial.transpose()?,
        })
    }

    fn step(&mut self, choice: Choice<'_>) -> Result<Step, CodegenError> {
        let Choice {
            group,
            kernel,
            note,
            packed,
        } = choice;
        let Packed {
            weights,
            in_place,
            constants,
        } = packed;
        let (first, main, last) = (
            self.graph.node(group.first()),
            self.graph.node(group.main),
            self.graph.node(group.last()),
        );
        let operands = main.inputs().iter().enumerate().map(|(slot, &operand)| {
            // Weights and bias are packed constants, and the shapes of views are known.
            let is_packed = match main.op().role(slot) {
                Some(Role::Weight) => !in_place,
                role => role == Some(Role::Bias),
            };
            let packed = !constants.is_empty() && is_packed;
            let unread = kernel.core() == Core::View && slot > 0;
            match slot {
                0 => self.operand(first.input(0)),
                _ if packed || unread => Ok(Operand::Absent),
                _ => self.operand(operand),
            }
        });
        let inputs = operands.collect::<Result<_, _>>()?;
        let packed = constants.iter().map(|constant| self.packed(constant));
        let packed = packed.collect::<Result<_, _>>()?;
        let outputs = last.outputs().iter().map(|&output| self.value(output));
        let outputs = outputs.collect::<Result<_, _>>()?;
        let sources = group.nodes().flat_map(|id| self.graph.node(id).sources());
        Ok(Step {
            name: last.name().to_owned(),
            sources: sources.cloned().collect(),
            op: main.op().clone().with_bodies(|id| self.bodies[&id]),
            kernel,
            inputs,
            outputs,
            weights,
            packed,
            note,
        })
    }
}
