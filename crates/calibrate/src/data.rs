//! Data sets: batches of named inputs from archives and folders.
//!
//! A `.npz` archive holds one array a model input. An array of one rank more than the input holds one sample an index; an array of the
//! input's rank is cut along axis 0 into the model's batches (a symbolic batch takes [`DataOptions::batch`]). A folder of
//! archives is read one after the other, and a folder of images holds one sample a file; its sub-folders are the
//! classes. Images of bytes, from files or arrays, go through the input's [`Preprocess`].

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use octofold_ops::families::Cast;
use octofold_ops::{Inputs, Operator};
use octofold_tensor::file::read_limited;
use octofold_tensor::npy::{MAX_BYTES, NpyError, Rows, names, with_rows};
use octofold_tensor::{DType, Dim, Tensor, TensorError};

use crate::decode::{DecodeError, decode_image};
use crate::preprocess::{Color, Image, ImageLayout, Preprocess};

/// The inputs of one run, by name.
pub type Batch = Vec<(String, Tensor)>;

/// What a model takes.
#[derive(Clone, Debug, PartialEq)]
pub struct InputSpec {
    /// The input's name.
    pub name: String,
    /// The element type.
    pub dtype: DType,
    /// The dimensions, the batch first.
    pub shape: Vec<Dim>,
}

/// How a data set is read.
#[derive(Clone, Debug, PartialEq)]
pub struct DataOptions {
    /// The array of each input, where the names differ.
    pub map: BTreeMap<String, String>,
    /// The preprocessing of each input.
    pub preprocess: BTreeMap<String, Preprocess>,
    /// The number of samples a run, where the model leaves it open.
    pub batch: usize,
    /// The largest number of samples that is read, at least 1.
    pub samples: Option<usize>,
    /// The bytes of an array that are read at once: those of a batch, or of all labels.
    pub array_bytes: u64,
    /// The bytes of an image file.
    pub image_bytes: u64,
}

impl Default for DataOptions {
    fn default() -> Self {
        Self {
            map: BTreeMap::new(),
            preprocess: BTreeMap::new(),
            batch: 32,
            samples: None,
            array_bytes: MAX_BYTES,
            image_bytes: 1 << 28,
        }
    }
}

/// Why data could not be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DataError {
    /// A file or folder cannot be read.
    #[error("{path}: {source}")]
    Io {
        /// The file or folder.
        path: String,
        /// What the system says.
        source: std::io::Error,
    },
    /// An archive is malformed.
    #[error("{path}: {source}")]
    Array {
        /// The file.
        path: String,
        /// What is wrong with it.
        source: NpyError,
    },
    /// An image cannot be decoded.
    #[error("{path}: {source}")]
    Image {
        /// The file.
        path: String,
        /// What is wrong with it.
        source: DecodeError,
    },
    /// An array that an input needs is absent.
    #[error("{path} has no array `{array}` for the input `{input}`; it has {found}")]
    Missing {
        /// The file.
        path: String,
        /// The array looked for.
        array: String,
        /// The input.
        input: String,
        /// The arrays that are there.
        found: String,
    },
    /// An array that does not suit the input.
    #[error("input `{input}`: {reason}")]
    Fit {
        /// The input.
        input: String,
        /// What is wrong.
        reason: String,
    },
    /// An image that preprocessing cannot bring into form.
    #[error("preprocessing: {0}")]
    Preprocess(String),
    /// Options that no data set can follow.
    #[error("{0}")]
    Options(String),
    /// Nothing to read.
    #[error("{0} holds no samples")]
    Empty(String),
    /// A tensor could not be made.
    #[error(transparent)]
    Tensor(#[from] TensorError),
}

/// Where the samples of a data set are.
enum Source {
    /// Archives, read one after the other.
    Archives(Vec<PathBuf>),
    /// Image files with their class.
    Images(Vec<(PathBuf, i64)>),
}

