//! What an engine's kernels can do, as data.
//!
//! A [`BackendConfig`] lists, for each class of operators, the operators of ONNX that belong to it, the types, bounds and granularities that have
//! an integer kernel, how the result is observed, and which operators are fused with which (torch's `BackendConfig`, a
//! list of patterns with `DTypeConfig`s and an `ObservationType`). Annotation and fusion read only this table, so a setting that the engine cannot
//! honour is reported before calibration. The table can be printed as TOML, edited and read back; in Rust, users can add rewrites of their own.
//! A test of the facade compares the built-in table with the kernels.

mod classify;

use std::fmt;
use std::sync::Arc;

use octofold_ir::{Graph, NodeId, Op};
use octofold_ops::AttributeMap;
use octofold_ops::families::BinaryKind;
use octofold_quant::{Granularity, ObserverKind, QuantSpec, QuantType, Scheme};
use serde::{Deserialize, Serialize};

use crate::config::nearest;
use crate::lower::acts_element_by_element;
use crate::rewrite::{Rule, Scope};
use classify::{MOVEMENT, POINTWISE, classify};

/// A class of operators that share kernels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OpClass {
    /// Two-dimensional convolution with constant weights, any groups.
    Conv,
    /// Linear layer with constant weights.
    Linear,
    /// Sum of two values.
    Add,
    /// Product of two values.
    Mul,
    /// Concatenation.
    Concat,
    /// Maximum over windows or all positions.
    MaxPool,
    /// Mean over windows or all positions.
    AveragePool,
    /// A function of one value, element by element.
    Pointwise,
    /// Operators that move elements without changing them.
    Movement,
}

impl OpClass {
    /// The class's name in tables and reports.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Conv => "conv",
            Self::Linear => "linear",
            Self::Add => "add",
            Self::Mul => "mul",
            Self::Concat => "concat",
            Self::MaxPool => "max-pool",
            Self::AveragePool => "average-pool",
            Self::Pointwise => "pointwise",
            Self::Movement => "movement",
        }
    }

    /// Whether the operators have weights, which alone make quantization worth it.
    pub const fn has_weights(self) -> bool {
        matches!(self, Self::Conv | Self::Linear)
    }
}

impl fmt::Display for OpClass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// How the result of an operator gets its quantization parameters (torch's `ObservationType`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Observation {
    /// The result has an observer of its own.
    Own,
    /// The result has the parameters of the first operand.
    SharedWithInput,
}

/// A type that kernels take, and the integers of it that they take (torch's `DTypeWithConstraints`).
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DTypeConfig {
    /// The type.
    pub dtype: QuantType,
    /// No integer below this may be in use.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quant_min: Option<i32>,
    /// No integer above this may be in use.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quant_max: Option<i32>,
    /// The smallest scale; a specification's `eps` must not be below.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scale_min: Option<f32>,
}

impl From<QuantType> for DTypeConfig {
    /// A type without constraints.
    fn from(dtype: QuantType) -> Self {
        Self {
            dtype,
            quant_min: None,
            quant_max: None,
            scale_min: None,
        }
    }
}

impl DTypeConfig {
    /// Why a specification of this type is refused.
    fn refuses(&self, spec: &QuantSpec) -> Option<String> {
        let (low, high) = (spec.quant_min, spec.quant_max);
        if self.quant_min.is_some_and(|bound| low < bound) {
            return Some(format!("{} below {}", spec.dtype, self.quant_min?));
        }
        if self.quant_max.is_some_and(|bound| high > bound) {
            return Some(format!("{} above {}", spec.dtype, self.quant_max?));
        }
        if self.scale_min.is_some_and(|bound| spec.eps < bound) {
            return Some(format!("scales below {:?}", self.scale_min?));
        }
        None
    }
}

/// What the kernels of one class can do.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Capability {
    /// The class.
    pub class: OpClass,
    /// The operators of ONNX that are quantized as one of this class. Those of `pointwise` may be any that act element by element.
    pub operators: Vec<String>,
    /// How the result is observed.
    pub observation: Observation,
    /// Whether weights may have one scale a channel.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub per_channel_weights: bool,
    /// The types of activations that integer kernels take.
    pub activations: Vec<DTypeConfig>,
    /// The types of activations for which there is no integer kernel: the values are quantized, and the operator computes on reals
    /// between them, as the reference graph says. They cost speed and save accuracy.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub reference: Vec<DTypeConfig>,
    /// The types of weights; empty where there are none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub weights: Vec<DTypeConfig>,
}

