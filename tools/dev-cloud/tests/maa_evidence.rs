//! The attestation service judges what real hardware made: reports of AMD's chips with their chains, and
//! Microsoft's endorsements.

mod common;

use common::evidence::{Chip, attest, attest_body, b64, claims, evidence_text};
use common::vectors::{present, text, vector};
use common::{json, sha256, start};
use keyfold_dev_cloud::Endpoints;
use serde_json::{Value, json};

fn unpadded(standard: &str) -> Vec<u8> {
    common::unb64_standard(standard.trim())
}

/// Evidence as a client sends it.
struct Evidence {
    report: Vec<u8>,
    chain: String,
    endorsements: Vec<Vec<u8>>,
    runtime: Option<Vec<u8>>,
    init: Option<Vec<u8>>,
}

impl Evidence {
    fn new(report: Vec<u8>, chain: String) -> Self {
        Self { report, chain, endorsements: Vec::new(), runtime: None, init: None }
    }

    /// Of a real confidential container: report, chain, endorsement, what it bound and its policy.
    fn container() -> Self {
        const FOLDER: &str = "confidential-sidecar-containers/attest";
        let thim: Value =
            serde_json::from_slice(&vector(&format!("{FOLDER}/uvm_host_amd_certificate.json")))
                .unwrap();
        let chain = ["vcekCert", "certificateChain"].map(|name| thim[name].as_str().unwrap());
        Self {
            endorsements: vec![vector(&format!("{FOLDER}/body.uvm_reference_info.bin"))],
            runtime: Some(unpadded("ewogICAiYWtleSIgOiAiYXZhbHVlIgp9Cg==")),
            init: Some(unpadded(&text(&format!("{FOLDER}/uvm_security_policy.base64")))),
            ..Self::new(vector(&format!("{FOLDER}/snp_report.bin")), chain.concat())
        }
    }

    /// Of the simulated chip, with the measurement that an endorsement is for.
    fn endorsed(chip: &Chip, endorsement: Vec<u8>, measurement: &str) -> Self {
        let measurement = hex::decode(measurement).unwrap();
        let report = chip.report(b"", |report| report[0x90..0xc0].copy_from_slice(&measurement));
        Self { endorsements: vec![endorsement], ..Self::new(report, chip.chain()) }
    }

    fn body(&self) -> Value {
        let mut body = attest_body(&self.report, &self.chain, b"");
        let evidence = evidence_text(&self.report, &self.chain, &self.endorsements);
        body["report"] = json!(b64(evidence));
        match &self.runtime {
            Some(runtime) => body["runtimeData"]["data"] = json!(b64(runtime)),
            None => drop(body.as_object_mut().unwrap().remove("runtimeData")),
        }
        if let Some(init) = &self.init {
            body["initTimeData"] = json!({"data": b64(init), "dataType": "Binary"});
        }
        body
    }

    async fn accepted(&self, endpoints: &Endpoints) -> Value {
        let answer = json(attest(endpoints, &self.body()).await, 200).await;
        claims(answer["token"].as_str().unwrap())
    }

    async fn refused(&self, endpoints: &Endpoints, why: &str) {
        let answer = json(attest(endpoints, &self.body()).await, 400).await;
        let message = answer["error"]["message"].as_str().unwrap();
        assert!(message.contains(why), "wanted {why:?}: {message}");
    }
}

fn real(generation: &str) -> Evidence {
    const FOLDER: &str = "ms-tee-attestation-verification";
    let pem = |part: &str| text(&format!("{FOLDER}/{generation}_{part}.pem"));
    let chain = [pem("vcek"), pem("ask"), pem("ark")].map(|pem| pem.trim_end().to_owned() + "\n");
    let report = vector(&format!("{FOLDER}/{generation}_attestation_report.bin"));
    Evidence::new(report, chain.concat())
}

