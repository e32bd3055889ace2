//! The bodies of the fuzz targets. For any bytes, each function must return soon, use little memory, and not panic; its assertions
//! hold for every input. The ordinary tests run the same functions over seeds (`crates/octofold/tests/hostile/fuzz_bodies.rs`).
#![allow(dead_code, reason = "each target uses a part of it")]

use std::io::Cursor;
use std::path::Path;
use std::sync::Arc;

use arbitrary::{Result, Unstructured};
use octofold::calibrate::preprocess::Color;
use octofold::calibrate::{Preprocess, decode_image};
use octofold::config::Config;
use octofold::ir::onnx::{Budget, ExportOptions, ImportOptions, export, import_bytes};
use octofold::ir::testing::{GraphOptions, random_graph};
use octofold::ir::text::{self, PrintOptions};
use octofold::ir::{FoldingBudget, Graph, TensorType, ValueId, interpret, verify};
use octofold::ops::{Attribute, AttributeMap, Op};
use octofold::passes::backend::BackendConfig;
use octofold::passes::config::{QConfig, QConfigMapping};
use octofold::passes::convert::Statistics;
use octofold::quant::QuantSpec;
use octofold::runtime::{Plan, Session, SessionOptions};
use octofold::tensor::{DType, Dim, Tensor, npy};
use octofold::{Model, PrepareOptions, Recipe, StatisticsFile, UnmatchedPolicy};

/// The limits of a run.
const SESSION: SessionOptions = SessionOptions {
    threads: 1,
    memory: 16 << 20,
    ..SessionOptions::DEFAULT
};

/// The limits of a model.
fn budget() -> Budget {
    Budget {
        decoded_bytes: 1 << 22,
        nodes: 1 << 10,
        copied_bytes: 1 << 20,
        sparse_bytes: 1 << 20,
        value_bytes: 1 << 22,
        ..Budget::default()
    }
}

/// An ONNX file: an imported graph is sound, and reads the same after it was written in both file forms.
pub(crate) fn onnx(data: &[u8]) {
    let options = ImportOptions {
        budget: budget(),
        ..ImportOptions::default()
    };
    let Ok(graph) = import_bytes(data.to_vec(), None, &options) else {
        return;
    };
    verify(&graph).expect("what is imported is sound");
    if let Ok(bytes) = export(&graph, &ExportOptions::default()) {
        import_bytes(bytes, None, &ImportOptions::default()).expect("what is exported can be read");
    }
    lower_and_run(graph);
}

/// The text form: a parsed graph prints as text that reads the same.
pub(crate) fn text(data: &[u8]) {
    let Ok(source) = std::str::from_utf8(data) else {
        return;
    };
    let Ok(graph) = text::parse(source, None) else {
        return;
    };
    verify(&graph).expect("what is parsed is sound");
    let printed = text::print(&graph, &PrintOptions::default()).text;
    let again = text::parse(&printed, None).unwrap_or_else(|error| panic!("{error}\n{printed}"));
    assert_eq!(printed, text::print(&again, &PrintOptions::default()).text);
}

/// A plan: the bytes are its metadata and, after the last `OCTOBLOB`, its constants. This function writes a correct header and correct checksums, so that the input
/// reaches the checks behind them.
pub(crate) fn plan(data: &[u8]) {
    let Ok(plan) = Plan::from_bytes(&sign(data)) else {
        return;
    };
    let _ = plan.to_text();
    run(plan);
}

/// Separates the metadata from the constants in an input of [`plan`].
pub(crate) const SEPARATOR: &[u8] = b"OCTOBLOB";

