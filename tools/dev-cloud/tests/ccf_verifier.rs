//! Microsoft's own verifier accepts this ledger's receipts and refuses altered ones.
//!
//! Needs python3 with venv and a package index; without them it fails, it is never skipped.

mod common;

use common::{client, fresh_dir, json};
use keyfold_dev_cloud::{Config, DevCloud, Failure, LedgerEndpoint, Mode, Service};
use serde_json::{Value, json};
use std::time::Duration;

#[tokio::test]
async fn microsofts_verifier_accepts_the_receipts_and_refuses_altered_ones() {
    let config = Config {
        receipt_latency: Duration::from_millis(5),
        ..common::config(fresh_dir("ccf-verifier"))
    };
    let cloud = DevCloud::start(config).await.unwrap();
    let first = cloud.endpoints().ledger;
    let mut genuine = Vec::new();
    // Waves of many sizes, so that trees of many shapes are signed.
    for wave in 1u64..=20 {
        genuine.extend(transactions(&first, wave, wave % 7 * 5 + 1).await);
    }
    cloud.fail(Failure::new(Service::Ledger, Mode::Identity, 1)).await.unwrap();
    let second = cloud.endpoints().ledger;
    assert_ne!(first.service_key_pem, second.service_key_pem);
    let recovered = transactions(&second, 100, 9).await;

    let mut cases: Vec<Value> =
        genuine.iter().map(|(receipt, claims)| case(receipt, claims)).collect();
    let accepted = cases.len();
    cases.extend(recovered.iter().map(|(receipt, claims)| {
        json!({"receipt": receipt, "claims": claims, "key": second.service_key_pem})
    }));
    let all_accepted = cases.len();
    cases.extend(altered(&genuine));
    cases.extend(recovered.iter().map(|(receipt, claims)| case(receipt, claims)));

    let request = json!({"key": first.service_key_pem, "cases": cases});
    let verdicts = common::python::ask(&common::CCF, "verify_receipts.py", &request);
    let verdicts = verdicts.as_array().unwrap();
    assert_eq!(verdicts.len(), cases.len());
    for (index, verdict) in verdicts.iter().enumerate() {
        let expected = index < all_accepted;
        assert_eq!(verdict["accepted"], expected, "case {index} of {accepted}+: {verdict}");
    }
    assert!(accepted > 200, "only {accepted} receipts");
    let right: u64 = verdicts.iter().filter_map(|verdict| verdict["right_siblings"].as_u64()).sum();
    assert!(right > 200, "only {right} right siblings: the trees are too simple");
    cloud.stop().await;
}

fn case(receipt: &str, claims: &str) -> Value {
    json!({"receipt": receipt, "claims": claims})
}

/// Every byte that is signed or hashed matters: one bit in each of them, over one receipt; and claims
/// exchanged between two.
fn altered(genuine: &[(String, String)]) -> Vec<Value> {
    let (receipt, claims) = genuine.last().unwrap();
    let bytes = hex::decode(receipt).unwrap();
    let position = |part: &[u8]| bytes.windows(part.len()).position(|w| w == part).unwrap();
    let evidence = position(b"ce:2.");
    let kid = position(&[0x58, 0x40]);
    let positions = [
        ("kid", kid + 5),
        ("signed transaction id", position(b"txid") + 6),
        ("verifiable data structure", position(&[0x19, 0x01, 0x8b]) + 3),
        ("write set digest", evidence - 10),
        ("commit evidence", evidence + 12),
        ("sibling", bytes.len() - 99 - 10),
        ("r", bytes.len() - 90),
        ("s", bytes.len() - 5),
    ];
    let flipped = positions.map(|(what, position)| {
        let mut altered = bytes.clone();
        altered[position] ^= 1;
        json!({"receipt": hex::encode(altered), "claims": claims, "what": what})
    });
    let exchanged = case(receipt, &genuine[0].1);
    flipped.into_iter().chain([exchanged]).collect()
}

/// `count` concurrent transactions: (receipt, claims digest) of each, claims made here from the documented bytes.
async fn transactions(ledger: &LedgerEndpoint, wave: u64, count: u64) -> Vec<(String, String)> {
    let http = client();
    let tasks: Vec<_> = (0..count)
        .map(|index| {
            let (http, url) = (http.clone(), ledger.url.clone());
            tokio::spawn(async move {
                let tag = common::sha256(format!("{wave}/{index}").as_bytes());
                let (path, body, claims) = if index % 3 == 2 {
                    let nonce = common::sha256(b"nonce");
                    let claims = common::claims(2, &tag, 0, &[0; 32], &nonce);
                    ("read", json!({"tag": hex::encode(tag), "nonce": hex::encode(nonce)}), claims)
                } else {
                    let digest = common::sha256(&tag);
                    let claims = common::claims(1, &tag, 1, &digest, &[0; 32]);
                    let digest = hex::encode(digest);
                    (
                        "append",
                        json!({"tag": hex::encode(tag), "version": 1, "digest": digest}),
                        claims,
                    )
                };
                let answer = http.post(format!("{url}/app/{path}")).json(&body).send().await;
                let answer = json(answer.unwrap(), 200).await;
                let transaction = answer["transactionId"].as_str().unwrap().to_owned();
                let receipt = common::receipt(&http, &url, &transaction).await;
                (hex::encode(receipt), hex::encode(claims))
            })
        })
        .collect();
    let mut out = Vec::new();
    for task in tasks {
        out.push(task.await.unwrap());
    }
    out
}
