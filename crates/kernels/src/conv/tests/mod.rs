//! Every engine with every instruction set of this processor against a naive convolution, bit for bit.

mod calls;
mod guarded;
mod tester;

use super::*;
use crate::{Isa, KernelError};
use tester::{Stage, Tester, Values};

const STAGES: [Stage; 8] = [
    Stage::Bytes { signed: false },
    Stage::Bytes { signed: true },
    Stage::Residual { signed: false },
    Stage::Residual { signed: true },
    Stage::Plain { residual: false },
    Stage::Plain { residual: true },
    Stage::Float { clamp: false },
    Stage::Float { clamp: true },
];

fn linear_shape(rows: usize, k: usize, n: usize) -> ConvShape {
    LinearShape { rows, k, n }.as_conv()
}

fn depthwise_shape(
    height: usize,
    width: usize,
    channels: usize,
    kernel: usize,
    stride: usize,
) -> ConvShape {
    ConvShape {
        groups: channels,
        ..ConvShape::pointwise(height, width, channels, channels).with_kernel(
            kernel,
            stride,
            kernel / 2,
        )
    }
}

#[test]
fn products_of_every_tile_height_and_width() {
    for rows in 1..=13 {
        for n in [1, 15, 16, 17, 31, 32, 33, 48, 63, 64, 65, 100, 128] {
            Tester::new(linear_shape(rows, 12, n)).run();
        }
    }
    for rows in [23, 24, 25, 239, 240, 241] {
        Tester::new(linear_shape(rows, 8, 36)).run();
    }
}

#[test]
fn products_of_every_depth() {
    for k in (1..=70).chain([255, 256, 257, 576]) {
        Tester::new(linear_shape(7, k, 20)).run();
        Tester {
            signed: true,
            ..Tester::new(linear_shape(2, k, 80))
        }
        .run();
    }
}

#[test]
fn extreme_values_do_not_saturate() {
    for values in [Values::Extremes, Values::Largest] {
        for signed in [false, true] {
            for k in [4, 64, 147, 1024] {
                Tester {
                    values,
                    signed,
                    ..Tester::new(linear_shape(6, k, 64))
                }
                .run();
            }
            for kernel in [3, 5] {
                Tester {
                    values,
                    signed,
                    ..Tester::new(depthwise_shape(6, 6, 70, kernel, 1))
                }
                .run();
            }
        }
    }
}

#[test]
fn every_output_stage_with_every_sign() {
    for stage in STAGES {
        for signed in [false, true] {
            for n in [16, 64, 70] {
                Tester {
                    stage,
                    signed,
                    ..Tester::new(linear_shape(8, 36, n))
                }
                .run();
                let shape = ConvShape::pointwise(5, 6, 8, n).with_kernel(3, 1, 1);
                Tester {
                    stage,
                    signed,
                    ..Tester::new(shape)
                }
                .run();
                Tester {
                    stage,
                    signed,
                    step: 7,
                    ..Tester::new(depthwise_shape(5, 9, n, 3, 1))
                }
                .run();
            }
        }
    }
}

#[test]
fn ties_and_multipliers_of_any_size() {
    for multiplier in [0.5, 0.25, 0.015_625, f32::MIN_POSITIVE, 1e30, f32::MAX] {
        for stage in STAGES {
            let multiplier = Some(multiplier);
            for n in [64, 70] {
                Tester {
                    stage,
                    multiplier,
                    ..Tester::new(linear_shape(7, 4, n))
                }
                .run();
            }
            Tester {
                stage,
                multiplier,
                ..Tester::new(depthwise_shape(4, 6, 70, 3, 1))
            }
            .run();
        }
    }
}

