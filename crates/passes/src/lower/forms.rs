//! The forms that kernels know: linear layers of dequantized weights, float convolutions and pools, parts of splits.

use octofold_ir::{Graph, NodeId, Op, Patch, PatchValue, Use, ValueId};
use octofold_ops::Inputs;
use octofold_ops::families::{Activation, DequantizeLinear};
use octofold_quant::QuantParams;
use octofold_tensor::{Tensor, TensorData};

use crate::fuse::fused_conv;
use crate::lower::params::{dequantized, real_constant};
use crate::lower::parts::SplitParts;
use crate::lower::pool::fused_pool;
use crate::pass::{Pass, PassError};
use crate::pattern::{Match, Pattern};
use crate::rewrite::{Rewrite, Rewriter, Skip};
use crate::{op, support, symbols};

/// Makes `Gemm`, `MatMul` and `MatMul + Add` with dequantized weights linear layers, and weights of 4 bits bytes.
#[derive(Clone, Copy, Debug, Default)]
pub struct LinearForms;

impl Pass for LinearForms {
    fn name(&self) -> &'static str {
        "linear-forms"
    }

    fn run(&self, graph: &mut Graph, rewriter: &mut Rewriter) -> Result<(), PassError> {
        rewriter.apply_rules(
            graph,
            &[&NibbleWeights, &DequantizedLinear, &DequantizedBias],
        )
    }
}

/// Makes float convolutions and pools, and what splits, the operators that kernels know.
#[derive(Clone, Copy, Debug, Default)]
pub struct LowerFloat;

impl Pass for LowerFloat {
    fn name(&self) -> &'static str {
        "lower-float"
    }

    fn run(&self, graph: &mut Graph, rewriter: &mut Rewriter) -> Result<(), PassError> {
        rewriter.apply_rules(graph, &[&FloatWeights, &FloatForm, &SplitParts])
    }
}

/// Integer weights of a layer that stays float become float once, not at each run.
struct FloatWeights;

impl Rewrite for FloatWeights {
    type Found = ();

    fn name(&self) -> &'static str {
        "float-weights"
    }

    fn pattern(&self) -> Pattern {
        let operands = [Pattern::any_constant(), Pattern::any_constant()];
        Pattern::node(op!(DequantizeLinear), operands)
    }

    fn rewrite(&self, graph: &Graph, found: &Match<()>) -> Result<Patch, Skip> {
        let id = found.root();
        let is_weight = |used: Use| {
            let layer = matches!(
                graph.node(used.node).op(),
                Op::Conv(_)
                    | Op::ConvTranspose(_)
                    | Op::FusedConv(_)
                    | Op::FusedLinear(_)
                    | Op::Gemm(_)
                    | Op::MatMul(_)
            );
            layer && used.slot > 0
        };
        let node = graph.node(id);
        let readers = graph.uses(support::result(graph, id));
        if readers.is_empty() || !readers.into_iter().all(is_weight) {
            return Err(Skip::NoMatch);
        }
        let operands = node.inputs().iter();
        let operands: Option<Vec<Option<&Tensor>>> = operands
            .map(|operand| match operand {
                None => Some(None),
                Some(operand) => graph.value(*operand).constant().map(Some),
            })
            .collect();
        let operands = operands.ok_or(Skip::because("the zero point is not constant"))?;
        let evaluated = node.op().evaluate(Inputs(&operands), 1);
        let mut reals = evaluated.map_err(|error| Skip::because(error.to_string()))?;
        let mut patch = Patch::new();
        let name = graph.value(support::result(graph, id)).name();
        let constant = patch.constant(name, reals.swap_remove(0));
        Ok(patch.replace_result(graph, id, constant))
    }
}

/// Constants of 4 bits as bytes: the values and parameters are the same, and kernels read bytes.
struct NibbleWeights;

impl Rewrite for NibbleWeights {
    type Found = ();

    fn name(&self) -> &'static str {
        "nibble-weights"
    }

    fn pattern(&self) -> Pattern {
        let operands = [Pattern::any_constant(), Pattern::any_constant()];
        Pattern::node(op!(DequantizeLinear), operands)
    }

    fn rewrite(&self, graph: &Graph, found: &Match<()>) -> Result<Patch, Skip> {
        let id = found.root();
        let node = graph.node(id);
        let mut patch = Patch::new();
        let mut inputs = graph.operands(id);
        for slot in [0, 2] {
            let Some(value) = node.input(slot) else {
                continue;
            };
            let bytes = graph.value(value).constant().and_then(bytes_of_nibbles);
            let bytes = patch.constant(graph.value(value).name(), bytes.ok_or(Skip::NoMatch)?);
            inputs[slot] = Some(bytes);
        }
        Ok(patch.replace_op(graph, id, node.op().clone(), inputs))
    }
}

/// Elements of 4 bits as bytes of the same sign.
fn bytes_of_nibbles(tensor: &Tensor) -> Option<Tensor> {
    let shape = tensor.shape().iter().copied();
    match tensor.data() {
        TensorData::I4(values) => Tensor::new(shape, values.to_vec()).ok(),
        TensorData::U4(values) => Tensor::new(shape, values.to_vec()).ok(),
        _ => None,
    }
}

struct DequantizedLinear;

impl Rewrite for DequantizedLinear {
    type Found = ();

