//! Configuration: one TOML file, then the environment, then checks. A [`Config`] that exists is
//! complete and well-formed; [`EXAMPLE`] documents every key.
//!
//! `KEYFOLD_HOST__SECTION__KEY` overrides `key` of `[section]`; its value is read as TOML where it
//! is a number, boolean, array or table, and as plain text otherwise.

use heapless::String as Bounded;
use jsonwebtoken::Algorithm;
use keyfold_protocol::bytes::Bytes;
use keyfold_protocol::host::{FreshRead, KeyWrap};
use keyfold_protocol::ids::{Label, P384PublicKey};
use serde::de::Error as _;
use serde::{Deserialize, Deserializer};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// A complete file, with every key and what it is for.
pub const EXAMPLE: &str = include_str!("../keyfold-host.example.toml");

/// What environment variables that override the file begin with.
pub const ENVIRONMENT_PREFIX: &str = "KEYFOLD_HOST__";

/// Everything the host is told.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Who this is.
    pub deployment: Deployment,
    /// Where to listen.
    #[serde(default)]
    pub listen: Listen,
    /// Whose ID tokens count.
    pub identity: Identity,
    /// Where state is kept.
    pub storage: Storage,
    /// Which ledger.
    pub ledger: Ledger,
    /// Where attestation and the root key come from.
    pub azure: Azure,
    /// The enclaves; a link per CPU.
    pub enclave: Vec<EnclaveLink>,
    /// Protection against too much.
    #[serde(default)]
    pub limits: Limits,
    /// Logging.
    #[serde(default)]
    pub log: Log,
}

/// `[deployment]`
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Deployment {
    /// Name; part of the hash every client pins.
    #[serde(deserialize_with = "label")]
    pub name: Label,
    /// Which requests read the ledger; part of the hash every client pins.
    #[serde(default = "reports", deserialize_with = "fresh_read")]
    pub fresh_read: FreshRead,
    /// The signed deployment statement; read again when it changes.
    pub statement: PathBuf,
}

/// `[listen]`
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Listen {
    /// For clients.
    pub public: SocketAddr,
    /// Health, readiness, metrics: not for the public.
    pub admin: SocketAddr,
}

impl Default for Listen {
    fn default() -> Self {
        Self { public: ([127, 0, 0, 1], 8440).into(), admin: ([127, 0, 0, 1], 8441).into() }
    }
}

/// `[identity]`
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Identity {
    /// `iss`, exactly as tokens carry it.
    pub issuer: String,
    /// `aud`: this deployment's client id at the issuer.
    pub audience: String,
    /// Accepted signature algorithms.
    #[serde(default = "rs256", deserialize_with = "algorithms")]
    pub algorithms: Vec<Algorithm>,
    /// Tolerated difference of clocks.
    #[serde(default = "one_minute", rename = "leeway_seconds", deserialize_with = "seconds")]
    pub leeway: Duration,
}

/// `[storage]`
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Storage {
    /// SQLite database.
    pub path: PathBuf,
    /// Page cache per connection, in MiB.
    #[serde(default = "cache_mib")]
    pub cache_mib: u32,
}

/// `[ledger]`
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ledger {
    /// Base URL of a node or a load balancer.
    pub url: BaseUrl,
    /// The service's public key, PEM (SPKI, P-384).
    #[serde(deserialize_with = "service_key")]
    pub service_key: P384PublicKey,
    /// `iss` of its receipts.
    #[serde(deserialize_with = "label")]
    pub issuer: Label,
    /// Certificate, PEM, that TLS to the ledger must chain to; absent: the usual roots.
    #[serde(default)]
    pub tls_root: Option<PathBuf>,
    /// Certificate and private key, PEM in one file, that the host shows to the ledger; it asks for
    /// the certificate of one of its users.
    #[serde(default)]
    pub tls_identity: Option<PathBuf>,
    /// One HTTP request.
    #[serde(
        default = "three_seconds",
        rename = "request_timeout_seconds",
        deserialize_with = "seconds"
    )]
    pub request_timeout: Duration,
    /// An append or read until its receipt, retries included.
    #[serde(default = "fifteen_seconds", rename = "timeout_seconds", deserialize_with = "seconds")]
    pub timeout: Duration,
}

