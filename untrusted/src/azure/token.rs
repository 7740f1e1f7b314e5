//! MAA's token, checked before it goes to the Managed HSM: a mistake found here has a name, there it
//! is only a 403. And a token that MAA did not sign would be sent on without anybody noticing.

use super::{AzureError, base64url, call::Call, release::certificate_key, same_service};
use crate::clock::unix_now;
use crate::config::BaseUrl;
use crate::journal::{Journal, Step};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use jsonwebtoken::{Algorithm, DecodingKey, Validation};
use serde::Deserialize;
use serde_json::Value;

/// Clocks may differ by this many seconds.
pub(crate) const LEEWAY: u64 = 300;

/// What a token has to be about.
pub(super) struct Expected<'a> {
    /// The attestation service.
    pub(super) issuer: &'a BaseUrl,
    /// The runtime claims' exact text.
    pub(super) claims: &'a [u8],
    /// The report that was sent.
    pub(super) report: &'a [u8],
    /// The nonce that was sent.
    pub(super) nonce: u64,
}

/// The attestation service's keys: certificates without bare keys beside them.
#[derive(Deserialize)]
struct Keys {
    keys: Vec<Key>,
}

#[derive(Deserialize)]
struct Key {
    #[serde(default)]
    kid: String,
    #[serde(default)]
    x5c: Vec<String>,
}

#[derive(Deserialize)]
struct Discovery {
    issuer: String,
    jwks_uri: String,
}

/// Fetches the service's keys and checks the token with them; gives its claims.
pub(super) async fn check(
    token: &str, expected: &Expected<'_>, http: &reqwest::Client, journal: &Journal,
) -> Result<Value, AzureError> {
    let issuer = expected.issuer;
    let keys = fetch(issuer, http, journal).await?;
    let refuse = |step, what| Call::new(step, issuer.as_str(), journal).refuse(what);
    let claims = signed_by(token, &keys).map_err(|what| refuse(Step::AttestationToken, what))?;
    journal.learn(|facts| facts.token = Some(claims.clone()));
    is_by(&claims, issuer).map_err(|what| refuse(Step::AttestationToken, what))?;
    let times = in_time(&claims, unix_now()).map_err(|what| refuse(Step::Clock, what))?;
    is_about(&claims, expected).map_err(|what| refuse(Step::AttestationToken, what))?;
    for (step, found) in
        [(Step::AttestationToken, "signed, and about this report"), (Step::Clock, &times)]
    {
        let done = Ok(((), found.to_owned()));
        journal.check::<(), AzureError>(step, issuer.as_str(), done)?;
    }
    Ok(claims)
}

/// Whether the service's keys are there.
pub(super) async fn reach(
    issuer: &BaseUrl, http: &reqwest::Client, journal: &Journal,
) -> Result<(), AzureError> {
    fetch(issuer, http, journal).await.map(drop)
}

async fn fetch(
    issuer: &BaseUrl, http: &reqwest::Client, journal: &Journal,
) -> Result<Keys, AzureError> {
    let url = format!("{}/.well-known/openid-configuration", issuer.as_str());
    let call = Call::new(Step::AttestationKeys, &url, journal);
    let discovery: Discovery = call.json(http.get(&url)).await?;
    if !same_service(&discovery.issuer, issuer) {
        let what = format!("it says it is {:?}, not azure.maa_url", discovery.issuer);
        return Err(call.refuse(what));
    }
    let call = Call::new(Step::AttestationKeys, &discovery.jwks_uri, journal);
    call.json(http.get(&discovery.jwks_uri)).await
}

/// The claims, if one of the service's certificates verifies the signature.
fn signed_by(token: &str, keys: &Keys) -> Result<Value, String> {
    let parts: Vec<_> = token.split('.').collect();
    let [header, _, signature] = parts[..] else {
        return Err("the token is no signed JWT".into());
    };
    let header: Value = serde_json::from_slice(&base64url(header)?)
        .map_err(|error| format!("the token's header: {error}"))?;
    if header["alg"] != "RS256" || signature.is_empty() {
        return Err(format!("the token is signed with {}, not RS256", header["alg"]));
    }
    let kid = normalised(header["kid"].as_str().unwrap_or_default());
    let (named, others): (Vec<_>, Vec<_>) =
        keys.keys.iter().partition(|key| normalised(&key.kid) == kid);
    // The service's own advice: without the one named, any of its certificates may be it.
    let candidates = if named.is_empty() { others } else { named };
    let mut validation = Validation::new(Algorithm::RS256);
    // Times and names are checked apart, to say more than that they do not fit.
    validation.required_spec_claims.clear();
    (validation.validate_exp, validation.validate_nbf) = (false, false);
    validation.validate_aud = false;
    for key in candidates.into_iter().filter_map(Key::public) {
        if let Ok(token) = jsonwebtoken::decode::<Value>(token, &key, &validation) {
            return Ok(token.claims);
        }
    }
    Err(format!("no certificate of the service verifies the token's signature (kid {kid:?})"))
}

impl Key {
    fn public(&self) -> Option<DecodingKey> {
        let der = STANDARD.decode(self.x5c.first()?).ok()?;
        Some(DecodingKey::from_rsa_der(&certificate_key(&der).ok()?))
    }
}

/// The service writes its key ids in one base64 or the other.
fn normalised(kid: &str) -> String {
    kid.trim_end_matches('=').replace('+', "-").replace('/', "_")
}

fn is_by(claims: &Value, issuer: &BaseUrl) -> Result<(), String> {
    let issued_by = claims["iss"].as_str().unwrap_or_default();
    match same_service(issued_by, issuer) {
        true => Ok(()),
        false => Err(format!("the token is issued by {issued_by:?}, not by azure.maa_url")),
    }
}

/// The token's times against this machine's clock.
fn in_time(claims: &Value, now: u64) -> Result<String, String> {
    let time = |name: &str| claims[name].as_u64().ok_or_else(|| format!("the token has no {name}"));
    let (not_before, expires) = (time("nbf")?, time("exp")?);
    let difference = i128::from(now) - i128::from(claims["iat"].as_u64().unwrap_or(not_before));
    let told = format!(
        "nbf {not_before}, exp {expires}; this machine's clock says {now}, {difference} s after it was issued"
    );
    match expires.saturating_add(LEEWAY) < now || not_before > now.saturating_add(LEEWAY) {
        true => Err(format!("the token does not hold now: {told}")),
        false => Ok(told),
    }
}

/// Of an SNP guest that cannot be debugged, about exactly the report and the claims that were sent.
fn is_about(claims: &Value, expected: &Expected<'_>) -> Result<(), String> {
    let expect = |claim: &str, value: &Value| match &claims[claim] {
        found if found == value => Ok(()),
        found => Err(format!("the token's {claim} is {found}, expected {value}")),
    };
    expect("x-ms-attestation-type", &"sevsnpvm".into())?;
    expect("x-ms-sevsnpvm-is-debuggable", &false.into())?;
    expect("nonce", &expected.nonce.to_string().into())?;
    let report_data = expected.report.get(0x50..0x90).unwrap_or_default();
    expect("x-ms-sevsnpvm-reportdata", &hex::encode(report_data).into())?;
    let runtime: Value =
        serde_json::from_slice(expected.claims).map_err(|error| error.to_string())?;
    expect("x-ms-runtime", &runtime)
}

#[cfg(test)]
mod tests;
