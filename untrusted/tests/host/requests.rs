//! One host, one link: every class of request, every refusal a client can meet, and the other routes.

use crate::support::{Answer, Kind, ONLY_IF_EMPTY, World, channel_key};
use keyfold_dev_cloud::{ForgedSignature, SignIn};
use keyfold_protocol::client::Class;
use keyfold_protocol::host::HostRefusal;
use keyfold_protocol::ids::SlotId;
use std::sync::atomic::Ordering;
use std::time::Duration;

const SLOT: SlotId = SlotId([9; 32]);

#[tokio::test]
async fn every_class_gets_what_it_needs_and_keeps_what_it_makes() {
    let world = World::new().await;
    let host = world.host().await;
    let mut ada = world.person(&host, "ada").await;

    assert_eq!(ada.ask(Class::Enroll).await, "SEALED guard 1");
    assert_eq!(ada.ask(Class::Guard).await, "SEALED guard 2");
    assert_eq!(ada.ask(Class::GuardFresh).await, "SEALED guard 3");
    let nothing = "events 0 records 0 audit 0 fresh false";
    assert_eq!(
        ada.ask(Class::Put(None)).await,
        format!("SEALED guard 3 vault 0 record 0 {nothing}")
    );
    assert_eq!(
        ada.ask(Class::Put(Some(SLOT))).await,
        format!("SEALED guard 3 vault 1 record 1 {nothing}")
    );
    assert_eq!(
        ada.ask(Class::Assert(SLOT)).await,
        format!("SEALED guard 3 vault 0 record 2 {nothing}")
    );
    assert_eq!(
        ada.ask(Class::Sync(0)).await,
        "SEALED guard 3 vault 2 record 0 events 2 records 1 audit 0 fresh false"
    );
    assert_eq!(
        ada.ask(Class::Sync(1)).await,
        "SEALED guard 3 vault 2 record 0 events 1 records 1 audit 0 fresh false"
    );
    assert_eq!(
        ada.ask(Class::Status).await,
        "SEALED guard 3 vault 2 record 0 events 0 records 0 audit 0 fresh true"
    );
    assert_eq!(
        ada.ask(Class::Audit(1)).await,
        "SEALED guard 3 vault 0 record 0 events 0 records 0 audit 2 fresh true"
    );
    host.stop().await;

    let host = world.host().await;
    let mut ada = world.person(&host, "ada").await;
    assert!(ada.ask(Class::Sync(0)).await.contains("events 2"), "durable");
}

#[tokio::test]
async fn always_fresh_reads_the_ledger_for_signing_in_too() {
    let world = World::new().await;
    let config = world.config(&[("DEPLOYMENT__FRESH_READ", "always")]);
    let host = world.host_with(config, None).await;
    let mut ada = world.person(&host, "ada").await;
    ada.ask(Class::Enroll).await;
    assert!(ada.ask(Class::Assert(SLOT)).await.contains("fresh true"));
}

