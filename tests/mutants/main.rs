//! Shows that each check of the core, of the evidence and of the client matters: takes one away, and
//! expects its test to fail.
//!
//! `cargo run -p keyfold-tests --bin mutants [-- NAME..]` works on a copy of the workspace under
//! `target/mutants`, builds it once, sees every named test pass, then applies the mutants of
//! `mutants.toml` one at a time. A mutant whose test still passes is a missing test.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::Instant;
use std::{env, fs, io};

use serde::Deserialize;

/// The checked-in table.
#[derive(Deserialize)]
struct Table {
    mutant: Vec<Mutant>,
}

/// One check taken away.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Mutant {
    /// What the core does no more.
    name: String,
    /// Of the file, from the root of the workspace.
    file: String,
    /// Text that stands in the file exactly once.
    find: String,
    /// What stands there instead.
    replace: String,
    /// The same in a second file, where two parties must agree on the weaker form.
    also: Option<Edit>,
    /// Where its test stands.
    #[serde(default)]
    suite: Suite,
    /// `module::test` in that suite.
    test: String,
    /// What the failure must show: the row of the table, or the compiler's error.
    shows: Option<String>,
    /// How it must fail.
    #[serde(default)]
    expect: Expect,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Edit {
    file: String,
    find: String,
    replace: String,
}

#[derive(Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Expect {
    /// The test fails.
    #[default]
    Fail,
    /// The core does not compile: the check is a proof that cannot be made up.
    Compile,
}

/// The tests that a mutant is shown to.
#[derive(Deserialize, Clone, Copy, Default, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
enum Suite {
    /// `tests/tests/core`.
    #[default]
    Core,
    /// The unit tests of `tools/client`.
    Client,
}

impl Suite {
    const ALL: [Self; 2] = [Self::Core, Self::Client];

    fn arguments(self) -> &'static [&'static str] {
        match self {
            Self::Core => &["-p", "keyfold-tests", "--test", "core"],
            Self::Client => &["-p", "keyfold-client", "--lib"],
        }
    }
}

enum Verdict {
    Killed,
    Survived,
    /// It fails, but not as the table says.
    Otherwise(String),
}

