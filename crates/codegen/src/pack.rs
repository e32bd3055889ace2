//! Weights and output constants in the form that kernels read.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use bytes::Bytes;
use octofold_ir::Op;
use octofold_kernels::conv::{self, ConvShape, LinearShape, fold_bias, planes};
use octofold_kernels::{KernelError, float};
use octofold_ops::families::{FusedConv, IntegerProduct, Outcome, Parameters, Product};
use octofold_quant::{QParams, requantize};
use octofold_runtime::{Core, Engine, Kernel, aligned_copy, recurrent_products};
use octofold_tensor::{DType, Tensor, for_each_data};

use crate::facts::Facts;

/// The packed constants of a step.
#[derive(Debug, Default)]
pub(crate) struct Packed {
    /// The sizes of the weights before packing.
    pub(crate) weights: Vec<usize>,
    /// Whether the kernel reads the weights of the operator, which are not packed.
    pub(crate) in_place: bool,
    /// In the order that [`Core`] asks for.
    pub(crate) constants: Vec<PackedConstant>,
}

/// A constant of a kernel.
#[derive(Debug)]
pub(crate) struct PackedConstant {
    pub(crate) dtype: DType,
    pub(crate) len: usize,
    /// Layers with the same weights share them.
    pub(crate) bytes: Bytes,
}

/// Weights that are packed: each once for each form, however many layers read them.
#[derive(Debug)]
pub(crate) struct PackedWeights {
    slots: Mutex<HashMap<Form, Slot>>,
    /// Whether weights in foreign bytes stay there, if a kernel reads them so.
    in_place: bool,
}

/// Room for packed weights, which the first layer that needs them fills.
type Slot = Arc<OnceLock<Result<Bytes, KernelError>>>;

/// Weights and the form in which they are packed.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Form {
    /// Where the elements are: tensors with the same elements in memory are equal.
    elements: usize,
    /// The sizes that packing depends on, some of which stand for any image.
    shape: ConvShape,
    kernel: Kernel,
}

impl PackedWeights {
    pub(crate) fn new(in_place: bool) -> Self {
        Self {
            slots: Mutex::default(),
            in_place,
        }
    }

    /// The packed weights of a form, which `pack` makes if no other layer has.
    fn get<T>(
        &self,
        weights: &[T],
        (shape, kernel): (ConvShape, Kernel),
        pack: impl FnOnce() -> Result<Vec<u8>, KernelError>,
    ) -> Result<Bytes, KernelError> {
        let form = Form {
            elements: weights.as_ptr().addr(),
            shape,
            kernel,
        };
        let slot = {
            let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(slots.entry(form).or_default())
        };
        let aligned = |packed: Vec<u8>| aligned_copy(&packed).unwrap_or(packed.into());
        slot.get_or_init(|| pack().map(aligned)).clone()
    }
}

impl PackedWeights {
    /// Forgets what was packed of weights whose memory may be freed and used for others.
    pub(crate) fn forget(&mut self, weights: &Tensor) {
        let elements = for_each_data!(weights.data(), values => values.as_ptr().addr());
        let slots = self.slots.get_mut().unwrap_or_else(PoisonError::into_inner);
        slots.retain(|form, _| form.elements != elements);
    }
}

impl PackedConstant {
    fn bytes(bytes: Bytes) -> Self {
        Self {
            dtype: DType::U8,
            len: bytes.len(),
            bytes,
        }
    }

    fn integers(values: &[i32]) -> Self {
        let bytes: Vec<u8> = values
            .iter()
            .flat_map(|value| value.to_le_bytes())
            .collect();
        Self {
            dtype: DType::I32,
            len: values.len(),
            bytes: bytes.into(),
        }
    }

    fn floats(values: &[f32]) -> Self {
        Self::of_floats(float_bytes(values).into())
    }

    /// Floats as bytes.
    fn of_floats(bytes: Bytes) -> Self {
        Self {
            dtype: DType::F32,
            len: bytes.len() / 4,
            bytes,
        }
    }
}

fn float_bytes(values: &[f32]) -> Vec<u8> {
    values
        .iter()
        .flat_map(|value| value.to_le_bytes())
        .collect()
}

