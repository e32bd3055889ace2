//! The fbgemm engine: 8-bit convolutions and matrix products for x86, `u8` or `i8` activations by symmetric
//! `i8` weights.
//!
//! This module owns how weights are packed ([`pack()`]), how the constants of the output are made
//! ([`fold_bias`], [`OutputStage`]) and the drivers that compute a range of output pixels ([`conv()`]) or a
//! block of a matrix product ([`linear`]), with one thread; a pool splits ranges. Sums are exact in 32 bits
//! and the rest is `octofold_quant::requantize`, so every instruction set gives the same bytes.
//!
//! The design follows FBGEMM (fused output stages, weights packed once), QNNPACK (no im2col: taps are found
//! through a table) and MLAS (6 pixels by 64 channels in registers, `[OC/16][tap][IC/4][16][4]` weights).
//! Weights have zero point 0 here; anything else belongs to the other engine.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512vnni;
mod conv;
mod depthwise;
mod gather;
mod output;
mod pack;
mod scalar;
mod shape;
#[cfg(test)]
mod tests;
mod tile;

pub use conv::{PIXEL_GRAIN, conv, conv_scratch_len, linear, linear_scratch_len};
pub use output::{
    Activations, Float, FloatRows, OutputSlice, OutputStage, Quantized, Residual, fold_bias,
    weight_sums,
};
pub use pack::{pack, packed_len};
pub use shape::{ConvMethod, ConvShape, LinearShape};

use crate::Isa;
use crate::table::{Family, Kernel};

/// The kernels of this engine.
pub(crate) const KERNELS: &[Kernel] = &[
    Kernel {
        family: Family::QConv,
        isa: Isa::Scalar,
        name: "qconv_u8s8_4x16__scalar",
        tile: (4, 16),
    },
    Kernel {
        family: Family::QConv,
        isa: Isa::Avx2,
        name: "qconv_u8s8_6x16__avx2",
        tile: (6, 16),
    },
    Kernel {
        family: Family::QConv,
        isa: Isa::Avx512Vnni,
        name: "qconv_u8s8_6x64__avx512vnni",
        tile: (6, 64),
    },
    Kernel {
        family: Family::QConvDepthwise,
        isa: Isa::Scalar,
        name: "qconv_depthwise_u8s8_1x1__scalar",
        tile: (1, 1),
    },
    Kernel {
        family: Family::QConvDepthwise,
        isa: Isa::Avx2,
        name: "qconv_depthwise_u8s8_1x32__avx2",
        tile: (1, 32),
    },
    Kernel {
        family: Family::QConvDepthwise,
        isa: Isa::Avx512Vnni,
        name: "qconv_depthwise_u8s8_4x64__avx512vnni",
        tile: (4, 64),
    },
];
