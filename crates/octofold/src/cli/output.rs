//! Files that appear whole or not at all, and progress on a terminal.

use std::borrow::Cow;
use std::io::{IsTerminal, Write};
use std::path::Path;

use anyhow::{Context, Result};
use indicatif::{ProgressBar, ProgressStyle};

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

/// A text with its control characters spelled out, except line feeds and tabs. Names come from files, and must not colour a
/// terminal, retitle it or hide the rest of a line.
pub(crate) fn visible(text: &str) -> Cow<'_, str> {
    let hidden = |c: char| match c {
        '\n' | '\t' => false,
        // Marks that turn the direction of writing.
        '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => true,
        other => other.is_control(),
    };
    if !text.contains(hidden) {
        return Cow::Borrowed(text);
    }
    let spelled = text.chars().map(|c| match c {
        c if hidden(c) => c.escape_default().to_string(),
        c => c.to_string(),
    });
    Cow::Owned(spelled.collect())
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
