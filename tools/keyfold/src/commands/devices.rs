//! Devices: listed, approved by a code that the service never sees, struck off.

use std::io::{self, BufRead, IsTerminal};

use keyfold_client::pairing::{PairingSecret, fingerprint};
use keyfold_client::webauthn::Verification;
use keyfold_protocol::client::DeviceView;
use qrcode::QrCode;
use qrcode::render::unicode::Dense1x2;
use serde_json::json;

use super::account::{machine_name, news, print_overview};
use crate::args::{DevicesCommand, JoinArguments};
use crate::config::Config;
use crate::context::Context;
use crate::failure::{Exit, Failure};
use crate::output::{audit_json, colour, device_table, overview_json, printable};

pub(super) async fn run(context: &Context, command: DevicesCommand) -> Result<(), Failure> {
    match command {
        DevicesCommand::List => list(context).await,
        DevicesCommand::Approve { yes } => approve(context, yes).await,
        DevicesCommand::Join(arguments) => join(context, &arguments).await,
        DevicesCommand::Revoke { device, yes } => revoke(context, &device, yes).await,
    }
}

async fn list(context: &Context) -> Result<(), Failure> {
    let device = context.device().await?;
    let overview = device.client.status().await?;
    let this = device.client.keys().id();
    let text = device_table(&overview, &this) + &news(&overview);
    context.out.result(overview_json(&overview, &this), &text);
    Ok(())
}

async fn approve(context: &Context, yes: bool) -> Result<(), Failure> {
    let device = context.device().await?;
    let client = &device.client;
    let secret = client.invite()?;
    show_code(context, &secret, client.deployment().await?.statement().url());
    let candidate = client.await_candidate(&secret).await?;
    let (name, print) = (printable(candidate.name()), candidate.fingerprint());
    let found = json!({
        "event": "candidate",
        "device": {"id": candidate.id().to_string(), "name": candidate.name()},
    });
    context.out.event(&found, &format!("New device: {name}\nFingerprint: {print}"));
    let question = "Does the new device show this fingerprint, and is it yours?";
    let agreed =
        context.agree(yes, question).and_then(|()| context.unlock(&device, Verification::Required));
    if let Err(declined) = agreed {
        // The new device hears why nothing comes, if it can be told.
        let _ = client.decline(&secret, &candidate).await;
        return Err(declined);
    }
    let overview = client.approve(&secret, &candidate).await?;
    let head = format!("Approved: {name} ({print})");
    print_overview(context, &client.keys().id(), &overview, &head);
    Ok(())
}

fn show_code(context: &Context, secret: &PairingSecret, url: &str) {
    let (code, payload) = (secret.code(), secret.qr_payload());
    let event = json!({"event": "pairing-code", "code": code, "qr": payload, "deployment": url});
    let picture = match io::stderr().is_terminal() {
        true => picture(&payload, colour(&io::stderr())) + "\n",
        false => String::new(),
    };
    let text = format!(
        "On the new device, with a copy of the trust root that this one was set up with, run:\n  \
         keyfold devices join --deployment {url} --trust-root FILE\nThere enter this code, within \
         ten minutes:\n\n{picture}  {code}\n\nWaiting for the new device ..."
    );
    context.out.event(&event, &text);
}

/// A QR code for a terminal: black on white where colours may be used; else drawn in the
/// terminal's own two, for the dark background that most have.
fn picture(payload: &str, colour: bool) -> String {
    let Ok(qr) = QrCode::new(payload) else { return String::new() };
    let mut picture = qr.render::<Dense1x2>();
    if !colour {
        return picture.dark_color(Dense1x2::Light).light_color(Dense1x2::Dark).build();
    }
    let picture = picture.dark_color(Dense1x2::Dark).light_color(Dense1x2::Light).build();
    let lines = picture.lines().map(|line| format!("\x1b[30;107m{line}\x1b[0m"));
    lines.collect::<Vec<_>>().join("\n")
}

async fn join(context: &Context, arguments: &JoinArguments) -> Result<(), Failure> {
    let config = Config::new(&context.home, &arguments.deployment)?;
    let secret = read_code(context)?;
    let device = context.new_device(config).await?;
    let name = arguments.name.clone().unwrap_or_else(machine_name);
    let id = device.client.keys().id();
    let print = fingerprint(&id);
    let event = json!({"event": "this-device", "device": {"id": id.to_string(), "name": name}});
    let text = format!(
        "This device: {}\nFingerprint: {print}\nApprove it on the other device, if that shows \
         the same fingerprint. Waiting for that, ten minutes at most ...",
        printable(&name)
    );
    context.out.event(&event, &text);
    let overview = device.client.join(&secret, &name).await?;
    let head = "This device has joined the account. Do you know all of its devices?";
    print_overview(context, &id, &overview, head);
    Ok(())
}

