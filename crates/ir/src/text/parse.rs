//! The parser: from tokens to the messages of ONNX, which the importer takes from there.
//!
//! Nothing is recursive, and nothing is allocated that the text does not spell out: what cannot nest in our graphs (subgraphs, sequences)
//! is refused where it begins.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use octofold_ops::families::real::quant_type_of;
use octofold_quant::{QParams, QuantParams};
use octofold_tensor::DType;

use super::lexer::{Lexer, Token};
use crate::Graph;
use crate::onnx::proto::attribute_proto::AttributeType;
use crate::onnx::proto::tensor_proto::DataLocation;
use crate::onnx::proto::tensor_shape_proto::{Dimension, dimension};
use crate::onnx::proto::{
    AttributeProto, FunctionProto, GraphProto, ModelProto, NodeProto, OperatorSetIdProto,
    StringStringEntryProto, TensorProto, TensorShapeProto, TypeProto, ValueInfoProto, type_proto,
};
use crate::onnx::{
    Extension, ExternalData, IR_VERSION, ImportErrorKind, ImportOptions, NEWEST, OUTPUT, SOURCES,
    import_decoded,
};

/// The messages that a text may ask for: nodes, attributes, values and tensors. Each takes hundreds of bytes, and few characters.
const MAX_MESSAGES: usize = 1 << 21;

/// Why a text is no graph, and where.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{line}:{column}: {message}")]
pub struct ParseError {
    /// The line, from 1.
    pub line: usize,
    /// The column in characters, from 1.
    pub column: usize,
    /// What is wrong.
    pub message: String,
}

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
pub(super) fn parse_beside(
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
        node_places,
        graph_place,
        ..
    } = parser;
    import_decoded(model, external, options, Some(&extension)).map_err(|kind| {
        let place = match &kind {
            ImportErrorKind::Node { node, .. } | ImportErrorKind::Cycle { node } => {
                node_places.get(node).copied()
            }
            _ => None,
        };
        lexer.error(place.unwrap_or(graph_place), kind.to_string())
    })
}

/// The value of a number token.
#[derive(Clone, Copy)]
enum Number<'a> {
    Int(&'a str),
    Float(&'a str),
}

impl<'a> Number<'a> {
    fn text(self) -> &'a str {
        match self {
            Self::Int(text) | Self::Float(text) => text,
        }
    }
}

/// A literal of an attribute.
enum Literal<'a> {
    Number(Number<'a>),
    Text(String),
}

struct Parser<'a> {
    lexer: Lexer<'a>,
    /// The token to be read next, and where it begins.
    token: Token<'a>,
    at: usize,
    messages: usize,
    extension: Extension,
    /// Where nodes begin, by name.
    node_places: HashMap<String, usize>,
    graph_place: usize,
}

type Parsed<T> = Result<T, ParseError>;

impl<'a> Parser<'a> {
    fn new(text: &'a str) -> Parsed<Self> {
        let mut lexer = Lexer::new(text);
        let (token, at) = lexer.next()?;
        Ok(Self {
            lexer,
            token,
            at,
            messages: 0,
            extension: Extension::default(),
            node_places: HashMap::new(),
            graph_place: at,
        })
    }

    fn error<T>(&self, message: impl Into<String>) -> Parsed<T> {
        Err(self.lexer.error(self.at, message))
    }

    fn expected<T>(&self, what: &str) -> Parsed<T> {
        self.error(format!("expected {what}, found {}", self.token.describe()))
    }

    /// Counts a message that the text asks for.
    fn count(&mut self) -> Parsed<()> {
        self.messages += 1;
        if self.messages > MAX_MESSAGES {
            return self.error(format!(
                "too many nodes, attributes, values and tensors: the limit is {MAX_MESSAGES}"
            ));
        }
        Ok(())
    }

