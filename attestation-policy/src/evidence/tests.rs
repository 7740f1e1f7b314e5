//! One negative per check: a right piece of evidence is changed in one way, signed again, and must
//! be refused by exactly the field that the change touches. The list must name every field.

use std::collections::HashSet;

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::field::{CertificatePart as Part, Role};
use crate::test_chip::{
    self, Chain, ChipSpec, ReportSpec, SHA256, Signer, basic_constraints, integer, p384_key,
    pss_algorithm, rsa_key, sequence, tlv,
};

const PRODUCT: Product = Product::Milan;
const CONFIG: &str = "c0c0c0c0c0c0c0c0c0c0c0c0c0c0c0c0c0c0c0c0c0c0c0c0c0c0c0c0c0c0c0c0";
const ROOT: &str = "1010101010101010101010101010101010101010101010101010101010101010";

/// Everything that goes into the decision, before anything is signed.
#[derive(Clone)]
struct Case {
    product: Product,
    chip: ChipSpec,
    /// Changes the finished chain.
    after: fn(&mut Chain),
    as_pem: bool,
    pin: fn(&mut PinnedRoot),
    report: ReportSpec,
    report_data: Option<[u8; 64]>,
    after_report: fn(&mut Vec<u8>),
    claims: String,
    channel_key: Vec<u8>,
    statement: Value,
    now: &'static str,
}

impl Case {
    fn new(product: Product) -> Self {
        let channel_key = vec![7; CHANNEL_KEY_LENGTH];
        Self {
            product,
            chip: ChipSpec::new(product, product.name()),
            after: |_| (),
            as_pem: false,
            pin: |_| (),
            report: ReportSpec::new(product),
            report_data: None,
            after_report: |_| (),
            claims: claims(CONFIG, ROOT, &Sha256::of(&channel_key).to_string()),
            channel_key,
            statement: statement(product),
            now: "2026-12-01T00:00:00Z",
        }
    }

    fn verify(&self) -> Result<VerifiedChannel, EvidenceError> {
        let mut chain = self.chip.build();
        let mut pin = chain.pin(self.product);
        (self.after)(&mut chain);
        (self.pin)(&mut pin);

        let mut report = self.report.clone();
        report.set(0x50, Sha256::of(self.claims.as_bytes()).as_bytes());
        if let Some(report_data) = &self.report_data {
            report.set(0x50, report_data);
        }
        let mut report = report.sign();
        (self.after_report)(&mut report);

        let payload = serde_json::to_vec(&self.statement).unwrap();
        let statement = Statement::from_payload(&payload).unwrap();
        let pem = pem(&[&chain.vcek]);
        let evidence = Evidence {
            claims: self.claims.as_bytes(),
            report: &report,
            chain: if self.as_pem { ChainBytes::Pem(&pem) } else { chain.bytes() },
        };
        let now = Timestamp::from_rfc3339(self.now).unwrap();
        verify_under(&[pin], &statement, &evidence, &self.channel_key, now)
    }

    fn workload(&mut self) -> &mut Value {
        &mut self.statement["workloads"][0]
    }

    fn policy(&mut self, bits: u64) {
        self.report.set(0x08, &bits.to_le_bytes());
    }
}

fn claims(config: &str, root: &str, channel_key: &str) -> String {
    format!(
        r#"{{"keyfold":{{"version":1,"role":"channel","config":"{config}","root":"{root}","channel_key":"{channel_key}"}}}}"#
    )
}

fn statement(product: Product) -> Value {
    let mut tcb = json!({"bootloader": 4, "tee": 0, "snp": 24, "microcode": 219});
    if product == Product::Turin {
        tcb["fmc"] = json!(1);
    }
    json!({
        "name": "test",
        "serial": 1,
        "issued": "2026-11-22T00:00:00Z",
        "expires": "2027-02-20T00:00:00Z",
        "url": "https://keyfold.example",
        "identity": {"issuer": "https://login.example", "client_id": "c", "audience": "a"},
        "config": CONFIG,
        "root": ROOT,
        "workloads": [{
            "profile": "snp-direct",
            "measurement": "ab".repeat(48),
            "minimum_tcb": [{"product": product.name(), "tcb": tcb}],
            "policy_required": [],
            "policy_forbidden": ["cxl-allowed"],
            "platform_required": ["ecc-enabled", "alias-check-complete"],
            "platform_forbidden": ["tsme-enabled"],
        }],
    })
}

