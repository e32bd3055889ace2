//! Conversion: from a float graph, annotations and statistics to the reference QDQ graph.
//!
//! The result has standard ONNX semantics: each quantized value passes through `QuantizeLinear` and `DequantizeLinear`, weights are integer
//! constants behind a `DequantizeLinear`, and the bias of a layer with a quantized result is `int32` on the scale `s_x·s_w`. A layer whose
//! result stays float keeps its float bias. Fused nodes are expanded to ONNX operators by [`ExpandFused`](crate::expand::ExpandFused).

use std::collections::BTreeMap;

use octofold_ir::{Graph, NodeId, Patch, PatchValue, Use, ValueId};
use octofold_ops::families::{DequantizeLinear, QuantizeLinear};
use octofold_quant::weights::{Accumulation, QuantizedWeights, quantize_bias, quantize_weights};
use octofold_quant::{ObserverKind, ObserverState, QParams, QuantParams, QuantSpec, QuantType};
use octofold_tensor::Tensor;
use rayon::prelude::*;

use crate::annotate::{Annotations, NodeAnnotation, activation_operands};
use crate::pass::{Pass, PassError, PassReport};
use crate::support;

/// What was observed, by the name of the observed value.
pub type Statistics = BTreeMap<String, ObserverState>;

/// Converts a fused float graph to the reference QDQ graph (before expansion of fused nodes).
#[derive(Clone, Copy, Debug)]
pub struct Convert<'a> {
    /// The decisions to follow; they must be of the same graph.
    pub annotations: &'a Annotations,
    /// What calibration observed.
    pub statistics: &'a Statistics,
}

/// The integers and parameters of a layer's weights and bias.
pub(crate) struct Layer {
    node: NodeId,
    pub(crate) weights: QuantizedWeights,
    bias: Option<(Vec<i32>, QuantParams)>,
}

impl Pass for Convert<'_> {
    fn name(&self) -> &'static str {
        "convert"
    }

    fn run(&self, graph: &mut Graph) -> Result<PassReport, PassError> {
        let mut report = PassReport::default();
        let params = self.parameters(graph)?;
        let layers: Vec<NodeId> = self.layers().collect();
        // Layers do not depend on each other; the order of the results is that of the graph.
        let layers: Result<Vec<Layer>, PassError> = layers
            .par_iter()
            .map(|&id| self.quantize_layer(graph, id, &params))
            .collect();
        let mut patch = Patch::new();
        for layer in layers? {
            insert_layer(graph, &mut patch, &layer, &mut report)?;
        }
        for (&id, annotation) in &self.annotations.values {
            self.insert_activation(
                graph,
                &mut patch,
                id,
                &annotation.spec,
                params[&id],
                &mut report,
            )?;
        }
        graph.apply(patch).map_err(|source| PassError::Graph {
            pass: self.name().to_owned(),
            source,
        })?;
        graph.sweep_constants();
        Ok(report)
    }
}

