//! What each sealed object a host holds stands for, and what must come of each request on any of
//! them: the core's rules once more, without its cryptography.

use std::collections::BTreeSet;
use std::rc::Rc;

use keyfold_protocol::client::{Class, GuardBase, KeyKind, Refusal};
use keyfold_protocol::ids::{ChainPoint, CredentialId, Digest, LedgerTag, SlotId};
use keyfold_protocol::limits::{DEVICES, TRIES};
use keyfold_tests::device::Sent;
use keyfold_tests::world::StagedRow;

use crate::what::What;

/// A live guard, or what a staged one would be.
#[derive(Clone)]
pub struct Guard {
    /// As live; empty while it is staged.
    pub sealed: Vec<u8>,
    /// Which of the person's accounts.
    pub generation: u32,
    /// Its version.
    pub version: u64,
    /// What the ledger records of it.
    pub digest: Digest,
    /// Which of the run's devices are registered, oldest first. None: the account has ended.
    pub devices: Vec<usize>,
    /// The anchored vault point.
    pub floor: ChainPoint,
    /// None once the account has ended.
    pub pin: Option<u8>,
    /// Tries in a row that were not found right.
    pub failures: u8,
    /// A try that is charged and not compared.
    pub pending: Option<Try>,
    /// Whether the count started again at this version.
    pub resets: bool,
}

/// A charged try.
#[derive(Clone)]
pub struct Try {
    /// The candidate.
    pub pin: u8,
    /// The request that made it.
    pub asked: Rc<Asked>,
}

/// A vault the host holds.
#[derive(Clone)]
pub struct Vault {
    /// None: never put.
    pub sealed: Option<Vec<u8>>,
    /// Of which account.
    pub generation: u32,
    /// Where it stands.
    pub point: ChainPoint,
    /// The oldest guard that may use it.
    pub guard_floor: u64,
}

/// A record the host holds.
#[derive(Clone)]
pub struct Record {
    /// The sealed record.
    pub sealed: Vec<u8>,
    /// Of which account.
    pub generation: u32,
    /// Where it lies.
    pub slot: SlotId,
    /// Version of its event.
    pub version: u64,
    /// The oldest guard that may use it.
    pub guard_floor: u64,
    /// Its credential.
    pub credential: CredentialId,
}

/// A staged guard, what it would be, and the ledger's receipt if it got one.
pub struct Pending {
    /// What the host holds.
    pub row: StagedRow,
    /// What it would be.
    pub guard: Guard,
    /// Whose answer its commit releases, and what that says; none for a charge.
    pub answer: Option<(Rc<Asked>, Result<(), Refusal>)>,
    /// The digest of the charge whose outcome this is, if it is one.
    pub settles: Option<Digest>,
    /// The ledger's word.
    pub receipt: Option<Vec<u8>>,
}

/// Everything a host was given for one account.
pub struct Account {
    /// Its name on the ledger.
    pub tag: LedgerTag,
    /// Live guards, in the order they became so.
    pub guards: Vec<Guard>,
    /// Vaults; the first was never put.
    pub vaults: Vec<Vault>,
    /// Records of all slots.
    pub records: Vec<Record>,
    /// The newest guard version that each device has seen.
    pub seen: Vec<u64>,
    /// Versions of charges whose PIN a core has compared.
    pub compared: BTreeSet<u64>,
}

/// A request somebody sealed; a host can send it again, with whatever it likes.
pub struct Asked {
    /// The frame.
    pub sent: Sent,
    /// The account it was sealed for.
    pub generation: u32,
    /// The device that signed.
    pub device: usize,
    /// With which key.
    pub key: KeyKind,
    /// The guard version the device knew.
    pub seen: u64,
    /// What it asks for.
    pub what: What,
    /// Its class.
    pub class: Class,
}

/// What the host attaches to a request.
pub struct State<'m> {
    /// The guard; of the account before, where one is opened.
    pub guard: &'m Guard,
    /// The vault.
    pub vault: &'m Vault,
    /// The record.
    pub record: Option<&'m Record>,
    /// What the ledger says the guard is.
    pub recorded: Option<Digest>,
}

