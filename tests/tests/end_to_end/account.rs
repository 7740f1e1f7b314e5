//! An account's life: devices join by a code, share passkeys, and leave; its owner sees all of it.

use std::process::Child;
use std::time::Duration;

use serde_json::{Value, json};

use crate::common;
use crate::device::{Device, failure};
use crate::relying_party::{ES256, ORIGIN, RelyingParty};

/// Long enough for whatever would happen by mistake.
const A_WHILE: Duration = Duration::from_secs(2);

#[tokio::test]
async fn devices_join_by_code_share_passkeys_and_leave() {
    let deployment = common::deployment("e2e-account").await;
    let device = |person, name| Device::new(person, name, &deployment, &deployment.trust_root);
    let (laptop, phone) = (device("alice", "laptop"), device("alice", "phone"));
    let opened = laptop.enroll();
    assert_eq!((&opened["guard"], &opened["simulated"]), (&json!(1), &json!(true)));
    laptop.fails(&laptop.enrolling().each_ref().map(String::as_str), 4, "already-registered");
    let second = device("alice", "second");
    second.fails(&second.enrolling().each_ref().map(String::as_str), 4, "account-exists");

    laptop.in_hands_of("mallory").fails(&["status"], 6, "other-account");

    wrong_codes(&laptop, &phone, &device("mallory", "phone"));
    let declining = laptop.decline();
    let declined = phone.join(&declining.code).wait_with_output().expect("keyfold ends");
    failure(&declined, "a device that is not approved", 9, "pairing-declined");
    drop(declining);
    let approval = laptop.approve();
    let code = approval.code.clone();
    let joined = phone.join(&code).wait_with_output().expect("keyfold ends");
    assert!(joined.status.success(), "{}", String::from_utf8_lossy(&joined.stderr));
    assert_eq!(names(&approval.done()), ["laptop", "phone"]);
    let again = device("alice", "tablet").join(&code).wait_with_output().expect("keyfold ends");
    failure(&again, "a code that was used", 9, "pairing-used");

    let mut site = RelyingParty::webauthn_rs();
    let credential = passkeys_are_shared(&mut site, &laptop, &phone);
    let bob = device("bob", "laptop");
    bob.enroll();
    assert_eq!(bob.ok(&["passkeys", "list"])["passkeys"], json!([]), "somebody else's passkeys");

    for device in [&laptop, &phone] {
        assert_eq!(names(&device.ok(&["status"])), ["laptop", "phone"]);
        let health = device.ok(&["doctor"]);
        assert_eq!(health["healthy"], true, "{health}");
    }
    revoked(&mut site, &credential, &laptop, &phone);
    history(&laptop);
}

/// Its devices, oldest first.
pub(crate) fn names(overview: &Value) -> Vec<&str> {
    let devices = overview["devices"].as_array().into_iter().flatten();
    devices.map(|device| device["name"].as_str().expect("a name")).collect()
}

/// Whoever enters another code, or is another person, changes nothing and hears nothing.
fn wrong_codes(laptop: &Device, phone: &Device, mallory: &Device) {
    let expired = laptop.approve().code.clone();
    let mut approval = laptop.approve();
    let mut mistyped = approval.code.clone();
    let last = mistyped.pop().expect("a character");
    mistyped.push(if last == '0' { '1' } else { '0' });
    for (what, code) in [("mistyped", mistyped.as_str()), ("no code", "open sesame"), ("", "")] {
        let output = phone.join(code).wait_with_output().expect("keyfold ends");
        failure(&output, what, 2, "pairing-code");
    }
    let mut waiting =
        [("expired", phone.join(&expired)), ("mallory", mallory.join(&approval.code))];
    std::thread::sleep(A_WHILE);
    for (what, child) in &mut waiting {
        assert!(child.try_wait().expect("a status").is_none(), "{what}: it ended");
        stop(child);
    }
    assert!(approval.is_waiting(), "somebody was let in");
    drop(approval);
    assert_eq!(names(&laptop.ok(&["devices", "list"])), ["laptop"]);
    phone.fails(&["sync"], 4, "not-registered");
    mallory.fails(&["sync"], 4, "not-registered");
}

