//! The ledger: compare-and-set, nonce-stamped reads, receipts, a change of identity, and what a restart keeps.

mod common;

use common::{client, config, fresh_dir, get, json, post, start};
use keyfold_dev_cloud::{Config, DevCloud, Endpoints, Failure, Mode, Service};
use serde_json::{Value, json};
use std::time::Duration;

fn hex32(byte: u8) -> String {
    hex::encode([byte; 32])
}

async fn append(url: &str, tag: u8, version: u64, digest: u8, status: u16) -> Value {
    let body = json!({"tag": hex32(tag), "version": version, "digest": hex32(digest)});
    json(post(format!("{url}/app/append"), &body).await, status).await
}

async fn read(url: &str, tag: u8, nonce: u8) -> Value {
    let body = json!({"tag": hex32(tag), "nonce": hex32(nonce)});
    json(post(format!("{url}/app/read"), &body).await, 200).await
}

async fn current(url: &str, tag: u8) -> Value {
    json(get(format!("{url}/app/current?tag={}", hex32(tag))).await, 200).await
}

async fn receipt_status(url: &str, transaction: &str) -> u16 {
    get(format!("{url}/app/receipt?transaction_id={transaction}")).await.status().as_u16()
}

#[tokio::test]
async fn an_append_names_the_next_version_and_nothing_else() {
    let cloud = start("ledger-cas").await;
    let url = cloud.endpoints().ledger.url;
    let absent = json!({"version": 0, "digest": null, "transactionId": null});
    assert_eq!(current(&url, 1).await, absent);

    let refused = append(&url, 1, 2, 9, 409).await;
    assert_eq!(refused["error"]["code"], "VersionConflict");
    assert_eq!((&refused["version"], &refused["digest"]), (&json!(0), &json!(null)));

    let first = append(&url, 1, 1, 5, 200).await;
    assert_eq!((&first["version"], &first["digest"]), (&json!(1), &json!(hex32(5))));
    assert_eq!(current(&url, 1).await, first, "current tells the same");
    let other = append(&url, 2, 1, 5, 200).await;
    assert_ne!(other["transactionId"], first["transactionId"]);

    // The same again is the same answer; another digest, an old or a skipped version is none.
    assert_eq!(append(&url, 1, 1, 5, 200).await, first);
    for (version, digest) in [(1, 6), (3, 5)] {
        let refused = append(&url, 1, version, digest, 409).await;
        assert_eq!((&refused["version"], &refused["digest"]), (&json!(1), &json!(hex32(5))));
    }
    let second = append(&url, 1, 2, 7, 200).await;
    assert_eq!(append(&url, 1, 1, 5, 409).await["version"], 2);
    assert_eq!(current(&url, 1).await, second);
    cloud.stop().await;
}

#[tokio::test]
async fn of_many_who_race_one_wins_and_the_rest_learn_it() {
    let cloud = start("ledger-race").await;
    let url = cloud.endpoints().ledger.url;
    for version in 1..=5 {
        let tasks: Vec<_> = (0..20u8)
            .map(|digest| {
                let (url, http) = (url.clone(), client());
                tokio::spawn(async move {
                    let body =
                        json!({"tag": hex32(1), "version": version, "digest": hex32(digest)});
                    let answer = http.post(format!("{url}/app/append")).json(&body).send().await;
                    answer.unwrap().status().as_u16()
                })
            })
            .collect();
        let mut won = 0;
        for task in tasks {
            match task.await.unwrap() {
                200 => won += 1,
                status => assert_eq!(status, 409),
            }
        }
        assert_eq!(won, 1, "version {version}");
    }
    cloud.stop().await;
}

#[tokio::test]
async fn a_read_is_stamped_with_the_nonce_even_of_an_unknown_tag() {
    let cloud = start("ledger-read").await;
    let url = cloud.endpoints().ledger.url;
    let unknown = read(&url, 1, 3).await;
    assert_eq!((&unknown["version"], &unknown["digest"]), (&json!(0), &json!(hex32(0))));
    append(&url, 1, 1, 8, 200).await;
    let known = read(&url, 1, 4).await;
    assert_eq!((&known["version"], &known["digest"]), (&json!(1), &json!(hex32(8))));
    assert_ne!(known["transactionId"], read(&url, 1, 4).await["transactionId"], "each read writes");

    let zero = [0; 32];
    for (answer, claims) in [
        (&unknown, common::claims(2, &[1; 32], 0, &zero, &[3; 32])),
        (&known, common::claims(2, &[1; 32], 1, &[8; 32], &[4; 32])),
    ] {
        let transaction = answer["transactionId"].as_str().unwrap();
        let receipt = common::receipt(&client(), &url, transaction).await;
        assert!(receipt.windows(32).any(|window| window == claims), "the receipt claims the read");
        let evidence = format!("ce:{transaction}:");
        assert!(receipt.windows(evidence.len()).any(|window| window == evidence.as_bytes()));
    }
    cloud.stop().await;
}

