//! The HSM's keys: kept in one file, written before anything is answered.

use super::policy::ReleasePolicy;
use crate::http::ApiError;
use crate::{clock, store};
use anyhow::{Context, Result, anyhow, ensure};
use aws_lc_rs::rsa::KeyPair;
use aws_lc_rs::signature::KeyPair as _;
use axum::http::StatusCode;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

/// `release_policy` of a key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct StoredPolicy {
    #[serde(default = "content_type")]
    content_type: String,
    /// base64url of the policy's text.
    data: String,
    #[serde(default)]
    pub(super) immutable: bool,
}

fn content_type() -> String {
    "application/json; charset=utf-8".to_owned()
}

impl StoredPolicy {
    /// The policy itself.
    pub(super) fn read(&self) -> Result<ReleasePolicy, ApiError> {
        let bad = |why: String| {
            ApiError::bad_request("BadParameter", format!("AKV.SKR.1016: release_policy: {why}"))
        };
        let text = URL_SAFE_NO_PAD
            .decode(self.data.trim_end_matches('='))
            .map_err(|error| bad(format!("data is not base64url: {error}")))?;
        ReleasePolicy::parse(&text).map_err(bad)
    }

    /// The same policy for an earlier workload: conditions on measurement and host data name another.
    ///
    /// # Errors
    /// There are no such conditions.
    pub(super) fn stale(&self) -> Result<Self> {
        let text = URL_SAFE_NO_PAD.decode(self.data.trim_end_matches('='))?;
        let policy: Value = serde_json::from_slice(&text)?;
        let mut outdated = policy.clone();
        outdate(&mut outdated);
        ensure!(outdated != policy, "the release policy names no workload that could be stale");
        Ok(Self { data: URL_SAFE_NO_PAD.encode(outdated.to_string()), ..self.clone() })
    }
}

/// What tells one workload from another.
const WORKLOAD_CLAIMS: [&str; 2] = ["x-ms-sevsnpvm-launchmeasurement", "x-ms-sevsnpvm-hostdata"];

/// In place of a policy's workload, one that is no more.
fn outdate(policy: &mut Value) {
    match policy {
        Value::Array(entries) => entries.iter_mut().for_each(outdate),
        Value::Object(members) => {
            let of_workload = members
                .get("claim")
                .is_some_and(|claim| WORKLOAD_CLAIMS.iter().any(|known| claim == known));
            match members.get_mut("equals") {
                Some(Value::String(value)) if of_workload => {
                    *value = "0".repeat(value.len());
                }
                _ => members.values_mut().for_each(outdate),
            }
        }
        _ => {}
    }
}

/// What a key is. The release of an RSA-HSM key was recorded to say "RSA".
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum KeyType {
    #[serde(rename = "oct")]
    Oct,
    #[serde(rename = "oct-HSM")]
    OctHsm,
    #[serde(rename = "RSA-HSM")]
    RsaHsm,
}

/// `attributes` as requests have them. A key is released before and after its time, but not when disabled.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Attributes {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) enabled: Option<bool>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) exportable: Option<bool>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) nbf: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) exp: Option<u64>,
}

impl Attributes {
    /// These, and of `self` what they leave open.
    pub(super) fn or(self, other: Self) -> Self {
        Self {
            enabled: self.enabled.or(other.enabled),
            exportable: self.exportable.or(other.exportable),
            nbf: self.nbf.or(other.nbf),
            exp: self.exp.or(other.exp),
        }
    }
}

/// What a key is made of.
pub(super) struct Material {
    pub(super) kty: KeyType,
    /// Raw bytes, or PKCS#8.
    pub(super) value: Vec<u8>,
    pub(super) key_ops: Vec<String>,
}

/// One version of a key.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Key {
    pub(super) version: String,
    kty: KeyType,
    /// base64url of the key's bytes.
    value: String,
    key_ops: Vec<String>,
    created: u64,
    updated: u64,
    pub(super) attributes: Attributes,
    pub(super) release_policy: Option<StoredPolicy>,
}

impl Key {
    /// A key, created now.
    pub(super) fn new(
        material: Material, attributes: Attributes, release_policy: Option<StoredPolicy>,
    ) -> Result<Self> {
        let mut version = [0; 16];
        aws_lc_rs::rand::fill(&mut version)?;
        let now = clock::now();
        Ok(Self {
            version: hex::encode(version),
            kty: material.kty,
            value: URL_SAFE_NO_PAD.encode(material.value),
            key_ops: material.key_ops,
            created: now,
            updated: now,
            attributes,
            release_policy,
        })
    }

    pub(super) fn enabled(&self) -> bool {
        self.attributes.enabled.unwrap_or(true)
    }

    pub(super) fn exportable(&self) -> bool {
        self.attributes.exportable.unwrap_or(false)
    }

    /// The key's bytes. They leave wrapped, or not at all.
    pub(super) fn value(&self) -> Result<Vec<u8>> {
        URL_SAFE_NO_PAD.decode(&self.value).context("the HSM's key file is damaged")
    }

