//! The command line, as scripts see it: statuses, JSON, files that appear whole or not at all. `docs/cli.md` is the promise.

use std::path::Path;
use std::process::Command;

use octofold::kernels::Isa;
use octofold::tensor::npy;
use serde_json::Value;

use crate::common::command::{Folder, calibration, number, test_data};
use crate::common::{MODELS, models};

fn names(nodes: &Value) -> Vec<&str> {
    let nodes = nodes.as_array().expect("a list of nodes").iter();
    nodes
        .map(|node| {
            let text = |key: &str| node[key].as_str().expect("a text");
            assert!(!text("reason").is_empty() && !text("operator").is_empty());
            text("node")
        })
        .collect()
}

#[test]
fn the_algorithm_decides_what_compile_and_quantize_do() {
    let folder = Folder::new();
    folder.fails(
        "quantize {fashion_resnet} -o out.onnx",
        &[],
        &["--calibrate"],
    );
    folder.succeeds("compile {fashion_resnet} -o float.oct", &[]);
    let float = folder.json("inspect float.oct --json", &[]);
    assert_eq!(number(&float, "int8_mac_share"), 0.0);
    assert_eq!(
        names(&float["float_nodes"]).len(),
        12,
        "eleven convolutions and a linear layer"
    );
    folder.succeeds("quantize {fashion_resnet} -o out.onnx", &calibration());
    // Whoever reads the exported model gets the plan of the model that was compiled at once, in another process.
    folder.succeeds("compile out.onnx -o first.oct", &[]);
    folder.succeeds("compile out.onnx -o again.oct", &[]);
    let read = |file: &str| std::fs::read(folder.path(file)).expect("a plan");
    assert!(
        read("first.oct") == read("again.oct"),
        "plans differ from run to run"
    );
    assert!(
        number(
            &folder.json("inspect out.onnx --json", &[]),
            "int8_mac_share"
        ) >= 0.98
    );
}

/// A sum that goes on from run to run: declared by a flag, or by the model.
#[test]
fn states_are_declared_by_flag_or_model() {
    let folder = Folder::new();
    let model = |header: &str| {
        format!(
            "<ir_version: 10, opset_import: [\"\" : 21]{header}>\n\
             sum (float[2] x, float[2] sum) => (float[2] next) {{ next = Add (sum, x) }}\n"
        )
    };
    let metadata = ", metadata_props: [\"octofold.states\": \"next=sum\"]";
    for (name, header, flags) in [("flag", "", " --state next=sum"), ("model", metadata, "")] {
        let file = folder.path(&format!("{name}.onnxtxt"));
        std::fs::write(file, model(header)).expect("a file");
        folder.succeeds(&format!("compile {name}.onnxtxt -o {name}.oct{flags}"), &[]);
        let inspected = folder.json(&format!("inspect {name}.oct --json"), &[]);
        let states = serde_json::json!([{"input": "sum", "output": "next"}]);
        assert_eq!(inspected["states"], states, "{name}");
        let one = octofold::tensor::Tensor::vector(vec![1.0_f32, -2.0]);
        let file = std::fs::File::create(folder.path("x.npy")).expect("a file");
        npy::write_npy(file, &one).expect("an input");
        folder.succeeds(
            &format!("run {name}.oct --input x=x.npy --output y.npz"),
            &[],
        );
        assert_eq!(
            npy::read_file(&folder.path("y.npz")).expect("outputs")[0].1,
            one
        );
    }
    folder.fails(
        "compile flag.onnxtxt -o flag.oct --state next=nothing",
        &[],
        &["no input `nothing`", "x, sum"],
    );
}

