//! Evidence as the enclave's simulated platform makes it, and the requests that carry it.

use super::sha256;
use aws_lc_rs::encoding::{AsDer, Pkcs8V1Der};
use aws_lc_rs::key_wrap::{AES_256, AesKek, KeyWrapPadded};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::{
    KeyPair, KeySize, OaepAlgorithm, OaepPrivateDecryptingKey, PrivateDecryptingKey,
};
use aws_lc_rs::signature::{
    ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _, RSA_PKCS1_SHA256,
};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use keyfold_dev_cloud::Endpoints;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

pub fn b64(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

pub fn unb64(text: &Value) -> Vec<u8> {
    URL_SAFE_NO_PAD.decode(text.as_str().unwrap()).unwrap()
}

/// The simulated chip, read from its files as the enclave reads it.
pub struct Chip {
    pub dir: PathBuf,
    key: EcdsaKeyPair,
    chip_id: [u8; 64],
}

impl Chip {
    pub fn open(dir: &Path) -> Self {
        let pkcs8 = std::fs::read(dir.join("vcek.key.pk8")).unwrap();
        let key = EcdsaKeyPair::from_pkcs8(&ECDSA_P384_SHA384_FIXED_SIGNING, &pkcs8).unwrap();
        let vcek = super::pem_der(&std::fs::read_to_string(dir.join("vcek.pem")).unwrap());
        // OID 1.3.6.1.4.1.3704.1.4, then an OCTET STRING of 64 bytes.
        let hardware_id = hex::decode("06092b060104019c7801040440").unwrap();
        let at = vcek.windows(13).position(|window| window == hardware_id).unwrap() + 13;
        Self { dir: dir.to_owned(), key, chip_id: vcek[at..at + 64].try_into().unwrap() }
    }

    pub fn pem(&self, name: &str) -> String {
        std::fs::read_to_string(self.dir.join(name)).unwrap()
    }

    /// VCEK, ASK, ARK.
    pub fn chain(&self) -> String {
        self.pem("vcek.pem") + &self.pem("ask.pem") + &self.pem("ark.pem")
    }

    /// A genuine report over `runtime_data`, changed by `edit` before it is signed.
    pub fn report(&self, runtime_data: &[u8], edit: impl FnOnce(&mut [u8])) -> Vec<u8> {
        let mut report = vec![0; 1184];
        report[0] = 3;
        report[4..8].copy_from_slice(&7u32.to_le_bytes());
        report[8..16].copy_from_slice(&0x30000u64.to_le_bytes());
        report[0x34] = 1;
        report[0x50..0x70].copy_from_slice(&sha256(runtime_data));
        report[0x90..0xc0].fill(0xab);
        report[0xc0..0xe0].copy_from_slice(&sha256(b"init"));
        report[0x180..0x188].copy_from_slice(&[4, 0, 0, 0, 0, 0, 24, 219]);
        report[0x188] = 0x19;
        report[0x1a0..0x1e0].copy_from_slice(&self.chip_id);
        edit(&mut report);
        let signature = self.key.sign(&SystemRandom::new(), &report[..0x2a0]).unwrap();
        let (r, s) = signature.as_ref().split_at(48);
        for (at, component) in [(0x2a0, r), (0x2e8, s)] {
            let little_endian: Vec<u8> = component.iter().rev().copied().collect();
            report[at..at + 48].copy_from_slice(&little_endian);
        }
        report
    }
}

/// The body of POST /attest/SevSnpVm.
pub fn attest_body(report: &[u8], chain: &str, runtime_data: &[u8]) -> Value {
    json!({
        "report": b64(evidence_text(report, chain, &[])),
        "runtimeData": {"data": b64(runtime_data), "dataType": "JSON"},
        "initTimeData": {"data": "", "dataType": ""},
        "nonce": 13_202_930_541_250_959_283u64,
    })
}

/// What stands in the body's `report`: with endorsements of the utility VM around a container.
pub fn evidence_text(report: &[u8], chain: &str, endorsements: &[Vec<u8>]) -> String {
    let mut evidence = json!({"SnpReport": b64(report), "VcekCertChain": b64(chain)});
    if !endorsements.is_empty() {
        let uvm: Vec<_> = endorsements.iter().map(b64).collect();
        evidence["Endorsements"] = json!(b64(json!({"Uvm": uvm}).to_string()));
    }
    evidence.to_string()
}

pub async fn attest(endpoints: &Endpoints, body: &Value) -> reqwest::Response {
    let url = format!("{}/attest/SevSnpVm?api-version=2022-08-01", endpoints.maa.url);
    super::post(url, body).await
}

/// A workload's one-boot RSA key.
pub struct Workload {
    pub pkcs8: Vec<u8>,
    pair: KeyPair,
}

impl Workload {
    pub fn new() -> Self {
        let pair = KeyPair::generate(KeySize::Rsa2048).unwrap();
        let pkcs8 = AsDer::<Pkcs8V1Der>::as_der(&pair).unwrap().as_ref().to_vec();
        Self { pkcs8, pair }
    }

    pub fn jwk(&self) -> Value {
        let n = self.pair.public_key().modulus().big_endian_without_leading_zero();
        json!({"kty": "RSA", "kid": "kek-1", "use": "enc", "n": b64(n), "e": "AQAB"})
    }

    /// The runtime claims of role release.
    pub fn runtime_data(&self) -> Vec<u8> {
        self.runtime_data_of("release", &"5c".repeat(32))
    }

    pub fn runtime_data_of(&self, role: &str, config: &str) -> Vec<u8> {
        json!({
            "keyfold": {"version": 1, "role": role, "config": config},
            "keys": [self.jwk()],
        })
        .to_string()
        .into_bytes()
    }

    /// Undoes CKM_RSA_AES_KEY_WRAP.
    pub fn unwrap(&self, algorithm: &'static OaepAlgorithm, ciphertext: &[u8]) -> Vec<u8> {
        self.try_unwrap(algorithm, ciphertext).unwrap()
    }

    pub fn try_unwrap(
        &self, algorithm: &'static OaepAlgorithm, ciphertext: &[u8],
    ) -> Option<Vec<u8>> {
        let key = PrivateDecryptingKey::from_pkcs8(&self.pkcs8).unwrap();
        let key = OaepPrivateDecryptingKey::new(key).unwrap();
        let (rsa, wrapped) = ciphertext.split_at(256);
        let mut transport = vec![0; key.min_output_size()];
        let transport = key.decrypt(algorithm, rsa, &mut transport, None).ok()?;
        assert_eq!(transport.len(), 32);
        let mut plaintext = vec![0; wrapped.len()];
        let kek = AesKek::new(&AES_256, transport).unwrap();
        kek.unwrap_with_padding(wrapped, &mut plaintext).ok().map(|plaintext| plaintext.to_vec())
    }
}

/// A token with these claims, signed by a key file (PKCS#8) under a key id.
pub fn forge(pkcs8: &[u8], kid: &str, claims: &Value) -> String {
    let pair = KeyPair::from_pkcs8(pkcs8).unwrap();
    let header = json!({"alg": "RS256", "kid": kid, "typ": "JWT"});
    let input = format!("{}.{}", b64(header.to_string()), b64(claims.to_string()));
    let mut signature = vec![0; pair.public_modulus_len()];
    pair.sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), input.as_bytes(), &mut signature).unwrap();
    format!("{input}.{}", b64(signature))
}

/// A token's claims, unverified.
pub fn claims(token: &str) -> Value {
    let part = token.split('.').nth(1).unwrap();
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(part).unwrap()).unwrap()
}

pub fn header(token: &str) -> Value {
    let part = token.split('.').next().unwrap();
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(part).unwrap()).unwrap()
}
