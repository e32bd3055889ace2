//! Calibration: runs the compiled observed graph over data and collects what the observers see.
//!
//! One batch is in memory at a time. The result does not depend on the number of threads, nor, for observers that
//! merge exactly, on the batch size.

use std::collections::BTreeMap;

use octofold_quant::observer::ObserveError;
use octofold_quant::{ObserverKind, ObserverState, QuantSpec};
use octofold_runtime::{RunError, Session, Tap, TensorView};
use octofold_tensor::Tensor;

use crate::data::{DataError, DataSet};

/// Why calibration failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CalibrateError {
    /// The data cannot be read or do not fit.
    #[error(transparent)]
    Data(#[from] DataError),
    /// The model cannot be run.
    #[error(transparent)]
    Run(#[from] RunError),
    /// A value that cannot be observed: a NaN, or an infinity.
    #[error("value `{value}`: {source}")]
    Observe {
        /// The observed value.
        value: String,
        /// What is wrong with it.
        source: ObserveError,
    },
}

/// Runs a plan of an observed graph over a data set. Returns the state of each observer by the name of its value.
///
/// `specs` holds the specification of each observed value. `progress` gets the number of samples seen so far.
///
/// # Errors
/// When data do not fit, a run fails, or a value is NaN or infinite.
pub fn calibrate(
    session: &mut Session,
    data: &DataSet,
    specs: &BTreeMap<String, QuantSpec>,
    mut progress: impl FnMut(usize),
) -> Result<BTreeMap<String, ObserverState>, CalibrateError> {
    let mut states: BTreeMap<String, ObserverState> = specs
        .iter()
        .map(|(name, spec)| (name.clone(), spec.observer()))
        .collect();
    let mut seen = 0;
    data.for_each(|batch, samples| {
        observe_batch(session, &batch, samples, &mut states)?;
        seen += samples;
        progress(seen);
        Ok::<(), CalibrateError>(())
    })?;
    Ok(states)
}

fn observe_batch(
    session: &mut Session,
    batch: &[(String, Tensor)],
    samples: usize,
    states: &mut BTreeMap<String, ObserverState>,
) -> Result<(), CalibrateError> {
    run_batch(session, batch, |tap, view| {
        let (Some(state), Some(values)) = (states.get_mut(&tap.id), view.floats()) else {
            return Ok(());
        };
        // The mean of the samples' ranges needs each sample separately.
        let per_sample = matches!(state.kind(), ObserverKind::MeanMinMax)
            && samples > 1
            && view.shape().first() == Some(&samples);
        let size = if per_sample {
            (values.len() / samples).max(1)
        } else {
            values.len().max(1)
        };
        values.chunks(size).try_for_each(|part| state.observe(part))
    })
}

/// Runs a batch and shows each observed value to `show`, whose error then names the value.
pub(crate) fn run_batch(
    session: &mut Session,
    batch: &[(String, Tensor)],
    mut show: impl FnMut(&Tap, TensorView<'_>) -> Result<(), ObserveError>,
) -> Result<(), CalibrateError> {
    let inputs: Vec<(&str, Tensor)> = batch
        .iter()
        .map(|(name, tensor)| (name.as_str(), tensor.clone()))
        .collect();
    let mut failed = None;
    let result = session.run_with_taps(&inputs, |_, tap, view| {
        show(tap, view).map_err(|source| {
            failed = Some(CalibrateError::Observe {
                value: tap.id.clone(),
                source: source.clone(),
            });
            source.into()
        })
    });
    match (failed, result) {
        (Some(error), _) => Err(error),
        (None, Err(error)) => Err(error.into()),
        (None, Ok(_)) => Ok(()),
    }
}
