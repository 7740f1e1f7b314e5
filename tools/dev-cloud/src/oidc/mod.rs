//! The OpenID Connect issuer, and the directory that gives machines their access tokens.
//!
//! Anyone may sign in as any name: on a page (authorization code with PKCE), or by one request (a grant of
//! the dev cloud's own, for scripts). What it signs is what a relying party of a real issuer verifies.

mod page;

use crate::clock;
use crate::digest::sha256;
use crate::keyring::{Keyring, SigningKey, signing_input};
use anyhow::Result;
use axum::extract::{Form, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::errors::ErrorKind;
use jsonwebtoken::{Algorithm, DecodingKey, Validation};
use page::{Code, Codes};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;

/// The dev cloud's own grant: sign in without a page.
pub const SIGN_IN_GRANT: &str = "urn:keyfold:dev:sign-in";
/// The audience of the HSM's access tokens.
pub(crate) const HSM_RESOURCE: &str = "https://managedhsm.azure.net";
/// The audience of the attestation service's access tokens, which only its policies need.
pub(crate) const MAA_RESOURCE: &str = "https://attest.azure.net";
/// The directory's tenant.
pub(crate) const TENANT: &str = "6b657966-6f6c-4064-8064-657600000000";
/// Client id of the key vault's administrator, for the client_credentials grant.
pub const ADMIN_CLIENT: &str = "keyfold-admin";
/// How long access tokens live.
pub(crate) const ACCESS_TOKEN_SECONDS: u64 = 86_400;

/// The issuer.
pub(crate) struct Oidc {
    pub(crate) issuer: String,
    pub(crate) keys: Keyring,
    clients: Vec<String>,
    lifetime: Duration,
    codes: Codes,
}

/// A machine with an access token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Principal {
    /// The confidential VM's managed identity: it may release keys, nothing else.
    Workload,
    /// Whoever made the key.
    Administrator,
}

impl Principal {
    /// Its object id in the directory.
    pub(crate) fn object_id(self) -> &'static str {
        match self {
            Self::Workload => "6b657966-6f6c-4064-8064-776f726b6c64",
            Self::Administrator => "6b657966-6f6c-4064-8064-61646d696e00",
        }
    }
}

/// A sign-in without a page. Everything but `username` has an honest default; the rest makes tokens that a
/// relying party must refuse.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SignIn {
    /// Who. The same name is always the same `sub`; upper and lower case are one.
    pub username: String,
    /// For which client; absent: the first configured.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_id: Option<String>,
    /// `nonce`, carried into the token.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nonce: Option<String>,
    /// How many seconds ago the person proved who they are.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub auth_age: Option<u64>,
    /// Seconds from now to `exp`; negative: expired.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expires_in: Option<i64>,
    /// Another `aud` than the client.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub audience: Option<String>,
    /// Another `iss`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub issuer: Option<String>,
    /// "foreign": signed by a key that is not published, under the published key's id. "none": not signed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub signature: Option<ForgedSignature>,
}

/// Ways not to sign a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ForgedSignature {
    /// By a key nobody published.
    Foreign,
    /// `alg` none.
    None,
}

impl SignIn {
    /// An honest sign-in.
    pub fn new(username: &str) -> Self {
        Self { username: username.to_owned(), ..Self::default() }
    }
}

