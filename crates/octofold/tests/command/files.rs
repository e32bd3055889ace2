//! What commands read and write: regular files only, whole or not at all, within limits.
#![cfg(unix)]

use std::os::unix::fs::{FileTypeExt, symlink};
use std::os::unix::net::UnixListener;
use std::process::{Command, Stdio};
use std::time::Instant;

use octofold::tensor::{Tensor, npy};

use crate::common::command::{Folder, calibration};

/// Commands that write a file, and whether they read calibration data.
const WRITERS: [(&str, bool); 6] = [
    ("compile {fashion_resnet} -o OUT", false),
    ("quantize {fashion_resnet} -o OUT", true),
    ("calibrate {fashion_resnet} -o OUT", true),
    (
        "run {fashion_resnet} --input images.npz --output OUT",
        false,
    ),
    ("inspect {fashion_resnet} --dot OUT", false),
    (
        "compare {fashion_resnet} {fashion_resnet} --per-layer --data images.npz --html OUT",
        false,
    ),
];

fn data(wanted: bool) -> Vec<String> {
    if wanted { calibration() } else { Vec::new() }
}

fn fifo(folder: &Folder, name: &str) {
    let made = Command::new("mkfifo").arg(folder.path(name)).status();
    assert!(made.expect("mkfifo runs").success());
}

#[test]
fn outputs_are_regular_files() {
    let folder = Folder::new().with_images();
    fifo(&folder, "fifo");
    std::fs::create_dir(folder.path("directory")).expect("a folder");
    symlink("/dev/null", folder.path("null")).expect("a link");
    let _socket = UnixListener::bind(folder.path("socket")).expect("a socket");
    for (words, wants_data) in WRITERS {
        for (output, what) in [
            ("fifo", "a FIFO"),
            ("directory", "a directory"),
            ("socket", "a socket"),
            ("null", "a device"),
            ("/dev/null", "a device"),
            ("missing/out", "No such file"),
        ] {
            let words = words.replace("OUT", output);
            folder.fails(&words, &data(wants_data), &[output, what]);
        }
    }
    let null = std::fs::metadata("/dev/null").expect("the device");
    assert!(null.file_type().is_char_device());
}

#[test]
fn a_link_keeps_its_place_and_its_target_is_replaced() {
    let folder = Folder::new().with_images();
    folder.write("target", "old");
    symlink("target", folder.path("link")).expect("a link");
    for (words, wants_data) in WRITERS {
        folder.write("target", "old");
        folder.succeeds(&words.replace("OUT", "link"), &data(wants_data));
        assert!(folder.path("link").is_symlink(), "{words}");
        let written = std::fs::read(folder.path("target")).expect("the target");
        assert_ne!(written, b"old", "{words}");
        assert_eq!(
            folder.files(),
            ["images.npy", "images.npz", "link", "target"],
            "{words}"
        );
    }
}

/// The shell's limit of file sizes stands for a full disk: a write fails after some bytes.
#[test]
fn a_write_that_fails_names_the_file_and_leaves_the_old_one() {
    let folder = Folder::new().with_images();
    for (words, wants_data) in WRITERS {
        folder.write("out", "old");
        let words = words.replace("OUT", "out");
        let done = folder.run_limited("ulimit -f 0", &words, &data(wants_data));
        assert_eq!(done.status, 1, "{words}: {}", done.stderr);
        assert!(
            done.stderr.contains("out") && done.stderr.contains("File too large"),
            "{words}: {}",
            done.stderr
        );
        assert_eq!(std::fs::read(folder.path("out")).expect("the file"), b"old");
        let expected = ["images.npy", "images.npz", "out"];
        assert_eq!(folder.files(), expected, "{words}");
    }
}

/// Ends a command `count` times, at moments spread over the time that it takes, in an order that is not that of time.
fn interrupted((words, wants_data): (&str, bool), signal: &str, count: u32) {
    let folder = Folder::new().with_images();
    let (words, data) = (words.replace("OUT", "out"), data(wants_data));
    let start = Instant::now();
    folder.succeeds(&words, &data);
    let time = start.elapsed();
    let whole = std::fs::read(folder.path("out")).expect("the file");
    let left = |folder: &Folder| {
        let files = folder.files().into_iter();
        files.filter(|name| name.ends_with(".tmp")).count()
    };
    for i in 0..count {
        let moment = time * (i * 37 % count + 1) / count;
        let mut child = folder
            .command(&words, &data)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("the command runs");
        std::thread::sleep(moment);
        let kill = format!("kill {signal} {}", child.id());
        // The command may have ended before.
        let _ = Command::new("sh")
            .args(["-c", &kill])
            .stderr(Stdio::null())
            .status();
        child.wait().expect("it ends");
        let found = std::fs::read(folder.path("out")).expect("the file");
        assert!(
            found == whole,
            "{words}, {signal} after {moment:?}: a torn file"
        );
        if signal != "-KILL" {
            assert_eq!(left(&folder), 0, "{words}, {signal} after {moment:?}");
        }
    }
    folder.succeeds(&words, &data);
    // The next writer removes what was left.
    assert_eq!(left(&folder), 0, "{words}");
}

