//! `octofold compare`: how far a candidate is from its reference on data.

use std::path::PathBuf;

use anyhow::{Result, bail};
use clap::Args;
use octofold::calibrate::accuracy::inputs_of;
use octofold::calibrate::{Comparison, ValueComparison};
use octofold::inputs_of_plan;
use octofold::ir::interpret_with;

use crate::cli::limits::load;
use crate::cli::output::progress;
use crate::cli::source::{DataArguments, Execution, is_plan, session_of};

#[derive(Args)]
pub(crate) struct Compare {
    /// The reference: a plan or model.
    reference: PathBuf,
    /// The candidate: a plan or model.
    candidate: PathBuf,
    /// The data: an archive, or a folder of archives or images.
    #[arg(long)]
    data: PathBuf,
    /// Compare each value that both models have by name; both must be models.
    #[arg(long)]
    per_layer: bool,
    /// Write a page with the table.
    #[arg(long, value_name = "REPORT.html")]
    pub(crate) html: Option<PathBuf>,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    arguments: DataArguments,
    #[command(flatten)]
    execution: Execution,
}

impl Compare {
    pub(crate) fn execute(&self) -> Result<()> {
        let outputs = self.outputs()?;
        let layers = if self.per_layer {
            self.layers()?
        } else {
            Vec::new()
        };
        if let Some(path) = &self.html {
            let page = html(&outputs, &layers);
            crate::cli::output::write_whole(path, |file| {
                Ok(std::io::Write::write_all(file, page.as_bytes())?)
            })?;
        }
        if self.json {
            println!(
                "{}",
                serde_json::json!({ "outputs": outputs, "layers": layers })
            );
            return Ok(());
        }
        for value in outputs.iter().chain(&layers) {
            println!("{}", line(value));
        }
        Ok(())
    }

    fn outputs(&self) -> Result<Vec<ValueComparison>> {
        let mut reference = session_of(&self.reference, &self.execution)?;
        let mut candidate = session_of(&self.candidate, &self.execution)?;
        let data = self
            .arguments
            .open(&self.data, inputs_of_plan(reference.plan()))?;
        let mut comparison = Comparison::default();
        let bar = progress("comparing");
        data.for_each(|batch, samples| {
            let (expected, found) = (
                reference.run(&inputs_of(&batch))?,
                candidate.run(&inputs_of(&batch))?,
            );
            for (name, expected) in &expected {
                if let Some((_, found)) = found.iter().find(|(other, _)| other == name) {
                    comparison.add(name, expected, found);
                }
            }
            bar.inc(samples as u64);
            Ok::<(), anyhow::Error>(())
        })?;
        bar.finish_and_clear();
        Ok(comparison.results())
    }

    /// Every value that both models compute under one name; a quantized value is compared after dequantization.
    fn layers(&self) -> Result<Vec<ValueComparison>> {
        if is_plan(&self.reference) || is_plan(&self.candidate) {
            bail!(
                "--per-layer compares models, whose values have names; a plan has fused them away"
            );
        }
        let mut reference = load(&self.reference)?;
        let candidate = load(&self.candidate)?;
        let data = self.arguments.open(&self.data, reference.inputs())?;
        // Fusing first leaves the values that the candidate has as well.
        octofold::optimize(&mut reference.graph)?;
        let mut comparison = Comparison::default();
        data.for_each(|batch, _| {
            let inputs = inputs_of(&batch);
            let mut expected = std::collections::HashMap::new();
            interpret_with(&reference.graph, &inputs, |id, tensor| {
                expected.insert(reference.graph.value(id).name().to_owned(), tensor.clone());
            })?;
            interpret_with(&candidate.graph, &inputs, |id, tensor| {
                let name = candidate.graph.value(id).name();
                let name = name.strip_suffix("_dequantized").unwrap_or(name);
                let quantized_later = !candidate.graph.value(id).name().ends_with("_dequantized")
                    && candidate
                        .graph
                        .value_named(&format!("{name}_dequantized"))
                        .is_some();
                if let Some(reference) = expected.get(name).filter(|_| !quantized_later) {
                    comparison.add(name, reference, tensor);
                }
            })?;
            Ok::<(), anyhow::Error>(())
        })?;
        Ok(comparison.results())
    }
}

fn line(value: &ValueComparison) -> String {
    let decibel = value
        .sqnr_db
        .map_or("equal".to_owned(), |db| format!("{db:6.2} dB"));
    let cosine = value
        .cosine
        .map_or("-".to_owned(), |cosine| format!("{cosine:.6}"));
    format!(
        "{decibel:>10}  cosine {cosine}  max |d| {:.3e}  {}",
        value.max_abs, value.name
    )
}

fn html(outputs: &[ValueComparison], layers: &[ValueComparison]) -> String {
    let escape = |text: &str| text.replace('&', "&amp;").replace('<', "&lt;");
    let row = |value: &ValueComparison| {
        let decibel = value
            .sqnr_db
            .map_or("equal".to_owned(), |db| format!("{db:.2}"));
        let cosine = value
            .cosine
            .map_or("-".to_owned(), |cosine| format!("{cosine:.6}"));
        format!(
            "<tr><td>{}<td>{decibel}<td>{cosine}<td>{:.3e}\n",
            escape(&value.name),
            value.max_abs
        )
    };
    let rows: String = outputs.iter().chain(layers).map(row).collect();
    format!(
        "<!doctype html><meta charset=utf-8><title>Octofold comparison</title>\n<style>body{{font:14px sans-serif}}td,th{{padding:2px 12px;text-align:left}}</style>\n<table><tr><th>value<th>SQNR dB<th>cosine<th>max |difference|\n{rows}</table>\n"
    )
}
