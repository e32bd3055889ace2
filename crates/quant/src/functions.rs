//! Scalar functions in f64 that give the same bits on every machine.
//!
//! Lookup tables and the float steps of the interpreter are built from these. The elementary
//! functions are those of the `libm` crate (a pure-Rust port of musl's), never of the platform's
//! mathematical library, whose last bits differ from system to system. Activation functions follow the
//! definitions of the ONNX operators of the same names. All are total: out of the domain they give NaN or infinities.

/// `e^x`.
pub fn exp(x: f64) -> f64 {
    libm::exp(x)
}

/// Natural logarithm.
pub fn log(x: f64) -> f64 {
    libm::log(x)
}

/// `x^y`.
pub fn pow(x: f64, y: f64) -> f64 {
    libm::pow(x, y)
}

/// Sine of an angle in radians.
pub fn sin(x: f64) -> f64 {
    libm::sin(x)
}

/// Cosine of an angle in radians.
pub fn cos(x: f64) -> f64 {
    libm::cos(x)
}

/// Tangent of an angle in radians.
pub fn tan(x: f64) -> f64 {
    libm::tan(x)
}

/// Arc sine, in radians; NaN outside of [-1, 1].
pub fn asin(x: f64) -> f64 {
    libm::asin(x)
}

/// Arc cosine, in radians; NaN outside of [-1, 1].
pub fn acos(x: f64) -> f64 {
    libm::acos(x)
}

/// Arc tangent, in radians.
pub fn atan(x: f64) -> f64 {
    libm::atan(x)
}

/// Hyperbolic sine.
pub fn sinh(x: f64) -> f64 {
    libm::sinh(x)
}

/// Hyperbolic cosine.
pub fn cosh(x: f64) -> f64 {
    libm::cosh(x)
}

/// Inverse of the hyperbolic sine.
pub fn asinh(x: f64) -> f64 {
    libm::asinh(x)
}

/// Inverse of the hyperbolic tangent; NaN outside of [-1, 1].
pub fn atanh(x: f64) -> f64 {
    libm::atanh(x)
}

/// Inverse of the hyperbolic cosine; NaN below 1.
pub fn acosh(x: f64) -> f64 {
    // `libm` has values below -1.
    if x < 1.0 { f64::NAN } else { libm::acosh(x) }
}

/// Hyperbolic tangent.
pub fn tanh(x: f64) -> f64 {
    libm::tanh(x)
}

/// The error function `2/√π · ∫₀ˣ e^(-t²) dt`.
pub fn erf(x: f64) -> f64 {
    libm::erf(x)
}

/// `1 / (1 + e^-x)`.
pub fn sigmoid(x: f64) -> f64 {
    // The exponential of a negative number never overflows, and keeps the relative precision of both tails.
    if x >= 0.0 {
        1.0 / (1.0 + exp(-x))
    } else {
        let e = exp(x);
        e / (1.0 + e)
    }
}

/// `max(0, min(1, alpha·x + beta))`; ONNX's defaults are 0.2 and 0.5, hard-swish uses 1/6 and 0.5.
pub fn hard_sigmoid(x: f64, alpha: f64, beta: f64) -> f64 {
    clip(alpha * x + beta, 0.0, 1.0)
}

/// `x · max(0, min(1, x/6 + 1/2))`.
pub fn hard_swish(x: f64) -> f64 {
    x * hard_sigmoid(x, 1.0 / 6.0, 0.5)
}

/// `x · sigmoid(x)`, also called swish.
pub fn silu(x: f64) -> f64 {
    x * sigmoid(x)
}

/// `x/2 · (1 + erf(x/√2))`: the exact GELU.
pub fn gelu(x: f64) -> f64 {
    // erfc keeps the relative precision of the left tail, where 1 + erf cancels.
    0.5 * x * libm::erfc(-x * std::f64::consts::FRAC_1_SQRT_2)
}

/// `x/2 · (1 + tanh(√(2/π)·(x + 0.044715·x³)))`: the approximation of GELU that many models were trained with.
pub fn gelu_tanh(x: f64) -> f64 {
    let inner = std::f64::consts::FRAC_2_SQRT_PI
        * std::f64::consts::FRAC_1_SQRT_2
        * (x + 0.044715 * x * x * x);
    // (1 + tanh(t)) / 2 is sigmoid(2t), without its cancellation.
    x * sigmoid(2.0 * inner)
}

/// `ln(1 + e^x)`.
pub fn softplus(x: f64) -> f64 {
    libm::log1p(exp(-x.abs())) + relu(x)
}

/// `x / (1 + |x|)`.
pub fn softsign(x: f64) -> f64 {
    x / (1.0 + x.abs())
}

/// `x · tanh(softplus(x))`.
pub fn mish(x: f64) -> f64 {
    x * tanh(softplus(x))
}

/// `x` where positive, else `alpha·(e^x - 1)`.
pub fn elu(x: f64, alpha: f64) -> f64 {
    if x > 0.0 { x } else { alpha * libm::expm1(x) }
}

/// `x` where positive, else `alpha·(e^(x/alpha) - 1)`.
pub fn celu(x: f64, alpha: f64) -> f64 {
    if x > 0.0 {
        x
    } else {
        alpha * libm::expm1(x / alpha)
    }
}

