//! What a command works on: a plan or a model, inputs and data sets.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, anyhow, bail};
use clap::Args;
use octofold::Model;
use octofold::calibrate::{DataOptions, DataSet, InputSpec, Preprocess};
use octofold::config::Config;
use octofold::kernels::isa::Isa;
use octofold::passes::backend::BackendConfig;
use octofold::runtime::{Plan, Session, SessionOptions};
use octofold::tensor::{Tensor, npy};

use crate::cli::limits::LimitArguments;

/// How things are computed.
#[derive(Args)]
pub(crate) struct Execution {
    /// The number of threads; by default as many as the processor has.
    #[arg(long, default_value_t = 0)]
    pub(crate) threads: usize,
    /// Run a plan that is made for another processor all the same, by the kernels that this one has.
    #[arg(long)]
    pub(crate) allow_portable: bool,
    #[command(flatten)]
    pub(crate) limits: LimitArguments,
}

impl Execution {
    /// The options of a session, with the instruction set that `OCTOFOLD_ISA` names.
    pub(crate) fn session(&self) -> Result<SessionOptions> {
        let isa = match std::env::var("OCTOFOLD_ISA") {
            Err(_) => None,
            Ok(name) => Some(
                name.parse::<Isa>()
                    .map_err(|error| anyhow!("OCTOFOLD_ISA: {error}"))?,
            ),
        };
        Ok(SessionOptions {
            threads: self.threads,
            isa,
            allow_portable: self.allow_portable,
            memory: self.limits.limits()?.memory,
        })
    }
}

/// Whether a file is a plan.
pub(crate) fn is_plan(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "oct")
}

/// The plan of a file: read, or compiled from a model as it is, for the engine that it was prepared for.
pub(crate) fn plan_of(path: &Path, limits: &LimitArguments) -> Result<Plan> {
    if is_plan(path) {
        return Ok(Plan::load(path)?);
    }
    let model = Model::load_within(path, &limits.limits()?.import)?;
    let backend = BackendConfig::named(octofold::engine_of(&model.graph).name())?;
    let (lowered, _) =
        octofold::lower_for(&model.graph, &backend).with_context(|| path.display().to_string())?;
    octofold::compile(&lowered).with_context(|| path.display().to_string())
}

/// A session of a plan or model.
pub(crate) fn session_of(path: &Path, execution: &Execution) -> Result<Session> {
    let plan = plan_of(path, &execution.limits)?;
    let session = Session::new(Arc::new(plan), execution.session()?);
    session.with_context(|| path.display().to_string())
}

/// How data are read.
#[derive(Args)]
pub(crate) struct DataArguments {
    /// The array of an input, where the names differ: INPUT=ARRAY.
    #[arg(long, value_name = "INPUT=ARRAY")]
    map: Vec<String>,
    /// The number of samples a run, where the model leaves it open.
    #[arg(long, default_value_t = 32)]
    batch: usize,
    /// The largest number of samples that is read.
    #[arg(long)]
    samples: Option<usize>,
    /// The configuration file, for the preprocessing of the inputs.
    #[arg(long)]
    config: Option<PathBuf>,
}

impl DataArguments {
    /// The configuration file, when one is named.
    pub(crate) fn config(&self) -> Result<Config> {
        match &self.config {
            None => Ok(Config::default()),
            Some(path) => Ok(Config::read(path)?),
        }
    }

    /// A data set for a model that takes `inputs`.
    pub(crate) fn open(&self, path: &Path, inputs: Vec<InputSpec>) -> Result<DataSet> {
        let preprocess: BTreeMap<String, Preprocess> = self.config()?.inputs;
        if let Some(name) = preprocess
            .keys()
            .find(|name| inputs.iter().all(|input| input.name != **name))
        {
            let known: Vec<&str> = inputs.iter().map(|input| input.name.as_str()).collect();
            bail!(
                "[input.{name}]: the model has no input `{name}`; it has `{}`",
                known.join("`, `")
            );
        }
        let map = self.map.iter().map(|pair| {
            let (input, array) = pair
                .split_once('=')
                .ok_or_else(|| anyhow!("--map {pair}: expected INPUT=ARRAY"))?;
            Ok((input.to_owned(), array.to_owned()))
        });
        let options = DataOptions {
            map: map.collect::<Result<_>>()?,
            preprocess,
            batch: self.batch,
            samples: self.samples,
        };
        Ok(DataSet::open(path, inputs, options)?)
    }
}

/// Inputs from `IN.npz` or `NAME=FILE.npy` arguments.
pub(crate) fn read_inputs(arguments: &[String]) -> Result<Vec<(String, Tensor)>> {
    let mut inputs = Vec::new();
    for argument in arguments {
        match argument.split_once('=') {
            Some((name, file)) if !Path::new(argument).exists() => {
                let arrays = npy::read_file(Path::new(file)).with_context(|| file.to_owned())?;
                let (_, tensor) = arrays
                    .into_iter()
                    .next()
                    .ok_or_else(|| anyhow!("{file} holds no array"))?;
                inputs.push((name.to_owned(), tensor));
            }
            _ => inputs
                .extend(npy::read_file(Path::new(argument)).with_context(|| argument.clone())?),
        }
    }
    Ok(inputs)
}

/// The inputs that a plan takes, of those that were given; NumPy's archives may hold more.
pub(crate) fn select<'a>(plan: &Plan, given: &'a [(String, Tensor)]) -> Vec<(&'a str, Tensor)> {
    let wanted: Vec<&str> = plan.inputs().map(|input| input.name.as_str()).collect();
    let selected = given
        .iter()
        .filter(|(name, _)| wanted.contains(&name.as_str()));
    selected
        .map(|(name, tensor)| (name.as_str(), tensor.clone()))
        .collect()
}

/// Inputs of zeros, every open dimension being 1.
pub(crate) fn zero_inputs(plan: &Plan) -> Result<Vec<(String, Tensor)>> {
    let inputs = plan.inputs().map(|input| {
        let sizes = input
            .shape
            .iter()
            .flatten()
            .map(|dim| dim.known().map_or(1, |size| size.max(0) as usize));
        Ok((input.name.clone(), Tensor::zeros(input.dtype, sizes)?))
    });
    inputs.collect()
}