#[test]
fn the_own_models_run_on_integers() {
    let folder = Folder::compiled().with_images();
    for name in MODELS {
        let plan = format!("{name}.oct");
        let inspected = folder.json(&format!("inspect {plan} --json"), &[]);
        assert!(number(&inspected, "int8_mac_share") >= 0.98, "{inspected}");
        names(&inspected["float_nodes"]);
        assert!(
            number(&inspected, "arena_bytes") > 0.0 && number(&inspected, "weight_bytes") > 0.0
        );

        folder.succeeds(
            &format!("run {plan} --input images.npz --output first.npz"),
            &[],
        );
        folder.succeeds(
            &format!("run {plan} --input input=images.npy --output second.npz --threads 2"),
            &[],
        );
        let outputs = |file: &str| npy::read_file(&folder.path(file)).expect("outputs");
        assert_eq!(outputs("first.npz"), outputs("second.npz"));
        let (output, logits) = &outputs("first.npz")[0];
        assert_eq!((output.as_str(), logits.shape()), ("logits", &[3, 10][..]));

        let scored = folder.json(
            &format!("eval {plan} --labels labels --json"),
            &test_data(200),
        );
        assert_eq!(
            (&scored["metric"], &scored["samples"]),
            (&"top1".into(), &200.into())
        );
        assert!(number(&scored, "value") > 0.9, "{scored}");
        let scored = folder.json(
            &format!("eval {plan} --labels labels --metric top5 --json"),
            &test_data(200),
        );
        assert!(number(&scored, "value") > 0.98, "{scored}");

        let timed = folder.json(
            &format!("bench {plan} --seconds 0 --profile --json --threads 1"),
            &[],
        );
        let keys = [
            "median_ms",
            "min_ms",
            "p90_ms",
            "runs",
            "load_ms",
            "peak_rss_mb",
            "threads",
        ];
        assert!(keys.iter().all(|key| number(&timed, key) > 0.0), "{timed}");
        let best = Isa::detect().name();
        assert_eq!(
            (&timed["backend"], &timed["isa"]),
            (&"fbgemm".into(), &best.into())
        );
        let steps = timed["steps"].as_array().expect("steps");
        assert_eq!(
            steps.len(),
            inspected["steps"].as_array().expect("steps").len()
        );
        let share: f64 = steps.iter().map(|step| number(step, "share")).sum();
        assert!((share - 1.0).abs() < 1e-6 && steps.iter().all(|step| step["kernel"].is_string()));

        let compared = folder.json(
            &format!("compare {{{name}}} {plan} --json"),
            &test_data(200),
        );
        let logits = &compared["outputs"][0];
        assert_eq!(logits["name"], "logits");
        assert!(number(logits, "sqnr_db") > 27.0, "{compared}");
        assert!(
            number(logits, "cosine") > 0.99 && number(logits, "max_abs") > 0.0,
            "{compared}"
        );
    }
}

/// The limits that `bench` measured: each a number above 0.
fn check_peak(peak: &Value, isas: &[Isa]) {
    let names = |key: &str, name: &str| {
        let list = peak[key].as_array().expect("a list").iter();
        let names = list.map(|entry| entry[name].as_str().expect("a name").to_owned());
        names.collect::<Vec<_>>()
    };
    let expected: Vec<&str> = isas.iter().map(|isa| isa.name()).collect();
    assert_eq!(names("compute", "isa"), expected);
    let levels = names("memory", "level");
    assert!(levels.len() >= 2 && levels[0] == "L1", "{peak}");
    for (list, keys) in [
        ("compute", ["int8_gops", "float_gflops"]),
        ("memory", ["read_gbs", "write_gbs"]),
    ] {
        for entry in peak[list].as_array().expect("a list") {
            assert!(keys.iter().all(|key| number(entry, key) > 0.0), "{entry}");
        }
    }
}

#[test]
fn the_limits_of_the_machine_are_measured_with_and_without_a_model() {
    let folder = Folder::new();
    let alone = folder.json("bench --peak --json --threads 2", &[]);
    assert_eq!(alone["peak"]["threads"], 2);
    check_peak(&alone["peak"], &Isa::supported());
    let text = folder.succeeds("bench --peak --threads 1", &[]);
    assert!(
        text.contains("int8") && text.contains("L1") && text.contains("scalar"),
        "{text}"
    );
    let words = "bench {fashion_resnet} --peak --seconds 0 --threads 1 --json";
    let both = folder.json(words, &[]);
    assert!(number(&both, "median_ms") > 0.0 && both["steps"].is_null());
    check_peak(&both["peak"], &Isa::supported());
}

