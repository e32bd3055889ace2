//! Speed of the quantized operators that both engines share, with every instruction set, on one thread.
//!
//! `cargo bench -p octofold-kernels --bench shared`; an element is one element of the output, except for pooling,
//! where it is one element of the input. Each is followed by its share of the limit of moving its bytes.

mod limit;

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use octofold_kernels::Isa;
use octofold_kernels::conv::Depth;
use octofold_kernels::peak::Work;
use octofold_kernels::shared::binary::{Operand, add, mul};
use octofold_kernels::shared::concat::{ConcatInput, concat};
use octofold_kernels::shared::expand::{Axis, expand};
use octofold_kernels::shared::layout::{nchw_to_nhwc, nhwc_to_nchw};
use octofold_kernels::shared::pick::Pick;
use octofold_kernels::shared::pool::{
    Averaging, PoolCall, average_pool, global_average_pool, max_pool,
};
use octofold_kernels::shared::quantize::{
    dequantize, dequantize_nhwc_to_nchw, quantize, quantize_nchw_to_nhwc,
};
use octofold_kernels::shared::table_lookup::table_lookup;
use octofold_kernels::shared::{ImageShape, PoolShape, Quant8, Target8};
use octofold_quant::QParams;

const FROM: Quant8 = Quant8::unsigned(QParams {
    scale: 0.023,
    zero_point: 117,
});
const OTHER: Quant8 = Quant8::unsigned(QParams {
    scale: 0.031,
    zero_point: 0,
});
const TO: Target8 = Target8::full(Quant8::unsigned(QParams {
    scale: 0.04,
    zero_point: 60,
}));

fn bytes(len: usize) -> Vec<u8> {
    (0..len).map(|i| (i * 7919 % 251) as u8).collect()
}

fn floats(len: usize) -> Vec<f32> {
    (0..len)
        .map(|i| (i * 7919 % 1000) as f32 / 500.0 - 1.0)
        .collect()
}

/// Measures `kernel`, which reads `read` bytes and writes `written`, for each instruction set.
fn all(
    c: &mut Criterion,
    name: &str,
    elements: usize,
    read: usize,
    written: usize,
    mut kernel: impl FnMut(Isa) -> Result<(), octofold_kernels::KernelError>,
) {
    let mut group = limit::group(c, name, true);
    let work = Work {
        read: read as u64,
        written: written as u64,
        ..Work::default()
    };
    group.work(Throughput::Elements(elements as u64), work);
    for isa in Isa::supported() {
        group.bench_function(isa.name(), |b| b.iter(|| kernel(black_box(isa))));
    }
}

fn elementwise(c: &mut Criterion) {
    const LEN: usize = 56 * 56 * 64;
    let (a, b, table) = (
        bytes(LEN),
        bytes(LEN),
        std::array::from_fn(|i| (i * 3) as u8),
    );
    let x = floats(LEN);
    let (mut y, mut f) = (vec![0; LEN], vec![0.0; LEN]);
    let of = |data| Operand { data, quant: FROM };
    let other = |data| Operand { data, quant: OTHER };
    all(c, "add", LEN, 2 * LEN, LEN, |isa| {
        add(isa, of(&a), other(&b), TO, &mut y)
    });
    all(c, "add_one", LEN, LEN, LEN, |isa| {
        add(isa, of(&a), other(&b[..1]), TO, &mut y)
    });
    // One value for each row of 49 bytes.
    let rows = [
        Axis {
            size: LEN / 49,
            step: 1,
        },
        Axis { size: 49, step: 0 },
    ];
    all(c, "expand_rows", LEN, LEN / 49, LEN, |isa| {
        expand(isa, &rows, &a, &mut y)
    });
    all(c, "mul", LEN, 2 * LEN, LEN, |isa| {
        mul(isa, of(&a), other(&b), TO, &mut y)
    });
    all(c, "table", LEN, LEN, LEN, |isa| {
        table_lookup(isa, &table, &a, &mut y)
    });
    all(c, "quantize", LEN, 4 * LEN, LEN, |isa| {
        quantize(isa, &x, TO, &mut y)
    });
    all(c, "dequantize", LEN, LEN, 4 * LEN, |isa| {
        dequantize(isa, &a, FROM, &mut f)
    });
    let input = |data, quant| ConcatInput {
        data: Some(data),
        quant,
        inner: 64,
    };
    let mut joined = vec![0; 2 * LEN];
    all(c, "concat", 2 * LEN, 2 * LEN, 2 * LEN, |isa| {
        let inputs = [input(&a, TO.quant), input(&b, FROM)];
        concat(isa, &inputs, TO, LEN / 64, 0..LEN / 64, &mut joined)
    });
    let pick = Pick::new(&[56 * 64, 56], &[56 * 64, 56], 1).unwrap();
    let indices: Vec<i64> = (0..LEN as i64).map(|i| i * 37 % 56).collect();
    let mut picked = vec![0.0; LEN];
    all(c, "pick", LEN, 12 * LEN, 4 * LEN, |_| {
        pick.run(&x, &indices, 0..pick.rows(), &mut picked)
    });
}

