//! WebAuthn's client: a relying party's options in, its response out, both as the JSON that
//! WebAuthn level 3 defines and that every server library speaks.
//!
//! What a browser does between a page and an authenticator is done here: the origin is checked
//! against the relying party id by the public suffix list, the client data is collected and
//! hashed, PRF salts are hashed, the exclude list is applied, the passkey is chosen. The enclave
//! only ever sees the result.
//!
//! ```no_run
//! use keyfold_client::webauthn::{Authentication, Origin, RequestOptions};
//! use keyfold_protocol::client::KeyKind;
//! # async fn example(client: keyfold_client::Client, json: &[u8])
//! # -> Result<(), Box<dyn std::error::Error>> {
//! let origin = Origin::parse("https://login.example.org")?;
//! let sign_in = Authentication::new(&origin, RequestOptions::from_json(json)?)?;
//! let passkey = sign_in.choose(&client, None).await?;
//! let response = sign_in.run(&client, &passkey, KeyKind::UserVerification).await?;
//! println!("{}", serde_json::to_string(&response)?);
//! # Ok(()) }
//! ```
//!
//! Whatever attestation is asked for, the answer is `none`, as for every synced passkey. Every
//! passkey is discoverable, whatever `residentKey` says. Related origins are not supported: the
//! relying party id must be a suffix of the origin's host.

mod authenticate;
mod encode;
mod options;
mod origin;
mod prf;
mod register;
mod response;
#[cfg(test)]
mod tests;

use keyfold_protocol::client::Refusal;

use crate::store::Passkey;

pub use authenticate::Authentication;
pub use options::{CreationOptions, RequestOptions, Verification};
pub use origin::{Origin, OriginError};
pub use register::Registration;
pub use response::{
    AssertionResponse, AttestationResponse, AuthenticationResponse, CredentialProperties,
    ExtensionResults, PrfOutputs, PrfValues, RegistrationResponse,
};

/// Why a relying party does not get its response.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WebAuthnError {
    /// The options are not what WebAuthn defines.
    #[error("the options are not acceptable: {0}")]
    Options(String),
    /// A member of the options asks for what the ceremony does not have.
    #[error("the options ask for what cannot be: {0}")]
    NotSupported(String),
    /// A key of `evalByCredential` names no credential of the allow list.
    #[error(
        "extensions.prf.evalByCredential: expected ids of allowCredentials as keys, found {0:?}"
    )]
    PrfCredential(String),
    /// The origin may not use the relying party id.
    #[error(transparent)]
    Origin(#[from] OriginError),
    /// The relying party wants a security key.
    #[error(
        "the site asks for a security key (authenticatorAttachment \"cross-platform\"); use one, \
         Keyfold's passkeys are \"platform\""
    )]
    SecurityKeyWanted,
    /// The exclude list names one of the account's passkeys.
    #[error("a passkey for this user of {rp_id} exists already; sign in with it instead")]
    Excluded {
        /// Where.
        rp_id: String,
    },
    /// The user has a passkey there, which a device's presence alone must not end.
    #[error(
        "this user of {rp_id} has a passkey; making another ends it on every device, which needs user \
         verification: unlock this device's user-verification key"
    )]
    Replaces {
        /// Where.
        rp_id: String,
    },
    /// The account has no passkey that fits.
    #[error(
        "no passkey of this account fits {rp_id} and its allow list; create one, or use the \
         device or security key the passkey is on"
    )]
    NoPasskey {
        /// Where.
        rp_id: String,
    },
    /// Several passkeys fit: the person has to choose.
    #[error("{} passkeys fit; say which one to use", .0.len())]
    Choose(Vec<Passkey>),
    /// User verification was asked for, and the presence key was to sign.
    #[error("the site asks for user verification; unlock this device's user-verification key")]
    VerificationRequired,
    /// The rest of the client.
    #[error(transparent)]
    Client(#[from] crate::Error),
}

impl WebAuthnError {
    /// The name of the exception that a browser's WebAuthn API would give the page.
    pub fn exception(&self) -> &'static str {
        match self {
            Self::Options(_) => "TypeError",
            Self::NotSupported(_)
            | Self::Client(crate::Error::Refused(Refusal::UnsupportedAlgorithm)) => {
                "NotSupportedError"
            }
            Self::PrfCredential(_) => "SyntaxError",
            Self::Origin(_) => "SecurityError",
            Self::Excluded { .. } => "InvalidStateError",
            Self::SecurityKeyWanted
            | Self::NoPasskey { .. }
            | Self::Choose(_)
            | Self::VerificationRequired
            | Self::Replaces { .. }
            | Self::Client(_) => "NotAllowedError",
        }
    }
}
