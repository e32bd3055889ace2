//! Rewrites, and the one driver that applies them.
//!
//! A rewrite matches a pattern and returns a patch, or the reason why it does not apply. It never changes the graph: the driver does, after
//! the graph has checked the patch (uses outside of the match, types, names), and reports each application and each refusal.

use octofold_ir::{Graph, NodeId, Patch};

use crate::pass::{PassError, PassReport};
use crate::pattern::{Match, Pattern};

/// The number of sweeps after which the driver stops although rules still apply.
const MAX_SWEEPS: usize = 32;

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

/// A rule that replaces a piece of a graph by an equal one.
pub trait Rewrite: Sync {
    /// The rule's name in reports.
    fn name(&self) -> &'static str;

    /// What the rule looks for.
    fn pattern(&self) -> Pattern;

    /// The change for a match.
    ///
    /// # Errors
    /// The reason why the rule does not apply.
    fn rewrite(&self, graph: &Graph, found: &Match) -> Result<Patch, Skip>;
}

/// Which matches of rules may be applied: the fusions that an engine's table lists, or those that a user named.
pub trait Scope: Sync {
    /// Whether the nodes of a match, from the operands to the result, may become one.
    fn allows(&self, graph: &Graph, nodes: &[NodeId]) -> bool;
}

/// Applies rules until none applies any more.
///
/// A sweep goes from the outputs to the inputs and tries the rules in order at each node, so that a rule sees the largest
/// group first. The order of the list is the priority. Refusals are reported as of the last sweep.
///
/// # Errors
/// When the graph has a cycle.
pub fn apply_rewrites(
    graph: &mut Graph,
    pass: &'static str,
    rules: &[&dyn Rewrite],
) -> Result<PassReport, PassError> {
    apply_rewrites_within(graph, pass, rules, None)
}

/// As [`apply_rewrites`], to the matches that a scope allows.
///
/// # Errors
/// As [`apply_rewrites`].
pub fn apply_rewrites_within(
    graph: &mut Graph,
    pass: &'static str,
    rules: &[&dyn Rewrite],
    scope: Option<&dyn Scope>,
) -> Result<PassReport, PassError> {
    let patterns: Vec<Pattern> = rules.iter().map(|rule| rule.pattern()).collect();
    let mut report = PassReport::default();
    let mut skipped = PassReport::default();
    for _ in 0..MAX_SWEEPS {
        skipped.events.clear();
        let mut changed = false;
        let order = graph.order().map_err(|source| PassError::Graph {
            pass: pass.to_owned(),
            source,
        })?;
        for &id in order.iter().rev() {
            changed |= visit(
                graph,
                id,
                rules,
                &patterns,
                scope,
                &mut report,
                &mut skipped,
            );
        }
        if !changed {
            break;
        }
    }
    graph.sweep_constants();
    skipped.events.reverse();
    report.events.append(&mut skipped.events);
    Ok(report)
}

/// Tries the rules at one node; stops at the first that applies.
fn visit(
    graph: &mut Graph,
    id: NodeId,
    rules: &[&dyn Rewrite],
    patterns: &[Pattern],
    scope: Option<&dyn Scope>,
    report: &mut PassReport,
    skipped: &mut PassReport,
) -> bool {
    for (rule, pattern) in rules.iter().zip(patterns) {
        let Some(found) = pattern.matches(graph, id) else {
            continue;
        };
        let matched: Vec<NodeId> = found.nodes().rev().collect();
        if scope.is_some_and(|scope| !scope.allows(graph, &matched)) {
            continue;
        }
        let place = graph.node(id).name().to_owned();
        match rule.rewrite(graph, &found) {
            Err(Skip::NoMatch) => {}
            Err(Skip::Because(reason)) => skipped.skipped(rule.name(), &place, reason),
            Ok(patch) => match graph.apply(patch) {
                Err(error) => skipped.skipped(rule.name(), &place, error.to_string()),
                Ok(added) => {
                    let made: Vec<&str> =
                        added.iter().map(|&node| graph.node(node).name()).collect();
                    report.applied(rule.name(), &place, made.join(", "));
                    return true;
                }
            },
        }
    }
    false
}

/// The names of the model's nodes that a group of nodes stands for, each once. The nodes come in the order of the data flow: their
/// ids do not tell it, since a fused node is younger than those that read it.
pub fn sources_of(graph: &Graph, nodes: impl IntoIterator<Item = NodeId>) -> Vec<String> {
    let mut sources: Vec<String> = Vec::new();
    for source in nodes.into_iter().flat_map(|id| graph.node(id).sources()) {
        if !sources.contains(source) {
            sources.push(source.clone());
        }
    }
    sources
}
