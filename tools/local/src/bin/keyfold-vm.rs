//! `keyfold-vm`: boots an image under QEMU, again whenever it ends, with its vsock as a Unix socket.
//!
//! Where the processor has SEV-SNP, an operator starts the machine with it (tools/image/README.md says
//! how); this starts it without, for development and tests: nothing in it is confidential.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use clap::Parser;

/// Boots an image under QEMU, again whenever it ends. It protects nothing: the machine is not
/// confidential.
///
/// In DIR: `vsock`, the socket that a host connects to (transport = "hybrid-vsock"); `console.log`, what
/// the machine says; `qmp`, QEMU's monitor; `machine.log`, what the programs around it say; `booted`, the
/// image's initrd and the chip. One machine for each folder.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    /// Folder with vmlinuz, initrd and cmdline, as `cargo xtask image build` leaves them
    #[arg(long)]
    image: PathBuf,
    /// Where sockets and logs go
    #[arg(long, value_parser = without_comma)]
    dir: PathBuf,
    /// A dev cloud's chip, for a development image to attest with
    #[arg(long)]
    chip: Option<PathBuf>,
    /// Processors, and with them links
    #[arg(long, default_value_t = 1)]
    cpus: u8,
    /// Memory in MiB
    #[arg(long, default_value_t = 192)]
    memory: u32,
    /// What the machine's clock shows at its start, such as 2031-05-01T00:00:00
    #[arg(long)]
    clock: Option<String>,
    /// Let the processor run the machine (KVM) instead of emulating one: faster, where it works
    #[arg(long)]
    kvm: bool,
    /// Do not start it again: print what it said when it ends
    #[arg(long)]
    once: bool,
    /// What QEMU is told beside
    #[arg(last = true)]
    qemu: Vec<String>,
}

/// QEMU's options are lists with commas.
fn without_comma(path: &str) -> Result<PathBuf, &'static str> {
    if path.contains(',') { Err("QEMU takes no path with a comma") } else { Ok(path.into()) }
}

/// A machine that ends sooner has not come up: no hurry to start it again.
const SHORT: Duration = Duration::from_secs(2);
/// How long the vsock device may take to listen.
const PATIENCE: Duration = Duration::from_secs(10);
/// The machine's context id; each machine has a vsock device of its own.
const CID: u32 = 3;

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("keyfold-vm: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> Result<()> {
    let dir = &arguments.dir;
    fs::create_dir_all(dir).with_context(|| dir.display().to_string())?;
    let lock = File::create(dir.join("lock")).with_context(|| dir.display().to_string())?;
    lock.try_lock().with_context(|| format!("{} is another machine's", dir.display()))?;
    let machine = Machine::new(arguments)?;
    // An earlier run's.
    let _ = fs::remove_file(dir.join("console.log"));
    let processor = if arguments.kvm { "KVM" } else { "QEMU's emulation" };
    say(&format!("keyfold-vm: {processor} runs the machine; nothing in it is confidential\n"));
    loop {
        let started = Instant::now();
        let ended = machine.boot()?;
        let lived = started.elapsed();
        let log = dir.join(if lived < SHORT { "machine.log" } else { "console.log" });
        let more = log.display();
        say(&format!(
            "keyfold-vm: the machine ended ({ended}) after {lived:.1?}; {more} says more\n"
        ));
        if arguments.once {
            ensure!(ended.success(), "QEMU failed; {} says why", dir.join("machine.log").display());
            let console = dir.join("console.log");
            let said = fs::read(&console).with_context(|| console.display().to_string())?;
            say(&String::from_utf8_lossy(&said));
            return Ok(());
        }
        sleep(SHORT.saturating_sub(lived));
    }
}

/// To whoever still reads.
fn say(text: &str) {
    let _ = io::stdout().lock().write_all(text.as_bytes());
}

struct Machine<'a> {
    arguments: &'a Arguments,
    /// The image's, and the chip behind it.
    initrd: PathBuf,
    command_line: String,
}

