//! The command line when something is wrong: statuses, messages, and no file left. `docs/cli.md` is the promise.

use std::path::Path;

use octofold::Error;
use octofold::runtime::{PlanError, RunError};

use crate::common::command::{Folder, calibration, test_data};
use crate::common::{CALIBRATION, models};

/// Commands that fail, and words of what they tell.
const FAILURES: &str = "
    run PLAN --input junk.npz --output out.npz            | junk.npz
    run PLAN --input missing.npz --output out.npz         | missing.npz
    run PLAN --input input=junk.npz --output out.npz      | junk.npz
    eval PLAN --labels nothing --json                     | nothing labels
    eval PLAN --labels labels --metric f1                 | f1 top1
    eval PLAN --labels labels --data missing.npz          | missing.npz
    compile MODEL -o missing/out.oct                      | missing
    compile MODEL -o out.oct --shape input=1xx            | 1xx NAME=
    compile MODEL -o out.oct --shape image=1x1x28x28      | image
    compile MODEL -o out.oct --target sse2                | sse2 neondot
    compile MODEL -o out.oct --target neon --backend fbgemm | neon fbgemm qnnpack
    compile MODEL -o out.oct --algorithm static           | --calibrate
    compile MODEL -o out.oct --algorithm dynamic          | dynamic
    quantize MODEL -o out.onnx                            | --calibrate
    check MODEL --observer magic                          | magic histogram
    check MODEL --activation-type int9                    | int9 uint8
    check MODEL --preset magic                            | magic torch_fbgemm
    check MODEL --backend magic                           | magic fbgemm
    check MODEL --op-types Conv,Convolution               | Convolution Conv
    check MODEL --exclude layer1.0.conv7                  | layer1.0.conv7 layer1.0.conv1
    check MODEL --config missing.toml                     | missing.toml
    check MODEL --limit nodes=3                           | fashion_resnet.onnx nodes --limit raise
    inspect MODEL --limit depth=2                         | depth --limit
    compile MODEL -o out.oct --limit knots=3              | knots nodes memory
    opt MODEL --limit nodes                               | NAME=NUMBER
    bench PLAN --json --limit memory=1K                   | memory --limit
    opt MODEL --passes fold-constants,magic               | magic fuse-affine
    opt MODEL --print-after magic                         | magic fuse-affine
    test missing                                          | missing
    demo --models missing                                 | missing
";

#[test]
fn wrong_usage_has_a_status_of_its_own() {
    let folder = Folder::new();
    for words in [
        "",
        "unknown",
        "compile",
        "compile {fashion_resnet}",
        "run {fashion_resnet}",
        "bench {fashion_resnet} --seconds soon",
        "bench --profile",
        "compile {fashion_resnet} -o x.oct --algorithm magic",
    ] {
        let done = folder.run(words, &[]);
        assert_eq!(done.status, 2, "`{words}`: {}", done.stderr);
        assert!(
            !done.stderr.is_empty() && done.stdout.is_empty(),
            "`{words}`"
        );
    }
    assert!(folder.files().is_empty());
    assert!(folder.succeeds("--help", &[]).contains("compile"));
    assert!(folder.succeeds("--version", &[]).starts_with("octofold "));
}

