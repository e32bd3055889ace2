//! Eager mode: what the user writes is done, all of it and nothing else; what cannot be done is said, with what to write.

use std::fmt::Write;
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use indexmap::IndexMap;
use octofold::calibrate::{DataOptions, DataSet};
use octofold::config::Config;
use octofold::eager::Eager;
use octofold::ir::text;
use octofold::passes::annotate::NodeAnnotation;
use octofold::passes::backend::BackendConfig;
use octofold::passes::config::{Preset, QConfig};
use octofold::passes::convert::Statistics;
use octofold::runtime::SessionOptions;
use octofold::{Algorithm, Calibration, Model, Prepared, Progress, Recipe, StatisticsFile};

use crate::common::{self, CALIBRATION, MODELS, data, load, models};

const OPTIONS: SessionOptions = SessionOptions {
    threads: 1,
    isa: None,
    allow_portable: true,
    ..SessionOptions::DEFAULT
};

/// The bytes of the plan of a prepared own model.
fn plan_bytes(prepared: &Prepared) -> Result<Vec<u8>> {
    let statistics = common::calibrate(prepared, 32, Some(64), 1)?;
    plan_of(prepared, &statistics)
}

fn plan_of(prepared: &Prepared, statistics: &Statistics) -> Result<Vec<u8>> {
    let (lowered, _) = octofold::lower(&octofold::convert(prepared, statistics)?)?;
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("plan.oct");
    octofold::compile(&lowered)?.save(&path)?;
    Ok(std::fs::read(path)?)
}

/// The fuse lists that graph mode finds: the model's nodes that it made one, in the order of the model.
fn groups(prepared: &Prepared) -> Vec<Vec<String>> {
    let mut groups: IndexMap<&str, Vec<String>> = IndexMap::new();
    for fate in &prepared.fates {
        if let Some(home) = &fate.fused_into {
            groups.entry(home).or_default().push(fate.node.clone());
        }
    }
    let several = groups.into_values().filter(|group| group.len() > 1);
    several.collect()
}

/// Everything that graph mode does by default to a model of one input and one output, written by hand.
fn written(prepared: &Prepared) -> Eager {
    let mut eager = Eager::new();
    for group in groups(prepared) {
        let names: Vec<&str> = group.iter().map(String::as_str).collect();
        eager = eager.fuse_modules(&names);
    }
    let (inputs, outputs) = (prepared.graph.inputs(), prepared.graph.outputs());
    let name = |id| prepared.graph.value(id).name().to_owned();
    eager
        .qconfig("", Some(QConfig::default()))
        .quant_stub(&name(inputs[0]), QConfig::default())
        .dequant_stub(&name(outputs[0].value))
}

fn graph_mode(model: Model) -> Result<Prepared> {
    let mapping = octofold::passes::config::QConfigMapping::preset(Preset::Fbgemm);
    Ok(octofold::prepare(
        model,
        &mapping,
        &BackendConfig::fbgemm(),
    )?)
}

#[test]
fn eager_and_graph_mode_make_the_same_plans() -> Result<()> {
    for name in MODELS {
        let graph = graph_mode(load(name)?)?;
        let eager = written(&graph).prepare(load(name)?, &BackendConfig::fbgemm())?;
        ensure!(plan_bytes(&graph)? == plan_bytes(&eager)?, "{name}");
    }
    Ok(())
}

/// With a module left float, the stubs stand where its inputs and results are.
#[test]
fn a_module_left_float_is_written_with_stubs() -> Result<()> {
    let mapping = octofold::passes::config::QConfigMapping::preset(Preset::Fbgemm)
        .set_module_name("layer2.0", None);
    let backend = BackendConfig::fbgemm();
    let graph = octofold::prepare(load(MODELS[0])?, &mapping, &backend)?;
    let eager = written(&graph_mode(load(MODELS[0])?)?)
        .qconfig("layer2.0", None)
        .dequant_stub("/layer1/layer1.0/relu_1/Relu_output_0")
        .quant_stub("/layer2/layer2.0/relu_1/Relu_output_0", QConfig::default());
    let eager = eager.prepare(load(MODELS[0])?, &backend)?;
    ensure!(plan_bytes(&graph)? == plan_bytes(&eager)?);
    Ok(())
}

#[test]
fn a_written_file_equals_graph_mode() -> Result<()> {
    let path = models("fashion_resnet.eager.toml");
    let eager = Config::read(&path)?.eager.context("an eager section")?;
    let eager = eager.prepare(load(MODELS[0])?, &BackendConfig::fbgemm())?;
    let graph = graph_mode(load(MODELS[0])?)?;
    ensure!(plan_bytes(&graph)? == plan_bytes(&eager)?);
    Ok(())
}

