//! One negative per check: a right piece of evidence is changed in one way, signed again, and must
//! be refused by exactly the field that the change touches. The list must name every field.

mod containers;
mod negatives;
mod oracle;

use std::collections::HashSet;

use proptest::prelude::*;
use serde_json::{Value, json};

use negatives::{Change, Negative};

use super::*;
use crate::field::{CertificatePart as Part, Role};
use crate::test_chip::{self, Chain, ChipSpec, ReportSpec, integer, pss_algorithm, sequence, tlv};
use crate::test_uvm::EndorsementSpec;

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
    endorsement: Option<EndorsementSpec>,
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
            endorsement: None,
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

        let endorsement = self.endorsement.as_ref().map(EndorsementSpec::build);
        let mut statement = self.statement.clone();
        if statement["workloads"][0]["uvm"]["issuer"].is_null()
            && statement["workloads"][0]["profile"] == "aci"
        {
            let issuer = endorsement.as_ref().map(|(_, issuer)| issuer.clone());
            let issuer = issuer.unwrap_or_else(|| crate::test_uvm::issuer(b"any"));
            statement["workloads"][0]["uvm"]["issuer"] = json!(issuer);
        }
        let payload = serde_json::to_vec(&statement).unwrap();
        let statement = Statement::from_payload(&payload).unwrap();
        let pem = pem(&[&chain.vcek]);
        let evidence = Evidence {
            claims: self.claims.as_bytes(),
            report: &report,
            chain: if self.as_pem { ChainBytes::Pem(&pem) } else { chain.bytes() },
            uvm_endorsement: endorsement.as_ref().map(|(message, _)| message.as_slice()),
        };
        let now = Timestamp::from_rfc3339(self.now).unwrap();
        verify_under(&[pin], &statement, &evidence, &self.channel_key, now)
    }

    fn workload(&mut self) -> &mut Value {
        self.workload_at(0)
    }

    fn workload_at(&mut self, index: usize) -> &mut Value {
        &mut self.statement["workloads"][index]
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

/// What is changed: right evidence.
type Right = fn() -> Case;

/// Each list with what it changes.
fn lists() -> [(Right, Vec<Negative>); 2] {
    [(|| Case::new(PRODUCT), negatives::all()), (containers::case, containers::negatives())]
}

#[test]
fn each_wrong_field_is_named() {
    for (right, list) in lists() {
        for (field, what, change) in list {
            let mut case = right();
            change(&mut case);
            let error = case.verify().expect_err(&format!("{field} ({what}) was accepted"));
            assert_eq!(error.field(), field, "{what}: {error}");
            assert!(!error.expected().is_empty() && !error.found().is_empty(), "{error}");
            assert_ne!(error.expected(), error.found(), "{field} ({what})");
            assert!(error.to_string().starts_with(&field.to_string()), "{error}");
        }
    }
}

#[test]
fn every_field_has_a_negative() {
    let tested: HashSet<Field> =
        lists().iter().flat_map(|(_, list)| list).map(|(field, ..)| *field).collect();
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
            uvm_endorsement: None,
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
