//! The guard: who may use an account. Every change passes through the ledger before it counts.
//!
//! A change leaves the core as a *staged* guard, which authorises nothing: it is sealed as another
//! kind of object. Only [`commit`], shown the ledger's receipt for this very transition, turns it
//! into the *live* guard and releases the answer.
//!
//! A recovery is two changes. [`charge`] counts a failure and leaves the candidate PIN waiting in the
//! guard, compared with nothing. Only of a live guard, [`settle`] compares it, and stages what came of
//! it; the answer waits for that second commit. So the ledger was paid for every comparison before it
//! was made: who withholds, repeats or forks anything can lose a try and never gain one.

use heapless::Vec;
use serde::{Deserialize, Serialize};
use subtle::{Choice, ConditionallySelectable};

use crate::boot::Keyed;
use crate::core::reply;
use crate::crypto::{Failed, sha256};
use crate::keys::{AccountSecret, Secret, in_sealed, settled_blind};
use crate::platform::{Platform, random};
use crate::protocol::*;
use crate::receipt::{self, Entry, Recorded};
use crate::request::{Caller, NewDevice, Stop, Turn, UserVerified, fresh_read};
use crate::seal::{self, Context, Kind, seal, seal_into};
use crate::sync;
use crate::vault;

/// Who may use an account, and what of its state they may rely on.
#[derive(Serialize, Deserialize)]
pub(crate) struct Guard {
    version: u64,
    pub(crate) secret: AccountSecret,
    #[serde(with = "in_sealed")]
    pin: Secret,
    /// Tries in a row that were charged and not found right. There is no other lock.
    failures: u8,
    pending: Option<Try>,
    /// Oldest first. None: the account has ended.
    devices: Vec<Registered, DEVICES>,
    /// Deployment, ledger and root key; see [`Keyed::home`].
    home: Digest,
    /// The vault point that is anchored in the ledger with this guard.
    pub(crate) floor: ChainPoint,
    pub(crate) audit_head: Digest,
    /// Random at every change, so that the digest on the ledger says nothing.
    blind: [u8; 32],
}

#[derive(Serialize, Deserialize)]
struct Registered {
    id: DeviceId,
    device: Device,
}

/// A PIN that was charged for and not compared yet.
#[derive(Serialize, Deserialize)]
struct Try {
    #[serde(with = "in_sealed")]
    verifier: Secret,
    device: Device,
    #[serde(with = "in_sealed")]
    reply_key: Secret,
    host_time: u64,
}

/// A guard on its way: what will be live, and the answer that waits for it.
#[derive(Serialize, Deserialize)]
struct StagedGuard {
    guard: Guard,
    /// Of this version. Out only with its commit: it says whether a try was right.
    event: AuditEvent,
    /// None while a try is pending: it is answered when settled.
    answer: Option<Waiting>,
}

#[derive(Serialize, Deserialize)]
struct Waiting {
    #[serde(with = "in_sealed")]
    reply_key: Secret,
    refusal: Option<Refusal>,
}

/// What makes a version of a guard, beside the guard itself.
struct Step {
    kind: AuditKind,
    actor: DeviceId,
    subject: Option<DeviceId>,
    host_time: u64,
    blind: [u8; 32],
    answer: Option<Waiting>,
}

/// A change to a live guard. Who may be added or struck off is a verified user's to say.
pub(crate) enum Edit {
    Add(Device, UserVerified),
    Remove(DeviceId, UserVerified),
    /// Only the vault's point is written down.
    Anchor,
    /// Sets the PIN, and with it the count.
    ChangePin(StretchedPin, UserVerified),
    Close(UserVerified),
}

/// A staged guard, sealed for the host to store.
pub(crate) struct StagedWrite {
    tag: LedgerTag,
    version: u64,
    digest: Digest,
    guard: [u8; seal::GUARD],
}

impl StagedWrite {
    pub(crate) fn for_host(&self) -> Staged<'_> {
        Staged { tag: self.tag, version: self.version, digest: self.digest, guard: &self.guard }
    }

    /// Becomes `other` if `choice`, in a time that does not say which: tag and version are the same.
    fn become_if(&mut self, choice: Choice, other: &Self) {
        let mine = self.digest.0.iter_mut().chain(&mut self.guard);
        let others = other.digest.0.iter().chain(&other.guard);
        mine.zip(others).for_each(|(mine, other)| mine.conditional_assign(other, choice));
    }
}

impl Guard {
    pub(crate) const fn version(&self) -> u64 {
        self.version
    }

    pub(crate) fn device(&self, id: &DeviceId) -> Option<&Device> {
        self.devices.iter().find(|known| known.id == *id).map(|known| &known.device)
    }

