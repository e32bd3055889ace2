//! What the tests of the facade share: the own models, their data, and the way from a model to a plan.
#![allow(dead_code, reason = "each test binary uses a part of it")]

pub(crate) mod command;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Result;
use octofold::calibrate::{DataOptions, DataSet, InputSpec};
use octofold::config::Config;
use octofold::ir::Graph;
use octofold::kernels::Isa;
use octofold::passes::backend::BackendConfig;
use octofold::passes::config::{QConfig, QConfigMapping};
use octofold::passes::convert::Statistics;
use octofold::runtime::{Plan, Session, SessionOptions};
use octofold::tensor::Tensor;
use octofold::{Model, Prepared};

/// The own models, by the stems of their files.
pub(crate) const MODELS: [&str; 2] = ["fashion_resnet", "fashion_mobilenet"];
/// Images that the own models are calibrated with.
pub(crate) const CALIBRATION: &str = "fashion_calibration.npz";
/// Images that they were neither trained nor calibrated with.
pub(crate) const TEST: &str = "fashion_test.npz";

/// A file of the folder `models`.
pub(crate) fn models(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../models")
        .join(file)
}

/// An own model.
pub(crate) fn load(name: &str) -> Result<Model> {
    Ok(Model::load(models(&format!("{name}.onnx")))?)
}

/// Images of an archive of the own models, in batches.
pub(crate) fn data(
    inputs: Vec<InputSpec>,
    file: &str,
    batch: usize,
    samples: Option<usize>,
) -> Result<DataSet> {
    let options = DataOptions {
        preprocess: Config::read(&models("fashion.toml"))?.inputs,
        batch,
        samples,
        ..DataOptions::default()
    };
    Ok(DataSet::open(&models(file), inputs, options)?)
}

/// The first test images, as one batch.
pub(crate) fn images(count: usize) -> Result<Tensor> {
    let mut first = None;
    data(load(MODELS[0])?.inputs(), TEST, count, Some(count))?.for_each(|mut batch, _| {
        first = Some(batch.remove(0).1);
        Ok::<(), anyhow::Error>(())
    })?;
    Ok(first.expect("the archive holds images"))
}

/// An own model, ready for calibration with the default settings.
pub(crate) fn prepare(name: &str) -> Result<Prepared> {
    let mapping = QConfigMapping::global(QConfig::default());
    Ok(octofold::prepare(
        load(name)?,
        &mapping,
        &BackendConfig::fbgemm(),
    )?)
}

/// What the observers see of calibration images.
pub(crate) fn calibrate(
    prepared: &Prepared,
    batch: usize,
    samples: Option<usize>,
    threads: usize,
) -> Result<Statistics> {
    let inputs = octofold::inputs_of(&prepared.graph);
    let data = data(inputs, CALIBRATION, batch, samples)?;
    let options = SessionOptions {
        threads,
        isa: None,
        allow_portable: true,
        ..SessionOptions::DEFAULT
    };
    Ok(octofold::calibrate(prepared, &data, options, |_| {})?)
}

/// The reference QDQ graph of an own model, by the default settings.
pub(crate) fn quantized(name: &str, samples: Option<usize>) -> Result<Graph> {
    let prepared = prepare(name)?;
    let statistics = calibrate(&prepared, 32, samples, 1)?;
    Ok(octofold::convert(&prepared, &statistics)?)
}

/// The plan of a float or QDQ graph.
pub(crate) fn plan(graph: &Graph) -> Result<Arc<Plan>> {
    let (lowered, _) = octofold::lower(graph)?;
    Ok(Arc::new(octofold::compile(&lowered)?))
}

/// A session of a plan.
pub(crate) fn session(plan: &Arc<Plan>, threads: usize, isa: Option<Isa>) -> Result<Session> {
    Ok(Session::new(
        Arc::clone(plan),
        SessionOptions {
            threads,
            isa,
            allow_portable: true,
            ..SessionOptions::DEFAULT
        },
    )?)
}

/// The bits of a tensor of f32.
pub(crate) fn bits(tensor: &Tensor) -> Vec<u32> {
    let values = tensor.values::<f32>().expect("an output of f32");
    values.iter().map(|value| value.to_bits()).collect()
}

/// Numbers between -`limit` and `limit`, the same every time.
pub(crate) fn noise(shape: &[usize], limit: f32) -> Tensor {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let values = (0..shape.iter().product()).map(|_| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        ((state >> 40) as f32 / (1_u32 << 23) as f32 - 1.0) * limit
    });
    Tensor::new(shape.iter().copied(), values.collect()).expect("as many elements as the shape has")
}
