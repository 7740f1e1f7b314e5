//! The enclave where it belongs: in a machine that holds nothing else, reached over vsock. The image is
//! the development image, made as the release image is; QEMU starts it without SEV-SNP.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use keyfold_image::command_line::PORT;
use keyfold_local::{Deployment, Machine, Options, Place};
use serde_json::{Value, json};

use crate::common;
use crate::device::{Device, PIN};
use crate::operations::kill;
use crate::recovery::Scene;
use crate::relying_party::{ES256, RelyingParty};

/// How long a machine may take to come up on a slow computer.
const PATIENCE: Duration = Duration::from_secs(60);
/// A frame that is no request, and what every enclave says to it.
const NO_REQUEST: &[u8] = &[1, 0, 0, 0, 0xff];
const REFUSED_MALFORMED: &[u8] = &[2, 0, 0, 0, 8, 0];

/// An image that a step of the test command has built.
fn image(name: &str) -> PathBuf {
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().expect("the target folder");
    let folder = target.join("image").join(name);
    let is_built = folder.join("initrd").is_file();
    assert!(is_built, "{} is missing: `cargo xtask test image` makes it", folder.display());
    folder
}

async fn deployment(
    name: &str, enclaves: usize, cpus: u8, clock: Option<&'static str>,
) -> Deployment {
    let machine = Machine { image: image("development"), cpus, clock };
    let options = Options { enclaves, place: Place::Machine(machine), ..Options::default() };
    common::deployment_with(name, options).await
}

