//! The account's history: shown, and checked against the account as it is.

use keyfold_attestation_policy::values::Timestamp;
use keyfold_client::account::Overview;
use keyfold_protocol::client::{AuditEvent, AuditKind};
use keyfold_protocol::ids::DeviceId;
use keyfold_protocol::limits;
use serde_json::json;

use crate::context::Context;
use crate::failure::{Exit, Failure};
use crate::output::{audit_json, audit_kind, counted, point_json, table};

pub(super) async fn audit(context: &Context, verify: bool) -> Result<(), Failure> {
    let device = context.device().await?;
    let overview = device.client.status().await?;
    let mut events = device.client.audit().await?;
    // Both were confirmed by the ledger, the history a moment later than the list of devices.
    events.retain(|event| event.version <= overview.guard);
    let mut object = json!({
        "guard": overview.guard,
        "events": events.iter().map(audit_json).collect::<Vec<_>>(),
    });
    let mut text = audit_table(&events, &overview);
    if verify {
        check(&events, &overview)?;
        let count = |kind| events.iter().filter(|event| event.kind == kind).count();
        let [added, recovered, tries] =
            [AuditKind::DeviceAdded, AuditKind::Recovered, AuditKind::TryCharged].map(count);
        object["verified"] = json!({
            "events": events.len(),
            "devices": overview.devices.len(),
            "failures": overview.failures,
            "approvals": added,
            "recoveries": recovered,
            "failed_tries": tries - recovered,
            "vault": point_json(&overview.vault),
            "anchor": point_json(&overview.anchor),
        });
        text.push_str(&format!(
            "\n\nVerified, {} of {}: events without a gap, hashed into a chain whose head the \
             ledger confirms;\nthey lead to exactly the devices that are registered now ({}), to the \
             {} in a row that count,\nand to everything this device had seen. The ledger \
             holds version {} of the passkeys, which stand at {}.\nRegistered since the account was \
             opened: {} by approval, {recovered} by PIN; {} of the PIN failed.",
            events.len(),
            overview.guard,
            overview.devices.len(),
            counted(overview.failures, "wrong try", "wrong tries"),
            overview.anchor.version,
            overview.vault.version,
            counted(added, "device", "devices"),
            counted(tries - recovered, "try", "tries"),
        ));
    }
    context.out.result(object, &text);
    Ok(())
}

/// What a history makes of an account, event by event.
#[derive(Default)]
struct Replay {
    /// Oldest first. None before the account was opened, and after it was deleted.
    devices: Vec<DeviceId>,
    /// Charged tries in a row, none of them found right.
    failures: u8,
    /// Who made the charge just before, which alone can be settled.
    tried: Option<DeviceId>,
}

impl Replay {
    /// Takes the next event. False if the account could not have made it.
    fn follow(&mut self, event: &AuditEvent) -> bool {
        let AuditEvent { version, kind, actor, subject, .. } = *event;
        let settled = self.tried.take() == Some(actor);
        let by_member = self.devices.contains(&actor);
        let about_itself = subject == actor;
        match kind {
            AuditKind::Enrolled => version == 1 && about_itself && self.add(actor),
            AuditKind::DeviceAdded => by_member && self.add(subject),
            AuditKind::DeviceRevoked => {
                by_member && self.remove(&subject) && !self.devices.is_empty()
            }
            AuditKind::Anchored => by_member && about_itself,
            AuditKind::PinChanged => {
                self.failures = 0;
                by_member && about_itself
            }
            AuditKind::TryCharged => {
                self.failures = self.failures.saturating_add(1);
                self.tried = Some(actor);
                let is_open = !self.devices.is_empty() && self.failures <= limits::TRIES;
                is_open && !by_member && about_itself
            }
            AuditKind::TryFailed => settled && about_itself,
            AuditKind::Recovered => {
                self.failures = 0;
                // In a full account the oldest made room, and nobody in any other.
                let oldest = self.devices.first().copied();
                let is_full = self.devices.len() == limits::DEVICES;
                let made_room = match is_full {
                    true => oldest == Some(subject) && self.remove(&subject),
                    false => about_itself,
                };
                settled && made_room && self.add(actor)
            }
            AuditKind::Deleted => {
                self.devices.clear();
                by_member && about_itself
            }
        }
    }

