//! The guard: who may use an account. Every change passes through the ledger before it counts.
//!
//! A change leaves the core as a *staged* guard, which authorises nothing: it is sealed as another
//! kind of object. Only [`commit`], shown the ledger's receipt for this very transition, turns it
//! into the *live* guard and releases the answer.

use heapless::Vec;
use serde::{Deserialize, Serialize};

use crate::boot::Keyed;
use crate::core::reply;
use crate::crypto::{Failed, sha256};
use crate::keys::{AccountSecret, Secret, in_sealed};
use crate::platform::{Platform, random};
use crate::protocol::*;
use crate::receipt::{self, Entry, Recorded};
use crate::request::{Caller, FirstDevice, Stop, Turn, UserVerified};
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

/// A guard on its way: what will be live, and the key of the answer that waits for it.
#[derive(Serialize, Deserialize)]
struct StagedGuard {
    guard: Guard,
    #[serde(with = "in_sealed")]
    reply_key: Secret,
}

/// A change to a live guard. Who may be added or struck off is a verified user's to say.
pub(crate) enum Edit {
    Add(Device, UserVerified),
    Remove(DeviceId, UserVerified),
    /// Only the vault's point is written down.
    Anchor,
}

/// A staged guard, sealed for the host to store.
pub(crate) struct StagedWrite {
    tag: LedgerTag,
    version: u64,
    digest: Digest,
    guard: [u8; seal::GUARD],
    audit: [u8; seal::AUDIT],
}

impl StagedWrite {
    pub(crate) fn for_host(&self) -> Staged<'_> {
        let Self { tag, version, digest, guard, audit } = self;
        Staged { tag: *tag, version: *version, digest: *digest, guard, audit }
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
        let Device { device_key, uv_key, .. } = &device;
        let is_known = |key: &P256PublicKey| {
            let mut devices = self.devices.iter().map(|known| &known.device);
            devices.any(|known| known.device_key == *key || known.uv_key == *key)
        };
        if device_key == uv_key || is_known(device_key) || is_known(uv_key) {
            return Err(Refusal::KnownDevice);
        }
        let id = device_id(sha256, device_key, uv_key);
        let added = self.devices.push(Registered { id, device });
        added.map(|()| id).map_err(|_| Refusal::TooManyDevices)
    }

    fn apply(&mut self, edit: Edit) -> Result<(AuditKind, Option<DeviceId>), Refusal> {
        match edit {
            Edit::Add(device, _) => {
                let id = self.register(device)?;
                Ok((AuditKind::DeviceAdded, Some(id)))
            }
            Edit::Remove(id, _) => {
                self.device(&id).ok_or(Refusal::UnknownDevice)?;
                if self.devices.len() == 1 {
                    return Err(Refusal::LastDevice);
                }
                self.devices.retain(|known| known.id != id);
                Ok((AuditKind::DeviceRevoked, Some(id)))
            }
            Edit::Anchor => Ok((AuditKind::Anchored, None)),
        }
    }
}

/// The live guard the host attached, if it is of this deployment, ledger and root key.
pub(crate) fn open_live<P>(turn: &Turn<P>) -> Result<Guard, Stop> {
    let attached = turn.handle.guard.as_ref().ok_or(HostRefusal::State)?;
    let context = Context::sole(Kind::GuardLive, &turn.handle.account, attached.version.0);
    let guard: Guard =
        seal::open::<_, { seal::GUARD }>(&turn.keyed.roots.guard, &context, attached.sealed)
            .map_err(|_| HostRefusal::State)?;
    if guard.home == turn.keyed.home { Ok(guard) } else { Err(Refusal::ForeignGuard.into()) }
}

/// Opens an account: version 1, with a secret of its own. That no earlier version exists is the
/// ledger's to say, at the append from 0.
pub(crate) fn enroll<P: Platform>(
    turn: &mut Turn<P>, first: FirstDevice, enroll: &Enroll,
) -> Result<StagedWrite, Stop> {
    let account = &turn.handle.account;
    if account.generation == 0 {
        return Err(Refusal::Malformed.into());
    }
    let mut guard = Guard {
        version: 0,
        secret: AccountSecret::new(random(turn.platform)?),
        pin: turn.keyed.roots.pin_verifier(account, &enroll.pin),
        devices: Vec::new(),
        home: turn.keyed.home,
        floor: Chain::Vault.genesis(sha256, account),
        audit_head: Chain::Audit.genesis(sha256, account).head,
        blind: [0; 32],
    };
    guard.register(enroll.device.clone())?;
    stage(turn, first.id(), guard, AuditKind::Enrolled, None)
}

