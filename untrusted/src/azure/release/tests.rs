//! A release as the service signs it, and every way it can be wrong.

use super::*;
use crate::azure::testing::vector;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::KeyPair as RsaKeyPair;
use aws_lc_rs::signature::RSA_PKCS1_SHA256;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, PKCS_RSA_SHA256,
    date_time_ymd,
};
use serde_json::json;

const ENDPOINT: &str = "example.managedhsm.azure.net";

/// One key for every certificate: making RSA keys takes long, and names tell them apart.
pub(in crate::azure) struct Signer {
    key: KeyPair,
}

impl Signer {
    pub(in crate::azure) fn new() -> Self {
        Self { key: KeyPair::generate_for(&PKCS_RSA_SHA256).expect("a key") }
    }

    fn params(name: &str, names: &[&str], ca: bool) -> CertificateParams {
        let names: Vec<_> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut params = CertificateParams::new(names).expect("names");
        params.distinguished_name.push(DnType::CommonName, name);
        if ca {
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        }
        params
    }

    pub(in crate::azure) fn root(&self, name: &str) -> Vec<u8> {
        let params = Self::params(name, &[], true);
        params.self_signed(&self.key).expect("a certificate").der().to_vec()
    }

    fn issued(&self, params: CertificateParams, issuer: &str) -> Vec<u8> {
        let issuer = Issuer::new(Self::params(issuer, &[], true), &self.key);
        params.signed_by(&self.key, &issuer).expect("a certificate").der().to_vec()
    }

    /// A release under this chain, as the service names it in the header.
    fn jws(&self, mut header: Value, chain: &[Vec<u8>], payload: &Value) -> String {
        let certificates: Vec<_> = chain.iter().map(|der| STANDARD.encode(der)).collect();
        let leaf = chain.first().map(|leaf| URL_SAFE_NO_PAD.encode(sha256(&[leaf])));
        for (name, value) in
            [("x5c", json!(certificates)), ("kid", json!(leaf.clone())), ("x5t#S256", json!(leaf))]
        {
            if header[name].is_null() {
                header[name] = value;
            }
        }
        self.signed(&header, payload)
    }

    pub(in crate::azure) fn signed(&self, header: &Value, payload: &Value) -> String {
        let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let signed = format!("{}.{}", part(header), part(payload));
        let key = RsaKeyPair::from_pkcs8(self.key.serialized_der()).expect("the key");
        let mut signature = vec![0; key.public_modulus_len()];
        key.sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), signed.as_bytes(), &mut signature)
            .expect("a signature");
        format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature))
    }
}

const ASKED: Asked = Asked {
    endpoint: ENDPOINT,
    key_name: "root",
    key_version: "",
    enc: "RSA_AES_KEY_WRAP_256",
    nonce: "nonce",
    wrapped_to: "kek",
    modulus: 384,
};
const KID: &str = "https://example.managedhsm.azure.net/keys/root/v1";
const WRAPPED: [u8; 424] = [7; 424];

fn key_hsm(alter: impl Fn(&mut Value)) -> String {
    let mut key_hsm = json!({
        "schema_version": "1.0",
        "header": {"kid": "kek", "alg": "dir", "enc": "RSA_AES_KEY_WRAP_256"},
        "ciphertext": URL_SAFE_NO_PAD.encode(WRAPPED),
    });
    alter(&mut key_hsm);
    URL_SAFE_NO_PAD.encode(key_hsm.to_string())
}

fn payload() -> Value {
    json!({
        "request": {"api-version": "7.4", "enc": "RSA_AES_KEY_WRAP_256", "kid": KID, "nonce": "nonce"},
        "response": {"key": {
            "key": {"kid": KID, "kty": "oct-HSM", "key_hsm": key_hsm(|_| {})},
            "release_policy": {"data": URL_SAFE_NO_PAD.encode("{}")},
        }},
    })
}

