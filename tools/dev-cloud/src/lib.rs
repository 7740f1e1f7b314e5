//! Keyfold's dev cloud: the outside world on loopback, for development and tests.
//!
//! It plays an OpenID issuer, the instance metadata service, AMD's key distribution service, the directory of
//! workload identities, the attestation service, a Managed HSM and a CCF ledger, each in its own wire format and checking what the real one checks, and it makes a
//! simulated SEV-SNP chip. **It protects nothing**: its keys lie in a directory, anyone may sign in as anyone.
//!
//! State lives in one directory and survives kill -9: what was answered is there after a restart,
//! under the same keys and, unless told otherwise, on the same ports.
//!
//! ```no_run
//! # async fn example() -> anyhow::Result<()> {
//! use keyfold_dev_cloud::{Config, DevCloud, SignIn};
//! let cloud = DevCloud::start(Config::new("/tmp/keyfold-dev")).await?;
//! let id_token = cloud.sign_in(&SignIn::new("alice"))?;
//! println!("{} at {}", id_token, cloud.endpoints().ledger.url);
//! cloud.stop().await;
//! # Ok(()) }
//! ```

mod aad;
mod chip;
mod clock;
mod control;
mod digest;
mod endpoints;
mod fail;
mod hsm;
mod http;
mod imds;
mod kds;
mod keyring;
mod ledger;
mod maa;
mod oidc;
mod rsa_keys;
mod server;
mod snp;
mod store;
mod strict_json;
mod x509;

pub use endpoints::{
    AadEndpoint, ChipFiles, Endpoint, Endpoints, FILE as ENDPOINTS_FILE, HsmEndpoint, ImdsEndpoint,
    LedgerEndpoint, OidcEndpoint,
};
pub use fail::{Failure, Firmware, Foreign, Mode, Service};
pub use oidc::{ADMIN_CLIENT, ForgedSignature, SIGN_IN_GRANT, SignIn};

use aad::Aad;
use anyhow::{Context, Result, anyhow, bail};
use chip::Chip;
use fail::Failures;
use hsm::{Hsm, Place};
use imds::Imds;
use keyring::{Keyring, KidStyle};
use ledger::Ledger;
use maa::Maa;
use oidc::Oidc;
use rsa_keys::RsaKeys;
use server::{Servers, Switches};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;
use tokio::net::TcpListener;

/// What every start says.
pub const WARNING: &str = "This is Keyfold's dev cloud. It protects nothing: its keys lie in a directory, \
    anyone may sign in as anyone. Never put real passkeys behind it.";

/// The name the HSM's certificate is for.
const HSM_HOST_NAME: &str = "keyfold-dev.managedhsm.azure.net";

/// The file of the workload's assertion.
const FEDERATED_TOKEN: &str = "federated-token";

/// How to run a dev cloud.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where all state is. One dev cloud per directory.
    pub dir: PathBuf,
    /// Loopback ports; 0 is the port of the last run in this directory, or any free one.
    pub ports: Ports,
    /// Registered OpenID clients; the first is the default of [`SignIn`].
    pub clients: Vec<String>,
    /// How long ID tokens live.
    pub id_token_lifetime: Duration,
    /// How long a transaction waits for the signature its receipt needs.
    pub receipt_latency: Duration,
    /// `iss` of the ledger's receipts.
    pub ledger_issuer: String,
    /// For tests: a directory of RSA keys that a new `dir` takes instead of making its own, which takes
    /// seconds. What is missing there is made and put there. Certificates and the chip stay `dir`'s own.
    pub key_cache: Option<PathBuf>,
    /// Failure switches that are on from the beginning.
    pub failures: Vec<Failure>,
}

/// One loopback port per service.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Ports {
    /// OpenID issuer.
    pub oidc: u16,
    /// Instance metadata service.
    pub imds: u16,
    /// AMD's key distribution service.
    pub kds: u16,
    /// The directory of workload identities.
    pub aad: u16,
    /// Attestation service.
    pub maa: u16,
    /// Managed HSM.
    pub hsm: u16,
    /// Ledger.
    pub ledger: u16,
    /// Failure switches.
    pub control: u16,
}

