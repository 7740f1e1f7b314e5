//! The list of negatives: the field that must be named, what is changed, and the change.

use serde_json::json;

use super::{CONFIG, Case, ROOT};
use crate::chain::RootKind;
use crate::field::{CertificatePart as Part, Field, Role};
use crate::test_chip::{
    self, SHA256, Signer, basic_constraints, integer, p384_key, pss_algorithm,
    pss_algorithm_with_mask, rsa_key, tlv,
};
use crate::values::Sha256;

pub(super) type Change = fn(&mut Case);
/// The field that must be named, what is changed, and the change.
pub(super) type Negative = (Field, &'static str, Change);

pub(super) fn all() -> Vec<Negative> {
    [chain_negatives(), report_negatives(), statement_negatives(), claims_negatives()].concat()
}

/// The changes to certificates.
fn chain_negatives() -> Vec<Negative> {
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
        (C(Ask, Part::SignatureAlgorithm), "another outside", |case| {
            case.chip.ask.outer_algorithm = pss_algorithm(SHA256, 48);
        }),
        (C(Ask, Part::SignatureAlgorithm), "another inside", |case| {
            case.chip.ask.algorithm = pss_algorithm(SHA256, 48);
        }),
        (C(Vcek, Part::SignatureAlgorithm), "mask with SHA-256", |case| {
            let algorithm = pss_algorithm_with_mask(test_chip::SHA384, SHA256, 48);
            case.chip.vcek.algorithm = algorithm.clone();
            case.chip.vcek.outer_algorithm = algorithm;
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
fn report_negatives() -> Vec<Negative> {
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
        (Field::ReportData, "one space more in the claims", |case| {
            let mut data = [0; 64];
            data[..32].copy_from_slice(Sha256::of(case.claims.as_bytes()).as_bytes());
            case.report_data = Some(data);
            case.claims = case.claims.replacen(':', ": ", 1);
        }),
        (Field::ReportData, "second half not zero", |case| {
            let mut data = [0; 64];
            data[..32].copy_from_slice(Sha256::of(case.claims.as_bytes()).as_bytes());
            data[63] = 1;
            case.report_data = Some(data);
        }),
    ]
}

/// The changes to what the statement demands.
fn statement_negatives() -> Vec<Negative> {
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
fn claims_negatives() -> Vec<Negative> {
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
