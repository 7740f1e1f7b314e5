//! What every run must keep, read from the ledger's log with the root key in hand.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};

use keyfold_host::storage::{StagedGuard, StagedKey};
use keyfold_protocol::client::{AuditEvent, AuditKind, GuardChanged};
use keyfold_protocol::ids::{Account, DeviceId, Digest};
use keyfold_protocol::limits::{DEVICES, TRIES};
use keyfold_tests::enclave::ROOT;
use keyfold_tests::oracle::{Guard, Oracle};

use crate::host::Surroundings;

/// Everything ever staged, by what the ledger calls it.
pub(crate) type Seen = Arc<Mutex<BTreeMap<Digest, StagedGuard>>>;

/// A version of an account, as the ledger has it.
pub(crate) struct Version {
    pub(crate) guard: Guard,
    pub(crate) event: AuditEvent,
    /// Of the frame that asked for it.
    reply_key: [u8; 32],
}

/// What was opened before, by what the ledger calls it.
pub(crate) type Opened = Mutex<BTreeMap<Digest, Arc<Version>>>;

/// The account's versions that the ledger has recorded, oldest first.
pub(crate) fn recorded(around: &Surroundings, account: &Account) -> Vec<Arc<Version>> {
    let seen = around.seen.lock().expect("no panic under the lock");
    let mut opened = around.opened.lock().expect("no panic under the lock");
    let of_account = |digest: &Digest| seen.get(digest).filter(|row| row.account == *account);
    let log = around.record.log();
    let rows = log.iter().filter_map(|(_, _, digest)| of_account(digest));
    rows.map(|row| opened.entry(row.key.digest).or_insert_with(|| Arc::new(open(row))).clone())
        .collect()
}

fn open(row: &StagedGuard) -> Version {
    let (oracle, StagedKey { version, digest, .. }) = (Oracle::new(ROOT, row.account), row.key);
    let staged = oracle.staged(digest, version, &row.sealed).expect("a staged guard");
    let (guard, event) = (staged.guard, staged.event);
    let waits = guard.pending.as_ref().map(|tried| tried.reply_key);
    let answered = staged.answer.map(|(reply_key, _)| reply_key);
    let reply_key = waits.or(answered).expect("somebody asked");
    Version { guard, event, reply_key }
}

/// A success that a client heard of stands in the ledger.
pub(crate) fn check_success(around: &Surroundings, account: &Account, changed: &GuardChanged) {
    let versions = recorded(around, account);
    let at = versions.iter().find(|at| at.guard.version == changed.guard);
    let at = at.expect("a success was released that the ledger does not have");
    assert_eq!(at.guard.audit_head, changed.audit_head, "a success of another history");
}

/// Whether the account's last version ended it.
pub(crate) fn has_ended(around: &Surroundings, account: &Account) -> bool {
    recorded(around, account).last().is_some_and(|last| last.event.kind == AuditKind::Deleted)
}

/// The rules of `trusted`, once more and from outside.
pub(crate) fn check(around: &Surroundings, account: &Account, rightful: &BTreeSet<DeviceId>) {
    let versions = recorded(around, account);
    let mut before: Option<&Guard> = None;
    for (at, version) in versions.iter().zip(1..) {
        let Version { guard, event, .. } = &**at;
        assert_eq!((guard.version, event.version), (version, version), "a version is missing");
        assert!(guard.failures <= TRIES, "{} failures", guard.failures);
        let devices: BTreeSet<_> = guard.devices.iter().map(|(id, _)| *id).collect();
        assert!(devices.is_subset(rightful), "somebody registered without the PIN");
        match before {
            None => assert_eq!(event.kind, AuditKind::Enrolled),
            Some(before) => check_step(before, guard, event),
        }
        before = Some(guard);
    }
    check_frames(&versions);
    check_compared(around, account, &versions);
}

