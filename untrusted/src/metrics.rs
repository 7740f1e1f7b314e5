//! Counters, gauges and histograms, written out as Prometheus text. No labels but fixed ones: an
//! account never shows up here.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// Upper bounds of every duration histogram, in seconds.
const BOUNDS: [f64; 14] =
    [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];

/// Only grows.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// One more.
    pub fn increment(&self) {
        self.add(1);
    }

    /// `n` more.
    pub fn add(&self, n: u64) {
        self.0.fetch_add(n, Ordering::Relaxed);
    }

    /// Follows a count kept elsewhere.
    pub fn raise_to(&self, value: u64) {
        self.0.fetch_max(value, Ordering::Relaxed);
    }

    /// So far.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Goes up and down.
#[derive(Debug, Default)]
pub struct Gauge(AtomicI64);

impl Gauge {
    /// Sets it.
    pub fn set(&self, value: i64) {
        self.0.store(value, Ordering::Relaxed);
    }

    /// Changes it.
    pub fn add(&self, change: i64) {
        self.0.fetch_add(change, Ordering::Relaxed);
    }

    /// Now.
    pub fn get(&self) -> i64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// How long things took.
#[derive(Debug, Default)]
pub struct Histogram {
    buckets: [AtomicU64; BOUNDS.len() + 1],
    sum_us: AtomicU64,
}

impl Histogram {
    /// One took this long.
    pub fn observe(&self, took: Duration) {
        let seconds = took.as_secs_f64();
        let bucket = BOUNDS.partition_point(|bound| *bound < seconds);
        self.buckets[bucket].fetch_add(1, Ordering::Relaxed);
        let us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        self.sum_us.fetch_add(us, Ordering::Relaxed);
    }
}

/// One of something per fixed label.
#[derive(Debug)]
pub struct Labelled<K, T>(Mutex<BTreeMap<K, T>>);

impl<K: Ord, T> Default for Labelled<K, T> {
    fn default() -> Self {
        Self(Mutex::new(BTreeMap::new()))
    }
}

impl<K: Ord + Copy, T: Default> Labelled<K, T> {
    /// Does something with the one of this label.
    pub fn with<R>(&self, label: K, act: impl FnOnce(&T) -> R) -> R {
        act(self.0.lock().unwrap_or_else(PoisonError::into_inner).entry(label).or_default())
    }

