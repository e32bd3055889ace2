//! The names by which users find the operators of a model.
//!
//! Many files have nodes without names, so a node answers to several: its own name, the names of its results, the module
//! path that exporters leave in node names (`/layer1/layer1.0/conv1/Conv` → `layer1.0.conv1`), and the prefix of its
//! weights (`layer2.0.bn2.weight` → `layer2.0.bn2`).

use indexmap::IndexMap;
use octofold_ir::{Graph, NodeId};

/// The addresses of each node of an imported model, by the node's name.
///
/// They are taken before any pass; a fused node has those of all nodes that it stands for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Addresses {
    by_source: IndexMap<String, Vec<String>>,
}

impl Addresses {
    /// The addresses of a graph's nodes.
    pub fn of(graph: &Graph) -> Self {
        let by_source = graph.node_ids().flat_map(|id| {
            let addresses = addresses_of(graph, id);
            graph
                .node(id)
                .sources()
                .iter()
                .map(move |source| (source.clone(), addresses.clone()))
                .collect::<Vec<_>>()
        });
        Self {
            by_source: by_source.collect(),
        }
    }

    /// The addresses of a node of any later stage: those of the model's nodes that it stands for.
    pub fn of_node(&self, graph: &Graph, id: NodeId) -> Vec<&str> {
        let sources = graph.node(id).sources().iter();
        let addresses = sources
            .filter_map(|source| self.by_source.get(source))
            .flatten();
        let mut found: Vec<&str> = Vec::new();
        for address in addresses {
            if !found.contains(&address.as_str()) {
                found.push(address);
            }
        }
        found
    }

    /// The addresses of one of the model's nodes.
    pub(crate) fn get(&self, source: &str) -> &[String] {
        self.by_source.get(source).map_or(&[], Vec::as_slice)
    }

    /// Every address, in the order of the model.
    pub fn all(&self) -> impl Iterator<Item = &str> {
        self.by_source.values().flatten().map(String::as_str)
    }
}

/// Whether a setting for `name` applies to an address: the same, or a module that contains it.
pub(crate) fn covers(name: &str, address: &str) -> bool {
    address == name
        || (address.len() > name.len()
            && address.starts_with(name)
            && address.as_bytes()[name.len()] == b'.')
}

fn addresses_of(graph: &Graph, id: NodeId) -> Vec<String> {
    let node = graph.node(id);
    let mut addresses = vec![node.name().to_owned()];
    let mut add = |address: String| {
        if !address.is_empty() && !addresses.contains(&address) {
            addresses.push(address);
        }
    };
    for &result in node.outputs() {
        add(graph.value(result).name().to_owned());
    }
    if let Some(path) = module_path(node.name()) {
        add(path);
    }
    for &operand in node.inputs().iter().flatten() {
        let value = graph.value(operand);
        if value.constant().is_some()
            && let Some((prefix, _)) = value.name().rsplit_once('.')
        {
            add(prefix.to_owned());
        }
    }
    addresses
}

/// `/layer1/layer1.0/conv1/Conv` → `layer1.0.conv1`: each part that repeats the path so far extends it, others append.
fn module_path(name: &str) -> Option<String> {
    let parts: Vec<&str> = name.strip_prefix('/')?.split('/').collect();
    let (_operator, modules) = parts.split_last()?;
    let mut path = String::new();
    for part in modules {
        if path.is_empty() || covers(&path, part) {
            path = (*part).to_owned();
        } else {
            path = format!("{path}.{part}");
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
        assert_eq!(module_path("/Relu"), None);
        assert_eq!(module_path("Conv_12"), None);
    }

    #[test]
    fn a_module_covers_what_it_contains() {
        assert!(covers("layer2.0", "layer2.0.conv1"));
        assert!(covers("layer2.0", "layer2.0"));
        assert!(!covers("layer2.0", "layer2.01"));
        assert!(!covers("layer2.0.conv1", "layer2.0"));
    }
}
