use proptest::prelude::*;

use super::*;
use crate::QuantType;
use crate::affine::fake_quantize;
use crate::choose::DEFAULT_EPS;

const U8: QuantRange = QuantRange::full(QuantType::Uint8);

fn state(kind: &str) -> ObserverState {
    ObserverState::new(&kind.parse().unwrap())
}

fn finish(state: &ObserverState) -> Choice {
    state.finish(U8, Scheme::Affine, DEFAULT_EPS).unwrap()
}

/// Reproducible values that look like a bell curve.
fn bell(count: usize, seed: u64) -> Vec<f32> {
    let mut s = seed;
    let mut uniform = || {
        s = s
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (s >> 40) as f32 / 16_777_216.0 - 0.5
    };
    (0..count)
        .map(|_| (0..8).map(|_| uniform()).sum())
        .collect()
}

/// The true squared error of a quantizer on the values themselves.
fn true_error(values: &[f32], params: QParams, range: QuantRange) -> f64 {
    let error = |&x: &f32| {
        (f64::from(x) - f64::from(fake_quantize(x, params, range.min, range.max))).powi(2)
    };
    values.iter().map(error).sum()
}

/// Values of all magnitudes, signs and zeros.
fn any_values() -> impl Strategy<Value = Vec<f32>> {
    let value = prop_oneof![
        3 => -10.0_f32..10.0,
        1 => Just(0.0_f32),
        1 => Just(-0.0_f32),
        1 => any::<f32>().prop_filter("finite", |x| x.is_finite()),
        1 => (-300_i32..300).prop_map(|k| k as f32 * 0.25),
    ];
    prop::collection::vec(value, 1..400)
}

/// The definition of the histogram, value by value in f64.
fn counts_by_definition(values: &[f32], bins: usize) -> (f64, Vec<u64>) {
    let maxabs = values
        .iter()
        .fold(0.0_f64, |m, x| m.max(f64::from(x.abs())));
    let mut width = 2.0_f64.powi(-120);
    while maxabs >= width * (bins / 2) as f64 {
        width *= 2.0;
    }
    let mut counts = vec![0; bins];
    for &x in values.iter().filter(|x| **x != 0.0) {
        let bin = (f64::from(x.abs()) / width).floor() as usize;
        counts[if x > 0.0 {
            bins / 2 + bin
        } else {
            bins / 2 - 1 - bin
        }] += 1;
    }
    (width, counts)
}

proptest! {
    #[test]
    fn histogram_follows_its_definition(values in any_values(), cuts in prop::collection::vec(0_usize..400, 0..5)) {
        let mut histogram = Histogram::new(64);
        let mut rest = &values[..];
        for cut in cuts {
            let (head, tail) = rest.split_at(cut.min(rest.len()));
            histogram.observe(head).unwrap();
            rest = tail;
        }
        histogram.observe(rest).unwrap();
        let (width, counts) = counts_by_definition(&values, 64);
        let zeros = values.iter().filter(|x| **x == 0.0).count() as u64;
        prop_assert_eq!(histogram.zeros(), zeros);
        prop_assert_eq!(histogram.count(), values.len() as u64);
        if zeros < values.len() as u64 {
            prop_assert_eq!(histogram.width(), width);
            prop_assert_eq!(histogram.counts(), &counts[..]);
        }
    }

    #[test]
    fn merging_equals_observing_both_streams(a in any_values(), b in any_values()) {
        for kind in ["minmax", "histogram=64", "percentile", "entropy", "mse"] {
            let (mut left, mut right, mut both) = (state(kind), state(kind), state(kind));
            left.observe(&a).unwrap();
            right.observe(&b).unwrap();
            both.observe(&b).unwrap();
            both.observe(&a).unwrap();
            let mut other_way = right.clone();
            other_way.merge(&left).unwrap();
            left.merge(&right).unwrap();
            prop_assert_eq!(&left, &both);
            prop_assert_eq!(&other_way, &both);
        }
    }

    #[test]
    fn every_choice_is_valid_and_no_worse_than_the_full_range(values in any_values(), signed in any::<bool>()) {
        let dtype = if signed { QuantType::Int8 } else { QuantType::Uint8 };
        for kind in ["histogram", "mse", "percentile", "percentile=99", "entropy", "mean_minmax", "moving_average"] {
            let mut s = state(kind);
            s.observe(&values).unwrap();
            let range = QuantRange::full(dtype);
            for scheme in [Scheme::Affine, Scheme::Symmetric, Scheme::SymmetricTorch] {
                let choice = s.finish(range, scheme, DEFAULT_EPS).unwrap();
                prop_assert!(QParams::new(choice.params.scale, choice.params.zero_point, dtype).is_ok());
                let (min, max) = s.observed().unwrap();
                prop_assert!(choice.min >= min && choice.max <= max, "{choice:?} of {min}..{max}");
                if let ObserverState::Histogram(h) | ObserverState::Mse(_, h) = &s {
                    let full = choose_qparams(min, max, range, scheme, DEFAULT_EPS);
                    prop_assert!(squared_error(h, choice.params, range) <= squared_error(h, full, range));
                }
            }
        }
    }

    #[test]
    fn states_survive_serialization(values in any_values()) {
        for kind in ["none", "minmax", "moving_average", "mean_minmax", "histogram=128", "percentile", "entropy",
            "mse", "fixed=0.5:3", "recording=7"]
        {
            let mut s = state(kind);
            s.observe(&values).unwrap();
            let text = serde_json::to_string(&s).unwrap();
            prop_assert_eq!(serde_json::from_str::<ObserverState>(&text).unwrap(), s);
        }
    }
}

