//! Managed HSM's answer to a release: a JWS under the service's certificate, around the wrapped key.
//!
//! In the order clients of the real service use: the first certificate verifies the signature, the
//! chain leads to a configured root, the leaf's name is the endpoint's.

use super::base64url;
use crate::identity::sha256;
use aws_lc_rs::signature::{RSA_PKCS1_2048_8192_SHA256, UnparsedPublicKey};
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use serde_json::Value;
use std::path::Path;
use x509_parser::prelude::{FromDer, GeneralName, Pem, X509Certificate};

/// Certificates a release signature may chain to.
#[derive(Clone, Debug)]
pub struct Roots(Vec<Vec<u8>>);

impl Roots {
    /// Reads a PEM file of one or more certificates.
    pub fn read(path: &Path) -> Result<Self, String> {
        let text = std::fs::read(path).map_err(|error| format!("{}: {error}", path.display()))?;
        let certificates: Result<Vec<_>, _> = Pem::iter_from_buffer(&text).collect();
        let wrong = |_| format!("{}: not PEM", path.display());
        let certificates: Vec<_> =
            certificates.map_err(wrong)?.into_iter().map(|pem| pem.contents).collect();
        for der in &certificates {
            X509Certificate::from_der(der)
                .map_err(|error| format!("{}: no certificate: {error}", path.display()))?;
        }
        match certificates.is_empty() {
            true => Err(format!("{}: holds no certificate", path.display())),
            false => Ok(Self(certificates)),
        }
    }
}

/// What was asked for, which the answer has to repeat.
pub(super) struct Asked<'a> {
    /// DNS name in the signer's certificate.
    pub(super) endpoint: &'a str,
    pub(super) key_name: &'a str,
    /// Empty: the current one.
    pub(super) key_version: &'a str,
    /// Managed HSM's name of the wrapping algorithm.
    pub(super) enc: &'a str,
    pub(super) nonce: &'a str,
    /// The one-boot key: its id, and its modulus in bytes.
    pub(super) wrapped_to: &'a str,
    pub(super) modulus: usize,
}

/// A key that was released, verified.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Answer {
    pub(super) wrapped: Vec<u8>,
    /// The key's full id.
    pub(super) kid: String,
    /// The release policy that was met.
    pub(super) policy: Option<Vec<u8>>,
}

/// Verifies the JWS and takes the wrapped key out of it.
pub(super) fn verified(jws: &str, roots: &Roots, asked: &Asked) -> Result<Answer, String> {
    let parts: Vec<_> = jws.split('.').collect();
    let [header, payload, signature] = parts[..] else {
        return Err("the release is no JWS".into());
    };
    verify(header, payload, signature, roots, asked.endpoint)?;
    let payload = json(payload)?;
    expect("request.nonce", &payload["request"]["nonce"], asked.nonce)?;
    expect("request.enc", &payload["request"]["enc"], asked.enc)?;
    let key = &payload["response"]["key"]["key"];
    let kid = key["kid"].as_str().ok_or("the release names no key")?;
    is_the_key(kid, asked)?;
    let kty = key["kty"].as_str().unwrap_or_default();
    if !matches!(kty, "oct" | "oct-HSM") {
        return Err(format!("the released key is of type {kty:?}, not oct or oct-HSM"));
    }
    let key_hsm = json(key["key_hsm"].as_str().ok_or("the release carries no key_hsm")?)?;
    expect("key_hsm.header.kid", &key_hsm["header"]["kid"], asked.wrapped_to)?;
    expect("key_hsm.header.alg", &key_hsm["header"]["alg"], "dir")?;
    expect("key_hsm.header.enc", &key_hsm["header"]["enc"], asked.enc)?;
    let ciphertext = key_hsm["ciphertext"].as_str().ok_or("key_hsm carries no ciphertext")?;
    let wrapped = base64url(ciphertext)?;
    let length = asked.modulus + WRAPPED_ROOT;
    if wrapped.len() != length {
        return Err(format!(
            "the wrapped key has {} bytes, expected {length}: one block of the one-boot key and \
             AES-KWP of 32 bytes",
            wrapped.len()
        ));
    }
    let policy = payload["response"]["key"]["release_policy"]["data"].as_str();
    let policy = policy.and_then(|data| base64url(data).ok());
    Ok(Answer { wrapped, kid: kid.to_owned(), policy })
}

/// AES-KWP of a 256-bit key: four semiblocks and the integrity value.
const WRAPPED_ROOT: usize = 40;

fn expect(name: &str, found: &Value, expected: &str) -> Result<(), String> {
    match found == expected {
        true => Ok(()),
        false => Err(format!("the release's {name} is {found}, expected {expected:?}")),
    }
}

