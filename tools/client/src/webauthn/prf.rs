//! The `prf` extension's inputs: parsed, checked, and hashed as WebAuthn says before they go to
//! the enclave.

use std::collections::BTreeMap;

use keyfold_protocol::client::PrfInputs;
use keyfold_protocol::transcript::PRF_PREFIX;
use serde::Deserialize;

use super::WebAuthnError;
use super::options::decode;
use crate::crypto::sha256;

/// `extensions.prf` as written.
#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct PrfJson {
    eval: Option<PrfValuesJson>,
    eval_by_credential: Option<BTreeMap<String, PrfValuesJson>>,
}

#[derive(Deserialize)]
struct PrfValuesJson {
    first: String,
    second: Option<String>,
}

/// What is to be evaluated for which credential.
#[derive(Debug, Default)]
pub(super) struct Prf {
    eval: Option<PrfInputs>,
    by_credential: BTreeMap<Vec<u8>, PrfInputs>,
}

impl Prf {
    /// Of a registration: there is no credential yet that could be named.
    pub(super) fn at_creation(json: &PrfJson) -> Result<Self, WebAuthnError> {
        if json.eval_by_credential.is_some() {
            let what = "extensions.prf.evalByCredential at registration; use eval";
            return Err(WebAuthnError::NotSupported(what.into()));
        }
        Ok(Self { eval: json.eval.as_ref().map(inputs).transpose()?, ..Self::default() })
    }

    /// Of a sign-in: credentials may be named if they are in the allow list.
    pub(super) fn at_sign_in(
        json: &PrfJson, allowed: Option<&[Vec<u8>]>,
    ) -> Result<Self, WebAuthnError> {
        let mut by_credential = BTreeMap::new();
        for (key, values) in json.eval_by_credential.iter().flatten() {
            let Some(allowed) = allowed else {
                let what = "extensions.prf.evalByCredential without allowCredentials; use eval";
                return Err(WebAuthnError::NotSupported(what.into()));
            };
            let id = decode("evalByCredential", key).ok().filter(|id| allowed.contains(id));
            let id =
                id.ok_or_else(|| WebAuthnError::PrfCredential(key.chars().take(100).collect()))?;
            by_credential.insert(id, inputs(values)?);
        }
        Ok(Self { eval: json.eval.as_ref().map(inputs).transpose()?, by_credential })
    }

    /// What to evaluate at creation.
    pub(super) fn eval(&self) -> Option<PrfInputs> {
        self.eval
    }

    /// What to evaluate for this credential: its own inputs before the general ones.
    pub(super) fn inputs_for(&self, credential: &[u8]) -> Option<PrfInputs> {
        self.by_credential.get(credential).copied().or(self.eval)
    }
}

fn inputs(values: &PrfValuesJson) -> Result<PrfInputs, WebAuthnError> {
    let hash = |salt: &String| -> Result<[u8; 32], WebAuthnError> {
        Ok(sha256(&[PRF_PREFIX, &decode("a salt of extensions.prf", salt)?]))
    };
    let second = values.second.as_ref().map(hash).transpose()?;
    Ok(PrfInputs { first: hash(&values.first)?, second })
}
