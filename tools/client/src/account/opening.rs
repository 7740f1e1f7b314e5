//! How an account begins and how it ends: enrolling, deleting, and which generation comes next.
//!
//! Where a person's account stands, a device that belongs to none can only ask the host. What it
//! says is a hint: that an account is there, the ledger shows by refusing to open it again; that one
//! has ended, the enclave says itself, and until it has, no next one is opened.

use keyfold_protocol::client::{
    AuditEvent, Class, Device, Enroll, KeyKind, Recover, Refusal, Request, StretchedPin,
};
use keyfold_protocol::ids::{Account, AccountId, Name};

use super::{Overview, lists};
use crate::client::{Ask, Client, guard_moved};
use crate::deployment::now;
use crate::error::{Error, Fork};
use crate::pin::Pin;
use crate::requests::name;
use crate::store::{AccountState, Ended, State};

/// The generation a person's first account has.
const FIRST_GENERATION: u32 = 1;

impl Client {
    /// Opens the account of whoever signs in, with this device as its first; the next generation
    /// where the person's account was deleted. The PIN is what recovery will be checked against; it
    /// is stretched here and never sent as it is.
    ///
    /// Can be repeated after a failure of any kind: an attempt whose answer was lost is found.
    ///
    /// # Errors
    /// [`Error::AlreadyRegistered`]; [`Error::AccountExists`] when the account was opened from
    /// another device; [`Error::TooLong`] for the name; whatever [`Client::deployment`] and the
    /// sign-in can give.
    pub async fn enroll(&self, pin: Pin, device_name: &str) -> Result<Overview, Error> {
        let device_name: Name = name("the device's name", device_name)?;
        self.check_unregistered()?;
        let id = self.signed_in(true).await?.account_id();
        if let Some(overview) = self.find_attempt().await? {
            return Ok(overview);
        }
        let account = Account { id, generation: self.next_generation(id).await? };
        self.remember_attempt(account, device_name.clone())?;
        let pin = pin.stretched(id).await?;
        let request = Request::Enroll(Enroll { pin, device: self.device(device_name) });
        let ask = Ask { request: &request, class: Class::Enroll, key: KeyKind::Presence };
        match self.deliver(account, &ask).await {
            Ok(_) => self.finish_registration().await,
            Err(error) if guard_moved(&error) || error.outcome_unknown() => {
                match self.finish_registration().await {
                    Ok(overview) => Ok(overview),
                    Err(Error::Refused(Refusal::Unauthorised)) => {
                        self.forget_attempt()?;
                        Err(Error::AccountExists)
                    }
                    Err(alarm @ Error::ForkAlarm(_)) => Err(alarm),
                    Err(_) => Err(error),
                }
            }
            Err(error) => Err(error),
        }
    }

    /// Ends the account for good, for all of its devices: nothing opens its passkeys afterwards. This
    /// device belongs to no account then; enrolling opens the person's next one. Needs user
    /// verification and a sign-in of the last minutes, which is asked for.
    ///
    /// # Errors
    /// As [`Client::status`].
    pub async fn delete_account(&self) -> Result<(), Error> {
        let account = self.registered()?.account();
        // A status that is answered shows an account that goes on.
        let done = |_: &Overview, _: &[AuditEvent]| false;
        let uv = KeyKind::UserVerification;
        match self.change_guard(Request::DeleteAccount, Class::GuardFresh, uv, done).await {
            Ok(_) => self.note_end(account),
            // Refused as a stranger: nobody is registered any more, or this device is not.
            Err(error)
                if guard_moved(&error)
                    || error.outcome_unknown()
                    || matches!(error, Error::Refused(Refusal::Unauthorised)) =>
            {
                match self.is_over(account).await {
                    Ok(true) => self.note_end(account),
                    _ => Err(error),
                }
            }
            Err(error) => Err(error),
        }
    }

    pub(crate) fn check_unregistered(&self) -> Result<(), Error> {
        match self.store().load()?.account {
            Some(account) if account.registered => Err(Error::AlreadyRegistered),
            _ => Ok(()),
        }
    }

