//! `octofold opt`: passes on a graph, printed as text.

use std::path::PathBuf;

use anyhow::{Result, bail};
use clap::Args;
use octofold::Model;
use octofold::passes::manager::{ManagerOptions, last_rewrite, run_passes_with};
use octofold::passes::pass::Pass;
use octofold::passes::pipeline;

use crate::cli::limits::LimitArguments;

#[derive(Args)]
pub(crate) struct Opt {
    /// The model, as ONNX or text.
    model: PathBuf,
    /// The passes or stages (simplify, fuse, lower, layout) to run.
    #[arg(long, value_delimiter = ',', default_value = "simplify,fuse")]
    passes: Vec<String>,
    /// Print the graph after every pass, or after the named one.
    #[arg(long, value_name = "all|PASS")]
    print_after: Option<String>,
    /// Stop after N passes.
    #[arg(long, value_name = "N")]
    stop_after: Option<usize>,
    /// Stop after N rewrites, counted over all passes, and name the last one.
    #[arg(long, value_name = "N")]
    stop_after_rewrite: Option<usize>,
    /// Tell what each pass did and did not do.
    #[arg(long)]
    explain: bool,
    #[command(flatten)]
    limits: LimitArguments,
}

impl Opt {
    pub(crate) fn execute(&self) -> Result<()> {
        let mut graph = Model::load_within(&self.model, &self.limits.limits()?.import)?.graph;
        let mut passes: Vec<&dyn Pass> = Vec::new();
        for name in &self.passes {
            passes.extend(pipeline::named(name)?);
        }
        if let Some(wanted) = self
            .print_after
            .as_deref()
            .filter(|&wanted| wanted != "all")
            && passes.iter().all(|pass| pass.name() != wanted)
        {
            let names: Vec<&str> = passes.iter().map(|pass| pass.name()).collect();
            bail!(
                "--print-after {wanted}: no such pass runs; there are {}",
                names.join(", ")
            );
        }
        let options = ManagerOptions {
            verify: true,
            stop_after: self.stop_after,
            stop_after_rewrite: self.stop_after_rewrite,
        };
        let runs = run_passes_with(&mut graph, &passes, options, |pass, graph| {
            if self
                .print_after
                .as_deref()
                .is_some_and(|wanted| wanted == "all" || wanted == pass)
            {
                println!("# after {pass}\n{graph}");
            }
        })?;
        if self.explain {
            for run in &runs {
                print!(
                    "# {}\n{}",
                    run.pass,
                    run.report
                        .to_string()
                        .lines()
                        .map(|line| format!("#   {line}\n"))
                        .collect::<String>()
                );
            }
        }
        if self.stop_after_rewrite.is_some() {
            match last_rewrite(&runs) {
                None => println!("# no rewrite"),
                Some((number, pass, event)) => println!("# rewrite {number}: {pass}: {event}"),
            }
        }
        print!("{graph}");
        Ok(())
    }
}