/// What must come of a request.
pub enum Verdict {
    /// No: told to the client or to the host.
    Refused,
    /// No, because too many tries failed: told to both.
    Locked,
    /// Answered, and one event put.
    Put,
    /// Answered, and nothing else.
    Read,
    /// This guard, staged.
    Staged(Box<Guard>),
}

impl Guard {
    /// What stands before the first account: nothing.
    pub fn none(genesis: ChainPoint) -> Self {
        Self {
            sealed: vec![],
            generation: 0,
            version: 0,
            digest: Digest([0; 32]),
            devices: vec![],
            floor: genesis,
            pin: None,
            failures: 0,
            pending: None,
            resets: false,
        }
    }
}

impl Asked {
    /// What must come of this request on that state.
    pub fn verdict(self: &Rc<Self>, state: &State) -> Verdict {
        match self.what {
            What::Enroll => self.opens(state),
            What::Recover(version, pin, device) => self.charges(state.guard, version, pin, device),
            _ if !self.is_caller(state.guard) => Verdict::Refused,
            What::Create(point, _) | What::Touch(point) => self.puts(state, point, true),
            What::Delete(point, _) => self.puts(state, point, self.is_verified()),
            What::Assert(credential, _) => {
                let fits = |record: &Record| {
                    record.generation == self.generation
                        && record.guard_floor <= state.guard.version
                        && record.credential == credential
                };
                if state.record.is_some_and(fits) { Verdict::Read } else { Verdict::Refused }
            }
            What::Status => {
                let confirmed = state.recorded == Some(state.guard.digest);
                if confirmed && is_pair(state) { Verdict::Read } else { Verdict::Refused }
            }
            What::Approve(base, _)
            | What::Revoke(base, _)
            | What::Anchor(base)
            | What::ChangePin(base, _)
            | What::Close(base) => self.changes(state, base),
        }
    }

    /// Whether the guard is this account's, new enough, and lets this device in.
    fn is_caller(&self, guard: &Guard) -> bool {
        guard.generation == self.generation
            && self.seen <= guard.version
            && guard.devices.contains(&self.device)
    }

    fn is_verified(&self) -> bool {
        self.key == KeyKind::UserVerification
    }

    fn puts(&self, state: &State, point: ChainPoint, may: bool) -> Verdict {
        let goes = may && is_pair(state) && point == state.vault.point;
        if goes { Verdict::Put } else { Verdict::Refused }
    }

    /// The first account opens for anybody; a later one when the one before has ended.
    fn opens(&self, state: &State) -> Verdict {
        let before = state.guard;
        let follows = before.generation + 1 == self.generation && before.devices.is_empty();
        if self.key != KeyKind::Presence || !(self.generation == 1 || follows) {
            return Verdict::Refused;
        }
        // What the floor is, only the one who stages it knows: the account's own genesis.
        Verdict::Staged(Box::new(Guard {
            generation: self.generation,
            version: 1,
            devices: vec![self.device],
            pin: Some(0),
            failures: 0,
            pending: None,
            resets: true,
            ..before.clone()
        }))
    }

    /// Charge before verify: no word on the PIN.
    fn charges(self: &Rc<Self>, guard: &Guard, version: u64, pin: u8, device: usize) -> Verdict {
        let is_own = device == self.device && self.key == KeyKind::Presence;
        let is_there = guard.generation == self.generation && self.seen <= guard.version;
        if !is_own || !is_there || guard.devices.is_empty() || version != guard.version {
            return Verdict::Refused;
        }
        if guard.failures >= TRIES {
            return Verdict::Locked;
        }
        if guard.devices.contains(&device) {
            return Verdict::Refused;
        }
        let pending = Some(Try { pin, asked: self.clone() });
        Verdict::Staged(Box::new(Guard { failures: guard.failures + 1, pending, ..guard.next() }))
    }

