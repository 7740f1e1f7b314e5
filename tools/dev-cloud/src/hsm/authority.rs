//! What the HSM asks of an attestation authority: is this token yours, and valid now?

use crate::x509::Parsed;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use jsonwebtoken::errors::ErrorKind;
use jsonwebtoken::{Algorithm, DecodingKey, Validation};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::time::Duration;

/// Clocks differ by so much, not more.
const LEEWAY_SECONDS: u64 = 60;

/// Why a token is not taken.
#[derive(Debug)]
pub(super) enum Refusal {
    /// The authority did not answer, or not as an OpenID provider does.
    Unreachable(String),
    /// The token is not the authority's, or not valid now.
    Invalid(String),
}

#[derive(Deserialize)]
struct Discovery {
    issuer: String,
    jwks_uri: String,
}

#[derive(Deserialize)]
struct Jwks {
    keys: Vec<Jwk>,
}

#[derive(Deserialize)]
struct Jwk {
    kid: String,
    kty: String,
    #[serde(default)]
    x5c: Vec<String>,
}

/// Fetches authorities' keys.
pub(super) struct Authorities(reqwest::Client);

impl Authorities {
    pub(super) fn new() -> anyhow::Result<Self> {
        let client =
            reqwest::Client::builder().no_proxy().timeout(Duration::from_secs(5)).build()?;
        Ok(Self(client))
    }

    /// The claims of a token that `issuer` (which the policy names) signed with RS256 and that is valid now.
    pub(super) async fn verify(&self, issuer: &str, token: &str) -> Result<Value, Refusal> {
        let header = jsonwebtoken::decode_header(token)
            .map_err(|error| Refusal::Invalid(format!("target is not a signed token: {error}")))?;
        if header.alg != Algorithm::RS256 {
            return Err(Refusal::Invalid(format!(
                "target is signed with {:?}, not RS256",
                header.alg
            )));
        }
        let keys = self.keys(issuer.trim_end_matches('/')).await?;

        let mut validation = Validation::new(Algorithm::RS256);
        validation.leeway = LEEWAY_SECONDS;
        validation.validate_nbf = true;
        validation.validate_aud = false;
        validation.set_issuer(&[issuer]);
        validation.set_required_spec_claims(&["exp", "nbf", "iss"]);
        // The key of that id; if there is none, any: the authority may spell ids in two base64s.
        let named: Vec<_> =
            keys.iter().filter(|jwk| Some(&jwk.kid) == header.kid.as_ref()).collect();
        let candidates = if named.is_empty() { keys.iter().collect() } else { named };
        let mut refusal = "the authority publishes no usable key".to_owned();
        for jwk in candidates {
            let Some(key) = decoding_key(jwk) else { continue };
            match jsonwebtoken::decode::<Value>(token, &key, &validation) {
                Ok(token) => return Ok(token.claims),
                Err(error) if *error.kind() == ErrorKind::InvalidSignature => {
                    refusal = "target's signature is not its authority's".into();
                }
                Err(error) => return Err(Refusal::Invalid(format!("target: {error}"))),
            }
        }
        Err(Refusal::Invalid(refusal))
    }

    async fn keys(&self, authority: &str) -> Result<Vec<Jwk>, Refusal> {
        let document: Discovery =
            self.get(&format!("{authority}/.well-known/openid-configuration")).await?;
        if document.issuer.trim_end_matches('/') != authority {
            let why = format!("{authority} says it is {}", document.issuer);
            return Err(Refusal::Unreachable(why));
        }
        Ok(self.get::<Jwks>(&document.jwks_uri).await?.keys)
    }

    async fn get<T: DeserializeOwned>(&self, url: &str) -> Result<T, Refusal> {
        let answer = async { self.0.get(url).send().await?.error_for_status()?.json().await };
        answer.await.map_err(|error| Refusal::Unreachable(format!("{url}: {error}")))
    }
}

/// From the first certificate; there is no n and e.
fn decoding_key(jwk: &Jwk) -> Option<DecodingKey> {
    if jwk.kty != "RSA" {
        return None;
    }
    let certificate = Parsed::from_der(&STANDARD.decode(jwk.x5c.first()?).ok()?).ok()?;
    Some(DecodingKey::from_rsa_der(certificate.public_key()))
}
