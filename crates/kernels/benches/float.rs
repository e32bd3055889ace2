//! Speed of the float kernels on layers of common models, on one thread.
//!
//! `cargo bench -p octofold-kernels --bench float`; an element is one floating-point operation (a product or a sum)
//! for products, and one byte read or written for the rest. Each is followed by its share of the machine's limit.

mod limit;

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use octofold_kernels::conv::{ConvShape, Depth, LinearShape};
use octofold_kernels::float::affine::{Affine, affine};
use octofold_kernels::float::conv::{self, ConvData};
use octofold_kernels::float::depthwise::{self, DepthwiseData};
use octofold_kernels::float::elementwise::{Binary, binary};
use octofold_kernels::float::function::{Function, function};
use octofold_kernels::float::linear::{self, LinearData, MatMulData};
use octofold_kernels::float::norm::{Normalization, Parameters, normalize};
use octofold_kernels::float::recurrent::lstm;
use octofold_kernels::float::reduce::{Finish, Reduce, Reduction, reduce};
use octofold_kernels::float::softmax::softmax;
use octofold_kernels::float::{AxisShape, Block};
use octofold_kernels::{Bounds, Isa};
use octofold_quant::fold::Fold;

fn floats(len: usize) -> Vec<f32> {
    (0..len)
        .map(|i| (i * 7919 % 1000) as f32 / 500.0 - 1.0)
        .collect()
}

/// Packed weights where a plan has them: at a multiple of 64 bytes.
struct Aligned {
    buffer: Vec<f32>,
    start: usize,
    len: usize,
}

impl Aligned {
    fn new(values: &[f32]) -> Self {
        let (mut buffer, len) = (vec![0.0; values.len() + 16], values.len());
        let start = buffer.as_ptr().align_offset(64);
        buffer[start..start + len].copy_from_slice(values);
        Self { buffer, start, len }
    }

    fn values(&self) -> &[f32] {
        &self.buffer[self.start..self.start + self.len]
    }
}

fn convolutions(c: &mut Criterion) {
    let mut group = limit::group(c, "conv", false);
    for (name, shape) in [
        (
            "7x7_s2_3_64_224",
            ConvShape::pointwise(224, 224, 3, 64).with_kernel(7, 2, 3),
        ),
        (
            "3x3_64_64_56",
            ConvShape::pointwise(56, 56, 64, 64).with_kernel(3, 1, 1),
        ),
        (
            "3x3_128_128_28",
            ConvShape::pointwise(28, 28, 128, 128).with_kernel(3, 1, 1),
        ),
        (
            "3x3_256_256_14",
            ConvShape::pointwise(14, 14, 256, 256).with_kernel(3, 1, 1),
        ),
        (
            "3x3_512_512_7",
            ConvShape::pointwise(7, 7, 512, 512).with_kernel(3, 1, 1),
        ),
        ("1x1_64_256_56", ConvShape::pointwise(56, 56, 64, 256)),
        (
            "1x1_s2_256_512_56",
            ConvShape::pointwise(56, 56, 256, 512).with_kernel(1, 2, 0),
        ),
        (
            "3_64_64_4000",
            ConvShape {
                kernel_w: 3,
                pad_left: 1,
                pad_right: 1,
                ..ConvShape::pointwise(1, 4000, 64, 64)
            },
        ),
        (
            "3x3x3_16_16_16x32x32",
            ConvShape {
                depth: Depth {
                    input: 16,
                    kernel: 3,
                    pad_front: 1,
                    pad_back: 1,
                    ..Depth::ONE
                },
                ..ConvShape::pointwise(32, 32, 16, 16).with_kernel(3, 1, 1)
            },
        ),
        ("1x1_1024_256_14", ConvShape::pointwise(14, 14, 1024, 256)),
        ("1x1_2048_512_7", ConvShape::pointwise(7, 7, 2048, 512)),
        (
            "3x3_s2_3_32_224",
            ConvShape::pointwise(224, 224, 3, 32).with_kernel(3, 2, 1),
        ),
        ("1x1_32_16_112", ConvShape::pointwise(112, 112, 32, 16)),
        ("1x1_384_64_14", ConvShape::pointwise(14, 14, 384, 64)),
        ("1x1_24_144_56", ConvShape::pointwise(56, 56, 24, 144)),
        ("1x1_256_256_28", ConvShape::pointwise(28, 28, 256, 256)),
        ("1x1_320_1280_7", ConvShape::pointwise(7, 7, 320, 1280)),
        (
            "3x3_16_16_32",
            ConvShape::pointwise(32, 32, 16, 16).with_kernel(3, 1, 1),
        ),
    ] {
        let taps = shape.depth.kernel * shape.kernel_h * shape.kernel_w;
        let weights = floats(shape.out_c * taps * shape.in_c);
        let packed = conv::pack(&shape, &weights).unwrap();
        let packed = Aligned::new(&packed);
        let input = floats(shape.depth.input * shape.in_h * shape.in_w * shape.in_c);
        let bias = floats(shape.out_c);
        let data = ConvData {
            input: &input,
            weights: packed.values(),
            bias: Some(&bias),
            residual: None,
            clamp: Bounds::new(0.0, f32::INFINITY),
        };
        let mut scratch = vec![0.0; conv::scratch_len(&shape).unwrap()];
        let mut output = vec![0.0; shape.pixels().unwrap() * shape.out_c];
        let pixels = 0..shape.pixels().unwrap();
        group.throughput(Throughput::Elements(2 * shape.macs().unwrap()));
        // The scalar kernels call a library for each product.
        for isa in Isa::supported().into_iter().skip(1) {
            group.bench_function(format!("{name}/{isa}"), |b| {
                b.iter(|| {
                    let data = black_box(&data);
                    let pixels = pixels.clone();
                    conv::conv(isa, &shape, data, pixels, &mut scratch, &mut output)
                });
            });
        }
    }
}

