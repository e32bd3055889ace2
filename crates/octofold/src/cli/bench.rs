//! `octofold bench`: how long a plan or model takes, and how long it would take at the limits of this machine.

mod peak;
mod profile;

use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result};
use clap::Args;
use octofold::kernels::Isa;
use octofold::kernels::peak::Peak;
use octofold::runtime::Session;
use octofold::tensor::Tensor;
use serde_json::{Value, json};

use crate::cli::source::{Execution, Shapes, read_inputs, select, zero_inputs};
use profile::ProfileTable;

/// Runs before the clock starts.
const WARM_UP: usize = 3;
/// The least number of timed runs.
const LEAST_RUNS: usize = 5;

#[derive(Args)]
pub(crate) struct Bench {
    /// The plan or model; `--peak` needs none.
    #[arg(required_unless_present = "peak")]
    model: Option<PathBuf>,
    /// The inputs: an archive, or NAME=FILE.npy; zeros when absent, with open dimensions of 1 where `--shape` gives none.
    #[arg(long, num_args = 1.., value_name = "IN.npz")]
    input: Vec<String>,
    /// How long to run.
    #[arg(long, default_value_t = 2.0)]
    seconds: f64,
    /// List the steps: their times, and what share of the machine's limits they reach.
    #[arg(long)]
    profile: bool,
    /// Measure the limits of this machine: operations a second of each instruction set, and bytes a second of each level of memory.
    #[arg(long)]
    peak: bool,
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
        let mut report = Report::default();
        if let Some(model) = &self.model {
            self.time(model, &mut report)?;
        } else {
            let threads = self.execution.threads;
            report.measure_peak(&Isa::supported(), threads)?;
        }
        if self.json {
            println!("{}", report.json);
        } else {
            print!("{}", report.text);
        }
        Ok(())
    }

    fn time(&self, model: &Path, report: &mut Report) -> Result<()> {
        let began = Instant::now();
        let mut session = self.shapes.session_of(model, &self.execution)?;
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
        // Reading the clock between the steps takes time itself, so runs are timed with and without it.
        let parts = if self.profile { 2.0 } else { 1.0 };
        let seconds = self.seconds / parts;
        let times = run_for(seconds, &mut session, &inputs)?;
        let profiled = if self.profile {
            session.set_profiling(true);
            Some(run_for(seconds, &mut session, &inputs)?)
        } else {
            None
        };
        report.json = json!({
            "median_ms": times.median(),
            "min_ms": times.quantile(0.0),
            "p90_ms": times.quantile(0.9),
            "runs": times.0.len(),
            "load_ms": load_ms,
            // Measuring the limits of memory takes memory, and comes later.
            "peak_rss_mb": peak_rss_mb(),
            "threads": session.threads(),
            "backend": session.plan().engine().name(),
            "isa": session.isa().to_string(),
        });
        report.text = format!(
            "median {:.3} ms, min {:.3} ms, {} runs, {} thread(s), {}\n",
            times.median(),
            times.quantile(0.0),
            times.0.len(),
            session.threads(),
            session.isa()
        );
        if !self.peak && profiled.is_none() {
            return Ok(());
        }
        // The session's, and the best one: some kernels always use the best one.
        let isas = if self.peak {
            Isa::supported()
        } else {
            let mut isas = vec![session.isa(), Isa::detect()];
            isas.dedup();
            isas
        };
        let peak = report.measure_peak(&isas, session.threads())?;
        if let (Some(profiled), Some(profile)) = (profiled, session.profile()) {
            let table = ProfileTable::new(profile, profiled.median(), &peak, session.isa());
            report.text += "\n";
            report.text += &table.to_string();
            report.json["steps"] = table.steps();
            report.json["totals"] = table.totals();
        }
        Ok(())
    }
}

/// What is printed: as text or as JSON.
#[derive(Default)]
struct Report {
    text: String,
    json: Value,
}

impl Report {
    /// Measures the limits of this machine and reports them.
    fn measure_peak(&mut self, isas: &[Isa], threads: usize) -> Result<Peak> {
        let peak = Peak::measure(isas, threads).context("measuring the limits")?;
        self.json["peak"] = peak::to_json(&peak);
        self.text += &peak::to_text(&peak);
        Ok(peak)
    }
}

/// The times of runs in milliseconds, from the shortest to the longest; there is at least one.
struct Times(Vec<f64>);

impl Times {
    fn median(&self) -> f64 {
        let count = self.0.len();
        (self.0[(count - 1) / 2] + self.0[count / 2]) / 2.0
    }

    fn quantile(&self, part: f64) -> f64 {
        let count = self.0.len();
        self.0[((count as f64 * part) as usize).min(count - 1)]
    }
}

/// Runs a session for a number of seconds, at least [`LEAST_RUNS`] times.
fn run_for(seconds: f64, session: &mut Session, inputs: &[(&str, Tensor)]) -> Result<Times> {
    let mut times = Vec::new();
    let start = Instant::now();
    while times.len() < LEAST_RUNS || start.elapsed().as_secs_f64() < seconds {
        let began = Instant::now();
        session.run(inputs)?;
        times.push(began.elapsed().as_secs_f64() * 1e3);
    }
    times.sort_by(f64::total_cmp);
    Ok(Times(times))
}

/// The largest resident memory of this process so far, in megabytes; 0 where the system does not report it.
fn peak_rss_mb() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kilobytes = line
        .and_then(|line| line.split_whitespace().next())
        .and_then(|word| word.parse::<f64>().ok());
    kilobytes.unwrap_or(0.0) / 1024.0
}
