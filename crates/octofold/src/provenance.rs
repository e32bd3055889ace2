//! Where a quantized model, a plan or statistics come from: the engine, the preset and the version they were prepared with.
//!
//! They stand in the metadata of exported models and plans, and in the files of statistics. Using something with another engine is an
//! error that says so, unless it is [adopted](Provenance::adopt) explicitly.

use std::path::Path;

use indexmap::IndexMap;
use octofold_passes::backend::BackendConfig;
use octofold_passes::config::Preset;
use octofold_passes::convert::Statistics;
use octofold_quant::{ObserverKind, ObserverState};
use serde::{Deserialize, Serialize};

use crate::Error;
use crate::graph_mode::Prepared;

/// The engine, the preset and the version that something was prepared with; empty where it does not say.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Provenance {
    /// The engine: `fbgemm` or `qnnpack`.
    pub engine: Option<String>,
    /// The preset that the settings started from.
    pub preset: Option<String>,
    /// The version of Octofold.
    pub version: Option<String>,
}

const KEYS: [&str; 3] = ["octofold.engine", "octofold.preset", "octofold.version"];

impl Provenance {
    /// That of this program, preparing for an engine. Settings that name no preset start from the engine's own.
    pub fn of(backend: &BackendConfig, preset: Option<Preset>) -> Self {
        let preset = preset.map_or(backend.name.as_str(), |preset| preset.name());
        Self {
            engine: Some(backend.name.clone()),
            preset: Some(preset.to_owned()),
            version: Some(env!("CARGO_PKG_VERSION").to_owned()),
        }
    }

    /// What the metadata of a graph or plan say.
    pub fn read(metadata: &IndexMap<String, String>) -> Self {
        let [engine, preset, version] = KEYS.map(|key| metadata.get(key).cloned());
        Self {
            engine,
            preset,
            version,
        }
    }

    /// Writes it into metadata.
    pub fn record(&self, metadata: &mut IndexMap<String, String>) {
        for (key, value) in KEYS
            .into_iter()
            .zip([&self.engine, &self.preset, &self.version])
        {
            if let Some(value) = value {
                metadata.insert(key.to_owned(), value.clone());
            }
        }
    }

    /// Takes what was prepared for another engine as prepared for `engine`.
    pub fn adopt(metadata: &mut IndexMap<String, String>, engine: &str) {
        if let Some(own) = metadata.get_mut(KEYS[0]) {
            engine.clone_into(own);
        }
    }

    /// Checks that something may be used with an engine. What does not say its engine may be.
    ///
    /// # Errors
    /// [`Error::EngineMismatch`], about `what`.
    pub fn require_engine(&self, engine: &str, what: &str) -> Result<(), Error> {
        match &self.engine {
            Some(own) if own != engine => Err(Error::EngineMismatch {
                what: what.to_owned(),
                prepared_for: own.clone(),
                used_with: engine.to_owned(),
            }),
            _ => Ok(()),
        }
    }
}

/// What calibration observed, for a file, with where it comes from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StatisticsFile {
    /// The engine, preset and version.
    pub provenance: Provenance,
    /// A checksum of the graph that was observed: its operators, names and weights.
    pub graph: u32,
    /// The states of the observers, by the names of the values.
    pub statistics: Statistics,
}

/// A checksum of a prepared graph, without what its metadata say.
fn checksum(prepared: &Prepared) -> u32 {
    let mut graph = prepared.graph.clone();
    graph.metadata_mut().clear();
    // The text has checksums of large constants.
    crc32fast::hash(graph.to_string().as_bytes())
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
}

impl StatisticsFile {
    /// What was observed of a prepared model.
    pub fn new(prepared: &Prepared, statistics: Statistics) -> Self {
        Self {
            provenance: Provenance::read(prepared.graph.metadata()),
            graph: checksum(prepared),
            statistics,
        }
    }

    /// Reads a file.
    ///
    /// # Errors
    /// When it cannot be read or holds something else.
    pub fn load(path: &Path) -> Result<Self, StatisticsError> {
        let name = path.display().to_string();
        let text = std::fs::read_to_string(path).map_err(|source| StatisticsError::Io {
            path: name.clone(),
            source,
        })?;
        serde_json::from_str(&text).map_err(|source| StatisticsError::Json { path: name, source })
    }

    /// The statistics, for a prepared model.
    ///
    /// # Errors
    /// [`Error::OtherGraph`] where another graph was observed, and [`Error::OtherObserver`] where the model's settings ask for another
    /// observer than the one that saw a value.
    pub fn statistics_for(self, prepared: &Prepared) -> Result<Statistics, Error> {
        if self.graph != checksum(prepared) {
            return Err(Error::OtherGraph);
        }
        for (value, spec) in prepared.specs() {
            let state = self.statistics.get(&value);
            if let Some(observed) = state.map(ObserverState::kind)
                && observed != spec.observer
                && !matches!(spec.observer, ObserverKind::Fixed(_))
            {
                return Err(Error::OtherObserver {
                    value,
                    observed: observed.to_string(),
                    asked: spec.observer.to_string(),
                });
            }
        }
        Ok(self.statistics)
    }

    /// The file's content, as JSON.
    pub fn to_json(&self) -> String {
        // Maps with names as keys, numbers and lists cannot fail to serialize.
        serde_json::to_string(self).unwrap_or_default()
    }
}