#[test]
fn what_fails_is_told_and_leaves_no_file() {
    let folder = Folder::compiled();
    folder.write("junk.onnx", b"these bytes are no model");
    folder.write("junk.oct", vec![7; 5000]);
    folder.write("junk.npz", b"PK\x03\x04 no archive");
    folder.write("empty.onnx", b"");
    let model = std::fs::read(models("fashion_resnet.onnx")).expect("a model");
    folder.write("cut.onnx", &model[..model.len() / 2]);
    let plan = std::fs::read(folder.path("fashion_resnet.oct")).expect("a plan");
    folder.write("cut.oct", &plan[..plan.len() - 100]);
    let mut damaged = plan;
    let middle = damaged.len() / 2;
    damaged[middle] ^= 1;
    folder.write("damaged.oct", damaged);
    for file in ["missing.onnx", "junk.onnx", "empty.onnx", "cut.onnx"] {
        for words in [
            "compile FILE -o out.oct",
            "quantize FILE -o out.onnx",
            "check FILE",
        ] {
            folder.fails(&words.replace("FILE", file), &calibration(), &[file]);
        }
    }
    for file in ["missing.oct", "junk.oct", "cut.oct", "damaged.oct"] {
        folder.fails(&format!("inspect {file} --json"), &[], &[file]);
        folder.fails(&format!("bench {file} --json"), &[], &[file]);
        let words = format!("run {file} --input junk.npz --output out.npz");
        folder.fails(&words, &[], &[file]);
    }
    for line in FAILURES.lines().filter(|line| !line.trim().is_empty()) {
        let (words, told) = line.split_once('|').expect("two columns");
        let words = words.replace("PLAN", "fashion_resnet.oct");
        let words = words.replace("MODEL", "{fashion_resnet}");
        let more = if words.contains("eval") && !words.contains("--data") {
            test_data(20)
        } else {
            vec![]
        };
        let told: Vec<&str> = told.split_whitespace().collect();
        folder.fails(&words, &more, &told);
    }
    // Without the configuration the archive has no array of the input's name.
    let data = models(CALIBRATION).display().to_string();
    let words = "quantize {fashion_resnet} -o out.onnx --calibrate";
    folder.fails(words, &[data], &["input", "images"]);
}

/// A cause is told once, although errors and their sources both tell it.
#[test]
fn messages_do_not_repeat_themselves() {
    let folder = Folder::new();
    for words in [
        "inspect missing.oct",
        "compile missing.onnx -o x.oct",
        "run {fashion_resnet} --input missing.npz --output x.npz",
    ] {
        let message = folder.run(words, &[]).stderr;
        assert_eq!(message.matches("No such file").count(), 1, "{message}");
    }
}

#[test]
fn the_configuration_is_strict() {
    let folder = Folder::new();
    let cases = [
        (
            "version = 1\nalgoritm = 'static'",
            &["algoritm", "algorithm"][..],
        ),
        (
            "version = 1\n[qconfig.default]\nactivations = {}",
            &[
                "activations",
                "activation",
                "in [qconfig.default]",
                "line 3",
            ],
        ),
        (
            "version = 1\n[qconfig.default.weight]\ntype = 'int8'",
            &["type", "dtype"],
        ),
        (
            "version = 1\n[qconfig_mapping]\nmodule = {}",
            &["module", "module_name"],
        ),
        (
            "version = 1\n[input.input]\nstdev = [1.0]",
            &["stdev", "std"],
        ),
        ("version = 2", &["version 2"]),
        ("version = ", &["line 1"]),
        (
            "version = 1\n[qconfig.default.weight]\ndtype = 'int9'",
            &["int9", "int8", "c.toml:2", "[qconfig.default]"],
        ),
        (
            "version = 1\n[qconfig.default.activation]\nobserver = 'magic'",
            &["magic", "histogram", "c.toml:2", "[qconfig.default]"],
        ),
        (
            "version = 1\n[qconfig.a]\nextends = 'b'\n[qconfig_mapping]\nglobal = 'a'",
            &["qconfig.b", "default", "c.toml:2", "[qconfig.a]"],
        ),
        (
            "version = 1\n[qconfig.a]\nextends = 'a'\n[qconfig_mapping]\nglobal = 'a'",
            &["a", "itself", "c.toml:2"],
        ),
        (
            "version = 1\n[qconfig_mapping]\nglobal = 'default'\nmodule_name = { conv9 = 'none' }",
            &["conv9", "conv1"],
        ),
        (
            "version = 1\n\n[qconfig_mapping]\nmodule_name_regex = [{ pattern = '(', qconfig = 'none' }]",
            &["c.toml:3", "[qconfig_mapping]", "regex"],
        ),
        ("version = 1\nalgorithm = 'magic'", &["magic", "static"]),
        ("version = 1\nbackend = 'magic'", &["magic", "fbgemm"]),
    ];
    for (text, told) in cases {
        folder.write("c.toml", text);
        // Calibration comes last, so that everything before it is looked at.
        let data = models(CALIBRATION).display().to_string();
        let words = "quantize {fashion_resnet} -o out.onnx --config c.toml";
        let more = if text.contains("algorithm") {
            vec![]
        } else {
            vec!["--calibrate".to_owned(), data]
        };
        folder.fails(words, &more, told);
    }
    folder.fails(
        "check {fashion_resnet} --config missing.toml",
        &[],
        &["missing.toml"],
    );
    folder.write(
        "c.toml",
        "version = 1\n[qconfig_mapping]\nglobal = 'default'\nobject_type = { Gemm = 'none' }",
    );
    let checked = folder.json("check {fashion_resnet} --config c.toml --json", &[]);
    let nodes = checked["nodes"].as_array().expect("nodes");
    let gemm = nodes
        .iter()
        .find(|node| node["operator"] == "Gemm")
        .expect("a Gemm");
    assert!(
        gemm["quantized"] == false && gemm["explanation"].to_string().contains("object_type Gemm")
    );
}

