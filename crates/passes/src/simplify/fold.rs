//! Constant folding: nodes whose results are known are replaced by constants.
//!
//! A result is known when all operands are constants, or when inference followed its contents (the shape arithmetic that
//! exporters leave: `Shape` → `Gather` → `Concat` → `Reshape`). Quantized weights stay quantized: a
//! `DequantizeLinear` of a constant is not folded, since it would make the weights four times larger and hide them from lowering.
//!
//! A few bytes of a file can expand to gigabytes, or cost hours of work. The graph's [`FoldingBudget`] bounds what all runs of the pass spend
//! together. Nodes that exceed it stay and are computed when the model runs.

use octofold_ir::{FoldingBudget, Graph, NodeId, Op, Patch, TensorType};
use octofold_ops::{Inputs, OpError, cost, within_elements};
use octofold_tensor::{DType, Tensor};

use crate::pass::{Pass, PassError};
use crate::rewrite::Rewriter;
use crate::support;

/// Replaces nodes whose results are known by constants.
#[derive(Clone, Copy, Debug, Default)]
pub struct FoldConstants;

impl Pass for FoldConstants {
    fn name(&self) -> &'static str {
        "fold-constants"
    }

    fn run(&self, graph: &mut Graph, rewriter: &mut Rewriter) -> Result<(), PassError> {
        let mut left = graph.folding();
        for id in rewriter.order(graph)? {
            let name = graph.node(id).name().to_owned();
            match known_results(graph, id, &mut left) {
                Ok(None) => {}
                Err(reason) => rewriter.report.skipped("fold", &name, reason),
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
                    rewriter.apply(graph, patch)?;
                    rewriter.report.applied("fold", &name, text);
                }
            }
        }
        graph.set_folding(left);
        graph.sweep_constants();
        Ok(())
    }
}

/// The bytes of a constant's elements.
fn bytes_of(tensor: &Tensor) -> u64 {
    (tensor.len() as u64).saturating_mul(tensor.dtype().size().unwrap_or(1) as u64)
}

/// The results of a node, when they are known and the budget allows folding them. Subtracts their cost from the budget.
fn known_results(
    graph: &Graph,
    id: NodeId,
    left: &mut FoldingBudget,
) -> Result<Option<Vec<Tensor>>, String> {
    let node = graph.node(id);
    // What runs bodies is not folded: how long that takes is not known before.
    let stays = matches!(node.op(), Op::DequantizeLinear(_) | Op::Observe(_));
    if stays || !node.op().bodies().is_empty() {
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
    let shapes: Vec<Option<&[usize]>> = operands
        .iter()
        .map(|operand| operand.map(Tensor::shape))
        .collect();
    let known: Vec<Vec<usize>> = node
        .outputs()
        .iter()
        .map(|&result| graph.value(result).ty().known_shape().unwrap_or_default())
        .collect();
    let results: Vec<&[usize]> = known.iter().map(Vec::as_slice).collect();
    let operations = cost::operations(node.op(), &shapes, &results);
    if operations > left.operations {
        return Err(format!(
            "folding it takes {operations} operations, of the budget {} are left (fold-operations)",
            left.operations
        ));
    }
    // Constants that only this node reads are removed with it.
    let freed = node.inputs().iter().flatten().filter_map(|&operand| {
        graph.single_use(operand)?;
        graph.value(operand).constant().map(bytes_of)
    });
    let room = freed.fold(left.bytes, u64::saturating_add);
    let element = node.outputs().iter().map(|&result| {
        let dtype = support::dtype(graph, result);
        dtype.size().unwrap_or(1) as u64
    });
    let elements = room / element.max().unwrap_or(1).max(1);
    let tensors = within_elements(usize::try_from(elements).unwrap_or(usize::MAX), || {
        node.op().evaluate(Inputs(&operands), node.outputs().len())
    });
    let beyond = |count: &dyn std::fmt::Display| {
        format!(
            "folding it makes {count} elements, of the budget {room} bytes are left (fold-bytes)"
        )
    };
    let tensors = tensors.map_err(|error| match error {
        OpError::TooLarge(count) => beyond(&count),
        other => other.to_string(),
    })?;
    let made = tensors.iter().map(bytes_of).fold(0, u64::saturating_add);
    if made > room {
        let count: usize = tensors.iter().map(Tensor::len).sum();
        return Err(beyond(&count));
    }
    left.operations -= operations;
    left.bytes = left.bytes.min(room - made);
    Ok(Some(tensors))
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

#[cfg(test)]
mod tests {
    use octofold_ir::text::parse;

    use super::*;

    /// Folds a text under a budget; gives the operators that are left and what was reported.
    fn fold(text: &str, bytes: u64, operations: u64) -> (Vec<&'static str>, String) {
        let mut graph = parse(text, None).expect("a sound graph");
        graph.set_folding(FoldingBudget { bytes, operations });
        let mut rewriter = Rewriter::new(FoldConstants.name());
        let run = FoldConstants.run(&mut graph, &mut rewriter);
        run.expect("a sound graph");
        let order = graph.order().expect("no cycle");
        let operators = order.into_iter().map(|id| graph.node(id).op().name());
        (operators.collect(), format!("{:?}", rewriter.report))
    }

    #[test]
    fn folding_keeps_to_its_budget_of_bytes() {
        let text = "net (float[8,8] x) => (float[8,8] y) <int64[2] s = {8, 8}> {
            a = ConstantOfShape(s)
            b = Add(x, a)
            c = ConstantOfShape <value = float[1] {2.0}> (s)
            y = Add(b, c)
        }";
        // Each result takes 256 bytes; the sizes, of 16 bytes, go with their last reader.
        assert_eq!(fold(text, 512, 1 << 20).0, ["Add", "Add"]);
        let (operators, report) = fold(text, 400, 1 << 20);
        assert_eq!(operators.len(), 3);
        assert!(report.contains("fold-bytes"), "{report}");
        assert_eq!(fold(text, 0, 1 << 20).0.len(), 4);
    }

    #[test]
    fn folding_keeps_to_its_budget_of_operations() {
        let text = "net (float[1] x) => (float[4,4] y) <float[4,4] w = {1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16}> {
            a = MatMul(w, w)
            y = Add(a, x)
        }";
        // 64 products, and 48 elements that are read and written.
        assert_eq!(fold(text, 1 << 20, 112).0, ["Add"]);
        let (operators, report) = fold(text, 1 << 20, 111);
        assert_eq!(operators, ["MatMul", "Add"]);
        assert!(report.contains("fold-operations"), "{report}");
    }

    /// A transposed weight takes the place of the weight, whatever the budget.
    #[test]
    fn what_replaces_its_operand_needs_no_bytes() {
        let text = "net (float[1] x) => (float[2,2] y) <float[2,2] w = {1,2,3,4}> {
            a = Transpose <perm = [1, 0]> (w)
            y = Add(a, x)
        }";
        assert_eq!(fold(text, 0, 1 << 10).0, ["Add"]);
    }
}
