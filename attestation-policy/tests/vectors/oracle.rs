//! A second opinion: the `sev` crate reads and verifies the real reports as this crate does. Why it is
//! the oracle and not the verifier is in the last test here, and in `src/evidence/tests/oracle.rs`.

use keyfold_attestation_policy::tcb::{Product, RawTcb, Tcb};
use sev::certs::snp::{Chain, Verifiable};
use sev::firmware::guest::AttestationReport;
use sev::firmware::host::TcbVersion;
use sev::parser::ByteParser;

use super::negatives::blocks;
use super::{Sample, azure_container, hcl_report, milan, milan_debug, pem, trustee, turin, vector};

fn read(sample: &Sample) -> (Chain, AttestationReport) {
    let blocks = blocks(&sample.chain);
    let [vek, ask, ark] = blocks.as_slice() else { panic!("three certificates") };
    let chain = Chain::from_pem(ark, ask, vek).unwrap();
    (chain, AttestationReport::from_bytes(&sample.report).unwrap())
}

fn accepts(sample: &Sample) -> bool {
    let (chain, report) = read(sample);
    (&chain, &report).verify().is_ok()
}

fn tcb(ours: RawTcb, product: Product) -> TcbVersion {
    let Tcb { fmc, bootloader, tee, snp, microcode } = ours.decode(product).unwrap();
    TcbVersion { fmc, bootloader, tee, snp, microcode }
}

fn genuine() -> Option<Vec<Sample>> {
    let hcl = vector("trustee/az-snp-vtpm/hcl-report.bin")?;
    let azure_vm =
        Sample { report: hcl_report(&hcl), chain: vector("trustee/az-snp-vtpm/vcek.pem")? };
    Some(vec![
        milan()?,
        turin()?,
        milan_debug()?,
        trustee("test-vcek.der")?,
        azure_container()?,
        azure_vm,
    ])
}

#[test]
fn genuine_reports_are_genuine_to_both_and_say_the_same() {
    let Some(samples) = genuine() else { return };
    for sample in samples {
        let (chain, ours) = sample.verify().unwrap();
        assert!(accepts(&sample));
        let (_, theirs) = read(&sample);
        assert_eq!(theirs.version, ours.version());
        assert_eq!(theirs.guest_svn, ours.guest_svn());
        assert_eq!(u64::from(theirs.policy), ours.policy().0);
        assert_eq!(u64::from(theirs.plat_info), ours.platform_info().0);
        assert_eq!(theirs.vmpl, ours.vmpl());
        assert_eq!(theirs.report_data, ours.report_data());
        assert_eq!(theirs.measurement, *ours.measurement().as_bytes());
        assert_eq!(theirs.host_data, *ours.host_data().as_bytes());
        assert_eq!(theirs.id_key_digest, *ours.id_key_digest().as_bytes());
        assert_eq!(theirs.author_key_digest, *ours.author_key_digest().as_bytes());
        assert_eq!(theirs.chip_id, *ours.chip_id().as_bytes());
        assert_eq!(theirs.cpuid_fam_id.zip(theirs.cpuid_mod_id), ours.cpuid());
        let product = chain.product();
        assert_eq!(theirs.current_tcb, tcb(ours.current_tcb(), product));
        assert_eq!(theirs.reported_tcb, tcb(ours.reported_tcb(), product));
        assert_eq!(theirs.committed_tcb, tcb(ours.committed_tcb(), product));
        assert_eq!(theirs.launch_tcb, tcb(ours.launch_tcb(), product));
    }
}

#[test]
fn forged_reports_are_forged_to_both() {
    let (Some(good), Some(legacy)) = (milan(), trustee("test-vcek-invalid-legacy.der")) else {
        return;
    };
    let mut changed = vec![legacy, Sample { report: good.report.clone(), ..turin().unwrap() }];
    for offset in [0x50, 0x90, 0xC0, 0x180, 0x2A0, 0x2E8] {
        let mut sample = good.clone();
        sample.report[offset] ^= 1;
        changed.push(sample);
    }
    for sample in changed {
        sample.verify().unwrap_err();
        assert!(!accepts(&sample));
    }
}

/// It checks signatures. That a VLEK signed, and that its certificate has expired, it does not mind.
#[test]
fn a_shared_expired_key_is_good_enough_for_it() {
    let Some(leaf) = vector("trustee/snp/test-vlek.der") else { return };
    let report = vector("trustee/snp/test-vlek-report.bin").unwrap();
    let authority = vector("amd-roots/ask_ark_milan_vlek.pem").unwrap();
    let sample = Sample::new(report, &[pem(&leaf), authority]);
    assert!(accepts(&sample));
    sample.verify().unwrap_err();
}
