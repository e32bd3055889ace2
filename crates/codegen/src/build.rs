//! Writing the plan: values, constants and steps in the order of execution.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use indexmap::IndexMap;
use octofold_ir::{Graph, NodeId, Role, ValueId};
use octofold_kernels::{Isa, KernelError};
use octofold_ops::{BodyId, map_parallel};
use octofold_runtime::{
    BlobBuilder, Constant, ConstantIndex, Core, Engine, Kernel, Operand, Plan, PlanError,
    PlanOutput, PlanParts, PlanValue, StateSlot, Step, ValueIndex, constant_bytes,
};
use octofold_tensor::DType;

use crate::bodies::Bodies;
use crate::facts::{Facts, Types};
use crate::group::Group;
use crate::layout::channels_last;
use crate::pack::{Packed, PackedConstant, PackedWeights, pack};
use crate::{CodegenError, CodegenOptions, State};

/// Nodes that become a step.
struct Choice<'a> {
    group: Cow<'a, Group>,
    kernel: Kernel,
    note: String,
    packed: Packed,
}

/// Builds the plan of a graph whose nodes come in `order`, as steps in the order of execution.
pub(crate) fn build(
    graph: &Graph,
    order: &[NodeId],
    types: &Types<'_>,
    groups: &[Group],
    options: &CodegenOptions,
) -> Result<Plan, CodegenError> {
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
        bodies: &bodies.ids,
        channels_last: channels_last(graph, order, types),
    };
    let inputs = graph
        .inputs()
        .iter()
        .map(|&input| builder.value(input))
        .collect::<Result<_, _>>()?;
    let choices = choices(graph, types, groups, options.engine)?;
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

/// Packs for the kernels of all groups, on several threads, because packing takes most of the time.
fn choices<'a>(
    graph: &Graph,
    types: &Types<'_>,
    groups: &'a [Group],
    engine: Engine,
) -> Result<Vec<Choice<'a>>, CodegenError> {
    let packed = PackedWeights::default();
    let pack = |facts: Facts<'_>, kernel| pack(facts, kernel, engine, &packed);
    let choose = |group: &'a Group| {
        let choices = choose(graph, types, Cow::Borrowed(group), &pack);
        choices.map_err(|source| CodegenError::Pack {
            node: graph.node(group.main).name().to_owned(),
            source,
        })
    };
    let choices = map_parallel(groups, choose).into_iter();
    let choices: Vec<_> = choices.collect::<Result<_, _>>()?;
    Ok(choices.into_iter().flatten().collect())
}

/// The least instruction set for which an engine has its own kernels, if steps use them. All of them read one format of packed weights.
fn required(engine: Engine, steps: &[Step]) -> Isa {
    match engine {
        Engine::Fbgemm if steps.iter().any(|step| step.kernel.is_of_engine()) => Isa::Avx2,
        _ => Isa::Scalar,
    }
}

/// Packs for the kernel of a group. If sums could exceed 32 bits, each node becomes a step of its own, and the layer a portable one.
fn choose<'a>(
    graph: &Graph,
    types: &Types<'_>,
    group: Cow<'a, Group>,
    pack: &impl Fn(Facts<'_>, Kernel) -> Result<Packed, KernelError>,
) -> Result<Vec<Choice<'a>>, KernelError> {
    let choice = |group, kernel, note, packed| {
        vec![Choice {
            group,
            kernel,
            note,
            packed,
        }]
    };
    let portable = |group, note| choice(group, Core::Portable.into(), note, Packed::default());
    let kernel = match &group.selection {
        Ok(kernel) => *kernel,
        Err(note) => {
            let note = note.clone();
            return Ok(portable(group, note));
        }
    };
    match pack(Facts::new(graph, group.main, types), kernel) {
        Ok(packed) => Ok(choice(group, kernel, String::new(), packed)),
        Err(error @ KernelError::AccumulatorOverflow { .. }) if group.nodes().count() == 1 => {
            Ok(portable(group, error.to_string()))
        }
        Err(KernelError::AccumulatorOverflow { .. }) => {
            let parts = group.split(graph, types).into_iter();
            let choices = parts.map(|part| choose(graph, types, Cow::Owned(part), pack));
            let choices: Vec<_> = choices.collect::<Result<_, _>>()?;
            Ok(choices.into_iter().flatten().collect())
        }
        Err(error) => Err(error),
    }
}

struct Builder<'a> {
    graph: &'a Graph,
    types: &'a Types<'a>,
    /// In the order of their positions.
    values: IndexMap<ValueId, PlanValue>,
    constants: Vec<Constant>,
    constant_of: BTreeMap<ValueId, ConstantIndex>,
    packed_of: HashMap<*const u8, (Arc<[u8]>, ConstantIndex)>,
    blob: BlobBuilder,
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
            let index = self.constant(
                tensor.dtype(),
                tensor.shape().to_vec(),
                &constant_bytes(tensor),
            )?;
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

    fn constant(
        &mut self,
        dtype: DType,
        shape: Vec<usize>,
        bytes: &[u8],
    ) -> Result<ConstantIndex, CodegenError> {
        let index = u32::try_from(self.constants.len()).map_err(|_| CodegenError::TooLarge)?;
        let offset = self.blob.push(bytes);
        self.constants.push(Constant {
            dtype,
            shape,
            offset,
            len: bytes.len(),
        });
        Ok(ConstantIndex(index))
    }

    /// A packed constant. Layers whose constants are in the same memory share one.
    fn packed(&mut self, constant: &PackedConstant) -> Result<ConstantIndex, CodegenError> {
        let PackedConstant { dtype, len, bytes } = constant;
        let address = bytes.as_ptr();
        if let Some((_, index)) = self.packed_of.get(&address) {
            return Ok(*index);
        }
        let index = self.constant(*dtype, vec![*len], bytes)?;
        // The memory is kept, so that no other constant gets its address.
        self.packed_of.insert(address, (Arc::clone(bytes), index));
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
        let initial = state.initial.as_ref().map(|tensor| {
            self.constant(
                tensor.dtype(),
                tensor.shape().to_vec(),
                &constant_bytes(tensor),
            )
        });
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
            packed: Packed { weights, constants },
        } = choice;
        let (first, main, last) = (
            self.graph.node(group.first()),
            self.graph.node(group.main),
            self.graph.node(group.last()),
        );
        let operands = main.inputs().iter().enumerate().map(|(slot, &operand)| {
            // Weights and bias are packed constants, and the shapes of views are known.
            let is_packed = matches!(main.op().role(slot), Some(Role::Weight | Role::Bias));
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
