//! Registrations and sign-ins at relying parties that this project did not write: what they asked
//! for is accepted, from either device, and nothing else is.

use serde_json::{Value, json};

use crate::common;
use crate::device::{Device, failure};
use crate::relying_party::{
    Accepted, Ceremony, EDDSA, ES256, ORIGIN, OTHER_ORIGIN, RP_ID, RelyingParty,
};
use crate::response::{
    ANYWHERE, AT, AT_REGISTRATION, AT_SIGN_IN, Alteration, BE, BS, UP, UV, flags,
};

/// RS256, which Keyfold does not have.
const RS256: i32 = -257;

/// What a site asks for, whether the person is there, and what it gets.
struct Case {
    offered: &'static [i32],
    user_verification: &'static str,
    attended: bool,
    algorithm: i32,
    user_verified: bool,
}

const fn case(
    offered: &'static [i32], user_verification: &'static str, attended: bool, algorithm: i32,
    user_verified: bool,
) -> Case {
    Case { offered, user_verification, attended, algorithm, user_verified }
}

const CASES: [Case; 10] = [
    case(&[ES256, EDDSA], "required", true, ES256, true),
    case(&[ES256, EDDSA], "preferred", true, ES256, true),
    case(&[ES256, EDDSA], "preferred", false, ES256, false),
    case(&[ES256, EDDSA], "discouraged", true, ES256, false),
    case(&[RS256, ES256], "required", true, ES256, true),
    case(&[EDDSA, ES256], "required", true, EDDSA, true),
    case(&[EDDSA, ES256], "preferred", true, EDDSA, true),
    case(&[EDDSA, ES256], "preferred", false, EDDSA, false),
    case(&[EDDSA], "discouraged", true, EDDSA, false),
    case(&[RS256, EDDSA, ES256], "discouraged", false, EDDSA, false),
];

#[tokio::test]
async fn webauthn_rs() {
    // It verifies no Ed25519 signatures.
    every_ceremony("e2e-webauthn-rs", RelyingParty::webauthn_rs(), &[ES256]).await;
}

#[tokio::test]
async fn simplewebauthn() {
    every_ceremony("e2e-simplewebauthn", RelyingParty::simplewebauthn(), &[ES256, EDDSA]).await;
}

#[tokio::test]
async fn py_webauthn() {
    every_ceremony("e2e-py-webauthn", RelyingParty::py_webauthn(), &[ES256, EDDSA]).await;
}

async fn every_ceremony(name: &str, mut site: RelyingParty, algorithms: &[i32]) {
    let deployment = common::deployment(name).await;
    let laptop = Device::new("alice", "laptop", &deployment, &deployment.trust_root);
    let phone = Device::new("alice", "phone", &deployment, &deployment.trust_root);
    laptop.enroll();
    phone.join_through(&laptop);
    for case in CASES.iter().filter(|case| algorithms.contains(&case.algorithm)) {
        accepted(&mut site, case, &laptop, &phone);
    }
    for algorithm in algorithms {
        altered_registrations(&mut site, *algorithm, &laptop);
        altered_sign_ins(&mut site, *algorithm, &laptop, &phone);
        prf(&mut site, *algorithm, &laptop, &phone);
    }
    what_cannot_be_answered(&mut site, &laptop);
}

/// A registration on one device and a sign-in on the other are what the site asked for.
fn accepted(site: &mut RelyingParty, case: &Case, laptop: &Device, phone: &Device) {
    let Case { offered, user_verification, attended, .. } = *case;
    let what = format!("{offered:?}, {user_verification}, attended: {attended}");
    let person = |device: &Device| if attended { device.clone() } else { device.unattended() };
    let asked = site.register(&what, offered, user_verification, json!({"credProps": true}));
    let response = person(laptop).create(&asked.options);
    let verified = if case.user_verified { UV } else { 0 };
    assert_eq!(flags(&response), UP | BE | BS | AT | verified, "{what}");
    assert_eq!(response["response"]["publicKeyAlgorithm"], case.algorithm, "{what}");
    let credential = response["id"].as_str().expect("an id");
    let expected = || {
        let credential = credential.to_owned();
        Ok(Accepted { credential, algorithm: case.algorithm, user_verified: case.user_verified })
    };
    assert_eq!(site.finish(&asked, &response), expected(), "{what}");

    let asked = site.authenticate(credential, user_verification, json!({}));
    let response = person(phone).sign_in(&asked.options);
    assert_eq!(flags(&response), UP | BE | BS | verified, "{what}");
    assert_eq!(site.finish(&asked, &response), expected(), "{what}");
}

