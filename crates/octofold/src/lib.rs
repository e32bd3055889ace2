//! Octofold, a quantizing graph compiler for ONNX models.
//!
//! It turns a float model into one that is four times smaller and computes in 8-bit integers, and it says for every node how it runs, and why.
//! Load a model, quantize it with a folder of images, run it:
//!
//! ```no_run
//! use octofold::{DataOptions, Model, Recipe, Session, SessionOptions, Tensor};
//!
//! fn main() -> Result<(), octofold::Error> {
//!     let model = Model::load("model.onnx")?;
//!     let images = model.data("images", DataOptions::default())?;
//!     let quantized = Recipe::default().quantize(&model, &images)?;
//!     let mut session = Session::new(quantized.compile()?.into(), SessionOptions::default())?;
//!     let image = Tensor::new([1, 3, 224, 224], vec![0.0_f32; 3 * 224 * 224])?;
//!     let outputs = session.run(&[("input", image)])?;
//!     println!("{:?}", outputs[0].1.values::<f32>()?);
//!     Ok(())
//! }
//! ```
//!
//! - [`DataOptions::preprocess`] says how images become inputs: mean, scale, size.
//! - A [`Recipe`] says what is quantized and how. A [configuration file](config::Config) makes one.
//! - [`Quantized`] says what became of each node, [exports](Quantized::export) standard ONNX and [compiles](Quantized::compile) a [`Plan`].
//! - Each step can be called alone: [`prepare`], [`calibrate`](fn@calibrate), [`correct_biases`], [`convert`], [`lower`], [`compile`]. What a step takes and
//!   gives can be printed, verified, exported and run.
//! - [`Error::code`] is stable; `docs/errors.md` lists the codes.
//!
//! ```no_run
//! use octofold::passes::backend::BackendConfig;
//! use octofold::passes::config::{QConfig, QConfigMapping};
//! use octofold::{DataOptions, Model, SessionOptions};
//!
//! let model = Model::load("models/fashion_resnet.onnx")?;
//! let data = model.data("calibration.npz", DataOptions::default())?;
//! let prepared = octofold::prepare(model, &QConfigMapping::global(QConfig::default()), &BackendConfig::fbgemm())?;
//! let statistics = octofold::calibrate(&prepared, &data, SessionOptions::default(), |_| {})?;
//! let reference = octofold::convert(&prepared, &statistics)?;
//! let (lowered, _) = octofold::lower(&reference)?;
//! let plan = octofold::compile(&lowered)?;
//! # Ok::<(), octofold::Error>(())
//! ```
//!
//! The crates of the compiler are re-exported as modules, for programs that need more than the front door.
#![forbid(unsafe_code)]

mod algorithm;
pub mod config;
pub mod eager;
mod error;
mod fate;
mod graph_mode;
mod limits;
mod lowering;
mod model;
mod prepared;
mod provenance;
mod recipe;
mod repair;
mod sensitivity;
mod statistics;
mod summary;

pub use algorithm::{Algorithm, UnknownAlgorithm};
pub use error::{Error, StatisticsError};
pub use fate::{FLOAT_NODES, Fate, FloatNode, float_nodes, float_nodes_of};
pub use graph_mode::{PrepareOptions, UnmatchedPolicy, prepare, prepare_with};
pub use limits::Limits;
pub use lowering::{compile, compile_with, engine_of, lower, lower_for, optimize};
pub use model::{Model, fix_shape, inputs_of, inputs_of_plan};
pub use prepared::{Prepared, calibrate, convert};
pub use provenance::Provenance;
pub use recipe::{Calibration, Check, Mode, Progress, Quantized, Recipe, compile_for};
pub use repair::correct_biases;
pub use sensitivity::{LayerSensitivity, Rank, Sensitivity, SensitivityOptions, sensitivity};
pub use statistics::StatisticsFile;
pub use summary::{Summary, constant_bytes};

// What a program that uses the functions above needs of other crates.
pub use octofold_calibrate::{DataOptions, DataSet};
pub use octofold_runtime::{Plan, Session, SessionOptions, TensorView, TensorViewMut};
pub use octofold_tensor::Tensor;

#[doc(no_inline)]
pub use {
    octofold_calibrate as calibrate, octofold_codegen as codegen, octofold_ir as ir,
    octofold_kernels as kernels, octofold_ops as ops, octofold_passes as passes,
    octofold_quant as quant, octofold_runtime as runtime, octofold_tensor as tensor,
};
