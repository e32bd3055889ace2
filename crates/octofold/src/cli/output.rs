//! Files that appear whole or not at all, and progress on a terminal.

use std::io::{IsTerminal, Write};
use std::path::Path;

use anyhow::{Context, Result};
use indicatif::{ProgressBar, ProgressStyle};
pub(crate) use octofold::ir::visible;

/// Writes a file whole or not at all.
pub(crate) fn write_whole(
    path: &Path,
    write: impl FnOnce(&mut std::fs::File) -> Result<()>,
) -> Result<()> {
    let written = octofold::tensor::file::write_whole(path, write);
    written.with_context(|| path.display().to_string())
}

/// Prints a part of the result. The reader may stop before the end, as `head` does: the command goes on, writes its files and
/// returns its status.
pub(crate) fn print(text: std::fmt::Arguments<'_>) {
    if let Err(error) = std::io::stdout().write_all(visible(&text.to_string()).as_bytes())
        && error.kind() != std::io::ErrorKind::BrokenPipe
    {
        eprintln!("error: cannot print: {error}");
        std::process::exit(1);
    }
}

/// A counter of samples on stderr, when that is a terminal.
pub(crate) fn progress(what: &'static str) -> ProgressBar {
    counter(what, "{spinner} {msg}: {pos} samples, {elapsed}")
}

/// A counter of a known number of models on stderr, when that is a terminal.
pub(crate) fn progress_of_models(what: &'static str) -> ProgressBar {
    counter(what, "{spinner} {msg}: {pos} of {len} models, {elapsed}")
}

fn counter(what: &'static str, template: &str) -> ProgressBar {
    if !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::new_spinner().with_message(what);
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style);
    }
    bar
}
