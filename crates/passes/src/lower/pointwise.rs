//! Functions of one quantized value by table.
//!
//! The operator's portable implementation computes the table from the 256 real values, in f64 where the operator uses it. So every operator that
//! acts element by element is covered, and none can differ from the interpreter. A chain of such operators without a quantizer between them is one
//! function and becomes one table.

use octofold_ir::{Graph, NodeId, Op, Patch, ValueId};
use octofold_ops::Inputs;
use octofold_ops::families::{Activation, Cast, TableLookup};
use octofold_quant::{QuantType, affine, requantize};
use octofold_tensor::{DType, Tensor};

use crate::lower::params::{Quantized, dequantized, output_quantization};
use crate::pattern::{Match, Pattern};
use crate::rewrite::{Rewrite, Skip};
use crate::{op, rule, support};

rule! {
    /// `QuantizeLinear` of a dequantized value: nothing when the parameters are equal, a table when they differ.
    pub(super) struct Requantize("requantize")
}

impl Rewrite for Requantize {
    fn pattern(&self) -> Pattern {
        Pattern::any().dequantized().quantized()
    }

    fn rewrite(&self, graph: &Graph, found: &Match<()>) -> Result<Patch, Skip> {
        let quantize = found.root();
        let x = graph
            .node(quantize)
            .input(0)
            .and_then(|value| dequantized(graph, value));
        let x = x.ok_or(Skip::because("the parameters are not constant"))?;
        if graph.value(x.value).constant().is_some() {
            return Err(Skip::NoMatch);
        }
        let from = x.activation()?;
        let y = output_quantization(graph, quantize, Activation::None)?;
        if x.dtype == y.dtype && from == y.params {
            return Ok(Patch::new().replace_result(graph, quantize, x.value));
        }
        let entries = bytes(x.dtype).map(|q| requantize::rescale(q, from, y.params, y.lo, y.hi));
        let table = table(entries.map(|q| q as u8).collect(), y.dtype);
        Ok(table_patch(graph, &[quantize], quantize, x.value, table))
    }
}

/// Whether an operator computes each element from the elements at the same place, so that with one operand it is a table. The backend decides which of
/// them are quantized.
pub(crate) fn acts_element_by_element(op: &Op) -> bool {
    let others = op!(Relu | Clip | Add | Sub | Mul | Div | Pow | Min | Max | FusedBinary);
    op.float_function().is_some() || others(op)
}

rule! {
    /// A function of one dequantized value, or a chain of them, quantized.
    pub(super) struct QuantizedPointwise("quantized-pointwise") finds Function { function: NodeId }
}

impl Rewrite for QuantizedPointwise {
    fn pattern(&self) -> Pattern {
        let function = Pattern::node(acts_element_by_element, []);
        function.named("function").quantized()
    }

    fn rewrite(&self, graph: &Graph, found: &Match<Function>) -> Result<Patch, Skip> {
        let (id, quantize) = (found.function, found.root());
        let operands = graph.node(id).inputs().iter().flatten();
        let computed = operands.filter(|&&value| graph.value(value).constant().is_none());
        if computed.count() > 1 {
            // `QuantizedBinary` handles sums and products of two values.
            return Err(Skip::NoMatch);
        }
        let (row, x) = row_of_functions(graph, id)?;
        let from = x.activation()?;
        let y = output_quantization(graph, quantize, Activation::None)?;
        let mut reals = Tensor::vector(
            bytes(x.dtype)
                .map(|q| affine::dequantize(q, from))
                .collect(),
        );
        for &(function, slot) in &row {
            reals = function_values(graph, function, slot, &reals)?;
        }
        let reals = reals.values::<f32>()?;
        let entries = reals
            .iter()
            .map(|&real| affine::quantize(real, y.params, y.lo, y.hi) as u8)
            .collect();
        let functions: Vec<NodeId> = row.iter().map(|&(function, _)| function).collect();
        let table = table(entries, y.dtype);
        Ok(table_patch(graph, &functions, quantize, x.value, table))
    }
}

