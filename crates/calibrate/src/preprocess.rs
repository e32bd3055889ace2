//! Preprocessing: from an image to the values that a model takes.
//!
//! The steps, each optional, in order: resize, crop from the centre, scale, `(x - mean) / std` a channel, channels first. The same
//! description serves calibration, evaluation and runs.

use image::imageops::FilterType;
use image::{DynamicImage, RgbImage};
use serde::{Deserialize, Serialize};

use crate::data::DataError;

/// The order of an image's axes in an array.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ImageLayout {
    /// Height, width, channels.
    #[default]
    Nhwc,
    /// Channels, height, width.
    Nchw,
}

/// The order of the channels that the model takes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Color {
    /// Red, green, blue.
    #[default]
    Rgb,
    /// Blue, green, red.
    Bgr,
    /// One channel.
    Gray,
}

/// How samples between pixels are taken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Filter {
    /// The nearest pixel.
    Nearest,
    /// Linear in both directions.
    #[default]
    Bilinear,
    /// Catmull and Rom's cubic.
    Bicubic,
    /// Lanczos, three lobes.
    Lanczos,
}

/// The size to which an image is brought: its shorter side, or both.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Resize {
    /// The length of the shorter side; the ratio of the sides is kept.
    pub short_side: Option<u32>,
    /// Height and width.
    pub size: Option<[u32; 2]>,
    /// How samples between pixels are taken.
    #[serde(default)]
    pub filter: Filter,
}

/// The preprocessing of one input of a model: the table `[input.NAME]` of a configuration.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Preprocess {
    /// The array of an archive that holds the samples; the input's name when absent.
    pub array: Option<String>,
    /// The order of the axes of image arrays.
    pub layout: ImageLayout,
    /// The order of the channels that the model takes.
    pub color: Color,
    /// The size to which images are brought.
    pub resize: Option<Resize>,
    /// Height and width of the part that is cut from the centre.
    pub crop: Option<[u32; 2]>,
    /// The factor of every element.
    pub scale: f32,
    /// What is subtracted from each channel after scaling.
    pub mean: Vec<f32>,
    /// What each channel is divided by then.
    pub std: Vec<f32>,
}

impl Default for Preprocess {
    fn default() -> Self {
        Self {
            array: None,
            layout: ImageLayout::Nhwc,
            color: Color::Rgb,
            resize: None,
            crop: None,
            scale: 1.0,
            mean: Vec::new(),
            std: Vec::new(),
        }
    }
}

/// An image of bytes: height, width, channels.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Image {
    /// The number of rows.
    pub height: usize,
    /// The number of columns.
    pub width: usize,
    /// The number of channels.
    pub channels: usize,
    /// The samples, channels innermost.
    pub samples: Vec<u8>,
}

impl Image {
    /// An image from a decoded file: one channel when it is gray and gray is wanted, else three.
    pub fn from_dynamic(image: &DynamicImage, color: Color) -> Self {
        let (width, height) = (image.width() as usize, image.height() as usize);
        let (channels, samples) = match color {
            Color::Gray => (1, image.to_luma8().into_raw()),
            Color::Rgb | Color::Bgr => (3, image.to_rgb8().into_raw()),
        };
        Self {
            height,
            width,
            channels,
            samples,
        }
    }

    fn resized(&self, height: u32, width: u32, filter: Filter) -> Result<Self, DataError> {
        let filter = match filter {
            Filter::Nearest => FilterType::Nearest,
            Filter::Bilinear => FilterType::Triangle,
            Filter::Bicubic => FilterType::CatmullRom,
            Filter::Lanczos => FilterType::Lanczos3,
        };
        let (old_width, old_height) = (self.width as u32, self.height as u32);
        let no_image = || DataError::Preprocess("the samples do not fill the image".to_owned());
        let samples = match self.channels {
            1 => {
                let image = image::GrayImage::from_raw(old_width, old_height, self.samples.clone())
                    .ok_or_else(no_image)?;
                image::imageops::resize(&image, width, height, filter).into_raw()
            }
            3 => {
                let image = RgbImage::from_raw(old_width, old_height, self.samples.clone())
                    .ok_or_else(no_image)?;
                image::imageops::resize(&image, width, height, filter).into_raw()
            }
            channels => {
                return Err(DataError::Preprocess(format!(
                    "an image of {channels} channels cannot be resized"
                )));
            }
        };
        Ok(Self {
            height: height as usize,
            width: width as usize,
            channels: self.channels,
            samples,
        })
    }

    fn cropped(&self, height: usize, width: usize) -> Result<Self, DataError> {
        if height > self.height || width > self.width {
            return Err(DataError::Preprocess(format!(
                "a part of {height}×{width} of an image of {}×{}",
                self.height, self.width
            )));
        }
        let (top, left) = ((self.height - height) / 2, (self.width - width) / 2);
        let row = |y: usize| {
            let start = ((top + y) * self.width + left) * self.channels;
            &self.samples[start..start + width * self.channels]
        };
        let samples = (0..height).flat_map(|y| row(y).iter().copied()).collect();
        Ok(Self {
            height,
            width,
            channels: self.channels,
            samples,
        })
    }
}

