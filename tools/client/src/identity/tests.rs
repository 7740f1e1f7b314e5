//! Signing in: what is accepted, and each thing that is not.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use jsonwebtoken::Header;
use serde_json::{Value, json};

use super::*;
use crate::http;
use crate::testing::{Issuer as Fake, World};

fn statement_identity(fake: &Fake) -> Issuer {
    let json = json!({"issuer": fake.url, "client_id": "keyfold-cli", "audience": "keyfold-cli"});
    serde_json::from_value(json).unwrap()
}

fn sign_ins(directory: &tempfile::TempDir, source: impl TokenSource + 'static) -> SignIns {
    let store = Store::open(directory.path().join("account")).unwrap();
    SignIns::new(http::client().unwrap(), store, Arc::new(source))
}

async fn ask(fake: &Fake, fresh: bool) -> Result<Arc<SignIn>, Error> {
    let directory = tempfile::tempdir().unwrap();
    let sign_ins = sign_ins(&directory, DevSignIn::new("ana").unwrap());
    sign_ins.get(&statement_identity(fake), fresh).await
}

#[tokio::test]
async fn the_account_is_the_hash_of_issuer_and_subject() {
    let fake = Fake::start().await;
    let sign_in = ask(&fake, false).await.unwrap();
    let length = (fake.url.len() as u64).to_be_bytes();
    let parts = [b"keyfold/account/1", &length[..], fake.url.as_bytes(), b"subject of ana"];
    assert_eq!(sign_in.account_id().0, crypto::sha256(&parts));
    assert_eq!(fake.last_form()["grant_type"], "urn:keyfold:dev:sign-in");
}

#[tokio::test]
async fn every_wrong_token_is_refused() {
    type Edit = fn(&mut Header, &mut Value);
    let cases: [(&str, bool, Edit); 16] = [
        ("issuer", false, |_, claims| claims["iss"] = "https://evil.example".into()),
        ("audience", false, |_, claims| claims["aud"] = "another-app".into()),
        ("no audience", false, |_, claims| drop(claims.as_object_mut().unwrap().remove("aud"))),
        ("nonce", false, |_, claims| claims["nonce"] = "another".into()),
        ("no nonce", false, |_, claims| drop(claims.as_object_mut().unwrap().remove("nonce"))),
        ("expired", false, |_, claims| claims["exp"] = (now_seconds() - 120).into()),
        ("no expiry", false, |_, claims| drop(claims.as_object_mut().unwrap().remove("exp"))),
        ("not yet", false, |_, claims| claims["nbf"] = (now_seconds() + 3600).into()),
        ("no subject", false, |_, claims| claims["sub"] = "".into()),
        ("other party", false, |_, claims| claims["azp"] = "another-app".into()),
        ("several audiences", false, |_, claims| claims["aud"] = json!(["keyfold-cli", "b"])),
        ("key id", false, |header, _| header.kid = Some("k9".into())),
        ("symmetric", false, |header, _| header.alg = jsonwebtoken::Algorithm::HS256),
        ("not fresh", true, |_, claims| claims["auth_time"] = (now_seconds() - 900).into()),
        ("no time", true, |_, claims| drop(claims.as_object_mut().unwrap().remove("auth_time"))),
        ("subject not text", false, |_, claims| claims["sub"] = 7.into()),
    ];
    for (what, fresh, edit) in cases {
        let fake = Fake::start().await;
        fake.edit(edit);
        match ask(&fake, fresh).await {
            Err(Error::Identity(IdentityError::Token(_))) => {}
            other => panic!("{what}: {:?}", other.err()),
        }
    }
    // The same without an edit, fresh or not, is accepted: the table tests what it says.
    let fake = Fake::start().await;
    assert!(ask(&fake, true).await.is_ok());
    fake.edit(|_, claims| {
        claims["aud"] = json!(["keyfold-cli", "b"]);
        claims["azp"] = "keyfold-cli".into();
    });
    assert!(ask(&fake, false).await.is_ok());
}

fn now_seconds() -> u64 {
    now().unwrap().unix_seconds()
}

#[tokio::test]
async fn a_signature_by_another_key_is_refused() {
    let fake = Fake::start().await;
    fake.sign_with_unpublished_key();
    let refused = ask(&fake, false).await;
    assert!(matches!(refused, Err(Error::Identity(IdentityError::Token(_)))));
}

#[tokio::test]
async fn a_discovery_document_of_another_issuer_is_refused() {
    let fake = Fake::start().await;
    let document = |issuer: &str, token: &str| {
        json!({"issuer": issuer, "authorization_endpoint": token, "token_endpoint": token,
            "jwks_uri": token})
    };
    let slash = format!("{}/", fake.url);
    for (issuer, endpoint, expected) in [
        ("https://evil.example", "https://127.0.0.1:1/token", "discovery document is of"),
        (slash.as_str(), "https://127.0.0.1:1/token", "discovery document is of"),
        (fake.url.as_str(), "http://evil.example/token", "is no https URL"),
    ] {
        fake.set_discovery(document(issuer, endpoint));
        match ask(&fake, false).await {
            Err(Error::Identity(IdentityError::Issuer { reason, .. })) => {
                assert!(reason.contains(expected), "{issuer} {endpoint}: {reason}");
            }
            other => panic!("{issuer} {endpoint}: {:?}", other.err()),
        }
        assert_eq!(fake.sign_ins(), 0);
    }
}

