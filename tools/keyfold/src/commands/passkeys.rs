//! Passkeys: WebAuthn ceremonies over stdin and stdout, and the list.

use std::io::{IsTerminal, Read};

use keyfold_client::requests::user_names;
use keyfold_client::store::Passkey;
use keyfold_client::webauthn::{
    Authentication, CreationOptions, Origin, Registration, RequestOptions, Verification,
    WebAuthnError,
};
use serde_json::json;

use crate::args::PasskeysCommand;
use crate::context::Context;
use crate::failure::{Exit, Failure};
use crate::output::{base64url, counted, passkey_json, point_json, printable, table};

/// Longer than any options; the library has its own limit below it.
const LONGEST_INPUT: u64 = 1024 * 1024;

pub(super) async fn run(context: &Context, command: PasskeysCommand) -> Result<(), Failure> {
    match command {
        PasskeysCommand::Create { origin } => create(context, &origin).await,
        PasskeysCommand::SignIn { origin, credential } => {
            sign_in(context, &origin, credential.as_deref()).await
        }
        PasskeysCommand::List { rp_id, offline } => list(context, rp_id.as_deref(), offline).await,
        PasskeysCommand::Rename { credential, name, display_name } => {
            rename(context, &credential, &name, display_name.as_deref()).await
        }
        PasskeysCommand::Delete { credential, yes } => delete(context, &credential, yes).await,
    }
}

/// Everything about the options is checked before the network is asked for anything.
async fn create(context: &Context, origin: &str) -> Result<(), Failure> {
    let origin = Origin::parse(origin).map_err(WebAuthnError::from)?;
    let options = CreationOptions::from_json(&read_options(context)?)?;
    let registration = Registration::new(&origin, options)?;
    let device = context.device().await?;
    let key = context.unlock(&device, registration.verification())?;
    let mut response = registration.run(&device.client, key).await;
    if let Err(replaces @ WebAuthnError::Replaces { .. }) = &response {
        context.out.note(&replaces.to_string());
        let key = context.unlock(&device, Verification::Required)?;
        response = registration.run(&device.client, key).await;
    }
    context.out.document(&response?);
    Ok(())
}

async fn sign_in(context: &Context, origin: &str, credential: Option<&str>) -> Result<(), Failure> {
    let origin = Origin::parse(origin).map_err(WebAuthnError::from)?;
    let options = RequestOptions::from_json(&read_options(context)?)?;
    let authentication = Authentication::new(&origin, options)?;
    let device = context.device().await?;
    let wanted = match credential {
        None => None,
        Some(credential) => {
            let known = device.client.passkeys()?;
            match find(&known, credential) {
                Ok(passkey) => Some(passkey.credential),
                Err(_) => Some(find(&device.client.sync().await?, credential)?.credential),
            }
        }
    };
    let passkey = authentication.choose(&device.client, wanted.as_ref()).await?;
    let key = context.unlock(&device, authentication.verification(&passkey))?;
    let response = authentication.run(&device.client, &passkey, key).await?;
    context.out.document(&response);
    Ok(())
}

async fn list(context: &Context, rp_id: Option<&str>, offline: bool) -> Result<(), Failure> {
    let mut passkeys = match offline {
        true => context.unverified()?.client.passkeys()?,
        false => context.device().await?.client.sync().await?,
    };
    let all = passkeys.len();
    passkeys.retain(|passkey| rp_id.is_none_or(|wanted| *passkey.rp_id == *wanted));
    passkeys.sort_by(|one, other| {
        (&one.rp_id, &one.names.name).cmp(&(&other.rp_id, &other.names.name))
    });
    let object = json!({"passkeys": passkeys.iter().map(passkey_json).collect::<Vec<_>>()});
    context.out.result(object, &listed(&passkeys, rp_id, all));
    Ok(())
}

/// Those of `rp_id`, where one was named, out of so many in all.
fn listed(passkeys: &[Passkey], rp_id: Option<&str>, all: usize) -> String {
    let row = |passkey: &Passkey| {
        vec![
            passkey.rp_id.to_string(),
            passkey.names.name.to_string(),
            passkey.names.display_name.to_string(),
            base64url(&passkey.credential.0),
        ]
    };
    let rows: Vec<Vec<String>> = passkeys.iter().map(row).collect();
    match rp_id {
        _ if !rows.is_empty() => table(&["SITE", "USER", "NAME", "CREDENTIAL"], &rows),
        Some(rp_id) if all > 0 => {
            printable(&format!("No passkeys for {rp_id}; all of them: keyfold passkeys list"))
        }
        _ => "No passkeys yet; make one with: keyfold passkeys create --help".into(),
    }
}

