//! Conversion: from a float graph, annotations and statistics to the reference QDQ graph.
//!
//! The result has standard ONNX semantics: each quantized value passes through `QuantizeLinear` and `DequantizeLinear`, weights are integer
//! constants behind a `DequantizeLinear`, and the bias of a layer with a quantized result is `int32` on the scale `s_x·s_w`. A layer whose
//! result stays float keeps its float bias. Fused nodes are expanded to ONNX operators by [`ExpandFused`](crate::expand::ExpandFused).

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use octofold_ir::{Graph, NodeId, Patch, PatchValue, Use, ValueId};
use octofold_ops::families::{DequantizeLinear, QuantizeLinear};
use octofold_ops::map_parallel;
use octofold_quant::affine::dequantize as dequantize_value;
use octofold_quant::weights::{Accumulation, QuantizedWeights, WeightSearch, quantize_bias};
use octofold_quant::{ObserverKind, ObserverState, QParams, QuantParams, QuantSpec, QuantType};
use octofold_tensor::{Tensor, TensorData};

use crate::annotate::{
    Annotations, NodeAnnotation, ValueAnnotation, activation_operands, is_fixed,
};
use crate::backend::Execution;
use crate::pass::{Pass, PassError, PassReport};
use crate::rewrite::Rewriter;
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

/// The parameters of quantized values, and of operands that a reader takes in another type.
#[derive(Default)]
pub(crate) struct Parameters {
    values: BTreeMap<ValueId, QParams>,
    conversions: BTreeMap<Use, QParams>,
}

impl Parameters {
    /// The parameters of a node's operand.
    fn operand(&self, graph: &Graph, used: Use) -> Option<&QParams> {
        self.conversions
            .get(&used)
            .or_else(|| self.values.get(&graph.node(used.node).input(used.slot)?))
    }
}

/// What a min-max observer has seen of some values.
fn range_state(values: &[f32]) -> Result<ObserverState, String> {
    let mut state = ObserverState::new(&ObserverKind::MinMax);
    state.observe(values).map_err(|error| error.to_string())?;
    Ok(state)
}

/// The integers and parameters of a layer's weights and bias.
pub(crate) struct Layer {
    pub(crate) node: NodeId,
    pub(crate) weights: QuantizedWeights,
    bias: Option<(Vec<i32>, QuantParams)>,
}

impl Pass for Convert<'_> {
    fn name(&self) -> &'static str {
        "convert"
    }

    fn enters_bodies(&self) -> bool {
        false
    }

    fn run(&self, graph: &mut Graph, rewriter: &mut Rewriter) -> Result<(), PassError> {
        let mut report = PassReport::default();
        let params = self.parameters(graph)?;
        let layers = self.quantize_layers(graph, &params)?;
        let mut patch = Patch::new();
        let mut shared = Vec::new();
        for layer in &layers {
            insert_layer(graph, &mut patch, layer, (&mut shared, &mut report))?;
        }
        for &id in self.annotations.values.keys() {
            self.insert_activation(graph, &mut patch, id, params.values[&id], &mut report)?;
        }
        rewriter.apply_reported(graph, patch, report)?;
        graph.sweep_constants();
        Ok(())
    }
}

