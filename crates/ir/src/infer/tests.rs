//! Inference over single operators and over the shape computations that exporters leave.

use octofold_ops::families::*;
use octofold_ops::{Op, OpError};
use octofold_tensor::{DType, Dim, Tensor};

use super::{Context, Inferred, Known, infer};
use crate::TensorType;

/// A value on the way: its type, its contents, and its elements when it is a constant.
#[derive(Clone)]
struct Fact {
    ty: TensorType,
    contents: Option<Vec<Dim>>,
    constant: Option<Tensor>,
}

fn value(shape: &[Dim]) -> Fact {
    Fact {
        ty: TensorType::new(DType::F32, shape.iter().cloned()),
        contents: None,
        constant: None,
    }
}

fn constant(tensor: Tensor) -> Fact {
    let contents = tensor.values::<i64>().ok().filter(|_| tensor.rank() < 2);
    Fact {
        ty: TensorType::of(&tensor),
        contents: contents.map(|values| values.iter().copied().map(Dim::Known).collect()),
        constant: Some(tensor),
    }
}

fn list(values: &[i64]) -> Fact {
    constant(Tensor::vector(values.to_vec()))
}

fn number(value: i64) -> Fact {
    constant(Tensor::scalar(value))
}

fn all(op: impl Into<Op>, inputs: &[&Fact]) -> Result<Vec<Inferred>, OpError> {
    let known: Vec<_> = inputs
        .iter()
        .map(|fact| {
            Some(Known {
                ty: &fact.ty,
                constant: fact.constant.as_ref(),
                contents: fact.contents.as_deref(),
            })
        })
        .collect();
    infer(&op.into(), &mut Context::new(&known, "node"))
}

fn try_one(op: impl Into<Op>, inputs: &[&Fact]) -> Result<Fact, OpError> {
    let first = all(op, inputs)?.remove(0);
    Ok(Fact {
        ty: first.ty,
        contents: first.contents,
        constant: None,
    })
}

fn one(op: impl Into<Op>, inputs: &[&Fact]) -> Fact {
    try_one(op, inputs).unwrap()
}

fn shape_of(fact: &Fact) -> Fact {
    one(
        Shape {
            start: 0,
            end: None,
        },
        &[fact],
    )
}

fn known(sizes: &[i64]) -> Vec<Dim> {
    sizes.iter().copied().map(Dim::Known).collect()
}

fn n() -> Dim {
    Dim::symbol("N")
}

#[test]
fn a_view_of_a_symbolic_batch_keeps_the_batch() {
    // x.view(x.size(0), -1)
    let x = value(&[n(), 16.into(), 2.into(), 2.into()]);
    let batch = one(Gather { axis: 0 }, &[&shape_of(&x), &number(0)]);
    assert_eq!(batch.contents, Some(vec![n()]));
    let batch = one(Unsqueeze {}, &[&batch, &list(&[0])]);
    let target = one(Concat { axis: 0 }, &[&batch, &list(&[-1])]);
    let y = one(Reshape { allowzero: false }, &[&x, &target]);
    assert_eq!(y.ty, TensorType::new(DType::F32, [n(), 64.into()]));
    let heads = one(Reshape { allowzero: false }, &[&y, &list(&[0, 4, -1])]);
    assert_eq!(heads.ty.shape, Some(vec![n(), 4.into(), 16.into()]));
    let merged = one(Reshape { allowzero: false }, &[&heads, &list(&[-1, 16])]);
    assert_eq!(merged.ty.shape, Some(vec![n().times(4), 16.into()]));
}