impl Config {
    /// The defaults, with everything in `dir`.
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self {
            dir: dir.into(),
            ports: Ports::default(),
            clients: vec!["keyfold".to_owned()],
            id_token_lifetime: Duration::from_secs(3600),
            receipt_latency: Duration::from_millis(2),
            ledger_issuer: "keyfold-dev-ledger".to_owned(),
            key_cache: None,
            failures: Vec::new(),
        }
    }
}

/// A running dev cloud. Dropping it cuts everything off; [`DevCloud::stop`] ends it in order.
pub struct DevCloud {
    inner: Arc<Inner>,
    servers: Servers,
    /// Held as long as the directory is ours.
    _lock: File,
}

/// What the services and the control API share.
pub(crate) struct Inner {
    dir: PathBuf,
    failures: Arc<Failures>,
    oidc: Arc<Oidc>,
    imds: Imds,
    aad: Arc<Aad>,
    maa: Arc<Maa>,
    hsm: Arc<Hsm>,
    ledger: Arc<Ledger>,
    endpoints: RwLock<Endpoints>,
}

impl DevCloud {
    /// Opens the directory, starts every service, writes `<dir>/endpoints.json`.
    ///
    /// # Errors
    /// The directory is in use, a port is taken, or something in the directory is damaged.
    pub async fn start(config: Config) -> Result<Self> {
        store::directory(&config.dir)?;
        let lock = lock(&config.dir)?;
        let listeners = Listeners::bind(&config).await?;
        let inner = {
            let (config, ports) = (config.clone(), listeners.ports()?);
            // Keys take a moment to make, and the ledger reads its file.
            let inner = tokio::task::spawn_blocking(move || Inner::open(&config, ports)).await??;
            Arc::new(inner)
        };
        let mut servers = Servers::new();
        listeners.serve(&mut servers, &inner, config.receipt_latency);
        for failure in config.failures {
            failure.check().map_err(anyhow::Error::msg)?;
            inner.fail(failure).await?;
        }
        inner.write_endpoints()?;
        tracing::warn!("{WARNING}");
        Ok(Self { inner, servers, _lock: lock })
    }

    /// Where everything is.
    pub fn endpoints(&self) -> Endpoints {
        self.inner.endpoints()
    }

    /// The ID token of a sign-in.
    ///
    /// # Errors
    /// The name is empty or the client is not registered.
    pub fn sign_in(&self, request: &SignIn) -> Result<String> {
        self.inner.oidc.sign_in(request).map_err(|error| anyhow!(error.1))
    }

    /// Turns a failure switch on; [`Mode::Identity`] has happened, and [`Mode::SlowStart`] begun, when this returns.
    ///
    /// # Errors
    /// The service has no such mode.
    pub async fn fail(&self, failure: Failure) -> Result<()> {
        failure.check().map_err(anyhow::Error::msg)?;
        self.inner.fail(failure).await
    }

    /// Turns every failure switch off.
    pub fn heal(&self) {
        self.inner.failures.clear();
    }

    /// A new signing key for a service that signs tokens; earlier ones stay published. Gives its key id.
    ///
    /// # Errors
    /// The service signs no tokens, or the key cannot be stored.
    pub fn rotate(&self, service: Service) -> Result<String> {
        self.inner.rotate(service)
    }

    /// Ends running requests, closes the ledger, frees ports and directory.
    pub async fn stop(mut self) {
        self.servers.stop().await;
        let ledger = self.inner.ledger.clone();
        let _ = tokio::task::spawn_blocking(move || ledger.close()).await;
    }
}

impl Drop for DevCloud {
    fn drop(&mut self) {
        // The directory's lock goes next: nothing may write after it.
        self.inner.ledger.close();
    }
}

