//! A whole host in one value: what the binary runs and what tests start in-process.

use crate::azure::{Cloud, Environment, KeyRelease};
use crate::config::{Config, EnclaveLink, Limits};
use crate::enclave::{Connect, Links, Setup};
use crate::http::{self, App, Deployment, Mailboxes, Server};
use crate::identity::{Identity, sha256};
use crate::ledger::Ccf;
use crate::metrics::Metrics;
use crate::service::{Parts, Service};
use crate::storage::{Sqlite, Storage, sqlite};
use anyhow::{Context, Result, anyhow, bail};
use axum::Router;
use keyfold_protocol::host::Config as EnclaveConfig;
use keyfold_protocol::ids::Digest;
use keyfold_protocol::transcript::config_hash;
use keyfold_protocol::wire::Malformed;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;

/// Between two looks at the ledger's identity.
const LOOK: Duration = Duration::from_secs(30);

/// A host about to start; parts can be replaced.
pub struct Builder {
    config: Config,
    connectors: Option<Vec<Arc<dyn Connect>>>,
    release: Option<Arc<dyn KeyRelease>>,
    storage: Option<Arc<dyn Storage>>,
}

/// A running host. Dropping it without [`Host::stop`] cuts every connection off; guard changes that
/// are under way run on.
pub struct Host {
    public: SocketAddr,
    admin: SocketAddr,
    service: Arc<Service>,
    enclave_config: EnclaveConfig,
    stopping: watch::Sender<bool>,
    servers: JoinSet<()>,
    _background: JoinSet<()>,
}

impl Builder {
    /// Enclaves reached another way than configured.
    pub fn connectors(mut self, connectors: Vec<Arc<dyn Connect>>) -> Self {
        self.connectors = Some(connectors);
        self
    }

    /// The root key from elsewhere than the configured services.
    pub fn release(mut self, release: Arc<dyn KeyRelease>) -> Self {
        self.release = Some(release);
        self
    }

    /// State kept elsewhere than in the configured database.
    pub fn storage(mut self, storage: Arc<dyn Storage>) -> Self {
        self.storage = Some(storage);
        self
    }

    /// Opens the storage, binds both listeners, starts the enclaves. Returns as soon as requests are
    /// answered; until an enclave is ready with `enclave-starting`.
    pub async fn start(mut self) -> Result<Host> {
        let metrics = Arc::<Metrics>::default();
        let mut background = JoinSet::new();
        let storage = match self.storage.take() {
            Some(storage) => storage,
            None => open_storage(&self.config, &metrics, &mut background)?,
        };
        let ledger = Ccf::new(self.config.ledger.clone(), metrics.clone());
        let ledger = Arc::new(ledger.map_err(|error| anyhow!("ledger: {error}"))?);
        let public = bind(self.config.listen.public, "listen.public").await?;
        let admin = bind(self.config.listen.admin, "listen.admin").await?;
        let links = self.links(&metrics)?;
        let config = self.config;
        let http =
            reqwest::Client::builder().redirect(reqwest::redirect::Policy::none()).build()?;
        let identity = Arc::new(Identity::new(config.identity.clone(), http, metrics.clone()));
        let service = Service::new(Parts {
            storage,
            ledger: ledger.clone(),
            links,
            identity: identity.clone(),
            metrics: metrics.clone(),
            fresh_read: config.deployment.fresh_read,
            limits: config.limits.clone(),
        });
        background.spawn(service.clone().keep_recovering());
        background.spawn(watch_ledger(ledger));
        let stopping = watch::Sender::new(false);
        let app = Arc::new(App {
            service: service.clone(),
            identity,
            deployment: Deployment::new(config.deployment.statement.clone()),
            mailboxes: Mailboxes::default(),
            metrics: metrics.clone(),
            arrival_timeout: config.limits.arrival_timeout,
            stopping: stopping.subscribe(),
        });
        let public = server(&config.limits, public, http::router(app.clone()), metrics);
        // Not among the public connections' counts.
        let admin = server(&config.limits, admin, http::admin_router(app), Arc::default());
        let (public_address, admin_address) = (public.address()?, admin.address()?);
        let mut servers = JoinSet::new();
        servers.spawn(public.run(stopping.subscribe()));
        servers.spawn(admin.run(stopping.subscribe()));
        tracing::info!(public = %public_address, admin = %admin_address, "listening");
        Ok(Host {
            public: public_address,
            admin: admin_address,
            service,
            enclave_config: enclave_config(&config),
            stopping,
            servers,
            _background: background,
        })
    }

