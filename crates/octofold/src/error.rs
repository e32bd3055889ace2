//! What can go wrong on the way from a model to an answer.

use octofold_calibrate::{AccuracyError, CalibrateError, DataError};
use octofold_codegen::CodegenError;
use octofold_ir::GraphError;
use octofold_ir::onnx::{ExportError, ImportError};
use octofold_passes::config::UnmatchedSetting;
use octofold_passes::pass::PassError;
use octofold_runtime::{PlanError, RunError};

use crate::config::ConfigError;

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
    #[error("{}", describe_unmatched(.0))]
    Unmatched(Vec<UnmatchedSetting>),
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
    /// Outputs cannot be scored.
    #[error(transparent)]
    Accuracy(#[from] AccuracyError),
}

fn describe_unmatched(settings: &[UnmatchedSetting]) -> String {
    let lines = settings.iter().map(|unmatched| {
        let nearest = unmatched.nearest.join("`, `");
        format!(
            "the setting `{}` matches nothing in the model; the nearest names are `{nearest}`",
            unmatched.setting
        )
    });
    lines.collect::<Vec<_>>().join("\n")
}