fn pem(certificates: &[&[u8]]) -> Vec<u8> {
    let blocks = certificates.iter().map(|certificate| {
        der::pem::encode_string("CERTIFICATE", der::pem::LineEnding::LF, certificate).unwrap()
    });
    blocks.collect::<String>().into_bytes()
}

type Change = fn(&mut Case);

/// The changes to certificates.
fn chain_negatives() -> Vec<(Field, &'static str, Change)> {
    use Field::Certificate as C;
    use Role::{Ark, Ask, Vcek};
    const BOOTLOADER: &str = "1.3.6.1.4.1.3704.1.3.1";
    const PRODUCT_NAME: &str = "1.3.6.1.4.1.3704.1.2";
    const HARDWARE_ID: &str = "1.3.6.1.4.1.3704.1.4";
    vec![
        (Field::Chain, "one certificate", |case| case.as_pem = true),
        (Field::RootDigest, "foreign root", |case| {
            case.pin = |pin| pin.sha256 = Sha256::new([9; 32]);
        }),
        (Field::RootDigest, "swapped order", |case| {
            case.after = |chain| std::mem::swap(&mut chain.ask, &mut chain.ark);
        }),
        (C(Vcek, Part::Encoding), "truncated", |case| case.after = |it| it.vcek.truncate(100)),
        (C(Ask, Part::Encoding), "empty", |case| case.after = |it| it.ask.clear()),
        (C(Ark, Part::Encoding), "trailing bytes", |case| case.chip.ark.trailing = vec![0]),
        (C(Vcek, Part::Encoding), "trailing bytes", |case| case.chip.vcek.trailing = vec![0, 0]),
        (C(Vcek, Part::Subject), "VLEK", |case| case.chip.vcek.subject = "SEV-VLEK".into()),
        (C(Vcek, Part::Subject), "ASK in its place", |case| {
            case.after = |chain| chain.vcek = chain.ask.clone();
        }),
        (C(Ask, Part::Subject), "VLEK authority", |case| {
            case.chip.ask.subject = "SEV-VLEK-Milan".into();
        }),
        (C(Ask, Part::Subject), "other product", |case| case.chip.ask.subject = "SEV-Genoa".into()),
        (C(Ark, Part::Subject), "other product", |case| case.chip.ark.subject = "ARK-Genoa".into()),
        (C(Vcek, Part::Issuer), "other name", |case| case.chip.vcek.issuer = "SEV-Genoa".into()),
        (C(Ask, Part::Issuer), "other name", |case| case.chip.ask.issuer = "ARK-Genoa".into()),
        (C(Ark, Part::Issuer), "not itself", |case| case.chip.ark.issuer = "ARK-Other".into()),
        (C(Vcek, Part::Validity), "expired", |it| it.chip.vcek.not_after = "20261130235959Z"),
        (C(Vcek, Part::Validity), "not yet", |it| it.chip.vcek.not_before = "20261201000001Z"),
        (C(Ask, Part::Validity), "expired", |it| it.chip.ask.not_after = "20261130235959Z"),
        (C(Ark, Part::Validity), "expired", |it| it.chip.ark.not_after = "20261130235959Z"),
        (C(Vcek, Part::SignatureAlgorithm), "SHA-256", |case| {
            case.chip.vcek.algorithm = pss_algorithm(SHA256, 48);
            case.chip.vcek.outer_algorithm = pss_algorithm(SHA256, 48);
        }),
        (C(Ask, Part::SignatureAlgorithm), "not the same twice", |case| {
            case.chip.ask.outer_algorithm = pss_algorithm(SHA256, 48);
        }),
        (C(Ark, Part::SignatureAlgorithm), "short salt", |case| {
            case.chip.ark.algorithm = pss_algorithm(test_chip::SHA384, 20);
            case.chip.ark.outer_algorithm = pss_algorithm(test_chip::SHA384, 20);
        }),
        (C(Vcek, Part::Signature), "by the root", |case| case.chip.vcek.signer = Signer::Ark),
        (C(Vcek, Part::Signature), "by a stranger", |it| it.chip.vcek.signer = Signer::Stranger),
        (C(Ask, Part::Signature), "by itself", |case| case.chip.ask.signer = Signer::Ask),
        (C(Ark, Part::Signature), "by a stranger", |it| it.chip.ark.signer = Signer::Stranger),
        (C(Vcek, Part::PublicKey), "RSA", |case| case.chip.vcek.key = rsa_key(Signer::Stranger)),
        (C(Ask, Part::PublicKey), "P-384", |case| case.chip.ask.key = p384_key()),
        (C(Ark, Part::PublicKey), "P-384", |case| case.chip.ark.key = p384_key()),
        (C(Vcek, Part::Extensions), "authority", |case| {
            case.chip.vcek.extensions.push(basic_constraints(true));
        }),
        (C(Vcek, Part::Extensions), "unknown and critical", |case| {
            case.chip.vcek.extension("1.3.6.1.4.1.3704.1.1").critical = true;
        }),
        (C(Vcek, Part::Extensions), "TCB part twice", |case| {
            let repeated = case.chip.vcek.extension(BOOTLOADER).clone();
            case.chip.vcek.extensions.push(repeated);
        }),
        (C(Ask, Part::Extensions), "no authority", |it| it.chip.ask.remove("2.5.29.19")),
        (C(Ask, Part::Extensions), "CA false", |it| {
            *it.chip.ask.extension("2.5.29.19") = basic_constraints(false);
        }),
        (C(Ark, Part::Extensions), "no authority", |it| it.chip.ark.remove("2.5.29.19")),
        (C(Ask, Part::Extensions), "broken keyUsage", |case| {
            case.chip.ask.extension("2.5.29.15").value = vec![0x03];
        }),
        (C(Ark, Part::Extensions), "may sign data only", |case| {
            case.chip.ark.extension("2.5.29.15").value = tlv(0x03, &[vec![7, 0x80]]);
        }),
        (Field::VcekTcb, "part missing", |case| case.chip.vcek.remove(BOOTLOADER)),
        (Field::VcekTcb, "part too large", |case| {
            case.chip.vcek.extension(BOOTLOADER).value = tlv(0x02, &[vec![1, 0]]);
        }),
        (Field::VcekTcb, "reserved part", |case| {
            case.chip.vcek.extension("1.3.6.1.4.1.3704.1.3.5").value = integer(1);
        }),
        (Field::VcekTcb, "FMC on Milan", |case| {
            case.chip.vcek.extension("1.3.6.1.4.1.3704.1.3.5").oid = "1.3.6.1.4.1.3704.1.3.9";
        }),
        (Field::VcekChipId, "missing", |case| case.chip.vcek.remove(HARDWARE_ID)),
        (Field::VcekChipId, "short", |case| {
            case.chip.vcek.extension(HARDWARE_ID).value.truncate(63);
        }),
        (Field::VcekProduct, "missing", |case| case.chip.vcek.remove(PRODUCT_NAME)),
        (Field::VcekProduct, "another", |case| {
            case.chip.vcek.extension(PRODUCT_NAME).value = tlv(0x16, &[b"Genoa".to_vec()]);
        }),
        (Field::VcekProduct, "longer", |case| {
            case.chip.vcek.extension(PRODUCT_NAME).value = tlv(0x16, &[b"Milano".to_vec()]);
        }),
    ]
}

