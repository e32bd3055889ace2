//! Canonical forms of sliding windows: explicit pads, and pads that belong to the window.

use octofold_ir::{Graph, NodeId, Op, Patch, PatchValue, ValueId};
use octofold_ops::bail;
use octofold_ops::families::{AutoPad, PadMode};

use crate::pass::rule_pass;
use crate::pattern::{Match, Pattern};
use crate::rewrite::{Rewrite, Skip};
use crate::{op, rule, support};

rule_pass! {
    /// Makes the pads of convolutions and pools explicit, and merges a `Pad` before them.
    pub struct CanonicalizeWindows("canonicalize-windows") = [ExplicitPads, MergePad];
}

/// The window of a convolution or pool, whatever its operator.
pub(crate) struct Window {
    pub(crate) auto_pad: AutoPad,
    pub(crate) kernel: Vec<i64>,
    pub(crate) strides: Vec<i64>,
    pub(crate) dilations: Vec<i64>,
    pub(crate) pads: Vec<i64>,
}

/// The window of a node, where its axes are known.
pub(crate) fn window_of(graph: &Graph, id: NodeId) -> Option<Window> {
    let rank = support::operand_type(graph, id, 0)?.rank()?;
    let axes = rank.checked_sub(2)?;
    macro_rules! window {
        ($op:expr, $kernel:expr) => {
            Some(Window {
                auto_pad: $op.auto_pad,
                kernel: $kernel,
                strides: support::list_or(&$op.strides, axes, 1),
                dilations: support::list_or(&$op.dilations, axes, 1),
                pads: support::list_or(&$op.pads, 2 * axes, 0),
            })
        };
    }
    match graph.node(id).op() {
        Op::Conv(conv) => {
            let weights = support::operand_type(graph, id, 1)?.known_shape()?;
            let kernel = weights.iter().skip(2).map(|&size| size as i64).collect();
            window!(conv, kernel)
        }
        Op::MaxPool(pool) => window!(pool, pool.kernel_shape.clone()),
        Op::AveragePool(pool) => window!(pool, pool.kernel_shape.clone()),
        _ => None,
    }
}

/// The same operator with other pads.
fn with_pads(op: &Op, pads: Vec<i64>) -> Option<Op> {
    let mut op = op.clone();
    match &mut op {
        Op::Conv(conv) => (conv.auto_pad, conv.pads) = (AutoPad::NotSet, pads),
        Op::MaxPool(pool) => (pool.auto_pad, pool.pads) = (AutoPad::NotSet, pads),
        Op::AveragePool(pool) => (pool.auto_pad, pool.pads) = (AutoPad::NotSet, pads),
        _ => return None,
    }
    Some(op)
}

rule! {
    /// `auto_pad` becomes `pads`, where the sizes are known (a stride of 1 needs no sizes).
    struct ExplicitPads("explicit-pads")
}

impl Rewrite for ExplicitPads {
    fn pattern(&self) -> Pattern {
        Pattern::node(op!(Conv | MaxPool | AveragePool), [])
    }

    fn rewrite(&self, graph: &Graph, found: &Match<()>) -> Result<Patch, Skip> {
        let id = found.root();
        let window = window_of(graph, id).ok_or(Skip::NoMatch)?;
        if window.auto_pad == AutoPad::NotSet {
            return Err(Skip::NoMatch);
        }
        let dims = support::operand_type(graph, id, 0)
            .and_then(|ty| ty.shape.clone())
            .ok_or(Skip::NoMatch)?;
        let axes = window.kernel.len();
        let mut pads = vec![0; 2 * axes];
        if window.auto_pad != AutoPad::Valid {
            for axis in 0..axes {
                let extent = (window.kernel[axis] - 1) * window.dilations[axis] + 1;
                let stride = window.strides[axis];
                let total = match dims[axis + 2].known() {
                    _ if stride == 1 => extent - 1,
                    Some(size) => ((size + stride - 1) / stride - 1) * stride + extent - size,
                    None => {
                        bail!("`auto_pad` with a stride over a symbolic size");
                    }
                };
                let total = total.max(0);
                let small = total / 2;
                let (begin, end) = if window.auto_pad == AutoPad::SameUpper {
                    (small, total - small)
                } else {
                    (total - small, small)
                };
                (pads[axis], pads[axis + axes]) = (begin, end);
            }
        }
        let op = with_pads(graph.node(id).op(), pads).ok_or(Skip::NoMatch)?;
        Ok(Patch::new().replace_op(graph, id, op, graph.operands(id)))
    }
}

rule! {
    /// A constant `Pad` of height and width with zeros, followed by a convolution.
    struct MergePad("merge-pad") finds Padded { pad: NodeId, x: ValueId, pads: ValueId }
}

impl Rewrite for MergePad {
    fn pattern(&self) -> Pattern {
        let pad = Pattern::node(op!(Pad), [Pattern::value("x"), Pattern::constant("pads")]);
        Pattern::node(op!(Conv), [pad.named("pad")])
    }

    fn rewrite(&self, graph: &Graph, found: &Match<Padded>) -> Result<Patch, Skip> {
        let (conv, pad) = (found.root(), found.pad);
        let Op::Pad(attributes) = graph.node(pad).op() else {
            return Err(Skip::NoMatch);
        };
        let value = graph
            .node(pad)
            .input(2)
            .map_or(Some(0.0), |value| support::scalar(graph, value));
        if attributes.mode != PadMode::Constant
            || value != Some(0.0)
            || graph.node(pad).input(3).is_some()
        {
            bail!("only a constant pad of zeros belongs to a convolution");
        }
        let window = window_of(graph, conv).ok_or(Skip::NoMatch)?;
        if window.auto_pad != AutoPad::NotSet {
            return Err(Skip::NoMatch);
        }
        let added = support::integers(graph, found.pads).ok_or(Skip::NoMatch)?;
        let (axes, rank) = (window.kernel.len(), window.kernel.len() + 2);
        let outer = [0, 1, rank, rank + 1];
        if added.len() != 2 * rank
            || added.iter().any(|&pad| pad < 0)
            || outer.iter().any(|&i| added[i] != 0)
        {
            bail!("the pad is not of height and width alone");
        }
        let mut pads = window.pads;
        for axis in 0..axes {
            pads[axis] += added[axis + 2];
            pads[axis + axes] += added[axis + 2 + rank];
        }
        let op = with_pads(graph.node(conv).op(), pads).ok_or(Skip::NoMatch)?;
        let mut inputs = graph.operands(conv);
        inputs[0] = Some(PatchValue::Existing(found.x));
        Ok(found.replace_by(graph, op, inputs))
    }
}