impl Convert<'_> {
    /// The layers whose weights become integers, in order.
    pub(crate) fn layers(&self) -> impl Iterator<Item = NodeId> {
        let nodes = self.annotations.nodes.keys().copied();
        nodes.filter(|&id| self.weight_spec(id).is_some())
    }

    /// The parameters of every quantized value.
    pub(crate) fn parameters(
        &self,
        graph: &Graph,
    ) -> Result<BTreeMap<ValueId, QParams>, PassError> {
        let mut own: BTreeMap<ValueId, QParams> = BTreeMap::new();
        for (id, spec) in self.annotations.observed() {
            let name = graph.value(id).name();
            let fail = |reason: String| PassError::Node {
                node: name.to_owned(),
                reason,
            };
            let state = match (graph.value(id).constant(), &spec.observer) {
                (Some(constant), _) => {
                    // What is known needs no calibration; its exact range is its best.
                    let mut state = ObserverState::new(&ObserverKind::MinMax);
                    let values = constant
                        .values::<f32>()
                        .map_err(|error| fail(error.to_string()))?;
                    state
                        .observe(values)
                        .map_err(|error| fail(error.to_string()))?;
                    state
                }
                (None, ObserverKind::Fixed(_)) => spec.observer(),
                (None, _) => self.statistics.get(name).cloned().ok_or_else(|| {
                    fail("calibration has no statistics of this value".to_owned())
                })?,
            };
            let (params, _) = spec
                .finish(&state)
                .map_err(|error| fail(error.to_string()))?;
            let params = params
                .per_tensor()
                .ok_or_else(|| fail("an activation has one scale a tensor".to_owned()))?;
            own.insert(id, params);
        }
        let all = self.annotations.values.iter().map(|(&id, annotation)| {
            let params = own.get(&annotation.observed).copied();
            params
                .map(|params| (id, params))
                .ok_or_else(|| PassError::Node {
                    node: graph.value(id).name().to_owned(),
                    reason: "the value whose parameters it shares has none".to_owned(),
                })
        });
        all.collect()
    }

    fn weight_spec(&self, id: NodeId) -> Option<&QuantSpec> {
        match self.annotations.nodes.get(&id) {
            Some(NodeAnnotation::Quantized { weight, .. }) => weight.as_ref(),
            _ => None,
        }
    }

    /// A layer's weights and bias as the reference graph has them.
    pub(crate) fn quantize_layer(
        &self,
        graph: &Graph,
        id: NodeId,
        params: &BTreeMap<ValueId, QParams>,
    ) -> Result<Layer, PassError> {
        let node = graph.node(id);
        let fail = |reason: String| PassError::Node {
            node: node.name().to_owned(),
            reason,
        };
        let missing = || fail("a layer has a quantized input and constant weights".to_owned());
        let spec = self.weight_spec(id).ok_or_else(missing)?;
        let (x, w) = node.input(0).zip(node.input(1)).ok_or_else(missing)?;
        let input = params.get(&x).ok_or_else(missing)?;
        let input_range = self
            .annotations
            .values
            .get(&x)
            .map(|annotation| annotation.spec.range())
            .ok_or_else(missing)?;
        let output = params.get(&support::result(graph, id));
        let weights = support::floats(graph, w).ok_or_else(missing)?;
        let shape = graph.value(w).ty().known_shape().ok_or_else(missing)?;
        let bias = node.input(2).and_then(|bias| support::floats(graph, bias));
        let accumulation = Accumulation {
            output_axis: usize::from(matches!(node.op(), octofold_ir::Op::FusedLinear(_))),
            input_scale: input.scale,
            input_range,
            output_scale: output.map(|output| output.scale),
            bias,
        };
        let weights = quantize_weights(weights, &shape, spec, Some(&accumulation))
            .map_err(|error| fail(error.to_string()))?;
        let bias = match (bias, output) {
            (Some(bias), Some(_)) => Some(
                quantize_bias(bias, input.scale, &weights.params)
                    .map_err(|error| fail(error.to_string()))?,
            ),
            _ => None,
        };
        Ok(Layer {
            node: id,
            weights,
            bias,
        })
    }

    /// Puts a quantized value's `QuantizeLinear` and `DequantizeLinear` between it and all its readers.
    fn insert_activation(
        &self,
        graph: &Graph,
        patch: &mut Patch,
        id: ValueId,
        spec: &QuantSpec,
        params: QParams,
        report: &mut PassReport,
    ) -> Result<(), PassError> {
        let value = graph.value(id);
        let name = value.name();
        let fail = |reason: String| PassError::Node {
            node: name.to_owned(),
            reason,
        };
        let scale = patch.constant(format!("{name}_scale"), Tensor::scalar(params.scale));
        let zero_point = integer_tensor(spec.dtype, &[], &[params.zero_point]).map_err(fail)?;
        let zero_point = patch.constant(format!("{name}_zero_point"), zero_point);
        let quantize = QuantizeLinear {
            axis: 1,
            block_size: 0,
            output_dtype: 0,
            precision: 0,
            saturate: true,
        };
        let quantized = patch.node(
            format!("{name}_QuantizeLinear"),
            quantize,
            [Some(id.into()), Some(scale), Some(zero_point)],
            vec![],
        );
        patch.name(quantized, format!("{name}_quantized"));
        let real = dequantize(
            patch,
            &format!("{name}_DequantizeLinear"),
            quantized,
            scale,
            zero_point,
            1,
        );
        patch.name(real, format!("{name}_dequantized"));
        for used in graph.uses(id) {
            // A constant operand of a float node stays what it is.
            let reads = value.constant().is_none()
                || (self.annotations.is_quantized(used.node)
                    && activation_operands(graph, used.node).contains(&id));
            if reads {
                patch.rewire(used, real);
            }
        }
        report.applied("quantize", name, format!("{} {params}", spec.dtype));
        Ok(())
    }
}

