//! Finds the QConfig of each node by a mapping and the model's names, and the settings that match nothing.

use std::collections::BTreeSet;

use octofold_ir::{Graph, NodeId, Op};

use crate::config::{ModelNames, QConfig, QConfigMapping, covers, nearest};

/// The QConfig of an operator, and where it comes from.
#[derive(Clone, Debug, PartialEq)]
pub struct Resolved<'a> {
    /// The QConfig; `None` leaves the operator float.
    pub qconfig: Option<&'a QConfig>,
    /// The setting that decided, in words.
    pub origin: String,
    /// Whether the setting names the operator, its type or its module, in contrast to all operators.
    pub named: bool,
}

/// A setting that matches no operator or value of the model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnmatchedSetting {
    /// The setting, in words.
    pub setting: String,
    /// The names of the model that are nearest to it.
    pub nearest: Vec<String>,
    /// Whether it is harmless: it leaves an operator type of ONNX float that the model does not have.
    pub harmless: bool,
}

/// The settings of a mapping, matched with the nodes of a model.
#[derive(Clone, Debug)]
pub struct Resolver<'a> {
    global: Option<&'a QConfig>,
    /// The model's nodes of the operator types that alone may be quantized.
    only: Option<BTreeSet<&'a str>>,
    /// From the strongest to the weakest.
    settings: Vec<Setting<'a>>,
    unmatched: Vec<UnmatchedSetting>,
}

/// One setting and the model's nodes that it means.
#[derive(Clone, Debug)]
struct Setting<'a> {
    origin: String,
    qconfig: Option<&'a QConfig>,
    nodes: BTreeSet<&'a str>,
}

impl<'a> Resolver<'a> {
    /// Matches every setting of a mapping with the nodes of a model.
    pub fn new(mapping: &'a QConfigMapping, names: &'a ModelNames) -> Self {
        let mut resolver = Self {
            global: mapping.global.as_ref(),
            only: None,
            settings: Vec::new(),
            unmatched: Vec::new(),
        };
        resolver.only_types(mapping, names);
        resolver.add_exclusions(mapping, names);
        resolver.add_orders(mapping, names);
        resolver.add_modules(mapping, names);
        for (pattern, qconfig) in &mapping.module_name_regex {
            let found = names.find_by(|name| pattern.is_match(name));
            let origin = format!("module_name_regex {pattern}");
            resolver.add(origin, qconfig.as_ref(), found, || {
                nearest(pattern.as_str(), names.all())
            });
        }
        for (object_type, qconfig) in &mapping.object_type {
            let origin = format!("object_type {object_type}");
            resolver.add_type(origin, qconfig.as_ref(), object_type, names);
        }
        for value in mapping.values.keys().filter(|name| !names.has_value(name)) {
            resolver.unmatched.push(UnmatchedSetting {
                setting: format!("value {value}"),
                nearest: nearest(value, names.values()),
                harmless: false,
            });
        }
        resolver
    }

    /// The settings that apply to nothing in the model, with the nearest names.
    pub fn unmatched(&self) -> &[UnmatchedSetting] {
        &self.unmatched
    }

