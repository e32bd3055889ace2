//! What happens to an accumulator before it is stored: the output stages, as data.
//!
//! - [`OutputStage::Quantized`]: `q = clamp(rne(f32(acc + bias)·multiplier)) + zero_point`, and with a
//!   [`Residual`] the quantized sum of `q` and another tensor, exactly as if the sum were an operator of its
//!   own (`quant::requantize::add`).
//! - [`OutputStage::Float`]: `f32(acc + correction)·scale + bias`, multiplied, then added.
//!
//! All constants are per output channel. The zero point of the input never appears in the sums: the weights
//! are symmetric, so it contributes `-zero_point·Σw` to a channel, which [`fold_bias`] puts into the bias
//! once.

use octofold_quant::{QParams, requantize};

use super::shape::product;
use crate::error::check_len;
use crate::shared::{Quant8, Target8};
use crate::{Bounds, KernelError};

/// What happens to the accumulators of a convolution or matrix product.
#[derive(Clone, Copy, Debug)]
pub enum OutputStage<'a> {
    /// To 8-bit integers.
    Quantized(Quantized<'a>),
    /// To floats, with one scale a channel.
    Float(Float<'a>),
}

/// Requantization: `clamp(rne(f32(acc + bias[c])·multiplier[c]), lo - zp, hi - zp) + zp`.
///
/// The output bytes are those of a `u8` where `lo..=hi` is in 0..=255, and those of an `i8` where it
/// is in -128..=127. A fused ReLU or Clip narrows the bounds.
#[derive(Clone, Copy, Debug)]
pub struct Quantized<'a> {
    /// One a channel, as [`fold_bias`] gives them.
    pub bias: &'a [i32],
    /// One a channel: `requantize::multiplier(input, weight, output)`, finite and positive.
    pub multiplier: &'a [f32],
    /// Zero point of the output (of the convolution itself, where a residual follows).
    pub zero_point: i32,
    /// Smallest quantized value.
    pub lo: i32,
    /// Largest quantized value.
    pub hi: i32,
    /// A quantized tensor to add.
    pub residual: Option<Residual<'a>>,
}

/// A quantized tensor that is added to the requantized output, with a second requantization.
///
/// `rne(f32(q - z_q)·output_ratio + f32(r - z_r)·residual_ratio) + zero_point`, clamped.
#[derive(Clone, Copy, Debug)]
pub struct Residual<'a> {
    /// All elements of the whole output, not only those of the range being computed.
    pub data: &'a [u8],
    /// Whether the bytes are `i8`.
    pub signed: bool,
    /// Zero point of the residual.
    pub residual_zero_point: i32,
    /// Scale of the residual over that of the sum.
    pub residual_ratio: f32,
    /// Scale of the convolution's own output over that of the sum.
    pub output_ratio: f32,
    /// Zero point of the sum.
    pub zero_point: i32,
    /// Smallest quantized value of the sum.
    pub lo: i32,
    /// Largest quantized value of the sum.
    pub hi: i32,
}

impl<'a> Residual<'a> {
    /// The residual `data`, whose bytes mean `from`, added to an output with parameters `output`, giving `to`.
    pub fn new(data: &'a [u8], from: Quant8, output: QParams, to: Target8) -> Self {
        let sum = to.quant.params;
        Self {
            data,
            signed: from.signed,
            residual_zero_point: from.params.zero_point,
            residual_ratio: from.params.scale / sum.scale,
            output_ratio: output.scale / sum.scale,
            zero_point: sum.zero_point,
            lo: to.lo,
            hi: to.hi,
        }
    }
}

/// Float output: `f32(acc + correction[c])·scale[c] + bias[c]`, then the clamp.
#[derive(Clone, Copy, Debug)]
pub struct Float<'a> {
    /// One a channel: `-zero_point·Σw`, as [`fold_bias`] gives it for a bias of zeros.
    pub correction: &'a [i32],
    /// One a channel: `f32(input scale · weight scale)`.
    pub scale: &'a [f32],
    /// One a channel.
    pub bias: &'a [f32],
    /// Bounds of a fused activation.
    pub clamp: Option<Bounds>,
}

/// Rows that are parts of wider rows, as an operand of a concatenation is a part of its result.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RowStride {
    /// Elements from the start of one wider row to the start of the next.
    pub pitch: usize,
    /// Where the part begins in its wider row, in elements.
    pub offset: usize,
}

