//! Sign-ins per second through everything: HTTP, host, pipe, enclave, SQLite; and their latency at
//! half that load. Then recoveries per second, with ledgers whose receipts take longer and longer; and
//! sign-ins again over each way to an enclave, with many in flight and with one for each link, so that
//! what frames gain from sharing a wake can be seen.
//!
//! The load generator runs on the same machine, so it is kept cheap and said so: every frame is
//! signed and sealed before the clock starts, requests leave over kept-alive connections as bytes
//! made in advance, and replies are read to their end but opened only once per account.
//!
//! `KEYFOLD_BENCH_SECONDS` sets the length of each phase; the result is one JSON object on the last
//! line. Needs the release programs of `cargo xtask build --release`.

use std::path::Path;
use std::time::{Duration, Instant};

use keyfold_image::command_line::PORT;
use keyfold_local::{Binaries, Deployment, Machine, Options, Place};
use keyfold_protocol::client::{
    Assert, Class, CreatePasskey, Enroll, Envelope, KeyKind, Outcome, Recover, Request,
    StretchedPin, Success, UserNames,
};
use keyfold_protocol::ids::{Account, ChannelKeyId, Digest, Name, RpId, UserHandle};
use keyfold_protocol::transcript::{Chain, account_id};
use keyfold_protocol::wire;
use keyfold_tests::crypto::sha256;
use keyfold_tests::device::{Sent, Session, TestDevice};
use keyfold_tests::world::heapless_algorithms;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const ACCOUNTS: usize = 64;
const CONNECTIONS: usize = 64;
/// One link keeps one processor busy.
const ENCLAVES: usize = 2;
/// How long the ledger takes for a receipt, in milliseconds; a CCF network signs every so often.
const RECEIPTS: [u64; 3] = [2, 20, 200];
/// Sign-ins prepared per account; sent round and round, which the enclave serves like new ones.
const PREPARED: usize = 64;

fn main() {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .expect("a runtime");
    let seconds = std::env::var("KEYFOLD_BENCH_SECONDS").ok().and_then(|text| text.parse().ok());
    let phase = Duration::from_secs(seconds.unwrap_or(5));
    println!("{}", runtime.block_on(measure(phase)));
}

async fn measure(phase: Duration) -> Value {
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("../target"),
        std::path::PathBuf::from,
    );
    let (deployment, people) = deployment(&target, Options::default()).await;
    let people: Vec<_> = people.into_iter().map(Person::requests).collect();
    let address = deployment.url.trim_start_matches("http://").to_owned();
    eprintln!("{ACCOUNTS} accounts ready; warming up");
    run(&address, &people, phase / 4, CONNECTIONS, None).await;
    let before = Busy::now(&deployment);
    let full = run(&address, &people, phase, CONNECTIONS, None).await;
    let busy = Busy::now(&deployment).since(&before);
    let rate = full.len() as f64 / phase.as_secs_f64();
    eprintln!("{rate:.0} sign-ins/s with {CONNECTIONS} in flight; now at half that");
    let half = run(&address, &people, phase, CONNECTIONS, Some(rate / 2.0)).await;
    let percentile = |p: f64| {
        let index = ((half.len() as f64 * p) as usize).min(half.len() - 1);
        half[index].as_secs_f64() * 1000.0
    };
    drop(deployment);
    let mut recoveries = Vec::new();
    // A quick run has no time for slow ledgers.
    let ledgers = if phase < Duration::from_secs(5) { &RECEIPTS[..1] } else { &RECEIPTS };
    for latency in ledgers.iter().copied() {
        recoveries.push(recover(&target, phase, latency).await);
    }
    let image = target.join("image/development");
    let machine = Machine { image: image.clone(), cpus: SPARE + 1, clock: None };
    let mut links = Vec::new();
    for (name, place) in [
        ("pipe", Place::Children),
        ("Unix socket", Place::Beside),
        ("vsock, machine emulated", Place::Machine(machine)),
    ] {
        if matches!(place, Place::Machine(_)) && !image.is_dir() {
            eprintln!("no machine: `cargo xtask image build --development` makes its image");
            continue;
        }
        links.push(link(&target, phase / 2, name, place).await);
    }
    json!({
        "recoveries": recoveries,
        "links": links,
        "sign_ins_per_s": rate,
        "p50_ms": percentile(0.5),
        "p99_ms": percentile(0.99),
        "p999_ms": percentile(0.999),
        "processor_us_per_sign_in": busy.per(full.len()),
        "enclaves": ENCLAVES,
        "processors": std::thread::available_parallelism().map_or(1, usize::from),
        "load_generator": "of this project: frames sealed in advance, 64 kept-alive HTTP/1.1 connections, one thread of the same machine",
    })
}

