//! The output stages of AVX-512: what becomes of the sums of a tile.
//!
//! [`WholeRows`] and [`FloatFinish`] take sums from registers, for tiles of three and four panels; [`store`] takes those of narrower tiles, and of
//! stages with constants for each row, from memory.

use std::arch::x86_64::*;

use super::pack::PANEL;
use crate::conv::scalar::store_floats;
use crate::conv::tile::Tile;
use crate::conv::{Float, OutputStage, Quantized};

/// Passes the sums of a tile, in which the constants of its channels are included, through the output stage.
///
/// # Safety
/// The invariants of [`Tile`] hold for as many rows as `sums` has and `P` panels, and the processor has the features.
#[inline(never)]
#[target_feature(enable = "avx2,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
pub(super) unsafe fn store<const P: usize>(tile: &Tile<'_>, sums: &[[__m512i; P]]) {
    match tile.stage {
        // SAFETY: passed on from the caller.
        OutputStage::Quantized(stage) => return unsafe { store_bytes(tile, stage, sums) },
        // SAFETY: passed on from the caller.
        OutputStage::Float(stage) => return unsafe { store_floats_alike(tile, stage, sums) },
        OutputStage::FloatRows(_) => {}
    }
    for (r, sums) in sums.iter().enumerate() {
        // SAFETY: a row has `16 · P` numbers, at least as many as the tile has channels, and the stage gives floats.
        unsafe {
            let sums = std::slice::from_raw_parts(sums.as_ptr().cast(), tile.channels);
            store_floats(tile, r, sums);
        }
    }
}

/// The largest float that converts to a 32-bit integer.
const MOST: f32 = 2_147_483_520.0;

/// The output stage: everything that does not change from row to row.
///
/// Values are rounded to 32-bit steps from the zero point, and then saturated to 16 bits, moved by the zero point and saturated to
/// bytes, four vectors at a time (FBGEMM's way). This gives the clamped value of the definition, since all bounds lie within a byte's
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
                    .map(|(lo, hi)| (_mm512_set1_ps(lo), _mm512_set1_ps(hi))),
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

/// Stores the floats of a tile whose rows have the same constants.
///
/// # Safety
/// As [`store`]; `stage` is that of the tile.
#[inline]
#[target_feature(enable = "avx2,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
unsafe fn store_floats_alike<const P: usize>(
    tile: &Tile<'_>,
    stage: &Float<'_>,
    sums: &[[__m512i; P]],
) {
    for p in 0..P {
        let first = p * PANEL;
        // SAFETY: the stage has constants for each channel of the tile, and the output is writable for each row and channel.
        unsafe {
            let finish = FloatFinish::new(stage, tile.channel + first, tile.channels - first);
            for (r, sums) in sums.iter().enumerate() {
                let output = tile.output.cast::<f32>();
                finish.store(sums[p], output.add(r * tile.output_stride + first));
            }
        }
    }
}

/// Requantizes and stores a tile.
///
/// # Safety
/// As [`store`]; `stage` is that of the tile.
#[inline]
#[target_feature(enable = "avx2,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
unsafe fn store_bytes<const P: usize>(
    tile: &Tile<'_>,
    stage: &Quantized<'_>,
    sums: &[[__m512i; P]],
) {
    let finish = Finish::new(stage);
    let residual = stage
        .residual
        .map_or(std::ptr::null(), |residual| residual.data.as_ptr());
    let masks: [u16; P] = std::array::from_fn(|p| channel_mask(tile.channels - p * PANEL));
    let multiplier: [__m512; P] = std::array::from_fn(|p| {
        let channel = tile.channel + p * PANEL;
        // SAFETY: the multiplier has an entry for each channel; masked lanes are not read.
        unsafe { _mm512_maskz_loadu_ps(masks[p], stage.multiplier.as_ptr().add(channel)) }
    });
    // Packing leaves four bytes of each vector in a quarter; this brings those of a vector together.
    let order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
    // Four vectors are packed at a time: as many whole rows as they hold.
    let whole = 4 / P;
    for (group, sums) in sums.chunks(whole).enumerate() {
        let first = group * whole;
        let value = |i: usize| {
            let (row, p) = (i / P, i % P);
            if row >= sums.len() {
                return _mm512_setzero_si512();
            }
            let Some(stage) = &finish.residual else {
                return finish.steps::<false>(sums[row][p], multiplier[p]);
            };
            let at = (tile.row + first + row) * tile.all_channels + tile.channel + p * PANEL;
            // SAFETY: the residual has an element for each row and channel; masked lanes are not read.
            let bytes = unsafe { _mm_maskz_loadu_epi8(masks[p], residual.add(at).cast()) };
            finish.steps_with::<false>(sums[row][p], multiplier[p], stage, bytes)
        };
        let bytes = finish.bytes::<false>([value(0), value(1), value(2), value(3)]);
        let bytes = _mm512_permutexvar_epi32(order, bytes);
        for row in 0..sums.len() {
            // SAFETY: the output is writable for each row and channel of the tile.
            unsafe {
                let output = tile.output.add((first + row) * tile.output_stride);
                store_row::<P>(output, bytes, row, tile.channels);
            }
        }
    }
}

