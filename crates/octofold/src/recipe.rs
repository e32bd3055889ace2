//! A recipe: everything that says how a model is quantized; and quantizing by it, in one call.

use std::path::Path;

use octofold_calibrate::DataSet;
use octofold_codegen::CodegenOptions;
use octofold_ir::Graph;
use octofold_ir::onnx::{ExportOptions, export_to_file};
use octofold_kernels::Isa;
use octofold_passes::backend::BackendConfig;
use octofold_passes::config::{Preset, QConfigMapping};
use octofold_passes::convert::Statistics;
use octofold_passes::manager::PassRun;
use octofold_runtime::{Plan, SessionOptions};

use crate::Error;
use crate::algorithm::Algorithm;
use crate::config::Config;
use crate::eager::Eager;
use crate::fate::{Fate, fates_by_plan};
use crate::graph_mode::{PrepareOptions, prepare_with};
use crate::lowering::{compile_owned, engine_named, lower_for};
use crate::model::Model;
use crate::prepared::{Prepared, calibrate, convert};
use crate::repair::correct_biases;
use crate::statistics::StatisticsFile;

/// How a model is quantized.
///
/// Its steps ([`prepare`](Self::prepare), [`statistics`](Self::statistics), [`correct_biases`], [`convert`], [`lower_for`], [`compile_with`](crate::compile_with)) can also be
/// called one by one.
#[derive(Clone, Debug)]
pub struct Recipe {
    /// When ranges are found. Only [`Algorithm::Static`] is built.
    pub algorithm: Algorithm,
    /// Which operators are quantized, with which settings.
    pub mode: Mode,
    /// The engine's abilities.
    pub backend: BackendConfig,
    /// Whether biases are corrected for the mean error of quantized weights, on the calibration data.
    pub bias_correction: bool,
}

/// Who decides what is quantized.
#[derive(Clone, Debug)]
#[expect(
    clippy::large_enum_variant,
    reason = "a program holds few recipes, and a box would be in the way of everyone who writes one"
)]
pub enum Mode {
    /// The compiler; the user names the exceptions.
    Graph {
        /// Which operators get which settings.
        mapping: QConfigMapping,
        /// What becomes of settings without effect, and whether layers are equalized.
        options: PrepareOptions,
    },
    /// The user.
    Eager(Eager),
}

/// Static quantization for fbgemm, with its own settings for the whole model.
impl Default for Recipe {
    fn default() -> Self {
        Self::new(BackendConfig::fbgemm())
    }
}

/// Where the ranges of values come from.
#[derive(Clone, Copy, Default)]
pub struct Calibration<'a> {
    /// The data on which the model is run.
    pub data: Option<&'a DataSet>,
    /// What an earlier run observed, in place of a run.
    pub statistics: Option<&'a StatisticsFile>,
}

impl<'a> From<&'a DataSet> for Calibration<'a> {
    fn from(data: &'a DataSet) -> Self {
        Self {
            data: Some(data),
            statistics: None,
        }
    }
}

impl<'a> From<&'a StatisticsFile> for Calibration<'a> {
    fn from(statistics: &'a StatisticsFile) -> Self {
        Self {
            data: None,
            statistics: Some(statistics),
        }
    }
}

/// What is said of a model with quantizers.
pub(crate) const QUANTIZED: &str =
    "the model is quantized already: the layers between its quantizers stay as they are";

/// What quantizing is doing.
#[derive(Clone, Copy)]
#[non_exhaustive]
pub enum Progress<'a> {
    /// The model is prepared: what becomes of each node is decided.
    Prepared(&'a Prepared),
    /// The model was calibrated with this number of samples so far.
    Calibrating(usize),
    /// Biases were corrected with this number of samples so far.
    CorrectingBiases(usize),
}

impl Recipe {
    /// Static quantization for an engine, with the engine's own settings for the whole model.
    pub fn new(backend: BackendConfig) -> Self {
        let preset = backend.name.parse().unwrap_or(Preset::Fbgemm);
        Self {
            algorithm: Algorithm::Static,
            mode: Mode::Graph {
                mapping: QConfigMapping::preset(preset),
                options: PrepareOptions::default(),
            },
            backend,
            bias_correction: false,
        }
    }

    /// What a configuration file says, for the engine that it names, or else for fbgemm.
    ///
    /// # Errors
    /// When there is no such engine.
    pub fn from_config(config: Config) -> Result<Self, Error> {
        let name = config.backend.as_deref().unwrap_or("fbgemm");
        let backend = BackendConfig::named(name)?;
        Ok(Self::for_backend(config, backend))
    }

    /// What a configuration file says, for another engine than it names. What the file leaves open is as in [`Recipe::new`].
    pub fn for_backend(config: Config, backend: BackendConfig) -> Self {
        let own = Self::new(backend);
        let options = PrepareOptions {
            unmatched: config.unmatched,
            equalize: config.equalize,
        };
        let mode = match (config.eager, config.mapping, own.mode) {
            (Some(eager), ..) => Mode::Eager(eager),
            (None, Some(mapping), _) | (None, None, Mode::Graph { mapping, .. }) => {
                Mode::Graph { mapping, options }
            }
            (None, None, eager) => eager,
        };
        Self {
            algorithm: config.algorithm.unwrap_or_default(),
            mode,
            backend: own.backend,
            bias_correction: config.bias_correction,
        }
    }