/// An OAuth 2.0 error, RFC 6749 section 5.2.
pub(crate) struct OauthError(&'static str, pub(crate) String);

impl IntoResponse for OauthError {
    fn into_response(self) -> Response {
        let body = json!({"error": self.0, "error_description": self.1});
        (StatusCode::BAD_REQUEST, Json(body)).into_response()
    }
}

impl Oidc {
    pub(crate) fn new(
        issuer: String, keys: Keyring, clients: Vec<String>, lifetime: Duration,
    ) -> Self {
        Self { issuer, keys, clients, lifetime, codes: Codes::default() }
    }

    /// The ID token of a sign-in.
    pub(crate) fn sign_in(&self, request: &SignIn) -> Result<String, OauthError> {
        let username = request.username.trim();
        if username.is_empty() || username.len() > 256 {
            return Err(OauthError("invalid_request", "username is 1 to 256 bytes".into()));
        }
        let client = match &request.client_id {
            Some(client) => self.client(client)?,
            None => self.clients.first().map_or("", String::as_str),
        };
        let now = clock::now();
        let lifetime = i64::try_from(self.lifetime.as_secs()).unwrap_or(i64::MAX);
        let expires_in = request.expires_in.unwrap_or(lifetime);
        let mut claims = json!({
            "iss": request.issuer.as_deref().unwrap_or(&self.issuer),
            "sub": subject(username),
            "aud": request.audience.as_deref().unwrap_or(client),
            "exp": now.saturating_add_signed(expires_in),
            "iat": now,
            "nbf": now,
            "auth_time": now.saturating_sub(request.auth_age.unwrap_or(0)),
            "preferred_username": username,
        });
        if let Some(nonce) = &request.nonce {
            claims["nonce"] = json!(nonce);
        }
        self.signed(&claims, request.signature)
            .map_err(|error| OauthError("server_error", format!("{error:#}")))
    }

    fn signed(&self, claims: &Value, forged: Option<ForgedSignature>) -> Result<String> {
        let key = self.keys.current()?;
        match forged {
            None => key.jwt(claims),
            Some(ForgedSignature::Foreign) => SigningKey::unpublished(&key.kid)?.jwt(claims),
            Some(ForgedSignature::None) => {
                let header = json!({"alg": "none", "typ": "JWT", "kid": key.kid});
                Ok(format!("{}.", signing_input(&header, claims)?))
            }
        }
    }

    fn client<'a>(&self, client: &'a str) -> Result<&'a str, OauthError> {
        match self.clients.iter().any(|known| known == client) {
            true => Ok(client),
            false => Err(OauthError(
                "invalid_client",
                format!("client {client:?} is not registered; known: {}", self.clients.join(", ")),
            )),
        }
    }

    /// A machine's token for `resource`.
    pub(crate) fn access_token(&self, principal: Principal, resource: &str) -> Result<String> {
        let now = clock::now();
        self.keys.current()?.jwt(&json!({
            "aud": resource,
            "iss": self.issuer,
            "iat": now,
            "nbf": now,
            "exp": now + ACCESS_TOKEN_SECONDS,
            "oid": principal.object_id(),
            "sub": principal.object_id(),
            "tid": TENANT,
            "ver": "1.0",
        }))
    }

    /// Whose token for `resource` this is.
    pub(crate) fn check_access_token(&self, token: &str, resource: &str) -> Option<Principal> {
        #[derive(Deserialize)]
        struct Claims {
            oid: String,
        }
        let claims: Claims = self.verify(token, resource).ok()?;
        [Principal::Workload, Principal::Administrator]
            .into_iter()
            .find(|principal| principal.object_id() == claims.oid)
    }

    /// The claims of a token of this issuer for `audience` that is valid now.
    pub(crate) fn verify<T: DeserializeOwned>(
        &self, token: &str, audience: &str,
    ) -> Result<T, ErrorKind> {
        let kid = jsonwebtoken::decode_header(token).map_err(|error| error.into_kind())?.kid;
        let keys = self.keys.all();
        let key = keys.iter().find(|key| Some(&key.kid) == kid.as_ref());
        let key = key.ok_or(ErrorKind::InvalidSignature)?;
        let mut validation = Validation::new(Algorithm::RS256);
        validation.set_audience(&[audience]);
        validation.set_issuer(&[&self.issuer]);
        validation.set_required_spec_claims(&["exp", "aud", "iss"]);
        validation.validate_nbf = true;
        let key = DecodingKey::from_rsa_der(key.public_der());
        let token = jsonwebtoken::decode(token, &key, &validation);
        token.map(|token| token.claims).map_err(|error| error.into_kind())
    }
}

/// The issuer's routes.
pub(crate) fn router(oidc: Arc<Oidc>) -> Router {
    Router::new()
        .route("/.well-known/openid-configuration", get(discovery))
        .route("/jwks", get(jwks))
        .route("/authorize", get(page::show).post(page::submit))
        .route("/token", post(token))
        .with_state(oidc)
}

async fn discovery(State(oidc): State<Arc<Oidc>>) -> Json<Value> {
    let issuer = &oidc.issuer;
    Json(json!({
        "issuer": issuer,
        "authorization_endpoint": format!("{issuer}/authorize"),
        "token_endpoint": format!("{issuer}/token"),
        "jwks_uri": format!("{issuer}/jwks"),
        "response_types_supported": ["code"],
        "response_modes_supported": ["query"],
        "grant_types_supported": ["authorization_code", "client_credentials", SIGN_IN_GRANT],
        "subject_types_supported": ["public"],
        "id_token_signing_alg_values_supported": ["RS256"],
        "token_endpoint_auth_methods_supported": ["none"],
        "code_challenge_methods_supported": ["S256"],
        "scopes_supported": ["openid"],
        "claims_supported":
            ["iss", "sub", "aud", "exp", "iat", "nbf", "auth_time", "nonce", "preferred_username"],
    }))
}

async fn jwks(State(oidc): State<Arc<Oidc>>) -> Json<Value> {
    let keys: Vec<_> = oidc.keys.all().iter().map(|key| key.jwk()).collect();
    Json(json!({"keys": keys}))
}