#[tokio::test]
async fn reports_of_real_chips_become_tokens() {
    if !present() {
        return;
    }
    let cloud = start("maa-real").await;
    let endpoints = cloud.endpoints();
    for (evidence, svns) in [
        (real("milan"), [4, 0, 24, 219]),
        (real("turin"), [1, 1, 4, 81]),
        (Evidence::container(), [3, 0, 8, 115]),
    ] {
        let claims = evidence.accepted(&endpoints).await;
        let names = ["bootloader", "tee", "snpfw", "microcode"];
        let got = names.map(|name| claims[format!("x-ms-sevsnpvm-{name}-svn")].as_u64().unwrap());
        assert_eq!(got, svns);
        let measurement = hex::encode(&evidence.report[0x90..0xc0]);
        assert_eq!(claims["x-ms-sevsnpvm-launchmeasurement"], measurement);
    }

    // As a client sent it to the real service, whose token says the same.
    let mut sent = attest_body(&[], "", b"");
    sent["report"] = json!(text("maa/report-sample.b64url").trim());
    sent.as_object_mut().unwrap().remove("runtimeData");
    let answer = json(attest(&endpoints, &sent).await, 200).await;
    let ours = claims(answer["token"].as_str().unwrap());
    let theirs = claims(text("maa/sev-snp-jwt.txt").trim());
    for (name, value) in theirs.as_object().unwrap() {
        if name.starts_with("x-ms-") && name != "x-ms-policy-hash" {
            assert_eq!(ours[name], *value, "{name}");
        }
    }
    sent["runtimeData"] =
        json!({"data": text("maa/runtime-data-sample.b64url").trim(), "dataType": "JSON"});
    let answer = json(attest(&endpoints, &sent).await, 400).await;
    assert!(answer["error"]["message"].as_str().unwrap().contains("report_data"), "{answer}");
    cloud.stop().await;
}

#[tokio::test]
async fn a_real_report_altered_or_under_anothers_certificates_is_refused() {
    if !present() {
        return;
    }
    let cloud = start("maa-real-altered").await;
    let endpoints = cloud.endpoints();
    for generation in ["milan", "turin"] {
        for (at, why) in
            [(0x50, "signature"), (0x90, "signature"), (0x180, "signature"), (0x2a0, "signature")]
        {
            let mut evidence = real(generation);
            evidence.report[at] ^= 1;
            evidence.refused(&endpoints, why).await;
        }
    }
    let (milan, turin) = (real("milan"), real("turin"));
    let crossed = Evidence::new(milan.report.clone(), turin.chain.clone());
    crossed.refused(&endpoints, "signature").await;
    let pem = |name: &str| text(&format!("ms-tee-attestation-verification/{name}.pem")) + "\n";
    let other_root = [pem("milan_vcek"), pem("milan_ask"), pem("turin_ark")].concat();
    Evidence::new(milan.report.clone(), other_root).refused(&endpoints, "not issued by").await;
    let order = [pem("milan_vcek"), pem("milan_ark"), pem("milan_ask")].concat();
    Evidence::new(milan.report, order).refused(&endpoints, "not a root trusted").await;

    // Another machine's certificates; and an Amazon machine's, which are of another kind.
    for (report, vcek, why) in [
        ("test-report.bin", "test-vcek-invalid-new.der", "SEV-VCEK is wrong"),
        ("test-report.bin", "test-vcek-invalid-legacy.der", "SEV-VCEK is wrong"),
        ("test-vlek-report.bin", "test-vlek.der", "not with a VCEK"),
    ] {
        let der = vector(&format!("trustee/snp/{vcek}"));
        let roots = text("amd-roots/ask_ark_milan.pem");
        let evidence =
            Evidence::new(vector(&format!("trustee/snp/{report}")), pem_of(&der) + &roots);
        evidence.refused(&endpoints, why).await;
    }
    cloud.stop().await;
}

fn pem_of(der: &[u8]) -> String {
    use der::{Decode, EncodePem, pem::LineEnding};
    x509_cert::Certificate::from_der(der).unwrap().to_pem(LineEnding::LF).unwrap()
}

#[tokio::test]
async fn a_containers_evidence_is_bound_to_its_data_its_policy_and_its_endorsement() {
    if !present() {
        return;
    }
    let cloud = start("maa-container").await;
    let endpoints = cloud.endpoints();
    let claims = Evidence::container().accepted(&endpoints).await;
    assert_eq!(claims["x-ms-compliance-status"], "azure-compliant-uvm");
    assert_eq!(claims["x-ms-runtime"], json!({"akey": "avalue"}));
    let policy = Evidence::container().init.unwrap();
    assert_eq!(claims["x-ms-sevsnpvm-hostdata"], hex::encode(sha256(&policy)));
    let measurement = &claims["x-ms-sevsnpvm-launchmeasurement"];
    let endorsement =
        json!({"x-ms-sevsnpvm-guestsvn": "22", "x-ms-sevsnpvm-launchmeasurement": measurement});
    assert_eq!(claims["x-ms-sevsnpvm-uvm-endorsement"], endorsement);

    let alter = |edit: &dyn Fn(&mut Evidence)| {
        let mut evidence = Evidence::container();
        edit(&mut evidence);
        evidence
    };
    for (evidence, why) in [
        (alter(&|e| e.runtime.as_mut().unwrap().push(b' ')), "report_data"),
        (alter(&|e| e.init.as_mut().unwrap().push(b' ')), "host_data"),
        (
            alter(&|e| e.endorsements = vec![vector("uvm-endorsements/uvm-svn100-secctx.cose")]),
            "is endorsed, not",
        ),
        (alter(&|e| e.endorsements.push(e.endorsements[0].clone())), "2 of the UVM"),
    ] {
        evidence.refused(&endpoints, why).await;
    }
    let bare = alter(&|e| e.endorsements.clear()).accepted(&endpoints).await;
    assert!(bare.get("x-ms-compliance-status").is_none(), "nothing is endorsed");
    cloud.stop().await;
}

