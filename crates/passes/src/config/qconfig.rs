//! How the activations and weights of an operator are quantized.

use std::str::FromStr;

use octofold_quant::{Granularity, ObserverKind, QuantRange, QuantSpec, QuantType, Scheme};

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
        let range = QuantRange::full(dtype);
        (
            self.activation.dtype,
            self.activation.quant_min,
            self.activation.quant_max,
        ) = (dtype, range.min, range.max);
        self
    }

    /// The same with weights of 7 bits (-64..=64), as ONNX Runtime's and NNCF's `reduce_range` have them.
    #[must_use]
    pub fn with_reduced_weights(mut self) -> Self {
        (self.weight.quant_min, self.weight.quant_max) = (-64, 64);
        self
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
