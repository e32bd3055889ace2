//! The arguments that say how a model is quantized, and the way from a model to a reference graph.

use std::path::PathBuf;

use anyhow::{Context, Result, anyhow, bail};
use clap::{Args, ValueEnum};
use octofold::config::Config;
use octofold::ir::Graph;
use octofold::passes::backend::BackendConfig;
use octofold::passes::config::{Preset, QConfig, QConfigMapping};
use octofold::passes::convert::Statistics;
use octofold::quant::{ObserverKind, QuantType};
use octofold::{
    Fate, Model, PrepareOptions, Prepared, Provenance, SensitivityOptions, StatisticsFile,
};

use crate::cli::output::progress;
use crate::cli::source::{DataArguments, Execution};

/// The algorithms.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Algorithm {
    /// Ranges from calibration data.
    Static,
    /// Ranges while running.
    Dynamic,
    /// Weights only.
    WeightOnly,
    /// Ranges from training.
    Qat,
}

/// What loses a bit.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
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
    #[arg(long, value_enum)]
    algorithm: Option<Algorithm>,
    /// The calibration data: an archive, or a folder of archives or images.
    #[arg(long, value_name = "DATA")]
    pub(crate) calibrate: Option<PathBuf>,
    /// What `octofold calibrate` observed, in place of a calibration.
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
    /// The algorithm that the arguments or the configuration ask for; `None` when they ask for none.
    pub(crate) fn algorithm(&self) -> Result<Option<Algorithm>> {
        let configured = match self.data.config()?.algorithm {
            None => None,
            Some(name) => Some(Algorithm::from_str(&name, true).map_err(|_| {
                anyhow!("`{name}` is no algorithm; there are static, dynamic, weight-only and qat")
            })?),
        };
        let data = self.calibrate.as_ref().or(self.statistics.as_ref());
        let implied = data.map(|_| Algorithm::Static);
        Ok(self.algorithm.or(configured).or(implied))
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
            let text = std::fs::read_to_string(path).with_context(|| name.to_string())?;
            return BackendConfig::from_toml(&text).with_context(|| name.to_string());
        }
        let configured = self.data.config()?.backend;
        let named = self.backend.as_deref().or(configured.as_deref());
        let name = named.or(self.default_backend.as_deref());
        Ok(BackendConfig::named(name.unwrap_or("fbgemm"))?)
    }

    /// Which operators get which QConfig: the configuration file's, changed by the flags.
    fn mapping(&self, config: Config) -> Result<QConfigMapping> {
        let mut mapping = match config.mapping {
            Some(mapping) => mapping,
            // The engine's own preset.
            None => QConfigMapping::preset(self.backend()?.name.parse()?),
        };
        if let Some(preset) = &self.preset {
            let preset = preset.parse::<Preset>()?;
            (mapping.global, mapping.preset) = (Some(preset.qconfig()), Some(preset));
        }
        let edit = |config: &mut QConfig| -> Result<()> {
            if let Some(observer) = &self.observer {
                config.activation.observer = observer.parse::<ObserverKind>()?;
            }
            if let Some(dtype) = &self.activation_type {
                *config = config
                    .clone()
                    .with_activation_type(dtype.parse::<QuantType>()?);
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
                Some(ReduceRange::Activations) => {
                    *config = config.clone().with_reduced_activations();
                }
            }
            Ok(())
        };
        mapping.for_each_qconfig(edit)?;
        if !self.op_types.is_empty() {
            mapping.only_types = Some(self.op_types.clone());
        }
        for name in &self.exclude {
            mapping = mapping.exclude_name(name);
        }
        Ok(mapping)
    }

    /// The configuration file, with its warnings told.
    fn told_config(&self) -> Result<Config> {
        let config = self.data.config()?;
        for warning in &config.warnings {
            tracing::warn!("{warning}");
        }
        Ok(config)
    }

    /// Simplifies, fuses, annotates and observes a model, in the mode that the configuration says.
    pub(crate) fn prepare(&self, model: Model) -> Result<Prepared> {
        let config = self.told_config()?;
        let backend = self.backend()?;
        let options = self.prepare_options(&config);
        let prepared = match &config.eager {
            Some(_) if self.changes_settings() || self.equalize => bail!(
                "in eager mode the section [eager] says what is quantized, and flags change nothing: write it there"
            ),
            Some(eager) => eager.prepare(model, &backend)?,
            None => octofold::prepare_with(model, &self.mapping(config)?, &backend, options)?,
        };
        for warning in &prepared.warnings {
            tracing::warn!("{warning}");
        }
        Ok(prepared)
    }

    fn prepare_options(&self, config: &Config) -> PrepareOptions {
        PrepareOptions {
            unmatched: config.unmatched,
            equalize: config.equalize || self.equalize,
        }
    }

    /// Which operators get which QConfig, where only graph mode will do.
    pub(crate) fn graph_mode(&self) -> Result<QConfigMapping> {
        let config = self.told_config()?;
        if config.eager.is_some() {
            bail!("this command works in graph mode; the configuration says mode = \"eager\"");
        }
        self.mapping(config)
    }

    /// Whether calibration data or statistics are given.
    pub(crate) fn has_statistics(&self) -> bool {
        self.calibrate.is_some() || self.statistics.is_some()
    }

    /// What `sensitivity` tries variants of: the mapping, and what is done beside it.
    pub(crate) fn variants(&self) -> Result<(QConfigMapping, SensitivityOptions)> {
        match self.algorithm()? {
            None | Some(Algorithm::Static) => {}
            Some(_) => bail!("sensitivity is that of static quantization: --algorithm static"),
        }
        if self.statistics.is_some() {
            bail!(
                "statistics of one model lack what other variants of it need: --calibrate DATA in place of --statistics"
            );
        }
        let config = self.told_config()?;
        if config.eager.is_some() {
            bail!(
                "sensitivity works in graph mode, where layers can be left out one by one; the configuration says mode = \"eager\""
            );
        }
        let options = SensitivityOptions {
            prepare: self.prepare_options(&config),
            bias_correction: config.bias_correction || self.bias_correction,
            ..SensitivityOptions::default()
        };
        Ok((self.mapping(config)?, options))
    }

    /// What calibration observes of a prepared model, or observed before.
    pub(crate) fn statistics(
        &self,
        prepared: &Prepared,
        execution: &Execution,
    ) -> Result<Statistics> {
        if let Some(path) = &self.statistics {
            let file = StatisticsFile::load(path)?;
            if !self.allow_other_engine {
                let what = format!("{}: the file", path.display());
                file.provenance
                    .require_engine(&self.backend()?.name, &what)?;
            }
            let statistics = file.statistics_for(prepared);
            return statistics.with_context(|| path.display().to_string());
        }
        let Some(path) = &self.calibrate else {
            bail!("static quantization needs calibration data: --calibrate DATA");
        };
        let data = self.data.open(path, octofold::inputs_of(&prepared.graph))?;
        let bar = progress("calibrating");
        let statistics = octofold::calibrate(prepared, &data, execution.session()?, |seen| {
            bar.set_position(seen as u64)
        })?;
        bar.finish_and_clear();
        Ok(statistics)
    }

    /// The reference QDQ graph of a model, by the algorithm asked for.
    pub(crate) fn reference(
        &self,
        model: Model,
        algorithm: Algorithm,
        execution: &Execution,
        explain: bool,
    ) -> Result<Graph> {
        match algorithm {
            Algorithm::Static => {}
            Algorithm::Dynamic => bail!(
                "dynamic quantization is not built yet; use --algorithm static with --calibrate DATA"
            ),
            Algorithm::WeightOnly => bail!(
                "weight-only quantization is not built yet; use --algorithm static with --calibrate DATA"
            ),
            Algorithm::Qat => bail!(
                "quantization-aware training is not built yet; use --algorithm static with --calibrate DATA"
            ),
        }
        let mut prepared = self.prepare(model)?;
        if explain {
            print_fates(&prepared);
        }
        let statistics = self.statistics(&prepared, execution)?;
        if self.bias_correction || self.data.config()?.bias_correction {
            self.correct_biases(&mut prepared, &statistics, execution)?;
        }
        Ok(octofold::convert(&prepared, &statistics)?)
    }

    fn correct_biases(
        &self,
        prepared: &mut Prepared,
        statistics: &Statistics,
        execution: &Execution,
    ) -> Result<()> {
        let Some(path) = &self.calibrate else {
            bail!("bias correction runs the model on calibration data: --calibrate DATA");
        };
        let data = self.data.open(path, octofold::inputs_of(&prepared.graph))?;
        let bar = progress("correcting biases");
        let options = execution.session()?;
        let report = octofold::correct_biases(prepared, statistics, &data, options, |seen| {
            bar.set_position(seen as u64)
        })?;
        bar.finish_and_clear();
        for event in &report.events {
            tracing::info!("{event}");
        }
        Ok(())
    }

    /// Lets a model that was prepared for another engine be used, where the user says so.
    pub(crate) fn accept_engine(&self, graph: &mut Graph) -> Result<()> {
        if self.allow_other_engine {
            Provenance::adopt(graph.metadata_mut(), &self.backend()?.name);
        }
        Ok(())
    }
}

/// Prints a line for each node of the model.
pub(crate) fn print_fates(prepared: &Prepared) {
    for fate in &prepared.fates {
        print_fate(fate);
    }
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
