//! ONNX's own tests by `octofold test`: compiled plans give the outputs that are recorded, with inputs at run time and with constants.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use tempfile::TempDir;

/// How many tests of each list pass; more are welcome, then the number is raised.
const PASSED: [(&str, usize); 3] = [("tier1", 336), ("tier2", 263), ("tier3", 244)];

fn conformance(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../../shared/conformance")
        .join(name)
}

/// An archive in a folder of its own.
fn unpack(name: &str) -> Result<(TempDir, PathBuf)> {
    let file = std::fs::File::open(conformance(name)).context("../shared/conformance")?;
    let folder = tempfile::tempdir()?;
    tar::Archive::new(flate2::read::GzDecoder::new(file)).unpack(folder.path())?;
    let tests = folder.path().join("onnx-backend-tests");
    Ok((folder, tests))
}

/// Runs `octofold test` in a folder: how many passed, how many failed, and all it said.
fn test(folder: &Path, arguments: &[&str]) -> Result<(usize, usize, String)> {
    let output = Command::new(env!("CARGO_BIN_EXE_octofold"))
        .current_dir(folder)
        .arg("test")
        .args(arguments)
        .output()?;
    let said = String::from_utf8(output.stdout)?;
    let last = said.lines().last().context("no output")?;
    let (passed, failed) = last
        .strip_suffix(" failed")
        .and_then(|rest| rest.split_once(" passed, "))
        .with_context(|| last.to_owned())?;
    let (passed, failed) = (passed.parse()?, failed.parse()?);
    ensure!(
        output.status.code() == Some(i32::from(failed > 0)),
        "{}",
        output.status
    );
    Ok((passed, failed, said))
}

#[test]
fn plans_pass_the_tests_of_onnx() -> Result<()> {
    let (_folder, tests) = unpack("onnx-node-tests.tar.gz")?;
    for (tier, at_least) in PASSED {
        let list = std::fs::read_to_string(conformance(&format!("{tier}.txt")))?;
        for freeze in [&[][..], &["--freeze"]] {
            let arguments: Vec<&str> = list.split_whitespace().chain(freeze.to_vec()).collect();
            let (passed, failed, said) = test(&tests, &arguments)?;
            ensure!(passed + failed == list.split_whitespace().count());
            ensure!(passed >= at_least, "{tier} {freeze:?}: {said}");
        }
    }
    Ok(())
}

/// Real topologies: folding, fusion and kernels at scale.
#[test]
fn plans_pass_the_light_networks() -> Result<()> {
    let (_folder, tests) = unpack("light.tar.gz")?;
    for arguments in [&["light"][..], &["light", "--freeze"]] {
        let (passed, failed, said) = test(&tests, arguments)?;
        ensure!((passed, failed) == (9, 0), "{said}");
    }
    Ok(())
}
