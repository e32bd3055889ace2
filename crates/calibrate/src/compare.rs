//! Comparison of two models on the same data: how far a candidate is from its reference, for each output and each layer.

use indexmap::IndexMap;
use octofold_quant::metrics::ErrorStatistics;
use octofold_tensor::Tensor;
use serde::Serialize;

/// How far one value of a candidate is from the reference's.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ValueComparison {
    /// The value's name in the reference.
    pub name: String,
    /// Signal-to-noise ratio in dB; absent when the values are equal.
    pub sqnr_db: Option<f64>,
    /// Cosine similarity; absent when a side is all zero.
    pub cosine: Option<f64>,
    /// The largest absolute difference.
    pub max_abs: f64,
}

/// Errors gathered over batches, by value.
#[derive(Clone, Debug, Default)]
pub struct Comparison {
    statistics: IndexMap<String, ErrorStatistics>,
}

impl Comparison {
    /// Adds the elements of one value. A value of another shape or type than f32 is ignored, and
    /// absent from the result.
    pub fn add(&mut self, name: &str, reference: &Tensor, candidate: &Tensor) {
        if let (Ok(reference_values), Ok(candidate_values)) =
            (reference.values::<f32>(), candidate.values::<f32>())
            && reference.shape() == candidate.shape()
        {
            let statistics = self.statistics.entry(name.to_owned()).or_default();
            // Equal shapes have equal numbers of elements, so nothing is left out.
            let _ = statistics.add(reference_values, candidate_values);
        }
    }

    /// The result for each value, in the order in which values were first added.
    pub fn results(&self) -> Vec<ValueComparison> {
        let finite = |x: f64| x.is_finite().then_some(x);
        self.statistics
            .iter()
            .map(|(name, statistics)| ValueComparison {
                name: name.clone(),
                sqnr_db: finite(statistics.sqnr_db()),
                cosine: finite(statistics.cosine()),
                max_abs: statistics.max_abs(),
            })
            .collect()
    }
}
