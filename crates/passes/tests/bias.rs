//! Bias correction against the mean error of a layer computed sample by sample, from the definitions.

use indexmap::IndexMap;
use octofold_ir::testing::Random;
use octofold_ir::{Graph, text};
use octofold_passes::annotate::{Annotations, annotate};
use octofold_passes::backend::BackendConfig;
use octofold_passes::bias::CorrectBiases;
use octofold_passes::config::{ModelNames, QConfig, QConfigMapping, Resolver};
use octofold_passes::convert::{Convert, Statistics};
use octofold_passes::manager::{ManagerOptions, run_passes};
use octofold_passes::pass::PassReport;
use octofold_quant::{ObserverKind, ObserverState};
use octofold_tensor::Tensor;

const VERIFY: ManagerOptions = ManagerOptions {
    verify: true,
    stop_after: None,
    stop_after_rewrite: None,
};

fn annotated(graph: &Graph) -> Annotations {
    let (mapping, names) = (
        QConfigMapping::global(QConfig::default()),
        ModelNames::of(graph),
    );
    let resolver = Resolver::new(&mapping, &names);
    annotate(graph, &resolver, &mapping.values, &BackendConfig::fbgemm()).unwrap()
}

fn statistics(names: &[&str]) -> Statistics {
    let states = names.iter().map(|name| {
        let mut state = ObserverState::new(&ObserverKind::MinMax);
        state.observe(&[-1.0, 4.0]).unwrap();
        ((*name).to_owned(), state)
    });
    states.collect()
}

fn list(values: &[f32]) -> String {
    let values: Vec<String> = values.iter().map(|x| format!("{x:?}")).collect();
    values.join(", ")
}

/// `Ŵ - W` for symmetric 8-bit weights with a scale for each channel of `axis` of a matrix `rows x columns`.
fn rounding(weights: &[f32], columns: usize, channel_is_row: bool) -> Vec<f64> {
    let channel = |i: usize| {
        if channel_is_row {
            i / columns
        } else {
            i % columns
        }
    };
    let error = weights.iter().enumerate().map(|(i, &w)| {
        let same = weights
            .iter()
            .enumerate()
            .filter(|&(j, _)| channel(j) == channel(i));
        let largest = same.fold(0.0_f32, |largest, (_, w)| largest.max(w.abs()));
        let scale = f64::from(largest / 127.0);
        let steps = (f64::from(w) / scale).round_ties_even();
        scale * steps - f64::from(w)
    });
    error.collect()
}

fn correct(graph: &mut Graph, means: &IndexMap<String, Tensor>, observed: &[&str]) -> PassReport {
    let annotations = annotated(graph);
    let statistics = statistics(observed);
    let pass = CorrectBiases {
        annotations: &annotations,
        statistics: &statistics,
        means,
    };
    let runs = run_passes(graph, &[&pass], VERIFY).unwrap();
    // The annotations still fit, and every layer can be converted by them.
    let convert = Convert {
        annotations: &annotations,
        statistics: &statistics,
    };
    run_passes(&mut graph.clone(), &[&convert], VERIFY).unwrap();
    runs.into_iter().next().unwrap().report
}

fn bias(graph: &Graph, node: &str) -> Option<Vec<f32>> {
    let bias = graph.node(graph.node_named(node).unwrap()).input(2)?;
    let tensor = graph.value(bias).constant().unwrap();
    Some(tensor.values::<f32>().unwrap().to_vec())
}

fn assert_near(found: &[f32], expected: &[f64]) {
    assert_eq!(found.len(), expected.len());
    for (found, expected) in found.iter().zip(expected) {
        assert!(
            (f64::from(*found) - expected).abs() < 1e-6,
            "{found}, not {expected}"
        );
    }
}

