//! The HSM's own certificate, with which it signs what it releases.

use crate::digest::sha256;
use crate::rsa_keys::{RsaKeys, pkcs8};
use crate::store;
use crate::x509::{self, Certificate, Issuer, Parsed, YEAR};
use anyhow::{Context, Result, anyhow};
use aws_lc_rs::rsa::{KeyPair, KeySize};
use aws_lc_rs::signature::RSA_PKCS1_SHA256;
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

const ROOT: &str = "CN=Keyfold development HSM root";
const INTERMEDIATE: &str = "CN=Keyfold development HSM issuing CA";

/// The leaf's key, and the chain up to the root.
pub(super) struct Signer {
    key: KeyPair,
    /// Leaf, intermediate, root.
    chain: Vec<Vec<u8>>,
}

impl Signer {
    /// Reads the signer in `dir`, or makes it: root.pem, chain.pem, leaf.pk8.
    pub(super) fn open(dir: &Path, rsa: &RsaKeys, host_name: &str) -> Result<Self> {
        let path = dir.join("leaf.pk8");
        // Written last: where it is, everything is.
        if store::read(&path)?.is_none() {
            make(dir, rsa, host_name)?;
        }
        let pkcs8 = store::read(&path)?.context("leaf.pk8 was just written")?;
        let pem = store::read(&dir.join("chain.pem"))?.context("chain.pem is missing")?;
        let chain = Parsed::chain_from_pem(&pem)?;
        let chain = chain.iter().map(Parsed::der).collect::<Result<_>>()?;
        let key =
            KeyPair::from_pkcs8(&pkcs8).map_err(|error| anyhow!("{}: {error}", path.display()))?;
        Ok(Self { key, chain })
    }

    /// A compact JWS with the chain in x5c; kid and x5t#S256 are the leaf's SHA-256.
    pub(super) fn sign(&self, payload: &Value) -> Result<String> {
        let thumbprint = URL_SAFE_NO_PAD.encode(sha256(&self.chain[0]));
        let header = json!({
            "alg": "RS256",
            "kid": thumbprint,
            "x5c": self.chain.iter().map(|der| STANDARD.encode(der)).collect::<Vec<_>>(),
            "x5t#S256": thumbprint,
        });
        let input = crate::keyring::signing_input(&header, payload)?;
        let signature = x509::rsa_sign(&self.key, &RSA_PKCS1_SHA256, input.as_bytes())?;
        Ok(format!("{input}.{}", URL_SAFE_NO_PAD.encode(signature)))
    }
}

/// Where the root is, for whoever verifies.
pub(crate) fn root_path(dir: &Path) -> PathBuf {
    dir.join("root.pem")
}

fn make(dir: &Path, rsa: &RsaKeys, host_name: &str) -> Result<()> {
    let make = |purpose| rsa.make(purpose, KeySize::Rsa2048);
    let (root, intermediate, leaf) = (make("hsm-root")?, make("hsm-ca")?, make("hsm-leaf")?);
    let leaf_name = format!("CN=*.{host_name}");
    let names = x509::dns_names(&[format!("*.{host_name}"), host_name.to_owned()])?;
    let authority = || anyhow::Ok(vec![x509::certificate_authority()?]);
    let issue = |subject, issuer, key: &KeyPair, extensions, signer: &KeyPair| {
        let spki = x509::rsa_spki(key)?;
        let certificate = Certificate { subject, issuer, spki, lifetime: 10 * YEAR, extensions };
        certificate.issue_pem(&Issuer::Rsa256(signer))
    };
    let root_pem = issue(ROOT, ROOT, &root, authority()?, &root)?;
    let intermediate_pem = issue(INTERMEDIATE, ROOT, &intermediate, authority()?, &root)?;
    let leaf_pem = issue(&leaf_name, INTERMEDIATE, &leaf, vec![names], &intermediate)?;
    store::write(&root_path(dir), root_pem.as_bytes())?;
    store::write(&dir.join("chain.pem"), (leaf_pem + &intermediate_pem + &root_pem).as_bytes())?;
    store::write(&dir.join("leaf.pk8"), &pkcs8(&leaf)?)
}
