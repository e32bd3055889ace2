//! The one stored form of weights that all x86 instruction sets read in place.
//!
//! Convolutions and matrix products: for each group `[OC/16][K/4][16][4]` of `i8`, where OC are the output
//! channels of the group, padded with zeros to a multiple of 16, and K runs over (kernel row, kernel column,
//! input channel). One 64-byte block holds four consecutive products of 16 channels: one operand of
//! `vpdpbusd`. What of K is padded with zeros to a multiple of 4 is decided by [`Reading`].
//!
//! Depthwise: see [`depthwise_position`]. Four taps of one kernel column are together, so that one `vpdpbusd`
//! does four rows of the kernel.
//!
//! Plans store the result at a multiple of 64 bytes; kernels work with any alignment.

use crate::KernelError;
use crate::conv::shape::{CheckedShape, ConvShape, product};
use crate::conv::tile::PanelForm;

/// Output channels of one block of packed weights.
pub(crate) const PANEL: usize = 16;

/// Bytes of one block: four products of 16 channels.
pub(super) const BLOCK: usize = FORM.block();

/// The form of a panel.
pub(super) const FORM: PanelForm = PanelForm {
    channels: PANEL,
    header: 0,
};

/// How the activations under a kernel are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Source {
    /// Each tap in place: a group has a multiple of four channels.
    Taps,
    /// Each row of the kernel in place, as one tap: see [`super::lines`].
    Lines,
    /// All taps as one, from patches that are gathered first: see [`super::gather`].
    Patches,
}

/// How the activations under a kernel are read, and so how K is padded: `taps` taps, each of whole groups of four.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reading {
    pub(super) source: Source,
    pub(super) taps: usize,
    /// Groups of four of a tap.
    pub(super) quads: usize,
}

impl Reading {
    /// Longest row of a kernel that is read as one tap: the extra rows of many pixels are less than what offsets can name.
    const LONGEST: usize = 1 << 10;

    pub(super) fn new(sizes: &CheckedShape) -> Self {
        let shape = &sizes.shape;
        let line = shape.kernel_w.saturating_mul(shape.in_c);
        let adjacent = shape.groups == 1 && shape.dilation_w == 1;
        let (source, taps, depth) = if sizes.group_in.is_multiple_of(4) {
            (Source::Taps, sizes.taps, sizes.group_in)
        } else if adjacent && line <= Self::LONGEST && sizes.kernel_lines <= 64 {
            (Source::Lines, sizes.kernel_lines, line)
        } else {
            (Source::Patches, 1, sizes.k)
        };
        Self {
            source,
            taps,
            quads: depth.div_ceil(4),
        }
    }

    /// Bytes of the packed weights of one group.
    pub(super) fn group_len(&self, sizes: &CheckedShape) -> Result<usize, KernelError> {
        let panels = sizes.group_out.div_ceil(PANEL);
        product(
            "the packed weights",
            &[panels, self.taps, self.quads, BLOCK],
        )
    }

    /// Where in the padded K the product of an input channel and a tap of the kernel is.
    fn position(&self, sizes: &CheckedShape, channel: usize, tap: usize) -> usize {
        let (group_in, kernel_w) = (sizes.group_in, sizes.shape.kernel_w);
        match self.source {
            Source::Taps | Source::Patches => tap * group_in + channel,
            Source::Lines => {
                let (row, column) = (tap / kernel_w, tap % kernel_w);
                row * self.quads * 4 + column * group_in + channel
            }
        }
    }
}

/// The number of bytes of the packed weights of a convolution.
///
/// # Errors
/// When there are too many to address.
pub(crate) fn packed_len(sizes: &CheckedShape) -> Result<usize, KernelError> {
    let what = "the packed weights";
    if sizes.depthwise {
        let panels = sizes.shape.out_c.div_ceil(PANEL);
        return product(what, &[panels, depthwise_quads(&sizes.shape), BLOCK]);
    }
    let group_len = Reading::new(sizes).group_len(sizes)?;
    product(what, &[sizes.shape.groups, group_len])
}

