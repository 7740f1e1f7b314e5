//! Tokens as the service signs them, and every way they can be wrong.

use super::*;
use crate::azure::release::tests::Signer;
use crate::azure::testing::text;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::json;

fn keys(keys: &Value) -> Keys {
    serde_json::from_value(json!({"keys": keys})).expect("keys")
}

fn header(kid: &str) -> Value {
    json!({"alg": "RS256", "typ": "JWT", "kid": kid})
}

#[test]
fn a_token_is_signed_by_one_of_the_services_certificates() {
    let (signer, other) = (Signer::new(), Signer::new());
    let certificate = |signer: &Signer| STANDARD.encode(signer.root("maa"));
    let (ours, foreign) = (certificate(&signer), certificate(&other));
    // Both spellings of one id: the bytes fb ff make a difference in every character.
    let (standard, url_safe) = ("+//7//w=", "-__7__w");
    let key = |kid: &str, x5c: &str| json!({"kid": kid, "kty": "RSA", "x5c": [x5c]});
    let claims = json!({"iss": "x"});
    let token = signer.signed(&header(standard), &claims);
    let found = |published: Value| signed_by(&token, &keys(&published));
    for published in [
        json!([key(standard, &ours)]),
        json!([key(url_safe, &ours)]),
        json!([key("other", &foreign), key(standard, &ours)]),
        // Nothing by that id: any of them.
        json!([key("one", &foreign), key("two", &ours)]),
        json!([key("broken", "AAAA"), {"kty": "RSA"}, key("two", &ours)]),
    ] {
        assert_eq!(found(published.clone()), Ok(claims.clone()), "{published}");
    }
    for published in [
        json!([]),
        json!([key(standard, &foreign)]),
        // The one of that id is meant, and no other.
        json!([key(standard, &foreign), key("other", &ours)]),
        json!([key("broken", "AAAA")]),
    ] {
        let error = found(published.clone()).unwrap_err();
        assert!(error.contains("no certificate of the service verifies"), "{published}: {error}");
    }
}

#[test]
fn a_token_of_another_form_is_refused_before_any_key_is_tried() {
    let signer = Signer::new();
    let published = json!([{"kid": "k", "x5c": [STANDARD.encode(signer.root("maa"))]}]);
    let claims = json!({"iss": "x"});
    let good = signer.signed(&header("k"), &claims);
    let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let rest = format!("{}.{}", part(&claims), good.rsplit('.').next().expect("a signature"));
    for (token, complaint) in [
        ("a.b".to_owned(), "no signed JWT"),
        (format!("{}.{}.", part(&json!({"alg": "none"})), part(&claims)), "not RS256"),
        (format!("{}.{}.", part(&header("k")), part(&claims)), "not RS256"),
        (format!("{}.{rest}", part(&json!({"alg": "HS256"}))), "not RS256"),
        (format!("{}.{rest}", part(&json!({"alg": "RS256", "kid": "x"}))), "no certificate"),
    ] {
        let error = signed_by(&token, &keys(&published)).expect_err(complaint);
        assert!(error.contains(complaint), "{error}");
    }
    assert!(signed_by(&good, &keys(&published)).is_ok());
}

#[test]
fn a_token_holds_between_its_times_and_a_few_minutes() {
    let claims = |nbf: Value, exp: Value| json!({"iat": 1000, "nbf": nbf, "exp": exp});
    let good = claims(1000.into(), 29_800.into());
    for now in [1000 - LEEWAY, 1000, 29_800 + LEEWAY] {
        assert!(in_time(&good, now).is_ok(), "{now}");
    }
    for now in [999 - LEEWAY, 29_801 + LEEWAY] {
        let error = in_time(&good, now).unwrap_err();
        assert!(error.contains(&format!("clock says {now}")), "{error}");
    }
    for (claims, complaint) in [
        (claims(Value::Null, 29_800.into()), "no nbf"),
        (claims(1000.into(), "29800".into()), "no exp"),
    ] {
        assert!(in_time(&claims, 2000).unwrap_err().contains(complaint));
    }
}

#[test]
fn a_token_is_by_the_service_and_about_what_was_sent() {
    let issuer = BaseUrl::parse("https://maa.example/").unwrap();
    for (issued_by, by) in [
        ("https://maa.example", true),
        ("https://maa.example/", true),
        ("https://maa.example.net", false),
        ("http://maa.example", false),
        ("", false),
    ] {
        assert_eq!(is_by(&json!({"iss": issued_by}), &issuer).is_ok(), by, "{issued_by}");
    }

    let (report, claims) = ([5; 1184], br#"{"keyfold":{"role":"release"}}"#);
    let expected = Expected { issuer: &issuer, claims, report: &report, nonce: 17 };
    let good = json!({
        "x-ms-attestation-type": "sevsnpvm", "x-ms-sevsnpvm-is-debuggable": false, "nonce": "17",
        "x-ms-sevsnpvm-reportdata": "05".repeat(64), "x-ms-runtime": {"keyfold": {"role": "release"}},
    });
    assert_eq!(is_about(&good, &expected), Ok(()));
    for (claim, value) in [
        ("x-ms-attestation-type", json!("azurevm")),
        ("x-ms-sevsnpvm-is-debuggable", json!(true)),
        ("x-ms-sevsnpvm-is-debuggable", json!(null)),
        ("nonce", json!("18")),
        ("nonce", json!(17)),
        ("x-ms-sevsnpvm-reportdata", json!("06".repeat(64))),
        ("x-ms-runtime", json!({"keyfold": {"role": "channel"}})),
    ] {
        let mut token = good.clone();
        token[claim] = value;
        let error = is_about(&token, &expected).expect_err(claim);
        assert!(error.contains(claim), "{error}");
    }
}

#[test]
fn the_real_services_keys_are_read_and_its_old_token_is_not_taken() {
    let published: Keys =
        serde_json::from_str(&text("maa/sgx/get.certs.response.body.json")).expect("keys");
    assert_eq!(published.keys.iter().filter_map(Key::public).count(), 5);
    let token = text("maa/sev-snp-jwt.txt");
    let error = signed_by(token.trim(), &published).unwrap_err();
    assert!(error.contains("kid \"jNolL7YTrRkDIukgm3on_fz5uMi9kjxhfUBTh6Or8No\""), "{error}");
    let claims = token.split('.').nth(1).expect("claims");
    let claims = serde_json::from_slice(&base64url(claims).expect("base64url")).expect("JSON");
    assert!(in_time(&claims, unix_now()).unwrap_err().contains("does not hold now"));
    let issuer = BaseUrl::parse("https://sharedweu.weu.test.attest.azure.net").unwrap();
    assert_eq!(is_by(&claims, &issuer), Ok(()));
}
