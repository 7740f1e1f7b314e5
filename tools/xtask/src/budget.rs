//! What an auditor has to read and trust, counted.

mod dependencies;
mod source;

use anyhow::{Result, bail};

use crate::shell;
use source::Count;

/// Code lines of `trusted/src` and `protocol/src` together, without comments, blank lines and lines
/// of nothing but closing brackets.
const LINES: usize = 2_500;
/// Code lines of a function.
const FUNCTION: usize = 60;
/// Crates linked into the library, itself and the protocol included, without procedural macros.
const LIBRARY_CRATES: usize = 35;
/// The same for the binary.
const BINARY_CRATES: usize = 60;

/// One line of the report: what, how much, how much at most.
struct Row {
    what: String,
    found: usize,
    limit: usize,
}

/// Prints the counts; fails when one is past its budget.
pub(crate) fn run(update: bool) -> Result<()> {
    let root = shell::root();
    let folders = ["trusted/src", "protocol/src"];
    let counts = folders.map(|folder| source::count(&root.join(folder)));
    let mut total = Count::default();
    let mut rows = Vec::new();
    for (folder, count) in folders.into_iter().zip(counts) {
        let count = count?;
        rows.push(Row { what: format!("  {folder}"), found: count.lines, limit: LINES });
        total.add(count);
    }
    rows.insert(0, Row { what: "code lines".into(), found: total.lines, limit: LINES });
    let (longest, name) = total.longest.clone();
    rows.push(Row { what: format!("longest function ({name})"), found: longest, limit: FUNCTION });
    rows.push(Row { what: "unsafe".into(), found: total.unsafe_words, limit: 0 });
    rows.push(Row { what: "panicking calls".into(), found: total.panicking, limit: 0 });

    let library = dependencies::linked(&["--no-default-features"])?;
    let binary = dependencies::linked(&["--features", "enclave"])?;
    rows.push(Row {
        what: "crates in the library".into(),
        found: library.len(),
        limit: LIBRARY_CRATES,
    });
    rows.push(Row {
        what: "crates in the binary".into(),
        found: binary.len(),
        limit: BINARY_CRATES,
    });

    for Row { what, found, limit } in &rows {
        let verdict = if found <= limit { "ok" } else { "OVER BUDGET" };
        println!("{what:<44} {found:>6} of {limit:>5}  {verdict}");
    }
    println!(
        "A code line has something to read: comments, blank lines and lone closing brackets are none. \
         With those brackets\nthere are {}.",
        total.with_brackets
    );
    total.offences.iter().for_each(|offence| println!("  {offence}"));
    dependencies::check(&library, &binary, update)?;
    if rows.iter().any(|row| row.found > row.limit) {
        bail!("past the budget: the trusted core has to stay readable in an afternoon");
    }
    Ok(())
}
