//! The one stored form of weights that all instruction sets read in place.
//!
//! Convolutions and matrix products: for each group `[OC/8]` panels of 8 channels, padded with zeros; a panel is
//! 8 `i32` and then `[tap][IC/4][8][4]` of `i8`, with the input channels padded with zeros to a multiple of 4. The
//! numbers in front are `128·Σw` of each channel: what instructions that multiply signed bytes start from, since they
//! compute on `x - 128` instead of `x`. A block of 32 bytes holds four consecutive products of 8 channels: two
//! operands of `sdot`.
//!
//! Depthwise: `[C/8][tap/2][8][2]` of `i8`: the taps of the kernel in rows, two at a time for 8 channels, padded with
//! zeros.
//!
//! Plans store the result at a multiple of 64 bytes; kernels work with any alignment.

use crate::KernelError;
use crate::conv::shape::{CheckedShape, product};
use crate::conv::tile::PanelForm;

/// Output channels of a panel of packed weights: ranges of channels start at multiples of it.
pub(crate) const PANEL: usize = 8;

/// The form of a panel.
pub(super) const FORM: PanelForm = PanelForm {
    channels: PANEL,
    header: 4 * PANEL,
};

/// The number of bytes of the packed weights of a convolution.
///
/// # Errors
/// When there are too many to address.
pub(crate) fn packed_len(sizes: &CheckedShape) -> Result<usize, KernelError> {
    let (what, groups) = ("the packed weights", sizes.shape.groups);
    if sizes.depthwise {
        let panels = sizes.shape.out_c.div_ceil(PANEL);
        return product(what, &[panels, depthwise_panel_len(sizes)]);
    }
    let panels = sizes.group_out.div_ceil(PANEL);
    let products = product(what, &[sizes.taps, quads(sizes), FORM.block()])?;
    product(what, &[groups, panels, FORM.header + products])
}

/// Packs weights `[out_c, in_c / groups, kernel_h, kernel_w]` (OIHW), whose number was checked, into the form that the kernels read.
///
/// # Errors
/// When the packed weights are too many to address.
pub(crate) fn pack(sizes: &CheckedShape, weights: &[i8]) -> Result<Vec<u8>, KernelError> {
    let mut packed = vec![0_u8; packed_len(sizes)?];
    if sizes.depthwise {
        for (channel, kernel) in weights.chunks_exact(sizes.taps).enumerate() {
            let panel = channel / PANEL * depthwise_panel_len(sizes);
            for (tap, &weight) in kernel.iter().enumerate() {
                let pair = panel + tap / 2 * 2 * PANEL;
                packed[pair + channel % PANEL * 2 + tap % 2] = weight as u8;
            }
        }
        return Ok(packed);
    }
    let (group_len, panel_len) = (group_len(sizes), panel_len(sizes));
    for (channel, kernel) in weights.chunks_exact(sizes.k).enumerate() {
        let (group, channel) = (channel / sizes.group_out, channel % sizes.group_out);
        let panel = group * group_len + channel / PANEL * panel_len;
        let lane = channel % PANEL * 4;
        let sum = kernel.iter().fold(0_i32, |sum, &weight| {
            sum.wrapping_add(i32::from(weight) * 128)
        });
        packed[panel + lane..][..4].copy_from_slice(&sum.to_le_bytes());
        for (i, &weight) in kernel.iter().enumerate() {
            let (input, tap) = (i / sizes.taps, i % sizes.taps);
            let block = tap * quads(sizes) + input / 4;
            packed[panel + FORM.header + block * FORM.block() + lane + input % 4] = weight as u8;
        }
    }
    Ok(packed)
}

/// Groups of four products a tap.
pub(super) fn quads(sizes: &CheckedShape) -> usize {
    sizes.group_in.div_ceil(4)
}

/// Bytes of a panel; see [`packed_len`], which checks that they can be addressed.
fn panel_len(sizes: &CheckedShape) -> usize {
    FORM.header + sizes.taps * quads(sizes) * FORM.block()
}

/// Bytes of the packed weights of one group; see [`packed_len`].
pub(super) fn group_len(sizes: &CheckedShape) -> usize {
    sizes.group_out.div_ceil(PANEL) * panel_len(sizes)
}

/// Bytes of a panel of a depthwise convolution.
pub(super) fn depthwise_panel_len(sizes: &CheckedShape) -> usize {
    sizes.taps.div_ceil(2) * 2 * PANEL
}

#[cfg(test)]
mod tests {
    use crate::Engine;
    use crate::conv::{ConvShape, pack};

    #[test]
    fn four_products_of_eight_channels_lie_behind_their_sums() {
        let shape = ConvShape::pointwise(3, 3, 6, 9).with_kernel(2, 1, 0);
        let weights: Vec<i8> = (0..9 * 24).map(|i| (i % 251) as u8 as i8).collect();
        let packed = pack(Engine::Qnnpack, &shape, &weights).expect("a valid shape");
        let panel = 32 + 4 * 2 * 32;
        assert_eq!(packed.len(), 2 * panel);
        // Channel 8, input channel 5, tap (1, 0).
        let weight = weights[8 * 24 + 5 * 4 + 2];
        assert_eq!(packed[panel + 32 + (2 * 2 + 1) * 32 + 1] as i8, weight);
        let sum: i32 = weights[24..48].iter().map(|&w| i32::from(w) * 128).sum();
        assert_eq!(packed[4..8], sum.to_le_bytes());
    }

    #[test]
    fn two_taps_of_eight_channels_lie_together() {
        let shape = ConvShape {
            groups: 10,
            ..ConvShape::pointwise(5, 5, 10, 10).with_kernel(3, 1, 0)
        };
        let weights: Vec<i8> = (0..90).collect();
        let packed = pack(Engine::Qnnpack, &shape, &weights).expect("a valid shape");
        assert_eq!(packed.len(), 2 * 5 * 16);
        // Channel 9, taps 8 and none.
        assert_eq!(packed[80 + 4 * 16 + 2..][..2], [89, 0]);
    }
}
