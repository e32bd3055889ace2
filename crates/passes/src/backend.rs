//! What an engine's kernels can do, as data.
//!
//! A [`BackendConfig`] lists, for each class of operators, the types and granularities that have an integer kernel, and how the
//! result is observed. Annotation asks nothing else, so a wish that the engine cannot honour is known, and reported,
//! before anything is calibrated. A test of the facade proves the table equal to the table of kernels.

use std::fmt;

use octofold_ir::{Graph, NodeId, Op};
use octofold_ops::families::{BinaryKind, PadMode};
use octofold_quant::{Granularity, QuantSpec, QuantType, Scheme};
use octofold_tensor::DType;

/// A class of operators that kernels treat alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
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
    /// Elements change places, not values.
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
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Observation {
    /// The result has an observer of its own.
    Own,
    /// The result has the parameters of the first operand.
    SharedWithInput,
}

/// What the kernels of one class can do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Capability {
    /// The class.
    pub class: OpClass,
    /// The types of activations.
    pub activations: Vec<QuantType>,
    /// The types of weights; empty where there are none.
    pub weights: Vec<QuantType>,
    /// Whether weights may have one scale a channel.
    pub per_channel_weights: bool,
    /// How the result is observed.
    pub observation: Observation,
}

/// What an engine can do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackendConfig {
    /// The engine's name.
    pub name: String,
    /// One entry a class.
    pub capabilities: Vec<Capability>,
}

impl BackendConfig {
    /// The FBGEMM-like engine for x86: u8 or s8 activations, s8 weights with one scale a tensor or a channel.
    pub fn fbgemm() -> Self {
        let bytes = || vec![QuantType::Uint8, QuantType::Int8];
        let entry = |class: OpClass, observation| Capability {
            class,
            activations: bytes(),
            weights: if class.has_weights() {
                vec![QuantType::Int8]
            } else {
                vec![]
            },
            per_channel_weights: class.has_weights(),
            observation,
        };
        Self {
            name: "fbgemm".to_owned(),
            capabilities: vec![
                entry(OpClass::Conv, Observation::Own),
                entry(OpClass::Linear, Observation::Own),
                entry(OpClass::Add, Observation::Own),
                entry(OpClass::Mul, Observation::Own),
                entry(OpClass::Concat, Observation::Own),
                entry(OpClass::MaxPool, Observation::SharedWithInput),
                entry(OpClass::AveragePool, Observation::Own),
                entry(OpClass::Pointwise, Observation::Own),
                entry(OpClass::Movement, Observation::SharedWithInput),
            ],
        }
    }

    /// What the kernels of a class can do.
    pub fn capability(&self, class: OpClass) -> Option<&Capability> {
        self.capabilities
            .iter()
            .find(|capability| capability.class == class)
    }

    /// Why an activation of this specification has no kernel in a class; `None` when it has.
    pub fn refuses_activation(&self, class: OpClass, spec: &QuantSpec) -> Option<String> {
        let Some(capability) = self.capability(class) else {
            return Some(format!("{} has no {class} kernels", self.name));
        };
        if !capability.activations.contains(&spec.dtype) {
            return Some(format!(
                "{} has no {class} kernel for {} activations",
                self.name, spec.dtype
            ));
        }
        if spec.granularity != Granularity::PerTensor {
            return Some("activations have one scale a tensor".to_owned());
        }
        None
    }

    /// Why weights of this specification have no kernel in a class; `None` when they have.
    pub fn refuses_weight(&self, class: OpClass, spec: &QuantSpec) -> Option<String> {
        let Some(capability) = self.capability(class) else {
            return Some(format!("{} has no {class} kernels", self.name));
        };
        if !capability.weights.contains(&spec.dtype) {
            return Some(format!(
                "{} has no {class} kernel for {} weights",
                self.name, spec.dtype
            ));
        }
        if spec.scheme == Scheme::Affine {
            return Some(format!(
                "{} has no {class} kernel for weights with a zero point",
                self.name
            ));
        }
        if spec.granularity != Granularity::PerTensor && !capability.per_channel_weights {
            return Some(format!(
                "{} has no {class} kernel for weights with one scale a channel",
                self.name
            ));
        }
        None
    }
}