/// A data set for a model.
pub struct DataSet {
    source: Source,
    inputs: Vec<InputSpec>,
    options: DataOptions,
    path: PathBuf,
}

impl DataSet {
    /// A data set at `path` for a model that takes `inputs`. The samples are read when they are asked for.
    ///
    /// # Errors
    /// When the path cannot be read or holds neither archives nor images, or the options are about inputs that the model does not have.
    pub fn open(
        path: &Path,
        inputs: Vec<InputSpec>,
        options: DataOptions,
    ) -> Result<Self, DataError> {
        check_options(&inputs, &options)?;
        let io = |source| DataError::Io {
            path: path.display().to_string(),
            source,
        };
        let source = if std::fs::metadata(path).map_err(io)?.is_dir() {
            folder_source(path)?
        } else {
            Source::Archives(vec![path.to_owned()])
        };
        Ok(Self {
            source,
            inputs,
            options,
            path: path.to_owned(),
        })
    }

    /// Calls `visit` with each batch and the number of samples in it, until all are read or the limit is reached.
    ///
    /// # Errors
    /// When data cannot be read or do not fit, and the errors of `visit`.
    pub fn for_each<E: From<DataError>>(
        &self,
        mut visit: impl FnMut(Batch, usize) -> Result<(), E>,
    ) -> Result<usize, E> {
        let limit = self.options.samples.unwrap_or(usize::MAX);
        let mut count = 0;
        match &self.source {
            Source::Archives(files) => {
                for file in files {
                    let arrays = self.arrays(file)?;
                    let array_bytes = self.options.array_bytes;
                    let read = with_rows(file, &arrays, array_bytes, |rows| -> Result<(), E> {
                        while count < limit
                            && let Some((batch, samples)) = self.next(file, rows, limit - count)?
                        {
                            visit(batch, samples)?;
                            count += samples;
                        }
                        Ok(())
                    });
                    read.map_err(in_file(file))??;
                    if count >= limit {
                        break;
                    }
                }
            }
            Source::Images(files) => {
                let (input, preprocess) = self.image_input()?;
                let size = self.batch_size(input);
                let files = &files[..files.len().min(limit)];
                for chunk in files.chunks(size) {
                    let images: Result<Vec<Image>, DataError> = chunk
                        .iter()
                        .map(|(path, _)| {
                            read_image(path, preprocess.color, self.options.image_bytes)
                        })
                        .collect();
                    let tensor = float_of(stack_images(&images?, &preprocess, input)?, input)?;
                    visit(vec![(input.name.clone(), tensor)], chunk.len())?;
                    count += chunk.len();
                }
            }
        }
        if count == 0 {
            return Err(DataError::Empty(self.path.display().to_string()).into());
        }
        Ok(count)
    }

    /// The class of each sample: an integer array of the archives, or the sub-folder of each image.
    ///
    /// # Errors
    /// When the array is absent or does not hold integers.
    pub fn labels(&self, array: &str) -> Result<Vec<i64>, DataError> {
        let mut labels = Vec::new();
        match &self.source {
            Source::Images(files) => labels.extend(files.iter().map(|(_, class)| *class)),
            Source::Archives(files) => {
                for file in files {
                    let index = find(&names(file).map_err(in_file(file))?, array, "labels", file)?;
                    let bytes = self.options.array_bytes;
                    let tensor = with_rows(file, &[index], bytes, |rows| rows[0].read(usize::MAX));
                    let tensor = &tensor.and_then(|labels| labels).map_err(in_file(file))?;
                    labels.extend(integers(tensor).ok_or_else(|| DataError::Fit {
                        input: array.to_owned(),
                        reason: format!("labels are integers, not {}", tensor.dtype()),
                    })?);
                }
            }
        }
        labels.truncate(self.options.samples.unwrap_or(usize::MAX));
        Ok(labels)
    }

