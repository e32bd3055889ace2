//! Operators on input that nobody checked: random attributes, types and shapes, extreme ones among them, must give a result or an
//! error, never a panic, a hang or an allocation of absurd size.

use octofold_ops::families::{Recurrent, RecurrentLayer};
use octofold_ops::{Attribute, AttributeMap, Inputs, Op};
use octofold_tensor::{DType, Tensor, bf16, f16};

/// A small deterministic source of numbers (xorshift). A mild one avoids what is certain to be refused.
struct Source {
    state: u64,
    mild: bool,
}

impl Source {
    fn next(&mut self) -> u64 {
        self.state ^= self.state << 13;
        self.state ^= self.state >> 7;
        self.state ^= self.state << 17;
        self.state
    }

    fn pick<T: Clone>(&mut self, choices: &[T]) -> T {
        choices[(self.next() % choices.len() as u64) as usize].clone()
    }

    fn chance(&mut self, one_in: u64) -> bool {
        self.next().is_multiple_of(one_in)
    }

    fn int(&mut self) -> i64 {
        if self.mild {
            self.pick(&[1, 1, 2])
        } else if self.chance(8) {
            let extremes = [
                i64::MIN,
                i64::MIN + 1,
                i64::MAX,
                -1,
                i64::from(i32::MAX),
                1 << 20,
                257,
            ];
            self.pick(&extremes)
        } else {
            (self.next() % 4) as i64
        }
    }

    fn float(&mut self) -> f32 {
        if !self.mild && self.chance(8) {
            self.pick(&[
                f32::NAN,
                f32::INFINITY,
                f32::NEG_INFINITY,
                f32::MAX,
                -1.0,
                0.0,
                1e-40,
            ])
        } else {
            (self.next() % 1000) as f32 / 250.0
        }
    }

    fn list<T>(&mut self, length: u64, mut item: impl FnMut(&mut Self) -> T) -> Vec<T> {
        let length = if self.mild {
            length
        } else if self.chance(3) {
            self.next() % 7
        } else {
            self.pick(&[1, 2, 4])
        };
        (0..length).map(|_| item(self)).collect()
    }

    fn shape(&mut self) -> Vec<usize> {
        if self.mild {
            let whole = vec![self.pick(&[1, 2]), 2, self.pick(&[1, 2, 3]), 3];
            return self.pick(&[vec![], vec![2], vec![2, 2], whole.clone(), whole]);
        }
        let rank = if self.chance(3) {
            self.next() % 6
        } else {
            self.pick(&[1, 2, 4])
        };
        let mut shape: Vec<usize> = (0..rank).map(|_| self.pick(&[1, 1, 2, 2, 3, 4])).collect();
        if self.chance(8) && !shape.is_empty() {
            // No elements, but axes whose product overflows.
            shape
                .iter_mut()
                .for_each(|size| *size = self.pick(&[1, 2, 1 << 20, 1 << 40]));
            shape[0] = 0;
        }
        shape
    }

    fn tensor(&mut self, dtype: DType) -> Tensor {
        let shape = self.shape();
        self.filled(&shape, dtype)
    }

    fn filled(&mut self, shape: &[usize], dtype: DType) -> Tensor {
        let count = if shape.contains(&0) {
            0
        } else {
            shape.iter().product()
        };
        macro_rules! tensor {
            ($value:expr) => {{
                let values = (0..count).map(|_| $value).collect();
                Tensor::new(shape.iter().copied(), values)
            }};
        }
        let tensor = match dtype {
            DType::F32 => tensor!(self.float()),
            DType::F64 => tensor!(f64::from(self.float())),
            DType::F16 => tensor!(f16::from_f32(self.float())),
            DType::BF16 => tensor!(bf16::from_f32(self.float())),
            DType::U8 => tensor!(self.next() as u8),
            DType::I8 => tensor!(self.next() as i8),
            DType::U16 => tensor!(self.next() as u16),
            DType::I16 => tensor!(self.next() as i16),
            DType::I32 => tensor!(self.int() as i32),
            DType::U32 => tensor!(self.int() as u32),
            DType::I64 => tensor!(self.int()),
            DType::U64 => tensor!(self.int() as u64),
            DType::Bool => tensor!(self.chance(2)),
            _ => tensor!(String::from("x")),
        };
        // Shapes whose leading sizes overflow by themselves cannot be made.
        tensor.unwrap_or_else(|_| Tensor::scalar(1.0_f32))
    }

