//! Receipts: each published one gets its verdict, and each check is shown by a receipt that is
//! rightly signed over exactly what a verifier without that check would accept.

use std::io::Write;
use std::path::Path;

use base64::Engine;
use base64::prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD};
use keyfold_protocol::ids::P384PublicKey;
use keyfold_protocol::limits::RECEIPT;
use keyfold_tests::crypto::sha256;
use keyfold_tests::enclave::bytes;
use keyfold_tests::hostile::flipped;
use keyfold_tests::ledger::{ISSUER, Ledger};
use keyfold_trusted::verify_receipt;
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair, KeyPair};
use serde_json::Value;

const CLAIMS: [u8; 32] = [0xc1; 32];

/// A receipt in parts, each replaceable by one that a strict verifier refuses.
struct Parts {
    key: EcdsaKeyPair,
    /// Tag and array head.
    open: Vec<u8>,
    /// Entries of the protected header, encoded.
    protected: Vec<Vec<u8>>,
    /// Encoded unprotected header up to the proof.
    unprotected: Vec<u8>,
    /// After the unprotected header's proof: further proofs.
    more_proofs: Vec<u8>,
    write_set: Vec<u8>,
    evidence: Vec<u8>,
    claims: Vec<u8>,
    /// Encoded left flag, whether that is left, and sibling.
    path: Vec<(Vec<u8>, bool, Vec<u8>)>,
    /// How heads of the proof's items are encoded.
    heads: fn(u8, usize) -> Vec<u8>,
    after_protected: Vec<u8>,
    after_proof: Vec<u8>,
    payload: Vec<u8>,
    /// What the signature is over, from the root.
    after_signature: Vec<u8>,
    after_receipt: Vec<u8>,
}

fn head(major: u8, argument: usize) -> Vec<u8> {
    let major = major << 5;
    let [.., high, low] = argument.to_be_bytes();
    match argument {
        0..=23 => vec![major | low],
        24..=255 => vec![major | 24, low],
        _ => vec![major | 25, high, low],
    }
}

/// One step longer than it has to be.
fn long_head(major: u8, argument: usize) -> Vec<u8> {
    let major = major << 5;
    let [.., high, low] = argument.to_be_bytes();
    match argument {
        0..=23 => vec![major | 24, low],
        24..=255 => vec![major | 25, high, low],
        _ => vec![major | 26, 0, 0, high, low],
    }
}

fn item(major: u8, bytes: &[u8]) -> Vec<u8> {
    [&head(major, bytes.len()), bytes].concat()
}

fn bstr(bytes: &[u8]) -> Vec<u8> {
    item(2, bytes)
}

fn tstr(text: &str) -> Vec<u8> {
    item(3, text.as_bytes())
}

fn key_id(key: &[u8]) -> String {
    let spki = hex::decode("3076301006072a8648ce3d020106052b81040022036200").expect("hex");
    hex::encode(sha256(&[&spki, key]))
}

/// {1: iss, 2: sub, 6: iat}, behind its label.
fn cwt(issuer: &str) -> Vec<u8> {
    let entries = [&[0x0f, 0xa3, 0x01][..], &tstr(issuer), &[0x02], &tstr("keyfold")];
    [&entries.concat()[..], &[0x06, 0x1a, 0x6a, 0, 0, 0]].concat()
}

const ALG: usize = 0;
const KID: usize = 1;
const VDS: usize = 2;
const CWT: usize = 3;
const CCF: usize = 4;

