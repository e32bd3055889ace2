//! Graphs for tests, and the comparison of a plan with the interpreter.
#![allow(dead_code, reason = "each test binary uses a part of it")]

use std::sync::Arc;

use octofold_codegen::{CodegenOptions, compile};
use octofold_ir::{Graph, Op, TensorType, ValueId, interpret};
use octofold_kernels::Isa;
use octofold_ops::Described;
use octofold_ops::families::{Activation, OutputQuantization};
use octofold_quant::{QParams, QuantType};
use octofold_runtime::{Plan, Session, SessionOptions};
use octofold_tensor::{DType, Elements, Tensor, TensorData};

/// A small generator of the same numbers every time (xorshift).
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 >> 11
    }

    pub(crate) fn below(&mut self, bound: u64) -> usize {
        (self.next() % bound) as usize
    }

    pub(crate) fn int(&mut self, low: i64, high: i64) -> i64 {
        low + (self.next() % (high - low + 1) as u64) as i64
    }

    /// A number in -1..1.
    pub(crate) fn unit(&mut self) -> f32 {
        (self.next() & 0xff_ffff) as f32 / (1 << 23) as f32 - 1.0
    }

    /// A scale about `around`.
    pub(crate) fn scale(&mut self, around: f32) -> f32 {
        around * (1.0 + 0.5 * self.unit())
    }

    /// A tensor of random elements: bytes of the whole range with many extremes, floats in -1..1.
    pub(crate) fn tensor(&mut self, dtype: DType, shape: &[usize]) -> Tensor {
        let count = shape.iter().product::<usize>();
        let mut byte = || match self.next() {
            n if n.is_multiple_of(5) => [0, 1, 127, 128, 255][(n / 5 % 5) as usize],
            n => (n / 5) as u8,
        };
        let data = match dtype {
            DType::U8 => TensorData::U8(Elements::new((0..count).map(|_| byte()).collect())),
            DType::I8 => TensorData::I8(Elements::new((0..count).map(|_| byte() as i8).collect())),
            DType::I32 => TensorData::I32(Elements::new(
                (0..count).map(|_| self.int(-3000, 3000) as i32).collect(),
            )),
            DType::F32 => TensorData::F32(Elements::new((0..count).map(|_| self.unit()).collect())),
            other => panic!("no random {other}"),
        };
        Tensor::from_data(shape.iter().copied(), data).expect("the count fits")
    }
}

/// Builds a graph node by node.
pub(crate) struct Builder {
    pub(crate) graph: Graph,
    count: usize,
}

impl Builder {
    pub(crate) fn new() -> Self {
        Self {
            graph: Graph::new("test"),
            count: 0,
        }
    }

    pub(crate) fn input(&mut self, name: &str, dtype: DType, shape: &[usize]) -> ValueId {
        self.graph
            .add_input(name, TensorType::new(dtype, shape.iter().copied()))
            .expect("a new name")
    }

    pub(crate) fn constant(&mut self, tensor: Tensor) -> ValueId {
        self.count += 1;
        self.graph
            .add_constant(&format!("constant{}", self.count), tensor)
            .expect("a new name")
    }

    pub(crate) fn node(&mut self, op: impl Into<Op>, inputs: &[Option<ValueId>]) -> ValueId {
        self.count += 1;
        let (name, result) = (
            format!("node{}", self.count),
            format!("value{}", self.count),
        );
        let id = self
            .graph
            .add_node(&name, op.into(), inputs, &[&result], vec![name.clone()])
            .expect("a valid node");
        self.graph.node(id).outputs()[0]
    }

    /// A node with several results.
    pub(crate) fn results<const N: usize>(
        &mut self,
        op: impl Into<Op>,
        inputs: &[Option<ValueId>],
    ) -> [ValueId; N] {
        self.count += 1;
        let name = format!("node{}", self.count);
        let results: Vec<String> = (0..N).map(|i| format!("value{}_{i}", self.count)).collect();
        let results: Vec<&str> = results.iter().map(String::as_str).collect();
        let id = self
            .graph
            .add_node(&name, op.into(), inputs, &results, vec![name.clone()])
            .expect("a valid node");
        self.graph
            .node(id)
            .outputs()
            .try_into()
            .expect("all results")
    }

    pub(crate) fn output(&mut self, value: ValueId) {
        self.count += 1;
        self.graph
            .add_output(&format!("output{}", self.count), value)
            .expect("a new name");
    }
}

/// How near a plan must come to the interpreter.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Exactness {
    /// Every bit is the same.
    Bits,
    /// Floats differ by at most this, relative to the largest expected number.
    Within(f32),
}

