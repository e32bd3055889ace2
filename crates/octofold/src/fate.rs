//! The fate of every node of a model: quantized how, or left float why.

use std::collections::{BTreeMap, HashMap};

use octofold_codegen::Report;
use octofold_ir::{Graph, NodeId, Op, ValueId};
use octofold_passes::annotate::{Annotations, NodeAnnotation};
use octofold_passes::backend::Execution;
use octofold_passes::manager::PassRun;
use octofold_passes::pass::Outcome;
use octofold_quant::Granularity;
use octofold_runtime::{Operand, Plan, ValueIndex};
use octofold_tensor::DType;
use serde::{Deserialize, Serialize};

use crate::Error;
use crate::model::Model;

/// The key under which a graph and a plan keep their float nodes, as JSON.
pub const FLOAT_NODES: &str = "octofold.float_nodes";

/// Why a node has no fate.
const REMOVED: &str = "folded into a constant or removed by simplification";

/// What becomes of a node of the model.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Fate {
    /// The node's name.
    pub node: String,
    /// Its operator.
    pub operator: String,
    /// The names by which a configuration can address it.
    pub addresses: Vec<String>,
    /// The node that computes it after fusion; absent when simplification removed it.
    pub fused_into: Option<String>,
    /// Whether it is quantized.
    pub quantized: bool,
    /// Whether an integer kernel computes it.
    pub integer: bool,
    /// Its QConfig, by the settings; absent for a node that they leave float, or that is gone.
    pub qconfig: Option<String>,
    /// The setting that the QConfig, or its absence, comes from.
    pub origin: String,
    /// How it is quantized, or why it stays float, or why it is gone.
    pub explanation: String,
}

/// A node that computes in float, with the reason.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FloatNode {
    /// The node's name.
    pub node: String,
    /// Its operator.
    pub operator: String,
    /// Why.
    pub reason: String,
}

/// The fate of each node of a model, in the model's order.
pub(crate) fn fates(model: &Model, fused: &Graph, annotations: &Annotations) -> Vec<Fate> {
    let is_layer = |id: &NodeId| {
        let annotation = annotations.nodes.get(id);
        matches!(
            annotation,
            Some(NodeAnnotation::Quantized {
                weight: Some(_),
                ..
            })
        )
    };
    let mut homes: BTreeMap<&str, NodeId> = BTreeMap::new();
    for id in fused.node_ids() {
        for source in fused.node(id).sources() {
            let home = homes.entry(source).or_insert(id);
            // Of several nodes that a node became, the one that computes says most about it.
            if is_layer(&id) || !is_layer(home) {
                *home = id;
            }
        }
    }
    let fate = |id| {
        let node = model.graph.node(id);
        let home = homes.get(node.name()).copied();
        let annotation = home.and_then(|home| annotations.nodes.get(&home));
        let setting = home.and_then(|home| annotations.settings.get(&home));
        let (quantized, integer, explanation) = match annotation {
            None => (false, false, REMOVED.to_owned()),
            Some(NodeAnnotation::Float { reason }) => (false, false, reason.clone()),
            Some(NodeAnnotation::Quantized {
                class,
                weight,
                execution,
            }) => {
                let how = match execution {
                    Execution::Integer => "on integers",
                    Execution::Reference => {
                        "on reals between quantized values, as there is no integer kernel for their type"
                    }
                };
                let weights = weight.map_or_else(String::new, |weight| {
                    let granularity = match weight.granularity {
                        Granularity::PerTensor => "one scale",
                        Granularity::PerChannel { .. } => "one scale a channel",
                    };
                    format!(", weights {} with {granularity}", weight.dtype)
                });
                let integer = *execution == Execution::Integer;
                (true, integer, format!("{class} {how}{weights}"))
            }
        };
        let qconfig = setting.and_then(|setting| setting.qconfig.as_ref());
        Fate {
            node: node.name().to_owned(),
            operator: node.op().name().to_owned(),
            addresses: addresses(model, id),
            fused_into: home.map(|home| fused.node(home).name().to_owned()),
            quantized,
            integer,
            qconfig: qconfig.map(ToString::to_string),
            origin: setting.map_or_else(String::new, |setting| setting.origin.clone()),
            explanation,
        }
    };
    model.graph.node_ids().map(fate).collect()
}

