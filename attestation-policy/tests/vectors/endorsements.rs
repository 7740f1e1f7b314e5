//! Microsoft's endorsements of utility VMs, and the real container that ran under one.

use keyfold_attestation_policy::chain::ChainBytes;
use keyfold_attestation_policy::evidence::{
    CHANNEL_KEY_LENGTH, Evidence, EvidenceError, verify_evidence,
};
use keyfold_attestation_policy::field::Field;
use keyfold_attestation_policy::statement::{SerialFloor, UvmFloor, verify_statement};
use keyfold_attestation_policy::uvm::{Endorsement, verify_endorsement};
use serde_json::{Value, json};

use super::{Sample, azure_container, common, noon, vector};

const SVN_22: &str = "uvm-endorsements/uvm-svn22.cose";
const SVN_100: &str = "uvm-endorsements/uvm-svn100-secctx.cose";
const ESRP: &str = "uvm-endorsements/cosesign1go-esrp.test.cose";

/// The root of the test signer's chain, with the purpose that its certificate has.
const ESRP_ISSUER: &str =
    "did:x509:0:sha256:wVkSM46SDpw4LuyEYoH6r5ym07whL5lWxNlGN-UPtf4::eku:1.3.6.1.5.5.7.3.3";

fn floor(issuer: &str, minimum_svn: u64) -> UvmFloor {
    let floor = json!({
        "issuer": issuer, "feed": "ContainerPlat-AMD-UVM", "minimum_svn": minimum_svn,
    });
    serde_json::from_value(floor).unwrap()
}

fn verify(message: &[u8], minimum_svn: u64) -> Result<Endorsement, EvidenceError> {
    verify_endorsement(message, &floor(common::MICROSOFT, minimum_svn), noon())
}

/// Its signer's certificate has long expired: it was valid when it signed.
#[test]
fn released_utility_vm_is_endorsed() {
    let Some(message) = vector(SVN_100) else { return };
    let endorsement = verify(&message, 100).unwrap();
    assert_eq!(endorsement.svn(), 100);
    assert_eq!(endorsement.signed().to_string(), "2023-04-20T23:48:38Z");
    // The attestation service said the same in a token of 2023.
    let token = vector("maa/aci-sevsnpvm-token-payload-2023.json").unwrap();
    let token: Value = serde_json::from_slice(&token).unwrap();
    let measurement = token["x-ms-sevsnpvm-launchmeasurement"].as_str().unwrap();
    assert_eq!(endorsement.measurement().to_string(), measurement);
    let issuer = &token["x-ms-sevsnpvm-uvm-endorsement-headers"]["iss"];
    assert_eq!(issuer, common::MICROSOFT);

    let error = verify(&message, 104).unwrap_err();
    assert_eq!(error.field(), Field::UvmSvn);
    assert_eq!((error.expected(), error.found()), ("at least 104", "100"));
}

#[test]
fn a_version_before_release_is_refused() {
    let Some(message) = vector(SVN_22) else { return };
    assert_eq!(verify(&message, 22).unwrap().svn(), 22);
    let error = verify(&message, 100).unwrap_err();
    assert_eq!(error.field(), Field::UvmSvn);
    assert_eq!(error.found(), "22");
}

#[test]
fn test_signer_is_not_microsofts() {
    let Some(mut message) = vector(ESRP) else { return };
    let error = verify(&message, 1).unwrap_err();
    assert_eq!(error.field(), Field::UvmRootDigest);

    // Its chain and its ES384 signature hold; it is named otherwise, and is of another feed.
    let floor = floor(ESRP_ISSUER, 1);
    let error = verify_endorsement(&message, &floor, noon()).unwrap_err();
    assert_eq!(error.field(), Field::UvmIssuer);
    assert!(error.found().contains("::subject:CN:"), "{error}");
    *message.last_mut().unwrap() ^= 1;
    let error = verify_endorsement(&message, &floor, noon()).unwrap_err();
    assert_eq!(error.field(), Field::UvmSignature);
}

