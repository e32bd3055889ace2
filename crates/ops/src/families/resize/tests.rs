//! Resizing by values that are computed by hand or by ONNX.

use super::*;

fn op() -> Resize {
    Resize {
        antialias: false,
        axes: vec![],
        coordinate_transformation_mode: CoordinateTransformation::HalfPixel,
        cubic_coeff_a: -0.75,
        exclude_outside: false,
        extrapolation_value: 0.0,
        keep_aspect_ratio_policy: AspectRatioPolicy::Stretch,
        mode: ResizeMode::Linear,
        nearest_mode: NearestMode::RoundPreferFloor,
    }
}

fn scaled_by(op: &Resize, x: &Tensor, scales: &[f32]) -> Result<Tensor, OpError> {
    let scales = Tensor::vector(scales.to_vec());
    Ok(op
        .evaluate(Inputs(&[Some(x), None, Some(&scales)]), 1)?
        .remove(0))
}

fn sized(op: &Resize, x: &Tensor, sizes: &[i64]) -> Result<Tensor, OpError> {
    let sizes = Tensor::vector(sizes.to_vec());
    Ok(op
        .evaluate(Inputs(&[Some(x), None, None, Some(&sizes)]), 1)?
        .remove(0))
}

#[test]
fn linear_and_nearest_doubling() {
    let x = Tensor::vector(vec![0.0_f32, 4.0]);
    assert_eq!(
        scaled_by(&op(), &x, &[2.0])
            .unwrap()
            .values::<f32>()
            .unwrap(),
        [0.0, 1.0, 3.0, 4.0]
    );
    let nearest = Resize {
        mode: ResizeMode::Nearest,
        ..op()
    };
    assert_eq!(
        sized(&nearest, &x, &[4]).unwrap().values::<f32>().unwrap(),
        [0.0, 0.0, 4.0, 4.0]
    );
    let corners = Resize {
        coordinate_transformation_mode: CoordinateTransformation::AlignCorners,
        ..op()
    };
    let y = sized(&corners, &x, &[3]).unwrap();
    assert_eq!(y.values::<f32>().unwrap(), [0.0, 2.0, 4.0]);
    // Bytes round, and any type has nearest neighbours.
    let bytes = Tensor::vector(vec![0_u8, 255]);
    assert_eq!(
        sized(&corners, &bytes, &[3])
            .unwrap()
            .values::<u8>()
            .unwrap(),
        [0, 128, 255]
    );
    let words = Tensor::vector(vec!["a".to_owned(), "b".to_owned()]);
    assert_eq!(sized(&nearest, &words, &[1]).unwrap().len(), 1);
    assert!(sized(&op(), &words, &[1]).is_err());
}

#[test]
fn every_weight_sums_to_one() {
    let x = Tensor::vector(vec![7.0_f32; 9]);
    for mode in [ResizeMode::Linear, ResizeMode::Cubic] {
        for antialias in [false, true] {
            for exclude_outside in [false, true] {
                let op = Resize {
                    mode,
                    antialias,
                    exclude_outside,
                    ..op()
                };
                for size in [1, 2, 5, 8, 9, 10, 31] {
                    let y = sized(&op, &x, &[size]).unwrap();
                    assert!(
                        y.values::<f32>()
                            .unwrap()
                            .iter()
                            .all(|y| (y - 7.0).abs() < 1e-5)
                    );
                }
            }
        }
    }
}

#[test]
fn one_scale_keeps_the_aspect_ratio() {
    let x = Tensor::new([1, 4, 6], vec![0.0_f32; 24]).unwrap();
    let op = |keep_aspect_ratio_policy| Resize {
        axes: vec![-1, 1],
        keep_aspect_ratio_policy,
        ..op()
    };
    // Axis 2 to 12 would be a factor of 2, axis 1 to 6 one of 1.5.
    let shape = |policy| sized(&op(policy), &x, &[12, 6]).unwrap().shape().to_vec();
    assert_eq!(shape(AspectRatioPolicy::Stretch), [1, 6, 12]);
    assert_eq!(shape(AspectRatioPolicy::NotLarger), [1, 6, 9]);
    assert_eq!(shape(AspectRatioPolicy::NotSmaller), [1, 8, 12]);
}

#[test]
fn senseless_sizes_are_refused() {
    let x = Tensor::vector(vec![1.0_f32, 2.0]);
    for scale in [0.0, -1.0, f32::NAN, f32::INFINITY, f32::MAX] {
        assert!(scaled_by(&op(), &x, &[scale]).is_err(), "{scale}");
    }
    assert!(scaled_by(&op(), &x, &[1.0, 1.0]).is_err());
    assert_eq!(scaled_by(&op(), &x, &[0.1]).unwrap().len(), 0);
    for size in [-1, i64::MIN, i64::MAX] {
        assert!(sized(&op(), &x, &[size]).is_err(), "{size}");
    }
    assert!(
        sized(
            &Resize {
                axes: vec![1],
                ..op()
            },
            &x,
            &[1]
        )
        .is_err()
    );
    assert!(
        sized(
            &Resize {
                axes: vec![0, -1],
                ..op()
            },
            &x,
            &[1, 1]
        )
        .is_err()
    );
    let (scales, sizes) = (Tensor::vector(vec![1.0_f32]), Tensor::vector(vec![2_i64]));
    let both = [Some(&x), None, Some(&scales), Some(&sizes)];
    assert!(op().evaluate(Inputs(&both), 1).is_err());
    assert!(op().evaluate(Inputs(&both[..2]), 1).is_err());
    assert!(sized(&op(), &Tensor::vector(Vec::<f32>::new()), &[2]).is_err());
}

#[test]
fn symbols_scale_where_arithmetic_agrees() {
    let n = [Dim::symbol("N")];
    let size = |scale: f32| {
        op().resized(&n, Some(&[scale]), None)
            .unwrap()
            .sizes
            .remove(0)
    };
    assert_eq!(size(2.0), Some(Dim::symbol("N").times(2_i64)));
    assert_eq!(size(0.5), Some(Dim::symbol("N").floor_div(2_i64)));
    assert_eq!(size(1.5), None);
}
