//! `octofold test`: ONNX backend tests.
//!
//! Most tests of ONNX are a folder: `model.onnx`, and `test_data_set_N` with `input_N.pb` and `output_N.pb`. The light networks are two files in one
//! folder, `X.onnx` and `X_output_0.pb`. Their inputs are not recorded: an input of `n` elements is always `0, 1/n, 2/n, …`.

use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail, ensure};
use clap::Args;
use octofold::Model;
use octofold::ir::onnx::tensor_from_bytes;
use octofold::ir::{Graph, TensorType};
use octofold::runtime::{Session, SessionOptions};
use octofold::tensor::file::{read_limited, read_text};
use octofold::tensor::{DType, Tensor};
use serde::Deserialize;

use crate::cli::limits::limits;
use crate::cli::source::compiled_graph;

#[derive(Args)]
pub(crate) struct Test {
    /// Folders that hold `model.onnx` and `test_data_set_*` or `X.onnx` and `X_output_0.pb`, folders of such folders, or one `X.onnx`.
    #[arg(required = true)]
    folders: Vec<PathBuf>,
    /// Turn all inputs but the first into constants before compiling.
    #[arg(long)]
    freeze: bool,
}

/// The tolerance of a folder: its `data.json`.
#[derive(Deserialize)]
#[serde(default)]
struct Tolerance {
    rtol: f64,
    atol: f64,
}

impl Default for Tolerance {
    fn default() -> Self {
        Self {
            rtol: 1e-3,
            atol: 1e-7,
        }
    }
}

/// A model and its test data.
struct Case {
    /// Its name in reports.
    name: PathBuf,
    model: PathBuf,
    sets: Vec<Set>,
    tolerance: Tolerance,
}

/// Inputs and outputs that belong together.
struct Set {
    /// What the files begin with: a folder's `…/test_data_set_0/`, or `…/X_`.
    prefix: String,
    /// Whether the inputs are recorded.
    inputs: bool,
}

