//! The configuration file: torch's words in TOML, strict. `docs/configuration.md` has the reference.

mod error;
mod file;

use std::collections::BTreeMap;

use octofold_calibrate::Preprocess;
use octofold_passes::config::QConfigMapping;

use crate::algorithm::Algorithm;
use crate::eager::Eager;
use crate::graph_mode::UnmatchedPolicy;

pub use error::ConfigError;

/// What a configuration file says.
#[derive(Clone, Debug, Default)]
pub struct Config {
    /// The algorithm, when one is named.
    pub algorithm: Option<Algorithm>,
    /// The engine, when one is named.
    pub backend: Option<String>,
    /// What becomes of settings without effect.
    pub unmatched: UnmatchedPolicy,
    /// Whether the ranges of channels are equalized, in graph mode.
    pub equalize: bool,
    /// Whether biases are corrected with calibration data.
    pub bias_correction: bool,
    /// Which operators get which QConfig in graph mode, when that is said.
    pub mapping: Option<QConfigMapping>,
    /// What is done in eager mode, when that is the mode.
    pub eager: Option<Eager>,
    /// The preprocessing of each input.
    pub inputs: BTreeMap<String, Preprocess>,
    /// Sections that the mode does not use.
    pub warnings: Vec<String>,
}