    fn dtype(&mut self) -> DType {
        use DType::*;
        self.pick(&[
            F32, F32, F32, F32, U8, U8, I8, I64, I32, F64, F16, BF16, U16, I16, U32, U64, Bool,
            String,
        ])
    }

    fn attribute(&mut self, name: &str) -> Attribute {
        const WORDS: &[(&str, &[&str])] = &[
            ("auto_pad", &["NOTSET", "SAME_UPPER", "SAME_LOWER", "VALID"]),
            ("mode", &["nearest", "linear", "cubic"]),
            (
                "coordinate_transformation_mode",
                &[
                    "asymmetric",
                    "tf_crop_and_resize",
                    "half_pixel_symmetric",
                    "align_corners",
                ],
            ),
            ("keep_aspect_ratio_policy", &["not_larger", "not_smaller"]),
            ("nearest_mode", &["floor", "ceil", "round_prefer_ceil"]),
            ("layout", &["nchw", "nhwc"]),
            ("kind", &["max", "average", "add", "mul"]),
            ("activation", &["relu", "clip"]),
            ("y_type", &["uint8", "int8", "int32"]),
            ("sum_type", &["uint8", "int8"]),
            ("direction", &["forward", "reverse", "bidirectional"]),
        ];
        if let Some((_, words)) = WORDS.iter().find(|(word, _)| *word == name) {
            return Attribute::String(self.pick(words).to_owned());
        }
        if name.ends_with("_scale") && !matches!(name, "w_scale") {
            return Attribute::Float(self.float().abs().max(1e-3));
        }
        match name {
            "pads" | "strides" | "dilations" | "kernel_shape" | "output_padding"
            | "output_shape" | "axes" => {
                Attribute::Ints(self.list(if name == "pads" { 4 } else { 2 }, Self::int))
            }
            "w_scale" => Attribute::Floats(self.list(2, Self::float)),
            "activation_alpha" | "activation_beta" => Attribute::Floats(self.list(3, Self::float)),
            "activations" => {
                let names = ["Sigmoid", "TANH", "elu", "Affine", "ScaledTanh", "Cosine"];
                let count = self.pick(&[3, 3, 6]);
                let known = names.len() - usize::from(self.mild);
                let names = (0..count).map(|_| self.pick(&names[..known]).to_owned());
                Attribute::Strings(names.collect())
            }
            // Not a word, as that of our own operators.
            "recurrent_layout" => Attribute::Int(self.pick(&[0, 1, 1, 2])),
            "clip"
            | "alpha"
            | "beta"
            | "gamma"
            | "epsilon"
            | "bias"
            | "cubic_coeff_a"
            | "extrapolation_value" => Attribute::Float(self.float()),
            _ => Attribute::Int(self.int()),
        }
    }
}

