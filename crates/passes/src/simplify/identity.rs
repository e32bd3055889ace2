//! Nodes that change nothing, and pairs that undo each other.

use octofold_ir::{Graph, Op, Patch, ValueId};
use octofold_ops::families::{Reshape, Transpose};

use crate::op;
use crate::pass::{Pass, PassError, PassReport};
use crate::pattern::{Match, Pattern};
use crate::rewrite::{Rewrite, Skip, apply_rewrites, sources_of};
use crate::support;

/// Removes nodes that change nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct EliminateIdentities;

impl Pass for EliminateIdentities {
    fn name(&self) -> &'static str {
        "eliminate-identities"
    }

    fn run(&self, graph: &mut Graph) -> Result<PassReport, PassError> {
        apply_rewrites(
            graph,
            self.name(),
            &[
                &NoOperation,
                &NeutralOperand,
                &MergeReshapes,
                &MergeTransposes,
            ],
        )
    }
}

/// Operators that give their first operand, by their nature or by their attributes.
struct NoOperation;

impl Rewrite for NoOperation {
    fn name(&self) -> &'static str {
        "no-operation"
    }

    fn pattern(&self) -> Pattern {
        Pattern::node(
            "node",
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

    fn rewrite(&self, graph: &Graph, found: &Match) -> Result<Patch, Skip> {
        let id = found.node("node");
        let node = graph.node(id);
        let x = found.value("x").ok_or(Skip::NoMatch)?;
        let y = support::result(graph, id);
        let zero = |slot: usize| {
            node.input(slot)
                .and_then(|value| support::integers(graph, value))
                .is_some_and(|pads| pads.iter().all(|&pad| pad == 0))
        };
        let nothing = match node.op() {
            Op::Identity(_) => true,
            // At inference; the mask, a second result, is all true and must be unused.
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
            Op::Cast(cast) => cast.to == graph.value(x).ty().dtype,
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
            // These keep the elements and their order, so the shape tells all.
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
        let mut patch = Patch::new();
        patch.replace(y, x);
        patch.remove(id);
        Ok(patch)
    }
}

fn same_shape(graph: &Graph, a: ValueId, b: ValueId) -> bool {
    let (a, b) = (graph.value(a).ty(), graph.value(b).ty());
    a.shape.is_some() && a.shape == b.shape
}

/// `x + 0`, `x - 0`, `x · 1`, `x / 1`, where the constant does not widen the shape.
struct NeutralOperand;

impl Rewrite for NeutralOperand {
    fn name(&self) -> &'static str {
        "neutral-operand"
    }

    fn pattern(&self) -> Pattern {
        Pattern::AnyOf(vec![
            Pattern::commutative(
                "node",
                op!(Add | Mul),
                Pattern::value("x"),
                Pattern::constant("c"),
            ),
            Pattern::node(
                "node",
                op!(Sub | Div),
                [Pattern::value("x"), Pattern::constant("c")],
            ),
        ])
    }

    fn rewrite(&self, graph: &Graph, found: &Match) -> Result<Patch, Skip> {
        let id = found.node("node");
        let (Some(x), Some(c)) = (found.value("x"), found.value("c")) else {
            return Err(Skip::NoMatch);
        };
        let neutral = match graph.node(id).op() {
            Op::Add(_) | Op::Sub(_) => 0.0,
            _ => 1.0,
        };
        let all_neutral = support::floats(graph, c)
            .is_some_and(|values| values.iter().all(|&value| value == neutral));
        if !all_neutral || !same_shape(graph, x, support::result(graph, id)) {
            return Err(Skip::NoMatch);
        }
        Ok(support::replace_node(graph, id, x))
    }
}

/// A reshape of a reshape: only the last shape matters.
struct MergeReshapes;

impl Rewrite for MergeReshapes {
    fn name(&self) -> &'static str {
        "merge-reshapes"
    }

    fn pattern(&self) -> Pattern {
        let inner = Pattern::node(
            "inner",
            op!(Reshape | Flatten | Squeeze | Unsqueeze),
            [Pattern::value("x")],
        );
        Pattern::node("outer", op!(Reshape), [inner, Pattern::constant("shape")])
    }

    fn rewrite(&self, graph: &Graph, found: &Match) -> Result<Patch, Skip> {
        let (outer, inner) = (found.node("outer"), found.node("inner"));
        let shape = found.value("shape").ok_or(Skip::NoMatch)?;
        let sizes = support::integers(graph, shape).ok_or(Skip::NoMatch)?;
        // A 0 copies a size of the operand, which is another one after the merge.
        if sizes.contains(&0)
            || matches!(graph.node(outer).op(), Op::Reshape(reshape) if reshape.allowzero)
        {
            return Err(Skip::NoMatch);
        }
        let middle = support::result(graph, inner);
        if graph.single_use(middle).is_none() {
            return Err(Skip::NoMatch);
        }
        let x = found.value("x").ok_or(Skip::NoMatch)?;
        let mut patch = Patch::new();
        let sources = sources_of(graph, found.nodes().rev());
        let merged = patch.node(
            graph.node(outer).name(),
            Reshape { allowzero: false },
            [Some(x.into()), Some(shape.into())],
            sources,
        );
        patch.replace(support::result(graph, outer), merged);
        patch.remove(outer);
        patch.remove(inner);
        Ok(patch)
    }
}

/// A transpose of a transpose is one transpose.
struct MergeTransposes;

impl Rewrite for MergeTransposes {
    fn name(&self) -> &'static str {
        "merge-transposes"
    }

    fn pattern(&self) -> Pattern {
        Pattern::node(
            "outer",
            op!(Transpose),
            [Pattern::node(
                "inner",
                op!(Transpose),
                [Pattern::value("x")],
            )],
        )
    }

    fn rewrite(&self, graph: &Graph, found: &Match) -> Result<Patch, Skip> {
        let (outer, inner) = (found.node("outer"), found.node("inner"));
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
        let x = found.value("x").ok_or(Skip::NoMatch)?;
        let y = support::result(graph, outer);
        // The inner transpose may have other readers; it goes when it has none.
        let alone = graph.single_use(support::result(graph, inner)).is_some();
        let mut patch = Patch::new();
        if perm.iter().enumerate().all(|(i, &axis)| axis == i as i64) {
            patch.replace(y, x);
        } else {
            let sources = if alone {
                sources_of(graph, [inner, outer])
            } else {
                sources_of(graph, [outer])
            };
            let merged = patch.node(
                graph.node(outer).name(),
                Transpose { perm },
                [Some(x.into())],
                sources,
            );
            patch.replace(y, merged);
        }
        patch.remove(outer);
        if alone {
            patch.remove(inner);
        }
        Ok(patch)
    }
}
