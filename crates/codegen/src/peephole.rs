//! Nodes in a row that one kernel computes: (de)quantization with a change of layout before or behind it, a convolution with float results with
//! one behind it, and a depthwise one with changes of layout on both sides and a quantization before them.

use std::collections::BTreeMap;

use octofold_ir::{Graph, NodeId, Op};
use octofold_ops::families::FusedConv;
use octofold_runtime::{Engine, Kernel};
use octofold_tensor::DType;

use crate::facts::{Facts, Types};
use crate::pack::pack;
use crate::select::{TO_NCHW, TO_NHWC, select};

/// Nodes in a row that become one step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Row {
    /// All but the last node; the step reads the first operand of the first one, and if that is a quantization before `main`, its scale and zero
    /// point in the place of packed constants.
    pub(crate) before: Vec<NodeId>,
    /// The node that does not only move: its attributes and constants are the step's.
    pub(crate) main: NodeId,
    /// What computes the step.
    pub(crate) kernel: Kernel,
}

/// The rows of a graph by their last node, whose result is the step's.
pub(crate) type Rows = BTreeMap<NodeId, Row>;

/// Finds the rows.
pub(crate) fn find(graph: &Graph, order: &[NodeId], types: &Types<'_>, engine: Engine) -> Rows {
    let facts = |id| Facts {
        graph,
        node: graph.node(id),
        types,
    };
    let kernel = |id| select(facts(id)).ok();
    // The only node that reads the result of the other, if `value` is that result.
    let before = |value| {
        graph.single_use(value)?;
        graph.value(value).producer()
    };
    // Whether a quantization gives what a convolution reads, and its zero point tells the type.
    let quantizes = |id, conv: &FusedConv| {
        conv.x.is_some() && facts(id).params() == conv.x && graph.node(id).input(2).is_some()
    };
    let mut rows = Rows::new();
    for &second in order {
        let node = graph.node(second);
        let Some(middle) = node.input(0) else {
            continue;
        };
        let Some(first) = before(middle) else {
            continue;
        };
        if rows.contains_key(&first) {
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
        let mut row = Row {
            before: vec![first],
            main,
            kernel: fused,
        };
        let moves = |&id: &NodeId| {
            let to_nhwc = matches!(graph.node(id).op(), Op::Transpose(op) if op.perm == TO_NHWC);
            to_nhwc && kernel(id) == Some(Kernel::ToNhwc)
        };
        let moved = graph.node(main).input(0).and_then(before).filter(moves);
        if let (Kernel::QConvDepthwiseToNchw, Some(moved)) = (fused, moved) {
            // All stays in planes; a quantization is no longer one with the change of layout, but with this.
            let quantize = rows.remove(&moved).map(|row| row.main);
            let quantize = quantize.filter(
                |&id| matches!(graph.node(main).op(), Op::FusedConv(op) if quantizes(id, op)),
            );
            row.before.splice(0..0, quantize.into_iter().chain([moved]));
            row.kernel = Kernel::QConvDepthwisePlanes;
        }
        // Weights that the kernels refuse leave the nodes to portable steps.
        if pack(facts(main), row.kernel, engine).is_ok() {
            rows.insert(second, row);
        }
    }
    rows
}