impl Parts {
    fn new() -> Self {
        let rng = SystemRandom::new();
        let algorithm = &ECDSA_P384_SHA384_FIXED_SIGNING;
        let pkcs8 = EcdsaKeyPair::generate_pkcs8(algorithm, &rng).expect("a key");
        let key = EcdsaKeyPair::from_pkcs8(algorithm, pkcs8.as_ref(), &rng).expect("a key");
        let kid = [&[0x04][..], &bstr(key_id(key.public_key().as_ref()).as_bytes())].concat();
        let ccf = [tstr("ccf.v1"), vec![0xa1], tstr("txid"), tstr("2.15")].concat();
        Self {
            key,
            open: vec![0xd2, 0x84],
            protected: vec![
                vec![0x01, 0x38, 0x22],
                kid,
                vec![0x19, 0x01, 0x8b, 0x02],
                cwt(ISSUER),
                ccf,
            ],
            unprotected: vec![0xa1, 0x19, 0x01, 0x8c, 0xa1, 0x20, 0x81],
            more_proofs: Vec::new(),
            write_set: vec![0x11; 32],
            evidence: tstr("ce:2.14:00"),
            claims: CLAIMS.to_vec(),
            path: vec![left(0x21), right(0x22), left(0x23)],
            heads: head,
            after_protected: Vec::new(),
            after_proof: Vec::new(),
            payload: vec![0xf6],
            after_signature: Vec::new(),
            after_receipt: Vec::new(),
        }
    }

    fn public(&self) -> P384PublicKey {
        bytes(self.key.public_key().as_ref())
    }

    /// The root that a verifier without any check of its own would compute.
    fn root(&self) -> [u8; 32] {
        let text = match self.evidence.first() {
            Some(0x78) => &self.evidence[2..],
            Some(0x79) => &self.evidence[3..],
            _ => &self.evidence[1..],
        };
        let leaf = sha256(&[&self.write_set, &sha256(&[text]), &self.claims]);
        self.path.iter().fold(leaf, |node, (_, is_left, sibling)| {
            if *is_left { sha256(&[sibling, &node]) } else { sha256(&[&node, sibling]) }
        })
    }

    fn proof(&self) -> Vec<u8> {
        let h = self.heads;
        let mut proof = [h(5, 2), h(0, 1), h(4, 3)].concat();
        proof.extend([h(2, self.write_set.len()), self.write_set.clone()].concat());
        proof.extend(&self.evidence);
        proof.extend([h(2, self.claims.len()), self.claims.clone()].concat());
        proof.extend([h(0, 2), h(4, self.path.len())].concat());
        for (flag, _, sibling) in &self.path {
            proof.extend([h(4, 2), flag.clone(), h(2, sibling.len()), sibling.clone()].concat());
        }
        proof.extend(&self.after_proof);
        proof
    }

    /// The whole, rightly signed.
    fn receipt(&self) -> Vec<u8> {
        let mut protected = head(5, self.protected.len());
        protected.extend(self.protected.concat());
        protected.extend(&self.after_protected);
        self.receipt_with(&protected)
    }

    fn receipt_with(&self, protected: &[u8]) -> Vec<u8> {
        let signed =
            [&b"\x84\x6aSignature1"[..], &bstr(protected), &[0x40], &bstr(&self.root())].concat();
        let signature = self.key.sign(&SystemRandom::new(), &signed).expect("a signature");
        let signature = [signature.as_ref(), &self.after_signature].concat();
        [
            &self.open[..],
            &bstr(protected),
            &self.unprotected,
            &bstr(&self.proof()),
            &self.more_proofs,
            &self.payload,
            &bstr(&signature),
            &self.after_receipt,
        ]
        .concat()
    }

    fn is_accepted(&self) -> bool {
        verify_receipt(&self.public(), ISSUER, &CLAIMS, &self.receipt())
    }
}

fn left(byte: u8) -> (Vec<u8>, bool, Vec<u8>) {
    (vec![0xf5], true, vec![byte; 32])
}

fn right(byte: u8) -> (Vec<u8>, bool, Vec<u8>) {
    (vec![0xf4], false, vec![byte; 32])
}

#[test]
fn what_a_ledger_may_vary_is_accepted() {
    type Bend = fn(&mut Parts);
    let rows: [(&str, Bend); 8] = [
        ("nothing", |_| {}),
        ("the header's order", |p| p.protected.reverse()),
        ("the transaction", |p| {
            p.protected[CCF] = [tstr("ccf.v1"), vec![0xa1], tstr("txid"), tstr("9.9")].concat();
        }),
        ("the subject", |p| {
            let claims = [&[0x0f, 0xa2, 0x02][..], &tstr("other"), &[0x01], &tstr(ISSUER)];
            p.protected[CWT] = claims.concat();
        }),
        ("a path of one", |p| p.path.truncate(1)),
        ("a path of 64", |p| p.path = (0..64).map(right).collect()),
        ("all to the right", |p| p.path = vec![right(1), right(2)]),
        ("long evidence", |p| p.evidence = tstr(&"c".repeat(90))),
    ];
    for (name, bend) in rows {
        let mut parts = Parts::new();
        bend(&mut parts);
        assert!(parts.is_accepted(), "{name}");
    }
}

