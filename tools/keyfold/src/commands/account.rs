//! Opening an account, signing in, and what has happened to it.

use std::collections::BTreeSet;

use keyfold_attestation_policy::values::Timestamp;
use keyfold_client::account::Overview;
use keyfold_client::pin::Pin;
use keyfold_protocol::client::{AuditEvent, AuditKind};
use keyfold_protocol::ids::DeviceId;
use serde_json::json;

use crate::args::EnrollArguments;
use crate::config::Config;
use crate::context::Context;
use crate::failure::{Exit, Failure};
use crate::output::{audit_json, audit_kind, device_table, overview_json, point_json, table};

pub(super) async fn enroll(context: &Context, arguments: &EnrollArguments) -> Result<(), Failure> {
    let config = Config::new(&context.home, &arguments.deployment)?;
    let device = context.new_device(config).await?;
    let pin = context.new_pin(arguments.pin_file.as_deref())?;
    let pin = Pin::new(&pin).map_err(keyfold_client::Error::from)?;
    let name = arguments.name.clone().unwrap_or_else(machine_name);
    let overview = device.client.enroll(pin, &name).await?;
    print_overview(context, &device.client.keys().id(), &overview, "The account is open.");
    Ok(())
}

pub(super) async fn login(context: &Context, fresh: bool) -> Result<(), Failure> {
    let device = context.device().await?;
    let account = device.client.sign_in(fresh).await?.to_string();
    context.out.result(json!({"account": account}), &format!("Signed in to account {account}."));
    Ok(())
}

pub(super) async fn status(context: &Context) -> Result<(), Failure> {
    let device = context.device().await?;
    let overview = device.client.status().await?;
    let head = format!(
        "Account {} of generation {}\n\
         Version {} of the account, confirmed by the ledger just now\n\
         Version {} of the passkeys, {} of them in the ledger",
        overview.account.id,
        overview.account.generation,
        overview.guard,
        overview.vault.version,
        overview.anchor.version
    );
    print_overview(context, &device.client.keys().id(), &overview, &head);
    Ok(())
}

/// Devices, and what happened since the person last looked.
pub(super) fn print_overview(context: &Context, this: &DeviceId, overview: &Overview, head: &str) {
    let text = format!("{head}\n\n{}{}", device_table(overview, this), news(overview));
    context.out.result(overview_json(overview, this), &text);
}

/// What happened since the person last looked. Whoever asks for a status has to show this: it is
/// told once.
pub(super) fn news(overview: &Overview) -> String {
    match &overview.news[..] {
        [] => String::new(),
        news => format!("\n\nSince you last looked:\n{}", audit_table(news, overview)),
    }
}

pub(super) async fn anchor(context: &Context) -> Result<(), Failure> {
    let device = context.device().await?;
    let guard = device.client.anchor().await?;
    let text =
        format!("The passkeys' version stands in the ledger, with version {guard} of the account.");
    context.out.result(json!({"guard": guard}), &text);
    Ok(())
}

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
        check_history(&events, &overview)?;
        object["verified"] = json!({
            "events": events.len(),
            "devices": overview.devices.len(),
            "vault": point_json(&overview.vault),
        });
        text.push_str(&format!(
            "\n\nVerified, {} of {}: events without a gap, hashed into a chain whose head the \
             ledger confirms;\nthey lead to exactly the devices that are registered now ({}), and \
             to everything this device had seen.",
            events.len(),
            overview.guard,
            overview.devices.len()
        ));
    }
    context.out.result(object, &text);
    Ok(())
}

