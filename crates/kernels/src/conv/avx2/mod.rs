//! The inner loop for AVX2, exact: products of 16-bit halves by `vpmaddwd`.
//!
//! `vpmaddubsw` would saturate, so bytes are widened first, and without a shuffle: of four bytes in a dword,
//! masking (or shifting left and back, for signed ones) leaves the even two as 16-bit numbers, and shifting
//! right leaves the odd two. Activations and packed weights are both split that way, and `even·even + odd·odd` is the sum of four products, in 32
//! bits, where nothing overflows.
//!
//! A product and its addition are two instructions, so every other instruction counts. Rows are widened once for all panels ([`widen`]), and
//! weights once for all rows of a block, a piece of the depth at a time, which stays in the first cache. The loop then has 3 broadcasts for the 24
//! instructions of 3 rows by 32 channels: the weights are memory operands.

mod finish;

use std::arch::asm;
use std::arch::x86_64::*;
use std::mem::MaybeUninit;
use std::ops::Range;

pub(crate) use finish::{Finish, store};

use super::tile::{Tile, WIDE_ROWS};

/// The even bytes of each dword as two 16-bit numbers: signed ones.
#[inline]
#[target_feature(enable = "avx2")]
pub(crate) fn even_signed(bytes: __m256i) -> __m256i {
    _mm256_srai_epi16::<8>(_mm256_slli_epi16::<8>(bytes))
}

/// The odd bytes of each dword as two 16-bit numbers: signed ones.
#[inline]
#[target_feature(enable = "avx2")]
pub(crate) fn odd_signed(bytes: __m256i) -> __m256i {
    _mm256_srai_epi16::<8>(bytes)
}

/// The even bytes of each dword as two 16-bit numbers: unsigned ones.
#[inline]
#[target_feature(enable = "avx2")]
pub(crate) fn even_unsigned(bytes: __m256i) -> __m256i {
    _mm256_and_si256(bytes, _mm256_set1_epi16(0xFF))
}

/// The odd bytes of each dword as two 16-bit numbers: unsigned ones.
#[inline]
#[target_feature(enable = "avx2")]
pub(crate) fn odd_unsigned(bytes: __m256i) -> __m256i {
    _mm256_srli_epi16::<8>(bytes)
}

/// Rows of a tile.
const ROWS: usize = 3;

/// Most halves of panels of a tile: eight channels each, one register.
const HALVES: usize = 4;

/// Rows of the next block (one call of [`run`]), of `rows` that remain: as few blocks as can be, of almost the same number of whole tiles.
pub(crate) fn block_rows(rows: usize) -> usize {
    let blocks = rows.div_ceil(WIDE_ROWS);
    rows.div_ceil(blocks).next_multiple_of(ROWS).min(rows)
}

/// Widens the rows of a block: `[row][tap][quad]` of the even two and the odd two of four activations, as `u16`.
///
/// # Safety
/// The invariants of [`Tile`] hold for `rows` rows, as [`block_rows`] gives them; `into` has [`wide_len`](super::tile::wide_len) bytes; the processor has AVX2.
#[target_feature(enable = "avx2")]
pub(crate) unsafe fn widen(tile: &Tile<'_>, rows: usize, into: *mut u8) {
    let flip = if tile.signed { 0x8080_8080_u32 } else { 0 };
    let flips = _mm256_set1_epi32(flip as i32);
    for r in 0..rows {
        for tap in 0..tile.taps {
            // SAFETY: the row has an entry at this tap, from which `quads` groups of four are readable, and the target has eight bytes for each.
            unsafe {
                let from = tile.row_start(tap, r);
                let into = into.add((r * tile.taps + tap) * tile.quads * 8);
                let mut quad = 0;
                while quad + 8 <= tile.quads {
                    let bytes = _mm256_loadu_si256(from.add(quad * 4).cast());
                    let bytes = _mm256_xor_si256(bytes, flips);
                    let (even, odd) = (even_unsigned(bytes), odd_unsigned(bytes));
                    let low = _mm256_unpacklo_epi32(even, odd);
                    let high = _mm256_unpackhi_epi32(even, odd);
                    let into = into.add(quad * 8).cast::<__m256i>();
                    _mm256_storeu_si256(into, _mm256_permute2x128_si256::<0x20>(low, high));
                    _mm256_storeu_si256(into.add(1), _mm256_permute2x128_si256::<0x31>(low, high));
                    quad += 8;
                }
                for quad in quad..tile.quads {
                    let four = from.add(quad * 4).cast::<u32>().read_unaligned() ^ flip;
                    let halves = [four & 0x00FF_00FF, four >> 8 & 0x00FF_00FF];
                    into.add(quad * 8)
                        .cast::<[u32; 2]>()
                        .write_unaligned(halves);
                }
            }
        }
    }
}

