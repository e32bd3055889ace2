//! What a layer computes: every form is read as it is written, illegal ones are refused, and those that nothing computes yet by their names.

use octofold_ops::families::{
    Activation, Outcome, OutputQuantization, Parameters, Product, Weights,
};
use octofold_ops::{Attribute, AttributeMap, Op, OpError};
use octofold_quant::{QParams, QuantType};

const X: QParams = QParams {
    scale: 0.02,
    zero_point: 100,
};

fn float(value: f32) -> Attribute {
    Attribute::Float(value)
}

fn word(value: &str) -> Attribute {
    Attribute::String(value.to_owned())
}

fn int(value: i64) -> Attribute {
    Attribute::Int(value)
}

/// An operator of our domain with attributes.
fn read(name: &str, attributes: &[(&str, Attribute)]) -> Result<Op, OpError> {
    let map: AttributeMap = attributes
        .iter()
        .map(|(name, value)| ((*name).to_owned(), value.clone()))
        .collect();
    Op::from_attributes("octofold", name, map)
}

fn fixed(name: &str) -> [(String, Attribute); 2] {
    [
        (format!("{name}_scale"), float(0.5)),
        (format!("{name}_zero_point"), int(3)),
    ]
}

fn bytes(name: &str) -> Vec<(String, Attribute)> {
    let mut attributes = vec![(format!("{name}_type"), word("uint8"))];
    attributes.extend(fixed(name));
    attributes
}

fn integer_layer() -> Vec<(String, Attribute)> {
    let mut attributes = fixed("x").to_vec();
    attributes.push(("w_scale".to_owned(), Attribute::Floats(vec![0.1, 0.2])));
    attributes
}

/// The attributes of each legal form of a convolution, and whether its result is quantized.
fn legal() -> Vec<(Vec<(String, Attribute)>, bool)> {
    let join = |parts: &[Vec<(String, Attribute)>]| parts.concat();
    let relu = vec![("activation".to_owned(), word("relu"))];
    vec![
        (vec![], false),
        (relu.clone(), false),
        (join(&[relu, integer_layer()]), false),
        (join(&[integer_layer(), bytes("y")]), true),
        (
            join(&[
                integer_layer(),
                bytes("y"),
                fixed("residual").to_vec(),
                bytes("sum"),
            ]),
            true,
        ),
        (
            join(&[integer_layer(), vec![("y_type".to_owned(), word("int32"))]]),
            false,
        ),
    ]
}

#[test]
fn legal_forms_are_read_as_they_are_written() {
    for (attributes, quantized) in legal() {
        let map = attributes.iter().cloned().collect();
        let op = Op::from_attributes("octofold", "Conv", map).unwrap();
        let product = op.product().unwrap();
        assert_eq!(product.y().is_some(), quantized, "{attributes:?}");
        assert_eq!(op.attributes(), attributes);
    }
}

/// Each legal form without one of its attributes is another legal form or an error.
#[test]
fn no_attribute_is_dropped_in_silence() {
    for (attributes, _) in legal() {
        for left_out in 0..attributes.len() {
            let mut rest = attributes.clone();
            let (name, _) = rest.remove(left_out);
            let made = Op::from_attributes("octofold", "Conv", rest.iter().cloned().collect());
            if let Ok(op) = made {
                assert_eq!(op.attributes(), rest, "without {name}");
            }
        }
    }
}

#[test]
fn illegal_forms_are_refused_by_the_attribute() {
    let scales = ("w_scale", Attribute::Floats(vec![0.1]));
    let x = [("x_scale", float(0.5)), ("x_zero_point", int(0))];
    let y = [
        ("y_type", word("uint8")),
        ("y_scale", float(0.5)),
        ("y_zero_point", int(0)),
    ];
    let residual = [
        ("residual_scale", float(0.5)),
        ("residual_zero_point", int(0)),
    ];
    let sum = [
        ("sum_type", word("uint8")),
        ("sum_scale", float(0.5)),
        ("sum_zero_point", int(0)),
    ];
    let layer = [x.to_vec(), vec![scales.clone()]].concat();
    for (attributes, refused) in [
        (y.to_vec(), "x_scale"),
        (x.to_vec(), "w_scale"),
        ([layer.clone(), residual.to_vec()].concat(), "y_scale"),
        ([layer.clone(), sum.to_vec()].concat(), "y_scale"),
        (
            [layer.clone(), y.to_vec(), residual.to_vec()].concat(),
            "sum_scale",
        ),
        (
            [layer.clone(), y.to_vec(), sum.to_vec()].concat(),
            "residual_scale",
        ),
        (
            [
                layer.clone(),
                y.to_vec(),
                vec![("activation", word("relu"))],
            ]
            .concat(),
            "activation",
        ),
        (
            [layer.clone(), vec![("x_extent", word("row"))]].concat(),
            "x_extent",
        ),
        (
            [layer.clone(), vec![("w_block_size", int(32))]].concat(),
            "w_scale",
        ),
        (
            [x.to_vec(), vec![("w_scale", Attribute::Floats(vec![]))]].concat(),
            "w_scale",
        ),
        (
            [layer, vec![("w_zero_point", Attribute::Ints(vec![1, 2]))]].concat(),
            "w_zero_point",
        ),
        (
            vec![("w_block_size", int(32)), ("w_bits", int(3))],
            "w_bits",
        ),
        (vec![("w_block_size", int(33))], "w_block_size"),
        (vec![("x_extent", word("column")), scales], "x_extent"),
    ] {
        let error = read("Conv", &attributes).unwrap_err();
        match &error {
            OpError::Attribute { name, .. } => assert_eq!(name, refused, "{error}"),
            other => panic!("{attributes:?}: {other}"),
        }
    }
}

