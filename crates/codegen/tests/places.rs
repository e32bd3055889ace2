//! Values that are stored in the memory of others: where the memory plan saves copies.

mod support;

use octofold_codegen::{CodegenOptions, compile};
use octofold_ops::families::{
    Activation, Concat, FusedConcat, FusedConv, Layout, Outcome, OutputQuantization, Product, Relu,
    Slice,
};
use octofold_quant::{QParams, QuantType};
use octofold_runtime::{Core, Specialization};
use octofold_tensor::{DType, Tensor};
use support::{Builder, Exactness, Random, check, default, dtype, kernels, params};

/// Convolutions whose results are joined and divided, and how many of those steps have nothing to do.
#[test]
fn what_lies_where_it_belongs_is_not_copied() {
    for signed in [false, true] {
        for batch in [1, 2] {
            for (axis, others) in [(1, false), (3, false), (3, true), (2, false)] {
                join_and_divide(signed, batch, axis, others);
            }
        }
    }
}

fn join_and_divide(signed: bool, batch: usize, axis: i64, others: bool) {
    let mut random = Random::new(11 + axis as u64);
    let mut builder = Builder::new();
    let shape = [batch, 9, 8, 6];
    let x_params = params(&mut random, signed, 0.05);
    let same = params(&mut random, signed, 0.2);
    let full = |params| {
        let dtype = if signed {
            QuantType::Int8
        } else {
            QuantType::Uint8
        };
        OutputQuantization::new(dtype, params, Activation::None)
    };
    let x = builder.input("x", dtype(signed), &shape);
    let mut conv = |builder: &mut Builder, x, from: QParams, in_c: usize, groups: usize, to| {
        let out_c = if groups > 1 { in_c } else { 10 };
        let w = random.tensor(DType::I8, &[out_c, in_c / groups, 3, 3]);
        let w = builder.constant(w);
        let op = FusedConv {
            pads: vec![1; 4],
            group: groups as i64,
            layout: Layout::Nhwc,
            product: Product::integer(from, vec![0.004], Outcome::Bytes(to)),
            ..default(&[])
        };
        builder.node(op, &[Some(x), Some(w)])
    };
    // Along the channels sizes may differ, and the last one of each list is rescaled if `others`.
    let other = QParams {
        scale: same.scale * 1.5,
        ..same
    };
    let third = if others { other } else { same };
    let a = conv(&mut builder, x, x_params, 6, 1, full(same));
    let b = conv(&mut builder, a, same, 10, 10, full(same));
    let c = conv(&mut builder, x, x_params, 6, 1, full(third));
    // `a` has another reader, so that it cannot be a part of rows, but lie in one piece.
    let join = |builder: &mut Builder, operands: &[(_, QParams)]| {
        let op = FusedConcat {
            axis,
            x_scale: operands.iter().map(|(_, params)| params.scale).collect(),
            x_zero_point: (operands.iter())
                .map(|(_, params)| params.zero_point.into())
                .collect(),
            y: full(same),
        };
        let inputs: Vec<_> = operands.iter().map(|&(value, _)| Some(value)).collect();
        builder.node(op, &inputs)
    };
    let joined = join(
        &mut builder,
        &[(a, same), (b, same), (c, third), (c, third)],
    );
    let d = conv(&mut builder, x, x_params, 6, 1, full(same));
    let twice = match axis {
        // The first join is an operand of a second one.
        1 => join(&mut builder, &[(d, same), (joined, same)]),
        _ => joined,
    };
    let channels = if axis == 3 { 40 } else { 10 };
    let last = conv(&mut builder, twice, same, channels, 1, full(same));
    let slice = |builder: &mut Builder, axis: i64, start: i64, end: i64| {
        let mut list = |value: i64| builder.constant(Tensor::vector(vec![value]));
        let (start, end, axis) = (list(start), list(end), list(axis));
        let slice: Slice = default(&[]);
        builder.node(slice, &[Some(last), Some(start), Some(end), Some(axis)])
    };
    let rows = slice(&mut builder, 1, 2, 7);
    let columns = slice(&mut builder, 3, 2, 9);
    for (part, channels) in [(rows, 10), (columns, 7)] {
        let y = conv(&mut builder, part, same, channels, 1, full(same));
        builder.output(y);
    }
    let inputs = [("x", random.tensor(dtype(signed), &shape))];
    let plan = check(&builder.graph, &inputs, Exactness::Bits);
    let sizes = Specialization::new(&plan, &[shape.as_slice().into()], 2).unwrap();
    let moved: Vec<_> = (plan.steps().iter().zip(sizes.costs()))
        .filter(|(step, _)| matches!(step.kernel.core(), Core::QConcat | Core::Move))
        .map(|(step, cost)| (step.kernel.core(), cost.written as usize))
        .collect();
    let piece = batch * 9 * 8 * 10;
    let copied = match (axis, batch, others) {
        // All in one piece, but `c`, which is there twice.
        (1, 1, _) => vec![(Core::QConcat, 2 * piece), (Core::QConcat, 0)],
        (1, ..) => vec![(Core::QConcat, 4 * piece), (Core::QConcat, 5 * piece)],
        // `b` alone writes its parts of rows.
        (3, ..) => vec![(Core::QConcat, 3 * piece)],
        _ => vec![(Core::QConcat, 4 * piece)],
    };
    let (height, width) = match axis {
        1 => (45, 8),
        2 => (9, 32),
        _ => (9, 8),
    };
    // Rows of one image follow each other, channels of pixels do not.
    let rows = if batch == 1 {
        0
    } else {
        batch * 5 * width * 10
    };
    let columns = batch * height * width * 7;
    let slices = [(Core::Move, rows), (Core::Move, columns)];
    assert_eq!(moved, [copied, slices.to_vec()].concat(), "{plan}");
}