    /// The QConfig of a node of any later stage. A fused node gets the strongest setting of the nodes that it stands for.
    pub fn resolve(&self, graph: &Graph, id: NodeId) -> Resolved<'a> {
        let sources = graph.node(id).sources();
        let means = |setting: &&Setting<'_>| {
            sources
                .iter()
                .any(|source| setting.nodes.contains(source.as_str()))
        };
        let is_of_only = |only: &BTreeSet<&str>| {
            let mut sources = sources.iter();
            sources.any(|source| only.contains(source.as_str()))
        };
        if self.only.as_ref().is_some_and(|only| !is_of_only(only)) {
            return Resolved {
                qconfig: None,
                origin: "not of the operator types to quantize".to_owned(),
                named: true,
            };
        }
        if let Some(setting) = self.settings.iter().find(means) {
            return Resolved {
                qconfig: setting.qconfig,
                origin: setting.origin.clone(),
                named: true,
            };
        }
        let origin = match self.global {
            Some(_) => "global",
            None => "no setting",
        };
        Resolved {
            qconfig: self.global,
            origin: origin.to_owned(),
            named: false,
        }
    }

    fn add(
        &mut self,
        origin: String,
        qconfig: Option<&'a QConfig>,
        found: Vec<&'a str>,
        nearest: impl FnOnce() -> Vec<String>,
    ) {
        if found.is_empty() {
            self.unmatched.push(UnmatchedSetting {
                setting: origin,
                nearest: nearest(),
                harmless: false,
            });
            return;
        }
        self.settings.push(Setting {
            origin,
            qconfig,
            nodes: found.into_iter().collect(),
        });
    }

    fn add_type(
        &mut self,
        origin: String,
        qconfig: Option<&'a QConfig>,
        object_type: &str,
        names: &'a ModelNames,
    ) {
        let found = names.of_type(object_type);
        let absent = found.is_empty();
        self.add(origin, qconfig, found, || {
            nearest(object_type, names.types())
        });
        // One file may be used for several models, so a type that ONNX has and the model lacks is harmless.
        if absent
            && qconfig.is_none()
            && Op::NAMES.contains(&("", object_type))
            && let Some(unmatched) = self.unmatched.last_mut()
        {
            unmatched.harmless = true;
        }
    }

    fn only_types(&mut self, mapping: &'a QConfigMapping, names: &'a ModelNames) {
        let Some(types) = &mapping.only_types else {
            return;
        };
        let mut only = BTreeSet::new();
        for object_type in types {
            let found = names.of_type(object_type);
            if found.is_empty() {
                self.unmatched.push(UnmatchedSetting {
                    setting: format!("operator type {object_type}"),
                    nearest: nearest(object_type, names.types()),
                    harmless: false,
                });
            }
            only.extend(found);
        }
        self.only = Some(only);
    }

    fn add_exclusions(&mut self, mapping: &'a QConfigMapping, names: &'a ModelNames) {
        for name in &mapping.exclude.names {
            let origin = format!("exclude {name}");
            self.add(origin, None, names.find(name), || {
                nearest(name, names.all())
            });
        }
        for region in &mapping.exclude.regions {
            let (from, to) = (&region.from, &region.to);
            let mut origin = format!("exclude from {from} to {to}");
            let found = names.region(from, to);
            if found.as_ref().is_some_and(Vec::is_empty) {
                origin = format!("{origin}: no way leads there");
            }
            let found = found.unwrap_or_default();
            self.add(origin, None, found, || {
                match [from, to].into_iter().find(|value| !names.has_value(value)) {
                    Some(missing) => nearest(missing, names.values()),
                    // Both exist, and no path leads from one to the other.
                    None => Vec::new(),
                }
            });
        }
        for object_type in &mapping.exclude.types {
            self.add_type(
                format!("exclude type {object_type}"),
                None,
                object_type,
                names,
            );
        }
    }

    fn add_orders(&mut self, mapping: &'a QConfigMapping, names: &'a ModelNames) {
        // Of two settings for the same operator the later is stronger.
        for order in mapping.module_name_object_type_order.iter().rev() {
            let (module, object_type) = (&order.module, &order.object_type);
            let inside = names.find(module);
            let known = !inside.is_empty();
            let of_type = inside
                .into_iter()
                .filter(|source| names.operator(source) == Some(object_type));
            let of_type: Vec<&str> = of_type.collect();
            let mut origin = format!(
                "module_name_object_type_order ({module}, {object_type}, {})",
                order.index
            );
            let count = of_type.len();
            if known && order.index >= count {
                origin = format!("{origin}: {module} has {count} operators of this type");
            }
            let found = of_type.into_iter().skip(order.index).take(1).collect();
            self.add(origin, order.qconfig.as_ref(), found, || {
                if known {
                    Vec::new()
                } else {
                    nearest(module, names.all())
                }
            });
        }
    }

    /// Names of operators and values first, then the innermost modules: those of the most parts.
    fn add_modules(&mut self, mapping: &'a QConfigMapping, names: &'a ModelNames) {
        let mut modules: Vec<_> = mapping.module_name.iter().collect();
        modules.sort_by_key(|(module, _)| std::cmp::Reverse(names.depth(module)));
        for (module, qconfig) in modules {
            let origin = format!("module_name {module}");
            // The empty name is the whole model, torch's outermost module.
            let found = if module.is_empty() {
                names.find_by(|name| covers("", name))
            } else {
                names.find(module)
            };
            self.add(origin, qconfig.as_ref(), found, || {
                nearest(module, names.all())
            });
        }
    }
}
