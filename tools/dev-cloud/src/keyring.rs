//! RSA signing keys with a certificate each, kept on disk, the newest signing: the issuer's and MAA's.

use crate::digest::sha256;
use crate::rsa_keys::{RsaKeys, pkcs8};
use crate::{store, x509};
use anyhow::{Context, Result};
use aws_lc_rs::rsa::{KeyPair, KeySize};
use aws_lc_rs::signature::{KeyPair as _, RSA_PKCS1_SHA256};
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use base64::engine::{Engine, GeneralPurpose};
use serde::Serialize;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

/// A key that signs tokens.
pub(crate) struct SigningKey {
    pub(crate) kid: String,
    pub(crate) certificate: Vec<u8>,
    pair: KeyPair,
}

/// How a ring writes its key ids: SHA-256 of the certificate, in one base64 or the other.
#[derive(Clone, Copy)]
pub(crate) enum KidStyle {
    /// As the issuer does.
    UrlSafe,
    /// As MAA does, with padding.
    Standard,
}

/// The keys of one issuer, oldest first.
pub(crate) struct Keyring {
    dir: PathBuf,
    purpose: &'static str,
    rsa: RsaKeys,
    subject: String,
    style: KidStyle,
    keys: RwLock<Vec<Arc<SigningKey>>>,
}

impl Keyring {
    /// Reads the keys in `<dir>/<purpose>`, or makes the first one.
    pub(crate) fn open(
        dir: &Path, purpose: &'static str, rsa: RsaKeys, subject: &str, style: KidStyle,
    ) -> Result<Self> {
        let dir = dir.join(purpose);
        store::directory(&dir)?;
        let mut keys = Vec::new();
        while let Some(key) = SigningKey::load(&dir.join(format!("{}", keys.len())), style)? {
            keys.push(Arc::new(key));
        }
        let ring =
            Self { dir, purpose, rsa, subject: subject.to_owned(), style, keys: RwLock::new(keys) };
        if ring.all().is_empty() {
            ring.rotate()?;
        }
        Ok(ring)
    }

    /// Adds a key, which signs from now on; earlier ones stay published.
    pub(crate) fn rotate(&self) -> Result<Arc<SigningKey>> {
        let mut keys = self.keys.write().unwrap_or_else(PoisonError::into_inner);
        let path = self.dir.join(format!("{}", keys.len()));
        let purpose = format!("{}-{}", self.purpose, keys.len());
        let pair = self.rsa.make(&purpose, KeySize::Rsa2048)?;
        let key = Arc::new(SigningKey::create(pair, &path, &self.subject, self.style)?);
        keys.push(key.clone());
        Ok(key)
    }

    /// Every published key.
    pub(crate) fn all(&self) -> Vec<Arc<SigningKey>> {
        self.keys.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The key that signs.
    pub(crate) fn current(&self) -> Result<Arc<SigningKey>> {
        self.all().pop().context("an issuer has a key")
    }
}

impl SigningKey {
    /// A key that is published nowhere but claims the id `kid`: for forged tokens.
    pub(crate) fn unpublished(kid: &str) -> Result<Self> {
        let pair = KeyPair::generate(KeySize::Rsa2048)?;
        Ok(Self { kid: kid.to_owned(), certificate: Vec::new(), pair })
    }

    fn create(pair: KeyPair, path: &Path, subject: &str, style: KidStyle) -> Result<Self> {
        let name = format!("CN={subject}");
        let certificate = x509::Certificate {
            subject: &name,
            issuer: &name,
            spki: x509::rsa_spki(&pair)?,
            lifetime: x509::YEAR,
            extensions: vec![],
        };
        let certificate = certificate.issue(&x509::Issuer::Rsa256(&pair))?;
        // The key last: a key file means that both are there.
        store::write(&path.with_extension("crt"), &certificate)?;
        store::write(&path.with_extension("pk8"), &pkcs8(&pair)?)?;
        Ok(Self { kid: kid(&certificate, style), certificate, pair })
    }

    fn load(path: &Path, style: KidStyle) -> Result<Option<Self>> {
        let Some(pkcs8) = store::read(&path.with_extension("pk8"))? else { return Ok(None) };
        let certificate = store::read(&path.with_extension("crt"))?
            .with_context(|| format!("{} has no certificate", path.display()))?;
        let pair = KeyPair::from_pkcs8(&pkcs8)
            .map_err(|error| anyhow::anyhow!("{}: {error}", path.display()))?;
        Ok(Some(Self { kid: kid(&certificate, style), certificate, pair }))
    }

    /// A compact JWS, RS256, over `claims`, with `header` (which names `alg`).
    pub(crate) fn sign<T: Serialize>(&self, header: &Value, claims: &T) -> Result<String> {
        let input = signing_input(header, claims)?;
        let signature = x509::rsa_sign(&self.pair, &RSA_PKCS1_SHA256, input.as_bytes())?;
        Ok(format!("{input}.{}", URL_SAFE_NO_PAD.encode(signature)))
    }

    /// An ordinary JWT of this key.
    pub(crate) fn jwt<T: Serialize>(&self, claims: &T) -> Result<String> {
        self.sign(&json!({"alg": "RS256", "typ": "JWT", "kid": self.kid}), claims)
    }

    /// RSAPublicKey, as jsonwebtoken reads it.
    pub(crate) fn public_der(&self) -> &[u8] {
        self.pair.public_key().as_ref()
    }

    /// The JWK of an OpenID issuer.
    pub(crate) fn jwk(&self) -> Value {
        let public = self.pair.public_key();
        json!({
            "kid": self.kid,
            "kty": "RSA",
            "use": "sig",
            "alg": "RS256",
            "n": URL_SAFE_NO_PAD.encode(public.modulus().big_endian_without_leading_zero()),
            "e": URL_SAFE_NO_PAD.encode(public.exponent().big_endian_without_leading_zero()),
        })
    }
}

/// base64url(header) "." base64url(claims).
pub(crate) fn signing_input<T: Serialize>(header: &Value, claims: &T) -> Result<String> {
    let header = URL_SAFE_NO_PAD.encode(serde_json::to_vec(header)?);
    let claims = URL_SAFE_NO_PAD.encode(serde_json::to_vec(claims)?);
    Ok(format!("{header}.{claims}"))
}

fn kid(certificate: &[u8], style: KidStyle) -> String {
    let engine: &GeneralPurpose = match style {
        KidStyle::UrlSafe => &URL_SAFE_NO_PAD,
        KidStyle::Standard => &STANDARD,
    };
    engine.encode(sha256(certificate))
}
