//! Scores: how far the outputs of models are from one reference's on the same data, and how often their first output is right.
//!
//! The error of an output is its noise energy over the reference's signal energy, both summed over the whole data set; a model's error is the
//! mean over its outputs, so that an output of large numbers does not hide one of small ones. In decibels, for outputs `o`,
//!
//! ```text
//! sqnr_db = -10·log10( mean_o( Σ (c_o - r_o)² / Σ r_o² ) )
//! ```
//!
//! With one output that is its signal-to-noise ratio. An output that should be all zero and is not counts as 0 dB. So does each
//! element that became NaN or infinite. Only outputs of f32 count.

use octofold_runtime::{RunError, Session};
use octofold_tensor::Tensor;
use serde::Serialize;

use crate::accuracy::{Accuracy, AccuracyError, inputs_of};
use crate::compare::{Comparison, ValueComparison};
use crate::data::{Batch, DataError, DataSet};

/// How good a model is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Score {
    /// The signal-to-noise ratio of the outputs in dB; absent when they are equal to the reference's.
    pub sqnr_db: Option<f64>,
    /// The part of the samples that is right, 0 to 1; absent without labels.
    pub metric: Option<f64>,
}

/// The classes of labelled data, and what counts as right.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopK {
    /// The number of best classes that count.
    pub k: usize,
    /// The class of each sample.
    pub labels: Vec<i64>,
}

/// Why a model cannot be scored.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ScoreError {
    /// The data cannot be read or do not fit.
    #[error(transparent)]
    Data(#[from] DataError),
    /// The model cannot be run.
    #[error(transparent)]
    Run(#[from] RunError),
    /// The first output does not hold class scores, or labels are missing.
    #[error(transparent)]
    Accuracy(#[from] AccuracyError),
    /// Nothing to compare.
    #[error("the model has no output of f32 that could be compared")]
    NoOutput,
    /// An output whose elements do not correspond.
    #[error(
        "the output `{output}` is {expected:?} in the reference and {found:?} here: sizes that depend on the data cannot be compared"
    )]
    Shape {
        /// The output.
        output: String,
        /// Its shape in the reference.
        expected: Vec<usize>,
        /// Its shape in the model that is scored; empty where it is absent.
        found: Vec<usize>,
    },
}

type Outputs = Vec<(String, Tensor)>;

/// A model that others are compared with, on one data set.
///
/// One candidate is in memory at a time. Small samples and outputs of the reference are kept; otherwise each score reads the data
/// and runs the reference again, batch by batch.
pub struct Reference<'a> {
    session: Session,
    data: &'a DataSet,
    top: Option<&'a TopK>,
    kept: Option<Vec<(Batch, Outputs)>>,
    metric: Option<f64>,
}

impl<'a> Reference<'a> {
    /// Runs the reference over the data, and keeps the samples and outputs when they take at most `limit` bytes.
    ///
    /// # Errors
    /// When data do not fit, a run fails, or the outputs cannot be scored.
    pub fn new(
        mut session: Session,
        data: &'a DataSet,
        top: Option<&'a TopK>,
        limit: usize,
    ) -> Result<Self, ScoreError> {
        let mut accuracy = top.map(|top| Accuracy::top(top.k));
        let mut kept = Some(Vec::new());
        let mut bytes = 0;
        data.for_each(|batch, _| {
            let outputs = session.run(&inputs_of(&batch))?;
            add_accuracy(&mut accuracy, top, &outputs)?;
            let tensors = batch.iter().chain(&outputs);
            bytes += tensors.map(|(_, tensor)| tensor.byte_len()).sum::<usize>();
            match &mut kept {
                Some(kept) if bytes <= limit => kept.push((batch, outputs)),
                _ => kept = None,
            }
            Ok::<(), ScoreError>(())
        })?;
        Ok(Self {
            session,
            data,
            top,
            kept,
            metric: accuracy.map(|accuracy| accuracy.value()),
        })
    }

    /// The reference's own score.
    pub fn own(&self) -> Score {
        Score {
            sqnr_db: None,
            metric: self.metric,
        }
    }

    /// Scores another model with the same inputs and outputs.
    ///
    /// # Errors
    /// When a run fails, or the outputs do not correspond.
    pub fn score(&mut self, candidate: &mut Session) -> Result<Score, ScoreError> {
        let top = self.top;
        let mut accuracy = top.map(|top| Accuracy::top(top.k));
        let mut comparison = Comparison::default();
        let mut add = |batch: &Batch, expected: &Outputs| {
            let found = candidate.run(&inputs_of(batch))?;
            add_accuracy(&mut accuracy, top, &found)?;
            expected
                .iter()
                .try_for_each(|(name, expected)| compare(&mut comparison, name, expected, &found))
        };
        match &self.kept {
            Some(kept) => kept
                .iter()
                .try_for_each(|(batch, outputs)| add(batch, outputs))?,
            None => {
                let session = &mut self.session;
                self.data
                    .for_each(|batch, _| add(&batch, &session.run(&inputs_of(&batch))?))?;
            }
        }
        let results = comparison.results();
        if results.is_empty() {
            return Err(ScoreError::NoOutput);
        }
        Ok(Score {
            sqnr_db: decibels(&results),
            metric: accuracy.map(|accuracy| accuracy.value()),
        })
    }
}

