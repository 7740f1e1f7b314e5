//! The protected header of an endorsement: what is signed with it.

use crate::cbor::{CborError, Label, Reader};
use crate::field::{EvidenceError, Field};
use crate::values::{Sha256, Timestamp, shorten};

/// Labels of COSE headers (RFC 9052 section 3.1, RFC 9360).
const ALGORITHM: Label<'_> = Label::Number(1);
const CRITICAL: Label<'_> = Label::Number(2);
const CONTENT_TYPE: Label<'_> = Label::Number(3);
const CHAIN: Label<'_> = Label::Number(33);
const SIGNER_DIGEST: Label<'_> = Label::Number(34);
const ISSUER: Label<'_> = Label::Name("iss");
const FEED: Label<'_> = Label::Name("feed");
const SIGNED: Label<'_> = Label::Name("signingtime");

const PS384: i64 = -38;
const ES384: i64 = -35;
/// SHA-256 in COSE's registry of algorithms.
const SHA256: i64 = -16;
/// The tag of seconds since 1970.
const EPOCH: u64 = 1;

/// A signer, a root, and what may stand between.
const MIN_CERTIFICATES: usize = 2;
const MAX_CERTIFICATES: usize = 5;

/// More than any endorsement has.
const MAX_HEADERS: u64 = 32;

/// What the message is signed with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Algorithm {
    Ps384,
    Es384,
}

/// The headers that are read. Others are signed with them and mean nothing here; one that says it
/// must be understood is refused.
pub(super) struct Headers<'a> {
    pub(super) algorithm: Algorithm,
    /// Certificates in DER, at least two, the signer's first.
    pub(super) chain: Vec<&'a [u8]>,
    pub(super) signer_digest: Option<Sha256>,
    pub(super) issuer: &'a str,
    pub(super) feed: &'a str,
    pub(super) signed: Timestamp,
}

/// The headers as far as they have come.
#[derive(Default)]
struct Found<'a> {
    algorithm: Option<i64>,
    content_type: Option<&'a str>,
    chain: Option<Vec<&'a [u8]>>,
    signer_digest: Option<(i64, &'a [u8])>,
    issuer: Option<&'a str>,
    feed: Option<&'a str>,
    signed: Option<i64>,
}

impl<'a> Headers<'a> {
    pub(super) fn parse(protected: &'a [u8]) -> Result<Self, EvidenceError> {
        let found = Found::read(protected).map_err(|error| refuse(&error.to_string()))?;
        let missing = |name: &str| refuse(&format!("no header {name}"));

        let algorithm = match found.algorithm.ok_or_else(|| missing("alg"))? {
            PS384 => Algorithm::Ps384,
            ES384 => Algorithm::Es384,
            other => {
                let expected = format!("{PS384} (PS384) or {ES384} (ES384)");
                return Err(EvidenceError::new(Field::UvmAlgorithm, expected, other));
            }
        };
        if found.content_type != Some("application/json") {
            let found = found.content_type.unwrap_or("none");
            return Err(refuse(&format!("content type {}", shorten(found))));
        }
        let chain = found.chain.ok_or_else(|| missing("x5chain"))?;
        if !(MIN_CERTIFICATES..=MAX_CERTIFICATES).contains(&chain.len()) {
            let expected = format!("{MIN_CERTIFICATES} to {MAX_CERTIFICATES} certificates");
            return Err(EvidenceError::new(Field::UvmChain, expected, chain.len()));
        }
        let signed = found.signed.ok_or_else(|| missing("signingtime"))?;
        let signed =
            u64::try_from(signed).ok().and_then(|it| Timestamp::from_unix_seconds(it).ok());
        Ok(Self {
            algorithm,
            chain,
            signer_digest: found.signer_digest.map(signer_digest).transpose()?,
            issuer: found.issuer.ok_or_else(|| missing("iss"))?,
            feed: found.feed.ok_or_else(|| missing("feed"))?,
            signed: signed.ok_or_else(|| refuse("a signingtime out of range"))?,
        })
    }
}

impl<'a> Found<'a> {
    fn read(protected: &'a [u8]) -> Result<Self, CborError> {
        let mut reader = Reader::new(protected);
        let count = reader.map()?;
        if count > MAX_HEADERS {
            return Err(CborError::Type("at most 32 headers"));
        }
        let mut found = Self::default();
        let mut labels = Vec::new();
        for _ in 0..count {
            let label = reader.label()?;
            if labels.contains(&label) {
                return Err(CborError::Type("each header once"));
            }
            found.take(&label, &mut reader)?;
            labels.push(label);
        }
        reader.finish()?;
        Ok(found)
    }

    fn take(&mut self, label: &Label<'a>, reader: &mut Reader<'a>) -> Result<(), CborError> {
        match *label {
            ALGORITHM => self.algorithm = Some(reader.integer()?),
            CRITICAL => return Err(CborError::Type("no header that must be understood")),
            CONTENT_TYPE => self.content_type = Some(reader.text()?),
            CHAIN => {
                let count = reader.array()?;
                // The number is checked when all have been read; what does not fit ends the bytes.
                self.chain = Some((0..count).map(|_| reader.bytes()).collect::<Result<_, _>>()?);
            }
            SIGNER_DIGEST => {
                if reader.array()? != 2 {
                    return Err(CborError::Type("an algorithm and a digest"));
                }
                self.signer_digest = Some((reader.integer()?, reader.bytes()?));
            }
            ISSUER => self.issuer = Some(reader.text()?),
            FEED => self.feed = Some(reader.text()?),
            SIGNED => {
                if reader.tag()? != EPOCH {
                    return Err(CborError::Type("a time in seconds"));
                }
                self.signed = Some(reader.integer()?);
            }
            _ => {
                reader.item()?;
            }
        }
        Ok(())
    }
}

fn signer_digest((algorithm, digest): (i64, &[u8])) -> Result<Sha256, EvidenceError> {
    match <[u8; Sha256::LENGTH]>::try_from(digest) {
        Ok(digest) if algorithm == SHA256 => Ok(Sha256::new(digest)),
        _ => Err(EvidenceError::new(
            Field::UvmSignerDigest,
            format!("{SHA256} (SHA-256) and 32 bytes"),
            format!("{algorithm} and {} bytes", digest.len()),
        )),
    }
}

fn refuse(found: &str) -> EvidenceError {
    let expected = "alg, content type application/json, x5chain, iss, feed and signingtime";
    EvidenceError::new(Field::UvmHeaders, expected, found)
}