/// The changes to the report, signed again by the chip.
fn report_negatives() -> Vec<(Field, &'static str, Change)> {
    vec![
        (Field::ReportLength, "a byte short", |case| {
            case.after_report = |report| report.truncate(1183);
        }),
        (Field::ReportVersion, "1", |case| case.report.set(0x00, &[1])),
        (Field::ReportVersion, "6", |case| case.report.set(0x00, &[6])),
        (Field::ReportVersion, "high byte", |case| case.report.set(0x00, &[3, 0, 0, 1])),
        (Field::ReportSignatureAlgorithm, "2", |case| case.report.set(0x34, &[2])),
        (Field::ReportSigningKey, "VLEK", |case| case.report.set(0x48, &[1 << 2])),
        (Field::ReportSigningKey, "none", |case| case.report.set(0x48, &[7 << 2])),
        (Field::ReportSigningKey, "reserved", |case| case.report.set(0x48, &[2 << 2])),
        (Field::ReportSignature, "R", |case| case.after_report = |report| report[0x2A0] ^= 1),
        (Field::ReportSignature, "S", |case| case.after_report = |report| report[0x2E8] ^= 1),
        (Field::ReportSignature, "signed byte", |it| it.after_report = |report| report[0x90] ^= 1),
        (Field::ReportSignature, "padding", |case| {
            case.after_report = |report| report[0x2A0 + 71] = 1;
        }),
        (Field::ReportSignature, "reserved bytes", |case| {
            case.after_report = |report| report[1183] = 1;
        }),
        (Field::ReportCpuid, "Genoa", |case| case.report.set(0x188, &[0x19, 0x11])),
        (Field::ReportCpuid, "unknown", |case| case.report.set(0x188, &[0x17, 0x01])),
        (Field::ReportedTcb, "raised", |case| case.report.set(0x187, &[220])),
        (Field::ReportedTcb, "lowered", |case| case.report.set(0x187, &[218])),
        (Field::ReportedTcb, "reserved byte", |case| case.report.set(0x182, &[1])),
        (Field::ReportChipId, "another", |case| case.report.set(0x1A0, &[0xEE])),
        (Field::ReportChipId, "hidden", |case| case.report.set(0x1A0, &[0; 64])),
        (Field::ReportVmpl, "1", |case| case.report.set(0x30, &[1])),
        (Field::ReportVmpl, "asked by the host", |case| case.report.set(0x30, &[0xFF; 4])),
        (Field::PolicyDebug, "on", |case| case.policy(0xB0000)),
        (Field::PolicyMigration, "on", |case| case.policy(0x70000)),
        (Field::PolicyReserved, "bit 17 clear", |case| case.policy(0x10000)),
        (Field::PolicyReserved, "bit 26", |case| case.policy(0x30000 | 1 << 26)),
        (Field::PolicyReserved, "bit 63", |case| case.policy(0x30000 | 1 << 63)),
        (Field::Measurement, "another", |case| case.report.set(0x90, &[0xAC; 48])),
        (Field::MinimumCommittedTcb, "lower", |case| case.report.set(0x1E7, &[218])),
        (Field::MinimumLaunchTcb, "lower", |case| case.report.set(0x1F6, &[23])),
        (Field::MinimumLaunchTcb, "reserved byte", |case| case.report.set(0x1F3, &[1])),
        (Field::ReportData, "zeros", |case| case.report_data = Some([0; 64])),
        (Field::ReportData, "second half not zero", |case| {
            let mut data = [0; 64];
            data[..32].copy_from_slice(Sha256::of(case.claims.as_bytes()).as_bytes());
            data[63] = 1;
            case.report_data = Some(data);
        }),
    ]
}