impl<'a> Machine<'a> {
    fn new(arguments: &'a Arguments) -> Result<Self> {
        let read = |name: &str| {
            let path = arguments.image.join(name);
            fs::read(&path).with_context(|| {
                format!("{}: `cargo xtask image build` makes images", path.display())
            })
        };
        read("vmlinuz")?;
        let mut content = read("initrd")?;
        if let Some(chip) = &arguments.chip {
            content.extend(keyfold_image::initrd::chip_archive(chip)?);
        }
        // Not the name it has in an image's folder, which this may be.
        let initrd = arguments.dir.join("booted");
        fs::write(&initrd, content).with_context(|| initrd.display().to_string())?;
        let command_line = String::from_utf8(read("cmdline")?).context("cmdline is no text")?;
        Ok(Self { arguments, initrd, command_line })
    }

    /// One life of the machine.
    fn boot(&self) -> Result<std::process::ExitStatus> {
        let dir = &self.arguments.dir;
        let [device, socket, monitor] = ["vhost", "vsock", "qmp"].map(|name| dir.join(name));
        for path in [&device, &socket, &monitor] {
            let _ = fs::remove_file(path);
        }
        let mut vsock = bound_to_this("vhost-device-vsock");
        vsock.arg("--guest-cid").arg(CID.to_string());
        vsock.arg("--socket").arg(&device).arg("--uds-path").arg(&socket);
        let mut vsock = self.start(&mut vsock)?;
        let deadline = Instant::now() + PATIENCE;
        while !device.exists() {
            ensure!(vsock.0.try_wait()?.is_none(), "vhost-device-vsock ended; see machine.log");
            ensure!(Instant::now() < deadline, "vhost-device-vsock does not listen");
            sleep(Duration::from_millis(5));
        }
        let mut machine = self.start(&mut self.qemu(&device, &monitor))?;
        let ended = machine.0.wait()?;
        Ok(ended)
    }

    fn qemu(&self, device: &Path, monitor: &Path) -> Command {
        let Arguments { image, dir, cpus, memory, clock, kvm, .. } = self.arguments;
        let shown = |path: &Path| path.display().to_string();
        let mut qemu = bound_to_this("qemu-system-x86_64");
        qemu.args(["-nodefaults", "-no-user-config", "-no-reboot", "-display", "none"]);
        // QEMU 7.2 emulates cmpxchg16b wrongly now and then.
        let [accelerator, processor] = if *kvm { ["kvm", "max"] } else { ["tcg", "max,-cx16"] };
        qemu.args(["-accel", accelerator, "-cpu", processor]);
        qemu.args(["-smp", &cpus.to_string(), "-m", &format!("{memory}M")]);
        qemu.args(["-machine", "q35,memory-backend=ram"]);
        // Shared, because the vsock device's program reads and writes it.
        let ram = format!("memory-backend-memfd,id=ram,size={memory}M,share=on");
        qemu.args(["-object", &ram]);
        qemu.arg("-kernel").arg(image.join("vmlinuz")).arg("-initrd").arg(&self.initrd);
        qemu.args(["-append", self.command_line.trim()]);
        let console = format!("file,id=console,append=on,path={}", shown(&dir.join("console.log")));
        qemu.args(["-chardev", &console, "-serial", "chardev:console"]);
        qemu.args(["-chardev", &format!("socket,id=vsock,path={}", shown(device))]);
        qemu.args(["-device", "vhost-user-vsock-pci,chardev=vsock"]);
        qemu.args(["-qmp", &format!("unix:{},server=on,wait=off", shown(monitor))]);
        if let Some(clock) = clock {
            qemu.args(["-rtc", &format!("base={clock}")]);
        }
        qemu.args(&self.arguments.qemu);
        qemu
    }

    fn start(&self, command: &mut Command) -> Result<Killed> {
        let log = self.arguments.dir.join("machine.log");
        let log = File::options().create(true).append(true).open(&log)?;
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        command.spawn().map(Killed).context("cannot start setpriv")
    }
}

/// A program that the kernel kills when this one ends, however it ends.
fn bound_to_this(program: &str) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", program]);
    command
}

/// Killed when dropped.
struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
