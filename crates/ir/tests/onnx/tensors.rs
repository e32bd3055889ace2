//! Tensors in every encoding, and what is no tensor.

use octofold_ir::onnx::proto::TensorProto;
use octofold_ir::onnx::{tensor_from_bytes, tensor_from_proto, tensor_to_proto};
use octofold_tensor::{DType, Elements, Tensor, TensorData, bf16, f16};
use prost::Message;

fn proto(dtype: DType, dims: &[i64]) -> TensorProto {
    TensorProto {
        dims: dims.to_vec(),
        data_type: Some(dtype.onnx()),
        ..TensorProto::default()
    }
}

fn ints(dtype: DType, dims: &[i64], values: &[i32]) -> TensorProto {
    TensorProto {
        int32_data: values.to_vec(),
        ..proto(dtype, dims)
    }
}

fn raw(dtype: DType, dims: &[i64], bytes: &[u8]) -> TensorProto {
    TensorProto {
        raw_data: Some(bytes.to_vec().into()),
        ..proto(dtype, dims)
    }
}

fn four_bit(data: TensorData, length: usize) -> Tensor {
    Tensor::from_data([length], data).unwrap()
}

fn samples() -> Vec<Tensor> {
    vec![
        Tensor::new([2, 2], vec![1.5_f32, -0.0, f32::INFINITY, 1e-40]).unwrap(),
        Tensor::vector(vec![1.5_f64, -2.0]),
        Tensor::vector(vec![f16::from_f32(0.1), f16::MAX]),
        Tensor::vector(vec![bf16::from_f32(0.1), bf16::MIN]),
        Tensor::vector(vec![i8::MIN, -1, i8::MAX]),
        Tensor::vector(vec![i16::MIN, i16::MAX]),
        Tensor::scalar(i32::MIN),
        Tensor::scalar(i64::MIN),
        Tensor::vector(vec![0_u8, 255]),
        Tensor::vector(vec![0_u16, 65535]),
        Tensor::vector(vec![0_u32, u32::MAX]),
        Tensor::vector(vec![0_u64, u64::MAX]),
        Tensor::vector(vec![true, false, true]),
        Tensor::vector(vec!["ä".to_owned(), String::new()]),
        four_bit(TensorData::I4(Elements::new(vec![-8, 7, -1])), 3),
        four_bit(TensorData::U4(Elements::new(vec![0, 15, 9, 1])), 4),
        Tensor::zeros(DType::F32, [3, 0, 2]).unwrap(),
        Tensor::zeros(DType::String, [0]).unwrap(),
        Tensor::zeros(DType::I4, [0]).unwrap(),
    ]
}

#[test]
fn a_written_tensor_is_read_again() {
    for tensor in samples() {
        let (name, again) =
            tensor_from_bytes(tensor_to_proto("t", &tensor).encode_to_vec().into()).unwrap();
        assert_eq!((name.as_str(), &again), ("t", &tensor));
    }
}

