//! The enclaves: links that are started, unlocked, kept alive and spoken to.
//!
//! A `Link` is one enclave core. Its supervisor connects, boots it (configure, release, unlock,
//! evidence), serves, keeps its evidence fresh, and starts over by itself when it dies. A session
//! belongs to the boot whose channel key it was opened to; it dies with it, and its client opens
//! another. [`Links::reload`] replaces all of them, one at a time, while the others serve.

use crate::azure::KeyRelease;
use crate::journal::Journal;
use crate::metrics::{Counter, Metrics};
use crate::problem::{Kind, Problem};
use crate::retry::Backoff;
use bytes::Bytes;
use keyfold_protocol::host::{Config, HostRefusal, HostReply, HostRequest, OpenSession};
use keyfold_protocol::ids::{AccountId, ChannelKeyId, Digest, SessionId};
use keyfold_protocol::{limits, wire as encoding};
use std::collections::{HashMap, VecDeque};
use std::convert::Infallible;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::JoinSet;

mod boot;
mod frame;
mod transport;
mod wire;

pub(crate) use boot::Boot;
pub use boot::{BootError, Booted};
pub use frame::{Frame, items};
pub use transport::{Connect, Connection, Pipe, Vsock};
pub use wire::{CallError, Wire};

/// Sessions remembered per boot: more than the enclave's own table, which decides.
const SESSIONS: usize = 2 * limits::SESSIONS;

/// How long a new link may take to serve while others are replaced.
const BOOT_PATIENCE: Duration = Duration::from_secs(120);
/// Between two attempts at a fresh report, after the first that failed.
const EVIDENCE_RETRY: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(300));

/// What every link needs to boot and serve.
pub struct Setup {
    /// First frame of every boot.
    pub config: Config,
    /// Where the root key comes from.
    pub release: Arc<dyn KeyRelease>,
    /// Requests that may wait for one link.
    pub queue: usize,
    /// Between two reports for clients.
    pub evidence: Duration,
    /// For requests to end when a link is replaced.
    pub drain: Duration,
    /// Counts.
    pub metrics: Arc<Metrics>,
}

/// All enclaves of this host.
pub struct Links {
    links: RwLock<Vec<Supervised>>,
    shared: Arc<Shared>,
    reloading: tokio::sync::Mutex<()>,
}

/// What the supervisors share: the setup, how many links serve, and the root key that the first boot
/// brought.
struct Shared {
    setup: Setup,
    ready: watch::Sender<usize>,
    root: Mutex<Option<Digest>>,
}

/// A link, and the task that keeps it alive and ends with this.
struct Supervised {
    link: Arc<Link>,
    supervisor: JoinSet<()>,
}

struct Link {
    name: String,
    connector: Arc<dyn Connect>,
    shared: Arc<Shared>,
    state: RwLock<State>,
}

/// What a link does now.
#[derive(Default)]
struct State {
    live: Option<Arc<Live>>,
    /// Why the last boot failed.
    failed: Option<String>,
    /// Another has its place: whatever its supervisor still does, it serves nobody.
    retired: bool,
}