#[test]
fn a_receipt_has_one_form() {
    type Bend = fn(&mut Parts);
    let rows: [(&str, Bend); 51] = [
        ("no tag", |p| p.open = vec![0x84]),
        ("another tag", |p| p.open = vec![0xd1, 0x84]),
        ("an over-long tag", |p| p.open = vec![0xd8, 0x12, 0x84]),
        ("an array of five", |p| p.open = vec![0xd2, 0x85]),
        ("an array of no stated length", |p| {
            p.open = vec![0xd2, 0x9f];
            p.after_receipt = vec![0xff];
        }),
        ("a byte behind it", |p| p.after_receipt = vec![0]),
        ("algorithm ES256", |p| p.protected[ALG] = vec![0x01, 0x26]),
        ("algorithm 34 instead of -35", |p| p.protected[ALG] = vec![0x01, 0x18, 0x22]),
        ("no algorithm", |p| drop(p.protected.remove(ALG))),
        ("the algorithm twice", |p| p.protected.push(vec![0x01, 0x38, 0x22])),
        ("an over-long label", |p| p.protected[ALG] = vec![0x18, 0x01, 0x38, 0x22]),
        ("an over-long value", |p| p.protected[ALG] = vec![0x01, 0x39, 0, 0x22]),
        ("another key's id", |p| {
            p.protected[KID] = [&[0x04][..], &bstr(key_id(&[4; 97]).as_bytes())].concat();
        }),
        ("the key's id in capitals", |p| p.protected[KID].make_ascii_uppercase()),
        ("the algorithm twice and no key id", |p| p.protected[KID] = vec![0x01, 0x38, 0x22]),
        ("no key id", |p| drop(p.protected.remove(KID))),
        ("the key's id twice", |p| p.protected.push(p.protected[KID].clone())),
        ("another verifiable data structure", |p| p.protected[VDS][3] = 1),
        ("no verifiable data structure", |p| drop(p.protected.remove(VDS))),
        ("the verifiable data structure twice", |p| p.protected.push(p.protected[VDS].clone())),
        ("another issuer", |p| p.protected[CWT] = cwt("ledger.best")),
        ("an issuer that goes on", |p| p.protected[CWT] = cwt("ledger.test.evil")),
        ("an issuer that stops early", |p| p.protected[CWT] = cwt("ledger.tes")),
        ("claims without issuer", |p| p.protected[CWT] = vec![0x0f, 0xa1, 0x06, 0x01]),
        ("its issuer twice", |p| {
            let issuers = [&[0x0f, 0xa2, 0x01][..], &tstr(ISSUER), &[0x01], &tstr(ISSUER)];
            p.protected[CWT] = issuers.concat();
        }),
        ("the evidence as bytes", |p| p.evidence[0] = 0x4a),
        ("no claims", |p| drop(p.protected.remove(CWT))),
        ("the claims twice", |p| p.protected.push(cwt(ISSUER))),
        ("no ccf header", |p| drop(p.protected.remove(CCF))),
        ("a header nobody knows", |p| p.protected.push(vec![0x05, 0x01])),
        ("a header with another name", |p| {
            p.protected[CCF] = [tstr("ccf.v2"), vec![0xa1], tstr("txid"), tstr("2.15")].concat();
        }),
        ("a byte behind the header", |p| p.after_protected = vec![0]),
        ("a consistency proof", |p| p.unprotected[5] = 0x21),
        ("no proof's label", |p| p.unprotected[3] = 0x8d),
        ("a second unprotected header", |p| p.unprotected[0] = 0xa2),
        ("two proofs", |p| {
            *p.unprotected.last_mut().expect("a head") = 0x82;
            p.more_proofs = bstr(&p.proof());
        }),
        ("the payload attached", |p| p.payload = bstr(&p.root())),
        ("an empty payload", |p| p.payload = vec![0x40]),
        ("undefined for a payload", |p| p.payload = vec![0xf7]),
        ("a signature too long", |p| p.after_signature = vec![0]),
        ("a byte behind the proof", |p| p.after_proof = vec![0]),
        ("over-long heads in the proof", |p| p.heads = long_head),
        ("over-long lengths in the proof", |p| {
            p.heads =
                |major, length| if major == 2 { long_head(2, length) } else { head(major, length) };
        }),
        ("a write set of 31 bytes", |p| p.write_set.truncate(31)),
        ("a sibling of 33 bytes", |p| p.path[1].2.push(0)),
        ("a sibling of 64 bytes", |p| p.path[1].2.extend([0; 32])),
        ("an empty path", |p| p.path.clear()),
        ("a path of 65", |p| p.path = (0..65).map(right).collect()),
        ("left as a number", |p| p.path[0].0 = vec![0x01]),
        ("left as null", |p| p.path[1].0 = vec![0xf6]),
        ("left as an over-long boolean", |p| p.path[0].0 = vec![0xf8, 0x15]),
    ];
    for (name, bend) in rows {
        let mut parts = Parts::new();
        bend(&mut parts);
        assert!(!parts.is_accepted(), "{name}");
    }
}

