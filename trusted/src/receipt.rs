//! The ledger's word: CCF receipts (COSE_Sign1, verifiable data structure 2), checked under the one
//! service key of the configuration. No TLS, no certificates.
//!
//! Stricter than the reference verifier: definite lengths and shortest integers only, exactly the
//! expected items, digests of exactly 32 bytes, one proof, a detached payload, booleans that are
//! booleans, 1 to 64 path elements, no byte left over. Parsed by hand, because a general CBOR
//! decoder accepts several encodings of one value and this must accept one.

use core::fmt::Write;

use heapless::String;

use crate::crypto::{Failed, p384_verify, sha256};
use crate::protocol::*;

/// The ledger has recorded exactly this transition. Made here only.
pub(crate) struct Recorded(());

/// The ledger stood at exactly this guard after the request was made. Made here only.
pub(crate) struct FreshlyRead(());

/// What the ledger is asked about.
pub(crate) struct Entry<'a> {
    pub(crate) tag: &'a LedgerTag,
    pub(crate) version: u64,
    pub(crate) guard: &'a Digest,
}

/// That the entry was appended, at its version.
pub(crate) fn committed(
    config: &Config, entry: &Entry, receipt: &[u8],
) -> Result<Recorded, Failed> {
    verify(config, &LedgerClaim::Append, entry, receipt).map(Recorded)
}

/// That the entry was the tag's newest when somebody asked for it with this nonce.
pub(crate) fn fresh(
    config: &Config, nonce: [u8; 32], entry: &Entry, receipt: &[u8],
) -> Result<FreshlyRead, Failed> {
    verify(config, &LedgerClaim::Read(nonce), entry, receipt).map(FreshlyRead)
}

fn verify(
    config: &Config, claim: &LedgerClaim, entry: &Entry, receipt: &[u8],
) -> Result<(), Failed> {
    let claim = sha256(&[&claim.bytes(entry.tag, entry.version, entry.guard)]);
    let is_genuine = verify_receipt(&config.ledger_key, &config.ledger_issuer, &claim, receipt);
    if is_genuine { Ok(()) } else { Err(Failed) }
}

/// Whether `receipt` is a CCF receipt by the service key `key` and `issuer` for the claims whose
/// SHA-256 is `claims`. What the core checks, for tools that audit a ledger.
pub fn verify_receipt(
    key: &P384PublicKey, issuer: &str, claims: &[u8; 32], receipt: &[u8],
) -> bool {
    receipt.len() <= RECEIPT && verify_claims(key, issuer, claims, receipt).is_some()
}

fn verify_claims(
    key: &P384PublicKey, issuer: &str, claims: &[u8; 32], receipt: &[u8],
) -> Option<()> {
    // COSE_Sign1: 18([protected, {396: {-1: [proof]}}, nil, signature])
    let mut cbor = Cbor(receipt);
    cbor.literal(b"\xd2\x84")?;
    let body = cbor.0;
    let protected = cbor.string(BYTES)?;
    let encoded = body.get(..body.len().checked_sub(cbor.0.len())?)?;
    cbor.literal(b"\xa1\x19\x01\x8c\xa1\x20\x81")?;
    let proof = cbor.string(BYTES)?;
    cbor.literal(b"\xf6")?;
    let signature = cbor.string(BYTES)?;
    cbor.end()?;

    check_protected(protected, key, issuer)?;
    let root = merkle_root(proof, claims)?;
    // Sig_structure of RFC 9052 section 4.4, with the root as detached payload.
    let mut signed = heapless::Vec::<u8, { RECEIPT + 64 }>::new();
    for part in [b"\x84\x6aSignature1", encoded, b"\x40\x58\x20", &root] {
        signed.extend_from_slice(part).ok()?;
    }
    p384_verify(key, &signed, signature).ok()
}

/// {1: -35 (ES384), 4: kid, 395: 2 (CCF), 15: {1: iss, ..}, "ccf.v1": {"txid": ..}}: these five,
/// each once, in any order.
fn check_protected(protected: &[u8], key: &P384PublicKey, issuer: &str) -> Option<()> {
    let mut cbor = Cbor(protected);
    cbor.literal(b"\xa5")?;
    let mut seen = 0;
    for _ in 0..5 {
        seen |= if cbor.literal(b"\x01\x38\x22").is_some() {
            1
        } else if cbor.literal(b"\x04\x58\x40").is_some() {
            cbor.literal(service_key_id(key)?.as_bytes())?;
            2
        } else if cbor.literal(b"\x19\x01\x8b\x02").is_some() {
            4
        } else if cbor.literal(b"\x0f").is_some() {
            check_issuer(&mut cbor, issuer)?;
            8
        } else {
            cbor.literal(b"\x66ccf.v1\xa1\x64txid")?;
            cbor.string(TEXT)?;
            16
        };
    }
    cbor.end()?;
    (seen == 0b1_1111).then_some(())
}

