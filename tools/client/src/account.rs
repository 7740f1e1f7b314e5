//! The account: its devices, its history, and how it is compared with what is known. How it begins
//! and ends is in `opening`; how a PIN gets back in, in [`crate::recovery`].
//!
//! A change of the account's guard names the exact version it changes. On a conflict, or when an
//! answer was lost, the client reads the account afresh (confirmed by the ledger), sees whether
//! what it wanted has happened, and only then signs again.

use keyfold_protocol::client::{
    AccountStatus, ApproveDevice, AuditEvent, AuditKind, Class, Device, DeviceView, GuardBase,
    GuardChanged, KeyKind, Refusal, Request, RevokeDevice, Success,
};
use keyfold_protocol::ids::{Account, ChainPoint, DeviceId, Name};
use keyfold_protocol::limits;
use keyfold_protocol::transcript::Chain;

use crate::client::{Ask, Client, guard_moved, sync_first};
use crate::crypto::sha256;
use crate::deployment::now;
use crate::error::{Error, Fork};
use crate::http::Attempts;
use crate::store::AccountState;

mod opening;

/// Seconds between two anchors that this device makes by itself.
const ANCHOR_EVERY: u64 = 24 * 60 * 60;

/// Where the account stands, confirmed by the ledger and consistent with all this device knew.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Overview {
    /// Whose.
    pub account: Account,
    /// Version of the guard: how often devices or PIN changed, or the vault was anchored.
    pub guard: u64,
    /// The vault's point.
    pub vault: ChainPoint,
    /// The vault point that stands in the ledger with the guard.
    pub anchor: ChainPoint,
    /// Registered devices, oldest first.
    pub devices: Vec<DeviceView>,
    /// PINs tried in a row that were not right. A right one, or a new PIN, starts again at zero.
    pub failures: u8,
    /// What happened to the guard since [`Client::status`] last told, oldest first.
    pub news: Vec<AuditEvent>,
}

impl Overview {
    /// Wrong PINs that may still be tried. At zero, recovery is locked until a device of the account
    /// sets a new PIN.
    pub fn tries_left(&self) -> u8 {
        limits::TRIES.saturating_sub(self.failures)
    }

    /// Tries of a PIN among the news that were not found right, whatever became of them.
    pub fn failed_since(&self) -> usize {
        let count = |kind| self.news.iter().filter(|event| event.kind == kind).count();
        count(AuditKind::TryCharged).saturating_sub(count(AuditKind::Recovered))
    }
}

/// A revocation that the ledger has seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Revoked {
    /// Version of the guard from now on.
    pub guard: u64,
    /// Whether the vault already refuses guards that still listed the device. If not, the next
    /// request that succeeds makes up for it.
    pub vault_touched: bool,
}

impl Client {
    pub(crate) fn device(&self, name: Name) -> Device {
        let keys = self.keys();
        Device { name, device_key: keys.presence_key(), uv_key: keys.uv_key() }
    }

    /// Reads devices and versions, confirmed by the ledger, and links them to what is known.
    ///
    /// # Errors
    /// [`Error::ForkAlarm`] when they do not fit; [`Error::NotRegistered`]; [`Error::Refused`] with
    /// `Closed` when the account has been deleted, after which this device belongs to none; transport
    /// errors.
    pub async fn status(&self) -> Result<Overview, Error> {
        let known = self.registered()?;
        let mut overview = match self.read_status(known.clone()).await {
            Err(Error::Refused(Refusal::Unauthorised)) => return Err(self.why_not(&known).await),
            other => other?,
        };
        let known = self.registered()?;
        let (news, _) = self.read_audit(overview.account, known.audit_told, known.audit).await?;
        self.update(overview.account, |state| {
            if state.audit_told.version < known.audit.version {
                state.audit_told = known.audit;
            }
            Ok(())
        })?;
        overview.news = news;
        Ok(overview)
    }

