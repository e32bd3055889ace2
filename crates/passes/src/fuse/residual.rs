//! A float sum with a convolution's result becomes the residual operand of the convolution.

use octofold_ir::{Graph, NodeId, Op, Patch, PatchValue, ValueId};
use octofold_ops::families::{Activation, BinaryForm, BinaryKind, FusedBinary, FusedConv, Product};

use crate::fuse::fused_conv;
use crate::pass::rule_pass;
use crate::pattern::{Match, Pattern};
use crate::rewrite::{Rewrite, Skip};
use crate::{op, rule, support};

rule_pass! {
    /// Fuses `conv + residual` (and the activation after it) in float graphs.
    ///
    /// It runs at lowering only: calibration must observe both the convolution's result and the sum.
    pub struct FuseResiduals("fuse-residuals") = [FuseResidual];
}

rule! {
    struct FuseResidual("fuse-residual") finds Sum { conv: NodeId, residual: ValueId }
}

impl Rewrite for FuseResidual {
    fn pattern(&self) -> Pattern {
        let conv = Pattern::node(op!(Conv | FusedConv), []).named("conv");
        Pattern::commutative(op!(Add | FusedBinary), conv, Pattern::value("residual"))
    }

    fn rewrite(&self, graph: &Graph, found: &Match<Sum>) -> Result<Patch, Skip> {
        let (id, sum, residual) = (found.conv, found.root(), found.residual);
        let activation = match graph.node(sum).op() {
            Op::Add(_) => Activation::None,
            Op::FusedBinary(FusedBinary {
                kind: BinaryKind::Add,
                form: BinaryForm::Float(activation),
            }) => *activation,
            _ => return Err(Skip::NoMatch),
        };
        let fused = match graph.node(id).op() {
            Op::Conv(conv) => fused_conv(graph, id, conv)?,
            Op::FusedConv(conv) => conv.clone(),
            _ => return Err(Skip::NoMatch),
        };
        if fused.product != Product::default() || graph.node(id).input(3).is_some() {
            return Err(Skip::NoMatch);
        }
        let conv_result = support::result(graph, id);
        // The residual must not wait for the convolution, and must not be broadcast.
        if residual == conv_result
            || graph.value(residual).ty() != graph.value(conv_result).ty()
            || graph.single_use(conv_result).is_none()
        {
            return Err(Skip::NoMatch);
        }
        let mut inputs = graph.operands(id);
        inputs.resize(3, None);
        inputs.push(Some(PatchValue::Existing(residual)));
        let op = FusedConv {
            product: Product::Float(activation),
            ..fused
        };
        Ok(Patch::new().fuse(graph, &[id, sum], op, inputs))
    }
}