/// `gamma · elu(x, alpha)`; ONNX's defaults are 1.67326319217681884765625 and 1.05070102214813232421875.
pub fn selu(x: f64, alpha: f64, gamma: f64) -> f64 {
    gamma * elu(x, alpha)
}

/// `max(x, 0)`; NaN stays.
pub fn relu(x: f64) -> f64 {
    if x < 0.0 { 0.0 } else { x }
}

/// `x` where not negative, else `slope·x`.
pub fn leaky_relu(x: f64, slope: f64) -> f64 {
    if x < 0.0 { slope * x } else { x }
}

/// `min(max(x, lo), hi)`; NaN stays, and `hi` wins over a greater `lo`.
pub fn clip(x: f64, lo: f64, hi: f64) -> f64 {
    let x = if x < lo { lo } else { x };
    if x > hi { hi } else { x }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Composite Simpson rule, independent of every series in libm.
    fn integral(f: impl Fn(f64) -> f64, from: f64, to: f64) -> f64 {
        let n = 20_000;
        let h = (to - from) / n as f64;
        let inner: f64 = (1..n)
            .map(|i| f(from + i as f64 * h) * if i % 2 == 1 { 4.0 } else { 2.0 })
            .sum();
        (f(from) + inner + f(to)) * h / 3.0
    }

    /// `e^x` from its Taylor series on a reduced argument.
    fn taylor_exp(x: f64) -> f64 {
        let reduced = x / 1024.0;
        let series: f64 = (0..20)
            .rev()
            .fold(0.0, |sum, n| sum * reduced / (n + 1) as f64 + 1.0);
        (0..10).fold(series, |y, _| y * y)
    }

    fn grid() -> impl Iterator<Item = f64> {
        (-80..=80).map(|i| f64::from(i) / 8.0)
    }

    fn close(a: f64, b: f64) -> bool {
        (a - b).abs() <= 1e-11 * b.abs().max(1e-3)
    }

    #[test]
    fn elementary_functions_match_series_and_integrals() {
        for x in grid() {
            assert!(close(exp(x), taylor_exp(x)), "exp {x}");
            assert!(close(log(taylor_exp(x)), x), "log {x}");
            let density = |t: f64| std::f64::consts::FRAC_2_SQRT_PI * taylor_exp(-t * t);
            assert!(
                (erf(x) - integral(density, 0.0, x)).abs() < 1e-11,
                "erf {x}"
            );
            let (e, f) = (taylor_exp(x), taylor_exp(-x));
            assert!(close(tanh(x), (e - f) / (e + f)), "tanh {x}");
        }
    }

    #[test]
    fn activations_match_their_definitions() {
        for x in grid() {
            let (e, f) = (taylor_exp(x), taylor_exp(-x));
            assert!(close(sigmoid(x), 1.0 / (1.0 + f)), "sigmoid {x}");
            assert!(close(silu(x), x / (1.0 + f)), "silu {x}");
            assert!(close(softplus(x), (1.0 + e).ln()), "softplus {x}");
            assert!(close(mish(x), x * (1.0 + e).ln().tanh()), "mish {x}");
            assert!(
                close(elu(x, 0.7), if x > 0.0 { x } else { 0.7 * (e - 1.0) }),
                "elu {x}"
            );
            let hard = if x <= -3.0 {
                0.0
            } else if x >= 3.0 {
                x
            } else {
                x * (x + 3.0) / 6.0
            };
            assert!(close(hard_swish(x), hard), "hard_swish {x}");
            let normal = 0.5
                + integral(|t| taylor_exp(-t * t / 2.0), 0.0, x)
                    / (2.0 * std::f64::consts::PI).sqrt();
            assert!((gelu(x) - x * normal).abs() < 1e-10, "gelu {x}");
            let cubic = (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x.powi(3));
            assert!(
                (gelu_tanh(x) - 0.5 * x * (1.0 + cubic.tanh())).abs() < 1e-10,
                "gelu_tanh {x}"
            );
        }
    }

    #[test]
    fn tails_neither_overflow_nor_lose_their_sign() {
        for f in [sigmoid, softplus, silu, gelu, gelu_tanh, mish] {
            assert!(f(-1e4).abs() <= 1e-300, "{}", f(-1e4));
            assert!(f(1e4) == 1e4 || f(1e4) == 1.0);
        }
        // Reference: the asymptotic series of the normal tail, x·φ(x)/x·(1 - 1/x² + 3/x⁴ - 15/x⁶ + 105/x⁸).
        let x: f64 = 12.0;
        let series = 1.0 - x.powi(-2) + 3.0 * x.powi(-4) - 15.0 * x.powi(-6) + 105.0 * x.powi(-8);
        let tail = taylor_exp(-x * x / 2.0) / (2.0 * std::f64::consts::PI).sqrt() * series;
        assert!((gelu(-x) / -tail - 1.0).abs() < 1e-6);
    }

    #[test]
    fn clip_keeps_nan_and_prefers_the_upper_bound() {
        assert!(clip(f64::NAN, 0.0, 1.0).is_nan());
        assert_eq!(clip(0.5, 2.0, 1.0), 1.0);
        assert_eq!(leaky_relu(-2.0, 0.25), -0.5);
    }
}