/// A connection to a port of the machine, once it is served.
fn connect(deployment: &Deployment, port: u32) -> UnixStream {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Ok(stream) = deployment.machine_port(port) {
            stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
            return stream;
        }
        assert!(Instant::now() < deadline, "nobody serves port {port}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// What a new link of this port answers to a frame that is no request.
fn answer(deployment: &Deployment, port: u32) -> Vec<u8> {
    let mut stream = connect(deployment, port);
    stream.write_all(NO_REQUEST).expect("it is read");
    let mut answer = vec![0; REFUSED_MALFORMED.len()];
    stream.read_exact(&mut answer).expect("an answer");
    answer
}

#[tokio::test]
async fn the_whole_story_is_told_with_the_enclave_in_a_machine() {
    let folder = common::fresh_folder("e2e-machine-story");
    let mut command = Command::new(common::programs().join("keyfold-demo"));
    command.arg("--json").arg("--dir").arg(&folder).arg("--image").arg(image("development"));
    command.arg("--key-cache").arg(Path::new(env!("CARGO_TARGET_TMPDIR")).join("dev-cloud-keys"));
    let told = command.output().expect("the demo runs: `cargo xtask build` makes it");
    let error = String::from_utf8_lossy(&told.stderr);
    assert!(told.status.success(), "{error}; see {}", folder.display());
    let story: Value = serde_json::from_slice(&told.stdout).expect("one JSON object");
    assert!(story["steps"].as_array().expect("steps").len() > 12, "{story}");
    let console = std::fs::read_to_string(folder.join("machine/console.log")).expect("a console");
    assert!(console.contains("serving, platform SIMULATED: protects nothing"), "{console}");
}

#[tokio::test]
async fn a_machine_that_is_killed_comes_back_and_nobody_has_to_do_anything() {
    let clock = Some("2031-05-01T00:00:00");
    let mut scene = Scene::of(deployment("e2e-machine-killed", 2, 2, clock).await);
    let laptop = scene.laptop.clone();
    // Several processors serve several links, each with keys of its own; and what the clock in the
    // machine shows is nobody's business.
    let keys = channel_keys(&scene.deployment).await;
    assert!(keys.len() == 2 && keys[0] != keys[1], "{keys:?}");
    for _ in 0..2 {
        let asked = scene.site.authenticate(&scene.credential, "required", json!({}));
        let options = asked.options.clone();
        let device = laptop.clone();
        let signing_in = std::thread::spawn(move || device.sign_in(&options));
        std::thread::sleep(Duration::from_millis(30));
        kill(machine(&scene.deployment));
        let response = signing_in.join().expect("it waits for the machine and ends");
        scene.site.finish(&asked, &response).expect("accepted");
        scene.deployment.wait_until_ready().await.expect("ready again");
    }
    let after = channel_keys(&scene.deployment).await;
    assert!(after.iter().all(|key| !keys.contains(key)), "{keys:?}, then {after:?}");
}

async fn channel_keys(deployment: &Deployment) -> Vec<String> {
    let answer = reqwest::get(format!("{}/readyz", deployment.admin_url)).await.expect("an answer");
    let state: Value = answer.json().await.expect("JSON");
    let enclaves = state["enclaves"].as_array().expect("enclaves").iter();
    enclaves.map(|enclave| enclave["channel_key"].as_str().expect("a key").to_owned()).collect()
}

/// The process that is the machine.
fn machine(deployment: &Deployment) -> i32 {
    let children = deployment.beside.first().expect("a machine").children().expect("it runs");
    let is_machine = |id: &i32| {
        let name = std::fs::read_to_string(format!("/proc/{id}/comm")).unwrap_or_default();
        name.starts_with("qemu")
    };
    children.into_iter().find(is_machine).expect("QEMU")
}

#[tokio::test]
async fn garbage_on_a_port_ends_that_link_alone() {
    let mut scene = Scene::of(deployment("e2e-machine-garbage", 1, 2, None).await);
    let laptop = scene.laptop.clone();
    // The link that the host has not taken.
    let port = PORT + 1;
    assert_eq!(answer(&scene.deployment, port), REFUSED_MALFORMED);
    let mut random = fastrand::Rng::with_seed(1);
    for round in 0..4 {
        let mut garbage = vec![0xff; 1 << 16];
        if round > 0 {
            random.fill(&mut garbage);
        }
        let mut stream = connect(&scene.deployment, port);
        // It may be gone before it has read all of it.
        let _ = stream.write_all(&garbage);
        let mut rest = Vec::new();
        let _ = stream.read_to_end(&mut rest);
    }
    let again = answer(&scene.deployment, port);
    assert_eq!(again, REFUSED_MALFORMED, "another process has taken its place");
    for unserved in [PORT + 2, 22, u32::MAX] {
        assert!(scene.deployment.machine_port(unserved).is_err(), "port {unserved} is open");
    }
    scene.signs_in(&laptop);
    let log = std::fs::read_to_string(scene.deployment.folder.join("vm.log")).expect("a log");
    assert!(!log.contains("ended"), "the machine has gone on: {log}");
}

#[tokio::test]
async fn a_machine_keeps_no_name_and_no_pin() {
    let deployment = deployment("e2e-machine-memory", 1, 2, None).await;
    let laptop = Device::new("alice", "unmistakable-laptop", &deployment, &deployment.trust_root);
    laptop.enroll();
    let mut site = RelyingParty::webauthn_rs();
    let asked = site.register("unmistakable-user", &[ES256], "required", json!({}));
    site.finish(&asked, &laptop.create(&asked.options)).expect("accepted");
    let phone = Device::new("alice", "unmistakable-phone", &deployment, &deployment.trust_root);
    phone.recover(PIN);
    let names = phone.ok(&["passkeys", "list"]);
    assert!(names.to_string().contains("unmistakable-user"), "the enclave has read it: {names}");

    let mut monitor = Monitor::connect(&deployment.machine_folder());
    let control = "unmistakable-control";
    let secrets = ["unmistakable-user", "unmistakable-laptop", "unmistakable-phone", PIN, control];
    assert_eq!(monitor.find(&secrets), [false; 5], "of {secrets:?}");

    // That a scan would find them: a frame that has not wholly arrived, in the other link's process.
    let mut stream = connect(&deployment, PORT + 1);
    let frame = [&64_u32.to_le_bytes()[..], control.as_bytes()].concat();
    stream.write_all(&frame).expect("it is read");
    let deadline = Instant::now() + PATIENCE;
    while monitor.find(&[control]) != [true] {
        assert!(Instant::now() < deadline, "the scan finds nothing");
    }
    // And that a process leaves nothing when its link ends.
    drop(stream);
    let deadline = Instant::now() + PATIENCE;
    while monitor.find(&[control]) != [false] {
        assert!(Instant::now() < deadline, "what the link held is still there");
    }
}

/// QEMU's monitor, which reads the machine's memory as a host does that has no SEV-SNP to stop it.
struct Monitor {
    stream: BufReader<UnixStream>,
    dump: PathBuf,
}

/// `keyfold-vm`'s default.
const MEMORY: u64 = 192 << 20;

impl Monitor {
    fn connect(folder: &Path) -> Self {
        let stream = UnixStream::connect(folder.join("qmp")).expect("QEMU's monitor");
        let dump = std::path::absolute(folder.join("memory")).expect("a path");
        let mut monitor = Self { stream: BufReader::new(stream), dump };
        monitor.line();
        monitor.run(&json!({"execute": "qmp_capabilities"}));
        monitor
    }

    fn line(&mut self) -> Value {
        let mut line = String::new();
        self.stream.read_line(&mut line).expect("a line");
        serde_json::from_str(&line).unwrap_or_else(|_| panic!("{line}"))
    }

    fn run(&mut self, command: &Value) -> Value {
        writeln!(self.stream.get_mut(), "{command}").expect("it is read");
        loop {
            let said = self.line();
            assert!(said.get("error").is_none(), "{command}: {said}");
            if let Some(found) = said.get("return") {
                return found.clone();
            }
        }
    }

    fn is_running(&mut self) -> bool {
        self.run(&json!({"execute": "query-status"}))["running"] == true
    }

    fn read(&mut self, address: u64, size: u64) -> Vec<u8> {
        let arguments = json!({"val": address, "size": size, "filename": self.dump});
        self.run(&json!({"execute": "pmemsave", "arguments": arguments}));
        let memory = std::fs::read(&self.dump).expect("a dump");
        std::fs::remove_file(&self.dump).expect("removed");
        memory
    }

    /// Which of these are anywhere in the machine's memory.
    fn find(&mut self, texts: &[&str]) -> Vec<bool> {
        let memory = self.read(0, MEMORY);
        let is_in = |text: &&str| memchr::memmem::find(&memory, text.as_bytes()).is_some();
        texts.iter().map(is_in).collect()
    }
}

/// Killed when dropped.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// One life of a machine that no dev cloud knows: it ends when it finds no chip.
fn alone(image: &Path, folder: &Path) -> Command {
    let mut command = Command::new(common::programs().join("keyfold-vm"));
    command.arg("--once").arg("--image").arg(image).arg("--dir").arg(folder);
    command
}

/// What a machine says until it ends.
fn console(image: &Path, folder: &Path) -> String {
    let ended = alone(image, folder).output().expect("`cargo xtask build` makes it");
    String::from_utf8_lossy(&ended.stdout).into_owned()
}

/// The development image with another command line.
fn altered(folder: &Path, alter: impl FnOnce(String) -> String) -> PathBuf {
    let from = image("development");
    for name in ["vmlinuz", "initrd"] {
        std::os::unix::fs::symlink(from.join(name), folder.join(name)).expect("a link");
    }
    let words = std::fs::read_to_string(from.join("cmdline")).expect("a command line");
    std::fs::write(folder.join("cmdline"), alter(words)).expect("a command line");
    folder.to_owned()
}

#[test]
fn a_release_image_serves_nobody_without_sev_snp_and_says_so() {
    let folder = common::fresh_folder("e2e-machine-release");
    let console = console(&image("bare"), &folder);
    assert!(console.contains("this is no SEV-SNP guest"), "{console}");
    assert!(!console.contains("serving"), "{console}");
}

#[test]
fn a_machine_that_dies_prints_no_registers() {
    let folder = common::fresh_folder("e2e-machine-silent");
    let said = console(&image("development"), &folder);
    assert!(said.contains("vcek.key.pk8") && !said.contains("RIP"), "{said}");
    // It would be seen.
    let folder = common::fresh_folder("e2e-machine-talks");
    let talking = altered(&folder, |words| words.replacen("loglevel=0", "loglevel=7", 1));
    let said = console(&talking, &folder);
    assert!(said.contains("Kernel panic") && said.contains("RIP"), "{said}");
}

#[test]
fn what_the_kernel_leaves_out_is_there_to_be_left_out() {
    let folder = common::fresh_folder("e2e-machine-initcalls");
    let mut names = String::new();
    let everything = altered(&folder, |words| {
        let of_list = words.split_once("initcall_blacklist=").expect("a list").1;
        names = of_list.split(' ').next().expect("a list").to_owned();
        let words = words.replacen("initcall_blacklist", "nothing", 1);
        words.replacen("loglevel=0", "ignore_loglevel initcall_debug", 1)
    });
    let said = console(&everything, &folder);
    for name in names.split(',') {
        assert!(said.contains(&format!("calling  {name}+")), "{name} is no such function");
    }
}

/// An SSDT of `\_SB.EVIL._INI`, which the kernel runs at its start and which writes "!AML!ran" to
/// [`MARK`]. Compiled by iasl from: OperationRegion (MEM, SystemMemory, 0x80000, 0x10), a field of it
/// of two words, and a device of that name with a _HID and an _INI that stores them.
const SSDT: &str = "535344547c00000002124b4559464c444556494c0000000001000000494e544c250920205b804d454d5f\
                    000c000008000a105b81104d454d5f034d41524b204d4f52452010375c5f53425f5b822f4556494c08\
                    5f4849440d4b4559463030303100141a5f494e4900700c21414d4c4d41524b700c2172616e4d4f5245";
/// A page that neither kernel nor firmware uses.
const MARK: u64 = 0x8_0000;

/// Whether a host's ACPI program has run in a machine of this image.
fn runs_acpi_programs(image: &Path, folder: &Path) -> bool {
    let table = folder.join("ssdt.aml");
    std::fs::write(&table, hex::decode(SSDT).expect("hex")).expect("a table");
    let mut command = alone(image, folder);
    let table = format!("file={}", table.display());
    // It stays for its memory to be looked at.
    command.args(["--", "-no-shutdown", "-acpitable", &table]).stdout(Stdio::null());
    let _running = Running(command.spawn().expect("`cargo xtask build` makes it"));
    let deadline = Instant::now() + PATIENCE;
    while UnixStream::connect(folder.join("qmp")).is_err() {
        assert!(Instant::now() < deadline, "QEMU does not start");
        std::thread::sleep(Duration::from_millis(20));
    }
    let mut monitor = Monitor::connect(folder);
    while monitor.is_running() {
        assert!(Instant::now() < deadline, "the machine does not end");
        std::thread::sleep(Duration::from_millis(100));
    }
    monitor.read(MARK, 8) == b"!AML!ran"
}

#[test]
fn no_program_in_the_hosts_acpi_tables_is_run() {
    let folder = common::fresh_folder("e2e-machine-acpi");
    assert!(!runs_acpi_programs(&image("development"), &folder), "the host's program has run");
    // It would be seen.
    let folder = common::fresh_folder("e2e-machine-acpi-open");
    let open = altered(&folder, |words| words.replacen("=acpi_init,", "=", 1));
    assert!(runs_acpi_programs(&open, &folder), "the program does not run anywhere");
}
