//! The quantized operators of `com.microsoft` become ONNX operators with the same results.
//!
//! The expected numbers are what ONNX Runtime 1.32.0 gives with its optimizations off (on a processor with AVX-512 VNNI).

use octofold_ir::onnx::ExportOptions;
use octofold_ir::onnx::proto::{AttributeProto, ModelProto};
use octofold_ir::{Graph, interpret};
use octofold_tensor::Tensor;

use crate::support::{self, float, graph, int, ints, model, node, operators, refusal, value};

/// A node with its operands; the one of the name `x` is the input of the model, empty names are left out.
fn contributed(op: &str, inputs: &[(&str, Tensor)], attributes: &[AttributeProto]) -> ModelProto {
    let names: Vec<&str> = inputs.iter().map(|(name, _)| *name).collect();
    let mut node = node(op, &names, &["y"], attributes);
    node.domain = Some("com.microsoft".to_owned());
    let x = &inputs.iter().find(|(name, _)| *name == "x").unwrap().1;
    let shape: Vec<i64> = x.shape().iter().map(|&size| size as i64).collect();
    let constants: Vec<(&str, Tensor)> = inputs
        .iter()
        .filter(|(name, _)| !matches!(*name, "x" | ""))
        .map(|(name, tensor)| (*name, tensor.clone()))
        .collect();
    let mut model = model(
        17,
        &[value("x", x.dtype(), &shape)],
        &constants,
        &[node],
        &["y"],
    );
    model
        .opset_import
        .push(support::import_of("com.microsoft", 1));
    model
}

/// The result of a node, which what is exported gives as well.
fn result(op: &str, inputs: &[(&str, Tensor)], attributes: &[AttributeProto]) -> Tensor {
    let x = &inputs.iter().find(|(name, _)| *name == "x").unwrap().1;
    let run = |graph: &Graph| interpret(graph, &[("x", x.clone())]).unwrap().remove(0);
    let graph = graph(&contributed(op, inputs, attributes));
    octofold_ir::verify(&graph).unwrap();
    let y = run(&graph);
    let bytes = support::exported(&graph, &ExportOptions::default());
    let again = octofold_ir::onnx::import_bytes(bytes, None, &Default::default()).unwrap();
    assert_eq!(run(&again), y);
    y
}

fn refused(op: &str, inputs: &[(&str, Tensor)], attributes: &[AttributeProto]) -> String {
    let text = refusal(&contributed(op, inputs, attributes));
    let place = format!("node `{op}_0` (com.microsoft.{op}, opset 1): ");
    assert!(text.contains(&place), "{text}");
    text
}

fn u8s(shape: &[usize], values: &[u8]) -> Tensor {
    Tensor::new(shape.iter().copied(), values.to_vec()).unwrap()
}

fn i8s(shape: &[usize], values: &[i8]) -> Tensor {
    Tensor::new(shape.iter().copied(), values.to_vec()).unwrap()
}

fn f(value: f32) -> Tensor {
    Tensor::scalar(value)
}

fn u(value: u8) -> Tensor {
    Tensor::scalar(value)
}

fn a() -> Tensor {
    u8s(&[2, 3], &[0, 17, 100, 128, 200, 255])
}

fn b() -> Tensor {
    u8s(&[2, 3], &[3, 250, 7, 90, 128, 31])
}

fn images() -> Tensor {
    let bytes = [
        0, 10, 20, 30, 40, 250, 60, 71, 255, 1, 2, 3, 4, 5, 6, 7, 8, 90,
    ];
    u8s(&[1, 2, 3, 3], &bytes)
}

/// The operands of an operator of two operands and a result.
fn two(y_scale: f32) -> Vec<(&'static str, Tensor)> {
    vec![
        ("x", a()),
        ("sx", f(0.1)),
        ("zx", u(100)),
        ("b", b()),
        ("sb", f(0.05)),
        ("zb", u(20)),
        ("sy", f(y_scale)),
        ("zy", u(90)),
    ]
}

/// The operands of an operator of one operand and a result.
fn one(x: Tensor, sx: f32, zx: u8, sy: f32, zy: u8) -> Vec<(&'static str, Tensor)> {
    vec![
        ("x", x),
        ("sx", f(sx)),
        ("zx", u(zx)),
        ("sy", f(sy)),
        ("zy", u(zy)),
    ]
}

