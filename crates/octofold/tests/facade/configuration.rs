//! The user's settings: each changes what it says, none is ignored, and the engine's table is data.

use std::fmt::Write;
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use octofold::calibrate::{DataOptions, DataSet};
use octofold::config::Config;
use octofold::ir::{Graph, NodeId, Op, Patch, ValueId, text};
use octofold::passes::backend::{BackendConfig, BackendPattern};
use octofold::passes::config::{Preset, QConfig, QConfigMapping};
use octofold::passes::pattern::{Match, Pattern};
use octofold::passes::rewrite::{Rewrite, Skip};
use octofold::passes::{op, rule};
use octofold::runtime::{Engine, SessionOptions};
use octofold::{Error, Model, PrepareOptions, Prepared, Provenance, StatisticsFile};

use crate::common::{self, MODELS, load};
use crate::own::own_fusion::MirroredSwish;

/// Prepares the residual network by the text of a file.
fn prepare(text: &str) -> Result<Prepared> {
    let config = Config::parse(text, "test.toml")?;
    let mapping = config
        .mapping
        .unwrap_or_else(|| QConfigMapping::preset(Preset::Fbgemm));
    let options = PrepareOptions {
        unmatched: config.unmatched,
        equalize: config.equalize,
    };
    let backend = BackendConfig::named(config.backend.as_deref().unwrap_or("fbgemm"))?;
    Ok(octofold::prepare_with(
        load(MODELS[0])?,
        &mapping,
        &backend,
        options,
    )?)
}

/// What a plan is made of, a line a step and a line a quantized value: everything that a setting can change but the weights.
fn described(prepared: &Prepared) -> Result<Vec<String>> {
    let statistics = common::calibrate(prepared, 32, Some(32), 1)?;
    let reference = octofold::convert(prepared, &statistics)?;
    let (lowered, _) = octofold::lower(&reference)?;
    let plan = octofold::compile(&lowered)?;
    let mut lines: Vec<String> = plan.to_text().lines().map(str::to_owned).collect();
    lines.retain(|line| !line.contains("octofold.float_nodes"));
    for fate in &prepared.fates {
        let how = match (fate.integer, fate.quantized) {
            (true, _) => "integers",
            (false, true) => "reals between quantized values",
            (false, false) => "float",
        };
        let qconfig = fate.qconfig.as_deref().unwrap_or("none");
        lines.push(format!("{}: {how}; {} = {qconfig}", fate.node, fate.origin));
    }
    Ok(lines)
}

/// The file of the command line's contract, with the names of the own residual network. The lines in braces are put in one by one.
const BASE: &str = r#"
version = 1
algorithm = "static"
mode = "graph"
backend = "fbgemm"
unmatched = "error"

[qconfig.default]
activation = { dtype = "uint8", qscheme = "per_tensor_affine", observer = "histogram" }
weight = { dtype = "int8", qscheme = "per_channel_symmetric", observer = "minmax", quant_min = -127, quant_max = 127 }
[qconfig.wide]
extends = "default"
activation = { dtype = "uint16" }
[qconfig_mapping]
global = "default"
"#;

/// Lines to add, behind a name; a change of the file's text where there is a `=>`.
const LINES: [(&str, &str); 15] = [
    (
        "object-type",
        "object_type = { GlobalAveragePool = \"none\" }",
    ),
    (
        "module-name-regex",
        "module_name_regex = [ { pattern = '^layer3\\.1', qconfig = \"wide\" } ]",
    ),
    ("module-name", "module_name = { conv1 = \"none\" }"),
    (
        "module-name-of-a-block",
        "module_name = { \"layer2.0\" = \"none\" }",
    ),
    (
        "order",
        "module_name_object_type_order = [ { module = \"layer2\", type = \"Conv\", index = 0, qconfig = \"wide\" } ]",
    ),
    (
        "value",
        "value = { input = { scale = 0.02, zero_point = 110 } }",
    ),
    (
        "exclude-region",
        "[exclude]\nregions = [ { from = \"/relu/Relu_output_0\", to = \"/layer1/layer1.0/relu_1/Relu_output_0\" } ]",
    ),
    ("exclude-type", "[exclude]\ntypes = [\"Gemm\"]"),
    ("exclude-name", "[exclude]\nnames = [\"layer3.1\"]"),
    ("activation-dtype", "dtype = \"uint8\" => dtype = \"int8\""),
    (
        "activation-observer",
        "observer = \"histogram\" => observer = { name = \"percentile\", percentile = 99.9 }",
    ),
    (
        "activation-reduce-range",
        "observer = \"histogram\" => observer = \"histogram\", reduce_range = true",
    ),
    (
        "activation-bits",
        "observer = \"histogram\" => observer = \"histogram\", bits = 6",
    ),
    (
        "weight-qscheme",
        "per_channel_symmetric => per_tensor_symmetric",
    ),
    (
        "weight-bits",
        "quant_min = -127, quant_max = 127 => bits = 5",
    ),
];

