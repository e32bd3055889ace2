//! Limits: how much memory and time models and plans may ask for.

use octofold_calibrate::DataOptions;
use octofold_ir::onnx::{Budget, ImportOptions};
use octofold_runtime::{Plan, SessionOptions};

/// Upper bounds of the memory and time that a model or a plan may ask for. The command line sets each by its name, `--limit NAME=NUMBER`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// How models are read.
    pub import: ImportOptions,
    /// The bytes of memory that a run may take, see [`SessionOptions::memory`].
    pub memory: u64,
    /// The operations that bodies may take in a run, see [`SessionOptions::operations`].
    pub operations: u64,
    /// The bytes of a configuration, or of the table of an engine's abilities.
    pub config_bytes: u64,
    /// The bytes of a file of statistics.
    pub statistics_bytes: u64,
    /// The bytes of an array, or of a batch of it, that are read at once.
    pub array_bytes: u64,
    /// The bytes of an image file.
    pub image_bytes: u64,
    /// The bytes of a plan that is read into memory.
    pub plan_bytes: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            import: ImportOptions::default(),
            memory: SessionOptions::DEFAULT.memory,
            operations: SessionOptions::DEFAULT.operations,
            config_bytes: 1 << 24,
            statistics_bytes: 1 << 28,
            array_bytes: DataOptions::default().array_bytes,
            image_bytes: DataOptions::default().image_bytes,
            plan_bytes: Plan::MAX_BYTES,
        }
    }
}

impl Limits {
    /// The names of the limits that are not those of [`Budget::NAMES`].
    const OWN: [&str; 7] = [
        "memory",
        "operations",
        "config-bytes",
        "statistics-bytes",
        "array-bytes",
        "image-bytes",
        "plan-bytes",
    ];

    /// The names of all limits.
    pub fn names() -> impl Iterator<Item = &'static str> {
        Budget::NAMES.iter().copied().chain(Self::OWN)
    }

    /// Sets the limit of a name. Returns whether there is such a limit.
    pub fn set(&mut self, name: &str, limit: u64) -> bool {
        let own = match name {
            "memory" => &mut self.memory,
            "operations" => &mut self.operations,
            "config-bytes" => &mut self.config_bytes,
            "statistics-bytes" => &mut self.statistics_bytes,
            "array-bytes" => &mut self.array_bytes,
            "image-bytes" => &mut self.image_bytes,
            "plan-bytes" => &mut self.plan_bytes,
            _ => return self.import.budget.set(name, limit),
        };
        *own = limit;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_limit_is_set_by_its_name() {
        let mut limits = Limits::default();
        for name in Limits::names() {
            let before = limits.clone();
            assert!(limits.set(name, 7));
            assert_ne!(limits, before, "{name}");
        }
        assert!(!limits.set("memories", 7));
    }
}
