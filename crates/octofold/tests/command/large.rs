//! Models whose weights are in large files: they are mapped, and looked at layer by layer.
#![cfg(target_os = "linux")]

use std::time::Duration;

use octofold::tensor::{Tensor, npy};

use crate::common::command::Folder;

/// The sizes of a layer's weights.
const WIDTH: usize = 1536;
const LAYERS: usize = 8;
const BYTES: usize = LAYERS * WIDTH * WIDTH * 4;

/// A row of products with weights in another file, and calibration data.
fn large_model() -> Folder {
    let folder = Folder::new();
    let mut state = 1_u32;
    let mut number = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / (1 << 23) as f32 - 1.0
    };
    let scale = 2.4 / (WIDTH as f32).sqrt();
    let weights = (0..BYTES / 4).flat_map(|_| (number() * scale).to_le_bytes());
    folder.write("weights.bin", weights.collect::<Vec<u8>>());
    let layer = BYTES / LAYERS;
    let constants = (0..LAYERS).map(|i| {
        let offset = i * layer;
        format!(
            r#"float[{WIDTH}, {WIDTH}] w{i} = ["location": "weights.bin", "offset": "{offset}", "length": "{layer}"]"#
        )
    });
    let nodes = (0..LAYERS).map(|i| format!("m{i} = MatMul(r{i}, w{i})\nr{} = Relu(m{i})", i + 1));
    let model = format!(
        "<ir_version: 8, opset_import: [\"\": 17]>\nlarge (float[n, {WIDTH}] r0) => (float[n, {WIDTH}] r{LAYERS})\n<{}>\n{{\n{}\n}}\n",
        constants.collect::<Vec<_>>().join(", "),
        nodes.collect::<Vec<_>>().join("\n"),
    );
    folder.write("large.onnxtxt", model);
    let x = Tensor::new([8, WIDTH], (0..8 * WIDTH).map(|_| number()).collect());
    let mut archive = std::io::Cursor::new(Vec::new());
    npy::write_npz(&mut archive, &[("r0".to_owned(), x.expect("a tensor"))]).expect("an archive");
    folder.write("data.npz", archive.into_inner());
    folder
}

/// Runs the command; gives the largest `RssAnon` that was seen, in bytes.
fn memory(folder: &Folder, words: &str) -> usize {
    let mut child = folder
        .command(words, &[])
        .spawn()
        .expect("the command runs");
    let status = format!("/proc/{}/status", child.id());
    let mut most = 0;
    loop {
        let text = std::fs::read_to_string(&status).unwrap_or_default();
        let line = text.lines().find_map(|line| line.strip_prefix("RssAnon:"));
        let kilobytes =
            line.and_then(|line| line.trim().strip_suffix(" kB")?.parse::<usize>().ok());
        most = most.max(kilobytes.unwrap_or(0) * 1024);
        if let Some(status) = child.try_wait().expect("the command") {
            assert!(status.success(), "{words}");
            return most;
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// The float weights are never copied as a whole. Integers are a quarter of them, and are freed while they are packed.
#[test]
fn large_weights_are_not_copied() {
    let folder = large_model();
    let checked = memory(&folder, "check large.onnxtxt");
    assert!(checked < BYTES / 4, "check took {checked} bytes");
    let compile = "compile large.onnxtxt --calibrate data.npz --threads 2 -o";
    let mapped = memory(&folder, &format!("{compile} mapped.oct"));
    assert!(
        mapped < BYTES * 3 / 4,
        "compile took {mapped} bytes of {BYTES}"
    );
    let copied = memory(&folder, &format!("{compile} copied.oct --no-map"));
    assert!(copied > BYTES, "without a map compile took {copied} bytes");
    let bytes = |name: &str| std::fs::read(folder.path(name)).expect("a plan");
    assert!(bytes("mapped.oct") == bytes("copied.oct"));
}
