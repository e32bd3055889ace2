//! The parser: from tokens to the messages of ONNX, which the importer takes from there.
//!
//! Only bodies nest, to a limit. Nothing is allocated that the text does not spell out.

mod cursor;
mod model;
mod node;
mod value;

use std::path::Path;

use bytes::Bytes;

use cursor::Parser;

use super::ParseError;
use crate::Graph;
use crate::onnx::{ExternalData, ImportOptions, import_decoded};

/// Reads a graph. `data` is the side data that the text refers to, when it does.
///
/// # Errors
/// When the text is malformed, refers to data that do not fit, or describes what is no graph. The place of an error that concerns a whole node
/// is the node's.
pub fn parse(text: &str, data: Option<&[u8]>) -> Result<Graph, ParseError> {
    let external = data.map_or_else(ExternalData::nowhere, |data| {
        ExternalData::in_memory(Bytes::copy_from_slice(data))
    });
    parse_with(text, external, &ImportOptions::default())
}

/// As [`parse`], with the side data in files of a folder.
pub(super) fn parse_in(
    text: &str,
    folder: Option<&Path>,
    options: &ImportOptions,
) -> Result<Graph, ParseError> {
    parse_with(text, ExternalData::new(folder), options)
}

fn parse_with(
    text: &str,
    external: ExternalData,
    options: &ImportOptions,
) -> Result<Graph, ParseError> {
    let mut parser = Parser::new(text)?;
    let model = parser.model()?;
    let Parser {
        lexer,
        extension,
        places,
        ..
    } = parser;
    import_decoded(model, external, options, Some(&extension))
        .map_err(|kind| lexer.error(places.of(&kind), kind.to_string()))
}