/// That the site refuses each alteration of a response that it accepts as it is.
fn refuses(
    site: &mut RelyingParty, asked: &Ceremony, response: &Value, alterations: &[&[Alteration]],
) {
    for (what, alter) in alterations.iter().copied().flatten() {
        let altered = alter(response);
        assert_ne!(altered, *response, "{what} was not altered");
        if let Ok(accepted) = site.finish(asked, &altered) {
            panic!("{what} was altered and the site accepted {accepted:?}");
        }
    }
    site.finish(asked, response).expect("what was not altered is accepted");
}

fn altered_registrations(site: &mut RelyingParty, algorithm: i32, laptop: &Device) {
    let user = format!("altered {algorithm}");
    let mut register = || site.register(&user, &[algorithm], "required", json!({}));
    let (asked, other) = (register(), register());
    // Answers that the client gives in earnest, to other questions than the site's.
    let altered = |change: fn(&mut Value)| {
        let mut options = asked.options.clone();
        change(&mut options);
        options
    };
    let other_algorithm: fn(&mut Value) = match algorithm {
        ES256 => |it| it["pubKeyCredParams"] = json!([{"type": "public-key", "alg": EDDSA}]),
        _ => |it| it["pubKeyCredParams"] = json!([{"type": "public-key", "alg": ES256}]),
    };
    let sub_domain: fn(&mut Value) = |it| it["rp"]["id"] = json!("www.shop.example");
    let unverified: fn(&mut Value) =
        |it| it["authenticatorSelection"]["userVerification"] = json!("discouraged");
    for (what, options, origin) in [
        // First: what comes later replaces a passkey, which is for verified users only.
        ("no user verification", altered(unverified), ORIGIN),
        ("another origin", asked.options.clone(), OTHER_ORIGIN),
        ("another challenge", other.options.clone(), ORIGIN),
        ("another rp id", altered(sub_domain), ORIGIN),
        ("another algorithm", altered(other_algorithm), ORIGIN),
    ] {
        let output = laptop.ceremony("create", origin, &options);
        assert!(output.status.success(), "{what}: {}", String::from_utf8_lossy(&output.stderr));
        let response = serde_json::from_slice(&output.stdout).expect("a response");
        if let Ok(accepted) = site.finish(&asked, &response) {
            panic!("a registration with {what}, and the site accepted {accepted:?}");
        }
    }
    let response = laptop.create(&asked.options);
    refuses(site, &asked, &response, &[&ANYWHERE, &AT_REGISTRATION]);
}

fn altered_sign_ins(site: &mut RelyingParty, algorithm: i32, laptop: &Device, phone: &Device) {
    let credentials = ["one", "other"].map(|user| {
        let user = format!("{user} {algorithm}");
        let asked = site.register(&user, &[algorithm], "required", json!({}));
        let response = laptop.create(&asked.options);
        site.finish(&asked, &response).expect("accepted").credential
    });
    let [one, other] = &credentials;
    let asked = site.authenticate(one, "required", json!({}));
    let again = site.authenticate(one, "required", json!({}));
    let another = site.authenticate(other, "required", json!({}));
    let mut unverified = asked.options.clone();
    unverified["userVerification"] = json!("discouraged");
    for (what, options, origin) in [
        ("another origin", &asked.options, OTHER_ORIGIN),
        ("another challenge", &again.options, ORIGIN),
        ("another passkey", &another.options, ORIGIN),
        ("no user verification", &unverified, ORIGIN),
    ] {
        let output = phone.ceremony("sign-in", origin, options);
        assert!(output.status.success(), "{what}: {}", String::from_utf8_lossy(&output.stderr));
        let mut response: Value = serde_json::from_slice(&output.stdout).expect("a response");
        if let Ok(accepted) = site.finish(&asked, &response) {
            panic!("a sign-in with {what}, and the site accepted {accepted:?}");
        }
        // Whoever signed, under the name that the site asked for.
        response["id"] = json!(one);
        response["rawId"] = json!(one);
        assert!(site.finish(&asked, &response).is_err(), "{what}, under the passkey's own id");
    }
    // The client itself has no passkey for another relying party id.
    let mut options = asked.options.clone();
    options["rpId"] = json!("www.shop.example");
    let output = phone.ceremony("sign-in", ORIGIN, &options);
    failure(&output, "another rp id", 9, "no-passkey");

    let response = phone.sign_in(&asked.options);
    refuses(site, &asked, &response, &[&ANYWHERE, &AT_SIGN_IN]);
}

