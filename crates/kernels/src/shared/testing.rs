//! What the tests of this folder share: lengths around the vector widths, bytes, and parameters.

use octofold_quant::QParams;

use super::{Quant8, Target8};

/// Lengths just below, at and above the widths of vectors and of unrolled loops.
pub(crate) const LENGTHS: [usize; 20] = [
    0, 1, 3, 7, 8, 9, 15, 16, 17, 31, 32, 33, 63, 64, 65, 127, 128, 129, 257, 1000,
];

/// A small generator of the same bytes every time (xorshift).
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// Bytes, every third of them one of the extremes of u8 and s8.
    pub(crate) fn bytes(&mut self, len: usize) -> Vec<u8> {
        let extremes = [0, 1, 127, 128, 129, 254, 255];
        let mut byte = || {
            let r = self.next() >> 16;
            if r.is_multiple_of(3) {
                extremes[(r / 3) as usize % 7]
            } else {
                (r / 3) as u8
            }
        };
        (0..len).map(|_| byte()).collect()
    }

    /// Floats in -1..1.
    pub(crate) fn floats(&mut self, len: usize) -> Vec<f32> {
        (0..len)
            .map(|_| (self.next() >> 40) as f32 / (1 << 23) as f32 - 1.0)
            .collect()
    }
}

/// Shorthand for parameters.
pub(crate) fn params(scale: f32, zero_point: i32) -> QParams {
    QParams { scale, zero_point }
}

/// Both types, with zero points at the ends and inside.
pub(crate) fn quants() -> Vec<Quant8> {
    vec![
        Quant8::unsigned(params(0.02, 0)),
        Quant8::unsigned(params(0.0235, 128)),
        Quant8::unsigned(params(1.0, 255)),
        Quant8::signed(params(0.03, 0)),
        Quant8::signed(params(0.5, -128)),
        Quant8::signed(params(0.011, 127)),
    ]
}

/// Results: the full ranges of [`quants`], and one with narrowed bounds for each type.
pub(crate) fn targets() -> Vec<Target8> {
    let mut targets: Vec<_> = quants().into_iter().map(Target8::full).collect();
    targets.push(Target8 {
        quant: Quant8::unsigned(params(0.04, 100)),
        lo: 100,
        hi: 180,
    });
    targets.push(Target8 {
        quant: Quant8::signed(params(0.004, -3)),
        lo: -3,
        hi: 100,
    });
    targets
}
