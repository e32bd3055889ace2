//! The fbgemm engine: 8-bit convolutions and matrix products for x86, `u8` or `i8` activations by symmetric
//! `i8` weights.
//!
//! This module owns how weights are packed ([`pack()`]) and the drivers that compute a range of output pixels by a range of output channels, with
//! one thread; a pool splits ranges. Sizes, output stages and portable inner loops are those of [`crate::conv`], which calls the drivers.
//!
//! The design follows FBGEMM (fused output stages, weights packed once), QNNPACK (no im2col: taps are found
//! through a table) and MLAS (6 pixels by 64 channels in registers, `[OC/16][tap][IC/4][16][4]` weights).
//! Weights have zero point 0.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512vnni;
mod conv;
pub(crate) mod depthwise;
#[cfg(target_arch = "x86_64")]
mod finish;
mod gather;
mod lines;
mod pack;

pub(crate) use conv::{Layout, run};
pub(crate) use pack::{PANEL, pack, packed_len};

use crate::Isa;
use crate::conv::scalar;
use crate::conv::tile::Micro;

/// The micro kernels of `isa`, which the caller has found supported.
pub(crate) fn micro(isa: Isa) -> Micro {
    match isa {
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512Vnni => avx512vnni::MICRO,
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 => avx2::MICRO,
        _ => Micro {
            form: pack::FORM,
            max_panels: 1,
            fit: |rows, _| (rows.min(scalar::ROWS), 1),
            run: scalar::tile::<PANEL, { pack::FORM.header }>,
            widen: None,
        },
    }
}