/// That the history is complete and makes exactly the devices that are registered.
fn check_history(events: &[AuditEvent], overview: &Overview) -> Result<(), Failure> {
    let wrong = |what: String| {
        let message =
            format!("the history does not fit the account: {what}; report this deployment");
        Err(Failure::new(Exit::Alarm, "audit-mismatch", message))
    };
    let mut devices = BTreeSet::new();
    for (event, version) in events.iter().zip(1..) {
        let follows =
            event.version == version && (version == 1) == (event.kind == AuditKind::Enrolled);
        let fits = match event.kind {
            AuditKind::Enrolled | AuditKind::DeviceAdded => devices.insert(event.subject),
            AuditKind::DeviceRevoked => devices.remove(&event.subject),
            AuditKind::Anchored => devices.contains(&event.actor),
        };
        if !follows || !fits {
            return wrong(format!("event {version} cannot follow the ones before"));
        }
    }
    if u64::try_from(events.len()) != Ok(overview.guard) {
        return wrong(format!("{} events for version {}", events.len(), overview.guard));
    }
    let registered: BTreeSet<DeviceId> = overview.devices.iter().map(|one| one.id).collect();
    if registered != devices {
        return wrong("it leads to other devices than the registered ones".into());
    }
    Ok(())
}

fn audit_table(events: &[AuditEvent], overview: &Overview) -> String {
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

/// What the machine calls itself, cut to what fits.
pub(super) fn machine_name() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname")
        .ok()
        .or_else(|| std::env::var("COMPUTERNAME").ok())
        .map(|name| name.trim().to_owned())
        .filter(|name| !name.is_empty())
        .unwrap_or_else(|| "device".into());
    name[..name.floor_char_boundary(keyfold_protocol::limits::NAME)].to_owned()
}

#[cfg(test)]
mod tests {
    use keyfold_protocol::client::DeviceView;
    use keyfold_protocol::ids::{Account, AccountId, ChainPoint, Digest};

    use super::*;

    fn event(version: u64, kind: AuditKind, actor: u8, subject: u8) -> AuditEvent {
        let (actor, subject) = (DeviceId([actor; 16]), DeviceId([subject; 16]));
        AuditEvent { version, kind, actor, subject, host_time: 0 }
    }

    fn overview(guard: u64, devices: &[u8]) -> Overview {
        let point = ChainPoint { version: 0, head: Digest([0; 32]) };
        let device = |id: &u8| DeviceView { id: DeviceId([*id; 16]), name: Default::default() };
        Overview {
            account: Account { id: AccountId([0; 32]), generation: 1 },
            guard,
            vault: point,
            anchor: point,
            devices: devices.iter().map(device).collect(),
            news: Vec::new(),
        }
    }

    #[test]
    fn a_history_must_make_exactly_the_registered_devices() {
        use AuditKind::{Anchored, DeviceAdded, DeviceRevoked, Enrolled};
        let history = [
            event(1, Enrolled, 1, 1),
            event(2, DeviceAdded, 1, 2),
            event(3, Anchored, 2, 2),
            event(4, DeviceRevoked, 2, 1),
        ];
        assert!(check_history(&history, &overview(4, &[2])).is_ok());
        assert!(check_history(&history[..3], &overview(3, &[1, 2])).is_ok());

        for (what, events, overview) in [
            ("another device", &history[..], overview(4, &[3])),
            ("a device that was revoked", &history[..], overview(4, &[1, 2])),
            ("a device that is missing", &history[..3], overview(3, &[2])),
            ("an event that is missing", &history[..3], overview(4, &[1, 2])),
            ("no history at all", &[], overview(1, &[1])),
            ("a beginning that is missing", &history[1..2], overview(1, &[2])),
            (
                "a device revoked twice",
                &[history[0], event(2, DeviceRevoked, 1, 2)],
                overview(2, &[1]),
            ),
            ("a device added twice", &[history[0], event(2, DeviceAdded, 1, 1)], overview(2, &[1])),
            ("two beginnings", &[history[0], event(2, Enrolled, 2, 2)], overview(2, &[1, 2])),
            ("an anchor of a stranger", &[history[0], event(2, Anchored, 2, 2)], overview(2, &[1])),
            ("a gap", &[history[0], event(3, DeviceAdded, 1, 2)], overview(2, &[1, 2])),
        ] {
            let found =
                check_history(events, &overview).map_err(|failure| failure.code().to_owned());
            assert_eq!(found, Err("audit-mismatch".to_owned()), "{what}");
        }
    }

    #[test]
    fn the_machines_name_fits() {
        let name = machine_name();
        assert!((1..=keyfold_protocol::limits::NAME).contains(&name.len()));
    }
}