/// From stdin where that is a pipe or a file, else from the person.
fn read_code(context: &Context) -> Result<PairingSecret, Failure> {
    let stdin = io::stdin();
    let code = if stdin.is_terminal() {
        context.person.line("Code that the other device shows:")?
    } else {
        let mut line = String::new();
        let read = stdin.lock().read_line(&mut line);
        read.map_err(|error| Failure::usage(format!("stdin cannot be read: {error}")))?;
        Some(line)
    };
    let code = code.map(zeroize::Zeroizing::new);
    let code = code.ok_or_else(|| Failure::usage("the code is needed on stdin"))?;
    Ok(PairingSecret::parse(&code).map_err(keyfold_client::Error::from)?)
}

async fn revoke(context: &Context, wanted: &str, yes: bool) -> Result<(), Failure> {
    let device = context.device().await?;
    let overview = device.client.status().await?;
    context.out.note(news(&overview).trim_start());
    let found = find(&overview.devices, wanted)?;
    let this = found.id == device.client.keys().id();
    let which = format!(
        "{} ({}){}",
        found.name,
        fingerprint(&found.id),
        if this { ", which is this device" } else { "" }
    );
    context.agree(yes, &format!("Strike off {which}?"))?;
    context.unlock(&device, Verification::Required)?;
    let revoked = device.client.revoke_device(found.id).await?;
    let object = json!({
        "revoked": {"id": found.id.to_string(), "name": &*found.name},
        "news": overview.news.iter().map(audit_json).collect::<Vec<_>>(),
        "guard": revoked.guard,
        "vault_touched": revoked.vault_touched,
    });
    let rest = match revoked.vault_touched {
        true => "The passkeys are closed to it.",
        false => "The next command that succeeds closes the passkeys to it.",
    };
    context.out.result(object, &format!("Struck off: {}\n{rest}", printable(&which)));
    Ok(())
}

/// The one device of that name, or whose fingerprint starts like this.
fn find<'a>(devices: &'a [DeviceView], wanted: &str) -> Result<&'a DeviceView, Failure> {
    let digits: String = wanted.chars().filter(|c| *c != ' ').collect();
    let digits = digits.to_ascii_lowercase();
    // Four digits of a fingerprint are its first group; fewer are likelier a slip.
    let is_start = |one: &DeviceView| digits.len() >= 4 && one.id.to_string().starts_with(&digits);
    // A script's empty variable names nobody.
    let fits = |one: &&DeviceView| !wanted.is_empty() && (*one.name == *wanted || is_start(one));
    let mut fitting = devices.iter().filter(fits);
    match (fitting.next(), fitting.next()) {
        (Some(device), None) => Ok(device),
        (None, _) => {
            let message = format!("no device is called {wanted:?}; see: keyfold devices list");
            Err(Failure::new(Exit::Refused, "no-such-device", message))
        }
        _ => {
            let message = format!("several devices are called {wanted:?}; give the fingerprint");
            Err(Failure::new(Exit::Person, "choose", message))
        }
    }
}

#[cfg(test)]
mod tests {
    use keyfold_protocol::ids::DeviceId;

    use super::*;

    #[test]
    fn a_device_is_found_by_its_name_or_fingerprint() {
        let device = |id: u8, name: &str| DeviceView {
            id: DeviceId([id; 16]),
            name: name.try_into().unwrap(),
        };
        let all = [device(0xa1, "laptop"), device(0xb2, "phone"), device(0xa3, "phone")];
        for (wanted, expected) in [
            ("laptop", Ok(0xa1)),
            ("a1a1", Ok(0xa1)),
            ("A3A3 A3A3", Ok(0xa3)),
            ("phone", Err("choose")),
            ("a1", Err("no-such-device")),
            ("", Err("no-such-device")),
            ("Laptop", Err("no-such-device")),
            ("c4c4", Err("no-such-device")),
        ] {
            let found = find(&all, wanted).map(|one| one.id.0[0]);
            let found = found.as_ref().map_err(|failure| failure.code());
            assert_eq!(found.copied(), expected, "{wanted}");
        }
    }

    #[test]
    fn a_qr_code_is_small_and_its_margin_is_light() {
        let payload = format!("KEYFOLD:PAIR:1:{}", "Z".repeat(20));
        let plain = picture(&payload, false);
        let margin = plain.lines().next().unwrap();
        assert!(margin.chars().count() <= 40);
        // A full block is the foreground: light, on a dark background.
        assert!(margin.chars().all(|block| block == '█'), "{margin}");
        let coloured = picture(&payload, true);
        let margin = coloured.lines().next().unwrap();
        let margin = margin.strip_prefix("\x1b[30;107m").unwrap().strip_suffix("\x1b[0m").unwrap();
        assert!(margin.chars().all(|block| block == ' '), "{margin}");
    }
}
