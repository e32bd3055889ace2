//! Patterns over the data flow, written as mathematics.
//!
//! A pattern describes a value by what computes it, from the result back to the operands: `x.clone() * x.sigmoid()` is the pattern of Swish.
//! Symbols name the values and nodes that a rewrite needs; [`symbols!`](crate::symbols) declares them as the fields of a struct, and a
//! pattern is checked against them when it is made.
//!
//! [`Pattern::matches`] gives every match: each alternative, and both orders of the operands of commutative operators. A pattern says nothing of other
//! readers of the values in the middle: the driver refuses patches that would break them.

use std::ops::{Add, Div, Mul, Sub};

mod matcher;
mod symbols;

pub use matcher::{Bindings, Match};
/// What [`op!`](crate::op) lists, so that the macro works without this crate's dependencies.
pub use octofold_ir::Op;
pub use symbols::{Capture, PatternError, Symbol, SymbolKind, Symbols};

/// A predicate over operators, made by [`op!`](crate::op).
pub type Accepts = fn(&Op) -> bool;

/// A predicate that accepts the listed variants of [`Op`].
#[macro_export]
macro_rules! op {
    ($($variant:ident)|+) => {
        |op: &$crate::pattern::Op| matches!(op, $($crate::pattern::Op::$variant(_))|+)
    };
}

/// The shape of a value's computation.
#[derive(Clone, Debug)]
pub struct Pattern {
    symbol: Option<&'static str>,
    form: Form,
}

#[derive(Clone, Debug)]
enum Form {
    /// Any value.
    Any,
    /// Any constant.
    Constant,
    /// An f32 constant that holds one number, everywhere.
    Number(f32),
    /// An operand that is not there.
    Absent,
    /// The first result of a node.
    Node {
        accepts: Accepts,
        /// The leading operands; further operands are free.
        operands: Vec<Pattern>,
        /// Whether the first two operands may change places.
        commutative: bool,
    },
    /// What one of the alternatives matches.
    AnyOf(Vec<Pattern>),
}

impl From<Form> for Pattern {
    fn from(form: Form) -> Self {
        Self { symbol: None, form }
    }
}

impl From<f32> for Pattern {
    fn from(number: f32) -> Self {
        Self::number(number)
    }
}

impl Pattern {
    /// Any value, bound to a symbol. A symbol that occurs twice must be the same value.
    pub fn value(symbol: &'static str) -> Self {
        Self::any().named(symbol)
    }

    /// Any value.
    pub fn any() -> Self {
        Form::Any.into()
    }

    /// A constant, bound to a symbol.
    pub fn constant(symbol: &'static str) -> Self {
        Self::any_constant().named(symbol)
    }

    /// Any constant.
    pub fn any_constant() -> Self {
        Form::Constant.into()
    }

    /// An f32 constant, of any shape, whose elements all equal a number, or that number rounded to half precision, as a model has it whose half floats
    /// were widened.
    pub fn number(number: f32) -> Self {
        Form::Number(number).into()
    }

    /// An optional operand that is not given.
    pub fn absent() -> Self {
        Form::Absent.into()
    }

    /// An optional operand that is not given, or that matches the pattern.
    pub fn optional(self) -> Self {
        Self::any_of([Self::absent(), self])
    }

    /// The first result of a node over operands in order. Operands after the listed ones are free.
    pub fn node(accepts: Accepts, operands: impl Into<Vec<Self>>) -> Self {
        let form = Form::Node {
            accepts,
            operands: operands.into(),
            commutative: false,
        };
        form.into()
    }

    /// The first result of a node whose first two operands may come in either order.
    pub fn commutative(accepts: Accepts, first: Self, second: Self) -> Self {
        let form = Form::Node {
            accepts,
            operands: vec![first, second],
            commutative: true,
        };
        form.into()
    }

    /// Alternatives, in the order in which they are tried.
    pub fn any_of(alternatives: impl Into<Vec<Self>>) -> Self {
        Form::AnyOf(alternatives.into()).into()
    }

    /// Binds a symbol: to the node, where the pattern is one of a node, and to the value otherwise.
    pub fn named(mut self, symbol: &'static str) -> Self {
        self.symbol = Some(symbol);
        self
    }

    /// `1 / (1 + exp(-x))`.
    pub fn sigmoid(self) -> Self {
        Self::node(op!(Sigmoid), [self])
    }

    /// `min(max(x, low), high)`.
    pub fn clip(self, low: impl Into<Self>, high: impl Into<Self>) -> Self {
        Self::node(op!(Clip), [self, low.into(), high.into()])
    }

    /// The value, rounded to integers by a `QuantizeLinear`.
    pub fn quantized(self) -> Self {
        Self::node(op!(QuantizeLinear), [self])
    }

    /// The real value of integers, by a `DequantizeLinear`.
    pub fn dequantized(self) -> Self {
        Self::node(op!(DequantizeLinear), [self])
    }
}

impl<T: Into<Pattern>> Add<T> for Pattern {
    type Output = Self;

    fn add(self, other: T) -> Self {
        Self::commutative(op!(Add), self, other.into())
    }
}

impl<T: Into<Pattern>> Mul<T> for Pattern {
    type Output = Self;

    fn mul(self, other: T) -> Self {
        Self::commutative(op!(Mul), self, other.into())
    }
}

impl<T: Into<Pattern>> Sub<T> for Pattern {
    type Output = Self;

    fn sub(self, other: T) -> Self {
        Self::node(op!(Sub), [self, other.into()])
    }
}

impl<T: Into<Pattern>> Div<T> for Pattern {
    type Output = Self;

    fn div(self, other: T) -> Self {
        Self::node(op!(Div), [self, other.into()])
    }
}
