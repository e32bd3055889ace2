//! Attributes: conversion between typed structs and the name–value lists of files and text.
//!
//! Inside the compiler an operator is a struct with typed fields. The ONNX importer and exporter, the
//! text form and the plan file all see it as a list of named [`Attribute`]s; the [`attributes!`](crate::attributes)
//! macro derives both directions from one declaration. A field that has its default value is not written.

use std::collections::BTreeMap;

use octofold_quant::{QParams, QuantType};
use octofold_tensor::{DType, Tensor};

use crate::{BodyId, OpError, bail_attribute};

/// The value of an attribute, in the types of ONNX.
#[derive(Clone, Debug, PartialEq)]
#[allow(
    missing_docs,
    reason = "each variant is named after its ONNX attribute type"
)]
pub enum Attribute {
    Int(i64),
    Float(f32),
    String(String),
    Tensor(Tensor),
    Ints(Vec<i64>),
    Floats(Vec<f32>),
    Strings(Vec<String>),
    /// A graph attribute: the body belongs to the graph or plan that holds the operator.
    Body(BodyId),
}

impl Attribute {
    /// The name of the ONNX attribute type.
    pub fn type_name(&self) -> &'static str {
        match self {
            Self::Int(_) => "int",
            Self::Float(_) => "float",
            Self::String(_) => "string",
            Self::Tensor(_) => "tensor",
            Self::Ints(_) => "ints",
            Self::Floats(_) => "floats",
            Self::Strings(_) => "strings",
            Self::Body(_) => "graph",
        }
    }
}

/// Attributes by name, taken out one by one while an operator is read.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct AttributeMap(BTreeMap<String, Attribute>);

impl AttributeMap {
    /// Sets an attribute.
    pub fn insert(&mut self, name: impl Into<String>, value: Attribute) {
        self.0.insert(name.into(), value);
    }

    /// Takes an attribute out.
    pub fn take(&mut self, name: &str) -> Option<Attribute> {
        self.0.remove(name)
    }

    /// The value of a string attribute.
    pub fn string(&self, name: &str) -> Option<&str> {
        match self.0.get(name) {
            Some(Attribute::String(value)) => Some(value),
            _ => None,
        }
    }

    /// Whether an attribute is present.
    pub fn contains(&self, name: &str) -> bool {
        self.0.contains_key(name)
    }

    /// The attributes that were not taken.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }

    /// Takes an attribute and converts it to the type of a field.
    ///
    /// # Errors
    /// When the attribute has another type or a value out of range.
    pub fn read<T: Field>(&mut self, name: &str) -> Result<Option<T>, OpError> {
        T::read(name, self)
    }
}

impl FromIterator<(String, Attribute)> for AttributeMap {
    fn from_iter<I: IntoIterator<Item = (String, Attribute)>>(iter: I) -> Self {
        Self(iter.into_iter().collect())
    }
}

/// A list of attributes in the order of declaration.
pub type Attributes = Vec<(String, Attribute)>;

/// A Rust type that a field of an operator may have.
pub trait Field: Sized {
    /// Appends the attributes of the field.
    fn write(&self, name: &str, out: &mut Attributes);

    /// Takes the field's attributes; `None` when they are absent.
    ///
    /// # Errors
    /// When an attribute has another type or a value out of range.
    fn read(name: &str, map: &mut AttributeMap) -> Result<Option<Self>, OpError>;
}

fn wrong_type(name: &str, expected: &str, found: &Attribute) -> OpError {
    OpError::attribute(
        name,
        format!("expected {expected}, found {}", found.type_name()),
    )
}

macro_rules! plain_field {
    ($($type:ty, $variant:ident, $word:literal;)*) => {$(
        impl Field for $type {
            fn write(&self, name: &str, out: &mut Attributes) {
                out.push((name.to_owned(), Attribute::$variant(self.clone())));
            }

            fn read(name: &str, map: &mut AttributeMap) -> Result<Option<Self>, OpError> {
                match map.take(name) {
                    None => Ok(None),
                    Some(Attribute::$variant(value)) => Ok(Some(value)),
                    Some(other) => Err(wrong_type(name, $word, &other)),
                }
            }
        }
    )*};
}

