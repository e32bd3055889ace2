//! Configuration and eager mode on models of others, which lie beside the project.

use crate::common;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use octofold::calibrate::{DataOptions, DataSet};
use octofold::codegen::Report;
use octofold::config::Config;
use octofold::eager::Eager;
use octofold::passes::backend::BackendConfig;
use octofold::passes::config::{Preset, QConfig, QConfigMapping};
use octofold::runtime::SessionOptions;
use octofold::{Model, Prepared};

fn shared(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../../shared")
        .join(file)
}

fn model(name: &str) -> Result<Model> {
    Ok(Model::load(shared(&format!("models/{name}.onnx")))?)
}

/// The configuration file of the command line's contract, on the names of resnet20.
const CONTRACT: &str = include_str!("configuration/contract.toml");

/// The plan of a prepared resnet20, calibrated on a part of its images, as a file's bytes and for running.
fn resnet20_plan(prepared: &Prepared) -> Result<(Vec<u8>, Arc<octofold::runtime::Plan>)> {
    let options = DataOptions {
        preprocess: Config::parse(CONTRACT, "contract.toml")?.inputs,
        samples: Some(64),
        ..DataOptions::default()
    };
    let inputs = octofold::inputs_of(&prepared.graph);
    let data = DataSet::open(&shared("data/cifar10_calib.npz"), inputs, options)?;
    let statistics = octofold::calibrate(prepared, &data, SessionOptions::default(), |_| {})?;
    let (lowered, _) = octofold::lower(&octofold::convert(prepared, &statistics)?)?;
    let plan = octofold::compile(&lowered)?;
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("plan.oct");
    plan.save(&path)?;
    Ok((std::fs::read(path)?, Arc::new(plan)))
}

fn by_contract(change: impl Fn(String) -> String) -> Result<Prepared> {
    let config = Config::parse(&change(CONTRACT.to_owned()), "contract.toml")?;
    let mapping = config.mapping.context("a mapping")?;
    Ok(octofold::prepare(
        model("resnet20_cifar10")?,
        &mapping,
        &BackendConfig::fbgemm(),
    )?)
}

/// The layers with weights, and whether they are on integers, on reals between quantized values, or float.
fn layers(prepared: &Prepared) -> Vec<(&str, &str)> {
    let layers = prepared
        .fates
        .iter()
        .filter(|fate| matches!(fate.operator.as_str(), "Conv" | "Gemm"));
    let how = |integer, quantized| match (integer, quantized) {
        (true, _) => "integers",
        (false, true) => "reals",
        (false, false) => "float",
    };
    layers
        .map(|fate| (fate.node.as_str(), how(fate.integer, fate.quantized)))
        .collect()
}

#[test]
fn the_file_of_the_contract_runs_and_does_what_it_says() -> Result<()> {
    let prepared = by_contract(|text| text)?;
    for (layer, how) in layers(&prepared) {
        let expected = match layer {
            "/conv1/Conv" => "float",
            "/layer2/layer2.0/conv1/Conv" => "reals",
            _ if layer.starts_with("/layer1/") => "reals",
            _ => "integers",
        };
        ensure!(how == expected, "{layer}: {how}");
    }
    let (bytes, plan) = resnet20_plan(&prepared)?;
    let image = common::noise(&[2, 3, 32, 32], 2.0);
    common::session(&plan, 1, None)?.run(&[("input", image)])?;
    // Every line counts.
    for line in [
        "module_name_regex = [ { pattern = '^layer1\\.', qconfig = \"wide\" } ]",
        "module_name = { conv1 = \"none\" }",
        "module_name_object_type_order = [ { module = \"layer2\", type = \"Conv\", index = 0, qconfig = \"wide\" } ]",
        ", quant_min = -127, quant_max = 127",
        ", observer = \"histogram\"",
    ] {
        ensure!(CONTRACT.contains(line), "{line}");
        let replaced = match line {
            ", quant_min = -127, quant_max = 127" => ", quant_min = -63, quant_max = 63",
            ", observer = \"histogram\"" => ", observer = \"minmax\"",
            _ => "",
        };
        let changed = by_contract(|text| text.replacen(line, replaced, 1))?;
        ensure!(resnet20_plan(&changed)?.0 != bytes, "{line}");
    }
    Ok(())
}

