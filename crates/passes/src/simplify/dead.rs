//! Dead code elimination: nodes that no output depends on are removed.

use std::collections::BTreeSet;

use octofold_ir::{Graph, NodeId, Patch};

use crate::pass::{Pass, PassError, PassReport};

/// Removes nodes and constants that no output depends on. Inputs stay, since callers give them.
#[derive(Clone, Copy, Debug, Default)]
pub struct EliminateDead;

impl Pass for EliminateDead {
    fn name(&self) -> &'static str {
        "eliminate-dead"
    }

    fn run(&self, graph: &mut Graph) -> Result<PassReport, PassError> {
        let mut live: BTreeSet<NodeId> = BTreeSet::new();
        let mut pending: Vec<NodeId> = graph
            .outputs()
            .iter()
            .filter_map(|output| graph.value(output.value).producer())
            .collect();
        while let Some(id) = pending.pop() {
            if live.insert(id) {
                let operands = graph.node(id).inputs().iter().flatten();
                pending.extend(operands.filter_map(|&operand| graph.value(operand).producer()));
            }
        }
        let mut report = PassReport::default();
        let mut patch = Patch::new();
        for id in graph.node_ids().filter(|id| !live.contains(id)) {
            patch.remove(id);
            report.applied("dead", graph.node(id).name(), "");
        }
        graph.apply(patch).map_err(|source| PassError::Graph {
            pass: self.name().to_owned(),
            source,
        })?;
        graph.sweep_constants();
        Ok(report)
    }
}
