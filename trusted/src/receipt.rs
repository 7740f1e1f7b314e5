//! The ledger's word: CCF receipts (COSE_Sign1, verifiable data structure 2), checked under the one
//! service key of the configuration. No TLS, no certificates.
//!
//! Stricter than the reference verifier: definite lengths and shortest integers only, exactly the
//! expected items, digests of exactly 32 bytes, one proof, a detached payload, booleans that are
//! booleans, 1 to 64 path elements, no byte left over. Parsed by hand, because a general CBOR
//! decoder accepts several encodings of one value and this must accept one.

use core::fmt::Write;

use heapless::String;
use keyfold_protocol::host::Config;
use keyfold_protocol::ids::{Digest, LedgerTag, P384PublicKey};
use keyfold_protocol::limits::RECEIPT;
use keyfold_protocol::transcript::LedgerClaim;

use crate::crypto::{Failed, p384_verify, sha256};

/// The ledger has recorded exactly this transition. Made here only.
pub(crate) struct Committed(());

/// The ledger stood at exactly this guard after the request was made. Made here only.
pub(crate) struct FreshRead(());

/// What the ledger is asked about.
pub(crate) struct Entry<'a> {
    pub(crate) tag: &'a LedgerTag,
    pub(crate) version: u64,
    pub(crate) guard: &'a Digest,
}

/// That the entry was appended, at its version.
pub(crate) fn committed(
    config: &Config,
    entry: &Entry,
    receipt: &[u8],
) -> Result<Committed, Failed> {
    verify(config, &LedgerClaim::Append, entry, receipt).map(Committed)
}

/// That the entry was the tag's newest when somebody asked for it with this nonce.
pub(crate) fn fresh(
    config: &Config,
    nonce: [u8; 32],
    entry: &Entry,
    receipt: &[u8],
) -> Result<FreshRead, Failed> {
    verify(config, &LedgerClaim::Read(nonce), entry, receipt).map(FreshRead)
}

fn verify(
    config: &Config,
    claim: &LedgerClaim,
    entry: &Entry,
    receipt: &[u8],
) -> Result<(), Failed> {
    let claim = sha256(&[&claim.bytes(entry.tag, entry.version, entry.guard)]);
    verify_claims(&config.ledger_key, &config.ledger_issuer, &claim, receipt)
}

/// Whether `receipt` is a CCF receipt by the service key `key` and `issuer` for the claims whose
/// SHA-256 is `claims`. What the core checks, for tools that audit a ledger.
pub fn verify_receipt(
    key: &P384PublicKey,
    issuer: &str,
    claims: &[u8; 32],
    receipt: &[u8],
) -> bool {
    verify_claims(key, issuer, claims, receipt).is_ok()
}

fn verify_claims(
    key: &P384PublicKey,
    issuer: &str,
    claims: &[u8; 32],
    receipt: &[u8],
) -> Result<(), Failed> {
    if receipt.len() > RECEIPT {
        return Err(Failed);
    }
    // COSE_Sign1 = 18([protected: bstr, {396: {-1: [proof: bstr]}}, nil, signature: bstr])
    let mut cbor = Cbor(receipt);
    cbor.expect(TAG, 18)?;
    cbor.expect(ARRAY, 4)?;
    let protected = cbor.bytes()?;
    cbor.expect(MAP, 1)?;
    cbor.expect(UNSIGNED, LABEL_PROOFS)?;
    cbor.expect(MAP, 1)?;
    cbor.expect(NEGATIVE, LABEL_INCLUSION)?;
    cbor.expect(ARRAY, 1)?;
    let proof = cbor.bytes()?;
    cbor.expect(SIMPLE, NULL)?;
    let signature = cbor.bytes()?;
    cbor.end()?;

    check_protected(protected, key, issuer)?;
    let root = merkle_root(proof, claims)?;

    // Sig_structure of RFC 9052 section 4.4, with the root as detached payload.
    let mut signed = heapless::Vec::<u8, { RECEIPT + 64 }>::new();
    let length = u16::try_from(protected.len()).map_err(|_| Failed)?.to_be_bytes();
    let head: &[u8] = match length {
        [0, short @ ..=23] => &[0x40 | short],
        [0, byte] => &[0x58, byte],
        [high, low] => &[0x59, high, low],
    };
    for part in [b"\x84\x6aSignature1", head, protected, b"\x40\x58\x20", &root] {
        signed.extend_from_slice(part).map_err(|_| Failed)?;
    }
    p384_verify(key, &signed, signature)
}