#[tokio::test]
async fn refusals_have_names() {
    let world = World::new().await;
    let host = world.host().await;
    let mut ada = world.person(&host, "ada").await;
    let bob = world.person(&host, "bob").await;

    let answer = ada.request(Class::Status).await;
    assert_eq!((answer.status, answer.problem().as_str()), (404, "account-unknown"));
    ada.ask(Class::Enroll).await;
    let answer = ada.request(Class::Enroll).await;
    assert_eq!((answer.status, answer.problem().as_str()), (409, "guard-moved"));

    // Bob's token with Ada's envelope, and Ada's session with Bob's.
    let body = ada.envelope(Class::Status);
    let request = ada.post(body).bearer_auth(&bob.token);
    let mut headers = reqwest::header::HeaderMap::new();
    headers.insert("authorization", format!("Bearer {}", bob.token).parse().unwrap());
    let answer = Answer::of(request.headers(headers).send().await.unwrap()).await;
    assert_eq!((answer.status, answer.problem().as_str()), (403, "account-mismatch"));
    let mut thief = world.person(&host, "bob").await;
    thief.session = ada.session.clone();
    let answer = thief.request(Class::Status).await;
    assert_eq!((answer.status, answer.problem().as_str()), (409, "session-unknown"));

    let answer = ada.try_session(&channel_key(77)).await;
    assert_eq!((answer.status, answer.problem().as_str()), (409, "channel-key-unknown"));

    for (refusal, status, name) in [
        (HostRefusal::UnknownSession, 409, "session-unknown"),
        (HostRefusal::Frame, 400, "frame-refused"),
        (HostRefusal::State, 500, "stored-state-refused"),
        (HostRefusal::Malformed, 500, "internal"),
    ] {
        ada.open_session().await;
        *world.pretender.refuse.lock().unwrap() = Some((Kind::Handle, refusal));
        let answer = ada.request(Class::Status).await;
        assert_eq!((answer.status, answer.problem().as_str()), (status, name));
    }
    for (body, status, name) in [
        (vec![], 400, "malformed"),
        (vec![0; 100], 400, "malformed"),
        (vec![0; 5000], 413, "too-large"),
        (ada.envelope_of(Class::Status, &[0; 4097]), 413, "too-large"),
        ([ada.envelope(Class::Status), vec![0]].concat(), 400, "malformed"),
    ] {
        let answer = Answer::of(ada.post(body).send().await.unwrap()).await;
        assert_eq!((answer.status, answer.problem().as_str()), (status, name));
    }
    let base = &ada.base;
    for (request, status, name) in [
        (world.http.get(format!("{base}/nowhere")), 404, "not-found"),
        (world.http.get(format!("{base}/v1/sessions")), 405, "method-not-allowed"),
        (world.http.post(format!("{base}/v1/sessions/zz/requests")), 401, "sign-in-required"),
        (
            world.http.post(format!("{base}/v1/sessions/zz/requests")).bearer_auth(&ada.token),
            400,
            "malformed",
        ),
        (world.http.post(format!("{base}/v1/sessions")).bearer_auth(&ada.token), 400, "malformed"),
    ] {
        let answer = Answer::of(request.send().await.unwrap()).await;
        assert_eq!((answer.status, answer.problem().as_str()), (status, name));
    }
}

