//! The quantized operators that both engines share: everything but convolutions and matrix products.
//!
//! A quantized tensor is a slice of bytes with a [`Quant8`], which says what a byte means: the scale and
//! zero point, and whether the byte is an unsigned or a two's complement number. A result is described by a
//! [`Target8`]: the same, with the bounds of a fused ReLU or Clip. So every combination of u8 and s8
//! operands is one kernel.
//!
//! The definitions are the scalar functions of `octofold_quant`; every instruction set gives their bytes.
//! Each kernel is one loop in plain Rust that is compiled once for each instruction set (see `dispatch`),
//! with intrinsics only where the compiler does not find the instruction.
//!
//! # Splitting work
//! Kernels have no threads. Elementwise kernels take slices, which the caller may cut anywhere; the others
//! take the whole input and a range of outputs (rows, pixels, planes), and a slice that holds
//! exactly the outputs of this range. The bytes do not depend on the split.

pub mod binary;
pub mod choose;
pub mod compare;
pub mod concat;
pub(crate) mod dispatch;
pub mod expand;
pub mod half;
pub mod layout;
pub mod movement;
pub mod pick;
pub mod pool;
pub mod quantize;
mod rescale;
pub mod table_lookup;
#[cfg(test)]
pub(crate) mod testing;
mod window;

use std::ops::Range;

use octofold_quant::{QParams, QuantType};

use crate::KernelError;
use crate::error::check_len;

pub use window::PoolShape;

/// What the bytes of a quantized tensor mean: `real = (q - zero_point) · scale`, one pair for all elements.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Quant8 {
    /// Scale and zero point; the zero point is in the range of the type.
    pub params: QParams,
    /// Whether a byte is s8 (-128..=127) instead of u8 (0..=255).
    pub signed: bool,
}

impl Quant8 {
    /// Unsigned bytes, 0..=255.
    pub const fn unsigned(params: QParams) -> Self {
        Self {
            params,
            signed: false,
        }
    }

    /// Two's complement bytes, -128..=127.
    pub const fn signed(params: QParams) -> Self {
        Self {
            params,
            signed: true,
        }
    }

    /// The type of an element.
    pub const fn dtype(self) -> QuantType {
        if self.signed {
            QuantType::Int8
        } else {
            QuantType::Uint8
        }
    }

    /// Checks that the scale is positive and finite and that the zero point fits the type.
    ///
    /// # Errors
    /// [`KernelError::Value`] for a zero point out of range, [`KernelError::Shape`] for a scale that is no scale.
    pub fn check(self) -> Result<(), KernelError> {
        if !(self.params.scale.is_finite() && self.params.scale > 0.0) {
            return Err(KernelError::Shape("a scale is not positive and finite"));
        }
        check_value("a zero point", self.params.zero_point, self.dtype())
    }

    /// The value of one byte.
    #[cfg(test)]
    pub(crate) const fn value(self, byte: u8) -> i32 {
        if self.signed {
            byte.cast_signed() as i32
        } else {
            byte as i32
        }
    }

    /// The constants with which a kernel reads bytes of this meaning.
    pub(crate) fn reader(self) -> Reader {
        let shift = if self.signed { 128 } else { 0 };
        Reader {
            flip: shift as u8,
            zero: (self.params.zero_point + shift) as f32,
        }
    }
}

/// The meaning of the bytes that a kernel writes, and the bounds that it clamps them to.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Target8 {
    /// Scale, zero point and type.
    pub quant: Quant8,
    /// The smallest value written; a fused ReLU makes it the zero point.
    pub lo: i32,
    /// The largest value written.
    pub hi: i32,
}

impl Target8 {
    /// A result that uses the full range of its type.
    pub const fn full(quant: Quant8) -> Self {
        let dtype = quant.dtype();
        Self {
            quant,
            lo: dtype.min(),
            hi: dtype.max(),
        }
    }

    /// Checks the parameters, that the bounds are in the range of the type, and that they are in order.
    ///
    /// # Errors
    /// As [`Quant8::check`]; [`KernelError::Value`] for a bound out of range, [`KernelError::Shape`] when `lo > hi`.
    pub fn check(self) -> Result<(), KernelError> {
        self.quant.check()?;
        check_value("the lower bound", self.lo, self.quant.dtype())?;
        check_value("the upper bound", self.hi, self.quant.dtype())?;
        if self.lo > self.hi {
            return Err(KernelError::Shape(
                "the lower bound is above the upper bound",
            ));
        }
        Ok(())
    }

    /// Whether the bounds leave every value of the type as it is.
    pub(crate) const fn is_full(self) -> bool {
        let dtype = self.quant.dtype();
        self.lo == dtype.min() && self.hi == dtype.max()
    }

    /// The constants with which a kernel writes.
    pub(crate) fn writer(self) -> Writer {
        let zero_point = self.quant.params.zero_point;
        Writer {
            lo: (self.lo - zero_point) as f32,
            hi: (self.hi - zero_point) as f32,
            zero: zero_point as u8,
        }
    }
}

