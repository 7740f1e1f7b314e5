//! Who asks: OpenID Connect ID tokens, checked against the issuer's published keys.
//!
//! Promises: a token counts only if it is signed by one of the issuer's keys with a pinned algorithm,
//! names the pinned issuer and audience, and is inside its time. Keys are fetched once and again when
//! a token names an unknown one, not more than once in [`REFRESH_PAUSE`]; while the issuer is away the
//! last good keys serve. What was checked is remembered for a while under the token's hash.

use crate::clock::unix_now;
use crate::config;
use crate::metrics::{Counter, Metrics};
use crate::problem::{Kind, Problem};
use jsonwebtoken::jwk::{Jwk, PublicKeyUse};
use jsonwebtoken::{Algorithm, DecodingKey, Validation};
use keyfold_protocol::ids::AccountId;
use keyfold_protocol::transcript;
use serde::Deserialize;
use std::collections::HashMap;
use std::str::FromStr;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant};

/// How old a sign-in may be for what asks for a fresh one.
pub const FRESH: Duration = Duration::from_secs(300);
/// Between two fetches of the issuer's keys.
pub const REFRESH_PAUSE: Duration = Duration::from_secs(10);
/// Keys older than this are fetched again when next used.
const KEYS_AGE: Duration = Duration::from_secs(3600);
/// A checked token is checked again after this, so that a key the issuer withdraws loses its power.
const REMEMBER: u64 = 300;
/// Checked tokens per half of the memory.
const REMEMBERED: usize = 65_536;
/// Larger tokens are nobody's.
const TOKEN: usize = 8 * 1024;

/// The person a token stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Person {
    /// Their account id.
    pub id: AccountId,
    /// When they last signed in actively, in seconds since 1970, if the token says so.
    pub auth_time: Option<u64>,
    /// When this stops to hold, in seconds since 1970.
    pub valid_until: u64,
}

/// Checks tokens of one issuer.
pub struct Identity {
    config: config::Identity,
    http: reqwest::Client,
    keys: RwLock<Arc<Keys>>,
    last_fetch: tokio::sync::Mutex<Option<Instant>>,
    checked: Mutex<Memory>,
    metrics: Arc<Metrics>,
}

/// The issuer's keys as last fetched.
#[derive(Default)]
struct Keys {
    keys: Vec<Key>,
    fetched: Option<Instant>,
}

struct Key {
    id: Option<String>,
    algorithm: Option<Algorithm>,
    key: DecodingKey,
}

/// Two halves: when the newer is full it becomes the older, and the older is forgotten.
#[derive(Default)]
struct Memory {
    newer: HashMap<[u8; 32], Person>,
    older: HashMap<[u8; 32], Person>,
}

#[derive(Deserialize)]
struct Claims {
    iss: String,
    sub: String,
    exp: u64,
    #[serde(default)]
    auth_time: Option<u64>,
}

#[derive(Deserialize)]
struct Discovery {
    issuer: String,
    jwks_uri: String,
}

#[derive(Deserialize)]
struct KeyList {
    keys: Vec<serde_json::Value>,
}

impl Identity {
    /// Knows no keys yet; the first token fetches them.
    pub fn new(config: config::Identity, http: reqwest::Client, metrics: Arc<Metrics>) -> Self {
        Self {
            config,
            http,
            keys: RwLock::default(),
            last_fetch: tokio::sync::Mutex::new(None),
            checked: Mutex::default(),
            metrics,
        }
    }

    /// The person behind a bearer token.
    pub async fn authenticate(&self, token: &str) -> Result<Person, Problem> {
        let hash = sha256(&[token.as_bytes()]);
        if let Some(person) = self.recall(&hash) {
            self.metrics.tokens.with("remembered", Counter::increment);
            return Ok(person);
        }
        match self.check(token).await {
            Ok(person) => {
                self.metrics.tokens.with("accepted", Counter::increment);
                lock(&self.checked).insert(hash, person);
                Ok(person)
            }
            Err(problem) => {
                self.metrics.tokens.with("refused", Counter::increment);
                tracing::debug!(reason = problem.detail, "token refused");
                Err(problem)
            }
        }
    }