/// `[azure]`
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Azure {
    /// Instance metadata service.
    #[serde(default = "imds")]
    pub imds_url: BaseUrl,
    /// Attestation service; its tokens' `iss`.
    pub maa_url: BaseUrl,
    /// Managed HSM.
    pub hsm_url: BaseUrl,
    /// Roots, PEM, that the Managed HSM's release signature must chain to.
    pub hsm_roots: PathBuf,
    /// DNS name in the release signer's certificate; absent: the host of `hsm_url`.
    #[serde(default)]
    pub hsm_name: Option<String>,
    /// Name of the root key.
    pub key_name: String,
    /// Version of the root key; absent: the current one.
    #[serde(default)]
    pub key_version: String,
    /// How the key is wrapped on its way.
    #[serde(default = "sha256_wrap", deserialize_with = "key_wrap")]
    pub key_wrap: KeyWrap,
    /// User-assigned managed identity; absent: the system-assigned one. With a workload identity it
    /// stands for AZURE_CLIENT_ID.
    #[serde(default)]
    pub client_id: Option<String>,
    /// Where a workload identity gets its tokens; absent: AZURE_AUTHORITY_HOST, else the public
    /// cloud's.
    #[serde(default)]
    pub authority_url: Option<BaseUrl>,
    /// AMD's key distribution service.
    #[serde(default = "kds")]
    pub kds_url: BaseUrl,
    /// Folder where chips' certificates are kept; made when absent.
    #[serde(default = "endorsement_cache")]
    pub endorsement_cache: PathBuf,
    /// Between two reports of an enclave for clients: how old a report gets, and how soon an update
    /// of the firmware shows.
    #[serde(default = "one_hour", rename = "evidence_seconds", deserialize_with = "seconds")]
    pub evidence: Duration,
}

/// `[[enclave]]`
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, tag = "transport", rename_all = "kebab-case")]
pub enum EnclaveLink {
    /// A child process that speaks on its stdin and stdout.
    Pipe {
        /// Program.
        command: PathBuf,
        /// Its arguments; `pipe` makes an enclave speak there.
        #[serde(default = "pipe")]
        args: Vec<String>,
        /// Its environment, beside the host's PATH: nothing else is inherited.
        #[serde(default)]
        env: BTreeMap<String, String>,
    },
    /// A Unix socket: an enclave in a container beside this one's.
    Socket {
        /// Where it listens.
        path: PathBuf,
    },
    /// A confidential VM.
    Vsock {
        /// Context id.
        cid: u32,
        /// Port.
        port: u32,
    },
    /// A confidential VM whose vsock ends in a Unix socket instead of the kernel.
    HybridVsock {
        /// Where vhost-device-vsock, Cloud Hypervisor or Firecracker listens.
        socket: PathBuf,
        /// Port in the VM.
        port: u32,
    },
}

/// `[limits]`
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Open public connections; further ones wait.
    pub connections: usize,
    /// Enrolments and other freshly authenticated changes per account and hour; and, counted apart, as
    /// many recoveries.
    pub fresh_operations_per_hour: u32,
    /// Other changes per account and minute: whoever holds one device cannot, by changing all the
    /// time, keep the others from striking it off.
    pub changes_per_minute: u32,
    /// Sessions per account and minute: the enclave's table has room for so many.
    pub sessions_per_minute: u32,
    /// Requests that may wait for one enclave link; beyond, clients are told to come back.
    pub enclave_queue: usize,
    /// For a request's header, and again for its body, to arrive.
    #[serde(rename = "arrival_timeout_seconds", deserialize_with = "seconds")]
    pub arrival_timeout: Duration,
    /// For requests to end when the host stops.
    #[serde(rename = "drain_seconds", deserialize_with = "seconds")]
    pub drain: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 10_000,
            fresh_operations_per_hour: 20,
            changes_per_minute: 60,
            sessions_per_minute: 60,
            enclave_queue: 2048,
            arrival_timeout: Duration::from_secs(10),
            drain: Duration::from_secs(20),
        }
    }
}

