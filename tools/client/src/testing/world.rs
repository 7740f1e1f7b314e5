//! A host with an enclave behind it, over a model of an account that a test can roll back.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};

use axum::body::{Bytes as Body, to_bytes};
use axum::extract::{Path, Request as HttpRequest, State as Extract};
use axum::http::{HeaderMap, StatusCode};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post, put};
use axum::{Json, Router};
use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use keyfold_attestation_policy::signing::{SigningKey, assemble_statement};
use keyfold_attestation_policy::trust_root::TrustRoot;
use keyfold_protocol::client::*;
use keyfold_protocol::ids::*;
use keyfold_protocol::{transcript, wire};
use serde_json::{Value, json};

use super::enclave::{CHAIN, Enclave, ROOT};
use super::issuer::{CLIENT, Issuer};
use super::model::{Model, id_of};
use crate::client::Client;
use crate::crypto::sha256;
use crate::deployment::{Settings, now};
use crate::device::SoftwareKeys;
use crate::identity::DevSignIn;
use crate::store::{AccountState, Store};

/// See [`State::edit`].
type Edit = Box<dyn FnMut(&mut Success) + Send>;
/// See [`State::relay`].
type Relay = Box<dyn FnMut(Vec<u8>) -> Option<Vec<u8>> + Send>;
/// Called before a request is handled, with the name of its class. `Some` answers in its place.
type Hook = Box<dyn FnMut(&mut State, &str) -> Option<(u16, &'static str)> + Send>;

/// A deployment.
pub(crate) struct World {
    pub(crate) url: String,
    pub(crate) issuer: Issuer,
    pub(crate) trust_root: TrustRoot,
    shared: Arc<Mutex<State>>,
    directory: tempfile::TempDir,
}

/// What the host and the enclave hold.
pub(crate) struct State {
    pub(crate) enclave: Enclave,
    pub(crate) accounts: BTreeMap<Account, Model>,
    pub(crate) document: Value,
    /// Mailboxes, by path.
    pub(crate) mailboxes: BTreeMap<String, Vec<u8>>,
    pub(crate) hook: Option<Hook>,
    /// Changes a success before it is sealed: what only a wrong core could say.
    pub(crate) edit: Option<Edit>,
    /// Changes a sealed reply on its way; `None` loses it.
    pub(crate) relay: Option<Relay>,
    /// Names of the classes handled, and "session" for each session opened.
    pub(crate) log: Vec<String>,
    /// Every request whatever its path, as it arrived.
    pub(crate) received: Vec<Received>,
    pub(crate) page: usize,
    /// What the enclave refuses everything with.
    pub(crate) refuse: Option<Refusal>,
    /// What the host says of an account's standing in place of the truth.
    pub(crate) hint: Option<Value>,
    /// The guard versions that recoveries were signed for.
    pub(crate) tried: Vec<u64>,
    /// The highest guard version the last request was signed with.
    pub(crate) guard_seen: u64,
}

/// A request, before anything was made of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Received {
    /// Method and path with query.
    pub(crate) line: String,
    /// Names of the headers, sorted.
    pub(crate) headers: Vec<String>,
    pub(crate) body: Vec<u8>,
}

impl State {
    fn latest(&self, person: AccountId) -> Option<(&Account, &Model)> {
        let of = |account: &Account| account.id == person;
        self.accounts.iter().filter(|(account, _)| of(account)).max_by_key(|(at, _)| at.generation)
    }
}

/// The name of a class, without its argument.
fn class_name(class: Class) -> String {
    let text = format!("{class:?}").to_lowercase();
    text.split('(').next().unwrap().to_owned()
}

impl World {
    pub(crate) async fn start() -> Self {
        let issuer = Issuer::start().await;
        let enclave = Enclave::boot();
        let shared = Arc::new(Mutex::new(State {
            enclave,
            accounts: BTreeMap::new(),
            document: Value::Null,
            mailboxes: BTreeMap::new(),
            hook: None,
            edit: None,
            relay: None,
            log: Vec::new(),
            received: Vec::new(),
            page: 64,
            refuse: None,
            hint: None,
            tried: Vec::new(),
            guard_seen: 0,
        }));
        let router = Router::new()
            .route("/v1/account", get(account))
            .route("/v1/deployment", get(deployment))
            .route("/v1/sessions", post(open_session))
            .route("/v1/sessions/{id}/requests", post(request))
            .route("/v1/pairings/{id}/{mailbox}", put(put_pairing).get(get_pairing))
            .with_state(shared.clone())
            .layer(from_fn_with_state(shared.clone(), receive));
        let url = super::serve(router).await;
        let signer = signer();
        let trust_root = TrustRoot::new(1, 1, vec![signer.public_key()]).unwrap();
        let directory = tempfile::tempdir().unwrap();
        let world = Self { url, issuer, trust_root, shared, directory };
        world.serve_statement(|_| {});
        world.reboot();
        world
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.shared.lock().unwrap()
    }