pub(super) async fn sync(context: &Context) -> Result<(), Failure> {
    let device = context.device().await?;
    let passkeys = device.client.sync().await?.len();
    let account = device.client.store().load()?.account;
    let vault = account.ok_or(keyfold_client::Error::NotRegistered)?.vault;
    let object = json!({"passkeys": passkeys, "vault": point_json(&vault)});
    let text = format!(
        "In sync: {} at version {}.",
        counted(passkeys, "passkey", "passkeys"),
        vault.version
    );
    context.out.result(object, &text);
    Ok(())
}

async fn rename(
    context: &Context, credential: &str, name: &str, display_name: Option<&str>,
) -> Result<(), Failure> {
    let device = context.device().await?;
    let passkey = find(&device.client.sync().await?, credential)?.clone();
    let display_name = display_name.unwrap_or(&passkey.names.display_name);
    let names = user_names(name, display_name);
    device.client.update_passkey(&passkey.credential, &names).await?;
    let text = format!("The passkey at {} is now {}.", passkey.rp_id, names.name);
    let passkey = Passkey { names, ..passkey };
    context.out.result(json!({"passkey": passkey_json(&passkey)}), &printable(&text));
    Ok(())
}

async fn delete(context: &Context, credential: &str, yes: bool) -> Result<(), Failure> {
    let device = context.device().await?;
    let passkey = find(&device.client.sync().await?, credential)?.clone();
    let whose = format!("{} at {}", passkey.names.name, passkey.rp_id);
    context.agree(yes, &format!("Delete the passkey of {whose} on all devices, for good?"))?;
    context.unlock(&device, Verification::Required)?;
    device.client.delete_passkey(&passkey.credential).await?;
    let text = format!("The passkey of {whose} is deleted.");
    let object = json!({"deleted": passkey_json(&passkey)});
    context.out.result(object, &printable(&text));
    Ok(())
}

/// The one passkey whose credential id starts like this.
fn find<'a>(passkeys: &'a [Passkey], start: &str) -> Result<&'a Passkey, Failure> {
    let fits = |passkey: &&Passkey| base64url(&passkey.credential.0).starts_with(start);
    let mut fitting = passkeys.iter().filter(fits);
    match (fitting.next(), fitting.next()) {
        (Some(passkey), None) if !start.is_empty() => Ok(passkey),
        (None, _) => {
            let message = format!("no passkey's credential id starts with {start:?}; see the list");
            Err(Failure::new(Exit::Refused, "no-such-passkey", message))
        }
        _ => {
            let message = format!("several credential ids start with {start:?}; give more of it");
            Err(Failure::new(Exit::Person, "choose", message))
        }
    }
}

/// What the site sent, from stdin.
fn read_options(context: &Context) -> Result<Vec<u8>, Failure> {
    let stdin = std::io::stdin();
    if stdin.is_terminal() {
        context.out.note("Paste the options that the site sent, then press ctrl-d:");
    }
    let mut input = Vec::new();
    let read = stdin.lock().take(LONGEST_INPUT).read_to_end(&mut input);
    read.map_err(|error| Failure::usage(format!("the options on stdin cannot be read: {error}")))?;
    if input.trim_ascii().is_empty() {
        let what = "no options on stdin; pipe in what the site sent";
        return Err(WebAuthnError::Options(what.into()).into());
    }
    Ok(input)
}

#[cfg(test)]
mod tests {
    use keyfold_protocol::client::Algorithm;
    use keyfold_protocol::ids::{CredentialId, Digest, SlotId, UserHandle};

    use super::*;

    #[test]
    fn none_of_a_site_is_not_none_at_all() {
        assert!(listed(&[], None, 0).starts_with("No passkeys yet"));
        assert!(listed(&[], Some("nosuch.example"), 0).starts_with("No passkeys yet"));
        let text = listed(&[], Some("nosuch.example"), 2);
        assert!(text.starts_with("No passkeys for nosuch.example"), "{text}");
    }

    #[test]
    fn a_passkey_is_found_by_the_beginning_of_its_credential_id() {
        let passkey = |id: u8| Passkey {
            slot: SlotId([id; 32]),
            version: 1,
            record: Digest([0; 32]),
            credential: CredentialId([id; 32]),
            rp_id: "example.org".try_into().unwrap(),
            user_handle: UserHandle::new(),
            names: user_names("ana", "Ana"),
            algorithm: Algorithm::Es256,
        };
        // AQEB..., AAAA..., AgIC...
        let all = [passkey(1), passkey(0), passkey(2)];
        for (start, expected) in [
            ("AQ", Ok(1)),
            ("Ag", Ok(2)),
            ("AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA", Ok(0)),
            ("A", Err("choose")),
            ("", Err("choose")),
            ("aq", Err("no-such-passkey")),
            ("AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA", Err("no-such-passkey")),
        ] {
            let found = find(&all, start);
            let found = found.as_ref().map(|one| one.credential.0[0]).map_err(|error| error.code());
            assert_eq!(found, expected, "{start}");
        }
        assert_eq!(find(&all[..1], "").unwrap_err().code(), "choose");
    }
}
