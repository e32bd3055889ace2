//! ONNX files: import, export, and agreement with a second decoder; and the page about stages. `cargo test -p octofold-ir --test onnx proto` runs one file.

mod support;

mod bodies;
mod contributed;
mod export;
mod external;
mod graphs;
mod mutations;
mod opsets;
mod proto;
mod qoperator;
mod stages;
mod tensors;
