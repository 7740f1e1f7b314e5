//! Passkeys: making, using, naming and deleting them, and keeping the list in step.
//!
//! A change names the vault's exact point; when another device was faster, the client syncs and
//! signs again. What a reply says is compared with what was signed before it is kept.

use keyfold_protocol::client::{
    Action, Assert, Asserted, Class, CreatePasskey, Created, DeletePasskey, KeyKind, PrfInputs,
    PutDone, Refusal, Request, Success, UpdatePasskey, UserNames,
};
use keyfold_protocol::ids::{Account, ChainPoint, CredentialId, RpId, UserHandle};
use keyfold_protocol::limits;
use keyfold_protocol::transcript::Chain;

use crate::channel::Reply;
use crate::client::{Ask, Client, guard_moved, sync_first};
use crate::crypto::sha256;
use crate::error::{Error, Fork};
use crate::http::Attempts;
use crate::store::{AccountState, Passkey};
use crate::sync::{Fold, Folded};

/// What a relying party asks for when it registers a passkey. The caller has checked the rp id
/// against the origin, and the exclude list against [`Client::passkeys`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewPasskey {
    /// `rp.id`.
    pub rp_id: RpId,
    /// `user.id`.
    pub user_handle: UserHandle,
    /// `user.name` and `user.displayName`; [`user_names`] cuts them to size.
    pub names: UserNames,
    /// `alg` of `pubKeyCredParams`, in the relying party's order. At most the first 16 that
    /// Keyfold has are sent.
    pub algorithms: Vec<i32>,
    /// PRF evaluation at creation.
    pub prf: Option<PrfInputs>,
}

/// A relying party's names, cut to 64 bytes each at a character's end, as CTAP allows.
pub fn user_names(name: &str, display_name: &str) -> UserNames {
    UserNames { name: cut(name), display_name: cut(display_name) }
}

fn cut(text: &str) -> keyfold_protocol::ids::Name {
    let end = text.floor_char_boundary(limits::NAME);
    text[..end].try_into().unwrap_or_default()
}

/// Text with a limit, that must not be cut silently.
pub(crate) fn name<const N: usize>(
    what: &'static str, text: &str,
) -> Result<heapless::String<N>, Error> {
    text.try_into().map_err(|_| Error::TooLong { what, limit: N })
}

impl Client {
    /// The passkeys as of the last sync.
    ///
    /// # Errors
    /// [`Error::NotRegistered`], [`Error::Store`].
    pub fn passkeys(&self) -> Result<Vec<Passkey>, Error> {
        Ok(self.registered()?.passkeys)
    }

    /// Brings the list of passkeys up to the vault's sealed head, and returns it.
    ///
    /// # Errors
    /// [`Error::Sync`] when the host withholds something, [`Error::ForkAlarm`] when it shows
    /// another past; nothing is kept then.
    pub async fn sync(&self) -> Result<Vec<Passkey>, Error> {
        self.catch_up().await?;
        self.housekeep().await;
        self.passkeys()
    }

    pub(crate) async fn catch_up(&self) -> Result<(), Error> {
        let known = self.registered()?;
        let folded = self.fold(known.account(), Fold::new(&known)).await?;
        self.update(known.account(), |state| folded.apply(state)).map(drop)
    }

    /// Checks that the vault's chain leads from `point`, which the ledger anchors, to where this device
    /// stands: else it was kept on a fork.
    pub(crate) async fn check_passed(
        &self, point: ChainPoint, known: &AccountState,
    ) -> Result<(), Error> {
        self.fold(known.account(), Fold::between(point, known)).await.map(drop)
    }

    /// Pages, up to the vault's sealed head.
    async fn fold(&self, account: Account, mut fold: Fold) -> Result<Folded, Error> {
        loop {
            let from = fold.cursor();
            let request = Request::Sync(from);
            let class = Class::Sync(from.version);
            let ask = Ask { request: &request, class, key: KeyKind::Presence };
            let reply = self.deliver(account, &ask).await?;
            let Ok(Success::Synced(page)) = reply.outcome()? else {
                return Err(Error::Unexpected("a sync request with something else"));
            };
            if fold.page(&page)? {
                return fold.finish();
            }
        }
    }

