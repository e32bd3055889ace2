//! `octofold quantize`: a model to standard ONNX with QuantizeLinear and DequantizeLinear.

use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use clap::Args;
use octofold::Summary;

use crate::cli::limits::load;
use crate::cli::quantization::Quantization;
use crate::cli::source::Execution;
use crate::cli::summary::print_summary;

#[derive(Args)]
pub(crate) struct Quantize {
    /// The float model.
    model: PathBuf,
    /// The model to write.
    #[arg(short, long, value_name = "OUT.onnx")]
    pub(crate) output: PathBuf,
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
        if !self.quantization.is_wanted()? {
            bail!("neither calibration data nor an algorithm was given; add --calibrate DATA");
        }
        let model = load(&self.model)?;
        let quantized = self
            .quantization
            .quantize(&model, &self.execution, self.explain)
            .with_context(|| self.model.display().to_string())?;
        quantized.export(&self.output)?;
        let plan = quantized.compile()?;
        let summary = Summary::new(&model.graph, &plan)?;
        let bytes = octofold::constant_bytes(&quantized.reference);
        print_summary(&Summary { bytes, ..summary }, &self.output);
        Ok(())
    }
}
