//! One convolution or matrix product, computed naively and by every engine with every instruction set.
//!
//! The naive one never sees packed weights, folded biases or flipped signs: it sums `(x - zx)·w` over
//! the taps inside of the image in 64 bits and takes the rest from `octofold_quant::requantize`.

use octofold_quant::QParams;
use octofold_quant::requantize::{self, Operand, Target};

use super::super::*;
use super::guarded::Guarded;
use crate::shared::{Quant8, Target8};
use crate::{Bounds, Engine, Isa};

/// The numbers that inputs and weights are drawn from.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Values {
    /// All values of the type.
    Any,
    /// Only the ends of the ranges: what saturating instructions get wrong.
    Extremes,
    /// The largest products everywhere.
    Largest,
}

/// What the output stage does.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Stage {
    Bytes {
        signed: bool,
    },
    Residual {
        signed: bool,
    },
    /// Unsigned bytes with zero point 0 and the widest bounds, as behind a ReLU, which kernels may clamp by saturation alone.
    Plain {
        residual: bool,
    },
    Float {
        clamp: bool,
    },
}

impl Stage {
    /// Whether the residual, if there is one, is signed.
    fn residual(self) -> Option<bool> {
        match self {
            Self::Residual { signed } => Some(signed),
            Self::Plain { residual } => residual.then_some(false),
            _ => None,
        }
    }

    /// The zero point of the output, and what its sum with the residual becomes.
    fn targets(self) -> (i32, Target8) {
        let sum = |zero_point, lo, hi| {
            let scale = 0.043;
            let quant = Quant8::unsigned(QParams { scale, zero_point });
            Target8 { quant, lo, hi }
        };
        match self {
            Self::Bytes { signed: true } => (-5, sum(101, 3, 240)),
            Self::Plain { .. } => (0, sum(0, 0, 255)),
            _ => (117, sum(101, 3, 240)),
        }
    }
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Tester {
    pub(super) shape: ConvShape,
    pub(super) signed: bool,
    pub(super) values: Values,
    pub(super) stage: Stage,
    /// One multiplier for all channels, instead of random ones that spread the sums over the output range.
    pub(super) multiplier: Option<f32>,
    /// Pixels of one call; the whole output is computed in calls of this size.
    pub(super) step: usize,
}

/// A small generator (SplitMix64), so that each test is the same everywhere.
pub(super) struct Random(pub(super) u64);

impl Random {
    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// A number of `0..n`.
    pub(super) fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }

    fn unit(&mut self) -> f32 {
        self.below(1 << 20) as f32 / (1 << 20) as f32
    }
}

/// Everything a call takes, and what it must give.
struct Case {
    input: Guarded<u8>,
    zero_point: i32,
    /// One an engine.
    packed: [Guarded<u8>; 2],
    bias: Guarded<i32>,
    scale: Guarded<f32>,
    float_bias: Guarded<f32>,
    residual: Guarded<u8>,
    output_params: QParams,
    residual_params: QParams,
    to: Target8,
    bytes: Vec<u8>,
    floats: Vec<f32>,
}

impl Tester {
    pub(super) fn new(shape: ConvShape) -> Self {
        Self {
            shape,
            signed: false,
            values: Values::Any,
            stage: Stage::Bytes { signed: false },
            multiplier: None,
            step: usize::MAX,
        }
    }

    /// Runs every supported instruction set and compares all bytes.
    pub(super) fn run(&self) {
        let case = self.case();
        for (engine, packed) in Engine::ALL.into_iter().zip(&case.packed) {
            for isa in Isa::supported() {
                self.compare(engine, isa, packed, &case);
            }
        }
    }