/// The class of a node of a fused float graph.
///
/// # Errors
/// Why no integer kernel suits the node.
pub fn classify(graph: &Graph, id: NodeId) -> Result<OpClass, String> {
    let node = graph.node(id);
    let name = node.op().name();
    let result = node.outputs().first().map(|&value| graph.value(value).ty());
    if result.is_none_or(|ty| ty.dtype != DType::F32) {
        return Err(format!("{name} does not compute f32"));
    }
    let constant = |slot: usize| {
        node.input(slot)
            .is_some_and(|value| graph.value(value).constant().is_some())
    };
    let rank = |slot: usize| {
        node.input(slot)
            .and_then(|value| graph.value(value).ty().rank())
    };
    let weighted = |class, what: &str| {
        if constant(1) && (node.input(2).is_none() || constant(2)) {
            Ok(class)
        } else {
            Err(format!("the {what} is not constant"))
        }
    };
    match node.op() {
        Op::Conv(_) | Op::FusedConv(_) if rank(0) != Some(4) => {
            Err("only two-dimensional convolutions have an integer kernel".to_owned())
        }
        Op::Conv(_) | Op::FusedConv(_) => {
            weighted(OpClass::Conv, "weight or bias of the convolution")
        }
        Op::FusedLinear(_) => weighted(OpClass::Linear, "weight or bias of the linear layer"),
        Op::Add(_) | Op::Mul(_) | Op::FusedBinary(_) => binary(graph, id),
        Op::Concat(_) => Ok(OpClass::Concat),
        Op::MaxPool(_) if node.outputs().len() > 1 => {
            Err("the indices of a max pool have no integer kernel".to_owned())
        }
        Op::MaxPool(_) | Op::AveragePool(_) if rank(0) != Some(4) => {
            Err("only two-dimensional pools have an integer kernel".to_owned())
        }
        Op::MaxPool(_) | Op::GlobalMaxPool(_) => Ok(OpClass::MaxPool),
        Op::AveragePool(_) | Op::GlobalAveragePool(_) => Ok(OpClass::AveragePool),
        Op::Relu(_)
        | Op::LeakyRelu(_)
        | Op::Clip(_)
        | Op::Sigmoid(_)
        | Op::HardSigmoid(_)
        | Op::HardSwish(_)
        | Op::Tanh(_)
        | Op::Erf(_)
        | Op::Gelu(_)
        | Op::Elu(_)
        | Op::Selu(_)
        | Op::Celu(_)
        | Op::Softplus(_)
        | Op::Softsign(_)
        | Op::Mish(_)
        | Op::Swish(_)
        | Op::ThresholdedRelu(_)
        | Op::Exp(_)
        | Op::Abs(_)
        | Op::Neg(_) => {
            if (1..node.inputs().len()).all(|slot| node.input(slot).is_none() || constant(slot)) {
                Ok(OpClass::Pointwise)
            } else {
                Err(format!("the bounds of {name} are not constant"))
            }
        }
        Op::Pad(pad)
            if pad.mode != PadMode::Constant
                || node
                    .input(2)
                    .is_some_and(|value| crate::support::scalar(graph, value) != Some(0.0)) =>
        {
            Err("only a pad of zeros keeps its parameters".to_owned())
        }
        Op::Reshape(_)
        | Op::Flatten(_)
        | Op::Squeeze(_)
        | Op::Unsqueeze(_)
        | Op::Transpose(_)
        | Op::Identity(_)
        | Op::Slice(_)
        | Op::Split(_)
        | Op::Expand(_)
        | Op::Tile(_)
        | Op::DepthToSpace(_)
        | Op::SpaceToDepth(_)
        | Op::Gather(_)
        | Op::Pad(_) => {
            if constant(0) {
                Err("the operand is constant".to_owned())
            } else {
                Ok(OpClass::Movement)
            }
        }
        Op::MatMul(_) => {
            Err("the product of two computed matrices has no integer kernel".to_owned())
        }
        _ => Err(format!("{name} has no integer kernel")),
    }
}

/// A sum or product of two values; with a single constant number it is a function of one value.
fn binary(graph: &Graph, id: NodeId) -> Result<OpClass, String> {
    let node = graph.node(id);
    let constants = node
        .inputs()
        .iter()
        .flatten()
        .filter(|&&value| graph.value(value).constant().is_some());
    match constants.count() {
        0 => {}
        1 => {
            let single = node
                .inputs()
                .iter()
                .flatten()
                .any(|&value| crate::support::scalar(graph, value).is_some());
            if single {
                return Ok(OpClass::Pointwise);
            }
        }
        _ => return Err("both operands are constant".to_owned()),
    }
    match node.op() {
        Op::Mul(_) => Ok(OpClass::Mul),
        Op::FusedBinary(op) if op.kind == BinaryKind::Mul => Ok(OpClass::Mul),
        _ => Ok(OpClass::Add),
    }
}
