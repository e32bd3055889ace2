//! Speed of the float kernels on layers of common models, on one thread.
//!
//! `cargo bench -p octofold-kernels --bench float`; an element is one floating-point operation (a product or a sum)
//! for products, and one byte read or written for the rest.

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use octofold_kernels::Isa;
use octofold_kernels::conv::{ConvShape, LinearShape};
use octofold_kernels::float::conv::{self, ConvData};
use octofold_kernels::float::depthwise::{self, DepthwiseData};
use octofold_kernels::float::elementwise::{Binary, binary};
use octofold_kernels::float::linear::{self, LinearData, MatMulShape};

fn floats(len: usize) -> Vec<f32> {
    (0..len)
        .map(|i| (i * 7919 % 1000) as f32 / 500.0 - 1.0)
        .collect()
}

fn convolutions(c: &mut Criterion) {
    let mut group = c.benchmark_group("conv");
    for (name, shape) in [
        (
            "7x7_s2_3_64_224",
            ConvShape::square((224, 224, 3), 64, 7, 2, 3),
        ),
        ("3x3_64_64_56", ConvShape::square((56, 56, 64), 64, 3, 1, 1)),
        (
            "3x3_128_128_28",
            ConvShape::square((28, 28, 128), 128, 3, 1, 1),
        ),
        (
            "3x3_256_256_14",
            ConvShape::square((14, 14, 256), 256, 3, 1, 1),
        ),
        (
            "3x3_512_512_7",
            ConvShape::square((7, 7, 512), 512, 3, 1, 1),
        ),
        (
            "1x1_24_144_56",
            ConvShape::square((56, 56, 24), 144, 1, 1, 0),
        ),
        (
            "1x1_256_256_28",
            ConvShape::square((28, 28, 256), 256, 1, 1, 0),
        ),
        (
            "1x1_320_1280_7",
            ConvShape::square((7, 7, 320), 1280, 1, 1, 0),
        ),
        ("3x3_16_16_32", ConvShape::square((32, 32, 16), 16, 3, 1, 1)),
    ] {
        let weights = floats(shape.out_c * shape.kernel_h * shape.kernel_w * shape.in_c);
        let packed = conv::pack(&shape, &weights).unwrap();
        let input = floats(shape.in_h * shape.in_w * shape.in_c);
        let bias = floats(shape.out_c);
        let data = ConvData {
            input: &input,
            weights: &packed,
            bias: Some(&bias),
            residual: None,
            clamp: (0.0, f32::INFINITY),
        };
        let mut scratch = vec![0.0; conv::scratch_len(&shape).unwrap()];
        let mut output = vec![0.0; shape.pixels().unwrap() * shape.out_c];
        let chunks = conv::chunks(&shape).unwrap();
        group.throughput(Throughput::Elements(2 * shape.macs().unwrap()));
        group.bench_function(name, |b| {
            b.iter(|| {
                let data = black_box(&data);
                conv::conv(
                    Isa::detect(),
                    &shape,
                    data,
                    0..chunks,
                    &mut scratch,
                    &mut output,
                )
            });
        });
    }
}

fn depthwise_convolutions(c: &mut Criterion) {
    let mut group = c.benchmark_group("depthwise");
    for (name, size, channels, kernel, stride) in [
        ("3x3_144_56", 56, 144, 3, 1),
        ("3x3_s2_144_56", 56, 144, 3, 2),
        ("5x5_240_28", 28, 240, 5, 1),
    ] {
        let shape = ConvShape {
            groups: channels,
            ..ConvShape::square((size, size, channels), channels, kernel, stride, kernel / 2)
        };
        let packed = depthwise::pack(&shape, &floats(channels * kernel * kernel)).unwrap();
        let (input, bias) = (floats(size * size * channels), floats(channels));
        let data = DepthwiseData {
            input: &input,
            weights: &packed,
            bias: Some(&bias),
            clamp: (0.0, 6.0),
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
    let mut group = c.benchmark_group("linear");
    for (rows, k, n) in [(1, 1280, 1000), (128, 384, 1536), (128, 1536, 384)] {
        let shape = LinearShape { rows, k, n };
        let (input, weights) = (floats(rows * k), floats(k * n));
        let data = LinearData {
            input: &input,
            weights: &weights,
            bias: None,
            clamp: (0.0, f32::INFINITY),
        };
        let mut output = vec![0.0; rows * n];
        let chunks = linear::chunks(&shape).unwrap();
        group.throughput(Throughput::Elements(2 * (rows * k * n) as u64));
        group.bench_function(format!("{rows}x{k}x{n}"), |b| {
            b.iter(|| {
                linear::linear(
                    Isa::detect(),
                    &shape,
                    black_box(&data),
                    0..chunks,
                    &mut output,
                )
            });
        });
    }
    let shape = MatMulShape {
        batch: 12,
        rows: 128,
        k: 32,
        columns: 128,
        transposed_a: false,
        transposed_b: true,
        shared_b: false,
    };
    let (a, b) = (floats(12 * 128 * 32), floats(12 * 128 * 32));
    let mut output = vec![0.0; 12 * 128 * 128];
    group.throughput(Throughput::Elements(2 * 12 * 128 * 128 * 32));
    group.bench_function("attention_12x128x32x128", |bench| {
        bench.iter(|| linear::matmul(Isa::detect(), &shape, black_box(&a), &b, 0..12, &mut output));
    });
}

fn elementwise(c: &mut Criterion) {
    let mut group = c.benchmark_group("elementwise");
    let (a, b) = (floats(1 << 16), floats(1 << 16));
    let mut output = vec![0.0; 1 << 16];
    group.throughput(Throughput::Bytes(3 << 18));
    for isa in Isa::supported() {
        group.bench_function(format!("add_relu/{isa}"), |bench| {
            let bounds = (0.0, f32::INFINITY);
            bench.iter(|| binary(isa, Binary::Add, black_box(&a), &b, bounds, &mut output));
        });
    }
}

criterion_group!(
    benches,
    convolutions,
    depthwise_convolutions,
    products,
    elementwise
);
criterion_main!(benches);