impl Capability {
    /// Whether an operator is one of the class.
    fn lists(&self, operator: &str) -> bool {
        self.operators.iter().any(|own| own == operator)
    }
}

/// How a quantized operator computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Execution {
    /// By an integer kernel.
    Integer,
    /// On reals between quantized values.
    Reference,
}

/// What an engine can do.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BackendConfig {
    /// The name of the engine whose kernels run: `fbgemm` or `qnnpack`.
    pub name: String,
    /// The pairs of operators that are fused, in the order of the data flow: `Conv + BatchNormalization`, `Conv + Relu`. A row of three is
    /// two pairs.
    pub fusions: Vec<String>,
    /// One entry a class.
    pub capabilities: Vec<Capability>,
    /// What the user added, in the order in which it is tried, before the engine's own rules.
    #[serde(skip)]
    pub patterns: Vec<BackendPattern>,
}

/// A pattern that a user adds to an engine: rewrites that take part in the fuse stage and in the lower stage.
///
/// A fusing rewrite replaces float operators by one that a capability lists, so that it is annotated, observed and quantized as a whole.
/// A lowering rewrite replaces `DequantizeLinear → … → QuantizeLinear` by operators that compute on integers.
#[derive(Clone, Default)]
pub struct BackendPattern {
    /// Runs at the head of the fuse stage.
    pub fuse: Option<Arc<dyn Rule + Send + Sync>>,
    /// Runs at the head of the lower stage.
    pub lower: Option<Arc<dyn Rule + Send + Sync>>,
}

impl fmt::Debug for BackendPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = |rule: &Option<Arc<dyn Rule + Send + Sync>>| {
            rule.as_ref().map(|rule| rule.name().to_owned())
        };
        f.debug_struct("BackendPattern")
            .field("fuse", &name(&self.fuse))
            .field("lower", &name(&self.lower))
            .finish()
    }
}

/// Why a table of abilities cannot be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BackendError {
    /// No TOML of this form.
    #[error(transparent)]
    Toml(#[from] toml::de::Error),
    /// An engine that does not exist.
    #[error("`{name}` is no engine; there are fbgemm and qnnpack")]
    Engine {
        /// The name.
        name: String,
    },
    /// A fusion that the compiler does not know.
    #[error("`{fusion}` is no fusion of the compiler; the nearest are `{}`", .nearest.join("`, `"))]
    Fusion {
        /// The fusion.
        fusion: String,
        /// Those that are nearest.
        nearest: Vec<String>,
    },
    /// An operator that ONNX or the compiler does not know.
    #[error("`{operator}` of the class {class} is no operator; the nearest are `{}`", .nearest.join("`, `"))]
    Operator {
        /// The operator.
        operator: String,
        /// The class that lists it.
        class: OpClass,
        /// Those that are nearest.
        nearest: Vec<String>,
    },
    /// A type or operator for which the class has no kernel.
    #[error("no {class} kernel serves {what}")]
    Kernel {
        /// The type or operator.
        what: String,
        /// The class.
        class: OpClass,
    },
    /// A class that is listed twice.
    #[error("the class {0} is listed twice")]
    Twice(OpClass),
}

/// The operators whose results an activation or an affine function can be fused into.
const ACTIVATED: [&str; 4] = ["Conv", "Linear", "Add", "Mul"];

/// Every fusion of the compiler, as a row of operators. `Linear` is a Gemm or MatMul with constant weights.
fn all_fusions() -> Vec<String> {
    let mut fusions = Vec::new();
    for first in ["Conv", "ConvTranspose", "Linear"] {
        for affine in ["BatchNormalization", "Add", "Sub", "Mul", "Div"] {
            fusions.push(format!("{first} + {affine}"));
        }
    }
    for first in ACTIVATED {
        fusions.extend(["Relu", "Clip"].map(|activation| format!("{first} + {activation}")));
    }
    fusions
}

impl BackendConfig {
    /// The engine of a name, with its own table.
    ///
    /// # Errors
    /// When there is no such engine.
    pub fn named(name: &str) -> Result<Self, BackendError> {
        match name {
            "fbgemm" => Ok(Self::fbgemm()),
            "qnnpack" => Ok(Self::qnnpack()),
            _ => Err(BackendError::Engine {
                name: name.to_owned(),
            }),
        }
    }

