//! Which operators get which QConfig: torch's `QConfigMapping`.

use indexmap::IndexMap;
use octofold_ir::{Graph, NodeId};
use regex::Regex;

use crate::config::addresses::covers;
use crate::config::{Addresses, QConfig};

/// A QConfig for the n-th operator of a type within a module.
#[derive(Clone, Debug, PartialEq)]
pub struct ModuleOrder {
    /// The module.
    pub module: String,
    /// The operator type.
    pub object_type: String,
    /// Which of the operators of that type in the module, from 0, in the order of the graph.
    pub index: usize,
    /// The QConfig; `None` leaves the operator float.
    pub qconfig: Option<QConfig>,
}

/// Which operators get which QConfig. `None` leaves an operator float.
///
/// The levels, from the weakest: global, operator type, regular expression over addresses (the first match wins), module name (the
/// longest match wins), and module name with operator type and order.
#[derive(Clone, Debug, Default)]
pub struct QConfigMapping {
    /// For all operators.
    pub global: Option<QConfig>,
    /// By the name of an operator type of the model, as in ONNX.
    pub object_type: IndexMap<String, Option<QConfig>>,
    /// By a regular expression over addresses.
    pub module_name_regex: Vec<(Regex, Option<QConfig>)>,
    /// By an address or the name of a module that contains it.
    pub module_name: IndexMap<String, Option<QConfig>>,
    /// By module, operator type and order.
    pub module_name_object_type_order: Vec<ModuleOrder>,
}

/// The QConfig of an operator, and where it comes from.
#[derive(Clone, Debug, PartialEq)]
pub struct Resolved<'a> {
    /// The QConfig; `None` leaves the operator float.
    pub qconfig: Option<&'a QConfig>,
    /// The setting that decided, in words.
    pub origin: String,
}

/// A setting that no operator of the model answers to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnmatchedSetting {
    /// The setting, in words.
    pub setting: String,
    /// The names of the model that are nearest to it.
    pub nearest: Vec<String>,
}

impl QConfigMapping {
    /// The same QConfig for all operators.
    pub fn global(qconfig: QConfig) -> Self {
        Self {
            global: Some(qconfig),
            ..Self::default()
        }
    }

    /// Sets the QConfig of an operator type.
    #[must_use]
    pub fn set_object_type(mut self, object_type: &str, qconfig: Option<QConfig>) -> Self {
        self.object_type.insert(object_type.to_owned(), qconfig);
        self
    }

    /// Sets the QConfig of an address or module.
    #[must_use]
    pub fn set_module_name(mut self, name: &str, qconfig: Option<QConfig>) -> Self {
        self.module_name.insert(name.to_owned(), qconfig);
        self
    }

    /// Adds a QConfig for the addresses that a regular expression matches.
    #[must_use]
    pub fn set_module_name_regex(mut self, pattern: Regex, qconfig: Option<QConfig>) -> Self {
        self.module_name_regex.push((pattern, qconfig));
        self
    }

    /// Adds a QConfig for the n-th operator of a type within a module.
    #[must_use]
    pub fn set_module_name_object_type_order(mut self, order: ModuleOrder) -> Self {
        self.module_name_object_type_order.push(order);
        self
    }

    /// Changes every QConfig of the mapping.
    ///
    /// # Errors
    /// The first error of `edit`.
    pub fn for_each_qconfig<E>(
        &mut self,
        edit: impl FnMut(&mut QConfig) -> Result<(), E>,
    ) -> Result<(), E> {
        let by_type = self.object_type.values_mut();
        let by_regex = self
            .module_name_regex
            .iter_mut()
            .map(|(_, qconfig)| qconfig);
        let by_module = self.module_name.values_mut();
        let by_order = self
            .module_name_object_type_order
            .iter_mut()
            .map(|order| &mut order.qconfig);
        let all = std::iter::once(&mut self.global)
            .chain(by_type)
            .chain(by_regex)
            .chain(by_module)
            .chain(by_order);
        all.flatten().try_for_each(edit)
    }