    /// Whether the sign-in behind the token is of the last five minutes.
    pub fn require_fresh(&self, person: &Person) -> Result<(), Problem> {
        let now = unix_now();
        let leeway = self.config.leeway.as_secs();
        let fresh = |at: u64| {
            at <= now.saturating_add(leeway) && now.saturating_sub(at) <= FRESH.as_secs() + leeway
        };
        if person.auth_time.is_some_and(fresh) {
            return Ok(());
        }
        Err(match person.auth_time {
            Some(_) => Kind::FreshSignInRequired.into(),
            None => Kind::FreshSignInRequired
                .because("The token does not say when you signed in (auth_time)"),
        })
    }

    fn recall(&self, hash: &[u8; 32]) -> Option<Person> {
        let found = lock(&self.checked).get(hash)?;
        (unix_now() < found.valid_until).then_some(found)
    }

    async fn check(&self, token: &str) -> Result<Person, Problem> {
        if token.len() > TOKEN {
            return Err(refused("The token is too large"));
        }
        let header = jsonwebtoken::decode_header(token)
            .map_err(|_| refused("The token is no signed JWT"))?;
        if !self.config.algorithms.contains(&header.alg) {
            return Err(refused(format!("Tokens signed with {:?} are not accepted", header.alg)));
        }
        let keys = self.keys_for(header.kid.as_deref()).await?;
        let key = keys
            .find(header.kid.as_deref())
            .ok_or_else(|| refused("The token is signed with a key the issuer does not publish"))?;
        if key.algorithm.is_some_and(|algorithm| algorithm != header.alg)
            || key.key.family() != header.alg.family()
        {
            return Err(refused("The token's key is for another algorithm"));
        }
        let mut validation = Validation::new(header.alg);
        validation.set_issuer(&[&self.config.issuer]);
        validation.set_audience(&[&self.config.audience]);
        validation.set_required_spec_claims(&["exp", "iss", "aud", "sub"]);
        validation.validate_nbf = true;
        validation.leeway = self.config.leeway.as_secs();
        let claims = jsonwebtoken::decode::<Claims>(token, &key.key, &validation)
            .map_err(|error| refused(format!("The token does not count: {error}")))?
            .claims;
        let valid_until =
            claims.exp.saturating_add(validation.leeway).min(unix_now().saturating_add(REMEMBER));
        let id = transcript::account_id(sha256, &claims.iss, &claims.sub);
        Ok(Person { id, auth_time: claims.auth_time, valid_until })
    }

    /// The keys, fetched again first if the one that is asked for is not among them.
    async fn keys_for(&self, id: Option<&str>) -> Result<Arc<Keys>, Problem> {
        let known = self.known_keys();
        let old = known.fetched.is_none_or(|at| at.elapsed() > KEYS_AGE);
        if known.find(id).is_some() && !old {
            return Ok(known);
        }
        let mut last_fetch = self.last_fetch.lock().await;
        let fetched = self.known_keys();
        if !Arc::ptr_eq(&fetched, &known) {
            return Ok(fetched);
        }
        if last_fetch.is_some_and(|at| at.elapsed() < REFRESH_PAUSE) {
            return known.or_unreachable();
        }
        *last_fetch = Some(Instant::now());
        match self.fetch().await {
            Ok(keys) => {
                self.metrics.issuer_fetches.with("fetched", Counter::increment);
                let keys = Arc::new(keys);
                *self.keys.write().unwrap_or_else(PoisonError::into_inner) = keys.clone();
                Ok(keys)
            }
            Err(error) => {
                self.metrics.issuer_fetches.with("failed", Counter::increment);
                tracing::warn!("the identity issuer's keys cannot be fetched: {error}");
                known.or_unreachable()
            }
        }
    }