#[test]
fn the_padding_that_torch_exports_is_followed() {
    // Pads in torch's order, last axis first, become those of ONNX: pairs, reversed, transposed, in a row.
    let pads = list(&[0, 0, 0, 0, 4, 4]);
    let count = one(
        Shape {
            start: 0,
            end: None,
        },
        &[&pads],
    );
    let missing = one(Sub {}, &[&list(&[8]), &count]);
    let zeros = one(
        ConstantOfShape {
            value: Some(Tensor::vector(vec![0_i64])),
        },
        &[&missing],
    );
    assert_eq!(zeros.contents, Some(known(&[0, 0])));
    let all = one(Concat { axis: 0 }, &[&pads, &zeros]);
    let pairs = one(Reshape { allowzero: false }, &[&all, &list(&[-1, 2])]);
    let reversed = one(
        Slice {},
        &[
            &pairs,
            &list(&[-1]),
            &list(&[-i64::MAX]),
            &list(&[0]),
            &list(&[-1]),
        ],
    );
    let sides = one(Transpose { perm: vec![1, 0] }, &[&reversed]);
    let row = one(Reshape { allowzero: false }, &[&sides, &list(&[-1])]);
    assert_eq!(row.contents, Some(known(&[0, 4, 0, 0, 0, 4, 0, 0])));
    let x = value(&[n(), 16.into(), 8.into(), 8.into()]);
    let y = one(
        Pad {
            mode: PadMode::Constant,
        },
        &[&x, &row],
    );
    assert_eq!(y.ty.shape, Some(vec![n(), 24.into(), 8.into(), 8.into()]));
}

#[test]
fn an_expansion_that_torch_exports_is_followed() {
    // expand(-1, 3): -1 keeps the size, by Where(Equal(shape, -1), 1, shape).
    let x = value(&[n(), 1.into()]);
    let target = list(&[-1, 3]);
    let one_each = one(
        ConstantOfShape {
            value: Some(Tensor::vector(vec![1_i64])),
        },
        &[&list(&[2])],
    );
    let minus = one(Mul {}, &[&one_each, &number(-1)]);
    let kept = one(Equal {}, &[&target, &minus]);
    assert_eq!(kept.contents, Some(known(&[1, 0])));
    let target = one(Where {}, &[&kept, &one_each, &target]);
    let y = one(Expand {}, &[&x, &target]);
    assert_eq!(y.ty.shape, Some(vec![n(), 3.into()]));
    // A symbol is a size, so it is not -1.
    let sizes = shape_of(&x);
    assert_eq!(
        one(Equal {}, &[&sizes, &number(-1)]).contents,
        Some(known(&[0, 0]))
    );
}

#[test]
fn arithmetic_follows_symbols() {
    let x = value(&[n(), 7.into()]);
    let sizes = shape_of(&x);
    let of = |op: Op| one(op, &[&sizes, &number(2)]).contents.unwrap();
    assert_eq!(of(Add {}.into()), [n().plus(2), 9.into()]);
    assert_eq!(of(Div {}.into()), [n().floor_div(2), 3.into()]);
    assert_eq!(of(Min {}.into()), [n().min(2), 2.into()]);
    let half = one(Mod { fmod: false }, &[&list(&[7]), &list(&[2])]);
    assert_eq!(half.contents, Some(known(&[1])));
    let count = one(
        ReduceProd {
            keepdims: false,
            noop_with_empty_axes: false,
        },
        &[&sizes],
    );
    assert_eq!(count.contents, Some(vec![n().times(7)]));
    assert_eq!(one(Size {}, &[&x]).contents, Some(vec![n().times(7)]));
    let narrow = one(
        Cast {
            to: DType::I32,
            saturate: true,
            round_mode: String::new(),
        },
        &[&sizes],
    );
    assert_eq!(narrow.contents, Some(vec![n(), 7.into()]));
    assert!(try_one(Div {}, &[&sizes, &number(0)]).is_err());
    // What overflows is given up.
    assert!(
        one(Add {}, &[&list(&[i64::MAX]), &number(1)])
            .contents
            .is_none_or(|c| c == known(&[i64::MIN]))
    );
}