fn check_value(what: &'static str, value: i32, dtype: QuantType) -> Result<(), KernelError> {
    if (dtype.min()..=dtype.max()).contains(&value) {
        return Ok(());
    }
    Err(KernelError::Value {
        what,
        value: value.into(),
        min: dtype.min().into(),
        max: dtype.max().into(),
    })
}

/// How to turn a byte into `q - zero_point`, exactly, in f32.
///
/// A signed byte with its top bit flipped is the unsigned byte that is larger by 128.
#[derive(Clone, Copy)]
pub(crate) struct Reader {
    /// 0x80 for signed bytes, else 0.
    pub(crate) flip: u8,
    /// The zero point of the flipped byte.
    pub(crate) zero: f32,
}

impl Reader {
    #[inline(always)]
    pub(crate) fn steps(self, byte: u8) -> f32 {
        f32::from(byte ^ self.flip) - self.zero
    }
}

/// 1.5 · 2^23: adding it to a float of magnitude below 2^22 rounds the float to an integer, half to even,
/// and leaves that integer in the low bits of the sum.
const ROUNDER: f32 = 12_582_912.0;

/// How to turn steps into a byte: `octofold_quant::requantize::to_steps` for the targets of this module.
#[derive(Clone, Copy)]
pub(crate) struct Writer {
    /// The lower bound less the zero point.
    pub(crate) lo: f32,
    /// The upper bound less the zero point.
    pub(crate) hi: f32,
    /// The low byte of the zero point.
    pub(crate) zero: u8,
}

impl Writer {
    /// Clamps, rounds half to even and adds the zero point; NaN gives the lower bound.
    ///
    /// The sum of byte and zero point is right modulo 256, for both signs, and the bounds keep it in the type.
    #[inline(always)]
    pub(crate) fn byte(self, steps: f32) -> u8 {
        self.rounded(self.clamped(steps))
    }

    /// The steps within the bounds; NaN gives the lower one.
    #[inline(always)]
    pub(crate) fn clamped(self, steps: f32) -> f32 {
        let clamped = if steps > self.lo { steps } else { self.lo };
        if clamped < self.hi { clamped } else { self.hi }
    }

    /// The byte of steps within the bounds.
    #[inline(always)]
    pub(crate) fn rounded(self, clamped: f32) -> u8 {
        ((clamped + ROUNDER).to_bits() as u8).wrapping_add(self.zero)
    }
}

/// The sizes of the images of a tensor whose layout changes: planes of pixels, or pixels of channels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ImageShape {
    /// Images.
    pub batch: usize,
    /// Channels of an image.
    pub channels: usize,
    /// Pixels of an image: height · width.
    pub pixels: usize,
}

impl ImageShape {
    /// The number of elements.
    ///
    /// # Errors
    /// [`KernelError::TooLarge`] when it overflows.
    pub fn len(&self) -> Result<usize, KernelError> {
        product("the tensor", &[self.batch, self.channels, self.pixels])
    }

    /// Whether there is no element.
    pub const fn is_empty(&self) -> bool {
        self.batch == 0 || self.channels == 0 || self.pixels == 0
    }

    /// Computes `part` of the `batch · channels` means over all pixels of `[batch, pixels, channels]`.
    ///
    /// `means` computes those of one image, from a channel on; it gets the values from this image on, the channel, and the means to write.
    ///
    /// # Errors
    /// For lengths that do not fit, means that do not exist, and what `means` refuses.
    pub(crate) fn for_each_image<T, U>(
        &self,
        input: &[T],
        part: Range<usize>,
        mut output: &mut [U],
        means: impl Fn(&[T], usize, &mut [U]) -> Result<(), KernelError>,
    ) -> Result<(), KernelError> {
        check_len("the input", self.len()?, input.len())?;
        let count = product("the output", &[self.batch, self.channels])?;
        check_range("outputs", &part, count)?;
        check_len("the output", part.len(), output.len())?;
        let mut next = part.start;
        while next < part.end {
            let (image, channel) = (next / self.channels, next % self.channels);
            let len = (self.channels - channel).min(part.end - next);
            let (first, rest) = output.split_at_mut(len);
            means(
                &input[image * self.pixels * self.channels..],
                channel,
                first,
            )?;
            (next, output) = (next + len, rest);
        }
        Ok(())
    }
}

/// The product of sizes, refused where no slice can be that long.
pub(crate) fn product<'a>(
    what: &'static str,
    sizes: impl IntoIterator<Item = &'a usize>,
) -> Result<usize, KernelError> {
    let product = sizes
        .into_iter()
        .try_fold(1_usize, |product, &size| product.checked_mul(size));
    let product = product.filter(|&product| isize::try_from(product).is_ok());
    product.ok_or(KernelError::TooLarge { what })
}

/// Checks that a range of items is in `0..len` and is not reversed.
pub(crate) fn check_range(
    what: &'static str,
    range: &Range<usize>,
    len: usize,
) -> Result<(), KernelError> {
    if range.start <= range.end && range.end <= len {
        return Ok(());
    }
    Err(KernelError::Range {
        what,
        range: range.clone(),
        len,
    })
}
