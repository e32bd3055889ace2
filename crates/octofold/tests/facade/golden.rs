//! Agreement with ONNX Runtime, on graphs of our own: `tests/golden/make.py` made the files and says what is in them.
//!
//! Float plans are compared with ONNX Runtime's float results. Quantized graphs (made by ONNX Runtime's quantizer, not by ours) are
//! compared operator by operator: every lowered operator gets ONNX Runtime's own quantized operands, so that a difference has
//! one cause. It must be within one step everywhere and equal on 99.9 % of the elements. Then the whole plan runs.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use octofold::Model;
use octofold::ir::{Graph, NodeId, Op, TensorType, Value, ValueId, interpret};
use octofold::ops::families::{FusedPool, PoolKind, Rescale};
use octofold::ops::{Inputs, Operator};
use octofold::passes::backend::BackendConfig;
use octofold::passes::manager::{ManagerOptions, run_passes};
use octofold::passes::pass::Pass;
use octofold::passes::pipeline::{self, Stage, run_stages, stage_passes};
use octofold::runtime::{Session, SessionOptions};
use octofold::tensor::{DType, Tensor, npy};

/// The float graphs, and the quantized ones that were made of them.
const FLOAT: [&str; 6] = [
    "residual",
    "depthwise",
    "concat_pool",
    "squeeze_excite",
    "mlp",
    "shape_arithmetic",
];
const QUANTIZED: [&str; 8] = [
    "residual.u8",
    "residual.s8",
    "depthwise.u8",
    "concat_pool.u8",
    "squeeze_excite.u8",
    "squeeze_excite.s8",
    "mlp.u8",
    "shape_arithmetic.u8",
];

type Arrays = BTreeMap<String, Tensor>;

fn file(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../tests/golden")
        .join(name)
}

fn model(name: &str) -> Result<Graph> {
    Ok(Model::load(file(&format!("{name}.onnx")))?.graph)
}

fn arrays(name: &str) -> Result<Arrays> {
    let path = file(&format!("{name}.npz"));
    Ok(npy::read_file(&path)
        .with_context(|| path.display().to_string())?
        .into_iter()
        .collect())
}

/// Compiles a lowered graph and runs it.
fn run(lowered: &Graph, inputs: &[(&str, Tensor)]) -> Result<Vec<Tensor>> {
    let mut session = Session::new(
        Arc::new(octofold::compile(lowered)?),
        SessionOptions {
            threads: 1,
            isa: None,
            allow_portable: true,
            ..SessionOptions::DEFAULT
        },
    )?;
    Ok(session
        .run(inputs)?
        .into_iter()
        .map(|(_, tensor)| tensor)
        .collect())
}

/// Runs a check on each name and reports all that fail.
fn for_all(names: &[&str], check: impl Fn(&str) -> Result<()>) {
    let failures: Vec<String> = names
        .iter()
        .filter_map(|name| check(name).err().map(|error| format!("{name}: {error:#}")))
        .collect();
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

fn check_floats(found: &Tensor, expected: &Tensor, rtol: f32, atol: f32) -> Result<()> {
    ensure!(
        found.shape() == expected.shape(),
        "shape {:?} instead of {:?}",
        found.shape(),
        expected.shape()
    );
    for (index, (x, y)) in found
        .values::<f32>()?
        .iter()
        .zip(expected.values::<f32>()?)
        .enumerate()
    {
        ensure!(
            (x - y).abs() <= atol + rtol * y.abs(),
            "element {index} is {x} instead of {y}"
        );
    }
    Ok(())
}

#[test]
fn every_file_is_tested() {
    let entries = std::fs::read_dir(file(""))
        .expect("tests/golden")
        .map(|entry| entry.expect("an entry").file_name());
    let mut found: Vec<String> = entries
        .filter_map(|name| name.to_str()?.strip_suffix(".onnx").map(str::to_owned))
        .collect();
    found.sort();
    let mut tested = [&FLOAT[..], &QUANTIZED[..]].concat();
    tested.sort_unstable();
    assert_eq!(found, tested);
}

#[test]
fn float_plans_agree() {
    for_all(&FLOAT, |name| {
        let (graph, golden) = (model(name)?, arrays(name)?);
        let (lowered, _) = octofold::lower(&graph)?;
        let outputs = run(&lowered, &[("input", golden["input"].clone())])?;
        check_floats(&outputs[0], &golden["output"], 1e-4, 1e-5)?;
        check_floats(&outputs[0], &golden["output_optimized"], 1e-4, 1e-5).context("optimized")
    });
}

#[test]
fn float_interpretations_agree() {
    for_all(&FLOAT, |name| {
        let (graph, golden) = (model(name)?, arrays(name)?);
        let outputs = interpret(&graph, &[("input", golden["input"].clone())])?;
        check_floats(&outputs[0], &golden["output"], 1e-4, 1e-5)
    });
}

/// The lowered graph before the layout pass, a sum and the convolution before it being operators of their own.
fn lowered_apart(graph: &Graph) -> Result<Graph> {
    let mut graph = graph.clone();
    octofold::optimize(&mut graph)?;
    let backend = BackendConfig::fbgemm();
    let passes = stage_passes(Stage::Lower, &pipeline::Context::new(&backend))?;
    let passes: Vec<&dyn Pass> = passes
        .iter()
        .map(|pass| &**pass as &dyn Pass)
        .filter(|pass| pass.name() != "fuse-quantized-residuals")
        .collect();
    run_passes(
        &mut graph,
        &passes,
        ManagerOptions {
            verify: true,
            ..ManagerOptions::default()
        },
    )?;
    Ok(graph)
}

/// The golden array of a value, by its name or one that it had before.
fn golden_of<'a>(golden: &'a Arrays, value: &Value) -> Option<(&'a str, &'a Tensor)> {
    let names = std::iter::once(value.name()).chain(value.aliases().iter().map(String::as_str));
    names
        .filter_map(|name| golden.get_key_value(name))
        .map(|(name, tensor)| (name.as_str(), tensor))
        .next()
}

