//! Each kind of wrong host, asked by a person with something to lose: the client refuses by the right
//! reason, and all that the host ever received is the one question for its evidence.

use serde_json::{Value, json};

use super::*;
use crate::pin::Pin;
use crate::testing::{Enclave, World};

/// How the host is wrong, what is done to it, and what the refusal names.
type Kind = (&'static str, fn(&World), &'static str);

/// Serves other claims with a report over them that `change` has been at.
fn serve(world: &World, claims: Vec<u8>, change: impl FnOnce(&mut [u8])) {
    serve_report(world, &claims, Enclave::report_with(&claims, change));
}

fn serve_report(world: &World, claims: &[u8], report: Vec<u8>) {
    let encode = |bytes: &[u8]| Value::from(BASE64_URL_SAFE_NO_PAD.encode(bytes));
    let entry = &mut world.state().document["enclaves"][0];
    entry["claims"] = encode(claims);
    entry["report"] = encode(&report);
}

/// The right claims, with a report that `change` has been at.
fn report(world: &World, change: impl FnOnce(&mut [u8])) {
    let claims = world.state().enclave.claims();
    serve(world, claims, change);
}

/// The claims with a text in them changed, and a report over that.
fn claims(world: &World, from: &str, to: &str) {
    let claims = String::from_utf8(world.state().enclave.claims()).unwrap();
    assert!(claims.contains(from));
    serve(world, claims.replacen(from, to, 1).into_bytes(), |_| ());
}

fn workload(world: &World, change: impl FnOnce(&mut Value)) {
    world.serve_statement(|statement| change(&mut statement["workloads"][0]));
}

fn statements() -> Vec<Kind> {
    vec![
        (
            "stale: the statement has expired",
            |world| {
                world.serve_statement(|statement| {
                    statement["issued"] = "2020-01-01T00:00:00Z".into();
                    statement["expires"] = "2020-02-01T00:00:00Z".into();
                });
            },
            "ask the deployment for its newest statement",
        ),
        (
            "older: a statement before the one that was seen",
            |world| world.serve_statement(|statement| statement["serial"] = 6.into()),
            "serial: expected 7 or more, found 6",
        ),
        (
            "another: the serial that was seen, with other content",
            |world| world.serve_statement(|statement| statement["root"] = "23".repeat(32).into()),
            "serial 7: expected the statement seen before",
        ),
        (
            "forged: a signature that is none",
            |world| {
                let signed = world.state().document["statement"].as_str().unwrap().to_owned();
                let at = signed.find("\"sig\":\"").unwrap() + 10;
                let other = if &signed[at..=at] == "A" { "B" } else { "A" };
                let forged = format!("{}{other}{}", &signed[..at], &signed[at + 1..]);
                world.state().document["statement"] = forged.into();
            },
            "signatures: expected",
        ),
    ]
}

/// These need a statement of their own, with a higher serial.
fn demands() -> Vec<Kind> {
    vec![
        (
            "foreign: a chip of another root",
            |world| {
                workload(world, |it| it["ark_sha256"] = "99".repeat(32).into());
            },
            "chain.ARK sha256",
        ),
        (
            "downgraded: firmware below what the statement demands",
            |world| {
                workload(world, |it| {
                    it["minimum_tcb"] = json!([{
                        "product": "Milan",
                        "tcb": {"bootloader": 4, "tee": 0, "snp": 25, "microcode": 219},
                    }]);
                });
            },
            "report.reported_tcb minimum",
        ),
        (
            "unlisted: the statement lists another measurement",
            |world| workload(world, |it| it["measurement"] = "cd".repeat(48).into()),
            "report.measurement",
        ),
        (
            "elsewhere: the statement is of another address",
            |world| world.serve_statement(|statement| statement["url"] = "https://x.test".into()),
            "says it is https://x.test",
        ),
    ]
}