    /// Goes to the next token; gives the one that was.
    fn advance(&mut self) -> Parsed<Token<'a>> {
        let (token, at) = self.lexer.next()?;
        self.at = at;
        Ok(std::mem::replace(&mut self.token, token))
    }

    fn is(&self, mark: &str) -> bool {
        matches!(self.token, Token::Mark(found) if found == mark)
    }

    /// Passes a mark, when it is there.
    fn accept(&mut self, mark: &str) -> Parsed<bool> {
        let found = self.is(mark);
        if found {
            self.advance()?;
        }
        Ok(found)
    }

    fn expect(&mut self, mark: &str) -> Parsed<()> {
        if self.accept(mark)? {
            Ok(())
        } else {
            self.expected(&format!("`{mark}`"))
        }
    }

    /// Items with commas between them, up to a mark, which is passed.
    fn list(&mut self, end: &str, mut item: impl FnMut(&mut Self) -> Parsed<()>) -> Parsed<()> {
        while !self.accept(end)? {
            item(self)?;
            if !self.is(end) && !self.accept(",")? {
                return self.expected(&format!("`,` or `{end}`"));
            }
        }
        Ok(())
    }

    /// A name, in quotes or not.
    fn name(&mut self, what: &str) -> Parsed<String> {
        match self.advance_if(|token| matches!(token, Token::Name(_) | Token::Text(_)))? {
            Some(Token::Name(name)) => Ok(name.to_owned()),
            Some(Token::Text(name)) => Ok(name),
            _ => self.expected(what),
        }
    }

    fn text(&mut self, what: &str) -> Parsed<String> {
        match self.advance_if(|token| matches!(token, Token::Text(_)))? {
            Some(Token::Text(text)) => Ok(text),
            _ => self.expected(what),
        }
    }

    fn advance_if(&mut self, accepts: impl Fn(&Token<'_>) -> bool) -> Parsed<Option<Token<'a>>> {
        if accepts(&self.token) {
            self.advance().map(Some)
        } else {
            Ok(None)
        }
    }

    /// A number; the words for numbers that are not finite count.
    fn number(&mut self) -> Parsed<Number<'a>> {
        match self.token {
            Token::Number(text) => {
                self.advance()?;
                let float = text.contains(['.', 'e', 'E', 'i']);
                Ok(if float {
                    Number::Float(text)
                } else {
                    Number::Int(text)
                })
            }
            Token::Name(text) if is_number_word(text) => {
                self.advance()?;
                Ok(Number::Float(text))
            }
            _ => self.expected("a number"),
        }
    }

    fn convert<T: std::str::FromStr>(&self, at: usize, text: &str, what: &str) -> Parsed<T> {
        text.parse()
            .map_err(|_| self.lexer.error(at, format!("`{text}` is no {what}")))
    }

    fn int(&mut self) -> Parsed<i64> {
        let at = self.at;
        let number = self.number()?;
        self.convert(at, number.text(), "integer of 64 bits")
    }

    fn float(&mut self) -> Parsed<f32> {
        let at = self.at;
        let number = self.number()?;
        self.convert(at, number.text(), "number")
    }

    fn model(&mut self) -> Parsed<ModelProto> {
        let mut model = ModelProto::default();
        if self.is("<") {
            self.model_header(&mut model)?;
        } else {
            // A graph alone speaks of the newest operators and of our own.
            model.ir_version = Some(IR_VERSION);
            model.opset_import = vec![
                import("", NEWEST),
                import("octofold", 1),
                import("com.microsoft", 1),
            ];
        }
        self.graph_place = self.at;
        model.graph = Some(self.graph()?);
        while self.is("<") {
            model.functions.push(self.function()?);
        }
        if self.token != Token::End {
            return self.expected("a function or the end of the text");
        }
        Ok(model)
    }

    fn model_header(&mut self, model: &mut ModelProto) -> Parsed<()> {
        self.expect("<")?;
        self.list(">", |parser| {
            let at = parser.at;
            let key = parser.name("a key of the model")?;
            parser.expect(":")?;
            match key.as_str() {
                "ir_version" => model.ir_version = Some(parser.int()?),
                "opset_import" => model.opset_import = parser.opset_import()?,
                "producer_name" => model.producer_name = Some(parser.text("a text")?),
                "producer_version" => model.producer_version = Some(parser.text("a text")?),
                "domain" => model.domain = Some(parser.text("a text")?),
                "model_version" => model.model_version = Some(parser.int()?),
                "doc_string" => model.doc_string = Some(parser.text("a text")?),
                "metadata_props" => model.metadata_props = parser.entries()?,
                _ => {
                    return Err(parser
                        .lexer
                        .error(at, format!("`{key}` is no key of a model")));
                }
            }
            Ok(())
        })
    }

    fn opset_import(&mut self) -> Parsed<Vec<OperatorSetIdProto>> {
        let mut imports = Vec::new();
        self.expect("[")?;
        self.list("]", |parser| {
            let domain = parser.text("a domain in quotes")?;
            parser.expect(":")?;
            imports.push(import(&domain, parser.int()?));
            Ok(())
        })?;
        Ok(imports)
    }

    /// `["key": "value", …]`
    fn entries(&mut self) -> Parsed<Vec<StringStringEntryProto>> {
        let mut entries = Vec::new();
        self.expect("[")?;
        self.list("]", |parser| {
            let key = parser.text("a key in quotes")?;
            parser.expect(":")?;
            entries.push(entry(&key, parser.text("a value in quotes")?));
            Ok(())
        })?;
        Ok(entries)
    }

    fn graph(&mut self) -> Parsed<GraphProto> {
        let mut graph = GraphProto {
            name: Some(self.name("the name of a graph")?),
            ..GraphProto::default()
        };
        self.expect("(")?;
        self.list(")", |parser| {
            let info = parser.value_info(true)?;
            if parser.accept("=")? {
                let tensor = parser.tensor_of(&info)?;
                graph.initializer.push(tensor);
            }
            graph.input.push(info);
            Ok(())
        })?;
        self.expect("=>")?;
        self.expect("(")?;
        let mut annotations = Vec::new();
        self.lexer.take_annotation();
        // As `list`, but an annotation behind the comma belongs to the item before it.
        while !self.accept(")")? {
            let info = self.value_info(false)?;
            graph.output.push(info);
            if !self.is(")") && !self.accept(",")? {
                return self.expected("`,` or `)`");
            }
            annotations.push(self.lexer.take_annotation());
        }
        for (output, annotation) in graph.output.iter_mut().zip(annotations) {
            let shown = annotation.and_then(|texts| texts.into_iter().next());
            output
                .metadata_props
                .extend(shown.map(|shown| entry(OUTPUT, shown)));
        }
        if self.accept("<")? {
            self.list(">", |parser| {
                let info = parser.value_info(true)?;
                if parser.accept("=")? {
                    let tensor = parser.tensor_of(&info)?;
                    graph.initializer.push(tensor);
                } else {
                    graph.value_info.push(info);
                }
                Ok(())
            })?;
        }
        graph.node = self.nodes(true)?;
        Ok(graph)
    }

    /// A type and a name; the type of an output may be left out.
    fn value_info(&mut self, typed: bool) -> Parsed<ValueInfoProto> {
        self.count()?;
        let mut info = ValueInfoProto::default();
        let mut params = None;
        let at = self.at;
        match self.advance()? {
            Token::Name(word) if typed || !(self.is(",") || self.is(")")) => {
                let (ty, dtype) = self.type_of(word, at)?;
                info.r#type = Some(ty);
                if self.is("{") {
                    params = Some(self.quantization(dtype)?);
                }
                info.name = Some(self.name("the name of a value")?);
            }
            Token::Name(name) => info.name = Some(name.to_owned()),
            Token::Text(name) if !typed => info.name = Some(name),
            other => {
                return Err(self
                    .lexer
                    .error(at, format!("expected a type, found {}", other.describe())));
            }
        }
        if let Some(params) = params {
            self.extension
                .quantization
                .insert(info.name().to_owned(), Arc::new(params));
        }
        Ok(info)
    }

    fn dtype(&self, word: &str, at: usize) -> Parsed<DType> {
        DType::from_name(word).ok_or_else(|| {
            self.lexer.error(
                at,
                format!("`{word}` is no type of elements that is supported"),
            )
        })
    }

    /// The rest of a type that begins with a word.
    fn type_of(&mut self, word: &str, at: usize) -> Parsed<(TypeProto, DType)> {
        let dtype = self.dtype(word, at)?;
        let mut dims = Some(Vec::new());
        if self.accept("[")? {
            let mut found = Vec::new();
            self.list("]", |parser| {
                let value = match &parser.token {
                    Token::Number(_) => Some(dimension::Value::DimValue(parser.int()?)),
                    Token::Mark("?") => {
                        parser.advance()?;
                        None
                    }
                    _ => Some(dimension::Value::DimParam(parser.name("a dimension")?)),
                };
                found.push(Dimension {
                    denotation: None,
                    value,
                });
                Ok(())
            })?;
            // Empty brackets mean that the rank is not known.
            dims = Some(found).filter(|dims| !dims.is_empty());
        }
        let tensor = type_proto::Tensor {
            elem_type: Some(dtype.onnx()),
            shape: dims.map(|dim| TensorShapeProto { dim }),
        };
        let ty = TypeProto {
            value: Some(type_proto::Value::TensorType(tensor)),
            denotation: None,
        };
        Ok((ty, dtype))
    }

    /// `{scale: …, zero_point: …}` or `{axis: …, scale: […], zero_point: […]}`
    fn quantization(&mut self, dtype: DType) -> Parsed<QuantParams> {
        let at = self.at;
        let (mut axis, mut scales, mut zero_points) = (None, Vec::new(), Vec::new());
        self.expect("{")?;
        self.list("}", |parser| {
            let at = parser.at;
            let key = parser.name("`axis`, `scale` or `zero_point`")?;
            parser.expect(":")?;
            let each = |parser: &mut Self, read: &mut dyn FnMut(&mut Self) -> Parsed<()>| {
                if parser.accept("[")? {
                    parser.list("]", |parser| read(parser))
                } else {
                    read(parser)
                }
            };
            match key.as_str() {
                "axis" => {
                    let at = parser.at;
                    let value = parser.int()?;
                    axis =
                        Some(usize::try_from(value).map_err(|_| {
                            parser.lexer.error(at, format!("`{value}` is no axis"))
                        })?);
                    Ok(())
                }
                "scale" => each(parser, &mut |parser| {
                    scales.push(parser.float()?);
                    Ok(())
                }),
                "zero_point" => each(parser, &mut |parser| {
                    let at = parser.at;
                    let value = parser.int()?;
                    zero_points.push(i32::try_from(value).map_err(|_| {
                        parser
                            .lexer
                            .error(at, format!("`{value}` is no zero point"))
                    })?);
                    Ok(())
                }),
                _ => Err(parser.lexer.error(
                    at,
                    format!("`{key}` is none of `axis`, `scale` and `zero_point`"),
                )),
            }
        })?;
        let Some(quant_type) = quant_type_of(dtype) else {
            return Err(self.lexer.error(at, format!("{dtype} cannot be quantized")));
        };
        let params = match (axis, &scales[..], &zero_points[..]) {
            (None, &[scale], &[zero_point]) => {
                QParams::new(scale, zero_point, quant_type).map(QuantParams::PerTensor)
            }
            (None, ..) => {
                return Err(self
                    .lexer
                    .error(at, "without an axis, there is one scale and one zero point"));
            }
            (Some(axis), ..) => QuantParams::per_channel(axis, &scales, &zero_points, quant_type),
        };
        params.map_err(|error| self.lexer.error(at, error.to_string()))
    }

    /// The tensor that follows the `=` of a value.
    fn tensor_of(&mut self, info: &ValueInfoProto) -> Parsed<TensorProto> {
        match info.r#type.as_ref().and_then(|ty| ty.value.as_ref()) {
            Some(type_proto::Value::TensorType(tensor)) => {
                let tensor = tensor.clone();
                self.tensor(&tensor, info.name())
            }
            _ => self.error("expected a tensor type before"),
        }
    }

    /// The elements of a tensor of a known type.
    fn tensor(&mut self, ty: &type_proto::Tensor, name: &str) -> Parsed<TensorProto> {
        self.count()?;
        let mut proto = TensorProto {
            data_type: ty.elem_type,
            name: Some(name.to_owned()),
            ..TensorProto::default()
        };
        let dims = ty.shape.as_ref().map(|shape| {
            shape.dim.iter().map(|dim| match &dim.value {
                Some(dimension::Value::DimValue(size)) => Some(*size),
                _ => None,
            })
        });
        match dims.and_then(Iterator::collect::<Option<Vec<i64>>>) {
            Some(dims) => proto.dims = dims,
            None => {
                return self.error(format!(
                    "the sizes of the tensor `{name}` have to be numbers"
                ));
            }
        }
        if self.is("[") {
            proto.external_data = self.entries()?;
            proto.data_location = Some(DataLocation::External.into());
            return Ok(proto);
        }
        if self.is("...") {
            return self.error(format!(
                "the elements of `{name}` were left out when this was printed"
            ));
        }
        let Some(dtype) = DType::from_onnx(proto.data_type()) else {
            return self.error("the type of the tensor is not supported");
        };
        self.expect("{")?;
        self.list("}", |parser| parser.element(dtype, &mut proto))?;
        Ok(proto)
    }

    fn element(&mut self, dtype: DType, proto: &mut TensorProto) -> Parsed<()> {
        let at = self.at;
        if dtype == DType::String {
            proto
                .string_data
                .push(self.text("a text in quotes")?.into_bytes());
            return Ok(());
        }
        let text = self.number()?.text();
        match dtype {
            DType::F32 => proto.float_data.push(self.convert(at, text, "number")?),
            DType::F64 => proto.double_data.push(self.convert(at, text, "number")?),
            DType::I64 => proto
                .int64_data
                .push(self.convert(at, text, "integer of 64 bits")?),
            DType::U32 | DType::U64 => {
                proto
                    .uint64_data
                    .push(self.convert(at, text, "unsigned integer of 64 bits")?)
            }
            DType::I32 | DType::I16 | DType::I8 | DType::U16 | DType::U8 | DType::Bool => {
                proto
                    .int32_data
                    .push(self.convert(at, text, "integer of 32 bits")?);
            }
            DType::F16 | DType::BF16 => {
                let bits: u16 = self.convert(
                    at,
                    text,
                    "integer of 16 bits, as which the bits of such a float are written",
                )?;
                proto.int32_data.push(bits.into());
            }
            DType::I4 | DType::U4 => {
                let message = "elements of 4 bits cannot stand in braces, which readers disagree about; use external data";
                return Err(self.lexer.error(at, message));
            }
            DType::String => {}
        }
        Ok(())
    }

    fn nodes(&mut self, places: bool) -> Parsed<Vec<NodeProto>> {
        self.expect("{")?;
        let mut nodes = Vec::new();
        while !self.accept("}")? {
            let at = self.at;
            self.lexer.take_annotation();
            let mut node = self.node()?;
            if let Some(sources) = self.lexer.take_annotation() {
                node.metadata_props.push(entry(SOURCES, String::new()));
                node.metadata_props
                    .extend(sources.into_iter().map(|source| entry(SOURCES, source)));
            }
            if places {
                // The importer calls a node without a name after its operator and position.
                let name = if node.name().is_empty() {
                    format!("{}_{}", node.op_type(), nodes.len())
                } else {
                    node.name().to_owned()
                };
                self.node_places.entry(name).or_insert(at);
            }
            nodes.push(node);
        }
        Ok(nodes)
    }

    fn node(&mut self) -> Parsed<NodeProto> {
        self.count()?;
        let mut node = NodeProto::default();
        if self.accept("[")? {
            node.name = Some(self.name("the name of a node")?);
            self.expect("]")?;
        }
        while !self.accept("=")? {
            let output = if self.is(",") {
                String::new()
            } else {
                self.name("the name of a result")?
            };
            node.output.push(output);
            if !self.is("=") && !self.accept(",")? {
                return self.expected("`,` or `=`");
            }
        }
        let mut operator = self.name("an operator")?;
        let mut domain = String::new();
        while self.accept(".")? {
            let part = self.name("an operator")?;
            if !domain.is_empty() {
                domain.push('.');
            }
            domain.push_str(&std::mem::replace(&mut operator, part));
        }
        node.op_type = Some(operator);
        node.domain = Some(domain);
        if self.accept(":")? {
            node.overload = Some(self.name("the name of an overload")?);
        }
        if self.is("<") {
            node.attribute = self.attributes()?;
        }
        self.expect("(")?;
        self.list(")", |parser| {
            let input = if parser.is(",") {
                String::new()
            } else {
                parser.name("the name of an operand")?
            };
            node.input.push(input);
            Ok(())
        })?;
        if self.is("<") {
            node.attribute.extend(self.attributes()?);
        }
        Ok(node)
    }

    fn attributes(&mut self) -> Parsed<Vec<AttributeProto>> {
        let mut attributes = Vec::new();
        self.expect("<")?;
        self.list(">", |parser| {
            attributes.push(parser.attribute()?);
            Ok(())
        })?;
        Ok(attributes)
    }

    /// `name = value` or `name: type = value`
    fn attribute(&mut self) -> Parsed<AttributeProto> {
        self.count()?;
        let name = self.name("the name of an attribute")?;
        let mut declared = None;
        if self.accept(":")? {
            let at = self.at;
            let word = self.name("the type of an attribute")?;
            let ty = match word.as_str() {
                "int" => AttributeType::Int,
                "float" => AttributeType::Float,
                "string" => AttributeType::String,
                "ints" => AttributeType::Ints,
                "floats" => AttributeType::Floats,
                "strings" => AttributeType::Strings,
                "tensor" => AttributeType::Tensor,
                _ => {
                    return Err(self
                        .lexer
                        .error(at, format!("attributes of type `{word}` are not supported")));
                }
            };
            declared = Some((ty, word));
        }
        self.expect("=")?;
        let at = self.at;
        let mut proto = self.attribute_value(declared.as_ref().map(|(ty, _)| *ty))?;
        if let Some((ty, word)) = declared
            && proto.r#type != Some(ty.into())
        {
            return Err(self
                .lexer
                .error(at, format!("the value of `{name}` is no {word}")));
        }
        proto.name = Some(name);
        Ok(proto)
    }

    fn attribute_value(&mut self, declared: Option<AttributeType>) -> Parsed<AttributeProto> {
        let mut proto = AttributeProto::default();
        let ty = match &self.token {
            Token::Mark("@") => {
                self.advance()?;
                proto.ref_attr_name = Some(self.name("the name of a function's attribute")?);
                declared.unwrap_or(AttributeType::Undefined)
            }
            Token::Mark("[") => {
                let values = self.literals()?;
                self.list_value(&mut proto, values, declared)?
            }
            Token::Name(word) if !is_number_word(word) => {
                let (word, at) = (*word, self.at);
                self.advance()?;
                if self.is("(") || DType::from_name(word).is_none() {
                    return Err(self.lexer.error(
                        at,
                        "expected the value of an attribute; subgraphs are not supported",
                    ));
                }
                let (ty, _) = self.type_of(word, at)?;
                let mut name = String::new();
                if matches!(self.token, Token::Name(_) | Token::Text(_)) {
                    name = self.name("the name of a tensor")?;
                }
                self.accept("=")?;
                let Some(type_proto::Value::TensorType(tensor)) = ty.value else {
                    return Err(self.lexer.error(at, "expected the type of a tensor"));
                };
                proto.t = Some(Box::new(self.tensor(&tensor, &name)?));
                AttributeType::Tensor
            }
            _ => {
                let at = self.at;
                match self.literal()? {
                    Literal::Text(text) => {
                        proto.s = Some(text.into_bytes());
                        AttributeType::String
                    }
                    Literal::Number(Number::Int(text))
                        if declared != Some(AttributeType::Float) =>
                    {
                        proto.i = Some(self.convert(at, text, "integer of 64 bits")?);
                        AttributeType::Int
                    }
                    Literal::Number(number) => {
                        proto.f = Some(self.convert(at, number.text(), "number")?);
                        AttributeType::Float
                    }
                }
            }
        };
        proto.r#type = Some(ty.into());
        Ok(proto)
    }

    fn literal(&mut self) -> Parsed<Literal<'a>> {
        match &self.token {
            Token::Text(_) => Ok(Literal::Text(self.text("a text")?)),
            Token::Number(_) | Token::Name(_) => Ok(Literal::Number(self.number()?)),
            _ => self.expected("a number, a text or a list"),
        }
    }

    fn literals(&mut self) -> Parsed<Vec<(usize, Literal<'a>)>> {
        let mut values = Vec::new();
        self.expect("[")?;
        self.list("]", |parser| {
            values.push((parser.at, parser.literal()?));
            Ok(())
        })?;
        Ok(values)
    }

    /// Sets a list: of texts, of floats when one is there or wanted, else of integers.
    fn list_value(
        &mut self,
        proto: &mut AttributeProto,
        values: Vec<(usize, Literal<'a>)>,
        declared: Option<AttributeType>,
    ) -> Parsed<AttributeType> {
        if values.is_empty() {
            return match declared {
                Some(
                    ty @ (AttributeType::Ints | AttributeType::Floats | AttributeType::Strings),
                ) => Ok(ty),
                _ => self.error("an empty list needs a type before it: `name: ints = []`"),
            };
        }
        let float = declared == Some(AttributeType::Floats)
            || values
                .iter()
                .any(|(_, value)| matches!(value, Literal::Number(Number::Float(_))));
        for (at, value) in values {
            match value {
                Literal::Text(text) => proto.strings.push(text.into_bytes()),
                Literal::Number(number) if float => {
                    proto
                        .floats
                        .push(self.convert(at, number.text(), "number")?)
                }
                Literal::Number(number) => {
                    proto
                        .ints
                        .push(self.convert(at, number.text(), "integer of 64 bits")?)
                }
            }
        }
        match (
            proto.strings.is_empty(),
            proto.floats.is_empty(),
            proto.ints.is_empty(),
        ) {
            (false, true, true) => Ok(AttributeType::Strings),
            (true, false, true) => Ok(AttributeType::Floats),
            (true, true, false) => Ok(AttributeType::Ints),
            _ => self.error("a list holds either texts or numbers"),
        }
    }

    fn function(&mut self) -> Parsed<FunctionProto> {
        self.count()?;
        let mut function = FunctionProto::default();
        self.expect("<")?;
        self.list(">", |parser| {
            let at = parser.at;
            let key = parser.name("a key of the function")?;
            parser.expect(":")?;
            match key.as_str() {
                "domain" => function.domain = Some(parser.text("a domain in quotes")?),
                "opset_import" => function.opset_import = parser.opset_import()?,
                "overload" => function.overload = Some(parser.text("a text")?),
                "doc_string" => function.doc_string = Some(parser.text("a text")?),
                "metadata_props" => function.metadata_props = parser.entries()?,
                _ => {
                    return Err(parser
                        .lexer
                        .error(at, format!("`{key}` is no key of a function")));
                }
            }
            Ok(())
        })?;
        function.name = Some(self.name("the name of a function")?);
        if self.accept("<")? {
            self.list(">", |parser| {
                let name = parser.name("the name of an attribute")?;
                if parser.is(":") || parser.is("=") {
                    // With a default; the type is that of the value.
                    let mut typed = None;
                    if parser.accept(":")? {
                        typed = Some(parser.name("the type of an attribute")?);
                    }
                    if parser.accept("=")? {
                        let declared =
                            (typed.as_deref() == Some("float")).then_some(AttributeType::Float);
                        let mut proto = parser.attribute_value(declared)?;
                        proto.name = Some(name);
                        function.attribute_proto.push(proto);
                        return Ok(());
                    }
                }
                function.attribute.push(name);
                Ok(())
            })?;
        }
        function.input = self.function_values()?;
        self.expect("=>")?;
        function.output = self.function_values()?;
        if self.accept("<")? {
            self.list(">", |parser| parser.value_info(true).map(|_| ()))?;
        }
        function.node = self.nodes(false)?;
        Ok(function)
    }

    /// Names with or without types, of which only the names count.
    fn function_values(&mut self) -> Parsed<Vec<String>> {
        let mut names = Vec::new();
        self.expect("(")?;
        self.list(")", |parser| {
            let info = parser.value_info(false)?;
            names.push(info.name().to_owned());
            Ok(())
        })?;
        Ok(names)
    }
}

/// Whether a word stands for a number that is not finite.
pub(super) fn is_number_word(word: &str) -> bool {
    ["inf", "infinity", "nan"]
        .iter()
        .any(|known| word.eq_ignore_ascii_case(known))
}

fn import(domain: &str, version: i64) -> OperatorSetIdProto {
    OperatorSetIdProto {
        domain: Some(domain.to_owned()),
        version: Some(version),
    }
}

fn entry(key: &str, value: String) -> StringStringEntryProto {
    StringStringEntryProto {
        key: Some(key.to_owned()),
        value: Some(value),
    }
}
