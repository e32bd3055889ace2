//! Types of convolutions.

use octofold_ops::OpError;
use octofold_ops::families::{Conv, ConvShape, ConvTranspose};
use octofold_tensor::Dim;

use super::helpers::{dims, expect, filled, float, one, optional_dims};
use super::{Context, Types};

/// The shape of a convolution of inputs `x` and `w` with the bias at `bias`; `None` when not even the rank is known.
pub(super) fn convolved(
    shape: &ConvShape<'_>,
    cx: &mut Context<'_>,
    [x, w, bias]: [usize; 3],
) -> Result<Option<Vec<Dim>>, OpError> {
    let (x, w, bias) = (cx.required(x)?, cx.required(w)?, optional_dims(cx, bias));
    match (dims(x), dims(w)) {
        (Some(x), Some(w)) => {
            let sizes = shape.output(x, w, bias)?;
            Ok(Some(filled(cx, sizes)))
        }
        (x, w) => Ok(partial(
            cx,
            x.and_then(|x| x.first()),
            w.and_then(|w| w.first()),
            x.or(w),
        )),
    }
}

/// What is known of [N, M, …] when one operand has no known rank.
fn partial(
    cx: &mut Context<'_>,
    batch: Option<&Dim>,
    channels: Option<&Dim>,
    ranked: Option<&[Dim]>,
) -> Option<Vec<Dim>> {
    let mut sizes = vec![None; ranked?.len().max(2)];
    sizes[0] = batch.cloned();
    sizes[1] = channels.cloned();
    Some(filled(cx, sizes))
}

pub(super) fn conv(op: &Conv, cx: &mut Context<'_>) -> Types {
    let dtype = float(cx, 0)?.ty.dtype;
    expect(cx, 1, dtype)?;
    expect(cx, 2, dtype)?;
    Ok(one(dtype, convolved(&op.shape(), cx, [0, 1, 2])?))
}

pub(super) fn conv_transpose(op: &ConvTranspose, cx: &mut Context<'_>) -> Types {
    let x = float(cx, 0)?;
    let dtype = x.ty.dtype;
    expect(cx, 1, dtype)?;
    expect(cx, 2, dtype)?;
    let shape = match (dims(x), dims(cx.required(1)?)) {
        (Some(x), Some(w)) => {
            let sizes = op.output(x, w, optional_dims(cx, 2))?;
            Some(filled(cx, sizes))
        }
        (x, w) => partial(cx, x.and_then(|x| x.first()), None, x.or(w)),
    };
    Ok(one(dtype, shape))
}

#[cfg(test)]
mod tests {
    use octofold_ops::Op;
    use octofold_ops::families::AutoPad;
    use octofold_tensor::DType;

    use super::*;
    use crate::TensorType;
    use crate::infer::{Known, infer};

    fn conv() -> Conv {
        Conv {
            auto_pad: AutoPad::NotSet,
            dilations: vec![],
            group: 1,
            kernel_shape: vec![],
            pads: vec![1; 4],
            strides: vec![2, 1],
        }
    }

    fn shape_of(op: Conv, x: &TensorType, w: &TensorType) -> Result<Option<Vec<Dim>>, OpError> {
        let inputs = [x, w].map(|ty| {
            Some(Known {
                ty,
                constant: None,
                contents: None,
            })
        });
        infer(&Op::from(op), &mut Context::new(&inputs, "c")).map(|mut out| out.remove(0).ty.shape)
    }

    #[test]
    fn sizes_follow_symbols() {
        let (n, h, w) = (Dim::symbol("N"), Dim::symbol("H"), Dim::symbol("W"));
        let x = TensorType::new(DType::F32, [n.clone(), 3_i64.into(), h.clone(), w.clone()]);
        let weights = TensorType::new(DType::F32, [8_i64, 3, 3, 3]);
        let half = h.minus(1_i64).floor_div(2_i64).plus(1_i64);
        let expected = vec![n, Dim::Known(8), half, w];
        assert_eq!(shape_of(conv(), &x, &weights), Ok(Some(expected)));
        let unranked = TensorType::unranked(DType::F32);
        let partial = shape_of(conv(), &unranked, &weights).unwrap().unwrap();
        assert_eq!((partial.len(), &partial[1]), (4, &Dim::Known(8)));
        assert_eq!(shape_of(conv(), &unranked, &unranked), Ok(None));
    }

    #[test]
    fn shapes_that_do_not_fit_are_refused() {
        let x = TensorType::new(DType::F32, [1_i64, 4, 5, 5]);
        let fails =
            |op: Conv, w: [i64; 4]| shape_of(op, &x, &TensorType::new(DType::F32, w)).is_err();
        assert!(!fails(conv(), [8, 4, 3, 3]));
        assert!(fails(conv(), [8, 3, 3, 3]));
        assert!(fails(conv(), [8, 4, 9, 3]));
        assert!(fails(Conv { group: 2, ..conv() }, [7, 2, 3, 3]));
        assert!(fails(
            Conv {
                group: -1,
                ..conv()
            },
            [8, 4, 3, 3]
        ));
        assert!(fails(
            Conv {
                pads: vec![0, 0, 0, -1],
                ..conv()
            },
            [8, 4, 3, 3]
        ));
        assert!(fails(
            Conv {
                pads: vec![i64::MAX; 4],
                ..conv()
            },
            [8, 4, 3, 3]
        ));
        assert!(fails(
            Conv {
                kernel_shape: vec![3, 2],
                ..conv()
            },
            [8, 4, 3, 3]
        ));
        let bytes = TensorType::new(DType::U8, [8_i64, 4, 3, 3]);
        assert!(shape_of(conv(), &x, &bytes).is_err());
    }
}