fn stop(child: &mut Child) {
    child.kill().and_then(|()| child.wait()).expect("it can be stopped");
}

/// What one device makes, names or deletes, the other has. Leaves one passkey; its id.
fn passkeys_are_shared(site: &mut RelyingParty, laptop: &Device, phone: &Device) -> String {
    let mut create = |device: &Device, user: &str| {
        let asked = site.register(user, &[ES256], "required", json!({}));
        site.finish(&asked, &device.create(&asked.options)).expect("accepted").credential
    };
    let (kept, gone) = (create(laptop, "kept"), create(phone, "gone"));
    let users = |device: &Device| {
        let list = device.ok(&["passkeys", "list"]);
        let all = list["passkeys"].as_array().into_iter().flatten();
        let mut names: Vec<_> =
            all.map(|one| (one["credential"].clone(), one["name"].clone())).collect();
        names.sort_by_key(|(_, name)| name.to_string());
        names
    };
    let both = [(json!(gone), json!("gone")), (json!(kept), json!("kept"))];
    assert_eq!(users(laptop), both);
    assert_eq!(users(phone), both);

    // Whoever only holds a device puts no other passkey in a passkey's place.
    let asked = site.register("kept", &[ES256], "discouraged", json!({}));
    let thief = phone.unattended().ceremony("create", ORIGIN, &asked.options);
    failure(&thief, "replaced by presence", 4, "no-passphrase");
    assert_eq!(users(laptop), both);

    phone.ok(&["passkeys", "rename", &kept, "--name", "alice at the shop"]);
    laptop.ok(&["passkeys", "delete", &gone, "--yes"]);
    let one = [(json!(kept), json!("alice at the shop"))];
    assert_eq!(users(laptop), one);
    assert_eq!(users(phone), one);
    // Deleted is deleted, on the device that made it too.
    let asked = site.authenticate(&gone, "required", json!({}));
    failure(&phone.ceremony("sign-in", ORIGIN, &asked.options), "deleted", 9, "no-passkey");
    phone.fails(&["passkeys", "delete", &gone, "--yes"], 9, "no-such-passkey");
    kept
}

fn revoked(site: &mut RelyingParty, credential: &str, laptop: &Device, phone: &Device) {
    let sign_in = |site: &mut RelyingParty, device: &Device| {
        let asked = site.authenticate(credential, "required", json!({}));
        (device.ceremony("sign-in", ORIGIN, &asked.options), asked)
    };
    for device in [laptop, phone] {
        assert!(sign_in(site, device).0.status.success(), "{}", device.name);
    }
    let gone = laptop.ok(&["devices", "revoke", "phone", "--yes"]);
    assert_eq!((&gone["revoked"]["name"], &gone["vault_touched"]), (&json!("phone"), &json!(true)));
    failure(&sign_in(site, phone).0, "revoked", 9, "refused-unauthorised");
    for command in [&["sync"][..], &["status"], &["audit"], &["anchor"]] {
        phone.fails(command, 9, "refused-unauthorised");
    }
    phone.fails(&["doctor"], 1, "unhealthy");
    let (output, asked) = sign_in(site, laptop);
    let response = serde_json::from_slice(&output.stdout).expect("a response");
    site.finish(&asked, &response).expect("the laptop goes on");
}

fn history(laptop: &Device) {
    let audit = laptop.ok(&["audit", "--verify"]);
    let events = audit["events"].as_array().into_iter().flatten();
    let kinds: Vec<_> = events.map(|event| event["kind"].as_str().expect("a kind")).collect();
    assert_eq!(kinds, ["enrolled", "device-added", "device-revoked"]);
    let verified = &audit["verified"];
    assert_eq!((&verified["events"], &verified["devices"]), (&json!(3), &json!(1)));
    laptop.ok(&["anchor"]);
    let status = laptop.ok(&["status"]);
    assert_eq!((&status["guard"], &status["anchor"]), (&json!(4), &status["vault"]));
}
