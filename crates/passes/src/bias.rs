//! Bias correction: subtracts the mean error that quantized weights cause from the bias.
//!
//! Rounding moves the mean of each output channel, since errors of weights do not average out over inputs that are all positive. A layer is linear in
//! its weights and in its input, borders included, hence exactly (Nagel et al. 2019, "Data-Free Quantization Through Weight Equalization and Bias
//! Correction", arXiv 1906.04721, section 4.2)
//!
//! ```text
//! E[layer(x, Ŵ)] - E[layer(x, W)] = layer(E[x], Ŵ - W)
//! ```
//!
//! The paper finds `E[x]` from batch norms; here it is observed on calibration data, as an image of its own for each layer. The bias is one number
//! a channel, so the error is averaged over positions. Errors of the quantized activations, and what the layers before do to the mean in the
//! quantized model, are not corrected.

use indexmap::IndexMap;
use octofold_ir::{Graph, NodeId, Op, Patch, Use};
use octofold_ops::families::{FusedConv, Layout, Product};
use octofold_ops::{Inputs, Operator, map_parallel};
use octofold_quant::QuantParams;
use octofold_quant::affine::dequantize;
use octofold_quant::weights::QuantizedWeights;
use octofold_tensor::Tensor;

use crate::annotate::Annotations;
use crate::convert::{Convert, Statistics};
use crate::fuse::bias_name;
use crate::pass::{Pass, PassError, PassReport};
use crate::rewrite::Rewriter;
use crate::support;

/// The rule's name in reports.
const RULE: &str = "correct-bias";

/// Corrects the float biases of quantized layers by the mean error that their quantized weights cause. [`Convert`] comes afterwards,
/// with the same annotations and statistics: no node and no activation gets another id.
///
/// Source: Nagel et al. 2019, arXiv 1906.04721, section 4.2.
#[derive(Clone, Copy, Debug)]
pub struct CorrectBiases<'a> {
    /// The decisions to follow; they must be of the same graph.
    pub annotations: &'a Annotations,
    /// What calibration observed.
    pub statistics: &'a Statistics,
    /// By the name of a layer's input, its mean over all samples: `[1, C, H, W]`, or `[1, …, K]` for a linear layer.
    pub means: &'a IndexMap<String, Tensor>,
}

/// A layer's new bias, or why it keeps its old one.
enum Correction {
    Bias { values: Vec<f32>, largest: f64 },
    Skipped(String),
}

impl Pass for CorrectBiases<'_> {
    fn name(&self) -> &'static str {
        "correct-biases"
    }

    fn enters_bodies(&self) -> bool {
        false
    }

    fn run(&self, graph: &mut Graph, rewriter: &mut Rewriter) -> Result<(), PassError> {
        let convert = Convert {
            annotations: self.annotations,
            statistics: self.statistics,
        };
        let params = convert.parameters(graph)?;
        let layers = convert.quantize_layers(graph, &params)?;
        let corrections = map_parallel(&layers, |layer| {
            let correction = self.correction(graph, layer.node, &layer.weights);
            correction.unwrap_or_else(Correction::Skipped)
        });
        let mut report = PassReport::default();
        let mut patch = Patch::new();
        for (layer, correction) in layers.iter().zip(corrections) {
            let id = layer.node;
            let name = graph.node(id).name();
            match correction {
                Correction::Skipped(reason) => report.skipped(RULE, name, reason),
                Correction::Bias { values, largest } => {
                    let count = values.len();
                    let name_of = |slot| Some(graph.value(graph.node(id).input(slot)?).name());
                    let new = match name_of(2) {
                        Some(old) => format!("{old}_corrected"),
                        None => bias_name(name_of(1).unwrap_or(name)),
                    };
                    let bias = patch.constant(new, Tensor::vector(values));
                    patch.rewire(Use { node: id, slot: 2 }, bias);
                    let text = format!("{count} channels, the largest correction is {largest:.3e}");
                    report.applied(RULE, name, text);
                }
            }
        }
        rewriter.apply_reported(graph, patch, report)?;
        graph.sweep_constants();
        Ok(())
    }
}

