//! A quantized sum with a convolution's result becomes the residual operand of the convolution.

use octofold_ir::{Graph, NodeId, Op, Patch, PatchValue, ValueId};
use octofold_ops::families::{
    BinaryForm, BinaryKind, FusedBinary, FusedConv, IntegerProduct, Outcome, Product,
};

use crate::pass::rule_pass;
use crate::pattern::{Match, Pattern};
use crate::rewrite::{Rewrite, Skip};
use crate::{op, rule, support};

rule_pass! {
    /// Fuses quantized sums into the output stage of the convolution before them. The result is the same to the bit: the
    /// convolution is first rounded to its own parameters.
    pub struct FuseQuantizedResiduals("fuse-quantized-residuals") = [FuseResidual];
}

rule! {
    struct FuseResidual("fuse-quantized-residual") finds Sum { conv: NodeId, residual: ValueId }
}

impl Rewrite for FuseResidual {
    fn pattern(&self) -> Pattern {
        let conv = Pattern::node(op!(FusedConv), []).named("conv");
        Pattern::commutative(op!(FusedBinary), conv, Pattern::value("residual"))
    }

    fn rewrite(&self, graph: &Graph, found: &Match<Sum>) -> Result<Patch, Skip> {
        let (id, sum, residual) = (found.conv, found.root(), found.residual);
        let Op::FusedConv(conv) = graph.node(id).op() else {
            return Err(Skip::NoMatch);
        };
        let Op::FusedBinary(FusedBinary {
            kind: BinaryKind::Add,
            form: BinaryForm::Bytes { a, b, y: total },
        }) = *graph.node(sum).op()
        else {
            return Err(Skip::NoMatch);
        };
        let Product::Integer(product) = &conv.product else {
            return Err(Skip::NoMatch);
        };
        let Outcome::Bytes(own) = product.result else {
            return Err(Skip::NoMatch);
        };
        let result = support::result(graph, id);
        let conv_first = graph.node(sum).input(0) == Some(result);
        let (conv_params, residual_params) = if conv_first { (a, b) } else { (b, a) };
        let same_shape = graph.value(residual).ty().shape == graph.value(result).ty().shape;
        if residual == result
            || conv_params != own.params
            || !same_shape
            || graph.single_use(result).is_none()
        {
            return Err(Skip::NoMatch);
        }
        let mut inputs = graph.operands(id);
        inputs.resize(3, None);
        inputs.push(Some(PatchValue::Existing(residual)));
        let result = Outcome::Residual {
            own,
            residual: residual_params,
            sum: total,
        };
        let op = FusedConv {
            product: Product::Integer(IntegerProduct {
                result,
                ..product.clone()
            }),
            ..conv.clone()
        };
        Ok(Patch::new().fuse(graph, &[id, sum], op, inputs))
    }
}