    /// What the ledger records of this guard.
    pub(crate) fn digest(&self, account: &Account) -> Result<Digest, Failed> {
        seal::digest(b"keyfold/guard/1", &(account, self))
    }

    /// A key counts in one role of one device, or revoking the device would not end it, and using it
    /// would not say who was there.
    fn register(&mut self, device: Device) -> Result<DeviceId, Refusal> {
        self.check_new(&device)?;
        let id = device_id(sha256, &device.device_key, &device.uv_key);
        let added = self.devices.push(Registered { id, device });
        added.map(|()| id).map_err(|_| Refusal::TooManyDevices)
    }

    fn check_new(&self, device: &Device) -> Result<(), Refusal> {
        let Device { device_key, uv_key, .. } = device;
        let is_known = |key: &P256PublicKey| {
            let mut devices = self.devices.iter().map(|known| &known.device);
            devices.any(|known| known.device_key == *key || known.uv_key == *key)
        };
        let is_new = device_key != uv_key && !is_known(device_key) && !is_known(uv_key);
        if is_new { Ok(()) } else { Err(Refusal::KnownDevice) }
    }

    fn apply<P: Platform>(
        &mut self, turn: &mut Turn<P>, edit: Edit,
    ) -> Result<(AuditKind, Option<DeviceId>), Stop> {
        match edit {
            Edit::Add(device, _) => {
                let id = self.register(device)?;
                Ok((AuditKind::DeviceAdded, Some(id)))
            }
            Edit::Remove(id, _) => {
                self.device(&id).ok_or(Refusal::UnknownDevice)?;
                if self.devices.len() == 1 {
                    return Err(Refusal::LastDevice.into());
                }
                self.devices.retain(|known| known.id != id);
                Ok((AuditKind::DeviceRevoked, Some(id)))
            }
            Edit::Anchor => Ok((AuditKind::Anchored, None)),
            Edit::ChangePin(pin, _) => {
                self.pin = turn.keyed.roots.pin_verifier(&turn.handle.account, &pin);
                self.failures = 0;
                Ok((AuditKind::PinChanged, None))
            }
            Edit::Close(_) => {
                self.devices.clear();
                self.secret = AccountSecret::new(random(turn.platform)?);
                self.pin = Secret::new(random(turn.platform)?);
                Ok((AuditKind::Deleted, None))
            }
        }
    }
}

/// The live guard the host attached, if it is of this deployment, ledger and root key, and not older
/// than the caller has seen.
pub(crate) fn open_live<P>(turn: &Turn<P>, seen: u64) -> Result<Guard, Stop> {
    let attached = turn.handle.guard.as_ref().ok_or(HostRefusal::State)?;
    let guard = open(turn.keyed, &turn.handle.account, attached)?;
    if guard.home != turn.keyed.home {
        return Err(Refusal::ForeignGuard.into());
    }
    if guard.version < seen { Err(Refusal::StaleGuard.into()) } else { Ok(guard) }
}

fn open(keyed: &Keyed, account: &Account, live: &Attached) -> Result<Guard, HostRefusal> {
    let context = Context::sole(Kind::GUARD_LIVE, account, live.version.0);
    seal::open::<_, { seal::GUARD }>(&keyed.roots.guard, &context, live.sealed)
}

/// Opens an account: version 1, with a secret of its own. That no earlier version exists is the
/// ledger's to say, at the append from 0. Of a person's accounts one is open at a time: beside it
/// nobody opens another, with a PIN of their own to compare the person's with.
pub(crate) fn enroll<P: Platform>(
    turn: &mut Turn<P>, first: NewDevice, enroll: &Enroll,
) -> Result<StagedWrite, Stop> {
    let account = &turn.handle.account;
    let before = account.generation.checked_sub(1).ok_or(Refusal::Malformed)?;
    if before > 0 {
        let attached = turn.handle.guard.as_ref().ok_or(HostRefusal::State)?;
        let last = open(turn.keyed, &Account { id: account.id, generation: before }, attached)?;
        if last.home != turn.keyed.home || !last.devices.is_empty() {
            return Err(HostRefusal::State.into());
        }
    }
    let mut guard = Guard {
        version: 0,
        secret: AccountSecret::new(random(turn.platform)?),
        pin: turn.keyed.roots.pin_verifier(account, &enroll.pin),
        failures: 0,
        pending: None,
        devices: Vec::new(),
        home: turn.keyed.home,
        floor: Chain::Vault.genesis(sha256, account),
        audit_head: Chain::Audit.genesis(sha256, account).head,
        blind: [0; 32],
    };
    guard.register(enroll.device.clone())?;
    stage_for(turn, first.id(), guard, AuditKind::Enrolled, None)
}

