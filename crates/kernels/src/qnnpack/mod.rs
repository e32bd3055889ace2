//! The qnnpack engine: 8-bit convolutions and matrix products for ARM, and for any other processor, bit for bit.
//!
//! This module owns how weights are packed ([`pack()`]), where the taps of every output pixel are
//! ([`Indirection`]) and the drivers that compute a range of output pixels by a range of output channels, with
//! one thread; a pool splits ranges. Sizes, output stages and portable inner loops are those of
//! [`crate::conv`], which calls the drivers, and so are the results: the bytes of the other engine.
//!
//! The design is QNNPACK's: panels of 8 channels with their constants in one stream, no im2col buffer but a table
//! that is made once for a shape, and one kernel of 8 pixels by 8 channels. The table holds offsets where QNNPACK holds
//! pointers, so that it stays right when the activations move. Weights have zero point 0, and requantization is by
//! float multipliers (`octofold_quant::requantize`), not QNNPACK's Q31, so that any multiplier is allowed.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512vnni;
mod conv;
pub(crate) mod depthwise;
mod indirection;
#[cfg(target_arch = "aarch64")]
mod neon;
#[cfg(target_arch = "aarch64")]
mod neondot;
mod pack;

pub(crate) use conv::run;
pub(crate) use indirection::Indirection;
pub(crate) use pack::{PANEL, pack, packed_len};

use crate::Isa;
use crate::conv::scalar;
use crate::conv::tile::Micro;

/// The micro kernel of `isa`, which the caller has found supported.
pub(crate) fn micro(isa: Isa) -> Micro {
    match isa {
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 => avx2::MICRO,
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512Vnni => avx512vnni::MICRO,
        #[cfg(target_arch = "aarch64")]
        Isa::Neon => neon::MICRO,
        #[cfg(target_arch = "aarch64")]
        Isa::NeonDot => neondot::MICRO,
        _ => Micro {
            form: pack::FORM,
            max_panels: 1,
            fit: |rows, _| (rows.min(scalar::ROWS), 1),
            run: scalar::tile::<{ PANEL }, { pack::FORM.header }>,
            widen: None,
        },
    }
}
