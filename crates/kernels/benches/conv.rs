//! Speed of both engines on layers of known networks, with every instruction set, on one thread.
//!
//! `cargo bench -p octofold-kernels --bench conv`; an element is one product, so that the throughput reads
//! as G products a second. Each is followed by its share of the machine's limit, two operations a product: for AVX2 that is what `vpmaddwd`
//! reaches, since the kernels are exact.

mod limit;

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use octofold_kernels::conv::planes::{Planes, PlanesCall};
use octofold_kernels::conv::{
    Activations, ConvCall, ConvShape, Float, LinearShape, OutputSlice, OutputStage, PreparedConv,
    Quantized, Residual, fold_bias, pack, planes,
};
use octofold_kernels::peak::Work;
use octofold_kernels::shared::Quant8;
use octofold_kernels::{Engine, Isa};
use octofold_quant::QParams;

fn layers() -> Vec<(&'static str, ConvShape)> {
    let depthwise = |size, channels, kernel, stride| ConvShape {
        groups: channels,
        ..ConvShape::pointwise(size, size, channels, channels).with_kernel(
            kernel,
            stride,
            kernel / 2,
        )
    };
    vec![
        (
            "first_7x7_s2_3_64_224",
            ConvShape::pointwise(224, 224, 3, 64).with_kernel(7, 2, 3),
        ),
        (
            "first_3x3_s2_3_32_224",
            ConvShape::pointwise(224, 224, 3, 32).with_kernel(3, 2, 1),
        ),
        (
            "conv3x3_64_56",
            ConvShape::pointwise(56, 56, 64, 64).with_kernel(3, 1, 1),
        ),
        (
            "conv3x3_128_28",
            ConvShape::pointwise(28, 28, 128, 128).with_kernel(3, 1, 1),
        ),
        (
            "conv3x3_256_14",
            ConvShape::pointwise(14, 14, 256, 256).with_kernel(3, 1, 1),
        ),
        (
            "conv3x3_512_7",
            ConvShape::pointwise(7, 7, 512, 512).with_kernel(3, 1, 1),
        ),
        (
            "conv3x3_s2_64_128_56",
            ConvShape::pointwise(56, 56, 64, 128).with_kernel(3, 2, 1),
        ),
        (
            "conv1x1_s2_64_128_56",
            ConvShape::pointwise(56, 56, 64, 128).with_kernel(1, 2, 0),
        ),
        ("conv1x1_256_28", ConvShape::pointwise(28, 28, 256, 256)),
        ("conv1x1_24_144_56", ConvShape::pointwise(56, 56, 24, 144)),
        ("conv1x1_144_24_56", ConvShape::pointwise(56, 56, 144, 24)),
        ("conv1x1_960_160_7", ConvShape::pointwise(7, 7, 960, 160)),
        ("depthwise3x3_144_56", depthwise(56, 144, 3, 1)),
        ("depthwise3x3_s2_144_56", depthwise(56, 144, 3, 2)),
        ("depthwise5x5_240_28", depthwise(28, 240, 5, 1)),
        (
            "gemm_1024_1024_1024",
            LinearShape {
                rows: 1024,
                k: 1024,
                n: 1024,
            }
            .as_conv(),
        ),
        (
            "gemm_128_384_1536",
            LinearShape {
                rows: 128,
                k: 384,
                n: 1536,
            }
            .as_conv(),
        ),
        (
            "gemm_1_512_1000",
            LinearShape {
                rows: 1,
                k: 512,
                n: 1000,
            }
            .as_conv(),
        ),
    ]
}

fn bench(criterion: &mut Criterion) {
    for (name, shape) in layers() {
        let mut group = limit::group(criterion, name, true);
        for isa in Isa::supported() {
            if isa == Isa::Scalar {
                continue;
            }
            for engine in Engine::ALL {
                bench_layer(&mut group, engine, isa, &shape, false);
            }
        }
        if name == "conv3x3_64_56" {
            bench_layer(&mut group, Engine::Fbgemm, Isa::detect(), &shape, true);
        }
        group.finish();
    }
}