/// One boot of an enclave, in service.
pub struct Live {
    wire: Wire,
    booted: RwLock<Arc<Booted>>,
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
        let ready = watch::Sender::new(0);
        let shared = Arc::new(Shared { setup, ready, root: Mutex::default() });
        let links = Self { links: RwLock::default(), shared, reloading: Default::default() };
        connectors.into_iter().for_each(|connector| drop(links.add(connector)));
        Arc::new(links)
    }

    /// Puts a new enclave in the place of each, one at a time: a new one serves before an old one
    /// ends, except where both would be the same confidential VM, which serves one host at a time.
    /// Requests under way end; sessions are opened again by their clients.
    ///
    /// # Errors
    /// When a new one does not serve; those that were not replaced yet serve on.
    pub async fn reload(&self, connectors: Vec<Arc<dyn Connect>>) -> Result<(), String> {
        let Ok(_alone) = self.reloading.try_lock() else {
            return Err("the enclaves are being replaced already".into());
        };
        let mut old: VecDeque<_> = self.all().into();
        for connector in connectors {
            let same = |link: &Arc<Link>| {
                let address = link.connector.only_address();
                address.is_some() && address == connector.only_address()
            };
            let before = old.iter().position(same).and_then(|at| old.remove(at));
            if let Some(before) = &before {
                self.retire(before).await;
            }
            let link = self.add(connector);
            if !link.serves_within(BOOT_PATIENCE).await {
                let why = link.state().failed.clone().unwrap_or_else(|| "no answer".into());
                // In the place of one that has ended already it goes on trying.
                if before.is_none() {
                    self.retire(&link).await;
                }
                return Err(format!("{} does not serve: {why}", link.name));
            }
            if before.is_none()
                && let Some(next) = old.pop_front()
            {
                self.retire(&next).await;
            }
        }
        for link in old {
            self.retire(&link).await;
        }
        Ok(())
    }

    /// One more link.
    fn add(&self, connector: Arc<dyn Connect>) -> Arc<Link> {
        let link = Arc::new(Link {
            name: connector.describe(),
            connector,
            shared: self.shared.clone(),
            state: RwLock::default(),
        });
        let mut supervisor = JoinSet::new();
        supervisor.spawn(supervise(link.clone()));
        self.all_mut().push(Supervised { link: link.clone(), supervisor });
        link
    }

    /// Ends a link: it gets no more requests, those it has may end.
    async fn retire(&self, link: &Arc<Link>) {
        let supervised = {
            let mut links = self.all_mut();
            let at = links.iter().position(|known| Arc::ptr_eq(&known.link, link));
            at.map(|at| links.remove(at))
        };
        let live = link.live();
        link.retire();
        if let Some(live) = live {
            let idle = async {
                while live.wire.waiting() > 0 {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
            };
            // What takes longer is told that the enclave went away, and tried again by its client.
            let _ = tokio::time::timeout(self.shared.setup.drain, idle).await;
        }
        if let Some(mut supervised) = supervised {
            supervised.supervisor.shutdown().await;
        }
        tracing::info!(link = link.name, "enclave ended: another has its place");
    }

    /// The boot with this channel key.
    pub fn by_key(&self, key: &ChannelKeyId) -> Option<Arc<Live>> {
        self.live().find(|live| live.booted().channel_key_id == *key)
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
    pub fn live(&self) -> impl Iterator<Item = Arc<Live>> + use<> {
        self.all().into_iter().filter_map(|link| link.live())
    }

    /// Links that do not serve, and why their last boot failed.
    pub fn failing(&self) -> Vec<(String, String)> {
        let failed = |link: Arc<Link>| {
            let failed = link.state().failed.clone()?;
            Some((link.name.clone(), failed))
        };
        self.all().into_iter().filter_map(failed).collect()
    }

    /// Links, serving or not.
    pub fn count(&self) -> usize {
        self.links.read().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// Tells how many serve, now and whenever that changes.
    pub fn ready(&self) -> watch::Receiver<usize> {
        self.shared.ready.subscribe()
    }

    /// Ends all enclaves.
    pub async fn stop(&self) {
        let links = std::mem::take(&mut *self.all_mut());
        for Supervised { link, mut supervisor } in links {
            supervisor.shutdown().await;
            link.retire();
        }
    }

    fn all_mut(&self) -> std::sync::RwLockWriteGuard<'_, Vec<Supervised>> {
        self.links.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn all(&self) -> Vec<Arc<Link>> {
        let links = self.links.read().unwrap_or_else(PoisonError::into_inner);
        links.iter().map(|known| known.link.clone()).collect()
    }
}

impl Link {
    fn state(&self) -> std::sync::RwLockReadGuard<'_, State> {
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn live(&self) -> Option<Arc<Live>> {
        self.state().live.clone()
    }

    /// Serves from now on, or not any more.
    fn change(&self, change: impl FnOnce(&mut State)) {
        let difference = {
            let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
            let before = state.live.is_some();
            change(&mut state);
            if state.retired {
                state.live = None;
            }
            isize::from(state.live.is_some()) - isize::from(before)
        };
        self.shared.ready.send_modify(|count| {
            *count = count.saturating_add_signed(difference);
            let count = i64::try_from(*count).unwrap_or(i64::MAX);
            self.shared.setup.metrics.enclave_ready.set(count);
        });
    }

    fn retire(&self) {
        self.change(|state| state.retired = true);
    }

    async fn serves_within(&self, patience: Duration) -> bool {
        let mut ready = self.shared.ready.subscribe();
        let serves = ready.wait_for(|_| self.live().is_some());
        tokio::time::timeout(patience, serves).await.is_ok_and(|found| found.is_ok())
    }
}

impl Live {
    /// What the boot brought, with its newest evidence.
    pub fn booted(&self) -> Arc<Booted> {
        self.booted.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Opens a session for `owner`.
    pub async fn open_session(&self, owner: AccountId, enc: &[u8]) -> Result<SessionId, Problem> {
        let channel_key = self.booted().channel_key_id;
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
        lock(&self.sessions)
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
async fn supervise(link: Arc<Link>) {
    let metrics = &link.shared.setup.metrics;
    let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(30));
    loop {
        match bring_up(&link).await {
            Ok((live, mut wire)) => {
                backoff.reset();
                metrics.enclave_boots.with("ready", Counter::increment);
                let booted = live.booted();
                tracing::info!(
                    link = link.name,
                    config = %booted.config_hash,
                    root = %booted.root,
                    "enclave ready"
                );
                link.change(|state| (state.live, state.failed) = (Some(live.clone()), None));
                let ended = tokio::select! {
                    ended = wire.join_next() => ended,
                    never = keep_fresh(&link, &live) => match never {},
                };
                link.change(|state| state.live = None);
                let why = match ended {
                    Some(Ok(end)) => end.to_string(),
                    _ => "its task failed".to_owned(),
                };
                metrics.enclave_boots.with("lost", Counter::increment);
                tracing::error!(link = link.name, why, "enclave lost; starting it again");
            }
            Err(error) => {
                metrics.enclave_boots.with("failed", Counter::increment);
                let advice = error.step().advice();
                tracing::error!(link = link.name, "enclave does not boot: {error}. {advice}");
                link.change(|state| state.failed = Some(error.to_string()));
            }
        }
        tokio::time::sleep(backoff.next_wait()).await;
    }
}

/// Connects and boots. The second value is the task that carries the link's frames.
async fn bring_up(link: &Link) -> Result<(Arc<Live>, JoinSet<wire::End>), BootError> {
    let Shared { setup, root, .. } = &*link.shared;
    let connection = link.connector.connect().await.map_err(BootError::Connect)?;
    let mut task = JoinSet::new();
    let wire = Wire::start(connection, setup.queue, &mut task);
    let journal = Journal::default();
    let boot = Boot { wire: &wire, link: &link.name, release: &*setup.release, journal: &journal };
    let booted = boot.run(&setup.config).await?;
    let mut known = lock(root);
    match *known {
        Some(root) if root != booted.root => return Err(BootError::OtherRoot),
        _ => *known = Some(booted.root),
    }
    let (sessions, booted) = (Mutex::default(), RwLock::new(Arc::new(booted)));
    let live = Live { wire, booted, sessions, metrics: setup.metrics.clone() };
    Ok((Arc::new(live), task))
}

/// Gets a new report now and then, and the certificates for it: clients see no old one, and an update
/// of the firmware under a running enclave is told as soon as it shows. Until a new one is there,
/// the last one serves.
async fn keep_fresh(link: &Link, live: &Live) -> Infallible {
    let setup = &link.shared.setup;
    let mut backoff = Backoff::new(EVIDENCE_RETRY.0, EVIDENCE_RETRY.1);
    // Links that started together do not ask together.
    let jittered = || setup.evidence.mul_f64(0.5 + fastrand::f64() / 2.0);
    let mut wait = jittered();
    loop {
        tokio::time::sleep(wait).await;
        let (before, journal) = (live.booted(), Journal::default());
        let (release, wire) = (&*setup.release, &live.wire);
        let boot = Boot { wire, link: &link.name, release, journal: &journal };
        let outcome = match boot.evidence(before.config_hash, before.root).await {
            Ok(fresh) if fresh.channel_key_id == before.channel_key_id => {
                *live.booted.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(fresh);
                backoff.reset();
                wait = jittered();
                "fresh"
            }
            Ok(_) => {
                tracing::error!(link = link.name, "the enclave shows another channel key");
                wait = backoff.next_wait();
                "failed"
            }
            Err(error) => {
                tracing::error!(
                    link = link.name,
                    "no fresh evidence, the last one serves: {error}"
                );
                wait = backoff.next_wait();
                "failed"
            }
        };
        setup.metrics.evidence.with(outcome, Counter::increment);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
