//! Dead code elimination: nodes that no output depends on are removed.

use std::collections::BTreeSet;

use octofold_ir::{Graph, NodeId, Patch};

use crate::pass::{Pass, PassError, PassReport};
use crate::rewrite::Rewriter;

/// Removes nodes and constants that no output depends on. Inputs stay, since callers give them.
#[derive(Clone, Copy, Debug, Default)]
pub struct EliminateDead;

impl Pass for EliminateDead {
    fn name(&self) -> &'static str {
        "eliminate-dead"
    }

    fn run(&self, graph: &mut Graph, rewriter: &mut Rewriter) -> Result<(), PassError> {
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
        let mut patch = Patch::new();
        let mut report = PassReport::default();
        for id in graph.node_ids().filter(|id| !live.contains(id)) {
            patch.remove(id);
            report.applied("dead", graph.node(id).name(), "");
        }
        rewriter.apply_reported(graph, patch, report)?;
        graph.sweep_constants();
        Ok(())
    }
}
