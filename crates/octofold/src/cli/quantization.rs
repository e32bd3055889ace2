//! The arguments that say how a model is quantized, and the way from a model to a reference graph.

use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use clap::Args;
use clap::builder::{PossibleValuesParser, TypedValueParser};
use indicatif::ProgressBar;
use octofold::calibrate::InputSpec;
use octofold::ir::Graph;
use octofold::passes::backend::BackendConfig;
use octofold::passes::config::{Preset, QConfig, QConfigMapping};
use octofold::passes::convert::Statistics;
use octofold::passes::pass::Event;
use octofold::quant::{ObserverKind, QuantType};
use octofold::tensor::file::read_text;
use octofold::{
    Algorithm, Calibration, DataSet, Fate, Mode, Model, Prepared, Progress, Provenance, Quantized,
    Recipe, StatisticsFile,
};

use crate::cli::limits::limits;
use crate::cli::output::progress;
use crate::cli::source::{DataArguments, Execution};

/// What gets a range of 7 bits.
#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum ReduceRange {
    /// Weights, -64..64, as ONNX Runtime and NNCF have it.
    Weights,
    /// Activations, 0..127, as torch has it.
    Activations,
}

/// How a model is quantized.
#[derive(Args)]
pub(crate) struct Quantization {
    /// The algorithm; static when --calibrate is given.
    #[arg(long, value_parser = PossibleValuesParser::new(Algorithm::ALL.map(Algorithm::name)).map(|name| name.parse::<Algorithm>().unwrap_or_default()))]
    algorithm: Option<Algorithm>,
    /// The calibration data: an archive, or a folder of archives or images.
    #[arg(long, value_name = "DATA")]
    pub(crate) calibrate: Option<PathBuf>,
    /// The file that `octofold calibrate` wrote, in place of calibration data.
    #[arg(long, value_name = "STATS.json")]
    statistics: Option<PathBuf>,
    /// The engine: fbgemm or qnnpack.
    #[arg(long)]
    backend: Option<String>,
    #[arg(skip)]
    default_backend: Option<String>,
    /// A table of the engine's abilities, as `octofold backend` prints it.
    #[arg(long, value_name = "FILE.toml", conflicts_with = "backend")]
    backend_config: Option<PathBuf>,
    /// Use statistics and models that were prepared for another engine.
    #[arg(long)]
    pub(crate) allow_other_engine: bool,
    /// Settings with another project's name: fbgemm, qnnpack, torch_fbgemm, torch_qnnpack, ort, nncf, symmetric.
    #[arg(long)]
    preset: Option<String>,
    /// The observer of activations: minmax, histogram, percentile, entropy, mse, mean_minmax, ….
    #[arg(long)]
    observer: Option<String>,
    /// The type of activations.
    #[arg(long)]
    activation_type: Option<String>,
    /// The type of weights.
    #[arg(long)]
    weight_type: Option<String>,
    /// One scale a weight tensor instead of one a channel.
    #[arg(long)]
    per_tensor: bool,
    /// Weights (or activations) of 7 bits.
    #[arg(long, value_enum, num_args = 0..=1, require_equals = true, default_missing_value = "weights")]
    reduce_range: Option<ReduceRange>,
    /// Equalize the ranges of neighbouring layers' channels first.
    #[arg(long)]
    equalize: bool,
    /// Correct biases for the mean error of quantized weights on the calibration data.
    #[arg(long)]
    bias_correction: bool,
    /// Names of nodes or modules to leave float.
    #[arg(long, num_args = 1.., value_name = "NAME")]
    exclude: Vec<String>,
    /// The operator types to quantize; all others stay float.
    #[arg(long, value_delimiter = ',', value_name = "A,B")]
    op_types: Vec<String>,
    #[command(flatten)]
    pub(crate) data: DataArguments,
}

impl Quantization {
    /// Whether the arguments or the configuration ask for quantization: by an algorithm, or by data to calibrate with.
    pub(crate) fn is_wanted(&self) -> Result<bool> {
        let named = self.algorithm.or(self.data.config()?.algorithm);
        Ok(named.is_some() || self.has_statistics())
    }

    /// Whether calibration data or statistics are given.
    pub(crate) fn has_statistics(&self) -> bool {
        self.calibrate.is_some() || self.statistics.is_some()
    }

    /// Whether a flag or the configuration says how to quantize, which means nothing to a float plan.
    pub(crate) fn is_given(&self) -> Result<bool> {
        let config = self.data.config()?;
        let in_file = config.mapping.is_some() || config.eager.is_some();
        let repairs =
            config.equalize || config.bias_correction || self.equalize || self.bias_correction;
        Ok(in_file || repairs || self.changes_settings())
    }

