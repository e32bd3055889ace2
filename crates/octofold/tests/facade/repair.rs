//! Repair by data: the means of values do not depend on how they are run, and corrected biases take the mean error away.

use anyhow::Result;
use indexmap::IndexMap;
use octofold::calibrate::{CalibrateError, DataOptions, DataSet, observe_means};
use octofold::ir::{Graph, Op, interpret_with, text};
use octofold::passes::backend::BackendConfig;
use octofold::passes::equalize::EqualizeLayers;
use octofold::passes::manager::{ManagerOptions, run_passes};
use octofold::passes::observe::InsertLayerInputObservers;
use octofold::passes::pipeline::{Context, LOWER_FUSED, run_stages};
use octofold::runtime::SessionOptions;
use octofold::tensor::{Tensor, npy};
use octofold::{Error, Model, Prepared};

use crate::common::{self, CALIBRATION, MODELS, bits, calibrate, data, plan, prepare, session};

const OPTIONS: SessionOptions = SessionOptions {
    threads: 1,
    isa: None,
    allow_portable: true,
    ..SessionOptions::DEFAULT
};

/// The means of all inputs of layers over 24 calibration images.
fn means(prepared: &Prepared, batch: usize) -> Result<IndexMap<String, Tensor>> {
    let mut graph = prepared.graph.clone();
    let insert = InsertLayerInputObservers {
        annotations: &prepared.annotations,
    };
    run_passes(&mut graph, &[&insert], ManagerOptions::default())?;
    run_stages(
        &mut graph,
        LOWER_FUSED,
        &Context::new(&BackendConfig::fbgemm()),
    )?;
    let data = data(
        octofold::inputs_of(&prepared.graph),
        CALIBRATION,
        batch,
        Some(24),
    )?;
    let mut session = session(&std::sync::Arc::new(octofold::compile(&graph)?), 1, None)?;
    Ok(observe_means(&mut session, &data, |_| {})?)
}

/// Sums over all samples of every value of a graph, by the interpreter.
fn interpreted_means(graph: &Graph) -> Result<IndexMap<String, Vec<f64>>> {
    let mut sums: IndexMap<String, Vec<f64>> = IndexMap::new();
    data(octofold::inputs_of(graph), CALIBRATION, 1, Some(24))?.for_each(|batch, _| {
        let inputs: Vec<(&str, Tensor)> = batch
            .iter()
            .map(|(name, tensor)| (name.as_str(), tensor.clone()))
            .collect();
        interpret_with(graph, &inputs, |id, tensor| {
            let Ok(values) = tensor.values::<f32>() else {
                return;
            };
            let name = graph.value(id).name().to_owned();
            let sum = sums.entry(name).or_insert_with(|| vec![0.0; values.len()]);
            for (sum, &x) in sum.iter_mut().zip(values) {
                *sum += f64::from(x) / 24.0;
            }
        })?;
        Ok::<(), anyhow::Error>(())
    })?;
    Ok(sums)
}

#[test]
fn means_are_those_of_the_samples_in_the_order_of_the_model() -> Result<()> {
    for name in MODELS {
        let prepared = prepare(name)?;
        let found = means(&prepared, 1)?;
        let expected = interpreted_means(&prepared.graph)?;
        assert!(found.len() > 5, "{name}: {} means", found.len());
        for (value, mean) in &found {
            let id = prepared
                .graph
                .value_named(value)
                .expect("a value of the graph");
            let ty = prepared.graph.value(id).ty();
            assert_eq!(
                (mean.shape()[0], Some(mean.rank())),
                (1, ty.rank()),
                "{name}: {value}"
            );
            let mean = mean.values::<f32>()?;
            let scale = mean
                .iter()
                .fold(1e-3_f32, |largest, x| largest.max(x.abs()));
            assert_eq!(mean.len(), expected[value].len());
            for (&found, expected) in mean.iter().zip(&expected[value]) {
                let difference = f64::from(found) - expected;
                assert!(
                    difference.abs() < 1e-4 * f64::from(scale),
                    "{name}: {value}: {found}, not {expected}"
                );
            }
        }
    }
    Ok(())
}

