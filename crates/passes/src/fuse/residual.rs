//! A float sum with a convolution's result becomes the residual operand of the convolution.

use octofold_ir::{Graph, Op, Patch, PatchValue};
use octofold_ops::families::{Activation, BinaryKind, FusedConv};

use crate::fuse::fused_conv;
use crate::op;
use crate::pass::{Pass, PassError, PassReport};
use crate::pattern::{Match, Pattern};
use crate::rewrite::{Rewrite, Skip, apply_rewrites, sources_of};
use crate::support;

/// Fuses `conv + residual` (and the activation after it) in float graphs.
///
/// It runs at lowering only: calibration must see the convolution's result and the sum apart.
#[derive(Clone, Copy, Debug, Default)]
pub struct FuseResiduals;

impl Pass for FuseResiduals {
    fn name(&self) -> &'static str {
        "fuse-residuals"
    }

    fn run(&self, graph: &mut Graph) -> Result<PassReport, PassError> {
        apply_rewrites(graph, self.name(), &[&FuseResidual])
    }
}

struct FuseResidual;

impl Rewrite for FuseResidual {
    fn name(&self) -> &'static str {
        "fuse-residual"
    }

    fn pattern(&self) -> Pattern {
        let conv = Pattern::node("conv", op!(Conv | FusedConv), []);
        Pattern::commutative(
            "sum",
            op!(Add | FusedBinary),
            conv,
            Pattern::value("residual"),
        )
    }

    fn rewrite(&self, graph: &Graph, found: &Match) -> Result<Patch, Skip> {
        let (id, sum) = (found.node("conv"), found.node("sum"));
        let activation = match graph.node(sum).op() {
            Op::Add(_) => Activation::None,
            Op::FusedBinary(binary) if binary.kind == BinaryKind::Add && binary.y.is_none() => {
                binary.activation
            }
            _ => return Err(Skip::NoMatch),
        };
        let fused = match graph.node(id).op() {
            Op::Conv(conv) => fused_conv(graph, id, conv)?,
            Op::FusedConv(conv) => conv.clone(),
            _ => return Err(Skip::NoMatch),
        };
        if fused.activation != Activation::None
            || fused.x.is_some()
            || graph.node(id).input(3).is_some()
        {
            return Err(Skip::NoMatch);
        }
        let residual = found.value("residual").ok_or(Skip::NoMatch)?;
        let (conv_result, result) = (support::result(graph, id), support::result(graph, sum));
        // The residual must not wait for the convolution, and must not be broadcast.
        if residual == conv_result
            || graph.value(residual).ty() != graph.value(conv_result).ty()
            || graph.single_use(conv_result).is_none()
        {
            return Err(Skip::NoMatch);
        }
        let mut inputs = support::operands(graph, id);
        inputs.resize(3, None);
        inputs.push(Some(PatchValue::Existing(residual)));
        let mut patch = Patch::new();
        let op = FusedConv {
            activation,
            ..fused
        };
        let made = patch.node(
            graph.node(id).name(),
            op,
            inputs,
            sources_of(graph, [id, sum]),
        );
        patch.replace(result, made);
        patch.remove(sum);
        patch.remove(id);
        Ok(patch)
    }
}
