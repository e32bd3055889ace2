//! Repair: what post-training quantization can mend of its own errors with calibration data.

use std::sync::Arc;

use octofold_calibrate::{DataSet, observe_means};
use octofold_passes::backend::BackendConfig;
use octofold_passes::bias::CorrectBiases;
use octofold_passes::convert::Statistics;
use octofold_passes::manager::{ManagerOptions, run_passes};
use octofold_passes::observe::InsertLayerInputObservers;
use octofold_passes::pass::PassReport;
use octofold_passes::pipeline;
use octofold_runtime::{Session, SessionOptions};

use crate::{Error, Prepared, compile};

/// Corrects the biases of a prepared model by the mean error that its quantized weights cause on data (Nagel et al. 2019, arXiv 1906.04721, section
/// 4.2); for [`convert`](fn@crate::convert) afterwards. `progress` is told the number of samples seen so far.
///
/// Only `prepared.graph` changes. The observed graph stays the float model: correction aims at its means, and calibrating a corrected one would
/// observe values that the quantized model does not have. Hence a model is corrected once: a second call would correct by the same amount again.
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
    let mut observed = prepared.graph.clone();
    let insert = InsertLayerInputObservers {
        annotations: &prepared.annotations,
    };
    run_passes(&mut observed, &[&insert], ManagerOptions::default())?;
    pipeline::lower(&mut observed, &BackendConfig::fbgemm())?;
    let mut session = Session::new(Arc::new(compile(&observed)?), options)?;
    let means = observe_means(&mut session, data, progress)?;
    let correct = CorrectBiases {
        annotations: &prepared.annotations,
        statistics,
        means: &means,
    };
    let runs = run_passes(&mut prepared.graph, &[&correct], ManagerOptions::default())?;
    let reports = runs.into_iter().map(|run| run.report);
    Ok(PassReport {
        events: reports.flat_map(|report| report.events).collect(),
    })
}