    /// A status without its news: what the person was told stays as it is.
    pub(crate) async fn read_status(&self, mut known: AccountState) -> Result<Overview, Error> {
        for _ in 0..Attempts::MOST {
            match self.judge_status(&known).await? {
                Some(overview) => return Ok(overview),
                None => known = self.store().load()?.account.ok_or(Error::NotRegistered)?,
            }
        }
        Err(Error::Contended(Attempts::MOST))
    }

    /// None where this device's vault has moved meanwhile, so that what was known before cannot judge
    /// the anchor.
    async fn judge_status(&self, known: &AccountState) -> Result<Option<Overview>, Error> {
        let account = known.account();
        let ask = Ask { request: &Request::Status, class: Class::Status, key: KeyKind::Presence };
        let reply = self.deliver(account, &ask).await?;
        let Ok(Success::Status(status)) = reply.outcome()? else {
            return Err(Error::Unexpected("a status request with something else"));
        };
        let AccountStatus { guard, audit_head, vault, anchor, devices, failures } = status;
        check_vault(known, anchor, vault)?;
        if anchor != known.anchor && anchor.version < known.vault.version {
            self.check_passed(anchor, known).await?;
        }
        let at = ChainPoint { version: guard, head: audit_head };
        let (_, reached) = self.read_audit(account, known.audit, at).await?;
        let is_judged = self.update(account, |state| {
            if state.audit.version <= reached.version {
                state.audit = join_audit(state.audit, reached)?;
            }
            // Where the anchor is ahead, the next sync judges it.
            let is_judged = anchor.version <= known.vault.version
                || state.vault.version < anchor.version
                || [state.vault, state.anchor].contains(&anchor);
            if is_judged {
                state.note_anchor(guard, anchor);
            }
            Ok(is_judged)
        })?;
        let devices = devices.to_vec();
        let overview = Overview { account, guard, vault, anchor, devices, failures, news: vec![] };
        Ok(is_judged.then_some(overview))
    }

    /// The guard's whole history, confirmed by the ledger, oldest first.
    ///
    /// # Errors
    /// As [`Client::status`].
    pub async fn audit(&self) -> Result<Vec<AuditEvent>, Error> {
        let overview = self.read_status(self.registered()?).await?;
        let known = self.registered()?;
        let start = Chain::Audit.genesis(sha256, &overview.account);
        let (events, _) = self.read_audit(overview.account, start, known.audit).await?;
        Ok(events)
    }

    /// Reads the audit chain from `from` to the ledger's head, which must not be before `to`, and
    /// must be `to` where the versions are equal.
    async fn read_audit(
        &self, account: Account, from: ChainPoint, to: ChainPoint,
    ) -> Result<(Vec<AuditEvent>, ChainPoint), Error> {
        let mut events = Vec::new();
        let mut at = from;
        if from.version >= to.version {
            return join_audit(from, to).map(|at| (events, at));
        }
        loop {
            let request = Request::Audit(at);
            let class = Class::Audit(at.version);
            let ask = Ask { request: &request, class, key: KeyKind::Presence };
            let reply = self.deliver(account, &ask).await?;
            let Ok(Success::Audited(page)) = reply.outcome()? else {
                return Err(Error::Unexpected("an audit request with something else"));
            };
            let head = ChainPoint { version: page.guard, head: page.audit_head };
            let mut version = at.version;
            for event in page.items {
                let event = event.map_err(|_| Error::Unexpected("a page that cannot be read"))?;
                version += 1;
                if event.version != version {
                    return Err(Error::Unexpected("a history with a gap"));
                }
                events.push(event);
            }
            if page.cursor.version != version || version == at.version {
                return Err(Error::Unexpected("a history that ends before the account does"));
            }
            at = page.cursor;
            if at.version >= head.version {
                join_audit(at, head)?;
                join_audit(to, at)?;
                return Ok((events, at));
            }
        }
    }

