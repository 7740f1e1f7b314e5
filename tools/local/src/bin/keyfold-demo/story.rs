//! The story itself.

use anyhow::{Context, Result, ensure};
use keyfold_local::Deployment;
use serde_json::Value;
use webauthn_rs::prelude::Passkey;

use crate::device::Device;
use crate::recovery;
use crate::relying_party::{ORIGIN, RelyingParty};
use crate::teller::Teller;

/// Answers a relying party's request options.
pub(crate) const SIGN_IN: [&str; 4] = ["passkeys", "sign-in", "--origin", ORIGIN];
/// base64url of a relying party's PRF salt.
const SALT: &str = "a2V5IG9mIGFuIGVuY3J5cHRlZCBkaWFyeQ";

/// Tells it, on a running deployment.
pub(crate) async fn tell(teller: &mut Teller, deployment: &mut Deployment) -> Result<()> {
    let site = RelyingParty::new()?;
    let laptop = Device::new("laptop", deployment)?;
    let phone = Device::new("phone", deployment)?;

    teller
        .step(
            "Enroll the laptop",
            "The laptop signs in at the identity issuer, verifies the statement and the enclave's evidence \
             field by field, and opens a sealed session that ends inside the enclave. The account counts \
             from the moment the ledger has recorded it.",
            async { laptop.enroll() },
        )
        .await?;
    let passkey = create(teller, &site, &laptop).await?;
    roam(teller, &site, &laptop, &phone, &passkey).await?;
    revoke(teller, &site, &laptop, &phone, &passkey).await?;
    recovery::tell(teller, deployment, &site, &laptop, &passkey).await?;
    let audit = teller
        .step(
            "Verify the audit trail",
            "Every change of who may use the account is one event, chained, its head anchored in the \
             ledger, read with a nonce of this very request: the host can neither leave one out nor show \
             yesterday's.",
            async { laptop.run(&["audit", "--verify"], None) },
        )
        .await?;
    note_events(teller, &audit);
    Ok(())
}

async fn create(teller: &mut Teller, site: &RelyingParty, laptop: &Device) -> Result<Passkey> {
    teller
        .step(
            "Create a passkey at a shop",
            "The shop runs webauthn-rs and knows nothing of Keyfold. The key pair is made inside the \
             enclave and never leaves it; the host stores a sealed record in a slot whose name says nothing.",
            async {
                let (options, state) = site.register()?;
                let create = ["passkeys", "create", "--origin", ORIGIN];
                let response = laptop.run(&create, Some(&options))?;
                site.registered(&response, &state)
            },
        )
        .await
}

async fn roam(
    teller: &mut Teller, site: &RelyingParty, laptop: &Device, phone: &Device, passkey: &Passkey,
) -> Result<()> {
    teller
        .step(
            "Approve the phone",
            "The laptop shows a code; the phone enters it. Under that secret, which never passes the host, \
             the phone's keys go one way and the account the other, so a host can neither slip in a key \
             of its own nor steer the phone into somebody else's account.",
            async { laptop.approve(phone) },
        )
        .await?;
    teller
        .step(
            "Sync the phone",
            "The host hands over every event of the vault; the enclave folds them into a chain and refuses \
             a page in which one is missing, repeated, reordered or old.",
            async { phone.run(&["sync"], None) },
        )
        .await?;
    teller
        .step(
            "Sign in from the phone",
            "The shop verifies the signature, the challenge and the flags.",
            async { site.sign_in(passkey, None, |options| phone.run(&SIGN_IN, Some(options))) },
        )
        .await?;
    teller
        .step(
            "Derive a secret on both devices (PRF)",
            "The shop's page asks for a secret to encrypt with. Both devices get the same one, and only \
             after verifying their user.",
            async {
                let mut secrets = Vec::new();
                for device in [laptop, phone] {
                    let answer = |options: &Value| device.run(&SIGN_IN, Some(options));
                    let results = site.sign_in(passkey, Some(SALT), answer)?;
                    secrets.push(results["prf"]["results"]["first"].clone());
                }
                ensure!(secrets[0].is_string(), "no PRF result: {}", secrets[0]);
                ensure!(secrets[0] == secrets[1], "two devices, two secrets");
                Ok(())
            },
        )
        .await?;
    teller
        .step(
            "Rename on the phone, see it on the laptop",
            "An update names the digest of the record it changes, and the vault's exact point: two devices \
             cannot silently overwrite each other.",
            async {
                let id = credential(phone)?;
                phone.run(&["passkeys", "rename", &id, "--name", "alice (shop)"], None)?;
                let list = laptop.run(&["passkeys", "list"], None)?;
                ensure!(list.to_string().contains("alice (shop)"), "not renamed: {list}");
                Ok(())
            },
        )
        .await
}

fn credential(device: &Device) -> Result<String> {
    let list = device.run(&["passkeys", "list"], None)?;
    let id = list["passkeys"][0]["credential"].as_str();
    Ok(id.with_context(|| format!("no passkey in {list}"))?.to_owned())
}

async fn revoke(
    teller: &mut Teller, site: &RelyingParty, laptop: &Device, phone: &Device, passkey: &Passkey,
) -> Result<()> {
    teller
        .step(
            "Revoke the phone",
            "The laptop's user is verified and signs in again; the ledger records the change; then the \
             laptop raises the vault's floor, so that even a host that rolls back cannot let the phone \
             write to it or read it.",
            async { laptop.run(&["devices", "revoke", "phone", "--yes"], None) },
        )
        .await?;
    let refusal = teller
        .step(
            "The revoked phone is refused",
            "Its keys are on no live list. The laptop signs in as before.",
            async {
                let mut refusal = None;
                let asked = site.sign_in(passkey, None, |options| {
                    refusal = Some(phone.refused(&SIGN_IN, Some(options))?);
                    Ok(Value::Null)
                });
                ensure!(asked.is_err(), "the shop accepted nothing as an answer");
                site.sign_in(passkey, None, |options| laptop.run(&SIGN_IN, Some(options)))?;
                refusal.context("the phone was not refused")
            },
        )
        .await?;
    let said = refusal["message"].as_str().unwrap_or_default();
    teller.note(&format!("the phone was told: {said}"));
    Ok(())
}

/// What happened. A wrong try is two events, and a run of wrong tries one line.
fn note_events(teller: &Teller, audit: &Value) {
    const WRONG: &str = "pin-tried, pin-wrong";
    let mut lines: Vec<(u64, u64, &str)> = Vec::new();
    for event in audit["events"].as_array().into_iter().flatten() {
        let version = event["version"].as_u64().unwrap_or_default();
        let kind = event["kind"].as_str().unwrap_or_default();
        match lines.last_mut() {
            Some(tried) if kind == "pin-wrong" && tried.2 == "pin-tried" => {
                (tried.1, tried.2) = (version, WRONG);
                if let [.., before, _] = &mut lines[..]
                    && before.2 == WRONG
                {
                    before.1 = version;
                    lines.pop();
                }
            }
            _ => lines.push((version, version, kind)),
        }
    }
    for (from, to, what) in lines {
        match from == to {
            true => teller.note(&format!("version {from}: {what}")),
            false => teller.note(&format!("versions {from} to {to}: {what}")),
        }
    }
}
