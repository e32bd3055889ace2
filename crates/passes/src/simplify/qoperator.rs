//! The quantized layers of ONNX become QDQ groups.
//!
//! `QLinearConv` and `QLinearMatMul` are `DequantizeLinear → Conv or MatMul → QuantizeLinear` in one node. As a group they are lowered
//! to the same kernels, by the same rules, as those of a QDQ model. An integer kernel gives the same result as the node, to the bit. A group
//! that stays float sums reals, so a result between two steps may be rounded to the other one. The parameters must be constant, as quantizers write
//! them; other nodes keep their own, exact implementation.

use octofold_ir::{Graph, NodeId, Op, Patch, PatchValue, ValueId};
use octofold_ops::bail;
use octofold_ops::families::{Conv, DequantizeLinear, MatMul, QuantizeLinear};
use octofold_tensor::{DType, Tensor};

use crate::pass::rule_pass;
use crate::pattern::{Match, Pattern};
use crate::rewrite::{Rewrite, Skip};
use crate::{op, rule, support};

rule_pass! {
    /// Expands quantized layers to QDQ groups.
    pub struct ExpandQOperators("expand-qoperators") = [ConvGroup, MatMulGroup];
}

rule! {
    /// `QLinearConv` as a group.
    struct ConvGroup("qlinear-conv")
}

impl Rewrite for ConvGroup {
    fn pattern(&self) -> Pattern {
        Pattern::node(op!(QLinearConv), [])
    }

    fn rewrite(&self, graph: &Graph, found: &Match<()>) -> Result<Patch, Skip> {
        let mut group = Group::new(graph, found.root());
        let Op::QLinearConv(op) = graph.node(group.id).op() else {
            return Err(Skip::NoMatch);
        };
        let (x_scale, w_scales) = (group.scales(1)?, group.scales(4)?);
        let [x_scale] = x_scale[..] else {
            bail!("the input has more than one scale");
        };
        let mut operands = vec![Some(group.dequantize(0, 1)?), Some(group.dequantize(3, 0)?)];
        if let Some(bias) = graph.node(group.id).input(8) {
            operands.push(Some(group.bias(bias, x_scale, &w_scales)?));
        }
        let conv = Conv {
            auto_pad: op.auto_pad,
            dilations: op.dilations.clone(),
            group: op.group,
            kernel_shape: op.kernel_shape.clone(),
            pads: op.pads.clone(),
            strides: op.strides.clone(),
        };
        group.finish(conv.into(), operands)
    }
}

rule! {
    /// `QLinearMatMul` as a group.
    struct MatMulGroup("qlinear-matmul")
}

impl Rewrite for MatMulGroup {
    fn pattern(&self) -> Pattern {
        Pattern::node(op!(QLinearMatMul), [])
    }

    fn rewrite(&self, graph: &Graph, found: &Match<()>) -> Result<Patch, Skip> {
        let mut group = Group::new(graph, found.root());
        // The first operand has a scale for each row, the second one for each column.
        let rank = support::operand_type(graph, group.id, 0).and_then(|ty| ty.rank());
        let rows = match rank {
            Some(rank) if rank >= 2 => rank as i64 - 2,
            // A vector is one row.
            _ if group.scales(1)?.len() == 1 => 0,
            _ => bail!("the rank of the first operand is not known"),
        };
        let operands = vec![
            Some(group.dequantize(0, rows)?),
            Some(group.dequantize(3, -1)?),
        ];
        group.finish(MatMul {}.into(), operands)
    }
}

/// The group that takes the place of a node.
struct Group<'a> {
    graph: &'a Graph,
    id: NodeId,
    patch: Patch,
}

impl<'a> Group<'a> {
    fn new(graph: &'a Graph, id: NodeId) -> Self {
        Self {
            graph,
            id,
            patch: Patch::new(),
        }
    }

    fn operand(&self, slot: usize) -> Result<ValueId, Skip> {
        self.graph.node(self.id).input(slot).ok_or(Skip::NoMatch)
    }

    /// The elements of the scale at `slot`: one number, or one a channel.
    fn scales(&self, slot: usize) -> Result<Vec<f32>, Skip> {
        let tensor = self.graph.value(self.operand(slot)?).constant();
        let tensor = tensor.ok_or(Skip::because("a scale is not constant"))?;
        let values = tensor.values::<f32>();
        let values = values.map_err(|_| Skip::because("a scale is not of type f32"))?;
        if tensor.rank() > 1 {
            bail!("a scale has more than one axis");
        }
        Ok(values.to_vec())
    }

