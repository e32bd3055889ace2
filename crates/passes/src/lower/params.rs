//! Reading quantization parameters from the nodes of a QDQ graph.

use octofold_ir::{Graph, NodeId, Op, ValueId};
use octofold_ops::families::{Activation, OutputQuantization};
use octofold_ops::{bail, normalize_axis};
use octofold_quant::{QParams, QuantParams, QuantType};
use octofold_tensor::{DType, Element, Tensor};

use crate::rewrite::Skip;
use crate::support;

/// An integer value and what it means: the operand of a `DequantizeLinear`.
#[derive(Clone, Debug)]
pub(crate) struct Quantized {
    /// The integers.
    pub(crate) value: ValueId,
    /// Their type.
    pub(crate) dtype: QuantType,
    /// Their parameters.
    pub(crate) params: QuantParams,
}

impl Quantized {
    /// The parameters and type of an activation: one scale, bytes.
    pub(super) fn activation(&self) -> Result<QParams, Skip> {
        if !matches!(self.dtype, QuantType::Uint8 | QuantType::Int8) {
            bail!("{} activations have no integer kernel", self.dtype);
        }
        self.params.per_tensor().ok_or_else(|| {
            Skip::because("an activation with one scale a channel has no integer kernel")
        })
    }
}

/// The integers behind a value that a `DequantizeLinear` with constant parameters computes.
pub(crate) fn dequantized(graph: &Graph, value: ValueId) -> Option<Quantized> {
    let id = graph.value(value).producer()?;
    let Op::DequantizeLinear(op) = graph.node(id).op() else {
        return None;
    };
    if op.block_size != 0 || support::dtype(graph, value) != DType::F32 {
        return None;
    }
    let (dtype, params) = parameters(graph, id, op.axis)?;
    Some(Quantized {
        value: graph.node(id).input(0)?,
        dtype,
        params,
    })
}

/// The type and parameters that a `QuantizeLinear` with constant parameters gives.
pub(crate) fn quantizer(graph: &Graph, id: NodeId) -> Option<(QuantType, QuantParams)> {
    match graph.node(id).op() {
        Op::QuantizeLinear(op) if op.block_size == 0 => parameters(graph, id, op.axis),
        _ => None,
    }
}

/// The quantization of a result that `quantize` makes of the value of a node ending in `activation`.
pub(super) fn output_quantization(
    graph: &Graph,
    quantize: NodeId,
    activation: Activation,
) -> Result<OutputQuantization, Skip> {
    let (dtype, params) = quantizer(graph, quantize).ok_or(Skip::because(
        "the parameters of the result are not constant",
    ))?;
    if !matches!(dtype, QuantType::Uint8 | QuantType::Int8) {
        bail!("{dtype} results have no integer kernel");
    }
    let params = params.per_tensor().ok_or(Skip::because(
        "a result with one scale a channel has no integer kernel",
    ))?;
    Ok(OutputQuantization::new(dtype, params, activation))
}

fn quant_type(dtype: DType) -> Option<QuantType> {
    match dtype {
        DType::U8 => Some(QuantType::Uint8),
        DType::I8 => Some(QuantType::Int8),
        DType::U16 => Some(QuantType::Uint16),
        DType::I16 => Some(QuantType::Int16),
        DType::I32 => Some(QuantType::Int32),
        _ => None,
    }
}

/// Scale and zero point of a `QuantizeLinear` or `DequantizeLinear`: operands 1 and 2.
fn parameters(graph: &Graph, id: NodeId, axis: i64) -> Option<(QuantType, QuantParams)> {
    let node = graph.node(id);
    let integers = match node.op() {
        Op::QuantizeLinear(_) => support::dtype(graph, support::result(graph, id)),
        _ => support::dtype(graph, node.input(0)?),
    };
    let dtype = quant_type(integers)?;
    let scales = graph.value(node.input(1)?).constant()?;
    let zero_points = match node.input(2) {
        None => vec![0; scales.len()],
        Some(value) => small_integers(graph.value(value).constant()?)?,
    };
    let values = scales.values::<f32>().ok()?;
    let params = if scales.rank() == 0 || (scales.len() == 1 && scales.rank() == 1) {
        QuantParams::PerTensor(QParams::new(*values.first()?, *zero_points.first()?, dtype).ok()?)
    } else {
        let rank = support::rank(graph, node.input(0)?)?;
        let axis = normalize_axis(axis, rank).ok()?;
        QuantParams::per_channel(axis, values, &zero_points, dtype).ok()?
    };
    Some((dtype, params))
}

/// The elements of an integer constant.
pub(super) fn small_integers(tensor: &Tensor) -> Option<Vec<i32>> {
    fn widened<T: Element + Copy + Into<i32>>(tensor: &Tensor) -> Option<Vec<i32>> {
        let values = tensor.values::<T>().ok()?.iter();
        Some(values.map(|&q| q.into()).collect())
    }
    match tensor.dtype() {
        DType::U8 => widened::<u8>(tensor),
        DType::I8 => widened::<i8>(tensor),
        DType::U16 => widened::<u16>(tensor),
        DType::I16 => widened::<i16>(tensor),
        DType::I32 => widened::<i32>(tensor),
        _ => None,
    }
}

/// The real values of a constant or of a dequantized constant.
pub(crate) fn real_constant(graph: &Graph, value: ValueId) -> Option<Vec<f32>> {
    if let Some(values) = support::floats(graph, value) {
        return Some(values.to_vec());
    }
    let quantized = dequantized(graph, value)?;
    let integers = small_integers(graph.value(quantized.value).constant()?)?;
    let channel_of = |index: usize| match &quantized.params {
        QuantParams::PerTensor(_) => 0,
        QuantParams::PerChannel { axis, .. } => {
            let shape = graph
                .value(quantized.value)
                .constant()
                .map(Tensor::shape)
                .unwrap_or_default();
            let inner: usize = shape.iter().skip(axis + 1).product();
            index / inner.max(1) % shape.get(*axis).copied().unwrap_or(1).max(1)
        }
    };
    let reals = integers.iter().enumerate().map(|(index, &q)| {
        let params = quantized.params.channel(channel_of(index))?;
        Some(octofold_quant::affine::dequantize(q, params))
    });
    reals.collect()
}
