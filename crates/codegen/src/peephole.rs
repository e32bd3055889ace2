//! Pairs of nodes that one kernel computes: (de)quantization with a change of layout before or behind it, and a convolution with float results with
//! one behind it.

use std::collections::BTreeMap;

use octofold_ir::{Graph, NodeId, Op};
use octofold_runtime::{Engine, Kernel};
use octofold_tensor::DType;

use crate::facts::{Facts, Types};
use crate::pack::pack;
use crate::select::{TO_NCHW, TO_NHWC, select};

/// Two nodes in a row that become one step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Pair {
    /// The node that comes first; the step reads its first operand.
    pub(crate) first: NodeId,
    /// The node that does not only move: its attributes and constants are the step's.
    pub(crate) main: NodeId,
    /// What computes the step.
    pub(crate) kernel: Kernel,
}

/// The pairs of a graph by their second node, whose result is the step's.
pub(crate) type Pairs = BTreeMap<NodeId, Pair>;

/// Finds the pairs.
pub(crate) fn find(graph: &Graph, order: &[NodeId], types: &Types<'_>, engine: Engine) -> Pairs {
    let facts = |id| Facts {
        graph,
        node: graph.node(id),
        types,
    };
    let kernel = |id| select(facts(id)).ok();
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
        let (transpose, main) = match (graph.node(first).op(), node.op()) {
            (Op::Transpose(transpose), Op::QuantizeLinear(_) | Op::DequantizeLinear(_)) => {
                (transpose, second)
            }
            (
                Op::QuantizeLinear(_) | Op::DequantizeLinear(_) | Op::FusedConv(_),
                Op::Transpose(transpose),
            ) => (transpose, first),
            _ => continue,
        };
        // A transposition that moves nothing is free as it is.
        let other = if main == first { second } else { first };
        let floats = types.ty(middle).dtype == DType::F32;
        let fused = match (kernel(main), kernel(other)) {
            (Some(Kernel::Quantize), Some(Kernel::ToNhwc)) if transpose.perm == TO_NHWC => {
                Kernel::QuantizeToNhwc
            }
            (Some(Kernel::Dequantize), Some(Kernel::ToNchw)) if transpose.perm == TO_NCHW => {
                Kernel::DequantizeToNchw
            }
            (Some(Kernel::QConv), Some(Kernel::ToNchw)) if floats => Kernel::QConvToNchw,
            (Some(Kernel::QConvDepthwise), Some(Kernel::ToNchw)) if floats => {
                Kernel::QConvDepthwiseToNchw
            }
            _ => continue,
        };
        // Weights that the kernels refuse leave the nodes to portable steps.
        if pack(facts(main), fused, engine).is_err() {
            continue;
        }
        pairs.insert(
            second,
            Pair {
                first,
                main,
                kernel: fused,
            },
        );
    }
    pairs
}
