//! The ledger: honest, never rolled back, and sometimes not heard.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};

use bytes::Bytes;
use keyfold_host::ledger::{Answer, Appended, Ledger, LedgerError, Standing, Trust};
use keyfold_protocol::ids::{Digest, LedgerTag};
use keyfold_tests::ledger::Ledger as Book;

use crate::faults::{Chance, Power};

/// What the ledger holds. Clones share it.
#[derive(Clone)]
pub(crate) struct Record(Arc<Mutex<Inner>>);

struct Inner {
    book: Book,
    /// Receipts of appends, for those who ask again.
    receipts: BTreeMap<(LedgerTag, u64), Vec<u8>>,
    log: Vec<(LedgerTag, u64, Digest)>,
}

impl Record {
    pub(crate) fn new() -> Self {
        let (receipts, log) = (BTreeMap::new(), Vec::new());
        Self(Arc::new(Mutex::new(Inner { book: Book::new(), receipts, log })))
    }

    /// Everything that ever happened, in order.
    pub(crate) fn log(&self) -> Vec<(LedgerTag, u64, Digest)> {
        self.inner().log.clone()
    }

    /// What of the ledger a configuration pins.
    pub(crate) fn with_book<T>(&self, look: impl FnOnce(&Book) -> T) -> T {
        look(&self.inner().book)
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().expect("no panic under the lock")
    }

    pub(crate) fn append(&self, tag: LedgerTag, version: u64, digest: Digest) -> Appended {
        let mut inner = self.inner();
        if inner.book.current(&tag) == Some((version, digest)) {
            return Appended::Receipt(inner.receipts[&(tag, version)].clone().into());
        }
        match inner.book.append(tag, version, digest) {
            Some(receipt) => {
                inner.log.push((tag, version, digest));
                inner.receipts.insert((tag, version), receipt.clone());
                Appended::Receipt(receipt.into())
            }
            None => Appended::Conflict(inner.standing(&tag)),
        }
    }
}

impl Inner {
    fn standing(&self, tag: &LedgerTag) -> Standing {
        match self.book.current(tag) {
            Some((version, digest)) => Standing { version, digest: Some(digest) },
            None => Standing { version: 0, digest: None },
        }
    }
}

/// The ledger as one host reaches it.
pub(crate) struct Reached {
    pub(crate) record: Record,
    pub(crate) power: Power,
    pub(crate) chance: Chance,
    /// Is not heard once in so many calls, before or after it took effect; never where it is none.
    pub(crate) fails: Option<usize>,
}

impl Reached {
    fn is_lost(&self) -> bool {
        self.fails.is_some_and(|times| self.chance.once_in(times))
    }

    fn around<'a, T: Send + 'a>(&'a self, act: impl FnOnce() -> T + Send + 'a) -> Answer<'a, T> {
        Box::pin(async move {
            self.power.step(&self.chance).await;
            let unheard = || LedgerError::Unreachable("as the seed says".into());
            if self.is_lost() {
                return Err(unheard());
            }
            let result = act();
            self.power.step(&self.chance).await;
            if self.is_lost() { Err(unheard()) } else { Ok(result) }
        })
    }
}

impl Ledger for Reached {
    fn append<'a>(
        &'a self, tag: &'a LedgerTag, version: u64, digest: &'a Digest,
    ) -> Answer<'a, Appended> {
        self.around(move || self.record.append(*tag, version, *digest))
    }

    fn read<'a>(&'a self, tag: &'a LedgerTag, nonce: &'a [u8; 32]) -> Answer<'a, Bytes> {
        self.around(move || self.record.inner().book.read(*tag, *nonce).into())
    }

    fn current<'a>(&'a self, tag: &'a LedgerTag) -> Answer<'a, Standing> {
        self.around(move || self.record.inner().standing(tag))
    }

    fn trust(&self) -> Trust {
        Trust::Trusted
    }
}
