//! The text form of graphs: a superset of the ONNX text syntax.
//!
//! [`print()`] writes a graph, [`parse()`] reads it back: `parse(print(g))` is `g`. A graph of ONNX operators prints as text that
//! `onnx.parser` reads, and ONNX text of any opset that the [importer](crate::onnx) knows can be read. `Display` gives a short form, in which
//! large constants are left out.
//!
//! ```text
//! <ir_version: 10, opset_import: ["" : 21]>
//! net (float[N,3,8,8] x) => (float[N,4,8,8] y)
//! <
//! float[4,3,1,1] w = {0.5, …}
//! >
//! {
//! [conv] c = Conv <kernel_shape = [1,1]> (x, w)  # float[N,4,8,8]
//! [relu] y = Relu (c)  #: "relu1" "relu2"  # float[N,4,8,8]
//! }
//! ```
//!
//! What goes beyond ONNX:
//! - operators of our own domain, as `octofold.Conv`; without a header, they and the newest opset are imported;
//! - quantization parameters in the type of an input: `uint8[N,4] {scale: 0.5, zero_point: 128} x`;
//! - comments that begin with `#:`. Behind a node they list the nodes of the model that it stands for, where these are not the node itself; behind
//!   an output, the name that it has for the caller, where that is not the value's;
//! - bodies whose captures are operands of the node, `captures` of them;
//! - types in comments behind nodes, for the reader: parsing infers them.
//!
//! Large constants stand in a file of their own with offset, length and checksum. The metadata of a graph are printed, the aliases of its
//! values are not. Not read: types other than tensors, and elements of 4 bits in braces, which `onnx.parser` misreads.

mod error;
mod lexer;
mod parse;
mod print;
#[cfg(test)]
mod tests;

use std::io::Write;
use std::path::Path;

pub use error::{ParseError, TextError};
use octofold_tensor::file::{read_text, write_whole};
pub use parse::parse;
pub(crate) use print::dimension;
pub use print::{PrintOptions, Printed, print};

use crate::Graph;
use crate::onnx::ImportOptions;

/// Reads a graph from a text file; the data of large constants are in files of the same folder.
///
/// # Errors
/// When a file cannot be read, or the text is no graph.
pub fn read_file(path: &Path) -> Result<Graph, TextError> {
    read_file_within(path, &ImportOptions::default())
}

/// As [`read_file`], with other budgets than the default ones.
///
/// # Errors
/// As [`read_file`].
pub fn read_file_within(path: &Path, options: &ImportOptions) -> Result<Graph, TextError> {
    let shown = || path.display().to_string();
    let io = |source| TextError::Io {
        path: shown(),
        source,
    };
    let limit = ("text-bytes", options.budget.text_bytes);
    let text = read_text(path, limit).map_err(io)?;
    parse::parse_in(&text, path.parent(), options).map_err(|source| TextError::Parse {
        path: shown(),
        source,
    })
}

/// Writes a graph to a text file, and its large constants to a file of the same name that ends in `.bin`.
///
/// # Errors
/// When a file cannot be written.
pub fn write_file(graph: &Graph, path: &Path) -> Result<(), TextError> {
    let data_path = path.with_extension("bin");
    let write = |path: &Path, bytes: &[u8]| {
        write_whole(path, |file| file.write_all(bytes)).map_err(|source| TextError::Io {
            path: path.display().to_string(),
            source,
        })
    };
    let name = data_path
        .file_name()
        .map(|name| name.to_string_lossy().into_owned());
    let printed = print(graph, &PrintOptions { data: name });
    if !printed.data.is_empty() {
        write(&data_path, &printed.data)?;
    }
    write(path, printed.text.as_bytes())
}