    fn each(&self, mut act: impl FnMut(K, &T)) {
        for (label, value) in &*self.0.lock().unwrap_or_else(PoisonError::into_inner) {
            act(*label, value);
        }
    }
}

/// Everything the host counts.
#[derive(Debug, Default)]
pub struct Metrics {
    /// Answers by route and status.
    pub responses: Labelled<(&'static str, u16), Counter>,
    /// Time to answer by route.
    pub response_time: Labelled<&'static str, Histogram>,
    /// Client requests by class and how they ended.
    pub requests: Labelled<(&'static str, &'static str), Counter>,
    /// Time inside the enclave link, queueing included.
    pub enclave_time: Histogram,
    /// Requests that wait for an enclave.
    pub enclave_waiting: Gauge,
    /// Links that serve.
    pub enclave_ready: Gauge,
    /// Boots by outcome.
    pub enclave_boots: Labelled<&'static str, Counter>,
    /// New reports of enclaves that serve, by outcome.
    pub evidence: Labelled<&'static str, Counter>,
    /// Ledger calls by route and outcome.
    pub ledger_calls: Labelled<(&'static str, &'static str), Counter>,
    /// From append to receipt.
    pub ledger_time: Histogram,
    /// 1 while the ledger shows the configured identity.
    pub ledger_trusted: Gauge,
    /// Guard changes by how far they came: staged, committed, conflict; and recoveries that found
    /// the account locked.
    pub guard_changes: Labelled<&'static str, Counter>,
    /// Staged guards that wait for recovery.
    pub staged_guards: Gauge,
    /// Staged guards by what recovery did with them.
    pub recovered: Labelled<&'static str, Counter>,
    /// Bearer tokens by outcome.
    pub tokens: Labelled<&'static str, Counter>,
    /// Fetches of the issuer's keys by outcome.
    pub issuer_fetches: Labelled<&'static str, Counter>,
    /// Open connections on the public listener.
    pub connections: Gauge,
    /// Open event streams.
    pub event_streams: Gauge,
    /// Transactions of the storage's writer.
    pub storage_transactions: Counter,
    /// Operations in them.
    pub storage_operations: Counter,
}

impl Metrics {
    /// Prometheus text format 0.0.4.
    pub fn render(&self) -> String {
        let mut text = Text::default();
        text.family("keyfold_http_responses_total", "counter", "Answers by route and status.");
        self.responses.each(|(route, status), n| {
            text.line(&format!("route=\"{route}\",status=\"{status}\""), n.get());
        });
        text.family("keyfold_http_response_seconds", "histogram", "Time to answer by route.");
        self.response_time
            .each(|route, times| text.histogram(&format!("route=\"{route}\""), times));
        text.family("keyfold_requests_total", "counter", "Client requests by class and outcome.");
        self.requests.each(|(class, outcome), n| {
            text.line(&format!("class=\"{class}\",outcome=\"{outcome}\""), n.get());
        });
        text.family("keyfold_enclave_seconds", "histogram", "Time in the enclave link.");
        text.histogram("", &self.enclave_time);
        text.gauge("keyfold_enclave_waiting", "Requests at the enclave.", &self.enclave_waiting);
        text.gauge("keyfold_enclave_ready", "Links that serve.", &self.enclave_ready);
        text.by_outcome("keyfold_enclave_boots_total", "Enclave boots.", &self.enclave_boots);
        text.by_outcome("keyfold_evidence_total", "New reports for clients.", &self.evidence);
        text.family("keyfold_ledger_calls_total", "counter", "Ledger calls by route and outcome.");
        self.ledger_calls.each(|(call, outcome), n| {
            text.line(&format!("call=\"{call}\",outcome=\"{outcome}\""), n.get());
        });
        text.family("keyfold_ledger_seconds", "histogram", "From the call to its receipt.");
        text.histogram("", &self.ledger_time);
        let help = "1 while the ledger shows the configured identity.";
        text.gauge("keyfold_ledger_trusted", help, &self.ledger_trusted);
        text.by_outcome("keyfold_guard_changes_total", "Changes of guards.", &self.guard_changes);
        text.gauge(
            "keyfold_staged_guards",
            "Guards that wait for the ledger.",
            &self.staged_guards,
        );
        text.by_outcome("keyfold_recovered_total", "Staged guards recovered.", &self.recovered);
        text.by_outcome("keyfold_tokens_total", "Bearer tokens checked.", &self.tokens);
        let help = "Fetches of the identity issuer's keys.";
        text.by_outcome("keyfold_issuer_fetches_total", help, &self.issuer_fetches);
        text.gauge("keyfold_connections", "Open public connections.", &self.connections);
        text.gauge("keyfold_event_streams", "Open event streams.", &self.event_streams);
        let help = "Transactions of the storage's writer.";
        text.counter("keyfold_storage_transactions_total", help, &self.storage_transactions);
        let help = "Writes in the storage's transactions.";
        text.counter("keyfold_storage_operations_total", help, &self.storage_operations);
        text.out
    }
}

#[derive(Default)]
struct Text {
    out: String,
    name: &'static str,
}

impl Text {
    fn family(&mut self, name: &'static str, kind: &str, help: &str) {
        self.name = name;
        let _ = writeln!(self.out, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }

    fn line(&mut self, labels: &str, value: impl std::fmt::Display) {
        self.suffixed("", labels, value);
    }

    fn suffixed(&mut self, suffix: &str, labels: &str, value: impl std::fmt::Display) {
        let name = self.name;
        let _ = match labels {
            "" => writeln!(self.out, "{name}{suffix} {value}"),
            labels => writeln!(self.out, "{name}{suffix}{{{labels}}} {value}"),
        };
    }

    fn counter(&mut self, name: &'static str, help: &str, counter: &Counter) {
        self.family(name, "counter", help);
        self.line("", counter.get());
    }

    fn gauge(&mut self, name: &'static str, help: &str, gauge: &Gauge) {
        self.family(name, "gauge", help);
        self.line("", gauge.get());
    }

    fn by_outcome(
        &mut self, name: &'static str, help: &str, counters: &Labelled<&'static str, Counter>,
    ) {
        self.family(name, "counter", help);
        counters.each(|outcome, n| self.line(&format!("outcome=\"{outcome}\""), n.get()));
    }

    fn histogram(&mut self, labels: &str, times: &Histogram) {
        let comma = if labels.is_empty() { "" } else { "," };
        let mut total = 0;
        for (index, bucket) in times.buckets.iter().enumerate() {
            total += bucket.load(Ordering::Relaxed);
            let bound = BOUNDS.get(index).map_or("+Inf".into(), f64::to_string);
            self.suffixed("_bucket", &format!("{labels}{comma}le=\"{bound}\""), total);
        }
        let sum = Duration::from_micros(times.sum_us.load(Ordering::Relaxed)).as_secs_f64();
        self.suffixed("_sum", labels, sum);
        self.suffixed("_count", labels, total);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn histograms_are_cumulative_and_labelled() {
        let metrics = Metrics::default();
        for ms in [1, 3, 20_000] {
            metrics.response_time.with("/v1/x", |times| times.observe(Duration::from_millis(ms)));
        }
        let text = metrics.render();
        for line in [
            r#"keyfold_http_response_seconds_bucket{route="/v1/x",le="0.0005"} 0"#,
            r#"keyfold_http_response_seconds_bucket{route="/v1/x",le="0.001"} 1"#,
            r#"keyfold_http_response_seconds_bucket{route="/v1/x",le="0.005"} 2"#,
            r#"keyfold_http_response_seconds_bucket{route="/v1/x",le="+Inf"} 3"#,
            r#"keyfold_http_response_seconds_sum{route="/v1/x"} 20.004"#,
            r#"keyfold_http_response_seconds_count{route="/v1/x"} 3"#,
            "keyfold_enclave_seconds_count 0",
        ] {
            assert!(text.lines().any(|found| found == line), "{line}\n{text}");
        }
    }

    #[test]
    fn counters_are_kept_apart_by_label() {
        let metrics = Metrics::default();
        metrics.responses.with(("/v1/x", 200), Counter::increment);
        metrics.responses.with(("/v1/x", 503), |n| n.add(2));
        let text = metrics.render();
        assert!(text.contains(r#"{route="/v1/x",status="200"} 1"#), "{text}");
        assert!(text.contains(r#"{route="/v1/x",status="503"} 2"#), "{text}");
    }
}
