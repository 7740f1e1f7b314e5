//! Confidential containers: right evidence is accepted, and one negative per check of the profile.

use serde_json::json;

use super::negatives::{Change, Negative};
use super::{Case, PRODUCT};
use crate::field::{CertificatePart as Part, Field, Role};
use crate::statement::WorkloadId;
use crate::test_chip::{SHA384, Signer, basic_constraints, p384_key, pss_algorithm, rsa_key, tlv};
use crate::test_uvm::{EndorsementSpec, bytes, integer, payload, purposes, text};

impl Case {
    /// A container in profile `aci` whose policy hashes to 77..77.
    fn container() -> Self {
        let mut case = Self::new(PRODUCT);
        case.endorsement = Some(EndorsementSpec::new());
        case.report.set(0xC0, &[0x77; 32]);
        let workload = case.workload();
        let members = workload.as_object_mut().unwrap();
        members.remove("measurement");
        workload["profile"] = json!("aci");
        workload["host_data"] = json!("77".repeat(32));
        // The issuer is filled in with the endorsement's.
        workload["uvm"] =
            json!({"issuer": null, "feed": "ContainerPlat-AMD-UVM", "minimum_svn": 104});
        case
    }

    fn uvm(&mut self) -> &mut EndorsementSpec {
        self.endorsement.as_mut().unwrap()
    }
}

pub(super) fn case() -> Case {
    Case::container()
}

#[test]
fn a_container_under_an_endorsed_utility_vm_is_accepted() {
    let channel = case().verify().unwrap();
    assert_eq!(channel.measurement().to_string(), "ab".repeat(48));
    assert!(matches!(channel.workload(), WorkloadId::HostData(it) if it.as_bytes() == &[0x77; 32]));
    let endorsement = channel.endorsement().unwrap();
    assert_eq!(endorsement.svn(), 104);
    assert_eq!(endorsement.measurement(), channel.measurement());
    assert_eq!(endorsement.signed().to_string(), "2026-06-01T00:00:00Z");
}

#[test]
fn other_right_endorsements_are_accepted() {
    for (what, change) in [
        ("ES384", (|case| case.endorsement = Some(EndorsementSpec::new().with_es384())) as Change),
        ("a newer version, as a number as well", |case| {
            let svn = r#""110","x-ms-sevsnpvm-guestsvn-int":110"#;
            case.uvm().payload = payload(&"ab".repeat(48), svn);
        }),
        ("a member nobody knows", |case| {
            case.uvm().payload = case.uvm().payload.replacen('{', "{\"x\":1,", 1);
        }),
        ("a header nobody knows", |case| {
            case.uvm().after_headers = |headers| headers.push([text("x"), bytes(&[1])]);
        }),
        ("no x5t", |case| case.uvm().after_headers = |headers| drop(headers.remove(3))),
        ("no authority in between", |case| {
            let uvm = case.uvm();
            uvm.signer.issuer = "Root".into();
            uvm.signer.signer = Signer::Ark;
            uvm.after_chain = |chain| drop(chain.remove(1));
        }),
        ("the signer's certificate has expired since", |case| {
            case.uvm().signer.not_after = "20260701000000Z";
        }),
    ] {
        let mut case = case();
        change(&mut case);
        case.verify().unwrap_or_else(|error| panic!("{what}: {error}"));
    }
}

/// What identifies a workload of one profile identifies none of another.
#[test]
fn a_container_is_no_image_and_an_image_no_container() {
    // Our image, started with the container's HOST_DATA: nobody endorsed it.
    let mut case = case();
    case.report.set(0x90, &[0xCD; 48]);
    assert_eq!(case.verify().unwrap_err().field(), Field::UvmMeasurement);

    // The utility VM with another policy, beside an image that is listed.
    let mut case = Case::container();
    let image = Case::new(PRODUCT).workload().clone();
    case.statement["workloads"].as_array_mut().unwrap().push(image);
    case.workload_at(1)["measurement"] = json!("cd".repeat(48));
    case.report.set(0xC0, &[0x78; 32]);
    let error = case.verify().unwrap_err();
    assert_eq!(error.field(), Field::Measurement);
    assert!(error.expected().contains(&"77".repeat(32)), "{error}");

    // With its own policy it is the container, and needs its endorsement.
    case.report.set(0xC0, &[0x77; 32]);
    case.verify().unwrap();
    case.endorsement = None;
    assert_eq!(case.verify().unwrap_err().field(), Field::UvmEndorsement);
}

pub(super) fn negatives() -> Vec<Negative> {
    [container_negatives(), message_negatives(), chain_negatives(), content_negatives()].concat()
}

