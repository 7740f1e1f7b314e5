//! Whatever bytes come, every parser answers, and none panics.

mod common;

use keyfold_attestation_policy::chain::{ChainBytes, verify_amd_chain};
use keyfold_attestation_policy::claims::ChannelClaims;
use keyfold_attestation_policy::deployment::Deployment;
use keyfold_attestation_policy::report::{REPORT_LENGTH, Report};
use keyfold_attestation_policy::signing::SigningKey;
use keyfold_attestation_policy::statement::{SerialFloor, Statement, verify_statement};
use keyfold_attestation_policy::tcb::Product;
use keyfold_attestation_policy::trust_root::TrustRoot;
use keyfold_attestation_policy::uvm::verify_endorsement;
use keyfold_attestation_policy::values::{Sha256, Timestamp};
use proptest::prelude::*;
use proptest::sample::Index;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn arbitrary_bytes(bytes in prop::collection::vec(any::<u8>(), 0..2048)) {
        let _ = Report::parse(&bytes);
        let _ = ChannelClaims::parse(&bytes);
        let _ = Statement::from_payload(&bytes);
        let _ = TrustRoot::from_json(&bytes);
        let _ = SigningKey::from_pkcs8(&bytes);
        let floor = SerialFloor::default();
        prop_assert!(verify_statement(&bytes, &common::root(), &floor, common::now()).is_err());
        prop_assert!(common::root().successor(&bytes).is_err());
        prop_assert!(verify_amd_chain(ChainBytes::Pem(&bytes), common::now()).is_err());
        let uvm = serde_json::from_value(common::container()["uvm"].clone()).unwrap();
        prop_assert!(verify_endorsement(&bytes, &uvm, common::now()).is_err());
        // The right beginning reaches deeper.
        let message = [b"\xd2\x84\x43\xa1\x01\x38", bytes.as_slice()].concat();
        prop_assert!(verify_endorsement(&message, &uvm, common::now()).is_err());
        let der = ChainBytes::Der { vcek: &bytes, ask: &bytes, ark: &bytes };
        prop_assert!(verify_amd_chain(der, common::now()).is_err());
    }

    #[test]
    fn arbitrary_text(text in ".{0,300}") {
        let _ = Timestamp::from_rfc3339(&text);
        let _ = Sha256::from_hex(&text);
        prop_assert!(Deployment::from_toml(&text).is_err());
        let armour = format!(
            "-----BEGIN CERTIFICATE-----\n{text}\n-----END CERTIFICATE-----\n{text}"
        );
        let chain = ChainBytes::Pem(armour.as_bytes());
        prop_assert!(verify_amd_chain(chain, common::now()).is_err());
    }

    /// Every field of a report can be read whatever it holds.
    #[test]
    fn arbitrary_reports(
        mut bytes in prop::collection::vec(any::<u8>(), REPORT_LENGTH),
        version in 2..=5_u32,
        key in prop::collection::vec(any::<u8>(), 0..100),
    ) {
        bytes[..4].copy_from_slice(&version.to_le_bytes());
        bytes[0x34..0x38].copy_from_slice(&1_u32.to_le_bytes());
        let report = Report::parse(&bytes).unwrap();
        for product in [Product::Milan, Product::Genoa, Product::Turin] {
            let _ = report.reported_tcb().decode(product);
        }
        let _ = format!("{:?}", report);
        prop_assert!(report.verify_signature(&key).is_err());
    }

    /// A statement with a few bytes changed reaches deeper than noise does.
    #[test]
    fn damaged_statements(changes in prop::collection::vec((any::<Index>(), any::<u8>()), 1..4)) {
        let mut payload = serde_json::to_vec(&common::statement()).unwrap();
        for (at, byte) in changes {
            let at = at.index(payload.len());
            payload[at] = byte;
        }
        if let Ok(statement) = Statement::from_payload(&payload) {
            let again = Statement::from_payload(&statement.to_payload()).unwrap();
            prop_assert_eq!(again, statement);
        }
    }

    /// A right policy with a few bytes changed passes only if it still says the same.
    #[test]
    fn damaged_release_policies(changes in prop::collection::vec((any::<Index>(), any::<u8>()), 1..4)) {
        let deployment = include_str!("deployment/deployment.toml");
        let deployment = Deployment::from_toml(deployment).unwrap();
        let good = deployment.release_policy();
        let mut policy = good.clone().into_bytes();
        for (at, byte) in changes {
            let at = at.index(policy.len());
            policy[at] = byte;
        }
        let Ok(verdict) = deployment.check_release_policy(&policy) else { return Ok(()) };
        if verdict.findings.is_empty() && verdict.unserved.is_empty() {
            let read = |text: &[u8]| serde_json::from_slice::<serde_json::Value>(text).unwrap();
            prop_assert_eq!(read(&policy), read(good.as_bytes()));
        }
    }

    #[test]
    fn times_survive_a_round_trip(seconds in 0..253_402_300_800_u64) {
        let time = Timestamp::from_unix_seconds(seconds).unwrap();
        prop_assert_eq!(time.unix_seconds(), seconds);
        prop_assert_eq!(Timestamp::from_rfc3339(&time.to_string()).unwrap(), time);
    }
}
