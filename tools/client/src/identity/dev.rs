//! The dev cloud's sign-in without a browser. Real issuers do not know this grant.

use super::{IdToken, IdentityError, SignInRequest, TokenSource};
use crate::device::Pending;
use crate::http;

/// Signs in as any name at the dev cloud's issuer. It proves nothing about anybody.
pub struct DevSignIn {
    http: reqwest::Client,
    username: String,
}

impl DevSignIn {
    /// Whom to sign in as.
    ///
    /// # Errors
    /// [`IdentityError::Source`] when HTTP cannot be used at all.
    pub fn new(username: impl Into<String>) -> Result<Self, IdentityError> {
        let http = http::client().map_err(|error| IdentityError::Source(error.to_string()))?;
        Ok(Self { http, username: username.into() })
    }
}

impl TokenSource for DevSignIn {
    fn sign_in<'a>(
        &'a self, request: &'a SignInRequest,
    ) -> Pending<'a, Result<IdToken, IdentityError>> {
        Box::pin(async move {
            let form = [
                ("grant_type", "urn:keyfold:dev:sign-in"),
                ("username", &self.username),
                ("client_id", &request.client_id),
                ("nonce", &request.nonce),
            ];
            request.provider.redeem(&self.http, &form).await
        })
    }
}
