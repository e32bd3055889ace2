//! Observer insertion: puts an `Observe` node after every value that needs parameters, or whose mean is asked for.

use std::collections::BTreeSet;

use octofold_ir::{Graph, Patch, ValueId};
use octofold_ops::families::Observe;

use crate::annotate::{Annotations, NodeAnnotation, is_fixed};
use crate::pass::{Pass, PassError, PassReport};
use crate::rewrite::Rewriter;

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

    fn enters_bodies(&self) -> bool {
        false
    }

    fn run(&self, graph: &mut Graph, rewriter: &mut Rewriter) -> Result<(), PassError> {
        let mut report = PassReport::default();
        let mut patch = Patch::new();
        for (id, spec) in self.annotations.observed() {
            let value = graph.value(id);
            if value.constant().is_some() || is_fixed(spec) {
                continue;
            }
            observe(graph, &mut patch, id);
            report.applied(
                "observe",
                value.name(),
                format!("{} {}", spec.dtype, spec.observer),
            );
        }
        rewriter.apply_reported(graph, patch, report)
    }
}

/// Inserts an observer at the input of each quantized layer with weights, also where it shares its parameters with another value.
///
/// [`CorrectBiases`](crate::bias::CorrectBiases) needs the means of these values. Constants need none. The observer's id is the
/// value's name.
#[derive(Clone, Copy, Debug)]
pub struct InsertLayerInputObservers<'a> {
    /// The decisions to follow; they must be of the same graph.
    pub annotations: &'a Annotations,
}

impl Pass for InsertLayerInputObservers<'_> {
    fn name(&self) -> &'static str {
        "insert-layer-input-observers"
    }

    fn enters_bodies(&self) -> bool {
        false
    }

    fn run(&self, graph: &mut Graph, rewriter: &mut Rewriter) -> Result<(), PassError> {
        let mut report = PassReport::default();
        let mut patch = Patch::new();
        let mut seen: BTreeSet<ValueId> = BTreeSet::new();
        for (&id, annotation) in &self.annotations.nodes {
            let layer = matches!(
                annotation,
                NodeAnnotation::Quantized {
                    weight: Some(_),
                    ..
                }
            );
            let input = graph.get_node(id).and_then(|node| node.input(0));
            let Some(input) = input.filter(|_| layer) else {
                continue;
            };
            let value = graph.value(input);
            if value.constant().is_some() || !seen.insert(input) {
                continue;
            }
            observe(graph, &mut patch, input);
            report.applied("observe", value.name(), "");
        }
        rewriter.apply_reported(graph, patch, report)
    }
}

/// Puts an observer between a value and all its readers; where it has none, between the value and the output.
fn observe(graph: &Graph, patch: &mut Patch, id: ValueId) {
    let name = graph.value(id).name();
    let observe = Observe {
        id: name.to_owned(),
    };
    let observed = patch.node(
        format!("{name}.observer"),
        observe,
        [Some(id.into())],
        vec![],
    );
    let readers = graph.uses(id);
    if readers.is_empty() {
        for (index, _) in graph
            .outputs()
            .iter()
            .enumerate()
            .filter(|(_, output)| output.value == id)
        {
            patch.output(index, observed);
        }
    }
    for used in readers {
        patch.rewire(used, observed);
    }
}
