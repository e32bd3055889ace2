//! How long the steps of a plan take.

use std::time::Duration;

/// The times of a session's runs since profiling was turned on.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Profile {
    /// The number of runs.
    pub runs: u64,
    /// The time of whole runs, all together.
    pub total: Duration,
    /// The steps in the order of execution.
    pub steps: Vec<StepProfile>,
}

/// The times of one step.
#[derive(Clone, Debug, PartialEq)]
pub struct StepProfile {
    /// The step's name.
    pub name: String,
    /// The operator.
    pub operator: &'static str,
    /// The kernel.
    pub kernel: &'static str,
    /// The sizes of the first result in the last run.
    pub shape: Vec<usize>,
    /// Products of one run.
    pub macs: u64,
    /// Whether these products are of integers.
    pub integer: bool,
    /// The time of the fastest run.
    pub best: Duration,
    /// The time of all runs.
    pub total: Duration,
}

impl StepProfile {
    /// The mean time of a run in milliseconds.
    pub fn mean_ms(&self, runs: u64) -> f64 {
        self.total.as_secs_f64() * 1e3 / runs.max(1) as f64
    }

    /// Giga multiply-accumulates a second in the fastest run.
    pub fn gmacs(&self) -> f64 {
        let seconds = self.best.as_secs_f64();
        if seconds > 0.0 {
            self.macs as f64 / seconds / 1e9
        } else {
            0.0
        }
    }
}
