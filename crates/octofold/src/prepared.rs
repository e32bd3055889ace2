//! A prepared model, and what is done with it: calibration and conversion.

use std::collections::BTreeMap;
use std::sync::Arc;

use octofold_calibrate::DataSet;
use octofold_codegen::CodegenOptions;
use octofold_ir::Graph;
use octofold_passes::annotate::Annotations;
use octofold_passes::backend::BackendConfig;
use octofold_passes::convert::Statistics;
use octofold_passes::manager::PassRun;
use octofold_passes::pipeline::{self, Context, Decisions, Sequence, Stage, run_stages};
use octofold_quant::QuantSpec;
use octofold_runtime::{Session, SessionOptions};

use crate::Error;
use crate::fate::{Fate, fates, record_float_nodes};
use crate::lowering::{compile_with, engine_of};
use crate::model::Model;
use crate::provenance::Provenance;
use crate::recipe::QUANTIZED;

/// A model that is ready for calibration.
#[derive(Clone, Debug)]
pub struct Prepared {
    /// The simplified and fused float graph.
    pub graph: Graph,
    /// The same graph with observers.
    pub observed: Graph,
    /// The decision for every node and value.
    pub annotations: Annotations,
    /// What becomes of each node of the model.
    pub fates: Vec<Fate>,
    /// What the passes did.
    pub runs: Vec<PassRun>,
    /// Settings that match nothing or cannot be honoured, where that is allowed.
    pub warnings: Vec<String>,
}

/// What graph mode and eager mode do differently on the way to a [`Prepared`] model.
pub(crate) trait Mode {
    /// The stages, from a model to observers.
    fn stages(&self) -> Sequence;

    /// Runs a stage that changes the graph.
    fn run(&self, stage: Stage, graph: &mut Graph) -> Result<Vec<PassRun>, Error>;

    /// Decides for each node and value; adds to the warnings.
    fn annotate(&self, graph: &Graph, warnings: &mut Vec<String>) -> Result<Annotations, Error>;

    /// Where the prepared model comes from.
    fn provenance(&self) -> Provenance;
}

/// Runs the stages of a mode, and records where the model comes from and what becomes of its nodes.
pub(crate) fn prepare_by(
    mode: &dyn Mode,
    model: &Model,
    mut warnings: Vec<String>,
) -> Result<Prepared, Error> {
    let quantized = model.is_quantized();
    if quantized {
        warnings.push(QUANTIZED.to_owned());
    }
    let (mut graph, mut runs) = (model.graph.clone(), Vec::new());
    let mut annotations = Annotations::default();
    let mut observed = None;
    for &stage in mode.stages() {
        match stage {
            Stage::Annotate => annotations = mode.annotate(&graph, &mut warnings)?,
            Stage::Observe => {
                let (seen, run) = observe(&graph, &annotations)?;
                runs.extend(run);
                observed = Some(seen);
            }
            _ => runs.extend(mode.run(stage, &mut graph)?),
        }
    }
    let fates = fates(model, &graph, &annotations);
    let observed = observed.unwrap_or_else(|| graph.clone());
    // Which layers between quantizers compute on integers is known when they are lowered.
    if !quantized {
        record_float_nodes(&mut graph, &fates);
    }
    mode.provenance().record(graph.metadata_mut());
    Ok(Prepared {
        graph,
        observed,
        annotations,
        fates,
        runs,
        warnings,
    })
}

/// A copy of a fused graph with the observers that annotations ask for.
pub(crate) fn observe(
    graph: &Graph,
    annotations: &Annotations,
) -> Result<(Graph, Vec<PassRun>), Error> {
    let mut observed = graph.clone();
    let backend = BackendConfig::fbgemm();
    let context = Context {
        decisions: Some(Decisions::Made(annotations)),
        ..Context::new(&backend)
    };
    let runs = run_stages(&mut observed, &[Stage::Observe], &context)?;
    Ok((observed, runs))
}

/// A session of a fused graph with observers, compiled for calibration.
pub(crate) fn observing_session(
    mut observed: Graph,
    options: SessionOptions,
) -> Result<Session, Error> {
    let backend = BackendConfig::fbgemm();
    let context = Context::new(&backend);
    run_stages(&mut observed, pipeline::LOWER_FUSED, &context)?;
    let codegen = CodegenOptions {
        engine: engine_of(&observed)?,
        in_place: true,
        ..CodegenOptions::default()
    };
    let plan = compile_with(&observed, &codegen)?;
    Ok(Session::new(Arc::new(plan), options)?)
}

impl Prepared {
    /// The specification of each observed value, by its name.
    pub fn specs(&self) -> BTreeMap<String, QuantSpec> {
        let observed = self.annotations.observed();
        observed
            .map(|(id, spec)| (self.graph.value(id).name().to_owned(), *spec))
            .collect()
    }

    /// A session of the compiled observed graph.
    ///
    /// # Errors
    /// When the graph cannot be compiled.
    pub fn session(&self, options: SessionOptions) -> Result<Session, Error> {
        observing_session(self.observed.clone(), options)
    }
}

/// Runs the observed graph over data and returns what the observers saw. `progress` gets the number of samples seen so far.
///
/// # Errors
/// When data do not fit the model, or a value is NaN or infinite.
pub fn calibrate(
    prepared: &Prepared,
    data: &DataSet,
    options: SessionOptions,
    progress: impl FnMut(usize),
) -> Result<Statistics, Error> {
    let mut session = prepared.session(options)?;
    Ok(octofold_calibrate::calibrate(
        &mut session,
        data,
        &prepared.specs(),
        progress,
    )?)
}

/// Converts a prepared model to the reference QDQ graph: standard ONNX, for [`export`](octofold_ir::onnx::export) or [`lower`](crate::lower) (torch's `convert_to_reference_fx`).
///
/// # Errors
/// When statistics of a value are missing, or weights cannot be quantized.
pub fn convert(prepared: &Prepared, statistics: &Statistics) -> Result<Graph, Error> {
    convert_graph(prepared.graph.clone(), &prepared.annotations, statistics)
}

/// Converts a fused float graph by annotations of it.
pub(crate) fn convert_graph(
    mut graph: Graph,
    annotations: &Annotations,
    statistics: &Statistics,
) -> Result<Graph, Error> {
    let backend = BackendConfig::fbgemm();
    let context = Context {
        decisions: Some(Decisions::Made(annotations)),
        statistics: Some(statistics),
        ..Context::new(&backend)
    };
    run_stages(&mut graph, &[Stage::Reference], &context)?;
    Ok(graph)
}
