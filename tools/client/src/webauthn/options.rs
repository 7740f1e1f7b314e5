//! `PublicKeyCredentialCreationOptionsJSON` and `PublicKeyCredentialRequestOptionsJSON`.
//!
//! Members and values that this client does not know are ignored, as WebAuthn demands; those it
//! knows have to be what WebAuthn defines.

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use keyfold_protocol::client::UserNames;
use keyfold_protocol::ids::UserHandle;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use super::WebAuthnError;
use super::prf::{Prf, PrfJson};
use crate::requests::user_names;

/// The longest options that are read, in bytes: no relying party comes near it.
const LONGEST: usize = 256 * 1024;
/// ES256 and RS256: what an empty `pubKeyCredParams` stands for.
const DEFAULT_ALGORITHMS: [i32; 2] = [-7, -257];
/// The only type of credential there is.
const PUBLIC_KEY: &str = "public-key";

/// `userVerification`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verification {
    /// Without it the ceremony fails.
    Required,
    /// If it can be had.
    Preferred,
    /// Do not bother the person.
    Discouraged,
}

/// Options of a registration.
#[derive(Debug)]
pub struct CreationOptions {
    pub(super) rp_id: Option<String>,
    pub(super) rp_name: String,
    pub(super) challenge: Vec<u8>,
    pub(super) user_handle: UserHandle,
    pub(super) names: UserNames,
    pub(super) algorithms: Vec<i32>,
    pub(super) exclude: Vec<Vec<u8>>,
    pub(super) wants_security_key: bool,
    pub(super) verification: Verification,
    pub(super) prf: Option<Prf>,
    pub(super) credential_properties: bool,
}

impl CreationOptions {
    /// Reads the options, bare or as the member `publicKey` of an object.
    ///
    /// # Errors
    /// [`WebAuthnError::Options`], [`WebAuthnError::NotSupported`].
    pub fn from_json(json: &[u8]) -> Result<Self, WebAuthnError> {
        let raw: CreationJson = read(json, Kind::Registration)?;
        let user_handle = decode("user.id", &raw.user.id)?;
        let user_handle = match UserHandle::from_slice(&user_handle) {
            Ok(handle) if !handle.is_empty() => handle,
            _ => {
                let found = user_handle.len();
                let what = format!("user.id: expected 1 to 64 bytes, found {found}");
                return Err(WebAuthnError::Options(what));
            }
        };
        let selection = raw.authenticator_selection.unwrap_or_default();
        let extensions = raw.extensions.unwrap_or_default();
        Ok(Self {
            rp_id: raw.rp.id,
            rp_name: raw.rp.name,
            challenge: decode("challenge", &raw.challenge)?,
            user_handle,
            names: user_names(&raw.user.name, &raw.user.display_name),
            algorithms: algorithms(&raw.pub_key_cred_params)?,
            exclude: credential_ids("excludeCredentials", raw.exclude_credentials)?,
            wants_security_key: selection.authenticator_attachment.as_deref()
                == Some("cross-platform"),
            verification: verification(selection.user_verification.as_deref()),
            prf: extensions.prf.as_ref().map(Prf::at_creation).transpose()?,
            credential_properties: extensions.cred_props == Some(true),
        })
    }

    /// `rp.name`: what the relying party calls itself. Anybody can call themselves anything.
    pub fn rp_name(&self) -> &str {
        &self.rp_name
    }

    /// The relying party's names for the user, cut to what fits.
    pub fn names(&self) -> &UserNames {
        &self.names
    }
}

/// Options of a sign-in.
#[derive(Debug)]
pub struct RequestOptions {
    pub(super) rp_id: Option<String>,
    pub(super) challenge: Vec<u8>,
    /// `None`: any discoverable passkey of the relying party.
    pub(super) allow: Option<Vec<Vec<u8>>>,
    pub(super) verification: Verification,
    pub(super) prf: Option<Prf>,
}

