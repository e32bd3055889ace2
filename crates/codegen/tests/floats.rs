//! Float plans, symbolic shapes, views, taps, and values whose size depends on data.

mod support;

use std::sync::Arc;

use octofold_codegen::{CodegenOptions, Report, compile};
use octofold_ir::TensorType;
use octofold_kernels::Isa;
use octofold_ops::families::{
    Activation, Add, Flatten, FusedConv, FusedGlobalPool, FusedLinear, FusedPool, Layout, Lrn,
    MatMul, NonZero, Observe, PoolKind, Product, Relu, Transpose,
};
use octofold_ops::{Attribute, Described};
use octofold_runtime::{Core, Plan, RunError, Session, SessionOptions, StepCost};
use octofold_tensor::{DType, Dim, Elements, Tensor, TensorData};
use proptest::prelude::*;
use support::{Builder, Exactness, Random, check, plan, session};

fn default<T: Described>(attributes: &[(&str, Attribute)]) -> T {
    let mut map = attributes
        .iter()
        .map(|(name, value)| ((*name).to_owned(), value.clone()))
        .collect();
    T::from_attributes(&mut map).expect("valid attributes")
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn float_networks(
        seed in any::<u64>(), n in 1_usize..3, size in 5_usize..20, c in 1_usize..20, out in 1_usize..40,
        (groups, kernel) in (1_usize..3, 1_usize..4), stride in 1_i64..3, pad in 0_i64..2, residual in any::<bool>(), depthwise in any::<bool>(),
    ) {
        let mut random = Random::new(seed);
        let mut builder = Builder::new();
        let c = c * groups;
        let out = out * groups;
        let (groups, out) = if depthwise { (c, c) } else { (groups, out) };
        let shape = [n, c, size, size];
        let x = builder.input("x", DType::F32, &shape);
        let nhwc = builder.node(Transpose { perm: vec![0, 2, 3, 1] }, &[Some(x)]);
        let w = builder.constant(random.tensor(DType::F32, &[out, c / groups, kernel, kernel]));
        let bias = builder.constant(random.tensor(DType::F32, &[out]));
        let conv = FusedConv {
            strides: vec![stride; 2],
            pads: vec![pad, pad, 0, pad],
            group: groups as i64,
            layout: Layout::Nhwc,
            product: Product::Float(Activation::Relu),
            ..default(&[])
        };
        let mut y = builder.node(conv.clone(), &[Some(nhwc), Some(w), Some(bias)]);
        if residual {
            y = builder.node(FusedConv { product: Product::Float(Activation::Clip { min: -1.0, max: 3.0 }), ..conv }, &[Some(nhwc), Some(w), None, Some(y)]);
        }
        let channel = builder.constant(random.tensor(DType::F32, &[out]));
        let shifted = builder.node(Add {}, &[Some(y), Some(channel)]);
        let relu = builder.node(Relu {}, &[Some(shifted)]);
        let pool = FusedPool {
            pads: vec![0, 0, 1, 1],
            layout: Layout::Nhwc,
            ..default(&[("kind", Attribute::String("max".into())), ("kernel_shape", Attribute::Ints(vec![2, 2]))])
        };
        let pooled = builder.node(pool.clone(), &[Some(relu)]);
        let mean = builder.node(FusedPool { kind: PoolKind::Average, ..pool }, &[Some(relu)]);
        let global = builder.node(FusedGlobalPool { kind: PoolKind::Average, layout: Layout::Nhwc, rescale: None }, &[Some(pooled)]);
        let flat = builder.node(default::<Flatten>(&[]), &[Some(global)]);
        let w = builder.constant(random.tensor(DType::F32, &[out, 11]));
        let linear = builder.node(default::<FusedLinear>(&[]), &[Some(flat), Some(w)]);
        builder.output(linear);
        builder.output(mean);
        let plan = check(&builder.graph, &[("x", random.tensor(DType::F32, &shape))], Exactness::Within(1e-4));
        prop_assert!(plan.steps().iter().all(|step| step.kernel.core() != Core::Portable), "{}", plan);
    }
}

#[test]
fn matrix_products_of_computed_operands() {
    let mut random = Random::new(7);
    for (a_shape, b_shape) in [
        (vec![5, 7], vec![7, 9]),
        (vec![2, 3, 5, 7], vec![2, 3, 7, 4]),
        (vec![3, 5, 7], vec![7, 4]),
    ] {
        let mut builder = Builder::new();
        let a = builder.input("a", DType::F32, &a_shape);
        let b = builder.input("b", DType::F32, &b_shape);
        let y = builder.node(MatMul {}, &[Some(a), Some(b)]);
        builder.output(y);
        let inputs = [
            ("a", random.tensor(DType::F32, &a_shape)),
            ("b", random.tensor(DType::F32, &b_shape)),
        ];
        let plan = check(&builder.graph, &inputs, Exactness::Within(1e-5));
        assert_eq!(plan.steps()[0].kernel.core(), Core::FMatMul);
    }
}