#[test]
fn slices_of_symbolic_axes_have_symbolic_sizes() {
    let x = value(&[n(), 10.into()]);
    let size = |start: i64, end: i64, step: i64| {
        let y = one(
            Slice {},
            &[
                &x,
                &list(&[start]),
                &list(&[end]),
                &list(&[0]),
                &list(&[step]),
            ],
        );
        y.ty.shape.unwrap()[0].clone()
    };
    assert_eq!(size(0, i64::MAX, 1), n());
    assert_eq!(size(0, i64::MAX, 2), n().ceil_div(2));
    assert_eq!(size(0, 3, 1), n().min(3));
    assert_eq!(size(1, i64::MAX, 1), n().minus(1).max(0));
    assert_eq!(size(0, -1, 1), n().minus(1).max(0));
    assert_eq!(size(-1, i64::MIN, -1), n());
    let rows = one(Gather { axis: 0 }, &[&shape_of(&x), &list(&[0])]);
    let y = one(Slice {}, &[&value(&[512.into()]), &list(&[0]), &rows]);
    assert_eq!(y.ty.shape, Some(vec![Dim::Known(512).min(n())]));
    assert!(try_one(Slice {}, &[&x, &list(&[0]), &list(&[1]), &list(&[2])]).is_err());
    assert!(
        try_one(
            Slice {},
            &[&x, &list(&[0]), &list(&[1]), &list(&[0]), &list(&[0])]
        )
        .is_err()
    );
}

#[test]
fn ranges_and_tiles_follow_symbols() {
    let x = value(&[n(), 10.into()]);
    let batch = one(Gather { axis: 0 }, &[&shape_of(&x), &number(0)]);
    let range = one(Range { stash_type: 1 }, &[&number(0), &batch, &number(1)]);
    assert_eq!(range.ty, TensorType::new(DType::I64, [n()]));
    let range = one(
        Range { stash_type: 1 },
        &[&number(3), &number(9), &number(3)],
    );
    assert_eq!(range.contents, Some(known(&[3, 6])));
    let tiled = one(Tile {}, &[&x, &list(&[2, 3])]);
    assert_eq!(tiled.ty.shape, Some(vec![n().times(2), 30.into()]));
    let halves = all(
        Split {
            axis: 1,
            num_outputs: Some(3),
        },
        &[&x],
    )
    .unwrap();
    let sizes: Vec<_> = halves
        .iter()
        .map(|part| part.ty.shape.clone().unwrap()[1].clone())
        .collect();
    assert_eq!(sizes, known(&[4, 4, 2]));
    let halves = all(
        Split {
            axis: 0,
            num_outputs: Some(2),
        },
        &[&x],
    )
    .unwrap();
    let sizes: Vec<_> = halves
        .iter()
        .map(|part| part.ty.shape.clone().unwrap()[0].clone())
        .collect();
    let symbols = [("N".into(), 5)].into();
    assert_eq!(
        sizes
            .iter()
            .map(|size| size.evaluate(&symbols))
            .collect::<Vec<_>>(),
        [Ok(3), Ok(2)]
    );
}

#[test]
fn what_depends_on_data_gets_a_fresh_symbol() {
    let x = value(&[n(), 10.into()]);
    let places = one(NonZero {}, &[&x]);
    assert_eq!(places.ty.shape, Some(vec![2.into(), Dim::symbol("node.0")]));
    let mut unknown = list(&[0, 0, 0]);
    (unknown.contents, unknown.constant) = (None, None);
    let y = one(Reshape { allowzero: false }, &[&x, &unknown]);
    assert_eq!(y.ty.rank(), Some(3));
    let mut unranked = x.clone();
    unranked.ty.shape = None;
    assert_eq!(one(Add {}, &[&unranked, &x]).ty.shape, None);
    assert_eq!(
        one(Reshape { allowzero: false }, &[&unranked, &list(&[2, -1])])
            .ty
            .rank(),
        Some(2)
    );
}

