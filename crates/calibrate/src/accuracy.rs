//! The accuracy of a classifier on labelled data.

use octofold_tensor::Tensor;

use crate::data::Batch;

/// How many samples a classifier gets right.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Accuracy {
    /// Whether each sample's class is among the best `k`, in the order of the data.
    pub correct: Vec<bool>,
    /// The number of best classes that count.
    pub k: usize,
}

/// Why outputs cannot be scored.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AccuracyError {
    /// An output that is not [samples, classes] of f32.
    #[error("class scores are float[samples, classes], not {0}")]
    Scores(String),
    /// A label that is no class of the model.
    #[error("the label of sample {sample} is {label}, the model has the classes 0 to {last}")]
    Range {
        /// The sample.
        sample: usize,
        /// Its label.
        label: i64,
        /// The last class.
        last: usize,
    },
    /// Another number of labels than of samples.
    #[error("{labels} labels for {samples} samples")]
    Labels {
        /// The number of labels.
        labels: usize,
        /// The number of samples; there may be more where there are fewer labels.
        samples: usize,
    },
}

impl Accuracy {
    /// A count of samples whose class is among the best `k`.
    pub fn top(k: usize) -> Self {
        Self {
            correct: Vec::new(),
            k,
        }
    }

    /// Scores a batch: [samples, classes] (further axes of size 1 do not matter) against the labels of the whole data set.
    ///
    /// A tie counts for the class of the smaller index, as `argmax` has it.
    ///
    /// # Errors
    /// When the output does not hold class scores, labels are missing, or a label is no class.
    pub fn add(&mut self, scores: &Tensor, labels: &[i64]) -> Result<(), AccuracyError> {
        let form = || AccuracyError::Scores(format!("{}{:?}", scores.dtype(), scores.shape()));
        let values = scores.values::<f32>().map_err(|_| form())?;
        let samples = *scores.shape().first().ok_or_else(form)?;
        if samples == 0 || scores.rank() < 2 {
            return Err(form());
        }
        let classes = values.len() / samples;
        for row in values.chunks(classes.max(1)) {
            let sample = self.correct.len();
            let missing = AccuracyError::Labels {
                labels: labels.len(),
                samples: sample + 1,
            };
            let label = *labels.get(sample).ok_or(missing)?;
            let class = usize::try_from(label)
                .ok()
                .filter(|&class| class < row.len());
            let own = class.ok_or(AccuracyError::Range {
                sample,
                label,
                last: row.len().saturating_sub(1),
            })?;
            let score = row[own];
            let better = row
                .iter()
                .enumerate()
                .filter(|&(class, &other)| other > score || (other == score && class < own));
            self.correct
                .push(!score.is_nan() && better.count() < self.k);
        }
        Ok(())
    }

    /// Checks that every label has had its sample.
    ///
    /// # Errors
    /// When there are more labels than samples.
    pub fn check_labels(&self, labels: &[i64]) -> Result<(), AccuracyError> {
        let (labels, samples) = (labels.len(), self.correct.len());
        if labels == samples {
            return Ok(());
        }
        Err(AccuracyError::Labels { labels, samples })
    }

    /// The part of the samples that is right, 0 to 1.
    pub fn value(&self) -> f64 {
        let right = self.correct.iter().filter(|&&right| right).count();
        right as f64 / self.correct.len().max(1) as f64
    }
}

/// The inputs of a batch in the form that sessions take.
pub fn inputs_of(batch: &Batch) -> Vec<(&str, Tensor)> {
    batch
        .iter()
        .map(|(name, tensor)| (name.as_str(), tensor.clone()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ties_go_to_the_smaller_index() {
        let scores = Tensor::new(
            [3, 3],
            vec![0.1_f32, 0.7, 0.2, 0.5, 0.5, 0.0, 0.0, 0.1, 0.2],
        )
        .unwrap();
        let mut top1 = Accuracy::top(1);
        top1.add(&scores, &[1, 1, 0]).unwrap();
        assert_eq!(top1.correct, [true, false, false]);
        let mut top2 = Accuracy::top(2);
        top2.add(&scores, &[1, 1, 0]).unwrap();
        assert_eq!(top2.correct, [true, true, false]);
        assert!(top2.add(&scores, &[1, 1, 0]).is_err());
        assert_eq!(top2.check_labels(&[1, 1, 0]), Ok(()));
        assert!(top2.check_labels(&[1, 1, 0, 2]).is_err());
        for label in [-1, 3] {
            let found = Accuracy::top(1).add(&scores, &[1, label, 0]);
            let (sample, last) = (1, 2);
            assert_eq!(
                found,
                Err(AccuracyError::Range {
                    sample,
                    label,
                    last
                })
            );
        }
    }
}
