//! The output stages of AVX-512: what happens to the sums of a tile.
//!
//! [`ByteRows`] and [`FloatFinish`] take sums from registers.

use std::arch::x86_64::*;

use super::pack::PANEL;
use crate::Bounds;
use crate::conv::tile::Tile;
use crate::conv::{Float, Quantized};

/// The largest float that converts to a 32-bit integer.
const MOST: f32 = 2_147_483_520.0;

/// The output stage: everything that does not change from row to row.
///
/// Values are rounded to 32-bit steps from the zero point, and then saturated to 16 bits, moved by the zero point and saturated to
/// bytes, four vectors at a time (FBGEMM's way). This gives the clamped value of the definition, since all bounds are within a byte's
/// range. Signed bytes are computed as the unsigned ones that are larger by 128.
pub(super) struct Finish {
    most: __m512,
    /// The zero point and the bounds of the stored bytes.
    zero_point: __m512i,
    lo: __m512i,
    hi: __m512i,
    flip: __m512i,
    pub(super) residual: Option<FinishResidual>,
}

/// Whether [`Finish::steps`] and [`Finish::bytes`] may leave out what they do for bounds, zero points and large numbers, for 64 channels: unsigned
/// bytes behind a ReLU.
#[inline]
#[target_feature(enable = "avx512f")]
pub(super) fn is_plain(stage: &Quantized<'_>, multiplier: [__m512; 4]) -> bool {
    let one = _mm512_set1_ps(1.0);
    // Sums are at most 2^31, and what a residual is added to at most 383 steps of either.
    let (zero_point, lo, hi, small) = match &stage.residual {
        None => {
            let below_one =
                |&multiplier| _mm512_cmplt_ps_mask(_mm512_abs_ps(multiplier), one) == u16::MAX;
            let small = multiplier.iter().all(below_one);
            (stage.zero_point, stage.lo, stage.hi, small)
        }
        Some(residual) => {
            let ratios = (residual.output_ratio.abs()).max(residual.residual_ratio.abs());
            (residual.zero_point, residual.lo, residual.hi, ratios < 1e6)
        }
    };
    small && (zero_point, lo, hi) == (0, 0, 255)
}

/// What the output stage needs beyond if it adds a residual.
pub(super) struct FinishResidual {
    /// Bounds of the convolution's own output, in steps from its zero point.
    lo: __m512,
    hi: __m512,
    zero_point: __m512,
    output_ratio: __m512,
    residual_ratio: __m512,
    signed: bool,
}

impl Finish {
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw")]
    pub(super) fn new(stage: &Quantized<'_>) -> Self {
        let (zero_point, lo, hi) = match &stage.residual {
            None => (stage.zero_point, stage.lo, stage.hi),
            Some(residual) => (residual.zero_point, residual.lo, residual.hi),
        };
        let shift = if lo < 0 { 128 } else { 0 };
        let residual = stage.residual.as_ref().map(|residual| FinishResidual {
            lo: _mm512_set1_ps((stage.lo - stage.zero_point) as f32),
            hi: _mm512_set1_ps((stage.hi - stage.zero_point) as f32),
            zero_point: _mm512_set1_ps(residual.residual_zero_point as f32),
            output_ratio: _mm512_set1_ps(residual.output_ratio),
            residual_ratio: _mm512_set1_ps(residual.residual_ratio),
            signed: residual.signed,
        });
        Self {
            most: _mm512_set1_ps(MOST),
            zero_point: _mm512_set1_epi16((zero_point + shift) as i16),
            lo: _mm512_set1_epi8((lo + shift) as u8 as i8),
            hi: _mm512_set1_epi8((hi + shift) as u8 as i8),
            flip: _mm512_set1_epi8(shift as u8 as i8),
            residual,
        }
    }

    /// The steps of 16 sums, the bias included. NaN becomes the least number, and so the lower bound, as in the definition. With `SMALL` no product
    /// leaves 32 bits.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw")]
    pub(super) fn steps<const SMALL: bool>(&self, acc: __m512i, multiplier: __m512) -> __m512i {
        self.round::<SMALL>(_mm512_mul_ps(_mm512_cvtepi32_ps(acc), multiplier))
    }

