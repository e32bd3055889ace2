//! Both engines give the same bytes, with every instruction set, on every processor: the checksums here are the same on x86 and ARM.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Result, bail, ensure};
use octofold::codegen::CodegenOptions;
use octofold::ir::Graph;
use octofold::kernels::Isa;
use octofold::passes::backend::BackendConfig;
use octofold::passes::config::{QConfig, QConfigMapping};
use octofold::quant::ObserverKind;
use octofold::runtime::{Core, Engine, Plan, RunError, Session, SessionOptions};
use octofold::tensor::Tensor;
use octofold::{Prepared, StatisticsFile};

use crate::common::{MODELS, bits, images, load, session};

/// Ranges of the own models, observed once: float kernels of another processor may see others in the last bit.
fn statistics(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join(format!("tests/processors/engines/{name}.minmax.json"))
}

fn prepared(name: &str, backend: &BackendConfig) -> Result<Prepared> {
    let mut qconfig = QConfig::default();
    qconfig.activation.observer = ObserverKind::MinMax;
    let mapping = QConfigMapping::global(qconfig);
    Ok(octofold::prepare(load(name)?, &mapping, backend)?)
}

/// The reference graph of an own model, prepared for an engine.
fn reference(name: &str, engine: Engine) -> Result<Graph> {
    let prepared = prepared(name, &BackendConfig::named(engine.name())?)?;
    // The statistics were taken for the other engine, and say what both observe.
    let statistics = StatisticsFile::load(&statistics(name))?.statistics_for(&prepared)?;
    Ok(octofold::convert(&prepared, &statistics)?)
}

fn plan(graph: &Graph) -> Result<Arc<Plan>> {
    let backend = BackendConfig::named(octofold::engine_of(graph)?.name())?;
    let (lowered, _) = octofold::lower_for(graph, &backend)?;
    Ok(Arc::new(octofold::compile(&lowered)?))
}

fn output(plan: &Arc<Plan>, threads: usize, isa: Isa, input: &Tensor) -> Result<Vec<u32>> {
    let outputs = session(plan, threads, Some(isa))?.run(&[("input", input.clone())])?;
    Ok(bits(&outputs[0].1))
}

fn checksum(bits: &[u32]) -> String {
    let bytes: Vec<u8> = bits.iter().flat_map(|bits| bits.to_le_bytes()).collect();
    format!("{:08x}", crc32fast::hash(&bytes))
}

#[test]
fn engines_instruction_sets_and_processors_give_the_same_bytes() -> Result<()> {
    let input = images(24)?;
    let mut found = Vec::new();
    for name in MODELS {
        let mut expected = None;
        for engine in Engine::ALL {
            let plan = plan(&reference(name, engine)?)?;
            ensure!(plan.engine() == engine);
            let integer = |core| plan.steps().iter().any(|step| step.kernel.core() == core);
            ensure!(integer(Core::QConv), "{name}: nothing is quantized");
            for isa in Isa::supported() {
                for threads in [1, 3] {
                    let output = output(&plan, threads, isa, &input)?;
                    let expected = expected.get_or_insert_with(|| output.clone());
                    ensure!(output == *expected, "{name}: {} on {isa}", engine.name());
                }
            }
        }
        found.push(format!(
            "{name} {}",
            checksum(&expected.unwrap_or_default())
        ));
    }
    let expected = ["fashion_resnet 81624641", "fashion_mobilenet e8057064"];
    ensure!(found == expected, "{found:?}");
    Ok(())
}

#[test]
fn a_plan_for_another_processor_runs_where_that_is_allowed() -> Result<()> {
    let name = MODELS[1];
    let lowered = |engine: Engine| -> Result<Graph> {
        let backend = BackendConfig::named(engine.name())?;
        Ok(octofold::lower_for(&reference(name, engine)?, &backend)?.0)
    };
    let other = match cfg!(target_arch = "aarch64") {
        true => Isa::Avx2,
        false => Isa::NeonDot,
    };
    let input = images(2)?;
    for engine in Engine::ALL {
        let graph = lowered(engine)?;
        let options = CodegenOptions {
            engine,
            requires: Some(other),
            ..CodegenOptions::default()
        };
        let foreign = Arc::new(octofold::compile_with(&graph, &options)?);
        let foreign = Arc::new(Plan::from_bytes(&foreign.to_bytes()?)?);
        ensure!(foreign.requires() == other);
        match Session::new(Arc::clone(&foreign), SessionOptions::default()) {
            Err(error @ RunError::OtherProcessor { .. }) => {
                let message = error.to_string();
                ensure!(message.contains(other.name()) && message.contains("--allow-portable"));
            }
            other => bail!("{other:?}"),
        }
        let expected = output(&plan(&reference(name, engine)?)?, 1, Isa::Scalar, &input)?;
        let found = output(&foreign, 1, Isa::detect(), &input)?;
        ensure!(found == expected, "{}", engine.name());
    }
    // What an engine's kernels ask for when nobody says.
    ensure!(octofold::compile(&lowered(Engine::Fbgemm)?)?.requires() == Isa::Avx2);
    ensure!(octofold::compile(&lowered(Engine::Qnnpack)?)?.requires() == Isa::Scalar);
    let (float, _) = octofold::lower(&load(name)?.graph)?;
    ensure!(octofold::compile(&float)?.requires() == Isa::Scalar);
    Ok(())
}