    /// Whether a flag changes which operators are quantized, or how.
    fn changes_settings(&self) -> bool {
        let named = [
            &self.preset,
            &self.observer,
            &self.activation_type,
            &self.weight_type,
        ];
        named.into_iter().any(Option::is_some)
            || self.per_tensor
            || self.reduce_range.is_some()
            || !self.exclude.is_empty()
            || !self.op_types.is_empty()
    }

    /// The engine where neither a flag nor the configuration names one.
    pub(crate) fn default_backend(&mut self, engine: String) {
        self.default_backend = Some(engine);
    }

    /// The engine's abilities.
    pub(crate) fn backend(&self) -> Result<BackendConfig> {
        if let Some(path) = &self.backend_config {
            let name = path.display();
            let text = read_text(path, ("config-bytes", limits().config_bytes));
            let text = text.with_context(|| name.to_string())?;
            return BackendConfig::from_toml(&text).with_context(|| name.to_string());
        }
        let configured = self.data.config()?.backend;
        let named = self.backend.as_deref().or(configured.as_deref());
        let name = named.or(self.default_backend.as_deref());
        let backend = BackendConfig::named(name.unwrap_or("fbgemm"));
        Ok(backend.map_err(octofold::Error::from)?)
    }

    /// The recipe of the configuration file, changed by the flags.
    pub(crate) fn recipe(&self) -> Result<Recipe> {
        let config = self.data.config()?;
        for warning in &config.warnings {
            tracing::warn!("{warning}");
        }
        let mut recipe = Recipe::for_backend(config, self.backend()?);
        recipe.algorithm = self.algorithm.unwrap_or(recipe.algorithm);
        recipe.bias_correction |= self.bias_correction;
        match &mut recipe.mode {
            Mode::Graph { mapping, options } => {
                self.change(mapping)?;
                options.equalize |= self.equalize;
            }
            Mode::Eager(_) if self.changes_settings() || self.equalize => bail!(
                "flags that change what is quantized have no effect in eager mode; write the settings in the section [eager] of the configuration"
            ),
            Mode::Eager(_) => {}
        }
        Ok(recipe)
    }

    /// Changes a mapping as the flags say.
    fn change(&self, mapping: &mut QConfigMapping) -> Result<()> {
        if let Some(preset) = &self.preset {
            let preset = preset.parse::<Preset>()?;
            (mapping.global, mapping.preset) = (Some(preset.qconfig()), Some(preset));
        }
        mapping.for_each_qconfig(|config| self.change_qconfig(config))?;
        if !self.op_types.is_empty() {
            mapping.only_types = Some(self.op_types.clone());
        }
        mapping.exclude.names.extend(self.exclude.iter().cloned());
        Ok(())
    }

    fn change_qconfig(&self, config: &mut QConfig) -> Result<()> {
        if let Some(observer) = &self.observer {
            config.activation.observer = observer.parse::<ObserverKind>()?;
        }
        if let Some(dtype) = &self.activation_type {
            let dtype = dtype.parse::<QuantType>()?;
            *config = config.clone().with_activation_type(dtype);
        }
        if let Some(dtype) = &self.weight_type {
            *config = config.clone().with_weight_type(dtype.parse::<QuantType>()?);
        }
        if self.per_tensor {
            *config = config.clone().per_tensor_weights();
        }
        match self.reduce_range {
            None => {}
            Some(ReduceRange::Weights) => *config = config.clone().with_reduced_weights(),
            Some(ReduceRange::Activations) => *config = config.clone().with_reduced_activations(),
        }
        Ok(())
    }

    /// The recipe of `sensitivity`, which runs many variants of the model on the calibration data.
    pub(crate) fn variants(&self) -> Result<Recipe> {
        if self.statistics.is_some() {
            bail!(
                "statistics of one model do not cover its variants; use --calibrate DATA in place of --statistics"
            );
        }
        self.recipe()
    }

    /// What calibration observes of a prepared model, or observed before.
    pub(crate) fn statistics(
        &self,
        recipe: &Recipe,
        prepared: &Prepared,
        execution: &Execution,
    ) -> Result<Statistics> {
        let sources = self.sources(octofold::inputs_of(&prepared.graph))?;
        let bar = progress("calibrating");
        let calibration = sources.calibration();
        let session = execution.session()?;
        let statistics = recipe.statistics(prepared, calibration, session, |now| show(&bar, now));
        bar.finish_and_clear();
        self.naming_statistics(statistics)
    }

