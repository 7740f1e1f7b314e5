//! CKM_RSA_AES_KEY_WRAP and its SHA-2 siblings: RSA-OAEP of a fresh AES-256 key, then the target key under it
//! with AES-KWP (RFC 5649).

use crate::rsa_keys::RsaKeys;
use anyhow::{Context, Result, bail, ensure};
use aws_lc_rs::key_wrap::{AES_256, AesKek, KeyWrapPadded};
use aws_lc_rs::rsa::{
    KeySize, OAEP_SHA1_MGF1SHA1, OAEP_SHA256_MGF1SHA256, OAEP_SHA384_MGF1SHA384, OaepAlgorithm,
    OaepPublicEncryptingKey, PublicEncryptingKey,
};
use aws_lc_rs::signature::RsaPublicKeyComponents;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::Value;

/// How keys are wrapped: the hash of OAEP and of its MGF1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wrapping {
    Sha1,
    Sha256,
    Sha384,
}

impl Wrapping {
    /// What an `enc` stands for; a request that names none gets SHA-1.
    pub(super) fn parse(enc: Option<&str>) -> Option<Self> {
        match enc {
            None => Some(Self::Sha1),
            Some(name) => {
                [Self::Sha1, Self::Sha256, Self::Sha384].into_iter().find(|one| one.enc() == name)
            }
        }
    }

    /// Its `enc`.
    pub(super) fn enc(self) -> &'static str {
        match self {
            Self::Sha1 => "CKM_RSA_AES_KEY_WRAP",
            Self::Sha256 => "RSA_AES_KEY_WRAP_256",
            Self::Sha384 => "RSA_AES_KEY_WRAP_384",
        }
    }

    /// One that is not this one.
    pub(super) fn other(self) -> Self {
        if self == Self::Sha1 { Self::Sha256 } else { Self::Sha1 }
    }

    fn algorithm(self) -> &'static OaepAlgorithm {
        match self {
            Self::Sha1 => &OAEP_SHA1_MGF1SHA1,
            Self::Sha256 => &OAEP_SHA256_MGF1SHA256,
            Self::Sha384 => &OAEP_SHA384_MGF1SHA384,
        }
    }
}

/// The key the attested workload wants its key wrapped to.
pub(super) struct EncryptionKey {
    pub(super) kid: String,
    key: PublicEncryptingKey,
}

impl EncryptionKey {
    /// The first RSA key for encryption in `x-ms-runtime.keys`.
    pub(super) fn find(claims: &Value) -> Result<Self> {
        let keys =
            claims["x-ms-runtime"]["keys"].as_array().context("x-ms-runtime.keys is missing")?;
        let jwk = keys
            .iter()
            .find(|jwk| jwk["kty"] == "RSA" && for_encryption(jwk))
            .context("x-ms-runtime.keys holds no RSA key for encryption")?;
        let kid =
            jwk["kid"].as_str().filter(|kid| !kid.is_empty()).context("the key has no kid")?;
        let number = |name: &str| -> Result<Vec<u8>> {
            let text = jwk[name].as_str().with_context(|| format!("the key has no {name}"))?;
            URL_SAFE_NO_PAD.decode(text).with_context(|| format!("{name} is not base64url"))
        };
        let components = RsaPublicKeyComponents { n: number("n")?, e: number("e")? };
        let key: PublicEncryptingKey = match components.try_into() {
            Ok(key) => key,
            Err(_) => bail!("n and e are not an RSA key of 2048 to 8192 bits"),
        };
        ensure!(key.key_size_bits() >= 2048, "the RSA key is shorter than 2048 bits");
        Ok(Self { kid: kid.to_owned(), key })
    }

    /// Another key of the same size, under the same id.
    pub(super) fn exchanged(self, rsa: &RsaKeys) -> Result<Self> {
        let size = match self.key.key_size_bits() {
            ..3072 => KeySize::Rsa2048,
            3072..4096 => KeySize::Rsa3072,
            4096..8192 => KeySize::Rsa4096,
            _ => KeySize::Rsa8192,
        };
        let pair = rsa.make(&format!("hsm-exchanged-{}", size.len() * 8), size)?;
        let spki = crate::x509::rsa_spki(&pair)?;
        Ok(Self { kid: self.kid, key: PublicEncryptingKey::from_der(&spki)? })
    }

    /// RSA-OAEP(fresh AES-256 key) || AES-KWP(`plaintext`).
    pub(super) fn wrap(self, wrapping: Wrapping, plaintext: &[u8]) -> Result<Vec<u8>> {
        let mut transport = [0; 32];
        aws_lc_rs::rand::fill(&mut transport)?;
        let rsa = OaepPublicEncryptingKey::new(self.key)?;
        let mut out = vec![0; rsa.ciphertext_size()];
        rsa.encrypt(wrapping.algorithm(), &transport, &mut out, None)?;

        let kek = AesKek::new(&AES_256, &transport)?;
        let mut wrapped = vec![0; plaintext.len().next_multiple_of(8) + 8];
        out.extend_from_slice(kek.wrap_with_padding(plaintext, &mut wrapped)?);
        Ok(out)
    }
}

fn for_encryption(jwk: &Value) -> bool {
    let operations = jwk["key_ops"].as_array().map_or(&[][..], Vec::as_slice);
    jwk["use"] == "enc" || jwk["key_use"] == "enc" || operations.iter().any(|op| op == "encrypt")
}