#[test]
fn forms_that_nothing_computes_are_refused_by_name() {
    let scales = ("w_scale", Attribute::Floats(vec![0.1]));
    let x = [("x_scale", float(0.5)), ("x_zero_point", int(0))];
    let by_row = ("x_extent", word("row"));
    let blocks = [("w_block_size", int(32)), ("w_bits", int(4))];
    let zero_points = ("w_zero_point", Attribute::Ints(vec![7]));
    let computed = [
        ("w_computed_scale", float(0.5)),
        ("w_computed_zero_point", int(0)),
    ];
    let state = [
        ("h_extent", word("sample")),
        ("r_scale", Attribute::Floats(vec![0.1])),
    ];
    for (name, attributes, what) in [
        (
            "Linear",
            vec![by_row.clone(), scales.clone()],
            "products of operands with a scale for each row of a run",
        ),
        (
            "Linear",
            [x.to_vec(), vec![scales.clone(), zero_points]].concat(),
            "weights with zero points",
        ),
        (
            "Linear",
            [vec![by_row], blocks.to_vec()].concat(),
            "weights of 4 bits in blocks of 32",
        ),
        (
            "Linear",
            blocks.to_vec(),
            "products of floats with quantized weights",
        ),
        (
            "Linear",
            [x.to_vec(), computed.to_vec()].concat(),
            "products of two computed operands",
        ),
        (
            "LSTM",
            [x.to_vec(), vec![scales.clone()], state.to_vec()].concat(),
            "products of operands with a scale for each sample of a run",
        ),
        (
            "LSTM",
            [
                x.to_vec(),
                vec![
                    scales.clone(),
                    ("h_scale", float(0.5)),
                    ("h_zero_point", int(0)),
                    ("r_scale", Attribute::Floats(vec![0.1])),
                ],
            ]
            .concat(),
            "recurrent layers on integers",
        ),
        (
            "ChannelRescale",
            [
                x.to_vec(),
                vec![
                    ("y_type", word("int8")),
                    ("y_scale", float(0.5)),
                    ("y_zero_point", int(0)),
                ],
            ]
            .concat(),
            "rescalings of channels without a product",
        ),
    ] {
        let error = read(name, &attributes).unwrap_err();
        assert_eq!(error, OpError::NoKernel(what.to_owned()));
    }
    assert!(matches!(
        read("GRU", &[]),
        Err(OpError::UnknownOperator(name)) if name == "octofold.GRU"
    ));
}

/// What is made by hand passes through the same check.
#[test]
fn numbers_are_checked() {
    let integer = |w_scale, result| Product::integer(X, w_scale, result);
    let y = OutputQuantization::new(QuantType::Int8, X, Activation::Relu);
    assert_eq!(integer(vec![0.1], Outcome::Bytes(y)).check(), Ok(()));
    for w_scale in [vec![], vec![0.0], vec![f32::INFINITY], vec![0.1, -0.1]] {
        assert!(integer(w_scale, Outcome::Bytes(y)).check().is_err());
    }
    let reversed = OutputQuantization { lo: 5, hi: 4, ..y };
    let residual = |own, sum| Outcome::Residual {
        own,
        residual: X,
        sum,
    };
    assert!(
        integer(vec![0.1], Outcome::Bytes(reversed))
            .check()
            .is_err()
    );
    assert_eq!(integer(vec![0.1], residual(y, y)).check(), Ok(()));
    assert!(integer(vec![0.1], residual(reversed, y)).check().is_err());
    assert!(integer(vec![0.1], residual(y, reversed)).check().is_err());
    let blocks = Weights::Blocks {
        size: 32,
        bits: 4,
        zero_points: true,
    };
    let computed = Weights::Computed(Parameters::Fixed(X));
    for w in [blocks, computed] {
        let activation = Activation::None;
        let error = Product::WeightOnly { w, activation }.check().unwrap_err();
        assert!(matches!(error, OpError::NoKernel(_)));
    }
}

#[test]
fn a_residual_is_given_where_it_is_added() {
    let y = OutputQuantization::new(QuantType::Uint8, X, Activation::None);
    let (own, residual, sum) = (y, X, y);
    let summed = Outcome::Residual { own, residual, sum };
    for (product, without, with) in [
        (Product::default(), true, true),
        (
            Product::integer(X, vec![0.1], Outcome::Bytes(y)),
            true,
            false,
        ),
        (
            Product::integer(X, vec![0.1], Outcome::Float(Activation::Relu)),
            true,
            false,
        ),
        (Product::integer(X, vec![0.1], summed), false, true),
    ] {
        assert_eq!(product.check_residual(false).is_ok(), without);
        assert_eq!(product.check_residual(true).is_ok(), with);
    }
}