#[test]
fn each_line_changes_the_plan_as_it_says() -> Result<()> {
    let base = described(&prepare(BASE)?)?;
    for (name, line) in LINES {
        let text = match line.split_once(" => ") {
            Some((from, to)) => {
                ensure!(BASE.contains(from), "{from}");
                BASE.replacen(from, to, 1)
            }
            None => format!("{BASE}{line}\n"),
        };
        let changed = described(&prepare(&text).with_context(|| name)?)?;
        let mut shown = format!("{line}\n\n");
        let added = |lines: &[String], others: &[String], sign: char, shown: &mut String| {
            for line in lines.iter().filter(|line| !others.contains(line)) {
                writeln!(shown, "{sign} {line}").expect("text");
            }
        };
        added(&base, &changed, '-', &mut shown);
        added(&changed, &base, '+', &mut shown);
        ensure!(shown.contains("\n+ "), "{name} changes nothing");
        insta::with_settings!({
            snapshot_path => "../../../../tests/snapshots/octofold",
            prepend_module_to_snapshot => false,
            omit_expression => true,
        }, {
            insta::assert_snapshot!(format!("line-{name}"), shown);
        });
    }
    Ok(())
}

#[test]
fn settings_without_effect_are_errors_or_warnings() -> Result<()> {
    let cases = [
        ("module", "module_name = { conv7 = \"none\" }"),
        ("type", "object_type = { Cnov = \"none\" }"),
        (
            "type-to-quantize",
            "object_type = { Softmax = \"default\" }",
        ),
        (
            "regex",
            "module_name_regex = [ { pattern = '^layer9', qconfig = \"wide\" } ]",
        ),
        (
            "order",
            "module_name_object_type_order = [ { module = \"layer2\", type = \"Conv\", index = 9, qconfig = \"wide\" } ]",
        ),
        ("value", "value = { inputt = { scale = 0.02 } }"),
        (
            "value-that-stays-float",
            "value = { logits = { scale = 0.02 } }",
        ),
        (
            "value-of-another-type",
            "value = { input = { dtype = \"uint16\" } }",
        ),
        (
            "values-that-share",
            "value = { \"/avgpool/GlobalAveragePool_output_0\" = { scale = 0.02 }, \"/Flatten_output_0\" = { scale = 0.03 } }",
        ),
        (
            "given-zero-point",
            "value = { input = { scale = 0.02, zero_point = 300 } }",
        ),
        (
            "given-and-narrowed",
            "value = { input = { scale = 0.02, bits = 7 } }",
        ),
        (
            "observer-of-weights",
            "module_name = { fc = \"odd\" }\n[qconfig.odd]\nweight = { observer = \"mse\" }",
        ),
        (
            "activations-without-a-range",
            "module_name = { fc = \"odd\" }\n[qconfig.odd]\nactivation = { observer = \"none\" }",
        ),
        (
            "unused-nonsense",
            "[qconfig.odd]\nactivation = { dtype = \"int9\" }",
        ),
        (
            "table-none",
            "[qconfig.none]\nactivation = { dtype = \"int8\" }",
        ),
        (
            "observer-setting",
            "[qconfig.odd]\nactivation = { observer = { name = \"percentile\", percentil = 9 } }",
        ),
        ("excluded-name", "[exclude]\nnames = [\"layer3.9\"]"),
        ("excluded-type", "[exclude]\ntypes = [\"Geem\"]"),
        (
            "excluded-region",
            "[exclude]\nregions = [ { from = \"logits\", to = \"input\" } ]",
        ),
        (
            "weights",
            "module_name = { conv1 = \"narrow\" }\n[qconfig.narrow]\nweight = { dtype = \"int4\" }",
        ),
        (
            "weights-with-a-zero-point",
            "module_name = { fc = \"affine\" }\n[qconfig.affine]\nweight = { qscheme = \"per_tensor_affine\" }",
        ),
        (
            "activations-a-channel",
            "module_name = { fc = \"odd\" }\n[qconfig.odd]\nactivation = { qscheme = \"per_channel_affine\" }",
        ),
        ("unknown-key", "modul_name = { conv1 = \"none\" }"),
        ("unknown-qconfig", "module_name = { conv1 = \"wid\" }"),
        (
            "contradiction",
            "[qconfig.both]\nactivation = { scale = 0.1, observer = \"minmax\" }\n[qconfig_mapping.module_name]\nconv1 = \"both\"",
        ),
        (
            "bits",
            "module_name = { conv1 = \"bits\" }\n[qconfig.bits]\nactivation = { bits = 9 }",
        ),
    ];
    let mut shown = String::new();
    for (name, line) in cases {
        let error = prepare(&format!("{BASE}{line}\n")).err();
        let error = error.map_or("no error".to_owned(), |error| error.to_string());
        writeln!(shown, "--- {name}\n{line}\n=>\n{error}\n")?;
        // Asked to warn, the settings that the model or the engine has no use for leave the rest as it is.
        let warn = BASE.replace("unmatched = \"error\"", "unmatched = \"warn\"");
        if let Ok(prepared) = prepare(&format!("{warn}{line}\n")) {
            writeln!(shown, "warned: {}\n", prepared.warnings.join("\nwarned: "))?;
            ensure!(!prepared.warnings.is_empty(), "{name}");
        }
    }
    ensure!(!shown.contains("no error"), "{shown}");
    // A type of ONNX that the model lacks does stay float, as asked.
    let harmless = prepare(&format!("{BASE}object_type = {{ Softmax = \"none\" }}\n"))?;
    ensure!(harmless.warnings.len() == 1 && harmless.warnings[0].contains("Softmax"));
    insta::with_settings!({
        snapshot_path => "../../../../tests/snapshots/octofold",
        prepend_module_to_snapshot => false,
        omit_expression => true,
    }, {
        insta::assert_snapshot!("settings-without-effect", shown);
    });
    Ok(())
}

