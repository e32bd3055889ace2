//! The arguments that say how a model is quantized, and the way from a model to a reference graph.

use std::path::{Path, PathBuf};

use anyhow::{Result, anyhow, bail};
use clap::{Args, ValueEnum};
use octofold::ir::Graph;
use octofold::passes::backend::BackendConfig;
use octofold::passes::config::{Preset, QConfig, QConfigMapping};
use octofold::quant::{ObserverKind, QuantRange, QuantType, Scheme};
use octofold::{Model, Prepared};

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
}

/// How a model is quantized.
#[derive(Args)]
pub(crate) struct Quantization {
    /// The algorithm; static when --calibrate is given.
    #[arg(long, value_enum)]
    algorithm: Option<Algorithm>,
    /// The calibration data: an archive, or a folder of archives or images.
    #[arg(long, value_name = "DATA")]
    calibrate: Option<PathBuf>,
    /// The engine.
    #[arg(long)]
    backend: Option<String>,
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
    /// Weights of 7 bits.
    #[arg(long)]
    reduce_range: bool,
    /// Names of nodes or modules to leave float.
    #[arg(long, num_args = 1.., value_name = "NAME")]
    exclude: Vec<String>,
    /// The operator types to quantize; all others stay float.
    #[arg(long, value_delimiter = ',', value_name = "A,B")]
    op_types: Vec<String>,
    /// Print the fate of every node.
    #[arg(long)]
    explain: bool,
    #[command(flatten)]
    pub(crate) data: DataArguments,
}

impl Quantization {
    /// The algorithm that the arguments or the configuration ask for; `None` when they ask for none.
    pub(crate) fn algorithm(&self) -> Result<Option<Algorithm>> {
        let configured = match self.data.config()?.algorithm {
            None => None,
            Some(name) => Some(Algorithm::from_str(&name, true).map_err(|_| {
                anyhow!("`{name}` is no algorithm; there are static, dynamic and weight-only")
            })?),
        };
        let implied = self.calibrate.as_ref().map(|_| Algorithm::Static);
        Ok(self.algorithm.or(implied).or(configured))
    }

    /// Whether a flag says how to quantize, which means nothing to a float plan.
    pub(crate) fn is_given(&self) -> bool {
        let named = [
            &self.preset,
            &self.observer,
            &self.activation_type,
            &self.weight_type,
        ];
        named.into_iter().any(Option::is_some)
            || self.per_tensor
            || self.reduce_range
            || !self.exclude.is_empty()
            || !self.op_types.is_empty()
    }

    /// The engine's abilities.
    pub(crate) fn backend(&self) -> Result<BackendConfig> {
        let configured = self.data.config()?.backend;
        match self
            .backend
            .as_deref()
            .or(configured.as_deref())
            .unwrap_or("fbgemm")
        {
            "fbgemm" => Ok(BackendConfig::fbgemm()),
            "qnnpack" => bail!("the qnnpack engine is not built yet; use --backend fbgemm"),
            other => bail!("`{other}` is no engine; there is fbgemm"),
        }
    }

    /// Which operators get which QConfig: the configuration file's, changed by the flags.
    pub(crate) fn mapping(&self) -> Result<QConfigMapping> {
        let mut mapping = self
            .data
            .config()?
            .mapping
            .unwrap_or_else(|| QConfigMapping::global(QConfig::default()));
        if let Some(preset) = &self.preset {
            mapping.global = Some(preset.parse::<Preset>()?.qconfig());
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
                let dtype = dtype.parse::<QuantType>()?;
                let range = if config.weight.scheme == Scheme::Affine {
                    QuantRange::full(dtype)
                } else {
                    QuantRange::symmetric(dtype)
                };
                (
                    config.weight.dtype,
                    config.weight.quant_min,
                    config.weight.quant_max,
                ) = (dtype, range.min, range.max);
            }
            if self.per_tensor {
                *config = config.clone().per_tensor_weights();
            }
            if self.reduce_range {
                *config = config.clone().with_reduced_weights();
            }
            Ok(())
        };
        mapping.for_each_qconfig(edit)?;
        if !self.op_types.is_empty() {
            let global = mapping.global.take();
            for object_type in &self.op_types {
                mapping = mapping.set_object_type(object_type, global.clone());
            }
        }
        for name in &self.exclude {
            mapping = mapping.set_module_name(name, None);
        }
        Ok(mapping)
    }

    /// Simplifies, fuses, annotates and observes a model.
    pub(crate) fn prepare(&self, model: Model) -> Result<Prepared> {
        let mapping = self.mapping()?;
        Ok(octofold::prepare(model, &mapping, &self.backend()?)?)
    }

    /// The reference QDQ graph of a model, by the algorithm asked for.
    pub(crate) fn reference(
        &self,
        model: Model,
        algorithm: Algorithm,
        execution: &Execution,
    ) -> Result<Graph> {
        match algorithm {
            Algorithm::Static => {}
            Algorithm::Dynamic => bail!(
                "dynamic quantization is not built yet; use --algorithm static with --calibrate DATA"
            ),
            Algorithm::WeightOnly => bail!(
                "weight-only quantization is not built yet; use --algorithm static with --calibrate DATA"
            ),
        }
        let Some(path) = &self.calibrate else {
            bail!("static quantization needs calibration data: --calibrate DATA");
        };
        let inputs = model.inputs();
        let prepared = self.prepare(model)?;
        if self.explain {
            print_fates(&prepared);
        }
        let data = self.data.open(path, inputs)?;
        let bar = progress("calibrating");
        let statistics = octofold::calibrate(&prepared, &data, execution.session()?, |seen| {
            bar.set_position(seen as u64)
        })?;
        bar.finish_and_clear();
        Ok(octofold::convert(&prepared, &statistics)?)
    }
}

/// Prints a line for each node of the model.
pub(crate) fn print_fates(prepared: &Prepared) {
    for fate in &prepared.fates {
        let word = if fate.quantized { "int8 " } else { "float" };
        println!(
            "{word} {} ({}): {}",
            fate.node, fate.operator, fate.explanation
        );
    }
}

/// The model of a file, with fixed shapes where `--shape` gives them.
pub(crate) fn load_model(path: &Path, shapes: &[String]) -> Result<Model> {
    let mut model = Model::load(path)?;
    for argument in shapes {
        let malformed = || anyhow!("--shape {argument}: expected NAME=1x3x640x640");
        let (input, sizes) = argument.split_once('=').ok_or_else(malformed)?;
        let sizes: Vec<i64> = sizes
            .split('x')
            .map(str::parse)
            .collect::<Result<_, _>>()
            .map_err(|_| malformed())?;
        model = Model::new(octofold::fix_shape(&model.graph, input, &sizes)?);
    }
    Ok(model)
}
