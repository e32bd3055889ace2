//! Which images of a graph are channels-last.

use std::collections::BTreeSet;

use octofold_ir::{Graph, Node, NodeId, Op, ValueId};
use octofold_ops::families::Layout;

use crate::facts::Types;

/// The values whose images are channels-last: results of operators with that layout, of transposes to it, and of elementwise operators on such
/// images.
pub(crate) fn channels_last(
    graph: &Graph,
    order: &[NodeId],
    types: &Types<'_>,
) -> BTreeSet<ValueId> {
    let mut found = BTreeSet::new();
    for &id in order {
        let node = graph.node(id);
        let operand = node
            .input(0)
            .is_some_and(|operand| found.contains(&operand));
        match channels_last_result(node, operand) {
            Some(true) => found.extend(node.outputs()),
            Some(false) => {}
            // The result of an elementwise operator has the order of its operands.
            None => {
                let mut operands = node.inputs().iter().flatten();
                if operands.any(|operand| found.contains(operand)) {
                    let rank = |result| types.ty(result).rank();
                    let is_image = |&&result: &&ValueId| rank(result).is_some_and(|rank| rank > 2);
                    found.extend(node.outputs().iter().filter(is_image));
                }
            }
        }
    }
    found
}

/// Whether an operator gives channels-last images; `None` where that depends on all of its operands. `operand` says whether the first one is such images.
fn channels_last_result(node: &Node, operand: bool) -> Option<bool> {
    match node.op() {
        Op::FusedConv(op) => Some(op.layout == Layout::Nhwc),
        Op::FusedPool(op) => Some(op.layout == Layout::Nhwc),
        Op::FusedGlobalPool(op) => Some(op.layout == Layout::Nhwc),
        // With one spatial axis, both changes of layout are the same permutation.
        Op::Transpose(op) => Some(!operand && op.perm == Layout::Nhwc.permutation(op.perm.len())),
        Op::Reshape(_)
        | Op::Flatten(_)
        | Op::Squeeze(_)
        | Op::Unsqueeze(_)
        | Op::FusedLinear(_)
        | Op::MatMul(_)
        | Op::Gemm(_)
        | Op::Shape(_)
        | Op::Size(_) => Some(false),
        _ => None,
    }
}
