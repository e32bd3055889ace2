//! Every operand of every operator has a role, and those that passes rely on have the right one.

use octofold_ops::{Attribute, AttributeMap, BodyId, Op, Role};

/// An operator with what its attributes must have.
fn make(domain: &str, name: &str) -> Op {
    let word = |value: &str| Attribute::String(value.to_owned());
    let bytes = [
        ("y_type", word("uint8")),
        ("y_scale", Attribute::Float(0.1)),
        ("y_zero_point", Attribute::Int(0)),
    ];
    let required: Vec<(&str, Attribute)> = match (domain, name) {
        ("", "MaxPool" | "AveragePool") => vec![("kernel_shape", Attribute::Ints(vec![1, 1]))],
        ("", "LRN") => vec![("size", Attribute::Int(1))],
        ("", "Cast") => vec![("to", Attribute::Int(1))],
        ("", "Concat") => vec![("axis", Attribute::Int(0))],
        (_, "DepthToSpace") | ("", "SpaceToDepth") => {
            vec![("blocksize", Attribute::Int(2))]
        }
        ("", "If") => vec![
            ("then_branch", Attribute::Body(BodyId(0))),
            ("else_branch", Attribute::Body(BodyId(1))),
        ],
        ("", "Loop") => vec![("body", Attribute::Body(BodyId(0)))],
        ("", "Scan") => vec![
            ("body", Attribute::Body(BodyId(0))),
            ("num_scan_inputs", Attribute::Int(1)),
        ],
        ("octofold", "Observe") => vec![("id", word("x"))],
        ("octofold", "Binary") => vec![("kind", word("add"))],
        ("octofold", "GlobalPool") => vec![("kind", word("max"))],
        ("octofold", "Pool") => vec![
            ("kind", word("max")),
            ("kernel_shape", Attribute::Ints(vec![1, 1])),
        ],
        ("octofold", "Concat") => [
            ("axis", Attribute::Int(0)),
            ("x_scale", Attribute::Floats(vec![0.1])),
            ("x_zero_point", Attribute::Ints(vec![0])),
        ]
        .into_iter()
        .chain(bytes)
        .collect(),
        _ => vec![],
    };
    let map: AttributeMap = required
        .into_iter()
        .map(|(name, value)| (name.to_owned(), value))
        .collect();
    Op::from_attributes(domain, name, map).unwrap_or_else(|error| panic!("{name}: {error}"))
}

fn roles(domain: &str, name: &str) -> Vec<Role> {
    let op = make(domain, name);
    (0..9).map_while(|slot| op.role(slot)).collect()
}

#[test]
fn every_operand_has_a_role_and_no_other_slot() {
    for &(domain, name) in Op::NAMES {
        let op = make(domain, name);
        let most = *op.arity().inputs.end();
        for slot in 0..most.min(20) {
            assert!(op.role(slot).is_some(), "{name} has an input {slot}");
        }
        if most < 20 {
            assert_eq!(op.role(most), None, "{name} has no input {most}");
        }
    }
}

/// Against the lists of inputs in ONNX's operator documentation.
#[test]
fn roles_are_those_of_the_names_of_onnx() {
    use Role::{Activation as A, Bias as B, Index as I, Parameter as P, State as S, Weight as W};
    for (name, expected) in [
        // X, W, B.
        ("Conv", &[A, W, B][..]),
        // X, W, R, B, sequence_lens, initial_h, initial_c, P.
        ("LSTM", &[A, W, W, B, I, S, S, W]),
        // X, W, R, B, sequence_lens, initial_h.
        ("GRU", &[A, W, W, B, I, S]),
        // X, scale, B, input_mean, input_var.
        ("BatchNormalization", &[A, W, B, S, S]),
        // x, x_scale, x_zero_point, w, w_scale, w_zero_point, y_scale, y_zero_point, B.
        ("QLinearConv", &[A, P, P, W, P, P, P, P, B]),
        // a, a_scale, a_zero_point, b, b_scale, b_zero_point, y_scale, y_zero_point.
        ("QLinearMatMul", &[A, P, P, A, P, P, P, P]),
        // A, B, a_zero_point, b_zero_point.
        ("MatMulInteger", &[A, A, P, P]),
        // X, roi, scales, sizes.
        ("Resize", &[A, P, P, I]),
        // data, pads, constant_value, axes.
        ("Pad", &[A, I, P, I]),
        // condition, X, Y.
        ("Where", &[I, A, A]),
        // boxes, scores, max_output_boxes_per_class, iou_threshold, score_threshold.
        ("NonMaxSuppression", &[A, A, I, P, P]),
        // x, whose parameters are computed.
        ("DynamicQuantizeLinear", &[A]),
    ] {
        assert_eq!(roles("", name), expected, "{name}");
    }
    // x, w, bias, residual.
    assert_eq!(roles("octofold", "Conv"), [A, W, B, A]);
    assert_eq!(make("", "Concat").role(1000), Some(A));
}