    /// Makes a passkey at a relying party, replacing an earlier one of the same user there.
    /// [`KeyKind::UserVerification`] sets the flag UV, and is what PRF results need, and replacing.
    ///
    /// # Errors
    /// [`Error::Host`] with `passkey-exists`: with [`KeyKind::Presence`] nothing is replaced;
    /// [`Error::Refused`] with `UnsupportedAlgorithm`; [`Error::Contended`]; as [`Client::sync`].
    pub async fn create_passkey(&self, new: &NewPasskey, key: KeyKind) -> Result<Created, Error> {
        let known = |id: &i32| keyfold_protocol::client::Algorithm::choose(&[*id]).is_some();
        let algorithms = new.algorithms.iter().copied().filter(known).take(limits::ALGORITHMS);
        let algorithms: heapless::Vec<i32, { limits::ALGORITHMS }> = algorithms.collect();
        if algorithms.is_empty() {
            return Err(Error::Refused(Refusal::UnsupportedAlgorithm));
        }
        let request = |state: &AccountState| {
            let request = CreatePasskey {
                vault: state.vault,
                rp_id: new.rp_id.clone(),
                user_handle: new.user_handle.clone(),
                names: new.names.clone(),
                algorithms: algorithms.clone(),
                prf: new.prf,
            };
            Ok((Request::CreatePasskey(request), Class::Put(None)))
        };
        let (base, reply) = self.put(request, key).await?;
        let Ok(Success::Created(created)) = reply.outcome()? else {
            return Err(Error::Unexpected("a creation with something else"));
        };
        let event = created.put.event;
        let passkey = Passkey {
            slot: event.slot,
            version: event.version,
            record: event.digest,
            credential: created.credential,
            rp_id: new.rp_id.clone(),
            user_handle: new.user_handle.clone(),
            names: new.names.clone(),
            algorithm: created.algorithm,
        };
        self.apply(base, &created.put, Action::Put, |passkeys| {
            passkeys.retain(|other| other.slot != passkey.slot);
            passkeys.push(passkey);
        })?;
        self.housekeep().await;
        Ok(created)
    }

    /// Signs in at a relying party with one of the synced passkeys. `client_data_hash` is SHA-256
    /// of the collected client data. Looks once more after a sync where the passkey is not known.
    ///
    /// # Errors
    /// [`Error::NoSuchPasskey`]; as [`Client::sync`].
    pub async fn assert(
        &self, rp_id: &RpId, credential: &CredentialId, client_data_hash: [u8; 32],
        prf: Option<PrfInputs>, key: KeyKind,
    ) -> Result<Asserted, Error> {
        let (rp_id, credential) = (rp_id.clone(), *credential);
        let request =
            Request::Assert(Assert { rp_id: rp_id.clone(), credential, client_data_hash, prf });
        let mut synced = false;
        loop {
            let known = self.registered()?;
            let is_it = |one: &&Passkey| one.credential == credential && one.rp_id == rp_id;
            let error = match known.passkeys.iter().find(is_it) {
                None => Error::NoSuchPasskey,
                Some(passkey) => {
                    let ask = Ask { request: &request, class: Class::Assert(passkey.slot), key };
                    match self.deliver(known.account(), &ask).await {
                        Ok(reply) => match reply.outcome()? {
                            Ok(Success::Asserted(asserted)) => return Ok(asserted),
                            _ => return Err(Error::Unexpected("an assertion with something else")),
                        },
                        Err(Error::Refused(Refusal::NoSuchPasskey)) => Error::NoSuchPasskey,
                        Err(error) => return Err(error),
                    }
                }
            };
            if synced {
                return Err(error);
            }
            self.catch_up().await?;
            synced = true;
        }
    }

    /// Changes a passkey's names.
    ///
    /// # Errors
    /// [`Error::NoSuchPasskey`] when it is gone; as [`Client::sync`].
    pub async fn update_passkey(
        &self, credential: &CredentialId, names: &UserNames,
    ) -> Result<(), Error> {
        let request = |state: &AccountState| {
            let passkey = find(state, credential)?;
            let (slot, record) = (passkey.slot, passkey.record);
            let (vault, names) = (state.vault, names.clone());
            let request = UpdatePasskey { vault, slot, record, names };
            Ok((Request::UpdatePasskey(request), Class::Put(Some(slot))))
        };
        let (base, reply) = self.put(request, KeyKind::Presence).await?;
        let done = put_done(&reply)?;
        self.apply(base, &done, Action::Put, |passkeys| {
            let mut all = passkeys.iter_mut();
            if let Some(passkey) = all.find(|one| one.slot == done.event.slot) {
                passkey.names = names.clone();
                passkey.version = done.event.version;
                passkey.record = done.event.digest;
            }
        })?;
        self.housekeep().await;
        Ok(())
    }

