//! Guard changes: stage, append, commit; and the recovery of what a crash left between them.
//!
//! Settling a staged guard is one function, for the request that made it and for recovery alike: the
//! append is idempotent at the ledger, the commit at the core and in the storage. A staged row is given
//! up only when the ledger shows another digest at its version, or the store holds a live guard of that
//! version, which only the ledger's receipt can have made.

use super::{Service, ledger, stored};
use crate::clock::unix_now;
use crate::enclave::{Live, unexpected};
use crate::ledger::{Appended, Standing};
use crate::metrics::Counter;
use crate::problem::{Kind, Problem};
use crate::storage::{CommitOutcome, CommitWrite, StagedGuard, StagedKey, Want};
use bytes::Bytes;
use keyfold_protocol::host::{Attached, Claimed, Commit, HostReply, HostRequest};
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
        let settled = self.settle(&row, Some(live)).await;
        drop(claim);
        if let Err(problem) = &settled
            && problem.kind != Kind::GuardMoved
        {
            self.recover_soon.notify_one();
        }
        settled
    }

    /// Brings a staged guard to its end: committed, or given up because another took its place.
    async fn settle(&self, row: &StagedGuard, live: Option<&Arc<Live>>) -> Result<Bytes, Problem> {
        let StagedKey { tag, version, digest } = &row.key;
        let receipt = match self.parts.ledger.append(tag, *version, digest).await {
            Ok(Appended::Receipt(receipt)) => receipt,
            Ok(Appended::Conflict(standing)) => return Err(self.overtaken(row, standing).await?),
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
        let sealed = reply.slice_ref(committed.guard);
        let write = CommitWrite { account: row.account, key: row.key, sealed };
        match self.parts.storage.commit(write).await.map_err(stored)? {
            CommitOutcome::Done | CommitOutcome::Already => {}
            CommitOutcome::Diverged => {
                return Err(self.diverged(row, "the store lacks its predecessor"));
            }
        }
        self.changes.notify(&row.account.id);
        Ok(reply.slice_ref(committed.sealed))
    }

    /// A commit is not about a session: if its own enclave is gone, any other does.
    async fn commit_in_core(
        &self, row: &StagedGuard, receipt: &[u8], live: Option<&Arc<Live>>,
    ) -> Result<Bytes, Problem> {
        let staged = Attached { version: Claimed(row.key.version), sealed: &row.sealed };
        let request = HostRequest::Commit(Commit { account: row.account, staged, receipt });
        let size = row.sealed.len() + receipt.len();
        if let Some(live) = live
            && let Ok(reply) = live.ask(&request, size).await
        {
            return Ok(reply);
        }
        let other = self.parts.links.any().ok_or(Kind::EnclaveStarting)?;
        other.ask(&request, size).await
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

    /// Settles every staged guard of at least this age, in seconds, that no request of this host
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
            if row.staged_at.saturating_add(grace) > now || self.settling().contains(&row.key) {
                waiting += 1;
                continue;
            }
            let claim = Claim::new(self, row.key);
            let outcome = match self.settle(&row, None).await {
                Ok(_) => "committed",
                Err(problem) if problem.kind == Kind::GuardMoved => "dropped",
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

    fn settling(&self) -> MutexGuard<'_, HashSet<StagedKey>> {
        self.settling.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Marks a staged guard as being settled here, until dropped.
struct Claim<'a> {
    service: &'a Service,
    key: StagedKey,
}

impl<'a> Claim<'a> {
    fn new(service: &'a Service, key: StagedKey) -> Self {
        service.settling().insert(key);
        Self { service, key }
    }
}

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        self.service.settling().remove(&self.key);
    }
}
