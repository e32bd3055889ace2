//! Graph mode: the compiler finds what can be fused and quantized, and the user names the exceptions.

use octofold_ir::Graph;
use octofold_passes::annotate::{Annotations, annotate};
use octofold_passes::backend::BackendConfig;
use octofold_passes::config::{QConfigMapping, Resolver};
use octofold_passes::manager::PassRun;
use octofold_passes::pipeline::{self, Context, Sequence, Stage, run_stages};

use crate::Error;
use crate::error::{describe_unhonoured, describe_unmatched};
use crate::model::Model;
use crate::prepared::{Mode, Prepared, prepare_by};
use crate::provenance::Provenance;

/// What becomes of a setting that matches nothing in the model, or that the engine cannot honour.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum UnmatchedPolicy {
    /// An error.
    #[default]
    Error,
    /// A warning, in [`Prepared::warnings`].
    Warn,
}

/// Options of [`prepare_with`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PrepareOptions {
    /// What becomes of settings without effect.
    pub unmatched: UnmatchedPolicy,
    /// Whether the ranges of neighbouring layers' channels are equalized first.
    pub equalize: bool,
}

/// Simplifies, fuses, annotates and observes a model (torch's `prepare_fx`).
///
/// # Errors
/// When a setting matches nothing in the model or the engine cannot honour it, or the graph is not sound.
pub fn prepare(
    model: Model,
    mapping: &QConfigMapping,
    backend: &BackendConfig,
) -> Result<Prepared, Error> {
    prepare_with(model, mapping, backend, PrepareOptions::default())
}

/// As [`prepare`], with options.
///
/// # Errors
/// As [`prepare`].
pub fn prepare_with(
    model: Model,
    mapping: &QConfigMapping,
    backend: &BackendConfig,
    options: PrepareOptions,
) -> Result<Prepared, Error> {
    let resolver = Resolver::new(mapping, &model.names);
    let (harmless, unmatched): (Vec<_>, Vec<_>) = resolver
        .unmatched()
        .iter()
        .cloned()
        .partition(|unmatched| unmatched.harmless);
    let mut warnings: Vec<String> = harmless.iter().map(describe_unmatched).collect();
    match options.unmatched {
        UnmatchedPolicy::Error if !unmatched.is_empty() => return Err(Error::Unmatched(unmatched)),
        _ => warnings.extend(unmatched.iter().map(describe_unmatched)),
    }
    let mode = GraphMode {
        resolver: &resolver,
        mapping,
        backend,
        options,
    };
    prepare_by(&mode, &model, warnings)
}

/// Graph mode, for one model.
struct GraphMode<'a> {
    resolver: &'a Resolver<'a>,
    mapping: &'a QConfigMapping,
    backend: &'a BackendConfig,
    options: PrepareOptions,
}

impl Mode for GraphMode<'_> {
    fn stages(&self) -> Sequence {
        pipeline::PREPARE
    }

    fn run(&self, stage: Stage, graph: &mut Graph) -> Result<Vec<PassRun>, Error> {
        if stage == Stage::Equalize && !self.options.equalize {
            return Ok(Vec::new());
        }
        let context = Context::new(self.backend);
        Ok(run_stages(graph, &[stage], &context)?)
    }

    fn annotate(&self, graph: &Graph, warnings: &mut Vec<String>) -> Result<Annotations, Error> {
        let values = &self.mapping.values;
        let annotations = annotate(graph, self.resolver, values, self.backend)?;
        let unhonoured = &annotations.unhonoured;
        match self.options.unmatched {
            UnmatchedPolicy::Error if !unhonoured.is_empty() => {
                return Err(Error::Unhonoured(unhonoured.clone()));
            }
            _ => warnings.extend(unhonoured.iter().map(describe_unhonoured)),
        }
        Ok(annotations)
    }

    fn provenance(&self) -> Provenance {
        Provenance::of(self.backend, self.mapping.preset)
    }
}
