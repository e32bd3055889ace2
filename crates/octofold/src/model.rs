//! A model as it was imported: what every command and function begins with.

use std::path::Path;

use octofold_calibrate::{DataOptions, DataSet, InputSpec};
use octofold_ir::{Graph, Op, onnx};
use octofold_passes::config::ModelNames;
use octofold_runtime::Plan;
use octofold_tensor::Dim;

use crate::Error;

/// A model as it was imported, with the names by which its operators can be found.
#[derive(Clone, Debug)]
pub struct Model {
    /// The graph, before any pass.
    pub graph: Graph,
    /// The names of its nodes.
    pub names: ModelNames,
}

impl Model {
    /// Reads a model from an ONNX file, or from its text form when the name ends in `.txt` or `.onnxtxt`.
    ///
    /// # Errors
    /// When the file cannot be read or needs what Octofold does not have.
    pub fn load(path: impl AsRef<Path>) -> Result<Self, Error> {
        Self::load_within(path.as_ref(), &onnx::ImportOptions::default())
    }

    /// As [`Model::load`], with other budgets than the default ones.
    ///
    /// # Errors
    /// As [`Model::load`].
    pub fn load_within(path: &Path, options: &onnx::ImportOptions) -> Result<Self, Error> {
        let is_text = path
            .extension()
            .is_some_and(|extension| extension == "txt" || extension == "onnxtxt");
        let graph = if is_text {
            octofold_ir::text::read_file_within(path, options)?
        } else {
            onnx::import(path, options)?
        };
        Ok(Self::new(graph))
    }

    /// A model from a graph before any pass.
    pub fn new(graph: Graph) -> Self {
        Self {
            names: ModelNames::of(&graph),
            graph,
        }
    }

    /// Whether somebody quantized the model: it has quantizers, or operators on integers.
    pub fn is_quantized(&self) -> bool {
        let mut ops = self.graph.node_ids().map(|id| self.graph.node(id).op());
        ops.any(|op| {
            matches!(
                op,
                Op::QuantizeLinear(_)
                    | Op::DequantizeLinear(_)
                    | Op::DynamicQuantizeLinear(_)
                    | Op::MatMulInteger(_)
                    | Op::ConvInteger(_)
            )
        })
    }

    /// What the model takes.
    pub fn inputs(&self) -> Vec<InputSpec> {
        inputs_of(&self.graph)
    }

    /// Data for the model: an archive, or a folder of archives or images. The samples are read when they are asked for.
    ///
    /// # Errors
    /// When the path cannot be read or holds neither archives nor images.
    pub fn data(&self, path: impl AsRef<Path>, options: DataOptions) -> Result<DataSet, Error> {
        Ok(DataSet::open(path.as_ref(), self.inputs(), options)?)
    }
}

/// What a graph takes.
pub fn inputs_of(graph: &Graph) -> Vec<InputSpec> {
    let inputs = graph.inputs().iter().map(|&id| {
        let value = graph.value(id);
        InputSpec {
            name: value.name().to_owned(),
            dtype: value.ty().dtype,
            shape: value.ty().shape.clone().unwrap_or_default(),
        }
    });
    inputs.collect()
}

/// What a plan takes.
pub fn inputs_of_plan(plan: &Plan) -> Vec<InputSpec> {
    let inputs = plan.inputs().map(|input| InputSpec {
        name: input.name.clone(),
        dtype: input.dtype,
        shape: input.shape.clone().unwrap_or_default(),
    });
    inputs.collect()
}

/// Gives an input's symbolic dimensions the sizes of a shape, or one symbol its size: `--shape NAME=1x3x640x640`, `--shape SYMBOL=640`. An input is
/// meant where both have the name.
///
/// # Errors
/// When there is neither, or the shape does not fit the input.
pub fn fix_shape(graph: &Graph, name: &str, shape: &[i64]) -> Result<Graph, Error> {
    let mut inputs = graph.inputs().iter();
    let is_input = inputs.any(|&input| graph.value(input).name() == name);
    if let (false, &[size]) = (is_input, shape) {
        return Ok(graph.with_dimension(name, size)?);
    }
    let known: Vec<Dim> = shape.iter().map(|&size| Dim::Known(size)).collect();
    Ok(graph.with_input_shape(name, &known)?)
}
