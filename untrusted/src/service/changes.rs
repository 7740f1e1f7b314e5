//! Tells the event streams of a person that something of theirs was written here. What it was they
//! read from the storage, where other hosts' writes show too.

use keyfold_protocol::ids::AccountId;
use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use tokio::sync::watch;

/// Who listens.
#[derive(Default)]
pub struct Changes {
    listeners: Mutex<HashMap<AccountId, watch::Sender<()>>>,
}

impl Changes {
    /// Hears of everything written from now on; `None` beyond `most` listeners per person.
    pub fn subscribe(&self, person: &AccountId, most: usize) -> Option<watch::Receiver<()>> {
        let mut listeners = self.listeners();
        listeners.retain(|_, sender| sender.receiver_count() > 0);
        let sender = listeners.entry(*person).or_insert_with(|| watch::Sender::new(()));
        (sender.receiver_count() < most).then(|| sender.subscribe())
    }

    /// Something was written.
    pub fn notify(&self, person: &AccountId) {
        if let Some(sender) = self.listeners().get(person) {
            sender.send_replace(());
        }
    }

    fn listeners(&self) -> MutexGuard<'_, HashMap<AccountId, watch::Sender<()>>> {
        self.listeners.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
