//! Models that others quantized: which weights run on integers, and what is said of the rest.

use anyhow::{Context, Result, ensure};
use octofold::codegen::Report;
use octofold::ir::{Graph, interpret, text};
use octofold::runtime::{Core, Plan, Session, SessionOptions};
use octofold::tensor::Tensor;
use octofold::{FloatNode, Model, Recipe, float_nodes};

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

/// Transposed convolutions between quantizers become convolutions on integers in front of a movement of bytes; the interpreter computes their definition.
#[test]
fn transposed_convolutions_between_quantizers_run_on_integers() -> Result<()> {
    for (attributes, weights, channels) in [
        ("strides = [2, 2]", "int8[4,6,2,2]", 6),
        ("strides = [2, 2]", "int8[4,6,2,2]", 1),
        ("strides = [2, 2], group = 2", "int8[4,3,2,2]", 3),
        (
            "strides = [2, 2], pads = [1, 1, 1, 1], output_padding = [1, 1]",
            "int8[4,6,3,3]",
            6,
        ),
        ("strides = [2, 3], pads = [0, 1, 1, 0]", "int8[4,6,4,3]", 6),
        ("pads = [1, 1, 1, 1]", "int8[4,6,3,3]", 6),
    ] {
        let shape: Vec<usize> = weights["int8[".len()..weights.len() - 1]
            .split(',')
            .map(str::parse)
            .collect::<Result<_, _>>()?;
        let count: usize = shape.iter().product();
        let integers = (0..count).map(|i| ((i * 89 + 31) % 255) as i32 - 127);
        let integers: Vec<String> = integers.map(|q| q.to_string()).collect();
        let scales: Vec<String> = (0..channels).map(|c| format!("0.0{}", c + 1)).collect();
        let (sizes, zeros) = match channels {
            1 => (String::new(), vec!["0"]),
            _ => (format!("[{channels}]"), vec!["0"; channels]),
        };
        for activation in ["Identity", "Relu"] {
            let graph = text::parse(
                &format!(
                    "g (float[2,4,5,4] x) => (y)
                    <float s = {{0.05}}, uint8 z = {{120}}, {weights} w = {{{}}}, float{sizes} sw = {{{}}}, int8{sizes} zw = {{{}}},
                    int32[6] b = {{100, -100, 2000, 0, 1, -5000}}, float sb = {{0.001}}, float t = {{0.2}}, uint8 u = {{90}}> {{
                        q = QuantizeLinear (x, s, z)
                        d = DequantizeLinear (q, s, z)
                        wd = DequantizeLinear <axis = 1> (w, sw, zw)
                        bd = DequantizeLinear (b, sb)
                        [layer] c = ConvTranspose <{attributes}> (d, wd, bd)
                        r = {activation} (c)
                        p = QuantizeLinear (r, t, u)
                        y = DequantizeLinear (p, t, u)
                    }}",
                    integers.join(", "),
                    scales.join(", "),
                    zeros.join(", ")
                ),
                None,
            )?;
            let plan = compile(&graph)?;
            ensure!(share(&plan)? == 1.0, "{attributes} {activation}: {plan:?}");
            ensure!(float(&plan).is_empty(), "{:?}", float(&plan));
            let x: Vec<f32> = (0..160)
                .map(|i| ((i * 53) % 240 - 120) as f32 * 0.05)
                .collect();
            let x = Tensor::new([2, 4, 5, 4], x)?;
            let expected = interpret(&graph, &[("x", x.clone())])?;
            let found = Session::new(plan.into(), SessionOptions::default())?.run(&[("x", x)])?;
            let pairs = found[0]
                .1
                .values::<f32>()?
                .iter()
                .zip(expected[0].values::<f32>()?);
            let far = pairs.filter(|(found, expected)| found != expected);
            let steps: Vec<f32> = far.map(|(a, b)| (a - b).abs() / 0.2).collect();
            // The bias is rounded to another scale.
            ensure!(
                steps.iter().all(|&step| step < 1.01),
                "{attributes}: {steps:?}"
            );
            ensure!(found[0].1.shape() == expected[0].shape());
        }
    }
    Ok(())
}