#[test]
fn an_operator_without_kernel_cannot_be_asked_for() -> Result<()> {
    let model = between_layers("b = Softmax <axis = 1> (a)")?;
    let all = || QConfigMapping::global(QConfig::default());
    let backend = BackendConfig::fbgemm();
    // By all operators it is not meant; by its type, its name or a module of it alone, it is.
    octofold::prepare(model.clone(), &all(), &backend)?;
    for mapping in [
        all().set_object_type("Softmax", Some(QConfig::default())),
        all().set_module_name("b", Some(QConfig::default())),
    ] {
        let error = octofold::prepare(model.clone(), &mapping, &backend).err();
        let error = error.context("an error")?.to_string();
        ensure!(error.contains("Softmax has no integer kernel"), "{error}");
    }
    Ok(())
}

/// Files as some exporters write them: the nodes have no names, the weights have.
const NAMELESS: &str = r#"
    net (float[N,2,4,4] x) => (y)
    <float[2,2,1,1] "stem.conv.weight" = {1, -2, 3, 0.5}, float[2,2,1,1] "blocks.0.conv.weight" = {1, -2, 3, 0.5},
    float[2,2,1,1] "blocks.1.conv.weight" = {1, -2, 3, 0.5}> {
        v1 = Conv (x, "stem.conv.weight")
        v2 = Relu (v1)
        v3 = Conv (v2, "blocks.0.conv.weight")
        v4 = Relu (v3)
        v5 = Conv (v4, "blocks.1.conv.weight")
        y = Sigmoid (v5)
    }"#;

#[test]
fn names_find_nodes_without_names() -> Result<()> {
    let float = |mapping: QConfigMapping| -> Result<Vec<String>> {
        let model = Model::new(text::parse(NAMELESS, None)?);
        let prepared = octofold::prepare(model, &mapping, &BackendConfig::fbgemm())?;
        let convolutions = prepared.fates.iter().filter(|fate| fate.operator == "Conv");
        let float = convolutions.filter(|fate| !fate.quantized);
        Ok(float.map(|fate| fate.addresses.join(" ")).collect())
    };
    let all = || QConfigMapping::global(QConfig::default());
    ensure!(float(all())?.is_empty());
    for name in ["v3", "blocks.0.conv", "blocks.0"] {
        let found = float(all().set_module_name(name, None))?;
        ensure!(
            found.len() == 1 && found[0].contains("blocks.0.conv"),
            "{name}: {found:?}"
        );
    }
    ensure!(float(all().exclude_name("blocks"))?.len() == 2);
    // What the exporter wrote into the file about a node whose own names say nothing.
    let mut graph = text::parse(NAMELESS, None)?;
    let last = graph.node_ids().last().context("a node")?;
    let name = graph.node(last).name().to_owned();
    graph.set_module(&name, "head.act");
    let names = octofold::passes::config::ModelNames::of(&graph);
    ensure!(names.find("head") == [name.as_str()] && names.find("head.act").len() == 1);
    Ok(())
}

