//! Bodies: each is compiled as a graph of its own; its constants go to the blob of the plan that runs it.

use std::collections::BTreeMap;
use std::sync::Arc;

use octofold_ir::Graph;
use octofold_kernels::Isa;
use octofold_ops::BodyId;
use octofold_runtime::{Blob, BlobBuilder, Plan, PlanError, PlanParts};

use crate::{CodegenError, CodegenOptions, compile};

/// The compiled bodies of a graph, before there is a blob for their constants.
pub(crate) struct Bodies {
    /// Their positions in the plan.
    pub(crate) ids: BTreeMap<BodyId, BodyId>,
    /// Their parts, and where their constants begin in the blob.
    parts: Vec<(PlanParts, usize)>,
}

impl Bodies {
    /// Compiles the bodies of a graph.
    pub(crate) fn compile(
        graph: &Graph,
        options: &CodegenOptions,
        blob: &mut BlobBuilder,
    ) -> Result<Self, CodegenError> {
        // States are kept between runs of the whole plan.
        let options = &CodegenOptions {
            states: Vec::new(),
            ..options.clone()
        };
        let mut bodies = Self {
            ids: BTreeMap::new(),
            parts: Vec::new(),
        };
        for (id, body) in graph.bodies() {
            let parts = compile(body, options)?.parts().clone();
            let position = u32::try_from(bodies.parts.len()).map_err(|_| CodegenError::TooLarge)?;
            bodies.ids.insert(id, BodyId(position));
            let start = blob.push(parts.blob.pieces().concat().into());
            bodies.parts.push((parts, start));
        }
        Ok(bodies)
    }

    /// The least instruction set that all bodies ask for.
    pub(crate) fn requires(&self) -> Isa {
        let each = self.parts.iter().map(|(parts, _)| parts.requires);
        each.max().unwrap_or(Isa::Scalar)
    }

    /// The plans, with constants in the blob.
    pub(crate) fn plans(&mut self, blob: &Blob) -> Result<Vec<Arc<Plan>>, PlanError> {
        let parts = self.parts.drain(..);
        parts
            .map(|(parts, start)| moved(parts, start, blob))
            .collect()
    }
}

/// A plan whose constants are in another blob, from `start` on.
fn moved(mut parts: PlanParts, start: usize, blob: &Blob) -> Result<Arc<Plan>, PlanError> {
    for constant in &mut parts.constants {
        constant.offset += start;
    }
    let bodies = std::mem::take(&mut parts.bodies).into_iter();
    let bodies = bodies.map(|body| moved(body.parts().clone(), start, blob));
    parts.bodies = bodies.collect::<Result<_, _>>()?;
    parts.blob = blob.clone();
    Ok(Arc::new(Plan::new(parts)?))
}
