//! OpenID Connect discovery, keys and the token endpoint of one issuer.

use jsonwebtoken::jwk::JwkSet;
use reqwest::Url;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use zeroize::Zeroizing;

use super::{IdToken, IdentityError};
use crate::http;

/// An issuer's endpoints, from its own discovery document.
#[derive(Clone, Debug)]
pub struct Provider {
    issuer: String,
    authorization: Url,
    token: Url,
    jwks: Url,
}

#[derive(Deserialize)]
struct Discovery {
    issuer: String,
    authorization_endpoint: String,
    token_endpoint: String,
    jwks_uri: String,
}

#[derive(Deserialize)]
struct TokenAnswer {
    id_token: Option<String>,
    error: Option<String>,
    error_description: Option<String>,
}

impl Provider {
    /// Fetches the discovery document of `issuer`, which must be that issuer's.
    pub(super) async fn discover(
        http: &reqwest::Client, issuer: &str,
    ) -> Result<Self, IdentityError> {
        let failed = |reason: String| IdentityError::Issuer { issuer: issuer.into(), reason };
        let url = format!("{}/.well-known/openid-configuration", issuer.trim_end_matches('/'));
        let found: Discovery = get(http, &url).await.map_err(failed)?;
        if found.issuer != issuer {
            return Err(failed(format!("its discovery document is of {:?}", found.issuer)));
        }
        let endpoint = |url: &str| {
            http::secure_url(url).ok_or_else(|| failed(format!("{url:?} is no https URL")))
        };
        Ok(Self {
            issuer: found.issuer,
            authorization: endpoint(&found.authorization_endpoint)?,
            token: endpoint(&found.token_endpoint)?,
            jwks: endpoint(&found.jwks_uri)?,
        })
    }

    /// The issuer identifier, exactly as tokens carry it.
    pub fn issuer(&self) -> &str {
        &self.issuer
    }

    /// `authorization_endpoint`.
    pub fn authorization_endpoint(&self) -> &Url {
        &self.authorization
    }

    /// `token_endpoint`.
    pub fn token_endpoint(&self) -> &Url {
        &self.token
    }

    /// The keys the issuer signs with now.
    pub(super) async fn keys(&self, http: &reqwest::Client) -> Result<JwkSet, IdentityError> {
        get(http, self.jwks.as_str()).await.map_err(|reason| self.failed(reason))
    }

    /// Posts a form to the token endpoint.
    pub(super) async fn redeem(
        &self, http: &reqwest::Client, form: &[(&str, &str)],
    ) -> Result<IdToken, IdentityError> {
        let mut encoder = self.token.clone();
        encoder.query_pairs_mut().clear().extend_pairs(form);
        let body = encoder.query().unwrap_or_default().to_owned();
        let request = http
            .post(self.token.clone())
            .header("content-type", "application/x-www-form-urlencoded")
            .header("accept", "application/json")
            .body(body);
        let failed = |error: crate::error::Unreachable| self.failed(error.reason);
        let answer = http::send(self.token.as_str(), request).await.map_err(failed)?;
        let status = answer.status();
        let body = http::body(self.token.as_str(), answer).await.map_err(failed)?;
        let body = Zeroizing::new(body);
        let answer: TokenAnswer = serde_json::from_slice(&body)
            .map_err(|_| self.failed(format!("its token endpoint answers {status}")))?;
        match answer {
            TokenAnswer { id_token: Some(token), error: None, .. } if status.is_success() => {
                Ok(IdToken::new(token))
            }
            TokenAnswer { error, error_description, .. } => {
                let error = error.unwrap_or_else(|| format!("no ID token, status {status}"));
                let details = error_description.map(|text| format!(": {text}"));
                Err(IdentityError::Refused(error + &details.unwrap_or_default()))
            }
        }
    }

    fn failed(&self, reason: String) -> IdentityError {
        IdentityError::Issuer { issuer: self.issuer.clone(), reason }
    }
}

async fn get<T: DeserializeOwned>(http: &reqwest::Client, url: &str) -> Result<T, String> {
    let parsed = http::secure_url(url).ok_or_else(|| format!("{url:?} is no https URL"))?;
    let answer = http::send(url, http.get(parsed)).await.map_err(|error| error.reason)?;
    if !answer.status().is_success() {
        return Err(format!("{url} answers {}", answer.status()));
    }
    let body = http::body(url, answer).await.map_err(|error| error.reason)?;
    serde_json::from_slice(&body).map_err(|error| format!("{url}: {error}"))
}