#[test]
fn convolutions_with_any_border() {
    let base = ConvShape::pointwise(7, 9, 8, 20).with_kernel(3, 1, 1);
    let volume = |depth| ConvShape {
        batch: 2,
        depth: Depth { input: 4, ..depth },
        ..ConvShape::pointwise(5, 3, 8, 20).with_kernel(3, 1, 1)
    };
    let shapes = [
        base,
        ConvShape { batch: 3, ..base },
        ConvShape {
            stride_h: 2,
            stride_w: 3,
            ..base
        },
        ConvShape {
            dilation_h: 2,
            dilation_w: 3,
            pad_left: 3,
            ..base
        },
        ConvShape {
            pad_top: 4,
            pad_left: 0,
            pad_bottom: 5,
            pad_right: 2,
            ..base
        },
        ConvShape {
            kernel_h: 1,
            kernel_w: 7,
            pad_right: 6,
            ..base
        },
        ConvShape {
            kernel_h: 7,
            kernel_w: 1,
            ..base
        },
        ConvShape {
            stride_h: 4,
            stride_w: 5,
            kernel_h: 1,
            kernel_w: 1,
            ..base
        },
        ConvShape {
            kernel_h: 1,
            kernel_w: 1,
            ..base
        },
        ConvShape {
            pad_top: 9,
            pad_left: 12,
            pad_bottom: 9,
            pad_right: 12,
            ..base
        },
        volume(Depth::ONE),
        volume(Depth {
            kernel: 3,
            pad_front: 1,
            pad_back: 1,
            ..Depth::ONE
        }),
        volume(Depth {
            kernel: 2,
            stride: 2,
            dilation: 2,
            pad_front: 3,
            ..Depth::ONE
        }),
    ];
    for shape in shapes {
        // 3 channels are gathered, 8 read in place, 24 in groups of both kinds.
        for (in_c, out_c, groups) in [
            (8, 20, 1),
            (3, 20, 1),
            (24, 12, 3),
            (24, 48, 12),
            (6, 6, 6),
            (64, 64, 4),
            (10, 20, 10),
        ] {
            let shape = ConvShape {
                in_c,
                out_c,
                groups,
                ..shape
            };
            Tester::new(shape).run();
            Tester {
                signed: true,
                step: 5,
                ..Tester::new(shape)
            }
            .run();
        }
    }
}

#[test]
fn patches_of_any_line_length() {
    for in_c in (1..=25).filter(|c| c % 4 != 0) {
        for (kernel, stride) in [(1, 1), (2, 1), (3, 2), (5, 3)] {
            Tester::new(ConvShape::pointwise(6, 9, in_c, 18).with_kernel(
                kernel,
                stride,
                kernel / 2,
            ))
            .run();
        }
    }
}

#[test]
fn large_images_and_batches_with_tables_by_strips() {
    // 131 · 129 output pixels of 25 taps are more than a table that is kept.
    for channels in [1, 3, 4] {
        let shape = ConvShape::pointwise(131, 129, channels, 9).with_kernel(5, 1, 2);
        Tester::new(shape).run();
    }
    for channels in [1, 2, 5, 8] {
        let batch = ConvShape {
            batch: 3,
            ..ConvShape::pointwise(5, 6, channels, 11).with_kernel(3, 1, 1)
        };
        Tester::new(batch).run();
        Tester {
            step: 17,
            ..Tester::new(batch)
        }
        .run();
    }
}

#[test]
fn depthwise_of_any_kernel_and_channels() {
    for channels in [2, 15, 16, 17, 32, 48, 63, 64, 65, 80, 112, 130, 144] {
        for kernel in [1, 2, 3, 4, 5, 7, 9] {
            Tester::new(depthwise_shape(6, 11, channels, kernel, 1)).run();
        }
        for stride in [2, 3] {
            Tester::new(depthwise_shape(9, 13, channels, 3, stride)).run();
        }
    }
    // Few channels, of which vectors hold several pixels, between borders of all widths.
    for (channels, kernel) in [(16, 3), (16, 5), (32, 3), (32, 5)] {
        for (width, stride) in [(2, 1), (7, 1), (37, 1), (8, 2), (37, 2), (38, 2)] {
            for signed in [false, true] {
                Tester {
                    signed,
                    ..Tester::new(depthwise_shape(5, width, channels, kernel, stride))
                }
                .run();
            }
        }
    }
    // Taller than the vector kernels' tables.
    Tester::new(depthwise_shape(35, 3, 17, 33, 1)).run();
}

