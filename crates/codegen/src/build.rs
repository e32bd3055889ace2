//! Writing the plan: values, constants and steps in the order of execution.

use std::collections::{BTreeMap, BTreeSet};

use indexmap::IndexMap;
use octofold_ir::{Graph, Node, NodeId, Op, ValueId};
use octofold_kernels::{Isa, KernelError};
use octofold_ops::families::Layout;
use octofold_runtime::{
    BlobBuilder, Constant, ConstantIndex, Engine, Kernel, Operand, Plan, PlanError, PlanOutput,
    PlanParts, PlanValue, Step, ValueIndex, constant_bytes,
};
use octofold_tensor::DType;
use rayon::prelude::*;

use crate::facts::{Facts, Types};
use crate::pack::{Packed, PackedConstant, pack};
use crate::peephole::{Row, Rows};
use crate::select::select;
use crate::{CodegenError, CodegenOptions};

/// How a node becomes a step.
struct Choice {
    kernel: Kernel,
    note: String,
    packed: Option<Packed>,
}

/// Builds the plan of a graph whose nodes come in `order`.
pub(crate) fn build(
    graph: &Graph,
    order: &[NodeId],
    types: &Types<'_>,
    rows: &Rows,
    options: &CodegenOptions,
) -> Result<Plan, CodegenError> {
    let absorbed: BTreeSet<NodeId> = rows.values().flat_map(|row| row.before.clone()).collect();
    let steps: Vec<NodeId> = order
        .iter()
        .copied()
        .filter(|id| !absorbed.contains(id))
        .collect();
    // Packing is what takes time, so it is done for many nodes at once.
    let choices: Vec<Choice> = steps
        .par_iter()
        .map(|&id| {
            let facts = Facts {
                graph,
                node: graph.node(id),
                types,
            };
            choose(facts, rows.get(&id), options).map_err(|source| CodegenError::Pack {
                node: facts.node.name().to_owned(),
                source,
            })
        })
        .collect::<Result<_, _>>()?;

    let mut builder = Builder {
        graph,
        types,
        values: IndexMap::new(),
        constants: Vec::new(),
        constant_of: BTreeMap::new(),
        blob: BlobBuilder::default(),
        channels_last: BTreeSet::new(),
    };
    let inputs = graph
        .inputs()
        .iter()
        .map(|&input| builder.value(input))
        .collect::<Result<_, _>>()?;
    let mut written = Vec::with_capacity(steps.len());
    for (id, choice) in steps.into_iter().zip(choices) {
        written.push(builder.step(id, choice, rows.get(&id))?);
    }
    let outputs = graph.outputs().iter().map(|output| {
        let value = builder.operand(Some(output.value))?;
        Ok(PlanOutput {
            name: output.name.clone(),
            value,
        })
    });
    let outputs = outputs.collect::<Result<_, CodegenError>>()?;
    let blob = builder.blob.finish().ok_or(PlanError::Memory(0))?;
    let plan = Plan::new(PlanParts {
        name: graph.name().to_owned(),
        engine: options.engine,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        requires: options
            .requires
            .unwrap_or_else(|| required(options.engine, &written)),
        metadata: graph
            .metadata()
            .iter()
            .map(|(key, value)| (key.clone(), value.clone()))
            .collect(),
        inputs,
        outputs,
        values: builder.values.into_values().collect(),
        constants: builder.constants,
        steps: written,
        blob,
    })?;
    Ok(plan)
}

/// The least instruction set with kernels of an engine's own, if steps use them. One form of packed weights serves all of them.
fn required(engine: Engine, steps: &[Step]) -> Isa {
    let engines_own = |step: &Step| {
        matches!(
            step.kernel,
            Kernel::QConv
                | Kernel::QConvDepthwise
                | Kernel::QConvToNchw
                | Kernel::QConvDepthwiseToNchw
                | Kernel::QLinear
        )
    };
    match engine {
        Engine::Fbgemm if steps.iter().any(engines_own) => Isa::Avx2,
        _ => Isa::Scalar,
    }
}

/// Chooses a kernel and packs for it. Weights whose sums could leave 32 bits make the step portable.
fn choose(
    facts: Facts<'_>,
    row: Option<&Row>,
    options: &CodegenOptions,
) -> Result<Choice, KernelError> {
    let portable = |note: String| Choice {
        kernel: Kernel::Portable,
        note,
        packed: None,
    };
    if let Some(row) = row {
        let node = facts.graph.node(row.main);
        return Ok(Choice {
            kernel: row.kernel,
            note: String::new(),
            packed: pack(Facts { node, ..facts }, row.kernel, options.engine)?,
        });
    }
    let selected = select(facts);
    match selected {
        Err(note) => Ok(portable(note)),
        Ok(kernel) if options.portable && kernel != Kernel::View => {
            Ok(portable("asked for".to_owned()))
        }
        Ok(kernel) => match pack(facts, kernel, options.engine) {
            Ok(packed) => Ok(Choice {
                kernel,
                note: String::new(),
                packed,
            }),
            Err(error @ KernelError::AccumulatorOverflow { .. }) => Ok(portable(error.to_string())),
            Err(error) => Err(error),
        },
    }
}

