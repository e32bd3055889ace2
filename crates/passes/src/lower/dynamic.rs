//! Linear layers whose operand is quantized while the model runs.
//!
//! The chain that dynamic quantization writes in operators of ONNX (`MatMulInteger`, `Cast`, a product with both scales, a sum with the bias) is one layer,
//! `f32(Σ (q - z)·w)·(s_x·s_w) + b`, which the integer kernels compute.

use octofold_ir::{Graph, NodeId, Op, Patch, PatchValue, ValueId};
use octofold_ops::bail;
use octofold_ops::families::{
    Activation, Extent, FusedLinear, IntegerProduct, Outcome, Parameters, Product, Weights,
};
use octofold_quant::{QParams, QuantType};
use octofold_tensor::{DType, Tensor};

use crate::lower::params::small_integers;
use crate::lower::weighted::without_zero_points;
use crate::pattern::{Match, Pattern};
use crate::rewrite::{Rewrite, Skip};
use crate::{op, rule, support};

rule! {
    /// A `MatMulInteger` with constant weights whose sums are scaled to floats.
    pub(super) struct DynamicLinear("dynamic-linear") finds Dynamic { product: NodeId }
}

impl Rewrite for DynamicLinear {
    fn pattern(&self) -> Pattern {
        Pattern::node(op!(MatMulInteger), []).named("product")
    }

    fn rewrite(&self, graph: &Graph, found: &Match<Dynamic>) -> Result<Patch, Skip> {
        let id = found.product;
        let node = graph.node(id);
        let (Some(x), Some(w)) = (node.input(0), node.input(1)) else {
            return Err(Skip::NoMatch);
        };
        let (x_scale, zero_point) = quantized_in_a_run(graph, x)?;
        if node.input(2) != Some(zero_point) {
            bail!("its first zero point is not that of its operand");
        }
        let weights = weights(graph, w, node.input(3))?;
        let &[_, columns] = weights.shape() else {
            bail!("its weights have not two axes");
        };
        let chain = Chain::of(graph, id, x_scale, columns)?;
        let mut patch = Patch::new();
        let name = graph.value(w).name();
        let weights = patch.constant(format!("{name}_lowered"), weights);
        let bias = chain
            .bias
            .map(|bias| patch.constant(format!("{name}_bias"), Tensor::vector(bias)));
        let layer = FusedLinear {
            product: Product::Integer(IntegerProduct {
                x: Parameters::AtRunTime(Extent::Tensor),
                w: Weights::Channels {
                    scales: chain.w_scales,
                    zero_points: vec![],
                },
                result: Outcome::Float(Activation::None),
            }),
        };
        let [x, x_scale, zero_point] = [x, x_scale, zero_point].map(PatchValue::Existing);
        let inputs = [
            Some(x),
            Some(weights),
            bias,
            None,
            Some(x_scale),
            Some(zero_point),
        ];
        let sources = graph.sources_of(chain.nodes.iter().copied());
        let made = patch.node(node.name(), layer, inputs, sources);
        let last = chain.nodes.last().copied().unwrap_or(id);
        patch.replace(support::result(graph, last), made);
        chain
            .nodes
            .into_iter()
            .rev()
            .for_each(|id| patch.remove(id));
        Ok(patch)
    }
}

/// The weights as s8 with zero point 0.
fn weights(graph: &Graph, w: ValueId, zero_points: Option<ValueId>) -> Result<Tensor, Skip> {
    let constant = |value: ValueId| graph.value(value).constant();
    let tensor = constant(w).ok_or(Skip::because("its weights are not constant"))?;
    let zero_points = match zero_points {
        None => vec![0],
        Some(value) => {
            let zero_points = constant(value).and_then(small_integers);
            zero_points.ok_or(Skip::because(
                "the zero points of its weights are not constant",
            ))?
        }
    };
    if zero_points.iter().all(|&zero_point| zero_point == 0) && tensor.dtype() == DType::I8 {
        return Ok(tensor.clone());
    }
    if zero_points.len() != 1 && tensor.shape().get(1) != Some(&zero_points.len()) {
        bail!("its weights have not one zero point, or one a column");
    }
    let params = |&zero_point: &i32| QParams {
        scale: 1.0,
        zero_point,
    };
    let params: Vec<QParams> = zero_points.iter().map(params).collect();
    without_zero_points(tensor, 1, &params)
}

