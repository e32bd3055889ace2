//! The parts of post-training quantization that run the model.
//!
//! This crate owns [data sets](data), the [decoding](mod@decode) of images and their [preprocessing](preprocess), [calibration](mod@calibrate) by running the compiled
//! observed graph, [means](mod@means) of values, [comparison](compare) of two models on data, the [`accuracy`] of one, and the
//! [scores](score) of many against one reference. It makes no decisions about graphs.
#![forbid(unsafe_code)]

pub mod accuracy;
pub mod calibrate;
pub mod compare;
pub mod data;
pub mod decode;
pub mod means;
pub mod preprocess;
pub mod score;

pub use accuracy::{Accuracy, AccuracyError};
pub use calibrate::{CalibrateError, calibrate};
pub use compare::{Comparison, ValueComparison};
pub use data::{Batch, DataError, DataOptions, DataSet, InputSpec};
pub use decode::{DecodeError, decode_image};
pub use means::observe_means;
pub use preprocess::Preprocess;
pub use score::{Reference, Score, ScoreError, TopK};
