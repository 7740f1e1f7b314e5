//! The enclaves: links that are started, unlocked, kept alive and spoken to.
//!
//! A `Link` is one enclave core. Its supervisor connects, boots it (configure, release, unlock,
//! evidence), serves, and starts over by itself when it dies. A session belongs to the boot whose
//! channel key it was opened to; it dies with it, and its client opens another.

use crate::azure::KeyRelease;
use crate::metrics::{Counter, Metrics};
use crate::problem::{Kind, Problem};
use crate::retry::Backoff;
use bytes::Bytes;
use keyfold_protocol::host::{Config, HostRefusal, HostReply, HostRequest, OpenSession};
use keyfold_protocol::ids::{AccountId, ChannelKeyId, Digest, SessionId};
use keyfold_protocol::{limits, wire as encoding};
use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::JoinSet;

mod boot;
mod frame;
mod transport;
mod wire;

pub use boot::{BootError, Booted};
pub use frame::{Frame, items};
pub use transport::{Connect, Connection, Pipe, Vsock};
pub use wire::{CallError, Wire};

/// Sessions remembered per boot: more than the enclave's own table, which decides.
const SESSIONS: usize = 2 * limits::SESSIONS;

/// What every link needs to boot and serve.
pub struct Setup {
    /// First frame of every boot.
    pub config: Config,
    /// Where the root key comes from.
    pub release: Arc<dyn KeyRelease>,
    /// Requests that may wait for one link.
    pub queue: usize,
    /// Counts.
    pub metrics: Arc<Metrics>,
}

/// All enclaves of this host.
pub struct Links {
    links: Vec<Arc<Link>>,
    ready: watch::Sender<usize>,
    supervisors: Mutex<JoinSet<()>>,
    metrics: Arc<Metrics>,
}

/// What the supervisors share: the setup, and the root key that the first boot brought.
struct Shared {
    setup: Setup,
    root: Mutex<Option<Digest>>,
}

struct Link {
    name: String,
    live: RwLock<Option<Arc<Live>>>,
}

/// One boot of an enclave, in service.
pub struct Live {
    wire: Wire,
    /// What the boot brought.
    pub booted: Booted,
    sessions: Mutex<Sessions>,
    metrics: Arc<Metrics>,
}

/// Who opened which session; the oldest are forgotten first.
#[derive(Default)]
struct Sessions {
    owners: HashMap<SessionId, AccountId>,
    order: VecDeque<SessionId>,
}

impl Links {
    /// Starts a supervisor per connector and returns at once.
    pub fn start(connectors: Vec<Arc<dyn Connect>>, setup: Setup) -> Arc<Self> {
        let link = |connector: &Arc<dyn Connect>| {
            Arc::new(Link { name: connector.describe(), live: RwLock::new(None) })
        };
        let links = Arc::new(Self {
            links: connectors.iter().map(link).collect(),
            ready: watch::Sender::new(0),
            supervisors: Mutex::new(JoinSet::new()),
            metrics: setup.metrics.clone(),
        });
        let shared = Arc::new(Shared { setup, root: Mutex::default() });
        let mut supervisors = links.supervisors.lock().unwrap_or_else(PoisonError::into_inner);
        for (link, connector) in links.links.iter().zip(connectors) {
            let ready = links.ready.clone();
            supervisors.spawn(supervise(link.clone(), connector, shared.clone(), ready));
        }
        drop(supervisors);
        links
    }

    /// The boot with this channel key.
    pub fn by_key(&self, key: &ChannelKeyId) -> Option<Arc<Live>> {
        self.live().find(|live| live.booted.channel_key_id == *key)
    }

    /// The boot in which this person opened this session.
    pub fn by_session(&self, session: &SessionId, owner: &AccountId) -> Option<Arc<Live>> {
        self.live().find(|live| live.sessions().owners.get(session) == Some(owner))
    }

    /// Any boot that serves: what is not about a session can go to each.
    pub fn any(&self) -> Option<Arc<Live>> {
        self.live().min_by_key(|live| live.wire.waiting())
    }

    /// All boots that serve.
    pub fn live(&self) -> impl Iterator<Item = Arc<Live>> + '_ {
        self.links.iter().filter_map(|link| link.live())
    }

    /// Links, serving or not.
    pub fn count(&self) -> usize {
        self.links.len()
    }

    /// Tells how many serve, now and whenever that changes.
    pub fn ready(&self) -> watch::Receiver<usize> {
        self.ready.subscribe()
    }

    /// Ends all enclaves.
    pub async fn stop(&self) {
        let mut supervisors =
            std::mem::take(&mut *self.supervisors.lock().unwrap_or_else(PoisonError::into_inner));
        supervisors.shutdown().await;
        for link in &self.links {
            link.set(None);
        }
        self.ready.send_replace(0);
        self.metrics.enclave_ready.set(0);
    }
}

impl Link {
    fn live(&self) -> Option<Arc<Live>> {
        self.live.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set(&self, live: Option<Arc<Live>>) {
        *self.live.write().unwrap_or_else(PoisonError::into_inner) = live;
    }
}

impl Live {
    /// Opens a session for `owner`.
    pub async fn open_session(&self, owner: AccountId, enc: &[u8]) -> Result<SessionId, Problem> {
        let channel_key = self.booted.channel_key_id;
        let request = HostRequest::OpenSession(OpenSession { channel_key, encapsulated_key: enc });
        let reply = self.ask(&request, enc.len()).await?;
        match encoding::decode(&reply) {
            Ok(HostReply::Session(session)) => {
                self.sessions().insert(session, owner);
                Ok(session)
            }
            Ok(HostReply::Refused(refusal)) => Err(self.refused(refusal)),
            other => Err(unexpected(&other)),
        }
    }