/// CWT claims {1: iss, 2: sub, 6: iat}: of these, any, but the issuer once and the configured one.
fn check_issuer(cbor: &mut Cbor, issuer: &str) -> Option<()> {
    let mut issued = false;
    for _ in 0..cbor.head(MAP)? {
        if !issued && cbor.literal(b"\x01").is_some() {
            issued = (cbor.string(TEXT)? == issuer.as_bytes()).then_some(true)?;
        } else if cbor.literal(b"\x02").is_some() {
            cbor.string(TEXT)?;
        } else {
            cbor.literal(b"\x06")?;
            cbor.head(UNSIGNED)?;
        }
    }
    issued.then_some(())
}

/// Lower-case hex of SHA-256 over the DER SubjectPublicKeyInfo of a P-384 key.
fn service_key_id(key: &P384PublicKey) -> Option<String<64>> {
    const SPKI: &[u8] = b"\x30\x76\x30\x10\x06\x07\x2a\x86\x48\xce\x3d\x02\x01\x06\x05\x2b\x81\x04\x00\x22\x03\x62\x00";
    let mut id = String::new();
    write!(id, "{}", Digest(sha256(&[SPKI, &key.0]))).ok()?;
    Some(id)
}

/// {1: [write set digest, commit evidence, claims digest], 2: path}, hashed to the root; the claims
/// must be the caller's.
fn merkle_root(proof: &[u8], claims: &[u8; 32]) -> Option<[u8; 32]> {
    let mut cbor = Cbor(proof);
    cbor.literal(b"\xa2\x01\x83")?;
    let write_set = cbor.digest()?;
    let evidence = cbor.string(TEXT)?;
    if cbor.digest()? != claims || *claims == [0; 32] {
        return None;
    }
    cbor.literal(b"\x02")?;
    let length = cbor.head(ARRAY).filter(|length| (1..=64).contains(length))?;
    let mut node = sha256(&[write_set, &sha256(&[evidence]), claims]);
    for _ in 0..length {
        let is_left = cbor.literal(b"\x82\xf5").is_some();
        if !is_left {
            cbor.literal(b"\x82\xf4")?;
        }
        let sibling = cbor.digest()?;
        node = if is_left { sha256(&[sibling, &node]) } else { sha256(&[&node, sibling]) };
    }
    cbor.end()?;
    Some(node)
}

const UNSIGNED: u8 = 0;
const BYTES: u8 = 2;
const TEXT: u8 = 3;
const ARRAY: u8 = 4;
const MAP: u8 = 5;

/// What is left of a CBOR string (RFC 8949), read in its one deterministic encoding.
struct Cbor<'a>(&'a [u8]);

impl<'a> Cbor<'a> {
    /// Exactly these bytes; moves only when they are there.
    fn literal(&mut self, bytes: &[u8]) -> Option<()> {
        self.0 = self.0.strip_prefix(bytes)?;
        Some(())
    }

    /// A head of this major type: its argument, in the shortest of the forms a receipt needs.
    fn head(&mut self, major: u8) -> Option<u64> {
        let first = *self.take(1)?.first()?;
        let (argument, least) = match first & 31 {
            short @ ..=23 => (u64::from(short), 0),
            24 => (u64::from(*self.take(1)?.first()?), 24),
            25 => (u64::from(u16::from_be_bytes(self.take(2)?.try_into().ok()?)), 0x100),
            26 => (u64::from(u32::from_be_bytes(self.take(4)?.try_into().ok()?)), 0x1_0000),
            _ => return None,
        };
        (first >> 5 == major && argument >= least).then_some(argument)
    }

    /// A byte or text string.
    fn string(&mut self, major: u8) -> Option<&'a [u8]> {
        let length = self.head(major)?;
        self.take(usize::try_from(length).ok()?)
    }

    fn digest(&mut self) -> Option<&'a [u8; 32]> {
        self.string(BYTES)?.try_into().ok()
    }

    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(taken)
    }

    fn end(&self) -> Option<()> {
        self.0.is_empty().then_some(())
    }
}
