//! The Managed HSM: keeps keys, and releases them, wrapped, to workloads whose attestation meets a key's policy.
//!
//! POST /keys/{name}/create, PUT /keys/{name} (import), GET and PATCH /keys/{name}/{version},
//! POST /keys/{name}/{version}/release; the version may be left out. Keys are oct, oct-HSM and RSA-HSM.

mod authority;
mod keys;
mod policy;
mod signer;
mod wrap;

pub(crate) use signer::root_path;

use crate::fail::{Failures, Mode, Service};
use crate::http::{ApiError, parse};
use crate::oidc::{HSM_RESOURCE, Oidc, Principal};
use crate::rsa_keys::{RsaKeys, pkcs8};
use anyhow::Result;
use authority::{Authorities, Refusal};
use aws_lc_rs::rsa::{KeyPair, KeySize};
use axum::body::Bytes;
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::routing::{get, post};
use axum::{Json, Router};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use keys::{Attributes, Key, KeyType, Keys, Material, StoredPolicy};
use serde::Deserialize;
use serde_json::{Value, json};
use signer::Signer;
use std::sync::Arc;
use wrap::{EncryptionKey, Wrapping};

/// The HSM.
pub(crate) struct Hsm {
    url: String,
    oidc: Arc<Oidc>,
    keys: Keys,
    signer: Signer,
    authorities: Authorities,
    rsa: RsaKeys,
    failures: Arc<Failures>,
    challenge: HeaderValue,
}

/// Where the HSM is, and whom it asks.
pub(crate) struct Place {
    pub(crate) url: String,
    /// What its certificate is for.
    pub(crate) host_name: &'static str,
    /// Who signs access tokens.
    pub(crate) oidc: Arc<Oidc>,
    /// Where access tokens are to be had, as its challenge says.
    pub(crate) authorization: String,
}

