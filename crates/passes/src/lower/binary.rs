//! Sums, products and concatenations of quantized values.

use octofold_ir::{Graph, NodeId, Op, Patch, PatchValue, ValueId};
use octofold_ops::families::{Activation, BinaryForm, BinaryKind, FusedBinary, FusedConcat};
use octofold_ops::{bail, normalize_axis};

use crate::lower::params::{dequantized, output_quantization};
use crate::pattern::{Match, Pattern};
use crate::rewrite::{Rewrite, Skip};
use crate::{op, rule, support};

rule! {
    /// `Add` or `Mul` of two dequantized values, quantized.
    pub(super) struct QuantizedBinary("quantized-binary") finds Binary { binary: NodeId, a: ValueId, b: ValueId }
}

impl Rewrite for QuantizedBinary {
    fn pattern(&self) -> Pattern {
        let operands = [Pattern::value("a"), Pattern::value("b")];
        let binary = Pattern::node(op!(Add | Mul | FusedBinary), operands);
        binary.named("binary").quantized()
    }

    fn rewrite(&self, graph: &Graph, found: &Match<Binary>) -> Result<Patch, Skip> {
        let (id, quantize) = (found.binary, found.root());
        let (kind, activation) = match graph.node(id).op() {
            Op::Add(_) => (BinaryKind::Add, Activation::None),
            Op::Mul(_) => (BinaryKind::Mul, Activation::None),
            Op::FusedBinary(FusedBinary {
                kind,
                form: BinaryForm::Float(activation),
            }) => (*kind, *activation),
            _ => return Err(Skip::NoMatch),
        };
        let operands = (dequantized(graph, found.a), dequantized(graph, found.b));
        let (Some(a), Some(b)) = operands else {
            // `QuantizedPointwise` handles functions of one quantized value.
            return Err(Skip::NoMatch);
        };
        let y = output_quantization(graph, quantize, activation)?;
        if a.dtype != b.dtype || a.dtype != y.dtype {
            bail!("the operands and the result have different types");
        }
        let op = FusedBinary {
            kind,
            form: BinaryForm::Bytes {
                a: a.activation()?,
                b: b.activation()?,
                y,
            },
        };
        let inputs = [Some(a.value.into()), Some(b.value.into())];
        Ok(Patch::new().fuse_with_next(graph, id, quantize, op, inputs))
    }
}

rule! {
    /// `Concat` of dequantized values, quantized.
    pub(super) struct QuantizedConcat("quantized-concat") finds Concatenation { concat: NodeId }
}

impl Rewrite for QuantizedConcat {
    fn pattern(&self) -> Pattern {
        Pattern::node(op!(Concat), []).named("concat").quantized()
    }

    fn rewrite(&self, graph: &Graph, found: &Match<Concatenation>) -> Result<Patch, Skip> {
        let (id, quantize) = (found.concat, found.root());
        let Op::Concat(concat) = graph.node(id).op() else {
            return Err(Skip::NoMatch);
        };
        let rank = support::rank(graph, support::result(graph, id))
            .ok_or(Skip::because("the rank is not known"))?;
        let axis = normalize_axis(concat.axis, rank)? as i64;
        let y = output_quantization(graph, quantize, Activation::None)?;
        let mut inputs: Vec<Option<PatchValue>> = Vec::new();
        let (mut scales, mut zero_points) = (Vec::new(), Vec::new());
        for operand in graph.node(id).inputs() {
            let quantized = operand.and_then(|operand| dequantized(graph, operand));
            let quantized = quantized.ok_or(Skip::because("an operand is not quantized"))?;
            let params = quantized.activation()?;
            if quantized.dtype != y.dtype {
                bail!("the operands and the result have different types");
            }
            inputs.push(Some(quantized.value.into()));
            scales.push(params.scale);
            zero_points.push(i64::from(params.zero_point));
        }
        let op = FusedConcat {
            axis,
            x_scale: scales,
            x_zero_point: zero_points,
            y,
        };
        Ok(Patch::new().fuse_with_next(graph, id, quantize, op, inputs))
    }
}
