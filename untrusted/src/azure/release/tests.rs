//! A release as the service signs it, and every way it can be wrong.

use super::*;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::KeyPair as RsaKeyPair;
use aws_lc_rs::signature::RSA_PKCS1_SHA256;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, PKCS_RSA_SHA256,
    date_time_ymd,
};
use serde_json::json;

const ENDPOINT: &str = "example.managedhsm.azure.net";

/// One key for every certificate: making RSA keys takes long, and names tell them apart.
struct Signer {
    key: KeyPair,
}

impl Signer {
    fn new() -> Self {
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

    fn root(&self, name: &str) -> Vec<u8> {
        let params = Self::params(name, &[], true);
        params.self_signed(&self.key).expect("a certificate").der().to_vec()
    }

    fn issued(&self, params: CertificateParams, issuer: &str) -> Vec<u8> {
        let issuer = Issuer::new(Self::params(issuer, &[], true), &self.key);
        params.signed_by(&self.key, &issuer).expect("a certificate").der().to_vec()
    }

    fn jws(&self, header: Value, chain: &[Vec<u8>], payload: &Value) -> String {
        let mut header = header;
        header["x5c"] = chain.iter().map(|der| STANDARD.encode(der)).collect::<Vec<_>>().into();
        let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let signed = format!("{}.{}", part(&header), part(payload));
        let key = RsaKeyPair::from_pkcs8(self.key.serialized_der()).expect("the key");
        let mut signature = vec![0; key.public_modulus_len()];
        key.sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), signed.as_bytes(), &mut signature)
            .expect("a signature");
        format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature))
    }
}

fn payload() -> Value {
    let key_hsm = json!({"schema_version": "1.0", "ciphertext": URL_SAFE_NO_PAD.encode("wrapped")});
    let key_hsm = URL_SAFE_NO_PAD.encode(key_hsm.to_string());
    json!({"response": {"key": {"key": {"kid": "k", "key_hsm": key_hsm}}}})
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
    let accepted = Ok(b"wrapped".to_vec());
    for chain in [&chain[..], &chain[..2]] {
        let jws = signer.jws(rs256(), chain, &payload());
        assert_eq!(wrapped_key(&jws, &roots, ENDPOINT), accepted, "{} certificates", chain.len());
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
        let error = wrapped_key(&signer.jws(rs256(), &chain, &payload()), &roots, ENDPOINT);
        let error = error.expect_err(what);
        assert!(error.contains(complaint), "{what}: {error}");
    }

    let jws = signer.jws(rs256(), &chain, &payload());
    let foreign = Roots(vec![other_key]);
    let error = wrapped_key(&signer.jws(rs256(), &chain[..2], &payload()), &foreign, ENDPOINT);
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
        (signer.jws(rs256(), &chain, &json!({})), "no key_hsm"),
        (format!("{}.{}", parts[0], parts[1]), "no JWS"),
    ] {
        let error = wrapped_key(&jws, &roots, ENDPOINT).expect_err(complaint);
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