impl Inner {
    fn open(config: &Config, ports: Ports) -> Result<Self> {
        let dir = std::path::absolute(&config.dir)?;
        let rsa = RsaKeys { cache: config.key_cache.clone() };
        let chip = Arc::new(Chip::open(&dir.join("chip"), &rsa)?);
        let issuer = url(ports.oidc);
        let keys = Keyring::open(&dir, "oidc", rsa.clone(), &issuer, KidStyle::UrlSafe)?;
        let clients = config.clients.clone();
        let oidc = Arc::new(Oidc::new(issuer, keys, clients, config.id_token_lifetime));
        let failures: Arc<Failures> = Arc::default();
        let aad = Aad { oidc: oidc.clone(), token_file: dir.join(FEDERATED_TOKEN) };
        aad.write_assertion()?;
        let maa =
            Maa::open(&dir, &rsa, url(ports.maa), &chip.root, oidc.clone(), failures.clone())?;
        let place = Place {
            url: url(ports.hsm),
            host_name: HSM_HOST_NAME,
            oidc: oidc.clone(),
            authorization: format!("{}/{}", url(ports.aad), oidc::TENANT),
        };
        let hsm = Hsm::open(&dir.join("hsm"), &rsa, place, failures.clone())?;
        let ledger =
            Ledger::open(&dir.join("ledger"), &config.ledger_issuer, config.receipt_latency)?;
        let endpoints = describe(config, ports, &dir, &chip.root);
        Ok(Self {
            dir,
            imds: Imds { oidc: oidc.clone(), chip, failures: failures.clone() },
            failures,
            aad: Arc::new(aad),
            oidc,
            maa: Arc::new(maa),
            hsm: Arc::new(hsm),
            ledger,
            endpoints: RwLock::new(endpoints),
        })
    }

    pub(crate) fn endpoints(&self) -> Endpoints {
        self.endpoints.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) async fn fail(&self, failure: Failure) -> Result<()> {
        if failure.mode == Mode::Identity {
            self.ledger.new_identity().await.map_err(|_| anyhow!("the ledger is closed"))?;
            return self.write_endpoints();
        }
        let Failure { service, delay_ms, .. } = failure;
        let refuses = failure.mode == Mode::SlowStart;
        self.failures.add(failure);
        if refuses {
            let refusing = self.failures.refuses(service);
            let _ = tokio::time::timeout(Duration::from_millis(delay_ms), refusing).await;
        }
        Ok(())
    }

    pub(crate) fn rotate(&self, service: Service) -> Result<String> {
        let key = match service {
            Service::Oidc => self.oidc.keys.rotate()?,
            Service::Maa => self.maa.keys.rotate()?,
            _ => bail!("only oidc and maa sign tokens"),
        };
        Ok(key.kid.clone())
    }

    /// The file says what is true now.
    fn write_endpoints(&self) -> Result<()> {
        let key = self.ledger.identity().key;
        let mut endpoints = self.endpoints.write().unwrap_or_else(PoisonError::into_inner);
        endpoints.ledger.service_key_pem = x509::spki_pem(&key.spki())?;
        endpoints.ledger.service_key_hex = hex::encode(key.point());
        let text = serde_json::to_string_pretty(&*endpoints)?;
        store::write(&self.dir.join(endpoints::FILE), format!("{text}\n").as_bytes())
    }
}

fn url(port: u16) -> String {
    format!("http://127.0.0.1:{port}")
}

/// Where everything is; the ledger's key is filled in whenever it changes.
fn describe(config: &Config, ports: Ports, dir: &Path, ark_sha256: &str) -> Endpoints {
    Endpoints {
        warning: WARNING.to_owned(),
        pid: std::process::id(),
        oidc: OidcEndpoint { issuer: url(ports.oidc), clients: config.clients.clone() },
        imds: ImdsEndpoint { url: url(ports.imds), client_id: imds::CLIENT_ID.to_owned() },
        kds: Endpoint { url: url(ports.kds) },
        aad: AadEndpoint {
            url: url(ports.aad),
            tenant: oidc::TENANT.to_owned(),
            client_id: imds::CLIENT_ID.to_owned(),
            token_file: dir.join(FEDERATED_TOKEN),
        },
        maa: Endpoint { url: url(ports.maa) },
        hsm: HsmEndpoint {
            url: url(ports.hsm),
            host_name: HSM_HOST_NAME.to_owned(),
            root_certificate: hsm::root_path(&dir.join("hsm")),
            resource: oidc::HSM_RESOURCE.to_owned(),
            admin_client_id: ADMIN_CLIENT.to_owned(),
        },
        ledger: LedgerEndpoint {
            url: url(ports.ledger),
            issuer: config.ledger_issuer.clone(),
            subject: ledger::SUBJECT.to_owned(),
            service_key_pem: String::new(),
            service_key_hex: String::new(),
        },
        chip: ChipFiles { dir: dir.join("chip"), ark_sha256: ark_sha256.to_owned() },
        control: Endpoint { url: url(ports.control) },
    }
}