#[tokio::test]
async fn tokens_that_do_not_count() {
    let world = World::new().await;
    let host = world.host().await;
    let url = format!("http://{}/v1/pairings/{}/offer", host.public_address(), "0".repeat(32));
    let name = |username: &str| SignIn { username: username.into(), ..SignIn::default() };
    let good = world.token("ada");
    let part = |token: &str, n: usize| token.split('.').nth(n).unwrap().to_owned();
    let other = world.token("eve");
    for (what, token) in [
        (
            "another audience",
            world.token_with(SignIn { audience: Some("x".into()), ..name("ada") }),
        ),
        (
            "another issuer",
            world.token_with(SignIn { issuer: Some("https://x".into()), ..name("ada") }),
        ),
        ("expired", world.token_with(SignIn { expires_in: Some(-120), ..name("ada") })),
        (
            "foreign key",
            world.token_with(SignIn { signature: Some(ForgedSignature::Foreign), ..name("ada") }),
        ),
        (
            "alg none",
            world.token_with(SignIn { signature: Some(ForgedSignature::None), ..name("ada") }),
        ),
        ("another's claims", [part(&good, 0), part(&other, 1), part(&good, 2)].join(".")),
        ("no JWT", "abc".into()),
        ("too large", "a".repeat(9000)),
    ] {
        let answer =
            Answer::of(world.http.get(&url).bearer_auth(token).send().await.unwrap()).await;
        assert_eq!((answer.status, answer.problem().as_str()), (401, "sign-in-required"), "{what}");
        assert_eq!(answer.headers["www-authenticate"], "Bearer", "{what}");
    }
    let basic = world.http.get(&url).basic_auth("ada", Some("x")).send().await.unwrap();
    assert_eq!(Answer::of(basic).await.status, 401);
    let answer = Answer::of(world.http.get(&url).bearer_auth(&good).send().await.unwrap()).await;
    assert_eq!(
        (answer.status, answer.problem().as_str()),
        (404, "pairing-empty"),
        "the good one counts"
    );
    // A pinned algorithm is the only one.
    let config =
        world.config(&[("IDENTITY__ALGORITHMS", r#"["ES256"]"#), ("STORAGE__PATH", ":memory:")]);
    let config = keyfold_host::Config {
        storage: keyfold_host::config::Storage {
            path: world.dir.path().join("b.db"),
            cache_mib: 1,
        },
        ..config
    };
    let strict = world.host_with(config, None).await;
    let url = url.replace(&host.public_address().to_string(), &strict.public_address().to_string());
    let answer = Answer::of(world.http.get(&url).bearer_auth(&good).send().await.unwrap()).await;
    assert_eq!(answer.status, 401);
}

#[tokio::test]
async fn an_issuers_new_key_is_learnt_and_its_absence_is_survived() {
    use keyfold_dev_cloud::{Failure, Mode, Service};
    let world = World::new().await;
    let host = world.host().await;
    let url = format!("http://{}/v1/pairings/{}/offer", host.public_address(), "0".repeat(32));
    let ask = async |token: String| {
        Answer::of(world.http.get(&url).bearer_auth(token).send().await.unwrap()).await
    };
    world
        .cloud
        .fail(Failure { times: None, ..Failure::new(Service::Oidc, Mode::Down, 1) })
        .await
        .unwrap();
    let answer = ask(world.token("ada")).await;
    assert_eq!((answer.status, answer.problem().as_str()), (503, "issuer-unreachable"));
    assert!(answer.headers.contains_key("retry-after"));
    world.cloud.heal();
    assert_eq!(ask(world.token("ada")).await.status, 503, "asked too short ago");
    tokio::time::sleep(keyfold_host::identity::REFRESH_PAUSE).await;
    assert_eq!(ask(world.token("ada")).await.status, 404);
    world.cloud.rotate(Service::Oidc).unwrap();
    assert_eq!(ask(world.token("bob")).await.status, 401, "unknown key, asked too short ago");
    assert_eq!(ask(world.token("ada")).await.status, 401);
    tokio::time::sleep(keyfold_host::identity::REFRESH_PAUSE).await;
    assert_eq!(ask(world.token("bob")).await.status, 404, "learnt");
}

#[tokio::test]
async fn fresh_sign_ins_and_rates() {
    let world = World::new().await;
    let config = world.config(&[("LIMITS__FRESH_OPERATIONS_PER_HOUR", "2")]);
    let host = world.host_with(config, None).await;
    let mut ada = world.person(&host, "ada").await;
    let fresh = ada.token.clone();
    ada.token = world.token_with(SignIn {
        username: "ada".into(),
        auth_age: Some(400),
        ..SignIn::default()
    });
    for class in [Class::Enroll, Class::GuardFresh, Class::Recover] {
        let answer = ada.request(class).await;
        assert_eq!((answer.status, answer.problem().as_str()), (401, "fresh-sign-in-required"));
        let challenge = answer.headers["www-authenticate"].to_str().unwrap();
        assert_eq!(challenge, r#"Bearer error="insufficient_user_authentication", max_age=300"#);
    }
    ada.token = fresh;
    ada.ask(Class::Enroll).await;
    ada.ask(Class::GuardFresh).await;
    let answer = ada.request(Class::GuardFresh).await;
    assert_eq!((answer.status, answer.problem().as_str()), (429, "rate-limited"));
    let wait: u64 = answer.headers["retry-after"].to_str().unwrap().parse().unwrap();
    assert!((1700..=1801).contains(&wait), "{wait}");
    ada.ask(Class::Guard).await;
}

/// A device's thief who changes something all the time is slowed down, and neither uses up nor
/// delays what strikes the device off.
#[tokio::test]
async fn changes_by_one_device_do_not_keep_others_from_revoking_it() {
    let world = World::new().await;
    let limits = [("LIMITS__CHANGES_PER_MINUTE", "3"), ("LIMITS__FRESH_OPERATIONS_PER_HOUR", "2")];
    let host = world.host_with(world.config(&limits), None).await;
    let mut ada = world.person(&host, "ada").await;
    ada.ask(Class::Enroll).await;
    for class in [Class::Put(None), Class::Guard, Class::Put(None)] {
        ada.ask(class).await;
    }
    for class in [Class::Put(None), Class::Guard] {
        let answer = ada.request(class).await;
        assert_eq!((answer.status, answer.problem().as_str()), (429, "rate-limited"));
        let wait: u64 = answer.headers["retry-after"].to_str().unwrap().parse().unwrap();
        assert!(wait <= 21, "{wait}");
    }
    // What the core declines is not counted.
    world.pretender.decline.store(5, Ordering::SeqCst);
    for _ in 0..5 {
        assert_eq!(ada.ask(Class::GuardFresh).await, "SEALED no");
    }
    assert_eq!(ada.ask(Class::GuardFresh).await, "SEALED guard 3");
    assert_eq!(ada.request(Class::GuardFresh).await.problem(), "rate-limited");
    assert!(ada.ask(Class::Sync(0)).await.starts_with("SEALED"), "reading goes on");
}

#[tokio::test]
async fn one_account_cannot_fill_the_session_table() {
    let world = World::new().await;
    let config = world.config(&[("LIMITS__SESSIONS_PER_MINUTE", "3")]);
    let host = world.host_with(config, None).await;
    let mut ada = world.person(&host, "ada").await;
    ada.open_session().await;
    ada.open_session().await;
    let answer = ada.try_session(&channel_key(0)).await;
    assert_eq!((answer.status, answer.problem().as_str()), (429, "rate-limited"));
    world.person(&host, "bob").await;
}

#[tokio::test]
async fn an_account_opens_at_its_first_generation() {
    let world = World::new().await;
    let host = world.host().await;
    let mut ada = world.person(&host, "ada").await;
    ada.ask(Class::Enroll).await;
    ada.account.generation = 2;
    let answer = ada.request(Class::Enroll).await;
    assert_eq!((answer.status, answer.problem().as_str()), (400, "malformed"));
}

#[tokio::test]
async fn a_put_that_may_not_replace_does_not() {
    let world = World::new().await;
    let host = world.host().await;
    let mut ada = world.person(&host, "ada").await;
    ada.ask(Class::Enroll).await;
    ada.ask(Class::Put(None)).await;
    ada.ask(Class::Put(Some(ONLY_IF_EMPTY))).await;
    let answer = ada.request(Class::Put(Some(ONLY_IF_EMPTY))).await;
    assert_eq!((answer.status, answer.problem().as_str()), (409, "passkey-exists"));
    assert!(ada.ask(Class::Put(None)).await.contains("vault 2"), "nothing was written");
}

#[tokio::test]
async fn deployment_openapi_and_the_admin_side() {
    let world = World::new().await;
    let host = world.host().await;
    let base = format!("http://{}", host.public_address());
    let get = async |url: String| Answer::of(world.http.get(url).send().await.unwrap()).await;

    let document = get(format!("{base}/v1/deployment")).await.json();
    assert_eq!(document["statement"], "{\"the\":\"statement\"}");
    let enclave = &document["enclaves"][0];
    assert_eq!(enclave["vcek_chain"], "PEM");
    assert_eq!(enclave["claims"], "eyJyb2xlIjoiY2hhbm5lbCIsInJlcG9ydCI6MH0");
    assert_eq!(enclave["channel_key"].as_str().unwrap().len(), (1216 * 4usize).div_ceil(3));
    assert_eq!(enclave["report"].as_str().unwrap().len(), (1184 * 4usize).div_ceil(3));
    let openapi = get(format!("{base}/openapi.json")).await;
    assert_eq!(openapi.json()["openapi"], "3.1.0");
    assert!(openapi.headers.contains_key("x-request-id"));

    let admin = format!("http://{}", host.admin_address());
    assert_eq!(get(format!("{admin}/healthz")).await.status, 200);
    let ready = get(format!("{admin}/readyz")).await;
    assert_eq!(
        (ready.status, &ready.json()["enclaves"][0]["config"]),
        (200, &"01".repeat(32).into())
    );
    let metrics = get(format!("{admin}/metrics")).await;
    assert!(
        metrics
            .text()
            .contains(r#"keyfold_http_responses_total{route="/v1/deployment",status="200"} 1"#)
    );
    assert!(metrics.text().contains("keyfold_enclave_ready 1"));
    assert_eq!(get(format!("{base}/metrics")).await.status, 404, "not for the public");

    std::fs::remove_file(world.dir.path().join("statement.json")).unwrap();
    assert_eq!(get(format!("{admin}/readyz")).await.status, 503);
    tokio::time::sleep(Duration::from_millis(2100)).await;
    let missing = get(format!("{base}/v1/deployment")).await;
    assert_eq!((missing.status, missing.problem().as_str()), (503, "statement-missing"));
}

#[tokio::test]
async fn pairings_are_for_one_person() {
    let world = World::new().await;
    let host = world.host().await;
    let (ada, bob) = (world.token("ada"), world.token("bob"));
    let url = format!("http://{}/v1/pairings/{}/offer", host.public_address(), "ab".repeat(16));
    let send = async |request: reqwest::RequestBuilder, token: &str| {
        Answer::of(request.bearer_auth(token).send().await.unwrap()).await
    };
    let waiting = {
        let request = world.http.get(format!("{url}?wait=20")).bearer_auth(&ada);
        tokio::spawn(async move { Answer::of(request.send().await.unwrap()).await })
    };
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(send(world.http.put(&url).body("from bob"), &bob).await.status, 204);
    assert_eq!(send(world.http.put(&url).body("from ada"), &ada).await.status, 204);
    assert_eq!(send(world.http.put(&url).body("from ada"), &ada).await.status, 204, "repeated");
    assert_eq!(send(world.http.put(&url).body("other"), &ada).await.problem(), "pairing-taken");
    assert_eq!(waiting.await.unwrap().text(), "from ada");
    assert_eq!(send(world.http.get(&url), &bob).await.text(), "from bob");
    let large =
        send(world.http.put(url.replace("offer", "answer")).body(vec![0; 4097]), &ada).await;
    assert_eq!(large.problem(), "too-large");
    assert_eq!(
        send(world.http.get(url.replace("offer", "third")), &ada).await.problem(),
        "not-found"
    );
    assert_eq!(send(world.http.get(url.replace("ab", "zz")), &ada).await.problem(), "malformed");
}

#[tokio::test]
async fn events_tell_of_changes_also_of_other_hosts() {
    let world = World::new().await;
    let host = world.host().await;
    let other = world.host().await;
    let url = format!("http://{}/v1/events", host.public_address());
    let mut ada = world.person(&other, "ada").await;
    let mut stream = world.http.get(&url).bearer_auth(&ada.token).send().await.unwrap();
    assert_eq!(stream.headers()["content-type"], "text/event-stream");
    let mut next = async || {
        let mut text = String::new();
        while !text.contains("\n\n") || text.starts_with(':') {
            let chunk = tokio::time::timeout(crate::support::PATIENCE, stream.chunk());
            text += std::str::from_utf8(&chunk.await.unwrap().unwrap().unwrap()).unwrap();
        }
        text
    };
    assert_eq!(next().await, "event: account-changed\ndata: {\"guard\":0,\"vault\":0}\n\n");
    ada.ask(Class::Enroll).await;
    assert_eq!(next().await, "event: account-changed\ndata: {\"guard\":1,\"vault\":0}\n\n");
    ada.ask(Class::Put(None)).await;
    assert_eq!(next().await, "event: account-changed\ndata: {\"guard\":1,\"vault\":1}\n\n");
    host.stop().await;
    assert!(stream.chunk().await.unwrap().is_none(), "a stream ends when its host stops");
}