/// `[log]`
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Log {
    /// For people or for machines.
    pub format: LogFormat,
    /// `level` or `target=level,...`.
    pub filter: String,
}

impl Default for Log {
    fn default() -> Self {
        Self { format: LogFormat::Pretty, filter: "info".into() }
    }
}

/// Shape of log lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// One line of text each.
    Pretty,
    /// One JSON object each.
    Json,
}

/// An http or https URL without a trailing slash.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BaseUrl(String);

impl BaseUrl {
    /// Parses it.
    pub fn parse(text: &str) -> Result<Self, String> {
        let url = reqwest::Url::parse(text).map_err(|error| format!("{text:?}: {error}"))?;
        if !matches!(url.scheme(), "http" | "https") || url.host_str().is_none() {
            return Err(format!("{text:?} is not an http or https URL"));
        }
        if url.query().is_some() || url.fragment().is_some() {
            return Err(format!("{text:?}: a base URL has no query and no fragment"));
        }
        Ok(Self(text.trim_end_matches('/').to_owned()))
    }

    /// As text, without a trailing slash.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Its host.
    pub fn host(&self) -> String {
        let url = reqwest::Url::parse(&self.0).ok();
        url.and_then(|url| url.host_str().map(str::to_owned)).unwrap_or_default()
    }
}

impl<'de> Deserialize<'de> for BaseUrl {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::parse(&String::deserialize(deserializer)?).map_err(D::Error::custom)
    }
}

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file.
    #[error("cannot read {path}: {error}; `keyfold-host config example` prints one to start from")]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        error: std::io::Error,
    },
    /// Its content, with the environment's.
    #[error("{path} does not fit: {what}")]
    Content {
        /// Which.
        path: PathBuf,
        /// What in it; over several lines, where it points at the place.
        what: String,
    },
}

impl Config {
    /// Reads the file, then applies overrides from the process's environment.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(path)
            .map_err(|error| ConfigError::Read { path: path.to_owned(), error })?;
        Self::parse(&text, std::env::vars())
            .map_err(|what| ConfigError::Content { path: path.to_owned(), what })
    }

    /// Parses a file's text and applies overrides.
    ///
    /// # Errors
    /// What does not fit.
    pub fn parse(
        text: &str, environment: impl Iterator<Item = (String, String)>,
    ) -> Result<Self, String> {
        let content = |error: toml::de::Error| error.to_string().trim_end().to_owned();
        let mut table: toml::Table = text.parse().map_err(content)?;
        let mut overridden = false;
        for (name, value) in environment {
            let Some(path) = name.strip_prefix(ENVIRONMENT_PREFIX) else { continue };
            set(&mut table, path, &value).map_err(|problem| format!("{name}: {problem}"))?;
            overridden = true;
        }
        let config: Self = if overridden {
            table.try_into().map_err(content)?
        } else {
            // From the text, so that errors show the line.
            toml::from_str(text).map_err(content)?
        };
        config.check()?;
        Ok(config)
    }

    /// What no single value shows.
    fn check(&self) -> Result<(), String> {
        if self.enclave.is_empty() {
            return Err("at least one [[enclave]] is needed".into());
        }
        self.check_links()?;
        if self.listen.public == self.listen.admin && self.listen.public.port() != 0 {
            return Err("listen.public and listen.admin must differ".into());
        }
        if self.limits.connections == 0 || self.limits.enclave_queue == 0 {
            return Err("limits.connections and limits.enclave_queue must not be 0".into());
        }
        for (name, limit) in [
            ("fresh_operations_per_hour", self.limits.fresh_operations_per_hour),
            ("changes_per_minute", self.limits.changes_per_minute),
            ("sessions_per_minute", self.limits.sessions_per_minute),
        ] {
            if limit == 0 {
                return Err(format!("limits.{name} = 0 would refuse everybody"));
            }
        }
        if self.identity.issuer.is_empty() || self.identity.audience.is_empty() {
            return Err("identity.issuer and identity.audience must not be empty".into());
        }
        BaseUrl::parse(&self.identity.issuer).map(drop)
    }

    /// That each link can be one, and is one.
    fn check_links(&self) -> Result<(), String> {
        for (index, link) in self.enclave.iter().enumerate() {
            match link {
                EnclaveLink::Socket { path } | EnclaveLink::HybridVsock { socket: path, .. }
                    if !path.is_absolute() =>
                {
                    return Err(format!("[[enclave]] {}: not an absolute path", path.display()));
                }
                EnclaveLink::Vsock { cid, .. } if *cid < FIRST_CID || *cid == u32::MAX => {
                    return Err(format!("[[enclave]] cid = {cid} is no virtual machine's"));
                }
                _ => {}
            }
            let is_pipe = matches!(link, EnclaveLink::Pipe { .. });
            if !is_pipe && self.enclave.iter().skip(index + 1).any(|other| other == link) {
                return Err(format!(
                    "[[enclave]] twice, and one address serves one link: {link:?}"
                ));
            }
        }
        Ok(())
    }

    /// What the files and directories it names lack; empty when the host can start.
    pub fn missing(&self) -> Vec<String> {
        let mut missing = Vec::new();
        let directory = self.storage.path.parent().filter(|path| !path.as_os_str().is_empty());
        if directory.is_some_and(|path| !path.is_dir()) {
            missing.push(format!("storage.path: {} has no directory", self.storage.path.display()));
        }
        if let Err(error) = crate::azure::Roots::read(&self.azure.hsm_roots) {
            missing.push(format!("azure.hsm_roots: {error}"));
        }
        for link in &self.enclave {
            if let EnclaveLink::Pipe { command, .. } = link
                && command.components().count() > 1
                && !command.is_file()
            {
                missing.push(format!("enclave.command: {} is no file", command.display()));
            }
        }
        missing
    }

    /// What may come later: there is no statement before a host has shown the root key's commitment.
    pub fn awaited(&self) -> Option<String> {
        let path = &self.deployment.statement;
        (!path.is_file()).then(|| {
            let path = path.display();
            format!(
                "deployment.statement: {path} is not there yet; until it is, no client is served"
            )
        })
    }
}

