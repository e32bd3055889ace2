//! Sensitivity: its figures are those of models made by hand, and its names are exclusions.

use anyhow::Result;
use octofold::calibrate::accuracy::inputs_of;
use octofold::calibrate::{Accuracy, Reference, Score, TopK};
use octofold::ir::Graph;
use octofold::passes::backend::BackendConfig;
use octofold::passes::config::{QConfig, QConfigMapping};
use octofold::quant::ObserverKind;
use octofold::quant::metrics::ErrorStatistics;
use octofold::runtime::SessionOptions;
use octofold::{Mode, Model, PrepareOptions, Rank, Recipe, Sensitivity, SensitivityOptions};

use crate::common::command::{Folder, calibration, number};
use crate::common::{CALIBRATION, TEST, data, load, plan, quantized, session};

const NAME: &str = "fashion_resnet";
const OPTIONS: SessionOptions = SessionOptions {
    threads: 1,
    isa: None,
    allow_portable: true,
    ..SessionOptions::DEFAULT
};
const SAMPLES: Option<usize> = Some(32);

/// Graph mode with a mapping.
fn recipe(mapping: &QConfigMapping) -> Recipe {
    let mode = Mode::Graph {
        mapping: mapping.clone(),
        options: PrepareOptions::default(),
    };
    Recipe {
        mode,
        ..Recipe::default()
    }
}

/// All layers, ranked by what leaving each float gains.
fn all_layers() -> SensitivityOptions {
    SensitivityOptions {
        session: OPTIONS,
        ..SensitivityOptions::default()
    }
}

/// The sensitivity of the own model, on test images.
fn found(recipe: &Recipe, options: SensitivityOptions) -> Result<Sensitivity> {
    let model = load(NAME)?;
    let mut told = Vec::new();
    let found = octofold::sensitivity(
        &model,
        recipe,
        &data(model.inputs(), CALIBRATION, 16, SAMPLES)?,
        &data(model.inputs(), TEST, 16, SAMPLES)?,
        options,
        |done, total| told.push((done, total)),
    )?;
    let total = 1 + 2 * found.layers.len();
    let each: Vec<(usize, usize)> = (0..=total).map(|done| (done, total)).collect();
    assert_eq!(told, each);
    Ok(found)
}

/// The score of a mapping by the stages of the public API alone.
fn by_hand(mapping: &QConfigMapping, bias_correction: bool) -> Result<Score> {
    let model = load(NAME)?;
    let float = plan(&model.graph)?;
    let calibration = data(model.inputs(), CALIBRATION, 16, SAMPLES)?;
    let mut prepared = octofold::prepare(model.clone(), mapping, &BackendConfig::fbgemm())?;
    let statistics = octofold::calibrate(&prepared, &calibration, OPTIONS, |_| {})?;
    if bias_correction {
        octofold::correct_biases(&mut prepared, &statistics, &calibration, OPTIONS, |_| {})?;
    }
    let graph: Graph = octofold::convert(&prepared, &statistics)?;
    let (mut float, mut candidate) = (session(&float, 1, None)?, session(&plan(&graph)?, 1, None)?);
    let test = data(model.inputs(), TEST, 16, SAMPLES)?;
    let labels = test.labels("labels")?;
    let (mut errors, mut accuracy) = (ErrorStatistics::default(), Accuracy::top(1));
    test.for_each(|batch, _| {
        let (expected, found) = (
            float.run(&inputs_of(&batch))?,
            candidate.run(&inputs_of(&batch))?,
        );
        errors.add(expected[0].1.values()?, found[0].1.values()?)?;
        accuracy.add(&found[0].1, &labels)?;
        Ok::<(), anyhow::Error>(())
    })?;
    Ok(Score {
        sqnr_db: Some(errors.sqnr_db()),
        metric: Some(accuracy.value()),
    })
}

fn default_mapping() -> QConfigMapping {
    QConfigMapping::global(QConfig::default())
}