rule! {
    /// A table that gives 0 for everything: no engine would have it, so its presence shows that the rule was used.
    struct ZeroForCos("zero-for-cos") finds Cosine { cos: NodeId, q: ValueId }
}

impl Rewrite for ZeroForCos {
    fn pattern(&self) -> Pattern {
        let x = Pattern::value("q").dequantized();
        Pattern::node(op!(Cos), [x]).named("cos").quantized()
    }

    fn rewrite(&self, graph: &Graph, found: &Match<Cosine>) -> Result<Patch, Skip> {
        let mut patch = Patch::new();
        let table = octofold::tensor::Tensor::vector(vec![0_u8; 256]);
        let table = patch.constant("zeros", table);
        let lookup = octofold::ops::families::TableLookup {};
        let operands = [Some(found.q.into()), Some(table)];
        Ok(patch.fuse_with_next(graph, found.cos, found.root(), lookup, operands))
    }
}

/// A convolution, a function by text, and a convolution.
fn between_layers(function: &str) -> Result<Model> {
    let text = format!(
        r#"net (float[N,2,4,4] x) => (y)
        <float[2,2,1,1] w = {{1, -2, 3, 0.5}}, float k = {{1.702}}, float one = {{1.0}}> {{
            a = Conv (x, w)
            {function}
            y = Conv (b, w)
        }}"#
    );
    Ok(Model::new(text::parse(&text, None)?))
}

/// The operators of the lowered graph of a model, calibrated on noise.
fn lowered_operators(model: &Model, backend: &BackendConfig) -> Result<(Prepared, Vec<String>)> {
    let mapping = QConfigMapping::global(QConfig::default());
    let prepared = octofold::prepare(model.clone(), &mapping, backend)?;
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("x.npz");
    let samples = common::noise(&[8, 2, 4, 4], 1.0);
    octofold::tensor::npy::write_npz(std::fs::File::create(&path)?, &[("x".to_owned(), samples)])?;
    let data = DataSet::open(&path, model.inputs(), DataOptions::default())?;
    let statistics = octofold::calibrate(&prepared, &data, SessionOptions::default(), |_| {})?;
    let reference = octofold::convert(&prepared, &statistics)?;
    let (lowered, _) = octofold::lower_for(&reference, backend)?;
    octofold::compile(&lowered)?;
    let operators = lowered.order()?.into_iter();
    let operators = operators.map(|id| match lowered.node(id).op() {
        Op::TableLookup(_) => {
            let table = lowered
                .node(id)
                .input(1)
                .and_then(|table| lowered.value(table).constant());
            let zeros = table
                .and_then(|table| table.values::<u8>().ok())
                .is_some_and(|table| table.iter().all(|&entry| entry == 0));
            if zeros { "zeros" } else { "table" }.to_owned()
        }
        op => op.name().to_owned(),
    });
    Ok((prepared, operators.collect()))
}

