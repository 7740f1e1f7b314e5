//! THREAT_MODEL.md keeps its word: every test it names exists.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

#[test]
fn every_cannot_names_a_test_that_exists() {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let model = fs::read_to_string(here.join("../THREAT_MODEL.md")).expect("THREAT_MODEL.md");
    let named: BTreeSet<_> = model
        .split('`')
        .skip(1)
        .step_by(2)
        .filter_map(|quoted| quoted.split_once("::"))
        .filter(|named| *named != ("file", "name"))
        .collect();
    assert!(named.len() > 40, "only {} tests named: has the page changed its form?", named.len());
    for (file, name) in named {
        let folder = if file.contains('/') { here.join("..") } else { here.join("tests/core") };
        let path = folder.join(file).with_extension("rs");
        let text =
            fs::read_to_string(&path).unwrap_or_else(|_| panic!("{} is missing", path.display()));
        // Its attributes stand between it and the blank line before.
        let before = text.split_once(&format!("fn {name}()")).map(|(before, _)| before);
        let attributes = before.and_then(|before| before.rsplit("\n\n").next());
        let forms = ["#[test]", "#[tokio::test"];
        let is_test = attributes.is_some_and(|them| forms.iter().any(|form| them.contains(form)));
        assert!(is_test, "{file}::{name} is no test");
    }
}

#[test]
fn every_row_of_a_cannot_table_names_a_test() {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let model = fs::read_to_string(here.join("../THREAT_MODEL.md")).expect("THREAT_MODEL.md");
    let rows = model.lines().filter(|line| line.starts_with("| ") && !line.starts_with("| cannot"));
    for row in rows {
        let cells: Vec<_> = row.trim_matches('|').split(" | ").map(str::trim).collect();
        assert_eq!(cells.len(), 2, "{row}");
        let shows = |quoted: &str| quoted.contains("::") || quoted.starts_with("cargo xtask ");
        assert!(cells[1].split('`').skip(1).step_by(2).any(shows), "nothing shows: {row}");
    }
}