/// Names of layers with weights that are quantized, and the operators of the fused graph.
fn shown(prepared: &Prepared) -> (Vec<&str>, Vec<&str>) {
    let graph = &prepared.graph;
    let quantized = prepared.annotations.nodes.iter();
    let quantized = quantized
        .filter(|(_, node)| matches!(node, NodeAnnotation::Quantized { .. }))
        .map(|(id, _)| graph.node(*id).name());
    let operators = graph.node_ids().map(|id| graph.node(id).op().name());
    (quantized.collect(), operators.collect())
}

const CHAIN: &str = r#"
    net (float[N,2,4,4] x) => (y)
    <float[2,2,1,1] w = {1, -2, 3, 0.5}, float[2] scale = {1, 2}, float[2] shift = {0.5, -0.5}, float[2] mean = {0, 1},
    float[2] variance = {1, 4}> {
        [conv1] a = Conv (x, w)
        [bn1] b = BatchNormalization (a, scale, shift, mean, variance)
        [relu1] c = Relu (b)
        [conv2] d = Conv (c, w)
        [relu2] e = Relu (d)
        [sum] f = Add (e, c)
        [soft] g = Softmax <axis = 1> (f)
        [conv3] h = Conv (g, w)
        [relu3] y = Relu (h)
    }"#;

fn chain() -> Model {
    Model::new(text::parse(CHAIN, None).expect("a graph"))
}

#[test]
fn nothing_happens_that_is_not_written() -> Result<()> {
    let backend = BackendConfig::fbgemm();
    let nothing = Eager::new().prepare(chain(), &backend)?;
    let (quantized, operators) = shown(&nothing);
    ensure!(quantized.is_empty() && nothing.annotations.values.is_empty());
    // The last one is the batch norm, as a convolution of its own.
    ensure!(
        operators
            == [
                "Conv", "Relu", "Conv", "Relu", "Add", "Softmax", "Conv", "Relu", "Conv"
            ],
        "{operators:?}"
    );
    let some = Eager::new()
        .fuse_modules(&["conv1", "bn1"])
        .quant_stub("c", QConfig::default())
        // The sum reads it, too, and is float.
        .dequant_stub("c")
        .dequant_stub("d")
        .qconfig("conv2", Some(QConfig::default()));
    let some = some.prepare(chain(), &backend)?;
    let (quantized, operators) = shown(&some);
    ensure!(quantized == ["conv2"], "{quantized:?}");
    let count = |name: &str| operators.iter().filter(|own| **own == name).count();
    ensure!((count("Conv"), count("Relu")) == (3, 3), "{operators:?}");
    Ok(())
}

/// Eager mode by the lines of a file.
fn eager_file(lines: &str) -> Result<Prepared> {
    let text = format!("version = 1\nmode = \"eager\"\n[eager]\n{lines}");
    let config = Config::parse(&text, "eager.toml")?;
    let eager = config.eager.context("an eager section")?;
    Ok(eager.prepare(chain(), &BackendConfig::fbgemm())?)
}