impl Hsm {
    /// Opens the HSM in `dir`.
    pub(crate) fn open(
        dir: &std::path::Path, rsa: &RsaKeys, place: Place, failures: Arc<Failures>,
    ) -> Result<Self> {
        crate::store::directory(dir)?;
        let challenge =
            format!(r#"Bearer authorization="{}", resource="{HSM_RESOURCE}""#, place.authorization);
        Ok(Self {
            url: place.url,
            oidc: place.oidc,
            keys: Keys::open(dir)?,
            signer: Signer::open(dir, rsa, place.host_name)?,
            authorities: Authorities::new()?,
            rsa: rsa.clone(),
            failures,
            challenge: HeaderValue::from_str(&challenge)?,
        })
    }

    /// WWW-Authenticate of a 401.
    pub(crate) fn challenge(&self) -> HeaderValue {
        self.challenge.clone()
    }

    /// The key, with the policy it carries now.
    fn key(&self, path: &KeyPath) -> Result<Key, ApiError> {
        let mut key = self.keys.get(&path.name, path.version.as_deref())?;
        if let Some(policy) = &key.release_policy
            && self.failures.take(Service::Hsm, &Mode::StalePolicy)
        {
            key.release_policy = Some(policy.stale().map_err(|error| ApiError::internal(&error))?);
        }
        Ok(key)
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
        let mut error = ApiError::new(
            StatusCode::UNAUTHORIZED,
            "Unauthorized",
            format!("a bearer token for {HSM_RESOURCE} is needed"),
        );
        error.header = Some((header::WWW_AUTHENTICATE, self.challenge()));
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

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct CreateRequest {
    kty: String,
    key_size: Option<usize>,
    #[serde(default)]
    key_ops: Vec<String>,
    #[serde(default)]
    attributes: Attributes,
    release_policy: Option<StoredPolicy>,
}

async fn create(
    State(hsm): State<Arc<Hsm>>, Path(path): Path<KeyPath>, Query(version): Query<ApiVersion>,
    headers: HeaderMap, body: Bytes,
) -> Result<Json<Value>, ApiError> {
    hsm.authorize(&headers, Principal::Administrator)?;
    version.check()?;
    let request: CreateRequest = parse(&body, "BadParameter")?;
    let kty = key_type(&request.kty, &request.attributes)?;
    let value = match kty {
        KeyType::Oct | KeyType::OctHsm => {
            let size = request.key_size.unwrap_or(256);
            if !matches!(size, 128 | 192 | 256) {
                return Err(bad_parameter("key_size of an oct key is 128, 192 or 256"));
            }
            let mut value = vec![0; size / 8];
            aws_lc_rs::rand::fill(&mut value).map_err(|error| ApiError::internal(&error.into()))?;
            value
        }
        KeyType::RsaHsm => {
            let size = match request.key_size.unwrap_or(2048) {
                2048 => KeySize::Rsa2048,
                3072 => KeySize::Rsa3072,
                4096 => KeySize::Rsa4096,
                _ => return Err(bad_parameter("key_size of an RSA key is 2048, 3072 or 4096")),
            };
            let made = tokio::task::spawn_blocking(move || pkcs8(&KeyPair::generate(size)?)).await;
            let made = made.map_err(anyhow::Error::from).flatten();
            made.map_err(|error| ApiError::internal(&error))?
        }
    };
    let material = Material { kty, value, key_ops: request.key_ops };
    add(&hsm, &path.name, material, request.attributes, request.release_policy)
}

/// Only keys that the hardware protects can be released.
fn key_type(kty: &str, attributes: &Attributes) -> Result<KeyType, ApiError> {
    match kty {
        "oct" => Ok(KeyType::Oct),
        "oct-HSM" => Ok(KeyType::OctHsm),
        "RSA-HSM" => Ok(KeyType::RsaHsm),
        "RSA" | "EC" if attributes.exportable == Some(true) => Err(bad_parameter(format!(
            "AKV.SKR.1006: an exportable key must be an HSM's, {kty}-HSM."
        ))),
        other => {
            Err(bad_parameter(format!("this HSM holds oct, oct-HSM and RSA-HSM keys, not {other}")))
        }
    }
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
    let kty = key_type(&request.key.kty, &request.attributes)?;
    if kty == KeyType::RsaHsm {
        return Err(bad_parameter("only oct and oct-HSM keys are imported here"));
    }
    let value = URL_SAFE_NO_PAD
        .decode(request.key.k.trim_end_matches('='))
        .ok()
        .filter(|value| matches!(value.len(), 16 | 24 | 32))
        .ok_or_else(|| bad_parameter("k is base64url of 16, 24 or 32 bytes"))?;
    let material = Material { kty, value, key_ops: request.key.key_ops };
    add(&hsm, &path.name, material, request.attributes, request.release_policy)
}

fn add(
    hsm: &Hsm, name: &str, material: Material, attributes: Attributes, policy: Option<StoredPolicy>,
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
    let key = Key::new(material, attributes, policy).map_err(|error| ApiError::internal(&error))?;
    hsm.keys.add(name, key.clone())?;
    bundle(hsm, name, &key)
}

fn bundle(hsm: &Hsm, name: &str, key: &Key) -> Result<Json<Value>, ApiError> {
    key.bundle(&hsm.kid(name, key)).map(Json).map_err(|error| ApiError::internal(&error))
}

async fn show(
    State(hsm): State<Arc<Hsm>>, Path(path): Path<KeyPath>, Query(version): Query<ApiVersion>,
    headers: HeaderMap,
) -> Result<Json<Value>, ApiError> {
    hsm.authorize(&headers, Principal::Administrator)?;
    version.check()?;
    let key = hsm.key(&path)?;
    bundle(&hsm, &path.name, &key)
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
        if request.attributes.exportable.is_some_and(|exportable| exportable != key.exportable()) {
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
        key.attributes = request.attributes.or(key.attributes.clone());
        Ok(())
    })?;
    bundle(&hsm, &path.name, &key)
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
    let wrapping = Wrapping::parse(request.enc.as_deref())
        .ok_or_else(|| bad_parameter(format!("enc {:?} is not known", request.enc)))?;
    let key = hsm.key(&path)?;
    if !key.enabled() {
        return Err(forbidden("the key is disabled"));
    }
    let Some(stored) = key.release_policy.as_ref().filter(|_| key.exportable()) else {
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
    let released = async {
        let key_hsm = wrapped(&hsm, encryption_key, wrapping, &key).await?;
        let asked = Asked { path: &path, api_version, wrapping, nonce: request.nonce };
        let payload = payload(&hsm, asked, &key, &key_hsm)?;
        let foreign = hsm.failures.take_some(Service::Hsm, |mode| match mode {
            Mode::ForeignCertificate(foreign) => Some(*foreign),
            _ => None,
        });
        hsm.signer.sign(&payload, foreign)
    };
    Ok(Json(json!({"value": released.await.map_err(|error| ApiError::internal(&error))?})))
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
async fn wrapped(hsm: &Hsm, to: EncryptionKey, wrapping: Wrapping, key: &Key) -> Result<String> {
    let fails = |mode| hsm.failures.take(Service::Hsm, &mode);
    let to = if fails(Mode::RewrappedCiphertext) {
        let rsa = hsm.rsa.clone();
        tokio::task::spawn_blocking(move || to.exchanged(&rsa)).await??
    } else {
        to
    };
    let kid = to.kid.clone();
    let hashed = if fails(Mode::WrongOaepHash) { wrapping.other() } else { wrapping };
    let mut ciphertext = to.wrap(hashed, &key.value()?)?;
    if fails(Mode::TruncatedCiphertext) {
        ciphertext.pop();
    }
    let key_hsm = json!({
        "schema_version": "1.0",
        "header": {"kid": kid, "alg": "dir", "enc": wrapping.enc()},
        "ciphertext": URL_SAFE_NO_PAD.encode(ciphertext),
    });
    Ok(URL_SAFE_NO_PAD.encode(serde_json::to_vec(&key_hsm)?))
}

/// What a release says it was asked.
struct Asked<'a> {
    path: &'a KeyPath,
    api_version: &'a str,
    wrapping: Wrapping,
    nonce: Option<String>,
}

fn payload(hsm: &Hsm, asked: Asked, key: &Key, key_hsm: &str) -> Result<Value> {
    let path = asked.path;
    let kid = match &path.version {
        Some(version) => format!("{}/keys/{}/{version}", hsm.url, path.name),
        None => format!("{}/keys/{}", hsm.url, path.name),
    };
    let mut request =
        json!({"api-version": asked.api_version, "enc": asked.wrapping.enc(), "kid": kid});
    if let Some(nonce) = asked.nonce {
        request["nonce"] = json!(nonce);
    }
    let mut jwk = key.released_jwk(&hsm.kid(&path.name, key))?;
    jwk["key_hsm"] = json!(key_hsm);
    Ok(json!({
        "request": request,
        "response": {
            "key": {
                "attributes": key.shown_attributes(),
                "key": jwk,
                "release_policy": key.release_policy,
            },
        },
    }))
}
