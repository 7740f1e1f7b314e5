//! The signed deployment statement: what a client accepts, and one refusal per rule.

mod common;

use common::{MICROSOFT, base64, container, key, now, root, sign, signed, statement, time};
use keyfold_attestation_policy::signing::{
    GatherError, SignatureError, assemble_statement, gather_statement,
    read_without_checking_signatures,
};
use keyfold_attestation_policy::statement::{
    SerialFloor, StatementError, VerifiedStatement, Workload, verify_statement,
};
use keyfold_attestation_policy::trust_root::TrustRoot;
use serde_json::{Value, json};

fn verify(signed: &[u8]) -> Result<VerifiedStatement, StatementError> {
    verify_statement(signed, &root(), &SerialFloor::default(), now())
}

/// The refusal of a statement changed in one way and signed by enough keys.
fn refused(change: impl FnOnce(&mut Value)) -> StatementError {
    let mut statement = statement();
    change(&mut statement);
    verify(&signed(&statement)).unwrap_err()
}

fn malformed(change: impl FnOnce(&mut Value)) -> String {
    match refused(change) {
        StatementError::Malformed(reason) => reason,
        other => panic!("expected a statement that cannot be read, found {other}"),
    }
}

#[test]
fn signed_statement_is_accepted() {
    let verified = verify(&signed(&statement())).unwrap();
    let statement = verified.statement();
    assert_eq!(statement.name(), "keyfold-test");
    assert_eq!(statement.serial(), 7);
    assert_eq!(statement.url(), "https://keyfold.example");
    assert_eq!(statement.identity().issuer(), "https://login.example/v2.0");
    assert_eq!(statement.identity().client_id(), "client");
    assert_eq!(statement.identity().audience(), "api://keyfold");
    assert_eq!(statement.config().to_string(), "c0".repeat(32));
    assert_eq!(statement.root().to_string(), "10".repeat(32));
    let [Workload::SnpDirect(workload)] = statement.workloads() else { panic!("one workload") };
    assert_eq!(workload.measurement.to_string(), "ab".repeat(48));
    assert_eq!(verified.seen().serial, 7);
}

#[test]
fn payload_survives_a_round_trip() {
    let verified = verify(&signed(&statement())).unwrap();
    let payload = verified.statement().to_payload();
    let again: Value = serde_json::from_slice(&payload).unwrap();
    assert_eq!(again, statement());
}

#[test]
fn any_two_of_three_keys_suffice() {
    let payload = serde_json::to_vec(&statement()).unwrap();
    for signers in [[1, 2], [2, 3], [3, 1]] {
        verify(&sign(&payload, &signers)).unwrap();
    }
    verify(&sign(&payload, &[1, 2, 3])).unwrap();
    // While a root is being replaced, the next root's keys sign as well.
    verify(&sign(&payload, &[1, 2, 9])).unwrap();
}

#[test]
fn too_few_signatures_are_refused() {
    let payload = serde_json::to_vec(&statement()).unwrap();
    let refused = |signers: &[u8]| match verify(&sign(&payload, signers)).unwrap_err() {
        StatementError::Signature(error) => error,
        other => panic!("{other}"),
    };
    let below =
        |trusted, unknown| SignatureError::BelowThreshold { threshold: 2, trusted, unknown };
    assert_eq!(refused(&[]), below(0, 0));
    assert_eq!(refused(&[1]), below(1, 0));
    assert_eq!(refused(&[1, 9]), below(1, 1));
    assert_eq!(refused(&[8, 9]), below(0, 2));
    assert_eq!(refused(&[1, 1]), SignatureError::DuplicateSigner(key(1).public_key()));
    // Two different signatures of one key are no better.
    assert_eq!(refused(&[1, 2, 1]), SignatureError::DuplicateSigner(key(1).public_key()));
}

#[test]
fn tampering_with_any_byte_is_refused() {
    let good = signed(&statement());
    for offset in 0..good.len() {
        let mut changed = good.clone();
        changed[offset] ^= 0x01;
        if let Ok(verified) = verify(&changed) {
            // Only spellings that mean the same could pass, and there are none.
            panic!("byte {offset} does not count: {verified:?}");
        }
    }
}

