//! Image files as pixels: PNG, JPEG and BMP.

use std::io::Cursor;
use std::panic::catch_unwind;
use std::path::Path;

use image::{ImageFormat, ImageReader};

use crate::preprocess::{Color, Image};

/// Why an image file cannot be decoded.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DecodeError {
    /// The file is damaged, of an unknown format, or asks for too much memory.
    #[error(transparent)]
    Image(#[from] image::ImageError),
    /// A JPEG file that ends before the image does. Decoders fill what is missing with gray.
    #[error("the file is truncated")]
    Truncated,
    /// A file that makes the decoder panic, as damaged JPEG files do.
    #[error("the decoder cannot read this image")]
    Panic,
}

/// Decodes the bytes of an image file, whose format is that of the extension of `path`. An image of more than 512 MiB is refused.
///
/// # Errors
/// When the extension is none of an image, or the bytes are not a whole image of the format.
pub fn decode_image(bytes: &[u8], path: &Path, color: Color) -> Result<Image, DecodeError> {
    let format = ImageFormat::from_path(path)?;
    // The default limits of a reader bound the memory. Nothing that a decoder changed outlives its panic.
    let decode = || ImageReader::with_format(Cursor::new(bytes), format).decode();
    let image = catch_unwind(decode).map_err(|_| DecodeError::Panic)??;
    if format == ImageFormat::Jpeg && !jpeg_ends(bytes) {
        return Err(DecodeError::Truncated);
    }
    Ok(Image::from_dynamic(&image, color))
}

/// Whether a JPEG file has the marker that ends the image. Segments are skipped by their lengths, because a preview in one of them is a JPEG file, too.
fn jpeg_ends(bytes: &[u8]) -> bool {
    let mut at = 2;
    loop {
        // Between segments, and after the header of a scan, there are coded bytes, in which 0xff is followed by 0 or by the number of a restart.
        let marker = loop {
            match bytes.get(at..at + 2) {
                Some(&[0xff, marker]) if !matches!(marker, 0 | 0xd0..=0xd7 | 0xff) => break marker,
                Some(_) => at += 1,
                None => return false,
            }
        };
        if marker == 0xd9 {
            return true;
        }
        let Some(&[high, low]) = bytes.get(at + 2..at + 4) else {
            return false;
        };
        at += 2 + usize::from(u16::from_be_bytes([high, low]));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_jpeg_that_is_cut_is_refused() {
        let pixel = |x: u32, y: u32| image::Rgb([(x * 7) as u8, (y * 11) as u8, (x * y) as u8]);
        let mut whole = Cursor::new(Vec::new());
        let image = image::RgbImage::from_fn(48, 40, pixel);
        image.write_to(&mut whole, ImageFormat::Jpeg).unwrap();
        let whole = whole.into_inner();
        let decode = |bytes: &[u8]| decode_image(bytes, Path::new("image.jpg"), Color::Rgb);
        assert!(decode(&whole).is_ok());
        for part in [whole.len() - 2, whole.len() * 3 / 4, whole.len() / 2] {
            assert!(decode(&whole[..part]).is_err(), "{part} bytes");
        }
        // A preview inside of a segment has an end of its own.
        let mut preview = whole[..2].to_vec();
        preview.extend([0xff, 0xe1, 0, 6, 0xff, 0xd8, 0xff, 0xd9]);
        preview.extend(&whole[2..whole.len() / 2]);
        assert!(!jpeg_ends(&preview));
        preview.truncate(10);
        preview.extend(&whole[2..]);
        assert!(jpeg_ends(&preview));
    }

    /// Found by fuzzing: `zune-jpeg` 0.5.15 panics where the sizes of components disagree.
    #[test]
    fn a_panic_of_the_decoder_is_an_error() {
        let bytes = include_bytes!("../tests/images/decoder-panics.jpg");
        assert!(decode_image(bytes, Path::new("x.jpg"), Color::Rgb).is_err());
    }

    /// A header of a few bytes may claim an image of any size.
    #[test]
    fn an_image_larger_than_the_limit_is_refused() {
        let mut bytes = Cursor::new(Vec::new());
        image::GrayImage::new(1, 1)
            .write_to(&mut bytes, ImageFormat::Bmp)
            .unwrap();
        let mut bytes = bytes.into_inner();
        for side in [18..22, 22..26] {
            bytes[side].copy_from_slice(&(1_u32 << 16).to_le_bytes());
        }
        assert!(decode_image(&bytes, Path::new("image.bmp"), Color::Rgb).is_err());
    }
}