/// Quantized and float.
#[test]
fn every_step_of_a_profile_has_its_limit() {
    let folder = Folder::compiled();
    for (model, isa) in [
        ("fashion_mobilenet.oct", Isa::detect()),
        ("fashion_mobilenet.oct", Isa::Scalar),
        ("{fashion_resnet}", Isa::detect()),
    ] {
        let words = format!("bench {model} --seconds 0 --profile --threads 1");
        let done = folder.run_with(Some(isa.name()), &format!("{words} --json"), &[]);
        let timed: Value = serde_json::from_str(&done.stdout).expect("JSON");
        let mut isas = vec![isa, Isa::detect()];
        isas.dedup();
        check_peak(&timed["peak"], &isas);
        let inspected = folder.json(&format!("inspect {model} --json"), &[]);
        let (steps, known) = (timed["steps"].as_array(), inspected["steps"].as_array());
        let (steps, known) = (steps.expect("steps"), known.expect("steps"));
        assert_eq!(steps.len(), known.len());
        let mut limits = 0.0;
        for (step, known) in steps.iter().zip(known) {
            for key in ["name", "kernel", "macs", "integer"] {
                assert_eq!(step[key], known[key], "{step}");
            }
            for key in [
                "ms",
                "share",
                "gops",
                "bytes",
                "gbs",
                "limit_ms",
                "limit_share",
            ] {
                assert!(number(step, key) >= 0.0, "{key}: {step}");
            }
            let view = step["kernel"] == "view";
            let by = step["computed_by"].as_str().expect("a text");
            assert!(
                by == if view { "view" } else { "kernel" } || step["kernel"] == by,
                "{step}"
            );
            assert_eq!(number(step, "bytes") == 0.0, view, "{step}");
            assert_eq!(number(step, "limit_ms") == 0.0, view, "{step}");
            assert_eq!(step["limited_by"].is_null(), view, "{step}");
            // One time tells both: operations and bytes.
            let seconds = number(step, "ms") / 1e3;
            let operations = number(step, "gops") * 1e9 * seconds;
            assert!((operations - 2.0 * number(step, "macs")).abs() <= 1e-6 * operations);
            let bytes = number(step, "gbs") * 1e9 * seconds;
            assert!((bytes - number(step, "bytes")).abs() <= 1e-6 * bytes);
            limits += number(step, "limit_ms");
        }
        let totals = &timed["totals"];
        assert!((number(totals, "limit_ms") - limits).abs() <= 1e-9 * limits);
        let sum = number(totals, "steps_ms") + number(totals, "between_ms");
        assert!((sum - number(totals, "run_ms")).abs() < 1e-9);
        assert!(number(totals, "limit_share") > 0.0, "{totals}");
        let text = folder.succeeds(&words, &[]);
        assert!(text.contains("of limit") && text.contains("sum of the steps' limits"));
    }
}

#[test]
fn layers_are_compared_by_name() {
    let folder = Folder::new();
    folder.succeeds("quantize {fashion_resnet} -o out.onnx", &calibration());
    let data = test_data(20);
    let words = "compare {fashion_resnet} out.onnx --per-layer --html report.html --json";
    let compared = folder.json(words, &data);
    let layers = compared["layers"].as_array().expect("layers");
    assert!(layers.len() > 10, "{compared}");
    assert!(
        layers.iter().all(|layer| number(layer, "sqnr_db") > 15.0),
        "{compared}"
    );
    let page = std::fs::read_to_string(folder.path("report.html")).expect("a page");
    assert!(page.contains("logits"));
    folder.succeeds("compile out.onnx -o out.oct", &[]);
    folder.fails(
        "compare {fashion_resnet} out.oct --per-layer",
        &data,
        &["--per-layer"],
    );
}

