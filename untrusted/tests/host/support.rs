//! A whole host in-process: the dev cloud around it, and an enclave that only pretends.
//!
//! [`Pretender`] speaks the protocol's frames without any cryptography, so that every order of events
//! can be provoked. What it seals is readable, and says what it was given.

use bytes::Bytes;
use keyfold_dev_cloud::{self as dev, DevCloud, SignIn};
use keyfold_host::azure::{Asking, Endorsements, KeyRelease, Released};
use keyfold_host::enclave::{Connect, Connection};
use keyfold_host::identity::sha256;
use keyfold_host::journal::Journal;
use keyfold_host::storage::{Sqlite, Storage, sqlite};
use keyfold_host::{Config, Host};
use keyfold_protocol::client::{Action, Class, Envelope};
use keyfold_protocol::host::*;
use keyfold_protocol::ids::*;
use keyfold_protocol::{limits, transcript, wire};
use std::collections::HashSet;
use std::future::Future;
use std::io;
use std::path::Path;
use std::pin::Pin;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};

/// Until something that has to happen is given up.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// An enclave without secrets; its controls are shared by all its boots.
#[derive(Default)]
pub(crate) struct Pretender {
    pub(crate) boots: AtomicU32,
    /// Dies instead of answering the next frames of these kinds.
    pub(crate) die_at: Mutex<Vec<Kind>>,
    /// Refuses the next frame of a kind.
    pub(crate) refuse: Mutex<Option<(Kind, HostRefusal)>>,
    /// Tells so many clients no, which the host cannot see.
    pub(crate) decline: AtomicUsize,
    /// Finds so many accounts locked.
    pub(crate) locked: AtomicUsize,
    /// Makes the next commits those of a closed account.
    pub(crate) closing: AtomicUsize,
    /// Reports made so far: for the key's release, and for clients.
    pub(crate) reports: [AtomicU32; 2],
    /// Replies that wait for others before they are written: how the host pipelines.
    pub(crate) coalesce: AtomicUsize,
}

/// Kinds of frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Configure,
    ReleaseClaims,
    Unlock,
    Evidence,
    OpenSession,
    Handle,
    Commit,
    Settle,
}

/// One link to a [`Pretender`].
pub(crate) struct Socket(pub Arc<Pretender>);

impl Connect for Socket {
    fn describe(&self) -> String {
        "a pretender".into()
    }

    fn connect(&self) -> Pin<Box<dyn Future<Output = io::Result<Connection>> + Send + '_>> {
        let (host, enclave) = tokio::io::duplex(256 * 1024);
        let boot = self.0.boots.fetch_add(1, Ordering::SeqCst);
        tokio::spawn(serve(self.0.clone(), enclave, boot));
        let (reader, writer) = tokio::io::split(host);
        let connection =
            Connection { reader: Box::new(reader), writer: Box::new(writer), process: None };
        Box::pin(std::future::ready(Ok(connection)))
    }
}

async fn serve(pretender: Arc<Pretender>, mut stream: DuplexStream, boot: u32) {
    let mut sessions = HashSet::new();
    let mut out = vec![0; limits::FRAME];
    let mut held = Vec::new();
    while let Ok(length) = stream.read_u32_le().await {
        let mut frame = vec![0; length as usize];
        if stream.read_exact(&mut frame).await.is_err() {
            return;
        }
        let request: HostRequest = wire::decode(&frame).expect("a well-formed frame");
        let kind = kind_of(&request);
        let died = {
            let mut die_at = pretender.die_at.lock().unwrap();
            let at = die_at.iter().position(|at| *at == kind);
            at.map(|at| die_at.remove(at)).is_some()
        };
        if died {
            return;
        }
        let used = answer(&pretender, kind, &request, boot, &mut sessions, &mut out);
        held.extend_from_slice(&u32::try_from(used).unwrap().to_le_bytes());
        held.extend_from_slice(&out[..used]);
        if kind == Kind::Handle && takes_one(&pretender.coalesce) {
            continue;
        }
        if stream.write_all(&std::mem::take(&mut held)).await.is_err() {
            return;
        }
    }
}

fn takes_one(left: &AtomicUsize) -> bool {
    left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)).is_ok()
}