    /// Looks whether an earlier attempt to get in, of whatever kind, succeeded after all.
    pub(crate) async fn find_attempt(&self) -> Result<Option<Overview>, Error> {
        let tried = self.store().load()?.account;
        if tried.is_none_or(|tried| tried.device != self.keys().id()) {
            return Ok(None);
        }
        match self.finish_registration().await {
            Ok(overview) => Ok(Some(overview)),
            // It never arrived, or came to nothing.
            Err(Error::Refused(Refusal::Unauthorised)) => Ok(None),
            Err(Error::Host(problem)) if problem.name == "account-unknown" => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Notes what is about to be tried, before it is.
    pub(crate) fn remember_attempt(
        &self, account: Account, device_name: Name,
    ) -> Result<(), Error> {
        let device = self.keys().id();
        self.store().update(|state| match &mut state.account {
            Some(known) if known.registered => Err(Error::AlreadyRegistered),
            Some(known) if known.account() == account && known.device == device => {
                known.device_name = device_name;
                Ok(())
            }
            unregistered => {
                *unregistered = Some(AccountState::new(account, device, device_name));
                Ok(())
            }
        })
    }

    /// The attempt is over and came to nothing.
    pub(crate) fn forget_attempt(&self) -> Result<(), Error> {
        self.store().update(|state| {
            state.account.take_if(|account| !account.registered);
            Ok(())
        })
    }

    /// A device has got in once the ledger confirms an account that lists it.
    pub(crate) async fn finish_registration(&self) -> Result<Overview, Error> {
        let known = self.store().load()?.account.ok_or(Error::NotRegistered)?;
        let overview = self.read_status(known).await?;
        if !lists(&overview, &self.keys().id()) {
            return Err(Error::Refused(Refusal::Unauthorised));
        }
        let now = now()?.unix_seconds();
        self.update(overview.account, |state| {
            state.registered = true;
            state.anchor_tried = now;
            Ok(())
        })?;
        Ok(overview)
    }

    /// The generation that an enrolment opens.
    async fn next_generation(&self, id: AccountId) -> Result<u32, Error> {
        let generation = match self.standing().await? {
            None => FIRST_GENERATION,
            Some(standing) if !standing.closed => standing.generation,
            Some(standing) => {
                let account = Account { id, generation: standing.generation };
                if !self.has_ended(account, standing.guard).await? {
                    return Err(Error::AccountExists);
                }
                standing.generation.saturating_add(1)
            }
        };
        self.check_generation(id, generation)?;
        Ok(generation)
    }

    /// What this device knows to be over does not come back.
    pub(crate) fn check_generation(&self, id: AccountId, came: u32) -> Result<(), Error> {
        match self.store().load()?.ended {
            Some(Ended { id: known, generation }) if known == id && came <= generation => {
                Err(Fork::EndedBefore { ended: generation, came }.into())
            }
            _ => Ok(()),
        }
    }

    /// Why the account knows this device no more.
    pub(super) async fn why_not(&self, known: &AccountState) -> Error {
        let account = known.account();
        match self.is_over(account).await {
            Ok(true) => match self.note_end(account) {
                Ok(()) => Error::Refused(Refusal::Closed),
                Err(error) => error,
            },
            _ => Error::Refused(Refusal::Unauthorised),
        }
    }

    /// Whether the account has ended, where the host says so.
    async fn is_over(&self, account: Account) -> Result<bool, Error> {
        match self.standing().await? {
            Some(standing) if standing.closed && standing.generation == account.generation => {
                self.has_ended(account, standing.guard).await
            }
            _ => Ok(false),
        }
    }

    /// Whether the account has ended, by the enclave's own word. Asked by a recovery that no account
    /// takes, since its device has one key in both roles: it is refused before it is charged, and
    /// only an account that is over answers that it is.
    async fn has_ended(&self, account: Account, guard: u64) -> Result<bool, Error> {
        let key = self.keys().presence_key();
        let device = Device { name: Name::new(), device_key: key, uv_key: key };
        let pin = StretchedPin([0; 32]);
        let request = Request::Recover(Recover { guard, pin, device });
        let ask = Ask { request: &request, class: Class::Recover, key: KeyKind::Presence };
        match self.deliver(account, &ask).await {
            Err(Error::Refused(Refusal::Closed)) => Ok(true),
            Err(Error::Refused(_)) => Ok(false),
            // No try: nothing was at stake.
            Err(Error::TryUnanswered(error)) => Err(*error),
            Err(error) => Err(error),
            Ok(_) => Err(Error::Unexpected("a question with a recovery")),
        }
    }

    /// Forgets the account, and remembers that it is over.
    fn note_end(&self, account: Account) -> Result<(), Error> {
        let Account { id, generation } = account;
        self.store().update(|State { account: known, ended, .. }| {
            known.take_if(|known| known.account() == account);
            *ended = Some(Ended { id, generation });
            Ok(())
        })
    }
}

#[cfg(test)]
mod tests;