    fn name(&self) -> &'static str {
        "dequantized-linear"
    }

    fn pattern(&self) -> Pattern {
        let weights = Pattern::any_constant().dequantized();
        Pattern::node(op!(Gemm | MatMul), [Pattern::any(), weights])
    }

    fn rewrite(&self, graph: &Graph, found: &Match<()>) -> Result<Patch, Skip> {
        let id = found.root();
        let node = graph.node(id);
        let (Some(x), Some(w)) = (node.input(0), node.input(1)) else {
            return Err(Skip::NoMatch);
        };
        let transposed = match node.op() {
            Op::Gemm(gemm) if gemm.transA || gemm.alpha != 1.0 || gemm.beta != 1.0 => {
                return Err(Skip::because(
                    "a Gemm with alpha, beta or a transposed first operand has no integer kernel",
                ));
            }
            Op::Gemm(gemm) => gemm.transB,
            _ => false,
        };
        let rank = |value| graph.value(value).ty().rank();
        if rank(w) != Some(2) || rank(x).is_none_or(|rank| rank < 2) {
            return Err(Skip::NoMatch);
        }
        let mut patch = Patch::new();
        let weights = if transposed {
            transpose_weights(graph, &mut patch, w)?
        } else {
            w.into()
        };
        let mut inputs = vec![Some(x.into()), Some(weights)];
        inputs.extend(node.input(2).map(|bias| Some(PatchValue::Existing(bias))));
        if let Some(bias) = node.input(2) {
            let columns = graph
                .value(support::result(graph, id))
                .ty()
                .shape
                .as_ref()
                .and_then(|dims| dims.last()?.known());
            let single_row =
                graph.value(bias).ty().known_shape().is_some_and(|shape| {
                    shape.len() == 1 && shape[0] as i64 == columns.unwrap_or(-1)
                });
            if !single_row {
                return Err(Skip::because("the bias is not one element a column"));
            }
        }
        Ok(patch.replace_op(graph, id, support::float_linear(), inputs))
    }
}

/// The same dequantized weights as [K, N]: the integers are transposed, and the axis of the scales moves.
fn transpose_weights(graph: &Graph, patch: &mut Patch, w: ValueId) -> Result<PatchValue, Skip> {
    let quantized =
        dequantized(graph, w).ok_or(Skip::because("the weights have no constant parameters"))?;
    let producer = graph.value(w).producer().ok_or(Skip::NoMatch)?;
    let tensor = graph
        .value(quantized.value)
        .constant()
        .ok_or(Skip::NoMatch)?;
    let transposed =
        transpose_matrix(tensor).ok_or(Skip::because("the weights are not 8-bit integers"))?;
    let axis = match quantized.params {
        QuantParams::PerTensor(_) => 1,
        QuantParams::PerChannel { axis, .. } => 1_i64 - axis as i64,
    };
    let integers = patch.constant(graph.value(quantized.value).name(), transposed);
    let op = DequantizeLinear {
        axis,
        block_size: 0,
        output_dtype: 0,
    };
    let mut inputs = graph.operands(producer);
    inputs[0] = Some(integers);
    Ok(patch.node(graph.node(producer).name(), op, inputs, vec![]))
}

fn transpose_matrix(tensor: &Tensor) -> Option<Tensor> {
    fn transpose<T: octofold_tensor::Element + Copy>(tensor: &Tensor) -> Option<Tensor> {
        let &[rows, columns] = tensor.shape() else {
            return None;
        };
        let values = tensor.values::<T>().ok()?;
        let moved = (0..rows * columns)
            .map(|i| values[i % rows * columns + i / rows])
            .collect();
        Tensor::new([columns, rows], moved).ok()
    }
    transpose::<i8>(tensor).or_else(|| transpose::<u8>(tensor))
}

symbols! {
    struct Biased { linear: NodeId, bias: ValueId }
}

/// A constant, or dequantized constant, added to a linear layer without bias.
struct DequantizedBias;

impl Rewrite for DequantizedBias {
    type Found = Biased;

    fn name(&self) -> &'static str {
        "dequantized-bias"
    }

    fn pattern(&self) -> Pattern {
        let linear = Pattern::node(op!(FusedLinear), []).named("linear");
        linear + Pattern::value("bias")
    }

    fn rewrite(&self, graph: &Graph, found: &Match<Biased>) -> Result<Patch, Skip> {
        let (id, bias) = (found.linear, found.bias);
        let columns = graph
            .value(support::result(graph, id))
            .ty()
            .shape
            .as_ref()
            .and_then(|dims| dims.last()?.known());
        let shape = graph.value(bias).ty().known_shape().ok_or(Skip::NoMatch)?;
        let fits = shape.len() == 1
            && Some(shape[0] as i64) == columns
            && real_constant(graph, bias).is_some();
        if !fits || graph.node(id).input(2).is_some() {
            return Err(Skip::NoMatch);
        }
        let Op::FusedLinear(op) = graph.node(id).op() else {
            return Err(Skip::NoMatch);
        };
        if op.x.is_some() || op.activation != Activation::None {
            return Err(Skip::NoMatch);
        }
        let mut inputs = graph.operands(id);
        inputs.truncate(2);
        inputs.push(Some(bias.into()));
        Ok(Patch::new().fuse(graph, &[id, found.root()], op.clone(), inputs))
    }
}

struct FloatForm;

impl Rewrite for FloatForm {
    type Found = ();

    fn name(&self) -> &'static str {
        "float-form"
    }

    fn pattern(&self) -> Pattern {
        let accepts = op!(Conv | MaxPool | AveragePool | GlobalMaxPool | GlobalAveragePool);
        Pattern::node(accepts, [])
    }

    fn rewrite(&self, graph: &Graph, found: &Match<()>) -> Result<Patch, Skip> {
        let id = found.root();
        if graph.value(support::result(graph, id)).ty().dtype != octofold_tensor::DType::F32 {
            return Err(Skip::NoMatch);
        }
        let op: Op = match graph.node(id).op() {
            Op::Conv(conv) => fused_conv(graph, id, conv)?.into(),
            _ => fused_pool(graph, id)?,
        };
        Ok(Patch::new().replace_op(graph, id, op, graph.operands(id)))
    }
}