#[test]
fn misuse_is_reported_with_what_to_write() {
    const ALL: &str = "qconfig = { \"\" = \"default\" }\n";
    let cases = [
        ("fuse-unknown-name", "fuse = [[\"conv1\", \"bn7\"]]"),
        ("fuse-not-adjacent", "fuse = [[\"conv1\", \"relu1\"]]"),
        ("fuse-read-elsewhere", "fuse = [[\"relu1\", \"conv2\"]]"),
        ("fuse-output-between", "fuse = [[\"relu3\", \"conv3\"]]"),
        ("fuse-unknown-pattern", "fuse = [[\"sum\", \"soft\"]]"),
        ("fuse-single", "fuse = [[\"conv1\"]]"),
        (
            "fuse-twice",
            "fuse = [[\"conv1\", \"bn1\"], [\"bn1\", \"relu1\"]]",
        ),
        ("stub-unknown-value", "quant_stub = [{ value = \"xx\" }]"),
        (
            "stub-inside-a-group",
            "fuse = [[\"conv1\", \"bn1\"]]\nquant_stub = [{ value = \"a\" }]",
        ),
        ("dequant-of-float", "dequant_stub = [\"c\"]"),
        ("quant-without-reader", "quant_stub = [{ value = \"c\" }]"),
        (
            "quant-twice",
            "qconfig = { conv2 = \"default\" }\nquant_stub = [{ value = \"c\" }, { value = \"d\" }]\ndequant_stub = [\"c\"]",
        ),
        ("float-reaches-a-layer", "qconfig = { conv2 = \"default\" }"),
        (
            "integers-reach-float",
            "quant_stub = [{ value = \"c\" }]\nqconfig = { conv2 = \"default\" }",
        ),
        (
            "no-kernel",
            &format!("{ALL}quant_stub = [{{ value = \"x\" }}]"),
        ),
        (
            "one-operand-float",
            "quant_stub = [{ value = \"c\" }]\nqconfig = { conv2 = \"default\", sum = \"default\" }\ndequant_stub = [\"d\", \"f\"]",
        ),
        (
            "output-of-integers",
            "quant_stub = [{ value = \"g\" }]\nqconfig = { conv3 = \"default\", relu3 = \"default\" }",
        ),
        ("unknown-module", "qconfig = { convolution = \"default\" }"),
        (
            "type-without-kernel",
            "quant_stub = [{ value = \"c\" }]\ndequant_stub = [\"d\"]\nqconfig = { conv2 = \"narrow\" }\n[qconfig.narrow]\nweight = { dtype = \"int4\" }",
        ),
        (
            "stub-without-kernel",
            "quant_stub = [{ value = \"c\", qconfig = \"odd\" }]\ndequant_stub = [\"c\", \"d\"]\nqconfig = { conv2 = \"default\" }\n[qconfig.odd]\nactivation = { observer = \"none\" }",
        ),
        (
            "two-stubs",
            "quant_stub = [{ value = \"c\" }, { value = \"c\" }]\ndequant_stub = [\"c\", \"d\"]\nqconfig = { conv2 = \"default\" }",
        ),
        (
            "equalize-apart",
            "equalize = [[\"conv1\", \"conv3\"]]\nfuse = [[\"conv1\", \"bn1\"]]",
        ),
        ("no-such-key", "quant_stubs = []"),
    ];
    let mut shown = String::new();
    for (name, lines) in cases {
        let error = eager_file(lines).err();
        let message = error.map_or("no error".to_owned(), |error| error.to_string());
        writeln!(shown, "--- {name}\n{lines}\n=>\n{message}\n").expect("text");
    }
    assert!(!shown.contains("no error"), "{shown}");
    insta::with_settings!({
        snapshot_path => "../../../../tests/snapshots/octofold",
        prepend_module_to_snapshot => false,
        omit_expression => true,
    }, {
        insta::assert_snapshot!("eager-misuse", shown);
    });
}

#[test]
fn equalization_is_a_call() -> Result<()> {
    let backend = BackendConfig::fbgemm();
    let text = r#"
        net (float[N,1,4,4] x) => (y)
        <float[2,1,1,1] "conv1.weight" = {8, 0.5}, float[2,2,1,1] "conv2.weight" = {1, 1, -1, 2}> {
            [conv1] a = Conv (x, "conv1.weight")
            [relu] b = Relu (a)
            [conv2] y = Conv (b, "conv2.weight")
        }"#;
    let model = || Model::new(text::parse(text, None).expect("a graph"));
    let weights = |prepared: &Prepared| -> Result<Vec<f32>> {
        let mut largest = vec![0.0_f32; 2];
        let graph = &prepared.graph;
        let first = graph.node_named("conv1").context("a layer")?;
        let w = graph.node(first).input(1).context("weights")?;
        let values = graph.value(w).constant().context("constant")?;
        for (largest, &w) in largest.iter_mut().zip(values.values::<f32>()?) {
            *largest = w.abs();
        }
        Ok(largest)
    };
    let plain = Eager::new().prepare(model(), &backend)?;
    let equalized = Eager::new()
        .equalize(&["conv1", "conv2"])
        .prepare(model(), &backend)?;
    ensure!(weights(&plain)? == [8.0, 0.5]);
    // √(8·1) and √(0.5·2): the geometric means of the ranges on both sides.
    let found = weights(&equalized)?;
    ensure!(
        (found[0] - 8.0_f32.sqrt()).abs() < 1e-5 && (found[1] - 1.0).abs() < 1e-5,
        "{found:?}"
    );
    Ok(())
}

