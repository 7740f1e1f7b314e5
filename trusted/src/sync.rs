//! Reading a chain in pages: the vault's for sync, the guard's for audit.
//!
//! The host attaches what it stored; the chain decides whether it is all of it. A page says where
//! it leads; only a client that has reached the sealed point, page by page, is in sync.

use crate::crypto::{Failed, sha256};
use crate::passkey;
use crate::protocol::*;
use crate::request::{Caller, Stop, Turn};
use crate::seal::{self, Context, Kind};
use crate::vault;

/// A walk along a chain from where the client stands to, at most, the sealed point.
struct Walk<'a> {
    chain: Chain,
    at: ChainPoint,
    end: &'a ChainPoint,
    /// A point that the chain is known to pass through.
    floor: &'a ChainPoint,
}

impl<'a> Walk<'a> {
    fn start(
        chain: Chain, account: &Account, from: &ChainPoint, end: &'a ChainPoint,
        floor: &'a ChainPoint,
    ) -> Result<Self, Refusal> {
        if from.version == 0 && *from != chain.genesis(sha256, account) {
            return Err(Refusal::BrokenChain);
        }
        let walk = Self { chain, at: *from, end, floor };
        walk.check().map(|()| walk)
    }

    fn step(&mut self, event: &Event) -> Result<(), Refusal> {
        self.at = self.chain.next(sha256, &self.at, event).ok_or(Refusal::BrokenChain)?;
        self.check()
    }

    /// Where the chain's point at a version is known, the walk must stand on that very point.
    fn check(&self) -> Result<(), Refusal> {
        let off = |known: &ChainPoint| self.at.version == known.version && self.at != *known;
        if self.at.version > self.end.version {
            return Err(Refusal::StaleVault);
        }
        if off(self.end) || off(self.floor) { Err(Refusal::BrokenChain) } else { Ok(()) }
    }
}

/// Collects items of a reply, encoded one after the other.
struct Page<'a> {
    buffer: &'a mut [u8],
    used: usize,
}

impl<'a> Page<'a> {
    fn push<T: serde::Serialize>(&mut self, item: &T) -> Result<(), HostRefusal> {
        let free = self.buffer.get_mut(self.used..).ok_or(HostRefusal::Malformed)?;
        let more = wire::encode(item, free).map_err(|_| HostRefusal::Malformed)?;
        self.used = self.used.saturating_add(more);
        Ok(())
    }

    fn finish<T>(self) -> Items<'a, T> {
        let Self { buffer, used } = self;
        let buffer: &'a [u8] = buffer;
        Items::new(buffer.get(..used).unwrap_or_default())
    }
}

/// A page of vault events with the passkeys they left.
pub(crate) fn vault_page<'a, P>(
    turn: &Turn<P>, caller: &Caller, from: &ChainPoint, buffer: &'a mut [u8],
) -> Result<Synced<'a>, Stop> {
    let (account, guard) = (&turn.handle.account, caller.guard());
    let vault = vault::open(turn, caller)?;
    let mut walk = Walk::start(Chain::Vault, account, from, &vault.point, &guard.floor)?;
    let mut page = Page { buffer, used: 0 };
    for attached in turn.handle.events {
        let attached = attached.map_err(|_| HostRefusal::Malformed)?;
        walk.step(&attached.event)?;
        let passkey = view(turn, caller, &attached)?;
        page.push(&SyncedEvent { event: attached.event, passkey })?;
    }
    let (guard, vault, cursor) = (guard.version(), vault.point, walk.at);
    Ok(Synced { guard, vault, cursor, items: page.finish() })
}

fn view<P>(
    turn: &Turn<P>, caller: &Caller, attached: &AttachedEvent,
) -> Result<Option<PasskeyView>, Stop> {
    let (Action::Put, Some(sealed)) = (attached.event.action, attached.record) else {
        return Ok(None);
    };
    let event = &attached.event;
    let record = passkey::open(turn, caller, event.slot, Claimed(event.version), sealed)?;
    if record.digest()? != event.digest {
        return Err(Refusal::BrokenChain.into());
    }
    Ok(Some(record.view()))
}

/// A page of the guard's history. Only of a guard that the ledger has just confirmed.
pub(crate) fn audit_page<'a, P>(
    turn: &Turn<P>, caller: &Caller, from: &ChainPoint, buffer: &'a mut [u8],
) -> Result<Audited<'a>, Stop> {
    let guard = caller.confirmed_guard()?;
    let account = &turn.handle.account;
    let end = ChainPoint { version: guard.version(), head: guard.audit_head };
    let mut walk = Walk::start(Chain::Audit, account, from, &end, &end)?;
    let mut page = Page { buffer, used: 0 };
    let key = guard.secret.audit();
    for sealed in turn.handle.audit {
        let sealed = sealed.map_err(|_| HostRefusal::Malformed)?;
        let version = walk.at.version.checked_add(1).ok_or(Refusal::BrokenChain)?;
        let context = Context::sole(Kind::AUDIT, account, version);
        let event: AuditEvent = seal::open::<_, { seal::AUDIT }>(&key, &context, sealed)
            .map_err(|_| HostRefusal::State)?;
        walk.step(&audit_link(&event)?)?;
        page.push(&event)?;
    }
    let (guard, audit_head, cursor) = (guard.version(), guard.audit_head, walk.at);
    Ok(Audited { guard, audit_head, cursor, items: page.finish() })
}

/// An audit event as a link of its chain.
pub(crate) fn audit_link(event: &AuditEvent) -> Result<Event, Failed> {
    let digest: Digest = seal::digest(b"keyfold/audit-event/1", event)?;
    Ok(Event { version: event.version, slot: SlotId([0; 32]), action: Action::Audit, digest })
}
