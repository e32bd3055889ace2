//! The steps of a profile, compared with the limits of the machine.

use std::fmt;

use octofold::kernels::Isa;
use octofold::kernels::peak::{Bound, Limit, Peak, Work};
use octofold::runtime::{Core, Profile, StepProfile};
use serde_json::{Value, json};

use super::peak::bytes;

/// Steps with their limits, and the sums of both. Every time is that of the median run.
pub(super) struct ProfileTable<'a> {
    rows: Vec<Row<'a>>,
    run_ms: f64,
    steps_ms: f64,
    limit_ms: f64,
}

struct Row<'a> {
    step: &'a StepProfile,
    ms: f64,
    /// The part of the steps' time.
    share: f64,
    /// `None` for a step that has nothing to do.
    limit: Option<Limit>,
}

impl<'a> ProfileTable<'a> {
    /// The table of a profile whose runs took `run_ms` in the median.
    pub(super) fn new(profile: &'a Profile, run_ms: f64, peak: &Peak, isa: Isa) -> Self {
        let ms = |step: &StepProfile| step.median().as_secs_f64() * 1e3;
        let steps_ms: f64 = profile.steps.iter().map(ms).sum();
        let rows: Vec<Row<'a>> = profile
            .steps
            .iter()
            .map(|step| {
                let work = Work {
                    macs: step.cost.macs,
                    integer: step.cost.integer,
                    read: step.cost.read,
                    written: step.cost.written,
                };
                let limit = peak.limit(isa, &work);
                Row {
                    step,
                    ms: ms(step),
                    share: part(ms(step), steps_ms),
                    limit: limit.filter(|limit| limit.seconds() > 0.0),
                }
            })
            .collect();
        Self {
            run_ms,
            steps_ms,
            limit_ms: rows.iter().map(Row::limit_ms).sum(),
            rows,
        }
    }

    /// The rows as JSON.
    pub(super) fn steps(&self) -> Value {
        self.rows.iter().map(Row::to_json).collect()
    }

    /// The sums as JSON.
    pub(super) fn totals(&self) -> Value {
        json!({
            "run_ms": self.run_ms,
            "steps_ms": self.steps_ms,
            "between_ms": self.between_ms(),
            "limit_ms": self.limit_ms,
            "limit_share": self.limit_share(),
        })
    }

    /// The time of the median run that no step took. The medians of steps may come from other runs, so that it can be a little below 0.
    fn between_ms(&self) -> f64 {
        self.run_ms - self.steps_ms
    }

    fn limit_share(&self) -> f64 {
        part(self.limit_ms, self.run_ms)
    }
}

impl Row<'_> {
    fn limit_ms(&self) -> f64 {
        self.limit.map_or(0.0, |limit| limit.seconds() * 1e3)
    }

    /// `kernel`, or what computed the step without one.
    fn computed_by(&self) -> &'static str {
        match self.step.kernel.core() {
            Core::Portable => "portable",
            Core::View => "view",
            _ => "kernel",
        }
    }

    /// 10⁹ operations a second.
    fn gops(&self) -> f64 {
        2.0 * self.step.gmacs()
    }

    /// 10⁹ bytes a second.
    fn gbs(&self) -> f64 {
        part(self.step.cost.bytes() as f64, self.ms * 1e6)
    }

    fn to_json(&self) -> Value {
        let cost = self.step.cost;
        json!({
            "name": self.step.name,
            "kernel": self.step.kernel.to_string(),
            "computed_by": self.computed_by(),
            "shape": format!("{:?}", self.step.shape),
            "ms": self.ms,
            "share": self.share,
            "macs": cost.macs,
            "integer": cost.integer,
            "gops": self.gops(),
            "bytes": cost.bytes(),
            "gbs": self.gbs(),
            "limit_ms": self.limit_ms(),
            "limit_share": part(self.limit_ms(), self.ms),
            "limited_by": self.limit.map(|limit| limit.bound().name()),
            "level": self.limit.map(|limit| limit.level.to_string()),
        })
    }
}

/// The share of a part in a whole; 0 where the whole is 0.
fn part(of: f64, whole: f64) -> f64 {
    if whole > 0.0 { of / whole } else { 0.0 }
}

impl fmt::Display for ProfileTable<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{:>10} {:>6} {:>8} {:>9} {:>7} {:>10} {:>8}  {:10} {:24} {:20} step",
            "ms",
            "share",
            "GOP/s",
            "bytes",
            "GB/s",
            "limit ms",
            "of limit",
            "limited by",
            "kernel",
            "result"
        )?;
        for row in &self.rows {
            let limit = row.limit.map(|limit| match limit.bound() {
                Bound::Compute => "compute".to_owned(),
                Bound::Memory => limit.level.to_string(),
            });
            // Steps that no kernel computes stand out.
            let kernel = match row.computed_by() {
                "kernel" => row.step.kernel.to_string(),
                other => format!("({other} {})", row.step.operator),
            };
            writeln!(
                f,
                "{:10.4} {:4.1} % {:8.1} {:>9} {:7.1} {:10.5} {:6.1} %  {:10} {kernel:24} {:20} {}",
                row.ms,
                100.0 * row.share,
                row.gops(),
                bytes(row.step.cost.bytes()),
                row.gbs(),
                row.limit_ms(),
                100.0 * part(row.limit_ms(), row.ms),
                limit.unwrap_or_else(|| "-".to_owned()),
                format!("{:?}", row.step.shape),
                row.step.name
            )?;
        }
        writeln!(
            f,
            "{:10.4} ms, the median run while the clock is read between the steps: {:.4} ms in the steps, {:.4} ms between them",
            self.run_ms,
            self.steps_ms,
            self.between_ms()
        )?;
        writeln!(
            f,
            "{:10.4} ms, the sum of the steps' limits: {:.1} % of that run",
            self.limit_ms,
            100.0 * self.limit_share()
        )
    }
}
