//! CCF's COSE receipts (vds 2): the bytes, nothing else.
//!
//! A receipt is a COSE_Sign1 whose detached payload is a Merkle root, whose protected header names the
//! service key and the signature transaction, and whose unprotected header carries the inclusion proof.

use super::tree::{Digest, Sibling};
use crate::digest::sha256;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair, KeyPair};

/// COSE header labels and values, RFC 9052, RFC 9597 (CWT claims) and RFC 9942 (receipts).
mod label {
    pub(super) const ALG: i64 = 1;
    pub(super) const KID: i64 = 4;
    pub(super) const CWT_CLAIMS: i64 = 15;
    pub(super) const VDS: i64 = 395;
    pub(super) const VDP: i64 = 396;
    pub(super) const INCLUSION_PROOFS: i64 = -1;
    pub(super) const CWT_ISS: i64 = 1;
    pub(super) const CWT_SUB: i64 = 2;
    pub(super) const CWT_IAT: i64 = 6;
    /// ECDSA with SHA-384 on P-384.
    pub(super) const ALG_ES384: i64 = -35;
    /// CCF's ledger as the verifiable data structure.
    pub(super) const VDS_CCF: i64 = 2;
}

/// The key that signs a ledger's roots: the service identity.
pub(crate) struct ServiceKey {
    pair: EcdsaKeyPair,
}

impl ServiceKey {
    /// A fresh key and its PKCS#8 form.
    pub(crate) fn generate() -> anyhow::Result<(Self, Vec<u8>)> {
        let pkcs8 =
            EcdsaKeyPair::generate_pkcs8(&ECDSA_P384_SHA384_FIXED_SIGNING, &SystemRandom::new())?;
        Ok((Self::from_pkcs8(pkcs8.as_ref())?, pkcs8.as_ref().to_vec()))
    }

    /// Reads a key made by [`ServiceKey::generate`].
    pub(crate) fn from_pkcs8(pkcs8: &[u8]) -> anyhow::Result<Self> {
        let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P384_SHA384_FIXED_SIGNING, pkcs8).map_err(
            |rejected| anyhow::anyhow!("the service key is not a P-384 key: {rejected}"),
        )?;
        Ok(Self { pair })
    }

    /// The key pair itself, for the service certificate.
    pub(crate) fn pair(&self) -> &EcdsaKeyPair {
        &self.pair
    }

    /// The uncompressed point, 97 bytes.
    pub(crate) fn point(&self) -> &[u8] {
        self.pair.public_key().as_ref()
    }

    /// DER SubjectPublicKeyInfo.
    pub(crate) fn spki(&self) -> Vec<u8> {
        crate::x509::p384_spki(&self.pair)
    }

    /// Signs the root over the transactions before `transaction`; gives the protected header and r || s.
    pub(crate) fn sign_root(
        &self, header: &ProtectedHeader, root: &Digest,
    ) -> anyhow::Result<Signature> {
        let protected = header.encode(&self.spki());
        let mut signed = Cbor::default();
        signed.array(4).text("Signature1").bytes(&protected).bytes(&[]).bytes(root);
        let signature = self.pair.sign(&SystemRandom::new(), &signed.0)?;
        Ok(Signature { protected, signature: signature.as_ref().to_vec() })
    }
}

/// What the protected header of a receipt says.
pub(crate) struct ProtectedHeader<'a> {
    /// `iss`: which service.
    pub(crate) issuer: &'a str,
    /// `sub`: which application.
    pub(crate) subject: &'a str,
    /// Id of the signature transaction, "2.17".
    pub(crate) transaction: &'a str,
    /// Unix seconds.
    pub(crate) issued_at: u64,
}

impl ProtectedHeader<'_> {
    /// Map order as CCF 7 writes it.
    fn encode(&self, spki: &[u8]) -> Vec<u8> {
        let kid = hex::encode(sha256(spki));
        let mut out = Cbor::default();
        out.map(5);
        out.int(label::ALG).int(label::ALG_ES384);
        out.int(label::KID).bytes(kid.as_bytes());
        out.int(label::CWT_CLAIMS).map(3);
        out.int(label::CWT_ISS).text(self.issuer);
        out.int(label::CWT_SUB).text(self.subject);
        out.int(label::CWT_IAT).int(self.issued_at as i64);
        out.int(label::VDS).int(label::VDS_CCF);
        out.text("ccf.v1").map(1).text("txid").text(self.transaction);
        out.0
    }
}

/// A signed root, as the signature transaction keeps it.
#[derive(Debug, Clone)]
pub(crate) struct Signature {
    /// The protected header's bytes.
    pub(crate) protected: Vec<u8>,
    /// r || s, 96 bytes.
    pub(crate) signature: Vec<u8>,
}