/// A plan file of the metadata and constants in `data`, with correct lengths and checksums.
pub(crate) fn sign(data: &[u8]) -> Vec<u8> {
    let cut = data
        .windows(SEPARATOR.len())
        .rposition(|window| window == SEPARATOR);
    let (metadata, blob) = match cut {
        None => (data, &[][..]),
        Some(at) => (&data[..at], &data[at + SEPARATOR.len()..]),
    };
    let offset = (64 + metadata.len()).next_multiple_of(4096);
    let mut file = b"OCTOPLAN".to_vec();
    file.extend_from_slice(&octofold::runtime::file::FORMAT.to_le_bytes());
    file.extend_from_slice(&[0; 4]);
    for number in [metadata.len(), offset, blob.len()] {
        file.extend_from_slice(&(number as u64).to_le_bytes());
    }
    for part in [metadata, blob] {
        file.extend_from_slice(&crc32fast::hash(part).to_le_bytes());
    }
    let own = crc32fast::hash(&file);
    file.extend_from_slice(&own.to_le_bytes());
    file.resize(64, 0);
    file.extend_from_slice(metadata);
    file.resize(offset, 0);
    file.extend_from_slice(blob);
    file
}

/// The input of [`plan`] from which [`sign`] makes this plan's file.
pub(crate) fn unsigned(plan: &Plan) -> Vec<u8> {
    let file = plan.to_bytes().expect("the plan can be written");
    let long = |at: usize| u64::from_le_bytes(file[at..at + 8].try_into().expect("8 bytes"));
    let metadata = &file[64..64 + long(16) as usize];
    [metadata, SEPARATOR, &file[long(24) as usize..]].concat()
}

/// An archive of arrays: what is read is the same after it was written. Only names that unpacking could not use are changed.
pub(crate) fn archive(data: &[u8]) {
    let Ok(arrays) = npy::read_npz(Cursor::new(data)) else {
        return;
    };
    let mut written = Cursor::new(Vec::new());
    let bits = |arrays: &[(String, Tensor)]| {
        let arrays = arrays.iter().map(|(_, array)| format!("{array:?}"));
        arrays.collect::<Vec<_>>()
    };
    // Strings cannot be written, nor two arrays of one name.
    if npy::write_npz(&mut written, &arrays).is_ok() {
        let again = npy::read_npz(written).expect("what is written can be read");
        assert_eq!(bits(&arrays), bits(&again));
    }
}

/// A file of statistics: what is read is the same after it was written, and every observer has a range.
pub(crate) fn statistics(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    let Ok(file) = StatisticsFile::from_json(text, "statistics") else {
        return;
    };
    let written = file.to_json();
    let again = StatisticsFile::from_json(&written, "again").expect("what is written can be read");
    assert_eq!(written, again.to_json());
    for state in file.statistics.values() {
        for spec in [QuantSpec::activation(), QuantSpec::weight(0)] {
            let _ = spec.finish(state);
        }
    }
}

/// A configuration: one that is read can be used to prepare a model.
pub(crate) fn configuration(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    let _ = BackendConfig::from_toml(text);
    let Ok(config) = Config::parse(text, "configuration") else {
        return;
    };
    let network = "net (float[1,2,4,4] x) => (float[1,2,4,4] y)\n<float[2,2,1,1] w = {1, 2, 3, 4}> {\n c = Conv(x, w)\n y = Relu(c)\n}";
    let graph = text::parse(network, None).expect("a network");
    if let Ok(recipe) = Recipe::from_config(config) {
        let _ = recipe.prepare(&Model::new(graph));
    }
}

/// An image: the first byte chooses its format.
pub(crate) fn image(data: &[u8]) {
    let Some((format, data)) = data.split_first() else {
        return;
    };
    let path = ["x.png", "x.jpg", "x.bmp"][usize::from(format % 3)];
    let Ok(image) = decode_image(data, Path::new(path), Color::Rgb) else {
        return;
    };
    assert_eq!(
        image.samples.len(),
        image.height * image.width * image.channels
    );
    let preprocess = Preprocess {
        crop: Some([1, 1]),
        ..Preprocess::default()
    };
    let _ = preprocess.apply(&image);
}

