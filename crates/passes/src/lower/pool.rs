//! Pools of quantized and of float values become the pool operators that have kernels.

use octofold_ir::{Graph, NodeId, Op, Patch, ValueId};
use octofold_ops::bail;
use octofold_ops::families::{
    Activation, AutoPad, FusedGlobalPool, FusedPool, Layout, PoolKind, Rescale,
};

use crate::lower::params::{dequantized, output_quantization};
use crate::pattern::{Match, Pattern};
use crate::rewrite::{Rewrite, Skip};
use crate::simplify::window_of;
use crate::{op, rule, support};

/// Our own pool operator for an ONNX one, without quantization.
pub(super) fn fused_pool(graph: &Graph, id: NodeId) -> Result<Op, Skip> {
    support::image_axes(graph, id)?;
    let (layout, rescale) = (Layout::Nchw, None);
    let node = graph.node(id);
    let (kind, ceil_mode, count_include_pad) = match node.op() {
        Op::MaxPool(_) if node.outputs().len() > 1 => {
            bail!("the indices of a max pool have no kernel")
        }
        Op::MaxPool(pool) => (PoolKind::Max, pool.ceil_mode, false),
        Op::AveragePool(pool) => (PoolKind::Average, pool.ceil_mode, pool.count_include_pad),
        global => {
            let kind = match global {
                Op::GlobalMaxPool(_) => PoolKind::Max,
                Op::GlobalAveragePool(_) => PoolKind::Average,
                _ => return Err(Skip::NoMatch),
            };
            return Ok(FusedGlobalPool {
                kind,
                layout,
                rescale,
            }
            .into());
        }
    };
    let window = window_of(graph, id).ok_or(Skip::NoMatch)?;
    if window.auto_pad != AutoPad::NotSet {
        bail!("the pads are not explicit");
    }
    let pool = FusedPool {
        kind,
        kernel_shape: window.kernel,
        strides: window.strides,
        pads: window.pads,
        dilations: window.dilations,
        ceil_mode,
        count_include_pad,
        layout,
        rescale,
    };
    Ok(pool.into())
}

rule! {
    /// A pool of a dequantized value, quantized.
    pub(super) struct QuantizedPool("quantized-pool") finds Pool { pool: NodeId, x: ValueId }
}

impl Rewrite for QuantizedPool {
    fn pattern(&self) -> Pattern {
        let accepts = op!(MaxPool | AveragePool | GlobalMaxPool | GlobalAveragePool);
        let pool = Pattern::node(accepts, [Pattern::value("x")]);
        pool.named("pool").quantized()
    }

    fn rewrite(&self, graph: &Graph, found: &Match<Pool>) -> Result<Patch, Skip> {
        let (id, quantize) = (found.pool, found.root());
        let x = dequantized(graph, found.x).ok_or(Skip::because("the input is not quantized"))?;
        let y = output_quantization(graph, quantize, Activation::None)?;
        if x.dtype != y.dtype {
            bail!("the operand and the result have different types");
        }
        let rescale = Some(Rescale {
            x: x.activation()?,
            y,
        });
        let op: Op = match fused_pool(graph, id)? {
            Op::FusedPool(pool) => FusedPool { rescale, ..pool }.into(),
            Op::FusedGlobalPool(pool) => FusedGlobalPool { rescale, ..pool }.into(),
            other => other,
        };
        let inputs = [Some(x.value.into())];
        Ok(Patch::new().fuse_with_next(graph, id, quantize, op, inputs))
    }
}
