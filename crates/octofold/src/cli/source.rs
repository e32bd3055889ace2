//! What a command works on: a plan or a model, inputs and data sets.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, anyhow, bail};
use clap::Args;
use octofold::Model;
use octofold::calibrate::{DataOptions, DataSet, InputSpec, Preprocess};
use octofold::codegen::CodegenOptions;
use octofold::config::Config;
use octofold::ir::Graph;
use octofold::kernels::isa::Isa;
use octofold::passes::backend::BackendConfig;
use octofold::runtime::{Plan, Session, SessionOptions};
use octofold::tensor::{Dim, Shape, Tensor, npy};

use crate::cli::limits::{limits, load, load_plan};

/// How things are computed.
#[derive(Args)]
pub(crate) struct Execution {
    /// The number of threads; by default as many as the processor has.
    #[arg(long, default_value_t = 0)]
    pub(crate) threads: usize,
    /// Run a plan that is made for another processor all the same, by the kernels that this one has.
    #[arg(long)]
    pub(crate) allow_portable: bool,
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
        let limits = limits();
        Ok(SessionOptions {
            threads: self.threads,
            isa,
            allow_portable: self.allow_portable,
            memory: limits.memory,
            operations: limits.operations,
        })
    }
}

/// Whether a file is a plan.
pub(crate) fn is_plan(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "oct")
}

/// The plan of a file: read, or compiled from a model as it is, for the engine that it was prepared for.
pub(crate) fn plan_of(path: &Path) -> Result<Plan> {
    if is_plan(path) {
        return load_plan(path);
    }
    compiled(&load(path)?, path)
}

/// The plan of a model as it is, for the engine that it was prepared for.
fn compiled(model: &Model, path: &Path) -> Result<Plan> {
    let compiled = compiled_graph(&model.graph);
    compiled.with_context(|| path.display().to_string())
}

/// The plan of a graph as it is, for the engine that it was prepared for and the processor that runs it.
pub(crate) fn compiled_graph(graph: &Graph) -> Result<Plan> {
    let engine = octofold::engine_of(graph)?;
    let (lowered, _) = octofold::lower_for(graph, &BackendConfig::named(engine.name())?)?;
    let options = CodegenOptions {
        engine,
        requires: Some(Isa::Scalar),
        ..CodegenOptions::default()
    };
    Ok(octofold::compile_with(&lowered, &options)?)
}

/// A session of a plan or model.
pub(crate) fn session_of(path: &Path, execution: &Execution) -> Result<Session> {
    let plan = plan_of(path)?;
    let session = Session::new(Arc::new(plan), execution.session()?);
    session.with_context(|| path.display().to_string())
}

/// Sizes for open dimensions.
#[derive(Args)]
pub(crate) struct Shapes {
    /// Sizes of an input, or of one open dimension by its name: NAME=1x3x640x640, H=640.
    #[arg(long, num_args = 1.., value_name = "NAME=SIZES")]
    shape: Vec<String>,
}

impl Shapes {
    /// Names and sizes.
    fn parsed(&self) -> Result<Vec<(&str, Vec<i64>)>> {
        let parsed = self.shape.iter().map(|argument| {
            let malformed = || anyhow!("--shape {argument}: expected NAME=1x3x640x640 or NAME=640");
            let (name, sizes) = argument.split_once('=').ok_or_else(malformed)?;
            let sizes = sizes.split('x').map(str::parse).collect::<Result<_, _>>();
            Ok((name, sizes.map_err(|_| malformed())?))
        });
        parsed.collect()
    }

    /// The model with these sizes.
    pub(crate) fn fix(&self, model: Model) -> Result<Model> {
        let mut model = model;
        for (name, sizes) in self.parsed()? {
            model = Model::new(octofold::fix_shape(&model.graph, name, &sizes)?);
        }
        Ok(model)
    }

    /// A plan that has what these sizes are of, or that of a model with these sizes.
    pub(crate) fn plan_of(&self, path: &Path) -> Result<Plan> {
        if !is_plan(path) {
            return compiled(&self.fix(load(path)?)?, path);
        }
        self.checked(load_plan(path)?)
    }

    /// A session of a plan or of a model, ready for these sizes where there are any.
    pub(crate) fn session_of(&self, path: &Path, execution: &Execution) -> Result<Session> {
        self.session(self.plan_of(path)?, path, execution)
    }

    /// A session of a plan, which comes from `path`, ready for these sizes where there are any.
    pub(crate) fn session(
        &self,
        plan: Plan,
        path: &Path,
        execution: &Execution,
    ) -> Result<Session> {
        let plan = Arc::new(plan);
        let session = Session::new(Arc::clone(&plan), execution.session()?);
        let mut session = session.with_context(|| path.display().to_string())?;
        if !self.shape.is_empty() {
            session.specialize(&self.input_shapes(&plan)?)?;
        }
        Ok(session)
    }

    /// A plan that has what these sizes are of.
    pub(crate) fn checked(&self, plan: Plan) -> Result<Plan> {
        if !self.shape.is_empty() {
            self.check_names(&plan)?;
        }
        Ok(plan)
    }

    /// Checks that a plan has an input or an open dimension of every name. A model checks that itself, and has no open dimension left then.
    fn check_names(&self, plan: &Plan) -> Result<()> {
        let open = RefCell::new(BTreeSet::new());
        plan.input_shapes(|symbol| {
            open.borrow_mut().insert(symbol.to_owned());
            1
        })?;
        let open = open.into_inner();
        for (name, _) in self.parsed()? {
            if !open.contains(name) && plan.inputs().all(|input| input.name != name) {
                let open: Vec<String> = open.into_iter().collect();
                bail!(
                    "--shape {name}: the plan has no such input or open dimension; open are `{}`",
                    open.join("`, `")
                );
            }
        }
        Ok(())
    }

