//! The range of values, for parameters that follow from it.

use crate::shared::dispatch::isa_versions;
use crate::{Isa, KernelError};

/// Values that are compared with as many of their own kind at a time.
const LANES: usize = 64;

/// The bits of infinity; numbers beyond it in this order are NaN.
const INFINITY: u32 = 0x7F80_0000;

/// The smallest and the largest number among the values and 0; `None` if a value is infinite or NaN.
///
/// # Errors
/// For a missing instruction set.
pub fn range(isa: Isa, input: &[f32]) -> Result<Option<(f32, f32)>, KernelError> {
    let mut lanes = Lanes::default();
    extend(isa, input, &mut lanes)?;
    let Lanes { min, max, size } = lanes;
    let finite = size.iter().all(|&size| size < INFINITY);
    let min = min.into_iter().fold(0.0, f32::min);
    let max = max.into_iter().fold(0.0, f32::max);
    Ok(finite.then_some((min, max)))
}

isa_versions!(
    fn extend(input: &[f32], lanes: &mut Lanes) = extend_loop
);

struct Lanes {
    min: [f32; LANES],
    max: [f32; LANES],
    /// The largest bits without sign.
    size: [u32; LANES],
}

impl Default for Lanes {
    fn default() -> Self {
        Self {
            min: [0.0; LANES],
            max: [0.0; LANES],
            size: [0; LANES],
        }
    }
}

impl Lanes {
    #[inline(always)]
    fn add(&mut self, lane: usize, x: f32) {
        // A NaN is not smaller or larger than anything.
        self.min[lane] = if x < self.min[lane] {
            x
        } else {
            self.min[lane]
        };
        self.max[lane] = if x > self.max[lane] {
            x
        } else {
            self.max[lane]
        };
        self.size[lane] = self.size[lane].max(x.abs().to_bits());
    }
}

#[inline(always)]
fn extend_loop(input: &[f32], lanes: &mut Lanes) {
    let (blocks, rest) = input.as_chunks::<LANES>();
    for block in blocks {
        for (lane, &x) in block.iter().enumerate() {
            lanes.add(lane, x);
        }
    }
    for (lane, &x) in rest.iter().enumerate() {
        lanes.add(lane, x);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_range_holds_all_values_and_zero() {
        for isa in Isa::supported() {
            for len in [0, 1, LANES - 1, LANES, LANES + 1, 1000] {
                for (scale, shift) in [(1.0, 0.0), (0.5, 900.0), (0.5, -900.0)] {
                    let value = |i: usize| ((i * 7919) % 613) as f32 * scale + shift;
                    let input: Vec<f32> = (0..len).map(value).collect();
                    let mut sorted = [&input[..], &[0.0]].concat();
                    sorted.sort_by(f32::total_cmp);
                    let expected = (sorted[0], sorted[len]);
                    assert_eq!(range(isa, &input).unwrap(), Some(expected), "{isa} {len}");
                }
            }
        }
    }

    #[test]
    fn what_is_not_finite_has_no_range() {
        for isa in Isa::supported() {
            for position in [0, LANES, LANES + 5] {
                for bad in [f32::NAN, -f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
                    let mut input = vec![1.0; LANES + 6];
                    input[position] = bad;
                    assert_eq!(range(isa, &input).unwrap(), None, "{isa} {position} {bad}");
                }
            }
        }
    }
}