/// The passes, from a random graph to a run. Where the interpreter runs the graph, the plan gives results of the same types and shapes.
pub(crate) fn pipeline(data: &[u8]) {
    let mut source = Unstructured::new(data);
    let Ok(mut graph) = graph(&mut source) else {
        return;
    };
    graph.set_folding(FoldingBudget {
        bytes: 1 << 20,
        operations: 1 << 22,
    });
    verify(&graph).expect("the graph is built by its own functions");
    if source.arbitrary().unwrap_or(false) {
        quantize(graph.clone());
    }
    lower_and_run(graph);
}

/// Prepares, calibrates with made-up ranges, and converts.
fn quantize(graph: Graph) {
    let mapping = QConfigMapping::global(QConfig::default());
    let options = PrepareOptions {
        unmatched: UnmatchedPolicy::Warn,
        equalize: true,
    };
    let backend = BackendConfig::fbgemm();
    let Ok(prepared) = octofold::prepare_with(Model::new(graph), &mapping, &backend, options)
    else {
        return;
    };
    let mut statistics = Statistics::new();
    for (name, spec) in prepared.specs() {
        let mut state = spec.observer();
        state.observe(&[-1.0, 0.25, 3.0]).expect("finite numbers");
        statistics.insert(name, state);
    }
    if let Ok(reference) = octofold::convert(&prepared, &statistics) {
        verify(&reference).expect("what is converted is sound");
        lower_and_run(reference);
    }
}

fn lower_and_run(graph: Graph) {
    let Some(inputs) = inputs_of(&graph) else {
        return;
    };
    let given: Vec<(&str, Tensor)> = inputs
        .iter()
        .map(|(name, x)| (name.as_str(), x.clone()))
        .collect();
    let Ok((lowered, _)) = octofold::lower(&graph) else {
        return;
    };
    verify(&lowered).expect("what is lowered is sound");
    let Ok(plan) = octofold::compile(&lowered) else {
        return;
    };
    let Some(found) = run(plan) else {
        return;
    };
    let small = |id: ValueId| {
        let shape = graph.value(id).ty().known_shape();
        shape.is_some_and(|shape| shape.iter().product::<usize>() < 1 << 16)
    };
    if !graph.value_ids().all(small) {
        return;
    }
    let Ok(expected) = interpret(&graph, &given) else {
        return;
    };
    for ((name, found), expected) in found.iter().zip(&expected) {
        assert_eq!(
            (found.dtype(), found.shape()),
            (expected.dtype(), expected.shape()),
            "output {name} of\n{graph}"
        );
    }
}

/// Runs a plan on ones; every open dimension is 2.
fn run(plan: Plan) -> Option<Vec<(String, Tensor)>> {
    let plan = Arc::new(plan);
    let shapes = plan.input_shapes(|_| 2).ok()?;
    let mut inputs = Vec::new();
    for (input, shape) in plan.inputs().zip(&shapes) {
        inputs.push((input.name.as_str(), ones(input.dtype, shape)?));
    }
    let mut session = Session::new(Arc::clone(&plan), SESSION).ok()?;
    session.run(&inputs).ok()
}

/// Inputs of ones for a graph whose inputs are of known rank and small.
fn inputs_of(graph: &Graph) -> Option<Vec<(String, Tensor)>> {
    let mut inputs = Vec::new();
    for &id in graph.inputs() {
        let value = graph.value(id);
        let dims = value.ty().shape.as_ref()?.iter();
        let shape: Option<Vec<usize>> = dims
            .map(|dim| usize::try_from(dim.known().unwrap_or(2)).ok())
            .collect();
        inputs.push((value.name().to_owned(), ones(value.ty().dtype, &shape?)?));
    }
    Some(inputs)
}

fn ones(dtype: DType, shape: &[usize]) -> Option<Tensor> {
    let count = shape
        .iter()
        .try_fold(1_usize, |count, &size| count.checked_mul(size))?;
    if count > 1 << 20 {
        return None;
    }
    let shape = || shape.iter().copied();
    match dtype {
        DType::F32 => Tensor::new(shape(), vec![1.0_f32; count]).ok(),
        DType::I64 => Tensor::new(shape(), vec![1_i64; count]).ok(),
        other => Tensor::zeros(other, shape()).ok(),
    }
}