#[test]
fn sums_and_products() {
    let sum = result("QLinearAdd", &two(0.13), &[]);
    assert_eq!(sum, u8s(&[2, 3], &[7, 115, 85, 138, 208, 213]));
    let product = result("QLinearMul", &two(0.4), &[]);
    assert_eq!(product, u8s(&[2, 3], &[111, 0, 90, 114, 225, 111]));
    let signed = [
        ("x", i8s(&[2, 3], &[-128, -60, 0, 1, 77, 127])),
        ("sx", f(0.1)),
        ("zx", Tensor::scalar(3_i8)),
        ("b", i8s(&[1, 3], &[5, -100, 30])),
        ("sb", f(0.05)),
        ("zb", Tensor::scalar(-7_i8)),
        ("sy", f(0.13)),
        ("zy", Tensor::scalar(10_i8)),
    ];
    let sum = result("QLinearAdd", &signed, &[]);
    assert_eq!(sum, i8s(&[2, 3], &[-86, -74, 22, 13, 31, 120]));
    let group = graph(&contributed("QLinearAdd", &two(0.13), &[]));
    let expected = [
        "DequantizeLinear",
        "DequantizeLinear",
        "Add",
        "QuantizeLinear",
    ];
    assert_eq!(operators(&group), expected);
}

#[test]
fn a_zero_point_that_is_left_out_is_zero_of_the_type_of_the_operand() {
    let mut inputs = two(0.13);
    for slot in [2, 5] {
        inputs[slot].0 = "";
    }
    inputs.pop();
    // 0.1·q + 0.05·p over 0.13.
    let sum = result("QLinearAdd", &inputs, &[]);
    assert_eq!(sum, u8s(&[2, 3], &[1, 109, 80, 133, 203, 208]));
    let signed = [
        ("x", i8s(&[3], &[-100, 2, 100])),
        ("sx", f(0.5)),
        ("", u(0)),
        ("sy", f(0.5)),
    ];
    let y = result("QLinearLeakyRelu", &signed, &[float("alpha", 0.25)]);
    assert_eq!(y, i8s(&[3], &[-25, 2, 100]));
}

#[test]
fn functions() {
    let y = result("QLinearSigmoid", &one(a(), 0.05, 128, 1.0 / 256.0, 0), &[]);
    assert_eq!(y, u8s(&[2, 3], &[0, 1, 51, 128, 249, 255]));
    let leaky = one(a(), 0.05, 128, 0.03, 40);
    let y = result("QLinearLeakyRelu", &leaky, &[float("alpha", 0.1)]);
    assert_eq!(y, u8s(&[2, 3], &[19, 22, 35, 40, 160, 252]));
    let y = result("QLinearLeakyRelu", &leaky, &[]);
    assert_eq!(y, u8s(&[2, 3], &[38, 38, 40, 40, 160, 252]));
    let softmax = one(a(), 0.03, 0, 1.0 / 256.0, 0);
    let y = result(
        "QLinearSoftmax",
        &softmax,
        &[int("axis", -1), int("opset", 13)],
    );
    assert_eq!(y, u8s(&[2, 3], &[11, 19, 226, 5, 40, 211]));
    let y = result(
        "QLinearSoftmax",
        &softmax,
        &[int("axis", 0), int("opset", 13)],
    );
    assert_eq!(y, u8s(&[2, 3], &[5, 1, 2, 251, 255, 254]));
    let y = result("QLinearSoftmax", &softmax, &[int("opset", 12)]);
    assert_eq!(y, u8s(&[2, 3], &[11, 19, 226, 5, 40, 211]));
}

