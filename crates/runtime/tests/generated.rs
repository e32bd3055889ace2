//! The checked-in code of the plan format is what `proto/plan.proto` generates.
//!
//! After a change of the format, `OCTOFOLD_BLESS=1 cargo test -p octofold-runtime --test generated` writes it anew. `prost-build` would derive the messages, so that every
//! program that runs plans would have to build a derive macro. This file writes the code that the macro makes: calls of prost's codecs.

use std::fmt::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use prost_types::field_descriptor_proto::{Label, Type};
use prost_types::{DescriptorProto, FieldDescriptorProto};

const HEAD: &str = "// Generated from proto/plan.proto by crates/runtime/tests/generated.rs.

use prost::bytes::{Buf, BufMut};
use prost::encoding::{self, DecodeContext, WireType, skip_field};
use prost::{DecodeError, Message};
";

/// The end of the name of a type in the package.
fn short(field: &FieldDescriptorProto) -> &str {
    field.type_name().rsplit('.').next().unwrap_or_default()
}

/// The codec in prost's `encoding`, and the type of a value.
fn codec(field: &FieldDescriptorProto) -> (&'static str, String) {
    let (codec, ty) = match field.r#type() {
        Type::String => ("string", "String"),
        Type::Bytes => ("bytes", "Vec<u8>"),
        Type::Bool => ("bool", "bool"),
        Type::Float => ("float", "f32"),
        Type::Int32 | Type::Enum => ("int32", "i32"),
        Type::Uint32 => ("uint32", "u32"),
        Type::Uint64 => ("uint64", "u64"),
        Type::Sint64 => ("sint64", "i64"),
        Type::Message => ("message", short(field)),
        other => panic!("plan.proto has no fields of type {other:?}"),
    };
    (codec, ty.to_owned())
}

/// A field of a struct: its declaration, and the code that encodes, merges and measures it.
struct Field {
    declaration: String,
    encode: String,
    merge: String,
    len: String,
}

impl Field {
    fn new(field: &FieldDescriptorProto) -> Self {
        let (name, number) = (field.name(), field.number());
        let (codec, ty) = codec(field);
        let is_optional = field.proto3_optional() || (codec == "message");
        let default = match codec {
            "string" | "bytes" => format!("!self.{name}.is_empty()"),
            "bool" => format!("self.{name}"),
            _ => format!("self.{name} != 0"),
        };
        let (ty, encode, merge, len) = match (field.label(), codec) {
            (Label::Repeated, "string" | "message") => (
                format!("Vec<{ty}>"),
                format!("encoding::{codec}::encode_repeated({number}, &self.{name}, buffer);"),
                format!(
                    "encoding::{codec}::merge_repeated(wire, &mut self.{name}, buffer, context)"
                ),
                format!("encoding::{codec}::encoded_len_repeated({number}, &self.{name})"),
            ),
            (Label::Repeated, _) => (
                format!("Vec<{ty}>"),
                format!("encoding::{codec}::encode_packed({number}, &self.{name}, buffer);"),
                format!(
                    "encoding::{codec}::merge_repeated(wire, &mut self.{name}, buffer, context)"
                ),
                format!("encoding::{codec}::encoded_len_packed({number}, &self.{name})"),
            ),
            _ if is_optional => (
                format!("Option<{ty}>"),
                format!(
                    "if let Some(value) = &self.{name} {{ encoding::{codec}::encode({number}, value, buffer); }}"
                ),
                format!(
                    "encoding::{codec}::merge(wire, self.{name}.get_or_insert_with(Default::default), buffer, context)"
                ),
                format!(
                    "self.{name}.as_ref().map_or(0, |value| encoding::{codec}::encoded_len({number}, value))"
                ),
            ),
            _ => (
                ty,
                format!(
                    "if {default} {{ encoding::{codec}::encode({number}, &self.{name}, buffer); }}"
                ),
                format!("encoding::{codec}::merge(wire, &mut self.{name}, buffer, context)"),
                format!(
                    "if {default} {{ encoding::{codec}::encoded_len({number}, &self.{name}) }} else {{ 0 }}"
                ),
            ),
        };
        Self {
            declaration: format!("pub {name}: {ty},"),
            encode,
            merge: format!("{number} => {merge},"),
            len,
        }
    }

    /// The group of a message, which has one.
    fn group(name: &str, ty: &str, fields: &[&FieldDescriptorProto]) -> Self {
        let numbers: Vec<String> = fields
            .iter()
            .map(|field| field.number().to_string())
            .collect();
        Self {
            declaration: format!("pub {name}: Option<{ty}>,"),
            encode: format!("if let Some(value) = &self.{name} {{ value.encode(buffer); }}"),
            merge: format!(
                "{} => {ty}::merge(&mut self.{name}, number, wire, buffer, context),",
                numbers.join(" | ")
            ),
            len: format!("self.{name}.as_ref().map_or(0, {ty}::encoded_len)"),
        }
    }
}

fn camel(name: &str) -> String {
    let words = name.to_lowercase();
    let words = words
        .split('_')
        .map(|word| word[..1].to_uppercase() + &word[1..]);
    words.collect()
}