/// The context ids below are the hypervisor's, the loopback's and the host's.
const FIRST_CID: u32 = 3;

fn pipe() -> Vec<String> {
    vec!["pipe".into()]
}

/// Sets `SECTION__KEY` in a table.
fn set(table: &mut toml::Table, path: &str, value: &str) -> Result<(), String> {
    let path = path.to_ascii_lowercase();
    let mut keys: Vec<_> = path.split("__").collect();
    let Some(last) = keys.pop().filter(|last| !last.is_empty()) else {
        return Err("names no key".into());
    };
    let mut table = table;
    for key in keys {
        let entry = table.entry(key).or_insert_with(|| toml::Value::Table(toml::Table::new()));
        table = entry.as_table_mut().ok_or_else(|| format!("{key} is no section"))?;
    }
    let parsed = format!("value = {value}").parse::<toml::Table>().ok();
    let parsed = parsed.and_then(|mut parsed| parsed.remove("value"));
    let value = match parsed {
        Some(value) if !value.is_datetime() => value,
        _ => toml::Value::String(value.to_owned()),
    };
    table.insert(last.to_owned(), value);
    Ok(())
}

fn label<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Label, D::Error> {
    let text = String::deserialize(deserializer)?;
    match Bounded::try_from(text.as_str()) {
        Ok(label) if !text.is_empty() => Ok(label),
        _ => Err(D::Error::custom(format!("{text:?} must be 1 to 128 bytes long"))),
    }
}

fn fresh_read<'de, D: Deserializer<'de>>(deserializer: D) -> Result<FreshRead, D::Error> {
    match String::deserialize(deserializer)?.as_str() {
        "reports" => Ok(FreshRead::Reports),
        "always" => Ok(FreshRead::Always),
        other => Err(D::Error::unknown_variant(other, &["reports", "always"])),
    }
}