#[test]
fn a_command_that_a_signal_ends_leaves_a_whole_file_and_nothing_else() {
    for writer in WRITERS {
        interrupted(writer, "-TERM", 3);
        interrupted(writer, "-INT", 2);
    }
}

/// Each command is killed at as many moments as `OCTOFOLD_KILLS` says, or at 5.
#[test]
fn a_command_that_is_killed_leaves_a_whole_file() {
    let count = std::env::var("OCTOFOLD_KILLS").map_or(5, |count| count.parse().expect("a number"));
    for writer in WRITERS {
        interrupted(writer, "-KILL", count);
    }
}

#[test]
fn inputs_are_regular_files() {
    let folder = Folder::new().with_images();
    for name in [
        "fifo",
        "fifo.onnx",
        "fifo.oct",
        "fifo.txt",
        "fifo.npz",
        "fifo.png",
    ] {
        fifo(&folder, name);
    }
    std::fs::create_dir(folder.path("folder")).expect("a folder");
    std::fs::rename(folder.path("fifo.png"), folder.path("folder/fifo.png")).expect("moved");
    for words in [
        "check fifo.onnx",
        "inspect fifo.oct",
        "run fifo.oct --no-map --input images.npz --output y.npz",
        "inspect fifo.txt",
        "check {fashion_resnet} --config fifo",
        "check {fashion_resnet} --backend-config fifo",
        "quantize {fashion_resnet} -o y.onnx --statistics fifo",
        "quantize {fashion_resnet} -o y.onnx --calibrate fifo.npz",
        "quantize {fashion_resnet} -o y.onnx --calibrate folder",
        "run {fashion_resnet} --input fifo.npz --output y.npz",
    ] {
        // A command that opens it waits for a writer forever.
        let done = folder.run_limited("exec 9>&-", &format!("{words} --limit nodes=9999"), &[]);
        assert_eq!(done.status, 1, "{words}: {}", done.stderr);
        assert!(done.stderr.contains("fifo"), "{words}: {}", done.stderr);
    }
}

#[test]
fn every_file_has_a_limit() {
    let folder = Folder::new().with_images();
    folder.write("c.toml", "version = 1");
    folder.write("s.json", "{}");
    folder.write("plan.oct", "OCTOPLAN");
    for (words, name) in [
        ("check {fashion_resnet} --config c.toml", "config-bytes"),
        (
            "check {fashion_resnet} --backend-config c.toml",
            "config-bytes",
        ),
        (
            "quantize {fashion_resnet} -o y.onnx --statistics s.json",
            "statistics-bytes",
        ),
        (
            "run {fashion_resnet} --input images.npz --output y.npz",
            "array-bytes",
        ),
        (
            "quantize {fashion_resnet} -o y.onnx --calibrate images.npz",
            "array-bytes",
        ),
        ("check {fashion_resnet}", "file-bytes"),
        ("inspect plan.oct --no-map", "plan-bytes"),
    ] {
        let words = format!("{words} --limit {name}=1");
        folder.fails(&words, &[], &["limit", name]);
    }
}

#[test]
fn arrays_and_options_that_nothing_uses_are_told() {
    let folder = Folder::new().with_images();
    folder.fails(
        "quantize {fashion_resnet} -o y.onnx --calibrate images.npz --map magic=input",
        &[],
        &["magic", "input"],
    );
    for option in ["--samples 0", "--batch 0"] {
        let words = format!("quantize {{fashion_resnet}} -o y.onnx {option}");
        assert_eq!(folder.run(&words, &[]).status, 2, "{option}");
    }
    let (_, input) = npy::read_file(&folder.path("images.npz"))
        .expect("images")
        .remove(0);
    let arrays = [
        ("input".to_owned(), input),
        ("labels".to_owned(), Tensor::vector(vec![1_i64, 2, 3])),
    ];
    let file = std::fs::File::create(folder.path("more.npz")).expect("a file");
    npy::write_npz(file, &arrays).expect("an archive");
    let done = folder.run("run {fashion_resnet} --input more.npz --output y.npz", &[]);
    assert_eq!(done.status, 0);
    assert!(done.stderr.contains("`labels`") && done.stderr.contains("`input`"));
}

