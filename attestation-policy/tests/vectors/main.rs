//! Real reports and chains, from the public sources that the vectors' README names: each gets the
//! verdict published there, and each one-byte change of them is refused by the field it touches.
//!
//! The vectors lie outside the repository. Where they are absent, every test here says so loudly
//! and passes: the checks themselves are covered by the self-made chips of the unit tests.

#[path = "../common/mod.rs"]
mod common;
mod endorsements;
mod negatives;
mod oracle;
mod verdicts;

use std::path::PathBuf;

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use keyfold_attestation_policy::chain::{ChainBytes, VerifiedChain, verify_amd_chain};
use keyfold_attestation_policy::field::EvidenceError;
use keyfold_attestation_policy::report::Report;
use keyfold_attestation_policy::values::Timestamp;

/// A report with its chain in PEM.
#[derive(Clone)]
pub(crate) struct Sample {
    pub(crate) report: Vec<u8>,
    pub(crate) chain: Vec<u8>,
}

impl Sample {
    pub(crate) fn new(report: Vec<u8>, certificates: &[Vec<u8>]) -> Self {
        Self { report, chain: certificates.concat() }
    }

    pub(crate) fn chain(&self) -> Result<VerifiedChain, EvidenceError> {
        verify_amd_chain(ChainBytes::Pem(&self.chain), noon())
    }

    /// Chain, then report: what every piece of evidence goes through.
    pub(crate) fn verify(&self) -> Result<(VerifiedChain, Report), EvidenceError> {
        let chain = self.chain()?;
        let report = Report::parse(&self.report)?;
        chain.check_report(&report)?;
        Ok((chain, report))
    }
}

/// A time at which every certificate of the vectors but the VLEK's is valid.
pub(crate) fn noon() -> Timestamp {
    Timestamp::from_rfc3339("2026-11-22T12:00:00Z").unwrap()
}

/// The file's bytes, or a loud note and `None`.
pub(crate) fn vector(path: &str) -> Option<Vec<u8>> {
    let vectors = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../shared/vectors/azure-snp");
    if !vectors.is_dir() {
        eprintln!("SKIPPED, NOT TESTED: no SNP vectors at {}", vectors.display());
        return None;
    }
    let file = vectors.join(path);
    Some(std::fs::read(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display())))
}

pub(crate) fn pem(der: &[u8]) -> Vec<u8> {
    let body = STANDARD.encode(der);
    let mut text = String::from("-----BEGIN CERTIFICATE-----\n");
    for line in body.as_bytes().chunks(64) {
        text.push_str(std::str::from_utf8(line).unwrap());
        text.push('\n');
    }
    text.push_str("-----END CERTIFICATE-----\n");
    text.into_bytes()
}

pub(crate) fn base64url(text: &[u8]) -> Vec<u8> {
    let text = text.trim_ascii();
    let unpadded = text.iter().position(|byte| *byte == b'=').map_or(text, |end| &text[..end]);
    URL_SAFE_NO_PAD.decode(unpadded).unwrap()
}

/// Azure on Milan, report version 3.
pub(crate) fn milan() -> Option<Sample> {
    let folder = "ms-tee-attestation-verification";
    Some(Sample::new(
        vector(&format!("{folder}/milan_attestation_report.bin"))?,
        &[
            vector(&format!("{folder}/milan_vcek.pem"))?,
            vector(&format!("{folder}/milan_ask.pem"))?,
            vector(&format!("{folder}/milan_ark.pem"))?,
        ],
    ))
}

/// Azure on Turin, report version 5.
pub(crate) fn turin() -> Option<Sample> {
    let folder = "ms-tee-attestation-verification";
    Some(Sample::new(
        vector(&format!("{folder}/turin_attestation_report.bin"))?,
        &[
            vector(&format!("{folder}/turin_vcek.pem"))?,
            vector(&format!("{folder}/turin_ask.pem"))?,
            vector(&format!("{folder}/turin_ark.pem"))?,
        ],
    ))
}

/// A confidential container on Azure, with what THIM serves of its chip.
pub(crate) fn azure_container() -> Option<Sample> {
    let folder = "confidential-sidecar-containers/attest";
    let report = vector(&format!("{folder}/snp_report.bin"))?;
    let thim = vector(&format!("{folder}/uvm_host_amd_certificate.json"))?;
    Some(Sample::new(report, &thim_chain(&serde_json::from_slice(&thim).unwrap())))
}

/// The PEM blocks in an answer of THIM, leaf first.
pub(crate) fn thim_chain(answer: &serde_json::Value) -> [Vec<u8>; 2] {
    ["vcekCert", "certificateChain"]
        .map(|member| answer[member].as_str().unwrap().as_bytes().to_vec())
}

/// A development chip on Milan, report version 2, policy with DEBUG.
pub(crate) fn milan_debug() -> Option<Sample> {
    Some(Sample::new(
        vector("go-sev-guest/attestation.bin")?,
        &[pem(&vector("go-sev-guest/vcek.testcer")?), vector("go-sev-guest/milan.testcer")?],
    ))
}

/// The report of the trustee's tests with one of its VCEKs.
pub(crate) fn trustee(vcek: &str) -> Option<Sample> {
    Some(Sample::new(
        vector("trustee/snp/test-report.bin")?,
        &[pem(&vector(&format!("trustee/snp/{vcek}"))?), vector("amd-roots/ask_ark_milan.pem")?],
    ))
}

/// The SNP report inside an Azure CVM's HCL report.
pub(crate) fn hcl_report(hcl: &[u8]) -> Vec<u8> {
    hcl[32..32 + 1184].to_vec()
}