#[test]
fn a_release_is_accepted_and_every_flaw_of_one_refused() {
    let signer = Signer::new();
    let wildcard = format!("*.{ENDPOINT}");
    let leaf = |names: &[&str]| Signer::params("leaf", names, false);
    let root = signer.root("root");
    let middle = signer.issued(Signer::params("middle", &[], true), "root");
    let good = signer.issued(leaf(&[&wildcard]), "middle");
    let roots = Roots(vec![root.clone()]);
    let rs256 = || json!({"alg": "RS256"});
    let chain = [good.clone(), middle.clone(), root.clone()];
    let accepted =
        Ok(Answer { wrapped: WRAPPED.to_vec(), kid: KID.to_owned(), policy: Some(b"{}".to_vec()) });
    for chain in [&chain[..], &chain[..2]] {
        let jws = signer.jws(rs256(), chain, &payload());
        assert_eq!(verified(&jws, &roots, &ASKED), accepted, "{} certificates", chain.len());
    }

    let expired = |mut params: CertificateParams| {
        params.not_after = date_time_ymd(2020, 1, 1);
        params
    };
    let bad_leaf = |params| [signer.issued(params, "middle"), middle.clone(), root.clone()];
    let no_ca = signer.issued(Signer::params("middle", &[], false), "root");
    let old = signer.issued(expired(Signer::params("middle", &[], true)), "root");
    let of_other = signer.issued(leaf(&[&wildcard]), "other");
    let stranger = signer.root("stranger");
    let other_key = Signer::new().root("root");
    for (what, chain, complaint) in [
        ("expired leaf", bad_leaf(expired(leaf(&[&wildcard]))), "not valid now"),
        ("another's name", bad_leaf(leaf(&["*.other.managedhsm.azure.net"])), "not by example"),
        ("no name", bad_leaf(leaf(&[])), "not by example"),
        ("a deeper name", bad_leaf(leaf(&["*.managedhsm.azure.net"])), "not by example"),
        ("an issuer that is no CA", [good.clone(), no_ca, root.clone()], "not signed by the next"),
        ("an expired issuer", [good.clone(), old, root.clone()], "not signed by the next"),
        ("another issuer", [of_other, middle.clone(), root.clone()], "not signed by the next"),
        ("another root", [good.clone(), middle.clone(), stranger], "not signed by the next"),
    ] {
        // The last case must not pass because `middle` already leads to the root.
        let roots =
            if what == "another root" { Roots(vec![other_key.clone()]) } else { roots.clone() };
        let error = verified(&signer.jws(rs256(), &chain, &payload()), &roots, &ASKED);
        let error = error.expect_err(what);
        assert!(error.contains(complaint), "{what}: {error}");
    }

    let jws = signer.jws(rs256(), &chain, &payload());
    let foreign = Roots(vec![other_key]);
    let error = verified(&signer.jws(rs256(), &chain[..2], &payload()), &foreign, &ASKED);
    assert!(error.unwrap_err().contains("do not chain to azure.hsm_roots"));
    let parts: Vec<_> = jws.split('.').collect();
    let changed = URL_SAFE_NO_PAD.encode(json!({"response": {}}).to_string());
    let changed = format!("{}.{changed}.{}", parts[0], parts[2]);
    for (jws, complaint) in [
        (changed, "signature does not verify"),
        (Signer::new().jws(rs256(), &chain, &payload()), "signature does not verify"),
        (signer.jws(json!({"alg": "none"}), &chain, &payload()), "not RS256"),
        (signer.jws(rs256(), &[], &payload()), "no certificates"),
        (signer.jws(rs256(), &[b"junk".to_vec()], &payload()), "something else than certificates"),
        (signer.jws(json!({"alg": "RS256", "kid": "k"}), &chain, &payload()), "release's kid is"),
        (
            signer.jws(json!({"alg": "RS256", "x5t#S256": "k"}), &chain, &payload()),
            "release's x5t#S256 is",
        ),
        (format!("{}.{}", parts[0], parts[1]), "no JWS"),
    ] {
        let error = verified(&jws, &roots, &ASKED).expect_err(complaint);
        assert!(error.contains(complaint), "{error}");
    }
}

#[test]
fn roots_have_to_be_certificates() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("roots.pem");
    assert!(Roots::read(&path).unwrap_err().contains("roots.pem"));
    for (text, complaint) in [
        ("", "holds no certificate"),
        ("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", "no certificate"),
    ] {
        std::fs::write(&path, text).unwrap();
        let error = Roots::read(&path).unwrap_err();
        assert!(error.contains(complaint), "{error}");
    }
}

