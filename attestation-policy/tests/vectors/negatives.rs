//! One byte changed in a real report, or one certificate changed or moved in a real chain.

use keyfold_attestation_policy::field::{CertificatePart, Field, Role};
use keyfold_attestation_policy::report::Report;

use super::{Sample, milan, turin, vector};

fn refused(sample: &Sample) -> Field {
    sample.verify().unwrap_err().field()
}

/// The blocks of a PEM chain.
pub(crate) fn blocks(chain: &[u8]) -> Vec<Vec<u8>> {
    let text = std::str::from_utf8(chain).unwrap();
    text.split_inclusive("-----END CERTIFICATE-----")
        .filter(|block| block.contains("BEGIN"))
        .map(|block| block.trim().bytes().chain(*b"\n").collect())
        .collect()
}

#[test]
fn one_changed_byte_breaks_a_report() {
    for sample in [milan(), turin()] {
        let Some(sample) = sample else { return };
        for (offset, what, field) in [
            (0x04, "guest svn", Field::ReportSignature),
            (0x0A, "policy", Field::ReportSignature),
            (0x30, "vmpl", Field::ReportSignature),
            (0x50, "report data", Field::ReportSignature),
            (0x90, "measurement", Field::ReportSignature),
            (0xC0, "host data", Field::ReportSignature),
            (0x180, "reported tcb", Field::ReportSignature),
            (0x1A0, "chip id", Field::ReportSignature),
            (0x29F, "last signed byte", Field::ReportSignature),
            (0x2A0, "signature R", Field::ReportSignature),
            (0x2A0 + 72, "signature S", Field::ReportSignature),
            (0x2A0 + 48, "padding of R", Field::ReportSignature),
            (0x2A0 + 72 + 48, "padding of S", Field::ReportSignature),
            (0x49F, "last byte, not signed", Field::ReportSignature),
            (0x34, "signature algorithm", Field::ReportSignatureAlgorithm),
            (0x48, "signing key", Field::ReportSigningKey),
        ] {
            let mut changed = sample.clone();
            changed.report[offset] ^= 0x04;
            assert_eq!(refused(&changed), field, "{what}");
        }
    }
}

#[test]
fn every_byte_of_a_report_counts() {
    let Some(sample) = turin() else { return };
    let chain = sample.chain().unwrap();
    for offset in 0..sample.report.len() {
        let mut changed = sample.report.clone();
        changed[offset] ^= 1 << (offset % 8);
        let verdict = Report::parse(&changed).and_then(|report| chain.check_report(&report));
        assert!(verdict.is_err(), "byte {offset:#x} is not covered");
    }
}

#[test]
fn unknown_versions_and_lengths_are_refused() {
    let Some(sample) = milan() else { return };
    for version in [0, 1, 6, 255] {
        let mut changed = sample.clone();
        changed.report[0] = version;
        assert_eq!(refused(&changed), Field::ReportVersion);
    }
    for length in [0, 1, 1183, 1185, 4096] {
        let mut changed = sample.clone();
        changed.report.resize(length, 0);
        assert_eq!(refused(&changed), Field::ReportLength);
    }
}

#[test]
fn chain_order_counts() {
    let Some(sample) = milan() else { return };
    let [vcek, ask, ark] = <[Vec<u8>; 3]>::try_from(blocks(&sample.chain)).unwrap();
    for (order, field) in [
        ([&vcek, &ark, &ask], Field::RootDigest),
        ([&ask, &vcek, &ark], Field::Certificate(Role::Ask, CertificatePart::Subject)),
        ([&ark, &ask, &vcek], Field::RootDigest),
        ([&ask, &ask, &ark], Field::Certificate(Role::Vcek, CertificatePart::Subject)),
        ([&vcek, &ark, &ark], Field::Certificate(Role::Ask, CertificatePart::Subject)),
    ] {
        let chain = order.map(Vec::as_slice).concat();
        assert_eq!(refused(&Sample { report: sample.report.clone(), chain }), field);
    }
    for chain in [[&vcek[..], &ask].concat(), [&vcek[..], &ask, &ark, &ark].concat(), vec![]] {
        assert_eq!(refused(&Sample { report: sample.report.clone(), chain }), Field::Chain);
    }
}

#[test]
fn only_white_space_may_stand_between_the_blocks() {
    let Some(sample) = milan() else { return };
    let [vcek, ask, ark] = <[Vec<u8>; 3]>::try_from(blocks(&sample.chain)).unwrap();
    for space in ["", "\r\n", "\n\n \t"] {
        let space = space.as_bytes();
        let chain = [&vcek[..], space, &ask, space, &ark].concat();
        Sample { report: sample.report.clone(), chain }.verify().unwrap();
    }
    for junk in ["x", "# VCEK\n", "\0", "-----BEGIN CERTIFICATE-----\n", "\u{feff}"] {
        let bytes = junk.as_bytes();
        for chain in [
            [bytes, &vcek, &ask, &ark].concat(),
            [&vcek, bytes, &ask, &ark].concat(),
            [&vcek, &ask, &ark, bytes].concat(),
        ] {
            let sample = Sample { report: sample.report.clone(), chain };
            assert_eq!(refused(&sample), Field::Chain, "{junk:?}");
        }
    }
}

#[test]
fn another_products_roots_are_refused() {
    let Some(sample) = milan() else { return };
    let vcek = blocks(&sample.chain).remove(0);
    for (roots, name) in
        [("ask_ark_genoa.pem", "SEV-Genoa"), ("ask_ark_turin_vcek.pem", "SEV-Turin")]
    {
        let roots = vector(&format!("amd-roots/{roots}")).unwrap();
        let error =
            Sample::new(sample.report.clone(), &[vcek.clone(), roots]).verify().unwrap_err();
        assert_eq!(error.field(), Field::Certificate(Role::Vcek, CertificatePart::Issuer));
        assert!(error.expected().contains(name), "{error}");
    }
}

#[test]
fn another_chips_vcek_is_refused() {
    let (Some(one), Some(other)) = (milan(), super::trustee("test-vcek.der")) else { return };
    let sample = Sample { report: one.report, chain: other.chain };
    assert_eq!(refused(&sample), Field::ReportSignature);
}