/// Groups of four products whose weights are widened at a time: 16 KB.
const PASS: usize = 64;

/// The widened weights of a pass: `[quad][even two, odd two][half]`.
type Wide<const H: usize> = [[[__m256i; H]; 2]; PASS];

/// Computes a block of widened rows by `H` halves of panels, eight channels each: two of them are 16 neighbouring channels. `halves` point to
/// the blocks of the halves, 32 bytes each, that follow each other in a distance of `STEP` bytes.
///
/// # Safety
/// The invariants of [`Tile`] hold, `wide` has its rows as [`widen`] gives them, `halves` have `taps · quads` blocks each, and the processor has AVX2.
#[target_feature(enable = "avx2")]
pub(crate) unsafe fn run<const STEP: usize, const H: usize>(
    tile: &Tile<'_>,
    rows: usize,
    halves: [*const u8; H],
) {
    let depth = tile.taps * tile.quads;
    let mut weights = MaybeUninit::<Wide<H>>::uninit();
    let mut sums = [MaybeUninit::<[[__m256i; H]; ROWS]>::uninit(); WIDE_ROWS / ROWS];
    for start in (0..depth).step_by(PASS) {
        let quads = start..depth.min(start + PASS);
        // SAFETY: passed on from the caller, who gives at most `WIDE_ROWS` rows; all sums were written in the first pass.
        unsafe {
            let weights = widen_weights::<STEP, H>(halves, quads.clone(), &mut weights);
            for (t, sums) in sums.iter_mut().take(rows.div_ceil(ROWS)).enumerate() {
                let mut acc = if start == 0 {
                    [[_mm256_setzero_si256(); H]; ROWS]
                } else {
                    sums.assume_init()
                };
                let tile = tile.next(t * ROWS);
                let first = tile.wide.add((t * ROWS * depth + start) * 8);
                match rows - t * ROWS {
                    1 => pass::<1, H>(first, depth * 8, weights, &mut acc),
                    2 => pass::<2, H>(first, depth * 8, weights, &mut acc),
                    _ => pass::<3, H>(first, depth * 8, weights, &mut acc),
                }
                if quads.end < depth {
                    sums.write(acc);
                    continue;
                }
                match rows - t * ROWS {
                    1 => store_all::<1, H>(&tile, &acc),
                    2 => store_all::<2, H>(&tile, &acc),
                    _ => store_all::<3, H>(&tile, &acc),
                }
            }
        }
    }
}

/// Widens the blocks `quads` of `H` halves.
///
/// # Safety
/// As [`run`]; these are at most [`PASS`] blocks, which exist.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn widen_weights<const STEP: usize, const H: usize>(
    halves: [*const u8; H],
    quads: Range<usize>,
    into: &mut MaybeUninit<Wide<H>>,
) -> &[[[__m256i; H]; 2]] {
    let (len, into) = (quads.len(), into.as_mut_ptr().cast::<[[__m256i; H]; 2]>());
    for (i, quad) in quads.enumerate() {
        // SAFETY: a block has 32 bytes, and there is a place for each.
        unsafe {
            let bytes = halves.map(|half| _mm256_loadu_si256(half.add(quad * STEP).cast()));
            into.add(i).write([
                bytes.map(|bytes| even_signed(bytes)),
                bytes.map(|bytes| odd_signed(bytes)),
            ]);
        }
    }
    // SAFETY: the loop initialised these entries.
    unsafe { std::slice::from_raw_parts(into, len) }
}

/// Adds the products of a pass to the sums of `R` rows, whose pairs follow each other every `stride` bytes from `rows` on.
///
/// # Safety
/// Each row has two pairs for each entry of `weights`, and the processor has AVX2.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn pass<const R: usize, const H: usize>(
    rows: *const u8,
    stride: usize,
    weights: &[[[__m256i; H]; 2]],
    acc: &mut [[__m256i; H]; ROWS],
) {
    let (mut rows, mut weights) = (rows, weights);
    if R == ROWS && H == HALVES {
        let (pairs, rest) = weights.as_chunks::<2>();
        // SAFETY: passed on from the caller.
        unsafe {
            tallest_pass(rows, stride, pairs, acc);
            rows = rows.add(pairs.len() * 16);
        }
        weights = rest;
        if weights.is_empty() {
            return;
        }
    }
    let mut sums: [[__m256i; H]; R] = std::array::from_fn(|r| acc[r]);
    for (i, weights) in weights.as_flattened().iter().enumerate() {
        for (r, sums) in sums.iter_mut().enumerate() {
            // SAFETY: the row has a pair here.
            let pair = unsafe { rows.add(r * stride + i * 4).cast::<i32>().read_unaligned() };
            let pair = _mm256_set1_epi32(pair);
            for (sum, &weights) in sums.iter_mut().zip(weights) {
                *sum = _mm256_add_epi32(*sum, _mm256_madd_epi16(pair, weights));
            }
        }
    }
    acc[..R].copy_from_slice(&sums);
}