    /// Another boot of the enclave: new channel key, no sessions.
    pub(crate) fn reboot(&self) {
        let mut state = self.state();
        state.enclave = Enclave::boot();
        let claims = state.enclave.claims();
        let encode = |bytes: &[u8]| BASE64_URL_SAFE_NO_PAD.encode(bytes);
        state.document["enclaves"] = json!([{
            "channel_key": encode(&state.enclave.channel_key()),
            "claims": encode(&claims),
            "report": encode(&Enclave::report(&claims)),
            "vcek_chain": CHAIN,
        }]);
    }

    /// Signs and serves a statement, changed by `edit`.
    pub(crate) fn serve_statement(&self, edit: impl FnOnce(&mut Value)) {
        let now = now().unwrap().unix_seconds();
        let time = |seconds| {
            let time = keyfold_attestation_policy::values::Timestamp::from_unix_seconds(seconds);
            serde_json::to_value(time.unwrap()).unwrap()
        };
        let mut statement = json!({
            "name": "test", "serial": 7, "issued": time(now - 60), "expires": time(now + 86_400),
            "url": self.url,
            "identity": {"issuer": self.issuer.url, "client_id": CLIENT, "audience": CLIENT},
            "config": "11".repeat(32), "root": hex::encode(ROOT),
            "workloads": [serde_json::to_value(Enclave::workload()).unwrap()],
        });
        edit(&mut statement);
        let payload = serde_json::to_vec(&statement).unwrap();
        let signature = signer().sign_statement(&payload).unwrap();
        let signed = assemble_statement(&payload, vec![signature], &self.trust_root).unwrap();
        self.state().document["statement"] = String::from_utf8(signed).unwrap().into();
    }

    pub(crate) fn settings(&self) -> Settings {
        let (url, trust_root) = (self.url.clone(), self.trust_root.clone());
        Settings { url, trust_root, minimum_serial: 1 }
    }

    pub(crate) fn store(&self, directory: &str) -> Store {
        Store::open(self.directory.path().join(directory)).unwrap()
    }

    /// A new device, its keys in memory, its state in `directory`.
    pub(crate) fn client(&self, directory: &str, username: &str) -> Client {
        self.client_with(directory, username, Arc::new(SoftwareKeys::generate()))
    }

    pub(crate) fn client_with(
        &self, directory: &str, username: &str, keys: Arc<SoftwareKeys>,
    ) -> Client {
        let source = Arc::new(DevSignIn::new(username).unwrap());
        Client::new(self.settings(), self.store(directory), keys, source).unwrap()
    }

    /// Ana's laptop, registered without the tenth of a second that stretching a PIN takes.
    pub(crate) fn enrolled(&self, keys: Arc<SoftwareKeys>) -> Client {
        let client = self.client_with("laptop", "ana", keys);
        let id = transcript::account_id(sha256, &self.issuer.url, "subject of ana");
        let account = Account { id, generation: 1 };
        let device = client.device("laptop".try_into().unwrap());
        let enroll = Enroll { pin: StretchedPin([9; 32]), device: device.clone() };
        let model = Model::new(&account, enroll);
        let mut state = AccountState::new(account, id_of(&device), device.name);
        state.registered = true;
        state.guard_seen = 1;
        state.audit = model.audit_point(&account, 1);
        state.anchor_of = 1;
        state.anchor_tried = now().unwrap().unix_seconds();
        self.state().accounts.insert(account, model);
        let known = |to: &mut crate::store::State| {
            to.account = Some(state);
            Ok::<_, crate::Error>(())
        };
        client.store().update(known).unwrap();
        client
    }