/// A `DequantizeLinear` node.
fn dequantize(
    patch: &mut Patch,
    name: &str,
    x: PatchValue,
    scale: PatchValue,
    zero_point: PatchValue,
    axis: usize,
) -> PatchValue {
    let op = DequantizeLinear {
        axis: axis as i64,
        block_size: 0,
        output_dtype: 0,
    };
    patch.node(name, op, [Some(x), Some(scale), Some(zero_point)], vec![])
}

/// A tensor of small integers of a quantized type.
pub(crate) fn integer_tensor(
    dtype: QuantType,
    shape: &[usize],
    values: &[i32],
) -> Result<Tensor, String> {
    let shape = shape.iter().copied();
    let tensor = match dtype {
        QuantType::Uint8 => Tensor::new(shape, values.iter().map(|&q| q as u8).collect()),
        QuantType::Int8 => Tensor::new(shape, values.iter().map(|&q| q as i8).collect()),
        QuantType::Uint16 => Tensor::new(shape, values.iter().map(|&q| q as u16).collect()),
        QuantType::Int16 => Tensor::new(shape, values.iter().map(|&q| q as i16).collect()),
        QuantType::Int32 => Tensor::new(shape, values.to_vec()),
        QuantType::Uint4 | QuantType::Int4 => {
            return Err(format!("activations of type {dtype} are not supported"));
        }
    };
    tensor.map_err(|error| error.to_string())
}

/// Scales and zero points as tensors: of rank 0, or one element a channel; and the axis.
fn parameter_tensors(
    params: &QuantParams,
    dtype: QuantType,
) -> Result<(Tensor, Tensor, usize), String> {
    match params {
        QuantParams::PerTensor(single) => {
            let zero_point = integer_tensor(dtype, &[], &[single.zero_point])?;
            Ok((Tensor::scalar(single.scale), zero_point, 1))
        }
        QuantParams::PerChannel { axis, channels } => {
            let scales: Vec<f32> = channels.iter().map(|channel| channel.scale).collect();
            let zero_points: Vec<i32> = channels.iter().map(|channel| channel.zero_point).collect();
            let zero_points = integer_tensor(dtype, &[channels.len()], &zero_points)?;
            Ok((Tensor::vector(scales), zero_points, *axis))
        }
    }
}

/// Puts a layer's integer weights and bias in the place of the float ones.
fn insert_layer(
    graph: &Graph,
    patch: &mut Patch,
    layer: &Layer,
    report: &mut PassReport,
) -> Result<(), PassError> {
    let node = graph.node(layer.node);
    let fail = |reason: String| PassError::Node {
        node: node.name().to_owned(),
        reason,
    };
    let mut replace = |slot: usize, tensor: Tensor, params: &QuantParams, dtype: QuantType| {
        let Some(old) = node.input(slot) else {
            return Ok(());
        };
        let name = graph.value(old).name();
        let (scale, zero_point, axis) = parameter_tensors(params, dtype).map_err(fail)?;
        let integers = patch.constant(format!("{name}_quantized"), tensor);
        let scale = patch.constant(format!("{name}_scale"), scale);
        let zero_point = patch.constant(format!("{name}_zero_point"), zero_point);
        let real = dequantize(
            patch,
            &format!("{name}_DequantizeLinear"),
            integers,
            scale,
            zero_point,
            axis,
        );
        patch.name(real, format!("{name}_dequantized"));
        patch.rewire(
            Use {
                node: layer.node,
                slot,
            },
            real,
        );
        Ok(())
    };
    let shape = node
        .input(1)
        .and_then(|w| graph.value(w).ty().known_shape())
        .unwrap_or_default();
    let tensor = Tensor::new(shape, layer.weights.values.clone())
        .map_err(|error| fail(error.to_string()))?;
    replace(1, tensor, &layer.weights.params, QuantType::Int8)?;
    if let Some((values, params)) = &layer.bias {
        replace(2, Tensor::vector(values.clone()), params, QuantType::Int32)?;
    }
    for widened in &layer.weights.widened {
        let text = format!(
            "scale of channel {} widened from {:?} to {:?} to keep the accumulator within 32 bits",
            widened.channel, widened.from, widened.to
        );
        report.applied("widen", node.name(), text);
    }
    report.applied("quantize-layer", node.name(), "");
    Ok(())
}