/// Packs the weights of a node for its kernel, in the format of an engine; nothing for kernels without weights.
///
/// # Errors
/// When the kernels refuse the weights, usually because a sum could exceed 32 bits.
pub(crate) fn pack(
    facts: Facts<'_>,
    kernel: Kernel,
    engine: Engine,
    packed: &PackedWeights,
) -> Result<Packed, KernelError> {
    let Some(weights) = facts.constant(1) else {
        return Ok(Packed::default());
    };
    if kernel.core() == Core::FRecurrent {
        return Ok(Packed {
            weights: weights.shape().to_vec(),
            in_place: false,
            constants: recurrent(facts, weights)?,
        });
    }
    let Some(product) = facts.node.op().product() else {
        return Ok(Packed::default());
    };
    let bias = facts.constant(2);
    let in_place =
        packed.in_place && kernel.core() == Core::FLinear && weights.foreign_bytes().is_some();
    let constants = match (facts.node.op(), product, kernel.core()) {
        (Op::FusedConv(op), Product::Integer(product), Core::QConv | Core::QConvDepthwise) => {
            let shape = conv_shape(op, weights.shape())?;
            let weights = bytes(weights)?;
            let packed = packed.get(weights, (shape, kernel), || match kernel.is_of_engine() {
                true => conv::pack(engine, &shape, weights),
                false => planes::pack(&shape, weights),
            })?;
            integer(facts, product, packed, weights, shape.out_c)?
        }
        (Op::FusedLinear(_), Product::Integer(product), Core::QLinear) => {
            let shape = linear_shape(weights.shape())?;
            let weights = bytes(weights)?;
            let rows = transposed(weights, shape.k, shape.n);
            let conv = shape.as_conv();
            let packed =
                packed.get(weights, (conv, kernel), || conv::pack(engine, &conv, &rows))?;
            integer(facts, product, packed, &rows, shape.n)?
        }
        (Op::FusedConv(op), _, Core::FConv | Core::FConvDepthwise | Core::FAffine) => {
            let shape = conv_shape(op, weights.shape())?;
            let weights = floats(weights)?;
            let packed = packed.get(weights, (shape, kernel), || {
                let packed = match kernel.core() {
                    Core::FConv => float::conv::pack(&shape, weights),
                    _ => float::depthwise::pack(&shape, weights),
                };
                Ok(float_bytes(&packed?))
            })?;
            floating(packed, bias, shape.out_c)?
        }
        (Op::FusedLinear(_), _, Core::FLinear) if in_place => {
            let bias = float_bias(bias, linear_shape(weights.shape())?.n)?;
            vec![PackedConstant::floats(&bias)]
        }
        (Op::FusedLinear(_), _, Core::FLinear) => {
            let shape = linear_shape(weights.shape())?;
            let weights = floats(weights)?;
            let packed = packed.get(weights, (shape.as_conv(), kernel), || {
                let packed = float::linear::pack(shape.k, shape.n, weights)?;
                Ok(float_bytes(&packed))
            })?;
            floating(packed, bias, shape.n)?
        }
        _ => return Ok(Packed::default()),
    };
    Ok(Packed {
        weights: weights.shape().to_vec(),
        in_place,
        constants,
    })
}

/// Of each direction: the weights of inputs and of states, and the biases that are added to the products of both.
fn recurrent(facts: Facts<'_>, weights: &Tensor) -> Result<Vec<PackedConstant>, KernelError> {
    let no_layer = || KernelError::Shape("the layer has no kernel");
    let op = facts.node.op();
    let (attributes, products) = op
        .recurrent()
        .zip(recurrent_products(op))
        .ok_or_else(no_layer)?;
    let (&[directions, lines, input], Some(recurrent)) = (weights.shape(), facts.constant(2))
    else {
        return Err(no_layer());
    };
    let hidden = lines / attributes.gates;
    if recurrent.shape() != [directions, lines, hidden] {
        return Err(no_layer());
    }
    let (w, r) = (floats(weights)?, floats(recurrent)?);
    let zeros = vec![0.0; 2 * directions * lines];
    let bias = facts.constant(3).map_or(Ok(&zeros[..]), floats)?;
    if bias.len() != zeros.len() {
        return Err(no_layer());
    }
    let mut packed = [const { Vec::new() }; 4];
    for direction in 0..directions {
        let own = &w[direction * lines * input..][..lines * input];
        let columns = transposed(own, lines, input);
        packed[0].extend(float::linear::pack(input, lines, &columns)?);
        let mut line = 0;
        for gates in products {
            let count = gates * hidden;
            let own = &r[(direction * lines + line) * hidden..][..count * hidden];
            let columns = transposed(own, count, hidden);
            packed[1].extend(float::linear::pack(hidden, count, &columns)?);
            line += count;
        }
        let (of_inputs, of_states) = bias[2 * direction * lines..][..2 * lines].split_at(lines);
        for (line, (x, h)) in of_inputs.iter().zip(of_states).enumerate() {
            // The reset gate scales the product of states with its bias.
            let apart = matches!(op, Op::Gru(op) if op.linear_before_reset) && line >= 2 * hidden;
            packed[2].push(if apart { *x } else { x + h });
            packed[3].push(if apart { *h } else { 0.0 });
        }
    }
    Ok(packed
        .iter()
        .map(|values| PackedConstant::floats(values))
        .collect())
}

