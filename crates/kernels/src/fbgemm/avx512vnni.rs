//! The micro kernels for AVX-512 with VNNI: `vpdpbusd` on 64 products at a time.
//!
//! A step takes four consecutive activations of each row (one dword, broadcast from where it lies in memory)
//! and one 64-byte block of each panel.
//! `vpdpbusd` wraps at 32 bits (it is `vpdpbusds` that saturates), and its sums of four products are exact.
use std::arch::x86_64::*;

use super::pack::{BLOCK, FORM, PANEL};
use crate::conv::scalar::store_floats;
use crate::conv::tile::{EXTRA, Micro, Tile};
use crate::conv::{Float, OutputStage, Quantized};

/// Up to 14 x 32 or 6 x 64.
pub(super) const MICRO: Micro = Micro {
    form: FORM,
    max_panels,
    fit_rows,
    run,
    widen: None,
};

/// Few rows take four panels, so that enough sums are in flight. Otherwise two are better, whose weights are read half as often from the second
/// cache.
fn max_panels(rows: usize) -> usize {
    if rows < 6 { 4 } else { 2 }
}

/// The tallest tile, or the half of what remains, where it is less than two: a short tile at the end would wait for its own sums. 28 sums, 2
/// blocks, 1 broadcast and the sign flip are 32 registers.
fn fit_rows(rows: usize, panels: usize) -> usize {
    let most = if panels > 2 { 6 } else { 14 };
    if rows >= 2 * most {
        most
    } else if rows > most {
        rows.div_ceil(2)
    } else {
        rows
    }
}

/// Picks the tile of the size asked for.
///
/// # Safety
/// The invariants of [`Tile`] hold, and the processor has the instruction set.
unsafe fn run(tile: &Tile<'_>, rows: usize, panels: usize) {
    macro_rules! pick {
        ($($panels:literal: $($rows:literal)*;)*) => {
            match (rows, panels) {
                // SAFETY: passed on from the caller.
                $($(($rows, $panels) => unsafe {
                    if tile.signed {
                        compute::<$rows, $panels, true>(tile);
                    } else {
                        compute::<$rows, $panels, false>(tile);
                    }
                },)*)*
                _ => unreachable!("`fit_rows` and `max_panels` give the sizes above only"),
            }
        };
    }
    pick!(
        1: 1 2 3 4 5 6 7 8 9 10 11 12 13 14;
        2: 1 2 3 4 5 6 7 8 9 10 11 12 13 14;
        3: 1 2 3 4 5 6;
        4: 1 2 3 4 5 6;
    );
}

/// Computes a tile of `R` rows by `P` panels.
///
/// # Safety
/// The invariants of [`Tile`] hold for `R` rows and `P` panels, and the processor has the features.
#[target_feature(enable = "avx2,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
unsafe fn compute<const R: usize, const P: usize, const SIGNED: bool>(tile: &Tile<'_>) {
    let bias: [__m512i; P] = std::array::from_fn(|p| match tile.stage {
        OutputStage::Quantized(stage) => {
            let channel = tile.channel + p * PANEL;
            let mask = channel_mask(tile.channels - p * PANEL);
            // SAFETY: the bias has an entry for each channel; masked lanes are not read.
            unsafe { _mm512_maskz_loadu_epi32(mask, stage.bias.as_ptr().add(channel)) }
        }
        _ => _mm512_setzero_si512(),
    });
    let mut acc = [bias; R];
    let flip = _mm512_set1_epi8(-128);
    for tap in 0..tile.taps {
        // SAFETY: `R` rows have an entry at each tap.
        let rows: [*const u8; R] = unsafe { row_starts(tile, tap) };
        // SAFETY: each panel has `taps · quads` blocks.
        let mut blocks = unsafe { tile.weights.add(tap * tile.quads * BLOCK) };
        for quad in 0..tile.quads {
            // SAFETY: `P` panels, `panel_stride` apart, have this block.
            let weights: [__m512i; P] = std::array::from_fn(|p| unsafe {
                _mm512_loadu_si512(blocks.add(p * tile.panel_stride).cast())
            });
            for r in 0..R {
                // SAFETY: `4 · quads` bytes are readable at each row.
                let four = unsafe { rows[r].add(quad * 4).cast::<i32>().read_unaligned() };
                let mut x = _mm512_set1_epi32(four);
                if SIGNED {
                    x = _mm512_xor_si512(x, flip);
                }
                for p in 0..P {
                    acc[r][p] = _mm512_dpbusd_epi32(acc[r][p], x, weights[p]);
                }
            }
            blocks = blocks.wrapping_add(BLOCK);
        }
    }
    // The output stage reads the sums from memory: it is the same code for any number of rows, and small enough for the cache of decoded
    // instructions. They are copied one by one, so that they have no address above and stay in registers there.
    let mut sums = [[_mm512_setzero_si512(); P]; R];
    for r in 0..R {
        for p in 0..P {
            // SAFETY: a place in `sums`.
            unsafe { (&raw mut sums[r][p]).write_volatile(acc[r][p]) };
        }
    }
    // SAFETY: passed on from the caller.
    unsafe { store::<P>(tile, &sums) };
}