    /// The FBGEMM-like engine for x86: u8 or s8 activations, s8 weights with one scale a tensor or a channel.
    pub fn fbgemm() -> Self {
        use Observation::{Own, SharedWithInput};
        use OpClass as C;
        let types = |types: &[QuantType]| types.iter().map(|&dtype| dtype.into()).collect();
        let entry = |class: OpClass, observation, operators: &[&str]| Capability {
            class,
            operators: operators.iter().map(|&name| name.to_owned()).collect(),
            observation,
            per_channel_weights: class.has_weights(),
            activations: types(&[QuantType::Uint8, QuantType::Int8]),
            reference: types(&[QuantType::Uint16, QuantType::Int16]),
            weights: types(if class.has_weights() {
                &[QuantType::Int8]
            } else {
                &[]
            }),
        };
        Self {
            name: "fbgemm".to_owned(),
            fusions: all_fusions(),
            capabilities: vec![
                entry(C::Conv, Own, &["Conv"]),
                entry(C::Linear, Own, &["Gemm", "MatMul"]),
                entry(C::Add, Own, &["Add"]),
                entry(C::Mul, Own, &["Mul"]),
                entry(C::Concat, Own, &["Concat"]),
                entry(C::MaxPool, SharedWithInput, &["MaxPool", "GlobalMaxPool"]),
                entry(C::AveragePool, Own, &["AveragePool", "GlobalAveragePool"]),
                entry(C::Pointwise, Own, &POINTWISE),
                entry(C::Movement, SharedWithInput, &MOVEMENT),
            ],
            patterns: Vec::new(),
        }
    }

    /// The QNNPACK-like engine for ARM: the same operators and types.
    pub fn qnnpack() -> Self {
        Self {
            name: "qnnpack".to_owned(),
            ..Self::fbgemm()
        }
    }

    /// Reads a table that [`BackendConfig::to_toml`] wrote and somebody edited.
    ///
    /// # Errors
    /// When it has unknown keys, operators or fusions, or lists a class twice.
    pub fn from_toml(text: &str) -> Result<Self, BackendError> {
        let config: Self = toml::from_str(text)?;
        let own = Self::named(&config.name)?;
        let known = all_fusions();
        for fusion in &config.fusions {
            if !known.contains(fusion) {
                return Err(BackendError::Fusion {
                    fusion: fusion.clone(),
                    nearest: nearest(fusion, known.iter().map(String::as_str)),
                });
            }
        }
        for (index, capability) in config.capabilities.iter().enumerate() {
            let class = capability.class;
            if config.capabilities[..index]
                .iter()
                .any(|other| other.class == class)
            {
                return Err(BackendError::Twice(class));
            }
            own.check(capability)?;
            for operator in &capability.operators {
                if !Op::NAMES.contains(&("", operator)) {
                    return Err(BackendError::Operator {
                        operator: operator.clone(),
                        class,
                        nearest: nearest(operator, Op::NAMES.iter().map(|(_, name)| *name)),
                    });
                }
            }
        }
        Ok(config)
    }

    /// Checks that an edited class claims nothing that the engine, by this table of its own, cannot do.
    fn check(&self, capability: &Capability) -> Result<(), BackendError> {
        let class = capability.class;
        let Some(known) = self.capability(class) else {
            return Ok(());
        };
        let has = |types: &[DTypeConfig], dtype| types.iter().any(|config| config.dtype == dtype);
        let on_reals = [&known.reference[..], &known.activations[..]].concat();
        let claims = [
            (&capability.activations, &known.activations),
            (&capability.weights, &known.weights),
            (&capability.reference, &on_reals),
        ];
        let mut claims = claims
            .into_iter()
            .flat_map(|(claimed, known)| claimed.iter().map(move |config| (config, known)));
        if let Some((config, _)) = claims.find(|(config, known)| !has(known, config.dtype)) {
            return Err(BackendError::Kernel {
                what: config.dtype.to_string(),
                class,
            });
        }
        let serves = |operator: &str| {
            let op = Op::from_attributes("", operator, AttributeMap::default());
            known.lists(operator)
                || !Op::NAMES.contains(&("", operator))
                || (class == OpClass::Pointwise && op.is_ok_and(|op| acts_element_by_element(&op)))
        };
        match capability
            .operators
            .iter()
            .find(|operator| !serves(operator))
        {
            None => Ok(()),
            Some(operator) => Err(BackendError::Kernel {
                what: operator.clone(),
                class,
            }),
        }
    }

    /// The table as TOML, for [`BackendConfig::from_toml`]. Patterns of the user's own are code and not in it.
    pub fn to_toml(&self) -> String {
        // Strings, numbers and lists alone cannot fail to serialize.
        toml::to_string(self).unwrap_or_default()
    }

    /// The same with a pattern of the user's own.
    #[must_use]
    pub fn with_pattern(mut self, pattern: BackendPattern) -> Self {
        self.patterns.push(pattern);
        self
    }

