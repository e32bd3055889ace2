//! The generated messages are those of `proto/onnx.proto`; `OCTOFOLD_BLESS=1 cargo test -p octofold-ir --test onnx proto` makes them anew.

use std::path::{Path, PathBuf};

fn root(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../..")
        .join(path)
}

#[test]
fn the_generated_code_is_up_to_date() {
    let files = protox::compile(["onnx.proto"], [root("proto")]).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let mut config = prost_build::Config::new();
    config
        .bytes([".onnx.TensorProto.raw_data"])
        .out_dir(folder.path());
    // An attribute has one value; without boxes every attribute takes the room of all.
    for field in ["t", "g", "tp", "sparse_tensor"] {
        config.boxed(format!(".onnx.AttributeProto.{field}"));
    }
    config.compile_fds(files).unwrap();
    let fresh = std::fs::read_to_string(folder.path().join("onnx.rs")).unwrap();
    let checked_in = root("crates/ir/src/onnx/generated.rs");
    if std::env::var_os("OCTOFOLD_BLESS").is_some() {
        std::fs::write(&checked_in, &fresh).unwrap();
    }
    assert!(
        std::fs::read_to_string(checked_in).unwrap() == fresh,
        "run with OCTOFOLD_BLESS=1"
    );
}
