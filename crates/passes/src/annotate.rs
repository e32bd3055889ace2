//! Annotation: decides for every node and value whether and how it is quantized, from the configuration and the engine's capabilities.
//!
//! [`annotate`] makes the decisions of graph mode, [`crate::eager`] those of eager mode. Graph mode works backwards from the layers with
//! weights, which gain most by quantization: a layer demands its input quantized, and an operator without weights is
//! quantized when its result is demanded. So the last layer gives float from its accumulator, and operators that only feed the outputs
//! stay float. Excluding a layer does not change its neighbours: an operator that feeds only excluded layers stays quantized if its operands are.
//! Values whose parameters must be equal (before and after a reshape or a max pool) share one observer. A reader that wants another type than its operand
//! has gets a conversion of its own. The passes that insert observers and quantizers follow these decisions.

mod concatenation;
mod demand;
mod overrides;
mod survey;
mod text;
mod values;

use std::collections::BTreeSet;

use indexmap::IndexMap;
use octofold_ir::{Graph, GraphError, NodeId, Op, Role, Use, ValueId};
use octofold_quant::{ObserverKind, QuantSpec};
use octofold_tensor::DType;

use crate::backend::{BackendConfig, Execution, OpClass};
use crate::config::{QConfig, Resolver, SpecEdit};
use crate::support;

use survey::Survey;
pub(crate) use survey::{Candidate, Refusal};
pub(crate) use values::{Selection, per_tensor};

/// How a value is quantized.
#[derive(Clone, Debug, PartialEq)]
pub struct ValueAnnotation {
    /// The specification.
    pub spec: QuantSpec,
    /// The value whose observer decides the parameters; the value itself unless it shares another's.
    pub observed: ValueId,
}

/// How a node is computed.
#[derive(Clone, Debug, PartialEq)]
pub enum NodeAnnotation {
    /// It is quantized.
    Quantized {
        /// Its class.
        class: OpClass,
        /// How its weights are quantized, when it has some.
        weight: Option<QuantSpec>,
        /// Whether an integer kernel computes it.
        execution: Execution,
    },
    /// It stays float.
    Float {
        /// Why.
        reason: String,
    },
}

/// The QConfig of a node and the setting that it comes from, in words.
#[derive(Clone, Debug, PartialEq)]
pub struct NodeSetting {
    /// The QConfig; `None` leaves the node float.
    pub qconfig: Option<QConfig>,
    /// The setting.
    pub origin: String,
}

/// A setting that the engine cannot honour.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unhonoured {
    /// The setting, in words.
    pub setting: String,
    /// The node or value that it is about.
    pub place: String,
    /// Why not.
    pub reason: String,
}

/// The decision for every node and every quantized value of a fused float graph.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Annotations {
    /// The quantized values.
    pub values: IndexMap<ValueId, ValueAnnotation>,
    /// Operands that a reader takes in another type than the value has.
    pub conversions: IndexMap<Use, ValueAnnotation>,
    /// The quantized values that the graph's outputs give dequantized. Other outputs give the value before it is quantized.
    pub dequantized_outputs: BTreeSet<ValueId>,
    /// All nodes.
    pub nodes: IndexMap<NodeId, NodeAnnotation>,
    /// The QConfigs of all nodes.
    pub settings: IndexMap<NodeId, NodeSetting>,
    /// The settings that are not honoured, in the order of the graph.
    pub unhonoured: Vec<Unhonoured>,
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

    /// Whether a node is quantized.
    pub fn is_quantized(&self, node: NodeId) -> bool {
        matches!(
            self.nodes.get(&node),
            Some(NodeAnnotation::Quantized { .. })
        )
    }

    /// How the operand of a node is quantized: its own conversion, or as the value is.
    pub fn of_operand(&self, graph: &Graph, used: Use) -> Option<&ValueAnnotation> {
        self.conversions
            .get(&used)
            .or_else(|| self.values.get(&graph.node(used.node).input(used.slot)?))
    }
}

/// Decides for every node of a fused float graph, in graph mode.
///
/// # Errors
/// When the graph has a cycle.
pub fn annotate(
    graph: &Graph,
    resolver: &Resolver<'_>,
    values: &IndexMap<String, SpecEdit>,
    backend: &BackendConfig,
) -> Result<Annotations, GraphError> {
    let order = graph.order()?;
    let mut survey = Survey::new(graph, &order, resolver, backend);
    let quantized = demand::quantized_nodes(graph, &order, &survey);
    let names = values.keys();
    let settled: BTreeSet<ValueId> = names.filter_map(|name| graph.value_named(name)).collect();
    let within = demand::within_functions(graph, &survey.candidates, &quantized, &settled);
    let mut annotations = Annotations {
        unhonoured: survey.unhonoured(graph, &quantized),
        settings: std::mem::take(&mut survey.settings),
        ..Annotations::default()
    };
    let selection = Selection {
        graph,
        backend,
        order: &order,
        candidates: survey.candidates,
        quantized,
        within,
    };
    selection.annotate_values(&mut annotations);
    concatenation::share(
        graph,
        &order,
        &selection.quantized,
        &settled,
        &mut annotations,
    );
    // A name that the model does not have is reported as such, once.
    let unmatched = resolver.unmatched();
    let known = values.iter().filter(|(name, _)| {
        let setting = format!("value {name}");
        unmatched
            .iter()
            .all(|unmatched| unmatched.setting != setting)
    });
    overrides::apply(&selection, known, &mut annotations);
    for &id in &order {
        let reason = match selection.candidates.get(&id) {
            Some(candidate) if selection.quantized.contains(&id) => {
                annotations
                    .nodes
                    .insert(id, candidate.annotation(graph, id));
                continue;
            }
            Some(_) => "no quantized layer reads its result".to_owned(),
            None => survey.float.remove(&id).unwrap_or_default(),
        };
        annotations
            .nodes
            .insert(id, NodeAnnotation::Float { reason });
    }
    Ok(annotations)
}

/// The f32 operands of a node that carry activations, as uses. A single constant number counts as a part of the operator.
pub(crate) fn activation_uses(graph: &Graph, id: NodeId) -> Vec<(Use, ValueId)> {
    let node = graph.node(id);
    let is_concat = matches!(node.op(), Op::Concat(_));
    let single = |value: ValueId| !is_concat && support::scalar(graph, value).is_some();
    let operands = node.inputs().iter().enumerate();
    operands
        .filter(|(slot, _)| node.op().role(*slot) == Some(Role::Activation))
        .filter_map(|(slot, value)| Some((Use { node: id, slot }, (*value)?)))
        .filter(|&(_, value)| support::dtype(graph, value) == DType::F32 && !single(value))
        .collect()
}

/// The values of [`activation_uses`].
pub(crate) fn activation_operands(
    graph: &Graph,
    id: NodeId,
) -> impl Iterator<Item = ValueId> + use<> {
    activation_uses(graph, id)
        .into_iter()
        .map(|(_, value)| value)
}

/// Whether a specification needs no observation.
pub(crate) fn is_fixed(spec: &QuantSpec) -> bool {
    matches!(spec.observer, ObserverKind::Fixed(_))
}