#[test]
fn a_leaf_carries_exactly_the_claims_asked_for() {
    let parts = Parts::new();
    let receipt = parts.receipt();
    let key = parts.public();
    assert!(verify_receipt(&key, ISSUER, &CLAIMS, &receipt));
    assert!(!verify_receipt(&key, ISSUER, &[0xc2; 32], &receipt), "other claims");

    let mut zero = Parts::new();
    zero.claims = vec![0; 32];
    let (key, receipt) = (zero.public(), zero.receipt());
    assert!(
        !verify_receipt(&key, ISSUER, &[0; 32], &receipt),
        "zeros: a transaction without claims"
    );
}

#[test]
fn an_inner_node_is_not_a_leaf() {
    // The sizes are the only domain separation: claims asked for where a sibling stands.
    let mut parts = Parts::new();
    parts.claims = [&CLAIMS[..], &[0; 32]].concat();
    assert!(!parts.is_accepted());
}

#[test]
fn a_receipt_is_one_keys_word() {
    let (parts, other) = (Parts::new(), Parts::new());
    assert!(!verify_receipt(&other.public(), ISSUER, &CLAIMS, &parts.receipt()), "another key");

    // Signed by a key that borrows the right one's name.
    let mut borrowed = Parts::new();
    borrowed.protected[KID] =
        [&[0x04][..], &bstr(key_id(parts.key.public_key().as_ref()).as_bytes())].concat();
    let receipt = borrowed.receipt();
    assert!(!verify_receipt(&parts.public(), ISSUER, &CLAIMS, &receipt), "a borrowed name");
}

#[test]
fn a_receipt_longer_than_any_is_refused() {
    let mut parts = Parts::new();
    let spare = RECEIPT - parts.receipt().len() + parts.evidence.len() - 4;
    parts.evidence = item(3, &vec![b'c'; spare]);
    assert!(parts.receipt().len() <= RECEIPT && parts.is_accepted(), "the longest there is");
    parts.evidence = item(3, &vec![b'c'; spare + 20]);
    assert!(parts.receipt().len() > RECEIPT);
    assert!(!parts.is_accepted());
}

#[test]
fn every_single_bit_of_a_receipt_counts() {
    let ledger = Ledger::new();
    let path = [(true, [1; 32]), (false, [2; 32]), (true, [3; 32])];
    let receipt = ledger.sign(&CLAIMS, ISSUER, &path);
    let key = ledger.public_key();
    assert!(verify_receipt(&key, ISSUER, &CLAIMS, &receipt));
    let accepted: Vec<usize> = (0..receipt.len() * 8)
        .filter(|bit| verify_receipt(&key, ISSUER, &CLAIMS, &flipped(&receipt, *bit)))
        .collect();
    assert_eq!(accepted, Vec::<usize>::new());
}