fn pooling(c: &mut Criterion) {
    let shape = |size, channels, kernel, stride| PoolShape {
        batch: 1,
        in_h: size,
        in_w: size,
        channels,
        out_h: size.div_ceil(stride),
        out_w: size.div_ceil(stride),
        kernel_h: kernel,
        kernel_w: kernel,
        stride_h: stride,
        stride_w: stride,
        dilation_h: 1,
        dilation_w: 1,
        pad_top: kernel / 2,
        pad_left: kernel / 2,
        pad_bottom: kernel / 2,
        pad_right: kernel / 2,
        depth: Depth::ONE,
        out_d: 1,
    };
    for (name, shape) in [
        ("3x3_s2_64_112", shape(112, 64, 3, 2)),
        ("5x5_s1_256_14", shape(14, 256, 5, 1)),
    ] {
        let elements = shape.in_h * shape.in_w * shape.channels;
        let rows = shape.rows().unwrap();
        let input = bytes(elements);
        let mut output = vec![0; shape.out_h * shape.out_w * shape.channels];
        let to = Target8::full(FROM);
        let mut scratch = vec![0; shape.scratch_len().unwrap()];
        let written = output.len();
        all(
            c,
            &format!("max_pool_{name}"),
            elements,
            elements,
            written,
            |isa| {
                let call = PoolCall {
                    input: &input,
                    from: FROM,
                    to,
                    part: 0..rows,
                    output: &mut output,
                    scratch: &mut scratch,
                };
                max_pool(isa, &shape, call)
            },
        );
        let averaging = Averaging {
            count_padding: false,
            columns_first: true,
        };
        all(
            c,
            &format!("average_pool_{name}"),
            elements,
            elements,
            written,
            |isa| {
                let call = PoolCall {
                    input: &input,
                    from: FROM,
                    to,
                    part: 0..rows,
                    output: &mut output,
                    scratch: &mut scratch,
                };
                average_pool(isa, &shape, averaging, call)
            },
        );
    }
    let shape = ImageShape {
        batch: 1,
        channels: 2048,
        pixels: 49,
    };
    let input = bytes(2048 * 49);
    let mut output = vec![0; 2048];
    all(
        c,
        "global_average_pool_2048_7",
        input.len(),
        input.len(),
        2048,
        |isa| {
            let call = PoolCall {
                input: &input,
                from: FROM,
                to: TO,
                part: 0..2048,
                output: &mut output,
                scratch: &mut [],
            };
            global_average_pool(isa, &shape, call)
        },
    );
}

fn layouts(c: &mut Criterion) {
    let rgb = ImageShape {
        batch: 1,
        channels: 3,
        pixels: 224 * 224,
    };
    let deep = ImageShape {
        batch: 1,
        channels: 64,
        pixels: 56 * 56,
    };
    for (name, shape) in [("3_224", rgb), ("64_56", deep)] {
        let len = shape.len().unwrap();
        let (bytes, floats) = (bytes(len), floats(len));
        let (mut out_bytes, mut out_floats) = (vec![0; len], vec![0.0; len]);
        let planes = 0..shape.channels;
        let pixels = 0..shape.pixels;
        all(
            c,
            &format!("nchw_to_nhwc_u8_{name}"),
            len,
            len,
            len,
            |isa| nchw_to_nhwc(isa, &shape, &bytes, pixels.clone(), &mut out_bytes),
        );
        all(
            c,
            &format!("nhwc_to_nchw_u8_{name}"),
            len,
            len,
            len,
            |isa| nhwc_to_nchw(isa, &shape, &bytes, planes.clone(), &mut out_bytes),
        );
        all(
            c,
            &format!("nchw_to_nhwc_f32_{name}"),
            len,
            4 * len,
            4 * len,
            |isa| nchw_to_nhwc(isa, &shape, &floats, pixels.clone(), &mut out_floats),
        );
        all(
            c,
            &format!("nhwc_to_nchw_f32_{name}"),
            len,
            4 * len,
            4 * len,
            |isa| nhwc_to_nchw(isa, &shape, &floats, planes.clone(), &mut out_floats),
        );
        all(
            c,
            &format!("quantize_nhwc_{name}"),
            len,
            4 * len,
            len,
            |isa| quantize_nchw_to_nhwc(isa, &shape, &floats, TO, pixels.clone(), &mut out_bytes),
        );
        all(
            c,
            &format!("dequantize_nchw_{name}"),
            len,
            len,
            4 * len,
            |isa| {
                dequantize_nhwc_to_nchw(isa, &shape, &bytes, FROM, planes.clone(), &mut out_floats)
            },
        );
    }
}

criterion_group!(benches, elementwise, pooling, layouts);
criterion_main!(benches);