    /// Strikes a device off, then makes the vault refuse every guard that still lists it.
    /// Needs user verification and a sign-in of the last minutes, which is asked for.
    ///
    /// # Errors
    /// [`Error::Refused`] with `UnknownDevice` or `LastDevice`; as [`Client::status`].
    pub async fn revoke_device(&self, device: DeviceId) -> Result<Revoked, Error> {
        let overview = self.read_status(self.registered()?).await?;
        if !lists(&overview, &device) {
            return Err(Error::Refused(Refusal::UnknownDevice));
        }
        let request = |base| Request::RevokeDevice(RevokeDevice { base, device });
        let done = |overview: &Overview, _: &[AuditEvent]| !lists(overview, &device);
        // Written down first: if this process dies right after the commit, the touch is still due.
        // A touch that follows no revocation harms nothing.
        self.set_touch_due(true)?;
        let uv = KeyKind::UserVerification;
        match self.change_guard(request, Class::GuardFresh, uv, done).await {
            Ok(guard) => {
                let touched = self.touch().await;
                if let Err(error) = &touched {
                    tracing::warn!(%error, "the device is revoked; the vault is touched later");
                }
                Ok(Revoked { guard, vault_touched: touched.is_ok() })
            }
            Err(error) => Err(error),
        }
    }

    pub(crate) fn set_touch_due(&self, due: bool) -> Result<(), Error> {
        self.update(self.registered()?.account(), |state| {
            state.touch_due = due;
            Ok(())
        })
    }

    /// Writes the vault's point into the guard, and with it into the ledger: no host can show a
    /// recovering device an older vault afterwards. Done once a day by itself where needed.
    ///
    /// # Errors
    /// As [`Client::status`].
    pub async fn anchor(&self) -> Result<u64, Error> {
        let known = self.registered()?;
        let wanted = known.vault.version;
        let now = now()?.unix_seconds();
        self.update(known.account(), |state| {
            state.anchor_tried = now;
            Ok(())
        })?;
        let done = |overview: &Overview, _: &[AuditEvent]| overview.anchor.version >= wanted;
        self.change_guard(Request::Anchor, Class::Guard, KeyKind::Presence, done).await
    }

    /// Registers a device. Its keys must have come authenticated: [`crate::pairing`].
    pub(crate) async fn approve_device(&self, device: Device) -> Result<u64, Error> {
        let keys = (&device.device_key, &device.uv_key);
        let id = keyfold_protocol::transcript::device_id(sha256, keys.0, keys.1);
        let request = |base| Request::ApproveDevice(ApproveDevice { base, device: device.clone() });
        let done = |overview: &Overview, _: &[AuditEvent]| lists(overview, &id);
        let uv = KeyKind::UserVerification;
        match self.change_guard(request, Class::Guard, uv, done).await {
            // Approved before, and the answer to the new device was lost.
            Err(Error::Refused(Refusal::KnownDevice)) => {
                Ok(self.read_status(self.registered()?).await?.guard)
            }
            other => other,
        }
    }

    /// Does what waits to be done: the touch after a revocation, the daily anchor. Failures wait
    /// for the next time.
    pub(crate) async fn housekeep(&self) {
        let Ok(state) = self.registered() else { return };
        if state.touch_due
            && let Err(error) = self.touch().await
        {
            tracing::warn!(%error, "touching the vault after a revocation failed");
        }
        let since = now().map_or(0, |now| now.unix_seconds().saturating_sub(state.anchor_tried));
        if state.vault.version > state.anchor.version
            && since >= ANCHOR_EVERY
            && let Err(error) = self.anchor().await
        {
            tracing::warn!(%error, "anchoring the vault failed; tomorrow again");
        }
    }

    /// Changes the guard from the exact version this device knows; `done` tells, from a fresh status
    /// and from what has happened since that version, whether the change has. Returns the version it
    /// has happened at or before.
    pub(crate) async fn change_guard(
        &self, request: impl Fn(GuardBase) -> Request, class: Class, key: KeyKind,
        done: impl Fn(&Overview, &[AuditEvent]) -> bool,
    ) -> Result<u64, Error> {
        let mut attempts = Attempts::new();
        loop {
            let known = self.linked().await?;
            let AccountState { vault, anchor, .. } = known;
            let base = GuardBase { guard: known.audit.version, vault, anchor };
            let request = request(base);
            let ask = Ask { request: &request, class, key };
            let error = match self.deliver(known.account(), &ask).await {
                Ok(reply) => match reply.outcome()? {
                    Ok(Success::GuardChanged(changed)) => {
                        return self.changed(known.account(), base, &changed);
                    }
                    _ => return Err(Error::Unexpected("a change with something else")),
                },
                Err(error) => error,
            };
            if sync_first(&error) {
                self.catch_up().await?;
            } else if guard_moved(&error) || error.outcome_unknown() {
                match self.read_since(known.audit).await {
                    Ok((overview, since)) if done(&overview, &since) => return Ok(overview.guard),
                    Ok(_) => {}
                    Err(alarm @ Error::ForkAlarm(_)) => return Err(alarm),
                    Err(_) => return Err(error),
                }
            } else {
                return Err(error);
            }
            if !attempts.again(None).await {
                return Err(Error::Contended(Attempts::MOST));
            }
        }
    }

