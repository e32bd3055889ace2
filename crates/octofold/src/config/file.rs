//! The tables of a configuration file, as TOML has them, and what they mean.

use std::collections::BTreeMap;
use std::path::Path;

use indexmap::IndexMap;
use octofold_calibrate::Preprocess;
use octofold_passes::config::{
    Exclusions, ModuleOrder, Preset, QConfig, QConfigMapping, Region, SpecEdit,
};
use octofold_quant::{Granularity, ObserverKind, QuantType, Scheme};
use octofold_tensor::file::read_text;
use regex::Regex;
use serde::Deserialize;

use super::{Config, ConfigError};
use crate::Limits;
use crate::algorithm::Algorithm;
use crate::eager::Eager;
use crate::graph_mode::UnmatchedPolicy;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    version: i64,
    algorithm: Option<String>,
    mode: Option<String>,
    backend: Option<String>,
    unmatched: Option<String>,
    #[serde(default)]
    equalize: bool,
    #[serde(default)]
    bias_correction: bool,
    #[serde(default)]
    qconfig: IndexMap<String, QConfigTable>,
    qconfig_mapping: Option<MappingTable>,
    exclude: Option<ExcludeTable>,
    eager: Option<EagerTable>,
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
    bits: Option<u32>,
    qscheme: Option<String>,
    /// A name, with its main setting behind `=`, or a table with all settings.
    observer: Option<toml::Value>,
    reduce_range: Option<bool>,
    quant_min: Option<i32>,
    quant_max: Option<i32>,
    eps: Option<f32>,
    scale: Option<f32>,
    zero_point: Option<i32>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ExcludeTable {
    #[serde(default)]
    names: Vec<String>,
    #[serde(default)]
    types: Vec<String>,
    #[serde(default)]
    regions: Vec<RegionTable>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RegionTable {
    from: String,
    to: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct EagerTable {
    #[serde(default)]
    fuse: Vec<Vec<String>>,
    #[serde(default)]
    quant_stub: Vec<StubTable>,
    #[serde(default)]
    dequant_stub: Vec<String>,
    #[serde(default)]
    qconfig: IndexMap<String, String>,
    #[serde(default)]
    equalize: Vec<Vec<String>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct StubTable {
    value: String,
    #[serde(default = "default_name")]
    qconfig: String,
}

fn default_name() -> String {
    "default".to_owned()
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
    #[serde(default)]
    value: IndexMap<String, SpecTable>,
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
        Self::read_within(path, Limits::default().config_bytes)
    }

    /// As [`Config::read`], of a file of at most `limit` bytes.
    ///
    /// # Errors
    /// As [`Config::read`].
    pub fn read_within(path: &Path, limit: u64) -> Result<Self, ConfigError> {
        let name = path.display().to_string();
        let text = read_text(path, ("config-bytes", limit)).map_err(|source| ConfigError::Io {
            path: name.clone(),
            source,
        })?;
        Self::parse(&text, &name)
    }

    /// Reads a configuration from text. Errors call it `name`.
    ///
    /// # Errors
    /// As [`Config::read`].
    pub fn parse(text: &str, name: &str) -> Result<Self, ConfigError> {
        let file: File = toml::from_str(text).map_err(|source| ConfigError::Toml {
            path: in_table(name, text, source.span().map_or(0, |span| span.start)),
            source,
        })?;
        file.config().map_err(|source| ConfigError::In {
            path: match &source {
                ConfigError::Table { table, .. } => at_table(name, text, table),
                _ => name.to_owned(),
            },
            source: Box::new(source),
        })
    }
}

/// The name of a file with the line where a table, or the first table inside of it, begins.
fn at_table(name: &str, text: &str, table: &str) -> String {
    let begins = |line: &str| {
        let rest = line.trim_start().trim_start_matches('[');
        rest.len() < line.len()
            && rest
                .strip_prefix(table)
                .is_some_and(|rest| rest.starts_with([']', '.']))
    };
    match text.lines().position(begins) {
        Some(index) => format!("{name}:{}", index + 1),
        None => name.to_owned(),
    }
}

/// The name of a file with the head of the table around a place of its text.
fn in_table(name: &str, text: &str, place: usize) -> String {
    let before = text.get(..place).unwrap_or_default();
    // The fault may be in the head itself.
    let line = text[before.len()..].lines().next().unwrap_or_default();
    let until = &text[..before.len() + line.len()];
    let mut heads = until.lines().rev().map(str::trim_start);
    let head = heads.find(|line| line.starts_with('['));
    head.map_or(name.to_owned(), |head| {
        format!("{name}: in {}", head.trim_end())
    })
}

impl File {
    fn config(self) -> Result<Config, ConfigError> {
        if self.version != 1 {
            return Err(ConfigError::Version(self.version));
        }
        let algorithm = self.algorithm.as_deref().map(str::parse::<Algorithm>);
        let algorithm = algorithm.transpose()?;
        // Tables that nothing uses must make sense, too.
        for name in self.qconfig.keys() {
            if name == "none" {
                return Err(ConfigError::None);
            }
            self.qconfig(name)?;
        }
        let unmatched = match self.unmatched.as_deref() {
            None | Some("error") => UnmatchedPolicy::Error,
            Some("warn") => UnmatchedPolicy::Warn,
            Some(word) => return Err(word_error("unmatched", word, "error and warn")),
        };
        let is_eager = match self.mode.as_deref() {
            None | Some("graph") => false,
            Some("eager") => true,
            Some(word) => return Err(word_error("mode", word, "graph and eager")),
        };
        // What the mode does not use must make sense all the same.
        let eager = self
            .eager
            .as_ref()
            .map(|table| self.eager(table))
            .transpose()
            .map_err(|error| error.within("eager"))?;
        let mapping = self.graph_mapping();
        let mapping = mapping.map_err(|error| error.within("qconfig_mapping"))?;
        let mut warnings = Vec::new();
        let eager = match (is_eager, eager) {
            (true, None) => return Err(ConfigError::NoEager),
            (false, Some(_)) => {
                warnings.push("[eager] is not used: the mode is \"graph\"".to_owned());
                None
            }
            (_, eager) => eager,
        };
        if is_eager {
            let unused = [
                (self.qconfig_mapping.is_some(), "[qconfig_mapping]"),
                (self.exclude.is_some(), "[exclude]"),
                (self.equalize, "equalize = true"),
                (unmatched == UnmatchedPolicy::Warn, "unmatched = \"warn\""),
            ];
            let unused = unused.into_iter().filter(|(is_there, _)| *is_there);
            warnings.extend(unused.map(|(_, what)| {
                format!("{what} is not used: the mode is \"eager\", in which only [eager] counts")
            }));
        }
        Ok(Config {
            algorithm,
            backend: self.backend,
            unmatched,
            equalize: self.equalize && !is_eager,
            bias_correction: self.bias_correction,
            mapping: mapping.filter(|_| !is_eager),
            eager,
            inputs: self.input,
            warnings,
        })
    }

    /// What graph mode does; `None` where the file does not say.
    fn graph_mapping(&self) -> Result<Option<QConfigMapping>, ConfigError> {
        let mut mapping = match &self.qconfig_mapping {
            Some(table) => Some(self.mapping(table)?),
            None if self.qconfig.contains_key("default") || self.exclude.is_some() => {
                let global = self.qconfig("default")?;
                Some(QConfigMapping::default().set_global(global))
            }
            None => None,
        };
        if let Some(mapping) = &mut mapping {
            let table = self.qconfig_mapping.as_ref();
            let global = table.and_then(|table| table.global.as_deref());
            mapping.preset = self.preset(global.unwrap_or("default"))?;
            if let Some(exclude) = &self.exclude {
                let region = |region: &RegionTable| Region {
                    from: region.from.clone(),
                    to: region.to.clone(),
                };
                mapping.exclude = Exclusions {
                    names: exclude.names.clone(),
                    types: exclude.types.clone(),
                    regions: exclude.regions.iter().map(region).collect(),
                };
            }
        }
        Ok(mapping)
    }

    /// The preset that a QConfig starts from, by its own table or the first that it extends and that names one.
    fn preset(&self, name: &str) -> Result<Option<Preset>, ConfigError> {
        let mut next = Some(name);
        // `qconfig` has refused tables that extend themselves.
        while let Some(table) = next.and_then(|name| self.qconfig.get(name)) {
            if let Some(preset) = &table.preset {
                return Ok(Some(preset.parse()?));
            }
            next = table.extends.as_deref();
        }
        Ok(None)
    }

    fn eager(&self, table: &EagerTable) -> Result<Eager, ConfigError> {
        let whole = table.qconfig.get("").map_or("default", String::as_str);
        let mut eager = Eager {
            preset: self.preset(whole)?,
            equalize: table.equalize.clone(),
            ..Eager::default()
        };
        eager.config.fuse = table.fuse.clone();
        eager.config.dequant_stubs = table.dequant_stub.clone();
        for stub in &table.quant_stub {
            let none = || ConfigError::UnknownQConfig {
                name: format!("none (of the quant_stub at `{}`)", stub.value),
                known: "a stub needs a qconfig".to_owned(),
            };
            let qconfig = self.qconfig(&stub.qconfig)?.ok_or_else(none)?;
            eager = eager.quant_stub(&stub.value, qconfig);
        }
        for (module, name) in &table.qconfig {
            eager = eager.qconfig(module, self.qconfig(name)?);
        }
        Ok(eager)
    }

    /// The QConfig of a name; `none` leaves operators float.
    fn qconfig(&self, name: &str) -> Result<Option<QConfig>, ConfigError> {
        let within = |error: ConfigError| match self.qconfig.contains_key(name) {
            true => error.within(&format!("qconfig.{name}")),
            false => error,
        };
        self.resolved(name).map_err(within)
    }

    fn resolved(&self, name: &str) -> Result<Option<QConfig>, ConfigError> {
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
                let tables = self.qconfig.keys().map(String::as_str);
                let own = tables.filter(|name| *name != "default");
                let known: Vec<&str> = own.chain(["default", "none"]).collect();
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
                activation.edit()?.apply(&mut config.activation)?;
            }
            if let Some(weight) = &table.weight {
                weight.edit()?.apply(&mut config.weight)?;
            }
        }
        config.activation.check()?;
        config.weight.check()?;
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
        for (value, table) in &table.value {
            mapping = mapping.set_value(value, table.edit()?);
        }
        Ok(mapping)
    }
}

