//! What is shipped: an enclave that cannot attest with a simulated chip, and a command line that
//! cannot be talked into one. The enclave is the release image's; the command line is built here,
//! without the features of development.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;

/// What only the simulated chip says.
const TRACES: [&str; 3] = ["KEYFOLD_SIMULATED_CHIP", "SIMULATED", "vcek.key.pk8"];

/// Builds the command line with its default features, apart from the programs of the other tests. Features
/// make the difference here, not optimisation: what it has in common with those is not built again.
fn command_line() -> PathBuf {
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().expect("the target folder");
    let apart = target.join("release-check");
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let status = Command::new(cargo)
        .args([
            "build",
            "--locked",
            "--profile",
            "fast",
            "--package",
            "keyfold",
            "--bin",
            "keyfold",
        ])
        .current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace"))
        .env("CARGO_BUILD_BUILD_DIR", target)
        .env("CARGO_TARGET_DIR", &apart)
        .status()
        .expect("cargo runs");
    assert!(status.success(), "keyfold does not build without the features of development");
    apart.join("fast/keyfold")
}

/// The program of development, beside which the other tests are built.
fn development(program: &str) -> PathBuf {
    let here = std::env::current_exe().expect("a test knows its program");
    let path = here.ancestors().nth(2).expect("<profile>/deps/<test>").join(program);
    assert!(path.is_file(), "{} is missing: `cargo xtask build` makes it", path.display());
    path
}

fn run(program: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(program);
    // A chip that is on offer changes nothing.
    command.args(arguments).env("KEYFOLD_SIMULATED_CHIP", env!("CARGO_TARGET_TMPDIR"));
    command.stdin(std::process::Stdio::null()).output().expect("it runs")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn contains(program: &[u8], trace: &str) -> bool {
    program.windows(trace.len()).any(|window| window == trace.as_bytes())
}

#[test]
fn a_shipped_enclave_attests_with_the_processor_or_not_at_all() {
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().expect("the target folder");
    let shipped = target.join("image/bare/keyfold-enclave");
    assert!(
        shipped.is_file(),
        "{} is missing: `cargo xtask test image` makes it",
        shipped.display()
    );
    let simulated = development("keyfold-enclave");
    assert!(text(&run(&shipped, &["--version"]).stdout).trim_end().ends_with("(snp)"));
    assert!(text(&run(&simulated, &["--version"]).stdout).contains("SIMULATED"));
    let [shipped_bytes, simulated_bytes] =
        [&shipped, &simulated].map(|program| std::fs::read(program).expect("a program"));
    for trace in TRACES {
        assert!(!contains(&shipped_bytes, trace), "{trace} is in the shipped enclave");
    }
    // The search would find them.
    assert!(TRACES.iter().all(|trace| contains(&simulated_bytes, trace)));

    let ways = ["/sys/kernel/config/tsm/report", "/dev/sev-guest"];
    if ways.iter().any(|way| Path::new(way).exists()) {
        return;
    }
    let refused = run(&shipped, &["pipe"]);
    assert_eq!(refused.status.code(), Some(1));
    assert!(refused.stdout.is_empty(), "it said something to the host");
    let why = text(&refused.stderr);
    assert!(why.contains("no SEV-SNP guest"), "it does not say what is missing: {why}");
}

/// As any other, it would mount over the folders of a whole machine and forbid it its modules.
#[test]
fn an_enclave_is_the_first_process_of_a_machine_or_does_nothing() {
    let enclave = development("keyfold-enclave");
    // Without the right to do it, in case it tries.
    let powerless = ["--bounding-set=-all", "--inh-caps=-all"];
    let mut command = Command::new("setpriv");
    command.args(powerless).arg(&enclave).args(["machine", "5000"]);
    let mut refused = command.output().expect("setpriv runs");
    if text(&refused.stderr).contains("setpriv:") {
        // Whoever may not give rights up has none.
        refused = run(&enclave, &["machine", "5000"]);
    }
    assert_eq!(refused.status.code(), Some(1));
    let why = text(&refused.stderr);
    assert!(why.contains("not the first process of a machine"), "{why}");
}

#[test]
fn a_shipped_command_line_knows_neither_the_dev_cloud_nor_its_chip() {
    let shipped = command_line();
    let folder = tempfile::tempdir().expect("a folder");
    let path = |name: &str| folder.path().join(name).display().to_string();
    let (home, description) = (path("home"), path("deployment.toml"));
    let keyfold = |arguments: &[&str]| {
        let output =
            run(&shipped, &[&["--home", &home, "--json", "--no-input"], arguments].concat());
        let error = serde_json::from_slice::<Value>(&output.stderr).unwrap_or_default();
        (output.status.code(), error["error"]["code"].clone(), text(&output.stdout))
    };
    let key = |name: &str| {
        let (exit, _, out) = keyfold(&["policy", "key", "--out", &path(name)]);
        assert_eq!(exit, Some(0));
        let printed: Value = serde_json::from_str(&out).expect("JSON");
        printed["key"].as_str().expect("a key").to_owned()
    };
    let (one, two, root) = (key("one.pk8"), key("two.pk8"), path("root.json"));
    let trust_root = ["policy", "trust-root", "--key", &one, "--key", &two, "--out", &root];
    // One key alone is for development.
    assert_eq!(keyfold(&[&trust_root[..], &["--threshold", "1"]].concat()).0, Some(2));
    assert_eq!(keyfold(&[&trust_root[..], &["--threshold", "2"]].concat()).0, Some(0));

    // It signs nobody in at a dev cloud, and talks to no host without TLS.
    assert_eq!(keyfold(&["--as", "alice", "status"]).0, Some(2));
    std::fs::write(path("passphrase"), "opens this device only").expect("a file");
    restrict(Path::new(&path("passphrase")));
    let enroll = ["enroll", "--deployment", "http://127.0.0.1:9", "--trust-root", &root];
    let passphrase = ["--passphrase-file", &path("passphrase")];
    let (exit, code, _) = keyfold(&[&enroll[..], &passphrase].concat());
    assert_eq!((exit, code), (Some(7), "deployment-url".into()));

    // It signs no statement that accepts a simulated chip; the same one with a real one it does.
    let sign = ["policy", "sign", "--deployment", &description, "--trust-root", &root];
    let keys = ["--key", &path("one.pk8"), "--key", &path("two.pk8")];
    let out = ["--out", &path("statement.json")];
    let sign = [&sign[..], &keys, &out].concat();
    for (text, expected) in [(simulated(), Some(2)), (DIRECT.to_owned(), Some(0))] {
        std::fs::write(&description, &text).expect("a file");
        assert_eq!(keyfold(&sign).0, expected, "{text}");
    }
}

fn restrict(path: &Path) {
    use std::os::unix::fs::PermissionsExt;
    let mode = std::fs::Permissions::from_mode(0o600);
    std::fs::set_permissions(path, mode).expect("its owner's alone");
}

/// A deployment of images on real chips.
const DIRECT: &str = include_str!("../../attestation-policy/tests/deployment/deployment.toml");

/// The same of a simulated one.
fn simulated() -> String {
    let (statement, _) = DIRECT.split_once("[[statement.workloads]]").expect("workloads");
    let (_, key_release) = DIRECT.split_once("[key_release]").expect("a key release");
    format!("{statement}{SIMULATED}\n[key_release]{key_release}")
}

const SIMULATED: &str = r#"
[[statement.workloads]]
profile = "simulated"
ark_sha256 = "3333333333333333333333333333333333333333333333333333333333333333"
measurement = "333333333333333333333333333333333333333333333333333333333333333333333333333333333333333333333333"
"#;
