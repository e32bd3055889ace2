//! The class of an operator, from its form: ranks, constants, attributes.

use octofold_ir::{Graph, NodeId, Op};
use octofold_ops::families::{BinaryKind, PadMode};
use octofold_tensor::DType;

use super::{BackendConfig, OpClass};
use crate::lower::acts_element_by_element;
use crate::support;

/// The functions of one value that are quantized by default.
pub(super) const POINTWISE: [&str; 20] = [
    "Relu",
    "LeakyRelu",
    "Clip",
    "Sigmoid",
    "HardSigmoid",
    "HardSwish",
    "Tanh",
    "Erf",
    "Gelu",
    "Elu",
    "Selu",
    "Celu",
    "Softplus",
    "Softsign",
    "Mish",
    "Swish",
    "ThresholdedRelu",
    "Exp",
    "Abs",
    "Neg",
];

/// The operators that move elements and are quantized by default.
pub(super) const MOVEMENT: [&str; 15] = [
    "Reshape",
    "Flatten",
    "Squeeze",
    "Unsqueeze",
    "Transpose",
    "Identity",
    "Slice",
    "Split",
    "Expand",
    "Tile",
    "DepthToSpace",
    "SpaceToDepth",
    "Gather",
    "Pad",
    "Resize",
];

/// The class whose kernels could compute a node, whatever operators its capability lists.
pub(super) fn classify(
    graph: &Graph,
    id: NodeId,
    backend: &BackendConfig,
) -> Result<OpClass, String> {
    let node = graph.node(id);
    let name = node.op().name();
    let result = node.outputs().first().map(|&value| graph.value(value).ty());
    if result.is_none_or(|ty| ty.dtype != DType::F32) {
        return Err(format!("{name} does not compute f32"));
    }
    let is_constant = |value| graph.value(value).constant().is_some();
    let weighted = |class, what: &str| {
        if node.weights().is_some_and(is_constant) && node.bias().is_none_or(is_constant) {
            Ok(class)
        } else {
            Err(format!("the {what} is not constant"))
        }
    };
    let is_function = || {
        let capability = backend.capability(OpClass::Pointwise);
        POINTWISE.contains(&name) || capability.is_some_and(|capability| capability.lists(name))
    };
    match node.op() {
        Op::Conv(_) | Op::FusedConv(_) if support::image_axes(graph, id).is_err() => {
            Err("only convolutions over one to three axes have an integer kernel".to_owned())
        }
        Op::Conv(_) | Op::FusedConv(_) => {
            weighted(OpClass::Conv, "weight or bias of the convolution")
        }
        Op::FusedLinear(_) => weighted(OpClass::Linear, "weight or bias of the linear layer"),
        Op::Add(_) | Op::Mul(_) | Op::FusedBinary(_) => binary(graph, id),
        Op::Concat(_) => Ok(OpClass::Concat),
        Op::MaxPool(_) if node.outputs().len() > 1 => {
            Err("the indices of a max pool have no integer kernel".to_owned())
        }
        Op::MaxPool(_) | Op::AveragePool(_) if support::image_axes(graph, id).is_err() => {
            Err("only pools over one to three axes have an integer kernel".to_owned())
        }
        Op::MaxPool(_) | Op::GlobalMaxPool(_) => Ok(OpClass::MaxPool),
        Op::AveragePool(_) | Op::GlobalAveragePool(_) => Ok(OpClass::AveragePool),
        Op::Pad(pad)
            if pad.mode == PadMode::Constant
                && node
                    .input(2)
                    .is_some_and(|value| support::scalar(graph, value) != Some(0.0)) =>
        {
            Err("of pads with a constant, only one of zeros keeps its parameters".to_owned())
        }
        Op::Resize(resize) if !resize.keeps_values() => {
            Err("only resizing to nearest neighbours keeps values".to_owned())
        }
        Op::MatMul(_) => {
            Err("the product of two computed matrices has no integer kernel".to_owned())
        }
        _ if MOVEMENT.contains(&name) => {
            if node.input(0).is_some_and(is_constant) {
                Err("the operand is constant".to_owned())
            } else {
                Ok(OpClass::Movement)
            }
        }
        op if is_function() && acts_element_by_element(op) => {
            // A table has one entry for each value of the one operand.
            let is_number = |value| support::scalar(graph, value).is_some();
            let mut parameters = (1..node.inputs().len()).filter_map(|slot| node.input(slot));
            if parameters.all(is_number) {
                Ok(OpClass::Pointwise)
            } else {
                Err(format!(
                    "the parameters of {name} are not single constant numbers"
                ))
            }
        }
        _ => Err(format!("{name} has no integer kernel")),
    }
}

/// A sum or product of two values; with a single constant number it is a function of one value.
fn binary(graph: &Graph, id: NodeId) -> Result<OpClass, String> {
    let node = graph.node(id);
    let constants = node
        .inputs()
        .iter()
        .flatten()
        .filter(|&&value| graph.value(value).constant().is_some());
    match constants.count() {
        0 => {}
        1 => {
            let single = node
                .inputs()
                .iter()
                .flatten()
                .any(|&value| support::scalar(graph, value).is_some());
            if single {
                return Ok(OpClass::Pointwise);
            }
        }
        _ => return Err("both operands are constant".to_owned()),
    }
    match node.op() {
        Op::Mul(_) => Ok(OpClass::Mul),
        Op::FusedBinary(op) if op.kind == BinaryKind::Mul => Ok(OpClass::Mul),
        _ => Ok(OpClass::Add),
    }
}
