//! The policy that tokens are issued under, and its administration.
//!
//! GET and PUT /policies/SevSnpVm, POST /policies/SevSnpVm:reset. A policy travels as an unsecured JWS around
//! {"AttestationPolicy": base64url of its text}; answers are tokens. It is kept in `<dir>/maa/policy.txt`.

use super::claim_rules::Policy;
use super::{ApiVersion, Maa, check_tee, decode};
use crate::digest::sha256;
use crate::http::ApiError;
use crate::keyring::signing_input;
use crate::oidc::{MAA_RESOURCE, Principal};
use crate::store;
use anyhow::{Context, Result, anyhow};
use axum::Json;
use axum::body::Bytes;
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, StatusCode, header};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Deserialize;
use serde_json::{Value, json};
use std::path::{Path as FilePath, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

/// Until a policy is set: whatever is genuine gets a token; who relies on it decides.
const DEFAULT: &str =
    "version= 1.0;\nauthorizationrules\n{\n\t=> permit();\n};\nissuancerules\n{\n};\n";

/// A policy that was well-formed, and its text.
#[derive(Debug)]
pub(super) struct PolicyText {
    text: String,
    pub(super) rules: Policy,
}

impl PolicyText {
    pub(super) fn parse(text: &str) -> Result<Self, ApiError> {
        let rules = Policy::parse(text)
            .map_err(|why| ApiError::bad_request("PolicyParsingError", format!("policy: {why}")))?;
        Ok(Self { text: text.to_owned(), rules })
    }

    /// As tokens name it: SHA-256 of the text's base64url, in base64url.
    pub(super) fn hash(&self) -> String {
        URL_SAFE_NO_PAD.encode(sha256(URL_SAFE_NO_PAD.encode(&self.text).as_bytes()))
    }

    fn jws(&self) -> Result<String> {
        let payload = json!({"AttestationPolicy": URL_SAFE_NO_PAD.encode(&self.text)});
        Ok(format!("{}.", signing_input(&json!({"alg": "none"}), &payload)?))
    }
}

/// The policy in force.
pub(super) struct Policies {
    path: PathBuf,
    current: Mutex<Arc<PolicyText>>,
}

impl Policies {
    /// Reads the policy in `dir`, or takes the default.
    pub(super) fn open(dir: &FilePath) -> Result<Self> {
        let path = dir.join("policy.txt");
        let text = match store::read(&path)? {
            Some(text) => String::from_utf8(text)?,
            None => DEFAULT.to_owned(),
        };
        let policy = PolicyText::parse(&text)
            .map_err(|error| anyhow!("{}: {}", path.display(), error.message))?;
        Ok(Self { path, current: Mutex::new(Arc::new(policy)) })
    }

    pub(super) fn current(&self) -> Arc<PolicyText> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// On disk first, then in force.
    fn set(&self, policy: PolicyText) -> Result<()> {
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        store::write(&self.path, policy.text.as_bytes())?;
        *current = Arc::new(policy);
        Ok(())
    }
}

/// 401 without the administrator's access token for this service, 403 with another's.
fn authorize(maa: &Maa, headers: &HeaderMap) -> Result<(), ApiError> {
    let token = headers
        .get(header::AUTHORIZATION)
        .and_then(|value| value.to_str().ok()?.strip_prefix("Bearer "));
    match token.and_then(|token| maa.oidc.check_access_token(token, MAA_RESOURCE)) {
        Some(Principal::Administrator) => Ok(()),
        Some(Principal::Workload) => Err(ApiError::new(
            StatusCode::FORBIDDEN,
            "Forbidden",
            "the caller does not have the role Attestation Contributor",
        )),
        None => Err(ApiError::new(
            StatusCode::UNAUTHORIZED,
            "Unauthorized",
            format!("a bearer token for {MAA_RESOURCE} is needed"),
        )),
    }
}

pub(super) async fn show(
    State(maa): State<Arc<Maa>>, Path(tee): Path<String>, Query(version): Query<ApiVersion>,
) -> Result<Json<Value>, ApiError> {
    check_tee(&tee)?;
    version.check()?;
    let policy = maa.policies.current();
    answer(&maa, policy.jws().map(|jws| json!({"x-ms-policy": jws})))
}

pub(super) async fn set(
    State(maa): State<Arc<Maa>>, Path(tee): Path<String>, Query(version): Query<ApiVersion>,
    headers: HeaderMap, body: Bytes,
) -> Result<Json<Value>, ApiError> {
    authorize(&maa, &headers)?;
    check_tee(&tee)?;
    version.check()?;
    let text = unsecured(&body)
        .map_err(|why| ApiError::bad_request("PolicyParsingError", format!("{why:#}")))?;
    put(&maa, PolicyText::parse(&text)?, "Updated")
}

/// POST /policies/SevSnpVm:reset is the one action there is.
pub(super) async fn reset(
    State(maa): State<Arc<Maa>>, Path(action): Path<String>, Query(version): Query<ApiVersion>,
    headers: HeaderMap,
) -> Result<Json<Value>, ApiError> {
    authorize(&maa, &headers)?;
    let tee = action.strip_suffix(":reset").ok_or_else(|| {
        ApiError::new(StatusCode::NOT_FOUND, "NotFound", format!("{action:?} is no action"))
    })?;
    check_tee(tee)?;
    version.check()?;
    put(&maa, PolicyText::parse(DEFAULT)?, "Removed")
}

fn put(maa: &Maa, policy: PolicyText, result: &str) -> Result<Json<Value>, ApiError> {
    let hash = policy.hash();
    maa.policies.set(policy).map_err(|error| ApiError::internal(&error))?;
    answer(maa, Ok(json!({"x-ms-policy-result": result, "x-ms-policy-token-hash": hash})))
}

fn answer(maa: &Maa, claims: Result<Value>) -> Result<Json<Value>, ApiError> {
    let token = claims.and_then(|claims| maa.sign(&claims));
    Ok(Json(json!({"token": token.map_err(|error| ApiError::internal(&error))?})))
}

/// The policy's text in an unsecured JWS. Signed policies are for instances that keep signers, which this one is not.
fn unsecured(jws: &[u8]) -> Result<String> {
    #[derive(Deserialize)]
    struct Header {
        alg: String,
    }
    #[derive(Deserialize)]
    struct Payload {
        #[serde(rename = "AttestationPolicy")]
        policy: String,
    }
    let jws = std::str::from_utf8(jws)?;
    let parts: Vec<_> = jws.trim().split('.').collect();
    let [header, payload, ""] = parts.as_slice() else {
        return Err(anyhow!("the body is not an unsecured JWS"));
    };
    let header: Header = serde_json::from_slice(&decode("the header", header)?)?;
    anyhow::ensure!(header.alg == "none", "alg {:?}: this instance has no signers", header.alg);
    let payload: Payload = serde_json::from_slice(&decode("the payload", payload)?)
        .context("the payload has no AttestationPolicy")?;
    Ok(String::from_utf8(decode("AttestationPolicy", &payload.policy)?)?)
}
