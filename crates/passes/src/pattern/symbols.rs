//! The symbols of a pattern, as fields of a struct.
//!
//! A rule reads `found.x`, so the compiler knows each symbol that it uses; the symbols that its pattern binds are compared with these fields when the
//! pattern is made. So a misspelt symbol never reaches a graph.

use std::collections::BTreeSet;
use std::fmt;

use octofold_ir::{NodeId, ValueId};

use super::{Bindings, Form, Pattern};

/// What a symbol stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum SymbolKind {
    /// A node.
    Node,
    /// A value.
    Value,
}

impl fmt::Display for SymbolKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Node => "node",
            Self::Value => "value",
        })
    }
}

/// A symbol that a rule reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Symbol {
    /// Its name.
    pub name: &'static str,
    /// What it stands for.
    pub kind: SymbolKind,
    /// Whether some matches may leave it unbound.
    pub optional: bool,
}

/// A struct whose fields are the symbols of a pattern, declared by [`symbols!`](crate::symbols). A rule without symbols uses `()`.
pub trait Symbols: Sized {
    /// The fields.
    const DECLARED: &'static [Symbol];

    /// The fields of a match; `None` where one is not bound, which the check of the pattern excludes.
    fn bind(found: &Bindings) -> Option<Self>;
}

impl Symbols for () {
    const DECLARED: &'static [Symbol] = &[];

    fn bind(_: &Bindings) -> Option<Self> {
        Some(())
    }
}

/// The type of a symbol's field: `NodeId` or `ValueId`, or an `Option` of one for a symbol that only some alternatives bind.
pub trait Capture: Sized {
    /// What the symbol stands for.
    const KIND: SymbolKind;
    /// Whether some matches may leave the symbol unbound.
    const OPTIONAL: bool;

    /// The field of a match; `None` where a symbol that is not optional is not bound.
    fn of(found: &Bindings, symbol: &str) -> Option<Self>;
}

impl Capture for NodeId {
    const KIND: SymbolKind = SymbolKind::Node;
    const OPTIONAL: bool = false;

    fn of(found: &Bindings, symbol: &str) -> Option<Self> {
        found.node(symbol)
    }
}

impl Capture for ValueId {
    const KIND: SymbolKind = SymbolKind::Value;
    const OPTIONAL: bool = false;

    fn of(found: &Bindings, symbol: &str) -> Option<Self> {
        found.value(symbol)
    }
}

impl<C: Capture> Capture for Option<C> {
    const KIND: SymbolKind = C::KIND;
    const OPTIONAL: bool = true;

    fn of(found: &Bindings, symbol: &str) -> Option<Self> {
        Some(C::of(found, symbol))
    }
}

/// Declares the symbols of a pattern: a struct with a field for each, of type `NodeId`, `ValueId`, or an `Option` of these.
#[macro_export]
macro_rules! symbols {
    ($(#[$meta:meta])* $vis:vis struct $name:ident { $($field:ident: $kind:ty),+ $(,)? }) => {
        $(#[$meta])*
        #[derive(Clone, Debug)]
        $vis struct $name {
            $($field: $kind),+
        }

        impl $crate::pattern::Symbols for $name {
            const DECLARED: &'static [$crate::pattern::Symbol] = &[$($crate::pattern::Symbol {
                name: stringify!($field),
                kind: <$kind as $crate::pattern::Capture>::KIND,
                optional: <$kind as $crate::pattern::Capture>::OPTIONAL,
            }),+];

            fn bind(found: &$crate::pattern::Bindings) -> Option<Self> {
                Some(Self {
                    $($field: <$kind as $crate::pattern::Capture>::of(found, stringify!($field))?),+
                })
            }
        }
    };
}

/// Why a pattern does not belong to the symbols of its rule.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PatternError {
    /// The rule reads a symbol that no part of the pattern binds.
    #[error("no part of the pattern binds the {kind} `{symbol}`")]
    Unbound {
        /// The symbol.
        symbol: &'static str,
        /// What it should stand for.
        kind: SymbolKind,
    },
    /// The rule reads a symbol that only some alternatives bind.
    #[error("only some alternatives bind `{0}`: its field must be an `Option`")]
    SometimesUnbound(&'static str),
    /// The pattern binds a symbol that the rule does not declare.
    #[error("the pattern binds `{0}`, which the rule does not declare")]
    Undeclared(&'static str),
    /// Two nodes of one match have the same symbol.
    #[error("two nodes have the symbol `{0}`")]
    Repeated(&'static str),
    /// The pattern does not begin with a node.
    #[error("the result of a pattern must be computed by a node")]
    NoRoot,
}

/// The symbols that a pattern binds.
#[derive(Default)]
struct Bound {
    /// In every match.
    always: BTreeSet<(SymbolKind, &'static str)>,
    /// In some match.
    sometimes: BTreeSet<(SymbolKind, &'static str)>,
}

impl Pattern {
    /// Checks that the pattern binds what `S` declares, and nothing else.
    ///
    /// # Errors
    /// The first difference.
    pub fn check<S: Symbols>(&self) -> Result<(), PatternError> {
        if !self.is_computed() {
            return Err(PatternError::NoRoot);
        }
        let bound = self.bound()?;
        for symbol in S::DECLARED {
            let key = (symbol.kind, symbol.name);
            if !bound.sometimes.contains(&key) {
                return Err(PatternError::Unbound {
                    symbol: symbol.name,
                    kind: symbol.kind,
                });
            }
            if !symbol.optional && !bound.always.contains(&key) {
                return Err(PatternError::SometimesUnbound(symbol.name));
            }
        }
        let declared = |name: &str| S::DECLARED.iter().any(|symbol| symbol.name == name);
        match bound.sometimes.iter().find(|(_, name)| !declared(name)) {
            Some((_, name)) => Err(PatternError::Undeclared(name)),
            None => Ok(()),
        }
    }

    fn is_computed(&self) -> bool {
        match &self.form {
            Form::Node { .. } => true,
            Form::AnyOf(alternatives) => alternatives.iter().all(Self::is_computed),
            _ => false,
        }
    }

    fn bound(&self) -> Result<Bound, PatternError> {
        let mut bound = Bound::default();
        let mut own = self.symbol;
        match &self.form {
            Form::Any | Form::Constant | Form::Number(_) => {}
            Form::Absent => own = None,
            Form::Node { operands, .. } => {
                for operand in operands {
                    let operand = operand.bound()?;
                    for key in operand.sometimes {
                        if !bound.sometimes.insert(key) && key.0 == SymbolKind::Node {
                            return Err(PatternError::Repeated(key.1));
                        }
                    }
                    bound.always.extend(operand.always);
                }
            }
            Form::AnyOf(alternatives) => {
                for (index, alternative) in alternatives.iter().enumerate() {
                    let alternative = alternative.bound()?;
                    if index == 0 {
                        bound.always = alternative.always;
                    } else {
                        bound.always.retain(|key| alternative.always.contains(key));
                    }
                    bound.sometimes.extend(alternative.sometimes);
                }
            }
        }
        if let Some(symbol) = own {
            let kind = match self.form {
                Form::Node { .. } => SymbolKind::Node,
                _ => SymbolKind::Value,
            };
            if !bound.sometimes.insert((kind, symbol)) && kind == SymbolKind::Node {
                return Err(PatternError::Repeated(symbol));
            }
            bound.always.insert((kind, symbol));
        }
        Ok(bound)
    }
}