#[test]
fn large_batches_count_as_small_ones_do() {
    for (shift, scale) in [(0.0, 1.0), (3.0, 1e-3), (-5.0, 1e20), (0.0, 1e-38)] {
        let values: Vec<f32> = bell(100_003, 5)
            .iter()
            .map(|x| ((x + shift) * scale).max(-2.0 * scale))
            .collect();
        let mut relu = values.clone();
        relu.iter_mut().for_each(|x| *x = x.max(0.0));
        for values in [values, relu] {
            let (mut large, mut small) = (Histogram::new(4096), Histogram::new(4096));
            large.observe(&values).unwrap();
            values
                .chunks(97)
                .for_each(|chunk| small.observe(chunk).unwrap());
            assert_eq!(large, small);
            if large.count() > large.zeros() {
                let (width, counts) = counts_by_definition(&values, 4096);
                assert_eq!(large.width(), width);
                assert_eq!(large.counts(), &counts[..]);
            }
        }
    }
}

#[test]
fn a_batch_that_is_not_finite_is_refused_as_a_whole() {
    let mut values = bell(9000, 1);
    values[7001] = f32::NEG_INFINITY;
    values[7002] = f32::NAN;
    for kind in [
        "minmax",
        "moving_average",
        "mean_minmax",
        "histogram",
        "percentile",
        "recording",
        "fixed=1:0",
    ] {
        let mut s = state(kind);
        s.observe(&[1.0, -2.0]).unwrap();
        let before = s.clone();
        let refused = ObserveError::NotFinite {
            index: 7001,
            value: f32::NEG_INFINITY,
        };
        assert_eq!(s.observe(&values), Err(refused), "{kind}");
        assert_eq!(s, before);
    }
}

#[test]
fn the_histogram_knows_the_error_of_a_quantizer() {
    let mut relu = bell(200_000, 2);
    relu.iter_mut().for_each(|x| *x = x.max(0.0));
    let skewed: Vec<f32> = bell(200_000, 3)
        .iter()
        .map(|x| x * 2.0 + x * x * x)
        .collect();
    for values in [bell(200_000, 1), relu, skewed] {
        let mut histogram = Histogram::new(4096);
        histogram.observe(&values).unwrap();
        let (min, max) = histogram.observed().unwrap();
        for share in [1.0, 0.7, 0.3] {
            for range in [
                U8,
                QuantRange { max: 127, ..U8 },
                QuantRange::full(QuantType::Uint4),
            ] {
                let params =
                    choose_qparams(min * share, max * share, range, Scheme::Affine, DEFAULT_EPS);
                let (got, wanted) = (
                    squared_error(&histogram, params, range),
                    true_error(&values, params, range),
                );
                assert!(
                    (got / wanted - 1.0).abs() < 0.01,
                    "{got} for {wanted}, {share} {range:?}"
                );
            }
            let wide = QuantRange::full(QuantType::Uint16);
            let params =
                choose_qparams(min * share, max * share, wide, Scheme::Affine, DEFAULT_EPS);
            let (got, wanted) = (
                squared_error(&histogram, params, wide),
                true_error(&values, params, wide),
            );
            assert!(
                (got / wanted - 1.0).abs() < 0.02,
                "{got} for {wanted} at 16 bits"
            );
        }
    }
}

