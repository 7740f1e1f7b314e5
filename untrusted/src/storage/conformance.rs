//! The promises of [`Storage`], as tests every implementation must pass.
//!
//! [`run`] takes an empty store and uses accounts of its own for each promise, so that the order
//! does not matter. It panics at the first broken one.

use super::{
    CommitOutcome, CommitWrite, Heads, Loaded, PutOutcome, PutWrite, StagedGuard, StagedKey,
    Storage, Then, Want,
};
use bytes::Bytes;
use keyfold_protocol::client::Action;
use keyfold_protocol::host::Event;
use keyfold_protocol::ids::{Account, AccountId, Digest, LedgerTag, SlotId};
use keyfold_protocol::limits;
use std::sync::Arc;

/// Everything, one after the other.
pub async fn run(store: Arc<dyn Storage>) {
    let store = &*store;
    nothing_is_there_at_first(store).await;
    staged_is_not_live_and_never_overwritten(store).await;
    commit_is_a_compare_and_set(store).await;
    commit_drops_what_it_overtook(store).await;
    diverged_stores_are_left_alone(store).await;
    a_commit_stages_what_must_follow(store).await;
    a_closed_account_keeps_its_guard_alone(store).await;
    generations_are_separate_accounts(store).await;
    put_is_a_compare_and_set(store).await;
    a_put_replaces_a_record_only_if_it_may(store).await;
    a_put_writes_everything_or_nothing(store).await;
    pages_are_full_and_ordered(store).await;
    staged_rows_are_listed_for_recovery(store).await;
    simultaneous_puts_have_one_winner(store).await;
}

/// An account nobody else uses.
pub fn account(number: u8) -> Account {
    Account { id: AccountId([number; 32]), generation: 1 }
}

/// A staged guard of `account` whose bytes tell it from others.
pub fn staged(account: Account, version: u64, salt: u8) -> StagedGuard {
    let mut tag = account.id.0;
    tag[31] ^= u8::try_from(account.generation).expect("a small generation");
    let mut digest = [salt; 32];
    digest[0] = u8::try_from(version % 251).expect("below 251");
    StagedGuard {
        key: StagedKey { tag: LedgerTag(tag), version, digest: Digest(digest) },
        account,
        sealed: Bytes::from(format!("staged {version} {salt}")),
        staged_at: 1_700_000_000 + version,
    }
}

/// The live form of a staged guard.
pub fn live(staged: &StagedGuard) -> CommitWrite {
    let StagedKey { version, digest: Digest([_, salt, ..]), .. } = staged.key;
    let sealed = Bytes::from(format!("live {version}"));
    let audit = Bytes::from(format!("audit {version} {salt}"));
    CommitWrite { account: staged.account, key: staged.key, sealed, audit, then: Then::Rest }
}

/// Stages and commits versions 1 to `version`.
pub async fn advance(store: &dyn Storage, account: Account, version: u64) {
    for version in 1..=version {
        let row = staged(account, version, 7);
        store.stage(row.clone()).await.expect("stage");
        assert_eq!(store.commit(live(&row)).await.expect("commit"), CommitOutcome::Done);
    }
}

/// A put of `slot` at `version`; no record means a deletion.
pub fn put(account: Account, guard: u64, version: u64, slot: u8, record: bool) -> PutWrite {
    let action = if record { Action::Put } else { Action::Delete };
    PutWrite {
        account,
        guard,
        event: Event { version, slot: SlotId([slot; 32]), action, digest: Digest([slot ^ 1; 32]) },
        vault: Bytes::from(format!("vault {version}")),
        record: record.then(|| Bytes::from(format!("record {slot} {version}"))),
        only_if_empty: false,
    }
}

const EVERYTHING: Want =
    Want { vault: true, record: None, events_after: Some(0), audit_after: Some(0) };

async fn load(store: &dyn Storage, account: Account) -> Loaded {
    store.load(&account, EVERYTHING).await.expect("load")
}

async fn rows_of(store: &dyn Storage, account: Account) -> Vec<StagedGuard> {
    let rows = store.staged(1000).await.expect("staged");
    rows.into_iter().filter(|row| row.account == account).collect()
}

