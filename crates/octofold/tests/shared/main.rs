//! Tests with the models and conformance suites in `../shared`, which are no part of the project.
#![cfg(feature = "shared-tests")]

#[path = "../common/mod.rs"]
mod common;
#[path = "../../../ir/tests/onnx/support/mod.rs"]
mod onnx_support;

mod configuration;
mod conformance;
mod detectors;
mod import_conformance;
mod import_hostile;
mod import_models;
mod resnet20;
mod silero;