fn kind_of(request: &HostRequest) -> Kind {
    match request {
        HostRequest::Configure(_) => Kind::Configure,
        HostRequest::ReleaseClaims => Kind::ReleaseClaims,
        HostRequest::Unlock(_) => Kind::Unlock,
        HostRequest::Evidence => Kind::Evidence,
        HostRequest::OpenSession(_) => Kind::OpenSession,
        HostRequest::Handle(_) => Kind::Handle,
        HostRequest::Commit(_) => Kind::Commit,
        HostRequest::Settle(_) => Kind::Settle,
    }
}

fn answer(
    pretender: &Pretender, kind: Kind, request: &HostRequest, boot: u32,
    sessions: &mut HashSet<SessionId>, out: &mut [u8],
) -> usize {
    let refused = {
        let mut refuse = pretender.refuse.lock().unwrap();
        match *refuse {
            Some((at, refusal)) if at == kind => {
                *refuse = None;
                Some(refusal)
            }
            _ => None,
        }
    };
    if let Some(refusal) = refused {
        return wire::encode(&HostReply::Refused(refusal), out).unwrap();
    }
    let channel_key = match kind {
        Kind::Evidence | Kind::OpenSession => channel_key(boot),
        _ => Vec::new(),
    };
    let claims = match kind {
        Kind::ReleaseClaims => numbered("release", &pretender.reports[0]),
        Kind::Evidence => numbered("channel", &pretender.reports[1]),
        _ => String::new(),
    };
    let reply = match request {
        HostRequest::Configure(_) => HostReply::Configured(Digest([1; 32])),
        HostRequest::ReleaseClaims => {
            let claims = claims.as_bytes();
            HostReply::ReleaseClaims(Evidence { claims, report: &[0; limits::REPORT] })
        }
        HostRequest::Unlock(unlock) => {
            HostReply::Unlocked(Digest(sha256(&[b"root", unlock.wrapped])))
        }
        HostRequest::Evidence => HostReply::Evidence(ChannelEvidence {
            channel_key: &channel_key,
            evidence: Evidence { claims: claims.as_bytes(), report: &[7; limits::REPORT] },
        }),
        HostRequest::OpenSession(open) => {
            assert_eq!(open.channel_key, ChannelKeyId(sha256(&[&channel_key])));
            let session = transcript::session_id(sha256, open.encapsulated_key);
            sessions.insert(session);
            HostReply::Session(session)
        }
        HostRequest::Handle(handle) if !sessions.contains(&handle.session) => {
            HostReply::Refused(HostRefusal::UnknownSession)
        }
        HostRequest::Handle(_) if takes_one(&pretender.decline) => {
            HostReply::Reply(Reply { sealed: b"SEALED no", put: None })
        }
        HostRequest::Handle(_) if takes_one(&pretender.locked) => {
            HostReply::Locked(b"SEALED locked")
        }
        HostRequest::Handle(handle) => return work(handle, out),
        HostRequest::Commit(commit) => {
            let version = commit.staged.version.0;
            assert!(commit.receipt.starts_with(&[0xd2, 0x84]), "a COSE receipt");
            assert!(commit.staged.sealed.starts_with(b"STAGED"));
            let guard = [b"LIVE", commit.staged.sealed].concat();
            let sealed = format!("SEALED guard {version}");
            let charged = commit.staged.sealed.starts_with(CHARGE);
            let next = match (charged, takes_one(&pretender.closing)) {
                (true, _) => Next::Settle,
                (false, true) => Next::Closed(sealed.as_bytes()),
                (false, false) => Next::Answer(sealed.as_bytes()),
            };
            let is_outcome = commit.staged.sealed.starts_with(b"STAGED outcome");
            let audit: &[u8] = if is_outcome { b"AUDIT outcome" } else { b"AUDIT" };
            let committed = Committed { version, guard: &guard, audit, next };
            return wire::encode(&HostReply::Committed(committed), out).unwrap();
        }
        // Always the same of the same.
        HostRequest::Settle(settle) => {
            let charged = settle.guard.sealed.strip_prefix(b"LIVE").expect("a live guard");
            assert!(charged.starts_with(CHARGE), "a charged try");
            let guard = [b"STAGED outcome of ", charged].concat();
            let staged = Staged {
                tag: tag(&settle.account),
                version: settle.guard.version.0 + 1,
                digest: Digest(sha256(&[&guard])),
                guard: &guard,
            };
            return wire::encode(&HostReply::Staged(staged), out).unwrap();
        }
    };
    wire::encode(&reply, out).unwrap()
}