    /// The first account.
    pub(crate) fn with_account<T>(&self, change: impl FnOnce(&mut Model) -> T) -> T {
        change(self.state().accounts.values_mut().next().unwrap())
    }

    /// What was logged since the last call.
    pub(crate) fn log(&self) -> Vec<String> {
        std::mem::take(&mut self.state().log)
    }

    /// What arrived since the last call, byte by byte.
    pub(crate) fn received(&self) -> Vec<Received> {
        std::mem::take(&mut self.state().received)
    }

    /// From now on, before every request.
    pub(crate) fn hook(
        &self, hook: impl FnMut(&mut State, &str) -> Option<(u16, &'static str)> + Send + 'static,
    ) {
        self.state().hook = Some(Box::new(hook));
    }
}

/// One offline key, the same every time.
fn signer() -> SigningKey {
    let mut pkcs8 = hex::decode("302e020100300506032b657004220420").unwrap();
    pkcs8.extend([0x42; 32]);
    SigningKey::from_pkcs8(&pkcs8).unwrap()
}

type Shared = Extract<Arc<Mutex<State>>>;

/// Notes every request, those that no route takes as well.
async fn receive(Extract(shared): Shared, request: HttpRequest, next: Next) -> Response {
    let (head, body) = request.into_parts();
    let body = to_bytes(body, usize::MAX).await.unwrap();
    let mut headers: Vec<String> = head.headers.keys().map(ToString::to_string).collect();
    headers.sort();
    let line = format!("{} {}", head.method, head.uri);
    shared.lock().unwrap().received.push(Received { line, headers, body: body.to_vec() });
    next.run(HttpRequest::from_parts(head, body.into())).await
}

async fn deployment(Extract(shared): Shared) -> Response {
    let mut state = shared.lock().unwrap();
    state.log.push("deployment".into());
    if let Some(refused) = run_hook(&mut state, "deployment") {
        return refused;
    }
    Json(state.document.clone()).into_response()
}

/// Where a person's latest account stands.
async fn account(Extract(shared): Shared, headers: HeaderMap) -> Response {
    let mut state = shared.lock().unwrap();
    state.log.push("account".into());
    if let Some(refused) = run_hook(&mut state, "account") {
        return refused;
    }
    let Some(person) = person(&headers) else { return problem(401, "sign-in-required") };
    if let Some(hint) = &state.hint {
        return Json(hint.clone()).into_response();
    }
    match state.latest(person) {
        Some((account, model)) => Json(json!({
            "generation": account.generation,
            "closed": model.devices.is_empty(),
            "guard": model.guard,
            "vault": model.events.len(),
        }))
        .into_response(),
        None => problem(404, "account-unknown"),
    }
}

async fn open_session(Extract(shared): Shared, headers: HeaderMap, body: Body) -> Response {
    let mut state = shared.lock().unwrap();
    state.log.push("session".into());
    if let Some(refused) = run_hook(&mut state, "session") {
        return refused;
    }
    if person(&headers).is_none() {
        return problem(401, "sign-in-required");
    }
    if !state.enclave.is_for(&body) {
        return problem(409, "channel-key-unknown");
    }
    let id = state.enclave.open_session(&body);
    (StatusCode::CREATED, Json(json!({"session": id.to_string()}))).into_response()
}

async fn request(
    Extract(shared): Shared, Path(session): Path<String>, headers: HeaderMap, body: Body,
) -> Response {
    let mut state = shared.lock().unwrap();
    let envelope: Envelope = wire::decode(&body).unwrap();
    let class = class_name(envelope.class);
    state.log.push(class.clone());
    if let Some(refused) = run_hook(&mut state, &class) {
        return refused;
    }
    let session = SessionId(hex::decode(session).unwrap().try_into().unwrap());
    match person(&headers) {
        None => return problem(401, "sign-in-required"),
        Some(person) if person != envelope.account.id => return problem(403, "account-mismatch"),
        Some(_) => {}
    }
    if !state.enclave.knows(&session) {
        return problem(409, "session-unknown");
    }
    if envelope.class != Class::Enroll && !state.accounts.contains_key(&envelope.account) {
        return problem(404, "account-unknown");
    }
    if envelope.class == Class::Enroll {
        let latest = state.latest(envelope.account.id);
        let next = latest.map_or(1, |(at, it)| at.generation + u32::from(it.devices.is_empty()));
        let is_open = latest.is_some_and(|(_, it)| !it.devices.is_empty());
        if envelope.account.generation < next || is_open {
            return problem(409, "guard-moved");
        }
        assert_eq!(envelope.account.generation, next, "a generation skipped");
    }
    let sealed = handle(&mut state, &session, &envelope);
    let sealed = match &mut state.relay {
        Some(relay) => relay(sealed),
        None => Some(sealed),
    };
    match sealed {
        Some(sealed) => sealed.into_response(),
        None => problem(500, "lost"),
    }
}

fn run_hook(state: &mut State, name: &str) -> Option<Response> {
    let mut hook = state.hook.take()?;
    let answer = hook(state, name);
    // A hook may have put another in its place.
    state.hook.get_or_insert(hook);
    answer.map(|(status, name)| problem(status, name))
}

fn problem(status: u16, name: &str) -> Response {
    let body = json!({"type": format!("/problems/{name}"), "title": name, "status": status,
        "detail": "do something", "instance": "r-1"});
    (StatusCode::from_u16(status).unwrap(), Json(body)).into_response()
}

/// Whose bearer token it is. The host's checks of it are not this crate's to test.
fn person(headers: &HeaderMap) -> Option<AccountId> {
    let token = headers.get("authorization")?.to_str().ok()?.strip_prefix("Bearer ")?;
    let claims = BASE64_URL_SAFE_NO_PAD.decode(token.split('.').nth(1)?).ok()?;
    let claims: Value = serde_json::from_slice(&claims).ok()?;
    let (issuer, subject) = (claims["iss"].as_str()?, claims["sub"].as_str()?);
    Some(transcript::account_id(sha256, issuer, subject))
}

async fn put_pairing(
    Extract(shared): Shared, Path((id, mailbox)): Path<(String, String)>, body: Body,
) -> Response {
    let mut state = shared.lock().unwrap();
    let path = format!("{id}/{mailbox}");
    if state.mailboxes.contains_key(&path) {
        return problem(409, "pairing-used");
    }
    state.mailboxes.insert(path, body.to_vec());
    StatusCode::NO_CONTENT.into_response()
}

async fn get_pairing(
    Extract(shared): Shared, Path((id, mailbox)): Path<(String, String)>,
) -> Response {
    let state = shared.lock().unwrap();
    match state.mailboxes.get(&format!("{id}/{mailbox}")) {
        Some(message) => message.clone().into_response(),
        None => problem(404, "pairing-empty"),
    }
}

/// The core, as far as clients can tell.
fn handle(state: &mut State, session: &SessionId, envelope: &Envelope) -> Vec<u8> {
    let State { enclave, accounts, edit, page, refuse, tried, .. } = state;
    let Envelope { account, counter, class, frame } = *envelope;
    let opened = enclave.open_request(session, &account, counter, frame).unwrap();
    let signed: SignedRequest = wire::decode_padded(&opened).unwrap();
    let request: Request = wire::decode(signed.request).unwrap();
    assert!(request.matches(class), "{request:?} under {class:?}");
    let mut items = Vec::new();
    state.guard_seen = signed.guard_seen;
    if let Request::Enroll(enroll) = &request {
        accounts.insert(account, Model::new(&account, enroll.clone()));
    }
    let newcomer = match &request {
        Request::Recover(recover) => {
            tried.push(recover.guard);
            Some(recover.device.clone())
        }
        _ => None,
    };
    let model = accounts.get_mut(&account).unwrap();
    let binding = enclave.binding(session);
    let (device, key, guard_seen) = (signed.device, signed.key, signed.guard_seen);
    let context = transcript::SignedContext {
        binding: &binding,
        counter,
        account: &account,
        key,
        guard_seen,
    };
    let message = transcript::signed_bytes(sha256, &context, signed.request);
    let signature = &signed.signature;
    let mut outcome = match model.authorised(newcomer, &device, key, &message, signature) {
        _ if refuse.is_some() => Err(refuse.take().unwrap_or(Refusal::Malformed)),
        true => model.perform(&account, device, key, request, *page, &mut items),
        false => Err(Refusal::Unauthorised),
    };
    if let (Ok(success), Some(edit)) = (&mut outcome, edit) {
        edit(success);
    }
    enclave.seal_reply(session, frame, &outcome, class.reply_size(*page))
}
