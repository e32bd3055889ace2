//! What a pass is, and what it reports.

use std::fmt;

use octofold_ir::{Graph, GraphError, VerifyError};

use crate::pattern::PatternError;
use crate::rewrite::Rewriter;

/// A transformation of a graph.
pub trait Pass: Sync {
    /// The name by which users select the pass: words joined by hyphens.
    fn name(&self) -> &'static str;

    /// Transforms the graph by patches, which the rewriter applies. Its report says what was done where, and what was not done and why.
    ///
    /// # Errors
    /// When the graph refuses a change that the pass takes for right, or the rewriter has reached its limit of patches.
    fn run(&self, graph: &mut Graph, rewriter: &mut Rewriter) -> Result<(), PassError>;

    /// Whether the pass also runs on bodies, which it sees before the graph whose operators run them. A pass that follows a table about one
    /// graph does not.
    fn enters_bodies(&self) -> bool {
        true
    }
}

/// Declares a pass that applies rules until none applies any more: its name, and the rules in the order of their priority.
macro_rules! rule_pass {
    ($(#[$meta:meta])* pub struct $pass:ident($name:literal) = [$($rule:expr),+ $(,)?];) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, Default)]
        pub struct $pass;

        impl $crate::pass::Pass for $pass {
            fn name(&self) -> &'static str {
                $name
            }

            fn run(
                &self,
                graph: &mut octofold_ir::Graph,
                rewriter: &mut $crate::rewrite::Rewriter,
            ) -> Result<(), $crate::pass::PassError> {
                rewriter.apply_rules(graph, &[$(&$rule),+])
            }
        }
    };
}
pub(crate) use rule_pass;

/// Whether a rule was applied at a place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It was applied; the text names the new nodes.
    Applied(String),
    /// It matched and was not applied; the text says why.
    Skipped(String),
}

/// What a rule did at one place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// The name of the node or value.
    pub place: String,
    /// The rule's name.
    pub rule: String,
    /// What happened.
    pub outcome: Outcome,
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (word, text) = match &self.outcome {
            Outcome::Applied(text) => ("applied", text),
            Outcome::Skipped(text) => ("skipped", text),
        };
        let separator = if text.is_empty() { "" } else { ": " };
        write!(f, "{} `{}` {word}{separator}{text}", self.rule, self.place)
    }
}

/// What a pass did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PassReport {
    /// The events, in the order of the graph.
    pub events: Vec<Event>,
    /// The number of patches that were applied.
    pub patches: usize,
}

impl PassReport {
    /// Adds an [`Outcome::Applied`] event.
    pub fn applied(&mut self, rule: &str, place: &str, text: impl Into<String>) {
        self.events.push(Event {
            place: place.to_owned(),
            rule: rule.to_owned(),
            outcome: Outcome::Applied(text.into()),
        });
    }

    /// Adds an [`Outcome::Skipped`] event.
    pub fn skipped(&mut self, rule: &str, place: &str, reason: impl Into<String>) {
        self.events.push(Event {
            place: place.to_owned(),
            rule: rule.to_owned(),
            outcome: Outcome::Skipped(reason.into()),
        });
    }

    /// Whether the pass changed the graph.
    pub fn changed(&self) -> bool {
        self.events
            .iter()
            .any(|event| matches!(event.outcome, Outcome::Applied(_)))
    }
}

impl fmt::Display for PassReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for event in &self.events {
            writeln!(f, "{event}")?;
        }
        Ok(())
    }
}

/// Why a pass failed. A pass that finds nothing to do does not fail.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum PassError {
    /// The graph refused a change.
    #[error("pass `{pass}`: {source}")]
    Graph {
        /// The pass.
        pass: String,
        /// What the graph says.
        source: GraphError,
    },
    /// The verifier found faults before or after a pass.
    #[error("{when} pass `{pass}`: {source}")]
    Verify {
        /// The pass.
        pass: String,
        /// `before` or `after`.
        when: &'static str,
        /// The faults.
        source: VerifyError,
    },
    /// A rule's pattern does not bind the symbols that the rule reads.
    #[error("rule `{rule}`: {source}")]
    Pattern {
        /// The rule.
        rule: String,
        /// What does not fit.
        source: PatternError,
    },
    /// Rules bring back the graph that they began with.
    #[error("pass `{pass}`: at `{place}`, {}", undoing(rules))]
    Undone {
        /// The pass.
        pass: String,
        /// The names of the rules.
        rules: Vec<String>,
        /// The node at which the first of them applies.
        place: String,
    },
    /// A node that cannot be transformed as asked.
    #[error("node `{node}`: {reason}")]
    Node {
        /// The node's name.
        node: String,
        /// Why.
        reason: String,
    },
    /// The limit of patches is reached. The pass manager stops then, without an error.
    #[error("the limit of rewrites is reached")]
    Stopped,
    /// A pass that needs more than a graph.
    #[error("pass `{pass}` needs {what}")]
    Lacks {
        /// The pass.
        pass: String,
        /// What is missing.
        what: &'static str,
    },
    /// A pass of that name does not exist.
    #[error("there is no pass `{name}`; the passes are {known}")]
    UnknownPass {
        /// The name that was asked for.
        name: String,
        /// The names that exist.
        known: String,
    },
}

impl PassError {
    /// The error for what was applied between two equal graphs.
    pub(crate) fn undone(pass: &str, events: Vec<Event>) -> Self {
        let place = events.first().map(|event| event.place.clone());
        let mut rules: Vec<String> = Vec::new();
        for event in events {
            if !rules.contains(&event.rule) {
                rules.push(event.rule);
            }
        }
        Self::Undone {
            pass: pass.to_owned(),
            rules,
            place: place.unwrap_or_default(),
        }
    }
}

fn undoing(rules: &[String]) -> String {
    match rules {
        [rule] => format!("the rule `{rule}` undoes its own change"),
        rules => format!("the rules `{}` undo each other", rules.join("` and `")),
    }
}
