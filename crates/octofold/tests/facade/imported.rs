//! Models that others quantized: which weights run on integers, and what is said of the rest.

use anyhow::{Context, Result, ensure};
use octofold::codegen::Report;
use octofold::ir::{Graph, interpret, text};
use octofold::runtime::{Plan, Session, SessionOptions};
use octofold::tensor::Tensor;
use octofold::{FloatNode, float_nodes};

/// A product of a quantized activation with weights [3, 2] of a type, whose zero point is `zero_point`.
fn product(dtype: &str, weights: [i32; 6], zero_point: i32) -> Result<Graph> {
    let bytes: Vec<String> = weights.iter().map(ToString::to_string).collect();
    let model = format!(
        r#"<ir_version: 10, opset_import: ["" : 21]>
        g (float[2,3] x) => (float[2,2] y)
        <float s = {{0.0503}}, uint8 z = {{100}}, {dtype}[3,2] w = {{{}}}, float sw = {{0.0207}}, {dtype} zw = {{{zero_point}}}, float sy = {{0.1}}, uint8 zy = {{120}}> {{
            xq = QuantizeLinear (x, s, z)
            xd = DequantizeLinear (xq, s, z)
            wd = DequantizeLinear (w, sw, zw)
            [layer] p = MatMul (xd, wd)
            yq = QuantizeLinear (p, sy, zy)
            y = DequantizeLinear (yq, sy, zy)
        }}"#,
        bytes.join(", ")
    );
    Ok(text::parse(&model, None)?)
}

fn compile(graph: &Graph) -> Result<Plan> {
    Ok(octofold::compile(&octofold::lower(graph)?.0)?)
}

fn share(plan: &Plan) -> Result<f64> {
    Ok(Report::new(plan, &plan.input_shapes(|_| 1)?)?.integer_mac_share())
}

fn float(plan: &Plan) -> Vec<FloatNode> {
    let metadata = plan.metadata().iter();
    float_nodes(metadata.map(|(key, value)| (key.as_str(), value.as_str()))).unwrap_or_default()
}

/// Weights that fit 8 bits without their zero point lose it at compile time, and the result is that of the graph.
#[test]
fn weights_that_fit_without_their_zero_point_run_on_integers() -> Result<()> {
    let x = Tensor::new([2, 3], vec![0.5_f32, -1.0, 3.0, 0.3, 7.0, -2.0])?;
    for (dtype, weights, zero_point) in [
        ("int8", [-128, 127, 3, 4, -5, 6], 0),
        ("uint8", [0, 255, 3, 4, 130, 6], 128),
        ("uint8", [0, 127, 3, 64, 90, 6], 61),
        ("int8", [-64, 63, 3, 4, -5, 6], -20),
    ] {
        let graph = product(dtype, weights, zero_point)?;
        let plan = compile(&graph)?;
        ensure!(
            share(&plan)? == 1.0,
            "{dtype} around {zero_point}: {plan:?}"
        );
        ensure!(float(&plan).is_empty());
        let expected = interpret(&graph, &[("x", x.clone())])?;
        let mut session = Session::new(plan.into(), SessionOptions::default())?;
        let found = session.run(&[("x", x.clone())])?;
        ensure!(
            found[0].1 == expected[0],
            "{found:?}, expected {expected:?}"
        );
    }
    Ok(())
}

/// What no kernel computes is named, with what would have to be different.
#[test]
fn what_stays_float_is_told_with_the_reason() -> Result<()> {
    for (dtype, weights, zero_point, reason) in [
        ("uint8", [0, 255, 3, 4, 5, 6], 120, "the zero point 120"),
        (
            "int16",
            [0, 255, 3, 4, 5, 6],
            0,
            "int16 weights have no integer kernel",
        ),
    ] {
        let plan = compile(&product(dtype, weights, zero_point)?)?;
        ensure!(share(&plan)? == 0.0);
        let nodes = float(&plan);
        let node = nodes.iter().find(|node| node.node == "layer");
        let node = node.with_context(|| format!("{nodes:?}"))?;
        ensure!(node.reason.contains(reason), "{}", node.reason);
    }
    Ok(())
}