    fn compare(&self, engine: Engine, isa: Isa, packed: &[u8], case: &Case) {
        let prepared = PreparedConv::new(engine, &self.shape).expect("a valid shape");
        assert_eq!(prepared.packed_len(), packed.len());
        let pixels = self.shape.pixels().expect("a valid shape");
        let channels = self.shape.out_c;
        let (lo, hi) = bounds(self.stage == Stage::Bytes { signed: true });
        let params = case.output_params;
        let quantized = Quantized {
            bias: &case.bias,
            multiplier: &case.scale,
            zero_point: params.zero_point,
            lo,
            hi,
            residual: None,
        };
        let stage = match self.stage {
            Stage::Bytes { .. } | Stage::Residual { .. } | Stage::Plain { .. } => {
                let residual = self.stage.residual().map(|signed| {
                    let from = Quant8 {
                        params: case.residual_params,
                        signed,
                    };
                    Residual::new(&case.residual, from, params, case.to)
                });
                OutputStage::Quantized(Quantized {
                    residual,
                    ..quantized
                })
            }
            Stage::Float { clamp } => OutputStage::Float(Float {
                correction: &case.bias,
                scale: &case.scale,
                bias: &case.float_bias,
                clamp: clamp.then_some(Bounds::new(0.0, 6.0)),
            }),
        };
        let input = Activations {
            data: &case.input,
            signed: self.signed,
            zero_point: case.zero_point,
        };
        let whole = std::iter::once(0..channels);
        let halves = [0..channels / 32 * 16, channels / 32 * 16..channels];
        let halves = halves
            .into_iter()
            .filter(|half| self.shape.groups == 1 && half.len() < channels);
        // Bytes are written as rows of their own, and into wider rows.
        let layouts: &[(usize, usize)] = match case.bytes.is_empty() {
            true => &[(0, 0)],
            false => &[(0, 0), (5, 14)],
        };
        let blocks = whole.chain(halves);
        for (columns, &(first, more)) in
            blocks.flat_map(|columns| layouts.iter().map(move |layout| (columns.clone(), layout)))
        {
            let width = columns.len() + more;
            let mut start = 0;
            while start < pixels {
                let range = start..pixels.min(start.saturating_add(self.step));
                let len = range.len() * width;
                let mut scratch = Guarded::new(&vec![0xA5_u8; prepared.scratch_len()]);
                let mut bytes = Guarded::new(&vec![0x5A_u8; len]);
                let mut floats = Guarded::new(&vec![f32::from_bits(0x7FC1_2345); len]);
                let slice = if case.bytes.is_empty() {
                    OutputSlice::Floats(&mut floats)
                } else if more == 0 {
                    OutputSlice::Bytes(&mut bytes)
                } else {
                    let (pitch, offset) = (width, first);
                    OutputSlice::Strided(&mut bytes, RowStride { pitch, offset })
                };
                let call = ConvCall {
                    input,
                    weights: packed,
                    stage: &stage,
                    rows: range.clone(),
                    columns: columns.clone(),
                    output: slice,
                    scratch: &mut scratch,
                };
                prepared.run(isa, call).expect("valid arguments");
                for (i, (pixel, place)) in range
                    .flat_map(|pixel| (0..width).map(move |place| (pixel, place)))
                    .enumerate()
                {
                    let channel = (columns.start + place).wrapping_sub(first);
                    if !columns.contains(&channel) {
                        assert_eq!(bytes[i], 0x5A, "{engine:?} {isa} {self:?}: beside the rows");
                        continue;
                    }
                    let at = pixel * channels + channel;
                    let (found, expected) = if case.bytes.is_empty() {
                        (floats[i].to_bits(), case.floats[at].to_bits())
                    } else {
                        (u32::from(bytes[i]), u32::from(case.bytes[at]))
                    };
                    assert_eq!(
                        found, expected,
                        "{engine:?} {isa} {self:?}: channel {channel} of pixel {pixel}, channels {columns:?} from pixel {start}"
                    );
                }
                start = start.saturating_add(self.step).min(pixels);
            }
        }
    }

