//! The one stored form of weights that all x86 instruction sets read in place.
//!
//! Convolutions and matrix products: for each group `[OC/16][K/4][16][4]` of `i8`, where OC are the output
//! channels of the group, padded with zeros to a multiple of 16, and K runs over (kernel row, kernel column,
//! input channel), padded with zeros to a multiple of 4. One 64-byte block holds four consecutive products of
//! 16 channels: one operand of `vpdpbusd`. Where the input channels of a group are a multiple of 4 this is
//! `[OC/16][tap][IC/4][16][4]`, and the activations are read where they lie.
//!
//! Depthwise: see [`depthwise_position`]. Four taps of one kernel column lie together, so that one `vpdpbusd`
//! does four rows of the kernel.
//!
//! Plans store the result at a multiple of 64 bytes; kernels work with any alignment.

use crate::KernelError;
use crate::conv::shape::{CheckedShape, ConvShape, product};
use crate::conv::tile::PanelForm;
use crate::error::check_len;

/// Output channels of one block of packed weights.
pub(super) const PANEL: usize = 16;

/// Bytes of one block: four products of 16 channels.
pub(super) const BLOCK: usize = FORM.block();

/// The form of a panel.
pub(super) const FORM: PanelForm = PanelForm {
    channels: PANEL,
    header: 0,
};

/// The number of bytes of the packed weights of a convolution.
///
/// # Errors
/// When the sizes describe no convolution, or one too large to address.
pub fn packed_len(shape: &ConvShape) -> Result<usize, KernelError> {
    let checked = shape.check()?;
    let what = "the packed weights";
    if checked.depthwise {
        let panels = shape.out_c.div_ceil(PANEL);
        return product(what, &[panels, depthwise_quads(shape), BLOCK]);
    }
    product(what, &[shape.groups, group_len(&checked)?])
}

/// Packs weights `[out_c, in_c / groups, kernel_h, kernel_w]` (OIHW) into the form that the kernels read.
///
/// # Errors
/// When the sizes describe no convolution, or when the number of weights is another.
pub fn pack(shape: &ConvShape, weights: &[i8]) -> Result<Vec<u8>, KernelError> {
    let checked = shape.check()?;
    check_len("the weights", checked.k * shape.out_c, weights.len())?;
    let mut packed = vec![0_u8; packed_len(shape)?];
    if checked.depthwise {
        for (channel, kernel) in weights.chunks_exact(checked.taps).enumerate() {
            for (tap, &weight) in kernel.iter().enumerate() {
                let (row, column) = (tap / shape.kernel_w, tap % shape.kernel_w);
                packed[depthwise_position(shape, channel, row, column)] = weight as u8;
            }
        }
        return Ok(packed);
    }
    let quads = checked.k.div_ceil(4);
    let group_len = group_len(&checked)?;
    for (channel, kernel) in weights.chunks_exact(checked.k).enumerate() {
        let (group, channel) = (channel / checked.group_out, channel % checked.group_out);
        let panel = group * group_len + channel / PANEL * quads * BLOCK;
        let lane = channel % PANEL * 4;
        for (i, &weight) in kernel.iter().enumerate() {
            let (input, tap) = (i / checked.taps, i % checked.taps);
            let k = tap * checked.group_in + input;
            packed[panel + k / 4 * BLOCK + lane + k % 4] = weight as u8;
        }
    }
    Ok(packed)
}

/// Bytes of the packed weights of one group.
pub(super) fn group_len(checked: &CheckedShape) -> Result<usize, KernelError> {
    let panels = checked.group_out.div_ceil(PANEL);
    product(
        "the packed weights",
        &[panels, checked.k.div_ceil(4), BLOCK],
    )
}

/// Blocks of four taps of a depthwise kernel: each column of the kernel is padded to a multiple of four.
pub(super) fn depthwise_quads(shape: &ConvShape) -> usize {
    shape.kernel_w * shape.kernel_h.div_ceil(4)
}

/// Where the weight of one tap of one channel of a depthwise convolution lies.
///
/// Up to 64 channels form a block, `[kernel column][kernel row / 4][4 quarters][P panels][4 channels][4
/// kernel rows]`, with P = 4, or what remains in the last block. Quarter `j` of panel `p` are the channels
/// `16p + 4j..`: the order in which byte and word interleaves within 128-bit lanes leave the activations of
/// 16P channels.
pub(super) fn depthwise_position(
    shape: &ConvShape,
    channel: usize,
    row: usize,
    column: usize,
) -> usize {
    let quads = depthwise_quads(shape);
    let (panel, lane) = (channel / PANEL, channel % PANEL);
    let block = panel / 4 * 4;
    let panels = (shape.out_c.div_ceil(PANEL) - block).min(4);
    let quad = column * shape.kernel_h.div_ceil(4) + row / 4;
    let in_block = ((quad * 4 + lane / 4) * panels + (panel - block)) * 16;
    block * quads * BLOCK + in_block + lane % 4 * 4 + row % 4
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn four_products_of_sixteen_channels_lie_together() {
        let shape = ConvShape::square((3, 3, 8), 17, 2, 1, 0);
        let count = 17 * 8 * 4;
        let weights: Vec<i8> = (0..count).map(|i| (i % 251) as u8 as i8).collect();
        let packed = pack(&shape, &weights).expect("a valid shape");
        assert_eq!(packed.len(), 32 * 32);
        // Channel 16, input channel 5, tap (1, 0): k = 2·8 + 5 = 21.
        let weight = weights[16 * 32 + 5 * 4 + 2];
        assert_eq!(packed[8 * BLOCK + 5 * BLOCK + 1] as i8, weight);
        assert!(
            packed[8 * BLOCK..]
                .chunks(BLOCK)
                .all(|block| block[4..].iter().all(|&w| w == 0))
        );
    }

    #[test]
    fn depthwise_positions_are_distinct_and_inside() {
        for (channels, kernel_h, kernel_w) in [(16, 3, 3), (70, 5, 2), (144, 1, 7), (65, 7, 7)] {
            let shape = ConvShape {
                kernel_h,
                kernel_w,
                groups: channels,
                ..ConvShape::square((9, 9, channels), channels, 1, 1, 0)
            };
            let mut seen = vec![false; packed_len(&shape).expect("a valid shape")];
            for channel in 0..channels {
                for tap in 0..kernel_h * kernel_w {
                    let at = depthwise_position(&shape, channel, tap / kernel_w, tap % kernel_w);
                    assert!(!std::mem::replace(&mut seen[at], true));
                }
            }
        }
    }
}