/// As [`pass`], of the tallest tile and two groups of four at a time. Compilers load weights into registers when several rows use them, of which there are none
/// left.
///
/// # Safety
/// As [`pass`], for [`ROWS`] rows and [`HALVES`] halves.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn tallest_pass<const H: usize>(
    rows: *const u8,
    stride: usize,
    weights: &[[[[__m256i; H]; 2]; 2]],
    acc: &mut [[__m256i; H]; ROWS],
) {
    if weights.is_empty() {
        return;
    }
    let len = weights.len() * 16;
    macro_rules! products {
        ($pair:literal, $weights:literal) => {
            concat!(
                concat!("vpbroadcastd ymm12, [{a} + {at} + ", $pair, "]\n"),
                concat!("vpbroadcastd ymm13, [{b} + {at} + ", $pair, "]\n"),
                concat!("vpbroadcastd ymm14, [{c} + {at} + ", $pair, "]\n"),
                products!("ymm0", "ymm12", $weights, 0),
                products!("ymm4", "ymm13", $weights, 0),
                products!("ymm8", "ymm14", $weights, 0),
                products!("ymm1", "ymm12", $weights, 32),
                products!("ymm5", "ymm13", $weights, 32),
                products!("ymm9", "ymm14", $weights, 32),
                products!("ymm2", "ymm12", $weights, 64),
                products!("ymm6", "ymm13", $weights, 64),
                products!("ymm10", "ymm14", $weights, 64),
                products!("ymm3", "ymm12", $weights, 96),
                products!("ymm7", "ymm13", $weights, 96),
                products!("ymm11", "ymm14", $weights, 96),
            )
        };
        ($sum:literal, $pair:literal, $weights:literal, $half:literal) => {
            concat!(
                concat!(
                    "vpmaddwd ymm15, ",
                    $pair,
                    ", [{w} + ",
                    $weights,
                    " + ",
                    $half,
                    "]\n"
                ),
                concat!("vpaddd ", $sum, ", ", $sum, ", ymm15\n"),
            )
        };
    }
    // SAFETY: the loop reads four pairs of each row and 16 vectors of weights for two groups of four; the addresses are those of the ends of the rows, and
    // `at` runs up to 0.
    unsafe {
        let end = rows.add(len);
        asm!(
            "2:",
            products!(0, 0),
            products!(4, 128),
            products!(8, 256),
            products!(12, 384),
            "add {w}, 512",
            "add {at}, 16",
            "jne 2b",
            a = in(reg) end,
            b = in(reg) end.add(stride),
            c = in(reg) end.add(2 * stride),
            w = inout(reg) weights.as_ptr() => _,
            at = inout(reg) -(len as isize) => _,
            inout("ymm0") acc[0][0], inout("ymm1") acc[0][1], inout("ymm2") acc[0][2], inout("ymm3") acc[0][3],
            inout("ymm4") acc[1][0], inout("ymm5") acc[1][1], inout("ymm6") acc[1][2], inout("ymm7") acc[1][3],
            inout("ymm8") acc[2][0], inout("ymm9") acc[2][1], inout("ymm10") acc[2][2], inout("ymm11") acc[2][3],
            out("ymm12") _, out("ymm13") _, out("ymm14") _, out("ymm15") _,
            options(readonly, nostack),
        );
    }
}

/// Passes the sums of `R` rows through the output stage, 16 channels at a time.
///
/// # Safety
/// The invariants of [`Tile`] hold for `R` rows, and the processor has AVX2.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn store_all<const R: usize, const H: usize>(tile: &Tile<'_>, acc: &[[__m256i; H]; ROWS]) {
    for pair in 0..H / 2 {
        let sums: [[__m256i; 2]; R] =
            std::array::from_fn(|r| [acc[r][2 * pair], acc[r][2 * pair + 1]]);
        // SAFETY: passed on from the caller; the tile has a channel of each pair.
        unsafe { store(&tile.channels_from(pair * 16, 16), &sums) };
    }
}
