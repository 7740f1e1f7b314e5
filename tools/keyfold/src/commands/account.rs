//! Opening an account, signing in, and what has happened to it.

use keyfold_client::account::Overview;
use keyfold_client::pin::Pin;
use keyfold_client::webauthn::Verification;
use keyfold_protocol::ids::{Account, DeviceId};
use keyfold_protocol::limits;
use serde_json::{Value, json};

use super::history::audit_table;
use crate::args::EnrollArguments;
use crate::config::Config;
use crate::context::Context;
use crate::failure::Failure;
use crate::output::{audit_json, counted, device_table, overview_json, printable};

pub(super) async fn enroll(context: &Context, arguments: &EnrollArguments) -> Result<(), Failure> {
    let config = Config::new(&context.home, &arguments.deployment)?;
    let device = context.new_device(config).await?;
    let pin = context.new_pin(arguments.pin_file.as_deref())?;
    let pin = Pin::new(&pin).map_err(keyfold_client::Error::from)?;
    let name = arguments.name.clone().unwrap_or_else(machine_name);
    context.stretching();
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
         Version {} of the passkeys, {} of them in the ledger\n\
         {}",
        overview.account.id,
        overview.account.generation,
        overview.guard,
        overview.vault.version,
        overview.anchor.version,
        recovery(&overview)
    );
    print_overview(context, &device.client.keys().id(), &overview, &head);
    Ok(())
}

/// How recovery stands, and what to do about it.
fn recovery(overview: &Overview) -> String {
    let (left, failed) = (overview.tries_left(), overview.failed_since());
    let since = match failed {
        0 => String::new(),
        1 => "\nOne try of the PIN failed since you last looked. If it was not you: somebody who can \
              sign in as you does not know it"
            .into(),
        failed => format!(
            "\n{failed} tries of the PIN failed since you last looked. If it was not you: somebody who \
             can sign in as you does not know it"
        ),
    };
    let stands = match left {
        0 => "Recovery is LOCKED: no PIN is taken, not even the right one. Set a new one: keyfold pin \
              change"
            .into(),
        1 => format!("Recovery: one of {} tries of the PIN is left", limits::TRIES),
        left => format!("Recovery: {left} of {} tries of the PIN are left", limits::TRIES),
    };
    stands + &since
}

pub(super) async fn delete(context: &Context, yes: bool) -> Result<(), Failure> {
    let device = context.device().await?;
    let client = &device.client;
    let passkeys = client.sync().await?;
    let overview = client.status().await?;
    context.out.note(news(&overview).trim_start());
    let names: Vec<String> = overview.devices.iter().map(|one| printable(&one.name)).collect();
    let question = format!(
        "Delete the account for good, with {}, for all devices ({})?",
        counted(passkeys.len(), "passkey", "passkeys"),
        names.join(", ")
    );
    context.agree(yes, &question)?;
    context.unlock(&device, Verification::Required)?;
    client.delete_account().await?;
    let Account { id, generation } = overview.account;
    let object = json!({
        "deleted": {"id": id.to_string(), "generation": generation},
        "passkeys": passkeys.len(),
        "news": overview.news.iter().map(audit_json).collect::<Vec<_>>(),
    });
    let text = "The account is deleted. To open a new one: keyfold enroll";
    context.out.result(object, text);
    Ok(())
}

/// Devices, and what happened since the person last looked.
pub(super) fn print_overview(context: &Context, this: &DeviceId, overview: &Overview, head: &str) {
    show_overview(context, this, overview, head, json!({}));
}

/// As [`print_overview`], with further members in the JSON form.
pub(super) fn show_overview(
    context: &Context, this: &DeviceId, overview: &Overview, head: &str, more: Value,
) {
    let text = format!("{head}\n\n{}{}", device_table(overview, this), news(overview));
    let mut object = overview_json(overview, this);
    for (name, value) in more.as_object().into_iter().flatten() {
        object[name] = value.clone();
    }
    context.out.result(object, &text);
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
    use super::*;

    #[test]
    fn the_machines_name_fits() {
        let name = machine_name();
        assert!((1..=keyfold_protocol::limits::NAME).contains(&name.len()));
    }
}