#[test]
fn every_type_is_read_from_its_list() {
    let read = |proto: TensorProto| tensor_from_proto(&proto).unwrap();
    assert_eq!(
        read(ints(DType::I8, &[3], &[-128, 0, 127])),
        Tensor::vector(vec![-128_i8, 0, 127])
    );
    assert_eq!(
        read(ints(DType::U8, &[2], &[0, 255])),
        Tensor::vector(vec![0_u8, 255])
    );
    assert_eq!(
        read(ints(DType::I16, &[1], &[-32768])),
        Tensor::vector(vec![i16::MIN])
    );
    assert_eq!(
        read(ints(DType::U16, &[1], &[65535])),
        Tensor::vector(vec![u16::MAX])
    );
    assert_eq!(read(ints(DType::I32, &[], &[-5])), Tensor::scalar(-5_i32));
    assert_eq!(
        read(ints(DType::Bool, &[2], &[1, 0])),
        Tensor::vector(vec![true, false])
    );
    assert_eq!(
        read(ints(DType::F16, &[1], &[0x3c00])),
        Tensor::vector(vec![f16::ONE])
    );
    assert_eq!(
        read(ints(DType::BF16, &[1], &[0x3f80])),
        Tensor::vector(vec![bf16::ONE])
    );
    // Two elements a number, the low half first.
    assert_eq!(
        read(ints(DType::I4, &[3], &[0x2f, 0x08])),
        four_bit(TensorData::I4(Elements::new(vec![-1, 2, -8])), 3)
    );
    assert_eq!(
        read(ints(DType::U4, &[2], &[0x2f])),
        four_bit(TensorData::U4(Elements::new(vec![15, 2])), 2)
    );
    let float = TensorProto {
        float_data: vec![0.5],
        ..proto(DType::F32, &[1])
    };
    assert_eq!(read(float), Tensor::vector(vec![0.5_f32]));
    let double = TensorProto {
        double_data: vec![0.5],
        ..proto(DType::F64, &[1])
    };
    assert_eq!(read(double), Tensor::vector(vec![0.5_f64]));
    let long = TensorProto {
        int64_data: vec![i64::MIN],
        ..proto(DType::I64, &[1])
    };
    assert_eq!(read(long), Tensor::vector(vec![i64::MIN]));
    let unsigned = TensorProto {
        uint64_data: vec![4_294_967_295],
        ..proto(DType::U32, &[1])
    };
    assert_eq!(read(unsigned), Tensor::vector(vec![u32::MAX]));
}

#[test]
fn what_is_no_tensor_is_refused() {
    let refused = |proto: TensorProto| tensor_from_proto(&proto).unwrap_err().to_string();
    for (proto, words) in [
        (
            ints(DType::I8, &[1], &[300]),
            "element 0 is 300, out of the range of int8",
        ),
        (
            ints(DType::U8, &[2], &[0, -1]),
            "element 1 is -1, out of the range of uint8",
        ),
        (ints(DType::Bool, &[1], &[2]), "out of the range of bool"),
        (raw(DType::Bool, &[1], &[7]), "out of the range of bool"),
        (ints(DType::I4, &[1], &[256]), "out of the range of int4"),
        (
            ints(DType::I8, &[2], &[1]),
            "needs 2 elements of data, int32_data has a length of 1",
        ),
        (
            ints(DType::F32, &[1], &[1]),
            "float data in the field int32_data, expected in float_data",
        ),
        (
            raw(DType::F32, &[4, 4], &[0; 60]),
            "needs 64 bytes of data, raw_data has a length of 60",
        ),
        (
            raw(DType::I4, &[5], &[0; 5]),
            "needs 3 bytes of data, raw_data has a length of 5",
        ),
        (
            raw(DType::String, &[1], &[0]),
            "string data in the field raw_data",
        ),
        (
            proto(DType::F32, &[1 << 40]),
            "needs 1099511627776 elements of data, raw_data has a length of 0",
        ),
        (proto(DType::F32, &[1 << 40, 1 << 40]), "overflows"),
        (proto(DType::F32, &[0, 1 << 40, 1 << 40]), "needs"),
        (proto(DType::F32, &[2, -1]), "dimension 1 is negative: -1"),
    ] {
        if words == "needs" {
            assert_eq!(tensor_from_proto(&proto).unwrap().len(), 0);
            continue;
        }
        let text = refused(proto);
        assert!(text.contains(words), "{text}");
    }
    let typed = |code| TensorProto {
        data_type: Some(code),
        ..TensorProto::default()
    };
    assert_eq!(refused(typed(99)), "the data type 99 is unknown");
    assert_eq!(refused(typed(0)), "the data type 0 is unknown");
    assert_eq!(
        refused(typed(17)),
        "the data type FLOAT8E4M3FN is not supported"
    );
    let both = TensorProto {
        float_data: vec![0.0],
        ..raw(DType::F32, &[1], &[0; 4])
    };
    assert!(refused(both).contains("expected in raw_data"));
    let strings = TensorProto {
        string_data: vec![vec![0xff]],
        ..proto(DType::String, &[1])
    };
    assert_eq!(refused(strings), "element 0 is not UTF-8");
}