const LABEL_ALG: u64 = 1;
const LABEL_KID: u64 = 4;
const LABEL_CLAIMS: u64 = 15;
const LABEL_VDS: u64 = 395;
const LABEL_PROOFS: u64 = 396;
/// -1, as CBOR counts negatives.
const LABEL_INCLUSION: u64 = 0;
/// -35, ES384.
const ALG_ES384: u64 = 34;
/// CCF's ledger profile.
const VDS_CCF: u64 = 2;

/// {1: -35, 4: kid, 395: 2, 15: {1: iss, ..}, "ccf.v1": {..}}, in any order.
fn check_protected(protected: &[u8], key: &P384PublicKey, issuer: &str) -> Result<(), Failed> {
    let mut cbor = Cbor(protected);
    let (mut alg, mut kid, mut claims, mut vds, mut ccf) = (false, false, false, false, false);
    for _ in 0..cbor.head(MAP)? {
        let seen = match cbor.any()? {
            (UNSIGNED, LABEL_ALG) => {
                cbor.expect(NEGATIVE, ALG_ES384)?;
                &mut alg
            }
            (UNSIGNED, LABEL_KID) => {
                if cbor.bytes()? != service_key_id(key)?.as_bytes() {
                    return Err(Failed);
                }
                &mut kid
            }
            (UNSIGNED, LABEL_CLAIMS) => {
                check_claims(&mut cbor, issuer)?;
                &mut claims
            }
            (UNSIGNED, LABEL_VDS) => {
                cbor.expect(UNSIGNED, VDS_CCF)?;
                &mut vds
            }
            (TEXT, length) => {
                if cbor.take(length)? != b"ccf.v1" {
                    return Err(Failed);
                }
                cbor.expect(MAP, 1)?;
                cbor.expect_text(b"txid")?;
                cbor.text()?;
                &mut ccf
            }
            _ => return Err(Failed),
        };
        if core::mem::replace(seen, true) {
            return Err(Failed);
        }
    }
    cbor.end()?;
    if alg && kid && claims && vds && ccf { Ok(()) } else { Err(Failed) }
}

/// CWT claims {1: iss, 2: sub, 6: iat}: the issuer must be the configured one, once.
fn check_claims(cbor: &mut Cbor, issuer: &str) -> Result<(), Failed> {
    let mut issued = false;
    for _ in 0..cbor.head(MAP)? {
        match cbor.any()? {
            (UNSIGNED, 1) if !issued => {
                cbor.expect_text(issuer.as_bytes())?;
                issued = true;
            }
            (UNSIGNED, 2) => drop(cbor.text()?),
            (UNSIGNED, 6) => drop(cbor.head(UNSIGNED)?),
            _ => return Err(Failed),
        }
    }
    if issued { Ok(()) } else { Err(Failed) }
}

/// Lower-case hex of SHA-256 over the DER SubjectPublicKeyInfo of a P-384 key.
fn service_key_id(key: &P384PublicKey) -> Result<String<64>, Failed> {
    const SPKI_P384: &[u8] = b"\x30\x76\x30\x10\x06\x07\x2a\x86\x48\xce\x3d\x02\x01\x06\x05\x2b\x81\x04\x00\x22\x03\x62\x00";
    let mut id = String::new();
    write!(id, "{}", Digest(sha256(&[SPKI_P384, &key.0]))).map_err(|_| Failed)?;
    Ok(id)
}

