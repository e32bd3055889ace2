//! Means: the average image of each observed value over a data set.
//!
//! `E[x]` is what bias correction needs (see `octofold_passes::bias`). Sums are kept in f64, sample by sample, so that neither the batch size nor the
//! number of threads changes the result; one image a value is in memory.

use indexmap::IndexMap;
use octofold_quant::observer::ObserveError;
use octofold_runtime::{Session, TensorView};
use octofold_tensor::Tensor;

use crate::calibrate::{CalibrateError, run_batch};
use crate::data::DataSet;

/// The sum of a value's samples.
struct Sum {
    /// The sizes of one sample, in the order of memory.
    shape: Vec<usize>,
    channels_last: bool,
    values: Vec<f64>,
    samples: u64,
}

/// Runs a plan with taps over a data set. Returns the mean over all samples of each observed f32 value, by the tap's id: `[1, C, H, W]` for images in any
/// memory layout, `[1, …]` for other values.
///
/// The first axis is the batch when its size is the number of samples. A value has no mean where this does not hold in each batch, or where other
/// sizes differ between batches. `progress` gets the number of samples seen so far.
///
/// # Errors
/// When data do not fit, a run fails, or a value is NaN or infinite.
pub fn observe_means(
    session: &mut Session,
    data: &DataSet,
    mut progress: impl FnMut(usize),
) -> Result<IndexMap<String, Tensor>, CalibrateError> {
    let mut sums: IndexMap<String, Option<Sum>> = IndexMap::new();
    let mut seen = 0;
    data.for_each(|batch, samples| {
        run_batch(session, &batch, |tap, view| {
            let Some(values) = view.floats() else {
                return Ok(());
            };
            if let Some(index) = values.iter().position(|x| !x.is_finite()) {
                let value = values[index];
                return Err(ObserveError::NotFinite { index, value });
            }
            match sums.get_mut(&tap.id) {
                Some(sum) => {
                    if !sum
                        .as_mut()
                        .is_some_and(|sum| sum.add(view, values, samples))
                    {
                        *sum = None;
                    }
                }
                None => {
                    let mut sum = Sum::of(view);
                    let sum = sum.add(view, values, samples).then_some(sum);
                    sums.insert(tap.id.clone(), sum);
                }
            }
            Ok(())
        })?;
        seen += samples;
        progress(seen);
        Ok::<(), CalibrateError>(())
    })?;
    let means = sums.into_iter().filter_map(|(name, sum)| {
        let mean = sum?.mean()?;
        Some((name, mean))
    });
    Ok(means.collect())
}

impl Sum {
    /// The empty sum of values like `view`.
    fn of(view: TensorView<'_>) -> Self {
        let shape = view.shape().get(1..).unwrap_or_default().to_vec();
        let size = match view.shape().first() {
            Some(&batch) if batch > 0 => view.floats().map_or(0, <[f32]>::len) / batch,
            _ => 0,
        };
        Self {
            shape,
            channels_last: view.channels_last(),
            values: vec![0.0; size],
            samples: 0,
        }
    }

    /// Adds a batch. Returns whether its shape suits the sum.
    fn add(&mut self, view: TensorView<'_>, values: &[f32], samples: usize) -> bool {
        let fits = samples > 0
            && !self.values.is_empty()
            && view.shape().split_first() == Some((&samples, &self.shape))
            && view.channels_last() == self.channels_last;
        if !fits {
            return false;
        }
        for sample in values.chunks_exact(self.values.len()) {
            for (sum, &x) in self.values.iter_mut().zip(sample) {
                *sum += f64::from(x);
            }
        }
        self.samples += samples as u64;
        true
    }

    /// The mean as an image of the model.
    fn mean(self) -> Option<Tensor> {
        let count = self.samples as f64;
        let mean = |&sum: &f64| (sum / count) as f32;
        match (self.channels_last, self.shape.as_slice()) {
            (true, [sizes @ .., channels]) => {
                let (pixels, channels) = (sizes.iter().product(), *channels);
                let values = (0..channels).flat_map(|c| {
                    let plane = self.values.iter().skip(c).step_by(channels);
                    plane.take(pixels).map(mean)
                });
                let shape = [1, channels].into_iter().chain(sizes.iter().copied());
                Tensor::new(shape, values.collect()).ok()
            }
            (true, []) => None,
            (false, shape) => {
                let shape = std::iter::once(1).chain(shape.iter().copied());
                Tensor::new(shape, self.values.iter().map(mean).collect()).ok()
            }
        }
    }
}
