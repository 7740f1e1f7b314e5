//! The HSM's own certificate, with which it signs what it releases; and two that nobody must take.

use crate::digest::sha256;
use crate::fail::Foreign;
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
/// An HSM that is not this one.
const FOREIGN_HOST_NAME: &str = "keyfold-other.managedhsm.azure.net";
const INTERMEDIATE: &str = "CN=Keyfold development HSM issuing CA";

/// Chain files: the right one; of another root; of another name.
const CHAINS: [&str; 3] = ["chain.pem", "foreign-root.pem", "foreign-name.pem"];

/// The leaf's key, and chains up to a root, each of leaf, intermediate, root.
pub(super) struct Signer {
    key: KeyPair,
    chain: Vec<Vec<u8>>,
    foreign_root: Vec<Vec<u8>>,
    foreign_name: Vec<Vec<u8>>,
}

impl Signer {
    /// Reads the signer in `dir`, or makes it: root.pem, leaf.pk8 and the chains.
    pub(super) fn open(dir: &Path, rsa: &RsaKeys, host_name: &str) -> Result<Self> {
        let path = dir.join("leaf.pk8");
        if !path.exists() || CHAINS.iter().any(|file| !dir.join(file).exists()) {
            make(dir, rsa, host_name)?;
        }
        let pkcs8 = store::read(&path)?.context("leaf.pk8 was just written")?;
        let chains = CHAINS.map(|file| -> Result<Vec<Vec<u8>>> {
            let pem =
                store::read(&dir.join(file))?.with_context(|| format!("{file} is missing"))?;
            Parsed::chain_from_pem(&pem)?.iter().map(Parsed::der).collect()
        });
        let [chain, foreign_root, foreign_name] = chains;
        let key =
            KeyPair::from_pkcs8(&pkcs8).map_err(|error| anyhow!("{}: {error}", path.display()))?;
        Ok(Self { key, chain: chain?, foreign_root: foreign_root?, foreign_name: foreign_name? })
    }

    /// A compact JWS with the chain in x5c; kid and x5t#S256 are the leaf's SHA-256.
    pub(super) fn sign(&self, payload: &Value, foreign: Option<Foreign>) -> Result<String> {
        let chain = match foreign {
            None => &self.chain,
            Some(Foreign::Root) => &self.foreign_root,
            Some(Foreign::Name) => &self.foreign_name,
        };
        let thumbprint = URL_SAFE_NO_PAD.encode(sha256(&chain[0]));
        let header = json!({
            "alg": "RS256",
            "kid": thumbprint,
            "x5c": chain.iter().map(|der| STANDARD.encode(der)).collect::<Vec<_>>(),
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

/// Who certifies a leaf.
struct Authority {
    root: KeyPair,
    intermediate: KeyPair,
}

impl Authority {
    /// PEM of a leaf for `*.{host_name}`, the intermediate and the root.
    fn certify(&self, leaf: &KeyPair, host_name: &str) -> Result<[String; 3]> {
        let issue = |subject, issuer, key: &KeyPair, extension, signer: &KeyPair| {
            let (spki, extensions) = (x509::rsa_spki(key)?, vec![extension]);
            let lifetime = 10 * YEAR;
            let certificate = Certificate { subject, issuer, spki, lifetime, extensions };
            certificate.issue_pem(&Issuer::Rsa256(signer))
        };
        let (root, intermediate) = (&self.root, &self.intermediate);
        let authority = x509::certificate_authority;
        let leaf_name = format!("CN=*.{host_name}");
        let names = x509::dns_names(&[format!("*.{host_name}"), host_name.to_owned()])?;
        Ok([
            issue(&leaf_name, INTERMEDIATE, leaf, names, intermediate)?,
            issue(INTERMEDIATE, ROOT, intermediate, authority()?, root)?,
            issue(ROOT, ROOT, root, authority()?, root)?,
        ])
    }
}

/// One leaf key under three chains: a foreign one differs in what it is named after, and in nothing else.
fn make(dir: &Path, rsa: &RsaKeys, host_name: &str) -> Result<()> {
    let make = |purpose| rsa.make(purpose, KeySize::Rsa2048);
    let leaf = make("hsm-leaf")?;
    let own = Authority { root: make("hsm-root")?, intermediate: make("hsm-ca")? };
    let foreign =
        Authority { root: make("hsm-foreign-root")?, intermediate: make("hsm-foreign-ca")? };
    let chain = own.certify(&leaf, host_name)?;
    let foreign_root = foreign.certify(&leaf, host_name)?;
    let [foreign_name, ..] = own.certify(&leaf, FOREIGN_HOST_NAME)?;
    store::write(&root_path(dir), chain[2].as_bytes())?;
    for (file, pem) in CHAINS.into_iter().zip([
        chain.concat(),
        foreign_root.concat(),
        [foreign_name, chain[1].clone(), chain[2].clone()].concat(),
    ]) {
        store::write(&dir.join(file), pem.as_bytes())?;
    }
    store::write(&dir.join("leaf.pk8"), &pkcs8(&leaf)?)
}
