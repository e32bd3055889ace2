//! Operators of `com.microsoft` that fuse or quantize dynamically become ONNX operators with the same results.
//!
//! The expected numbers are what ONNX Runtime 1.32.0 gives with its optimizations off.

use octofold_ir::interpret;
use octofold_ir::onnx::proto::AttributeProto;
use octofold_tensor::{Element, Tensor};

use crate::support::{self, float, floats, graph, int, ints, model, node, refusal, value, word};

fn t<T: Element>(shape: &[usize], values: Vec<T>) -> Tensor {
    Tensor::new(shape.iter().copied(), values).unwrap()
}

/// A node whose operand `x` is the input of the model; operands without a name are left out.
fn contributed(
    op: &str,
    inputs: &[(&str, Tensor)],
    attributes: &[AttributeProto],
) -> octofold_ir::onnx::proto::ModelProto {
    let names: Vec<&str> = inputs.iter().map(|(name, _)| *name).collect();
    let mut node = node(op, &names, &["y"], attributes);
    node.domain = Some("com.microsoft".to_owned());
    let x = &inputs.iter().find(|(name, _)| *name == "x").unwrap().1;
    let shape: Vec<i64> = x.shape().iter().map(|&size| size as i64).collect();
    let constants: Vec<(&str, Tensor)> = inputs
        .iter()
        .filter(|(name, _)| !matches!(*name, "x" | ""))
        .cloned()
        .collect();
    let inputs = [value("x", x.dtype(), &shape)];
    let mut model = model(17, &inputs, &constants, &[node], &["y"]);
    let import = support::import_of("com.microsoft", 1);
    model.opset_import.push(import);
    model
}

fn result(op: &str, inputs: &[(&str, Tensor)], attributes: &[AttributeProto]) -> Tensor {
    let graph = graph(&contributed(op, inputs, attributes));
    let x = inputs.iter().find(|(name, _)| *name == "x").unwrap();
    interpret(&graph, std::slice::from_ref(x))
        .unwrap()
        .remove(0)
}

/// Floats that differ by no more than a tolerance, integers that are equal.
fn close(found: &Tensor, expected: &Tensor, tolerance: f32) {
    assert_eq!(found.shape(), expected.shape());
    if let (Ok(a), Ok(b)) = (found.values::<f32>(), expected.values::<f32>()) {
        let near = |(a, b): (&f32, &f32)| (a - b).abs() <= tolerance;
        assert!(a.iter().zip(b).all(near), "{a:?}, expected {b:?}");
    } else {
        assert_eq!(found, expected);
    }
}

#[test]
fn integer_products_in_float() {
    let inputs = [
        ("x", t::<u8>(&[2, 3], vec![34, 32, 204, 127, 151, 153])),
        ("b", t::<i8>(&[3, 2], vec![54, -121, -4, -91, -26, 109])),
        ("sa", t::<f32>(&[], vec![0.03])),
        ("sb", t::<f32>(&[2], vec![0.02, 0.05])),
        ("za", t::<u8>(&[], vec![120])),
        ("zb", t::<i8>(&[2], vec![3, -4])),
        ("bias", t::<f32>(&[2], vec![0.57, -0.06])),
    ];
    let y = result("MatMulIntegerToFloat", &inputs, &[]);
    let expected = t::<f32>(&[2, 2], vec![-3.1536, 40.754997, 0.07980001, 0.2595]);
    close(&y, &expected, 0.0);
}

#[test]
fn dynamically_quantized_products() {
    let inputs = [
        (
            "x",
            t::<f32>(&[2, 3], vec![0.75, -1.85, 1.57, -0.1, 0.68, -0.14]),
        ),
        ("b", t::<i8>(&[3, 2], vec![91, -93, -39, 73, -65, 43])),
        ("sb", t::<f32>(&[], vec![0.02])),
        ("zb", t::<i8>(&[], vec![3])),
        ("bias", t::<f32>(&[2], vec![-0.2, -0.15])),
    ];
    let y = result("DynamicQuantizeMatMul", &inputs, &[]);
    let expected = t::<f32>(
        &[2, 2],
        vec![0.54247534, -2.927845, -0.75739294, 0.88056004],
    );
    close(&y, &expected, 0.0);
}