async fn nothing_is_there_at_first(store: &dyn Storage) {
    assert_eq!(load(store, account(1)).await, Loaded::default());
    assert_eq!(store.heads(account(1).id).await.expect("heads"), None);
    let refused = store.put(put(account(1), 1, 1, 1, true)).await.expect("put");
    assert_eq!(refused, PutOutcome::GuardMoved, "a put needs a live guard");
}

async fn staged_is_not_live_and_never_overwritten(store: &dyn Storage) {
    let who = account(2);
    let row = staged(who, 1, 1);
    store.stage(row.clone()).await.expect("stage");
    let same_name = StagedGuard { sealed: Bytes::from_static(b"other bytes"), ..row.clone() };
    store.stage(same_name).await.expect("staging the same digest again is not an error");
    let kept = rows_of(store, who).await;
    assert_eq!(kept, std::slice::from_ref(&row), "the first bytes stay");
    assert_eq!(load(store, who).await, Loaded::default(), "staged is not live");
    store.drop_staged(row.key).await.expect("drop");
    store.drop_staged(row.key).await.expect("dropping twice is not an error");
    assert_eq!(rows_of(store, who).await, []);
}

async fn commit_is_a_compare_and_set(store: &dyn Storage) {
    let who = account(3);
    advance(store, who, 2).await;
    let row = staged(who, 3, 1);
    store.stage(row.clone()).await.expect("stage");
    assert_eq!(store.commit(live(&row)).await.expect("commit"), CommitOutcome::Done);
    let guard = load(store, who).await.guard.expect("a live guard");
    assert_eq!((guard.version, &guard.sealed[..]), (3, &b"live 3"[..]));
    assert_eq!((guard.tag, guard.digest), (row.key.tag, row.key.digest));
    assert_eq!(store.commit(live(&row)).await.expect("commit"), CommitOutcome::Already);
    let old = staged(who, 2, 7);
    assert_eq!(store.commit(live(&old)).await.expect("commit"), CommitOutcome::Already);
    assert_eq!(load(store, who).await.guard, Some(guard), "repeating changes nothing");
    assert_eq!(load(store, who).await.audit.len(), 3, "one audit event per version");
}

async fn commit_drops_what_it_overtook(store: &dyn Storage) {
    let who = account(4);
    let (winner, loser, later) = (staged(who, 1, 1), staged(who, 1, 2), staged(who, 2, 3));
    for row in [&winner, &loser, &later] {
        store.stage(row.clone()).await.expect("stage");
    }
    store.commit(live(&winner)).await.expect("commit");
    assert_eq!(rows_of(store, who).await, [later], "versions up to the committed one go");
    assert_eq!(load(store, who).await.audit, [b"audit 1 1".to_vec()]);
}

async fn diverged_stores_are_left_alone(store: &dyn Storage) {
    let who = account(5);
    advance(store, who, 1).await;
    let before = load(store, who).await;
    let (other, gap, unstaged) = (staged(who, 1, 9), staged(who, 3, 1), staged(who, 2, 1));
    for row in [&other, &gap] {
        store.stage(row.clone()).await.expect("stage");
    }
    for row in [&other, &gap, &unstaged] {
        assert_eq!(store.commit(live(row)).await.expect("commit"), CommitOutcome::Diverged);
    }
    assert_eq!(load(store, who).await, before);
    assert_eq!(rows_of(store, who).await, [other, gap], "and nothing staged is lost");
}

async fn a_commit_stages_what_must_follow(store: &dyn Storage) {
    let who = account(14);
    advance(store, who, 1).await;
    let (charged, next) = (staged(who, 2, 1), staged(who, 3, 1));
    let commit = CommitWrite { then: Then::Stage(next.clone()), ..live(&charged) };
    let refused = store.commit(commit.clone()).await.expect("commit");
    assert_eq!(refused, CommitOutcome::Diverged, "nothing was staged");
    assert_eq!(rows_of(store, who).await, [], "a refused commit stages nothing");
    store.stage(charged).await.expect("stage");
    assert_eq!(store.commit(commit.clone()).await.expect("commit"), CommitOutcome::Done);
    assert_eq!(rows_of(store, who).await, std::slice::from_ref(&next));
    assert_eq!(store.commit(commit).await.expect("commit"), CommitOutcome::Already);
    assert_eq!(store.commit(live(&next)).await.expect("commit"), CommitOutcome::Done);
    assert_eq!(rows_of(store, who).await, []);
}

