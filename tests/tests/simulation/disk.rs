//! A storage in memory: copied in no time, so that a host can be given back what it had.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};

use keyfold_host::storage::{
    Answer, CommitOutcome, CommitWrite, Guard, Heads, Loaded, PutOutcome, PutWrite, StagedGuard,
    StagedKey, Storage, StorageError, StoredEvent, Then, Versioned, Want,
};
use keyfold_protocol::client::Action;
use keyfold_protocol::ids::{Account, AccountId, SlotId};
use keyfold_protocol::limits::PAGE;

use crate::faults::{Chance, Power};
use crate::history::Seen;

/// What lies on it. Clones share it; [`Disk::copy`] does not.
#[derive(Clone, Default)]
pub(crate) struct Disk(Arc<Mutex<Content>>);

#[derive(Clone, Default)]
struct Content {
    accounts: BTreeMap<Account, Rows>,
    staged: Vec<StagedGuard>,
}

#[derive(Clone)]
struct Rows {
    guard: Guard,
    closed: bool,
    vault: Option<Versioned>,
    events: BTreeMap<u64, keyfold_protocol::host::Event>,
    records: BTreeMap<SlotId, Versioned>,
    audit: BTreeMap<u64, Vec<u8>>,
}

impl Disk {
    /// What a backup would hold.
    pub(crate) fn copy(&self) -> Self {
        Self(Arc::new(Mutex::new(self.content().clone())))
    }

    /// Every sealed guard there, staged or live, with the version it says.
    pub(crate) fn guards(&self) -> Vec<(u64, Vec<u8>)> {
        let content = self.content();
        let live = content.accounts.values().map(|rows| &rows.guard);
        let live = live.map(|guard| (guard.version, guard.sealed.clone()));
        let staged = content.staged.iter().map(|row| (row.key.version, row.sealed.to_vec()));
        live.chain(staged).collect()
    }

    /// Every sealed vault there, with the version it says.
    pub(crate) fn vaults(&self) -> Vec<(u64, Vec<u8>)> {
        let content = self.content();
        let vaults = content.accounts.values().filter_map(|rows| rows.vault.as_ref());
        vaults.map(|vault| (vault.version, vault.sealed.clone())).collect()
    }

    /// Puts a staged guard there, as a host does before the ledger hears of it.
    pub(crate) fn keep(&self, staged: StagedGuard) {
        self.content().stage(staged);
    }

    fn content(&self) -> MutexGuard<'_, Content> {
        self.0.lock().expect("no panic under the lock")
    }

    fn load_now(&self, account: &Account, want: Want) -> Loaded {
        let content = self.content();
        let Some(rows) = content.accounts.get(account) else { return Loaded::default() };
        let mut loaded = Loaded { guard: Some(rows.guard.clone()), ..Loaded::default() };
        if want.vault {
            loaded.vault.clone_from(&rows.vault);
        }
        loaded.record = want.record.and_then(|slot| rows.records.get(&slot).cloned());
        let after = |version: u64| version.saturating_add(1)..;
        if let Some(version) = want.events_after {
            let with_record = |event: &keyfold_protocol::host::Event| {
                let record = rows.records.get(&event.slot);
                let record = record.filter(|record| record.version == event.version);
                StoredEvent { event: *event, record: record.map(|record| record.sealed.clone()) }
            };
            let events = rows.events.range(after(version)).take(PAGE);
            loaded.events = events.map(|(_, event)| with_record(event)).collect();
        }
        if let Some(version) = want.audit_after.filter(|version| *version < u64::MAX) {
            let events = rows.audit.range(after(version)).take(PAGE);
            loaded.audit = events.map(|(_, sealed)| sealed.clone()).collect();
        }
        loaded
    }

    fn put_now(&self, put: PutWrite) -> PutOutcome {
        let mut content = self.content();
        let rows = content.accounts.get_mut(&put.account);
        let Some(rows) = rows.filter(|rows| rows.guard.version == put.guard) else {
            return PutOutcome::GuardMoved;
        };
        let event = put.event;
        let stands = rows.vault.as_ref().map_or(0, |vault| vault.version);
        if stands.checked_add(1) != Some(event.version) {
            return PutOutcome::VaultMoved;
        }
        if put.only_if_empty && rows.records.contains_key(&event.slot) {
            return PutOutcome::SlotTaken;
        }
        rows.vault = Some(Versioned { version: event.version, sealed: put.vault.to_vec() });
        rows.events.insert(event.version, event);
        match put.record {
            Some(record) => {
                let record = Versioned { version: event.version, sealed: record.to_vec() };
                rows.records.insert(event.slot, record);
            }
            None if event.action == Action::Touch => {}
            None => drop(rows.records.remove(&event.slot)),
        }
        PutOutcome::Done
    }

    fn commit_now(&self, commit: CommitWrite) -> CommitOutcome {
        let mut content = self.content();
        let CommitWrite { account, key, sealed, audit, then } = commit;
        let live = content.accounts.get(&account).map(|rows| &rows.guard);
        let version = live.map_or(0, |guard| guard.version);
        if version == key.version && live.is_some_and(|guard| guard.digest != key.digest) {
            return CommitOutcome::Diverged;
        }
        let outcome = if version >= key.version {
            CommitOutcome::Already
        } else {
            let is_staged = content.staged.iter().any(|row| row.key == key);
            if !is_staged || version.checked_add(1) != Some(key.version) {
                return CommitOutcome::Diverged;
            }
            let StagedKey { tag, version, digest } = key;
            let guard = Guard { version, tag, digest, sealed: sealed.to_vec() };
            let rows = content.accounts.entry(account).or_insert_with(|| Rows::new(&guard));
            rows.guard = guard;
            rows.audit.insert(version, audit.to_vec());
            match then {
                Then::Rest => {}
                Then::Close => *rows = Rows { closed: true, ..Rows::new(&rows.guard) },
                Then::Stage(next) => content.stage(next),
            }
            CommitOutcome::Done
        };
        content.staged.retain(|row| row.key.tag != key.tag || row.key.version > key.version);
        outcome
    }
}

