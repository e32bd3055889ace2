//! Weights in other files: only regular files below the model's folder.

use std::path::Path;

use octofold_ir::Graph;
use octofold_ir::onnx::proto::tensor_proto::DataLocation;
use octofold_ir::onnx::proto::{ModelProto, StringStringEntryProto};
use octofold_ir::onnx::{
    Budget, ExportError, ExportOptions, ImportError, ImportOptions, export, export_to_file, import,
    import_bytes,
};
use octofold_tensor::{DType, Tensor};
use prost::Message;

use crate::support::{self, model, node, value};

/// A sparse file costs no disk, and would cost all the memory.
#[cfg(unix)]
#[test]
fn files_of_holes_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let file = std::fs::File::create(folder.path().join("w.bin")).unwrap();
    file.set_len(1 << 40).unwrap();
    let model = external(&[("location", "w.bin"), ("offset", "4096"), ("length", "64")]);
    let with = |budget| {
        import_bytes(
            model.encode_to_vec(),
            Some(folder.path()),
            &ImportOptions {
                budget,
                ..ImportOptions::default()
            },
        )
    };
    let text = with(Budget::default()).unwrap_err().to_string();
    assert!(
        text.contains("sparse") && text.contains("--limit hole-bytes"),
        "{text}"
    );
    let budget = Budget {
        hole_bytes: 1 << 41,
        ..Budget::default()
    };
    assert!(with(budget).is_ok());
}

/// A model whose weight of 16 floats is elsewhere.
fn external(entries: &[(&str, &str)]) -> ModelProto {
    let weight = Tensor::vector((0..16).map(|x| x as f32).collect());
    let mut model = model(
        17,
        &[value("x", DType::F32, &[16])],
        &[("w", weight)],
        &[node("Add", &["x", "w"], &["y"], &[])],
        &["y"],
    );
    let tensor = &mut model.graph.as_mut().unwrap().initializer[0];
    tensor.raw_data = None;
    tensor.data_location = Some(DataLocation::External.into());
    tensor.external_data = entries
        .iter()
        .map(|(key, value)| StringStringEntryProto {
            key: Some((*key).to_owned()),
            value: Some((*value).to_owned()),
        })
        .collect();
    model
}

fn read(folder: &Path, entries: &[(&str, &str)]) -> Result<Graph, ImportError> {
    import_bytes(
        external(entries).encode_to_vec(),
        Some(folder),
        &ImportOptions::default(),
    )
}

fn weights() -> Vec<u8> {
    (0..20).flat_map(|x| (x as f32).to_le_bytes()).collect()
}

#[test]
fn files_below_the_folder_are_read() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("sub")).unwrap();
    std::fs::write(folder.path().join("sub/w.bin"), weights()).unwrap();
    let whole = read(
        folder.path(),
        &[("location", "sub/w.bin"), ("length", "64")],
    )
    .unwrap();
    let rest = read(
        folder.path(),
        &[("location", "./sub/w.bin"), ("offset", "16")],
    )
    .unwrap();
    let constant = |graph: &Graph| {
        graph
            .value(graph.value_named("w").unwrap())
            .constant()
            .unwrap()
            .values::<f32>()
            .unwrap()[0]
    };
    assert_eq!((constant(&whole), constant(&rest)), (0.0, 4.0));

    // Through a file of its own, the folder is that of the file.
    let path = folder.path().join("model.onnx");
    std::fs::write(
        &path,
        external(&[("location", "sub/w.bin"), ("length", "64")]).encode_to_vec(),
    )
    .unwrap();
    assert!(import(&path, &ImportOptions::default()).is_ok());
}

