//! The file of statistics: what calibration observed, with where it comes from.

use std::path::Path;

use octofold_passes::convert::Statistics;
use octofold_quant::{ObserverKind, ObserverState};
use serde::{Deserialize, Serialize};

use crate::Error;
use crate::error::StatisticsError;
use crate::prepared::Prepared;
use crate::provenance::Provenance;

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
    pub fn statistics_for(&self, prepared: &Prepared) -> Result<Statistics, Error> {
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
        Ok(self.statistics.clone())
    }

    /// The file's content, as JSON.
    pub fn to_json(&self) -> String {
        // Maps with names as keys, numbers and lists cannot fail to serialize.
        serde_json::to_string(self).unwrap_or_default()
    }
}
