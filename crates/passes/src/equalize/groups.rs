//! Which layers can be equalized together: pairs and triples, found or named, and the conditions between them.

use std::collections::{BTreeMap, BTreeSet};

use octofold_ir::{Graph, NodeId, Op, Use};
use octofold_ops::families::{Activation, Product};

use super::RULE;
use super::layer::{Layer, is_layer};
use crate::fuse::activation_of;
use crate::pass::{PassError, PassReport};
use crate::rewrite::Skip;
use crate::support;

/// The layers of a graph, or why they cannot be scaled.
pub(super) type Layers = BTreeMap<NodeId, Result<Layer, String>>;

/// The way from a layer to the one that alone reads its result.
pub(super) struct Link {
    pub(super) to: NodeId,
    /// The activations in between that are nodes of their own.
    pub(super) between: Vec<NodeId>,
}

/// Two layers, or three.
pub(super) struct Group {
    pub(super) first: NodeId,
    pub(super) links: Vec<Link>,
}

impl Group {
    /// The layers whose output channels are divided.
    pub(super) fn divided(&self) -> impl Iterator<Item = (NodeId, &Link)> {
        let froms = std::iter::once(self.first).chain(self.links.iter().map(|link| link.to));
        froms.zip(&self.links)
    }
}

/// All pairs and triples, in the order of their first layers. What only lacks a condition is reported.
pub(super) fn find_groups(
    graph: &Graph,
    order: &[NodeId],
    layers: &Layers,
    report: &mut PassReport,
) -> Vec<Group> {
    let mut groups = Vec::new();
    // A depthwise layer in a triple does not also begin a pair.
    let mut middles: BTreeSet<NodeId> = BTreeSet::new();
    for &first in order.iter().filter(|id| layers.contains_key(id)) {
        if middles.contains(&first) {
            continue;
        }
        match group_from(graph, layers, first) {
            Ok(None) => {}
            Ok(Some(group)) => {
                if let [middle, _] = group.links.as_slice() {
                    middles.insert(middle.to);
                }
                groups.push(group);
            }
            Err(reason) => report.skipped(RULE, graph.node(first).name(), reason),
        }
    }
    groups
}

/// The pair or triple that begins with a layer, or why it has none.
fn group_from(graph: &Graph, layers: &Layers, first: NodeId) -> Result<Option<Group>, String> {
    let Some(link) = follow(graph, layers, first)? else {
        return Ok(None);
    };
    let links = if scalable(layers, link.to)?.is_depthwise() {
        let name = graph.node(link.to).name();
        let last = follow(graph, layers, link.to)
            .map_err(|reason| format!("`{name}` is depthwise, and {reason}"))?
            .ok_or_else(|| format!("`{name}` is depthwise, and no layer follows it alone"))?;
        dense(graph, layers, last.to)?;
        vec![link, last]
    } else {
        dense(graph, layers, link.to)?;
        vec![link]
    };
    Ok(Some(Group { first, links }))
}

/// A pair or triple that the user names.
pub(super) fn named_group(
    graph: &Graph,
    layers: &Layers,
    nodes: &[NodeId],
) -> Result<Group, PassError> {
    let name_of = |id: NodeId| {
        graph
            .get_node(id)
            .map_or_else(|| id.to_string(), |node| node.name().to_owned())
    };
    let fail = |id: Option<&NodeId>, reason: String| PassError::Node {
        node: id.map_or_else(String::new, |&id| name_of(id)),
        reason,
    };
    let (&[first, .., last], 2..=3) = (nodes, nodes.len()) else {
        let reason = format!("{} layers are named, not two or three", nodes.len());
        return Err(fail(nodes.first(), reason));
    };
    for id in nodes {
        if graph.get_node(*id).is_none() {
            return Err(fail(Some(id), "the graph has no such node".to_owned()));
        }
        if !layers.contains_key(id) {
            let reason = "only float convolutions and linear layers are equalized".to_owned();
            return Err(fail(Some(id), reason));
        }
    }
    let mut links = Vec::new();
    for pair in nodes.windows(2) {
        let apart = || format!("`{}` does not follow it alone", name_of(pair[1]));
        let link = follow(graph, layers, pair[0]).map_err(|reason| fail(pair.first(), reason))?;
        let link = link
            .filter(|link| link.to == pair[1])
            .ok_or_else(|| fail(pair.first(), apart()))?;
        links.push(link);
    }
    if let &[_, middle, _] = nodes {
        let layer = scalable(layers, middle).map_err(|reason| fail(Some(&middle), reason))?;
        if !layer.is_depthwise() {
            let reason = "the middle of a triple is depthwise; name two pairs instead".to_owned();
            return Err(fail(Some(&middle), reason));
        }
    }
    dense(graph, layers, last).map_err(|reason| fail(Some(&first), reason))?;
    Ok(Group { first, links })
}

