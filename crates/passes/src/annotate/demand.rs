//! Which nodes are quantized: those whose results layers with weights demand.

use std::collections::{BTreeMap, BTreeSet};

use octofold_ir::{Graph, NodeId, ValueId};

use super::survey::{Candidate, Survey};
use super::{activation_operands, is_fixed};
use crate::backend::{Execution, OpClass};
use crate::support;

/// The nodes to quantize: layers with weights, nodes that compute a demanded value, and nodes that would compute one if nothing were excluded and
/// that have quantized operands.
pub(super) fn quantized_nodes(
    graph: &Graph,
    order: &[NodeId],
    survey: &Survey,
) -> BTreeSet<NodeId> {
    let (candidates, classes) = (&survey.candidates, &survey.classes);
    let mut quantized = demanded_nodes(graph, order, |id| Some(candidates.get(&id)?.class));
    let everything = demanded_nodes(graph, order, |id| classes.get(&id).copied());
    for &id in order {
        let mut operands = activation_operands(graph, id);
        let is_open = everything.contains(&id) && candidates.contains_key(&id);
        let computed = |value: ValueId| {
            let producer = graph.value(value).producer();
            producer.is_some_and(|producer| quantized.contains(&producer))
        };
        if is_open && operands.all(computed) {
            quantized.insert(id);
        }
    }
    quantized
}

/// The nodes with a class that compute what layers with weights demand, and these layers.
fn demanded_nodes(
    graph: &Graph,
    order: &[NodeId],
    class_of: impl Fn(NodeId) -> Option<OpClass>,
) -> BTreeSet<NodeId> {
    let mut demanded: BTreeSet<ValueId> = BTreeSet::new();
    let mut nodes = BTreeSet::new();
    for &id in order.iter().rev() {
        let Some(class) = class_of(id) else {
            continue;
        };
        let mut results = graph.node(id).outputs().iter();
        if class.has_weights() || results.any(|result| demanded.contains(result)) {
            nodes.insert(id);
            demanded.extend(activation_operands(graph, id));
        }
    }
    nodes
}

/// The values between functions of one value: results of one function that only another function reads.
///
/// A chain of such functions is a function of one value, and one table computes it from the first operand to the last result. So the values
/// between are never rounded to integers, which would cost accuracy and time. A value stays quantized when it is `settled`, that
/// is, has a setting of its own, or when the functions want different types.
pub(super) fn within_functions(
    graph: &Graph,
    candidates: &BTreeMap<NodeId, Candidate>,
    quantized: &BTreeSet<NodeId>,
    settled: &BTreeSet<ValueId>,
) -> BTreeSet<ValueId> {
    let function = |id: &NodeId| {
        let candidate = candidates.get(id)?;
        let is_function =
            candidate.class == OpClass::Pointwise && candidate.execution == Execution::Integer;
        (is_function && quantized.contains(id)).then_some(candidate.qconfig.activation)
    };
    let mut within = BTreeSet::new();
    for id in quantized {
        let result = support::result(graph, *id);
        let (Some(first), Some(reader)) = (function(id), graph.single_use(result)) else {
            continue;
        };
        let same = function(&reader.node).is_some_and(|second| second.dtype == first.dtype);
        if same && !is_fixed(&first) && !settled.contains(&result) {
            within.insert(result);
        }
    }
    within
}
