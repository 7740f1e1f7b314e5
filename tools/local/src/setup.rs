//! Setting a deployment up: the operator's steps, in their order.

use std::fs;
use std::io::{self, BufRead, BufReader, Write};
use std::net::TcpListener;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use keyfold_attestation_policy::deployment::Deployment as Description;
use keyfold_attestation_policy::signing::{SigningKey, assemble_statement};
use keyfold_attestation_policy::trust_root::TrustRoot;
use keyfold_dev_cloud::Endpoints;
use keyfold_image::command_line::PORT;
use keyfold_image::initrd::ENCLAVE;
use keyfold_protocol::ids::Digest;
use keyfold_protocol::transcript::config_hash;
use reqwest::Method;
use serde_json::{Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::program::{Binaries, Program};

const NAME: &str = "keyfold-local";
/// Folder of the machine, where there is one.
const MACHINE: &str = "machine";
/// Tests and the bench change more in a minute than a person does.
const NO_LIMIT: u32 = 1_000_000;
const KEY_NAME: &str = "keyfold-root";
const CLIENT: &str = "keyfold";

/// What may differ between deployments on this machine.
#[derive(Clone, Debug)]
pub struct Options {
    /// Enclaves, each with a link of its own.
    pub enclaves: usize,
    /// "reports" or "always".
    pub fresh_read: &'static str,
    /// How long a ledger transaction waits for its receipt, in milliseconds.
    pub receipt_latency_ms: u64,
    /// Where RSA keys of dev clouds are kept between runs; spares each start some seconds.
    pub key_cache: Option<PathBuf>,
    /// Whether the root key's release policy stays as it is for good, as it should. Moving to another
    /// image needs one that can be extended.
    pub policy_is_immutable: bool,
    /// Where the enclaves are, and how the host reaches them.
    pub place: Place,
}

/// Where enclaves are.
#[derive(Clone, Debug)]
pub enum Place {
    /// Children of the host, on pipes.
    Children,
    /// Processes beside the host, on Unix sockets. Each serves one link and ends.
    Beside,
    /// In a virtual machine, over vsock.
    Machine(Machine),
}

/// A virtual machine that `keyfold-vm` boots.
#[derive(Clone, Debug)]
pub struct Machine {
    /// Folder of a development image.
    pub image: PathBuf,
    /// Its processors, and with them its ports; the host links to as many as there are enclaves.
    pub cpus: u8,
    /// What its clock shows at the start, instead of the time.
    pub clock: Option<&'static str>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            enclaves: 1,
            fresh_read: "reports",
            receipt_latency_ms: 2,
            key_cache: None,
            policy_is_immutable: true,
            place: Place::Children,
        }
    }
}

/// A running deployment.
pub struct Deployment {
    /// Its folder: configuration, logs, keys, the dev cloud's state.
    pub folder: PathBuf,
    /// Where clients find it.
    pub url: String,
    /// Where its operator finds it.
    pub admin_url: String,
    /// The offline keys that clients pin, as a file.
    pub trust_root: PathBuf,
    /// Addresses of the dev cloud.
    pub endpoints: Endpoints,
    /// The programs in use.
    pub binaries: Binaries,
    /// The dev cloud.
    pub cloud: Program,
    /// The host, and with it its children.
    pub host: Program,
    /// The enclaves beside it, or `keyfold-vm`.
    pub beside: Vec<Program>,
    options: Options,
    ports: [u16; 2],
    root: Digest,
}

