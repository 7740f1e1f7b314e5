//! The published verdict of every real report.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use keyfold_attestation_policy::chain::{ChainBytes, verify_amd_chain};
use keyfold_attestation_policy::claims::ChannelClaims;
use keyfold_attestation_policy::evidence::{CHANNEL_KEY_LENGTH, Evidence, verify_evidence};
use keyfold_attestation_policy::field::{CertificatePart, Field, Role};
use keyfold_attestation_policy::report::{Report, SigningKeyKind};
use keyfold_attestation_policy::statement::{SerialFloor, verify_statement};
use keyfold_attestation_policy::tcb::{Product, RawTcb, Tcb};
use keyfold_attestation_policy::values::{Sha256, Timestamp};
use serde_json::{Value, json};

use super::{
    Sample, azure_container, base64url, common, hcl_report, milan, milan_debug, noon, pem,
    thim_chain, trustee, turin, vector,
};

fn tcb(fmc: Option<u8>, bootloader: u8, tee: u8, snp: u8, microcode: u8) -> Tcb {
    Tcb { fmc, bootloader, tee, snp, microcode }
}

#[test]
fn amd_roots_are_the_pinned_ones() {
    for (product, bundle) in [
        ("Milan", "amd-roots/ask_ark_milan.pem"),
        ("Genoa", "amd-roots/ask_ark_genoa.pem"),
        ("Turin", "amd-roots/ask_ark_turin_vcek.pem"),
    ] {
        let Some(bundle) = vector(bundle) else { return };
        // An ASK in the VCEK's place: the root and the ASK pass, the ASK as a leaf does not.
        let text = String::from_utf8(bundle).unwrap();
        let ask_end = text.find("-----END CERTIFICATE-----").unwrap() + 26;
        let sample = Sample { report: vec![], chain: [&text[..ask_end], &text].concat().into() };
        let error = sample.chain().unwrap_err();
        assert_eq!(error.field(), Field::Certificate(Role::Vcek, CertificatePart::Subject));
        assert_eq!(error.found(), format!("CN=SEV-{product}"));
    }
}

#[test]
fn milan_version_3_is_valid() {
    let Some(sample) = milan() else { return };
    let (chain, report) = sample.verify().unwrap();
    assert_eq!(chain.product(), Product::Milan);
    assert_eq!(chain.tcb(), tcb(None, 4, 0, 24, 219));
    assert_eq!(report.version(), 3);
    assert_eq!(report.product(), Some(Product::Milan));
    assert_eq!(report.vmpl(), 0);
    assert!(!report.policy().debug_allowed() && !report.policy().migration_allowed());
}

#[test]
fn turin_version_5_is_valid() {
    let Some(sample) = turin() else { return };
    let (chain, report) = sample.verify().unwrap();
    assert_eq!(chain.product(), Product::Turin);
    assert_eq!(chain.tcb(), tcb(Some(1), 1, 1, 4, 81));
    assert_eq!(report.version(), 5);
    assert_eq!(report.chip_id().as_bytes()[8..], [0; 56]);
}

#[test]
fn debug_report_is_signed_but_says_so() {
    let Some(sample) = milan_debug() else { return };
    let (chain, report) = sample.verify().unwrap();
    assert_eq!(chain.tcb(), tcb(None, 2, 0, 5, 68));
    assert_eq!(report.version(), 2);
    assert!(report.policy().debug_allowed());
}

#[test]
fn trustee_report_is_valid_with_its_vcek_only() {
    let Some(sample) = trustee("test-vcek.der") else { return };
    sample.verify().unwrap();
    for vcek in ["test-vcek-invalid-legacy.der", "test-vcek-invalid-new.der"] {
        let sample = trustee(vcek).unwrap();
        assert_eq!(
            sample.verify().unwrap_err().field(),
            Field::Certificate(Role::Vcek, CertificatePart::Signature),
            "{vcek}"
        );
    }
}

#[test]
fn vlek_is_refused() {
    let Some(leaf) = vector("trustee/snp/test-vlek.der") else { return };
    let report = vector("trustee/snp/test-vlek-report.bin").unwrap();
    let parsed = Report::parse(&report).unwrap();
    assert_eq!(parsed.signing_key(), SigningKeyKind::Vlek);
    assert_eq!(parsed.vmpl(), 1);

    let vlek_authority = vector("amd-roots/ask_ark_milan_vlek.pem").unwrap();
    let error = Sample::new(report.clone(), &[pem(&leaf), vlek_authority]).verify().unwrap_err();
    assert_eq!(error.field(), Field::Certificate(Role::Ask, CertificatePart::Subject));
    assert!(error.to_string().contains("VLEK"), "{error}");

    // The report is refused as well, whatever chain it comes with.
    let chain = milan().unwrap().chain().unwrap();
    assert_eq!(chain.check_report(&parsed).unwrap_err().field(), Field::ReportSigningKey);
}