async fn a_closed_account_keeps_its_guard_alone(store: &dyn Storage) {
    let (who, other) = (account(15), account(16));
    for account in [who, other] {
        advance(store, account, 1).await;
        for version in [1, 2] {
            let slot = u8::try_from(version).expect("small");
            store.put(put(account, 1, version, slot, true)).await.expect("put");
        }
    }
    let last = staged(who, 2, 1);
    store.stage(last.clone()).await.expect("stage");
    let close = CommitWrite { then: Then::Close, ..live(&last) };
    assert_eq!(store.commit(close.clone()).await.expect("commit"), CommitOutcome::Done);
    assert_eq!(store.commit(close).await.expect("commit"), CommitOutcome::Already);
    let want = Want { record: Some(SlotId([1; 32])), ..EVERYTHING };
    let loaded = store.load(&who, want).await.expect("load");
    let guard = loaded.guard.clone();
    assert_eq!(guard.as_ref().map(|guard| guard.version), Some(2));
    assert_eq!(loaded, Loaded { guard, ..Loaded::default() }, "the guard alone is left");
    let heads = store.heads(who.id).await.expect("heads").expect("an account");
    assert!(heads.closed && heads.guard == 2 && heads.vault == 0, "{heads:?}");
    assert_eq!(load(store, other).await.events.len(), 2, "other accounts keep everything");
    assert!(!store.heads(other.id).await.expect("heads").expect("an account").closed);
}

async fn generations_are_separate_accounts(store: &dyn Storage) {
    let first = account(6);
    let second = Account { generation: 2, ..first };
    advance(store, first, 2).await;
    advance(store, second, 1).await;
    assert_eq!(store.put(put(second, 1, 1, 1, true)).await.expect("put"), PutOutcome::Done);
    assert_eq!(load(store, first).await.vault, None);
    let heads = store.heads(first.id).await.expect("heads");
    let latest = Heads { generation: 2, closed: false, guard: 1, vault: 1 };
    assert_eq!(heads, Some(latest), "the latest generation's");
}

async fn put_is_a_compare_and_set(store: &dyn Storage) {
    let who = account(7);
    advance(store, who, 2).await;
    let table = [
        (put(who, 1, 1, 1, true), PutOutcome::GuardMoved),
        (put(who, 3, 1, 1, true), PutOutcome::GuardMoved),
        (put(who, 2, 0, 1, true), PutOutcome::VaultMoved),
        (put(who, 2, 2, 1, true), PutOutcome::VaultMoved),
        (put(who, 2, 1, 1, true), PutOutcome::Done),
        (put(who, 2, 1, 1, true), PutOutcome::VaultMoved),
        (put(who, 2, 3, 1, true), PutOutcome::VaultMoved),
        (put(who, 2, 2, 2, true), PutOutcome::Done),
    ];
    for (write, expected) in table {
        let event = write.event;
        assert_eq!(store.put(write).await.expect("put"), expected, "{event:?}");
    }
    assert_eq!(load(store, who).await.events.len(), 2);
}

async fn a_put_replaces_a_record_only_if_it_may(store: &dyn Storage) {
    let who = account(13);
    advance(store, who, 1).await;
    let careful =
        |version, slot| PutWrite { only_if_empty: true, ..put(who, 1, version, slot, true) };
    let table = [
        (careful(1, 1), PutOutcome::Done),
        (careful(2, 1), PutOutcome::SlotTaken),
        (careful(2, 2), PutOutcome::Done),
        (put(who, 1, 3, 1, true), PutOutcome::Done),
        (put(who, 1, 4, 1, false), PutOutcome::Done),
        (careful(5, 1), PutOutcome::Done),
    ];
    for (write, expected) in table {
        let event = write.event;
        let before = load(store, who).await;
        assert_eq!(store.put(write).await.expect("put"), expected, "{event:?}");
        if expected == PutOutcome::SlotTaken {
            assert_eq!(load(store, who).await, before, "nothing changed");
        }
    }
}

