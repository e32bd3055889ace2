//! Where a quantized model, a plan or statistics come from: the engine, the preset and the version they were prepared with.
//!
//! The metadata of exported models and plans hold it, and so do files of statistics. Using a model or statistics with another engine is an error,
//! unless the caller [adopts](Provenance::adopt) them.

use indexmap::IndexMap;
use octofold_passes::backend::BackendConfig;
use octofold_passes::config::Preset;
use serde::{Deserialize, Serialize};

use crate::Error;

/// The engine, the preset and the version that a model was prepared with; absent where that is not known.
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
    /// The provenance of what this program prepares for an engine. Settings that name no preset start from the engine's own.
    pub fn of(backend: &BackendConfig, preset: Option<Preset>) -> Self {
        let preset = preset.map_or(backend.name.as_str(), |preset| preset.name());
        Self {
            engine: Some(backend.name.clone()),
            preset: Some(preset.to_owned()),
            version: Some(env!("CARGO_PKG_VERSION").to_owned()),
        }
    }

    /// Reads the metadata of a graph or plan.
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

    /// Marks what was prepared for another engine as prepared for `engine`.
    pub fn adopt(metadata: &mut IndexMap<String, String>, engine: &str) {
        if let Some(own) = metadata.get_mut(KEYS[0]) {
            engine.clone_into(own);
        }
    }

    /// Checks that a model or statistics may be used with an engine. Where no engine is recorded, any may be used.
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