impl Content {
    fn stage(&mut self, staged: StagedGuard) {
        if self.staged.iter().all(|row| row.key != staged.key) {
            self.staged.push(staged);
        }
    }
}

impl Rows {
    fn new(guard: &Guard) -> Self {
        let (events, records, audit) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
        Self { guard: guard.clone(), closed: false, vault: None, events, records, audit }
    }
}

fn done<'a, T: Send + 'a>(value: T) -> Answer<'a, T> {
    Box::pin(std::future::ready(Ok(value)))
}

impl Storage for Disk {
    fn load<'a>(&'a self, account: &'a Account, want: Want) -> Answer<'a, Loaded> {
        done(self.load_now(account, want))
    }

    fn put(&self, put: PutWrite) -> Answer<'_, PutOutcome> {
        done(self.put_now(put))
    }

    fn stage(&self, staged: StagedGuard) -> Answer<'_, ()> {
        self.content().stage(staged);
        done(())
    }

    fn commit(&self, commit: CommitWrite) -> Answer<'_, CommitOutcome> {
        done(self.commit_now(commit))
    }

    fn drop_staged(&self, key: StagedKey) -> Answer<'_, ()> {
        self.content().staged.retain(|row| row.key != key);
        done(())
    }

    fn staged(&self, limit: usize) -> Answer<'_, Vec<StagedGuard>> {
        let mut rows = self.content().staged.clone();
        // Of equal keys the newest first: the later of two that sort alike.
        rows.reverse();
        rows.sort_by_key(|row| (row.key.tag, row.key.version, u64::MAX - row.staged_at));
        rows.truncate(limit);
        done(rows)
    }

    fn heads(&self, person: AccountId) -> Answer<'_, Option<Heads>> {
        let content = self.content();
        let mut accounts = content.accounts.iter().filter(|(account, _)| account.id == person);
        done(accounts.next_back().map(|(account, rows)| Heads {
            generation: account.generation,
            closed: rows.closed,
            guard: rows.guard.version,
            vault: rows.vault.as_ref().map_or(0, |vault| vault.version),
        }))
    }
}

/// The disk as one host reaches it: every call may be its last, before or after it took effect, or
/// fail as a full disk does.
pub(crate) struct Reached {
    pub(crate) disk: Disk,
    /// What is staged is written down here.
    pub(crate) seen: Seen,
    pub(crate) power: Power,
    pub(crate) chance: Chance,
    /// Fails once in so many writes; never where it is none.
    pub(crate) fails: Option<usize>,
}

impl Reached {
    fn note(&self, staged: &StagedGuard) {
        let mut seen = self.seen.lock().expect("no panic under the lock");
        seen.insert(staged.key.digest, staged.clone());
    }

    fn around<'a, T: Send + 'a>(
        &'a self, act: impl Future<Output = Result<T, StorageError>> + Send + 'a, writes: bool,
    ) -> Answer<'a, T> {
        Box::pin(async move {
            self.power.step(&self.chance).await;
            if writes && self.fails.is_some_and(|times| self.chance.once_in(times)) {
                return Err(StorageError::Full("as the seed says".into()));
            }
            let result = act.await;
            self.power.step(&self.chance).await;
            result
        })
    }
}

impl Storage for Reached {
    fn load<'a>(&'a self, account: &'a Account, want: Want) -> Answer<'a, Loaded> {
        self.around(async move { self.disk.load(account, want).await }, false)
    }

    fn put(&self, put: PutWrite) -> Answer<'_, PutOutcome> {
        self.around(async move { self.disk.put(put).await }, true)
    }

    fn stage(&self, staged: StagedGuard) -> Answer<'_, ()> {
        self.note(&staged);
        self.around(async move { self.disk.stage(staged).await }, true)
    }

    fn commit(&self, commit: CommitWrite) -> Answer<'_, CommitOutcome> {
        if let Then::Stage(next) = &commit.then {
            self.note(next);
        }
        self.around(async move { self.disk.commit(commit).await }, true)
    }

    fn drop_staged(&self, key: StagedKey) -> Answer<'_, ()> {
        self.around(async move { self.disk.drop_staged(key).await }, true)
    }

    fn staged(&self, limit: usize) -> Answer<'_, Vec<StagedGuard>> {
        self.around(async move { self.disk.staged(limit).await }, false)
    }

    fn heads(&self, person: AccountId) -> Answer<'_, Option<Heads>> {
        self.around(async move { self.disk.heads(person).await }, false)
    }
}
