//! Nodes that change nothing, and pairs that undo each other.

use octofold_ir::{Graph, NodeId, Op, Patch, ValueId};
use octofold_ops::families::{Reshape, Transpose};

use crate::pass::rule_pass;
use crate::pattern::{Match, Pattern};
use crate::rewrite::{Rewrite, Skip};
use crate::{op, rule, support, symbols};

rule_pass! {
    /// Removes nodes that change nothing.
    pub struct EliminateIdentities("eliminate-identities") = [
        NoOperation,
        NeutralOperand,
        MergeReshapes,
        MergeTransposes,
    ];
}

symbols! {
    struct Argument { x: ValueId }
}

rule! {
    /// Operators that return their first operand: always, or with these attributes.
    struct NoOperation("no-operation") finds Argument
}

impl Rewrite for NoOperation {
    fn pattern(&self) -> Pattern {
        Pattern::node(
            op!(Identity
                | Dropout
                | Reshape
                | Flatten
                | Transpose
                | Cast
                | Expand
                | Pad
                | Slice
                | Concat
                | Squeeze
                | Unsqueeze
                | Tile
                | Clip
                | Sum
                | Mean
                | Max
                | Min),
            [Pattern::value("x")],
        )
    }

    fn rewrite(&self, graph: &Graph, found: &Match<Argument>) -> Result<Patch, Skip> {
        let (id, x) = (found.root(), found.x);
        let node = graph.node(id);
        let y = support::result(graph, id);
        let zero = |slot: usize| {
            node.input(slot)
                .and_then(|value| support::integers(graph, value))
                .is_some_and(|pads| pads.iter().all(|&pad| pad == 0))
        };
        let nothing = match node.op() {
            Op::Identity(_) => true,
            // At inference. The second result, a mask, is all true; it must be unused.
            Op::Dropout(_) => {
                node.input(2).is_none()
                    && node
                        .outputs()
                        .iter()
                        .skip(1)
                        .all(|&mask| !graph.is_used(mask) && !graph.is_output(mask))
            }
            Op::Transpose(transpose) => {
                !transpose.perm.is_empty()
                    && transpose
                        .perm
                        .iter()
                        .enumerate()
                        .all(|(i, &axis)| axis == i as i64)
            }
            Op::Cast(cast) => cast.to == support::dtype(graph, x),
            Op::Pad(_) => zero(1),
            Op::Concat(_) | Op::Sum(_) | Op::Mean(_) | Op::Max(_) | Op::Min(_) => {
                node.inputs().len() == 1
            }
            Op::Clip(_) => {
                node.input(1)
                    .is_none_or(|low| support::scalar(graph, low) == Some(f32::NEG_INFINITY))
                    && node
                        .input(2)
                        .is_none_or(|high| support::scalar(graph, high) == Some(f32::INFINITY))
            }
            // These keep the elements and their order, so it is enough to compare shapes.
            Op::Reshape(_)
            | Op::Flatten(_)
            | Op::Squeeze(_)
            | Op::Unsqueeze(_)
            | Op::Expand(_)
            | Op::Tile(_) => same_shape(graph, x, y),
            Op::Slice(_) => {
                same_shape(graph, x, y)
                    && node.input(4).is_none_or(|steps| {
                        support::integers(graph, steps)
                            .is_some_and(|steps| steps.iter().all(|&step| step == 1))
                    })
            }
            _ => false,
        };
        if !nothing {
            return Err(Skip::NoMatch);
        }
        Ok(Patch::new().replace_result(graph, id, x))
    }
}

fn same_shape(graph: &Graph, a: ValueId, b: ValueId) -> bool {
    let (a, b) = (graph.value(a).ty(), graph.value(b).ty());
    a.shape.is_some() && a.shape == b.shape
}

rule! {
    /// `x + 0`, `x - 0`, `x · 1`, `x / 1`, where the constant does not widen the shape.
    struct NeutralOperand("neutral-operand") finds Argument
}

impl Rewrite for NeutralOperand {
    fn pattern(&self) -> Pattern {
        let x = || Pattern::value("x");
        Pattern::any_of([x() + 0.0, x() * 1.0, x() - 0.0, x() / 1.0])
    }

    fn rewrite(&self, graph: &Graph, found: &Match<Argument>) -> Result<Patch, Skip> {
        let id = found.root();
        if !same_shape(graph, found.x, support::result(graph, id)) {
            return Err(Skip::NoMatch);
        }
        Ok(Patch::new().replace_result(graph, id, found.x))
    }
}

rule! {
    /// A reshape of a reshape: only the last shape matters.
    struct MergeReshapes("merge-reshapes") finds Reshapes { inner: NodeId, x: ValueId, shape: ValueId }
}

impl Rewrite for MergeReshapes {
    fn pattern(&self) -> Pattern {
        let accepts = op!(Reshape | Flatten | Squeeze | Unsqueeze);
        let inner = Pattern::node(accepts, [Pattern::value("x")]).named("inner");
        Pattern::node(op!(Reshape), [inner, Pattern::constant("shape")])
    }

    fn rewrite(&self, graph: &Graph, found: &Match<Reshapes>) -> Result<Patch, Skip> {
        let (outer, inner, shape) = (found.root(), found.inner, found.shape);
        let sizes = support::integers(graph, shape).ok_or(Skip::NoMatch)?;
        // A 0 copies a size of the operand, and the merge changes the operand.
        if sizes.contains(&0)
            || matches!(graph.node(outer).op(), Op::Reshape(reshape) if reshape.allowzero)
        {
            return Err(Skip::NoMatch);
        }
        let middle = support::result(graph, inner);
        if graph.single_use(middle).is_none() {
            return Err(Skip::NoMatch);
        }
        let operands = [Some(found.x.into()), Some(shape.into())];
        Ok(found.replace_by(graph, Reshape { allowzero: false }, operands))
    }
}

rule! {
    /// A transpose of a transpose is one transpose.
    struct MergeTransposes("merge-transposes") finds Transposes { inner: NodeId, x: ValueId }
}

impl Rewrite for MergeTransposes {
    fn pattern(&self) -> Pattern {
        let inner = Pattern::node(op!(Transpose), [Pattern::value("x")]);
        Pattern::node(op!(Transpose), [inner.named("inner")])
    }

    fn rewrite(&self, graph: &Graph, found: &Match<Transposes>) -> Result<Patch, Skip> {
        let (outer, inner, x) = (found.root(), found.inner, found.x);
        let (Op::Transpose(second), Op::Transpose(first)) =
            (graph.node(outer).op(), graph.node(inner).op())
        else {
            return Err(Skip::NoMatch);
        };
        if first.perm.is_empty() || second.perm.is_empty() {
            return Err(Skip::NoMatch);
        }
        let perm: Option<Vec<i64>> = second
            .perm
            .iter()
            .map(|&axis| first.perm.get(usize::try_from(axis).ok()?).copied())
            .collect();
        let perm = perm.ok_or(Skip::NoMatch)?;
        // The inner transpose is removed unless it has other readers.
        let alone = graph.single_use(support::result(graph, inner)).is_some();
        let identity = perm.iter().enumerate().all(|(i, &axis)| axis == i as i64);
        let operands = [Some(x.into())];
        Ok(match (identity, alone) {
            (true, _) => {
                let mut patch = Patch::new().replace_result(graph, outer, x);
                if alone {
                    patch.remove(inner);
                }
                patch
            }
            (false, true) => found.replace_by(graph, Transpose { perm }, operands),
            (false, false) => Patch::new().replace_op(graph, outer, Transpose { perm }, operands),
        })
    }
}