/// The changes to what the statement demands.
fn statement_negatives() -> Vec<(Field, &'static str, Change)> {
    vec![
        (Field::StatementExpiry, "expired", |case| case.now = "2027-02-20T00:00:00Z"),
        (Field::WorkloadRoot, "simulated chip for a real workload", |case| {
            case.pin = |pin| pin.kind = RootKind::Simulated;
        }),
        (Field::WorkloadProduct, "not listed", |case| {
            case.workload()["minimum_tcb"][0]["product"] = json!("Genoa");
        }),
        (Field::MinimumReportedTcb, "microcode", |case| {
            case.workload()["minimum_tcb"][0]["tcb"]["microcode"] = json!(220);
        }),
        (Field::MinimumReportedTcb, "tee", |case| {
            case.workload()["minimum_tcb"][0]["tcb"]["tee"] = json!(1);
        }),
        (Field::PolicyRequired, "single socket", |case| {
            case.workload()["policy_required"] = json!(["single-socket"]);
        }),
        (Field::PolicyForbidden, "SMT", |case| {
            case.workload()["policy_forbidden"] = json!(["smt-allowed"]);
        }),
        (Field::PolicyForbidden, "CXL", |case| case.policy(0x30000 | 1 << 21)),
        (Field::PlatformRequired, "RAPL", |case| {
            case.workload()["platform_required"] = json!(["rapl-disabled"]);
        }),
        (Field::PlatformRequired, "no alias check", |case| case.report.set(0x40, &[0x05])),
        (Field::PlatformForbidden, "SMT", |case| {
            case.workload()["platform_forbidden"] = json!(["smt-enabled"]);
        }),
        (Field::IdKeyDigest, "none", |case| {
            case.workload()["id_key_digest"] = json!("11".repeat(48));
        }),
        (Field::AuthorKeyDigest, "another", |case| {
            case.workload()["author_key_digest"] = json!("11".repeat(48));
            case.report.set(0x110, &[0x12; 48]);
        }),
    ]
}

