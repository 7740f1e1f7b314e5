//! One request from envelope to reply: load what its class needs, let the core decide, write, forward.
//!
//! Promises: a reply is forwarded only after its writes are durable; a guard change goes stage, append,
//! commit, and what a crash leaves between them is finished by [`Service::recover`]; a conflict goes
//! back to the client, never around it.

use crate::clock::unix_now;
use crate::config::Limits;
use crate::enclave::{Links, Live, items, unexpected};
use crate::identity::{Identity, Person, sha256};
use crate::ledger::{Ledger, LedgerError};
use crate::metrics::{Counter, Metrics};
use crate::problem::{Kind, Problem};
use crate::storage::{
    Heads, Loaded, PutOutcome, PutWrite, StagedKey, Storage, StorageError, Versioned, Want,
};
use bytes::Bytes;
use keyfold_protocol::client::{Class, Envelope};
use keyfold_protocol::host::{
    Attached, AttachedEvent, Claimed, FreshRead, Handle, HostRefusal, HostReply, HostRequest,
};
use keyfold_protocol::ids::{Account, AccountId, ChannelKeyId, LedgerTag, SessionId};
use keyfold_protocol::limits;
use keyfold_protocol::wire::{self, Items};
use std::cmp::Ordering;
use std::collections::HashSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::Notify;

mod changes;
mod guard;
mod rate;

pub use changes::Changes;
use rate::Rates;

/// Everything a request can need.
pub struct Service {
    parts: Parts,
    /// Tells open event streams.
    pub changes: Changes,
    /// Enrolments and other changes that need a fresh sign-in.
    fresh_changes: Rates,
    /// Recoveries.
    tries: Rates,
    /// All other changes.
    changes_made: Rates,
    sessions: Rates,
    finishing: Mutex<HashSet<StagedKey>>,
    recover_soon: Notify,
}

/// What a [`Service`] works with.
pub struct Parts {
    /// State.
    pub storage: Arc<dyn Storage>,
    /// Freshness.
    pub ledger: Arc<dyn Ledger>,
    /// Cores.
    pub links: Arc<Links>,
    /// People.
    pub identity: Arc<Identity>,
    /// Counts.
    pub metrics: Arc<Metrics>,
    /// Which requests read the ledger.
    pub fresh_read: FreshRead,
    /// What one account may ask for.
    pub limits: Limits,
}

impl Service {
    /// Ready to serve as soon as a link is.
    pub fn new(parts: Parts) -> Arc<Self> {
        let (hour, minute) = (Duration::from_secs(3600), Duration::from_secs(60));
        let limits = &parts.limits;
        Arc::new(Self {
            fresh_changes: Rates::new(limits.fresh_operations_per_hour, hour),
            tries: Rates::new(limits.fresh_operations_per_hour, hour),
            changes_made: Rates::new(limits.changes_per_minute, minute),
            sessions: Rates::new(limits.sessions_per_minute, minute),
            parts,
            changes: Changes::default(),
            finishing: Mutex::default(),
            recover_soon: Notify::new(),
        })
    }

    /// What the service works with.
    pub fn parts(&self) -> &Parts {
        &self.parts
    }

    /// Opens a session: a channel key id, then an encapsulated key.
    pub async fn open_session(&self, person: &Person, body: &[u8]) -> Result<SessionId, Problem> {
        let (key, enc) = match body.split_first_chunk::<32>() {
            Some((key, enc)) if enc.len() == limits::ENCAPSULATED_KEY => (ChannelKeyId(*key), enc),
            _ => return Err(Kind::Malformed.because("A session takes 32 + 1120 bytes")),
        };
        self.sessions.take(&person.id)?;
        match self.parts.links.by_key(&key) {
            Some(live) => live.open_session(person.id, enc).await,
            None if self.parts.links.any().is_none() => Err(Kind::EnclaveStarting.into()),
            None => Err(Kind::ChannelKeyUnknown.into()),
        }
    }

    /// Carries an envelope to the core and brings the sealed reply back.
    pub async fn request(
        self: &Arc<Self>, person: Person, session: SessionId, body: Bytes,
    ) -> Result<Bytes, Problem> {
        let envelope: Envelope =
            wire::decode(&body).map_err(|_| Kind::Malformed.because("The body is no envelope"))?;
        let class = envelope.class;
        let result = match class {
            // What touches the guard runs to its end, whether or not the client stays to hear it.
            Class::Enroll | Class::Guard | Class::GuardFresh | Class::Recover => {
                let service = self.clone();
                let body = body.clone();
                let task = tokio::spawn(async move {
                    let envelope =
                        wire::decode(&body).map_err(|_| Problem::from(Kind::Internal))?;
                    service.serve(person, session, envelope).await
                });
                task.await.unwrap_or_else(|_| Err(Kind::Internal.into()))
            }
            _ => self.serve(person, session, envelope).await,
        };
        let outcome = result.as_ref().map_or_else(|problem| problem.kind.name(), |_| "ok");
        self.parts.metrics.requests.with((class_name(class), outcome), Counter::increment);
        result
    }