#[test]
fn every_shorter_receipt_is_refused() {
    let parts = Parts::new();
    let (key, receipt) = (parts.public(), parts.receipt());
    for length in 0..receipt.len() {
        assert!(!verify_receipt(&key, ISSUER, &CLAIMS, &receipt[..length]), "{length} bytes");
    }
}

#[test]
fn an_issuer_is_named_once() {
    let mut parts = Parts::new();
    let issuers = [&[0x0f, 0xa2, 0x01][..], &tstr("other"), &[0x01], &tstr(ISSUER)];
    parts.protected[CWT] = issuers.concat();
    assert!(!parts.is_accepted());
}

/// Every published receipt, with the verdict it must get.
#[test]
fn every_published_receipt_gets_its_verdict() {
    let vectors = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/vectors/ccf-cose");
    let Ok(index) = std::fs::read_to_string(vectors.join("vectors.json")) else {
        // Past the test harness's capture: a vector that was not run must not look like one.
        let mut stderr = std::io::stderr();
        writeln!(stderr, "NOT RUN: no published receipts at {}", vectors.display())
            .expect("stderr");
        return;
    };
    let index: Vec<Value> = serde_json::from_str(&index).expect("JSON");
    assert!(!index.is_empty());
    let mut verdicts = Vec::new();
    for vector in &index {
        let text = |name: &str| vector[name].as_str().map(str::to_owned);
        let name = text("name").expect("a name");
        let file = vectors.join(text("receipt").expect("a receipt"));
        let receipt = std::fs::read(file).expect("the receipt");
        let claims = hex::decode(text("claims_digest").expect("claims")).expect("hex");
        let claims: [u8; 32] = claims.try_into().expect("32 bytes");
        let issuer = text("issuer").or_else(|| stated_issuer(&receipt)).unwrap_or_default();
        let keys = public_keys(&vectors.join(text("keys").expect("keys")));
        let accepted = keys.iter().any(|key| verify_receipt(key, &issuer, &claims, &receipt));
        let expected = text("expect").expect("a verdict") == "accept";
        if accepted != expected {
            verdicts.push(format!("{name}: accepted {accepted}"));
        }
    }
    assert_eq!(verdicts, Vec::<String>::new());
}

/// `iss` as the receipt states it, for vectors that name none.
fn stated_issuer(receipt: &[u8]) -> Option<String> {
    let start = receipt.windows(3).position(|w| w[0] == 0x0f && w[1] >> 5 == 5 && w[2] == 1)?;
    let (length, text) = match receipt.get(start + 3..)? {
        [0x78, length, text @ ..] => (usize::from(*length), text),
        [short @ 0x60..=0x77, text @ ..] => (usize::from(short & 31), text),
        _ => return None,
    };
    String::from_utf8(text.get(..length)?.to_vec()).ok()
}

/// The keys of a JWKS, a PEM public key, or a COSE key set.
fn public_keys(path: &Path) -> Vec<P384PublicKey> {
    let raw = std::fs::read(path).expect("the keys");
    let point = |x: &[u8], y: &[u8]| bytes(&[&[4], x, y].concat());
    match path.extension().and_then(|extension| extension.to_str()) {
        Some("json") => {
            let set: Value = serde_json::from_slice(&raw).expect("JSON");
            let coordinate = |key: &Value, name: &str| {
                BASE64_URL_SAFE_NO_PAD.decode(key[name].as_str().expect("text")).expect("base64url")
            };
            let keys = set["keys"].as_array().expect("keys").iter();
            keys.map(|key| point(&coordinate(key, "x"), &coordinate(key, "y"))).collect()
        }
        Some("pem") => {
            let text = String::from_utf8(raw).expect("text");
            let body: String = text.lines().filter(|line| !line.starts_with('-')).collect();
            let spki = BASE64_STANDARD.decode(body).expect("base64");
            vec![bytes(&spki[spki.len() - 97..])]
        }
        // -2: x and -3: y, 48 bytes each.
        _ => {
            let after = |label: &[u8]| {
                let at = raw.windows(3).position(|window| window == label).expect("a coordinate");
                raw[at + 3..at + 51].to_vec()
            };
            vec![point(&after(b"\x21\x58\x30"), &after(b"\x22\x58\x30"))]
        }
    }
}
