//! The binary: what it says, and that kill -9 loses nothing it answered.

mod common;

use common::{client, fresh_dir, json, key_cache};
use keyfold_dev_cloud::Endpoints;
use reqwest::Client;
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

fn command(dir: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_keyfold-dev-cloud"));
    command.arg("--dir").arg(dir).arg("--key-cache").arg(key_cache());
    command.stdout(Stdio::piped()).stderr(Stdio::null());
    command
}

/// Starts it and waits until it is ready.
fn start(dir: &Path) -> (Child, Endpoints) {
    let mut child = command(dir).arg("--json").spawn().unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let endpoints: Endpoints = serde_json::from_str(&line).unwrap();
    assert_eq!(endpoints, Endpoints::load(dir).unwrap(), "stdout and endpoints.json agree");
    assert_eq!(endpoints.pid, child.id());
    (child, endpoints)
}

fn signal(child: &Child, name: &str) {
    let status = Command::new("kill").arg(name).arg(child.id().to_string()).status().unwrap();
    assert!(status.success());
}

#[test]
fn it_says_where_everything_is_and_that_it_protects_nothing_and_stops_when_told() {
    let dir = fresh_dir("binary-table");
    for stop in ["-TERM", "-INT"] {
        let mut child = command(&dir).spawn().unwrap();
        let mut reader = BufReader::new(child.stdout.take().unwrap());
        let mut text = String::new();
        while !text.contains("Ready.") {
            assert_ne!(reader.read_line(&mut text).unwrap(), 0, "ended early: {text}");
        }
        assert!(text.contains("It protects nothing"), "{text}");
        let endpoints = Endpoints::load(&dir).unwrap();
        let chip = endpoints.chip.dir.display().to_string();
        for url in [
            &endpoints.oidc.issuer,
            &endpoints.imds.url,
            &endpoints.kds.url,
            &endpoints.aad.url,
            &endpoints.maa.url,
            &endpoints.hsm.url,
            &endpoints.ledger.url,
            &endpoints.control.url,
            &chip,
        ] {
            assert!(text.contains(url.as_str()), "{url} is not in {text}");
        }
        signal(&child, stop);
        assert!(child.wait().unwrap().success(), "{stop} is a good end");
    }
    let files =
        ["chip/vcek.key.pk8", "hsm/leaf.pk8", "oidc/0.pk8", "federated-token", "endpoints.json"];
    for file in files {
        use std::os::unix::fs::PermissionsExt;
        let mode = std::fs::metadata(dir.join(file)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{file}");
    }
}

#[test]
fn help_teaches_and_ports_can_be_chosen() {
    let mut help = String::new();
    let mut child = Command::new(env!("CARGO_BIN_EXE_keyfold-dev-cloud"))
        .arg("--help")
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdout.take().unwrap().read_to_string(&mut help).unwrap();
    assert!(child.wait().unwrap().success());
    for part in [
        "protects nothing",
        "--ledger-port",
        "urn:keyfold:dev:sign-in",
        "/dev/fail",
        "drop_reply",
        "stale_tcb",
    ] {
        assert!(help.contains(part), "{part} is not in the help");
    }

    let dir = fresh_dir("binary-ports");
    let senseless = ["--fail", r#"{"service":"maa","mode":"identity"}"#];
    let refused = command(&dir).stderr(Stdio::piped()).args(senseless).output().unwrap();
    assert!(!refused.status.success());
    let why = String::from_utf8(refused.stderr).unwrap();
    assert!(why.contains("identity is a mode of ledger"), "{why}");
    let (mut child, first) = start(&dir);
    child.kill().unwrap();
    child.wait().unwrap();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let mut refused = command(&dir);
    refused.args(["--ledger-port", &port.to_string()]).env("RUST_BACKTRACE", "1");
    let refused = refused.stderr(Stdio::piped()).output().unwrap();
    assert!(!refused.status.success(), "a taken port is an error");
    let why = String::from_utf8(refused.stderr).unwrap();
    let lines: Vec<&str> = why.lines().collect();
    let told = lines.iter().position(|line| line.starts_with("keyfold-dev-cloud: "));
    assert_eq!(told, Some(lines.len() - 1), "one line at the end: {why}");
    assert!(why.contains(&format!("port {port} ")) && why.contains("--ledger-port"), "{why}");
    drop(taken);
    let mut child =
        command(&dir).args(["--json", "--ledger-port", &port.to_string()]).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let second: Endpoints = serde_json::from_str(&line).unwrap();
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(second.ledger.url, format!("http://127.0.0.1:{port}"));
    assert_eq!(second.oidc, first.oidc, "the others stay");
}

/// Writers append chains of versions while the process is killed in the middle of them, again and again.
#[tokio::test(flavor = "multi_thread")]
async fn kill_9_loses_nothing_that_was_answered_and_invents_nothing() {
    const WRITERS: usize = 16;
    let dir = fresh_dir("binary-kill");
    let http = client();
    let mut acknowledged: Vec<Vec<Value>> = vec![Vec::new(); WRITERS];
    let mut receipts: Vec<(String, Vec<u8>)> = Vec::new();
    let mut appends = 0;
    for round in 0..8 {
        let (mut child, endpoints) = start(&dir);
        let count = Arc::new(AtomicUsize::new(0));
        let tasks: Vec<_> = (0..WRITERS)
            .map(|writer| {
                let url = endpoints.ledger.url.clone();
                let answers = acknowledged[writer].clone();
                tokio::spawn(write_until_it_dies(http.clone(), url, writer, answers, count.clone()))
            })
            .collect();
        // Odd moments, but none before there was something to lose.
        while count.load(Ordering::Relaxed) < 20 + round * 17 {
            tokio::time::sleep(Duration::from_micros(300 + round as u64 * 170)).await;
        }
        child.kill().unwrap();
        child.wait().unwrap();
        for (writer, task) in tasks.into_iter().enumerate() {
            acknowledged[writer] = task.await.unwrap();
        }
        appends += count.load(Ordering::Relaxed);

        let (mut child, endpoints) = start(&dir);
        let url = endpoints.ledger.url;
        for (writer, answers) in acknowledged.iter_mut().enumerate() {
            check_after_kill(&http, &url, writer, answers).await;
        }
        for (transaction, receipt) in &receipts {
            assert_eq!(common::receipt(&http, &url, transaction).await, *receipt);
        }
        for answer in acknowledged.iter().filter_map(|answers| answers.last()) {
            let transaction = answer["transactionId"].as_str().unwrap().to_owned();
            let receipt = common::receipt(&http, &url, &transaction).await;
            receipts.push((transaction, receipt));
        }
        child.kill().unwrap();
        child.wait().unwrap();
    }
    assert!(appends > 500, "only {appends} appends");
}

/// The last answered version stands, or the one after it, which was under way and is then known.
async fn check_after_kill(http: &Client, url: &str, writer: usize, answers: &mut Vec<Value>) {
    let url = format!("{url}/app/current?tag={}", tag(writer));
    let current = json(http.get(url).send().await.unwrap(), 200).await;
    let (version, last) = (current["version"].as_u64().unwrap(), answers.len() as u64);
    if version == last + 1 {
        assert_eq!(current["digest"], digest(writer, version));
        answers.push(current);
    } else if let Some(answer) = answers.last() {
        assert_eq!(current, *answer, "writer {writer}");
    } else {
        assert_eq!(version, 0, "writer {writer}");
    }
}

fn tag(writer: usize) -> String {
    hex::encode(common::sha256(format!("writer {writer}").as_bytes()))
}

fn digest(writer: usize, version: u64) -> String {
    hex::encode(common::sha256(format!("{writer} {version}").as_bytes()))
}

/// Gives every answer got, the earlier ones first.
async fn write_until_it_dies(
    http: Client, url: String, writer: usize, mut answers: Vec<Value>, count: Arc<AtomicUsize>,
) -> Vec<Value> {
    loop {
        let version = answers.len() as u64 + 1;
        let body =
            json!({"tag": tag(writer), "version": version, "digest": digest(writer, version)});
        let Ok(answer) = http.post(format!("{url}/app/append")).json(&body).send().await else {
            return answers;
        };
        assert_eq!(answer.status(), 200, "writer {writer}, version {version}");
        let written = answer.headers().get("x-ms-ccf-transaction-id").cloned();
        match answer.json().await {
            Ok(answer) => answers.push(common::named(answer, written)),
            Err(_) => return answers,
        }
        count.fetch_add(1, Ordering::Relaxed);
    }
}
