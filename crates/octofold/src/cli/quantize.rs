//! `octofold quantize`: a model to standard ONNX with QuantizeLinear and DequantizeLinear.

use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use clap::Args;
use octofold::ir::onnx::{ExportOptions, export_to_file};

use crate::cli::quantization::Quantization;
use crate::cli::source::Execution;

#[derive(Args)]
pub(crate) struct Quantize {
    /// The float model.
    model: PathBuf,
    /// The model to write.
    #[arg(short, long, value_name = "OUT.onnx")]
    output: PathBuf,
    /// Print the fate of every node.
    #[arg(long)]
    explain: bool,
    #[command(flatten)]
    quantization: Quantization,
    #[command(flatten)]
    execution: Execution,
}

impl Quantize {
    pub(crate) fn execute(&self) -> Result<()> {
        let Some(algorithm) = self.quantization.algorithm()? else {
            bail!("say how to quantize: --calibrate DATA for static quantization, or --algorithm");
        };
        let reference = self.quantization.reference(
            self.execution.limits.load(&self.model)?,
            algorithm,
            &self.execution,
            self.explain,
        );
        let reference = reference.with_context(|| self.model.display().to_string())?;
        export_to_file(&reference, &self.output, &ExportOptions::default())?;
        Ok(())
    }
}