impl Test {
    pub(crate) fn execute(&self) -> Result<()> {
        let mut cases = Vec::new();
        let mut entered = BTreeSet::new();
        for folder in &self.folders {
            collect(folder, &mut entered, &mut cases)?;
        }
        let (mut passed, mut failed) = (0, 0);
        for case in &cases {
            match case.run(self.freeze) {
                Ok(()) => passed += 1,
                Err(error) => {
                    failed += 1;
                    println!("{}: {error:#}", case.name.display());
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

/// The tests at or below a path, in the order of their names. A folder is entered once, whatever links say.
fn collect(path: &Path, entered: &mut BTreeSet<PathBuf>, cases: &mut Vec<Case>) -> Result<()> {
    let whole = path.canonicalize();
    if !entered.insert(whole.with_context(|| path.display().to_string())?) {
        return Ok(());
    }
    if path.join("model.onnx").is_file() {
        cases.push(Case::folder(path)?);
        return Ok(());
    }
    if path.is_file() {
        let case = Case::light(path);
        cases.push(case.with_context(|| format!("{}: no test", path.display()))?);
        return Ok(());
    }
    let entries = std::fs::read_dir(path).with_context(|| path.display().to_string())?;
    let mut paths: Vec<PathBuf> = entries
        .filter_map(|entry| entry.ok().map(|entry| entry.path()))
        .collect();
    paths.sort();
    for path in paths {
        if path.is_dir() {
            collect(&path, entered, cases)?;
        } else {
            cases.extend(Case::light(&path));
        }
    }
    Ok(())
}

impl Case {
    /// A folder with `model.onnx`.
    fn folder(folder: &Path) -> Result<Self> {
        let prefixes = (0..).map(|index| folder.join(format!("test_data_set_{index}")));
        let sets = prefixes.take_while(|set| set.is_dir()).map(|set| Set {
            prefix: format!("{}{}", set.display(), std::path::MAIN_SEPARATOR),
            inputs: true,
        });
        let tolerance = match read_text(
            &folder.join("data.json"),
            ("config-bytes", limits().config_bytes),
        ) {
            Ok(text) => serde_json::from_str(&text).context("data.json")?,
            Err(error) if error.kind() == ErrorKind::NotFound => Tolerance::default(),
            Err(error) => return Err(error).context("data.json"),
        };
        Ok(Self {
            name: folder.to_owned(),
            model: folder.join("model.onnx"),
            sets: sets.collect(),
            tolerance,
        })
    }

    /// A model with its outputs in the same folder.
    fn light(model: &Path) -> Option<Self> {
        let prefix = format!("{}_", model.to_str()?.strip_suffix(".onnx")?);
        Path::new(&format!("{prefix}output_0.pb"))
            .is_file()
            .then(|| Self {
                name: model.to_owned(),
                model: model.to_owned(),
                sets: vec![Set {
                    prefix,
                    inputs: false,
                }],
                tolerance: Tolerance::default(),
            })
    }

    fn run(&self, freeze: bool) -> Result<()> {
        let model = Model::load(&self.model)?;
        ensure!(!self.sets.is_empty(), "the folder has no test_data_set_0");
        for (index, set) in self.sets.iter().enumerate() {
            set.run(&model.graph, freeze, &self.tolerance)
                .with_context(|| format!("data set {index}"))?;
        }
        Ok(())
    }
}

impl Set {
    fn file(&self, what: &str, index: usize) -> PathBuf {
        PathBuf::from(format!("{}{what}_{index}.pb", self.prefix))
    }

    fn run(&self, graph: &Graph, freeze: bool, tolerance: &Tolerance) -> Result<()> {
        let mut inputs = Vec::new();
        for (index, &id) in graph.inputs().iter().enumerate() {
            let value = graph.value(id);
            let tensor = if self.inputs {
                read_tensor(&self.file("input", index))?
            } else {
                ramp(value.ty()).with_context(|| format!("input `{}`", value.name()))?
            };
            inputs.push((value.name().to_owned(), tensor));
        }
        let mut graph = graph.clone();
        if freeze {
            for (name, tensor) in inputs.drain(1.min(inputs.len())..) {
                graph = graph.with_frozen_input(&name, tensor)?;
            }
        }
        let mut session = Session::new(
            compiled_graph(&graph)?.into(),
            SessionOptions {
                threads: 1,
                ..SessionOptions::DEFAULT
            },
        )?;
        let inputs: Vec<(&str, Tensor)> = inputs
            .iter()
            .map(|(name, tensor)| (name.as_str(), tensor.clone()))
            .collect();
        let outputs = session.run(&inputs)?;
        for (index, (name, found)) in outputs.iter().enumerate() {
            let path = self.file("output", index);
            if path.exists() {
                compare(found, &read_tensor(&path)?, tolerance)
                    .with_context(|| format!("output `{name}`"))?;
            }
        }
        Ok(())
    }
}

/// `0, 1/n, 2/n, …`, the input of the light networks.
fn ramp(ty: &TensorType) -> Result<Tensor> {
    let shape = ty.known_shape().context("the shape is not fixed")?;
    ensure!(
        ty.dtype == DType::F32,
        "elements of type {}, expected f32",
        ty.dtype
    );
    let n: usize = shape.iter().product();
    let values: Vec<f32> = (0..n).map(|i| (i as f64 / n as f64) as f32).collect();
    Ok(Tensor::new(shape, values)?)
}

fn read_tensor(path: &Path) -> Result<Tensor> {
    let limit = ("file-bytes", limits().import.budget.file_bytes);
    let bytes = read_limited(path, limit).with_context(|| path.display().to_string())?;
    Ok(tensor_from_bytes(bytes.into())?.1)
}

/// Floats within the tolerance, everything else equal.
fn compare(found: &Tensor, expected: &Tensor, tolerance: &Tolerance) -> Result<()> {
    ensure!(
        found.dtype() == expected.dtype(),
        "{} instead of {}",
        found.dtype(),
        expected.dtype()
    );
    ensure!(
        found.shape() == expected.shape(),
        "shape {:?} instead of {:?}",
        found.shape(),
        expected.shape()
    );
    let (Some(found_values), Some(expected_values)) = (reals(found), reals(expected)) else {
        ensure!(found == expected, "{found:?} instead of {expected:?}");
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
