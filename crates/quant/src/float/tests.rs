use super::*;
use crate::functions;

/// The error of a value in units in the last place of the exact one. An overflow that rounding explains is one unit.
fn units(found: f32, exact: f64) -> f64 {
    let rounded = exact as f32;
    if found == rounded || found.is_nan() && exact.is_nan() {
        return if exact == 0.0 && found.is_sign_negative() != exact.is_sign_negative() {
            f64::INFINITY
        } else if rounded.is_infinite() || exact.is_nan() {
            0.0
        } else {
            distance(found.into(), exact, rounded)
        };
    }
    if rounded.is_infinite() || found.is_infinite() {
        let large = |y: f64| y.abs() > 3.402_81e38;
        let same = large(found.into()) && large(exact) && (found > 0.0) == (exact > 0.0);
        return if same { 1.0 } else { f64::INFINITY };
    }
    distance(found.into(), exact, rounded)
}

fn distance(found: f64, exact: f64, rounded: f32) -> f64 {
    let a = rounded.abs();
    let unit = f64::from(a.next_up()) - f64::from(a);
    // Below the smallest float, a unit is its distance from zero.
    (found - exact).abs() / unit.max(f64::from(f32::from_bits(1)))
}

/// One float in 9973 of all, and all that end ranges.
fn sample() -> Vec<f32> {
    let dense = (0..=u32::MAX).step_by(9973).map(f32::from_bits);
    let ends = [
        0.0,
        f32::from_bits(1),
        f32::MIN_POSITIVE,
        0.5,
        1.0,
        2.0,
        3.0,
        4.0,
        1e9,
        3e38,
        f32::MAX,
        f32::INFINITY,
        f32::NAN,
    ];
    let both = ends
        .into_iter()
        .flat_map(|x| [x, -x, x.next_up(), -x.next_up()]);
    let middle = (-40_000..40_000).map(|i| i as f32 * 6.103_516e-4);
    dense.chain(both).chain(middle).collect()
}

/// Asserts that a function errs by at most `bound(x)` units everywhere.
fn check(function: Function, exact: impl Fn(f64) -> f64, bound: impl Fn(f64) -> f64) {
    let x = sample();
    let mut y = vec![7.0; x.len()];
    function.map(&x, &mut y);
    let mut worst = (0.0, 0.0, 0.0);
    for (&x, &y) in x.iter().zip(&y) {
        let wide = f64::from(x);
        let error = units(y, exact(wide)) - bound(wide);
        assert!(!error.is_nan(), "{function:?} of {x:e} is {y:e}");
        if error > worst.0 {
            worst = (error, x, y);
        }
    }
    let (error, x, y) = worst;
    assert!(
        error <= 0.0,
        "{function:?} of {x:e} is {y:e}, {error} units too far from {:e}",
        exact(x.into())
    );
}

#[test]
fn exact_functions_are_rounded_once() {
    type Definition = fn(f64) -> f64;
    let exact: [(Function, Definition); 9] = [
        (Function::Abs, f64::abs),
        (Function::Neg, |x| -x),
        (Function::Sign, |x| {
            if x == 0.0 || x.is_nan() {
                x
            } else {
                x.signum()
            }
        }),
        (Function::Floor, f64::floor),
        (Function::Ceil, f64::ceil),
        (Function::Round, f64::round_ties_even),
        (Function::Sqrt, f64::sqrt),
        (Function::Reciprocal, f64::recip),
        (Function::LeakyRelu { slope: 0.125 }, |x| {
            functions::leaky_relu(x, 0.125)
        }),
    ];
    for (function, definition) in exact {
        check(function, definition, |_| 0.5);
    }
    let f = Function::ThresholdedRelu { alpha: 2.0 };
    assert_eq!([1.0, 2.0, 2.5].map(|x| f.at(x)), [0.0, 0.0, 2.5]);
    let f = Function::Shrink {
        lambda: 1.5,
        bias: 1.0,
    };
    assert_eq!(
        [-2.0, -1.5, 0.0, 1.5, 2.0].map(|x| f.at(x)),
        [-1.0, 0.0, 0.0, 0.0, 1.0]
    );
}