/// Charges a try before anything is compared: it counts as a failure until it is found right.
pub(crate) fn charge<P: Platform>(
    turn: &mut Turn<P>, first: NewDevice, seen: u64, recover: Recover,
) -> Result<StagedWrite, Stop> {
    let mut guard = open_live(turn, seen)?;
    fresh_read(turn, &guard)?;
    if guard.devices.is_empty() {
        return Err(Refusal::Closed.into());
    }
    if recover.guard != guard.version {
        return Err(Refusal::GuardAt(guard.version).into());
    }
    if guard.failures >= TRIES {
        return Err(Refusal::Locked.into());
    }
    guard.check_new(&recover.device)?;
    guard.failures = guard.failures.saturating_add(1);
    guard.pending = Some(Try {
        verifier: turn.keyed.roots.pin_verifier(&turn.handle.account, &recover.pin),
        device: recover.device,
        reply_key: turn.session.reply_key(turn.handle.frame),
        host_time: turn.handle.time.0,
    });
    stage_for(turn, first.id(), guard, AuditKind::TryCharged, None)
}

/// Changes a guard: exactly the version the caller signed for, at exactly the vault it knows.
pub(crate) fn change<P: Platform>(
    turn: &mut Turn<P>, caller: Caller, base: &GuardBase, edit: Edit,
) -> Result<StagedWrite, Stop> {
    let vault = vault::open(turn, &caller)?;
    let (actor, mut guard) = caller.into_parts();
    if base.guard != guard.version {
        return Err(Refusal::GuardMoved.into());
    }
    // Else two forks of a vault would meet here, each anchored in its turn.
    if base.anchor != guard.floor {
        return Err(Refusal::BrokenChain.into());
    }
    if base.vault != vault.point {
        return Err(Refusal::SyncFirst.into());
    }
    let (kind, subject) = guard.apply(turn, edit)?;
    guard.floor = vault.point;
    // A try that waits is over, and stays counted unless the PIN was set.
    guard.pending = None;
    stage_for(turn, actor, guard, kind, subject)
}

/// Compares the PIN of a charged try and stages what comes of it. Needs no further authority: the
/// try's request had it, and the ledger has recorded the charge, or the guard would not be live.
///
/// Both outcomes are prepared and one is chosen, so that neither size nor time tells them apart. All
/// that enters their digests comes from the charged guard: settled again, after a crash or by another
/// enclave, it is the same transition.
pub(crate) fn settle<P: Platform>(
    keyed: &Keyed, platform: &mut P, settle: &Settle,
) -> Result<StagedWrite, HostRefusal> {
    let Settle { account, guard } = settle;
    let (mut right, mut wrong) = (open(keyed, account, guard)?, open(keyed, account, guard)?);
    let (Some(tried), Some(failed)) = (right.pending.take(), wrong.pending.take()) else {
        return Err(HostRefusal::State);
    };
    if right.home != keyed.home {
        return Err(HostRefusal::State);
    }
    let is_right = tried.verifier.equals(&right.pin);
    let step = |kind, subject, refusal, of: Try| Step {
        kind,
        actor: device_id(sha256, &of.device.device_key, &of.device.uv_key),
        subject,
        host_time: of.host_time,
        blind: settled_blind(&wrong.blind),
        answer: Some(Waiting { reply_key: of.reply_key, refusal }),
    };

    let refusal = Refusal::WrongPin(TRIES.saturating_sub(wrong.failures));
    let failed = step(AuditKind::TryFailed, None, Some(refusal), failed);
    let oldest = right.devices.first().filter(|_| right.devices.is_full());
    let made_room = oldest.map(|oldest| oldest.id);
    right.devices.retain(|known| Some(known.id) != made_room);
    right.failures = 0;
    right.register(tried.device.clone()).map_err(|_| HostRefusal::State)?;
    let recovered = step(AuditKind::Recovered, made_room, None, tried);

    let mut outcome = stage(keyed, platform, account, wrong, failed)?;
    outcome.become_if(is_right, &stage(keyed, platform, account, right, recovered)?);
    Ok(outcome)
}

/// What Status reports. Only of a guard that the ledger has just confirmed.
pub(crate) fn status<P>(turn: &Turn<P>, caller: &Caller) -> Result<AccountStatus, Stop> {
    let guard = caller.confirmed_guard()?;
    let vault = vault::open(turn, caller)?;
    let view = |known: &Registered| DeviceView { id: known.id, name: known.device.name.clone() };
    Ok(AccountStatus {
        guard: guard.version,
        audit_head: guard.audit_head,
        anchor: guard.floor,
        vault: vault.point,
        devices: guard.devices.iter().map(view).collect(),
        failures: guard.failures,
    })
}

