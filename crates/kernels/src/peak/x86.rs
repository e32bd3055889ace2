//! AVX2 and AVX-512: only the instructions that multiply, load and store.

use std::arch::asm;

use super::caches::{Line, STEP};
use super::{BYTES, FLOATS, Loops, ROUNDS, scalar};

/// Chains of AVX-512: the 24 sums of the tallest tile, of 32 registers.
const WIDE_CHAINS: u64 = 24;
/// Chains of AVX2: the 12 sums of the tallest tile, of 16 registers.
const CHAINS: u64 = 12;

/// For a processor with AVX-512 VNNI, as `Isa::is_supported` finds.
pub(super) fn avx512vnni() -> Loops {
    Loops {
        // SAFETY: the processor has AVX-512 F and VNNI.
        int8: || unsafe { int8_avx512vnni() },
        // SAFETY: as above.
        float: || unsafe { float_avx512() },
        // SAFETY: as above.
        read: |lines| unsafe { read_avx512(lines) },
        // SAFETY: as above.
        write: |lines| unsafe { write_avx512(lines) },
    }
}

/// For a processor with AVX2, as `Isa::is_supported` finds.
pub(super) fn avx2() -> Loops {
    Loops {
        // SAFETY: the processor has AVX2.
        int8: || unsafe { int8_avx2() },
        float: || {
            if is_x86_feature_detected!("fma") {
                // SAFETY: the processor has AVX2 and FMA.
                unsafe { float_avx2() }
            } else {
                (scalar::LOOPS.float)()
            }
        },
        // SAFETY: as above.
        read: |lines| unsafe { read_avx2(lines) },
        // SAFETY: as above.
        write: |lines| unsafe { write_avx2(lines) },
    }
}

/// Chains of instructions on some sums, `$sums`, in which `\r` is the number of a sum. `$broadcast` makes vectors of the operands, `$zero` clears a sum.
macro_rules! chains {
    ($operands:expr, $sums:literal, [$($broadcast:literal),+], $zero:literal, $($instruction:literal),+) => {{
        let [x, w] = $operands;
        // SAFETY: the caller has the instructions; they change registers only, and those that a function may change.
        unsafe {
            asm!(
                $($broadcast,)+
                concat!(".irp r, ", $sums),
                $zero,
                ".endr",
                ".p2align 5",
                "2:",
                concat!(".irp r, ", $sums),
                $($instruction,)+
                ".endr",
                "dec rcx",
                "jnz 2b",
                x = in(reg) x,
                w = in(reg) w,
                inout("rcx") ROUNDS => _,
                clobber_abi("sysv64"),
                options(nomem, nostack),
            );
        }
    }};
}

/// 24 chains on the sums `zmm0` to `zmm23`, with the operands broadcast in `zmm30` and `zmm31`.
macro_rules! wide_chains {
    ($operands:expr, $instruction:literal) => {
        chains!(
            $operands,
            "0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23",
            ["vpbroadcastd zmm30, {x:e}", "vpbroadcastd zmm31, {w:e}"],
            "vpxord zmm\\r, zmm\\r, zmm\\r",
            $instruction
        )
    };
}

/// 12 chains on the sums `ymm0` to `ymm11`, with the operands broadcast in `ymm14` and `ymm15`.
macro_rules! narrow_chains {
    ($operands:expr, $($instruction:literal),+) => {
        chains!(
            $operands,
            "0,1,2,3,4,5,6,7,8,9,10,11",
            [
                "vmovd xmm14, {x:e}",
                "vmovd xmm15, {w:e}",
                "vpbroadcastd ymm14, xmm14",
                "vpbroadcastd ymm15, xmm15"
            ],
            "vpxor ymm\\r, ymm\\r, ymm\\r",
            $($instruction),+
        )
    };
}

/// 24 chains of `vpdpbusd`, of 64 products each.
#[target_feature(enable = "avx512f,avx512vnni")]
fn int8_avx512vnni() -> u64 {
    wide_chains!(BYTES, "vpdpbusd zmm\\r, zmm30, zmm31");
    ROUNDS * WIDE_CHAINS * 64 * 2
}