    /// The steps of the sum of 16 sums, the bias included, and the residual's 16 bytes.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw")]
    pub(super) fn steps_with<const SMALL: bool>(
        &self,
        acc: __m512i,
        multiplier: __m512,
        stage: &FinishResidual,
        bytes: __m128i,
    ) -> __m512i {
        let value = _mm512_mul_ps(_mm512_cvtepi32_ps(acc), multiplier);
        let clamped = _mm512_min_ps(_mm512_max_ps(value, stage.lo), stage.hi);
        let left =
            _mm512_roundscale_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(clamped);
        let bytes = if stage.signed {
            _mm512_cvtepi8_epi32(bytes)
        } else {
            _mm512_cvtepu8_epi32(bytes)
        };
        // The difference of small integers is exact.
        let right = _mm512_sub_ps(_mm512_cvtepi32_ps(bytes), stage.zero_point);
        self.round::<SMALL>(_mm512_add_ps(
            _mm512_mul_ps(left, stage.output_ratio),
            _mm512_mul_ps(right, stage.residual_ratio),
        ))
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw")]
    fn round<const SMALL: bool>(&self, mut value: __m512) -> __m512i {
        if !SMALL {
            // Too large a float would convert to the least integer. With NaN the second operand is the result.
            value = _mm512_min_ps(self.most, value);
        }
        _mm512_cvt_roundps_epi32::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(value)
    }

    /// The bytes of 64 steps: in each quarter, four bytes of every vector. With `PLAIN` they are unsigned with zero point 0 and the widest bounds.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw")]
    pub(super) fn bytes<const PLAIN: bool>(&self, steps: [__m512i; 4]) -> __m512i {
        if PLAIN {
            let low = _mm512_packs_epi32(steps[0], steps[1]);
            return _mm512_packus_epi16(low, _mm512_packs_epi32(steps[2], steps[3]));
        }
        let low = _mm512_adds_epi16(_mm512_packs_epi32(steps[0], steps[1]), self.zero_point);
        let high = _mm512_adds_epi16(_mm512_packs_epi32(steps[2], steps[3]), self.zero_point);
        let bytes = _mm512_packus_epi16(low, high);
        let bytes = _mm512_min_epu8(_mm512_max_epu8(bytes, self.lo), self.hi);
        _mm512_xor_si512(bytes, self.flip)
    }
}

/// The constants of a [`Float`] stage for up to 16 channels.
pub(super) struct FloatFinish {
    mask: u16,
    correction: __m512i,
    scale: __m512,
    bias: __m512,
    clamp: Option<(__m512, __m512)>,
}

impl FloatFinish {
    /// For `count` channels from `channel` on.
    ///
    /// # Safety
    /// The stage has constants for these channels, and the processor has the features.
    #[inline]
    #[target_feature(enable = "avx512f")]
    pub(super) unsafe fn new(stage: &Float<'_>, channel: usize, count: usize) -> Self {
        let mask = channel_mask(count);
        // SAFETY: passed on from the caller; masked lanes are not read.
        unsafe {
            Self {
                mask,
                correction: _mm512_maskz_loadu_epi32(mask, stage.correction.as_ptr().add(channel)),
                scale: _mm512_maskz_loadu_ps(mask, stage.scale.as_ptr().add(channel)),
                bias: _mm512_maskz_loadu_ps(mask, stage.bias.as_ptr().add(channel)),
                clamp: stage
                    .clamp
                    .map(|Bounds { lo, hi }| (_mm512_set1_ps(lo), _mm512_set1_ps(hi))),
            }
        }
    }

    /// The sums with the correction.
    #[inline]
    #[target_feature(enable = "avx512f")]
    pub(super) fn corrected(&self, sums: __m512i) -> __m512i {
        _mm512_add_epi32(sums, self.correction)
    }