#[test]
fn tampered_payload_names_the_signer() {
    let payload = serde_json::to_vec(&statement()).unwrap();
    let mut envelope: Value = serde_json::from_slice(&sign(&payload, &[1, 2])).unwrap();
    let other = String::from_utf8(payload).unwrap().replace("\"serial\":7", "\"serial\":8");
    envelope["payload"] = json!(base64(other.as_bytes()));
    assert_eq!(
        verify(&serde_json::to_vec(&envelope).unwrap()).unwrap_err(),
        SignatureError::BadSignature(key(1).public_key()).into()
    );
}

#[test]
fn one_bad_signature_spoils_enough_good_ones() {
    let payload = serde_json::to_vec(&statement()).unwrap();
    let mut envelope: Value = serde_json::from_slice(&sign(&payload, &[1, 2, 3])).unwrap();
    for signature in ["", "!", &base64(&[0; 64]), &base64(&[0; 63])] {
        envelope["signatures"][2]["sig"] = json!(signature);
        assert_eq!(
            verify(&serde_json::to_vec(&envelope).unwrap()).unwrap_err(),
            SignatureError::BadSignature(key(3).public_key()).into()
        );
    }
}

#[test]
fn signature_over_another_kind_is_none() {
    let (next, old) =
        (TrustRoot::new(2, 2, vec![key(1).public_key(), key(2).public_key()]), root());
    let next = next.unwrap();
    let signatures = [1, 2].map(|seed| key(seed).sign_trust_root(&next)).to_vec();
    let signed = keyfold_attestation_policy::signing::assemble_trust_root(&next, signatures, &old);
    let error = verify(&signed.unwrap()).unwrap_err();
    assert!(
        matches!(error, StatementError::Signature(SignatureError::PayloadType { .. })),
        "{error}"
    );

    // The bare bytes, signed without their type.
    let payload = serde_json::to_vec(&statement()).unwrap();
    let mut envelope: Value = serde_json::from_slice(&sign(&payload, &[1, 2])).unwrap();
    envelope["signatures"][0]["sig"] = json!(base64(&common::raw_signature(1, &payload)));
    assert_eq!(
        verify(&serde_json::to_vec(&envelope).unwrap()).unwrap_err(),
        SignatureError::BadSignature(key(1).public_key()).into()
    );
}

#[test]
fn envelope_is_strict() {
    let good = String::from_utf8(signed(&statement())).unwrap();
    for (what, changed) in [
        ("unknown member", good.replacen('{', "{\"x\":1,", 1)),
        ("repeated member", good.replacen('{', "{\"payload\":\"\",", 1)),
        ("unknown member of a signature", good.replacen("{\"keyid\"", "{\"x\":1,\"keyid\"", 1)),
        ("bytes behind it", format!("{good}x")),
        ("no signatures", good.replacen("\"signatures\"", "\"signature\"", 1)),
        ("URL-safe base64", good.replacen("\"payload\":\"", "\"payload\":\"_-_-", 1)),
        ("nothing", String::new()),
        ("too long", format!("{good}{}", " ".repeat(300_000))),
    ] {
        let error = verify(changed.as_bytes()).unwrap_err();
        assert!(
            matches!(error, StatementError::Signature(SignatureError::Malformed(_))),
            "{what}: {error}"
        );
    }
    let mut envelope: Value = serde_json::from_str(&good).unwrap();
    let signature = envelope["signatures"][0].clone();
    envelope["signatures"] = json!(vec![signature; 65]);
    let error = verify(&serde_json::to_vec(&envelope).unwrap()).unwrap_err();
    assert!(error.to_string().contains("64 signatures"), "{error}");
}

#[test]
fn time_is_checked() {
    let good = signed(&statement());
    let at = |text| verify_statement(&good, &root(), &SerialFloor::default(), time(text));
    at("2026-11-22T00:00:00Z").unwrap();
    at("2026-11-21T23:50:00Z").unwrap();
    at("2027-02-19T23:59:59Z").unwrap();
    let error = at("2026-11-21T23:49:59Z").unwrap_err();
    assert!(matches!(error, StatementError::NotYetValid { .. }), "{error}");
    let error = at("2027-02-20T00:00:00Z").unwrap_err();
    assert!(matches!(error, StatementError::Expired { .. }), "{error}");
    assert!(error.to_string().contains("2027-02-20T00:00:00Z"), "{error}");
}

