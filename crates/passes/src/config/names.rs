//! The names by which users find the operators of a model.
//!
//! Many files have nodes without names, so a node answers to several, of five kinds: its own name, the names of its results, the module
//! path that exporters leave in node names (`/layer1/layer1.0/conv1/Conv` → `layer1.0.conv1`), the prefix of its
//! weights (`layer2.0.bn2.weight` → `layer2.0.bn2`), and the module that the exporter wrote into the node's metadata. A name in a
//! configuration finds nodes by the first of these kinds that has a match; modules contain the nodes below them.

use std::collections::BTreeSet;

use indexmap::IndexMap;
use octofold_ir::{Graph, NodeId};

/// The names of the nodes of an imported model, before any pass. A fused node has the names of all its sources.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ModelNames {
    /// The nodes by their names, in the order of the model.
    nodes: IndexMap<String, NamedNode>,
    /// The names of the model's inputs.
    inputs: Vec<String>,
}

/// The names of one node, the types and values around it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct NamedNode {
    operator: String,
    /// The values that it reads, except constants.
    reads: Vec<String>,
    results: Vec<String>,
    path: Option<String>,
    weights: Vec<String>,
    exporter: Option<String>,
}

/// The kinds of names, in the order in which they are tried.
const KINDS: [Kind; 5] = [
    Kind::Node,
    Kind::Value,
    Kind::Path,
    Kind::Weights,
    Kind::Exporter,
];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Node,
    Value,
    Path,
    Weights,
    Exporter,
}

impl ModelNames {
    /// The names of a graph's nodes.
    pub fn of(graph: &Graph) -> Self {
        let mut nodes = IndexMap::new();
        for id in graph.node_ids() {
            let named = NamedNode::of(graph, id);
            for source in graph.node(id).sources() {
                nodes.insert(source.clone(), named.clone());
            }
        }
        let inputs = graph.inputs().iter();
        Self {
            nodes,
            inputs: inputs
                .map(|&id| graph.value(id).name().to_owned())
                .collect(),
        }
    }

    /// The addresses of a node of any later stage: those of the model's nodes that it stands for.
    pub fn addresses(&self, graph: &Graph, id: NodeId) -> Vec<&str> {
        let sources = graph.node(id).sources().iter();
        let mut found: Vec<&str> = Vec::new();
        for (source, node) in sources.filter_map(|source| self.nodes.get_key_value(source)) {
            for address in KINDS.into_iter().flat_map(|kind| node.names(source, kind)) {
                if !found.contains(&address) {
                    found.push(address);
                }
            }
        }
        found
    }

    /// The model's nodes that a name finds, in the order of the model.
    pub fn find(&self, name: &str) -> Vec<&str> {
        let of_kind = |kind: Kind| -> Vec<&str> {
            let answers = |(source, node): &(&String, &NamedNode)| {
                node.names(source, kind).any(|own| match kind {
                    Kind::Node | Kind::Value => own == name,
                    Kind::Path | Kind::Weights | Kind::Exporter => covers(name, own),
                })
            };
            let found = self.nodes.iter().filter(answers);
            found.map(|(source, _)| source.as_str()).collect()
        };
        let found = KINDS.into_iter().map(of_kind);
        found
            .into_iter()
            .find(|found| !found.is_empty())
            .unwrap_or_default()
    }

    /// How specific a name is: a node or value most, then modules by the number of their parts, and the whole model least.
    pub(crate) fn depth(&self, name: &str) -> usize {
        let is_own = self.nodes.iter().any(|(source, node)| {
            let mut own = [Kind::Node, Kind::Value]
                .into_iter()
                .flat_map(|kind| node.names(source, kind));
            own.any(|own| own == name)
        });
        match name {
            "" => 0,
            _ if is_own => usize::MAX,
            _ => name.split('.').count(),
        }
    }

    /// The one node that a name means: the only one found, or the only one whose address it is to the letter.
    ///
    /// # Errors
    /// The nodes that it finds, when it is none or several.
    pub fn find_one(&self, name: &str) -> Result<&str, Vec<&str>> {
        let found = self.find(name);
        if let [single] = found.as_slice() {
            return Ok(single);
        }
        let exact: Vec<&str> = found
            .iter()
            .copied()
            .filter(|source| {
                let node = &self.nodes[*source];
                KINDS
                    .into_iter()
                    .any(|kind| node.names(source, kind).any(|own| own == name))
            })
            .collect();
        match exact.as_slice() {
            [single] => Ok(single),
            _ => Err(found),
        }
    }

