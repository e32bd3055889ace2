//! Observer insertion: every value that needs parameters passes through an `Observe` node.

use octofold_ir::{Graph, Patch};
use octofold_ops::families::Observe;

use crate::annotate::{Annotations, is_fixed};
use crate::pass::{Pass, PassError, PassReport};

/// Inserts an observer at each value of the annotations that decides parameters.
///
/// Constants and values with fixed parameters need none. The observer's id is the value's name.
#[derive(Clone, Copy, Debug)]
pub struct InsertObservers<'a> {
    /// The decisions to follow; they must be of the same graph.
    pub annotations: &'a Annotations,
}

impl Pass for InsertObservers<'_> {
    fn name(&self) -> &'static str {
        "insert-observers"
    }

    fn run(&self, graph: &mut Graph) -> Result<PassReport, PassError> {
        let mut report = PassReport::default();
        let mut patch = Patch::new();
        for (id, spec) in self.annotations.observed() {
            let value = graph.value(id);
            if value.constant().is_some() || is_fixed(spec) {
                continue;
            }
            let observe = Observe {
                id: value.name().to_owned(),
            };
            let observed = patch.node(
                format!("{}.observer", value.name()),
                observe,
                [Some(id.into())],
                vec![],
            );
            for used in graph.uses(id) {
                patch.rewire(used, observed);
            }
            report.applied(
                "observe",
                value.name(),
                format!("{} {}", spec.dtype, spec.observer),
            );
        }
        graph.apply(patch).map_err(|source| PassError::Graph {
            pass: self.name().to_owned(),
            source,
        })?;
        Ok(report)
    }
}
