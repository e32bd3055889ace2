//! Changes of a specification, key by key: what a configuration says of one, and what it leaves as it is.

use octofold_quant::observer::FixedSettings;
use octofold_quant::{Granularity, ObserverKind, QuantRange, QuantSpec, QuantType, Scheme};

/// A change of a [`QuantSpec`]; `None` keeps a key as it is. The keys are torch's (`dtype`, `qscheme`, `quant_min`, `reduce_range`, …).
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SpecEdit {
    /// The type of the integers; it brings its full range (a symmetric one without the lowest integer).
    pub dtype: Option<QuantType>,
    /// The number of bits in use, from 2 to those of the type.
    pub bits: Option<u32>,
    /// The granularity and scheme. The axis of a per-channel one is that of the output channels.
    pub qscheme: Option<(Granularity, Scheme)>,
    /// How the range is found.
    pub observer: Option<ObserverKind>,
    /// One bit less than the type has: `0..=127` for torch's `uint8` activations, `-64..=64` for ONNX Runtime's `int8` weights.
    pub reduce_range: Option<bool>,
    /// The smallest integer in use.
    pub quant_min: Option<i32>,
    /// The largest integer in use.
    pub quant_max: Option<i32>,
    /// The smallest scale.
    pub eps: Option<f32>,
    /// A given scale, in place of an observer.
    pub scale: Option<f32>,
    /// A given zero point; 0 where only a scale is given.
    pub zero_point: Option<i32>,
}

/// Why a change makes no sense by itself.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum EditError {
    /// A number of bits that the type does not have.
    #[error("{bits} bits of {dtype}: from 2 to {} are possible", .dtype.bits())]
    Bits {
        /// The type.
        dtype: QuantType,
        /// The number asked for.
        bits: u32,
    },
    /// Bits and a reduced range at once.
    #[error("bits and reduce_range exclude each other: both say how many bits are in use")]
    TwoWidths,
    /// A zero point without a scale.
    #[error("a zero_point needs a scale beside it")]
    NoScale,
    /// Given parameters and a range at once.
    #[error(
        "given parameters take the full range of their type: bits, reduce_range, quant_min and quant_max have no effect on them"
    )]
    GivenRange,
    /// A scale and an observer at once.
    #[error("scale and observer exclude each other: a given scale needs no observer")]
    TwoSources,
}

impl SpecEdit {
    /// A change that gives a scale and a zero point.
    pub fn fixed(scale: f32, zero_point: i32) -> Self {
        Self {
            scale: Some(scale),
            zero_point: Some(zero_point),
            ..Self::default()
        }
    }

    /// Changes a specification. Scheme and type are applied first, then the keys that narrow the range, whatever their order in the file.
    ///
    /// # Errors
    /// When the keys contradict each other. What results may still make no sense: [`QuantSpec::check`].
    pub fn apply(&self, spec: &mut QuantSpec) -> Result<(), EditError> {
        if let Some((granularity, scheme)) = self.qscheme {
            (spec.granularity, spec.scheme) = (granularity, scheme);
        }
        if let Some(dtype) = self.dtype {
            set_range(spec, full_range(dtype, spec.scheme));
        }
        if let Some(bits) = self.bits {
            let dtype = spec.dtype;
            if !(2..=dtype.bits()).contains(&bits) {
                return Err(EditError::Bits { dtype, bits });
            }
            set_range(spec, range_of_bits(dtype, bits, spec.scheme));
        }
        match self.reduce_range {
            Some(_) if self.bits.is_some() => return Err(EditError::TwoWidths),
            Some(true) => set_range(spec, reduced(spec)),
            Some(false) => set_range(spec, full_range(spec.dtype, spec.scheme)),
            None => {}
        }
        if let Some(observer) = self.observer {
            spec.observer = observer;
        }
        match (self.scale, self.zero_point) {
            (Some(_), _) if self.observer.is_some() => return Err(EditError::TwoSources),
            (Some(scale), zero_point) => {
                spec.observer = ObserverKind::Fixed(FixedSettings {
                    scale,
                    zero_point: zero_point.unwrap_or(0),
                });
            }
            (None, Some(_)) => return Err(EditError::NoScale),
            (None, None) => {}
        }
        let narrows = self.bits.is_some()
            || self.reduce_range == Some(true)
            || self.quant_min.is_some()
            || self.quant_max.is_some();
        if narrows && matches!(spec.observer, ObserverKind::Fixed(_)) {
            return Err(EditError::GivenRange);
        }
        spec.quant_min = self.quant_min.unwrap_or(spec.quant_min);
        spec.quant_max = self.quant_max.unwrap_or(spec.quant_max);
        spec.eps = self.eps.unwrap_or(spec.eps);
        Ok(())
    }
}