/// The operators of random graphs, with the number of their operands.
const OPERATORS: &[(&str, usize)] = &[
    ("Relu", 1),
    ("Sigmoid", 1),
    ("Tanh", 1),
    ("HardSigmoid", 1),
    ("HardSwish", 1),
    ("LeakyRelu", 1),
    ("Clip", 3),
    ("Neg", 1),
    ("Abs", 1),
    ("Sqrt", 1),
    ("Identity", 1),
    ("Add", 2),
    ("Sub", 2),
    ("Mul", 2),
    ("Div", 2),
    ("Max", 2),
    ("Min", 2),
    ("Sum", 3),
    ("Pow", 2),
    ("Conv", 3),
    ("ConvTranspose", 3),
    ("MatMul", 2),
    ("Gemm", 3),
    ("MaxPool", 1),
    ("AveragePool", 1),
    ("GlobalAveragePool", 1),
    ("BatchNormalization", 5),
    ("Concat", 2),
    ("Split", 2),
    ("Slice", 5),
    ("Pad", 3),
    ("Transpose", 1),
    ("Reshape", 2),
    ("Flatten", 1),
    ("Squeeze", 2),
    ("Unsqueeze", 2),
    ("Expand", 2),
    ("Tile", 2),
    ("Shape", 1),
    ("Gather", 2),
    ("ReduceMean", 2),
    ("ReduceSum", 2),
    ("Softmax", 1),
    ("Resize", 4),
    ("Cast", 1),
    ("ConstantOfShape", 1),
    ("QuantizeLinear", 3),
    ("DequantizeLinear", 3),
    ("QLinearConv", 8),
    ("QLinearMatMul", 8),
    ("ConvInteger", 4),
    ("MatMulInteger", 4),
    ("DynamicQuantizeLinear", 1),
    ("Where", 3),
    ("Equal", 2),
    ("Range", 3),
    ("TopK", 2),
    ("DepthToSpace", 1),
    ("LayerNormalization", 3),
    ("Dropout", 1),
    ("LSTM", 3),
];

/// The attributes of random nodes.
const ATTRIBUTES: &[&str] = &[
    "axis",
    "group",
    "kernel_shape",
    "strides",
    "pads",
    "dilations",
    "alpha",
    "beta",
    "transA",
    "transB",
    "perm",
    "to",
    "keepdims",
    "auto_pad",
    "mode",
    "ceil_mode",
    "count_include_pad",
    "output_padding",
    "blocksize",
    "num_outputs",
    "epsilon",
    "block_size",
    "output_dtype",
    "hidden_size",
    "allowzero",
    "axes",
];

/// A random graph: nodes of random operators over earlier values, without those that the graph refuses.
fn graph(source: &mut Unstructured<'_>) -> Result<Graph> {
    let mut graph = if source.ratio(1, 4)? {
        let options = GraphOptions {
            nodes: source.int_in_range(1..=10)?,
            quantize: source.arbitrary()?,
        };
        random_graph(source.arbitrary()?, options)
    } else {
        let mut graph = Graph::new("random");
        let dims: Vec<Dim> = if source.arbitrary()? {
            vec![Dim::symbol("N"), 2.into(), 4.into(), 4.into()]
        } else {
            vec![1.into(), 2.into(), 4.into(), 4.into()]
        };
        graph
            .add_input("x", TensorType::new(DType::F32, dims))
            .expect("a new name");
        graph
    };
    let mut values: Vec<ValueId> = graph.value_ids().collect();
    for count in 0..source.int_in_range(1..=24)? {
        if source.is_empty() {
            break;
        }
        if source.ratio(1, 3)? {
            let tensor = tensor(source)?;
            values.push(
                graph
                    .add_constant(&format!("c{count}"), tensor)
                    .expect("a new name"),
            );
            continue;
        }
        let &(name, operands) = source.choose(OPERATORS)?;
        let mut attributes = AttributeMap::default();
        for _ in 0..source.int_in_range(0..=4)? {
            attributes.insert(*source.choose(ATTRIBUTES)?, attribute(source)?);
        }
        let Ok(op) = Op::from_attributes("", name, attributes) else {
            continue;
        };
        let mut inputs = Vec::new();
        for _ in 0..operands {
            inputs.push(if source.ratio(1, 8)? {
                None
            } else {
                Some(*source.choose(&values)?)
            });
        }
        let outputs = source.int_in_range(1..=2)?;
        let names: Vec<String> = (0..outputs)
            .map(|output| format!("v{count}.{output}"))
            .collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let node = format!("n{count}");
        if let Ok(id) = graph.add_node(&node, op, &inputs, &names, vec![node.clone()]) {
            values.extend(graph.node(id).outputs());
        }
    }
    for _ in 0..source.int_in_range(1..=3)? {
        let value = *source.choose(&values)?;
        // An output whose name is in use is left out.
        let _ = graph.add_output(graph.value(value).name().to_owned().as_str(), value);
    }
    if graph.outputs().is_empty() {
        return Err(arbitrary::Error::IncorrectFormat);
    }
    Ok(graph)
}

