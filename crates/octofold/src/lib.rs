//! Octofold, a quantizing graph compiler for ONNX models.
//!
//! A float model goes in; what comes out is four times smaller, computes in 8-bit integers, and tells what became of every node.
//! The stages are functions that can be used alone:
//!
//! ```no_run
//! use std::path::Path;
//! use octofold::calibrate::{DataOptions, DataSet};
//! use octofold::passes::backend::BackendConfig;
//! use octofold::passes::config::{QConfig, QConfigMapping};
//! use octofold::runtime::SessionOptions;
//!
//! let model = octofold::Model::load(Path::new("models/fashion_resnet.onnx"))?;
//! let data = DataSet::open(Path::new("calibration.npz"), model.inputs(), DataOptions::default())?;
//! let prepared = octofold::prepare(model, &QConfigMapping::global(QConfig::default()), &BackendConfig::fbgemm())?;
//! let statistics = octofold::calibrate(&prepared, &data, SessionOptions::default(), |_| {})?;
//! let reference = octofold::convert(&prepared, &statistics)?;
//! let (lowered, _) = octofold::lower(&reference)?;
//! let plan = octofold::compile(&lowered)?;
//! # Ok::<(), octofold::Error>(())
//! ```
#![forbid(unsafe_code)]

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
mod repair;
mod sensitivity;
mod statistics;

pub use error::{Error, StatisticsError};
pub use fate::{FLOAT_NODES, Fate, FloatNode, float_nodes};
pub use graph_mode::{PrepareOptions, UnmatchedPolicy, prepare, prepare_with};
pub use limits::Limits;
pub use lowering::{compile, compile_with, engine_of, lower, lower_for, optimize};
pub use model::{Model, fix_shape, inputs_of, inputs_of_plan};
pub use octofold_calibrate as calibrate;
pub use octofold_codegen as codegen;
pub use octofold_ir as ir;
pub use octofold_kernels as kernels;
pub use octofold_ops as ops;
pub use octofold_passes as passes;
pub use octofold_quant as quant;
pub use octofold_runtime as runtime;
pub use octofold_tensor as tensor;
pub use prepared::{Prepared, calibrate, convert};
pub use provenance::Provenance;
pub use repair::correct_biases;
pub use sensitivity::{LayerSensitivity, Rank, Sensitivity, SensitivityOptions, sensitivity};
pub use statistics::StatisticsFile;
