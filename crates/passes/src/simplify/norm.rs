//! Layer norms that exporters spell out become `LayerNormalization`.
//!
//! `d / √(mean(d²) + ε) · g + b` with `d = x - mean(x)`, the means over the same last axes. The square may be a power or a product, and the division a product with
//! a reciprocal or a power of -1/2; the scale and the bias may be absent.

use octofold_ir::{Graph, NodeId, Op, Patch, PatchValue, ValueId};
use octofold_ops::families::LayerNormalization;
use octofold_ops::normalize_axis;
use octofold_tensor::DType;

use crate::pass::rule_pass;
use crate::pattern::{Match, Pattern};
use crate::rewrite::{Rewrite, Skip};
use crate::{op, rule, support};

rule_pass! {
    /// Makes layer norms that are spelled out one operator.
    pub struct RecognizeNorms("recognize-norms") = [SpelledLayerNorm];
}

rule! {
    /// `d / √(mean(d²) + ε) · g + b`, where the rule reads `d = x - mean(x)` itself.
    struct SpelledLayerNorm("spelled-layer-norm") finds Spelled {
        difference: ValueId,
        variance: NodeId,
        epsilon: ValueId,
        scale: Option<ValueId>,
        bias: Option<ValueId>,
    }
}

/// `d / √(mean(d²) + ε)`.
fn normalized() -> Pattern {
    let difference = || Pattern::value("difference");
    let squares = Pattern::any_of([
        Pattern::node(op!(Pow), [difference(), Pattern::number(2.0)]),
        difference() * difference(),
    ]);
    let variance = Pattern::node(op!(ReduceMean), [squares]).named("variance");
    let sum = || variance.clone() + Pattern::constant("epsilon");
    let power = |exponent: f32| Pattern::node(op!(Pow), [sum(), Pattern::number(exponent)]);
    let root = || Pattern::any_of([Pattern::node(op!(Sqrt), [sum()]), power(0.5)]);
    let inverse = Pattern::any_of([
        Pattern::node(op!(Reciprocal), [root()]),
        Pattern::number(1.0) / root(),
        power(-0.5),
    ]);
    Pattern::any_of([difference() / root(), difference() * inverse])
}

impl Rewrite for SpelledLayerNorm {
    fn pattern(&self) -> Pattern {
        let scaled = || normalized() * Pattern::constant("scale");
        Pattern::any_of([scaled() + Pattern::constant("bias"), scaled(), normalized()])
    }

    fn rewrite(&self, graph: &Graph, found: &Match<Spelled>) -> Result<Patch, Skip> {
        let (x, subtraction, mean) = difference(graph, found.difference).ok_or(Skip::NoMatch)?;
        let dims = graph.value(x).ty().shape.as_ref();
        let dims = dims.ok_or(Skip::because("the shape is not known"))?;
        let axis = first_axis(graph, mean, dims.len())?;
        if first_axis(graph, found.variance, dims.len())? != axis {
            return Err(Skip::because("mean and variance are over different axes"));
        }
        if support::dtype(graph, x) != DType::F32 {
            return Err(Skip::because("it is not f32"));
        }
        let row = dims[axis..].iter();
        let row = row.map(|dim| usize::try_from(dim.known()?).ok());
        let row: Option<Vec<usize>> = row.collect();
        let row = row.ok_or(Skip::because("the size of a row is not known"))?;
        let epsilon = support::scalar(graph, found.epsilon)
            .ok_or(Skip::because("the epsilon is not one number"))?;
        let mut patch = Patch::new();
        let name = graph.node(found.root()).name();
        let scale = match found.scale {
            Some(scale) => parameter(graph, scale, &row, &mut patch)?,
            None => {
                let ones = vec![1.0; row.iter().product()];
                patch.constant(format!("{name}.scale"), support::float_tensor(&row, ones)?)
            }
        };
        let bias = found
            .bias
            .map(|bias| parameter(graph, bias, &row, &mut patch));
        let op = LayerNormalization {
            axis: axis as i64,
            epsilon,
            stash_type: 1,
        };
        let operands = [Some(x.into()), Some(scale), bias.transpose()?];
        let sources = graph.sources_of([mean, subtraction].into_iter().chain(found.nodes().rev()));
        let made = patch.node(name, op, operands, sources);
        patch.replace(support::result(graph, found.root()), made);
        found.nodes().for_each(|node| patch.remove(node));
        Ok(patch)
    }
}

/// `x`, the subtraction and the mean of `x - mean(x)`.
fn difference(graph: &Graph, value: ValueId) -> Option<(ValueId, NodeId, NodeId)> {
    let subtraction = graph.value(value).producer()?;
    let node = graph.node(subtraction);
    let (x, mean) = (node.input(0)?, graph.value(node.input(1)?).producer()?);
    let is_difference = matches!(node.op(), Op::Sub(_))
        && matches!(graph.node(mean).op(), Op::ReduceMean(_))
        && graph.node(mean).input(0) == Some(x);
    is_difference.then_some((x, subtraction, mean))
}

/// The first of the axes of a mean, which are the last ones of a value of this rank.
fn first_axis(graph: &Graph, id: NodeId, rank: usize) -> Result<usize, Skip> {
    let node = graph.node(id);
    let Op::ReduceMean(op) = node.op() else {
        return Err(Skip::NoMatch);
    };
    let axes = match node.input(1) {
        None => Vec::new(),
        Some(axes) => {
            support::integers(graph, axes).ok_or(Skip::because("the axes are computed"))?
        }
    };
    let mut axes = match axes.as_slice() {
        [] if !op.noop_with_empty_axes => (0..rank).collect(),
        axes => (axes.iter())
            .map(|&axis| normalize_axis(axis, rank))
            .collect::<Result<Vec<_>, _>>()?,
    };
    axes.sort_unstable();
    let first = *axes.first().ok_or(Skip::NoMatch)?;
    if !op.keepdims || !axes.iter().copied().eq(first..rank) {
        return Err(Skip::because("a mean is not over the last axes"));
    }
    Ok(first)
}

/// A scale or bias with one number for each element of a row.
fn parameter(
    graph: &Graph,
    value: ValueId,
    row: &[usize],
    patch: &mut Patch,
) -> Result<PatchValue, Skip> {
    let constant = graph.value(value).constant().ok_or(Skip::NoMatch)?;
    let shape = constant.shape();
    let extra = shape.len().saturating_sub(row.len());
    if shape[extra..] == *row && shape[..extra].iter().all(|&size| size == 1) {
        return Ok(value.into());
    }
    let number = support::scalar(graph, value);
    let number = number.ok_or(Skip::because(
        "a scale or bias is not one number for each element of a row",
    ))?;
    let numbers = support::float_tensor(row, vec![number; row.iter().product()])?;
    Ok(patch.constant(graph.value(value).name(), numbers))
}