#[test]
fn depthwise_of_more_rows_and_columns_than_are_interleaved_at_a_time() {
    for ((height, width), channels, kernel) in [
        ((19, 70), 70, 3),
        ((11, 139), 16, 3),
        ((10, 71), 24, 5),
        ((9, 40), 100, 5),
        ((12, 45), 64, 7),
        ((11, 9), 48, 6),
    ] {
        for (stride, step) in [(1, usize::MAX), (1, 97), (2, usize::MAX), (2, 31)] {
            Tester {
                step,
                signed: stride == 2,
                ..Tester::new(depthwise_shape(height, width, channels, kernel, stride))
            }
            .run();
        }
    }
}

#[test]
fn depthwise_of_kernels_with_holes_and_sides_of_their_own() {
    for channels in [16, 20, 64, 75] {
        let any = depthwise_shape(13, 41, channels, 3, 1);
        let tall = ConvShape {
            kernel_h: 5,
            kernel_w: 2,
            stride_w: 2,
            ..any
        };
        let wide = ConvShape {
            kernel_h: 2,
            kernel_w: 11,
            stride_h: 2,
            pad_left: 6,
            ..any
        };
        let holes = ConvShape {
            dilation_h: 2,
            dilation_w: 9,
            pad_left: 9,
            pad_right: 9,
            ..any
        };
        let steps = ConvShape {
            stride_h: 3,
            stride_w: 5,
            dilation_h: 3,
            dilation_w: 2,
            ..any
        };
        let far = ConvShape {
            stride_h: 1 << 40,
            stride_w: 1 << 40,
            ..any
        };
        let apart = ConvShape {
            stride_w: 17,
            ..any
        };
        let beyond = ConvShape {
            in_h: 2,
            dilation_w: 2500,
            pad_left: 2500,
            pad_right: 2500,
            ..any
        };
        for shape in [tall, wide, holes, steps, far, apart, beyond] {
            for stage in STAGES {
                Tester {
                    stage,
                    ..Tester::new(shape)
                }
                .run();
            }
        }
    }
}

#[test]
fn ranges_of_any_size_join_to_the_whole() {
    for step in [1, 2, 5, 6, 7, 13, 250] {
        Tester {
            step,
            ..Tester::new(ConvShape::pointwise(13, 21, 4, 40).with_kernel(3, 1, 1))
        }
        .run();
        Tester {
            step,
            ..Tester::new(ConvShape::pointwise(9, 7, 3, 33).with_kernel(3, 2, 1))
        }
        .run();
        Tester {
            step,
            ..Tester::new(depthwise_shape(6, 7, 40, 3, 1))
        }
        .run();
    }
}

/// A version that exists but is never chosen would be tested by nothing.
#[test]
fn each_instruction_set_has_micro_kernels_of_its_own() {
    let mut engines: Vec<fn(Isa) -> tile::Micro> = vec![crate::qnnpack::micro];
    if cfg!(target_arch = "x86_64") {
        engines.push(crate::fbgemm::micro);
    }
    for micro in engines {
        let supported = Isa::supported().into_iter();
        let mut kernels: Vec<usize> = supported.map(|isa| micro(isa).run as usize).collect();
        kernels.sort_unstable();
        kernels.dedup();
        assert_eq!(kernels.len(), Isa::supported().len());
    }
}

#[test]
fn the_bias_is_bounded_per_channel() {
    let weights = vec![127_i8; 2 * 40_000];
    assert!(fold_bias(&[0, 0], &weights, 0, false).is_ok());
    let bound = 255 * 127 * 40_000;
    let limit = (1_i64 << 31) - bound;
    let fits = (limit - 1) as i32;
    assert_eq!(
        fold_bias(&[0, fits], &weights, 0, false).map(|bias| bias[1]),
        Ok(fits)
    );
    let refused = KernelError::AccumulatorOverflow {
        channel: 1,
        bound: 1 << 31,
    };
    assert_eq!(
        fold_bias(&[0, -(limit as i32)], &weights, 0, false),
        Err(refused)
    );
    assert_eq!(fold_bias(&[0], &[1, 2, -5], -3, true), Ok(vec![250]));
    assert!(fold_bias(&[0], &[1], -3, false).is_err());
}
