//! The checked-in code of the plan format is what `proto/plan.proto` generates.
//!
//! After a change of the format, `OCTOFOLD_BLESS=1 cargo test -p octofold-runtime --test generated` writes it anew.

use std::path::Path;

#[test]
fn the_generated_code_is_up_to_date() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let proto = root.join("../../proto");
    let descriptors =
        protox::compile([proto.join("plan.proto")], [&proto]).expect("proto/plan.proto is valid");
    let out = tempfile::tempdir().expect("a temporary folder");
    let mut config = prost_build::Config::new();
    config
        .out_dir(out.path())
        .compile_fds(descriptors)
        .expect("code is generated");
    let generated =
        std::fs::read_to_string(out.path().join("octofold.plan.rs")).expect("the generated file");
    let checked_in = root.join("src/file/generated.rs");
    if std::env::var_os("OCTOFOLD_BLESS").is_some() {
        std::fs::write(&checked_in, &generated).expect("the source folder is writable");
    }
    let present = std::fs::read_to_string(&checked_in).expect("the checked-in file");
    assert!(
        present == generated,
        "{} is not what proto/plan.proto generates",
        checked_in.display()
    );
}