    /// The number of each input's array in an archive, in the order of the inputs.
    fn arrays(&self, file: &Path) -> Result<Vec<usize>, DataError> {
        let found = names(file).map_err(in_file(file))?;
        let arrays = self.inputs.iter().map(|input| {
            let preprocess = self.options.preprocess.get(&input.name);
            let preprocessed = preprocess.and_then(|preprocess| preprocess.array.as_ref());
            let mapped = self.options.map.get(&input.name).or(preprocessed);
            // A single array needs no name when there is a single input.
            match found.len() {
                1 if self.inputs.len() == 1 => Ok(0),
                _ => find(&found, mapped.unwrap_or(&input.name), &input.name, file),
            }
        });
        arrays.collect()
    }

    /// The next batch of at most `limit` samples, and its number of samples; `None` at the end of an array.
    fn next(
        &self,
        file: &Path,
        arrays: &mut [Rows<'_>],
        limit: usize,
    ) -> Result<Option<(Batch, usize)>, DataError> {
        let mut batch = Batch::new();
        let mut samples = None;
        for (input, rows) in self.inputs.iter().zip(arrays) {
            if rows.left() == 0 {
                return Ok(None);
            }
            let form = self.form(input, rows)?;
            let size = match form {
                Form::OneEach => 1,
                Form::Batched | Form::Images => self.batch_size(input),
            };
            let part = rows.read(size.min(limit)).map_err(in_file(file))?;
            let count = part.shape()[0];
            let tensor = match form {
                Form::OneEach => part.reshaped(part.shape()[1..].iter().copied())?,
                Form::Batched => part,
                Form::Images => {
                    let preprocess = self.preprocess(input);
                    let images = images_of(&part, preprocess.layout, &input.name)?;
                    stack_images(&images, &preprocess, input)?
                }
            };
            let tensor = float_of(tensor, input)?;
            if *samples.get_or_insert(count) != count {
                return Err(DataError::Fit {
                    input: input.name.clone(),
                    reason: "the inputs have different numbers of samples".to_owned(),
                });
            }
            batch.push((input.name.clone(), tensor));
        }
        Ok(samples.map(|samples| (batch, samples)))
    }

    /// How the samples of an array are laid out for an input.
    fn form(&self, input: &InputSpec, array: &Rows<'_>) -> Result<Form, DataError> {
        let rank = input.shape.len();
        let bytes_for_floats = array.dtype() == DType::U8 && input.dtype.is_float();
        let fail = |reason: String| DataError::Fit {
            input: input.name.clone(),
            reason,
        };
        if bytes_for_floats && rank == 4 && array.shape().len() == 4 {
            return Ok(Form::Images);
        }
        let floats = array.dtype().is_float() && input.dtype.is_float();
        if array.dtype() != input.dtype && !floats {
            return Err(fail(format!(
                "the array holds {}, the model takes {}",
                array.dtype(),
                input.dtype
            )));
        }
        match array.shape().len() {
            r if r == rank + 1 => Ok(Form::OneEach),
            r if r == rank && rank > 0 => Ok(Form::Batched),
            r => Err(fail(format!(
                "an array of rank {r} for an input of rank {rank}"
            ))),
        }
    }

    fn batch_size(&self, input: &InputSpec) -> usize {
        let fixed = input
            .shape
            .first()
            .and_then(Dim::known)
            .and_then(|size| usize::try_from(size).ok());
        fixed.unwrap_or(self.options.batch).max(1)
    }

    fn preprocess(&self, input: &InputSpec) -> Preprocess {
        let given = self.options.preprocess.get(&input.name);
        given.cloned().unwrap_or_default()
    }

    /// The single input that takes images, and its preprocessing.
    fn image_input(&self) -> Result<(&InputSpec, Preprocess), DataError> {
        match self.inputs.as_slice() {
            [input] => Ok((input, self.preprocess(input))),
            _ => Err(DataError::Preprocess(
                "a folder of images serves models of one input".to_owned(),
            )),
        }
    }
}

/// How the samples of an array are laid out.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Form {
    /// Each index is one complete input.
    OneEach,
    /// Axis 0 is the batch.
    Batched,
    /// Each index is an image of bytes.
    Images,
}

