//! Blocks that are transposed in registers: by SSE2, AVX2 and AVX-512.

use std::arch::x86_64::*;

/// Transposes 16 × 16 bytes: four rounds, each of which interleaves vector `i` with vector `i + 8`.
///
/// # Safety
/// Sixteen rows of 16 bytes are readable at `input` and writable at `output`, one every stride.
#[inline]
#[target_feature(enable = "sse2")]
pub(super) unsafe fn bytes_16x16(
    input: *const u8,
    in_stride: usize,
    output: *mut u8,
    out_stride: usize,
) {
    let mut v = [_mm_setzero_si128(); 16];
    for (row, v) in v.iter_mut().enumerate() {
        // SAFETY: row `row` of the input has 16 readable bytes.
        *v = unsafe { _mm_loadu_si128(input.add(row * in_stride).cast()) };
    }
    for _ in 0..4 {
        let mut next = v;
        for i in 0..8 {
            next[2 * i] = _mm_unpacklo_epi8(v[i], v[i + 8]);
            next[2 * i + 1] = _mm_unpackhi_epi8(v[i], v[i + 8]);
        }
        v = next;
    }
    for (row, v) in v.into_iter().enumerate() {
        // SAFETY: row `row` of the output has 16 writable bytes.
        unsafe { _mm_storeu_si128(output.add(row * out_stride).cast(), v) };
    }
}

/// Transposes 4 × 4 quarters of 128 bits.
#[inline]
#[target_feature(enable = "avx512f")]
pub(crate) fn transpose_quarters([a, b, c, d]: [__m512i; 4]) -> [__m512i; 4] {
    let even = [
        _mm512_shuffle_i32x4::<0b10_00_10_00>(a, b),
        _mm512_shuffle_i32x4::<0b10_00_10_00>(c, d),
    ];
    let odd = [
        _mm512_shuffle_i32x4::<0b11_01_11_01>(a, b),
        _mm512_shuffle_i32x4::<0b11_01_11_01>(c, d),
    ];
    [
        _mm512_shuffle_i32x4::<0b10_00_10_00>(even[0], even[1]),
        _mm512_shuffle_i32x4::<0b10_00_10_00>(odd[0], odd[1]),
        _mm512_shuffle_i32x4::<0b11_01_11_01>(even[0], even[1]),
        _mm512_shuffle_i32x4::<0b11_01_11_01>(odd[0], odd[1]),
    ]
}

/// Transposes 16 × 16 dwords: two rounds within 128 bits, and two between them.
#[inline]
#[target_feature(enable = "avx512f")]
pub(crate) fn transpose_dwords(rows: &[__m512i; 16]) -> [__m512i; 16] {
    let mut quarters = [[_mm512_setzero_si512(); 4]; 4];
    for four in 0..4 {
        let [a, b, c, d] = [0, 1, 2, 3].map(|row| rows[4 * four + row]);
        let (ab0, ab1) = (_mm512_unpacklo_epi32(a, b), _mm512_unpackhi_epi32(a, b));
        let (cd0, cd1) = (_mm512_unpacklo_epi32(c, d), _mm512_unpackhi_epi32(c, d));
        // Quarter `q` of vector `i` has column `4 · q + i` of these four rows.
        quarters[0][four] = _mm512_unpacklo_epi64(ab0, cd0);
        quarters[1][four] = _mm512_unpackhi_epi64(ab0, cd0);
        quarters[2][four] = _mm512_unpacklo_epi64(ab1, cd1);
        quarters[3][four] = _mm512_unpackhi_epi64(ab1, cd1);
    }
    let columns = quarters.map(|rows| transpose_quarters(rows));
    std::array::from_fn(|column| columns[column % 4][column / 4])
}

/// Transposes up to 16 × 16 words.
///
/// # Safety
/// `rows` rows of `columns` words are readable at `input`, one every stride, and `rows` words are writable at the first `columns` of `outputs`; both are
/// at most 16; and the processor has AVX-512F.
#[inline]
#[target_feature(enable = "avx512f")]
pub(super) unsafe fn words_16x16(
    input: *const f32,
    stride: usize,
    rows: usize,
    columns: usize,
    outputs: &[*mut f32; 16],
) {
    let (mask, row_mask) = (
        ((1_u32 << columns) - 1) as u16,
        ((1_u32 << rows) - 1) as u16,
    );
    let rows: [__m512i; 16] = std::array::from_fn(|row| {
        let mask = if row < rows { mask } else { 0 };
        // SAFETY: a row has `columns` readable words; masked lanes, which are all lanes of a missing row, are not read.
        unsafe { _mm512_maskz_loadu_epi32(mask, input.wrapping_add(row * stride).cast()) }
    });
    let transposed = transpose_dwords(&rows);
    for (&output, values) in outputs.iter().zip(transposed).take(columns) {
        // The line behind the next one is asked for: that many planes are more than the processor follows by itself.
        let ahead = output.wrapping_add(2 * super::PLANES);
        // SAFETY: `rows` words are writable; masked lanes are not written, and asking for a line touches nothing.
        unsafe {
            _mm512_mask_storeu_epi32(output.cast(), row_mask, values);
            _mm_prefetch::<_MM_HINT_ET0>(ahead.cast());
        }
    }
}

/// Transposes 8 × 8 words of 4 bytes: loads bring row `i` and row `i + 4` together, and two rounds transpose within 128 bits.
///
/// # Safety
/// Eight rows of 8 words are readable at `input` and writable at `output`, one every stride (in words), and the processor has AVX2.
#[inline]
#[target_feature(enable = "avx2")]
pub(super) unsafe fn words_8x8(
    input: *const f32,
    in_stride: usize,
    output: *mut f32,
    out_stride: usize,
) {
    // SAFETY: rows `row` and `row + 4` of the input have 4 readable words from `column` on.
    let load = |row: usize, column: usize| unsafe {
        let low = _mm_loadu_ps(input.add(row * in_stride + column));
        let high = _mm_loadu_ps(input.add((row + 4) * in_stride + column));
        _mm256_insertf128_ps::<1>(_mm256_castps128_ps256(low), high)
    };
    for column in [0, 4] {
        let [a, b, c, d] = [0, 1, 2, 3].map(|row| load(row, column));
        let (ab0, ab1) = (_mm256_unpacklo_ps(a, b), _mm256_unpackhi_ps(a, b));
        let (cd0, cd1) = (_mm256_unpacklo_ps(c, d), _mm256_unpackhi_ps(c, d));
        let rows = [
            _mm256_shuffle_ps::<0b01_00_01_00>(ab0, cd0),
            _mm256_shuffle_ps::<0b11_10_11_10>(ab0, cd0),
            _mm256_shuffle_ps::<0b01_00_01_00>(ab1, cd1),
            _mm256_shuffle_ps::<0b11_10_11_10>(ab1, cd1),
        ];
        for (row, values) in rows.into_iter().enumerate() {
            // SAFETY: row `column + row` of the output has 8 writable words.
            unsafe { _mm256_storeu_ps(output.add((column + row) * out_stride), values) };
        }
    }
}
