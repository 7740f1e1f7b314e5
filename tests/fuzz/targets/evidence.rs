//! What a client is shown as proof, and what operators write: whatever the bytes, every parser answers,
//! and nothing that nobody signed is believed.
#![no_main]

use std::sync::LazyLock;

use keyfold_attestation_policy::chain::{ChainBytes, verify_amd_chain};
use keyfold_attestation_policy::claims::ChannelClaims;
use keyfold_attestation_policy::deployment::Deployment;
use keyfold_attestation_policy::report::{Report, SigningKeyKind};
use keyfold_attestation_policy::signing::read_without_checking_signatures;
use keyfold_attestation_policy::statement::{
    SerialFloor, Statement, UvmFloor, Workload, verify_statement,
};
use keyfold_attestation_policy::tcb::Product;
use keyfold_attestation_policy::trust_root::TrustRoot;
use keyfold_attestation_policy::uvm::verify_endorsement;
use keyfold_attestation_policy::values::{SignerKey, Timestamp};
use keyfold_fuzz::edited;
use keyfold_tests::generate::Source;
use libfuzzer_sys::fuzz_target;

const DIRECT: &str = include_str!("../../../attestation-policy/tests/deployment/deployment.toml");
const CONTAINER: &str = include_str!("../../../attestation-policy/tests/deployment/container.toml");
const POLICY: &[u8] =
    include_bytes!("../../../attestation-policy/tests/deployment/container-release-policy.json");
const PAYLOAD: &[u8] =
    include_bytes!("../../../attestation-policy/tests/deployment/container-statement.json");

/// What the bytes behind the first are read as.
const KINDS: u8 = 8;

struct Given {
    now: Timestamp,
    root: TrustRoot,
    container: Deployment,
    floor: UvmFloor,
}

static GIVEN: LazyLock<Given> = LazyLock::new(|| {
    let keys = [[7; 32], [8; 32]].map(SignerKey::new).to_vec();
    let container = Deployment::from_toml(CONTAINER).expect("a deployment");
    let Workload::Aci(workload) = &container.statement().workloads()[0] else {
        panic!("a container");
    };
    let floor = workload.uvm.clone();
    Given {
        now: Timestamp::from_rfc3339("2026-12-01T00:00:00Z").expect("a time"),
        root: TrustRoot::new(1, 2, keys).expect("a root"),
        container,
        floor,
    }
});

fuzz_target!(init: keyfold_fuzz::write_seeds(seeds()), |bytes: &[u8]| {
    let Some((kind, rest)) = bytes.split_first() else { return };
    match kind % KINDS {
        0 => report(rest),
        1 => chain(rest),
        2 => statement(rest),
        3 => endorsement(rest),
        4 => {
            let text = String::from_utf8_lossy(rest);
            if let Ok(deployment) = Deployment::from_toml(&text) {
                made_passes(&deployment);
            }
        }
        5 => drop(GIVEN.container.check_release_policy(rest)),
        6 => edited_policy(rest),
        _ => {
            if let Ok(claims) = ChannelClaims::parse(rest) {
                assert_eq!(claims.to_text().as_bytes(), rest, "a second spelling");
            }
            if let Ok(root) = TrustRoot::from_json(rest) {
                assert_eq!(TrustRoot::from_json(&root.to_json()), Ok(root));
            }
        }
    }
});

fn report(bytes: &[u8]) {
    let Ok(report) = Report::parse(bytes) else { return };
    for product in [Product::Milan, Product::Genoa, Product::Turin] {
        let _ = report.reported_tcb().decode(product);
    }
    let _ = (format!("{report:?}"), report.cpuid(), report.host_data());
    assert!(
        report.signing_key() != SigningKeyKind::Vcek || report.verify_signature(&[4; 97]).is_err()
    );
}

/// As PEM, and as each of the certificates.
fn chain(bytes: &[u8]) {
    let now = GIVEN.now;
    assert!(
        verify_amd_chain(ChainBytes::Der { vcek: bytes, ask: bytes, ark: bytes }, now).is_err()
    );
    if let Ok(chain) = verify_amd_chain(ChainBytes::Pem(bytes), now) {
        // AMD's own, from a corpus: its root is pinned.
        assert_eq!(chain.root().to_string(), "an AMD root");
    }
}

fn statement(bytes: &[u8]) {
    let floor = SerialFloor::default();
    assert!(verify_statement(bytes, &GIVEN.root, &floor, GIVEN.now).is_err(), "nobody signed it");
    assert!(GIVEN.root.successor(bytes).is_err());
    let _ = read_without_checking_signatures(bytes);
    if let Ok(statement) = Statement::from_payload(bytes) {
        let again = Statement::from_payload(&statement.to_payload());
        assert_eq!(again.as_ref(), Ok(&statement));
    }
}

/// Microsoft's own may be in the corpus; changed ones may not pass.
fn endorsement(bytes: &[u8]) {
    if let Ok(endorsement) = verify_endorsement(bytes, &GIVEN.floor, GIVEN.now) {
        assert!(endorsement.svn() >= GIVEN.floor.minimum_svn);
    }
}

fn made_passes(deployment: &Deployment) {
    let policy = deployment.release_policy();
    let verdict = deployment.check_release_policy(policy.as_bytes()).expect("a policy");
    assert!(verdict.findings.is_empty() && verdict.unserved.is_empty(), "{verdict:?}");
    let _ = (deployment.summary(), deployment.attestation_policy());
}

/// A right policy with a few bytes changed: what passes still demands every value that counts.
fn edited_policy(bytes: &[u8]) {
    let policy = edited(POLICY, &mut Source::new(bytes));
    let Ok(verdict) = GIVEN.container.check_release_policy(&policy) else { return };
    if verdict.findings.is_empty() {
        let text = String::from_utf8_lossy(&policy);
        for value in ["\"sevsnpvm\"", "azure-compliant-uvm", "\"release\"", &"77".repeat(32)] {
            assert!(text.contains(value), "{value} is not demanded: {text}");
        }
    }
}

fn seeds() -> Vec<Vec<u8>> {
    let of = |kind: u8, bytes: &[u8]| [&[kind], bytes].concat();
    let mut report = vec![0; 1184];
    (report[0], report[0x34]) = (3, 1);
    let mut seeds = vec![
        of(0, &report),
        of(2, PAYLOAD),
        of(3, &[0xd2, 0x84, 0x43, 0xa1, 0x01, 0x38, 0xa0, 0x40, 0x40]),
        of(4, DIRECT.as_bytes()),
        of(4, CONTAINER.as_bytes()),
        of(5, POLICY),
        of(6, &[1, 2, 3, 4]),
        of(7, &GIVEN.root.to_json()),
    ];
    // Real ones, where they are at hand.
    let vectors = concat!(env!("CARGO_MANIFEST_DIR"), "/../../../shared/vectors/azure-snp");
    for (kind, file) in [
        (0, "ms-tee-attestation-verification/turin_attestation_report.bin"),
        (1, "confidential-sidecar-containers/attest/uvm_host_amd_certificate.pem"),
        (1, "trustee/snp/test-vcek.der"),
        (3, "uvm-endorsements/uvm-svn100-secctx.cose"),
        (3, "uvm-endorsements/cosesign1go-esrp.test.cose"),
    ] {
        match std::fs::read(format!("{vectors}/{file}")) {
            Ok(bytes) => seeds.push(of(kind, &bytes)),
            Err(error) => eprintln!("NO SEED from {vectors}/{file}: {error}"),
        }
    }
    seeds
}