#[test]
fn lifetime_is_limited() {
    let reason = malformed(|it| it["expires"] = json!("2027-02-20T00:00:01Z"));
    assert!(reason.contains("at most 90 days"), "{reason}");
    for expires in ["2026-11-22T00:00:00Z", "2026-11-21T00:00:00Z"] {
        let reason = malformed(|it| it["expires"] = json!(expires));
        assert!(reason.contains("at most 90 days"), "{reason}");
    }
}

#[test]
fn serial_never_goes_back() {
    let with_serial = |serial: u64| {
        let mut statement = statement();
        statement["serial"] = json!(serial);
        signed(&statement)
    };
    let mut floor = SerialFloor { minimum: 7, seen: None };
    let check = |bytes: &[u8], floor: &SerialFloor| verify_statement(bytes, &root(), floor, now());

    let error = check(&with_serial(6), &floor).unwrap_err();
    assert_eq!(error, StatementError::SerialTooLow { minimum: 7, found: 6 });
    floor.seen = Some(check(&with_serial(8), &floor).unwrap().seen());
    let error = check(&with_serial(7), &floor).unwrap_err();
    assert_eq!(error, StatementError::SerialTooLow { minimum: 8, found: 7 });
    check(&with_serial(8), &floor).unwrap();
    check(&with_serial(9), &floor).unwrap();

    // A minimum learnt out of band counts though less was seen.
    floor.minimum = 9;
    let error = check(&with_serial(8), &floor).unwrap_err();
    assert_eq!(error, StatementError::SerialTooLow { minimum: 9, found: 8 });
}

#[test]
fn one_serial_is_one_statement() {
    let first = verify(&signed(&statement())).unwrap();
    let floor = SerialFloor { minimum: 0, seen: Some(first.seen()) };
    let check = |bytes: &[u8]| verify_statement(bytes, &root(), &floor, now());

    // The same bytes under other signatures are the same statement.
    let payload = serde_json::to_vec(&statement()).unwrap();
    check(&sign(&payload, &[2, 3])).unwrap();

    let mut other = statement();
    other["url"] = json!("https://elsewhere.example");
    let error = check(&signed(&other)).unwrap_err();
    assert!(matches!(error, StatementError::SerialReused { serial: 7, .. }), "{error}");
    // Even where it says the same in other bytes.
    let spaced = [payload.as_slice(), b" "].concat();
    let error = check(&sign(&spaced, &[1, 2])).unwrap_err();
    assert!(matches!(error, StatementError::SerialReused { .. }), "{error}");
}

#[test]
fn every_member_is_mandatory() {
    let members: Vec<String> = statement().as_object().unwrap().keys().cloned().collect();
    assert_eq!(members.len(), 9);
    for member in members {
        let reason = malformed(|it| drop(it.as_object_mut().unwrap().remove(&member)));
        assert!(reason.contains(&format!("missing field `{member}`")), "{reason}");
    }
    for member in ["issuer", "client_id", "audience"] {
        let reason = malformed(|it| drop(it["identity"].as_object_mut().unwrap().remove(member)));
        assert!(reason.contains(&format!("missing field `{member}`")), "{reason}");
    }
    for member in [
        "profile",
        "measurement",
        "minimum_tcb",
        "policy_required",
        "policy_forbidden",
        "platform_required",
        "platform_forbidden",
    ] {
        let reason =
            malformed(|it| drop(it["workloads"][0].as_object_mut().unwrap().remove(member)));
        assert!(reason.contains(&format!("missing field `{member}`")), "{reason}");
    }
    let members: Vec<String> = container().as_object().unwrap().keys().cloned().collect();
    assert_eq!(members.len(), 8);
    for member in members {
        let reason = malformed(|it| {
            it["workloads"][0] = container();
            drop(it["workloads"][0].as_object_mut().unwrap().remove(&member));
        });
        assert!(reason.contains(&format!("missing field `{member}`")), "{reason}");
    }
    for member in ["issuer", "feed", "minimum_svn"] {
        let reason = malformed(|it| {
            it["workloads"][0] = container();
            drop(it["workloads"][0]["uvm"].as_object_mut().unwrap().remove(member));
        });
        assert!(reason.contains(&format!("missing field `{member}`")), "{reason}");
    }
    for member in ["bootloader", "tee", "snp", "microcode"] {
        let reason = malformed(|it| {
            let tcb = &mut it["workloads"][0]["minimum_tcb"][0]["tcb"];
            drop(tcb.as_object_mut().unwrap().remove(member));
        });
        assert!(reason.contains(&format!("missing field `{member}`")), "{reason}");
    }
}