/// The enum of a group.
fn one_of(code: &mut String, ty: &str, fields: &[&FieldDescriptorProto]) {
    let each = |line: &dyn Fn(&str, &str, &str, i32) -> String| -> String {
        let lines = fields.iter().map(|field| {
            let (codec, value) = codec(field);
            line(&camel(field.name()), codec, &value, field.number())
        });
        lines.collect()
    };
    let variants = each(&|variant, _, value, _| format!("{variant}({value}),"));
    let encode = each(&|variant, codec, _, number| {
        format!("Self::{variant}(value) => encoding::{codec}::encode({number}, value, buffer),")
    });
    let len = each(&|variant, codec, _, number| {
        format!("Self::{variant}(value) => encoding::{codec}::encoded_len({number}, value),")
    });
    let merge = each(&|variant, codec, _, number| {
        format!(
            "{number} => {{ let mut value = match slot.take() {{ Some(Self::{variant}(value)) => value, _ => Default::default() }};
            encoding::{codec}::merge(wire, &mut value, buffer, context)?; *slot = Some(Self::{variant}(value)); Ok(()) }}"
        )
    });
    write!(
        code,
        "#[derive(Clone, Debug, PartialEq)] pub enum {ty} {{ {variants} }}
        impl {ty} {{
            fn encode(&self, buffer: &mut impl BufMut) {{ match self {{ {encode} }} }}
            fn encoded_len(&self) -> usize {{ match self {{ {len} }} }}
            fn merge(slot: &mut Option<Self>, number: u32, wire: WireType, buffer: &mut impl Buf, context: DecodeContext) -> Result<(), DecodeError> {{
                match number {{ {merge} _ => skip_field(wire, number, buffer, context) }}
            }}
        }}\n\n"
    )
    .expect("text");
}

fn message(code: &mut String, message: &DescriptorProto) {
    let name = message.name();
    let is_grouped =
        |field: &&FieldDescriptorProto| field.oneof_index.is_some() && !field.proto3_optional();
    let grouped: Vec<&FieldDescriptorProto> = message.field.iter().filter(is_grouped).collect();
    let own = message.field.iter().filter(|field| !is_grouped(field));
    let mut fields: Vec<Field> = own.map(Field::new).collect();
    for declared in &message.enum_type {
        let (ty, values) = (format!("{name}{}", declared.name()), &declared.value);
        let variants: String = values
            .iter()
            .map(|v| format!("{} = {},", camel(v.name()), v.number()))
            .collect();
        let known: String = values
            .iter()
            .map(|v| format!("{} => Self::{},", v.number(), camel(v.name())))
            .collect();
        write!(
            code,
            "#[derive(Clone, Copy, Debug, PartialEq, Eq)] #[repr(i32)] pub enum {ty} {{ {variants} }}
            impl {ty} {{ pub fn from_number(number: i32) -> Option<Self> {{ Some(match number {{ {known} _ => return None }}) }} }}\n\n"
        )
        .expect("text");
    }
    if !grouped.is_empty() {
        let group = message.oneof_decl[0].name();
        let ty = format!("{name}{}", camel(group));
        one_of(code, &ty, &grouped);
        fields.push(Field::group(group, &ty, &grouped));
    }
    let join = |part: fn(&Field) -> &String, between: &str| {
        let parts: Vec<&str> = fields.iter().map(|field| part(field).as_str()).collect();
        parts.join(between)
    };
    write!(
        code,
        "#[derive(Clone, Debug, Default, PartialEq)] pub struct {name} {{ {} }}
        impl Message for {name} {{
            fn encode_raw(&self, buffer: &mut impl BufMut) {{ {} }}
            fn merge_field(&mut self, number: u32, wire: WireType, buffer: &mut impl Buf, context: DecodeContext) -> Result<(), DecodeError> {{
                match number {{ {} _ => skip_field(wire, number, buffer, context) }}
            }}
            fn encoded_len(&self) -> usize {{ let lengths = [{}]; lengths.iter().sum() }}
            fn clear(&mut self) {{ *self = Self::default(); }}
        }}\n\n",
        join(|field| &field.declaration, " "),
        join(|field| &field.encode, " "),
        join(|field| &field.merge, " "),
        join(|field| &field.len, ", "),
    )
    .expect("text");
}

/// The code as `rustfmt` writes it.
fn formatted(code: &str) -> String {
    let mut rustfmt = Command::new("rustfmt")
        .args(["--edition", "2024"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("rustfmt runs");
    let mut input = rustfmt.stdin.take().expect("a pipe");
    std::io::Write::write_all(&mut input, code.as_bytes()).expect("rustfmt reads");
    drop(input);
    let output = rustfmt.wait_with_output().expect("rustfmt ends");
    assert!(output.status.success(), "rustfmt refuses\n{code}");
    String::from_utf8(output.stdout).expect("UTF-8")
}

#[test]
fn the_generated_code_is_up_to_date() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let proto = root.join("../../proto");
    let descriptors =
        protox::compile([proto.join("plan.proto")], [&proto]).expect("proto/plan.proto is valid");
    let mut code = HEAD.to_owned();
    for own in descriptors.file.iter().flat_map(|file| &file.message_type) {
        message(&mut code, own);
    }
    let generated = formatted(&code);
    let checked_in = root.join("src/file/generated.rs");
    if std::env::var_os("OCTOFOLD_BLESS").is_some() {
        std::fs::write(&checked_in, &generated).expect("the source folder is writable");
    }
    let present = std::fs::read_to_string(&checked_in).expect("the checked-in file");
    assert!(
        present == generated,
        "{} is not what proto/plan.proto generates",
        checked_in.display()
    );
}
