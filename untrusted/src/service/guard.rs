//! Guard changes: stage, append, commit; and the recovery of what a crash left between them.
//!
//! Finishing a staged guard is one function, for the request that made it and for recovery alike: the
//! append is idempotent at the ledger, the commit at the core and in the storage. A staged row is given
//! up only when the ledger shows another digest at its version, or the store holds a live guard of that
//! version, which only the ledger's receipt can have made.
//!
//! A charged try asks for a second round: the core settles it before its charge is stored as live, and
//! one transaction stores both, so that no charge is ever left without its outcome on the way.

use super::{Service, ledger, stored};
use crate::clock::unix_now;
use crate::enclave::{Live, unexpected};
use crate::ledger::{Appended, Standing};
use crate::metrics::Counter;
use crate::problem::{Kind, Problem};
use crate::storage::{CommitOutcome, CommitWrite, StagedGuard, StagedKey, Then, Want};
use bytes::Bytes;
use keyfold_protocol::host::{
    Attached, Claimed, Commit, Committed, HostReply, HostRequest, Next, Settle, Staged,
};
use keyfold_protocol::ids::Account;
use keyfold_protocol::wire;
use std::collections::HashSet;
use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::Duration;

/// Between two looks at what waits for recovery.
const PERIOD: Duration = Duration::from_secs(15);
/// Younger rows are probably another host's work in progress.
const GRACE: u64 = 20;
/// Rows of one look.
const ROWS: usize = 10_000;

impl Service {
    /// Stage, append, commit: the sealed reply once all of it is durable.
    pub(super) async fn change_guard(
        &self, live: &Arc<Live>, row: StagedGuard,
    ) -> Result<Bytes, Problem> {
        let claim = Claim::new(self, row.key);
        self.parts.storage.stage(row.clone()).await.map_err(stored)?;
        self.count("staged");
        let finished = self.finish(&row, Some(live)).await;
        drop(claim);
        if let Err(problem) = &finished
            && !matches!(problem.kind, Kind::GuardMoved | Kind::TryOvertaken)
        {
            self.recover_soon.notify_one();
        }
        finished
    }

    fn count(&self, what: &'static str) {
        self.parts.metrics.guard_changes.with(what, Counter::increment);
    }

    /// Brings a staged guard to its end, and the one that follows it.
    async fn finish(&self, row: &StagedGuard, live: Option<&Arc<Live>>) -> Result<Bytes, Problem> {
        let next = match self.advance(row, live).await? {
            Advanced::Answer(sealed) => return Ok(sealed),
            Advanced::Staged(next) => next,
        };
        let _claim = Claim::new(self, next.key);
        match self.advance(&next, live).await {
            Ok(Advanced::Answer(sealed)) => Ok(sealed),
            Ok(Advanced::Staged(_)) => {
                Err(Kind::Internal.because("A settled try cannot be settled"))
            }
            // Charged all the same: whoever signs again pays again.
            Err(problem) if problem.kind == Kind::GuardMoved => Err(Kind::TryOvertaken.into()),
            Err(problem) => Err(problem),
        }
    }

    /// One staged guard to its end: committed, or given up because another took its place.
    async fn advance(
        &self, row: &StagedGuard, live: Option<&Arc<Live>>,
    ) -> Result<Advanced, Problem> {
        let StagedKey { tag, version, digest } = &row.key;
        let receipt = match self.parts.ledger.append(tag, *version, digest).await {
            Ok(Appended::Receipt(receipt)) => receipt,
            Ok(Appended::Conflict(standing)) => {
                self.count("conflict");
                return Err(self.overtaken(row, standing).await?);
            }
            Err(error) => return Err(ledger(error)),
        };
        let reply = self.commit_in_core(row, &receipt, live).await?;
        let committed = match wire::decode(&reply) {
            Ok(HostReply::Committed(committed)) if committed.version == *version => committed,
            Ok(HostReply::Refused(refusal)) => {
                let live = live.cloned().or_else(|| self.parts.links.any());
                return Err(live.map_or(Kind::Internal.into(), |live| live.refused(refusal)));
            }
            other => return Err(unexpected(&other)),
        };
        let (then, advanced) = match committed.next {
            Next::Answer(sealed) => (Then::Rest, Advanced::Answer(reply.slice_ref(sealed))),
            Next::Closed(sealed) => (Then::Close, Advanced::Answer(reply.slice_ref(sealed))),
            Next::Settle => {
                let next = self.settle_in_core(row.account, &committed, live).await?;
                self.count("staged");
                (Then::Stage(next.clone()), Advanced::Staged(next))
            }
        };
        let (sealed, audit) = (reply.slice_ref(committed.guard), reply.slice_ref(committed.audit));
        let write = CommitWrite { account: row.account, key: row.key, sealed, audit, then };
        match self.parts.storage.commit(write).await.map_err(stored)? {
            CommitOutcome::Done => self.count("committed"),
            // By another host, which also staged what follows; the same, so that staging it again
            // loses nothing.
            CommitOutcome::Already => {
                if let Advanced::Staged(next) = &advanced {
                    self.parts.storage.stage(next.clone()).await.map_err(stored)?;
                }
            }
            CommitOutcome::Diverged => {
                return Err(self.diverged(row, "the store lacks its predecessor"));
            }
        }
        self.changes.notify(&row.account.id);
        Ok(advanced)
    }

