//! The failure switches: each does what it says, as often as told, and mends.

mod common;

use common::{client, get, json, post, start};
use keyfold_dev_cloud::{Config, DevCloud, Failure, Mode, Service};
use serde_json::{Value, json};
use std::time::{Duration, Instant};

/// A harmless request of each service, and its status when nothing is wrong.
fn probes(cloud: &DevCloud) -> [(&'static str, String, u16); 7] {
    let endpoints = cloud.endpoints();
    [
        ("oidc", format!("{}/jwks", endpoints.oidc.issuer), 200),
        ("imds", format!("{}/metadata/THIM/amd/certification", endpoints.imds.url), 400),
        ("kds", format!("{}/vcek/v1/Milan/cert_chain", endpoints.kds.url), 200),
        ("aad", format!("{}/tenant/oauth2/v2.0/token", endpoints.aad.url), 405),
        ("maa", format!("{}/certs", endpoints.maa.url), 200),
        ("hsm", format!("{}/keys/root?api-version=7.4", endpoints.hsm.url), 401),
        ("ledger", format!("{}/node/network", endpoints.ledger.url), 200),
    ]
}

async fn switch(cloud: &DevCloud, body: &Value) -> Value {
    json(post(format!("{}/dev/fail", cloud.endpoints().control.url), body).await, 200).await
}

async fn heal(cloud: &DevCloud) {
    let url = format!("{}/dev/fail", cloud.endpoints().control.url);
    let answer = json(client().delete(url).send().await.unwrap(), 200).await;
    assert_eq!(answer, json!({"failures": []}));
}

#[tokio::test]
async fn every_service_fails_as_often_as_told_and_no_other_does() {
    let cloud = start("failures-status").await;
    for (service, url, healthy) in probes(&cloud) {
        for mode in ["503", "429", "500", "404", "403", "401"] {
            let listed =
                switch(&cloud, &json!({"service": service, "mode": mode, "times": 2})).await;
            assert_eq!(listed["failures"].as_array().unwrap().len(), 1);
            for (other, url, healthy) in probes(&cloud) {
                if other != service {
                    assert_eq!(get(url).await.status(), healthy, "{other} is not {service}");
                }
            }
            for _ in 0..2 {
                let answer = get(url.clone()).await;
                assert_eq!(answer.status().as_str(), mode, "{service}");
                let (headers, later) = (answer.headers(), matches!(mode, "503" | "429"));
                assert_eq!(headers.contains_key("retry-after"), later);
                let challenged = service == "hsm" && mode == "401";
                assert_eq!(headers.contains_key("www-authenticate"), challenged);
                let body = answer.text().await.unwrap();
                let shape = match service {
                    "kds" => continue,
                    "oidc" | "imds" | "aad" => "/error",
                    _ => "/error/code",
                };
                let body: Value = serde_json::from_str(&body).unwrap();
                assert!(body.pointer(shape).unwrap().is_string(), "{body}");
            }
            let first = get(url.clone()).await;
            assert_eq!(first.status(), healthy, "{service} is well again");
            // Azure's services name each request.
            let ids = [first, get(url.clone()).await]
                .map(|answer| answer.headers().get("x-ms-request-id").cloned());
            let named = matches!(service, "imds" | "aad" | "maa" | "hsm");
            assert_eq!(ids[0].is_some(), named, "{service}");
            assert_eq!(ids[0] != ids[1], named, "{service}");
        }
    }
    cloud.stop().await;
}

#[tokio::test]
async fn every_service_can_be_slow_hang_and_be_down() {
    let cloud = start("failures-hang").await;
    for (service, url, healthy) in probes(&cloud) {
        switch(&cloud, &json!({"service": service, "mode": "slow", "times": 1, "delay_ms": 150}))
            .await;
        let begin = Instant::now();
        assert_eq!(get(url.clone()).await.status(), healthy);
        assert!(begin.elapsed() >= Duration::from_millis(150), "{service}");

        switch(&cloud, &json!({"service": service, "mode": "hang", "times": 1})).await;
        let hanging = client().get(&url).timeout(Duration::from_millis(300)).send().await;
        assert!(hanging.unwrap_err().is_timeout(), "{service}");

        // Without times: until it is mended.
        switch(&cloud, &json!({"service": service, "mode": "down"})).await;
        for _ in 0..3 {
            let error = client().get(&url).send().await.unwrap_err();
            assert!(!error.is_timeout() && error.status().is_none(), "{service}: {error:?}");
        }
        heal(&cloud).await;
        assert_eq!(get(url).await.status(), healthy, "{service}");
    }
    cloud.stop().await;
}

/// Asks until the service is up, on the port it had.
async fn comes_up(url: &str, healthy: u16) {
    let begin = Instant::now();
    loop {
        match client().get(url).send().await {
            Ok(answer) => return assert_eq!(answer.status(), healthy),
            Err(error) => assert!(error.is_connect(), "{error:?}"),
        }
        assert!(begin.elapsed() < Duration::from_secs(30), "{url} does not come up");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Connections are refused, as by a service that is not up; then all is well.
#[tokio::test]
async fn every_service_can_start_slowly() {
    const LONG: u64 = 3_600_000;
    let cloud = start("failures-start").await;
    for (service, url, healthy) in probes(&cloud) {
        let kept = client();
        assert_eq!(kept.get(&url).send().await.unwrap().status(), healthy, "{service}");
        switch(&cloud, &json!({"service": service, "mode": "slow_start", "delay_ms": LONG})).await;
        let error = kept.get(&url).send().await.unwrap_err();
        assert!(error.is_connect(), "{service}: {error:?}");
        heal(&cloud).await;
        comes_up(&url, healthy).await;
    }
    let (_, url, healthy) = probes(&cloud)[1].clone();
    let begin = Instant::now();
    switch(&cloud, &json!({"service": "imds", "mode": "slow_start", "delay_ms": 400})).await;
    comes_up(&url, healthy).await;
    assert!(begin.elapsed() >= Duration::from_millis(400), "it comes up by itself, and not before");
    let listed = json(get(format!("{}/dev/fail", cloud.endpoints().control.url)).await, 200).await;
    assert_eq!(listed, json!({"failures": []}));
    cloud.stop().await;
}

#[tokio::test]
async fn switches_can_be_on_from_the_beginning() {
    let late = Failure { delay_ms: 3_600_000, ..Failure::new(Service::Imds, Mode::SlowStart, 1) };
    let dir = common::fresh_dir("failures-beginning");
    let config = Config { failures: vec![late], ..common::config(dir) };
    let cloud = DevCloud::start(config).await.unwrap();
    let (_, url, healthy) = probes(&cloud)[1].clone();
    let error = client().get(&url).send().await.unwrap_err();
    assert!(error.is_connect(), "{error:?}");
    cloud.heal();
    comes_up(&url, healthy).await;
    cloud.stop().await;
}

#[tokio::test]
async fn a_dropped_reply_was_done() {
    let cloud = start("failures-drop").await;
    let url = cloud.endpoints().ledger.url;
    let zeros = "0".repeat(64);
    let tag = |tag: &str| format!("{tag}{}", &zeros[tag.len()..]);
    let body = json!({"tag": tag("ab"), "version": 1, "digest": tag("cd")});
    let only_appends =
        json!({"service": "ledger", "mode": "drop_reply", "times": 1, "path": "/app/append"});
    switch(&cloud, &only_appends).await;
    let current =
        || async { json(get(format!("{url}/app/current?tag={}", tag("ab"))).await, 200).await };
    assert_eq!(current().await["version"], 0, "another path does not use the switch up");
    client().post(format!("{url}/app/append")).json(&body).send().await.unwrap_err();
    let done = current().await;
    assert_eq!(done["version"], 1);
    let again = json(post(format!("{url}/app/append"), &body).await, 200).await;
    assert_eq!(again, done, "asking again tells the original transaction");

    // A service that is down did nothing.
    let next = json!({"tag": tag("ab"), "version": 2, "digest": tag("cd")});
    cloud.fail(Failure::new(Service::Ledger, Mode::Down, 1)).await.unwrap();
    client().post(format!("{url}/app/append")).json(&next).send().await.unwrap_err();
    assert_eq!(current().await["version"], 1);
    cloud.stop().await;
}

#[tokio::test]
async fn receipts_can_be_withheld() {
    let cloud = start("failures-withhold").await;
    let url = cloud.endpoints().ledger.url;
    let body = json!({"tag": "0".repeat(64), "version": 1, "digest": "1".repeat(64)});
    let answer = json(post(format!("{url}/app/append"), &body).await, 200).await;
    let transaction = answer["transactionId"].as_str().unwrap();
    let receipt = common::receipt(&client(), &url, transaction).await;
    switch(&cloud, &json!({"service": "ledger", "mode": "withhold_receipt", "times": 3})).await;
    for _ in 0..3 {
        let withheld = get(format!("{url}/app/receipt?transaction_id={transaction}")).await;
        assert_eq!(withheld.status(), 202);
        assert!(withheld.bytes().await.unwrap().is_empty());
    }
    assert_eq!(common::receipt(&client(), &url, transaction).await, receipt);
    cloud.stop().await;
}

#[tokio::test]
async fn the_control_api_rotates_lists_and_refuses_what_it_does_not_know() {
    let cloud = start("failures-control").await;
    let control = cloud.endpoints().control.url;
    for (body, why) in [
        (json!({"service": "dns", "mode": "503"}), "dns"),
        (json!({"service": "maa", "mode": "explode"}), "unknown mode"),
        (json!({"service": "maa", "mode": "200"}), "400 to 599"),
        (json!({"service": "maa", "mode": "withhold_receipt"}), "a mode of ledger"),
        (json!({"service": "hsm", "mode": "identity"}), "a mode of ledger"),
        (json!({"service": "hsm", "mode": "clock_offset", "offset_s": 5}), "a mode of maa"),
        (json!({"service": "imds", "mode": "unsecured_token"}), "a mode of maa"),
        (json!({"service": "maa", "mode": "stale_policy"}), "a mode of hsm"),
        (json!({"service": "kds", "mode": "stale_tcb"}), "a mode of imds"),
        (json!({"service": "maa", "mode": "clock_offset"}), "needs offset_s"),
        (json!({"service": "maa", "mode": "clock_offset", "offset_s": 1i64 << 40}), "a year"),
        (json!({"service": "maa", "mode": "kid_missing", "offset_s": 5}), "takes no offset_s"),
        (json!({"service": "hsm", "mode": "stale_policy", "certificate": "root"}), "takes no"),
        (json!({"service": "hsm", "mode": "503", "firmware": "older"}), "takes no firmware"),
        (json!({"service": "hsm", "mode": "foreign_certificate", "certificate": "x"}), "variant"),
        (json!({"service": "hsm", "mode": "stale_policy", "path": "/keys"}), "its own path"),
        (json!({"service": "imds", "mode": "slow", "delay_ms": u64::MAX}), "a day"),
        (json!({"service": "maa", "mode": "503", "time": 1}), "time"),
        (json!({"mode": "503"}), "service"),
    ] {
        let answer = json(post(format!("{control}/dev/fail"), &body).await, 400).await;
        let message = answer["error"]["message"].as_str().unwrap();
        assert!(message.contains(why), "{body}: {message}");
    }
    let all = [
        json!({"service": "maa", "mode": "clock_offset", "delay_ms": 2000, "offset_s": -5}),
        json!({"service": "hsm", "mode": "foreign_certificate", "delay_ms": 2000, "certificate": "name"}),
        json!({"service": "imds", "mode": "stale_tcb", "delay_ms": 2000, "firmware": "newer"}),
    ];
    for failure in &all {
        switch(&cloud, failure).await;
    }
    let listed = json(get(format!("{control}/dev/fail")).await, 200).await;
    assert_eq!(listed, json!({"failures": all}), "what is listed can be said again");
    heal(&cloud).await;
    let listed =
        switch(&cloud, &json!({"service": "maa", "mode": "429", "times": 9, "path": "/certs"}))
            .await;
    let expected = json!({"failures": [
        {"service": "maa", "mode": "429", "times": 9, "path": "/certs", "delay_ms": 2000},
    ]});
    assert_eq!(listed, expected);
    assert_eq!(json(get(format!("{control}/dev/fail")).await, 200).await, expected);
    cloud.heal();
    assert_eq!(json(get(format!("{control}/dev/fail")).await, 200).await, json!({"failures": []}));

    for (service, jwks) in [
        ("oidc", format!("{}/jwks", cloud.endpoints().oidc.issuer)),
        ("maa", format!("{}/certs", cloud.endpoints().maa.url)),
    ] {
        let answer =
            json(post(format!("{control}/dev/rotate"), &json!({"service": service})).await, 200)
                .await;
        let keys = json(get(jwks).await, 200).await;
        let kids: Vec<_> = keys["keys"].as_array().unwrap().iter().map(|key| &key["kid"]).collect();
        assert_eq!(kids.len(), 2);
        assert_eq!(kids[1], &answer["kid"]);
    }
    json(post(format!("{control}/dev/rotate"), &json!({"service": "hsm"})).await, 400).await;
    let endpoints = json(get(format!("{control}/dev/endpoints")).await, 200).await;
    assert_eq!(endpoints, json!(cloud.endpoints()));
    cloud.stop().await;
}

#[tokio::test]
async fn stopping_does_not_wait_for_what_hangs() {
    let cloud = start("failures-stop").await;
    let url = format!("{}/certs", cloud.endpoints().maa.url);
    cloud.fail(Failure::new(Service::Maa, Mode::Hang, 1)).await.unwrap();
    let hanging = tokio::spawn(client().get(url).send());
    tokio::time::sleep(Duration::from_millis(200)).await;
    let begin = Instant::now();
    cloud.stop().await;
    assert!(begin.elapsed() < Duration::from_secs(5));
    hanging.await.unwrap().unwrap_err();
}
