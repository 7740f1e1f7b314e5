//! CKM_RSA_AES_KEY_WRAP and its SHA-2 siblings: RSA-OAEP of a fresh AES-256 key, then the target key under it
//! with AES-KWP (RFC 5649).

use anyhow::{Context, Result, bail, ensure};
use aws_lc_rs::key_wrap::{AES_256, AesKek, KeyWrapPadded};
use aws_lc_rs::rsa::{
    OAEP_SHA1_MGF1SHA1, OAEP_SHA256_MGF1SHA256, OAEP_SHA384_MGF1SHA384, OaepAlgorithm,
    OaepPublicEncryptingKey, PublicEncryptingKey,
};
use aws_lc_rs::signature::RsaPublicKeyComponents;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::Value;

/// `enc` when a request names none.
pub(super) const DEFAULT: &str = "CKM_RSA_AES_KEY_WRAP";

/// The OAEP (and MGF1) hash an `enc` stands for.
pub(super) fn algorithm(enc: &str) -> Option<&'static OaepAlgorithm> {
    match enc {
        "CKM_RSA_AES_KEY_WRAP" => Some(&OAEP_SHA1_MGF1SHA1),
        "RSA_AES_KEY_WRAP_256" => Some(&OAEP_SHA256_MGF1SHA256),
        "RSA_AES_KEY_WRAP_384" => Some(&OAEP_SHA384_MGF1SHA384),
        _ => None,
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

    /// RSA-OAEP(fresh AES-256 key) || AES-KWP(`plaintext`).
    pub(super) fn wrap(
        self, algorithm: &'static OaepAlgorithm, plaintext: &[u8],
    ) -> Result<Vec<u8>> {
        let mut transport = [0; 32];
        aws_lc_rs::rand::fill(&mut transport)?;
        let rsa = OaepPublicEncryptingKey::new(self.key)?;
        let mut out = vec![0; rsa.ciphertext_size()];
        rsa.encrypt(algorithm, &transport, &mut out, None)?;

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