/// Weights, folded bias and multiplier; or weights, correction, scale and bias where the result is float.
fn integer(
    facts: Facts<'_>,
    product: &IntegerProduct,
    packed: Bytes,
    weights: &[i8],
    channels: usize,
) -> Result<Vec<PackedConstant>, KernelError> {
    let no_scales = |_| KernelError::Shape("there is no fixed scale for each output channel");
    let scales = product.w_scales(channels).map_err(no_scales)?;
    let x = match product.x {
        Parameters::Fixed(x) => x,
        // The kernel multiplies corrections and scales by those of a run.
        Parameters::AtRunTime(_) => QParams {
            scale: 1.0,
            zero_point: 1,
        },
    };
    let bias = facts.constant(2);
    let signed = facts.dtype(0) == Some(DType::I8);
    let packed = PackedConstant::bytes(packed);
    let zeros = vec![0; channels];
    match product.result {
        Outcome::Accumulators => Err(KernelError::Shape("no kernel gives raw sums")),
        Outcome::Bytes(y) | Outcome::Residual { own: y, .. } => {
            let bias = match bias {
                None => &zeros,
                Some(bias) => bias
                    .values::<i32>()
                    .map_err(|_| KernelError::Shape("the bias is not int32"))?,
            };
            let folded = fold_bias(bias, weights, x.zero_point, signed)?;
            let multiplier: Vec<f32> = scales
                .iter()
                .map(|&scale| requantize::multiplier(x.scale, scale, y.params.scale))
                .collect();
            Ok(vec![
                packed,
                PackedConstant::integers(&folded),
                PackedConstant::floats(&multiplier),
            ])
        }
        Outcome::Float(_) => {
            let correction = fold_bias(&zeros, weights, x.zero_point, signed)?;
            let scales: Vec<f32> = scales.iter().map(|&scale| x.scale * scale).collect();
            let bias = float_bias(bias, channels)?;
            let (correction, scales) = (
                PackedConstant::integers(&correction),
                PackedConstant::floats(&scales),
            );
            Ok(vec![
                packed,
                correction,
                scales,
                PackedConstant::floats(&bias),
            ])
        }
    }
}

fn floating(
    weights: Bytes,
    bias: Option<&Tensor>,
    channels: usize,
) -> Result<Vec<PackedConstant>, KernelError> {
    let bias = float_bias(bias, channels)?;
    Ok(vec![
        PackedConstant::of_floats(weights),
        PackedConstant::floats(&bias),
    ])
}

fn float_bias(bias: Option<&Tensor>, channels: usize) -> Result<Vec<f32>, KernelError> {
    let Some(bias) = bias else {
        return Ok(vec![0.0; channels]);
    };
    let values = floats(bias)?;
    if values.len() == channels {
        Ok(values.to_vec())
    } else {
        Err(KernelError::Shape(
            "the bias does not have one value a channel",
        ))
    }
}

fn bytes(weights: &Tensor) -> Result<&[i8], KernelError> {
    weights
        .values::<i8>()
        .map_err(|_| KernelError::Shape("the weights are not int8"))
}

fn floats(tensor: &Tensor) -> Result<&[f32], KernelError> {
    tensor
        .values::<f32>()
        .map_err(|_| KernelError::Shape("the weights or the bias are not float"))
}

/// `[k, n]` as one row of `k` elements for each output.
fn transposed<T: Copy + Default>(weights: &[T], k: usize, n: usize) -> Vec<T> {
    let mut rows = vec![T::default(); weights.len()];
    for (i, line) in weights.chunks_exact(n.max(1)).enumerate() {
        for (column, &weight) in line.iter().enumerate() {
            rows[column * k + i] = weight;
        }
    }
    rows
}

fn linear_shape(weights: &[usize]) -> Result<LinearShape, KernelError> {
    match *weights {
        [k, n] => Ok(LinearShape { rows: 1, k, n }),
        _ => Err(KernelError::Shape(
            "the weights of a linear layer do not have two axes",
        )),
    }
}

/// The shape of a convolution for packing. Packing does not depend on the image, so this is the smallest image that the kernel fits into.
pub(crate) fn conv_shape(op: &FusedConv, weights: &[usize]) -> Result<ConvShape, KernelError> {
    let bad = KernelError::Shape("the weights and attributes describe no convolution");
    let reach = |(&kernel, &dilation): (&usize, &i64)| {
        let dilation = usize::try_from(dilation).ok()?;
        kernel.checked_sub(1)?.checked_mul(dilation)?.checked_add(1)
    };
    let images = || {
        let &[_, group_in, ref kernel @ ..] = weights else {
            return None;
        };
        let channels = usize::try_from(op.group).ok()?.checked_mul(group_in);
        let sizes = kernel.iter().zip(&op.dilations).map(reach);
        [Some(1), channels].into_iter().chain(sizes).collect()
    };
    let images: Vec<usize> = images().ok_or(bad.clone())?;
    let sizes = octofold_runtime::conv_shape(op, weights, &images);
    sizes.map(|(shape, _)| shape).map_err(|_| bad)
}