    /// Deletes a passkey. Needs user verification.
    ///
    /// # Errors
    /// [`Error::NoSuchPasskey`] when it is gone; as [`Client::sync`].
    pub async fn delete_passkey(&self, credential: &CredentialId) -> Result<(), Error> {
        let request = |state: &AccountState| {
            let slot = find(state, credential)?.slot;
            let request = DeletePasskey { vault: state.vault, slot };
            Ok((Request::DeletePasskey(request), Class::Put(None)))
        };
        let (base, reply) = self.put(request, KeyKind::UserVerification).await?;
        let done = put_done(&reply)?;
        self.apply(base, &done, Action::Delete, |passkeys| {
            passkeys.retain(|one| one.slot != done.event.slot);
        })?;
        self.housekeep().await;
        Ok(())
    }

    /// Raises the vault's guard floor to the present guard: from then on the vault refuses every
    /// older one. Sent by itself after a revocation.
    ///
    /// # Errors
    /// As [`Client::sync`].
    pub async fn touch(&self) -> Result<(), Error> {
        let request = |state: &AccountState| Ok((Request::Touch(state.vault), Class::Put(None)));
        let (base, reply) = self.put(request, KeyKind::Presence).await?;
        self.apply(base, &put_done(&reply)?, Action::Touch, |_| {})?;
        self.set_touch_due(false)
    }

    /// Sends a change of the vault, after a sync wherever another device was faster. Returns the
    /// account and the point it was signed for.
    async fn put(
        &self, request: impl Fn(&AccountState) -> Result<(Request, Class), Error>, key: KeyKind,
    ) -> Result<(Signed, Reply), Error> {
        let mut attempts = Attempts::new();
        loop {
            let known = self.registered()?;
            let (request, class) = request(&known)?;
            let ask = Ask { request: &request, class, key };
            match self.deliver(known.account(), &ask).await {
                Ok(reply) => return Ok(((known.account(), known.vault), reply)),
                Err(error) if sync_first(&error) => self.catch_up().await?,
                Err(error) if guard_moved(&error) => drop(self.read_status(known).await?),
                Err(error) => return Err(error),
            }
            if !attempts.again(None).await {
                return Err(Error::Contended(Attempts::MOST));
            }
        }
    }

    /// Keeps what a put did, if it is what was signed.
    fn apply(
        &self, (account, base): Signed, done: &PutDone, action: Action,
        change: impl FnOnce(&mut Vec<Passkey>),
    ) -> Result<(), Error> {
        let next = Chain::Vault.next(sha256, &base, &done.event);
        if next != Some(done.vault) {
            return Err(Fork::VaultForked { known: base, came: done.vault }.into());
        }
        if done.event.action != action {
            return Err(Error::Unexpected("a change with another one"));
        }
        self.update(account, |state| {
            let (known, came) = (state.vault, done.vault);
            if came.version == state.anchor.version && came != state.anchor {
                return Err(Fork::VaultForked { known: state.anchor, came }.into());
            }
            if known == base {
                state.vault = came;
                change(&mut state.passkeys);
                state.passkeys.sort_by_key(|passkey| passkey.slot);
            } else if known.version == came.version && known != came {
                return Err(Fork::VaultForked { known, came }.into());
            }
            // Else another process has synced past this event, and holds what it did.
            Ok(())
        })
    }
}

/// Of which account a put was signed, and for which point of its vault.
type Signed = (Account, ChainPoint);

fn put_done(reply: &Reply) -> Result<PutDone, Error> {
    match reply.outcome()? {
        Ok(Success::Put(done)) => Ok(done),
        _ => Err(Error::Unexpected("a change with something else")),
    }
}

fn find<'a>(state: &'a AccountState, credential: &CredentialId) -> Result<&'a Passkey, Error> {
    let mut all = state.passkeys.iter();
    all.find(|passkey| passkey.credential == *credential).ok_or(Error::NoSuchPasskey)
}

#[cfg(test)]
mod tests;