/// A processor of the machine whose port the host does not take: after as many as there are enclaves.
const SPARE: u8 = 2;

/// Sign-ins over one kind of link; for a machine also how long it takes to serve again.
async fn link(target: &Path, phase: Duration, name: &str, place: Place) -> Value {
    let is_machine = matches!(place, Place::Machine(_));
    let (deployment, people) = deployment(target, Options { place, ..Options::default() }).await;
    let people: Vec<_> = people.into_iter().map(Person::requests).collect();
    let address = deployment.url.trim_start_matches("http://").to_owned();
    run(&address, &people, phase / 4, CONNECTIONS, None).await;
    let mut found = json!({"link": name});
    for (load, connections) in [("many", CONNECTIONS), ("one_each", ENCLAVES)] {
        let before = Busy::now(&deployment);
        let all = run(&address, &people, phase, connections, None).await;
        let busy = Busy::now(&deployment).since(&before);
        let rate = all.len() as f64 / phase.as_secs_f64();
        eprintln!("{name}: {rate:.0} sign-ins/s with {connections} in flight");
        found[load] = json!({"sign_ins_per_s": rate, "processor_us": busy.per(all.len())});
    }
    if is_machine {
        let seconds = tokio::task::spawn_blocking(move || boot(&deployment)).await;
        found["boot_to_serving_s"] = seconds.expect("it comes back").into();
    }
    found
}

/// Seconds from the start of a machine, another having been killed, until it takes a link.
fn boot(deployment: &Deployment) -> f64 {
    let of_machine = deployment.beside[0].children().expect("it runs");
    let ids = of_machine.iter().map(i32::to_string);
    let died = std::process::Command::new("kill").arg("-9").args(ids).status();
    assert!(died.is_ok_and(|status| status.success()), "kill -9 {of_machine:?}");
    let started = Instant::now();
    while deployment.machine_port(PORT + u32::from(SPARE)).is_err() {
        assert!(started.elapsed() < Duration::from_secs(120), "the machine does not come back");
        std::thread::sleep(Duration::from_millis(10));
    }
    started.elapsed().as_secs_f64()
}

/// A fresh deployment of the release programs, and people with an account each.
async fn deployment(target: &Path, options: Options) -> (Deployment, Vec<Person>) {
    let binaries = Binaries::in_folder(&target.join("release")).expect("release programs");
    let folder = target.join("bench-deployment");
    let _ = std::fs::remove_dir_all(&folder);
    let key_cache = Some(target.join("dev-keys"));
    let options = Options { key_cache, enclaves: ENCLAVES, ..options };
    let deployment = Deployment::start(&folder, binaries, options).await.expect("a deployment");
    let mut people = Vec::new();
    for index in 0..ACCOUNTS {
        people.push(Person::new(&deployment, index).await);
    }
    (deployment, people)
}

/// Processor time that was used, in seconds: what bounds the rate.
struct Busy {
    host: f64,
    enclaves: f64,
    generator: f64,
}

