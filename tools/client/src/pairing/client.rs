//! The two sides of a pairing.

use std::time::{Duration, Instant};

use keyfold_protocol::ids::{ChainPoint, Name};

use super::{Answer, Candidate, Keys, MESSAGE, Offer, PairingError, PairingSecret};
use crate::account::Overview;
use crate::client::Client;
use crate::deployment::Deployment;
use crate::deployment::now;
use crate::error::Error;
use crate::host::Mailbox;
use crate::requests::name;
use crate::store::AccountState;

/// How long a mailbox lives.
const PATIENCE: Duration = Duration::from_secs(600);

impl Client {
    /// On a trusted device: makes the secret to show. It serves one pairing within ten minutes.
    ///
    /// # Errors
    /// [`Error::NotRegistered`]: only a registered device can approve another.
    pub fn invite(&self) -> Result<PairingSecret, Error> {
        self.registered().map(|_| PairingSecret::generate())
    }

    /// On a trusted device: waits for the new device. Show the candidate's name and fingerprint to
    /// the person before approving.
    ///
    /// # Errors
    /// [`PairingError::Forged`], [`PairingError::OtherAccount`], [`PairingError::TimedOut`].
    pub async fn await_candidate(&self, secret: &PairingSecret) -> Result<Candidate, Error> {
        let ours = self.registered()?.id;
        let keys = Keys::new(secret);
        let candidate = keys.open_offer(self.receive(&keys, Mailbox::Offer).await?)?;
        let theirs = candidate.offer.account;
        if ours != theirs {
            return Err(PairingError::OtherAccount { ours, theirs }.into());
        }
        Ok(candidate)
    }

    /// On a trusted device, after the person agreed: registers the candidate and tells it where
    /// the account stands. Needs user verification. Can be repeated if it fails on the way.
    ///
    /// # Errors
    /// As [`Client::status`]; [`Error::Refused`] with `TooManyDevices`.
    pub async fn approve(
        &self, secret: &PairingSecret, candidate: &Candidate,
    ) -> Result<Overview, Error> {
        let deployment = self.deployment().await?;
        self.approve_device(candidate.offer.device.clone()).await?;
        let overview = self.status().await?;
        let known = self.registered()?;
        let answer = Answer {
            account: known.account(),
            device: candidate.id(),
            guard: known.audit.version,
            audit_head: known.audit.head,
            vault: known.vault,
            statement_serial: deployment.seen().serial,
            statement: *deployment.seen().payload.as_bytes(),
        };
        let keys = Keys::new(secret);
        let sealed = keys.seal_answer(&answer, &candidate.sealed);
        self.send(&keys, Mailbox::Answer, &sealed).await?;
        Ok(overview)
    }

    /// On a trusted device, when the person did not agree: tells the candidate, which waits.
    ///
    /// # Errors
    /// [`Error::Host`], [`Error::Unreachable`]: the candidate waits until its time is over.
    pub async fn decline(
        &self, secret: &PairingSecret, candidate: &Candidate,
    ) -> Result<(), Error> {
        let keys = Keys::new(secret);
        self.send(&keys, Mailbox::Answer, &keys.seal_decline(&candidate.sealed)).await
    }