/// The changes to the claims; the report's data follow them.
fn claims_negatives() -> Vec<(Field, &'static str, Change)> {
    vec![
        (Field::Claims, "not JSON", |case| case.claims = "{".into()),
        (Field::Claims, "empty", |case| case.claims = String::new()),
        (Field::Claims, "a space", |case| case.claims = case.claims.replacen(':', ": ", 1)),
        (Field::Claims, "trailing newline", |case| case.claims.push('\n')),
        (Field::Claims, "unknown member", |case| {
            case.claims = case.claims.replacen("{\"version\"", "{\"debug\":false,\"version\"", 1);
        }),
        (Field::Claims, "unknown member outside", |case| {
            case.claims = case.claims.replacen("{\"keyfold\"", "{\"keys\":[],\"keyfold\"", 1);
        }),
        (Field::Claims, "repeated member", |case| {
            let repeated = format!("\"config\":\"{CONFIG}\",\"config\"");
            case.claims = case.claims.replacen("\"config\"", &repeated, 1);
        }),
        (Field::Claims, "repeated role", |case| {
            let repeated = "\"role\":\"release\",\"role\"";
            case.claims = case.claims.replacen("\"role\"", repeated, 1);
        }),
        (Field::Claims, "missing member", |case| {
            case.claims = case.claims.replacen(&format!("\"root\":\"{ROOT}\","), "", 1);
        }),
        (Field::Claims, "another order", |case| {
            let ordered = "\"version\":1,\"role\":\"channel\"";
            case.claims = case.claims.replacen(ordered, "\"role\":\"channel\",\"version\":1", 1);
        }),
        (Field::Claims, "upper-case hex", |case| {
            case.claims = case.claims.replacen(CONFIG, &CONFIG.to_uppercase(), 1);
        }),
        (Field::ClaimsVersion, "2", |case| {
            case.claims = case.claims.replacen("\"version\":1", "\"version\":2", 1);
        }),
        (Field::ClaimsRole, "release", |case| {
            case.claims = case.claims.replacen("channel", "release", 1);
        }),
        (Field::ClaimsConfig, "another", |it| it.claims = it.claims.replacen("c0c0", "c0c1", 1)),
        (Field::ClaimsRoot, "another", |it| it.claims = it.claims.replacen("\"1010", "\"1011", 1)),
        (Field::ClaimsChannelKey, "another", |case| case.channel_key[0] ^= 1),
        (Field::ChannelKeyLength, "short", |case| {
            case.channel_key.pop();
        }),
        (Field::ChannelKeyLength, "long", |case| case.channel_key.push(0)),
    ]
}

fn all_negatives() -> Vec<(Field, &'static str, Change)> {
    [chain_negatives(), report_negatives(), statement_negatives(), claims_negatives()].concat()
}

#[test]
fn right_evidence_is_accepted_on_every_product() {
    for product in [Product::Milan, Product::Genoa, Product::Turin] {
        let case = Case::new(product);
        let channel = case.verify().unwrap();
        assert_eq!(channel.public_key()[..], case.channel_key);
        assert_eq!(channel.key_digest(), Sha256::of(&case.channel_key));
        assert_eq!(channel.config().to_string(), CONFIG);
        assert_eq!(channel.root().to_string(), ROOT);
        assert_eq!(channel.measurement().to_string(), "ab".repeat(48));
        assert_eq!(channel.product(), product);
        assert_eq!(channel.tcb().microcode, 219);
        assert_eq!(channel.chip_id().as_bytes()[..8], test_chip::CHIP_ID[..8]);
        assert!(!channel.is_simulated());
    }
}