/// Stages the change that this turn's request makes.
fn stage_for<P: Platform>(
    turn: &mut Turn<P>, actor: DeviceId, guard: Guard, kind: AuditKind, subject: Option<DeviceId>,
) -> Result<StagedWrite, Stop> {
    let reply_key = turn.session.reply_key(turn.handle.frame);
    let answer = guard.pending.is_none().then_some(Waiting { reply_key, refusal: None });
    let (host_time, blind) = (turn.handle.time.0, random(turn.platform)?);
    let step = Step { kind, actor, subject, host_time, blind, answer };
    Ok(stage(turn.keyed, turn.platform, &turn.handle.account, guard, step)?)
}

/// Gives a change its version, its audit event and its seal. Not inlined: its guards would lie on its
/// callers' stack, twice where a try is settled, and all of that has to be wiped.
#[inline(never)]
fn stage<P: Platform>(
    keyed: &Keyed, platform: &mut P, account: &Account, mut guard: Guard, step: Step,
) -> Result<StagedWrite, Failed> {
    let Step { kind, actor, subject, host_time, blind, answer } = step;
    let version = guard.version.checked_add(1).ok_or(Failed)?;

    // 1. What happened, chained to all that happened before.
    let event = AuditEvent { version, kind, actor, subject: subject.unwrap_or(actor), host_time };
    let before = ChainPoint { version: guard.version, head: guard.audit_head };
    let link = sync::audit_link(&event)?;
    let after = Chain::Audit.next(sha256, &before, &link).ok_or(Failed)?;

    // 2. The new guard, under a digest that says nothing.
    guard.version = version;
    guard.audit_head = after.head;
    guard.blind = blind;
    let digest = guard.digest(account)?;

    // 3. Sealed as staged: it authorises nothing.
    let context = Context::staged(account, digest, version);
    let guard =
        seal(platform, &keyed.roots.guard, &context, &StagedGuard { guard, event, answer })?;
    Ok(StagedWrite { tag: keyed.tag(account), version, digest, guard })
}

/// Turns a staged guard into a live one: the ledger's receipt says that this transition, and no
/// other, is the one that happened. Until then nothing that was staged is so much as opened.
pub(crate) fn commit<P: Platform>(
    keyed: &Keyed, platform: &mut P, commit: &Commit, out: &mut [u8; FRAME],
) -> Result<usize, HostRefusal> {
    let Commit { account, staged, digest, receipt } = commit;
    let (version, digest) = (staged.version.0, &digest.0);
    let entry = Entry { tag: &keyed.tag(account), version, guard: digest };
    let committed = receipt::committed(&keyed.config, &entry, receipt);
    let committed = committed.map_err(|_| HostRefusal::Receipt)?;

    let context = Context::staged(account, *digest, version);
    let StagedGuard { guard, event, answer } =
        seal::open::<_, { seal::GUARD }>(&keyed.roots.guard, &context, staged.sealed)?;
    let is_recorded = guard.digest(account).is_ok_and(|of_this| of_this == *digest);
    if guard.home != keyed.home || !is_recorded {
        return Err(HostRefusal::State);
    }

    let live = go_live(keyed, platform, account, &guard, committed)?;
    let context = Context::sole(Kind::AUDIT, account, version);
    let audit: [u8; seal::AUDIT] = seal(platform, &guard.secret.audit(), &context, &event)?;
    let mut sealed = [0; GUARD_REPLY];
    let next = match &answer {
        None => Next::Settle,
        Some(Waiting { reply_key, refusal }) => {
            let (audit_head, vault) = (guard.audit_head, guard.floor);
            let changed = GuardChanged { guard: version, audit_head, vault };
            let outcome: Outcome = refusal.map_or(Ok(Success::GuardChanged(changed)), Err);
            seal_into(platform, reply_key, REPLY_SEAL, &[], &outcome, &mut sealed)?;
            let ended = guard.devices.is_empty();
            if ended { Next::Closed(&sealed) } else { Next::Answer(&sealed) }
        }
    };
    reply(out, &HostReply::Committed(Committed { version, guard: &live, audit: &audit, next }))
}

const GUARD_REPLY: usize = Class::Guard.reply_size(0).saturating_add(SEAL_OVERHEAD);

/// Seals a guard as live. Takes the proof, so that no second seal rests on it.
fn go_live<P: Platform>(
    keyed: &Keyed, platform: &mut P, account: &Account, guard: &Guard, _: Recorded,
) -> Result<[u8; seal::GUARD], Failed> {
    let context = Context::sole(Kind::GUARD_LIVE, account, guard.version);
    seal(platform, &keyed.roots.guard, &context, guard)
}