impl RequestOptions {
    /// Reads the options, bare or as the member `publicKey` of an object.
    ///
    /// # Errors
    /// [`WebAuthnError::Options`], [`WebAuthnError::NotSupported`],
    /// [`WebAuthnError::PrfCredential`].
    pub fn from_json(json: &[u8]) -> Result<Self, WebAuthnError> {
        let raw: RequestJson = read(json, Kind::SignIn)?;
        // A list of foreign types only still is a list: it allows nothing that is here.
        let is_open = raw.allow_credentials.as_ref().is_none_or(Vec::is_empty);
        let allow = credential_ids("allowCredentials", raw.allow_credentials)?;
        let allow = (!is_open).then_some(allow);
        let extensions = raw.extensions.unwrap_or_default();
        let prf = extensions.prf.as_ref().map(|prf| Prf::at_sign_in(prf, allow.as_deref()));
        Ok(Self {
            rp_id: raw.rp_id,
            challenge: decode("challenge", &raw.challenge)?,
            allow,
            verification: verification(raw.user_verification.as_deref()),
            prf: prf.transpose()?,
        })
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct CreationJson {
    rp: RpJson,
    user: UserJson,
    challenge: String,
    pub_key_cred_params: Vec<ParameterJson>,
    exclude_credentials: Option<Vec<DescriptorJson>>,
    authenticator_selection: Option<SelectionJson>,
    extensions: Option<ExtensionsJson>,
}

#[derive(Deserialize)]
struct RpJson {
    id: Option<String>,
    name: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct UserJson {
    id: String,
    name: String,
    display_name: String,
}

#[derive(Deserialize)]
struct ParameterJson {
    #[serde(rename = "type")]
    kind: String,
    alg: i64,
}

#[derive(Deserialize)]
struct DescriptorJson {
    #[serde(rename = "type")]
    kind: String,
    id: String,
}

/// `residentKey` is not read: every passkey is discoverable.
#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct SelectionJson {
    authenticator_attachment: Option<String>,
    user_verification: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct ExtensionsJson {
    prf: Option<PrfJson>,
    cred_props: Option<bool>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RequestJson {
    rp_id: Option<String>,
    challenge: String,
    allow_credentials: Option<Vec<DescriptorJson>>,
    user_verification: Option<String>,
    extensions: Option<ExtensionsJson>,
}

/// Whose options.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Registration,
    SignIn,
}

impl Kind {
    /// By what only one of the two must have; a site may add members that the other knows.
    fn of(options: &Map<String, Value>) -> Option<Self> {
        let has = ["rp", "user", "pubKeyCredParams"].map(|member| options.contains_key(member));
        match has {
            [true, true, true] => Some(Self::Registration),
            [false, false, false] if options.contains_key("challenge") => Some(Self::SignIn),
            _ => None,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Registration => "a registration",
            Self::SignIn => "a sign-in",
        }
    }
}

fn read<T: DeserializeOwned>(json: &[u8], wanted: Kind) -> Result<T, WebAuthnError> {
    let refuse = |what: String| Err(WebAuthnError::Options(what));
    if json.len() > LONGEST {
        return refuse(format!("expected at most {LONGEST} bytes, found {}", json.len()));
    }
    let malformed = |error: serde_json::Error| WebAuthnError::Options(error.to_string());
    let mut value: Value = serde_json::from_slice(json).map_err(malformed)?;
    let options = match value.get_mut("publicKey") {
        Some(inner) => inner.take(),
        None => value,
    };
    let Some(members) = options.as_object() else {
        return refuse("expected a JSON object".into());
    };
    match Kind::of(members) {
        Some(found) if found != wanted => {
            let (wanted, found) = (wanted.name(), found.name());
            refuse(format!("expected those of {wanted}, found those of {found}"))
        }
        _ => serde_json::from_value(options).map_err(malformed),
    }
}

pub(super) fn decode(member: &str, text: &str) -> Result<Vec<u8>, WebAuthnError> {
    BASE64_URL_SAFE_NO_PAD.decode(text).map_err(|error| {
        WebAuthnError::Options(format!("{member}: expected base64url without padding, {error}"))
    })
}

/// The identifiers in the relying party's order. Sixteen known ones fit into a request; which are
/// known decides [`crate::Client::create_passkey`].
fn algorithms(parameters: &[ParameterJson]) -> Result<Vec<i32>, WebAuthnError> {
    if parameters.is_empty() {
        return Ok(DEFAULT_ALGORITHMS.into());
    }
    let known = parameters.iter().filter(|one| one.kind == PUBLIC_KEY);
    let ids: Vec<i32> = known.filter_map(|one| i32::try_from(one.alg).ok()).collect();
    if ids.is_empty() {
        let what = "pubKeyCredParams: expected an entry of type public-key, found none";
        return Err(WebAuthnError::NotSupported(what.into()));
    }
    Ok(ids)
}

/// Ids of the entries whose type is known.
fn credential_ids(
    member: &str, entries: Option<Vec<DescriptorJson>>,
) -> Result<Vec<Vec<u8>>, WebAuthnError> {
    let entries = entries.unwrap_or_default().into_iter();
    entries.filter(|one| one.kind == PUBLIC_KEY).map(|one| decode(member, &one.id)).collect()
}

fn verification(value: Option<&str>) -> Verification {
    match value {
        Some("required") => Verification::Required,
        Some("discouraged") => Verification::Discouraged,
        // The default, and what an unknown value counts as.
        _ => Verification::Preferred,
    }
}