plain_field! {
    i64, Int, "int";
    f32, Float, "float";
    String, String, "string";
    Tensor, Tensor, "tensor";
    Vec<i64>, Ints, "ints";
    Vec<f32>, Floats, "floats";
    Vec<String>, Strings, "strings";
}

/// Reads a field of another type and converts it; the reason why that fails becomes the error.
fn converted<T: Field, U>(
    name: &str,
    map: &mut AttributeMap,
    convert: impl FnOnce(T) -> Result<U, String>,
) -> Result<Option<U>, OpError> {
    let value = T::read(name, map)?.map(convert).transpose();
    value.map_err(|reason| OpError::attribute(name, reason))
}

impl Field for bool {
    fn write(&self, name: &str, out: &mut Attributes) {
        i64::from(*self).write(name, out);
    }

    fn read(name: &str, map: &mut AttributeMap) -> Result<Option<Self>, OpError> {
        converted(name, map, |value: i64| match value {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(format!("{value} is neither 0 nor 1")),
        })
    }
}

impl Field for i32 {
    fn write(&self, name: &str, out: &mut Attributes) {
        i64::from(*self).write(name, out);
    }

    fn read(name: &str, map: &mut AttributeMap) -> Result<Option<Self>, OpError> {
        converted(name, map, |value: i64| {
            Self::try_from(value).map_err(|_| format!("{value} does not fit 32 bits"))
        })
    }
}

/// As the number of ONNX `TensorProto.DataType`.
impl Field for DType {
    fn write(&self, name: &str, out: &mut Attributes) {
        i64::from(self.onnx()).write(name, out);
    }

    fn read(name: &str, map: &mut AttributeMap) -> Result<Option<Self>, OpError> {
        converted(name, map, |code: i32| {
            Self::from_onnx(code).ok_or_else(|| format!("{code} is no supported element type"))
        })
    }
}

/// As the type's name.
impl Field for QuantType {
    fn write(&self, name: &str, out: &mut Attributes) {
        self.name().to_owned().write(name, out);
    }

    fn read(name: &str, map: &mut AttributeMap) -> Result<Option<Self>, OpError> {
        converted(name, map, |text: String| {
            let dtype = text.parse::<Self>();
            dtype.map_err(|error| error.to_string())
        })
    }
}

/// As two attributes, `NAME_scale` and `NAME_zero_point`.
impl Field for QParams {
    fn write(&self, name: &str, out: &mut Attributes) {
        self.scale.write(&format!("{name}_scale"), out);
        self.zero_point.write(&format!("{name}_zero_point"), out);
    }

    fn read(name: &str, map: &mut AttributeMap) -> Result<Option<Self>, OpError> {
        let (scale_name, zero_point_name) = (format!("{name}_scale"), format!("{name}_zero_point"));
        match (
            f32::read(&scale_name, map)?,
            i32::read(&zero_point_name, map)?,
        ) {
            (None, None) => Ok(None),
            (Some(scale), Some(zero_point)) => {
                // Only the operator knows the type that bounds the zero point; i32 checks the scale.
                Ok(Some(Self::new(scale, zero_point, QuantType::Int32)?))
            }
            (None, _) => bail_attribute!(&scale_name, "is missing"),
            (_, None) => bail_attribute!(&zero_point_name, "is missing"),
        }
    }
}

/// Absent when `None`.
impl<T: Field> Field for Option<T> {
    fn write(&self, name: &str, out: &mut Attributes) {
        if let Some(value) = self {
            value.write(name, out);
        }
    }

    fn read(name: &str, map: &mut AttributeMap) -> Result<Option<Self>, OpError> {
        Ok(Some(T::read(name, map)?))
    }
}