/// The names by which a configuration can address a node.
fn addresses(model: &Model, id: NodeId) -> Vec<String> {
    let addresses = model.names.addresses(&model.graph, id).into_iter();
    addresses.map(str::to_owned).collect()
}

/// The fate of each node of a model that is quantized already, in the model's order: what its plan computes the node by.
pub(crate) fn fates_by_plan(model: &Model, plan: &Plan) -> Result<Vec<Fate>, Error> {
    let report = Report::new(plan, &plan.input_shapes(|_| 1)?)?;
    let float = float_nodes_of(plan, &report);
    let reasons: HashMap<&str, &str> = float
        .iter()
        .map(|float| (float.node.as_str(), float.reason.as_str()))
        .collect();
    let mut homes: HashMap<&str, usize> = HashMap::new();
    for (step, reported) in report.steps.iter().enumerate() {
        for source in &reported.sources {
            // Of several steps that a node became, one of products says most about it.
            let home = homes.entry(source).or_insert(step);
            if report.steps[*home].macs == 0 && reported.macs > 0 {
                *home = step;
            }
        }
    }
    let is_integer = |step: usize| {
        let planned = &plan.steps()[step];
        let read = planned.inputs.iter().filter_map(|operand| match operand {
            Operand::Value(value) => Some(*value),
            _ => None,
        });
        let mut values = read.chain(planned.outputs.iter().copied());
        let bytes = |value: ValueIndex| {
            let value = plan.values().get(value.index());
            value.is_some_and(|value| matches!(value.dtype, DType::U8 | DType::I8))
        };
        report.steps[step].integer || values.any(bytes)
    };
    let fate = |id: NodeId| {
        let node = model.graph.node(id);
        let home = homes.get(node.name()).copied();
        let quantizer = matches!(node.op(), Op::QuantizeLinear(_) | Op::DequantizeLinear(_));
        let (integer, explanation) = match (home, reasons.get(node.name())) {
            (Some(home), _) if quantizer => {
                let kernel = report.steps[home].kernel;
                (true, format!("between reals and integers, by {kernel}"))
            }
            (None, _) if quantizer => (true, "part of the kernels around it".to_owned()),
            (_, Some(reason)) => (false, (*reason).to_owned()),
            (Some(home), None) => {
                let step = &report.steps[home];
                let integer = is_integer(home);
                let numbers = if integer { "integers" } else { "floats" };
                (integer, format!("on {numbers}, by {}", step.kernel))
            }
            (None, None) => (false, REMOVED.to_owned()),
        };
        Fate {
            node: node.name().to_owned(),
            operator: node.op().name().to_owned(),
            addresses: addresses(model, id),
            fused_into: home.map(|home| report.steps[home].name.clone()),
            quantized: integer,
            integer,
            qconfig: None,
            origin: String::new(),
            explanation,
        }
    };
    Ok(model.graph.node_ids().map(fate).collect())
}

/// Writes the nodes that compute in float into the graph's metadata, so that exported models and plans hold them.
pub(crate) fn record_float_nodes(graph: &mut Graph, fates: &[Fate]) {
    let float = fates
        .iter()
        .filter(|fate| !fate.integer && fate.fused_into.is_some());
    let nodes: Vec<FloatNode> = float
        .map(|fate| FloatNode {
            node: fate.node.clone(),
            operator: fate.operator.clone(),
            reason: fate.explanation.clone(),
        })
        .collect();
    // Strings alone cannot fail to serialize.
    let text = serde_json::to_string(&nodes).unwrap_or_default();
    graph.metadata_mut().insert(FLOAT_NODES.to_owned(), text);
}

/// A node between quantizers, by the names that reports use.
pub(crate) struct Wanted {
    node: String,
    operator: &'static str,
    /// The quantizers of its results.
    quantizers: Vec<String>,
}

