//! The page about stages shows the checks and the legal operators that the verifier has. With `OCTOFOLD_BLESS=1` it is written.

use std::fmt::Write;
use std::path::Path;

use octofold_ir::{Form, STAGES, STRUCTURE, Stage};

const BEGIN: &str = "<!-- from crates/ir/src/verify: begin -->\n";
const END: &str = "<!-- from crates/ir/src/verify: end -->";

fn tables() -> String {
    let mut text = String::from("\n## Legal operators\n\n| stage |");
    for form in Form::ALL {
        write!(text, " {} |", form.description()).unwrap();
    }
    text.push_str(&format!("\n|{}\n", " --- |".repeat(Form::ALL.len() + 1)));
    for stage in STAGES {
        write!(text, "| {stage} |").unwrap();
        for form in Form::ALL {
            let mark = if stage.allows(form) { "yes" } else { "-" };
            write!(text, " {mark} |").unwrap();
        }
        text.push('\n');
    }
    text.push_str("\n## Rules of stages\n\n| check | rule | at |\n| --- | --- | --- |\n");
    for check in Stage::CHECKS {
        let at: Vec<String> = STAGES
            .into_iter()
            .filter(|&stage| check.applies_at(stage))
            .map(|stage| stage.to_string())
            .collect();
        let at = if at.len() == STAGES.len() {
            "every stage".to_owned()
        } else {
            at.join(", ")
        };
        writeln!(text, "| {} | {} | {at} |", check.name, check.rule).unwrap();
    }
    text.push_str("\n## Structure, at every moment\n\n| check | rule |\n| --- | --- |\n");
    for check in STRUCTURE {
        writeln!(text, "| {} | {} |", check.name, check.rule).unwrap();
    }
    text.push('\n');
    text
}

#[test]
fn the_page_shows_what_the_verifier_checks() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/stages.md");
    let page = std::fs::read_to_string(&path).unwrap();
    let (before, rest) = page.split_once(BEGIN).unwrap();
    let (found, after) = rest.split_once(END).unwrap();
    let expected = tables();
    if std::env::var_os("OCTOFOLD_BLESS").is_some() {
        std::fs::write(path, [before, BEGIN, &expected, END, after].concat()).unwrap();
    } else {
        assert_eq!(found, expected);
    }
}
