//! Operators become those that have kernels: linear layers of dequantized weights, float convolutions and pools, parts of splits.

use octofold_ir::{Graph, Op, Patch, Role, Use};
use octofold_ops::Inputs;
use octofold_ops::families::DequantizeLinear;
use octofold_quant::QuantParams;
use octofold_tensor::{Tensor, TensorData};

use crate::fuse::fused_conv;
use crate::linear::{LinearBias, LinearForm, SplitGemm, Weights};
use crate::lower::params::dequantized;
use crate::lower::parts::SplitParts;
use crate::lower::pool::fused_pool;
use crate::pass::rule_pass;
use crate::pattern::{Match, Pattern};
use crate::rewrite::{Rewrite, Skip};
use crate::{op, rule, support};

rule_pass! {
    /// Makes `Gemm`, `MatMul` and `MatMul + Add` with dequantized weights linear layers, stores weights of 4 bits as bytes, and moves integer weights
    /// in the place of their reals.
    pub struct LinearForms("linear-forms") = [
        NibbleWeights,
        MovedWeights,
        LinearForm(Weights::Dequantized),
        SplitGemm(Weights::Dequantized),
        LinearBias,
    ];
}

rule_pass! {
    /// Makes float convolutions and pools, and splits, operators that have kernels.
    pub struct LowerFloat("lower-float") = [FloatWeights, FloatForm, SplitParts];
}

rule! {
    /// Integer weights of a layer that stays float are dequantized now instead of at each run.
    struct FloatWeights("float-weights")
}

impl Rewrite for FloatWeights {
    fn pattern(&self) -> Pattern {
        let operands = [Pattern::any_constant(), Pattern::any_constant()];
        Pattern::node(op!(DequantizeLinear), operands)
    }

    fn rewrite(&self, graph: &Graph, found: &Match<()>) -> Result<Patch, Skip> {
        let id = found.root();
        let is_weight = |used: Use| {
            let op = graph.node(used.node).op();
            let layer = matches!(
                op,
                Op::Conv(_)
                    | Op::ConvTranspose(_)
                    | Op::FusedConv(_)
                    | Op::FusedLinear(_)
                    | Op::Gemm(_)
                    | Op::Lstm(_)
                    | Op::Gru(_)
                    | Op::Rnn(_)
            );
            let second = matches!(op, Op::MatMul(_)) && used.slot == 1;
            second || layer && matches!(op.role(used.slot), Some(Role::Weight | Role::Bias))
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
        let mut reals = node.op().evaluate(Inputs(&operands), 1)?;
        let mut patch = Patch::new();
        let name = graph.value(support::result(graph, id)).name();
        let constant = patch.constant(name, reals.swap_remove(0));
        Ok(patch.replace_result(graph, id, constant))
    }
}

rule! {
    /// Stores constants of 4 bits as bytes, which kernels read. Values and parameters stay the same.
    struct NibbleWeights("nibble-weights")
}

impl Rewrite for NibbleWeights {
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

rule! {
    /// A movement of a dequantized constant becomes a dequantized constant, so that layers find their integers.
    struct MovedWeights("moved-weights")
}

impl Rewrite for MovedWeights {
    fn pattern(&self) -> Pattern {
        let weights = Pattern::any_constant().dequantized();
        let accepts = op!(Transpose | Reshape | Flatten | Squeeze | Unsqueeze | Identity);
        Pattern::node(accepts, [weights])
    }

    fn rewrite(&self, graph: &Graph, found: &Match<()>) -> Result<Patch, Skip> {
        let id = found.root();
        let node = graph.node(id);
        let real = node.input(0).ok_or(Skip::NoMatch)?;
        let (Some(quantized), Some(dequantize)) =
            (dequantized(graph, real), graph.value(real).producer())
        else {
            return Err(Skip::because("the weights have no constant parameters"));
        };
        let constants = node.inputs().iter().map(|operand| match operand {
            Some(operand) if *operand == real => Some(graph.value(quantized.value).constant()),
            Some(operand) => graph.value(*operand).constant().map(Some),
            None => Some(None),
        });
        let constants: Option<Vec<_>> = constants.collect();
        let constants = constants.ok_or(Skip::because("the movement is not constant"))?;
        let before = constants.first().copied().flatten().ok_or(Skip::NoMatch)?;
        let moved = node.op().evaluate(Inputs(&constants), 1)?.swap_remove(0);
        let axis = match quantized.params {
            QuantParams::PerTensor(_) => 0,
            QuantParams::PerChannel { axis, .. } => {
                let axis = moved_axis(node.op(), axis, before.shape(), moved.shape());
                axis.ok_or(Skip::because("the movement splits the axis of the scales"))?
            }
        };
        let op = DequantizeLinear {
            axis: axis as i64,
            block_size: 0,
            output_dtype: 0,
        };
        let mut patch = Patch::new();
        let mut inputs = graph.operands(dequantize);
        inputs[0] = Some(patch.constant(graph.value(quantized.value).name(), moved));
        Ok(patch.replace_op(graph, id, op, inputs))
    }
}

/// Where a movement takes an axis, if it stays one axis.
fn moved_axis(op: &Op, axis: usize, before: &[usize], after: &[usize]) -> Option<usize> {
    if let Op::Transpose(op) = op {
        let axes = op.axes(before.len()).ok()?;
        return axes.iter().position(|&from| from == axis);
    }
    let elements = |shape: &[usize]| shape.iter().product::<usize>();
    (0..after.len()).find(|&new| {
        after[new] == before[axis] && elements(&after[..new]) == elements(&before[..axis])
    })
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

rule! {
    struct FloatForm("float-form")
}

impl Rewrite for FloatForm {
    fn pattern(&self) -> Pattern {
        let accepts = op!(Conv | MaxPool | AveragePool | GlobalMaxPool | GlobalAveragePool);
        Pattern::node(accepts, [])
    }

    fn rewrite(&self, graph: &Graph, found: &Match<()>) -> Result<Patch, Skip> {
        let id = found.root();
        if support::dtype(graph, support::result(graph, id)) != octofold_tensor::DType::F32 {
            return Err(Skip::NoMatch);
        }
        let op: Op = match graph.node(id).op() {
            Op::Conv(conv) => fused_conv(graph, id, conv)?.into(),
            _ => fused_pool(graph, id)?,
        };
        Ok(Patch::new().replace_op(graph, id, op, graph.operands(id)))
    }
}