#[test]
fn azure_container_report_is_valid() {
    let folder = "confidential-sidecar-containers/attest";
    let Some(sample) = azure_container() else { return };
    let (chain, report) = sample.verify().unwrap();
    let thim = vector(&format!("{folder}/uvm_host_amd_certificate.json")).unwrap();
    let thim: Value = serde_json::from_slice(&thim).unwrap();

    // THIM's tcbm is the report's TCB read as one number.
    let mut bytes = report.reported_tcb().0;
    bytes.reverse();
    assert_eq!(hex::encode(bytes), thim["tcbm"].as_str().unwrap());
    assert_eq!(chain.tcb(), tcb(None, 3, 0, 8, 0x73));

    let policy = vector(&format!("{folder}/uvm_security_policy.base64")).unwrap();
    let policy = base64_standard(&policy);
    assert_eq!(Sha256::of(&policy), report.host_data());
    let claims = base64_standard(b"ewogICAiYWtleSIgOiAiYXZhbHVlIgp9Cg==");
    assert_eq!(report.report_data()[..32], *Sha256::of(&claims).as_bytes());
}

/// What a container finds in its security context: the chain of its chip, at the TCB that it names.
#[test]
fn chain_of_a_security_context_is_valid() {
    let file = "confidential-sidecar-containers/security-context-test/host-amd-cert-base64";
    let Some(thim) = vector(file) else { return };
    let thim: Value = serde_json::from_slice(&base64_standard(&thim)).unwrap();
    let chain = thim_chain(&thim).concat();
    let chain = verify_amd_chain(ChainBytes::Pem(&chain), noon()).unwrap();
    let mut bytes: [u8; 8] =
        hex::decode(thim["tcbm"].as_str().unwrap()).unwrap().try_into().unwrap();
    bytes.reverse();
    assert_eq!(RawTcb(bytes).decode(chain.product()), Some(chain.tcb()));
}

#[test]
fn attestation_service_sample_is_valid_but_not_for_its_runtime_data() {
    let Some(outer) = vector("maa/report-sample.b64url") else { return };
    let outer: Value = serde_json::from_slice(&base64url(&outer)).unwrap();
    let member = |name: &str| base64url(outer[name].as_str().unwrap().as_bytes());
    let sample = Sample { report: member("SnpReport"), chain: member("VcekCertChain") };
    let (chain, report) = sample.verify().unwrap();

    // The service said the same in the token that it issued for this report.
    let token = vector("maa/sev-snp-jwt.txt").unwrap();
    let token = std::str::from_utf8(&token).unwrap().split('.').nth(1).unwrap().to_owned();
    let token: Value = serde_json::from_slice(&base64url(token.as_bytes())).unwrap();
    let claim = |name: &str| &token[format!("x-ms-sevsnpvm-{name}")];
    assert_eq!(*claim("launchmeasurement"), json!(report.measurement()));
    assert_eq!(*claim("hostdata"), json!(report.host_data()));
    assert_eq!(*claim("reportdata"), json!(hex::encode(report.report_data())));
    assert_eq!(*claim("vmpl"), json!(report.vmpl()));
    assert_eq!(*claim("is-debuggable"), json!(report.policy().debug_allowed()));
    assert_eq!(*claim("snpfw-svn"), json!(chain.tcb().snp));
    assert_eq!(*claim("microcode-svn"), json!(chain.tcb().microcode));

    let runtime_data = base64url(&vector("maa/runtime-data-sample.b64url").unwrap());
    assert_ne!(report.report_data()[..32], *Sha256::of(&runtime_data).as_bytes());
}

