//! What a person was told, and what may be besides.
//!
//! An acknowledged change leaves one state that can be. A change whose answer was lost, whatever the
//! error, adds the state it would have made: it happened or it did not, and nothing in between.

use std::collections::{BTreeMap, BTreeSet};

use keyfold_client::store::Passkey;
use keyfold_protocol::ids::{CredentialId, DeviceId};

/// A passkey as its owner knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Known {
    /// `None`: made by a create whose answer was lost.
    pub(crate) credential: Option<CredentialId>,
    /// The user's name.
    pub(crate) name: String,
    /// The public key, where its create was acknowledged.
    pub(crate) public_key: Option<Vec<u8>>,
}

/// `None`: no passkey.
type State = Option<Known>;

/// Everything a person can say about their account.
#[derive(Default)]
pub(crate) struct Memory {
    /// By user handle: what can be.
    slots: BTreeMap<Vec<u8>, Vec<State>>,
    /// Devices that are registered for certain, beside the first.
    pub(crate) devices: BTreeSet<DeviceId>,
    /// Devices whose approval or revocation was not answered. A guard change can be settled later.
    doubtful: BTreeSet<DeviceId>,
    /// The highest guard version that was acknowledged.
    pub(crate) guard: u64,
    /// Vault events that were acknowledged.
    pub(crate) vault_events: u64,
    /// Changes that were acknowledged.
    pub(crate) changes: u64,
    /// What the count of wrong tries can be.
    pub(crate) tries: Tries,
}

/// The count of wrong tries in a row, as far as its owner was told.
#[derive(Debug, Default)]
pub(crate) struct Tries {
    /// It is not lower than this.
    least: u8,
    /// It is not higher than this.
    most: u8,
    /// Tries whose answers were lost, and which a later recovery of the host may still carry out.
    unheard: u8,
    /// Something that sets the count to zero may still be carried out.
    reset_unheard: bool,
    /// Tries that were answered.
    pub(crate) answered: u64,
}

impl Tries {
    /// More than a client ever signs for one try.
    const SIGNED: u8 = 4;

    /// How many it can be at most.
    pub(crate) fn most(&self) -> u8 {
        self.most
    }

    /// A wrong try was answered: so many are counted now.
    pub(crate) fn wrong(&mut self, count: u8) {
        let (least, most) = (self.least + 1, self.most + Self::SIGNED);
        let fits = (least..=most).contains(&count);
        assert!(fits, "{count} wrong tries, where {least} to {most} can be");
        (self.least, self.most) = (count, count);
        self.settled();
        self.answered += 1;
    }

    /// A right PIN or a new one was acknowledged.
    pub(crate) fn zero(&mut self) {
        (self.least, self.most) = (0, 0);
        self.settled();
    }

    /// The answer to a try was lost.
    pub(crate) fn try_unheard(&mut self, is_right: bool) {
        self.most += Self::SIGNED;
        self.unheard += Self::SIGNED;
        if is_right {
            self.zero_unheard();
        }
    }

    /// The answer to what sets the count to zero was lost.
    pub(crate) fn zero_unheard(&mut self) {
        self.least = 0;
        self.reset_unheard = true;
    }

    /// A change of the guard was acknowledged: what was signed for a version before it is over.
    fn settled(&mut self) {
        self.unheard = 0;
        self.reset_unheard = false;
    }

    /// Compares with what the ledger confirms.
    pub(crate) fn check(&mut self, found: u8) {
        let fits = (self.least..=self.most).contains(&found);
        assert!(fits, "{found} wrong tries are counted, where {self:?} says what can be");
        self.least = if self.reset_unheard { 0 } else { found };
        self.most = found + self.unheard;
    }
}

impl Memory {
    /// A change of a passkey was acknowledged.
    pub(crate) fn is(&mut self, handle: &[u8], state: State) {
        self.slots.insert(handle.to_vec(), vec![state]);
        self.vault_events += 1;
        self.changes += 1;
    }

    /// The answer to a change of a passkey was lost.
    pub(crate) fn may_be(&mut self, handle: &[u8], state: State) {
        let slot = self.slots.entry(handle.to_vec()).or_insert_with(|| vec![None]);
        slot.push(state);
    }

    /// The passkeys of which only one state can be, and their handles.
    pub(crate) fn certain(&self) -> Vec<(Vec<u8>, Known)> {
        let certain = self.slots.iter().filter_map(|(handle, states)| match &states[..] {
            [Some(known)] if known.credential.is_some() => Some((handle.clone(), known.clone())),
            _ => None,
        });
        certain.collect()
    }

    /// A change of the guard was acknowledged.
    pub(crate) fn guard_is(&mut self, version: u64) {
        self.guard = self.guard.max(version);
        self.changes += 1;
        self.tries.settled();
    }

    /// The answer to an approval or revocation was lost.
    pub(crate) fn device_may_be(&mut self, device: DeviceId) {
        self.devices.remove(&device);
        self.doubtful.insert(device);
    }

    /// Compares with the vault: every slot is in a state that can be, and there is no other slot.
    /// From now on only what was found can be. Gives the passkeys that were in doubt.
    pub(crate) fn check_passkeys(&mut self, found: &[Passkey]) -> Vec<Passkey> {
        let mut were_doubtful = Vec::new();
        for (handle, states) in &mut self.slots {
            let here: Vec<_> =
                found.iter().filter(|passkey| passkey.user_handle[..] == handle[..]).collect();
            assert!(here.len() < 2, "two passkeys in one slot: {here:?}");
            let here = here.first().copied();
            let fits = states.iter().find(|state| same(state, here)).cloned();
            let text = String::from_utf8_lossy(handle);
            let fits = fits.unwrap_or_else(|| {
                panic!("{text}: found {here:?}, and all that can be is {states:?}")
            });
            if let Some(passkey) = here.filter(|_| states.len() > 1) {
                were_doubtful.push(passkey.clone());
            }
            let credential = here.map(|passkey| passkey.credential);
            *states = vec![fits.map(|known| Known { credential, ..known })];
        }
        for passkey in found {
            let known = self.slots.contains_key(&passkey.user_handle[..]);
            assert!(known, "a passkey that nobody made: {passkey:?}");
        }
        were_doubtful
    }

    /// Compares with the guard: every device for certain is there, and no stranger.
    pub(crate) fn check_devices(&mut self, first: DeviceId, found: &BTreeSet<DeviceId>) {
        assert!(found.contains(&first), "the first device is gone");
        for device in &self.devices {
            assert!(found.contains(device), "device {device} was acknowledged and is gone");
        }
        for device in found {
            let known =
                *device == first || self.devices.contains(device) || self.doubtful.contains(device);
            assert!(known, "device {device} is registered, and nobody approved it");
        }
    }

    /// Devices in doubt that are registered.
    pub(crate) fn doubtful(&self, found: &BTreeSet<DeviceId>) -> Vec<DeviceId> {
        self.doubtful.intersection(found).copied().collect()
    }

    /// A revocation was acknowledged: this device never comes back.
    pub(crate) fn device_is_gone(&mut self, device: &DeviceId) {
        self.devices.remove(device);
        self.doubtful.remove(device);
    }
}

fn same(state: &State, found: Option<&Passkey>) -> bool {
    match (state, found) {
        (None, None) => true,
        (Some(known), Some(found)) => {
            known.credential.is_none_or(|credential| credential == found.credential)
                && known.name == *found.names.name
        }
        _ => false,
    }
}