#[test]
fn exponentials_are_within_their_bounds() {
    check(Function::Exp, libm::exp, |_| 2.0);
    check(Function::Sigmoid, functions::sigmoid, |_| 2.5);
    check(Function::Tanh, libm::tanh, |_| 3.0);
    check(Function::Softplus, functions::softplus, |_| 0.51);
    check(Function::Softsign, functions::softsign, |_| 1.5);
    check(
        Function::Elu { alpha: 0.7 },
        |x| functions::elu(x, 0.7_f32.into()),
        |_| 3.0,
    );
    let (alpha, gamma) = (1.673_263_2, 1.050_701);
    let selu = |x| functions::selu(x, f64::from(alpha), f64::from(gamma));
    check(Function::Selu { alpha, gamma }, selu, |_| 3.5);
    // The quotient x/alpha is rounded, and the exponential multiplies its error.
    check(
        Function::Celu { alpha: 0.7 },
        |x| functions::celu(x, 0.7_f32.into()),
        |_| 3.5,
    );
    check(Function::Sinh, libm::sinh, |_| 0.51);
    check(Function::Cosh, libm::cosh, |_| 0.51);
}

/// Far below zero, an exponential that is no normal number loses bits before it is multiplied.
#[test]
fn products_with_exponentials_are_within_their_bounds() {
    let denormal = |x: f64, slope: f64| {
        if slope * x < -86.0 {
            2.0 * x.abs()
        } else {
            0.0
        }
    };
    check(Function::Swish { alpha: 1.0 }, functions::silu, |x| {
        3.5 + denormal(x, 1.0)
    });
    let alpha = 1.702_f32;
    let quick = |x: f64| x * functions::sigmoid(f64::from(alpha) * x);
    let bound = |x: f64| 3.5 + if x < 0.0 { (x * 1.702).abs() } else { 0.0 } + denormal(x, 1.702);
    check(Function::Swish { alpha }, quick, bound);
    check(Function::Mish, functions::mish, |x| 6.0 + denormal(x, 1.0));
}

#[test]
fn integrals_of_the_normal_distribution_are_within_their_bounds() {
    check(Function::Erf, libm::erf, |_| 7.0);
    let tail = |exponent: f64, x: f64| {
        let denormal = if exponent > 86.0 { 2.0 * x.abs() } else { 0.0 };
        if x < 0.0 { exponent + denormal } else { 0.0 }
    };
    check(Function::Gelu, functions::gelu, |x| {
        4.0 + tail(x * x / 2.0, x)
    });
    let argument = |x: f64| 2.5 * 1.596 * (x + 0.044_715 * x.powi(3)).abs();
    check(Function::GeluTanh, functions::gelu_tanh, |x| {
        4.0 + tail(argument(x), x)
    });
}

#[test]
fn logarithms_are_within_their_bounds() {
    check(Function::Log, libm::log, |_| 0.51);
    check(Function::Asinh, libm::asinh, |_| 0.51);
    check(Function::Acosh, functions::acosh, |_| 0.51);
    check(Function::Atanh, libm::atanh, |_| 0.51);
}

#[test]
fn trigonometric_functions_are_within_their_bounds() {
    check(Function::Sin, libm::sin, |_| 0.51);
    check(Function::Cos, libm::cos, |_| 0.51);
    check(Function::Tan, libm::tan, |_| 0.52);
    check(Function::Asin, libm::asin, |_| 3.0);
    check(Function::Acos, libm::acos, |_| 3.0);
    check(Function::Atan, libm::atan, |_| 3.0);
}

#[test]
fn powers_are_within_their_bounds() {
    for (exponent, bound) in [
        (2.0, 0.5),
        (3.0, 1.5),
        (0.5, 0.52),
        (-1.0, 0.52),
        (1.0, 0.52),
        (-2.5, 0.52),
        (0.0, 0.0),
    ] {
        let exact = |x| libm::pow(x, exponent);
        check(Function::Power { exponent }, exact, |_| bound);
    }
    let special = [0.0, 0.5, 1.0, 2.0, 3.0, 2.5, 1e9, 3e38, f32::INFINITY];
    let special: Vec<f32> = special
        .iter()
        .flat_map(|&x| [x, -x])
        .chain([f32::NAN])
        .collect();
    for &x in &special {
        for &y in &special {
            let (found, exact) = (pow(x, y.into()), libm::pow(x.into(), y.into()));
            assert!(
                units(found, exact) <= 0.52,
                "{x}^{y} is {found}, not {exact}"
            );
        }
    }
}

#[test]
fn the_shorter_exponentials_have_the_same_bits() {
    for x in sample() {
        if x <= 0.0 {
            assert_eq!(exp(x).to_bits(), exp_to_one(x).to_bits(), "{x:e}");
        }
        assert_eq!(exp(x).to_bits(), Function::Exp.at(x).to_bits(), "{x:e}");
    }
}
