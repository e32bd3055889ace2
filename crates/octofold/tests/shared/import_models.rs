//! Importing the real models of `../shared`, and writing them again.

use std::path::{Path, PathBuf};

use crate::onnx_support;
use octofold_ir::onnx::{ExportOptions, ImportOptions, import, import_bytes};
use octofold_ir::text::{self, PrintOptions};

fn shared(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../../shared")
        .join(name)
}

#[test]
fn every_model_is_read_and_written() {
    let mut models: Vec<PathBuf> = std::fs::read_dir(shared("models"))
        .expect("../shared/models is there")
        .map(|entry| entry.unwrap().path())
        .filter(|path| {
            path.extension()
                .is_some_and(|extension| extension == "onnx")
        })
        .collect();
    models.sort();
    assert!(models.len() >= 11);
    for path in models {
        let name = path.file_name().unwrap().to_str().unwrap();
        let imported = import(&path, &ImportOptions::default());
        let graph = imported.unwrap();
        let options = PrintOptions {
            data: Some("model.bin".to_owned()),
        };
        let printed = text::print(&graph, &options);
        let read = text::parse(&printed.text, Some(&printed.data)).unwrap();
        assert_eq!(text::print(&read, &options), printed, "{name}");
        octofold_ir::verify(&graph).unwrap();
        let bytes = onnx_support::exported(&graph, &ExportOptions::default());
        onnx_support::keep(name, &bytes);
        let again = import_bytes(bytes.clone(), None, &ImportOptions::default()).unwrap();
        assert_eq!(
            onnx_support::listing(&again),
            onnx_support::listing(&graph),
            "{name}"
        );
        assert_eq!(
            onnx_support::exported(&again, &ExportOptions::default()),
            bytes,
            "{name}"
        );
    }
}

/// The models that speed is measured with, where they have been made.
#[test]
fn the_benchmark_models_are_read() {
    let folder = shared("../bench");
    for (name, read) in [
        ("resnet18", true),
        ("resnet50", true),
        ("mobilenet_v2", true),
        ("bert6", true),
        ("conv3x3_64", true),
        ("gemm_1024", true),
        ("lstm2", true),
    ] {
        let path = folder.join(format!("{name}.onnx"));
        if path.exists() {
            let imported = import(&path, &ImportOptions::default());
            assert_eq!(imported.is_ok(), read, "{name}: {imported:?}");
        }
    }
}
