//! Graph mode: patterns are found, fused, observed and converted automatically.
//!
//! Each function is one stage and usable alone; what it takes and gives can be printed, verified, exported and run.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use octofold_calibrate::{DataSet, InputSpec};
use octofold_codegen::CodegenOptions;
use octofold_ir::{Graph, onnx};
use octofold_passes::annotate::{Annotations, annotate};
use octofold_passes::backend::BackendConfig;
use octofold_passes::config::{ModelNames, QConfigMapping, Resolver};
use octofold_passes::convert::{Convert, Statistics};
use octofold_passes::equalize::EqualizeLayers;
use octofold_passes::expand::ExpandFused;
use octofold_passes::manager::{ManagerOptions, PassRun, run_passes};
use octofold_passes::observe::InsertObservers;
use octofold_passes::pipeline;
use octofold_quant::QuantSpec;
use octofold_runtime::{Engine, Plan, Session, SessionOptions};
use octofold_tensor::Dim;

use crate::Error;
use crate::error::{describe_unhonoured, describe_unmatched};
use crate::fate::{Fate, fates, record_float_nodes, record_unlowered, wanted_on_integers};
use crate::provenance::Provenance;

/// A model as it was imported, with the names by which its operators can be found.
#[derive(Clone, Debug)]
pub struct Model {
    /// The graph, before any pass.
    pub graph: Graph,
    /// The names of its nodes.
    pub names: ModelNames,
}

impl Model {
    /// Reads a model from an ONNX file, or from its text form when the name ends in `.txt` or `.onnxtxt`.
    ///
    /// # Errors
    /// When the file cannot be read or needs what Octofold does not have.
    pub fn load(path: &Path) -> Result<Self, Error> {
        Self::load_within(path, &onnx::ImportOptions::default())
    }

    /// As [`Model::load`], with other budgets than the default ones.
    ///
    /// # Errors
    /// As [`Model::load`].
    pub fn load_within(path: &Path, options: &onnx::ImportOptions) -> Result<Self, Error> {
        let is_text = path
            .extension()
            .is_some_and(|extension| extension == "txt" || extension == "onnxtxt");
        let graph = if is_text {
            octofold_ir::text::read_file_within(path, options)?
        } else {
            onnx::import(path, options)?
        };
        Ok(Self::new(graph))
    }

    /// A model from a graph before any pass.
    pub fn new(graph: Graph) -> Self {
        Self {
            names: ModelNames::of(&graph),
            graph,
        }
    }

    /// What the model takes.
    pub fn inputs(&self) -> Vec<InputSpec> {
        inputs_of(&self.graph)
    }
}

/// What a graph takes.
pub fn inputs_of(graph: &Graph) -> Vec<InputSpec> {
    let inputs = graph.inputs().iter().map(|&id| {
        let value = graph.value(id);
        InputSpec {
            name: value.name().to_owned(),
            dtype: value.ty().dtype,
            shape: value.ty().shape.clone().unwrap_or_default(),
        }
    });
    inputs.collect()
}

/// What a plan takes.
pub fn inputs_of_plan(plan: &Plan) -> Vec<InputSpec> {
    let inputs = plan.inputs().map(|input| InputSpec {
        name: input.name.clone(),
        dtype: input.dtype,
        shape: input.shape.clone().unwrap_or_default(),
    });
    inputs.collect()
}

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
    /// Settings that match nothing or cannot be honoured, where that is no error.
    pub warnings: Vec<String>,
}

/// Simplifies and fuses a float graph.
///
/// # Errors
/// When the graph is not sound.
pub fn optimize(graph: &mut Graph) -> Result<Vec<PassRun>, Error> {
    Ok(pipeline::simplify_and_fuse(
        graph,
        &BackendConfig::fbgemm(),
    )?)
}

/// What becomes of a setting that matches nothing in the model, or that the engine cannot honour.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum UnmatchedPolicy {
    /// An error.
    #[default]
    Error,
    /// A warning, in [`Prepared::warnings`].
    Warn,
}

/// What [`prepare_with`] does beside what the mapping says.
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
    let mut graph = model.graph.clone();
    let mut runs = pipeline::simplify_and_fuse(&mut graph, backend)?;
    if options.equalize {
        runs.extend(run_passes(
            &mut graph,
            &[&EqualizeLayers::ALL],
            ManagerOptions::default(),
        )?);
    }
    let annotations = annotate(&graph, &resolver, &mapping.values, backend)?;
    let unhonoured = &annotations.unhonoured;
    match options.unmatched {
        UnmatchedPolicy::Error if !unhonoured.is_empty() => {
            return Err(Error::Unhonoured(unhonoured.clone()));
        }
        _ => warnings.extend(unhonoured.iter().map(describe_unhonoured)),
    }
    let provenance = Provenance::of(backend, mapping.preset);
    observe(&model, graph, annotations, runs, warnings, &provenance)
}