    /// Starts the enclaves.
    fn links(&mut self, metrics: &Arc<Metrics>) -> Result<Arc<Links>> {
        let config = &self.config;
        let release = match self.release.take() {
            Some(release) => release,
            None => {
                let cloud = Cloud::new(config.azure.clone(), &platform_variables());
                Arc::new(cloud.map_err(|error| anyhow!("azure: {error}"))?)
            }
        };
        let configured = || config.enclave.iter().map(EnclaveLink::connector).collect();
        let connectors = self.connectors.take().unwrap_or_else(configured);
        let setup = Setup {
            config: enclave_config(config),
            release,
            queue: config.limits.enclave_queue,
            evidence: config.azure.evidence,
            drain: config.limits.drain,
            metrics: metrics.clone(),
        };
        Ok(Links::start(connectors, setup))
    }
}

/// What the configuration hash is made of.
pub(crate) fn enclave_config(config: &Config) -> EnclaveConfig {
    EnclaveConfig {
        deployment: config.deployment.name.clone(),
        ledger_key: config.ledger.service_key,
        ledger_issuer: config.ledger.issuer.clone(),
        fresh_read: config.deployment.fresh_read,
    }
}

/// Hash of what an enclave of this configuration runs under: `config` of a deployment description.
pub fn enclave_hash(config: &Config) -> Result<Digest, Malformed> {
    config_hash(sha256, &enclave_config(config))
}

/// What the platform tells its workloads.
pub(crate) fn platform_variables() -> Environment {
    let known = |name: &str| name.starts_with("AZURE_") || name.starts_with("UVM_");
    std::env::vars().filter(|(name, _)| known(name)).collect()
}

fn server(limits: &Limits, listener: TcpListener, router: Router, metrics: Arc<Metrics>) -> Server {
    Server {
        listener,
        router,
        connections: limits.connections,
        arrival_timeout: limits.arrival_timeout,
        drain: limits.drain,
        metrics,
    }
}

impl Host {
    /// A host as configured; replace parts, then [`Builder::start`].
    pub fn builder(config: Config) -> Builder {
        Builder { config, connectors: None, release: None, storage: None }
    }

    /// Where clients connect.
    pub fn public_address(&self) -> SocketAddr {
        self.public
    }

    /// Where operators look.
    pub fn admin_address(&self) -> SocketAddr {
        self.admin
    }

    /// What it serves with: its links, its storage, its counts.
    pub fn service(&self) -> &Arc<Service> {
        &self.service
    }

    /// Returns when every link serves; false when that takes longer than `patience`.
    pub async fn ready(&self, patience: Duration) -> bool {
        let links = &self.service.parts().links;
        let mut ready = links.ready();
        let all = ready.wait_for(|ready| *ready >= links.count());
        tokio::time::timeout(patience, all).await.is_ok_and(|ready| ready.is_ok())
    }

    /// Replaces the enclaves, one at a time, by those that `config` lists. What enclaves are
    /// configured with may not change: that would be another deployment to every client.
    pub async fn reload(&self, config: &Config) -> Result<()> {
        if enclave_config(config) != self.enclave_config {
            bail!(
                "deployment.name, deployment.fresh_read, ledger.service_key or ledger.issuer changed: \
                 accounts cannot move to another configuration or ledger; put the old values back"
            );
        }
        let connectors = config.enclave.iter().map(EnclaveLink::connector).collect();
        self.service.parts().links.reload(connectors).await.map_err(|error| anyhow!(error))
    }

    /// Stops accepting, lets requests end, then ends the enclaves and closes the storage.
    pub async fn stop(mut self) {
        self.stopping.send_replace(true);
        while self.servers.join_next().await.is_some() {}
        self.service.parts().links.stop().await;
        tracing::info!("stopped");
    }
}

async fn bind(address: SocketAddr, key: &str) -> Result<TcpListener> {
    TcpListener::bind(address).await.with_context(|| format!("{key} = {address} cannot be bound"))
}

fn open_storage(
    config: &Config, metrics: &Arc<Metrics>, background: &mut JoinSet<()>,
) -> Result<Arc<dyn Storage>> {
    let options = sqlite::Options {
        cache_mib: config.storage.cache_mib,
        ..sqlite::Options::new(&config.storage.path)
    };
    let storage = Sqlite::open(&options)
        .with_context(|| format!("storage.path = {}", config.storage.path.display()))?;
    let (stats, metrics) = (storage.stats(), metrics.clone());
    background.spawn(async move {
        let mut tick = tokio::time::interval(Duration::from_secs(1));
        loop {
            tick.tick().await;
            let (transactions, operations) = (&stats.transactions, &stats.operations);
            metrics.storage_transactions.raise_to(transactions.load(Ordering::Relaxed));
            metrics.storage_operations.raise_to(operations.load(Ordering::Relaxed));
        }
    });
    Ok(Arc::new(storage))
}

/// Keeps what is known of the ledger's identity fresh, so that a change is told before it is met.
async fn watch_ledger(ledger: Arc<Ccf>) {
    let mut tick = tokio::time::interval(LOOK);
    loop {
        tick.tick().await;
        // What is wrong is logged where it is found.
        if let Err(error) = ledger.look().await {
            tracing::warn!("the ledger's identity: {error}");
        }
    }
}
