//! What a WebAuthn authenticator puts on its own wire: authenticator data and COSE keys.

use heapless::Vec;

use crate::crypto::{Failed, sha256};
use crate::protocol::*;

/// Keyfold's own AAGUID, 7a2c1b0e-6b65-4966-b66f-6c640a110001.
pub(crate) const AAGUID: [u8; 16] =
    [0x7a, 0x2c, 0x1b, 0x0e, 0x6b, 0x65, 0x49, 0x66, 0xb6, 0x6f, 0x6c, 0x64, 0x0a, 0x11, 0, 1];

/// WebAuthn section 6.1: user present, backup eligible, backed up. Synced passkeys always are.
const FLAGS: u8 = 0x01 | 0x08 | 0x10;
const FLAG_USER_VERIFIED: u8 = 0x04;
const FLAG_ATTESTED: u8 = 0x40;

/// Authenticator data of an assertion: rp id hash, flags, and a counter that stays 0, because
/// several devices hold the passkey.
pub(crate) fn assertion_data(rp_id: &str, user_verified: bool) -> Bytes<37> {
    header(rp_id, user_verified, 0)
}

fn header(rp_id: &str, user_verified: bool, more: u8) -> Bytes<37> {
    let flags = FLAGS | more | if user_verified { FLAG_USER_VERIFIED } else { 0 };
    let counter = [0; 4];
    Bytes(join([&sha256(&[rp_id.as_bytes()]), &[flags], &counter]))
}

/// Authenticator data of a registration, with attested credential data.
pub(crate) fn registration_data(
    rp_id: &str, user_verified: bool, credential: &CredentialId, algorithm: Algorithm,
    public_key: &[u8],
) -> Result<Vec<u8, 256>, Failed> {
    let mut data = Vec::new();
    let key = cose_key(algorithm, public_key)?;
    let header = header(rp_id, user_verified, FLAG_ATTESTED);
    for part in [&header.0[..], &AAGUID, &[0, 32], &credential.0, &key] {
        data.extend_from_slice(part).map_err(|_| Failed)?;
    }
    Ok(data)
}

/// RFC 9053 keys in CTAP2 canonical CBOR: the only two shapes there are, written out.
fn cose_key(algorithm: Algorithm, public_key: &[u8]) -> Result<Vec<u8, 80>, Failed> {
    let mut key = Vec::new();
    let mut put = |bytes: &[u8]| key.extend_from_slice(bytes).map_err(|_| Failed);
    match algorithm {
        Algorithm::Es256 => {
            let point = public_key.strip_prefix(&[4]).ok_or(Failed)?;
            let (x, y) = point.split_at_checked(32).ok_or(Failed)?;
            // {1: 2 (EC2), 3: -7 (ES256), -1: 1 (P-256), -2: x, -3: y}
            put(&[0xa5, 0x01, 0x02, 0x03, 0x26, 0x20, 0x01, 0x21, 0x58, 0x20])?;
            put(x)?;
            put(&[0x22, 0x58, 0x20])?;
            put(y)?;
        }
        Algorithm::EdDsa => {
            // {1: 1 (OKP), 3: -8 (EdDSA), -1: 6 (Ed25519), -2: x}
            put(&[0xa4, 0x01, 0x01, 0x03, 0x27, 0x20, 0x06, 0x21, 0x58, 0x20])?;
            put(public_key)?;
        }
    }
    Ok(key)
}
