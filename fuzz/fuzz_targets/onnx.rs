//! The importer: from bytes to a graph, and the graph written and read in both file forms.
#![no_main]

#[path = "../src/bodies.rs"]
mod bodies;

libfuzzer_sys::fuzz_target!(|data: &[u8]| bodies::onnx(data));