    /// A fresh status, and what led from `point` to it.
    async fn read_since(&self, point: ChainPoint) -> Result<(Overview, Vec<AuditEvent>), Error> {
        let overview = self.read_status(self.registered()?).await?;
        let reached = self.registered()?.audit;
        let (since, _) = self.read_audit(overview.account, point, reached).await?;
        Ok((overview, since))
    }

    /// The state, with the audit chain known up to the highest guard version seen, and that version's
    /// anchor.
    async fn linked(&self) -> Result<AccountState, Error> {
        for _ in 0..Attempts::MOST {
            let known = self.registered()?;
            if known.audit.version >= known.guard_seen && known.audit.version == known.anchor_of {
                return Ok(known);
            }
            // Between a status and the history that leads to it the account may move: then again.
            self.read_status(known).await?;
        }
        Err(Error::Contended(Attempts::MOST))
    }

    fn changed(
        &self, account: Account, base: GuardBase, changed: &GuardChanged,
    ) -> Result<u64, Error> {
        if base.guard.checked_add(1) != Some(changed.guard) || changed.vault != base.vault {
            return Err(Error::Unexpected("a change of another state than the signed one"));
        }
        let at = ChainPoint { version: changed.guard, head: changed.audit_head };
        self.update(account, |state| {
            // One version follows the other in the ledger, so the point is linked to the base.
            if state.audit.version == base.guard {
                state.audit = at;
            } else if state.audit.version == at.version {
                join_audit(state.audit, at)?;
            }
            state.note_anchor(changed.guard, changed.vault);
            Ok(changed.guard)
        })
    }
}

pub(crate) fn lists(overview: &Overview, id: &DeviceId) -> bool {
    overview.devices.iter().any(|device| device.id == *id)
}

/// The sealed vault must not lie before, or beside, what this device has synced and what the ledger
/// anchors; and that never goes back.
fn check_vault(known: &AccountState, anchor: ChainPoint, came: ChainPoint) -> Result<(), Error> {
    if anchor.version < known.anchor.version {
        let (known, came) = (known.anchor.version, anchor.version);
        return Err(Fork::AnchorRolledBack { known, came }.into());
    }
    for known in [known.anchor, known.vault] {
        if anchor.version == known.version && anchor != known {
            return Err(Fork::VaultForked { known, came: anchor }.into());
        }
    }
    for known in [Some(known.vault), known.vault_floor, Some(anchor)].into_iter().flatten() {
        if came.version < known.version {
            return Err(Fork::VaultRolledBack { known, came }.into());
        }
        if came.version == known.version && came != known {
            return Err(Fork::VaultForked { known, came }.into());
        }
    }
    Ok(())
}

/// The later of two points of one audit chain, where they can be compared; an alarm where they
/// contradict each other.
fn join_audit(known: ChainPoint, came: ChainPoint) -> Result<ChainPoint, Error> {
    match came.version.cmp(&known.version) {
        std::cmp::Ordering::Greater => Ok(came),
        std::cmp::Ordering::Equal if came == known => Ok(came),
        std::cmp::Ordering::Equal => Err(Fork::AuditForked { known, came }.into()),
        std::cmp::Ordering::Less => {
            Err(Fork::GuardRolledBack { known: known.version, came: came.version }.into())
        }
    }
}

#[cfg(test)]
mod tests;