    /// The QConfig of a node. `types` are the operator types of the model's nodes that it stands for.
    pub fn resolve(
        &self,
        graph: &Graph,
        id: NodeId,
        addresses: &Addresses,
        types: &ObjectTypes,
    ) -> Resolved<'_> {
        let names = addresses.of_node(graph, id);
        for order in &self.module_name_object_type_order {
            if names.iter().any(|name| covers(&order.module, name))
                && types.nth_in_module(graph, id, addresses, &order.module, &order.object_type)
                    == Some(order.index)
            {
                let origin = format!(
                    "module_name_object_type_order ({}, {}, {})",
                    order.module, order.object_type, order.index
                );
                return Resolved {
                    qconfig: order.qconfig.as_ref(),
                    origin,
                };
            }
        }
        let modules = self
            .module_name
            .iter()
            .filter(|(module, _)| names.iter().any(|name| covers(module, name)));
        if let Some((module, qconfig)) = modules.max_by_key(|(module, _)| module.len()) {
            let origin = format!("module_name {module}");
            return Resolved {
                qconfig: qconfig.as_ref(),
                origin,
            };
        }
        for (pattern, qconfig) in &self.module_name_regex {
            if names.iter().any(|name| pattern.is_match(name)) {
                let origin = format!("module_name_regex {pattern}");
                return Resolved {
                    qconfig: qconfig.as_ref(),
                    origin,
                };
            }
        }
        for object_type in types.of_node(graph, id) {
            if let Some(qconfig) = self.object_type.get(object_type) {
                let origin = format!("object_type {object_type}");
                return Resolved {
                    qconfig: qconfig.as_ref(),
                    origin,
                };
            }
        }
        let origin = if self.global.is_some() {
            "global"
        } else {
            "no setting"
        }
        .to_owned();
        Resolved {
            qconfig: self.global.as_ref(),
            origin,
        }
    }

    /// The settings that apply to no operator of the model, with the nearest names.
    pub fn unmatched(&self, addresses: &Addresses, types: &ObjectTypes) -> Vec<UnmatchedSetting> {
        let all: Vec<&str> = addresses.all().collect();
        let mut unmatched = Vec::new();
        let mut check = |setting: String, name: &str, matched: bool, candidates: &[&str]| {
            if !matched {
                let nearest = nearest(name, candidates);
                unmatched.push(UnmatchedSetting { setting, nearest });
            }
        };
        let type_names: Vec<&str> = types.all();
        for object_type in self.object_type.keys() {
            let matched = type_names.contains(&object_type.as_str());
            check(
                format!("object_type {object_type}"),
                object_type,
                matched,
                &type_names,
            );
        }
        for (pattern, _) in &self.module_name_regex {
            let matched = all.iter().any(|name| pattern.is_match(name));
            check(
                format!("module_name_regex {pattern}"),
                pattern.as_str(),
                matched,
                &all,
            );
        }
        for module in self.module_name.keys() {
            let matched = all.iter().any(|name| covers(module, name));
            check(format!("module_name {module}"), module, matched, &all);
        }
        for order in &self.module_name_object_type_order {
            let count = types.count_in_module(addresses, &order.module, &order.object_type);
            let setting = format!(
                "module_name_object_type_order ({}, {}, {})",
                order.module, order.object_type, order.index
            );
            check(setting, &order.module, order.index < count, &all);
        }
        unmatched
    }
}

/// The operator types of the nodes of an imported model, by the node's name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ObjectTypes {
    by_source: IndexMap<String, String>,
}

impl ObjectTypes {
    /// The operator types of a graph's nodes, taken before any pass.
    pub fn of(graph: &Graph) -> Self {
        let by_source = graph.node_ids().flat_map(|id| {
            let node = graph.node(id);
            node.sources()
                .iter()
                .map(|source| (source.clone(), node.op().name().to_owned()))
                .collect::<Vec<_>>()
        });
        Self {
            by_source: by_source.collect(),
        }
    }

    fn of_node<'a>(&'a self, graph: &'a Graph, id: NodeId) -> impl Iterator<Item = &'a str> {
        let sources = graph.node(id).sources().iter();
        sources
            .filter_map(|source| self.by_source.get(source))
            .map(String::as_str)
    }

    fn all(&self) -> Vec<&str> {
        let mut names: Vec<&str> = self.by_source.values().map(String::as_str).collect();
        names.sort_unstable();
        names.dedup();
        names
    }

    /// The model's nodes of a type in a module, in the order of the model.
    fn in_module<'a>(
        &'a self,
        addresses: &'a Addresses,
        module: &'a str,
        object_type: &'a str,
    ) -> impl Iterator<Item = &'a str> {
        self.by_source
            .iter()
            .filter(move |(_, of)| *of == object_type)
            .filter(move |(source, _)| {
                addresses
                    .get(source)
                    .iter()
                    .any(|name| covers(module, name))
            })
            .map(|(source, _)| source.as_str())
    }

    fn count_in_module(&self, addresses: &Addresses, module: &str, object_type: &str) -> usize {
        self.in_module(addresses, module, object_type).count()
    }

    fn nth_in_module(
        &self,
        graph: &Graph,
        id: NodeId,
        addresses: &Addresses,
        module: &str,
        object_type: &str,
    ) -> Option<usize> {
        let sources = graph.node(id).sources();
        self.in_module(addresses, module, object_type)
            .position(|source| sources.iter().any(|own| own == source))
    }
}

/// The three candidates with the smallest edit distance to a name.
fn nearest(name: &str, candidates: &[&str]) -> Vec<String> {
    let mut ranked: Vec<(usize, &str)> = candidates
        .iter()
        .map(|candidate| (edit_distance(name, candidate), *candidate))
        .collect();
    ranked.sort_unstable();
    ranked.dedup();
    ranked
        .into_iter()
        .take(3)
        .map(|(_, candidate)| candidate.to_owned())
        .collect()
}

/// Levenshtein's distance in bytes.
fn edit_distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.bytes().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.bytes().enumerate() {
            let substituted = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = substituted.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn edit_distances() {
        assert_eq!(edit_distance("kitten", "sitting"), 3);
        assert_eq!(edit_distance("", "abc"), 3);
        assert_eq!(
            nearest("conv", &["conv1", "bn1", "fc"]),
            ["conv1", "bn1", "fc"]
        );
    }
}