impl Deployment {
    /// Sets one up in an empty folder, or starts the one that is there, and waits until it serves.
    ///
    /// # Errors
    /// When a step fails; the message names it.
    pub async fn start(folder: &Path, binaries: Binaries, options: Options) -> Result<Self> {
        fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
        let folder = folder.canonicalize()?;
        let mut cloud = start_cloud(&folder, &binaries, &options)?;
        let endpoints = wait_for_cloud(&folder, &mut cloud).await?;
        let ports = [free_port()?, free_port()?];
        let beside = start_beside(&folder, &binaries, &endpoints, &options)?;
        let program = match &options.place {
            Place::Children | Place::Beside => binaries.enclave.clone(),
            Place::Machine(machine) => machine.image.join(ENCLAVE),
        };
        let enclaves = vec![program; options.enclaves];
        let parts = Parts { folder: &folder, options: &options, endpoints: &endpoints, ports };
        fs::write(folder.join("host.toml"), parts.host_config(&enclaves))?;
        if !folder.join("key-created").exists() {
            // The release policy pins the workload and the configuration, not the root key's
            // commitment, which nobody knows before the first release.
            let policy = parts.describe(&enclaves, &Digest([0; 32]))?.release_policy();
            let key = root_key(&policy, options.policy_is_immutable);
            administer(&endpoints, Method::POST, "/create", &key)
                .await
                .context("creating the root key")?;
            fs::write(folder.join("release-policy.json"), policy)?;
            fs::write(folder.join("key-created"), "")?;
        }
        let host = start_host(&folder, &binaries)?;
        let mut deployment = Self {
            url: format!("http://127.0.0.1:{}", ports[0]),
            admin_url: format!("http://127.0.0.1:{}", ports[1]),
            trust_root: folder.join("trust-root.json"),
            folder: folder.clone(),
            endpoints: endpoints.clone(),
            binaries: binaries.clone(),
            cloud,
            host,
            beside,
            options: options.clone(),
            ports,
            root: Digest([0; 32]),
        };
        deployment.root = deployment.wait_for_enclaves().await?;
        deployment.accept(&enclaves)?;
        deployment.wait_until_ready().await?;
        Ok(deployment)
    }

    /// Publishes a statement, of a higher serial, that accepts exactly these programs as enclaves.
    ///
    /// # Errors
    /// When one cannot be read, or the statement cannot be signed.
    pub fn accept(&self, programs: &[PathBuf]) -> Result<()> {
        let statement = self.parts().describe(programs, &self.root)?.statement_payload();
        sign_statement(&self.folder, &statement).context("signing the statement")
    }

    /// Lets the root key be released to exactly these programs.
    ///
    /// # Errors
    /// When the policy is immutable.
    pub async fn release_to(&self, programs: &[PathBuf]) -> Result<()> {
        let policy = self.parts().describe(programs, &self.root)?.release_policy();
        let key = json!({"release_policy": policy_of(&policy, false)});
        administer(&self.endpoints, Method::PATCH, "", &key).await?;
        fs::write(self.folder.join("release-policy.json"), policy)?;
        Ok(())
    }

    /// Replaces the enclaves by these, one at a time, while the host serves; returns when each serves.
    ///
    /// # Errors
    /// When they do not within a minute.
    pub async fn replace_enclaves(&mut self, programs: &[PathBuf]) -> Result<()> {
        let before = self.channel_keys().await?;
        fs::write(self.folder.join("host.toml"), self.parts().host_config(programs))?;
        self.options.enclaves = programs.len();
        self.host.reload()?;
        let wanted = programs.len();
        self.wait("new enclaves", |state| {
            let keys = channel_keys(state);
            (keys.len() == wanted && keys.iter().all(|key| !before.contains(key))).then_some(())
        })
        .await
    }

    /// What tells the boots of enclaves apart.
    async fn channel_keys(&mut self) -> Result<Vec<String>> {
        self.wait("the host", |state| Some(channel_keys(state))).await
    }

