//! The command line: what each command prints and writes, and how it fails.

#[path = "../common/mod.rs"]
mod common;

mod cli;
mod cli_failures;
mod files;
mod large;
