//! `octofold test`: ONNX backend test folders.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail};
use clap::Args;
use octofold::Model;
use octofold::ir::Graph;
use octofold::ir::onnx::tensor_from_bytes;
use octofold::runtime::{Session, SessionOptions};
use octofold::tensor::{DType, Tensor};
use serde::Deserialize;

#[derive(Args)]
pub(crate) struct Test {
    /// Folders that hold `model.onnx` and `test_data_set_*`, or folders of such folders.
    #[arg(required = true)]
    folders: Vec<PathBuf>,
    /// Turn all inputs but the first into constants before compiling.
    #[arg(long)]
    freeze: bool,
}

/// The tolerance of a folder: its `data.json`.
#[derive(Deserialize)]
struct Tolerance {
    #[serde(default = "default_rtol")]
    rtol: f64,
    #[serde(default = "default_atol")]
    atol: f64,
}

fn default_rtol() -> f64 {
    1e-3
}

fn default_atol() -> f64 {
    1e-7
}

impl Test {
    pub(crate) fn execute(&self) -> Result<()> {
        let mut cases = Vec::new();
        for folder in &self.folders {
            collect(folder, &mut cases)?;
        }
        let (mut passed, mut failed) = (0, 0);
        for case in &cases {
            match run_case(case, self.freeze) {
                Ok(()) => passed += 1,
                Err(error) => {
                    failed += 1;
                    println!("{}: {error:#}", case.display());
                }
            }
        }
        println!("{passed} passed, {failed} failed");
        if failed > 0 {
            bail!("{failed} tests failed");
        }
        Ok(())
    }
}

/// The test folders at or below a folder, in the order of their names.
fn collect(folder: &Path, cases: &mut Vec<PathBuf>) -> Result<()> {
    if folder.join("model.onnx").is_file() {
        cases.push(folder.to_owned());
        return Ok(());
    }
    let entries = std::fs::read_dir(folder).with_context(|| folder.display().to_string())?;
    let mut folders: Vec<PathBuf> = entries
        .filter_map(|entry| entry.ok().map(|entry| entry.path()))
        .filter(|path| path.is_dir())
        .collect();
    folders.sort();
    folders.iter().try_for_each(|folder| collect(folder, cases))
}

fn run_case(folder: &Path, freeze: bool) -> Result<()> {
    let model = Model::load(&folder.join("model.onnx"))?;
    let tolerance = match std::fs::read_to_string(folder.join("data.json")) {
        Ok(text) => serde_json::from_str(&text)?,
        Err(_) => Tolerance {
            rtol: default_rtol(),
            atol: default_atol(),
        },
    };
    let mut sets = 0;
    for index in 0.. {
        let set = folder.join(format!("test_data_set_{index}"));
        if !set.is_dir() {
            break;
        }
        sets += 1;
        run_set(&model.graph, &set, freeze, &tolerance)
            .with_context(|| format!("data set {index}"))?;
    }
    anyhow::ensure!(sets > 0, "the folder has no test_data_set_0");
    Ok(())
}

fn run_set(graph: &Graph, set: &Path, freeze: bool, tolerance: &Tolerance) -> Result<()> {
    let names: Vec<String> = graph
        .inputs()
        .iter()
        .map(|&id| graph.value(id).name().to_owned())
        .collect();
    let mut inputs = Vec::new();
    for (index, name) in names.iter().enumerate() {
        inputs.push((
            name.clone(),
            read_tensor(&set.join(format!("input_{index}.pb")))?,
        ));
    }
    let mut graph = graph.clone();
    if freeze {
        for (name, tensor) in inputs.drain(1.min(inputs.len())..) {
            graph = graph.with_frozen_input(&name, tensor)?;
        }
    }
    let (lowered, _) = octofold::lower(&graph)?;
    let mut session = Session::new(
        octofold::compile(&lowered)?.into(),
        SessionOptions {
            threads: 1,
            isa: None,
            ..SessionOptions::DEFAULT
        },
    )?;
    let inputs: Vec<(&str, Tensor)> = inputs
        .iter()
        .map(|(name, tensor)| (name.as_str(), tensor.clone()))
        .collect();
    let outputs = session.run(&inputs)?;
    for (index, (name, found)) in outputs.iter().enumerate() {
        let path = set.join(format!("output_{index}.pb"));
        if path.exists() {
            compare(found, &read_tensor(&path)?, tolerance)
                .with_context(|| format!("output `{name}`"))?;
        }
    }
    Ok(())
}

fn read_tensor(path: &Path) -> Result<Tensor> {
    let bytes = std::fs::read(path).with_context(|| path.display().to_string())?;
    Ok(tensor_from_bytes(bytes.into())?.1)
}

/// Floats within the tolerance, everything else equal.
fn compare(found: &Tensor, expected: &Tensor, tolerance: &Tolerance) -> Result<()> {
    anyhow::ensure!(
        found.dtype() == expected.dtype(),
        "{} instead of {}",
        found.dtype(),
        expected.dtype()
    );
    anyhow::ensure!(
        found.shape() == expected.shape(),
        "shape {:?} instead of {:?}",
        found.shape(),
        expected.shape()
    );
    let (Some(found_values), Some(expected_values)) = (reals(found), reals(expected)) else {
        anyhow::ensure!(found == expected, "{found:?} instead of {expected:?}");
        return Ok(());
    };
    for (index, (x, y)) in found_values.iter().zip(&expected_values).enumerate() {
        let close = x == y
            || (x.is_nan() && y.is_nan())
            || (x - y).abs() <= tolerance.atol + tolerance.rtol * y.abs();
        if !close {
            return Err(anyhow!("element {index} is {x} instead of {y}"));
        }
    }
    Ok(())
}

/// The elements of a float tensor.
fn reals(tensor: &Tensor) -> Option<Vec<f64>> {
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
                .values::<octofold::tensor::f16>()
                .ok()?
                .iter()
                .map(|x| x.to_f64())
                .collect(),
        ),
        DType::BF16 => Some(
            tensor
                .values::<octofold::tensor::bf16>()
                .ok()?
                .iter()
                .map(|x| x.to_f64())
                .collect(),
        ),
        _ => None,
    }
}