impl Busy {
    /// Of the deployment's host, of its enclaves, and of this process.
    fn now(deployment: &Deployment) -> Self {
        let beside = deployment.beside.iter().map(|program| used(program.id()));
        let around = deployment.beside.iter().chain([&deployment.host]);
        let children = around.flat_map(|program| program.children().expect("it runs"));
        Self {
            host: used(deployment.host.id()),
            enclaves: children.map(used).chain(beside).sum(),
            generator: used("self"),
        }
    }

    fn since(&self, before: &Self) -> Self {
        Self {
            host: self.host - before.host,
            enclaves: self.enclaves - before.enclaves,
            generator: self.generator - before.generator,
        }
    }

    /// Microseconds for each of so many sign-ins.
    fn per(&self, sign_ins: usize) -> Value {
        let each = |seconds: f64| seconds * 1e6 / sign_ins as f64;
        json!({
            "host": each(self.host),
            "enclaves": each(self.enclaves),
            "load_generator": each(self.generator),
        })
    }
}

/// What a process has used: fields 14 and 15 of proc(5)'s `stat`, in hundredths of a second.
fn used(process: impl std::fmt::Display) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).expect("it runs");
    let (_, fields) = stat.rsplit_once(')').expect("a name in brackets");
    let ticks = fields.split_whitespace().skip(11).take(2).map(|field| field.parse::<u32>());
    f64::from(ticks.sum::<Result<u32, _>>().expect("numbers")) / 100.0
}

/// Recoveries by right PINs, each account's one after the other, with receipts that take so long.
async fn recover(target: &Path, phase: Duration, receipt_latency_ms: u64) -> Value {
    let options = Options { receipt_latency_ms, ..Options::default() };
    let (_deployment, people) = deployment(target, options).await;
    let start = Instant::now();
    let tasks = people.into_iter().map(|mut person| {
        tokio::spawn(async move {
            let (mut times, mut guard) = (Vec::new(), 1);
            while start.elapsed() < phase {
                // The key pairs of a new device are made before the clock starts.
                person.device = TestDevice::new("new");
                let (pin, device) = (StretchedPin([9; 32]), person.device.public());
                let request = Request::Recover(Recover { guard, pin, device });
                let began = Instant::now();
                guard = person
                    .ask(&request, Class::Recover, |success| match success {
                        Success::GuardChanged(changed) => changed.guard,
                        other => panic!("{other:?}"),
                    })
                    .await;
                times.push(began.elapsed());
            }
            times
        })
    });
    let tasks: Vec<_> = tasks.collect();
    let mut all = Vec::new();
    for task in tasks {
        all.extend(task.await.expect("a person's task"));
    }
    all.sort();
    let rate = all.len() as f64 / start.elapsed().as_secs_f64();
    let p50_ms = all[all.len() / 2].as_secs_f64() * 1000.0;
    eprintln!("{rate:.0} recoveries/s with receipts after {receipt_latency_ms} ms");
    json!({"receipt_ms": receipt_latency_ms, "per_s": rate, "p50_ms": p50_ms})
}

/// All connections until the time is up: latencies, sorted. At a rate, each request has a time at
/// which it is due, and its latency counts from then: a stall is not forgiven.
async fn run(
    address: &str, people: &[Vec<Vec<u8>>], phase: Duration, connections: usize, rate: Option<f64>,
) -> Vec<Duration> {
    let start = Instant::now();
    let tasks = (0..connections).map(|connection| {
        let address = address.to_owned();
        let requests = people[connection % people.len()].clone();
        let every = rate.map(|rate| Duration::from_secs_f64(connections as f64 / rate));
        let offset = every
            .map_or(Duration::ZERO, |every| every.mul_f64(connection as f64 / connections as f64));
        tokio::spawn(async move {
            let mut stream = TcpStream::connect(&address).await.expect("connected");
            stream.set_nodelay(true).expect("no delay");
            let mut buffer = vec![0; 16 * 1024];
            let mut latencies = Vec::new();
            for (index, request) in requests.iter().cycle().enumerate() {
                let mut due = Instant::now();
                if let Some(every) = every {
                    due = start + offset + every * u32::try_from(index).expect("short");
                    tokio::time::sleep_until(due.into()).await;
                }
                if start.elapsed() >= phase {
                    break;
                }
                stream.write_all(request).await.expect("sent");
                read_response(&mut stream, &mut buffer).await;
                latencies.push(due.elapsed());
            }
            latencies
        })
    });
    let tasks: Vec<_> = tasks.collect();
    let mut all = Vec::new();
    for task in tasks {
        all.extend(task.await.expect("a connection's task"));
    }
    all.sort();
    all
}

