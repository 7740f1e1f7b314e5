//! Folding pages of vault events into the passkey list, refusing what a host must not get away with.
//!
//! The enclave has checked each page against the chain. What only a client can check is that the
//! pages fit *its* past and each other, that they reach the sealed head, and that no passkey was
//! left out: each slot's last event is a tombstone, or came with the passkey it put. Nothing of a
//! sync is kept until all of that holds.

use std::collections::BTreeMap;

use keyfold_protocol::client::{Action, Synced, SyncedEvent};
use keyfold_protocol::ids::{ChainPoint, SlotId};
use keyfold_protocol::transcript::Chain;

use crate::crypto::sha256;
use crate::error::{Error, Fork, SyncError};
use crate::store::{AccountState, Passkey};

/// A sync under way.
pub(crate) struct Fold {
    /// Every point passed, the start first.
    points: Vec<ChainPoint>,
    /// Points that the chain is known to pass through.
    floors: Vec<ChainPoint>,
    head: Option<ChainPoint>,
    slots: BTreeMap<SlotId, Slot>,
}

enum Slot {
    Live(Box<Passkey>),
    /// Superseded so far: some later event must say what the slot holds.
    Withheld {
        at: u64,
    },
}

impl Fold {
    /// Starts at what this device knows.
    pub(crate) fn new(state: &AccountState) -> Self {
        let live = |passkey: &Passkey| (passkey.slot, Slot::Live(Box::new(passkey.clone())));
        Self {
            points: vec![state.vault],
            floors: state.vault_floor.into_iter().chain([state.anchor]).collect(),
            head: None,
            slots: state.passkeys.iter().map(live).collect(),
        }
    }

    /// Starts at another point of the same chain, to see whether it leads to what this device knows.
    pub(crate) fn between(from: ChainPoint, state: &AccountState) -> Self {
        let (points, floors) = (vec![from], vec![state.vault]);
        Self { points, floors, head: None, slots: BTreeMap::new() }
    }

    /// Where the next page starts.
    pub(crate) fn cursor(&self) -> ChainPoint {
        self.points[self.points.len() - 1]
    }

    /// Takes a page. True when it reached the sealed head.
    pub(crate) fn page(&mut self, page: &Synced) -> Result<bool, Error> {
        let from = self.cursor();
        let known = self.head.unwrap_or(from);
        if page.vault.version < known.version {
            return Err(Fork::VaultRolledBack { known, came: page.vault }.into());
        }
        self.head = Some(page.vault);
        for item in page.items.clone() {
            let at = self.cursor().version.saturating_add(1);
            self.event(item.map_err(|_| SyncError::Broken { at })?)?;
        }
        let reached = self.cursor();
        if reached != page.cursor {
            return Err(SyncError::Broken { at: page.cursor.version }.into());
        }
        if reached.version >= page.vault.version && reached != page.vault {
            return Err(Fork::VaultForked { known: reached, came: page.vault }.into());
        }
        if reached != page.vault && reached == from {
            let head = page.vault.version;
            return Err(SyncError::Incomplete { reached: reached.version, head }.into());
        }
        Ok(reached == page.vault)
    }

    fn event(&mut self, item: SyncedEvent) -> Result<(), Error> {
        let SyncedEvent { event, passkey } = item;
        let from = self.cursor();
        let broken = SyncError::Broken { at: from.version.saturating_add(1) };
        let point = Chain::Vault.next(sha256, &from, &event).ok_or(broken.clone())?;
        match (event.action, passkey) {
            (Action::Put, Some(view)) => {
                let passkey = Passkey::new(event.slot, event.version, event.digest, view);
                self.slots.insert(event.slot, Slot::Live(Box::new(passkey)));
            }
            (Action::Put, None) => {
                self.slots.insert(event.slot, Slot::Withheld { at: event.version });
            }
            (Action::Delete, None) => {
                self.slots.remove(&event.slot);
            }
            (Action::Touch, None) => {}
            (Action::Delete | Action::Touch, Some(_)) | (Action::Audit, _) => {
                return Err(broken.into());
            }
        }
        self.points.push(point);
        Ok(())
    }

    /// Ends the sync at the sealed head.
    pub(crate) fn finish(self) -> Result<Folded, Error> {
        let reached = self.cursor();
        let head = self.head.unwrap_or(reached);
        if reached != head {
            let (reached, head) = (reached.version, head.version);
            return Err(SyncError::Incomplete { reached, head }.into());
        }
        let mut passkeys = Vec::with_capacity(self.slots.len());
        for slot in self.slots.into_values() {
            match slot {
                Slot::Live(passkey) => passkeys.push(*passkey),
                Slot::Withheld { at } => return Err(SyncError::RecordMissing { at }.into()),
            }
        }
        let folded = Folded { points: self.points, passkeys };
        self.floors.iter().try_for_each(|floor| folded.passed(*floor))?;
        Ok(folded)
    }
}

/// A complete sync.
pub(crate) struct Folded {
    points: Vec<ChainPoint>,
    passkeys: Vec<Passkey>,
}

impl Folded {
    fn head(&self) -> ChainPoint {
        self.points[self.points.len() - 1]
    }

    /// That the events led through `known`. Points before the start cannot be judged, nor need
    /// they be: the start is what this device has seen itself.
    fn passed(&self, known: ChainPoint) -> Result<(), Error> {
        let came = self.head();
        if came.version < known.version {
            return Err(Fork::VaultRolledBack { known, came }.into());
        }
        match self.points.iter().find(|point| point.version == known.version) {
            Some(point) if *point != known => Err(Fork::VaultForked { known, came: *point }.into()),
            _ => Ok(()),
        }
    }

    /// Writes the result into `state`, which another process may have moved since the start.
    /// True when something changed.
    pub(crate) fn apply(self, state: &mut AccountState) -> Result<bool, Error> {
        let head = self.head();
        if state.vault.version > head.version {
            // The other process is further, and has checked its own way there.
            return Ok(false);
        }
        self.passed(state.vault)?;
        state.vault_floor.map_or(Ok(()), |floor| self.passed(floor))?;
        // Another process may have heard of a later one; the next sync must pass through that.
        if state.anchor.version <= head.version {
            self.passed(state.anchor)?;
        }
        let changed = state.vault != head;
        state.vault_floor = None;
        state.vault = head;
        state.passkeys = self.passkeys;
        Ok(changed)
    }
}

#[cfg(test)]
mod tests;
