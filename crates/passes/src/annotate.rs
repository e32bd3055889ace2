//! Annotation: from the user's wishes and the engine's abilities to a decision for every node and value.
//!
//! Graph mode works backwards from the layers with weights, which alone make quantization worth it: a layer demands its input
//! quantized; an operator without weights is quantized when what it computes is demanded. So the last layer gives float from
//! its accumulator, and what only feeds the outputs stays float. Values whose parameters must be equal (before and after a reshape or a
//! max pool) share one observer. Insertion passes only follow the table made here.

use std::collections::{BTreeMap, BTreeSet};

use indexmap::IndexMap;
use octofold_ir::{Graph, GraphError, NodeId, Op, ValueId};
use octofold_quant::{Granularity, QuantSpec, QuantType};
use octofold_tensor::DType;

use crate::backend::{BackendConfig, Observation, OpClass, classify};
use crate::config::{Addresses, ObjectTypes, QConfig, QConfigMapping};
use crate::support;

/// How a value is quantized.
#[derive(Clone, Debug, PartialEq)]
pub struct ValueAnnotation {
    /// The specification.
    pub spec: QuantSpec,
    /// The value whose observer decides the parameters; the value itself unless it shares another's.
    pub observed: ValueId,
}

/// What becomes of a node.
#[derive(Clone, Debug, PartialEq)]
pub enum NodeAnnotation {
    /// It runs on integers.
    Quantized {
        /// Its class.
        class: OpClass,
        /// How its weights are quantized, when it has some.
        weight: Option<QuantSpec>,
        /// The setting that decided, in words.
        origin: String,
    },
    /// It stays float.
    Float {
        /// Why.
        reason: String,
    },
}

/// The decision for every node and every quantized value of a fused float graph.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Annotations {
    /// The quantized values.
    pub values: IndexMap<ValueId, ValueAnnotation>,
    /// All nodes.
    pub nodes: IndexMap<NodeId, NodeAnnotation>,
}

impl Annotations {
    /// The values that have an observer of their own, in order.
    pub fn observed(&self) -> impl Iterator<Item = (ValueId, &QuantSpec)> {
        let own = self
            .values
            .iter()
            .filter(|(id, annotation)| **id == annotation.observed);
        own.map(|(id, annotation)| (*id, &annotation.spec))
    }

    /// Whether a node runs on integers.
    pub fn is_quantized(&self, node: NodeId) -> bool {
        matches!(
            self.nodes.get(&node),
            Some(NodeAnnotation::Quantized { .. })
        )
    }
}

/// What annotation knows of a node that may be quantized.
struct Candidate<'a> {
    class: OpClass,
    qconfig: &'a QConfig,
    origin: String,
}

/// Decides for every node of a fused float graph.
///
/// # Errors
/// When the graph has a cycle.
pub fn annotate(
    graph: &Graph,
    mapping: &QConfigMapping,
    backend: &BackendConfig,
    addresses: &Addresses,
    types: &ObjectTypes,
) -> Result<Annotations, GraphError> {
    let order = graph.order()?;
    let mut candidates: BTreeMap<NodeId, Candidate<'_>> = BTreeMap::new();
    let mut float: BTreeMap<NodeId, String> = BTreeMap::new();
    for &id in &order {
        match candidate(graph, id, mapping, backend, addresses, types) {
            Ok(candidate) => {
                candidates.insert(id, candidate);
            }
            Err(reason) => {
                float.insert(id, reason);
            }
        }
    }
    // A node that turns out to have no kernel for its operand's type demands nothing any more, which may change others.
    loop {
        let quantized = demanded_nodes(graph, &order, &candidates);
        let values = annotate_values(graph, &order, &candidates, &quantized, backend);
        let refused = quantized.iter().find_map(|&id| {
            let class = candidates[&id].class;
            let operands = activation_operands(graph, id);
            let reason = operands
                .iter()
                .find_map(|value| backend.refuses_activation(class, &values.get(value)?.spec));
            reason.map(|reason| (id, reason))
        });
        if let Some((id, reason)) = refused {
            candidates.remove(&id);
            float.insert(id, reason);
            continue;
        }
        let nodes = order.iter().map(|id| {
            (
                *id,
                node_annotation(graph, *id, &candidates, &quantized, &float),
            )
        });
        return Ok(Annotations {
            values,
            nodes: nodes.collect(),
        });
    }
}

fn candidate<'a>(
    graph: &Graph,
    id: NodeId,
    mapping: &'a QConfigMapping,
    backend: &BackendConfig,
    addresses: &Addresses,
    types: &ObjectTypes,
) -> Result<Candidate<'a>, String> {
    let resolved = mapping.resolve(graph, id, addresses, types);
    let class = classify(graph, id)?;
    let qconfig = resolved
        .qconfig
        .ok_or_else(|| format!("the configuration leaves it float ({})", resolved.origin))?;
    if class.has_weights()
        && let Some(reason) = backend.refuses_weight(class, &qconfig.weight)
    {
        return Err(reason);
    }
    if let Some(reason) = backend.refuses_activation(class, &qconfig.activation) {
        return Err(reason);
    }
    Ok(Candidate {
        class,
        qconfig,
        origin: resolved.origin,
    })
}

