//! Times a network like ResNet-18, or like MobileNetV2, with random weights: `cargo run --release -p octofold-codegen --example resnet [mobile] [float]`.
//!
//! For each instruction set and one and two threads: the fastest and the median of some runs, and for the best instruction set the steps.
#![allow(clippy::print_stdout, reason = "a program that reports figures")]

use std::sync::Arc;
use std::time::Instant;

use anyhow::Result;
use octofold_codegen::{CodegenOptions, Report, compile};
use octofold_ir::{Graph, Op, TensorType, ValueId};
use octofold_kernels::Isa;
use octofold_ops::families::{
    Activation, DequantizeLinear, Flatten, FusedConv, FusedGlobalPool, FusedLinear, FusedPool,
    Layout, Outcome, OutputQuantization, PoolKind, Product, QuantizeLinear, Rescale, Transpose,
};
use octofold_ops::{AttributeMap, Described};
use octofold_quant::{QParams, QuantType};
use octofold_runtime::{Plan, Session, SessionOptions};
use octofold_tensor::{DType, Tensor};

const P: QParams = QParams {
    scale: 0.05,
    zero_point: 100,
};

/// A convolution, whose padding leaves it to the stride to make images smaller.
struct Conv {
    in_c: usize,
    out_c: usize,
    /// The height and width of its kernels.
    kernel: usize,
    stride: i64,
    groups: usize,
}

impl Conv {
    fn new(in_c: usize, out_c: usize, kernel: usize, stride: i64) -> Self {
        Self {
            in_c,
            out_c,
            kernel,
            stride,
            groups: 1,
        }
    }
}

struct Net {
    graph: Graph,
    float: bool,
    count: usize,
}

impl Net {
    fn bytes(&mut self, shape: &[usize]) -> Result<Tensor> {
        let len = shape.iter().product::<usize>();
        let byte = |i: usize| (i.wrapping_mul(2_654_435_761) >> 13) as i8;
        if self.float {
            return Ok(Tensor::new(
                shape.iter().copied(),
                (0..len).map(|i| f32::from(byte(i)) / 2000.0).collect(),
            )?);
        }
        Ok(Tensor::new(
            shape.iter().copied(),
            (0..len).map(byte).collect::<Vec<i8>>(),
        )?)
    }

    fn constant(&mut self, tensor: Tensor) -> Result<ValueId> {
        self.count += 1;
        Ok(self
            .graph
            .add_constant(&format!("c{}", self.count), tensor)?)
    }

    fn node(&mut self, op: impl Into<Op>, inputs: &[Option<ValueId>]) -> Result<ValueId> {
        self.count += 1;
        let (name, value) = (format!("n{}", self.count), format!("v{}", self.count));
        let id = self
            .graph
            .add_node(&name, op.into(), inputs, &[&value], vec![])?;
        Ok(self.graph.node(id).outputs()[0])
    }

    fn conv(&mut self, x: ValueId, layer: Conv, residual: Option<ValueId>) -> Result<ValueId> {
        let kernel = layer.kernel;
        let w = self.bytes(&[layer.out_c, layer.in_c / layer.groups, kernel, kernel])?;
        let w = self.constant(w)?;
        let y = OutputQuantization::new(QuantType::Uint8, P, Activation::Relu);
        let mut conv = FusedConv::from_attributes(&mut AttributeMap::default())?;
        conv.strides = vec![layer.stride; 2];
        conv.pads = vec![(kernel / 2) as i64; 4];
        conv.group = layer.groups as i64;
        conv.layout = Layout::Nhwc;
        conv.product = match residual {
            _ if self.float => Product::Float(Activation::Relu),
            None => Product::integer(P, vec![0.001], Outcome::Bytes(y)),
            Some(_) => {
                let (own, residual, sum) = (y, P, y);
                let result = Outcome::Residual { own, residual, sum };
                Product::integer(P, vec![0.001], result)
            }
        };
        self.node(conv, &[Some(x), Some(w), None, residual])
    }

    fn begin(&mut self, size: usize) -> Result<ValueId> {
        let x = self
            .graph
            .add_input("x", TensorType::new(DType::F32, [1, 3, size, size]))?;
        let x = if self.float {
            x
        } else {
            self.quantizer::<QuantizeLinear>(x)?
        };
        self.node(
            Transpose {
                perm: vec![0, 2, 3, 1],
            },
            &[Some(x)],
        )
    }

    fn quantizer<T: Described + Into<Op>>(&mut self, x: ValueId) -> Result<ValueId> {
        let scale = self.constant(Tensor::scalar(P.scale))?;
        let zero_point = self.constant(Tensor::scalar(P.zero_point as u8))?;
        self.node(
            T::from_attributes(&mut AttributeMap::default())?,
            &[Some(x), Some(scale), Some(zero_point)],
        )
    }

    fn end(&mut self, x: ValueId, channels: usize) -> Result<()> {
        let y = OutputQuantization::new(QuantType::Uint8, P, Activation::None);
        let pool = FusedGlobalPool {
            kind: PoolKind::Average,
            layout: Layout::Nhwc,
            rescale: (!self.float).then_some(Rescale { x: P, y }),
        };
        let x = self.node(pool, &[Some(x)])?;
        let x = self.node(
            Flatten::from_attributes(&mut AttributeMap::default())?,
            &[Some(x)],
        )?;
        let w = self.bytes(&[channels, 1000])?;
        let w = self.constant(w)?;
        let product = if self.float {
            Product::default()
        } else {
            Product::integer(P, vec![0.001], Outcome::Bytes(y))
        };
        let linear = FusedLinear { product };
        let x = self.node(linear, &[Some(x), Some(w)])?;
        let x = if self.float {
            x
        } else {
            self.quantizer::<DequantizeLinear>(x)?
        };
        Ok(self.graph.add_output("y", x)?)
    }

