//! Hostile models are refused with an error that names the place, quickly; sound ones of the same kinds are read.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use octofold_ir::onnx::{ImportOptions, import};

fn unpacked() -> tempfile::TempDir {
    let archive =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/conformance/bad-models.tar.gz");
    let file = std::fs::File::open(archive).expect("../shared/conformance is there");
    let folder = tempfile::tempdir().unwrap();
    tar::Archive::new(flate2::read::GzDecoder::new(file))
        .unpack(folder.path())
        .unwrap();
    folder
}

fn cases(folder: &Path) -> Vec<PathBuf> {
    let mut cases: Vec<PathBuf> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    cases.sort();
    cases
}

#[test]
fn bad_models_are_refused_and_sound_ones_are_not() {
    let folder = unpacked();
    let mut wrong = Vec::new();
    for case in cases(&folder.path().join("public")) {
        let json: serde_json::Value =
            serde_json::from_slice(&std::fs::read(case.join("case.json")).unwrap()).unwrap();
        let begun = Instant::now();
        let imported = import(&case.join("model.onnx"), &ImportOptions::default());
        let took = begun.elapsed();
        let name = case.file_name().unwrap().to_string_lossy().into_owned();
        match imported {
            Ok(_) => wrong.push(format!("{name}: accepted, although {}", json["why"])),
            Err(error) => {
                // Not the file's own name, which may hold the words.
                let text = error.kind.to_string().to_lowercase();
                let expected = json["expect"].as_array().unwrap();
                if !expected
                    .iter()
                    .any(|word| text.contains(word.as_str().unwrap()))
                {
                    wrong.push(format!("{name}: `{text}` has none of {expected:?}"));
                }
            }
        }
        if took > Duration::from_secs(2) {
            wrong.push(format!("{name}: took {took:?}"));
        }
    }
    for case in cases(&folder.path().join("control")) {
        if let Err(error) = import(&case.join("model.onnx"), &ImportOptions::default()) {
            wrong.push(format!("control: {error}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
