//! The byte strings a relying party verifies: client data, attestation object, public key.

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use keyfold_protocol::client::Algorithm;

use super::Origin;

/// `type` of the client data.
#[derive(Clone, Copy)]
pub(super) enum Ceremony {
    Create,
    Get,
}

/// The client data, serialised as WebAuthn section 5.8.1.1 says byte by byte, so that verifiers
/// without a JSON parser can read it too.
pub(super) fn client_data_json(ceremony: Ceremony, challenge: &[u8], origin: &Origin) -> Vec<u8> {
    let kind = match ceremony {
        Ceremony::Create => "webauthn.create",
        Ceremony::Get => "webauthn.get",
    };
    let challenge = BASE64_URL_SAFE_NO_PAD.encode(challenge);
    // None of the three has a character that the section escapes: an origin is ASCII without
    // quotes and backslashes.
    let origin = origin.as_str();
    format!(
        r#"{{"type":"{kind}","challenge":"{challenge}","origin":"{origin}","crossOrigin":false}}"#
    )
    .into_bytes()
}

/// An attestation object with attestation `none`: a CBOR map in CTAP2's canonical order, of which
/// only the authenticator data varies.
pub(super) fn attestation_object(authenticator_data: &heapless::Vec<u8, 256>) -> Vec<u8> {
    let mut object = Vec::with_capacity(authenticator_data.len() + 32);
    object.push(0xa3); // map of 3
    object.extend(b"\x63fmt\x64none");
    object.extend(b"\x67attStmt\xa0");
    object.extend(b"\x68authData");
    match u8::try_from(authenticator_data.len()) {
        // Byte string; lengths below 24 would be written shorter, and are no authenticator data.
        Ok(length) => object.extend([0x58, length]),
        Err(_) => {
            object.push(0x59);
            object.extend((authenticator_data.len() as u16).to_be_bytes());
        }
    }
    object.extend(authenticator_data);
    object
}

/// SubjectPublicKeyInfo in DER (RFC 5480, RFC 8410); `None` when the key is none of its algorithm.
pub(super) fn subject_public_key_info(algorithm: Algorithm, key: &[u8]) -> Option<Vec<u8>> {
    // SEQUENCE { SEQUENCE { id-ecPublicKey, prime256v1 }, BIT STRING of 66 with no unused bits }
    const P256: &[u8] = &[
        0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08,
        0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00,
    ];
    // SEQUENCE { SEQUENCE { id-Ed25519 }, BIT STRING of 33 with no unused bits }
    const ED25519: &[u8] = &[0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0];
    let prefix = match (algorithm, key) {
        (Algorithm::Es256, [0x04, point @ ..]) if point.len() == 64 => P256,
        (Algorithm::EdDsa, point) if point.len() == 32 => ED25519,
        _ => return None,
    };
    Some([prefix, key].concat())
}
