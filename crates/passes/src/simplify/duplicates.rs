//! Common subexpressions: of nodes that compute the same from the same, one is kept; of equal small constants, too.

use std::collections::HashMap;

use octofold_ir::{Graph, NodeId, Patch, ValueId};
use octofold_tensor::{Tensor, TensorData};

use crate::pass::{Pass, PassError, PassReport};

/// Constants of more elements are not compared: weights are seldom equal, and comparing them is slow.
const MAX_CONSTANT: usize = 4096;

/// Something is compared with so many others at most that might be equal to it, so that a model of ten thousands of nodes that read one value takes
/// no longer than its size says.
const MAX_CANDIDATES: usize = 512;

/// Merges nodes with equal operators and operands.
#[derive(Clone, Copy, Debug, Default)]
pub struct EliminateDuplicates;

impl Pass for EliminateDuplicates {
    fn name(&self) -> &'static str {
        "eliminate-duplicates"
    }

    fn run(&self, graph: &mut Graph) -> Result<PassReport, PassError> {
        let graph_error = |source| PassError::Graph {
            pass: self.name().to_owned(),
            source,
        };
        let mut report = PassReport::default();
        merge_constants(graph).map_err(graph_error)?;
        // Nodes that may be equal meet under the same operands; operators are then compared in full.
        let mut seen: HashMap<Vec<Option<ValueId>>, Vec<NodeId>> = HashMap::new();
        for id in graph.order().map_err(graph_error)? {
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
            report.applied(
                "duplicate",
                node.name(),
                format!("the same as `{}`", graph.node(kept).name()),
            );
            graph.apply(patch).map_err(graph_error)?;
        }
        graph.sweep_constants();
        Ok(report)
    }
}

fn merge_constants(graph: &mut Graph) -> Result<(), octofold_ir::GraphError> {
    let mut seen: HashMap<(String, Vec<usize>), Vec<ValueId>> = HashMap::new();
    let mut patch = Patch::new();
    for id in graph.value_ids() {
        let Some(tensor) = graph
            .value(id)
            .constant()
            .filter(|tensor| tensor.len() <= MAX_CONSTANT)
        else {
            continue;
        };
        let candidates = seen
            .entry((tensor.dtype().name().to_owned(), tensor.shape().to_vec()))
            .or_default();
        // A NaN is unequal to itself and stays; so does what only compares equal to another: 0.0 and -0.0.
        if has_negative_zero(tensor) {
            continue;
        }
        let equal = candidates
            .iter()
            .copied()
            .find(|&other| graph.value(other).constant() == Some(tensor));
        match equal {
            Some(kept) if !graph.is_output(id) => {
                for used in graph.uses(id) {
                    patch.rewire(used, kept);
                }
            }
            _ if candidates.len() < MAX_CANDIDATES => candidates.push(id),
            _ => {}
        }
    }
    graph.apply(patch).map(|_| ())
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