#[test]
fn a_users_pattern_takes_part_in_fusion_and_lowering() -> Result<()> {
    let swish =
        between_layers("s = Mul (a, k)\n g = Sigmoid (s)\n m = Sub (one, g)\n b = Mul (a, m)")?;
    let (_, plain) = lowered_operators(&swish, &BackendConfig::fbgemm())?;
    let backend = BackendConfig::fbgemm().with_pattern(BackendPattern {
        fuse: Some(Arc::new(MirroredSwish)),
        ..BackendPattern::default()
    });
    let (prepared, fused) = lowered_operators(&swish, &backend)?;
    ensure!(
        fused.iter().filter(|name| *name == "table").count() == 1,
        "{fused:?}"
    );
    ensure!(
        plain.len() > fused.len(),
        "the product is no step of its own: {plain:?}"
    );
    let product = prepared
        .fates
        .iter()
        .find(|fate| fate.operator == "Sigmoid");
    let product = product.context("the sigmoid")?;
    ensure!(
        product.integer && product.explanation.contains("pointwise"),
        "{product:?}"
    );

    let cos = between_layers("b = Cos (a)")?;
    let mut backend = BackendConfig::fbgemm();
    let pointwise = backend
        .capabilities
        .iter_mut()
        .find(|entry| entry.class.name() == "pointwise");
    pointwise
        .context("the class")?
        .operators
        .push("Cos".to_owned());
    let (_, own) = lowered_operators(&cos, &backend)?;
    ensure!(own.contains(&"table".to_owned()), "{own:?}");
    let backend = backend.with_pattern(BackendPattern {
        lower: Some(Arc::new(ZeroForCos)),
        ..BackendPattern::default()
    });
    let (_, users) = lowered_operators(&cos, &backend)?;
    ensure!(users.contains(&"zeros".to_owned()), "{users:?}");
    Ok(())
}

#[test]
fn an_edited_table_changes_what_is_quantized() -> Result<()> {
    let printed = BackendConfig::fbgemm().to_toml();
    let read = BackendConfig::from_toml(&printed)?;
    ensure!(
        read.to_toml() == printed,
        "printing and reading lose something"
    );
    let fates = |table: &str| -> Result<Prepared> {
        let mapping = QConfigMapping::global(QConfig::default());
        let backend = BackendConfig::from_toml(table)?;
        Ok(octofold::prepare(load(MODELS[0])?, &mapping, &backend)?)
    };
    let explanation = |prepared: &Prepared, node: &str| -> Result<String> {
        let fate = prepared.fates.iter().find(|fate| fate.node == node);
        Ok(fate.context("the node")?.explanation.clone())
    };
    // An operator that the table does not list stays float, and is said to.
    let without = fates(&printed.replace("[\"Add\"]", "[]"))?;
    let told = explanation(&without, "/layer1/layer1.0/Add")?;
    ensure!(told.contains("does not list"), "{told}");
    // A fusion that it does not list is not done.
    let pattern = "\"Conv + Relu\",";
    ensure!(printed.contains(pattern), "{printed}");
    let unfused = fates(&printed.replace(pattern, ""))?;
    let told = explanation(&unfused, "/relu/Relu")?;
    ensure!(told.starts_with("pointwise"), "{told}");
    // Bounds are obeyed: the default weights go to -127.
    let narrow = printed.replace(
        "[[capabilities.weights]]\ndtype = \"int8\"",
        "[[capabilities.weights]]\ndtype = \"int8\"\nquant_min = -64\nquant_max = 64",
    );
    ensure!(narrow != printed, "{printed}");
    let Err(error) = fates(&narrow) else {
        anyhow::bail!("weights beyond the table's bounds are taken");
    };
    ensure!(error.to_string().contains("below -64"), "{error}");
    for (from, to, told) in [
        ("\"Add\"", "\"Adc\"", "Add"),
        ("\"Conv + Relu\"", "\"Conv + Relu7\"", "Conv + Relu"),
        ("name = \"fbgemm\"", "name = \"mine\"", "qnnpack"),
        ("observation", "observed", "observation"),
    ] {
        let error = BackendConfig::from_toml(&printed.replacen(from, to, 1));
        let error = error.err().context("an error")?.to_string();
        ensure!(error.contains(told), "{from}: {error}");
    }
    Ok(())
}