    /// The scale at `slot` and the zero point at the next slot, of the same shape.
    fn parameters(&mut self, slot: usize) -> Result<[Option<PatchValue>; 2], Skip> {
        let scales = self.scales(slot)?;
        let (scale, zero_point) = (self.operand(slot)?, self.operand(slot + 1)?);
        let tensor = self.graph.value(zero_point).constant();
        let tensor = tensor.ok_or(Skip::because("a zero point is not constant"))?;
        if !matches!(tensor.dtype(), DType::U8 | DType::I8) {
            bail!("a zero point is of type {}", tensor.dtype());
        }
        let zero_point = if tensor.len() == 1 && scales.len() > 1 {
            // All channels have this zero point.
            let repeated = repeat(tensor, scales.len());
            let repeated = repeated.ok_or(Skip::because("a zero point is no byte"))?;
            let name = self.graph.value(zero_point).name();
            self.patch.constant(name, repeated)
        } else {
            zero_point.into()
        };
        Ok([Some(scale.into()), Some(zero_point)])
    }

    /// The real value of the operand at `slot`, by the parameters at the next slots.
    fn dequantize(&mut self, slot: usize, axis: i64) -> Result<PatchValue, Skip> {
        let value = self.operand(slot)?;
        let [scale, zero_point] = self.parameters(slot + 1)?;
        // A single scale has no axis. All such nodes get the same one, so that those of one value can be merged.
        let single = self.scales(slot + 1)?.len() == 1;
        let axis = if single { 1 } else { axis };
        Ok(self.add_dequantize(value, axis, vec![Some(value.into()), scale, zero_point]))
    }

    /// The real value of a bias of i32: its scale is the product of those of the operands.
    fn bias(&mut self, bias: ValueId, x: f32, w: &[f32]) -> Result<PatchValue, Skip> {
        let scales: Vec<f32> = w.iter().map(|w| x * w).collect();
        if !scales.iter().all(|scale| scale.is_normal() && *scale > 0.0) {
            bail!("the scale of the bias is not a positive normal number");
        }
        let tensor = match scales[..] {
            [single] => Tensor::scalar(single),
            _ => Tensor::vector(scales),
        };
        let name = format!("{}_scale", self.graph.value(bias).name());
        let scale = self.patch.constant(name, tensor);
        Ok(self.add_dequantize(bias, 0, vec![Some(bias.into()), Some(scale)]))
    }

    fn add_dequantize(
        &mut self,
        value: ValueId,
        axis: i64,
        inputs: Vec<Option<PatchValue>>,
    ) -> PatchValue {
        let name = format!("{}_DequantizeLinear", self.graph.value(value).name());
        let op = DequantizeLinear {
            axis,
            block_size: 0,
            output_dtype: 0,
        };
        self.patch.node(name, op, inputs, self.sources())
    }

    fn sources(&self) -> Vec<String> {
        self.graph.node(self.id).sources().to_vec()
    }

    /// The layer on reals, which keeps the node's name, and the quantizer of its result.
    fn finish(mut self, layer: Op, operands: Vec<Option<PatchValue>>) -> Result<Patch, Skip> {
        let [scale, zero_point] = self.parameters(6)?;
        if self.scales(6)?.len() != 1 {
            bail!("the result has more than one scale");
        }
        let (name, sources) = (self.graph.node(self.id).name(), self.sources());
        let value = self.patch.node(name, layer, operands, sources.clone());
        let op = QuantizeLinear {
            axis: 1,
            block_size: 0,
            output_dtype: 0,
            precision: 0,
            saturate: true,
        };
        let inputs = vec![Some(value), scale, zero_point];
        let quantized = self
            .patch
            .node(format!("{name}_QuantizeLinear"), op, inputs, sources);
        Ok(self.patch.replace_result(self.graph, self.id, quantized))
    }
}

/// A byte, `count` times.
fn repeat(tensor: &Tensor, count: usize) -> Option<Tensor> {
    if let Ok(&[byte]) = tensor.values::<u8>() {
        return Some(Tensor::vector(vec![byte; count]));
    }
    match tensor.values::<i8>() {
        Ok(&[byte]) => Some(Tensor::vector(vec![byte; count])),
        _ => None,
    }
}