fn int(source: &mut Unstructured<'_>) -> Result<i64> {
    Ok(match source.int_in_range(0..=15)? {
        0 => source.arbitrary()?,
        1 => -1,
        2 => i64::MAX,
        3 => 1 << 20,
        small => small & 3,
    })
}

fn attribute(source: &mut Unstructured<'_>) -> Result<Attribute> {
    Ok(match source.int_in_range(0..=4)? {
        0 => Attribute::Float(source.arbitrary()?),
        1 => Attribute::String(
            (*source.choose(&[
                "SAME_UPPER",
                "VALID",
                "nearest",
                "linear",
                "cubic",
                "reflect",
                "edge",
            ])?)
            .to_owned(),
        ),
        2 | 3 => {
            let len = *source.choose(&[1, 2, 4, 4, 8])?;
            Attribute::Ints((0..len).map(|_| int(source)).collect::<Result<_>>()?)
        }
        _ => Attribute::Int(int(source)?),
    })
}

fn tensor(source: &mut Unstructured<'_>) -> Result<Tensor> {
    let shape: &[usize] = source.choose(&[
        &[][..],
        &[1],
        &[2],
        &[4],
        &[2, 2],
        &[4, 2],
        &[2, 2, 1, 1],
        &[2, 2, 3, 3],
        &[2, 1, 3, 3],
        &[1, 2, 1, 1],
        &[0],
        &[3, 1, 2],
    ])?;
    let count = shape.iter().product();
    let shape = || shape.iter().copied();
    let made = match source.int_in_range(0..=9)? {
        0 => Tensor::new(
            shape(),
            (0..count)
                .map(|_| source.arbitrary::<f32>())
                .collect::<Result<_>>()?,
        ),
        1 => Tensor::new(
            shape(),
            (0..count)
                .map(|_| source.arbitrary::<u8>())
                .collect::<Result<_>>()?,
        ),
        2 => Tensor::new(
            shape(),
            (0..count)
                .map(|_| source.arbitrary::<i8>())
                .collect::<Result<_>>()?,
        ),
        3 => Tensor::new(
            shape(),
            (0..count)
                .map(|_| source.arbitrary::<i32>())
                .collect::<Result<_>>()?,
        ),
        4 | 5 => Tensor::new(
            shape(),
            (0..count).map(|_| int(source)).collect::<Result<_>>()?,
        ),
        6 => Tensor::new(
            shape(),
            (0..count)
                .map(|_| source.arbitrary::<bool>())
                .collect::<Result<_>>()?,
        ),
        _ => Tensor::new(
            shape(),
            (0..count)
                .map(|_| Ok(f32::from(source.arbitrary::<i8>()?) / 16.0))
                .collect::<Result<_>>()?,
        ),
    };
    Ok(made.expect("as many elements as the shape has"))
}
