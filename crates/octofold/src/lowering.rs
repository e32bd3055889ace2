//! From a reference graph to a plan: lowering for an engine, and compiling.

use octofold_codegen::{CodegenOptions, State};
use octofold_ir::Graph;
use octofold_passes::backend::BackendConfig;
use octofold_passes::manager::PassRun;
use octofold_passes::pipeline::{self, Context, Stage, run_stages};
use octofold_runtime::{Engine, Plan};

use crate::Error;
use crate::fate::{record_unlowered, wanted_on_integers};
use crate::provenance::Provenance;

/// Simplifies and fuses a float graph.
///
/// # Errors
/// When the graph is not sound.
pub fn optimize(graph: &mut Graph) -> Result<Vec<PassRun>, Error> {
    let backend = BackendConfig::fbgemm();
    let stages = [Stage::Simplify, Stage::Fuse];
    Ok(run_stages(graph, &stages, &Context::new(&backend))?)
}

/// Lowers a float or QDQ graph to what [`compile`] takes. It does not matter who made the graph.
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
    let (mut graph, mut runs, mut wanted) = (graph.clone(), Vec::new(), Vec::new());
    for &stage in pipeline::LOWER {
        if stage == Stage::Lower {
            wanted = wanted_on_integers(&graph);
        }
        runs.extend(run_stages(&mut graph, &[stage], &Context::new(backend))?);
    }
    record_unlowered(&mut graph, &wanted, &runs);
    Ok((graph, runs))
}

/// The engine that a graph was prepared for; fbgemm where it does not say.
///
/// # Errors
/// [`Error::EngineMismatch`] when it names an engine that does not exist.
pub fn engine_of(graph: &Graph) -> Result<Engine, Error> {
    let name = Provenance::read(graph.metadata()).engine;
    name.map_or(Ok(Engine::Fbgemm), |name| engine_named(&name))
}

/// The engine of a name.
pub(crate) fn engine_named(name: &str) -> Result<Engine, Error> {
    Engine::from_name(name).ok_or_else(|| Error::EngineMismatch {
        what: "the model".to_owned(),
        prepared_for: name.to_owned(),
        used_with: Engine::ALL.map(Engine::name).join(" or "),
    })
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

/// As [`compile`], for an engine and an instruction set. Without states in the options, the plan has those that the model [declares](State::METADATA).
///
/// # Errors
/// As [`compile`], and when the graph was prepared for another engine.
pub fn compile_with(graph: &Graph, options: &CodegenOptions) -> Result<Plan, Error> {
    compile_owned(graph.clone(), options)
}

/// As [`compile_with`]; frees the weights of the graph while they are packed.
pub(crate) fn compile_owned(graph: Graph, options: &CodegenOptions) -> Result<Plan, Error> {
    Provenance::read(graph.metadata()).require_engine(options.engine.name(), "the model")?;
    let mut options = options.clone();
    if options.states.is_empty() {
        let declared = graph.metadata().get(State::METADATA);
        options.states = State::declared(declared.map_or("", String::as_str))?;
    }
    Ok(octofold_codegen::compile_owned(graph, &options)?)
}