#[test]
fn means() {
    let x = one(images(), 0.1, 3, 0.07, 11);
    let y = result("QLinearGlobalAveragePool", &x, &[]);
    assert_eq!(y, u8s(&[1, 2, 1, 1], &[124, 27]));
    let window = |more: &[AttributeProto]| {
        let mut attributes = vec![ints("kernel_shape", &[2, 2]), int("channels_last", 0)];
        attributes.extend_from_slice(more);
        result("QLinearAveragePool", &x, &attributes)
    };
    let y = window(&[ints("pads", &[1, 1, 0, 0]), ints("strides", &[1, 2])]);
    let expected = [7, 28, 28, 121, 71, 227, 8, 10, 10, 12, 15, 46];
    assert_eq!(y, u8s(&[1, 2, 3, 2], &expected));
    let padded = [
        ints("pads", &[1, 1, 0, 0]),
        ints("strides", &[2, 2]),
        int("count_include_pad", 1),
    ];
    let y = window(&padded);
    assert_eq!(y, u8s(&[1, 2, 2, 2], &[10, 20, 41, 227, 10, 11, 13, 46]));
    let y = window(&[ints("strides", &[2, 2]), int("ceil_mode", 1)]);
    assert_eq!(y, u8s(&[1, 2, 2, 2], &[35, 200, 100, 255, 11, 13, 17, 135]));
}

#[test]
fn concatenations() {
    let inputs = [
        ("sy", f(0.1)),
        ("zy", u(50)),
        ("x", a()),
        ("sx", f(0.07)),
        ("zx", u(30)),
        ("b", b()),
        ("sb", f(0.2)),
        ("zb", u(99)),
    ];
    let y = result("QLinearConcat", &inputs, &[int("axis", 1)]);
    let expected = [29, 41, 99, 0, 255, 0, 119, 169, 208, 32, 108, 0];
    assert_eq!(y, u8s(&[2, 6], &expected));
    assert!(refused("QLinearConcat", &inputs, &[]).contains("attribute `axis`: is missing"));
    let without_scale = refused("QLinearConcat", &inputs[..6], &[int("axis", 1)]);
    assert!(
        without_scale.contains("required input 6 is missing"),
        "{without_scale}"
    );
}

/// `A`, the weights, a bias of i32, and what is further.
fn product(x: Tensor, w: Tensor, scale: Tensor, bias: &[i32]) -> Vec<(&'static str, Tensor)> {
    let zeros = match scale.shape() {
        [] => Tensor::scalar(0_i8),
        shape => Tensor::vector(vec![0_i8; shape[0]]),
    };
    vec![
        ("x", x),
        ("sx", f(0.1)),
        ("zx", u(100)),
        ("w", w),
        ("sw", scale),
        ("zw", zeros),
        (
            if bias.is_empty() { "" } else { "c" },
            Tensor::vector(bias.to_vec()),
        ),
        ("sy", f(0.5)),
        ("zy", u(120)),
    ]
}

fn weights() -> Tensor {
    i8s(&[3, 2], &[1, -2, 127, -128, 5, 60])
}

#[test]
fn matrix_products() {
    let plain = product(a(), weights(), f(0.02), &[100, -200]);
    assert_eq!(
        result("QGemm", &plain, &[]),
        u8s(&[2, 2], &[78, 162, 174, 105])
    );
    let columns = i8s(&[2, 3], &[1, 127, 5, -2, -128, 60]);
    let scales = Tensor::vector(vec![0.02_f32, 0.05]);
    let channels = product(a(), columns, scales, &[100, -200]);
    let y = result("QGemm", &channels, &[int("transB", 1)]);
    assert_eq!(y, u8s(&[2, 2], &[78, 226, 174, 82]));
    let rows = u8s(&[3, 2], &[0, 128, 17, 200, 100, 255]);
    let y = result(
        "QGemm",
        &product(rows, weights(), f(0.02), &[]),
        &[int("transA", 1)],
    );
    assert_eq!(y, u8s(&[2, 2], &[77, 163, 174, 106]));
    let float_result = result("QGemm", &plain[..7], &[]);
    let expected = [-21.082, 21.248, 27.206, -7.512];
    for (y, expected) in float_result.values::<f32>().unwrap().iter().zip(expected) {
        assert!((y - expected).abs() < 1e-4, "{y} {expected}");
    }
}