fn main() -> ExitCode {
    match run() {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("mutants: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<bool, String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace");
    let table = fs::read_to_string(root.join("tests/mutants/mutants.toml"));
    let table: Table = toml::from_str(&table.map_err(text)?).map_err(text)?;
    let named: BTreeSet<String> = env::args().skip(1).collect();
    let chosen: Vec<&Mutant> = table
        .mutant
        .iter()
        .filter(|mutant| named.is_empty() || named.contains(&mutant.name))
        .collect();
    if chosen.is_empty() {
        return Err("no mutant of that name".to_owned());
    }

    let copy = Workspace::copy(root)?;
    for mutant in &chosen {
        copy.edits(mutant)?;
    }
    copy.baseline(&chosen)?;
    let mut as_expected = 0;
    for mutant in &chosen {
        let start = Instant::now();
        let verdict = copy.try_mutant(mutant)?;
        let (word, detail) = match &verdict {
            Verdict::Killed => ("killed", ""),
            Verdict::Survived => ("SURVIVED", ""),
            Verdict::Otherwise(how) => ("OTHERWISE", how.as_str()),
        };
        let seconds = start.elapsed().as_secs();
        println!("{word:9} {seconds:3} s  {}  ({}) {detail}", mutant.name, mutant.test);
        as_expected += usize::from(matches!(verdict, Verdict::Killed));
    }
    println!("{as_expected} of {} mutants killed", chosen.len());
    Ok(as_expected == chosen.len())
}

/// A copy of the workspace that can be broken.
struct Workspace {
    root: PathBuf,
    target: PathBuf,
}

impl Workspace {
    fn copy(from: &Path) -> Result<Self, String> {
        let work = from.join("target/mutants");
        let (root, target) = (work.join("workspace"), work.join("target"));
        let (mut wanted, mut present) = (BTreeSet::new(), BTreeSet::new());
        files(from, Path::new(""), &mut wanted).map_err(text)?;
        if root.exists() {
            files(&root, Path::new(""), &mut present).map_err(text)?;
        }
        for stale in present.difference(&wanted) {
            fs::remove_file(root.join(stale)).map_err(text)?;
        }
        for file in &wanted {
            let content = fs::read(from.join(file)).map_err(text)?;
            write_changed(&root.join(file), &content)?;
        }
        Ok(Self { root, target })
    }

    /// The edits of a mutant: file, content before, content after.
    fn edits(&self, mutant: &Mutant) -> Result<Vec<(PathBuf, String, String)>, String> {
        let Mutant { file, find, replace, also, .. } = mutant;
        let first = (file, find, replace);
        let second = also.iter().map(|edit| (&edit.file, &edit.find, &edit.replace));
        let edit = |(file, find, replace): (&String, &String, &String)| {
            let path = self.root.join(file);
            let before = fs::read_to_string(&path).map_err(text)?;
            match before.matches(find.as_str()).count() {
                1 => {
                    let after = before.replacen(find.as_str(), replace, 1);
                    Ok((path, before, after))
                }
                count => Err(format!("{}: stands {count} times in {file}", mutant.name)),
            }
        };
        std::iter::once(first).chain(second).map(edit).collect()
    }

    /// Every named test passes while nothing is broken.
    fn baseline(&self, mutants: &[&Mutant]) -> Result<(), String> {
        for suite in Suite::ALL {
            let of_suite = mutants.iter().filter(|mutant| mutant.suite == suite);
            let tests: BTreeSet<&str> = of_suite.map(|mutant| mutant.test.as_str()).collect();
            if tests.is_empty() {
                continue;
            }
            let passed = format!("test result: ok. {} passed", tests.len());
            match self.test(suite, &tests) {
                (true, output) if output.contains(&passed) => {}
                (_, output) => return Err(format!("unbroken, the tests do not pass:\n{output}")),
            }
        }
        Ok(())
    }

    fn try_mutant(&self, mutant: &Mutant) -> Result<Verdict, String> {
        let edits = self.edits(mutant)?;
        for (path, _, after) in &edits {
            fs::write(path, after).map_err(text)?;
        }
        let (passed, output) = self.test(mutant.suite, &BTreeSet::from([mutant.test.as_str()]));
        for (path, before, _) in &edits {
            fs::write(path, before).map_err(text)?;
        }
        let failure = match mutant.expect {
            Expect::Fail => "test result: FAILED",
            Expect::Compile => "could not compile `keyfold-trusted`",
        };
        let shows = mutant.shows.as_deref().unwrap_or_default();
        Ok(match (passed, output.contains(failure), output.contains(shows)) {
            (true, ..) => Verdict::Survived,
            (false, true, true) => Verdict::Killed,
            (false, true, false) => Verdict::Otherwise(format!("does not show {shows:?}")),
            (false, false, _) => Verdict::Otherwise(output),
        })
    }

    /// Builds and runs tests: whether all passed, and what was said.
    fn test(&self, suite: Suite, tests: &BTreeSet<&str>) -> (bool, String) {
        let run = Command::new(env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned()))
            .arg("test")
            .args(suite.arguments())
            .args(["--", "--exact"])
            .args(tests)
            .current_dir(&self.root)
            .env("CARGO_TARGET_DIR", &self.target)
            .env("CARGO_PROFILE_DEV_DEBUG", "0")
            .env("RUST_BACKTRACE", "0")
            .output();
        match run {
            Ok(output) => {
                let said = [output.stdout, output.stderr].concat();
                (output.status.success(), String::from_utf8_lossy(&said).into_owned())
            }
            Err(error) => (false, format!("cargo does not start: {error}")),
        }
    }
}

/// Every file of the workspace but what is built or kept by git.
fn files(root: &Path, under: &Path, found: &mut BTreeSet<PathBuf>) -> io::Result<()> {
    for entry in fs::read_dir(root.join(under))? {
        let entry = entry?;
        let path = under.join(entry.file_name());
        let name = entry.file_name();
        if entry.file_type()?.is_dir() {
            if !["target", ".git", "node_modules"].iter().any(|skipped| name == *skipped) {
                files(root, &path, found)?;
            }
        } else if entry.file_type()?.is_file() {
            found.insert(path);
        }
    }
    Ok(())
}

/// Leaves a file alone that is as it should be: cargo looks at the time.
fn write_changed(path: &Path, content: &[u8]) -> Result<(), String> {
    if fs::read(path).is_ok_and(|present| present == content) {
        return Ok(());
    }
    fs::create_dir_all(path.parent().expect("a folder")).map_err(text)?;
    fs::write(path, content).map_err(text)
}

fn text(error: impl std::fmt::Display) -> String {
    error.to_string()
}