async fn token(
    State(oidc): State<Arc<Oidc>>,
    Form(mut fields): Form<std::collections::BTreeMap<String, String>>,
) -> Result<Json<Value>, OauthError> {
    let grant = fields.remove("grant_type").unwrap_or_default();
    let fields = Value::Object(fields.into_iter().map(|(k, v)| (k, json!(v))).collect());
    match grant.as_str() {
        "authorization_code" => redeem(&oidc, read(fields)?),
        SIGN_IN_GRANT => {
            let id_token = oidc.sign_in(&sign_in_form(fields)?)?;
            Ok(id_token_response(&oidc, &id_token))
        }
        "client_credentials" => client_credentials(&oidc, read(fields)?),
        other => {
            Err(OauthError("unsupported_grant_type", format!("grant_type {other:?} is not known")))
        }
    }
}

fn read<T: DeserializeOwned>(fields: Value) -> Result<T, OauthError> {
    serde_json::from_value(fields)
        .map_err(|error| OauthError("invalid_request", format!("the form does not fit: {error}")))
}

/// Form fields are text; two of the sign-in's are numbers.
fn sign_in_form(mut fields: Value) -> Result<SignIn, OauthError> {
    for name in ["auth_age", "expires_in"] {
        if let Some(text) = fields[name].as_str() {
            let number: i64 = text.parse().map_err(|_| {
                OauthError("invalid_request", format!("{name} is a whole number of seconds"))
            })?;
            fields[name] = json!(number);
        } else if let Some(fields) = fields.as_object_mut() {
            fields.remove(name);
        }
    }
    read(fields)
}

fn id_token_response(oidc: &Oidc, id_token: &str) -> Json<Value> {
    Json(json!({
        "token_type": "Bearer",
        "expires_in": oidc.lifetime.as_secs(),
        "scope": "openid",
        "id_token": id_token,
        // Keyfold sends the ID token; issuers give this too, and nothing accepts it.
        "access_token": URL_SAFE_NO_PAD.encode(random()),
    }))
}

#[derive(Deserialize)]
struct CodeForm {
    code: String,
    redirect_uri: String,
    client_id: String,
    code_verifier: String,
}

/// RFC 6749 section 4.1.3 and RFC 7636 section 4.6.
fn redeem(oidc: &Oidc, form: CodeForm) -> Result<Json<Value>, OauthError> {
    let refused = |why: &str| OauthError("invalid_grant", why.to_owned());
    // Taken out first: a code serves one attempt, right or wrong.
    let code: Code = oidc
        .codes
        .take(&form.code)
        .ok_or_else(|| refused("the code is unknown, used or expired"))?;
    if code.client_id != form.client_id {
        return Err(refused("the code was issued to another client"));
    }
    if code.redirect_uri != form.redirect_uri {
        return Err(refused("redirect_uri is not the authorization request's"));
    }
    let verifier = form.code_verifier.as_bytes();
    if !(43..=128).contains(&verifier.len()) {
        return Err(refused("code_verifier is 43 to 128 characters"));
    }
    if URL_SAFE_NO_PAD.encode(sha256(verifier)) != code.challenge {
        return Err(refused("code_verifier does not match the code_challenge"));
    }
    let sign_in = SignIn {
        username: code.username,
        client_id: Some(code.client_id),
        nonce: code.nonce,
        auth_age: Some(clock::now().saturating_sub(code.signed_in_at)),
        ..SignIn::default()
    };
    let id_token = oidc.sign_in(&sign_in)?;
    Ok(id_token_response(oidc, &id_token))
}

#[derive(Deserialize)]
struct ClientCredentialsForm {
    client_id: String,
    scope: String,
}

fn client_credentials(oidc: &Oidc, form: ClientCredentialsForm) -> Result<Json<Value>, OauthError> {
    if form.client_id != ADMIN_CLIENT {
        return Err(OauthError("invalid_client", format!("only {ADMIN_CLIENT} has credentials")));
    }
    let resource = form
        .scope
        .strip_suffix("/.default")
        .ok_or_else(|| OauthError("invalid_scope", "scope is <resource>/.default".into()))?;
    let token = oidc
        .access_token(Principal::Administrator, resource)
        .map_err(|error| OauthError("server_error", format!("{error:#}")))?;
    Ok(Json(json!({
        "token_type": "Bearer",
        "expires_in": ACCESS_TOKEN_SECONDS,
        "access_token": token,
    })))
}

/// Stable per name, and not the name.
fn subject(username: &str) -> String {
    let text = format!("keyfold-dev-cloud subject\n{}", username.to_lowercase());
    URL_SAFE_NO_PAD.encode(sha256(text.as_bytes()))
}

/// 32 bytes nobody can guess.
fn random() -> [u8; 32] {
    let mut bytes = [0; 32];
    // aws-lc aborts the process rather than hand out weak randomness.
    let _ = aws_lc_rs::rand::fill(&mut bytes);
    bytes
}