/// Floats of convolutions that are joined along the channels: these have rows of their own, and are copied.
#[test]
fn float_results_of_convolutions_are_joined() {
    let mut random = Random::new(2);
    let mut builder = Builder::new();
    let shape = [1, 5, 6, 8];
    let x = builder.input("x", DType::U8, &shape);
    let x_params = params(&mut random, false, 0.05);
    let parts = [7, 12].map(|channels| {
        let w = builder.constant(random.tensor(DType::I8, &[channels, 8, 1, 1]));
        let conv = FusedConv {
            layout: Layout::Nhwc,
            product: Product::integer(x_params, vec![0.004], Outcome::Float(Activation::None)),
            ..default(&[])
        };
        Some(builder.node(conv, &[Some(x), Some(w)]))
    });
    let concat: Concat = default(&[("axis", octofold_ops::Attribute::Int(3))]);
    let joined = builder.node(concat, &parts);
    let clip: Relu = default(&[]);
    let y = builder.node(clip, &[Some(joined)]);
    builder.output(y);
    let inputs = [("x", random.tensor(DType::U8, &shape))];
    let plan = check(&builder.graph, &inputs, Exactness::Bits);
    assert_eq!(kernels(&plan), ["qconv", "qconv", "concat", "fclip"]);
}

/// A slice of what nobody can hold is an error, and not a table of all of its positions.
#[test]
fn slices_of_impossible_sizes_are_refused() {
    let mut builder = Builder::new();
    let x = builder.input("x", DType::U8, &[1 << 30]);
    let concat = |builder: &mut Builder, value| {
        let concat: Concat = default(&[("axis", octofold_ops::Attribute::Int(0))]);
        builder.node(concat, &[Some(value), Some(value)])
    };
    let twice = concat(&mut builder, x);
    let mut list = |value: i64| Some(builder.constant(Tensor::vector(vec![value])));
    let (start, end) = (list(0), list(1));
    let slice: Slice = default(&[]);
    let one = builder.node(slice, &[Some(twice), start, end]);
    let y = concat(&mut builder, one);
    builder.output(y);
    let options = CodegenOptions::default();
    let refused = compile(&builder.graph, &options);
    let error = format!("{:?}", refused.unwrap_err());
    assert!(error.contains("longer than"), "{error}");
}