    async fn serve(
        &self, person: Person, session: SessionId, envelope: Envelope<'_>,
    ) -> Result<Bytes, Problem> {
        // 1. Who may ask.
        if envelope.account.id != person.id {
            return Err(Kind::AccountMismatch.into());
        }
        if envelope.frame.len() > limits::REQUEST {
            return Err(Kind::TooLarge.into());
        }
        if matches!(envelope.class, Class::Enroll | Class::GuardFresh | Class::Recover) {
            self.parts.identity.require_fresh(&person)?;
        }
        let live = self.parts.links.by_session(&session, &person.id);
        let live = live.ok_or(Kind::SessionUnknown)?;
        if matches!(envelope.class, Class::Put(_) | Class::Guard) {
            self.changes_made.take(&person.id)?;
        }
        // 2. What the core needs.
        let loaded = self.load(&envelope).await?;
        let receipt = match &loaded.guard {
            Some(guard) if self.reads_ledger(envelope.class) => {
                Some(self.fresh(&guard.tag, envelope.frame).await?)
            }
            _ => None,
        };
        // 3. What the core says.
        let reply = self.handle(&live, session, &envelope, &loaded, receipt.as_deref()).await?;
        // 4. What has to be durable first.
        self.conclude(&live, session, &envelope, &reply).await
    }

    async fn load(&self, envelope: &Envelope<'_>) -> Result<Loaded, Problem> {
        let want = wanted(envelope.class);
        if envelope.class == Class::Enroll {
            self.check_opening(&envelope.account).await?;
            // What the account before ended with; before the first there was none.
            let generation = envelope.account.generation.saturating_sub(1);
            let before = Account { generation, ..envelope.account };
            return self.parts.storage.load(&before, want).await.map_err(stored);
        }
        let loaded = self.parts.storage.load(&envelope.account, want).await.map_err(stored)?;
        if loaded.guard.is_some() { Ok(loaded) } else { Err(Kind::AccountUnknown.into()) }
    }

    /// A person's accounts follow one another: the next opens when the one before has ended.
    async fn check_opening(&self, account: &Account) -> Result<(), Problem> {
        let heads = self.parts.storage.heads(account.id).await.map_err(stored)?;
        let next = heads.map_or(1, |heads| heads.generation + u32::from(heads.closed));
        match account.generation.cmp(&next) {
            Ordering::Less => Err(Kind::GuardMoved.because("That account has ended")),
            Ordering::Equal if heads.is_some_and(|heads| !heads.closed) => {
                Err(Kind::GuardMoved.because("The account is open already"))
            }
            Ordering::Equal => Ok(()),
            Ordering::Greater => {
                Err(Kind::Malformed.because(format!("The next account is generation {next}")))
            }
        }
    }

    fn reads_ledger(&self, class: Class) -> bool {
        matches!(class, Class::Status | Class::Audit(_))
            || (self.parts.fresh_read == FreshRead::Always && class != Class::Enroll)
    }

    /// A ledger read that can only be this frame's.
    async fn fresh(&self, tag: &LedgerTag, frame: &[u8]) -> Result<Bytes, Problem> {
        self.parts.ledger.read(tag, &sha256(&[frame])).await.map_err(ledger)
    }

    async fn handle(
        &self, live: &Live, session: SessionId, envelope: &Envelope<'_>, loaded: &Loaded,
        fresh: Option<&[u8]>,
    ) -> Result<Bytes, Problem> {
        let too_large = |_| Kind::Internal.because("A page does not fit into a frame");
        let events = loaded
            .events
            .iter()
            .map(|stored| AttachedEvent { event: stored.event, record: stored.record.as_deref() });
        let largest = limits::RECORD_PADDED + limits::SEAL_OVERHEAD;
        let events = items(events, EVENT + largest).map_err(too_large)?;
        let audit = loaded.audit.iter().map(Vec::as_slice);
        let audit = items(audit, EVENT + limits::AUDIT_PADDED + limits::SEAL_OVERHEAD);
        let audit = audit.map_err(too_large)?;
        let guard = loaded.guard.as_ref();
        let request = HostRequest::Handle(Handle {
            session,
            account: envelope.account,
            counter: envelope.counter,
            class: envelope.class,
            frame: envelope.frame,
            time: Claimed(unix_now()),
            guard: guard.map(|guard| attached(guard.version, &guard.sealed)),
            vault: loaded.vault.as_ref().map(attached_object),
            record: loaded.record.as_ref().map(attached_object),
            fresh,
            events: Items::new(&events),
            audit: Items::new(&audit),
        });
        let sealed = [loaded.vault.as_ref(), loaded.record.as_ref()].into_iter().flatten();
        let size = envelope.frame.len()
            + guard.map_or(0, |guard| guard.sealed.len())
            + sealed.map(|object| object.sealed.len()).sum::<usize>()
            + fresh.map_or(0, <[u8]>::len)
            + events.len()
            + audit.len();
        live.ask(&request, size).await
    }

