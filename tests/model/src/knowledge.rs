//! What the host has: a set that only grows.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use crate::core::Answer;
use crate::ledger::Receipt;
use crate::words::{Comparison, Digest, Frame, Staged, hash};

/// Everything the host has, and the ghosts of what happened on the way.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Known {
    staged: BTreeMap<Digest, Arc<Staged>>,
    live: BTreeSet<Digest>,
    receipts: BTreeSet<Receipt>,
    answers: BTreeSet<Answer>,
    compared: BTreeSet<Comparison>,
    has_pin: bool,
    /// Of all of the above, whatever the order it came in.
    fingerprint: u64,
}

/// One thing the host comes to have.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Fact {
    /// Its own device, sign-ins and enclaves: it always has these.
    Start,
    /// What falls to it with the revoked laptop.
    Stolen,
    /// A request of the user's.
    Asked(Frame),
    /// A staged guard.
    Staged(Digest, Arc<Staged>),
    /// The live guard of this digest.
    Live(Digest),
    /// A receipt of the ledger's.
    Receipt(Receipt),
    /// An answer for a client.
    Answer(Answer),
    /// Ghost: a PIN was compared.
    Compared(Comparison),
    /// A PIN of the user's, in the open.
    Pin,
}

impl Hash for Known {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.fingerprint.hash(state);
    }
}

impl Known {
    /// Whether this was new.
    pub fn learn(&mut self, fact: &Fact) -> bool {
        let is_new = match fact {
            Fact::Start | Fact::Stolen | Fact::Asked(_) => return false,
            Fact::Staged(digest, staged) => {
                let is_new = !self.staged.contains_key(digest);
                if is_new {
                    self.staged.insert(*digest, Arc::clone(staged));
                }
                is_new
            }
            Fact::Live(digest) => self.live.insert(*digest),
            Fact::Receipt(receipt) => self.receipts.insert(*receipt),
            Fact::Answer(answer) => self.answers.insert(*answer),
            Fact::Compared(comparison) => self.compared.insert(*comparison),
            Fact::Pin => !std::mem::replace(&mut self.has_pin, true),
        };
        if is_new {
            // A staged guard is its digest; the ghosts that are not in it follow from it.
            let name = if let Fact::Staged(digest, _) = fact { digest.0 } else { hash(fact) };
            self.fingerprint ^= name;
        }
        is_new
    }

    /// Whether this is nothing new.
    pub fn has(&self, fact: &Fact) -> bool {
        match fact {
            Fact::Start | Fact::Stolen | Fact::Asked(_) => true,
            Fact::Staged(digest, _) => self.staged.contains_key(digest),
            Fact::Live(digest) => self.live.contains(digest),
            Fact::Receipt(receipt) => self.receipts.contains(receipt),
            Fact::Answer(answer) => self.answers.contains(answer),
            Fact::Compared(comparison) => self.compared.contains(comparison),
            Fact::Pin => self.has_pin,
        }
    }

    /// All that an enclave can be called with.
    pub fn presentable(&self) -> Vec<Fact> {
        let staged = self.staged.iter();
        let staged = staged.map(|(digest, staged)| Fact::Staged(*digest, Arc::clone(staged)));
        let live = self.live.iter().copied().map(Fact::Live);
        let receipts = self.receipts.iter().copied().map(Fact::Receipt);
        staged.chain(live).chain(receipts).collect()
    }

    /// The guard of a digest, if it was ever made.
    pub fn guard(&self, digest: Digest) -> Option<&Arc<Staged>> {
        self.staged.get(&digest)
    }

    /// Whether all of this is known here.
    pub fn includes(&self, other: &Self) -> bool {
        other.staged.keys().all(|digest| self.staged.contains_key(digest))
            && other.live.is_subset(&self.live)
            && other.receipts.is_subset(&self.receipts)
            && other.answers.is_subset(&self.answers)
            && other.compared.is_subset(&self.compared)
            && (self.has_pin || !other.has_pin)
    }

    /// All guards that were ever staged.
    pub fn staged(&self) -> impl Iterator<Item = (Digest, &Staged)> {
        self.staged.iter().map(|(digest, staged)| (*digest, &**staged))
    }

    /// All guards that are sealed as live, old ones included.
    pub fn live(&self) -> impl Iterator<Item = (Digest, &Staged)> {
        self.live.iter().filter_map(|digest| Some((*digest, &**self.staged.get(digest)?)))
    }

    /// Whether this one is.
    pub fn is_live(&self, digest: Digest) -> bool {
        self.live.contains(&digest)
    }

    /// All receipts.
    pub fn receipts(&self) -> impl Iterator<Item = &Receipt> {
        self.receipts.iter()
    }

    /// All answers that are out.
    pub fn answers(&self) -> impl Iterator<Item = &Answer> {
        self.answers.iter()
    }

    /// All comparisons that were made.
    pub fn compared(&self) -> impl Iterator<Item = &Comparison> {
        self.compared.iter()
    }

    /// Whether a PIN of the user's is in the open.
    pub const fn has_pin(&self) -> bool {
        self.has_pin
    }
}
