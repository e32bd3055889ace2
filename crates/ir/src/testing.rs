//! What tests share: random graphs, inputs for them, and a comparison of graphs.
//!
//! The graphs are small convolutional networks with branches, a symbolic batch, and the habits of exporters: batch norms, clips, explicit pads,
//! dropouts, reshapes. A graph follows from its seed alone.

use octofold_ops::BodyId;
use octofold_ops::families::{
    Add, AutoPad, AveragePool, BatchNormalization, Clip, Concat, Conv, DequantizeLinear, Dropout,
    Flatten, Gemm, GlobalAveragePool, HardSwish, Identity, MatMul, MaxPool, Mul, Pad, PadMode,
    QuantizeLinear, Relu, Reshape, Sigmoid, Softmax, Transpose,
};
use octofold_tensor::{DType, Dim, Tensor};

use crate::onnx::tensor_to_proto;
use crate::{Graph, Op, TensorType, ValueId};

/// A small generator of random numbers (`SplitMix64`).
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// The numbers of a seed.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// 64 random bits.
    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let x = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^ (x >> 31)
    }

    /// A number below `limit`, which is not 0.
    pub fn below(&mut self, limit: usize) -> usize {
        (self.bits() % limit.max(1) as u64) as usize
    }

    /// Whether something of a chance of one in `n` happens.
    pub fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }

    /// A number between two others.
    pub fn between(&mut self, low: f32, high: f32) -> f32 {
        let unit = (self.bits() >> 40) as f32 / (1_u64 << 24) as f32;
        low + unit * (high - low)
    }

    /// A tensor of numbers between two others.
    pub fn tensor(&mut self, shape: &[usize], low: f32, high: f32) -> Tensor {
        let values = (0..shape.iter().product())
            .map(|_| self.between(low, high))
            .collect();
        Tensor::new(shape.iter().copied(), values).expect("as many elements as the shape has")
    }
}

/// What random graphs look like.
#[derive(Clone, Copy, Debug)]
pub struct GraphOptions {
    /// About how many nodes there are.
    pub nodes: usize,
    /// Whether values are quantized and dequantized here and there.
    pub quantize: bool,
}

/// A value that is a batch of square images.
#[derive(Clone, Copy)]
struct Image {
    value: ValueId,
    channels: usize,
    /// The height, which is also the width.
    size: usize,
}

struct Builder {
    graph: Graph,
    random: Random,
    images: Vec<Image>,
    count: usize,
}

/// A graph of float inputs and outputs.
///
/// # Panics
/// Never, unless the generator has an error.
pub fn random_graph(seed: u64, options: GraphOptions) -> Graph {
    let mut builder = Builder {
        graph: Graph::new("random"),
        random: Random::new(seed),
        images: Vec::new(),
        count: 0,
    };
    let size = 5 + builder.random.below(3);
    let channels = 1 + builder.random.below(3);
    let dims = [Dim::symbol("N"), channels.into(), size.into(), size.into()];
    let value = builder
        .graph
        .add_input("x", TensorType::new(DType::F32, dims))
        .expect("a new name");
    builder.images.push(Image {
        value,
        channels,
        size,
    });
    while builder.count < options.nodes {
        builder.step(options);
    }
    builder.finish();
    builder.graph
}

/// Inputs for a graph of float inputs, every symbol bound to `batch`.
///
/// # Panics
/// When an input has a shape that this cannot make.
pub fn random_inputs(graph: &Graph, batch: usize, seed: u64) -> Vec<(String, Tensor)> {
    let mut random = Random::new(seed);
    let inputs = graph.inputs().iter().map(|&id| {
        let value = graph.value(id);
        let dims = value.ty().shape.as_ref().expect("an input of known rank");
        let shape: Vec<usize> = dims
            .iter()
            .map(|dim| dim.known().map_or(batch, |size| size as usize))
            .collect();
        (value.name().to_owned(), random.tensor(&shape, -2.0, 2.0))
    });
    inputs.collect()
}

