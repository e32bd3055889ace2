//! The commands, one a file, and what they share.

/// Replacements of the standard macros, which panic when the reader of a pipe has gone.
macro_rules! print {
    ($($argument:tt)*) => { $crate::cli::output::print(format_args!($($argument)*)) };
}
macro_rules! println {
    ($($argument:tt)*) => { $crate::cli::output::print(format_args!("{}\n", format_args!($($argument)*))) };
}

mod backend;
mod bench;
mod calibrate;
mod check;
mod compare;
mod compile;
mod demo;
mod eval;
mod inspect;
mod limits;
mod opt;
pub(crate) mod output;
mod quantization;
mod quantize;
mod run;
mod sensitivity;
pub(crate) mod signals;
mod source;
mod summary;
mod test;

use std::path::Path;

use anyhow::{Context, Result};
use clap::{Parser, Subcommand};
use octofold::tensor::file::check_output;

/// A quantizing graph compiler for ONNX models.
#[derive(Parser)]
#[command(name = "octofold", version, arg_required_else_help = true)]
pub(crate) struct Arguments {
    /// Log what is done, twice for more; `check` prints names and QConfigs, too.
    #[arg(short, long, action = clap::ArgAction::Count, global = true)]
    pub(crate) verbose: u8,
    /// Raise or lower a limit, which errors name: nodes=100000, memory=16G.
    #[arg(long, value_name = "NAME=NUMBER", global = true)]
    pub(crate) limit: Vec<String>,
    /// Follow links to files of weights, as in the caches of model hubs: for models that are trusted.
    #[arg(long, global = true)]
    pub(crate) allow_links: bool,
    /// Read plans and files of weights into memory instead of mapping them, so that others may overwrite the files.
    #[arg(long, global = true)]
    pub(crate) no_map: bool,
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Subcommand)]
pub(crate) enum Command {
    /// Compile a model to an executable plan.
    Compile(compile::Compile),
    /// Write a quantized model as standard ONNX with QuantizeLinear and DequantizeLinear.
    Quantize(quantize::Quantize),
    /// Write what observers see of calibration data.
    Calibrate(calibrate::Calibrate),
    /// Show what would be quantized, what not and why.
    Check(check::Check),
    /// Run a plan or model on inputs.
    Run(run::Run),
    /// Score a plan or model on labelled data.
    Eval(eval::Eval),
    /// Time a plan or model.
    Bench(bench::Bench),
    /// Compare a candidate with its reference on data.
    Compare(compare::Compare),
    /// Rank layers by what their quantization costs.
    Sensitivity(sensitivity::Sensitivity),
    /// Show what a plan or model is made of.
    Inspect(inspect::Inspect),
    /// Print the table of an engine's abilities.
    Backend(backend::Backend),
    /// Run passes on a graph and print it as text.
    Opt(opt::Opt),
    /// Run ONNX backend tests.
    Test(test::Test),
    /// Quantize and run the models that come with Octofold.
    Demo(demo::Demo),
}

impl Command {
    /// The file that the command writes.
    fn output(&self) -> Option<&Path> {
        match self {
            Self::Compile(command) => Some(&command.output),
            Self::Quantize(command) => Some(&command.output),
            Self::Calibrate(command) => Some(&command.output),
            Self::Run(command) => Some(&command.output),
            Self::Compare(command) => command.html.as_deref(),
            Self::Inspect(command) => command.dot.as_deref(),
            Self::Check(_)
            | Self::Eval(_)
            | Self::Bench(_)
            | Self::Sensitivity(_)
            | Self::Backend(_)
            | Self::Opt(_)
            | Self::Test(_)
            | Self::Demo(_) => None,
        }
    }
}

/// Carries out a command.
pub(crate) fn execute(arguments: Arguments) -> Result<()> {
    limits::set(&arguments)?;
    // What cannot be written is an error before any work is done.
    if let Some(output) = arguments.command.output() {
        check_output(output).with_context(|| output.display().to_string())?;
    }
    match arguments.command {
        Command::Compile(command) => command.execute(),
        Command::Quantize(command) => command.execute(),
        Command::Calibrate(command) => command.execute(),
        Command::Check(command) => command.execute(arguments.verbose > 0),
        Command::Run(command) => command.execute(),
        Command::Eval(command) => command.execute(),
        Command::Bench(command) => command.execute(),
        Command::Compare(command) => command.execute(),
        Command::Sensitivity(command) => command.execute(),
        Command::Inspect(command) => command.execute(),
        Command::Backend(command) => command.execute(),
        Command::Opt(command) => command.execute(),
        Command::Test(command) => command.execute(),
        Command::Demo(command) => command.execute(),
    }
}
