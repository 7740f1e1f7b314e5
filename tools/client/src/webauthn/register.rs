//! Registration: WebAuthn's `create()`.

use keyfold_protocol::client::{Created, KeyKind};
use keyfold_protocol::ids::RpId;

use super::WebAuthnError;
use super::encode::{Ceremony, attestation_object, client_data_json, subject_public_key_info};
use super::options::{CreationOptions, Verification};
use super::origin::Origin;
use super::response::{
    ATTACHMENT, AttestationResponse, CredentialProperties, ExtensionResults, PUBLIC_KEY,
    PrfOutputs, PrfValues, RegistrationResponse, TRANSPORTS, base64url,
};
use crate::client::Client;
use crate::error::Error;
use crate::requests::NewPasskey;

/// A registration that may take place: the origin may use the relying party id.
#[derive(Debug)]
pub struct Registration {
    options: CreationOptions,
    rp_id: RpId,
    client_data: Vec<u8>,
}

impl Registration {
    /// Checks the options against the origin they came from.
    ///
    /// # Errors
    /// [`WebAuthnError::Origin`]; [`WebAuthnError::SecurityKeyWanted`].
    pub fn new(origin: &Origin, options: CreationOptions) -> Result<Self, WebAuthnError> {
        let rp_id = origin.rp_id(options.rp_id.as_deref())?;
        if options.wants_security_key {
            return Err(WebAuthnError::SecurityKeyWanted);
        }
        let client_data = client_data_json(Ceremony::Create, &options.challenge, origin);
        Ok(Self { options, rp_id, client_data })
    }

    /// The relying party id, checked.
    pub fn rp_id(&self) -> &RpId {
        &self.rp_id
    }

    /// The options.
    pub fn options(&self) -> &CreationOptions {
        &self.options
    }

    /// What to do about user verification. PRF inputs make it required: without it there are no
    /// PRF results.
    pub fn verification(&self) -> Verification {
        match self.options.prf.as_ref().and_then(|prf| prf.eval()) {
            Some(_) => Verification::Required,
            None => self.options.verification,
        }
    }

    /// Makes the passkey. Signing with [`KeyKind::UserVerification`] sets the flag UV. The person
    /// must have agreed: this replaces their earlier passkey for the same user of the site.
    ///
    /// # Errors
    /// [`WebAuthnError::Excluded`], [`WebAuthnError::VerificationRequired`],
    /// [`WebAuthnError::Replaces`], and [`WebAuthnError::Client`] with `UnsupportedAlgorithm` or what the transport can give.
    pub async fn run(
        &self, client: &Client, key: KeyKind,
    ) -> Result<RegistrationResponse, WebAuthnError> {
        if self.verification() == Verification::Required && key == KeyKind::Presence {
            return Err(WebAuthnError::VerificationRequired);
        }
        self.refuse_excluded(client).await?;
        let new = NewPasskey {
            rp_id: self.rp_id.clone(),
            user_handle: self.options.user_handle.clone(),
            names: self.options.names.clone(),
            algorithms: self.options.algorithms.clone(),
            prf: self.options.prf.as_ref().and_then(|prf| prf.eval()),
        };
        let created = match client.create_passkey(&new, key).await {
            Err(Error::Host(problem)) if problem.name == "passkey-exists" => {
                return Err(WebAuthnError::Replaces { rp_id: self.rp_id.to_string() });
            }
            other => other?,
        };
        self.response(&created)
    }

    /// What the list names existed before it was written, so a sync now shows it.
    async fn refuse_excluded(&self, client: &Client) -> Result<(), WebAuthnError> {
        if self.options.exclude.is_empty() {
            return Ok(());
        }
        let passkeys = client.sync().await?;
        let is_excluded = passkeys.iter().any(|passkey| {
            let id = passkey.credential.0.as_slice();
            passkey.rp_id == self.rp_id && self.options.exclude.iter().any(|one| one == id)
        });
        if is_excluded {
            return Err(WebAuthnError::Excluded { rp_id: self.rp_id.to_string() });
        }
        Ok(())
    }

    pub(super) fn response(
        &self, created: &Created,
    ) -> Result<RegistrationResponse, WebAuthnError> {
        let key = subject_public_key_info(created.algorithm, &created.public_key);
        let key = key.ok_or(Error::Unexpected("a public key of another kind"))?;
        let id = base64url(&created.credential.0);
        let prf = self.options.prf.as_ref().map(|_| PrfOutputs {
            enabled: Some(true),
            results: created.prf.as_ref().map(PrfValues::new),
        });
        Ok(RegistrationResponse {
            id: id.clone(),
            raw_id: id,
            response: AttestationResponse {
                client_data_json: base64url(&self.client_data),
                authenticator_data: base64url(&created.authenticator_data),
                transports: TRANSPORTS.map(Into::into).into(),
                public_key: base64url(&key),
                public_key_algorithm: created.algorithm.cose(),
                attestation_object: base64url(&attestation_object(&created.authenticator_data)),
            },
            authenticator_attachment: ATTACHMENT.into(),
            client_extension_results: ExtensionResults {
                cred_props: self
                    .options
                    .credential_properties
                    .then_some(CredentialProperties { rk: true }),
                prf,
            },
            kind: PUBLIC_KEY.into(),
        })
    }
}
