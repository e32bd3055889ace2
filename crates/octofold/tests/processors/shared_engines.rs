//! Networks of the reference material that others quantized, on both engines: the same bytes everywhere.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use octofold::Model;
use octofold::calibrate::{DataOptions, DataSet, Preprocess};
use octofold::codegen::CodegenOptions;
use octofold::kernels::Isa;
use octofold::passes::backend::BackendConfig;
use octofold::runtime::Engine;
use octofold::tensor::Tensor;

use crate::common::{bits, session};

fn shared(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../../shared")
        .join(path)
}

/// The first images of the test set.
fn images(model: &Model) -> Result<Tensor> {
    let preprocess = Preprocess {
        array: Some("images".to_owned()),
        scale: 1.0 / 255.0,
        mean: vec![0.485, 0.456, 0.406],
        std: vec![0.229, 0.224, 0.225],
        ..Preprocess::default()
    };
    let options = DataOptions {
        preprocess: [("input".to_owned(), preprocess)].into(),
        batch: 24,
        samples: Some(24),
        ..DataOptions::default()
    };
    let mut first = None;
    let data = DataSet::open(&shared("data/cifar10_test2k.npz"), model.inputs(), options)?;
    data.for_each(|mut batch, _| {
        first = Some(batch.remove(0).1);
        Ok::<(), anyhow::Error>(())
    })?;
    first.context("the archive holds images")
}

#[test]
fn quantized_resnet20_gives_the_same_bytes_on_both_engines() -> Result<()> {
    let mut found = Vec::new();
    for name in [
        "resnet20_qdq_s8s8_perchannel",
        "resnet20_qdq_u8s8",
        "resnet20_qoperator_u8s8",
    ] {
        let model = Model::load(shared(&format!("models/{name}.onnx")))?;
        let input = images(&model)?;
        let mut expected = None;
        for engine in Engine::ALL {
            let backend = BackendConfig::named(engine.name())?;
            let (lowered, _) = octofold::lower_for(&model.graph, &backend)?;
            let options = CodegenOptions {
                engine,
                ..CodegenOptions::default()
            };
            let plan = Arc::new(octofold::compile_with(&lowered, &options)?);
            for isa in Isa::supported() {
                let mut session = session(&plan, 2, Some(isa))?;
                let outputs = session.run(&[("input", input.clone())])?;
                let output = bits(&outputs[0].1);
                let expected = expected.get_or_insert_with(|| output.clone());
                ensure!(output == *expected, "{name}: {} on {isa}", engine.name());
            }
        }
        let bits = expected.unwrap_or_default();
        let bytes: Vec<u8> = bits.iter().flat_map(|bits| bits.to_le_bytes()).collect();
        found.push(format!("{:08x}", crc32fast::hash(&bytes)));
    }
    // The same on x86 and ARM.
    ensure!(found == ["83aa9f7c", "172be1b0", "c7940977"], "{found:?}");
    Ok(())
}