    /// Stores the floats of 16 sums, the correction included: `float_value` for each.
    ///
    /// # Safety
    /// The output is writable for the channels, and the processor has the features.
    #[inline]
    #[target_feature(enable = "avx512f")]
    pub(super) unsafe fn store(&self, sums: __m512i, output: *mut f32) {
        let scaled = _mm512_mul_ps(_mm512_cvtepi32_ps(sums), self.scale);
        let mut value = _mm512_add_ps(scaled, self.bias);
        if let Some((lo, hi)) = self.clamp {
            // The second operand is the result when it is NaN, and when both are zeros.
            value = _mm512_min_ps(hi, _mm512_max_ps(lo, value));
        }
        // SAFETY: passed on from the caller; masked lanes are not written.
        unsafe { _mm512_mask_storeu_ps(output, self.mask, value) };
    }
}

/// A mask of the first `channels` lanes of 16.
pub(super) fn channel_mask(channels: usize) -> u16 {
    if channels >= PANEL {
        u16::MAX
    } else {
        (1 << channels) - 1
    }
}

/// The rows of `panels` panels that are packed to bytes together: as many as four vectors of sums hold.
pub(super) const fn packed_rows(panels: usize) -> usize {
    if panels > 2 { 1 } else { 4 / panels }
}

/// The quantized output stage: what does not change from row to row of the tiles of some channels.
pub(super) struct ByteRows {
    finish: Finish,
    /// See [`is_plain`].
    pub(super) plain: bool,
    multiplier: [__m512; 4],
    masks: [u16; 4],
    /// Where each four bytes of the packed rows come from.
    order: __m512i,
    /// Whether the packed rows follow each other without a gap, in the output and as `order` puts them.
    adjacent: bool,
    /// The bytes that are stored at a time.
    mask: u64,
    residual: *const u8,
}

impl ByteRows {
    /// # Safety
    /// `tile` has `P` panels, `stage` is that of the tile, and the processor has the features.
    #[inline]
    #[target_feature(enable = "avx2,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
    pub(super) unsafe fn new<const P: usize>(tile: &Tile<'_>, stage: &Quantized<'_>) -> Self {
        let masks = std::array::from_fn(|p| channel_mask(tile.channels.saturating_sub(p * PANEL)));
        let multiplier = std::array::from_fn(|p| {
            let multiplier = (stage.multiplier.as_ptr()).wrapping_add(tile.channel + p * PANEL);
            // SAFETY: the multiplier has an entry for each channel; masked lanes are not read.
            unsafe { _mm512_maskz_loadu_ps(masks[p], multiplier) }
        });
        let adjacent =
            P <= 2 && tile.output_stride == tile.channels && tile.channels.is_multiple_of(4);
        // Packing leaves four bytes of each vector in a quarter; this brings those of a row together.
        let row_fours = if adjacent { tile.channels / 4 } else { 4 * P };
        let (mut row, mut four) = (0, 0);
        let order = std::array::from_fn::<u32, 16, _>(|_| {
            let from = four % 4 * 4 + (row * P + four / 4) % 4;
            four += 1;
            if four == row_fours {
                (row, four) = (row + 1, 0);
            }
            from as u32
        });
        Self {
            finish: Finish::new(stage),
            plain: is_plain(stage, multiplier),
            multiplier,
            masks,
            // SAFETY: 16 numbers of 32 bits.
            order: unsafe { _mm512_loadu_epi32(order.as_ptr().cast()) },
            adjacent,
            mask: u64::MAX >> (64 - tile.channels * if adjacent { packed_rows(P) } else { 1 }),
            residual: (stage.residual).map_or(std::ptr::null(), |residual| residual.data.as_ptr()),
        }
    }

    /// Requantizes and stores `rows` rows of a tile from row `first` on, at most [`packed_rows`]: `sums` are their panels, row by row. `PLAIN` is
    /// [`Self::plain`], as a constant.
    ///
    /// # Safety
    /// The invariants of [`Tile`] hold; it has the stage, channels and `P` panels that this was made for; the processor has the features.
    #[inline]
    #[target_feature(enable = "avx2,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
    pub(super) unsafe fn store<const P: usize, const PLAIN: bool>(
        &self,
        tile: &Tile<'_>,
        first: usize,
        rows: usize,
        sums: [__m512i; 4],
    ) {
        let value = |i: usize| {
            let (row, p) = (i / P, i % P);
            if row >= rows {
                return _mm512_setzero_si512();
            }
            let Some(stage) = &self.finish.residual else {
                return (self.finish).steps::<PLAIN>(sums[i], self.multiplier[p]);
            };
            let at = (tile.row + first + row) * tile.all_channels + tile.channel;
            let from = self.residual.wrapping_add(at + p * PANEL);
            // SAFETY: the residual has an element for each row and channel; masked lanes are not read.
            let bytes = unsafe { _mm_maskz_loadu_epi8(self.masks[p], from.cast()) };
            (self.finish).steps_with::<PLAIN>(sums[i], self.multiplier[p], stage, bytes)
        };
        let bytes = (self.finish).bytes::<PLAIN>([value(0), value(1), value(2), value(3)]);
        let bytes = _mm512_permutexvar_epi32(self.order, bytes);
        let output = tile.output.wrapping_add(first * tile.output_stride);
        // SAFETY: the output is writable for each row and channel of the tile; masked lanes are not written.
        unsafe {
            if P > 2 {
                _mm512_mask_storeu_epi8(output.cast(), self.mask, bytes);
            } else if self.adjacent {
                let missing = (packed_rows(P) - rows) * tile.channels;
                _mm512_mask_storeu_epi8(output.cast(), self.mask >> missing, bytes);
            } else {
                for row in 0..rows {
                    let lanes = row * P * PANEL;
                    let output = output.wrapping_add(row * tile.output_stride);
                    let output = output.wrapping_sub(lanes);
                    _mm512_mask_storeu_epi8(output.cast(), self.mask << lanes, bytes);
                }
            }
        }
    }
}
