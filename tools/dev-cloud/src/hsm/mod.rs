//! The Managed HSM: keeps keys, and releases them, wrapped, to workloads whose attestation meets a key's policy.
//!
//! POST /keys/{name}/create, PUT /keys/{name} (import), GET and PATCH /keys/{name}/{version},
//! POST /keys/{name}/{version}/release; the version may be left out. Keys are oct-HSM.

mod authority;
mod keys;
mod policy;
mod signer;
mod wrap;

pub(crate) use signer::root_path;

use crate::http::{ApiError, parse};
use crate::oidc::{HSM_RESOURCE, Oidc, Principal, TENANT};
use crate::rsa_keys::RsaKeys;
use anyhow::Result;
use authority::{Authorities, Refusal};
use axum::body::Bytes;
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::routing::{get, post};
use axum::{Json, Router};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use keys::{Key, Keys, StoredPolicy};
use serde::Deserialize;
use serde_json::{Value, json};
use signer::Signer;
use std::sync::Arc;
use wrap::EncryptionKey;

/// The HSM.
pub(crate) struct Hsm {
    url: String,
    oidc: Arc<Oidc>,
    keys: Keys,
    signer: Signer,
    authorities: Authorities,
}

impl Hsm {
    /// Opens the HSM in `dir`; `host_name` is what its certificate is for.
    pub(crate) fn open(
        dir: &std::path::Path, rsa: &RsaKeys, url: String, host_name: &str, oidc: Arc<Oidc>,
    ) -> Result<Self> {
        crate::store::directory(dir)?;
        Ok(Self {
            url,
            oidc,
            keys: Keys::open(dir)?,
            signer: Signer::open(dir, rsa, host_name)?,
            authorities: Authorities::new()?,
        })
    }

    /// 401 without an access token for this service.
    fn authenticate(&self, headers: &HeaderMap) -> Result<Principal, ApiError> {
        let token = headers
            .get(header::AUTHORIZATION)
            .and_then(|value| value.to_str().ok()?.strip_prefix("Bearer "));
        if let Some(principal) =
            token.and_then(|token| self.oidc.check_access_token(token, HSM_RESOURCE))
        {
            return Ok(principal);
        }
        let challenge = format!(
            r#"Bearer authorization="{}/{TENANT}", resource="{HSM_RESOURCE}""#,
            self.oidc.issuer
        );
        let mut error = ApiError::new(
            StatusCode::UNAUTHORIZED,
            "Unauthorized",
            format!("a bearer token for {HSM_RESOURCE} is needed"),
        );
        error.header = HeaderValue::from_str(&challenge)
            .ok()
            .map(|challenge| (header::WWW_AUTHENTICATE, challenge));
        Err(error)
    }

    /// 403 without the role.
    fn authorize(&self, headers: &HeaderMap, needed: Principal) -> Result<(), ApiError> {
        let principal = self.authenticate(headers)?;
        if principal == needed {
            return Ok(());
        }
        let role = match needed {
            Principal::Administrator => "Managed HSM Crypto User",
            Principal::Workload => "Managed HSM Crypto Service Release User",
        };
        Err(ApiError::new(
            StatusCode::FORBIDDEN,
            "Forbidden",
            format!("caller {} does not have the role {role}", principal.object_id()),
        ))
    }

    fn kid(&self, name: &str, key: &Key) -> String {
        format!("{}/keys/{name}/{}", self.url, key.version)
    }
}

/// The service's routes.
pub(crate) fn router(hsm: Arc<Hsm>) -> Router {
    Router::new()
        .route("/keys/{name}", get(show).put(import).patch(update))
        .route("/keys/{name}/create", post(create))
        .route("/keys/{name}/release", post(release))
        .route("/keys/{name}//release", post(release))
        .route("/keys/{name}/{version}", get(show).patch(update))
        .route("/keys/{name}/{version}/release", post(release))
        .with_state(hsm)
}

#[derive(Deserialize)]
struct KeyPath {
    name: String,
    version: Option<String>,
}

#[derive(Deserialize)]
struct ApiVersion {
    #[serde(rename = "api-version")]
    api_version: Option<String>,
}

impl ApiVersion {
    fn check(&self) -> Result<&str, ApiError> {
        match self.api_version.as_deref() {
            Some(version @ ("7.4" | "7.5")) => Ok(version),
            Some("7.3") => {
                Err(bad_parameter("AKV.SKR.1001: api-version 7.3 does not release keys"))
            }
            _ => Err(bad_parameter("api-version must be 7.4 or 7.5")),
        }
    }
}

