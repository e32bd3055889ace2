//! `octofold check`: what would be quantized, what not and why, and the names by which each node can be addressed.

use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::Args;

use crate::cli::limits::load;
use crate::cli::quantization::{Quantization, prepare, print_fate};

#[derive(Args)]
pub(crate) struct Check {
    /// The float model.
    model: PathBuf,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    quantization: Quantization,
}

impl Check {
    /// Prints a line a node; with details, its names and its QConfig too.
    pub(crate) fn execute(&self, details: bool) -> Result<()> {
        let recipe = self.quantization.recipe()?;
        let prepared = prepare(&recipe, &load(&self.model)?)
            .with_context(|| self.model.display().to_string())?;
        if self.json {
            let warnings = &prepared.warnings;
            println!(
                "{}",
                serde_json::json!({ "nodes": prepared.fates, "warnings": warnings })
            );
            return Ok(());
        }
        for fate in &prepared.fates {
            print_fate(fate);
            if !details {
                continue;
            }
            println!("      names: {}", fate.addresses.join(", "));
            if let Some(qconfig) = &fate.qconfig {
                println!("      qconfig: {qconfig}");
            }
        }
        let quantized = prepared.fates.iter().filter(|fate| fate.integer).count();
        println!(
            "{quantized} of {} nodes would run on integers",
            prepared.fates.len()
        );
        Ok(())
    }
}