fn evidence() -> Vec<Kind> {
    vec![
        (
            "stale: an earlier boot's report beside this boot's claims",
            |world| {
                let earlier = Enclave::report(&Enclave::boot().claims());
                let claims = world.state().enclave.claims();
                serve_report(world, &claims, earlier);
            },
            "report.report_data",
        ),
        (
            "stale: an earlier boot's claims and report beside this boot's key",
            |world| serve(world, Enclave::boot().claims(), |_| ()),
            "claims.keyfold.channel_key",
        ),
        (
            "re-bound: a report over other data",
            |world| report(world, |report| report[0x50..0x90].fill(0)),
            "report.report_data",
        ),
        (
            "re-bound: more behind the claims' hash",
            |world| report(world, |report| report[0x8f] = 1),
            "report.report_data",
        ),
        (
            "debug: the host can read the guest's memory",
            |world| report(world, |report| report[0x0a] |= 0b1000),
            "report.policy.debug",
        ),
        (
            "migratable: the host can take the guest elsewhere",
            |world| report(world, |report| report[0x0a] |= 0b0100),
            "report.policy.migrate_ma",
        ),
        (
            "less privileged: the report is asked for by what runs above the code",
            |world| report(world, |report| report[0x30] = 1),
            "report.vmpl",
        ),
        (
            "downgraded: firmware other than the chip's certificate says",
            |world| report(world, |report| report[0x180 + 6] = 23),
            "report.reported_tcb",
        ),
        (
            "foreign: a report of another chip",
            |world| report(world, |report| report[0x1a0] ^= 1),
            "report.chip_id",
        ),
        (
            "forged: a report that the chip did not sign",
            |world| {
                let claims = world.state().enclave.claims();
                let mut report = Enclave::report(&claims);
                report[0x90] ^= 1;
                serve_report(world, &claims, report);
            },
            "report.signature",
        ),
        (
            "unlisted: other code on the same chip",
            |world| report(world, |report| report[0x90..0xc0].fill(0xcd)),
            "report.measurement",
        ),
        (
            "wrong role: evidence made for the release of the root key",
            |world| claims(world, "channel", "release"),
            "claims.keyfold.role",
        ),
        (
            "wrong root: an enclave with a root key that the host chose",
            |world| claims(world, "\"root\":\"22", "\"root\":\"23"),
            "claims.keyfold.root",
        ),
        (
            "wrong configuration: an enclave that believes another ledger",
            |world| claims(world, "\"config\":\"11", "\"config\":\"12"),
            "claims.keyfold.config",
        ),
        (
            "not readable: an endorsement that is no base64url",
            |world| world.state().document["enclaves"][0]["uvm_endorsement"] = "**".into(),
            "uvm_endorsement is not base64url",
        ),
    ]
}

/// A person who would send everything: opens an account, and asks for where theirs stands.
async fn refusals(world: &World, what: &str) -> [Error; 2] {
    let newcomer = world.client("a", "ana");
    let pin = Pin::new("593021").unwrap();
    let enrolling = newcomer.enroll(pin, "laptop").await.expect_err(what);
    let asking = world.client("a", "ana").connect().await.expect_err(what);
    [enrolling, asking]
}

async fn refused((what, change, named): Kind, seen: impl FnOnce(&World)) {
    let world = World::start().await;
    // It was right before, and this device has seen it.
    world.client("a", "ana").deployment().await.unwrap();
    seen(&world);
    change(&world);
    let [_] = world.received().as_slice() else { panic!("{what}: one question so far") };

    for error in refusals(&world, what).await {
        assert!(matches!(error, Error::Deployment(_)), "{what}: {error}");
        assert!(error.to_string().contains(named), "{what}: {error}");
    }
    let received = world.received();
    assert_eq!(received.len(), 2, "{what}: {received:?}");
    for request in received {
        assert_eq!(request.line, "GET /v1/deployment", "{what}");
        assert_eq!(request.body, b"", "{what}");
        let headers = request.headers;
        assert_eq!(headers, ["accept", "host", "user-agent"], "{what}: nothing of the person's");
    }
}

#[tokio::test]
async fn statements_of_every_wrong_kind_are_refused_before_anything_is_sent() {
    for kind in statements() {
        refused(kind, |_| ()).await;
    }
}

#[tokio::test]
async fn what_the_statement_demands_is_refused_before_anything_is_sent() {
    for kind in demands() {
        // What was seen has a lower serial than what is served now.
        refused(kind, |world| {
            let lower = world.client("a", "ana");
            let forget = |state: &mut crate::store::State| {
                state.deployment = None;
                Ok::<_, Error>(())
            };
            lower.store().update(forget).unwrap();
        })
        .await;
    }
}

#[tokio::test]
async fn evidence_of_every_wrong_kind_is_refused_before_anything_is_sent() {
    for kind in evidence() {
        refused(kind, |_| ()).await;
    }
}

/// The kinds are wrong by what was done to them: left alone, the same person gets through.
#[tokio::test]
async fn left_alone_the_same_host_is_believed() {
    let world = World::start().await;
    report(&world, |_| ());
    claims(&world, "channel", "channel");
    workload(&world, |_| ());
    world.client("a", "ana").connect().await.unwrap();
    let lines: Vec<String> = world.received().into_iter().map(|it| it.line).collect();
    assert_eq!(lines, ["GET /v1/deployment", "POST /v1/sessions"]);
}