impl Preprocess {
    /// Checks what does not depend on the image.
    ///
    /// # Errors
    /// When `resize` says both a size and a shorter side, or neither.
    pub fn check(&self) -> Result<(), DataError> {
        let reason = match self.resize {
            Some(resize) if resize.size.is_some() && resize.short_side.is_some() => {
                "`resize` has both `size` and `short_side`, expected one"
            }
            Some(resize) if resize.size.is_none() && resize.short_side.is_none() => {
                "`resize` needs `size` or `short_side`"
            }
            _ => return Ok(()),
        };
        Err(DataError::Preprocess(reason.to_owned()))
    }

    /// The values of one image: [C, H, W] flattened, and these sizes.
    ///
    /// # Errors
    /// When the image cannot be brought to the size asked for, or `mean` or `std` do not suit its channels.
    pub fn apply(&self, image: &Image) -> Result<([usize; 3], Vec<f32>), DataError> {
        self.check()?;
        let mut image = image.clone();
        if let Some(resize) = self.resize {
            let (height, width) = match (resize.size, resize.short_side) {
                (Some([height, width]), _) => (height, width),
                (None, side) => {
                    let side = f64::from(side.unwrap_or(0));
                    let short = image.height.min(image.width).max(1) as f64;
                    let scaled = |length: usize| (length as f64 * side / short).round() as u32;
                    (scaled(image.height), scaled(image.width))
                }
            };
            if height == 0 || width == 0 || height > 1 << 16 || width > 1 << 16 {
                return Err(DataError::Preprocess(format!(
                    "an image of {height}×{width}"
                )));
            }
            image = image.resized(height, width, resize.filter)?;
        }
        if let Some([height, width]) = self.crop {
            image = image.cropped(height as usize, width as usize)?;
        }
        let channels = image.channels;
        let per_channel = |values: &[f32], default: f32, name: &str| match values {
            [] => Ok(vec![default; channels]),
            [single] => Ok(vec![*single; channels]),
            many if many.len() == channels => Ok(many.to_vec()),
            many => Err(DataError::Preprocess(format!(
                "{} elements of `{name}` for {channels} channels",
                many.len()
            ))),
        };
        let (mean, std) = (
            per_channel(&self.mean, 0.0, "mean")?,
            per_channel(&self.std, 1.0, "std")?,
        );
        let pixels = image.height * image.width;
        let mut values = Vec::with_capacity(channels * pixels);
        for channel in 0..channels {
            let from = if self.color == Color::Bgr {
                channels - 1 - channel
            } else {
                channel
            };
            let samples = image.samples.iter().skip(from).step_by(channels);
            values
                .extend(samples.map(|&sample| {
                    (f32::from(sample) * self.scale - mean[channel]) / std[channel]
                }));
        }
        Ok(([channels, image.height, image.width], values))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image() -> Image {
        Image {
            height: 2,
            width: 2,
            channels: 3,
            samples: (0..12).map(|x| x * 10).collect(),
        }
    }

    #[test]
    fn channels_come_first_and_are_normalized() {
        let preprocess = Preprocess {
            scale: 0.1,
            mean: vec![1.0, 2.0, 3.0],
            std: vec![2.0],
            ..Preprocess::default()
        };
        let (shape, values) = preprocess.apply(&image()).unwrap();
        assert_eq!(shape, [3, 2, 2]);
        for (index, value) in values.iter().enumerate() {
            let (channel, pixel) = (index / 4, index % 4);
            let sample = f64::from((pixel * 3 + channel) as u8 * 10);
            let expected = (sample * 0.1 - (channel + 1) as f64) / 2.0;
            assert!((f64::from(*value) - expected).abs() < 1e-5);
        }
        let bgr = Preprocess {
            color: Color::Bgr,
            ..Preprocess::default()
        };
        assert_eq!(bgr.apply(&image()).unwrap().1[0], 20.0);
    }

    #[test]
    fn parts_larger_than_the_image_are_refused() {
        let preprocess = Preprocess {
            crop: Some([3, 2]),
            ..Preprocess::default()
        };
        assert!(preprocess.apply(&image()).is_err());
        let wrong = Preprocess {
            mean: vec![0.0, 1.0],
            ..Preprocess::default()
        };
        assert!(wrong.apply(&image()).is_err());
    }
    #[test]
    fn resizing_names_one_size() {
        let resized = |size, short_side| {
            let resize = Some(Resize {
                size,
                short_side,
                filter: Filter::default(),
            });
            let preprocess = Preprocess {
                resize,
                ..Preprocess::default()
            };
            preprocess.apply(&image()).map(|(shape, _)| shape)
        };
        assert_eq!(resized(Some([3, 5]), None).unwrap(), [3, 3, 5]);
        assert_eq!(resized(None, Some(4)).unwrap(), [3, 4, 4]);
        for (size, side) in [(None, None), (Some([3, 5]), Some(4))] {
            let error = resized(size, side).unwrap_err().to_string();
            assert!(error.contains("`short_side`"), "{error}");
        }
    }
}