    async fn commit_in_core(
        &self, row: &StagedGuard, receipt: &[u8], live: Option<&Arc<Live>>,
    ) -> Result<Bytes, Problem> {
        let request = HostRequest::Commit(Commit {
            account: row.account,
            staged: Attached { version: Claimed(row.key.version), sealed: &row.sealed },
            digest: Claimed(row.key.digest),
            receipt,
        });
        self.ask_any(&request, row.sealed.len() + receipt.len(), live).await
    }

    /// What comes of a charged try.
    async fn settle_in_core(
        &self, account: Account, charged: &Committed<'_>, live: Option<&Arc<Live>>,
    ) -> Result<StagedGuard, Problem> {
        let guard = Attached { version: Claimed(charged.version), sealed: charged.guard };
        let request = HostRequest::Settle(Settle { account, guard });
        let reply = self.ask_any(&request, charged.guard.len(), live).await?;
        match wire::decode(&reply) {
            Ok(HostReply::Staged(staged)) => Ok(staged_row(account, &reply, &staged)),
            other => Err(unexpected(&other)),
        }
    }

    /// Neither is about a session: if the request's own enclave is gone, any other does.
    async fn ask_any(
        &self, request: &HostRequest<'_>, size: usize, live: Option<&Arc<Live>>,
    ) -> Result<Bytes, Problem> {
        if let Some(live) = live
            && let Ok(reply) = live.ask(request, size).await
        {
            return Ok(reply);
        }
        let other = self.parts.links.any().ok_or(Kind::EnclaveStarting)?;
        other.ask(request, size).await
    }

    /// The tag does not stand where this row starts. Gives the row up if it can never be committed.
    async fn overtaken(&self, row: &StagedGuard, standing: Standing) -> Result<Problem, Problem> {
        let version = row.key.version;
        let loaded =
            self.parts.storage.load(&row.account, Want::default()).await.map_err(stored)?;
        let live = loaded.guard.map_or(0, |guard| guard.version);
        if standing.version == version || (standing.version > version && live >= version) {
            self.parts.storage.drop_staged(row.key).await.map_err(stored)?;
            return Ok(Kind::GuardMoved.into());
        }
        Ok(self.diverged(
            row,
            &format!("the ledger stands at {}, the store at {live}", standing.version),
        ))
    }

    /// Ledger and store contradict each other: nothing is dropped, somebody has to look.
    fn diverged(&self, row: &StagedGuard, what: &str) -> Problem {
        tracing::error!(
            tag = %row.key.tag,
            version = row.key.version,
            "ledger and storage disagree ({what}): was one of them restored from an old copy?"
        );
        Kind::LedgerRefused.into()
    }

    /// Runs recovery at start, whenever a change got stuck, and every now and then.
    pub async fn keep_recovering(self: Arc<Self>) {
        let mut ready = self.parts.links.ready();
        let mut grace = 0;
        loop {
            if ready.wait_for(|ready| *ready > 0).await.is_err() {
                return;
            }
            self.recover(grace).await;
            grace = GRACE;
            tokio::select! {
                () = tokio::time::sleep(PERIOD) => {}
                () = self.recover_soon.notified() => {
                    // What just failed will hardly work at once.
                    tokio::time::sleep(Duration::from_secs(1)).await;
                    grace = 0;
                }
            }
        }
    }

    /// Finishes every staged guard of at least this age, in seconds, that no request of this host
    /// is working on. Returns how many still wait.
    pub async fn recover(&self, grace: u64) -> usize {
        let rows = match self.parts.storage.staged(ROWS).await {
            Ok(rows) => rows,
            Err(error) => {
                tracing::error!("recovery cannot read the storage: {error}");
                return 0;
            }
        };
        let now = unix_now();
        let mut waiting = 0;
        for row in rows {
            if row.staged_at.saturating_add(grace) > now || self.finishing().contains(&row.key) {
                waiting += 1;
                continue;
            }
            let claim = Claim::new(self, row.key);
            let outcome = match self.finish(&row, None).await {
                Ok(_) => "committed",
                Err(Problem { kind: Kind::GuardMoved | Kind::TryOvertaken, .. }) => "dropped",
                Err(problem) => {
                    waiting += 1;
                    tracing::warn!(
                        tag = %row.key.tag,
                        version = row.key.version,
                        problem = problem.kind.name(),
                        "a staged guard still waits"
                    );
                    "waiting"
                }
            };
            drop(claim);
            self.parts.metrics.recovered.with(outcome, Counter::increment);
        }
        self.parts.metrics.staged_guards.set(i64::try_from(waiting).unwrap_or(i64::MAX));
        waiting
    }

    fn finishing(&self) -> MutexGuard<'_, HashSet<StagedKey>> {
        self.finishing.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How one round ended.
enum Advanced {
    /// With the sealed answer.
    Answer(Bytes),
    /// With a charged try, and what came of it.
    Staged(StagedGuard),
}

/// What the storage keeps of a staged guard.
pub(super) fn staged_row(account: Account, reply: &Bytes, staged: &Staged) -> StagedGuard {
    let Staged { tag, version, digest, guard } = *staged;
    StagedGuard {
        key: StagedKey { tag, version, digest },
        account,
        sealed: reply.slice_ref(guard),
        staged_at: unix_now(),
    }
}

/// Marks a staged guard as being finished here, until dropped.
struct Claim<'a> {
    service: &'a Service,
    key: StagedKey,
}

impl<'a> Claim<'a> {
    fn new(service: &'a Service, key: StagedKey) -> Self {
        service.finishing().insert(key);
        Self { service, key }
    }
}

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        self.service.finishing().remove(&self.key);
    }
}