    fn parts(&self) -> Parts<'_> {
        let Self { folder, options, endpoints, ports, .. } = self;
        Parts { folder, options, endpoints, ports: *ports }
    }

    /// Starts the dev cloud again after it was stopped or killed.
    ///
    /// # Errors
    /// When it does not come up.
    pub async fn restart_cloud(&mut self) -> Result<()> {
        self.cloud = start_cloud(&self.folder, &self.binaries, &self.options)?;
        wait_for_cloud(&self.folder, &mut self.cloud).await.map(drop)
    }

    /// Starts the host again after it was stopped or killed.
    ///
    /// # Errors
    /// When it does not serve within a minute.
    pub async fn restart_host(&mut self) -> Result<()> {
        self.host = start_host(&self.folder, &self.binaries)?;
        self.wait_until_ready().await
    }

    /// Process ids of the enclaves, children of the host.
    ///
    /// # Errors
    /// When the system does not tell.
    pub fn enclave_ids(&self) -> Result<Vec<i32>> {
        self.host.children()
    }

    /// Where `keyfold-vm` keeps the machine's sockets and logs.
    pub fn machine_folder(&self) -> PathBuf {
        self.folder.join(MACHINE)
    }

    /// Connects to a port of the machine, as a host does over vsock.
    ///
    /// # Errors
    /// When nobody serves it, or the machine is not there.
    pub fn machine_port(&self, port: u32) -> io::Result<UnixStream> {
        let mut stream = UnixStream::connect(self.machine_folder().join("vsock"))?;
        writeln!(stream, "CONNECT {port}")?;
        let mut answer = String::new();
        // Not a byte of what follows.
        BufReader::with_capacity(1, &stream).read_line(&mut answer)?;
        match answer.starts_with("OK ") {
            true => Ok(stream),
            false => Err(io::ErrorKind::ConnectionRefused.into()),
        }
    }

    /// Waits until the host says it is ready, for a minute at most.
    ///
    /// # Errors
    /// When it is not ready by then.
    pub async fn wait_until_ready(&mut self) -> Result<()> {
        let enclaves = self.options.enclaves;
        self.wait("the host to be ready", |state| {
            let serving = state["enclaves"].as_array().map_or(0, Vec::len);
            (state["ready"] == true && serving == enclaves).then_some(())
        })
        .await
    }

    async fn wait_for_enclaves(&mut self) -> Result<Digest> {
        self.wait("an enclave to get its key", |state| {
            let root = hex::decode(state["enclaves"][0]["root"].as_str()?).ok()?;
            Some(Digest(root.try_into().ok()?))
        })
        .await
    }

    async fn wait<T>(&mut self, what: &str, done: impl Fn(&Value) -> Option<T>) -> Result<T> {
        let url = format!("{}/readyz", self.admin_url);
        let deadline = Instant::now() + Duration::from_secs(60);
        while Instant::now() < deadline {
            self.host.check()?;
            self.cloud.check()?;
            if let Ok(response) = reqwest::get(&url).await
                && let Ok(state) = response.json::<Value>().await
                && let Some(found) = done(&state)
            {
                return Ok(found);
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        bail!("waited a minute for {what}; see {}", self.folder.join("host.log").display())
    }
}

fn start_cloud(folder: &Path, binaries: &Binaries, options: &Options) -> Result<Program> {
    let _ = fs::remove_file(folder.join("cloud").join(keyfold_dev_cloud::ENDPOINTS_FILE));
    let mut command = Command::new(&binaries.dev_cloud);
    command.arg("--dir").arg(folder.join("cloud")).arg("--client").arg(CLIENT);
    command.arg("--receipt-latency-ms").arg(options.receipt_latency_ms.to_string());
    if let Some(cache) = &options.key_cache {
        command.arg("--key-cache").arg(cache);
    }
    Program::start("keyfold-dev-cloud", &mut command, &folder.join("cloud.log"))
}

async fn wait_for_cloud(folder: &Path, cloud: &mut Program) -> Result<Endpoints> {
    let deadline = Instant::now() + Duration::from_secs(120);
    while Instant::now() < deadline {
        cloud.check()?;
        if let Ok(endpoints) = Endpoints::load(&folder.join("cloud")) {
            return Ok(endpoints);
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    bail!(
        "the dev cloud is not ready after two minutes; see {}",
        folder.join("cloud.log").display()
    )
}

fn start_host(folder: &Path, binaries: &Binaries) -> Result<Program> {
    let mut command = Command::new(&binaries.host);
    command.arg("run").arg("--config").arg(folder.join("host.toml"));
    Program::start("keyfold-host", &mut command, &folder.join("host.log"))
}

/// The programs that the host does not start itself.
fn start_beside(
    folder: &Path, binaries: &Binaries, endpoints: &Endpoints, options: &Options,
) -> Result<Vec<Program>> {
    let enclave = |index| {
        let mut command = Command::new(&binaries.enclave);
        command.arg("socket").arg(socket(folder, index));
        command.env("KEYFOLD_SIMULATED_CHIP", &endpoints.chip.dir);
        Program::start("keyfold-enclave", &mut command, &folder.join("enclave.log"))
    };
    match &options.place {
        Place::Children => Ok(Vec::new()),
        Place::Beside => (0..options.enclaves).map(enclave).collect(),
        Place::Machine(machine) => Ok(vec![start_machine(folder, binaries, endpoints, machine)?]),
    }
}

/// Where an enclave beside the host listens.
fn socket(folder: &Path, index: usize) -> PathBuf {
    folder.join(format!("enclave-{index}.socket"))
}

fn start_machine(
    folder: &Path, binaries: &Binaries, endpoints: &Endpoints, machine: &Machine,
) -> Result<Program> {
    let Machine { image, cpus, clock } = machine;
    let mut command = Command::new(&binaries.vm);
    command.arg("--image").arg(image).arg("--dir").arg(folder.join(MACHINE));
    command.arg("--chip").arg(&endpoints.chip.dir);
    command.arg("--cpus").arg(cpus.to_string());
    if let Some(clock) = clock {
        command.arg("--clock").arg(clock);
    }
    Program::start("keyfold-vm", &mut command, &folder.join("vm.log"))
}

fn free_port() -> Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

fn channel_keys(state: &Value) -> Vec<String> {
    let enclaves = state["enclaves"].as_array().into_iter().flatten();
    enclaves.filter_map(|enclave| enclave["channel_key"].as_str().map(str::to_owned)).collect()
}

/// What the files of a deployment are made of.
struct Parts<'a> {
    folder: &'a Path,
    options: &'a Options,
    endpoints: &'a Endpoints,
    /// Public and admin.
    ports: [u16; 2],
}

impl Parts<'_> {
    /// A host with a link to each of these programs.
    fn host_config(&self, enclaves: &[PathBuf]) -> String {
        let Endpoints { oidc, imds, kds, maa, hsm, ledger, chip, .. } = self.endpoints;
        let process = |program| {
            json!({
                "transport": "pipe",
                "command": program,
                "args": ["pipe"],
                "env": {"KEYFOLD_SIMULATED_CHIP": chip.dir},
            })
        };
        let beside = |index| json!({"transport": "socket", "path": socket(self.folder, index)});
        let vsock = self.folder.join(MACHINE).join("vsock");
        let in_machine = |port| json!({"transport": "hybrid-vsock", "socket": vsock, "port": port});
        let enclaves: Vec<_> = match self.options.place {
            Place::Children => enclaves.iter().map(process).collect(),
            Place::Beside => (0..enclaves.len()).map(beside).collect(),
            Place::Machine(_) => (PORT..).take(enclaves.len()).map(in_machine).collect(),
        };
        let [public, admin] = self.ports.map(|port| format!("127.0.0.1:{port}"));
        let config = json!({
            "deployment": {
                "name": NAME,
                "fresh_read": self.options.fresh_read,
                "statement": self.folder.join("statement.json"),
            },
            "listen": {"public": public, "admin": admin},
            "identity": {"issuer": oidc.issuer, "audience": CLIENT},
            "storage": {"path": self.folder.join("host.db")},
            "ledger": {
                "url": ledger.url,
                "service_key": ledger.service_key_pem,
                "issuer": ledger.issuer,
            },
            "azure": {
                "imds_url": imds.url,
                "maa_url": maa.url,
                "hsm_url": hsm.url,
                "hsm_roots": hsm.root_certificate,
                "hsm_name": hsm.host_name,
                "key_name": KEY_NAME,
                "kds_url": kds.url,
                "endorsement_cache": self.folder.join("endorsements"),
            },
            "enclave": enclaves,
            "limits": {
                "fresh_operations_per_hour": NO_LIMIT,
                "changes_per_minute": NO_LIMIT,
                "sessions_per_minute": NO_LIMIT,
            },
        });
        toml::to_string(&config).unwrap_or_default()
    }

    /// A `deployment.toml` that accepts these programs, read as `attestation-policy` reads it.
    fn describe(&self, programs: &[PathBuf], root: &Digest) -> Result<Description> {
        let host = keyfold_host::Config::load(&self.folder.join("host.toml"))?;
        let config = keyfold_protocol::host::Config {
            deployment: host.deployment.name,
            ledger_key: host.ledger.service_key,
            ledger_issuer: host.ledger.issuer,
            fresh_read: host.deployment.fresh_read,
        };
        let config = config_hash(sha256, &config).ok().context("config hash")?;
        let now = OffsetDateTime::now_utc();
        // Each is newer than the one before, however soon it follows.
        let serial = i64::try_from(now.unix_timestamp_nanos() / 1_000_000)?;
        let now = now.replace_nanosecond(0)?;
        let mut measurements = Vec::new();
        for program in programs {
            measurements.push(hex::encode(keyfold_simulated_chip::measurement(program)?));
        }
        measurements.sort();
        measurements.dedup();
        let ark = &self.endpoints.chip.ark_sha256;
        let workload = |measurement: &String| json!({"profile": "simulated", "ark_sha256": ark, "measurement": measurement});
        let workloads: Vec<_> = measurements.iter().map(workload).collect();
        let text = json!({
            "statement": {
                "name": NAME,
                "serial": serial,
                "issued": now.format(&Rfc3339)?,
                "expires": (now + time::Duration::days(30)).format(&Rfc3339)?,
                "url": format!("http://127.0.0.1:{}", self.ports[0]),
                "config": config.to_string(),
                "root": root.to_string(),
                "identity": {
                    "issuer": self.endpoints.oidc.issuer,
                    "client_id": CLIENT,
                    "audience": CLIENT,
                },
                "workloads": workloads,
            },
            "key_release": {"authority": self.endpoints.maa.url},
        });
        let text = toml::to_string(&text)?;
        fs::write(self.folder.join("deployment.toml"), &text)?;
        Description::from_toml(&text).context("deployment.toml")
    }
}

/// Two of two offline keys, made at the first start, sign what the deployment promises.
fn sign_statement(folder: &Path, payload: &[u8]) -> Result<()> {
    let keys = ["statement-key-1.pk8", "statement-key-2.pk8"].map(|name| {
        let path = folder.join(name);
        if path.exists() { SigningKey::read(&path) } else { SigningKey::create(&path) }
    });
    let [first, second] = keys;
    let (first, second) = (first?, second?);
    let root = TrustRoot::new(1, 2, vec![first.public_key(), second.public_key()])?;
    fs::write(folder.join("trust-root.json"), root.to_json())?;
    let signatures = vec![first.sign_statement(payload)?, second.sign_statement(payload)?];
    let statement = assemble_statement(payload, signatures, &root)?;
    // Renamed into place: the host reads it whenever it changes.
    fs::write(folder.join("statement.json.new"), statement)?;
    fs::rename(folder.join("statement.json.new"), folder.join("statement.json"))?;
    Ok(())
}

/// A root key as the ceremony makes it.
fn root_key(release_policy: &str, immutable: bool) -> Value {
    json!({
        "kty": "oct-HSM",
        "key_size": 256,
        "key_ops": ["wrapKey", "unwrapKey"],
        "attributes": {"exportable": true},
        "release_policy": policy_of(release_policy, immutable),
    })
}

fn policy_of(release_policy: &str, immutable: bool) -> Value {
    json!({
        "contentType": "application/json; charset=utf-8",
        "data": URL_SAFE_NO_PAD.encode(release_policy),
        "immutable": immutable,
    })
}

/// What only an administrator of the Managed HSM may do with the root key.
async fn administer(endpoints: &Endpoints, method: Method, what: &str, key: &Value) -> Result<()> {
    let http = reqwest::Client::new();
    let scope = format!("{}/.default", endpoints.hsm.resource);
    let form = [
        ("grant_type", "client_credentials"),
        ("client_id", &endpoints.hsm.admin_client_id),
        ("client_secret", "the dev cloud asks for none"),
        ("scope", &scope),
    ];
    let token = http.post(format!("{}/token", endpoints.oidc.issuer)).form(&form).send().await?;
    let token: Value = token.error_for_status()?.json().await?;
    let token = token["access_token"].as_str().context("no access token")?;
    let url = format!("{}/keys/{KEY_NAME}{what}?api-version=7.4", endpoints.hsm.url);
    let done = http.request(method, url).bearer_auth(token).json(key).send().await?;
    let status = done.status();
    let text = done.text().await?;
    ensure!(status.is_success(), "the Managed HSM says {status}: {text}");
    Ok(())
}

fn sha256(parts: &[&[u8]]) -> [u8; 32] {
    let mut context = ring::digest::Context::new(&ring::digest::SHA256);
    parts.iter().for_each(|part| context.update(part));
    let mut digest = [0; 32];
    digest.copy_from_slice(context.finish().as_ref());
    digest
}