fn key_wrap<'de, D: Deserializer<'de>>(deserializer: D) -> Result<KeyWrap, D::Error> {
    let name = String::deserialize(deserializer)?;
    let found = crate::azure::KEY_WRAPS.iter().find(|(_, known)| *known == name);
    found.map(|(wrap, _)| *wrap).ok_or_else(|| {
        let known: Vec<_> = crate::azure::KEY_WRAPS.iter().map(|(_, known)| *known).collect();
        D::Error::custom(format!("{name:?} is none of {}", known.join(", ")))
    })
}

fn algorithms<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Algorithm>, D::Error> {
    const PUBLIC_KEY: [(&str, Algorithm); 9] = [
        ("RS256", Algorithm::RS256),
        ("RS384", Algorithm::RS384),
        ("RS512", Algorithm::RS512),
        ("PS256", Algorithm::PS256),
        ("PS384", Algorithm::PS384),
        ("PS512", Algorithm::PS512),
        ("ES256", Algorithm::ES256),
        ("ES384", Algorithm::ES384),
        ("EdDSA", Algorithm::EdDSA),
    ];
    let names = Vec::<String>::deserialize(deserializer)?;
    if names.is_empty() {
        return Err(D::Error::custom("name at least one algorithm"));
    }
    let parse = |name: &String| {
        let found = PUBLIC_KEY.iter().find(|(known, _)| known == name);
        found.map(|(_, algorithm)| *algorithm).ok_or_else(|| {
            let known = PUBLIC_KEY.map(|(known, _)| known).join(", ");
            D::Error::custom(format!("{name:?} is none of {known}"))
        })
    };
    names.iter().map(parse).collect()
}

fn seconds<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    match u32::deserialize(deserializer)? {
        0 => Err(D::Error::custom("must be at least one second")),
        seconds => Ok(Duration::from_secs(seconds.into())),
    }
}

fn service_key<'de, D: Deserializer<'de>>(deserializer: D) -> Result<P384PublicKey, D::Error> {
    let pem = String::deserialize(deserializer)?;
    public_key(&pem).map_err(|problem| D::Error::custom(format!("service_key: {problem}")))
}

/// SubjectPublicKeyInfo of an uncompressed P-384 point: everything before the point.
pub(crate) const P384_SPKI: [u8; 23] = [
    0x30, 0x76, 0x30, 0x10, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x05, 0x2b,
    0x81, 0x04, 0x00, 0x22, 0x03, 0x62, 0x00,
];

/// The point of a P-384 public key in PEM.
pub fn public_key(pem: &str) -> Result<P384PublicKey, String> {
    let (_, pem) = x509_parser::pem::parse_x509_pem(pem.as_bytes())
        .map_err(|_| "not PEM: it begins with -----BEGIN PUBLIC KEY-----".to_owned())?;
    if pem.label != "PUBLIC KEY" {
        return Err(format!("a PUBLIC KEY is needed, not a {}", pem.label));
    }
    point(&pem.contents).ok_or_else(|| "not a P-384 public key".into())
}

/// The point inside a DER SubjectPublicKeyInfo, if it is a P-384 one.
pub(crate) fn point(spki: &[u8]) -> Option<P384PublicKey> {
    let point: [u8; 97] = spki.strip_prefix(&P384_SPKI)?.try_into().ok()?;
    (point[0] == 4).then_some(Bytes(point))
}

fn reports() -> FreshRead {
    FreshRead::Reports
}

fn rs256() -> Vec<Algorithm> {
    vec![Algorithm::RS256]
}

fn one_minute() -> Duration {
    Duration::from_secs(60)
}

fn three_seconds() -> Duration {
    Duration::from_secs(3)
}

fn fifteen_seconds() -> Duration {
    Duration::from_secs(15)
}

fn cache_mib() -> u32 {
    64
}

fn one_hour() -> Duration {
    Duration::from_secs(3600)
}

fn kds() -> BaseUrl {
    BaseUrl("https://kdsintf.amd.com".into())
}

fn endorsement_cache() -> PathBuf {
    "/var/lib/keyfold/endorsements".into()
}

fn imds() -> BaseUrl {
    BaseUrl("http://169.254.169.254".into())
}

fn sha256_wrap() -> KeyWrap {
    KeyWrap::Sha256
}

#[cfg(test)]
mod tests;