#[tokio::test]
async fn malformed_requests_are_refused_in_ccfs_shape() {
    let cloud = start("ledger-malformed").await;
    let url = cloud.endpoints().ledger.url;
    let (tag, digest) = (hex32(0xab), hex32(1));
    for (path, body) in [
        ("append", json!({"tag": tag, "version": 0, "digest": digest})),
        ("append", json!({"tag": tag, "version": 9_007_199_254_740_992u64, "digest": digest})),
        ("append", json!({"tag": tag, "version": -1, "digest": digest})),
        ("append", json!({"tag": tag, "version": "1", "digest": digest})),
        ("append", json!({"tag": tag, "version": 1})),
        ("append", json!({"tag": tag, "version": 1, "digest": digest, "more": 1})),
        ("append", json!({"tag": tag.to_uppercase(), "version": 1, "digest": digest})),
        ("append", json!({"tag": tag[2..], "version": 1, "digest": digest})),
        ("append", json!({"tag": tag, "version": 1, "digest": format!("{digest}00")})),
        ("read", json!({"tag": tag})),
        ("read", json!({"tag": tag, "nonce": "x"})),
    ] {
        let answer = json(post(format!("{url}/app/{path}"), &body).await, 400).await;
        assert_eq!(answer["error"]["code"], "InvalidInput", "{body}");
        assert!(answer["error"]["message"].is_string());
    }
    let more = format!("current?tag={tag}&more=1");
    for query in [
        "current",
        "current?tag=ab",
        more.as_str(),
        "receipt",
        "receipt?transaction_id=x",
        "receipt?transaction_id=2.01",
        "receipt?transaction_id=2.1&more=1",
    ] {
        json(get(format!("{url}/app/{query}")).await, 400).await;
    }
    assert_eq!(current(&url, 0xab).await["version"], 0, "nothing was written");
    cloud.stop().await;
}

#[tokio::test]
async fn a_receipt_waits_for_its_signature() {
    let slow = Config {
        receipt_latency: Duration::from_millis(700),
        ..config(fresh_dir("ledger-receipt"))
    };
    let cloud = DevCloud::start(slow).await.unwrap();
    let url = cloud.endpoints().ledger.url;
    let answer = append(&url, 1, 1, 1, 200).await;
    let transaction = answer["transactionId"].as_str().unwrap();
    assert_eq!(transaction, "2.2", "2.1 opened the service");
    let early = get(format!("{url}/app/receipt?transaction_id={transaction}")).await;
    assert_eq!(early.status(), 202);
    assert!(early.headers().contains_key("retry-after"));
    common::receipt(&client(), &url, transaction).await;

    // The service's own transactions, another view, and what is not there.
    for none in ["2.1", "2.3", "3.2", "2.0", "2.4", "2.999"] {
        assert_eq!(receipt_status(&url, none).await, 404, "{none}");
    }
    cloud.stop().await;
}

#[tokio::test]
async fn a_restart_keeps_state_keys_ports_and_receipts() {
    let dir = fresh_dir("ledger-restart");
    let cloud = DevCloud::start(config(dir.clone())).await.unwrap();
    let before = cloud.endpoints();
    let url = &before.ledger.url;
    let appended = append(url, 1, 1, 1, 200).await;
    let transaction = appended["transactionId"].as_str().unwrap().to_owned();
    let receipt = common::receipt(&client(), url, &transaction).await;
    cloud.stop().await;

    for _ in 0..2 {
        let cloud = DevCloud::start(config(dir.clone())).await.unwrap();
        assert_eq!(Endpoints::load(&dir).unwrap(), cloud.endpoints());
        assert_eq!(cloud.endpoints(), before);
        assert_eq!(current(url, 1).await, appended);
        assert_eq!(append(url, 1, 1, 1, 200).await, appended, "still the original transaction");
        assert_eq!(common::receipt(&client(), url, &transaction).await, receipt);
        cloud.stop().await;
    }
}