/// Checks that options are about inputs of the model, and ask for samples.
fn check_options(inputs: &[InputSpec], options: &DataOptions) -> Result<(), DataError> {
    if options.samples == Some(0) {
        return Err(DataError::Options(
            "0 samples are asked for, expected at least 1".to_owned(),
        ));
    }
    let settings = options.map.keys().map(|name| ("--map", name));
    for (what, name) in settings.chain(options.preprocess.keys().map(|name| ("[input]", name))) {
        if inputs.iter().all(|input| input.name != **name) {
            let known = inputs.iter().map(|input| format!("`{}`", input.name));
            return Err(DataError::Options(format!(
                "{what} {name}: the model has no input `{name}`; it has {}",
                known.collect::<Vec<_>>().join(", ")
            )));
        }
    }
    options.preprocess.values().try_for_each(Preprocess::check)
}

/// An error in a file of arrays.
fn in_file(file: &Path) -> impl Fn(NpyError) -> DataError {
    move |source| DataError::Array {
        path: file.display().to_string(),
        source,
    }
}

/// The number of an array of a file.
fn find(arrays: &[String], array: &str, input: &str, file: &Path) -> Result<usize, DataError> {
    let found = arrays.iter().position(|name| name == array);
    found.ok_or_else(|| DataError::Missing {
        path: file.display().to_string(),
        array: array.to_owned(),
        input: input.to_owned(),
        found: arrays
            .iter()
            .map(|name| format!("`{name}`"))
            .collect::<Vec<_>>()
            .join(", "),
    })
}

fn integers(tensor: &Tensor) -> Option<Vec<i64>> {
    if let Ok(values) = tensor.values::<i64>() {
        return Some(values.to_vec());
    }
    if let Ok(values) = tensor.values::<i32>() {
        return Some(values.iter().map(|&value| value.into()).collect());
    }
    tensor
        .values::<u8>()
        .ok()
        .map(|values| values.iter().map(|&value| value.into()).collect())
}

/// The images of an array [N, H, W, C] or [N, C, H, W].
fn images_of(tensor: &Tensor, layout: ImageLayout, input: &str) -> Result<Vec<Image>, DataError> {
    let fail = || DataError::Fit {
        input: input.to_owned(),
        reason: "images are arrays of rank 4".to_owned(),
    };
    let &[count, a, b, c] = tensor.shape() else {
        return Err(fail());
    };
    let samples = tensor.values::<u8>()?;
    let (height, width, channels) = if layout == ImageLayout::Nhwc {
        (a, b, c)
    } else {
        (b, c, a)
    };
    let size = a * b * c;
    let images = (0..count).map(|index| {
        let planes = &samples[index * size..(index + 1) * size];
        let samples = match layout {
            ImageLayout::Nhwc => planes.to_vec(),
            ImageLayout::Nchw => {
                let pixels = height * width;
                (0..size)
                    .map(|i| planes[i % channels * pixels + i / channels])
                    .collect()
            }
        };
        Image {
            height,
            width,
            channels,
            samples,
        }
    });
    Ok(images.collect())
}

/// Preprocessed images as one batch.
fn stack_images(
    images: &[Image],
    preprocess: &Preprocess,
    input: &InputSpec,
) -> Result<Tensor, DataError> {
    let mut values = Vec::new();
    let mut shape = [0; 3];
    for image in images {
        let (this, mut channel_values) = preprocess.apply(image)?;
        if !values.is_empty() && this != shape {
            return Err(DataError::Fit {
                input: input.name.clone(),
                reason: format!(
                    "images of {shape:?} and {this:?} in one batch; `resize` brings them to one size"
                ),
            });
        }
        shape = this;
        values.append(&mut channel_values);
    }
    Ok(Tensor::new(
        [images.len(), shape[0], shape[1], shape[2]],
        values,
    )?)
}

