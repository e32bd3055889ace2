//! Affine functions of the channels, folded into the weights before them.
//!
//! `y = k·conv(x, W, b) + t = conv(x, k·W, k·b + t)` with one `k` and one `t` an output channel. A batch norm has
//! `k = γ/√(σ² + ε)` and `t = β - k·μ`; a product with a constant has `t = 0`, a sum with one `k = 1`. The arithmetic is done in f64 and
//! rounded once.

use octofold_ir::{Graph, NodeId, Op, Patch, PatchValue, ValueId};
use octofold_ops::bail;
use octofold_ops::families::Product;
use octofold_tensor::Tensor;

use crate::lower::real_constant;
use crate::pass::{Pass, PassError};
use crate::pattern::{Match, Pattern};
use crate::rewrite::{Rewrite, Rewriter, Scope, Skip};
use crate::{op, rule, support};

/// Folds batch norms, products and sums with constants into convolutions and linear layers.
#[derive(Clone, Copy, Default)]
pub struct FuseAffine<'a> {
    /// The fusions to apply; `None` for all.
    pub scope: Option<&'a dyn Scope>,
}

impl Pass for FuseAffine<'_> {
    fn name(&self) -> &'static str {
        "fuse-affine"
    }

    fn run(&self, graph: &mut Graph, rewriter: &mut Rewriter) -> Result<(), PassError> {
        rewriter.apply_rules_within(graph, &[&FoldBatchNorm, &FoldScaleOrShift], self.scope)
    }
}

/// The factor and the summand of each channel.
pub(super) struct Affine {
    pub(super) scale: Vec<f64>,
    pub(super) shift: Vec<f64>,
}

/// Reads the affine function of a batch norm at inference.
pub(super) fn batch_norm(graph: &Graph, id: NodeId) -> Result<Affine, Skip> {
    let node = graph.node(id);
    let Op::BatchNormalization(op) = node.op() else {
        return Err(Skip::NoMatch);
    };
    if op.training_mode {
        bail!("the batch norm is in training mode");
    }
    let statistic = |slot: usize| {
        let values = node
            .input(slot)
            .and_then(|value| real_constant(graph, value));
        values.ok_or(Skip::because(
            "the statistics of the batch norm are not f32 constants",
        ))
    };
    let (gamma, beta, mean, variance) =
        (statistic(1)?, statistic(2)?, statistic(3)?, statistic(4)?);
    let scale: Vec<f64> = gamma
        .into_iter()
        .zip(variance)
        .map(|(gamma, variance)| {
            f64::from(gamma) / (f64::from(variance) + f64::from(op.epsilon)).sqrt()
        })
        .collect();
    let shift = beta
        .into_iter()
        .zip(mean)
        .zip(&scale)
        .map(|((beta, mean), scale)| f64::from(beta) - f64::from(mean) * scale)
        .collect();
    if scale.iter().any(|k| !k.is_finite()) {
        bail!("the batch norm divides by zero");
    }
    Ok(Affine { scale, shift })
}

/// An operator with weights into which an affine function can be folded.
fn weighted() -> Pattern {
    let operands = [Pattern::any(), Pattern::any_constant()];
    Pattern::node(op!(Conv | ConvTranspose | FusedLinear), operands).named("weighted")
}

/// The number of output channels of a node with weights, and the axis of the weights that holds them within a group.
fn output_channels(graph: &Graph, id: NodeId) -> Option<(usize, usize, usize)> {
    let weights = support::operand_type(graph, id, 1)?.known_shape()?;
    match graph.node(id).op() {
        Op::Conv(_) => Some((*weights.first()?, 0, 1)),
        Op::ConvTranspose(op) => {
            let groups = usize::try_from(op.group).ok()?;
            Some((weights.get(1)?.checked_mul(groups)?, 1, groups))
        }
        Op::FusedLinear(op) if op.product == Product::default() => Some((*weights.get(1)?, 1, 1)),
        _ => None,
    }
}

