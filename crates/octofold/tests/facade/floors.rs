//! The floors of the house: which crate may use which. `docs/architecture.md` has the table and the reasons.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Every crate with its floor; a crate may use those of lower floors only.
const FLOORS: [(&str, u32); 10] = [
    ("octofold-quant", 0),
    ("octofold-tensor", 1),
    ("octofold-kernels", 1),
    ("octofold-ops", 2),
    ("octofold-ir", 3),
    ("octofold-runtime", 3),
    ("octofold-passes", 4),
    ("octofold-codegen", 4),
    ("octofold-calibrate", 5),
    ("octofold", 6),
];

/// What no crate may reach, by whatever way.
const FORBIDDEN: [(&str, &str); 4] = [
    ("octofold-ir", "octofold-passes"),
    ("octofold-passes", "octofold-kernels"),
    ("octofold-kernels", "octofold-tensor"),
    ("octofold-runtime", "octofold-ir"),
];

/// The crates that may hold unsafe code, with the attribute that bounds it there.
const UNSAFE: [(&str, &str); 3] = [
    (
        "octofold-kernels",
        "#![deny(clippy::undocumented_unsafe_blocks)]",
    ),
    ("octofold-runtime", "#![deny(unsafe_code)]"),
    ("octofold-tensor", "#![deny(unsafe_code)]"),
];

struct Crate {
    folder: PathBuf,
    uses: BTreeSet<String>,
}

/// The crates of the workspace with the crates of ours that they use outside of their tests.
fn crates() -> BTreeMap<String, Crate> {
    let output = Command::new(env!("CARGO"))
        .args([
            "metadata",
            "--format-version",
            "1",
            "--no-deps",
            "--offline",
            "--manifest-path",
        ])
        .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.toml"))
        .output()
        .expect("cargo runs");
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let metadata: serde_json::Value =
        serde_json::from_slice(&output.stdout).expect("cargo metadata is JSON");
    let packages = metadata["packages"].as_array().expect("packages");
    let entry = |package: &serde_json::Value| {
        let text = |value: &serde_json::Value| value.as_str().expect("a string").to_owned();
        let folder = Path::new(&text(&package["manifest_path"]))
            .parent()
            .expect("a folder")
            .to_owned();
        let dependencies = package["dependencies"]
            .as_array()
            .expect("dependencies")
            .iter();
        let uses = dependencies
            .filter(|dependency| dependency["kind"] != "dev")
            .map(|dependency| text(&dependency["name"]));
        (
            text(&package["name"]),
            Crate {
                folder,
                uses: uses.filter(|name| name.starts_with("octofold")).collect(),
            },
        )
    };
    packages.iter().map(entry).collect()
}

#[test]
fn every_crate_has_a_floor_and_uses_lower_ones_only() {
    let crates = crates();
    let floors = BTreeMap::from(FLOORS);
    assert_eq!(
        crates.keys().map(String::as_str).collect::<Vec<_>>(),
        floors.keys().copied().collect::<Vec<_>>()
    );
    for (name, own) in &crates {
        for used in &own.uses {
            let (floor, lower) = (floors[name.as_str()], floors[used.as_str()]);
            assert!(
                lower < floor,
                "{name} is on floor {floor} and uses {used} on floor {lower}"
            );
        }
    }
}

#[test]
fn forbidden_crates_are_not_reached() {
    let crates = crates();
    for (from, to) in FORBIDDEN {
        let mut reached = BTreeSet::new();
        let mut waiting = vec![from];
        while let Some(name) = waiting.pop() {
            for used in &crates[name].uses {
                if reached.insert(used.as_str()) {
                    waiting.push(used);
                }
            }
        }
        assert!(!reached.contains(to), "{from} must not reach {to}");
    }
}

#[test]
fn unsafe_code_is_in_few_crates() {
    let allowed = BTreeMap::from(UNSAFE);
    for (name, own) in crates() {
        let text = std::fs::read_to_string(own.folder.join("src/lib.rs")).expect("src/lib.rs");
        let attribute = allowed
            .get(name.as_str())
            .copied()
            .unwrap_or("#![forbid(unsafe_code)]");
        assert!(
            text.lines().any(|line| line == attribute),
            "{name}: src/lib.rs lacks {attribute}"
        );
    }
}

/// `docs/dependencies.md` lists what the runtime alone builds.
#[test]
fn the_page_of_dependencies_is_that_of_the_runtime() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let tree = Command::new(env!("CARGO"))
        .args(["tree", "--offline", "-p", "octofold-runtime"])
        .args(["-e", "normal", "--prefix", "none", "--format", "{p}"])
        .current_dir(&root)
        .output()
        .expect("cargo runs");
    let tree = String::from_utf8(tree.stdout).expect("UTF-8");
    let built: BTreeSet<&str> = tree
        .lines()
        .filter_map(|line| line.split_whitespace().next())
        .filter(|name| !name.starts_with("octofold"))
        .collect();
    let page = std::fs::read_to_string(root.join("docs/dependencies.md")).expect("the page");
    let listed: BTreeSet<&str> = page
        .lines()
        .filter_map(|line| line.strip_prefix("| `")?.split('`').next())
        .collect();
    assert_eq!(built, listed);
}