/// Changes a guard: exactly the version the caller signed for, at exactly the vault it knows.
pub(crate) fn change<P: Platform>(
    turn: &mut Turn<P>, caller: Caller, base: &GuardBase, edit: Edit,
) -> Result<StagedWrite, Stop> {
    let vault = vault::open(turn, &caller)?;
    let (actor, mut guard) = (caller.device(), caller.into_guard());
    if base.guard != guard.version {
        return Err(Refusal::GuardMoved.into());
    }
    if base.vault != vault.point {
        return Err(Refusal::SyncFirst.into());
    }
    let (kind, subject) = guard.apply(edit)?;
    guard.floor = vault.point;
    stage(turn, actor, guard, kind, subject)
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
    })
}

/// Gives a change its version, its audit event and its seal.
fn stage<P: Platform>(
    turn: &mut Turn<P>, actor: DeviceId, mut guard: Guard, kind: AuditKind,
    subject: Option<DeviceId>,
) -> Result<StagedWrite, Stop> {
    let account = &turn.handle.account;
    let version = guard.version.checked_add(1).ok_or(Refusal::Malformed)?;

    // 1. What happened, chained to all that happened before.
    let subject = subject.unwrap_or(actor);
    let event = AuditEvent { version, kind, actor, subject, host_time: turn.handle.time.0 };
    let before = ChainPoint { version: guard.version, head: guard.audit_head };
    let link = sync::audit_link(&event)?;
    let after = Chain::Audit.next(sha256, &before, &link).ok_or(Refusal::BrokenChain)?;
    let context = Context::sole(Kind::Audit, account, version);
    let audit = seal(turn.platform, &guard.secret.audit(), &context, &event)?;

    // 2. The new guard, under a digest that says nothing.
    guard.version = version;
    guard.audit_head = after.head;
    guard.blind = random(turn.platform)?;
    let digest = guard.digest(account)?;

    // 3. Sealed as staged: it authorises nothing.
    let reply_key = turn.session.reply_key(turn.handle.frame);
    let context = Context::sole(Kind::GuardStaged, account, version);
    let staged = StagedGuard { guard, reply_key };
    let guard = seal(turn.platform, &turn.keyed.roots.guard, &context, &staged)?;
    Ok(StagedWrite { tag: turn.keyed.tag(account), version, digest, guard, audit })
}

/// Turns a staged guard into a live one: the ledger's receipt says that this transition, and no
/// other, is the one that happened.
pub(crate) fn commit<P: Platform>(
    keyed: &Keyed, platform: &mut P, commit: &Commit, out: &mut [u8; FRAME],
) -> Result<usize, HostRefusal> {
    let Commit { account, staged, receipt } = commit;
    let context = Context::sole(Kind::GuardStaged, account, staged.version.0);
    let StagedGuard { guard, reply_key } =
        seal::open::<_, { seal::GUARD }>(&keyed.roots.guard, &context, staged.sealed)
            .map_err(|_| HostRefusal::State)?;
    if guard.home != keyed.home {
        return Err(HostRefusal::State);
    }
    let tag = keyed.tag(account);
    let digest = guard.digest(account).map_err(|_| HostRefusal::State)?;
    let entry = Entry { tag: &tag, version: guard.version, guard: &digest };
    let committed = receipt::committed(&keyed.config, &entry, receipt);
    let committed = committed.map_err(|_| HostRefusal::Receipt)?;

    let live = go_live(keyed, platform, account, &guard, committed);
    let live = live.map_err(|_| HostRefusal::Platform)?;
    let mut sealed = [0; GUARD_REPLY];
    let outcome: Outcome = Ok(Success::GuardChanged(GuardChanged {
        guard: guard.version,
        audit_head: guard.audit_head,
        vault: guard.floor,
    }));
    seal_into(platform, &reply_key, REPLY_SEAL, &[], &outcome, &mut sealed)
        .map_err(|_| HostRefusal::Platform)?;
    let version = guard.version;
    reply(out, &HostReply::Committed(Committed { version, guard: &live, sealed: &sealed }))
}

const GUARD_REPLY: usize = Class::Guard.reply_size(0).saturating_add(SEAL_OVERHEAD);

/// Seals a guard as live. Takes the proof, so that no second seal rests on it.
fn go_live<P: Platform>(
    keyed: &Keyed, platform: &mut P, account: &Account, guard: &Guard, _: Recorded,
) -> Result<[u8; seal::GUARD], Failed> {
    let context = Context::sole(Kind::GuardLive, account, guard.version);
    seal(platform, &keyed.roots.guard, &context, guard)
}
