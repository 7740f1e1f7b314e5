//! Keys, roots and statements for the tests of what is signed.

// Each test binary uses its own part of this.
#![allow(dead_code)]

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use keyfold_attestation_policy::signing::{PayloadSignature, SigningKey};
use keyfold_attestation_policy::trust_root::TrustRoot;
use keyfold_attestation_policy::values::Timestamp;
use ring::signature::Ed25519KeyPair;
use serde_json::{Value, json};

const STATEMENT_TYPE: &str = "application/vnd.keyfold.deployment-statement.v1+json";

/// The key whose seed is this byte 32 times, in the PKCS#8 form without the public key.
pub(crate) fn key(seed: u8) -> SigningKey {
    let mut document = hex::decode("302e020100300506032b657004220420").unwrap();
    document.extend([seed; 32]);
    SigningKey::from_pkcs8(&document).unwrap()
}

/// Two of the keys 1, 2, 3.
pub(crate) fn root() -> TrustRoot {
    TrustRoot::new(1, 2, [1, 2, 3].map(|seed| key(seed).public_key()).to_vec()).unwrap()
}

pub(crate) fn time(text: &str) -> Timestamp {
    Timestamp::from_rfc3339(text).unwrap()
}

pub(crate) fn now() -> Timestamp {
    time("2026-12-01T00:00:00Z")
}

pub(crate) fn statement() -> Value {
    json!({
        "name": "keyfold-test",
        "serial": 7,
        "issued": "2026-11-22T00:00:00Z",
        "expires": "2027-02-20T00:00:00Z",
        "url": "https://keyfold.example",
        "identity": {
            "issuer": "https://login.example/v2.0",
            "client_id": "client",
            "audience": "api://keyfold",
        },
        "config": "c0".repeat(32),
        "root": "10".repeat(32),
        "workloads": [{
            "profile": "snp-direct",
            "measurement": "ab".repeat(48),
            "minimum_tcb": [{
                "product": "Milan",
                "tcb": {"bootloader": 4, "tee": 0, "snp": 24, "microcode": 219},
            }],
            "policy_required": [],
            "policy_forbidden": ["smt-allowed"],
            "platform_required": ["alias-check-complete"],
            "platform_forbidden": [],
        }],
    })
}

/// The issuer of Microsoft's endorsements.
pub(crate) const MICROSOFT: &str =
    "did:x509:0:sha256:I__iuL25oXEVFdTP_aBLx_eT1RPHbCQ_ECBQfYZpt9s::eku:1.3.6.1.4.1.311.76.59.1.2";

/// A workload of profile `aci`.
pub(crate) fn container() -> Value {
    json!({
        "profile": "aci",
        "host_data": "77".repeat(32),
        "uvm": {"issuer": MICROSOFT, "feed": "ContainerPlat-AMD-UVM", "minimum_svn": 104},
        "minimum_tcb": [{
            "product": "Milan",
            "tcb": {"bootloader": 4, "tee": 0, "snp": 24, "microcode": 219},
        }],
        "policy_required": [],
        "policy_forbidden": ["cxl-allowed"],
        "platform_required": [],
        "platform_forbidden": [],
    })
}

pub(crate) fn simulated_workload(byte: &str) -> Value {
    json!({
        "profile": "simulated",
        "ark_sha256": byte.repeat(32),
        "measurement": "ee".repeat(48),
    })
}

/// The envelope of `payload`, made here and not by the crate, signed by the keys of these seeds.
pub(crate) fn sign(payload: &[u8], seeds: &[u8]) -> Vec<u8> {
    let head = format!("DSSEv1 {} {STATEMENT_TYPE} {} ", STATEMENT_TYPE.len(), payload.len());
    let signed = [head.as_bytes(), payload].concat();
    let signatures: Vec<PayloadSignature> = seeds
        .iter()
        .map(|seed| PayloadSignature {
            key: key(*seed).public_key(),
            signature: base64(&raw_signature(*seed, &signed)),
        })
        .collect();
    let payload = base64(payload);
    let signatures = serde_json::to_string(&signatures).unwrap();
    format!(
        r#"{{"payloadType":"{STATEMENT_TYPE}","payload":"{payload}","signatures":{signatures}}}"#
    )
    .into_bytes()
}

/// The statement signed by the keys 1 and 2.
pub(crate) fn signed(statement: &Value) -> Vec<u8> {
    sign(&serde_json::to_vec(statement).unwrap(), &[1, 2])
}

pub(crate) fn raw_signature(seed: u8, message: &[u8]) -> Vec<u8> {
    Ed25519KeyPair::from_seed_unchecked(&[seed; 32]).unwrap().sign(message).as_ref().to_vec()
}

pub(crate) fn base64(bytes: &[u8]) -> String {
    STANDARD.encode(bytes)
}
