//! Why a configuration is refused.

use octofold_passes::config::{EditError, UnknownPreset};
use octofold_quant::UnknownQuantType;
use octofold_quant::observer::ObserverKindError;
use octofold_quant::spec::SpecError;

use crate::algorithm::UnknownAlgorithm;

/// Why a configuration was refused.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("{path}: {source}")]
    Io {
        /// The file.
        path: String,
        /// What the system says.
        source: std::io::Error,
    },
    /// The file is not TOML of this form. The message names the line and the keys that exist.
    #[error("{path}: {source}")]
    Toml {
        /// The file, and the table that the fault is in.
        path: String,
        /// What is wrong, and where.
        source: toml::de::Error,
    },
    /// Something in the file makes no sense.
    #[error("{path}: {source}")]
    In {
        /// The file, with the line where the table begins.
        path: String,
        /// What is wrong.
        source: Box<ConfigError>,
    },
    /// A QConfig with the name `none`, which leaves operators float.
    #[error("[qconfig.none]: `none` leaves operators float and cannot be a table")]
    None,
    /// A version other than 1.
    #[error("version {0} of the configuration is not known; this is version 1")]
    Version(i64),
    /// A QConfig that nothing defines.
    #[error("there is no [qconfig.{name}]; there are {known}")]
    UnknownQConfig {
        /// The name asked for.
        name: String,
        /// The names that exist.
        known: String,
    },
    /// QConfigs that extend each other.
    #[error("`{0}` extends itself")]
    Cycle(String),
    /// A word that a key cannot have.
    #[error("{key} = \"{word}\": there are {known}")]
    Word {
        /// The key.
        key: &'static str,
        /// The word.
        word: String,
        /// The words that exist.
        known: &'static str,
    },
    /// An algorithm that does not exist.
    #[error(transparent)]
    Algorithm(#[from] UnknownAlgorithm),
    /// Eager mode without a section that says what to do.
    #[error("mode = \"eager\" needs a section [eager]: nothing else is done in eager mode")]
    NoEager,
    /// A scheme that does not exist.
    #[error(
        "there is no qscheme `{0}`; there are per_tensor_affine, per_tensor_symmetric, per_channel_affine and per_channel_symmetric"
    )]
    Scheme(String),
    /// A type that does not exist.
    #[error(transparent)]
    Type(#[from] UnknownQuantType),
    /// An observer that does not exist.
    #[error(transparent)]
    Observer(#[from] ObserverKindError),
    /// An observer's table with unknown or wrong settings.
    #[error("observer: {0}")]
    Settings(toml::de::Error),
    /// A preset that does not exist.
    #[error(transparent)]
    Preset(#[from] UnknownPreset),
    /// Keys that contradict each other.
    #[error(transparent)]
    Edit(#[from] EditError),
    /// Settings that contradict each other.
    #[error(transparent)]
    Spec(#[from] SpecError),
    /// Something in a table makes no sense.
    #[error("[{table}]: {source}")]
    Table {
        /// The table.
        table: String,
        /// What is wrong.
        source: Box<ConfigError>,
    },
    /// A pattern that is not a regular expression.
    #[error(transparent)]
    Regex(#[from] regex::Error),
}

impl ConfigError {
    /// The error with the table that it is in, unless it names one.
    pub(super) fn within(self, table: &str) -> Self {
        match self {
            Self::Table { .. } => self,
            source => Self::Table {
                table: table.to_owned(),
                source: Box::new(source),
            },
        }
    }
}