    /// What the kernels of a class can do.
    pub fn capability(&self, class: OpClass) -> Option<&Capability> {
        self.capabilities
            .iter()
            .find(|capability| capability.class == class)
    }

    /// How an operator with activations of this specification computes.
    ///
    /// # Errors
    /// Why it cannot.
    pub fn execution(&self, class: OpClass, spec: &QuantSpec) -> Result<Execution, String> {
        let Some(capability) = self.capability(class) else {
            return Err(format!("{} has no {class} kernels", self.name));
        };
        if spec.granularity != Granularity::PerTensor {
            return Err("activations have one scale a tensor".to_owned());
        }
        if spec.observer == ObserverKind::None {
            return Err("the observer `none` gives activations no range".to_owned());
        }
        let of = |types: &[DTypeConfig]| {
            types
                .iter()
                .find(|config| config.dtype == spec.dtype)
                .copied()
        };
        let (found, execution) = match (of(&capability.activations), of(&capability.reference)) {
            (Some(found), _) => (found, Execution::Integer),
            (None, Some(found)) => (found, Execution::Reference),
            (None, None) => {
                return Err(format!(
                    "{} has no {class} kernel for {} activations",
                    self.name, spec.dtype
                ));
            }
        };
        match found.refuses(spec) {
            None => Ok(execution),
            Some(what) => Err(format!(
                "{} has no {class} kernel for activations of {what}",
                self.name
            )),
        }
    }

    /// Why weights of this specification have no kernel in a class; `None` when they have.
    pub fn refuses_weight(&self, class: OpClass, spec: &QuantSpec) -> Option<String> {
        let kernel = format!("{} has no {class} kernel", self.name);
        let Some(capability) = self.capability(class) else {
            return Some(format!("{kernel}s"));
        };
        let mut types = capability.weights.iter();
        let Some(found) = types.find(|config| config.dtype == spec.dtype) else {
            return Some(format!("{kernel} for {} weights", spec.dtype));
        };
        if spec.scheme == Scheme::Affine {
            return Some(format!("{kernel} for weights with a zero point"));
        }
        if spec.granularity != Granularity::PerTensor && !capability.per_channel_weights {
            return Some(format!("{kernel} for weights with one scale a channel"));
        }
        if spec.observer != ObserverKind::MinMax {
            return Some(format!(
                "weights take the range of their own extremes, not what the observer `{}` would give",
                spec.observer
            ));
        }
        found
            .refuses(spec)
            .map(|what| format!("{kernel} for weights of {what}"))
    }

    /// The class of a node of a fused float graph.
    ///
    /// # Errors
    /// Why no integer kernel suits the node.
    pub fn classify(&self, graph: &Graph, id: NodeId) -> Result<OpClass, String> {
        let class = classify(graph, id, self)?;
        let node = graph.node(id);
        let lists = |name: &str| {
            let capability = self.capability(class);
            capability.is_some_and(|capability| capability.lists(name))
        };
        let listed = match (node.op(), class) {
            (Op::FusedConv(_), _) => lists("Conv"),
            (Op::FusedLinear(_), _) => lists("Gemm") || lists("MatMul"),
            // A sum or product with a constant is a function of one value.
            (Op::FusedBinary(_) | Op::Add(_) | Op::Mul(_), OpClass::Pointwise) => true,
            (Op::FusedBinary(_), OpClass::Mul) => lists("Mul"),
            (Op::FusedBinary(_), _) => lists("Add"),
            (op, _) => lists(op.name()),
        };
        if listed {
            Ok(class)
        } else {
            let name = match node.op() {
                Op::FusedConv(_) => "Conv",
                Op::FusedLinear(_) => "Gemm or MatMul",
                Op::FusedBinary(op) if op.kind == BinaryKind::Mul => "Mul",
                Op::FusedBinary(_) => "Add",
                op => op.name(),
            };
            Err(format!("the table of {} does not list {name}", self.name))
        }
    }
}

impl Scope for BackendConfig {
    /// Whether the table lists the fusion of two operators.
    fn allows(&self, graph: &Graph, nodes: &[NodeId]) -> bool {
        let name = |id: NodeId| match graph.node(id).op() {
            Op::FusedConv(_) => "Conv",
            Op::FusedLinear(_) => "Linear",
            Op::FusedBinary(op) if op.kind == BinaryKind::Mul => "Mul",
            Op::FusedBinary(_) => "Add",
            op => op.name(),
        };
        let names: Vec<&str> = nodes.iter().map(|&id| name(id)).collect();
        let fusion = names.join(" + ");
        self.fusions.contains(&fusion)
    }
}
