//! The times of a plan's steps.

use std::time::Duration;

use crate::StepCost;
use crate::plan::{Kernel, Step};

/// The times of a session's runs since profiling was turned on.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Profile {
    /// The number of runs.
    pub runs: u64,
    /// The total time of all runs, including the profiler, which reads the clock twice for each step.
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
    pub kernel: Kernel,
    /// The sizes of the first result in the last run.
    pub shape: Vec<usize>,
    /// The least work of the last run.
    pub cost: StepCost,
    /// The time of the fastest run.
    pub best: Duration,
    /// The total time of all runs.
    pub total: Duration,
    times: Samples,
}

impl StepProfile {
    /// The profile of a step that has not run yet.
    pub(crate) fn new(step: &Step) -> Self {
        Self {
            name: step.name.clone(),
            operator: step.op.name(),
            kernel: step.kernel,
            shape: Vec::new(),
            cost: StepCost::default(),
            best: Duration::MAX,
            total: Duration::ZERO,
            times: Samples::default(),
        }
    }

    /// Counts a run.
    pub(crate) fn record(&mut self, cost: StepCost, time: Duration) {
        self.cost = cost;
        self.total += time;
        self.best = self.best.min(time);
        self.times.push(time);
    }

    /// The median time of the runs: of all runs up to 1024, then of every second run, every fourth, and so on. Zero before the first run.
    pub fn median(&self) -> Duration {
        self.times.median()
    }

    /// Giga multiply-accumulates a second in the median run; 0 before the first.
    pub fn gmacs(&self) -> f64 {
        let seconds = self.median().as_secs_f64();
        if seconds > 0.0 {
            self.cost.macs as f64 / seconds / 1e9
        } else {
            0.0
        }
    }
}

/// A sample of the times of runs, at equal distances. It takes a few kilobytes, however long a session runs.
#[derive(Clone, Debug, Default, PartialEq)]
struct Samples {
    times: Vec<Duration>,
    /// Every `2^skips`-th time is kept.
    skips: u32,
    seen: u64,
}

impl Samples {
    /// The largest number of times that are kept.
    const MOST: usize = 1024;

    fn push(&mut self, time: Duration) {
        if self.times.len() == Self::MOST {
            let mut index = 0;
            self.times.retain(|_| {
                index += 1;
                index % 2 == 1
            });
            self.skips += 1;
        }
        if self.seen.is_multiple_of(1 << self.skips) {
            self.times.push(time);
        }
        self.seen += 1;
    }

    fn median(&self) -> Duration {
        let mut sorted = self.times.clone();
        sorted.sort_unstable();
        match sorted.len() {
            0 => Duration::ZERO,
            count => (sorted[(count - 1) / 2] + sorted[count / 2]) / 2,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn micros(time: u64) -> Duration {
        Duration::from_micros(time)
    }

    #[test]
    fn the_median_is_the_middle_or_the_mean_of_both_middles() {
        let mut samples = Samples::default();
        assert_eq!(samples.median(), Duration::ZERO);
        for (time, median) in [(9, 9), (1, 5), (4, 4), (2, 3)] {
            samples.push(micros(time));
            assert_eq!(samples.median(), micros(median));
        }
    }

    #[test]
    fn many_runs_are_thinned_evenly() {
        let mut samples = Samples::default();
        for time in 0..10_000 {
            samples.push(micros(time));
            assert!(samples.times.len() <= Samples::MOST);
        }
        assert!(samples.times.len() > Samples::MOST / 2);
        let distances = samples.times.windows(2).map(|pair| pair[1] - pair[0]);
        assert!(distances.into_iter().all(|distance| distance == micros(16)));
    }
}