/// {1: leaf, 2: path} to the root; the leaf's claims must be the caller's.
fn merkle_root(proof: &[u8], claims: &[u8; 32]) -> Result<[u8; 32], Failed> {
    let mut cbor = Cbor(proof);
    cbor.expect(MAP, 2)?;
    cbor.expect(UNSIGNED, 1)?;
    cbor.expect(ARRAY, 3)?;
    let write_set = cbor.digest()?;
    let evidence = cbor.text()?;
    if cbor.digest()? != claims || *claims == [0; 32] {
        return Err(Failed);
    }
    cbor.expect(UNSIGNED, 2)?;
    let length = cbor.head(ARRAY)?;
    if !(1..=64).contains(&length) {
        return Err(Failed);
    }
    let mut node = sha256(&[write_set, &sha256(&[evidence]), claims]);
    for _ in 0..length {
        cbor.expect(ARRAY, 2)?;
        let is_left = match cbor.any()? {
            (SIMPLE, FALSE) => false,
            (SIMPLE, TRUE) => true,
            _ => return Err(Failed),
        };
        let sibling = cbor.digest()?;
        node = if is_left { sha256(&[sibling, &node]) } else { sha256(&[&node, sibling]) };
    }
    cbor.end()?;
    Ok(node)
}

const UNSIGNED: u8 = 0;
const NEGATIVE: u8 = 1;
const BYTES: u8 = 2;
const TEXT: u8 = 3;
const ARRAY: u8 = 4;
const MAP: u8 = 5;
const TAG: u8 = 6;
const SIMPLE: u8 = 7;
const FALSE: u64 = 20;
const TRUE: u64 = 21;
const NULL: u64 = 22;

/// What is left of a CBOR string (RFC 8949), read in its one deterministic encoding.
struct Cbor<'a>(&'a [u8]);

impl<'a> Cbor<'a> {
    /// A head: major type and argument, in the shortest form.
    fn any(&mut self) -> Result<(u8, u64), Failed> {
        let first = self.byte()?;
        let (major, short) = (first >> 5, first & 31);
        let (argument, least) = match short {
            0..=23 => (u64::from(short), 0),
            24 => (u64::from(self.byte()?), 24),
            25 => (u64::from(u16::from_be_bytes([self.byte()?, self.byte()?])), 0x100),
            26 => {
                let bytes = self.take(4)?.try_into().map_err(|_| Failed)?;
                (u64::from(u32::from_be_bytes(bytes)), 0x1_0000)
            }
            27 => {
                let bytes = self.take(8)?.try_into().map_err(|_| Failed)?;
                (u64::from_be_bytes(bytes), 0x1_0000_0000)
            }
            _ => return Err(Failed),
        };
        // Simple values and floats past 23 have no place in a receipt.
        if argument < least || (major == SIMPLE && short > 23) {
            Err(Failed)
        } else {
            Ok((major, argument))
        }
    }

    fn head(&mut self, major: u8) -> Result<u64, Failed> {
        let (found, argument) = self.any()?;
        if found == major { Ok(argument) } else { Err(Failed) }
    }

    fn expect(&mut self, major: u8, argument: u64) -> Result<(), Failed> {
        if self.head(major)? == argument { Ok(()) } else { Err(Failed) }
    }

    fn bytes(&mut self) -> Result<&'a [u8], Failed> {
        let length = self.head(BYTES)?;
        self.take(length)
    }

    fn digest(&mut self) -> Result<&'a [u8; 32], Failed> {
        self.bytes()?.try_into().map_err(|_| Failed)
    }

    fn text(&mut self) -> Result<&'a [u8], Failed> {
        let length = self.head(TEXT)?;
        self.take(length)
    }

    fn expect_text(&mut self, text: &[u8]) -> Result<(), Failed> {
        if self.text()? == text { Ok(()) } else { Err(Failed) }
    }

    fn byte(&mut self) -> Result<u8, Failed> {
        let (first, rest) = self.0.split_first().ok_or(Failed)?;
        self.0 = rest;
        Ok(*first)
    }

    fn take(&mut self, length: u64) -> Result<&'a [u8], Failed> {
        let length = usize::try_from(length).map_err(|_| Failed)?;
        let (taken, rest) = self.0.split_at_checked(length).ok_or(Failed)?;
        self.0 = rest;
        Ok(taken)
    }

    fn end(&self) -> Result<(), Failed> {
        if self.0.is_empty() { Ok(()) } else { Err(Failed) }
    }
}