/// The three components of a transaction's leaf.
pub(crate) struct Leaf {
    /// SHA-256 of the write set.
    pub(crate) write_set: Digest,
    /// "ce:2.15:<64 hex>", disclosed only in a receipt.
    pub(crate) commit_evidence: String,
    /// What the application set with setClaimsDigest.
    pub(crate) claims: Digest,
}

impl Leaf {
    /// The leaf's hash in the tree.
    pub(crate) fn hash(&self) -> Digest {
        let evidence = sha256(self.commit_evidence.as_bytes());
        sha256(&[self.write_set, evidence, self.claims].concat())
    }
}

/// The receipt's bytes.
pub(crate) fn encode(leaf: &Leaf, path: &[Sibling], signature: &Signature) -> Vec<u8> {
    let mut proof = Cbor::default();
    proof.map(2);
    proof.int(1).array(3);
    proof.bytes(&leaf.write_set).text(&leaf.commit_evidence).bytes(&leaf.claims);
    proof.int(2).array(path.len());
    for sibling in path {
        proof.array(2).bool(sibling.left).bytes(&sibling.hash);
    }

    let mut out = Cbor::default();
    out.tag(18).array(4);
    out.bytes(&signature.protected);
    out.map(1).int(label::VDP).map(1).int(label::INCLUSION_PROOFS).array(1).bytes(&proof.0);
    out.null();
    out.bytes(&signature.signature);
    out.0
}

/// Deterministic CBOR, as little of it as receipts need.
#[derive(Default)]
struct Cbor(Vec<u8>);

impl Cbor {
    fn head(&mut self, major: u8, value: u64) -> &mut Self {
        let major = major << 5;
        match value {
            0..24 => self.0.push(major | value as u8),
            24..0x100 => self.0.extend([major | 24, value as u8]),
            0x100..0x1_0000 => {
                self.0.push(major | 25);
                self.0.extend((value as u16).to_be_bytes());
            }
            0x1_0000..0x1_0000_0000 => {
                self.0.push(major | 26);
                self.0.extend((value as u32).to_be_bytes());
            }
            _ => {
                self.0.push(major | 27);
                self.0.extend(value.to_be_bytes());
            }
        }
        self
    }

    fn int(&mut self, value: i64) -> &mut Self {
        match value {
            0.. => self.head(0, value as u64),
            _ => self.head(1, !(value) as u64),
        }
    }

    fn bytes(&mut self, value: &[u8]) -> &mut Self {
        self.head(2, value.len() as u64).0.extend(value);
        self
    }

    fn text(&mut self, value: &str) -> &mut Self {
        self.head(3, value.len() as u64).0.extend(value.as_bytes());
        self
    }

    fn array(&mut self, length: usize) -> &mut Self {
        self.head(4, length as u64)
    }

    fn map(&mut self, length: usize) -> &mut Self {
        self.head(5, length as u64)
    }

    fn tag(&mut self, number: u64) -> &mut Self {
        self.head(6, number)
    }

    fn bool(&mut self, value: bool) -> &mut Self {
        self.0.push(if value { 0xf5 } else { 0xf4 });
        self
    }

    fn null(&mut self) -> &mut Self {
        self.0.push(0xf6);
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bytes_are_the_documented_ones() {
        let leaf =
            Leaf { write_set: [1; 32], commit_evidence: "ce:2.3:aa".into(), claims: [2; 32] };
        let signature = Signature { protected: vec![0xa0], signature: vec![9; 96] };
        let path = [Sibling { left: true, hash: [3; 32] }, Sibling { left: false, hash: [4; 32] }];
        let h = |byte: u8| hex::encode([byte; 32]);
        let leaf_cbor = format!("835820{}6963653a322e333a61615820{}", h(1), h(2));
        let path_cbor = format!("8282f55820{}82f45820{}", h(3), h(4));
        let proof = format!("a201{leaf_cbor}02{path_cbor}");
        let expected = format!(
            "d28441a0a119018ca1208158{:02x}{proof}f65860{}",
            proof.len() / 2,
            hex::encode([9; 96])
        );
        assert_eq!(hex::encode(encode(&leaf, &path, &signature)), expected);
    }

    #[test]
    fn the_protected_header_is_the_documented_one() {
        let header = ProtectedHeader {
            issuer: "i",
            subject: "s",
            transaction: "2.9",
            issued_at: 0x6500_0000,
        };
        let kid = hex::encode(hex::encode(sha256(b"spki")));
        let expected = format!(
            "a5013822045840{kid}0fa301616902617306{}19018b02666363662e7631a164747869 6463322e39",
            "1a65000000"
        );
        assert_eq!(hex::encode(header.encode(b"spki")), expected.replace(' ', ""));
    }
}