    /// One frame, one reply, not decoded yet. `size` is about what the frame's slices add up to.
    pub async fn ask(&self, request: &HostRequest<'_>, size: usize) -> Result<Bytes, Problem> {
        let frame = Frame::encode(request, size)
            .map_err(|_| Kind::Malformed.because("The request does not fit into a frame"))?;
        let started = std::time::Instant::now();
        self.metrics.enclave_waiting.add(1);
        let reply = self.wire.call(frame).await;
        self.metrics.enclave_waiting.add(-1);
        self.metrics.enclave_time.observe(started.elapsed());
        reply.map_err(|error| match error {
            CallError::Down => Kind::EnclaveStarting.into(),
            CallError::Full => Kind::Overloaded.into(),
        })
    }

    /// What a refusal of the core means to the client.
    pub fn refused(&self, refusal: HostRefusal) -> Problem {
        match refusal {
            HostRefusal::ChannelKey => Kind::ChannelKeyUnknown.into(),
            HostRefusal::UnknownSession => Kind::SessionUnknown.into(),
            HostRefusal::Frame => Kind::FrameRefused.into(),
            HostRefusal::State => {
                tracing::error!("the enclave refuses stored state: damaged, or of another key");
                Kind::StoredStateRefused.into()
            }
            HostRefusal::Receipt => {
                tracing::error!("the enclave refuses the ledger's receipt");
                Kind::LedgerRefused.into()
            }
            HostRefusal::WrongPhase | HostRefusal::Platform | HostRefusal::Unwrap => {
                tracing::error!(?refusal, "the enclave cannot serve: it is started anew");
                self.wire.hang_up();
                Kind::EnclaveStarting.into()
            }
            HostRefusal::Malformed => {
                tracing::error!("the enclave calls a frame of this host malformed");
                Kind::Internal.into()
            }
        }
    }

    /// Forgets a session that the enclave no longer knows.
    pub fn forget(&self, session: &SessionId) {
        self.sessions().owners.remove(session);
    }

    fn sessions(&self) -> std::sync::MutexGuard<'_, Sessions> {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A reply of another kind than the request asks for: host and enclave are not of one release.
pub(crate) fn unexpected(reply: &Result<HostReply, encoding::Malformed>) -> Problem {
    let kind = match reply {
        Ok(_) => "of another kind than asked for",
        Err(_) => "malformed",
    };
    tracing::error!("the enclave's reply is {kind}: are host and enclave of one release?");
    Kind::Internal.into()
}

impl Sessions {
    fn insert(&mut self, session: SessionId, owner: AccountId) {
        if self.owners.insert(session, owner).is_none() {
            self.order.push_back(session);
        }
        while self.order.len() > SESSIONS {
            if let Some(oldest) = self.order.pop_front() {
                self.owners.remove(&oldest);
            }
        }
    }
}

/// Brings a link up whenever it is down, until the task is aborted.
async fn supervise(
    link: Arc<Link>, connector: Arc<dyn Connect>, shared: Arc<Shared>, ready: watch::Sender<usize>,
) {
    let setup = &shared.setup;
    let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(30));
    loop {
        match bring_up(&*connector, &shared).await {
            Ok((live, mut wire)) => {
                backoff.reset();
                setup.metrics.enclave_boots.with("ready", Counter::increment);
                tracing::info!(
                    link = link.name,
                    config = %live.booted.config_hash,
                    root = %live.booted.root,
                    "enclave ready"
                );
                link.set(Some(live));
                announce(&ready, &setup.metrics, 1);
                let ended = wire.join_next().await;
                link.set(None);
                announce(&ready, &setup.metrics, -1);
                let why = match ended {
                    Some(Ok(end)) => end.to_string(),
                    _ => "its task failed".to_owned(),
                };
                setup.metrics.enclave_boots.with("lost", Counter::increment);
                tracing::error!(link = link.name, why, "enclave lost; starting it again");
            }
            Err(error) => {
                setup.metrics.enclave_boots.with("failed", Counter::increment);
                tracing::error!(link = link.name, "enclave does not boot: {error}");
            }
        }
        tokio::time::sleep(backoff.next_wait()).await;
    }
}

fn announce(ready: &watch::Sender<usize>, metrics: &Metrics, change: isize) {
    ready.send_modify(|count| {
        *count = count.saturating_add_signed(change);
        metrics.enclave_ready.set(i64::try_from(*count).unwrap_or(i64::MAX));
    });
}

/// Connects and boots. The second value is the task that carries the link's frames.
async fn bring_up(
    connector: &dyn Connect, Shared { setup, root }: &Shared,
) -> Result<(Arc<Live>, JoinSet<wire::End>), BootError> {
    let connection = connector.connect().await.map_err(BootError::Connect)?;
    let mut task = JoinSet::new();
    let wire = Wire::start(connection, setup.queue, &mut task);
    let booted = boot::boot(&wire, &setup.config, &*setup.release).await?;
    let mut known = root.lock().unwrap_or_else(PoisonError::into_inner);
    match *known {
        Some(root) if root != booted.root => return Err(BootError::OtherRoot),
        _ => *known = Some(booted.root),
    }
    let sessions = Mutex::default();
    let live = Live { wire, booted, sessions, metrics: setup.metrics.clone() };
    Ok((Arc::new(live), task))
}

#[cfg(test)]
mod tests;
