//! One factor and one summand for each channel of channels-first images: batch norms in their place.
//!
//! `output = clamp(input · scale[c] + shift[c])`, a product and a sum, as the depthwise convolution of one tap computes it
//! channels-last. Rows are the planes of the images: one element for each pixel.

use crate::error::check_len;
use crate::shared::dispatch::isa_versions;
use crate::{Bounds, Isa, KernelError};

/// The parameters of some rows.
#[derive(Clone, Copy, Debug)]
pub struct Affine<'a> {
    /// The number of elements of a row.
    pub width: usize,
    /// The channel of the first row. The channels of the next rows follow, and the first comes behind the last.
    pub first: usize,
    /// The factor of each channel.
    pub scale: &'a [f32],
    /// The summand of each channel.
    pub shift: &'a [f32],
    /// The bounds of the results.
    pub clamp: Bounds,
}

/// Computes whole rows.
///
/// # Errors
/// For lengths that do not fit, and a missing instruction set.
pub fn affine(
    isa: Isa,
    rows: Affine<'_>,
    input: &[f32],
    output: &mut [f32],
) -> Result<(), KernelError> {
    check_len("the summands", rows.scale.len(), rows.shift.len())?;
    check_len("the output", input.len(), output.len())?;
    rows.clamp.check()?;
    if input.is_empty() {
        return Ok(());
    }
    if rows.width == 0 || !input.len().is_multiple_of(rows.width) || rows.first >= rows.scale.len()
    {
        return Err(KernelError::Shape("the elements are no whole rows"));
    }
    affine_rows(isa, rows, input, output)
}

isa_versions!(fn affine_rows(rows: Affine<'_>, input: &[f32], output: &mut [f32]) = rows_loop);

#[inline(always)]
fn rows_loop(rows: Affine<'_>, input: &[f32], output: &mut [f32]) {
    let channels = rows.scale.len();
    let planes = input
        .chunks_exact(rows.width)
        .zip(output.chunks_exact_mut(rows.width));
    for (row, (x, y)) in planes.enumerate() {
        let channel = (rows.first + row) % channels;
        let (scale, shift) = (rows.scale[channel], rows.shift[channel]);
        for (x, y) in x.iter().zip(y) {
            *y = rows.clamp.clamp(x * scale + shift);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shared::testing::{LENGTHS, Random};

    #[test]
    fn rows_have_the_parameters_of_their_channels() {
        let mut random = Random::new(5);
        let (scale, shift) = (random.floats(3), random.floats(3));
        for width in LENGTHS.into_iter().filter(|&width| width > 0) {
            let input = random.floats(7 * width);
            for (first, clamp) in [(0, Bounds::NONE), (2, Bounds::new(0.0, 0.5))] {
                let rows = Affine {
                    width,
                    first,
                    scale: &scale,
                    shift: &shift,
                    clamp,
                };
                for isa in Isa::supported() {
                    let mut output = vec![7.0; input.len()];
                    affine(isa, rows, &input, &mut output).unwrap();
                    for (i, (x, y)) in input.iter().zip(&output).enumerate() {
                        let channel = (first + i / width) % 3;
                        let expected = x * scale[channel] + shift[channel];
                        let expected = expected.max(clamp.lo).min(clamp.hi);
                        assert_eq!(*y, expected, "{isa} {width} {i}");
                    }
                }
            }
        }
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let call = |width, first, channels, x: usize, y: usize| {
            let (scale, shift) = (vec![1.0; channels], vec![0.0; channels]);
            let rows = Affine {
                width,
                first,
                scale: &scale,
                shift: &shift,
                clamp: Bounds::NONE,
            };
            affine(Isa::Scalar, rows, &vec![0.0; x], &mut vec![0.0; y])
        };
        assert_eq!(call(2, 1, 3, 4, 4), Ok(()));
        assert_eq!(call(0, 0, 0, 0, 0), Ok(()));
        assert!(call(2, 1, 3, 4, 6).is_err());
        assert!(call(2, 1, 3, 5, 5).is_err());
        assert!(call(0, 1, 3, 4, 4).is_err());
        assert!(call(2, 3, 3, 4, 4).is_err());
    }
}
