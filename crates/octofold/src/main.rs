//! The `octofold` command. What scripts may rely on is in `docs/cli.md`.
#![forbid(unsafe_code)]
#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a command talks to its user"
)]

mod cli;

use std::io::IsTerminal;
use std::process::ExitCode;

use clap::Parser;
use octofold::runtime::{PlanError, RunError};
use tracing_subscriber::EnvFilter;

fn main() -> ExitCode {
    let arguments = cli::Arguments::parse();
    let level = match arguments.verbose {
        0 => "warn",
        1 => "info",
        _ => "debug",
    };
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(level));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .init();
    if let Err(error) = cli::signals::install() {
        tracing::warn!("a signal may leave a temporary file: {error}");
    }
    match cli::execute(arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {}", cli::output::visible(&message(&error)));
            if let Some(code) = code(&error) {
                eprintln!("code: {code}");
            }
            ExitCode::FAILURE
        }
    }
}

/// An error with its causes. A cause that the message contains already is left out.
fn message(error: &anyhow::Error) -> String {
    let mut message = String::new();
    for cause in error.chain().map(ToString::to_string) {
        if message.is_empty() {
            message = cause;
        } else if !message.contains(&cause) {
            message = format!("{message}: {cause}");
        }
    }
    message
}

/// The code of the error or of its first cause that has one.
fn code(error: &anyhow::Error) -> Option<&'static str> {
    error.chain().find_map(|cause| {
        let own = cause.downcast_ref().map(octofold::Error::code);
        let run = || cause.downcast_ref().map(RunError::code);
        own.or_else(run)
            .or_else(|| cause.downcast_ref().map(PlanError::code))
    })
}