    fn add(&mut self, device: DeviceId) -> bool {
        let is_new = !self.devices.contains(&device) && self.devices.len() < limits::DEVICES;
        self.devices.push(device);
        is_new
    }

    fn remove(&mut self, device: &DeviceId) -> bool {
        let before = self.devices.len();
        self.devices.retain(|known| known != device);
        self.devices.len() < before
    }
}

/// That the history is complete, could have happened, and makes exactly the account as it is.
fn check(events: &[AuditEvent], overview: &Overview) -> Result<(), Failure> {
    let wrong = |what: String| {
        let message =
            format!("the history does not fit the account: {what}; report this deployment");
        Err(Failure::new(Exit::Alarm, "audit-mismatch", message))
    };
    let mut replay = Replay::default();
    for (event, version) in events.iter().zip(1..) {
        if event.version != version || !replay.follow(event) {
            return wrong(format!("event {version} cannot follow the ones before"));
        }
    }
    if u64::try_from(events.len()) != Ok(overview.guard) {
        return wrong(format!("{} events for version {}", events.len(), overview.guard));
    }
    if replay.failures != overview.failures {
        return wrong(format!("{} failed tries, and {} count", replay.failures, overview.failures));
    }
    let registered: Vec<DeviceId> = overview.devices.iter().map(|one| one.id).collect();
    if registered != replay.devices {
        return wrong("it leads to other devices than the registered ones".into());
    }
    Ok(())
}

/// Events for people to read.
pub(super) fn audit_table(events: &[AuditEvent], overview: &Overview) -> String {
    let name = |id: &DeviceId| {
        let known = overview.devices.iter().find(|one| one.id == *id);
        known.map_or_else(|| id.to_string()[..8].into(), |one| one.name.to_string())
    };
    let row = |event: &AuditEvent| {
        let time = Timestamp::from_unix_seconds(event.host_time);
        let about = if event.subject == event.actor { String::new() } else { name(&event.subject) };
        vec![
            event.version.to_string(),
            audit_kind(event.kind).into(),
            name(&event.actor),
            about,
            time.map_or_else(|_| "?".into(), |time| time.to_string()),
        ]
    };
    let rows: Vec<Vec<String>> = events.iter().map(row).collect();
    table(&["VERSION", "WHAT", "BY", "ABOUT", "TIME (as the host says)"], &rows)
}

#[cfg(test)]
mod tests {
    use AuditKind::{
        Anchored, Deleted, DeviceAdded, DeviceRevoked, Enrolled, PinChanged, Recovered, TryCharged,
        TryFailed,
    };
    use keyfold_protocol::client::DeviceView;
    use keyfold_protocol::ids::{Account, AccountId, ChainPoint, Digest};

    use super::*;

    fn overview(guard: usize, devices: &[u8], failures: u8) -> Overview {
        let point = ChainPoint { version: 0, head: Digest([0; 32]) };
        let device = |id: &u8| DeviceView { id: DeviceId([*id; 16]), name: Default::default() };
        Overview {
            account: Account { id: AccountId([0; 32]), generation: 1 },
            guard: guard as u64,
            vault: point,
            anchor: point,
            devices: devices.iter().map(device).collect(),
            failures,
            news: Vec::new(),
        }
    }

    /// Kind, actor, subject.
    type Short = (AuditKind, u8, u8);

    fn history(events: &[Short]) -> Vec<AuditEvent> {
        let event = |(version, (kind, actor, subject)): (u64, &Short)| {
            let (actor, subject) = (DeviceId([*actor; 16]), DeviceId([*subject; 16]));
            AuditEvent { version, kind: *kind, actor, subject, host_time: 0 }
        };
        (1..).zip(events).map(event).collect()
    }