/// The attributes that some operators have.
const ATTRIBUTES: &[(&str, &[&str])] = &[
    (
        "Conv",
        &[
            "auto_pad",
            "dilations",
            "group",
            "kernel_shape",
            "pads",
            "strides",
        ],
    ),
    (
        "ConvInteger",
        &[
            "auto_pad",
            "dilations",
            "group",
            "kernel_shape",
            "pads",
            "strides",
        ],
    ),
    (
        "QLinearConv",
        &[
            "auto_pad",
            "dilations",
            "group",
            "kernel_shape",
            "pads",
            "strides",
        ],
    ),
    (
        "ConvTranspose",
        &[
            "auto_pad",
            "dilations",
            "group",
            "kernel_shape",
            "pads",
            "strides",
            "output_padding",
            "output_shape",
        ],
    ),
    (
        "MaxPool",
        &[
            "auto_pad",
            "ceil_mode",
            "dilations",
            "kernel_shape",
            "pads",
            "strides",
            "storage_order",
        ],
    ),
    (
        "AveragePool",
        &[
            "auto_pad",
            "ceil_mode",
            "dilations",
            "kernel_shape",
            "pads",
            "strides",
            "count_include_pad",
        ],
    ),
    ("Gemm", &["transA", "transB", "alpha", "beta"]),
    ("LayerNormalization", &["axis", "epsilon"]),
    ("LpNormalization", &["axis", "p"]),
    ("LRN", &["size", "alpha", "beta", "bias"]),
    ("Softmax", &["axis"]),
    ("LogSoftmax", &["axis"]),
    ("Hardmax", &["axis"]),
    (
        "Resize",
        &[
            "antialias",
            "axes",
            "coordinate_transformation_mode",
            "cubic_coeff_a",
            "exclude_outside",
            "extrapolation_value",
            "keep_aspect_ratio_policy",
            "mode",
            "nearest_mode",
        ],
    ),
    (
        "QuantizeLinear",
        &["axis", "block_size", "output_dtype", "precision"],
    ),
    ("DequantizeLinear", &["axis", "block_size", "output_dtype"]),
    (
        "LSTM",
        &[
            "activation_alpha",
            "activation_beta",
            "activations",
            "clip",
            "direction",
            "hidden_size",
            "input_forget",
            "recurrent_layout",
        ],
    ),
    (
        "GRU",
        &[
            "activation_alpha",
            "activations",
            "clip",
            "direction",
            "hidden_size",
            "linear_before_reset",
            "recurrent_layout",
        ],
    ),
    (
        "RNN",
        &[
            "activation_beta",
            "activations",
            "clip",
            "direction",
            "hidden_size",
            "recurrent_layout",
        ],
    ),
    ("BatchNormalization", &["epsilon"]),
    ("InstanceNormalization", &["epsilon"]),
    (
        "octofold.Conv",
        &[
            "strides",
            "pads",
            "dilations",
            "group",
            "activation",
            "layout",
            "x_scale",
            "x_zero_point",
            "w_scale",
            "y_type",
            "y_scale",
            "y_zero_point",
            "residual_scale",
            "residual_zero_point",
            "sum_type",
            "sum_scale",
            "sum_zero_point",
        ],
    ),
    (
        "octofold.Linear",
        &[
            "activation",
            "x_scale",
            "x_zero_point",
            "w_scale",
            "y_type",
            "y_scale",
            "y_zero_point",
        ],
    ),
    (
        "octofold.Binary",
        &[
            "kind",
            "activation",
            "a_scale",
            "a_zero_point",
            "b_scale",
            "b_zero_point",
            "y_type",
            "y_scale",
            "y_zero_point",
        ],
    ),
    (
        "octofold.Pool",
        &[
            "kind",
            "kernel_shape",
            "strides",
            "pads",
            "dilations",
            "ceil_mode",
            "count_include_pad",
            "layout",
            "x_scale",
            "x_zero_point",
            "y_type",
            "y_scale",
            "y_zero_point",
        ],
    ),
    (
        "octofold.GlobalPool",
        &[
            "kind",
            "layout",
            "x_scale",
            "x_zero_point",
            "y_type",
            "y_scale",
            "y_zero_point",
        ],
    ),
];

/// Operators that a random input reaches, those without attributes included.
const BARE: &[&str] = &[
    "MatMul",
    "GlobalMaxPool",
    "GlobalAveragePool",
    "Relu",
    "PRelu",
    "Clip",
    "Gelu",
    "DynamicQuantizeLinear",
    "QLinearMatMul",
    "MatMulInteger",
    "octofold.TableLookup",
];

fn split(name: &str) -> (&str, &str) {
    name.split_once('.').unwrap_or(("", name))
}

fn random_op(source: &mut Source) -> Option<Op> {
    let bare = BARE.iter().map(|&name| (name, &[][..]));
    let all: Vec<(&str, &[&str])> = ATTRIBUTES.iter().copied().chain(bare).collect();
    let (name, attributes) = source.pick(&all);
    let (domain, name) = split(name);
    let mut map = AttributeMap::default();
    let keep = source.pick(&[2, 3, 5]);
    for &attribute in attributes {
        let required = matches!(
            (name, attribute),
            ("MaxPool" | "AveragePool" | "Pool", "kernel_shape") | (_, "kind" | "size")
        );
        if required || !source.chance(keep) {
            let value = source.attribute(attribute);
            map.insert(attribute.trim_start_matches("recurrent_"), value);
        }
    }
    Op::from_attributes(domain, name, map).ok()
}