#[test]
fn another_engine_is_an_error_or_a_choice() -> Result<()> {
    let mapping = QConfigMapping::preset(Preset::TorchQnnpack);
    let qnnpack = BackendConfig::qnnpack();
    let prepared = octofold::prepare(load(MODELS[0])?, &mapping, &qnnpack)?;
    let provenance = Provenance::read(prepared.graph.metadata());
    ensure!(provenance.engine.as_deref() == Some("qnnpack"));
    ensure!(provenance.preset.as_deref() == Some("torch_qnnpack"));
    ensure!(provenance.version.as_deref() == Some(env!("CARGO_PKG_VERSION")));
    let statistics = common::calibrate(&prepared, 32, Some(32), 1)?;

    // Statistics keep it in their file.
    let file = StatisticsFile::new(&prepared, statistics);
    ensure!(file.provenance == provenance);
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("stats.json");
    std::fs::write(&path, file.to_json())?;
    let read = StatisticsFile::load(&path)?;
    ensure!(read == file, "statistics change on the way through a file");
    let refused = read.provenance.require_engine("fbgemm", "the statistics");
    ensure!(matches!(refused, Err(Error::EngineMismatch { .. })));
    read.provenance
        .require_engine("qnnpack", "the statistics")?;

    // An exported model keeps it, and so does the plan.
    let mut reference = octofold::convert(&prepared, &read.statistics)?;
    let exported = folder.path().join("q.onnx");
    octofold::ir::onnx::export_to_file(
        &reference,
        &exported,
        &octofold::ir::onnx::ExportOptions::default(),
    )?;
    let imported = Model::load(&exported)?;
    ensure!(Provenance::read(imported.graph.metadata()) == read.provenance);
    let refused = octofold::lower(&imported.graph);
    ensure!(matches!(refused, Err(Error::EngineMismatch { .. })));
    let (lowered, _) = octofold::lower_for(&imported.graph, &qnnpack)?;
    ensure!(octofold::compile(&lowered)?.engine() == Engine::Qnnpack);
    Provenance::adopt(reference.metadata_mut(), "fbgemm");
    let (lowered, _) = octofold::lower(&reference)?;
    let plan = octofold::compile(&lowered)?;
    let preset = plan
        .metadata()
        .iter()
        .find(|(key, _)| key == "octofold.preset");
    ensure!(preset.is_some_and(|(_, preset)| preset == "torch_qnnpack"));
    Ok(())
}

#[test]
fn statistics_are_of_one_graph() -> Result<()> {
    let mapping = QConfigMapping::preset(Preset::Fbgemm);
    let backend = BackendConfig::fbgemm();
    let prepared = octofold::prepare(load(MODELS[0])?, &mapping, &backend)?;
    let statistics = common::calibrate(&prepared, 32, Some(32), 1)?;
    let file = || StatisticsFile::new(&prepared, statistics.clone());
    // What is left float does not matter, how the graph is made does.
    let excluded = mapping.clone().exclude_name("layer2.0");
    let excluded = octofold::prepare(load(MODELS[0])?, &excluded, &backend)?;
    file().statistics_for(&excluded)?;
    let options = PrepareOptions {
        equalize: true,
        ..PrepareOptions::default()
    };
    let equalized = octofold::prepare_with(load(MODELS[0])?, &mapping, &backend, options)?;
    let refused = file().statistics_for(&equalized);
    ensure!(matches!(refused, Err(Error::OtherGraph)));
    let other = octofold::prepare(load(MODELS[1])?, &mapping, &backend)?;
    ensure!(matches!(
        file().statistics_for(&other),
        Err(Error::OtherGraph)
    ));
    let qconfig = QConfig::default().with_observer(octofold::quant::ObserverKind::MinMax);
    let minmax = octofold::prepare(load(MODELS[0])?, &QConfigMapping::global(qconfig), &backend)?;
    let refused = file().statistics_for(&minmax);
    ensure!(matches!(refused, Err(Error::OtherObserver { .. })));
    Ok(())
}

#[test]
fn types_and_inner_names_decide() -> Result<()> {
    let backend = BackendConfig::fbgemm();
    let all = QConfigMapping::global(QConfig::default());
    let mapping = all
        .set_module_name("fc", Some(QConfig::default()))
        .only_types(&["Conv"]);
    let prepared = octofold::prepare(load(MODELS[0])?, &mapping, &backend)?;
    let only = prepared.fates.iter().filter(|fate| fate.quantized);
    let only: Vec<&str> = only.map(|fate| fate.operator.as_str()).collect();
    // What is fused into a convolution is one with it; the layer that is named is of another type.
    ensure!(
        only.contains(&"Relu") && !only.contains(&"Gemm"),
        "{only:?}"
    );
    // The operator's own name is stronger than a longer one of its module.
    let text = r#"net (float[N,2,4,4] x) => (y)
        <float[2,2,1,1] "a.long.module.weight" = {1, -2, 3, 0.5}> {
            [c1] y = Conv (x, "a.long.module.weight")
        }"#;
    let mapping = QConfigMapping::default()
        .set_module_name("a.long.module", None)
        .set_module_name("c1", Some(QConfig::default()));
    let prepared = octofold::prepare(Model::new(text::parse(text, None)?), &mapping, &backend)?;
    ensure!(prepared.fates[0].quantized, "{:?}", prepared.fates[0]);
    Ok(())
}