/// A dequant stub behind an operator without weights gives the caller what the integers say.
#[test]
fn an_output_behind_a_dequant_stub_is_dequantized() -> Result<()> {
    let text = r#"
        net (float[N,2,4,4] x) => (y)
        <float[2,2,1,1] w = {1, -2, 3, 0.5}> {
            a = Conv (x, w)
            y = Add (a, x)
        }"#;
    let model = Model::new(text::parse(text, None)?);
    let eager = Eager::new()
        .qconfig("", Some(QConfig::default()))
        .quant_stub("x", QConfig::default())
        .dequant_stub("y");
    let prepared = eager.prepare(model.clone(), &BackendConfig::fbgemm())?;
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("x.npz");
    let sample = common::noise(&[8, 2, 4, 4], 1.0);
    let file = std::fs::File::create(&path)?;
    octofold::tensor::npy::write_npz(file, &[("x".to_owned(), sample)])?;
    let data = DataSet::open(&path, model.inputs(), DataOptions::default())?;
    let statistics = octofold::calibrate(&prepared, &data, SessionOptions::default(), |_| {})?;
    let reference = octofold::convert(&prepared, &statistics)?;
    let (lowered, _) = octofold::lower(&reference)?;
    let plan = Arc::new(octofold::compile(&lowered)?);
    ensure!(!plan.to_text().contains("fbinary"), "{}", plan.to_text());
    // Every element is a whole number of steps from zero.
    let scale = reference
        .value_named("y_scale")
        .and_then(|value| reference.value(value).constant())
        .context("the scale of the output")?
        .values::<f32>()?[0];
    let input = common::noise(&[8, 2, 4, 4], 1.0);
    let outputs = common::session(&plan, 1, None)?.run(&[("x", input)])?;
    for &y in outputs[0].1.values::<f32>()? {
        let steps = y / scale;
        ensure!((steps - steps.round()).abs() < 1e-3, "{y} is {steps} steps");
    }
    Ok(())
}

/// Behind a dequant stub, a pool has the parameters of its operand and a sigmoid those of its range, as everywhere.
#[test]
fn outputs_behind_stubs_share_and_have_fixed_parameters() -> Result<()> {
    let cases = [
        ("MaxPool <kernel_shape = [2,2]>", "histogram=4096", "a"),
        ("Sigmoid", "fixed=0.00390625:0", "y"),
    ];
    for (function, expected, observed) in cases {
        let text = format!(
            r#"net (float[N,2,4,4] x) => (y)
            <float[2,2,1,1] w = {{1, -2, 3, 0.5}}> {{
                a = Conv (x, w)
                y = {function} (a)
            }}"#
        );
        let eager = Eager::new()
            .qconfig("", Some(QConfig::default()))
            .quant_stub("x", QConfig::default())
            .dequant_stub("y");
        let model = Model::new(text::parse(&text, None)?);
        let prepared = eager.prepare(model, &BackendConfig::fbgemm())?;
        let value = |name| prepared.graph.value_named(name).context("a value");
        let annotation = &prepared.annotations.values[&value("y")?];
        ensure!(annotation.spec.observer.to_string() == expected);
        ensure!(annotation.observed == value(observed)?);
    }
    Ok(())
}

/// A recipe in one call gives the bytes of its steps, in both modes.
#[test]
fn a_recipe_does_what_its_steps_do() -> Result<()> {
    let model = load(MODELS[0])?;
    let images = data(model.inputs(), CALIBRATION, 16, Some(16))?;
    let file = models("fashion_resnet.eager.toml");
    let eager = Recipe::from_config(Config::read(&file)?)?;
    for recipe in [Recipe::default(), eager] {
        let recipe = Recipe {
            bias_correction: true,
            ..recipe
        };
        let mut told = Vec::new();
        let quantized =
            recipe.quantize_with(&model, (&images).into(), OPTIONS, |now| match now {
                Progress::Prepared(prepared) => told.push(prepared.fates.len()),
                Progress::CorrectingBiases(seen) => told.push(seen),
                _ => {}
            })?;
        assert_eq!(told, [model.graph.node_count(), 16]);
        let mut prepared = recipe.prepare(&model)?;
        let statistics = octofold::calibrate(&prepared, &images, OPTIONS, |_| {})?;
        let file = StatisticsFile::new(&prepared, statistics.clone());
        octofold::correct_biases(&mut prepared, &statistics, &images, OPTIONS, |_| {})?;
        let reference = octofold::convert(&prepared, &statistics)?;
        assert_eq!(quantized.reference.to_string(), reference.to_string());
        let (lowered, _) = octofold::lower(&reference)?;
        let plan = octofold::compile(&lowered)?;
        assert!(quantized.compile()?.to_bytes()? == plan.to_bytes()?);
        // Statistics of an earlier run stand in for data, except where the model has to run.
        let given = Calibration {
            data: Some(&images),
            statistics: Some(&file),
        };
        let again = recipe.quantize_with(&model, given, OPTIONS, |_| {})?;
        assert_eq!(again.reference.to_string(), reference.to_string());
        let refused = recipe.quantize_with(&model, (&file).into(), OPTIONS, |_| {});
        assert_eq!(
            refused.err().map(|error| error.code()),
            Some("no-calibration")
        );
    }
    for algorithm in [Algorithm::Dynamic, Algorithm::WeightOnly, Algorithm::Qat] {
        let recipe = Recipe {
            algorithm,
            ..Recipe::default()
        };
        let refused = recipe.quantize(&model, &images).err();
        assert_eq!(refused.map(|error| error.code()), Some("not-built"));
    }
    Ok(())
}