    async fn conclude(
        &self, live: &Arc<Live>, session: SessionId, envelope: &Envelope<'_>, reply: &Bytes,
    ) -> Result<Bytes, Problem> {
        let account = envelope.account;
        match wire::decode(reply) {
            Ok(HostReply::Reply(answer)) => {
                if let Some(put) = answer.put {
                    let write = PutWrite {
                        account,
                        guard: put.guard,
                        event: put.event,
                        vault: reply.slice_ref(put.vault),
                        record: put.record.map(|record| reply.slice_ref(record)),
                        only_if_empty: put.only_if_empty,
                    };
                    match self.parts.storage.put(write).await.map_err(stored)? {
                        PutOutcome::Done => self.changes.notify(&account.id),
                        PutOutcome::GuardMoved => return Err(Kind::GuardMoved.into()),
                        PutOutcome::VaultMoved => return Err(Kind::SyncFirst.into()),
                        PutOutcome::SlotTaken => return Err(Kind::PasskeyExists.into()),
                    }
                }
                Ok(reply.slice_ref(answer.sealed))
            }
            Ok(HostReply::Staged(staged)) => {
                // Not before: what the core refuses costs its caller none of these few.
                match envelope.class {
                    Class::Guard => {}
                    // Apart: who only signs in as the person keeps no device from defending itself.
                    Class::Recover => self.tries.take(&account.id)?,
                    _ => self.fresh_changes.take(&account.id)?,
                }
                self.change_guard(live, guard::staged_row(account, reply, &staged)).await
            }
            Ok(HostReply::Locked(sealed)) => {
                self.parts.metrics.guard_changes.with("locked", Counter::increment);
                Ok(reply.slice_ref(sealed))
            }
            Ok(HostReply::Refused(refusal)) => {
                if refusal == HostRefusal::UnknownSession {
                    live.forget(&session);
                }
                Err(live.refused(refusal))
            }
            other => Err(unexpected(&other)),
        }
    }
}

/// Encoded size of what an item has beside its sealed bytes, generously.
const EVENT: usize = 128;

fn wanted(class: Class) -> Want {
    match class {
        Class::Enroll | Class::Recover => Want::default(),
        Class::Guard | Class::GuardFresh | Class::Status => Want { vault: true, ..Want::default() },
        Class::Put(slot) => Want { vault: true, record: slot, ..Want::default() },
        Class::Assert(slot) => Want { record: Some(slot), ..Want::default() },
        Class::Sync(after) => Want { vault: true, events_after: Some(after), ..Want::default() },
        Class::Audit(after) => Want { audit_after: Some(after), ..Want::default() },
    }
}

fn class_name(class: Class) -> &'static str {
    match class {
        Class::Enroll => "enroll",
        Class::Guard => "guard",
        Class::GuardFresh => "guard-fresh",
        Class::Put(_) => "put",
        Class::Assert(_) => "assert",
        Class::Sync(_) => "sync",
        Class::Status => "status",
        Class::Audit(_) => "audit",
        Class::Recover => "recover",
    }
}

fn attached(version: u64, sealed: &[u8]) -> Attached<'_> {
    Attached { version: Claimed(version), sealed }
}

fn attached_object(object: &Versioned) -> Attached<'_> {
    attached(object.version, &object.sealed)
}

/// What a client hears of the storage; the operator reads the rest in the log.
pub(crate) fn stored(error: StorageError) -> Problem {
    tracing::error!("storage: {error}");
    Kind::StorageUnavailable.into()
}

/// What a client hears of the ledger.
pub(crate) fn ledger(error: LedgerError) -> Problem {
    match error {
        LedgerError::Unreachable(_) => {
            tracing::warn!("ledger: {error}");
            Kind::LedgerUnreachable.into()
        }
        LedgerError::IdentityChanged { .. } | LedgerError::Unexpected(_) => {
            tracing::error!("ledger: {error}");
            Kind::LedgerRefused.into()
        }
    }
}

impl Service {
    /// Where a person's latest account stands.
    pub async fn heads(&self, person: AccountId) -> Result<Option<Heads>, Problem> {
        self.parts.storage.heads(person).await.map_err(stored)
    }
}