    fn known_keys(&self) -> Arc<Keys> {
        self.keys.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    async fn fetch(&self) -> Result<Keys, String> {
        let base = self.config.issuer.trim_end_matches('/');
        let discovery: Discovery =
            self.get(&format!("{base}/.well-known/openid-configuration")).await?;
        if discovery.issuer != self.config.issuer {
            return Err(format!("discovery names the issuer {:?}", discovery.issuer));
        }
        let list: KeyList = self.get(&discovery.jwks_uri).await?;
        // Keys of kinds that this host does not know are other clients' business.
        let keys = list.keys.into_iter().filter_map(Key::parse).collect();
        Ok(Keys { keys, fetched: Some(Instant::now()) })
    }

    async fn get<T: serde::de::DeserializeOwned>(&self, url: &str) -> Result<T, String> {
        let text = |error: reqwest::Error| format!("{url}: {}", error.without_url());
        let response = self.http.get(url).timeout(Duration::from_secs(5)).send().await;
        response
            .and_then(|found| found.error_for_status())
            .map_err(text)?
            .json()
            .await
            .map_err(text)
    }
}

impl Key {
    fn parse(value: serde_json::Value) -> Option<Self> {
        let jwk: Jwk = serde_json::from_value(value).ok()?;
        if matches!(&jwk.common.public_key_use, Some(other) if *other != PublicKeyUse::Signature) {
            return None;
        }
        let algorithm = match &jwk.common.key_algorithm {
            Some(name) => Some(Algorithm::from_str(&name.to_string()).ok()?),
            None => None,
        };
        let key = DecodingKey::from_jwk(&jwk).ok()?;
        Some(Self { id: jwk.common.key_id, algorithm, key })
    }
}

impl Keys {
    /// The key of this id; a token without one can only mean the only key.
    fn find(&self, id: Option<&str>) -> Option<&Key> {
        match (id, &self.keys[..]) {
            (Some(_), keys) => keys.iter().find(|key| key.id.as_deref() == id),
            (None, [only]) => Some(only),
            (None, _) => None,
        }
    }

    fn or_unreachable(self: Arc<Self>) -> Result<Arc<Self>, Problem> {
        if self.fetched.is_some() { Ok(self) } else { Err(Kind::IssuerUnreachable.into()) }
    }
}

impl Memory {
    fn get(&mut self, hash: &[u8; 32]) -> Option<Person> {
        if let Some(person) = self.newer.get(hash) {
            return Some(*person);
        }
        let person = self.older.remove(hash)?;
        self.insert(*hash, person);
        Some(person)
    }

    fn insert(&mut self, hash: [u8; 32], person: Person) {
        if self.newer.len() >= REMEMBERED {
            self.older = std::mem::take(&mut self.newer);
        }
        self.newer.insert(hash, person);
    }
}

fn refused(why: impl Into<String>) -> Problem {
    Kind::SignInRequired.because(why)
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// SHA-256 over the concatenation of the parts.
pub fn sha256(parts: &[&[u8]]) -> [u8; 32] {
    let mut context = aws_lc_rs::digest::Context::new(&aws_lc_rs::digest::SHA256);
    for part in parts {
        context.update(part);
    }
    let mut digest = [0; 32];
    digest.copy_from_slice(context.finish().as_ref());
    digest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_bounded_and_keeps_what_is_used() {
        let person = Person { id: AccountId([1; 32]), auth_time: None, valid_until: u64::MAX };
        let name = |n: usize| sha256(&[&n.to_be_bytes()]);
        let mut memory = Memory::default();
        memory.insert(name(0), person);
        for n in 1..=3 * REMEMBERED {
            memory.insert(name(n), person);
            if n % 1000 == 0 {
                assert!(memory.get(&name(0)).is_some(), "in use after {n}");
            }
        }
        assert!(memory.get(&name(1)).is_none(), "long unused");
        assert!(memory.newer.len() + memory.older.len() <= 2 * REMEMBERED);
    }
}
