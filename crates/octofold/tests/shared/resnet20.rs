//! resnet20 on CIFAR-10 from the reference material: share of integers, signal-to-noise ratio and accuracy.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Result, ensure};
use octofold::Model;
use octofold::calibrate::accuracy::inputs_of;
use octofold::calibrate::{Accuracy, Comparison, DataOptions, DataSet, Preprocess};
use octofold::codegen::Report;
use octofold::passes::backend::BackendConfig;
use octofold::passes::config::{QConfig, QConfigMapping};
use octofold::runtime::{Session, SessionOptions};

fn shared(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../../shared")
        .join(path)
}

/// Models that ONNX Runtime's quantizer wrote, in its QDQ and its QOperator form.
#[test]
fn quantized_files_run_on_integers() -> Result<()> {
    for name in [
        "resnet20_qoperator_u8s8",
        "resnet20_qdq_u8s8",
        "resnet20_qdq_s8s8_perchannel",
    ] {
        let model = Model::load(shared(&format!("models/{name}.onnx")))?;
        let plan = octofold::compile(&octofold::lower(&model.graph)?.0)?;
        let share = Report::new(&plan, &plan.input_shapes(|_| 1)?)?.integer_mac_share();
        ensure!(
            share >= 0.98,
            "{name}: {share} of the multiply-accumulates are integer"
        );
    }
    Ok(())
}

/// The bar of the static quantizer: ONNX Runtime's best observer reaches 27.7 dB on this network.
#[test]
fn resnet20_keeps_its_accuracy() -> Result<()> {
    let model = Model::load(shared("models/resnet20_cifar10.onnx"))?;
    let preprocess = Preprocess {
        array: Some("images".to_owned()),
        scale: 1.0 / 255.0,
        mean: vec![0.485, 0.456, 0.406],
        std: vec![0.229, 0.224, 0.225],
        ..Preprocess::default()
    };
    let options = DataOptions {
        preprocess: [("input".to_owned(), preprocess)].into(),
        ..DataOptions::default()
    };
    let open = |file: &str| DataSet::open(&shared(file), model.inputs(), options.clone());
    let mapping = QConfigMapping::global(QConfig::default());
    let prepared = octofold::prepare(model.clone(), &mapping, &BackendConfig::fbgemm())?;
    let statistics = octofold::calibrate(
        &prepared,
        &open("data/cifar10_calib.npz")?,
        SessionOptions::default(),
        |_| {},
    )?;
    let reference = octofold::convert(&prepared, &statistics)?;
    let compile = |graph| -> Result<_> {
        let (lowered, _) = octofold::lower(graph)?;
        Ok(Arc::new(octofold::compile(&lowered)?))
    };
    let (float, integer) = (compile(&model.graph)?, compile(&reference)?);
    let shapes = integer.input_shapes(|_| 1)?;
    let share = Report::new(&integer, &shapes)?.integer_mac_share();
    ensure!(
        share >= 0.98,
        "{share} of the multiply-accumulates are integer"
    );

    let test = open("data/cifar10_test2k.npz")?;
    let labels = test.labels("labels")?;
    let mut float = Session::new(float, SessionOptions::default())?;
    let mut integer = Session::new(integer, SessionOptions::default())?;
    let mut accuracy = (Accuracy::top(1), Accuracy::top(1));
    let mut comparison = Comparison::default();
    test.for_each(|batch, _| {
        let expected = float.run(&inputs_of(&batch))?;
        let found = integer.run(&inputs_of(&batch))?;
        accuracy.0.add(&expected[0].1, &labels)?;
        accuracy.1.add(&found[0].1, &labels)?;
        comparison.add("logits", &expected[0].1, &found[0].1);
        Ok::<(), anyhow::Error>(())
    })?;
    let decibel = comparison.results()[0].sqnr_db.unwrap_or(f64::INFINITY);
    ensure!(decibel >= 27.2, "{decibel} dB");
    ensure!(
        accuracy.1.value() >= accuracy.0.value() - 0.01,
        "{} against {}",
        accuracy.1.value(),
        accuracy.0.value()
    );
    Ok(())
}