/// Reads one response to its end; it must be a 200.
async fn read_response(stream: &mut TcpStream, buffer: &mut [u8]) {
    let mut filled = 0;
    loop {
        filled += stream.read(&mut buffer[filled..]).await.expect("a response");
        let Some(end) = buffer[..filled].windows(4).position(|window| window == b"\r\n\r\n") else {
            continue;
        };
        let head = std::str::from_utf8(&buffer[..end]).expect("a head");
        assert!(head.starts_with("HTTP/1.1 200"), "{head}");
        let length = head.lines().find_map(|line| {
            let (name, value) = line.split_once(": ")?;
            name.eq_ignore_ascii_case("content-length").then(|| value.parse::<usize>().ok())?
        });
        let total = end + 4 + length.expect("a length");
        while filled < total {
            filled += stream.read(&mut buffer[filled..]).await.expect("a body");
        }
        return;
    }
}

/// An account with one device and one passkey.
struct Person {
    device: TestDevice,
    session: Session,
    account: Account,
    token: String,
    url: String,
    http: reqwest::Client,
    slot: keyfold_protocol::ids::SlotId,
    assert: Assert,
}

impl Person {
    async fn new(deployment: &Deployment, index: usize) -> Self {
        let http = reqwest::Client::new();
        let issuer = &deployment.endpoints.oidc.issuer;
        let name = format!("bench-{index}");
        let form = [
            ("grant_type", "urn:keyfold:dev:sign-in"),
            ("username", &name),
            ("client_id", "keyfold"),
        ];
        let signed_in =
            http.post(format!("{issuer}/token")).form(&form).send().await.expect("token");
        let signed_in: Value = signed_in.json().await.expect("a token");
        let token = signed_in["id_token"].as_str().expect("an ID token").to_owned();
        let account = Account { id: account_id(sha256, issuer, &subject(&token)), generation: 1 };
        let session = open_session(&http, deployment, &token, index).await;
        let rp_id = RpId::try_from("example.com").expect("short");
        let assert = Assert {
            rp_id: rp_id.clone(),
            credential: keyfold_protocol::ids::CredentialId([0; 32]),
            client_data_hash: [7; 32],
            prf: None,
        };
        let slot = keyfold_protocol::ids::SlotId([0; 32]);
        let device = TestDevice::new("bench");
        let url = deployment.url.clone();
        let mut person = Self { device, session, account, token, url, http, slot, assert };
        let enroll = Enroll { pin: StretchedPin([9; 32]), device: person.device.public() };
        person.ask(&Request::Enroll(enroll), Class::Enroll, |_| ()).await;
        person.device.guard_seen = 1;
        let create = CreatePasskey {
            vault: Chain::Vault.genesis(sha256, &account),
            rp_id,
            user_handle: UserHandle::from_slice(name.as_bytes()).expect("short"),
            names: UserNames { name: Name::new(), display_name: Name::new() },
            algorithms: heapless_algorithms(&[-7]),
            prf: None,
        };
        let create = Request::CreatePasskey(create);
        let (slot, credential) = person
            .ask(&create, Class::Put(None), |success| match success {
                Success::Created(created) => (created.put.event.slot, created.credential),
                other => panic!("{other:?}"),
            })
            .await;
        person.slot = slot;
        person.assert.credential = credential;
        person
    }