/// How far two tensors of bytes are apart.
#[derive(Clone, Copy, Debug, Default)]
struct Difference {
    elements: usize,
    unequal: usize,
    largest: i32,
}

impl Difference {
    /// Elements that `ignored` marks may differ by a step.
    fn of(found: &Tensor, expected: &Tensor, ignored: Option<&[bool]>) -> Result<Self> {
        ensure!(
            found.dtype() == expected.dtype(),
            "{} instead of {}",
            found.dtype(),
            expected.dtype()
        );
        ensure!(
            found.shape() == expected.shape(),
            "shape {:?} instead of {:?}",
            found.shape(),
            expected.shape()
        );
        let (found, expected) = (integers(found)?, integers(expected)?);
        let apart: Vec<i32> = found
            .iter()
            .zip(&expected)
            .map(|(x, y)| (x - y).abs())
            .collect();
        let counts =
            |&(index, &d): &(usize, &i32)| d > 0 && !ignored.is_some_and(|ignored| ignored[index]);
        Ok(Self {
            elements: apart.len(),
            unequal: apart.iter().enumerate().filter(counts).count(),
            largest: apart.iter().copied().max().unwrap_or(0),
        })
    }

    /// Equal on 99.9 % of the elements; of fewer than a thousand, one may differ.
    fn is_nearly_none(self) -> bool {
        self.unequal <= (self.elements / 1000).max(1)
    }
}

fn integers(tensor: &Tensor) -> Result<Vec<i32>> {
    Ok(match tensor.dtype() {
        DType::U8 => tensor.values::<u8>()?.iter().map(|&q| q.into()).collect(),
        _ => tensor.values::<i8>()?.iter().map(|&q| q.into()).collect(),
    })
}

/// Which elements of a windowed mean lie on a tie between two integers. ONNX Runtime's integer kernel puts the zero point inside the
/// rounding, which sends half of them another way than its float operators go when the zero point is odd; and its quantizer gives pools
/// the scale of their operand, so that ties are frequent.
fn ties_of_mean(op: &Op, operand: Option<&Tensor>) -> Result<Option<Vec<bool>>> {
    let Op::FusedPool(pool) = op else {
        return Ok(None);
    };
    let (PoolKind::Average, Some(Rescale { x, y }), Some(operand)) =
        (pool.kind, pool.rescale, operand)
    else {
        return Ok(None);
    };
    let steps = integers(operand)?
        .iter()
        .map(|q| (q - x.zero_point) as f32)
        .collect();
    let steps = Tensor::new(operand.shape().iter().copied(), steps)?;
    let float = FusedPool {
        rescale: None,
        ..pool.clone()
    };
    let means = float.evaluate(Inputs(&[Some(&steps)]), 1)?.remove(0);
    let is_tie = |mean: &f32| {
        let result = mean * (x.scale / y.params.scale);
        (result - result.floor() - 0.5).abs() < 1e-3
    };
    Ok(Some(means.values::<f32>()?.iter().map(is_tie).collect()))
}

/// An operator, fed golden operands, and one of its results that there is a golden array of.
struct Shown<'a> {
    node: NodeId,
    name: &'a str,
    /// The first operand.
    operand: Option<&'a Tensor>,
    found: &'a Tensor,
    expected: &'a Tensor,
}