/// The nodes of a QDQ graph that read dequantized values or whose results are quantized: the maker of the graph wants them on integers.
pub(crate) fn wanted_on_integers(graph: &Graph) -> Vec<Wanted> {
    let dequantized = |value: ValueId| {
        let producer = graph.value(value).producer()?;
        matches!(graph.node(producer).op(), Op::DequantizeLinear(_)).then_some(())?;
        let integers = graph.node(producer).input(0)?;
        graph.value(integers).constant().is_none().then_some(())
    };
    let wanted = |id: NodeId| {
        let node = graph.node(id);
        if matches!(node.op(), Op::QuantizeLinear(_) | Op::DequantizeLinear(_)) {
            return None;
        }
        let readers = node.outputs().iter().flat_map(|&value| graph.uses(value));
        let quantizers: Vec<String> = readers
            .map(|used| graph.node(used.node))
            .filter(|reader| matches!(reader.op(), Op::QuantizeLinear(_)))
            .map(|reader| reader.name().to_owned())
            .collect();
        let reads = node.inputs().iter().flatten();
        (!quantizers.is_empty() || reads.copied().any(|value| dequantized(value).is_some())).then(
            || Wanted {
                node: node.name().to_owned(),
                operator: node.op().name(),
                quantizers,
            },
        )
    };
    graph.node_ids().filter_map(wanted).collect()
}

/// Records the wanted nodes that lowering left float, with the reasons. A record that the graph already has stays.
pub(crate) fn record_unlowered(graph: &mut Graph, wanted: &[Wanted], runs: &[PassRun]) {
    if graph.metadata().contains_key(FLOAT_NODES) {
        return;
    }
    let is_integer = |value: ValueId| {
        let value = graph.value(value);
        value.constant().is_none() && matches!(value.ty().dtype, DType::U8 | DType::I8 | DType::I32)
    };
    // Names are looked up by tables: a file may hold many nodes, all of them quantized in vain.
    let ids: HashMap<&str, NodeId> = graph
        .node_ids()
        .map(|id| (graph.node(id).name(), id))
        .collect();
    let is_float = |name: &str| {
        ids.get(name).is_some_and(|&id| {
            let node = graph.node(id);
            let values = node.inputs().iter().flatten().chain(node.outputs());
            !values.copied().any(is_integer)
        })
    };
    let events = runs.iter().flat_map(|run| &run.report.events);
    // The last reason of a place stays.
    let reasons: HashMap<&str, &String> = events
        .filter_map(|event| match &event.outcome {
            Outcome::Skipped(reason) => Some((event.place.as_str(), reason)),
            _ => None,
        })
        .collect();
    let nodes: Vec<FloatNode> = wanted
        .iter()
        .filter(|wanted| is_float(&wanted.node))
        .map(|wanted| {
            let places = std::iter::once(&wanted.node).chain(&wanted.quantizers);
            let reason = places
                .into_iter()
                .find_map(|place| reasons.get(place.as_str()));
            FloatNode {
                node: wanted.node.clone(),
                operator: wanted.operator.to_owned(),
                reason: reason.map_or_else(
                    || {
                        format!(
                            "no integer kernel computes {} between these quantizers",
                            wanted.operator
                        )
                    },
                    |reason| (*reason).clone(),
                ),
            }
        })
        .collect();
    if !nodes.is_empty() {
        let text = serde_json::to_string(&nodes).unwrap_or_default();
        graph.metadata_mut().insert(FLOAT_NODES.to_owned(), text);
    }
}

/// The float nodes that a compiler recorded; `None` where none did.
pub fn float_nodes<'a>(
    mut metadata: impl Iterator<Item = (&'a str, &'a str)>,
) -> Option<Vec<FloatNode>> {
    let (_, text) = metadata.find(|(key, _)| *key == FLOAT_NODES)?;
    serde_json::from_str(text).ok()
}

/// The nodes of a plan that compute in float: those that the compiler recorded, and every float step with multiply-accumulates that it did not record.
pub fn float_nodes_of(plan: &Plan, report: &Report) -> Vec<FloatNode> {
    let metadata = plan.metadata().iter();
    let metadata = metadata.map(|(key, value)| (key.as_str(), value.as_str()));
    let mut nodes = float_nodes(metadata).unwrap_or_default();
    for step in &report.steps {
        let is_known =
            |node: &FloatNode| node.node == step.name || step.sources.contains(&node.node);
        if step.macs == 0 || step.integer || nodes.iter().any(is_known) {
            continue;
        }
        let reason = match step.note.as_str() {
            "" => "its operands are not quantized",
            note => note,
        };
        nodes.push(FloatNode {
            node: step.name.clone(),
            operator: step.operator.to_owned(),
            reason: reason.to_owned(),
        });
    }
    nodes
}