#[test]
fn the_search_finds_what_brute_force_on_the_values_finds() {
    let mut outliers = bell(3000, 7);
    outliers[5] = 30.0;
    outliers[6] = -11.0;
    let mut relu = outliers.clone();
    relu.iter_mut().for_each(|x| *x = x.max(0.0));
    let negative: Vec<f32> = relu.iter().map(|x| -x).collect();
    // Each end alone from full width down to a 50th, 40 places an end.
    let shares: Vec<f32> = (0..40).map(|k| 50.0_f32.powf(-(k as f32) / 39.0)).collect();
    for values in [bell(3000, 6), outliers, relu, negative] {
        for range in [
            U8,
            QuantRange { max: 127, ..U8 },
            QuantRange::full(QuantType::Int4),
        ] {
            let mut s = state("histogram");
            s.observe(&values).unwrap();
            let found = s.finish(range, Scheme::Affine, DEFAULT_EPS).unwrap();
            let (min, max) = s.observed().unwrap();
            let mut best = f64::INFINITY;
            for low in if min < 0.0 { &shares[..] } else { &[1.0] } {
                for high in if max > 0.0 { &shares[..] } else { &[1.0] } {
                    let params =
                        choose_qparams(min * low, max * high, range, Scheme::Affine, DEFAULT_EPS);
                    best = best.min(true_error(&values, params, range));
                }
            }
            let error = true_error(&values, found.params, range);
            assert!(
                error <= best * 1.03,
                "{error} against {best} for {range:?}: {found:?}"
            );
        }
    }
}

#[test]
fn zeros_cost_nothing_however_many_they_are() {
    let values = bell(5000, 9);
    let positive: Vec<f32> = values.iter().map(|x| x.abs()).collect();
    let mut spiked = positive.clone();
    spiked.extend(vec![0.0; 1_000_000]);
    let (mut a, mut b) = (state("histogram"), state("histogram"));
    a.observe(&positive).unwrap();
    b.observe(&spiked).unwrap();
    assert_eq!(finish(&a).params, finish(&b).params);
}

#[test]
fn a_few_distinct_values_keep_their_range() {
    for values in [
        vec![3.0_f32; 10],
        vec![-0.7; 4],
        vec![0.0, 1.0, 0.0, 1.0],
        vec![0.0; 5],
    ] {
        let mut s = state("histogram");
        s.observe(&values).unwrap();
        let choice = finish(&s);
        let error = true_error(&values, choice.params, U8);
        assert!(error <= 1e-12, "{values:?} {choice:?}");
    }
}

#[test]
fn percentile_leaves_out_the_share_asked() {
    let values: Vec<f32> = (0..100_000)
        .map(|i| (i as f32 - 30_000.0) / 1000.0)
        .collect();
    let mut s = state("percentile=99");
    s.observe(&values).unwrap();
    let choice = finish(&s);
    assert!(
        (choice.min - -29.5).abs() < 0.05 && (choice.max - 69.5).abs() < 0.05,
        "{choice:?}"
    );
    let mut s = state("percentile=100");
    s.observe(&values).unwrap();
    assert_eq!((finish(&s).min, finish(&s).max), (-30.0, 69.999));
}

#[test]
fn entropy_cuts_a_far_outlier_and_keeps_a_flat_distribution() {
    let mut values = bell(100_000, 11);
    values.push(20.0);
    let mut s = state("entropy");
    s.observe(&values).unwrap();
    assert!(finish(&s).max < 8.0, "{:?}", finish(&s));
    let flat: Vec<f32> = (0..100_000).map(|i| i as f32 / 100_000.0).collect();
    let mut s = state("entropy");
    s.observe(&flat).unwrap();
    assert!(finish(&s).max > 0.95, "{:?}", finish(&s));
}

