//! `octofold calibrate`: what observers see of calibration data, as a file for `--statistics`.

use std::io::Write;
use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::Args;
use octofold::StatisticsFile;

use crate::cli::limits::load;
use crate::cli::output::write_whole;
use crate::cli::quantization::{Quantization, prepare};
use crate::cli::source::Execution;

#[derive(Args)]
pub(crate) struct Calibrate {
    /// The float model.
    model: PathBuf,
    /// The file to write.
    #[arg(short, long, value_name = "STATS.json")]
    pub(crate) output: PathBuf,
    #[command(flatten)]
    quantization: Quantization,
    #[command(flatten)]
    execution: Execution,
}

impl Calibrate {
    pub(crate) fn execute(&self) -> Result<()> {
        let recipe = self.quantization.recipe()?;
        let prepared = prepare(&recipe, &load(&self.model)?)
            .with_context(|| self.model.display().to_string())?;
        let execution = &self.execution;
        let statistics = self
            .quantization
            .statistics(&recipe, &prepared, execution)?;
        let file = StatisticsFile::new(&prepared, statistics);
        write_whole(&self.output, |output| {
            Ok(output.write_all(file.to_json().as_bytes())?)
        })
    }
}