/// Secrets for the site: at creation and at sign-in, the same on both devices.
fn prf(site: &mut RelyingParty, algorithm: i32, laptop: &Device, phone: &Device) {
    let (one, two) = ("b25l", "dHdv");
    let both = json!({"prf": {"eval": {"first": one, "second": two}}});
    let results = |response: &Value| {
        let results = &response["clientExtensionResults"]["prf"]["results"];
        ["first", "second"].map(|name| results[name].as_str().map(str::to_owned))
    };
    let asked =
        site.register(&format!("prf {algorithm}"), &[algorithm], "discouraged", both.clone());
    let response = laptop.create(&asked.options);
    let credential = site.finish(&asked, &response).expect("accepted").credential;
    assert_eq!(response["clientExtensionResults"]["prf"]["enabled"], true);
    let [first, second] = results(&response);
    assert_eq!(first.as_deref().map(|it| crate::from_base64url(it).len()), Some(32));
    assert!(second.is_some() && first != second);

    let by_credential = |salt: &str| {
        json!({"prf": {
            "eval": {"first": one},
            "evalByCredential": {&credential: {"first": salt}},
        }})
    };
    for device in [laptop, phone] {
        for (extensions, expected) in [
            (both.clone(), [&first, &second]),
            (json!({"prf": {"eval": {"first": two}}}), [&second, &None]),
            (by_credential(two), [&second, &None]),
            (by_credential(one), [&first, &None]),
            (json!({"prf": {}}), [&None, &None]),
            (json!({}), [&None, &None]),
        ] {
            let asked = site.authenticate(&credential, "preferred", extensions.clone());
            let response = device.sign_in(&asked.options);
            site.finish(&asked, &response).expect("accepted");
            assert_eq!(results(&response).each_ref(), expected, "{}: {extensions}", device.name);
        }
        // Nobody there, no secret.
        let asked = site.authenticate(&credential, "discouraged", both.clone());
        let output = device.unattended().ceremony("sign-in", ORIGIN, &asked.options);
        failure(&output, "PRF without user verification", 4, "no-passphrase");
    }

    let asked = site.register(&format!("other {algorithm}"), &[algorithm], "required", both);
    let [others, _] = results(&laptop.create(&asked.options));
    assert!(others.is_some() && others != first, "two passkeys, one secret");
}

/// Where the client has to say no, it says which no.
fn what_cannot_be_answered(site: &mut RelyingParty, laptop: &Device) {
    let asked = site.register("never", &[ES256], "required", json!({}));
    let create =
        |device: &Device, origin: &str, options: &Value| device.ceremony("create", origin, options);
    let output = create(&laptop.unattended(), ORIGIN, &asked.options);
    failure(&output, "user verification by nobody", 4, "no-passphrase");
    let output = create(laptop, "https://shop.example.org", &asked.options);
    failure(&output, "another site", 9, "origin-refused");
    let output = create(laptop, &format!("http://{RP_ID}"), &asked.options);
    failure(&output, "no https", 9, "origin-refused");
    let only_rsa = site.register("never", &[RS256], "required", json!({}));
    let output = create(laptop, ORIGIN, &only_rsa.options);
    failure(&output, "an algorithm that Keyfold lacks", 9, "refused-unsupported-algorithm");

    let mut excluding = site.register("twice", &[ES256], "required", json!({}));
    let response = laptop.create(&excluding.options);
    excluding.options["excludeCredentials"] = json!([{"type": "public-key", "id": response["id"]}]);
    let output = create(laptop, ORIGIN, &excluding.options);
    failure(&output, "an excluded passkey", 9, "excluded");
}
