//! Broken files: whatever bytes are changed or cut off, importing ends with a graph or an error.

use octofold_ir::onnx::{Budget, ImportOptions, ScanError, import_bytes, scan};
use octofold_tensor::{DType, Tensor};
use prost::Message;

use crate::support::{self, call, float, function, import_of, int, ints, model, node, value};

/// A model with a bit of everything.
fn sample() -> Vec<u8> {
    let weight = Tensor::new([2, 1, 3, 3], (0..18).map(|x| x as f32).collect()).unwrap();
    let nodes = [
        node(
            "Conv",
            &["x", "w"],
            &["c"],
            &[ints("pads", &[1, 1, 1, 1]), int("group", 1)],
        ),
        node(
            "Clip",
            &["c"],
            &["r"],
            &[float("min", 0.0), float("max", 6.0)],
        ),
        node(
            "Constant",
            &[],
            &["s"],
            &[support::tensor(
                "value",
                octofold_ir::onnx::tensor_to_proto("", &Tensor::vector(vec![0_i64, -1])),
            )],
        ),
        node("Reshape", &["r", "s"], &["f"], &[]),
        call(node("twice", &["f"], &["t"], &[])),
        node("Softmax", &["t"], &["y"], &[int("axis", 1)]),
    ];
    let mut model = model(
        9,
        &[value("x", DType::F32, &[-1, 1, 4, 4])],
        &[("w", weight)],
        &nodes,
        &["y"],
    );
    model.functions = vec![function(
        "twice",
        &["a"],
        &["b"],
        &[node("Add", &["a", "a"], &["b"], &[])],
    )];
    model.opset_import.push(import_of("f", 1));
    model.encode_to_vec()
}

/// Numbers that look random and are the same every time.
fn random(state: &mut u64) -> usize {
    *state = state
        .wrapping_mul(6_364_136_223_846_793_005)
        .wrapping_add(1_442_695_040_888_963_407);
    (*state >> 33) as usize
}

#[test]
fn changed_bytes_end_in_a_graph_or_an_error() {
    let sample = sample();
    let options = ImportOptions::default();
    assert!(import_bytes(sample.clone(), None, &options).is_ok());
    let mut state = 1;
    let mut refused = 0;
    for _ in 0..20_000 {
        let mut bytes = sample.clone();
        for _ in 0..=random(&mut state) % 4 {
            let place = random(&mut state) % bytes.len();
            bytes[place] = match random(&mut state) % 4 {
                0 => random(&mut state) as u8,
                1 => bytes[place] ^ 1 << (random(&mut state) % 8),
                2 => 0xff,
                _ => bytes[place].wrapping_add(1),
            };
        }
        refused += usize::from(import_bytes(bytes, None, &options).is_err());
    }
    assert!(refused > 10_000, "{refused}");
}

#[test]
fn cut_off_files_are_refused() {
    let sample = sample();
    for length in 0..sample.len() {
        assert!(
            import_bytes(sample[..length].to_vec(), None, &ImportOptions::default()).is_err(),
            "{length}"
        );
    }
}

/// The scan refuses nothing that the decoder reads, but for groups, which a decoder skips.
#[test]
fn the_scan_and_the_decoder_agree() {
    let sample = sample();
    let mut state = 7;
    for _ in 0..20_000 {
        let mut bytes = sample.clone();
        let place = random(&mut state) % bytes.len();
        bytes[place] = random(&mut state) as u8;
        if let Err(error) = scan(&bytes, &Budget::default()) {
            let decoded = octofold_ir::onnx::proto::ModelProto::decode(bytes.as_slice());
            assert!(
                decoded.is_err() || matches!(error, ScanError::Group { .. }),
                "{error}"
            );
        }
    }
}
