//! Programs of other languages that tests talk to, a line of JSON in, a line of JSON out, and how their
//! packages are installed. One that cannot be installed or started fails its test: none is skipped.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use serde_json::Value;

/// A running program; killed when dropped.
pub struct Program {
    child: Child,
    to: ChildStdin,
    from: BufReader<ChildStdout>,
}

impl Program {
    /// Starts it; what it says on standard error goes to the terminal.
    pub fn start(command: &mut Command) -> Self {
        let child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
        let mut child = child.unwrap_or_else(|error| panic!("{command:?}: {error}"));
        let to = child.stdin.take().expect("a pipe");
        let from = BufReader::new(child.stdout.take().expect("a pipe"));
        Self { child, to, from }
    }

    /// Its answer to a question.
    pub fn ask(&mut self, question: &Value) -> Value {
        writeln!(self.to, "{question}").expect("the program listens");
        let mut line = String::new();
        self.from.read_line(&mut line).expect("the program answers");
        serde_json::from_str(&line).expect("the program answers in JSON; its errors are above")
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // Gone already, perhaps.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Makes `target/name` with `make`, once per content of `files`; tests that run at the same time wait.
pub fn install(target: &Path, name: &str, files: &[PathBuf], make: impl FnOnce(&Path)) -> PathBuf {
    let folder = target.join(name);
    fs::create_dir_all(&folder).expect("a folder under the target folder");
    let lock = File::create(target.join(format!("{name}.lock"))).expect("a lock");
    lock.lock().expect("the lock");
    let mark = folder.join("installed");
    let content = |file: &PathBuf| fs::read(file).expect("a file of the program");
    let wanted = files.iter().flat_map(content).collect::<Vec<u8>>();
    if fs::read(&mark).unwrap_or_default() != wanted {
        make(&folder);
        fs::write(mark, wanted).expect("the mark");
    }
    folder
}

/// Installs a Node.js program, `program` beside its package.json and lock file in `source`, with the
/// exact packages of its lock file.
pub fn install_node(target: &Path, name: &str, source: &Path, program: &str) -> PathBuf {
    let names = ["package.json", "package-lock.json", program];
    let files = names.map(|name| source.join(name));
    install(target, name, &files, |folder| {
        // Node looks for packages beside the program.
        for (file, name) in files.iter().zip(names) {
            fs::copy(file, folder.join(name)).expect("a file of the program");
        }
        let arguments = ["ci", "--no-audit", "--no-fund", "--ignore-scripts"];
        run(Command::new("npm").args(arguments).current_dir(folder));
    })
}

/// Runs an installer to its end.
pub fn run(command: &mut Command) {
    let status = command.status().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(status.success(), "{command:?} ended with {status}: is its registry reachable?");
}
