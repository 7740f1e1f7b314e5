//! The client: one account's view of one deployment, and how a request travels.
//!
//! Everything here goes through [`Client::deliver`]: deployment verified, signed in, session open,
//! request signed and sealed, reply opened, versions compared with what this device has seen and
//! written down, and only then the reply acted on. What can be mended without the person is mended
//! here: a session or enclave that is gone, a sign-in the host does not take, a busy service, a
//! state that the ledger does not confirm yet.

use std::sync::Arc;

use keyfold_protocol::client::{
    Class, Device, Envelope, KeyKind, Recover, Refusal, Request, SignedRequest, Success,
};
use keyfold_protocol::ids::{Account, AccountId, Digest};
use keyfold_protocol::{limits, transcript, wire};
use tokio::sync::Mutex;
use zeroize::Zeroizing;

use crate::channel::{ChannelError, Reply, Session};
use crate::crypto::sha256;
use crate::deployment::{self, Deployment, Settings};
use crate::device::DeviceKeys;
use crate::error::{Error, Fork, Problem};
use crate::host::{Host, Standing};
use crate::http::{self, Attempts};
use crate::identity::{SignIn, SignIns, TokenSource};
use crate::store::{AccountState, Store};

/// One device of one account at one deployment. Cheap to clone; clones share everything.
///
/// Methods may be called at the same time, and several processes may share a store: whoever comes
/// second syncs and signs again.
#[derive(Clone)]
pub struct Client(Arc<Inner>);

struct Inner {
    settings: Settings,
    host: Host,
    store: Store,
    keys: Arc<dyn DeviceKeys>,
    sign_ins: SignIns,
    connection: Mutex<Connection>,
}

/// What is verified and opened on first use, and again when the host says it is gone.
#[derive(Default)]
struct Connection {
    deployment: Option<Arc<Deployment>>,
    session: Option<Arc<Session>>,
}

/// A request about to be sent.
pub(crate) struct Ask<'a> {
    pub(crate) request: &'a Request,
    pub(crate) class: Class,
    pub(crate) key: KeyKind,
}

impl Ask<'_> {
    /// Whether it may cost a try. At version 0 no account stands: that only asks where it does.
    fn is_try(&self) -> bool {
        matches!(self.request, Request::Recover(Recover { guard: 1.., .. }))
    }
}

impl Client {
    /// Talks to nobody yet.
    ///
    /// # Errors
    /// [`crate::deployment::DeploymentError::Url`] when the URL is not one to talk to.
    pub fn new(
        settings: Settings, store: Store, keys: Arc<dyn DeviceKeys>, sign_in: Arc<dyn TokenSource>,
    ) -> Result<Self, Error> {
        let http = http::client()?;
        let host = Host::new(http.clone(), &settings.url)?;
        let sign_ins = SignIns::new(http, store.clone(), sign_in);
        let connection = Mutex::default();
        Ok(Self(Arc::new(Inner { settings, host, store, keys, sign_ins, connection })))
    }

    /// The verified deployment; verified now if it was not yet. Waits for an enclave that is just
    /// starting.
    ///
    /// # Errors
    /// [`Error::Deployment`] says which check failed; [`Error::Unreachable`], [`Error::Host`].
    pub async fn deployment(&self) -> Result<Arc<Deployment>, Error> {
        let mut attempts = Attempts::new();
        loop {
            match self.try_deployment().await {
                Err(Error::Host(problem)) if is_busy(&problem) => {
                    if !attempts.again(problem.retry_after).await {
                        return Err(problem.into());
                    }
                }
                other => return other,
            }
        }
    }

    /// For those who try again by themselves.
    async fn try_deployment(&self) -> Result<Arc<Deployment>, Error> {
        let mut connection = self.0.connection.lock().await;
        self.verified(&mut connection).await
    }

    /// Signs in now, where every request otherwise does by itself; returns whose account it is.
    /// With `fresh`, a sign-in of the last minutes is needed.
    ///
    /// # Errors
    /// [`Error::Identity`]; [`Error::OtherAccount`]; what [`Self::deployment`] can give.
    pub async fn sign_in(&self, fresh: bool) -> Result<AccountId, Error> {
        self.deployment().await?;
        Ok(self.signed_in(fresh).await?.account_id())
    }

    /// Opens a session now, where the first request otherwise does by itself.
    ///
    /// # Errors
    /// [`Error::Host`], [`Error::Unreachable`]; what [`Self::sign_in`] can give.
    pub async fn connect(&self) -> Result<(), Error> {
        self.deployment().await?;
        let sign_in = self.signed_in(false).await?;
        self.session(&sign_in).await.map(drop)
    }

