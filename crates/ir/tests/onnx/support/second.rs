//! Field by field: what `prost` decoded beside what `onnx-protobuf` decoded.
//!
//! `onnx-protobuf` does not tell absent fields from empty ones, so that ours are compared through their getters.

use octofold_ir::onnx::proto;
use onnx_protobuf as second;

fn all<A, B>(ours: &[A], theirs: &[B], same: impl Fn(&A, &B)) {
    assert_eq!(ours.len(), theirs.len());
    ours.iter().zip(theirs).for_each(|(a, b)| same(a, b));
}

pub(super) fn same_model(ours: &proto::ModelProto, theirs: &second::ModelProto) {
    assert_eq!(ours.ir_version(), theirs.ir_version);
    assert_eq!(ours.producer_name(), theirs.producer_name);
    assert_eq!(ours.producer_version(), theirs.producer_version);
    assert_eq!(ours.domain(), theirs.domain);
    assert_eq!(ours.model_version(), theirs.model_version);
    assert_eq!(ours.doc_string(), theirs.doc_string);
    all(&ours.opset_import, &theirs.opset_import, |a, b| {
        assert_eq!((a.domain(), a.version()), (b.domain.as_str(), b.version));
    });
    all(&ours.metadata_props, &theirs.metadata_props, same_entry);
    assert!(ours.functions.is_empty() && theirs.functions.is_empty());
    assert!(ours.training_info.is_empty() && theirs.training_info.is_empty());
    same_graph(ours.graph.as_ref().unwrap(), theirs.graph.as_ref().unwrap());
}

fn same_entry(ours: &proto::StringStringEntryProto, theirs: &second::StringStringEntryProto) {
    assert_eq!(
        (ours.key(), ours.value()),
        (theirs.key.as_str(), theirs.value.as_str())
    );
}

fn same_graph(ours: &proto::GraphProto, theirs: &second::GraphProto) {
    assert_eq!(ours.name(), theirs.name);
    assert_eq!(ours.doc_string(), theirs.doc_string);
    all(&ours.node, &theirs.node, same_node);
    all(&ours.initializer, &theirs.initializer, same_tensor);
    all(&ours.input, &theirs.input, same_value);
    all(&ours.output, &theirs.output, same_value);
    all(&ours.value_info, &theirs.value_info, same_value);
    all(&ours.metadata_props, &theirs.metadata_props, same_entry);
    assert!(ours.sparse_initializer.is_empty() && theirs.sparse_initializer.is_empty());
    assert!(ours.quantization_annotation.is_empty() && theirs.quantization_annotation.is_empty());
}

fn same_node(ours: &proto::NodeProto, theirs: &second::NodeProto) {
    assert_eq!(ours.input, theirs.input);
    assert_eq!(ours.output, theirs.output);
    assert_eq!(ours.name(), theirs.name);
    assert_eq!(ours.op_type(), theirs.op_type);
    assert_eq!(ours.domain(), theirs.domain);
    assert_eq!(ours.overload(), theirs.overload);
    assert_eq!(ours.doc_string(), theirs.doc_string);
    all(&ours.metadata_props, &theirs.metadata_props, same_entry);
    all(&ours.attribute, &theirs.attribute, |a, b| {
        assert_eq!(a.name(), b.name);
        assert_eq!(a.ref_attr_name(), b.ref_attr_name);
        assert_eq!(a.r#type.unwrap_or_default(), b.type_.value());
        assert_eq!(a.f().to_bits(), b.f.to_bits());
        assert_eq!(a.i(), b.i);
        assert_eq!(a.s(), b.s);
        assert_eq!(a.floats, b.floats);
        assert_eq!(a.ints, b.ints);
        assert_eq!(a.strings, b.strings);
        match (a.t.as_deref(), b.t.as_ref()) {
            (None, None) => {}
            (Some(a), Some(b)) => same_tensor(a, b),
            _ => panic!("the attribute {} has a tensor for one decoder only", b.name),
        }
        match (a.g.as_deref(), b.g.as_ref()) {
            (None, None) => {}
            (Some(a), Some(b)) => same_graph(a, b),
            _ => panic!("the attribute {} has a graph for one decoder only", b.name),
        }
    });
}

fn same_tensor(ours: &proto::TensorProto, theirs: &second::TensorProto) {
    assert_eq!(ours.name(), theirs.name);
    assert_eq!(ours.dims, theirs.dims);
    assert_eq!(ours.data_type(), theirs.data_type);
    assert_eq!(ours.raw_data(), theirs.raw_data);
    assert_eq!(ours.float_data, theirs.float_data);
    assert_eq!(ours.int32_data, theirs.int32_data);
    assert_eq!(ours.int64_data, theirs.int64_data);
    assert_eq!(ours.double_data, theirs.double_data);
    assert_eq!(ours.uint64_data, theirs.uint64_data);
    assert_eq!(ours.string_data, theirs.string_data);
    assert_eq!(
        ours.data_location.unwrap_or_default(),
        theirs.data_location.value()
    );
    all(&ours.external_data, &theirs.external_data, same_entry);
}

fn same_value(ours: &proto::ValueInfoProto, theirs: &second::ValueInfoProto) {
    use proto::tensor_shape_proto::dimension::Value as Dim;
    use second::tensor_shape_proto::dimension::Value as OtherDim;
    assert_eq!(ours.name(), theirs.name);
    let Some(proto::type_proto::Value::TensorType(a)) =
        ours.r#type.as_ref().and_then(|ty| ty.value.as_ref())
    else {
        panic!("{} is no tensor", theirs.name);
    };
    let Some(second::type_proto::Value::TensorType(b)) = theirs.type_.value.as_ref() else {
        panic!("{} is no tensor for the second decoder", theirs.name);
    };
    assert_eq!(a.elem_type(), b.elem_type);
    assert_eq!(a.shape.is_some(), b.shape.is_some());
    all(
        a.shape.as_ref().map_or(&[], |shape| &shape.dim),
        b.shape.as_ref().map_or(&[], |shape| &shape.dim),
        |a, b| match (&a.value, &b.value) {
            (Some(Dim::DimValue(a)), Some(OtherDim::DimValue(b))) => assert_eq!(a, b),
            (Some(Dim::DimParam(a)), Some(OtherDim::DimParam(b))) => assert_eq!(a, b),
            (a, b) => panic!("{a:?} is not {b:?}"),
        },
    );
}
