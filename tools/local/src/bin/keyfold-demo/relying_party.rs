//! A relying party: webauthn-rs, as any site would use it.

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};
use url::Url;
use uuid::Uuid;
use webauthn_rs::prelude::{Passkey, PasskeyRegistration};
use webauthn_rs::{Webauthn, WebauthnBuilder};

/// Where the site lives.
pub(crate) const ORIGIN: &str = "https://shop.example";
const RP_ID: &str = "shop.example";

/// The site.
pub(crate) struct RelyingParty {
    webauthn: Webauthn,
    user: Uuid,
}

fn because(error: impl std::fmt::Debug) -> anyhow::Error {
    anyhow::anyhow!("the relying party says {error:?}")
}

impl RelyingParty {
    /// A site with one customer.
    pub(crate) fn new() -> Result<Self> {
        let origin = Url::parse(ORIGIN)?;
        let webauthn = WebauthnBuilder::new(RP_ID, &origin).and_then(WebauthnBuilder::build);
        Ok(Self { webauthn: webauthn.map_err(because)?, user: Uuid::new_v4() })
    }

    /// Options for a registration.
    pub(crate) fn register(&self) -> Result<(Value, PasskeyRegistration)> {
        let started = self.webauthn.start_passkey_registration(
            self.user,
            "alice@shop.example",
            "Alice",
            None,
        );
        let (options, state) = started.map_err(because)?;
        Ok((serde_json::to_value(options)?, state))
    }

    /// Checks a registration.
    pub(crate) fn registered(
        &self, response: &Value, state: &PasskeyRegistration,
    ) -> Result<Passkey> {
        let response = serde_json::from_value(response.clone()).context("the response's JSON")?;
        self.webauthn.finish_passkey_registration(&response, state).map_err(because)
    }

    /// One sign-in with `passkey`: asks, lets the client answer, checks the answer. The client's
    /// extension results come back, which a site keeps out of webauthn-rs itself.
    pub(crate) fn sign_in(
        &self, passkey: &Passkey, prf_salt: Option<&str>,
        answer: impl FnOnce(&Value) -> Result<Value>,
    ) -> Result<Value> {
        let keys = [passkey.clone()];
        let (options, state) =
            self.webauthn.start_passkey_authentication(&keys).map_err(because)?;
        let mut options = serde_json::to_value(options)?;
        if let Some(salt) = prf_salt {
            options["publicKey"]["extensions"] = json!({"prf": {"eval": {"first": salt}}});
        }
        let response = answer(&options)?;
        let parsed = serde_json::from_value(response.clone()).context("the response's JSON")?;
        let result = self.webauthn.finish_passkey_authentication(&parsed, &state);
        let result = result.map_err(because)?;
        if !result.user_verified() {
            bail!("the relying party asked for user verification and did not get it");
        }
        // The same answer to another question must not count.
        let (_, other) = self.webauthn.start_passkey_authentication(&keys).map_err(because)?;
        if self.webauthn.finish_passkey_authentication(&parsed, &other).is_ok() {
            bail!("the relying party accepted an answer to another challenge");
        }
        Ok(response["clientExtensionResults"].clone())
    }
}
