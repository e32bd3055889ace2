//! `octofold eval`: the accuracy of a plan or model on labelled data.

use std::path::PathBuf;

use anyhow::{Result, anyhow};
use clap::Args;
use octofold::calibrate::Accuracy;
use octofold::calibrate::accuracy::inputs_of;

use crate::cli::output::progress;
use crate::cli::source::{DataArguments, Execution, session_of};

#[derive(Args)]
pub(crate) struct Eval {
    /// The plan or model.
    model: PathBuf,
    /// The data: an archive, or a folder of archives or images.
    #[arg(long)]
    data: PathBuf,
    /// The array that holds the classes.
    #[arg(long)]
    labels: String,
    /// The metric: top1, top5, ….
    #[arg(long, default_value = "top1")]
    metric: String,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    arguments: DataArguments,
    #[command(flatten)]
    execution: Execution,
}

impl Eval {
    pub(crate) fn execute(&self) -> Result<()> {
        let k = top_k(&self.metric)?;
        let mut session = session_of(&self.model, &self.execution)?;
        let inputs = octofold::inputs_of_plan(session.plan());
        let data = self.arguments.open(&self.data, inputs)?;
        let labels = data.labels(&self.labels)?;
        let mut accuracy = Accuracy::top(k);
        let bar = progress("evaluating");
        data.for_each(|batch, samples| {
            let outputs = session.run(&inputs_of(&batch))?;
            let (_, scores) = outputs
                .first()
                .ok_or_else(|| anyhow!("the model has no output"))?;
            accuracy.add(scores, &labels)?;
            bar.inc(samples as u64);
            Ok::<(), anyhow::Error>(())
        })?;
        bar.finish_and_clear();
        accuracy.check_labels(&labels)?;
        let (value, samples) = (accuracy.value(), accuracy.correct.len());
        if self.json {
            println!(
                "{}",
                serde_json::json!({ "metric": self.metric, "value": value, "samples": samples })
            );
        } else {
            println!(
                "{}: {:.2} % of {samples} samples",
                self.metric,
                100.0 * value
            );
        }
        Ok(())
    }
}

/// The number of best classes that count by a metric.
pub(crate) fn top_k(metric: &str) -> Result<usize> {
    let k = metric.strip_prefix("top").and_then(|k| k.parse().ok());
    k.filter(|&k: &usize| k > 0)
        .ok_or_else(|| anyhow!("--metric {metric}: there are top1, top5 and other topN"))
}