fn bad_parameter(message: impl Into<String>) -> ApiError {
    ApiError::bad_request("BadParameter", message)
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Attributes {
    enabled: Option<bool>,
    exportable: Option<bool>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct CreateRequest {
    kty: String,
    #[serde(default = "default_key_size")]
    key_size: usize,
    #[serde(default)]
    key_ops: Vec<String>,
    #[serde(default)]
    attributes: Attributes,
    release_policy: Option<StoredPolicy>,
}

fn default_key_size() -> usize {
    256
}

async fn create(
    State(hsm): State<Arc<Hsm>>, Path(path): Path<KeyPath>, Query(version): Query<ApiVersion>,
    headers: HeaderMap, body: Bytes,
) -> Result<Json<Value>, ApiError> {
    hsm.authorize(&headers, Principal::Administrator)?;
    version.check()?;
    let request: CreateRequest = parse(&body, "BadParameter")?;
    if request.kty != "oct-HSM" {
        return Err(bad_parameter("this HSM makes oct-HSM keys"));
    }
    if !matches!(request.key_size, 128 | 192 | 256) {
        return Err(bad_parameter("key_size of an oct-HSM key is 128, 192 or 256"));
    }
    let mut value = vec![0; request.key_size / 8];
    aws_lc_rs::rand::fill(&mut value).map_err(|error| ApiError::internal(&error.into()))?;
    add(&hsm, &path.name, &value, request.key_ops, &request.attributes, request.release_policy)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ImportRequest {
    key: ImportedKey,
    #[serde(default)]
    attributes: Attributes,
    release_policy: Option<StoredPolicy>,
    /// The real service takes it too; every key here is an HSM's.
    #[serde(rename = "Hsm", alias = "hsm", default)]
    _hsm: Option<bool>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ImportedKey {
    kty: String,
    k: String,
    #[serde(default)]
    key_ops: Vec<String>,
}

async fn import(
    State(hsm): State<Arc<Hsm>>, Path(path): Path<KeyPath>, Query(version): Query<ApiVersion>,
    headers: HeaderMap, body: Bytes,
) -> Result<Json<Value>, ApiError> {
    hsm.authorize(&headers, Principal::Administrator)?;
    version.check()?;
    let request: ImportRequest = parse(&body, "BadParameter")?;
    if request.key.kty != "oct-HSM" {
        return Err(bad_parameter("this HSM holds oct-HSM keys"));
    }
    let value = URL_SAFE_NO_PAD
        .decode(request.key.k.trim_end_matches('='))
        .ok()
        .filter(|value| matches!(value.len(), 16 | 24 | 32))
        .ok_or_else(|| bad_parameter("k is base64url of 16, 24 or 32 bytes"))?;
    add(&hsm, &path.name, &value, request.key.key_ops, &request.attributes, request.release_policy)
}

fn add(
    hsm: &Hsm, name: &str, value: &[u8], key_ops: Vec<String>, attributes: &Attributes,
    policy: Option<StoredPolicy>,
) -> Result<Json<Value>, ApiError> {
    let well_formed = (1..=127).contains(&name.len())
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
    if !well_formed {
        return Err(bad_parameter("a key's name is 1 to 127 letters, digits and dashes"));
    }
    let exportable = attributes.exportable.unwrap_or(false);
    match &policy {
        None if exportable => {
            return Err(bad_parameter("AKV.SKR.1004: Exportable keys must have release policy."));
        }
        Some(_) if !exportable => {
            return Err(bad_parameter(
                "AKV.SKR.1005: a key with a release policy must be exportable.",
            ));
        }
        Some(policy) => drop(policy.read()?),
        None => {}
    }
    let enabled = attributes.enabled.unwrap_or(true);
    let key = Key::new(value, key_ops, enabled, exportable, policy)
        .map_err(|error| ApiError::internal(&error))?;
    hsm.keys.add(name, key.clone())?;
    Ok(Json(key.bundle(&hsm.kid(name, &key))))
}

async fn show(
    State(hsm): State<Arc<Hsm>>, Path(path): Path<KeyPath>, Query(version): Query<ApiVersion>,
    headers: HeaderMap,
) -> Result<Json<Value>, ApiError> {
    hsm.authorize(&headers, Principal::Administrator)?;
    version.check()?;
    let key = hsm.keys.get(&path.name, path.version.as_deref())?;
    Ok(Json(key.bundle(&hsm.kid(&path.name, &key))))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct UpdateRequest {
    #[serde(default)]
    attributes: Attributes,
    release_policy: Option<StoredPolicy>,
}

async fn update(
    State(hsm): State<Arc<Hsm>>, Path(path): Path<KeyPath>, Query(version): Query<ApiVersion>,
    headers: HeaderMap, body: Bytes,
) -> Result<Json<Value>, ApiError> {
    hsm.authorize(&headers, Principal::Administrator)?;
    version.check()?;
    let request: UpdateRequest = parse(&body, "BadParameter")?;
    let key = hsm.keys.update(&path.name, path.version.as_deref(), |key| {
        if request.attributes.exportable.is_some_and(|exportable| exportable != key.exportable) {
            return Err(bad_parameter("AKV.SKR.1003: exportable cannot be changed."));
        }
        if let Some(policy) = request.release_policy {
            policy.read()?;
            match &key.release_policy {
                Some(old) if old.immutable => {
                    let message = "AKV.SKR.1020: Immutable Key Release Policy cannot be modified.";
                    return Err(bad_parameter(message));
                }
                Some(_) => key.release_policy = Some(policy),
                None => return Err(bad_parameter("AKV.SKR.1005: this key is not exportable.")),
            }
        }
        key.enabled = request.attributes.enabled.unwrap_or(key.enabled);
        Ok(())
    })?;
    Ok(Json(key.bundle(&hsm.kid(&path.name, &key))))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ReleaseRequest {
    target: String,
    nonce: Option<String>,
    enc: Option<String>,
}

async fn release(
    State(hsm): State<Arc<Hsm>>, Path(path): Path<KeyPath>, Query(version): Query<ApiVersion>,
    headers: HeaderMap, body: Bytes,
) -> Result<Json<Value>, ApiError> {
    // 1. Who asks, for which key.
    hsm.authorize(&headers, Principal::Workload)?;
    let api_version = version.check()?;
    let request: ReleaseRequest = parse(&body, "BadParameter")?;
    let enc = request.enc.as_deref().unwrap_or(wrap::DEFAULT);
    let algorithm =
        wrap::algorithm(enc).ok_or_else(|| bad_parameter(format!("enc {enc:?} is not known")))?;
    let key = hsm.keys.get(&path.name, path.version.as_deref())?;
    if !key.enabled {
        return Err(forbidden("the key is disabled"));
    }
    let Some(stored) = key.release_policy.as_ref().filter(|_| key.exportable) else {
        return Err(forbidden("the key is not exportable"));
    };

    // 2. The token, by an authority the policy names; then the policy.
    let policy = stored.read()?;
    let issuer = unverified_issuer(&request.target)?;
    if !policy.names(&issuer) {
        return Err(forbidden(format!("the release policy does not name the authority {issuer}")));
    }
    let claims = hsm.authorities.verify(&issuer, &request.target).await.map_err(|refusal| {
        match refusal {
            Refusal::Unreachable(why) => bad_parameter(format!(
                "AKV.SKR.1012: The specified attestation service {issuer} cannot be reached. ({why})"
            )),
            Refusal::Invalid(why) => forbidden(why),
        }
    })?;
    policy.check(&issuer, &claims).map_err(|unmet| {
        forbidden(format!("the release policy is not met: {}", unmet.join("; ")))
    })?;

    // 3. The key, for the workload's eyes only.
    let encryption_key = EncryptionKey::find(&claims)
        .map_err(|error| bad_parameter(format!("target: {error:#}")))?;
    let released = wrapped(encryption_key, algorithm, enc, &key).and_then(|key_hsm| {
        hsm.signer.sign(&payload(&hsm, &path, &key, api_version, enc, request.nonce, &key_hsm))
    });
    Ok(Json(json!({"value": released.map_err(|error| ApiError::internal(&error))?})))
}

fn forbidden(why: impl AsRef<str>) -> ApiError {
    ApiError::new(
        StatusCode::FORBIDDEN,
        "Forbidden",
        format!("The key is not released: {}", why.as_ref()),
    )
}

/// Only to know whose keys to fetch, and only among the authorities the policy names.
fn unverified_issuer(token: &str) -> Result<String, ApiError> {
    #[derive(Deserialize)]
    struct Claims {
        iss: String,
    }
    token
        .split('.')
        .nth(1)
        .and_then(|claims| URL_SAFE_NO_PAD.decode(claims).ok())
        .and_then(|claims| serde_json::from_slice::<Claims>(&claims).ok())
        .map(|claims| claims.iss)
        .ok_or_else(|| bad_parameter("target is not a JWT with an issuer"))
}

/// `key_hsm`: base64url of the JSON around the ciphertext.
fn wrapped(
    encryption_key: EncryptionKey, algorithm: &'static aws_lc_rs::rsa::OaepAlgorithm, enc: &str,
    key: &Key,
) -> Result<String> {
    let kid = encryption_key.kid.clone();
    let ciphertext = encryption_key.wrap(algorithm, &key.value()?)?;
    let key_hsm = json!({
        "schema_version": "1.0",
        "header": {"kid": kid, "alg": "dir", "enc": enc},
        "ciphertext": URL_SAFE_NO_PAD.encode(ciphertext),
    });
    Ok(URL_SAFE_NO_PAD.encode(serde_json::to_vec(&key_hsm)?))
}

fn payload(
    hsm: &Hsm, path: &KeyPath, key: &Key, api_version: &str, enc: &str, nonce: Option<String>,
    key_hsm: &str,
) -> Value {
    let asked = match &path.version {
        Some(version) => format!("{}/keys/{}/{version}", hsm.url, path.name),
        None => format!("{}/keys/{}", hsm.url, path.name),
    };
    let mut request = json!({"api-version": api_version, "enc": enc, "kid": asked});
    if let Some(nonce) = nonce {
        request["nonce"] = json!(nonce);
    }
    json!({
        "request": request,
        "response": {
            "key": {
                "attributes": key.attributes(),
                "key": {
                    "kid": hsm.kid(&path.name, key),
                    "kty": "oct-HSM",
                    "key_ops": key.key_ops,
                    "key_hsm": key_hsm,
                },
                "release_policy": key.release_policy,
            },
        },
    })
}
