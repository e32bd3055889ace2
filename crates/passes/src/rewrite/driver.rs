//! The driver: applies the patches of a pass, and rules until none applies any more.

use octofold_ir::{Graph, GraphError, NodeId, Patch};

use super::repetition::Repetition;
use super::{Rule, Scope, Skip};
use crate::pass::{PassError, PassReport};
use crate::pattern::Pattern;

/// The number of sweeps after which the driver stops although rules still apply.
const MAX_SWEEPS: usize = 32;

/// The run of one pass: applies patches to a graph, counts them, and keeps the report.
#[derive(Debug)]
pub struct Rewriter {
    pass: &'static str,
    /// The number of patches that may still be applied.
    left: usize,
    /// What the pass did so far.
    pub report: PassReport,
}

impl Rewriter {
    /// A run of the pass of a name, with an empty report.
    pub fn new(pass: &'static str) -> Self {
        Self {
            pass,
            left: usize::MAX,
            report: PassReport::default(),
        }
    }

    /// Stops the pass before it applies more patches than this.
    pub fn with_limit(mut self, patches: usize) -> Self {
        self.left = patches;
        self
    }

    /// The nodes of a graph, each after those it reads from.
    ///
    /// # Errors
    /// When the graph has a cycle.
    pub fn order(&self, graph: &Graph) -> Result<Vec<NodeId>, PassError> {
        graph.order().map_err(|source| self.error(source))
    }

    /// Applies a patch; gives the nodes that it added. A patch that changes nothing is not counted.
    ///
    /// # Errors
    /// When the graph refuses the patch, or the limit is reached; the graph is then unchanged.
    pub fn apply(&mut self, graph: &mut Graph, patch: Patch) -> Result<Vec<NodeId>, PassError> {
        if patch.is_empty() {
            return Ok(vec![]);
        }
        let left = self.left.checked_sub(1).ok_or(PassError::Stopped)?;
        let added = graph.apply(patch).map_err(|source| self.error(source))?;
        self.left = left;
        self.report.patches += 1;
        Ok(added)
    }

    /// Applies a patch, and adds what it does to the report.
    ///
    /// # Errors
    /// As [`apply`](Self::apply).
    pub fn apply_reported(
        &mut self,
        graph: &mut Graph,
        patch: Patch,
        report: PassReport,
    ) -> Result<(), PassError> {
        self.apply(graph, patch)?;
        self.report.events.extend(report.events);
        Ok(())
    }

    /// Applies rules until none applies any more.
    ///
    /// A sweep goes from the outputs to the inputs and tries the rules in order at each node, so that a rule sees the largest
    /// group first. The order of the list is the priority. Refusals are reported as of the last sweep; of several matches at a node, with the reason of the
    /// last one.
    ///
    /// # Errors
    /// When a pattern does not fit its rule, the graph has a cycle, rules undo each other, or the limit is reached.
    pub fn apply_rules(&mut self, graph: &mut Graph, rules: &[&dyn Rule]) -> Result<(), PassError> {
        self.apply_rules_within(graph, rules, None)
    }

    /// As [`apply_rules`](Self::apply_rules), to the matches that a scope allows.
    ///
    /// # Errors
    /// As [`apply_rules`](Self::apply_rules).
    pub fn apply_rules_within(
        &mut self,
        graph: &mut Graph,
        rules: &[&dyn Rule],
        scope: Option<&dyn Scope>,
    ) -> Result<(), PassError> {
        let checked = rules.iter().map(|&rule| {
            let pattern = rule.checked_pattern();
            let pattern = pattern.map_err(|source| PassError::Pattern {
                rule: rule.name().to_owned(),
                source,
            })?;
            Ok((rule, pattern))
        });
        let mut sweep = Sweep {
            rules: checked.collect::<Result<_, PassError>>()?,
            scope,
            skipped: PassReport::default(),
        };
        let mut repetition = Repetition::default();
        for number in 1..=MAX_SWEEPS {
            sweep.skipped.events.clear();
            let before = self.report.events.len();
            for id in self.order(graph)?.into_iter().rev() {
                sweep.visit(self, graph, id)?;
            }
            let events = &self.report.events[before..];
            let Some(last) = events.last() else {
                break;
            };
            let cycle = repetition.after(number, graph, events);
            if let Some(events) = cycle.map_err(|source| self.error(source))? {
                return Err(PassError::undone(self.pass, events));
            }
            if number == MAX_SWEEPS {
                let reason = format!("it still applied in sweep {MAX_SWEEPS}, the last one");
                sweep.skipped.skipped(&last.rule, &last.place, reason);
            }
        }
        graph.sweep_constants();
        let skipped = sweep.skipped.events.into_iter().rev();
        self.report.events.extend(skipped);
        Ok(())
    }

    fn error(&self, source: GraphError) -> PassError {
        PassError::Graph {
            pass: self.pass.to_owned(),
            source,
        }
    }
}

/// Rules on their way over a graph, and where they were not applied.
struct Sweep<'a> {
    rules: Vec<(&'a dyn Rule, Pattern)>,
    scope: Option<&'a dyn Scope>,
    skipped: PassReport,
}

impl Sweep<'_> {
    /// Tries the matches of each rule at a node; stops at the first that applies.
    fn visit(
        &mut self,
        rewriter: &mut Rewriter,
        graph: &mut Graph,
        id: NodeId,
    ) -> Result<(), PassError> {
        for (rule, pattern) in &self.rules {
            let mut reason = None;
            for found in pattern.matches(graph, id) {
                let nodes: Vec<NodeId> = found.nodes().rev().collect();
                if self.scope.is_some_and(|scope| !scope.allows(graph, &nodes)) {
                    continue;
                }
                let patch = match rule.patch(graph, id, &found) {
                    Ok(patch) => patch,
                    Err(Skip::NoMatch) => continue,
                    Err(Skip::Because(because)) => {
                        reason = Some(because);
                        continue;
                    }
                };
                let place = graph.node(id).name().to_owned();
                match rewriter.apply(graph, patch) {
                    Err(PassError::Graph { source, .. }) => reason = Some(source.to_string()),
                    Err(stopped) => return Err(stopped),
                    Ok(added) => {
                        let names = added.iter().map(|&node| graph.node(node).name());
                        let names = names.collect::<Vec<&str>>().join(", ");
                        rewriter.report.applied(rule.name(), &place, names);
                        return Ok(());
                    }
                }
            }
            if let Some(reason) = reason {
                let place = graph.node(id).name();
                self.skipped.skipped(rule.name(), place, reason);
            }
        }
        Ok(())
    }
}
