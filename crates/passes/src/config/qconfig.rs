//! How the activations and weights of an operator are quantized.

use std::fmt;
use std::str::FromStr;

use octofold_quant::{Granularity, ObserverKind, QuantSpec, QuantType, Scheme};

/// How the activations and weights of an operator are quantized (torch's `QConfig`).
///
/// The axis of per-channel weights is that of the operator's output channels, whatever the axis of the specification says.
#[derive(Clone, Debug, PartialEq)]
pub struct QConfig {
    /// Operands and results.
    pub activation: QuantSpec,
    /// Weights.
    pub weight: QuantSpec,
}

impl Default for QConfig {
    /// `uint8` affine activations with a histogram observer, `int8` symmetric weights, one scale an output channel.
    fn default() -> Self {
        Self {
            activation: QuantSpec::activation(),
            weight: QuantSpec::weight(0),
        }
    }
}

impl QConfig {
    /// The same with one scale for a whole weight tensor.
    #[must_use]
    pub fn per_tensor_weights(mut self) -> Self {
        self.weight.granularity = Granularity::PerTensor;
        self
    }

    /// The same with another observer of activations.
    #[must_use]
    pub fn with_observer(mut self, observer: ObserverKind) -> Self {
        self.activation.observer = observer;
        self
    }

    /// The same with another type of activations, in its full range.
    #[must_use]
    pub fn with_activation_type(mut self, dtype: QuantType) -> Self {
        set_dtype(&mut self.activation, dtype);
        self
    }

    /// The same with another type of weights, in its full range.
    #[must_use]
    pub fn with_weight_type(mut self, dtype: QuantType) -> Self {
        set_dtype(&mut self.weight, dtype);
        self
    }

    /// The same with activations of 7 bits (0..=127), as torch's `reduce_range` has them.
    #[must_use]
    pub fn with_reduced_activations(mut self) -> Self {
        reduce(&mut self.activation);
        self
    }

    /// The same with weights of 7 bits (-64..=64), as ONNX Runtime's and NNCF's `reduce_range` have them.
    #[must_use]
    pub fn with_reduced_weights(mut self) -> Self {
        reduce(&mut self.weight);
        self
    }
}

/// A type, and its full range under the specification's scheme.
fn set_dtype(spec: &mut QuantSpec, dtype: QuantType) {
    let range = super::edit::full_range(dtype, spec.scheme);
    (spec.dtype, spec.quant_min, spec.quant_max) = (range.dtype, range.min, range.max);
}

fn reduce(spec: &mut QuantSpec) {
    let range = super::edit::reduced(spec);
    (spec.quant_min, spec.quant_max) = (range.min, range.max);
}

impl fmt::Display for QConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (activation, weight) = (Spec(&self.activation), Spec(&self.weight));
        write!(f, "activation {activation}, weight {weight}")
    }
}

/// A specification in the words of the configuration file.
struct Spec<'a>(&'a QuantSpec);

impl fmt::Display for Spec<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let spec = self.0;
        let granularity = match spec.granularity {
            Granularity::PerTensor => "per_tensor",
            Granularity::PerChannel { .. } => "per_channel",
        };
        let scheme = match spec.scheme {
            Scheme::Affine => "affine",
            Scheme::Symmetric => "symmetric",
            Scheme::SymmetricTorch => "symmetric_torch",
        };
        let (dtype, min, max) = (spec.dtype, spec.quant_min, spec.quant_max);
        let observer = spec.observer;
        write!(f, "{dtype} {min}..{max} {granularity}_{scheme} {observer}")
    }
}

/// Settings that carry the name of the project whose behaviour they have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Preset {
    /// The default of this project's FBGEMM-like engine.
    Fbgemm,
    /// The default of this project's QNNPACK-like engine; the same as [`Preset::Fbgemm`].
    Qnnpack,
    /// torch's `fbgemm`: activations 0..=127, weights -128..=127 with torch's scale.
    TorchFbgemm,
    /// torch's `qnnpack`: one scale a weight tensor, with torch's scale.
    TorchQnnpack,
    /// ONNX Runtime's defaults: min-max observers, weights one scale a channel.
    Ort,
    /// NNCF's defaults: the mean of each sample's minimum and maximum.
    Nncf,
    /// Signed, symmetric activations.
    Symmetric,
}

/// The error of parsing a [`Preset`] from a name that no preset has.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{0}` is no preset; the presets are fbgemm, qnnpack, torch_fbgemm, torch_qnnpack, ort, nncf and symmetric"
)]
pub struct UnknownPreset(pub String);

impl FromStr for Preset {
    type Err = UnknownPreset;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        Ok(match name {
            "fbgemm" => Self::Fbgemm,
            "qnnpack" => Self::Qnnpack,
            "torch_fbgemm" => Self::TorchFbgemm,
            "torch_qnnpack" => Self::TorchQnnpack,
            "ort" => Self::Ort,
            "nncf" => Self::Nncf,
            "symmetric" => Self::Symmetric,
            _ => return Err(UnknownPreset(name.to_owned())),
        })
    }
}

impl Preset {
    /// The name, as [`FromStr`] reads it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Fbgemm => "fbgemm",
            Self::Qnnpack => "qnnpack",
            Self::TorchFbgemm => "torch_fbgemm",
            Self::TorchQnnpack => "torch_qnnpack",
            Self::Ort => "ort",
            Self::Nncf => "nncf",
            Self::Symmetric => "symmetric",
        }
    }

    /// The settings that the preset stands for.
    pub fn qconfig(self) -> QConfig {
        let mut config = QConfig::default();
        let torch_weight = |weight: &mut QuantSpec| {
            weight.scheme = Scheme::SymmetricTorch;
            (weight.quant_min, weight.quant_max) = (-128, 127);
        };
        match self {
            Self::Fbgemm | Self::Qnnpack => {}
            Self::TorchFbgemm => {
                config.activation.quant_max = 127;
                torch_weight(&mut config.weight);
            }
            Self::TorchQnnpack => {
                torch_weight(&mut config.weight);
                config = config.per_tensor_weights();
            }
            Self::Ort => config.activation.observer = ObserverKind::MinMax,
            Self::Nncf => config.activation.observer = ObserverKind::MeanMinMax,
            Self::Symmetric => {
                config = config.with_activation_type(QuantType::Int8);
                config.activation.scheme = Scheme::Symmetric;
                (config.activation.quant_min, config.activation.quant_max) = (-127, 127);
            }
        }
        config
    }
}