/// The weighted node with `affine` folded into it, in place of `last`.
fn fold(graph: &Graph, id: NodeId, last: NodeId, affine: &Affine) -> Result<Patch, Skip> {
    let node = graph.node(id);
    let (channels, axis, groups) = output_channels(graph, id).ok_or(Skip::NoMatch)?;
    if affine.scale.len() != channels {
        bail!("{} factors for {channels} channels", affine.scale.len());
    }
    let (Some(w), bias) = (node.weights(), node.bias()) else {
        return Err(Skip::NoMatch);
    };
    let weights = support::floats(graph, w).ok_or(Skip::because("the weights are not f32"))?;
    let shape = graph.value(w).ty().known_shape().ok_or(Skip::NoMatch)?;
    let inner: usize = shape[axis + 1..].iter().product();
    let group_inputs = if groups > 1 {
        shape[0] / groups
    } else {
        usize::MAX
    };
    // In a transposed convolution the output channel also depends on the group, that is, on the input channel.
    let channel_of = |i: usize| {
        let within = i / inner % shape[axis];
        let group = if groups > 1 {
            i / (inner * shape[axis]) / group_inputs
        } else {
            0
        };
        group * shape[axis] + within
    };
    let folded: Vec<f32> = weights
        .iter()
        .enumerate()
        .map(|(i, &x)| (f64::from(x) * affine.scale[channel_of(i)]) as f32)
        .collect();
    let old_bias = match bias {
        None => vec![0.0; channels],
        Some(bias) => support::floats(graph, bias)
            .ok_or(Skip::because("the bias is not constant"))?
            .to_vec(),
    };
    if old_bias.len() != channels {
        return Err(Skip::NoMatch);
    }
    let new_bias: Vec<f32> = (0..channels)
        .map(|c| (f64::from(old_bias[c]) * affine.scale[c] + affine.shift[c]) as f32)
        .collect();
    if folded.iter().chain(&new_bias).any(|x| !x.is_finite()) {
        bail!("the folded weights overflow");
    }
    let mut patch = Patch::new();
    let w_name = graph.value(w).name();
    let weights = if affine.scale.iter().all(|&k| k == 1.0) {
        w.into()
    } else {
        patch.constant(w_name, support::float_tensor(&shape, folded)?)
    };
    let bias_name = bias.map_or_else(
        || bias_name(w_name),
        |bias| graph.value(bias).name().to_owned(),
    );
    let bias = patch.constant(bias_name, Tensor::vector(new_bias));
    let inputs = [
        node.input(0).map(PatchValue::Existing),
        Some(weights),
        Some(bias),
    ];
    Ok(patch.fuse(graph, &[id, last], node.op().clone(), inputs))
}

/// `layer1.conv.weight` has the bias `layer1.conv.bias`.
pub(crate) fn bias_name(weight: &str) -> String {
    match weight.strip_suffix("weight") {
        Some(stem) => format!("{stem}bias"),
        None => format!("{weight}.bias"),
    }
}

rule! {
    struct FoldBatchNorm("fold-batch-norm") finds Normalized { weighted: NodeId }
}

impl Rewrite for FoldBatchNorm {
    fn pattern(&self) -> Pattern {
        Pattern::node(op!(BatchNormalization), [weighted()])
    }

    fn rewrite(&self, graph: &Graph, found: &Match<Normalized>) -> Result<Patch, Skip> {
        let (norm, id) = (found.root(), found.weighted);
        // The channels of a batch norm are axis 1, those of a linear layer the last axis.
        let matrix = support::operand_rank(graph, norm) == Some(2);
        if matches!(graph.node(id).op(), Op::FusedLinear(_)) && !matrix {
            bail!("the batch norm's channels are not the layer's columns");
        }
        fold(graph, id, norm, &batch_norm(graph, norm)?)
    }
}

rule! {
    struct FoldScaleOrShift("fold-scale-or-shift") finds ScaledOrShifted { weighted: NodeId, c: ValueId }
}

impl Rewrite for FoldScaleOrShift {
    fn pattern(&self) -> Pattern {
        let c = || Pattern::constant("c");
        Pattern::any_of([
            weighted() + c(),
            weighted() * c(),
            weighted() - c(),
            weighted() / c(),
        ])
    }

    fn rewrite(&self, graph: &Graph, found: &Match<ScaledOrShifted>) -> Result<Patch, Skip> {
        let (id, last, c) = (found.weighted, found.root(), found.c);
        let (channels, ..) = output_channels(graph, id).ok_or(Skip::NoMatch)?;
        let rank = support::rank(graph, support::result(graph, id)).ok_or(Skip::NoMatch)?;
        let constants = if matches!(graph.node(id).op(), Op::FusedLinear(_)) {
            // The channels are the last axis: a rank-2 view puts them where the helper looks.
            support::rank(graph, c)
                .filter(|&c| c <= 1)
                .and_then(|_| support::per_channel(graph, c, 2, channels))
        } else {
            support::per_channel(graph, c, rank, channels)
        };
        let constants =
            constants.ok_or(Skip::because("the constant is not one element a channel"))?;
        let constants: Vec<f64> = constants.into_iter().map(f64::from).collect();
        let (ones, zeros) = (vec![1.0; channels], vec![0.0; channels]);
        let affine = match graph.node(last).op() {
            Op::Add(_) => Affine {
                scale: ones,
                shift: constants,
            },
            Op::Sub(_) => Affine {
                scale: ones,
                shift: constants.iter().map(|c| -c).collect(),
            },
            Op::Mul(_) => Affine {
                scale: constants,
                shift: zeros,
            },
            Op::Div(_) if constants.iter().all(|&c| c != 0.0) => Affine {
                scale: constants.iter().map(|c| 1.0 / c).collect(),
                shift: zeros,
            },
            _ => return Err(Skip::NoMatch),
        };
        fold(graph, id, last, &affine)
    }
}