    /// The shapes of a plan's inputs with these sizes; dimensions that stay open are 1.
    pub(crate) fn input_shapes(&self, plan: &Plan) -> Result<Vec<Shape>> {
        let parsed = self.parsed()?;
        let mut symbols: BTreeMap<Arc<str>, usize> = BTreeMap::new();
        for (name, sizes) in &parsed {
            let sizes = sizes.iter().map(|&size| usize::try_from(size));
            let sizes: Vec<usize> = sizes
                .collect::<Result<_, _>>()
                .map_err(|_| anyhow!("--shape {name}: a size is negative"))?;
            match plan.inputs().find(|input| input.name == *name) {
                Some(input) => {
                    let dims = input.shape.as_deref().unwrap_or(&[]);
                    if dims.len() != sizes.len() {
                        bail!("--shape {name}: the input has {} axes", dims.len());
                    }
                    for (dim, size) in dims.iter().zip(sizes) {
                        match dim {
                            Dim::Symbol(symbol) => {
                                symbols.insert(symbol.clone(), size);
                            }
                            other if other.known().is_some_and(|known| known != size as i64) => {
                                bail!("--shape {name}: the plan has the size {other}, not {size}")
                            }
                            _ => {}
                        }
                    }
                }
                None => match sizes[..] {
                    [size] => {
                        symbols.insert((*name).into(), size);
                    }
                    _ => bail!("--shape {name}: there is no such input"),
                },
            }
        }
        Ok(plan.input_shapes(|symbol| symbols.get(symbol).copied().unwrap_or(1))?)
    }
}

/// How data are read.
#[derive(Args)]
pub(crate) struct DataArguments {
    /// The array of an input, where the names differ: INPUT=ARRAY.
    #[arg(long, value_name = "INPUT=ARRAY")]
    map: Vec<String>,
    /// The number of samples a run, where the model leaves it open.
    #[arg(long, default_value = "32")]
    batch: NonZeroUsize,
    /// The largest number of samples that is read.
    #[arg(long)]
    samples: Option<NonZeroUsize>,
    /// The configuration file, for the preprocessing of the inputs.
    #[arg(long)]
    config: Option<PathBuf>,
}

impl DataArguments {
    /// The configuration file, when one is named.
    pub(crate) fn config(&self) -> Result<Config> {
        match &self.config {
            None => Ok(Config::default()),
            Some(path) => {
                let config = Config::read_within(path, limits().config_bytes);
                Ok(config.map_err(octofold::Error::from)?)
            }
        }
    }

    /// A data set for a model that takes `inputs`.
    pub(crate) fn open(&self, path: &Path, inputs: Vec<InputSpec>) -> Result<DataSet> {
        let preprocess: BTreeMap<String, Preprocess> = self.config()?.inputs;
        let map = self.map.iter().map(|pair| {
            let (input, array) = pair
                .split_once('=')
                .ok_or_else(|| anyhow!("--map {pair}: expected INPUT=ARRAY"))?;
            Ok((input.to_owned(), array.to_owned()))
        });
        let options = DataOptions {
            map: map.collect::<Result<_>>()?,
            preprocess,
            batch: self.batch.get(),
            samples: self.samples.map(NonZeroUsize::get),
            array_bytes: limits().array_bytes,
            image_bytes: limits().image_bytes,
        };
        Ok(DataSet::open(path, inputs, options).map_err(octofold::Error::from)?)
    }
}

/// Inputs from `IN.npz` or `NAME=FILE.npy` arguments.
pub(crate) fn read_inputs(arguments: &[String]) -> Result<Vec<(String, Tensor)>> {
    let read = |file: &str| {
        let arrays = npy::read_file_within(Path::new(file), limits().array_bytes);
        arrays.with_context(|| file.to_owned())
    };
    let mut inputs = Vec::new();
    for argument in arguments {
        match argument.split_once('=') {
            Some((name, file)) if !Path::new(argument).exists() => {
                let array = read(file)?.into_iter().next();
                let (_, tensor) = array.ok_or_else(|| anyhow!("{file} holds no array"))?;
                inputs.push((name.to_owned(), tensor));
            }
            _ => inputs.extend(read(argument)?),
        }
    }
    Ok(inputs)
}

/// The inputs that a plan takes, of those that were given. NumPy's archives may hold more, which is worth a warning.
pub(crate) fn select<'a>(plan: &Plan, given: &'a [(String, Tensor)]) -> Vec<(&'a str, Tensor)> {
    let mut selected = Vec::new();
    for (name, tensor) in given {
        if plan.inputs().any(|input| input.name == *name) {
            selected.push((name.as_str(), tensor.clone()));
        } else {
            let known: Vec<&str> = plan.inputs().map(|input| input.name.as_str()).collect();
            tracing::warn!(
                "no input takes the array `{name}`; the inputs are `{}`",
                known.join("`, `")
            );
        }
    }
    selected
}

/// Inputs of zeros of the given shapes.
pub(crate) fn zero_inputs(plan: &Plan, shapes: &[Shape]) -> Result<Vec<(String, Tensor)>> {
    let inputs = plan.inputs().zip(shapes).map(|(input, shape)| {
        let zeros = Tensor::zeros(input.dtype, shape.iter().copied())?;
        Ok((input.name.clone(), zeros))
    });
    inputs.collect()
}
