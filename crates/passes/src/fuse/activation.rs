//! Activations that bound a result (ReLU, ReLU6 and other clips) become part of the operator that computes it.

use octofold_ir::{Graph, NodeId, Op, Patch};
use octofold_ops::bail;
use octofold_ops::families::{
    Activation, AutoPad, BinaryForm, BinaryKind, Conv, FusedBinary, FusedConv, Layout, Product,
};

use crate::pass::{Pass, PassError};
use crate::pattern::{Match, Pattern};
use crate::rewrite::{Rewrite, Rewriter, Scope, Skip};
use crate::{op, rule, support};

/// Fuses ReLU and Clip into convolutions, linear layers, sums and products.
#[derive(Clone, Copy, Default)]
pub struct FuseActivations<'a> {
    /// The fusions to apply; `None` for all.
    pub scope: Option<&'a dyn Scope>,
}

impl Pass for FuseActivations<'_> {
    fn name(&self) -> &'static str {
        "fuse-activations"
    }

    fn run(&self, graph: &mut Graph, rewriter: &mut Rewriter) -> Result<(), PassError> {
        rewriter.apply_rules_within(graph, &[&FuseActivation], self.scope)
    }
}

/// The activation that a node computes, when it is one that can be fused.
pub(crate) fn activation_of(graph: &Graph, id: NodeId) -> Result<Activation, Skip> {
    let node = graph.node(id);
    match node.op() {
        Op::Relu(_) => Ok(Activation::Relu),
        Op::Clip(_) => {
            let bound = |slot: usize, open: f32| match node.input(slot) {
                None => Ok(open),
                Some(value) => {
                    support::scalar(graph, value).ok_or(Skip::because("a bound is not constant"))
                }
            };
            let (min, max) = (bound(1, f32::NEG_INFINITY)?, bound(2, f32::INFINITY)?);
            if min.is_nan() || max.is_nan() || min > max {
                bail!("the lower bound is above the upper one, or one is NaN");
            }
            Ok(Activation::Clip { min, max })
        }
        _ => Err(Skip::NoMatch),
    }
}

/// `second(first(x))` as one activation, when it is one.
fn compose(first: Activation, second: Activation) -> Activation {
    if first == Activation::None {
        return second;
    }
    let (min, max) = first.bounds();
    let (min, max) = (second.apply(min), second.apply(max));
    if (min, max) == (0.0, f32::INFINITY) {
        Activation::Relu
    } else {
        Activation::Clip { min, max }
    }
}

/// An f32 convolution with explicit pads as a fused operator. Attributes that are left out get their defaults.
pub(crate) fn fused_conv(graph: &Graph, id: NodeId, conv: &Conv) -> Result<FusedConv, Skip> {
    let axes = support::image_axes(graph, id)?;
    if conv.auto_pad != AutoPad::NotSet {
        bail!("the pads are not explicit");
    }
    Ok(FusedConv {
        strides: support::list_or(&conv.strides, axes, 1),
        pads: support::list_or(&conv.pads, 2 * axes, 0),
        dilations: support::list_or(&conv.dilations, axes, 1),
        group: conv.group,
        layout: Layout::Nchw,
        product: Product::default(),
    })
}

rule! {
    struct FuseActivation("fuse-activation") finds Activated { producer: NodeId }
}

impl Rewrite for FuseActivation {
    fn pattern(&self) -> Pattern {
        let accepts = op!(Conv | FusedConv | FusedLinear | Add | Mul | FusedBinary);
        let producer = Pattern::node(accepts, []).named("producer");
        Pattern::node(op!(Relu | Clip), [producer])
    }

    fn rewrite(&self, graph: &Graph, found: &Match<Activated>) -> Result<Patch, Skip> {
        let (id, last) = (found.producer, found.root());
        let float =
            support::dtype(graph, support::result(graph, id)) == octofold_tensor::DType::F32;
        if !float {
            return Err(Skip::NoMatch);
        }
        let activation = activation_of(graph, last)?;
        let binary = |kind, activation| FusedBinary {
            kind,
            form: BinaryForm::Float(activation),
        };
        let fused: Op = match graph.node(id).op() {
            Op::Conv(conv) => FusedConv {
                product: Product::Float(activation),
                ..fused_conv(graph, id, conv)?
            }
            .into(),
            Op::FusedBinary(FusedBinary {
                kind,
                form: BinaryForm::Float(first),
            }) => binary(*kind, compose(*first, activation)).into(),
            Op::Add(_) => binary(BinaryKind::Add, activation).into(),
            Op::Mul(_) => binary(BinaryKind::Mul, activation).into(),
            layer => {
                let mut layer = layer.clone();
                let last = layer.product_mut().and_then(Product::activation_mut);
                let last = last.ok_or(Skip::NoMatch)?;
                *last = compose(*last, activation);
                layer
            }
        };
        Ok(Patch::new().fuse(graph, &[id, last], fused, graph.operands(id)))
    }
}
