//! Fuse lists: rows of names, found in a graph and checked, as the scope of the fusing passes.

use std::collections::{BTreeMap, BTreeSet};

use octofold_ir::{Graph, NodeId, Op};

use super::EagerFault;
use crate::config::{ModelNames, nearest};
use crate::manager::PassRun;
use crate::pass::Outcome;
use crate::rewrite::Scope;
use crate::support;

/// The fuse lists, found in a simplified graph.
#[derive(Clone, Debug, Default)]
pub struct FuseLists {
    rows: Vec<FuseRow>,
}

#[derive(Clone, Debug)]
struct FuseRow {
    /// As written.
    row: String,
    /// The model's nodes that become one.
    sources: BTreeSet<String>,
}

impl Scope for FuseLists {
    fn allows(&self, graph: &Graph, nodes: &[NodeId]) -> bool {
        self.rows.iter().any(|row| {
            let mut sources = nodes.iter().flat_map(|&id| graph.node(id).sources());
            sources.all(|source| row.sources.contains(source))
        })
    }
}

impl FuseLists {
    /// Finds the lists in a simplified graph and checks them: each name means one operator, neighbours are adjacent, no result between is
    /// read elsewhere, and the row is a known pattern.
    ///
    /// # Errors
    /// Every fault of every list.
    pub fn new(
        graph: &Graph,
        names: &ModelNames,
        lists: &[Vec<String>],
    ) -> Result<Self, Vec<EagerFault>> {
        let homes = homes(graph);
        let (mut rows, mut faults) = (Vec::<FuseRow>::new(), Vec::new());
        for list in lists {
            let written = format!("fuse {list:?}");
            let members: Result<Vec<NodeId>, EagerFault> = list
                .iter()
                .map(|name| member(names, &homes, &written, name))
                .collect();
            let checked = members.and_then(|members| {
                check_row(graph, &written, &members)?;
                Ok(members)
            });
            let members = match checked {
                Ok(members) => members,
                Err(fault) => {
                    faults.push(fault);
                    continue;
                }
            };
            let sources = members.iter().flat_map(|&id| graph.node(id).sources());
            let sources: BTreeSet<String> = sources.cloned().collect();
            let mut others = rows.iter().flat_map(|row| row.sources.iter());
            if let Some(name) = others.find(|name| sources.contains(*name)) {
                faults.push(EagerFault::Overlap {
                    row: written.clone(),
                    name: name.clone(),
                });
            }
            rows.push(FuseRow {
                row: written,
                sources,
            });
        }
        if faults.is_empty() {
            Ok(Self { rows })
        } else {
            Err(faults)
        }
    }

    /// The lists that did not become one node each, with what the fusing passes said.
    pub fn unfused(&self, graph: &Graph, runs: &[PassRun]) -> Vec<EagerFault> {
        let is_one = |row: &FuseRow| {
            graph.node_ids().any(|id| {
                let sources = graph.node(id).sources();
                row.sources.iter().all(|source| sources.contains(source))
            })
        };
        let reason = |row: &FuseRow| {
            let of_row = graph.node_ids().filter(|&id| {
                let mut sources = graph.node(id).sources().iter();
                sources.any(|source| row.sources.contains(source))
            });
            let places: Vec<&str> = of_row.map(|id| graph.node(id).name()).collect();
            let events = runs.iter().flat_map(|run| &run.report.events);
            let mut skipped = events.filter_map(|event| match &event.outcome {
                Outcome::Skipped(reason) if places.contains(&event.place.as_str()) => {
                    Some(reason.clone())
                }
                _ => None,
            });
            let reason = skipped.next_back();
            reason.unwrap_or_else(|| "the operators cannot be fused in this form".to_owned())
        };
        let unfused = self.rows.iter().filter(|row| !is_one(row));
        unfused
            .map(|row| EagerFault::NotFused {
                row: row.row.clone(),
                reason: reason(row),
            })
            .collect()
    }
}

/// The nodes of a graph, by the names of the model's nodes that they stand for.
fn homes(graph: &Graph) -> BTreeMap<&str, NodeId> {
    let homes = graph.node_ids().flat_map(|id| {
        let sources = graph.node(id).sources().iter();
        sources.map(move |source| (source.as_str(), id))
    });
    homes.collect()
}

/// The nodes of a graph that the names of a row mean; `what` the row is for.
///
/// # Errors
/// A name that finds no node, or several.
pub fn find_row(
    graph: &Graph,
    names: &ModelNames,
    what: &str,
    row: &[String],
) -> Result<Vec<NodeId>, EagerFault> {
    let (homes, written) = (homes(graph), format!("{what} {row:?}"));
    row.iter()
        .map(|name| member(names, &homes, &written, name))
        .collect()
}

/// The node of a graph that a name of a row means.
fn member(
    names: &ModelNames,
    homes: &BTreeMap<&str, NodeId>,
    row: &str,
    name: &str,
) -> Result<NodeId, EagerFault> {
    let fault = |candidates: Vec<String>, several| EagerFault::Member {
        row: row.to_owned(),
        name: name.to_owned(),
        candidates,
        several,
    };
    let nodes_of = |sources: &[&str]| -> BTreeSet<NodeId> {
        let found = sources.iter().filter_map(|source| homes.get(source));
        found.copied().collect()
    };
    let found = match names.find_one(name) {
        Ok(single) => vec![single],
        Err(several) => several,
    };
    // A module may be a product and a sum that are one linear layer by now.
    let nodes = nodes_of(&found);
    match (nodes.len(), nodes.first()) {
        (1, Some(&single)) => Ok(single),
        (0, _) if found.is_empty() => Err(fault(nearest(name, names.all()), false)),
        (0, _) => Err(EagerFault::NotFused {
            row: row.to_owned(),
            reason: format!("`{name}` was folded into a constant or removed by simplification"),
        }),
        _ => Err(fault(found.into_iter().map(str::to_owned).collect(), true)),
    }
}

/// Checks the nodes of a fuse list against the graph and the known patterns.
fn check_row(graph: &Graph, row: &str, members: &[NodeId]) -> Result<(), EagerFault> {
    let row = row.to_owned();
    let name = |id: NodeId| graph.node(id).name().to_owned();
    for pair in members.windows(2) {
        let (first, second) = (pair[0], pair[1]);
        let result = support::result(graph, first);
        if !graph.node(second).inputs().contains(&Some(result)) {
            return Err(EagerFault::NotAdjacent {
                row,
                first: name(first),
                second: name(second),
            });
        }
        let others = graph.uses(result).into_iter().map(|used| used.node);
        let mut readers: Vec<String> = others.filter(|&id| id != second).map(name).collect();
        if graph.is_output(result) {
            readers.push("an output".to_owned());
        }
        if !readers.is_empty() {
            return Err(EagerFault::ReadElsewhere {
                row,
                name: name(first),
                readers,
            });
        }
    }
    let types: Vec<&str> = members
        .iter()
        .map(|&id| match graph.node(id).op() {
            Op::FusedLinear(_) => "Linear",
            op => op.name(),
        })
        .collect();
    let known = matches!(
        types.as_slice(),
        ["Conv" | "Linear" | "ConvTranspose", "BatchNormalization"]
            | [
                "Conv" | "Linear" | "Add" | "Mul" | "BatchNormalization",
                "Relu" | "Clip"
            ]
            | ["Conv" | "Linear", "BatchNormalization", "Relu" | "Clip"]
    );
    if known {
        Ok(())
    } else {
        let pattern = types.join(" + ");
        Err(EagerFault::UnknownPattern { row, pattern })
    }
}
