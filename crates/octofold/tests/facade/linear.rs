//! `Gemm` over quantized operands, in each form that files have, against its definition in f64.

use std::sync::Arc;

use anyhow::{Result, ensure};
use octofold::passes::backend::BackendConfig;
use octofold::runtime::Engine;
use octofold::tensor::{DType, Tensor};

use crate::common::session;

/// `alpha·x·w + beta·c` by its definition, in f64.
fn gemm(x: &[f64], w: impl Fn(usize, usize) -> f64, sizes: [usize; 3]) -> Vec<f64> {
    let [rows, inner, columns] = sizes;
    let at = |i: usize| {
        (0..inner)
            .map(|k| x[i / columns * inner + k] * w(k, i % columns))
            .sum()
    };
    (0..rows * columns).map(at).collect()
}

#[test]
fn a_gemm_of_dequantized_operands_is_computed_on_integers_in_each_form() -> Result<()> {
    const SIZES: [usize; 3] = [2, 4, 3];
    let integers: Vec<i32> = (0..12).map(|i| i * 47 % 255 - 127).collect();
    let steps: Vec<i32> = (0..8).map(|i| i * 7 % 23 - 11).collect();
    let bias = [1.5_f64, -0.75, 2.0];
    for (alpha, beta, transposed, shape) in [
        (1.0, 1.0, false, "1,3"),
        (1.0, 1.0, true, "1,3"),
        (0.5, 1.0, true, "3"),
        (1.0, 2.0, false, "1"),
        (2.0, 0.5, true, "1,3"),
        (1.5, 0.0, false, "3"),
    ] {
        let numbers: Vec<String> = integers.iter().map(i32::to_string).collect();
        let (sizes, flag) = if transposed { ("3,4", 1) } else { ("4,3", 0) };
        let single = shape == "1";
        let summand = if single { "1.5" } else { "1.5, -0.75, 2.0" };
        let text = format!(
            "g (float[2,4] x) => (float[2,3] y)\n\
             <float xs = {{0.05}}, uint8 xz = {{100}}, int8[{sizes}] q = {{{}}}, float s = {{0.02}}, float[{shape}] c = {{{summand}}}, float ys = {{0.1}}, uint8 yz = {{128}}>\n{{\n\
             a = QuantizeLinear (x, xs, xz)\n b = DequantizeLinear (a, xs, xz)\n w = DequantizeLinear (q, s)\n\
             p = Gemm <alpha = {alpha:?}, beta = {beta:?}, transB = {flag}> (b, w, c)\n\
             r = QuantizeLinear (p, ys, yz)\n y = DequantizeLinear (r, ys, yz)\n}}\n",
            numbers.join(", ")
        );
        let graph = octofold::ir::text::parse(&text, None)?;
        let x: Vec<f64> = steps.iter().map(|&step| f64::from(step) * 0.05).collect();
        let w = |k: usize, n: usize| {
            let index = if transposed {
                n * SIZES[1] + k
            } else {
                k * SIZES[2] + n
            };
            f64::from(integers[index]) * 0.02
        };
        let products = gemm(&x, w, SIZES);
        for engine in Engine::ALL {
            let backend = BackendConfig::named(engine.name())?;
            let (lowered, _) = octofold::lower_for(&graph, &backend)?;
            let order = lowered.order()?;
            let weights = order.iter().find_map(|&id| {
                let node = lowered.node(id);
                let linear = node.op().name() == "Linear";
                linear.then(|| lowered.value(node.input(1)?).constant().map(Tensor::dtype))?
            });
            let form = format!("{alpha} {beta} {transposed} [{shape}]");
            ensure!(weights == Some(DType::I8), "{form}: {weights:?}");
            let plan = Arc::new(octofold::compile(&lowered)?);
            let input = Tensor::new([2, 4], x.iter().map(|&x| x as f32).collect())?;
            let outputs = session(&plan, 1, None)?.run(&[("x", input)])?;
            for (i, (&y, product)) in outputs[0]
                .1
                .values::<f32>()?
                .iter()
                .zip(&products)
                .enumerate()
            {
                let c = if single { bias[0] } else { bias[i % SIZES[2]] };
                let expected = alpha * product + beta * c;
                // Half a step of the result, and half a step of the bias.
                ensure!(
                    (f64::from(y) - expected).abs() <= 0.0501 + 0.001,
                    "{form}: {y}, not {expected}"
                );
            }
        }
    }
    Ok(())
}
