//! The pages name files that exist, and link to headings that exist.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use regex::Regex;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// The pages of the project: those of `docs`, and those at its root.
fn pages() -> Vec<PathBuf> {
    let folders = [root(), root().join("docs"), root().join("models")];
    let files = folders.iter().flat_map(|folder| {
        let entries = std::fs::read_dir(folder).expect("a folder");
        entries.map(|entry| entry.expect("an entry").path())
    });
    files
        .filter(|path| path.extension().is_some_and(|extension| extension == "md"))
        .collect()
}

/// The anchors of a page's headings, as GitHub makes them.
fn anchors(page: &str) -> BTreeSet<String> {
    let headings = page.lines().filter(|line| line.starts_with('#'));
    let anchor = |heading: &str| -> String {
        let text = heading.trim_start_matches('#').trim().to_lowercase();
        let kept = text
            .chars()
            .filter(|c| c.is_alphanumeric() || "_- ".contains(*c));
        kept.map(|c| if c == ' ' { '-' } else { c }).collect()
    };
    headings.map(anchor).collect()
}

#[test]
fn files_and_headings_that_pages_name_exist() {
    let named =
        Regex::new(r"`((?:crates|tests|proto|fuzz|benches|models|docs)/[\w./-]+\.\w+)`").unwrap();
    let linked = Regex::new(r"\]\(([^)#\s]*)(?:#([^)\s]+))?\)").unwrap();
    let mut faults = Vec::new();
    for path in pages() {
        let page = std::fs::read_to_string(&path).expect("a page");
        let mut fault = |what: &str| faults.push(format!("{}: {what}", path.display()));
        for found in named.captures_iter(&page) {
            if !root().join(&found[1]).exists() {
                fault(&found[1]);
            }
        }
        for found in linked.captures_iter(&page) {
            let target = match &found[1] {
                "" => path.clone(),
                file if file.starts_with("http") => continue,
                file => path.parent().expect("a folder").join(file),
            };
            match (std::fs::read_to_string(&target), found.get(2)) {
                (Err(_), _) => fault(&found[0]),
                (Ok(text), Some(anchor)) if !anchors(&text).contains(anchor.as_str()) => {
                    fault(&found[0]);
                }
                _ => (),
            }
        }
    }
    assert!(faults.is_empty(), "{faults:#?}");
}
