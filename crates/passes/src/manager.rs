//! The pass manager: runs passes in order, verifies the graph around each, and keeps their reports.

use octofold_ir::{Graph, verify};

use crate::pass::{Event, Outcome, Pass, PassError, PassReport};
use crate::rewrite::Rewriter;

/// How a list of passes is run.
#[derive(Clone, Copy, Debug, Default)]
pub struct ManagerOptions {
    /// Whether the graph is verified before the first pass and after each; always done in debug builds.
    pub verify: bool,
    /// Stops after this number of passes, to find the one that goes wrong.
    pub stop_after: Option<usize>,
    /// Stops after this number of patches, counted over all passes, to find the one that goes wrong.
    pub stop_after_rewrite: Option<usize>,
}

/// The report of one pass of a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PassRun {
    /// The pass's name.
    pub pass: &'static str,
    /// What it did.
    pub report: PassReport,
}

/// Runs passes in order; gives their reports.
///
/// # Errors
/// When a pass fails, or the verifier finds faults.
pub fn run_passes(
    graph: &mut Graph,
    passes: &[&dyn Pass],
    options: ManagerOptions,
) -> Result<Vec<PassRun>, PassError> {
    run_passes_with(graph, passes, options, |_, _| {})
}

/// As [`run_passes`], showing the graph to `after` after each pass, with what the pass did (`--print-after`).
///
/// # Errors
/// As [`run_passes`].
pub fn run_passes_with(
    graph: &mut Graph,
    passes: &[&dyn Pass],
    options: ManagerOptions,
    mut after: impl FnMut(&PassRun, &Graph),
) -> Result<Vec<PassRun>, PassError> {
    let verifying = options.verify || cfg!(debug_assertions);
    let check = |graph: &Graph, pass: &dyn Pass, when| {
        if !verifying {
            return Ok(());
        }
        verify(graph).map_err(|source| PassError::Verify {
            pass: pass.name().to_owned(),
            when,
            source,
        })
    };
    let mut left = options.stop_after_rewrite.unwrap_or(usize::MAX);
    let mut runs = Vec::new();
    for (index, pass) in passes
        .iter()
        .take(options.stop_after.unwrap_or(usize::MAX))
        .enumerate()
    {
        if index == 0 {
            check(graph, *pass, "before")?;
        }
        let mut rewriter = Rewriter::new(pass.name()).with_limit(left);
        let result = run_pass(graph, *pass, &mut rewriter);
        let stopped = result == Err(PassError::Stopped);
        if stopped {
            graph.sweep_constants();
        } else {
            result?;
        }
        let report = rewriter.report;
        left -= report.patches;
        if report.changed() {
            // A rewrite may have made shapes known that later nodes depend on.
            graph.refresh_types().map_err(|source| PassError::Graph {
                pass: pass.name().to_owned(),
                source,
            })?;
        }
        check(graph, *pass, "after")?;
        let pass = pass.name();
        let run = PassRun { pass, report };
        after(&run, graph);
        runs.push(run);
        if stopped || left == 0 {
            break;
        }
    }
    Ok(runs)
}

/// Runs a pass on the bodies of a graph, then on the graph.
fn run_pass(graph: &mut Graph, pass: &dyn Pass, rewriter: &mut Rewriter) -> Result<(), PassError> {
    if pass.enters_bodies() {
        // What bodies fold is taken from the budget of the graph.
        let mut budget = graph.folding();
        for body in graph.bodies_mut() {
            body.set_folding(budget);
            run_pass(body, pass, rewriter)?;
            budget = body.folding();
        }
        graph.set_folding(budget);
    }
    pass.run(graph, rewriter)
}

/// The last patch of some runs: its number, its pass, and what was reported of it. With [`ManagerOptions::stop_after_rewrite`] it is the one to look at.
pub fn last_rewrite(runs: &[PassRun]) -> Option<(usize, &'static str, &Event)> {
    let number = runs.iter().map(|run| run.report.patches).sum();
    let run = runs.iter().rev().find(|run| run.report.patches > 0)?;
    let mut events = run.report.events.iter().rev();
    let event = events.find(|event| matches!(event.outcome, Outcome::Applied(_)))?;
    Some((number, run.pass, event))
}
