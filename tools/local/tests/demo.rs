//! The demo as people stop it: whatever it started ends with it.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

/// A demo in a folder of its own; killed when dropped.
struct Demo {
    child: Child,
    folder: PathBuf,
    told: BufReader<ChildStderr>,
}

impl Demo {
    fn start(name: &str, arguments: &[&str]) -> Self {
        let target = Path::new(env!("CARGO_TARGET_TMPDIR"));
        let folder = target.join(name);
        let mut demo = Command::new(env!("CARGO_BIN_EXE_keyfold-demo"));
        demo.arg("--json").arg("--dir").arg(&folder).args(arguments);
        demo.arg("--key-cache").arg(target.join("dev-cloud-keys"));
        let mut child = demo.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let told = BufReader::new(child.stderr.take().unwrap());
        Self { child, folder, told }
    }

    /// Waits until `done`, two minutes at most.
    fn wait(&mut self, what: &str, done: impl Fn(&Self) -> bool) {
        let deadline = Instant::now() + Duration::from_secs(120);
        while !done(self) {
            assert!(Instant::now() < deadline, "waited for {what}: {:?}", self.programs());
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Dev cloud, host and enclave: who was started with something of the folder.
    fn programs(&self) -> Vec<String> {
        let folder = self.folder.display().to_string();
        let names = ["keyfold-dev-cloud", "keyfold-host", "keyfold-enclave"];
        let program = |process: PathBuf| {
            let name = std::fs::read_link(process.join("exe")).ok()?;
            let name = name.file_name()?.to_str()?.to_owned();
            let told = ["cmdline", "environ"].map(|file| std::fs::read(process.join(file)));
            let is_ours = told
                .into_iter()
                .flatten()
                .any(|bytes| String::from_utf8_lossy(&bytes).contains(&folder));
            (is_ours && names.contains(&name.as_str())).then_some(name)
        };
        let processes = std::fs::read_dir("/proc").unwrap().flatten();
        processes.filter_map(|process| program(process.path())).collect()
    }

    /// Sends SIGTERM; exit status, and the rest of what it said.
    fn stop(&mut self) -> (Option<i32>, String) {
        kill(Pid::from_raw(self.child.id().try_into().unwrap()), Signal::SIGTERM).unwrap();
        let mut said = String::new();
        std::io::Read::read_to_string(&mut self.told, &mut said).unwrap();
        (self.child.wait().unwrap().code(), said)
    }
}

impl Drop for Demo {
    fn drop(&mut self) {
        // Gone already, as it should be.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn nothing_outlives_a_demo_that_is_stopped() {
    let mut demo = Demo::start("demo-kept", &["--keep"]);
    let mut by_hand = String::new();
    while !by_hand.contains("Ctrl-c stops everything.") {
        assert!(demo.told.read_line(&mut by_hand).unwrap() > 0, "it ended: {by_hand}");
    }
    assert_eq!(demo.programs().len(), 3, "{:?}", demo.programs());
    for options in ["create.json", "sign-in.json"] {
        let path = demo.folder.join(options);
        assert!(by_hand.contains(&path.display().to_string()), "{by_hand}");
        let options = std::fs::read(path).unwrap();
        assert!(serde_json::from_slice::<Value>(&options).unwrap()["challenge"].is_string());
    }
    assert_eq!(demo.stop(), (Some(0), String::new()));
    demo.wait("the end of its programs", |demo| demo.programs().is_empty());

    // In the middle of the story, too.
    let mut demo = Demo::start("demo-stopped", &[]);
    demo.wait("its programs", |demo| demo.programs().len() == 3);
    let (exit, said) = demo.stop();
    let error = &serde_json::from_str::<Value>(&said).expect("one JSON object")["error"];
    assert_eq!((exit, &error["code"]), (Some(1), &"demo-failed".into()));
    assert!(error["message"].as_str().unwrap().contains("stopped"), "{error}");
    demo.wait("the end of its programs", |demo| demo.programs().is_empty());
}

#[test]
fn what_is_wrong_is_one_object_and_names_no_logs_that_are_not_there() {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("demo-of-somebody-else");
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join("precious"), "").unwrap();
    for (arguments, exit, code) in [(&["--typo"][..], 2, "usage"), (&[], 1, "demo-failed")] {
        let mut demo = Demo::start("demo-of-somebody-else", arguments);
        let mut said = String::new();
        std::io::Read::read_to_string(&mut demo.told, &mut said).unwrap();
        let error = &serde_json::from_str::<Value>(&said).expect("one JSON object")["error"];
        assert_eq!(demo.child.wait().unwrap().code(), Some(exit));
        assert_eq!((&error["code"], &error["exit"]), (&code.into(), &exit.into()));
        assert!(!error["message"].as_str().unwrap().contains("Logs"), "{error}");
    }
    assert!(folder.join("precious").is_file());
}