#[test]
fn labels_are_classes_of_the_model_one_for_each_sample() {
    let folder = Folder::new().with_images();
    let (_, input) = npy::read_file(&folder.path("images.npz"))
        .expect("images")
        .remove(0);
    let with_labels = |labels: Vec<i64>| {
        let arrays = [
            ("input".to_owned(), input.clone()),
            ("labels".to_owned(), Tensor::vector(labels)),
        ];
        let file = std::fs::File::create(folder.path("data.npz")).expect("a file");
        npy::write_npz(file, &arrays).expect("an archive");
    };
    let words = "eval {fashion_resnet} --data data.npz --labels labels";
    with_labels(vec![0, 1, 9]);
    folder.succeeds(words, &[]);
    for (labels, told) in [
        (vec![0, 1, 10], "sample 2 is 10"),
        (vec![0, -1, 2], "sample 1 is -1"),
        (vec![0, 1], "2 labels"),
        (vec![0, 1, 2, 3], "4 labels for 3 samples"),
    ] {
        with_labels(labels);
        folder.fails(words, &[], &[told]);
    }
}

#[test]
fn statistics_that_nothing_observed_are_refused() {
    let folder = Folder::new();
    folder.succeeds(
        "calibrate {fashion_resnet} -o s.json --observer minmax",
        &calibration(),
    );
    let text = std::fs::read_to_string(folder.path("s.json")).expect("statistics");
    let statistics: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    let words = "quantize {fashion_resnet} -o y.onnx --observer minmax --statistics s.json";
    folder.succeeds(words, &[]);
    std::fs::remove_file(folder.path("y.onnx")).expect("a model");
    let first = statistics["statistics"]
        .as_object()
        .expect("a table")
        .keys()
        .next();
    let first = first.expect("a value").clone();
    let change = |change: &dyn Fn(&mut serde_json::Value)| {
        let mut changed = statistics.clone();
        change(&mut changed);
        folder.write("s.json", changed.to_string());
    };
    change(&|s| s["statistics"][&first]["min_max"]["range"] = serde_json::json!([2.0, 1.0]));
    folder.fails(words, &[], &["s.json", &first, "2", "1"]);
    change(&|s| s["statistics"][&first]["min_max"]["count"] = 0.into());
    folder.fails(words, &[], &["s.json", &first]);
    change(&|s| s["statistics"][&first]["min_max"]["rnage"] = 0.into());
    folder.fails(words, &[], &["s.json", "rnage"]);
    change(&|s| s["provenance"]["version"] = "7.1.0".into());
    folder.fails(words, &[], &["s.json", "7.1.0"]);
    let own = serde_json::json!({ "custom": { "observer": "sigma", "state": "1 2" } });
    change(&|s| s["statistics"][&first] = own.clone());
    folder.fails(words, &[], &[&first, "sigma"]);
}

#[test]
fn a_plan_that_was_read_does_not_need_its_file() {
    let folder = Folder::compiled().with_images();
    let run = "run fashion_resnet.oct --input images.npz --output";
    folder.succeeds(&format!("{run} mapped.npz"), &[]);
    folder.succeeds(&format!("{run} read.npz --no-map"), &[]);
    let bytes = |name: &str| std::fs::read(folder.path(name)).expect("outputs");
    assert_eq!(bytes("mapped.npz"), bytes("read.npz"));
}

#[test]
fn a_folder_of_tests_is_entered_once() {
    let folder = Folder::new();
    std::fs::create_dir(folder.path("tests")).expect("a folder");
    symlink("..", folder.path("tests/up")).expect("a link");
    symlink(".", folder.path("tests/here")).expect("a link");
    let done = folder.run("test tests", &[]);
    assert!(
        done.status != 0 || !done.stdout.is_empty(),
        "no test is there"
    );
}

#[test]
fn more_threads_than_there_may_be_are_an_error() {
    let folder = Folder::new().with_images();
    let words = "run {fashion_resnet} --threads 100000 --input images.npz --output y.npz";
    folder.fails(words, &[], &["threads", "100000"]);
}

/// With too little address space for threads or memory, a command ends with an error, and with enough of it, well.
#[cfg(target_os = "linux")]
#[test]
fn too_little_address_space_is_an_error() {
    let folder = Folder::compiled().with_images();
    let words = "run fashion_resnet.oct --threads 32 --input images.npz --output y.npz";
    let run = |kilobytes: usize| {
        let done = folder.run_limited(&format!("ulimit -v {kilobytes}"), words, &[]);
        assert!(!done.stderr.contains("panicked"), "{}", done.stderr);
        let told = done.stderr.contains("code: ");
        assert!(
            done.status == 0 || (done.status == 1 && told),
            "{kilobytes}: {} {}",
            done.status,
            done.stderr
        );
        done
    };
    for kilobytes in [30_000, 50_000, 70_000, 100_000] {
        run(kilobytes);
    }
    assert!(run(40_000).stderr.contains("threads cannot be started"));
    assert_eq!(run(8_000_000).status, 0);
}
