//! `octofold compile`: a model to an executable plan.

use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use clap::Args;
use octofold::Provenance;
use octofold::codegen::CodegenOptions;
use octofold::kernels::isa::Isa;
use octofold::runtime::Engine;

use crate::cli::quantization::Quantization;
use crate::cli::source::{Execution, Shapes};

#[derive(Args)]
pub(crate) struct Compile {
    /// The model: float, or quantized by anyone.
    model: PathBuf,
    /// The plan to write.
    #[arg(short, long, value_name = "PLAN.oct")]
    output: PathBuf,
    /// The processor to compile for: native, scalar, avx2, avx512vnni, neon or neondot. By default the plan serves all that its engine
    /// has kernels for; without --backend, neon and neondot take the engine qnnpack.
    #[arg(long)]
    target: Option<String>,
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
        let model = self.shapes.fix(self.execution.limits.load(&self.model)?)?;
        let recorded = match self.quantization.allow_other_engine {
            true => None,
            false => Provenance::read(model.graph.metadata()).engine,
        };
        self.quantization.default_backend(match (recorded, target) {
            (Some(engine), _) => engine,
            (None, Some(Isa::Neon | Isa::NeonDot)) => Engine::Qnnpack.name().to_owned(),
            (None, _) => Engine::Fbgemm.name().to_owned(),
        });
        let mut graph = match self.quantization.algorithm()? {
            None if self.explain || self.quantization.is_given()? => bail!(
                "quantization settings were given without calibration data; add --calibrate DATA"
            ),
            None => model.graph,
            Some(algorithm) => {
                self.quantization
                    .reference(model, algorithm, &self.execution, self.explain)?
            }
        };
        self.quantization.accept_engine(&mut graph)?;
        let backend = self.quantization.backend()?;
        let (lowered, _) = octofold::lower_for(&graph, &backend)
            .with_context(|| self.model.display().to_string())?;
        let engine = Engine::from_name(&backend.name)
            .with_context(|| format!("there is no engine {}", backend.name))?;
        if let (Engine::Fbgemm, Some(target @ (Isa::Neon | Isa::NeonDot))) = (engine, target) {
            bail!(
                "--target {target}: the engine fbgemm has no kernels for it; --backend qnnpack has (with --allow-other-engine, where the model was prepared for fbgemm)"
            );
        }
        let options = CodegenOptions {
            engine,
            requires: target,
            portable: false,
        };
        octofold::compile_with(&lowered, &options)?.save(&self.output)?;
        Ok(())
    }
}