/// 24 chains of fused multiply-adds, of 16 products each.
#[target_feature(enable = "avx512f")]
fn float_avx512() -> u64 {
    wide_chains!(FLOATS, "vfmadd231ps zmm\\r, zmm30, zmm31");
    ROUNDS * WIDE_CHAINS * 16 * 2
}

/// 12 chains of `vpmaddwd`, 16 products of 16-bit numbers, and of the `vpaddd` that adds their pairs to the sums.
#[target_feature(enable = "avx2")]
fn int8_avx2() -> u64 {
    narrow_chains!(
        BYTES,
        "vpmaddwd ymm12, ymm14, ymm15",
        "vpaddd ymm\\r, ymm\\r, ymm12"
    );
    ROUNDS * CHAINS * 16 * 2
}

/// 12 chains of fused multiply-adds, of 8 products each.
#[target_feature(enable = "avx2,fma")]
fn float_avx2() -> u64 {
    narrow_chains!(FLOATS, "vfmadd231ps ymm\\r, ymm14, ymm15");
    ROUNDS * CHAINS * 8 * 2
}

/// Repeats instructions that go over [`STEP`] lines, 256 bytes, at `{at}`.
macro_rules! over_lines {
    ($lines:expr, $start:expr, $($instruction:literal),+) => {{
        let steps = $lines.len() / STEP;
        if steps > 0 {
            // SAFETY: the caller has the instructions, and the slice has `steps` times 256 bytes, over which they go once; it is exclusive
            // where they write.
            unsafe {
                asm!(
                    ".p2align 5",
                    "2:",
                    $($instruction,)+
                    "add {at}, 256",
                    "dec {steps}",
                    "jnz 2b",
                    at = inout(reg) $start => _,
                    steps = inout(reg) steps => _,
                    // Its wider forms are the same register.
                    out("xmm0") _,
                    options(nostack),
                );
            }
        }
    }};
}

#[target_feature(enable = "avx512f")]
fn read_avx512(lines: &[Line]) {
    over_lines!(
        lines,
        lines.as_ptr(),
        "vmovups zmm0, [{at}]",
        "vmovups zmm0, [{at} + 64]",
        "vmovups zmm0, [{at} + 128]",
        "vmovups zmm0, [{at} + 192]"
    );
}

#[target_feature(enable = "avx512f")]
fn write_avx512(lines: &mut [Line]) {
    over_lines!(
        lines,
        lines.as_mut_ptr(),
        "vmovups [{at}], zmm0",
        "vmovups [{at} + 64], zmm0",
        "vmovups [{at} + 128], zmm0",
        "vmovups [{at} + 192], zmm0"
    );
}

#[target_feature(enable = "avx2")]
fn read_avx2(lines: &[Line]) {
    over_lines!(
        lines,
        lines.as_ptr(),
        "vmovups ymm0, [{at}]",
        "vmovups ymm0, [{at} + 32]",
        "vmovups ymm0, [{at} + 64]",
        "vmovups ymm0, [{at} + 96]",
        "vmovups ymm0, [{at} + 128]",
        "vmovups ymm0, [{at} + 160]",
        "vmovups ymm0, [{at} + 192]",
        "vmovups ymm0, [{at} + 224]"
    );
}

#[target_feature(enable = "avx2")]
fn write_avx2(lines: &mut [Line]) {
    over_lines!(
        lines,
        lines.as_mut_ptr(),
        "vmovups [{at}], ymm0",
        "vmovups [{at} + 32], ymm0",
        "vmovups [{at} + 64], ymm0",
        "vmovups [{at} + 96], ymm0",
        "vmovups [{at} + 128], ymm0",
        "vmovups [{at} + 160], ymm0",
        "vmovups [{at} + 192], ymm0",
        "vmovups [{at} + 224], ymm0"
    );
}