#[test]
fn a_containers_values_are_checked() {
    let mut right = statement();
    right["workloads"][0] = container();
    let verified = verify(&signed(&right)).unwrap();
    let [Workload::Aci(workload)] = verified.statement().workloads() else { panic!("a container") };
    assert_eq!(workload.uvm.feed(), "ContainerPlat-AMD-UVM");
    assert_eq!(workload.uvm.issuer.to_string(), MICROSOFT);
    let again: Value = serde_json::from_slice(&verified.statement().to_payload()).unwrap();
    assert_eq!(again, right);

    let subject = MICROSOFT.replace("::eku:1.3.6.1.4.1.311.76.59.1.2", "::subject:CN:Microsoft");
    for (pointer, value, expected) in [
        ("/host_data", json!("77".repeat(48)), "lower-case hex"),
        ("/uvm/minimum_svn", json!(0), "1 or more"),
        ("/uvm/minimum_svn", json!("104"), "invalid type"),
        ("/uvm/feed", json!(""), "printable ASCII"),
        ("/uvm/issuer", json!("did:web:example.org"), "did:x509"),
        ("/uvm/issuer", json!(subject), "did:x509"),
        ("/uvm/issuer", json!(MICROSOFT.replace("x509:0", "x509:1")), "did:x509"),
        ("/uvm/issuer", json!(MICROSOFT.replace("sha256", "sha384")), "did:x509"),
        ("/uvm/issuer", json!(MICROSOFT.replace("t9s::", "t9t::")), "did:x509"),
        ("/uvm/issuer", json!(MICROSOFT.replace("t9s::", "t9s=::")), "did:x509"),
        ("/uvm/issuer", json!(format!("{MICROSOFT}.")), "did:x509"),
        ("/uvm/issuer", json!(format!("{MICROSOFT}::eku:1.2.3")), "did:x509"),
        ("/minimum_tcb", json!([]), "at least one product"),
        ("/policy_required", json!(["cxl-allowed"]), "each entry once"),
    ] {
        let reason = malformed(|it| {
            it["workloads"][0] = container();
            *it["workloads"][0].pointer_mut(pointer).unwrap() = value.clone();
        });
        assert!(reason.contains(expected), "{pointer} = {value}: {reason}");
    }
    // A container twice, and one beside an image.
    let reason = malformed(|it| it["workloads"] = json!([container(), container()]));
    assert!(reason.contains("each entry once"), "{reason}");
    let mut both = statement();
    both["workloads"].as_array_mut().unwrap().push(container());
    verify(&signed(&both)).unwrap();
}

#[test]
fn unknown_and_repeated_members_are_refused() {
    for pointer in ["", "/identity", "/workloads/0", "/workloads/0/minimum_tcb/0/tcb"] {
        let reason = malformed(|it| it.pointer_mut(pointer).unwrap()["surprise"] = json!(1));
        assert!(reason.contains("unknown field `surprise`"), "{pointer}: {reason}");
    }
    let text = statement().to_string();
    for (what, changed) in [
        ("serial", text.replacen("\"serial\"", "\"serial\":9,\"serial\"", 1)),
        ("issuer", text.replacen("\"issuer\"", "\"issuer\":\"https://x\",\"issuer\"", 1)),
        ("measurement", {
            let twice = format!("\"measurement\":\"{}\",\"measurement\"", "cd".repeat(48));
            text.replacen("\"measurement\"", &twice, 1)
        }),
        ("profile", text.replacen("\"profile\"", "\"profile\":\"snp-direct\",\"profile\"", 1)),
    ] {
        let error = verify(&sign(changed.as_bytes(), &[1, 2])).unwrap_err().to_string();
        assert!(error.contains("duplicate field"), "{what}: {error}");
    }
}