#[test]
fn what_cannot_be_is_refused() {
    let x = value(&[n(), 10.into()]);
    let shape = |sizes: &[i64]| try_one(ConstantOfShape { value: None }, &[&list(sizes)]);
    assert!(matches!(
        shape(&[1 << 20, 1 << 20]),
        Err(OpError::TooLarge(_))
    ));
    assert!(matches!(
        shape(&[i64::MAX, i64::MAX, i64::MAX]),
        Err(OpError::TooLarge(_))
    ));
    assert!(shape(&[-1]).is_err());
    assert!(shape(&[1 << 40, 0]).is_ok());
    assert!(
        try_one(
            Reshape { allowzero: false },
            &[&value(&known(&[6])), &list(&[4, -1])]
        )
        .is_err()
    );
    assert!(
        try_one(
            Reshape { allowzero: false },
            &[&value(&known(&[6])), &list(&[4])]
        )
        .is_err()
    );
    assert!(try_one(Reshape { allowzero: false }, &[&x, &list(&[-1, -1])]).is_err());
    assert!(try_one(Concat { axis: 0 }, &[&x, &value(&[n(), 9.into()])]).is_err());
    assert!(try_one(Add {}, &[&value(&known(&[2])), &value(&known(&[3]))]).is_err());
    assert!(try_one(Add {}, &[&x, &list(&[1])]).is_err());
    assert!(try_one(Transpose { perm: vec![0] }, &[&x]).is_err());
    assert!(try_one(Gather { axis: 2 }, &[&x, &number(0)]).is_err());
    let pads = list(&[0, i64::MAX, 0, i64::MAX]);
    assert!(
        try_one(
            Pad {
                mode: PadMode::Edge
            },
            &[&x, &pads]
        )
        .is_err()
    );
    // Doubling ends in a fresh symbol or an error, and not in an expression without end.
    let mut doubled = value(&[n(), 10.into()]);
    for _ in 0..200 {
        match try_one(Concat { axis: 0 }, &[&doubled, &doubled]) {
            Ok(next) => doubled = next,
            Err(error) => panic!("{error}"),
        }
    }
    assert!(doubled.ty.to_string().len() < 4000);
}

#[test]
fn constant_indices_and_divisors_are_checked() {
    let x = value(&[n(), 5.into()]);
    let gather = |axis, index| try_one(Gather { axis }, &[&x, &list(&[0, index])]).is_ok();
    assert!(gather(1, 4) && gather(1, -5));
    assert!(!gather(1, 5) && !gather(1, -6));
    // How large the batch is, is not known.
    assert!(gather(0, 999));
    let elements = try_one(
        GatherElements { axis: 0 },
        &[&value(&[3.into()]), &list(&[3])],
    );
    assert!(elements.is_err());
    let pair = |i, j| {
        let x = value(&[3.into(), 4.into(), 5.into()]);
        let tuple = constant(Tensor::new([1, 2], vec![i, j]).unwrap());
        let update = value(&[1.into(), 5.into()]);
        let gathered = try_one(GatherND { batch_dims: 0 }, &[&x, &tuple]);
        let scatter = ScatterND {
            reduction: ScatterReduction::None,
        };
        let scattered = try_one(scatter, &[&x, &tuple, &update]);
        assert_eq!(gathered.is_ok(), scattered.is_ok());
        gathered.is_ok()
    };
    assert!(pair(2_i64, 3) && pair(-3, -4));
    assert!(!pair(3, 0) && !pair(0, 4) && !pair(0, -5));
    let numbers = list(&[4, 6]);
    assert!(try_one(Div {}, &[&numbers, &list(&[1, 0])]).is_err());
    assert!(try_one(Mod { fmod: false }, &[&numbers, &number(0)]).is_err());
    assert!(try_one(Div {}, &[&numbers, &number(2)]).is_ok());
    let float = constant(Tensor::scalar(0.0_f32));
    assert!(try_one(Div {}, &[&x, &float]).is_ok());
}
