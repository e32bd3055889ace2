//! The printer.

use std::fmt::{self, Write};

use octofold_ops::{Attribute, Op};
use octofold_tensor::{DType, Dim, Tensor, TensorData};

use super::lexer::is_number_word;
use crate::onnx::{IR_VERSION, NEWEST, OPSET, fnv1a64, newer_attribute, tensor_to_proto};
use crate::types::is_identifier;
use crate::{Graph, Node, TensorType};

/// Constants of more elements stand in the side data.
const MAX_INLINE: usize = 16;

/// The alignment of constants in the side data.
const ALIGNMENT: usize = 64;

/// The words that begin types that are no tensors.
const TYPE_WORDS: [&str; 5] = ["seq", "map", "optional", "sparse_tensor", "opaque"];

/// How a graph is printed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PrintOptions {
    /// The name of the file for large constants. Without it they are left out, and the text cannot be read back.
    pub data: Option<String>,
}

/// A printed graph.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Printed {
    /// The text.
    pub text: String,
    /// The large constants, for the file that [`PrintOptions::data`] names.
    pub data: Vec<u8>,
}

/// Prints a graph. Equal graphs give equal text.
pub fn print(graph: &Graph, options: &PrintOptions) -> Printed {
    let mut printer = Printer {
        graph,
        location: options.data.as_deref(),
        out: String::new(),
        data: Vec::new(),
    };
    // Writing to a string does not fail.
    let _ = printer.graph();
    Printed {
        text: printer.out,
        data: printer.data,
    }
}

impl fmt::Display for Graph {
    /// The short form: large constants by their checksum.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&print(self, &PrintOptions::default()).text)
    }
}

/// A text in quotes.
fn quoted(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
}

/// A name, quoted where it could be taken for something else.
pub(crate) fn name(text: &str) -> String {
    let word =
        DType::from_name(text).is_some() || TYPE_WORDS.contains(&text) || is_number_word(text);
    if is_identifier(text) && !word {
        text.to_owned()
    } else {
        quoted(text)
    }
}

/// Text for a comment: on one line.
fn comment(text: &str) -> String {
    text.replace(['\n', '\r'], " ")
}

/// A text of an annotation: on one line, readable back.
fn annotation(text: &str) -> String {
    quoted(text).replace('\n', "\\n").replace('\r', "\\r")
}

struct Printer<'a> {
    graph: &'a Graph,
    location: Option<&'a str>,
    out: String,
    data: Vec<u8>,
}