impl SpecTable {
    fn edit(&self) -> Result<SpecEdit, ConfigError> {
        let scheme = |scheme: &String| {
            let per_channel = Granularity::PerChannel { axis: 0 };
            Ok(match scheme.as_str() {
                "per_tensor_affine" => (Granularity::PerTensor, Scheme::Affine),
                "per_tensor_symmetric" => (Granularity::PerTensor, Scheme::Symmetric),
                "per_channel_affine" => (per_channel, Scheme::Affine),
                "per_channel_symmetric" => (per_channel, Scheme::Symmetric),
                _ => return Err(ConfigError::Scheme(scheme.clone())),
            })
        };
        let observer = |observer: &toml::Value| {
            if let toml::Value::String(name) = observer {
                return Ok(name.parse::<ObserverKind>()?);
            }
            let kind: ObserverKind = observer.clone().try_into().map_err(ConfigError::Settings)?;
            kind.check()?;
            Ok::<_, ConfigError>(kind)
        };
        let dtype = self.dtype.as_ref().map(|name| name.parse::<QuantType>());
        Ok(SpecEdit {
            dtype: dtype.transpose()?,
            bits: self.bits,
            qscheme: self.qscheme.as_ref().map(scheme).transpose()?,
            observer: self.observer.as_ref().map(observer).transpose()?,
            reduce_range: self.reduce_range,
            quant_min: self.quant_min,
            quant_max: self.quant_max,
            eps: self.eps,
            scale: self.scale,
            zero_point: self.zero_point,
        })
    }
}

fn word_error(key: &'static str, word: &str, known: &'static str) -> ConfigError {
    ConfigError::Word {
        key,
        word: word.to_owned(),
        known,
    }
}