/// Where the rows of tap `tap` start: [`Tile::row_start`] for eight rows at a time.
///
/// # Safety
/// The invariants of [`Tile`] hold for `R` rows, `tap < taps`, and the processor has the features.
#[inline]
#[target_feature(enable = "avx2,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
unsafe fn row_starts<const R: usize>(tile: &Tile<'_>, tap: usize) -> [*const u8; R] {
    let mut starts: [*const u8; 16] = [std::ptr::null(); 16];
    let input = _mm512_set1_epi64(tile.input.expose_provenance() as i64);
    let extras = tile.extras.expose_provenance().wrapping_sub(EXTRA as usize);
    let extras = _mm512_set1_epi64(extras as i64);
    for first in (0..R).step_by(8) {
        let mask = if R - first >= 8 {
            u8::MAX
        } else {
            (1 << (R - first)) - 1
        };
        // SAFETY: the table has an entry for each row of each tap; masked lanes are not read. `starts` has 16 entries.
        unsafe {
            let entries = tile.offsets.add(tap * tile.offset_stride + first);
            let offsets = _mm256_maskz_loadu_epi32(mask, entries.cast());
            let is_extra = _mm256_cmpge_epu32_mask(offsets, _mm256_set1_epi32(EXTRA as i32));
            let base = _mm512_mask_blend_epi64(is_extra, input, extras);
            let addresses = _mm512_add_epi64(base, _mm512_cvtepu32_epi64(offsets));
            _mm512_storeu_si512(starts.as_mut_ptr().add(first).cast(), addresses);
        }
    }
    std::array::from_fn(|r| starts[r])
}

/// Passes the sums of a tile, in which a quantized stage's bias is included, through the output stage.
///
/// # Safety
/// The invariants of [`Tile`] hold for as many rows as `sums` has and `P` panels, and the processor has the features.
#[inline(never)]
#[target_feature(enable = "avx2,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
unsafe fn store<const P: usize>(tile: &Tile<'_>, sums: &[[__m512i; P]]) {
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
    residual: Option<FinishResidual>,
}

/// What the output stage needs beyond if it adds a residual.
struct FinishResidual {
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

    /// The steps of 16 sums, the bias included; `residual` gives the residual's 16 bytes if it is asked. NaN becomes the least
    /// number, and so the lower bound, as in the definition.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw")]
    pub(super) fn steps(
        &self,
        acc: __m512i,
        multiplier: __m512,
        residual: impl FnOnce() -> __m128i,
    ) -> __m512i {
        let mut value = _mm512_mul_ps(_mm512_cvtepi32_ps(acc), multiplier);
        if let Some(stage) = &self.residual {
            let clamped = _mm512_min_ps(_mm512_max_ps(value, stage.lo), stage.hi);
            let left =
                _mm512_roundscale_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(clamped);
            let bytes = residual();
            let bytes = if stage.signed {
                _mm512_cvtepi8_epi32(bytes)
            } else {
                _mm512_cvtepu8_epi32(bytes)
            };
            // The difference of small integers is exact.
            let right = _mm512_sub_ps(_mm512_cvtepi32_ps(bytes), stage.zero_point);
            value = _mm512_add_ps(
                _mm512_mul_ps(left, stage.output_ratio),
                _mm512_mul_ps(right, stage.residual_ratio),
            );
        }
        // Too large a float would convert to the least integer. With NaN the second operand is the result.
        let value = _mm512_min_ps(self.most, value);
        _mm512_cvt_roundps_epi32::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(value)
    }

    /// The bytes of 64 steps: in each quarter, four bytes of every vector.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw")]
    pub(super) fn bytes(&self, steps: [__m512i; 4]) -> __m512i {
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

    /// Stores the floats of 16 sums: `float_value` for each.
    ///
    /// # Safety
    /// The output is writable for the channels, and the processor has the features.
    #[inline]
    #[target_feature(enable = "avx512f")]
    pub(super) unsafe fn store(&self, sums: __m512i, output: *mut f32) {
        let sums = _mm512_cvtepi32_ps(_mm512_add_epi32(sums, self.correction));
        let mut value = _mm512_add_ps(_mm512_mul_ps(sums, self.scale), self.bias);
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
            finish.steps(sums[row][p], multiplier[p], || {
                let at = (tile.row + first + row) * tile.all_channels + tile.channel + p * PANEL;
                // SAFETY: the residual has an element for each row and channel; masked lanes are not read.
                unsafe { _mm_maskz_loadu_epi8(masks[p], residual.add(at).cast()) }
            })
        };
        let fourth = if P == 3 {
            _mm512_setzero_si512()
        } else {
            value(3)
        };
        let bytes = finish.bytes([value(0), value(1), value(2), fourth]);
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
fn channel_mask(channels: usize) -> u16 {
    if channels >= PANEL {
        u16::MAX
    } else {
        (1 << channels) - 1
    }
}