#[tokio::test]
async fn the_issuers_refusal_is_told() {
    let fake = Fake::start().await;
    let directory = tempfile::tempdir().unwrap();
    let sign_ins = sign_ins(&directory, DevSignIn::new("nobody").unwrap());
    let refused = sign_ins.get(&statement_identity(&fake), false).await.err().unwrap();
    assert!(refused.to_string().contains("access_denied: unknown person"), "{refused}");
}

#[tokio::test]
async fn a_sign_in_is_kept_until_it_ends_is_too_old_or_is_refused() {
    let fake = Fake::start().await;
    let identity = statement_identity(&fake);
    let directory = tempfile::tempdir().unwrap();
    let first = sign_ins(&directory, DevSignIn::new("ana").unwrap());
    first.get(&identity, false).await.unwrap();
    first.get(&identity, true).await.unwrap();
    // Another process finds it.
    let second = sign_ins(&directory, DevSignIn::new("ana").unwrap());
    second.get(&identity, false).await.unwrap();
    assert_eq!(fake.sign_ins(), 1);
    second.forget().await;
    second.get(&identity, false).await.unwrap();
    assert_eq!(fake.sign_ins(), 2);

    // Five minutes old: good for reading, not for revoking.
    fake.edit(|_, claims| claims["auth_time"] = (now_seconds() - 280).into());
    second.forget().await;
    second.get(&identity, false).await.unwrap();
    second.get(&identity, false).await.unwrap();
    assert_eq!(fake.sign_ins(), 3);
    fake.edit(|_, _| {});
    second.get(&identity, true).await.unwrap();
    assert_eq!(fake.sign_ins(), 4);

    // About to end, or of another issuer: asked again.
    fake.edit(|_, claims| claims["exp"] = (now_seconds() + 30).into());
    second.forget().await;
    second.get(&identity, false).await.unwrap();
    second.get(&identity, false).await.unwrap();
    assert_eq!(fake.sign_ins(), 6);
    let other = Fake::start().await;
    second.get(&statement_identity(&other), false).await.unwrap();
    assert_eq!(other.sign_ins(), 1);
}

/// Follows the authorization URL as a browser would, after `before` has had its way.
fn browser(
    fake: &Fake, redirects: impl Fn(&str, &str) -> Vec<String> + Send + Sync + 'static,
) -> Browser {
    let fake = fake.clone();
    Browser::new(move |url| {
        let url = reqwest::Url::parse(url).unwrap();
        let value = |name: &str| {
            let mut pairs = url.query_pairs();
            pairs.find(|(key, _)| key == name).map(|(_, value)| value.into_owned())
        };
        assert_eq!(value("response_type").as_deref(), Some("code"));
        assert_eq!(value("code_challenge_method").as_deref(), Some("S256"));
        fake.set_nonce(&value("nonce").unwrap());
        let (redirect, state) = (value("redirect_uri").unwrap(), value("state").unwrap());
        assert!(redirect.starts_with("http://127.0.0.1:"));
        let targets = redirects(&redirect, &state);
        tokio::spawn(async move {
            for target in targets {
                let _ = http::client().unwrap().get(target).send().await;
            }
        });
    })
    .unwrap()
}

#[tokio::test]
async fn the_browser_brings_a_code_that_only_this_client_can_redeem() {
    let fake = Fake::start().await;
    let directory = tempfile::tempdir().unwrap();
    let strangers = AtomicUsize::new(0);
    let source = browser(&fake, move |redirect, state| {
        strangers.fetch_add(1, Ordering::Relaxed);
        vec![
            redirect.replace("/callback", "/favicon.ico"),
            format!("{redirect}?code=forged&state=wrong"),
            format!("{redirect}?code=forged"),
            format!("{redirect}?code=a&code=b&state={state}&state={state}"),
            format!("{redirect}?code=genuine&state={state}"),
        ]
    });
    let sign_ins = sign_ins(&directory, source);
    sign_ins.get(&statement_identity(&fake), true).await.unwrap();
    let form = fake.last_form();
    assert_eq!(form["grant_type"], "authorization_code");
    assert_eq!(form["code"], "genuine");
    assert_eq!(form["client_id"], "keyfold-cli");
    assert!((43..=128).contains(&form["code_verifier"].len()));
    assert_eq!(fake.sign_ins(), 1);
}

#[tokio::test]
async fn a_refusal_in_the_browser_and_an_answer_of_another_issuer_end_the_sign_in() {
    for (answer, expected) in [
        ("error=access_denied&error_description=no", "access_denied: no"),
        ("code=c&iss=https%3A%2F%2Fevil.example", "another issuer"),
    ] {
        let fake = Fake::start().await;
        let directory = tempfile::tempdir().unwrap();
        let source = browser(&fake, move |to, state| vec![format!("{to}?state={state}&{answer}")]);
        let sign_ins = sign_ins(&directory, source);
        let refused = sign_ins.get(&statement_identity(&fake), false).await.err().unwrap();
        assert!(refused.to_string().contains(expected), "{refused}");
        assert_eq!(fake.sign_ins(), 0);
    }
}

#[tokio::test]
async fn nobody_signs_in_at_a_host_that_is_not_verified() {
    let world = World::start().await;
    world.serve_statement(|statement| statement["url"] = "https://elsewhere.example".into());
    let client = world.client("a", "ana");
    assert!(matches!(client.signed_in(false).await, Err(Error::Deployment(_))));
    assert_eq!(world.issuer.sign_ins(), 0);
    assert_eq!(world.log(), ["deployment"]);
}