/// Packs weights `[out_c, in_c / groups, kernel_h, kernel_w]` (OIHW), whose number was checked, into the form that the kernels read.
///
/// # Errors
/// When the packed weights are too many to address.
pub(crate) fn pack(sizes: &CheckedShape, weights: &[i8]) -> Result<Vec<u8>, KernelError> {
    let shape = &sizes.shape;
    let mut packed = vec![0_u8; packed_len(sizes)?];
    if sizes.depthwise {
        for (channel, kernel) in weights.chunks_exact(sizes.taps).enumerate() {
            for (tap, &weight) in kernel.iter().enumerate() {
                let (row, column) = (tap / shape.kernel_w, tap % shape.kernel_w);
                packed[depthwise_position(shape, channel, row, column)] = weight as u8;
            }
        }
        return Ok(packed);
    }
    let reading = Reading::new(sizes);
    let (blocks, group_len) = (reading.taps * reading.quads, reading.group_len(sizes)?);
    for (channel, kernel) in weights.chunks_exact(sizes.k).enumerate() {
        let (group, channel) = (channel / sizes.group_out, channel % sizes.group_out);
        let panel = group * group_len + channel / PANEL * blocks * BLOCK;
        let lane = channel % PANEL * 4;
        for (i, &weight) in kernel.iter().enumerate() {
            let (input, tap) = (i / sizes.taps, i % sizes.taps);
            let k = reading.position(sizes, input, tap);
            packed[panel + k / 4 * BLOCK + lane + k % 4] = weight as u8;
        }
    }
    Ok(packed)
}

/// Blocks of four taps of a depthwise kernel: each column of the kernel is padded to a multiple of four.
pub(super) fn depthwise_quads(shape: &ConvShape) -> usize {
    shape.kernel_w * shape.kernel_h.div_ceil(4)
}

/// Where the weight of one tap of one channel of a depthwise convolution is.
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
    use crate::Engine;
    use crate::conv::pack;

    #[test]
    fn four_products_of_sixteen_channels_lie_together() {
        let shape = ConvShape::pointwise(3, 3, 8, 17).with_kernel(2, 1, 0);
        let count = 17 * 8 * 4;
        let weights: Vec<i8> = (0..count).map(|i| (i % 251) as u8 as i8).collect();
        let packed = pack(Engine::Fbgemm, &shape, &weights).expect("a valid shape");
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
    fn rows_of_a_kernel_begin_with_a_block() {
        let shape = ConvShape::pointwise(5, 5, 3, 1).with_kernel(3, 1, 0);
        let weights: Vec<i8> = (1..=27).collect();
        let packed = pack(Engine::Fbgemm, &shape, &weights).expect("a valid shape");
        assert_eq!(packed.len(), 3 * 3 * BLOCK);
        // Kernel row 1, column 2, channel 1: eight of nine products of its row.
        let at = (3 + 7 / 4) * BLOCK + 7 % 4;
        assert_eq!(packed[at] as i8, weights[9 + 3 + 2]);
    }

    #[test]
    fn depthwise_positions_are_distinct_and_inside() {
        for (channels, kernel_h, kernel_w) in [(16, 3, 3), (70, 5, 2), (144, 1, 7), (65, 7, 7)] {
            let shape = ConvShape {
                kernel_h,
                kernel_w,
                groups: channels,
                ..ConvShape::pointwise(9, 9, channels, channels)
            };
            let len = shape.check().and_then(|sizes| packed_len(&sizes));
            let mut seen = vec![false; len.expect("a valid shape")];
            for channel in 0..channels {
                for tap in 0..kernel_h * kernel_w {
                    let at = depthwise_position(&shape, channel, tap / kernel_w, tap % kernel_w);
                    assert!(!std::mem::replace(&mut seen[at], true));
                }
            }
        }
    }
}