fn depthwise_convolutions(c: &mut Criterion) {
    let mut group = limit::group(c, "depthwise", false);
    for (name, size, channels, kernel, stride) in [
        ("3x3_144_56", 56, 144, 3, 1),
        ("3x3_s2_144_56", 56, 144, 3, 2),
        ("5x5_240_28", 28, 240, 5, 1),
    ] {
        let shape = ConvShape {
            groups: channels,
            ..ConvShape::pointwise(size, size, channels, channels).with_kernel(
                kernel,
                stride,
                kernel / 2,
            )
        };
        let packed = depthwise::pack(&shape, &floats(channels * kernel * kernel)).unwrap();
        let (input, bias) = (floats(size * size * channels), floats(channels));
        let data = DepthwiseData {
            input: &input,
            weights: &packed,
            bias: Some(&bias),
            clamp: Bounds::new(0.0, 6.0),
        };
        let mut output = vec![0.0; shape.pixels().unwrap() * channels];
        let rows = depthwise::rows(&shape).unwrap();
        group.throughput(Throughput::Elements(2 * shape.macs().unwrap()));
        for isa in Isa::supported() {
            group.bench_function(format!("{name}/{isa}"), |b| {
                b.iter(|| {
                    depthwise::depthwise(isa, &shape, black_box(&data), 0..rows, &mut output)
                });
            });
        }
    }
}

fn products(c: &mut Criterion) {
    let mut group = limit::group(c, "linear", false);
    for (rows, k, n) in [(1, 1280, 1000), (128, 384, 1536), (128, 1536, 384)] {
        let shape = LinearShape { rows, k, n };
        let packed = Aligned::new(&linear::pack(k, n, &floats(k * n)).unwrap());
        let input = floats(rows * k);
        let data = LinearData {
            input: &input,
            weights: packed.values(),
            bias: None,
            clamp: Bounds::new(0.0, f32::INFINITY),
        };
        let mut scratch = vec![0.0; linear::scratch_len(&shape).unwrap()];
        let mut output = vec![0.0; rows * n];
        group.throughput(Throughput::Elements(2 * (rows * k * n) as u64));
        group.bench_function(format!("{rows}x{k}x{n}"), |b| {
            b.iter(|| {
                let (data, rows, columns) = (black_box(&data), 0..rows, 0..n);
                let all = Block { rows, columns };
                linear::linear(Isa::detect(), &shape, data, all, &mut scratch, &mut output)
            });
        });
    }
    for (rows, k, n) in [(128, 32, 128), (128, 128, 32), (197, 64, 197), (1, 64, 512)] {
        let shape = LinearShape { rows, k, n };
        let (a, b) = (floats(rows * k), floats(k * n));
        let mut scratch = vec![0.0; linear::matmul_scratch_len(&shape).unwrap()];
        let mut output = vec![0.0; rows * n];
        group.throughput(Throughput::Elements(2 * (rows * k * n) as u64));
        group.bench_function(format!("computed_{rows}x{k}x{n}"), |bench| {
            bench.iter(|| {
                let data = MatMulData {
                    a: black_box(&a),
                    b: &b,
                };
                let isa = Isa::detect();
                linear::matmul(isa, &shape, data, 0..rows, &mut scratch, &mut output)
            });
        });
    }
}