#[test]
fn averages_follow_their_formulas() {
    let mut s = state("moving_average=0.25");
    for batch in [[1.0, -1.0], [3.0, -2.0], [0.0, 0.5]] {
        s.observe(&batch).unwrap();
    }
    let step = |m: f64, x: f64| m + 0.25 * (x - m);
    let wanted = (
        step(step(-1.0, -2.0), 0.0) as f32,
        step(step(1.0, 3.0), 0.5) as f32,
    );
    assert_eq!(s.observed(), Some(wanted));
    assert_eq!(s.clone().merge(&s), Err(MergeError::OrderDependent));
    let mut s = state("mean_minmax");
    s.observe(&[1.0, -4.0]).unwrap();
    s.observe(&[2.0, -1.0, 0.0]).unwrap();
    assert_eq!(s.observed(), Some((-2.5, 1.5)));
    assert_eq!(s.count(), 5);
}

#[test]
fn states_that_do_not_belong_together_are_not_merged() {
    let mut a = state("histogram=128");
    assert!(matches!(
        a.merge(&state("histogram=256")),
        Err(MergeError::Kinds { .. })
    ));
    assert!(matches!(
        a.merge(&state("minmax")),
        Err(MergeError::Kinds { .. })
    ));
}

#[test]
fn nothing_observed_and_nothing_to_observe_are_errors() {
    let empty = state("histogram").finish(U8, Scheme::Affine, DEFAULT_EPS);
    assert_eq!(empty, Err(FinishError::Empty));
    assert_eq!(
        state("none").finish(U8, Scheme::Affine, DEFAULT_EPS),
        Err(FinishError::NoRange)
    );
    let fixed = state("fixed=0.00390625:0")
        .finish(U8, Scheme::Affine, DEFAULT_EPS)
        .unwrap();
    assert_eq!(
        (fixed.params.scale, fixed.params.zero_point, fixed.max),
        (1.0 / 256.0, 0, 255.0 / 256.0)
    );
    assert!(
        state("fixed=1:300")
            .finish(U8, Scheme::Affine, DEFAULT_EPS)
            .is_err()
    );
    let backwards = QuantRange {
        min: 5,
        max: 5,
        ..U8
    };
    assert_eq!(
        state("minmax").finish(backwards, Scheme::Affine, 1.0),
        Err(FinishError::EmptyRange(backwards))
    );
}

#[test]
fn stored_histograms_are_checked() {
    let mut s = state("histogram=64");
    s.observe(&[1.0, -3.0, 0.0]).unwrap();
    let good = serde_json::to_string(&s).unwrap();
    assert!(serde_json::from_str::<ObserverState>(&good).is_ok());
    let bad = [
        ("\"bins\":64", "\"bins\":65"),
        ("\"first\":", "\"first\":9"),
        ("-3.0", "-300.0"),
        ("\"zeros\":1", "\"zeros\":18446744073709551615"),
    ];
    for (from, to) in bad {
        let text = good.replace(from, to);
        assert_ne!(text, good);
        assert!(
            serde_json::from_str::<ObserverState>(&text).is_err(),
            "{text}"
        );
    }
}

#[test]
fn kinds_have_a_text_form() {
    for text in [
        "minmax",
        "percentile=99.9",
        "entropy=255",
        "fixed=0.125:-3",
        "moving_average=0.5",
    ] {
        assert_eq!(text.parse::<ObserverKind>().unwrap().to_string(), text);
    }
    assert_eq!("Mean-MinMax".parse(), Ok(ObserverKind::MeanMinMax));
    assert!(matches!(
        "maxmin".parse::<ObserverKind>(),
        Err(ObserverKindError::Name(_))
    ));
    assert!(matches!(
        "minmax=3".parse::<ObserverKind>(),
        Err(ObserverKindError::Value { .. })
    ));
    assert!(matches!(
        "fixed".parse::<ObserverKind>(),
        Err(ObserverKindError::Value { .. })
    ));
    for text in [
        "histogram=100",
        "percentile=50",
        "moving_average=0",
        "entropy=1",
        "mse=0",
        "fixed=0:0",
        "percentile=NaN",
    ] {
        assert!(
            matches!(
                text.parse::<ObserverKind>(),
                Err(ObserverKindError::Setting { .. })
            ),
            "{text}"
        );
    }
}
