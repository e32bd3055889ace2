//! The portable depthwise kernel, and the reference of the others: one output at a time.

use super::super::pack::depthwise_position;
use super::{Layer, Segment};
use crate::conv::OutputStage;
use crate::conv::offsets::OUTSIDE;

/// Computes the pixels of one run.
pub(super) fn segment(segment: Segment<'_>) {
    let Layer {
        shape, channels, ..
    } = *segment.layer;
    for pixel in 0..segment.pixels {
        let first = segment.x + (pixel * shape.stride_w) as isize;
        let row = segment.row + pixel;
        for channel in 0..channels {
            let mut acc = 0_i32;
            for column in 0..shape.kernel_w {
                let x = first + (column * shape.dilation_w) as isize;
                let inside = (0..shape.in_w as isize).contains(&x);
                for (tap, &offset) in segment.rows.iter().enumerate().take(shape.kernel_h) {
                    let byte = if inside && offset != OUTSIDE {
                        segment.layer.input[offset as usize + x as usize * channels + channel]
                    } else {
                        segment.layer.zero[channel]
                    };
                    let value = i32::from(if segment.layer.signed {
                        byte ^ 0x80
                    } else {
                        byte
                    });
                    let weight =
                        segment.layer.packed[depthwise_position(shape, channel, tap, column)];
                    acc = acc.wrapping_add(value * i32::from(weight as i8));
                }
            }
            let output = segment.layer.output;
            let at = pixel * output.pitch + output.offset + channel;
            match segment.layer.stage {
                OutputStage::Quantized(stage) => {
                    segment.bytes[at] = stage.value(acc, channel, row * channels + channel);
                }
                OutputStage::Float(stage) => {
                    stage.store(&[acc], channel, &mut segment.floats[at..=at]);
                }
            }
        }
    }
}