#[test]
fn values_are_checked() {
    let cases: Vec<(&str, Value, &str)> = vec![
        ("/name", json!(""), "name"),
        ("/name", json!("a b"), "name"),
        ("/name", json!("x".repeat(65)), "name"),
        ("/serial", json!(0), "serial"),
        ("/serial", json!(-1), "invalid value"),
        ("/serial", json!("7"), "invalid type"),
        ("/issued", json!("2026-11-22"), "UTC time"),
        ("/url", json!("http://keyfold.example"), "https URL"),
        ("/url", json!("https://"), "https URL"),
        ("/url", json!("https://a@b"), "https URL"),
        ("/url", json!("https://a/?q"), "https URL"),
        ("/url", json!("https://a b"), "https URL"),
        ("/identity/issuer", json!("login.example"), "https URL"),
        ("/url", json!("https://a/`b"), "https URL"),
        ("/url", json!(format!("https://{}", "a".repeat(510))), "https URL"),
        ("/identity/client_id", json!(""), "printable ASCII"),
        ("/identity/client_id", json!("a`b"), "printable ASCII"),
        ("/identity/client_id", json!("<client id>"), "printable ASCII"),
        ("/identity/client_id", json!("a".repeat(513)), "printable ASCII"),
        ("/identity/audience", json!("a\nb"), "printable ASCII"),
        ("/identity/audience", json!("\u{202e}b"), "printable ASCII"),
        ("/config", json!("C0".repeat(32)), "lower-case hex"),
        ("/root", json!("10".repeat(31)), "lower-case hex"),
        ("/workloads", json!([]), "1 to 64"),
        ("/workloads/0/measurement", json!("ab".repeat(32)), "lower-case hex"),
        ("/workloads/0/minimum_tcb", json!([]), "at least one product"),
        ("/workloads/0/minimum_tcb/0/product", json!("Rome"), "unknown variant"),
        ("/workloads/0/minimum_tcb/0/product", json!("Turin"), "fmc"),
        ("/workloads/0/minimum_tcb/0/tcb/fmc", json!(1), "fmc"),
        ("/workloads/0/minimum_tcb/0/tcb/snp", json!(256), "invalid value"),
        ("/workloads/0/policy_required", json!(["debug"]), "unknown variant"),
        ("/workloads/0/policy_required", json!(["smt-allowed"]), "each entry once"),
        (
            "/workloads/0/platform_required",
            json!(["ecc-enabled", "ecc-enabled"]),
            "each entry once",
        ),
        ("/workloads/0/id_key_digest", json!("00"), "lower-case hex"),
        (
            "/workloads/0/id_key_digest",
            json!("00".repeat(48)),
            "id_key_digest: expected the digest",
        ),
        ("/workloads/0/author_key_digest", json!("00".repeat(48)), "found zeros"),
        ("/workloads/0/profile", json!("azure-cvm"), "unknown variant"),
        // The measurement is Microsoft's: a container is known by its policy, not by that.
        ("/workloads/0/profile", json!("aci"), "unknown field `measurement`"),
    ];
    for (pointer, value, expected) in cases {
        let (parent, member) = pointer.rsplit_once('/').unwrap();
        let reason = malformed(|it| it.pointer_mut(parent).unwrap()[member] = value.clone());
        assert!(reason.contains(expected), "{pointer} = {value}: {reason}");
    }
    for list in ["/workloads", "/workloads/0/minimum_tcb"] {
        let reason = malformed(|it| {
            let entries = it.pointer_mut(list).unwrap().as_array_mut().unwrap();
            entries.push(entries[0].clone());
        });
        assert!(reason.contains("each entry once"), "{list}: {reason}");
    }
}

#[cfg(not(feature = "development"))]
#[test]
fn simulated_workloads_and_plain_http_are_refused() {
    let reason = malformed(|it| it["workloads"][0] = common::simulated_workload("00"));
    assert!(reason.contains("`development`"), "{reason}");
    // Beside a real workload it spoils the statement just the same.
    let reason = malformed(|it| {
        it["workloads"].as_array_mut().unwrap().push(common::simulated_workload("00"));
    });
    assert!(reason.contains("protects nothing"), "{reason}");
    let reason = malformed(|it| it["url"] = json!("http://127.0.0.1:8080"));
    assert!(reason.contains("https URL"), "{reason}");
}