fn add_accuracy(
    accuracy: &mut Option<Accuracy>,
    top: Option<&TopK>,
    outputs: &Outputs,
) -> Result<(), ScoreError> {
    if let (Some(accuracy), Some(top)) = (accuracy, top) {
        let (_, scores) = outputs.first().ok_or(ScoreError::NoOutput)?;
        accuracy.add(scores, &top.labels)?;
    }
    Ok(())
}

fn compare(
    comparison: &mut Comparison,
    name: &str,
    expected: &Tensor,
    found: &Outputs,
) -> Result<(), ScoreError> {
    let Ok(reals) = expected.values::<f32>() else {
        return Ok(());
    };
    let found = found.iter().find(|(other, _)| other == name);
    let shape = |found: &[usize]| ScoreError::Shape {
        output: name.to_owned(),
        expected: expected.shape().to_vec(),
        found: found.to_vec(),
    };
    let (_, found) = found.ok_or_else(|| shape(&[]))?;
    if found.shape() != expected.shape() {
        return Err(shape(found.shape()));
    }
    // The comparison leaves out what is not finite; without this a model that computes NaN would score well.
    let is_lost = |(real, value): (&f32, &f32)| real.is_finite() && !value.is_finite();
    let mut found = found.clone();
    if let Ok(values) = found.values::<f32>()
        && reals.iter().zip(values).any(is_lost)
    {
        for (real, value) in reals
            .iter()
            .zip(found.values_mut::<f32>().unwrap_or_default())
        {
            if is_lost((real, value)) {
                *value = 0.0;
            }
        }
    }
    comparison.add(name, expected, &found);
    Ok(())
}

/// The mean error of outputs in dB; `None` when there is none.
fn decibels(outputs: &[ValueComparison]) -> Option<f64> {
    let errors = outputs.iter().map(|output| match output.sqnr_db {
        Some(db) => 10.0_f64.powf(-db / 10.0),
        None if output.max_abs > 0.0 => 1.0,
        None => 0.0,
    });
    let mean = errors.sum::<f64>() / outputs.len() as f64;
    match outputs {
        // A single output's own figure, without the rounding of converting it to a ratio and back.
        [
            ValueComparison {
                sqnr_db: Some(db), ..
            },
        ] => Some(*db),
        _ => (mean > 0.0).then(|| -10.0 * mean.log10()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn score(expected: &[&[f32]], found: &[&[f32]]) -> Option<f64> {
        let tensor = |values: &[f32]| Tensor::vector(values.to_vec());
        let named = |outputs: &[&[f32]]| -> Outputs {
            let outputs = outputs.iter().enumerate();
            outputs
                .map(|(index, values)| (format!("y{index}"), tensor(values)))
                .collect()
        };
        let (expected, found) = (named(expected), named(found));
        let mut comparison = Comparison::default();
        for (name, expected) in &expected {
            compare(&mut comparison, name, expected, &found).unwrap();
        }
        decibels(&comparison.results())
    }

    #[test]
    fn errors_are_averaged_over_outputs_whatever_their_size() {
        let exact = |db: f64, expected: f64| assert!((db - expected).abs() < 1e-4, "{db}");
        exact(score(&[&[1.0]], &[&[1.1]]).unwrap(), 20.0);
        // Errors of 1 % and of nothing in energy, the second output a thousand times larger.
        let db = score(&[&[1.0], &[1000.0]], &[&[1.1], &[1000.0]]).unwrap();
        exact(db, -10.0 * 0.005_f64.log10());
        assert_eq!(score(&[&[1.0], &[2.0]], &[&[1.0], &[2.0]]), None);
    }

    #[test]
    fn zeros_and_lost_numbers_count_as_errors() {
        assert_eq!(score(&[&[0.0, 0.0]], &[&[0.0, 1.0]]), Some(0.0));
        assert_eq!(score(&[&[2.0]], &[&[f32::NAN]]), Some(0.0));
        assert_eq!(
            score(&[&[f32::NEG_INFINITY, 1.0]], &[&[f32::NEG_INFINITY, 1.0]]),
            None
        );
    }

    #[test]
    fn outputs_of_other_sizes_are_refused() {
        let mut comparison = Comparison::default();
        let found = vec![("y".to_owned(), Tensor::vector(vec![1.0_f32]))];
        let expected = Tensor::vector(vec![1.0_f32, 2.0]);
        let error = compare(&mut comparison, "y", &expected, &found).unwrap_err();
        assert!(error.to_string().contains("[2]"), "{error}");
    }
}
