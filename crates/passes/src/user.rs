//! The rewrites that a user adds to an engine, as passes: they run before the engine's own rules of the same stage.

use octofold_ir::Graph;

use crate::backend::{BackendConfig, BackendPattern};
use crate::pass::{Pass, PassError, PassReport};
use crate::rewrite::{Rewrite, apply_rewrites};

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

    fn run(&self, graph: &mut Graph) -> Result<PassReport, PassError> {
        run(graph, self.name(), self.backend, |pattern| {
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

    fn run(&self, graph: &mut Graph) -> Result<PassReport, PassError> {
        run(graph, self.name(), self.backend, |pattern| {
            pattern.lower.as_deref()
        })
    }
}

fn run<'a>(
    graph: &mut Graph,
    pass: &'static str,
    backend: &'a BackendConfig,
    rule: impl Fn(&'a BackendPattern) -> Option<&'a (dyn Rewrite + Send + Sync)>,
) -> Result<PassReport, PassError> {
    let rules = backend.patterns.iter().filter_map(rule);
    let rules: Vec<&dyn Rewrite> = rules.map(|rule| rule as &dyn Rewrite).collect();
    apply_rewrites(graph, pass, &rules)
}