impl Builder {
    fn constant(&mut self, name: &str, tensor: Tensor) -> ValueId {
        let name = self
            .graph
            .fresh_value_name(&format!("{name}{}", self.count));
        self.graph.add_constant(&name, tensor).expect("a new name")
    }

    fn node(&mut self, op: impl Into<Op>, inputs: &[ValueId]) -> ValueId {
        let op = op.into();
        let name = format!("{}_{}", op.name().to_lowercase(), self.count);
        self.count += 1;
        let inputs: Vec<_> = inputs.iter().copied().map(Some).collect();
        // Values have names that need quotes here and there.
        let output = if self.random.one_in(4) {
            format!("/{name}/out")
        } else {
            format!("v{}", self.count)
        };
        let id = self
            .graph
            .add_node(&name, op, &inputs, &[&output], vec![name.clone()])
            .expect("an operator that suits its operands");
        self.graph.node(id).outputs()[0]
    }

    fn pick(&mut self) -> Image {
        // Recent values more often, so that graphs are deep.
        let count = self.images.len();
        let back = self.random.below(count).min(self.random.below(count));
        self.images[count - 1 - back]
    }

    fn step(&mut self, options: GraphOptions) {
        let image = self.pick();
        let Image {
            value: x,
            channels,
            size,
        } = image;
        let alike = |value| Image { value, ..image };
        let made = match self.random.below(14) {
            0..=2 => self.conv(image),
            3 => alike(self.norm(x, channels)),
            4 => alike(self.node(Relu {}, &[x])),
            5 => {
                let low = self.random.between(-1.0, 0.5);
                let bounds = if self.random.one_in(2) {
                    (0.0, 6.0)
                } else {
                    (low, low + 1.0)
                };
                let (min, max) = (
                    self.constant("min", Tensor::scalar(bounds.0)),
                    self.constant("max", Tensor::scalar(bounds.1)),
                );
                alike(self.node(Clip {}, &[x, min, max]))
            }
            6 => alike(self.binary(image)),
            7 => self.concat(image),
            8 if size >= 2 => self.pool(image),
            9 => {
                let shape = [1, channels, 1, 1];
                let factors = self.random.tensor(&shape, 0.5, 1.5);
                let factors = self.constant("factor", factors);
                let op: Op = if self.random.one_in(2) {
                    Mul {}.into()
                } else {
                    Add {}.into()
                };
                alike(self.node(op, &[x, factors]))
            }
            10 => {
                let op: Op = match self.random.below(4) {
                    0 => Sigmoid {}.into(),
                    1 => HardSwish {}.into(),
                    2 => Identity {}.into(),
                    _ => Dropout { seed: None }.into(),
                };
                alike(self.node(op, &[x]))
            }
            11 => {
                let pads = self.constant("pads", Tensor::vector(vec![0_i64, 0, 1, 1, 0, 0, 1, 1]));
                let pad = Pad {
                    mode: PadMode::Constant,
                };
                Image {
                    value: self.node(pad, &[x, pads]),
                    channels,
                    size: size + 2,
                }
            }
            12 => {
                // A product with its own sigmoid: Swish as exporters write it.
                let sigmoid = self.node(Sigmoid {}, &[x]);
                alike(self.node(Mul {}, &[x, sigmoid]))
            }
            _ if options.quantize => alike(self.quantize(x)),
            _ => {
                // There and back again.
                let [there, back] = [vec![0, 2, 3, 1], vec![0, 3, 1, 2]];
                let moved = self.node(Transpose { perm: there }, &[x]);
                alike(self.node(Transpose { perm: back }, &[moved]))
            }
        };
        self.images.push(made);
    }

