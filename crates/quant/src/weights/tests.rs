use std::sync::Arc;

use super::*;
use crate::affine::dequantize;

const U8: QuantRange = QuantRange::full(QuantType::Uint8);

fn layer<'a>(
    input_scale: f32,
    output_scale: Option<f32>,
    bias: Option<&'a [f32]>,
) -> Accumulation<'a> {
    Accumulation {
        output_axis: 0,
        input_scale,
        input_range: U8,
        output_scale,
        bias,
    }
}

fn wave(len: usize) -> Vec<f32> {
    (0..len)
        .map(|i| ((i * 37 % 101) as f32 - 50.0) * (1.0 + (i % 7) as f32))
        .collect()
}

#[test]
fn each_index_of_any_axis_has_its_own_scale() {
    let shape = [3, 4, 5];
    let weights = wave(60);
    for axis in 0..3 {
        let result = quantize_weights(&weights, &shape, &QuantSpec::weight(axis), None).unwrap();
        let strides = [20, 5, 1];
        for (i, &w) in weights.iter().enumerate() {
            let channel = i / strides[axis] % shape[axis];
            let own = (0..60)
                .filter(|j| j / strides[axis] % shape[axis] == channel)
                .map(|j| weights[j].abs());
            let absmax = own.fold(0.0, f32::max);
            let params = result.params.channel(channel).unwrap();
            assert_eq!(
                params,
                QParams {
                    scale: absmax / 127.0,
                    zero_point: 0
                }
            );
            let exact = f64::from(w) / f64::from(params.scale);
            assert!(
                (f64::from(result.values[i]) - exact).abs() <= 0.5001,
                "{w} became {}",
                result.values[i]
            );
        }
    }
    let spec = QuantSpec {
        granularity: Granularity::PerTensor,
        ..QuantSpec::weight(0)
    };
    let whole = quantize_weights(&weights, &shape, &spec, None).unwrap();
    let absmax = weights.iter().fold(0.0_f32, |m, w| m.max(w.abs()));
    assert_eq!(
        whole.params,
        QuantParams::PerTensor(QParams {
            scale: absmax / 127.0,
            zero_point: 0
        })
    );
}

/// The example of `docs/numerics.md`: with `s_w = 1`, a bias of 0.7 would become step 45 instead of 35.
#[test]
fn the_bias_of_a_zero_channel_survives() {
    let weights = [0.5, -0.5, 0.0, 0.0];
    let bias = [0.0, 0.7];
    let result = quantize_weights(
        &weights,
        &[2, 2],
        &QuantSpec::weight(0),
        Some(&layer(0.9, Some(0.02), Some(&bias))),
    )
    .unwrap();
    let (values, params) = quantize_bias(&bias, 0.9, &result.params).unwrap();
    let output = QParams {
        scale: 0.02,
        zero_point: 0,
    };
    let channel = result.params.channel(1).unwrap();
    let m = crate::requantize::multiplier(0.9, channel.scale, 0.02);
    assert_eq!(
        crate::requantize::requantize(values[1], m, output.zero_point, 0, 255),
        35
    );
    assert!((dequantize(values[1], params.channel(1).unwrap()) - 0.7).abs() <= 0.02 / 256.0);
    // A float output keeps the bias to f32's precision.
    let result = quantize_weights(
        &weights,
        &[2, 2],
        &QuantSpec::weight(0),
        Some(&layer(0.9, None, Some(&bias))),
    )
    .unwrap();
    let (values, params) = quantize_bias(&bias, 0.9, &result.params).unwrap();
    assert!((dequantize(values[1], params.channel(1).unwrap()) - 0.7).abs() < 1e-6);
}

#[test]
fn scales_of_zero_channels_are_usable_at_all_magnitudes() {
    for s_x in [1e-30_f32, 1e-7, 1.0, 1e7] {
        for s_y in [None, Some(1e-30_f32), Some(0.1), Some(1e7)] {
            for bias in [0.0_f32, 1e-20, 1.0, 1e20] {
                let s_w = zero_channel_scale(s_x, s_y, bias);
                assert!(s_w.is_normal() && s_w > 0.0, "{s_x} {s_y:?} {bias}");
                if f64::from(bias) > f64::from(s_x) * 1e38 {
                    continue; // No f32 scale is that large; the bound on the accumulator refuses the layer.
                }
                let steps = f64::from(bias) / (f64::from(s_x) * f64::from(s_w));
                assert!(
                    steps <= 1.001 * f64::from(1 << 30),
                    "{s_x} {s_y:?} {bias} gives {steps} steps"
                );
            }
        }
    }
}

/// The bound by brute force: the largest accumulator that any input can give.
fn worst_accumulator(q: &[i8], bias: i32, input: QuantRange) -> i128 {
    let span = i128::from(input.max) - i128::from(input.min);
    q.iter().map(|&w| i128::from(w).abs() * span).sum::<i128>() + i128::from(bias).abs()
}

#[test]
fn scales_widen_until_the_accumulator_fits() {
    let k = 70_000;
    let mut weights = vec![1.0_f32; 2 * k];
    weights[..k].fill(0.001);
    weights[0] = 1.0;
    let bias = [1.0, 2.0];
    let spec = QuantSpec::weight(0);
    let result = quantize_weights(
        &weights,
        &[2, k],
        &spec,
        Some(&layer(0.1, Some(0.1), Some(&bias))),
    )
    .unwrap();
    assert_eq!(result.widened.len(), 1, "{:?}", result.widened);
    let widened = result.widened[0];
    assert_eq!((widened.channel, widened.from), (1, 1.0 / 127.0));
    assert!(
        widened.to > widened.from && widened.to < 1.2 * widened.from,
        "{widened:?}"
    );
    let (biases, _) = quantize_bias(&bias, 0.1, &result.params).unwrap();
    for (channel, &bias) in biases.iter().enumerate() {
        let worst = worst_accumulator(&result.values[channel * k..][..k], bias, U8);
        assert!(worst < 1 << 31, "{worst}");
    }
}

