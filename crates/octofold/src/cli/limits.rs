//! `--limit`: how much files, models and plans may ask for. It is a flag of every command, so its limits are those of the process.

use std::path::Path;
use std::sync::OnceLock;

use anyhow::{Result, anyhow, bail};
use octofold::runtime::Plan;
use octofold::{Limits, Model};

use super::Arguments;

static LIMITS: OnceLock<Limits> = OnceLock::new();

/// Sets the limits of the process.
pub(crate) fn set(arguments: &Arguments) -> Result<()> {
    let mut limits = parsed(&arguments.limit)?;
    limits.import.allow_links = arguments.allow_links;
    limits.import.copy_weights = arguments.no_map;
    LIMITS.get_or_init(|| limits);
    Ok(())
}

/// The limits of the process.
pub(crate) fn limits() -> &'static Limits {
    LIMITS.get_or_init(Limits::default)
}

/// The model of a file, within the limits.
pub(crate) fn load(path: &Path) -> Result<Model> {
    Ok(Model::load_within(path, &limits().import)?)
}

/// The plan of a file: mapped, or read into memory with `--no-map`.
pub(crate) fn load_plan(path: &Path) -> Result<Plan> {
    let plan = match limits().import.copy_weights {
        true => Plan::read_within(path, limits().plan_bytes),
        false => Plan::load(path),
    };
    Ok(plan?)
}

/// The default limits, with those that are given.
fn parsed(arguments: &[String]) -> Result<Limits> {
    let mut limits = Limits::default();
    for argument in arguments {
        let malformed =
            || anyhow!("--limit {argument}: expected NAME=NUMBER, as nodes=100000 or memory=16G");
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