#[test]
fn one_plan_serves_every_batch() {
    let mut builder = Builder::new();
    let shape = [
        Dim::symbol("N"),
        Dim::Known(3),
        Dim::symbol("H"),
        Dim::symbol("H"),
    ];
    let x = builder
        .graph
        .add_input("x", TensorType::new(DType::F32, shape))
        .unwrap();
    let nhwc = builder.node(
        Transpose {
            perm: vec![0, 2, 3, 1],
        },
        &[Some(x)],
    );
    let mut random = Random::new(1);
    let w = builder.constant(random.tensor(DType::F32, &[8, 3, 3, 3]));
    let conv = FusedConv {
        layout: Layout::Nhwc,
        pads: vec![1; 4],
        strides: vec![2, 2],
        ..default(&[])
    };
    let y = builder.node(conv, &[Some(nhwc), Some(w)]);
    let size = ("size", Attribute::Int(3));
    let y = builder.node(default::<Lrn>(&[size]), &[Some(y)]);
    builder.output(y);
    for (batch, size) in [(1, 8), (3, 13), (1, 8)] {
        let x = random.tensor(DType::F32, &[batch, 3, size, size]);
        check(&builder.graph, &[("x", x)], Exactness::Within(1e-5));
    }
    let plan = plan(&builder.graph);
    let mut session = Session::new(Arc::clone(&plan), SessionOptions::default()).unwrap();
    for bad in [vec![1, 3, 8, 9], vec![1, 4, 8, 8], vec![3, 8, 8]] {
        let error = session
            .run(&[("x", random.tensor(DType::F32, &bad))])
            .unwrap_err();
        assert!(matches!(error, RunError::Input { .. }), "{error}");
    }
    assert!(matches!(session.run(&[]), Err(RunError::Input { .. })));
    assert!(matches!(
        session.run(&[("z", random.tensor(DType::F32, &[1]))]),
        Err(RunError::UnknownInput { .. })
    ));
    let x = random.tensor(DType::U8, &[1, 3, 8, 8]);
    assert!(matches!(
        session.run(&[("x", x)]),
        Err(RunError::Input { .. })
    ));

    let report = Report::new(&plan, &plan.input_shapes(|_| 8).unwrap()).unwrap();
    // Eight images of 4 by 4 pixels of 8 channels, each of 27 products.
    assert_eq!(report.macs(), 8 * 4 * 4 * 8 * 27);
    assert_eq!(report.integer_mac_share(), 0.0);
    assert!(
        report
            .steps
            .iter()
            .any(|step| step.kernel.core() == Core::Portable && step.note.contains("LRN"))
    );
}

#[test]
fn taps_see_the_values_and_change_nothing() {
    let mut builder = Builder::new();
    let x = builder.input("x", DType::F32, &[2, 3, 4, 5]);
    let seen = builder.node(Observe { id: "x".into() }, &[Some(x)]);
    let nhwc = builder.node(
        Transpose {
            perm: vec![0, 2, 3, 1],
        },
        &[Some(seen)],
    );
    let relu = builder.node(Relu {}, &[Some(nhwc)]);
    let seen = builder.node(Observe { id: "relu".into() }, &[Some(relu)]);
    let back = builder.node(
        Transpose {
            perm: vec![0, 3, 1, 2],
        },
        &[Some(seen)],
    );
    builder.output(back);
    let x = Random::new(5).tensor(DType::F32, &[2, 3, 4, 5]);
    check(&builder.graph, &[("x", x.clone())], Exactness::Bits);
    let plan = plan(&builder.graph);
    assert_eq!(
        plan.taps()
            .iter()
            .map(|tap| tap.id.as_str())
            .collect::<Vec<_>>(),
        ["x", "relu"]
    );
    let mut session = Session::new(plan, SessionOptions::default()).unwrap();
    let mut shown = Vec::new();
    let outputs = session.run_with_taps(&[("x", x.clone())], |index, tap, view| {
        let sum = view
            .floats()
            .ok_or("no floats")?
            .iter()
            .map(|&x| f64::from(x))
            .sum::<f64>();
        shown.push((
            index,
            tap.id.clone(),
            view.shape().to_vec(),
            view.channels_last(),
            sum,
        ));
        Ok(())
    });
    let outputs = outputs.unwrap();
    let sum = |tensor: &Tensor| {
        tensor
            .values::<f32>()
            .unwrap()
            .iter()
            .map(|&x| f64::from(x))
            .sum::<f64>()
    };
    assert_eq!(
        shown[0],
        (0, "x".to_owned(), vec![2, 3, 4, 5], false, sum(&x))
    );
    assert_eq!(
        (shown[1].0, &shown[1].2, shown[1].3),
        (1, &vec![2, 4, 5, 3], true)
    );
    assert!((shown[1].4 - sum(&outputs[0].1)).abs() < 1e-9);
    let failed = session.run_with_taps(&[("x", x)], |_, _, _| Err("enough".into()));
    assert!(matches!(failed, Err(RunError::Step { .. })));
}

