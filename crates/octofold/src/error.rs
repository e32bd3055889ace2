//! What can go wrong on the way from a model to an answer.

use octofold_calibrate::{AccuracyError, CalibrateError, DataError, ScoreError};
use octofold_codegen::CodegenError;
use octofold_ir::GraphError;
use octofold_ir::onnx::{ExportError, ImportError};
use octofold_passes::annotate::Unhonoured;
use octofold_passes::backend::BackendError;
use octofold_passes::config::UnmatchedSetting;
use octofold_passes::eager::EagerFault;
use octofold_passes::pass::PassError;
use octofold_runtime::{PlanError, RunError, error_codes};
use octofold_tensor::TensorError;

use crate::algorithm::Algorithm;
use crate::config::ConfigError;

error_codes! {
    Error {
        Import = "import", "a model file cannot be read, or needs what Octofold does not have";
        Text = "text", "the text form of a model cannot be read";
        Export = "export", "a model cannot be written";
        Graph = "graph", "a graph is not sound, or does not take what it is given";
        Pass = "pass", "a pass fails, or does not exist";
        Unmatched = "unmatched-setting", "a setting matches nothing in the model";
        Unhonoured = "unhonoured-setting", "the engine cannot honour a setting";
        Eager = "eager", "what was written in eager mode cannot be done";
        Backend = "backend", "there is no such engine, or its table cannot be read";
        NotBuilt = "not-built", "the algorithm is not built yet";
        NoCalibration = "no-calibration", "calibration data are needed and not given";
        GraphModeOnly = "graph-mode-only", "what was asked for works in graph mode only";
        EngineMismatch = "engine-mismatch", "a model, plan or file of statistics was prepared for another engine";
        OtherGraph = "other-graph", "statistics are of another graph";
        OtherObserver = "other-observer", "statistics are by another observer than the settings ask for";
        Statistics = "statistics", "a file of statistics cannot be read or written";
        Config = "config", "the configuration file is malformed or asks for what does not exist";
        Codegen = "codegen", "a plan cannot be made";
        Data = "data", "data cannot be read or do not fit the model";
        Calibrate = "calibrate", "calibration fails";
        Tensor = "tensor", "a tensor cannot be made or read";
        Accuracy = "accuracy", "outputs cannot be scored";
        Score = "score", "a model cannot be scored against another";
    }
    Self::Plan(error) => error.code();
    Self::Run(error) => error.code();
}