#[test]
fn everything_else_is_refused() {
    let outer = tempfile::tempdir().unwrap();
    let folder = outer.path().join("model");
    std::fs::create_dir_all(folder.join("a")).unwrap();
    std::fs::write(outer.path().join("secret"), weights()).unwrap();
    std::fs::write(folder.join("w.bin"), weights()).unwrap();
    let absolute = outer.path().join("secret").display().to_string();
    let mut cases = vec![
        (vec![("location", "../secret")], "outside"),
        (vec![("location", "a/../../secret")], "outside"),
        (vec![("location", "a\\..\\w.bin")], "backslash"),
        (vec![("location", absolute.as_str())], "absolute"),
        (vec![("location", "a")], "no regular file"),
        (vec![("location", ".")], "no regular file"),
        (
            vec![("location", "missing.bin")],
            "cannot open `missing.bin`",
        ),
        (vec![("location", "")], "location is missing"),
        (vec![], "location is missing"),
        (
            vec![("location", "w.bin"), ("location", "w.bin")],
            "given twice",
        ),
        (
            vec![("location", "w.bin"), ("offset", "-8")],
            "offset `-8` is an invalid number",
        ),
        (
            vec![("location", "w.bin"), ("offset", "+8")],
            "invalid number",
        ),
        (
            vec![("location", "w.bin"), ("length", "99999999999999999999")],
            "length `99999999999999999999` is an invalid number",
        ),
        (
            vec![("location", "w.bin"), ("length", "60")],
            "the length is 60 bytes, the tensor has a size of 64 bytes",
        ),
        (
            vec![("location", "w.bin"), ("offset", "32"), ("length", "64")],
            "not within",
        ),
        (
            vec![
                ("location", "w.bin"),
                ("offset", "18446744073709551615"),
                ("length", "64"),
            ],
            "not within",
        ),
    ];
    #[cfg(unix)]
    {
        std::os::unix::fs::symlink(outer.path().join("secret"), folder.join("link.bin")).unwrap();
        std::os::unix::fs::symlink(outer.path(), folder.join("up")).unwrap();
        std::fs::write(folder.join("one.bin"), weights()).unwrap();
        std::fs::hard_link(folder.join("one.bin"), folder.join("two.bin")).unwrap();
        cases.push((vec![("location", "link.bin")], "symlink"));
        cases.push((vec![("location", "up/secret")], "symlink"));
        cases.push((vec![("location", "two.bin")], "hard link"));
    }
    for (entries, words) in cases {
        let text = read(&folder, &entries).unwrap_err().to_string();
        assert!(
            text.contains("initializer `w`") && text.contains(words),
            "{entries:?}: {text}"
        );
    }
    let text = import_bytes(
        external(&[("location", "w.bin")]).encode_to_vec(),
        None,
        &ImportOptions::default(),
    )
    .unwrap_err();
    assert!(text.to_string().contains("no folder"), "{text}");
}

