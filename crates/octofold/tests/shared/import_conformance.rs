//! ONNX's own tests: every model of tier 1 is imported and interpreted, and gives the outputs that are recorded with it.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::{Path, PathBuf};

use crate::onnx_support;
use octofold_ir::interpret;
use octofold_ir::onnx::{ExportOptions, ImportOptions, export, import_bytes, tensor_from_bytes};
use octofold_tensor::{DType, Tensor, bf16, f16};

/// How many folders of each tier pass; more are welcome, then the number is raised.
const PASSED: [(&str, usize); 3] = [("tier1", 336), ("tier2", 263), ("tier3", 244)];

fn conformance(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../../shared/conformance")
        .join(name)
}

/// The files of the archive, by folder and name.
fn files() -> BTreeMap<String, BTreeMap<String, Vec<u8>>> {
    let file = std::fs::File::open(conformance("onnx-node-tests.tar.gz"))
        .expect("../shared/conformance is there");
    let mut archive = tar::Archive::new(flate2::read::GzDecoder::new(file));
    let mut folders: BTreeMap<String, BTreeMap<String, Vec<u8>>> = BTreeMap::new();
    for entry in archive.entries().unwrap() {
        let mut entry = entry.unwrap();
        let path = entry.path().unwrap().to_string_lossy().into_owned();
        // onnx-backend-tests / kind / test / file
        let parts: Vec<&str> = path.splitn(4, '/').collect();
        if let &[_, kind, test, file] = parts.as_slice()
            && !file.is_empty()
        {
            let mut bytes = Vec::new();
            entry.read_to_end(&mut bytes).unwrap();
            folders
                .entry(format!("{kind}/{test}"))
                .or_default()
                .insert(file.to_owned(), bytes);
        }
    }
    folders
}

fn tensors(folder: &BTreeMap<String, Vec<u8>>, what: &str) -> Result<Vec<Tensor>, String> {
    let mut tensors = Vec::new();
    while let Some(bytes) = folder.get(&format!("test_data_set_0/{what}_{}.pb", tensors.len())) {
        let (_, tensor) =
            tensor_from_bytes(bytes.clone().into()).map_err(|error| format!("{what}: {error}"))?;
        tensors.push(tensor);
    }
    Ok(tensors)
}

/// The elements as numbers, when they are floats.
fn floats(tensor: &Tensor) -> Option<Vec<f64>> {
    match tensor.dtype() {
        DType::F32 => Some(
            tensor
                .values::<f32>()
                .ok()?
                .iter()
                .map(|&x| x.into())
                .collect(),
        ),
        DType::F64 => Some(tensor.values::<f64>().ok()?.to_vec()),
        DType::F16 => Some(
            tensor
                .values::<f16>()
                .ok()?
                .iter()
                .map(|&x| x.into())
                .collect(),
        ),
        DType::BF16 => Some(
            tensor
                .values::<bf16>()
                .ok()?
                .iter()
                .map(|&x| x.into())
                .collect(),
        ),
        _ => None,
    }
}

/// Floats within the tolerance of ONNX's runner, everything else exactly.
fn compare(found: &Tensor, expected: &Tensor) -> Result<(), String> {
    if (found.dtype(), found.shape()) != (expected.dtype(), expected.shape()) {
        return Err(format!("{found:?}, expected {expected:?}"));
    }
    let (Some(a), Some(b)) = (floats(found), floats(expected)) else {
        return if found == expected {
            Ok(())
        } else {
            Err(format!("{found:?}, expected {expected:?}"))
        };
    };
    for (index, (a, b)) in a.into_iter().zip(b).enumerate() {
        let close = a == b || a.is_nan() && b.is_nan() || (a - b).abs() <= 1e-7 + 1e-3 * b.abs();
        if !close {
            return Err(format!("element {index} is {a}, expected {b}"));
        }
    }
    Ok(())
}

fn run(name: &str, folder: &BTreeMap<String, Vec<u8>>, again: bool) -> Result<(), String> {
    let model = folder.get("model.onnx").ok_or("no model")?;
    let mut graph = import_bytes(model.clone(), None, &ImportOptions::default())
        .map_err(|error| error.to_string())?;
    if again {
        let bytes = export(&graph, &ExportOptions::default()).map_err(|error| error.to_string())?;
        onnx_support::keep(&format!("{}.onnx", name.replace('/', "+")), &bytes);
        graph = import_bytes(bytes, None, &ImportOptions::default())
            .map_err(|error| format!("exported: {error}"))?;
    }
    octofold_ir::verify(&graph).map_err(|error| error.to_string())?;
    let given = tensors(folder, "input")?;
    let names: Vec<String> = graph
        .inputs()
        .iter()
        .map(|&id| graph.value(id).name().to_owned())
        .collect();
    let inputs: Vec<(&str, Tensor)> = names.iter().map(String::as_str).zip(given).collect();
    let found = interpret(&graph, &inputs).map_err(|error| error.to_string())?;
    let expected = tensors(folder, "output")?;
    if found.len() != expected.len() {
        return Err(format!(
            "{} outputs, expected {}",
            found.len(),
            expected.len()
        ));
    }
    for (output, (found, expected)) in graph.outputs().iter().zip(found.iter().zip(&expected)) {
        compare(found, expected).map_err(|error| format!("{}: {error}", output.name))?;
    }
    Ok(())
}

#[test]
fn the_interpreter_passes_the_tests_of_onnx() {
    let folders = files();
    for (tier, at_least) in PASSED {
        let list = std::fs::read_to_string(conformance(&format!("{tier}.txt"))).unwrap();
        let names: Vec<&str> = list.split_whitespace().collect();
        let mut failures = Vec::new();
        for name in &names {
            let folder = &folders[*name];
            // As it stands, and after it was written and read again.
            for again in [false, true] {
                let result = std::panic::catch_unwind(|| run(name, folder, again))
                    .unwrap_or_else(|_| Err("PANIC".to_owned()));
                if let Err(error) = result {
                    failures.push(format!(
                        "{name}{}: {error}",
                        if again { " (again)" } else { "" }
                    ));
                    break;
                }
            }
        }
        let passed = names.len() - failures.len();
        // `cargo test` shows a report only of what fails; the folder that OCTOFOLD_REPORT names gets them all.
        if let Some(path) = std::env::var_os("OCTOFOLD_REPORT") {
            let report = format!("{passed} of {}\n{}\n", names.len(), failures.join("\n"));
            std::fs::write(Path::new(&path).join(tier), report).unwrap();
        }
        assert!(
            passed >= at_least,
            "{tier}: {passed} of {} passed\n{}",
            names.len(),
            failures.join("\n")
        );
    }
}