/// `docs/errors.md` lists the codes that programs may rely on.
#[test]
fn the_page_of_errors_lists_every_code() {
    use std::fmt::Write;
    let codes = [Error::CODES, RunError::CODES, PlanError::CODES].concat();
    let mut table = String::from("| code | meaning |\n| --- | --- |\n");
    for (code, meaning) in &codes {
        writeln!(table, "| `{code}` | {meaning} |").expect("a text");
    }
    let distinct: std::collections::BTreeSet<&str> = codes.iter().map(|(code, _)| *code).collect();
    assert_eq!(distinct.len(), codes.len(), "a code has one meaning");
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/errors.md");
    let page = std::fs::read_to_string(&path).expect("the page");
    let (before, rest) = page
        .split_once("<!-- generated: codes -->\n")
        .expect("a mark");
    let (shown, after) = rest.split_once("<!-- end -->").expect("a mark");
    if std::env::var_os("OCTOFOLD_BLESS").is_some() {
        let page = format!("{before}<!-- generated: codes -->\n{table}<!-- end -->{after}");
        std::fs::write(&path, page).expect("the page is written");
    } else {
        assert_eq!(shown, table, "OCTOFOLD_BLESS=1 writes docs/errors.md");
    }
}

/// What fails has the code of its stage, in the library and on the command line.
#[test]
fn a_failure_tells_its_code() {
    let folder = Folder::new();
    folder.write("c.toml", "version = 1\nalgoritm = 'static'");
    folder.write("junk.oct", "junk");
    for (words, code) in [
        ("check missing.onnx", "import"),
        (
            "check {fashion_resnet} --exclude layer1.0.conv7",
            "unmatched-setting",
        ),
        ("check {fashion_resnet} --backend magic", "backend"),
        ("check {fashion_resnet} --config c.toml", "config"),
        ("check {fashion_resnet} --algorithm dynamic", "not-built"),
        (
            "quantize {fashion_resnet} -o x.onnx --algorithm static",
            "no-calibration",
        ),
        (
            "quantize {fashion_resnet} -o x.onnx --calibrate missing.npz",
            "data",
        ),
        ("opt {fashion_resnet} --passes magic", "pass"),
        (
            "opt {fashion_resnet} --passes simplify,fuse,convert",
            "pass",
        ),
        ("inspect junk.oct", "plan-format"),
        ("bench {fashion_resnet} --limit memory=1K", "run-budget"),
    ] {
        let line = format!("\ncode: {code}\n");
        folder.fails(words, &[], &[&line]);
    }
}