#[test]
fn the_factor_of_a_matrix_product_scales_its_bias_as_well() {
    let inputs = product(a(), weights(), f(0.02), &[1000, -2000]);
    let y = result("QGemm", &inputs, &[float("alpha", 0.5)]);
    assert_eq!(y, u8s(&[2, 2], &[101, 138, 149, 109]));
    // No scale is negative, so this factor stays with the product.
    let y = result("QGemm", &inputs, &[float("alpha", -0.5)]);
    assert_eq!(y, u8s(&[2, 2], &[139, 102, 91, 131]));
}

#[test]
fn conversions() {
    let x = Tensor::vector(vec![-1.0_f32, 0.0, 0.3, 9.0]);
    let y = result(
        "QuantizeLinear",
        &[("x", x), ("s", f(0.1)), ("z", u(5))],
        &[],
    );
    assert_eq!(y, u8s(&[4], &[0, 5, 8, 95]));
    let scales = Tensor::vector(vec![0.1_f32, 0.2, 0.5]);
    let zero_points = Tensor::vector(vec![1_u8, 2, 3]);
    let inputs = [("x", a()), ("s", scales), ("z", zero_points)];
    let y = result("DequantizeLinear", &inputs, &[int("axis", 1)]);
    let expected = vec![-0.1_f32, 3.0, 48.5, 12.7, 39.600_002, 126.0];
    assert_eq!(y, Tensor::new([2, 3], expected).unwrap());
}

#[test]
fn what_is_malformed_or_not_supported_is_refused_by_name() {
    let x = one(images(), 0.1, 3, 0.07, 11);
    let text = refused("QLinearAveragePool", &x, &[]);
    assert!(text.contains("kernel_shape"), "{text}");

    let softmax = one(a(), 0.03, 0, 1.0 / 256.0, 0);
    let text = refused("QLinearSoftmax", &softmax, &[]);
    assert!(text.contains("attribute `opset`: is missing"), "{text}");
    let text = refused(
        "QLinearSoftmax",
        &softmax,
        &[int("opset", 12), int("axis", 0)],
    );
    assert!(text.contains("only the last axis"), "{text}");
    refused(
        "QLinearSoftmax",
        &softmax,
        &[int("opset", 12), int("axis", i64::MIN)],
    );
    refused(
        "QLinearSoftmax",
        &softmax,
        &[int("opset", 13), int("axis", 7)],
    );

    let text = refused("QLinearAdd", &two(0.13), &[int("axis", 1)]);
    assert!(text.contains("axis"), "{text}");
    let text = refused("QLinearAdd", &two(0.13)[..6], &[]);
    assert!(text.contains("required input 6 is missing"), "{text}");
    let mut long = two(0.13);
    long.push(("more", u(1)));
    let text = refused("QLinearAdd", &long, &[]);
    assert!(text.contains("has 9 inputs, expected at most 8"), "{text}");
    let mut float_operand = two(0.13);
    float_operand[3].1 = f(1.0);
    let text = refused("QLinearMul", &float_operand, &[]);
    assert!(text.contains("input 3 has elements of type"), "{text}");
    let mut channels = two(0.13);
    channels[1].1 = Tensor::vector(vec![0.1_f32; 3]);
    let text = refused("QLinearMul", &channels, &[]);
    assert!(text.contains("expected one element"), "{text}");
    for scale in [0.0, -1.0, f32::NAN, f32::INFINITY] {
        let text = refused("QLinearAdd", &two(scale), &[]);
        assert!(text.contains("a scale is finite and positive"), "{text}");
    }

    let plain = product(a(), weights(), f(0.02), &[100, -200]);
    let text = refused("QGemm", &plain[..8], &[]);
    assert!(text.contains("expected both or none"), "{text}");
    let text = refused("QGemm", &plain, &[float("alpha", f32::NAN)]);
    assert!(text.contains("attribute `alpha`"), "{text}");
    let mut float_bias = plain.clone();
    float_bias[6].1 = Tensor::vector(vec![1.0_f32, 2.0]);
    let text = refused("QGemm", &float_bias, &[]);
    assert!(text.contains("input 6 has elements of type"), "{text}");
    let mut lengths = plain;
    lengths[5].1 = Tensor::vector(vec![0_i8; 2]);
    let text = refused("QGemm", &lengths, &[]);
    assert!(text.contains("their length has to be the same"), "{text}");
    refused("QGemm", &two(0.1)[..1], &[]);
}
