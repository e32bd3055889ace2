//! The configuration file: torch's words in TOML, strict. `docs/configuration.md` has the reference.

use std::collections::BTreeMap;
use std::path::Path;

use indexmap::IndexMap;
use octofold_calibrate::Preprocess;
use octofold_passes::config::{ModuleOrder, Preset, QConfig, QConfigMapping, UnknownPreset};
use octofold_quant::observer::ObserverKindError;
use octofold_quant::spec::SpecError;
use octofold_quant::{
    Granularity, ObserverKind, QuantRange, QuantSpec, QuantType, Scheme, UnknownQuantType,
};
use regex::Regex;
use serde::Deserialize;

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
    /// The file is no TOML of this form: the message names the line and the keys that exist.
    #[error("{path}: {source}")]
    Toml {
        /// The file.
        path: String,
        /// What is wrong, and where.
        source: toml::de::Error,
    },
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
    #[error("[qconfig.{0}] extends itself")]
    Cycle(String),
    /// A setting that this version does not have yet.
    #[error("{0} is not supported yet")]
    Unsupported(String),
    /// A scheme that does not exist.
    #[error(
        "`{0}` is no qscheme; there are per_tensor_affine, per_tensor_symmetric, per_channel_affine and per_channel_symmetric"
    )]
    Scheme(String),
    /// A type that does not exist.
    #[error(transparent)]
    Type(#[from] UnknownQuantType),
    /// An observer that does not exist.
    #[error(transparent)]
    Observer(#[from] ObserverKindError),
    /// A preset that does not exist.
    #[error(transparent)]
    Preset(#[from] UnknownPreset),
    /// Settings that contradict each other.
    #[error("[qconfig.{name}]: {source}")]
    Spec {
        /// The QConfig.
        name: String,
        /// What is wrong.
        source: SpecError,
    },
    /// A pattern that is no regular expression.
    #[error(transparent)]
    Regex(#[from] regex::Error),
}

/// What a configuration file says.
#[derive(Clone, Debug, Default)]
pub struct Config {
    /// The algorithm, when one is named.
    pub algorithm: Option<String>,
    /// The engine, when one is named.
    pub backend: Option<String>,
    /// Which operators get which QConfig, when that is said.
    pub mapping: Option<QConfigMapping>,
    /// The preprocessing of each input.
    pub inputs: BTreeMap<String, Preprocess>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    version: i64,
    algorithm: Option<String>,
    mode: Option<String>,
    backend: Option<String>,
    unmatched: Option<String>,
    #[serde(default)]
    qconfig: IndexMap<String, QConfigTable>,
    qconfig_mapping: Option<MappingTable>,
    eager: Option<toml::Table>,
    #[serde(default)]
    input: BTreeMap<String, Preprocess>,
}

#[derive(Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct QConfigTable {
    extends: Option<String>,
    preset: Option<String>,
    activation: Option<SpecTable>,
    weight: Option<SpecTable>,
}

#[derive(Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct SpecTable {
    dtype: Option<String>,
    qscheme: Option<String>,
    observer: Option<String>,
    quant_min: Option<i32>,
    quant_max: Option<i32>,
    eps: Option<f32>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct MappingTable {
    global: Option<String>,
    #[serde(default)]
    object_type: IndexMap<String, String>,
    #[serde(default)]
    module_name_regex: Vec<PatternTable>,
    #[serde(default)]
    module_name: IndexMap<String, String>,
    #[serde(default)]
    module_name_object_type_order: Vec<OrderTable>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PatternTable {
    pattern: String,
    qconfig: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct OrderTable {
    module: String,
    #[serde(rename = "type")]
    object_type: String,
    index: usize,
    qconfig: String,
}

impl Config {
    /// Reads a configuration file.
    ///
    /// # Errors
    /// When the file cannot be read, has unknown keys, or its settings contradict each other.
    pub fn read(path: &Path) -> Result<Self, ConfigError> {
        let name = path.display().to_string();
        let text = std::fs::read_to_string(path).map_err(|source| ConfigError::Io {
            path: name.clone(),
            source,
        })?;
        Self::parse(&text, &name)
    }

    /// Reads a configuration from text; `name` stands for it in errors.
    ///
    /// # Errors
    /// As [`Config::read`].
    pub fn parse(text: &str, name: &str) -> Result<Self, ConfigError> {
        let file: File = toml::from_str(text).map_err(|source| ConfigError::Toml {
            path: name.to_owned(),
            source,
        })?;
        if file.version != 1 {
            return Err(ConfigError::Version(file.version));
        }
        if file.mode.as_deref().is_some_and(|mode| mode != "graph") || file.eager.is_some() {
            return Err(ConfigError::Unsupported("eager mode".to_owned()));
        }
        if file
            .unmatched
            .as_deref()
            .is_some_and(|unmatched| unmatched != "error")
        {
            return Err(ConfigError::Unsupported(
                "`unmatched` other than \"error\"".to_owned(),
            ));
        }
        let mapping = file
            .qconfig_mapping
            .as_ref()
            .map(|mapping| file.mapping(mapping))
            .transpose()?;
        let only_default = match mapping {
            None if file.qconfig.contains_key("default") => {
                file.qconfig("default")?.map(QConfigMapping::global)
            }
            mapping => mapping,
        };
        Ok(Self {
            algorithm: file.algorithm,
            backend: file.backend,
            mapping: only_default,
            inputs: file.input,
        })
    }
}

impl File {
    /// The QConfig of a name; `none` leaves operators float.
    fn qconfig(&self, name: &str) -> Result<Option<QConfig>, ConfigError> {
        if name == "none" {
            return Ok(None);
        }
        // From the named table back to the last that it extends; settings are then applied forwards.
        let mut chain = Vec::new();
        let mut next = Some(name.to_owned());
        while let Some(current) = next {
            let Some(table) = self.qconfig.get(&current) else {
                // The default needs no table.
                if current == "default" {
                    break;
                }
                let known: Vec<&str> = self
                    .qconfig
                    .keys()
                    .map(String::as_str)
                    .chain(["default", "none"])
                    .collect();
                return Err(ConfigError::UnknownQConfig {
                    name: current,
                    known: known.join(", "),
                });
            };
            if chain.len() > self.qconfig.len() {
                return Err(ConfigError::Cycle(name.to_owned()));
            }
            next = table.extends.clone();
            chain.push(table);
        }
        let mut config = QConfig::default();
        for table in chain.into_iter().rev() {
            if let Some(preset) = &table.preset {
                config = preset.parse::<Preset>()?.qconfig();
            }
            if let Some(activation) = &table.activation {
                activation.apply(&mut config.activation)?;
            }
            if let Some(weight) = &table.weight {
                weight.apply(&mut config.weight)?;
            }
        }
        for spec in [&config.activation, &config.weight] {
            spec.check().map_err(|source| ConfigError::Spec {
                name: name.to_owned(),
                source,
            })?;
        }
        Ok(Some(config))
    }

    fn mapping(&self, table: &MappingTable) -> Result<QConfigMapping, ConfigError> {
        let global = match &table.global {
            Some(name) => self.qconfig(name)?,
            None => None,
        };
        let mut mapping = QConfigMapping {
            global,
            ..QConfigMapping::default()
        };
        for (object_type, name) in &table.object_type {
            mapping = mapping.set_object_type(object_type, self.qconfig(name)?);
        }
        for entry in &table.module_name_regex {
            mapping = mapping
                .set_module_name_regex(Regex::new(&entry.pattern)?, self.qconfig(&entry.qconfig)?);
        }
        for (module, name) in &table.module_name {
            mapping = mapping.set_module_name(module, self.qconfig(name)?);
        }
        for entry in &table.module_name_object_type_order {
            mapping = mapping.set_module_name_object_type_order(ModuleOrder {
                module: entry.module.clone(),
                object_type: entry.object_type.clone(),
                index: entry.index,
                qconfig: self.qconfig(&entry.qconfig)?,
            });
        }
        Ok(mapping)
    }
}

impl SpecTable {
    fn apply(&self, spec: &mut QuantSpec) -> Result<(), ConfigError> {
        if let Some(scheme) = &self.qscheme {
            let (granularity, kind) = match scheme.as_str() {
                "per_tensor_affine" => (Granularity::PerTensor, Scheme::Affine),
                "per_tensor_symmetric" => (Granularity::PerTensor, Scheme::Symmetric),
                "per_channel_affine" => (Granularity::PerChannel { axis: 0 }, Scheme::Affine),
                "per_channel_symmetric" => (Granularity::PerChannel { axis: 0 }, Scheme::Symmetric),
                _ => return Err(ConfigError::Scheme(scheme.clone())),
            };
            (spec.granularity, spec.scheme) = (granularity, kind);
        }
        if let Some(dtype) = &self.dtype {
            let dtype: QuantType = dtype.parse()?;
            let range = if spec.scheme == Scheme::Affine {
                QuantRange::full(dtype)
            } else {
                QuantRange::symmetric(dtype)
            };
            (spec.dtype, spec.quant_min, spec.quant_max) = (dtype, range.min, range.max);
        }
        if let Some(observer) = &self.observer {
            spec.observer = observer.parse::<ObserverKind>()?;
        }
        spec.quant_min = self.quant_min.unwrap_or(spec.quant_min);
        spec.quant_max = self.quant_max.unwrap_or(spec.quant_max);
        spec.eps = self.eps.unwrap_or(spec.eps);
        Ok(())
    }
}