/// Inputs that fit, but for one size now and then; shapes at random never do.
fn recurrent_inputs(source: &mut Source, layer: Recurrent<'_>) -> Vec<Option<Tensor>> {
    let dtype = source.pick(&[DType::F32, DType::F32, DType::F64, DType::F16, DType::BF16]);
    let (steps, batch, input) = (source.pick(&[0, 1, 3]), source.pick(&[0, 1, 2]), 2);
    let (hidden, directions) = (source.pick(&[1, 2]), layer.direction.count());
    let mut x = [steps, batch, input];
    let mut state = [directions, batch, hidden];
    if layer.layout {
        x.swap(0, 1);
        state.swap(0, 1);
    }
    let lines = layer.gates * hidden;
    let mut shapes = vec![
        x.to_vec(),
        vec![directions, lines, input],
        vec![directions, lines, hidden],
        vec![directions, 2 * lines],
        vec![batch],
    ];
    shapes.extend(vec![state.to_vec(); layer.states]);
    if layer.states == 2 {
        shapes.push(vec![directions, 3 * hidden]);
    }
    let count = 3 + source.next() as usize % (shapes.len() - 2);
    let inputs = shapes.into_iter().take(count).enumerate();
    let inputs = inputs.map(|(index, shape)| {
        let mut shape = shape;
        if !source.mild && source.chance(6) {
            let axis = (source.next() % shape.len() as u64) as usize;
            shape[axis] = source.pick(&[0, 1, 3]);
            if shape.contains(&0) && source.chance(2) {
                // No elements, but axes that no memory holds.
                let huge = source.pick(&[1 << 20, 1 << 40, usize::MAX / 4]);
                shape
                    .iter_mut()
                    .filter(|size| **size > 0)
                    .for_each(|size| *size = huge);
            }
        }
        let dtype = if index == 4 { DType::I32 } else { dtype };
        let absent = index > 2 && source.chance(3) || !source.mild && source.chance(12);
        (!absent).then(|| source.filled(&shape, dtype))
    });
    inputs.collect()
}

fn random_inputs(source: &mut Source, op: &Op) -> Vec<Option<Tensor>> {
    let layer = match op {
        Op::Lstm(op) => Some(op.recurrent()),
        Op::Gru(op) => Some(op.recurrent()),
        Op::Rnn(op) => Some(op.recurrent()),
        _ => None,
    };
    if let Some(layer) = layer {
        return recurrent_inputs(source, layer);
    }
    let arity = op.arity().inputs;
    let span = arity.end().min(&9) - arity.start().min(&9);
    let count = arity.start() + (source.next() % (span as u64 + 1)) as usize;
    let dtype = source.dtype();
    let same_shape = source.chance(4).then(|| source.tensor(dtype));
    let quantized = op.name().starts_with("QLinear");
    (0..count)
        .map(|index| {
            let dtype = match index {
                1 | 4 | 6 if quantized => DType::F32,
                8 if quantized => DType::I32,
                _ if quantized => DType::U8,
                _ if !source.mild && source.chance(3) => source.dtype(),
                _ => dtype,
            };
            let fresh = source.tensor(dtype);
            let tensor = same_shape
                .clone()
                .filter(|_| source.chance(2))
                .unwrap_or(fresh);
            (source.mild || !source.chance(12)).then_some(tensor)
        })
        .collect()
}

#[test]
fn nothing_panics() {
    let mut source = Source {
        state: 0x9e37_79b9_7f4a_7c15,
        mild: false,
    };
    let (mut fine, mut made) = (0, 0);
    for round in 0..100_000 {
        source.mild = round % 3 != 0;
        let Some(op) = random_op(&mut source) else {
            continue;
        };
        made += 1;
        let inputs = random_inputs(&mut source, &op);
        let inputs: Vec<_> = inputs.iter().map(Option::as_ref).collect();
        fine += usize::from(
            op.evaluate(Inputs(&inputs), *op.arity().outputs.end())
                .is_ok(),
        );
    }
    // Neither everything nor nothing: the source makes sense, and errors happen.
    assert!(fine * 20 > made && fine * 2 < made, "{fine} of {made}");
}
