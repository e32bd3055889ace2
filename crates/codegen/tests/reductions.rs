//! Reductions, softmax and norms have kernels that give the bits of the portable operators, along any axes.

mod support;

use octofold_ops::families::{
    ArgMax, ArgMin, InstanceNormalization, LayerNormalization, LogSoftmax, LpNormalization,
    ReduceL1, ReduceL2, ReduceLogSum, ReduceLogSumExp, ReduceMax, ReduceMean, ReduceMin,
    ReduceProd, ReduceSum, ReduceSumSquare, Softmax,
};
use octofold_ops::{Attribute, Described, Op};
use octofold_runtime::Core;
use octofold_tensor::{DType, Tensor};
use support::{Builder, Exactness, Random, check};

fn op<T: Described + Into<Op>>(attributes: &[(&str, i64)]) -> Op {
    let mut map = attributes
        .iter()
        .map(|&(name, value)| (name.to_owned(), Attribute::Int(value)))
        .collect();
    T::from_attributes(&mut map)
        .expect("valid attributes")
        .into()
}

/// Compares the plan of one node over `x`, of random numbers, with the interpreter.
fn compare(op: Op, shape: &[usize], constants: Vec<Tensor>, core: Core) {
    // Sums of random numbers of both signs have no logarithm, and no NaN equals another.
    let positive = matches!(op, Op::ReduceLogSum(_));
    let mut random = Random::new(shape.iter().sum::<usize>() as u64);
    let mut builder = Builder::new();
    let x = builder.input("x", DType::F32, shape);
    let constants: Vec<_> = constants
        .into_iter()
        .map(|it| builder.constant(it))
        .collect();
    let operands: Vec<_> = [x].into_iter().chain(constants).map(Some).collect();
    let y = builder.node(op, &operands);
    builder.output(y);
    let mut input = random.tensor(DType::F32, shape);
    if positive {
        let numbers = input.values_mut::<f32>().expect("floats");
        numbers.iter_mut().for_each(|x| *x = x.abs());
    }
    let plan = check(&builder.graph, &[("x", input)], Exactness::Bits);
    assert_eq!(plan.steps()[0].kernel.core(), core, "{plan}");
}

#[test]
fn reductions_over_any_axes() {
    let shape = [3, 5, 4, 37];
    let lists: [&[i64]; 8] = [&[3], &[-3], &[0], &[2, 3], &[1, 2], &[0, 3], &[0, 2], &[]];
    for axes in lists {
        for keepdims in [0, 1] {
            let attributes = [("keepdims", keepdims)];
            let ops = [
                op::<ReduceSum>(&attributes),
                op::<ReduceMean>(&attributes),
                op::<ReduceMax>(&attributes),
                op::<ReduceMin>(&attributes),
                op::<ReduceProd>(&attributes),
                op::<ReduceL1>(&attributes),
                op::<ReduceL2>(&attributes),
                op::<ReduceLogSum>(&attributes),
                op::<ReduceLogSumExp>(&attributes),
                op::<ReduceSumSquare>(&attributes),
            ];
            for op in ops {
                compare(
                    op,
                    &shape,
                    vec![Tensor::vector(axes.to_vec())],
                    Core::FReduce,
                );
            }
        }
    }
    // Sums of nothing, in two passes.
    let axes = Tensor::vector(vec![0_i64, 2]);
    compare(op::<ReduceSum>(&[]), &[2, 3, 0], vec![axes], Core::FReduce);
    // No axes, and nothing to reduce.
    let noop = op::<ReduceSumSquare>(&[("noop_with_empty_axes", 1)]);
    compare(noop, &shape, vec![], Core::FReduce);
    compare(
        op::<ReduceMean>(&[]),
        &[4, 1, 1],
        vec![Tensor::vector(vec![1_i64])],
        Core::FReduce,
    );
    compare(op::<ReduceMax>(&[]), &[], vec![], Core::FReduce);
}

#[test]
fn positions_and_softmax_along_every_axis() {
    let shape = [3, 5, 4, 37];
    for axis in -4..4 {
        for attributes in [
            &[("axis", axis)][..],
            &[("axis", axis), ("keepdims", 0), ("select_last_index", 1)],
        ] {
            compare(op::<ArgMax>(attributes), &shape, vec![], Core::FArg);
            compare(op::<ArgMin>(attributes), &shape, vec![], Core::FArg);
        }
        let along = [("axis", axis)];
        compare(op::<Softmax>(&along), &shape, vec![], Core::FSoftmax);
        compare(op::<LogSoftmax>(&along), &shape, vec![], Core::FSoftmax);
        for p in [1, 2] {
            let norm = op::<LpNormalization>(&[("axis", axis), ("p", p)]);
            compare(norm, &shape, vec![], Core::FDivideByNorm);
        }
    }
}

#[test]
fn norms_of_rows() {
    let shape = [3, 5, 4, 37];
    let mut random = Random::new(8);
    let mut numbers = |shape: &[usize]| random.tensor(DType::F32, shape);
    for axis in [-1, 2, 1, 0] {
        let first = if axis < 0 { 3 } else { axis as usize };
        let norm = || op::<LayerNormalization>(&[("axis", axis)]);
        let (scale, bias) = (numbers(&shape[first..]), numbers(&shape[first..]));
        compare(norm(), &shape, vec![scale.clone()], Core::FNormalize);
        compare(norm(), &shape, vec![scale, bias], Core::FNormalize);
    }
    // Scales that repeat within a row have no kernel.
    compare(
        op::<LayerNormalization>(&[("axis", 2)]),
        &shape,
        vec![numbers(&[37])],
        Core::Portable,
    );
    let norm = op::<InstanceNormalization>(&[]);
    compare(
        norm,
        &shape,
        vec![numbers(&[5]), numbers(&[5])],
        Core::FNormalize,
    );
}