#[test]
fn other_right_forms_are_accepted() {
    for (what, change) in [
        (
            "version 2, which carries no CPUID",
            (|case| {
                case.report.set(0x00, &[2]);
                case.report.set(0x188, &[0; 3]);
            }) as Change,
        ),
        ("hwid as a DER OCTET STRING", |case| {
            let hwid = case.chip.vcek.extension("1.3.6.1.4.1.3704.1.4");
            hwid.value = tlv(0x04, std::slice::from_ref(&hwid.value));
        }),
        ("PSS parameters with the default trailer", |case| {
            let with_trailer = pss_with_trailer(1);
            case.chip.vcek.algorithm = with_trailer.clone();
            case.chip.vcek.outer_algorithm = with_trailer;
        }),
        ("an authority without keyUsage", |case| case.chip.ask.remove("2.5.29.15")),
        ("the named ID and author keys", |case| {
            case.workload()["id_key_digest"] = json!("11".repeat(48));
            case.workload()["author_key_digest"] = json!("12".repeat(48));
            case.report.set(0xE0, &[0x11; 48]);
            case.report.set(0x110, &[0x12; 48]);
        }),
        ("newer firmware than the floor", |case| {
            case.workload()["minimum_tcb"][0]["tcb"]["snp"] = json!(8);
        }),
        ("the last second of the statement", |case| case.now = "2027-02-19T23:59:59Z"),
    ] {
        let mut case = Case::new(PRODUCT);
        change(&mut case);
        case.verify().unwrap_or_else(|error| panic!("{what}: {error}"));
    }
}

#[test]
fn each_wrong_field_is_named() {
    for (field, what, change) in all_negatives() {
        let mut case = Case::new(PRODUCT);
        change(&mut case);
        let error = case.verify().expect_err(&format!("{field} ({what}) was accepted"));
        assert_eq!(error.field(), field, "{what}: {error}");
        assert!(!error.expected().is_empty() && !error.found().is_empty(), "{error}");
        assert_ne!(error.expected(), error.found(), "{field} ({what})");
        assert!(error.to_string().starts_with(&field.to_string()), "{error}");
    }
}

#[test]
fn every_field_has_a_negative() {
    let tested: HashSet<Field> = all_negatives().iter().map(|(field, ..)| *field).collect();
    let missing: Vec<String> = Field::all()
        .iter()
        .filter(|field| !tested.contains(field))
        .map(ToString::to_string)
        .collect();
    assert!(missing.is_empty(), "no negative for {missing:?}");
}

#[test]
fn parameters_of_another_trailer_are_refused() {
    let mut case = Case::new(PRODUCT);
    case.chip.vcek.algorithm = pss_with_trailer(2);
    case.chip.vcek.outer_algorithm = pss_with_trailer(2);
    let error = case.verify().unwrap_err();
    assert_eq!(error.field(), Field::Certificate(Role::Vcek, Part::SignatureAlgorithm));
}

#[test]
fn turin_parts_are_turins() {
    let mut case = Case::new(Product::Turin);
    case.chip.vcek.remove("1.3.6.1.4.1.3704.1.3.9");
    assert_eq!(case.verify().unwrap_err().field(), Field::VcekTcb);

    let mut case = Case::new(Product::Turin);
    case.workload()["minimum_tcb"][0]["tcb"]["fmc"] = json!(2);
    assert_eq!(case.verify().unwrap_err().field(), Field::MinimumReportedTcb);

    // The whole 64 bytes where Turin has 8.
    let mut case = Case::new(Product::Turin);
    case.chip.vcek.extension("1.3.6.1.4.1.3704.1.4").value = test_chip::CHIP_ID.to_vec();
    assert_eq!(case.verify().unwrap_err().field(), Field::VcekChipId);

    // A chip id that goes on where the certificate's ends.
    let mut case = Case::new(Product::Turin);
    case.report.set(0x1A8, &[1]);
    assert_eq!(case.verify().unwrap_err().field(), Field::ReportChipId);
}

#[test]
fn own_chips_are_no_amd_chips() {
    let case = Case::new(PRODUCT);
    let chain = case.chip.build();
    let now = Timestamp::from_rfc3339(case.now).unwrap();
    let error = chain::verify_amd_chain(chain.bytes(), now).unwrap_err();
    assert_eq!(error.field(), Field::RootDigest);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Wherever one byte of a right chain is changed, the chain is refused, without a panic.
    #[test]
    fn changed_certificates_are_refused(which in 0..3_usize, at: prop::sample::Index, flip in 1..=255_u8) {
        let mut chain = ChipSpec::new(PRODUCT, PRODUCT.name()).build();
        let pin = chain.pin(PRODUCT);
        let certificate = [&mut chain.vcek, &mut chain.ask, &mut chain.ark][which].as_mut_slice();
        certificate[at.index(certificate.len())] ^= flip;
        let now = Timestamp::from_rfc3339("2026-12-01T00:00:00Z").unwrap();
        prop_assert!(chain::verify_chain(chain.bytes(), &[pin], now).is_err());
    }
}

