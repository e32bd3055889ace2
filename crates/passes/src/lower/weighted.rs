//! Convolutions and linear layers on integers.

use octofold_ir::{Graph, NodeId, Op, Patch, PatchValue};
use octofold_ops::bail;
use octofold_ops::families::{Outcome, Product};
use octofold_quant::weights::quantize_bias;
use octofold_quant::{QParams, QuantParams, QuantType};
use octofold_tensor::Tensor;

use crate::fuse::fused_conv;
use crate::lower::params::{dequantized, output_quantization, real_constant, small_integers};
use crate::pattern::{Accepts, Match, Pattern};
use crate::rewrite::{Rewrite, Skip};
use crate::{op, rule, support, symbols};

rule! {
    /// A convolution between dequantized operands and a `QuantizeLinear`.
    pub(super) struct QuantizedConv("quantized-conv") finds Layer
}
rule! {
    /// A convolution of dequantized operands whose result is wanted in float.
    pub(super) struct FloatResultConv("quantized-conv-float-result") finds Layer
}
rule! {
    /// A linear layer between dequantized operands and a `QuantizeLinear`.
    pub(super) struct QuantizedLinear("quantized-linear") finds Layer
}
rule! {
    /// A linear layer of dequantized operands whose result is wanted in float.
    pub(super) struct FloatResultLinear("quantized-linear-float-result") finds Layer
}

symbols! {
    pub(super) struct Layer { layer: NodeId }
}

fn layer(accepts: Accepts) -> Pattern {
    let integers = || Pattern::any().dequantized();
    Pattern::node(accepts, [integers(), integers()]).named("layer")
}

impl Rewrite for QuantizedConv {
    fn pattern(&self) -> Pattern {
        layer(op!(Conv | FusedConv)).quantized()
    }

    fn rewrite(&self, graph: &Graph, found: &Match<Layer>) -> Result<Patch, Skip> {
        lower(graph, found.layer, Some(found.root()))
    }
}

impl Rewrite for FloatResultConv {
    fn pattern(&self) -> Pattern {
        layer(op!(Conv | FusedConv))
    }

    fn rewrite(&self, graph: &Graph, found: &Match<Layer>) -> Result<Patch, Skip> {
        lower(graph, found.layer, None)
    }
}

impl Rewrite for QuantizedLinear {
    fn pattern(&self) -> Pattern {
        layer(op!(FusedLinear)).quantized()
    }

    fn rewrite(&self, graph: &Graph, found: &Match<Layer>) -> Result<Patch, Skip> {
        lower(graph, found.layer, Some(found.root()))
    }
}

impl Rewrite for FloatResultLinear {
    fn pattern(&self) -> Pattern {
        layer(op!(FusedLinear))
    }

    fn rewrite(&self, graph: &Graph, found: &Match<Layer>) -> Result<Patch, Skip> {
        lower(graph, found.layer, None)
    }
}

/// The integer weights of a layer as s8 with zero point 0, and their scale, or their scales along `axis`.
pub(crate) fn weights_around_zero(
    graph: &Graph,
    id: NodeId,
    axis: usize,
) -> Result<(Tensor, Vec<f32>), Skip> {
    let quantized = graph.node(id).weights().and_then(|w| dequantized(graph, w));
    let quantized = quantized.ok_or(Skip::because("the weights have no constant parameters"))?;
    let tensor = graph
        .value(quantized.value)
        .constant()
        .ok_or(Skip::because("the weights are not constant"))?;
    if !matches!(quantized.dtype, QuantType::Int8 | QuantType::Uint8) {
        bail!("{} weights have no integer kernel", quantized.dtype);
    }
    let channels = match &quantized.params {
        QuantParams::PerTensor(params) => vec![*params],
        QuantParams::PerChannel { axis: own, .. } if *own != axis => {
            bail!("the scales of the weights do not belong to the output channels");
        }
        QuantParams::PerChannel { channels, .. } => channels.clone(),
    };
    let tensor = if channels.iter().all(|channel| channel.zero_point == 0)
        && quantized.dtype == QuantType::Int8
    {
        tensor.clone()
    } else {
        without_zero_points(tensor, axis, &channels)?
    };
    Ok((
        tensor,
        channels.iter().map(|channel| channel.scale).collect(),
    ))
}

/// `q - zero point` as s8, which kernels take: always possible for u8 around 128 and for 7-bit weights.
pub(super) fn without_zero_points(
    tensor: &Tensor,
    axis: usize,
    channels: &[QParams],
) -> Result<Tensor, Skip> {
    let integers = small_integers(tensor).ok_or(Skip::NoMatch)?;
    let inner: usize = tensor.shape().iter().skip(axis + 1).product();
    let shifted = integers.iter().enumerate().map(|(index, &q)| {
        let zero_point = channels[index / inner.max(1) % channels.len()].zero_point;
        i8::try_from(q - zero_point).map_err(|_| {
            Skip::because(format!(
                "weights with the zero point {zero_point} that reach {q} do not fit 8 bits without it, and no integer kernel subtracts it"
            ))
        })
    });
    let shifted: Vec<i8> = shifted.collect::<Result<_, _>>()?;
    Ok(Tensor::new(tensor.shape().iter().copied(), shifted)?)
}