/// A mapping and the exclusion of all nodes of the own model that are not of a layer.
fn only(mapping: QConfigMapping, layer: &str) -> Result<QConfigMapping> {
    let prepared = octofold::prepare(load(NAME)?, &mapping, &BackendConfig::fbgemm())?;
    let fates = &prepared.fates;
    let own = fates.iter().find(|fate| fate.node == layer);
    let home = own.expect("the node exists").fused_into.clone();
    let others = fates.iter().filter(|fate| fate.fused_into != home);
    Ok(others.fold(mapping, |mapping, fate| mapping.exclude_name(&fate.node)))
}

fn decibels(score: Score) -> f64 {
    score.sqnr_db.unwrap_or(f64::INFINITY)
}

fn assert_same(found: Score, expected: Score, what: &str) {
    let difference = (decibels(found) - decibels(expected)).abs();
    assert!(difference < 1e-9, "{what}: {found:?}, not {expected:?}");
    if found.metric.is_some() {
        assert_eq!(found.metric, expected.metric, "{what}");
    }
}

#[test]
fn every_layer_has_the_scores_of_the_models_made_by_hand() -> Result<()> {
    let found = found(&recipe(&default_mapping()), all_layers())?;
    assert_eq!(
        found.layers.len(),
        12,
        "eleven convolutions and a linear layer"
    );
    assert_same(found.whole, by_hand(&default_mapping(), false)?, "whole");
    for layer in &found.layers {
        let alone = only(default_mapping(), &layer.node)?;
        assert_same(layer.alone, by_hand(&alone, false)?, &layer.name);
        let without = default_mapping().exclude_name(&layer.name);
        assert_same(layer.without, by_hand(&without, false)?, &layer.name);
    }
    let gains = found.layers.iter().map(|layer| -decibels(layer.without));
    assert!(
        gains.is_sorted(),
        "the layer that gains most when it is float comes first"
    );
    assert!(decibels(found.layers[0].without) >= decibels(found.whole));
    Ok(())
}

#[test]
fn layers_rank_by_their_own_errors_when_told_to() -> Result<()> {
    let options = SensitivityOptions {
        rank: Rank::Alone,
        ..all_layers()
    };
    let (alone, without) = (
        found(&recipe(&default_mapping()), options)?,
        found(&recipe(&default_mapping()), all_layers())?,
    );
    let errors = alone.layers.iter().map(|layer| decibels(layer.alone));
    assert!(
        errors.is_sorted(),
        "the layer with the largest error comes first"
    );
    assert_eq!(alone.layers.len(), without.layers.len());
    for layer in &alone.layers {
        assert!(
            without.layers.contains(layer),
            "{}: rank changes no score",
            layer.name
        );
    }
    assert_ne!(alone.layers, without.layers);
    Ok(())
}

/// 10·log10(Σ x² / Σ (x - y)²) of the logits of the own depthwise model and of its quantization with one layer left float, over calibration images.
fn left_float(model: &Model, layer: &str, samples: Option<usize>) -> Result<f64> {
    let mapping = default_mapping().exclude_name(layer);
    let prepared = octofold::prepare(model.clone(), &mapping, &BackendConfig::fbgemm())?;
    let images = data(model.inputs(), CALIBRATION, 16, samples)?;
    let statistics = octofold::calibrate(&prepared, &images, OPTIONS, |_| {})?;
    let graph = octofold::convert(&prepared, &statistics)?;
    let mut float = session(&plan(&model.graph)?, 1, None)?;
    let mut candidate = session(&plan(&graph)?, 1, None)?;
    let (mut signal, mut noise) = (0.0_f64, 0.0_f64);
    images.for_each(|batch, _| {
        let expected = float.run(&inputs_of(&batch))?;
        let found = candidate.run(&inputs_of(&batch))?;
        let expected = expected[0].1.values::<f32>()?;
        for (&x, &y) in expected.iter().zip(found[0].1.values::<f32>()?) {
            signal += f64::from(x).powi(2);
            noise += (f64::from(x) - f64::from(y)).powi(2);
        }
        Ok::<(), anyhow::Error>(())
    })?;
    Ok(10.0 * (signal / noise).log10())
}