/// Of a model that is quantized already, each node's fate is what the plan computes it by, and quantizing it again changes no reason.
#[test]
fn a_quantized_model_is_checked_by_its_plan() -> Result<()> {
    let graph = text::parse(
        r#"g (float[1,2,4,4] x) => (y)
        <float s = {0.05}, uint8 z = {120}, int8[3,2,1,1] w = {1, -100, 3, 50, 127, 6}, float sw = {0.02}, float t = {0.2}, uint8 u = {90}> {
            [first] q = QuantizeLinear (x, s, z)
            d = DequantizeLinear (q, s, z)
            wd = DequantizeLinear (w, sw)
            [layer] c = Conv (d, wd)
            p = QuantizeLinear (c, t, u)
            e = DequantizeLinear (p, t, u)
            [float] l = LpNormalization (e)
            y = Neg (l)
        }"#,
        None,
    )?;
    let model = Model::new(graph);
    ensure!(model.is_quantized());
    let checked = Recipe::default().check(&model)?;
    ensure!(checked.warnings.len() == 1, "{:?}", checked.warnings);
    let fate = |name: &str| checked.fates.iter().find(|fate| fate.node == name);
    let layer = fate("layer").context("a fate")?;
    ensure!(
        layer.integer && layer.explanation.contains("qconv"),
        "{layer:?}"
    );
    ensure!(fate("first").is_some_and(|fate| fate.integer));
    let float = fate("float").context("a fate")?;
    ensure!(!float.integer, "{float:?}");
    let prepared = Recipe::default().prepare(&model)?;
    ensure!(
        !prepared
            .graph
            .metadata()
            .contains_key(octofold::FLOAT_NODES)
    );
    Ok(())
}

/// What dynamic quantization writes in operators of ONNX is one layer on integers, with the bits of the operators, whatever the types and zero points of the weights.
#[test]
fn dynamically_quantized_layers_run_on_integers() -> Result<()> {
    for (dtype, weights, zero_points, scales, scaled) in [
        (
            "int8",
            "-128, 127, 3, 4, -5, 6",
            "",
            "float[2] ws = {0.5, 0.03}",
            "Mul (s, ws)",
        ),
        (
            "uint8",
            "0, 255, 3, 4, 130, 6",
            ", uint8 wz = {128}",
            "float ws = {0.02}",
            "Mul (ws, s)",
        ),
        (
            "int8",
            "-60, 63, 3, 4, -5, 6",
            ", int8[2] wz = {3, -7}",
            "float[1,2] ws = {0.5, 2.0}",
            "Mul (s, ws)",
        ),
        (
            "int8",
            "-128, 127, 3, 4, -5, 6",
            "",
            "float ws = {1.0}",
            "Identity (s)",
        ),
    ] {
        let operand = if zero_points.is_empty() { "" } else { ", wz" };
        for bias in ["Add (m, b)", "Add (b, m)", "Neg (m)"] {
            let graph = text::parse(
                &format!(
                    "g (float[4,3] x) => (y)
                    <{dtype}[3,2] w = {{{weights}}}{zero_points}, {scales}, float[2] b = {{1.0, -20.0}}> {{
                        q, s, z = DynamicQuantizeLinear (x)
                        [layer] i = MatMulInteger (q, w, z{operand})
                        c = Cast <to = 1> (i)
                        sc = {scaled}
                        m = Mul (c, sc)
                        y = {bias}
                    }}"
                ),
                None,
            )?;
            let plan = compile(&graph)?;
            ensure!(share(&plan)? == 1.0, "{plan:?}");
            let layer = plan.steps().iter().find(|step| step.name == "layer");
            let kernel = layer.context("a layer")?.kernel;
            ensure!(kernel.core() == Core::QLinear, "{kernel}");
            let x = Tensor::new(
                [4, 3],
                (0..12).map(|i| (i * 7 % 12) as f32 * 0.37 - 1.9).collect(),
            )?;
            let expected = interpret(&graph, &[("x", x.clone())])?;
            let found = Session::new(plan.into(), SessionOptions::default())?.run(&[("x", x)])?;
            ensure!(found[0].1 == expected[0], "{found:?}, not {expected:?}");
        }
    }
    Ok(())
}