    /// Where local state is kept.
    pub fn store(&self) -> &Store {
        &self.0.store
    }

    /// This device's keys.
    pub fn keys(&self) -> &dyn DeviceKeys {
        &*self.0.keys
    }

    pub(crate) fn host(&self) -> &Host {
        &self.0.host
    }

    /// Verifies the deployment anew: another statement may be served by now.
    pub(crate) async fn verify_again(&self) -> Result<Arc<Deployment>, Error> {
        let mut connection = self.0.connection.lock().await;
        *connection = Connection::default();
        self.verified(&mut connection).await
    }

    /// The state of the account that this device is registered with.
    pub(crate) fn registered(&self) -> Result<AccountState, Error> {
        let state = self.0.store.load()?.account.ok_or(Error::NotRegistered)?;
        if state.registered { Ok(state) } else { Err(Error::NotRegistered) }
    }

    /// Changes this account's state; no other process does so meanwhile.
    pub(crate) fn update<T>(
        &self, account: Account, change: impl FnOnce(&mut AccountState) -> Result<T, Error>,
    ) -> Result<T, Error> {
        self.0.store.update(|state| match &mut state.account {
            Some(known) if known.account() == account => change(known),
            // Deleted meanwhile: what comes late is not written into the next one.
            Some(_) => Err(Error::Refused(Refusal::Closed)),
            None => Err(Error::NotRegistered),
        })
    }

    /// Signs in at the issuer of the verified statement.
    pub(crate) async fn signed_in(&self, fresh: bool) -> Result<Arc<SignIn>, Error> {
        let deployment = self.try_deployment().await?;
        let sign_in = self.0.sign_ins.get(deployment.statement().identity(), fresh).await?;
        let expected = self.0.store.load()?.account.map(|account| account.id);
        let found = sign_in.account_id();
        match expected {
            Some(expected) if expected != found => Err(Error::OtherAccount { expected, found }),
            _ => Ok(sign_in),
        }
    }

    /// Where the account of whoever signs in stands, as the host says. For a device that belongs to
    /// none: everybody else knows better.
    pub(crate) async fn standing(&self) -> Result<Option<Standing>, Error> {
        let mut attempts = Attempts::new();
        let mut asked_person = false;
        loop {
            let sign_in = self.signed_in(false).await?;
            let error = match self.0.host.account(sign_in.bearer()).await {
                Ok(standing) => return Ok(standing),
                Err(error) => error,
            };
            let mut wait = None;
            match &error {
                Error::Host(problem) if problem.name == "sign-in-required" && !asked_person => {
                    asked_person = true;
                    self.0.sign_ins.forget().await;
                }
                Error::Host(problem) if is_busy(problem) => wait = problem.retry_after,
                Error::Unreachable(_) => {}
                _ => return Err(error),
            }
            if !attempts.again(wait).await {
                return Err(error);
            }
        }
    }

    /// Sends a request for `account` until it is answered, refused, or not to be helped. The
    /// guard version the reply states has been written down when this returns.
    pub(crate) async fn deliver(&self, account: Account, ask: &Ask<'_>) -> Result<Reply, Error> {
        let mut attempts = Attempts::new();
        let mut fresh = matches!(ask.class, Class::Enroll | Class::GuardFresh | Class::Recover);
        let mut asked_person = false;
        loop {
            let mut sent = false;
            let error = match self.try_deliver(account, ask, fresh, &mut sent).await {
                Ok(reply) => return Ok(reply),
                Err(error) => error,
            };
            if sent && ask.is_try() && error.outcome_unknown() {
                // It may have cost a try: not sent again, whatever the reason.
                return Err(Error::TryUnanswered(Box::new(error)));
            }
            let mut wait = None;
            match &error {
                Error::Host(problem) => match problem.name.as_str() {
                    "session-unknown" => self.0.connection.lock().await.session = None,
                    "channel-key-unknown" => {
                        *self.0.connection.lock().await = Connection::default();
                    }
                    "sign-in-required" | "fresh-sign-in-required" if !asked_person => {
                        fresh |= problem.name == "fresh-sign-in-required";
                        asked_person = true;
                        self.0.sign_ins.forget().await;
                    }
                    _ if is_busy(problem) => wait = problem.retry_after,
                    _ => return Err(error),
                },
                Error::Unreachable(unreachable) if !unreachable.may_have_arrived => {}
                // Another change may have reached the ledger and not yet the host's storage.
                Error::Refused(Refusal::NotFresh) => {}
                _ => return Err(error),
            }
            tracing::debug!(%error, "trying again");
            if !attempts.again(wait).await {
                return Err(error);
            }
        }
    }

