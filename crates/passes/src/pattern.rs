//! Patterns over the data flow, and their matcher.
//!
//! A pattern describes a value by what computes it, from the result back to the operands: `relu(conv(x, w))` is the pattern of a value that a
//! ReLU computes from the result of a convolution. Symbols bind the values and nodes that a rewrite needs.
//! Matching backtracks over alternatives and over the operand order of commutative operators. Whether a
//! value in the middle has other uses is not the pattern's matter: the driver refuses patches that would break them.

use octofold_ir::{Graph, NodeId, Op, ValueId};

/// A predicate over operators, made by [`op!`](crate::op).
pub type Accepts = fn(&Op) -> bool;

/// A predicate that accepts the listed variants of [`Op`].
#[macro_export]
macro_rules! op {
    ($($variant:ident)|+) => {
        |op: &octofold_ir::Op| matches!(op, $(octofold_ir::Op::$variant(_))|+)
    };
}

/// The shape of a value's computation.
#[derive(Clone, Debug)]
pub enum Pattern {
    /// Any value, bound to a symbol. A symbol that occurs twice must be the same value.
    Value(&'static str),
    /// A constant, bound to a symbol.
    Constant(&'static str),
    /// A value that a node computes as its first result.
    Node {
        /// The symbol of the node.
        symbol: &'static str,
        /// The operators that match.
        accepts: Accepts,
        /// The patterns of the leading operands; further operands are free.
        operands: Vec<Pattern>,
        /// Whether the first two operands may change places.
        commutative: bool,
    },
    /// The first alternative that matches.
    AnyOf(Vec<Pattern>),
}

impl Pattern {
    /// Any value.
    pub const fn value(symbol: &'static str) -> Self {
        Self::Value(symbol)
    }

    /// A constant.
    pub const fn constant(symbol: &'static str) -> Self {
        Self::Constant(symbol)
    }

    /// A node over operands in order.
    pub fn node(symbol: &'static str, accepts: Accepts, operands: impl Into<Vec<Self>>) -> Self {
        Self::Node {
            symbol,
            accepts,
            operands: operands.into(),
            commutative: false,
        }
    }

    /// A node whose first two operands may come in either order.
    pub fn commutative(symbol: &'static str, accepts: Accepts, first: Self, second: Self) -> Self {
        Self::Node {
            symbol,
            accepts,
            operands: vec![first, second],
            commutative: true,
        }
    }

    /// Matches the pattern, whose root must be a node, at a node of the graph.
    pub fn matches(&self, graph: &Graph, root: NodeId) -> Option<Match> {
        let result = *graph.get_node(root)?.outputs().first()?;
        let mut found = Match {
            root,
            nodes: Vec::new(),
            values: Vec::new(),
        };
        self.match_value(graph, result, &mut found).then_some(found)
    }

    fn match_value(&self, graph: &Graph, value: ValueId, found: &mut Match) -> bool {
        let mark = (found.nodes.len(), found.values.len());
        let matched = match self {
            Self::Value(symbol) => found.bind_value(symbol, value),
            Self::Constant(symbol) => {
                graph.value(value).constant().is_some() && found.bind_value(symbol, value)
            }
            Self::AnyOf(alternatives) => alternatives
                .iter()
                .any(|pattern| pattern.match_value(graph, value, found)),
            Self::Node {
                symbol,
                accepts,
                operands,
                commutative,
            } => {
                let Some(id) = graph.value(value).producer() else {
                    return false;
                };
                let node = graph.node(id);
                if node.outputs().first() != Some(&value) || !accepts(node.op()) {
                    return false;
                }
                found.nodes.push((symbol, id));
                let straight: Vec<Option<ValueId>> =
                    (0..operands.len()).map(|slot| node.input(slot)).collect();
                let mut matched = match_operands(graph, operands, &straight, found);
                if !matched && *commutative {
                    let mut crossed = straight;
                    crossed.swap(0, 1);
                    matched = match_operands(graph, operands, &crossed, found);
                }
                matched
            }
        };
        if !matched {
            found.nodes.truncate(mark.0);
            found.values.truncate(mark.1);
        }
        matched
    }
}

fn match_operands(
    graph: &Graph,
    patterns: &[Pattern],
    operands: &[Option<ValueId>],
    found: &mut Match,
) -> bool {
    let mark = (found.nodes.len(), found.values.len());
    let matched = patterns.iter().zip(operands).all(|(pattern, operand)| {
        operand.is_some_and(|operand| pattern.match_value(graph, operand, found))
    });
    if !matched {
        found.nodes.truncate(mark.0);
        found.values.truncate(mark.1);
    }
    matched
}

/// What the symbols of a pattern stand for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Match {
    root: NodeId,
    nodes: Vec<(&'static str, NodeId)>,
    values: Vec<(&'static str, ValueId)>,
}

impl Match {
    /// The node at which the pattern matched.
    pub fn root(&self) -> NodeId {
        self.root
    }

    /// The node of a symbol; the root when the pattern has no such symbol (rules name their own symbols only).
    pub fn node(&self, symbol: &str) -> NodeId {
        self.get_node(symbol).unwrap_or(self.root)
    }

    /// The node of a symbol that only some alternatives of the pattern bind.
    pub fn get_node(&self, symbol: &str) -> Option<NodeId> {
        self.nodes
            .iter()
            .find(|(name, _)| *name == symbol)
            .map(|(_, id)| *id)
    }

    /// The value of a symbol.
    pub fn value(&self, symbol: &str) -> Option<ValueId> {
        self.values
            .iter()
            .find(|(name, _)| *name == symbol)
            .map(|(_, id)| *id)
    }

    /// All nodes that the pattern matched, from the result back.
    pub fn nodes(&self) -> impl DoubleEndedIterator<Item = NodeId> {
        self.nodes.iter().map(|(_, id)| *id)
    }

    fn bind_value(&mut self, symbol: &'static str, value: ValueId) -> bool {
        match self.value(symbol) {
            Some(bound) => bound == value,
            None => {
                self.values.push((symbol, value));
                true
            }
        }
    }
}