/// Name and version; the host of the id is the certificate's business.
fn is_the_key(kid: &str, asked: &Asked) -> Result<(), String> {
    let url = reqwest::Url::parse(kid).map_err(|error| format!("the key id {kid:?}: {error}"))?;
    let path: Vec<_> = url.path_segments().into_iter().flatten().collect();
    let version = match path[..] {
        ["keys", name, version] if name == asked.key_name => version,
        _ => return Err(format!("the released key is {kid}, not {}", asked.key_name)),
    };
    if asked.key_version.is_empty() || asked.key_version == version {
        return Ok(());
    }
    Err(format!("the released key is of version {version}, not {}", asked.key_version))
}

/// The RSA key in a certificate, as PKCS#1 has it.
pub(super) fn certificate_key(der: &[u8]) -> Result<Vec<u8>, String> {
    Ok(parse(der)?.public_key().subject_public_key.data.to_vec())
}

fn verify(
    header: &str, payload: &str, signature: &str, roots: &Roots, endpoint: &str,
) -> Result<(), String> {
    let signed = format!("{header}.{payload}");
    let header = json(header)?;
    if header["alg"] != "RS256" {
        return Err(format!("the release is signed with {}, not RS256", header["alg"]));
    }
    let chain = header["x5c"].as_array().ok_or("the release carries no certificates (x5c)")?;
    let chain = chain.iter().map(|certificate| {
        let text = certificate.as_str().ok_or("x5c holds something else than text")?;
        STANDARD.decode(text).map_err(|_| "x5c holds something else than base64")
    });
    let chain = chain.collect::<Result<Vec<_>, _>>()?;
    let certificates = chain.iter().map(|der| parse(der)).collect::<Result<Vec<_>, _>>()?;
    let leaf = certificates.first().ok_or("the release carries no certificates (x5c)")?;
    let thumbprint = URL_SAFE_NO_PAD.encode(sha256(&[leaf.as_raw()]));
    for name in ["kid", "x5t#S256"] {
        // The name it signs under is its own certificate's.
        expect(name, &header[name], &thumbprint)?;
    }

    let key = &leaf.public_key().subject_public_key.data;
    UnparsedPublicKey::new(&RSA_PKCS1_2048_8192_SHA256, key)
        .verify(signed.as_bytes(), &base64url(signature)?)
        .map_err(|_| "the release's signature does not verify")?;
    chain_to_root(&certificates, roots)?;
    if names(leaf).iter().any(|name| covers(name, endpoint)) {
        return Ok(());
    }
    Err(format!("the release is signed by {:?}, not by {endpoint}", names(leaf)))
}

/// Each certificate is signed by the next, the last by a root or a root itself; all are in time.
fn chain_to_root(certificates: &[X509Certificate], roots: &Roots) -> Result<(), String> {
    let roots = roots.0.iter().map(|der| parse(der)).collect::<Result<Vec<_>, _>>()?;
    for (index, certificate) in certificates.iter().enumerate() {
        let subject = certificate.subject();
        if !certificate.validity().is_valid() {
            return Err(format!("the certificate of {subject} is not valid now"));
        }
        if roots
            .iter()
            .any(|root| root.as_raw() == certificate.as_raw() || issued(root, certificate))
        {
            return Ok(());
        }
        match certificates.get(index + 1) {
            Some(issuer) if issued(issuer, certificate) => {}
            Some(_) => {
                return Err(format!("the certificate of {subject} is not signed by the next"));
            }
            None => break,
        }
    }
    Err("the release's certificates do not chain to azure.hsm_roots".into())
}

fn issued(issuer: &X509Certificate, certificate: &X509Certificate) -> bool {
    issuer.is_ca()
        && issuer.validity().is_valid()
        && issuer.subject() == certificate.issuer()
        && certificate.verify_signature(Some(issuer.public_key())).is_ok()
}

fn names<'a>(certificate: &'a X509Certificate) -> Vec<&'a str> {
    let names = certificate.subject_alternative_name().ok().flatten();
    let names = names.map(|names| &names.value.general_names[..]).unwrap_or_default();
    let dns = names.iter().filter_map(|name| match name {
        GeneralName::DNSName(name) => Some(*name),
        _ => None,
    });
    dns.collect()
}

/// A wildcard stands for the name itself too: the service signs with `*.{hsm}.managedhsm.azure.net`
/// and is reached at `{hsm}.managedhsm.azure.net`.
fn covers(name: &str, endpoint: &str) -> bool {
    name.strip_prefix("*.").unwrap_or(name).eq_ignore_ascii_case(endpoint)
}

fn parse(der: &[u8]) -> Result<X509Certificate<'_>, String> {
    match X509Certificate::from_der(der) {
        Ok(([], certificate)) => Ok(certificate),
        _ => Err("x5c holds something else than certificates".into()),
    }
}

fn json(part: &str) -> Result<Value, String> {
    serde_json::from_slice(&base64url(part)?).map_err(|error| format!("the release: {error}"))
}

#[cfg(test)]
pub(super) mod tests;