#[tokio::test]
async fn one_directory_serves_one_dev_cloud() {
    let dir = fresh_dir("ledger-lock");
    let cloud = DevCloud::start(config(dir.clone())).await.unwrap();
    let refusal = DevCloud::start(config(dir.clone())).await.err().unwrap().to_string();
    assert!(refusal.contains("another dev cloud runs in"), "{refusal}");
    drop(cloud);
    DevCloud::start(config(dir)).await.expect("a dropped one frees everything").stop().await;
}

#[tokio::test]
async fn a_changed_ledger_file_or_a_missing_key_is_refused() {
    let dir = fresh_dir("ledger-changed");
    let cloud = DevCloud::start(config(dir.clone())).await.unwrap();
    let url = cloud.endpoints().ledger.url;
    let answer = append(&url, 1, 1, 1, 200).await;
    common::receipt(&client(), &url, answer["transactionId"].as_str().unwrap()).await;
    cloud.stop().await;

    let secret = dir.join("ledger/evidence.key");
    let kept = std::fs::read(&secret).unwrap();
    std::fs::write(&secret, [7; 32]).unwrap();
    let refusal = format!("{:#}", DevCloud::start(config(dir.clone())).await.err().unwrap());
    assert!(refusal.contains("is not the ledger's"), "{refusal}");
    std::fs::write(&secret, kept).unwrap();

    let key = std::fs::read_dir(dir.join("ledger"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .find(|path| path.to_string_lossy().contains("service-"))
        .unwrap();
    std::fs::rename(&key, key.with_extension("away")).unwrap();
    let refusal = format!("{:#}", DevCloud::start(config(dir.clone())).await.err().unwrap());
    assert!(refusal.contains("is missing"), "{refusal}");
    std::fs::rename(key.with_extension("away"), &key).unwrap();
    DevCloud::start(config(dir)).await.unwrap().stop().await;
}

#[tokio::test]
async fn a_new_identity_keeps_the_state_and_signs_with_another_key() {
    let dir = fresh_dir("ledger-identity");
    let cloud = DevCloud::start(config(dir.clone())).await.unwrap();
    let before = cloud.endpoints();
    let url = &before.ledger.url;
    let network = json(get(format!("{url}/node/network")).await, 200).await;
    assert_eq!(network["service_status"], "Open");
    assert_eq!(network["current_view"], 2);
    let point = |network: &Value| {
        let pem = network["service_certificate"].as_str().unwrap();
        hex::encode(common::certificate_key(&common::pem_der(pem)))
    };
    assert_eq!(point(&network), before.ledger.service_key_hex);
    assert_eq!(before.ledger.service_key_hex.len(), 194);
    let spki = common::pem_der(&before.ledger.service_key_pem);
    assert_eq!(hex::encode(&spki[spki.len() - 97..]), before.ledger.service_key_hex);

    let appended = append(url, 1, 1, 1, 200).await;
    let transaction = appended["transactionId"].as_str().unwrap().to_owned();
    let old_receipt = common::receipt(&client(), url, &transaction).await;
    cloud.fail(Failure::new(Service::Ledger, Mode::Identity, 1)).await.unwrap();

    let after = cloud.endpoints();
    assert_ne!(after.ledger.service_key_hex, before.ledger.service_key_hex);
    assert_eq!(Endpoints::load(&dir).unwrap(), after, "the file says the new key");
    let network = json(get(format!("{url}/node/network")).await, 200).await;
    assert_eq!((&network["current_view"], &network["recovery_count"]), (&json!(4), &json!(1)));
    assert_eq!(point(&network), after.ledger.service_key_hex);
    assert_eq!(current(url, 1).await, appended, "the state stays");
    assert_eq!(common::receipt(&client(), url, &transaction).await, old_receipt);

    let next = append(url, 1, 2, 2, 200).await;
    let next = next["transactionId"].as_str().unwrap().to_owned();
    assert!(next.starts_with("4."));
    let receipt = common::receipt(&client(), url, &next).await;
    let kid = |key: &str| hex::encode(common::sha256(&common::pem_der(key))).into_bytes();
    let names = |receipt: &[u8], key: &str| receipt.windows(64).any(|window| window == kid(key));
    assert!(names(&receipt, &after.ledger.service_key_pem));
    assert!(names(&old_receipt, &before.ledger.service_key_pem));
    cloud.stop().await;

    let cloud = DevCloud::start(config(dir)).await.unwrap();
    assert_eq!(cloud.endpoints(), after, "also after a restart");
    assert_eq!(common::receipt(&client(), url, &next).await, receipt);
    cloud.stop().await;
}