    fn conv(&mut self, image: Image) -> Image {
        let (channels, size) = (image.channels, image.size);
        let depthwise = channels > 1 && self.random.one_in(4);
        let (out, group) = if depthwise {
            (channels, channels)
        } else {
            (1 + self.random.below(6), 1)
        };
        let kernel = if size >= 3 && self.random.one_in(2) {
            3
        } else {
            1
        };
        let pad = if kernel == 3 { self.random.below(2) } else { 0 };
        let stride = if size >= 4 && self.random.one_in(4) {
            2
        } else {
            1
        };
        let scale = 1.5 / ((channels / group * kernel * kernel) as f32).sqrt();
        let w = self
            .random
            .tensor(&[out, channels / group, kernel, kernel], -scale, scale);
        let mut inputs = vec![image.value, self.constant("w", w)];
        if self.random.one_in(2) {
            let b = self.random.tensor(&[out], -0.5, 0.5);
            inputs.push(self.constant("b", b));
        }
        let same = stride == 1 && kernel == 3 && pad == 1 && self.random.one_in(2);
        let conv = Conv {
            auto_pad: if same {
                AutoPad::SameUpper
            } else {
                AutoPad::NotSet
            },
            dilations: vec![],
            group: group as i64,
            kernel_shape: vec![kernel as i64; 2],
            pads: if same { vec![] } else { vec![pad as i64; 4] },
            strides: vec![stride; 2],
        };
        Image {
            value: self.node(conv, &inputs),
            channels: out,
            size: (size + 2 * pad - kernel) / stride as usize + 1,
        }
    }

    fn norm(&mut self, x: ValueId, channels: usize) -> ValueId {
        let mut inputs = vec![x];
        for (name, low, high) in [
            ("gamma", 0.5, 1.5),
            ("beta", -0.5, 0.5),
            ("mean", -0.5, 0.5),
            ("variance", 0.5, 1.5),
        ] {
            let tensor = self.random.tensor(&[channels], low, high);
            inputs.push(self.constant(name, tensor));
        }
        let norm = BatchNormalization {
            epsilon: 1e-5,
            momentum: 0.9,
            training_mode: false,
        };
        self.node(norm, &inputs)
    }

    fn binary(&mut self, image: Image) -> ValueId {
        let same: Vec<ValueId> = self
            .images
            .iter()
            .filter(|other| (other.channels, other.size) == (image.channels, image.size))
            .map(|other| other.value)
            .collect();
        let operands = [image.value, same[self.random.below(same.len())]];
        if self.random.one_in(4) {
            self.node(Mul {}, &operands)
        } else {
            self.node(Add {}, &operands)
        }
    }

    fn concat(&mut self, image: Image) -> Image {
        let Image {
            value: x,
            channels,
            size,
        } = image;
        let same: Vec<Image> = self
            .images
            .iter()
            .copied()
            .filter(|other| other.size == size && other.channels + channels <= 12)
            .collect();
        if same.is_empty() {
            let value = self.node(Relu {}, &[x]);
            return Image { value, ..image };
        }
        let other = same[self.random.below(same.len())];
        Image {
            value: self.node(Concat { axis: 1 }, &[x, other.value]),
            channels: channels + other.channels,
            size,
        }
    }

    fn pool(&mut self, image: Image) -> Image {
        let (kernel_shape, strides) = (vec![2, 2], vec![2, 2]);
        let op: Op = if self.random.one_in(2) {
            MaxPool {
                auto_pad: AutoPad::NotSet,
                ceil_mode: false,
                dilations: vec![],
                kernel_shape,
                pads: vec![],
                storage_order: 0,
                strides,
            }
            .into()
        } else {
            AveragePool {
                auto_pad: AutoPad::NotSet,
                ceil_mode: false,
                count_include_pad: false,
                dilations: vec![],
                kernel_shape,
                pads: vec![],
                strides,
            }
            .into()
        };
        Image {
            value: self.node(op, &[image.value]),
            channels: image.channels,
            size: image.size / 2,
        }
    }

    fn quantize(&mut self, x: ValueId) -> ValueId {
        let scale = self.random.between(0.01, 0.05);
        let scale = self.constant("scale", Tensor::scalar(scale));
        let zero_point = self.random.below(256) as u8;
        let zero_point = self.constant("zero_point", Tensor::scalar(zero_point));
        let quantize = QuantizeLinear {
            axis: 1,
            block_size: 0,
            output_dtype: 0,
            precision: 0,
            saturate: true,
        };
        let quantized = self.node(quantize, &[x, scale, zero_point]);
        let dequantize = DequantizeLinear {
            axis: 1,
            block_size: 0,
            output_dtype: 0,
        };
        self.node(dequantize, &[quantized, scale, zero_point])
    }