    /// `attributes` as answers have them.
    pub(super) fn shown_attributes(&self) -> Value {
        let mut attributes = json!({
            "created": self.created,
            "enabled": self.enabled(),
            "exportable": self.exportable(),
            "recoverableDays": 7,
            "recoveryLevel": "CustomizedRecoverable+Purgeable",
            "updated": self.updated,
        });
        for (name, time) in [("nbf", self.attributes.nbf), ("exp", self.attributes.exp)] {
            if let Some(time) = time {
                attributes[name] = json!(time);
            }
        }
        attributes
    }

    /// The JWK's public part, as a release has it.
    pub(super) fn released_jwk(&self, kid: &str) -> Result<Value> {
        let kty = match self.kty {
            KeyType::RsaHsm => json!("RSA"),
            kty => json!(kty),
        };
        self.jwk(kid, kty)
    }

    fn jwk(&self, kid: &str, kty: Value) -> Result<Value> {
        let mut jwk = json!({"kid": kid, "kty": kty, "key_ops": self.key_ops});
        if self.kty == KeyType::RsaHsm {
            let pair = KeyPair::from_pkcs8(&self.value()?)
                .map_err(|error| anyhow!("the HSM's key file is damaged: {error}"))?;
            let public = pair.public_key();
            let number = |value: &[u8]| json!(URL_SAFE_NO_PAD.encode(value));
            jwk["n"] = number(public.modulus().big_endian_without_leading_zero());
            jwk["e"] = number(public.exponent().big_endian_without_leading_zero());
        }
        Ok(jwk)
    }

    /// KeyBundle, as create, get and update answer it.
    pub(super) fn bundle(&self, kid: &str) -> Result<Value> {
        let mut bundle = json!({
            "attributes": self.shown_attributes(),
            "key": self.jwk(kid, json!(self.kty))?,
        });
        if let Some(policy) = &self.release_policy {
            bundle["release_policy"] = json!(policy);
        }
        Ok(bundle)
    }
}

/// Every key, by name, versions oldest first.
pub(super) struct Keys {
    path: PathBuf,
    names: Mutex<BTreeMap<String, Vec<Key>>>,
}

impl Keys {
    pub(super) fn open(dir: &Path) -> Result<Self> {
        let path = dir.join("keys.json");
        let names = match store::read(&path)? {
            Some(text) => serde_json::from_slice(&text)
                .with_context(|| format!("{} does not fit", path.display()))?,
            None => BTreeMap::new(),
        };
        Ok(Self { path, names: Mutex::new(names) })
    }

    /// The version named, or the newest.
    pub(super) fn get(&self, name: &str, version: Option<&str>) -> Result<Key, ApiError> {
        let names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
        let found = names.get(name).and_then(|versions| find(versions, version));
        found.cloned().ok_or_else(|| not_found(name, version))
    }

    /// Adds a version.
    pub(super) fn add(&self, name: &str, key: Key) -> Result<(), ApiError> {
        self.change(|names| {
            names.entry(name.to_owned()).or_default().push(key);
            Ok(())
        })
    }

    /// Changes one version; `update` may refuse.
    pub(super) fn update(
        &self, name: &str, version: Option<&str>,
        update: impl FnOnce(&mut Key) -> Result<(), ApiError>,
    ) -> Result<Key, ApiError> {
        self.change(|names| {
            let versions = names.get_mut(name).ok_or_else(|| not_found(name, version))?;
            let wanted = find(versions, version).map(|key| key.version.clone());
            let key = versions.iter_mut().find(|key| Some(&key.version) == wanted.as_ref());
            let key = key.ok_or_else(|| not_found(name, version))?;
            update(key)?;
            key.updated = clock::now();
            Ok(key.clone())
        })
    }

    /// On disk first, then visible.
    fn change<T>(
        &self, change: impl FnOnce(&mut BTreeMap<String, Vec<Key>>) -> Result<T, ApiError>,
    ) -> Result<T, ApiError> {
        let mut names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
        let mut next = names.clone();
        let out = change(&mut next)?;
        let text = serde_json::to_vec_pretty(&next).map_err(anyhow::Error::from);
        text.and_then(|text| store::write(&self.path, &text))
            .map_err(|error| ApiError::internal(&error))?;
        *names = next;
        Ok(out)
    }
}

fn find<'a>(versions: &'a [Key], version: Option<&str>) -> Option<&'a Key> {
    match version {
        Some(version) => versions.iter().find(|key| key.version == version),
        None => versions.last(),
    }
}

fn not_found(name: &str, version: Option<&str>) -> ApiError {
    let id = version.map_or(name.to_owned(), |version| format!("{name}/{version}"));
    ApiError::new(
        StatusCode::NOT_FOUND,
        "KeyNotFound",
        format!("A key with (name/id) {id} was not found in this key vault."),
    )
}