impl Convert<'_> {
    /// The layers whose weights become integers, in order.
    pub(crate) fn layers(&self) -> impl Iterator<Item = NodeId> {
        let nodes = self.annotations.nodes.keys().copied();
        nodes.filter(|&id| self.weight_spec(id).is_some())
    }

    /// The parameters of every quantized value and of every conversion.
    pub(crate) fn parameters(&self, graph: &Graph) -> Result<Parameters, PassError> {
        // Values that share an observer and a specification have the same parameters; the search behind some observers takes time.
        let mut known: Vec<(ValueId, QuantSpec, QParams)> = Vec::new();
        let mut of = |annotation: &ValueAnnotation| {
            let (observed, spec) = (annotation.observed, annotation.spec);
            let same = known
                .iter()
                .find(|(id, other, _)| (*id, *other) == (observed, spec));
            if let Some((.., params)) = same {
                return Ok(*params);
            }
            let params = self.parameters_of(graph, observed, &spec)?;
            known.push((observed, spec, params));
            Ok(params)
        };
        let mut parameters = Parameters::default();
        for (&id, annotation) in &self.annotations.values {
            parameters.values.insert(id, of(annotation)?);
        }
        for (&used, annotation) in &self.annotations.conversions {
            parameters.conversions.insert(used, of(annotation)?);
        }
        Ok(parameters)
    }

    /// The parameters that an observed value has under a specification.
    fn parameters_of(
        &self,
        graph: &Graph,
        id: ValueId,
        spec: &QuantSpec,
    ) -> Result<QParams, PassError> {
        let value = graph.value(id);
        let fail = |reason: String| PassError::Node {
            node: value.name().to_owned(),
            reason,
        };
        let own = self.annotations.values.get(&id);
        let statistics = self.statistics.get(value.name());
        let state = if is_fixed(spec) {
            spec.observer()
        } else if let Some(constant) = value.constant() {
            // A constant needs no calibration: its exact range is known.
            let values = constant.values::<f32>();
            let values = values.map_err(|error| fail(error.to_string()))?;
            range_state(values).map_err(fail)?
        } else if let Some(ValueAnnotation { spec: given, .. }) = own
            && let ObserverKind::Fixed(fixed) = given.observer
        {
            // Given parameters of one type say the range for another.
            let params = QParams {
                scale: fixed.scale,
                zero_point: fixed.zero_point,
            };
            let end = |q: i32| dequantize_value(q, params);
            range_state(&[end(given.quant_min), end(given.quant_max)]).map_err(fail)?
        } else if let Some(statistics) = statistics {
            statistics.clone()
        } else {
            return Err(fail(
                "calibration has no statistics of this value".to_owned(),
            ));
        };
        match spec.finish(&state) {
            Ok(choice) => Ok(choice.params),
            Err(error) => Err(fail(error.to_string())),
        }
    }

    fn weight_spec(&self, id: NodeId) -> Option<&QuantSpec> {
        match self.annotations.nodes.get(&id) {
            Some(NodeAnnotation::Quantized { weight, .. }) => weight.as_ref(),
            _ => None,
        }
    }

    fn is_reference(&self, id: NodeId) -> bool {
        let annotation = self.annotations.nodes.get(&id);
        annotation.is_some_and(|annotation| {
            matches!(
                annotation,
                NodeAnnotation::Quantized {
                    execution: Execution::Reference,
                    ..
                }
            )
        })
    }

    /// A layer's weights and bias as the reference graph has them.
    pub(crate) fn quantize_layers(
        &self,
        graph: &Graph,
        params: &Parameters,
    ) -> Result<Vec<Layer>, PassError> {
        let mut readers = BTreeMap::<Option<ValueId>, Vec<NodeId>>::new();
        for id in self.layers() {
            readers
                .entry(graph.node(id).weights())
                .or_default()
                .push(id);
        }
        let readers: Vec<Vec<NodeId>> = readers.into_values().collect();
        let layers = map_parallel(&readers, |ids| self.quantize_readers(graph, ids, params));
        let layers: Vec<Vec<Layer>> = layers.into_iter().collect::<Result<_, _>>()?;
        let layers = layers.into_iter().flatten();
        let mut layers: HashMap<NodeId, Layer> = layers.map(|layer| (layer.node, layer)).collect();
        Ok(self.layers().filter_map(|id| layers.remove(&id)).collect())
    }

    /// The layers that read the same weights. Those that have one specification share the work on the weights.
    fn quantize_readers(
        &self,
        graph: &Graph,
        ids: &[NodeId],
        params: &Parameters,
    ) -> Result<Vec<Layer>, PassError> {
        let weights = ids.first().and_then(|&id| graph.node(id).weights());
        let shape = weights.and_then(|w| graph.value(w).ty().known_shape());
        let mut searches: Vec<(&QuantSpec, WeightSearch<'_>)> = Vec::new();
        let layers = ids.iter().map(|&id| {
            let fail = |reason: String| PassError::Node {
                node: graph.node(id).name().to_owned(),
                reason,
            };
            let missing = || fail("a layer has constant weights".to_owned());
            let spec = self.weight_spec(id).ok_or_else(missing)?;
            let known = searches.iter().position(|(known, _)| *known == spec);
            let search = match known {
                Some(index) => &searches[index].1,
                None => {
                    let values = weights.and_then(|w| support::floats(graph, w));
                    let (values, shape) = values.zip(shape.as_deref()).ok_or_else(missing)?;
                    let search = WeightSearch::new(values, shape, spec);
                    searches.push((spec, search.map_err(|error| fail(error.to_string()))?));
                    &searches[searches.len() - 1].1
                }
            };
            self.quantize_layer(graph, id, params, search)
        });
        layers.collect()
    }

    fn quantize_layer(
        &self,
        graph: &Graph,
        id: NodeId,
        params: &Parameters,
        weights: &WeightSearch<'_>,
    ) -> Result<Layer, PassError> {
        let node = graph.node(id);
        let fail = |reason: String| PassError::Node {
            node: node.name().to_owned(),
            reason,
        };
        let missing = || fail("a layer has a quantized input".to_owned());
        let first = Use { node: id, slot: 0 };
        let input = params.operand(graph, first).ok_or_else(missing)?;
        let input_range = self
            .annotations
            .of_operand(graph, first)
            .map(|annotation| annotation.spec.range())
            .ok_or_else(missing)?;
        let output = params.values.get(&support::result(graph, id));
        let bias = node.bias().and_then(|bias| support::floats(graph, bias));
        let accumulation = Accumulation {
            output_axis: usize::from(matches!(node.op(), octofold_ir::Op::FusedLinear(_))),
            input_scale: input.scale,
            input_range,
            output_scale: output.map(|output| output.scale),
            bias,
        };
        // A layer without an integer kernel has no accumulator to overflow, and keeps its float bias.
        let accumulates = !self.is_reference(id);
        let accumulation = accumulates.then_some(&accumulation);
        let weights = weights
            .for_layer(accumulation)
            .map_err(|error| fail(error.to_string()))?;
        let bias = match (bias, output) {
            (Some(bias), Some(_)) if accumulates => Some(
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

    /// Puts a quantized value's `QuantizeLinear` and `DequantizeLinear` between it and all its readers, and those of a conversion
    /// between them and the reader that asked for it.
    fn insert_activation(
        &self,
        graph: &Graph,
        patch: &mut Patch,
        id: ValueId,
        params: QParams,
        report: &mut PassReport,
    ) -> Result<(), PassError> {
        let value = graph.value(id);
        let name = value.name();
        let dtype = self.annotations.values[&id].spec.dtype;
        let real = quantize_dequantize(patch, name, id.into(), dtype, params)?;
        report.applied("quantize", name, format!("{dtype} {params}"));
        if self.annotations.dequantized_outputs.contains(&id) {
            for (index, output) in graph.outputs().iter().enumerate() {
                if output.value == id {
                    patch.output(index, real);
                }
            }
        }
        // Readers that want the same other type share one conversion.
        let mut converted: Vec<(&ValueAnnotation, PatchValue)> = Vec::new();
        for used in graph.uses(id) {
            // A constant operand of a float node stays what it is.
            let reads = value.constant().is_none()
                || (self.annotations.is_quantized(used.node)
                    && activation_operands(graph, used.node).any(|operand| operand == id));
            if !reads {
                continue;
            }
            let Some(wish) = self.annotations.conversions.get(&used) else {
                patch.rewire(used, real);
                continue;
            };
            let known = converted.iter().find(|(other, _)| *other == wish);
            let other = match known {
                Some((_, other)) => *other,
                None => {
                    let params = self.parameters_of(graph, wish.observed, &wish.spec)?;
                    let dtype = wish.spec.dtype;
                    let named = format!("{name}_{dtype}");
                    let other = quantize_dequantize(patch, &named, real, dtype, params)?;
                    report.applied("convert-type", name, format!("{dtype} {params}"));
                    converted.push((wish, other));
                    other
                }
            };
            patch.rewire(used, other);
        }
        Ok(())
    }
}

/// A `QuantizeLinear` and a `DequantizeLinear` after a value. Their names begin with its name.
fn quantize_dequantize(
    patch: &mut Patch,
    name: &str,
    value: PatchValue,
    dtype: QuantType,
    params: QParams,
) -> Result<PatchValue, PassError> {
    let zero_point = integer_tensor(dtype, &[], &[params.zero_point]);
    let zero_point = zero_point.map_err(|reason| PassError::Node {
        node: name.to_owned(),
        reason,
    })?;
    let scale = patch.constant(format!("{name}_scale"), Tensor::scalar(params.scale));
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
        [Some(value), Some(scale), Some(zero_point)],
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
    Ok(real)
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

/// Integer weights that are in the patch, by the float ones and the layer that they were made for.
type Shared<'a> = Vec<(ValueId, &'a QuantizedWeights, PatchValue)>;

/// Puts a layer's integer weights and bias in the place of the float ones. Layers with the same weights share the integers, if they have the same scales.
fn insert_layer<'a>(
    graph: &Graph,
    patch: &mut Patch,
    layer: &'a Layer,
    (shared, report): (&mut Shared<'a>, &mut PassReport),
) -> Result<(), PassError> {
    let node = graph.node(layer.node);
    let fail = |reason: String| PassError::Node {
        node: node.name().to_owned(),
        reason,
    };
    if let Some(w) = node.weights() {
        let weights = &layer.weights;
        let same = shared.iter().find(|(other, known, _)| {
            // Integers that were not widened are in the same memory.
            let equal =
                Arc::ptr_eq(&known.values, &weights.values) || known.values == weights.values;
            *other == w && known.params == weights.params && equal
        });
        let real = match same {
            Some((.., real)) => *real,
            None => {
                let shape = graph.value(w).ty().known_shape().unwrap_or_default();
                let values = Arc::clone(&weights.values);
                let tensor = Tensor::from_data(shape, TensorData::I8(values.into()));
                let tensor = tensor.map_err(|error| fail(error.to_string()))?;
                let name = graph.value(w).name();
                let params = &weights.params;
                let real = insert_constant(patch, name, tensor, (params, QuantType::Int8));
                let real = real.map_err(fail)?;
                shared.push((w, weights, real));
                real
            }
        };
        let (node, slot) = (layer.node, 1);
        patch.rewire(Use { node, slot }, real);
    }
    if let (Some((values, params)), Some(bias)) = (&layer.bias, node.bias()) {
        let tensor = Tensor::vector(values.clone());
        let name = graph.value(bias).name();
        let real = insert_constant(patch, name, tensor, (params, QuantType::Int32));
        let (node, slot) = (layer.node, 2);
        patch.rewire(Use { node, slot }, real.map_err(fail)?);
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

/// A constant of integers behind a `DequantizeLinear`. Their names begin with that of the float constant.
fn insert_constant(
    patch: &mut Patch,
    name: &str,
    integers: Tensor,
    (params, dtype): (&QuantParams, QuantType),
) -> Result<PatchValue, String> {
    let (scale, zero_point, axis) = parameter_tensors(params, dtype)?;
    let integers = patch.constant(format!("{name}_quantized"), integers);
    let scale = patch.constant(format!("{name}_scale"), scale);
    let zero_point = patch.constant(format!("{name}_zero_point"), zero_point);
    let node = format!("{name}_DequantizeLinear");
    let real = dequantize(patch, &node, integers, scale, zero_point, axis);
    patch.name(real, format!("{name}_dequantized"));
    Ok(real)
}
