//! How many appends a second the ledger takes, each on disk before it is answered, over HTTP on loopback.
//!
//! `cargo run --release -p keyfold-dev-cloud --example appends [clients] [seconds]`; prints one JSON object.
//! Server and load generator share the machine's cores; each client is one connection with one request in flight.
//!
//! Measured on two Zen 5 cores that other builds kept busy (load average 10): 1 client 650 appends/s (p50
//! 0.46 ms), 16 clients 3,000/s, 64 clients 2,700 to 3,700/s over four runs (p50 15 to 22 ms), 256 clients
//! 3,800/s. An idle machine was not at hand: these are lower bounds.

use keyfold_dev_cloud::{Config, DevCloud};
use serde_json::json;
use std::time::{Duration, Instant};

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let mut number = |default: u64| arguments.next().map_or(Ok(default), |text| text.parse());
    let (clients, seconds) = (number(64)?, number(5)?);

    let dir = std::env::temp_dir().join(format!("keyfold-appends-{}", std::process::id()));
    let cloud = DevCloud::start(Config::new(&dir)).await?;
    let url = format!("{}/app/append", cloud.endpoints().ledger.url);
    let http = reqwest::Client::builder().no_proxy().build()?;
    let end = Instant::now() + Duration::from_secs(seconds);
    let tasks: Vec<_> = (0..clients)
        .map(|client| tokio::spawn(append_until(http.clone(), url.clone(), client, end)))
        .collect();
    let mut latencies = Vec::new();
    for task in tasks {
        latencies.extend(task.await??);
    }
    latencies.sort_unstable();
    let percentile = |share: f64| {
        let index = (latencies.len() as f64 * share) as usize;
        latencies.get(index).map(|latency| latency.as_secs_f64() * 1e3)
    };
    let report = json!({
        "clients": clients,
        "appends_per_s": latencies.len() as u64 / seconds,
        "p50_ms": percentile(0.5),
        "p99_ms": percentile(0.99),
    });
    println!("{report}");
    cloud.stop().await;
    std::fs::remove_dir_all(dir)?;
    Ok(())
}

/// One tag, version after version; gives how long each append took.
async fn append_until(
    http: reqwest::Client, url: String, client: u64, end: Instant,
) -> anyhow::Result<Vec<Duration>> {
    let tag = format!("{client:064x}");
    let mut latencies = Vec::new();
    while Instant::now() < end {
        let version = latencies.len() + 1;
        let body = json!({"tag": tag, "version": version, "digest": format!("{version:064x}")});
        let begin = Instant::now();
        let answer = http.post(&url).json(&body).send().await?;
        anyhow::ensure!(answer.status() == 200, "status {}", answer.status());
        answer.bytes().await?;
        latencies.push(begin.elapsed());
    }
    Ok(latencies)
}
