//! `octofold compile`: a model to an executable plan.

use std::path::PathBuf;

use anyhow::{Result, bail};
use clap::Args;
use octofold::Model;

use crate::cli::quantization::Quantization;
use crate::cli::source::{Execution, Shapes};

#[derive(Args)]
pub(crate) struct Compile {
    /// The model: float, or quantized by anyone.
    model: PathBuf,
    /// The plan to write.
    #[arg(short, long, value_name = "PLAN.oct")]
    output: PathBuf,
    /// The processor to compile for; x86 plans serve every x86 instruction set.
    #[arg(long, default_value = "native")]
    target: String,
    #[command(flatten)]
    shapes: Shapes,
    #[command(flatten)]
    quantization: Quantization,
    #[command(flatten)]
    execution: Execution,
}

impl Compile {
    pub(crate) fn execute(&self) -> Result<()> {
        match self.target.as_str() {
            "native" | "scalar" | "avx2" | "avx512vnni" => {}
            other => bail!(
                "--target {other}: there are no kernels for it; there are native, scalar, avx2 and avx512vnni"
            ),
        }
        let model = self.shapes.fix(Model::load(&self.model)?)?;
        let mut graph = match self.quantization.algorithm()? {
            None if self.quantization.is_given()? => bail!(
                "the flags or the configuration say how to quantize, but nothing says to: --calibrate DATA for static quantization"
            ),
            None => model.graph,
            Some(algorithm) => self
                .quantization
                .reference(model, algorithm, &self.execution)?,
        };
        self.quantization.accept_engine(&mut graph)?;
        let backend = self.quantization.backend()?;
        let (lowered, _) = octofold::lower_for(&graph, &backend)?;
        octofold::compile(&lowered)?.save(&self.output)?;
        Ok(())
    }
}
