//! The fate of every node of a model: quantized how, or left float why.

use std::collections::BTreeMap;

use octofold_ir::{Graph, NodeId};
use octofold_passes::annotate::{Annotations, NodeAnnotation};
use octofold_passes::backend::Execution;
use octofold_quant::Granularity;
use serde::{Deserialize, Serialize};

use crate::graph_mode::Model;

/// The key under which a graph and a plan keep their float nodes, as JSON.
pub const FLOAT_NODES: &str = "octofold.float_nodes";

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
            None => (
                false,
                false,
                "folded into a constant or removed by simplification".to_owned(),
            ),
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
            addresses: model
                .names
                .addresses(&model.graph, id)
                .into_iter()
                .map(str::to_owned)
                .collect(),
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

/// Writes the nodes that compute in float into the graph's metadata, so that exported models and plans can tell.
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

/// The float nodes that a compiler recorded; `None` where none did.
pub fn float_nodes<'a>(
    mut metadata: impl Iterator<Item = (&'a str, &'a str)>,
) -> Option<Vec<FloatNode>> {
    let (_, text) = metadata.find(|(key, _)| *key == FLOAT_NODES)?;
    serde_json::from_str(text).ok()
}