/// The part of the output that a call writes: its rows, one behind the other.
#[derive(Debug)]
pub enum OutputSlice<'a> {
    /// Quantized values: `u8`, or `i8` as their bytes.
    Bytes(&'a mut [u8]),
    /// Floats.
    Floats(&'a mut [f32]),
    /// Quantized values that are parts of wider rows. The slice has all bytes of the wider rows; the others are left as they are.
    Strided(&'a mut [u8], RowStride),
}

impl OutputSlice<'_> {
    /// How rows of `columns` elements follow each other.
    pub(crate) fn row_stride(&self, columns: usize) -> RowStride {
        match *self {
            Self::Bytes(_) | Self::Floats(_) => RowStride {
                pitch: columns,
                offset: 0,
            },
            Self::Strided(_, stride) => stride,
        }
    }

    /// The rows of `columns` elements, by pointer.
    pub(crate) fn rows(self, columns: usize) -> OutputRows {
        let RowStride { pitch, offset } = self.row_stride(columns);
        let (start, element) = match self {
            Self::Bytes(data) | Self::Strided(data, _) => (data.as_mut_ptr(), 1),
            Self::Floats(data) => (data.as_mut_ptr().cast(), size_of::<f32>()),
        };
        OutputRows {
            start: start.wrapping_add(offset * element),
            pitch,
            element,
        }
    }

    /// Checks that there are exactly `rows` rows of `columns` elements.
    pub(crate) fn check(&self, rows: usize, columns: usize) -> Result<(), KernelError> {
        let RowStride { pitch, offset } = self.row_stride(columns);
        let range = offset..offset.saturating_add(columns);
        if range.end > pitch {
            let (what, len) = ("columns", pitch);
            return Err(KernelError::Range { what, range, len });
        }
        let len = match self {
            Self::Bytes(data) | Self::Strided(data, _) => data.len(),
            Self::Floats(data) => data.len(),
        };
        check_len("the output", product("the output", &[rows, pitch])?, len)
    }
}

/// The rows of an output, by pointer: the blocks of one call overlap.
#[derive(Clone, Copy)]
pub(crate) struct OutputRows {
    /// The first element that is written.
    pub(crate) start: *mut u8,
    /// Elements from one row to the next.
    pub(crate) pitch: usize,
    /// Bytes of an element.
    pub(crate) element: usize,
}

impl OutputRows {
    /// The element `column` of row `row`.
    ///
    /// # Safety
    /// The output has this element.
    #[inline(always)]
    pub(crate) unsafe fn at(&self, row: usize, column: usize) -> *mut u8 {
        // SAFETY: passed on from the caller.
        unsafe { (self.start).add((row * self.pitch + column) * self.element) }
    }

    /// What follows the first `rows` rows.
    ///
    /// # Safety
    /// The output has these rows.
    pub(crate) unsafe fn skip(self, rows: usize) -> Self {
        // SAFETY: passed on from the caller.
        let start = unsafe { self.at(rows, 0) };
        Self { start, ..self }
    }
}

/// The quantized activations that a kernel reads.
#[derive(Clone, Copy, Debug)]
pub struct Activations<'a> {
    /// The elements, channels-last: `u8`, or `i8` as their bytes.
    pub data: &'a [u8],
    /// Whether the bytes are `i8`. Kernels flip the sign bit while loading and work on `u8`.
    pub signed: bool,
    /// The zero point, in the range of the type: what taps outside of the image read.
    pub zero_point: i32,
}

impl Activations<'_> {
    /// Checks that the zero point fits the type.
    pub(crate) fn check(&self) -> Result<(), KernelError> {
        let (min, max) = if self.signed { (-128, 127) } else { (0, 255) };
        check_value("the zero point of the input", self.zero_point, min, max)
    }

    /// The byte of the zero point, which was checked.
    pub(crate) fn zero_byte(&self) -> u8 {
        self.zero_point as u8
    }
}

impl OutputStage<'_> {
    /// Bytes of an element of the output.
    #[inline(always)]
    pub(crate) const fn element(&self) -> usize {
        match self {
            Self::Quantized(_) => 1,
            Self::Float(_) => 4,
        }
    }

    /// Checks all lengths and constants, and that the output has the stage's type. After this, kernels may index by channel below
    /// `channels`, by row below `rows`, and by element below `rows · channels`.
    pub(crate) fn check(
        &self,
        rows: usize,
        channels: usize,
        output: &OutputSlice<'_>,
    ) -> Result<(), KernelError> {
        match (self, output) {
            (Self::Quantized(stage), OutputSlice::Bytes(_) | OutputSlice::Strided(..)) => {
                check_len("the bias", channels, stage.bias.len())?;
                check_len("the multiplier", channels, stage.multiplier.len())?;
                check_bounds(stage.zero_point, stage.lo, stage.hi)?;
                let Some(residual) = stage.residual else {
                    return Ok(());
                };
                check_len("the residual", rows * channels, residual.data.len())?;
                check_bounds(residual.zero_point, residual.lo, residual.hi)?;
                check_value(
                    "the residual's zero point",
                    residual.residual_zero_point,
                    -128,
                    255,
                )
            }
            (Self::Float(stage), OutputSlice::Floats(_)) => {
                check_len("the correction", channels, stage.correction.len())?;
                check_len("the scale", channels, stage.scale.len())?;
                check_len("the bias", channels, stage.bias.len())
            }
            _ => Err(KernelError::Shape(
                "the output stage gives another element type",
            )),
        }
    }
}