fn read_image(path: &Path, color: Color, limit: u64) -> Result<Image, DataError> {
    let name = || path.display().to_string();
    let bytes = read_limited(path, ("image-bytes", limit));
    let bytes = bytes.map_err(|source| DataError::Io {
        path: name(),
        source,
    })?;
    decode_image(&bytes, path, color).map_err(|source| DataError::Image {
        path: name(),
        source,
    })
}

/// The archives of a folder, or its images with the classes of its sub-folders, in the order of their names.
fn folder_source(path: &Path) -> Result<Source, DataError> {
    let mut entries = list(path)?;
    let archives: Vec<PathBuf> = entries
        .iter()
        .filter(|path| has_extension(path, &["npz", "npy"]))
        .cloned()
        .collect();
    if !archives.is_empty() {
        return Ok(Source::Archives(archives));
    }
    let is_image = |path: &PathBuf| has_extension(path, &["png", "jpg", "jpeg", "bmp"]);
    let classes: Vec<PathBuf> = entries
        .iter()
        .filter(|path| path.is_dir())
        .cloned()
        .collect();
    let mut images: Vec<(PathBuf, i64)> = Vec::new();
    for (class, folder) in classes.iter().enumerate() {
        images.extend(
            list(folder)?
                .into_iter()
                .filter(is_image)
                .map(|path| (path, class as i64)),
        );
    }
    if classes.is_empty() {
        entries.retain(is_image);
        images.extend(entries.into_iter().map(|path| (path, 0)));
    }
    if images.is_empty() {
        return Err(DataError::Empty(path.display().to_string()));
    }
    Ok(Source::Images(images))
}

fn has_extension(path: &Path, extensions: &[&str]) -> bool {
    let extension = path
        .extension()
        .map(|extension| extension.to_string_lossy().to_lowercase());
    extension.is_some_and(|extension| extensions.contains(&extension.as_str()))
}

fn list(path: &Path) -> Result<Vec<PathBuf>, DataError> {
    let io = |source| DataError::Io {
        path: path.display().to_string(),
        source,
    };
    let entries = std::fs::read_dir(path).map_err(io)?;
    let mut paths = entries
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<Result<Vec<_>, _>>()
        .map_err(io)?;
    paths.sort();
    Ok(paths)
}

/// Floats of any width as those that an input takes; other arrays as they are.
fn float_of(array: Tensor, input: &InputSpec) -> Result<Tensor, DataError> {
    let to = input.dtype;
    if array.dtype() == to || !array.dtype().is_float() || !to.is_float() {
        return Ok(array);
    }
    let (saturate, round_mode) = (true, "up".to_owned());
    let cast = Cast {
        to,
        saturate,
        round_mode,
    };
    let results = cast.evaluate(Inputs(&[Some(&array)]), 1);
    let first = results.map(|mut results| results.remove(0));
    first.map_err(|error| DataError::Fit {
        input: input.name.clone(),
        reason: error.to_string(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_about_inputs_of_the_model() {
        let inputs = [InputSpec {
            name: "x".to_owned(),
            dtype: DType::F32,
            shape: vec![Dim::symbol("N")],
        }];
        let with = |change: &dyn Fn(&mut DataOptions)| {
            let mut options = DataOptions::default();
            change(&mut options);
            check_options(&inputs, &options)
        };
        assert!(with(&|_| ()).is_ok());
        assert!(with(&|o| o.samples = Some(0)).is_err());
        assert!(with(&|o| drop(o.map.insert("x".to_owned(), "a".to_owned()))).is_ok());
        assert!(with(&|o| drop(o.map.insert("z".to_owned(), "a".to_owned()))).is_err());
        let both = Preprocess {
            resize: Some(crate::preprocess::Resize {
                short_side: Some(8),
                size: Some([8, 8]),
                filter: Default::default(),
            }),
            ..Preprocess::default()
        };
        assert!(with(&|o| drop(o.preprocess.insert("x".to_owned(), both.clone()))).is_err());
    }
}
