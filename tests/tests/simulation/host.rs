//! A host: the real service over parts that fail.

use std::sync::Arc;
use std::time::Duration;

use jsonwebtoken::Algorithm;
use keyfold_host::config;
use keyfold_host::enclave::{Connect, Links, Setup};
use keyfold_host::identity::Identity;
use keyfold_host::metrics::Metrics;
use keyfold_host::service::{Parts, Service};
use keyfold_protocol::host::{Config, FreshRead};
use keyfold_tests::enclave;

use crate::disk::{self, Disk};
use crate::enclaves::{Compared, Cores, Socket, TheKey};
use crate::faults::{Chance, Power};
use crate::history::{Opened, Seen};
use crate::ledger::{self, Record};
use crate::people::Envelopes;

/// What all hosts of a run share.
pub(crate) struct Surroundings {
    pub(crate) chance: Chance,
    pub(crate) record: Record,
    pub(crate) compared: Compared,
    pub(crate) cores: Cores,
    pub(crate) envelopes: Envelopes,
    pub(crate) seen: Seen,
    pub(crate) opened: Opened,
    pub(crate) config: Config,
    identity: Arc<Identity>,
}

/// A running host.
pub(crate) struct Host {
    pub(crate) service: Arc<Service>,
    pub(crate) power: Power,
    /// What clients post is written down here.
    pub(crate) envelopes: Envelopes,
}

/// How often parts fail, once in so many uses; none for never.
#[derive(Clone, Copy, Default)]
pub(crate) struct Weather {
    pub(crate) disk: Option<usize>,
    pub(crate) ledger: Option<usize>,
    pub(crate) enclave: Option<usize>,
}

impl Surroundings {
    pub(crate) fn new(chance: Chance) -> Self {
        let record = Record::new();
        let config = record.with_book(|book| enclave::config(book, FreshRead::Reports));
        let identity = config::Identity {
            issuer: "https://issuer.example".into(),
            audience: "keyfold".into(),
            algorithms: vec![Algorithm::RS256],
            leeway: Duration::ZERO,
        };
        // Never asked: the people here have signed in already.
        let http = reqwest::Client::new();
        let identity = Arc::new(Identity::new(identity, http, Arc::default()));
        Self {
            chance,
            record,
            compared: Compared::default(),
            cores: Cores::default(),
            envelopes: Envelopes::default(),
            seen: Seen::default(),
            opened: Opened::default(),
            config,
            identity,
        }
    }

    /// Starts a host on a disk; returns when its enclaves serve, or cannot.
    pub(crate) async fn host(&self, disk: &Disk, weather: Weather) -> Host {
        let power = Power::default();
        let chance = || self.chance.clone();
        let socket = || -> Arc<dyn Connect> {
            let (power, compared) = (power.clone(), self.compared.clone());
            let cores = self.cores.clone();
            Arc::new(Socket { cores, power, chance: chance(), compared, fails: weather.enclave })
        };
        let metrics = Arc::<Metrics>::default();
        let setup = Setup {
            config: self.config.clone(),
            release: Arc::new(TheKey),
            queue: 64,
            evidence: Duration::from_secs(3600),
            drain: Duration::from_secs(1),
            metrics: metrics.clone(),
        };
        let links = Links::start(vec![socket(), socket()], setup);
        let mut ready = links.ready();
        let _ = tokio::time::timeout(Duration::from_secs(60), ready.wait_for(|n| *n > 0)).await;
        let limits = config::Limits {
            fresh_operations_per_hour: u32::MAX,
            changes_per_minute: u32::MAX,
            sessions_per_minute: u32::MAX,
            ..config::Limits::default()
        };
        let service = Service::new(Parts {
            storage: Arc::new(disk::Reached {
                disk: disk.clone(),
                seen: self.seen.clone(),
                power: power.clone(),
                chance: chance(),
                fails: weather.disk,
            }),
            ledger: Arc::new(ledger::Reached {
                record: self.record.clone(),
                power: power.clone(),
                chance: chance(),
                fails: weather.ledger,
            }),
            links,
            identity: self.identity.clone(),
            metrics,
            fresh_read: self.config.fresh_read,
            limits,
        });
        Host { service, power, envelopes: self.envelopes.clone() }
    }
}
