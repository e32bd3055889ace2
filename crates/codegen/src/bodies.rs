//! Bodies: each is compiled as a graph of its own; its constants go to the blob of the plan that runs it, those that several bodies have once.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use bytes::Bytes;
use octofold_ir::Graph;
use octofold_kernels::Isa;
use octofold_ops::BodyId;
use octofold_runtime::{
    Blob, BlobBuilder, ConstantIndex, Plan, PlanError, PlanParts, aligned_copy,
};

use crate::{CodegenError, CodegenOptions, compile};

/// The compiled bodies of a graph, before there is a blob for their constants.
pub(crate) struct Bodies {
    /// Their positions in the plan.
    pub(crate) ids: BTreeMap<BodyId, BodyId>,
    placed: Vec<Placed>,
}

/// A body whose constants have their places in the blob to come, and its own bodies.
struct Placed {
    parts: PlanParts,
    bodies: Vec<Self>,
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
            placed: Vec::new(),
        };
        let mut known = HashMap::new();
        for (id, body) in graph.bodies() {
            let plan = compile(body, options)?;
            let position = u32::try_from(bodies.placed.len());
            let position = position.map_err(|_| CodegenError::TooLarge)?;
            bodies.ids.insert(id, BodyId(position));
            bodies.placed.push(Placed::new(&plan, blob, &mut known));
        }
        Ok(bodies)
    }

    /// The least instruction set that all bodies ask for.
    pub(crate) fn requires(&self) -> Isa {
        let each = self.placed.iter().map(|body| body.parts.requires);
        each.max().unwrap_or(Isa::Scalar)
    }

    /// The plans, with constants in the blob.
    pub(crate) fn plans(&mut self, blob: &Blob) -> Result<Vec<Arc<Plan>>, PlanError> {
        let placed = self.placed.drain(..);
        placed.map(|body| body.plan(blob)).collect()
    }
}

impl Placed {
    /// Adds the constants of a plan to the blob. `known` has where those are that are there already: the branches of an `If` may read the same weights.
    fn new(plan: &Plan, blob: &mut BlobBuilder, known: &mut HashMap<Bytes, usize>) -> Self {
        let mut parts = plan.parts().clone();
        for (index, constant) in parts.constants.iter_mut().enumerate() {
            let bytes = plan.constant_bytes(ConstantIndex(index as u32));
            constant.offset = known.get(bytes).copied().unwrap_or_else(|| {
                let own = aligned_copy(bytes).unwrap_or_else(|| bytes.to_vec().into());
                let offset = blob.push(own.clone());
                known.insert(own, offset);
                offset
            });
        }
        let bodies = std::mem::take(&mut parts.bodies);
        let bodies = bodies.iter().map(|body| Self::new(body, blob, known));
        Self {
            bodies: bodies.collect(),
            parts,
        }
    }

    /// The plan, with constants in the blob.
    fn plan(self, blob: &Blob) -> Result<Arc<Plan>, PlanError> {
        let bodies = self.bodies.into_iter().map(|body| body.plan(blob));
        let parts = PlanParts {
            bodies: bodies.collect::<Result<_, _>>()?,
            blob: blob.clone(),
            ..self.parts
        };
        Ok(Arc::new(Plan::new(parts)?))
    }
}
