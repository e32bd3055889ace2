//! `--limit`: how much models and plans may ask for.

use std::path::Path;

use anyhow::{Result, anyhow, bail};
use clap::Args;
use octofold::{Limits, Model};

/// How much models and plans may ask for.
#[derive(Args)]
pub(crate) struct LimitArguments {
    /// Raise or lower a limit, which errors name: nodes=100000, memory=16G.
    #[arg(long, value_name = "NAME=NUMBER")]
    limit: Vec<String>,
}

impl LimitArguments {
    /// The model of a file, within the limits.
    pub(crate) fn load(&self, path: &Path) -> Result<Model> {
        Ok(Model::load_within(path, &self.limits()?.import)?)
    }

    /// The default limits, with those that are given.
    pub(crate) fn limits(&self) -> Result<Limits> {
        let mut limits = Limits::default();
        for argument in &self.limit {
            let malformed = || {
                anyhow!("--limit {argument}: expected NAME=NUMBER, as nodes=100000 or memory=16G")
            };
            let (name, number) = argument.split_once('=').ok_or_else(malformed)?;
            let (digits, unit) = match number.char_indices().last() {
                Some((at, 'K')) => (&number[..at], 10),
                Some((at, 'M')) => (&number[..at], 20),
                Some((at, 'G')) => (&number[..at], 30),
                _ => (number, 0),
            };
            let number: u64 = digits.parse().map_err(|_| malformed())?;
            if !limits.set(name, number.saturating_mul(1 << unit)) {
                let known: Vec<&str> = Limits::names().collect();
                bail!(
                    "--limit {argument}: there is no limit `{name}`; there are {}",
                    known.join(", ")
                );
            }
        }
        Ok(limits)
    }
}
