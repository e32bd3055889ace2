//! Common subexpression elimination: of equal nodes with equal operands one is kept, and of equal constants.

use std::collections::HashMap;

use octofold_ir::{Graph, NodeId, Patch, ValueId};
use octofold_tensor::{Tensor, TensorData};

use crate::pass::{Pass, PassError, PassReport};
use crate::rewrite::Rewriter;

/// Upper bound on the comparisons for one node or constant. It keeps the pass linear when many nodes read one value.
const MAX_CANDIDATES: usize = 512;

/// Merges nodes with equal operators and operands.
#[derive(Clone, Copy, Debug, Default)]
pub struct EliminateDuplicates;

impl Pass for EliminateDuplicates {
    fn name(&self) -> &'static str {
        "eliminate-duplicates"
    }

    fn run(&self, graph: &mut Graph, rewriter: &mut Rewriter) -> Result<(), PassError> {
        let (patch, report) = merge_constants(graph);
        rewriter.apply_reported(graph, patch, report)?;
        // Nodes with the same operands are candidates; their operators are then compared in full.
        let mut seen: HashMap<Vec<Option<ValueId>>, Vec<NodeId>> = HashMap::new();
        for id in rewriter.order(graph)? {
            let node = graph.node(id);
            let candidates = seen.entry(node.inputs().to_vec()).or_default();
            let equal = candidates.iter().copied().find(|&other| {
                let other = graph.node(other);
                other.op() == node.op() && other.outputs().len() == node.outputs().len()
            });
            let Some(kept) = equal else {
                if candidates.len() < MAX_CANDIDATES {
                    candidates.push(id);
                }
                continue;
            };
            let mut patch = Patch::new();
            for (&old, &new) in node.outputs().iter().zip(graph.node(kept).outputs()) {
                patch.replace(old, new);
            }
            patch.remove(id);
            let name = node.name().to_owned();
            let text = format!("the same as `{}`", graph.node(kept).name());
            rewriter.apply(graph, patch)?;
            rewriter.report.applied("duplicate", &name, text);
        }
        graph.sweep_constants();
        Ok(())
    }
}

/// Points all readers of equal constants at the first of them.
fn merge_constants(graph: &Graph) -> (Patch, PassReport) {
    let mut seen: HashMap<(String, Vec<usize>), Vec<ValueId>> = HashMap::new();
    let mut patch = Patch::new();
    let mut report = PassReport::default();
    for id in graph.value_ids() {
        let Some(tensor) = graph.value(id).constant() else {
            continue;
        };
        let candidates = seen
            .entry((tensor.dtype().name().to_owned(), tensor.shape().to_vec()))
            .or_default();
        // Other weights differ in their first elements, so that comparing them takes no time.
        let equal = candidates
            .iter()
            .copied()
            .find(|&other| graph.value(other).constant() == Some(tensor));
        match equal {
            // A NaN does not equal itself, so it stays. -0.0 equals 0.0 but is another number, so it stays as well.
            Some(kept)
                if [Some(tensor), graph.value(kept).constant()]
                    .into_iter()
                    .flatten()
                    .any(has_negative_zero) => {}
            Some(kept) if !graph.is_output(id) => {
                let uses = graph.uses(id);
                if !uses.is_empty() {
                    let text = format!("the same as `{}`", graph.value(kept).name());
                    report.applied("duplicate", graph.value(id).name(), text);
                }
                for used in uses {
                    patch.rewire(used, kept);
                }
            }
            _ if candidates.len() < MAX_CANDIDATES => candidates.push(id),
            _ => {}
        }
    }
    (patch, report)
}

/// Whether a constant holds -0.0, which compares equal to 0.0.
fn has_negative_zero(tensor: &Tensor) -> bool {
    match tensor.data() {
        TensorData::F32(values) => values.iter().any(|x| *x == 0.0 && x.is_sign_negative()),
        TensorData::F64(values) => values.iter().any(|x| *x == 0.0 && x.is_sign_negative()),
        TensorData::F16(values) => values
            .iter()
            .any(|x| x.to_f32() == 0.0 && x.is_sign_negative()),
        TensorData::BF16(values) => values
            .iter()
            .any(|x| x.to_f32() == 0.0 && x.is_sign_negative()),
        _ => false,
    }
}