/// The scale and zero point of bytes that a `DynamicQuantizeLinear` gives.
fn quantized_in_a_run(graph: &Graph, x: ValueId) -> Result<(ValueId, ValueId), Skip> {
    let producer = graph.value(x).producer().map(|id| graph.node(id));
    match producer.map(|node| (node.op(), node.outputs())) {
        Some((Op::DynamicQuantizeLinear(_), &[bytes, scale, zero_point])) if bytes == x => {
            Ok((scale, zero_point))
        }
        _ => bail!("its first operand is not the result of a DynamicQuantizeLinear"),
    }
}

/// What follows an integer product: the nodes from it to the result in floats, and what they compute with.
struct Chain {
    nodes: Vec<NodeId>,
    w_scales: Vec<f32>,
    bias: Option<Vec<f32>>,
}

impl Chain {
    fn of(graph: &Graph, product: NodeId, x_scale: ValueId, columns: usize) -> Result<Self, Skip> {
        let missing = || Skip::because("its sums are not scaled to floats");
        let only_reader = |id: NodeId| Some(graph.single_use(support::result(graph, id))?.node);
        let cast = only_reader(product).filter(|&id| matches!(graph.node(id).op(), Op::Cast(_)));
        let cast = cast.ok_or_else(missing)?;
        let sums = support::result(graph, cast);
        let scaled = only_reader(cast).filter(|&id| matches!(graph.node(id).op(), Op::Mul(_)));
        let scaled = scaled.ok_or_else(missing)?;
        if support::dtype(graph, sums) != DType::F32 {
            bail!("its sums are not cast to float32");
        }
        let scales = other_operand(graph, scaled, sums).ok_or_else(missing)?;
        let mut chain = Self {
            nodes: vec![product, cast, scaled],
            w_scales: w_scales(graph, scales, x_scale, columns)?,
            bias: None,
        };
        if let Some(add) = only_reader(scaled)
            && matches!(graph.node(add).op(), Op::Add(_))
            && let Some(bias) = other_operand(graph, add, support::result(graph, scaled))
            && let Some(bias) = row(graph, bias, columns).filter(|bias| bias.len() == columns)
        {
            chain.nodes.push(add);
            chain.bias = Some(bias);
        }
        let rank = |id: NodeId| support::rank(graph, support::result(graph, id));
        if chain.nodes.iter().any(|&id| rank(id) != rank(product)) {
            bail!("its scales or bias have more axes than its result");
        }
        Ok(chain)
    }
}

/// The other operand of an operator of two.
fn other_operand(graph: &Graph, id: NodeId, one: ValueId) -> Option<ValueId> {
    match *graph.node(id).inputs() {
        [Some(a), Some(b)] if a == one && b != one => Some(b),
        [Some(a), Some(b)] if b == one && a != one => Some(a),
        _ => None,
    }
}

/// A float constant that broadcasts over rows: one element, or one a column.
fn row(graph: &Graph, value: ValueId, columns: usize) -> Option<Vec<f32>> {
    let shape = graph.value(value).ty().known_shape()?;
    let floats = support::floats(graph, value)?;
    let fits = floats.len() == 1 || (floats.len() == columns && shape.last() == Some(&columns));
    fits.then(|| floats.to_vec())
}

/// The scales of the weights, which `value` is the product of with the scale of the first operand; 1 where it is that scale alone.
fn w_scales(
    graph: &Graph,
    value: ValueId,
    x_scale: ValueId,
    columns: usize,
) -> Result<Vec<f32>, Skip> {
    if value == x_scale {
        return Ok(vec![1.0]);
    }
    let valid = |scales: &Vec<f32>| {
        (scales.iter()).all(|&scale| QParams::new(scale, 0, QuantType::Int8).is_ok())
    };
    let producer = graph.value(value).producer();
    producer
        .filter(|&id| matches!(graph.node(id).op(), Op::Mul(_)))
        .and_then(|id| other_operand(graph, id, x_scale))
        .and_then(|of_weights| row(graph, of_weights, columns))
        .filter(valid)
        .ok_or(Skip::because(
            "the scales of its sums are not those of its operands",
        ))
}