/// Claims that tell each report from the one before.
fn numbered(role: &str, reports: &AtomicU32) -> String {
    let number = reports.fetch_add(1, Ordering::SeqCst);
    format!("{{\"role\":\"{role}\",\"report\":{number}}}")
}

pub(crate) fn channel_key(boot: u32) -> Vec<u8> {
    boot.to_be_bytes().into_iter().cycle().take(limits::CHANNEL_KEY).collect()
}

/// The ledger's name of an account, as the pretender has it.
pub(crate) fn tag(account: &Account) -> LedgerTag {
    LedgerTag(sha256(&[b"tag", &account.id.0, &account.generation.to_be_bytes()]))
}

/// Does what the class asks for; the sealed answer tells what was attached.
fn work(handle: &Handle, out: &mut [u8]) -> usize {
    let version = |attached: &Option<Attached>| attached.as_ref().map_or(0, |it| it.version.0);
    let (guard, vault) = (version(&handle.guard), version(&handle.vault));
    let events = handle.events.map(|event| event.expect("an event")).collect::<Vec<_>>();
    let records = events.iter().filter(|event| event.record.is_some()).count();
    let sealed = format!(
        "SEALED guard {guard} vault {vault} record {} events {} records {records} audit {} fresh {}",
        version(&handle.record),
        events.len(),
        handle.audit.collect::<Result<Vec<_>, _>>().expect("audit events").len(),
        handle.fresh.is_some(),
    );
    let charges = handle.class == Class::Recover;
    let follows = handle.class == Class::Enroll && handle.account.generation > 1;
    assert!(!follows || handle.guard.is_some(), "the account before is not attached");
    let staged_guard = [if charges { CHARGE } else { b"STAGED" }, handle.frame].concat();
    let vault_blob = format!("VAULT {}", vault + 1);
    let reply = match handle.class {
        Class::Enroll | Class::Guard | Class::GuardFresh | Class::Recover => {
            HostReply::Staged(Staged {
                tag: tag(&handle.account),
                // A first version, whatever the account before ended with.
                version: if handle.class == Class::Enroll { 1 } else { guard + 1 },
                digest: Digest(sha256(&[handle.frame])),
                guard: &staged_guard,
            })
        }
        Class::Put(slot) => HostReply::Reply(Reply {
            sealed: sealed.as_bytes(),
            put: Some(Put {
                guard,
                event: Event {
                    version: vault + 1,
                    slot: slot.unwrap_or(SlotId([9; 32])),
                    action: Action::Put,
                    digest: Digest([3; 32]),
                },
                vault: vault_blob.as_bytes(),
                record: Some(b"RECORD"),
                only_if_empty: slot == Some(ONLY_IF_EMPTY),
            }),
        }),
        _ => HostReply::Reply(Reply { sealed: sealed.as_bytes(), put: None }),
    };
    wire::encode(&reply, out).unwrap()
}

/// Begins the staged guard of a charged try.
const CHARGE: &[u8] = b"STAGED charge";
/// Puts of this slot replace nothing.
pub(crate) const ONLY_IF_EMPTY: SlotId = SlotId([7; 32]);

/// A root key without a cloud.
pub(crate) struct GivenKey;

impl KeyRelease for GivenKey {
    fn endorse<'a>(&'a self, _: &'a [u8], _: bool, _: &'a Journal) -> Asking<'a, Endorsements> {
        Box::pin(std::future::ready(Ok(endorsements())))
    }

    fn release<'a>(
        &'a self, _: &'a [u8], _: &'a [u8], _: &'a Endorsements, _: &'a Journal,
    ) -> Asking<'a, Released> {
        let released = Released { wrapped: b"wrapped".to_vec(), algorithm: KeyWrap::Sha256 };
        Box::pin(std::future::ready(Ok(released)))
    }
}

/// What stands behind a pretender's report.
pub(crate) fn endorsements() -> Endorsements {
    Endorsements { vcek_chain: "PEM".into(), uvm_endorsement: None, mismatch: None }
}

