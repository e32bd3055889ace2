//! What quantization costs the own models: int8 against float on 2,000 test images, and the plan against the exported model.

use anyhow::{Result, ensure};
use octofold::Model;
use octofold::calibrate::Accuracy;
use octofold::calibrate::accuracy::inputs_of;
use octofold::ir::onnx::{ExportOptions, export_to_file};
use octofold::quant::metrics::{ErrorStatistics, mcnemar_exact};

use crate::common::{MODELS, TEST, bits, data, load, plan, quantized, session};

/// The least signal-to-noise ratio of the logits in dB, two below what was measured: 33.7 and 33.1.
const LEAST_SQNR_DB: [f64; 2] = [31.5, 31.0];
/// The least accuracy in float: that the data are read as in training.
const LEAST_ACCURACY: f64 = 0.93;

#[test]
fn int8_is_as_good_as_float() -> Result<()> {
    let mut faults = Vec::new();
    for (name, least) in MODELS.into_iter().zip(LEAST_SQNR_DB) {
        let model = load(name)?;
        let mut float = session(&plan(&model.graph)?, 2, None)?;
        let mut integer = session(&plan(&quantized(name, None)?)?, 2, None)?;
        let test = data(model.inputs(), TEST, 50, None)?;
        let labels = test.labels("labels")?;
        let (mut before, mut after) = (Accuracy::top(1), Accuracy::top(1));
        let mut error = ErrorStatistics::default();
        test.for_each(|batch, _| {
            let inputs = inputs_of(&batch);
            let (expected, found) = (float.run(&inputs)?, integer.run(&inputs)?);
            ensure!(expected[0].0 == found[0].0, "the outputs' names");
            before.add(&expected[0].1, &labels)?;
            after.add(&found[0].1, &labels)?;
            error.add(expected[0].1.values()?, found[0].1.values()?)?;
            Ok(())
        })?;
        ensure!(before.correct.len() == 2000, "2,000 images");
        let pairs = || before.correct.iter().zip(&after.correct);
        let lost = pairs()
            .filter(|&(&before, &after)| before && !after)
            .count() as u64;
        let gained = pairs()
            .filter(|&(&before, &after)| !before && after)
            .count() as u64;
        let (p, sqnr_db) = (mcnemar_exact(lost, gained), error.sqnr_db());
        let (float, int8) = (100.0 * before.value(), 100.0 * after.value());
        let line = format!(
            "{name}: {float:.2} % in float, {int8:.2} % in int8 (lost {lost}, gained {gained}, p = {p:.3}), {sqnr_db:.2} dB"
        );
        if p <= 0.05 || sqnr_db < least || before.value() < LEAST_ACCURACY || error.nonfinite() > 0
        {
            faults.push(line);
        }
    }
    ensure!(faults.is_empty(), "{}", faults.join("\n"));
    Ok(())
}

/// What is exported is what is compiled: the plan of the exported model gives the same bits.
#[test]
fn the_exported_model_gives_the_plan() -> Result<()> {
    let folder = tempfile::tempdir()?;
    for name in MODELS {
        let reference = quantized(name, Some(64))?;
        let path = folder.path().join(format!("{name}.onnx"));
        export_to_file(&reference, &path, &ExportOptions::default())?;
        let imported = Model::load(&path)?;
        let (direct, read) = (plan(&reference)?, plan(&imported.graph)?);
        let kernels = |plan: &octofold::runtime::Plan| -> Vec<_> {
            plan.steps().iter().map(|step| step.kernel).collect()
        };
        ensure!(kernels(&direct) == kernels(&read), "{name}: other kernels");
        let (mut direct, mut read) = (session(&direct, 2, None)?, session(&read, 2, None)?);
        data(imported.inputs(), TEST, 50, Some(200))?.for_each(|batch, _| {
            let inputs = inputs_of(&batch);
            let (expected, found) = (direct.run(&inputs)?, read.run(&inputs)?);
            ensure!(expected[0].0 == found[0].0, "{name}: the outputs' names");
            ensure!(
                bits(&expected[0].1) == bits(&found[0].1),
                "{name}: the outputs"
            );
            Ok(())
        })?;
    }
    Ok(())
}