#[test]
fn an_answer_to_another_question_is_refused() {
    let signer = Signer::new();
    let root = signer.root("root");
    let params = Signer::params("leaf", &[ENDPOINT], false);
    let chain = [signer.issued(params, "root"), root.clone()];
    let roots = Roots(vec![root]);
    let verdict = |alter: &dyn Fn(&mut Value), asked: &Asked| {
        let mut payload = payload();
        alter(&mut payload);
        verified(&signer.jws(json!({"alg": "RS256"}), &chain, &payload), &roots, asked)
    };
    let versioned = |key_version| Asked { key_version, ..ASKED };
    for asked in [ASKED, versioned("v1")] {
        assert!(verdict(&|_| {}, &asked).is_ok());
        let oct = |payload: &mut Value| payload["response"]["key"]["key"]["kty"] = "oct".into();
        assert!(verdict(&oct, &asked).is_ok());
    }
    let error = verdict(&|_| {}, &versioned("v2")).unwrap_err();
    assert!(error.contains("version v1, not v2"), "{error}");

    let key = |name: &'static str, value: Value| {
        move |payload: &mut Value| payload["response"]["key"]["key"][name] = value.clone()
    };
    let header = |name: &'static str| {
        key("key_hsm", key_hsm(|key_hsm| key_hsm["header"][name] = "other".into()).into())
    };
    let ciphertext = |bytes: &[u8]| {
        let text = URL_SAFE_NO_PAD.encode(bytes);
        key("key_hsm", key_hsm(|key_hsm| key_hsm["ciphertext"] = text.clone().into()).into())
    };
    type Alter<'a> = &'a dyn Fn(&mut Value);
    let table: [(Alter, &str); 13] = [
        (&|payload| payload["request"]["nonce"] = "old".into(), "request.nonce is \"old\""),
        (&|payload| payload["request"]["nonce"] = Value::Null, "request.nonce is null"),
        (&|payload| payload["request"]["enc"] = "CKM".into(), "request.enc"),
        (&key("kid", "https://x/keys/other/v1".into()), "not root"),
        (&key("kid", "https://x/secrets/root/v1".into()), "not root"),
        (&key("kid", Value::Null), "names no key"),
        (&key("kty", "RSA-HSM".into()), "not oct or oct-HSM"),
        (&key("key_hsm", Value::Null), "no key_hsm"),
        (&header("kid"), "key_hsm.header.kid is \"other\", expected \"kek\""),
        (&header("alg"), "key_hsm.header.alg"),
        (&header("enc"), "key_hsm.header.enc"),
        (&ciphertext(&WRAPPED[1..]), "423 bytes, expected 424"),
        (&ciphertext(&[7; 425]), "425 bytes, expected 424"),
    ];
    for (alter, complaint) in table {
        let error = verdict(alter, &ASKED).expect_err(complaint);
        assert!(error.contains(complaint), "{complaint}: {error}");
    }
}

#[test]
fn a_release_of_the_real_service_has_the_shape_that_is_read() {
    let jws = String::from_utf8(vector("skr/mhsm-release-2021.jws")).expect("text");
    let (header, rest) = jws.trim().split_once('.').expect("a JWS");
    let (header, chain) = (json(header).expect("a header"), rest);
    assert!(chain.contains('.'));
    let leaf = header["x5c"][0].as_str().and_then(|der| STANDARD.decode(der).ok()).expect("x5c");
    let parsed = parse(&leaf).expect("a certificate");
    assert!(names(&parsed).iter().any(|name| name.ends_with(".managedhsm.azure.net")));
    assert_eq!(header["kid"], URL_SAFE_NO_PAD.encode(sha256(&[&leaf])));
    assert_eq!(header["kid"], header["x5t#S256"]);
    // Two characters of the recording are lost, and with them the signature.
    let roots = Roots(vec![leaf]);
    let error = verified(jws.trim(), &roots, &ASKED).unwrap_err();
    assert!(error.contains("signature does not verify"), "{error}");
}
