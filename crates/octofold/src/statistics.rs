//! The file of statistics: what calibration observed, with where it comes from.

use std::path::Path;

use octofold_passes::convert::Statistics;
use octofold_quant::ObserverKind;
use octofold_tensor::file::read_text;
use serde::{Deserialize, Serialize};

use crate::error::StatisticsError;
use crate::prepared::Prepared;
use crate::provenance::Provenance;
use crate::{Error, Limits};

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
    /// When it cannot be read or holds something else, is of another major version, or holds ranges that no values have.
    pub fn load(path: &Path) -> Result<Self, StatisticsError> {
        Self::load_within(path, Limits::default().statistics_bytes)
    }

    /// As [`StatisticsFile::load`], of a file of at most `limit` bytes.
    ///
    /// # Errors
    /// As [`StatisticsFile::load`].
    pub fn load_within(path: &Path, limit: u64) -> Result<Self, StatisticsError> {
        let path_name = || path.display().to_string();
        let text = read_text(path, ("statistics-bytes", limit));
        let text = text.map_err(|source| StatisticsError::Io {
            path: path_name(),
            source,
        })?;
        Self::from_json(&text, &path_name())
    }

    /// Reads the content of a file. Errors call it `name`.
    ///
    /// # Errors
    /// As [`StatisticsFile::load`].
    pub fn from_json(text: &str, name: &str) -> Result<Self, StatisticsError> {
        let file: Self = serde_json::from_str(text).map_err(|source| StatisticsError::Json {
            path: name.to_owned(),
            source,
        })?;
        file.check(|| name.to_owned())?;
        Ok(file)
    }

    /// Checks what the form of the file does not say: its version, and what was observed.
    fn check(&self, path: impl Fn() -> String) -> Result<(), StatisticsError> {
        let major = |version: &str| version.split('.').next().map(str::to_owned);
        let own = env!("CARGO_PKG_VERSION");
        if let Some(found) = &self.provenance.version
            && major(found) != major(own)
        {
            return Err(StatisticsError::Version {
                path: path(),
                found: found.clone(),
                own,
            });
        }
        for (value, state) in &self.statistics {
            state.check().map_err(|source| StatisticsError::State {
                path: path(),
                value: value.clone(),
                source,
            })?;
        }
        Ok(())
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
        let mut statistics = self.statistics.clone();
        for (value, spec) in prepared.specs() {
            let Some(state) = statistics.get_mut(&value) else {
                continue;
            };
            if matches!(spec.observer, ObserverKind::Fixed(_)) {
                continue;
            }
            match state.known_as(&spec.observer) {
                Some(known) => *state = known,
                None => {
                    return Err(Error::OtherObserver {
                        value,
                        observed: state.observer(),
                        asked: spec.observer.to_string(),
                    });
                }
            }
        }
        Ok(statistics)
    }

    /// The file's content, as JSON.
    pub fn to_json(&self) -> String {
        // Maps with names as keys, numbers and lists cannot fail to serialize.
        serde_json::to_string(self).unwrap_or_default()
    }
}