/// Feeds every operator of a lowered graph the golden operands and shows its results beside the golden ones. What has no golden array
/// (shape arithmetic, views) is computed.
fn for_each_result(
    graph: &Graph,
    golden: &Arrays,
    mut show: impl FnMut(Shown<'_>) -> Result<()>,
) -> Result<()> {
    let mut computed: BTreeMap<ValueId, Tensor> = BTreeMap::new();
    for id in graph.order()? {
        let node = graph.node(id);
        let operand = |id: ValueId| {
            let value = graph.value(id);
            let golden = || golden_of(golden, value).map(|(_, tensor)| tensor);
            value
                .constant()
                .or_else(golden)
                .or_else(|| computed.get(&id))
        };
        let operands: Vec<Option<&Tensor>> = node
            .inputs()
            .iter()
            .map(|value| value.and_then(operand))
            .collect();
        let results = node
            .op()
            .evaluate(Inputs(&operands), node.outputs().len())
            .with_context(|| node.name().to_owned())?;
        for (&value, found) in node.outputs().iter().zip(&results) {
            if let Some((name, expected)) = golden_of(golden, graph.value(value)) {
                let operand = operands.first().copied().flatten();
                show(Shown {
                    node: id,
                    name,
                    operand,
                    found,
                    expected,
                })
                .with_context(|| format!("`{name}` of {} `{}`", node.op().name(), node.name()))?;
            }
        }
        computed.extend(node.outputs().iter().copied().zip(results));
    }
    Ok(())
}

/// Checks each operator against the arrays of one file, which ONNX Runtime's float operators or its integer kernels computed.
fn check_operators(name: &str, file: &str, integer_kernels: bool) -> Result<()> {
    let (graph, inputs) = (lowered_apart(&model(name)?)?, arrays(name)?);
    let mut golden = arrays(file)?;
    golden.insert("input".to_owned(), inputs["input"].clone());
    let mut seen = Vec::new();
    let mut faults = Vec::new();
    for_each_result(&graph, &golden, |shown| {
        seen.push(graph.value_named(shown.name));
        if shown.expected.dtype() == DType::F32 {
            return check_floats(shown.found, shown.expected, 1e-6, 0.0);
        }
        let op = graph.node(shown.node).op();
        let ties = if integer_kernels {
            ties_of_mean(op, shown.operand)?
        } else {
            None
        };
        let difference = Difference::of(shown.found, shown.expected, ties.as_deref())?;
        if difference.largest > 1 || !difference.is_nearly_none() {
            faults.push(format!("{} `{}`: {difference:?}", op.name(), shown.name));
        }
        Ok(())
    })?;
    let is_seen = |key: &str| {
        key == "input"
            || graph
                .value_named(key)
                .is_some_and(|value| seen.contains(&Some(value)))
    };
    let missed: Vec<&String> = golden.keys().filter(|key| !is_seen(key)).collect();
    ensure!(missed.is_empty(), "nothing computes {missed:?}");
    ensure!(faults.is_empty(), "\n    {}", faults.join("\n    "));
    Ok(())
}

/// The definition: float operators between dequantized values.
#[test]
fn operators_agree_with_the_definition() {
    for_all(&QUANTIZED, |name| check_operators(name, name, false));
}

/// ONNX Runtime's integer kernels.
#[test]
fn operators_agree_with_the_integer_kernels() {
    for_all(&QUANTIZED, |name| {
        check_operators(name, &format!("{name}.optimized"), true)
    });
}

/// A graph of one node, its operands that are not constant being inputs.
fn alone(graph: &Graph, id: NodeId, operands: &[(String, Tensor)]) -> Result<Graph> {
    let node = graph.node(id);
    let mut single = Graph::new(node.name());
    let mut inputs = Vec::new();
    for operand in node.inputs() {
        let Some(operand) = operand.map(|operand| graph.value(operand)) else {
            inputs.push(None);
            continue;
        };
        let known = single.value_named(operand.name());
        inputs.push(Some(match (known, operand.constant()) {
            (Some(known), _) => known,
            (None, Some(constant)) => single.add_constant(operand.name(), constant.clone())?,
            (None, None) => {
                let tensor = operands
                    .iter()
                    .find(|(name, _)| name == operand.name())
                    .context("an operand without a golden array")?;
                single.add_input(operand.name(), TensorType::of(&tensor.1))?
            }
        }));
    }
    let outputs: Vec<&str> = node
        .outputs()
        .iter()
        .map(|&value| graph.value(value).name())
        .collect();
    let made = single.add_node(node.name(), node.op().clone(), &inputs, &outputs, vec![])?;
    let results: Vec<_> = single.node(made).outputs().to_vec();
    for (name, value) in outputs.iter().zip(results) {
        single.add_output(name, value)?;
    }
    run_stages(
        &mut single,
        &[Stage::Layout],
        &pipeline::Context::new(&BackendConfig::fbgemm()),
    )?;
    Ok(single)
}

/// Every operator, compiled alone: the kernel that codegen chooses gives the bytes of the portable operator.
#[test]
fn kernels_give_the_bytes_of_the_interpreter() {
    for_all(&QUANTIZED, |name| {
        let graph = lowered_apart(&model(name)?)?;
        let golden = arrays(name)?;
        let mut compiled = 0;
        for_each_result(&graph, &golden, |shown| {
            let node = graph.node(shown.node);
            let mut operands: Vec<(String, Tensor)> = Vec::new();
            for value in node
                .inputs()
                .iter()
                .flatten()
                .map(|&value| graph.value(value))
            {
                match golden_of(&golden, value) {
                    Some((_, tensor)) if operands.iter().all(|(name, _)| name != value.name()) => {
                        operands.push((value.name().to_owned(), tensor.clone()));
                    }
                    Some(_) => {}
                    // A view by a computed shape: the whole plan has it.
                    None if value.constant().is_none() => return Ok(()),
                    None => {}
                }
            }
            let inputs: Vec<(&str, Tensor)> = operands
                .iter()
                .map(|(name, tensor)| (name.as_str(), tensor.clone()))
                .collect();
            let outputs = run(&alone(&graph, shown.node, &operands)?, &inputs)?;
            ensure!(
                &outputs[0] == shown.found,
                "the plan gives {:?} instead of {:?}",
                outputs[0],
                shown.found
            );
            compiled += 1;
            Ok(())
        })?;
        ensure!(
            compiled >= 6,
            "only {compiled} operators were compiled alone"
        );
        Ok(())
    });
}

/// The step of the graph's output, which a `DequantizeLinear` gives.
fn output_step(graph: &Graph) -> Result<f32> {
    let producer = graph
        .value(graph.outputs()[0].value)
        .producer()
        .context("the output is computed")?;
    let scale = graph
        .node(producer)
        .input(1)
        .and_then(|scale| graph.value(scale).constant())
        .context("its scale is constant")?;
    Ok(scale.values::<f32>()?[0])
}

#[test]
fn quantized_plans_agree_from_end_to_end() {
    for_all(&QUANTIZED, |name| {
        let (graph, golden) = (model(name)?, arrays(name)?);
        let optimized = arrays(&format!("{name}.optimized"))?;
        let input = || [("input", golden["input"].clone())];
        let (lowered, _) = octofold::lower(&graph)?;
        let outputs = run(&lowered, &input())?;
        ensure!(
            outputs == interpret(&lowered, &input())?,
            "the plan and the interpreter differ"
        );
        ensure!(
            outputs == interpret(&lowered_apart(&graph)?, &input())?,
            "fusing sums into convolutions changes the result"
        );
        // Differences of one step within may add up.
        let step = output_step(&graph)?;
        check_floats(&outputs[0], &golden["output"], 0.0, 2.01 * step)
            .context("against the definition")?;
        check_floats(&outputs[0], &optimized["output"], 0.0, 2.01 * step)
            .context("against the integer kernels")
    });
}

/// A sample's result does not depend on the batch that it is in: the batch is a symbol to the plan.
#[test]
fn a_batch_is_its_samples() {
    for_all(&QUANTIZED, |name| {
        let (graph, golden) = (model(name)?, arrays(name)?);
        let (lowered, _) = octofold::lower(&graph)?;
        let mut session = Session::new(
            Arc::new(octofold::compile(&lowered)?),
            SessionOptions {
                threads: 1,
                isa: None,
                allow_portable: true,
                ..SessionOptions::DEFAULT
            },
        )?;
        let batch = &golden["input"];
        let together = session.run(&[("input", batch.clone())])?.remove(0).1;
        let count = batch.shape()[0];
        let (size, width) = (batch.len() / count, together.len() / count);
        for sample in 0..count {
            let shape = std::iter::once(1).chain(batch.shape()[1..].iter().copied());
            let one = Tensor::new(
                shape,
                batch.values::<f32>()?[sample * size..][..size].to_vec(),
            )?;
            let found = session.run(&[("input", one)])?.remove(0).1;
            ensure!(
                found.values::<f32>()? == &together.values::<f32>()?[sample * width..][..width],
                "sample {sample}"
            );
        }
        Ok(())
    });
}

/// What is integer in the quantized file is integer after lowering.
#[test]
fn every_operator_is_lowered() {
    for_all(&QUANTIZED, |name| {
        let (lowered, _) = octofold::lower(&model(name)?)?;
        let float = lowered
            .node_ids()
            .map(|id| lowered.node(id))
            .filter(|node| {
                let result = node
                    .outputs()
                    .first()
                    .map(|&value| lowered.value(value).ty().dtype);
                result == Some(DType::F32) && !matches!(node.op(), Op::DequantizeLinear(_))
            });
        let float: Vec<String> = float
            .map(|node| format!("{} `{}`", node.op().name(), node.name()))
            .collect();
        ensure!(float.is_empty(), "float: {}", float.join(", "));
        Ok(())
    });
}