#[test]
fn normalized_sums() {
    let inputs = [
        (
            "x",
            t::<f32>(
                &[1, 2, 4],
                vec![0.69, -0.87, -1.51, 0.39, -0.67, -1.92, -0.81, -0.47],
            ),
        ),
        (
            "s",
            t::<f32>(
                &[1, 2, 4],
                vec![-1.19, -1.49, 0.04, 0.9, -0.23, -0.74, 0.38, 0.72],
            ),
        ),
        ("g", t::<f32>(&[4], vec![-0.3, 0.54, 1.04, -0.21])),
        ("b", t::<f32>(&[4], vec![-0.81, 0.35, 0.25, 1.1])),
        ("bias", t::<f32>(&[4], vec![-1.28, -0.66, -0.84, -1.73])),
    ];
    let y = result("SkipLayerNormalization", &inputs, &[float("epsilon", 0.01)]);
    let expected = t::<f32>(
        &[1, 2, 4],
        vec![
            -0.84395736,
            -0.2939265,
            -0.21266237,
            0.77993214,
            -0.76629853,
            -0.49185726,
            1.2718081,
            0.94834673,
        ],
    );
    close(&y, &expected, 2e-6);
}

#[test]
fn convolutions_with_a_sum_and_an_activation() {
    let inputs = [
        (
            "x",
            t::<f32>(
                &[1, 1, 3, 3],
                vec![0.13, 0.53, -0.74, 1.39, 0.82, 0.63, 0.4, 0.96, -1.33],
            ),
        ),
        ("w", t::<f32>(&[1, 1, 2, 2], vec![0.61, 0.6, -1.77, 0.35])),
        ("b", t::<f32>(&[1], vec![-0.25])),
        ("z", t::<f32>(&[1, 1, 2, 2], vec![0.78, -0.44, -0.02, 0.34])),
    ];
    let y = result(
        "FusedConv",
        &inputs,
        &[
            word("activation", "LeakyRelu"),
            floats("activation_params", &[0.1]),
        ],
    );
    let expected = t::<f32>(
        &[1, 1, 2, 2],
        vec![-0.12460001, -0.20416, 0.69790006, -0.119649984],
    );
    close(&y, &expected, 1e-6);
}

#[test]
fn weights_of_four_bits() {
    let inputs = [
        (
            "x",
            t::<f32>(
                &[1, 24],
                vec![
                    -0.88, 0.6, -0.1, 0.49, -0.52, 1.09, 0.61, -0.18, 0.63, 1.26, 1.79, -1.57,
                    0.88, 0.47, -0.09, -1.01, 1.26, -1.26, 0.57, 1.3, -1.6, -0.3, -1.31, 0.24,
                ],
            ),
        ),
        (
            "b",
            t::<u8>(
                &[2, 2, 8],
                vec![
                    250, 62, 43, 216, 77, 189, 74, 139, 20, 169, 234, 177, 225, 199, 145, 237, 122,
                    38, 142, 160, 45, 36, 169, 113, 123, 201, 175, 229, 42, 194, 138, 9,
                ],
            ),
        ),
        (
            "s",
            t::<f32>(&[4], vec![0.26999998, 0.11, 0.25, 0.049999997]),
        ),
        ("z", t::<u8>(&[2], vec![247, 62])),
    ];
    let y = result(
        "MatMulNBits",
        &inputs,
        &[
            int("K", 24),
            int("N", 2),
            int("bits", 4),
            int("block_size", 16),
        ],
    );
    let expected = t::<f32>(&[1, 2], vec![1.0208001, -8.2985]);
    close(&y, &expected, 1e-5);
}

#[test]
fn means_with_channels_last() {
    let inputs = [
        (
            "x",
            t::<u8>(
                &[1, 3, 3, 2],
                vec![
                    223, 91, 193, 15, 161, 222, 86, 162, 55, 40, 0, 127, 133, 20, 58, 156, 93, 59,
                ],
            ),
        ),
        ("sx", t::<f32>(&[], vec![0.05])),
        ("zx", t::<u8>(&[], vec![100])),
        ("sy", t::<f32>(&[], vec![0.03])),
        ("zy", t::<u8>(&[], vec![90])),
    ];
    let y = result(
        "QLinearAveragePool",
        &inputs,
        &[int("channels_last", 1), ints("kernel_shape", &[2, 2])],
    );
    let expected = t::<u8>(&[1, 2, 2, 2], vec![155, 52, 94, 92, 62, 81, 9, 82]);
    close(&y, &expected, 0.0);
}