/// The dev cloud and what hosts beside it share.
pub(crate) struct World {
    pub(crate) cloud: DevCloud,
    pub(crate) dir: TempDir,
    pub(crate) pretender: Arc<Pretender>,
    pub(crate) http: reqwest::Client,
    encapsulations: AtomicU32,
}

impl World {
    pub(crate) async fn new() -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let config = dev::Config {
            key_cache: Some(Path::new(env!("CARGO_TARGET_TMPDIR")).join("dev-cloud-keys")),
            ..dev::Config::new(dir.path().join("cloud"))
        };
        let cloud = DevCloud::start(config).await.expect("the dev cloud");
        std::fs::write(dir.path().join("statement.json"), "{\"the\":\"statement\"}").unwrap();
        let http = reqwest::Client::new();
        Self { cloud, dir, pretender: Arc::default(), http, encapsulations: 0.into() }
    }

    pub(crate) fn config(&self, overrides: &[(&str, &str)]) -> Config {
        let at = self.cloud.endpoints();
        let text = format!(
            r#"
            [deployment]
            name = "test"
            statement = "{dir}/statement.json"
            [listen]
            public = "127.0.0.1:0"
            admin = "127.0.0.1:0"
            [identity]
            issuer = "{issuer}"
            audience = "keyfold"
            [storage]
            path = "{dir}/host.db"
            [ledger]
            url = "{ledger}"
            issuer = "keyfold-dev-ledger"
            service_key = """{service_key}"""
            timeout_seconds = 2
            request_timeout_seconds = 1
            [azure]
            imds_url = "{imds}"
            maa_url = "{maa}"
            hsm_url = "{hsm}"
            hsm_name = "{hsm_name}"
            hsm_roots = "{hsm_roots}"
            key_name = "keyfold-root"
            endorsement_cache = "{dir}/endorsements"
            [[enclave]]
            transport = "pipe"
            command = "/does/not/run"
            "#,
            dir = self.dir.path().display(),
            issuer = at.oidc.issuer,
            ledger = at.ledger.url,
            service_key = at.ledger.service_key_pem,
            imds = at.imds.url,
            maa = at.maa.url,
            hsm = at.hsm.url,
            hsm_name = at.hsm.host_name,
            hsm_roots = at.hsm.root_certificate.display(),
        );
        let overrides = overrides
            .iter()
            .map(|(key, value)| (format!("KEYFOLD_HOST__{key}"), (*value).to_owned()));
        Config::parse(&text, overrides).expect("the configuration")
    }

    /// A host with one link to the pretender.
    pub(crate) async fn host(&self) -> Host {
        self.host_with(self.config(&[]), None).await
    }

    pub(crate) async fn host_with(
        &self, config: Config, storage: Option<Arc<dyn Storage>>,
    ) -> Host {
        let connectors: Vec<Arc<dyn Connect>> = vec![Arc::new(Socket(self.pretender.clone()))];
        let mut builder = Host::builder(config).connectors(connectors).release(Arc::new(GivenKey));
        if let Some(storage) = storage {
            builder = builder.storage(storage);
        }
        let host = builder.start().await.expect("the host");
        assert!(host.ready(PATIENCE).await, "the link is not ready");
        host
    }

    /// The database, beside any host.
    pub(crate) fn storage(&self) -> Sqlite {
        let path = self.dir.path().join("host.db");
        Sqlite::open(&sqlite::Options::new(path)).expect("the database")
    }

    pub(crate) fn token(&self, name: &str) -> String {
        self.token_with(SignIn { username: name.into(), ..SignIn::default() })
    }

    pub(crate) fn token_with(&self, request: SignIn) -> String {
        self.cloud.sign_in(&request).expect("a token")
    }

    /// The account of a token's person.
    pub(crate) fn account(&self, token: &str) -> Account {
        use base64::Engine;
        let payload = token.split('.').nth(1).expect("a payload");
        let payload = base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(payload).unwrap();
        let claims: serde_json::Value = serde_json::from_slice(&payload).unwrap();
        let text = |name: &str| claims[name].as_str().expect(name).to_owned();
        let id = transcript::account_id(sha256, &text("iss"), &text("sub"));
        Account { id, generation: 1 }
    }

    pub(crate) async fn person<'a>(&'a self, host: &Host, name: &str) -> Person<'a> {
        let token = self.token(name);
        let account = self.account(&token);
        let base = format!("http://{}", host.public_address());
        let mut person =
            Person { world: self, base, token, account, session: String::new(), frames: 0 };
        person.open_session().await;
        person
    }
}