    /// The model's nodes one of whose addresses a predicate accepts.
    pub fn find_by(&self, accepts: impl Fn(&str) -> bool) -> Vec<&str> {
        let found = self.nodes.iter().filter(|(source, node)| {
            KINDS
                .into_iter()
                .any(|kind| node.names(source, kind).any(&accepts))
        });
        found.map(|(source, _)| source.as_str()).collect()
    }

    /// The model's nodes of an operator type.
    pub fn of_type(&self, object_type: &str) -> Vec<&str> {
        let found = self.nodes.iter();
        found
            .filter(|(_, node)| node.operator == object_type)
            .map(|(source, _)| source.as_str())
            .collect()
    }

    /// The model's nodes on the paths from one value to another: those that read `from`, directly or not, and that `to` needs.
    /// `None` where a value does not exist.
    pub fn region(&self, from: &str, to: &str) -> Option<Vec<&str>> {
        if !self.has_value(from) || !self.has_value(to) {
            return None;
        }
        // The nodes after `from`, and the values that they compute; the nodes before `to`, and the values that they need.
        let (mut after, mut reached) = (BTreeSet::new(), BTreeSet::from([from]));
        grow(&mut after, self.nodes.iter(), |node| {
            let reads = node
                .reads
                .iter()
                .any(|value| reached.contains(value.as_str()));
            if reads {
                reached.extend(node.results.iter().map(String::as_str));
            }
            reads
        });
        let (mut before, mut needed) = (BTreeSet::new(), BTreeSet::from([to]));
        grow(&mut before, self.nodes.iter().rev(), |node| {
            let computes = node
                .results
                .iter()
                .any(|value| needed.contains(value.as_str()));
            if computes {
                // What computes `from` is before the region.
                let reads = node.reads.iter().map(String::as_str);
                needed.extend(reads.filter(|value| *value != from));
            }
            computes
        });
        let inside = self.nodes.keys().map(String::as_str);
        Some(
            inside
                .filter(|source| after.contains(source) && before.contains(source))
                .collect(),
        )
    }

    /// Whether the model has a value of this name that is no constant.
    pub fn has_value(&self, name: &str) -> bool {
        self.values().any(|value| value == name)
    }

    /// The names of all values that are no constants, in the order of the model.
    pub fn values(&self) -> impl Iterator<Item = &str> {
        let results = self.nodes.values().flat_map(|node| &node.results);
        self.inputs.iter().chain(results).map(String::as_str)
    }

    /// Every address, in the order of the model.
    pub fn all(&self) -> Vec<&str> {
        let addresses = self.nodes.iter().flat_map(|(source, node)| {
            KINDS
                .into_iter()
                .flat_map(move |kind| node.names(source, kind))
        });
        addresses.collect()
    }

    /// The operator types of the model, each once, sorted.
    pub fn types(&self) -> Vec<&str> {
        let types: BTreeSet<&str> = self
            .nodes
            .values()
            .map(|node| node.operator.as_str())
            .collect();
        types.into_iter().collect()
    }

    /// The operator type of one of the model's nodes.
    pub(crate) fn operator(&self, source: &str) -> Option<&str> {
        Some(&self.nodes.get(source)?.operator)
    }
}

/// Adds the nodes that `belongs` accepts, again and again until none is new: a model's nodes come in any order.
fn grow<'a>(
    found: &mut BTreeSet<&'a str>,
    nodes: impl Iterator<Item = (&'a String, &'a NamedNode)> + Clone,
    mut belongs: impl FnMut(&'a NamedNode) -> bool,
) {
    loop {
        let count = found.len();
        for (source, node) in nodes.clone() {
            if belongs(node) {
                found.insert(source);
            }
        }
        if found.len() == count {
            return;
        }
    }
}

impl NamedNode {
    fn of(graph: &Graph, id: NodeId) -> Self {
        let node = graph.node(id);
        let operands = node.inputs().iter().flatten().map(|&id| graph.value(id));
        let (constants, computed): (Vec<_>, Vec<_>) =
            operands.partition(|value| value.constant().is_some());
        let mut weights: Vec<String> = Vec::new();
        for value in constants {
            if let Some((prefix, _)) = value.name().rsplit_once('.')
                && !weights.iter().any(|known| known == prefix)
            {
                weights.push(prefix.to_owned());
            }
        }
        let results = node.outputs().iter();
        Self {
            operator: node.op().name().to_owned(),
            reads: computed
                .into_iter()
                .map(|value| value.name().to_owned())
                .collect(),
            results: results
                .map(|&id| graph.value(id).name().to_owned())
                .collect(),
            path: module_path(node.name()),
            weights,
            exporter: graph.module(node.name()).map(str::to_owned),
        }
    }

