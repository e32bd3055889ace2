//! `octofold bench`: how long a plan or model takes.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::Result;
use clap::Args;
use octofold::tensor::Tensor;

use crate::cli::source::{Execution, Shapes, read_inputs, select, zero_inputs};

/// Runs before the clock starts.
const WARM_UP: usize = 3;
/// The least number of timed runs.
const LEAST_RUNS: usize = 5;

#[derive(Args)]
pub(crate) struct Bench {
    /// The plan or model.
    model: PathBuf,
    /// The inputs: an archive, or NAME=FILE.npy; zeros when absent, with open dimensions of 1 where `--shape` gives none.
    #[arg(long, num_args = 1.., value_name = "IN.npz")]
    input: Vec<String>,
    /// How long to run.
    #[arg(long, default_value_t = 2.0)]
    seconds: f64,
    /// List the steps with their times.
    #[arg(long)]
    profile: bool,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    shapes: Shapes,
    #[command(flatten)]
    execution: Execution,
}

impl Bench {
    pub(crate) fn execute(&self) -> Result<()> {
        let began = Instant::now();
        let mut session = self.shapes.session_of(&self.model, &self.execution)?;
        let load_ms = began.elapsed().as_secs_f64() * 1e3;
        let inputs = if self.input.is_empty() {
            let shapes = self.shapes.input_shapes(session.plan())?;
            zero_inputs(session.plan(), &shapes)?
        } else {
            read_inputs(&self.input)?
        };
        let inputs: Vec<(&str, Tensor)> = select(session.plan(), &inputs);
        for _ in 0..WARM_UP {
            session.run(&inputs)?;
        }
        session.set_profiling(self.profile);
        let mut times = Vec::new();
        let end = Instant::now() + Duration::from_secs_f64(self.seconds.max(0.0));
        while times.len() < LEAST_RUNS || Instant::now() < end {
            let began = Instant::now();
            session.run(&inputs)?;
            times.push(began.elapsed().as_secs_f64() * 1e3);
        }
        times.sort_by(f64::total_cmp);
        let runs = times.len();
        let median = (times[(runs - 1) / 2] + times[runs / 2]) / 2.0;
        let mut result = serde_json::json!({
            "median_ms": median,
            "min_ms": times[0],
            "p90_ms": times[(runs * 9 / 10).min(runs - 1)],
            "runs": runs,
            "load_ms": load_ms,
            "peak_rss_mb": peak_rss_mb(),
            "threads": session.threads(),
            "backend": session.plan().engine().name(),
            "isa": session.isa().to_string(),
        });
        let steps = session
            .profile()
            .map(|profile| step_table(profile, runs as u64));
        if self.json {
            if let Some(steps) = steps {
                result["steps"] = serde_json::Value::Array(steps);
            }
            println!("{result}");
            return Ok(());
        }
        println!(
            "median {median:.3} ms, min {:.3} ms, {runs} runs, {} thread(s), {}",
            times[0],
            session.threads(),
            session.isa()
        );
        for step in steps.unwrap_or_default() {
            let text = |key: &str| step[key].as_str().unwrap_or_default().to_owned();
            let number = |key: &str| step[key].as_f64().unwrap_or_default();
            println!(
                "{:8.3} ms {:5.1} % {:7.1} GOP/s  {:24} {:20} {}",
                number("ms"),
                100.0 * number("share"),
                number("gops"),
                text("kernel"),
                text("shape"),
                text("name")
            );
        }
        Ok(())
    }
}

/// The mean time of each step, its share, and its speed: two operations a multiply-accumulate.
fn step_table(profile: &octofold::runtime::Profile, runs: u64) -> Vec<serde_json::Value> {
    let total: f64 = profile.steps.iter().map(|step| step.mean_ms(runs)).sum();
    let steps = profile.steps.iter().map(|step| {
        let ms = step.mean_ms(runs);
        serde_json::json!({
            "name": step.name,
            "kernel": step.kernel.to_string(),
            "shape": format!("{:?}", step.shape),
            "ms": ms,
            "share": if total > 0.0 { ms / total } else { 0.0 },
            "gops": 2.0 * step.gmacs(),
        })
    });
    steps.collect()
}

/// The largest resident memory of this process so far, in megabytes; 0 where the system does not tell.
fn peak_rss_mb() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kilobytes = line
        .and_then(|line| line.split_whitespace().next())
        .and_then(|word| word.parse::<f64>().ok());
    kilobytes.unwrap_or(0.0) / 1024.0
}