/// The plan of a graph, sent through its file form.
pub(crate) fn plan(graph: &Graph) -> Arc<Plan> {
    let plan = compile(graph, &CodegenOptions::default()).expect("the graph compiles");
    let bytes = plan.to_bytes().expect("the plan can be written");
    let read = Plan::from_bytes(&bytes).expect("the plan can be read");
    assert_eq!(
        read.to_bytes().expect("the plan can be written again"),
        bytes
    );
    assert_eq!(read, plan);
    Arc::new(read)
}

/// A session with one thread.
pub(crate) fn session(plan: &Arc<Plan>) -> Session {
    let options = SessionOptions {
        threads: 1,
        ..SessionOptions::DEFAULT
    };
    Session::new(Arc::clone(plan), options).expect("a session")
}

/// The names of the kernels of a plan's steps.
pub(crate) fn kernels(plan: &Plan) -> Vec<String> {
    let steps = plan.steps().iter();
    steps.map(|step| step.kernel.to_string()).collect()
}

/// Runs a graph with the interpreter and as a plan, on every instruction set and with one and two threads, and compares.
pub(crate) fn check(graph: &Graph, inputs: &[(&str, Tensor)], exactness: Exactness) -> Arc<Plan> {
    let expected = interpret(graph, inputs).expect("the interpreter runs the graph");
    let plan = plan(graph);
    for isa in Isa::supported() {
        let mut first: Option<Vec<(String, Tensor)>> = None;
        for threads in [1, 2] {
            let options = SessionOptions {
                threads,
                isa: Some(isa),
                allow_portable: true,
                ..SessionOptions::DEFAULT
            };
            let mut session = Session::new(Arc::clone(&plan), options).expect("a session");
            for _ in 0..2 {
                let found = session
                    .run(inputs)
                    .unwrap_or_else(|error| panic!("{error}\n{plan}"));
                for ((name, found), expected) in found.iter().zip(&expected) {
                    compare(
                        name,
                        found,
                        expected,
                        exactness,
                        &format!("{isa}, {threads} threads\n{plan}"),
                    );
                }
                let first = first.get_or_insert_with(|| found.clone());
                assert_eq!(
                    *first, found,
                    "the number of threads changes results on {isa}\n{plan}"
                );
            }
        }
    }
    plan
}

fn compare(name: &str, found: &Tensor, expected: &Tensor, exactness: Exactness, context: &str) {
    assert_eq!(
        (found.dtype(), found.shape()),
        (expected.dtype(), expected.shape()),
        "{name}: {context}"
    );
    match (exactness, found.values::<f32>(), expected.values::<f32>()) {
        (Exactness::Within(bound), Ok(found), Ok(expected)) => {
            let largest = expected
                .iter()
                .fold(1.0_f32, |largest, x| largest.max(x.abs()));
            for (i, (found, expected)) in found.iter().zip(expected).enumerate() {
                assert!(
                    (found - expected).abs() <= bound * largest,
                    "{name}[{i}]: {found} instead of {expected}\n{context}"
                );
            }
        }
        _ => assert!(
            found == expected,
            "{name}: {found:?} instead of {expected:?}\n{context}"
        ),
    }
}

/// An operator with some attributes, the others as they are by default.
pub(crate) fn default<T: Described>(attributes: &[(&str, octofold_ops::Attribute)]) -> T {
    let mut map = attributes
        .iter()
        .map(|(name, value)| ((*name).to_owned(), value.clone()))
        .collect();
    T::from_attributes(&mut map).expect("valid attributes")
}

/// Random parameters with a scale about `scale`.
pub(crate) fn params(random: &mut Random, signed: bool, scale: f32) -> QParams {
    let zero_point = if signed {
        random.int(-128, 127)
    } else {
        random.int(0, 255)
    };
    QParams {
        scale: random.scale(scale),
        zero_point: zero_point as i32,
    }
}

/// Random parameters of a result, with or without a bound.
pub(crate) fn output(random: &mut Random, signed: bool, scale: f32) -> OutputQuantization {
    let dtype = if signed {
        QuantType::Int8
    } else {
        QuantType::Uint8
    };
    let activation = if random.below(2) == 0 {
        Activation::None
    } else {
        Activation::Relu
    };
    OutputQuantization::new(dtype, params(random, signed, scale), activation)
}

/// The type of bytes.
pub(crate) fn dtype(signed: bool) -> DType {
    if signed { DType::I8 } else { DType::U8 }
}