    /// The last value as it is, or behind a classifier; and one more output now and then.
    fn finish(&mut self) {
        let &Image {
            value: last,
            channels,
            size,
        } = self.images.last().expect("the input at least");
        let y = match self.random.below(3) {
            0 => last,
            1 => {
                let pooled = self.node(GlobalAveragePool {}, &[last]);
                let flat = self.node(Flatten { axis: 1 }, &[pooled]);
                let w = self.random.tensor(&[4, channels], -1.0, 1.0);
                let b = self.random.tensor(&[4], -1.0, 1.0);
                let (w, b) = (self.constant("w", w), self.constant("b", b));
                let gemm = Gemm {
                    alpha: 1.0,
                    beta: 1.0,
                    transA: false,
                    transB: true,
                };
                self.node(gemm, &[flat, w, b])
            }
            _ => {
                let width = channels * size * size;
                let shape = self.constant("shape", Tensor::vector(vec![0, width as i64]));
                let flat = self.node(Reshape { allowzero: false }, &[last, shape]);
                let w = self.random.tensor(&[width, 3], -0.3, 0.3);
                let b = self.random.tensor(&[3], -1.0, 1.0);
                let (w, b) = (self.constant("w", w), self.constant("b", b));
                let product = self.node(MatMul {}, &[flat, w]);
                let sum = self.node(Add {}, &[product, b]);
                self.node(Softmax { axis: -1 }, &[sum])
            }
        };
        let name = if self.random.one_in(4) {
            "the answer".to_owned()
        } else {
            self.graph.value(y).name().to_owned()
        };
        self.graph.add_output(&name, y).expect("the first output");
        if self.random.one_in(3) {
            let other = self.pick().value;
            if other != y {
                self.graph.add_output("also", other).expect("a new name");
            }
        }
    }
}

/// The first difference between two graphs in names, types, operators, constants, sources or metadata; ids and aliases do not count.
pub fn difference(a: &Graph, b: &Graph) -> Option<String> {
    let (a, b) = (describe(a), describe(b));
    let pairs = a.iter().zip(&b).find(|(a, b)| a != b);
    match pairs {
        Some((a, b)) => Some(format!("{a}\nis not\n{b}")),
        None if a.len() != b.len() => Some(format!("{} things are not {}", a.len(), b.len())),
        None => None,
    }
}

/// All that a graph is, piece by piece.
fn describe(graph: &Graph) -> Vec<String> {
    let name = |id: ValueId| graph.value(id).name();
    let mut pieces = vec![format!("graph {:?} {:?}", graph.name(), graph.metadata())];
    pieces.extend(
        graph
            .inputs()
            .iter()
            .map(|&id| format!("input {:?} {:?}", name(id), graph.value(id).ty())),
    );
    for id in graph.value_ids() {
        if let Some(tensor) = graph.value(id).constant() {
            // Bytes, so that NaN is equal to itself.
            pieces.push(format!("constant {:?}", tensor_to_proto(name(id), tensor)));
        }
    }
    for id in graph.order().unwrap_or_default() {
        let node = graph.node(id);
        let mut inputs: Vec<_> = node.inputs().iter().map(|input| input.map(name)).collect();
        while inputs.last() == Some(&None) {
            inputs.pop();
        }
        let outputs: Vec<_> = node
            .outputs()
            .iter()
            .map(|&output| (name(output), graph.value(output).ty()))
            .collect();
        pieces.push(format!(
            "node {:?} {:?} {inputs:?} {outputs:?} {:?}",
            node.name(),
            node.op().clone().with_bodies(|_| BodyId(0)),
            node.sources()
        ));
    }
    pieces.extend(
        graph
            .outputs()
            .iter()
            .map(|output| format!("output {:?} {:?}", output.name, name(output.value))),
    );
    // Ids of bodies do not count, so operators were shown without.
    for id in graph.order().unwrap_or_default() {
        for body in graph.node(id).op().bodies() {
            pieces.extend(graph.body(body).into_iter().flat_map(describe));
        }
    }
    pieces
}
