//! Activation functions that exporters spell out: HardSwish, Swish, GELU, Softplus and Mish become the operators of these names.
//!
//! The rules are part of [`Canonicalize`](super::Canonicalize). A value in between with another reader keeps the spelled form.

use octofold_ir::{Graph, Op, Patch, ValueId};
use octofold_ops::families::{Gelu, GeluApproximation, HardSwish, Mish, Softplus, Swish};

use crate::pattern::{Match, Pattern};
use crate::rewrite::{Rewrite, Skip};
use crate::{op, rule, support, symbols};

symbols! {
    pub(super) struct Argument { x: ValueId }
}

fn x() -> Pattern {
    Pattern::value("x")
}

/// Replaces all nodes of a match by one function of `x`, where no constant of them widens its shape.
fn pointwise<S>(
    graph: &Graph,
    found: &Match<S>,
    x: ValueId,
    op: impl Into<Op>,
) -> Result<Patch, Skip>
where
    S: crate::pattern::Symbols,
{
    let shape = |value: ValueId| &graph.value(value).ty().shape;
    if shape(x) != shape(support::result(graph, found.root())) {
        return Err(Skip::NoMatch);
    }
    Ok(found.replace_by(graph, op, [Some(x.into())]))
}

/// Declares rules for functions of `x`: the rule, the pattern of the spelled form, and the operator of that name.
macro_rules! spelled {
    ($($(#[$meta:meta])* $rule:ident($name:literal): $pattern:ident => $op:expr;)*) => {$(
        rule! {
            $(#[$meta])*
            pub(super) struct $rule($name) finds Argument
        }

        impl Rewrite for $rule {
            fn pattern(&self) -> Pattern {
                $pattern()
            }

            fn rewrite(&self, graph: &Graph, found: &Match<Argument>) -> Result<Patch, Skip> {
                pointwise(graph, found, found.x, $op)
            }
        }
    )*};
}

spelled! {
    /// `x · HardSigmoid(x)` with slope 1/6, and `x · Clip(x + 3, 0, 6) / 6`.
    HardSwishForm("hard-swish"): hard_swish => HardSwish {};
    /// `x/2 · (1 + erf(x/√2))`.
    GeluForm("gelu"): gelu => Gelu { approximate: GeluApproximation::None };
    /// `x/2 · (1 + tanh(√(2/π)·(x + 0.044715·x³)))`, also with `x·(1 + 0.044715·x²)`.
    GeluTanhForm("gelu-tanh"): gelu_tanh => Gelu { approximate: GeluApproximation::Tanh };
    /// `ln(1 + e^x)`.
    SoftplusForm("softplus"): softplus => Softplus {};
    /// `x · tanh(softplus(x))`.
    MishForm("mish"): mish => Mish {};
}

fn is_hard_sigmoid_by_sixths(op: &Op) -> bool {
    let close = |a: f32, b: f32| (a - b).abs() < 1e-6;
    matches!(op, Op::HardSigmoid(op) if close(op.alpha, 1.0 / 6.0) && close(op.beta, 0.5))
}

fn hard_swish() -> Pattern {
    let clipped = || (x() + 3.0).clip(0.0, 6.0);
    let sigmoid = Pattern::node(is_hard_sigmoid_by_sixths, [x()]);
    Pattern::any_of([
        x() * sigmoid,
        x() * (clipped() / 6.0),
        x() * clipped() / 6.0,
    ])
}

/// `x/2 · sum`, with the half in each place.
fn half_product(sum: &Pattern) -> Pattern {
    let half = |value: Pattern| Pattern::any_of([value.clone() * 0.5, value / 2.0]);
    Pattern::any_of([
        half(x() * sum.clone()),
        half(x()) * sum.clone(),
        x() * half(sum.clone()),
    ])
}

fn gelu() -> Pattern {
    let argument = Pattern::any_of([
        x() / std::f32::consts::SQRT_2,
        x() * std::f32::consts::FRAC_1_SQRT_2,
    ]);
    half_product(&(Pattern::node(op!(Erf), [argument]) + 1.0))
}

fn gelu_tanh() -> Pattern {
    /// √(2/π).
    const ROOT: f32 = 0.797_884_6;
    const CUBIC: f32 = 0.044_715;
    let power = |exponent: f32| Pattern::node(op!(Pow), [x(), exponent.into()]);
    let square = || Pattern::any_of([power(2.0), x() * x()]);
    let cube = Pattern::any_of([power(3.0), x() * square()]);
    let bend = Pattern::any_of([square() * CUBIC, x() * CUBIC * x()]) + 1.0;
    let argument = Pattern::any_of([
        (x() + cube * CUBIC) * ROOT,
        x() * ROOT * bend.clone(),
        x() * bend.clone() * ROOT,
        x() * (bend * ROOT),
    ]);
    half_product(&(Pattern::node(op!(Tanh), [argument]) + 1.0))
}

fn softplus() -> Pattern {
    Pattern::node(op!(Log), [Pattern::node(op!(Exp), [x()]) + 1.0])
}

fn mish() -> Pattern {
    let softplus = Pattern::node(op!(Softplus), [x()]);
    x() * Pattern::node(op!(Tanh), [softplus])
}

rule! {
    /// `x · sigmoid(x)`, and `x · sigmoid(factor · x)`.
    pub(super) struct SwishForm("swish") finds Scaled { x: ValueId, factor: Option<ValueId> }
}

impl Rewrite for SwishForm {
    fn pattern(&self) -> Pattern {
        let scaled = x() * Pattern::constant("factor");
        Pattern::any_of([x() * x().sigmoid(), x() * scaled.sigmoid()])
    }

    fn rewrite(&self, graph: &Graph, found: &Match<Scaled>) -> Result<Patch, Skip> {
        let alpha = match found.factor {
            None => 1.0,
            Some(factor) => support::scalar(graph, factor)
                .ok_or(Skip::because("the factor of the sigmoid is not one number"))?,
        };
        pointwise(graph, found, found.x, Swish { alpha })
    }
}
