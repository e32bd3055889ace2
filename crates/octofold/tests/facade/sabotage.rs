//! Sabotage: a float model whose channels are rescaled computes the same and quantizes badly, until its layers are equalized.

use anyhow::{Context, Result};
use octofold::calibrate::accuracy::inputs_of;
use octofold::ir::{Graph, NodeId, Op, Patch, Use};
use octofold::ops::families::Activation;
use octofold::passes::backend::BackendConfig;
use octofold::passes::config::{QConfig, QConfigMapping};
use octofold::tensor::Tensor;
use octofold::{Model, PrepareOptions};

use crate::common::{TEST, bits, calibrate, data, load, noise, plan, session};

const NAME: &str = "fashion_resnet";
const CALIBRATED: Option<usize> = Some(128);
const TESTED: Option<usize> = Some(256);

/// The pairs of convolutions with nothing but a ReLU between them, in a fused graph.
fn pairs(graph: &Graph) -> Vec<(NodeId, NodeId)> {
    let ends_in_relu = |id: &NodeId| matches!(graph.node(*id).op(), Op::FusedConv(conv) if conv.product.activation() == Some(Activation::Relu));
    let next = |id: NodeId| {
        let used = graph.single_use(graph.node(id).outputs()[0])?;
        let is_input =
            used.slot == 0 && matches!(graph.node(used.node).op(), Op::Conv(_) | Op::FusedConv(_));
        is_input.then_some((id, used.node))
    };
    graph
        .node_ids()
        .filter(ends_in_relu)
        .filter_map(next)
        .collect()
}

/// Describes a constant operand with its elements multiplied by powers of two, each by that of its index.
fn scale(
    graph: &Graph,
    patch: &mut Patch,
    node: NodeId,
    slot: usize,
    exponent_of: impl Fn(usize) -> i32,
) -> Result<()> {
    let value = graph.value(graph.node(node).input(slot).context("no operand")?);
    let tensor = value.constant().context("no constant")?;
    let elements = tensor.values::<f32>()?.iter().enumerate();
    let scaled = elements.map(|(index, x)| x * 2.0_f32.powi(exponent_of(index)));
    let scaled = Tensor::new(tensor.shape().iter().copied(), scaled.collect())?;
    let scaled = patch.constant(value.name(), scaled);
    patch.rewire(Use { node, slot }, scaled);
    Ok(())
}

/// The graph with each channel between a pair multiplied by a random power of two from 1/16 to 16, and divided by it again.
fn sabotaged(graph: &Graph) -> Result<Graph> {
    let mut random = noise(&[4096], 4.5)
        .values::<f32>()?
        .to_vec()
        .into_iter()
        .map(|x| x.round().clamp(-4.0, 4.0) as i32);
    let mut patch = Patch::new();
    for (first, second) in pairs(graph) {
        let shape = |id: NodeId| {
            let weight = graph.node(id).input(1).expect("a weight");
            graph.value(weight).ty().known_shape().expect("a shape")
        };
        let (w1, w2) = (shape(first), shape(second));
        let exponents: Vec<i32> = random.by_ref().take(w1[0]).collect();
        assert_eq!((exponents.len(), w1[0]), (w1[0], w2[1]), "no groups");
        let (fan_in, taps) = (w1[1..].iter().product::<usize>(), w2[2] * w2[3]);
        scale(graph, &mut patch, first, 1, |index| {
            exponents[index / fan_in]
        })?;
        scale(graph, &mut patch, first, 2, |index| exponents[index])?;
        scale(graph, &mut patch, second, 1, |index| {
            -exponents[index / taps % w2[1]]
        })?;
    }
    let mut graph = graph.clone();
    graph.apply(patch)?;
    Ok(graph)
}

/// The logits of the test images.
fn logits(graph: &Graph) -> Result<Vec<Tensor>> {
    let mut session = session(&plan(graph)?, 1, None)?;
    let mut found = Vec::new();
    let inputs = octofold::inputs_of(graph);
    data(inputs, TEST, 32, TESTED)?.for_each(|batch, _| {
        found.push(session.run(&inputs_of(&batch))?.remove(0).1);
        Ok::<(), anyhow::Error>(())
    })?;
    Ok(found)
}

/// The reference QDQ graph with one scale a weight tensor.
fn per_tensor(graph: &Graph, equalize: bool) -> Result<Graph> {
    let mapping = QConfigMapping::global(QConfig::default().per_tensor_weights());
    let options = PrepareOptions {
        equalize,
        ..PrepareOptions::default()
    };
    let model = Model::new(graph.clone());
    let prepared = octofold::prepare_with(model, &mapping, &BackendConfig::fbgemm(), options)?;
    let statistics = calibrate(&prepared, 32, CALIBRATED, 1)?;
    Ok(octofold::convert(&prepared, &statistics)?)
}

/// 10·log10(Σ x² / Σ (x - y)²).
fn decibels(expected: &[Tensor], found: &[Tensor]) -> Result<f64> {
    let (mut signal, mut noise) = (0.0_f64, 0.0_f64);
    for (expected, found) in expected.iter().zip(found) {
        let pairs = expected.values::<f32>()?.iter().zip(found.values::<f32>()?);
        for (&x, &y) in pairs {
            signal += f64::from(x).powi(2);
            noise += (f64::from(x) - f64::from(y)).powi(2);
        }
    }
    Ok(10.0 * (signal / noise).log10())
}

#[test]
fn equalization_undoes_sabotage() -> Result<()> {
    let mut original = load(NAME)?.graph;
    octofold::optimize(&mut original)?;
    assert_eq!(pairs(&original).len(), 4, "a pair in each residual block");
    let sabotaged = sabotaged(&original)?;
    let float = logits(&original)?;
    for (a, b) in float.iter().zip(logits(&sabotaged)?) {
        assert_eq!(bits(a), bits(&b), "powers of two are exact");
    }
    let quality = |graph: &Graph, equalize: bool| -> Result<f64> {
        decibels(&float, &logits(&per_tensor(graph, equalize)?)?)
    };
    let (sound, ruined) = (quality(&original, false)?, quality(&sabotaged, false)?);
    assert!(
        ruined <= sound - 10.0,
        "{ruined} dB sabotaged, {sound} dB before"
    );
    let (expected, repaired) = (quality(&original, true)?, quality(&sabotaged, true)?);
    assert!(
        (repaired - expected).abs() <= 0.5,
        "{repaired} dB equalized, {expected} dB without sabotage"
    );
    assert!(repaired >= ruined + 10.0, "{repaired} dB equalized");
    Ok(())
}
