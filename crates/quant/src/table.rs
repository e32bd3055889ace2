//! Lookup tables of functions of one 8-bit quantized value.
//!
//! Entry `i` is what input byte `i` becomes: `clamp(rne(f((q - z)·s) / s_y) + z_y, lo, hi)`, all in f64 and rounded
//! once. The index and the entries are the bytes in memory; a signed value is its two's complement.

use crate::{QParams, QuantType};

/// 256 bytes by input byte.
pub type Table = [u8; 256];

/// Why no table can be built.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum TableError {
    /// A type that does not fill one byte.
    #[error("a lookup table maps bytes, and {0} is not one byte")]
    NotOneByte(QuantType),
}

/// The table of `f` from values of type `from_type` to values of type `to_type`, clamped to `lo..=hi`.
///
/// A fused ReLU or Clip narrows `lo..=hi`, which are quantized values within `to_type`. Where `f` gives NaN, the
/// entry is `lo`; infinities saturate.
///
/// # Errors
/// When a type is not `uint8` or `int8`.
pub fn build(
    f: impl Fn(f64) -> f64,
    from: QParams,
    from_type: QuantType,
    to: QParams,
    to_type: QuantType,
    lo: i32,
    hi: i32,
) -> Result<Table, TableError> {
    for dtype in [from_type, to_type] {
        if !matches!(dtype, QuantType::Uint8 | QuantType::Int8) {
            return Err(TableError::NotOneByte(dtype));
        }
    }
    let lo = lo.clamp(to_type.min(), to_type.max());
    let hi = hi.clamp(lo, to_type.max());
    Ok(std::array::from_fn(|byte| {
        let q = if from_type.is_signed() {
            i32::from(byte as u8 as i8)
        } else {
            byte as i32
        };
        // The difference has at most 33 bits and the scale 24; for the zero points of one byte the product is exact.
        let x = (f64::from(q) - f64::from(from.zero_point)) * f64::from(from.scale);
        let steps = (f(x) / f64::from(to.scale)).round_ties_even() + f64::from(to.zero_point);
        // `as` converts NaN to 0, so the comparison comes first.
        let clamped = if steps > f64::from(lo) {
            steps
        } else {
            f64::from(lo)
        };
        clamped.min(f64::from(hi)) as i32 as u8
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::affine::{dequantize, quantize};
    use crate::functions::{silu, tanh};

    const FROM: QParams = QParams {
        scale: 0.05,
        zero_point: 100,
    };

    #[test]
    fn entries_are_the_nearest_representable_values() {
        let to = QParams {
            scale: 2.0 / 256.0,
            zero_point: 0,
        };
        let table = build(tanh, FROM, QuantType::Uint8, to, QuantType::Int8, -128, 127).unwrap();
        for q in 0..=255 {
            let exact = ((f64::from(q) - 100.0) * f64::from(0.05_f32)).tanh();
            let got = i32::from(table[usize::from(q as u8)] as i8);
            let error = |candidate: i32| (f64::from(candidate) * f64::from(to.scale) - exact).abs();
            let best = (-128..=127).map(error).fold(f64::INFINITY, f64::min);
            assert!(error(got) <= best + 1e-12, "{q} gives {got}");
        }
    }

    #[test]
    fn signed_inputs_index_by_their_bytes() {
        let from = QParams {
            scale: 0.03,
            zero_point: -7,
        };
        let table = build(silu, from, QuantType::Int8, FROM, QuantType::Uint8, 0, 255).unwrap();
        for q in -128..=127 {
            let x = f64::from(dequantize(q, from));
            let wanted = quantize((x / (1.0 + (-x).exp())) as f32, FROM, 0, 255);
            assert_eq!(i32::from(table[usize::from(q as u8)]), wanted, "{q}");
        }
    }

    #[test]
    fn clamps_hold_and_nan_takes_the_lower_one() {
        let nan = |x: f64| if x > 0.0 { f64::NAN } else { f64::INFINITY };
        let table = build(
            nan,
            FROM,
            QuantType::Uint8,
            FROM,
            QuantType::Uint8,
            100,
            180,
        )
        .unwrap();
        assert_eq!((table[0], table[255]), (180, 100));
        let identity = build(
            |x| x,
            FROM,
            QuantType::Uint8,
            FROM,
            QuantType::Uint8,
            100,
            180,
        )
        .unwrap();
        for q in 0..=255_u8 {
            assert_eq!(identity[usize::from(q)], q.clamp(100, 180));
        }
        assert_eq!(
            build(
                |x| x,
                FROM,
                QuantType::Uint16,
                FROM,
                QuantType::Uint8,
                0,
                255
            ),
            Err(TableError::NotOneByte(QuantType::Uint16))
        );
    }
}
