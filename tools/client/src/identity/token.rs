//! Validates an ID token as a relying party does (OpenID Connect Core, section 3.1.3.7).

use jsonwebtoken::jwk::{Jwk, JwkSet};
use jsonwebtoken::{Algorithm, DecodingKey, Validation};
use serde::Deserialize;

use super::{IdentityError, SignInRequest};
use crate::deployment::now;

/// Signatures by public key only: never `none`, never one that a published key could forge.
const ALGORITHMS: [Algorithm; 9] = [
    Algorithm::RS256,
    Algorithm::RS384,
    Algorithm::RS512,
    Algorithm::PS256,
    Algorithm::PS384,
    Algorithm::PS512,
    Algorithm::ES256,
    Algorithm::ES384,
    Algorithm::EdDSA,
];
/// Seconds by which the issuer's clock and this one may differ.
const CLOCK_TOLERANCE: u64 = 60;

/// The claims that matter here.
#[derive(Debug, Deserialize)]
pub(super) struct Claims {
    pub(super) sub: String,
    pub(super) exp: u64,
    pub(super) auth_time: Option<u64>,
    nonce: Option<String>,
    aud: Audience,
    azp: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Audience {
    One(#[expect(dead_code, reason = "jsonwebtoken compared it")] String),
    Many(Vec<String>),
}

/// Checks signature, issuer, audience, authorised party, nonce, times.
pub(super) fn validate(
    token: &str, request: &SignInRequest, audience: &str, keys: &JwkSet,
) -> Result<Claims, IdentityError> {
    let header = jsonwebtoken::decode_header(token).map_err(|error| refused(error.to_string()))?;
    if !ALGORITHMS.contains(&header.alg) {
        return Err(refused(format!("signed with {:?}", header.alg)));
    }
    let key = choose(keys, header.kid.as_deref())?;
    if key.common.key_algorithm.is_some_and(|algorithm| algorithm.to_string() != name(header.alg)) {
        return Err(refused(format!("{:?} is not its key's algorithm", header.alg)));
    }
    let key = DecodingKey::from_jwk(key).map_err(|error| refused(error.to_string()))?;
    let mut validation = Validation::new(header.alg);
    validation.set_audience(&[audience]);
    validation.set_issuer(&[request.provider.issuer()]);
    validation.set_required_spec_claims(&["exp", "aud", "iss", "sub"]);
    validation.validate_nbf = true;
    validation.leeway = CLOCK_TOLERANCE;
    let claims = jsonwebtoken::decode::<Claims>(token, &key, &validation);
    let claims = claims.map_err(|error| refused(error.to_string()))?.claims;
    check_binding(&claims, request)?;
    Ok(claims)
}

/// What binds the token to this very sign-in.
fn check_binding(claims: &Claims, request: &SignInRequest) -> Result<(), IdentityError> {
    if claims.nonce.as_deref() != Some(&request.nonce) {
        return Err(refused("its nonce is not this sign-in's".into()));
    }
    if claims.sub.is_empty() {
        return Err(refused("it names no subject".into()));
    }
    let is_for_many = matches!(&claims.aud, Audience::Many(names) if names.len() > 1);
    match &claims.azp {
        Some(party) if *party != request.client_id => {
            return Err(refused(format!("it was issued to {party:?}")));
        }
        None if is_for_many => return Err(refused("it is for several audiences".into())),
        _ => {}
    }
    let Some(max_age) = request.max_age else { return Ok(()) };
    let now = now().map_err(|error| refused(error.to_string()))?.unix_seconds();
    match claims.auth_time {
        None => Err(refused("it does not say when the person signed in (auth_time)".into())),
        Some(at) if now.saturating_sub(at) > max_age + CLOCK_TOLERANCE => {
            Err(refused("the person signed in too long ago".into()))
        }
        Some(_) => Ok(()),
    }
}

fn choose<'a>(keys: &'a JwkSet, kid: Option<&str>) -> Result<&'a Jwk, IdentityError> {
    match (kid, keys.keys.as_slice()) {
        (Some(kid), _) => keys.find(kid),
        (None, [only]) => Some(only),
        (None, _) => None,
    }
    .ok_or_else(|| refused("the issuer publishes no such key".into()))
}

/// The algorithm's name in a key set.
fn name(algorithm: Algorithm) -> String {
    format!("{algorithm:?}")
}

fn refused(reason: String) -> IdentityError {
    IdentityError::Token(reason)
}
