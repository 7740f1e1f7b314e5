//! Getting back in with the PIN, and setting a new one.
//!
//! A try costs the person one of ten, whatever becomes of its answer. So a try is written down before
//! it is sent, a lost answer is looked for in the account itself and never answered by a second try,
//! and what cannot be found out is said. Signed again is only what the service says it did not take:
//! a try for a version of the account that another change overtook.

use keyfold_protocol::client::{
    AuditEvent, AuditKind, ChangePin, Class, GuardChanged, KeyKind, Recover, Refusal, Request,
    Success,
};
use keyfold_protocol::ids::{Account, ChainPoint, Name};

use crate::account::Overview;
use crate::client::{Ask, Client, guard_moved};
use crate::deployment::now;
use crate::error::Error;
use crate::http::Attempts;
use crate::pin::Pin;
use crate::requests::name;

impl Client {
    /// Makes this device, which belongs to no account, one of the account of whoever signs in, by its
    /// PIN ([`Pin::existing`]). Brings the passkeys; returns the account with its devices, which the
    /// person should look at.
    ///
    /// Can be repeated after a failure of any kind: it looks first whether an earlier attempt
    /// succeeded.
    ///
    /// # Errors
    /// [`Error::Refused`] with `WrongPin` and the tries that are left, `Locked`, or `Closed`;
    /// [`Error::TryUnanswered`] when a try may have been counted unheard; [`Error::NoAccount`];
    /// [`Error::AlreadyRegistered`]; as [`Client::sync`].
    pub async fn recover(&self, pin: Pin, device_name: &str) -> Result<Overview, Error> {
        let device_name: Name = name("the device's name", device_name)?;
        self.check_unregistered()?;
        let id = self.signed_in(true).await?.account_id();
        if let Some(overview) = self.find_attempt().await? {
            return self.first_sync(overview).await;
        }
        let pin = pin.stretched(id).await?;
        let mut attempts = Attempts::new();
        // Signed for a version that only the enclave names: what is signed for one still to come, a
        // host can keep. Zero asks.
        let mut named: Option<(Account, u64)> = None;
        loop {
            // 1. Which account, as the host says: a lie only makes the try fail.
            let standing = self.standing().await?.ok_or(Error::NoAccount)?;
            let account = Account { id, generation: standing.generation };
            self.check_generation(id, standing.generation)?;
            // What it named for one account says nothing of another.
            let guard = named.filter(|(of, _)| *of == account).map_or(0, |(_, version)| version);

            // 2. Written down, then sent.
            self.remember_attempt(account, device_name.clone())?;
            let device = self.device(device_name.clone());
            let request = Request::Recover(Recover { guard, pin: pin.clone(), device });
            let ask = Ask { request: &request, class: Class::Recover, key: KeyKind::Presence };
            let error = match self.deliver(account, &ask).await {
                Ok(reply) => match reply.outcome()? {
                    Ok(Success::GuardChanged(changed)) => {
                        return self.recovered(account, guard, &changed).await;
                    }
                    _ => return Err(Error::Unexpected("a recovery with something else")),
                },
                Err(error) => error,
            };

            // 3. What came of it.
            match error {
                Error::Refused(Refusal::WrongPin(_) | Refusal::Locked | Refusal::Closed) => {
                    self.forget_attempt()?;
                    return Err(error);
                }
                Error::TryUnanswered(_) | Error::Refused(Refusal::KnownDevice) => {
                    return self.look_for(error).await;
                }
                // The answer to the question; no attempt is over.
                Error::Refused(Refusal::GuardAt(version @ 1..)) if named.is_none() => {
                    named = Some((account, version));
                    continue;
                }
                Error::Refused(Refusal::GuardAt(version)) => named = Some((account, version)),
                error if !guard_moved(&error) => return Err(error),
                _ => named = None,
            }
            if !attempts.again(None).await {
                return Err(Error::Contended(Attempts::MOST));
            }
        }
    }

    /// Sets the recovery PIN, and with it lifts a lockout. Needs user verification and a sign-in of
    /// the last minutes, which is asked for. Returns the account's version.
    ///
    /// # Errors
    /// As [`Client::status`].
    pub async fn change_pin(&self, pin: Pin) -> Result<u64, Error> {
        let known = self.registered()?;
        let pin = pin.stretched(known.id).await?;
        let request = |base| Request::ChangePin(ChangePin { base, pin: pin.clone() });
        // A change happens to the very version that was signed, or never.
        let this = self.keys().id();
        let done = |_: &Overview, since: &[AuditEvent]| {
            let first = since.first();
            first.is_some_and(|event| event.kind == AuditKind::PinChanged && event.actor == this)
        };
        self.change_guard(request, Class::GuardFresh, KeyKind::UserVerification, done).await
    }

    /// A try whose answer was lost has succeeded if the account lists this device. If not, nobody
    /// can say: it may have been wrong, not have arrived, or be on its way.
    async fn look_for(&self, unanswered: Error) -> Result<Overview, Error> {
        match self.finish_registration().await {
            Ok(overview) => self.first_sync(overview).await,
            Err(alarm @ Error::ForkAlarm(_)) => Err(alarm),
            Err(_) => Err(unanswered),
        }
    }

    /// Writes down that this device is in; then reads the account it is in.
    async fn recovered(
        &self, account: Account, base: u64, changed: &GuardChanged,
    ) -> Result<Overview, Error> {
        // The charge, and what came of it.
        if base.checked_add(2) != Some(changed.guard) {
            return Err(Error::Unexpected("a recovery of another state than the signed one"));
        }
        let at = ChainPoint { version: changed.guard, head: changed.audit_head };
        let now = now()?.unix_seconds();
        self.update(account, |state| {
            state.registered = true;
            state.anchor_tried = now;
            state.note_anchor(changed.guard, changed.vault);
            // Else it was learnt from another device, and the history has to lead from there.
            if state.audit.version == 0 {
                (state.audit, state.audit_told) = (at, at);
            }
            Ok(())
        })?;
        let overview = self.read_status(self.registered()?).await?;
        self.first_sync(overview).await
    }

    /// Brings the passkeys. That this device is in stands already: what fails for want of a
    /// connection is made up for by the next sync.
    async fn first_sync(&self, overview: Overview) -> Result<Overview, Error> {
        match self.catch_up().await {
            Ok(()) => Ok(overview),
            Err(alarm @ (Error::ForkAlarm(_) | Error::Sync(_))) => Err(alarm),
            Err(error) => {
                tracing::warn!(%error, "recovered; the passkeys come with the next sync");
                Ok(overview)
            }
        }
    }
}

#[cfg(test)]
mod tests;
