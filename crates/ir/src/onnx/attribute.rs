//! Between [`AttributeProto`] and [`Attribute`].

use std::collections::HashSet;

use octofold_ops::{Attribute, AttributeMap, BodyId, bail_attribute};

use super::budget::Budget;
use super::error::{ExportError, NodeError};
use super::external_data::ExternalData;
use super::proto::attribute_proto::AttributeType;
use super::proto::{AttributeProto, GraphProto, SparseTensorProto};
use super::tensor::{read_sparse, read_tensor, tensor_to_proto};

/// Reads the attributes of a node. The tensors of attributes may be in other files, as those of initializers.
pub(super) fn read_attributes<'a>(
    protos: impl Iterator<Item = &'a AttributeProto>,
    external: &mut ExternalData,
    budget: &Budget,
) -> Result<AttributeMap, NodeError> {
    let mut map = AttributeMap::default();
    let mut names = HashSet::new();
    for proto in protos {
        let name = proto.name();
        if name.is_empty() {
            bail_attribute!(name, "the name is missing");
        }
        if !names.insert(name) {
            bail_attribute!(name, "is given twice (duplicate)");
        }
        map.insert(name, read_attribute(proto, external, budget)?);
    }
    Ok(map)
}

/// The type that an attribute has; very old files leave it out, then it is that of the field with a value.
fn type_of(proto: &AttributeProto) -> Result<AttributeType, NodeError> {
    let code = proto.r#type.unwrap_or_default();
    let fields = [
        (proto.f.is_some(), AttributeType::Float),
        (proto.i.is_some(), AttributeType::Int),
        (proto.s.is_some(), AttributeType::String),
        (proto.t.is_some(), AttributeType::Tensor),
        (proto.g.is_some(), AttributeType::Graph),
        (proto.sparse_tensor.is_some(), AttributeType::SparseTensor),
        (proto.tp.is_some(), AttributeType::TypeProto),
        (!proto.floats.is_empty(), AttributeType::Floats),
        (!proto.ints.is_empty(), AttributeType::Ints),
        (!proto.strings.is_empty(), AttributeType::Strings),
        (!proto.tensors.is_empty(), AttributeType::Tensors),
        (!proto.graphs.is_empty(), AttributeType::Graphs),
        (
            !proto.sparse_tensors.is_empty(),
            AttributeType::SparseTensors,
        ),
        (!proto.type_protos.is_empty(), AttributeType::TypeProtos),
    ];
    let fail = |reason: String| NodeError::attribute(proto.name(), reason);
    let declared =
        AttributeType::try_from(code).map_err(|_| fail(format!("the type {code} is unknown")))?;
    let mut given = fields.iter().filter(|(given, _)| *given).map(|&(_, ty)| ty);
    match (declared, given.next(), given.next()) {
        (AttributeType::Undefined, Some(only), None) => Ok(only),
        (AttributeType::Undefined, ..) => Err(fail("the type is missing".to_owned())),
        // A number that is zero may be left out.
        (declared, None, _) => Ok(declared),
        (declared, Some(found), None) if found == declared => Ok(declared),
        (declared, Some(found), _) => Err(fail(format!(
            "the type is {}, the value is of type {}",
            declared.as_str_name(),
            found.as_str_name()
        ))),
    }
}

fn read_attribute(
    proto: &AttributeProto,
    external: &mut ExternalData,
    budget: &Budget,
) -> Result<Attribute, NodeError> {
    let name = proto.name();
    let fail = |reason: &str| NodeError::attribute(name, reason);
    if proto
        .ref_attr_name
        .as_ref()
        .is_some_and(|text| !text.is_empty())
    {
        return Err(fail(
            "refers to an attribute of a function, outside of any function",
        ));
    }
    let utf8 = |bytes: &[u8]| match std::str::from_utf8(bytes) {
        Ok(text) => Ok(text.to_owned()),
        Err(_) => Err(fail("is not UTF-8")),
    };
    let tensor = |source| NodeError::Tensor {
        name: name.to_owned(),
        source: Box::new(source),
    };
    Ok(match type_of(proto)? {
        AttributeType::Undefined => return Err(fail("the type is missing")),
        AttributeType::Float => Attribute::Float(proto.f()),
        AttributeType::Int => Attribute::Int(proto.i()),
        AttributeType::String => Attribute::String(utf8(proto.s())?),
        AttributeType::Floats => Attribute::Floats(proto.floats.clone()),
        AttributeType::Ints => Attribute::Ints(proto.ints.clone()),
        AttributeType::Strings => {
            let strings = proto.strings.iter().map(|bytes| utf8(bytes));
            Attribute::Strings(strings.collect::<Result<_, _>>()?)
        }
        AttributeType::Tensor => {
            let value = proto
                .t
                .as_deref()
                .ok_or_else(|| fail("the type is TENSOR, the tensor is missing"))?;
            Attribute::Tensor(read_tensor(value, external).map_err(tensor)?)
        }
        AttributeType::SparseTensor => {
            let value: &SparseTensorProto = proto
                .sparse_tensor
                .as_deref()
                .ok_or_else(|| fail("the type is SPARSE_TENSOR, the tensor is missing"))?;
            Attribute::Tensor(read_sparse(value, external, budget).map_err(tensor)?)
        }
        AttributeType::Graph if proto.g.is_none() => {
            return Err(fail("the type is GRAPH, the graph is missing"));
        }
        AttributeType::Graph | AttributeType::Graphs => {
            return Err(NodeError::Subgraph(name.to_owned()));
        }
        other @ (AttributeType::Tensors
        | AttributeType::SparseTensors
        | AttributeType::TypeProto
        | AttributeType::TypeProtos) => {
            return Err(fail(&format!(
                "the type {} is not supported",
                other.as_str_name()
            )));
        }
    })
}

/// Writes an attribute. Bodies, which belong to the graph, are written by `body`.
pub(super) fn write_attribute(
    name: &str,
    attribute: &Attribute,
    body: &mut dyn FnMut(BodyId) -> Result<GraphProto, ExportError>,
) -> Result<AttributeProto, ExportError> {
    let mut proto = AttributeProto {
        name: Some(name.to_owned()),
        ..AttributeProto::default()
    };
    let ty = match attribute {
        Attribute::Int(value) => {
            proto.i = Some(*value);
            AttributeType::Int
        }
        Attribute::Float(value) => {
            proto.f = Some(*value);
            AttributeType::Float
        }
        Attribute::String(value) => {
            proto.s = Some(value.clone().into_bytes());
            AttributeType::String
        }
        Attribute::Tensor(value) => {
            let mut tensor = tensor_to_proto("", value);
            tensor.name = None;
            proto.t = Some(Box::new(tensor));
            AttributeType::Tensor
        }
        Attribute::Ints(values) => {
            proto.ints.clone_from(values);
            AttributeType::Ints
        }
        Attribute::Floats(values) => {
            proto.floats.clone_from(values);
            AttributeType::Floats
        }
        Attribute::Strings(values) => {
            proto.strings = values
                .iter()
                .map(|text| text.clone().into_bytes())
                .collect();
            AttributeType::Strings
        }
        Attribute::Body(id) => {
            proto.g = Some(Box::new(body(*id)?));
            AttributeType::Graph
        }
    };
    proto.r#type = Some(ty.into());
    Ok(proto)
}