#[test]
fn choices() {
    let inputs = [
        ("c", t::<bool>(&[3], vec![true, false, true])),
        ("x", t::<u8>(&[3], vec![1, 9, 163])),
        ("sx", t::<f32>(&[], vec![0.05])),
        ("zx", t::<u8>(&[], vec![100])),
        ("q", t::<u8>(&[3], vec![29, 216, 142])),
        ("sq", t::<f32>(&[], vec![0.03])),
        ("zq", t::<u8>(&[], vec![9])),
        ("sy", t::<f32>(&[], vec![0.06])),
        ("zy", t::<u8>(&[], vec![50])),
    ];
    let y = result("QLinearWhere", &inputs, &[]);
    let expected = t::<u8>(&[3], vec![0, 154, 103]);
    close(&y, &expected, 0.0);
}

#[test]
fn recurrent_layers() {
    let inputs = [
        (
            "x",
            t::<f32>(&[3, 1, 2], vec![-0.27, -0.35, 0.19, 1.09, 0.02, 0.92]),
        ),
        (
            "w",
            t::<i8>(
                &[1, 2, 8],
                vec![
                    104, -27, -101, 105, 17, -99, -107, -106, 105, 15, 46, 118, -26, 104, -25, 51,
                ],
            ),
        ),
        (
            "r",
            t::<i8>(
                &[1, 2, 8],
                vec![
                    83, -111, 59, 78, 120, 46, -4, -92, 68, -9, 78, -116, -40, 77, 28, 55,
                ],
            ),
        ),
        ("", t::<f32>(&[0], vec![])),
        ("", t::<f32>(&[0], vec![])),
        ("", t::<f32>(&[0], vec![])),
        ("", t::<f32>(&[0], vec![])),
        ("", t::<f32>(&[0], vec![])),
        ("sw", t::<f32>(&[1], vec![0.01])),
        ("zw", t::<i8>(&[1], vec![2])),
        ("sr", t::<f32>(&[1], vec![0.01])),
        ("zr", t::<i8>(&[1], vec![0])),
    ];
    let y = result("DynamicQuantizeLSTM", &inputs, &[int("hidden_size", 2)]);
    let expected = t::<f32>(
        &[3, 1, 1, 2],
        vec![
            0.06786548,
            0.020512853,
            -0.17666657,
            0.14484684,
            -0.15995711,
            0.2977281,
        ],
    );
    close(&y, &expected, 5e-3);
}

#[test]
fn what_does_not_fit_is_refused() {
    let x = ("x", t(&[1, 24], vec![0.0_f32; 24]));
    let scales = ("s", t(&[4], vec![0.1_f32; 4]));
    let sizes = [
        int("K", 24),
        int("N", 2),
        int("bits", 4),
        int("block_size", 16),
    ];
    let short = [
        x.clone(),
        ("b", t(&[2, 2, 7], vec![0_u8; 28])),
        scales.clone(),
    ];
    let text = refusal(&contributed("MatMulNBits", &short, &sizes));
    assert!(text.contains("expected 2 rows of 16 bytes"), "{text}");
    let few = [x.clone(), ("b", t(&[2, 2, 8], vec![0_u8; 32])), scales];
    let text = refusal(&contributed("MatMulNBits", &few, &[int("K", 0)]));
    assert!(text.contains("attribute `K`: 0 is not positive"), "{text}");
    let conv = [
        ("x", t(&[1, 1, 3, 3], vec![0.0_f32; 9])),
        ("w", t(&[1, 1, 2, 2], vec![0.0_f32; 4])),
    ];
    let text = refusal(&contributed(
        "FusedConv",
        &conv,
        &[word("activation", "Gelu")],
    ));
    assert!(text.contains("attribute `activation`"), "{text}");
}
