//! `octofold check`: what would be quantized, what not and why, and the names by which each node can be addressed.

use std::path::PathBuf;

use anyhow::Result;
use clap::Args;

use crate::cli::quantization::{Quantization, load_model};

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
    pub(crate) fn execute(&self) -> Result<()> {
        let prepared = self.quantization.prepare(load_model(&self.model, &[])?)?;
        if self.json {
            println!("{}", serde_json::json!({ "nodes": prepared.fates }));
            return Ok(());
        }
        for fate in &prepared.fates {
            let word = if fate.quantized { "int8 " } else { "float" };
            println!(
                "{word} {} ({}): {}",
                fate.node, fate.operator, fate.explanation
            );
            println!("      names: {}", fate.addresses.join(", "));
        }
        let quantized = prepared.fates.iter().filter(|fate| fate.quantized).count();
        println!(
            "{quantized} of {} nodes would run on integers",
            prepared.fates.len()
        );
        Ok(())
    }
}
