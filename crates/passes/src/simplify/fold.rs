//! Constant folding: nodes whose results are known are replaced by constants.
//!
//! A result is known when all operands are constants, or when inference followed its contents (the shape arithmetic that
//! exporters leave: `Shape` → `Gather` → `Concat` → `Reshape`). Quantized weights stay quantized: a
//! `DequantizeLinear` of a constant is not folded, since it would make the weights four times larger and hide them from lowering.

use octofold_ir::{Graph, NodeId, Op, Patch, TensorType};
use octofold_ops::Inputs;
use octofold_tensor::{DType, Tensor};

use crate::pass::{Pass, PassError, PassReport};
use crate::support;

/// The largest result that folding makes, in elements.
const MAX_ELEMENTS: usize = 1 << 26;

/// Replaces nodes whose results are known by constants.
#[derive(Clone, Copy, Debug, Default)]
pub struct FoldConstants;

impl Pass for FoldConstants {
    fn name(&self) -> &'static str {
        "fold-constants"
    }

    fn run(&self, graph: &mut Graph) -> Result<PassReport, PassError> {
        let graph_error = |source| PassError::Graph {
            pass: self.name().to_owned(),
            source,
        };
        let mut report = PassReport::default();
        for id in graph.order().map_err(graph_error)? {
            let name = graph.node(id).name().to_owned();
            match known_results(graph, id) {
                Ok(None) => {}
                Err(reason) => report.skipped("fold", &name, reason),
                Ok(Some(tensors)) => {
                    let mut patch = Patch::new();
                    let text = tensors
                        .iter()
                        .map(|tensor| TensorType::of(tensor).to_string());
                    let text = text.collect::<Vec<_>>().join(", ");
                    for (&result, tensor) in graph.node(id).outputs().iter().zip(tensors) {
                        let constant = patch.constant(graph.value(result).name(), tensor);
                        patch.replace(result, constant);
                    }
                    patch.remove(id);
                    graph.apply(patch).map_err(graph_error)?;
                    report.applied("fold", &name, text);
                }
            }
        }
        graph.sweep_constants();
        Ok(report)
    }
}

/// The results of a node, when they are known and may be folded.
fn known_results(graph: &Graph, id: NodeId) -> Result<Option<Vec<Tensor>>, String> {
    let node = graph.node(id);
    if matches!(node.op(), Op::DequantizeLinear(_) | Op::Observe(_)) {
        return Ok(None);
    }
    if let Some(tensors) = known_contents(graph, id) {
        return Ok(Some(tensors));
    }
    let operands: Option<Vec<Option<&Tensor>>> = node
        .inputs()
        .iter()
        .map(|operand| match operand {
            None => Some(None),
            Some(operand) => graph.value(*operand).constant().map(Some),
        })
        .collect();
    let Some(operands) = operands else {
        return Ok(None);
    };
    for &result in node.outputs() {
        let elements = graph
            .value(result)
            .ty()
            .known_shape()
            .map(|shape| shape.iter().product::<usize>());
        if elements.is_some_and(|elements| elements > MAX_ELEMENTS) {
            return Err(format!(
                "the result of {} elements is too large to fold",
                elements.unwrap_or(0)
            ));
        }
    }
    let results = node.op().evaluate(Inputs(&operands), node.outputs().len());
    results.map(Some).map_err(|error| error.to_string())
}

/// Results whose contents inference knows as numbers.
fn known_contents(graph: &Graph, id: NodeId) -> Option<Vec<Tensor>> {
    let results = graph.node(id).outputs().iter().map(|&result| {
        let contents = support::integers(graph, result)?;
        let ty = graph.value(result).ty();
        let shape = ty.known_shape()?;
        match ty.dtype {
            DType::I64 => Tensor::new(shape, contents).ok(),
            DType::I32 => {
                let narrow: Option<Vec<i32>> = contents
                    .into_iter()
                    .map(|x| i32::try_from(x).ok())
                    .collect();
                Tensor::new(shape, narrow?).ok()
            }
            _ => None,
        }
    });
    results.collect()
}
