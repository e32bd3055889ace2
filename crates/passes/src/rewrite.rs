//! Rewrites, and the one driver that applies them.
//!
//! A rewrite matches a pattern and returns a patch, or the reason why it does not apply. It never changes the graph: the [`Rewriter`] does, after
//! the graph has checked the patch (uses outside of the match, types, names), and reports each application and each refusal. A rule that declines a match
//! gets the next one.

use octofold_ir::{Graph, NodeId, Patch};
use octofold_ops::OpError;
use octofold_tensor::TensorError;

use crate::pattern::{Bindings, Match, Pattern, PatternError, Symbols};

mod driver;
mod repetition;

pub use driver::Rewriter;

/// Why a rewrite that matched is not applied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Skip {
    /// The match is not what the rewrite is about; nothing is reported.
    NoMatch,
    /// A condition fails; the reason is reported.
    Because(String),
}

impl Skip {
    /// A [`Skip::Because`].
    pub fn because(reason: impl Into<String>) -> Self {
        Self::Because(reason.into())
    }
}

impl From<OpError> for Skip {
    fn from(error: OpError) -> Self {
        Self::because(error.to_string())
    }
}

impl From<TensorError> for Skip {
    fn from(error: TensorError) -> Self {
        Self::because(error.to_string())
    }
}

/// The name of a rule, and what it finds; declared by [`rule!`](crate::rule).
pub trait Named: Sync {
    /// The rule's name in reports.
    const NAME: &'static str;
    /// The symbols that the rule reads of a match, declared by [`symbols!`](crate::symbols).
    type Found: Symbols;
}

/// Declares a rule: `struct Name("name-in-reports") finds Found { symbol: ValueId, … }`.
///
/// Without `finds`, the rule needs the root of a match only; without fields, the symbols are declared elsewhere by [`symbols!`](crate::symbols).
#[macro_export]
macro_rules! rule {
    ($(#[$meta:meta])* $vis:vis struct $rule:ident($name:literal)) => {
        $crate::rule!(@ [$(#[$meta])*] [$vis] $rule $name ());
    };
    ($(#[$meta:meta])* $vis:vis struct $rule:ident($name:literal) finds $found:ident) => {
        $crate::rule!(@ [$(#[$meta])*] [$vis] $rule $name $found);
    };
    ($(#[$meta:meta])* $vis:vis struct $rule:ident($name:literal) finds $found:ident { $($fields:tt)+ }) => {
        $crate::symbols! { $vis struct $found { $($fields)+ } }
        $crate::rule!(@ [$(#[$meta])*] [$vis] $rule $name $found);
    };
    (@ [$($meta:tt)*] [$vis:vis] $rule:ident $name:literal $found:ty) => {
        $($meta)*
        $vis struct $rule;

        impl $crate::rewrite::Named for $rule {
            const NAME: &'static str = $name;
            type Found = $found;
        }
    };
}

/// A rule that replaces a piece of a graph by an equal one.
pub trait Rewrite: Named {
    /// What the rule looks for.
    fn pattern(&self) -> Pattern;

    /// The change for a match.
    ///
    /// # Errors
    /// The reason why the rule does not apply.
    fn rewrite(&self, graph: &Graph, found: &Match<Self::Found>) -> Result<Patch, Skip>;
}

/// A [`Rewrite`], whatever its symbols: what lists of rules hold. Every rewrite is one.
pub trait Rule: Sync {
    /// The rule's name in reports.
    fn name(&self) -> &'static str;

    /// What the rule looks for.
    ///
    /// # Errors
    /// When the pattern does not bind the symbols that the rule declares.
    fn checked_pattern(&self) -> Result<Pattern, PatternError>;

    /// The change for a match at a node.
    ///
    /// # Errors
    /// The reason why the rule does not apply.
    fn patch(&self, graph: &Graph, root: NodeId, found: &Bindings) -> Result<Patch, Skip>;
}

impl<R: Rewrite> Rule for R {
    fn name(&self) -> &'static str {
        R::NAME
    }

    fn checked_pattern(&self) -> Result<Pattern, PatternError> {
        let pattern = self.pattern();
        pattern.check::<R::Found>()?;
        Ok(pattern)
    }

    fn patch(&self, graph: &Graph, root: NodeId, found: &Bindings) -> Result<Patch, Skip> {
        self.rewrite(graph, &Match::new(root, found).ok_or(Skip::NoMatch)?)
    }
}

/// Which matches of rules may be applied: the fusions that an engine's table lists, or those that a user named.
pub trait Scope: Sync {
    /// Whether the nodes of a match, from the operands to the result, may become one.
    fn allows(&self, graph: &Graph, nodes: &[NodeId]) -> bool;
}
