//! The rewrites that a user adds to an engine, as passes: they run before the engine's own rules of the same stage.

use octofold_ir::Graph;

use crate::backend::{BackendConfig, BackendPattern};
use crate::pass::{Pass, PassError};
use crate::rewrite::{Rewriter, Rule};

/// Applies the user's fusing rewrites.
#[derive(Clone, Copy, Debug)]
pub struct FuseUserPatterns<'a> {
    /// The engine that the patterns were added to.
    pub backend: &'a BackendConfig,
}

impl Pass for FuseUserPatterns<'_> {
    fn name(&self) -> &'static str {
        "fuse-user-patterns"
    }

    fn run(&self, graph: &mut Graph, rewriter: &mut Rewriter) -> Result<(), PassError> {
        run(graph, rewriter, self.backend, |pattern| {
            pattern.fuse.as_deref()
        })
    }
}

/// Applies the user's lowering rewrites.
#[derive(Clone, Copy, Debug)]
pub struct LowerUserPatterns<'a> {
    /// The engine that the patterns were added to.
    pub backend: &'a BackendConfig,
}

impl Pass for LowerUserPatterns<'_> {
    fn name(&self) -> &'static str {
        "lower-user-patterns"
    }

    fn run(&self, graph: &mut Graph, rewriter: &mut Rewriter) -> Result<(), PassError> {
        run(graph, rewriter, self.backend, |pattern| {
            pattern.lower.as_deref()
        })
    }
}

fn run<'a>(
    graph: &mut Graph,
    rewriter: &mut Rewriter,
    backend: &'a BackendConfig,
    rule: impl Fn(&'a BackendPattern) -> Option<&'a (dyn Rule + Send + Sync)>,
) -> Result<(), PassError> {
    let rules = backend.patterns.iter().filter_map(rule);
    let rules: Vec<&dyn Rule> = rules.map(|rule| rule as &dyn Rule).collect();
    rewriter.apply_rules(graph, &rules)
}
