//! The one stored form of float weights that all instruction sets read in place.
//!
//! For each group `[OC/16][K][16]`, where OC are the output channels of the group, padded with zeros to a multiple of 16, and K
//! runs over (kernel row, kernel column, input channel): the weights of 16 channels for one activation are together, and a panel of
//! 16 channels is read from its start to its end.
//!
//! Plans store the result at a multiple of 64 bytes; kernels work with any alignment.

use super::micro::PANEL;
use crate::KernelError;
use crate::conv::ConvShape;
use crate::conv::shape::{CheckedShape, product};
use crate::error::check_len;

/// The number of floats of the packed weights of a convolution.
///
/// # Errors
/// When the sizes describe no convolution, or one too large to address.
pub fn packed_len(shape: &ConvShape) -> Result<usize, KernelError> {
    let checked = shape.check()?;
    product("the packed weights", &[shape.groups, group_len(&checked)?])
}

/// Floats of the packed weights of one group.
pub(super) fn group_len(checked: &CheckedShape) -> Result<usize, KernelError> {
    let panels = checked.group_out.div_ceil(PANEL);
    product("the packed weights", &[panels, checked.k, PANEL])
}

/// Packs weights `[out_c, in_c / groups, kernel_h, kernel_w]` (OIHW) into the form that the kernels read.
///
/// # Errors
/// When the sizes describe no convolution, or when the number of weights is another.
pub fn pack(shape: &ConvShape, weights: &[f32]) -> Result<Vec<f32>, KernelError> {
    let checked = shape.check()?;
    check_len("the weights", checked.k * shape.out_c, weights.len())?;
    let mut packed = vec![0.0; packed_len(shape)?];
    let group_len = group_len(&checked)?;
    for (channel, kernel) in weights.chunks_exact(checked.k).enumerate() {
        let (group, channel) = (channel / checked.group_out, channel % checked.group_out);
        let panel = group * group_len + channel / PANEL * checked.k * PANEL;
        for (i, &weight) in kernel.iter().enumerate() {
            let (input, tap) = (i / checked.taps, i % checked.taps);
            let k = tap * checked.group_in + input;
            packed[panel + k * PANEL + channel % PANEL] = weight;
        }
    }
    Ok(packed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sixteen_channels_lie_together() {
        let shape = ConvShape::pointwise(3, 3, 8, 17).with_kernel(2, 1, 0);
        let weights: Vec<f32> = (0..17 * 8 * 4).map(|i| i as f32 + 1.0).collect();
        let packed = pack(&shape, &weights).expect("a valid shape");
        assert_eq!(packed.len(), 2 * 32 * 16);
        // Channel 16, input channel 5, tap (1, 0): k = 2·8 + 5 = 21.
        assert_eq!(packed[32 * 16 + 21 * 16], weights[16 * 32 + 5 * 4 + 2]);
        let padding = packed[32 * 16..]
            .chunks(16)
            .all(|step| step[1..] == [0.0; 15]);
        assert!(padding);
    }
}