struct Listeners {
    oidc: TcpListener,
    imds: TcpListener,
    kds: TcpListener,
    aad: TcpListener,
    maa: TcpListener,
    hsm: TcpListener,
    ledger: TcpListener,
    control: TcpListener,
}

impl Listeners {
    /// The ports asked for, else the last run's, else any; remembered, since URLs stand in tokens and policies.
    async fn bind(config: &Config) -> Result<Self> {
        let path = config.dir.join("ports.json");
        let last: Ports = match store::read(&path)? {
            Some(text) => serde_json::from_slice(&text)
                .with_context(|| format!("{} does not fit: remove it", path.display()))?,
            None => Ports::default(),
        };
        let wanted = &config.ports;
        let bind = async |wanted: u16, last: u16, service: &str| {
            server::bind(if wanted == 0 { last } else { wanted }, service).await
        };
        let listeners = Self {
            oidc: bind(wanted.oidc, last.oidc, "oidc").await?,
            imds: bind(wanted.imds, last.imds, "imds").await?,
            kds: bind(wanted.kds, last.kds, "kds").await?,
            aad: bind(wanted.aad, last.aad, "aad").await?,
            maa: bind(wanted.maa, last.maa, "maa").await?,
            hsm: bind(wanted.hsm, last.hsm, "hsm").await?,
            ledger: bind(wanted.ledger, last.ledger, "ledger").await?,
            control: bind(wanted.control, last.control, "control").await?,
        };
        store::write(&path, &serde_json::to_vec_pretty(&listeners.ports()?)?)?;
        Ok(listeners)
    }

    fn ports(&self) -> Result<Ports> {
        let port = |listener: &TcpListener| anyhow::Ok(listener.local_addr()?.port());
        Ok(Ports {
            oidc: port(&self.oidc)?,
            imds: port(&self.imds)?,
            kds: port(&self.kds)?,
            aad: port(&self.aad)?,
            maa: port(&self.maa)?,
            hsm: port(&self.hsm)?,
            ledger: port(&self.ledger)?,
            control: port(&self.control)?,
        })
    }

    fn serve(self, servers: &mut Servers, inner: &Arc<Inner>, latency: Duration) {
        let failures = &inner.failures;
        let app = ledger::App { ledger: inner.ledger.clone(), failures: failures.clone(), latency };
        for (service, listener, router) in [
            (Service::Oidc, self.oidc, oidc::router(inner.oidc.clone())),
            (Service::Imds, self.imds, imds::router(inner.imds.clone())),
            (Service::Kds, self.kds, kds::router(inner.imds.chip.clone())),
            (Service::Aad, self.aad, aad::router(inner.aad.clone())),
            (Service::Maa, self.maa, maa::router(inner.maa.clone())),
            (Service::Hsm, self.hsm, hsm::router(inner.hsm.clone())),
            (Service::Ledger, self.ledger, ledger::router(app)),
        ] {
            let challenge = (service == Service::Hsm).then(|| inner.hsm.challenge());
            let switches = Switches { service, failures: failures.clone(), challenge };
            servers.serve(listener, router, Some(switches));
        }
        servers.serve(self.control, control::router(inner.clone()), None);
        servers.beside(inner.aad.clone().keep_writing());
    }
}

/// One process per directory; the lock dies with it.
fn lock(dir: &Path) -> Result<File> {
    let path = dir.join("lock");
    let file = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path)
        .with_context(|| format!("open {}", path.display()))?;
    file.try_lock().map_err(|_| {
        anyhow!("another dev cloud runs in {}: stop it, or use another directory", dir.display())
    })?;
    Ok(file)
}