    /// Simplifies, fuses, annotates and observes a model.
    ///
    /// # Errors
    /// [`Error::NotBuilt`] for an algorithm that is not built; the errors of [`prepare_with`] or of [`Eager::prepare`].
    pub fn prepare(&self, model: &Model) -> Result<Prepared, Error> {
        if self.algorithm != Algorithm::Static {
            return Err(Error::NotBuilt(self.algorithm));
        }
        match &self.mode {
            Mode::Graph { mapping, options } => {
                prepare_with(model.clone(), mapping, &self.backend, *options)
            }
            Mode::Eager(eager) => eager.prepare(model.clone(), &self.backend),
        }
    }

    /// What would become of each node, without data: as [`prepare`](Self::prepare) decides, and, where a model
    /// [is quantized already](Model::is_quantized), as its plan computes what stays as it is.
    ///
    /// # Errors
    /// Those of [`prepare`](Self::prepare) and of [`compile_for`].
    pub fn check(&self, model: &Model) -> Result<Check, Error> {
        let Prepared {
            mut fates,
            warnings,
            ..
        } = self.prepare(model)?;
        if model.is_quantized() {
            let plan = compile_for(model.graph.clone(), &self.backend, None)?;
            let planned = fates_by_plan(model, &plan)?;
            for (fate, planned) in fates.iter_mut().zip(planned) {
                if !fate.quantized {
                    *fate = planned;
                }
            }
        }
        Ok(Check { fates, warnings })
    }

    /// What an earlier run observed of a prepared model, or else what a run on the data observes.
    ///
    /// # Errors
    /// [`Error::NoCalibration`] when there is neither; when statistics are of another model, engine or observer; the errors of [`calibrate`].
    pub fn statistics(
        &self,
        prepared: &Prepared,
        calibration: Calibration<'_>,
        session: SessionOptions,
        mut progress: impl FnMut(Progress<'_>),
    ) -> Result<Statistics, Error> {
        if let Some(file) = calibration.statistics {
            let provenance = &file.provenance;
            provenance.require_engine(&self.backend.name, "the file of statistics")?;
            return file.statistics_for(prepared);
        }
        let data = calibration.data;
        let data = data.ok_or(Error::NoCalibration("static quantization"))?;
        calibrate(prepared, data, session, |seen| {
            progress(Progress::Calibrating(seen));
        })
    }

    /// Quantizes a model with calibration data, on all threads.
    ///
    /// # Errors
    /// As [`Recipe::quantize_with`].
    pub fn quantize(&self, model: &Model, data: &DataSet) -> Result<Quantized, Error> {
        self.quantize_with(model, data.into(), SessionOptions::DEFAULT, |_| {})
    }

    /// Quantizes a model; says meanwhile what is being done.
    ///
    /// # Errors
    /// Those of the steps; [`Error::NoCalibration`] when bias correction is asked for and there are no data.
    pub fn quantize_with(
        &self,
        model: &Model,
        calibration: Calibration<'_>,
        session: SessionOptions,
        mut progress: impl FnMut(Progress<'_>),
    ) -> Result<Quantized, Error> {
        let mut prepared = self.prepare(model)?;
        progress(Progress::Prepared(&prepared));
        let statistics = self.statistics(&prepared, calibration, session, &mut progress)?;
        if self.bias_correction {
            let data = calibration.data;
            let data = data.ok_or(Error::NoCalibration("bias correction"))?;
            let seen = |seen| progress(Progress::CorrectingBiases(seen));
            let report = correct_biases(&mut prepared, &statistics, data, session, seen)?;
            prepared.runs.push(PassRun {
                pass: "correct-biases",
                report,
            });
        }
        Ok(Quantized {
            reference: convert(&prepared, &statistics)?,
            backend: self.backend.clone(),
            prepared,
        })
    }
}

/// What would become of a model.
#[derive(Clone, Debug)]
pub struct Check {
    /// What becomes of each node, in the model's order.
    pub fates: Vec<Fate>,
    /// Settings without effect.
    pub warnings: Vec<String>,
}

/// A quantized model.
#[derive(Clone, Debug)]
pub struct Quantized {
    /// The reference QDQ graph, in operators of ONNX.
    pub reference: Graph,
    /// The model before conversion, with what becomes of each node.
    pub prepared: Prepared,
    /// The engine that it was quantized for.
    pub backend: BackendConfig,
}

impl Quantized {
    /// Writes the model as standard ONNX, with QuantizeLinear and DequantizeLinear.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn export(&self, path: impl AsRef<Path>) -> Result<(), Error> {
        let options = ExportOptions::default();
        Ok(export_to_file(&self.reference, path.as_ref(), &options)?)
    }

    /// Compiles the model to a plan for all processors that its engine has kernels for.
    ///
    /// # Errors
    /// When the graph cannot be compiled.
    pub fn compile(&self) -> Result<Plan, Error> {
        compile_for(self.reference.clone(), &self.backend, None)
    }
}

/// Lowers and compiles a float or QDQ graph for an engine: for one instruction set, or for all processors that the engine has kernels for. The graph's weights are freed while
/// they are packed, unless another graph shares them.
///
/// # Errors
/// When the graph is not sound, was prepared for another engine, or cannot be compiled.
pub fn compile_for(
    graph: Graph,
    backend: &BackendConfig,
    requires: Option<Isa>,
) -> Result<Plan, Error> {
    let (lowered, _) = lower_for(&graph, backend)?;
    drop(graph);
    let options = CodegenOptions {
        engine: engine_named(&backend.name)?,
        requires,
        ..CodegenOptions::default()
    };
    compile_owned(lowered, &options)
}