/// The integers of a type under a scheme.
pub(crate) fn full_range(dtype: QuantType, scheme: Scheme) -> QuantRange {
    if scheme == Scheme::Symmetric {
        QuantRange::symmetric(dtype)
    } else {
        QuantRange::full(dtype)
    }
}

fn set_range(spec: &mut QuantSpec, range: QuantRange) {
    (spec.dtype, spec.quant_min, spec.quant_max) = (range.dtype, range.min, range.max);
}

/// The integers of a number of bits within a type.
fn range_of_bits(dtype: QuantType, bits: u32, scheme: Scheme) -> QuantRange {
    let (min, max) = if dtype.is_signed() {
        let half = 1_i64 << (bits - 1);
        (
            if scheme == Scheme::Symmetric {
                1 - half
            } else {
                -half
            },
            half - 1,
        )
    } else {
        (0, (1_i64 << bits) - 1)
    };
    QuantRange {
        dtype,
        // At most 32 bits of a signed type, which i32 holds.
        min: min as i32,
        max: max as i32,
    }
}

/// A type's range with one bit less: torch halves the bounds of activations, ONNX Runtime and NNCF give symmetric weights `-64..=64`.
pub(crate) fn reduced(spec: &QuantSpec) -> QuantRange {
    let (min, max) = if spec.scheme == Scheme::Symmetric && spec.dtype.is_signed() {
        let half = 1 << (spec.dtype.bits() - 2);
        (-half, half)
    } else {
        (spec.dtype.min() / 2, spec.dtype.max() / 2)
    };
    QuantRange {
        dtype: spec.dtype,
        min,
        max,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(edit: SpecEdit, mut spec: QuantSpec) -> (i32, i32) {
        edit.apply(&mut spec).unwrap();
        spec.check().unwrap();
        (spec.quant_min, spec.quant_max)
    }

    #[test]
    fn ranges_lose_bits_as_torch_and_onnx_runtime_have_it() {
        let reduce = || SpecEdit {
            reduce_range: Some(true),
            ..SpecEdit::default()
        };
        assert_eq!(range(reduce(), QuantSpec::activation()), (0, 127));
        assert_eq!(range(reduce(), QuantSpec::weight(0)), (-64, 64));
        let signed = SpecEdit {
            dtype: Some(QuantType::Int8),
            ..reduce()
        };
        assert_eq!(range(signed, QuantSpec::activation()), (-64, 63));
        let mut twice = QuantSpec::activation();
        reduce().apply(&mut twice).unwrap();
        assert_eq!(range(reduce(), twice), (0, 127));
        let full = SpecEdit {
            reduce_range: Some(false),
            ..SpecEdit::default()
        };
        assert_eq!(range(full, twice), (0, 255));
        let bits = |bits| SpecEdit {
            bits: Some(bits),
            ..SpecEdit::default()
        };
        assert_eq!(range(bits(7), QuantSpec::activation()), (0, 127));
        assert_eq!(range(bits(4), QuantSpec::weight(0)), (-7, 7));
        let mut spec = QuantSpec::activation();
        assert!(bits(9).apply(&mut spec).is_err());
        let both = SpecEdit {
            bits: Some(7),
            ..reduce()
        };
        assert_eq!(both.apply(&mut spec), Err(EditError::TwoWidths));
    }

    #[test]
    fn a_given_scale_replaces_the_observer() {
        let mut spec = QuantSpec::activation();
        SpecEdit::fixed(0.5, 3).apply(&mut spec).unwrap();
        assert_eq!(spec.observer.to_string(), "fixed=0.5:3");
        let contradiction = SpecEdit {
            observer: Some(ObserverKind::MinMax),
            ..SpecEdit::fixed(0.5, 3)
        };
        assert_eq!(contradiction.apply(&mut spec), Err(EditError::TwoSources));
        let half = SpecEdit {
            zero_point: Some(3),
            ..SpecEdit::default()
        };
        assert_eq!(half.apply(&mut spec), Err(EditError::NoScale));
    }
}
