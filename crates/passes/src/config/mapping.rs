//! Which operators get which QConfig: torch's `QConfigMapping`.

use indexmap::IndexMap;
use regex::Regex;

use crate::config::{Preset, QConfig, SpecEdit};

/// A QConfig for the n-th operator of a type within a module.
#[derive(Clone, Debug, PartialEq)]
pub struct ModuleOrder {
    /// The module.
    pub module: String,
    /// The operator type.
    pub object_type: String,
    /// Which of the operators of that type in the module, from 0, in the order of the graph.
    pub index: usize,
    /// The QConfig; `None` leaves the operator float.
    pub qconfig: Option<QConfig>,
}

/// The nodes that stay float, whatever the other settings say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Exclusions {
    /// Nodes and modules, by any name that finds them.
    pub names: Vec<String>,
    /// Operator types.
    pub types: Vec<String>,
    /// All nodes on the paths between two values.
    pub regions: Vec<Region>,
}

/// The nodes on the paths from one value to another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Region {
    /// The value where it begins; what computes it is outside.
    pub from: String,
    /// The value where it ends; what computes it is inside.
    pub to: String,
}

/// Which operators get which QConfig. `None` leaves an operator float.
///
/// The levels, from the weakest, are torch's: global, operator type, regular expression over addresses (the first match wins), module name
/// (an operator's own name, then the innermost module), and module name with operator type and order. Exclusions are stronger than all of them. Values may
/// have settings of their own, which change the QConfig's activations key by key.
#[derive(Clone, Debug, Default)]
pub struct QConfigMapping {
    /// For all operators.
    pub global: Option<QConfig>,
    /// By the name of an operator type of the model, as in ONNX.
    pub object_type: IndexMap<String, Option<QConfig>>,
    /// By a regular expression over addresses.
    pub module_name_regex: Vec<(Regex, Option<QConfig>)>,
    /// By an address or the name of a module that contains it.
    pub module_name: IndexMap<String, Option<QConfig>>,
    /// By module, operator type and order.
    pub module_name_object_type_order: Vec<ModuleOrder>,
    /// What stays float.
    pub exclude: Exclusions,
    /// The operator types that alone may be quantized, where there is a choice. A fused node is of the types of all nodes that it stands for.
    pub only_types: Option<Vec<String>>,
    /// Changes of the specification of single values, by their names: given scales and zero points, other observers or types.
    pub values: IndexMap<String, SpecEdit>,
    /// The name of the preset that the mapping started from, for records.
    pub preset: Option<Preset>,
}

impl QConfigMapping {
    /// The same QConfig for all operators.
    pub fn global(qconfig: QConfig) -> Self {
        Self {
            global: Some(qconfig),
            ..Self::default()
        }
    }

    /// The defaults of a preset for all operators (torch's `get_default_qconfig_mapping`).
    pub fn preset(preset: Preset) -> Self {
        Self {
            preset: Some(preset),
            ..Self::global(preset.qconfig())
        }
    }

    /// Sets the QConfig of all operators that nothing else names.
    #[must_use]
    pub fn set_global(mut self, qconfig: Option<QConfig>) -> Self {
        self.global = qconfig;
        self
    }

    /// Leaves all operators float that are of none of these types.
    #[must_use]
    pub fn only_types(mut self, types: &[&str]) -> Self {
        self.only_types = Some(types.iter().map(|&name| name.to_owned()).collect());
        self
    }

    /// Sets the QConfig of an operator type.
    #[must_use]
    pub fn set_object_type(mut self, object_type: &str, qconfig: Option<QConfig>) -> Self {
        self.object_type.insert(object_type.to_owned(), qconfig);
        self
    }

    /// Sets the QConfig of an address or module.
    #[must_use]
    pub fn set_module_name(mut self, name: &str, qconfig: Option<QConfig>) -> Self {
        self.module_name.insert(name.to_owned(), qconfig);
        self
    }

    /// Adds a QConfig for the addresses that a regular expression matches.
    #[must_use]
    pub fn set_module_name_regex(mut self, pattern: Regex, qconfig: Option<QConfig>) -> Self {
        self.module_name_regex.push((pattern, qconfig));
        self
    }

    /// Adds a QConfig for the n-th operator of a type within a module.
    #[must_use]
    pub fn set_module_name_object_type_order(mut self, order: ModuleOrder) -> Self {
        self.module_name_object_type_order.push(order);
        self
    }

    /// Leaves a node or module float, whatever other settings say.
    #[must_use]
    pub fn exclude_name(mut self, name: &str) -> Self {
        self.exclude.names.push(name.to_owned());
        self
    }

    /// Leaves an operator type float, whatever other settings say.
    #[must_use]
    pub fn exclude_type(mut self, object_type: &str) -> Self {
        self.exclude.types.push(object_type.to_owned());
        self
    }

    /// Leaves the nodes between two values float, whatever other settings say.
    #[must_use]
    pub fn exclude_region(mut self, from: &str, to: &str) -> Self {
        self.exclude.regions.push(Region {
            from: from.to_owned(),
            to: to.to_owned(),
        });
        self
    }

    /// Changes the specification of one value.
    #[must_use]
    pub fn set_value(mut self, name: &str, edit: SpecEdit) -> Self {
        self.values.insert(name.to_owned(), edit);
        self
    }

    /// Changes every QConfig of the mapping.
    ///
    /// # Errors
    /// The first error of `edit`.
    pub fn for_each_qconfig<E>(
        &mut self,
        edit: impl FnMut(&mut QConfig) -> Result<(), E>,
    ) -> Result<(), E> {
        let by_type = self.object_type.values_mut();
        let by_regex = self
            .module_name_regex
            .iter_mut()
            .map(|(_, qconfig)| qconfig);
        let by_module = self.module_name.values_mut();
        let by_order = self
            .module_name_object_type_order
            .iter_mut()
            .map(|order| &mut order.qconfig);
        let all = std::iter::once(&mut self.global)
            .chain(by_type)
            .chain(by_regex)
            .chain(by_module)
            .chain(by_order);
        all.flatten().try_for_each(edit)
    }
}