#[test]
fn a_huge_bias_widens_its_channel() {
    for bias in [1e6_f32, -1e12, 3e30] {
        let biases = [0.5, bias];
        let weights = [0.3, -0.2, 1e-4, -2e-4];
        let result = quantize_weights(
            &weights,
            &[2, 2],
            &QuantSpec::weight(0),
            Some(&layer(1e-3, None, Some(&biases))),
        )
        .unwrap();
        let (values, params) = quantize_bias(&biases, 1e-3, &result.params).unwrap();
        assert_eq!(
            result.widened.iter().map(|w| w.channel).collect::<Vec<_>>(),
            [1]
        );
        assert!(worst_accumulator(&result.values[2..], values[1], U8) < 1 << 31);
        let got = dequantize(values[1], params.channel(1).unwrap());
        assert!((got / bias - 1.0).abs() < 1e-6, "{got} for {bias}");
    }
    let biases = [f32::MAX];
    let tiny = quantize_weights(
        &[1e-30],
        &[1, 1],
        &QuantSpec::weight(0),
        Some(&layer(f32::MIN_POSITIVE, None, Some(&biases))),
    );
    assert_eq!(tiny, Err(WeightError::Overflow { channel: 0 }));
}

#[test]
fn a_per_tensor_scale_serves_the_worst_channel() {
    let spec = QuantSpec {
        granularity: Granularity::PerTensor,
        ..QuantSpec::weight(0)
    };
    let biases = [0.0, 1e9];
    let result = quantize_weights(
        &[1.0, 0.5],
        &[2, 1],
        &spec,
        Some(&layer(0.1, None, Some(&biases))),
    )
    .unwrap();
    let (values, _) = quantize_bias(&biases, 0.1, &result.params).unwrap();
    assert!(
        values
            .iter()
            .zip(result.values.iter())
            .all(|(&b, &q)| worst_accumulator(&[q], b, U8) < 1 << 31)
    );
    assert_eq!(result.widened[0].channel, 1);
}

#[test]
fn senseless_requests_are_errors() {
    let spec = QuantSpec::weight(0);
    let nan = quantize_weights(&[1.0, f32::NAN], &[2], &spec, None);
    assert!(matches!(
        nan,
        Err(WeightError::NotFinite {
            what: "weights",
            index: 1,
            ..
        })
    ));
    assert!(matches!(
        quantize_weights(&[1.0], &[2], &spec, None),
        Err(WeightError::Shape { len: 1, .. })
    ));
    assert_eq!(
        quantize_weights(&[1.0], &[], &spec, None),
        Err(WeightError::Axis { axis: 0, rank: 0 })
    );
    assert!(matches!(
        quantize_weights(&[1.0], &[1], &QuantSpec::activation(), None),
        Err(WeightError::Range(_))
    ));
    let three = [0.0; 3];
    let misfit = quantize_weights(
        &[1.0, 2.0],
        &[2],
        &spec,
        Some(&layer(1.0, None, Some(&three))),
    );
    assert_eq!(
        misfit,
        Err(WeightError::BiasLength {
            bias: 3,
            channels: 2
        })
    );
    assert!(quantize_weights(&[1.0], &[1], &spec, Some(&layer(0.0, None, None))).is_err());
    assert!(matches!(
        quantize_bias(
            &[f32::INFINITY],
            1.0,
            &QuantParams::PerTensor(QParams::IDENTITY)
        ),
        Err(WeightError::NotFinite { what: "bias", .. })
    ));
    let empty = quantize_weights(&[], &[0, 3], &spec, Some(&layer(1.0, Some(1.0), None))).unwrap();
    assert!(empty.values.is_empty());
}

/// Layers with the same weights share the integers; only where a scale has to grow a layer gets integers of its own, and then those that it would get alone.
#[test]
fn one_search_serves_all_layers_of_the_same_weights() {
    let shape = [6, 4];
    let mut weights: Vec<f32> = wave(24);
    for row in weights.chunks_exact_mut(4) {
        row[2] = 0.0;
    }
    for granularity in [Granularity::PerTensor, Granularity::PerChannel { axis: 1 }] {
        let spec = QuantSpec {
            granularity,
            ..QuantSpec::weight(1)
        };
        let search = WeightSearch::new(&weights, &shape, &spec).unwrap();
        // The second bias needs wider scales.
        for bias in [[0.5, -0.25, 1.0, 0.0], [0.5, 3e12, 0.0, -1.0]] {
            let layer = Accumulation {
                output_axis: 1,
                ..layer(0.9, Some(0.02), Some(&bias))
            };
            let shared = search.for_layer(Some(&layer)).unwrap();
            let alone = quantize_weights(&weights, &shape, &spec, Some(&layer)).unwrap();
            assert_eq!(shared, alone);
            assert_eq!(
                Arc::ptr_eq(&shared.values, &search.values),
                shared.widened.is_empty()
            );
            assert_eq!(shared.widened.is_empty(), bias[1] < 1.0, "{granularity:?}");
            for (i, (&w, &q)) in weights.iter().zip(shared.values.iter()).enumerate() {
                let params = shared.params.channel(i % 4).unwrap();
                let exact = (f64::from(w) / f64::from(params.scale)).round_ties_even();
                assert!((f64::from(q) - exact).abs() <= 1.0, "{i}: {w} became {q}");
            }
        }
    }
}
