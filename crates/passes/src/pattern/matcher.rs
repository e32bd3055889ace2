//! The matcher: all matches of a pattern at a node, the preferred one first.
//!
//! It keeps a list of goals, each a pattern and the value that it must match, and backtracks over alternatives and over the orders of commutative
//! operands. Patterns are small and known when the program is built, so the number of matches at a node is small.

use std::ops::Deref;

use octofold_ir::{Graph, NodeId, Op, Patch, PatchValue, ValueId};
use octofold_tensor::{bf16, f16};

use super::{Form, Pattern, Symbols};
use crate::support;

/// What the parts of a pattern matched: the nodes from the result back, and the values with a symbol.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Bindings {
    nodes: Vec<(Option<&'static str>, NodeId)>,
    values: Vec<(&'static str, ValueId)>,
}

impl Bindings {
    /// The node of a symbol.
    pub fn node(&self, symbol: &str) -> Option<NodeId> {
        let mut nodes = self.nodes.iter();
        let (_, id) = nodes.find(|(name, _)| *name == Some(symbol))?;
        Some(*id)
    }

    /// The value of a symbol.
    pub fn value(&self, symbol: &str) -> Option<ValueId> {
        let mut values = self.values.iter();
        let (_, id) = values.find(|(name, _)| *name == symbol)?;
        Some(*id)
    }

    /// All nodes that the pattern matched, from the result back.
    pub fn nodes(&self) -> impl DoubleEndedIterator<Item = NodeId> {
        self.nodes.iter().map(|(_, id)| *id)
    }

    /// Binds a value to a symbol, which may be bound to the same value already.
    fn bind_value(&mut self, symbol: &'static str, value: ValueId) -> bool {
        let bound = self.value(symbol);
        if bound.is_none() {
            self.values.push((symbol, value));
        }
        bound.is_none_or(|bound| bound == value)
    }
}

/// A match of a pattern; its symbols are read as fields: `found.x`.
#[derive(Clone, Debug)]
pub struct Match<S> {
    root: NodeId,
    nodes: Vec<NodeId>,
    symbols: S,
}

impl<S> Deref for Match<S> {
    type Target = S;

    fn deref(&self) -> &S {
        &self.symbols
    }
}

impl<S: Symbols> Match<S> {
    /// The match at a node with the symbols of a checked pattern.
    pub(crate) fn new(root: NodeId, found: &Bindings) -> Option<Self> {
        Some(Self {
            root,
            nodes: found.nodes().collect(),
            symbols: S::bind(found)?,
        })
    }

    /// The node at which the pattern matched.
    pub fn root(&self) -> NodeId {
        self.root
    }

    /// All nodes that the pattern matched, from the result back.
    pub fn nodes(&self) -> impl DoubleEndedIterator<Item = NodeId> {
        self.nodes.iter().copied()
    }

    /// A patch that puts one node in the place of the whole match. It has the name of the root and stands for the sources of all nodes.
    pub fn replace_by(
        &self,
        graph: &Graph,
        op: impl Into<Op>,
        inputs: impl IntoIterator<Item = Option<PatchValue>>,
    ) -> Patch {
        let mut patch = Patch::new();
        let sources = graph.sources_of(self.nodes().rev());
        let made = patch.node(graph.node(self.root).name(), op, inputs, sources);
        patch.replace(support::result(graph, self.root), made);
        self.nodes().for_each(|node| patch.remove(node));
        patch
    }
}

/// A pattern and the operand that it must match.
type Goal<'p> = (&'p Pattern, Option<ValueId>);

struct Search<'g> {
    graph: &'g Graph,
    bindings: Bindings,
    found: Vec<Bindings>,
}

impl Pattern {
    /// All matches of the pattern at a node, in the order in which alternatives and operands are written.
    pub fn matches(&self, graph: &Graph, root: NodeId) -> Vec<Bindings> {
        let mut search = Search {
            graph,
            bindings: Bindings::default(),
            found: Vec::new(),
        };
        if let Some(node) = graph.get_node(root) {
            search.solve(vec![(self, node.outputs().first().copied())]);
        }
        search.found
    }
}

/// Whether a constant is a number, or that number in half precision.
fn is_number(constant: f32, number: f32) -> bool {
    constant == number
        || constant == f16::from_f32(number).to_f32()
        || constant == bf16::from_f32(number).to_f32()
}

impl<'g> Search<'g> {
    /// Adds all matches in which the goals, the next of which comes last, are met under the bindings so far.
    fn solve<'p>(&mut self, mut goals: Vec<Goal<'p>>) {
        let Some(goal) = goals.pop() else {
            self.found.push(self.bindings.clone());
            return;
        };
        let mark = (self.bindings.nodes.len(), self.bindings.values.len());
        for further in self.meet(goal) {
            let goals = goals.iter().copied();
            self.solve(goals.chain(further.into_iter().rev()).collect());
        }
        self.bindings.nodes.truncate(mark.0);
        self.bindings.values.truncate(mark.1);
    }

    /// The ways to meet a goal, each with the goals that are then left; binds the goal's own symbol.
    fn meet<'p>(&mut self, (pattern, value): Goal<'p>) -> Vec<Vec<Goal<'p>>> {
        let graph = self.graph;
        if let (Form::Node { .. }, Some(value)) = (&pattern.form, value) {
            return self.meet_node(pattern, value);
        }
        let matches = match (&pattern.form, value) {
            (Form::Absent, None) | (Form::AnyOf(_), _) | (Form::Any, Some(_)) => true,
            (Form::Constant, Some(value)) => graph.value(value).constant().is_some(),
            (Form::Number(number), Some(value)) => {
                support::floats(graph, value).is_some_and(|all| {
                    !all.is_empty() && all.iter().all(|one| is_number(*one, *number))
                })
            }
            _ => false,
        };
        if !matches
            || !pattern
                .symbol
                .zip(value)
                .is_none_or(|(symbol, value)| self.bindings.bind_value(symbol, value))
        {
            return vec![];
        }
        match &pattern.form {
            Form::AnyOf(alternatives) => alternatives
                .iter()
                .map(|alternative| vec![(alternative, value)])
                .collect(),
            _ => vec![vec![]],
        }
    }

    fn meet_node<'p>(&mut self, pattern: &'p Pattern, value: ValueId) -> Vec<Vec<Goal<'p>>> {
        let Form::Node {
            accepts,
            operands,
            commutative,
        } = &pattern.form
        else {
            return vec![];
        };
        let Some(id) = self.graph.value(value).producer() else {
            return vec![];
        };
        let node = self.graph.node(id);
        if node.outputs().first() != Some(&value) || !accepts(node.op()) {
            return vec![];
        }
        self.bindings.nodes.push((pattern.symbol, id));
        let goals = operands.iter().enumerate();
        let straight: Vec<Goal<'p>> = goals
            .map(|(slot, operand)| (operand, node.input(slot)))
            .collect();
        let mut orders = vec![straight];
        if *commutative && node.input(0) != node.input(1) {
            let mut crossed = orders[0].clone();
            (crossed[0].1, crossed[1].1) = (crossed[1].1, crossed[0].1);
            orders.push(crossed);
        }
        orders
    }
}