/// Kendall's tau of a sequence and its descending order: the pairs that descend less those that ascend, of all pairs.
fn tau(values: &[f64]) -> f64 {
    let mut sum = 0.0;
    for (index, first) in values.iter().enumerate() {
        for second in &values[index + 1..] {
            sum += match first.total_cmp(second) {
                std::cmp::Ordering::Greater => 1.0,
                std::cmp::Ordering::Equal => 0.0,
                std::cmp::Ordering::Less => -1.0,
            };
        }
    }
    let count = values.len() as f64;
    sum / (count * (count - 1.0) / 2.0)
}

#[test]
fn the_ranking_agrees_with_leaving_out_one_by_one() -> Result<()> {
    let (model, samples) = (load("fashion_mobilenet")?, Some(64));
    let images = data(model.inputs(), CALIBRATION, 16, samples)?;
    let found = octofold::sensitivity(
        &model,
        &recipe(&default_mapping()),
        &images,
        &images,
        all_layers(),
        |_, _| {},
    )?;
    assert_eq!(found.layers.len(), 23);
    let ranked = found.layers.iter();
    let exhaustive = ranked
        .map(|layer| left_float(&model, &layer.name, samples))
        .collect::<Result<Vec<f64>>>()?;
    let tau = tau(&exhaustive);
    assert!(tau >= 0.8, "{tau}: {exhaustive:?}");
    Ok(())
}

#[test]
fn labels_rank_by_accuracy_and_biases_are_corrected_in_every_variant() -> Result<()> {
    let model = load(NAME)?;
    let labels = data(model.inputs(), TEST, 16, SAMPLES)?.labels("labels")?;
    let recipe = Recipe {
        bias_correction: true,
        ..recipe(&default_mapping())
    };
    let options = SensitivityOptions {
        top: Some(TopK { k: 1, labels }),
        layers: vec!["layer2.0".to_owned(), "fc".to_owned()],
        ..all_layers()
    };
    let found = found(&recipe, options)?;
    let names: Vec<&str> = found
        .layers
        .iter()
        .map(|layer| layer.name.as_str())
        .collect();
    assert_eq!(
        names.len(),
        4,
        "three convolutions of a block and fc: {names:?}"
    );
    assert!(found.float.sqnr_db.is_none() && found.float.metric.is_some());
    assert_same(found.whole, by_hand(&default_mapping(), true)?, "whole");
    let key = |score: Score| (-score.metric.expect("labels"), -decibels(score));
    let keys = found.layers.iter().map(|layer| key(layer.without));
    assert!(keys.is_sorted());
    for layer in &found.layers {
        let alone = only(default_mapping(), &layer.node)?;
        assert_same(layer.alone, by_hand(&alone, true)?, &layer.name);
    }
    Ok(())
}

#[test]
fn a_value_may_have_another_observer_when_its_producer_is_float() -> Result<()> {
    let mut other = QConfig::default();
    other.activation.observer = ObserverKind::MinMax;
    let mapping = default_mapping().set_module_name("layer2", Some(other));
    let options = SensitivityOptions {
        layers: vec!["layer2.0.conv1".to_owned(), "layer3.0.conv1".to_owned()],
        ..all_layers()
    };
    let found = found(&recipe(&mapping), options)?;
    assert_eq!(found.layers.len(), 2);
    assert_same(found.whole, by_hand(&mapping, false)?, "whole");
    for layer in &found.layers {
        let alone = only(mapping.clone(), &layer.node)?;
        assert_same(layer.alone, by_hand(&alone, false)?, &layer.name);
    }
    Ok(())
}

