//! An OpenID Connect issuer that signs whatever a test wants.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use axum::extract::{Form, State};
use axum::http::StatusCode;
use axum::routing::{get, post};
use axum::{Json, Router};
use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use jsonwebtoken::{EncodingKey, Header};
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair};
use serde_json::{Value, json};

use crate::deployment::now;

/// Changes an ID token's header and claims before it is signed.
type TokenEdit = Box<dyn FnMut(&mut Header, &mut Value) + Send>;

pub(crate) const CLIENT: &str = "keyfold-cli";

#[derive(Clone)]
pub(crate) struct Issuer {
    pub(crate) url: String,
    shared: Arc<Mutex<Shared>>,
}

struct Shared {
    url: String,
    keys: Vec<(String, Vec<u8>)>,
    discovery: Option<Value>,
    edit: Option<TokenEdit>,
    /// Forms the token endpoint got.
    forms: Vec<BTreeMap<String, String>>,
    nonce: String,
}

impl Issuer {
    pub(crate) async fn start() -> Self {
        let shared = Arc::new(Mutex::new(Shared {
            url: String::new(),
            keys: vec![("k1".into(), new_key())],
            discovery: None,
            edit: None,
            forms: Vec::new(),
            nonce: String::new(),
        }));
        let router = Router::new()
            .route("/.well-known/openid-configuration", get(discovery))
            .route("/jwks", get(jwks))
            .route("/token", post(token))
            .with_state(shared.clone());
        let url = super::serve(router).await;
        shared.lock().unwrap().url = url.clone();
        Self { url, shared }
    }

    /// How many times somebody signed in.
    pub(crate) fn sign_ins(&self) -> usize {
        self.shared.lock().unwrap().forms.len()
    }

    pub(crate) fn last_form(&self) -> BTreeMap<String, String> {
        self.shared.lock().unwrap().forms.last().unwrap().clone()
    }

    pub(crate) fn edit(&self, edit: impl FnMut(&mut Header, &mut Value) + Send + 'static) {
        self.shared.lock().unwrap().edit = Some(Box::new(edit));
    }

    pub(crate) fn set_discovery(&self, document: Value) {
        self.shared.lock().unwrap().discovery = Some(document);
    }

    /// For the code flow, whose nonce only the authorization request carries.
    pub(crate) fn set_nonce(&self, nonce: &str) {
        self.shared.lock().unwrap().nonce = nonce.into();
    }

    /// Signs with a key that is not published, under a published key's id.
    pub(crate) fn sign_with_unpublished_key(&self) {
        let mut shared = self.shared.lock().unwrap();
        let url = shared.url.clone();
        shared.edit = None;
        shared.keys.insert(0, ("k1".into(), new_key()));
        shared.discovery = Some(json!({
            "issuer": url,
            "authorization_endpoint": format!("{url}/authorize"),
            "token_endpoint": format!("{url}/token"),
            "jwks_uri": format!("{url}/jwks"),
        }));
    }
}

fn new_key() -> Vec<u8> {
    let algorithm = &ECDSA_P256_SHA256_FIXED_SIGNING;
    EcdsaKeyPair::generate_pkcs8(algorithm, &SystemRandom::new()).unwrap().as_ref().to_vec()
}

async fn discovery(State(shared): State<Arc<Mutex<Shared>>>) -> Json<Value> {
    let shared = shared.lock().unwrap();
    let url = &shared.url;
    Json(shared.discovery.clone().unwrap_or_else(|| {
        json!({
            "issuer": url,
            "authorization_endpoint": format!("{url}/authorize"),
            "token_endpoint": format!("{url}/token"),
            "jwks_uri": format!("{url}/jwks"),
        })
    }))
}

/// Publishes the oldest key only.
async fn jwks(State(shared): State<Arc<Mutex<Shared>>>) -> Json<Value> {
    let shared = shared.lock().unwrap();
    let (kid, pkcs8) = shared.keys.last().unwrap();
    let algorithm = &ECDSA_P256_SHA256_FIXED_SIGNING;
    let pair = EcdsaKeyPair::from_pkcs8(algorithm, pkcs8, &SystemRandom::new()).unwrap();
    let point = pair.public_key().as_ref();
    let encode = |bytes: &[u8]| BASE64_URL_SAFE_NO_PAD.encode(bytes);
    Json(json!({"keys": [{
        "kty": "EC", "crv": "P-256", "use": "sig", "alg": "ES256", "kid": kid,
        "x": encode(&point[1..33]), "y": encode(&point[33..]),
    }]}))
}

async fn token(
    State(shared): State<Arc<Mutex<Shared>>>, Form(form): Form<BTreeMap<String, String>>,
) -> (StatusCode, Json<Value>) {
    let mut shared = shared.lock().unwrap();
    shared.forms.push(form.clone());
    let username = form.get("username").map_or("ana", String::as_str);
    if username == "nobody" {
        let error = json!({"error": "access_denied", "error_description": "unknown person"});
        return (StatusCode::BAD_REQUEST, Json(error));
    }
    let now = now().unwrap().unix_seconds();
    let mut claims = json!({
        "iss": shared.url, "sub": format!("subject of {username}"), "aud": CLIENT,
        "iat": now, "exp": now + 3600, "auth_time": now,
        "nonce": form.get("nonce").unwrap_or(&shared.nonce),
    });
    let mut header = Header::new(jsonwebtoken::Algorithm::ES256);
    let (kid, pkcs8) = shared.keys.first().unwrap().clone();
    header.kid = Some(kid);
    if let Some(edit) = &mut shared.edit {
        edit(&mut header, &mut claims);
    }
    let key = match header.alg {
        jsonwebtoken::Algorithm::HS256 => EncodingKey::from_secret(b"anything"),
        _ => EncodingKey::from_ec_der(&pkcs8),
    };
    let token = jsonwebtoken::encode(&header, &claims, &key).unwrap();
    (StatusCode::OK, Json(json!({"id_token": token, "token_type": "Bearer"})))
}