/// No frame counts twice, however often it is given to cores: one change, or one charge.
fn check_frames(versions: &[Arc<Version>]) {
    let is_outcome = |kind| matches!(kind, AuditKind::TryFailed | AuditKind::Recovered);
    let asked = versions.iter().filter(|version| !is_outcome(version.event.kind));
    let mut frames = BTreeSet::new();
    for version in asked {
        let event = &version.event;
        assert!(frames.insert(version.reply_key), "the frame of {event:?} counted before");
    }
}

/// Of a person's accounts, oldest first, one is open at a time.
pub(crate) fn check_one_open(around: &Surroundings, accounts: &[Account]) {
    for pair in accounts.windows(2) {
        let [before, after] = pair else { continue };
        let has_opened = !recorded(around, after).is_empty();
        assert!(!has_opened || has_ended(around, before), "{after:?} opened beside {before:?}");
    }
}

fn check_step(before: &Guard, after: &Guard, event: &AuditEvent) {
    let same_devices = before.devices == after.devices;
    if event.kind != AuditKind::TryCharged {
        assert!(after.pending.is_none(), "{event:?} left a try behind");
    }
    match event.kind {
        AuditKind::Enrolled => panic!("an account opened twice"),
        AuditKind::TryCharged => {
            assert!(before.failures < TRIES, "a try after the lockout");
            assert_eq!(after.failures, before.failures + 1);
            assert!(same_devices && after.pending.is_some());
        }
        AuditKind::TryFailed => {
            let tried = before.pending.as_ref().expect("a charge");
            assert_ne!(tried.verifier, before.pin, "a right PIN was called wrong");
            assert_eq!(after.failures, before.failures, "the count moved");
            assert!(same_devices);
        }
        AuditKind::Recovered => {
            let tried = before.pending.as_ref().expect("a charge");
            assert_eq!(tried.verifier, before.pin, "a wrong PIN was called right");
            assert_eq!(after.failures, 0);
            assert!(after.devices.iter().any(|(id, _)| *id == event.actor));
            assert_eq!(after.devices.len(), DEVICES.min(before.devices.len() + 1));
        }
        AuditKind::PinChanged => assert!(same_devices && after.failures == 0),
        AuditKind::Deleted => assert!(after.devices.is_empty()),
        AuditKind::Anchored | AuditKind::DeviceAdded | AuditKind::DeviceRevoked => {
            assert_eq!(after.failures, before.failures, "{event:?} moved the count");
            let listed = |guard: &Guard| guard.devices.iter().any(|(id, _)| *id == event.subject);
            let (was, is) = (listed(before), listed(after));
            match event.kind {
                AuditKind::DeviceAdded => assert!(!was && is, "{event:?} added nobody"),
                AuditKind::DeviceRevoked => assert!(was && !is, "{event:?} revoked nobody"),
                _ => assert!(same_devices),
            }
        }
    }
}

/// Whatever a core compared had been charged in the ledger; and between two resets, no more than ten.
fn check_compared(around: &Surroundings, account: &Account, versions: &[Arc<Version>]) {
    let oracle = Oracle::new(ROOT, *account);
    let compared = around.compared.lock().expect("no panic under the lock");
    let mut charges = BTreeSet::new();
    for (version, sealed) in &*compared {
        let Some(guard) = oracle.guard(*version, sealed) else { continue };
        let at = versions.iter().find(|at| at.guard.blind == guard.blind);
        let at = at.expect("a PIN was compared that nobody paid for");
        assert_eq!(at.event.kind, AuditKind::TryCharged, "a PIN was compared without a charge");
        charges.insert(*version);
    }
    let mut in_a_row = 0;
    for version in versions {
        let Version { guard, event, .. } = &**version;
        in_a_row += u32::from(charges.contains(&guard.version));
        assert!(in_a_row <= u32::from(TRIES), "{in_a_row} comparisons in a row");
        if matches!(event.kind, AuditKind::Recovered | AuditKind::PinChanged) {
            in_a_row = 0;
        }
    }
}