#[test]
fn none_leaves_exactly_these_layers_float() -> Result<()> {
    let mapping = QConfigMapping::preset(Preset::Fbgemm)
        .set_module_name("conv1", None)
        .set_module_name("layer2.0", None);
    let prepared = octofold::prepare(
        model("resnet20_cifar10")?,
        &mapping,
        &BackendConfig::fbgemm(),
    )?;
    let expected = |name: &str| {
        ["/conv1/", "/bn1/"]
            .iter()
            .any(|module| name.starts_with(module))
            || name == "/Relu"
            || name.starts_with("/layer2/layer2.0/")
    };
    let folded = |explanation: &str| explanation.starts_with("folded");
    for fate in prepared
        .fates
        .iter()
        .filter(|fate| !folded(&fate.explanation))
    {
        ensure!(
            fate.quantized != expected(&fate.node),
            "{}: {}",
            fate.node,
            fate.explanation
        );
    }
    // The plan, by what its steps compute, agrees with the report.
    let (_, plan) = resnet20_plan(&prepared)?;
    let shapes: Vec<_> = vec![[1_usize, 3, 32, 32].as_slice().into()];
    let report = Report::new(&plan, &shapes)?;
    for step in report.steps.iter().filter(|step| step.macs > 0) {
        let float = step.sources.iter().all(|source| expected(source));
        ensure!(step.integer != float, "{}", step.name);
    }
    Ok(())
}

#[test]
fn eager_and_graph_mode_make_the_same_plan_of_resnet20() -> Result<()> {
    let backend = BackendConfig::fbgemm();
    let mapping = QConfigMapping::preset(Preset::Fbgemm);
    let graph = octofold::prepare(model("resnet20_cifar10")?, &mapping, &backend)?;
    let row = |names: [&str; 3]| names.map(str::to_owned).to_vec();
    let mut eager = Eager::new();
    eager.config.fuse.push(row(["conv1", "bn1", "/Relu"]));
    for block in (1..=3).flat_map(|layer| (0..3).map(move |index| format!("layer{layer}.{index}")))
    {
        let nodes = format!("/{}/{block}", &block[..6]);
        let name = |module: &str| format!("{block}.{module}");
        let relu = |suffix: &str| format!("{nodes}/Relu{suffix}");
        eager
            .config
            .fuse
            .push(vec![name("conv1"), name("bn1"), relu("")]);
        eager.config.fuse.push(vec![name("conv2"), name("bn2")]);
        eager
            .config
            .fuse
            .push(vec![format!("{nodes}/Add"), relu("_1")]);
    }
    let output = graph.graph.outputs()[0].name.clone();
    let eager = eager
        .qconfig("", Some(QConfig::default()))
        .quant_stub("input", QConfig::default())
        .dequant_stub(&output)
        .prepare(model("resnet20_cifar10")?, &backend)?;
    ensure!(resnet20_plan(&graph)?.0 == resnet20_plan(&eager)?.0);
    Ok(())
}

/// Files whose nodes have no names: layers are found by the prefixes of their weights, by values, and by generated names.
#[test]
fn names_find_nodes_without_names_in_real_models() -> Result<()> {
    let backend = BackendConfig::fbgemm();
    let float_layers = |name: &str, mapping: QConfigMapping| -> Result<Vec<String>> {
        let prepared = octofold::prepare(model(name)?, &mapping, &backend)?;
        let weighted = ["Conv", "Gemm", "MatMul"];
        let layers = prepared
            .fates
            .iter()
            .filter(|fate| weighted.contains(&fate.operator.as_str()));
        let float = layers.filter(|fate| !fate.quantized);
        Ok(float.map(|fate| fate.addresses.join(" ")).collect())
    };
    let all = || QConfigMapping::preset(Preset::Fbgemm);
    let base = float_layers("ultraface_rfb320", all())?;
    let found = float_layers(
        "ultraface_rfb320",
        all().set_module_name("base_net.7.branch1", None),
    )?;
    ensure!(found.len() == base.len() + 3, "{found:?}");
    ensure!(
        found
            .iter()
            .filter(|names| names.contains("base_net.7.branch1"))
            .count()
            == 3
    );
    // A value is the name of the operator that computes it.
    let found = float_layers("ultraface_rfb320", all().exclude_name("245"))?;
    ensure!(
        found.len() == base.len() + 1 && found[0].contains("base_net.0.0"),
        "{found:?}"
    );

    let base = float_layers("g2pm_bilstm", all())?;
    ensure!(base.is_empty(), "{base:?}");
    for name in ["m0", "MatMul_5"] {
        let found = float_layers("g2pm_bilstm", all().set_module_name(name, None))?;
        ensure!(
            found.len() == 1 && found[0].contains("m0"),
            "{name}: {found:?}"
        );
    }
    let lstm = octofold::prepare(model("g2pm_bilstm")?, &all(), &backend)?;
    let lstm = lstm
        .fates
        .iter()
        .find(|fate| fate.operator == "LSTM")
        .context("the LSTM")?;
    ensure!(
        lstm.explanation.contains("LSTM has no integer kernel"),
        "{}",
        lstm.explanation
    );
    Ok(())
}