async fn a_put_writes_everything_or_nothing(store: &dyn Storage) {
    let who = account(8);
    advance(store, who, 1).await;
    let slot = SlotId([1; 32]);
    for (version, write) in [(1, true), (2, true)] {
        store.put(put(who, 1, version, 1, write)).await.expect("put");
    }
    let want = Want { record: Some(slot), ..EVERYTHING };
    let loaded = store.load(&who, want).await.expect("load");
    assert_eq!(loaded.vault.expect("a vault").version, 2);
    let record = loaded.record.expect("a record");
    assert_eq!((record.version, &record.sealed[..]), (2, &b"record 1 2"[..]));
    assert_eq!(loaded.events[0].record, None, "superseded events come without a record");
    assert_eq!(loaded.events[1].record.as_deref(), Some(&b"record 1 2"[..]));

    store.put(put(who, 1, 3, 1, false)).await.expect("put");
    let mut touch = put(who, 1, 4, 0, false);
    touch.event.action = Action::Touch;
    store.put(touch.clone()).await.expect("put");
    let loaded = store.load(&who, want).await.expect("load");
    assert_eq!(loaded.record, None, "a tombstone empties the slot");
    assert_eq!(loaded.vault.expect("a vault").sealed, b"vault 4");
    assert_eq!(loaded.events[3].event, touch.event);
    assert!(loaded.events.iter().all(|event| event.record.is_none()));
}

async fn pages_are_full_and_ordered(store: &dyn Storage) {
    let who = account(9);
    let versions = u64::try_from(limits::PAGE).expect("small") + 6;
    advance(store, who, versions).await;
    for version in 1..=versions {
        let slot = u8::try_from(version).expect("small");
        store.put(put(who, versions, version, slot, true)).await.expect("put");
    }
    for (after, first, count) in
        [(0, 1, limits::PAGE), (6, 7, limits::PAGE), (60, 61, 10), (70, 0, 0), (u64::MAX, 0, 0)]
    {
        let want = Want { events_after: Some(after), audit_after: Some(after), ..Want::default() };
        let loaded = store.load(&who, want).await.expect("load");
        let events: Vec<_> = loaded.events.iter().map(|event| event.event.version).collect();
        let expected: Vec<_> = (first..).take(count).collect();
        assert_eq!(events, expected, "events after {after}");
        let audit: Vec<_> =
            expected.iter().map(|version| format!("audit {version} 7").into_bytes()).collect();
        assert_eq!(loaded.audit, audit, "audit after {after}");
        assert!(loaded.events.iter().all(|event| event.record.is_some()));
    }
}

async fn staged_rows_are_listed_for_recovery(store: &dyn Storage) {
    let who = account(10);
    let older = StagedGuard { staged_at: 100, ..staged(who, 1, 1) };
    let newer = StagedGuard { staged_at: 200, ..staged(who, 1, 2) };
    let next = StagedGuard { staged_at: 50, ..staged(who, 2, 3) };
    for row in [&next, &older, &newer] {
        store.stage(row.clone()).await.expect("stage");
    }
    assert_eq!(rows_of(store, who).await, [newer, older, next]);
    assert_eq!(store.staged(1).await.expect("staged").len(), 1, "the limit holds");
}

async fn simultaneous_puts_have_one_winner(store: &dyn Storage) {
    let who = account(11);
    advance(store, who, 1).await;
    let writes = (0..16).map(|slot| store.put(put(who, 1, 1, slot, true)));
    let outcomes = futures_util::future::join_all(writes).await;
    let won = outcomes.iter().filter(|outcome| matches!(outcome, Ok(PutOutcome::Done))).count();
    assert_eq!(won, 1, "{outcomes:?}");
}
