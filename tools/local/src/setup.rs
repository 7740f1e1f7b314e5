//! Setting a deployment up: the operator's steps, in their order.

use std::fs;
use std::net::TcpListener;
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
use keyfold_protocol::ids::Digest;
use keyfold_protocol::transcript::config_hash;
use serde_json::{Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::program::{Binaries, Program};

const NAME: &str = "keyfold-local";
/// Tests and the bench change more in a minute than a person does.
const NO_LIMIT: u32 = 1_000_000;
const KEY_NAME: &str = "keyfold-root";
const CLIENT: &str = "keyfold";

/// What may differ between deployments on this machine.
#[derive(Clone, Debug)]
pub struct Options {
    /// Enclaves, each a process with a pipe.
    pub enclaves: usize,
    /// "reports" or "always".
    pub fresh_read: &'static str,
    /// How long a ledger transaction waits for its receipt, in milliseconds.
    pub receipt_latency_ms: u64,
    /// Where RSA keys of dev clouds are kept between runs; spares each start some seconds.
    pub key_cache: Option<PathBuf>,
}

impl Default for Options {
    fn default() -> Self {
        Self { enclaves: 1, fresh_read: "reports", receipt_latency_ms: 2, key_cache: None }
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
    /// The host, and with it its enclaves.
    pub host: Program,
    options: Options,
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
        let [public, admin] = [free_port()?, free_port()?];
        let description = Parts {
            folder: &folder,
            binaries: &binaries,
            options: &options,
            endpoints: &endpoints,
            public,
        };
        fs::write(folder.join("host.toml"), description.host_config(admin))?;
        if !folder.join("key-created").exists() {
            // The release policy pins the workload and the configuration, not the root key's
            // commitment, which nobody knows before the first release.
            let policy = description.read(&Digest([0; 32]))?.release_policy();
            create_root_key(&endpoints, &policy).await.context("creating the root key")?;
            fs::write(folder.join("key-created"), "")?;
        }
        let host = start_host(&folder, &binaries)?;
        let mut deployment = Self {
            url: format!("http://127.0.0.1:{public}"),
            admin_url: format!("http://127.0.0.1:{admin}"),
            trust_root: folder.join("trust-root.json"),
            folder: folder.clone(),
            endpoints: endpoints.clone(),
            binaries: binaries.clone(),
            cloud,
            host,
            options: options.clone(),
        };
        let root = deployment.wait_for_enclaves().await?;
        let statement = description.read(&root)?.statement_payload();
        sign_statement(&folder, &statement).context("signing the statement")?;
        deployment.wait_until_ready().await?;
        Ok(deployment)
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
        let host = self.host.id();
        let mut found = Vec::new();
        // Children belong to the thread that made them.
        for task in fs::read_dir(format!("/proc/{host}/task"))? {
            let children = fs::read_to_string(task?.path().join("children")).unwrap_or_default();
            found.extend(children.split_whitespace().filter_map(|id| id.parse::<i32>().ok()));
        }
        Ok(found)
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

fn free_port() -> Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

/// What the files of a deployment are made of.
struct Parts<'a> {
    folder: &'a Path,
    binaries: &'a Binaries,
    options: &'a Options,
    endpoints: &'a Endpoints,
    public: u16,
}

impl Parts<'_> {
    fn host_config(&self, admin: u16) -> String {
        let Endpoints { oidc, imds, maa, hsm, ledger, chip, .. } = self.endpoints;
        let enclave = json!({
            "transport": "pipe",
            "command": self.binaries.enclave,
            "args": ["pipe"],
            "env": {"KEYFOLD_SIMULATED_CHIP": chip.dir},
        });
        let config = json!({
            "deployment": {
                "name": NAME,
                "fresh_read": self.options.fresh_read,
                "statement": self.folder.join("statement.json"),
            },
            "listen": {
                "public": format!("127.0.0.1:{}", self.public),
                "admin": format!("127.0.0.1:{admin}"),
            },
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
            },
            "enclave": vec![enclave; self.options.enclaves],
            "limits": {
                "fresh_operations_per_hour": NO_LIMIT,
                "changes_per_minute": NO_LIMIT,
                "sessions_per_minute": NO_LIMIT,
            },
        });
        toml::to_string(&config).unwrap_or_default()
    }

    /// The `deployment.toml`, read as `attestation-policy` reads it.
    fn read(&self, root: &Digest) -> Result<Description> {
        let host = keyfold_host::Config::load(&self.folder.join("host.toml"))?;
        let config = keyfold_protocol::host::Config {
            deployment: host.deployment.name,
            ledger_key: host.ledger.service_key,
            ledger_issuer: host.ledger.issuer,
            fresh_read: host.deployment.fresh_read,
        };
        let config = config_hash(sha256, &config).context("config hash")?;
        let now = OffsetDateTime::now_utc().replace_nanosecond(0)?;
        let measurement = keyfold_simulated_chip::measurement(&self.binaries.enclave)?;
        let text = json!({
            "statement": {
                "name": NAME,
                "serial": now.unix_timestamp(),
                "issued": now.format(&Rfc3339)?,
                "expires": (now + time::Duration::days(30)).format(&Rfc3339)?,
                "url": format!("http://127.0.0.1:{}", self.public),
                "config": config.to_string(),
                "root": root.to_string(),
                "identity": {
                    "issuer": self.endpoints.oidc.issuer,
                    "client_id": CLIENT,
                    "audience": CLIENT,
                },
                "workloads": [{
                    "profile": "simulated",
                    "ark_sha256": self.endpoints.chip.ark_sha256,
                    "measurement": hex::encode(measurement),
                }],
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

async fn create_root_key(endpoints: &Endpoints, release_policy: &str) -> Result<()> {
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
    let key = json!({
        "kty": "oct-HSM",
        "key_size": 256,
        "key_ops": ["wrapKey", "unwrapKey"],
        "attributes": {"exportable": true},
        "release_policy": {
            "contentType": "application/json; charset=utf-8",
            "data": URL_SAFE_NO_PAD.encode(release_policy),
            "immutable": true,
        },
    });
    let url = format!("{}/keys/{KEY_NAME}/create?api-version=7.4", endpoints.hsm.url);
    let created = http.post(url).bearer_auth(token).json(&key).send().await?;
    let status = created.status();
    let text = created.text().await?;
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