fn container_negatives() -> Vec<Negative> {
    vec![
        (Field::HostData, "another policy", |case| case.report.set(0xC0, &[0x78; 32])),
        (Field::PolicyDebug, "on", |case| case.policy(0xB0000)),
        (Field::MinimumReportedTcb, "microcode", |case| {
            case.workload()["minimum_tcb"][0]["tcb"]["microcode"] = json!(220);
        }),
        (Field::PlatformRequired, "no alias check", |case| case.report.set(0x40, &[0x05])),
        (Field::PolicyForbidden, "CXL", |case| case.policy(0x30000 | 1 << 21)),
        (Field::UvmEndorsement, "none", |case| case.endorsement = None),
        (Field::UvmMeasurement, "another utility VM", |it| it.report.set(0x90, &[0xAC; 48])),
    ]
}

fn message_negatives() -> Vec<Negative> {
    vec![
        (Field::UvmEndorsement, "empty", |case| case.uvm().after = Vec::clear),
        (Field::UvmEndorsement, "another tag", |case| case.uvm().after = |it| it[0] = 0xD1),
        (Field::UvmEndorsement, "five items", |case| case.uvm().after = |it| it[1] = 0x85),
        (Field::UvmEndorsement, "truncated", |it| it.uvm().after = |it| it.truncate(500)),
        (Field::UvmEndorsement, "trailing byte", |it| it.uvm().after = |it| it.push(0)),
        (Field::UvmEndorsement, "too long", |it| it.uvm().after = |it| it.resize(70_000, 0)),
        (Field::UvmHeaders, "no feed", |case| {
            case.uvm().after_headers = |headers| drop(headers.remove(5));
        }),
        (Field::UvmHeaders, "feed twice", |case| {
            case.uvm().after_headers = |headers| headers.push(headers[5].clone());
        }),
        (Field::UvmHeaders, "must be understood", |case| {
            case.uvm().after_headers = |headers| headers.push([integer(2), vec![0x80]]);
        }),
        (Field::UvmHeaders, "another content", |it| it.uvm().content_type = "application/cbor"),
        (Field::UvmHeaders, "no time", |case| {
            case.uvm().after_headers = |headers| drop(headers.remove(6));
        }),
        (Field::UvmHeaders, "a bare number as time", |case| {
            case.uvm().after_headers = |headers| {
                headers[6][1].remove(0);
            };
        }),
        (Field::UvmAlgorithm, "PS256", |case| case.uvm().algorithm = -37),
        (Field::UvmChain, "one certificate", |case| {
            case.uvm().after_chain = |chain| chain.truncate(1);
        }),
        (Field::UvmChain, "six certificates", |case| {
            case.uvm().after_chain = |chain| chain.resize(6, chain[2].clone());
        }),
        (Field::UvmRootDigest, "another root", |case| {
            case.workload()["uvm"]["issuer"] = json!(crate::test_uvm::issuer(b"another"));
        }),
        (Field::UvmRootDigest, "order", |it| it.uvm().after_chain = |chain| chain.swap(1, 2)),
        (Field::UvmSignerDigest, "another", |it| {
            it.uvm().signer_digest = Some((-16, vec![9; 32]));
        }),
        (Field::UvmSignerDigest, "SHA-1", |case| {
            case.uvm().signer_digest = Some((-14, vec![9; 20]));
        }),
        (Field::UvmSignature, "last byte", |case| {
            case.uvm().after = |message| *message.last_mut().unwrap() ^= 1;
        }),
        (Field::UvmSignature, "by another key", |case| {
            case.uvm().signer.key = rsa_key(Signer::Stranger);
        }),
        (Field::UvmSignature, "over another payload", |case| {
            case.uvm().after = |message| {
                let at = message.windows(5).position(|window| window == b"\"104\"").unwrap();
                message[at + 3] = b'5';
            };
        }),
        (Field::UvmSigningTime, "tomorrow", |case| {
            // 2026-12-02T00:00:00Z
            case.uvm().signed = 1_796_169_600;
        }),
    ]
}