    /// The names of a kind, of the node of the name `source`.
    fn names<'a>(&'a self, source: &'a str, kind: Kind) -> impl Iterator<Item = &'a str> {
        let (own, several): (Option<&str>, &[String]) = match kind {
            Kind::Node => (Some(source), &[]),
            Kind::Value => (None, &self.results),
            Kind::Path => (self.path.as_deref(), &[]),
            Kind::Weights => (None, &self.weights),
            Kind::Exporter => (self.exporter.as_deref(), &[]),
        };
        own.into_iter()
            .chain(several.iter().map(String::as_str))
            .filter(|name| !name.is_empty())
    }
}

/// Whether a setting for `name` applies to an address: the same, or a module that contains it. The empty name is the whole model.
pub(crate) fn covers(name: &str, address: &str) -> bool {
    name.is_empty()
        || address == name
        || (address.len() > name.len()
            && address.starts_with(name)
            && address.as_bytes()[name.len()] == b'.')
}

/// `/layer1/layer1.0/conv1/Conv` → `layer1.0.conv1`, `/features/features.1/conv/conv.0/Conv` → `features.1.conv.0`: a part that repeats
/// the end of the path so far extends it (a member of a list of modules), others append.
fn module_path(name: &str) -> Option<String> {
    let parts: Vec<&str> = name.strip_prefix('/')?.split('/').collect();
    let (_operator, modules) = parts.split_last()?;
    let mut path = String::new();
    for part in modules {
        let starts = std::iter::once(0).chain(path.match_indices('.').map(|(at, _)| at + 1));
        let mut ends = starts.map(|start| &path[start..]);
        let repeated = ends.find(|end| !end.is_empty() && end != part && covers(end, part));
        match repeated.map(str::len) {
            Some(len) => path.push_str(&part[len..]),
            None if path.is_empty() => path.push_str(part),
            None => path = format!("{path}.{part}"),
        }
    }
    (!path.is_empty()).then_some(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn module_paths_of_torch_exports() {
        assert_eq!(
            module_path("/layer1/layer1.0/conv1/Conv").as_deref(),
            Some("layer1.0.conv1")
        );
        assert_eq!(module_path("/conv1/Conv").as_deref(), Some("conv1"));
        assert_eq!(
            module_path("/features/features.1/conv/conv.0/conv.0.0/Conv").as_deref(),
            Some("features.1.conv.0.0")
        );
        assert_eq!(module_path("/conv/conv/Conv").as_deref(), Some("conv.conv"));
        assert_eq!(module_path("/Relu"), None);
        assert_eq!(module_path("Conv_12"), None);
    }

    #[test]
    fn a_module_covers_what_it_contains() {
        assert!(covers("layer2.0", "layer2.0.conv1"));
        assert!(covers("layer2.0", "layer2.0"));
        assert!(!covers("layer2.0", "layer2.01"));
        assert!(!covers("layer2.0.conv1", "layer2.0"));
        assert!(covers("", "layer2.0"));
    }

    #[test]
    fn kinds_of_names_are_tried_in_order_and_regions_lie_between() {
        let graph = octofold_ir::text::parse(
            r#"<ir_version: 10, opset_import: ["" : 21]> g (float[1,2] x) => (y)
            <float[2] "a.b.weight" = {1, 2}> {
                [b] t = Relu (x)
                "a.b" = Mul (t, "a.b.weight")
                u = Exp ("a.b")
                v = Neg (t)
                y = Add (u, v)
            }"#,
            None,
        )
        .unwrap();
        let names = ModelNames::of(&graph);
        assert_eq!(names.find("b"), ["b"], "the node's name");
        assert_eq!(names.find("t"), ["b"], "its result");
        assert_eq!(names.find("a").len(), 1, "the module of its weights");
        assert_eq!(names.find("a.b"), names.find("a"));
        assert!(names.find("c").is_empty());
        let operators = |from, to| {
            let region = names.region(from, to)?;
            region
                .into_iter()
                .map(|source| names.operator(source))
                .collect::<Option<Vec<_>>>()
        };
        assert_eq!(operators("t", "u"), Some(vec!["Mul", "Exp"]));
        assert_eq!(operators("t", "y"), Some(vec!["Mul", "Exp", "Neg", "Add"]));
        assert_eq!(operators("u", "t"), Some(vec![]));
        assert_eq!(operators("t", "w"), None);
    }
}