#[test]
fn an_excluded_layer_stays_float_and_no_other() {
    let folder = Folder::new();
    let nodes = |more: &str| -> Vec<(String, bool, String)> {
        let checked = folder.json(&format!("check {{fashion_resnet}} --json {more}"), &[]);
        let text = |value: &Value| value.as_str().expect("a text").to_owned();
        let nodes = checked["nodes"].as_array().expect("nodes").iter();
        nodes
            .filter(|node| node["fused_into"].is_string())
            .map(|node| {
                (
                    text(&node["node"]),
                    node["quantized"] == true,
                    text(&node["explanation"]),
                )
            })
            .collect()
    };
    assert!(nodes("").iter().all(|(_, quantized, _)| *quantized));
    let layer = "/layer1/layer1.0/conv1/Conv";
    // The name of the node, of its result, of its module, and the prefix of its weights.
    for name in [
        layer,
        "/layer1/layer1.0/conv1/Conv_output_0",
        "layer1.0.conv1",
    ] {
        let checked = nodes(&format!("--exclude {name}"));
        let float: Vec<&str> = checked
            .iter()
            .filter(|(_, quantized, _)| !quantized)
            .map(|(node, ..)| node.as_str())
            .collect();
        // What is fused into the layer goes with it.
        assert_eq!(
            float,
            [
                layer,
                "/layer1/layer1.0/bn1/BatchNormalization",
                "/layer1/layer1.0/relu/Relu"
            ]
        );
        assert!(
            checked
                .iter()
                .all(|(_, quantized, why)| *quantized || why.contains(name))
        );
        folder.succeeds(
            &format!("compile {{fashion_resnet}} -o out.oct --exclude {name}"),
            &calibration(),
        );
        let inspected = folder.json("inspect out.oct --json", &[]);
        assert_eq!(names(&inspected["float_nodes"]), float);
        let steps = inspected["steps"].as_array().expect("steps").iter();
        let float: Vec<&Value> = steps
            .filter(|step| number(step, "macs") > 0.0 && step["integer"] == false)
            .map(|step| &step["name"])
            .collect();
        assert_eq!(float, [layer], "{inspected}");
        assert!((0.8..0.98).contains(&number(&inspected, "int8_mac_share")));
    }
    let near = ["layer1.0.conv7", "layer1.0.conv1"];
    folder.fails(
        "check {fashion_resnet} --exclude layer1.0.conv7",
        &[],
        &near,
    );
    folder.fails(
        "compile {fashion_resnet} -o out2.oct --exclude layer1.0.conv7",
        &calibration(),
        &near,
    );
    folder.fails(
        "check {fashion_resnet} --op-types Conv,Convolution",
        &[],
        &["Convolution"],
    );
}

#[test]
fn instruction_sets_can_be_forced_and_give_the_same_bytes() {
    let folder = Folder::compiled().with_images();
    let words = "run fashion_mobilenet.oct --input images.npz --output";
    let mut outputs: Vec<Vec<u8>> = Vec::new();
    for isa in Isa::ALL {
        let done = folder.run_with(Some(isa.name()), words, &["out.npz".to_owned()]);
        if !isa.is_supported() {
            assert!(
                done.status == 1 && done.stderr.contains(isa.name()),
                "{}",
                done.stderr
            );
            continue;
        }
        assert_eq!(done.status, 0, "{isa}: {}", done.stderr);
        outputs.push(std::fs::read(folder.path("out.npz")).expect("outputs"));
        std::fs::remove_file(folder.path("out.npz")).expect("the file is there");
        let timed = folder.run_with(
            Some(isa.name()),
            "bench fashion_mobilenet.oct --seconds 0 --json",
            &[],
        );
        let timed: Value = serde_json::from_str(&timed.stdout).expect("JSON");
        assert_eq!(timed["isa"], isa.name());
    }
    assert!(
        outputs.windows(2).all(|pair| pair[0] == pair[1]),
        "instruction sets differ"
    );
    for isa in ["avx9000", ""] {
        let done = folder.run_with(Some(isa), words, &["out.npz".to_owned()]);
        assert_eq!(done.status, 1);
        assert!(
            done.stderr.contains("OCTOFOLD_ISA") && done.stderr.contains("avx2"),
            "{}",
            done.stderr
        );
    }
    assert!(!folder.path("out.npz").exists());
}