/// Declares enums that are written as one of a few words.
#[macro_export]
macro_rules! word_attribute {
    ($($(#[$meta:meta])* pub enum $type:ident { $($(#[$variant_meta:meta])* $variant:ident = $word:literal),* $(,)? })*) => {$(
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum $type {
            $($(#[$variant_meta])* $variant,)*
        }

        impl $type {
            /// The word for the variant in attributes.
            pub const fn word(self) -> &'static str {
                match self {
                    $(Self::$variant => $word,)*
                }
            }
        }

        impl $crate::attribute::Field for $type {
            fn write(&self, name: &str, out: &mut $crate::attribute::Attributes) {
                self.word().to_owned().write(name, out);
            }

            fn read(name: &str, map: &mut $crate::attribute::AttributeMap) -> Result<Option<Self>, $crate::OpError> {
                let Some(text) = map.read::<String>(name)? else {
                    return Ok(None);
                };
                match text.as_str() {
                    $($word => Ok(Some(Self::$variant)),)*
                    _ => Err($crate::OpError::attribute(
                        name,
                        format!("`{text}` is none of {:?}", [$($word),*]),
                    )),
                }
            }
        }
    )*};
}

/// Declares the attribute structs of operators: `"domain" "Name" inputs(2..=3) outputs(1..=2) pub struct Name { field: Type = default, … }`, one after the
/// other.
///
/// There is one output when `outputs` is absent. A field without a default is required. The macro writes the structs, and [`crate::Described`] for each.
#[macro_export]
macro_rules! attributes {
    ($($(#[$meta:meta])* $domain:literal $name:literal inputs($inputs:expr) $(outputs($outputs:expr))? pub struct $type:ident {
        $($(#[$field_meta:meta])* $field:ident : $field_type:ty $(= $default:expr)?),* $(,)?
    })+) => {$(
        $(#[$meta])*
        #[derive(Clone, Debug, PartialEq)]
        pub struct $type {
            $($(#[$field_meta])* pub $field: $field_type,)*
        }

        impl $crate::Described for $type {
            const DOMAIN: &'static str = $domain;
            const NAME: &'static str = $name;
            const ARITY: $crate::Arity = $crate::Arity {
                inputs: $inputs,
                outputs: $crate::attributes!(@outputs $($outputs)?),
            };

            fn attributes(&self) -> $crate::attribute::Attributes {
                #[allow(unused_mut, reason = "an operator may have no attributes")]
                let mut out = $crate::attribute::Attributes::new();
                $($crate::attributes!(@write self out $field $field_type $(= $default)?);)*
                out
            }

            fn from_attributes(
                #[allow(unused_variables, reason = "an operator may have no attributes")]
                map: &mut $crate::attribute::AttributeMap,
            ) -> Result<Self, $crate::OpError> {
                Ok(Self {
                    $($field: $crate::attributes!(@read map $field $field_type $(= $default)?),)*
                })
            }
        }
    )+};
    (@outputs) => { 1..=1 };
    (@outputs $outputs:expr) => { $outputs };
    (@write $self:ident $out:ident $field:ident $type:ty) => {
        $crate::attribute::Field::write(&$self.$field, stringify!($field), &mut $out)
    };
    (@write $self:ident $out:ident $field:ident $type:ty = $default:expr) => {{
        let default: $type = $default;
        if $self.$field != default {
            $crate::attribute::Field::write(&$self.$field, stringify!($field), &mut $out);
        }
    }};
    (@read $map:ident $field:ident $type:ty) => {
        match $map.read::<$type>(stringify!($field))? {
            Some(value) => value,
            None => return Err($crate::OpError::attribute(stringify!($field), "is missing")),
        }
    };
    (@read $map:ident $field:ident $type:ty = $default:expr) => {
        match $map.read::<$type>(stringify!($field))? {
            Some(value) => value,
            None => $default,
        }
    };
}