    /// Draws the data and computes the expected output.
    fn case(&self) -> Case {
        let shape = &self.shape;
        let mut random =
            Random(shape.in_c as u64 * 1000 + shape.out_c as u64 + shape.in_w as u64 * 7);
        let group_in = shape.in_c / shape.groups;
        let depth = group_in * shape.depth.kernel * shape.kernel_h * shape.kernel_w;
        let pixels = shape.pixels().expect("a valid shape");
        let draw = |extremes: [u8; 2], random: &mut Random| match self.values {
            Values::Any => random.next() as u8,
            Values::Extremes => extremes[random.below(2) as usize],
            Values::Largest => extremes[1],
        };
        let (low, high) = if self.signed { (0x80, 0x7F) } else { (0, 255) };
        let in_lines = shape.depth.input * shape.in_h;
        let input_len = shape.batch * in_lines * shape.in_w * shape.in_c;
        let input: Vec<u8> = (0..input_len)
            .map(|_| draw([low, high], &mut random))
            .collect();
        let weights: Vec<i8> = (0..depth * shape.out_c)
            .map(|_| draw([0x80, 0x7F], &mut random) as i8)
            .collect();
        let (min, max) = bounds(self.signed);
        let zero_point = match self.values {
            Values::Largest => min,
            _ => min + random.below((max - min + 1) as u64) as i32,
        };
        let per_channel =
            |make: &mut dyn FnMut() -> f32| (0..shape.out_c).map(|_| make()).collect();
        let bias: Vec<i32> = (0..shape.out_c)
            .map(|_| random.below(1 << 17) as i32 - (1 << 16))
            .collect();
        // A multiplier that spreads sums of this depth over the output range.
        let spread = 1.0 / ((depth as f32).sqrt() * 60.0);
        let scale: Vec<f32> =
            per_channel(&mut || self.multiplier.unwrap_or((0.5 + random.unit()) * spread));
        let float_bias: Vec<f32> = per_channel(&mut || random.unit() - 0.5);
        let residual: Vec<u8> = (0..pixels * shape.out_c)
            .map(|_| random.next() as u8)
            .collect();

        let signed_output = self.stage == Stage::Bytes { signed: true };
        let (lo, hi) = bounds(signed_output);
        let (output_zero, to) = self.stage.targets();
        let output_params = QParams {
            scale: 0.031,
            zero_point: output_zero,
        };
        let residual_signed = self.stage.residual() == Some(true);
        let residual_params = QParams {
            scale: 0.017,
            zero_point: if residual_signed { -3 } else { 99 },
        };
        let (mut bytes, mut floats) = (Vec::new(), Vec::new());
        for pixel in 0..pixels {
            for channel in 0..shape.out_c {
                let sum = self.naive(&input, &weights, zero_point, pixel, channel);
                let index = pixel * shape.out_c + channel;
                match self.stage {
                    Stage::Bytes { .. } | Stage::Residual { .. } | Stage::Plain { .. } => {
                        let acc =
                            i32::try_from(sum + i64::from(bias[channel])).expect("a small sum");
                        let zp = output_params.zero_point;
                        let mut q = requantize::requantize(acc, scale[channel], zp, lo, hi);
                        if let Some(signed) = self.stage.residual() {
                            let r = i32::from(residual[index]);
                            let r = if signed { i32::from(r as i8) } else { r };
                            let own = Operand::new(q, output_params);
                            let sum = Target {
                                params: to.quant.params,
                                lo: to.lo,
                                hi: to.hi,
                            };
                            q = requantize::add(own, Operand::new(r, residual_params), sum);
                        }
                        bytes.push(q as u8);
                    }
                    Stage::Float { clamp } => {
                        let acc = i32::try_from(sum).expect("a small sum");
                        let (scale, bias) = (scale[channel], float_bias[channel]);
                        let y = requantize::dequantize_accumulator(acc, scale, bias);
                        floats.push(if clamp { y.clamp(0.0, 6.0) } else { y });
                    }
                }
            }
        }

        let float = matches!(self.stage, Stage::Float { .. });
        let unfolded = if float { vec![0; shape.out_c] } else { bias };
        let folded = fold_bias(&unfolded, &weights, zero_point, self.signed);
        Case {
            input: Guarded::new(&input),
            zero_point,
            packed: Engine::ALL
                .map(|engine| Guarded::new(&pack(engine, shape, &weights).expect("a valid shape"))),
            bias: Guarded::new(&folded.expect("a small bound")),
            scale: Guarded::new(&scale),
            float_bias: Guarded::new(&float_bias),
            residual: Guarded::new(&residual),
            output_params,
            residual_params,
            to,
            bytes,
            floats,
        }
    }

    /// The sum of one output: `zero` is subtracted from every tap, and taps outside of the image read it.
    fn naive(&self, input: &[u8], weights: &[i8], zero: i32, pixel: usize, channel: usize) -> i64 {
        let shape = &self.shape;
        let (out_h, out_w) = (shape.out_h().expect("valid"), shape.out_w().expect("valid"));
        let out_d = shape.out_d().expect("valid");
        let (plane, y, x) = (pixel / out_w / out_h, pixel / out_w % out_h, pixel % out_w);
        let (image, z, depth) = (plane / out_d, plane % out_d, &shape.depth);
        let (group_in, group_out) = (shape.in_c / shape.groups, shape.out_c / shape.groups);
        let first = channel / group_out * group_in;
        let mut sum = 0_i64;
        for i in 0..group_in {
            for line in 0..depth.kernel * shape.kernel_h {
                let (kz, ky) = (line / shape.kernel_h, line % shape.kernel_h);
                for kx in 0..shape.kernel_w {
                    let iz =
                        (z * depth.stride + kz * depth.dilation) as i64 - depth.pad_front as i64;
                    let iy =
                        (y * shape.stride_h + ky * shape.dilation_h) as i64 - shape.pad_top as i64;
                    let ix =
                        (x * shape.stride_w + kx * shape.dilation_w) as i64 - shape.pad_left as i64;
                    let inside = (0..depth.input as i64).contains(&iz)
                        && (0..shape.in_h as i64).contains(&iy)
                        && (0..shape.in_w as i64).contains(&ix);
                    let value = if inside {
                        let plane = image * depth.input + iz as usize;
                        let row = (plane * shape.in_h + iy as usize) * shape.in_w + ix as usize;
                        let byte = input[row * shape.in_c + first + i];
                        if self.signed {
                            i32::from(byte as i8)
                        } else {
                            i32::from(byte)
                        }
                    } else {
                        zero
                    };
                    let lines = (channel * group_in + i) * depth.kernel * shape.kernel_h;
                    let weight = weights[(lines + line) * shape.kernel_w + kx];
                    sum += i64::from(value - zero) * i64::from(weight);
                }
            }
        }
        sum
    }
}

fn bounds(signed: bool) -> (i32, i32) {
    if signed { (-128, 127) } else { (0, 255) }
}