/// Both engines, by the command: a plan says whose it is, for which processor, and gives the same outputs.
#[test]
fn an_engine_and_a_processor_can_be_chosen() {
    let folder = Folder::compiled().with_images();
    let name = MODELS[1];
    let other = if cfg!(target_arch = "aarch64") {
        "avx2"
    } else {
        "neondot"
    };
    let statistics = format!("calibrate {{{name}}} -o stats.json --backend qnnpack");
    folder.succeeds(&statistics, &calibration());
    let compile = |flags: &str, plan: &str| {
        let words = format!("compile {{{name}}} --statistics stats.json -o {plan} {flags}");
        folder.succeeds(&words, &[]);
    };
    compile("--backend qnnpack", "any.oct");
    compile(&format!("--backend qnnpack --target {other}"), "other.oct");
    // Processors with these choose the engine.
    compile("--target neon", "arm.oct");
    let run = |plan: &str, flags: &str| {
        folder.succeeds(
            &format!("run {plan} --input images.npz --output y.npz --allow-portable {flags}"),
            &[],
        );
        std::fs::read(folder.path("y.npz")).expect("an archive")
    };
    let expected = run(&format!("{name}.oct"), "");
    for plan in ["any.oct", "other.oct", "arm.oct"] {
        assert!(run(plan, "") == expected, "{plan}");
        let bench = format!("bench {plan} --seconds 0.01 --json --allow-portable");
        assert_eq!(folder.json(&bench, &[])["backend"], "qnnpack");
    }
    folder.fails(
        "run other.oct --input images.npz --output z.npz",
        &[],
        &["other.oct", "qnnpack", other, "--allow-portable"],
    );
    // What was observed for one engine is not used for another by mistake.
    folder.fails(
        &format!("compile {{{name}}} --statistics stats.json -o x.oct"),
        &[],
        &["stats.json", "qnnpack", "fbgemm"],
    );
}

