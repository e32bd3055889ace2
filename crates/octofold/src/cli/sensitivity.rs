//! `octofold sensitivity`: which layers cost the accuracy of a quantized model.

use std::num::NonZeroUsize;
use std::path::PathBuf;

use anyhow::{Result, bail};
use clap::{Args, ValueEnum};
use octofold::SensitivityOptions;
use octofold::calibrate::{Score, TopK};

use crate::cli::eval::top_k;
use crate::cli::limits::load;
use crate::cli::output::progress_of_models;
use crate::cli::quantization::Quantization;
use crate::cli::source::Execution;

#[derive(Clone, Copy, ValueEnum)]
enum Rank {
    /// By what leaving the layer float gains.
    Without,
    /// By the error of the layer alone.
    Alone,
}

impl From<Rank> for octofold::Rank {
    fn from(rank: Rank) -> Self {
        match rank {
            Rank::Without => Self::Without,
            Rank::Alone => Self::Alone,
        }
    }
}

#[derive(Args)]
pub(crate) struct Sensitivity {
    /// The float model.
    model: PathBuf,
    /// The data to compare on; the calibration data by default.
    #[arg(long)]
    data: Option<PathBuf>,
    /// The array that holds the classes, to rank by accuracy.
    #[arg(long)]
    labels: Option<String>,
    /// The metric: top1, top5, ….
    #[arg(long, default_value = "top1", requires = "labels")]
    metric: String,
    /// The score that ranks.
    #[arg(long, value_enum, default_value_t = Rank::Without)]
    rank: Rank,
    /// The layers or modules to try; all layers by default.
    #[arg(long, num_args = 1.., value_name = "NAME")]
    layers: Vec<String>,
    /// Print the names of the N most sensitive layers only, one a line, for --exclude.
    #[arg(long, value_name = "N", conflicts_with = "json")]
    worst: Option<NonZeroUsize>,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    quantization: Quantization,
    #[command(flatten)]
    execution: Execution,
}

impl Sensitivity {
    pub(crate) fn execute(&self) -> Result<()> {
        let found = self.sensitivity()?;
        for warning in &found.warnings {
            tracing::warn!("{warning}");
        }
        if self.json {
            println!("{}", serde_json::to_string(&found)?);
            return Ok(());
        }
        if let Some(worst) = self.worst {
            for layer in found.layers.iter().take(worst.get()) {
                println!("{}", layer.name);
            }
            return Ok(());
        }
        self.print(&found);
        Ok(())
    }

    fn sensitivity(&self) -> Result<octofold::Sensitivity> {
        let Some(calibration) = &self.quantization.calibrate else {
            bail!("sensitivity needs calibration data: --calibrate DATA");
        };
        let k = top_k(&self.metric)?;
        let recipe = self.quantization.variants()?;
        let model = load(&self.model)?;
        let open = |path| self.quantization.data.open(path, model.inputs());
        let data = open(self.data.as_ref().unwrap_or(calibration))?;
        let labels = self.labels.as_ref().map(|array| data.labels(array));
        let options = SensitivityOptions {
            top: labels.transpose()?.map(|labels| TopK { k, labels }),
            rank: self.rank.into(),
            layers: self.layers.clone(),
            session: self.execution.session()?,
        };
        let bar = progress_of_models("trying");
        let found = octofold::sensitivity(
            &model,
            &recipe,
            &open(calibration)?,
            &data,
            options,
            |done, total| {
                bar.set_length(total as u64);
                bar.set_position(done as u64);
            },
        )?;
        bar.finish_and_clear();
        Ok(found)
    }

    fn print(&self, found: &octofold::Sensitivity) {
        match (found.whole.metric, found.float.metric) {
            (Some(whole), Some(float)) => println!(
                "whole model quantized: {} dB, {} {} %; float: {} %",
                decibel(&found.whole),
                self.metric,
                percent(whole),
                percent(float)
            ),
            _ => println!(
                "whole model quantized: {} dB against float",
                decibel(&found.whole)
            ),
        }
        let mut rows = vec![self.head(found)];
        rows.extend(found.layers.iter().enumerate().map(|(index, layer)| {
            let mut row = vec![(index + 1).to_string()];
            row.extend([&layer.name, &layer.operator].map(Clone::clone));
            let scores = [&layer.alone, &layer.without];
            row.extend(scores.map(decibel));
            row.extend(
                scores
                    .into_iter()
                    .filter_map(|score| score.metric)
                    .map(percent),
            );
            row
        }));
        let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max();
        let widths: Vec<usize> = (0..rows[0].len()).filter_map(width).collect();
        for row in &rows {
            let cells = row.iter().zip(&widths).enumerate();
            let cells: Vec<String> = cells
                .map(|(column, (cell, &width))| match column {
                    // Words are aligned left, numbers right.
                    1 | 2 => format!("{cell:<width$}"),
                    _ => format!("{cell:>width$}"),
                })
                .collect();
            println!("{}", cells.join("  "));
        }
    }

    fn head(&self, found: &octofold::Sensitivity) -> Vec<String> {
        let names = ["rank", "layer", "operator", "alone dB", "without dB"];
        let mut head = names.map(str::to_owned).to_vec();
        if found.whole.metric.is_some() {
            head.extend(["alone", "without"].map(|kind| format!("{} {kind} %", self.metric)));
        }
        head
    }
}

fn decibel(score: &Score) -> String {
    score
        .sqnr_db
        .map_or("equal".to_owned(), |db| format!("{db:.2}"))
}

fn percent(value: f64) -> String {
    format!("{:.2}", 100.0 * value)
}