    async fn try_deliver(
        &self, account: Account, ask: &Ask<'_>, fresh: bool, is_sent: &mut bool,
    ) -> Result<Reply, Error> {
        let sign_in = self.signed_in(fresh).await?;
        let session = self.session(&sign_in).await?;
        let known = self.0.store.load()?.account.filter(|known| known.account() == account);
        let mut buffer = Zeroizing::new(vec![0; limits::REQUEST]);
        let used = wire::encode(ask.request, &mut buffer).map_err(|_| ChannelError::TooLong)?;
        let request = &buffer[..used];

        let turn = session.turn();
        let guard_seen = known.map_or(0, |known| known.guard_seen);
        let message = turn.signed_bytes(&account, ask.key, guard_seen, request);
        let signature = self.0.keys.sign(ask.key, &message).await?;
        let device = match ask.request {
            Request::Recover(Recover { device: Device { device_key, uv_key, .. }, .. }) => {
                transcript::device_id(sha256, device_key, uv_key)
            }
            _ => self.0.keys.id(),
        };
        let signed = SignedRequest { device, key: ask.key, guard_seen, signature, request };
        let sent = turn.seal(&account, &signed)?;

        let (counter, class, frame) = (sent.counter(), ask.class, sent.frame());
        let envelope = Envelope { account, counter, class, frame };
        *is_sent = true;
        let sealed = self.0.host.request(sign_in.bearer(), &session.id(), &envelope).await?;
        let reply = sent.open(&sealed)?;
        self.note(account, &reply, guard_seen)?;
        Ok(reply)
    }

    /// Compares the guard version of a reply with what was signed, and writes it down. Turns a
    /// refusal into the error it is.
    fn note(&self, account: Account, reply: &Reply, known: u64) -> Result<(), Error> {
        let came = match reply.outcome()? {
            Ok(success) => guard_of(&success),
            Err(refusal @ (Refusal::StaleGuard | Refusal::StaleVault | Refusal::BrokenChain)) => {
                return Err(Fork::RefusedState(refusal).into());
            }
            Err(refusal) => return Err(Error::Refused(refusal)),
        };
        if came < known {
            return Err(Fork::GuardRolledBack { known, came }.into());
        }
        self.update(account, |state| {
            state.guard_seen = state.guard_seen.max(came);
            Ok(())
        })
    }

    async fn session(&self, sign_in: &SignIn) -> Result<Arc<Session>, Error> {
        let mut connection = self.0.connection.lock().await;
        if let Some(session) = &connection.session {
            return Ok(session.clone());
        }
        let deployment = self.verified(&mut connection).await?;
        let enclave = deployment.enclave();
        let config = Digest(*enclave.config().as_bytes());
        let session = Arc::new(Session::open(&config, enclave.public_key())?);
        self.0.host.open_session(sign_in.bearer(), session.opening()).await?;
        connection.session = Some(session.clone());
        Ok(session)
    }

    async fn verified(&self, connection: &mut Connection) -> Result<Arc<Deployment>, Error> {
        if let Some(deployment) = &connection.deployment {
            return Ok(deployment.clone());
        }
        let Inner { host, settings, store, .. } = &*self.0;
        let deployment = deployment::verify(host, settings, store).await?;
        connection.deployment = Some(deployment.clone());
        Ok(deployment)
    }
}

fn guard_of(success: &Success) -> u64 {
    match success {
        Success::GuardChanged(changed) => changed.guard,
        Success::Put(put) => put.guard,
        Success::Created(created) => created.put.guard,
        Success::Asserted(asserted) => asserted.guard,
        Success::Synced(synced) => synced.guard,
        Success::Status(status) => status.guard,
        Success::Audited(audited) => audited.guard,
    }
}

/// Whether the service says: later. For its ledger it has waited itself.
fn is_busy(problem: &Problem) -> bool {
    [429, 503].contains(&problem.status) && problem.name != "ledger-unreachable"
}

/// Whether the account's guard is not the one a request was signed for.
pub(crate) fn guard_moved(error: &Error) -> bool {
    match error {
        Error::Refused(Refusal::GuardMoved) => true,
        Error::Host(problem) => problem.name == "guard-moved",
        _ => false,
    }
}

/// Whether the vault is not at the point a request was signed for.
pub(crate) fn sync_first(error: &Error) -> bool {
    match error {
        Error::Refused(Refusal::SyncFirst) => true,
        Error::Host(problem) => problem.name == "sync-first",
        _ => false,
    }
}