fn check_bounds(zero_point: i32, lo: i32, hi: i32) -> Result<(), KernelError> {
    check_value("the zero point", zero_point, -128, 255)?;
    check_value("the lower bound", lo, -128, 255)?;
    check_value("the upper bound", hi, lo, 255)
}

fn check_value(what: &'static str, value: i32, min: i32, max: i32) -> Result<(), KernelError> {
    if (min..=max).contains(&value) {
        return Ok(());
    }
    let (value, min, max) = (value.into(), min.into(), max.into());
    Err(KernelError::Value {
        what,
        value,
        min,
        max,
    })
}

/// Adds what the zero point of the input contributes to the bias: `bias[c] - zero_point·Σw[c]`.
///
/// `weights` has one row of equal length for each channel of `bias` (OIHW), `zero_point` is that of the
/// activations as they are stored. For `signed` activations the kernels compute on `x + 128`, and the zero
/// point moves along.
///
/// # Errors
/// When `weights` does not split into rows, when the zero point leaves its type, or when the accumulator of a
/// channel could leave 32 bits for some input: `255·Σ|w| + |bias| < 2^31` is asked for each channel.
pub fn fold_bias(
    bias: &[i32],
    weights: &[i8],
    zero_point: i32,
    signed: bool,
) -> Result<Vec<i32>, KernelError> {
    let input = Activations {
        data: &[],
        signed,
        zero_point,
    };
    input.check()?;
    let shift = if signed { 128 } else { 0 };
    let zero_point = i64::from(zero_point + shift);
    if bias.is_empty() || weights.is_empty() || !weights.len().is_multiple_of(bias.len()) {
        return Err(KernelError::Shape(
            "the weights do not split into one row a channel",
        ));
    }
    let rows = weights.chunks_exact(weights.len() / bias.len());
    let folded = bias
        .iter()
        .zip(rows)
        .enumerate()
        .map(|(channel, (&bias, row))| {
            let magnitude: i64 = row.iter().map(|&w| i64::from(w).abs()).sum();
            let bound = 255 * magnitude + i64::from(bias).abs();
            if bound >= 1 << 31 {
                return Err(KernelError::AccumulatorOverflow { channel, bound });
            }
            let sum: i64 = row.iter().map(|&w| i64::from(w)).sum();
            // |zero_point·Σw| + |bias| is below the bound just checked.
            Ok((i64::from(bias) - zero_point * sum) as i32)
        });
    folded.collect()
}

impl Quantized<'_> {
    /// The final value of one accumulator: the definition, element by element.
    pub(crate) fn value(&self, acc: i32, channel: usize, index: usize) -> u8 {
        let sum = acc.wrapping_add(self.bias[channel]);
        let multiplier = self.multiplier[channel];
        let q = requantize::requantize(sum, multiplier, self.zero_point, self.lo, self.hi);
        let Some(residual) = &self.residual else {
            return q as u8;
        };
        let byte = residual.data[index];
        let r = if residual.signed {
            i32::from(byte as i8)
        } else {
            i32::from(byte)
        };
        let left = (q - self.zero_point) as f32 * residual.output_ratio;
        let right = (r - residual.residual_zero_point) as f32 * residual.residual_ratio;
        let (zero_point, lo, hi) = (residual.zero_point, residual.lo, residual.hi);
        requantize::to_steps(left + right, zero_point, lo, hi) as u8
    }
}

/// The float of one accumulator; always inlined, so that each instruction set compiles it for its own
/// vectors.
#[inline(always)]
pub(crate) fn float_value(acc: i32, scale: f32, bias: f32, clamp: Option<Bounds>) -> f32 {
    let value = acc as f32 * scale + bias;
    clamp.map_or(value, |bounds| bounds.clamp(value))
}

impl Float<'_> {
    /// Stores the floats of the accumulators of channels `channel..channel + acc.len()` of a row. Always inlined, for the reason of [`float_value`].
    #[inline(always)]
    pub(crate) fn store(&self, acc: &[i32], channel: usize, output: &mut [f32]) {
        let channels = channel..channel + acc.len();
        let constants = self.correction[channels.clone()].iter();
        let constants = constants.zip(&self.scale[channels.clone()]);
        let constants = constants.zip(&self.bias[channels]);
        for ((y, &acc), ((&c, &scale), &bias)) in output.iter_mut().zip(acc).zip(constants) {
            *y = float_value(acc.wrapping_add(c), scale, bias, self.clamp);
        }
    }
}
