//! `octofold run`: a plan or model on inputs.

use std::path::PathBuf;

use anyhow::Result;
use clap::Args;
use octofold::tensor::npy;

use crate::cli::output::write_whole;
use crate::cli::source::{Execution, Shapes, read_inputs, select};

#[derive(Args)]
pub(crate) struct Run {
    /// The plan or model.
    model: PathBuf,
    /// The inputs: an archive, or NAME=FILE.npy.
    #[arg(long, required = true, num_args = 1.., value_name = "IN.npz|NAME=FILE.npy")]
    input: Vec<String>,
    /// The archive of outputs to write.
    #[arg(long, value_name = "OUT.npz")]
    pub(crate) output: PathBuf,
    #[command(flatten)]
    shapes: Shapes,
    #[command(flatten)]
    execution: Execution,
}

impl Run {
    pub(crate) fn execute(&self) -> Result<()> {
        let plan = self.shapes.plan_of(&self.model)?;
        let mut session = self.shapes.session(plan, &self.model, &self.execution)?;
        let inputs = read_inputs(&self.input)?;
        let outputs = session.run(&select(session.plan(), &inputs))?;
        write_whole(&self.output, |file| Ok(npy::write_npz(file, &outputs)?))
    }
}
