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
        let folder = if file.contains('/') { here.join("..") } else { here.join("tests") };
        let path = folder.join(file).with_extension("rs");
        let text =
            fs::read_to_string(&path).unwrap_or_else(|_| panic!("{} is missing", path.display()));
        let forms = ["#[test]\nfn ", "#[tokio::test]\nasync fn "];
        let is_there = forms.iter().any(|form| text.contains(&format!("{form}{name}()")));
        assert!(is_there, "{file}::{name} is no test");
    }
}

#[test]
fn every_row_of_a_cannot_table_names_something() {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let model = fs::read_to_string(here.join("../THREAT_MODEL.md")).expect("THREAT_MODEL.md");
    let rows = model.lines().filter(|line| line.starts_with("| ") && !line.starts_with("| cannot"));
    for row in rows {
        let cells: Vec<_> = row.trim_matches('|').split(" | ").map(str::trim).collect();
        assert_eq!(cells.len(), 2, "{row}");
        assert!(!cells[1].is_empty(), "nothing shows: {row}");
    }
}