/// Inserts the observers of annotations, and records where the model comes from and what becomes of its nodes.
pub(crate) fn observe(
    model: &Model,
    mut graph: Graph,
    annotations: Annotations,
    mut runs: Vec<PassRun>,
    warnings: Vec<String>,
    provenance: &Provenance,
) -> Result<Prepared, Error> {
    let mut observed = graph.clone();
    let insert = InsertObservers {
        annotations: &annotations,
    };
    runs.extend(run_passes(
        &mut observed,
        &[&insert],
        ManagerOptions::default(),
    )?);
    let fates = fates(model, &graph, &annotations);
    record_float_nodes(&mut graph, &fates);
    provenance.record(graph.metadata_mut());
    Ok(Prepared {
        graph,
        observed,
        annotations,
        fates,
        runs,
        warnings,
    })
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
        let mut graph = self.observed.clone();
        pipeline::lower(&mut graph, &BackendConfig::fbgemm())?;
        Ok(Session::new(Arc::new(compile(&graph)?), options)?)
    }
}

/// Runs the observed graph over data and gives what was observed. `progress` is told the number of samples seen so far.
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

/// Converts a prepared model to the reference QDQ graph: standard ONNX, for [`onnx::export`] or [`lower`] (torch's `convert_to_reference_fx`).
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
    let convert = Convert {
        annotations,
        statistics,
    };
    run_passes(
        &mut graph,
        &[&convert, &ExpandFused],
        ManagerOptions::default(),
    )?;
    Ok(graph)
}

/// Lowers a float or QDQ graph to what [`compile`] takes, whoever made it.
///
/// # Errors
/// When the graph is not sound.
pub fn lower(graph: &Graph) -> Result<(Graph, Vec<PassRun>), Error> {
    lower_for(graph, &BackendConfig::fbgemm())
}

/// As [`lower`], with the patterns that a user added to an engine. A graph that was prepared for another engine is refused: see
/// [`Provenance::adopt`] for the explicit choice to lower it all the same.
///
/// # Errors
/// When the graph is not sound, or was prepared for another engine.
pub fn lower_for(graph: &Graph, backend: &BackendConfig) -> Result<(Graph, Vec<PassRun>), Error> {
    Provenance::read(graph.metadata()).require_engine(&backend.name, "the model")?;
    let mut graph = graph.clone();
    let mut runs = pipeline::simplify_and_fuse(&mut graph, backend)?;
    let wanted = wanted_on_integers(&graph);
    runs.extend(pipeline::lower(&mut graph, backend)?);
    record_unlowered(&mut graph, &wanted, &runs);
    Ok((graph, runs))
}

/// The engine that a graph was prepared for; fbgemm where it does not say.
///
/// # Errors
/// [`Error::EngineMismatch`] when it names an engine that does not exist.
pub fn engine_of(graph: &Graph) -> Result<Engine, Error> {
    match Provenance::read(graph.metadata()).engine {
        None => Ok(Engine::Fbgemm),
        Some(name) => Engine::from_name(&name).ok_or_else(|| Error::EngineMismatch {
            what: "the model".to_owned(),
            prepared_for: name,
            used_with: Engine::ALL.map(Engine::name).join(" or "),
        }),
    }
}

/// Makes an executable plan of a lowered graph, for [its engine](engine_of).
///
/// # Errors
/// When the graph has a cycle, weights cannot be packed, or it was prepared for an engine that does not exist.
pub fn compile(graph: &Graph) -> Result<Plan, Error> {
    let options = CodegenOptions {
        engine: engine_of(graph)?,
        ..CodegenOptions::default()
    };
    compile_with(graph, &options)
}

/// As [`compile`], for an engine and an instruction set.
///
/// # Errors
/// As [`compile`], and when the graph was prepared for another engine.
pub fn compile_with(graph: &Graph, options: &CodegenOptions) -> Result<Plan, Error> {
    Provenance::read(graph.metadata()).require_engine(options.engine.name(), "the model")?;
    Ok(octofold_codegen::compile(graph, options)?)
}

/// Gives an input's symbolic dimensions the sizes of a shape, or one symbol its size: `--shape NAME=1x3x640x640`, `--shape SYMBOL=640`. An input is
/// meant where both have the name.
///
/// # Errors
/// When there is neither, or the shape does not fit the input.
pub fn fix_shape(graph: &Graph, name: &str, shape: &[i64]) -> Result<Graph, Error> {
    let mut inputs = graph.inputs().iter();
    let is_input = inputs.any(|&input| graph.value(input).name() == name);
    if let (false, &[size]) = (is_input, shape) {
        return Ok(graph.with_dimension(name, size)?);
    }
    let known: Vec<Dim> = shape.iter().map(|&size| Dim::Known(size)).collect();
    Ok(graph.with_input_shape(name, &known)?)
}