impl Printer<'_> {
    fn graph(&mut self) -> fmt::Result {
        self.header()?;
        self.closed()
    }

    /// A graph or body, without the header.
    fn closed(&mut self) -> fmt::Result {
        let graph = self.graph;
        // A graph with a cycle is printed all the same, so that errors can show it.
        let order = graph.order().unwrap_or_else(|_| graph.node_ids().collect());
        write!(self.out, "{} (", name(graph.name()))?;
        for (index, &id) in graph.inputs().iter().enumerate() {
            let value = graph.value(id);
            write!(
                self.out,
                "{}{} {}",
                separator(index),
                value.ty(),
                name(value.name())
            )?;
        }
        self.out.write_str(") => (")?;
        self.outputs()?;
        self.out.write_str(")\n")?;
        self.constants()?;
        self.out.write_str("{\n")?;
        for id in order {
            self.node(graph.node(id))?;
        }
        self.out.write_str("}\n")
    }

    fn header(&mut self) -> fmt::Result {
        let newer =
            |op: &Op| matches!(op, Op::Swish(_)) || newer_attribute(op, &op.attributes()).is_some();
        let opset = if any_op(self.graph, &newer) {
            NEWEST
        } else {
            OPSET
        };
        let own = if any_op(self.graph, &|op| !op.domain().is_empty()) {
            ", \"octofold\" : 1"
        } else {
            ""
        };
        write!(
            self.out,
            "<ir_version: {IR_VERSION}, opset_import: [\"\" : {opset}{own}]"
        )?;
        if !self.graph.metadata().is_empty() {
            self.out.write_str(", metadata_props: [")?;
            for (index, (key, value)) in self.graph.metadata().iter().enumerate() {
                write!(
                    self.out,
                    "{}{}: {}",
                    separator(index),
                    quoted(key),
                    quoted(value)
                )?;
            }
            self.out.write_str("]")?;
        }
        self.out.write_str(">\n")
    }

    fn outputs(&mut self) -> fmt::Result {
        let outputs = self.graph.outputs();
        for (index, output) in outputs.iter().enumerate() {
            let value = self.graph.value(output.value);
            // The parameters of a result follow from what computes it.
            let ty = value.ty().clone().with_quantization(None);
            write!(self.out, "{ty} {}", name(value.name()))?;
            let last = index + 1 == outputs.len();
            let comma = if last { "" } else { "," };
            if output.name == value.name() {
                self.out.write_str(if last { "" } else { ", " })?;
            } else {
                writeln!(self.out, "{comma}  #: {}", annotation(&output.name))?;
            }
        }
        Ok(())
    }

    fn constants(&mut self) -> fmt::Result {
        let graph = self.graph;
        let constants = graph.value_ids().filter_map(|id| {
            graph
                .value(id)
                .constant()
                .map(|tensor| (graph.value(id).name(), tensor))
        });
        let constants: Vec<_> = constants.collect();
        if constants.is_empty() {
            return Ok(());
        }
        self.out.write_str("<\n")?;
        for (index, (value, tensor)) in constants.iter().enumerate() {
            write!(self.out, "{} {} = ", TensorType::of(tensor), name(value))?;
            let note = self.elements(tensor)?;
            self.out.write_str(if index + 1 == constants.len() {
                ""
            } else {
                ","
            })?;
            if let Some(note) = note {
                write!(self.out, "  # {note}")?;
            }
            self.out.write_str("\n")?;
        }
        self.out.write_str(">\n")
    }

    /// The elements of a tensor, or where they are; gives a remark about those that are left out.
    fn elements(&mut self, tensor: &Tensor) -> Result<Option<String>, fmt::Error> {
        let four_bits = matches!(tensor.data(), TensorData::I4(_) | TensorData::U4(_));
        // The bits of a NaN do not survive in braces.
        let bits = self.location.is_some() && has_nan(tensor);
        let strings = matches!(tensor.data(), TensorData::String(_));
        if strings || (tensor.len() <= MAX_INLINE && !four_bits && !bits) {
            self.braces(tensor)?;
            return Ok(None);
        }
        let raw = tensor_to_proto("", tensor).raw_data.unwrap_or_default();
        let checksum = fnv1a64(&raw);
        let Some(location) = self.location else {
            self.out.write_str("...")?;
            return Ok(Some(format!("{checksum:016x}")));
        };
        self.data
            .resize(self.data.len().next_multiple_of(ALIGNMENT), 0);
        let offset = self.data.len();
        self.data.extend_from_slice(&raw);
        let (location, length) = (quoted(location), raw.len());
        write!(
            self.out,
            "[\"location\": {location}, \"offset\": \"{offset}\", \"length\": \"{length}\", \"checksum\": \"{checksum:016x}\"]"
        )?;
        Ok(None)
    }

    /// The values of an attribute, in brackets.
    fn list<T>(&mut self, values: &[T], show: impl Fn(&T) -> String) -> fmt::Result {
        let shown: Vec<String> = values.iter().map(show).collect();
        write!(self.out, "[{}]", shown.join(","))
    }

    fn braces(&mut self, tensor: &Tensor) -> fmt::Result {
        fn list<T>(out: &mut String, values: &[T], show: impl Fn(&T) -> String) -> fmt::Result {
            let shown: Vec<String> = values.iter().map(show).collect();
            write!(out, "{{{}}}", shown.join(", "))
        }
        let out = &mut self.out;
        match tensor.data() {
            TensorData::F32(values) => list(out, values, |x| format!("{x:?}")),
            TensorData::F64(values) => list(out, values, |x| format!("{x:?}")),
            // As raw bits: the syntax has no other form.
            TensorData::F16(values) => list(out, values, |x| x.to_bits().to_string()),
            TensorData::BF16(values) => list(out, values, |x| x.to_bits().to_string()),
            TensorData::I8(values) => list(out, values, ToString::to_string),
            TensorData::I16(values) => list(out, values, ToString::to_string),
            TensorData::I32(values) => list(out, values, ToString::to_string),
            TensorData::I64(values) => list(out, values, ToString::to_string),
            TensorData::U8(values) => list(out, values, ToString::to_string),
            TensorData::U16(values) => list(out, values, ToString::to_string),
            TensorData::U32(values) => list(out, values, ToString::to_string),
            TensorData::U64(values) => list(out, values, ToString::to_string),
            TensorData::Bool(values) => list(out, values, |x| u8::from(*x).to_string()),
            TensorData::String(values) => list(out, values, |x| quoted(x)),
            TensorData::I4(values) => list(out, values, ToString::to_string),
            TensorData::U4(values) => list(out, values, ToString::to_string),
        }
    }

    fn node(&mut self, node: &Node) -> fmt::Result {
        let graph = self.graph;
        write!(self.out, "[{}] ", name(node.name()))?;
        for (index, &output) in node.outputs().iter().enumerate() {
            write!(
                self.out,
                "{}{}",
                separator(index),
                name(graph.value(output).name())
            )?;
        }
        let op = node.op();
        let dot = if op.domain().is_empty() { "" } else { "." };
        write!(self.out, " = {}{dot}{}", op.domain(), op.name())?;
        let attributes = op.attributes();
        if !attributes.is_empty() {
            self.out.write_str(" <")?;
            for (index, (key, value)) in attributes.iter().enumerate() {
                self.out.write_str(separator(index))?;
                self.attribute(key, value)?;
            }
            self.out.write_str(">")?;
        }
        self.out.write_str(" (")?;
        let count = node
            .inputs()
            .iter()
            .rposition(Option::is_some)
            .map_or(0, |last| last + 1);
        for (index, input) in node.inputs().iter().take(count).enumerate() {
            let shown = input.map_or_else(|| "\"\"".to_owned(), |id| name(graph.value(id).name()));
            write!(self.out, "{}{shown}", separator(index))?;
        }
        self.out.write_str(")")?;
        if node.sources() != [node.name()] {
            self.out.write_str("  #:")?;
            for source in node.sources() {
                write!(self.out, " {}", annotation(source))?;
            }
        }
        let types: Vec<String> = node
            .outputs()
            .iter()
            .map(|&output| graph.value(output).ty().to_string())
            .collect();
        writeln!(self.out, "  # {}", comment(&types.join(", ")))
    }

    fn attribute(&mut self, key: &str, value: &Attribute) -> fmt::Result {
        self.out.write_str(&name(key))?;
        // The type is written where the value does not tell it.
        let unclear = match value {
            Attribute::Float(x) => !x.is_finite(),
            Attribute::Ints(values) => values.is_empty(),
            Attribute::Floats(values) => values.first().is_none_or(|x| !x.is_finite()),
            Attribute::Strings(values) => values.is_empty(),
            Attribute::Tensor(_) => true,
            Attribute::Int(_) | Attribute::String(_) | Attribute::Body(_) => false,
        };
        if unclear {
            write!(self.out, ": {}", value.type_name())?;
        }
        self.out.write_str(" = ")?;
        match value {
            Attribute::Int(x) => write!(self.out, "{x}"),
            Attribute::Float(x) => write!(self.out, "{x:?}"),
            Attribute::String(text) => self.out.write_str(&quoted(text)),
            Attribute::Ints(values) => self.list(values, ToString::to_string),
            Attribute::Floats(values) => self.list(values, |x| format!("{x:?}")),
            Attribute::Strings(values) => self.list(values, |text| quoted(text)),
            Attribute::Tensor(tensor) => {
                write!(self.out, "{} ", TensorType::of(tensor))?;
                self.elements(tensor).map(|_| ())
            }
            Attribute::Body(id) => {
                let graph = self.graph;
                if let Some(body) = graph.body(*id) {
                    self.graph = body;
                    self.closed()?;
                    self.graph = graph;
                }
                Ok(())
            }
        }
    }
}

/// Whether an operator of a graph or its bodies is as asked.
fn any_op(graph: &Graph, accepts: &dyn Fn(&Op) -> bool) -> bool {
    graph.node_ids().any(|id| accepts(graph.node(id).op()))
        || graph.bodies().any(|(_, body)| any_op(body, accepts))
}

fn separator(index: usize) -> &'static str {
    if index == 0 { "" } else { ", " }
}

fn has_nan(tensor: &Tensor) -> bool {
    match tensor.data() {
        TensorData::F32(values) => values.iter().any(|x| x.is_nan()),
        TensorData::F64(values) => values.iter().any(|x| x.is_nan()),
        _ => false,
    }
}

/// A dimension as the syntax has it.
pub(crate) fn dimension(dim: &Dim) -> String {
    match dim {
        Dim::Known(size) => size.to_string(),
        Dim::Symbol(symbol) => name(symbol),
        expression => quoted(&expression.to_string()),
    }
}
