//! NEON, with and without dot products: only the instructions that multiply, load and store.

use std::arch::asm;

use super::caches::{Line, STEP};
use super::{BYTES, FLOATS, Loops, ROUNDS};

/// Chains: sums in 24 of 32 registers. Kernels have 16 sums and keep operands in the rest.
const CHAINS: u64 = 24;

pub(super) fn neon() -> Loops {
    Loops {
        int8: int8_neon,
        float: float_neon,
        read: read_neon,
        write: write_neon,
    }
}

pub(super) fn neondot() -> Loops {
    Loops {
        // SAFETY: the loop is for a processor with dot products, as `Isa::is_supported` found.
        int8: || unsafe { int8_neondot() },
        ..neon()
    }
}

/// 24 chains of one instruction on the sums `v0` to `v23`, with the operands broadcast in `v30` and `v31`.
macro_rules! chains {
    ($instruction:literal, $operands:expr) => {{
        let [x, w] = $operands;
        // SAFETY: the caller has the instructions; they change registers only, and those that a function may change.
        unsafe {
            asm!(
                "dup v30.4s, {x:w}",
                "dup v31.4s, {w:w}",
                ".irp r, 0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23",
                "movi v\\r\\().2d, #0",
                ".endr",
                ".p2align 5",
                "2:",
                ".irp r, 0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23",
                $instruction,
                ".endr",
                "subs x9, x9, #1",
                "b.ne 2b",
                x = in(reg) x,
                w = in(reg) w,
                inout("x9") ROUNDS => _,
                clobber_abi("C"),
                options(nomem, nostack),
            );
        }
    }};
}

/// 24 chains of `smlal`, four products of 16-bit numbers each. `qnnpack/neon.rs` multiplies by a lane, which is as fast; but lanes of 16 bits must
/// be in the lower registers, where the sums are here.
fn int8_neon() -> u64 {
    chains!("smlal v\\r\\().4s, v30.4h, v31.4h", BYTES);
    ROUNDS * CHAINS * 4 * 2
}

/// 24 chains of `sdot` by a lane, as in `qnnpack/neondot.rs`: 16 products each.
#[target_feature(enable = "neon,dotprod")]
fn int8_neondot() -> u64 {
    chains!("sdot v\\r\\().4s, v30.16b, v31.4b[0]", BYTES);
    ROUNDS * CHAINS * 16 * 2
}

/// 24 chains of fused multiply-adds by a lane, of four products each.
fn float_neon() -> u64 {
    chains!("fmla v\\r\\().4s, v30.4s, v31.s[0]", FLOATS);
    ROUNDS * CHAINS * 4 * 2
}

/// Repeats an instruction on pairs of registers, at eight offsets over [`STEP`] lines: 256 bytes at `{at}`.
macro_rules! over_lines {
    ($lines:expr, $start:expr, $instruction:literal) => {{
        let steps = $lines.len() / STEP;
        if steps > 0 {
            // SAFETY: every 64-bit ARM has the instructions, and the slice has `steps` times 256 bytes, over which they go once; it is
            // exclusive where they write.
            unsafe {
                asm!(
                    ".p2align 5",
                    "2:",
                    concat!($instruction, " q0, q1, [{at}]"),
                    concat!($instruction, " q0, q1, [{at}, #32]"),
                    concat!($instruction, " q0, q1, [{at}, #64]"),
                    concat!($instruction, " q0, q1, [{at}, #96]"),
                    concat!($instruction, " q0, q1, [{at}, #128]"),
                    concat!($instruction, " q0, q1, [{at}, #160]"),
                    concat!($instruction, " q0, q1, [{at}, #192]"),
                    concat!($instruction, " q0, q1, [{at}, #224]"),
                    "add {at}, {at}, #256",
                    "subs {steps}, {steps}, #1",
                    "b.ne 2b",
                    at = inout(reg) $start => _,
                    steps = inout(reg) steps => _,
                    out("v0") _,
                    out("v1") _,
                    options(nostack),
                );
            }
        }
    }};
}

fn read_neon(lines: &[Line]) {
    over_lines!(lines, lines.as_ptr(), "ldp");
}

fn write_neon(lines: &mut [Line]) {
    over_lines!(lines, lines.as_mut_ptr(), "stp");
}