/// Stores row `row` of a vector of rows of `P` panels each: its first `channels` bytes.
///
/// # Safety
/// That many bytes, at most `16 · P`, are writable, and the processor has the features.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
unsafe fn store_row<const P: usize>(output: *mut u8, rows: __m512i, row: usize, channels: usize) {
    // SAFETY: passed on from the caller; masked lanes are not written.
    unsafe {
        match (P, row) {
            (3 | 4, _) if channels == 64 => _mm512_storeu_si512(output.cast(), rows),
            (3 | 4, _) => {
                let mask = (1_u64 << channels) - 1;
                _mm512_mask_storeu_epi8(output.cast(), mask, rows);
            }
            (2, _) => {
                let half = match row {
                    0 => _mm512_castsi512_si256(rows),
                    _ => _mm512_extracti64x4_epi64::<1>(rows),
                };
                let mask = ((1_u64 << channels) - 1) as u32;
                if mask == u32::MAX {
                    _mm256_storeu_si256(output.cast(), half);
                } else {
                    _mm256_mask_storeu_epi8(output.cast(), mask, half);
                }
            }
            _ => {
                let quarter = match row {
                    0 => _mm512_castsi512_si128(rows),
                    1 => _mm512_extracti32x4_epi32::<1>(rows),
                    2 => _mm512_extracti32x4_epi32::<2>(rows),
                    _ => _mm512_extracti32x4_epi32::<3>(rows),
                };
                let mask = channel_mask(channels);
                if mask == u16::MAX {
                    _mm_storeu_si128(output.cast(), quarter);
                } else {
                    _mm_mask_storeu_epi8(output.cast(), mask, quarter);
                }
            }
        }
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

/// The output stage of rows of three or four panels, each of which is one vector of bytes.
pub(super) struct WholeRows {
    finish: Finish,
    /// See [`is_plain`].
    pub(super) plain: bool,
    multiplier: [__m512; 4],
    masks: [u16; 4],
    /// All channels of the tile that exist.
    mask: u64,
    residual: *const u8,
}

impl WholeRows {
    /// # Safety
    /// `tile` has up to 64 channels, `stage` is that of the tile, and the processor has the features.
    #[inline]
    #[target_feature(enable = "avx2,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
    pub(super) unsafe fn new(tile: &Tile<'_>, stage: &Quantized<'_>) -> Self {
        let masks = std::array::from_fn(|p| channel_mask(tile.channels.saturating_sub(p * PANEL)));
        let multiplier = std::array::from_fn(|p| {
            let multiplier = (stage.multiplier.as_ptr()).wrapping_add(tile.channel + p * PANEL);
            // SAFETY: the multiplier has an entry for each channel; masked lanes are not read.
            unsafe { _mm512_maskz_loadu_ps(masks[p], multiplier) }
        });
        Self {
            finish: Finish::new(stage),
            plain: is_plain(stage, multiplier),
            multiplier,
            masks,
            mask: masks
                .iter()
                .rev()
                .fold(0, |all, &mask| all << PANEL | u64::from(mask)),
            residual: (stage.residual).map_or(std::ptr::null(), |residual| residual.data.as_ptr()),
        }
    }

    /// Requantizes and stores row `r` of a tile.
    ///
    /// # Safety
    /// The invariants of [`Tile`] hold; it has the stage and channels that this was made for; the processor has the features.
    #[inline]
    #[target_feature(enable = "avx2,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
    pub(super) unsafe fn store<const P: usize, const PLAIN: bool>(
        &self,
        tile: &Tile<'_>,
        r: usize,
        sums: [__m512i; P],
    ) {
        let value = |p: usize| {
            if p >= P {
                return _mm512_setzero_si512();
            }
            let Some(stage) = &self.finish.residual else {
                return (self.finish).steps::<PLAIN>(sums[p], self.multiplier[p]);
            };
            let at = (tile.row + r) * tile.all_channels + tile.channel;
            let from = self.residual.wrapping_add(at + p * PANEL);
            // SAFETY: the residual has an element for each row and channel; masked lanes are not read.
            let bytes = unsafe { _mm_maskz_loadu_epi8(self.masks[p], from.cast()) };
            (self.finish).steps_with::<PLAIN>(sums[p], self.multiplier[p], stage, bytes)
        };
        let bytes = (self.finish).bytes::<PLAIN>([value(0), value(1), value(2), value(3)]);
        // Packing leaves four bytes of each vector in a quarter; this brings those of a vector together.
        let order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
        let bytes = _mm512_permutexvar_epi32(order, bytes);
        let output = tile.output.wrapping_add(r * tile.output_stride);
        // SAFETY: the output is writable for each row and channel of the tile; masked lanes are not written.
        unsafe { _mm512_mask_storeu_epi8(output.cast(), self.mask, bytes) };
    }
}
