//! A quantized sum with a convolution's result becomes the residual operand of the convolution.

use octofold_ir::{Graph, Op, Patch, PatchValue};
use octofold_ops::families::{BinaryKind, FusedConv};

use crate::op;
use crate::pass::{Pass, PassError, PassReport};
use crate::pattern::{Match, Pattern};
use crate::rewrite::{Rewrite, Skip, apply_rewrites, sources_of};
use crate::support;

/// Fuses quantized sums into the output stage of the convolution before them. The result is the same to the bit: the
/// convolution is first rounded to its own parameters.
#[derive(Clone, Copy, Debug, Default)]
pub struct FuseQuantizedResiduals;

impl Pass for FuseQuantizedResiduals {
    fn name(&self) -> &'static str {
        "fuse-quantized-residuals"
    }

    fn run(&self, graph: &mut Graph) -> Result<PassReport, PassError> {
        apply_rewrites(graph, self.name(), &[&FuseResidual])
    }
}

struct FuseResidual;

impl Rewrite for FuseResidual {
    fn name(&self) -> &'static str {
        "fuse-quantized-residual"
    }

    fn pattern(&self) -> Pattern {
        let conv = Pattern::node("conv", op!(FusedConv), []);
        Pattern::commutative("sum", op!(FusedBinary), conv, Pattern::value("residual"))
    }

    fn rewrite(&self, graph: &Graph, found: &Match) -> Result<Patch, Skip> {
        let (id, sum) = (found.node("conv"), found.node("sum"));
        let (Op::FusedConv(conv), Op::FusedBinary(binary)) =
            (graph.node(id).op(), graph.node(sum).op())
        else {
            return Err(Skip::NoMatch);
        };
        let (Some(own), Some(total)) = (conv.y, binary.y) else {
            return Err(Skip::NoMatch);
        };
        if binary.kind != BinaryKind::Add || conv.residual.is_some() {
            return Err(Skip::NoMatch);
        }
        let result = support::result(graph, id);
        let residual = found.value("residual").ok_or(Skip::NoMatch)?;
        let conv_first = graph.node(sum).input(0) == Some(result);
        let (conv_params, residual_params) = if conv_first {
            (binary.a, binary.b)
        } else {
            (binary.b, binary.a)
        };
        let same_shape = graph.value(residual).ty().shape == graph.value(result).ty().shape;
        if residual == result
            || conv_params != Some(own.params)
            || !same_shape
            || graph.single_use(result).is_none()
        {
            return Err(Skip::NoMatch);
        }
        let mut inputs = support::operands(graph, id);
        inputs.resize(3, None);
        inputs.push(Some(PatchValue::Existing(residual)));
        let op = FusedConv {
            residual: residual_params,
            sum: Some(total),
            ..conv.clone()
        };
        let mut patch = Patch::new();
        let made = patch.node(
            graph.node(id).name(),
            op,
            inputs,
            sources_of(graph, [id, sum]),
        );
        patch.replace(support::result(graph, sum), made);
        patch.remove(sum);
        patch.remove(id);
        Ok(patch)
    }
}
