//! `octofold check`: what would be quantized, what not and why, and the names by which each node can be addressed.

use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::Args;

use crate::cli::limits::load;
use crate::cli::quantization::{Quantization, log_warnings, print_fate};

#[derive(Args)]
pub(crate) struct Check {
    /// The model: float, or quantized by anyone.
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
        let checked = recipe
            .check(&load(&self.model)?)
            .with_context(|| self.model.display().to_string())?;
        log_warnings(&checked.warnings);
        if self.json {
            let warnings = &checked.warnings;
            println!(
                "{}",
                serde_json::json!({ "nodes": checked.fates, "warnings": warnings })
            );
            return Ok(());
        }
        for fate in &checked.fates {
            print_fate(fate);
            if !details {
                continue;
            }
            println!("      names: {}", fate.addresses.join(", "));
            if let Some(qconfig) = &fate.qconfig {
                println!("      qconfig: {qconfig}");
            }
        }
        let integer = checked.fates.iter().filter(|fate| fate.integer).count();
        let nodes = checked.fates.len();
        println!("{integer} of {nodes} nodes would run on integers");
        Ok(())
    }
}
