//! Batch norms that no layer before takes, against their formula in f64.

use std::sync::Arc;

use anyhow::{Result, ensure};
use octofold::ir::text;
use octofold::passes::backend::BackendConfig;
use octofold::runtime::{Core, Engine};
use octofold::tensor::Tensor;

use crate::common::session;

/// The parameters of the five channels, with epsilon 0.5: γ, β, mean, variance.
const CHANNELS: [[f64; 4]; 5] = [
    [2.0, 0.5, 1.0, 3.5],
    [-1.0, -0.5, -1.0, 0.5],
    [0.01, 1.0, 0.0, 1.0],
    [0.0, 2.0, 5.0, 1.0],
    [-3.0, 40.0, 2.0, 0.75],
];

fn list(column: usize) -> String {
    let numbers: Vec<String> = (CHANNELS.iter().map(|row| row[column].to_string())).collect();
    numbers.join(", ")
}

/// In files of other quantizers, a batch norm between quantizers computes on integers, over one, two and three axes and without any.
#[test]
fn a_batch_norm_between_quantizers_is_computed_on_integers() -> Result<()> {
    for (sizes, activation) in [("6", true), ("6", false), ("2,3", true), ("3,2,1", true)] {
        let function = if activation { "Relu" } else { "Identity" };
        let source = format!(
            "g (float[2,5,{sizes}] x) => (y)
            <float s = {{0.25}}, uint8 z = {{120}}, float t = {{0.5}}, uint8 u = {{60}}, float[5] gamma = {{{}}}, float[5] beta = {{{}}}, float[5] mean = {{{}}},
            float[5] variance = {{{}}}> {{
                q = QuantizeLinear (x, s, z)
                d = DequantizeLinear (q, s, z)
                [norm] n = BatchNormalization <epsilon = 0.5> (d, gamma, beta, mean, variance)
                r = {function} (n)
                p = QuantizeLinear (r, t, u)
                y = DequantizeLinear (p, t, u)
            }}",
            list(0),
            list(1),
            list(2),
            list(3)
        );
        let graph = text::parse(&source, None)?;
        let values: Vec<f32> = (0..60)
            .map(|i| ((i * 37) % 200 - 100) as f32 * 0.25)
            .collect();
        for engine in Engine::ALL {
            let backend = BackendConfig::named(engine.name())?;
            let (lowered, _) = octofold::lower_for(&graph, &backend)?;
            let plan = Arc::new(octofold::compile(&lowered)?);
            let norm = plan.steps().iter().find(|step| step.name == "norm");
            let kernel = norm.map(|step| step.kernel.core());
            ensure!(kernel == Some(Core::QConvDepthwise), "{sizes}: {kernel:?}");
            let shape = graph.value(graph.inputs()[0]).ty().known_shape();
            let input = Tensor::new(shape.unwrap_or_default(), values.clone())?;
            let outputs = session(&plan, 1, None)?.run(&[("x", input)])?;
            for (i, (&y, &x)) in outputs[0]
                .1
                .values::<f32>()?
                .iter()
                .zip(&values)
                .enumerate()
            {
                let [gamma, beta, mean, variance] = CHANNELS[i / 6 % 5];
                let factor = gamma / (variance + 0.5).sqrt();
                let mut exact = factor * (f64::from(x) - mean) + beta;
                if activation {
                    exact = exact.max(0.0);
                }
                let exact = exact.clamp(-30.0, 97.5);
                // Half a step of the result, and half a step of the bias.
                let limit = 0.25 + 0.125 * factor.abs() / 127.0 + 1e-5;
                ensure!(
                    (f64::from(y) - exact).abs() <= limit,
                    "{sizes} {i}: {y}, not {exact}"
                );
            }
        }
    }
    Ok(())
}