/// The whole way through the public entry points, as a development client goes it.
#[cfg(feature = "development")]
mod simulated {
    use super::*;
    use crate::signing::{SigningKey, assemble_statement};
    use crate::statement::{SerialFloor, verify_statement};
    use crate::trust_root::TrustRoot;

    /// Verifies `case` under a statement that accepts this simulated chip with the measurement
    /// ee..ee, and real hardware with the measurement ab..ab.
    fn verify(case: &Case) -> Result<VerifiedChannel, EvidenceError> {
        let chain = case.chip.build();
        let mut statement = case.statement.clone();
        statement["workloads"].as_array_mut().unwrap().push(json!({
            "profile": "simulated",
            "ark_sha256": Sha256::of(&chain.ark),
            "measurement": "ee".repeat(48),
        }));
        let now = Timestamp::from_rfc3339(case.now).unwrap();
        let mut document = hex::decode("302e020100300506032b657004220420").unwrap();
        document.extend([1; 32]);
        let key = SigningKey::from_pkcs8(&document).unwrap();
        let root = TrustRoot::new(1, 1, vec![key.public_key()]).unwrap();
        let payload = serde_json::to_vec(&statement).unwrap();
        let signatures = vec![key.sign_statement(&payload).unwrap()];
        let signed = assemble_statement(&payload, signatures, &root).unwrap();
        let statement = verify_statement(&signed, &root, &SerialFloor::default(), now).unwrap();

        let mut report = case.report.clone();
        report.set(0x50, Sha256::of(case.claims.as_bytes()).as_bytes());
        let pem = pem(&[&chain.vcek, &chain.ask, &chain.ark]);
        let evidence = Evidence {
            claims: case.claims.as_bytes(),
            report: &report.sign(),
            chain: ChainBytes::Pem(&pem),
        };
        verify_evidence(&statement, &evidence, &case.channel_key, now)
    }

    fn case() -> Case {
        let chip = ChipSpec::new(Product::Milan, "Keyfold-Simulated");
        let mut case = Case { chip, ..Case::new(Product::Milan) };
        case.report.set(0x90, &[0xEE; 48]);
        case
    }

    #[test]
    fn is_accepted_and_says_so() {
        assert!(verify(&case()).unwrap().is_simulated());
    }

    #[test]
    fn cannot_pose_as_hardware() {
        let mut case = case();
        case.report.set(0x90, &[0xAB; 48]);
        assert_eq!(verify(&case).unwrap_err().field(), Field::WorkloadRoot);
    }

    #[test]
    fn is_not_hardware() {
        let mut case = Case::new(Product::Milan);
        case.report.set(0x90, &[0xEE; 48]);
        let chain = case.chip.build();
        case.statement["workloads"] = json!([{
            "profile": "simulated",
            "ark_sha256": Sha256::of(&chain.ark),
            "measurement": "ee".repeat(48),
        }]);
        assert_eq!(case.verify().unwrap_err().field(), Field::WorkloadRoot);
    }

    #[test]
    fn is_checked_like_hardware() {
        for (field, change) in [
            (Field::PolicyDebug, (|case| case.policy(0xB0000)) as Change),
            (Field::ReportVmpl, |case| case.report.set(0x30, &[1])),
            (Field::ReportedTcb, |case| case.report.set(0x187, &[220])),
            (Field::ReportChipId, |case| case.report.set(0x1A0, &[0xEE])),
            (Field::ClaimsRoot, |it| it.claims = it.claims.replacen("\"1010", "\"1011", 1)),
        ] {
            let mut case = case();
            change(&mut case);
            assert_eq!(verify(&case).unwrap_err().field(), field);
        }
    }

    #[test]
    fn needs_its_names() {
        let mut case = case();
        case.chip = ChipSpec::new(Product::Milan, "Milan");
        let error = verify(&case).unwrap_err();
        assert_eq!(error.field(), Field::Certificate(Role::Ark, Part::Subject));
    }
}

fn pss_with_trailer(trailer: u8) -> Vec<u8> {
    let plain = pss_algorithm(test_chip::SHA384, 48);
    // SEQUENCE { OID (11 bytes), SEQUENCE { parameters } }: the trailer is appended inside.
    let (oid, parameters) = plain[2..].split_at(11);
    let parameters = [&parameters[2..], &tlv(0xA3, &[integer(trailer)])].concat();
    sequence(&[oid.to_vec(), sequence(&[parameters])])
}
