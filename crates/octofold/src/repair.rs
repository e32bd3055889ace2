//! Repair: bias correction, which takes part of quantization's own error back with calibration data.

use indexmap::IndexMap;
use octofold_calibrate::{DataSet, observe_means};
use octofold_ir::Graph;
use octofold_passes::annotate::Annotations;
use octofold_passes::backend::BackendConfig;
use octofold_passes::convert::Statistics;
use octofold_passes::manager::{ManagerOptions, run_passes};
use octofold_passes::observe::InsertLayerInputObservers;
use octofold_passes::pass::PassReport;
use octofold_passes::pipeline::{Context, Decisions, Stage, run_stages};
use octofold_runtime::SessionOptions;
use octofold_tensor::Tensor;

use crate::Error;
use crate::prepared::{Prepared, observing_session};

/// Corrects the biases of a prepared model by the mean error that its quantized weights cause on data (Nagel et al. 2019, arXiv 1906.04721, section
/// 4.2). [`convert`](fn@crate::convert) comes afterwards. `progress` gets the number of samples seen so far.
///
/// Only `prepared.graph` changes. The observed graph stays the float model: correction aims at its means, and calibrating a corrected one would
/// observe values that the quantized model does not have. So correct a model once: a second call would correct by the same amount again.
///
/// # Errors
/// When data do not fit the model, a value is NaN or infinite, statistics are missing, or weights cannot be quantized.
pub fn correct_biases(
    prepared: &mut Prepared,
    statistics: &Statistics,
    data: &DataSet,
    options: SessionOptions,
    progress: impl FnMut(usize),
) -> Result<PassReport, Error> {
    let means = layer_input_means(
        &prepared.graph,
        &prepared.annotations,
        data,
        options,
        progress,
    )?;
    let annotations = &prepared.annotations;
    correct_graph(&mut prepared.graph, annotations, statistics, &means)
}

/// The means over data of the inputs of all layers that annotations quantize.
pub(crate) fn layer_input_means(
    graph: &Graph,
    annotations: &Annotations,
    data: &DataSet,
    options: SessionOptions,
    progress: impl FnMut(usize),
) -> Result<IndexMap<String, Tensor>, Error> {
    let mut observed = graph.clone();
    let insert = InsertLayerInputObservers { annotations };
    run_passes(&mut observed, &[&insert], ManagerOptions::default())?;
    let mut session = observing_session(observed, options)?;
    Ok(observe_means(&mut session, data, progress)?)
}

/// Corrects the biases of a fused float graph by the means of its layers' inputs.
pub(crate) fn correct_graph(
    graph: &mut Graph,
    annotations: &Annotations,
    statistics: &Statistics,
    means: &IndexMap<String, Tensor>,
) -> Result<PassReport, Error> {
    let backend = BackendConfig::fbgemm();
    let context = Context {
        decisions: Some(Decisions::Made(annotations)),
        statistics: Some(statistics),
        means: Some(means),
        ..Context::new(&backend)
    };
    let runs = run_stages(graph, &[Stage::CorrectBiases], &context)?;
    let first = runs.into_iter().next();
    Ok(first.map(|run| run.report).unwrap_or_default())
}