/// The bias of a layer with a quantized result: i32 on the scale `s_x·s_w`.
fn integer_bias(
    graph: &Graph,
    id: NodeId,
    x: QParams,
    scales: &[f32],
    channels: usize,
) -> Result<Option<Vec<i32>>, Skip> {
    let Some(bias) = graph.node(id).bias() else {
        return Ok(None);
    };
    let expected = |channel: usize| x.scale * scales[channel % scales.len()];
    if let Some(quantized) = dequantized(graph, bias)
        && quantized.dtype == QuantType::Int32
        && let Some(integers) = graph
            .value(quantized.value)
            .constant()
            .and_then(small_integers)
    {
        let same = (0..integers.len()).all(|channel| {
            // A file may hold the product rounded in another order.
            quantized.params.channel(channel).is_some_and(|params| {
                params.zero_point == 0 && (params.scale / expected(channel) - 1.0).abs() < 1e-5
            })
        });
        if same && integers.len() == channels {
            return Ok(Some(integers));
        }
    }
    let reals = real_constant(graph, bias).ok_or(Skip::because("the bias is not constant"))?;
    let pairs: Vec<QParams> = scales
        .iter()
        .map(|&scale| QParams {
            scale,
            zero_point: 0,
        })
        .collect();
    let params = if let [single] = pairs.as_slice() {
        QuantParams::PerTensor(*single)
    } else {
        QuantParams::PerChannel {
            axis: 0,
            channels: pairs,
        }
    };
    let (integers, _) = quantize_bias(&reals, x.scale, &params)
        .map_err(|error| Skip::because(error.to_string()))?;
    Ok(Some(integers))
}

/// Whether every accumulator fits 32 bits: `255·Σ|w| + |b| < 2^31` a channel.
fn check_accumulator(
    weights: &[i8],
    channel_of: impl Fn(usize) -> usize,
    bias: Option<&[i32]>,
    channels: usize,
) -> Result<(), Skip> {
    let mut bounds: Vec<i64> = (0..channels)
        .map(|c| bias.map_or(0, |bias| i64::from(bias[c]).abs()))
        .collect();
    for (index, &w) in weights.iter().enumerate() {
        bounds[channel_of(index)] += 255 * i64::from(w).abs();
    }
    match bounds.iter().position(|&bound| bound >= 1 << 31) {
        None => Ok(()),
        Some(channel) => bail!("the accumulator of channel {channel} may leave 32 bits"),
    }
}

/// The integer operator for a layer. Its result is quantized when `quantize` is given, and float otherwise.
fn lower(graph: &Graph, id: NodeId, quantize: Option<NodeId>) -> Result<Patch, Skip> {
    let node = graph.node(id);
    let x_value = node.input(0).ok_or(Skip::NoMatch)?;
    let x = dequantized(graph, x_value).ok_or(Skip::because(
        "the parameters of the input are not constant",
    ))?;
    let x_params = x.activation()?;
    let is_conv = !matches!(node.op(), Op::FusedLinear(_));
    let axis = usize::from(!is_conv);
    let (w, scales) = weights_around_zero(graph, id, axis)?;
    let channels = w.shape().get(axis).copied().ok_or(Skip::NoMatch)?;
    if let Some(quantize) = quantize
        && graph.single_use(support::result(graph, id)).is_none()
    {
        let name = graph.node(quantize).name();
        bail!("the result has other readers than `{name}`, so it stays float");
    }
    let mut op = match node.op() {
        Op::Conv(conv) => fused_conv(graph, id, conv)?.into(),
        other => other.clone(),
    };
    let product = match op.product_mut() {
        Some(product) if node.input(3).is_none() => product,
        _ => return Err(Skip::NoMatch),
    };
    let Product::Float(activation) = *product else {
        return Err(Skip::NoMatch);
    };
    let result = match quantize {
        None => Outcome::Float(activation),
        Some(quantize) => Outcome::Bytes(output_quantization(graph, quantize, activation)?),
    };
    let integers = w.values::<i8>()?;
    let inner: usize = w.shape().iter().skip(axis + 1).product();
    let channel_of = |index: usize| index / inner.max(1) % channels.max(1);
    let mut patch = Patch::new();
    let bias_name = node
        .bias()
        .map(|bias| format!("{}_lowered", graph.value(bias).name()));
    let bias: Option<Tensor> = if quantize.is_some() {
        let bias = integer_bias(graph, id, x_params, &scales, channels)?;
        check_accumulator(integers, channel_of, bias.as_deref(), channels)?;
        bias.map(Tensor::vector)
    } else {
        check_accumulator(integers, channel_of, None, channels)?;
        let reals = node.bias().map(|bias| {
            real_constant(graph, bias).ok_or(Skip::because("the bias is not constant"))
        });
        reals.transpose()?.map(Tensor::vector)
    };
    let w_name = node.weights().map_or("weights", |w| graph.value(w).name());
    let w = patch.constant(format!("{w_name}_lowered"), w);
    let mut inputs: Vec<Option<PatchValue>> = vec![Some(x.value.into()), Some(w)];
    if let Some(bias) = bias {
        inputs.push(Some(patch.constant(bias_name.unwrap_or_default(), bias)));
    }
    *product = Product::integer(x_params, scales, result);
    Ok(match quantize {
        Some(quantize) => patch.fuse_with_next(graph, id, quantize, op, inputs),
        None => patch.replace_op(graph, id, op, inputs),
    })
}
