//! The HSM's keys: kept in one file, written before anything is answered.

use super::policy::ReleasePolicy;
use crate::http::ApiError;
use crate::{clock, store};
use anyhow::{Context, Result};
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
}

/// One version of a key.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Key {
    pub(super) version: String,
    /// base64url of the key's bytes.
    value: String,
    pub(super) key_ops: Vec<String>,
    created: u64,
    updated: u64,
    pub(super) enabled: bool,
    pub(super) exportable: bool,
    pub(super) release_policy: Option<StoredPolicy>,
}

impl Key {
    /// A key of these bytes, created now.
    pub(super) fn new(
        value: &[u8], key_ops: Vec<String>, enabled: bool, exportable: bool,
        release_policy: Option<StoredPolicy>,
    ) -> Result<Self> {
        let mut version = [0; 16];
        aws_lc_rs::rand::fill(&mut version)?;
        let now = clock::now();
        Ok(Self {
            version: hex::encode(version),
            value: URL_SAFE_NO_PAD.encode(value),
            key_ops,
            created: now,
            updated: now,
            enabled,
            exportable,
            release_policy,
        })
    }

    /// The key's bytes. They leave wrapped, or not at all.
    pub(super) fn value(&self) -> Result<Vec<u8>> {
        URL_SAFE_NO_PAD.decode(&self.value).context("the HSM's key file is damaged")
    }

    pub(super) fn attributes(&self) -> Value {
        json!({
            "created": self.created,
            "enabled": self.enabled,
            "exportable": self.exportable,
            "recoverableDays": 7,
            "recoveryLevel": "CustomizedRecoverable+Purgeable",
            "updated": self.updated,
        })
    }

    /// KeyBundle, as create, get and update answer it.
    pub(super) fn bundle(&self, kid: &str) -> Value {
        let mut bundle = json!({
            "attributes": self.attributes(),
            "key": {"kid": kid, "kty": "oct-HSM", "key_ops": self.key_ops},
        });
        if let Some(policy) = &self.release_policy {
            bundle["release_policy"] = json!(policy);
        }
        bundle
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