#[test]
fn confidential_vm_reports_are_valid() {
    let Some(hcl) = vector("trustee/az-snp-vtpm/hcl-report.bin") else { return };
    let chain = vector("trustee/az-snp-vtpm/vcek.pem").unwrap();
    Sample { report: hcl_report(&hcl), chain }.verify().unwrap();

    for (file, roots, product) in [
        ("evidence-v0.json", "ask_ark_milan.pem", Product::Milan),
        ("evidence-v1.json", "ask_ark_milan.pem", Product::Milan),
        ("evidence-v2.json", "ask_ark_milan.pem", Product::Milan),
        ("evidence-genoa.json", "ask_ark_genoa.pem", Product::Genoa),
    ] {
        let evidence = vector(&format!("trustee/az-snp-vtpm/{file}")).unwrap();
        let evidence: Value = serde_json::from_slice(&evidence).unwrap();
        let vcek = evidence["vcek"].as_str().unwrap();
        let (hcl, vcek) = match &evidence["report"] {
            Value::Array(bytes) => (
                bytes.iter().map(|byte| byte.as_u64().unwrap() as u8).collect(),
                vcek.as_bytes().to_vec(),
            ),
            _ => (
                base64url(evidence["hcl_report"].as_str().unwrap().as_bytes()),
                pem(&base64url(vcek.as_bytes())),
            ),
        };
        let roots = vector(&format!("amd-roots/{roots}")).unwrap();
        let (chain, report) = Sample::new(hcl_report(&hcl), &[vcek, roots]).verify().unwrap();
        assert_eq!(chain.product(), product, "{file}");
        assert_eq!(report.version(), 3, "{file}");

        // The claims behind the report: their length at 1232, themselves at 1236.
        let length = u32::from_le_bytes(hcl[1232..1236].try_into().unwrap()) as usize;
        let claims = &hcl[1236..1236 + length];
        assert_eq!(report.report_data()[..32], *Sha256::of(claims).as_bytes(), "{file}");
    }
}

#[test]
fn report_with_another_hosts_chain_is_refused() {
    let Some(hcl) = vector("azure-cvm-tooling/hcl-report-snp.bin") else { return };
    let chain = vector("azure-cvm-tooling/certs.pem").unwrap();
    let sample = Sample { report: hcl_report(&hcl), chain };
    sample.chain().unwrap();
    assert_eq!(sample.verify().unwrap_err().field(), Field::ReportSignature);
}

#[test]
fn real_chain_ends_with_its_certificates() {
    let Some(sample) = milan() else { return };
    let late = Timestamp::from_rfc3339("2033-02-05T01:04:34Z").unwrap();
    let error = verify_amd_chain(ChainBytes::Pem(&sample.chain), late).unwrap_err();
    assert_eq!(error.field(), Field::Certificate(Role::Vcek, CertificatePart::Validity));
    assert!(error.expected().contains("2033-02-05T01:04:33Z"), "{error}");
}

/// The public entry, with AMD's own chip: everything holds up to the claims, which this report was
/// not made for.
#[test]
fn real_report_is_no_proof_of_a_channel() {
    for (sample, tcb) in [
        (milan(), json!({"bootloader": 4, "tee": 0, "snp": 24, "microcode": 219})),
        (turin(), json!({"fmc": 1, "bootloader": 1, "tee": 1, "snp": 4, "microcode": 81})),
    ] {
        let Some(sample) = sample else { return };
        let (chain, report) = sample.verify().unwrap();
        let mut statement = common::statement();
        let workload = &mut statement["workloads"][0];
        workload["measurement"] = json!(report.measurement());
        workload["minimum_tcb"] = json!([{"product": chain.product(), "tcb": tcb}]);
        workload["policy_forbidden"] = json!([]);
        let floor = SerialFloor::default();
        let signed = common::signed(&statement);
        let statement = verify_statement(&signed, &common::root(), &floor, noon()).unwrap();

        let channel_key = [7; CHANNEL_KEY_LENGTH];
        let claims = ChannelClaims {
            config: statement.statement().config(),
            root: statement.statement().root(),
            channel_key: Sha256::of(&channel_key),
        }
        .to_text();
        let evidence = Evidence {
            claims: claims.as_bytes(),
            report: &sample.report,
            chain: ChainBytes::Pem(&sample.chain),
            uvm_endorsement: None,
        };
        let error = verify_evidence(&statement, &evidence, &channel_key, noon()).unwrap_err();
        assert_eq!(error.field(), Field::ReportData, "{error}");
        assert_eq!(error.found(), "0".repeat(128));
    }
}

fn base64_standard(text: &[u8]) -> Vec<u8> {
    STANDARD.decode(text.trim_ascii()).unwrap()
}