struct Builder<'a> {
    graph: &'a Graph,
    types: &'a Types<'a>,
    /// In the order of their positions.
    values: IndexMap<ValueId, PlanValue>,
    constants: Vec<Constant>,
    constant_of: BTreeMap<ValueId, ConstantIndex>,
    blob: BlobBuilder,
    channels_last: BTreeSet<ValueId>,
}

impl Builder<'_> {
    /// Numbers a value that an input or a step gives.
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
        // The order of the nodes has every operand computed before it is read.
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

    fn step(
        &mut self,
        id: NodeId,
        choice: Choice,
        row: Option<&Row>,
    ) -> Result<Step, CodegenError> {
        let node = self.graph.node(id);
        let mut quantizes = false;
        let (op, slots, sources) = match row {
            None => (node.op(), node.inputs().to_vec(), node.sources().to_vec()),
            Some(row) => {
                let main = self.graph.node(row.main);
                let before = row.before.iter().map(|&id| self.graph.node(id));
                let mut slots = main.inputs().to_vec();
                if let Some(&first) = row.before.first() {
                    let node = self.graph.node(first);
                    quantizes = first != row.main && matches!(node.op(), Op::QuantizeLinear(_));
                    let taken = if quantizes { 3 } else { 1 };
                    slots.resize(slots.len().max(taken), None);
                    for (slot, operand) in slots.iter_mut().enumerate().take(taken) {
                        *operand = node.input(slot);
                    }
                }
                let sources: Vec<_> = before.chain([node]).map(Node::sources).collect();
                (main.op(), slots, sources.concat())
            }
        };
        let (packed, weights) = choice.packed.map_or_else(Default::default, |packed| {
            (packed.constants, packed.weights)
        });
        let mut inputs = Vec::with_capacity(slots.len());
        for (slot, value) in slots.into_iter().enumerate() {
            // Weights and bias are among the packed constants; a quantization has its parameters in their place.
            let replaced = !packed.is_empty() && !quantizes && (slot == 1 || slot == 2);
            // The shapes that views are given are known already.
            let unread = choice.kernel == Kernel::View && slot > 0;
            inputs.push(if replaced || unread {
                Operand::Absent
            } else {
                self.operand(value)?
            });
        }
        let packed = packed
            .iter()
            .map(|PackedConstant { dtype, len, bytes }| self.constant(*dtype, vec![*len], bytes));
        let packed = packed.collect::<Result<_, _>>()?;
        if self.is_channels_last(node, choice.kernel) {
            self.channels_last.extend(node.outputs());
        }
        let outputs = node
            .outputs()
            .iter()
            .map(|&output| self.value(output))
            .collect::<Result<_, _>>()?;
        Ok(Step {
            name: node.name().to_owned(),
            sources,
            op: op.clone(),
            kernel: choice.kernel,
            inputs,
            outputs,
            weights,
            packed,
            note: choice.note,
        })
    }

    /// Whether the results of a node are images that lie channels-last.
    fn is_channels_last(&self, node: &Node, kernel: Kernel) -> bool {
        match (node.op(), kernel) {
            (_, Kernel::ToNhwc | Kernel::QuantizeToNhwc) => true,
            (
                _,
                Kernel::ToNchw
                | Kernel::DequantizeToNchw
                | Kernel::QConvToNchw
                | Kernel::QConvDepthwiseToNchw
                | Kernel::QConvDepthwisePlanes,
            ) => false,
            (Op::FusedConv(op), _) => op.layout == Layout::Nhwc,
            (Op::FusedPool(op), _) => op.layout == Layout::Nhwc,
            (Op::FusedGlobalPool(op), _) => op.layout == Layout::Nhwc,
            (
                Op::Transpose(_)
                | Op::Reshape(_)
                | Op::Flatten(_)
                | Op::Squeeze(_)
                | Op::Unsqueeze(_)
                | Op::FusedLinear(_)
                | Op::MatMul(_)
                | Op::Gemm(_)
                | Op::Shape(_)
                | Op::Size(_),
                _,
            ) => false,
            // What is computed element by element lies as its operands do.
            _ => {
                let rank = node
                    .outputs()
                    .first()
                    .and_then(|&output| self.types.ty(output).rank());
                rank == Some(4)
                    && node
                        .inputs()
                        .iter()
                        .flatten()
                        .any(|value| self.channels_last.contains(value))
            }
        }
    }
}