#[test]
fn passes_can_be_watched() {
    let folder = Folder::new();
    let text = folder.succeeds(
        "opt {fashion_mobilenet} --passes simplify,fuse --print-after all --explain",
        &[],
    );
    for line in [
        "# after canonicalize",
        "# after fuse-activations",
        "#   fold-batch-norm `",
    ] {
        assert!(text.contains(line), "no `{line}`");
    }
    // It has nothing to fold, and a graph that did not change is not printed again.
    assert!(text.contains("# fold-constants") && !text.contains("# after fold-constants"));
    let one = folder.succeeds(
        "opt {fashion_mobilenet} --passes fuse --print-after fuse-affine",
        &[],
    );
    assert_eq!(one.matches("# after ").count(), 1);
    let stopped = folder.succeeds(
        "opt {fashion_mobilenet} --passes fuse-affine,fuse-activations --stop-after 1 --print-after all",
        &[],
    );
    assert_eq!(stopped.matches("# after ").count(), 1);
    let stopped = folder.succeeds(
        "opt {fashion_mobilenet} --passes fuse --stop-after-rewrite 1",
        &[],
    );
    assert!(stopped.contains("# rewrite 1: fuse-"), "{stopped}");
    // A pipe that is closed early is no failure of the command.
    let mut child = Command::new(env!("CARGO_BIN_EXE_octofold"))
        .args([
            Path::new("opt"),
            &models("fashion_resnet.onnx"),
            Path::new("--print-after=all"),
        ])
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .expect("the command runs");
    drop(child.stdout.take());
    let output = child.wait_with_output().expect("the command ends");
    assert!(
        output.stderr.is_empty(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
}

#[cfg(unix)]
#[test]
fn output_files_are_readable_by_others() {
    use std::os::unix::fs::PermissionsExt;
    let folder = Folder::compiled().with_images();
    folder.succeeds(
        "run fashion_resnet.oct --input images.npz --output out.npz",
        &[],
    );
    folder.succeeds("inspect {fashion_resnet} --dot out.dot", &[]);
    let mode = |file: &str| {
        std::fs::metadata(folder.path(file))
            .expect("a file")
            .permissions()
            .mode()
            & 0o777
    };
    // What the user's mask leaves, as it does of any file.
    for file in ["out.npz", "out.dot", "fashion_resnet.oct"] {
        assert_eq!(mode(file), mode("images.npy"), "{file}");
    }
}

#[test]
fn check_prints_one_line_a_node_and_details_when_asked() {
    let folder = Folder::new();
    let lines = folder.succeeds("check {fashion_resnet} --exclude fc", &[]);
    assert_eq!(lines.lines().count(), 40 + 1, "{lines}");
    assert!(
        lines.ends_with("37 of 40 nodes would run on integers\n"),
        "{lines}"
    );
    let details = folder.succeeds("check {fashion_resnet} -v", &[]);
    for word in ["names: /conv1/Conv, ", "conv1", "qconfig: "] {
        assert!(
            !lines.contains("      names:") && details.contains(word),
            "{word}"
        );
    }
}

#[test]
fn compile_and_quantize_end_with_a_summary() {
    let folder = Folder::new();
    let summary = |words: &str, more: &[String]| -> Vec<String> {
        let text = folder.succeeds(&words.replace("MODEL", "{fashion_resnet}"), more);
        text.lines().map(str::to_owned).collect()
    };
    let compiled = summary("compile MODEL -o a.oct", &calibration());
    let bytes = number(&folder.json("inspect a.oct --json", &[]), "weight_bytes");
    let size = format!("a.oct: {:.1} kB of weights, ", bytes / 1e3);
    assert!(compiled[0].starts_with(&size), "{compiled:?}");
    assert_eq!(
        compiled[1],
        "100.00 % of the multiply-accumulates on integers"
    );
    assert_eq!(compiled[2], "no node of 40 computes in float");
    let quantized = summary("quantize MODEL -o a.onnx --exclude fc", &calibration());
    assert!(quantized[0].starts_with("a.onnx: "), "{quantized:?}");
    assert_eq!(
        quantized[2],
        "1 of 40 nodes compute in float; `octofold inspect a.onnx` says why"
    );
    let float = summary("compile MODEL -o b.oct", &[]);
    assert_eq!(float[1], "0.00 % of the multiply-accumulates on integers");
    assert_eq!(
        float[2],
        "12 of 40 nodes compute in float; `octofold inspect b.oct` says why"
    );
}

/// `opt` runs what the tests by example run, and gives the same graph.
#[test]
fn opt_runs_the_passes_of_the_snapshots() {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests");
    let example = tests.join("passes/stages/fuse-to-layout.onnxtxt");
    let ranges = ["x=-1..1", "c=0..4", "p=0..4", "f=0..4"].map(|range| format!("--range={range}"));
    let words = "opt --passes simplify,fuse,convert,expand-fused,simplify,lower,layout";
    let more = [&[example.display().to_string()], &ranges[..]].concat();
    let printed = Folder::new().succeeds(words, &more);
    let snapshot = tests.join("snapshots/passes/stages__fuse-to-layout.snap");
    let snapshot = std::fs::read_to_string(snapshot).expect("a snapshot");
    assert!(snapshot.trim_end().ends_with(printed.trim()), "{printed}");
}