/// The error of the front door: one variant a stage.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A model file cannot be read.
    #[error(transparent)]
    Import(#[from] ImportError),
    /// The text form of a model cannot be read.
    #[error(transparent)]
    Text(#[from] octofold_ir::text::TextError),
    /// A model cannot be written.
    #[error(transparent)]
    Export(#[from] ExportError),
    /// A graph is not sound, or does not take what it is given.
    #[error(transparent)]
    Graph(#[from] GraphError),
    /// A pass failed.
    #[error(transparent)]
    Pass(#[from] PassError),
    /// Settings that apply to nothing in the model.
    #[error("{}", lines(.0, describe_unmatched))]
    Unmatched(Vec<UnmatchedSetting>),
    /// Settings that the engine cannot honour.
    #[error("{}", lines(.0, describe_unhonoured))]
    Unhonoured(Vec<Unhonoured>),
    /// Places where what was written in eager mode cannot be done.
    #[error("{}", lines(.0, ToString::to_string))]
    Eager(Vec<EagerFault>),
    /// A table of an engine's abilities that cannot be read.
    #[error(transparent)]
    Backend(#[from] BackendError),
    /// An algorithm that is not built yet.
    #[error(
        "{0} is not built yet; use static quantization with calibration data (--algorithm static --calibrate DATA)"
    )]
    NotBuilt(Algorithm),
    /// Neither calibration data nor statistics for what needs them.
    #[error("{0} needs calibration data (--calibrate DATA)")]
    NoCalibration(&'static str),
    /// What needs the compiler's decisions, in eager mode.
    #[error("{0} works in graph mode only; the recipe says eager mode")]
    GraphModeOnly(&'static str),
    /// Something that was prepared for another engine.
    #[error(
        "{what} was prepared for the engine {prepared_for} and is used with {used_with}: prepare it again for {used_with}, or \
         say that it may be used with another engine (compile --allow-other-engine)"
    )]
    EngineMismatch {
        /// The model or the statistics.
        what: String,
        /// The engine that it was prepared for.
        prepared_for: String,
        /// The engine that it is used with.
        used_with: String,
    },
    /// Statistics of another graph.
    #[error(
        "the statistics are of another model, or of this one fused or equalized otherwise: calibrate with these settings"
    )]
    OtherGraph,
    /// Statistics by another observer than the settings ask for.
    #[error(
        "value `{value}` was observed by `{observed}`, and the settings ask for `{asked}`: calibrate with these settings"
    )]
    OtherObserver {
        /// The value.
        value: String,
        /// The observer of the statistics.
        observed: String,
        /// The observer of the settings.
        asked: String,
    },
    /// A file of statistics that cannot be read or written.
    #[error(transparent)]
    Statistics(#[from] StatisticsError),
    /// The configuration file is malformed or asks for what does not exist.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// A plan cannot be made.
    #[error(transparent)]
    Codegen(#[from] CodegenError),
    /// A plan cannot be read or written.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// A plan cannot be run.
    #[error(transparent)]
    Run(#[from] RunError),
    /// Data cannot be read or do not fit the model.
    #[error(transparent)]
    Data(#[from] DataError),
    /// Calibration failed.
    #[error(transparent)]
    Calibrate(#[from] CalibrateError),
    /// A tensor cannot be made or read.
    #[error(transparent)]
    Tensor(#[from] TensorError),
    /// Outputs cannot be scored.
    #[error(transparent)]
    Accuracy(#[from] AccuracyError),
    /// A model cannot be scored against another.
    #[error(transparent)]
    Score(#[from] ScoreError),
}

/// Why a file of statistics cannot be read or written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StatisticsError {
    /// The file cannot be read.
    #[error("{path}: {source}")]
    Io {
        /// The file.
        path: String,
        /// What the system says.
        source: std::io::Error,
    },
    /// The file holds no statistics.
    #[error("{path}: {source}")]
    Json {
        /// The file.
        path: String,
        /// What is wrong, and where.
        source: serde_json::Error,
    },
    /// Statistics of another major version, whose observers may mean something else.
    #[error(
        "{path}: the statistics are of version {found}, this program has version {own}: calibrate again"
    )]
    Version {
        /// The file.
        path: String,
        /// The version of the file.
        found: String,
        /// The version of the program.
        own: &'static str,
    },
    /// What no observer can have seen.
    #[error("{path}: value `{value}`: {source}")]
    State {
        /// The file.
        path: String,
        /// The value.
        value: String,
        /// What is wrong.
        source: octofold_quant::StateError,
    },
}

/// One line an item.
fn lines<T>(items: &[T], describe: impl Fn(&T) -> String) -> String {
    items.iter().map(describe).collect::<Vec<_>>().join("\n")
}

/// A setting that matches nothing, in words.
pub(crate) fn describe_unmatched(unmatched: &UnmatchedSetting) -> String {
    let setting = &unmatched.setting;
    if unmatched.nearest.is_empty() {
        return format!("the setting `{setting}` matches nothing in the model");
    }
    let nearest = unmatched.nearest.join("`, `");
    format!(
        "the setting `{setting}` matches nothing in the model; the nearest names are `{nearest}`"
    )
}

/// A setting that is not honoured, in words.
pub(crate) fn describe_unhonoured(unhonoured: &Unhonoured) -> String {
    format!(
        "the setting `{}` cannot be honoured for `{}`: {}",
        unhonoured.setting, unhonoured.place, unhonoured.reason
    )
}
