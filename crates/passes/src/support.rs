//! Small functions that many rules need.

use std::ops::RangeInclusive;

use octofold_ir::{Graph, NodeId, Patch, PatchValue, TensorType, ValueId};
use octofold_ops::families::{DequantizeLinear, FusedLinear, Product};
use octofold_tensor::{DType, Dim, Tensor};

use crate::rewrite::Skip;

/// The ranks of the batches of images that kernels compute.
pub(crate) const IMAGE_RANKS: RangeInclusive<usize> = 3..=5;

/// The elements of a float constant.
pub(crate) fn floats(graph: &Graph, value: ValueId) -> Option<&[f32]> {
    graph.value(value).constant()?.values::<f32>().ok()
}

/// The single element of a float constant.
pub(crate) fn scalar(graph: &Graph, value: ValueId) -> Option<f32> {
    match floats(graph, value)? {
        [single] => Some(*single),
        _ => None,
    }
}

/// The numbers of a small integer constant, also of one that inference found to be constant.
pub(crate) fn integers(graph: &Graph, value: ValueId) -> Option<Vec<i64>> {
    graph
        .value(value)
        .contents()?
        .iter()
        .map(Dim::known)
        .collect()
}

/// The numbers of an attribute; where it is left out, its default for each axis.
pub(crate) fn list_or(list: &[i64], length: usize, default: i64) -> Vec<i64> {
    match list {
        [] => vec![default; length],
        list => list.to_vec(),
    }
}

/// The rank of a value, when it is known.
pub(crate) fn rank(graph: &Graph, value: ValueId) -> Option<usize> {
    graph.value(value).ty().rank()
}

/// The rank of a node's first operand, when it is known.
pub(crate) fn operand_rank(graph: &Graph, node: NodeId) -> Option<usize> {
    rank(graph, graph.node(node).input(0)?)
}

/// The number of spatial axes of the images that a convolution or pool reads.
///
/// # Errors
/// When no kernel moves over as many axes.
pub(crate) fn image_axes(graph: &Graph, node: NodeId) -> Result<usize, Skip> {
    match operand_rank(graph, node) {
        Some(rank) if IMAGE_RANKS.contains(&rank) => Ok(rank - 2),
        _ => Err(Skip::because(
            "only convolutions and pools over one to three axes have kernels",
        )),
    }
}

/// The element type of a value.
pub(crate) fn dtype(graph: &Graph, value: ValueId) -> DType {
    graph.value(value).ty().dtype
}

/// The type of a node's operand.
pub(crate) fn operand_type(graph: &Graph, node: NodeId, slot: usize) -> Option<&TensorType> {
    Some(graph.value(graph.node(node).input(slot)?).ty())
}

/// The first result of a node.
///
/// Every operator has at least one result, which the graph has checked when the node was added.
pub(crate) fn result(graph: &Graph, node: NodeId) -> ValueId {
    graph.node(node).outputs()[0]
}

/// A constant of f32 elements.
///
/// # Errors
/// When the elements do not fill the shape, which the rule reports as its reason.
pub(crate) fn float_tensor(shape: &[usize], values: Vec<f32>) -> Result<Tensor, Skip> {
    Ok(Tensor::new(shape.iter().copied(), values)?)
}

/// Adds integers around 0 as weights with one scale, or with one for each index of axis 0; gives the dequantized weights.
pub(crate) fn dequantized_weights(
    patch: &mut Patch,
    name: &str,
    integers: Tensor,
    scales: Vec<f32>,
) -> PatchValue {
    let scales = match scales.as_slice() {
        &[scale] => Tensor::scalar(scale),
        _ => Tensor::vector(scales),
    };
    let integers = patch.constant(format!("{name}.integers"), integers);
    let scales = patch.constant(format!("{name}.step"), scales);
    let op = DequantizeLinear {
        axis: 0,
        block_size: 0,
        output_dtype: 0,
    };
    patch.node(name, op, [Some(integers), Some(scales)], vec![])
}

/// The elements of a float constant that broadcasts along the channels of a value [N, C, …]: one element a
/// channel, a single element repeated.
pub(crate) fn per_channel(
    graph: &Graph,
    value: ValueId,
    rank: usize,
    channels: usize,
) -> Option<Vec<f32>> {
    let tensor = graph.value(value).constant()?;
    let values = tensor.values::<f32>().ok()?;
    if values.len() == 1 && tensor.rank() <= rank {
        return Some(vec![values[0]; channels]);
    }
    // Aligned at the last axis, as broadcasting does: only the channel axis may differ from 1.
    let channel_axis = (tensor.rank() + 1).checked_sub(rank)?;
    let only_channels = tensor.rank() <= rank
        && tensor
            .shape()
            .iter()
            .enumerate()
            .all(|(axis, &size)| size == 1 || axis == channel_axis);
    (only_channels && values.len() == channels).then(|| values.to_vec())
}

/// A linear layer without quantization or activation.
pub(crate) fn float_linear() -> FusedLinear {
    FusedLinear {
        product: Product::default(),
    }
}