    fn envelope(&mut self, request: &Request, class: Class) -> (Sent, Vec<u8>) {
        let sent = self.session.seal(&self.device, KeyKind::Presence, &self.account, request);
        let envelope =
            Envelope { account: self.account, counter: sent.counter, class, frame: &sent.frame };
        let mut body = vec![0; 8192];
        let used = wire::encode(&envelope, &mut body).expect("an envelope");
        body.truncate(used);
        (sent, body)
    }

    async fn ask<T>(
        &mut self, request: &Request, class: Class, read: impl FnOnce(&Success) -> T,
    ) -> T {
        let (sent, body) = self.envelope(request, class);
        let url = format!("{}/v1/sessions/{}/requests", self.url, self.session.id);
        let request = self.http.post(url).bearer_auth(&self.token).body(body);
        let request = request.header("content-type", "application/octet-stream");
        let response = request.send().await.expect("a response");
        let status = response.status();
        let reply = response.bytes().await.expect("a reply");
        assert!(status.is_success(), "{status}: {}", String::from_utf8_lossy(&reply));
        let opened = sent.open(&reply).expect("this frame's reply");
        let outcome: Outcome = wire::decode_padded(&opened).expect("an outcome");
        read(&outcome.expect("a success"))
    }

    /// Sign-ins as bytes on the wire; the first is sent and its answer checked.
    fn requests(mut self) -> Vec<Vec<u8>> {
        let request = Request::Assert(self.assert.clone());
        let class = Class::Assert(self.slot);
        let host = self.url.trim_start_matches("http://").to_owned();
        let mut all = Vec::new();
        for _ in 0..PREPARED {
            let (_, body) = self.envelope(&request, class);
            let head = format!(
                "POST /v1/sessions/{}/requests HTTP/1.1\r\nhost: {host}\r\nauthorization: Bearer {}\r\n\
                 content-type: application/octet-stream\r\ncontent-length: {}\r\n\r\n",
                self.session.id,
                self.token,
                body.len()
            );
            all.push([head.as_bytes(), &body].concat());
        }
        all
    }
}

async fn open_session(
    http: &reqwest::Client, deployment: &Deployment, token: &str, index: usize,
) -> Session {
    let found = http.get(format!("{}/v1/deployment", deployment.url)).send().await;
    let found: Value = found.expect("a deployment").json().await.expect("JSON");
    // Clients pick one at random; the bench deals them out.
    let enclave = &found["enclaves"][index % ENCLAVES];
    let decode = |value: &Value| {
        use base64::Engine;
        let text = value.as_str().expect("text");
        base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(text).expect("base64url")
    };
    let channel_key = decode(&enclave["channel_key"]);
    let claims: Value = serde_json::from_slice(&decode(&enclave["claims"])).expect("claims");
    let config = hex::decode(claims["keyfold"]["config"].as_str().expect("config")).expect("hex");
    let session = Session::open(&Digest(config.try_into().expect("32 bytes")), &channel_key);
    let body = [&ChannelKeyId(sha256(&[&channel_key])).0[..], &session.enc].concat();
    let opened = http.post(format!("{}/v1/sessions", deployment.url)).bearer_auth(token);
    let opened = opened.header("content-type", "application/octet-stream").body(body);
    let opened = opened.send().await.expect("a session");
    assert!(opened.status().is_success(), "{}", opened.status());
    session
}

/// `sub` of an ID token.
fn subject(token: &str) -> String {
    use base64::Engine;
    let payload = token.split('.').nth(1).expect("a payload");
    let payload =
        base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(payload).expect("base64url");
    let payload: Value = serde_json::from_slice(&payload).expect("JSON");
    payload["sub"].as_str().expect("sub").to_owned()
}