    fn resnet18(&mut self) -> Result<()> {
        let x = self.begin(224)?;
        let x = self.conv(x, Conv::new(3, 64, 7, 2), None)?;
        let y = OutputQuantization::new(QuantType::Uint8, P, Activation::None);
        let pool = FusedPool {
            kind: PoolKind::Max,
            kernel_shape: vec![3, 3],
            strides: vec![2, 2],
            pads: vec![1; 4],
            dilations: vec![1, 1],
            ceil_mode: false,
            count_include_pad: false,
            layout: Layout::Nhwc,
            rescale: (!self.float).then_some(Rescale { x: P, y }),
        };
        let mut x = self.node(pool, &[Some(x)])?;
        let mut in_c = 64;
        for (stage, out_c) in [64, 128, 256, 512].into_iter().enumerate() {
            for block in 0..2 {
                let stride = if stage > 0 && block == 0 { 2 } else { 1 };
                let a = self.conv(x, Conv::new(in_c, out_c, 3, stride), None)?;
                let skip = if stride == 2 {
                    self.conv(x, Conv::new(in_c, out_c, 1, 2), None)?
                } else {
                    x
                };
                x = self.conv(a, Conv::new(out_c, out_c, 3, 1), Some(skip))?;
                in_c = out_c;
            }
        }
        self.end(x, 512)
    }

    fn mobilenet(&mut self) -> Result<()> {
        let x = self.begin(224)?;
        let mut x = self.conv(x, Conv::new(3, 32, 3, 2), None)?;
        let mut in_c = 32;
        for (expand, out_c, count, first) in [
            (1, 16, 1, 1),
            (6, 24, 2, 2),
            (6, 32, 3, 2),
            (6, 64, 4, 2),
            (6, 96, 3, 1),
            (6, 160, 3, 2),
            (6, 320, 1, 1),
        ] {
            for block in 0..count {
                let stride = if block == 0 { first } else { 1 };
                let wide = in_c * expand;
                let a = if expand > 1 {
                    self.conv(x, Conv::new(in_c, wide, 1, 1), None)?
                } else {
                    x
                };
                let depthwise = Conv {
                    groups: wide,
                    ..Conv::new(wide, wide, 3, stride)
                };
                let a = self.conv(a, depthwise, None)?;
                let residual = (block > 0).then_some(x);
                x = self.conv(a, Conv::new(wide, out_c, 1, 1), residual)?;
                in_c = out_c;
            }
        }
        let x = self.conv(x, Conv::new(320, 1280, 1, 1), None)?;
        self.end(x, 1280)
    }
}

fn time(plan: &Arc<Plan>, isa: Isa, threads: usize, profile: bool) -> Result<()> {
    let mut session = Session::new(
        Arc::clone(plan),
        SessionOptions {
            threads,
            isa: Some(isa),
            allow_portable: true,
            ..SessionOptions::DEFAULT
        },
    )?;
    let x = Tensor::new(
        [1, 3, 224, 224],
        (0..3 * 224 * 224)
            .map(|i| (i % 255) as f32 / 50.0 - 2.0)
            .collect(),
    )?;
    let inputs = [("x", x)];
    session.run(&inputs)?;
    session.set_profiling(profile);
    let mut times = Vec::new();
    let start = Instant::now();
    while times.len() < 5 || (start.elapsed().as_secs_f64() < 3.0 && times.len() < 200) {
        let began = Instant::now();
        session.run(&inputs)?;
        times.push(began.elapsed().as_secs_f64() * 1e3);
    }
    times.sort_by(f64::total_cmp);
    println!(
        "{isa:12} {threads} threads: min {:.2} ms, median {:.2} ms",
        times[0],
        times[times.len() / 2]
    );
    if let Some(profile) = session.profile() {
        for step in &profile.steps {
            let (name, kernel, ms) = (&step.name, step.kernel, step.median().as_secs_f64() * 1e3);
            println!(
                "  {name:6} {kernel:22} {:18} {ms:8.3} ms {:7.1} GMAC/s",
                format!("{:?}", step.shape),
                step.gmacs()
            );
        }
    }
    Ok(())
}

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let has = |word: &str| arguments.iter().any(|argument| argument == word);
    let mut net = Net {
        graph: Graph::new("net"),
        float: has("float"),
        count: 0,
    };
    if has("mobile") {
        net.mobilenet()?
    } else {
        net.resnet18()?
    }
    let began = Instant::now();
    let plan = Arc::new(compile(&net.graph, &CodegenOptions::default())?);
    println!("compiled in {:.0} ms", began.elapsed().as_secs_f64() * 1e3);
    let report = Report::new(&plan, &plan.fixed_input_shapes().unwrap_or_default())?;
    println!(
        "{} steps, {:.0} million MACs, {:.0} % in integers, arena {} KiB, constants {} KiB",
        report.steps.len(),
        report.macs() as f64 / 1e6,
        100.0 * report.integer_mac_share(),
        report.arena_bytes >> 10,
        report.weight_bytes >> 10
    );
    for isa in Isa::supported().into_iter().rev() {
        if isa == Isa::Scalar && !has("scalar") {
            continue;
        }
        for threads in [1, 2] {
            time(&plan, isa, threads, has("profile") && isa == Isa::detect())?;
        }
    }
    Ok(())
}