/// The functions that end in the node `last`, in the order of the data flow, each with the slot of its one operand, and the quantized value that the first one
/// takes.
fn row_of_functions(
    graph: &Graph,
    last: NodeId,
) -> Result<(Vec<(NodeId, usize)>, Quantized), Skip> {
    let mut row = Vec::new();
    let mut id = last;
    loop {
        let (slot, value) = single_operand(graph, id).ok_or(Skip::because(
            "it is not a function of one value and single constants",
        ))?;
        row.push((id, slot));
        if let Some(x) = dequantized(graph, value) {
            row.reverse();
            return Ok((row, x));
        }
        // A value with other readers must exist in float.
        let before = graph.single_use(value).and(graph.value(value).producer());
        let before = before.filter(|&id| acts_element_by_element(graph.node(id).op()));
        id = before.ok_or(Skip::because("the input is not quantized"))?;
    }
}

/// The slot and value of the only operand that is not a constant; constants must be single numbers, so that they do not broadcast.
fn single_operand(graph: &Graph, id: NodeId) -> Option<(usize, ValueId)> {
    let mut operands = graph
        .node(id)
        .inputs()
        .iter()
        .enumerate()
        .filter_map(|(slot, value)| Some((slot, (*value)?)));
    let is_parameter = |value: ValueId| support::scalar(graph, value).is_some();
    let computed: Vec<(usize, ValueId)> = operands
        .by_ref()
        .filter(|&(_, value)| !is_parameter(value))
        .collect();
    match computed.as_slice() {
        [single] => Some(*single),
        _ => None,
    }
}

/// The quantized values of the 256 bytes, in the order of the bytes.
fn bytes(dtype: QuantType) -> impl Iterator<Item = i32> {
    (0..=255_u8).map(move |byte| {
        if dtype.is_signed() {
            i32::from(byte as i8)
        } else {
            i32::from(byte)
        }
    })
}

/// What a node gives for 256 real values of its one operand.
fn function_values(graph: &Graph, id: NodeId, slot: usize, reals: &Tensor) -> Result<Tensor, Skip> {
    let node = graph.node(id);
    // Functions of f32 have definitions for kernels; tables take the f64 ones.
    let wide = node.op().float_function().is_some() || matches!(node.op(), Op::Pow(_));
    let wide = wide.then(|| converted(reals, DType::F64)).transpose()?;
    let reals = wide.as_ref().unwrap_or(reals);
    let operands: Vec<Option<&Tensor>> = node
        .inputs()
        .iter()
        .enumerate()
        .map(|(index, value)| {
            if index == slot {
                Some(reals)
            } else {
                value.and_then(|value| graph.value(value).constant())
            }
        })
        .collect();
    let results = node.op().evaluate(Inputs(&operands), 1)?;
    let no_function = Skip::because("the function does not act element by element");
    match results.into_iter().next() {
        Some(values) if values.dtype().is_float() && values.len() == reals.len() => {
            converted(&values, DType::F32)
        }
        _ => Err(no_function),
    }
}

/// The tensor with another element type.
fn converted(tensor: &Tensor, to: DType) -> Result<Tensor, Skip> {
    let cast = Op::from(Cast {
        to,
        saturate: true,
        round_mode: "up".to_owned(),
    });
    let mut results = cast.evaluate(Inputs(&[Some(tensor)]), 1)?;
    Ok(results.remove(0))
}

/// A table of bytes, for results of a type.
fn table(entries: Vec<u8>, dtype: QuantType) -> Tensor {
    if dtype.is_signed() {
        Tensor::vector(entries.into_iter().map(|byte| byte as i8).collect())
    } else {
        Tensor::vector(entries)
    }
}

/// A patch that puts a table over `x` in the place of functions, listed along the data flow, and of the quantizer behind them.
fn table_patch(
    graph: &Graph,
    functions: &[NodeId],
    quantize: NodeId,
    x: ValueId,
    table: Tensor,
) -> Patch {
    let mut patch = Patch::new();
    let last = functions.last().copied().unwrap_or(quantize);
    let name = graph.node(last).name();
    let table = patch.constant(format!("{name}.table"), table);
    let sources = graph.sources_of(functions.iter().copied());
    let operands = [Some(x.into()), Some(table)];
    let made = patch.node(name, TableLookup {}, operands, sources);
    let mut patch = patch.replace_result(graph, quantize, made);
    // Readers go before what they read.
    functions.iter().rev().for_each(|&id| patch.remove(id));
    patch
}
