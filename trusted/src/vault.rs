//! The vault: where an account's passkeys stand, as one point in a chain of events.
//!
//! A put names the vault's exact point, else the answer is SyncFirst. That is the replay
//! protection, and why two forks can never merge.

use serde::{Deserialize, Serialize};

use crate::crypto::sha256;
use crate::passkey::Record;
use crate::platform::{Platform, random};
use crate::protocol::*;
use crate::request::{Caller, PutWrite, Stop, Turn, UserVerified};
use crate::seal::{self, Context, Kind, seal};

/// Where an account's event chain stands.
#[derive(Serialize, Deserialize)]
pub(crate) struct Vault {
    pub(crate) point: ChainPoint,
    /// The guard version of the last put: an older guard may not use this vault.
    guard_floor: u64,
}

/// The vault the host attached, neither older than the guard knows nor newer than the guard.
pub(crate) fn open<P>(turn: &Turn<P>, caller: &Caller) -> Result<Vault, Stop> {
    let (account, guard) = (&turn.handle.account, caller.guard());
    let vault = match &turn.handle.vault {
        Some(attached) => {
            let context = Context::sole(Kind::VAULT, account, attached.version.0);
            seal::open::<_, { seal::VAULT }>(&guard.secret.vault(), &context, attached.sealed)?
        }
        None => Vault { point: Chain::Vault.genesis(sha256, account), guard_floor: 0 },
    };
    if guard.version() < vault.guard_floor {
        return Err(Refusal::StaleGuard.into());
    }
    let (point, floor) = (&vault.point, &guard.floor);
    if point.version < floor.version || (point.version == floor.version && point.head != floor.head)
    {
        return Err(Refusal::StaleVault.into());
    }
    Ok(vault)
}

/// What a put does to its slot.
pub(crate) enum Change<'a> {
    /// The slot holds this new passkey from now on. Over another one, only for a verified user:
    /// that ends the other. Whether there is one the host knows, and it could end them all anyway.
    Create(SlotId, &'a Record, Option<&'a UserVerified>),
    /// The slot holds this version of its passkey from now on.
    Update(SlotId, &'a Record),
    /// The slot is empty from now on: for a verified user only.
    Delete(SlotId, UserVerified),
    /// Only the vault's guard floor rises.
    Touch,
}

/// Appends one event to the vault, which must stand at exactly the point the caller named.
pub(crate) fn put<P: Platform>(
    turn: &mut Turn<P>, caller: &Caller, named: &ChainPoint, change: &Change,
) -> Result<(PutDone, PutWrite), Stop> {
    let vault = open(turn, caller)?;
    if *named != vault.point {
        return Err(Refusal::SyncFirst.into());
    }
    let (account, guard) = (&turn.handle.account, caller.guard());
    let version = vault.point.version.checked_add(1).ok_or(Refusal::Malformed)?;
    // Random, lest the same event made again under another guard lead to the same point.
    let unique = Digest(random(turn.platform)?);
    let (slot, action, digest, record) = match change {
        Change::Create(slot, record, _) | Change::Update(slot, record) => {
            let context = Context::record(account, *slot, version);
            let sealed = seal(turn.platform, &guard.secret.record(), &context, *record)?;
            (*slot, Action::Put, record.digest()?, Some(sealed))
        }
        Change::Delete(slot, _) => (*slot, Action::Delete, unique, None),
        Change::Touch => (SlotId([0; 32]), Action::Touch, unique, None),
    };
    let event = Event { version, slot, action, digest };
    let point = Chain::Vault.next(sha256, &vault.point, &event).ok_or(Refusal::BrokenChain)?;
    let moved = Vault { point, guard_floor: guard.version() };
    let context = Context::sole(Kind::VAULT, account, version);
    let sealed = seal(turn.platform, &guard.secret.vault(), &context, &moved)?;
    let done = PutDone { guard: guard.version(), event, vault: point };
    let only_if_empty = matches!(change, Change::Create(_, _, None));
    Ok((done, PutWrite { guard: guard.version(), event, vault: sealed, record, only_if_empty }))
}
