//! `octofold compile`: a model to an executable plan.

use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use clap::Args;
use octofold::codegen::State;
use octofold::kernels::isa::Isa;
use octofold::runtime::Engine;
use octofold::{Provenance, Summary};

use crate::cli::limits::load;
use crate::cli::quantization::Quantization;
use crate::cli::source::{Execution, Shapes};
use crate::cli::summary::print_summary;

#[derive(Args)]
pub(crate) struct Compile {
    /// The model: float, or quantized by anyone.
    model: PathBuf,
    /// The plan to write.
    #[arg(short, long, value_name = "PLAN.oct")]
    pub(crate) output: PathBuf,
    /// The processor to compile for: native, scalar, avx2, avx512vnni, neon or neondot. By default the plan serves all that its engine
    /// has kernels for; without --backend, neon and neondot take the engine qnnpack.
    #[arg(long)]
    target: Option<String>,
    /// A value that sessions keep between runs: the input reads what the output gave in the run before, zeros in the first run. May be given several
    /// times; replaces the states that the model declares.
    #[arg(long = "state", value_name = "OUTPUT=INPUT")]
    states: Vec<String>,
    #[command(flatten)]
    shapes: Shapes,
    /// Print the fate of every node.
    #[arg(long)]
    explain: bool,
    #[command(flatten)]
    quantization: Quantization,
    #[command(flatten)]
    execution: Execution,
}

impl Compile {
    pub(crate) fn execute(mut self) -> Result<()> {
        let target = match self.target.as_deref() {
            None => None,
            Some("native") => Some(Isa::detect()),
            Some(name) => Some(
                name.parse::<Isa>()
                    .with_context(|| format!("--target {name}"))?,
            ),
        };
        let model = self.shapes.fix(load(&self.model)?)?;
        let recorded = match self.quantization.allow_other_engine {
            true => None,
            false => Provenance::read(model.graph.metadata()).engine,
        };
        self.quantization.default_backend(match (recorded, target) {
            (Some(engine), _) => engine,
            (None, Some(Isa::Neon | Isa::NeonDot)) => Engine::Qnnpack.name().to_owned(),
            (None, _) => Engine::Fbgemm.name().to_owned(),
        });
        let name = || self.model.display().to_string();
        let mut graph = match self.quantization.is_wanted()? {
            true => {
                let execution = &self.execution;
                let quantized = self.quantization.quantize(&model, execution, self.explain);
                quantized.with_context(name)?.reference
            }
            false if self.explain || self.quantization.is_given()? => bail!(
                "quantization settings were given without calibration data; add --calibrate DATA"
            ),
            false => model.graph.clone(),
        };
        self.quantization.accept_engine(&mut graph)?;
        if !self.states.is_empty() {
            let states = self.states.join("\n");
            graph
                .metadata_mut()
                .insert(State::METADATA.to_owned(), states);
        }
        let backend = self.quantization.backend()?;
        if let ("fbgemm", Some(target @ (Isa::Neon | Isa::NeonDot))) = (&*backend.name, target) {
            bail!(
                "--target {target}: the engine fbgemm has no kernels for it; --backend qnnpack has (with --allow-other-engine, where the model was prepared for fbgemm)"
            );
        }
        let plan = octofold::compile_for(graph, &backend, target).with_context(name)?;
        plan.save(&self.output)?;
        print_summary(&Summary::new(&model.graph, &plan)?, &self.output);
        Ok(())
    }
}
