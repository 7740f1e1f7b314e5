//! `RegistrationResponseJSON` and `AuthenticationResponseJSON`. Byte strings are base64url without
//! padding.

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use keyfold_protocol::client::PrfResults;
use serde::Serialize;

/// `type` of every credential.
pub(super) const PUBLIC_KEY: &str = "public-key";
/// Signed with by the client itself.
pub(super) const ATTACHMENT: &str = "platform";
/// On this device, and from it to another one, in the order of the specification: sorted.
pub(super) const TRANSPORTS: [&str; 2] = ["hybrid", "internal"];

/// What a registration brings.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RegistrationResponse {
    /// The credential id.
    pub id: String,
    /// The credential id.
    pub raw_id: String,
    /// What the authenticator said.
    pub response: AttestationResponse,
    /// "platform".
    pub authenticator_attachment: String,
    /// Results of the extensions that were asked for.
    pub client_extension_results: ExtensionResults,
    /// "public-key".
    #[serde(rename = "type")]
    pub kind: String,
}

/// `AuthenticatorAttestationResponseJSON`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct AttestationResponse {
    /// The client data.
    #[serde(rename = "clientDataJSON")]
    pub client_data_json: String,
    /// The authenticator data, which the attestation object holds too.
    pub authenticator_data: String,
    /// "hybrid", "internal".
    pub transports: Vec<String>,
    /// SubjectPublicKeyInfo in DER.
    pub public_key: String,
    /// COSE algorithm identifier.
    pub public_key_algorithm: i32,
    /// Attestation `none` around the authenticator data, in CBOR.
    pub attestation_object: String,
}

/// What a sign-in brings.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct AuthenticationResponse {
    /// The credential id.
    pub id: String,
    /// The credential id.
    pub raw_id: String,
    /// What the authenticator said.
    pub response: AssertionResponse,
    /// "platform".
    pub authenticator_attachment: String,
    /// Results of the extensions that were asked for.
    pub client_extension_results: ExtensionResults,
    /// "public-key".
    #[serde(rename = "type")]
    pub kind: String,
}

/// `AuthenticatorAssertionResponseJSON`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct AssertionResponse {
    /// The client data.
    #[serde(rename = "clientDataJSON")]
    pub client_data_json: String,
    /// The authenticator data.
    pub authenticator_data: String,
    /// Over authenticator data and the client data's SHA-256: DER for ES256, 64 bytes for Ed25519.
    pub signature: String,
    /// `user.id` of the registration.
    pub user_handle: String,
}

/// `clientExtensionResults`: only what was asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ExtensionResults {
    /// Credential properties.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cred_props: Option<CredentialProperties>,
    /// Pseudo-random function.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prf: Option<PrfOutputs>,
}

/// `credProps`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct CredentialProperties {
    /// Always true: every passkey is discoverable.
    pub rk: bool,
}

/// `prf`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PrfOutputs {
    /// At registration only, and always true: every passkey has the function.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub enabled: Option<bool>,
    /// Present when inputs came and the user was verified.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub results: Option<PrfValues>,
}

/// Results of the function. Secrets of the relying party: not printed by `Debug`.
#[derive(Clone, PartialEq, Eq, Serialize)]
pub struct PrfValues {
    /// 32 bytes.
    pub first: String,
    /// 32 bytes, when there were two inputs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub second: Option<String>,
}

impl PrfValues {
    pub(super) fn new(results: &PrfResults) -> Self {
        let second = results.second.as_ref().map(|result| base64url(result));
        Self { first: base64url(&results.first), second }
    }
}

impl std::fmt::Debug for PrfValues {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        f.write_str("PrfValues(..)")
    }
}

pub(super) fn base64url(bytes: &[u8]) -> String {
    BASE64_URL_SAFE_NO_PAD.encode(bytes)
}