#[test]
fn a_graph_beyond_the_limit_has_its_weights_in_a_second_file() {
    let weight = Tensor::vector((0..2000).map(|x| x as f32).collect());
    let small = Tensor::vector(vec![1.0_f32; 2000]);
    let nodes = [
        node("Add", &["x", "w"], &["t"], &[]),
        node("Mul", &["t", "v"], &["y"], &[]),
    ];
    let graph = support::graph(&model(
        17,
        &[value("x", DType::F32, &[2000])],
        &[("w", weight), ("v", small)],
        &nodes,
        &["y"],
    ));
    let options = ExportOptions {
        max_bytes: 4000,
        ..ExportOptions::default()
    };
    assert!(matches!(
        export(&graph, &options),
        Err(ExportError::TooLarge { limit: 4000, .. })
    ));
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.onnx");
    export_to_file(&graph, &path, &options).unwrap();
    assert!(std::fs::metadata(&path).unwrap().len() < 4000);
    let mut files: Vec<_> = std::fs::read_dir(folder.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    files.sort();
    assert_eq!(files, ["model.onnx", "model.onnx.data"]);
    // The second tensor begins on a page of its own.
    assert_eq!(
        std::fs::metadata(folder.path().join("model.onnx.data"))
            .unwrap()
            .len(),
        8192 + 8000
    );
    let again = import(&path, &ImportOptions::default()).unwrap();
    assert_eq!(support::listing(&again), support::listing(&graph));
}

const SHA1: &str = "399dbc9f721e44a992a0def42d999b32af449adc";

#[test]
fn the_checksum_of_onnx_is_that_of_the_whole_file() {
    let folder = tempfile::tempdir().unwrap();
    // `sha1sum` of the bytes 0 to 79, each as itself.
    std::fs::write(folder.path().join("w.bin"), (0..80).collect::<Vec<u8>>()).unwrap();
    let with = |checksum: &str| {
        let entries = [
            ("location", "w.bin"),
            ("offset", "16"),
            ("length", "64"),
            ("checksum", checksum),
        ];
        read(folder.path(), &entries)
    };
    assert!(with(SHA1).is_ok());
    assert!(with(&SHA1.to_uppercase()).is_ok());
    let wrong = with(&SHA1.replace('a', "b")).unwrap_err().to_string();
    assert!(
        wrong.contains(SHA1) && wrong.contains("another file"),
        "{wrong}"
    );
}

#[cfg(unix)]
#[test]
fn links_are_followed_where_they_are_allowed() {
    use std::os::unix::fs::symlink;
    let outer = tempfile::tempdir().unwrap();
    let folder = outer.path().join("model");
    std::fs::create_dir(&folder).unwrap();
    std::fs::write(outer.path().join("blob"), &weights()[..64]).unwrap();
    symlink("../blob", folder.join("link.bin")).unwrap();
    std::fs::hard_link(outer.path().join("blob"), folder.join("hard.bin")).unwrap();
    symlink("/dev/zero", folder.join("device.bin")).unwrap();
    let allowed = ImportOptions {
        allow_links: true,
        ..ImportOptions::default()
    };
    let with = |location: &str, options: &ImportOptions| {
        let model = external(&[("location", location)]);
        import_bytes(model.encode_to_vec(), Some(&folder), options).is_ok()
    };
    for (location, follows) in [
        ("link.bin", true),
        ("hard.bin", true),
        ("device.bin", false),
        ("../blob", false),
    ] {
        assert!(!with(location, &ImportOptions::default()), "{location}");
        assert_eq!(with(location, &allowed), follows, "{location}");
    }
}

/// A mapped file is read in place, where its numbers are aligned; what is made of it is refused when the file was changed in the meantime.
#[test]
fn mapped_weights_are_those_of_the_file_and_changes_are_noticed() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("w.bin");
    let write = |text: &[u8]| std::fs::write(&path, text).unwrap();
    write(&weights());
    let copied = ImportOptions {
        copy_weights: true,
        ..ImportOptions::default()
    };
    let with = |entries: &[(&str, &str)], options: &ImportOptions| {
        import_bytes(
            external(entries).encode_to_vec(),
            Some(folder.path()),
            options,
        )
        .unwrap()
    };
    let tensor = |graph: &Graph| {
        let weight = graph.value(graph.value_named("w").unwrap());
        weight.constant().unwrap().clone()
    };
    let exported = |graph: &Graph| export(graph, &ExportOptions::default());
    for (offset, in_place) in [("0", true), ("4", true), ("3", false)] {
        let entries = [("location", "w.bin"), ("offset", offset), ("length", "64")];
        let (mapped, copy) = (
            with(&entries, &ImportOptions::default()),
            with(&entries, &copied),
        );
        assert_eq!(tensor(&mapped), tensor(&copy), "{offset}");
        assert_eq!(
            tensor(&mapped).foreign_bytes().is_some(),
            in_place,
            "{offset}"
        );
        assert_eq!(exported(&mapped).unwrap(), exported(&copy).unwrap());
    }
    let entries = [("location", "w.bin"), ("length", "64")];
    let (mapped, copy) = (
        with(&entries, &ImportOptions::default()),
        with(&entries, &copied),
    );
    // A longer file is another one, also if it begins alike; a renamed one leaves the mapped bytes as they were.
    write(&[weights(), weights()].concat());
    let changed = exported(&mapped).unwrap_err();
    assert!(matches!(changed, ExportError::Weights(_)), "{changed}");
    assert!(changed.to_string().contains("w.bin"), "{changed}");
    assert!(exported(&copy).is_ok());
    let mapped = with(&entries, &ImportOptions::default());
    let new = folder.path().join("new.bin");
    std::fs::write(&new, [0; 64]).unwrap();
    std::fs::rename(&new, &path).unwrap();
    assert_eq!(exported(&mapped).unwrap(), exported(&copy).unwrap());
}