#[test]
fn means_do_not_depend_on_the_batch_size() -> Result<()> {
    let prepared = prepare(MODELS[0])?;
    let (one, five) = (means(&prepared, 1)?, means(&prepared, 5)?);
    assert_eq!(
        one.keys().collect::<Vec<_>>(),
        five.keys().collect::<Vec<_>>()
    );
    // The image itself has the same bytes; kernels may sum a batch in another order.
    assert_eq!(bits(&one[0]), bits(&five[0]));
    for (value, mean) in &one {
        let (a, b) = (mean.values::<f32>()?, five[value].values::<f32>()?);
        assert!(
            a.iter()
                .zip(b)
                .all(|(a, b)| (a - b).abs() <= 1e-5 * (1.0 + a.abs())),
            "{value}"
        );
    }
    Ok(())
}

#[test]
fn every_layer_of_the_own_models_is_corrected_and_can_be_compiled() -> Result<()> {
    for name in MODELS {
        let mut prepared = prepare(name)?;
        let statistics = calibrate(&prepared, 16, Some(48), 1)?;
        let layers = prepared.graph.node_ids().filter(|&id| {
            matches!(
                prepared.graph.node(id).op(),
                Op::Conv(_) | Op::FusedConv(_) | Op::FusedLinear(_)
            )
        });
        let (layers, nodes) = (
            layers.count(),
            prepared.graph.node_ids().collect::<Vec<_>>(),
        );
        let data = data(
            octofold::inputs_of(&prepared.graph),
            CALIBRATION,
            16,
            Some(48),
        )?;
        let mut seen = 0;
        let report =
            octofold::correct_biases(&mut prepared, &statistics, &data, OPTIONS, |n| seen = n)?;
        assert_eq!(
            report.to_string().matches(" applied").count(),
            layers,
            "{report}"
        );
        assert_eq!(seen, 48);
        assert_eq!(prepared.graph.node_ids().collect::<Vec<_>>(), nodes);
        plan(&octofold::convert(&prepared, &statistics)?)?;
    }
    Ok(())
}

#[test]
fn a_network_of_relus_keeps_its_meaning_when_it_is_equalized() -> Result<()> {
    let graph = prepare("fashion_resnet")?.graph;
    let mut equalized = graph.clone();
    let runs = run_passes(
        &mut equalized,
        &[&EqualizeLayers::ALL],
        ManagerOptions::default(),
    )?;
    let applied = runs[0].report.to_string().matches(" applied").count();
    assert_eq!(applied, 4, "{}", runs[0].report);
    let input = common::images(4)?;
    let run = |graph: &Graph| -> Result<Tensor> {
        let outputs = session(&plan(graph)?, 1, None)?.run(&[("input", input.clone())])?;
        Ok(outputs[0].1.clone())
    };
    let (before, after) = (run(&graph)?, run(&equalized)?);
    for (a, b) in before.values::<f32>()?.iter().zip(after.values::<f32>()?) {
        assert!((a - b).abs() < 1e-4 * (1.0 + a.abs()), "{a} became {b}");
    }
    Ok(())
}

#[test]
fn a_value_that_is_not_finite_is_named() -> Result<()> {
    let source =
        "g (float[N,2] x) => (y)\n<float[2,1] w = {1.0, 2.0}>\n{\n[fc] y = MatMul (x, w)\n}\n";
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("data.npz");
    let x = Tensor::new([2, 2], vec![1.0_f32, 2.0, f32::NAN, 3.0])?;
    npy::write_npz(std::fs::File::create(&path)?, &[("x".to_owned(), x)])?;
    let model = Model::new(text::parse(source, None)?);
    let mut prepared = octofold::prepare(
        model,
        &octofold::passes::config::QConfigMapping::global(Default::default()),
        &octofold::passes::backend::BackendConfig::fbgemm(),
    )?;
    let data = DataSet::open(
        &path,
        octofold::inputs_of(&prepared.graph),
        DataOptions::default(),
    )?;
    let result =
        octofold::correct_biases(&mut prepared, &Default::default(), &data, OPTIONS, |_| {});
    let Err(Error::Calibrate(CalibrateError::Observe { value, .. })) = result else {
        panic!("{result:?}");
    };
    assert_eq!(value, "x");
    Ok(())
}