/// The operands of a node that carry activations: all that are f32, the weights and bias of a layer excepted.
pub(crate) fn activation_operands(graph: &Graph, id: NodeId) -> Vec<ValueId> {
    let node = graph.node(id);
    let weighted = matches!(
        node.op(),
        Op::Conv(_) | Op::FusedConv(_) | Op::FusedLinear(_)
    );
    // Bounds, sizes and single constant numbers are part of the operator, not activations.
    let only_first = weighted
        || !matches!(
            node.op(),
            Op::Add(_) | Op::Mul(_) | Op::FusedBinary(_) | Op::Concat(_)
        );
    let count = if only_first { 1 } else { node.inputs().len() };
    let single = |value: ValueId| support::scalar(graph, value).is_some();
    let operands = node.inputs().iter().take(count).flatten().copied();
    operands
        .filter(|&value| graph.value(value).ty().dtype == DType::F32 && !single(value))
        .collect()
}

/// The nodes to quantize: layers with weights, and what computes a demanded value.
fn demanded_nodes(
    graph: &Graph,
    order: &[NodeId],
    candidates: &BTreeMap<NodeId, Candidate<'_>>,
) -> BTreeSet<NodeId> {
    let mut demanded: BTreeSet<ValueId> = BTreeSet::new();
    let mut quantized = BTreeSet::new();
    for &id in order.iter().rev() {
        let Some(candidate) = candidates.get(&id) else {
            continue;
        };
        let wanted = graph
            .node(id)
            .outputs()
            .iter()
            .any(|result| demanded.contains(result));
        if candidate.class.has_weights() || wanted {
            quantized.insert(id);
            demanded.extend(activation_operands(graph, id));
        }
    }
    quantized
}

/// The parameters that a function's range fixes: sigmoid and hard-sigmoid lie in 0..1, tanh in -1..1.
fn fixed_spec(op: &Op, spec: &QuantSpec) -> Option<QuantSpec> {
    let full_u8 = spec.dtype == QuantType::Uint8 && spec.quant_min == 0 && spec.quant_max == 255;
    match op {
        Op::Sigmoid(_) | Op::HardSigmoid(_) if full_u8 => Some(spec.fixed(1.0 / 256.0, 0)),
        Op::Tanh(_) if full_u8 => Some(spec.fixed(2.0 / 256.0, 128)),
        _ => None,
    }
}

/// The specification and observer of every value that a quantized node reads.
fn annotate_values(
    graph: &Graph,
    order: &[NodeId],
    candidates: &BTreeMap<NodeId, Candidate<'_>>,
    quantized: &BTreeSet<NodeId>,
    backend: &BackendConfig,
) -> IndexMap<ValueId, ValueAnnotation> {
    let mut values: IndexMap<ValueId, ValueAnnotation> = IndexMap::new();
    for &id in order.iter().filter(|id| quantized.contains(id)) {
        for operand in activation_operands(graph, id) {
            if values.contains_key(&operand) {
                continue;
            }
            // The producer's wish decides; a value that no quantized node computes takes its reader's.
            let producer = graph
                .value(operand)
                .producer()
                .filter(|producer| quantized.contains(producer));
            let decider = producer.unwrap_or(id);
            let mut spec = candidates[&decider].qconfig.activation;
            spec.granularity = Granularity::PerTensor;
            let shares = producer.is_some_and(|producer| {
                let class = candidates[&producer].class;
                backend.capability(class).is_some_and(|capability| {
                    capability.observation == Observation::SharedWithInput
                })
            });
            let source = producer
                .filter(|_| shares)
                .and_then(|producer| graph.node(producer).input(0));
            let annotation = match source.and_then(|source| values.get(&source)) {
                Some(shared) => shared.clone(),
                None => {
                    if let Some(producer) = producer
                        && let Some(fixed) = fixed_spec(graph.node(producer).op(), &spec)
                    {
                        spec = fixed;
                    }
                    ValueAnnotation {
                        spec,
                        observed: operand,
                    }
                }
            };
            values.insert(operand, annotation);
        }
    }
    values
}

fn node_annotation(
    graph: &Graph,
    id: NodeId,
    candidates: &BTreeMap<NodeId, Candidate<'_>>,
    quantized: &BTreeSet<NodeId>,
    float: &BTreeMap<NodeId, String>,
) -> NodeAnnotation {
    match candidates.get(&id) {
        Some(candidate) if quantized.contains(&id) => {
            let mut weight = candidate
                .class
                .has_weights()
                .then_some(candidate.qconfig.weight);
            if let Some(QuantSpec {
                granularity: Granularity::PerChannel { axis },
                ..
            }) = &mut weight
            {
                // Output channels are axis 0 of a convolution's weights and axis 1 of a linear layer's.
                *axis = usize::from(matches!(graph.node(id).op(), Op::FusedLinear(_)));
            }
            NodeAnnotation::Quantized {
                class: candidate.class,
                weight,
                origin: candidate.origin.clone(),
            }
        }
        Some(_) => NodeAnnotation::Float {
            reason: "no quantized layer reads its result".to_owned(),
        },
        None => NodeAnnotation::Float {
            reason: float.get(&id).cloned().unwrap_or_default(),
        },
    }
}