/// Whatever byte of headers, payload or signature is changed, the endorsement is refused. What stands
/// in the unprotected header is nobody's word, and is not read.
#[test]
fn every_signed_byte_of_an_endorsement_counts() {
    let Some(message) = vector(SVN_100) else { return };
    // Tag, array and the head of the byte string, which says how long the protected header is.
    let protected = 5 + usize::from(u16::from_be_bytes([message[3], message[4]]));
    let payload = message.windows(9).rposition(|window| window == b"{\n  \"x-ms").unwrap();
    let signed = (0..protected).chain(payload - 2..message.len());
    for offset in signed {
        let mut changed = message.clone();
        changed[offset] ^= 1 << (offset % 8);
        assert!(verify(&changed, 100).is_err(), "byte {offset} is not covered");
    }
    let mut changed = message.clone();
    changed[protected + 200] ^= 1;
    verify(&changed, 100).unwrap();
}

#[test]
fn what_is_cut_or_longer_is_refused() {
    let Some(message) = vector(SVN_100) else { return };
    for length in [0, 1, 2, 5, 100, 5000, message.len() - 1] {
        let error = verify(&message[..length], 100).unwrap_err();
        assert_eq!(error.field(), Field::UvmEndorsement, "{length} bytes");
    }
    let longer = [&message[..], &[0]].concat();
    assert_eq!(verify(&longer, 100).unwrap_err().field(), Field::UvmEndorsement);
}

/// The refusal of a real container's evidence under a statement that `change` has been at. It was made
/// for other claims, so that everything up to them can be seen to hold.
fn container(endorsement: Option<&[u8]>, change: impl FnOnce(&mut Value)) -> EvidenceError {
    let sample = azure_container().unwrap();
    let (chain, report) = sample.verify().unwrap();
    let mut statement = common::statement();
    let mut workload = common::container();
    workload["host_data"] = json!(report.host_data());
    workload["uvm"]["minimum_svn"] = json!(22);
    workload["policy_forbidden"] = json!([]);
    let tcb = serde_json::to_value(chain.tcb()).unwrap();
    workload["minimum_tcb"] = json!([{"product": chain.product(), "tcb": tcb}]);
    change(&mut workload);
    statement["workloads"] = json!([workload]);
    let signed = common::signed(&statement);
    let statement =
        verify_statement(&signed, &common::root(), &SerialFloor::default(), noon()).unwrap();
    let Sample { report, chain } = &sample;
    let evidence = Evidence {
        claims: b"{}",
        report,
        chain: ChainBytes::Pem(chain),
        uvm_endorsement: endorsement,
    };
    verify_evidence(&statement, &evidence, &[7; CHANNEL_KEY_LENGTH], noon()).unwrap_err()
}

#[test]
fn real_container_holds_up_to_its_claims() {
    let Some(its_own) = vector(SVN_22) else { return };
    assert_eq!(container(Some(&its_own), |_| ()).field(), Field::ReportData);

    assert_eq!(container(None, |_| ()).field(), Field::UvmEndorsement);
    let another = vector(SVN_100).unwrap();
    assert_eq!(container(Some(&another), |_| ()).field(), Field::UvmMeasurement);
    for (pointer, value, field) in [
        ("/host_data", json!("77".repeat(32)), Field::HostData),
        ("/uvm/minimum_svn", json!(100), Field::UvmSvn),
        ("/uvm/feed", json!("ConfAKS-AMD-UVM"), Field::UvmFeed),
        ("/uvm/issuer", json!(ESRP_ISSUER), Field::UvmRootDigest),
        ("/minimum_tcb/0/tcb/microcode", json!(0x74), Field::MinimumReportedTcb),
        ("/policy_forbidden", json!(["smt-allowed"]), Field::PolicyForbidden),
    ] {
        let error = container(Some(&its_own), |it| *it.pointer_mut(pointer).unwrap() = value);
        assert_eq!(error.field(), field, "{error}");
    }
}