/// A depthwise layer between channels-first images: floats in, which it quantizes, and floats out.
fn bench_planes(criterion: &mut Criterion) {
    let shape = ConvShape {
        groups: 144,
        ..ConvShape::pointwise(56, 56, 144, 144).with_kernel(3, 1, 1)
    };
    let (channels, len) = (shape.out_c, 144 * 56 * 56);
    let data: Vec<f32> = (0..len)
        .map(|i| ((i * 7919) % 4001) as f32 * 2.5e-3)
        .collect();
    let to = Quant8::unsigned(QParams {
        scale: 0.0371,
        zero_point: 3,
    });
    let weights: Vec<i8> = (0..9 * channels).map(|i| (i * 31) as i8).collect();
    let packed = planes::pack(&shape, &weights).expect("a valid shape");
    let correction = fold_bias(&vec![0; channels], &weights, 3, false).expect("a small bound");
    let (scale, bias) = (vec![0.01_f32; channels], vec![0.5_f32; channels]);
    let stage = Float {
        correction: &correction,
        scale: &scale,
        bias: &bias,
        clamp: None,
    };
    let mut output = vec![0.0_f32; len];
    let mut scratch = vec![0_u8; planes::scratch_len(&shape).expect("a valid shape")];
    let macs = shape.macs().expect("a valid shape");
    let mut group = limit::group(criterion, "depthwise3x3_144_56_planes", true);
    for isa in Isa::supported() {
        let work = Work {
            macs,
            integer: true,
            read: (4 * len + packed.len() + 12 * channels) as u64,
            written: 4 * len as u64,
        };
        group.work(Throughput::Elements(macs), work);
        group.bench_function(isa.to_string(), |bencher| {
            bencher.iter(|| {
                let call = PlanesCall {
                    input: Planes::Floats(black_box(&data), to),
                    weights: &packed,
                    stage,
                    planes: 0..channels,
                    output: &mut output,
                    scratch: &mut scratch,
                };
                planes::conv_planes(isa, &shape, call)
            });
        });
    }
    group.finish();
}

fn bench_layer(
    group: &mut limit::Group<'_>,
    engine: Engine,
    isa: Isa,
    shape: &ConvShape,
    with_residual: bool,
) {
    let pixels = shape.pixels().expect("a valid shape");
    let input_len = shape.batch * shape.in_h * shape.in_w * shape.in_c;
    let depth = shape.in_c / shape.groups * shape.kernel_h * shape.kernel_w;
    let data: Vec<u8> = (0..input_len).map(|i| ((i * 7919) >> 3) as u8).collect();
    let weights: Vec<i8> = (0..depth * shape.out_c)
        .map(|i| ((i * 104_729) >> 5) as i8)
        .collect();
    let prepared = PreparedConv::new(engine, shape).expect("a valid shape");
    let packed = pack(engine, shape, &weights).expect("a valid shape");
    let bias = fold_bias(&vec![100; shape.out_c], &weights, 3, false).expect("a small bound");
    let multiplier = vec![0.001_f32; shape.out_c];
    let residual = vec![77_u8; pixels * shape.out_c];
    let residual = Residual {
        data: &residual,
        signed: false,
        residual_zero_point: 5,
        residual_ratio: 0.7,
        output_ratio: 0.8,
        zero_point: 9,
        lo: 0,
        hi: 255,
    };
    let stage = OutputStage::Quantized(Quantized {
        bias: &bias,
        multiplier: &multiplier,
        zero_point: 7,
        lo: 7,
        hi: 255,
        residual: with_residual.then_some(residual),
    });
    let mut output = vec![0_u8; pixels * shape.out_c];
    let mut scratch = vec![0_u8; prepared.scratch_len()];
    let macs = shape.macs().expect("a valid shape");
    let residual_len = if with_residual {
        residual.data.len()
    } else {
        0
    };
    let work = Work {
        macs,
        integer: true,
        read: (input_len + residual_len + packed.len() + 8 * shape.out_c) as u64,
        written: (pixels * shape.out_c) as u64,
    };
    group.work(Throughput::Elements(macs), work);
    let residual = if with_residual { "_residual" } else { "" };
    let id = format!("{engine:?}{residual}_{isa}").to_lowercase();
    group.bench_function(id, |bencher| {
        bencher.iter(|| {
            let input = Activations {
                data: black_box(&data),
                signed: false,
                zero_point: 3,
            };
            let call = ConvCall {
                input,
                weights: &packed,
                stage: &stage,
                rows: 0..pixels,
                columns: 0..shape.out_c,
                output: OutputSlice::Bytes(&mut output),
                scratch: &mut scratch,
            };
            prepared.run(isa, call)
        });
    });
}

criterion_group! {
    name = benches;
    config = Criterion::default()
        .sample_size(20)
        .warm_up_time(std::time::Duration::from_millis(200))
        .measurement_time(std::time::Duration::from_millis(800));
    targets = bench, bench_planes
}
criterion_main!(benches);
