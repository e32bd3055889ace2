//! Expansion: float operators of the `octofold` domain become ONNX operators again.
//!
//! An exported model must run anywhere, and the reference QDQ graph has standard semantics only.

use octofold_ir::{Graph, NodeId, Op, Patch, PatchValue};
use octofold_ops::bail;
use octofold_ops::families::{
    Activation, Add, AutoPad, BinaryForm, BinaryKind, Clip, Conv, FusedBinary, FusedConv,
    FusedLinear, Gemm, MatMul, Mul, Product, Relu, Sigmoid,
};
use octofold_tensor::Tensor;

use crate::pass::rule_pass;
use crate::pattern::{Match, Pattern};
use crate::rewrite::{Rewrite, Skip};
use crate::{op, rule, support};

rule_pass! {
    /// Expands fused float operators.
    pub struct ExpandFused("expand-fused") = [ExpandOne];
}

rule! {
    struct ExpandOne("expand")
}

impl Rewrite for ExpandOne {
    fn pattern(&self) -> Pattern {
        Pattern::node(op!(FusedConv | FusedLinear | FusedBinary | Swish), [])
    }

    fn rewrite(&self, graph: &Graph, found: &Match<()>) -> Result<Patch, Skip> {
        let id = found.root();
        match graph.node(id).op() {
            Op::FusedConv(op) if let Product::Float(last) = op.product => {
                Ok(expand_conv(graph, id, op, last))
            }
            Op::FusedLinear(FusedLinear {
                product: Product::Float(last),
            }) => Ok(expand_linear(graph, id, *last)),
            Op::FusedBinary(FusedBinary {
                kind,
                form: BinaryForm::Float(last),
            }) => Ok(expand_binary(graph, id, *kind, *last)),
            Op::Swish(op) => Ok(expand_swish(graph, id, op.alpha)),
            _ => bail!("an integer operator has no ONNX form"),
        }
    }
}

/// A chain of nodes, the last of which replaces another node.
pub(crate) struct Chain<'a> {
    graph: &'a Graph,
    id: NodeId,
    patch: Patch,
}

impl<'a> Chain<'a> {
    pub(crate) fn new(graph: &'a Graph, id: NodeId) -> Self {
        Self {
            graph,
            id,
            patch: Patch::new(),
        }
    }

    /// Adds a node with the name of the replaced one and a suffix.
    pub(crate) fn node(
        &mut self,
        suffix: &str,
        op: impl Into<Op>,
        inputs: Vec<Option<PatchValue>>,
    ) -> PatchValue {
        let node = self.graph.node(self.id);
        self.patch.node(
            format!("{}{suffix}", node.name()),
            op,
            inputs,
            node.sources().to_vec(),
        )
    }

    /// Adds a number as a constant.
    pub(crate) fn number(&mut self, suffix: &str, x: f32) -> PatchValue {
        let name = format!("{}{suffix}", self.graph.node(self.id).name());
        self.patch.constant(name, Tensor::scalar(x))
    }

    /// The patch with `value` in the place of the node's result, behind an activation.
    pub(crate) fn finish(mut self, activation: Activation, value: PatchValue) -> Patch {
        let last = match activation {
            Activation::None => value,
            Activation::Relu => self.node("_Relu", Relu {}, vec![Some(value)]),
            Activation::Clip { min, max } => {
                let (min, max) = (self.number("_min", min), self.number("_max", max));
                let operands = vec![Some(value), Some(min), Some(max)];
                self.node("_Clip", Clip {}, operands)
            }
        };
        self.patch.replace_result(self.graph, self.id, last)
    }
}

fn expand_conv(graph: &Graph, id: NodeId, op: &FusedConv, last: Activation) -> Patch {
    let mut inputs = graph.operands(id);
    let residual = inputs.get(3).copied().flatten();
    inputs.truncate(3);
    while inputs.last() == Some(&None) {
        inputs.pop();
    }
    let conv = Conv {
        auto_pad: AutoPad::NotSet,
        dilations: op.dilations.clone(),
        group: op.group,
        kernel_shape: kernel_shape(graph, id),
        pads: op.pads.clone(),
        strides: op.strides.clone(),
    };
    let mut chain = Chain::new(graph, id);
    let mut value = chain.node("", conv, inputs);
    if let Some(residual) = residual {
        value = chain.node("_Add", Add {}, vec![Some(value), Some(residual)]);
    }
    chain.finish(last, value)
}

/// Height and width of a convolution's kernel, from its weights.
fn kernel_shape(graph: &Graph, id: NodeId) -> Vec<i64> {
    let shape = support::operand_type(graph, id, 1)
        .and_then(|ty| ty.known_shape())
        .unwrap_or_default();
    shape.iter().skip(2).map(|&size| size as i64).collect()
}

fn expand_linear(graph: &Graph, id: NodeId, last: Activation) -> Patch {
    let inputs = graph.operands(id);
    let bias = inputs.get(2).copied().flatten();
    let matrix = support::operand_rank(graph, id) == Some(2);
    let mut chain = Chain::new(graph, id);
    let value = match bias {
        Some(bias) if !matrix => {
            let product = chain.node("", MatMul {}, inputs[..2].to_vec());
            chain.node("_Add", Add {}, vec![Some(product), Some(bias)])
        }
        Some(_) => chain.node(
            "",
            Gemm {
                alpha: 1.0,
                beta: 1.0,
                transA: false,
                transB: false,
            },
            inputs,
        ),
        None => chain.node("", MatMul {}, inputs),
    };
    chain.finish(last, value)
}

/// `x · sigmoid(alpha·x)`: ONNX has `Swish` only since opset 24.
fn expand_swish(graph: &Graph, id: NodeId, alpha: f32) -> Patch {
    let x = graph.operands(id);
    let mut chain = Chain::new(graph, id);
    let mut argument = x.clone();
    if alpha != 1.0 {
        let name = format!("{}.alpha", graph.node(id).name());
        argument.push(Some(chain.patch.constant(name, Tensor::scalar(alpha))));
        argument = vec![Some(chain.node("_Scale", Mul {}, argument))];
    }
    let sigmoid = chain.node("_Sigmoid", Sigmoid {}, argument);
    let product = chain.node(
        "",
        Mul {},
        vec![x.first().copied().flatten(), Some(sigmoid)],
    );
    chain.finish(Activation::None, product)
}

fn expand_binary(graph: &Graph, id: NodeId, kind: BinaryKind, last: Activation) -> Patch {
    let mut chain = Chain::new(graph, id);
    let inputs = graph.operands(id);
    let value = match kind {
        BinaryKind::Add => chain.node("", Add {}, inputs),
        BinaryKind::Mul => chain.node("", Mul {}, inputs),
    };
    chain.finish(last, value)
}