#[cfg(feature = "development")]
#[test]
fn development_builds_take_simulated_workloads_and_loopback_urls() {
    let mut development = statement();
    development["workloads"][0] = common::simulated_workload("00");
    for url in ["http://127.0.0.1:8080", "http://localhost/x", "http://127.0.0.1"] {
        development["url"] = json!(url);
        verify(&signed(&development)).unwrap();
    }
    for url in ["http://127.0.0.1.example", "http://keyfold.example", "http://localhost@evil"] {
        let reason = malformed(|it| it["url"] = json!(url));
        assert!(reason.contains("https URL"), "{reason}");
    }
    let reason = malformed(|it| {
        it["workloads"][0] = common::simulated_workload("00");
        it["workloads"][0]["policy_required"] = json!([]);
    });
    assert!(reason.contains("unknown field"), "{reason}");
}

#[test]
fn assembling_verifies() {
    let payload = serde_json::to_vec(&statement()).unwrap();
    let signatures: Vec<_> =
        [1, 2].iter().map(|seed| key(*seed).sign_statement(&payload).unwrap()).collect();
    let assembled = assemble_statement(&payload, signatures.clone(), &root()).unwrap();
    assert_eq!(assembled, sign(&payload, &[1, 2]));
    verify(&assembled).unwrap();
    assert!(assemble_statement(&payload, signatures[..1].to_vec(), &root()).is_err());
    assert!(assemble_statement(b"{}", signatures, &root()).is_err());
    assert!(key(1).sign_statement(b"{}").is_err());
}

/// Two holders, each on a machine of their own: the second adds to the first one's file.
#[test]
fn signatures_are_gathered_from_holder_to_holder() {
    let payload = serde_json::to_vec(&statement()).unwrap();
    let by = |seed: u8| vec![key(seed).sign_statement(&payload).unwrap()];
    let first = gather_statement(&payload, None, by(1), &root()).unwrap();
    assert_eq!((first.signatures, first.threshold, first.is_complete()), (1, 2, false));
    let error = verify(&first.file).unwrap_err();
    assert!(
        matches!(error, StatementError::Signature(SignatureError::BelowThreshold { .. })),
        "{error}"
    );

    // A key that the root does not list is kept, and does not count.
    let third = gather_statement(&payload, Some(&first.file), by(9), &root()).unwrap();
    assert_eq!(third.signatures, 1);
    let second = gather_statement(&payload, Some(&third.file), by(2), &root()).unwrap();
    assert!(second.is_complete());
    assert_eq!(verify(&second.file).unwrap().statement().serial(), 7);
    let (read, signers) = read_without_checking_signatures(&second.file).unwrap();
    assert_eq!(read.serial(), 7);
    assert_eq!(signers, [1, 9, 2].map(|seed| key(seed).public_key()));
}

#[test]
fn what_the_others_signed_must_be_what_this_holder_saw() {
    let payload = serde_json::to_vec(&statement()).unwrap();
    let by = |seed: u8, payload: &[u8]| vec![key(seed).sign_statement(payload).unwrap()];
    let first = gather_statement(&payload, None, by(1, &payload), &root()).unwrap();
    let mut other = statement();
    other["url"] = json!("https://elsewhere.example");
    let other = serde_json::to_vec(&other).unwrap();
    let error = gather_statement(&other, Some(&first.file), by(2, &other), &root()).unwrap_err();
    assert!(matches!(error, GatherError::OtherStatement { .. }), "{error}");

    // The same holder twice, and a signature over something else.
    let error = gather_statement(&payload, Some(&first.file), by(1, &payload), &root());
    assert!(error.unwrap_err().to_string().contains("each key once"));
    let error = gather_statement(&payload, None, by(1, &other), &root()).unwrap_err();
    assert!(error.to_string().contains("over other bytes"), "{error}");
    assert!(gather_statement(b"{}", None, vec![], &root()).is_err());
}
