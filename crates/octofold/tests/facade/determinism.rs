//! The same input gives the same bytes: of models, plans and outputs, whatever the threads, the batches and the instruction set.

use std::collections::BTreeSet;
use std::sync::Arc;

use anyhow::{Result, ensure};
use octofold::ir::onnx::{ExportOptions, export};
use octofold::kernels::Isa;
use octofold::passes::convert::Statistics;
use octofold::runtime::Plan;
use octofold::tensor::Tensor;

use crate::common::{MODELS, bits, calibrate, images, load, plan, prepare, quantized, session};

/// Calibration images: enough to fill histograms, few enough for a fast test.
const SAMPLES: Option<usize> = Some(64);

fn output(plan: &Arc<Plan>, threads: usize, isa: Option<Isa>, input: &Tensor) -> Result<Vec<u32>> {
    let mut session = session(plan, threads, isa)?;
    let outputs = session.run(&[("input", input.clone())])?;
    ensure!(outputs.len() == 1, "the own models have one output");
    // A second run finds everything prepared, and must not find anything left over.
    let again = session.run(&[("input", input.clone())])?;
    let (found, again) = (bits(&outputs[0].1), bits(&again[0].1));
    ensure!(found == again, "the second run differs from the first");
    Ok(found)
}

/// The bytes of the exported QDQ model and of the plan, by the whole pipeline.
fn pipeline(name: &str, threads: usize) -> Result<(Vec<u8>, Vec<u8>)> {
    let prepared = prepare(name)?;
    let statistics = calibrate(&prepared, 16, SAMPLES, threads)?;
    let reference = octofold::convert(&prepared, &statistics)?;
    let exported = export(&reference, &ExportOptions::default())?;
    Ok((exported, plan(&reference)?.to_bytes()?))
}

#[test]
fn compiling_again_gives_the_same_bytes() -> Result<()> {
    for name in MODELS {
        let first = pipeline(name, 1)?;
        for threads in [1, 2] {
            let again = pipeline(name, threads)?;
            ensure!(
                first.0 == again.0,
                "{name}: exported models differ, {threads} threads"
            );
            ensure!(
                first.1 == again.1,
                "{name}: plans differ, {threads} threads"
            );
        }
        let float = || plan(&load(name)?.graph);
        ensure!(
            float()?.to_bytes()? == float()?.to_bytes()?,
            "{name}: float plans differ"
        );
    }
    Ok(())
}

#[test]
fn instruction_sets_and_threads_change_no_bit_of_an_integer_plan() -> Result<()> {
    for name in MODELS {
        let plan = plan(&quantized(name, SAMPLES)?)?;
        let mut first_rows = BTreeSet::new();
        for batch in [1, 7] {
            let input = images(batch)?;
            let expected = output(&plan, 1, Some(Isa::Scalar), &input)?;
            ensure!(expected.len() == 10 * batch, "{name}: ten classes an image");
            first_rows.insert(expected[..10].to_vec());
            for isa in Isa::supported() {
                for threads in [1, 2, 3] {
                    let found = output(&plan, threads, Some(isa), &input)?;
                    ensure!(
                        found == expected,
                        "{name}: {isa}, {threads} threads, batch {batch}"
                    );
                }
            }
        }
        ensure!(
            first_rows.len() == 1,
            "{name}: an image's result depends on its batch"
        );
    }
    Ok(())
}

/// Float kernels may round otherwise on another processor, but never with another number of threads.
#[test]
fn threads_change_no_bit_of_a_float_plan() -> Result<()> {
    for name in MODELS {
        let plan = plan(&load(name)?.graph)?;
        for batch in [1, 7] {
            let input = images(batch)?;
            let expected = output(&plan, 1, None, &input)?;
            for threads in [2, 3, 5] {
                let found = output(&plan, threads, None, &input)?;
                ensure!(
                    found == expected,
                    "{name}: {threads} threads, batch {batch}"
                );
            }
        }
    }
    Ok(())
}

/// What the observers see in batches of some sizes, and the bytes of the plans that follow.
fn calibrated(name: &str, batches: &[usize]) -> Result<Vec<(Statistics, Vec<u8>)>> {
    let prepared = prepare(name)?;
    let one = |&batch: &usize| -> Result<_> {
        let statistics = calibrate(&prepared, batch, SAMPLES, 2)?;
        let plan = plan(&octofold::convert(&prepared, &statistics)?)?;
        Ok((statistics, plan.to_bytes()?))
    };
    batches.iter().map(one).collect()
}

/// Whether the statistics and plans of batches of some sizes are the same.
fn check_batches(name: &str, batches: &[usize]) -> Result<()> {
    let all = calibrated(name, batches)?;
    let (expected, bytes) = &all[0];
    ensure!(!expected.is_empty(), "{name}: nothing is observed");
    for (batch, (found, found_bytes)) in batches.iter().zip(&all) {
        let same = |value: &&String| found.get(*value) == expected.get(*value);
        let other = expected.keys().find(|value| !same(value));
        ensure!(other.is_none(), "{name}: {other:?} in batches of {batch}");
        ensure!(found.len() == expected.len(), "{name}: other values");
        ensure!(
            bytes == found_bytes,
            "{name}: the plan of batches of {batch}"
        );
    }
    Ok(())
}

/// The default observer counts in a histogram, so that the same values in other portions are the same statistics.
/// The last batch of 50 is cut short by the limit.
#[test]
fn the_batches_of_calibration_change_nothing() -> Result<()> {
    check_batches("fashion_mobilenet", &[1, 16, 50])?;
    check_batches("fashion_resnet", &[1, 16, 50])
}

#[test]
fn a_saved_plan_is_the_same_plan() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let input = images(7)?;
    for name in MODELS {
        for graph in [quantized(name, SAMPLES)?, load(name)?.graph] {
            let made = plan(&graph)?;
            let path = folder.path().join("model.oct");
            made.save(&path)?;
            ensure!(
                std::fs::read(&path)? == made.to_bytes()?,
                "{name}: the file's bytes"
            );
            let mapped = Arc::new(Plan::load(&path)?);
            ensure!(mapped == made, "{name}: the mapped plan");
            ensure!(
                mapped.to_bytes()? == made.to_bytes()?,
                "{name}: its bytes when saved again"
            );
            let copied = Arc::new(Plan::from_bytes(&std::fs::read(&path)?)?);
            let expected = output(&made, 2, None, &input)?;
            for other in [mapped, copied] {
                ensure!(
                    output(&other, 2, None, &input)? == expected,
                    "{name}: its outputs"
                );
            }
        }
    }
    Ok(())
}