    /// Quantizes a model by the recipe; `explain` prints the fate of every node.
    pub(crate) fn quantize(
        &self,
        model: &Model,
        execution: &Execution,
        explain: bool,
    ) -> Result<Quantized> {
        let recipe = self.recipe()?;
        let sources = self.sources(model.inputs())?;
        let bar = progress("calibrating");
        let (calibration, session) = (sources.calibration(), execution.session()?);
        let quantized = recipe.quantize_with(model, calibration, session, |now| {
            if let Progress::Prepared(prepared) = now {
                log_warnings(&prepared.warnings);
                let fates = prepared.fates.iter().filter(|_| explain);
                fates.for_each(print_fate);
            }
            show(&bar, now);
        });
        bar.finish_and_clear();
        let quantized = self.naming_statistics(quantized)?;
        for event in repairs(&quantized.prepared) {
            tracing::info!("{event}");
        }
        Ok(quantized)
    }

    /// The data and the file of statistics that are named.
    fn sources(&self, inputs: Vec<InputSpec>) -> Result<Sources> {
        let open = |path: &PathBuf| self.data.open(path, inputs);
        let load = |path: &PathBuf| -> Result<StatisticsFile> {
            let mut file = StatisticsFile::load_within(path, limits().statistics_bytes)
                .map_err(octofold::Error::from)?;
            if self.allow_other_engine {
                file.provenance.engine = Some(self.backend()?.name);
            }
            Ok(file)
        };
        Ok(Sources {
            data: self.calibrate.as_ref().map(open).transpose()?,
            statistics: self.statistics.as_ref().map(load).transpose()?,
        })
    }

    /// A result whose error names the file of statistics, where it is about that file.
    fn naming_statistics<T>(&self, result: Result<T, octofold::Error>) -> Result<T> {
        use octofold::Error::{EngineMismatch, OtherGraph, OtherObserver};
        match (&self.statistics, result) {
            (
                Some(path),
                Err(error @ (EngineMismatch { .. } | OtherGraph | OtherObserver { .. })),
            ) => Err(error).with_context(|| path.display().to_string()),
            (_, result) => Ok(result?),
        }
    }

    /// Lets a model that was prepared for another engine be used, where the user says so.
    pub(crate) fn accept_engine(&self, graph: &mut Graph) -> Result<()> {
        if self.allow_other_engine {
            Provenance::adopt(graph.metadata_mut(), &self.backend()?.name);
        }
        Ok(())
    }
}

/// What calibration works with.
struct Sources {
    data: Option<DataSet>,
    statistics: Option<StatisticsFile>,
}

impl Sources {
    fn calibration(&self) -> Calibration<'_> {
        Calibration {
            data: self.data.as_ref(),
            statistics: self.statistics.as_ref(),
        }
    }
}

/// Prepares a model, and logs the warnings.
pub(crate) fn prepare(recipe: &Recipe, model: &Model) -> Result<Prepared> {
    let prepared = recipe.prepare(model)?;
    log_warnings(&prepared.warnings);
    Ok(prepared)
}

pub(crate) fn log_warnings(warnings: &[String]) {
    for warning in warnings {
        tracing::warn!("{warning}");
    }
}

/// Shows on a counter what quantizing does.
pub(crate) fn show(bar: &ProgressBar, now: Progress<'_>) {
    match now {
        Progress::Calibrating(seen) => bar.set_position(seen as u64),
        Progress::CorrectingBiases(seen) => {
            bar.set_message("correcting biases");
            bar.set_position(seen as u64);
        }
        _ => {}
    }
}

/// What bias correction did.
fn repairs(prepared: &Prepared) -> impl Iterator<Item = &Event> {
    let runs = prepared.runs.iter();
    runs.filter(|run| run.pass == "correct-biases")
        .flat_map(|run| &run.report.events)
}

/// Prints the line of a node.
pub(crate) fn print_fate(fate: &Fate) {
    let word = match (fate.integer, fate.quantized) {
        (true, _) => "int8 ",
        (false, true) => "reals",
        (false, false) => "float",
    };
    let setting = match fate.origin.as_str() {
        "" => String::new(),
        // Some reasons are the setting.
        origin if fate.explanation.contains(origin) => String::new(),
        origin => format!(" ({origin})"),
    };
    println!(
        "{word} {} ({}): {}{setting}",
        fate.node, fate.operator, fate.explanation
    );
}