fn scalable(layers: &Layers, id: NodeId) -> Result<&Layer, String> {
    match layers.get(&id) {
        Some(layer) => layer.as_ref().map_err(Clone::clone),
        None => Err("it is no layer with weights".to_owned()),
    }
}

/// Whether a layer can be the last of a pair or triple.
fn dense(graph: &Graph, layers: &Layers, id: NodeId) -> Result<(), String> {
    let layer = scalable(layers, id)?;
    let name = graph.node(id).name();
    match layer.groups() {
        1 => Ok(()),
        _ if layer.is_depthwise() => Err(format!(
            "`{name}` is depthwise, which can be the middle of a triple only"
        )),
        groups => Err(format!("`{name}` has {groups} groups")),
    }
}

/// The layer that alone reads a layer's result, through activations. `None` when no layer does; a reason when one does that cannot be scaled with it.
fn follow(graph: &Graph, layers: &Layers, from: NodeId) -> Result<Option<Link>, String> {
    let mut value = support::result(graph, from);
    let mut between = Vec::new();
    loop {
        let Some(used) = graph.single_use(value) else {
            let uses = graph.uses(value);
            if !uses.iter().any(|&used| leads_to_layer(graph, used)) {
                return Ok(None);
            }
            let name = graph.value(value).name();
            return Err(if graph.is_output(value) {
                format!("`{name}` is an output of the graph")
            } else {
                format!("`{name}` has {} readers", uses.len())
            });
        };
        let op = graph.node(used.node).op();
        if used.slot != 0 {
            return Ok(None);
        }
        if is_layer(op) {
            let to = used.node;
            check_link(graph, layers, from, to, &between)?;
            return Ok(Some(Link { to, between }));
        }
        if !matches!(op, Op::Relu(_) | Op::Clip(_)) {
            return Ok(None);
        }
        between.push(used.node);
        value = support::result(graph, used.node);
    }
}

/// Whether a use is a layer's input, or that of an activation before one.
fn leads_to_layer(graph: &Graph, mut used: Use) -> bool {
    while used.slot == 0 {
        let op = graph.node(used.node).op();
        if is_layer(op) {
            return true;
        }
        if !matches!(op, Op::Relu(_) | Op::Clip(_)) {
            return false;
        }
        match graph.single_use(support::result(graph, used.node)) {
            Some(next) => used = next,
            None => return false,
        }
    }
    false
}

fn check_link(
    graph: &Graph,
    layers: &Layers,
    from: NodeId,
    to: NodeId,
    between: &[NodeId],
) -> Result<(), String> {
    let (a, b) = (scalable(layers, from)?, scalable(layers, to)?);
    if graph.node(from).input(3).is_some() {
        return Err("a sum with a residual is not scaled by the weights alone".to_owned());
    }
    if a.is_linear() != b.is_linear() {
        return Err("the channels of a convolution are not the columns of a matrix".to_owned());
    }
    if a.outputs() != b.inputs() {
        let (outputs, inputs) = (a.outputs(), b.inputs());
        return Err(format!("{outputs} channels are read as {inputs}"));
    }
    let mut activations = vec![fused_activation(graph.node(from).op())];
    for &id in between {
        let activation = activation_of(graph, id).map_err(|skip| match skip {
            Skip::Because(reason) => format!("`{}`: {reason}", graph.node(id).name()),
            Skip::NoMatch => format!("`{}` is no activation", graph.node(id).name()),
        })?;
        activations.push(activation);
    }
    for activation in activations {
        match activation {
            Activation::None | Activation::Relu => {}
            Activation::Clip { min, max } if min == 0.0 && max >= 0.0 => {}
            Activation::Clip { min, max } => {
                return Err(format!(
                    "the bounds {min:?}..{max:?} in between do not begin at 0"
                ));
            }
        }
    }
    Ok(())
}

/// The activation that is part of a layer.
fn fused_activation(op: &Op) -> Activation {
    let activation = op.product().and_then(Product::activation);
    activation.unwrap_or_default()
}
