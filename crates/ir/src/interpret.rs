//! The interpreter: runs a graph node by node with the portable operators. It is slow, and the oracle for everything fast.

use std::collections::HashMap;

use octofold_ops::{Bodies, BodyId, Inputs, OpError, cost};
use octofold_tensor::{DType, Dim, Shape, Symbols, Tensor};

use crate::{Graph, GraphError, NodeId, ValueId};

/// What the bodies of a run may take: a few bytes of a file can ask for any number of trips.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BodyLimits {
    /// The bytes that operators keep while they run bodies.
    pub bytes: u64,
    /// The elementary operations of all nodes that run in bodies, at least [`cost::STEP`] for each.
    pub operations: u64,
}

impl Default for BodyLimits {
    fn default() -> Self {
        Self {
            bytes: 4 << 30,
            operations: cost::BODY_OPERATIONS,
        }
    }
}

/// Runs a graph on inputs by name; gives the outputs in order.
///
/// # Errors
/// When an input is missing or does not fit its declared type, or an operator refuses its inputs.
pub fn interpret(graph: &Graph, inputs: &[(&str, Tensor)]) -> Result<Vec<Tensor>, GraphError> {
    interpret_with(graph, inputs, |_, _| {})
}

/// As [`interpret`], showing every computed value to `tap` as soon as it is known. Values in bodies are not shown.
///
/// # Errors
/// As [`interpret`].
pub fn interpret_with(
    graph: &Graph,
    inputs: &[(&str, Tensor)],
    mut tap: impl FnMut(ValueId, &Tensor),
) -> Result<Vec<Tensor>, GraphError> {
    let limits = BodyLimits::default();
    interpret_within(graph, inputs, limits, &mut tap)
}

/// As [`interpret_with`], with other limits than the default ones.
///
/// # Errors
/// As [`interpret`], and when a limit is reached.
pub fn interpret_within(
    graph: &Graph,
    inputs: &[(&str, Tensor)],
    limits: BodyLimits,
    tap: &mut dyn FnMut(ValueId, &Tensor),
) -> Result<Vec<Tensor>, GraphError> {
    let given = graph.inputs().iter().map(|&id| {
        let name = graph.value(id).name();
        let given = inputs.iter().find(|(input, _)| *input == name);
        let missing = || GraphError::Input {
            input: name.to_owned(),
            reason: "is not given".to_owned(),
        };
        given.map(|(_, tensor)| tensor.clone()).ok_or_else(missing)
    });
    let given: Vec<Tensor> = given.collect::<Result<_, _>>()?;
    let mut left = limits;
    let mut frame = Frame {
        graph,
        limits,
        left: &mut left,
        in_body: false,
    };
    frame.run(&given, tap)
}

/// One graph that is run: the model itself or a body.
struct Frame<'a> {
    graph: &'a Graph,
    limits: BodyLimits,
    /// What is left of the limits.
    left: &'a mut BodyLimits,
    in_body: bool,
}

impl Frame<'_> {
    fn run(
        &mut self,
        given: &[Tensor],
        tap: &mut dyn FnMut(ValueId, &Tensor),
    ) -> Result<Vec<Tensor>, GraphError> {
        let graph = self.graph;
        let mut values = bind(graph, given)?;
        for &id in graph.inputs() {
            tap(id, &values[&id]);
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
            let results = self.node(id, &values).map_err(|source| GraphError::Op {
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

    fn node(
        &mut self,
        id: NodeId,
        values: &HashMap<ValueId, Tensor>,
    ) -> Result<Vec<Tensor>, OpError> {
        let node = self.graph.node(id);
        let constant = |operand| self.graph.value(operand).constant();
        let operands: Vec<Option<&Tensor>> = node
            .inputs()
            .iter()
            .map(|operand| operand.and_then(|id| constant(id).or_else(|| values.get(&id))))
            .collect();
        self.count(cost::STEP)?;
        let outputs = node.outputs().len();
        let results = node.op().evaluate_with(Inputs(&operands), outputs, self)?;
        if self.in_body {
            let shapes: Vec<Option<&[usize]>> = operands
                .iter()
                .map(|operand| operand.map(Tensor::shape))
                .collect();
            let made: Vec<&[usize]> = results.iter().map(Tensor::shape).collect();
            self.count(cost::operations(node.op(), &shapes, &made))?;
        }
        Ok(results)
    }

    /// Counts operations, when this is a body.
    fn count(&mut self, operations: u64) -> Result<(), OpError> {
        if self.in_body {
            let left = self.left.operations.checked_sub(operations);
            self.left.operations = left.ok_or(OpError::Operations(self.limits.operations))?;
        }
        Ok(())
    }
}

impl Bodies for Frame<'_> {
    fn call(
        &mut self,
        body: BodyId,
        inputs: &[Tensor],
        outputs: &mut Vec<Tensor>,
    ) -> Result<(), OpError> {
        let missing = || OpError::invalid("its body does not exist");
        let mut frame = Frame {
            graph: self.graph.body(body).ok_or_else(missing)?,
            limits: self.limits,
            left: self.left,
            in_body: true,
        };
        let results = frame.run(inputs, &mut |_, _| {});
        *outputs = results.map_err(|error| match error {
            GraphError::Op { node, source, .. } => OpError::Body { node, source },
            other => OpError::invalid(other.to_string()),
        })?;
        Ok(())
    }

    fn output(&self, body: BodyId, slot: usize) -> Option<(DType, Shape)> {
        let body = self.graph.body(body)?;
        let ty = body.value(body.outputs().get(slot)?.value).ty();
        let size = |dim: &Dim| dim.known().and_then(|size| usize::try_from(size).ok());
        let sizes = ty.shape.iter().flatten();
        Some((ty.dtype, sizes.map(|dim| size(dim).unwrap_or(0)).collect()))
    }

    fn keep(&mut self, bytes: u64) -> Result<(), OpError> {
        let left = self.left.bytes.checked_sub(bytes);
        self.left.bytes = left.ok_or(OpError::Bytes(self.limits.bytes))?;
        Ok(())
    }
}

/// The inputs of a graph, checked.
fn bind(graph: &Graph, given: &[Tensor]) -> Result<HashMap<ValueId, Tensor>, GraphError> {
    let mut symbols = Symbols::new();
    let mut values = HashMap::new();
    let found = given.len();
    if found != graph.inputs().len() {
        return Err(GraphError::Input {
            input: graph.name().to_owned(),
            reason: format!("{found} inputs are given for {}", graph.inputs().len()),
        });
    }
    for (&id, tensor) in graph.inputs().iter().zip(given) {
        let value = graph.value(id);
        let fits = tensor.dtype() == value.ty().dtype
            && shape_fits(value.ty().shape.as_deref(), tensor.shape(), &mut symbols);
        if !fits {
            return Err(GraphError::Input {
                input: value.name().to_owned(),
                reason: format!(
                    "{}{:?} does not fit {}",
                    tensor.dtype(),
                    tensor.shape(),
                    value.ty()
                ),
            });
        }
        values.insert(id, tensor.clone());
    }
    Ok(values)
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
