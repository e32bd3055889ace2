//! Values that sessions of a plan keep between runs.

use std::str::FromStr;

use octofold_tensor::Tensor;

use crate::CodegenError;

/// A value that sessions of a plan keep between runs: what an output gives in one run is what an input reads in the next one. The graph stays a pure
/// function. Written `OUTPUT=INPUT`.
#[derive(Clone, Debug, PartialEq)]
pub struct State {
    /// The name of the output.
    pub output: String,
    /// The name of the input, which is that of the state. Its sizes are known numbers, and those of the output.
    pub input: String,
    /// What the first run reads, of the type and shape of the input; zeros if `None`.
    pub initial: Option<Tensor>,
}

impl State {
    /// The key of a model's metadata under which the model declares states: `OUTPUT=INPUT`, one a line.
    pub const METADATA: &str = "octofold.states";

    /// The states that a model declares in its metadata.
    ///
    /// # Errors
    /// [`CodegenError::State`] for a line that is no state.
    pub fn declared(text: &str) -> Result<Vec<Self>, CodegenError> {
        let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
        lines.map(str::parse).collect()
    }
}

impl FromStr for State {
    type Err = CodegenError;

    fn from_str(text: &str) -> Result<Self, CodegenError> {
        match text.split_once('=') {
            Some((output, input)) if !output.is_empty() && !input.is_empty() => Ok(Self {
                output: output.to_owned(),
                input: input.to_owned(),
                initial: None,
            }),
            _ => Err(CodegenError::State {
                state: text.to_owned(),
                reason: "is not OUTPUT=INPUT".to_owned(),
            }),
        }
    }
}