#[test]
fn scores_do_not_depend_on_what_fits_into_memory() -> Result<()> {
    let model = load(NAME)?;
    let (float, other) = (plan(&model.graph)?, plan(&quantized(NAME, SAMPLES)?)?);
    let test = data(model.inputs(), TEST, 16, Some(40))?;
    let top = TopK {
        k: 1,
        labels: test.labels("labels")?,
    };
    let image = 4 * 28 * 28;
    // Everything is kept, nothing is, and the first of three batches is no more once the second comes.
    let scores = [usize::MAX, 0, 20 * image].map(|limit| -> Result<[Score; 2]> {
        let mut reference = Reference::new(session(&float, 1, None)?, &test, Some(&top), limit)?;
        let found = reference.score(&mut session(&other, 1, None)?)?;
        // The reference can be run again and again.
        assert_eq!(reference.score(&mut session(&other, 1, None)?)?, found);
        assert_eq!(
            reference.score(&mut session(&float, 1, None)?)?,
            reference.own()
        );
        Ok([reference.own(), found])
    });
    let [all, nothing, part] = scores;
    let (all, nothing, part) = (all?, nothing?, part?);
    assert!(all[1].sqnr_db.is_some());
    assert_eq!((all, all), (nothing, part));
    Ok(())
}

#[test]
fn the_worst_names_are_exclusions() {
    let folder = Folder::new();
    let words = format!("sensitivity {{{NAME}}}");
    let worst = folder.succeeds(&format!("{words} --worst 2"), &calibration());
    let worst: Vec<&str> = worst.lines().collect();
    assert_eq!(worst.len(), 2, "{worst:?}");
    let object = folder.json(&format!("{words} --json"), &calibration());
    let layers = object["layers"].as_array().expect("layers");
    assert_eq!(layers.len(), 12);
    assert!(number(&object["whole"], "sqnr_db") > 10.0);
    for (name, layer) in worst.iter().zip(layers) {
        assert_eq!(layer["name"].as_str(), Some(*name));
        assert!(number(&layer["alone"], "sqnr_db") >= number(&object["whole"], "sqnr_db"));
    }
    let gains = layers
        .iter()
        .map(|layer| -number(&layer["without"], "sqnr_db"));
    assert!(gains.is_sorted(), "what to leave float comes first");
    let other = folder.json(&format!("{words} --json --rank alone"), &calibration());
    let other = other["layers"].as_array().expect("layers");
    let errors = other.iter().map(|layer| number(&layer["alone"], "sqnr_db"));
    assert!(errors.is_sorted(), "the largest error comes first");
    let check = format!("check {{{NAME}}} --json --exclude {}", worst.join(" "));
    let nodes = folder.json(&check, &[]);
    let nodes = nodes["nodes"].as_array().expect("nodes");
    let is_layer = |node: &&serde_json::Value| {
        ["Conv", "Gemm", "MatMul"].contains(&node["operator"].as_str().expect("a name"))
    };
    let float: Vec<&str> = nodes
        .iter()
        .filter(is_layer)
        .filter(|node| node["quantized"] == false)
        .map(|node| node["node"].as_str().expect("a name"))
        .collect();
    let mut expected: Vec<&str> = layers[..2]
        .iter()
        .map(|layer| layer["node"].as_str().expect("a name"))
        .collect();
    expected.sort_by_key(|node| nodes.iter().position(|other| other["node"] == **node));
    assert_eq!(float, expected, "these layers are float, and no others");
}

#[test]
fn what_cannot_be_tried_is_told() -> Result<()> {
    let folder = Folder::new();
    let words = format!("sensitivity {{{NAME}}}");
    folder.fails(&words, &[], &["--calibrate"]);
    folder.fails(
        &format!("{words} --layers conv9"),
        &calibration(),
        &["layers conv9", "conv1"],
    );
    folder.fails(
        &format!("{words} --exclude nothing"),
        &calibration(),
        &["exclude nothing"],
    );
    folder.write(
        "eager.toml",
        "version = 1\nmode = \"eager\"\n[qconfig.default]\n[eager]\nqconfig = { \"\" = \"default\" }\n",
    );
    let mut eager = calibration();
    let config = eager.iter().position(|word| word == "--config");
    eager[config.expect("a configuration") + 1] = folder.path("eager.toml").display().to_string();
    folder.fails(&words, &eager, &["graph mode"]);
    Ok(())
}