/// Someone with a token and a session.
pub(crate) struct Person<'a> {
    pub(crate) world: &'a World,
    pub(crate) base: String,
    pub(crate) token: String,
    pub(crate) account: Account,
    pub(crate) session: String,
    pub(crate) frames: u64,
}

/// An answer, read to its end.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: reqwest::header::HeaderMap,
    pub(crate) body: Bytes,
}

impl Answer {
    pub(crate) async fn of(response: reqwest::Response) -> Self {
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        Self { status, headers, body: response.bytes().await.expect("a body") }
    }

    pub(crate) fn text(&self) -> &str {
        std::str::from_utf8(&self.body).expect("text")
    }

    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).expect("JSON")
    }

    /// Name of the problem; checks that it is a whole problem document.
    pub(crate) fn problem(&self) -> String {
        let problem = self.json();
        assert_eq!(self.headers["content-type"], "application/problem+json");
        assert_eq!(problem["status"], self.status);
        assert_eq!(problem["instance"], self.headers["x-request-id"].to_str().unwrap());
        assert!(problem["detail"].as_str().is_some_and(|detail| detail.ends_with('.')));
        let name = problem["type"].as_str().expect("a type");
        name.strip_prefix("/problems/").expect("a problem type").to_owned()
    }
}

impl Person<'_> {
    pub(crate) async fn open_session(&mut self) {
        let boot = self.world.pretender.boots.load(Ordering::SeqCst) - 1;
        let answer = self.try_session(&channel_key(boot)).await;
        assert_eq!(answer.status, 201, "{}", answer.text());
        self.session = answer.json()["session"].as_str().unwrap().to_owned();
    }

    pub(crate) async fn try_session(&mut self, key: &[u8]) -> Answer {
        self.frames += 1;
        let unique = self.world.encapsulations.fetch_add(1, Ordering::SeqCst);
        let mut enc = vec![0; limits::ENCAPSULATED_KEY];
        enc[..4].copy_from_slice(&unique.to_be_bytes());
        let body = [&sha256(&[key])[..], &enc].concat();
        let request = self.world.http.post(format!("{}/v1/sessions", self.base));
        Answer::of(request.bearer_auth(&self.token).body(body).send().await.unwrap()).await
    }

    /// The envelope of a new frame.
    pub(crate) fn envelope(&mut self, class: Class) -> Vec<u8> {
        self.frames += 1;
        let frame =
            format!("FRAME of {} number {} in {}", self.account.id, self.frames, self.session);
        self.envelope_of(class, frame.as_bytes())
    }

    pub(crate) fn envelope_of(&self, class: Class, frame: &[u8]) -> Vec<u8> {
        let envelope = Envelope { account: self.account, counter: self.frames, class, frame };
        let mut body = vec![0; frame.len() + 256];
        let used = wire::encode(&envelope, &mut body).unwrap();
        body.truncate(used);
        body
    }

    pub(crate) fn post(&self, body: Vec<u8>) -> reqwest::RequestBuilder {
        let url = format!("{}/v1/sessions/{}/requests", self.base, self.session);
        self.world.http.post(url).bearer_auth(&self.token).body(body)
    }

    pub(crate) async fn request(&mut self, class: Class) -> Answer {
        let body = self.envelope(class);
        Answer::of(self.post(body).send().await.unwrap()).await
    }

    /// A request that succeeds; what the pretender said.
    pub(crate) async fn ask(&mut self, class: Class) -> String {
        let answer = self.request(class).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        answer.text().to_owned()
    }
}

/// Waits until something holds.
pub(crate) async fn eventually<F: Future<Output = bool>>(what: &str, holds: impl Fn() -> F) {
    let started = std::time::Instant::now();
    while !holds().await {
        assert!(started.elapsed() < PATIENCE, "still not: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
