//! Which images of a graph are channels-last.

use std::collections::BTreeSet;

use octofold_ir::{Graph, Node, NodeId, Op, ValueId};
use octofold_ops::families::Layout;

use crate::facts::Types;
use crate::select::TO_NHWC;

/// The values whose images are channels-last: results of operators with that layout, of transposes to it, and of what is computed from such images
/// element by element.
pub(crate) fn channels_last(
    graph: &Graph,
    order: &[NodeId],
    types: &Types<'_>,
) -> BTreeSet<ValueId> {
    let mut found = BTreeSet::new();
    for &id in order {
        let node = graph.node(id);
        if gives_channels_last(node, types, &found) {
            found.extend(node.outputs());
        }
    }
    found
}

fn gives_channels_last(node: &Node, types: &Types<'_>, found: &BTreeSet<ValueId>) -> bool {
    match node.op() {
        Op::FusedConv(op) => op.layout == Layout::Nhwc,
        Op::FusedPool(op) => op.layout == Layout::Nhwc,
        Op::FusedGlobalPool(op) => op.layout == Layout::Nhwc,
        Op::Transpose(op) => op.perm == TO_NHWC,
        Op::Reshape(_)
        | Op::Flatten(_)
        | Op::Squeeze(_)
        | Op::Unsqueeze(_)
        | Op::FusedLinear(_)
        | Op::MatMul(_)
        | Op::Gemm(_)
        | Op::Shape(_)
        | Op::Size(_) => false,
        // What is computed element by element has the order of its operands.
        _ => {
            let result = node.outputs().first();
            let rank = result.and_then(|&result| types.ty(result).rank());
            let mut operands = node.inputs().iter().flatten();
            rank == Some(4) && operands.any(|operand| found.contains(operand))
        }
    }
}