#[test]
fn sizes_that_depend_on_data_live_on_the_heap() {
    let mut builder = Builder::new();
    let x = builder.input("x", DType::F32, &[3, 4]);
    let relu = builder.node(Relu {}, &[Some(x)]);
    let found = builder.node(NonZero {}, &[Some(relu)]);
    builder.output(found);
    builder.output(relu);
    for seed in 0..3 {
        let x = Random::new(seed).tensor(DType::F32, &[3, 4]);
        let plan = check(&builder.graph, &[("x", x)], Exactness::Bits);
        assert!(
            plan.steps()
                .iter()
                .any(|step| step.note.contains("depends on data")),
            "{plan}"
        );
    }
}

#[test]
fn portable_plans_and_profiles() {
    let mut builder = Builder::new();
    let x = builder.input("x", DType::F32, &[1, 64]);
    let w = builder.constant(Random::new(1).tensor(DType::F32, &[64, 10]));
    let y = builder.node(default::<FusedLinear>(&[]), &[Some(x), Some(w)]);
    builder.output(y);
    builder.output(x);
    builder.output(w);
    let options = CodegenOptions {
        portable: true,
        ..CodegenOptions::default()
    };
    let plan = Arc::new(compile(&builder.graph, &options).unwrap());
    assert_eq!(plan.steps()[0].kernel.core(), Core::Portable);
    let mut session = Session::new(
        plan,
        SessionOptions {
            threads: 2,
            isa: None,
            allow_portable: true,
            ..SessionOptions::DEFAULT
        },
    )
    .unwrap();
    session.set_profiling(true);
    let x = Random::new(2).tensor(DType::F32, &[1, 64]);
    for _ in 0..3 {
        session.run(&[("x", x.clone())]).unwrap();
    }
    let profile = session.profile().unwrap();
    assert_eq!((profile.runs, profile.steps.len()), (3, 1));
    let step = &profile.steps[0];
    let expected = StepCost {
        macs: 640,
        integer: false,
        read: 4 * (64 + 640),
        written: 4 * 10,
    };
    assert_eq!(step.cost, expected);
    assert!(step.best <= step.median() && step.median() <= step.total);
    check(&builder.graph, &[("x", x)], Exactness::Within(1e-5));
}

/// Weights of a mapped file are read where they are. The results are those of packed weights to the bit, and a plan that is written has the weights.
#[test]
fn weights_in_foreign_bytes_stay_in_place() {
    let mut random = Random::new(5);
    for (rows, k, n) in [(1, 40, 200), (7, 33, 70), (3, 8, 64)] {
        let mut builder = Builder::new();
        let shape = [Dim::Known(rows), Dim::Known(k)];
        let x = builder
            .graph
            .add_input("x", TensorType::new(DType::F32, shape))
            .unwrap();
        let values = random.tensor(DType::F32, &[k as usize, n]);
        let values = values.values::<f32>().unwrap();
        let bytes: Vec<u8> = values.iter().flat_map(|w| w.to_le_bytes()).collect();
        let bytes = octofold_runtime::aligned_copy(&bytes).unwrap();
        let elements = Elements::of_bytes(bytes).unwrap();
        let weights = Tensor::from_data([k as usize, n], TensorData::F32(elements)).unwrap();
        let w = builder.constant(weights);
        let bias = builder.constant(random.tensor(DType::F32, &[n]));
        let linear = FusedLinear {
            product: Product::Float(Activation::Relu),
        };
        let y = builder.node(linear, &[Some(x), Some(w), Some(bias)]);
        builder.output(y);
        let x = random.tensor(DType::F32, &[rows as usize, k as usize]);
        let packed = check(&builder.graph, &[("x", x.clone())], Exactness::Within(1e-5));
        let options = CodegenOptions {
            in_place: true,
            ..CodegenOptions::default()
        };
        let plan = Arc::new(compile(&builder.graph, &options).unwrap());
        assert_eq!(
            (packed.steps()[0].packed.len(), plan.steps()[0].packed.len()),
            (2, 1)
        );
        let read = Arc::new(Plan::from_bytes(&plan.to_bytes().unwrap()).unwrap());
        assert_eq!(read, plan);
        let expected = session(&packed).run(&[("x", x.clone())]).unwrap();
        for plan in [&plan, &read] {
            for isa in Isa::supported() {
                for threads in [1, 2] {
                    let options = SessionOptions {
                        threads,
                        isa: Some(isa),
                        ..SessionOptions::DEFAULT
                    };
                    let mut session = Session::new(Arc::clone(plan), options).unwrap();
                    let found = session.run(&[("x", x.clone())]).unwrap();
                    assert_eq!(found, expected, "{isa} {rows} {k} {n}");
                }
            }
        }
    }
}