    fn judged(events: &[Short], devices: &[u8], failures: u8) -> Result<(), String> {
        check(&history(events), &overview(events.len(), devices, failures))
            .map_err(|failure| failure.code().to_owned())
    }

    fn holds(what: &str, events: &[Short], devices: &[u8], failures: u8) {
        assert_eq!(judged(events, devices, failures), Ok(()), "{what}");
    }

    fn refused(what: &str, events: &[Short], devices: &[u8], failures: u8) {
        let found = judged(events, devices, failures);
        assert_eq!(found, Err("audit-mismatch".to_owned()), "{what}");
    }

    const FIRST: Short = (Enrolled, 1, 1);

    #[test]
    fn a_history_makes_exactly_the_registered_devices() {
        let all = [FIRST, (DeviceAdded, 1, 2), (Anchored, 2, 2), (DeviceRevoked, 2, 1)];
        holds("everything", &all, &[2], 0);
        holds("a part", &all[..3], &[1, 2], 0);
        holds("its own revocation", &[all[0], all[1], (DeviceRevoked, 1, 1)], &[2], 0);
        refused("another device", &all, &[3], 0);
        refused("a device that was revoked", &all, &[1, 2], 0);
        refused("a device that is missing", &all[..3], &[2], 0);
        refused("another order", &all[..3], &[2, 1], 0);
        refused("no history at all", &[], &[1], 0);
        refused("a beginning that is missing", &all[1..2], &[2], 0);
        refused("two beginnings", &[FIRST, (Enrolled, 2, 2)], &[1, 2], 0);
        refused("a device revoked twice", &[FIRST, (DeviceRevoked, 1, 2)], &[1], 0);
        refused("the last device revoked", &[FIRST, (DeviceRevoked, 1, 1)], &[], 0);
        refused("a device added twice", &[FIRST, (DeviceAdded, 1, 1)], &[1], 0);
        refused("an anchor of a stranger", &[FIRST, (Anchored, 2, 2)], &[1], 0);
        refused("a device that lets itself in", &[FIRST, (DeviceAdded, 2, 2)], &[1, 2], 0);
        refused("a stranger that strikes off", &[all[0], all[1], (DeviceRevoked, 3, 1)], &[2], 0);

        let mut gap = history(&all);
        gap.remove(2);
        let code = check(&gap, &overview(3, &[2], 0)).map_err(|failure| failure.code().to_owned());
        assert_eq!(code, Err("audit-mismatch".to_owned()), "a gap");
        let short = check(&history(&all[..3]), &overview(4, &[1, 2], 0));
        assert_eq!(short.map_err(|failure| failure.code().to_owned()), code, "an end is missing");
    }

    #[test]
    fn a_device_recovers_by_a_charge_and_its_own_outcome() {
        let tried = (TryCharged, 2, 2);
        holds("a recovery", &[FIRST, tried, (Recovered, 2, 2)], &[1, 2], 0);
        holds("a wrong try", &[FIRST, tried, (TryFailed, 2, 2)], &[1], 1);
        holds("a charge alone", &[FIRST, tried], &[1], 1);
        holds("a charge overtaken", &[FIRST, tried, (Anchored, 1, 1)], &[1], 1);
        holds("two charges in a row", &[FIRST, tried, (TryCharged, 3, 3)], &[1], 2);
        let retried = [FIRST, tried, (TryFailed, 2, 2), tried, (Recovered, 2, 2)];
        holds("a right try after a wrong one", &retried, &[1, 2], 0);

        refused("a try of a registered device", &[FIRST, (TryCharged, 1, 1)], &[1], 1);
        refused("a recovery without a charge", &[FIRST, (Recovered, 2, 2)], &[1, 2], 0);
        refused("a failure without a charge", &[FIRST, (TryFailed, 2, 2)], &[1], 0);
        refused("another device's recovery", &[FIRST, tried, (Recovered, 3, 3)], &[1, 3], 0);
        refused("another device's failure", &[FIRST, tried, (TryFailed, 3, 3)], &[1], 1);
        refused("a try about another", &[FIRST, (TryCharged, 2, 3)], &[1], 1);
        let overtaken = [FIRST, tried, (Anchored, 1, 1), (Recovered, 2, 2)];
        refused("an overtaken charge that is settled", &overtaken, &[1, 2], 0);
        let twice = [FIRST, tried, (TryFailed, 2, 2), (Recovered, 2, 2)];
        refused("a charge settled twice", &twice, &[1, 2], 0);
        refused("a recovery unseen", &[FIRST, tried, (Recovered, 2, 2)], &[1], 0);
        let replaced = [FIRST, tried, (Recovered, 2, 1)];
        refused("a device replaced while there is room", &replaced, &[2], 0);
    }

