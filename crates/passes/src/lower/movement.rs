//! Operators that move elements work on bytes. They do not change values, so the result has the parameters of the operand.

use octofold_ir::{Graph, NodeId, Op, Patch, PatchValue, Use, ValueId};
use octofold_ops::bail;
use octofold_ops::families::PadMode;
use octofold_quant::QuantParams;

use crate::convert::integer_tensor;
use crate::lower::params::{Quantized, dequantized, quantizer, real_constant};
use crate::pattern::{Match, Pattern};
use crate::rewrite::{Rewrite, Skip};
use crate::{op, rule, support, symbols};

rule! {
    /// A movement of a dequantized value, quantized. Where the parameters differ, a requantization follows.
    pub(super) struct QuantizedMovement("quantized-movement") finds Movement
}

rule! {
    /// A movement of a dequantized value whose only reader is no quantizer: the integers move, and the reader dequantizes them. So chains of movements, and
    /// movements in front of layers, are on integers in files that quantize the ends of a chain only.
    pub(super) struct MovedIntegers("moved-integers") finds Movement
}

symbols! {
    pub(super) struct Movement { movement: NodeId, dequantize: NodeId }
}

/// An operator that moves elements, of a dequantized value.
fn movement() -> Pattern {
    let movement = Pattern::node(
        op!(Reshape
            | Flatten
            | Squeeze
            | Unsqueeze
            | Transpose
            | Identity
            | Slice
            | Expand
            | Tile
            | DepthToSpace
            | SpaceToDepth
            | Gather
            | Pad
            | Resize),
        [Pattern::any().dequantized().named("dequantize")],
    );
    movement.named("movement")
}

impl Rewrite for QuantizedMovement {
    fn pattern(&self) -> Pattern {
        movement().quantized()
    }

    fn rewrite(&self, graph: &Graph, found: &Match<Movement>) -> Result<Patch, Skip> {
        let (id, quantize) = (found.movement, found.root());
        let mut patch = Patch::new();
        let (x, made) = moved(graph, id, &mut patch)?;
        if quantizer(graph, quantize) == Some((x.dtype, x.params)) {
            patch.replace(support::result(graph, quantize), made);
            patch.remove(quantize);
        } else {
            // The integers move with their own parameters, and a requantization follows.
            if graph.single_use(support::result(graph, id)).is_none() {
                bail!("the moved value is also read in float");
            }
            let real = dequantize_again(graph, found.dequantize, made, &mut patch);
            patch.rewire(
                Use {
                    node: quantize,
                    slot: 0,
                },
                real,
            );
        }
        patch.remove(id);
        Ok(patch)
    }
}

impl Rewrite for MovedIntegers {
    fn pattern(&self) -> Pattern {
        movement()
    }

    fn rewrite(&self, graph: &Graph, found: &Match<Movement>) -> Result<Patch, Skip> {
        let (id, result) = (found.movement, support::result(graph, found.movement));
        let reader = graph.single_use(result).ok_or(Skip::NoMatch)?;
        if matches!(graph.node(reader.node).op(), Op::QuantizeLinear(_)) {
            return Err(Skip::NoMatch);
        }
        let mut patch = Patch::new();
        let (_, made) = moved(graph, id, &mut patch)?;
        let real = dequantize_again(graph, found.dequantize, made, &mut patch);
        patch.replace(result, real);
        patch.remove(id);
        Ok(patch)
    }
}

/// What a movement moves, and the movement of its integers.
fn moved(graph: &Graph, id: NodeId, patch: &mut Patch) -> Result<(Quantized, PatchValue), Skip> {
    let x = graph
        .node(id)
        .input(0)
        .and_then(|value| dequantized(graph, value))
        .ok_or(Skip::because("the input is not quantized"))?;
    x.activation()?;
    if matches!(graph.node(id).op(), Op::Resize(op) if !op.keeps_values()) {
        bail!("only resizing to nearest neighbours keeps values");
    }
    let mut inputs = graph.operands(id);
    inputs[0] = Some(x.value.into());
    let fills = matches!(graph.node(id).op(), Op::Pad(pad) if pad.mode == PadMode::Constant);
    if matches!(graph.node(id).op(), Op::Pad(_)) && !fills && inputs.len() > 2 {
        // A float that the mode does not read.
        inputs[2] = None;
    }
    if fills {
        // The real zero of a pad is the zero point.
        let pads_zero = graph
            .node(id)
            .input(2)
            .is_none_or(|value| real_constant(graph, value).is_some_and(|reals| reals == [0.0]));
        if !pads_zero {
            bail!("of pads with a constant, only one of zeros keeps its parameters");
        }
        let zero_point = x.params.per_tensor().map_or(0, |params| params.zero_point);
        let tensor = integer_tensor(x.dtype, &[], &[zero_point]).map_err(Skip::because)?;
        let value = patch.constant(format!("{}.value", graph.node(id).name()), tensor);
        inputs.resize(inputs.len().max(3), None);
        inputs[2] = Some(value);
    }
    let node = graph.node(id);
    let made = patch.node(
        node.name(),
        node.op().clone(),
        inputs,
        graph.sources_of([id]),
    );
    Ok((x, made))
}

/// The reals of integers that moved, by the parameters of the `DequantizeLinear` before the movement.
fn dequantize_again(
    graph: &Graph,
    dequantize: NodeId,
    integers: PatchValue,
    patch: &mut Patch,
) -> PatchValue {
    let mut operands = graph.operands(dequantize);
    operands[0] = Some(integers);
    let node = graph.node(dequantize);
    patch.node(node.name(), node.op().clone(), operands, vec![])
}

/// Refuses a movement whose `QuantizeLinear` has other parameters than its operand, or several scales.
fn same_parameters(
    after: Option<(octofold_quant::QuantType, QuantParams)>,
    before: (octofold_quant::QuantType, QuantParams),
) -> Result<(), Skip> {
    if before.1.per_tensor().is_none() {
        bail!("values with one scale a channel are not moved as integers");
    }
    if after.is_none() {
        bail!("what reads the result is no quantizer with constant parameters");
    }
    if after == Some(before) {
        Ok(())
    } else {
        bail!("the parameters before and after differ")
    }
}

rule! {
    /// A split of a dequantized value, each part quantized with the same parameters.
    pub(super) struct QuantizedSplit("quantized-split") finds Parts { x: ValueId }
}

impl Rewrite for QuantizedSplit {
    fn pattern(&self) -> Pattern {
        Pattern::node(op!(Split), [Pattern::value("x")])
    }

    fn rewrite(&self, graph: &Graph, found: &Match<Parts>) -> Result<Patch, Skip> {
        let id = found.root();
        let x = dequantized(graph, found.x).ok_or(Skip::NoMatch)?;
        let outputs = graph.node(id).outputs();
        let mut patch = Patch::new();
        let mut inputs: Vec<Option<PatchValue>> = graph.operands(id);
        inputs[0] = Some(x.value.into());
        let op = graph.node(id).op().clone();
        let made = patch.node_with_outputs(
            graph.node(id).name(),
            op,
            inputs,
            outputs.len(),
            graph.sources_of([id]),
        );
        for (&part, new) in outputs.iter().zip(made) {
            let reader = graph.single_use(part).map(|used| used.node);
            let quantize = reader.ok_or(Skip::because("a part is not read by one quantizer"))?;
            same_parameters(quantizer(graph, quantize), (x.dtype, x.params.clone()))?;
            patch.replace(support::result(graph, quantize), new);
            patch.remove(quantize);
        }
        patch.remove(id);
        Ok(patch)
    }
}
