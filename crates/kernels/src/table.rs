//! The table of all kernels: what exists, for which instruction set, under which name.
//!
//! Each module lists its own kernels and [`kernels`] joins the lists. Tests enumerate the table, the
//! capability test of the passes compares its claims with it, and `explain` and the profiler print its
//! names. A name is `<operator>_<types>[_<tile>]__<instruction set>`, the way of XNNPACK:
//! `qconv_u8s8_6x64__avx512vnni` computes 6 pixels by 64 channels at a time.

use crate::Isa;

/// What a kernel computes. One family has one kernel for each instruction set that has a version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Family {
    /// Convolution, grouped or not, and matrix product of 8-bit activations with 8-bit weights: fbgemm.
    QConv,
    /// Depthwise convolution of 8-bit activations with 8-bit weights: fbgemm.
    QConvDepthwise,
    /// Convolution and matrix product through a table of offsets: qnnpack.
    QConvIndirect,
    /// Depthwise convolution of taps in pairs: qnnpack.
    QConvDepthwisePairs,
    /// Depthwise convolution of 8-bit planes to planes of floats: both engines.
    QConvDepthwisePlanes,
    /// Sum of two quantized tensors.
    QAdd,
    /// Product of two quantized tensors.
    QMul,
    /// Joining quantized tensors along an axis.
    QConcat,
    /// Maximum pooling of quantized values.
    QMaxPool,
    /// Average pooling of quantized values, global or windowed.
    QAvgPool,
    /// A function of one quantized value as a table of 256 entries.
    QTable,
    /// Softmax of quantized values.
    QSoftmax,
    /// Float to integers.
    Quantize,
    /// Integers to float.
    Dequantize,
    /// Integers to integers of other parameters.
    Rescale,
    /// Moving elements: transposes between channels-first and channels-last.
    Layout,
    /// Moving elements along axes: slices, resizing to nearest neighbours, borders, blocks, any transpose.
    Movement,
    /// Float convolution, and matrix product by weights.
    FConv,
    /// Float matrix product of two computed operands.
    FGemm,
    /// Any other float operator.
    FloatOther,
}

/// One entry of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kernel {
    /// What it computes.
    pub family: Family,
    /// The instruction set that it is written for.
    pub isa: Isa,
    /// The name that reports print; unique in the table.
    pub name: &'static str,
    /// Output rows (pixels) and columns (channels) computed at a time; (1, 1) where there is no tile.
    pub tile: (usize, usize),
}

/// All kernels of the crate, in the order of their modules.
pub fn kernels() -> impl Iterator<Item = &'static Kernel> {
    let engines = crate::fbgemm::KERNELS.iter();
    engines
        .chain(crate::qnnpack::KERNELS)
        .chain(crate::conv::planes::KERNELS)
        .chain(crate::shared::KERNELS)
        .chain(crate::shared::movement::KERNELS)
        .chain(crate::float::KERNELS)
        .chain(crate::float::MICRO_KERNELS)
}

/// The kernel that runs when `family` is called with `isa`: its own version, or that of the next simpler
/// instruction set that has one.
pub fn find(family: Family, isa: Isa) -> Option<&'static Kernel> {
    let mut candidate = Some(isa);
    while let Some(isa) = candidate {
        let found = kernels().find(|kernel| kernel.family == family && kernel.isa == isa);
        if found.is_some() {
            return found;
        }
        candidate = isa.fallback();
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_end_with_their_instruction_set() {
        let mut names: Vec<_> = kernels().map(|kernel| kernel.name).collect();
        for kernel in kernels() {
            assert!(
                kernel.name.ends_with(&format!("__{}", kernel.isa)),
                "{}",
                kernel.name
            );
        }
        names.sort_unstable();
        names
            .windows(2)
            .for_each(|pair| assert_ne!(pair[0], pair[1]));
    }

    #[test]
    fn every_family_of_the_table_has_a_scalar_kernel() {
        for kernel in kernels() {
            assert!(
                find(kernel.family, Isa::Scalar).is_some(),
                "{:?}",
                kernel.family
            );
        }
    }
}