fn chain_negatives() -> Vec<Negative> {
    use Field::Certificate as C;
    use Role::{UvmAuthority as Authority, UvmRoot as Root, UvmSigner as Leaf};
    const LATER: &str = "20260701000000Z";
    const BEFORE: &str = "20260501000000Z";
    vec![
        (C(Leaf, Part::Encoding), "truncated", |case| {
            case.uvm().after_chain = |chain| chain[0].truncate(100);
        }),
        (C(Authority, Part::Encoding), "trailing", |it| it.uvm().authority.trailing = vec![0]),
        (C(Root, Part::Encoding), "trailing", |it| it.uvm().root.trailing = vec![0]),
        (C(Leaf, Part::Issuer), "another", |case| case.uvm().signer.issuer = "Other".into()),
        (C(Authority, Part::Issuer), "another", |it| it.uvm().authority.issuer = "Other".into()),
        (C(Root, Part::Issuer), "not itself", |case| case.uvm().root.issuer = "Other".into()),
        (C(Leaf, Part::Validity), "expired before", |it| it.uvm().signer.not_after = BEFORE),
        (C(Leaf, Part::Validity), "not yet", |case| case.uvm().signer.not_before = LATER),
        (C(Authority, Part::Validity), "expired", |it| it.uvm().authority.not_after = BEFORE),
        (C(Root, Part::Validity), "expired", |case| case.uvm().root.not_after = BEFORE),
        (C(Leaf, Part::SignatureAlgorithm), "PSS", |case| {
            case.uvm().signer.algorithm = pss_algorithm(SHA384, 48);
            case.uvm().signer.outer_algorithm = pss_algorithm(SHA384, 48);
        }),
        (C(Authority, Part::SignatureAlgorithm), "another outside", |case| {
            case.uvm().authority.outer_algorithm = pss_algorithm(SHA384, 48);
        }),
        (C(Root, Part::SignatureAlgorithm), "another inside", |case| {
            case.uvm().root.algorithm = pss_algorithm(SHA384, 48);
        }),
        (C(Leaf, Part::Signature), "a stranger's", |it| it.uvm().signer.signer = Signer::Stranger),
        (C(Leaf, Part::Signature), "the root's", |case| case.uvm().signer.signer = Signer::Ark),
        (C(Authority, Part::Signature), "its own", |it| it.uvm().authority.signer = Signer::Ask),
        (C(Root, Part::Signature), "a stranger's", |it| it.uvm().root.signer = Signer::Stranger),
        (C(Leaf, Part::PublicKey), "P-384 for PS384", |case| case.uvm().signer.key = p384_key()),
        (C(Authority, Part::PublicKey), "P-384 for RSA", |it| it.uvm().authority.key = p384_key()),
        (C(Root, Part::PublicKey), "P-384 for RSA", |case| case.uvm().root.key = p384_key()),
        (C(Leaf, Part::Extensions), "authority", |case| {
            *case.uvm().signer.extension("2.5.29.19") = basic_constraints(true);
        }),
        (C(Leaf, Part::Extensions), "no purpose", |it| it.uvm().signer.remove("2.5.29.37")),
        (C(Leaf, Part::Extensions), "another purpose", |case| {
            *case.uvm().signer.extension("2.5.29.37") = purposes(&["1.3.6.1.4.1.311.76.59.1.1"]);
        }),
        (C(Leaf, Part::Extensions), "may not sign", |case| {
            // keyEncipherment.
            case.uvm().signer.extension("2.5.29.15").value = tlv(3, &[vec![5, 0x20]]);
        }),
        (C(Authority, Part::Extensions), "no authority", |case| {
            case.uvm().authority.remove("2.5.29.19");
        }),
        (C(Root, Part::Extensions), "no room below", |case| {
            // cA, pathLenConstraint 0.
            case.uvm().root.extension("2.5.29.19").value = tlv(0x30, &[vec![1, 1, 0xFF, 2, 1, 0]]);
        }),
    ]
}

fn content_negatives() -> Vec<Negative> {
    vec![
        (Field::UvmIssuer, "another purpose", |case| {
            let issuer = crate::test_uvm::issuer(&case.uvm().root.build());
            case.uvm().issuer = Some(issuer.replace("59.1.2", "59.1.1"));
        }),
        (Field::UvmFeed, "another", |case| case.uvm().feed = "ConfAKS-AMD-UVM"),
        (Field::UvmPayload, "not JSON", |case| case.uvm().payload = "{".into()),
        (Field::UvmPayload, "no measurement", |it| it.uvm().payload = "{}".into()),
        (Field::UvmPayload, "measurement twice", |case| {
            let once = r#""x-ms-sevsnpvm-guestsvn""#;
            let twice = format!(r#"{once}:"200",{once}"#);
            case.uvm().payload = case.uvm().payload.replacen(once, &twice, 1);
        }),
        (Field::UvmPayload, "version as a number", |case| {
            case.uvm().payload = payload(&"ab".repeat(48), "104");
        }),
        (Field::UvmPayload, "a sign", |case| {
            case.uvm().payload = payload(&"ab".repeat(48), "\"+104\"");
        }),
        (Field::UvmPayload, "two versions", |case| {
            let svn = r#""104","x-ms-sevsnpvm-guestsvn-int":105"#;
            case.uvm().payload = payload(&"ab".repeat(48), svn);
        }),
        (Field::UvmSvn, "lower", |case| {
            case.uvm().payload = payload(&"ab".repeat(48), "\"103\"");
        }),
    ]
}
