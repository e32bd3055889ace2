//! Quantization parameters: the scale and zero point that map integers to reals.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::QuantType;

/// The scale and zero point of one quantized range: `real = (quantized - zero_point) * scale`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct QParams {
    /// The real distance between neighbouring integers: finite, normal and positive.
    pub scale: f32,
    /// The integer that stands for the real zero, within the range of the quantized type.
    pub zero_point: i32,
}

/// Why quantization parameters were refused.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum QParamsError {
    /// A scale that is zero, negative, denormal, infinite or not a number.
    #[error("scale {scale}{} is not a positive normal number", at_channel(*channel))]
    Scale {
        /// The refused scale.
        scale: f32,
        /// The channel that has it, when there is one scale a channel.
        channel: Option<usize>,
    },
    /// A zero point outside of the range of its type.
    #[error("zero point {zero_point}{} does not fit {dtype}", at_channel(*channel))]
    ZeroPoint {
        /// The refused zero point.
        zero_point: i32,
        /// The type whose range it leaves.
        dtype: QuantType,
        /// The channel that has it, when there is one zero point a channel.
        channel: Option<usize>,
    },
    /// A range whose ends, or their distance, are not finite.
    #[error("values in {min}..={max} cannot be quantized")]
    Width {
        /// The lower end.
        min: f32,
        /// The upper end.
        max: f32,
    },
    /// Per-channel parameters without a channel, or with unequal numbers of scales and zero points.
    #[error("{scales} scales and {zero_points} zero points for one axis")]
    Lengths {
        /// The number of scales.
        scales: usize,
        /// The number of zero points.
        zero_points: usize,
    },
}

fn at_channel(channel: Option<usize>) -> String {
    channel.map_or_else(String::new, |channel| format!(" of channel {channel}"))
}

impl QParams {
    /// The parameters of the identity: scale 1, zero point 0.
    pub const IDENTITY: Self = Self {
        scale: 1.0,
        zero_point: 0,
    };

    /// Checks a scale and zero point for values of type `dtype`.
    ///
    /// # Errors
    /// When the scale is not a positive normal number, or the zero point does not fit the type.
    pub fn new(scale: f32, zero_point: i32, dtype: QuantType) -> Result<Self, QParamsError> {
        check(scale, zero_point, dtype, None)?;
        Ok(Self { scale, zero_point })
    }
}

fn check(
    scale: f32,
    zero_point: i32,
    dtype: QuantType,
    channel: Option<usize>,
) -> Result<(), QParamsError> {
    if !(scale.is_normal() && scale > 0.0) {
        return Err(QParamsError::Scale { scale, channel });
    }
    if zero_point < dtype.min() || zero_point > dtype.max() {
        return Err(QParamsError::ZeroPoint {
            zero_point,
            dtype,
            channel,
        });
    }
    Ok(())
}

impl fmt::Display for QParams {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{{scale: {:?}, zero_point: {}}}",
            self.scale, self.zero_point
        )
    }
}

/// The quantization parameters of a whole tensor: one pair, or one pair a channel.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum QuantParams {
    /// One scale and zero point for all elements.
    PerTensor(QParams),
    /// One scale and zero point for each index along an axis.
    PerChannel {
        /// The axis of the tensor, counted from 0.
        axis: usize,
        /// One pair for each index of the axis.
        channels: Vec<QParams>,
    },
}

impl QuantParams {
    /// Checks per-channel parameters for values of type `dtype`.
    ///
    /// # Errors
    /// When there is no channel, when the lengths differ, or when [`QParams::new`] refuses a pair.
    pub fn per_channel(
        axis: usize,
        scales: &[f32],
        zero_points: &[i32],
        dtype: QuantType,
    ) -> Result<Self, QParamsError> {
        if scales.is_empty() || scales.len() != zero_points.len() {
            return Err(QParamsError::Lengths {
                scales: scales.len(),
                zero_points: zero_points.len(),
            });
        }
        let pairs = scales.iter().zip(zero_points).enumerate();
        let channels = pairs.map(|(channel, (&scale, &zero_point))| {
            check(scale, zero_point, dtype, Some(channel))?;
            Ok(QParams { scale, zero_point })
        });
        Ok(Self::PerChannel {
            axis,
            channels: channels.collect::<Result<_, _>>()?,
        })
    }

    /// The single pair, when all elements share one.
    pub fn per_tensor(&self) -> Option<QParams> {
        match self {
            Self::PerTensor(params) => Some(*params),
            Self::PerChannel { .. } => None,
        }
    }

    /// The pair that applies to index `channel` of the quantized axis.
    pub fn channel(&self, channel: usize) -> Option<QParams> {
        match self {
            Self::PerTensor(params) => Some(*params),
            Self::PerChannel { channels, .. } => channels.get(channel).copied(),
        }
    }
}

impl fmt::Display for QuantParams {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::PerTensor(params) => params.fmt(f),
            Self::PerChannel { axis, channels } => {
                write!(f, "{{axis: {axis}, scale: [")?;
                for (i, channel) in channels.iter().enumerate() {
                    write!(f, "{}{:?}", if i == 0 { "" } else { ", " }, channel.scale)?;
                }
                f.write_str("], zero_point: [")?;
                for (i, channel) in channels.iter().enumerate() {
                    write!(
                        f,
                        "{}{}",
                        if i == 0 { "" } else { ", " },
                        channel.zero_point
                    )?;
                }
                f.write_str("]}")
            }
        }
    }
}