impl CorrectBiases<'_> {
    /// The corrected bias of a layer; the error is the reason why there is none.
    fn correction(
        &self,
        graph: &Graph,
        id: NodeId,
        quantized: &QuantizedWeights,
    ) -> Result<Correction, String> {
        let node = graph.node(id);
        let x = node.input(0).ok_or("it has no input")?;
        if graph.value(x).constant().is_some() {
            return Err("its input is constant".to_owned());
        }
        let name = graph.value(x).name();
        let mean = self.means.get(name).ok_or_else(|| {
            format!(
                "`{name}` has no mean: its shape differs between samples, or it was not observed"
            )
        })?;
        let w = node.weights().ok_or("it has no weights")?;
        let weights = support::floats(graph, w).ok_or("its weights are no f32 constant")?;
        let shape = graph
            .value(w)
            .ty()
            .known_shape()
            .ok_or("its weights have no shape")?;
        let error = weight_error(weights, &shape, quantized)?;
        let shifts = mean_result(node.op(), mean, &error)?;
        let old = match node.bias() {
            None => vec![0.0; shifts.len()],
            Some(bias) => support::floats(graph, bias)
                .ok_or("its bias is no f32 constant")?
                .to_vec(),
        };
        if old.len() != shifts.len() {
            return Err("it has not one bias a channel".to_owned());
        }
        let largest = shifts
            .iter()
            .fold(0.0_f64, |largest, x| largest.max(x.abs()));
        if largest == 0.0 {
            return Err("its quantized weights cause no mean error".to_owned());
        }
        let corrected = old.iter().zip(&shifts);
        let values: Vec<f32> = corrected
            .map(|(&old, shift)| (f64::from(old) - shift) as f32)
            .collect();
        if values.iter().any(|x| !x.is_finite()) {
            return Err("the corrected bias is not finite".to_owned());
        }
        Ok(Correction::Bias { values, largest })
    }
}

/// `Ŵ - W`.
fn weight_error(
    weights: &[f32],
    shape: &[usize],
    quantized: &QuantizedWeights,
) -> Result<Tensor, String> {
    let (channels, inner) = match quantized.params {
        QuantParams::PerTensor(_) => (1, weights.len().max(1)),
        QuantParams::PerChannel { axis, .. } => {
            let channels = *shape.get(axis).ok_or("its scales have no axis")?;
            (
                channels.max(1),
                shape[axis + 1..].iter().product::<usize>().max(1),
            )
        }
    };
    let values = weights.iter().zip(quantized.values.iter()).enumerate();
    let values: Option<Vec<f32>> = values
        .map(|(index, (&w, &q))| {
            let params = quantized.params.channel(index / inner % channels)?;
            let error = f64::from(dequantize(i32::from(q), params)) - f64::from(w);
            Some(error as f32)
        })
        .collect();
    let values = values.ok_or("its weights lack a scale")?;
    Tensor::new(shape.iter().copied(), values).map_err(|error| error.to_string())
}

/// What a layer without bias and activation computes, averaged for each output channel.
fn mean_result(op: &Op, x: &Tensor, w: &Tensor) -> Result<Vec<f64>, String> {
    let operands = [Some(x), Some(w)];
    let inputs = Inputs(&operands);
    let (result, last) = match op {
        Op::Conv(conv) => (conv.evaluate(inputs, 1), false),
        Op::FusedConv(conv) if conv.layout == Layout::Nchw && conv.product.is_float() => {
            let conv = FusedConv {
                product: Product::default(),
                ..conv.clone()
            };
            (conv.evaluate(inputs, 1), false)
        }
        Op::FusedLinear(linear) if linear.product.is_float() => {
            (support::float_linear().evaluate(inputs, 1), true)
        }
        other => {
            return Err(format!(
                "biases of `{}` are not corrected here",
                other.name()
            ));
        }
    };
    let result = result.map_err(|error| error.to_string())?;
    let result = result.first().ok_or("it has no result")?;
    let values = result.values::<f32>().map_err(|error| error.to_string())?;
    let axis = if last {
        result.rank().checked_sub(1)
    } else {
        Some(1)
    };
    let axis = axis.filter(|&axis| axis < result.rank() && !values.is_empty());
    let axis = axis.ok_or("its result on the mean input is empty")?;
    let channels = result.shape()[axis];
    let inner: usize = result.shape()[axis + 1..].iter().product();
    let mut sums = vec![0.0_f64; channels];
    for (index, &value) in values.iter().enumerate() {
        sums[index / inner % channels] += f64::from(value);
    }
    let count = (values.len() / channels) as f64;
    Ok(sums.into_iter().map(|sum| sum / count).collect())
}