#[test]
fn a_padded_convolution_gets_the_mean_error_of_its_samples() {
    let random = &mut Random::new(7);
    let weights: Vec<f32> = (0..2 * 2 * 3 * 3)
        .map(|_| random.between(-1.0, 1.0))
        .collect();
    // All positive, as behind a ReLU, and brighter in one corner, so that borders count.
    let samples: Vec<Vec<f32>> = (0..5)
        .map(|_| {
            (0..2 * 4 * 4)
                .map(|i| random.between(0.0, 4.0) / (1 + i % 16) as f32)
                .collect()
        })
        .collect();
    let error = rounding(&weights, 18, true);
    let mut expected = [0.0_f64; 2];
    for x in &samples {
        for (o, expected) in expected.iter_mut().enumerate() {
            for (y, x0) in (0..16).map(|p| (p / 4, p % 4)) {
                for (i, &e) in error[o * 18..][..18].iter().enumerate() {
                    let (c, ky, kx) = (i / 9, i / 3 % 3, i % 3);
                    // One pixel of padding: out of the image there is nothing to multiply.
                    let (row, column) = ((y + ky).wrapping_sub(1), (x0 + kx).wrapping_sub(1));
                    if row < 4 && column < 4 {
                        *expected += e * f64::from(x[c * 16 + row * 4 + column]);
                    }
                }
            }
        }
    }
    let expected = expected.map(|sum| sum / (16.0 * samples.len() as f64));
    let mean = (0..32).map(|i| {
        let sum: f64 = samples.iter().map(|x| f64::from(x[i])).sum();
        (sum / samples.len() as f64) as f32
    });
    let means = IndexMap::from([(
        "x".to_owned(),
        Tensor::new([1, 2, 4, 4], mean.collect()).unwrap(),
    )]);
    for given in [None, Some([0.25_f32, -0.5])] {
        let (constant, operand) = match given {
            None => (String::new(), ""),
            Some(bias) => (
                format!(", float[2] \"conv.bias\" = {{{}}}", list(&bias)),
                ", \"conv.bias\"",
            ),
        };
        let source = format!(
            "g (float[N,2,4,4] x) => (y)\n<float[2,2,3,3] \"conv.weight\" = {{{}}}{constant}>\n{{\n\
             [conv] y = octofold.Conv <pads = [1,1,1,1], activation = \"relu\"> (x, \"conv.weight\"{operand})\n}}\n",
            list(&weights)
        );
        let mut graph = text::parse(&source, None).unwrap();
        let report = correct(&mut graph, &means, &["x"]);
        assert!(report.changed(), "{report}");
        let old = given.unwrap_or_default();
        let wanted: Vec<f64> = (0..2).map(|c| f64::from(old[c]) - expected[c]).collect();
        assert_near(&bias(&graph, "conv").unwrap(), &wanted);
    }
}

#[test]
fn a_linear_layer_averages_over_all_but_its_columns() {
    let random = &mut Random::new(8);
    let weights: Vec<f32> = (0..4 * 3).map(|_| random.between(-1.0, 1.0)).collect();
    let mean: Vec<f32> = (0..2 * 4).map(|_| random.between(0.0, 4.0)).collect();
    let error = rounding(&weights, 3, false);
    let expected: Vec<f64> = (0..3)
        .map(|n| {
            let products = (0..8).map(|i| f64::from(mean[i]) * error[i % 4 * 3 + n]);
            -products.sum::<f64>() / 2.0
        })
        .collect();
    let source = format!(
        "g (float[N,2,4] x) => (y)\n<float[4,3] w = {{{}}}>\n{{\n[fc] y = octofold.Linear (x, w)\n}}\n",
        list(&weights)
    );
    let mut graph = text::parse(&source, None).unwrap();
    let means = IndexMap::from([("x".to_owned(), Tensor::new([1, 2, 4], mean).unwrap())]);
    correct(&mut graph, &means, &["x"]);
    assert_near(&bias(&graph, "fc").unwrap(), &expected);
}

#[test]
fn layers_without_a_mean_or_an_error_keep_their_bias() {
    let source = "g (float[N,2] x) => (y)\n<float[2,2] w = {0.3, 0.7, 0.1, 0.2}, float[2,2] v = {1.0, -1.0, 1.0, 1.0}>\n{\n\
                  [a] h = octofold.Linear (x, w)\n[b] y = octofold.Linear (h, v)\n}\n";
    let mut graph = text::parse(source, None).unwrap();
    let means = IndexMap::from([(
        "h".to_owned(),
        Tensor::new([1, 2], vec![1.0_f32, 2.0]).unwrap(),
    )]);
    let report = correct(&mut graph, &means, &["x", "h"]);
    assert_eq!(
        report.to_string(),
        "correct-bias `a` skipped: `x` has no mean: its shape differs between samples, or it was not observed\n\
         correct-bias `b` skipped: its quantized weights cause no mean error\n"
    );
    assert_eq!((bias(&graph, "a"), bias(&graph, "b")), (None, None));
}

#[test]
fn a_mean_of_another_shape_is_a_reason_to_skip() {
    let source = "g (float[N,2] x) => (y)\n<float[2,2] w = {0.3, 0.7, 0.1, 0.2}>\n{\n[a] y = octofold.Linear (x, w)\n}\n";
    let mut graph = text::parse(source, None).unwrap();
    let means = IndexMap::from([(
        "x".to_owned(),
        Tensor::new([1, 3], vec![1.0_f32; 3]).unwrap(),
    )]);
    let report = correct(&mut graph, &means, &["x"]);
    assert!(!report.changed(), "{report}");
}
