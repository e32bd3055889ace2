//! The interpreter: runs a graph node by node with the portable operators. It is slow, and the oracle for everything fast.

use std::collections::HashMap;

use octofold_ops::Inputs;
use octofold_tensor::{Dim, Symbols, Tensor};

use crate::{Graph, GraphError, ValueId};

/// Runs a graph on inputs by name; gives the outputs in order.
///
/// # Errors
/// When an input is missing or does not fit its declared type, or an operator refuses its inputs.
pub fn interpret(graph: &Graph, inputs: &[(&str, Tensor)]) -> Result<Vec<Tensor>, GraphError> {
    interpret_with(graph, inputs, |_, _| {})
}

/// As [`interpret`], showing every computed value to `tap` as soon as it is known.
///
/// # Errors
/// As [`interpret`].
pub fn interpret_with(
    graph: &Graph,
    inputs: &[(&str, Tensor)],
    mut tap: impl FnMut(ValueId, &Tensor),
) -> Result<Vec<Tensor>, GraphError> {
    let mut values: HashMap<ValueId, Tensor> = HashMap::new();
    let mut symbols = Symbols::new();
    for &id in graph.inputs() {
        let value = graph.value(id);
        let fail = |reason: String| GraphError::Input {
            input: value.name().to_owned(),
            reason,
        };
        let given = inputs.iter().find(|(name, _)| *name == value.name());
        let (_, tensor) = given.ok_or_else(|| fail("is not given".to_owned()))?;
        let fits = tensor.dtype() == value.ty().dtype
            && shape_fits(value.ty().shape.as_deref(), tensor.shape(), &mut symbols);
        if !fits {
            return Err(fail(format!(
                "{}{:?} does not fit {}",
                tensor.dtype(),
                tensor.shape(),
                value.ty()
            )));
        }
        tap(id, tensor);
        values.insert(id, tensor.clone());
    }
    let order = graph.order()?;
    // A value is dropped after its last use, so that memory stays that of the widest moment.
    let mut last_use: HashMap<ValueId, usize> = HashMap::new();
    for (position, &id) in order.iter().enumerate() {
        for &operand in graph.node(id).inputs().iter().flatten() {
            last_use.insert(operand, position);
        }
    }
    for (position, &id) in order.iter().enumerate() {
        let node = graph.node(id);
        let operands: Vec<Option<&Tensor>> = node
            .inputs()
            .iter()
            .map(|operand| {
                operand.and_then(|operand| {
                    graph
                        .value(operand)
                        .constant()
                        .or_else(|| values.get(&operand))
                })
            })
            .collect();
        let results = node.op().evaluate(Inputs(&operands), node.outputs().len());
        let results = results.map_err(|source| GraphError::Op {
            node: node.name().to_owned(),
            op: node.op().name().to_owned(),
            source: Box::new(source),
        })?;
        for (&value, tensor) in node.outputs().iter().zip(results) {
            tap(value, &tensor);
            values.insert(value, tensor);
        }
        for &operand in node.inputs().iter().flatten() {
            if last_use.get(&operand) == Some(&position) && !graph.is_output(operand) {
                values.remove(&operand);
            }
        }
    }
    let outputs = graph.outputs().iter().map(|output| {
        let constant = graph.value(output.value).constant();
        let tensor = constant.or_else(|| values.get(&output.value));
        tensor.cloned().ok_or_else(|| GraphError::Input {
            input: output.name.clone(),
            reason: "the output was not computed".to_owned(),
        })
    });
    outputs.collect()
}

/// Whether sizes fit declared dimensions; binds symbols on their first sight.
fn shape_fits(declared: Option<&[Dim]>, shape: &[usize], symbols: &mut Symbols) -> bool {
    let Some(declared) = declared else {
        return true;
    };
    declared.len() == shape.len()
        && declared.iter().zip(shape).all(|(dim, &size)| {
            let size = i64::try_from(size).unwrap_or(i64::MAX);
            match dim {
                Dim::Symbol(name) => *symbols.entry(name.clone()).or_insert(size) == size,
                other => other.evaluate(symbols) == Ok(size),
            }
        })
}