    #[test]
    fn tries_count_until_a_right_one_or_a_new_pin() {
        let wrong = [(TryCharged, 2, 2), (TryFailed, 2, 2)];
        let mut events = vec![FIRST];
        for count in 1..=10 {
            events.extend(wrong);
            holds("so many", &events, &[1], count);
            refused("one less", &events, &[1], count - 1);
            refused("one more", &events, &[1], count + 1);
        }
        let eleventh = [&events[..], &wrong].concat();
        refused("an eleventh try", &eleventh, &[1], 11);
        let right = [&events[..], &[(TryCharged, 2, 2), (Recovered, 2, 2)]].concat();
        refused("a right PIN after the tenth", &right, &[1, 2], 0);
        let lifted = [&events[..], &[(PinChanged, 1, 1)]].concat();
        holds("a new PIN", &lifted, &[1], 0);
        refused("a new PIN that lifts nothing", &lifted, &[1], 10);
        let stranger = [&events[..], &[(PinChanged, 2, 2)]].concat();
        refused("a stranger's new PIN", &stranger, &[1], 0);
        let again = [&lifted[..], &wrong].concat();
        holds("it counts anew", &again, &[1], 1);
    }

    #[test]
    fn in_a_full_account_the_oldest_makes_room() {
        let mut events = vec![FIRST];
        events.extend((2..=16).map(|id| (DeviceAdded, 1, id)));
        let all: Vec<u8> = (1..=16).collect();
        holds("a full account", &events, &all, 0);
        let seventeenth = [&events[..], &[(DeviceAdded, 1, 17)]].concat();
        refused("a seventeenth device", &seventeenth, &(1..=17).collect::<Vec<_>>(), 0);
        let recovered = |made_room: u8| {
            [&events[..], &[(TryCharged, 17, 17), (Recovered, 17, made_room)]].concat()
        };
        holds("the oldest", &recovered(1), &(2..=17).collect::<Vec<_>>(), 0);
        let without = |gone: u8| (1..=17).filter(|id| *id != gone).collect::<Vec<_>>();
        refused("another one", &recovered(2), &without(2), 0);
        refused("an unknown one", &recovered(40), &without(17), 0);
        refused("none", &recovered(17), &(1..=17).collect::<Vec<_>>(), 0);
    }

    #[test]
    fn nothing_follows_the_end() {
        let end = [FIRST, (Deleted, 1, 1)];
        holds("the end", &end, &[], 0);
        refused("a device survives it", &end, &[1], 0);
        refused("a stranger's", &[FIRST, (Deleted, 2, 2)], &[], 0);
        for after in [(Anchored, 1, 1), (DeviceAdded, 1, 2), (PinChanged, 1, 1), (Deleted, 1, 1)] {
            let devices: &[u8] = if after.0 == DeviceAdded { &[2] } else { &[] };
            refused("a change after it", &[end[0], end[1], after], devices, 0);
        }
        refused("a try after it", &[end[0], end[1], (TryCharged, 2, 2)], &[], 1);
        refused("a new beginning", &[end[0], end[1], (Enrolled, 1, 1)], &[1], 0);
    }
}