fn elementwise(c: &mut Criterion) {
    let mut group = limit::group(c, "elementwise", false);
    let (a, b) = (floats(1 << 16), floats(1 << 16));
    let mut output = vec![0.0; 1 << 16];
    group.throughput(Throughput::Bytes(3 << 18));
    for isa in Isa::supported() {
        group.bench_function(format!("add_relu/{isa}"), |bench| {
            let bounds = Bounds::new(0.0, f32::INFINITY);
            bench.iter(|| binary(isa, Binary::Add, black_box(&a), &b, bounds, &mut output));
        });
    }
}

/// Along rows of 80 elements, and along an axis with 6400 neighbouring lines.
fn along_axes(c: &mut Criterion) {
    let mut group = limit::group(c, "axes", false);
    let x = floats(32 * 80 * 80);
    let mut output = vec![0.0; x.len()];
    let (scale, bias) = (floats(80), floats(80));
    let [rows, columns] =
        [(2560, 80, 1), (1, 32, 6400)].map(|(outer, len, inner)| AxisShape { outer, len, inner });
    group.throughput(Throughput::Bytes(4 * x.len() as u64));
    for isa in Isa::supported() {
        for (name, shape) in [("rows", rows), ("columns", columns)] {
            for fold in [Fold::Sum, Fold::Max] {
                let call = Reduce {
                    shape,
                    reduction: Reduction::Fold(fold),
                    finish: Finish::None,
                };
                let lines = shape.outer * shape.inner;
                let output = &mut output[..lines];
                group.bench_function(format!("{name}_{fold:?}/{isa}"), |bench| {
                    bench.iter(|| reduce(isa, &call, black_box(&x), 0..lines, output));
                });
            }
            group.bench_function(format!("{name}_softmax/{isa}"), |bench| {
                bench.iter(|| softmax(isa, shape, false, black_box(&x), &mut output));
            });
        }
        let call = Normalization {
            width: 80,
            epsilon: 1e-5,
            parameters: Parameters::Elements {
                scale: &scale,
                bias: Some(&bias),
            },
        };
        let rows = Affine {
            width: 6400,
            first: 0,
            scale: &scale[..32],
            shift: &bias[..32],
            clamp: Bounds::NONE,
        };
        group.bench_function(format!("batch_norm/{isa}"), |bench| {
            bench.iter(|| affine(isa, rows, black_box(&x), &mut output));
        });
        group.bench_function(format!("lstm/{isa}"), |bench| {
            let (mut gates, mut states) = (x[..2048].to_vec(), [[0.0; 512]; 2]);
            let [c, h] = &mut states;
            bench.iter(|| lstm(isa, black_box(&x[..2048]), &mut gates, c, h));
        });
        group.bench_function(format!("layer_norm/{isa}"), |bench| {
            bench.iter(|| normalize(isa, call, black_box(&x), &mut output));
        });
    }
}

fn functions(c: &mut Criterion) {
    let mut group = limit::group(c, "function", false);
    let input = floats(1 << 16);
    let mut output = vec![0.0; 1 << 16];
    group.throughput(Throughput::Bytes(2 << 18));
    for f in [
        Function::Exp,
        Function::Tanh,
        Function::Erf,
        Function::Gelu,
        Function::Log,
        Function::Sin,
        Function::Power { exponent: 0.7 },
    ] {
        for isa in Isa::supported() {
            group.bench_function(format!("{f:?}/{isa}"), |bench| {
                bench.iter(|| function(isa, f, black_box(&input), &mut output));
            });
        }
    }
}

criterion_group!(
    benches,
    convolutions,
    depthwise_convolutions,
    products,
    elementwise,
    along_axes,
    functions
);
criterion_main!(benches);