    fn changes(&self, state: &State, base: GuardBase) -> Verdict {
        let guard = state.guard;
        let anchor = guard.floor;
        let is_base = base == GuardBase { guard: guard.version, vault: state.vault.point, anchor };
        let may = self.is_verified() || matches!(self.what, What::Anchor(_));
        if !(is_base && may && is_pair(state)) {
            return Verdict::Refused;
        }
        let mut next = Guard { floor: state.vault.point, pending: None, ..guard.next() };
        match self.what {
            What::Approve(_, device) => {
                if guard.devices.contains(&device) || guard.devices.len() == DEVICES {
                    return Verdict::Refused;
                }
                next.devices.push(device);
            }
            What::Revoke(_, device) => {
                if !guard.devices.contains(&device) || guard.devices.len() == 1 {
                    return Verdict::Refused;
                }
                next.devices.retain(|known| *known != device);
            }
            What::ChangePin(_, pin) => {
                (next.pin, next.failures, next.resets) = (Some(pin), 0, true);
            }
            What::Close(_) => (next.devices, next.pin) = (vec![], None),
            _ => {}
        }
        Verdict::Staged(Box::new(next))
    }
}

/// Whether guard and vault are one account's, and may be used together.
fn is_pair(State { guard, vault, .. }: &State) -> bool {
    let (point, floor) = (vault.point, guard.floor);
    vault.generation == guard.generation
        && vault.guard_floor <= guard.version
        && (point.version > floor.version || point == floor)
}

impl Guard {
    /// The version after this one, nothing changed yet.
    fn next(&self) -> Self {
        Self { sealed: vec![], version: self.version + 1, resets: false, ..self.clone() }
    }

    /// What comes of the try that waits here, and how it is answered.
    pub fn settled(&self) -> Option<(Self, Rc<Asked>, Result<(), Refusal>)> {
        let Try { pin, asked } = self.pending.clone()?;
        let mut next = Self { pending: None, ..self.next() };
        if self.pin != Some(pin) {
            return Some((next, asked, Err(Refusal::WrongPin(TRIES - self.failures))));
        }
        if next.devices.len() == DEVICES {
            next.devices.remove(0);
        }
        next.devices.push(asked.device);
        (next.failures, next.resets) = (0, true);
        Some((next, asked, Ok(())))
    }
}

impl Account {
    /// An account whose first guard is on its way, for so many devices.
    pub fn new(tag: LedgerTag, generation: u32, genesis: ChainPoint, devices: usize) -> Self {
        let never = Vault { sealed: None, generation, point: genesis, guard_floor: 0 };
        Self {
            tag,
            guards: vec![],
            vaults: vec![never],
            records: vec![],
            seen: vec![0; devices],
            compared: BTreeSet::new(),
        }
    }

    /// Takes a guard in that the ledger has recorded; its history must be one.
    pub fn goes_live(&mut self, guard: Guard) {
        let at = |version| self.guards.iter().find(move |known| known.version == version);
        let twin = at(guard.version);
        assert!(twin.is_none_or(|twin| twin.digest == guard.digest), "two live guards");
        assert!(guard.version == 1 || at(guard.version - 1).is_some(), "a version is missing");
        assert!(guard.failures <= TRIES, "{} failures", guard.failures);
        self.guards.push(guard);
        self.check_comparisons();
    }

    /// Writes down that the PIN of this version's charge was compared; whether for the first time.
    pub fn compares(&mut self, version: u64) -> bool {
        let is_first = self.compared.insert(version);
        self.check_comparisons();
        is_first
    }

    /// Whether no device could be added at this version.
    pub fn was_full_at(&self, version: u64) -> bool {
        let mut before = self.guards.iter().filter(|guard| guard.version + 1 == version);
        before.any(|guard| guard.devices.len() == DEVICES)
    }

    /// Never more than ten comparisons between two rightful resets; the most there were.
    pub fn check_comparisons(&self) -> usize {
        let mut guards: Vec<_> = self.guards.iter().collect();
        guards.sort_by_key(|guard| guard.version);
        guards.dedup_by_key(|guard| guard.version);
        let (mut in_a_row, mut most) = (0, 0);
        for guard in guards {
            in_a_row = if guard.resets { 0 } else { in_a_row };
            in_a_row += usize::from(self.compared.contains(&guard.version));
            most = most.max(in_a_row);
        }
        assert!(most <= usize::from(TRIES), "{most} comparisons in a row");
        most
    }
}
