//! Pairs of nodes that one kernel computes: (de)quantization with a change of layout before or behind it.

use std::collections::BTreeMap;

use octofold_ir::{Graph, NodeId, Op};
use octofold_runtime::Kernel;

use crate::facts::{Facts, Types};
use crate::select::{TO_NCHW, TO_NHWC, select};

/// Two nodes in a row that become one step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Pair {
    /// The node that comes first; the step reads its first operand.
    pub(crate) first: NodeId,
    /// The node that (de)quantizes: its attributes, scale and zero point are the step's.
    pub(crate) quantizer: NodeId,
    /// What computes the step.
    pub(crate) kernel: Kernel,
}

/// The pairs of a graph by their second node, whose result is the step's.
pub(crate) type Pairs = BTreeMap<NodeId, Pair>;

/// Finds the pairs.
pub(crate) fn find(graph: &Graph, order: &[NodeId], types: &Types<'_>) -> Pairs {
    let kernel = |id| {
        select(Facts {
            graph,
            node: graph.node(id),
            types,
        })
        .ok()
    };
    let mut pairs = Pairs::new();
    for &second in order {
        let node = graph.node(second);
        let Some(middle) = node.input(0) else {
            continue;
        };
        let Some(first) = graph.value(middle).producer() else {
            continue;
        };
        if graph.single_use(middle).is_none() || pairs.contains_key(&first) {
            continue;
        }
        let (transpose, quantizer) = match (graph.node(first).op(), node.op()) {
            (Op::Transpose(transpose), Op::QuantizeLinear(_) | Op::DequantizeLinear(_)) => {
                (transpose, second)
            }
            (Op::QuantizeLinear(_) | Op::DequantizeLinear(_), Op::Transpose(transpose)) => {
                (transpose, first)
            }
            _ => continue,
        };
        // A transposition that moves nothing is free as it is.
        let other = if quantizer == first { second } else { first };
        let fused = match (kernel(quantizer), kernel(other)) {
            (Some(Kernel::Quantize), Some(Kernel::ToNhwc)) if transpose.perm == TO_NHWC => {
                Kernel::QuantizeToNhwc
            }
            (Some(Kernel::Dequantize), Some(Kernel::ToNchw)) if transpose.perm == TO_NCHW => {
                Kernel::DequantizeToNchw
            }
            _ => continue,
        };
        pairs.insert(
            second,
            Pair {
                first,
                quantizer,
                kernel: fused,
            },
        );
    }
    pairs
}
