//! `octofold opt`: passes on a graph, printed as text.

use std::path::PathBuf;

use anyhow::{Result, anyhow, bail};
use clap::Args;
use octofold::ir::Graph;
use octofold::passes::annotate::annotate;
use octofold::passes::config::Resolver;
use octofold::passes::convert::Statistics;
use octofold::passes::manager::{ManagerOptions, last_rewrite, run_passes_with};
use octofold::passes::pass::Pass;
use octofold::passes::pipeline::{self, Decisions};
use octofold::quant::{ObserverKind, ObserverState};
use octofold::{Mode, Model, Recipe};

use crate::cli::limits::load;
use crate::cli::quantization::{Quantization, prepare};
use crate::cli::source::Execution;

#[derive(Args)]
pub(crate) struct Opt {
    /// The model, as ONNX or text.
    model: PathBuf,
    /// The passes or stages to run: docs/passes.md lists them.
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
    /// Print what each pass did and did not do.
    #[arg(long)]
    explain: bool,
    /// The range that calibration would observe of a value, for passes that need statistics.
    #[arg(long, value_name = "VALUE=LOW..HIGH", conflicts_with_all = ["calibrate", "statistics"])]
    range: Vec<String>,
    #[command(flatten)]
    quantization: Quantization,
    #[command(flatten)]
    execution: Execution,
}

impl Opt {
    pub(crate) fn execute(&self) -> Result<()> {
        let model = load(&self.model)?;
        let recipe = self.quantization.recipe()?;
        let Mode::Graph { mapping, .. } = &recipe.mode else {
            return Err(octofold::Error::GraphModeOnly("opt").into());
        };
        let backend = &recipe.backend;
        let statistics = self.statistics(&recipe, &model)?;
        let resolver = Resolver::new(mapping, &model.names);
        let decide = |graph: &Graph| annotate(graph, &resolver, &mapping.values, backend);
        let context = pipeline::Context {
            decisions: Some(Decisions::OnDemand(&decide)),
            statistics: statistics.as_ref(),
            ..pipeline::Context::new(backend)
        };
        let mut owned = Vec::new();
        for name in &self.passes {
            owned.extend(pipeline::named(name, &context).map_err(octofold::Error::from)?);
        }
        let passes: Vec<&dyn Pass> = owned.iter().map(|pass| &**pass).collect();
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
        let mut graph = model.graph.clone();
        // A model that enters at a later stage holds what the last stage does not allow.
        let last = pipeline::Stage::ALL.into_iter().rev();
        let last_stage = last
            .filter(|stage| self.passes.last().is_some_and(|name| name == stage.name()))
            .find(|_| pipeline::Stage::Simplify.is_entered_by(&graph));
        let runs = run_passes_with(&mut graph, &passes, options, |run, graph| {
            if run.pass == "annotate"
                && let Ok(annotations) = decide(graph)
            {
                print!("# annotate\n{}", commented(&annotations.to_text(graph)));
            }
            // Of all passes, those that changed nothing would only repeat the graph.
            if self.print_after.as_deref().is_some_and(|wanted| {
                wanted == run.pass || (wanted == "all" && run.report.changed())
            }) {
                println!("# after {}\n{graph}", run.pass);
            }
        });
        let runs = runs.map_err(octofold::Error::from)?;
        if let Some(stage) = last_stage.filter(|_| runs.len() == passes.len()) {
            stage.verify_end(&graph).map_err(octofold::Error::from)?;
        }
        if self.explain {
            for run in &runs {
                print!("# {}\n{}", run.pass, commented(&run.report.to_string()));
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

    /// The ranges given, or what calibration observes or observed; nothing when none of these is given.
    fn statistics(&self, recipe: &Recipe, model: &Model) -> Result<Option<Statistics>> {
        if self.quantization.has_statistics() {
            let prepared = prepare(recipe, model)?;
            let execution = &self.execution;
            let statistics = self.quantization.statistics(recipe, &prepared, execution)?;
            return Ok(Some(statistics));
        }
        let mut statistics = Statistics::new();
        for argument in &self.range {
            let malformed = || anyhow!("--range {argument}: expected VALUE=LOW..HIGH, as x=-1..1");
            let (value, range) = argument.rsplit_once('=').ok_or_else(malformed)?;
            let (low, high) = range.split_once("..").ok_or_else(malformed)?;
            let mut state = ObserverState::new(&ObserverKind::MinMax);
            for end in [low, high] {
                state.observe(&[end.parse().map_err(|_| malformed())?])?;
            }
            statistics.insert(value.to_owned(), state);
        }
        Ok((!statistics.is_empty()).then_some(statistics))
    }
}

/// A text as comments of the text form.
fn commented(text: &str) -> String {
    text.lines().map(|line| format!("#   {line}\n")).collect()
}
