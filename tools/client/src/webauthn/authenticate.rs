//! Sign-in: WebAuthn's `get()`.

use keyfold_protocol::client::{Asserted, KeyKind};
use keyfold_protocol::ids::{CredentialId, RpId};

use super::WebAuthnError;
use super::encode::{Ceremony, client_data_json};
use super::options::{RequestOptions, Verification};
use super::origin::Origin;
use super::response::{
    ATTACHMENT, AssertionResponse, AuthenticationResponse, ExtensionResults, PUBLIC_KEY,
    PrfOutputs, PrfValues, base64url,
};
use crate::client::Client;
use crate::crypto::sha256;
use crate::store::Passkey;

/// A sign-in that may take place: the origin may use the relying party id.
#[derive(Debug)]
pub struct Authentication {
    options: RequestOptions,
    rp_id: RpId,
    client_data: Vec<u8>,
}

impl Authentication {
    /// Checks the options against the origin they came from.
    ///
    /// # Errors
    /// [`WebAuthnError::Origin`].
    pub fn new(origin: &Origin, options: RequestOptions) -> Result<Self, WebAuthnError> {
        let rp_id = origin.rp_id(options.rp_id.as_deref())?;
        let client_data = client_data_json(Ceremony::Get, &options.challenge, origin);
        Ok(Self { options, rp_id, client_data })
    }

    /// The relying party id, checked.
    pub fn rp_id(&self) -> &RpId {
        &self.rp_id
    }

    /// The passkeys among `all` that fit: of the relying party, and in its allow list if there is
    /// one.
    pub fn candidates<'a>(&self, all: &'a [Passkey]) -> Vec<&'a Passkey> {
        let is_allowed = |passkey: &Passkey| match &self.options.allow {
            None => true,
            Some(list) => list.iter().any(|id| id == passkey.credential.0.as_slice()),
        };
        all.iter().filter(|one| one.rp_id == self.rp_id && is_allowed(one)).collect()
    }

    /// The passkey to sign in with: `wanted` if it fits, else the only one that does. Looks once
    /// more after a sync where none does.
    ///
    /// # Errors
    /// [`WebAuthnError::Choose`] when several fit, [`WebAuthnError::NoPasskey`] when none does.
    pub async fn choose(
        &self, client: &Client, wanted: Option<&CredentialId>,
    ) -> Result<Passkey, WebAuthnError> {
        let find = |passkeys: Vec<Passkey>| {
            let fitting = self.candidates(&passkeys).into_iter();
            let fitting = fitting.filter(|one| wanted.is_none_or(|id| one.credential == *id));
            match &fitting.collect::<Vec<_>>()[..] {
                [] => Err(WebAuthnError::NoPasskey { rp_id: self.rp_id.to_string() }),
                [only] => Ok((*only).clone()),
                several => Err(WebAuthnError::Choose(several.iter().copied().cloned().collect())),
            }
        };
        match find(client.passkeys()?) {
            Err(WebAuthnError::NoPasskey { .. }) => find(client.sync().await?),
            found => found,
        }
    }

    /// What to do about user verification. PRF inputs for this passkey make it required: without
    /// it there are no PRF results.
    pub fn verification(&self, passkey: &Passkey) -> Verification {
        match self.prf_inputs(passkey) {
            Some(_) => Verification::Required,
            None => self.options.verification,
        }
    }

    /// Signs in with `passkey`. Signing with [`KeyKind::UserVerification`] sets the flag UV. The
    /// person must have agreed.
    ///
    /// # Errors
    /// [`WebAuthnError::VerificationRequired`], [`WebAuthnError::NoPasskey`] when `passkey` does
    /// not fit, [`WebAuthnError::Client`].
    pub async fn run(
        &self, client: &Client, passkey: &Passkey, key: KeyKind,
    ) -> Result<AuthenticationResponse, WebAuthnError> {
        if self.candidates(std::slice::from_ref(passkey)).is_empty() {
            return Err(WebAuthnError::NoPasskey { rp_id: self.rp_id.to_string() });
        }
        if self.verification(passkey) == Verification::Required && key == KeyKind::Presence {
            return Err(WebAuthnError::VerificationRequired);
        }
        let (hash, prf) = (sha256(&[&self.client_data]), self.prf_inputs(passkey));
        let credential = &passkey.credential;
        let asserted = client.assert(&self.rp_id, credential, hash, prf, key).await?;
        Ok(self.response(credential, &asserted))
    }

    fn prf_inputs(&self, passkey: &Passkey) -> Option<keyfold_protocol::client::PrfInputs> {
        self.options.prf.as_ref()?.inputs_for(&passkey.credential.0)
    }

    pub(super) fn response(
        &self, credential: &CredentialId, asserted: &Asserted,
    ) -> AuthenticationResponse {
        let id = base64url(&credential.0);
        let prf = self.options.prf.as_ref().map(|_| PrfOutputs {
            enabled: None,
            results: asserted.prf.as_ref().map(PrfValues::new),
        });
        AuthenticationResponse {
            id: id.clone(),
            raw_id: id,
            response: AssertionResponse {
                client_data_json: base64url(&self.client_data),
                authenticator_data: base64url(&asserted.authenticator_data.0),
                signature: base64url(&asserted.signature),
                user_handle: base64url(&asserted.user_handle),
            },
            authenticator_attachment: ATTACHMENT.into(),
            client_extension_results: ExtensionResults { cred_props: None, prf },
            kind: PUBLIC_KEY.into(),
        }
    }
}
