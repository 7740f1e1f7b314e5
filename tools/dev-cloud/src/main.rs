//! `keyfold-dev-cloud`: runs the dev cloud until ctrl-c or SIGTERM.

use anyhow::Result;
use clap::Parser;
use keyfold_dev_cloud::{Config, DevCloud, Failure, Ports, WARNING};
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;

/// Plays the outside world for Keyfold on this machine's loopback: an OpenID issuer, instance metadata, AMD's key
/// distribution, workload identities, the attestation service, a Managed HSM, a CCF ledger and a simulated SEV-SNP
/// chip.
///
/// It protects nothing: its keys lie in a directory and anyone may sign in as anyone.
#[derive(Parser)]
#[command(version, after_help = AFTER_HELP)]
struct Arguments {
    /// Directory of all state. Keys, ledger and ports survive a restart; remove it to start anew.
    #[arg(long, default_value = ".keyfold/dev-cloud", env = "KEYFOLD_DEV_CLOUD_DIR")]
    dir: PathBuf,
    /// Port of the OpenID issuer [default: the last run's, else any free one; so for every port]
    #[arg(long, default_value_t = 0, hide_default_value = true)]
    oidc_port: u16,
    /// Port of the instance metadata service
    #[arg(long, default_value_t = 0, hide_default_value = true)]
    imds_port: u16,
    /// Port of AMD's key distribution service
    #[arg(long, default_value_t = 0, hide_default_value = true)]
    kds_port: u16,
    /// Port of the directory of workload identities
    #[arg(long, default_value_t = 0, hide_default_value = true)]
    aad_port: u16,
    /// Port of the attestation service
    #[arg(long, default_value_t = 0, hide_default_value = true)]
    maa_port: u16,
    /// Port of the Managed HSM
    #[arg(long, default_value_t = 0, hide_default_value = true)]
    hsm_port: u16,
    /// Port of the ledger
    #[arg(long, default_value_t = 0, hide_default_value = true)]
    ledger_port: u16,
    /// Port of the failure switches
    #[arg(long, default_value_t = 0, hide_default_value = true)]
    control_port: u16,
    /// An OpenID client to register; may be repeated.
    #[arg(long = "client", default_value = "keyfold")]
    clients: Vec<String>,
    /// How long a ledger transaction waits for its receipt, in milliseconds.
    #[arg(long, default_value_t = 2)]
    receipt_latency_ms: u64,
    /// Take RSA keys from this directory, and put missing ones there: spares tests the seconds they take.
    #[arg(long)]
    key_cache: Option<PathBuf>,
    /// A failure switch, in JSON as below, that is on from the beginning; may be repeated.
    #[arg(long = "fail", value_name = "JSON", value_parser = failure)]
    failures: Vec<Failure>,
    /// Print the endpoints as one line of JSON when ready, instead of a table.
    #[arg(long)]
    json: bool,
}

const AFTER_HELP: &str = r#"When ready it writes <dir>/endpoints.json, whose URLs and keys a host and its tests read.

Sign in from a shell (prints an ID token in "id_token"):
  curl -d grant_type=urn:keyfold:dev:sign-in -d username=alice $OIDC/token
Sign in from a browser: open $OIDC/authorize with code, PKCE S256 and a loopback redirect_uri.

Make something fail, see what is failing, mend it:
  curl $CONTROL/dev/fail -d '{"service":"ledger","mode":"drop_reply","times":1}'
  curl $CONTROL/dev/fail
  curl -X DELETE $CONTROL/dev/fail
Services: oidc imds kds aad maa hsm ledger. "times" absent: until mended.
Modes of every service: a status (400 to 599), slow (with "delay_ms"), hang, down, drop_reply; of these, with "path",
only where it begins so. slow_start: connections are refused for "delay_ms".
  ledger  withhold_receipt, identity (a new service key)
  maa     clock_offset (with "offset_s"), kid_missing, two_certificates, unsecured_token
  hsm     truncated_ciphertext, rewrapped_ciphertext, wrong_oaep_hash, stale_policy,
          foreign_certificate (with "certificate": "root" or "name")
  imds    stale_tcb (with "firmware": "older" or "newer")
The README says what each imitates.

New signing key:  curl $CONTROL/dev/rotate -d '{"service":"oidc"}'
"#;

#[tokio::main]
async fn main() -> ExitCode {
    match run(Arguments::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("keyfold-dev-cloud: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(arguments: Arguments) -> Result<()> {
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_env_filter(EnvFilter::try_from_default_env().unwrap_or_else(|_| "info".into()))
        .init();
    // Before readiness is told: who stops us right then is heard.
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;

    let json = arguments.json;
    let cloud = DevCloud::start(arguments.config()).await?;
    if json {
        say(&serde_json::to_string(&cloud.endpoints())?);
    } else {
        say(&table(&cloud));
    }
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    cloud.stop().await;
    Ok(())
}

impl Arguments {
    fn config(self) -> Config {
        Config {
            ports: Ports {
                oidc: self.oidc_port,
                imds: self.imds_port,
                kds: self.kds_port,
                aad: self.aad_port,
                maa: self.maa_port,
                hsm: self.hsm_port,
                ledger: self.ledger_port,
                control: self.control_port,
            },
            clients: self.clients,
            receipt_latency: Duration::from_millis(self.receipt_latency_ms),
            key_cache: self.key_cache,
            failures: self.failures,
            ..Config::new(self.dir)
        }
    }
}

fn failure(json: &str) -> Result<Failure, serde_json::Error> {
    serde_json::from_str(json)
}

/// Nobody may be reading any more; that ends no cloud.
fn say(text: &str) {
    let _ = writeln!(std::io::stdout(), "{text}");
}

fn table(cloud: &DevCloud) -> String {
    let endpoints = cloud.endpoints();
    let mut lines = vec![WARNING.to_owned(), String::new()];
    for (name, url) in [
        ("OpenID issuer", &endpoints.oidc.issuer),
        ("instance metadata", &endpoints.imds.url),
        ("AMD key distribution", &endpoints.kds.url),
        ("workload identities", &endpoints.aad.url),
        ("attestation", &endpoints.maa.url),
        ("Managed HSM", &endpoints.hsm.url),
        ("ledger", &endpoints.ledger.url),
        ("failure switches", &endpoints.control.url),
    ] {
        lines.push(format!("{name:<20} {url}"));
    }
    lines.push(format!("{:<20} {}", "simulated chip", endpoints.chip.dir.display()));
    lines.extend([String::new(), "Ready. Stop with ctrl-c.".to_owned()]);
    lines.join("\n")
}
