//! Finds rules that undo each other: sweeps that bring back a graph that was there before.
//!
//! After some sweeps the graph is remembered and compared with those after the following ones; the remembered graph is replaced after twice as many
//! sweeps (Brent, 1980), so that a cycle of any length is found. The comparison is exact: operators, edges and the elements of constants.

use octofold_ir::{Graph, GraphError, Op, ValueId};
use octofold_tensor::Tensor;

use crate::pass::Event;

/// The sweep after which the first graph is remembered. Passes seldom take as many, so looking for a cycle costs nothing.
const FIRST: usize = 4;

/// What a graph computes, without the names.
#[derive(PartialEq)]
struct Form {
    nodes: Vec<(Op, Vec<Operand>)>,
    outputs: Vec<Operand>,
}

#[derive(PartialEq)]
enum Operand {
    Absent,
    Input(usize),
    /// The position of a node, and which of its results.
    Result(usize, usize),
    Constant(Tensor),
}

impl Form {
    fn of(graph: &Graph) -> Result<Self, GraphError> {
        let order = graph.order()?;
        let mut positions = std::collections::BTreeMap::new();
        for (position, &id) in order.iter().enumerate() {
            for (index, &result) in graph.node(id).outputs().iter().enumerate() {
                positions.insert(result, Operand::Result(position, index));
            }
        }
        for (index, &input) in graph.inputs().iter().enumerate() {
            positions.insert(input, Operand::Input(index));
        }
        let operand = |value: ValueId| match (positions.get(&value), graph.value(value).constant())
        {
            (Some(&Operand::Result(position, index)), _) => Operand::Result(position, index),
            (Some(&Operand::Input(index)), _) => Operand::Input(index),
            (_, Some(tensor)) => Operand::Constant(tensor.clone()),
            _ => Operand::Absent,
        };
        let nodes = order.iter().map(|&id| {
            let node = graph.node(id);
            let operands = node.inputs().iter();
            let operands = operands.map(|input| input.map_or(Operand::Absent, operand));
            (node.op().clone(), operands.collect())
        });
        Ok(Self {
            nodes: nodes.collect(),
            outputs: graph
                .outputs()
                .iter()
                .map(|output| operand(output.value))
                .collect(),
        })
    }
}

/// A remembered graph, and what was applied since.
#[derive(Default)]
pub(super) struct Repetition {
    graph: Option<Form>,
    since: Vec<Event>,
}

impl Repetition {
    /// Takes note of a sweep and what it applied; gives the events of the cycle, when the graph is the remembered one again.
    pub(super) fn after(
        &mut self,
        sweep: usize,
        graph: &Graph,
        events: &[Event],
    ) -> Result<Option<Vec<Event>>, GraphError> {
        if sweep < FIRST {
            return Ok(None);
        }
        let form = Form::of(graph)?;
        self.since.extend_from_slice(events);
        if self.graph.as_ref() == Some(&form) {
            return Ok(Some(std::mem::take(&mut self.since)));
        }
        if sweep.is_power_of_two() {
            self.graph = Some(form);
            self.since.clear();
        }
        Ok(None)
    }
}