/// What the real service said of a machine under the same endorsement.
#[tokio::test]
async fn endorsements_are_microsofts_or_nothing() {
    if !present() {
        return;
    }
    let cloud = start("maa-endorsements").await;
    let endpoints = cloud.endpoints();
    let chip = Chip::open(&endpoints.chip.dir);
    let genuine = vector("uvm-endorsements/uvm-svn100-secctx.cose");
    let theirs: Value =
        serde_json::from_slice(&vector("maa/aci-sevsnpvm-token-payload-2023.json")).unwrap();
    let measurement = theirs["x-ms-sevsnpvm-launchmeasurement"].as_str().unwrap();
    let with = |cose: Vec<u8>| Evidence::endorsed(&chip, cose, measurement);
    let claims = with(genuine.clone()).accepted(&endpoints).await;
    for name in [
        "x-ms-compliance-status",
        "x-ms-sevsnpvm-uvm-endorsement",
        "x-ms-sevsnpvm-uvm-endorsement-headers",
    ] {
        assert_eq!(claims[name], theirs[name], "{name}");
    }

    let position = |part: &[u8]| genuine.windows(part.len()).position(|w| w == part).unwrap();
    let flipped = |at: usize| {
        let mut cose = genuine.clone();
        cose[at] ^= 1;
        with(cose)
    };
    // Leaf, intermediate and root, before a timestamp: the last byte of each is its signature's.
    let certificates: Vec<usize> = (0..genuine.len() - 4)
        .filter(|at| genuine[*at] == 0x59 && genuine[at + 3..at + 5] == [0x30, 0x82])
        .map(|at| at + 2 + usize::from(u16::from_be_bytes([genuine[at + 1], genuine[at + 2]])))
        .take(3)
        .collect();
    // A year before the leaf began: an epoch time is c1 1a and four bytes.
    let mut signed_earlier = genuine.clone();
    signed_earlier[position(b"signingtime") + 13] -= 2;
    for (evidence, why) in [
        (flipped(genuine.len() - 1), "endorsement's signature is wrong"),
        (flipped(position(br#""100""#) + 2), "endorsement's signature is wrong"),
        (flipped(position(b"ContainerPlat-AMD") + 2), "endorsement's signature is wrong"),
        (flipped(position(b"application/json")), "endorsement's signature is wrong"),
        (flipped(position(b"did:x509:0:sha256:") + 20), "is not trusted"),
        (flipped(position(&[0x01, 0x38, 0x25]) + 2), "is not PS384"),
        (flipped(position(&[0x82, 0x2f, 0x58, 0x20]) + 8), "thumbprint"),
        (with(signed_earlier), "not valid then"),
        (flipped(certificates[0]), "on ContainerPlat is wrong"),
        (flipped(certificates[1]), "on Microsoft SCD Products RSA CA is wrong"),
        (flipped(certificates[2]), "not in the issuer's root"),
        (with(genuine[..genuine.len() - 1].to_vec()), "not CBOR"),
        (with([&genuine[..], &[0]].concat()), "after the CBOR"),
        (with(genuine[1..].to_vec()), "not a COSE_Sign1"),
        (with(vector("uvm-endorsements/cosesign1go-esrp.test.cose")), "is not trusted"),
        (with(b"x".to_vec()), "not"),
    ] {
        evidence.refused(&endpoints, why).await;
    }
    let other = Evidence::endorsed(&chip, genuine.clone(), &"ab".repeat(48));
    other.refused(&endpoints, "is endorsed, not").await;
    cloud.stop().await;
}
