//! Why the `sev` crate, which the vectors' tests use as an oracle, is not the verifier.

use sev::certs::snp::{Chain, Verifiable};
use sev::firmware::guest::AttestationReport;
use sev::parser::ByteParser;

use super::*;

/// A whole chip of our own, from root to report: it verifies that each key signed the next, and takes
/// whichever root comes first. Nor does it look at what the VCEK says about chip and firmware.
#[test]
fn any_root_is_good_enough_for_it() {
    let mut case = Case::new(PRODUCT);
    case.report.set(0x1A0, &[0xEE]);
    let chain = case.chip.build();
    let report = case.report.sign();

    let theirs = Chain::from_der(&chain.ark, &chain.ask, &chain.vcek).unwrap();
    let parsed = AttestationReport::from_bytes(&report).unwrap();
    (&theirs, &parsed).verify().unwrap();

    let now = Timestamp::from_rfc3339(case.now).unwrap();
    let error = chain::verify_amd_chain(chain.bytes(), now).unwrap_err();
    assert_eq!(error.field(), Field::RootDigest);
    // Even with this root, it is another chip's report.
    let pinned = chain::verify_chain(chain.bytes(), &[chain.pin(PRODUCT)], now).unwrap();
    let error = pinned.check_report(&Report::parse(&report).unwrap()).unwrap_err();
    assert_eq!(error.field(), Field::ReportChipId);
}
