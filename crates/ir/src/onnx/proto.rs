//! The messages of ONNX files, generated from `proto/onnx.proto`.
//!
//! `generated.rs` is checked in, so that building needs neither `protoc` nor a build script; the test `onnx`
//! makes it again and compares. [`TensorProto::raw_data`] is [`bytes::Bytes`], which shares the file's buffer.
#![allow(
    missing_docs,
    unreachable_pub,
    clippy::doc_markdown,
    clippy::enum_variant_names,
    clippy::large_enum_variant,
    reason = "generated code"
)]

include!("generated.rs");