    /// On a new device: offers its keys under the secret that was typed or scanned, waits to be
    /// approved, checks everything, and returns the account with its list of devices, which the
    /// person should look at. [`crate::pairing::fingerprint`] of this device's id is what to show
    /// meanwhile. If the last step fails for want of a connection, call it again.
    ///
    /// # Errors
    /// [`PairingError`] for each check; [`Error::AlreadyRegistered`].
    pub async fn join(&self, secret: &PairingSecret, device_name: &str) -> Result<Overview, Error> {
        let device_name: Name = name("the device's name", device_name)?;
        if self.store().load()?.account.is_some_and(|account| account.registered) {
            return Err(Error::AlreadyRegistered);
        }
        let account = self.signed_in(false).await?.account_id();
        match self.finish_joining().await {
            // Nothing was begun, or it came to nothing.
            Err(Error::NotRegistered | Error::Refused(_) | Error::Host(_)) => {}
            joined_or_alarm => return joined_or_alarm,
        }
        let keys = Keys::new(secret);
        let offer = keys.seal_offer(&Offer { account, device: self.device(device_name.clone()) });
        self.send(&keys, Mailbox::Offer, &offer).await?;
        let answer = keys.open_answer(&self.receive(&keys, Mailbox::Answer).await?, &offer)?;
        if answer.account.id != account {
            let theirs = answer.account.id;
            return Err(PairingError::OtherAccount { ours: account, theirs }.into());
        }
        if answer.device != self.keys().id() {
            return Err(PairingError::OtherDevice.into());
        }
        self.check_statement(&answer).await?;
        self.settle(&answer, device_name)?;
        self.finish_joining().await
    }

    /// A device has joined once the ledger confirms an account that lists it. Until then it can
    /// try again, with the same answer or another.
    async fn finish_joining(&self) -> Result<Overview, Error> {
        let settled = self.store().load()?.account.filter(|account| account.guard_seen > 0);
        let overview = self.read_status(settled.ok_or(Error::NotRegistered)?).await?;
        if !overview.devices.iter().any(|device| device.id == self.keys().id()) {
            return Err(PairingError::OtherDevice.into());
        }
        self.update(overview.account, |state| {
            state.registered = true;
            Ok(())
        })?;
        Ok(overview)
    }

    /// The host must serve both devices the same statement, or this one a newer.
    async fn check_statement(&self, answer: &Answer) -> Result<(), Error> {
        let theirs = answer.seen();
        let fits = |deployment: &Deployment| {
            let ours = deployment.seen();
            ours == theirs || ours.serial > theirs.serial
        };
        if fits(&*self.deployment().await?) {
            return Ok(());
        }
        // The other device may have seen one that came out since this one looked.
        let deployment = self.verify_again().await?;
        if fits(&deployment) {
            return Ok(());
        }
        let ours = deployment.seen().serial;
        Err(PairingError::OtherStatement { ours, theirs: theirs.serial }.into())
    }

    /// Starts from what the trusted device knew.
    fn settle(&self, answer: &Answer, device_name: Name) -> Result<(), Error> {
        let mut account = AccountState::new(answer.account, self.keys().id(), device_name);
        account.guard_seen = answer.guard;
        account.audit = ChainPoint { version: answer.guard, head: answer.audit_head };
        account.audit_told = account.audit;
        account.vault_floor = Some(answer.vault).filter(|point| point.version > 0);
        account.anchor_tried = now()?.unix_seconds();
        self.store().update(|state| match &state.account {
            Some(known) if known.registered => Err(Error::AlreadyRegistered),
            _ => {
                state.account = Some(account);
                Ok(())
            }
        })
    }

    async fn send(&self, keys: &Keys, mailbox: Mailbox, message: &[u8]) -> Result<(), Error> {
        let sign_in = self.signed_in(false).await?;
        let host = self.host();
        match host.put_pairing(sign_in.bearer(), &keys.mailbox, mailbox, message).await {
            Err(Error::Host(problem)) if problem.status == 409 => Err(PairingError::Used.into()),
            other => other,
        }
    }

    async fn receive(&self, keys: &Keys, mailbox: Mailbox) -> Result<Vec<u8>, Error> {
        let started = Instant::now();
        while started.elapsed() < PATIENCE {
            let sign_in = self.signed_in(false).await?;
            let host = self.host();
            match host.get_pairing(sign_in.bearer(), &keys.mailbox, mailbox).await? {
                Some(message) if message.len() <= MESSAGE => return Ok(message),
                Some(_) => return Err(PairingError::Forged.into()),
                // A host that does not wait is not asked without a pause.
                None => tokio::time::sleep(Duration::from_millis(250)).await,
            }
        }
        Err(PairingError::TimedOut.into())
    }
}
