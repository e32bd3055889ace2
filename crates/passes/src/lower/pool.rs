//! Pools of quantized and of float values become the pool operators that have kernels.

use octofold_ir::{Graph, NodeId, Op, Patch, ValueId};
use octofold_ops::bail;
use octofold_ops::families::{
    Activation, AutoPad, FusedGlobalPool, FusedPool, Layout, PoolKind, Rescale,
};

use crate::lower::params::{dequantized, output_quantization};
use crate::pattern::{Match, Pattern};
use crate::rewrite::{Rewrite, Skip};
use crate::{op, rule, support};

/// Our own pool operator for an ONNX one, without quantization.
pub(super) fn fused_pool(graph: &Graph, id: NodeId) -> Result<Op, Skip> {
    let axes = support::image_axes(graph, id)?;
    let explicit = |auto_pad| {
        if auto_pad == AutoPad::NotSet {
            Ok::<_, Skip>(())
        } else {
            bail!("the pads are not explicit")
        }
    };
    let global = |kind| FusedGlobalPool {
        kind,
        layout: Layout::Nchw,
        rescale: None,
    };
    Ok(match graph.node(id).op() {
        Op::MaxPool(pool) => {
            explicit(pool.auto_pad)?;
            if graph.node(id).outputs().len() > 1 {
                bail!("the indices of a max pool have no kernel");
            }
            FusedPool {
                kind: PoolKind::Max,
                kernel_shape: pool.kernel_shape.clone(),
                strides: support::list_or(&pool.strides, axes, 1),
                pads: support::list_or(&pool.pads, 2 * axes, 0),
                dilations: support::list_or(&pool.dilations, axes, 1),
                ceil_mode: pool.ceil_mode,
                count_include_pad: false,
                layout: Layout::Nchw,
                rescale: None,
            }
            .into()
        }
        Op::AveragePool(pool) => {
            explicit(pool.auto_pad)?;
            FusedPool {
                kind: PoolKind::Average,
                kernel_shape: pool.kernel_shape.clone(),
                strides: support::list_or(&pool.strides, axes, 1),
                pads: support::list_or(&pool.pads, 2 * axes, 0),
                dilations: support::list_or(&pool.dilations, axes, 1),
                ceil_mode: pool.ceil_mode,
                count_include_pad: pool.count_include_pad,
                layout: Layout::Nchw,
                rescale: None,
            }
            .into()
        }
        Op::GlobalMaxPool(_) => global(PoolKind::Max).into(),
        Op::GlobalAveragePool(_) => global(PoolKind::Average).into(),
        _ => return Err(Skip::NoMatch),
    })
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
